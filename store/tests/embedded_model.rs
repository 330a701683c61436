//! The engine against a plain map: random appends with doubles, late frames and
//! instants that cannot be, seals, compactions, days that end and are removed by
//! retention, and reopenings, then every kind of query must agree.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use heliostat_models::{DeviceId, Frame, MetricId, Quality, Reading, Timestamp};
use heliostat_store::embedded::{EmbeddedStore, Options, Retention};
use heliostat_store::instants::Instants;
use heliostat_store::query::{AcrossDevices, Label, OverTime, Point, Selector, Series};
use heliostat_store::{Query, SteppedClock, StoreError, TimeSeriesStore};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use support::{SITE, metric, runtime, sealing_at};

const METRICS: [&str; 3] = [
    "gpu_power_watts",
    "gpu_energy_joules_total",
    "gpu_temperature_celsius",
];

type Rows = BTreeMap<i64, Vec<(MetricId, Reading)>>;
type Model = BTreeMap<DeviceId, Rows>;
/// Value and quality by begin of the step.
type Steps<V> = BTreeMap<i64, V>;
/// The steps of all devices of each group, by the values of its labels.
type Groups = BTreeMap<Vec<String>, Steps<Vec<(Option<f64>, Quality)>>>;

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Frame>),
    Seal,
    Compact,
    /// Frames, one of which bears an instant that cannot be.
    Refuse(Vec<Frame>, i64),
    /// Days pass; what lies before them is removed.
    Age,
    Reopen,
}

fn devices() -> Vec<DeviceId> {
    let mut devices: Vec<DeviceId> = SITE
        .devices
        .iter()
        .step_by(60)
        .take(4)
        .map(|d| d.id.clone())
        .collect();
    devices.push(DeviceId::from("stranger"));
    devices
}

fn reading() -> impl Strategy<Value = Reading> {
    prop_oneof![
        6 => (0..500_000i32).prop_map(|v| Reading::Measured(f64::from(v) / 1_000.0)),
        1 => (0.0..1e6f64).prop_map(Reading::Measured),
        1 => (0.0..1e6f64).prop_map(Reading::Estimated),
        1 => Just(Reading::Missing),
    ]
}

