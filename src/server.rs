//! The server's parts, started in the order of the way of a sample and stopped
//! in reverse: store, broker, ingest, control, dashboard. `run` and `demo` use
//! the same.

use crate::broker_argument;
use crate::engine::Engine;
use anyhow::Context;
use heliostat_collector::broker::Broker;
use heliostat_collector::ingest::{Ingest, IngestHandle, IngestStats};
use heliostat_collector::mqtt::MqttConfig;
use heliostat_collector::pseudonym::Pseudonymiser;
use heliostat_dashboard::{App, ControlCommands, Health, HealthCounter, Server as WebServer};
use heliostat_models::Site;
use heliostat_models::site::ControlPolicy;
use heliostat_optimizer::control::{ControlHandle, Controller, ControllerConfig, ControllerDeps};
use heliostat_optimizer::grid_event::GridEvent;
use heliostat_store::decisions::DecisionLog;
use heliostat_store::jobs::JobTable;
use heliostat_store::{Clock, TimeSeriesStore};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What to start.
pub struct ServerConfig {
    /// The site to serve.
    pub site: Arc<Site>,
    /// Where everything durable lies.
    pub data: PathBuf,
    /// Where the pages and the API answer.
    pub http: SocketAddr,
    /// The broker.
    pub broker: BrokerChoice,
    /// Whose time it is.
    pub clock: Arc<dyn Clock>,
    /// How control behaves.
    pub policy: ControlPolicy,
    /// Bearer token for writing calls of the API; none: no writing calls.
    pub api_token: Option<String>,
    /// A line on every page, such as "demo, recorded grid data".
    pub note: Option<String>,
}

/// Which broker carries the messages.
pub enum BrokerChoice {
    /// The embedded one, listening here.
    Embedded(SocketAddr),
    /// Somebody else's.
    External(MqttConfig),
}

/// Everything running.
pub struct Server {
    pub store: Engine,
    pub mqtt: MqttConfig,
    pub ingest: IngestHandle,
    pub control: ControlHandle,
    pub web: WebServer,
    housekeeping: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Starts all parts; on an error, those already started end with it.
    pub async fn start(config: ServerConfig) -> anyhow::Result<Self> {
        let ServerConfig {
            site,
            data,
            http,
            broker,
            clock,
            policy,
            api_token,
            note,
        } = config;
        let store_dir = data.join("store");
        std::fs::create_dir_all(&store_dir).with_context(|| {
            format!(
                "cannot make the data directory {}; choose another with --data",
                store_dir.display()
            )
        })?;
        let store = Engine::open(&store_dir, Arc::clone(&site), Arc::clone(&clock))?;
        let jobs = Arc::new(JobTable::open(&store_dir)?);
        let decisions = DecisionLog::open(&store_dir)?.keep_inputs(policy.keep_inputs_days);
        let decisions = Arc::new(decisions);
        let housekeeping = tokio::spawn(keep_house(
            Arc::clone(&jobs),
            Arc::clone(&decisions),
            Arc::clone(&clock),
            policy.clone(),
        ));
        // Outside the store, so that a copy of the store names nobody.
        let pseudonyms = Pseudonymiser::open(&data.join("pseudonym.key"))?;

        let mqtt = match broker {
            // It runs on threads of its own until the process ends.
            BrokerChoice::Embedded(listen) => {
                let mut mqtt = MqttConfig::from(reachable(Broker::start(listen)?.address()));
                mqtt.key = broker_argument::key().map_err(anyhow::Error::msg)?;
                mqtt
            }
            BrokerChoice::External(mqtt) => mqtt,
        };
        let dyn_store: Arc<dyn TimeSeriesStore> = store.store();
        let ingest = Ingest::start(
            mqtt.clone(),
            Arc::clone(&site),
            Arc::clone(&dyn_store),
            Arc::clone(&jobs),
            pseudonyms,
            Arc::clone(&clock),
        )?;
        let control = Controller::start(
            ControllerConfig {
                mqtt: mqtt.clone(),
                armed: policy.armed,
                policy,
                planner_enabled: true,
                identity: Some(identity(&data)?),
                directory: Some(data.clone()),
            },
            ControllerDeps {
                site: Arc::clone(&site),
                store: Arc::clone(&dyn_store),
                jobs: Arc::clone(&jobs),
                decisions: Arc::clone(&decisions),
                clock: Arc::clone(&clock),
            },
        )?;
        let app = App {
            site,
            store: dyn_store,
            jobs,
            decisions,
            view: control.view(),
            control: Some(Arc::new(Commands(control.clone()))),
            clock,
            health: health(ingest.reader(), store.clone()),
            title_note: note,
        };
        let web = heliostat_dashboard::serve(http, app, api_token).await?;
        Ok(Self {
            store,
            mqtt,
            ingest,
            control,
            web,
            housekeeping,
        })
    }

    /// Stops in reverse order; what is acknowledged is on disk before this returns.
    pub async fn stop(self) {
        self.housekeeping.abort();
        self.web.stop().await;
        self.control.stop().await;
        self.ingest.stop().await;
        self.store.close().await;
    }
}

