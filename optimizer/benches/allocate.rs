//! How long an allocation takes and how good it is.
//!
//! Prints JSON lines `{"name","unit","ours","theirs","ratio","peer"}`; `ratio`
//! is ours by theirs. Times are the fastest of several runs; beside wall time
//! stands the mean processor time, where the system tells it, because other
//! programs share the machine: of the thread, and of all threads for `arrays`,
//! `solve_cold` and `whole`, which use two.
//!
//! What is timed, each on a line of its own: `arrays` is from the problem (texts,
//! lists) to arrays of numbers, its check included; `solve_cold` from those arrays
//! to levels, prices, what every gang takes, primal and bound; `take_in_1_percent`
//! copies new curves of a hundredth of the jobs into problem and arrays, the curves
//! themselves stay the caller's;
//! `solve_1_percent` solves again after that; `change_and_solve_1_percent` is the
//! fastest sum of both; `hash_1_percent` is the hash of the
//! inputs after that, `hash_cold` the first one; `explain_1_percent` finds the
//! jobs whose caps changed and makes their sentences; `whole` is the call `allocate`:
//! check, arrays, solution, a cap and a sentence for every job, the certificate
//! from the problem alone, and the hash. Where gangs and feeds cross, a hundredth of
//! the gangs gets new curves: `change_and_solve_1_percent` is then everything from the
//! curves to caps and prices that keep the gap shown, beside the same problem afresh.

#![allow(clippy::print_stdout, reason = "the figures are the output")]
#![allow(
    clippy::disallowed_methods,
    reason = "a benchmark measures the computer's own time"
)]
#![allow(clippy::unwrap_used, reason = "the problems are made by ourselves")]

#[path = "../tests/support/mod.rs"]
mod support;
#[path = "allocate/three_phase.rs"]
mod three_phase;

use heliostat_models::{SpeedCurve, Watts};
use heliostat_optimizer::allocate::{Change, Engine, Problem, allocate, dual_bound, objective};
use std::collections::BTreeMap;
use std::time::Instant;
use support::scale::{Scale, gangs, singles};
use support::{Shape, plain_program, problem};

const PROGRAM: &str = "whole linear program, good_lp with clarabel";
const PHASES: &str = "three-phase QP and LP after nvPAX, on clarabel, which knows no speed curves";
const AFRESH: &str = "the same changed problem, solved from the arrays with nothing known";
const POSSIBLE: &str = "what no choice of caps can beat, knowing the same curves";
const UNIFORM: &str = "one cap for all devices, the highest that every limit bears";
const SHARED: &str = "each limit shared out in proportion to the highest caps below it";

/// Changes of a hundredth of the gangs.
const CHANGED: usize = 15;

/// All of it; or what begins with one of the words given.
fn main() {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with('-'))
        .collect();
    let wanted =
        |part: &str| words.is_empty() || words.iter().any(|w| part.starts_with(w.as_str()));
    if wanted("hall") {
        hall("allocate_demo_hall", false);
        hall("allocate_demo_hall_gangs_across_racks", true);
    }
    if wanted("nested-100000") {
        nested(100_000, 30);
    }
    if wanted("crossing") {
        crossing(0);
        crossing(400);
    }
    if wanted("nested-1000000") {
        nested(1_000_000, 5);
    }
    for family in ["v100", "p100", "rtx6000"] {
        if wanted("measured") {
            measured(family);
        }
    }
}

/// Nanoseconds that this thread has had a processor; `None` where unknown.
fn processor() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// Milliseconds that all threads of this process have had processors, in the
/// ticks of 10 ms in which the system counts them; `None` where unknown.
fn all_processors() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = text.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) * 10.0)
}

/// Those since then.
fn since(then: Option<f64>) -> f64 {
    let now = all_processors().zip(then);
    now.map_or(f64::NAN, |(now, then)| now - then)
}

/// Fastest wall time and mean processor time of a few calls, in milliseconds.
/// The system counts processor time by its ticks, so one short call says little.
fn fastest<T>(runs: usize, mut call: impl FnMut() -> T) -> (f64, f64, T) {
    let began = processor();
    let mut timed = || {
        let start = Instant::now();
        let result = std::hint::black_box(call());
        (start.elapsed().as_secs_f64() * 1e3, result)
    };
    let mut best = timed();
    for _ in 1..runs {
        let again = timed();
        best = (best.0.min(again.0), again.1);
    }
    let busy = processor()
        .zip(began)
        .map_or(f64::NAN, |(now, then)| now - then);
    (best.0, busy / 1e6 / runs as f64, best.1)
}

