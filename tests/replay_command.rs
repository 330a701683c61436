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
