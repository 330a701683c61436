//! What goes wrong around the engine: damage, a full disk, two openers, bad
//! questions. Each is contained and said clearly.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use heliostat_models::{DeviceId, Frame, MetricId, Reading, Timestamp};
use heliostat_store::embedded::disk::{Disk, FileSystem};
use heliostat_store::embedded::{EmbeddedStore, Options, Retention};
use heliostat_store::framed_log::FramedLog;
use heliostat_store::query::{OverTime, Selector};
use heliostat_store::{Query, StoreError, TimeSeriesStore};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::{SITE, open, power_frame, runtime, sealing_at, stored, try_open};

fn files(directory: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = support::files_below(directory);
    found.retain(|p| p.to_str().unwrap().ends_with(suffix));
    found
}

/// Changes a byte within the first chunk of a column.
fn damage_column(file: &Path, column: &str) {
    use parquet::file::metadata::ParquetMetaDataReader;
    let meta = ParquetMetaDataReader::new()
        .parse_and_finish(&std::fs::File::open(file).unwrap())
        .unwrap();
    let chunk = (meta.row_group(0).columns().iter())
        .find(|c| c.column_path().string() == column)
        .unwrap();
    let (offset, length) = chunk.byte_range();
    let mut bytes = std::fs::read(file).unwrap();
    bytes[(offset + length / 2) as usize] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

fn batch(device: &str, from: i64, count: i64) -> Vec<Frame> {
    (from..from + count)
        .map(|i| power_frame(device, i * 1_000, i as f64))
        .collect()
}

#[test]
fn a_second_opener_is_told_that_the_directory_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Options::default());
    let second = try_open(directory.path(), Options::default());
    assert!(
        matches!(second, Err(StoreError::InUse { .. })),
        "{second:?}"
    );
    let reader = EmbeddedStore::open_read_only(directory.path(), Arc::clone(&SITE));
    assert!(matches!(reader, Err(StoreError::InUse { .. })));
    runtime().block_on(store.close());
    let again = try_open(directory.path(), Options::default());
    assert!(again.is_ok());
    // The closed one answers what it knows and takes nothing more.
    runtime().block_on(async {
        assert!(matches!(
            store.append(batch("a", 0, 1)).await,
            Err(StoreError::Stopped(_))
        ));
        assert_eq!(stored(&store, "a").await, []);
    });
}

#[test]
fn reading_only_changes_nothing_and_refuses_to_write() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(directory.path(), Options::default());
        store.append(batch("a", 0, 10)).await.unwrap();
        store.seal().await.unwrap();
        store.append(batch("a", 10, 10)).await.unwrap();
        store.close().await;
    });
    let wal = files(directory.path(), ".log").pop().unwrap();
    let mut bytes = std::fs::read(&wal).unwrap();
    bytes.extend_from_slice(b"torn");
    std::fs::write(&wal, &bytes).unwrap();
    runtime().block_on(async {
        let one = EmbeddedStore::open_read_only(directory.path(), Arc::clone(&SITE)).unwrap();
        let two = EmbeddedStore::open_read_only(directory.path(), Arc::clone(&SITE)).unwrap();
        assert_eq!(stored(&one, "a").await.len(), 20);
        assert_eq!(stored(&two, "a").await.len(), 20);
        assert!(matches!(
            one.append(batch("a", 99, 1)).await,
            Err(StoreError::Stopped(_))
        ));
    });
    assert_eq!(std::fs::read(&wal).unwrap(), bytes);
}

#[test]
fn a_damaged_segment_costs_only_what_stood_in_it() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(directory.path(), Options::default());
        for part in 0..3 {
            store.append(batch("a", part * 100, 100)).await.unwrap();
            store.append(batch("b", part * 100, 100)).await.unwrap();
            store.seal().await.unwrap();
        }
        drop(store);
        let segments = files(&directory.path().join("segments"), ".parquet");
        assert_eq!(segments.len(), 3);
        // The instants in the first file, and the footer of the last.
        damage_column(&segments[0], "time");
        let mut bytes = std::fs::read(&segments[2]).unwrap();
        let end = bytes.len();
        bytes[end - 20] ^= 1;
        std::fs::write(&segments[2], bytes).unwrap();

        let store = open(directory.path(), Options::default());
        assert_eq!(store.stats().damaged, 1, "the footer is read at opening");
        assert_eq!(stored(&store, "a").await.len(), 100);
        assert_eq!(store.stats().damaged, 2, "the block is read by the query");
        assert_eq!(stored(&store, "b").await.len(), 100);
        assert_eq!(store.stats().damaged, 2, "and is counted once");
        // What was lost can be sent again, and new frames go on.
        let receipt = store.append(batch("a", 0, 350)).await.unwrap();
        assert_eq!((receipt.frames, receipt.duplicates), (250, 100));
        assert_eq!(stored(&store, "a").await.len(), 350);
    });
}

