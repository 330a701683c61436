//! What moving the demo hall costs. One JSON line a figure.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints, and measures wall time"
)]

use heliostat_models::site::config::{self, LoadOptions};
use heliostat_models::{Timestamp, Watts};
use heliostat_twin::{CapSource, Hall, HallConfig, NodeBoard, Shadows, boards, workload};
use std::sync::Arc;
use std::time::{Duration, Instant};

fn report(name: &str, unit: &str, ours: f64) {
    println!(
        "{}",
        serde_json::json!({
            "name": name, "unit": unit, "ours": ours, "theirs": null, "ratio": null, "peer": null,
        })
    );
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let loaded = config::load("demo.toml", config::builtin_demo(), LoadOptions::default());
    let site = Arc::new(loaded.site.ok_or("demo.toml has faults")?);
    let start = Timestamp(1_530_000_000_000);
    let span = Duration::from_secs(48 * 3_600);
    let jobs = workload::demo_jobs(&site, start, span, 1);
    let directory = tempfile::tempdir()?;
    let memory = || CapSource::Memory(site.devices.iter().map(|d| d.safe_cap).collect());
    let files: Vec<NodeBoard> = boards::create(directory.path(), &site)?;
    for (name, caps, stride, count) in [
        ("twin_step_1s_memory", memory(), 1, 600u64),
        ("twin_step_1s_boards", CapSource::Boards(files), 1, 600),
        ("twin_step_120s_memory", memory(), 120, 600),
    ] {
        let mut hall = Hall::new(Arc::clone(&site), HallConfig::new(start, 1), caps)?;
        for job in &jobs {
            hall.submit(job)?;
        }
        hall.step(start + Duration::from_secs(60));
        let begin = Instant::now();
        for step in 1..=count {
            hall.step(start + Duration::from_secs(60 + stride * step));
        }
        report(
            name,
            "ms",
            begin.elapsed().as_secs_f64() * 1_000.0 / count as f64,
        );
    }
    let config = HallConfig::new(start, 1);
    let mut managed = Hall::new(Arc::clone(&site), config.clone(), memory())?;
    let mut shadows = Shadows::new(&managed, &config, &jobs)?;
    for job in &jobs {
        managed.submit(job)?;
    }
    let (mut spent, count) = (Duration::ZERO, 600u64);
    for step in 1..=count {
        let to = start + Duration::from_secs(120 * step);
        // Every device's cap moves a little, as under an allocator.
        for device in 0..site.devices.len() {
            managed.set_cap(device, Watts(380.0 + ((device as u64 + step) % 7) as f64));
        }
        managed.step(to);
        let begin = Instant::now();
        shadows.step(to, &managed);
        spent += begin.elapsed();
    }
    report(
        "twin_shadows_step_120s",
        "ms",
        spent.as_secs_f64() * 1_000.0 / count as f64,
    );
    Ok(())
}
