//! The fitted priors of `speed_priors.toml` and the constants of the speed
//! models, recomputed from the measurements that they came from.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test's helpers fail by unwrapping, and it prints what it measured or why it was skipped"
)]

mod recorded;

use heliostat_models::Watts;
use heliostat_models::gpu::observation::{CLOCK_SPREAD, CLOCK_TO_SPEED};
use heliostat_models::gpu::{Profile, SpeedPrior, SpeedPriors, WorkloadFamily};
use recorded::recorded;
use std::collections::BTreeMap;
use std::fmt::Write as _;

type Swept = Vec<(Option<WorkloadFamily>, Profile)>;
/// Family, and cap and rate of each run.
type Runs = (Option<WorkloadFamily>, Vec<(Watts, f64)>);

fn family_of(network: &str) -> Option<WorkloadFamily> {
    match network {
        "shufflenetv2" | "resnet50" => Some(WorkloadFamily::VisionFineTuning),
        "bert_base_uncased" => Some(WorkloadFamily::LlmTraining),
        // Speech recognition and recommendation are no family of ours.
        _ => None,
    }
}

fn zeus(gpu: &str) -> Option<Swept> {
    let text = recorded(&format!(
        "gpu/zeus_power_limit/trace/summary_power_{gpu}.csv"
    ))?;
    let mut sweeps: BTreeMap<String, Runs> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |i: usize| fields[i].trim().parse::<f64>().unwrap();
        let sweep = sweeps.entry(fields[..4].join(",")).or_default();
        sweep.0 = family_of(fields[1]);
        sweep.1.push((Watts(number(4)), 1.0 / number(5)));
    }
    let long = sweeps.into_values().filter(|s| s.1.len() >= 5);
    Some(long.map(|(f, s)| (f, Profile::new(&s).unwrap())).collect())
}

/// Cap (W) and time (s) of each run of the sweep of one workload.
fn ada_runs(workload: usize) -> Option<Vec<(f64, f64)>> {
    let text = recorded(&format!(
        "gpu/rtx4000ada_power_limit/Dataset/results_powertest_single_{workload}.csv"
    ))?;
    let runs = text.lines().map(|line| {
        let f: Vec<f64> = line.split(',').map(|x| x.trim().parse().unwrap()).collect();
        (f[0] / 1_000.0, f[2])
    });
    Some(runs.collect())
}

fn ada() -> Option<Swept> {
    (0..8)
        .map(|workload| {
            let points: Vec<(Watts, f64)> = (ada_runs(workload)?.into_iter())
                .map(|(cap, time)| (Watts(cap), 1.0 / time))
                .collect();
            Some((None, Profile::new(&points).unwrap()))
        })
        .collect()
}

fn listed(values: &[f64]) -> String {
    let texts: Vec<String> = (values.iter())
        .map(|v| format!("{:.4}", if v.abs() < 5e-5 { 0.0 } else { *v }))
        .collect();
    format!("[{}]", texts.join(", "))
}

