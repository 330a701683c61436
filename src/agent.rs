//! `heliostat agent`: reads the devices of one node, sends samples, applies
//! leased caps, until it is told to stop.

use crate::actuator_choice::{ActuatorArgs, Circumstances};
use crate::broker_argument;
use crate::files;
use anyhow::{Context, bail};
use heliostat_collector::source::Source;
use heliostat_collector::source::host::HostSource;
use heliostat_collector::source::nvml::NvmlSource;
use heliostat_collector::source::throughput::ThroughputSource;
use heliostat_collector::{Agent, AgentConfig, MqttConfig};
use heliostat_models::{AgentId, DeviceId, NodeId};
use heliostat_store::WallClock;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Run on a compute node: read its devices, send samples, apply leased caps.
///
/// Observes only, unless `--arm` is given. Samples stay in the spool until the
/// server has them on disk, so broker and server may be away for a while.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  heliostat agent --site /etc/heliostat/site.toml --node r01-n1 --mqtt power.example.org:1883 --spool /var/lib/heliostat/agent\n  heliostat agent --site site.toml --node r01-n1 --spool DIR --sources host --actuator hwmon --arm\n  heliostat agent --site site.toml --node r01-n1 --spool DIR --actuator ipmi --dry-run\n\nAt SIGTERM or Ctrl-C it restores the power limits that it found, when the controller in charge has made room for them; else, and after a crash, devices keep their safe caps until control speaks or an hour has passed without it.\nThe broker's user and password, where it asks for them: environment variables HELIOSTAT_MQTT_USER and HELIOSTAT_MQTT_PASSWORD. With HELIOSTAT_CONTROL_KEY, a secret of 16 bytes or more that server and agents share, all that moves power is signed, and what is not is refused."
)]
pub struct Args {
    /// The site's configuration
    #[arg(long, value_name = "FILE")]
    site: PathBuf,
    /// This node, as the configuration names it
    #[arg(long, value_name = "NAME")]
    node: String,
    /// The broker
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:1883", value_parser = broker_argument::parse)]
    mqtt: MqttConfig,
    /// Where samples wait until they are acknowledged; one directory an agent
    #[arg(long, value_name = "DIR")]
    spool: PathBuf,
    /// Most mebibytes in the spool; beyond it new samples are dropped and counted
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    spool_limit: u64,
    /// NVML library, if not the system's
    #[arg(long, value_name = "PATH")]
    nvml_lib: Option<PathBuf>,
    /// What to read
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "host,nvml"
    )]
    sources: Vec<SourceName>,
    /// Also read what jobs say of their progress: a file a job, named by its number, with its work per second
    #[arg(long, value_name = "DIR")]
    throughput: Option<PathBuf>,
    /// Let it set power limits, as the server's leases say
    #[arg(long)]
    arm: bool,
    #[command(flatten)]
    power: ActuatorArgs,
    /// How often to sample, like 1s or 500ms; else as the configuration says
    #[arg(long, value_name = "SPAN", value_parser = span)]
    every: Option<Duration>,
}

/// A source that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SourceName {
    /// CPU, memory, network, temperatures and CPU energy of this machine
    Host,
    /// NVIDIA GPUs
    Nvml,
}

/// Runs the agent until SIGTERM or Ctrl-C.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let site = files::load_site(&args.site)?;
    let Some((place, node)) = site.node(&args.node) else {
        bail!(
            "the site {} has no node `{}`; {}",
            site.id,
            args.node,
            known_nodes(&site)
        );
    };
    let nvml = open_nvml(args, &node.id, node.devices.len())?;
    let actuator = args.power.open(&Circumstances {
        site: &site,
        node: place,
        nvml: nvml.as_ref(),
        directory: &args.spool,
    })?;
    let sources = sources(args, &node.id, nvml);
    let config = AgentConfig {
        agent: AgentId::from(node.id.as_str()),
        site: site.id.clone(),
        mqtt: args.mqtt.clone(),
        spool_dir: args.spool.clone(),
        sample_every: args.every.unwrap_or(site.control.sample_every),
        spool_limit_bytes: args.spool_limit << 20,
        // A dry run sets nothing, and is asked like one that does.
        arm: args.arm || args.power.dry_run,
    };
    let every = config.sample_every;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("the system gives no threads")?;
    runtime.block_on(async {
        // Before the agent touches anything, so that no signal finds it without an ear.
        let mut terminated =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let agent = Agent::start(config, sources, actuator, Arc::new(WallClock))?;
        tracing::info!(
            node = %args.node, broker = %args.mqtt, ?every,
            mode = match (args.power.dry_run, args.arm) {
                (true, _) => "dry run: verifies leased caps, sets none",
                (false, true) => "armed: applies leased caps",
                (false, false) => "observe only",
            },
            "agent started"
        );
        tokio::select! {
            _ = terminated.recv() => {}
            interrupted = tokio::signal::ctrl_c() => interrupted?,
        }
        tracing::info!("stopping: restoring power limits, sending what is spooled");
        let stats = agent.stop().await;
        tracing::info!(
            taken = stats.samples_taken,
            acknowledged = stats.samples_acknowledged,
            batches_waiting = stats.batches_waiting,
            dropped = stats.dropped(),
            "agent stopped; what waits is sent at the next start"
        );
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The NVIDIA driver, where it is to be read.
fn open_nvml(args: &Args, node: &NodeId, expected: usize) -> anyhow::Result<Option<NvmlSource>> {
    if !args.sources.contains(&SourceName::Nvml) {
        return Ok(None);
    }
    let nvml = NvmlSource::open(args.nvml_lib.as_deref(), node)?;
    if nvml.count() != expected {
        tracing::warn!(
            configured = expected,
            found = nvml.count(),
            "this node has another number of GPUs than the site's configuration says; samples of unknown ones are refused"
        );
    }
    Ok(Some(nvml))
}

fn sources(args: &Args, node: &NodeId, nvml: Option<NvmlSource>) -> Vec<Box<dyn Source>> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    if args.sources.contains(&SourceName::Host) {
        sources.push(Box::new(HostSource::new(DeviceId::from(node.as_str()))));
    }
    if let Some(nvml) = nvml {
        sources.push(Box::new(nvml));
    }
    if let Some(directory) = &args.throughput {
        sources.push(Box::new(ThroughputSource::new(directory.clone())));
    }
    sources
}

fn known_nodes(site: &heliostat_models::Site) -> String {
    let names: Vec<&str> = site.nodes.iter().take(8).map(|n| n.id.as_str()).collect();
    let more = site.nodes.len().saturating_sub(names.len());
    match more {
        0 => format!("its nodes are {}", names.join(", ")),
        more => format!("its nodes are {} and {more} more", names.join(", ")),
    }
}

pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let fault = || format!("`{text}` is no span; write it like 1s, 500ms or 1m");
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(fault)?;
    let number: u64 = text[..digits].parse().map_err(|_| fault())?;
    let span = match &text[digits..] {
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        "m" => Duration::from_secs(number.saturating_mul(60)),
        _ => return Err(fault()),
    };
    if span < Duration::from_millis(10) || span > Duration::from_secs(3_600) {
        return Err(format!(
            "`{text}`: sample at most every 10ms and at least every 60m"
        ));
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_or_refused_with_an_example() {
        assert_eq!(span("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(span("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "1", "s", "1h", "0s", "99999999999999999999s"] {
            assert!(span(bad).is_err(), "{bad}");
        }
    }
}
