//! How files become part of the store: written, opened, named by the manifest,
//! and only then believed in memory. Sealing and compaction both go this way.

use super::encode::Files;
use super::files::open_segment;
use super::manifest::{Entry, Manifest, Tier};
use super::segment::{Segment, footer_crc};
use super::state::State;
use super::{Options, Shared};
use crate::query::StoreError;
use std::path::Path;

/// Removes files that no manifest will name; the space is given back at once,
/// because the disk may be full.
pub fn discard(directory: &Path, files: Vec<Entry>) {
    for entry in files {
        let _ = std::fs::remove_file(directory.join(entry.path()));
    }
}

/// Opens files that were just written.
pub fn open_all(
    directory: &Path,
    shared: &Shared,
    files: Vec<Entry>,
) -> Result<Vec<(Entry, Segment)>, StoreError> {
    // The devices are known; the lock is not held while files are read.
    let device = |id: &heliostat_models::DeviceId| {
        let known = shared.read().find(id);
        known.unwrap_or_else(|| shared.write().intern(id))
    };
    (files.into_iter())
        .map(|entry| match open_segment(directory, &entry, device) {
            Ok(segment) => Ok((entry, segment)),
            Err(error) => {
                let path = directory.join(entry.path());
                Err(StoreError::io("reading back", &path, error))
            }
        })
        .collect()
}

/// Makes files part of the store: first on disk, then in memory. After an error
/// nothing in memory has changed, and the files stay: the manifest may have got
/// through all the same, and if it has not they go at the next opening.
pub fn commit(
    directory: &Path,
    shared: &Shared,
    options: &Options,
    added: Vec<(Entry, Segment)>,
    change: impl FnOnce(&mut Manifest),
    also: impl FnOnce(&mut State),
) -> Result<(), StoreError> {
    let mut manifest = shared.manifest();
    let mut next = manifest.clone();
    next.files
        .extend(added.iter().map(|(entry, _)| entry.clone()));
    change(&mut next);
    next.write(directory, &*options.disk)?;
    *manifest = next;
    let mut state = shared.write();
    for (entry, segment) in added {
        state.stats.disk_bytes += entry.bytes;
        state.add(&entry, segment);
    }
    also(&mut state);
    Ok(())
}

/// The partition that a file belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Days since 1970.
    pub day: i64,
    /// Kind of device.
    pub kind: &'a str,
}

/// Writes a raw file and its rollups under new numbers; no manifest names them yet.
pub fn create(
    directory: &Path,
    shared: &Shared,
    options: &Options,
    place: Place<'_>,
    files: Files,
    added: &mut Vec<Entry>,
) -> Result<(), StoreError> {
    let mut raw = None;
    for (tier, file) in files {
        let id = {
            let mut manifest = shared.manifest();
            manifest.next += 1;
            manifest.next - 1
        };
        let entry = Entry {
            id,
            tier,
            day: place.day,
            kind: place.kind.to_owned(),
            bytes: file.bytes.len() as u64,
            footer: footer_crc(&file.bytes).unwrap_or_default(),
            frames: file.frames,
            samples: file.samples,
            of: raw,
        };
        let path = directory.join(entry.path());
        (options.disk.create(&path, &file.bytes))
            .map_err(|e| StoreError::io("writing", &path, e))?;
        if tier == Tier::Raw {
            raw = Some(id);
        }
        added.push(entry);
    }
    Ok(())
}
