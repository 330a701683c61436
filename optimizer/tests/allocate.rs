//! The allocator against brute force, against the plain linear program, and
//! against every limit of ten thousand trees.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

mod support;

use heliostat_models::{JobClass, Watts};
use heliostat_optimizer::allocate::{
    Engine, Group, Method, Outcome, Problem, allocate, dual_bound, objective,
};
use support::{Shape, floor_cap, plain_program, problem, worst_excess};

fn shape(rng: &mut fastrand::Rng) -> Shape {
    Shape {
        racks: rng.usize(1..=4),
        nodes: rng.usize(1..=3),
        devices: rng.usize(1..=4),
        gang: rng.usize(1..=12),
        corners: rng.usize(2..=8),
    }
}

/// Ten thousand, or as many as HELIOSTAT_TREES says.
fn trees() -> usize {
    let wanted = std::env::var("HELIOSTAT_TREES").ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(10_000)
}

#[test]
fn never_above_any_limit_on_random_trees() {
    let mut rng = fastrand::Rng::with_seed(1);
    let (mut programs, mut shed, mut worst) = (0, 0, 0.0f64);
    for _ in 0..trees() {
        let shape = shape(&mut rng);
        let tight = 0.05 + 0.95 * rng.f64();
        let shuffle = rng.bool();
        let mut case = problem(&mut rng, shape, tight, shuffle);
        case.step = Watts(if rng.bool() { 0.001 } else { 1.0 });
        if rng.f64() < 0.2 {
            let count = rng.usize(1..3);
            support::scale::contracts(&mut rng, &mut case, count, 0.7);
        }
        let outcome = allocate(&case).unwrap();
        let got = outcome.allocation();
        let excess = worst_excess(&case, &got.caps);
        assert!(excess <= 1e-6, "{excess} W above a limit: {case:?}");
        for group in &case.groups {
            let cap = got.caps[group.devices[0]];
            assert!(group.devices.iter().all(|d| got.caps[*d] == cap));
            assert!(cap.0 >= 100.0 && cap.0 <= 700.0);
            if matches!(outcome, Outcome::Allocated(_)) {
                assert!(group.curve.speed(cap) >= group.floor_speed - 1e-9);
            }
        }
        programs += usize::from(got.method != Method::Sweep);
        shed += usize::from(matches!(outcome, Outcome::Infeasible { .. }));
        if case.step.0 < 0.5 {
            worst = worst.max(got.certificate.gap);
        }
    }
    eprintln!("{programs} needed more than the sweep, {shed} shed floors, largest gap {worst:e}");
    assert!(
        programs * 20 > trees() && shed * 200 > trees(),
        "the cases are too easy: {programs}, {shed}"
    );
    assert!(worst < 1e-3, "largest gap {worst:e}");
}

#[test]
fn agrees_with_the_plain_linear_program() {
    let mut rng = fastrand::Rng::with_seed(2);
    let mut compared = 0;
    for round in 0..150 {
        let shape = Shape {
            racks: 4,
            nodes: 3,
            devices: 4,
            gang: 16,
            corners: 10,
        };
        let tight = 0.3 + 0.5 * rng.f64();
        let case = problem(&mut rng, shape, tight, round % 2 == 0);
        let Outcome::Allocated(got) = allocate(&case).unwrap() else {
            continue;
        };
        let Some(theirs) = plain_program(&case) else {
            continue;
        };
        compared += 1;
        let certificate = &got.certificate;
        let scale = theirs.abs().max(1.0);
        assert!(
            certificate.gap < 1e-6,
            "gap {:e} by {:?}",
            certificate.gap,
            got.method
        );
        assert!(
            (certificate.primal - theirs).abs() < 1e-6 * scale,
            "{} against {theirs}",
            certificate.primal
        );
        assert!(certificate.dual_bound >= theirs - 1e-6 * scale);
    }
    assert!(compared > 100);
}

