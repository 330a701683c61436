//! The plan checker: it accepts what the solver makes and refuses every
//! planted violation by its name.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests fail by panicking and say what they measured"
)]

use heliostat_models::{JobClass, JobId, Timestamp, Watts};
use heliostat_optimizer::plan::check::{PlanFault, check, check_bound, cost, late_jobs};
use heliostat_optimizer::plan::problem::{Job, Level, Problem, Slot, Solution};
use heliostat_optimizer::plan::solve::{Limits, solve};
use proptest::prelude::*;

fn job(id: &str, gang: u32, work: u32, interruptible: bool) -> Job {
    let level = |quanta: u32, watts: f64| Level {
        cap: Watts(watts),
        power: Watts(watts - 200.0),
        speed: f64::from(quanta) / 4.0,
        quanta,
        energy: watts / 4_000.0,
        slow: 0.1 * f64::from(4 - quanta),
    };
    Job {
        id: JobId::from(id),
        class: JobClass::FineTuning,
        gang,
        work,
        levels: vec![level(4, 600.0), level(3, 400.0)],
        release: 0,
        deadline: None,
        interruptible,
        running: false,
        pause: 0.2,
        hold: 0.01,
        late: 1.0,
        terminal: 5.0,
        home: None,
    }
}

/// Twelve slots, cheap in the middle; devices and power for two of the three jobs.
fn problem() -> Problem {
    let mut first = job("a", 4, 16, true);
    first.running = true;
    let mut second = job("b", 4, 12, false);
    second.release = 2;
    let mut third = job("c", 4, 20, true);
    third.deadline = Some(9);
    Problem {
        start: Timestamp(0),
        slot_hours: 0.25,
        devices: 8,
        slots: (0..12)
            .map(|t| Slot {
                each: Watts::ZERO,
                power: Watts(3_200.0),
                cost: 1.0 + 0.1 * (f64::from(t) - 6.0).abs(),
            })
            .collect(),
        jobs: vec![first, second, third],
        contracts: Vec::new(),
    }
}

fn solved() -> (Problem, Solution) {
    let problem = problem();
    let plan = solve(&problem, Limits::default());
    assert_eq!(check(&problem, &plan), []);
    assert_eq!(check_bound(&problem, &plan), []);
    (problem, plan)
}

/// The faults of a plan changed by `change`, its cost stated rightly.
fn faults(change: impl FnOnce(&mut Problem, &mut Solution)) -> Vec<PlanFault> {
    let (mut problem, mut plan) = solved();
    change(&mut problem, &mut plan);
    plan.primal = cost(&problem, &plan.schedules);
    check(&problem, &plan)
}

fn has(faults: &[PlanFault], wanted: impl Fn(&PlanFault) -> bool) {
    assert!(faults.iter().any(wanted), "{faults:?}");
}

#[test]
fn refuses_a_plan_of_another_shape() {
    let shape = |f: &PlanFault| matches!(f, PlanFault::Shape { .. });
    has(&faults(|_, plan| plan.schedules.truncate(2)), shape);
    has(&faults(|_, plan| plan.schedules[1].0.truncate(5)), shape);
    has(&faults(|_, plan| plan.prices.truncate(3)), shape);
}

#[test]
fn refuses_a_level_that_a_job_does_not_have() {
    let found = faults(|_, plan| {
        let slot = plan.schedules[0].0.iter().position(|l| *l > 0).unwrap();
        plan.schedules[0].0[slot] = 3;
    });
    has(&found, |f| {
        matches!(f, PlanFault::UnknownLevel { level: 3, .. })
    });
}

#[test]
fn refuses_to_start_before_the_release() {
    let found = faults(|_, plan| plan.schedules[1].0[1] = 1);
    has(&found, |f| {
        matches!(
            f,
            PlanFault::BeforeRelease {
                slot: 1,
                release: 2,
                ..
            }
        )
    });
}

#[test]
fn refuses_to_break_what_may_not_be_interrupted() {
    let found = faults(|_, plan| {
        let slot = plan.schedules[1].0.iter().position(|l| *l > 0).unwrap();
        plan.schedules[1].0[slot + 1] = 0;
    });
    has(&found, |f| matches!(f, PlanFault::Broken { .. }));
    // Nor may it be left standing when it runs already.
    let found = faults(|problem, plan| {
        problem.jobs[1].running = true;
        plan.schedules[1].0.fill(0);
    });
    has(&found, |f| matches!(f, PlanFault::Broken { slot: 0, .. }));
}

