//! Decisions taken again from the log: the same bits from what a control loop
//! left behind, and every change to the log found.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/loop_world.rs"]
mod loop_world;
#[path = "support/site.rs"]
mod sites;

use heliostat_models::{Catalogue, DecisionKind, DeviceId, Frame, Reading, Timestamp, Watts};
use heliostat_optimizer::allocate::{Problem, allocate};
use heliostat_optimizer::control::Controller;
use heliostat_optimizer::control::evidence::{self, EvidenceError, Question};
use heliostat_optimizer::control::replay::{Replayed, replay_day};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_store::TimeSeriesStore;
use heliostat_store::decisions::{
    DecisionLog, Evidence, Hash, Inputs, read_decisions, read_inputs,
};
use loop_world::{LoopWorld, START};
use proptest::prelude::*;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn meters(at: Timestamp, rng: &mut fastrand::Rng) -> Vec<Frame> {
    let it = 60_000.0 + 30_000.0 * rng.f64();
    let frame = |meter: &str, watts: f64| Frame {
        device: DeviceId::from(meter),
        at,
        readings: vec![(Catalogue::meter_power(), Reading::Measured(watts))],
    };
    vec![
        frame("meter-site", it * (1.1 + 0.2 * rng.f64())),
        frame("meter-it-a", it * 0.5),
        frame("meter-it-b", it * 0.5),
    ]
}

/// Lets a control loop live through some hours of jobs, readings and grid events.
async fn live(world: &LoopWorld, hours: u64, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let handle = Controller::start(world.config(9, false), world.deps.clone()).unwrap();
    let mut view = handle.view();
    let step = Duration::from_secs(300);
    for round in 0..hours * 12 {
        let now = START + step * round as u32;
        let at = now - Duration::from_secs(1);
        world.store.append(meters(at, &mut rng)).await.unwrap();
        if rng.u8(0..4) == 0 {
            let first = 8 * rng.usize(0..20);
            let devices = first..first + 8 * rng.usize(1..8);
            world.run_job(&format!("job-{}", rng.u8(0..9)), devices, now);
        }
        if rng.u8(0..20) == 0 {
            handle.submit_grid_event(GridEvent {
                id: format!("event-{round}"),
                from: now,
                to: now + step * rng.u32(1..9),
                // Some ask for more than can be given.
                ask: Ask::Limit(Watts(40_000.0 + 100_000.0 * rng.f64())),
                reason: "the operator asks".into(),
            });
        }
        world.clock.advance_to(now);
        let seen = view.wait_for(|v| v.at >= now && v.rounds > round);
        tokio::time::timeout(Duration::from_secs(20), seen)
            .await
            .expect("a round")
            .unwrap();
    }
    handle.stop().await;
}

fn days(directory: &Path) -> Vec<Replayed> {
    let history = read_decisions(directory).unwrap();
    let day = Duration::from_secs(86_400);
    let mut days: Vec<Timestamp> = (history.decisions.iter())
        .map(|l| l.decision.at.floor_to(day))
        .collect();
    days.dedup();
    (days.into_iter())
        .map(|day| replay_day(directory, day).unwrap())
        .collect()
}

#[tokio::test]
async fn what_a_control_loop_decided_comes_out_again_bit_for_bit() {
    for seed in 0..2 {
        let world = LoopWorld::new(sites::demo());
        live(&world, 26, seed).await;
        let days = days(world.directory.path());
        assert_eq!(days.len(), 2, "two calendar days");
        for day in &days {
            assert!(day.is_sound(), "{:?}", day.differing.first());
            assert_eq!((day.same, day.without_inputs), (day.allocations, 0));
        }
        assert!(days[0].allocations > 60, "{}", days[0].allocations);
        let history = read_decisions(world.directory.path()).unwrap();
        let told =
            |text: &str| (history.decisions.iter()).any(|l| l.decision.reason.contains(text));
        assert!(told("infeasible") && told("exact"));
        // Differences are kept, not the whole of it each time.
        let inputs = read_inputs(world.directory.path(), START).unwrap();
        assert_eq!(inputs.iter().filter(|i| i.inputs.whole).count(), 1);
        let whole = inputs[0].inputs.content.len();
        let mean = inputs[1..]
            .iter()
            .map(|i| i.inputs.content.len())
            .sum::<usize>();
        let mean = mean / (inputs.len() - 1);
        assert!(
            mean * 3 < whole,
            "{mean} bytes on average, {whole} at first"
        );
    }
}

