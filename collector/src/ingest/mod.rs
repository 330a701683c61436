//! Ingest: what agents and schedulers send is checked, pseudonymised, stored,
//! and only then acknowledged.

mod acks;
pub(crate) mod instant;
mod jobs;
pub(crate) mod validate;
mod writer;

use crate::mqtt::{Inbox, Link, MqttConfig};
use crate::pseudonym::Pseudonymiser;
use heliostat_models::wire::Topics;
use heliostat_models::{AgentId, Site, Timestamp};
use heliostat_store::jobs::JobTable;
use heliostat_store::{Clock, TimeSeriesStore};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// Bytes of messages that may wait while the store is slow or its disk full.
/// What is dropped beyond it, agents send again.
const INBOX: usize = 64 << 20;

/// Why ingest could not start.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// There is no runtime to run on.
    #[error("ingest must be started within a tokio runtime")]
    NoRuntime,
    /// No name for the connection.
    #[error("the system gives no random numbers: {0}")]
    Random(String),
}

/// Counters of an ingest since it was started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct IngestStats {
    /// Whether the broker is reached now.
    pub connected: bool,
    /// Readings stored.
    pub samples_stored: u64,
    /// Frames stored.
    pub frames_stored: u64,
    /// Readings that were in the store already.
    pub duplicates: u64,
    /// Readings that were not stored, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Batches that could not be read at all; how many readings they held is not known.
    pub batches_unreadable: u64,
    /// Batches handled.
    pub batches: u64,
    /// Messages dropped because too much was waiting; agents send them again.
    pub postponed: u64,
    /// Times that the store could not write and was tried again.
    pub store_failures: u64,
    /// What the store said last, while it cannot write.
    pub store_trouble: Option<String>,
    /// Job records stored.
    pub jobs_stored: u64,
    /// Job records refused.
    pub jobs_refused: u64,
    /// Job records refused unread, because their signature is missing or wrong.
    pub jobs_unsigned: u64,
    /// When each agent was heard last, on this clock.
    pub agents: BTreeMap<AgentId, Timestamp>,
}

impl IngestStats {
    /// Readings refused, for whatever reason.
    pub fn samples_refused(&self) -> u64 {
        self.refused.values().sum()
    }
}

pub(crate) type SharedStats = Arc<Mutex<IngestStats>>;

pub(crate) fn edit(stats: &SharedStats, change: impl FnOnce(&mut IngestStats)) {
    change(&mut stats.lock().unwrap_or_else(PoisonError::into_inner));
}

/// Ingest; see [`Ingest::start`].
#[derive(Debug)]
pub struct Ingest;

impl Ingest {
    /// Starts ingest on the running tokio runtime. The broker may come later.
    pub fn start(
        mqtt: MqttConfig,
        site: Arc<Site>,
        store: Arc<dyn TimeSeriesStore>,
        jobs: Arc<JobTable>,
        pseudonyms: Pseudonymiser,
        clock: Arc<dyn Clock>,
    ) -> Result<IngestHandle, IngestError> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(IngestError::NoRuntime);
        }
        let topics = Topics::new(&site.id);
        // Two connections of one name would throw each other out for ever.
        let unique = getrandom::u64().map_err(|e| IngestError::Random(e.to_string()))?;
        let (inbox, events) = Inbox::new(INBOX);
        let link = Link::start(
            &mqtt,
            &format!("heliostat-ingest-{}-{unique:016x}", site.id),
            vec![topics.all_frames(), topics.jobs()],
            inbox.clone(),
        );
        let stats = SharedStats::default();
        let trust = jobs::Trust {
            key: mqtt.key.clone(),
            topic: topics.jobs(),
        };
        let writer = writer::Writer {
            topics,
            site,
            store,
            clock,
            link,
            inbox,
            events,
            jobs: jobs::JobDesk::start(jobs, pseudonyms, trust, Arc::clone(&stats)),
            runs: BTreeMap::new(),
            stats: Arc::clone(&stats),
        };
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(writer.run(stopped));
        Ok(IngestHandle {
            task: Some(task),
            stop: Some(stop),
            stats,
        })
    }
}

/// A running ingest. Dropping it ends it at once; nothing acknowledged is lost.
#[derive(Debug)]
pub struct IngestHandle {
    task: Option<tokio::task::JoinHandle<()>>,
    stop: Option<oneshot::Sender<()>>,
    stats: SharedStats,
}

impl IngestHandle {
    /// The counters.
    pub fn stats(&self) -> IngestStats {
        let stats = self.stats.lock();
        stats.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The counters for whoever outlives this handle.
    pub fn reader(&self) -> impl Fn() -> IngestStats + Send + Sync + 'static {
        let stats = Arc::clone(&self.stats);
        move || stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Finishes what is being written, and disconnects.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Drop for IngestHandle {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
