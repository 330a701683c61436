//! `heliostat replay decisions`: what it prints and how it exits.

// Tests say what they expect; a failing unwrap is their way to fail.
#![allow(clippy::unwrap_used)]

use heliostat_models::{Decision, DecisionKind, Timestamp};
use heliostat_store::decisions::DecisionLog;
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
