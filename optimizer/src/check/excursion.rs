//! Short excursions against the time-current curve of a breaker.
//!
//! When a limit falls, or load that no cap controls rises, devices go on for a
//! moment at the caps they have. What a breaker bears for that moment is its
//! manufacturer's inverse-time curve, not its rating.

use super::seen::{known_or, ranges};
use super::{Broken, Facts, Findings, Rule, TOLERANCE};
use heliostat_models::site::trip::TripCurve;
use heliostat_models::{DeviceId, Watts};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::Range;

/// The way from the caps that devices have to those that they are to have, by
/// their places in the site.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The largest cap that each device may have now.
    pub now: &'a [Watts],
    /// The cap that it is to have.
    pub then: &'a [Watts],
    /// Seconds until that is surely in force, where its agent is not late.
    pub seconds: f64,
    /// Devices whose agents are late; nobody else is late where it is empty.
    pub late: &'a [bool],
    /// Seconds for which these may go on as they are.
    pub late_seconds: f64,
}

/// A breaker that does not surely bear a moment.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Excursion {
    /// Its power node, by place in the tree.
    pub node: usize,
    /// What it carries at first.
    pub load: Watts,
    /// The same as a multiple of its rating.
    pub multiple: f64,
    /// Seconds for which it surely bears that.
    pub borne: f64,
    /// Share of what it bears that the whole moment uses up: above 1.
    pub used: f64,
}

/// A breaker as it stands before any cap counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Breaker<'a> {
    /// Name of its power node.
    pub id: &'a str,
    /// What it bears without end.
    pub rating: Watts,
    /// What it carries besides caps, at its upper bound.
    pub load: Watts,
}

/// A compute node: its devices by place, and the power nodes above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Below {
    /// Its devices.
    pub devices: Range<usize>,
    /// The places of the power nodes above them, its own among them.
    pub above: Vec<usize>,
}

/// The breakers of a site under the loads of now.
#[derive(Clone, Debug)]
pub struct Breakers<'a> {
    breakers: Vec<Breaker<'a>>,
    below: Vec<Below>,
    curves: &'a BTreeMap<String, TripCurve>,
}

impl<'a> Breakers<'a> {
    /// `curves` holds the time-current curve of power nodes by name; the
    /// [standard's](heliostat_models::site::trip::STANDARD) stands for the others.
    pub fn new(facts: &Facts<'a>, curves: &'a BTreeMap<String, TripCurve>) -> Self {
        let load = |v: usize| {
            facts.uncontrolled.get(v).copied().unwrap_or_default() + facts.uncertainty(v)
        };
        let nodes = facts.site.power.nodes().iter().enumerate();
        let breakers = nodes.map(|(place, node)| Breaker {
            id: &node.id,
            rating: node.rating,
            load: load(place),
        });
        let below = facts.site.nodes.iter().map(|node| Below {
            devices: node.devices.clone(),
            above: facts.site.power.path_up(node.power_node),
        });
        Self::of(breakers.collect(), below.collect(), curves)
    }

    /// The same from its parts: breakers by their places in the power tree, and
    /// what stands below them.
    pub fn of(
        breakers: Vec<Breaker<'a>>,
        below: Vec<Below>,
        curves: &'a BTreeMap<String, TripCurve>,
    ) -> Self {
        Self {
            breakers,
            below,
            curves,
        }
    }

    /// The breakers, by their places in the power tree.
    pub fn all(&self) -> &[Breaker<'a>] {
        &self.breakers
    }

    /// The compute nodes below them.
    pub fn below(&self) -> &[Below] {
        &self.below
    }

    /// Those that may trip. First every device counts at the larger of its two
    /// caps, then those at theirs that are not late; what comes after is for the
    /// limits to say.
    pub fn strained(&self, moment: &Moment<'_>) -> Vec<Excursion> {
        let mut first: Vec<Watts> = self.breakers.iter().map(|b| b.load).collect();
        let mut second = first.clone();
        for node in &self.below {
            let (mut at_first, mut later) = (Watts::ZERO, Watts::ZERO);
            for device in node.devices.clone() {
                let (now, then) = (moment.now[device], moment.then[device]);
                let is_late = moment.late.get(device).copied().unwrap_or(false);
                at_first += now.max(then);
                later += if is_late { now.max(then) } else { then };
            }
            for up in &node.above {
                first[*up] += at_first;
                second[*up] += later;
            }
        }
        let rest = (moment.late_seconds - moment.seconds).max(0.0);
        let standard = TripCurve::default();
        let mut strained = Vec::new();
        for (place, node) in self.breakers.iter().enumerate() {
            let rated = node.rating + TOLERANCE;
            if first[place] <= rated && second[place] <= rated {
                continue;
            }
            let curve = self.curves.get(node.id).unwrap_or(&standard);
            let multiple = first[place] / node.rating;
            let loads = [
                (multiple, moment.seconds),
                (second[place] / node.rating, rest),
            ];
            let used = curve.used(&loads);
            // What is no number is not borne either.
            if used > 1.0 || used.is_nan() {
                strained.push(Excursion {
                    node: place,
                    load: first[place],
                    multiple,
                    borne: curve.holds(multiple),
                    used,
                });
            }
        }
        strained
    }
}

/// Whether every breaker bears the moment in which devices still have their
/// caps of now (`worst`) while those in `sent` are on their way, `seconds` long.
/// What is not in `worst` counts at its highest settable cap.
///
/// Stands beside [`check_transition`](super::check_transition), which lets
/// nothing be raised while a limit is exceeded: this one says whether lowering
/// in good order is quick enough, or whether load must be taken off at once.
/// For `curves` see [`Breakers::new`].
pub fn check_excursion(
    facts: &Facts<'_>,
    worst: &BTreeMap<DeviceId, Watts>,
    sent: &BTreeMap<DeviceId, Watts>,
    curves: &BTreeMap<String, TripCurve>,
    seconds: f64,
) -> Vec<Broken> {
    let range = ranges(facts);
    let now = known_or(facts, worst, |place| range[place].1);
    let then = known_or(facts, sent, |place| now[place]);
    let moment = Moment {
        now: &now,
        then: &then,
        seconds,
        late: &[],
        late_seconds: 0.0,
    };
    let mut findings = Findings::default();
    for strained in Breakers::new(facts, curves).strained(&moment) {
        findings.add(
            Rule::TripCurve,
            format!(
                "`{}` would carry {:.0}, {:.3} times its rating, for {seconds} s; it surely bears that for {} s",
                facts.site.power.nodes()[strained.node].id,
                strained.load,
                strained.multiple,
                strained.borne
            ),
        );
    }
    findings.0
}
