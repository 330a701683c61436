//! The log of decisions: append-only, numbered, the latest in memory.

use crate::framed_log::FramedLog;
use crate::query::StoreError;
use heliostat_models::Decision;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;

/// Decisions kept in memory for the pages; all are on disk.
const IN_MEMORY: usize = 2_000;

/// The log.
#[derive(Debug)]
pub struct DecisionLog {
    inner: Mutex<Inner>,
    news: broadcast::Sender<Decision>,
}

#[derive(Debug)]
struct Inner {
    log: FramedLog,
    recent: VecDeque<Decision>,
    next: u64,
}

impl DecisionLog {
    /// Opens the log in a directory that exists.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join("decisions.log");
        let (log, found) =
            FramedLog::open(&path, b"dec").map_err(|e| StoreError::io("opening", &path, e))?;
        let mut recent = VecDeque::new();
        let mut next = 0;
        for bytes in found.records {
            match serde_json::from_slice::<Decision>(&bytes) {
                Ok(decision) => {
                    next = decision.sequence + 1;
                    recent.push_back(decision);
                    if recent.len() > IN_MEMORY {
                        recent.pop_front();
                    }
                }
                Err(error) => tracing::warn!(%error, "a decision cannot be read and is left out"),
            }
        }
        let inner = Mutex::new(Inner { log, recent, next });
        Ok(Self {
            inner,
            news: broadcast::Sender::new(256),
        })
    }

    /// Numbers a decision and appends it; returns its number.
    pub fn record(&self, mut decision: Decision) -> Result<u64, StoreError> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        decision.sequence = inner.next;
        let bytes =
            serde_json::to_vec(&decision).map_err(|e| StoreError::BadQuery(e.to_string()))?;
        let path = inner.log.path().to_owned();
        inner
            .log
            .append(&bytes)
            .map_err(|e| StoreError::io("writing", &path, e))?;
        inner.next += 1;
        inner.recent.push_back(decision.clone());
        if inner.recent.len() > IN_MEMORY {
            inner.recent.pop_front();
        }
        // Nobody listening is no fault.
        let _ = self.news.send(decision);
        Ok(inner.next - 1)
    }

    /// The latest `count` decisions that `keep` accepts, newest first.
    pub fn latest(&self, count: usize, keep: impl Fn(&Decision) -> bool) -> Vec<Decision> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .recent
            .iter()
            .rev()
            .filter(|d| keep(d))
            .take(count)
            .cloned()
            .collect()
    }

    /// Decisions as they are taken.
    pub fn subscribe(&self) -> broadcast::Receiver<Decision> {
        self.news.subscribe()
    }
}