fn frame() -> impl Strategy<Value = Frame> {
    let readings = prop::collection::vec(prop::option::weighted(0.8, reading()), 3);
    // Some instants are before 1970, and most are regular, so that doubles occur.
    let at = prop_oneof![
        5 => (-5i64..60).prop_map(|k| k * 1_000),
        1 => -5_000i64..60_000,
        // Parts of one instant, and just no longer of one.
        1 => (-5i64..60, -9i64..10).prop_map(|(k, off)| k * 1_000 + off),
        1 => (-5i64..60).prop_map(|k| k * 20_000),
    ];
    (0usize..5, at, readings).prop_map(|(device, at, readings)| Frame {
        device: devices()[device].clone(),
        at: Timestamp(at),
        readings: (METRICS.iter().zip(readings))
            .filter_map(|(name, reading)| Some((metric(name), reading?)))
            .collect(),
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => prop::collection::vec(frame(), 0..25).prop_map(Step::Append),
        1 => Just(Step::Seal),
        1 => Just(Step::Compact),
        1 => (prop::collection::vec(frame(), 0..5), prop_oneof![Just(-200_000i64), Just(3_000_000), Just(i64::MAX / 2)])
            .prop_map(|(frames, at)| Step::Refuse(frames, at)),
        1 => Just(Step::Age),
        1 => Just(Step::Reopen),
    ]
}

fn labels(device: &DeviceId) -> heliostat_models::site::Labels {
    SITE.labels(device).unwrap_or_default()
}

/// The rows of a device that speak of a metric, in an interval.
fn column(rows: &Rows, metric: MetricId, from: i64, to: i64) -> Vec<(i64, Reading)> {
    (rows.range(from..to))
        .filter_map(|(at, readings)| Some((*at, readings.iter().find(|(m, _)| *m == metric)?.1)))
        .collect()
}

/// The latest instant and what was read then: rows less than 8 ms before the last
/// are parts of it, and of a metric that is in several the later one counts.
fn latest(rows: &Rows) -> Option<(i64, BTreeMap<MetricId, Reading>)> {
    let at = *rows.last_key_value()?.0;
    let parts = rows.range(at - 7..=at);
    Some((at, parts.flat_map(|(_, r)| r.iter().copied()).collect()))
}

fn worst(readings: &[Reading]) -> Quality {
    readings
        .iter()
        .map(|r| r.quality())
        .max()
        .unwrap_or(Quality::Missing)
}

/// One device's steps, written down from the documentation, step by step.
fn steps(
    all: &[(i64, Reading)],
    from: i64,
    to: i64,
    step: i64,
    over: OverTime,
) -> BTreeMap<i64, (Option<f64>, Quality)> {
    let valued: Vec<(i64, f64, Quality)> = all
        .iter()
        .filter_map(|(at, r)| Some((*at, r.value()?, r.quality())))
        .collect();
    let mut spacings: Vec<i64> = valued.windows(2).map(|w| w[1].0 - w[0].0).collect();
    spacings.sort_unstable();
    let limit = if spacings.is_empty() {
        0
    } else {
        5 * spacings[(spacings.len() - 1) / 2]
    };
    let mut result = BTreeMap::new();
    let mut begin = from;
    while begin < to {
        let end = (begin + step).min(to);
        let inside: Vec<Reading> = all
            .iter()
            .filter(|(at, _)| (begin..end).contains(at))
            .map(|(_, r)| *r)
            .collect();
        let values: Vec<f64> = inside.iter().filter_map(|r| r.value()).collect();
        let mut quality = worst(&inside).min(Quality::Estimated);
        let value = match over {
            OverTime::Increase | OverTime::Rate => {
                let pairs: Vec<_> = valued
                    .windows(2)
                    .filter(|w| (begin..end).contains(&w[1].0))
                    .collect();
                quality = pairs
                    .iter()
                    .flat_map(|w| [w[0].2, w[1].2])
                    .max()
                    .unwrap_or(Quality::Measured);
                let grown: f64 = pairs
                    .iter()
                    .map(|w| {
                        if w[1].1 < w[0].1 {
                            w[1].1
                        } else {
                            w[1].1 - w[0].1
                        }
                    })
                    .sum();
                let seconds: f64 = pairs.iter().map(|w| (w[1].0 - w[0].0) as f64 / 1e3).sum();
                (!pairs.is_empty()).then_some(if over == OverTime::Rate {
                    grown / seconds
                } else {
                    grown
                })
            }
            OverTime::Quantile(q) => {
                let mut sorted = values.clone();
                sorted.sort_by(f64::total_cmp);
                let place = q * sorted.len().saturating_sub(1) as f64;
                let (low, high) = (place.floor() as usize, place.ceil() as usize);
                (!sorted.is_empty())
                    .then(|| sorted[low] + (sorted[high] - sorted[low]) * place.fract())
            }
            OverTime::Integral => {
                let (mut sum, mut covered, mut lost) = (0.0, false, false);
                quality = Quality::Measured;
                for w in valued.windows(2) {
                    let (x, y) = (w[0].0.max(begin), w[1].0.min(begin + step));
                    if x >= y {
                        continue;
                    }
                    if w[1].0 - w[0].0 > limit {
                        lost = true;
                        continue;
                    }
                    covered = true;
                    let at = |t: i64| {
                        w[0].1 + (w[1].1 - w[0].1) * (t - w[0].0) as f64 / (w[1].0 - w[0].0) as f64
                    };
                    sum += (at(x) + at(y)) / 2.0 * (y - x) as f64 / 1e3;
                    let bridged = all
                        .iter()
                        .any(|(at, r)| *at > w[0].0 && *at < w[1].0 && r.value().is_none());
                    quality = quality.max(w[0].2).max(w[1].2).max(if bridged {
                        Quality::Estimated
                    } else {
                        Quality::Measured
                    });
                }
                if lost {
                    quality = Quality::Estimated;
                }
                if lost && !covered {
                    result.insert(begin, (None, Quality::Missing));
                }
                covered.then_some(sum)
            }
            _ if values.is_empty() => None,
            OverTime::Avg => Some(values.iter().sum::<f64>() / values.len() as f64),
            OverTime::Min => values.iter().copied().reduce(f64::min),
            OverTime::Max => values.iter().copied().reduce(f64::max),
            OverTime::Sum => Some(values.iter().sum()),
            OverTime::Count => Some(values.len() as f64),
            OverTime::Last => values.last().copied(),
        };
        if let Some(value) = value {
            result.insert(begin, (Some(value), quality));
        }
        begin += step;
    }
    result
}

fn ungrouped_labels(device: &DeviceId) -> Vec<(Label, String)> {
    let of = labels(device);
    [
        Label::Kind,
        Label::Hall,
        Label::Row,
        Label::Rack,
        Label::Node,
        Label::Device,
    ]
    .into_iter()
    .map(|l| (l, l.of(device, &of).to_owned()))
    .filter(|(_, v)| !v.is_empty())
    .collect()
}

fn points(steps: BTreeMap<i64, (Option<f64>, Quality)>) -> Vec<Point> {
    steps
        .into_iter()
        .map(|(at, (value, quality))| Point {
            at: Timestamp(at),
            value,
            quality,
        })
        .collect()
}

fn selected<'a>(model: &'a Model, select: &Selector) -> Vec<(&'a DeviceId, &'a Rows)> {
    (model.iter())
        .filter(|(d, _)| select.devices.is_empty() || select.devices.contains(d))
        .filter(|(d, _)| select.labels.iter().all(|(l, v)| l.of(d, &labels(d)) == v))
        .collect()
}