#[test]
fn no_grid_of_caps_beats_it_on_small_trees() {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut feasible = 0;
    for _ in 0..60 {
        let shape = Shape {
            racks: 2,
            nodes: 2,
            devices: 2,
            gang: 4,
            corners: 5,
        };
        let tight = 0.3 + 0.5 * rng.f64();
        let mut case = problem(&mut rng, shape, tight, true);
        case.groups.truncate(3);
        let Outcome::Allocated(got) = allocate(&case).unwrap() else {
            continue;
        };
        feasible += 1;
        const STEPS: usize = 24;
        let caps_of = |group: usize, k: usize| {
            let floor = floor_cap(&case.groups[group]);
            floor + (700.0 - floor) * k as f64 / STEPS as f64
        };
        let mut best = f64::NEG_INFINITY;
        let jobs = case.groups.len();
        for combination in 0..(STEPS + 1).pow(jobs as u32) {
            let mut caps: Vec<Watts> = case.devices.iter().map(|d| d.min).collect();
            for (j, group) in case.groups.iter().enumerate() {
                let k = combination / (STEPS + 1).pow(j as u32) % (STEPS + 1);
                for device in &group.devices {
                    caps[*device] = Watts(caps_of(j, k));
                }
            }
            if worst_excess(&case, &caps) <= 0.0 {
                best = best.max(objective(&case, &caps));
            }
        }
        let primal = got.certificate.primal;
        assert!(primal >= best - 1e-9, "grid found {best}, we {primal}");
        assert!(got.certificate.dual_bound >= best - 1e-9);
    }
    assert!(feasible > 30);
}

#[test]
fn the_same_problem_gives_the_same_bytes_and_another_another_hash() {
    let mut rng = fastrand::Rng::with_seed(4);
    let mut case = problem(&mut rng, Shape::DEMO, 0.5, true);
    let bytes = |case| serde_json::to_vec(&allocate(case).unwrap()).unwrap();
    assert_eq!(bytes(&case), bytes(&case.clone()));
    let hash = |case: &Problem| {
        let outcome = allocate(case).unwrap();
        outcome.allocation().certificate.inputs_hash.clone()
    };
    let before = hash(&case);
    case.nodes[3].limit += Watts(1e-6);
    assert_ne!(before, hash(&case));
}

#[test]
fn every_field_of_a_problem_is_in_its_hash() {
    type Mutation = fn(&mut Problem);
    let mut rng = fastrand::Rng::with_seed(9);
    let mut case = problem(&mut rng, Shape::DEMO, 0.6, true);
    support::scale::contracts(&mut rng, &mut case, 2, 0.7);
    let mutations: [Mutation; 20] = [
        |p| p.price_of_energy += 1e-9,
        |p| p.step += Watts(1e-3),
        |p| p.nodes[2].id.push('x'),
        |p| p.nodes[2].limit += Watts(1e-6),
        |p| p.nodes[2].uncontrolled += Watts(1e-6),
        |p| p.nodes[2].uncertainty += Watts(1e-6),
        |p| p.nodes[2].spare += Watts(1e-6),
        |p| p.nodes[4].parents = vec![0],
        |p| p.devices[7].id = "other".into(),
        |p| p.devices[7].min += Watts(1e-6),
        |p| p.devices[7].max += Watts(1e-6),
        |p| p.devices[7].node -= 1,
        |p| p.devices[7].fixed = Some(Watts(0.0)),
        |p| p.devices[7].step = Watts(1e-6),
        |p| p.groups[1].job = "other".into(),
        |p| p.groups[1].weight += 1e-9,
        |p| p.groups[1].floor_speed += 1e-9,
        |p| p.groups[1].devices.swap(0, 1),
        |p| p.contracts[1].limit += Watts(1e-6),
        |p| p.contracts[1].devices.push(0),
    ];
    let hash = |case: &Problem| Engine::new(case.clone()).unwrap().inputs_hash();
    case.groups.retain(|g| g.devices.len() > 1);
    let mut seen = std::collections::HashSet::from([hash(&case)]);
    for (place, mutate) in mutations.into_iter().enumerate() {
        let mut other = case.clone();
        mutate(&mut other);
        assert!(
            seen.insert(hash(&other)),
            "mutation {place} is not in the hash"
        );
    }
    // Which text ends where is in it too.
    case.nodes[2].id = "ab".into();
    case.nodes[3].id = "c".into();
    seen.insert(hash(&case));
    case.nodes[2].id = "a".into();
    case.nodes[3].id = "bc".into();
    assert!(seen.insert(hash(&case)));
}

