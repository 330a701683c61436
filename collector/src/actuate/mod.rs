//! Actuators: what sets a power limit on a device.
//!
//! | file | devices | limit |
//! |---|---|---|
//! | `nvml.rs` | NVIDIA GPUs, by their driver | each GPU |
//! | `hwmon.rs` | AMD GPUs, by their driver | each GPU |
//! | `redfish.rs` | GPUs or nodes, by their management controller over HTTP | each GPU, or the node |
//! | `ipmi.rs` | a node, by its management controller's DCMI commands | the node |
//! | `steps.rs` | those of management controllers | kept at no more than was asked, whatever their steps |
//! | `paced.rs` | those of any other actuator | as that one's; says how often limits are read back |
//! | `dry_run.rs` | those of any other actuator | none: verifies and says what it would do |

mod before;
pub mod credentials;
pub mod dry_run;
#[cfg(test)]
mod heard;
pub mod hwmon;
pub mod ipmi;
pub mod nvml;
mod paced;
pub mod redfish;
mod steps;
mod verify;

pub use credentials::BmcCredentials;
pub use dry_run::DryRun;
pub use hwmon::HwmonActuator;
pub use ipmi::IpmiActuator;
pub use nvml::NvmlActuator;
pub use paced::Paced;
pub use redfish::RedfishActuator;

use heliostat_models::lease::CappableDevice;
use heliostat_models::{DeviceId, Watts};
use std::time::Duration;

/// Sets power limits. It may block: the agent calls it on a thread of its own.
pub trait CapActuator: Send {
    /// The devices that can be capped, with the limits in force now. `found`
    /// equals `current` here; the agent fills in what it found at start.
    fn devices(&mut self) -> Vec<CappableDevice>;
    /// Sets a limit and says what the device has afterwards, which may differ:
    /// drivers round, and some take a limit and keep another. The device's UUID
    /// and settable range are verified right before the write; nothing is written
    /// when they differ.
    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError>;
    /// The limit in force now.
    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError>;
    /// The settable range now, where it can change while the device is there: by
    /// another driver or firmware, or a person at the management controller.
    fn range(&mut self, _device: &DeviceId) -> Option<(Watts, Watts)> {
        None
    }
    /// Whether [`CapActuator::set`] can change a device. Where it cannot, nothing
    /// needs to be kept for a later restore.
    fn writes(&self) -> bool {
        true
    }
    /// How often limits may be read back; zero: as often as devices are sampled.
    /// Whoever asks over a network asks less often.
    fn look_every(&self) -> Duration {
        Duration::ZERO
    }
    /// How long it may take to restore the limits of all devices, at most two minutes.
    fn restore_within(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// How often a management controller is asked for limits: it is slow, and there
/// for people too.
const CONTROLLER_LOOK: Duration = Duration::from_secs(15);
/// How long a management controller may take to restore limits.
const CONTROLLER_RESTORE: Duration = Duration::from_secs(60);

/// Why a limit was not set or read.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CapError {
    /// This agent does not know the device.
    #[error("{0} is no device of this agent")]
    UnknownDevice(DeviceId),
    /// Another device sits where the one meant was.
    #[error(
        "{device} bears UUID {found}, the cap was decided for {expected}; it was not set, restart the agent if the device was exchanged"
    )]
    WrongDevice {
        /// Which.
        device: DeviceId,
        /// The UUID that the cap was meant for.
        expected: String,
        /// The UUID of the device at hand.
        found: String,
    },
    /// Outside what the device accepts.
    #[error("{cap} is outside the {min} to {max} that {device} accepts; it was not set")]
    OutOfRange {
        /// Which.
        device: DeviceId,
        /// Asked for.
        cap: Watts,
        /// Lowest settable.
        min: Watts,
        /// Highest settable.
        max: Watts,
    },
    /// The operating system or the driver forbids it.
    #[error(
        "the driver does not let this user set the limit of {device}; run the agent as root or with CAP_SYS_ADMIN"
    )]
    NoPermission {
        /// Which.
        device: DeviceId,
    },
    /// The device fell off the bus.
    #[error("{device} is lost: it no longer answers its driver; the node needs a restart")]
    Lost {
        /// Which.
        device: DeviceId,
    },
    /// The device has no settable limit.
    #[error("{device} has no power limit that can be set")]
    NotSupported {
        /// Which.
        device: DeviceId,
    },
    /// A dry run: all was verified, nothing was written.
    #[error("dry run: {device} would have been set to {cap}; it keeps {current}")]
    DryRun {
        /// Which.
        device: DeviceId,
        /// What would have been set.
        cap: Watts,
        /// What it has.
        current: Watts,
    },
    /// A limit that is told, and not acted upon.
    #[error(
        "the limit of {device} is not enforced: its mode is `{mode}`; set it to Automatic or Disabled at the management controller first"
    )]
    NotEnforced {
        /// Which.
        device: DeviceId,
        /// The mode in the controller's words.
        mode: String,
    },
    /// Exceeding the limit would switch the node off.
    #[error(
        "exceeding the limit of {device} powers it off; it was not set: choose another action for that at the management controller first"
    )]
    PowersOff {
        /// Which.
        device: DeviceId,
    },
    /// The management controller, through Redfish.
    #[error("{device}: {error}")]
    Redfish {
        /// Which.
        device: DeviceId,
        /// What it said.
        error: redfish::RedfishError,
    },
    /// The management controller, through IPMI.
    #[error("{device}: {error}")]
    Ipmi {
        /// Which.
        device: DeviceId,
        /// What it said.
        error: ipmi::IpmiError,
    },
    /// The driver said something else.
    #[error("{action} of {device}: {message}")]
    Driver {
        /// Which.
        device: DeviceId,
        /// What was tried.
        action: &'static str,
        /// What the driver said.
        message: String,
    },
}
