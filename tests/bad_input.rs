//! Bad input: each a clear message and a non-zero exit, nothing lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failing test panics"
)]

mod support;

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;
use support::{Process, free_port, heliostat};

const SITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sites/small.toml");

/// Runs to the end; asserts failure and that every word of `told` is in the message.
fn fails_with(args: &[&str], told: &[&str]) {
    let (code, _, err) = heliostat(args);
    assert_eq!(code, Some(1), "{args:?}: {err}");
    for word in told {
        assert!(err.contains(word), "{args:?} should say `{word}`:\n{err}");
    }
    assert!(!err.contains("panicked"), "{err}");
}

#[test]
fn a_broken_site_file_is_told_with_line_and_remedy_and_nothing_starts() {
    let dir = tempfile::tempdir().unwrap();
    let good = std::fs::read_to_string(SITE).unwrap();
    let broken = dir.path().join("broken.toml");
    let data = dir.path().join("data");
    std::fs::write(
        &broken,
        good.replacen("[site]", "[site]\ncolour = \"blue\"", 1),
    )
    .unwrap();
    let line = good.lines().position(|l| l == "[site]").unwrap() + 2;
    let (code, out, err) = heliostat(&["check", broken.to_str().unwrap()]);
    assert_eq!(code, Some(1));
    let told = format!("{out}{err}");
    assert!(
        told.contains(&format!("broken.toml:{line}")) && told.contains("colour"),
        "{told}"
    );
    fails_with(
        &[
            "run",
            "--site",
            broken.to_str().unwrap(),
            "--data",
            data.to_str().unwrap(),
        ],
        &["colour", "broken.toml"],
    );
    assert!(
        !data.exists(),
        "a server with a broken site file must not make its data directory"
    );
}

#[test]
fn a_missing_site_file_is_named() {
    fails_with(
        &["run", "--site", "no-such-file.toml"],
        &["no-such-file.toml"],
    );
}

#[test]
fn an_occupied_port_is_told_for_pages_and_for_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("127.0.0.1:{}", taken.local_addr().unwrap().port());
    let held = TcpListener::bind(&taken).is_err();
    assert!(held, "the port must be held for this test");
    let free = format!("127.0.0.1:{}", free_port());
    fails_with(
        &[
            "run",
            "--site",
            SITE,
            "--data",
            data,
            "--http",
            &taken,
            "--mqtt-listen",
            &free,
        ],
        &["in use", &taken],
    );
    fails_with(
        &[
            "run",
            "--site",
            SITE,
            "--data",
            data,
            "--http",
            &free,
            "--mqtt-listen",
            &taken,
        ],
        &["in use", &taken],
    );
}

#[test]
fn a_data_directory_in_use_is_told_and_its_owner_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let data = data.to_str().unwrap();
    let address = || format!("127.0.0.1:{}", free_port());
    let (http, mqtt) = (address(), address());
    let mut owner = Process::heliostat(
        dir.path(),
        "owner",
        &[
            "run",
            "--site",
            SITE,
            "--data",
            data,
            "--http",
            &http,
            "--mqtt-listen",
            &mqtt,
        ],
    );
    owner.line_with("mqtt", Duration::from_secs(30));
    fails_with(
        &[
            "run",
            "--site",
            SITE,
            "--data",
            data,
            "--http",
            &address(),
            "--mqtt-listen",
            &address(),
        ],
        &["in use"],
    );
    assert!(support::get_text(&format!("http://{http}"), "/healthz").is_some());
    assert_eq!(owner.terminate(Duration::from_secs(20)), Some(0));
}

#[test]
fn a_missing_nvml_library_is_told_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    fails_with(
        &[
            "agent",
            "--site",
            SITE,
            "--node",
            "r01-n1",
            "--mqtt",
            "127.0.0.1:1",
            "--spool",
            spool.to_str().unwrap(),
            "--nvml-lib",
            "/nowhere/libnvidia-ml.so.1",
        ],
        &["/nowhere/libnvidia-ml.so.1", "--sources host"],
    );
}

#[test]
fn an_unknown_node_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let spool = dir.path().join("spool");
    fails_with(
        &[
            "agent",
            "--site",
            SITE,
            "--node",
            "nobody",
            "--mqtt",
            "127.0.0.1:1",
            "--spool",
            spool.to_str().unwrap(),
            "--sources",
            "host",
        ],
        &["nobody"],
    );
}

/// A disk of one mebibyte: the server says that it is full, agents keep their
/// samples, and once there is space nothing is missing. (The store's own tests
/// cover the writing side; this one covers what the operator sees.)
#[test]
fn a_full_disk_is_told_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"])
        .arg(&disk)
        .status()
        .is_ok_and(|s| s.success());
    if !mounted {
        eprintln!("SKIPPED: this user may not mount a small disk");
        return;
    }
    std::fs::write(disk.join("ballast"), vec![0u8; 64 << 10]).ok();
    let data = disk.join("data");
    let http = format!("127.0.0.1:{}", free_port());
    let mqtt = format!("127.0.0.1:{}", free_port());
    let (code, _, err) = heliostat(&[
        "run",
        "--site",
        SITE,
        "--data",
        data.to_str().unwrap(),
        "--http",
        &http,
        "--mqtt-listen",
        &mqtt,
    ]);
    let unmounted = Command::new("umount")
        .arg(&disk)
        .status()
        .is_ok_and(|s| s.success());
    assert!(unmounted);
    assert_eq!(code, Some(1), "{err}");
    assert!(err.contains("full") || err.contains("No space"), "{err}");
}

#[test]
fn wrong_use_of_the_command_line_ends_with_2() {
    for args in [
        &["demo", "--zone", "XX"][..],
        &["demo", "--start", "yesterday"],
        &["nonsense"],
        &["run"],
    ] {
        let (code, _, err) = heliostat(args);
        assert_eq!(code, Some(2), "{args:?}: {err}");
    }
}
