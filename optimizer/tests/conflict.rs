//! Floors that do not fit: the limits named are the smallest set, and no more
//! gives way than must.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

mod support;

use good_lp::solvers::clarabel::clarabel;
use good_lp::{Expression, ProblemVariables, Solution, SolverModel, variable};
use heliostat_models::{JobClass, JobId, SpeedCurve, Watts};
use heliostat_optimizer::allocate::{
    Contract, DeviceSpec, Group, LimitNode, Outcome, Problem, Shed, allocate,
};
use std::collections::BTreeSet;
use support::{Shape, floor_cap, limits_above, problem, rooms, worst_excess};

/// Watts below which two sums count as equal.
const NEAR: f64 = 0.05;

/// A small site whose floors mostly do not fit, with contracts that cut across.
fn tight(rng: &mut fastrand::Rng) -> Problem {
    let shape = Shape {
        racks: rng.usize(1..=4),
        nodes: rng.usize(1..=3),
        devices: rng.usize(1..=4),
        gang: rng.usize(1..=12),
        corners: rng.usize(2..=8),
    };
    let (share, shuffle) = (0.2 + 0.5 * rng.f64(), rng.f64() < 0.7);
    let mut case = problem(rng, shape, share, shuffle);
    let contracts = rng.usize(0..4);
    support::scale::contracts(rng, &mut case, contracts, share);
    for group in &mut case.groups {
        group.floor_speed = 0.3 + 0.6 * rng.f64();
    }
    // Between what the lowest caps and what the floors draw, or just above.
    let low = load(&case, |_| 100.0);
    let high = load(&case, |place| floor_cap(&case.groups[place]));
    let nodes = case.nodes.len();
    for (place, contract) in case.contracts.iter_mut().enumerate() {
        let (low, high) = (low[nodes + place], high[nodes + place]);
        let room = low + (high - low) * 1.2 * rng.f64();
        contract.limit = contract.uncontrolled + contract.uncertainty + Watts(room);
    }
    case
}

/// Sum of caps below each limit, every job's at what `cap` says.
fn load(problem: &Problem, cap: impl Fn(usize) -> f64) -> Vec<f64> {
    let mut caps: Vec<f64> = problem.devices.iter().map(|d| d.min.0).collect();
    for (place, group) in problem.groups.iter().enumerate() {
        group.devices.iter().for_each(|d| caps[*d] = cap(place));
    }
    let mut load = vec![0.0; rooms(problem).len()];
    for (device, cap) in caps.into_iter().enumerate() {
        for row in limits_above(problem, device) {
            load[row] += cap;
        }
    }
    load
}

/// The most that jobs between floors and lowest caps draw below a limit while
/// `kept` are kept, by linear program from the problem alone.
fn most(problem: &Problem, row: usize, kept: &[usize]) -> f64 {
    let mut variables = ProblemVariables::new();
    let mut drawn = vec![Expression::default(); rooms(problem).len()];
    let mut held = vec![false; problem.devices.len()];
    for group in &problem.groups {
        let share = variables.add(variable().min(0.0).max(1.0));
        let above_lowest = floor_cap(group) - 100.0;
        for device in &group.devices {
            held[*device] = true;
            for above in limits_above(problem, *device) {
                drawn[above] += share * above_lowest + 100.0;
            }
        }
    }
    for device in (0..held.len()).filter(|d| !held[*d]) {
        for above in limits_above(problem, device) {
            drawn[above] += 100.0;
        }
    }
    let mut program = variables
        .maximise(drawn[row].clone() * 1e-3)
        .using(clarabel);
    for kept in kept {
        let room = rooms(problem)[*kept];
        program.add_constraint((drawn[*kept].clone() * 1e-3).leq(room * 1e-3));
    }
    program.solve().unwrap().eval(&drawn[row])
}

fn infeasible(problem: &Problem) -> Option<(Vec<usize>, Shed)> {
    let Outcome::Infeasible { conflict, shed } = allocate(problem).unwrap() else {
        return None;
    };
    let rows = rooms(problem).len();
    let named = conflict.iter().map(|name| {
        let mut of_name = (0..rows).filter(|row| problem.limit_name(*row) == name);
        of_name.next().unwrap()
    });
    Some((named.collect(), shed))
}

