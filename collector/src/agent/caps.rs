//! Keeps the caps of one agent's devices: applies leases, holds their limits
//! against others, ends them, restores what was found.
//!
//! ```text
//!              command                 its length passes
//!   found ----------------> leased ----------------------> safe cap
//!     ^                      ^ |  ^     command               | ^
//!     |                      +-+  +---------------------------+ | start after a crash
//!     +---------------------------------------------------------+
//!       a stop: with leave of the controller in charge, or while there is none
//!       no controller for an hour after a start
//! ```
//!
//! A lease lasts as long as it says, from its receipt on this machine's own
//! clock; what the clocks of other machines show does not prolong it.
//!
//! All of it is synchronous and is given the time; a thread of its own calls
//! it, because a driver may take long.

use super::fence::FenceFile;
use super::found::{FoundCap, FoundFile};
use super::kept::{Kept, KeptFile, KeptLease, LastCommand};
use super::others::{Expected, Finding, SAME, Watch};
use super::stats::CapStats;
use crate::actuate::{CapActuator, CapError};
use heliostat_models::lease::{
    CLOCK_BOUND, CapAnswer, CapCommand, CapLease, CapOutcome, CapReport, CappableDevice,
};
use heliostat_models::{AgentId, DeviceId, Timestamp, Watts};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::time::Duration;

mod ends;
mod foreign;

pub(super) use ends::Leave;

/// The longest lease that is taken; a controller renews far more often.
const LONGEST: Duration = Duration::from_secs(3_600);

/// The caps of one agent.
pub(super) struct CapKeeper {
    agent: AgentId,
    arm: bool,
    actuator: Option<Box<dyn CapActuator>>,
    devices: BTreeMap<DeviceId, CappableDevice>,
    file: FoundFile,
    found: Vec<FoundCap>,
    /// What each device was set to, and until when.
    held: BTreeMap<DeviceId, Held>,
    watch: Watch,
    /// Foreign changes to a limit that the device was not found at before.
    surprises: u64,
    last: Option<(CapCommand, CapAnswer)>,
    /// The last command of an earlier run, which is not obeyed again.
    before: Option<LastCommand>,
    kept: KeptFile,
    /// The instant of the last answer.
    said: Option<Timestamp>,
    /// The highest fence seen; survives restarts.
    fence: FenceFile,
    /// Restore what was found then, if no controller has spoken.
    restore_at: Option<Timestamp>,
    /// The agent stops, and waits for leave to restore what was found.
    leaving: bool,
    /// Devices whose limit could not be set back; each is told once.
    failing: BTreeSet<DeviceId>,
    pub(super) stats: CapStats,
}

/// A limit that this agent set and keeps.
struct Held {
    uuid: String,
    /// What was asked for.
    cap: Watts,
    /// What the device said then.
    has: Watts,
    safe_cap: Watts,
    /// When the lease ends; `None` once it has, and the safe cap is in force.
    ends: Option<Timestamp>,
}

/// What time it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// By the clock, to be held against other machines' clocks.
    pub(super) wall: Timestamp,
    /// For statements: as the clock, but never before an earlier statement.
    pub(super) at: Timestamp,
    /// Goes on evenly also where the clock is set: what lasts is measured by it.
    pub(super) steady: Timestamp,
}

#[cfg(test)]
impl From<Timestamp> for Now {
    fn from(now: Timestamp) -> Self {
        Self {
            wall: now,
            at: now,
            steady: now,
        }
    }
}

impl CapKeeper {
    /// Sees to what an earlier run left behind, then asks the actuator for its devices.
    pub(super) fn new(
        agent: AgentId,
        arm: bool,
        actuator: Option<Box<dyn CapActuator>>,
        directory: &Path,
        now: Now,
    ) -> io::Result<Self> {
        let file = FoundFile::new(directory);
        let found = file.read()?;
        let kept = KeptFile::new(directory);
        let Kept { last, leases, said } = kept.read();
        let mut keeper = Self {
            agent,
            arm,
            actuator,
            devices: BTreeMap::new(),
            file,
            found,
            held: BTreeMap::new(),
            watch: Watch::default(),
            surprises: 0,
            last: None,
            before: last,
            kept,
            said,
            fence: FenceFile::open(directory)?,
            restore_at: None,
            leaving: false,
            failing: BTreeSet::new(),
            stats: CapStats::default(),
        };
        keeper.look();
        if !keeper.found.is_empty() {
            keeper.come_back(&leases, now);
        }
        Ok(keeper)
    }

    /// Asks the actuator for devices not known yet.
    fn look(&mut self) {
        for mut device in self.actuator.iter_mut().flat_map(|a| a.devices()) {
            if let Some(left) = self.found.iter().find(|f| f.device == device.device) {
                // Not restored yet: what was found then is still what is to be restored.
                device.found = left.found;
            }
            let exchanged = |held: &Held| held.uuid != device.uuid;
            if self.held.get(&device.device).is_some_and(exchanged) {
                self.held.remove(&device.device);
            }
            self.devices.entry(device.device.clone()).or_insert(device);
        }
    }

