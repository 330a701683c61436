//! Short excursions against the time-current curve of a breaker.
//!
//! When a limit falls, or load that no cap controls rises, devices go on for a
//! moment at the caps they have. What a breaker bears for that moment is its
//! manufacturer's inverse-time curve, not its rating.

use super::terms::Above;
use super::{Broken, Facts, Findings, Rule, TOLERANCE};
use heliostat_models::site::trip::TripCurve;
use heliostat_models::{DeviceId, Watts};
use std::collections::BTreeMap;

/// Whether every breaker bears the moment in which devices still have their
/// caps of now (`worst`) while those in `sent` are on their way, `seconds` long.
/// What is not in `worst` counts at its highest settable cap.
///
/// Stands beside [`check_transition`](super::check_transition), which lets
/// nothing be raised while a limit is exceeded: this one says whether lowering
/// in good order is quick enough, or whether load must be taken off at once.
/// `curves` holds the time-current curve of power nodes by name; the
/// [standard's](heliostat_models::site::trip::STANDARD) stands for the others.
pub fn check_excursion(
    facts: &Facts<'_>,
    worst: &BTreeMap<DeviceId, Watts>,
    sent: &BTreeMap<DeviceId, Watts>,
    curves: &BTreeMap<String, TripCurve>,
    seconds: f64,
) -> Vec<Broken> {
    let mut findings = Findings::default();
    let (nodes, above) = (facts.site.power.nodes(), Above::new(facts));
    let mut during = vec![Watts::ZERO; above.count];
    for (place, device) in facts.site.devices.iter().enumerate() {
        let most = facts.range(place).1;
        let now = worst.get(&device.id).copied().unwrap_or(most);
        let then = sent.get(&device.id).copied().unwrap_or(now);
        for row in above.rows(place) {
            during[row] += now.max(then);
        }
    }
    let standard = TripCurve::default();
    for (place, node) in nodes.iter().enumerate() {
        let load = during[place]
            + facts.uncontrolled.get(place).copied().unwrap_or_default()
            + facts.uncertainty(place);
        if load <= node.rating + TOLERANCE {
            continue;
        }
        let curve = curves.get(&node.id).unwrap_or(&standard);
        let multiple = load / node.rating;
        if curve.used(&[(multiple, seconds)]) > 1.0 {
            findings.add(
                Rule::TripCurve,
                format!(
                    "`{}` would carry {load:.0}, {multiple:.3} times its rating, for {seconds} s; it surely bears that for {} s",
                    node.id,
                    curve.holds(multiple)
                ),
            );
        }
    }
    findings.0
}
