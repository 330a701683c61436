//! How fast a site of 10,000 GPUs follows the grid, through the code of its
//! real agents: 1,260 of them in this process, beside the broker, ingest, the
//! controller and the hall. One JSON line a figure.
//!
//! The times are wall time. `HELIOSTAT_GRID_TARGETS=200` asks for more targets,
//! `HELIOSTAT_GRID_GPUS` for another size. Spools lie in `TMPDIR`: where it is
//! a disk, 1,260 agents share what each would have for itself.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark prints, and shares its world with tests"
)]

#[path = "../tests/support/world.rs"]
#[allow(dead_code, unused_imports, reason = "support of several tests")]
mod world;

use world::events::{Outcome, WITHIN, ask, busy};

/// Devices and targets where nothing else is asked for.
const DEFAULT: (usize, usize) = (10_000, 10);

fn report(name: &str, unit: &str, ours: f64, asked: Option<f64>) {
    println!(
        "{}",
        serde_json::json!({
            "name": name, "unit": unit, "ours": ours, "theirs": asked,
            "ratio": asked.map(|a| ours / a), "peer": asked.map(|_| "what is asked"),
        })
    );
}

fn asked(variable: &str, default: usize) -> usize {
    let asked = std::env::var(variable);
    asked.ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

async fn run() {
    let targets = asked("HELIOSTAT_GRID_TARGETS", DEFAULT.1);
    let mut world = busy(asked("HELIOSTAT_GRID_GPUS", DEFAULT.0), targets).await;
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut sound = 0;
    for number in 0..targets {
        let outcome = ask(&mut world, number).await;
        let mut faults = outcome.faults();
        let violations = violations(&world);
        if violations > 0 {
            faults.push(format!("{violations} violations in the hall"));
        }
        eprintln!(
            "target {number}: {:.1} % shed after {:?} s, all caps after {:.3?} s, {:.1} % beyond, back after {:?} s; speeds {:.3?}, before {:.3?}; caps {:.0?} W {faults:?}",
            100.0 * outcome.share,
            outcome.complied,
            outcome.confirmed,
            100.0 * outcome.beyond,
            outcome.back,
            outcome.during,
            outcome.before,
            outcome.caps,
        );
        if !faults.is_empty() {
            eprintln!("{}", circumstances(&world));
        }
        sound += usize::from(faults.is_empty());
        outcomes.push(outcome);
    }
    let devices = world.site.devices.len() as f64;
    report("grid_devices", "", devices, None);
    report("grid_targets_met", "", sound as f64, Some(targets as f64));
    let times = |of: fn(&Outcome) -> Option<f64>| -> Vec<f64> {
        let mut times: Vec<f64> = (outcomes.iter().map(of))
            .map(|t| t.unwrap_or(f64::MAX))
            .collect();
        times.sort_by(f64::total_cmp);
        times
    };
    for (name, times) in [
        ("grid_power_below_limit", times(|o| o.complied)),
        ("grid_all_caps_confirmed", times(|o| o.confirmed)),
    ] {
        let middle = times.get(times.len() / 2).copied().unwrap_or(f64::MAX);
        let most = times.last().copied().unwrap_or(f64::MAX);
        report(&format!("{name}_median"), "s", middle, Some(WITHIN));
        report(&format!("{name}_most"), "s", most, Some(WITHIN));
    }
    let beyond = outcomes.iter().map(|o| o.beyond).sum::<f64>() / targets as f64;
    report("grid_shed_beyond_asked", "share", beyond, None);
    world.end().await;
    assert_eq!(sound, targets, "every target is met");
}

/// How things stand, for whoever looks for the reason of a fault.
fn circumstances(world: &world::World) -> String {
    let handle = world.seats[0].handle.as_ref().unwrap();
    let view = handle.view().borrow().clone();
    let feed = view.power.first();
    let behind = (view.caps.values())
        .filter(|c| c.acknowledged.is_none_or(|has| has > c.decided))
        .count();
    let refused = world.ingest.stats().refused;
    let story = world.story();
    let latest: Vec<&str> = story.lines().rev().take(4).collect();
    format!(
        "  {:?}, {feed:?}, {behind} devices above what was decided, readings refused {refused:?}\n  {}",
        view.state,
        latest.join("\n  ")
    )
}

fn violations(world: &world::World) -> usize {
    let hall = world::lock(&world.hall);
    hall.violations().len() + hall.trips() as usize
}

fn main() -> std::io::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run());
    Ok(())
}