#[test]
fn a_damaged_column_costs_only_itself_and_can_be_sent_again() {
    let directory = tempfile::tempdir().unwrap();
    let temperature = |at| {
        let mut frame = power_frame("a", at, 5.0);
        let reading = Reading::Measured(60.0 + (at / 1_000) as f64);
        (frame.readings).push((support::metric("gpu_temperature_celsius"), reading));
        frame
    };
    let frames: Vec<Frame> = (0..50).map(|i| temperature(i * 1_000)).collect();
    let query = Query::Range {
        metric: "gpu_temperature_celsius".to_owned(),
        select: Selector::default(),
        from: Timestamp(0),
        to: Timestamp(100_000),
    };
    runtime().block_on(async {
        let store = open(directory.path(), Options::default());
        store.append(frames.clone()).await.unwrap();
        store.seal().await.unwrap();
        drop(store);
        let segment = files(&directory.path().join("segments"), ".parquet").remove(0);
        damage_column(&segment, "gpu_temperature_celsius");
        let store = open(directory.path(), Options::default());
        assert_eq!(stored(&store, "a").await.len(), 50);
        assert!(store.query(&query).await.unwrap().series().is_empty());
        assert_eq!(store.stats().damaged, 1);
        store.append(frames).await.unwrap();
        assert_eq!(stored(&store, "a").await.len(), 50, "nothing is doubled");
        let healed = store.query(&query).await.unwrap().series();
        assert_eq!(healed[0].points.len(), 50);
    });
}

#[test]
fn a_damaged_record_of_the_log_costs_only_itself() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(directory.path(), Options::default());
        for part in 0..3 {
            store.append(batch("a", part * 10, 10)).await.unwrap();
        }
        drop(store);
        let wal = files(directory.path(), ".log").pop().unwrap();
        let mut bytes = std::fs::read(&wal).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x40;
        std::fs::write(&wal, bytes).unwrap();
        let store = open(directory.path(), Options::default());
        assert_eq!(store.stats().damaged, 1);
        let found: Vec<i64> = stored(&store, "a")
            .await
            .iter()
            .map(|p| p.0 / 1_000)
            .collect();
        assert_eq!(found, (0..10).chain(20..30).collect::<Vec<_>>());
    });
}

/// A disk that is full while the switch is on; half a record gets through.
#[derive(Debug, Default)]
struct FullDisk {
    full: Arc<AtomicBool>,
    full_for_segments: Arc<AtomicBool>,
}

impl Disk for FullDisk {
    fn append(&self, log: &mut FramedLog, records: &[Vec<u8>]) -> io::Result<()> {
        if self.full.load(Ordering::SeqCst) {
            // As the real one: written, could not be synced, taken back.
            let before = log.length();
            log.append_all(records.iter().map(Vec::as_slice))?;
            log.rewind(before)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        FileSystem.append(log, records)
    }
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if self.full_for_segments.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        FileSystem.create(path, bytes)
    }
}

#[test]
fn a_full_disk_refuses_and_loses_nothing_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (full, full_for_segments) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let options = Options {
        disk: Arc::new(FullDisk {
            full: Arc::clone(&full),
            full_for_segments: Arc::clone(&full_for_segments),
        }),
        ..sealing_at(50)
    };
    runtime().block_on(async {
        let store = open(directory.path(), options.clone());
        store.append(batch("a", 0, 20)).await.unwrap();
        full.store(true, Ordering::SeqCst);
        let refused = store.append(batch("a", 20, 20)).await;
        assert!(
            matches!(refused, Err(StoreError::DiskFull { .. })),
            "{refused:?}"
        );
        assert!(refused.unwrap_err().to_string().contains("free some space"));
        full.store(false, Ordering::SeqCst);
        // Sealing fails: the log goes on holding everything, at first.
        full_for_segments.store(true, Ordering::SeqCst);
        for part in 1..9 {
            store.append(batch("a", part * 20, 20)).await.unwrap();
        }
        assert!(files(directory.path(), ".parquet").is_empty());
        // But not without limit: memory is bounded.
        let mut last = 9;
        while store.append(batch("a", last * 20, 20)).await.is_ok() {
            last += 1;
            assert!(last < 30, "memory grows without limit");
        }
        drop(store);
        let store = open(directory.path(), options.clone());
        assert_eq!(stored(&store, "a").await.len(), last as usize * 20);
        full_for_segments.store(false, Ordering::SeqCst);
        store.append(batch("a", last * 20, 20)).await.unwrap();
        store.seal().await.unwrap();
        assert!(!files(&directory.path().join("segments"), ".parquet").is_empty());
        drop(store);
        let store = open(directory.path(), options);
        assert_eq!(stored(&store, "a").await.len(), (last as usize + 1) * 20);
    });
}

