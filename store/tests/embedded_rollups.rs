//! Rollups, retention and declared precision: what an answer is made of, and
//! that it is the same whatever it is made of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "embedded_rollups/alike.rs"]
mod alike;
mod support;

use heliostat_models::{DeviceId, Frame, Quality, Reading, Timestamp};
use heliostat_store::embedded::{EmbeddedStore, Options, Precision};
use heliostat_store::query::{OverTime, Point, Selector};
use heliostat_store::{Query, Source, SteppedClock, TimeSeriesStore};
use std::path::Path;
use std::sync::Arc;
use support::{SITE, files_below, metric, runtime, stored};

const DAY: i64 = 86_400_000;
const HOUR: i64 = 3_600_000;
const ALL: [OverTime; 9] = [
    OverTime::Avg,
    OverTime::Min,
    OverTime::Max,
    OverTime::Sum,
    OverTime::Count,
    OverTime::Last,
    OverTime::Increase,
    OverTime::Rate,
    OverTime::Integral,
];

fn open(directory: &Path, clock: &Arc<SteppedClock>, options: Options) -> Arc<EmbeddedStore> {
    let clock = Arc::clone(clock) as Arc<_>;
    EmbeddedStore::open_with(directory, Arc::clone(&SITE), clock, options).unwrap()
}

/// Power, energy and temperature of a GPU at these seconds; some are estimated,
/// some missing.
fn frames(seconds: impl Iterator<Item = i64>) -> Vec<Frame> {
    let frame = |second: i64| {
        let noise = (second * 7_919 % 1_009) as f64;
        let watts = 600.0 + noise / 10.0;
        let power = match second % 1_000 {
            500 => Reading::Missing,
            700 => Reading::Estimated(watts),
            _ => Reading::Measured(watts),
        };
        let energy = Reading::Measured((second * 650) as f64 + noise / 1e3);
        Frame {
            device: DeviceId::from("a"),
            at: Timestamp(second * 1_000),
            readings: vec![
                (metric("gpu_power_watts"), power),
                (metric("gpu_energy_joules_total"), energy),
                (
                    metric("gpu_temperature_celsius"),
                    Reading::Measured((50 + second % 7) as f64),
                ),
            ],
        }
    };
    seconds.map(frame).collect()
}

/// Another device's frame on a day.
fn sign_of_life(day: i64) -> Frame {
    Frame {
        device: DeviceId::from("z"),
        at: Timestamp(day * DAY),
        readings: vec![(metric("gpu_temperature_celsius"), Reading::Measured(50.0))],
    }
}

async fn ask(
    store: &EmbeddedStore,
    name: &str,
    over_time: OverTime,
    (from, to, step_ms): (i64, i64, u64),
) -> (Vec<Point>, Source) {
    let query = Query::Aggregate {
        metric: name.to_owned(),
        select: Selector::default(),
        from: Timestamp(from),
        to: Timestamp(to),
        step_ms,
        over_time,
        across: None,
        group_by: vec![],
    };
    let (answer, source) = store.query_with_source(&query).await.unwrap();
    let points = answer.series().into_iter().flat_map(|s| s.points);
    (points.collect(), source)
}

fn same(found: &[Point], wanted: &[Point], tolerance: f64) -> bool {
    found.len() == wanted.len()
        && found.iter().zip(wanted).all(|(a, b)| {
            let (x, y) = (a.value.unwrap_or(0.0), b.value.unwrap_or(0.0));
            (a.at, a.value.is_some(), a.quality) == (b.at, b.value.is_some(), b.quality)
                && (x - y).abs() <= tolerance * (1.0 + y.abs())
        })
}

