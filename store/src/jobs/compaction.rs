//! The log of jobs does not grow without end: what later records replaced goes,
//! and jobs that ended long ago go as a whole.
//!
//! Of each job that stays, the records stay that changed its state, and the last
//! one, so that a table read back is the same. The new log is written beside the
//! old one, forced to the disk and put in its place in one step: whenever the
//! machine dies, there is the old log or the new one.

use super::{Inner, JobTable, KIND};
use crate::framed_log::{FramedLog, sync_directory};
use crate::query::StoreError;
use heliostat_models::{JobId, JobRecord, JobState, Timestamp};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Without a job to remove, a log is written anew only when that makes it smaller than this share.
const WORTHWHILE: f64 = 0.75;
const DAY: Duration = Duration::from_secs(86_400);
/// Bytes of records that are written with one system call.
const CHUNK: usize = 1 << 20;

/// What compaction made of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Jobs that ended long ago and are no longer known.
    pub jobs_removed: u64,
    /// Bytes of the log before.
    pub bytes_before: u64,
    /// Bytes of the log now.
    pub bytes_after: u64,
}

impl JobTable {
    /// Removes jobs that ended longer than `keep` ago, and records that later ones
    /// replaced. Writers wait while it runs: a second for some hundred megabytes.
    /// A clock that is ahead of all records is not believed by more than a day.
    ///
    /// # Errors
    /// When the log cannot be read or written; it is as before then.
    pub fn compact(&self, now: Timestamp, keep: Duration) -> Result<Compacted, StoreError> {
        let mut inner = self.lock();
        let newest = inner.jobs.values().map(|entry| entry.record.at).max();
        let ended_before = newest.map_or(now, |at| now.min(at + DAY)) - keep;
        let path = inner.log.path().to_owned();
        let fault = |what| move |e| StoreError::io(what, &path, e);
        let old: HashSet<JobId> = (inner.jobs.values())
            .filter(|entry| {
                let over = [JobState::Completed, JobState::Cancelled];
                over.contains(&entry.record.state) && entry.record.at < ended_before
            })
            .map(|entry| entry.record.id.clone())
            .collect();
        let path = inner.log.path().to_owned();
        let found = FramedLog::read(&path, KIND).map_err(fault("reading"))?;
        let keep = kept(&found.records, &old);
        let bytes_before = inner.log.length();
        let bytes: usize = keep.iter().map(|r| found.records[*r].len()).sum();
        let all: usize = found.records.iter().map(Vec::len).sum();
        let mut done = Compacted {
            jobs_removed: old.len() as u64,
            bytes_before,
            bytes_after: bytes_before,
        };
        if old.is_empty() && bytes as f64 > all as f64 * WORTHWHILE {
            return Ok(done);
        }
        let beside = beside(&path);
        let keep = keep.iter().map(|r| found.records[*r].as_slice());
        let log = write(&path, &beside, keep)?;
        done.bytes_after = log.length();
        inner.log = log;
        inner.forget(&old);
        Ok(done)
    }
}

impl Inner {
    fn forget(&mut self, jobs: &HashSet<JobId>) {
        self.jobs.retain(|id, _| !jobs.contains(id));
        self.version += u64::from(!jobs.is_empty());
    }
}

/// Where a new log is written; whatever is there is half of one.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("log.new")
}

/// Removes what a compaction left that was not finished.
pub(super) fn clear(path: &Path) {
    // Usually there is none; one that cannot be removed is written over next time.
    let _ = std::fs::remove_file(beside(path));
}

/// The places of the records that stay.
fn kept(records: &[Vec<u8>], old: &HashSet<JobId>) -> Vec<usize> {
    let mut keep = vec![false; records.len()];
    let mut last: HashMap<JobId, (usize, JobState)> = HashMap::new();
    for (place, bytes) in records.iter().enumerate() {
        let Ok(record) = serde_json::from_slice::<JobRecord>(bytes) else {
            // Perhaps a later version's.
            keep[place] = true;
            continue;
        };
        if old.contains(&record.id) {
            continue;
        }
        let before = last.insert(record.id.clone(), (place, record.state));
        if before.is_none_or(|(_, state)| state != record.state) {
            keep[place] = true;
        }
    }
    for (place, _) in last.into_values() {
        keep[place] = true;
    }
    (0..records.len()).filter(|place| keep[*place]).collect()
}

