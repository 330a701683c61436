//! How long an allocation takes and how good it is, against the plain linear
//! program of the whole problem solved in the same run.
//!
//! Prints JSON lines `{"name","unit","ours","theirs","ratio","peer"}`; `ratio`
//! is ours by theirs: of times below one, of objectives above one is better for us.

#![allow(clippy::print_stdout, reason = "the figures are the output")]
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures the computer's own time"
)]
#![allow(clippy::unwrap_used, reason = "the problems are made by ourselves")]

#[path = "../tests/support/mod.rs"]
mod support;

use heliostat_models::Watts;
use heliostat_optimizer::allocate::{Problem, allocate};
use std::time::Instant;
use support::{Shape, plain_program, problem};

const PEER: &str = "whole linear program, good_lp with clarabel";

fn main() {
    let mut rng = fastrand::Rng::with_seed(2026);
    let demo = |shuffle| -> Vec<Problem> {
        let mut rng = fastrand::Rng::with_seed(2026);
        (0..40)
            .map(|i| {
                exact(problem(
                    &mut rng,
                    Shape::DEMO,
                    0.4 + 0.01 * f64::from(i),
                    shuffle,
                ))
            })
            .collect()
    };
    measure("allocate_demo_hall", &demo(false));
    measure("allocate_demo_hall_gangs_across_racks", &demo(true));
    measure(
        "allocate_10000_gpus",
        &[exact(problem(&mut rng, Shape::LARGE, 0.6, false))],
    );
    measure(
        "allocate_10000_gpus_gangs_across_racks",
        &[exact(problem(&mut rng, Shape::LARGE, 0.6, true))],
    );
}

/// With caps in whole milliwatts, as they are set.
fn exact(mut problem: Problem) -> Problem {
    problem.step = Watts(0.001);
    problem
}

fn measure(name: &str, cases: &[Problem]) {
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut worth, mut peer_worth, mut gap) = (0.0, 0.0, 0.0f64);
    for case in cases {
        // Nothing is kept from one call to the next. The fastest of a few
        // counts, for both, so that other programs' turns do not.
        let (took, outcome) = fastest(|| allocate(std::hint::black_box(case)));
        ours.push(took);
        if let Ok(outcome) = &outcome {
            gap = gap.max(outcome.allocation().certificate.gap);
        }
        let (took, peer) = fastest(|| plain_program(std::hint::black_box(case)));
        theirs.push(took);
        if let (Some(peer), Ok(outcome)) = (peer, outcome) {
            worth += outcome.allocation().certificate.primal;
            peer_worth += peer;
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let worst = ours.iter().copied().fold(0.0, f64::max);
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    line(
        &format!("{name}_ms"),
        "ms",
        ours,
        Some(theirs),
        ours / theirs,
    );
    line(&format!("{name}_worst_ms"), "ms", worst, None, 0.0);
    line(
        &format!("{name}_objective"),
        "weighted device hours per hour",
        worth,
        Some(peer_worth),
        worth / peer_worth,
    );
    line(&format!("{name}_certificate_gap"), "1", gap, None, 0.0);
}

/// Milliseconds of the fastest of a few calls, and what the last returned.
fn fastest<T>(call: impl Fn() -> T) -> (f64, T) {
    let timed = || {
        let start = Instant::now();
        let result = std::hint::black_box(call());
        (start.elapsed().as_secs_f64() * 1e3, result)
    };
    let (mut least, mut result) = timed();
    for _ in 0..4 {
        let (took, again) = timed();
        least = least.min(took);
        result = again;
    }
    (least, result)
}

fn line(name: &str, unit: &str, ours: f64, theirs: Option<f64>, ratio: f64) {
    let line = serde_json::json!({
        "name": name,
        "unit": unit,
        "ours": ours,
        "theirs": theirs,
        "ratio": theirs.map(|_| ratio),
        "peer": theirs.map(|_| PEER),
    });
    println!("{line}");
}