#[test]
fn rollups_answer_what_their_steps_fit_and_late_data_counts() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let clock = Arc::new(SteppedClock::new(Timestamp(0)));
        let store = open(directory.path(), &clock, Options::default());
        // Every seventh second comes late, into a file of its own.
        (store.append(frames((0..7_200).filter(|s| s % 7 != 3))))
            .await
            .unwrap();
        let span = (0, 2 * HOUR, 900_000);
        let before = ask(&store, "gpu_power_watts", OverTime::Avg, span).await;
        assert_eq!(
            before.1,
            Source {
                rollup_ms: None,
                raw_samples: 6_171
            }
        );
        store.seal().await.unwrap();
        let after = ask(&store, "gpu_power_watts", OverTime::Avg, span).await;
        assert_eq!(
            after.1,
            Source {
                rollup_ms: Some(900_000),
                raw_samples: 0
            }
        );
        assert!(same(&after.0, &before.0, 1e-12));
        (store.append(frames((0..7_200).filter(|s| s % 7 == 3))))
            .await
            .unwrap();
        let plain: Vec<Vec<Point>> = {
            let other = tempfile::tempdir().unwrap();
            let in_memory = open(other.path(), &clock, Options::default());
            in_memory.append(frames(0..7_200)).await.unwrap();
            let mut plain = Vec::new();
            for over_time in ALL {
                plain.push(ask(&in_memory, "gpu_power_watts", over_time, span).await.0);
            }
            plain
        };
        for step in ["late data in memory", "late data sealed", "compacted"] {
            match step {
                "late data sealed" => store.seal().await.unwrap(),
                "compacted" => store.compact().await.unwrap(),
                _ => {}
            }
            for (over_time, wanted) in ALL.into_iter().zip(&plain) {
                let (found, source) = ask(&store, "gpu_power_watts", over_time, span).await;
                assert!(
                    same(&found, wanted, 1e-9),
                    "{step}, {over_time:?}: {found:?} is not {wanted:?}"
                );
                let simple = !matches!(
                    over_time,
                    OverTime::Increase | OverTime::Rate | OverTime::Integral
                );
                if step == "compacted" && simple {
                    assert_eq!(
                        source,
                        Source {
                            rollup_ms: Some(900_000),
                            raw_samples: 0
                        }
                    );
                }
            }
            // Steps that no rollup fits, a begin within a minute, an end within a step.
            for (from, to, width, wanted) in [
                (0, HOUR, 61_000, None),
                (1_000, HOUR, 60_000, None),
                (0, HOUR - 500, 60_000, None),
                (0, HOUR, 120_000, Some(60_000)),
            ] {
                let (found, source) = ask(
                    &store,
                    "gpu_power_watts",
                    OverTime::Count,
                    (from, to, width),
                )
                .await;
                let total: f64 = found.iter().filter_map(|p| p.value).sum();
                // Without the missing ones and what is before `from`.
                let expected = (from / 1_000..HOUR / 1_000)
                    .filter(|s| s % 1_000 != 500)
                    .count();
                assert_eq!(total, expected as f64, "{step}");
                if step == "compacted" {
                    assert_eq!(source.rollup_ms, wanted, "{from} {to} {width}");
                }
            }
        }
        let raw = files_below(&directory.path().join("segments"));
        assert_eq!(raw.len(), 1, "{raw:?}");
    });
}

