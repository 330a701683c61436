//! How caps end: leases that pass, a stop, a start after a crash.
//!
//! Restoring what was found may raise a device above what the site's limits
//! leave to it, so it is done only
//! * with the leave of the controller in charge, which makes room first: it
//!   leases the limit found;
//! * while no lease is in force, when the hello that tells of it reaches the broker;
//! * when no controller has been heard of for an hour.
//!
//! Else the device stays at the safe cap of its last lease, which never raises
//! it: a lease's safe cap is at most its cap.

use super::{CapKeeper, FoundCap, Held, KeptLease, Now, SAME};
use heliostat_models::lease::{CapAnswer, CapOutcome};
use heliostat_models::{DeviceId, Timestamp, Watts};
use std::collections::BTreeMap;
use std::time::Duration;

/// Without a controller for so long, what was found is restored.
pub(in crate::agent) const ALONE: Duration = Duration::from_secs(3_600);

/// What became of a wish to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Leave {
    /// What could be restored is.
    Restored,
    /// The controller in charge is to be asked.
    Asks,
}

impl CapKeeper {
    /// A start with limits that an earlier run did not restore: sets safe caps,
    /// and raises nothing.
    pub(super) fn come_back(&mut self, leases: &BTreeMap<DeviceId, KeptLease>, now: Now) {
        tracing::warn!(
            devices = self.found.len(),
            "an earlier run ended without restoring power limits; safe caps hold until control speaks, or {} min have passed without it",
            ALONE.as_secs() / 60
        );
        for cap in self.found.clone() {
            let known = self.devices.get(&cap.device);
            if known.is_some_and(|known| known.uuid != cap.uuid) {
                tracing::error!(device = %cap.device, "another device is in this place now; the limit found on the earlier one is kept in the list, and is to be set there by hand");
                self.stats.restore_failures += 1;
                continue;
            }
            let lease = leases.get(&cap.device).filter(|l| l.uuid == cap.uuid);
            let current = self.current(&cap.device);
            let safe = lease.map(|l| l.safe_cap);
            let most = [safe, current]
                .into_iter()
                .flatten()
                .fold(cap.found, Watts::min);
            if current.is_none_or(|current| current.0 > most.0 + SAME) {
                let report = self.set(&cap.device, &cap.uuid, most);
                match report.outcome {
                    CapOutcome::Applied { .. } => self.stats.safe_caps_set += 1,
                    CapOutcome::Refused { reason, .. } => {
                        tracing::error!(device = %cap.device, cap = %most, reason, "the safe cap could not be set; it is tried again at the next look");
                    }
                }
            }
            let held = Held {
                uuid: cap.uuid,
                cap: most,
                has: most,
                safe_cap: safe.unwrap_or(most),
                ends: None,
            };
            self.held.insert(cap.device, held);
        }
        self.restore_at = Some(now.steady + ALONE);
    }

    /// When something ends next, by the steady clock.
    pub(in crate::agent) fn next_end(&self) -> Option<Timestamp> {
        (self.held.values().filter_map(|h| h.ends))
            .chain(self.restore_at)
            .min()
    }

    /// Sets the safe caps of leases that have ended. Those that cannot be set
    /// are tried again at the next call. Restores what was found where no
    /// controller has spoken since the start.
    pub(in crate::agent) fn expire(&mut self, now: Now) -> Option<CapAnswer> {
        if self.restore_at.is_some_and(|at| at <= now.steady) {
            tracing::warn!("no controller has spoken since the start; restoring power limits");
            let left: Vec<DeviceId> = self.found.iter().map(|f| f.device.clone()).collect();
            self.restore_at = None;
            self.restore();
            let reports = self.reports(&left);
            return Some(self.answer(None, now, reports));
        }
        let ended: Vec<DeviceId> = (self.held.iter())
            .filter(|(_, h)| h.ends.is_some_and(|ends| ends <= now.steady))
            .map(|(d, _)| d.clone())
            .collect();
        if ended.is_empty() {
            return None;
        }
        tracing::warn!(
            devices = ended.len(),
            "leases ended without renewal; setting safe caps"
        );
        let mut reports = Vec::new();
        for device in ended {
            let Some(held) = self.held.get(&device) else {
                continue;
            };
            let (uuid, cap) = (held.uuid.clone(), held.safe_cap);
            // What somebody else keeps lower stays there.
            let cap = self.watch.ceiling(&device).map_or(cap, |c| cap.min(c));
            let min = self.devices.get(&device).map_or(Watts::ZERO, |d| d.min);
            let cap = cap.max(min);
            let report = self.set(&device, &uuid, cap);
            let held = self.held.get_mut(&device);
            match (&report.outcome, held) {
                (CapOutcome::Applied { readback }, Some(held)) => {
                    self.stats.safe_caps_set += 1;
                    (held.cap, held.has, held.ends) = (cap, *readback, None);
                }
                // It may have been set: then nobody else did that.
                (CapOutcome::Refused { current: None, .. }, Some(held)) => held.has = cap,
                _ => {}
            }
            reports.push(report);
        }
        self.keep();
        Some(self.answer(None, now, reports))
    }

