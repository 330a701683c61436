//! How the project measures itself: each bench prints JSON lines
//! `{"name","unit","ours","theirs","ratio","peer"}`, our figure beside what it
//! is compared with in the same run.

use anyhow::{Context, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Name, package, bench target, what it measures.
const BENCHES: &[(&str, &str, &str, &str)] = &[
    (
        "allocate",
        "heliostat-optimizer",
        "allocate",
        "time, gap and work of an allocation against the whole linear program",
    ),
    (
        "control",
        "heliostat-optimizer",
        "control",
        "processor time of a round of control at a site of 100,008 GPUs",
    ),
    (
        "plan",
        "heliostat-optimizer",
        "plan",
        "time, gap and cost of a plan against simple policies",
    ),
    (
        "twin",
        "heliostat-twin",
        "hall",
        "time of a step of the hall in software",
    ),
    (
        "grid",
        "heliostat-twin",
        "grid",
        "grid events on 10,000 GPUs through the code of real agents",
    ),
    (
        "store",
        "heliostat-store",
        "store",
        "native frames by stage, acknowledge, reopen and queries against bare files",
    ),
    (
        "store",
        "heliostat",
        "store_peers",
        "remote write, memory, bytes a sample, kill -9 and queries against VictoriaMetrics",
    ),
    (
        "store",
        "heliostat-store",
        "write_path",
        "processor time of each stage of a sample's life, native frames",
    ),
    (
        "open-ingest",
        "heliostat",
        "open_ingest",
        "remote write per processor second against VictoriaMetrics",
    ),
    (
        "demo",
        "heliostat",
        "demo",
        "the demo against uncapped and uniformly capped halls",
    ),
];

/// Runs one bench, or all with the name `all`.
pub fn run(root: &Path, name: Option<&str>, json: bool) -> anyhow::Result<()> {
    let Some(name) = name else {
        for (name, _, _, what) in BENCHES {
            println!("{name:10} {what}");
        }
        return Ok(());
    };
    let chosen: Vec<_> = BENCHES
        .iter()
        .filter(|(n, ..)| name == "all" || *n == name)
        .collect();
    if chosen.is_empty() {
        let known: Vec<&str> = BENCHES.iter().map(|(n, ..)| *n).collect();
        bail!(
            "no bench `{name}`; there are {}, and `all`",
            known.join(", ")
        );
    }
    for (_, package, target, _) in chosen {
        let mut child = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
            .args(["bench", "--quiet", "--package", package, "--bench", target])
            .current_dir(root)
            .stdout(Stdio::piped())
            .spawn()
            .context("cargo cannot be started")?;
        let output = child.stdout.take().context("no output to read")?;
        for line in BufReader::new(output).lines() {
            print_line(&line?, json);
        }
        let status = child.wait()?;
        if !status.success() {
            bail!("bench `{target}` ended with {status}");
        }
    }
    Ok(())
}

fn print_line(line: &str, json: bool) {
    let Ok(value) = serde_json::from_str::<Value>(line) else {
        if !json && !line.trim().is_empty() {
            println!("{line}");
        }
        return;
    };
    if json {
        println!("{line}");
        return;
    }
    let text = |key: &str| match &value[key] {
        Value::Null => "–".to_owned(),
        Value::String(s) => s.clone(),
        other => other
            .as_f64()
            .map_or_else(|| other.to_string(), |n| format!("{n:.6}")),
    };
    println!(
        "{:52} {:>16} {:14} against {:>16} {} (ratio {})",
        text("name"),
        text("ours"),
        text("unit"),
        text("theirs"),
        text("peer"),
        text("ratio")
    );
}
