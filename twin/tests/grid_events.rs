//! Grid events through the real control loop, broker and agents: random
//! targets are met in seconds, kept, and taken from the classes in their order.
//!
//! `HELIOSTAT_GRID_GPUS=10000 HELIOSTAT_GRID_TARGETS=200` asks for more than a
//! short run; `cargo xtask bench grid` prints its figures.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test's helpers fail by unwrapping, and it prints what it measured"
)]

#[path = "support/world.rs"]
#[allow(dead_code, unused_imports, reason = "support of several tests")]
mod world;

use heliostat_models::JobClass::{Experiment, Inference, Training};
use heliostat_store::Clock;
use std::time::Duration;
use world::events::{Outcome, ask};
use world::{START, Setup, World, jobs, lock, site};

/// Devices and targets in a short run.
const SHORT: (usize, usize) = (256, 6);
/// Seconds from the signal to power below the limit, at most.
const WITHIN: f64 = 5.0;

fn asked(variable: &str, default: usize) -> usize {
    let asked = std::env::var(variable);
    asked.ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// What must be true of every event.
fn judge(number: usize, outcome: &Outcome) {
    let Outcome { share, .. } = outcome;
    let target = format!("target {number}, {share:.3} of what was drawn");
    let complied = outcome
        .complied
        .unwrap_or_else(|| panic!("{target}: not met"));
    assert!(complied <= WITHIN, "{target}: after {complied} s");
    let confirmed = outcome
        .confirmed
        .unwrap_or_else(|| panic!("{target}: not all confirmed"));
    assert!(
        confirmed <= WITHIN,
        "{target}: all caps after {confirmed} s"
    );
    assert_eq!(outcome.broken, 0, "{target}: not kept");
    assert!(
        outcome.slowest_service >= 0.58,
        "{target}: services at {:.2}",
        outcome.slowest_service
    );
    // Who gives first: in each pair the later class keeps more of its speed.
    let order = [Experiment, Training, Inference];
    let kept: Vec<f64> = (order.iter())
        .filter_map(|class| Some(outcome.during.get(class)? / outcome.before.get(class)?))
        .collect();
    assert!(
        kept.is_sorted(),
        "{target}: {order:?} keep {kept:.3?} of their speeds"
    );
    assert!(
        outcome.back > 0.95,
        "{target}: {:.3} of the power is back",
        outcome.back
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_targets_are_met_in_seconds_and_services_keep_their_level() {
    let targets = asked("HELIOSTAT_GRID_TARGETS", SHORT.1);
    let site = site(asked("HELIOSTAT_GRID_GPUS", SHORT.0));
    let devices = site.devices.len();
    let mut world = World::of(Setup {
        site: site.clone(),
        seed: 11,
        controllers: 1,
        sample_every: Duration::from_secs(2),
    })
    .await;
    let span = Duration::from_secs(60 * (targets as u64 + 2));
    for job in jobs(&site, START, span, 11) {
        lock(&world.hall).submit(&job).unwrap();
    }
    world.start_controller(0);
    world.reconnect().await;
    for n in 0..6 { let b = tokio::time::Instant::now(); world.pass(10).await;
        let st = world.ingest.stats(); let v = world.seats[0].handle.as_ref().unwrap().view(); let v = v.borrow().clone();
        let ag: (u64,u64,u64,usize) = world.agents.values().map(|a| a.stats()).fold((0,0,0,0), |a, s| (a.0 + s.samples_taken, a.1 + s.resends, a.2 + s.samples_acknowledged, a.3 + usize::from(s.connected)));
        eprintln!("{n}: {:?} {:?} agents {} stored {} dup {} postponed {} refused {:?} batches {} taken/resends/acked/conn {ag:?} state {:?} rounds {} alloc {} power {}\n{}", b.elapsed(), world.clock.now(), st.agents.len(), st.samples_stored, st.duplicates, st.postponed, st.refused, st.batches, v.state, v.rounds, v.allocations, lock(&world.hall).site_power(), world.story().lines().rev().take(2).collect::<Vec<_>>().join("\n")); }
    if let Some(h) = world.seats[0].handle.as_ref() { let v = h.view(); let v = v.borrow().clone(); for n in v.power.iter().take(4) { eprintln!("{n:?}"); }
      eprintln!("unknown {} of {}; unacked {}", v.caps.values().filter(|c| c.acknowledged.is_none()).count(), v.caps.len(), v.caps.values().filter(|c| c.acknowledged.is_some_and(|a| a > c.decided+heliostat_models::Watts(0.01))).count());
      eprintln!("{}", world.story().lines().rev().take(6).collect::<Vec<_>>().join("\n"));
      let mut lags: std::collections::BTreeMap<i64, usize> = Default::default(); for f in world.store.frames.lock().unwrap().values() { *lags.entry((world.clock.now().0 - f.at.0)/1000).or_default() += 1; } eprintln!("lags {lags:?}"); }
    let (mut slowest, mut last, mut beyond) = (0.0f64, 0.0f64, 0.0);
    for number in 0..targets {
        let outcome = ask(&mut world, number).await;
        if targets > SHORT.1 || std::env::var("HELIOSTAT_GRID_SAY").is_ok() {
            eprintln!(
                "target {number}: {:.1} % shed after {:?} s, all caps after {:?} s, {:.2} % beyond, back {:.3}, kept {:?} of {:?}",
                100.0 * outcome.share,
                outcome.complied,
                outcome.confirmed,
                100.0 * outcome.beyond,
                outcome.back,
                outcome.during,
                outcome.before
            );
        }
        judge(number, &outcome);
        world.judge(&format!("after target {number}"));
        slowest = slowest.max(outcome.complied.unwrap());
        last = last.max(outcome.confirmed.unwrap());
        beyond += outcome.beyond / targets as f64;
    }
    eprintln!(
        "{targets} of {targets} targets met on {devices} devices: power below the limit after {slowest:.2} s at most, the last cap confirmed after {last:.2} s; {:.1} % of what was drawn shed beyond what was asked",
        100.0 * beyond
    );
    world.end().await;
}
