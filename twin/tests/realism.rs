//! How well the twin agrees with recorded distributions. Prints the tables of
//! the crate's README; skips, saying so, where the recordings are absent.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test's helpers fail by unwrapping, and it prints what it measured or why it was skipped"
)]

#[path = "../../models/tests/recorded/mod.rs"]
mod recorded;

use heliostat_models::gpu::{GpuModel, WorkloadFamily};
use heliostat_models::site::config::{self, LoadOptions};
use heliostat_models::{Celsius, JobClass, JobId, Site, Timestamp, Watts};
use heliostat_twin::{CapSource, Hall, HallConfig, JobSpec};
use recorded::recorded;
use std::sync::Arc;
use std::time::Duration;

const START: Timestamp = Timestamp(1_530_000_000_000);

fn demo() -> Site {
    let loaded = config::load("demo.toml", config::builtin_demo(), LoadOptions::default());
    loaded.site.unwrap()
}

/// The demo hall as the Acme clusters were built: A100 with 80 GB, in air.
fn acme() -> Site {
    let mut site = demo();
    for device in &mut site.devices {
        device.accelerator = "a100-80-sxm".into();
        device.min_cap = Watts(100.0);
        device.max_cap = Watts(400.0);
    }
    for node in &mut site.nodes {
        node.overhead = Watts(1_850.0);
    }
    site.cooling.kind = "air".into();
    site.cooling.supply = Celsius(19.0);
    site
}

fn run(
    site: Site,
    busy: &[(JobClass, WorkloadFamily, u32)],
    hours: u64,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let site = Arc::new(site);
    let caps = CapSource::Memory(site.devices.iter().map(|d| d.max_cap).collect());
    let config = HallConfig {
        models: vec![("a100-80-sxm".to_owned(), GpuModel::a100_sxm())],
        ..HallConfig::new(START, 11)
    };
    let mut hall = Hall::new(Arc::clone(&site), config, caps).unwrap();
    for (index, (class, family, gang)) in busy.iter().enumerate() {
        hall.submit(&JobSpec {
            id: JobId::from(format!("j{index}")),
            class: *class,
            owner: "lab".into(),
            gang_size: *gang,
            hours: 100.0,
            release: START,
            deadline: None,
            family: *family,
        })
        .unwrap();
    }
    let (mut power, mut temperature, mut nodes) = (vec![], vec![], vec![]);
    hall.step(START + Duration::from_secs(600));
    // Every 37 s a reading of one second, so that all phases come up.
    for sample in 0..hours * 97 {
        let at = START + Duration::from_secs(600 + 37 * sample);
        hall.step(at);
        hall.step(at + Duration::from_secs(1));
        for device in 0..site.devices.len() {
            power.push(hall.device_power(device).unwrap().get());
            temperature.push(hall.device_temperature(device).unwrap().get());
        }
        nodes.extend((0..site.nodes.len()).map(|n| hall.node(n).unwrap().power.get()));
    }
    for list in [&mut power, &mut temperature, &mut nodes] {
        list.sort_by(f64::total_cmp);
    }
    (power, temperature, nodes)
}

fn quantile(sorted: &[f64], q: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * q).round() as usize]
}

/// Quantile of an empirical distribution: values and their cumulative per cent.
fn of_cdf(json: &str, pair: usize, q: f64) -> f64 {
    let lists: Vec<Vec<f64>> = serde_json::from_str(json).unwrap();
    let (values, shares) = (&lists[2 * pair], &lists[2 * pair + 1]);
    let place = shares
        .partition_point(|s| *s < 100.0 * q)
        .min(values.len() - 1);
    values[place]
}

/// Seren and Kalos in kind: half of the devices idle, most of the rest trains.
fn acme_mix() -> Vec<(JobClass, WorkloadFamily, u32)> {
    use WorkloadFamily as F;
    vec![
        (JobClass::Training, F::LlmTraining, 56),
        (JobClass::Training, F::CommunicationHeavy, 24),
        (JobClass::FineTuning, F::VisionFineTuning, 16),
        (JobClass::Inference, F::InferenceDecode, 16),
        (JobClass::Experiment, F::Experiment, 16),
    ]
}

