//! When breakers may not bear what devices still have until caps are lowered:
//! load is taken off below them at once, deeper than the limits ask for.
//!
//! By class, like floors give way: first each class down to its service level,
//! then down to the lowest caps, until what is left is surely borne. A watt less
//! asked of those that answer is a watt less while others are late.

use super::answers::AnswerTimes;
use super::curves::cap_for;
use super::round::Control;
use crate::check::{
    Breakers, Excursion, Facts, Moment, NO_TERMS, Proposal, Rule, TripCurve, check_caps,
};
use heliostat_models::site::FINEST_STEP;
use heliostat_models::{DeviceId, JobClass, JobId, JobRecord, Timestamp, Watts};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The order in which classes give way.
const ORDER: [JobClass; 4] = [
    JobClass::Experiment,
    JobClass::FineTuning,
    JobClass::Training,
    JobClass::Inference,
];
/// So many breakers are named; the others are counted.
const NAMED: usize = 3;

/// What is asked for instead of the caps that were decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Relief {
    /// A cap for every device, by place in the site; none above the decided one.
    pub caps: Vec<Watts>,
    /// Jobs that do not keep their service level.
    pub dropped: Vec<JobId>,
    /// The breakers that would not surely bear the decided caps.
    pub breakers: Vec<Excursion>,
    /// Whether they surely bear these.
    pub is_enough: bool,
}

/// What must come off at once; `None` where all breakers bear the way to
/// `moment.then`. Only devices that can be commanded are asked.
pub fn relief(
    facts: &Facts<'_>,
    curves: &BTreeMap<String, TripCurve>,
    moment: &Moment<'_>,
) -> Option<Relief> {
    let all = Breakers::new(facts, curves);
    let breakers = all.strained(moment);
    if breakers.is_empty() {
        return None;
    }
    let mut caps = moment.then.to_vec();
    let mut dropped = Vec::new();
    let mut strained = breakers.clone();
    let steps = [true, false]
        .into_iter()
        .flat_map(|keep| ORDER.map(|class| (keep, class)));
    for (keep_level, class) in steps {
        let mut changed = false;
        for job in facts.jobs.iter().filter(|job| job.class == class) {
            let Some((devices, lowest, level)) = gang(facts, job) else {
                continue;
            };
            let is_below = |device: &usize| {
                let mut nodes = all.above(*device).iter();
                nodes.any(|v| strained.iter().any(|s| s.node == *v))
            };
            if !devices.iter().any(is_below) {
                continue;
            }
            let cap = if keep_level { level } else { lowest };
            for device in &devices {
                changed |= caps[*device] > cap;
                caps[*device] = caps[*device].min(cap);
            }
            if cap < level {
                dropped.push(job.id.clone());
            }
        }
        if changed {
            strained = all.strained(&Moment {
                then: &caps,
                ..*moment
            });
            if strained.is_empty() {
                break;
            }
        }
    }
    Some(Relief {
        caps,
        dropped,
        breakers,
        is_enough: strained.is_empty(),
    })
}

/// Those of a job's devices that can be commanded, the lowest cap that they can
/// share, and the lowest at which the job keeps its service level.
fn gang(facts: &Facts<'_>, job: &JobRecord) -> Option<(Vec<usize>, Watts, Watts)> {
    let (mut low, mut high, mut step) = (Watts::ZERO, Watts(f64::INFINITY), 1);
    let mut devices = Vec::new();
    for id in job
        .devices
        .iter()
        .filter(|d| !facts.pinned.contains_key(*d))
    {
        let (place, device) = facts.site.device(id)?;
        let stated = facts.ranges.get(id).copied();
        let (least, most) = stated.unwrap_or((device.min_cap, device.max_cap));
        (low, high) = (low.max(least), high.min(most));
        step = common(step, (device.cap_step / FINEST_STEP).round() as u64);
        devices.push(place);
    }
    if devices.is_empty() || low > high {
        return None;
    }
    let step = FINEST_STEP * step as f64;
    // The rounding of a division must not take a whole step.
    let up = |cap: Watts| (step * (cap / step - 1e-6).ceil()).clamp(low, high);
    let floor = facts
        .site
        .classes
        .get(&job.class)
        .map_or(0.0, |c| c.floor_speed);
    let lowest = up(low);
    let level = cap_for(&job.curve, floor).map_or(lowest, |cap| up(cap).max(lowest));
    Some((devices, lowest, level))
}

/// The smallest number that both divide.
fn common(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a.max(1), b.max(1));
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a.max(1) / x * b.max(1)
}

