use super::*;
use crate::allocate::{DeviceSpec, Group, LimitNode, allocate};
use crate::check::TripCurve;
use crate::control::replay::replay_day;
use heliostat_models::{DeviceId, JobClass, SpeedCurve, Watts};
use heliostat_store::framed_log::FramedLog;

/// Nodes below a feed, one device of 200 to 700 W and one job each.
fn outcome(nodes: usize, feed: f64, each: f64) -> (Outcome, Question) {
    let node = |id: String, parents, limit| LimitNode {
        id,
        parents,
        limit: Watts(limit),
        uncontrolled: Watts::ZERO,
        spare: Watts::ZERO,
        uncertainty: Watts::ZERO,
    };
    let mut all = vec![node("feed".into(), vec![], feed)];
    all.extend((0..nodes).map(|n| node(format!("n{n}"), vec![0], each)));
    let device = |n: usize| DeviceSpec {
        id: DeviceId::from(format!("d{n}")),
        min: Watts(200.0),
        max: Watts(700.0),
        node: n + 1,
        fixed: None,
        step: Watts::ZERO,
    };
    let group = |n: usize| Group {
        job: JobId::from(format!("j{n}")),
        class: JobClass::Training,
        weight: 1.0,
        floor_speed: 0.6,
        curve: SpeedCurve::envelope(&[(Watts(200.0), 0.2), (Watts(700.0), 1.0)])
            .unwrap_or_else(|| panic!("a curve")),
        devices: vec![n],
    };
    let problem = Problem {
        nodes: all,
        devices: (0..nodes).map(device).collect(),
        groups: (0..nodes).map(group).collect(),
        contracts: Vec::new(),
        price_of_energy: 0.0,
        step: Watts(0.001),
    };
    let outcome = allocate(&problem).unwrap_or_else(|e| panic!("{e}"));
    let question = Question {
        problem: Arc::new(problem),
        trials: Vec::new(),
    };
    (outcome, question)
}

fn note(journal: &mut Journal, at: i64, made: &(Outcome, Question)) {
    journal.allocation(Timestamp(at), true, &made.0, &made.1, "by the clock");
}

fn log() -> (tempfile::TempDir, Arc<DecisionLog>) {
    let directory = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let log = DecisionLog::open(directory.path()).unwrap_or_else(|e| panic!("{e}"));
    (directory, Arc::new(log))
}

#[test]
fn what_cannot_be_kept_is_called_infeasible_and_few_nodes_are_named() {
    let (_directory, log) = log();
    let mut journal = Journal::new(Arc::clone(&log));
    note(&mut journal, 0, &outcome(9, 9e3, 150.0));
    note(&mut journal, 1, &outcome(9, 2.5e3, 7e2));
    note(&mut journal, 2, &outcome(9, 9e3, 7e2));
    let all = log.latest(9, |_| true);
    let find = |text: &str| all.iter().find(|d| d.reason.contains(text));
    let beyond = find("even the lowest caps exceed").map(|d| d.summary.clone());
    let beyond = beyond.unwrap_or_else(|| panic!("{all:?}"));
    assert!(
        beyond.contains("n8 (by 0.1 kW)") || beyond.contains("n8 (by 0.0 kW)"),
        "{beyond}"
    );
    assert!(
        beyond.contains("and 6 more") && !beyond.contains("n3"),
        "{beyond}"
    );
    let floors = find("infeasible: the floors").unwrap_or_else(|| panic!("{all:?}"));
    assert!(
        floors.summary.contains("limit at feed"),
        "{}",
        floors.summary
    );
    for decision in &all {
        let exact = decision.reason.contains("exact");
        assert!(
            exact != decision.reason.contains("infeasible"),
            "{}",
            decision.reason
        );
    }
}

#[test]
fn an_unchanged_allocation_is_noted_once_an_hour_and_a_changed_one_at_once() {
    let (_directory, log) = log();
    let mut journal = Journal::new(Arc::clone(&log));
    for minute in 0..=180i64 {
        let feed = if minute < 90 { 4_000.0 } else { 5_000.0 };
        note(&mut journal, minute * 60_000, &outcome(9, feed, 700.0));
    }
    // At 0 and 60 min, the change at 90, then at 150.
    assert_eq!(log.latest(99, |_| true).len(), 4);
}

