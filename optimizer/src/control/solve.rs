//! From loads to caps: one allocation, made again where the loads that follow
//! from its caps would break a limit.
//!
//! A node's fans and processors draw more when its devices' caps are raised, and
//! the round reads its load off at the caps in force. One large raise could so
//! outrun the reserve until the node is read again; therefore the loads are read
//! off once more at the caps that came out before they are put in force.

use super::assemble;
use super::decide::Counted;
use super::measure::{Measured, measure};
use super::round::Control;
use super::starts::Waiting;
use crate::allocate::{Allocation, Outcome, Problem, ProblemError, allocate};
use crate::check::{Facts, Proposal, check_caps};
use heliostat_models::{DeviceId, JobId, Watts};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Allocations that are tried before the loads at the highest caps are taken.
const TRIES: usize = 3;

type Ranges = BTreeMap<DeviceId, (Watts, Watts)>;

/// What a round's allocations have in common.
#[derive(Clone, Copy)]
pub(super) struct Ground<'a> {
    /// Facts without loads; their ranges are those that caution leaves.
    pub facts: Facts<'a>,
    /// Ranges without that caution.
    pub widest: &'a Arc<Ranges>,
    /// The limit of a grid event.
    pub event: Option<Watts>,
    pub waiting: &'a Waiting,
}

/// An allocation and what it was made from.
pub(super) struct Solved<'a> {
    pub counted: Counted,
    /// The ground's, or without caution.
    pub facts: Facts<'a>,
    pub problem: Problem,
    pub outcome: Outcome,
    /// Jobs that are counted as starting.
    pub starting: BTreeSet<JobId>,
}

impl Control {
    /// Allocates under the loads of now, and under those that come of its caps.
    pub(super) fn settle<'a>(
        &self,
        ground: Ground<'a>,
        measured: &Measured,
    ) -> Result<Solved<'a>, ProblemError> {
        let site = &self.deps.site;
        let mut highest = self.executor.worst_caps().to_vec();
        let mut solved = self.solve(ground, measured)?;
        for tried in 1..=TRIES {
            let allocation = match &solved.outcome {
                Outcome::Allocated(allocation) => allocation,
                // Then caps come down.
                Outcome::Infeasible { .. } => break,
            };
            if !raise(&mut highest, &allocation.caps) {
                break;
            }
            let (readings, jobs) = (&self.inputs.readings, &self.inputs.jobs);
            let then = measure(site, readings, jobs, &highest);
            let mut counted = self.count(&then, ground.event);
            counted.starting = solved.counted.starting;
            if holds(
                &counted.complete(solved.facts, ground.event),
                &solved,
                allocation,
            ) {
                break;
            }
            if tried == TRIES {
                let most: Vec<Watts> = (site.devices.iter().zip(&highest))
                    .map(|(device, cap)| device.max_cap.max(*cap))
                    .collect();
                return self.solve(ground, &measure(site, readings, jobs, &most));
            }
            solved = self.solve(ground, &then)?;
        }
        Ok(solved)
    }

    /// One allocation under these loads. What gives way first where nothing
    /// fits: caution in keeping service levels, trials, jobs that ask to start.
    fn solve<'a>(
        &self,
        ground: Ground<'a>,
        measured: &Measured,
    ) -> Result<Solved<'a>, ProblemError> {
        let (event, waiting) = (ground.event, ground.waiting);
        let mut counted = self.count(measured, event);
        counted.starting = waiting.free + waiting.asked;
        let solve = |facts: Facts<'_>, counted: &Counted| {
            let problem = assemble::problem(&counted.complete(facts, event));
            allocate(&problem).map(|outcome| (problem, outcome))
        };
        let fits = |solved: &Result<(Problem, Outcome), ProblemError>| {
            matches!(solved, Ok((_, Outcome::Allocated(_))))
        };
        let mut facts = ground.facts;
        let mut solved = solve(facts, &counted);
        if !fits(&solved) && !std::ptr::eq(facts.ranges, &**ground.widest) {
            facts.ranges = &**ground.widest;
            solved = solve(facts, &counted);
        }
        let mut starting = waiting.jobs.clone();
        // Nothing that runs gives up its service level for what may yet start.
        let asks_too_much = matches!(solved, Ok((_, Outcome::Infeasible { .. })));
        if event.is_some() && waiting.asked > 0 && asks_too_much {
            counted.starting = waiting.free;
            solved = solve(facts, &counted);
        } else {
            starting.extend(waiting.asking.iter().cloned());
        }
        let (problem, outcome) = solved?;
        Ok(Solved {
            counted,
            facts,
            problem,
            outcome,
            starting,
        })
    }
}

/// Whether an allocation keeps every limit under these facts.
fn holds(facts: &Facts<'_>, solved: &Solved<'_>, allocation: &Allocation) -> bool {
    let proposal = Proposal {
        caps: &assemble::caps(&solved.problem, allocation),
        node_prices: &allocation.prices(),
        certificate: &allocation.certificate,
        dropped: &[],
        beyond: &[],
    };
    // The proof speaks of other loads; what counts here is what devices may draw.
    check_caps(facts, &proposal).is_empty()
}

/// Raises `highest` to `caps` where they are above it; whether any is.
fn raise(highest: &mut [Watts], caps: &[Watts]) -> bool {
    let mut any = false;
    for (highest, cap) in highest.iter_mut().zip(caps) {
        if *cap > *highest {
            *highest = *cap;
            any = true;
        }
    }
    any
}