    /// The highest fence seen.
    pub(super) fn fence(&self) -> u64 {
        self.fence.highest()
    }

    /// The instant of the last answer, of an earlier run at first.
    pub(super) fn said(&self) -> Option<Timestamp> {
        self.said
    }

    /// How often limits are to be read back; zero: at every sample.
    pub(super) fn look_every(&self) -> Duration {
        (self.actuator.as_ref()).map_or(Duration::ZERO, |a| a.look_every())
    }

    /// How long restoring may take.
    pub(super) fn restore_within(&self) -> Duration {
        (self.actuator.as_ref()).map_or(Duration::ZERO, |a| a.restore_within())
    }

    /// The devices with their limits and ranges of now. What somebody else keeps
    /// lower is the most that can be set. One whose limit cannot be read is left
    /// out, so that nobody takes what it had for what it has.
    pub(super) fn devices(&mut self) -> Vec<CappableDevice> {
        if self.devices.is_empty() {
            // A management controller may be away at the start and come later.
            self.look();
        }
        let names: Vec<DeviceId> = self.devices.keys().cloned().collect();
        let mut unknown = BTreeSet::new();
        for name in names {
            if self.current(&name).is_some() {
                let range = self.actuator.as_mut().and_then(|a| a.range(&name));
                range.map(|range| self.take_range(&name, range));
            } else if self.watch.is_unknown(&name) || !self.held.contains_key(&name) {
                unknown.insert(name);
            }
        }
        let known = (self.devices.values()).filter(|known| !unknown.contains(&known.device));
        let told = known.map(|known| {
            let mut told = known.clone();
            if let Some(ceiling) = self.watch.ceiling(&told.device) {
                told.max = told.max.min(ceiling.max(told.min));
            }
            told
        });
        told.collect()
    }

    /// A device's settable range is this now; whether that is news.
    fn take_range(&mut self, device: &DeviceId, (min, max): (Watts, Watts)) -> bool {
        let Some(known) = self.devices.get_mut(device) else {
            return false;
        };
        let is_news = (known.min, known.max) != (min, max) && min <= max;
        if is_news {
            tracing::warn!(%device, %min, %max, before = %format_args!("{} to {}", known.min, known.max), "the settable range of a power limit has changed");
            (known.min, known.max) = (min, max);
        }
        is_news
    }

