//! The way from the caps in force to the new ones: what must be lowered before
//! anything is raised, and whether breakers bear the meantime.

use super::State;
use crate::check::{Broken, Facts, TOLERANCE, check_excursion, check_transition};
use heliostat_models::{DeviceId, Watts};
use serde::Serialize;
use std::collections::BTreeMap;

/// Lower before raise, in figures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Way {
    /// Devices to be lowered at once.
    pub lower: usize,
    /// Devices to be raised when those have answered.
    pub raise: usize,
    /// Limits that would be exceeded were all sent at the same time.
    pub together: Vec<String>,
    /// Limits that would be exceeded even when the lowered ones have answered:
    /// what is raised below them must wait.
    pub in_order: Vec<String>,
    /// Breakers that do not surely bear the caps in force until lowering is done.
    pub breakers: Vec<String>,
}

/// The way to new caps; `None` where the state says nothing of those in force.
/// A device whose cap is not stated counts at its highest.
pub(super) fn way(
    facts: &Facts<'_>,
    state: &State,
    caps: &BTreeMap<DeviceId, Watts>,
) -> Option<Way> {
    if state.in_force.is_empty() {
        return None;
    }
    let now: BTreeMap<DeviceId, Watts> = (facts.site.devices.iter())
        .map(|device| {
            let stated = facts
                .ranges
                .get(&device.id)
                .map_or(device.max_cap, |range| range.1);
            let pinned = facts.pinned.get(&device.id).copied();
            let has = state.in_force.get(&device.id).copied().or(pinned);
            (device.id.clone(), has.unwrap_or(stated))
        })
        .collect();
    let lowered = |(device, cap): (&DeviceId, &Watts)| {
        let then = caps.get(device).copied().unwrap_or(*cap);
        (device.clone(), then.min(*cap))
    };
    let after: BTreeMap<DeviceId, Watts> = now.iter().map(lowered).collect();
    let differs = |a: Watts, b: Watts| a > b + TOLERANCE;
    let pairs = || {
        caps.iter()
            .filter_map(|(d, cap)| Some((*cap, *now.get(d)?)))
    };
    let said = |broken: Vec<Broken>| broken.into_iter().map(|b| b.detail).collect();
    let curves = &state.trip_curves;
    Some(Way {
        lower: pairs().filter(|(then, now)| differs(*now, *then)).count(),
        raise: pairs().filter(|(then, now)| differs(*then, *now)).count(),
        together: said(check_transition(facts, &now, caps)),
        in_order: said(check_transition(facts, &after, caps)),
        breakers: said(check_excursion(
            facts,
            &now,
            &after,
            curves,
            state.lowering_seconds,
        )),
    })
}
