//! Plans under power contracts: against plain enumeration, against schedulers that
//! put jobs wherever they like, and against plans of before there were contracts.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests say what they measured, and fail by panicking"
)]

#[path = "support/halls.rs"]
mod halls;
#[path = "support/plans.rs"]
mod plans;

use halls::{Hall, hall};
use heliostat_models::{JobClass, JobId, Timestamp, Watts};
use heliostat_optimizer::plan::check::{check, check_bound};
use heliostat_optimizer::plan::hash;
use heliostat_optimizer::plan::problem::{Contract, Job, Problem, Schedule, Slot, Solution};
use heliostat_optimizer::plan::solve::{Limits, solve};
use plans::{brute_force, job, level, problem, verified};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::BTreeSet;

/// Runs a plan on a hall whose scheduler gives jobs the devices that `prefer` puts
/// first, and says by how much the worst contract is ever exceeded.
fn exceeded(
    hall: &Hall,
    plan: &Solution,
    mut prefer: impl FnMut(&Job, usize, &mut Vec<usize>),
) -> f64 {
    let problem = &hall.problem;
    let mut held = hall.held.clone();
    let mut worst = f64::NEG_INFINITY;
    for slot in 0..problem.slots.len() {
        let level = |j: usize| plan.schedules[j].level(slot);
        for (j, held) in held.iter_mut().enumerate() {
            if level(j).is_none() {
                held.clear();
            }
        }
        let mut starts: Vec<usize> = (0..held.len())
            .filter(|j| level(*j).is_some() && held[*j].is_empty())
            .collect();
        // The hottest choose first.
        starts.sort_by(|a, b| {
            let watts = |j: usize| problem.jobs[j].levels[level(j).unwrap()].power.0;
            watts(*b).total_cmp(&watts(*a))
        });
        for j in starts {
            let taken: BTreeSet<usize> = held.iter().flatten().copied().collect();
            let mut free: Vec<usize> = (0..problem.devices as usize)
                .filter(|d| !taken.contains(d))
                .collect();
            prefer(&problem.jobs[j], slot, &mut free);
            held[j] = free[..problem.jobs[j].gang as usize].to_vec();
        }
        for (contract, covered) in problem.contracts.iter().zip(&hall.covered) {
            let drawn: f64 = (0..held.len())
                .filter_map(|j| Some((j, problem.jobs[j].levels[level(j)?].power.0)))
                .map(|(j, watts)| {
                    watts * held[j].iter().filter(|d| covered.contains(d)).count() as f64
                })
                .sum();
            worst = worst.max(drawn - contract.power[slot].0);
        }
    }
    worst
}

fn near(value: f64) -> f64 {
    1e-6 * value.abs().max(1.0)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn agrees_with_brute_force_within_its_gap(hall in hall(3..5, 1..4)) {
        let plan = verified(&hall.problem);
        let best = brute_force(&hall.problem);
        prop_assert!(plan.bound <= best + near(best), "bound {} above the optimum {best}", plan.bound);
        prop_assert!(plan.primal >= best - near(best), "plan {} below the optimum {best}", plan.primal);
    }

    #[test]
    fn the_bound_holds_however_early_it_stops(hall in hall(3..5, 1..4), rounds in 0u32..3) {
        let limits = Limits { rounds, searches: 0, ..Limits::default() };
        let plan = solve(&hall.problem, limits);
        prop_assert_eq!(check(&hall.problem, &plan), []);
        prop_assert_eq!(check_bound(&hall.problem, &plan), []);
        let best = brute_force(&hall.problem);
        prop_assert!(plan.bound <= best + near(best));
    }

    #[test]
    fn the_same_problem_gives_the_same_plan(hall in hall(3..8, 1..6)) {
        let (a, b) = (solve(&hall.problem, Limits::default()), solve(&hall.problem.clone(), Limits::default()));
        prop_assert_eq!(a.primal.to_bits(), b.primal.to_bits());
        prop_assert_eq!(a.bound.to_bits(), b.bound.to_bits());
        prop_assert_eq!(a, b);
    }

    /// Whatever devices a scheduler gives: by chance, or always those below one contract.
    #[test]
    fn no_scheduler_can_put_jobs_so_that_a_contract_breaks(hall in hall(4..12, 2..8), seed in 0u64..1_000_000) {
        let plan = verified(&hall.problem);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..4 {
            let over = exceeded(&hall, &plan, |_, _, free| rng.shuffle(free));
            prop_assert!(over <= 1e-2, "{over} W too much");
        }
        for covered in &hall.covered {
            let over = exceeded(&hall, &plan, |_, _, free| free.sort_by_key(|d| !covered.contains(d)));
            prop_assert!(over <= 1e-2, "{over} W too much");
        }
    }

    /// What binds nothing changes nothing.
    #[test]
    fn contracts_that_never_bind_leave_the_plan_as_it_is(hall in hall(3..8, 1..6)) {
        let mut wide = hall.problem.clone();
        for contract in &mut wide.contracts {
            contract.power.fill(Watts(1e6));
        }
        let mut without = hall.problem.clone();
        without.contracts.clear();
        for job in &mut without.jobs {
            job.home = None;
        }
        let (a, b) = (solve(&wide, Limits::default()), solve(&without, Limits::default()));
        prop_assert_eq!(&a.schedules, &b.schedules);
        prop_assert_eq!(a.primal.to_bits(), b.primal.to_bits());
        prop_assert_eq!(a.bound.to_bits(), b.bound.to_bits());
        prop_assert_eq!(a.prices, b.prices);
        prop_assert!(a.contract_prices.iter().flatten().all(|price| *price == 0.0));
    }
}