/// One call.
fn once<T>(call: impl FnOnce() -> T) -> (f64, f64, T) {
    let mut call = Some(call);
    fastest(1, || (call.take().unwrap())())
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
    // Copies are made and given back outside the time.
    let copies: Vec<Problem> = (0..3).map(|_| site.clone()).collect();
    let (mut best, mut kept) = (f64::INFINITY, Vec::new());
    let began = all_processors();
    for copy in copies {
        let (wall, _, engine) = once(|| Engine::new(copy).unwrap());
        best = best.min(wall);
        kept.push(engine);
    }
    times(&format!("{name}_arrays"), (best, since(began) / 3.0));
    drop((kept, site));
    let site = singles(&mut fastrand::Rng::with_seed(2026), Scale::of(devices));
    let mut engine = Engine::new(site).unwrap();
    let began = all_processors();
    let (cold, _, numbers) = fastest(runs, || {
        engine.forget();
        engine.solve().unwrap()
    });
    let busy = since(began) / runs as f64;
    times(&format!("{name}_solve_cold"), (cold, busy));
    line(&format!("{name}_gap"), "1", numbers.gap(), None, "");
    times(&format!("{name}_hash_cold"), {
        let (wall, busy, _) = once(|| engine.inputs_hash());
        (wall, busy)
    });
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
    if devices <= 100_000 {
        phases(&name, engine.problem(), primal, cold);
    }
    let [mut taking, mut solving, mut hashing, mut telling] = [(f64::INFINITY, 0.0); 4];
    let mut both = f64::INFINITY;
    let mut told = engine.changed().len();
    let rounds = 4 * runs;
    for _ in 0..rounds {
        let changes: Vec<Change> = (0..devices / 100)
            .map(|_| Change::Curve {
                group: rng.usize(0..devices),
                curve: support::curve(&mut rng, 100.0, 700.0, 9),
            })
            .collect();
        let note = |into: &mut (f64, f64), wall: f64, busy: f64| {
            *into = (into.0.min(wall), into.1 + busy / rounds as f64);
        };
        let (wall, busy, ()) = once(|| engine.change_all(&changes).unwrap());
        note(&mut taking, wall, busy);
        let taken_in = wall;
        let (wall, busy, numbers) = once(|| engine.solve().unwrap());
        note(&mut solving, wall, busy);
        both = both.min(taken_in + wall);
        assert!(numbers.gap() < 1e-8);
        let (wall, busy, _) = once(|| engine.inputs_hash());
        note(&mut hashing, wall, busy);
        let (wall, busy, sentences) = once(|| {
            let changed = engine.changed();
            let sentences = changed
                .into_iter()
                .filter_map(|group| engine.explain(group));
            sentences.collect::<Vec<_>>()
        });
        told = sentences.len();
        note(&mut telling, wall, busy);
    }
    times(&format!("{name}_take_in_1_percent"), taking);
    times(&format!("{name}_solve_1_percent"), solving);
    line(
        &format!("{name}_change_and_solve_1_percent_ms"),
        "ms",
        both,
        None,
        "",
    );
    times(&format!("{name}_hash_1_percent"), hashing);
    times(&format!("{name}_explain_1_percent"), telling);
    line(&format!("{name}_explained"), "jobs", told as f64, None, "");
    if devices <= 100_000 {
        let began = all_processors();
        let (wall, _, _) = fastest(3, || allocate(engine.problem()).unwrap());
        times(&format!("{name}_whole"), (wall, since(began) / 3.0));
    }
}

/// Time and work of ours beside those of the three phases.
fn phases(name: &str, problem: &Problem, work: f64, milliseconds: f64) {
    let Some((caps, theirs)) = three_phase::caps(problem) else {
        println!("SKIPPED: the three phases of {name} do not end");
        return;
    };
    let excess = support::worst_excess(problem, &caps);
    assert!(excess < 1.0, "{excess} W above a limit");
    line(
        &format!("{name}_solve_cold_ms"),
        "ms",
        milliseconds,
        Some(theirs),
        PHASES,
    );
    let theirs = objective(problem, &caps);
    let unit = "weighted device hours per hour";
    line(&format!("{name}_work"), unit, work, Some(theirs), PHASES);
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
    phases(&name, engine.problem(), primal, wall);
    let theirs = objective(engine.problem(), &uniform(engine.problem()));
    line(
        &format!("{name}_work"),
        "weighted device hours per hour",
        primal,
        Some(theirs),
        UNIFORM,
    );
    crossing_changes(&name, &mut engine, &mut rng);
}