#[test]
fn refuses_to_run_without_work() {
    let found = faults(|_, plan| plan.schedules[0].0.fill(1));
    has(&found, |f| matches!(f, PlanFault::Overdone { slot: 4, .. }));
}

#[test]
fn refuses_more_devices_and_more_power_than_there_are() {
    let all_at_once = |plan: &mut Solution| {
        for schedule in &mut plan.schedules {
            schedule.0.fill(0);
            schedule.0[2..5].fill(1);
        }
    };
    let found = faults(|_, plan| all_at_once(plan));
    has(&found, |f| {
        matches!(
            f,
            PlanFault::Devices {
                slot: 2,
                used: 12,
                limit: 8
            }
        )
    });
    has(&found, |f| matches!(f, PlanFault::Power { slot: 2, .. }));
    let found = faults(|problem, _| {
        for slot in &mut problem.slots {
            slot.power = Watts(700.0);
        }
    });
    has(&found, |f| matches!(f, PlanFault::Power { .. }));
    // A job that must go on excuses itself, not the others beside it.
    let found = faults(|problem, plan| {
        problem.jobs[1].running = true;
        problem.jobs[1].release = 0;
        plan.schedules[1].0.fill(0);
        plan.schedules[1].0[..3].fill(1);
        plan.schedules[0].0.fill(0);
        plan.schedules[2].0.fill(0);
        for slot in &mut problem.slots {
            slot.power = Watts(700.0);
        }
    });
    assert_eq!(found, []);
    let found = faults(|problem, plan| {
        problem.jobs[1].running = true;
        problem.jobs[1].release = 0;
        plan.schedules[1].0.fill(0);
        plan.schedules[1].0[..3].fill(1);
        plan.schedules[0].0.fill(0);
        plan.schedules[0].0[0] = 1;
        for slot in &mut problem.slots {
            slot.power = Watts(700.0);
        }
    });
    has(&found, |f| matches!(f, PlanFault::Power { slot: 0, .. }));
}

#[test]
fn refuses_a_false_cost_a_false_bound_and_prices_that_prove_nothing() {
    let (problem, plan) = solved();
    for wrong in [plan.primal * 0.99, plan.primal * 1.01, f64::NAN] {
        let found = check(
            &problem,
            &Solution {
                primal: wrong,
                ..plan.clone()
            },
        );
        has(&found, |f| matches!(f, PlanFault::Cost { .. }));
    }
    for wrong in [plan.primal * 1.01, f64::NAN] {
        let found = check(
            &problem,
            &Solution {
                bound: wrong,
                ..plan.clone()
            },
        );
        has(&found, |f| matches!(f, PlanFault::BoundAbove { .. }));
    }
    let mut greedy = plan.clone();
    greedy.bound = plan.primal + 1.0;
    let found = check_bound(&problem, &greedy);
    has(&found, |f| matches!(f, PlanFault::Unproven { .. }));
    for wrong in [-1.0, 1e6, f64::NAN] {
        let mut bad = plan.clone();
        bad.prices[3].0 = wrong;
        let found = check_bound(&problem, &bad);
        has(&found, |f| {
            matches!(
                f,
                PlanFault::Price {
                    slot: 3,
                    what,
                    ..
                } if what == "a device"
            )
        });
        let mut bad = plan.clone();
        bad.prices[3].1 = wrong;
        let found = check_bound(&problem, &bad);
        has(&found, |f| {
            matches!(
                f,
                PlanFault::Price {
                    slot: 3,
                    what,
                    ..
                } if what == "a watt"
            )
        });
    }
}

#[test]
fn lateness_is_reported() {
    let (mut problem, mut plan) = solved();
    assert_eq!(late_jobs(&problem, &plan), []);
    plan.schedules[2].0.fill(0);
    plan.schedules[2].0[7..12].fill(1);
    let late = late_jobs(&problem, &plan);
    assert_eq!(
        (late.len(), late[0].job.as_str(), late[0].slots),
        (1, "c", 3.0)
    );
    // Twenty quanta done of forty: five slots more after the end.
    problem.jobs[2].work = 40;
    assert_eq!(late_jobs(&problem, &plan)[0].slots, 8.0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    /// Whatever single entry is changed: either a rule breaks, or the plan is
    /// still allowed and the stated cost shows the change.
    #[test]
    fn no_changed_entry_goes_unnoticed(job in 0usize..3, slot in 0usize..12, level in 0u8..4) {
        let (problem, mut plan) = solved();
        prop_assume!(plan.schedules[job].0[slot] != level);
        plan.schedules[job].0[slot] = level;
        let found = check(&problem, &plan);
        prop_assert!(!found.is_empty());
    }
}
