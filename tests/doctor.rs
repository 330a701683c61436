//! `heliostat doctor` as a user calls it: what it says of a sound machine, of
//! one that is not, and with which exit code.
#![allow(clippy::unwrap_used)]

use heliostat_models::site::config;
use std::path::Path;
use std::process::{Command, Output};

fn doctor(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .arg("doctor")
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_sound_machine() {
    let directory = tempfile::tempdir().unwrap();
    let loaded = config::load(
        "demo.toml",
        config::builtin_demo(),
        config::LoadOptions::default(),
    );
    let site = loaded.site.unwrap();
    let boards = heliostat_twin::boards::create(&directory.path().join("boards"), &site).unwrap();
    let broker = heliostat_collector::Broker::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = broker.address().to_string();
    let data = directory.path().join("data");
    let output = doctor(&[
        "--site",
        "site-configs/demo.toml",
        "--data",
        data.to_str().unwrap(),
        "--mqtt",
        &address,
        "--nvml-lib",
        boards[0].lib.to_str().unwrap(),
        "--json",
    ]);
    assert!(output.status.success(), "{}", said(&output));
    let findings: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap();
    let verdict = |check: &str| {
        let found = (findings.iter()).find(|f| f["check"].as_str().unwrap().starts_with(check));
        found.unwrap_or_else(|| panic!("no {check} in {}", said(&output)))["verdict"].clone()
    };
    for check in [
        "site file",
        "data directory",
        "host sensors",
        "GPUs (NVML)",
        "doctor-gpu0",
        "broker",
    ] {
        assert_eq!(verdict(check), "PASS", "{check}: {}", said(&output));
    }
    assert_eq!(
        std::fs::read_dir(&data).unwrap().count(),
        0,
        "it leaves nothing behind"
    );
}

#[test]
fn each_trouble_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = directory.path().join("file");
    std::fs::write(&nowhere, "").unwrap();
    let below_a_file = nowhere.join("data");
    let bad_site = directory.path().join("site.toml");
    std::fs::write(&bad_site, "not a site").unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap().to_string();
    drop(free);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    for (arguments, expected) in [
        (["--site", &text(&bad_site)], "FAIL  site file"),
        (["--data", &text(&below_a_file)], "FAIL  data directory"),
        (["--mqtt", &nobody], "does not answer"),
        (["--nvml-lib", &text(&nowhere)], "FAIL  GPUs"),
    ] {
        let output = doctor(&arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?}: {}",
            said(&output)
        );
        assert!(said(&output).contains(expected), "{}", said(&output));
    }
    for wrong in [
        ["--store", "127.0.0.1:8428"],
        ["--engine", "influxdb2"],
        ["--mqtt", "broker"],
    ] {
        assert_eq!(doctor(&wrong).status.code(), Some(2), "{wrong:?}");
    }
}
