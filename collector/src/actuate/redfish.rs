//! Power limits through a management controller's Redfish interface: of each
//! GPU, or of the node as a whole.
//!
//! ```text
//! GPU    Systems/*/Processors/GPU_SXM_n/EnvironmentMetrics    PowerLimitWatts
//!        Chassis/*/Controls/*  (context GPU, names its processor)
//! node   Chassis/*/EnvironmentMetrics, else Controls/*, else Power
//! ```
//!
//! A limit that is switched off counts as the highest one; setting it switches
//! it on. How it was is written down first (`before.rs`), so that going back to it
//! switches it off again. A limit in force whose excess powers the node off is
//! left alone.

mod bmc;
mod discover;
mod error;
mod limit;
mod tls;

pub use bmc::BmcAddress;
pub use error::RedfishError;
pub use tls::Trust;

use super::before::{Before, BeforeFile, is_same};
use super::steps::Steps;
use super::{BmcCredentials, CONTROLLER_LOOK, CONTROLLER_RESTORE, CapActuator, CapError, verify};
use bmc::{Bmc, Resource};
use discover::Found;
use heliostat_models::lease::CappableDevice;
use heliostat_models::{DeviceId, NodeId, Watts};
use limit::{Limit, State};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// How often a limit is read back until it is what was set: some controllers
/// answer before they have done it.
const LOOKS: usize = 3;
/// A limit this close to the one set is it, in watts.
const SAME: f64 = 0.5;

/// What to limit.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Each GPU. Where another source names GPUs by UUID, as the driver's does,
    /// those names are used; else `NODE-gpuN`, N counting in the order of the
    /// numbers in their Redfish names.
    Gpus {
        /// UUID, as [`plain_uuid`] writes it, to name; empty where nobody knows.
        names: BTreeMap<String, DeviceId>,
    },
    /// The node as one device that bears the node's name.
    Node {
        /// Lowest and highest limit, for controllers that do not tell them.
        range: (Watts, Watts),
    },
}

/// Sets power limits through Redfish.
pub struct RedfishActuator {
    bmc: Bmc,
    node: NodeId,
    system: Option<String>,
    scope: Scope,
    before: BeforeFile,
    steps: Steps,
    places: Vec<Place>,
}

/// A device, and where its limit is.
#[derive(Clone, Debug)]
struct Place {
    name: DeviceId,
    at: Found,
}

impl RedfishActuator {
    /// Talks to nobody yet: a controller that is away now may come later.
    /// `system` names the node's where a controller serves several; `directory`
    /// is the agent's own, kept over restarts.
    pub fn new(
        address: &BmcAddress,
        credentials: Option<BmcCredentials>,
        node: &NodeId,
        system: Option<String>,
        scope: Scope,
        directory: &Path,
    ) -> Result<Self, RedfishError> {
        let before = BeforeFile::open(directory).map_err(|e| RedfishError::Address {
            address: directory.display().to_string(),
            reason: e.to_string(),
        })?;
        Ok(Self {
            bmc: Bmc::new(address, credentials)?,
            node: node.clone(),
            system,
            scope,
            before,
            steps: Steps::default(),
            places: Vec::new(),
        })
    }

    fn look(&mut self) -> Result<(), RedfishError> {
        if !self.places.is_empty() {
            return Ok(());
        }
        let system = self.system.as_deref();
        let names = match &self.scope {
            Scope::Node { .. } => {
                let at = discover::node(&mut self.bmc, system)?;
                let name = DeviceId::from(self.node.as_str());
                self.places = vec![Place { name, at }];
                return Ok(());
            }
            Scope::Gpus { names } => names.clone(),
        };
        let mut places = Vec::new();
        for (index, at) in discover::gpus(&mut self.bmc, system)?
            .into_iter()
            .enumerate()
        {
            let name = if names.is_empty() {
                Some(DeviceId::from(format!("{}-gpu{index}", self.node)))
            } else {
                let owner = self.bmc.get(&at.owner)?.value;
                names
                    .get(&plain_uuid(&identity(&owner, &at.owner)))
                    .cloned()
            };
            match name {
                Some(name) => places.push(Place { name, at }),
                None => tracing::warn!(
                    gpu = at.id,
                    "the management controller knows a GPU that this node's driver does not; it cannot be capped"
                ),
            }
        }
        self.places = places;
        Ok(())
    }

    fn place(&mut self, device: &DeviceId) -> Result<Place, CapError> {
        self.look().map_err(|e| redfish(device, e))?;
        (self.places.iter().find(|p| &p.name == device))
            .cloned()
            .ok_or_else(|| CapError::UnknownDevice(device.clone()))
    }

