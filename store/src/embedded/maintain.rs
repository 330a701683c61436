//! What is done to a store that no server has open: holding every byte against
//! its checksum, and copying.

use super::files::{self, WAL_KIND, wal_path};
use super::manifest::Manifest;
use super::segment::Segment;
use super::wal::read_record;
use crate::directory_lock::Access;
use crate::framed_log::{FramedLog, sync_directory};
use crate::query::StoreError;
use heliostat_models::Catalogue;
use std::fs::File;
use std::path::Path;

/// Told how many bytes of how many are done.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Files that were read.
    pub files: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Rows in segments and frames in logs.
    pub frames: u64,
    /// What is damaged: the file, and what in it.
    pub faults: Vec<String>,
}

/// Reads everything in a store's directory and names what is damaged. Changes
/// nothing; fails with [`StoreError::InUse`] while a server has the directory.
pub fn verify(directory: &Path, progress: Progress<'_>) -> Result<Verified, StoreError> {
    let _lock = files::lock(directory, Access::Shared)?;
    let manifest = Manifest::read(directory)?;
    let logs = files::live_logs(directory, &manifest)?;
    let log_bytes: u64 = logs.iter().map(|n| length(&wal_path(directory, *n))).sum();
    let all = manifest.files.iter().map(|e| e.bytes).sum::<u64>() + log_bytes;
    let mut found = Verified::default();
    for entry in &manifest.files {
        let path = directory.join(entry.path());
        let catalogue = Catalogue::builtin();
        match Segment::open(&path, entry.id, entry.bytes, entry.footer, catalogue, |_| 0) {
            Ok(segment) => {
                let faults = segment.verify();
                let named = faults
                    .iter()
                    .map(|f| format!("{}: {f}", entry.path().display()));
                found.faults.extend(named);
            }
            Err(error) => found
                .faults
                .push(format!("{}: {error}", entry.path().display())),
        }
        found.files += 1;
        found.bytes += entry.bytes;
        if entry.of.is_none() {
            found.frames += entry.frames;
        }
        progress(found.bytes, all);
    }
    for number in logs {
        let path = wal_path(directory, number);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match FramedLog::read(&path, WAL_KIND) {
            Ok(recovered) => {
                let damaged = recovered.damaged.len();
                if damaged > 0 {
                    found
                        .faults
                        .push(format!("{name}: {damaged} records are damaged"));
                }
                for record in &recovered.records {
                    match read_record(record, Catalogue::builtin()) {
                        Some(frames) => found.frames += frames.len() as u64,
                        None => found
                            .faults
                            .push(format!("{name}: a record cannot be understood")),
                    }
                }
                // A torn tail was never acknowledged: no fault.
            }
            Err(error) => found.faults.push(format!("{name}: {error}")),
        }
        found.files += 1;
        found.bytes += length(&path);
        progress(found.bytes, all);
    }
    Ok(found)
}

/// Copies a store that no server has open into a directory that does not exist
/// yet or is empty: its files, then its logs, then the manifest, so that a copy
/// that was cut short has none. Returns the bytes copied.
pub fn snapshot(directory: &Path, to: &Path, progress: Progress<'_>) -> Result<u64, StoreError> {
    let _lock = files::lock(directory, Access::Shared)?;
    let manifest = Manifest::read(directory)?;
    let making = |e| StoreError::io("making", to, e);
    std::fs::create_dir_all(to).map_err(making)?;
    if std::fs::read_dir(to).map_err(making)?.next().is_some() {
        return Err(StoreError::BadQuery(format!(
            "{} is not empty; give a directory that does not exist yet",
            to.display()
        )));
    }
    let mut relative: Vec<_> = manifest.files.iter().map(|e| e.path()).collect();
    for number in files::live_logs(directory, &manifest)? {
        let path = wal_path(directory, number);
        relative.extend(path.strip_prefix(directory).map(Path::to_owned));
    }
    for name in ["catalogue.json", "LOCK", files::MANIFEST] {
        if directory.join(name).exists() {
            relative.push(name.into());
        }
    }
    let all = relative.iter().map(|p| length(&directory.join(p))).sum();
    let mut done = 0;
    for path in relative {
        let (source, target) = (directory.join(&path), to.join(&path));
        let copied = target
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::copy(&source, &target))
            .and_then(|bytes| {
                File::open(&target)?.sync_all()?;
                target.parent().map_or(Ok(()), sync_directory)?;
                Ok(bytes)
            });
        done += copied.map_err(|e| StoreError::io("copying to", &target, e))?;
        progress(done, all);
    }
    Ok(done)
}

fn length(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}
