//! The two ways in which the engine writes, behind a trait so that a test can
//! let the disk run full or fail.

use crate::framed_log::{FramedLog, sync_directory};
use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Durable writing.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Appends records to a log and forces them to the disk. After an error the
    /// log is as before.
    fn append(&self, log: &mut FramedLog, records: &[Vec<u8>]) -> io::Result<()> {
        let before = log.length();
        log.append_all(records.iter().map(Vec::as_slice))?;
        if let Err(error) = log.sync() {
            // What was not synced was not acknowledged; it must not stand before
            // later records that are.
            let _ = log.rewind(before);
            return Err(error);
        }
        Ok(())
    }

    /// Creates a file that is either whole or not there, even after power loss.
    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Some(parent) = path.parent().filter(|p| !p.exists()) {
            make_directories(parent)?;
        }
        let temporary = path.with_extension("tmp");
        let written = File::create(&temporary).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)
        });
        if let Err(error) = written {
            // Give the space back at once: the disk may be full.
            let _ = std::fs::remove_file(&temporary);
            return Err(error);
        }
        path.parent().map_or(Ok(()), sync_directory)
    }
}

/// Makes a directory and those above it, each durably.
fn make_directories(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.exists() {
        return Ok(());
    }
    let Some(parent) = path.parent() else {
        return Ok(());
    };
    make_directories(parent)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ if parent.as_os_str().is_empty() => Ok(()),
        _ => sync_directory(parent),
    }
}

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSystem;

impl Disk for FileSystem {}