#[test]
fn none_of_the_limits_named_can_be_left_out_and_no_smaller_set_says_it_all() {
    let mut rng = fastrand::Rng::with_seed(31);
    let (mut several, mut left_out, mut by_brute_force, mut across) = (0, 0, 0, 0);
    for _ in 0..400 {
        let case = tight(&mut rng);
        let rooms = rooms(&case);
        let at_lowest = load(&case, |_| 100.0);
        let at_floors = load(&case, |place| floor_cap(&case.groups[place]));
        if at_lowest.iter().zip(&rooms).any(|(low, room)| low > room) {
            continue;
        }
        let broken: Vec<usize> = (0..rooms.len())
            .filter(|row| at_floors[*row] > rooms[*row] + NEAR)
            .collect();
        let Some((named, shed)) = infeasible(&case) else {
            assert!(broken.is_empty(), "{broken:?} are broken");
            continue;
        };
        assert!(shed.beyond.is_empty());
        for row in &named {
            let rest: Vec<usize> = named.iter().copied().filter(|r| r != row).collect();
            let most = most(&case, *row, &rest);
            assert!(
                most > rooms[*row] - NEAR,
                "`{}` is kept with the rest: {most} of {}",
                case.limit_name(*row),
                rooms[*row]
            );
        }
        let says_all = |set: &[usize]| {
            let mut others = broken.iter().filter(|row| !set.contains(row));
            others.all(|row| most(&case, *row, set) <= rooms[*row] + NEAR)
        };
        assert!(says_all(&named), "{named:?} of {broken:?}");
        several += usize::from(named.len() > 1);
        left_out += usize::from(named.len() < broken.len());
        across += usize::from(named.iter().any(|row| *row >= case.nodes.len()));
        if broken.len() <= 6 {
            by_brute_force += 1;
            for choice in 0..1u32 << broken.len() {
                let set: Vec<usize> = (broken.iter().enumerate())
                    .filter(|(place, _)| choice >> place & 1 == 1)
                    .map(|(_, row)| *row)
                    .collect();
                assert!(
                    set.len() >= named.len() || !says_all(&set),
                    "{set:?} says as much as {named:?}"
                );
            }
        }
    }
    eprintln!(
        "{several} of several limits, {left_out} with some left out, {across} with contracts, {by_brute_force} against all subsets"
    );
    assert!(several > 50 && left_out > 100 && by_brute_force > 100 && across > 50);
}

/// Which class keeps its floors longer.
fn rank(class: JobClass) -> usize {
    let order = [
        JobClass::Experiment,
        JobClass::FineTuning,
        JobClass::Training,
        JobClass::Inference,
    ];
    order.iter().position(|c| *c == class).unwrap()
}

#[test]
fn a_floor_is_dropped_only_where_it_fits_with_nothing_lower_and_at_the_end_not_at_all() {
    let mut rng = fastrand::Rng::with_seed(32);
    let (mut dropped_in_all, mut kept_below) = (0, 0);
    for _ in 0..1_500 {
        let mut case = tight(&mut rng);
        if rng.bool() {
            case.step = Watts(1.0);
        }
        let Some((_, shed)) = infeasible(&case) else {
            continue;
        };
        if !shed.beyond.is_empty() {
            continue;
        }
        assert!(worst_excess(&case, &shed.allocation.caps) <= 1e-6);
        let rooms = rooms(&case);
        let dropped: BTreeSet<&JobId> = shed.dropped.iter().collect();
        let ranks: Vec<usize> = (shed.dropped.iter())
            .map(|id| rank(case.groups.iter().find(|g| g.job == *id).unwrap().class))
            .collect();
        assert!(ranks.is_sorted(), "{ranks:?}");
        let is_dropped = |place: usize| dropped.contains(&case.groups[place].job);
        let at_floor = |place: usize| {
            let floor = floor_cap(&case.groups[place]);
            match case.step.0 {
                step if step > 0.0 => ((floor / step - 1e-6).ceil() * step).min(700.0),
                _ => floor,
            }
        };
        for (place, group) in case.groups.iter().enumerate() {
            if !is_dropped(place) {
                let speed = shed.allocation.groups[place].speed;
                assert!(speed >= group.floor_speed - 1e-9);
                continue;
            }
            dropped_in_all += 1;
            let breaks = |keeps: &dyn Fn(usize) -> bool| {
                let all = load(&case, |other| {
                    if other == place || (keeps(other) && !is_dropped(other)) {
                        at_floor(other)
                    } else {
                        100.0
                    }
                });
                all.iter()
                    .zip(&rooms)
                    .any(|(load, room)| *load > room - 1e-3)
            };
            // With everybody else as they are, and with all lower classes at their lowest.
            assert!(breaks(&|_| true), "{} could keep its floor", group.job);
            let above = |other: usize| rank(case.groups[other].class) >= rank(group.class);
            assert!(
                breaks(&above),
                "{} gave way before a lower class",
                group.job
            );
            kept_below += usize::from((0..case.groups.len()).any(|other| {
                !is_dropped(other) && rank(case.groups[other].class) < rank(group.class)
            }));
        }
    }
    eprintln!("{dropped_in_all} floors dropped, {kept_below} with a lower class's kept somewhere");
    assert!(dropped_in_all > 500 && kept_below > 100);
}

