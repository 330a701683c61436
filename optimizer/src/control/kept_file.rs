//! A small file beside the store in which control keeps something over restarts:
//! JSON, replaced as a whole, and whole or as before after any crash.

use heliostat_store::embedded::disk::{Disk as _, FileSystem};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::path::Path;

/// Larger files are none of ours.
const LONGEST: u64 = 64 << 20;

/// What is kept there; `None` where there is no file.
///
/// # Errors
/// When it cannot be read, or is not what should be there; it is left as it is.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
        Ok(file) if file.len() > LONGEST => {
            let what = format!("it has {} bytes, {LONGEST} at most are ours", file.len());
            return Err(io::Error::other(what));
        }
        Ok(_) => {}
    }
    Ok(Some(serde_json::from_slice(&std::fs::read(path)?)?))
}

/// Replaces what is kept there.
///
/// # Errors
/// When that fails; the file is as before then.
pub(super) fn write(path: &Path, what: &impl Serialize) -> io::Result<()> {
    FileSystem.create(path, &serde_json::to_vec(what)?)
}
