//! The shape of the GPU model against measured sweeps of power limits: fitted
//! on every second cap of a workload, judged on the others. Recomputes the
//! figures in the documentation of `heliostat_models::gpu`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test's helpers fail by unwrapping, and it prints what it measured or why it was skipped"
)]

mod recorded;

use heliostat_models::gpu::{clock_of_phi, phi};
use recorded::recorded;
use std::collections::BTreeMap;

/// Cap in watts, time, mean power in watts.
type Sweep = Vec<(f64, f64, f64)>;

fn clock(cap: f64, idle: f64, draw: f64, constant: f64) -> f64 {
    let wanted = ((cap - idle) / (draw - idle) - constant) / (1.0 - constant);
    clock_of_phi(wanted).max(0.15)
}

/// Mean absolute error of relative speed on the caps that were not fitted.
fn held_out_error(sweep: &Sweep, idle: f64) -> f64 {
    let fastest = sweep.iter().map(|r| r.1).fold(f64::INFINITY, f64::min);
    let top = sweep.iter().map(|r| r.2).fold(0.0, f64::max);
    let error = |draw: f64, constant: f64, sensitivity: f64, fitted: bool| {
        let part = sweep
            .iter()
            .enumerate()
            .filter(|(i, _)| (i % 2 == 0) == fitted);
        let errors: Vec<f64> = part
            .map(|(_, (cap, time, _))| {
                let f = clock(*cap, idle, draw, constant);
                (1.0 / (sensitivity / f + 1.0 - sensitivity) - fastest / time).abs()
            })
            .collect();
        errors.iter().sum::<f64>() / errors.len() as f64
    };
    let mut best = (f64::INFINITY, 0.0, 0.0, 0.0);
    for stretch in [1.0, 1.03, 1.06, 1.1, 1.15, 1.25, 1.4] {
        for constant in [0.0, 0.1, 0.2, 0.3, 0.4] {
            for sensitivity in [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0] {
                let found = error(top * stretch, constant, sensitivity, true);
                if found < best.0 {
                    best = (found, top * stretch, constant, sensitivity);
                }
            }
        }
    }
    error(best.1, best.2, best.3, false)
}

fn zeus(gpu: &str) -> Option<Vec<Sweep>> {
    let text = recorded(&format!(
        "gpu/zeus_power_limit/trace/summary_power_{gpu}.csv"
    ))?;
    let mut sweeps: BTreeMap<String, Sweep> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |i: usize| fields[i].trim().parse::<f64>().unwrap();
        let row = (number(4), number(5), number(6));
        sweeps.entry(fields[..4].join(",")).or_default().push(row);
    }
    for sweep in sweeps.values_mut() {
        sweep.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    Some(sweeps.into_values().filter(|s| s.len() >= 5).collect())
}

fn ada() -> Option<Vec<Sweep>> {
    (0..8)
        .map(|n| {
            let text = recorded(&format!(
                "gpu/rtx4000ada_power_limit/Dataset/results_powertest_single_{n}.csv"
            ))?;
            let mut sweep: Sweep = (text.lines())
                .map(|line| {
                    let f: Vec<f64> = line.split(',').map(|x| x.trim().parse().unwrap()).collect();
                    (f[0] / 1_000.0, f[2], f[4])
                })
                .collect();
            sweep.sort_by(|a, b| a.0.total_cmp(&b.0));
            Some(sweep)
        })
        .collect()
}

#[test]
fn speed_under_caps_agrees_with_measured_sweeps() {
    // Idle draws: lowest readings in the recordings, V100 and P100 from their data sheets.
    let all = [
        ("V100", zeus("v100"), 40.0, 0.030),
        ("P100", zeus("p100"), 30.0, 0.020),
        ("RTX 6000", zeus("rtx6000"), 20.0, 0.038),
        ("RTX 4000 Ada", ada(), 14.0, 0.038),
    ];
    for (name, sweeps, idle, allowed) in all {
        let Some(sweeps) = sweeps else { continue };
        let errors: Vec<f64> = sweeps.iter().map(|s| held_out_error(s, idle)).collect();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        println!(
            "{name}: {} workloads, mean absolute error of relative speed on caps not fitted {mean:.4}",
            sweeps.len()
        );
        assert!(mean < allowed, "{name}: {mean}");
    }
}

#[test]
fn a_capped_card_draws_its_cap() {
    // Where the cap binds, mean draw is 97 % of it or more (REGULATION in the twin).
    let Some(sweeps) = ada() else { return };
    let bound: Vec<f64> = (sweeps.iter().flatten())
        .filter(|(cap, _, power)| (50.0..90.0).contains(cap) && *power > 0.95 * cap)
        .map(|(cap, _, power)| power / cap)
        .collect();
    let mean = bound.iter().sum::<f64>() / bound.len() as f64;
    println!(
        "draw over cap where it binds: {mean:.4} ({} readings)",
        bound.len()
    );
    assert!((0.97..1.01).contains(&mean) && bound.len() > 20, "{mean}");
    assert!((phi(1.0) - 1.0).abs() < 1e-12);
}
