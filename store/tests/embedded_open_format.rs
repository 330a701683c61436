//! Programs that share nothing with ours read what the store has written, as the
//! files lie: pyarrow (file by file and as a partitioned dataset), DuckDB and
//! Polars give back every bit, quality, unit and rollup, before and after
//! compaction.
//!
//! Needs Python with `pyarrow`, `duckdb` and `polars`: `python3` from PATH, or what
//! HELIOSTAT_PYTHON names. Skipped with a line where it is missing, unless
//! HELIOSTAT_PEERS=required.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

#[path = "../../tests/support/peers.rs"]
mod peers;
mod support;

use heliostat_models::{Catalogue, DeviceId, Frame, Reading, Timestamp};
use heliostat_store::TimeSeriesStore;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use support::{SITE, metric, open, runtime, sealing_at};

/// What reads the files in `read_back.py`.
const READERS: [&str; 4] = ["files", "dataset", "duckdb", "polars"];
const DAY_MS: i64 = 86_400_000;

fn read_back(python: &str, directory: &Path) -> Value {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/open_format/read_back.py"
    );
    let run = (Command::new(python).arg(script).arg(directory))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{error}");
    serde_json::from_slice(&run.stdout).unwrap()
}

/// Frames of two days and three kinds of device, sixty each, every seven seconds,
/// with every quality, gaps, and values that are decimals, integers and neither.
fn frames() -> Vec<Frame> {
    let mut devices: Vec<DeviceId> = (SITE.devices.iter().step_by(90).take(3))
        .map(|d| d.id.clone())
        .collect();
    devices.push(DeviceId::from("stranger"));
    let begin = 1_764_546_990_000; // three and a half minutes before a midnight
    let mut frames = Vec::new();
    for (place, device) in devices.iter().enumerate() {
        for second in 0..60i64 {
            let noise = (second * 7_919 + place as i64 * 104_729) % 1_000;
            let power = match (place, second) {
                (1, 3) => Reading::Missing,
                (1, _) => Reading::Estimated(noise as f64 * 0.5),
                (3, 4) => Reading::Measured(1.0 / 3.0),
                _ => Reading::Measured((650_000 + noise) as f64 / 1e3),
            };
            let mut readings = vec![
                (metric("gpu_power_watts"), power),
                (
                    metric("gpu_energy_joules_total"),
                    Reading::Measured((12_345_678_901 + second * 650_123) as f64 / 1e3),
                ),
                (
                    metric("gpu_memory_used_bytes"),
                    Reading::Measured(6.0e10 + noise as f64),
                ),
            ];
            if second % 3 != 0 {
                let reading = Reading::Measured((60 + second % 2) as f64);
                readings.push((metric("gpu_temperature_celsius"), reading));
            }
            if place == 0 {
                let share = Reading::Measured((noise % 100) as f64 / 100.0);
                readings.push((metric("gpu_utilization_ratio"), share));
            }
            frames.push(Frame {
                device: device.clone(),
                at: Timestamp(begin + second * 7_000),
                readings,
            });
        }
    }
    frames
}

/// Day and kind of device as the directories name them.
fn partition(device: &DeviceId, at: i64) -> (String, String) {
    let day = Timestamp(at.div_euclid(DAY_MS) * DAY_MS).to_string();
    let kind = SITE.labels(device).map_or("unknown", |labels| labels.kind);
    (day[..10].to_owned(), kind.to_owned())
}

fn bits(value: f64) -> String {
    format!("{:016x}", value.to_bits())
}

/// The frames as the script prints them.
fn expected(frames: &[Frame]) -> Value {
    let mut rows: Vec<(String, i64, Value, String, String)> = (frames.iter())
        .map(|frame| {
            let metrics: serde_json::Map<String, Value> = (frame.readings.iter())
                .map(|(id, reading)| {
                    let name = Catalogue::builtin().metric(*id).name.clone();
                    let value = reading.value().map(bits);
                    (name, json!([value, reading.quality()]))
                })
                .collect();
            let (day, kind) = partition(&frame.device, frame.at.0);
            let device = frame.device.to_string();
            (device, frame.at.0, Value::Object(metrics), day, kind)
        })
        .collect();
    rows.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    json!(rows)
}

