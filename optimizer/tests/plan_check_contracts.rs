//! The plan checker and power contracts: every planted violation is refused by the
//! contract's name, and no proof goes without the right prices.

#![allow(
    clippy::unwrap_used,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/plans.rs"]
mod plans;

use heliostat_models::Watts;
use heliostat_optimizer::plan::check::{PlanFault, check, check_bound, cost};
use heliostat_optimizer::plan::problem::{Contract, Problem, Solution};
use heliostat_optimizer::plan::solve::{Limits, solve};
use plans::{job, level, problem};
use proptest::prelude::*;

/// Twelve slots; `a` runs with two of its four devices below the tenant's contract,
/// `b` runs on all of the annex and may not be paused, `c` and `d` wait.
fn tight() -> Problem {
    let mut a = job("a", 4, 16);
    a.running = true;
    a.pause = 0.2;
    a.home = Some(vec![2, 0]);
    let mut b = job("b", 2, 24);
    b.running = true;
    b.interruptible = false;
    b.home = Some(vec![0, 2]);
    let (mut c, d) = (job("c", 6, 12), job("d", 4, 20));
    c.levels = vec![level(4, 700.0), level(3, 450.0), level(2, 325.0)];
    c.hold = 0.01;
    let costs: Vec<f64> = (0..12).map(|t| 1.0 + 0.1 * f64::from(t % 5)).collect();
    let mut problem = problem(&costs, 16, 8_000.0, vec![a, b, c, d]);
    let contract = |id: &str, devices: u32, watts: f64| Contract {
        id: id.into(),
        devices,
        power: vec![Watts(watts); 12],
    };
    problem.contracts = vec![
        contract("tenant", 6, 2_500.0),
        contract("annex", 3, 1_500.0),
    ];
    problem
}

fn solved() -> (Problem, Solution) {
    let problem = tight();
    let plan = solve(&problem, Limits::default());
    assert_eq!(check(&problem, &plan), []);
    assert_eq!(check_bound(&problem, &plan), []);
    (problem, plan)
}

/// Contract faults, by name and slot, of a plan changed by `change`, its cost
/// stated rightly.
fn refused(change: impl FnOnce(&mut Problem, &mut Solution)) -> Vec<(String, usize)> {
    let (mut problem, mut plan) = solved();
    change(&mut problem, &mut plan);
    plan.primal = cost(&problem, &plan.schedules);
    let faults = check(&problem, &plan);
    let named = faults.iter().filter_map(|fault| match fault {
        PlanFault::Contract { contract, slot, .. } => {
            assert!(fault.to_string().contains(contract.as_str()));
            Some((contract.clone(), *slot))
        }
        _ => None,
    });
    named.collect()
}

fn is(found: &[(String, usize)], contract: &str, slots: std::ops::Range<usize>) {
    let expected: Vec<(String, usize)> = slots.map(|t| (contract.to_owned(), t)).collect();
    assert_eq!(found, expected);
}

