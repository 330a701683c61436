//! `heliostat simulate`: the twin as a process of its own, so that real agents
//! run against it through NVML.

use crate::broker_argument;
use crate::files;
use anyhow::{Context, bail};
use heliostat_collector::{Agent, AgentConfig, AgentHandle, MqttConfig, Source};
use heliostat_models::{AgentId, Site};
use heliostat_store::directory_lock::{Access, DirectoryLock};
use heliostat_store::{Clock, SteppedClock, WallClock};
use heliostat_twin::{
    CapSource, FacilitySource, Fault, Hall, HallConfig, NodeSensorSource, SchedulerBridge, boards,
    workload,
};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often the hall moves on (wall time).
const TICK: Duration = Duration::from_millis(100);

/// Run a data centre in software, for agents to read and cap.
///
/// Writes one directory a node with a library that speaks NVML. An agent that
/// is started with it believes to be on that node:
/// `heliostat agent --node r01-n1 --nvml-lib DIR/r01-n1/libnvidia-ml.so.1 …`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  heliostat simulate --site site-configs/demo.toml --boards boards --mqtt 127.0.0.1:1883\n\nFaults: lost, no-permission, no-limits, no-energy, no-power, slow-MILLISECONDS, stuck, energy-reset, limit-revert, heal.\n  --fault r01-n1:3:lost@60   GPU 3 of r01-n1 falls off the bus after 60 s"
)]
pub struct Args {
    /// The site's configuration; the built-in demo hall, if none is given
    #[arg(long, value_name = "FILE")]
    site: Option<PathBuf>,
    /// Where the nodes' libraries and boards are written; old boards there are replaced
    #[arg(long, value_name = "DIR")]
    boards: PathBuf,
    /// Of everything random: the same seed gives the same hall and jobs
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Also send meters, cooling and node sensors to this broker, and obey its orders to jobs
    #[arg(long, value_name = "HOST:PORT", value_parser = broker_argument::parse)]
    mqtt: Option<MqttConfig>,
    /// Seconds of the hall a second of the clock on the wall
    #[arg(long, value_name = "X", default_value_t = 1.0, value_parser = speed)]
    speed: f64,
    /// End after this span of wall time, like 60s; else at SIGTERM or Ctrl-C
    #[arg(long = "for", value_name = "SPAN", value_parser = span)]
    span: Option<Duration>,
    /// Put a fault into a GPU: NODE:GPU:KIND@SECONDS of the hall; may be given many times
    #[arg(long, value_name = "FAULT", value_parser = fault)]
    fault: Vec<FaultArg>,
    /// Print the nodes' libraries, and the sums at the end, as JSON lines
    #[arg(long)]
    json: bool,
}

/// A fault as asked for.
#[derive(Clone, Debug, PartialEq)]
struct FaultArg {
    node: String,
    gpu: u32,
    fault: Fault,
    after: Duration,
}

/// Two halls must not write the same boards.
fn lock(boards: &Path) -> anyhow::Result<DirectoryLock> {
    std::fs::create_dir_all(boards).with_context(|| {
        format!(
            "cannot make the directory of the boards {}",
            boards.display()
        )
    })?;
    let path = boards.join("lock");
    DirectoryLock::take(&path, Access::Alone)
        .with_context(|| format!("cannot lock {}", path.display()))?
        .with_context(|| {
            format!(
                "another `heliostat simulate` runs on the boards in {}; stop it, or name another directory with --boards",
                boards.display()
            )
        })
}

