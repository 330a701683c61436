//! Keeps the caps of one agent's devices: applies leases, ends them, restores
//! what was found.
//!
//! ```text
//!              command                 expires passes            stop, or next start
//!   found ----------------> leased ----------------> safe cap ----------------> found
//!                            ^   | command              |
//!                            +---+ <--------------------+
//! ```
//!
//! All of it is synchronous and is given the time; a thread of its own calls
//! it, because a driver may take long.

use super::fence::FenceFile;
use super::found::{FoundCap, FoundFile};
use super::stats::CapStats;
use crate::actuate::CapActuator;
use heliostat_models::lease::{
    CapAnswer, CapCommand, CapLease, CapOutcome, CapReport, CappableDevice,
};
use heliostat_models::{AgentId, DeviceId, Timestamp, Watts};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Two limits closer than this are the same: drivers round to whole watts or less.
const SAME: f64 = 0.6;

/// The caps of one agent.
pub(super) struct CapKeeper {
    agent: AgentId,
    arm: bool,
    actuator: Option<Box<dyn CapActuator>>,
    devices: BTreeMap<DeviceId, CappableDevice>,
    file: FoundFile,
    found: Vec<FoundCap>,
    leases: BTreeMap<DeviceId, Held>,
    /// What this agent set last on each device.
    set: BTreeMap<DeviceId, Watts>,
    last: Option<(CapCommand, CapAnswer)>,
    /// The highest fence seen; survives restarts.
    fence: FenceFile,
    pub(super) stats: CapStats,
}

struct Held {
    uuid: String,
    safe_cap: Watts,
    expires: Timestamp,
}

impl CapKeeper {
    /// Restores what an earlier run left behind, then asks the actuator for its devices.
    pub(super) fn new(
        agent: AgentId,
        arm: bool,
        actuator: Option<Box<dyn CapActuator>>,
        directory: &Path,
    ) -> io::Result<Self> {
        let file = FoundFile::new(directory);
        let found = file.read()?;
        let mut keeper = Self {
            agent,
            arm,
            actuator,
            devices: BTreeMap::new(),
            file,
            found,
            leases: BTreeMap::new(),
            set: BTreeMap::new(),
            last: None,
            fence: FenceFile::open(directory)?,
            stats: CapStats::default(),
        };
        if !keeper.found.is_empty() {
            tracing::warn!(
                devices = keeper.found.len(),
                "an earlier run ended without restoring power limits; restoring them now"
            );
            keeper.restore();
        }
        keeper.look();
        Ok(keeper)
    }

    /// Asks the actuator for devices not known yet.
    fn look(&mut self) {
        for mut device in self.actuator.iter_mut().flat_map(|a| a.devices()) {
            if let Some(left) = self.found.iter().find(|f| f.device == device.device) {
                // Not restored yet: what was found then is still what is to be restored.
                device.found = left.found;
            }
            self.devices.entry(device.device.clone()).or_insert(device);
        }
    }

    /// The highest fence seen.
    pub(super) fn fence(&self) -> u64 {
        self.fence.highest()
    }

    /// The devices with their limits of now.
    pub(super) fn devices(&mut self) -> Vec<CappableDevice> {
        if self.devices.is_empty() {
            // A management controller may be away at the start and come later.
            self.look();
        }
        for device in self.devices.values_mut() {
            if let Some(actuator) = &mut self.actuator
                && let Ok(current) = actuator.current(&device.device)
            {
                device.current = current;
            }
        }
        let names: Vec<DeviceId> = self.devices.keys().cloned().collect();
        for name in names {
            self.note_foreign(&name);
        }
        self.devices.values().cloned().collect()
    }