/// Writes a log of these records and puts it in the place of the old one.
fn write<'a>(
    path: &Path,
    beside: &Path,
    records: impl Iterator<Item = &'a [u8]>,
) -> Result<FramedLog, StoreError> {
    let fault = |what| move |e| StoreError::io(what, path, e);
    clear(path);
    let (mut log, _) = FramedLog::open(beside, KIND).map_err(fault("making anew"))?;
    let mut chunk: Vec<&[u8]> = Vec::new();
    let mut bytes = 0;
    for record in records {
        bytes += record.len();
        chunk.push(record);
        if bytes >= CHUNK {
            log.append_all(chunk.drain(..))
                .map_err(fault("writing anew"))?;
            bytes = 0;
        }
    }
    log.append_all(chunk).map_err(fault("writing anew"))?;
    log.sync().map_err(fault("syncing"))?;
    drop(log);
    std::fs::rename(beside, path).map_err(fault("replacing"))?;
    if let Some(directory) = path.parent() {
        sync_directory(directory).map_err(fault("syncing"))?;
    }
    let (log, _) = FramedLog::open(path, KIND).map_err(fault("opening"))?;
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::super::tests::job;
    use super::*;
    use crate::jobs::JobEntry;

    const KEEP: Duration = Duration::from_millis(10);

    fn entries(table: &JobTable) -> Vec<JobEntry> {
        table.all()
    }

    /// A table with jobs that ended, run and were told of often.
    fn table(directory: &Path) -> JobTable {
        let table = JobTable::open(directory).unwrap();
        let states = [JobState::Queued, JobState::Running, JobState::Paused];
        for at in 0..60 {
            let state = states[at as usize / 7 % 3];
            table.put(job("runs", at, state)).unwrap();
            table.put(job("recent", at, JobState::Running)).unwrap();
            table.put(job("old", at, JobState::Running)).unwrap();
        }
        table.put(job("old", 70, JobState::Completed)).unwrap();
        table.put(job("recent", 90, JobState::Cancelled)).unwrap();
        table
    }

    #[test]
    fn old_jobs_and_replaced_records_go_and_the_rest_is_the_same_after_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let table = table(directory.path());
        let (before, version) = (entries(&table), table.version());
        let done = table.compact(Timestamp(90), KEEP).unwrap();
        assert_eq!(done.jobs_removed, 1);
        assert!(done.bytes_after * 5 < done.bytes_before, "{done:?}");
        assert!(table.version() > version);
        let stays: Vec<JobEntry> = before
            .into_iter()
            .filter(|e| e.record.id.as_str() != "old")
            .collect();
        assert_eq!(entries(&table), stays);
        assert!(stays.iter().any(|e| e.history.len() > 5));
        // It goes on, and a second time there is nothing to do.
        table.put(job("new", 100, JobState::Queued)).unwrap();
        let again = table.compact(Timestamp(90), KEEP).unwrap();
        assert_eq!(
            (again.jobs_removed, again.bytes_after),
            (0, again.bytes_before)
        );
        let now = entries(&table);
        drop(table);
        assert_eq!(entries(&JobTable::open(directory.path()).unwrap()), now);
    }

    #[test]
    fn wherever_it_is_torn_the_table_is_the_old_or_the_new_one() {
        let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let before = entries(&table(old.path()));
        let compacted = table(new.path());
        compacted.compact(Timestamp(90), KEEP).unwrap();
        let after = entries(&compacted);
        drop(compacted);
        let log = std::fs::read(old.path().join("jobs.log")).unwrap();
        let written = std::fs::read(new.path().join("jobs.log")).unwrap();
        for length in 0..=written.len() {
            // Torn before it was put in its place.
            let at = tempfile::tempdir().unwrap();
            std::fs::write(at.path().join("jobs.log"), &log).unwrap();
            std::fs::write(at.path().join("jobs.log.new"), &written[..length]).unwrap();
            let table = JobTable::open(at.path()).unwrap();
            assert_eq!(entries(&table), before, "{length}");
            assert!(!at.path().join("jobs.log.new").exists());
            if length % 97 == 0 {
                table.compact(Timestamp(90), KEEP).unwrap();
                assert_eq!(entries(&table), after, "{length}");
            }
        }
    }

    #[test]
    fn a_clock_that_is_wrong_by_years_does_not_cost_what_is_recent() {
        let directory = tempfile::tempdir().unwrap();
        let table = table(directory.path());
        let year = Duration::from_secs(365 * 86_400);
        let done = table.compact(Timestamp(90) + year * 20, year).unwrap();
        assert_eq!((done.jobs_removed, entries(&table).len()), (0, 3));
    }

    #[test]
    fn what_cannot_be_read_stays() {
        let directory = tempfile::tempdir().unwrap();
        drop(table(directory.path()));
        let path = directory.path().join("jobs.log");
        let (mut log, _) = FramedLog::open(&path, KIND).unwrap();
        log.append(b"{\"of\": \"a later version\"}").unwrap();
        drop(log);
        let table = JobTable::open(directory.path()).unwrap();
        table.compact(Timestamp(90), KEEP).unwrap();
        let left = FramedLog::read(&path, KIND).unwrap().records;
        assert!(left.iter().any(|r| r.starts_with(b"{\"of\"")));
    }
}
