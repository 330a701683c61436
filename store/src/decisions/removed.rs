//! Inputs of decisions that were removed because they are of long ago, and the
//! note of it beside them.
//!
//! The chain of the decision log does not need them: its records bear the hash
//! of their inputs. The note is on disk before a file is removed, so that inputs
//! that are not there and not noted were taken away by somebody else.

use super::inputs::{DAY, path};
use crate::framed_log::FramedLog;
use crate::query::StoreError;
use heliostat_models::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::Path;

const KIND: &[u8; 3] = b"rmv";
const NOTE: &str = "removed.log";

/// Most files removed at one time: a clock that is wrong by years must not cost all.
const AT_ONCE: usize = 31;

/// A day whose inputs were removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Begin of the day, UTC.
    pub day: Timestamp,
    /// When they were removed, by the clock of the decision that led to it.
    pub at: Timestamp,
    /// For how many days inputs were kept then.
    pub kept_days: u32,
    /// Bytes that they had.
    pub bytes: u64,
}

/// Removes the files of days that ended more than `days` days before `now`.
pub(super) fn sweep(directory: &Path, now: Timestamp, days: u32) -> Result<(), StoreError> {
    let first_kept = now.floor_to(DAY) - DAY * days;
    let io = |what| move |e| StoreError::io(what, directory, e);
    let mut old = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io("listing"))? {
        let entry = entry.map_err(io("listing"))?;
        let name = entry.file_name();
        let day = (name.to_str())
            .and_then(|name| name.strip_suffix(".log"))
            .and_then(Timestamp::parse);
        if let Some(day) = day.filter(|day| *day < first_kept) {
            let bytes = entry.metadata().map_err(io("reading"))?.len();
            old.push(Removed {
                day,
                at: now,
                kept_days: days,
                bytes,
            });
        }
    }
    if old.is_empty() {
        return Ok(());
    }
    old.sort_by_key(|removed| removed.day);
    old.truncate(AT_ONCE);
    let note = directory.join(NOTE);
    let fault = |what| {
        let note = note.clone();
        move |e| StoreError::io(what, &note, e)
    };
    let (mut log, _) = FramedLog::open(&note, KIND).map_err(fault("opening"))?;
    for removed in &old {
        let text = serde_json::to_vec(removed).map_err(|e| StoreError::BadQuery(e.to_string()))?;
        log.append(&text).map_err(fault("writing"))?;
    }
    log.sync().map_err(fault("syncing"))?;
    for removed in &old {
        let file = path(directory, removed.day);
        std::fs::remove_file(&file).map_err(|e| StoreError::io("removing", &file, e))?;
        tracing::info!(day = %removed.day, days, "the inputs of that day's decisions are removed");
    }
    Ok(())
}

/// What was noted of the removal of a day's inputs, where they are not there.
///
/// # Errors
/// When the note cannot be read or is none of ours.
pub fn read_removed(store: &Path, at: Timestamp) -> Result<Option<Removed>, StoreError> {
    let directory = super::inputs_directory(store);
    let note = directory.join(NOTE);
    if !note.exists() || path(&directory, at).exists() {
        return Ok(None);
    }
    let read = FramedLog::read(&note, KIND).map_err(|e| StoreError::io("reading", &note, e))?;
    let day = at.floor_to(DAY);
    let mut notes = (read.records.iter()).filter_map(|r| serde_json::from_slice::<Removed>(r).ok());
    Ok(notes.rfind(|removed| removed.day == day))
}
