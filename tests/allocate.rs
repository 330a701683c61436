//! `heliostat allocate` as a person runs it: what it prints, how it ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

use serde_json::{Value, json};
use std::process::{Command, Output};

fn allocate(state: &str, more: &[&str]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.json");
    std::fs::write(&path, state).unwrap();
    Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .args(["allocate", "--site"])
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/site-configs/demo.toml"
        ))
        .arg("--state")
        .arg(&path)
        .args(more)
        .output()
        .unwrap()
}

fn state(limit: f64) -> String {
    json!({
        "contracts": [{ "id": "tenant-a", "limit_watts": limit, "members": ["r01"] }],
        "jobs": [
            { "id": "train-1", "class": "training", "devices": ["r01", "r02-n1"],
              "speed": [[200, 0.5], [450, 0.9], [700, 1.0]] },
            { "id": "serve-1", "class": "inference", "devices": ["r02-n2"] },
        ],
    })
    .to_string()
}

#[test]
fn an_allocation_is_printed_with_its_reasons_and_its_proof() {
    let run = allocate(&state(14_000.0), &[]);
    let text = String::from_utf8(run.stdout).unwrap();
    assert_eq!(
        run.status.code(),
        Some(0),
        "{text} {}",
        String::from_utf8_lossy(&run.stderr)
    );
    let line = |begin: &str| {
        text.lines()
            .find(|l| l.starts_with(begin))
            .unwrap()
            .to_owned()
    };
    assert!(
        line("train-1").contains("`tenant-a` is limited to 13.7 kW"),
        "{text}"
    );
    assert!(line("serve-1").contains("more would buy nothing"), "{text}");
    assert!(line("tenant-a").contains("13.720"), "{text}");
    assert!(line("Worth").contains("gap"), "{text}");
    assert!(
        text.contains("The checker has recomputed every limit"),
        "{text}"
    );
    // By hand: 13,720 W less 4 x 1,400 W of the nodes' own, on 32 devices, are 253.75 W.
    // A kilowatt more lifts all 40 by 31.25 W at 0.4/250 a watt.
    let whole: Value =
        serde_json::from_slice(&allocate(&state(14_000.0), &["--json"]).stdout).unwrap();
    let limits = whole["limits"].as_array().unwrap();
    let tenant = limits.iter().find(|l| l["name"] == "tenant-a").unwrap();
    let more = tenant["kilowatt_more"].as_f64().unwrap();
    let hand = 40.0 * 31.25 * 0.4 / 250.0;
    assert!((more - hand).abs() < 1e-6, "{more} {hand}");
    assert_eq!(whole["caps"].as_object().unwrap().len(), 256);
    assert_eq!(whole["ending"], "allocated");
    // Lists of marginal work and binding limits stand in the same object.
    let job = whole["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .find(|j| j["job"] == "train-1")
        .unwrap();
    assert!(job["marginal"].as_f64().unwrap() > 0.0 && job["binding"] == "tenant-a");
}

#[test]
fn floors_that_do_not_fit_have_an_exit_code_of_their_own() {
    let run = allocate(&state(5_000.0), &[]);
    let text = String::from_utf8(run.stdout).unwrap();
    assert_eq!(run.status.code(), Some(3), "{text}");
    assert!(
        text.starts_with("INFEASIBLE") && text.contains("below tenant-a"),
        "{text}"
    );
    assert!(
        text.contains("Even the lowest caps exceed tenant-a by 7.1 kW"),
        "{text}"
    );
}

#[test]
fn bad_input_names_file_field_and_what_is_allowed() {
    let run = allocate(
        r#"{"jobs": [{"id": "a", "class": "game", "devices": ["r99"]}]}"#,
        &[],
    );
    let text = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(
        text.contains("state.json: jobs[0].class: is `game`; allowed: training"),
        "{text}"
    );
    assert!(text.contains("jobs[0].devices: names `r99`"), "{text}");
    assert!(run.stdout.is_empty());
    let run = allocate("{}", &["--goal", "work-per-joule", "--slowdown", "7"]);
    let text = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(text.contains("--slowdown is 7; allowed"), "{text}");
    assert_eq!(allocate("{}", &["--goal", "win"]).status.code(), Some(2));
}

#[test]
fn the_state_in_the_readme_can_be_used_as_it_stands() {
    let readme = include_str!("../README.md");
    let (_, rest) = readme.split_once("```json\n").unwrap();
    let (state, _) = rest.split_once("```").unwrap();
    let run = allocate(state, &[]);
    let text = String::from_utf8(run.stdout).unwrap();
    assert_eq!(run.status.code(), Some(0), "{text}");
    assert!(text.contains("tenant-a"), "{text}");
}