/// Runs the hall until it is told to stop.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let site = Arc::new(match &args.site {
        Some(file) => files::load_site(file)?,
        None => files::demo_site()?,
    });
    let mut faults = place_faults(&site, &args.fault)?;
    let _alone = lock(&args.boards)?;
    let boards = boards::create(&args.boards, &site)?;
    for board in &boards {
        if args.json {
            let line = serde_json::json!({ "node": board.node.as_str(), "nvml_lib": board.lib });
            println!("{line}");
        } else {
            println!("{}  {}", board.node, board.lib.display());
        }
    }
    let start = WallClock.now();
    let mut hall = Hall::new(
        Arc::clone(&site),
        HallConfig::new(start, args.seed),
        CapSource::Boards(boards),
    )?;
    let two_days = Duration::from_secs(48 * 3_600);
    for job in workload::demo_jobs(&site, start, two_days, args.seed) {
        hall.submit(&job)?;
    }
    let hall = Arc::new(Mutex::new(hall));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the system gives no threads")?;
    runtime.block_on(async {
        let mut terminated =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let clock = Arc::new(SteppedClock::new(start));
        let network = match &args.mqtt {
            Some(broker) => Some(connect(args, broker, &site, &hall, Arc::clone(&clock))?),
            None => None,
        };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = terminated.recv() => break,
                interrupted = tokio::signal::ctrl_c() => { interrupted?; break; }
            }
            let passed = WallClock.now().seconds_since(start).max(0.0);
            if args.span.is_some_and(|span| passed >= span.as_secs_f64()) {
                break;
            }
            let to = start + Duration::from_secs_f64(passed * args.speed);
            let moving = Arc::clone(&hall);
            let due: Vec<(usize, Fault)> = take_due(&mut faults, passed * args.speed);
            // A long step must not hold up the network.
            tokio::task::spawn_blocking(move || {
                let mut hall = moving.lock().unwrap_or_else(PoisonError::into_inner);
                hall.step(to);
                due.into_iter()
                    .try_for_each(|(device, fault)| hall.inject(device, fault))
            })
            .await
            .context("the hall's thread ended")??;
            clock.advance_to(to);
        }
        if let Some((agent, bridge)) = network {
            agent.stop().await;
            bridge.stop().await;
        }
        anyhow::Ok(())
    })?;
    summary(args, &hall.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(ExitCode::SUCCESS)
}

fn connect(
    args: &Args,
    broker: &MqttConfig,
    site: &Arc<Site>,
    hall: &Arc<Mutex<Hall>>,
    clock: Arc<SteppedClock>,
) -> anyhow::Result<(AgentHandle, SchedulerBridge)> {
    let mut sources: Vec<Box<dyn Source>> = vec![Box::new(FacilitySource::new(Arc::clone(hall)))];
    for node in &site.nodes {
        if let Some(source) = NodeSensorSource::new(Arc::clone(hall), &node.id) {
            sources.push(Box::new(source));
        }
    }
    let config = AgentConfig {
        agent: AgentId::from("facility"),
        site: site.id.clone(),
        mqtt: broker.clone(),
        spool_dir: args.boards.join("facility-spool"),
        sample_every: site.control.sample_every,
        spool_limit_bytes: 64 << 20,
        arm: false,
    };
    let agent = Agent::start(config, sources, None, clock)?;
    let bridge = SchedulerBridge::start(broker, &site.id, Arc::clone(hall))?;
    Ok((agent, bridge))
}

fn summary(args: &Args, hall: &Hall) {
    let tally = hall.tally();
    let violations = hall.violations();
    if args.json {
        let line = serde_json::json!({
            "simulated_seconds": tally.device_hours * 3_600.0 / hall.site().devices.len().max(1) as f64,
            "gpu_energy_kwh": tally.gpu.kilowatt_hours(),
            "site_energy_kwh": tally.site.kilowatt_hours(),
            "work_gpu_hours": tally.work_hours,
            "limit_violations": violations.len(),
            "breaker_trips": hall.trips(),
        });
        println!("{line}");
        return;
    }
    println!(
        "{:.1} kWh at the site, {:.1} kWh of it in GPUs; {:.1} GPU-hours of work",
        tally.site.kilowatt_hours(),
        tally.gpu.kilowatt_hours(),
        tally.work_hours
    );
    for v in &violations {
        println!(
            "limit exceeded: {} by up to {:.0} from {} to {}",
            v.node, v.worst, v.from, v.to
        );
    }
}

type Placed = Vec<(f64, usize, Fault)>;

