//! Whatever the readings, and wherever they lie: in memory, in files, in rollups
//! alone. An answer is the same from all of them.

use super::{DAY, HOUR, open, same, sign_of_life};
use crate::support::{metric, runtime};
use heliostat_models::{DeviceId, Frame, Reading, Timestamp};
use heliostat_store::embedded::{EmbeddedStore, Options};
use heliostat_store::query::{AcrossDevices, OverTime, Point, Selector};
use heliostat_store::{Query, Source, SteppedClock, TimeSeriesStore};
use proptest::prelude::*;
use std::sync::Arc;

const POWER: &str = "gpu_power_watts";
const ENERGY: &str = "gpu_energy_joules_total";
/// Those that rollups answer.
const CONDENSED: [OverTime; 8] = [
    OverTime::Avg,
    OverTime::Min,
    OverTime::Max,
    OverTime::Sum,
    OverTime::Count,
    OverTime::Last,
    OverTime::Increase,
    OverTime::Rate,
];

/// A reading to come: milliseconds after the one before, kind, value, file.
type Given = (i64, u8, f64, usize);

fn given() -> impl Strategy<Value = Vec<Given>> {
    let gap = prop_oneof![
        6 => Just(1_000i64),
        4 => Just(20_000),
        2 => 1i64..40_000,
        1 => 200_000i64..2_000_000,
    ];
    // What a decimal column holds, what only doubles do, and what drowns a sum.
    let value = prop_oneof![
        8 => (0i64..800_000).prop_map(|v| v as f64 / 1e3),
        2 => -1e3..1e3f64,
        1 => Just(1e15),
    ];
    // Mostly in order; some come late, into another file.
    let file = prop_oneof![5 => Just(0usize), 1 => 1usize..3];
    prop::collection::vec((gap, 0u8..20, value, file), 2..400)
}

/// The frames of each file, the last of which stays in memory.
fn frames(given: &[Given], begin: i64, by_time: bool) -> Vec<Vec<Frame>> {
    let mut files = vec![Vec::new(); 3];
    let (mut at, mut counted) = (begin, 5_000.0);
    for (place, (gap, kind, value, file)) in given.iter().enumerate() {
        at += gap;
        counted = if *kind == 3 {
            1.25
        } else {
            counted + value.abs().min(1e6)
        };
        let reading = match kind {
            0 => Reading::Missing,
            1 | 2 => Reading::Estimated(*value),
            _ => Reading::Measured(*value),
        };
        let register = match kind {
            4 => Reading::Missing,
            5 => Reading::Estimated(counted),
            _ => Reading::Measured(counted),
        };
        let file = match by_time {
            true => place * 3 / given.len(),
            false => *file,
        };
        files[file].push(Frame {
            device: DeviceId::from("a"),
            at: Timestamp(at),
            readings: vec![(metric(POWER), reading), (metric(ENERGY), register)],
        });
    }
    files
}

async fn ask(store: &EmbeddedStore, query: &Query) -> (Vec<Point>, Source) {
    let (answer, source) = store.query_with_source(query).await.unwrap();
    let points = answer.series().into_iter().flat_map(|s| s.points);
    (points.collect(), source)
}

fn query(name: &str, over_time: OverTime, (from, to): (i64, i64), step: i64) -> Query {
    Query::Aggregate {
        metric: name.to_owned(),
        select: Selector {
            devices: vec![DeviceId::from("a")],
            labels: vec![],
        },
        from: Timestamp(from),
        to: Timestamp(to),
        step_ms: step as u64,
        over_time,
        across: None,
        group_by: vec![],
    }
}

