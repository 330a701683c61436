//! The agent: samples its devices, keeps what it sampled until the store has
//! it, and applies caps.

mod caps;
mod caps_thread;
mod fence;
mod found;
mod kept;
mod others;
mod outbox;
mod reconnects;
mod run;
mod sampler;
mod stats;
mod times;

pub use stats::{AgentStats, CapStats, SourceStats};

use crate::actuate::CapActuator;
use crate::mqtt::{Inbox, Link, MqttConfig};
use crate::source::Source;
use crate::spool::{Spool, SpoolError};
use caps::CapKeeper;
use caps_thread::CapThread;
use heliostat_models::wire::Topics;
use heliostat_models::{AgentId, SiteId, Timestamp};
use heliostat_store::Clock;
use outbox::Outbox;
use sampler::Sampler;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use times::Times;
use tokio::sync::{oneshot, watch};

/// Bytes of messages to an agent that may wait.
const INBOX: usize = 16 << 20;

/// What an agent is told.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Its name; on a compute node the node's name.
    pub agent: AgentId,
    /// Its site.
    pub site: SiteId,
    /// The broker.
    pub mqtt: MqttConfig,
    /// Directory of the spool and of the limits to restore; one agent each.
    pub spool_dir: PathBuf,
    /// Samples are taken at the multiples of this span, on the injected clock.
    pub sample_every: Duration,
    /// Most bytes in the spool.
    pub spool_limit_bytes: u64,
    /// Whether it may set power limits.
    pub arm: bool,
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The list of limits to restore.
    #[error("the limits that an earlier run found cannot be read: {0}")]
    Found(std::io::Error),
    /// A thread.
    #[error("the system gives no thread: {0}")]
    Thread(std::io::Error),
    /// The configuration makes no sense.
    #[error("{0}")]
    Config(String),
}

/// The agent; see [`Agent::start`].
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Starts an agent on the running tokio runtime. Returns when the spool is
    /// open and limits of an earlier run are restored; the broker may come later.
    pub fn start(
        config: AgentConfig,
        sources: Vec<Box<dyn Source>>,
        actuator: Option<Box<dyn CapActuator>>,
        clock: Arc<dyn Clock>,
    ) -> Result<AgentHandle, AgentError> {
        check(&config, &sources)?;
        let spool = Spool::open(&config.spool_dir, config.spool_limit_bytes)?;
        let found = spool.found();
        if found.torn_bytes > 0 || found.damaged > 0 {
            tracing::warn!(
                agent = %config.agent, torn_bytes = found.torn_bytes, damaged = found.damaged,
                "the spool was damaged by a crash; what could be read is kept"
            );
        }
        let mut times = Times::new(Arc::clone(&clock));
        let keeper = CapKeeper::new(
            config.agent.clone(),
            config.arm,
            actuator,
            &config.spool_dir,
            times.now(),
        )
        .map_err(AgentError::Found)?;
        times.not_before(keeper.said());
        let caps = CapThread::start(keeper).map_err(AgentError::Thread)?;
        let sampler = Sampler::start(sources).map_err(AgentError::Thread)?;
        let topics = Topics::new(&config.site);
        let (inbox, events) = Inbox::new(INBOX);
        let link = Link::start(
            &config.mqtt,
            &format!("heliostat-agent-{}-{}", config.site, config.agent),
            vec![topics.acks(&config.agent), topics.caps(&config.agent)],
            inbox,
        );
        let first = first_instant(clock.now(), config.sample_every);
        let (sampled, sampled_until) = watch::channel(first - Duration::from_millis(1));
        let stats = Arc::new(Mutex::new(AgentStats {
            samples_found: found.samples,
            ..AgentStats::default()
        }));
        let (stop, stopped) = oneshot::channel();
        let runner = run::Runner {
            outbox: Outbox::new(spool, &config.site, &config.agent),
            topics,
            link,
            events,
            sampler,
            caps,
            clock,
            times,
            sampled,
            stats: Arc::clone(&stats),
            synced: (0, 0),
            told: run::Told::default(),
            reconnects: reconnects::Reconnects::default(),
            config,
        };
        let task = tokio::spawn(runner.run(first, stopped));
        Ok(AgentHandle {
            task: Some(task),
            stop: Some(stop),
            sampled_until,
            stats,
        })
    }
}

fn check(config: &AgentConfig, sources: &[Box<dyn Source>]) -> Result<(), AgentError> {
    let fault = |text: String| Err(AgentError::Config(text));
    if !heliostat_models::ids::is_valid_name(config.agent.as_str()) {
        return fault(format!(
            "`{}` is no name for an agent; use 1 to 64 of a-z A-Z 0-9 . _ -, starting with a letter or digit",
            config.agent
        ));
    }
    if config.sample_every < Duration::from_millis(10) {
        return fault(format!(
            "sampling every {:?} is too often; 10 ms is the least",
            config.sample_every
        ));
    }
    let mut names: Vec<&str> = sources.iter().map(|s| s.name()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|w| w[0] == w[1]) {
        return fault(format!("two sources are named `{}`", twice[0]));
    }
    if tokio::runtime::Handle::try_current().is_err() {
        return fault("an agent must be started within a tokio runtime".into());
    }
    Ok(())
}

/// The first aligned instant that is not before `now`.
fn first_instant(now: Timestamp, every: Duration) -> Timestamp {
    if now.floor_to(every) == now {
        now
    } else {
        now.next_multiple_of(every)
    }
}

/// A running agent. Dropping it ends the agent at once, as a crash would:
/// nothing is restored until the next start; [`AgentHandle::stop`] is the clean way.
#[derive(Debug)]
pub struct AgentHandle {
    task: Option<tokio::task::JoinHandle<()>>,
    stop: Option<oneshot::Sender<()>>,
    sampled_until: watch::Receiver<Timestamp>,
    stats: Arc<Mutex<AgentStats>>,
}

impl AgentHandle {
    /// The counters.
    pub fn stats(&self) -> AgentStats {
        let stats = self.stats.lock();
        stats.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The last instant for which every source has answered or was given up,
    /// and whose samples are in the spool.
    pub fn sampled_until(&self) -> Timestamp {
        *self.sampled_until.borrow()
    }

    /// Returns once [`AgentHandle::sampled_until`] reaches `at`, or the agent has ended.
    pub async fn wait_sampled_until(&self, at: Timestamp) {
        let mut sampled = self.sampled_until.clone();
        let _ = sampled.wait_for(|t| *t >= at).await;
    }

    /// Samples no more, restores the limits found, sends what is in the spool
    /// for as long as acknowledgements come, and disconnects. Returns the last counters.
    pub async fn stop(mut self) -> AgentStats {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
        self.stats()
    }

    /// Ends the agent as a crash would, and returns when it has ended.
    pub async fn kill(mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for AgentHandle {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
