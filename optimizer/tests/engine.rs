//! The engine that keeps what does not change, against a fresh start.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

mod support;

use heliostat_models::Watts;
use heliostat_optimizer::allocate::{
    Allocation, Change, Engine, Method, Outcome, Problem, allocate,
};
use std::collections::HashMap;
use support::scale::{Scale, contracts, gangs, singles};
use support::{plain_program, worst_excess};

fn scale(rng: &mut fastrand::Rng) -> Scale {
    Scale {
        devices: rng.usize(30..400),
        rack: rng.usize(2..20),
        row: rng.usize(1..5),
        hall: rng.usize(1..4),
        corners: rng.usize(2..10),
        tight: 0.3 + 0.6 * rng.f64(),
    }
}

/// A random change that leaves the problem sound.
fn change(rng: &mut fastrand::Rng, problem: &Problem) -> Change {
    match rng.usize(0..if problem.contracts.is_empty() { 6 } else { 7 }) {
        0 => {
            let node = rng.usize(0..problem.nodes.len());
            let limit = problem.nodes[node].limit * (0.9 + 0.2 * rng.f64());
            Change::Limit { node, limit }
        }
        1 => {
            let node = rng.usize(0..problem.nodes.len());
            Change::Uncontrolled {
                node,
                uncontrolled: problem.nodes[node].uncontrolled * (0.9 + 0.2 * rng.f64()),
                uncertainty: Watts(3.0 * rng.f64()),
            }
        }
        2 | 3 => {
            let group = rng.usize(0..problem.groups.len());
            let curve = support::curve(rng, 100.0, 700.0, 9);
            Change::Curve { group, curve }
        }
        4 => Change::Range {
            device: rng.usize(0..problem.devices.len()),
            min: Watts(100.0 + 37.3 * rng.f64()),
            max: Watts(if rng.bool() {
                700.0
            } else {
                400.0 + 300.0 * rng.f64()
            }),
        },
        5 => Change::Service {
            group: rng.usize(0..problem.groups.len()),
            weight: 0.5 + rng.f64(),
            floor_speed: if rng.bool() { 0.0 } else { 0.2 * rng.f64() },
        },
        _ => {
            let contract = rng.usize(0..problem.contracts.len());
            let limit = problem.contracts[contract].limit * (0.95 + 0.1 * rng.f64());
            Change::ContractLimit { contract, limit }
        }
    }
}

#[test]
fn changes_give_the_same_bits_as_a_fresh_start_on_nested_limits() {
    let mut rng = fastrand::Rng::with_seed(11);
    let (mut compared, mut infeasible) = (0, 0);
    for _ in 0..60 {
        let scale = scale(&mut rng);
        let mut engine = Engine::new(singles(&mut rng, scale)).unwrap();
        let mut told = HashMap::new();
        for round in 0..12 {
            let changes: Vec<Change> = (0..rng.usize(1..20))
                .map(|_| change(&mut rng, engine.problem()))
                .collect();
            if round % 2 == 0 {
                engine.change_all(&changes).unwrap();
            } else {
                changes.iter().for_each(|c| engine.change(c).unwrap());
            }
            if round == 7 {
                engine
                    .change(&Change::PriceOfEnergy(0.0008 * rng.f64()))
                    .unwrap();
            }
            let numbers = engine.solve();
            let mut fresh = Engine::new(engine.problem().clone()).unwrap();
            let anew = fresh.solve();
            assert_eq!(engine.inputs_hash(), fresh.inputs_hash());
            assert_eq!(numbers.is_some(), anew.is_some());
            let (Some(numbers), Some(anew)) = (numbers, anew) else {
                infeasible += 1;
                continue;
            };
            compared += 1;
            assert_eq!(numbers.method, Method::Sweep);
            assert_eq!(engine.prices(), fresh.prices());
            let changed = engine.changed();
            for group in 0..engine.problem().groups.len() {
                let (ours, theirs) = (engine.cap(group).unwrap(), fresh.cap(group).unwrap());
                assert_eq!(ours.0.to_bits(), theirs.0.to_bits());
                // Exactly those with another cap are told, each once.
                let is_other = told.insert(group, ours.0.to_bits()) != Some(ours.0.to_bits());
                assert_eq!(changed.binary_search(&group).is_ok(), is_other);
            }
            assert!(engine.changed().is_empty());
            let scale = anew.primal.abs().max(1.0);
            assert!((numbers.primal - anew.primal).abs() <= 1e-12 * scale);
            assert!((numbers.dual_bound - anew.dual_bound).abs() <= 1e-12 * scale);
            assert!(numbers.gap() <= 1e-9, "{}", numbers.gap());
            // What the engine keeps in sums is what the problem itself says.
            let Outcome::Allocated(whole) = engine.outcome() else {
                panic!("it was solved");
            };
            for (group, of_whole) in whole.jobs.iter().take(whole.groups.len()).enumerate() {
                assert_eq!(engine.explain(group).as_ref(), Some(of_whole));
            }
            let Outcome::Allocated(figures) = engine.figures() else {
                panic!("it was solved");
            };
            assert_eq!(
                Allocation {
                    jobs: Vec::new(),
                    ..whole.clone()
                },
                figures
            );
            let certificate = &whole.certificate;
            assert!((certificate.primal - numbers.primal).abs() <= 1e-9 * scale);
            let bound = engine.bound_from_prices().unwrap();
            assert!((bound - numbers.dual_bound).abs() <= 1e-9 * scale);
            assert!(numbers.dual_bound >= bound - 1e-12 * scale);
        }
    }
    eprintln!("{compared} compared, {infeasible} infeasible");
    assert!(compared > 300);
}

