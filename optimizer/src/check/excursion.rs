//! Short excursions against the time-current curve of a breaker.
//!
//! When a limit falls, or load that no cap controls rises, devices go on for a
//! moment at the caps they have. What a breaker bears for that moment is its
//! manufacturer's inverse-time curve, not its rating.

use super::seen::{known_or, ranges};
use super::{Broken, Facts, Findings, Rule, TOLERANCE};
use heliostat_models::site::trip::TripCurve;
use heliostat_models::{DeviceId, Watts};
use std::collections::BTreeMap;

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
#[derive(Clone, Copy, Debug, PartialEq)]
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

/// The breakers of a site under the loads of now.
#[derive(Clone, Debug)]
pub struct Breakers<'a> {
    facts: &'a Facts<'a>,
    curves: &'a BTreeMap<String, TripCurve>,
    /// The power nodes above each compute node.
    above: Vec<Vec<usize>>,
}

impl<'a> Breakers<'a> {
    /// `curves` holds the time-current curve of power nodes by name; the
    /// [standard's](heliostat_models::site::trip::STANDARD) stands for the others.
    pub fn new(facts: &'a Facts<'a>, curves: &'a BTreeMap<String, TripCurve>) -> Self {
        let nodes = facts.site.nodes.iter();
        Self {
            facts,
            curves,
            above: nodes
                .map(|n| facts.site.power.path_up(n.power_node))
                .collect(),
        }
    }

    /// The power nodes above a device.
    pub fn above(&self, device: usize) -> &[usize] {
        &self.above[self.facts.site.devices[device].node]
    }

    /// Those that may trip. First every device counts at the larger of its two
    /// caps, then those at theirs that are not late; what comes after is for the
    /// limits to say.
    pub fn strained(&self, moment: &Moment<'_>) -> Vec<Excursion> {
        let nodes = self.facts.site.power.nodes();
        let mut first = self.loads();
        let mut second = first.clone();
        for (node, above) in self.facts.site.nodes.iter().zip(&self.above) {
            let (mut at_first, mut later) = (Watts::ZERO, Watts::ZERO);
            for device in node.devices.clone() {
                let (now, then) = (moment.now[device], moment.then[device]);
                let is_late = moment.late.get(device).copied().unwrap_or(false);
                at_first += now.max(then);
                later += if is_late { now.max(then) } else { then };
            }
            for up in above {
                first[*up] += at_first;
                second[*up] += later;
            }
        }
        let rest = (moment.late_seconds - moment.seconds).max(0.0);
        let standard = TripCurve::default();
        let mut strained = Vec::new();
        for (place, node) in nodes.iter().enumerate() {
            let rated = node.rating + TOLERANCE;
            if first[place] <= rated && second[place] <= rated {
                continue;
            }
            let curve = self.curves.get(&node.id).unwrap_or(&standard);
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

    /// What each power node carries besides caps, at its upper bound.
    fn loads(&self) -> Vec<Watts> {
        let facts = self.facts;
        (0..facts.site.power.nodes().len())
            .map(|v| facts.uncontrolled.get(v).copied().unwrap_or_default() + facts.uncertainty(v))
            .collect()
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