/// A real full disk, where this process may mount one.
#[test]
fn a_full_file_system_is_reported_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=512k", "none"])
        .arg(directory.path())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|s| s.success());
    if !mounted {
        eprintln!("SKIPPED a_full_file_system_is_reported_as_such: a tmpfs cannot be mounted here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        runtime().block_on(async {
            let store = open(directory.path(), Options::default());
            let mut acknowledged = 0i64;
            let refused = loop {
                match store.append(batch("a", acknowledged * 100, 100)).await {
                    Ok(_) => acknowledged += 1,
                    Err(error) => break error,
                }
                assert!(acknowledged < 10_000, "512 KiB are never full");
            };
            assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused}");
            assert!(acknowledged > 0);
            drop(store);
            let store = open(directory.path(), Options::default());
            assert_eq!(stored(&store, "a").await.len() as i64, acknowledged * 100);
        });
    });
    let _ = std::process::Command::new("umount")
        .arg(directory.path())
        .status();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_crash_right_after_a_log_was_begun_keeps_nobody_waiting() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(directory.path(), Options::default());
        store.append(batch("a", 0, 20)).await.unwrap();
        drop(store);
        // A next log that holds nothing yet but its header.
        let log = files(directory.path(), ".log").pop().unwrap();
        let name = log.file_stem().unwrap().to_str().unwrap();
        let (stem, number) = name.split_once('-').unwrap();
        let width = number.len();
        let next = number.parse::<u64>().unwrap() + 1;
        let header = std::fs::read(&log).unwrap()[..8].to_vec();
        std::fs::write(
            log.with_file_name(format!("{stem}-{next:0width$}.log")),
            header,
        )
        .unwrap();
        let store = open(directory.path(), Options::default());
        for _ in 0..2 {
            let sealed = tokio::time::timeout(Duration::from_secs(20), store.seal()).await;
            sealed.expect("sealing ends").unwrap();
        }
        assert_eq!(stored(&store, "a").await.len(), 20);
        assert_eq!(
            files(&directory.path().join("segments"), ".parquet").len(),
            1
        );
    });
}

#[test]
fn a_crash_between_sealing_and_deleting_the_log_doubles_nothing() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(directory.path(), Options::default());
        store.append(batch("a", 0, 100)).await.unwrap();
        let wal = files(directory.path(), ".log").pop().unwrap();
        let bytes = std::fs::read(&wal).unwrap();
        store.seal().await.unwrap();
        store.append(batch("a", 100, 10)).await.unwrap();
        drop(store);
        assert!(!wal.exists());
        std::fs::write(&wal, bytes).unwrap();
        let sealed = files(&directory.path().join("segments"), ".parquet").remove(0);
        let stray = sealed.with_file_name("000099.parquet");
        std::fs::copy(&sealed, &stray).unwrap();
        std::fs::write(sealed.with_file_name("000100.tmp"), b"half").unwrap();
        let store = open(directory.path(), Options::default());
        assert_eq!(store.stats().frames, 110);
        assert_eq!(stored(&store, "a").await.len(), 110);
        assert!(!wal.exists());
        assert!(files(directory.path(), ".tmp").is_empty());
        assert!(!stray.exists(), "what no manifest names is removed");
    });
}

#[test]
fn bad_questions_and_frames_are_refused_clearly() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(directory.path(), Options::default());
        let range = |metric: &str, from, to| Query::Range {
            metric: metric.to_owned(),
            select: Selector::default(),
            from: Timestamp(from),
            to: Timestamp(to),
        };
        let unknown = store.query(&range("gpu_pwer", 0, 1)).await.unwrap_err();
        assert!(matches!(unknown, StoreError::UnknownMetric(_)));
        let empty = store
            .query(&range("gpu_power_watts", 5, 5))
            .await
            .unwrap_err();
        assert!(
            empty.to_string().contains("`from` must be before `to`"),
            "{empty}"
        );
        let frame = Frame {
            device: DeviceId::from("a"),
            at: Timestamp(0),
            readings: vec![(MetricId(9_999), Reading::Missing)],
        };
        assert!(matches!(
            store.append(vec![frame]).await,
            Err(StoreError::UnknownMetric(_))
        ));
        // An integral with a gap of years and a step of a millisecond would have too many points.
        let year = 31_536_000;
        let mut frames = batch("a", 0, 3);
        frames.push(power_frame("a", year * 1_000, 1.0));
        store.append(frames).await.unwrap();
        let query = Query::Aggregate {
            metric: "gpu_power_watts".to_owned(),
            select: Selector::default(),
            from: Timestamp(0),
            to: Timestamp(year * 2_000),
            step_ms: 1,
            over_time: OverTime::Integral,
            across: None,
            group_by: vec![],
        };
        let error = store.query(&query).await.unwrap_err();
        assert!(error.to_string().contains("longer step"), "{error}");
    });
}