#[test]
fn realism_of_a100_against_the_acme_clusters() {
    let (Some(seren), Some(kalos), Some(temperature), Some(server)) = (
        recorded("jobs/acme_distributions/json/gpu_power_seren.json"),
        recorded("jobs/acme_distributions/json/gpu_power_kalos.json"),
        recorded("jobs/acme_distributions/json/gpu_temp_seren.json"),
        recorded("jobs/acme_distributions/json/server_power.json"),
    ) else {
        return;
    };
    let (power, warmth, nodes) = run(acme(), &acme_mix(), 2);
    println!(
        "| quantile | GPU W: twin | Seren | Kalos | core °C: twin | Seren | server W: twin | Seren |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for q in [0.05, 0.25, 0.5, 0.75, 0.9, 0.95] {
        println!(
            "| {:.0} % | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            100.0 * q,
            quantile(&power, q),
            of_cdf(&seren, 0, q),
            of_cdf(&kalos, 0, q),
            quantile(&warmth, q),
            of_cdf(&temperature, 0, q),
            quantile(&nodes, q),
            of_cdf(&server, 0, q),
        );
    }
    // Idle: the lower quarter of both clusters lies at 62 to 66 W.
    for q in [0.05, 0.25] {
        let real = of_cdf(&seren, 0, q);
        assert!(
            (quantile(&power, q) - real).abs() < 8.0,
            "idle {q}: {}",
            quantile(&power, q)
        );
    }
    // Loaded: between the two clusters, with 10 % of slack.
    for q in [0.75, 0.9, 0.95] {
        let (a, b) = (of_cdf(&seren, 0, q), of_cdf(&kalos, 0, q));
        let (low, high) = (0.9 * a.min(b), 1.1 * a.max(b));
        let twin = quantile(&power, q);
        assert!(
            (low..high).contains(&twin),
            "loaded {q}: {twin} not in {low} to {high}"
        );
    }
    for q in [0.05, 0.25, 0.5, 0.75, 0.95] {
        let (twin, real) = (quantile(&warmth, q), of_cdf(&temperature, 0, q));
        assert!(
            (twin - real).abs() < 9.0,
            "temperature {q}: {twin} against {real}"
        );
    }
    for q in [0.25, 0.9] {
        let (twin, real) = (quantile(&nodes, q), of_cdf(&server, 0, q));
        assert!(
            (twin / real - 1.0).abs() < 0.25,
            "server {q}: {twin} against {real}"
        );
    }
}

fn smi(text: &str, name: &str) -> Vec<f64> {
    let prefix = format!("nvidia_smi_{name}{{");
    (text.lines().filter(|l| l.starts_with(&prefix)))
        .filter_map(|l| l.rsplit(' ').next()?.parse().ok())
        .collect()
}

#[test]
fn realism_of_h100_against_nvidia_smi() {
    let file = |state: &str| {
        recorded(&format!(
            "protocols/nvidia_smi/gpu_exporter/linux-x86_64__nvidia-h100-80gb-hbm3__590.48.01__{state}.metrics"
        ))
    };
    let (Some(idle), Some(load)) = (file("idle"), file("load")) else {
        return;
    };
    let real = |text: &str, name: &str| smi(text, name)[0];
    let (rest, cool, _) = run(demo(), &[], 1);
    let training = [(JobClass::Training, WorkloadFamily::LlmTraining, 256)];
    let (busy, warm, _) = run(demo(), &training, 1);
    println!("| H100 | recorded | twin 5 % | 50 % | 95 % |");
    println!("|---|---|---|---|---|");
    for (what, value, twin) in [
        ("idle W", real(&idle, "power_draw_watts"), &rest),
        ("idle °C", real(&idle, "temperature_gpu"), &cool),
        ("loaded W", real(&load, "power_draw_watts"), &busy),
        ("loaded °C", real(&load, "temperature_gpu"), &warm),
    ] {
        let (low, middle, high) = (
            quantile(twin, 0.05),
            quantile(twin, 0.5),
            quantile(twin, 0.95),
        );
        println!("| {what} | {value:.0} | {low:.0} | {middle:.0} | {high:.0} |");
        assert!(
            (low..=high).contains(&value),
            "{what}: {value} not within {low} to {high}"
        );
    }
    // The settable range is the one that the driver shows.
    assert_eq!(
        real(&idle, "power_min_limit_watts"),
        demo().devices[0].min_cap.get()
    );
    assert_eq!(
        real(&idle, "power_max_limit_watts"),
        demo().devices[0].max_cap.get()
    );
}

#[test]
fn realism_of_idle_power_against_hourly_servers() {
    // Workstation cards, not the twin's accelerators: what is compared is how
    // still an idle card is, that is the spread of one card over hours.
    let Some(text) = recorded("servers/hourly_gpu_power/cbsugpu07_usage_stats.txt") else {
        return;
    };
    let mut idle: Vec<f64> = (text.lines().skip(1))
        .filter_map(|line| {
            let fields: Vec<&str> = line.trim_end().split('\t').collect();
            let is_idle = fields.get(10)?.parse::<f64>().ok()? == 0.0;
            is_idle.then(|| fields[2].parse().ok())?
        })
        .collect();
    idle.sort_by(f64::total_cmp);
    let spread = (quantile(&idle, 0.95) - quantile(&idle, 0.05)) / quantile(&idle, 0.5);
    let site = Arc::new(demo());
    let caps = CapSource::Memory(vec![Watts(700.0); site.devices.len()]);
    let mut hall = Hall::new(site, HallConfig::new(START, 4), caps).unwrap();
    let mut own: Vec<f64> = (1..=300)
        .map(|second| {
            hall.step(START + Duration::from_secs(second));
            hall.device_power(0).unwrap().get()
        })
        .collect();
    own.sort_by(f64::total_cmp);
    let twin = (quantile(&own, 0.95) - quantile(&own, 0.05)) / quantile(&own, 0.5);
    println!(
        "spread of an idle card (5 to 95 %): recorded {:.1} %, twin {:.1} %",
        100.0 * spread,
        100.0 * twin
    );
    assert!(
        twin > 0.5 * spread && twin < 2.0 * spread,
        "{spread} {twin}"
    );
}
