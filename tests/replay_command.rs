//! `heliostat replay decisions`: what it prints and how it exits.

// Tests say what they expect; a failing unwrap is their way to fail.
#![allow(clippy::unwrap_used)]

use heliostat_models::{Decision, DecisionKind, Timestamp};
use heliostat_store::decisions::{DecisionLog, Evidence, Hash, Inputs};
use std::path::Path;
use std::process::{Command, Output};

fn replay(data: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .args(["replay", "decisions", "--data"])
        .arg(data)
        .args(arguments)
        .output()
        .unwrap()
}

/// A log of three grid events and an allocation from before inputs were kept.
fn logged(data: &Path) {
    let store = data.join("store");
    std::fs::create_dir_all(&store).unwrap();
    let log = DecisionLog::open(&store).unwrap();
    for at in 0..4 {
        let kind = match at {
            3 => DecisionKind::Allocation,
            _ => DecisionKind::GridEvent,
        };
        log.record(Decision {
            sequence: 0,
            at: Timestamp(86_400_000 + at),
            kind,
            armed: false,
            summary: "The site may draw less.".to_owned(),
            reason: "The operator asks.".to_owned(),
            certificate: None,
            caps: Vec::new(),
        })
        .unwrap();
    }
}

#[test]
fn a_sound_log_is_0_a_changed_one_3_none_at_all_1_and_no_day_2() {
    let data = tempfile::tempdir().unwrap();
    let day = ["--day", "1970-01-02", "--json"];
    let nothing = replay(data.path(), &day);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("--data"));
    logged(data.path());
    let sound = replay(data.path(), &day);
    assert_eq!(sound.status.code(), Some(0));
    let told: serde_json::Value = serde_json::from_slice(&sound.stdout).unwrap();
    assert_eq!(told["allocations"], 1);
    assert_eq!(told["without_inputs"], 1);
    assert_eq!(told["broken_chain"], serde_json::Value::Null);
    assert_eq!(
        replay(data.path(), &["--day", "today"]).status.code(),
        Some(2)
    );
    // The second record is gone: its checksum no longer fits.
    let path = data.path().join("store/decisions.log");
    let mut bytes = std::fs::read(&path).unwrap();
    let second = bytes.len() / 4 + 100;
    bytes[second] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let changed = replay(data.path(), &["--day", "1970-01-02"]);
    assert_eq!(changed.status.code(), Some(3));
    let text = String::from_utf8_lossy(&changed.stdout).into_owned();
    assert!(text.contains("broken at record 1 (decision 2)"), "{text}");
}

#[test]
fn a_day_whose_inputs_were_removed_in_their_time_is_4_and_says_so() {
    let data = tempfile::tempdir().unwrap();
    logged(data.path());
    let log = DecisionLog::open(&data.path().join("store")).unwrap();
    let log = log.keep_inputs(2);
    for day in [1i64, 2, 3, 4] {
        let decision = Decision {
            sequence: 0,
            at: Timestamp(day * 86_400_000 + 9),
            kind: DecisionKind::Allocation,
            armed: true,
            summary: "Caps.".to_owned(),
            reason: "By the clock.".to_owned(),
            certificate: None,
            caps: Vec::new(),
        };
        let evidence = Evidence {
            inputs: Inputs {
                whole: true,
                content: b"none that can be read".to_vec(),
            },
            outcome: Hash::of(&[b"outcome"]),
        };
        log.record_with(decision, &evidence).unwrap();
    }
    let gone = replay(data.path(), &["--day", "1970-01-02"]);
    let text = String::from_utf8_lossy(&gone.stdout).into_owned();
    assert_eq!(gone.status.code(), Some(4), "{text}");
    assert!(
        text.contains("inputs of that day were removed on 1970-01-05")
            && text.contains("kept for 2 days"),
        "{text}"
    );
    // The next day's are there, and are none: that speaks against the log.
    let there = replay(data.path(), &["--day", "1970-01-03"]);
    assert_eq!(there.status.code(), Some(3));
    // Taken away by somebody else, they are missed.
    let inputs = data.path().join("store/decision-inputs");
    std::fs::remove_file(inputs.join("1970-01-04.log")).unwrap();
    let missed = replay(data.path(), &["--day", "1970-01-04"]);
    let text = String::from_utf8_lossy(&missed.stdout).into_owned();
    assert_eq!(missed.status.code(), Some(3), "{text}");
    assert!(text.contains("not in the file of its day"), "{text}");
}

#[test]
fn a_day_that_was_cut_off_the_log_is_4_and_doctor_says_from_when_on_it_reaches() {
    let data = tempfile::tempdir().unwrap();
    let store = data.path().join("store");
    std::fs::create_dir_all(&store).unwrap();
    let log = DecisionLog::open(&store).unwrap();
    for day in 0..100i64 {
        log.record(Decision {
            sequence: 0,
            at: Timestamp(day * 86_400_000),
            kind: DecisionKind::GridEvent,
            armed: false,
            summary: "The site may draw less.".to_owned(),
            reason: "The operator asks.".to_owned(),
            certificate: None,
            caps: Vec::new(),
        })
        .unwrap();
    }
    let cut = log.cut(Timestamp(100 * 86_400_000), 30).unwrap().unwrap();
    assert_eq!(cut.until, Timestamp(11 * 86_400_000));
    let gone = replay(data.path(), &["--day", "1970-01-12"]);
    let text = String::from_utf8_lossy(&gone.stdout).into_owned();
    assert_eq!(gone.status.code(), Some(4), "{text}");
    let reaches = "the log reaches back to 1970-01-13T00:00:00Z; 12 records of before, from 1970-01-01T00:00:00Z to 1970-01-12T00:00:00Z, were cut off";
    assert!(text.contains(reaches), "{text}");
    let there = replay(data.path(), &["--day", "1970-01-13", "--json"]);
    assert_eq!(there.status.code(), Some(0));
    let told: serde_json::Value = serde_json::from_slice(&there.stdout).unwrap();
    assert_eq!(told["cut"]["records"], 12);
    assert_eq!(told["reliefs"]["decisions"], 0);
    let doctor = |data: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_heliostat"))
            .args(["doctor", "--nvml-lib", "/no/such/library", "--data"])
            .arg(data)
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = doctor(data.path());
    assert!(
        said.contains("PASS  log of decisions: its chain holds"),
        "{said}"
    );
    assert!(said.contains(reaches), "{said}");
    // The checkpoint taken away: what is missing speaks against the log.
    let path = store.join("decisions.log");
    let records = heliostat_store::framed_log::FramedLog::read(&path, b"dec").unwrap();
    std::fs::remove_file(&path).unwrap();
    let (mut bare, _) = heliostat_store::framed_log::FramedLog::open(&path, b"dec").unwrap();
    let rest = records.records[1..].iter().map(Vec::as_slice);
    bare.append_all(rest).unwrap();
    let broken = replay(data.path(), &["--day", "1970-01-13"]);
    assert_eq!(broken.status.code(), Some(3));
    let said = doctor(data.path());
    assert!(
        said.contains("FAIL  log of decisions: its chain is broken at record 0"),
        "{said}"
    );
}
