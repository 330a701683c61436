//! The files of a store directory: lock, logs and segments, and what opening
//! them finds.
//!
//! ```text
//! LOCK              held while the store is open
//! SITE              whose readings these are: the site's id
//! wal-NNNNNN.log    frames not yet sealed
//! seg-NNNNNN.hseg   the frames of the logs up to this number, sealed
//! ```

use super::disk::{Disk, FileSystem};
use super::segment::{BlockMeta, Segment};
use super::state::State;
use super::wal::read_record;
use crate::framed_log::{FramedLog, Recovered};
use crate::query::StoreError;
use heliostat_models::{Catalogue, DeviceId, SiteId};
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Kind of the write-ahead log.
pub const WAL_KIND: &[u8; 3] = b"wal";

/// The log with this number.
pub fn wal_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("wal-{number:06}.log"))
}

/// The segment with this number.
pub fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("seg-{number:06}.hseg"))
}

/// Takes the lock of a directory: alone to write, shared to read.
pub fn lock(directory: &Path, alone: bool) -> Result<File, StoreError> {
    let path = directory.join("LOCK");
    let file = if alone {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
    } else {
        File::open(&path)
    }
    .map_err(|e| StoreError::io("opening", &path, e))?;
    let locked = if alone {
        file.try_lock()
    } else {
        file.try_lock_shared()
    };
    match locked {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            path: directory.display().to_string(),
        }),
        Err(TryLockError::Error(e)) => Err(StoreError::io("locking", &path, e)),
    }
}

/// The directory belongs to another site. Devices of two sites may bear the
/// same names, so that readings of one would pass for those of the other.
#[derive(Debug, thiserror::Error)]
#[error(
    "it holds the readings of site `{theirs}`, not of site `{ours}`; give the site file of `{theirs}`, or another data directory"
)]
pub struct OtherSite {
    /// The id that the directory bears.
    pub theirs: String,
    /// The id of the site that it was opened for.
    pub ours: String,
}

