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

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::{DecisionKind, Timestamp};

    fn decision(at: i64, kind: DecisionKind) -> Decision {
        Decision {
            sequence: 999,
            at: Timestamp(at),
            kind,
            armed: false,
            summary: format!("decision at {at}"),
            reason: "because".to_owned(),
            certificate: None,
            caps: Vec::new(),
        }
    }

    #[test]
    fn numbers_go_on_after_reopening_and_after_a_torn_tail() {
        let directory = tempfile::tempdir().unwrap();
        let log = DecisionLog::open(directory.path()).unwrap();
        for at in 0..3 {
            assert_eq!(
                log.record(decision(at, DecisionKind::Plan)).unwrap(),
                at as u64
            );
        }
        drop(log);
        let log = DecisionLog::open(directory.path()).unwrap();
        assert_eq!(log.record(decision(3, DecisionKind::Arming)).unwrap(), 3);
        drop(log);
        // The last one torn: its number was never safely given, so it is given again.
        let path = directory.path().join("decisions.log");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let log = DecisionLog::open(directory.path()).unwrap();
        assert_eq!(log.record(decision(4, DecisionKind::Plan)).unwrap(), 3);
        let found: Vec<(u64, i64)> = log
            .latest(10, |_| true)
            .iter()
            .map(|d| (d.sequence, d.at.0))
            .collect();
        assert_eq!(found, [(3, 4), (2, 2), (1, 1), (0, 0)]);
    }

    #[test]
    fn latest_is_newest_first_filtered_and_told_to_listeners() {
        let directory = tempfile::tempdir().unwrap();
        let log = DecisionLog::open(directory.path()).unwrap();
        let mut news = log.subscribe();
        for at in 0..6 {
            let kind = if at % 2 == 0 {
                DecisionKind::Plan
            } else {
                DecisionKind::Allocation
            };
            log.record(decision(at, kind)).unwrap();
        }
        let plans = log.latest(2, |d| d.kind == DecisionKind::Plan);
        assert_eq!(plans.iter().map(|d| d.sequence).collect::<Vec<_>>(), [4, 2]);
        assert_eq!(news.try_recv().unwrap().sequence, 0);
    }

    #[test]
    fn memory_is_bounded_and_the_disk_keeps_all() {
        let directory = tempfile::tempdir().unwrap();
        let log = DecisionLog::open(directory.path()).unwrap();
        for at in 0..IN_MEMORY as i64 + 10 {
            log.record(decision(at, DecisionKind::Plan)).unwrap();
        }
        assert_eq!(log.latest(usize::MAX, |_| true).len(), IN_MEMORY);
        let found = FramedLog::read(&directory.path().join("decisions.log"), b"dec").unwrap();
        assert_eq!(found.records.len(), IN_MEMORY + 10);
    }
}
