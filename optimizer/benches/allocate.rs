//! How long an allocation takes and how good it is.
//!
//! Prints JSON lines `{"name","unit","ours","theirs","ratio","peer"}`; `ratio`
//! is ours by theirs. Times are the fastest of several runs; beside wall time
//! stands the processor time of the thread, where the system tells it, because
//! other programs share the machine.
//!
//! What is timed: `solve` is from arrays of numbers to levels, prices, what
//! every gang takes, primal and bound; `arrays` is from the problem to those
//! arrays; `whole` is the call `allocate`: check, arrays, solution, a cap and a
//! sentence for every job, the certificate from the problem alone, and the hash.

#![allow(clippy::print_stdout, reason = "the figures are the output")]
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures the computer's own time"
)]
#![allow(clippy::unwrap_used, reason = "the problems are made by ourselves")]

#[path = "../tests/support/mod.rs"]
mod support;

use heliostat_models::Watts;
use heliostat_optimizer::allocate::{Change, Engine, Problem, allocate, dual_bound, objective};
use std::time::Instant;
use support::scale::{Scale, gangs, singles};
use support::{Shape, plain_program, problem};

const PROGRAM: &str = "whole linear program, good_lp with clarabel";
const UNIFORM: &str = "one cap for all devices, the highest that every limit bears";
const SHARED: &str = "each limit shared out in proportion to the highest caps below it";

fn main() {
    hall("allocate_demo_hall", false);
    hall("allocate_demo_hall_gangs_across_racks", true);
    nested(100_000, 9);
    crossing(0);
    crossing(400);
    nested(1_000_000, 5);
}

/// Nanoseconds that this thread has had a processor; `None` where unknown.
fn processor() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Fastest wall and processor time of a few calls, in milliseconds.
fn fastest<T>(runs: usize, mut call: impl FnMut() -> T) -> (f64, f64, T) {
    let mut timed = || {
        let (start, began) = (Instant::now(), processor());
        let result = std::hint::black_box(call());
        let wall = start.elapsed().as_secs_f64() * 1e3;
        let busy = processor()
            .zip(began)
            .map_or(f64::NAN, |(now, then)| (now - then) / 1e6);
        (wall, busy, result)
    };
    let mut best = timed();
    for _ in 1..runs {
        let again = timed();
        best = (best.0.min(again.0), best.1.min(again.1), again.2);
    }
    best
}

fn times(name: &str, (wall, busy): (f64, f64)) {
    line(&format!("{name}_ms"), "ms", wall, None, "");
    line(&format!("{name}_processor_ms"), "ms", busy, None, "");
}

/// Every device its own job below four levels of limits.
fn nested(devices: usize, runs: usize) {
    let mut rng = fastrand::Rng::with_seed(2026);
    let name = format!("allocate_{devices}_gpus");
    let site = singles(&mut rng, Scale::of(devices));
    let (wall, busy, _) = fastest(2, || Engine::new(site.clone()).unwrap());
    times(&format!("{name}_arrays"), (wall, busy));
    let mut engine = Engine::new(site).unwrap();
    let (wall, busy, numbers) = fastest(runs, || {
        engine.forget();
        engine.solve().unwrap()
    });
    times(&format!("{name}_solve_cold"), (wall, busy));
    line(&format!("{name}_gap"), "1", numbers.gap(), None, "");
    let bound = engine.bound_from_prices().unwrap();
    let caps = engine.outcome().allocation().caps.clone();
    let primal = objective(engine.problem(), &caps);
    let gap = (bound - primal).abs() / primal.abs().max(1.0);
    line(
        &format!("{name}_gap_from_problem_alone"),
        "1",
        gap,
        None,
        "",
    );
    for (policy, caps) in [
        (UNIFORM, uniform(engine.problem())),
        (SHARED, shared(engine.problem())),
    ] {
        let theirs = objective(engine.problem(), &caps);
        line(
            &format!("{name}_work"),
            "weighted device hours per hour",
            primal,
            Some(theirs),
            policy,
        );
    }
    let mut best = (f64::INFINITY, f64::INFINITY);
    let mut taking = (f64::INFINITY, f64::INFINITY);
    for _ in 0..2 * runs {
        let changes: Vec<Change> = (0..devices / 100)
            .map(|_| Change::Curve {
                group: rng.usize(0..devices),
                curve: support::curve(&mut rng, 100.0, 700.0, 9),
            })
            .collect();
        let mut changes = Some(changes);
        let (wall, busy, ()) = fastest(1, || {
            for change in changes.take().into_iter().flatten() {
                engine.change(change).unwrap();
            }
        });
        taking = (taking.0.min(wall), taking.1.min(busy));
        let (wall, busy, numbers) = fastest(1, || engine.solve().unwrap());
        best = (best.0.min(wall), best.1.min(busy));
        assert!(numbers.gap() < 1e-8);
    }
    times(
        &format!("{name}_take_in_1_percent_new_curves_and_hash"),
        taking,
    );
    times(&format!("{name}_solve_1_percent_new_curves"), best);
    if devices <= 100_000 {
        let (wall, busy, _) = fastest(3, || allocate(engine.problem()).unwrap());
        times(&format!("{name}_whole"), (wall, busy));
    }
}