fn node(id: &str, parents: Vec<usize>, limit: f64) -> LimitNode {
    LimitNode {
        id: id.to_owned(),
        parents,
        limit: Watts(limit),
        uncontrolled: Watts::ZERO,
        uncertainty: Watts::ZERO,
        spare: Watts::ZERO,
    }
}

/// Two racks of four devices; a training job wants all of the first and a
/// fine-tuning one a half of the second at full speed.
fn two_racks(first: f64, contract: f64) -> Problem {
    let device = |place: usize| DeviceSpec {
        id: format!("gpu{place}").as_str().into(),
        min: Watts(200.0),
        max: Watts(700.0),
        node: 1 + place / 4,
        fixed: None,
        step: Watts::ZERO,
    };
    let job = |id: &str, class, devices: Vec<usize>| Group {
        job: id.into(),
        class,
        weight: 1.0,
        floor_speed: 0.9,
        curve: SpeedCurve::envelope(&[(Watts(200.0), 0.4), (Watts(700.0), 0.9)]).unwrap(),
        devices,
    };
    Problem {
        nodes: vec![
            node("feed", vec![], 1e5),
            node("r1", vec![0], first),
            node("r2", vec![0], 1e5),
        ],
        devices: (0..8).map(device).collect(),
        groups: vec![
            job("large", JobClass::Training, vec![0, 1, 2, 3]),
            job("small", JobClass::FineTuning, vec![4, 5]),
        ],
        contracts: vec![
            Contract {
                id: "tenant".to_owned(),
                limit: Watts(contract),
                uncontrolled: Watts::ZERO,
                uncertainty: Watts::ZERO,
                nodes: vec![1],
                devices: vec![4, 5],
            },
            // Cuts across the contract.
            Contract {
                id: "other".to_owned(),
                limit: Watts(1e5),
                uncontrolled: Watts::ZERO,
                uncertainty: Watts::ZERO,
                nodes: vec![],
                devices: vec![3, 4, 7],
            },
        ],
        price_of_energy: 0.0,
        step: Watts(0.001),
    }
}

#[test]
fn a_contract_that_the_rack_mends_is_not_named_and_costs_nobody_a_floor() {
    // The rack lacks 300 W, the contract 200 W of the same devices and two more.
    let (named, shed) = infeasible(&two_racks(2_500.0, 4_000.0)).unwrap();
    assert_eq!(named, [1]);
    assert_eq!(shed.dropped, [JobId::from("large")]);
    assert_eq!(shed.allocation.groups[1].cap, Watts(700.0));
    assert!(
        shed.allocation.jobs[0]
            .reason
            .starts_with("Its floor was dropped: with it `r1` would be exceeded."),
        "{}",
        shed.allocation.jobs[0].reason
    );
    // Of 400 W that the contract lacks the rack spares it 300 W only.
    let (named, shed) = infeasible(&two_racks(2_500.0, 3_800.0)).unwrap();
    assert_eq!(named, [1, 3]);
    assert_eq!(shed.dropped, [JobId::from("large")]);
    // The contract alone: the lower class gives way, and that is enough.
    let (named, shed) = infeasible(&two_racks(2_800.0, 3_800.0)).unwrap();
    assert_eq!(named, [3]);
    assert_eq!(shed.dropped, [JobId::from("small")]);
    // Not even that is enough: the higher one gives way, and the lower gets its floor back.
    let (named, shed) = infeasible(&two_racks(2_800.0, 3_100.0)).unwrap();
    assert_eq!(named, [3]);
    assert_eq!(shed.dropped, [JobId::from("large")]);
}
