//! What the agent keeps on disk of its leases: for each device the safe cap, so
//! that a start after a crash raises nothing above it; and the last command, so
//! that it is not obeyed again when somebody sends it again.
//!
//! Written anew with every command and not forced to the disk: it outlives the
//! process. After a loss of power the limits found (`found.rs`) are there, and
//! a device without a safe cap is not raised.

use heliostat_models::lease::CapCommand;
use heliostat_models::{DeviceId, Timestamp, Watts};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The safe cap of a device's last lease.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptLease {
    pub(super) uuid: String,
    pub(super) safe_cap: Watts,
    /// When the lease ends or ended, by this agent's clock.
    pub(super) expires: Timestamp,
}

/// Which command was obeyed last.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct LastCommand {
    pub(super) controller: String,
    pub(super) fence: u64,
    pub(super) sequence: u64,
    pub(super) issued: Timestamp,
}

impl LastCommand {
    pub(super) fn of(command: &CapCommand) -> Self {
        Self {
            controller: command.controller.clone(),
            fence: command.fence,
            sequence: command.sequence,
            issued: command.issued,
        }
    }

    /// Whether a command is this one or comes before it. One of a higher fence never does.
    pub(super) fn covers(&self, command: &CapCommand) -> bool {
        if command.fence > self.fence {
            false
        } else if command.controller == self.controller {
            command.sequence <= self.sequence
        } else {
            command.issued < self.issued
        }
    }
}

/// What stands in the file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    #[serde(default)]
    pub(super) last: Option<LastCommand>,
    #[serde(default)]
    pub(super) leases: BTreeMap<DeviceId, KeptLease>,
    /// The instant of the last statement: later ones bear none before it, also
    /// where the clock was set back meanwhile.
    #[serde(default)]
    pub(super) said: Option<Timestamp>,
}

/// The file.
#[derive(Debug)]
pub(super) struct KeptFile {
    path: PathBuf,
    /// As it was written last.
    written: Option<Kept>,
}

impl KeptFile {
    pub(super) fn new(directory: &Path) -> Self {
        Self {
            path: directory.join("leases.json"),
            written: None,
        }
    }

    /// What an earlier run kept; nothing where there is no file, or none that can be read.
    pub(super) fn read(&self) -> Kept {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Kept::default(),
            Err(error) => {
                self.complain(&error);
                return Kept::default();
            }
        };
        serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            self.complain(&error);
            Kept::default()
        })
    }

    fn complain(&self, error: &dyn std::fmt::Display) {
        tracing::warn!(%error, path = %self.path.display(), "the safe caps of an earlier run cannot be read; its devices keep the limits that they have until control speaks");
    }

    /// Replaces what is kept.
    pub(super) fn write(&mut self, kept: Kept) {
        if self.written.as_ref() == Some(&kept) {
            return;
        }
        let replace = || -> io::Result<()> {
            let beside = self.path.with_extension("json.new");
            std::fs::write(&beside, serde_json::to_vec(&kept)?)?;
            std::fs::rename(&beside, &self.path)
        };
        match replace() {
            Ok(()) => self.written = Some(kept),
            Err(error) => {
                tracing::error!(%error, path = %self.path.display(), "safe caps cannot be written down; after a crash devices keep the limits that they have");
            }
        }
    }
}
