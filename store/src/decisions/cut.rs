//! The log of decisions does not grow without end: what is of very long ago is
//! cut off its beginning, and a checkpoint stands there instead.
//!
//! The checkpoint says how many records there were and the hash of the last of
//! them, so that the chain goes on from it; and a record of its own, chained like
//! all others, says the same, so that nobody can cut off more and leave a
//! checkpoint of his own. The new log is written beside the old one, forced to
//! the disk and put in its place in one step: whenever the machine dies, there is
//! the old log or the new one. Decisions are logged meanwhile.

use super::chain::{self, Break, Chain, Hash};
use super::{Body, DecisionLog, KIND};
use crate::framed_log::{FramedLog, sync_directory};
use crate::query::StoreError;
use heliostat_models::{Decision, DecisionKind, Timestamp};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);
/// Largest share of the log that goes at one time: a clock that is wrong by
/// years must not cost all.
const AT_ONCE: f64 = 1.0 / 8.0;
/// A smaller share is not worth writing the log anew.
const WORTHWHILE: f64 = 1.0 / 32.0;
/// Bytes of records that are written with one system call.
const CHUNK: usize = 1 << 20;

/// What was cut off the beginning of a log, by one cut after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Records cut off in all.
    pub records: u64,
    /// Hash of the last of them.
    pub last: Hash,
    /// When the first decision was taken that the log ever had.
    pub first: Timestamp,
    /// When the last decision was taken that was cut off.
    pub until: Timestamp,
    /// When it was cut off, by the site's clock.
    pub at: Timestamp,
    /// For how many days decisions were kept then.
    pub kept_days: u32,
    /// Where the chain was broken first in what was cut off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broken: Option<Break>,
}

/// A new log on the disk that lacks what was logged while it was written.
struct Beside {
    log: FramedLog,
    checkpoint: Checkpoint,
    /// Number of the first decision that stays.
    first_kept: u64,
}

impl DecisionLog {
    /// Cuts off decisions that are older than so many days, an eighth of the log
    /// at most, and nothing where that is less than a part in 32. Says what is cut
    /// off now, where anything was. A clock that is ahead of all decisions is not
    /// believed by more than a day.
    ///
    /// # Errors
    /// When the log cannot be read or written; it is as before then.
    pub fn cut(&self, now: Timestamp, keep_days: u32) -> Result<Option<Checkpoint>, StoreError> {
        let (path, length) = {
            let mut inner = self.lock();
            if inner.meanwhile.is_some() {
                // Somebody is at it.
                return Ok(None);
            }
            inner.meanwhile = Some(Vec::new());
            (inner.log.path().to_owned(), inner.log.length())
        };
        match begin(&path, length, now, keep_days) {
            Ok(Some(beside)) => self.replace(&path, beside).map(Some),
            nothing => {
                clear(&path);
                self.lock().meanwhile = None;
                nothing.map(|_| None)
            }
        }
    }

    /// Puts the new log in the place of the old one, with what was logged
    /// meanwhile and the note of what is cut off.
    fn replace(&self, path: &Path, beside: Beside) -> Result<Checkpoint, StoreError> {
        let fault = |what| move |e| StoreError::io(what, path, e);
        let Beside {
            mut log,
            checkpoint,
            first_kept,
        } = beside;
        let mut inner = self.lock();
        // Whatever comes of it, nobody is at it any more once the lock is given back.
        let meanwhile = inner.meanwhile.take().unwrap_or_default();
        let mut decision = note(&checkpoint);
        decision.sequence = inner.next;
        let body = Body {
            decision,
            inputs: None,
            outcome: None,
            cut: Some(checkpoint.clone()),
        };
        let bytes = serde_json::to_vec(&body).map_err(|e| StoreError::BadQuery(e.to_string()))?;
        let (record, own) = chain::link(inner.last, &bytes);
        let records = meanwhile.iter().chain([&record]).map(Vec::as_slice);
        log.append_all(records).map_err(fault("writing anew"))?;
        log.sync().map_err(fault("syncing"))?;
        log.rename_to(path).map_err(fault("replacing"))?;
        inner.log = log;
        inner.recent.retain(|d| d.sequence >= first_kept);
        inner.logged(body.decision.clone(), own);
        drop(inner);
        // Nobody listening is no fault.
        let _ = self.news.send(body.decision);
        if let Some(directory) = path.parent() {
            sync_directory(directory).map_err(fault("syncing"))?;
        }
        Ok(checkpoint)
    }
}

