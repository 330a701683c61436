//! Grid events through the real control loop, broker and agents: random
//! targets are met in seconds, kept, and taken from the classes in their order.
//!
//! `HELIOSTAT_GRID_GPUS=10000 HELIOSTAT_GRID_TARGETS=200` asks for more than a
//! short run, in release; `cargo xtask bench grid` prints the figures.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test's helpers fail by unwrapping, and it prints what it measured"
)]

#[path = "support/world.rs"]
#[allow(dead_code, unused_imports, reason = "support of several tests")]
mod world;

use world::events::{ask, busy};

/// Devices and targets in a short run.
const SHORT: (usize, usize) = (256, 5);

fn asked(variable: &str, default: usize) -> usize {
    let asked = std::env::var(variable);
    asked.ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_targets_are_met_in_seconds_and_services_keep_their_level() {
    let targets = asked("HELIOSTAT_GRID_TARGETS", SHORT.1);
    let mut world = busy(asked("HELIOSTAT_GRID_GPUS", SHORT.0), targets).await;
    let (mut slowest, mut last, mut beyond) = (0.0f64, 0.0f64, 0.0);
    for number in 0..targets {
        let outcome = ask(&mut world, number).await;
        let faults = outcome.faults();
        assert!(
            faults.is_empty(),
            "target {number}, {:.3} of what was drawn: {faults:?}\n{}",
            outcome.share,
            world.story()
        );
        world.judge(&format!("after target {number}"));
        slowest = slowest.max(outcome.complied.unwrap());
        last = last.max(outcome.confirmed.unwrap());
        beyond += outcome.beyond / targets as f64;
    }
    eprintln!(
        "{targets} of {targets} targets met on {} devices: power below the limit after {slowest:.2} s at most, all caps confirmed after {last:.2} s; {:.1} % of what was drawn shed beyond what was asked",
        world.site.devices.len(),
        100.0 * beyond
    );
    world.end().await;
}
