//! Caps on the wire: what the executor asks, what the agent answers.

use crate::ids::{AgentId, DeviceId};
use crate::quantity::Watts;
use crate::time::Timestamp;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// By how much the clocks of an agent and of the controller may differ. A
/// command that is older or younger than that, its length included, is refused:
/// it may be one of another time that somebody sends again. Within it only a
/// lease's length counts, from its receipt on the agent's own clock.
pub const CLOCK_BOUND: Duration = Duration::from_secs(900);

/// A cap with an expiry. When it is not renewed in time, the agent sets the
/// device's safe cap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapLease {
    /// Which device.
    pub device: DeviceId,
    /// The UUID that the device had when the cap was decided; the agent
    /// refuses when the device at hand bears another.
    pub uuid: String,
    /// Power limit to set.
    pub cap: Watts,
    /// Set when the lease ends without renewal.
    pub safe_cap: Watts,
}

/// All leases for one agent, in one message. A later sequence number replaces
/// an earlier one; an agent ignores what is older than what it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapCommand {
    /// Grows with every command of one controller run.
    pub sequence: u64,
    /// Names the controller run, so that a restarted controller's numbering is not mistaken for old commands.
    pub controller: String,
    /// Number of the lock under which the controller is in charge. Agents
    /// remember the highest that they have seen and refuse what bears a lower one.
    #[serde(default)]
    pub fence: u64,
    /// When it was decided.
    pub issued: Timestamp,
    /// When it ends.
    pub expires: Timestamp,
    /// The caps.
    pub leases: Vec<CapLease>,
}

/// Who is in charge of caps (retained on the broker). It is renewed while its
/// holder lives; where it is not, another controller takes a higher fence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlLock {
    /// The controller run.
    pub holder: String,
    /// Name that the controller keeps over restarts, where it has one: of two
    /// runs of one name only the later lives.
    #[serde(default)]
    pub identity: Option<String>,
    /// Larger than that of every earlier holder.
    pub fence: u64,
    /// When it was taken or renewed last.
    pub renewed: Timestamp,
    /// Given up by its holder: whoever stands by may take over at once.
    #[serde(default)]
    pub released: bool,
}

/// What became of one lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum CapOutcome {
    /// Set and read back; the value is what the device said afterwards.
    Applied {
        /// As read back from the driver.
        readback: Watts,
    },
    /// Not set; the device keeps its limit.
    Refused {
        /// Why, for people.
        reason: String,
        /// The limit it has, if it could be read.
        current: Option<Watts>,
    },
}

/// One device's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapReport {
    /// Which device.
    pub device: DeviceId,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: CapOutcome,
}

/// An agent's answer to a command, or to the end of its leases.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CapAnswer {
    /// Who answers.
    pub agent: AgentId,
    /// Which command; `None` when leases ended and safe caps were set.
    pub sequence: Option<u64>,
    /// The controller run that the command bore.
    pub controller: Option<String>,
    /// The highest fence that the agent has seen.
    #[serde(default)]
    pub fence: u64,
    /// When.
    pub at: Timestamp,
    /// Each device's answer.
    pub reports: Vec<CapReport>,
}

/// What an agent says of itself when it connects (retained on the broker).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentHello {
    /// Who.
    pub agent: AgentId,
    /// Version of the agent.
    pub version: String,
    /// The highest fence that the agent has seen.
    #[serde(default)]
    pub fence: u64,
    /// When.
    pub at: Timestamp,
    /// The devices that it can cap.
    pub devices: Vec<CappableDevice>,
    /// What others than the controller did to their limits.
    #[serde(default, skip_serializing_if = "ForeignChanges::is_none")]
    pub foreign: ForeignChanges,
    /// It is about to stop and would restore what it found: it waits for leases
    /// of that, which the controller gives when there is room for it.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub leaving: bool,
}

/// What an agent has seen others do to limits that it keeps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ForeignChanges {
    /// Limits found changed since the agent was started.
    pub changes: u64,
    /// Of those, limits that were too high and were set back.
    pub corrected: u64,
    /// What goes on now.
    #[serde(default)]
    pub notes: Vec<ForeignNote>,
}

impl ForeignChanges {
    /// Whether nobody did anything.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// One device whose limit somebody else sets, or that does not tell it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ForeignNote {
    /// Which.
    pub device: DeviceId,
    /// What happens to its limit.
    #[serde(flatten)]
    pub what: Foreign,
}

/// What happens to a device's limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum Foreign {
    /// Somebody lowered it. It is left at that, and set no higher.
    Lowered {
        /// What it was lowered to.
        limit: Watts,
        /// By the agent's clock; `None`: until whoever lowered it takes it back.
        until: Option<Timestamp>,
    },
    /// It is raised again and again, by somebody or by resets, and each time set back.
    RaisedAgain {
        /// Since when, by the agent's clock.
        since: Timestamp,
    },
    /// It cannot be read.
    Unreadable,
}

/// A device that an agent can cap: an accelerator; or its node, which then bears
/// the node's name and is limited as a whole, processors and losses included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CappableDevice {
    /// Its name in the site.
    pub device: DeviceId,
    /// Its UUID.
    pub uuid: String,
    /// The product's name as the driver says it.
    pub product: String,
    /// Lowest limit that can be set.
    pub min: Watts,
    /// Highest limit that can be set. While somebody else keeps the device lower
    /// and that is respected, no more than that.
    pub max: Watts,
    /// Limit found at start; restored on a clean stop or after a crash.
    pub found: Watts,
    /// Limit in force now.
    pub current: Watts,
}