/// What the bound cannot promise: that the search comes close, and that contracts
/// were felt at all. The same 150 instances every time.
#[test]
fn the_search_finds_the_best_plan_or_one_close_to_it() {
    let mut runner = TestRunner::deterministic();
    let strategy = hall(3..5, 1..4);
    let (mut best_found, mut excess, mut gap, mut felt) = (0, 0.0, 0.0, 0);
    for _ in 0..150 {
        let problem = strategy.new_tree(&mut runner).unwrap().current().problem;
        let (plan, best) = (solve(&problem, Limits::default()), brute_force(&problem));
        let over = (plan.primal - best) / best.abs().max(1.0);
        best_found += usize::from(over < 1e-6);
        excess += over / 150.0;
        gap += (best - plan.bound) / best.abs().max(1.0) / 150.0;
        let mut without = problem;
        without.contracts.clear();
        felt += usize::from(best > brute_force(&without) + near(best));
    }
    eprintln!(
        "best plan found in {best_found} of 150; mean excess {:.3} %, mean gap of the bound {:.2} %, contracts felt in {felt}",
        excess * 100.0,
        gap * 100.0
    );
    assert!(best_found >= 120, "{best_found}");
    assert!(excess < 0.01, "{excess}");
    assert!(felt > 40, "{felt}");
}

#[test]
fn a_job_on_known_devices_counts_with_those_and_after_a_pause_with_all() {
    // Cheap hours are dear for two slots in the middle: a pause would save 4.2.
    let costs = [1.0, 1.0, 4.0, 4.0, 1.0, 1.0, 1.0, 1.0];
    let mut j = job("j", 8, 16);
    j.running = true;
    j.hold = 0.001;
    j.home = Some(vec![2]);
    let mut problem = problem(&costs, 16, 1e6, vec![j]);
    problem.contracts = vec![Contract {
        id: "tenant".into(),
        devices: 8,
        power: vec![Watts(1_000.0); 8],
    }];
    // Two of its devices are below: 1,000 W. Elsewhere it might have eight there.
    let plan = verified(&problem);
    assert_eq!(plan.schedules[0].0, [1, 1, 1, 1, 0, 0, 0, 0]);
    problem.contracts[0].power = vec![Watts(4_000.0); 8];
    let plan = verified(&problem);
    assert_eq!(plan.schedules[0].0, [1, 1, 0, 0, 1, 1, 0, 0]);
    // Nobody knows its devices: it does not fit at all.
    problem.contracts[0].power = vec![Watts(1_000.0); 8];
    problem.jobs[0].home = None;
    let plan = verified(&problem);
    assert_eq!(plan.schedules[0], Schedule::idle(8));
}

#[test]
fn a_job_that_must_go_on_exceeds_a_contract_at_a_price_and_nothing_joins_it() {
    let mut pinned = job("a", 4, 12);
    pinned.running = true;
    pinned.interruptible = false;
    pinned.home = Some(vec![4]);
    let mut others = [job("b", 4, 8), job("c", 2, 4)];
    for other in &mut others {
        other.hold = 0.1;
    }
    let mut problem = problem(&[1.0; 6], 12, 1e6, [vec![pinned], others.to_vec()].concat());
    problem.contracts = vec![Contract {
        id: "tenant".into(),
        devices: 5,
        power: vec![Watts(1_500.0); 6],
    }];
    let plan = verified(&problem);
    assert_eq!(plan.schedules[0].0, [1, 1, 1, 0, 0, 0]);
    // Four of five devices are held for sure; another would take 500 W more.
    for other in &plan.schedules[1..] {
        assert_eq!(other.0[..3], [0, 0, 0]);
    }
    assert!(plan.primal > 3.0 * 200.0 * 0.5, "{}", plan.primal);
    // Where it holds all that is covered, others do not come near.
    problem.contracts[0].devices = 4;
    let plan = verified(&problem);
    assert!(plan.schedules[1].0[0] > 0 && plan.schedules[2].0[0] > 0);
}

