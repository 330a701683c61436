//! The queue on disk: files of batches, each deleted as a whole when the engine
//! has all of it. A frame is acknowledged when its batch is synced here.

use crate::directory_lock::{Access, DirectoryLock};
use crate::framed_log::{FramedLog, sync_directory};
use crate::query::StoreError;
use heliostat_models::wire::{FrameBatch, WireError};
use heliostat_models::{AgentId, Catalogue, Frame};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

const KIND: &[u8; 3] = b"rsp";
/// A file is closed once it is longer than this, in bytes.
const FULL: u64 = 8 << 20;
/// Readings of one record at most.
const RECORD: usize = 20_000;

/// The spool of one store.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    _lock: DirectoryLock,
    closed: VecDeque<Closed>,
    current: FramedLog,
    /// Number of the current file.
    number: u64,
    /// Frames in the current file.
    frames: u64,
}

#[derive(Debug)]
struct Closed {
    path: PathBuf,
    bytes: u64,
    /// One past the number of its last frame in the queue.
    end: u64,
}

/// What opening found.
#[derive(Debug, Default)]
pub struct Opened {
    /// The frames, in the order they were written.
    pub frames: Vec<Frame>,
    /// Records that were torn or damaged.
    pub damaged: u64,
}

impl Spool {
    /// Opens the spool in a directory, making it if need be. The frames found
    /// get the numbers from 0 in the queue.
    pub fn open(directory: &Path) -> Result<(Self, Opened), StoreError> {
        std::fs::create_dir_all(directory).map_err(|e| StoreError::io("making", directory, e))?;
        let lock = lock(directory)?;
        let mut opened = Opened::default();
        let mut closed = VecDeque::new();
        let mut last = 0;
        for (number, path) in files(directory)? {
            last = number;
            let recovered = match FramedLog::read(&path, KIND) {
                Ok(recovered) => recovered,
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                    opened.damaged += 1;
                    tracing::error!(file = %path.display(), %error, "a spool file cannot be read and is left aside");
                    continue;
                }
                Err(error) => return Err(StoreError::io("reading", &path, error)),
            };
            opened.damaged += recovered.damaged.len() as u64 + u64::from(recovered.torn_bytes > 0);
            for record in &recovered.records {
                match FrameBatch::decode(record, Catalogue::builtin()) {
                    Ok(decoded) => opened.frames.extend(decoded.batch.frames),
                    Err(error) => {
                        opened.damaged += 1;
                        tracing::error!(file = %path.display(), %error, "a record of the spool is left out");
                    }
                }
            }
            closed.push_back(Closed {
                bytes: std::fs::metadata(&path).map_or(0, |m| m.len()),
                end: opened.frames.len() as u64,
                path,
            });
        }
        let number = last + 1;
        let current = begin(directory, number)?;
        let spool = Self {
            directory: directory.to_owned(),
            _lock: lock,
            closed,
            current,
            number,
            frames: 0,
        };
        Ok((spool, opened))
    }

    /// Writes frames and forces them to the disk; on an error none of them counts.
    pub fn append(&mut self, frames: &[Frame]) -> Result<(), StoreError> {
        let mut records = Vec::new();
        encode(frames, &mut records)?;
        let before = self.current.length();
        let path = self.current.path().to_owned();
        let written = (self.current)
            .append_all(records.iter().map(Vec::as_slice))
            .and_then(|()| self.current.sync());
        if let Err(error) = written {
            // What could not be synced must not come back as acknowledged.
            let _ = self.current.rewind(before);
            return Err(StoreError::io("writing", &path, error));
        }
        self.frames += frames.len() as u64;
        Ok(())
    }

    /// Forgets all files whose frames are numbered below `oldest`; `next` is
    /// the number that the next frame gets.
    pub fn release(&mut self, oldest: u64, next: u64) -> Result<(), StoreError> {
        let drained = oldest >= next && self.frames > 0;
        if self.current.length() > FULL || drained {
            let following = begin(&self.directory, self.number + 1)?;
            let full = std::mem::replace(&mut self.current, following);
            self.number += 1;
            self.frames = 0;
            self.closed.push_back(Closed {
                path: full.path().to_owned(),
                bytes: full.length(),
                end: next,
            });
        }
        while let Some(first) = self.closed.front()
            && first.end <= oldest
        {
            let path = &first.path;
            match std::fs::remove_file(path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(StoreError::io("deleting", path, e));
                }
                _ => {}
            }
            self.closed.pop_front();
        }
        Ok(())
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.closed.iter().map(|file| file.bytes).sum::<u64>() + self.current.length()
    }
}

