//! HiGHS judges the allocator: random problems (two hundred, or as many as
//! HELIOSTAT_JUDGED says), gangs across racks, redundant feeds and contracts
//! among them, are given to a solver that shares nothing with ours.
//!
//! Needs Python with `highspy` and `numpy`: `python3` from PATH, or what
//! HELIOSTAT_PYTHON names. Skipped with a line where it is missing, unless
//! HELIOSTAT_PEERS=required.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "../../tests/support/peers.rs"]
mod peers;
mod support;

use heliostat_optimizer::allocate::{Method, Outcome, allocate};
use std::collections::BTreeMap;
use std::process::Command;
use support::{Shape, problem, scale};

fn problems() -> usize {
    let wanted = std::env::var("HELIOSTAT_JUDGED").ok();
    wanted.and_then(|n| n.parse().ok()).unwrap_or(200)
}

#[test]
fn highs_finds_nothing_better() {
    let Some(python) = peers::python("highspy, numpy") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut rng = fastrand::Rng::with_seed(77);
    let mut ours = BTreeMap::new();
    let mut programs = 0;
    for round in 0..problems() {
        let shape = Shape {
            racks: rng.usize(1..=8),
            nodes: rng.usize(1..=4),
            devices: rng.usize(1..=8),
            gang: rng.usize(1..=40),
            corners: rng.usize(2..=20),
        };
        let tight = 0.25 + 0.7 * rng.f64();
        let mut case = if round % 4 == 3 {
            let scale = scale::Scale {
                devices: rng.usize(20..200),
                rack: rng.usize(2..8),
                row: rng.usize(1..5),
                hall: 2,
                corners: rng.usize(2..10),
                tight,
            };
            let jobs = rng.usize(3..30);
            let mixed = rng.usize(0..60);
            scale::gangs(&mut rng, scale, jobs, mixed)
        } else {
            problem(&mut rng, shape, tight, round % 2 == 0)
        };
        if round % 3 == 0 {
            let count = rng.usize(1..4);
            scale::contracts(&mut rng, &mut case, count, 0.6);
        }
        let Outcome::Allocated(got) = allocate(&case).unwrap() else {
            continue;
        };
        programs += usize::from(got.method != Method::Sweep);
        let name = format!("p{round:06}");
        let path = directory.path().join(format!("{name}.json"));
        std::fs::write(path, serde_json::to_vec(&case).unwrap()).unwrap();
        ours.insert(name, got.certificate);
    }
    assert!(
        ours.len() > 120 && programs > 40,
        "{} {programs}",
        ours.len()
    );
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/judge/judge.py");
    let run = Command::new(python)
        .arg(script)
        .arg(directory.path())
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}",
        String::from_utf8_lossy(&run.stderr)
    );
    let theirs: BTreeMap<String, Option<f64>> = serde_json::from_slice(&run.stdout).unwrap();
    let mut worst = 0.0f64;
    for (name, certificate) in &ours {
        let optimum = theirs[name].unwrap_or_else(|| panic!("HiGHS has no answer to {name}"));
        let scale = optimum.abs().max(1.0);
        let off = (certificate.primal - optimum).abs() / scale;
        worst = worst.max(off);
        assert!(
            off < 1e-6,
            "{name}: ours {}, HiGHS {optimum}",
            certificate.primal
        );
        assert!(
            certificate.dual_bound >= optimum - 1e-7 * scale,
            "{name}: the bound {} is beaten by {optimum}",
            certificate.dual_bound
        );
    }
    eprintln!(
        "{} problems, {programs} by prices or linear program; worst difference {worst:e}",
        ours.len()
    );
}