/// Forgets jobs that ended and decisions that were taken long ago, at the start
/// and once a day.
async fn keep_house(
    jobs: Arc<JobTable>,
    decisions: Arc<DecisionLog>,
    clock: Arc<dyn Clock>,
    policy: ControlPolicy,
) {
    const DAY: Duration = Duration::from_secs(86_400);
    let keep_jobs = DAY * policy.keep_jobs_days;
    loop {
        let (table, now) = (Arc::clone(&jobs), clock.now());
        // It reads and writes the whole log.
        match tokio::task::spawn_blocking(move || table.compact(now, keep_jobs)).await {
            Ok(Ok(done)) if done.bytes_after < done.bytes_before => {
                tracing::info!(?done, "the log of jobs was compacted");
            }
            Ok(Err(error)) => tracing::error!(%error, "the log of jobs cannot be compacted"),
            _ => {}
        }
        let (log, days) = (Arc::clone(&decisions), policy.keep_decisions_days);
        match tokio::task::spawn_blocking(move || log.cut(now, days)).await {
            Ok(Ok(Some(cut))) => tracing::info!(?cut, "old decisions were cut off their log"),
            Ok(Err(error)) => tracing::error!(%error, "the log of decisions cannot be cut"),
            _ => {}
        }
        clock.wait(DAY).await;
    }
}

/// The name that this server's controller keeps over restarts: whoever has the
/// data directory is it, and one process alone can have that.
fn identity(data: &Path) -> anyhow::Result<String> {
    let path = data.join("controller-id");
    let fault = || format!("cannot keep the controller's name in {}", path.display());
    if !path.exists() {
        let mut id = [0u8; 16];
        getrandom::fill(&mut id).map_err(|e| anyhow::anyhow!("no random numbers: {e}"))?;
        let text = id.map(|byte| format!("{byte:02x}")).concat();
        std::fs::write(&path, text).with_context(fault)?;
    }
    let text = std::fs::read_to_string(&path).with_context(fault)?;
    Ok(text.trim().to_owned())
}

/// How this process reaches what listens on all addresses: over loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}

/// The pages' way to control.
struct Commands(ControlHandle);

impl ControlCommands for Commands {
    fn submit_grid_event(&self, event: GridEvent) {
        self.0.submit_grid_event(event);
    }
    fn cancel_grid_event(&self, id: &str) {
        self.0.cancel_grid_event(id);
    }
    fn arm(&self, armed: bool, who: &str) {
        self.0.arm(armed, who);
    }
}

/// Counters of ingest and store for `/metrics` and the foot of the pages.
fn health(
    ingest: impl Fn() -> IngestStats + Send + Sync + 'static,
    store: Engine,
) -> Arc<dyn Fn() -> Health + Send + Sync> {
    Arc::new(move || {
        let i = ingest();
        let s = store.store().stats();
        let counter = |name: &str, help: &str, value: u64| HealthCounter {
            name: name.to_owned(),
            help: help.to_owned(),
            value: value as f64,
        };
        let mut counters = vec![
            counter(
                "heliostat_ingest_samples_stored_total",
                "Samples that ingest wrote to the store",
                i.samples_stored,
            ),
            counter(
                "heliostat_ingest_samples_duplicate_total",
                "Samples that came a second time and were not stored again",
                i.duplicates,
            ),
            counter(
                "heliostat_ingest_samples_refused_total",
                "Samples refused: out of range, unknown device, impossible time",
                i.samples_refused(),
            ),
            counter(
                "heliostat_ingest_job_records_unsigned_total",
                "Job records refused unread: this site signs, and their signature is missing or wrong",
                i.jobs_unsigned,
            ),
            counter(
                "heliostat_store_samples_total",
                "Samples in the store",
                s.samples,
            ),
            counter(
                "heliostat_store_damaged_total",
                "Records found damaged or torn at opening",
                s.damaged,
            ),
            counter(
                "heliostat_store_disk_bytes",
                "Bytes of the store on disk",
                s.disk_bytes,
            ),
        ];
        let mut troubles = Vec::new();
        if let Some(external) = store.health() {
            if !external.up {
                let why = external.trouble.as_deref().unwrap_or("it does not answer");
                troubles.push(format!(
                    "The external store is away ({why}). Nothing is lost: {} samples wait here. Pages and answers show what is here, and nothing older, until it is back.",
                    external.spooled_samples
                ));
            }
            counters.extend([
                counter(
                    "heliostat_store_external_up",
                    "Whether the external store answered when last asked",
                    u64::from(external.up),
                ),
                counter(
                    "heliostat_store_spooled_samples",
                    "Samples kept here until the external store surely has them",
                    external.spooled_samples,
                ),
                counter(
                    "heliostat_store_rechecked_frames_total",
                    "Frames looked for again because the external store was restarted",
                    external.rechecked_frames,
                ),
            ]);
        }
        Health { counters, troubles }
    })
}