/// Whether lowering caps can break a rule. Sums can only shrink by it.
fn is_at_stake(rule: Rule) -> bool {
    matches!(
        rule,
        Rule::DeviceRange
            | Rule::Step
            | Rule::EveryDevice
            | Rule::GangEqual
            | Rule::Floor
            | Rule::Finite
    )
}

/// How the loop stands with its breakers.
#[derive(Debug)]
pub(super) struct Watch {
    /// How long lowering takes.
    pub answers: AnswerTimes,
    /// Whether load is being taken off.
    active: bool,
    /// What it has to say.
    pub troubles: Vec<String>,
    /// Decisions, executor and inputs at the last look.
    from: Option<(u64, u64, u64)>,
}

impl Watch {
    /// Nothing is strained so far.
    pub fn new(answers: AnswerTimes) -> Self {
        Self {
            answers,
            active: false,
            troubles: Vec::new(),
            from: None,
        }
    }

    /// Whether load is being taken off.
    pub fn is_active(&self) -> bool {
        self.active
    }
}

impl Control {
    /// Holds what devices still have against the breakers' curves, and takes
    /// load off at once where they may not bear it.
    pub(super) fn mind_breakers(&mut self, now: Timestamp) {
        let from = Some((
            self.allocations,
            self.executor.version(),
            self.inputs.version(),
        ));
        let waits = self.executor.unanswered() > 0;
        if self.watch.from == from && !waits && !self.watch.active {
            return;
        }
        self.watch.from = from;
        self.watch.troubles.clear();
        let was_active = std::mem::take(&mut self.watch.active);
        if !self.armed() || self.refused {
            return;
        }
        let Some(in_force) = &self.in_force else {
            return;
        };
        let (site, ranges) = (&self.deps.site, Arc::clone(self.executor.ranges()));
        let pinned = match self.room_to_leave {
            true => self.executor.pinned(now),
            false => self.executor.stuck(now),
        };
        let seconds = self.watch.answers.seconds();
        let facts = Facts {
            site,
            margin: self.config.policy.margin,
            grid: None,
            uncontrolled: &[],
            ranges: &ranges,
            pinned: &pinned,
            jobs: &in_force.jobs,
            price_of_energy: self.price,
            terms: &NO_TERMS,
        };
        let facts = self.counted.complete(facts, None);
        let decided = &in_force.outcome.allocation().caps;
        let then: Vec<Watts> = (site.devices.iter().zip(decided))
            .map(|(device, cap)| pinned.get(&device.id).copied().unwrap_or(*cap))
            .collect();
        let moment = Moment {
            now: &self.executor.held(),
            then: &then,
            seconds,
            late: &self.executor.late(now, seconds),
            // Then they count as beyond reach, and limits are kept around them.
            late_seconds: 2.0 * self.config.policy.lease.as_secs_f64(),
        };
        let Some(relief) = relief(&facts, &site.trip_curves, &moment) else {
            if was_active {
                self.executor.set_targets(&in_force.caps);
            }
            return;
        };
        let caps: BTreeMap<DeviceId, Watts> = (site.devices.iter().zip(&relief.caps))
            .map(|(device, cap)| (device.id.clone(), *cap))
            .collect();
        let proposal = Proposal {
            caps: &caps,
            node_prices: &in_force.prices,
            certificate: &in_force.certificate,
            dropped: &[&in_force.dropped[..], &relief.dropped].concat(),
            beyond: &[],
        };
        let mut broken = check_caps(&facts, &proposal);
        broken.retain(|b| is_at_stake(b.rule));
        if !broken.is_empty() {
            self.journal.refusal(now, true, &broken, None);
            return;
        }
        let names: Vec<&str> = (relief.breakers.iter())
            .map(|b| site.power.nodes()[b.node].id.as_str())
            .collect();
        if !was_active {
            let worst = relief
                .breakers
                .iter()
                .map(|b| b.multiple)
                .fold(0.0, f64::max);
            tracing::warn!(
                ?names,
                worst,
                seconds,
                enough = relief.is_enough,
                "load is taken off at once"
            );
        }
        self.watch.troubles.push(told(&names));
        self.watch.active = true;
        self.executor.set_targets(&caps);
    }
}

fn told(names: &[&str]) -> String {
    let mut listed = names[..names.len().min(NAMED)]
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > NAMED {
        listed += &format!(" and {} more", names.len() - NAMED);
    }
    format!(
        "What devices may draw until caps are lowered is more than {listed} surely bears for so long; below, load is taken off at once, by class"
    )
}