/// An ordinary problem of round figures, so that every machine reckons alike.
fn ordinary(seed: u32, jobs: u32, slots: u32) -> Problem {
    let mut state = seed;
    let mut draw = move |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    let job = |index: u32, draw: &mut dyn FnMut(u32) -> u32| {
        let mut levels = [level(4, 700.0), level(3, 450.0), level(2, 325.0)];
        for (level, steps) in levels.iter_mut().zip(0u8..) {
            level.slow = 0.125 * f64::from(steps);
        }
        let mut job = Job {
            id: JobId::from(format!("j{index:02}").as_str()),
            class: JobClass::Training,
            gang: 1 + draw(12),
            work: 1 + draw(3 * slots),
            levels: levels.to_vec(),
            release: draw(slots / 4) as usize,
            deadline: (draw(2) == 0).then(|| i64::from(draw(2 * slots))),
            interruptible: draw(4) > 0,
            running: draw(3) == 0,
            pause: f64::from(draw(8)) / 4.0,
            hold: f64::from(draw(8)) / 64.0,
            late: f64::from(draw(8)) / 2.0,
            terminal: 4.0,
            home: None,
        };
        if job.running {
            job.release = 0;
        }
        job
    };
    Problem {
        start: Timestamp(0),
        slot_hours: 0.25,
        devices: 32,
        slots: (0..slots)
            .map(|_| Slot {
                each: Watts(f64::from(draw(2) * 50)),
                power: Watts(4_000.0 + f64::from(draw(4_000))),
                cost: 0.5 + f64::from(draw(256)) / 256.0,
            })
            .collect(),
        jobs: (0..jobs).map(|index| job(index, &mut draw)).collect(),
        contracts: Vec::new(),
    }
}

/// Recorded of the planner as it was before it knew contracts: cost, bound,
/// schedules, prices and the hash of the inputs, bit for bit.
#[test]
fn without_contracts_plans_are_the_same_as_ever() {
    let recorded = [
        (
            1,
            4,
            16,
            0x4038_f0c0_0000_0000_u64,
            0x4037_771e_b38e_121c_u64,
            0x663f_ae28_cf7d_7271_u64,
            0x2be0_de28_d9dd_1b4b_u64,
            "1cd9a73b236f4719",
        ),
        (
            2,
            8,
            24,
            0x4052_c4f8_6666_6666,
            0x404a_76a4_890d_bdd4,
            0x8d3a_38de_3da8_daa6,
            0x3b39_c75a_fa8f_eaa6,
            "e769a2b04d62f339",
        ),
        (
            3,
            12,
            48,
            0x4092_48bd_7333_3334,
            0x4076_6364_19b9_59c6,
            0xc392_a29d_e850_95f0,
            0xe0f6_c702_072e_8b8f,
            "83aa11da47e23464",
        ),
        (
            4,
            10,
            96,
            0x4085_51b5_7333_3334,
            0x4074_ecfc_2f97_1dac,
            0x8597_d3ac_fddd_0d3e,
            0x4183_5693_4dcb_4240,
            "9b5a9658a9095723",
        ),
    ];
    for (seed, jobs, slots, primal, bound, schedules, prices, inputs) in recorded {
        let problem = ordinary(seed, jobs, slots);
        let plan = solve(&problem, Limits::default());
        let levels = plan.schedules.iter().flat_map(|s| &s.0);
        let digest = levels.fold(0u64, |hash, level| {
            let digit = u64::from(b'0') + u64::from(*level);
            hash.wrapping_mul(1_099_511_628_211).wrapping_add(digit)
        });
        let of_prices = plan.prices.iter().fold(0u64, |hash, (device, watt)| {
            let hash = hash.wrapping_mul(31).wrapping_add(device.to_bits());
            hash.wrapping_mul(31).wrapping_add(watt.to_bits())
        });
        assert_eq!(hash(&problem)[..16], *inputs);
        assert_eq!(
            [
                plan.primal.to_bits(),
                plan.bound.to_bits(),
                digest,
                of_prices
            ],
            [primal, bound, schedules, prices],
            "seed {seed}"
        );
    }
}
