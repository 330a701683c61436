//! Comparison halls: same jobs, same seed, equal energy.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test's helpers fail by unwrapping, and it prints what it measured or why it was skipped"
)]

use heliostat_models::site::config::{self, LoadOptions};
use heliostat_models::{Site, Timestamp, Watts};
use heliostat_twin::hall::Resolution;
use heliostat_twin::{CapSource, Hall, HallConfig, Shadows, workload};
use std::sync::Arc;
use std::time::Duration;

const START: Timestamp = Timestamp(1_530_000_000_000);

fn demo() -> Arc<Site> {
    let loaded = config::load("demo.toml", config::builtin_demo(), LoadOptions::default());
    Arc::new(loaded.site.unwrap())
}

/// A managed hall whose caps follow `cap_of(device)`, beside its shadows.
fn day(hours: u64, cap_of: impl Fn(usize) -> Watts) -> (Hall, Shadows) {
    let site = demo();
    let jobs = workload::demo_jobs(&site, START, Duration::from_secs(48 * 3_600), 5);
    let config = HallConfig {
        resolution: Resolution::Coarse,
        ..HallConfig::new(START, 5)
    };
    let caps = (0..site.devices.len()).map(cap_of).collect();
    let mut managed = Hall::new(site, config.clone(), CapSource::Memory(caps)).unwrap();
    let mut shadows = Shadows::new(&managed, &config, &jobs).unwrap();
    for job in &jobs {
        managed.submit(job).unwrap();
    }
    for step in 1..=hours * 30 {
        let to = START + Duration::from_secs(120 * step);
        managed.step(to);
        shadows.step(to, &managed);
    }
    (managed, shadows)
}

#[test]
fn an_uncapped_managed_hall_equals_its_uncapped_shadow() {
    let (managed, shadows) = day(8, |_| Watts(700.0));
    let (a, b) = (managed.tally(), shadows.uncapped());
    assert!((a.gpu / b.gpu - 1.0).abs() < 1e-9, "{} {}", a.gpu, b.gpu);
    assert!((a.work_hours / b.work_hours - 1.0).abs() < 1e-9);
}

#[test]
fn the_uniform_shadow_uses_the_same_energy_and_finds_the_cap() {
    let (managed, shadows) = day(8, |_| Watts(420.0));
    let (a, b) = (managed.tally(), shadows.uniform());
    assert!((b.gpu / a.gpu - 1.0).abs() < 0.005, "{} {}", b.gpu, a.gpu);
    assert!((b.work_hours / a.work_hours - 1.0).abs() < 0.01);
    let cap = shadows.uniform_cap().get();
    assert!((405.0..440.0).contains(&cap), "{cap}");
    // Caps save more energy than work: that is what the twin must show.
    let (capped, free) = (
        a.work_per_kilowatt_hour().unwrap(),
        shadows.uncapped().work_per_kilowatt_hour().unwrap(),
    );
    assert!(capped > 1.05 * free, "{capped} {free}");
}

#[test]
fn stragglers_do_worse_than_a_uniform_cap_of_equal_energy() {
    let (managed, shadows) = day(8, |device| {
        Watts(if device % 8 == 0 { 250.0 } else { 500.0 })
    });
    let (a, b) = (managed.tally(), shadows.uniform());
    assert!((b.gpu / a.gpu - 1.0).abs() < 0.005, "{} {}", b.gpu, a.gpu);
    assert!(
        b.work_hours > 1.02 * a.work_hours,
        "{} {}",
        b.work_hours,
        a.work_hours
    );
}

#[test]
fn the_demo_workload_keeps_the_hall_three_quarters_busy() {
    let site = demo();
    for seed in [1, 5, 42] {
        let span = Duration::from_secs(48 * 3_600);
        let jobs = workload::demo_jobs(&site, START, span, seed);
        assert!(
            (28..=55).contains(&jobs.len()),
            "seed {seed}: {} jobs",
            jobs.len()
        );
        assert_eq!(jobs, workload::demo_jobs(&site, START, span, seed));
        for job in &jobs {
            if let Some(deadline) = job.deadline {
                let slack = deadline.seconds_since(job.release) / 3_600.0 / job.hours;
                assert!(slack >= 1.5, "{job:?}");
            }
        }
        let config = HallConfig {
            resolution: Resolution::Coarse,
            ..HallConfig::new(START, seed)
        };
        let caps = CapSource::Memory(vec![Watts(700.0); 256]);
        let mut hall = Hall::new(site.clone(), config, caps).unwrap();
        for job in &jobs {
            hall.submit(job).unwrap();
        }
        for step in 1..=960 {
            hall.step(START + Duration::from_secs(180 * step));
        }
        let busy = hall.tally().utilisation().unwrap();
        println!(
            "seed {seed}: {} jobs, {:.0} % busy first come first served",
            jobs.len(),
            100.0 * busy
        );
        assert!((0.62..0.85).contains(&busy), "seed {seed}: {busy}");
    }
}

#[test]
fn the_workload_scales_with_the_hall() {
    let mut small = (*demo()).clone();
    small.devices.truncate(16);
    let jobs = workload::demo_jobs(&small, START, Duration::from_secs(3_600), 1);
    assert!(
        jobs.iter()
            .all(|j| (1..=16).contains(&j.gang_size) && j.hours > 0.0)
    );
    small.devices.clear();
    assert!(workload::demo_jobs(&small, START, Duration::from_secs(3_600), 1).is_empty());
}