/// The table's entry of one accelerator.
fn entry(key: &str, source: &str, swept: &Swept) -> String {
    let all: Vec<Profile> = swept.iter().map(|(_, p)| p.clone()).collect();
    let prior = SpeedPrior::fit(&all).unwrap();
    let mut text = format!(
        "\n[[swept]]\nkey = \"{key}\"\nsource = \"{source}\"\nprofiles = {}\nlowest = {:.6}\nmean = {}\n",
        all.len(),
        prior.knots[0],
        listed(&prior.mean)
    );
    let components: Vec<String> = prior.components.iter().map(|c| listed(c)).collect();
    writeln!(
        text,
        "components = [\n    {},\n]",
        components.join(",\n    ")
    )
    .unwrap();
    for (family, name) in [
        (WorkloadFamily::LlmTraining, "llm-training"),
        (WorkloadFamily::VisionFineTuning, "vision-fine-tuning"),
    ] {
        let own: Vec<Profile> = (swept.iter().filter(|(f, _)| *f == Some(family)))
            .map(|(_, p)| p.clone())
            .collect();
        if !own.is_empty() {
            let mean = listed(&prior.for_family(&own).mean);
            writeln!(
                text,
                "[[swept.family]]\nname = \"{name}\"\nprofiles = {}\nmean = {mean}",
                own.len()
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn the_builtin_priors_are_what_the_sweeps_give() {
    const ZEUS: &str = "Zeus (NSDI'23) power traces, Apache-2.0";
    const ADA: &str = "Adaptive-GPU-Power-Capping (HPDC'25 artefact)";
    let all = [
        ("v100", ZEUS, zeus("v100")),
        ("p100", ZEUS, zeus("p100")),
        ("rtx6000", ZEUS, zeus("rtx6000")),
        ("rtx4000-ada", ADA, ada()),
    ];
    let mut text = String::new();
    for (key, source, swept) in &all {
        let Some(swept) = swept else { return };
        text += &entry(key, source, swept);
    }
    if let Some(path) = std::env::var_os("HELIOSTAT_WRITE_PRIORS") {
        std::fs::write(path, &text).unwrap();
    }
    let fresh = SpeedPriors::parse(&text).unwrap();
    assert_eq!(
        &fresh,
        SpeedPriors::builtin(),
        "speed_priors.toml is out of date; HELIOSTAT_WRITE_PRIORS=FILE writes what it should hold"
    );
}

/// Workload, cap, mean relative clock while a kernel ran, relative speed.
fn clocks_and_speeds() -> Option<Vec<(usize, f64, f64, f64)>> {
    let mut out = Vec::new();
    for workload in 0..8 {
        let runs = ada_runs(workload)?;
        let text = recorded(&format!(
            "gpu/rtx4000ada_power_limit/Dataset/feature_data_single_{workload}.csv"
        ))?;
        let mut clocks: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
        for line in text.lines().skip(1) {
            let f: Vec<f64> = line.split(',').map(|x| x.trim().parse().unwrap()).collect();
            if f[6] > 50.0 {
                clocks.entry(f[1] as u64).or_default().push(f[8]);
            }
        }
        let mean = |v: &Vec<f64>| v.iter().sum::<f64>() / v.len() as f64;
        let top = clocks.values().map(mean).fold(0.0, f64::max);
        let fastest = runs.iter().map(|r| r.1).fold(f64::INFINITY, f64::min);
        for (cap, time) in runs {
            let seen = clocks.get(&((cap * 1_000.0).round() as u64));
            if let Some(clock) = seen.filter(|c| c.len() >= 5).map(mean) {
                out.push((workload, cap, clock / top, fastest / time));
            }
        }
    }
    Some(out)
}

#[test]
fn speed_follows_the_clock_as_the_proxy_says() {
    let Some(rows) = clocks_and_speeds() else {
        return;
    };
    let logs: Vec<(f64, f64)> = (rows.iter().filter(|r| r.2 < 0.97))
        .map(|r| (r.2.ln(), r.3.ln()))
        .collect();
    let slope =
        logs.iter().map(|(x, y)| x * y).sum::<f64>() / logs.iter().map(|(x, _)| x * x).sum::<f64>();
    let apart = logs
        .iter()
        .map(|(x, y)| (y / x - slope).powi(2))
        .sum::<f64>();
    let apart = (apart / logs.len() as f64).sqrt();
    println!(
        "ln speed over ln clock: {slope:.3}, apart by {apart:.3} ({} readings)",
        logs.len()
    );
    assert!((slope - CLOCK_TO_SPEED).abs() < 0.05, "{slope}");
    assert!((apart - CLOCK_SPREAD).abs() < 0.02, "{apart}");
}

#[test]
fn draws_spread_as_the_leaderboard_measured() {
    let mut draws = Vec::new();
    for task in ["gpqa", "lm-arena-chat", "sourcegraph-fim"] {
        let Some(text) = recorded(&format!("gpu/mlenergy_leaderboard/tasks/{task}.json")) else {
            return;
        };
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        for it in value["configurations"].as_array().unwrap() {
            if it["gpu_model"] == "H100" {
                let gpus = it["num_gpus"].as_f64().unwrap();
                draws.push(it["avg_power_watts"].as_f64().unwrap() / gpus);
            }
        }
    }
    draws.sort_by(f64::total_cmp);
    let quantile = |share: f64| {
        let place = share * (draws.len() - 1) as f64;
        let (low, high) = (draws[place as usize], draws[place.ceil() as usize]);
        low + (high - low) * place.fract()
    };
    let median = quantile(0.5);
    let stated = heliostat_models::gpu::DRAW_SPREAD;
    for (share, stated) in [0.05, 0.25, 0.5, 0.75, 0.95].into_iter().zip(stated) {
        let found = quantile(share) / median;
        assert!((found - stated).abs() < 0.002, "{share}: {found} {stated}");
    }
    println!("{} configurations, median {median:.0} W", draws.len());
}
