//! What a round reads, kept from one to the next: it is read again where its
//! source says that there is news, or where readings have become stale.

use super::executor::Executor;
use super::measure::{Measured, Readings, measure};
use heliostat_models::{DeviceId, JobId, JobState, Site, Timestamp};
use heliostat_store::jobs::{JobEntry, JobTable};
use heliostat_store::query::Selector;
use heliostat_store::{Query, TimeSeriesStore};
use std::sync::Arc;
use std::time::Duration;

/// Jobs, readings and what follows from them.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    /// The jobs as their records say.
    pub jobs: Arc<Vec<JobEntry>>,
    pub readings: Readings,
    pub measured: Option<Arc<Measured>>,
    /// The devices of the jobs that run.
    running: Vec<(JobId, Vec<DeviceId>)>,
    jobs_version: Option<u64>,
    store_version: Option<u64>,
    /// Grows with everything that is read.
    version: u64,
    /// What was measured from.
    measured_from: Option<(u64, u64)>,
}

impl Inputs {
    /// Grows when jobs or readings are others.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Whether a job has its devices.
    pub fn runs(&self, id: &JobId) -> bool {
        self.running.iter().any(|(running, _)| running == id)
    }

    /// Whether other jobs run, or on other devices, than were read last.
    pub fn others_run(&self, table: &JobTable) -> bool {
        self.jobs_version != Some(table.version()) && running(&table.all()) != self.running
    }

    /// Reads the jobs; whether any is new.
    pub fn read_jobs(&mut self, table: &JobTable) -> bool {
        // Asked first: what comes in between is read now and once more.
        let version = Some(table.version());
        if version == self.jobs_version {
            return false;
        }
        self.jobs = Arc::new(table.all());
        self.running = running(&self.jobs);
        self.jobs_version = version;
        self.version += 1;
        true
    }

    /// Reads the latest frames, those left out that are older than `fresh`, or as far
    /// ahead of `now`; whether there is anything new, and what went wrong.
    pub async fn read_store(
        &mut self,
        store: &dyn TimeSeriesStore,
        now: Timestamp,
        fresh: Duration,
    ) -> (bool, Option<String>) {
        let since = now - fresh;
        let version = store.version();
        let same = version.is_some() && version == self.store_version;
        if same && self.readings.stay_fresh(since) {
            return (false, None);
        }
        let select = Selector::default();
        let (frames, trouble) = match store.query(&Query::Latest { select, since }).await {
            Ok(answer) => (answer.frames(), None),
            // Without readings everything counts at its rated figure.
            Err(error) => {
                let trouble = format!("The store gives no readings: {error}");
                (Vec::new(), Some(trouble))
            }
        };
        self.store_version = version.filter(|_| trouble.is_none());
        let whole = Arc::clone(self.readings.whole());
        self.readings = Readings::new(frames, since)
            .not_after(now + fresh)
            .limited_whole(whole);
        self.version += 1;
        (true, trouble)
    }

    /// Measures, where anything that goes into it is new.
    pub fn measure(&mut self, site: &Site, executor: &Executor) {
        let from = Some((self.version, executor.version()));
        if self.measured.is_none() || self.measured_from != from {
            let whole = Arc::clone(executor.limited_whole());
            self.readings = std::mem::take(&mut self.readings)
                .limited_whole(whole)
                .caps_since(Arc::clone(executor.lowered()));
            let caps = executor.worst_caps();
            let measured = measure(site, &self.readings, &self.jobs, caps);
            self.measured = Some(Arc::new(measured));
            self.measured_from = from;
        }
    }
}

fn running(entries: &[JobEntry]) -> Vec<(JobId, Vec<DeviceId>)> {
    (entries.iter())
        .filter(|e| e.record.state == JobState::Running)
        .map(|e| (e.record.id.clone(), e.record.devices.clone()))
        .collect()
}
