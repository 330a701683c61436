//! A node's power limit through its management controller's DCMI commands.
//!
//! ```text
//! Get Power Limit ── active? harmless? ── Set Power Limit ── Activate ── Get Power Limit
//! ```
//!
//! The limit is the whole node's; the node is one device here that bears the
//! node's name. DCMI does not tell the settable range, so that the site's counts,
//! and the controller refuses what it does not take. What happens when the limit
//! is exceeded is never "power off": a limit that would do so is left alone.

mod dcmi;
mod error;
mod wire;

pub use dcmi::{ExceptionAction, PowerLimit, PowerReading};
pub use error::IpmiError;
pub use wire::IpmiAddress;

use super::before::{Before, BeforeFile, is_same};
use super::steps::Steps;
use super::{BmcCredentials, CONTROLLER_LOOK, CONTROLLER_RESTORE, CapActuator, CapError, verify};
use heliostat_models::lease::CappableDevice;
use heliostat_models::{DeviceId, NodeId, Watts};
use std::io;
use std::path::Path;
use std::time::Duration;
use wire::{Ask, Lan, Local, Said, Wire};

/// Longest excess where the controller keeps no time of its own, in milliseconds.
const CORRECTION_MS: u32 = 1_000;
/// Averaging period where the controller keeps none of its own, in seconds.
const SAMPLING_S: u16 = 1;
/// How often a busy controller is asked.
const TRIES: usize = 3;
/// How long a busy controller is left alone.
const PAUSE: Duration = Duration::from_millis(200);

/// Sets the power limit of one node.
pub struct IpmiActuator {
    wire: Box<dyn Wire>,
    node: DeviceId,
    /// The site's lowest and highest power of the node.
    range: (Watts, Watts),
    before: BeforeFile,
    steps: Steps,
    pause: Duration,
}

/// A limit, and whether it is in force.
#[derive(Clone, Copy, Debug)]
struct Now {
    limit: Option<PowerLimit>,
    active: bool,
}

impl IpmiActuator {
    /// Talks to nobody yet: a controller that is away now may come later.
    /// `range` is what the site says of the node; `directory` is the agent's
    /// own, kept over restarts.
    pub fn new(
        address: &IpmiAddress,
        credentials: Option<BmcCredentials>,
        node: &NodeId,
        range: (Watts, Watts),
        directory: &Path,
    ) -> io::Result<Self> {
        let wire: Box<dyn Wire> = match address {
            IpmiAddress::Local(path) => Box::new(Local::new(path.clone())),
            IpmiAddress::Lan(host) => Box::new(Lan::new(host, credentials)),
        };
        Ok(Self {
            wire,
            node: DeviceId::from(node.as_str()),
            range,
            before: BeforeFile::open(directory)?,
            steps: Steps::default(),
            pause: PAUSE,
        })
    }

    /// What the controller measures of the node's power.
    pub fn reading(&mut self) -> Result<PowerReading, IpmiError> {
        let name = "Get Power Reading";
        let data = self.succeed(name, dcmi::NETFN, dcmi::GET_READING, dcmi::get_reading())?;
        dcmi::reading(&data).ok_or_else(|| short(name))
    }

    /// Asks, again where the controller is busy.
    fn ask(
        &mut self,
        name: &'static str,
        netfn: u8,
        command: u8,
        data: Vec<u8>,
    ) -> Result<Said, IpmiError> {
        let ask = Ask {
            name,
            netfn,
            command,
            data,
        };
        let mut tries = 0;
        loop {
            let said = self.wire.ask(&ask)?;
            tries += 1;
            if tries == TRIES || !IpmiError::of_code(name, said.code).is_busy() {
                return Ok(said);
            }
            std::thread::sleep(self.pause);
        }
    }

    /// The data of an answer whose completion code is success.
    fn succeed(
        &mut self,
        name: &'static str,
        netfn: u8,
        command: u8,
        data: Vec<u8>,
    ) -> Result<Vec<u8>, IpmiError> {
        match self.ask(name, netfn, command, data)? {
            Said { code: 0, data } => Ok(data),
            Said { code, .. } => Err(IpmiError::of_code(name, code)),
        }
    }

