//! The plan's solver against plain enumeration on small instances, and its
//! promises: the bound holds, the checker agrees, the same input gives the same plan.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests fail by panicking and say what they measured"
)]

#[path = "support/plans.rs"]
mod plans;

use heliostat_models::Watts;
use heliostat_optimizer::plan::check::{check, check_bound};
use heliostat_optimizer::plan::problem::{Job, Problem, Schedule};
use heliostat_optimizer::plan::solve::{Limits, solve};
use plans::{brute_force, job, level, problem, verified};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

#[test]
fn one_job_gets_the_best_hours_exactly() {
    let costs: Vec<f64> = (0..192)
        .map(|t| 1.0 + 0.5 * (f64::from(t) * 0.37).sin() + f64::from(t % 7) * 0.01)
        .collect();
    // 24 hours of work in 48: the 96 cheapest slots, nothing else.
    let problem = problem(&costs, 8, 1e6, vec![job("j", 8, 96 * 4)]);
    let plan = verified(&problem);
    let mut order: Vec<usize> = (0..192).collect();
    order.sort_by(|a, b| costs[*a].total_cmp(&costs[*b]));
    let mut expected = Schedule::idle(192);
    for t in &order[..96] {
        expected.0[*t] = 1;
    }
    assert_eq!(plan.schedules[0], expected);
    assert!(plan.primal - plan.bound < 1e-9 * plan.primal);
}

#[test]
fn a_job_that_runs_is_paused_only_for_more_than_the_pause_costs() {
    // Running costs 1.4 now and 1.0 later; a pause saves 0.4 · 8 · 0.175 = 0.56 a slot.
    let mut costs = vec![1.4; 4];
    costs.extend([1.0; 12]);
    let running = |pause: f64| {
        let mut j = job("j", 8, 16);
        j.running = true;
        j.pause = pause;
        let plan = verified(&problem(&costs, 8, 1e6, vec![j]));
        plan.schedules[0].level(0).is_some()
    };
    let gain = 4.0 * 8.0 * 0.175 * 0.4;
    assert!(!running(gain * 0.99));
    assert!(running(gain * 1.01));
}

#[test]
fn an_uninterruptible_job_that_runs_goes_on_even_beyond_the_limits() {
    let mut a = job("a", 8, 40);
    a.interruptible = false;
    a.running = true;
    let b = job("b", 4, 8);
    let problem = problem(&[1.0; 12], 8, 1_000.0, vec![a, b]);
    let plan = verified(&problem);
    assert!((0..10).all(|t| plan.schedules[0].level(t).is_some()));
    assert!(plan.schedules[1].level(0).is_none(), "no room beside it");
    assert!(plan.bound <= plan.primal && plan.primal > 10.0 * 3.0 * 200.0);
}

#[test]
fn the_nearer_deadline_goes_first() {
    let with = |id: &str, deadline| Job {
        deadline: Some(deadline),
        late: 50.0,
        ..job(id, 8, 16)
    };
    // Both need all devices; only one order keeps both deadlines.
    let problem = problem(&[1.0; 12], 8, 1e6, vec![with("a", 8), with("b", 4)]);
    let plan = verified(&problem);
    assert!((0..4).all(|t| plan.schedules[1].level(t).is_some()));
    assert!((4..8).all(|t| plan.schedules[0].level(t).is_some()));
}

#[test]
fn a_lower_level_is_used_where_power_is_short() {
    let mut j = job("j", 10, 24);
    j.levels = vec![level(4, 700.0), level(3, 450.0), level(2, 320.0)];
    j.hold = 100.0;
    let mut problem = problem(&[1.0; 10], 10, 5_000.0, vec![j]);
    for slot in &mut problem.slots[2..6] {
        slot.power = Watts(2_600.0);
    }
    let plan = verified(&problem);
    assert_eq!(plan.schedules[0].0, [1, 1, 2, 2, 2, 2, 1, 0, 0, 0]);
}

