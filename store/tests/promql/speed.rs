//! How long queries take on six hours of the whole demo hall at 1 Hz; prints, judges nothing.
//! `cargo test --release -p heliostat-store --test promql speed -- --ignored --nocapture`

use crate::data::{T0, engine};
use crate::support::{SITE, metric, open};
use heliostat_models::{Frame, Reading, Timestamp};
use heliostat_store::TimeSeriesStore;
use heliostat_store::embedded::Options;
use heliostat_store::promql::{Instants, Value};
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
    }
    store.seal().await.unwrap();
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
        ("sum by (rack) (gpu_power_watts)", range(0, 60)),
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
        let mut times = Vec::new();
        let mut values = 0;
        for _ in 0..7 {
            let begin = Instant::now();
            let answer = engine.query(query, instants).await.unwrap();
            times.push(begin.elapsed().as_secs_f64() * 1_000.0);
            if let Value::Matrix(all) | Value::Vector(all) = answer {
                values = all.iter().map(|s| s.points.len()).sum();
            }
        }
        times.sort_by(f64::total_cmp);
        println!(
            "{:8.2} ms median, {:8.2} ms most, {values:6} values  {query}",
            times[3], times[6]
        );
    }
}
