//! The agent's spool: every batch is on this disk before it is sent, and stays
//! until it is acknowledged.
//!
//! ```text
//! DIR/lock                    held by the one process that may write
//! DIR/sequence                sequences below this number may have been used
//! DIR/acknowledged            a hint: everything up to here need not be sent again
//! DIR/spool-FIRST.log         framed log; FIRST is the sequence of its first record
//! record = sequence(u64 LE) samples(u32 LE) batch
//! ```
//!
//! Sequences are reserved in blocks, so that none is used twice even when a
//! crash takes the end of the spool with it. After a crash a stretch of
//! sequences may therefore be skipped.

mod files;

pub(crate) use files::write_durably;

use files::{begin_segment, lock, numbered, open_segment, read_number, segment_files};
use heliostat_store::directory_lock::DirectoryLock;
use heliostat_store::framed_log::FramedLog;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Sequences reserved at once; one small write to disk each time.
const BLOCK: u64 = 4096;
/// Bytes of a record before the batch.
const PREFIX: usize = 12;
/// Bytes that [`FramedLog`] puts before each payload; for the limits on size only.
const FRAME: u64 = 12;
/// Bytes of a [`FramedLog`] that holds nothing.
const HEADER: u64 = 8;
/// Most bytes in one segment, where the limit allows.
const SEGMENT: u64 = 4 << 20;

/// Batches on disk, oldest first.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    _lock: DirectoryLock,
    segments: VecDeque<Segment>,
    active: FramedLog,
    next: u64,
    reserved: u64,
    acknowledged: u64,
    limit: u64,
    segment_limit: u64,
    found: Found,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    bytes: u64,
    /// Unacknowledged records, oldest first.
    records: VecDeque<Place>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    sequence: u64,
    samples: u32,
    offset: u64,
    length: u32,
}

/// What opening a spool found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Batches that wait to be sent.
    pub batches: u64,
    /// Readings in them.
    pub samples: u64,
    /// Bytes of a torn tail that were cut off.
    pub torn_bytes: u64,
    /// Damaged records that were skipped.
    pub damaged: u64,
}

/// Why the spool could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another agent uses the directory.
    #[error(
        "the spool directory {path} is in use by another agent; a node has one agent: stop the other, or, if it is another node's, give each its own directory with --spool"
    )]
    InUse {
        /// The directory.
        path: String,
    },
    /// The spool holds as much as it may.
    #[error(
        "the spool {path} is full ({bytes} of {limit} bytes): the oldest samples are kept, new ones are dropped until ingest acknowledges some"
    )]
    Full {
        /// The directory.
        path: String,
        /// Bytes in it.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// Reading or writing failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The batch could not be made.
    #[error("a batch cannot be encoded: {0}")]
    Encode(String),
}

impl SpoolError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.display().to_string();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// Counts of what became acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Batches.
    pub batches: u64,
    /// Readings in them.
    pub samples: u64,
}

impl Spool {
    /// Opens the spool in `directory`, which is made if it is not there.
    /// `limit` bounds its size in bytes.
    pub fn open(directory: &Path, limit: u64) -> Result<Self, SpoolError> {
        std::fs::create_dir_all(directory).map_err(SpoolError::io("creating", directory))?;
        let lock = lock(directory)?;
        let acknowledged = read_number(&directory.join("acknowledged")).unwrap_or(0);
        let reserved = read_number(&directory.join("sequence"));
        let mut found = Found::default();
        let mut segments = VecDeque::new();
        let mut next = 1;
        for (first, path) in segment_files(directory)? {
            let (segment, last) = open_segment(&path, acknowledged, &mut found)?;
            next = next.max(first).max(last + 1);
            segments.push_back(segment);
        }
        // Written but lost to a crash, perhaps: sequences up to the end of the
        // reserved block may have been seen by ingest.
        next = next.max(reserved.unwrap_or(0)).max(acknowledged + 1);
        found.batches = segments.iter().map(|s| s.records.len() as u64).sum();
        found.samples = segments
            .iter()
            .flat_map(|s| &s.records)
            .map(|r| u64::from(r.samples))
            .sum();
        // Old segments are only read; writing begins in a fresh one.
        let active = begin_segment(directory, next)?;
        // A segment of that very name is one that was begun and never written to.
        segments.retain(|s: &Segment| s.path != active.path());
        segments.push_back(Segment {
            path: active.path().to_owned(),
            bytes: active.length(),
            records: VecDeque::new(),
        });
        let mut spool = Self {
            directory: directory.to_owned(),
            _lock: lock,
            segments,
            active,
            next,
            reserved: next,
            acknowledged,
            limit,
            segment_limit: SEGMENT.min(limit / 8).max(1),
            found,
        };
        spool.remove_done()?;
        Ok(spool)
    }

