//! How limits at a management controller were before they were first set,
//! on disk until they are so again.
//!
//! The agent keeps the watts itself, and they do not say all: a limit may have
//! been switched off, which counts as the highest one while it lasts, and it may
//! have been one that the site would not choose. A cap equal to the watts kept
//! here goes back to all of it.

use crate::spool::write_durably;
use heliostat_models::{DeviceId, Watts};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// What is kept as text and read again is the same within this, in watts. A cap
/// merely near is another one: going back ends the keeping.
const SAME: f64 = 1e-6;

/// Whether two limits are one.
pub(super) fn is_same(one: Watts, other: Watts) -> bool {
    (one.get() - other.get()).abs() <= SAME
}

/// How a limit was.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Before {
    /// What held; the highest limit where it was off.
    pub(super) watts: Watts,
    /// Whether it was switched off.
    pub(super) off: bool,
}

/// The list, and the file that it lies in.
#[derive(Debug)]
pub(super) struct BeforeFile {
    path: PathBuf,
    devices: BTreeMap<DeviceId, Before>,
}

impl BeforeFile {
    /// Reads what an earlier run left; empty where there is no file.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join("limits-before.json");
        let devices = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "{}: {e}; it lists power limits as they were found: set them so at the management controller, then delete the file",
                        path.display()
                    ),
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, devices })
    }

    /// What a cap goes back to, if it is that of before.
    pub(super) fn goes_back(&self, device: &DeviceId, cap: Watts) -> Option<Before> {
        let before = self.devices.get(device)?;
        is_same(before.watts, cap).then_some(*before)
    }

    /// Keeps how a limit is, unless it was kept earlier; on disk when this returns.
    pub(super) fn keep(&mut self, device: &DeviceId, now: Before) -> io::Result<()> {
        if self.devices.contains_key(device) {
            return Ok(());
        }
        self.devices.insert(device.clone(), now);
        self.write().inspect_err(|_| {
            self.devices.remove(device);
        })
    }

    /// Forgets a limit that is as it was.
    pub(super) fn forget(&mut self, device: &DeviceId) -> io::Result<()> {
        match self.devices.remove(device) {
            Some(_) => self.write(),
            None => Ok(()),
        }
    }

    fn write(&self) -> io::Result<()> {
        if self.devices.is_empty() {
            return match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        write_durably(&self.path, &serde_json::to_string_pretty(&self.devices)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Before = Before {
        watts: Watts(5_000.0),
        off: true,
    };

    #[test]
    fn outlives_the_agent_and_leaves_no_empty_file() {
        let dir = tempfile::tempdir().unwrap();
        let node = DeviceId::from("n1");
        let mut list = BeforeFile::open(dir.path()).unwrap();
        list.keep(&node, OFF).unwrap();
        // The first counts: the second is what we set.
        let ours = Before {
            watts: Watts(3_000.0),
            off: false,
        };
        list.keep(&node, ours).unwrap();
        let mut again = BeforeFile::open(dir.path()).unwrap();
        assert_eq!(again.goes_back(&node, Watts(5_000.0)), Some(OFF));
        assert_eq!(again.goes_back(&node, Watts(3_000.0)), None);
        assert_eq!(again.goes_back(&"n2".into(), Watts(5_000.0)), None);
        again.forget(&node).unwrap();
        again.forget(&node).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_damaged_list_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("limits-before.json"), "{").unwrap();
        let error = BeforeFile::open(dir.path()).unwrap_err();
        assert!(
            error.to_string().contains("then delete the file"),
            "{error}"
        );
    }

    #[test]
    fn what_cannot_be_written_down_is_not_kept_either() {
        let dir = tempfile::tempdir().unwrap();
        // A file where the folder should be.
        std::fs::write(dir.path().join("spool"), "").unwrap();
        let mut list = BeforeFile {
            path: dir.path().join("spool/limits-before.json"),
            devices: BTreeMap::new(),
        };
        let node = DeviceId::from("n1");
        assert!(list.keep(&node, OFF).is_err());
        assert_eq!(list.goes_back(&node, OFF.watts), None);
    }
}