    /// Reads a resource of a device. Firmware that was replaced may have put it
    /// somewhere else: then it is looked for again next time.
    fn get(&mut self, place: &Place, path: &str) -> Result<Resource, CapError> {
        let outcome = self.bmc.get(path);
        if matches!(outcome, Err(RedfishError::NotFound { .. })) {
            self.places.clear();
        }
        outcome.map_err(|e| redfish(&place.name, e))
    }

    fn read(&mut self, place: &Place) -> Result<(Resource, Limit), CapError> {
        let resource = self.get(place, &place.at.path)?;
        let limit =
            (place.at.form.read(&resource.value)).ok_or_else(|| CapError::NotSupported {
                device: place.name.clone(),
            })?;
        Ok((resource, limit))
    }

    fn settable(&self, place: &Place, limit: &Limit) -> Result<(Watts, Watts), CapError> {
        match (limit.range, &self.scope) {
            (Some(range), _) => Ok(range),
            (None, Scope::Node { range }) => Ok(*range),
            (None, Scope::Gpus { .. }) => Err(CapError::NotSupported {
                device: place.name.clone(),
            }),
        }
    }

    fn identity(&mut self, place: &Place) -> Result<String, CapError> {
        let owner = self.get(place, &place.at.owner)?;
        Ok(identity(&owner.value, &place.at.owner))
    }

    fn describe(&mut self, place: &Place) -> Result<CappableDevice, CapError> {
        let (_, limit) = self.read(place)?;
        let (min, max) = self.settable(place, &limit)?;
        let current = in_force(place, &limit, max)?;
        Ok(CappableDevice {
            device: place.name.clone(),
            uuid: self.identity(place)?,
            product: place.at.product.clone(),
            min,
            max,
            found: current,
            current,
        })
    }

    /// Sets a limit that was read, once more if somebody else changed it in between.
    fn write(
        &mut self,
        place: &Place,
        cap: Watts,
        (resource, limit): (Resource, Limit),
    ) -> Result<(), CapError> {
        let body = place.at.form.set(cap, &limit);
        if self.patch(place, &body, &resource)? {
            return Ok(());
        }
        let (resource, limit) = self.read(place)?;
        refuse_idle(place, &limit)?;
        let body = place.at.form.set(cap, &limit);
        match self.patch(place, &body, &resource)? {
            true => Ok(()),
            false => Err(self.changed(place)),
        }
    }

    /// Switches a limit off, whatever it is now, and says what it then is.
    fn switch_off(&mut self, place: &Place) -> Result<Limit, CapError> {
        for _ in 0..2 {
            let (resource, limit) = self.read(place)?;
            if limit.state == State::Off {
                return Ok(limit);
            }
            let body = place.at.form.switch_off(&limit);
            if self.patch(place, &body, &resource)? {
                return Ok(self.read(place)?.1);
            }
        }
        Err(self.changed(place))
    }

    fn patch(&mut self, place: &Place, body: &Value, read: &Resource) -> Result<bool, CapError> {
        let outcome = (self.bmc).patch(&place.at.path, body, read.etag.as_deref());
        outcome.map_err(|e| redfish(&place.name, e))
    }

    fn changed(&self, place: &Place) -> CapError {
        let url = format!("{}{}", self.bmc.base(), place.at.path);
        redfish(&place.name, RedfishError::Changed { url })
    }

    /// Reads until the limit is as set, or has had its time.
    fn read_back(&mut self, place: &Place, cap: Watts) -> Result<Limit, CapError> {
        let mut looks = 0;
        loop {
            let (_, limit) = self.read(place)?;
            looks += 1;
            if is_at(&limit, cap) || looks == LOOKS {
                return Ok(limit);
            }
            self.bmc.pause();
        }
    }
}

