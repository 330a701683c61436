//! What the life of a sample costs in CPU time, stage by stage, as JSON lines
//! `{"name","unit","ours","theirs","ratio","peer"}`: taken from the wire, appended
//! (log, fsync, memory), sealed (Parquet and rollups), compacted.
//!
//! `HELIOSTAT_BENCH_DEVICES` (250), `HELIOSTAT_BENCH_SECONDS` (1,600, of 1 Hz),
//! `HELIOSTAT_BENCH_BATCH` (8 devices an append), `HELIOSTAT_BENCH_WRITERS` (64) set the load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a benchmark fails by panic and prints its result
#![allow(clippy::disallowed_methods)] // it measures real time

mod feed;
mod hall;

use feed::append;
use hall::Hall;
use heliostat_models::site::config;
use heliostat_models::wire::FrameBatch;
use heliostat_models::{AgentId, Catalogue, DeviceId, Timestamp};
use heliostat_store::embedded::{EmbeddedStore, Options};
use heliostat_store::{SteppedClock, TimeSeriesStore};
use serde_json::json;
use std::sync::Arc;

/// Begin of the data: 2025-12-01.
const BEGIN: i64 = 1_764_547_200_000;

fn setting(name: &str, default: usize) -> usize {
    (std::env::var(format!("HELIOSTAT_BENCH_{name}")).ok())
        .and_then(|v| v.parse().ok())
        .unwrap_or(default)
}

/// CPU seconds of the threads of this process so far, user and system, by the
/// scheduler's own count in nanoseconds (of a tick there are too few here).
fn cpu() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let spent = tasks.filter_map(|task| {
        // A thread may end meanwhile.
        let text = std::fs::read_to_string(task.unwrap().path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<f64>().ok()
    });
    spent.sum::<f64>() / 1e9
}

fn peak_megabytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<f64>()
        .unwrap()
        / 1024.0
}

fn line(name: &str, unit: &str, ours: f64) {
    println!(
        "{}",
        json!({"name": name, "unit": unit, "ours": ours, "theirs": null, "ratio": null, "peer": null})
    );
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let text = include_str!("../../site-configs/demo.toml");
    let loaded = config::load("demo.toml", text, Default::default());
    let site = Arc::new(loaded.site.expect("a sound site"));
    let (devices, seconds) = (setting("DEVICES", 250), setting("SECONDS", 1_600));
    let (batch, writers) = (setting("BATCH", 8), setting("WRITERS", 64));
    let names = (0..devices).map(|i| DeviceId::from(format!("node-{:04}-gpu-{}", i / 8, i % 8)));
    let mut hall = Hall::new(names.collect(), 1);
    let mut batches = Vec::new();
    for _ in 0..seconds {
        let mut frames = hall.next(BEGIN);
        while frames.len() > batch {
            let rest = frames.split_off(batch);
            batches.push(frames);
            frames = rest;
        }
        batches.push(frames);
    }
    let samples: usize = batches.iter().flatten().map(|f| f.readings.len()).sum();
    let samples = samples as f64;
    let per_second = |name: &str, spent: f64| {
        line(
            &format!("write_{name}_nanoseconds_per_sample"),
            "ns",
            spent * 1e9 / samples,
        );
        line(
            &format!("write_{name}_samples_per_cpu_second"),
            "1/s",
            samples / spent,
        );
    };

    let wire: Vec<Vec<u8>> = (batches.iter().enumerate())
        .map(|(i, frames)| {
            let batch = FrameBatch {
                agent: AgentId::from("n1"),
                sequence: i as u64,
                frames: frames.clone(),
            };
            batch.encode(Catalogue::builtin()).unwrap()
        })
        .collect();
    let begin = cpu();
    for bytes in &wire {
        let decoded = FrameBatch::decode(bytes, Catalogue::builtin()).unwrap();
        assert!(!decoded.batch.frames.is_empty());
    }
    per_second("decode", cpu() - begin);
    drop(wire);

    let directory = tempfile::tempdir_in(
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(std::env::temp_dir, Into::into),
    )
    .unwrap();
    let clock = Arc::new(SteppedClock::new(Timestamp(BEGIN + seconds as i64 * 1_000)));
    let options = Options {
        seal_samples: u64::MAX / 8,
        ..Options::default()
    };
    let open = |options| {
        EmbeddedStore::open_with(directory.path(), Arc::clone(&site), clock.clone(), options)
            .unwrap()
    };
    let store = open(options.clone());
    let before = peak_megabytes();
    let parts = setting("PARTS", 2);
    let (mut appending, mut sealing, mut waits) = (0.0, 0.0, Vec::new());
    let each = batches.len().div_ceil(parts);
    let mut rest = batches;
    while !rest.is_empty() {
        let later = rest.split_off(each.min(rest.len()));
        let begin = cpu();
        waits.extend(append(&store, rest, writers).await);
        appending += cpu() - begin;
        let begin = cpu();
        store.seal().await.unwrap();
        sealing += cpu() - begin;
        rest = later;
    }
    assert_eq!(store.stats().samples as f64, samples);
    per_second("append", appending);
    per_second("seal", sealing);
    per_second("append_and_seal", appending + sealing);
    waits.sort_by(f64::total_cmp);
    line(
        "write_acknowledge_flood_p99",
        "ms",
        waits[(waits.len() - 1) * 99 / 100],
    );
    line(
        "write_bytes_per_sample",
        "B",
        store.stats().disk_bytes as f64 / samples,
    );
    let begin = cpu();
    store.compact().await.unwrap();
    per_second("compact", cpu() - begin);
    line(
        "write_peak_memory_above_input",
        "MB",
        peak_megabytes() - before,
    );
}