/// A log written anew, with sound hashes and checksums, after `change` has had
/// its way with a decision and its evidence.
fn forged(
    from: &Path,
    change: impl Fn(u64, &mut heliostat_models::Decision, &mut Evidence),
) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    for logged in read_decisions(from).unwrap().decisions {
        let mut decision = logged.decision;
        let Some(reference) = logged.evidence else {
            log.record(decision).unwrap();
            continue;
        };
        let inputs = read_inputs(from, decision.at).unwrap();
        let found = inputs.into_iter().find(|f| f.hash == reference.inputs);
        let mut evidence = Evidence {
            inputs: found.unwrap().inputs,
            outcome: reference.outcome,
        };
        change(decision.sequence, &mut decision, &mut evidence);
        log.record_with(decision, &evidence).unwrap();
    }
    directory
}

#[tokio::test]
async fn a_forged_log_does_not_come_out() {
    let world = LoopWorld::new(sites::demo());
    live(&world, 4, 7).await;
    let original = world.directory.path();
    let which = (read_decisions(original).unwrap().decisions.iter())
        .filter(|l| l.decision.kind == DecisionKind::Allocation && l.decision.caps.len() > 1)
        .nth(3)
        .map(|l| l.decision.sequence)
        .unwrap();
    let replay = |directory: &tempfile::TempDir| replay_day(directory.path(), START).unwrap();
    assert!(replay(&forged(original, |_, _, _| {})).is_sound());
    let found = |replayed: Replayed, what: &str| {
        assert_eq!(replayed.broken_chain, None);
        let first = replayed.differing.first().expect("it differs");
        assert_eq!(first.decision, which);
        assert!(first.how.contains(what), "{}", first.how);
        replayed.differing.len()
    };
    // A cap in the log, by the last bit of a number.
    let cap = forged(original, |number, decision, _| {
        if number == which {
            let cap = &mut decision.caps[0].cap;
            *cap = Watts(f64::from_bits(cap.0.to_bits() ^ 1));
        }
    });
    assert_eq!(found(replay(&cap), "the cap of"), 1);
    let reason = forged(original, |number, decision, _| {
        if number == which {
            decision.caps[0].reason.push('.');
        }
    });
    assert_eq!(found(replay(&reason), "reason"), 1);
    // What cannot be read in the log: caps of single devices, prices.
    let outcome = forged(original, |number, _, evidence| {
        if number == which {
            evidence.outcome = Hash::of(&[b"another"]);
        }
    });
    assert_eq!(found(replay(&outcome), "a cap of a device"), 1);
    // The inputs: everything up to the next whole ones speaks of others then.
    let inputs = forged(original, |number, _, evidence| {
        if number == which {
            evidence.inputs.content = [&[1][..], &[0; 8], &[0; 8], &[0; 5]].concat();
        }
    });
    assert!(found(replay(&inputs), "speaks of inputs") > 1);
    let gone = forged(original, |_, _, _| {});
    std::fs::remove_dir_all(gone.path().join("decision-inputs")).unwrap();
    let gone = replay(&gone);
    assert_eq!(gone.differing.len() as u64, gone.allocations);
    assert!(gone.differing[0].how.contains("not in the file"));
}

#[tokio::test]
async fn a_changed_byte_on_the_disk_is_found_wherever_it_is() {
    let world = LoopWorld::new(sites::demo());
    live(&world, 2, 3).await;
    let directory = world.directory.path();
    for file in ["decisions.log", "decision-inputs/2019-01-01.log"] {
        let path = directory.join(file);
        let sound = std::fs::read(&path).unwrap();
        for place in (8..sound.len()).step_by(sound.len() / 60 + 1) {
            let mut bytes = sound.clone();
            bytes[place] ^= 0x20;
            std::fs::write(&path, &bytes).unwrap();
            let replayed = replay_day(directory, START).unwrap();
            let cut = replayed.allocations == 0;
            assert!(
                !replayed.is_sound() || cut || is_last(&sound, place),
                "byte {place} of {file}"
            );
        }
        std::fs::write(&path, &sound).unwrap();
        assert!(replay_day(directory, START).unwrap().is_sound());
    }
}

/// Whether a place lies in the last record of a log: damage there is a torn
/// tail, which is cut off as if it had never been written.
fn is_last(bytes: &[u8], place: usize) -> bool {
    let mut at = 8;
    loop {
        let length = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let next = at + 12 + length;
        if next >= bytes.len() {
            return place >= at;
        }
        at = next;
    }
}