fn expected(model: &Model, query: &Query) -> Vec<Series> {
    match query {
        Query::Latest { .. } => unreachable!("compared apart"),
        Query::Range {
            metric: name,
            select,
            from,
            to,
        } => selected(model, select)
            .into_iter()
            .map(|(device, rows)| Series {
                labels: ungrouped_labels(device),
                points: column(rows, metric(name), from.0, to.0)
                    .into_iter()
                    .map(|(at, r)| Point {
                        at: Timestamp(at),
                        value: r.value(),
                        quality: r.quality(),
                    })
                    .collect(),
            })
            .filter(|s| !s.points.is_empty())
            .collect(),
        Query::Aggregate {
            metric: name,
            select,
            from,
            to,
            step_ms,
            over_time,
            across,
            group_by,
        } => {
            let of_device = |rows: &Rows| {
                steps(
                    &column(rows, metric(name), from.0, to.0),
                    from.0,
                    to.0,
                    *step_ms as i64,
                    *over_time,
                )
            };
            let Some(across) = across else {
                return selected(model, select)
                    .into_iter()
                    .map(|(d, rows)| Series {
                        labels: ungrouped_labels(d),
                        points: points(of_device(rows)),
                    })
                    .filter(|s| !s.points.is_empty())
                    .collect();
            };
            let mut groups = Groups::new();
            for (device, rows) in selected(model, select) {
                let key = group_by
                    .iter()
                    .map(|l| l.of(device, &labels(device)).to_owned())
                    .collect();
                let found = of_device(rows);
                if !found.is_empty() {
                    let group = groups.entry(key).or_default();
                    found
                        .into_iter()
                        .for_each(|(at, v)| group.entry(at).or_default().push(v));
                }
            }
            groups
                .into_iter()
                .map(|(key, steps)| Series {
                    labels: group_by.iter().copied().zip(key).collect(),
                    points: steps
                        .into_iter()
                        .map(|(at, all)| {
                            let values: Vec<f64> = all.iter().filter_map(|(v, _)| *v).collect();
                            let worst = all.iter().map(|(_, q)| *q).max().unwrap();
                            let value = match across {
                                AcrossDevices::Sum => values.iter().sum(),
                                AcrossDevices::Avg => {
                                    values.iter().sum::<f64>() / values.len() as f64
                                }
                                AcrossDevices::Min => {
                                    values.iter().copied().fold(f64::INFINITY, f64::min)
                                }
                                AcrossDevices::Max => {
                                    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
                                }
                                AcrossDevices::Count => values.len() as f64,
                                AcrossDevices::TopK(_) | AcrossDevices::BottomK(_) => {
                                    panic!("not asked here")
                                }
                            };
                            let (value, quality) = if values.is_empty() {
                                (None, Quality::Missing)
                            } else {
                                (Some(value), worst.min(Quality::Estimated))
                            };
                            Point {
                                at: Timestamp(at),
                                value,
                                quality,
                            }
                        })
                        .collect(),
                })
                .collect()
        }
    }
}