    /// The agent is to stop. `told`: what it has afterwards reaches the broker.
    pub(in crate::agent) fn leave(&mut self, told: bool, now: Now) -> Leave {
        let leased = (self.held.values()).any(|h| h.ends.is_some_and(|ends| ends > now.steady));
        if !leased && told || self.is_restored() {
            self.restore();
            return Leave::Restored;
        }
        if leased && told {
            self.leaving = true;
            return Leave::Asks;
        }
        self.stay();
        Leave::Restored
    }

    /// Whether it has asked for leave to stop.
    pub(in crate::agent) fn is_leaving(&self) -> bool {
        self.leaving
    }

    /// Whether restoring raises nothing, because all has what was found or more.
    fn is_restored(&self) -> bool {
        self.found.iter().all(|f| self.has_all(f))
    }

    /// Whether a device has what was found, or as much of it as somebody else leaves.
    fn has_all(&self, cap: &FoundCap) -> bool {
        (self.held.get(&cap.device)).is_some_and(|h| h.has.0 >= self.aim(cap).0 - SAME)
    }

    /// What is restored of a limit found: no more than somebody else leaves.
    fn aim(&self, cap: &FoundCap) -> Watts {
        let ceiling = self.watch.ceiling(&cap.device);
        ceiling.map_or(cap.found, |ceiling| cap.found.min(ceiling))
    }

    /// Restores, once the controller has raised everything to what was found;
    /// whether it did.
    pub(in crate::agent) fn leaves_now(&mut self) -> bool {
        let free = self.leaving && self.is_restored();
        if free {
            self.leaving = false;
            self.restore();
        }
        free
    }

    /// Leaves without leave: what has what was found is done with, everything
    /// else stays at its safe cap and is restored at a later start.
    pub(in crate::agent) fn stay(&mut self) {
        self.leaving = false;
        let (mut stays, mut done) = (Vec::new(), Vec::new());
        for cap in std::mem::take(&mut self.found) {
            if self.has_all(&cap) {
                &mut done
            } else {
                &mut stays
            }
            .push(cap);
        }
        self.found = done;
        for cap in &stays {
            let Some(held) = self.held.get(&cap.device) else {
                continue;
            };
            let (uuid, safe) = (held.uuid.clone(), held.safe_cap.min(held.has));
            if held.has.0 > safe.0 + SAME {
                self.set(&cap.device, &uuid, safe);
            }
            tracing::warn!(device = %cap.device, found = %cap.found, "the power limit found is not restored: nobody has made room for it; the device keeps its safe cap. Disarm control before stopping agents, or set it by hand; the next start restores it");
        }
        self.stats.not_restored += stays.len() as u64;
        self.restore_found(stays);
    }

    /// Restores every limit found, but none above what somebody else left.
    /// What cannot be restored stays in the file.
    pub(in crate::agent) fn restore(&mut self) {
        self.restore_found(Vec::new());
    }

    fn restore_found(&mut self, mut left: Vec<FoundCap>) {
        for cap in std::mem::take(&mut self.found) {
            let min = self.devices.get(&cap.device).map_or(Watts::ZERO, |d| d.min);
            let limit = self.aim(&cap);
            // What somebody else left may be less than can be set again.
            let report = match limit < min && limit < cap.found {
                true => None,
                false => Some(self.set(&cap.device, &cap.uuid, limit).outcome),
            };
            match report {
                Some(CapOutcome::Refused { reason, .. }) => {
                    tracing::error!(device = %cap.device, found = %cap.found, reason, "the power limit found could not be restored; it is tried again at the next start");
                    self.stats.restore_failures += 1;
                    left.push(cap);
                }
                _ => {
                    tracing::info!(device = %cap.device, %limit, "power limit restored");
                    self.stats.restored += 1;
                    self.held.remove(&cap.device);
                }
            }
        }
        self.held
            .retain(|device, _| left.iter().any(|f| f.device == *device));
        for held in self.held.values_mut() {
            held.ends = None;
        }
        self.found = left;
        if let Err(error) = self.file.write(&self.found) {
            tracing::error!(%error, "the list of limits to restore could not be written");
        }
        self.keep();
        self.watch.forget();
    }

    /// What devices have now.
    fn reports(&mut self, devices: &[DeviceId]) -> Vec<super::CapReport> {
        (devices.iter())
            .map(|device| {
                let outcome = match self.current(device) {
                    Some(readback) => CapOutcome::Applied { readback },
                    None => CapOutcome::Refused {
                        reason: "its limit cannot be read".into(),
                        current: None,
                    },
                };
                let device = device.clone();
                super::CapReport { device, outcome }
            })
            .collect()
    }
}
