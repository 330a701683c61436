//! A child process appends and says what was acknowledged; it is killed with
//! SIGKILL at random moments, while rows are sealed, files compacted and old days
//! removed. Nothing acknowledged may be lost, nothing doubled: not in the frames
//! themselves, nor in what rollups say of days whose frames retention has removed.
//!
//! `HELIOSTAT_KILL_ROUNDS` sets the number of rounds (20 without it).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use heliostat_models::{DeviceId, Timestamp};
use heliostat_store::embedded::{EmbeddedStore, Options, Retention};
use heliostat_store::instants::Instants;
use heliostat_store::query::{OverTime, Selector};
use heliostat_store::{Query, StoreError, TimeSeriesStore};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::{open, power_frame, runtime, sealing_at, stored};

const CHILD: &str = "HELIOSTAT_KILL_CHILD";
const WRITERS: i64 = 4;
/// Begin of days that are over; one frame a minute, so that each has a step of its own.
const OLD: i64 = -100 * 86_400_000;

/// Small, so that the kill often comes while a segment is made. Frames of days
/// that are over go as soon as the keeper sees them, their rollups stay.
fn options() -> Options {
    Options {
        retention: Retention {
            raw: Duration::from_secs(86_400),
            ..Retention::forever()
        },
        // The clock stands at 0; what is said to be from before the old days is refused.
        instants: Instants {
            earliest: Timestamp(OLD),
            ahead: Duration::MAX,
        },
        ..sealing_at(300)
    }
}

/// How many frames of the old days there are, by frames and rollups together.
async fn old_frames(store: &EmbeddedStore) -> i64 {
    let query = Query::Aggregate {
        metric: "gpu_power_watts".to_owned(),
        select: Selector {
            devices: vec![DeviceId::from("old")],
            labels: vec![],
        },
        from: Timestamp(OLD),
        to: Timestamp(0),
        step_ms: 60_000,
        over_time: OverTime::Count,
        across: None,
        group_by: vec![],
    };
    let series = store.query(&query).await.unwrap().series();
    let points = series.iter().flat_map(|s| &s.points);
    points.map(|p| p.value.unwrap() as i64).sum()
}

/// Sends old frames over and over, those of the last call again.
async fn send_old(store: &EmbeddedStore, next: i64) -> i64 {
    let from = (next - 3).max(0);
    let frames = (from..next + 2)
        .map(|i| power_frame("old", OLD + i * 60_000, 1.0))
        .collect();
    store.append(frames).await.unwrap();
    let impossible = power_frame("old", OLD - 1, 1.0);
    let refused = store.append(vec![impossible]).await;
    assert!(matches!(refused, Err(StoreError::BadInstant { .. })));
    next + 2
}

/// Not a test of its own: what the child process runs.
#[test]
fn child() {
    let Ok(directory) = std::env::var(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open(Path::new(&directory), options());
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = Arc::clone(&store);
                tokio::spawn(async move {
                    let device = format!("w{writer}");
                    let mut next = stored(&store, &device).await.len() as i64;
                    let mut old = old_frames(&store).await;
                    // Until the kill.
                    while next < i64::MAX {
                        // A batch overlaps the one before, as after a lost acknowledgement.
                        let from = (next - 2).max(0);
                        let frames = (from..next + 5)
                            .map(|i| power_frame(&device, i * 1_000, i as f64))
                            .collect();
                        store.append(frames).await.unwrap();
                        next += 5;
                        if writer == 0 {
                            old = send_old(&store, old).await;
                        }
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "ack {writer} {next}").unwrap();
                        if writer == 0 {
                            writeln!(out, "ack {WRITERS} {old}").unwrap();
                        }
                        out.flush().unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

#[test]
fn no_acknowledged_frame_is_lost_or_doubled_by_kill_9() {
    let rounds: u32 = std::env::var("HELIOSTAT_KILL_ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(20);
    let directory = tempfile::tempdir().unwrap();
    let mut acknowledged = [0i64; WRITERS as usize + 1];
    let mut random = 0x9e37_79b9_u32;
    let mut segments = 0;
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            // The last line may be cut by the kill.
            out.lines()
                .map_while(Result::ok)
                .filter(|l| l.starts_with("ack "))
                .collect::<Vec<_>>()
        });
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(Duration::from_millis(u64::from(60 + random % 240)));
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reader.join().unwrap() {
            let words: Vec<&str> = line.split(' ').collect();
            if let [_, writer, count] = words[..]
                && let (Ok(writer), Ok(count)) = (writer.parse::<usize>(), count.parse::<i64>())
            {
                acknowledged[writer] = acknowledged[writer].max(count);
            }
        }
        runtime().block_on(async {
            let store = open(directory.path(), options());
            // What is over goes now, so that it can be counted what is left.
            store.compact().await.unwrap();
            let (old, of_writers) = acknowledged.split_last_mut().unwrap();
            let found = old_frames(&store).await;
            // Acknowledged, or on its way when the kill came.
            assert!(
                (*old..=*old + 2).contains(&found),
                "round {round}: {found} old frames of {old}"
            );
            // What has been seen is there to stay, acknowledged or not; else what
            // was on its way in several short rounds would add up.
            *old = found;
            assert_eq!(stored(&store, "old").await, [], "round {round}");
            let mut frames = 0;
            for (writer, acknowledged) in of_writers.iter_mut().enumerate() {
                let found = stored(&store, &format!("w{writer}")).await;
                frames += found.len() as u64;
                assert!(
                    found.len() as i64 >= *acknowledged,
                    "round {round}: writer {writer} lost frames: {} of {acknowledged}",
                    found.len()
                );
                for (place, (at, value)) in found.iter().enumerate() {
                    assert_eq!(
                        (*at, *value),
                        (place as i64 * 1_000, place as f64),
                        "round {round}: writer {writer}"
                    );
                }
                *acknowledged = found.len() as i64;
            }
            assert_eq!(
                store.stats().frames,
                frames,
                "round {round}: frames are doubled"
            );
        });
        segments = support::files_below(&directory.path().join("segments")).len();
    }
    assert!(
        acknowledged.iter().sum::<i64>() > 0,
        "the child never acknowledged anything"
    );
    assert!(segments > 0, "nothing was ever sealed");
}
