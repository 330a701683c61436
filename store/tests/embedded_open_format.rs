//! Programs that share nothing with ours read what the store has written:
//! pyarrow and DuckDB give back every bit, quality and unit.
//!
//! Needs Python with `pyarrow` and `duckdb`: `python3` from PATH, or what
//! HELIOSTAT_PYTHON names. Skipped with a line where it is missing, unless
//! HELIOSTAT_PEERS=required.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

mod support;

use heliostat_models::{Catalogue, DeviceId, Frame, Reading, Timestamp};
use heliostat_store::TimeSeriesStore;
use heliostat_store::embedded::Options;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use support::{SITE, metric, open, runtime};

fn python() -> String {
    std::env::var("HELIOSTAT_PYTHON").unwrap_or_else(|_| "python3".into())
}

fn readers_are_there() -> bool {
    let there = Command::new(python())
        .args(["-c", "import pyarrow.parquet, duckdb"])
        .output()
        .is_ok_and(|o| o.status.success());
    if !there {
        let required = std::env::var("HELIOSTAT_PEERS").is_ok_and(|v| v == "required");
        assert!(
            !required,
            "HELIOSTAT_PEERS=required, but `{} -c 'import pyarrow, duckdb'` fails; pip install pyarrow duckdb",
            python()
        );
        eprintln!(
            "SKIPPED: pyarrow and DuckDB do not read the store here; pip install pyarrow duckdb, or set HELIOSTAT_PYTHON"
        );
    }
    there
}

fn read_back(directory: &Path) -> Value {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/open_format/read_back.py"
    );
    let run = (Command::new(python()).arg(script).arg(directory))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{error}");
    serde_json::from_slice(&run.stdout).unwrap()
}

/// Frames of two days and three kinds of device, with every quality, gaps, and
/// values that are decimals, integers and neither.
fn frames() -> Vec<Frame> {
    let mut devices: Vec<DeviceId> = (SITE.devices.iter().step_by(90).take(3))
        .map(|d| d.id.clone())
        .collect();
    devices.push(DeviceId::from("stranger"));
    let begin = 1_764_547_190_000; // ten seconds before a midnight
    let mut frames = Vec::new();
    for (place, device) in devices.iter().enumerate() {
        for second in 0..20i64 {
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
                at: Timestamp(begin + second * 1_000),
                readings,
            });
        }
    }
    frames
}

/// The frames as the script prints them.
fn expected(frames: &[Frame]) -> Value {
    let mut rows: Vec<(String, i64, Value)> = (frames.iter())
        .map(|frame| {
            let metrics: serde_json::Map<String, Value> = (frame.readings.iter())
                .map(|(id, reading)| {
                    let bits = (reading.value()).map(|v| format!("{:016x}", v.to_bits()));
                    let name = Catalogue::builtin().metric(*id).name.clone();
                    (name, json!([bits, reading.quality()]))
                })
                .collect();
            (frame.device.to_string(), frame.at.0, Value::Object(metrics))
        })
        .collect();
    rows.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
    json!(rows)
}

#[test]
fn pyarrow_and_duckdb_read_back_every_bit_quality_and_unit() {
    if !readers_are_there() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let frames = frames();
    runtime().block_on(async {
        let store = open(directory.path(), Options::default());
        // Two segments a partition: files of one store need not have the same columns.
        for half in frames.chunks(frames.len() / 2) {
            store.append(half.to_vec()).await.unwrap();
            store.seal().await.unwrap();
        }
    });
    let found = read_back(directory.path());
    let expected = expected(&frames);
    assert_eq!(found["pyarrow"], expected);
    assert_eq!(found["duckdb"], expected);
    assert_eq!(found["columns"]["gpu_power_watts"]["unit"], "W");
    assert_eq!(
        found["columns"]["gpu_energy_joules_total"]["kind"],
        "energy_counter"
    );
    assert_eq!(
        found["types"]["time"],
        json!(["timestamp[ms, tz=UTC]"]),
        "instants keep their zone"
    );
    assert_eq!(found["types"]["gpu_temperature_celsius"], json!(["double"]));
    assert_eq!(
        found["types"]["gpu_power_watts"],
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