/// Whether a frame came back. pyarrow's dataset makes doubles of a column's
/// decimals where another file needs doubles, and may err by the last bit.
fn same(found: &Value, expected: &Value, reader: &str) -> bool {
    let parsed = |value: &Value| {
        let text = value.as_str()?;
        u64::from_str_radix(text, 16).ok()
    };
    let close = |a: &Value, b: &Value| match (parsed(a), parsed(b)) {
        (Some(a), Some(b)) => a.abs_diff(b) <= u64::from(reader == "dataset"),
        _ => a == b,
    };
    let (Some(a), Some(b)) = (found[2].as_object(), expected[2].as_object()) else {
        return false;
    };
    [0, 1, 3, 4].iter().all(|i| found[*i] == expected[*i])
        && a.keys().eq(b.keys())
        && (a.iter()).all(|(name, a)| a[1] == b[name][1] && close(&a[0], &b[name][0]))
}

/// Device, begin of a step, metric.
type Place = (String, i64, String);

/// What became of a metric in a step, worked out from the frames alone.
#[derive(Clone, Debug, Default, PartialEq)]
struct Condensed {
    count: f64,
    sum: f64,
    min: f64,
    max: f64,
    last: f64,
    estimated: f64,
    missing: f64,
}

fn condensed(frames: &[Frame], step_ms: i64) -> BTreeMap<Place, Condensed> {
    let mut all: BTreeMap<Place, Condensed> = BTreeMap::new();
    for frame in frames {
        let begin = frame.at.0.div_euclid(step_ms) * step_ms;
        for (id, reading) in &frame.readings {
            let name = Catalogue::builtin().metric(*id).name.clone();
            let it = (all.entry((frame.device.to_string(), begin, name))).or_insert(Condensed {
                min: f64::INFINITY,
                max: f64::NEG_INFINITY,
                ..Condensed::default()
            });
            let Some(value) = reading.value() else {
                it.missing += 1.0;
                continue;
            };
            it.count += 1.0;
            it.sum += value;
            it.min = it.min.min(value);
            it.max = it.max.max(value);
            it.last = value;
            it.estimated += f64::from(matches!(reading, Reading::Estimated(_)));
        }
    }
    all
}

/// The rollups of a step as a reader found them; rows of one device and step are
/// laid together, as a step may lie in two files until they are compacted.
fn found(rollups: &Value, step: &str, metrics: &[&str]) -> BTreeMap<Place, Condensed> {
    let mut all: BTreeMap<Place, Condensed> = BTreeMap::new();
    for row in rollups.as_array().unwrap() {
        if row[0] != step {
            continue;
        }
        let (device, begin) = (row[1].as_str().unwrap(), row[2].as_i64().unwrap());
        let (day, kind) = partition(&DeviceId::from(device), begin);
        assert_eq!((&row[4], &row[5]), (&json!(day), &json!(kind)), "{row}");
        for metric in metrics {
            let part = |ending: &str| {
                let text = row[3][format!("{metric}{ending}")].as_str()?;
                Some(f64::from_bits(u64::from_str_radix(text, 16).unwrap()))
            };
            let (count, missing) = (part("_count").unwrap_or(0.0), part("_missing"));
            if count == 0.0 && missing.is_none() {
                continue;
            }
            let place = (device.to_owned(), begin, (*metric).to_owned());
            let it = all.entry(place).or_insert(Condensed {
                min: f64::INFINITY,
                max: f64::NEG_INFINITY,
                ..Condensed::default()
            });
            it.count += count;
            it.sum += part("_sum").unwrap_or(0.0);
            // Of a counter least and most stand only where first and last do not tell them.
            let first = || part("_edge").or_else(|| part("_first"));
            let least = part("_min").or_else(|| first().filter(|_| metric.ends_with("_total")));
            let most =
                part("_max").or_else(|| part("_last").filter(|_| metric.ends_with("_total")));
            it.min = it.min.min(least.unwrap_or(f64::INFINITY));
            it.max = it.max.max(most.unwrap_or(f64::NEG_INFINITY));
            it.last = part("_last").unwrap_or(it.last);
            it.estimated += part("_estimated").unwrap_or(0.0);
            it.missing += missing.unwrap_or(0.0);
        }
    }
    all
}

