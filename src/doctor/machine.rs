//! This machine: what it lets us read, where it lets us write, whom it reaches.

use super::Args;
use crate::files;
use crate::replay::reaches;
use anyhow::Context;
use heliostat_collector::mqtt::MqttConfig;
use heliostat_collector::source::{host::HostSource, nvml::NvmlSource, rapl::Rapl};
use heliostat_collector::{Source, broker_probe};
use heliostat_models::{Catalogue, DeviceId, NodeId, Reading, Site};
use heliostat_store::conformance::{Finding, Verdict};
use heliostat_store::decisions::read_decisions;
use heliostat_store::{Clock, WallClock};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Small writes whose way to the disk is measured.
const SYNCS: usize = 64;
/// A server acknowledges a group of samples a sync: slower disks delay every agent.
const SLOW_SYNC: Duration = Duration::from_millis(10);
/// How long a broker may take.
const BROKER_WAIT: Duration = Duration::from_secs(5);
/// Where Linux shows the energy registers of processors.
const POWERCAP: &str = "/sys/class/powercap";

/// All checks of this machine that the arguments ask for.
pub fn examine(args: &Args, runtime: &tokio::runtime::Runtime) -> Vec<Finding> {
    let mut found = Vec::new();
    let site = args.site.as_deref().and_then(|path| site(path, &mut found));
    if let Some(directory) = &args.data {
        found.push(data_directory(directory));
        found.extend(decision_log(directory));
    }
    found.push(host());
    found.push(processor_energy());
    gpus(args.nvml_lib.as_deref(), site.as_ref(), &mut found);
    if let Some(config) = &args.mqtt {
        found.push(runtime.block_on(broker(config)));
    }
    found
}

fn finding(check: &str, verdict: Verdict, detail: impl Into<String>) -> Finding {
    Finding {
        check: check.to_owned(),
        verdict,
        detail: detail.into(),
    }
}

fn site(path: &Path, found: &mut Vec<Finding>) -> Option<Site> {
    match files::load_site(path) {
        Ok(site) => {
            let told = format!(
                "{}: {} nodes, {} devices",
                site.id,
                site.nodes.len(),
                site.nodes.iter().map(|n| n.devices.len()).sum::<usize>()
            );
            found.push(finding("site file", Verdict::Pass, told));
            Some(site)
        }
        Err(error) => {
            let told = format!("{error:#}");
            found.push(finding("site file", Verdict::Fail, told));
            None
        }
    }
}

/// Whether files can be made, and how long a synced write takes.
fn data_directory(directory: &Path) -> Finding {
    let check = format!("data directory {}", directory.display());
    match sync_times(directory) {
        Ok(times) => {
            let median = times[times.len() / 2];
            let worst = times[times.len() - 1];
            let told = format!(
                "a small write reaches the disk in {:.1} ms (median of {SYNCS}, worst {:.1} ms)",
                median.as_secs_f64() * 1e3,
                worst.as_secs_f64() * 1e3
            );
            if median > SLOW_SYNC {
                let slow = format!(
                    "{told}; samples are acknowledged no faster than that: put it on a faster disk"
                );
                finding(&check, Verdict::Warn, slow)
            } else {
                finding(&check, Verdict::Pass, told)
            }
        }
        Err(error) => finding(&check, Verdict::Fail, format!("{error:#}")),
    }
}

/// From when on the log of decisions reaches, and whether its chain holds;
/// nothing where no server has been at home yet.
fn decision_log(directory: &Path) -> Option<Finding> {
    let check = "log of decisions";
    let store = directory.join("store");
    if !store.join("decisions.log").exists() {
        return None;
    }
    let history = match read_decisions(&store) {
        Ok(history) => history,
        Err(error) => return Some(finding(check, Verdict::Fail, error.to_string())),
    };
    let from = history.decisions.first().map(|logged| logged.decision.at);
    let told = reaches(from, history.chain.cut.as_ref())
        .unwrap_or_else(|| "no decision has been taken yet".to_owned());
    Some(match &history.chain.broken {
        None => finding(check, Verdict::Pass, format!("its chain holds; {told}")),
        Some(broken) => {
            let told = format!("its chain is broken at {broken}; {told}");
            finding(check, Verdict::Fail, told)
        }
    })
}