/// A rack that bears its rating and nothing above, with the job of
/// [`outcome`]'s first device at `now` watts until it has 300.
fn asked(now: f64) -> relief::Question {
    let curves = [("n0".to_owned(), TripCurve::new(&[]).unwrap_or_default())];
    let question = serde_json::json!({
        "breakers": [{"id": "n0", "rating": 600.0, "load": 0.0}],
        "curves": BTreeMap::from(curves),
        "below": [[1, [0]]],
        "devices": [[1, {
            "min": 200.0, "max": 700.0, "step": 1.0, "pinned": false, "late": false,
            "now": now, "then": 300.0,
        }]],
        "jobs": [{"id": "j0", "class": "training", "devices": [0], "curve": [[200.0, 0.2], [700.0, 1.0]]}],
        "floors": {"training": 0.6},
        "seconds": 5.0,
        "late_seconds": 60.0,
    });
    serde_json::from_value(question).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn a_relief_is_noted_once_again_after_an_allocation_and_when_it_is_over() {
    let (_directory, log) = log();
    let mut journal = Journal::new(Arc::clone(&log));
    let asked = asked(700.0);
    let relief = asked.answer();
    assert!(relief.is_some());
    let made = outcome(9, 4_000.0, 700.0);
    let kinds = |log: &DecisionLog| -> String {
        let letter = |d: &Decision| match (d.kind, d.caps.is_empty()) {
            (DecisionKind::Relief, false) => 'r',
            (DecisionKind::Relief, true) => 'o',
            _ => 'a',
        };
        log.latest(99, |_| true).iter().rev().map(letter).collect()
    };
    note(&mut journal, 0, &made);
    for second in 1..20 {
        journal.relief(Timestamp(second * 1_000), &asked, relief.as_ref());
    }
    assert_eq!(kinds(&log), "ar");
    // Another allocation would seem to hold: what holds is said again.
    note(&mut journal, 20_000, &outcome(9, 5_000.0, 700.0));
    journal.relief(Timestamp(21_000), &asked, relief.as_ref());
    journal.relief(Timestamp(22_000), &asked, relief.as_ref());
    assert_eq!(kinds(&log), "arar");
    // When it is over the same allocation is noted again.
    for second in 23..26 {
        journal.relief(Timestamp(second * 1_000), &asked, None);
        note(&mut journal, second * 1_000, &outcome(9, 5_000.0, 700.0));
    }
    assert_eq!(kinds(&log), "araroa");
    journal.relief(Timestamp(27_000), &asked, relief.as_ref());
    journal.relief_is_off();
    note(&mut journal, 28_000, &outcome(9, 5_000.0, 700.0));
    assert_eq!(kinds(&log), "araroara");
}

#[test]
fn a_day_that_begins_with_a_relief_can_be_taken_again() {
    let (directory, log) = log();
    let mut journal = Journal::new(log);
    let asked = asked(700.0);
    let relief = asked.answer();
    let calm = self::asked(300.0);
    assert_eq!(calm.answer(), None);
    const DAY: i64 = 86_400_000;
    note(&mut journal, DAY - 2, &outcome(9, 4_000.0, 700.0));
    journal.relief(Timestamp(DAY - 1), &asked, relief.as_ref());
    journal.relief(Timestamp(DAY), &calm, None);
    for step in 1..5 {
        note(
            &mut journal,
            DAY + step,
            &outcome(9, 4_000.0 + 500.0 * step as f64, 700.0),
        );
        journal.relief(Timestamp(DAY + step), &asked, relief.as_ref());
    }
    for (day, allocations, reliefs) in [(0, 1, 1), (DAY, 4, 5)] {
        let replayed = replay_day(directory.path(), Timestamp(day));
        let replayed = replayed.unwrap_or_else(|e| panic!("{e}"));
        assert!(replayed.is_sound(), "{:?}", replayed.differing);
        assert_eq!(
            (replayed.allocations, replayed.same),
            (allocations, allocations)
        );
        assert_eq!(
            (replayed.reliefs.decisions, replayed.reliefs.same),
            (reliefs, reliefs)
        );
    }
}

#[test]
fn damaged_inputs_of_a_relief_leave_the_allocations_around_it_as_they_are() {
    let (directory, log) = log();
    let mut journal = Journal::new(log);
    for step in 0..4 {
        let feed = 4_000.0 + 500.0 * step as f64;
        let asked = asked(700.0 - feed / 100.0);
        let relief = asked.answer();
        note(&mut journal, step, &outcome(9, feed, 700.0));
        journal.relief(Timestamp(step), &asked, relief.as_ref());
    }
    drop(journal);
    let path = directory.path().join("decision-inputs/1970-01-01.log");
    let read = FramedLog::read(&path, b"inp").unwrap_or_else(|e| panic!("{e}"));
    // Behind kind and hash stands the content; its first byte says what it is.
    for (place, relieves) in [(1, true), (3, true), (4, false)] {
        for byte in [33, 60] {
            let mut records = read.records.clone();
            records[place][byte] ^= 0x84;
            std::fs::remove_file(&path).unwrap_or_else(|e| panic!("{e}"));
            let open = FramedLog::open(&path, b"inp");
            let (mut file, _) = open.unwrap_or_else(|e| panic!("{e}"));
            let all = file.append_all(records.iter().map(Vec::as_slice));
            all.unwrap_or_else(|e| panic!("{e}"));
            let replayed = replay_day(directory.path(), Timestamp(0));
            let replayed = replayed.unwrap_or_else(|e| panic!("{e}"));
            let differ: Vec<u64> = replayed.differing.iter().map(|d| d.decision).collect();
            if relieves {
                assert_eq!(differ, [place as u64], "byte {byte}");
                assert_eq!((replayed.same, replayed.reliefs.same), (4, 3));
            } else {
                // What differs from it cannot be read either.
                assert_eq!(differ, [4, 6], "byte {byte}");
                assert_eq!((replayed.same, replayed.reliefs.same), (2, 4));
            }
        }
    }
}
