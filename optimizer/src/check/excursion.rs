//! Short excursions against the time-current curve of a breaker.
//!
//! When a limit falls, or load that no cap controls rises, devices go on for a
//! moment at the caps they have. What a breaker bears for that moment is its
//! manufacturer's inverse-time curve, not its rating.

use super::seen::{known_or, ranges};
use super::terms::Above;
use super::{Broken, Facts, Findings, Rule, TOLERANCE};
use heliostat_models::{DeviceId, Watts};
use std::collections::BTreeMap;

/// What standards promise of any breaker that keeps them: 1.05 times its
/// rating for an hour (IEC 60947-2, conventional non-tripping current), 2.55
/// times for a second (IEC 60898-1, table 7), nothing above.
pub const STANDARD: [(f64, f64); 2] = [(1.05, 3_600.0), (2.55, 1.0)];

/// For how long a breaker surely bears a load: stairs, so that nothing is
/// promised between two points that the worse of them does not promise.
#[derive(Clone, Debug, PartialEq)]
pub struct TripCurve {
    points: Vec<(f64, f64)>,
}

/// Why points are no time-current curve.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "point {place} of the time-current curve is ({multiple} × rating, {seconds} s); multiples must rise from 1, seconds must fall and not be negative"
)]
pub struct NotACurve {
    place: usize,
    multiple: f64,
    seconds: f64,
}

impl Default for TripCurve {
    fn default() -> Self {
        Self {
            points: STANDARD.to_vec(),
        }
    }
}

impl TripCurve {
    /// From (multiple of the rating, seconds that it is surely borne).
    ///
    /// # Errors
    /// When the multiples do not rise or the seconds do not fall.
    pub fn new(points: &[(f64, f64)]) -> Result<Self, NotACurve> {
        let (mut above, mut below) = (1.0, f64::INFINITY);
        for (place, (multiple, seconds)) in points.iter().copied().enumerate() {
            let sound = multiple.is_finite() && multiple > above && seconds >= 0.0;
            if !(sound && seconds < below) {
                return Err(NotACurve {
                    place,
                    multiple,
                    seconds,
                });
            }
            (above, below) = (multiple, seconds);
        }
        Ok(Self {
            points: points.to_vec(),
        })
    }

    /// Seconds for which a load, as a multiple of the rating, is surely borne.
    pub fn holds(&self, load: f64) -> f64 {
        if load <= 1.0 {
            return f64::INFINITY;
        }
        // A load that is no number is not borne at all.
        let step = self.points.iter().find(|(multiple, _)| load <= *multiple);
        step.map_or(0.0, |(_, seconds)| *seconds)
    }

    /// Share of what the breaker bears that a row of loads (multiple of the
    /// rating, seconds) uses up when it cannot cool in between; above 1 it may trip.
    pub fn used(&self, loads: &[(f64, f64)]) -> f64 {
        let lasting = loads
            .iter()
            .filter(|(load, seconds)| *seconds > 0.0 && self.holds(*load).is_finite());
        lasting
            .map(|(load, seconds)| seconds / self.holds(*load))
            .sum()
    }
}

/// Whether every breaker bears the moment in which devices still have their
/// caps of now (`worst`) while those in `sent` are on their way, `seconds` long.
/// What is not in `worst` counts at its highest settable cap.
///
/// Stands beside [`check_transition`](super::check_transition), which lets
/// nothing be raised while a limit is exceeded: this one says whether lowering
/// in good order is quick enough, or whether load must be taken off at once.
/// `curves` holds the time-current curve of power nodes by name; [`STANDARD`]
/// stands for the others.
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
    let range = ranges(facts);
    let worst = known_or(facts, worst, |place| range[place].1);
    let sent = known_or(facts, sent, |place| worst[place]);
    for (place, (now, then)) in worst.into_iter().zip(sent).enumerate() {
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
