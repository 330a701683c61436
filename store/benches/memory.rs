//! How much memory the store takes of a large hall, as JSON lines
//! `{"name","unit","ours","theirs","ratio","peer"}`: 100,000 series at 1 Hz for
//! `HELIOSTAT_BENCH_SECONDS` (120), one second at a time, in bodies of 1,000 frames.
//!
//! `HELIOSTAT_BENCH_SERIES` says what they are: `frames`, ten metrics of each of
//! 10,000 GPUs in one frame; `parts`, the same in two frames a millisecond apart, as
//! when they come in two requests; `single`, 100,000 devices with one metric each.
//!
//! Counted is the highest resident memory of the process above what it had before
//! the store was opened, with a whole second of frames at hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)] // a benchmark fails by panic and prints its result

mod hall;

use hall::Hall;
use heliostat_models::site::config;
use heliostat_models::{Catalogue, DeviceId, Frame, Timestamp};
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::{SteppedClock, TimeSeriesStore};
use serde_json::json;
use std::sync::Arc;

const GPUS: usize = 10_000;
/// Frames of a body.
const BODY: usize = 1_000;
/// Begin of the data: 2025-12-01.
const BEGIN: i64 = 1_764_547_200_000;

/// A line of `/proc/self/status`, in megabytes.
fn megabytes(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(name)).unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap();
    kilobytes.parse::<f64>().unwrap() / 1024.0
}

/// The frames of a second in the form that is asked for.
fn formed(frames: Vec<Frame>, form: &str) -> Vec<Frame> {
    match form {
        "parts" => (frames.into_iter())
            .flat_map(|mut frame| {
                let rest = frame.readings.split_off(frame.readings.len() / 2);
                let later = Frame {
                    device: frame.device.clone(),
                    at: Timestamp(frame.at.0 + 1),
                    readings: rest,
                };
                [frame, later]
            })
            .collect(),
        "single" => (frames.iter())
            .flat_map(|frame| {
                let unknown = Catalogue::unknown_value();
                (frame.readings.iter().enumerate()).map(move |(place, (_, reading))| Frame {
                    device: DeviceId::from(format!("m{place}{{gpu=\"{}\"}}", frame.device)),
                    at: frame.at,
                    readings: vec![(unknown, *reading)],
                })
            })
            .collect(),
        _ => frames,
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let text = include_str!("../../site-configs/demo.toml");
    let loaded = config::load("demo.toml", text, Default::default());
    let site = Arc::new(loaded.site.expect("a sound site"));
    let setting = |name: &str| std::env::var(format!("HELIOSTAT_BENCH_{name}")).ok();
    let form = setting("SERIES").unwrap_or_else(|| "frames".to_owned());
    let seconds: i64 = setting("SECONDS")
        .and_then(|s| s.parse().ok())
        .unwrap_or(120);
    let names = (0..GPUS).map(|i| DeviceId::from(format!("node-{:04}-gpu-{}", i / 8, i % 8)));
    let mut hall = Hall::new(names.collect(), 1);
    let mut second = formed(hall.next(BEGIN), &form);
    let before = megabytes("VmRSS");
    let directory = tempfile::tempdir_in(
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(std::env::temp_dir, Into::into),
    )
    .unwrap();
    let clock = Arc::new(SteppedClock::new(Timestamp(BEGIN + seconds * 1_000)));
    let store = EmbeddedStore::open(directory.path(), site, clock).unwrap();
    for _ in 0..seconds {
        while !second.is_empty() {
            let rest = second.split_off(BODY.min(second.len()));
            store.append(second).await.unwrap();
            second = rest;
        }
        second = formed(hall.next(BEGIN), &form);
    }
    let peak = megabytes("VmHWM");
    store.close().await;
    for (name, megabytes) in [
        ("before", before),
        ("peak", peak),
        ("peak_of_store", peak - before),
    ] {
        println!(
            "{}",
            json!({
                "name": format!("memory_{form}_{name}"), "unit": "MB", "ours": megabytes,
                "theirs": null, "ratio": null, "peer": null,
            })
        );
    }
}
