//! What a round of control costs at a site of 100,008 GPUs.
//!
//! Prints JSON lines `{"name","unit","ours","theirs","ratio","peer"}`: mean
//! processor time of a round by what has changed since the one before, beside
//! the period in which a site of that size is decided, so that `ratio` is the
//! share of one core. Observing: what agents cost comes on top.

#![allow(clippy::print_stdout, reason = "the figures are the output")]
#![allow(clippy::unwrap_used, reason = "the site and the jobs are our own")]
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "support of tests, which fail by it"
)]

#[path = "../tests/support/loop_world.rs"]
mod loop_world;

use heliostat_models::site::config::{LoadOptions, load};
use heliostat_models::{Catalogue, DeviceId, Frame, MetricId, Reading, Watts};
use heliostat_optimizer::control::{ControlHandle, Controller};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_store::{Clock, TimeSeriesStore};
use loop_world::LoopWorld;
use std::time::Duration;

/// Rounds of each kind.
const ROUNDS: u32 = 20;
/// Devices of a job.
const GANGS: [usize; 4] = [8, 16, 72, 4];

#[tokio::main]
async fn main() {
    let text = include_str!("../../site-configs/gigafactory.toml");
    let loaded = load("gigafactory.toml", text, LoadOptions::default());
    let world = LoopWorld::new(std::sync::Arc::new(loaded.site.unwrap()));
    let (mut first, mut number) = (0, 0);
    while first < world.site.devices.len() {
        let gang = GANGS[number % GANGS.len()].min(world.site.devices.len() - first);
        world.run_job(
            &format!("job-{number:05}"),
            first..first + gang,
            loop_world::START,
        );
        first += gang;
        number += 1;
    }
    let mut rng = fastrand::Rng::with_seed(1);
    let config = world.config(9, false);
    let handle = Controller::start(config, world.deps.clone()).unwrap();
    let nodes = world.site.nodes.len();
    read(&world, 0..nodes, &mut rng).await;
    pass(&world, &handle).await;
    for (name, share) in [
        ("round_nothing_new", 0.0),
        ("round_1_percent_of_nodes_read", 0.01),
        ("round_all_nodes_read", 1.0),
    ] {
        let mut spent = 0.0;
        for _ in 0..ROUNDS {
            let many = (nodes as f64 * share) as usize;
            let from = rng.usize(0..=nodes - many);
            read(&world, from..from + many, &mut rng).await;
            let before = processor();
            pass(&world, &handle).await;
            spent += processor() - before;
        }
        say(name, spent, &world);
    }
    let mut spent = 0.0;
    for round in 0..ROUNDS {
        let before = processor();
        let now = world.clock.now();
        handle.submit_grid_event(GridEvent {
            id: format!("event-{round}"),
            from: now,
            to: now + Duration::from_secs(86_400),
            ask: Ask::Limit(Watts(160e6 - 1e6 * f64::from(round))),
            reason: "the operator asks".into(),
        });
        pass(&world, &handle).await;
        spent += processor() - before;
    }
    say("round_another_grid_limit", spent, &world);
    handle.stop().await;
}

fn say(name: &str, spent: f64, world: &LoopWorld) {
    let ours = 1e3 * spent / f64::from(ROUNDS);
    let period = 1e3 * world.site.control.allocate_every.as_secs_f64();
    println!(
        "{}",
        serde_json::json!({"name": name, "unit": "ms processor time", "ours": ours,
            "theirs": period, "ratio": ours / period, "peer": "the period of allocation"})
    );
}

/// Lets one period pass, and control see it.
async fn pass(world: &LoopWorld, handle: &ControlHandle) {
    let now = (world.clock.now() + Duration::from_millis(1))
        .next_multiple_of(world.site.control.allocate_every);
    world.clock.advance_to(now);
    let mut view = handle.view();
    view.wait_for(|v| v.at >= now).await.unwrap();
}

/// These nodes and the meters are read anew, with noise.
async fn read(world: &LoopWorld, nodes: std::ops::Range<usize>, rng: &mut fastrand::Rng) {
    let at = world.clock.now();
    let frame = |device: &DeviceId, readings: &[(MetricId, f64)]| Frame {
        device: device.clone(),
        at,
        readings: (readings.iter())
            .map(|(metric, value)| (*metric, Reading::Measured(*value)))
            .collect(),
    };
    let mut frames = Vec::new();
    for node in &world.site.nodes[nodes] {
        let mut all = 0.0;
        for device in &world.site.devices[node.devices.clone()] {
            let drawn = device.safe_cap.0 * (0.9 + 0.1 * rng.f64());
            all += drawn;
            let readings = [
                (Catalogue::gpu_power(), drawn),
                (Catalogue::gpu_power_limit(), device.safe_cap.0),
                (Catalogue::gpu_sm_clock(), 1.2e9 + 2e8 * rng.f64()),
                (Catalogue::gpu_utilization(), 0.95),
            ];
            frames.push(frame(&device.id, &readings));
        }
        all += node.overhead.0 * (0.6 + 0.1 * rng.f64());
        let name = DeviceId::from(node.id.as_str());
        frames.push(frame(&name, &[(Catalogue::node_power(), all)]));
    }
    if !frames.is_empty() {
        world.store.append(frames).await.unwrap();
    }
}

/// Processor time of this process so far, seconds.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = stat.rsplit(')').next().unwrap();
    let ticks: Vec<f64> = (after.split_whitespace().skip(11).take(2))
        .map(|t| t.parse().unwrap())
        .collect();
    (ticks[0] + ticks[1]) / 100.0
}