    /// Applies a command; `None` when it is older than what was applied.
    pub(super) fn command(&mut self, command: &CapCommand, now: Timestamp) -> Option<CapAnswer> {
        self.stats.commands += 1;
        if command.fence < self.fence.highest() {
            return Some(self.refuse_outdated(command, now));
        }
        let in_charge_anew = command.fence > self.fence.highest();
        if in_charge_anew {
            self.fence.raise(command.fence);
        }
        if let Some((last, answer)) = &self.last
            && !in_charge_anew
        {
            let same_run = last.controller == command.controller;
            if same_run && last.sequence == command.sequence {
                // Delivered twice: the answer may have been lost, the work was done.
                return Some(answer.clone());
            }
            let older = if same_run {
                command.sequence < last.sequence
            } else {
                command.issued < last.issued
            };
            if older {
                self.stats.ignored += 1;
                return None;
            }
        }
        let reports = match self.objection(command, now) {
            Some(reason) => command
                .leases
                .iter()
                .map(|l| self.refuse(&l.device, reason.clone()))
                .collect(),
            None => self.apply(command),
        };
        let answer = self.answer(command, now, reports);
        self.last = Some((command.clone(), answer.clone()));
        Some(answer)
    }

    fn answer(&self, command: &CapCommand, now: Timestamp, reports: Vec<CapReport>) -> CapAnswer {
        CapAnswer {
            agent: self.agent.clone(),
            sequence: Some(command.sequence),
            controller: Some(command.controller.clone()),
            fence: self.fence(),
            at: now,
            reports,
        }
    }

    /// Another controller has taken charge since; whoever sent this is to know.
    fn refuse_outdated(&mut self, command: &CapCommand, now: Timestamp) -> CapAnswer {
        self.stats.ignored += 1;
        let reason = format!(
            "the order bears fence {}; a later controller with fence {} is in charge",
            command.fence,
            self.fence.highest()
        );
        let reports = (command.leases.iter())
            .map(|l| self.refuse(&l.device, reason.clone()))
            .collect();
        self.answer(command, now, reports)
    }

    /// When the next lease ends.
    pub(super) fn next_expiry(&self) -> Option<Timestamp> {
        self.leases.values().map(|h| h.expires).min()
    }