#[test]
fn any_prices_bound_any_allocation() {
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..50 {
        let case = problem(&mut rng, Shape::DEMO, 0.5, true);
        let Outcome::Allocated(got) = allocate(&case).unwrap() else {
            continue;
        };
        for _ in 0..20 {
            let prices: Vec<f64> = (case.nodes.iter())
                .map(|_| if rng.bool() { 0.0 } else { rng.f64() * 0.01 })
                .collect();
            assert!(dual_bound(&case, &prices) >= got.certificate.primal - 1e-9);
        }
    }
}

#[test]
fn floors_give_way_by_class_and_the_deepest_limit_is_named() {
    let mut rng = fastrand::Rng::with_seed(6);
    let shape = Shape {
        racks: 2,
        nodes: 1,
        devices: 4,
        gang: 2,
        corners: 6,
    };
    let mut case = problem(&mut rng, shape, 1.0, false);
    case.groups.truncate(0);
    let curve = support::curve(&mut rng, 100.0, 700.0, 6);
    for (j, class) in [JobClass::Inference, JobClass::Experiment]
        .into_iter()
        .enumerate()
    {
        case.groups.push(Group {
            job: format!("{class}").as_str().into(),
            class,
            weight: 1.0,
            floor_speed: 0.8,
            curve: curve.clone(),
            devices: vec![2 * j, 2 * j + 1],
        });
    }
    let floor = floor_cap(&case.groups[0]);
    let rack = case.nodes.iter().position(|n| n.id == "rack0").unwrap();
    // Room for one floor but not for two.
    case.nodes[rack].limit = case.nodes[rack].uncontrolled + Watts(2.0 * floor + 2.0 * 110.0);
    let Outcome::Infeasible { conflict, shed } = allocate(&case).unwrap() else {
        panic!("two floors do not fit");
    };
    assert_eq!(conflict, ["rack0"]);
    assert_eq!(
        shed.dropped.iter().map(|j| j.as_str()).collect::<Vec<_>>(),
        ["experiment"]
    );
    assert!(shed.beyond.is_empty());
    assert!(shed.allocation.groups[0].speed >= 0.8 - 1e-9);
    assert!(worst_excess(&case, &shed.allocation.caps) <= 1e-6);

    // Not even the lowest caps fit: everything below is at its lowest, and it is said.
    case.nodes[rack].limit = case.nodes[rack].uncontrolled + Watts(150.0);
    let Outcome::Infeasible { shed, .. } = allocate(&case).unwrap() else {
        panic!("nothing fits");
    };
    assert_eq!(shed.beyond.len(), 1);
    assert_eq!(shed.beyond[0].0, "rack0");
    assert!((shed.beyond[0].1.0 - 250.0).abs() < 1e-6);
    assert!(shed.allocation.caps.iter().all(|c| *c == Watts(100.0)));
}

#[test]
fn contradictions_are_refused_by_name() {
    let mut rng = fastrand::Rng::with_seed(7);
    let good = problem(&mut rng, Shape::DEMO, 0.5, false);
    let refused = |change: &dyn Fn(&mut Problem)| {
        let mut bad = good.clone();
        change(&mut bad);
        allocate(&bad).unwrap_err().to_string()
    };
    assert!(refused(&|p| p.nodes[2].limit = Watts(f64::NAN)).contains("`limit`"));
    assert!(refused(&|p| p.price_of_energy = -1.0).contains("price_of_energy"));
    assert!(refused(&|p| p.devices[3].node = 9_999).contains("9999"));
    assert!(refused(&|p| p.nodes[1].parents = vec![1]).contains("parents stand before"));
    assert!(
        refused(&|p| {
            let d = p.groups[0].devices[0];
            p.groups[1].devices.push(d);
        })
        .contains("held by job")
    );
    assert!(
        refused(&|p| {
            let d = p.groups[0].devices[0];
            p.devices[d].min = Watts(701.0);
            p.devices[d].max = Watts(702.0);
        })
        .contains("701")
    );
}

#[test]
fn caps_are_the_numbers_that_a_driver_reads_back() {
    let mut rng = fastrand::Rng::with_seed(8);
    for _ in 0..20 {
        let mut case = problem(&mut rng, Shape::DEMO, 0.5, true);
        case.step = Watts(0.001);
        for cap in &allocate(&case).unwrap().allocation().caps {
            assert_eq!(Watts::from_milliwatts(cap.to_milliwatts_floor()), *cap);
        }
    }
}
