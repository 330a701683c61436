//! Reliefs taken again from the log: the same bits, and every change to what
//! was asked or what came out found.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/site.rs"]
mod sites;

use heliostat_models::{Decision, DecisionKind, Site, Timestamp, Watts};
use heliostat_optimizer::check::{Moment, TripCurve};
use heliostat_optimizer::control::evidence::EvidenceError;
use heliostat_optimizer::control::relief::{Question, Relief, explained, hash_of};
use heliostat_optimizer::control::replay::{Replayed, replay_day};
use heliostat_optimizer::state::State;
use heliostat_store::decisions::{
    DecisionLog, Evidence, Hash, Inputs, read_decisions, read_inputs,
};
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Something asked at a small site with jobs of three classes, loads near the
/// ratings, agents that are late, and devices that cannot be commanded.
fn asked(site: &Site, seed: u64) -> Question {
    let mut rng = fastrand::Rng::with_seed(seed);
    let speed = json!([[200, 0.1], [300, 0.3], [450, 0.7], [700, 1.0]]);
    let jobs: Vec<_> = (site
        .nodes
        .iter()
        .zip(["inference", "training", "experiment"]))
    .map(|(node, class)| json!({"id": class, "class": class, "devices": [node.id], "speed": speed}))
    .collect();
    let mut state = State::read(site, &json!({ "jobs": jobs }).to_string()).unwrap();
    for (load, node) in state.uncontrolled.iter_mut().zip(site.power.nodes()) {
        *load = node.rating * (0.5 + 0.5 * rng.f64());
    }
    for device in &site.devices {
        if rng.u8(0..8) == 0 {
            state.pinned.insert(device.id.clone(), device.max_cap);
        }
    }
    let mut curves = BTreeMap::new();
    for node in site.power.nodes() {
        if rng.bool() {
            let points = [(1.1 + rng.f64(), 30.0 * rng.f64())];
            curves.insert(node.id.clone(), TripCurve::new(&points).unwrap());
        }
    }
    let mut draw = || -> Vec<Watts> {
        (site.devices.iter())
            .map(|_| Watts(200.0 + 500.0 * rng.f64()))
            .collect()
    };
    let (now, then) = (draw(), draw());
    let late: Vec<bool> = site.devices.iter().map(|_| rng.u8(0..4) == 0).collect();
    let facts = state.facts(site);
    let moment = Moment {
        now: &now,
        then: &then,
        seconds: 10.0 * rng.f64(),
        late: &late,
        late_seconds: 60.0,
    };
    Question::new(&facts, &curves, &moment)
}

fn decision(at: i64, caps: Vec<heliostat_models::decision::JobCap>) -> Decision {
    Decision {
        sequence: 0,
        at: Timestamp(at),
        kind: DecisionKind::Relief,
        armed: true,
        summary: "Load is taken off at once.".into(),
        reason: "Breakers.".into(),
        certificate: None,
        caps,
    }
}

fn evidence(asked: &Question, relief: Option<&Relief>) -> Evidence {
    Evidence {
        inputs: asked.encode().unwrap(),
        outcome: hash_of(relief).unwrap(),
    }
}

/// A day of reliefs; how many of them ask for something.
fn day(directory: &Path, count: u64) -> usize {
    let site = sites::small();
    let log = DecisionLog::open(directory).unwrap();
    let mut taken = 0;
    for seed in 0..count {
        let asked = asked(&site, seed);
        let relief = asked.answer();
        let caps = relief
            .as_ref()
            .map_or_else(Vec::new, |r| explained(&asked, r));
        taken += usize::from(!caps.is_empty());
        log.record_with(
            decision(seed as i64, caps),
            &evidence(&asked, relief.as_ref()),
        )
        .unwrap();
    }
    taken
}

fn replay(directory: &Path) -> Replayed {
    replay_day(directory, Timestamp(0)).unwrap()
}

#[test]
fn what_was_taken_off_comes_out_again_bit_for_bit() {
    let directory = tempfile::tempdir().unwrap();
    let taken = day(directory.path(), 200);
    assert!(
        (40..200).contains(&taken),
        "{taken} of 200 ask for something"
    );
    let replayed = replay(directory.path());
    assert!(replayed.is_sound(), "{:?}", replayed.differing.first());
    assert_eq!(
        (replayed.reliefs.decisions, replayed.reliefs.same),
        (200, 200)
    );
    assert_eq!((replayed.allocations, replayed.same), (0, 0));
}

/// The log written anew with sound hashes after `change` had its way.
fn forged(from: &Path, change: impl Fn(u64, &mut Decision, &mut Evidence)) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    let inputs = read_inputs(from, Timestamp(0)).unwrap();
    for logged in read_decisions(from).unwrap().decisions {
        let (mut decision, reference) = (logged.decision, logged.evidence.unwrap());
        let found = inputs.iter().find(|f| f.hash == reference.inputs).unwrap();
        let mut evidence = Evidence {
            inputs: found.inputs.clone(),
            outcome: reference.outcome,
        };
        change(decision.sequence, &mut decision, &mut evidence);
        log.record_with(decision, &evidence).unwrap();
    }
    directory
}

