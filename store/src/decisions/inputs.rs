//! The inputs of decisions, one file a day: what is needed to take them again.
//!
//! ```text
//! piece   = kind(u8) hash(32 bytes) content      hash = SHA-256(hash of the piece before, kind, content)
//! kind    = 1 whole inputs | 0 what differs from the inputs before, + 2 when more pieces of the same follow, + 4 at their first piece
//! ```
//!
//! The first piece of whole inputs follows 32 zero bytes, so that a file can be
//! read from any of them. What the content means is the writer's affair.

use super::chain::Hash;
use super::removed;
use crate::framed_log::FramedLog;
use crate::query::StoreError;
use heliostat_models::Timestamp;
use std::path::{Path, PathBuf};
use std::time::Duration;

const KIND: &[u8; 3] = b"inp";
const WHOLE: u8 = 1;
const MORE: u8 = 2;
const FIRST: u8 = 4;
/// Bytes of content in a piece at most; records of a log are bounded, and a
/// large site's inputs need not be in memory twice.
const PIECE: usize = 1 << 20;
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// What a decision was taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inputs {
    /// Everything; else what differs from the inputs before.
    pub whole: bool,
    /// As the writer encoded them.
    pub content: Vec<u8>,
}

/// Inputs as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What decisions refer to them by.
    pub hash: Hash,
    /// The inputs.
    pub inputs: Inputs,
    /// Whether they are what was written.
    pub sound: bool,
}

/// The inputs of the day that is being written.
#[derive(Debug)]
pub(super) struct InputsLog {
    directory: PathBuf,
    /// Files of days longer ago than this many are removed.
    keep_days: Option<u32>,
    open: Option<(Timestamp, FramedLog, Hash)>,
}

impl InputsLog {
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            keep_days: None,
            open: None,
        }
    }

    pub fn keep(&mut self, days: u32) {
        self.keep_days = Some(days);
    }

    /// Whether the inputs of a decision at this instant must be whole.
    pub fn needs_whole(&self, at: Timestamp) -> bool {
        (self.open.as_ref()).is_none_or(|(day, _, _)| *day != at.floor_to(DAY))
    }

    /// Appends inputs; returns what to refer to them by.
    pub fn append(&mut self, at: Timestamp, inputs: &Inputs) -> Result<Hash, StoreError> {
        let day = at.floor_to(DAY);
        let path = path(&self.directory, at);
        let fault = |what, e| StoreError::io(what, &path, e);
        let (mut log, before) = match self.open.take() {
            Some((open, log, last)) if open == day => (log, last),
            _ => {
                std::fs::create_dir_all(&self.directory).map_err(|e| fault("making", e))?;
                let (log, _) = FramedLog::open(&path, KIND).map_err(|e| fault("opening", e))?;
                if let Some(days) = self.keep_days
                    && let Err(error) = removed::sweep(&self.directory, at, days)
                {
                    tracing::error!(%error, "inputs of decisions of long ago cannot be removed; it is tried again tomorrow");
                }
                (log, Hash::default())
            }
        };
        let mut hash = if inputs.whole {
            Hash::default()
        } else {
            before
        };
        let count = inputs.content.len().div_ceil(PIECE).max(1);
        for place in 0..count {
            let from = place * PIECE;
            let content = &inputs.content[from..(from + PIECE).min(inputs.content.len())];
            let more = if place + 1 < count { MORE } else { 0 };
            let first = if place == 0 { FIRST } else { 0 };
            let kind = u8::from(inputs.whole) * WHOLE + more + first;
            hash = Hash::of(&[&hash.0, &[kind], content]);
            let piece = [&[kind][..], &hash.0, content].concat();
            log.append(&piece).map_err(|e| fault("writing", e))?;
        }
        self.open = Some((day, log, hash));
        Ok(hash)
    }
}

/// The inputs of the day of an instant, in the order in which they were
/// written; none where there is no file of that day. Changes nothing.
///
/// # Errors
/// When the file cannot be read or is none of ours.
pub fn read_inputs(directory: &Path, at: Timestamp) -> Result<Vec<Found>, StoreError> {
    let path = path(&super::inputs_directory(directory), at);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let read = FramedLog::read(&path, KIND).map_err(|e| StoreError::io("reading", &path, e))?;
    let mut all = Vec::new();
    let mut before = Hash::default();
    let mut begun: Option<Found> = None;
    for piece in &read.records {
        let Some((head, content)) = piece.split_at_checked(33) else {
            continue;
        };
        let kind = head[0];
        let whole = kind & WHOLE != 0;
        if kind & FIRST != 0 {
            // Inputs whose last pieces were never written belong to no decision.
            begun = None;
            if whole {
                before = Hash::default();
            }
        }
        let mut hash = Hash::default();
        hash.0.copy_from_slice(&head[1..]);
        let sound = Hash::of(&[&before.0, &[kind], content]) == hash;
        before = hash;
        let found = begun.get_or_insert_with(|| Found {
            hash,
            inputs: Inputs {
                whole,
                content: Vec::new(),
            },
            sound: true,
        });
        found.hash = hash;
        found.sound &= sound && found.inputs.whole == whole;
        found.inputs.content.extend_from_slice(content);
        if kind & MORE == 0 {
            all.extend(begun.take());
        }
    }
    Ok(all)
}

/// The file of an instant's day, named after it.
pub(super) fn path(directory: &Path, at: Timestamp) -> PathBuf {
    let text = at.floor_to(DAY).to_string();
    let day = text.get(..10).unwrap_or(&text);
    directory.join(format!("{day}.log"))
}
