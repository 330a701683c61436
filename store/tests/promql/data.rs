//! Samples for tests, into the embedded store or as text for other stores.

use crate::support::{SITE, metric, open, sealing_at};
use heliostat_models::{DeviceId, Frame, Reading, Timestamp};
use heliostat_store::TimeSeriesStore;
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::promql::{Engine, Instants, Labels, PromqlError, Value};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// 2019-03-01, midnight UTC, milliseconds.
pub const T0: i64 = 1_551_398_400_000;

/// One sample; without a value the reading is known to be missing.
#[derive(Clone, Debug)]
pub struct Sample {
    pub metric: &'static str,
    pub device: String,
    /// Milliseconds since 1970.
    pub at: i64,
    pub value: Option<f64>,
}

/// Samples of one series, seconds after [`T0`].
pub fn series(metric: &'static str, device: &str, points: &[(f64, Option<f64>)]) -> Vec<Sample> {
    (points.iter())
        .map(|(seconds, value)| Sample {
            metric,
            device: device.to_owned(),
            at: T0 + (seconds * 1_000.0) as i64,
            value: *value,
        })
        .collect()
}

/// A store with these samples, a part of them sealed.
pub async fn stored(directory: &std::path::Path, samples: &[Sample]) -> Arc<EmbeddedStore> {
    let store = open(directory, sealing_at((samples.len() as u64 / 3).max(2)));
    let mut frames: BTreeMap<(i64, &str), Frame> = BTreeMap::new();
    for sample in samples {
        let frame = (frames.entry((sample.at, &sample.device))).or_insert_with(|| Frame {
            device: DeviceId::from(sample.device.as_str()),
            at: Timestamp(sample.at),
            readings: Vec::new(),
        });
        let reading = sample.value.map_or(Reading::Missing, Reading::Measured);
        frame.readings.push((metric(sample.metric), reading));
    }
    let frames: Vec<Frame> = frames.into_values().collect();
    for some in frames.chunks(500) {
        store.append(some.to_vec()).await.unwrap();
    }
    store
}

/// The engine over a store.
pub fn engine(store: &Arc<EmbeddedStore>) -> Engine {
    Engine::new(store.clone(), SITE.clone())
}

/// Evaluated once, seconds after [`T0`].
pub async fn at(engine: &Engine, query: &str, seconds: f64) -> Result<Value, PromqlError> {
    let at = Timestamp(T0 + (seconds * 1_000.0) as i64);
    engine.query(query, Instants::At(at)).await
}

/// Label values of `label` and values of an instant vector.
pub async fn by(engine: &Engine, query: &str, seconds: f64, label: &str) -> Vec<(String, f64)> {
    match at(engine, query, seconds).await.unwrap() {
        Value::Vector(all) => (all.iter())
            .map(|s| (s.labels.get(label).to_owned(), s.points[0].1))
            .collect(),
        other => panic!("{query}: {other:?}"),
    }
}

/// The only value of a vector or a scalar; none where there is no series.
pub async fn one(engine: &Engine, query: &str, seconds: f64) -> Option<f64> {
    match at(engine, query, seconds).await.unwrap() {
        Value::Scalar(_, value) => Some(value),
        Value::Vector(all) => {
            assert!(all.len() <= 1, "{query}: {all:?}");
            all.first().map(|s| s.points[0].1)
        }
        other => panic!("{query}: {other:?}"),
    }
}

/// The labels that a series must have, from the site.
pub fn labels(sample: &Sample) -> Labels {
    let known = SITE
        .labels(&DeviceId::from(sample.device.as_str()))
        .unwrap();
    Labels::of([
        ("__name__", sample.metric),
        ("device", &sample.device),
        ("kind", known.kind),
        ("hall", &known.hall),
        ("row", &known.row),
        ("rack", &known.rack),
        ("node", &known.node),
        ("site", SITE.id.as_str()),
    ])
}

/// In the text format, times in seconds (OpenMetrics) or milliseconds.
pub fn text(samples: &[Sample], milliseconds: bool) -> String {
    let mut out = String::new();
    for sample in samples {
        let Some(value) = sample.value else { continue };
        let labels = labels(sample);
        let list: Vec<String> = (labels.iter())
            .filter(|(n, _)| *n != "__name__")
            .map(|(n, v)| format!("{n}=\"{v}\""))
            .collect();
        let _ = write!(out, "{}{{{}}} {value} ", sample.metric, list.join(","));
        let _ = if milliseconds {
            writeln!(out, "{}", sample.at)
        } else {
            writeln!(out, "{}.{:03}", sample.at / 1_000, sample.at % 1_000)
        };
    }
    out
}

/// Two hours of four GPUs and two nodes: jitter, a gap of seven minutes, counters that restart.
pub fn hall() -> Vec<Sample> {
    let mut state = 42_u64;
    let mut random = move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1_u64 << 31) as f64
    };
    let mut all = Vec::new();
    let gpus = ["r01-n1-gpu0", "r01-n1-gpu1", "r01-n2-gpu0", "r02-n1-gpu0"];
    for (index, device) in gpus.iter().enumerate() {
        let mut energy: f64 = 1_000.0 * index as f64;
        for step in 0..480_i64 {
            // The second GPU is silent for seven minutes, the last one begins late and ends early.
            if (index == 1 && (100..128).contains(&step))
                || (index == 3 && !(40..400).contains(&step))
            {
                continue;
            }
            // Two GPUs are read exactly on time, two nearly.
            let jitter = if index % 2 == 0 {
                0
            } else {
                (random() * 900.0) as i64
            };
            let watts =
                (300.0 + 200.0 * (step as f64 / 40.0 + index as f64).sin() + 30.0 * random())
                    .round();
            energy += watts * 15.0;
            if index == 2 && step % 150 == 149 {
                energy = 0.0;
            }
            let at = T0 + step * 15_000 + jitter;
            for (metric, value) in [
                ("gpu_power_watts", watts),
                ("gpu_energy_joules_total", energy),
                ("gpu_temperature_celsius", 30.0 + (watts / 20.0).round()),
                (
                    "gpu_utilization_ratio",
                    if watts > 350.0 { 1.0 } else { 0.25 },
                ),
            ] {
                let (device, value) = ((*device).to_owned(), Some(value));
                all.push(Sample {
                    metric,
                    device,
                    at,
                    value,
                });
            }
        }
    }
    for (index, device) in ["r01-n1", "r02-n1"].iter().enumerate() {
        for step in 0..120_i64 {
            let value =
                Some((1_500.0 + 400.0 * (step as f64 / 9.0).sin() + 50.0 * random()).round());
            let (device, at) = (
                (*device).to_owned(),
                T0 + step * 60_000 + index as i64 * 500,
            );
            all.push(Sample {
                metric: "node_power_watts",
                device,
                at,
                value,
            });
        }
    }
    all
}