impl CapActuator for RedfishActuator {
    fn devices(&mut self) -> Vec<CappableDevice> {
        if let Err(error) = self.look() {
            tracing::warn!(node = %self.node, %error, "no power limit is found through Redfish; it is looked for again");
            return Vec::new();
        }
        let mut devices = Vec::new();
        for place in self.places.clone() {
            match self.describe(&place) {
                Ok(device) => devices.push(device),
                Err(error) => {
                    tracing::warn!(device = %place.name, %error, "this device cannot be capped");
                }
            }
        }
        devices
    }

    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        let place = self.place(device)?;
        verify::identity(device, uuid, &self.identity(&place)?)?;
        let (resource, limit) = self.read(&place)?;
        let (min, max) = self.settable(&place, &limit)?;
        let goes_back = self.before.goes_back(device, cap);
        let watts = in_force(&place, &limit, max)?;
        let off = limit.state == State::Off;
        let kept = |e: std::io::Error| CapError::Driver {
            device: device.clone(),
            action: "noting how the limit was",
            message: e.to_string(),
        };
        if let Some(Before { off: true, .. }) = goes_back {
            let now = self.switch_off(&place)?;
            if now.state == State::Off {
                self.before.forget(device).map_err(kept)?;
            }
            return in_force(&place, &now, max);
        }
        // A lease renewed: nothing to write.
        let whole = Watts(cap.get().floor());
        let settled = !off && self.steps.is_settled(device, whole, watts);
        if is_same(watts, cap) || is_same(watts, whole) || settled {
            if goes_back.is_some() {
                self.before.forget(device).map_err(kept)?;
            }
            return Ok(watts);
        }
        if goes_back.is_none() {
            // What was found may be what this site would not choose.
            verify::range(device, cap, (min, max))?;
        }
        (self.before)
            .keep(device, Before { watts, off })
            .map_err(kept)?;
        // Whole watts, never more than asked for; what goes back does so exactly.
        let cap = goes_back.map_or(whole, |before| before.watts);
        let mut search = match goes_back {
            Some(_) => Steps::default().search(device, cap, min),
            None => self.steps.search(device, cap, min),
        };
        let mut read = (resource, limit);
        let now = loop {
            self.write(&place, search.asks(), read)?;
            let now = self.read_back(&place, search.asks())?;
            let has = (now.watts).filter(|_| now.state == State::On && goes_back.is_none());
            if !has.is_some_and(|has| search.goes_on(has)) {
                break now;
            }
            read = self.read(&place)?;
        };
        if now.state == State::PowersOff {
            // It was off, and kept what it would do: back to that at once.
            if self.switch_off(&place)?.state == State::Off {
                self.before.forget(device).map_err(kept)?;
            }
        } else if goes_back.is_some() && is_at(&now, cap) {
            self.before.forget(device).map_err(kept)?;
        }
        let has = in_force(&place, &now, max)?;
        self.steps.settle(device, &search, has);
        Ok(has)
    }

    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        let place = self.place(device)?;
        let (_, limit) = self.read(&place)?;
        let (_, max) = self.settable(&place, &limit)?;
        in_force(&place, &limit, max)
    }

    fn range(&mut self, device: &DeviceId) -> Option<(Watts, Watts)> {
        let place = self.place(device).ok()?;
        let (_, limit) = self.read(&place).ok()?;
        self.settable(&place, &limit).ok()
    }

    fn look_every(&self) -> Duration {
        CONTROLLER_LOOK
    }

    fn restore_within(&self) -> Duration {
        CONTROLLER_RESTORE
    }
}

/// The limit that holds now; the highest one where it is off.
fn in_force(place: &Place, limit: &Limit, max: Watts) -> Result<Watts, CapError> {
    refuse_idle(place, limit)?;
    Ok(match limit.state {
        State::Off => max,
        _ => limit.watts.unwrap_or(max),
    })
}

/// Whether a limit is in force and as was set.
fn is_at(limit: &Limit, cap: Watts) -> bool {
    let near = |w: Watts| (w.get() - cap.get()).abs() <= SAME;
    limit.state == State::On && limit.watts.is_some_and(near)
}

fn refuse_idle(place: &Place, limit: &Limit) -> Result<(), CapError> {
    match &limit.state {
        State::On | State::Off => Ok(()),
        State::Idle(mode) => Err(CapError::NotEnforced {
            device: place.name.clone(),
            mode: mode.clone(),
        }),
        State::PowersOff => Err(CapError::PowersOff {
            device: place.name.clone(),
        }),
    }
}

/// Who a processor or system is: its UUID, else its serial number, else its path.
fn identity(owner: &Value, path: &str) -> String {
    let told = |name: &str| {
        let text = owner.get(name)?.as_str()?.trim();
        // Some fill in what they do not know.
        let empty = text.chars().all(|c| matches!(c, '0' | '-')) || text == "NA";
        (!empty).then(|| text.to_owned())
    };
    told("UUID")
        .or_else(|| told("SerialNumber"))
        .unwrap_or_else(|| path.to_owned())
}

/// A UUID without what its sources put around it: `GPU-` of NVIDIA's driver,
/// and capitals.
pub fn plain_uuid(uuid: &str) -> String {
    let lower = uuid.to_ascii_lowercase();
    lower.strip_prefix("gpu-").unwrap_or(&lower).to_owned()
}

fn redfish(device: &DeviceId, error: RedfishError) -> CapError {
    CapError::Redfish {
        device: device.clone(),
        error,
    }
}

#[cfg(test)]
mod tests;
