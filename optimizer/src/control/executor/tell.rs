//! What the executor tells of devices: what they may have, have, and do.

use super::Executor;
use crate::control::device::Device;
use crate::control::rows::LimitRows;
use heliostat_models::{DeviceId, Timestamp, Watts};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Executor {
    /// The limits above each device.
    pub(in crate::control) fn rows(&self) -> &LimitRows {
        &self.rows
    }

    /// The largest cap that each device may have now.
    pub fn worst(&self) -> &BTreeMap<DeviceId, Watts> {
        &self.worst_by_name
    }

    /// The same by place in the site.
    pub fn worst_caps(&self) -> &[Watts] {
        &self.worst
    }

    /// The largest cap that each device may have by its agent's word and our own
    /// orders, those of an earlier controller left out of account; by place.
    pub fn held(&self) -> Vec<Watts> {
        self.devices.iter().map(Device::held).collect()
    }

    /// Devices whose agents have owed an answer for more than so many seconds, by place.
    pub fn late(&self, now: Timestamp, seconds: f64) -> Vec<bool> {
        let mut late = vec![false; self.devices.len()];
        for agent in self.agents.values() {
            let owes = |since: Timestamp| now.seconds_since(since) > seconds;
            if agent.waiting_since.is_some_and(owes) {
                agent.devices.iter().for_each(|place| late[*place] = true);
            }
        }
        late
    }

    /// The cap that each device last reported, by place in the site.
    pub fn reported(&self) -> &[Option<Watts>] {
        &self.reported
    }

    /// The cap that each device last reported, where one did.
    pub fn acknowledged(&self) -> BTreeMap<DeviceId, Watts> {
        (self.site.devices.iter().zip(&self.reported))
            .filter_map(|(d, reported)| Some((d.id.clone(), (*reported)?)))
            .collect()
    }

    /// Settable ranges as agents said them.
    pub fn ranges(&self) -> &Arc<BTreeMap<DeviceId, (Watts, Watts)>> {
        &self.ranges
    }

    /// Looks which devices nobody answers for: no agent speaks for them, or
    /// theirs has not answered for two leases.
    pub fn look(&mut self, now: Timestamp) {
        let mut silent = vec![true; self.devices.len()];
        for agent in self.agents.values() {
            let quiet = agent
                .waiting_since
                .is_some_and(|since| now.seconds_since(since) > 2.0 * self.lease.as_secs_f64());
            for place in &agent.devices {
                silent[*place] = quiet;
            }
        }
        if silent != self.silent {
            self.silent = silent;
            self.version += 1;
        }
    }

    /// What the time is: what comes down does so now.
    pub fn see(&mut self, now: Timestamp) {
        self.seen = now;
    }

    /// Since when each device may have no more than [`Executor::worst_caps`], by
    /// place in the site.
    pub fn lowered(&self) -> &Arc<Vec<Timestamp>> {
        &self.lowered
    }

    /// How many devices cannot be commanded, as of the last look.
    pub fn beyond_reach(&self) -> usize {
        let silent = |place: &usize| self.silent[*place];
        let refusing = self.refusing.iter().filter(|p| !silent(p)).count();
        refusing + self.silent.iter().filter(|s| **s).count()
    }

    /// Devices whose cap is not ours to choose now, with what they count with:
    /// those beyond reach, and those whose agent is about to stop, with at least
    /// what it found.
    pub fn pinned(&mut self, now: Timestamp) -> BTreeMap<DeviceId, Watts> {
        let mut pinned = self.stuck(now);
        let all = self.site.devices.iter().zip(&self.worst).zip(&self.devices);
        pinned.extend(
            all.filter_map(|((d, worst), device)| Some((d.id.clone(), worst.max(device.leaving?)))),
        );
        pinned
    }

    /// Devices beyond reach, with the largest cap that they may have: no agent
    /// speaks for them, the last command was refused, or their agent has not
    /// answered for two leases.
    pub fn stuck(&mut self, now: Timestamp) -> BTreeMap<DeviceId, Watts> {
        self.look(now);
        (self.site.devices.iter().zip(&self.worst).enumerate())
            .filter(|(place, _)| self.silent[*place] || self.refusing.contains(place))
            .map(|(_, (d, worst))| (d.id.clone(), *worst))
            .collect()
    }

    /// How many devices nobody answers for, as of the last look.
    pub fn silent(&self) -> usize {
        self.silent.iter().filter(|s| **s).count()
    }

    /// Why devices refused their last command.
    pub fn refusals(&self) -> BTreeMap<DeviceId, String> {
        (self.refusing.iter())
            .filter_map(|place| {
                let reason = self.devices[*place].refused.clone()?;
                Some((self.site.devices[*place].id.clone(), reason))
            })
            .collect()
    }

    /// Commands that no answer has come to.
    pub fn unanswered(&self) -> usize {
        (self.agents.values())
            .filter(|a| a.waiting_since.is_some())
            .count()
    }
}