    fn now(&mut self) -> Result<Now, IpmiError> {
        let name = "Get Power Limit";
        let said = self.ask(name, dcmi::NETFN, dcmi::GET_LIMIT, dcmi::get_limit())?;
        let limit = dcmi::limit(&said.data);
        match said.code {
            0 => Ok(Now {
                limit: Some(limit.ok_or_else(|| short(name))?),
                active: true,
            }),
            // Some tell the limit that is not active, some do not.
            dcmi::NOT_ACTIVE => Ok(Now {
                limit,
                active: false,
            }),
            code => Err(IpmiError::of_code(name, code)),
        }
    }

    fn write(&mut self, limit: &PowerLimit) -> Result<(), IpmiError> {
        let name = "Set Power Limit";
        let bytes = dcmi::set_limit(limit);
        let said = self.succeed(name, dcmi::NETFN, dcmi::SET_LIMIT, bytes)?;
        dcmi::is_acknowledged(&said)
            .then_some(())
            .ok_or_else(|| short(name))
    }

    fn activate(&mut self, on: bool) -> Result<(), IpmiError> {
        let name = "Activate/Deactivate Power Limit";
        let bytes = dcmi::activate(on);
        let said = self.succeed(name, dcmi::NETFN, dcmi::ACTIVATE, bytes)?;
        dcmi::is_acknowledged(&said)
            .then_some(())
            .ok_or_else(|| short(name))
    }

    /// The system's GUID; where the controller has none, its maker and product.
    fn identity(&mut self) -> Result<(String, String), IpmiError> {
        const APP: u8 = 0x06;
        let name = "Get Device ID";
        let data = self.succeed(name, APP, 0x01, Vec::new())?;
        let id = ipmi_rs::app::DeviceId::from_data(&data).ok_or_else(|| short(name))?;
        let product = format!("BMC {}/{}", id.manufacturer_id, id.product_id);
        for (name, command) in [("Get System GUID", 0x37), ("Get Device GUID", 0x08)] {
            let said = self.ask(name, APP, command, Vec::new())?;
            // All zeros or all ones: nobody has written one.
            let told = said.data.iter().any(|b| *b != 0) && said.data.iter().any(|b| *b != 0xff);
            if said.code == 0 && said.data.len() == 16 && told {
                let hex: String = said.data.iter().map(|b| format!("{b:02x}")).collect();
                return Ok((format!("IPMI-{hex}"), product));
            }
        }
        let weak = format!("IPMI-{}-{}", id.manufacturer_id, id.product_id);
        Ok((weak, product))
    }

    /// What holds now; the highest where no limit is active.
    fn in_force(&self, now: &Now) -> Result<Watts, CapError> {
        match now.limit.filter(|_| now.active) {
            Some(limit) if !limit.action.is_harmless() => Err(CapError::PowersOff {
                device: self.node.clone(),
            }),
            Some(limit) => Ok(Watts(f64::from(limit.watts))),
            None => Ok(self.range.1),
        }
    }

    fn describe(&mut self) -> Result<CappableDevice, CapError> {
        let now = self.now().map_err(|e| self.fault(e))?;
        let current = self.in_force(&now)?;
        let (uuid, product) = self.identity().map_err(|e| self.fault(e))?;
        let (min, max) = self.range;
        Ok(CappableDevice {
            device: self.node.clone(),
            uuid,
            product,
            min,
            max,
            found: current,
            current,
        })
    }

    fn known(&self, device: &DeviceId) -> Result<(), CapError> {
        match *device == self.node {
            true => Ok(()),
            false => Err(CapError::UnknownDevice(device.clone())),
        }
    }

    fn fault(&self, error: IpmiError) -> CapError {
        CapError::Ipmi {
            device: self.node.clone(),
            error,
        }
    }

    fn kept(&self, error: &io::Error) -> CapError {
        CapError::Driver {
            device: self.node.clone(),
            action: "noting how the limit was",
            message: error.to_string(),
        }
    }
}