    /// Sets the safe caps of leases that have ended. Those that cannot be set
    /// are tried again at the next call.
    pub(super) fn expire(&mut self, now: Timestamp) -> Option<CapAnswer> {
        let ended: Vec<DeviceId> = (self.leases.iter())
            .filter(|(_, h)| h.expires <= now)
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
            let Some(held) = self.leases.remove(&device) else {
                continue;
            };
            let report = self.set(&device, &held.uuid, held.safe_cap);
            if matches!(report.outcome, CapOutcome::Applied { .. }) {
                self.stats.safe_caps_set += 1;
            } else {
                self.leases.insert(device, held);
            }
            reports.push(report);
        }
        Some(CapAnswer {
            agent: self.agent.clone(),
            sequence: None,
            controller: None,
            fence: self.fence(),
            at: now,
            reports,
        })
    }

    /// Restores every limit found. What cannot be restored stays in the file.
    pub(super) fn restore(&mut self) {
        self.leases.clear();
        let mut left = Vec::new();
        for cap in std::mem::take(&mut self.found) {
            let outcome = match &mut self.actuator {
                Some(actuator) => actuator
                    .set(&cap.device, &cap.uuid, cap.found)
                    .map_err(|e| e.to_string()),
                None => Err("this agent was started without devices to cap".into()),
            };
            match outcome {
                Ok(readback) => {
                    tracing::info!(device = %cap.device, limit = %readback, "power limit restored");
                    self.stats.restored += 1;
                    self.set.remove(&cap.device);
                }
                Err(error) => {
                    tracing::error!(device = %cap.device, found = %cap.found, error, "the power limit found could not be restored; it is tried again at the next start");
                    self.stats.restore_failures += 1;
                    left.push(cap);
                }
            }
        }
        self.found = left;
        if let Err(error) = self.file.write(&self.found) {
            tracing::error!(%error, "the list of limits to restore could not be written");
        }
    }

    /// Why no lease of this command may be applied.
    fn objection(&self, command: &CapCommand, now: Timestamp) -> Option<String> {
        if self.actuator.is_none() {
            return Some("this agent has no device that can be capped".into());
        }
        if !self.arm {
            return Some(
                "this agent only observes; start it with --arm to let it set power limits".into(),
            );
        }
        if command.expires <= now {
            return Some(format!(
                "the command ended at {}, and it is {now} here; compare the clocks of both machines",
                command.expires
            ));
        }
        None
    }

    fn apply(&mut self, command: &CapCommand) -> Vec<CapReport> {
        if let Err(error) = self.remember(&command.leases) {
            let reason = format!("the limits found could not be written to disk first: {error}");
            return (command.leases.iter())
                .map(|l| self.refuse(&l.device, reason.clone()))
                .collect();
        }
        // Lower before raise, also within one command.
        let mut order: Vec<(Watts, usize)> = Vec::new();
        for (index, lease) in command.leases.iter().enumerate() {
            let current = self.current(&lease.device).unwrap_or(lease.cap);
            self.note_foreign(&lease.device);
            order.push((lease.cap - current, index));
        }
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut reports = Vec::new();
        for (_, index) in order {
            let lease = &command.leases[index];
            if !self.devices.contains_key(&lease.device) {
                // What it was could not be noted, so it could not be restored.
                let reason = "this agent knows no device of that name that can be capped";
                reports.push(self.refuse(&lease.device, reason.into()));
                continue;
            }
            let report = self.set(&lease.device, &lease.uuid, lease.cap);
            if matches!(report.outcome, CapOutcome::Applied { .. }) {
                self.stats.applied += 1;
                let held = Held {
                    uuid: lease.uuid.clone(),
                    safe_cap: lease.safe_cap,
                    expires: command.expires,
                };
                self.leases.insert(lease.device.clone(), held);
            } else {
                self.stats.refused += 1;
            }
            reports.push(report);
        }
        reports
    }

    /// Puts the limits of devices that are capped for the first time on disk.
    fn remember(&mut self, leases: &[CapLease]) -> io::Result<()> {
        if leases.iter().any(|l| !self.devices.contains_key(&l.device)) {
            // It may have been lost at the start and be well now.
            self.look();
        }
        if !self.actuator.as_ref().is_some_and(|a| a.writes()) {
            return Ok(());
        }
        let mut found = self.found.clone();
        for lease in leases {
            let known = found.iter().any(|f| f.device == lease.device);
            let Some(device) = self.devices.get(&lease.device).filter(|_| !known) else {
                continue;
            };
            found.push(FoundCap {
                device: device.device.clone(),
                uuid: device.uuid.clone(),
                found: device.found,
            });
        }
        if found.len() > self.found.len() {
            self.file.write(&found)?;
            self.found = found;
        }
        Ok(())
    }

    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> CapReport {
        let outcome = match &mut self.actuator {
            Some(actuator) => actuator.set(device, uuid, cap).map_err(|e| e.to_string()),
            None => Err("this agent has no device that can be capped".into()),
        };
        match outcome {
            Ok(readback) => {
                let before = self.set.insert(device.clone(), readback);
                if (readback.0 - cap.0).abs() > SAME && before != Some(readback) {
                    tracing::warn!(%device, asked = %cap, has = %readback, "the device took a power limit and keeps another");
                }
                if let Some(known) = self.devices.get_mut(device) {
                    known.current = readback;
                }
                CapReport {
                    device: device.clone(),
                    outcome: CapOutcome::Applied { readback },
                }
            }
            Err(reason) => {
                let current = self.current(device);
                CapReport {
                    device: device.clone(),
                    outcome: CapOutcome::Refused { reason, current },
                }
            }
        }
    }

    fn refuse(&mut self, device: &DeviceId, reason: String) -> CapReport {
        self.stats.refused += 1;
        CapReport {
            device: device.clone(),
            outcome: CapOutcome::Refused {
                reason,
                current: self.current(device),
            },
        }
    }

    fn current(&mut self, device: &DeviceId) -> Option<Watts> {
        let current = self.actuator.as_mut()?.current(device).ok()?;
        if let Some(known) = self.devices.get_mut(device) {
            known.current = current;
        }
        Some(current)
    }

    /// Notes when a device no longer has the limit that was set last.
    fn note_foreign(&mut self, device: &DeviceId) {
        let (Some(set), Some(known)) = (self.set.get(device), self.devices.get(device)) else {
            return;
        };
        if (known.current.0 - set.0).abs() <= SAME {
            return;
        }
        let before = self
            .stats
            .foreign_changes
            .insert(device.clone(), known.current);
        if before != Some(known.current) {
            tracing::warn!(%device, set = %set, current = %known.current, "somebody else changed a power limit");
        }
    }
}

#[cfg(test)]
mod tests;
