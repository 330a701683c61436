//! Nodes whose agents limit them as a whole, through their management controllers.
//!
//! ```text
//! caps of its accelerators + its rated overhead  = order to the node
//! limit of the node        - its rated overhead  = what its accelerators may have
//! ```
//!
//! The limit bounds everything that the node draws, so its overhead counts as rated
//! whatever is measured: what it does not need the accelerators may have, and no sum
//! above changes by that. How a node shares its limit out among its accelerators is
//! its own affair; here each counts with its decided cap and an equal part of the
//! difference, so that sums over nodes are exact and single caps are estimates.
//! Orders are whole watts, as management controllers take them.
//!
//! Where an agent offers its accelerators' caps, those decide, and a limit of the
//! node that it may offer beside them is left as found: as a backstop it would slow
//! processors and accelerators alike, and it would have to be raised before caps and
//! lowered after them without keeping any limit that they do not keep already.

use super::{Executor, SMALLEST_STEP, sense, whole};
use crate::control::device::{Device, Part, Sent};
use heliostat_models::lease::{AgentHello, CapCommand, CapLease, CapReport, CappableDevice};
use heliostat_models::site::Node;
use heliostat_models::{DeviceId, Site, Timestamp, Watts};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Executor {
    /// The nodes that are limited as a whole, by place in the site.
    pub fn limited_whole(&self) -> &Arc<BTreeSet<usize>> {
        &self.limited_whole
    }

    /// The caps that commands ask of accelerators; of those below a node's limit,
    /// what it leaves to them.
    pub fn caps_in<'c>(
        &self,
        commands: impl IntoIterator<Item = &'c CapCommand>,
    ) -> BTreeMap<DeviceId, Watts> {
        let mut caps = BTreeMap::new();
        for lease in commands.into_iter().flat_map(|c| &c.leases) {
            match self.whole_named(&lease.device) {
                None => drop(caps.insert(lease.device.clone(), lease.cap)),
                Some(node) => {
                    let worst = &self.worst[self.site.nodes[node].devices.clone()];
                    let limit = &self.wholes[&node];
                    let parts = spread(left_by(&self.site, node, limit, lease.cap), worst);
                    let ids = self.site.devices[self.site.nodes[node].devices.clone()].iter();
                    caps.extend(ids.map(|d| d.id.clone()).zip(parts));
                }
            }
        }
        caps
    }

    /// An agent that caps none of its accelerators said hello: which of them are
    /// commanded by a limit of their node.
    pub(super) fn hello_of_whole(&mut self, node: usize, hello: &AgentHello) -> Vec<usize> {
        let at = &self.site.nodes[node];
        let places: Vec<usize> = at.devices.clone().collect();
        let said = (hello.devices.iter()).find(|d| d.device.as_str() == at.id.as_str());
        let (Some(said), false) = (said, places.is_empty()) else {
            return Vec::new();
        };
        let fenced = hello.fence >= self.fence;
        if let Some(fault) = sense::fault(said, highest(&self.site, at)) {
            if let Some(limit) = self.wholes.get_mut(&node) {
                limit.on_nonsense(fault, fenced, hello.at);
                self.reflect(node);
            } else {
                for place in places {
                    self.devices[place].on_nonsense(fault.clone(), fenced, hello.at);
                    self.refresh(place);
                }
            }
            return Vec::new();
        }
        let safe: Watts = self.site.devices[at.devices.clone()]
            .iter()
            .map(|d| d.safe_cap)
            .sum();
        let safe = at.overhead + safe;
        let said = CappableDevice {
            min: Watts(said.min.0.ceil()),
            // The highest may mean that the limit is off: where the node can draw
            // more than that, it is never asked for.
            max: match said.max < most(&self.site, at) {
                true => Watts(said.max.0.ceil() - 1.0),
                false => Watts(said.max.0.floor()),
            },
            ..said.clone()
        };
        let limit =
            (self.wholes.entry(node)).or_insert_with(|| Device::new(said.min, said.max, safe));
        limit.on_hello(&said, fenced, hello.at);
        limit.may_reach(most(&self.site, at));
        limit.leaving = hello.leaving.then_some(said.found);
        if !self.limited_whole.contains(&node) {
            Arc::make_mut(&mut self.limited_whole).insert(node);
            self.version += 1;
        }
        self.reflect(node);
        for place in &places {
            self.pace_told(*place);
        }
        match range(&self.site, node, &self.wholes[&node]) {
            Ok(_) => places,
            Err(_) => Vec::new(),
        }
    }

    /// The agent of a node offers caps of its accelerators.
    pub(super) fn is_not_whole(&mut self, node: usize) {
        if self.wholes.remove(&node).is_some() {
            Arc::make_mut(&mut self.limited_whole).remove(&node);
            self.version += 1;
        }
    }

    /// The node that a lease or an answer names, where it is limited as a whole.
    pub(super) fn whole_named(&self, name: &DeviceId) -> Option<usize> {
        if self.wholes.is_empty() {
            return None;
        }
        let (node, _) = self.site.node(name.as_str())?;
        self.wholes.contains_key(&node).then_some(node)
    }

    /// A limit of a node goes out.
    pub(super) fn whole_sent(&mut self, node: usize, sent: Sent, now: Timestamp) {
        let Some(limit) = self.wholes.get_mut(&node) else {
            return;
        };
        limit.sent(sent, now);
        let together = left_by(&self.site, node, limit, sent.cap);
        self.reflect(node);
        if let Some(ramps) = &mut self.ramps {
            ramps.sent_together(self.site.nodes[node].devices.clone(), together);
        }
    }

    /// A node's limit was answered; `last`: the last one that was sent.
    pub(super) fn whole_answered(
        &mut self,
        node: usize,
        report: &CapReport,
        (sequence, last): (Option<u64>, Option<u64>),
        (fenced, at): (bool, Timestamp),
    ) {
        let Some(limit) = self.wholes.get_mut(&node) else {
            return;
        };
        let (now_has, refused) = super::outcome(report);
        let now_has = sense::believed(now_has, highest(&self.site, &self.site.nodes[node]));
        limit.on_report(now_has, refused, sequence, fenced, at);
        self.reflect(node);
        for place in self.site.nodes[node].devices.clone() {
            self.pace_heard(place, sequence, last);
        }
    }

    /// Takes over what a node's limit means for its accelerators.
    pub(super) fn reflect(&mut self, node: usize) {
        let Some(limit) = self.wholes.get(&node) else {
            return;
        };
        let at = &self.site.nodes[node];
        let hint = self.hint(at);
        let shared = |has: Watts| spread(left_by(&self.site, node, limit, has), &hint);
        let worst = shared(limit.worst());
        let stated = limit.reported().map(shared);
        let leaving = limit.leaving.map(shared);
        let (ranges, fault) = match range(&self.site, node, limit) {
            Ok(ranges) => (ranges, None),
            Err(fault) => {
                let found = self.site.devices[at.devices.clone()].iter();
                (found.map(|d| (d.min_cap, d.max_cap)).collect(), Some(fault))
            }
        };
        let refused = fault.or_else(|| limit.refused.clone());
        let mut change = (Watts::ZERO, Watts::ZERO);
        for (index, place) in at.devices.clone().enumerate() {
            let part = Part {
                uuid: &limit.uuid,
                range: ranges[index],
                worst: worst[index],
                stated: stated.as_ref().map(|s| s[index]),
                leaving: leaving.as_ref().map(|s| s[index]),
                refused: refused.clone(),
                fenced: limit.is_fenced(),
            };
            let before = self.devices[place].leaving;
            self.devices[place].follow(part);
            self.version += u64::from(self.devices[place].leaving != before);
        }
        let places = at.devices.clone();
        if let Some(ramps) = &mut self.ramps {
            ramps.share_out(places.clone(), &hint);
        }
        for place in places.clone() {
            let (worst, reported) = self.take_over(place);
            change = (change.0 + worst, change.1 + reported);
        }
        self.pace_changed(places.start, change);
    }

    /// What is decided for a node's accelerators; equal parts while nothing is.
    fn hint(&self, node: &Node) -> Vec<Watts> {
        let targets = self.targets[node.devices.clone()].iter();
        let decided: Option<Vec<Watts>> = targets.copied().collect();
        decided.unwrap_or_else(|| vec![Watts::ZERO; node.devices.len()])
    }

    /// As much of what is decided for a node as may be asked now.
    pub(super) fn wanted_of_whole(
        &self,
        node: usize,
        left: &mut [Watts],
        wanted: &mut [Option<Watts>],
    ) {
        let at = &self.site.nodes[node];
        let places = at.devices.clone();
        let Some(limit) = self.wholes.get(&node) else {
            return;
        };
        let clamped = |place: usize| {
            let (device, target) = (&self.devices[place], self.targets[place]?);
            Some(match limit.leaving {
                // What was found counts as decided, and it may be beyond the range.
                Some(_) => target,
                None => whole(target.clamp(device.min, device.max)),
            })
        };
        let targets: Option<Vec<Watts>> = places.clone().map(clamped).collect();
        let Some(targets) = targets else {
            return;
        };
        let target: Watts = targets.iter().copied().sum();
        let worst: Watts = self.worst[places.clone()].iter().copied().sum();
        let above = self.rows.above_any(places.clone());
        let mut cap = target;
        if !limit.is_fenced() {
            // As for an accelerator that an earlier controller's order may reach.
            if above.iter().any(|row| left[*row] < Watts::ZERO) {
                cap = target.min(left_by(&self.site, node, limit, limit.stated()));
            }
        } else if target > worst {
            let fits = (above.iter()).fold(target - worst, |fits, row| fits.min(left[*row]));
            let raise = match fits {
                fits if fits >= target - worst => target - worst,
                fits if fits.0 >= SMALLEST_STEP => fits,
                _ => Watts::ZERO,
            };
            cap = worst + raise;
            for row in &above {
                left[*row] -= raise;
            }
        }
        // A node below its settable range waits until it can be lifted into it.
        if cap < target && at.overhead + cap < limit.min - Watts(ROUNDING) {
            return;
        }
        for (place, part) in places.zip(spread(cap, &targets)) {
            wanted[place] = Some(part);
        }
    }
}

