//! The heart of a round: allocate, have it checked, put it in force.

use super::assemble;
use super::at_feed;
use super::evidence::Question;
use super::measure::Measured;
use super::probing;
use super::round::Control;
use super::solve::{Ground, Solved};
use super::starts::Waiting;
use crate::allocate::Outcome;
use crate::check::{
    AtFeed, Facts, NO_TERMS, Proposal, TOLERANCE, Terms, check_allocation, check_caps,
};
use crate::view::ControlMode;
use heliostat_models::{Certificate, DeviceId, JobId, JobRecord, JobState, Timestamp, Watts};
use heliostat_store::jobs::JobEntry;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Caps that all change by less than this share stay as they are, where limits let them.
const HYSTERESIS: f64 = 0.005;

/// What is in force.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    pub caps: BTreeMap<DeviceId, Watts>,
    pub certificate: Certificate,
    /// Of every limit: power nodes by place, then contracts.
    pub prices: Vec<f64>,
    pub outcome: Outcome,
    pub jobs: Vec<JobRecord>,
    /// Jobs whose floors gave way.
    pub dropped: Vec<JobId>,
    /// What it was made from.
    pub question: Question,
}

/// Everything that a decision depends on and that changes: where it is the same
/// as in the last round, so is the decision.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    inputs: u64,
    executor: u64,
    curves: u64,
    event: Option<Watts>,
    price: f64,
    waiting: Waiting,
    armed: bool,
}

/// What the last round counted besides caps.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    /// Load by power node that no cap controls, for breakers.
    pub uncontrolled: Vec<Watts>,
    /// The same for a grid event's limit at the feed.
    pub at_feed: Vec<Watts>,
    /// What devices draw that no job holds.
    pub idle: BTreeMap<DeviceId, Watts>,
    /// Devices that jobs may take before the next round.
    pub starting: usize,
    /// The site's contracts with the loads of now, and by how much loads at
    /// breakers may be more.
    pub terms: Terms,
}

impl Counted {
    /// Facts with these loads, under a grid event of this limit if one is in force.
    pub fn complete<'a>(&'a self, facts: Facts<'a>, event: Option<Watts>) -> Facts<'a> {
        Facts {
            uncontrolled: &self.uncontrolled,
            terms: &self.terms,
            grid: event.map(|limit| AtFeed {
                limit,
                uncontrolled: &self.at_feed,
                idle: &self.idle,
                starting: self.starting,
            }),
            ..facts
        }
    }
}

impl Control {
    /// Allocates, has it checked, and puts it in force; nothing of this where
    /// it would come out the same.
    pub(super) fn decide(&mut self, now: Timestamp, why: &str) {
        let Some(measured) = self.inputs.measured.clone() else {
            return;
        };
        (self.journal).nodes_limited_whole(self.executor.limited_whole().len());
        let event = self.events.limit(now);
        let soon = self.config.policy.allocate_every * 2;
        let asked = Asked {
            inputs: self.inputs.version(),
            executor: self.executor.version(),
            curves: self.curves.version,
            event,
            price: self.price,
            waiting: self.starts.waiting(&self.inputs.jobs, now, soon),
            armed: self.armed(),
        };
        if self.asked.as_ref() == Some(&asked) && !self.refused {
            if let Some(in_force) = &self.in_force
                && self.journal.is_due(now)
            {
                let armed = self.armed();
                let (outcome, question) = (&in_force.outcome, &in_force.question);
                self.journal.allocation(now, armed, outcome, question, why);
            }
            return;
        }
        let waiting = asked.waiting.clone();
        self.asked = Some(asked);
        self.troubles = self.allocate(now, why, &measured, event, waiting);
    }

