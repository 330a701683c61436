//! The keeper: a thread that compacts and removes what is too old, while the
//! writer goes on.

use super::compact::{self, CompactError, Job};
use super::retention;
use super::{Options, Shared};
use crate::clock::Clock;
use crate::query::StoreError;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;

/// What the keeper is asked.
pub enum Work {
    /// Something was sealed: see whether there is something to do.
    Look,
    /// Bring all files of each day together now, and remove what is too old.
    Compact {
        /// To whom.
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

/// The keeper's own state.
pub struct Keeper {
    /// The store's directory.
    pub directory: PathBuf,
    /// What it shares with queries and the writer.
    pub shared: Arc<Shared>,
    /// The site's clock.
    pub clock: Arc<dyn Clock>,
    /// How the engine behaves.
    pub options: Options,
    /// What could not be compacted; it is not tried again before the next opening.
    pub failed: Vec<Job>,
}

impl Keeper {
    /// Works until nobody can ask any more.
    pub fn run(mut self, queue: mpsc::Receiver<Work>) {
        while let Ok(work) = queue.recv() {
            if self.shared.stopping.load(Ordering::Relaxed) {
                return;
            }
            match work {
                Work::Look => {
                    if let Err(error) = self.compact(false) {
                        tracing::warn!(%error, "files could not be compacted or removed and stay as they are");
                    }
                }
                Work::Compact { reply } => {
                    let _ = reply.send(self.compact(true));
                }
            }
        }
    }

    /// Does all there is to do; files that cannot be read are left as they are.
    fn compact(&mut self, all: bool) -> Result<(), StoreError> {
        let now = self.clock.now();
        retention::run(&self.directory, &self.shared, &self.options, now)?;
        let jobs = compact::jobs(
            &self.shared.manifest(),
            self.options.compact_files,
            now,
            all,
        );
        let mut failed = Vec::new();
        for job in jobs
            .into_iter()
            .filter(|job| all || !self.failed.contains(job))
        {
            match compact::run(&self.directory, &self.shared, &self.options, &job) {
                Ok(()) => {}
                Err(CompactError::Store(error)) => return Err(error),
                Err(CompactError::Stopped) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "files are left as they are");
                    failed.push(job);
                }
            }
        }
        self.failed.append(&mut failed);
        Ok(())
    }
}