    /// What opening found.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Appends a batch of `samples` readings; `encode` makes it, given its
    /// sequence, which is returned. It survives the end of this process at
    /// once, and that of the machine after [`Spool::sync_path`] is synced.
    pub fn append(
        &mut self,
        samples: u32,
        encode: impl FnOnce(u64) -> Result<Vec<u8>, String>,
    ) -> Result<u64, SpoolError> {
        let sequence = self.next;
        if sequence >= self.reserved {
            self.reserve(sequence + BLOCK)?;
        }
        let batch = encode(sequence).map_err(SpoolError::Encode)?;
        let size = FRAME + (PREFIX + batch.len()) as u64;
        if self.active.length() + size > self.segment_limit && !self.active.is_empty() {
            self.rotate()?;
        }
        let bytes = self.bytes();
        if bytes + size > self.limit {
            return Err(SpoolError::Full {
                path: self.directory.display().to_string(),
                bytes,
                limit: self.limit,
            });
        }
        let mut payload = Vec::with_capacity(PREFIX + batch.len());
        payload.extend_from_slice(&sequence.to_le_bytes());
        payload.extend_from_slice(&samples.to_le_bytes());
        payload.extend_from_slice(&batch);
        let path = self.active.path().to_owned();
        self.active
            .append(&payload)
            .map_err(SpoolError::io("writing", &path))?;
        if let Some(segment) = self.segments.back_mut() {
            segment.bytes = self.active.length();
            segment.records.push_back(Place {
                sequence,
                samples,
                // A record ends with its payload.
                offset: self.active.length() - batch.len() as u64,
                length: batch.len() as u32,
            });
        }
        self.next = sequence + 1;
        Ok(sequence)
    }

    /// Reads unacknowledged batches after `after`, oldest first: at most
    /// `count`, and no more bytes than `bytes` unless the first alone is larger.
    pub fn read_after(
        &self,
        after: u64,
        count: usize,
        bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, SpoolError> {
        let mut batches = Vec::new();
        let mut total = 0;
        for segment in &self.segments {
            let from = segment.records.partition_point(|r| r.sequence <= after);
            if from == segment.records.len() {
                continue;
            }
            let failed = || SpoolError::io("reading", &segment.path);
            let file = File::open(&segment.path).map_err(failed())?;
            for place in segment.records.range(from..) {
                total += place.length as usize;
                if batches.len() == count || (total > bytes && !batches.is_empty()) {
                    return Ok(batches);
                }
                let mut batch = vec![0; place.length as usize];
                file.read_exact_at(&mut batch, place.offset)
                    .map_err(failed())?;
                batches.push((place.sequence, batch));
            }
        }
        Ok(batches)
    }

    /// Forgets everything up to and including `sequence`.
    pub fn acknowledge(&mut self, sequence: u64) -> Result<Acknowledged, SpoolError> {
        let mut done = Acknowledged::default();
        for segment in &mut self.segments {
            while let Some(place) = segment.records.front()
                && place.sequence <= sequence
            {
                done.batches += 1;
                done.samples += u64::from(place.samples);
                segment.records.pop_front();
            }
        }
        self.acknowledged = self.acknowledged.max(sequence.min(self.next - 1));
        self.remove_done()?;
        Ok(done)
    }

    /// The oldest batch that is not acknowledged.
    pub fn oldest(&self) -> Option<u64> {
        let mut segments = self.segments.iter();
        segments.find_map(|s| s.records.front().map(|r| r.sequence))
    }

    /// The sequence that the next batch will bear.
    pub fn next_sequence(&self) -> u64 {
        self.next
    }

    /// Batches that wait for their acknowledgement.
    pub fn waiting(&self) -> u64 {
        self.segments.iter().map(|s| s.records.len() as u64).sum()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.bytes).sum()
    }

    /// The file that holds what was appended last. Syncing it, which may take
    /// long, is left to the caller, who can do it on another thread.
    pub fn sync_path(&self) -> &Path {
        self.active.path()
    }

    /// Notes how far all is acknowledged, so that the next start does not send
    /// it again. Not synced: an older note only costs duplicates.
    pub fn note_acknowledged(&self) -> Result<(), SpoolError> {
        let path = self.directory.join("acknowledged");
        std::fs::write(&path, numbered(self.acknowledged)).map_err(SpoolError::io("writing", &path))
    }

    /// Syncs everything and gives unused sequences back. The spool may go on
    /// being used after it.
    pub fn close(&mut self) -> Result<(), SpoolError> {
        let path = self.active.path().to_owned();
        self.active
            .sync()
            .map_err(SpoolError::io("syncing", &path))?;
        self.note_acknowledged()?;
        self.reserve(self.next)
    }

    fn reserve(&mut self, upto: u64) -> Result<(), SpoolError> {
        let path = self.directory.join("sequence");
        write_durably(&path, &numbered(upto)).map_err(SpoolError::io("writing", &path))?;
        self.reserved = upto;
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), SpoolError> {
        let path = self.active.path().to_owned();
        self.active
            .sync()
            .map_err(SpoolError::io("syncing", &path))?;
        self.active = begin_segment(&self.directory, self.next)?;
        self.segments.push_back(Segment {
            path: self.active.path().to_owned(),
            bytes: self.active.length(),
            records: VecDeque::new(),
        });
        self.remove_done()
    }

    /// Removes segments whose records are all acknowledged, but the one being written.
    fn remove_done(&mut self) -> Result<(), SpoolError> {
        while self.segments.len() > 1
            && let Some(first) = self.segments.front()
            && first.records.is_empty()
        {
            match std::fs::remove_file(&first.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(SpoolError::io("removing", &first.path)(error));
                }
                _ => self.segments.pop_front(),
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