fn problem(seed: u64, like: Option<&Problem>) -> Problem {
    use heliostat_models::{JobClass, JobId, SpeedCurve};
    use heliostat_optimizer::allocate::{DeviceSpec, Group, LimitNode};
    let mut rng = fastrand::Rng::with_seed(seed);
    let racks = like.map_or_else(|| rng.usize(1..5), |p| p.nodes.len() - 1);
    let devices = like.map_or_else(|| rng.usize(1..30), |p| p.devices.len());
    let nodes = (0..=racks)
        .map(|place| LimitNode {
            id: format!("node-{place}"),
            parents: (place > 0).then_some(0).into_iter().collect(),
            limit: Watts(if rng.bool() {
                9_000.0
            } else {
                9e3 * rng.f64() + 5e3
            }),
            uncontrolled: Watts(if rng.bool() { 0.0 } else { rng.f64() * 100.0 }),
            uncertainty: Watts(if rng.bool() { 0.0 } else { rng.f64() }),
            spare: Watts::ZERO,
        })
        .collect();
    let devices: Vec<DeviceSpec> = (0..devices)
        .map(|place| DeviceSpec {
            id: DeviceId::from(format!("gpu-{place}")),
            min: Watts(100.0),
            max: Watts(if rng.u8(0..9) == 0 { 650.0 } else { 700.0 }),
            node: 1 + place % racks,
            fixed: (rng.u8(0..9) == 0).then(|| Watts(700.0 * rng.f64())),
            step: Watts::ZERO,
        })
        .collect();
    let mut free: Vec<usize> = (0..devices.len()).collect();
    rng.shuffle(&mut free);
    let mut groups: Vec<Group> = Vec::new();
    for name in 0..6 {
        let gang = rng.usize(1..4).min(free.len());
        if gang == 0 || rng.u8(0..3) == 0 {
            continue;
        }
        let top = if rng.bool() { 1.0 } else { 0.5 + rng.f64() };
        let points = [
            (Watts(100.0), 0.3),
            (Watts(400.0), 0.8),
            (Watts(700.0), top),
        ];
        groups.push(Group {
            job: JobId::from(format!("job-{name}")),
            class: JobClass::Training,
            weight: 1.0,
            floor_speed: 0.0,
            curve: SpeedCurve::envelope(&points).unwrap(),
            devices: free.split_off(free.len() - gang),
        });
    }
    Problem {
        nodes,
        devices,
        groups,
        contracts: Vec::new(),
        price_of_energy: if rng.bool() { 0.0 } else { rng.f64() * 1e-4 },
        step: Watts(0.001),
    }
}

fn question(problem: Problem) -> Question {
    Question {
        problem: Arc::new(problem),
        trials: Vec::new(),
    }
}

proptest! {
    /// A run of problems, written as the first and differences, reads back as it was.
    #[test]
    fn differences_bring_every_problem_back(seeds in prop::collection::vec(any::<u64>(), 1..8)) {
        let first = problem(seeds[0], None);
        let run: Vec<Question> = (seeds.iter())
            .map(|seed| question(problem(*seed, Some(&first))))
            .collect();
        let mut before: Option<Question> = None;
        let mut read: Option<Question> = None;
        for asked in &run {
            let inputs = evidence::encode(asked, before.as_ref().map(|b| &*b.problem)).unwrap();
            prop_assert_eq!(inputs.whole, before.is_none());
            let back = evidence::decode(&inputs, read.take()).unwrap();
            prop_assert_eq!(&back, asked);
            let (a, b) = (allocate(&back.problem).unwrap(), allocate(&asked.problem).unwrap());
            prop_assert_eq!(evidence::hash_of(&a).unwrap(), evidence::hash_of(&b).unwrap());
            before = Some(asked.clone());
            read = Some(back);
        }
    }

    /// Another tree or other devices cannot be said as a difference.
    #[test]
    fn another_structure_is_written_whole(a: u64, b: u64) {
        let (before, after) = (problem(a, None), question(problem(b, None)));
        let same = before.nodes.len() == after.problem.nodes.len()
            && before.devices.len() == after.problem.devices.len();
        let inputs = evidence::encode(&after, Some(&before)).unwrap();
        prop_assert_eq!(inputs.whole, !same);
        let back = evidence::decode(&inputs, Some(question(before))).unwrap();
        prop_assert_eq!(back, after);
    }

    /// Whatever bytes stand there, reading them ends, and without a panic.
    #[test]
    fn noise_is_no_inputs(content in prop::collection::vec(any::<u8>(), 0..300), whole: bool, known: bool) {
        let mut content = content;
        if known {
            content.insert(0, 1);
        }
        let before = Some(question(problem(1, None)));
        let _ = evidence::decode(&Inputs { whole, content }, before);
    }
}

#[test]
fn a_difference_from_nothing_is_told_as_such() {
    let (a, b) = (problem(1, None), problem(2, Some(&problem(1, None))));
    let inputs = evidence::encode(&question(b), Some(&a)).unwrap();
    assert!(!inputs.whole);
    assert_eq!(
        evidence::decode(&inputs, None),
        Err(EvidenceError::NothingBefore)
    );
}
