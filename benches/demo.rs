//! `cargo xtask bench demo`: the demo, 60 s, against the halls that run beside it.
#![allow(clippy::print_stdout, clippy::expect_used, clippy::panic, missing_docs)] // a bench speaks on standard output and may stop short

use serde_json::{Value, json};
use std::process::Command;

fn main() {
    let output = Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .args([
            "demo",
            "--headless",
            "--for",
            "60s",
            "--json",
            "--http",
            "127.0.0.1:0",
        ])
        .output()
        .expect("the demo runs");
    let summary: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    let print = |name: &str, unit: &str, ours: &Value, theirs: &Value, peer: Option<&str>| {
        let ratio = ours
            .as_f64()
            .zip(theirs.as_f64())
            .filter(|(_, t)| *t > 0.0)
            .map(|(o, t)| o / t);
        println!(
            "{}",
            json!({"name": name, "unit": unit, "ours": ours, "theirs": theirs, "ratio": ratio, "peer": peer})
        );
    };
    let per_joule = |work: &str, energy: &str| {
        let joules = summary[energy].as_f64()? * 3.6e6;
        (joules > 0.0)
            .then(|| summary[work].as_f64().map(|w| w / joules))
            .flatten()
    };
    let ours = json!(per_joule("work_gpu_hours", "energy_kwh"));
    print(
        "work per joule",
        "GPU-h/J",
        &ours,
        &json!(per_joule("work_gpu_hours_uncapped", "energy_kwh_uncapped")),
        Some("the same jobs uncapped"),
    );
    print(
        "work per joule",
        "GPU-h/J",
        &ours,
        &json!(per_joule(
            "work_gpu_hours_uniform_cap",
            "energy_kwh_uniform_cap"
        )),
        Some("the same jobs under a uniform cap of equal power"),
    );
    let carbon = summary["carbon_ratio_vs_uncapped"].clone();
    print(
        "carbon per unit of work",
        "1 = uncapped",
        &carbon,
        &json!(1.0),
        Some("the same jobs uncapped"),
    );
    print(
        "renewable share",
        "1",
        &summary["renewable_share"],
        &summary["renewable_share_uncapped"],
        Some("the same jobs uncapped"),
    );
    // 30 s: the published time of a commercial system for a shed of the same size.
    print(
        "grid event to compliance",
        "s",
        &summary["grid_event_seconds_to_compliance"],
        &json!(30.0),
        Some("Emerald Conductor, London, as published"),
    );
    print(
        "largest certificate gap",
        "1",
        &summary["max_certificate_gap"],
        &Value::Null,
        None,
    );
    print(
        "limits exceeded",
        "1",
        &summary["limit_violations"],
        &Value::Null,
        None,
    );
    print(
        "samples lost",
        "1",
        &summary["samples_lost"],
        &Value::Null,
        None,
    );
    print(
        "samples stored",
        "1",
        &summary["samples_stored"],
        &summary["samples_taken"],
        Some("samples taken"),
    );
    print(
        "peak memory",
        "MiB",
        &summary["peak_memory_mib"],
        &json!(600.0),
        Some("allowance"),
    );
}