fn encode(frames: &[Frame], out: &mut Vec<Vec<u8>>) -> Result<(), StoreError> {
    let mut begin = 0;
    while begin < frames.len() {
        let mut end = begin;
        let mut readings = 0;
        while end < frames.len() && (end == begin || readings < RECORD) {
            readings += frames[end].readings.len() + 4;
            end += 1;
        }
        let batch = FrameBatch {
            agent: AgentId::from("store"),
            sequence: 0,
            frames: frames[begin..end].to_vec(),
        };
        match batch.encode(Catalogue::builtin()) {
            Ok(bytes) => out.push(bytes),
            Err(WireError::TooLong(_)) if end - begin > 1 => {
                let middle = begin + (end - begin) / 2;
                encode(&frames[begin..middle], out)?;
                encode(&frames[middle..end], out)?;
            }
            Err(error) => return Err(StoreError::BadQuery(error.to_string())),
        }
        begin = end;
    }
    Ok(())
}

fn begin(directory: &Path, number: u64) -> Result<FramedLog, StoreError> {
    let path = directory.join(format!("remote-{number:08}.log"));
    let (log, _) = FramedLog::open(&path, KIND).map_err(|e| StoreError::io("opening", &path, e))?;
    sync_directory(directory).map_err(|e| StoreError::io("syncing", directory, e))?;
    Ok(log)
}

fn files(directory: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let failed = |e| StoreError::io("listing", directory, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let number = (name.to_str())
            .and_then(|n| n.strip_prefix("remote-")?.strip_suffix(".log"))
            .and_then(|n| n.parse().ok());
        found.extend(number.map(|number| (number, entry.path())));
    }
    found.sort();
    Ok(found)
}

fn lock(directory: &Path) -> Result<DirectoryLock, StoreError> {
    let path = directory.join("remote-lock");
    DirectoryLock::take(&path, Access::Alone)
        .map_err(|e| StoreError::io("locking", &path, e))?
        .ok_or_else(|| StoreError::InUse {
            path: directory.display().to_string(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::{DeviceId, Reading, Timestamp};

    fn frames(from: i64, count: i64) -> Vec<Frame> {
        (from..from + count)
            .map(|at| Frame {
                device: DeviceId::from("d"),
                at: Timestamp(at),
                readings: vec![
                    (Catalogue::gpu_power(), Reading::Measured(at as f64)),
                    (Catalogue::gpu_energy(), Reading::Missing),
                ],
            })
            .collect()
    }

    #[test]
    fn what_is_not_released_is_found_again_and_the_rest_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (mut spool, opened) = Spool::open(directory.path()).unwrap();
        assert!(opened.frames.is_empty());
        assert!(matches!(
            Spool::open(directory.path()),
            Err(StoreError::InUse { .. })
        ));
        spool.append(&frames(0, 9_000)).unwrap();
        // All nine thousand are with the engine: the file goes.
        spool.release(9_000, 9_000).unwrap();
        spool.append(&frames(9_000, 5)).unwrap();
        spool.release(9_002, 9_005).unwrap();
        drop(spool);
        let (spool, opened) = Spool::open(directory.path()).unwrap();
        // Files are deleted as a whole: all five come back.
        assert_eq!(opened.frames, frames(9_000, 5));
        assert_eq!(opened.damaged, 0);
        assert!(spool.bytes() < 1_000);
    }

    #[test]
    fn a_torn_tail_costs_what_was_never_acknowledged() {
        let directory = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(directory.path()).unwrap();
        spool.append(&frames(0, 3)).unwrap();
        let path = spool.current.path().to_owned();
        drop(spool);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(&[9; 30]);
        std::fs::write(&path, bytes).unwrap();
        let (_, opened) = Spool::open(directory.path()).unwrap();
        assert_eq!(opened.frames, frames(0, 3));
        assert_eq!(opened.damaged, 1);
    }
}
