//! What must hold of any bytes that reach the store from outside: a damaged log
//! and somebody's PromQL. The fuzz targets in `fuzz/` run these for long, the
//! tests here with seeded damage for a moment. Not part of the program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a broken property stops the run"
)]

use crate::embedded::{EmbeddedStore, wal_record_survives};
use crate::framed_log;
use crate::promql::{Engine, Instants, Limits, Value};
use crate::query::TimeSeriesStore;
use heliostat_models::site::config;
use heliostat_models::{Catalogue, Frame, Reading, Timestamp};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A log of whatever bytes: every record that is found is found again in a log
/// that holds them alone, and what is read of it is read again when written.
pub fn log_recovery(bytes: &[u8]) {
    let found = framed_log::records_of(bytes);
    let again = framed_log::records_of(&framed_log::log_of(&found));
    assert_eq!(found, again, "records found once are found again");
    for record in &found {
        wal_record_survives(record);
    }
    // And a record as it would stand without its checksum, which noise never gets right.
    wal_record_survives(bytes);
}

/// A small store to ask.
pub struct Bed {
    runtime: tokio::runtime::Runtime,
    engine: Engine,
}

/// The instant about which the bed has readings.
const NOW: i64 = 1_700_000_000_000;

impl Bed {
    /// In an empty directory.
    pub fn new(directory: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let loaded = config::load("demo.toml", config::builtin_demo(), Default::default());
        let site = Arc::new(loaded.site.expect("the demo's site is sound"));
        let clock = Arc::new(crate::SteppedClock::new(Timestamp(NOW)));
        let store = EmbeddedStore::open(directory, Arc::clone(&site), clock).expect("a store");
        let mut frames = Vec::new();
        for step in 0..40 {
            for (place, device) in site.devices.iter().take(4).enumerate() {
                let watts = match (place, step) {
                    (1, 20..30) => Reading::Missing,
                    _ => Reading::Measured(100.0 * place as f64 + f64::from(step)),
                };
                frames.push(Frame {
                    device: device.id.clone(),
                    at: Timestamp(NOW - 15_000 * i64::from(step)),
                    readings: vec![
                        (Catalogue::gpu_power(), watts),
                        (
                            Catalogue::gpu_energy(),
                            Reading::Measured(1e6 - 1e3 * f64::from(step % 17)),
                        ),
                    ],
                });
            }
            frames.push(Frame {
                device: r#"node_load1{instance="r01-n1:9100"}"#.into(),
                at: Timestamp(NOW - 15_000 * i64::from(step)),
                readings: vec![(
                    Catalogue::unknown_value(),
                    Reading::Measured(f64::from(step)),
                )],
            });
        }
        runtime
            .block_on(store.append(frames))
            .expect("the frames are stored");
        let mut engine = Engine::new(store, site);
        engine.limits = Limits {
            series: 200,
            samples: 20_000,
            steps: 200,
        };
        Self { runtime, engine }
    }

    /// Any text is answered or refused; and a vector is the same at one instant and
    /// over a range of one instant. Whether it was answered.
    pub fn promql(&self, text: &str) -> bool {
        let at = Timestamp(NOW);
        let ask = |instants| self.runtime.block_on(self.engine.query(text, instants));
        let once = ask(Instants::At(at));
        let over = ask(Instants::Range {
            start: at,
            end: at,
            step: Duration::from_secs(1),
        });
        let long = ask(Instants::Range {
            start: Timestamp(NOW - 600_000),
            end: at,
            step: Duration::from_secs(60),
        });
        if let (Ok(Value::Vector(once)), Ok(Value::Matrix(over))) = (&once, &over) {
            let listed = |all: &[crate::promql::ResultSeries]| {
                let mut all: Vec<_> = (all.iter())
                    .map(|s| (s.labels.clone(), s.points.last().map(|(_, v)| bits(*v))))
                    .collect();
                all.sort();
                all
            };
            assert_eq!(listed(once), listed(over), "{text}");
        }
        once.is_ok() || over.is_ok() || long.is_ok()
    }
}

/// All that is no number is alike.
fn bits(value: f64) -> u64 {
    if value.is_nan() {
        f64::NAN.to_bits()
    } else {
        value.to_bits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;

    /// Changes, cuts, doubles and mixes.
    fn damage(bytes: &mut Vec<u8>, rng: &mut Rng, spice: &[u8]) {
        for _ in 0..rng.usize(0..4) {
            let place = rng.usize(0..=bytes.len());
            match (rng.u8(0..5), bytes.get(place)) {
                (0, Some(byte)) => bytes[place] = byte ^ (1 << rng.u8(0..8)),
                (1, _) => bytes.truncate(place),
                (2, Some(_)) => drop(bytes.remove(place)),
                (3, _) => {
                    let piece = bytes[place..].to_vec();
                    bytes.extend(piece);
                }
                _ => bytes.insert(place, *rng.choice(spice).expect("some")),
            }
        }
    }

    #[test]
    fn damaged_logs_are_recovered_to_what_they_hold() {
        let mut rng = Rng::with_seed(1);
        let frames = |n: usize| -> Vec<Frame> {
            (0..n)
                .map(|i| Frame {
                    device: format!("d{}", i % 3).into(),
                    at: Timestamp(i as i64 * 1_000),
                    readings: vec![(Catalogue::gpu_power(), Reading::Measured(i as f64))],
                })
                .collect()
        };
        for case in 0..3_000 {
            let records = crate::embedded::wal_records(&frames(case % 5));
            log_recovery(records.first().map_or(&[], Vec::as_slice));
            let mut log = framed_log::log_of(&records);
            damage(&mut log, &mut rng, &[0, 1, 0x7f, 0x80, 0xff]);
            log_recovery(&log);
            // Past the checksums.
            for mut record in records {
                damage(&mut record, &mut rng, &[0, 1, 0x7f, 0x80, 0xff]);
                log_recovery(&record);
            }
        }
    }

    #[test]
    fn damaged_queries_are_answered_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        let bed = Bed::new(directory.path());
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/promql");
        let mut seeds: Vec<String> = (std::fs::read_dir(folder).unwrap())
            .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
            .collect();
        seeds.sort();
        assert!(!seeds.is_empty());
        for seed in &seeds {
            assert!(bed.promql(seed), "{seed}");
        }
        let mut rng = Rng::with_seed(1);
        let mut answered = 0;
        for _ in 0..600 {
            let mut text = rng.choice(&seeds).expect("some").as_bytes().to_vec();
            damage(&mut text, &mut rng, b"(){}[]\"'=~!<>+-*/%^,:@5mse.NaInf _#");
            if let Ok(text) = str::from_utf8(&text) {
                answered += u32::from(bed.promql(text));
            }
        }
        assert!(answered > 100, "{answered} answered");
    }
}