#[test]
fn a_forged_relief_does_not_come_out() {
    let original = tempfile::tempdir().unwrap();
    day(original.path(), 40);
    let original = original.path();
    let history = read_decisions(original).unwrap().decisions;
    let which = (history.iter().filter(|l| l.decision.caps.len() > 1))
        .map(|l| l.decision.sequence)
        .nth(2)
        .unwrap();
    let found = |name: &str, change: &dyn Fn(&mut Decision, &mut Evidence), told: &str| {
        let forged = forged(original, |number, decision, evidence| {
            if number == which {
                change(decision, evidence);
            }
        });
        let replayed = replay(forged.path());
        assert_eq!(replayed.broken_chain, None, "{name}");
        let [differing] = &replayed.differing[..] else {
            panic!("{name}: {:?}", replayed.differing);
        };
        assert_eq!(
            (differing.decision, differing.kind),
            (which, DecisionKind::Relief)
        );
        assert!(differing.how.contains(told), "{name}: {}", differing.how);
        assert_eq!(replayed.reliefs.same, 39);
    };
    let bit = |cap: &mut Watts| *cap = Watts(f64::from_bits(cap.0.to_bits() ^ 1));
    found("cap", &|d, _| bit(&mut d.caps[0].cap), "the cap of");
    found("reason", &|d, _| d.caps[1].reason.push('.'), "reason");
    found(
        "breaker",
        &|d, _| d.caps[0].binding = Some("another".into()),
        "reason of the cap",
    );
    found(
        "job",
        &|d, _| {
            d.caps.pop();
        },
        "caps for",
    );
    found(
        "outcome",
        &|_, e| e.outcome = Hash::of(&[b"x"]),
        "a strained breaker",
    );
    let nothing = |_: &mut Decision, e: &mut Evidence| e.outcome = hash_of(None).unwrap();
    found("nothing", &nothing, "a strained breaker");
    // Another question: what is held now, by bits of it.
    let site = sites::small();
    let other = asked(&site, 1_000 + which);
    found("inputs", &|_, e| e.inputs = other.encode().unwrap(), "");
    found("form", &|_, e| e.inputs.content[0] = 200, "form 200");
    found(
        "cut",
        &|_, e| e.inputs.content.truncate(30),
        "cannot be read",
    );
    let gone = forged(original, |_, _, _| {});
    std::fs::remove_dir_all(gone.path().join("decision-inputs")).unwrap();
    assert_eq!(replay(gone.path()).differing.len(), 40);
}

#[test]
fn every_changed_byte_of_the_inputs_is_found() {
    let directory = tempfile::tempdir().unwrap();
    day(directory.path(), 12);
    let path = directory.path().join("decision-inputs/1970-01-01.log");
    let sound = std::fs::read(&path).unwrap();
    for place in (8..sound.len()).step_by(sound.len() / 80 + 1) {
        let mut bytes = sound.clone();
        bytes[place] ^= 0x10;
        std::fs::write(&path, &bytes).unwrap();
        assert!(!replay(directory.path()).is_sound(), "byte {place}");
    }
}

#[test]
fn inputs_of_another_kind_are_told_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let site = sites::small();
    let log = DecisionLog::open(directory.path()).unwrap();
    let asked = asked(&site, 3);
    let relief = asked.answer();
    let mut allocation = decision(0, Vec::new());
    allocation.kind = DecisionKind::Allocation;
    log.record_with(allocation, &evidence(&asked, relief.as_ref()))
        .unwrap();
    let replayed = replay(directory.path());
    assert!(
        replayed.differing[0].how.contains("another kind"),
        "{:?}",
        replayed.differing
    );
    let of_allocation = Inputs {
        whole: true,
        content: vec![2, 0, 0],
    };
    assert_eq!(
        Question::decode(&of_allocation),
        Err(EvidenceError::Version(2))
    );
}

proptest! {
    /// Whatever is asked reads back as it was, and so does the answer.
    #[test]
    fn a_question_comes_back_with_its_answer(seed: u64) {
        let site = sites::small();
        let asked = asked(&site, seed);
        let inputs = asked.encode().unwrap();
        prop_assert!(Question::is_one(&inputs));
        let back = Question::decode(&inputs).unwrap();
        prop_assert_eq!(&back, &asked);
        let (a, b) = (asked.answer(), back.answer());
        prop_assert_eq!(hash_of(a.as_ref()).unwrap(), hash_of(b.as_ref()).unwrap());
        prop_assert_eq!(a, b);
    }

    /// Whatever bytes stand there, reading and answering ends without a panic.
    #[test]
    fn noise_is_no_question(seed: u64, flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..6), cut in any::<prop::sample::Index>()) {
        let site = sites::small();
        let mut inputs = asked(&site, seed).encode().unwrap();
        for (place, mask) in flips {
            let place = place.index(inputs.content.len());
            inputs.content[place] ^= mask;
        }
        if seed % 3 == 0 {
            inputs.content.truncate(cut.index(inputs.content.len()));
        }
        if let Ok(question) = Question::decode(&inputs)
            && let Some(relief) = question.answer()
        {
            explained(&question, &relief);
        }
    }
}