/// Equal but for rounding of sums taken in another order.
fn assert_same(found: &[Series], wanted: &[Series], query: &Query) {
    let shape = |s: &[Series]| -> Vec<_> {
        s.iter()
            .map(|s| {
                let points: Vec<_> = s
                    .points
                    .iter()
                    .map(|p| (p.at, p.quality, p.value.is_some()))
                    .collect();
                (s.labels.clone(), points)
            })
            .collect()
    };
    assert_eq!(shape(found), shape(wanted), "{query:?}");
    for (a, b) in found
        .iter()
        .flat_map(|s| &s.points)
        .zip(wanted.iter().flat_map(|s| &s.points))
    {
        if let (Some(a), Some(b)) = (a.value, b.value) {
            assert!(
                (a - b).abs() <= 1e-9 * (1.0 + b.abs()),
                "{a} is not {b}: {query:?}"
            );
        }
    }
}

const DAY: i64 = 86_400_000;
/// How far the days go on at a time; a day is kept for one more.
const AGE: i64 = 3 * DAY;

/// Sealing early, all tiers kept for a day after theirs, and instants held
/// against the clock.
fn options(seal_samples: u64) -> Options {
    let day = Duration::from_millis(DAY as u64);
    Options {
        retention: Retention {
            raw: day,
            raw_of: Vec::new(),
            minute: day,
            quarter: day,
            hour: day,
        },
        instants: Instants {
            earliest: Timestamp(-100_000),
            ahead: Duration::from_secs(2_000),
        },
        ..sealing_at(seal_samples)
    }
}

/// Frames as they would be that much later.
fn later(frames: Vec<Frame>, base: i64) -> Vec<Frame> {
    let shift = |frame: Frame| Frame {
        at: Timestamp(frame.at.0 + base),
        ..frame
    };
    frames.into_iter().map(shift).collect()
}

