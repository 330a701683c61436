//! What a job's curve and its trial leave of the settable ranges of its devices.

use super::{Curves, cap_for};
use crate::control::probing::Trying;
use heliostat_models::site::{Device, FINEST_STEP};
use heliostat_models::{DeviceId, JobRecord, Site, Watts};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Share of a step by which a cap may be off one.
const ROUNDING: f64 = 1e-6;

impl Curves {
    /// Settable ranges as decisions are to see them: the lowest caps of jobs'
    /// devices raised to where even the lower bounds of their curves keep their
    /// classes' floors, as far as the ranges reach; the highest lowered to a cap
    /// that is being tried.
    pub fn narrowed(
        &self,
        site: &Site,
        jobs: &[JobRecord],
        ranges: &Arc<BTreeMap<DeviceId, (Watts, Watts)>>,
    ) -> Arc<BTreeMap<DeviceId, (Watts, Watts)>> {
        let mut narrowed = Arc::clone(ranges);
        let settable = |d: &Device| {
            let stated = ranges.get(&d.id).copied();
            stated.unwrap_or((d.min_cap, d.max_cap))
        };
        for job in jobs {
            let floor = site.classes.get(&job.class).map_or(0.0, |c| c.floor_speed);
            let Some(learned) = self.jobs.get(&job.id) else {
                continue;
            };
            let devices = || site.devices_named(&job.devices);
            // A gang shares one cap: no member may be asked for more than another can
            // have, nor held to less than another needs.
            let (mut needs, mut able) = (Watts::ZERO, Watts(f64::INFINITY));
            for (low, high) in devices().map(|(_, d)| settable(d)) {
                (needs, able) = (needs.max(low), able.min(high));
            }
            let least = cap_for(&learned.lower, floor);
            let most = learned.trying.as_ref().map(Trying::cap);
            if least.is_none() && most.is_none() {
                continue;
            }
            for (_, device) in devices() {
                let (low, high) = settable(device);
                let least = least.map(|cap| match on_step(device, cap, f64::ceil) {
                    cap if cap > able => on_step(device, able, f64::floor),
                    cap => cap,
                });
                let most = most.map(|cap| match on_step(device, cap, f64::floor) {
                    cap if cap < needs => on_step(device, needs, f64::ceil),
                    cap => cap,
                });
                let low = low.max(least.map_or(low, |cap| cap.min(high)));
                let high = most.map_or(high, |cap| high.min(cap)).max(low);
                if (low, high) != settable(device) {
                    Arc::make_mut(&mut narrowed).insert(device.id.clone(), (low, high));
                }
            }
        }
        narrowed
    }
}

/// A cap that the device can be set to, next to this one.
fn on_step(device: &Device, cap: Watts, round: impl Fn(f64) -> f64) -> Watts {
    let step = device.cap_step.max(FINEST_STEP);
    // What a step comes to by rounding alone is on it already.
    let steps = cap / step;
    let whole = steps.round();
    let is_whole = (steps - whole).abs() < ROUNDING;
    step * if is_whole { whole } else { round(steps) }
}
