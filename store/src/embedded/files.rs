//! The files of a store directory: lock, logs and segments, and what opening
//! them finds.
//!
//! ```text
//! LOCK              held while the store is open
//! SITE              whose readings these are: the site's id
//! manifest.json     which files belong to the store
//! catalogue.json    what the columns mean: unit, kind, description
//! wal-NNNNNN.log    frames not yet sealed
//! segments/day=YYYY-MM-DD/kind=KIND/NNNNNN.parquet            frames
//! rollups/step=STEP/day=YYYY-MM-DD/kind=KIND/NNNNNN.parquet   frames condensed
//! ```

use super::disk::{Disk, FileSystem};
use super::manifest::{Entry, Manifest, Tier};
use super::segment::{BlockMeta, Cache, Segment};
use super::state::{ONE_INSTANT_MS, State};
use super::wal::read_record;
use crate::directory_lock::{Access, DirectoryLock};
use crate::framed_log::{FramedLog, Recovered};
use crate::query::StoreError;
use heliostat_models::{Catalogue, DeviceId, SiteId};
use serde_json::json;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

/// Kind of the write-ahead log.
pub const WAL_KIND: &[u8; 3] = b"wal";

/// The log with this number.
pub fn wal_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("wal-{number:06}.log"))
}

/// Name of the manifest.
pub use super::manifest::NAME as MANIFEST;

/// Numbers of the logs that hold frames of no segment, rising.
pub fn live_logs(directory: &Path, manifest: &Manifest) -> Result<Vec<u64>, StoreError> {
    let mut found = numbers(directory, "wal-", ".log")?;
    found.retain(|number| *number > manifest.sealed);
    Ok(found)
}

/// Takes the lock of a directory: alone to write, shared to read.
pub fn lock(directory: &Path, access: Access) -> Result<DirectoryLock, StoreError> {
    let path = directory.join("LOCK");
    DirectoryLock::take(&path, access)
        .map_err(|e| StoreError::io("locking", &path, e))?
        .ok_or_else(|| StoreError::InUse {
            path: directory.display().to_string(),
        })
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

/// Removes files that no manifest names: what a crash left half done.
pub fn remove_unfinished(directory: &Path, manifest: &Manifest) -> Result<(), StoreError> {
    let known: HashSet<PathBuf> = (manifest.files.iter())
        .map(|entry| directory.join(entry.path()))
        .collect();
    let _ = std::fs::remove_file(directory.join("manifest.tmp"));
    let _ = std::fs::remove_file(directory.join("catalogue.tmp"));
    for top in ["segments", "rollups"] {
        let top = directory.join(top);
        if top.exists() {
            remove_unknown(&top, &known)?;
        }
    }
    Ok(())
}

fn remove_unknown(directory: &Path, known: &HashSet<PathBuf>) -> Result<(), StoreError> {
    let failed = |e| StoreError::io("listing", directory, e);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            remove_unknown(&path, known)?;
            // Only an empty one goes.
            let _ = std::fs::remove_dir(&path);
        } else if !known.contains(&path)
            && path
                .extension()
                .is_some_and(|e| e == "parquet" || e == "tmp")
        {
            let _ = std::fs::remove_file(&path);
        }
    }
    Ok(())
}