#[test]
fn extreme_instants_and_values_come_back_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let frames = vec![
        power_frame("a", i64::MIN, 1.5),
        power_frame("a", -1, f64::MIN_POSITIVE),
        power_frame("a", 0, -0.0),
        power_frame("a", i64::MAX - 1, f64::MAX),
    ];
    let wanted: Vec<(i64, u64)> = (frames.iter())
        .map(|f| (f.at.0, f.readings[0].1.value().unwrap().to_bits()))
        .collect();
    runtime().block_on(async {
        let store = open(
            directory.path(),
            Options {
                retention: Retention::forever(),
                ..Options::default()
            },
        );
        store.append(frames).await.unwrap();
        for sealed in [false, true] {
            if sealed {
                store.seal().await.unwrap();
            }
            let found: Vec<(i64, u64)> = stored(&store, "a")
                .await
                .iter()
                .map(|(at, v)| (*at, v.to_bits()))
                .collect();
            assert_eq!(found, wanted);
        }
    });
}

#[test]
fn verifying_names_what_is_damaged_and_a_snapshot_is_a_store() {
    use heliostat_store::embedded::maintain::{snapshot, verify};
    let directory = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(directory.path(), Options::default());
        store.append(batch("a", 0, 100)).await.unwrap();
        store.seal().await.unwrap();
        store.append(batch("a", 100, 50)).await.unwrap();
        let refused = verify(directory.path(), &mut |_, _| ());
        assert!(
            matches!(refused, Err(StoreError::InUse { .. })),
            "{refused:?}"
        );
        store.close().await;
        let mut told = (0, 0);
        let found = verify(directory.path(), &mut |done, all| told = (done, all)).unwrap();
        assert_eq!((found.frames, found.faults), (150, Vec::<String>::new()));
        assert_eq!((told.0, told.1), (found.bytes, found.bytes));
        // The second time the directory is not empty.
        snapshot(directory.path(), copy.path(), &mut |_, _| ()).unwrap();
        assert!(snapshot(directory.path(), copy.path(), &mut |_, _| ()).is_err());
        let other = open(copy.path(), Options::default());
        assert_eq!(stored(&other, "a").await.len(), 150);
    });
    let segment = files(&directory.path().join("segments"), ".parquet").remove(0);
    damage_column(&segment, "gpu_power_watts");
    let found = verify(directory.path(), &mut |_, _| ()).unwrap();
    assert_eq!(found.faults.len(), 1);
    let fault = &found.faults[0];
    assert!(
        fault.contains("gpu_power_watts") && fault.contains("row group 0"),
        "{fault}"
    );
    assert!(fault.contains("kind=unknown/000001.parquet"), "{fault}");
}

#[test]
fn what_is_exported_can_be_imported_bit_by_bit() {
    use heliostat_store::transfer::{Carried, export, import};
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut frames = batch("a", 0, 300);
    for (place, frame) in frames.iter_mut().enumerate() {
        frame.at = Timestamp(place as i64 * 1_234_567);
        let reading = [
            Reading::Measured(1.0 / (place + 1) as f64),
            Reading::Estimated(-0.0),
            Reading::Missing,
        ][place % 3];
        (frame.readings).push((support::metric("gpu_temperature_celsius"), reading));
    }
    frames.extend(batch("with, comma", 5, 10));
    runtime().block_on(async {
        let store = open(one.path(), Options::default());
        store.append(frames).await.unwrap();
        let span = (Timestamp(0), Timestamp(1_000_000_000));
        let mut text = Vec::new();
        let carried = (export(&*store, span, &mut text, &mut |_, _| ()).await).unwrap();
        assert_eq!(carried.samples, 610);
        let other = open(two.path(), Options::default());
        for (samples, duplicates) in [(610, 0), (0, 610)] {
            let carried = import(&*other, &mut text.as_slice(), &mut |_| ()).await;
            let wanted = Carried {
                samples,
                duplicates,
            };
            assert_eq!(carried.unwrap(), wanted);
        }
        let mut again = Vec::new();
        (export(&*other, span, &mut again, &mut |_, _| ()).await).unwrap();
        assert_eq!(text, again);
        let bad = b"a,2026-01-01T00:00:00Z,gpu_power_watts,much,measured\n";
        let refused = import(&*other, &mut bad.as_slice(), &mut |_| ()).await;
        assert!(refused.unwrap_err().to_string().contains("line 1"));
    });
}