    /// Allocates anew; says what was in the way.
    fn allocate(
        &mut self,
        now: Timestamp,
        why: &str,
        measured: &Measured,
        event: Option<Watts>,
        waiting: Waiting,
    ) -> Vec<String> {
        let site = self.deps.site.clone();
        let ranges = Arc::clone(self.executor.ranges());
        let believed = |e: &JobEntry| self.curves.believed(&e.record);
        let entries = self
            .inputs
            .jobs
            .iter()
            .filter(|e| e.record.state == JobState::Running);
        let (jobs, mut troubles) = assemble::running_jobs(&site, entries.map(believed), &ranges);
        // While observing nobody obeys; what would be decided is what is shown.
        let (pinned, stuck) = match self.armed() {
            true => (self.executor.pinned(now), self.executor.stuck(now)),
            false => Default::default(),
        };
        let refusals = self.executor.refusals();
        if !pinned.is_empty() && self.executor.silent() > 0 {
            let trouble = "Some devices cannot be commanded, no agent answers for them; they count at the highest cap they may have";
            troubles.push(trouble.to_owned());
        }
        for (device, reason) in refusals {
            troubles.push(format!("`{device}` refuses caps: {reason}"));
        }
        let narrowed = self.curves.narrowed(&site, &jobs, &ranges);
        let ground = Ground {
            facts: Facts {
                site: &site,
                margin: self.config.policy.margin,
                grid: None,
                uncontrolled: &[],
                ranges: &narrowed,
                pinned: &pinned,
                jobs: &jobs,
                price_of_energy: self.price,
                terms: &NO_TERMS,
            },
            widest: &ranges,
            event,
            waiting: &waiting,
        };
        let mut solved = self.settle(ground, measured);
        // No limit and no service level gives way so that an agent that stops may
        // restore what it found.
        let asks = pinned != stuck;
        let fits = matches!(&solved, Ok(s) if matches!(s.outcome, Outcome::Allocated(_)));
        if asks && !fits {
            let facts = Facts {
                pinned: &stuck,
                ..ground.facts
            };
            solved = self.settle(Ground { facts, ..ground }, measured);
            troubles.push("There is no room for the limits that agents found which are about to stop; their devices keep safe caps unless some is made".to_owned());
        }
        self.room_to_leave = fits;
        let Solved {
            counted,
            facts,
            problem,
            mut outcome,
            starting,
        } = match solved {
            Ok(solved) => solved,
            Err(error) => {
                troubles.push(format!("No allocation is possible: {error}"));
                self.refused = true;
                return troubles;
            }
        };
        let facts = counted.complete(facts, event);
        let trials = self.curves.trials();
        probing::tell(&mut outcome, &trials);
        self.allocations += 1;
        let allocation = outcome.allocation();
        let caps = assemble::caps(&problem, allocation);
        let (dropped, beyond) = given_way(&outcome);
        let prices = allocation.prices();
        let proposal = Proposal {
            caps: &caps,
            node_prices: &prices,
            certificate: &allocation.certificate,
            dropped: &dropped,
            beyond: &beyond,
        };
        let broken = check_allocation(&facts, &proposal);
        if !broken.is_empty() {
            let proof = Some(&allocation.certificate);
            self.journal.refusal(now, self.armed(), &broken, proof);
            self.refused = true;
            return troubles;
        }
        let keeps = self.keeps_last(&facts, &caps, &dropped, &beyond);
        let room: Vec<Watts> = problem.rooms().collect();
        self.starts.counted(starting);
        self.counted = counted;
        let problem = Arc::new(problem);
        self.problem = Some(Arc::clone(&problem));
        self.refused = false;
        self.max_gap = self.max_gap.max(allocation.certificate.gap);
        if !keeps {
            self.in_force = Some(InForce {
                caps,
                certificate: allocation.certificate.clone(),
                prices,
                outcome,
                jobs: jobs.clone(),
                dropped,
                question: Question { problem, trials },
            });
        }
        if let Some(in_force) = &self.in_force {
            let (outcome, question) = (&in_force.outcome, &in_force.question);
            let armed = self.mode == ControlMode::Armed && self.lock.fence().is_some();
            self.journal.allocation(now, armed, outcome, question, why);
            self.executor.set_targets(&in_force.caps);
            let gangs = in_force.jobs.iter().map(|j| j.devices.as_slice());
            self.executor.set_gangs(gangs);
        }
        self.executor.set_room(room);
        troubles
    }

    /// Reads off the loads below breakers and below a grid event's limit.
    pub(super) fn count(&self, measured: &Measured, event: Option<Watts>) -> Counted {
        let site = &self.deps.site;
        let usable = 1.0 - self.config.policy.margin;
        let limits = |event: Option<Watts>| -> Vec<Watts> {
            (site.power.nodes().iter())
                .map(|n| match event {
                    Some(limit) if n.parents.is_empty() => n.limit.min(limit) * usable,
                    _ => n.limit * usable,
                })
                .collect()
        };
        Counted {
            uncontrolled: measured.uncontrolled(site, &limits(None)),
            at_feed: measured.uncontrolled_at_feed(site, &limits(event)),
            idle: measured.idle.clone(),
            starting: 0,
            terms: Terms {
                contracts: self.contracts.terms(
                    site,
                    measured,
                    self.config.policy.margin,
                    self.executor.limited_whole(),
                ),
                ..Terms::default()
            },
        }
    }

    /// Whether the largest caps that devices may have now leave each feed what
    /// the last round counted there.
    pub(super) fn fits_at_feeds(&self) -> bool {
        let site = &self.deps.site;
        let Some(problem) = &self.problem else {
            return false;
        };
        let mut below = vec![Watts::ZERO; problem.nodes.len()];
        for node in &site.nodes {
            let caps: Watts = (self.executor.worst_caps()[node.devices.clone()].iter())
                .copied()
                .sum();
            for up in site.power.path_up(node.power_node) {
                below[up] += caps;
            }
        }
        (problem.nodes.iter().zip(below))
            .filter(|(node, _)| node.parents.is_empty())
            .all(|(node, caps)| caps <= at_feed::room(node) + TOLERANCE)
    }

    /// Whether the caps in force may stay: no new cap differs much, and the old
    /// ones still keep every limit, range and floor.
    fn keeps_last(
        &self,
        facts: &Facts<'_>,
        caps: &BTreeMap<DeviceId, Watts>,
        dropped: &[JobId],
        beyond: &[String],
    ) -> bool {
        let Some(last) = &self.in_force else {
            return false;
        };
        let same_jobs = last.jobs.len() == facts.jobs.len()
            && (last.jobs.iter().zip(facts.jobs))
                .all(|(a, b)| a.id == b.id && a.devices == b.devices && a.curve == b.curve);
        let near = caps.len() == last.caps.len()
            && (caps.iter().zip(&last.caps)).all(|((a, new), (b, old))| {
                a == b && (*new - *old).0.abs() <= HYSTERESIS * old.0.max(1.0)
            });
        if !same_jobs || !near || !dropped.is_empty() {
            return false;
        }
        let proposal = Proposal {
            caps: &last.caps,
            node_prices: &last.prices,
            certificate: &last.certificate,
            dropped,
            beyond,
        };
        // The old proof speaks of the old inputs; only the limits must hold anew.
        check_caps(facts, &proposal).is_empty()
    }
}

fn given_way(outcome: &Outcome) -> (Vec<JobId>, Vec<String>) {
    match outcome {
        Outcome::Allocated(_) => (Vec::new(), Vec::new()),
        Outcome::Infeasible { shed, .. } => (
            shed.dropped.clone(),
            shed.beyond.iter().map(|(node, _)| node.clone()).collect(),
        ),
    }
}