/// 2,000 gangs over 100,000 devices, supplies in pairs that cross.
fn crossing(mixed: usize) {
    let mut rng = fastrand::Rng::with_seed(2027);
    let site = gangs(&mut rng, Scale::of(100_000), 2_000, mixed);
    let name = format!("allocate_100000_gpus_2000_gangs_mixed_{mixed}");
    let mut engine = Engine::new(site).unwrap();
    let (wall, busy, numbers) = fastest(3, || {
        engine.forget();
        engine.solve().unwrap()
    });
    times(&format!("{name}_solve_cold"), (wall, busy));
    line(&format!("{name}_gap"), "1", numbers.gap(), None, "");
    let bound = dual_bound(engine.problem(), engine.prices().unwrap());
    let caps = engine.outcome().allocation().caps.clone();
    let primal = objective(engine.problem(), &caps);
    line(
        &format!("{name}_gap_from_problem_alone"),
        "1",
        (bound - primal) / primal,
        None,
        "",
    );
    let theirs = objective(engine.problem(), &uniform(engine.problem()));
    line(
        &format!("{name}_work"),
        "weighted device hours per hour",
        primal,
        Some(theirs),
        UNIFORM,
    );
}

/// The demo's hall against the whole linear program.
fn hall(name: &str, shuffle: bool) {
    let mut rng = fastrand::Rng::with_seed(2026);
    let cases: Vec<Problem> = (0..20)
        .map(|i| {
            let mut case = problem(&mut rng, Shape::DEMO, 0.4 + 0.02 * f64::from(i), shuffle);
            case.step = Watts(0.001);
            case
        })
        .collect();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let (mut worth, mut peer_worth, mut gap) = (0.0, 0.0, 0.0f64);
    for case in &cases {
        let (wall, _, outcome) = fastest(5, || allocate(std::hint::black_box(case)).unwrap());
        ours.push(wall);
        let (wall, _, peer) = fastest(3, || plain_program(std::hint::black_box(case)));
        theirs.push(wall);
        let certificate = &outcome.allocation().certificate;
        gap = gap.max(certificate.gap);
        if let Some(peer) = peer {
            worth += certificate.primal;
            peer_worth += peer;
        }
    }
    ours.sort_by(f64::total_cmp);
    theirs.sort_by(f64::total_cmp);
    let (ours, theirs) = (ours[ours.len() / 2], theirs[theirs.len() / 2]);
    line(&format!("{name}_ms"), "ms", ours, Some(theirs), PROGRAM);
    line(
        &format!("{name}_objective"),
        "weighted device hours per hour",
        worth,
        Some(peer_worth),
        PROGRAM,
    );
    line(&format!("{name}_certificate_gap"), "1", gap, None, "");
}

/// The highest cap that all devices may have at once.
fn uniform(problem: &Problem) -> Vec<Watts> {
    let mut below = vec![0.0; problem.nodes.len()];
    for device in &problem.devices {
        for node in support::above(problem, device.node) {
            below[node] += 1.0;
        }
    }
    let cap = (problem.nodes.iter().zip(&below))
        .filter(|(_, below)| **below > 0.0)
        .map(|(node, below)| node.room().0 / below)
        .fold(700.0, f64::min);
    vec![Watts(cap); problem.devices.len()]
}

/// Each limit shared out among what hangs below it; a gang runs at the least
/// of its devices' caps.
fn shared(problem: &Problem) -> Vec<Watts> {
    let mut below = vec![0.0; problem.nodes.len()];
    for device in &problem.devices {
        for node in support::above(problem, device.node) {
            below[node] += 1.0;
        }
    }
    let own = |device: usize| {
        (support::above(problem, problem.devices[device].node).into_iter())
            .map(|v| problem.nodes[v].room().0 / below[v])
            .fold(700.0, f64::min)
    };
    (0..problem.devices.len()).map(|d| Watts(own(d))).collect()
}

fn line(name: &str, unit: &str, ours: f64, theirs: Option<f64>, peer: &str) {
    let line = serde_json::json!({
        "name": name,
        "unit": unit,
        "ours": ours,
        "theirs": theirs,
        "ratio": theirs.map(|theirs| ours / theirs),
        "peer": theirs.map(|_| peer),
    });
    println!("{line}");
}
