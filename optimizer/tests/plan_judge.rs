//! HiGHS judges the planner: random halls under power contracts (forty, or as many as
//! HELIOSTAT_JUDGED_PLANS says) are given to a solver that shares nothing with ours, as
//! a mixed integer program for the optimum and as a linear one for the bound.
//!
//! Needs Python with `highspy` and `numpy`: `python3` from PATH, or what
//! HELIOSTAT_PYTHON names. Skipped with a line where it is missing, unless
//! HELIOSTAT_PEERS=required.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/halls.rs"]
mod halls;
#[path = "../../tests/support/peers.rs"]
mod peers;
#[path = "support/plans.rs"]
mod plans;

use halls::hall;
use heliostat_optimizer::plan::solve::{Limits, solve};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use std::collections::BTreeMap;
use std::process::Command;

fn problems() -> usize {
    let wanted = std::env::var("HELIOSTAT_JUDGED_PLANS").ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(40)
}

#[test]
fn highs_finds_no_better_plan_and_no_lower_bound() {
    let Some(python) = peers::python("highspy, numpy") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut runner = TestRunner::deterministic();
    let strategy = hall(4..8, 2..6);
    let mut ours = BTreeMap::new();
    for round in 0..problems() {
        let mut problem = strategy.new_tree(&mut runner).unwrap().current().problem;
        if round % 8 == 7 {
            problem.contracts.clear();
            problem.jobs.iter_mut().for_each(|job| job.home = None);
        }
        let plan = plans::verified(&problem);
        let patient = Limits {
            rounds: 200,
            tolerance: 1e-6,
            ..Limits::default()
        };
        let name = format!("p{round:06}");
        let path = directory.path().join(format!("{name}.json"));
        std::fs::write(path, serde_json::to_vec(&problem).unwrap()).unwrap();
        ours.insert(name, (plan, solve(&problem, patient)));
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/judge/plan.py");
    let run = Command::new(python)
        .arg(script)
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let theirs: BTreeMap<String, (Option<f64>, Option<f64>)> =
        serde_json::from_slice(&run.stdout).unwrap();
    let (mut excess, mut gap, mut best_found, mut priced) = (0.0, 0.0, 0, 0);
    for (name, (plan, patient)) in &ours {
        let (Some(optimum), Some(program)) = theirs[name] else {
            panic!("HiGHS has no answer to {name}");
        };
        let near = 1e-6 * optimum.abs().max(1.0);
        assert!(
            plan.primal >= optimum - near,
            "{name}: {} beats HiGHS, {optimum}",
            plan.primal
        );
        for bound in [plan.bound, patient.bound] {
            assert!(
                bound <= optimum + near,
                "{name}: the bound {bound} is beaten by {optimum}"
            );
            assert!(
                bound <= program + near,
                "{name}: the bound {bound} is above the linear program's {program}"
            );
        }
        // The bound is all that prices can prove, where plans do not come below it.
        let provable = program.min(patient.primal);
        assert!(patient.effort.converged, "{name}");
        assert!(
            patient.bound >= provable - 1e-4 * provable.abs().max(1.0),
            "{name}: the bound {} where prices prove {provable}",
            patient.bound
        );
        excess += (plan.primal - optimum) / optimum.abs().max(1.0);
        gap += (optimum - plan.bound) / optimum.abs().max(1.0);
        best_found += usize::from(plan.primal <= optimum + near);
        let prices = patient.contract_prices.iter().flatten();
        priced += usize::from(prices.sum::<f64>() > 1e-6);
    }
    let count = ours.len() as f64;
    eprintln!(
        "{count} problems: best plan found in {best_found}; mean excess {:.3} %, mean gap of the bound {:.2} %; contracts have a price in {priced}",
        100.0 * excess / count,
        100.0 * gap / count
    );
    assert!(priced * 8 > ours.len(), "{priced}");
    assert!(excess / count < 0.01, "{excess}");
}
