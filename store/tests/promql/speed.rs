//! How long queries take on six hours of the whole demo hall at 1 Hz; prints, judges nothing.
//! `cargo test --release -p heliostat-store --test promql speed -- --ignored --nocapture`

use crate::data::{T0, engine};
use crate::support::{SITE, metric, open};
use heliostat_models::{Frame, Reading, Timestamp};
use heliostat_store::TimeSeriesStore;
use heliostat_store::embedded::Options;
use heliostat_store::promql::{Engine, Instants, Value};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute; it prints figures"]
async fn speed() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path(), Options::default());
    let power = metric("gpu_power_watts");
    let seconds = 6 * 3_600;
    let mut samples = 0_u64;
    for minute in 0..seconds / 60 {
        let mut frames = Vec::new();
        for second in minute * 60..minute * 60 + 60 {
            frames.extend(SITE.devices.iter().enumerate().map(|(index, device)| {
                let wave = ((second as f64 / 300.0) + index as f64).sin();
                let watts = (4_000.0 + 2_000.0 * wave).round() / 10.0;
                Frame {
                    device: device.id.clone(),
                    at: Timestamp(T0 + second * 1_000),
                    readings: vec![(power, Reading::Measured(watts))],
                }
            }));
        }
        samples += store.append(frames).await.unwrap().samples;
        // The last ten minutes stay in memory.
        if minute == seconds / 60 - 10 {
            store.seal().await.unwrap();
        }
    }
    let meter = &SITE.meters[0].id;
    for day in 0..365 {
        let minutes = (day * 1_440..day * 1_440 + 1_440).map(|minute| Frame {
            device: meter.clone(),
            at: Timestamp(T0 - 366 * 86_400_000 + minute * 60_000),
            readings: vec![(
                metric("meter_power_watts"),
                Reading::Measured(1e6 + (minute % 977) as f64),
            )],
        });
        store.append(minutes.collect()).await.unwrap();
    }
    let engine = engine(&store);
    println!("{samples} samples of {} GPUs", SITE.devices.len());
    let range = |from: i64, step: u64| Instants::Range {
        start: Timestamp(T0 + from * 1_000),
        end: Timestamp(T0 + seconds * 1_000),
        step: Duration::from_secs(step),
    };
    for (query, instants) in [
        (
            "sum by (rack) (avg_over_time(gpu_power_watts[1m]))",
            range(60, 60),
        ),
        (
            "sum by (rack) (avg_over_time(gpu_power_watts[2m]))",
            range(60, 60),
        ),
        ("sum by (rack) (rate(gpu_power_watts[1m]))", range(60, 60)),
        ("sum by (rack) (gpu_power_watts)", range(0, 60)),
        (
            "gpu_power_watts{device=\"r03-n2-gpu5\"}",
            range(5 * 3_600, 1),
        ),
        (
            "gpu_power_watts{device=\"r03-n2-gpu5\"}",
            range(5 * 3_600, 15),
        ),
        ("rate(gpu_power_watts{rack=\"r03\"}[5m])", range(0, 60)),
        (
            "topk(5, gpu_power_watts)",
            Instants::At(Timestamp(T0 + 20_000_000)),
        ),
    ] {
        timed(&engine, query, instants).await;
    }
    store.seal().await.unwrap();
    let year = Instants::Range {
        start: Timestamp(T0 - 366 * 86_400_000 + 3_600_000),
        end: Timestamp(T0 - 86_400_000),
        step: Duration::from_secs(3_600),
    };
    let query = format!("avg_over_time(meter_power_watts{{device=\"{meter}\"}}[1h])");
    timed(&engine, &query, year).await;
}

/// Asks the same again and again.
async fn timed(engine: &Engine, query: &str, instants: Instants) {
    let (mut times, mut source) = (Vec::new(), None);
    let mut values = 0;
    for _ in 0..101 {
        let begin = Instant::now();
        let told = engine.query_told(query, instants).await.unwrap();
        times.push(begin.elapsed().as_secs_f64() * 1_000.0);
        source = Some(told.source);
        if let Value::Matrix(all) | Value::Vector(all) = told.value {
            values = all.iter().map(|s| s.points.len()).sum();
        }
        if times.iter().sum::<f64>() > 10_000.0 {
            break;
        }
    }
    let first = times[0];
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{first:8.2} ms first, {:8.2} ms best, {:8.2} ms median, {:8.2} ms p99, {values:6} values  {query}  {source:?}",
        times[0],
        at(0.5),
        at(0.99)
    );
}