#[test]
fn refuses_what_could_be_drawn_below_a_contract() {
    // Alone, `c` takes at most 6 · 500 W of the tenant's 2,500 W.
    let found = refused(|_, plan| {
        plan.schedules[0].0.fill(0);
        plan.schedules[2].0.fill(0);
        plan.schedules[3].0.fill(0);
        plan.schedules[2].0[4..7].fill(1);
    });
    is(&found, "tenant", 4..7);
    // So does `d` beside two devices of `a`, as long as `a` is where it was.
    let found = refused(|_, plan| {
        plan.schedules[2].0.fill(0);
        plan.schedules[0].0[..4].fill(1);
        plan.schedules[0].0[4..].fill(0);
        plan.schedules[3].0.fill(0);
        plan.schedules[3].0[3..8].fill(1);
    });
    is(&found, "tenant", 3..4);
    // After a pause all four devices of `a` may be below it, with two of `d`.
    let found = refused(|_, plan| {
        plan.schedules[2].0.fill(0);
        plan.schedules[0].0 = vec![1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
        plan.schedules[3].0.fill(0);
        plan.schedules[3].0[4..9].fill(1);
    });
    is(&found, "tenant", 4..5);
}

#[test]
fn refuses_lower_limits_more_members_and_other_devices() {
    let lower = |problem: &mut Problem, _: &mut Solution| {
        problem.contracts[0].power[2] = Watts(100.0);
    };
    is(&refused(lower), "tenant", 2..3);
    let (_, plan) = solved();
    let waits = (0..12).find(|t| plan.schedules[2].0[*t] > 0).unwrap();
    let more = refused(|problem, _| {
        problem.contracts[1].devices += 6;
    });
    assert!(more.contains(&("annex".to_owned(), waits)), "{more:?}");
    // Nobody knows any more where `a` is: all of it may be below the tenant's.
    let lost = refused(|problem, plan| {
        problem.contracts[0].power.fill(Watts(1_000.0));
        problem.jobs[0].home = None;
        for schedule in &mut plan.schedules[2..] {
            schedule.0.fill(0);
        }
        plan.schedules[0].0.fill(0);
        plan.schedules[0].0[..4].fill(1);
    });
    is(&lost, "tenant", 0..4);
}

#[test]
fn a_job_that_must_go_on_excuses_itself_and_what_adds_nothing() {
    let short = |problem: &mut Problem, plan: &mut Solution| {
        problem.contracts[1].power.fill(Watts(600.0));
        for schedule in &mut plan.schedules {
            schedule.0.fill(0);
        }
        plan.schedules[1].0[..6].fill(1);
    };
    assert_eq!(refused(short), []);
    // `a` stands elsewhere as long as it is not paused.
    let beside = |problem: &mut Problem, plan: &mut Solution| {
        short(problem, plan);
        plan.schedules[0].0[..4].fill(1);
    };
    assert_eq!(refused(beside), []);
    // `d` could have the third device of the annex.
    let joined = |problem: &mut Problem, plan: &mut Solution| {
        short(problem, plan);
        plan.schedules[3].0[1..6].fill(1);
    };
    is(&refused(joined), "annex", 1..6);
    let full = |problem: &mut Problem, plan: &mut Solution| {
        joined(problem, plan);
        problem.contracts[1].devices = 2;
    };
    assert_eq!(refused(full), []);
    // What it takes too much costs, and must be stated.
    let (mut problem, mut plan) = solved();
    short(&mut problem, &mut plan);
    plan.primal = cost(&problem, &plan.schedules);
    plan.bound = plan.bound.min(plan.primal);
    let excess = 6.0 * 200.0 * 0.4;
    assert!(plan.primal > excess);
    plan.primal -= excess;
    let faults = check(&problem, &plan);
    assert!(matches!(faults[0], PlanFault::Cost { .. }), "{faults:?}");
}

#[test]
fn refuses_prices_of_contracts_that_prove_nothing() {
    let (problem, plan) = solved();
    for wrong in [-1.0, 1.0, f64::NAN] {
        let mut bad = plan.clone();
        bad.contract_prices[1][3] = wrong;
        let found = check_bound(&problem, &bad);
        let named = |f: &PlanFault| matches!(f, PlanFault::Price { what, slot: 3, .. } if what.contains("`annex`"));
        assert!(found.iter().any(named), "{found:?}");
    }
    // Over all devices it is felt whoever stands where.
    let mut problem = problem;
    problem.contracts[0].devices = 16;
    problem.jobs[0].home = Some(vec![4, 0]);
    problem.jobs[1].home = Some(vec![2, 2]);
    problem.jobs[3].hold = 1.0;
    let plan = solve(&problem, Limits::default());
    assert_eq!(check(&problem, &plan), []);
    assert_eq!(check_bound(&problem, &plan), []);
    let prices: f64 = plan.contract_prices.iter().flatten().sum();
    assert!(prices > 0.0);
    // The bound rests on them.
    let mut free = plan.clone();
    free.contract_prices.iter_mut().for_each(|p| p.fill(0.0));
    let found = check_bound(&problem, &free);
    assert!(
        matches!(found[..], [PlanFault::Unproven { .. }]),
        "{found:?}"
    );
    // A higher limit is worth something, so it lowers what prices prove.
    let mut wider = problem.clone();
    let binds = plan.contract_prices[0].iter().position(|p| *p > 1e-9);
    wider.contracts[0].power[binds.unwrap()] += Watts(1e5);
    let found = check_bound(&wider, &plan);
    assert!(
        matches!(found[..], [PlanFault::Unproven { .. }]),
        "{found:?}"
    );
}

#[test]
fn refuses_a_plan_about_other_contracts() {
    let (problem, plan) = solved();
    let changes: [fn(&mut Problem, &mut Solution); 4] = [
        |_, plan| plan.contract_prices.truncate(1),
        |_, plan| plan.contract_prices[1].truncate(11),
        |problem, _| problem.contracts.truncate(1),
        |problem, _| problem.contracts[1].power.truncate(11),
    ];
    for (place, change) in changes.into_iter().enumerate() {
        let (mut problem, mut plan) = (problem.clone(), plan.clone());
        change(&mut problem, &mut plan);
        let found = check(&problem, &plan);
        assert!(
            matches!(found[..], [PlanFault::Shape { .. }]),
            "{place}: {found:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    /// The checker says that a contract breaks where counting device by device says so.
    #[test]
    fn judges_any_plan_as_counting_device_by_device_does(
        levels in prop::collection::vec(prop::collection::vec(0u8..4, 12), 4),
        watts in prop::collection::vec(0.0..4_000.0f64, 2),
    ) {
        let (mut problem, mut plan) = solved();
        for (contract, watts) in problem.contracts.iter_mut().zip(&watts) {
            contract.power.fill(Watts(*watts));
        }
        for ((job, schedule), levels) in problem.jobs.iter_mut().zip(&mut plan.schedules).zip(&levels) {
            // Of those that must go on another test speaks.
            job.interruptible = true;
            let most = job.levels.len() as u8;
            schedule.0 = levels.iter().map(|l| (*l).min(most)).collect();
        }
        let schedules: Vec<&[u8]> = plan.schedules.iter().map(|s| s.0.as_slice()).collect();
        let mut expected = Vec::new();
        for (c, contract) in problem.contracts.iter().enumerate() {
            for t in 0..12 {
                if plans::hottest(&problem, &schedules, c, t) > contract.power[t].0 + 1e-2 {
                    expected.push((contract.id.clone(), t));
                }
            }
        }
        let found: Vec<(String, usize)> = check(&problem, &plan).iter().filter_map(|f| match f {
            PlanFault::Contract { contract, slot, .. } => Some((contract.clone(), *slot)),
            _ => None,
        }).collect();
        prop_assert_eq!(found, expected);
    }
}