fn place_faults(site: &Site, faults: &[FaultArg]) -> anyhow::Result<Placed> {
    (faults.iter())
        .map(|f| {
            let Some((_, node)) = site.node(&f.node) else {
                bail!("--fault: the site {} has no node `{}`", site.id, f.node);
            };
            let device = node.devices.start + f.gpu as usize;
            if device >= node.devices.end {
                bail!(
                    "--fault: node {} has the GPUs 0 to {}",
                    f.node,
                    node.devices.len().saturating_sub(1)
                );
            }
            Ok((f.after.as_secs_f64(), device, f.fault))
        })
        .collect()
}

fn take_due(faults: &mut Placed, passed: f64) -> Vec<(usize, Fault)> {
    let (due, later): (Placed, Placed) = std::mem::take(faults)
        .into_iter()
        .partition(|f| f.0 <= passed);
    *faults = later;
    due.into_iter()
        .map(|(_, device, fault)| (device, fault))
        .collect()
}

fn fault(text: &str) -> Result<FaultArg, String> {
    let wrong = |what: &str| {
        format!("`{text}`: {what}; write NODE:GPU:KIND@SECONDS, like r01-n1:3:lost@60")
    };
    let (what, seconds) = text
        .rsplit_once('@')
        .ok_or_else(|| wrong("no `@SECONDS`"))?;
    let parts: Vec<&str> = what.split(':').collect();
    let [node, gpu, kind] = parts[..] else {
        return Err(wrong("three parts are needed before `@`"));
    };
    let seconds: u64 = seconds
        .trim_end_matches('s')
        .parse()
        .map_err(|_| wrong("the seconds are no number"))?;
    Ok(FaultArg {
        node: node.to_owned(),
        gpu: gpu.parse().map_err(|_| wrong("the GPU is no number"))?,
        fault: kind
            .parse()
            .map_err(|e: heliostat_twin::TwinError| e.to_string())?,
        after: Duration::from_secs(seconds),
    })
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(speed) if (0.01..=10_000.0).contains(&speed) => Ok(speed),
        _ => Err(format!(
            "`{text}` is no speed; write a number from 0.01 to 10000"
        )),
    }
}

fn span(text: &str) -> Result<Duration, String> {
    let fault = || format!("`{text}` is no span; write it like 60s or 10m");
    let (number, factor) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60),
        None => (text.strip_suffix('s').unwrap_or(text), 1),
    };
    let number: u64 = number.parse().map_err(|_| fault())?;
    Ok(Duration::from_secs(number.saturating_mul(factor)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_read_or_refused_with_an_example() {
        let lost = fault("r01-n1:3:lost@60").unwrap();
        assert_eq!(
            (lost.gpu, lost.fault, lost.after.as_secs()),
            (3, Fault::Lost, 60)
        );
        for bad in [
            "r01-n1:3:lost",
            "r01-n1:lost@60",
            "r01-n1:x:lost@60",
            "a:1:broken@1",
            "a:1:lost@soon",
        ] {
            assert!(fault(bad).is_err(), "{bad}");
        }
        assert_eq!(speed("60"), Ok(60.0));
        assert!(speed("0").is_err() && speed("NaN").is_err());
        assert_eq!(span("2m"), Ok(Duration::from_secs(120)));
        assert!(span("soon").is_err());
    }

    #[test]
    fn faults_are_due_once_and_name_real_devices() {
        let site = files::demo_site().unwrap();
        let mut placed = place_faults(&site, &[fault("r01-n2:3:stuck@60").unwrap()]).unwrap();
        assert_eq!(take_due(&mut placed, 59.0), vec![]);
        assert_eq!(take_due(&mut placed, 60.0), vec![(11, Fault::Stuck)]);
        assert_eq!(take_due(&mut placed, 61.0), vec![]);
        assert!(place_faults(&site, &[fault("nobody:3:stuck@60").unwrap()]).is_err());
        assert!(place_faults(&site, &[fault("r01-n2:8:stuck@60").unwrap()]).is_err());
    }
}