#[test]
fn gangs_across_racks_feeds_and_contracts_stay_near_the_optimum_through_changes() {
    let mut rng = fastrand::Rng::with_seed(12);
    let (mut compared, mut crossed) = (0, 0);
    for round in 0..25 {
        let scale = Scale {
            devices: rng.usize(20..120),
            ..scale(&mut rng)
        };
        let (jobs, mixed) = (rng.usize(2..20), rng.usize(0..40));
        let mut problem = gangs(&mut rng, scale, jobs, mixed);
        if round % 2 == 0 {
            contracts(&mut rng, &mut problem, 2, 0.6);
        }
        let mut engine = Engine::new(problem).unwrap();
        for _ in 0..3 {
            for _ in 0..rng.usize(0..6) {
                let change = change(&mut rng, engine.problem());
                // A random range may leave a gang no cap in common; then it is refused.
                let refused = engine.change(&change).is_err();
                assert!(!refused || engine.problem().validate().is_ok());
            }
            let Outcome::Allocated(got) = engine.outcome() else {
                continue;
            };
            assert!(worst_excess(engine.problem(), &got.caps) <= 1e-6);
            let again = allocate(engine.problem()).unwrap();
            let again = &again.allocation().certificate;
            let scale = again.primal.abs().max(1.0);
            assert_eq!(got.certificate.inputs_hash, again.inputs_hash);
            assert!((got.certificate.primal - again.primal).abs() <= 1e-6 * scale);
            compared += 1;
            crossed += usize::from(got.method != Method::Sweep);
            assert!(got.certificate.gap <= 1e-6, "{:?}", got.certificate);
        }
    }
    eprintln!("{compared} compared, {crossed} by prices or linear program");
    assert!(compared > 30 && crossed > 15);
}

#[test]
fn contracts_hold_and_cost_what_the_plain_program_says() {
    let mut rng = fastrand::Rng::with_seed(13);
    let mut compared = 0;
    for _ in 0..40 {
        let scale = Scale {
            devices: rng.usize(10..60),
            ..scale(&mut rng)
        };
        let mut problem = singles(&mut rng, scale);
        contracts(&mut rng, &mut problem, 3, 0.5);
        let Outcome::Allocated(got) = allocate(&problem).unwrap() else {
            continue;
        };
        let Some(theirs) = plain_program(&problem) else {
            continue;
        };
        compared += 1;
        assert!(worst_excess(&problem, &got.caps) <= 1e-6);
        assert!((got.certificate.primal - theirs).abs() <= 2e-6 * theirs.abs().max(1.0));
    }
    assert!(compared > 20);
}

#[test]
fn steps_of_devices_are_kept() {
    let mut rng = fastrand::Rng::with_seed(14);
    for _ in 0..20 {
        let scale = scale(&mut rng);
        let mut problem = singles(&mut rng, scale);
        for device in &mut problem.devices {
            device.step = Watts([1.0, 5.0, 25.0][rng.usize(0..3)]);
        }
        let outcome = allocate(&problem).unwrap();
        for (device, cap) in problem.devices.iter().zip(&outcome.allocation().caps) {
            let steps = cap.0 / device.step.0;
            assert!(
                (steps - steps.round()).abs() < 1e-9,
                "{cap} in steps of {}",
                device.step
            );
        }
        assert!(worst_excess(&problem, &outcome.allocation().caps) <= 1e-6);
    }
}

#[test]
fn what_two_threads_read_of_a_large_site_is_what_the_problem_says() {
    let mut rng = fastrand::Rng::with_seed(15);
    let mut engine = Engine::new(singles(&mut rng, Scale::of(9_001))).unwrap();
    let numbers = engine.solve().unwrap();
    assert!(numbers.gap() <= 1e-9);
    let bound = engine.bound_from_prices().unwrap();
    assert!((bound - numbers.dual_bound).abs() <= 1e-9 * bound);
    let Outcome::Allocated(whole) = engine.outcome() else {
        panic!("it was solved");
    };
    assert!((whole.certificate.primal - numbers.primal).abs() <= 1e-9 * bound);
    assert!(worst_excess(engine.problem(), &whole.caps) <= 1e-6);
    // The hash is the same whether taken beside the solution or by the engine.
    let beside = allocate(engine.problem()).unwrap();
    assert_eq!(beside.allocation().certificate, whole.certificate);
    let change = change(&mut rng, engine.problem());
    engine.change(&change).unwrap();
    let fresh = allocate(engine.problem()).unwrap();
    assert_eq!(
        engine.inputs_hash(),
        fresh.allocation().certificate.inputs_hash
    );
}

#[test]
fn of_many_changes_those_before_one_that_is_refused_stay() {
    let mut rng = fastrand::Rng::with_seed(16);
    let scale = Scale::of(300);
    let mut engine = Engine::new(singles(&mut rng, scale)).unwrap();
    engine.solve().unwrap();
    let mut curve = |group| Change::Curve {
        group,
        curve: support::curve(&mut rng, 100.0, 700.0, 9),
    };
    let mut changes: Vec<Change> = (0..200).map(&mut curve).collect();
    // Nobody has this number; what comes after it is not taken in.
    changes.push(curve(300));
    changes.push(curve(250));
    let error = engine.change_all(&changes).unwrap_err();
    assert!(
        error.to_string().contains("number 300, which is not there"),
        "{error}"
    );
    let of = |group: usize| &engine.problem().groups[group].curve;
    assert!(
        (0..200).all(|at| matches!(&changes[at], Change::Curve { curve, .. } if of(at) == curve))
    );
    assert!(!matches!(&changes[201], Change::Curve { curve, .. } if of(250) == curve));
    let mut fresh = Engine::new(engine.problem().clone()).unwrap();
    assert!(engine.solve().is_some() && fresh.solve().is_some());
    assert_eq!(engine.prices(), fresh.prices());
}
