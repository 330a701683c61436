//! Job records: the owner becomes a pseudonym before anything else happens.

use super::{SharedStats, edit};
use crate::pseudonym::Pseudonymiser;
use heliostat_models::JobRecord;
use heliostat_models::ids::is_valid_name;
use heliostat_models::signed::{self, SigningKey};
use heliostat_store::jobs::JobTable;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Records that may wait while the disk is full.
const QUEUE: usize = 10_000;
/// More hours than this has no job.
const LONGEST_HOURS: f64 = 1e6;
/// First and longest pause before a table that failed is tried again (wall time).
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Takes job records in, on a task of its own.
pub(super) struct JobDesk {
    records: Option<mpsc::Sender<JobRecord>>,
    task: tokio::task::JoinHandle<()>,
    pseudonyms: Pseudonymiser,
    trust: Trust,
    stats: SharedStats,
}

/// Whose records are taken: with a key, only what is signed with it for this topic.
pub(super) struct Trust {
    pub(super) key: Option<SigningKey>,
    pub(super) topic: String,
}

impl JobDesk {
    pub(super) fn start(
        table: Arc<JobTable>,
        pseudonyms: Pseudonymiser,
        trust: Trust,
        stats: SharedStats,
    ) -> Self {
        let (records, waiting) = mpsc::channel(QUEUE);
        let task = tokio::spawn(store(table, waiting, Arc::clone(&stats)));
        Self {
            records: Some(records),
            task,
            pseudonyms,
            trust,
            stats,
        }
    }

    /// Takes a record in. What is refused is not shown anywhere: it may name a person.
    pub(super) fn put(&self, payload: Vec<u8>) {
        let content = match signed::open(self.trust.key.as_ref(), &self.trust.topic, &payload) {
            Ok(content) => content,
            Err(reason) => {
                tracing::warn!(%reason, "a job record is refused unread");
                edit(&self.stats, |s| s.jobs_unsigned += 1);
                return;
            }
        };
        let refused = match self.read(content) {
            Ok(record) => match &self.records {
                Some(records) => records
                    .try_send(record)
                    .err()
                    .map(|_| "too many records are waiting for the disk".to_owned()),
                None => Some("ingest is stopping".into()),
            },
            Err(fault) => Some(fault),
        };
        if let Some(fault) = refused {
            tracing::warn!(fault, "a job record is refused");
            edit(&self.stats, |s| s.jobs_refused += 1);
        }
    }

    fn read(&self, payload: &[u8]) -> Result<JobRecord, String> {
        // serde's own message may repeat what it read, so only its place is told.
        let mut record: JobRecord = serde_json::from_slice(payload).map_err(|e| {
            format!(
                "not a job record, at line {} column {}",
                e.line(),
                e.column()
            )
        })?;
        record.owner = self.pseudonyms.pseudonym(&record.owner);
        let fault = if !is_valid_name(record.id.as_str()) {
            "`id` must be 1 to 64 of a-z A-Z 0-9 . _ -"
        } else if record.gang_size == 0 {
            "`gang_size` must be at least 1"
        } else if ![record.remaining_hours, record.total_hours]
            .iter()
            .all(|h| (0.0..=LONGEST_HOURS).contains(h))
        {
            "`remaining_hours` and `total_hours` must be 0 to 1,000,000"
        } else {
            let curve = record.curve.mended();
            record.curve = curve.map_err(|fault| format!("`curve`: {fault}"))?;
            return Ok(record);
        };
        Err(fault.into())
    }

    /// Stores what waits, then ends; a table that cannot be written is left after a second.
    pub(super) async fn stop(mut self) {
        self.records = None;
        if tokio::time::timeout(Duration::from_secs(1), &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
    }
}

async fn store(table: Arc<JobTable>, mut waiting: mpsc::Receiver<JobRecord>, stats: SharedStats) {
    while let Some(record) = waiting.recv().await {
        let mut pause = RETRY.0;
        loop {
            match table.put(record.clone()) {
                Ok(news) => {
                    edit(&stats, |s| s.jobs_stored += u64::from(news));
                    break;
                }
                Err(error) => {
                    tracing::error!(%error, "a job record cannot be stored; it is tried again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }
}
