//! The demo's stage: the twin hall with its boards, an agent for every node,
//! one for the facility, one for the grid, and the server.

use super::Args;
use super::grid;
use super::pace::Pace;
use crate::files::demo_site;
use crate::server::{BrokerChoice, Server, ServerConfig};
use anyhow::Context;
use heliostat_collector::source::grid::GridReplay;
use heliostat_collector::source::nvml::NvmlSource;
use heliostat_collector::{Agent, AgentConfig, AgentHandle, CapActuator, Source};
use heliostat_models::{AgentId, Site};
use heliostat_store::{Clock, SteppedClock};
use heliostat_twin::{
    CapSource, DefaultOrder, FacilitySource, Hall, HallConfig, NodeSensorSource, SchedulerBridge,
    Shadows, boards, workload,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinSet;

/// Grid history that forecasts may look at.
const HISTORY: Duration = Duration::from_secs(28 * 86_400);
/// The grid changes by the hour; planning more often would only heat the machine
/// that runs the hall.
const PLAN_EVERY: Duration = Duration::from_secs(3_600);
/// By so much the clock goes beyond the end of the last lease when the demo ends.
const LEASES_END: Duration = Duration::from_secs(1);
/// Most bytes of one agent's spool in the demo.
const SPOOL: u64 = 64 << 20;

/// Everything that plays.
pub struct Stage {
    pub site: Arc<Site>,
    pub clock: Arc<SteppedClock>,
    pub hall: Arc<Mutex<Hall>>,
    pub shadows: Shadows,
    pub agents: Vec<AgentHandle>,
    pub server: Server,
    /// Largest gap of any plan's certificate so far.
    pub max_plan_gap: f64,
    bridge: SchedulerBridge,
    /// How long leases last here.
    lease: Duration,
    /// Removed when the stage goes, however it goes; none where the data stays.
    _temporary: Option<TempDir>,
}

impl Stage {
    /// Sets the stage; nothing moves until the clock does.
    pub async fn set(args: &Args, pace: &Pace) -> anyhow::Result<Self> {
        let site = Arc::new(site_of(args)?);
        let clock = Arc::new(SteppedClock::new(args.start));
        let (data, temporary) = data_directory(args)?;

        let mut policy = site.control.clone();
        policy.armed = true;
        policy.sample_every = pace.step;
        policy.allocate_every = pace.step;
        policy.plan_every = PLAN_EVERY.max(pace.step);
        // Leases outlast several steps, so that one late message ends none.
        policy.lease = policy.lease.max(pace.step * 10);
        let lease = policy.lease;
        let server = Server::start(ServerConfig {
            site: Arc::clone(&site),
            data: data.clone(),
            http: args.http,
            broker: BrokerChoice::Embedded(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            clock: clock.clone(),
            policy,
            api_token: None,
            note: Some(format!(
                "Demo: simulated hall, jobs and weather; recorded generation of {} from {}; about {:.0} times real time",
                args.zone, args.start, pace.speed
            )),
        })
        .await?;

        let boards = boards::create(&data.join("boards"), &site)
            .with_context(|| format!("cannot put the hall's boards into {}", data.display()))?;
        let libraries: Vec<PathBuf> = boards.iter().map(|b| b.lib.clone()).collect();
        let truth = grid::recorded(
            &args.zone,
            args.start,
            args.span + Duration::from_secs(86_400),
        )?;
        let mut config = HallConfig::new(args.start, args.seed);
        config.default_order = DefaultOrder::HoldInterruptible;
        config.open = false;
        config.grid = Some(truth);
        let jobs = workload::demo_jobs(&site, args.start, args.span, args.seed);
        let mut hall = Hall::new(Arc::clone(&site), config.clone(), CapSource::Boards(boards))?;
        let shadows = Shadows::new(&hall, &config, &jobs)?;
        for job in &jobs {
            hall.submit(job)?;
        }
        let hall = Arc::new(Mutex::new(hall));
        let bridge = SchedulerBridge::start(&server.mqtt, &site.id, Arc::clone(&hall))?;

        let mut agents = Vec::with_capacity(site.nodes.len() + 2);
        let start = |name: &str, sources, actuator| {
            let config = AgentConfig {
                agent: AgentId::from(name),
                site: site.id.clone(),
                mqtt: server.mqtt.clone(),
                spool_dir: data.join("spool").join(name),
                sample_every: pace.step,
                spool_limit_bytes: SPOOL,
                arm: true,
            };
            Agent::start(config, sources, actuator, clock.clone() as Arc<dyn Clock>)
        };
        for (index, node) in site.nodes.iter().enumerate() {
            let nvml = NvmlSource::open(Some(&libraries[index]), &node.id)?;
            let actuator: Box<dyn CapActuator> = Box::new(nvml.actuator());
            let sensors = NodeSensorSource::new(Arc::clone(&hall), &node.id)
                .with_context(|| format!("the hall has no node {}", node.id))?;
            let sources: Vec<Box<dyn Source>> = vec![Box::new(nvml), Box::new(sensors)];
            agents.push(start(node.id.as_str(), sources, Some(actuator))?);
        }
        agents.push(start(
            "facility",
            vec![Box::new(FacilitySource::new(Arc::clone(&hall)))],
            None,
        )?);
        let replay = GridReplay::new(&args.zone, site.grid_device(), args.start, HISTORY)?;
        agents.push(start("grid", vec![Box::new(replay)], None)?);
        Ok(Self {
            site,
            clock,
            hall,
            shadows,
            agents,
            server,
            max_plan_gap: 0.0,
            bridge,
            lease,
            _temporary: temporary,
        })
    }

    /// The hall, whoever panicked while holding it.
    pub fn hall(&self) -> MutexGuard<'_, Hall> {
        self.hall.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops agents (they restore the limits that they found), then the server.
    pub async fn strike(self) {
        self.bridge.stop().await;
        // Under a lease an agent restores only what there is room for, and here all
        // leave at once: so control ends first, and with it the leases.
        self.server.control.arm(false, "the end of the demo");
        self.clock
            .advance_to(self.clock.now() + self.lease + LEASES_END);
        // All at once: each may wait for its last acknowledgements.
        let mut leaving = JoinSet::new();
        for agent in self.agents {
            leaving.spawn(agent.stop());
        }
        while leaving.join_next().await.is_some() {}
        self.server.stop().await;
    }
}

/// The built-in site, in the zone that was asked for.
fn site_of(args: &Args) -> anyhow::Result<Site> {
    let mut site = demo_site()?;
    site.zone = args.zone.clone();
    if let Err(name) = site.index_names() {
        anyhow::bail!("the demo site uses the name {name} twice");
    }
    Ok(site)
}

/// Where the demo keeps its data. A temporary directory is private to this
/// user (libraries are loaded from it) and goes with the value that is returned.
fn data_directory(args: &Args) -> anyhow::Result<(PathBuf, Option<TempDir>)> {
    let Some(path) = &args.data else {
        let temporary = tempfile::Builder::new()
            .prefix("heliostat-demo-")
            .tempdir()
            .context("cannot make a temporary directory; name one with --data")?;
        return Ok((temporary.path().to_owned(), Some(temporary)));
    };
    if path.join("store").exists() {
        anyhow::bail!(
            "{} already holds a store; the demo begins anew, so give it an empty directory",
            path.display()
        );
    }
    std::fs::create_dir_all(path)
        .with_context(|| format!("cannot make the data directory {}", path.display()))?;
    Ok((path.clone(), None))
}