/// What to ask of a node for the caps asked of its accelerators.
pub(super) fn order(
    site: &Site,
    node: usize,
    limit: &Device,
    wanted: &[Option<Watts>],
) -> Option<Watts> {
    let at = &site.nodes[node];
    let caps: Option<Watts> = wanted[at.devices.clone()].iter().copied().sum();
    let caps = caps? + Watts(ROUNDING);
    if let Some(found) = limit.leaving
        && caps >= left_by(site, node, limit, found)
    {
        // Exactly what was found, so that all of it goes back.
        return Some(found);
    }
    Some(Watts((at.overhead + caps).0.floor()).clamp(limit.min, limit.max))
}

/// The lease of a node.
pub(super) fn lease(node: &Node, limit: &Device, cap: Watts) -> CapLease {
    CapLease {
        device: DeviceId::from(node.id.as_str()),
        uuid: limit.uuid.clone(),
        cap,
        safe_cap: limit.safe.min(cap),
    }
}

/// Sums of caps are off by less than this, in watts.
const ROUNDING: f64 = 1e-6;

/// What a node draws at most, limited or not.
fn most(site: &Site, node: &Node) -> Watts {
    let devices = &site.devices[node.devices.clone()];
    node.overhead + devices.iter().map(|d| d.max_cap).sum()
}

