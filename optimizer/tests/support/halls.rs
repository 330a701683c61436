//! Small halls under power contracts, as the planner sees them and as they are.
#![allow(
    dead_code,
    reason = "support of several tests; not every one needs all of it"
)]

use crate::plans::{self, level, problem};
use heliostat_models::Watts;
use heliostat_optimizer::plan::problem::{Contract, Problem};
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Devices, which of them contracts cover, and which of them jobs hold: what a
/// scheduler knows.
#[derive(Clone, Debug)]
pub struct Hall {
    pub problem: Problem,
    pub covered: Vec<BTreeSet<usize>>,
    pub held: Vec<Vec<usize>>,
}

fn fraction(part: f64, of: usize) -> usize {
    (part * of as f64) as usize
}

/// Small halls with one to three contracts, some of them tight. Jobs that run hold
/// devices next to each other; some of them are known to the planner.
pub fn hall(
    slots: std::ops::Range<usize>,
    jobs: std::ops::Range<usize>,
) -> impl Strategy<Value = Hall> {
    let job = (
        1u32..5,
        1u32..14,
        (
            prop::bool::ANY,
            prop::bool::ANY,
            prop::bool::weighted(0.8),
            0usize..3,
        ),
        prop::option::of(1i64..8),
        (0.0..1.5f64, 0.0..0.3f64, 0.0..3.0f64, 0.1..1.0f64),
        1usize..4,
    );
    let contract = (0.0..1.0f64, 0.2..1.0f64, 0.0..1.0f64, 0.0..0.5f64);
    (
        prop::collection::vec(0.0..2.5f64, slots),
        prop::collection::vec(job, jobs),
        4usize..9,
        2_000.0..6_000.0f64,
        prop::collection::vec(contract, 1..4),
    )
        .prop_map(|(costs, jobs, devices, watts, contracts)| {
            let covered: Vec<BTreeSet<usize>> = (contracts.iter())
                .map(|(from, width, _, _)| {
                    // Every fourth or so covers everything.
                    let width = 1 + fraction(*width * 1.3, devices - 1).min(devices - 1);
                    let from = fraction(*from, devices - width + 1);
                    (from..from + width).collect()
                })
                .collect();
            let slots = costs.len();
            let stated = (contracts.iter().zip(&covered)).enumerate().map(
                |(c, ((_, _, tight, falls), covered))| {
                    let most = 500.0 * covered.len() as f64 * tight;
                    let power = |t: usize| {
                        Watts(if t * 2 >= slots {
                            most * (1.0 - falls)
                        } else {
                            most
                        })
                    };
                    Contract {
                        id: format!("contract-{c}"),
                        devices: covered.len() as u32,
                        power: (0..slots).map(power).collect(),
                    }
                },
            );
            let mut problem = problem(&costs, devices as u32, watts, Vec::new());
            problem.contracts = stated.collect();
            let (mut next, mut held) = (0, Vec::new());
            for (i, (gang, work, (may_pause, running, known, release), deadline, costs, levels)) in
                jobs.into_iter().enumerate()
            {
                let mut j = plans::job(&format!("j{i}"), gang, work);
                // The last level takes nothing, so that limits can always be kept.
                let all = [level(4, 700.0), level(3, 400.0), level(2, 200.0)];
                j.levels = all[3 - levels..].to_vec();
                let fits = next + gang as usize <= devices;
                j.running = running && fits && release == 0;
                j.interruptible = may_pause || !j.running;
                j.release = release;
                j.deadline = deadline;
                (j.pause, j.hold, j.late, j.terminal) = costs;
                let mut mine = Vec::new();
                if j.running {
                    mine = (next..next + gang as usize).collect();
                    next += gang as usize;
                    let below =
                        |c: &BTreeSet<usize>| mine.iter().filter(|d| c.contains(d)).count() as u32;
                    j.home = known.then(|| covered.iter().map(below).collect());
                }
                held.push(mine);
                problem.jobs.push(j);
            }
            Hall {
                problem,
                covered,
                held,
            }
        })
}
