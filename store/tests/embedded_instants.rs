//! What becomes of frames by their instants: refused, late, out of order, parts
//! of one instant, sent again after their day is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use heliostat_models::{Catalogue, DeviceId, Frame, MetricId, Reading, Timestamp};
use heliostat_store::embedded::{EmbeddedStore, Options, Retention};
use heliostat_store::query::{OverTime, Selector};
use heliostat_store::{Query, SteppedClock, StoreError, TimeSeriesStore};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use support::{SITE, metric, open, power_frame, runtime, sealing_at, stored};

/// 2027-01-15T08:00:00Z.
const NOW: i64 = 1_800_000_000_000;
const DAY: i64 = 86_400_000;

fn open_at(directory: &Path, now: i64, options: Options) -> Arc<EmbeddedStore> {
    let clock = Arc::new(SteppedClock::new(Timestamp(now)));
    EmbeddedStore::open_with(directory, Arc::clone(&SITE), clock, options).unwrap()
}

#[test]
fn instants_that_cannot_be_are_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open_at(directory.path(), NOW, Options::default());
        for at in [5_000, NOW + 601_000, i64::MIN, i64::MAX] {
            let frames = vec![power_frame("a", NOW, 1.0), power_frame("b", at, 1.0)];
            let error = store.append(frames).await.unwrap_err();
            assert!(matches!(error, StoreError::BadInstant { .. }), "{error}");
            let text = error.to_string();
            for part in ["`b`", "2000-01-01T00:00:00Z", "2027-01-15T08:10:00Z"] {
                assert!(text.contains(part), "{text}");
            }
        }
        assert!(
            store
                .append(vec![power_frame("a", NOW + 600_000, 1.0)])
                .await
                .is_ok()
        );
        let stats = store.stats();
        assert_eq!((stats.frames, stats.refused), (1, 8));
    });
}

#[test]
fn late_double_and_disordered_frames_are_counted_apart() {
    let directory = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open(directory.path(), Options::default());
        let frames = |seconds: &[i64]| -> Vec<Frame> {
            let frame = |s: &i64| power_frame("a", s * 1_000, *s as f64);
            seconds.iter().map(frame).collect()
        };
        store.append(frames(&[10, 20])).await.unwrap();
        // 15 is late; 25 comes after 30, with it; 20 and 30 are doubles.
        let receipt = store.append(frames(&[15, 30, 25, 20, 30])).await.unwrap();
        assert_eq!((receipt.frames, receipt.duplicates), (3, 2));
        store.seal().await.unwrap();
        store.append(frames(&[12, 15])).await.unwrap();
        let stats = store.stats();
        assert_eq!(
            (stats.late, stats.out_of_order, stats.duplicates),
            (2, 1, 3)
        );
        let times: Vec<i64> = stored(&store, "a")
            .await
            .iter()
            .map(|p| p.0 / 1_000)
            .collect();
        assert_eq!(times, [10, 12, 15, 20, 25, 30]);
    });
}

#[test]
fn parts_of_one_instant_are_one_latest_frame() {
    let directory = tempfile::tempdir().unwrap();
    let part = |at, metric: MetricId, value| Frame {
        device: DeviceId::from("a"),
        at: Timestamp(at),
        readings: vec![(metric, Reading::Measured(value))],
    };
    let (power, heat) = (Catalogue::gpu_power(), metric("gpu_temperature_celsius"));
    let latest = async |store: &EmbeddedStore| {
        let query = Query::Latest {
            select: Selector::default(),
            since: Timestamp(0),
        };
        let frame = store.query(&query).await.unwrap().frames().remove(0);
        (frame.at.0, frame.get(power), frame.get(heat))
    };
    let measured = |value| Some(Reading::Measured(value));
    runtime().block_on(async {
        let store = open(directory.path(), sealing_at(1_000));
        store
            .append(vec![part(1_000, power, 1.0), part(1_001, heat, 50.0)])
            .await
            .unwrap();
        assert_eq!(latest(&store).await, (1_001, measured(1.0), measured(50.0)));
        // The first part is sealed, the others are not; one comes late.
        store.append(vec![part(2_000, power, 2.0)]).await.unwrap();
        assert_eq!(latest(&store).await, (2_000, measured(2.0), None));
        store.seal().await.unwrap();
        store
            .append(vec![part(2_007, heat, 60.0), part(2_003, power, 3.0)])
            .await
            .unwrap();
        assert_eq!(latest(&store).await, (2_007, measured(3.0), measured(60.0)));
        store.seal().await.unwrap();
        assert_eq!(latest(&store).await, (2_007, measured(3.0), measured(60.0)));
        drop(store);
        let store = open(directory.path(), sealing_at(1_000));
        assert_eq!(latest(&store).await, (2_007, measured(3.0), measured(60.0)));
        // Eight milliseconds on it is another instant.
        store.append(vec![part(2_015, power, 4.0)]).await.unwrap();
        assert_eq!(latest(&store).await, (2_015, measured(4.0), None));
    });
}

#[test]
fn a_frame_sent_again_after_its_raw_day_is_gone_is_not_counted_twice() {
    let directory = tempfile::tempdir().unwrap();
    let options = || Options {
        retention: Retention {
            raw: Duration::from_secs(86_400),
            ..Retention::forever()
        },
        ..sealing_at(1_000_000)
    };
    let begin = NOW - NOW % DAY - 5 * DAY;
    let old = || -> Vec<Frame> {
        (0..300)
            .map(|i| power_frame("a", begin + i * 1_000, 100.0))
            .collect()
    };
    let count = async |store: &EmbeddedStore| {
        let query = Query::Aggregate {
            metric: "gpu_power_watts".to_owned(),
            select: Selector::default(),
            from: Timestamp(begin),
            to: Timestamp(begin + 3_600_000),
            step_ms: 3_600_000,
            over_time: OverTime::Count,
            across: None,
            group_by: Vec::new(),
        };
        let series = store.query(&query).await.unwrap().series();
        series[0].points[0].value
    };
    runtime().block_on(async {
        let store = open_at(directory.path(), NOW, options());
        store.append(old()).await.unwrap();
        store
            .append(vec![power_frame("b", NOW, 1.0)])
            .await
            .unwrap();
        store.compact().await.unwrap();
        assert_eq!(stored(&store, "a").await, [], "the raw day is gone");
        assert_eq!(count(&store).await, Some(300.0));
        // Opened when nothing but rollups is left of the device.
        store.close().await;
        let store = open_at(directory.path(), NOW, options());
        for reopened in [false, true] {
            let store = if reopened {
                store.close().await;
                open_at(directory.path(), NOW, options())
            } else {
                Arc::clone(&store)
            };
            let receipt = store.append(old()).await.unwrap();
            assert_eq!((receipt.frames, receipt.duplicates), (0, 300));
            store.compact().await.unwrap();
            assert_eq!(count(&store).await, Some(300.0));
            // Of a time of which nothing was known a late frame is taken.
            let at = begin + 7_200_000 + i64::from(reopened) * 60_000;
            let receipt = store.append(vec![power_frame("a", at, 1.0)]).await.unwrap();
            assert_eq!((receipt.frames, receipt.duplicates), (1, 0));
            store.close().await;
            if !reopened {
                let again = open_at(directory.path(), NOW, options());
                again.close().await;
            }
        }
    });
}
