//! Limits read back, and what follows where others changed them.

use super::{CapKeeper, Expected, Finding, Now};
use heliostat_models::lease::{CapAnswer, CapOutcome, CapReport, ForeignChanges};
use heliostat_models::{DeviceId, Watts};

impl CapKeeper {
    /// Whether there is any limit to read back.
    pub(in crate::agent) fn keeps(&self) -> bool {
        !self.held.is_empty() && self.actuator.as_ref().is_some_and(|a| a.writes())
    }

    /// Grows with what others do, as far as it is told in a hello.
    pub(in crate::agent) fn foreign_version(&self) -> u64 {
        self.watch.version() + self.surprises
    }

    /// What others did and do.
    pub(in crate::agent) fn foreign(&self) -> ForeignChanges {
        ForeignChanges {
            changes: self.stats.foreign_seen,
            corrected: self.stats.reverts_corrected,
            notes: self.watch.notes(),
        }
    }

    /// Reads back every limit that is kept. What is too high is set again at
    /// once, what is lower is left; of all that is not as it was set, control is
    /// told what the device has.
    pub(in crate::agent) fn check(&mut self, now: Now) -> Option<CapAnswer> {
        self.watch.lapse(now.steady);
        if !self.keeps() {
            return None;
        }
        let devices: Vec<DeviceId> = self.held.keys().cloned().collect();
        let reports: Vec<CapReport> = (devices.iter())
            .filter_map(|device| self.check_one(device, now))
            .collect();
        (!reports.is_empty()).then(|| self.answer(None, now, reports))
    }

    fn check_one(&mut self, device: &DeviceId, now: Now) -> Option<CapReport> {
        let report = |outcome| {
            Some(CapReport {
                device: device.clone(),
                outcome,
            })
        };
        let current = match self.actuator.as_mut()?.current(device) {
            Ok(current) => current,
            Err(error) => {
                if !self.watch.unread(device) {
                    return None;
                }
                tracing::error!(%device, %error, "a power limit that this agent set can no longer be read; control counts the device at its highest");
                let reason = format!("its limit cannot be read: {error}");
                let current = None;
                return report(CapOutcome::Refused { reason, current });
            }
        };
        if let Some(known) = self.devices.get_mut(device) {
            known.current = current;
        }
        let is_back = self.watch.read(device);
        match self.notice(device, current, now) {
            Finding::AsSet if !is_back => None,
            Finding::AsSet | Finding::Lowered => report(CapOutcome::Applied { readback: current }),
            Finding::TooHigh => Some(self.set_back(device)),
        }
    }

    /// Sets a limit again that is higher than it was set.
    fn set_back(&mut self, device: &DeviceId) -> CapReport {
        let min = self.devices.get(device).map_or(Watts::ZERO, |d| d.min);
        let (uuid, cap) = match self.held.get(device) {
            Some(held) => (held.uuid.clone(), held.cap.max(min)),
            None => (String::new(), min),
        };
        let report = self.set(device, &uuid, cap);
        match &report.outcome {
            CapOutcome::Applied { readback } => {
                if let Some(held) = self.held.get_mut(device) {
                    (held.cap, held.has) = (cap, *readback);
                }
                self.stats.reverts_corrected += 1;
                self.failing.remove(device);
            }
            CapOutcome::Refused { reason, .. } if self.failing.insert(device.clone()) => {
                tracing::error!(%device, %cap, reason, "a power limit that is too high could not be set back; it is tried again at every look");
            }
            CapOutcome::Refused { .. } => {}
        }
        report
    }

    /// Takes in what a device has, and whether somebody else had a hand in it.
    pub(super) fn notice(&mut self, device: &DeviceId, current: Watts, now: Now) -> Finding {
        let Some(held) = self.held.get_mut(device) else {
            return Finding::AsSet;
        };
        let left = self.found.iter().find(|f| f.device == *device);
        let known = self.devices.get(device).map(|d| d.found);
        let found = left.map(|f| f.found).or(known).unwrap_or(held.cap);
        let expected = Expected {
            asked: held.cap,
            had: held.has,
            found,
        };
        let finding = self.watch.judge(device, expected, current, now.steady);
        if finding == Finding::AsSet {
            held.has = current;
            return finding;
        }
        self.stats.foreign_seen += 1;
        let before = self.stats.foreign_changes.insert(device.clone(), current);
        let again = before == Some(current);
        let set = held.cap;
        self.surprises += u64::from(!again);
        match finding {
            Finding::TooHigh if again => {
                tracing::debug!(%device, %set, %current, "a power limit was raised once more; setting it back");
            }
            Finding::TooHigh => {
                let hint = if current.0 >= found.0 - super::SAME {
                    "it is at what was found at the start: the device was reset or its driver loaded anew; with NVIDIA's, persistence mode keeps the driver loaded"
                } else {
                    "another program or person sets limits on this machine"
                };
                tracing::warn!(%device, %set, %current, hint, "a power limit is higher than it was set; setting it back");
            }
            _ => {
                // From here on this is what is kept.
                (held.cap, held.has) = (current, current);
                tracing::warn!(%device, %set, %current, "somebody else lowered a power limit; it is left at that for now");
            }
        }
        finding
    }
}