/// Writes what the columns mean beside the files, where that is not there yet.
pub fn write_catalogue(directory: &Path, disk: &dyn Disk) -> Result<(), StoreError> {
    let path = directory.join("catalogue.json");
    let metrics: Vec<_> = Catalogue::builtin().iter().map(|(_, m)| m).collect();
    let text = json!({
        "layout": "segments/day=DAY/kind=KIND/N.parquet: one row a device and instant, UTC; a column a metric, in its unit; NAME_quality says measured, estimated or missing where not all is measured (null: not in the frame). rollups/step=STEP/...: one row a device and step from its begin, included, to its end, excluded; NAME_edge is the reading at the very begin, NAME_inside_min, _max and _sum stand where they differ without it; of a counter NAME_min (NAME_inside_min) stands where it is not NAME_edge, or else NAME_first (NAME_first), and NAME_max, NAME_inside_max where it is not NAME_last.",
        "metrics": metrics,
    });
    let text =
        serde_json::to_vec_pretty(&text).map_err(|e| StoreError::io("writing", &path, e.into()))?;
    if std::fs::read(&path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    (disk.create(&path, &text)).map_err(|e| StoreError::io("writing", &path, e))
}

/// Opens a file that the manifest names; `device` gives the store's index of a name.
pub fn open_segment(
    directory: &Path,
    entry: &Entry,
    mut device: impl FnMut(&DeviceId) -> u32,
) -> io::Result<Segment> {
    let path = directory.join(entry.path());
    let catalogue = Catalogue::builtin();
    Segment::open(
        &path,
        entry.id,
        entry.bytes,
        entry.footer,
        catalogue,
        |name| device(&DeviceId::from(name)),
    )
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
    /// The last live log and its number, open at its end, where it may be written.
    pub last: Option<(u64, FramedLog)>,
}

/// Opens all segments and brings the rows of the logs into memory. Changes
/// nothing on disk, but for cutting torn tails when `repair`.
pub fn load(
    directory: &Path,
    manifest: &Manifest,
    state: &mut State,
    repair: bool,
) -> Result<Opened, StoreError> {
    for entry in &manifest.files {
        match open_segment(directory, entry, |id| state.intern(id)) {
            Ok(segment) => {
                state.stats.disk_bytes += entry.bytes;
                if entry.tier == Tier::Raw {
                    state.stats.frames += entry.frames;
                    state.stats.samples += entry.samples;
                }
                state.add(entry, segment);
            }
            Err(error) => {
                state.stats.damaged += 1;
                if entry.tier == Tier::Raw {
                    state.lost.insert(entry.id);
                }
                tracing::error!(
                    file = %entry.path().display(), %error,
                    "a segment is damaged and left out, all else is served; restore the file from a copy"
                );
            }
        }
    }
    state.note_left();
    let mut opened = Opened {
        live: Vec::new(),
        obsolete: Vec::new(),
        highest: manifest.sealed,
        wal_bytes: 0,
        last: None,
    };
    for number in numbers(directory, "wal-", ".log")? {
        opened.highest = opened.highest.max(number);
        if number <= manifest.sealed {
            opened.obsolete.push(number);
            continue;
        }
        let path = wal_path(directory, number);
        let recovered = if repair {
            FramedLog::open(&path, WAL_KIND).map(|(log, recovered)| (Some(log), recovered))
        } else {
            FramedLog::read(&path, WAL_KIND).map(|recovered| (None, recovered))
        };
        match recovered {
            Ok((log, recovered)) => {
                replay(&path, recovered, state);
                opened.last = log.map(|log| (number, log));
            }
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
    read_latest(state);
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
            if !state.devices[device as usize].contains(frame.at.0) {
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

/// The rows of the latest instant of each device among the segments, as far as
/// they can be read and the logs have brought nothing newer.
fn read_latest(state: &mut State) {
    let mut blocks: Vec<Vec<(usize, BlockMeta)>> = vec![Vec::new(); state.devices.len()];
    for (place, segment) in state.segments.iter().enumerate() {
        for meta in segment.blocks() {
            blocks[meta.device as usize].push((place, *meta));
        }
    }
    let mut cache = Cache::for_devices(state.devices.len());
    for (device, mut of_device) in blocks.into_iter().enumerate() {
        of_device.sort_by_key(|(_, meta)| std::cmp::Reverse(meta.last));
        let mut newest = state.devices[device].newest();
        let mut rows = Vec::new();
        for (place, meta) in of_device {
            let of_one_instant = |newest: i64| newest.saturating_sub(ONE_INSTANT_MS - 1);
            if newest.is_some_and(|newest| meta.last < of_one_instant(newest)) {
                break;
            }
            let segment = &state.segments[place];
            let from = of_one_instant(newest.unwrap_or(meta.last).max(meta.last));
            match segment.last_rows(&mut cache, &meta, from) {
                Ok(found) => {
                    rows.extend(found);
                    newest = newest.max(Some(meta.last));
                }
                Err(error) => {
                    if segment.report_damage(meta.group, &error) {
                        state.stats.damaged += 1;
                    }
                }
            }
        }
        rows.sort_by_key(|(at, _)| *at);
        state.devices[device].sealed = rows;
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
