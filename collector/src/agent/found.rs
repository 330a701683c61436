//! The limits found before the first cap, kept on disk until they are
//! restored, so that a crash does not leave devices capped for ever.

use crate::spool::write_durably;
use heliostat_models::{DeviceId, Watts};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// A limit found on a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FoundCap {
    /// The device's name.
    pub(super) device: DeviceId,
    /// Its UUID; verified before the limit is restored.
    pub(super) uuid: String,
    /// The limit.
    pub(super) found: Watts,
}

/// The file of limits found.
#[derive(Debug)]
pub(super) struct FoundFile {
    path: PathBuf,
}

impl FoundFile {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("found-caps.json"),
        }
    }

    /// What an earlier run left unrestored; empty when there is no file.
    pub(super) fn read(&self) -> io::Result<Vec<FoundCap>> {
        match std::fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{}: {e}; it lists power limits to restore: set them by hand (`nvidia-smi -pl`, or the maker's tool), then delete the file",
                        self.path.display()
                    ),
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Replaces the list; on disk when this returns. An empty list removes the file.
    pub(super) fn write(&self, caps: &[FoundCap]) -> io::Result<()> {
        if caps.is_empty() {
            return match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let text = serde_json::to_string_pretty(caps)?;
        write_durably(&self.path, &text)
    }
}