    /// Applies a command; `None` when it is older than what was applied.
    pub(super) fn command(&mut self, command: &CapCommand, now: Now) -> Option<CapAnswer> {
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
        }
        let last = self.last.as_ref().map(|(last, _)| LastCommand::of(last));
        if (last.or_else(|| self.before.clone())).is_some_and(|last| last.covers(command)) {
            self.stats.ignored += 1;
            return None;
        }
        let reports = match self.objection(command, now) {
            Some(reason) => command
                .leases
                .iter()
                .map(|l| self.refuse(&l.device, reason.clone()))
                .collect(),
            None => {
                self.restore_at = None;
                self.apply(command, now)
            }
        };
        let answer = self.answer(Some(command), now, reports);
        self.said = Some(now.at);
        self.last = Some((command.clone(), answer.clone()));
        self.keep();
        Some(answer)
    }

    /// An answer to a command, or a statement of one's own.
    fn answer(&self, command: Option<&CapCommand>, now: Now, reports: Vec<CapReport>) -> CapAnswer {
        CapAnswer {
            agent: self.agent.clone(),
            sequence: command.map(|c| c.sequence),
            controller: command.map(|c| c.controller.clone()),
            fence: self.fence(),
            at: now.at,
            reports,
        }
    }

    /// Another controller has taken charge since; whoever sent this is to know.
    fn refuse_outdated(&mut self, command: &CapCommand, now: Now) -> CapAnswer {
        self.stats.ignored += 1;
        let reason = format!(
            "the order bears fence {}; a later controller with fence {} is in charge",
            command.fence,
            self.fence.highest()
        );
        let reports = (command.leases.iter())
            .map(|l| self.refuse(&l.device, reason.clone()))
            .collect();
        self.answer(Some(command), now, reports)
    }

    /// Why no lease of this command may be applied.
    fn objection(&mut self, command: &CapCommand, now: Now) -> Option<String> {
        if self.actuator.is_none() {
            return Some("this agent has no device that can be capped".into());
        }
        if !self.arm {
            return Some(
                "this agent only observes; start it with --arm to let it set power limits".into(),
            );
        }
        if command.expires <= command.issued {
            return Some(format!(
                "the command was issued at {} and ends at {}; it must end later",
                command.issued, command.expires
            ));
        }
        if command.expires + CLOCK_BOUND <= now.wall || command.issued > now.wall + CLOCK_BOUND {
            self.stats.out_of_time += 1;
            return Some(format!(
                "the command was issued at {} and ended at {}, and it is {} here, more than {} min apart; compare the clocks of both machines",
                command.issued,
                command.expires,
                now.wall,
                CLOCK_BOUND.as_secs() / 60
            ));
        }
        None
    }

    fn apply(&mut self, command: &CapCommand, now: Now) -> Vec<CapReport> {
        if let Err(error) = self.remember(&command.leases) {
            let reason = format!("the limits found could not be written to disk first: {error}");
            return (command.leases.iter())
                .map(|l| self.refuse(&l.device, reason.clone()))
                .collect();
        }
        // What others did since the last look comes before what is asked now.
        let mut raised = BTreeSet::new();
        for lease in &command.leases {
            if let Some(current) = self.current(&lease.device)
                && self.notice(&lease.device, current, now) == Finding::TooHigh
            {
                raised.insert(&lease.device);
            }
        }
        // Lower before raise, also within one command.
        let mut order: Vec<(Watts, usize)> = Vec::new();
        for (index, lease) in command.leases.iter().enumerate() {
            let known = self.devices.get(&lease.device);
            let current = known.map_or(lease.cap, |known| known.current);
            order.push((lease.cap - current, index));
        }
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let length = Duration::from_millis(command.expires.0.abs_diff(command.issued.0));
        let ends = now.steady + length.min(LONGEST);
        let mut reports = Vec::new();
        for (_, index) in order {
            let lease = &command.leases[index];
            if !self.devices.contains_key(&lease.device) {
                // What it was could not be noted, so it could not be restored.
                let reason = "this agent knows no device of that name that can be capped";
                reports.push(self.refuse(&lease.device, reason.into()));
                continue;
            }
            let report = self.set_lease(lease, ends);
            match report.outcome {
                CapOutcome::Applied { .. } => {
                    self.stats.applied += 1;
                    self.stats.reverts_corrected += u64::from(raised.contains(&lease.device));
                }
                CapOutcome::Refused { .. } => self.stats.refused += 1,
            }
            reports.push(report);
        }
        reports
    }

    /// Sets what a lease asks for, or as much of it as others leave.
    fn set_lease(&mut self, lease: &CapLease, ends: Timestamp) -> CapReport {
        let device = &lease.device;
        let ceiling = self.watch.ceiling(device);
        let cap = ceiling.map_or(lease.cap, |ceiling| lease.cap.min(ceiling));
        let known = self.devices.get(device).map(|d| (d.min, d.current));
        let report = match known {
            // Somebody else set less than can be set again.
            Some((min, current)) if cap < lease.cap && cap < min => CapReport {
                device: device.clone(),
                outcome: CapOutcome::Applied { readback: current },
            },
            _ => self.set(device, &lease.uuid, cap),
        };
        let has = match &report.outcome {
            CapOutcome::Applied { readback } => *readback,
            // Nobody knows whether it was set before the device was lost: the lease
            // counts, so that it ends in the safe cap when the device is back.
            CapOutcome::Refused { current: None, .. } => {
                let last = self.devices.get(device).map(|d| d.current);
                self.held.get(device).map(|h| h.has).or(last).unwrap_or(cap)
            }
            CapOutcome::Refused { .. } => return report,
        };
        let held = Held {
            uuid: lease.uuid.clone(),
            cap,
            has,
            safe_cap: lease.safe_cap,
            ends: Some(ends),
        };
        self.held.insert(device.clone(), held);
        let CapOutcome::Applied { readback } = report.outcome else {
            return report;
        };
        if readback.0 <= lease.cap.0 + SAME {
            return report;
        }
        // More than is allowed: control must see to it that others have less.
        let reason = format!("it took a limit of {cap} and keeps {readback}");
        let current = Some(readback);
        CapReport {
            outcome: CapOutcome::Refused { reason, current },
            ..report
        }
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
            if found.iter().any(|f| f.device == lease.device) {
                continue;
            }
            // Somebody may have set it since the start: what is there now is found.
            let current = self.current(&lease.device);
            let Some(device) = self.devices.get_mut(&lease.device) else {
                continue;
            };
            device.found = current.unwrap_or(device.found);
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

    /// Writes down what a start after a crash must know.
    fn keep(&mut self) {
        if !self.actuator.as_ref().is_some_and(|a| a.writes()) {
            return;
        }
        let last = self.last.as_ref().map(|(last, _)| LastCommand::of(last));
        let leases = self.held.iter().map(|(device, held)| {
            let lease = KeptLease {
                uuid: held.uuid.clone(),
                safe_cap: held.safe_cap,
                expires: held.ends.unwrap_or(Timestamp(0)),
            };
            (device.clone(), lease)
        });
        self.kept.write(Kept {
            last: last.or_else(|| self.before.clone()),
            leases: leases.collect(),
            said: self.said,
        });
    }

    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> CapReport {
        let outcome = match &mut self.actuator {
            Some(actuator) => actuator.set(device, uuid, cap),
            None => Err(CapError::UnknownDevice(device.clone())),
        };
        if let Err(CapError::OutOfRange { min, max, .. }) = &outcome
            && self.take_range(device, (*min, *max))
        {
            // Control is to hear of it at once.
            self.surprises += 1;
        }
        let outcome = outcome.map_err(|e| e.to_string());
        match outcome {
            Ok(readback) => {
                let before = self.held.get(device).map(|held| held.has);
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
}

#[cfg(test)]
mod ends_tests;
#[cfg(test)]
mod foreign_tests;
#[cfg(test)]
mod tests;