/// Writes the new log beside the old one, where there is anything to cut off.
fn begin(
    path: &Path,
    length: u64,
    now: Timestamp,
    keep_days: u32,
) -> Result<Option<Beside>, StoreError> {
    let fault = |what| move |e| StoreError::io(what, path, e);
    let found = FramedLog::read_until(path, KIND, length).map_err(fault("reading"))?;
    let Some(cut) = checkpoint(&found.records, now, keep_days) else {
        return Ok(None);
    };
    let Cut {
        count,
        first_kept,
        checkpoint,
    } = cut;
    clear(path);
    let (mut log, _) = FramedLog::open(&beside(path), KIND).map_err(fault("making anew"))?;
    let head = chain::head(&checkpoint).map_err(|e| StoreError::BadQuery(e.to_string()))?;
    let kept = found.records[count..].iter();
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for record in std::iter::once(&head).chain(kept) {
        bytes += record.len();
        chunk.push(record.as_slice());
        if bytes >= CHUNK {
            (log.append_all(chunk.drain(..))).map_err(fault("writing anew"))?;
            bytes = 0;
        }
    }
    log.append_all(chunk).map_err(fault("writing anew"))?;
    // Most of it is on the disk before writers have to wait.
    log.sync().map_err(fault("syncing"))?;
    Ok(Some(Beside {
        log,
        checkpoint,
        first_kept,
    }))
}

/// What to cut off.
struct Cut {
    /// So many of the records, an earlier checkpoint among them.
    count: usize,
    /// Number of the first decision that stays.
    first_kept: u64,
    /// What to say of them.
    checkpoint: Checkpoint,
}

/// A record of a log, with the chain as it stands behind it.
struct Link {
    bytes: usize,
    records: u64,
    last: Hash,
    /// Number and instant of its decision, where it can be read.
    decision: Option<(u64, Timestamp)>,
}

fn checkpoint(records: &[Vec<u8>], now: Timestamp, keep_days: u32) -> Option<Cut> {
    let mut chain = Chain::default();
    let links: Vec<Link> = (records.iter())
        .map(|record| {
            let logged = super::read(&mut chain, record);
            Link {
                bytes: record.len(),
                records: chain.count(),
                last: chain.last,
                decision: logged.map(|l| (l.decision.sequence, l.decision.at)),
            }
        })
        .collect();
    chain.end();
    let newest = links
        .iter()
        .filter_map(|link| Some(link.decision?.1))
        .max()?;
    let now = now.min(newest + DAY);
    let first_kept = now.floor_to(DAY) - DAY * keep_days;
    let all = links.iter().map(|link| link.bytes).sum::<usize>() as f64;
    let mut bytes = 0;
    let mut last = None;
    for (place, link) in links.iter().enumerate() {
        bytes += link.bytes;
        if bytes as f64 > all * AT_ONCE {
            break;
        }
        match link.decision {
            // Its clock was ahead: it goes with what stands after it, as does
            // what cannot be read.
            Some((_, at)) if at > now => {}
            Some((_, at)) if at >= first_kept => break,
            Some((sequence, at)) if bytes as f64 >= all * WORTHWHILE => {
                last = Some((place, sequence, at));
            }
            _ => {}
        }
    }
    let (place, sequence, until) = last?;
    let earliest = links.iter().find_map(|link| Some(link.decision?.1));
    let first = (chain.cut.as_ref().map(|cut| cut.first)).or(earliest)?;
    let link = &links[place];
    // Nothing that was wrong is forgotten, an earlier cut without a note neither.
    let broken = chain.broken.filter(|broken| broken.record < link.records);
    Some(Cut {
        count: place + 1,
        first_kept: sequence + 1,
        checkpoint: Checkpoint {
            records: link.records,
            last: link.last,
            first,
            until,
            at: now,
            kept_days: keep_days,
            broken,
        },
    })
}

fn note(cut: &Checkpoint) -> Decision {
    Decision {
        sequence: 0,
        at: cut.at,
        kind: DecisionKind::Retention,
        armed: false,
        summary: format!(
            "Decisions up to {} were cut off the log, {} in all since {}.",
            cut.until, cut.records, cut.first
        ),
        reason: format!("They are kept for {} days.", cut.kept_days),
        certificate: None,
        caps: Vec::new(),
    }
}

/// Where a new log is written; whatever is there is half of one.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("log.new")
}

/// Removes what a cut left that was not finished.
pub(super) fn clear(path: &Path) {
    // Usually there is none; one that cannot be removed is written over next time.
    let _ = std::fs::remove_file(beside(path));
}
