//! Facts and a proposal by place in the site: names are looked up once.

use super::terms::Above;
use super::{Facts, Proposal};
use heliostat_models::{DeviceId, Watts};
use std::collections::BTreeMap;

/// What a check looks at, device by device.
pub(super) struct Seen {
    /// The proposed caps, where there is one.
    pub caps: Vec<Option<Watts>>,
    /// Settable ranges.
    pub range: Vec<(Watts, Watts)>,
    /// Caps of devices that cannot be commanded.
    pub pinned: Vec<Option<Watts>>,
    /// The devices of each job that the site knows.
    pub gangs: Vec<Vec<usize>>,
    /// Which limits stand above each device.
    pub above: Above,
}

impl Seen {
    pub fn new(facts: &Facts<'_>, proposal: &Proposal<'_>) -> Self {
        let site = facts.site;
        let gang = |devices: &[DeviceId]| {
            let known = site.devices_named(devices);
            known.map(|(place, _)| place).collect()
        };
        Self {
            caps: site.by_place(proposal.caps),
            range: ranges(facts),
            pinned: site.by_place(facts.pinned),
            gangs: facts.jobs.iter().map(|job| gang(&job.devices)).collect(),
            above: Above::new(facts),
        }
    }

    /// The devices of a job that can be commanded.
    pub fn free(&self, job: usize) -> impl Iterator<Item = usize> + Clone + '_ {
        let gang = self.gangs[job].iter().copied();
        gang.filter(|place| self.pinned[*place].is_none())
    }

    /// Sum of the caps below each limit.
    pub fn capped(&self) -> Vec<Watts> {
        let mut capped = vec![Watts::ZERO; self.above.count];
        for (place, cap) in self.caps.iter().enumerate() {
            let cap = cap.unwrap_or_default();
            self.above.rows(place).for_each(|row| capped[row] += cap);
        }
        capped
    }
}

/// Settable ranges by place.
pub(super) fn ranges(facts: &Facts<'_>) -> Vec<(Watts, Watts)> {
    let stated = facts.site.by_place(facts.ranges);
    (facts.site.devices.iter().zip(stated))
        .map(|(device, stated)| stated.unwrap_or((device.min_cap, device.max_cap)))
        .collect()
}

/// What is known by name, by place; elsewhere what `otherwise` says.
pub(super) fn known_or(
    facts: &Facts<'_>,
    known: &BTreeMap<DeviceId, Watts>,
    otherwise: impl Fn(usize) -> Watts,
) -> Vec<Watts> {
    (facts.site.by_place(known).into_iter().enumerate())
        .map(|(place, value)| value.unwrap_or_else(|| otherwise(place)))
        .collect()
}
