//! The table of jobs: the latest record of each, durable, and its history of
//! states. Owners in it are pseudonyms; ingest sees to that.

mod compaction;

pub use compaction::Compacted;

use crate::framed_log::FramedLog;
use crate::query::StoreError;
use heliostat_models::{JobId, JobRecord, JobState, Timestamp};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

const KIND: &[u8; 3] = b"job";

/// All jobs heard of, but those that ended long ago.
#[derive(Debug)]
pub struct JobTable {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    log: FramedLog,
    jobs: BTreeMap<JobId, JobEntry>,
    /// Records that were news.
    version: u64,
}

/// A job and how it got there.
#[derive(Clone, Debug, PartialEq)]
pub struct JobEntry {
    /// The latest record.
    pub record: JobRecord,
    /// Each change of state and when it happened, oldest first.
    pub history: Vec<(Timestamp, JobState)>,
}

impl JobTable {
    /// Opens the table in a directory that exists.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join("jobs.log");
        compaction::clear(&path);
        let (log, found) =
            FramedLog::open(&path, KIND).map_err(|e| StoreError::io("opening", &path, e))?;
        let mut inner = Inner {
            log,
            jobs: BTreeMap::new(),
            version: 0,
        };
        for bytes in found.records {
            match serde_json::from_slice::<JobRecord>(&bytes) {
                Ok(record) => inner.merge(record),
                Err(error) => tracing::warn!(%error, "a job record cannot be read and is left out"),
            }
        }
        Ok(Self {
            inner: Mutex::new(inner),
        })
    }

    /// Stores a record; an older one than is known is ignored. Returns whether it was news.
    pub fn put(&self, record: JobRecord) -> Result<bool, StoreError> {
        let mut inner = self.lock();
        if let Some(known) = inner.jobs.get(&record.id)
            && (record.at < known.record.at || record == known.record)
        {
            return Ok(false);
        }
        let bytes = serde_json::to_vec(&record).map_err(|e| StoreError::BadQuery(e.to_string()))?;
        let path = inner.log.path().to_owned();
        inner
            .log
            .append(&bytes)
            .map_err(|e| StoreError::io("writing", &path, e))?;
        inner.merge(record);
        inner.version += 1;
        Ok(true)
    }

    /// Grows with every record that is news, so that a reader sees cheaply
    /// whether there is any.
    pub fn version(&self) -> u64 {
        self.lock().version
    }

    /// All jobs, by id.
    pub fn all(&self) -> Vec<JobEntry> {
        self.lock().jobs.values().cloned().collect()
    }

    /// One job.
    pub fn get(&self, id: &JobId) -> Option<JobEntry> {
        self.lock().jobs.get(id).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // A panic elsewhere leaves the map whole: every change is a single insert.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn merge(&mut self, record: JobRecord) {
        let change = (record.at, record.state);
        match self.jobs.get_mut(&record.id) {
            Some(entry) => {
                if entry.record.state != record.state {
                    entry.history.push(change);
                }
                entry.record = record;
            }
            None => {
                self.jobs.insert(
                    record.id.clone(),
                    JobEntry {
                        record,
                        history: vec![change],
                    },
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::{JobClass, SpeedCurve, Watts};

    pub(super) fn job(id: &str, at: i64, state: JobState) -> JobRecord {
        JobRecord {
            id: JobId::from(id),
            class: JobClass::Training,
            owner: "00ff".to_owned(),
            gang_size: 8,
            remaining_hours: 1.0,
            total_hours: 2.0,
            release: Timestamp(0),
            deadline: None,
            state,
            devices: Vec::new(),
            curve: SpeedCurve::envelope(&[(Watts(200.0), 0.5), (Watts(700.0), 1.0)]).unwrap(),
            started: None,
            ended: None,
            at: Timestamp(at),
        }
    }

    #[test]
    fn keeps_the_latest_record_and_the_history_over_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let table = JobTable::open(directory.path()).unwrap();
        assert!(table.put(job("1", 10, JobState::Queued)).unwrap());
        assert!(table.put(job("1", 20, JobState::Running)).unwrap());
        assert!(table.put(job("2", 15, JobState::Queued)).unwrap());
        // A double and an older record are no news.
        assert!(!table.put(job("1", 20, JobState::Running)).unwrap());
        assert!(!table.put(job("1", 5, JobState::Queued)).unwrap());
        drop(table);
        let path = directory.path().join("jobs.log");
        let size = std::fs::metadata(&path).unwrap().len();
        let table = JobTable::open(directory.path()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        assert_eq!(table.all().len(), 2);
        let entry = table.get(&JobId::from("1")).unwrap();
        assert_eq!(entry.record, job("1", 20, JobState::Running));
        assert_eq!(
            entry.history,
            [
                (Timestamp(10), JobState::Queued),
                (Timestamp(20), JobState::Running)
            ]
        );
    }

    #[test]
    fn a_torn_tail_costs_the_last_record_alone() {
        let directory = tempfile::tempdir().unwrap();
        let table = JobTable::open(directory.path()).unwrap();
        table.put(job("1", 10, JobState::Queued)).unwrap();
        table.put(job("1", 20, JobState::Running)).unwrap();
        drop(table);
        let path = directory.path().join("jobs.log");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let table = JobTable::open(directory.path()).unwrap();
        let state = || table.get(&JobId::from("1")).unwrap().record.state;
        assert_eq!(state(), JobState::Queued);
        table.put(job("1", 30, JobState::Paused)).unwrap();
        assert_eq!(state(), JobState::Paused);
        drop(table);
        let table = JobTable::open(directory.path()).unwrap();
        assert_eq!(table.get(&JobId::from("1")).unwrap().history.len(), 2);
    }
}
