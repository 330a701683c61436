//! How fast the embedded store is, as JSON lines
//! `{"name","unit","ours","theirs","ratio","peer"}`; `theirs` is measured in the
//! same run on the same disk. With the argument `sizes` it measures those alone; with
//! `statistics` it says instead what the generated hall is like (`docs/store-bench.md`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a benchmark fails by panic and prints its result
#![allow(clippy::disallowed_methods)] // it measures real time

mod feed;
mod hall;

use feed::append;
use hall::{Hall, METRICS};
use heliostat_models::site::config;
use heliostat_models::{Catalogue, DeviceId, Frame, MetricId, Reading, Site, Timestamp};
use heliostat_store::embedded::{EmbeddedStore, Options, Precision};
use heliostat_store::query::{AcrossDevices, OverTime, Selector};
use heliostat_store::{Query, SteppedClock, TimeSeriesStore};
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Devices in a batch: the accelerators of one node.
const BATCH: usize = 8;
const DEVICES: usize = 256;
const INSTANTS: i64 = 3_000;

fn line(name: &str, unit: &str, ours: f64, peer: Option<(&str, f64)>) {
    let theirs = peer.map(|p| p.1);
    println!(
        "{}",
        json!({
            "name": name, "unit": unit, "ours": ours,
            "theirs": theirs, "ratio": theirs.map(|t| ours / t), "peer": peer.map(|p| p.0),
        })
    );
}

/// What a GPU looks like: power in milliwatts with noise, a register in
/// millijoules, temperatures and clocks that step.
struct Gpu {
    random: u64,
    energy: u64,
}

impl Gpu {
    fn frame(&mut self, device: &DeviceId, at: i64, metrics: &[MetricId]) -> Frame {
        self.random = (self.random)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let noise = self.random >> 50;
        let milliwatts = 620_000 + noise * 4;
        self.energy += milliwatts * 60;
        let values = [
            milliwatts as f64 / 1e3,
            700.0,
            self.energy as f64 / 1e3,
            (60 + noise % 3) as f64,
            (66 + noise % 2) as f64,
            (90 + noise % 10) as f64 / 100.0,
            (50 + noise % 20) as f64 / 100.0,
            6.0e10 + (noise % 4) as f64 * 1_048_576.0,
            1.7e9 + (noise % 12) as f64 * 15e6,
            2.6e9,
        ];
        Frame {
            device: device.clone(),
            at: Timestamp(at),
            readings: (metrics.iter().copied())
                .zip(values.map(Reading::Measured))
                .collect(),
        }
    }
}

fn devices(site: &Site) -> Vec<DeviceId> {
    site.devices
        .iter()
        .take(DEVICES)
        .map(|d| d.id.clone())
        .collect()
}