fn small_problem() -> impl Strategy<Value = Problem> {
    let job = (
        1u32..5,
        1u32..14,
        prop::bool::ANY,
        prop::bool::ANY,
        0usize..3,
        prop::option::of(1i64..8),
        (0.0..1.5f64, 0.0..0.3f64, 0.0..3.0f64, 0.1..1.0f64),
        1usize..3,
    );
    (
        prop::collection::vec(0.0..2.5f64, 3..6),
        prop::collection::vec(job, 1..4),
        4u32..8,
        1_200.0..4_000.0f64,
    )
        .prop_map(|(costs, jobs, devices, watts)| {
            let jobs = jobs
                .into_iter()
                .enumerate()
                .map(
                    |(
                        i,
                        (gang, work, interruptible, running, release, deadline, costs, levels),
                    )| {
                        let all = [level(4, 700.0), level(2, 330.0)];
                        let mut j = job_named(i, gang, work);
                        j.interruptible = interruptible;
                        // Only what may be paused runs now, so that limits can always be kept.
                        j.running = running && interruptible && release == 0;
                        j.release = release;
                        j.deadline = deadline;
                        (j.pause, j.hold, j.late, j.terminal) = costs;
                        j.levels = all[..levels].to_vec();
                        j
                    },
                )
                .collect();
            problem(&costs, devices, watts, jobs)
        })
}

fn job_named(index: usize, gang: u32, work: u32) -> Job {
    job(&format!("j{index}"), gang, work)
}

/// What the bound cannot promise: that the search comes close. The same 150
/// instances every time, so that this judges the search and not the dice.
#[test]
fn the_search_finds_the_best_plan_or_one_close_to_it() {
    let mut runner = TestRunner::deterministic();
    let strategy = small_problem();
    let (mut best_found, mut excess) = (0, Vec::new());
    for _ in 0..150 {
        let problem = strategy.new_tree(&mut runner).unwrap().current();
        let (plan, best) = (solve(&problem, Limits::default()), brute_force(&problem));
        let over = (plan.primal - best) / best.abs().max(1.0);
        best_found += usize::from(over < 1e-6);
        excess.push(over);
    }
    let mean = excess.iter().sum::<f64>() / excess.len() as f64;
    eprintln!(
        "best plan found in {best_found} of 150; mean excess {:.3} %",
        mean * 100.0
    );
    assert!(
        best_found >= 120,
        "the best plan was found in only {best_found} of 150"
    );
    assert!(
        mean < 0.01,
        "plans cost {:.2} % more than the best on the mean",
        mean * 100.0
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_brute_force_within_its_gap(problem in small_problem()) {
        let plan = verified(&problem);
        let best = brute_force(&problem);
        let near = 1e-6 * best.abs().max(1.0);
        prop_assert!(plan.bound <= best + near, "bound {} above the optimum {best}", plan.bound);
        prop_assert!(plan.primal >= best - near, "plan {} below the optimum {best}", plan.primal);
    }

    #[test]
    fn the_same_problem_gives_the_same_plan(problem in small_problem()) {
        let a = solve(&problem, Limits::default());
        let b = solve(&problem.clone(), Limits::default());
        prop_assert_eq!(a.primal.to_bits(), b.primal.to_bits());
        prop_assert_eq!(a.bound.to_bits(), b.bound.to_bits());
        prop_assert_eq!(a, b);
    }

    #[test]
    fn the_bound_holds_however_early_it_stops(problem in small_problem(), rounds in 0u32..3) {
        let limits = Limits { rounds, searches: 0, ..Limits::default() };
        let plan = solve(&problem, limits);
        prop_assert_eq!(check(&problem, &plan), []);
        prop_assert_eq!(check_bound(&problem, &plan), []);
        let best = brute_force(&problem);
        prop_assert!(plan.bound <= best + 1e-6 * best.abs().max(1.0));
    }
}