/// How long small synced writes take, rising.
#[allow(clippy::disallowed_methods)] // it measures a disk, which knows real time only
fn sync_times(directory: &Path) -> anyhow::Result<Vec<Duration>> {
    std::fs::create_dir_all(directory).context("it cannot be made")?;
    let path = directory.join(format!(".doctor-{}", std::process::id()));
    let measure = || -> std::io::Result<Vec<Duration>> {
        let mut file = File::create(&path)?;
        let mut times = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            let begin = Instant::now();
            file.write_all(&[0; 4096])?;
            file.sync_data()?;
            times.push(begin.elapsed());
        }
        Ok(times)
    };
    let times = measure();
    let _ = std::fs::remove_file(&path);
    let mut times = times.context("no file can be written in it")?;
    times.sort();
    Ok(times)
}

/// The sensors that every machine has.
fn host() -> Finding {
    let check = "host sensors";
    let mut source = HostSource::new(DeviceId::from("doctor"));
    match source.sample(WallClock.now()) {
        Ok(frames) => {
            let known = (frames.iter().flat_map(|f| &f.readings))
                .filter(|(_, reading)| *reading != Reading::Missing);
            let names: Vec<&str> = known
                .map(|(metric, _)| Catalogue::builtin().metric(*metric).name.as_str())
                .collect();
            if names.is_empty() {
                finding(check, Verdict::Warn, "none can be read")
            } else {
                let told = format!("{} readings: {}", names.len(), names.join(", "));
                finding(check, Verdict::Pass, told)
            }
        }
        Err(error) => finding(check, Verdict::Fail, error.to_string()),
    }
}

fn processor_energy() -> Finding {
    let check = "processor energy (RAPL)";
    match Rapl::open(Path::new(POWERCAP)).map(|mut rapl| rapl.read()) {
        Some(Some(_)) => finding(check, Verdict::Pass, "readable"),
        Some(None) => finding(
            check,
            Verdict::Warn,
            format!(
                "there, but not readable: run the agent as root, or grant it `energy_uj` below {POWERCAP}; without it node power is estimated"
            ),
        ),
        None => finding(
            check,
            Verdict::Warn,
            format!(
                "this machine shows none below {POWERCAP}; node power comes from its BMC or is estimated"
            ),
        ),
    }
}

fn gpus(library: Option<&Path>, site: Option<&Site>, found: &mut Vec<Finding>) {
    let check = "GPUs (NVML)";
    let node = NodeId::from("doctor");
    let nvml = match NvmlSource::open(library, &node) {
        Ok(nvml) => nvml,
        Err(error) => {
            // A server needs no GPU; a node that was asked about by library does.
            let verdict = if library.is_some() {
                Verdict::Fail
            } else {
                Verdict::Warn
            };
            found.push(finding(check, verdict, error.to_string()));
            return;
        }
    };
    let devices = nvml.devices();
    let (all, cappable) = (nvml.count(), devices.len());
    let told = format!("{all} found, {cappable} with a settable power limit");
    let verdict = if all == cappable && all > 0 {
        Verdict::Pass
    } else {
        Verdict::Warn
    };
    found.push(finding(check, verdict, told));
    for device in devices {
        let told = format!(
            "{} {}: limit {}, settable {} to {}; setting needs root and is not tried",
            device.product, device.uuid, device.current, device.min, device.max
        );
        found.push(finding(device.device.as_str(), Verdict::Pass, told));
    }
    if let Some(site) = site
        && !site.nodes.iter().any(|node| node.devices.len() == all)
    {
        let told = format!(
            "no node of {} has {all} of them; samples of devices that the site does not name are refused",
            site.id
        );
        found.push(finding("GPUs against the site file", Verdict::Warn, told));
    }
}

async fn broker(config: &MqttConfig) -> Finding {
    let check = format!("broker {config}");
    let name = format!("doctor-{}", std::process::id());
    match broker_probe::round_trip(config, &name, BROKER_WAIT).await {
        Ok(took) => {
            let told = format!("a message came back in {:.1} ms", took.as_secs_f64() * 1e3);
            finding(&check, Verdict::Pass, told)
        }
        Err(error) => finding(&check, Verdict::Fail, error.to_string()),
    }
}