/// Batches of one node at one instant, in the order in which they would come.
fn batches(site: &Site, from: i64) -> Vec<Vec<Frame>> {
    let metrics: Vec<MetricId> = METRICS
        .iter()
        .map(|m| Catalogue::builtin().id(m).unwrap())
        .collect();
    let devices = devices(site);
    let mut gpus: Vec<Gpu> = (0..DEVICES as u64)
        .map(|i| Gpu {
            random: i,
            energy: i << 30,
        })
        .collect();
    let mut batches = Vec::new();
    for instant in 0..INSTANTS {
        for node in 0..DEVICES / BATCH {
            let frames = (node * BATCH..(node + 1) * BATCH)
                .map(|d| gpus[d].frame(&devices[d], from + instant * 60_000, &metrics))
                .collect();
            batches.push(frames);
        }
    }
    batches
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// A bare write and fsync of as many bytes as a group commit has, p99 in ms, and
/// bytes per second.
fn bare(directory: &Path, bytes: usize, rounds: usize) -> (f64, f64) {
    let mut file = File::create(directory.join("bare")).unwrap();
    let block = vec![0x5a; bytes];
    let all = Instant::now();
    let mut waits: Vec<f64> = (0..rounds)
        .map(|_| {
            let begin = Instant::now();
            file.write_all(&block).unwrap();
            file.sync_data().unwrap();
            begin.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    let rate = (bytes * rounds) as f64 / all.elapsed().as_secs_f64();
    waits.sort_by(f64::total_cmp);
    (percentile(&waits, 0.99), rate)
}

/// Waits of appends that come as in a hall of 10,000 GPUs, 100,000 samples a
/// second: a node's frames at a time, spread over each second, sorted, in ms.
async fn paced(store: &Arc<EmbeddedStore>, devices: &[DeviceId], seconds: u64) -> Vec<f64> {
    let mut hall = Hall::new(devices.to_vec(), 1);
    let begin_ms = 1_764_547_200_000;
    let mut batches = Vec::new();
    for second in 0..seconds {
        let frames = hall.next(begin_ms);
        let nodes = frames.len().div_ceil(BATCH) as f64;
        for (place, node) in frames.chunks(BATCH).enumerate() {
            let due = Duration::from_secs_f64(second as f64 + place as f64 / nodes);
            batches.push((due, node.to_vec()));
        }
    }
    let begin = Instant::now();
    let tasks: Vec<_> = (batches.into_iter())
        .map(|(due, batch)| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                tokio::time::sleep_until((begin + due).into()).await;
                let begin = Instant::now();
                store.append(batch).await.unwrap();
                begin.elapsed().as_secs_f64() * 1e3
            })
        })
        .collect();
    let mut waits = Vec::new();
    for task in tasks {
        waits.push(task.await.unwrap());
    }
    waits.sort_by(f64::total_cmp);
    waits
}

