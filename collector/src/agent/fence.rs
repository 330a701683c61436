//! The highest fence that an agent has seen, kept on disk: an agent that comes
//! back must not obey a controller that was replaced while it was away.

use crate::spool::write_durably;
use std::io;
use std::path::{Path, PathBuf};

/// The file, and what stands in it.
#[derive(Debug)]
pub(super) struct FenceFile {
    path: PathBuf,
    highest: u64,
}

impl FenceFile {
    /// Reads what an earlier run has seen. A file that cannot be understood is
    /// an error: to forget it would be to obey anybody.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let path = directory.join("control-fence");
        let highest = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|_| {
                let fault = format!(
                    "{}: `{}` is no number of a fence; delete the file when no other controller runs",
                    path.display(),
                    text.trim()
                );
                io::Error::new(io::ErrorKind::InvalidData, fault)
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        Ok(Self { path, highest })
    }

    /// The highest fence seen.
    pub(super) fn highest(&self) -> u64 {
        self.highest
    }

    /// A higher one was seen. Should the disk not take it, it holds for this run.
    pub(super) fn raise(&mut self, fence: u64) {
        self.highest = self.highest.max(fence);
        if let Err(error) = write_durably(&self.path, &self.highest.to_string()) {
            tracing::error!(%error, path = %self.path.display(), "which controller is in charge cannot be written down; after a restart an earlier one might be obeyed");
        }
    }
}