/// A hundredth of the gangs changes: going on from the answer before, and afresh.
fn crossing_changes(name: &str, engine: &mut Engine, rng: &mut fastrand::Rng) {
    let mut other = Engine::new(engine.problem().clone()).unwrap();
    let groups = engine.problem().groups.len();
    let (mut going_on, mut afresh) = (Vec::new(), Vec::new());
    let (mut gap, mut processor) = (0.0f64, (0.0, 0.0));
    for _ in 0..CHANGED {
        let changes: Vec<Change> = (0..groups.div_ceil(100))
            .map(|_| Change::Curve {
                group: rng.usize(0..groups),
                curve: support::curve(rng, 100.0, 700.0, 9),
            })
            .collect();
        let (wall, busy, numbers) = once(|| {
            engine.change_all(&changes).unwrap();
            engine.solve().unwrap()
        });
        going_on.push(wall);
        processor.0 += busy / CHANGED as f64;
        gap = gap.max(numbers.gap());
        other.change_all(&changes).unwrap();
        other.forget();
        let (wall, busy, numbers) = once(|| other.solve().unwrap());
        afresh.push(wall);
        processor.1 += busy / CHANGED as f64;
        assert!(numbers.gap() <= 1e-4);
    }
    assert!(gap <= 1e-4, "{gap}");
    let middle = |all: &mut Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    line(
        &format!("{name}_change_and_solve_1_percent_median_ms"),
        "ms",
        middle(&mut going_on),
        Some(middle(&mut afresh)),
        AFRESH,
    );
    line(
        &format!("{name}_change_and_solve_1_percent_processor_ms"),
        "ms",
        processor.0,
        Some(processor.1),
        AFRESH,
    );
    line(&format!("{name}_gap_1_percent_worst"), "1", gap, None, "");
}

/// Real training jobs under power limits (Zeus, NSDI 2023), one a GPU, at 60 %
/// of what the GPUs could draw: work at the measured speeds, ours knowing them.
fn measured(family: &str) {
    let data = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/data/gpu/zeus_power_limit/trace"
    );
    let Ok(text) = std::fs::read_to_string(format!("{data}/summary_power_{family}.csv")) else {
        println!("SKIPPED: no measured profiles of {family} in ../shared/data");
        return;
    };
    let mut jobs: BTreeMap<String, Vec<(Watts, f64)>> = BTreeMap::new();
    for row in text.lines().skip(1) {
        let fields: Vec<&str> = row.split(',').collect();
        if let [.., limit, seconds, _] = fields[..]
            && let (Ok(limit), Ok(seconds)) = (limit.parse(), seconds.parse::<f64>())
        {
            let job = jobs
                .entry(fields[..fields.len() - 3].join(","))
                .or_default();
            job.push((Watts(limit), 1.0 / seconds));
        }
    }
    jobs.retain(|_, points| points.len() >= 4);
    let all = || jobs.values().flatten().map(|(cap, _)| cap.0);
    let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(0.0, f64::max));
    let mut rng = fastrand::Rng::with_seed(1);
    let mut site = singles(&mut rng, Scale::of(jobs.len()));
    for node in &mut site.nodes {
        let share = if node.parents.is_empty() { 0.6 } else { 1.0 };
        (node.uncontrolled, node.uncertainty) = (Watts::ZERO, Watts::ZERO);
        node.limit = Watts(high * jobs.len() as f64 * share);
    }
    let mut points = Vec::new();
    for (group, of_job) in site.groups.iter_mut().zip(jobs.values()) {
        let fastest = of_job.iter().map(|p| p.1).fold(0.0, f64::max);
        let mut of_job: Vec<(Watts, f64)> = of_job.iter().map(|p| (p.0, p.1 / fastest)).collect();
        of_job.sort_by(|a, b| a.0.0.total_cmp(&b.0.0));
        group.weight = 1.0;
        group.curve = SpeedCurve::envelope(&of_job).unwrap();
        points.push(of_job);
    }
    for device in &mut site.devices {
        (device.min, device.max) = (Watts(low), Watts(high));
    }
    let work = |caps: &[Watts]| -> f64 {
        (points.iter().zip(caps))
            .map(|(points, cap)| between(points, *cap))
            .sum()
    };
    let outcome = allocate(&site).unwrap();
    let ours = work(&outcome.allocation().caps);
    let most = outcome.allocation().certificate.dual_bound;
    let theirs = work(&vec![Watts((0.6 * high).max(low)); points.len()]);
    let name = format!("allocate_measured_{family}_work_at_60_percent");
    line(&name, "jobs at full speed", ours, Some(theirs), UNIFORM);
    line(&name, "jobs at full speed", ours, Some(most), POSSIBLE);
}

/// Measured speed at a cap, straight between the points.
fn between(points: &[(Watts, f64)], cap: Watts) -> f64 {
    let after = points.partition_point(|p| p.0 < cap);
    match (points.get(after.wrapping_sub(1)), points.get(after)) {
        (Some(a), Some(b)) => a.1 + (b.1 - a.1) * ((cap - a.0).0 / (b.0 - a.0).0),
        (None, Some(one)) | (Some(one), None) => one.1,
        (None, None) => 0.0,
    }
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