/// The middle of several runs, in ms.
async fn time(store: &EmbeddedStore, query: &Query, rounds: usize) -> f64 {
    let mut waits = Vec::new();
    for _ in 0..rounds {
        let begin = Instant::now();
        store.query(query).await.unwrap();
        waits.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    waits.sort_by(f64::total_cmp);
    percentile(&waits, 0.5)
}

/// Bytes a sample of the hall's frames, all of it sealed, and of the rollups beside them.
async fn sizes(directory: &Path, site: &Arc<Site>) {
    let seconds = (std::env::var("HELIOSTAT_BENCH_SECONDS").ok())
        .and_then(|s| s.parse().ok())
        .unwrap_or(3_600i64);
    let begin = 1_764_547_200_000;
    for (name, precision) in [
        ("lossless", Precision::Lossless),
        ("declared", Precision::AllDeclared),
    ] {
        let directory = directory.join(name);
        let end = Timestamp(begin + seconds * 1_000);
        let clock = Arc::new(SteppedClock::new(end));
        let options = Options {
            precision,
            ..Options::default()
        };
        let store = EmbeddedStore::open_with(&directory, Arc::clone(site), clock, options).unwrap();
        let devices = (0..hall::GPUS).map(|i| DeviceId::from(format!("gpu-{i:03}")));
        let mut hall = Hall::new(devices.collect(), 1);
        for _ in 0..seconds {
            store.append(hall.next(begin)).await.unwrap();
        }
        store.seal().await.unwrap();
        let samples = store.stats().samples as f64;
        store.close().await;
        for (what, top) in [("", "segments"), ("_of_rollups", "rollups")] {
            line(
                &format!("store_bytes_per_sample_{name}{what}"),
                "B",
                bytes_below(&directory.join(top)) as f64 / samples,
                None,
            );
        }
    }
}

fn bytes_below(directory: &Path) -> u64 {
    (std::fs::read_dir(directory).into_iter().flatten())
        .map(|entry| entry.unwrap())
        .map(|entry| match entry.metadata().unwrap() {
            meta if meta.is_dir() => bytes_below(&entry.path()),
            meta => meta.len(),
        })
        .sum()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if std::env::args().any(|argument| argument == "statistics") {
        for it in hall::statistics::of(3_600) {
            println!(
                "{}",
                json!({
                    "metric": it.metric, "unchanged": it.unchanged, "steps": it.steps,
                    "relative": it.relative, "distinct": it.distinct,
                })
            );
        }
        return;
    }
    let text = include_str!("../../site-configs/demo.toml");
    let site = Arc::new(
        config::load("demo.toml", text, Default::default())
            .site
            .expect("a sound site"),
    );
    let directory = tempfile::tempdir_in(
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(std::env::temp_dir, Into::into),
    )
    .unwrap();
    sizes(directory.path(), &site).await;
    if std::env::args().any(|argument| argument == "sizes") {
        return;
    }
    {
        let clock = Arc::new(SteppedClock::new(Timestamp(1_764_550_000_000)));
        let paced_in = directory.path().join("paced");
        let store = EmbeddedStore::open(&paced_in, Arc::clone(&site), clock).unwrap();
        let devices: Vec<DeviceId> = (0..10_000)
            .map(|i| DeviceId::from(format!("gpu-{i:05}")))
            .collect();
        // Long enough that the store seals twice meanwhile.
        let waits = paced(&store, &devices, 45).await;
        // A second's samples come in about a hundred groups.
        let (bare_p99, _) = bare(directory.path(), 16_000, 1_000);
        for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
            line(
                &format!("store_acknowledge_{name}_at_100000_samples_per_second"),
                "ms",
                percentile(&waits, share),
                Some(("bare write and fsync of 16 kB, p99", bare_p99)),
            );
        }
        store.close().await;
    }
    let clock = Arc::new(SteppedClock::new(Timestamp(0)));
    let open = || {
        EmbeddedStore::open(
            directory.path(),
            Arc::clone(&site),
            Arc::clone(&clock) as Arc<_>,
        )
        .unwrap()
    };
    let store = open();

    let all = batches(&site, 0);
    let samples = (all.len() * BATCH * METRICS.len()) as f64;
    let begin = Instant::now();
    append(&store, all, 64).await;
    let seconds = begin.elapsed().as_secs_f64();
    // The same samples, 16 bytes each, in groups of 64 batches.
    let (_, rate) = bare(directory.path(), 64 * BATCH * METRICS.len() * 16, 300);
    line(
        "store_append_samples_per_second",
        "1/s",
        samples / seconds,
        Some((
            "bare write and fsync of 16 bytes a sample, 64 batches at a time",
            rate / 16.0,
        )),
    );

    let later = batches(&site, INSTANTS * 60_000);
    let waits = append(&store, later.into_iter().take(2_000).collect(), 1).await;
    let (bare_p99, _) = bare(directory.path(), 8_000, 2_000);
    line(
        "store_acknowledge_p99",
        "ms",
        percentile(&waits, 0.99),
        Some(("bare write and fsync of 8 kB, p99", bare_p99)),
    );

    store.seal().await.unwrap();
    let stats = store.stats();
    line(
        "store_disk_bytes_per_sample",
        "B",
        stats.disk_bytes as f64 / stats.samples as f64,
        Some(("raw: instant and value, 8 bytes each", 16.0)),
    );

    let begin = Instant::now();
    store.close().await;
    drop(store);
    let store = open();
    line(
        "store_reopen",
        "ms",
        begin.elapsed().as_secs_f64() * 1e3,
        None,
    );

    let latest = Query::Latest {
        select: Selector::default(),
        since: Timestamp(0),
    };
    line(
        "store_latest_256_devices",
        "ms",
        time(&store, &latest, 51).await,
        None,
    );
    let day = Query::Range {
        metric: "gpu_power_watts".to_owned(),
        select: Selector {
            devices: devices(&site)[..1].to_vec(),
            labels: vec![],
        },
        from: Timestamp(0),
        to: Timestamp(86_400_000),
    };
    line(
        "store_range_one_gpu_one_day",
        "ms",
        time(&store, &day, 51).await,
        None,
    );
    let aggregate = Query::Aggregate {
        metric: "gpu_power_watts".to_owned(),
        select: Selector::default(),
        from: Timestamp(0),
        to: Timestamp(INSTANTS * 60_000),
        step_ms: 900_000,
        over_time: OverTime::Avg,
        across: Some(AcrossDevices::Sum),
        group_by: vec![],
    };
    line(
        "store_aggregate_256_devices_3000_points",
        "ms",
        time(&store, &aggregate, 21).await,
        None,
    );
}