/// The highest limit that makes sense to speak of: where a node is not limited,
/// controllers say the highest number that they have.
fn highest(site: &Site, node: &Node) -> Watts {
    most(site, node).max(Watts(10_000.0))
}

/// What the accelerators of a node may draw while its limit is this. Above the
/// highest that is asked for it may be off, and no node draws more than it can.
fn left_by(site: &Site, node: usize, limit: &Device, has: Watts) -> Watts {
    let at = &site.nodes[node];
    let most = most(site, at);
    below(at, if has > limit.max { most } else { has.min(most) })
}

/// What a limit of a node leaves to its accelerators.
fn below(node: &Node, limit: Watts) -> Watts {
    (limit - node.overhead).max(Watts::ZERO)
}

/// Shares out a sum: as the hint says, and what differs in equal parts.
fn spread(sum: Watts, hint: &[Watts]) -> Vec<Watts> {
    let hinted: Watts = hint.iter().copied().sum();
    let more = (sum - hinted) / hint.len().max(1) as f64;
    hint.iter().map(|part| *part + more).collect()
}

/// The range of each accelerator: what the node's range leaves to it in equal
/// parts, within what the site says of it. So every choice of caps within their
/// ranges adds up to a limit that can be set.
fn range(site: &Site, node: usize, limit: &Device) -> Result<Vec<(Watts, Watts)>, String> {
    let at = &site.nodes[node];
    let count = at.devices.len() as f64;
    let part = |limit: Watts| (limit - at.overhead).0 / count * 1e3;
    let least = Watts((part(limit.min) - ROUNDING).ceil() / 1e3);
    let most = Watts((part(limit.max) + ROUNDING).floor() / 1e3);
    (site.devices[at.devices.clone()].iter())
        .map(|d| {
            let (low, high) = (d.min_cap.max(least), d.max_cap.min(most));
            if low <= high {
                return Ok((low, high));
            }
            Err(format!(
                "the limit of the node can be set from {:.0} to {:.0}; less its overhead of {:.0} that is {least:.0} to {most:.0} for each accelerator, which takes {:.0} to {:.0}",
                limit.min, limit.max, at.overhead, d.min_cap, d.max_cap
            ))
        })
        .collect()
}
