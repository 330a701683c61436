//! VictoriaMetrics is killed in between: nothing acknowledged is lost, nothing
//! is doubled, and what is answered meanwhile says that it is partial.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod remote_support;

use heliostat_models::{Catalogue, DeviceId, Frame, Reading, Site, Timestamp};
use heliostat_store::conformance;
use heliostat_store::query::Selector;
use heliostat_store::{Clock, Query, RemoteStore, TimeSeriesStore, WallClock};
use remote_support::{VictoriaProcess, open_victoria, run_name};
use std::time::Duration;

/// A frame of every device at an instant; values that no other frame has.
fn frames(site: &Site, at: i64) -> Vec<Frame> {
    (site.devices.iter().enumerate())
        .map(|(place, device)| Frame {
            device: device.id.clone(),
            at: Timestamp(at),
            readings: vec![
                (
                    Catalogue::gpu_power(),
                    Reading::Measured(100.0 * place as f64 + (at / 1_000 % 90) as f64),
                ),
                (Catalogue::gpu_temperature(), Reading::Missing),
                (
                    Catalogue::gpu_sm_clock(),
                    Reading::Estimated(1_000_000.0 + (at % 1_000) as f64),
                ),
            ],
        })
        .collect()
}

/// Every frame in `[from, to)` as it was written, once; through one metric's readings.
async fn whole(store: &RemoteStore, site: &Site, from: i64, to: i64, partial: bool) {
    for (metric, id) in [
        ("gpu_power_watts", Catalogue::gpu_power()),
        ("gpu_temperature_celsius", Catalogue::gpu_temperature()),
        ("gpu_sm_clock_hertz", Catalogue::gpu_sm_clock()),
    ] {
        let devices: Vec<DeviceId> = site.devices.iter().map(|d| d.id.clone()).collect();
        let query = Query::Range {
            metric: metric.to_owned(),
            select: Selector {
                devices,
                labels: vec![],
            },
            from: Timestamp(from),
            to: Timestamp(to),
        };
        let told = store.ask(&query).await.unwrap();
        assert_eq!(told.partial.is_some(), partial, "{:?}", told.partial);
        let series = told.answer.series();
        assert_eq!(series.len(), site.devices.len(), "{metric}");
        for (place, series) in series.iter().enumerate() {
            let got: Vec<_> = (series.points.iter())
                .map(|p| (p.at.0, p.value, p.quality))
                .collect();
            let expected: Vec<_> = (from..to)
                .step_by(1_000)
                .map(|at| {
                    let reading = frames(site, at)[place].get(id).unwrap();
                    (at, reading.value(), reading.quality())
                })
                .collect();
            assert_eq!(got, expected, "{metric} of {:?}", series.labels);
        }
    }
}

/// How many values VictoriaMetrics itself holds of a run's series, counted raw.
fn raw_values(url: &str, run: &str, name: &str) -> usize {
    let text = ureq::post(format!("{url}/api/v1/export"))
        .send_form([(
            "match[]",
            format!("{{__name__=\"{name}\",rack=~\"rack-{run}-.*\"}}"),
        )])
        .unwrap()
        .body_mut()
        .read_to_string()
        .unwrap();
    (text.lines())
        .map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["values"].as_array().unwrap().len()
        })
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_in_between_nothing_is_lost_or_doubled() {
    let directory = tempfile::tempdir().unwrap();
    let Some(mut server) = VictoriaProcess::start(directory.path()) else {
        return;
    };
    let run = run_name();
    let site = conformance::site(&run).unwrap();
    let store = open_victoria(directory.path(), &server.url(), &site);
    let begin = WallClock.now().0 / 1_000 * 1_000 - 600_000;
    let write = async |store: &RemoteStore, from: i64, to: i64| {
        for at in (from..to).step_by(1_000) {
            let receipt = store.append(frames(&site, at)).await.unwrap();
            assert_eq!((receipt.frames, receipt.duplicates), (4, 0));
        }
    };
    // Settled before the first kill.
    let second = |n: i64| begin + n * 1_000;
    write(&store, second(0), second(20)).await;
    assert!(store.drained(Duration::from_secs(60)).await);

    // Acknowledged by the engine, not flushed: it is killed right after.
    write(&store, second(20), second(60)).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    server.kill();
    // Away: still taken and acknowledged; read from what is here.
    write(&store, second(60), second(80)).await;
    whole(&store, &site, second(20), second(80), true).await;
    assert!(!store.health().up);
    assert!(store.health().trouble.is_some());

    // Our own process ends too, and begins again before the engine does.
    store.close().await;
    drop(store);
    let store = open_victoria(directory.path(), &server.url(), &site);
    assert_eq!(store.health().spooled_frames, 4 * 60);
    // The agents send again what they did not hear of: known, engine or no engine.
    let again = store.append(frames(&site, second(79))).await.unwrap();
    assert_eq!((again.frames, again.duplicates), (0, 4));

    assert!(server.again());
    whole(&store, &site, second(0), second(80), false).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    write(&store, second(80), second(90)).await;
    // Long enough to be sent and acknowledged, far too short to be settled.
    tokio::time::sleep(Duration::from_secs(2)).await;
    // And killed once more.
    server.kill();
    write(&store, second(90), second(100)).await;
    assert!(server.again());
    assert!(
        store.drained(Duration::from_secs(90)).await,
        "{:?}",
        store.health()
    );
    // Doubles of what only the engine has.
    let again = store.append(frames(&site, second(5))).await.unwrap();
    assert_eq!((again.frames, again.duplicates), (0, 4));
    whole(&store, &site, second(0), second(100), false).await;
    // The second kill met frames that were acknowledged and not settled.
    assert!(store.health().rechecked_frames > 0, "{:?}", store.health());
    store.close().await;
    // Counted in the engine itself, where a double would be a second value.
    let url = server.url();
    let count = |name: &'static str| {
        let (url, run) = (url.clone(), run.clone());
        tokio::task::spawn_blocking(move || raw_values(&url, &run, name))
    };
    assert_eq!(count("gpu_power_watts").await.unwrap(), 400);
    assert_eq!(count("gpu_power_watts_quality").await.unwrap(), 0);
    assert_eq!(count("gpu_temperature_celsius").await.unwrap(), 0);
    assert_eq!(count("gpu_temperature_celsius_quality").await.unwrap(), 400);
    assert_eq!(count("gpu_sm_clock_hertz_quality").await.unwrap(), 400);
}
