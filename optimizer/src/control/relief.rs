//! When breakers may not bear what devices still have until caps are lowered:
//! load is taken off below them at once, deeper than the limits ask for.
//!
//! By class, like floors give way: first each class down to its service level,
//! then down to the lowest caps, until what is left is surely borne. A watt less
//! asked of those that answer is a watt less while others are late.

mod noted;
mod question;
mod words;

pub(super) use noted::Noted;
pub use question::{Question, hash_of};
pub use words::caps as explained;
pub(super) use words::summary;

use super::answers::AnswerTimes;
use super::curves::cap_for;
use super::round::Control;
use crate::check::{
    Breakers, Excursion, Facts, Moment, NO_TERMS, Proposal, Rule, TripCurve, check_caps,
};
use heliostat_models::site::FINEST_STEP;
use heliostat_models::{DeviceId, JobClass, JobId, Timestamp, Watts};
use question::JobAsked;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The order in which classes give way.
const ORDER: [JobClass; 4] = [
    JobClass::Experiment,
    JobClass::FineTuning,
    JobClass::Training,
    JobClass::Inference,
];
/// What is asked for instead of the caps that were decided.
#[derive(Clone, Debug, PartialEq, Serialize)]
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
    Question::new(facts, curves, moment).answer()
}

impl Question {
    /// What must come off at once; `None` where all breakers bear the moment.
    pub fn answer(&self) -> Option<Relief> {
        let all = self.as_breakers();
        let now: Vec<Watts> = self.devices.iter().map(|d| d.now).collect();
        let mut caps: Vec<Watts> = self.devices.iter().map(|d| d.then).collect();
        let late: Vec<bool> = self.devices.iter().map(|d| d.late).collect();
        let strained_by = |caps: &[Watts]| {
            all.strained(&Moment {
                now: &now,
                then: caps,
                seconds: self.seconds,
                late: &late,
                late_seconds: self.late_seconds,
            })
        };
        let breakers = strained_by(&caps);
        if breakers.is_empty() {
            return None;
        }
        let gangs: Vec<Option<Gang>> = self.jobs.iter().map(|job| self.gang(job)).collect();
        let mut dropped = Vec::new();
        let mut strained = breakers.clone();
        let steps = [true, false]
            .into_iter()
            .flat_map(|keep| ORDER.map(|class| (keep, class)));
        for (keep_level, class) in steps {
            let is_below = self.below_any(&strained);
            let mut changed = false;
            for (job, gang) in self.jobs.iter().zip(&gangs) {
                let Some(gang) = gang.as_ref().filter(|_| job.class == class) else {
                    continue;
                };
                if !gang.devices.iter().any(|device| is_below[*device]) {
                    continue;
                }
                let cap = if keep_level { gang.level } else { gang.lowest };
                for device in &gang.devices {
                    changed |= caps[*device] > cap;
                    caps[*device] = caps[*device].min(cap);
                }
                if cap < gang.level {
                    dropped.push(job.id.clone());
                }
            }
            if changed {
                strained = strained_by(&caps);
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

    /// Of each device, whether it hangs below any of these breakers.
    fn below_any(&self, strained: &[Excursion]) -> Vec<bool> {
        let mut is_strained = vec![false; self.breakers.len()];
        strained.iter().for_each(|s| is_strained[s.node] = true);
        let mut below = Vec::with_capacity(self.devices.len());
        for (count, above) in &self.below {
            let any = above.iter().any(|place| is_strained[*place as usize]);
            below.extend(std::iter::repeat_n(any, *count as usize));
        }
        below
    }

    /// What of a job can be asked; `None` where nothing can.
    fn gang(&self, job: &JobAsked) -> Option<Gang> {
        let (mut low, mut high, mut step) = (Watts::ZERO, Watts(f64::INFINITY), 1);
        let mut devices = Vec::new();
        for place in &job.devices {
            let place = *place as usize;
            let device = &self.devices[place];
            if device.pinned {
                continue;
            }
            (low, high) = (low.max(device.min), high.min(device.max));
            step = common(step, (device.step / FINEST_STEP).round() as u64);
            devices.push(place);
        }
        if devices.is_empty() || low > high {
            return None;
        }
        let step = FINEST_STEP * step as f64;
        // The rounding of a division must not take a whole step.
        let up = |cap: Watts| (step * (cap / step - 1e-6).ceil()).clamp(low, high);
        let floor = self.floors.get(&job.class).copied().unwrap_or(0.0);
        let lowest = up(low);
        let level = cap_for(&job.curve, floor).map_or(lowest, |cap| up(cap).max(lowest));
        Some(Gang {
            devices,
            lowest,
            level,
        })
    }
}

/// Those of a job's devices that can be commanded.
struct Gang {
    devices: Vec<usize>,
    /// The lowest cap that they can share.
    lowest: Watts,
    /// The lowest at which the job keeps its service level.
    level: Watts,
}

/// The smallest number that both divide.
fn common(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a.max(1), b.max(1));
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a.max(1) / x).saturating_mul(b.max(1))
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
    /// The caps asked for while load is being taken off, by place in the site.
    caps: Option<Vec<Watts>>,
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
            caps: None,
            troubles: Vec::new(),
            from: None,
        }
    }

    /// Whether load is being taken off.
    pub fn is_active(&self) -> bool {
        self.caps.is_some()
    }

    /// The caps asked for while it is, by place in the site.
    pub fn caps(&self) -> Option<&[Watts]> {
        self.caps.as_deref()
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
        let was_active = self.watch.is_active();
        if self.watch.from == from && !waits && !was_active {
            return;
        }
        self.watch.from = from;
        self.watch.troubles.clear();
        self.watch.caps = None;
        if !self.armed() || self.refused {
            self.journal.relief_is_off();
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
        // Most rounds end here: nothing is strained and nothing was.
        let bears = Breakers::new(&facts, &site.trip_curves)
            .strained(&moment)
            .is_empty();
        if bears && !was_active {
            return;
        }
        let asked = Question::new(&facts, &site.trip_curves, &moment);
        let Some(relief) = asked.answer() else {
            self.executor.set_targets(&in_force.caps);
            self.journal.relief(now, &asked, None);
            // So that the latest word on every cap is the one that holds.
            let why = "breakers bear the way to the caps decided";
            let (outcome, question) = (&in_force.outcome, &in_force.question);
            self.journal.allocation(now, true, outcome, question, why);
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
            self.journal.relief_is_off();
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
        self.watch.troubles.push(words::trouble(&names));
        self.executor.set_targets(&caps);
        self.journal.relief(now, &asked, Some(&relief));
        self.watch.caps = Some(relief.caps);
    }
}
