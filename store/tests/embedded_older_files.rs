//! Files that an earlier version wrote: segments by the `parquet` crate's own
//! writer, rollups of the second form, in which least and most of a counter stand
//! in every row. They are read, say the same, and become files of today.
//!
//! `data/rollups-form-2` holds fifteen minutes of three GPUs of the hall of the
//! benches (seed 1), sealed and compacted in November 2026.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use heliostat_models::{DeviceId, Frame, Reading, Timestamp};
use heliostat_store::embedded::{EmbeddedStore, Options};
use heliostat_store::query::{OverTime, Point, Selector};
use heliostat_store::{Query, Source, TimeSeriesStore};
use std::path::Path;
use support::{metric, runtime};

const BEGIN: i64 = 1_764_547_200_000;
const MINUTES: i64 = 15;
/// Sum of the power of each GPU in watts, and its energy register's first and last
/// value, as pyarrow reads them.
const FACTS: [(f64, f64, f64); 3] = [
    (501_042.292, 1_699_684_941.913, 1_700_185_772.442),
    (501_138.126, 2_237_345_487.828, 2_237_846_414.353),
    (501_061.706, 2_913_008_477.198, 2_913_509_326.880),
];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn one(device: &str) -> Selector {
    Selector {
        devices: vec![DeviceId::from(device)],
        labels: vec![],
    }
}

async fn ask(store: &EmbeddedStore, query: &Query) -> (Vec<Point>, Source) {
    let (answer, source) = store.query_with_source(query).await.unwrap();
    let points = answer.series().into_iter().flat_map(|s| s.points);
    (points.collect(), source)
}

/// What a step's values come to, of values in the order of time.
fn of(values: &[f64], over_time: OverTime) -> f64 {
    let fold = |of: fn(f64, f64) -> f64| values.iter().copied().reduce(of).unwrap();
    match over_time {
        OverTime::Min => fold(f64::min),
        OverTime::Max => fold(f64::max),
        OverTime::Last => *values.last().unwrap(),
        OverTime::Count => values.len() as f64,
        OverTime::Sum => values.iter().sum(),
        _ => values.iter().sum::<f64>() / values.len() as f64,
    }
}

/// Whether rollups say what the frames come to; `rolled_up`: the answer is of rollups.
async fn hold(store: &EmbeddedStore, rolled_up: bool) {
    for (gpu, (watts, first, last)) in FACTS.into_iter().enumerate() {
        let device = format!("node-0000-gpu-{gpu}");
        for name in ["gpu_power_watts", "gpu_energy_joules_total"] {
            let range = Query::Range {
                metric: name.to_owned(),
                select: one(&device),
                from: Timestamp(BEGIN),
                to: Timestamp(BEGIN + MINUTES * 60_000),
            };
            let (frames, _) = ask(store, &range).await;
            let values: Vec<f64> = frames.iter().map(|p| p.value.unwrap()).collect();
            assert_eq!(values.len(), 900);
            if name == "gpu_power_watts" {
                let sum: f64 = values.iter().sum();
                assert!((sum - watts).abs() < 1e-6, "{sum} {watts}");
            } else {
                assert_eq!((values[0], values[899]), (first, last));
            }
            // Steps closed at their begin, and at their end.
            for late in [0, 1] {
                for over_time in [
                    OverTime::Min,
                    OverTime::Max,
                    OverTime::Last,
                    OverTime::Count,
                    OverTime::Sum,
                    OverTime::Avg,
                ] {
                    let query = Query::Aggregate {
                        metric: name.to_owned(),
                        select: one(&device),
                        from: Timestamp(BEGIN + late),
                        to: Timestamp(BEGIN + late + (MINUTES - 1) * 60_000),
                        step_ms: 60_000,
                        over_time,
                        across: None,
                        group_by: vec![],
                    };
                    let (points, source) = ask(store, &query).await;
                    assert_eq!(source.rollup_ms, rolled_up.then_some(60_000));
                    assert_eq!(points.len() as i64, MINUTES - 1);
                    for (minute, point) in points.iter().enumerate() {
                        let begin = minute * 60 + late as usize;
                        let wanted = of(&values[begin..begin + 60], over_time);
                        let found = point.value.unwrap();
                        assert!(
                            (found - wanted).abs() <= 1e-12 * wanted.abs(),
                            "{device} {name} {over_time:?} +{late} ms, minute {minute}: {found}, not {wanted}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn files_of_an_earlier_version_say_the_same_and_become_files_of_today() {
    let directory = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/rollups-form-2");
    copy(&fixture, directory.path());
    runtime().block_on(async {
        let store = support::open(directory.path(), Options::default());
        assert_eq!(store.stats().damaged, 0);
        assert_eq!(store.stats().samples, 27_000);
        hold(&store, true).await;
        // An hour later they go on, in a file of today, which compaction lays together with the old one.
        let later = (0..120).map(|second| Frame {
            device: DeviceId::from("node-0000-gpu-1"),
            at: Timestamp(BEGIN + 3_600_000 + second * 1_000),
            readings: vec![
                (
                    metric("gpu_power_watts"),
                    Reading::Measured(0.1 + second as f64 / 3.0),
                ),
                (
                    metric("gpu_energy_joules_total"),
                    Reading::Estimated(second as f64),
                ),
            ],
        });
        store.append(later.collect()).await.unwrap();
        store.seal().await.unwrap();
        hold(&store, true).await;
        store.compact().await.unwrap();
        assert_eq!(store.stats().damaged, 0);
        assert_eq!(store.stats().samples, 27_000 + 240);
        hold(&store, true).await;
    });
}