/// Holds what all readers found against the frames; how many rows of rollups there were.
fn judge(answer: &Value, frames: &[Frame], last_is_known: bool) -> usize {
    let metrics = [
        "gpu_power_watts",
        "gpu_energy_joules_total",
        "gpu_temperature_celsius",
    ];
    let expected = expected(frames);
    let mut rows = 0;
    for reader in READERS {
        let all = answer[reader]["frames"].as_array().unwrap();
        assert_eq!(all.len(), frames.len(), "{reader}");
        for (found, expected) in all.iter().zip(expected.as_array().unwrap()) {
            assert!(
                same(found, expected, reader),
                "{reader}: {found} for {expected}"
            );
        }
        let rollups = &answer[reader]["rollups"];
        rows = rollups.as_array().unwrap().len();
        for (step, step_ms) in [("1m", 60_000), ("15m", 900_000), ("1h", 3_600_000)] {
            let mut theirs = found(rollups, step, &metrics);
            let mut ours = condensed(frames, step_ms);
            ours.retain(|place, _| metrics.contains(&place.2.as_str()));
            assert!(theirs.keys().eq(ours.keys()), "{reader} {step}");
            for (place, it) in &mut theirs {
                let other = &ours[place];
                // A sum may be taken in any order.
                assert!(
                    (it.sum - other.sum).abs() <= 1e-12 * other.sum.abs(),
                    "{place:?}"
                );
                it.sum = other.sum;
                if reader == "dataset" {
                    // The last bit, as in the frames.
                    for (a, b) in [
                        (&mut it.min, other.min),
                        (&mut it.max, other.max),
                        (&mut it.last, other.last),
                    ] {
                        if a.to_bits().abs_diff(b.to_bits()) <= 1 {
                            *a = b;
                        }
                    }
                }
                if !last_is_known {
                    it.last = other.last;
                }
                assert_eq!(it, other, "{reader} {step} {place:?}");
            }
        }
    }
    rows
}

#[test]
fn pyarrow_duckdb_and_polars_read_back_every_bit_quality_unit_and_rollup() {
    let Some(python) = peers::python("pyarrow.dataset, duckdb, polars") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let frames = frames();
    let (halves, whole) = runtime().block_on(async {
        let store = open(directory.path(), sealing_at(u64::MAX));
        // Two segments a partition: files of one store need not have the same columns.
        let (early, late): (Vec<Frame>, Vec<Frame>) =
            (frames.iter().cloned()).partition(|f| f.at.0 < 1_764_547_120_000);
        for half in [early, late] {
            store.append(half).await.unwrap();
            store.seal().await.unwrap();
        }
        let halves = read_back(&python, directory.path());
        store.compact().await.unwrap();
        store.close().await;
        (halves, read_back(&python, directory.path()))
    });
    let before = judge(&halves, &frames, false);
    let after = judge(&whole, &frames, true);
    assert!(after < before, "the files of a day were brought together");
    assert_eq!(whole["columns"]["gpu_power_watts"]["unit"], "W");
    assert_eq!(
        whole["columns"]["gpu_energy_joules_total"]["kind"],
        "energy_counter"
    );
    assert_eq!(
        whole["types"]["time"],
        json!(["timestamp[ms, tz=UTC]"]),
        "instants keep their zone"
    );
    assert_eq!(whole["types"]["gpu_temperature_celsius"], json!(["double"]));
    assert_eq!(
        halves["types"]["gpu_power_watts"],
        json!(["decimal128(16, 3)", "double"]),
        "a third of a watt is no decimal, and still comes back"
    );
    let days = std::fs::read_dir(directory.path().join("segments")).unwrap();
    assert_eq!(days.count(), 2);
    let catalogue = std::fs::read_to_string(directory.path().join("catalogue.json")).unwrap();
    let catalogue: Value = serde_json::from_str(&catalogue).unwrap();
    let power = (catalogue["metrics"].as_array().unwrap().iter())
        .find(|m| m["name"] == "gpu_power_watts")
        .unwrap();
    assert_eq!(power["unit"], "W");
}