/// All questions: steps closed at their begin and at their end, whole and cut off.
fn questions(begin: i64, end: i64, cut: i64) -> Vec<Query> {
    let mut all = Vec::new();
    for step in [60_000, 180_000, 900_000, HOUR] {
        let from = begin.div_euclid(step) * step;
        let to = from + (end - from).div_euclid(step) * step + step;
        for (from, to) in [
            (from, to),
            (from + 1, to + 1),
            (from, to - cut),
            (from + 1, to - cut),
        ] {
            for over_time in CONDENSED {
                for name in [POWER, ENERGY] {
                    all.push(query(name, over_time, (from, to), step));
                }
            }
        }
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn an_answer_is_the_same_from_rollups_and_from_readings(
        given in given(), begin in -40_000i64..40_000, by_time: bool, cut in 1i64..50_000,
    ) {
        let begin = 3 * DAY - HOUR / 2 + begin;
        let end = begin + given.iter().map(|g| g.0).sum::<i64>();
        let files = frames(&given, begin, by_time);
        let (sealed, plain) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        runtime().block_on(async {
            let clock = Arc::new(SteppedClock::new(Timestamp(0)));
            let options = || Options { rollup_rows: 0, ..Options::default() };
            let in_files = open(sealed.path(), &clock, options());
            let in_memory = open(plain.path(), &clock, options());
            in_memory.append(files.concat()).await.unwrap();
            let last = files.len() - 1;
            for (place, file) in files.into_iter().enumerate() {
                in_files.append(file).await.unwrap();
                if place < last {
                    in_files.seal().await.unwrap();
                }
            }
            let mut wanted = Vec::new();
            for query in questions(begin, end, cut) {
                let (points, source) = ask(&in_memory, &query).await;
                assert_eq!(source.rollup_ms, None);
                wanted.push((query, points));
            }
            for when in ["in files and in memory", "compacted", "rollups alone"] {
                match when {
                    "compacted" => in_files.compact().await.unwrap(),
                    "rollups alone" => {
                        clock.advance_to(Timestamp(95 * DAY));
                        in_files.append(vec![sign_of_life(95)]).await.unwrap();
                        in_files.compact().await.unwrap();
                    }
                    _ => {}
                }
                for (query, wanted) in &wanted {
                    let Query::Aggregate { to, step_ms, from, over_time, metric: name, .. } = query else { continue };
                    let whole = (to.0 - from.0) % *step_ms as i64 == 0;
                    // A rollup knows whole steps, and restarts of counters.
                    let grows = matches!(over_time, OverTime::Increase | OverTime::Rate);
                    let told = whole && !(grows && name == POWER);
                    if when == "rollups alone" && !told {
                        continue;
                    }
                    let (found, _) = ask(&in_files, query).await;
                    assert!(
                        same(&found, wanted, 1e-9),
                        "{when}, {query:?}:\n{found:?}\nis not\n{wanted:?}"
                    );
                }
            }
        });
    }
}

/// That the test above compares what it is meant to: both ends and all these
/// functions are answered from rollups and nothing else.
#[test]
fn rollups_alone_answer_both_ends_of_a_step() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let clock = Arc::new(SteppedClock::new(Timestamp(0)));
        let store = open(directory.path(), &clock, Options::default());
        let given: Vec<Given> = (0..7_200).map(|i| (1_000, 9, (i % 97) as f64, 0)).collect();
        store
            .append(frames(&given, DAY - 1_000, false).concat())
            .await
            .unwrap();
        store.seal().await.unwrap();
        for over_time in CONDENSED {
            for lean in [0, 1] {
                for (step, width) in [(60_000, 60_000), (1_800_000, 900_000), (HOUR, HOUR)] {
                    let span = (DAY + lean, DAY + 2 * HOUR + lean);
                    let (points, source) = ask(&store, &query(ENERGY, over_time, span, step)).await;
                    assert!(!points.is_empty());
                    let expected = Source {
                        rollup_ms: Some(width as u64),
                        raw_samples: 0,
                    };
                    assert_eq!(source, expected, "{over_time:?} {lean} {step}");
                }
            }
        }
        // A quantile needs the values; by whole minutes from the second one, counted by hand.
        let asked = query(POWER, OverTime::Quantile(0.5), (DAY, DAY + 97_000), 97_000);
        let (points, source) = ask(&store, &asked).await;
        assert_eq!(points[0].value, Some(48.0));
        assert_eq!(
            source,
            Source {
                rollup_ms: None,
                raw_samples: 97
            }
        );
    });
}

#[test]
fn the_best_few_devices_are_those_of_the_whole_time() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let clock = Arc::new(SteppedClock::new(Timestamp(0)));
        let store = open(directory.path(), &clock, Options::default());
        // `d0` has the highest single value, `d3` the highest mean; `d1` and `d2` are equal.
        let mut all = Vec::new();
        for (device, base) in [("d0", 10.0), ("d1", 20.0), ("d2", 20.0), ("d3", 30.0)] {
            for second in 0..600 {
                let spike = if device == "d0" && second == 5 {
                    500.0
                } else {
                    0.0
                };
                all.push(Frame {
                    device: DeviceId::from(device),
                    at: Timestamp(second * 1_000),
                    readings: vec![(metric(POWER), Reading::Measured(base + spike))],
                });
            }
        }
        store.append(all).await.unwrap();
        let names = async |over_time, across, sealed: bool| {
            if sealed {
                store.seal().await.unwrap();
            }
            let query = Query::Aggregate {
                metric: POWER.to_owned(),
                select: Selector::default(),
                from: Timestamp(0),
                to: Timestamp(600_000),
                step_ms: 60_000,
                over_time,
                across: Some(across),
                group_by: vec![],
            };
            let series = store.query(&query).await.unwrap().series();
            assert!(series.iter().all(|s| s.points.len() == 10));
            let name = |s: &heliostat_store::query::Series| s.labels.last().unwrap().1.clone();
            series.iter().map(name).collect::<Vec<_>>()
        };
        for sealed in [false, true] {
            let top = AcrossDevices::TopK(3);
            assert_eq!(names(OverTime::Avg, top, sealed).await, ["d3", "d1", "d2"]);
            assert_eq!(names(OverTime::Max, top, sealed).await, ["d0", "d3", "d1"]);
            let bottom = AcrossDevices::BottomK(1);
            assert_eq!(names(OverTime::Avg, bottom, sealed).await, ["d0"]);
        }
        let few = Options {
            limits: heliostat_store::query::Limits {
                series: 2,
                samples: 1_000,
            },
            ..Options::default()
        };
        drop(store);
        let store = open(directory.path(), &clock, few);
        for (devices, text) in [
            (vec![], "more than 2"),
            (vec!["d0", "d1"], "more than 1000 readings"),
        ] {
            let query = Query::Range {
                metric: POWER.to_owned(),
                select: Selector {
                    devices: devices.into_iter().map(DeviceId::from).collect(),
                    labels: vec![],
                },
                from: Timestamp(0),
                to: Timestamp(600_000),
            };
            let error = store.query(&query).await.unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    });
}