/// Queries of a time that begins at `base`.
fn queries(base: i64) -> Vec<Query> {
    let all = Selector::default();
    let first = &devices()[0];
    let rack = labels(first).rack;
    let selectors = [
        all.clone(),
        Selector {
            devices: vec![first.clone(), DeviceId::from("nobody")],
            labels: vec![],
        },
        Selector {
            devices: vec![],
            labels: vec![(Label::Kind, "gpu".to_owned()), (Label::Rack, rack)],
        },
    ];
    let mut queries = Vec::new();
    for (which, select) in selectors.iter().enumerate() {
        for name in METRICS {
            // The last three are such that rollups can answer, by the begin or the end of steps.
            for (place, (from, to)) in [
                (-10_000, 100_000),
                (7_000, 41_500),
                (-60_000, 41_500),
                (-900_000, 1_800_000),
                (-59_999, 1_800_001),
            ]
            .into_iter()
            .enumerate()
            {
                let (from, to) = (Timestamp(base + from), Timestamp(base + to));
                queries.push(Query::Range {
                    metric: name.to_owned(),
                    select: select.clone(),
                    from,
                    to,
                });
                for over_time in [
                    OverTime::Avg,
                    OverTime::Min,
                    OverTime::Max,
                    OverTime::Sum,
                    OverTime::Count,
                    OverTime::Last,
                    OverTime::Increase,
                    OverTime::Rate,
                    OverTime::Integral,
                    OverTime::Quantile(0.9),
                ] {
                    let across = [
                        None,
                        Some(AcrossDevices::Sum),
                        Some(AcrossDevices::Avg),
                        Some(AcrossDevices::Min),
                        Some(AcrossDevices::Max),
                        Some(AcrossDevices::Count),
                    ][queries.len() % 6];
                    let group_by = [vec![], vec![Label::Rack], vec![Label::Kind, Label::Node]]
                        [(queries.len() / 6 + which) % 3]
                        .clone();
                    queries.push(Query::Aggregate {
                        metric: name.to_owned(),
                        select: select.clone(),
                        from,
                        to,
                        step_ms: if place < 2 {
                            [1_000, 7_000, 60_000][queries.len() % 3]
                        } else {
                            [60_000, 120_000, 900_000][queries.len() % 3]
                        },
                        over_time,
                        across,
                        group_by,
                    });
                }
            }
        }
    }
    queries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn answers_like_a_plain_map(script in prop::collection::vec(step(), 1..14), seal_samples in 20u64..400) {
        let directory = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            let clock = Arc::new(SteppedClock::new(Timestamp(0)));
            let open = || {
                let clock = Arc::clone(&clock) as Arc<_>;
                EmbeddedStore::open_with(directory.path(), Arc::clone(&SITE), clock, options(seal_samples)).unwrap()
            };
            let mut store = open();
            let mut model = Model::new();
            let (mut base, mut refused) = (0, 0);
            for step in script {
                match step {
                    Step::Append(frames) => {
                        let frames = later(frames, base);
                        let (mut new, mut samples, mut doubles) = (0, 0, 0);
                        for frame in &frames {
                            let rows = model.entry(frame.device.clone()).or_default();
                            if let std::collections::btree_map::Entry::Vacant(slot) = rows.entry(frame.at.0) {
                                slot.insert(frame.readings.clone());
                                new += 1;
                                samples += frame.readings.len() as u64;
                            } else {
                                doubles += 1;
                            }
                        }
                        let receipt = store.append(frames).await.unwrap();
                        assert_eq!((receipt.frames, receipt.samples, receipt.duplicates), (new, samples, doubles));
                    }
                    Step::Seal => store.seal().await.unwrap(),
                    Step::Compact => store.compact().await.unwrap(),
                    Step::Refuse(frames, at) => {
                        let mut frames = later(frames, base);
                        // Before the first allowed, or ahead of the clock.
                        let at = if at < 0 { at } else { at + base };
                        frames.push(support::power_frame("stranger", at, 1.0));
                        refused += frames.len() as u64;
                        let error = store.append(frames).await.unwrap_err();
                        assert!(matches!(error, StoreError::BadInstant { .. }), "{error}");
                    }
                    Step::Age => {
                        base += AGE;
                        clock.advance_to(Timestamp(base));
                        let frame = support::power_frame("stranger", base, 1.0);
                        model.entry(frame.device.clone()).or_default().insert(base, frame.readings.clone());
                        store.append(vec![frame]).await.unwrap();
                        // Seals, and removes what is too old.
                        store.compact().await.unwrap();
                        for rows in model.values_mut() {
                            *rows = rows.split_off(&(base - DAY));
                        }
                        model.retain(|_, rows| !rows.is_empty());
                    }
                    Step::Reopen => {
                        assert_eq!(store.stats().refused, std::mem::take(&mut refused));
                        drop(store);
                        store = open();
                    }
                }
            }
            let stats = store.stats();
            assert_eq!(stats.damaged, 0);
            assert_eq!(stats.refused, refused);
            assert_eq!(stats.frames, model.values().map(|r| r.len() as u64).sum::<u64>());
            assert_eq!(stats.samples, model.values().flat_map(|r| r.values()).map(|r| r.len() as u64).sum::<u64>());
            for query in queries(base) {
                let found = store.query(&query).await.unwrap().series();
                assert_same(&found, &expected(&model, &query), &query);
            }
            let since = Timestamp(base + 20_000);
            let found = store.query(&Query::Latest { select: Selector::default(), since }).await.unwrap().frames();
            let wanted: Vec<(&DeviceId, i64, BTreeMap<MetricId, Reading>)> = (model.iter())
                .filter_map(|(d, rows)| Some((d, latest(rows).filter(|(at, _)| *at >= since.0)?)))
                .map(|(d, (at, readings))| (d, at, readings))
                .collect();
            let found: Vec<(&DeviceId, i64, BTreeMap<MetricId, Reading>)> =
                found.iter().map(|f| (&f.device, f.at.0, f.readings.iter().copied().collect())).collect();
            prop_assert_eq!(found, wanted);
            Ok(())
        })?;
    }
}