impl CapActuator for IpmiActuator {
    fn devices(&mut self) -> Vec<CappableDevice> {
        match self.describe() {
            Ok(device) => vec![device],
            Err(error) => {
                tracing::warn!(%error, "this node cannot be capped through IPMI; it is tried again");
                Vec::new()
            }
        }
    }

    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        self.known(device)?;
        let (found, _) = self.identity().map_err(|e| self.fault(e))?;
        verify::identity(device, uuid, &found)?;
        let goes_back = self.before.goes_back(device, cap);
        let now = self.now().map_err(|e| self.fault(e))?;
        let watts = self.in_force(&now)?;
        if let Some(Before { off: true, .. }) = goes_back {
            if now.active {
                self.activate(false).map_err(|e| self.fault(e))?;
            }
            let now = self.now().map_err(|e| self.fault(e))?;
            if !now.active {
                self.before.forget(device).map_err(|e| self.kept(&e))?;
            }
            return self.in_force(&now);
        }
        // A lease renewed: nothing to write.
        let whole = Watts(cap.get().floor());
        let settled = now.active && self.steps.is_settled(device, whole, watts);
        if is_same(watts, cap) || is_same(watts, whole) || settled {
            if goes_back.is_some() {
                self.before.forget(device).map_err(|e| self.kept(&e))?;
            }
            return Ok(watts);
        }
        if goes_back.is_none() {
            // What was found may be what this site would not choose.
            verify::range(device, cap, self.range)?;
        }
        verify::range(device, cap, (Watts(1.0), Watts(f64::from(u16::MAX))))?;
        let off = !now.active;
        (self.before)
            .keep(device, Before { watts, off })
            .map_err(|e| self.kept(&e))?;
        let mut search = match goes_back {
            Some(_) => Steps::default().search(device, whole, self.range.0),
            None => self.steps.search(device, whole, self.range.0),
        };
        let then = loop {
            let asked = beside(search.asks(), now.limit);
            self.write(&asked).map_err(|e| self.fault(e))?;
            if off {
                self.activate(true).map_err(|e| self.fault(e))?;
            }
            let then = self.now().map_err(|e| self.fault(e))?;
            let has = then.limit.filter(|_| then.active && goes_back.is_none());
            if !has.is_some_and(|l| search.goes_on(Watts(f64::from(l.watts)))) {
                break then;
            }
        };
        if then.active && then.limit.is_some_and(|l| !l.action.is_harmless()) && off {
            // It took another action than the one that was set: no limit is safer.
            self.activate(false).map_err(|e| self.fault(e))?;
            self.before.forget(device).map_err(|e| self.kept(&e))?;
        }
        let has = self.in_force(&then)?;
        self.steps.settle(device, &search, has);
        if goes_back.is_some() && is_same(has, whole) {
            self.before.forget(device).map_err(|e| self.kept(&e))?;
        }
        Ok(has)
    }

    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        self.known(device)?;
        let now = self.now().map_err(|e| self.fault(e))?;
        self.in_force(&now)
    }

    fn look_every(&self) -> Duration {
        CONTROLLER_LOOK
    }

    fn restore_within(&self) -> Duration {
        CONTROLLER_RESTORE
    }
}

/// The limit to write: the controller's own times and harmless action, where it
/// tells them.
fn beside(cap: Watts, found: Option<PowerLimit>) -> PowerLimit {
    let action = (found.map(|f| f.action)).filter(|a| a.is_harmless());
    let times = found.map(|f| (f.correction_ms, f.sampling_s));
    let (correction_ms, sampling_s) = times.unwrap_or_default();
    PowerLimit {
        action: action.unwrap_or(ExceptionAction::None),
        // Never more than asked for; the range ends where the number does.
        watts: cap.get().floor() as u16,
        correction_ms: if correction_ms == 0 {
            CORRECTION_MS
        } else {
            correction_ms
        },
        sampling_s: if sampling_s == 0 {
            SAMPLING_S
        } else {
            sampling_s
        },
    }
}

fn short(command: &'static str) -> IpmiError {
    IpmiError::Shape {
        command,
        reason: "it breaks off, or is not DCMI's".into(),
    }
}

#[cfg(test)]
mod tests;