/// Holds a directory against the site that opens it. A directory without a
/// name gets this site's when `claim`; reading only takes it as it is.
pub fn check_site(directory: &Path, site: &SiteId, claim: bool) -> Result<(), StoreError> {
    let path = directory.join("SITE");
    match std::fs::read(&path) {
        Ok(bytes) if bytes.trim_ascii() == site.as_str().as_bytes() => Ok(()),
        Ok(bytes) => {
            let other = OtherSite {
                theirs: String::from_utf8_lossy(bytes.trim_ascii()).into_owned(),
                ours: site.to_string(),
            };
            let error = io::Error::new(io::ErrorKind::InvalidInput, other);
            Err(StoreError::io("opening", directory, error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if claim {
                (FileSystem.create(&path, format!("{site}\n").as_bytes()))
                    .map_err(|e| StoreError::io("writing", &path, e))?;
            }
            Ok(())
        }
        Err(error) => Err(StoreError::io("reading", &path, error)),
    }
}

/// Numbers of the files `PREFIX-NUMBER.SUFFIX` in a directory, rising.
fn numbers(directory: &Path, prefix: &str, suffix: &str) -> Result<Vec<u64>, StoreError> {
    let failed = |e| StoreError::io("listing", directory, e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name
            .to_str()
            .and_then(|n| n.strip_prefix(prefix)?.strip_suffix(suffix))
            .and_then(|n| n.parse::<u64>().ok());
        found.extend(number);
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes segments that a crash left half written.
pub fn remove_unfinished(directory: &Path) -> Result<(), StoreError> {
    for number in numbers(directory, "seg-", ".tmp")? {
        let _ = std::fs::remove_file(segment_path(directory, number).with_extension("tmp"));
    }
    Ok(())
}

/// What logs there are after opening.
#[derive(Debug)]
pub struct Opened {
    /// Numbers of the logs whose frames are in memory.
    pub live: Vec<u64>,
    /// Numbers of logs that are sealed already and may be deleted.
    pub obsolete: Vec<u64>,
    /// Highest number in use.
    pub highest: u64,
    /// Bytes of the live logs.
    pub wal_bytes: u64,
}

/// Opens all segments and brings the rows of the logs into memory. Changes
/// nothing on disk, but for cutting torn tails when `repair`.
pub fn load(directory: &Path, state: &mut State, repair: bool) -> Result<Opened, StoreError> {
    let catalogue = Catalogue::builtin();
    let mut sealed = 0;
    let mut highest = 0;
    for number in numbers(directory, "seg-", ".hseg")? {
        highest = number;
        let path = segment_path(directory, number);
        let opened = Segment::open(&path, number, catalogue, |name| {
            state.intern(&DeviceId::from(name))
        });
        match opened {
            Ok(segment) => {
                sealed = number;
                state.stats.frames += segment.frames;
                state.stats.samples += segment.samples;
                state.stats.disk_bytes += segment.bytes;
                state.segments.push(Arc::new(segment));
            }
            Err(error) => {
                state.stats.damaged += 1;
                tracing::error!(
                    file = %path.display(), %error,
                    "a segment is damaged and left out, all else is served; restore the file from a copy"
                );
            }
        }
    }
    read_latest(state);
    let mut opened = Opened {
        live: Vec::new(),
        obsolete: Vec::new(),
        highest,
        wal_bytes: 0,
    };
    for number in numbers(directory, "wal-", ".log")? {
        opened.highest = opened.highest.max(number);
        if number <= sealed {
            opened.obsolete.push(number);
            continue;
        }
        let path = wal_path(directory, number);
        let recovered = if repair {
            FramedLog::open(&path, WAL_KIND).map(|(_, recovered)| recovered)
        } else {
            FramedLog::read(&path, WAL_KIND)
        };
        match recovered {
            Ok(recovered) => replay(&path, recovered, state),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                state.stats.damaged += 1;
                tracing::error!(file = %path.display(), %error, "a log cannot be read and is left aside");
                continue;
            }
            Err(error) => return Err(StoreError::io("opening", &path, error)),
        }
        opened.wal_bytes += std::fs::metadata(&path).map_or(0, |m| m.len());
        opened.live.push(number);
    }
    Ok(opened)
}

fn replay(path: &Path, recovered: Recovered, state: &mut State) {
    let torn = u64::from(recovered.torn_bytes > 0);
    let mut damaged = recovered.damaged.len() as u64 + torn;
    for record in &recovered.records {
        let Some(frames) = read_record(record, Catalogue::builtin()) else {
            damaged += 1;
            continue;
        };
        for frame in &frames {
            let device = state.intern(&frame.device);
            // A crash between sealing and deleting leaves no doubles, because the
            // whole log is then obsolete; this holds even if files were copied about.
            if !state.devices[device as usize].head.contains(frame.at.0) {
                state.insert(device, frame);
            }
        }
    }
    if damaged > 0 {
        state.stats.damaged += damaged;
        tracing::warn!(
            file = %path.display(), damaged, torn_bytes = recovered.torn_bytes,
            "the log had records that were torn or damaged; what was torn was never acknowledged"
        );
    }
}

/// The latest row of each device among the segments: of the latest block that
/// can be read.
fn read_latest(state: &mut State) {
    let mut blocks: Vec<Vec<(usize, BlockMeta)>> = vec![Vec::new(); state.devices.len()];
    for (place, segment) in state.segments.iter().enumerate() {
        for meta in segment.blocks() {
            blocks[meta.device as usize].push((place, *meta));
        }
    }
    for (device, mut of_device) in blocks.into_iter().enumerate() {
        of_device.sort_by_key(|(_, meta)| std::cmp::Reverse(meta.last));
        for (place, meta) in of_device {
            let segment = Arc::clone(&state.segments[place]);
            let row = File::open(&segment.path)
                .and_then(|file| segment.read(&file, &meta))
                .ok()
                .and_then(|bytes| segment.parse(&meta, &bytes)?.last_row());
            if let Some(readings) = row {
                state.devices[device].latest = Some((meta.last, readings));
                break;
            }
            if segment.report_damage(&"its last rows cannot be read") {
                state.stats.damaged += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_remembers_its_site_and_is_closed_to_others() {
        let directory = tempfile::tempdir().unwrap();
        let (ours, other) = (SiteId::from("demo"), SiteId::from("lumi"));
        // Reading alone claims nothing.
        check_site(directory.path(), &other, false).unwrap();
        check_site(directory.path(), &ours, true).unwrap();
        check_site(directory.path(), &ours, true).unwrap();
        check_site(directory.path(), &ours, false).unwrap();
        for claim in [true, false] {
            let error = check_site(directory.path(), &other, claim).unwrap_err();
            let text = error.to_string();
            for expected in ["`demo`", "`lumi`", "another data directory"] {
                assert!(text.contains(expected), "{text}");
            }
        }
        let kept = std::fs::read_to_string(directory.path().join("SITE")).unwrap();
        assert_eq!(kept, "demo\n");
    }
}