#[test]
fn what_is_too_old_goes_tier_by_tier_and_the_hours_stay_to_be_asked_about() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let clock = Arc::new(SteppedClock::new(Timestamp(0)));
        let store = open(directory.path(), &clock, Options::default());
        store.append(frames(0..10_800)).await.unwrap();
        store.seal().await.unwrap();
        let span = (0, 3 * HOUR, HOUR as u64);
        let mut before = Vec::new();
        for name in ["gpu_power_watts", "gpu_energy_joules_total"] {
            for over_time in ALL {
                before.push((name, over_time, ask(&store, name, over_time, span).await.0));
            }
        }
        clock.advance_to(Timestamp(91 * DAY));
        store.compact().await.unwrap();
        assert_eq!(
            store.stats().frames,
            10_800,
            "a store of the past is not emptied by a clock of today"
        );
        store.append(vec![sign_of_life(91)]).await.unwrap();
        store.compact().await.unwrap();
        drop(store);
        let store = open(directory.path(), &clock, Options::default());
        assert_eq!(stored(&store, "a").await, []);
        assert_eq!((store.stats().frames, store.stats().damaged), (1, 0));
        assert_eq!(files_below(&directory.path().join("segments")).len(), 1);
        for (name, over_time, wanted) in &before {
            if (*name, *over_time) == ("gpu_energy_joules_total", OverTime::Integral) {
                continue; // Of a register nobody asks this.
            }
            let (found, source) = ask(&store, name, *over_time, span).await;
            assert!(source.rollup_ms.is_some() && source.raw_samples == 0);
            match over_time {
                // The first of a counter's steps begins with its first value, which is gone.
                OverTime::Increase | OverTime::Rate if *name == "gpu_energy_joules_total" => {
                    let all = |p: &[Point]| p.iter().skip(1).filter_map(|p| p.value).sum::<f64>();
                    assert!((all(&found) - all(wanted)).abs() < 1e-3 * all(wanted));
                }
                OverTime::Increase | OverTime::Rate => {}
                OverTime::Integral => {
                    let joules = |p: &[Point]| p.iter().filter_map(|p| p.value).sum::<f64>();
                    assert!((joules(&found) - joules(wanted)).abs() < 0.01);
                    assert!(found.iter().all(|p| p.quality == Quality::Estimated));
                }
                _ => assert!(
                    same(&found, wanted, 1e-9),
                    "{name} {over_time:?}: {found:?} is not {wanted:?}"
                ),
            }
        }
        // A finer question gets what there is, marked as not all of it.
        let (found, _) = ask(
            &store,
            "gpu_power_watts",
            OverTime::Max,
            (500, 3 * HOUR, 1_000),
        )
        .await;
        assert!(!found.is_empty() && found.iter().all(|p| p.quality == Quality::Estimated));
        for (years, files) in [(1, 2), (2, 1), (3, 1), (11, 0)] {
            clock.advance_to(Timestamp(years * 367 * DAY));
            store.append(vec![sign_of_life(years * 367)]).await.unwrap();
            store.compact().await.unwrap();
            let left = files_below(&directory.path().join("rollups")).len();
            assert_eq!(left, files, "after {years} years");
        }
        assert_eq!(
            ask(&store, "gpu_power_watts", OverTime::Max, span).await.0,
            []
        );
    });
}

#[test]
fn declared_precision_rounds_what_it_names_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let frame = |second: i64| Frame {
        device: DeviceId::from("a"),
        at: Timestamp(second * 1_000),
        readings: vec![
            (
                metric("gpu_power_watts"),
                Reading::Measured(650.0 + second as f64 * 0.037),
            ),
            (
                metric("gpu_energy_joules_total"),
                Reading::Measured(second as f64 / 3.0),
            ),
        ],
    };
    runtime().block_on(async {
        let clock = Arc::new(SteppedClock::new(Timestamp(0)));
        let options = Options {
            precision: Precision::Declared(vec!["gpu_power_watts".to_owned()]),
            ..Options::default()
        };
        let store = open(directory.path(), &clock, options);
        store.append((0..500).map(frame).collect()).await.unwrap();
        store.seal().await.unwrap();
        for (second, (_, watts)) in stored(&store, "a").await.into_iter().enumerate() {
            let exact = 650.0 + second as f64 * 0.037;
            assert!((watts - exact).abs() <= 0.050_001, "{watts} for {exact}");
            assert_eq!(watts, (watts * 10.0).round() / 10.0);
        }
        let query = Query::Range {
            metric: "gpu_energy_joules_total".to_owned(),
            select: Selector::default(),
            from: Timestamp(0),
            to: Timestamp(HOUR),
        };
        let series = store.query(&query).await.unwrap().series();
        for (second, point) in series[0].points.iter().enumerate() {
            assert_eq!(point.value, Some(second as f64 / 3.0));
        }
    });
}
