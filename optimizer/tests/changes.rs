//! Where gangs or limits cut across one another, an engine goes on from what it
//! found before: what it then says, against a fresh start and against a linear
//! program that shares nothing with it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

mod support;

use heliostat_models::Watts;
use heliostat_optimizer::allocate::{Change, Engine, Method, Numbers, Outcome, Problem};
use support::scale::{Scale, contracts, gangs};
use support::{plain_program, worst_excess};

/// A random change of what the plain program knows of too.
fn change(rng: &mut fastrand::Rng, problem: &Problem) -> Change {
    match rng.usize(0..if problem.contracts.is_empty() { 6 } else { 7 }) {
        0..=2 => Change::Curve {
            group: rng.usize(0..problem.groups.len()),
            curve: support::curve(rng, 100.0, 700.0, 9),
        },
        3 => Change::Service {
            group: rng.usize(0..problem.groups.len()),
            weight: 0.5 + rng.f64(),
            floor_speed: if rng.bool() { 0.0 } else { 0.3 * rng.f64() },
        },
        4 => {
            let node = rng.usize(0..problem.nodes.len());
            let limit = problem.nodes[node].limit * (0.93 + 0.14 * rng.f64());
            Change::Limit { node, limit }
        }
        5 => {
            let node = rng.usize(0..problem.nodes.len());
            Change::Uncontrolled {
                node,
                uncontrolled: problem.nodes[node].uncontrolled * (0.9 + 0.2 * rng.f64()),
                uncertainty: Watts(3.0 * rng.f64()),
            }
        }
        _ => {
            let contract = rng.usize(0..problem.contracts.len());
            let limit = problem.contracts[contract].limit * (0.95 + 0.1 * rng.f64());
            Change::ContractLimit { contract, limit }
        }
    }
}

/// What an engine says after changes, held against a fresh start and the
/// plain program. `promised` is the gap that both have to keep.
fn judge(engine: &mut Engine, numbers: Numbers, promised: f64) {
    let problem = engine.problem().clone();
    assert!(numbers.gap() <= promised, "{numbers:?}");
    let Outcome::Allocated(got) = engine.outcome() else {
        panic!("it was solved");
    };
    assert!(worst_excess(&problem, &got.caps) <= 1e-6);
    let scale = numbers.primal.abs().max(1.0);
    // The certificate is of the problem alone: it knows no engine.
    let certificate = &got.certificate;
    assert!((certificate.primal - numbers.primal).abs() <= 1e-7 * scale);
    assert!((certificate.dual_bound - numbers.dual_bound).abs() <= 1e-7 * scale);
    let mut fresh = Engine::new(problem.clone()).unwrap();
    let anew = fresh.solve().unwrap();
    assert!(anew.gap() <= promised, "{anew:?}");
    assert_eq!(engine.inputs_hash(), fresh.inputs_hash());
    // Neither finds more than the other proves to be possible.
    assert!(numbers.primal <= anew.dual_bound + 1e-9 * scale);
    assert!(anew.primal <= numbers.dual_bound + 1e-9 * scale);
    let optimum = plain_program(&problem).expect("the plain program ends");
    assert!(
        numbers.dual_bound >= optimum - 1e-7 * scale,
        "the bound {} is beaten by {optimum}",
        numbers.dual_bound
    );
    assert!(numbers.primal <= optimum + 1e-7 * scale);
    assert!(numbers.primal >= optimum - (promised + 1e-7) * scale);
}

#[test]
fn going_on_through_changes_ends_as_near_the_optimum_as_a_fresh_start() {
    let mut rng = fastrand::Rng::with_seed(31);
    let (mut judged, mut crossed, mut infeasible) = (0, 0, 0);
    for round in 0..20 {
        let scale = Scale {
            devices: rng.usize(20..160),
            rack: rng.usize(2..20),
            row: rng.usize(1..5),
            hall: rng.usize(1..4),
            corners: rng.usize(2..10),
            tight: 0.3 + 0.6 * rng.f64(),
        };
        let (jobs, mixed) = (rng.usize(3..25), rng.usize(1..40));
        let mut problem = gangs(&mut rng, scale, jobs, mixed);
        if round % 2 == 0 {
            contracts(&mut rng, &mut problem, 2, 0.6);
        }
        let mut engine = Engine::new(problem).unwrap();
        engine.solve();
        for _ in 0..6 {
            for _ in 0..rng.usize(1..6) {
                let change = change(&mut rng, engine.problem());
                engine.change(&change).unwrap();
            }
            let Some(numbers) = engine.solve() else {
                infeasible += 1;
                continue;
            };
            judged += 1;
            crossed += usize::from(numbers.method != Method::Sweep);
            judge(&mut engine, numbers, 1e-6);
        }
    }
    eprintln!("{judged} judged, {crossed} by prices or linear program, {infeasible} infeasible");
    assert!(judged > 80 && crossed > 60);
}

#[test]
fn problems_too_large_for_the_linear_program_keep_the_promised_gap_through_changes() {
    let mut rng = fastrand::Rng::with_seed(32);
    let scale = Scale {
        rack: 20,
        row: 8,
        ..Scale::of(6_000)
    };
    let mut engine = Engine::new(gangs(&mut rng, scale, 700, 100)).unwrap();
    let first = engine.solve().unwrap();
    assert_eq!(first.method, Method::Prices);
    for _ in 0..4 {
        for _ in 0..7 {
            let change = change(&mut rng, engine.problem());
            engine.change(&change).unwrap();
        }
        let numbers = engine.solve().unwrap();
        assert_eq!(numbers.method, Method::Prices);
        judge(&mut engine, numbers, 1e-4);
    }
}

#[test]
fn the_same_changes_give_the_same_bits() {
    let mut rng = fastrand::Rng::with_seed(33);
    for round in 0..6 {
        let devices = if round == 0 { 5_000 } else { 120 };
        let problem = gangs(&mut rng, Scale::of(devices), devices / 9, 60);
        let mut engines = [(); 2].map(|()| Engine::new(problem.clone()).unwrap());
        for step in 0..5 {
            let changes: Vec<Change> = (0..rng.usize(1..6))
                .map(|_| change(&mut rng, &problem))
                .collect();
            let answers = engines.each_mut().map(|engine| {
                engine.change_all(&changes).unwrap();
                let numbers = engine.solve();
                let caps: Vec<_> = (0..problem.groups.len())
                    .map(|group| engine.cap(group).map(|cap| cap.0.to_bits()))
                    .collect();
                (numbers, caps, engine.prices().map(<[f64]>::to_vec))
            });
            assert_eq!(answers[0], answers[1]);
            if step == 2 {
                // What one was asked for besides does not matter.
                engines[0].outcome();
                engines[0].changed();
            }
        }
        // And what forgets is a fresh start.
        let [mut engine, _] = engines;
        engine.forget();
        let mut fresh = Engine::new(engine.problem().clone()).unwrap();
        assert_eq!(engine.solve(), fresh.solve());
        assert_eq!(engine.prices(), fresh.prices());
    }
}
