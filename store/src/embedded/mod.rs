//! The embedded engine: a write-ahead log with group commit, columns in memory,
//! and immutable Parquet files that any other tool reads as well.
//!
//! ```text
//! append -> writer thread: log (one write, one fsync a group) -> memory -> answer
//!                          memory full or old -> Parquet files -> manifest -> old log deleted
//! query  -> memory and segments, on a blocking thread; the latest frames from memory alone
//! ```
//!
//! Acknowledged means: the log's fsync has returned. A frame is told from a
//! double by device and instant, in memory and in segments alike. Memory is
//! bounded by [`Options::seal_samples`], the index (about 50 bytes a device and
//! segment) and one device's rows of a query at a time.

mod aggregate;
mod codec;
mod decimal;
pub mod disk;
mod files;
mod head;
mod manifest;
mod read;
mod reader;
mod rollup;
mod seal;
mod segment;
mod state;
mod steps;
mod wal;
mod writer;

use crate::clock::Clock;
use crate::query::{Answer, AppendReceipt, Query, Source, StoreError, StoreStats, TimeSeriesStore};
use async_trait::async_trait;
use disk::{Disk, FileSystem};
use heliostat_models::{Frame, Site};
use manifest::Manifest;
pub use manifest::Tier;
pub use segment::Precision;
use state::State;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use writer::{Command, Writer};

/// Appends that may wait for the writer; more wait before the queue.
const QUEUE: usize = 1_024;

/// How the engine behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Readings in memory at which they are sealed into a segment; about 9 bytes each.
    pub seal_samples: u64,
    /// Age of what is in memory, by the site's clock, at which it is sealed.
    pub seal_age: Duration,
    /// Which metrics are stored bit by bit and which to their declared precision.
    pub precision: Precision,
    /// How files are written.
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seal_samples: 2_000_000,
            seal_age: Duration::from_secs(6 * 3_600),
            precision: Precision::Lossless,
            disk: Arc::new(FileSystem),
        }
    }
}

/// What queries and the writer share.
#[derive(Debug)]
struct Shared {
    state: RwLock<State>,
    /// What is on disk. Who takes both locks takes this one first.
    manifest: Mutex<Manifest>,
    wal_bytes: AtomicU64,
    /// Segments found damaged by a query.
    damaged: AtomicU64,
}

impl Shared {
    // A panic elsewhere cannot leave the state half changed in a way that
    // matters more than going on: rows are inserted one by one.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn manifest(&self) -> MutexGuard<'_, Manifest> {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The embedded store. Dropping it, or [`EmbeddedStore::close`], ends the writer
/// and frees the directory; what is acknowledged is on disk before that already.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    writer: Mutex<Option<(JoinHandle<()>, File)>>,
    read_only: bool,
}

impl EmbeddedStore {
    /// Opens the store in a directory, making it if need be.
    ///
    /// Fails with [`StoreError::InUse`] when another process, or another store of
    /// this one, has it open. Damage is isolated and counted in the statistics.
    pub fn open(
        directory: &Path,
        site: Arc<Site>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, StoreError> {
        Self::open_with(directory, site, clock, Options::default())
    }

    /// The same, with options.
    pub fn open_with(
        directory: &Path,
        site: Arc<Site>,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<Arc<Self>, StoreError> {
        std::fs::create_dir_all(directory).map_err(|e| StoreError::io("making", directory, e))?;
        let lock = files::lock(directory, true)?;
        let manifest = Manifest::read(directory)?;
        files::remove_unfinished(directory, &manifest)?;
        files::write_catalogue(directory, &*options.disk)?;
        let mut state = State::new(site);
        let opened = files::load(directory, &manifest, &mut state, true)?;
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            manifest: Mutex::new(manifest),
            wal_bytes: AtomicU64::new(opened.wal_bytes),
            damaged: AtomicU64::new(0),
        });
        let writer = Writer::begin(directory, Arc::clone(&shared), clock, options, opened)?;
        let (commands, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(queue))
            .map_err(|e| StoreError::io("starting the writer of", directory, e))?;
        Ok(Arc::new(Self {
            shared,
            commands: Mutex::new(Some(commands)),
            writer: Mutex::new(Some((thread, lock))),
            read_only: false,
        }))
    }

    /// Opens the store in a directory to query it only: nothing on disk is
    /// changed, `append` is refused. Several may read at a time, but none while
    /// a writer has the directory ([`StoreError::InUse`]).
    pub fn open_read_only(directory: &Path, site: Arc<Site>) -> Result<Arc<Self>, StoreError> {
        let lock = files::lock(directory, false)?;
        let manifest = Manifest::read(directory)?;
        let mut state = State::new(site);
        let opened = files::load(directory, &manifest, &mut state, false)?;
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            manifest: Mutex::new(manifest),
            wal_bytes: AtomicU64::new(opened.wal_bytes),
            damaged: AtomicU64::new(0),
        });
        // The thread that ends at once stands for the writer that there is not; the lock lives with it.
        let thread = std::thread::spawn(|| {});
        Ok(Arc::new(Self {
            shared,
            commands: Mutex::new(None),
            writer: Mutex::new(Some((thread, lock))),
            read_only: true,
        }))
    }

    /// Seals what is in memory into a segment now. Nothing in memory: nothing happens.
    pub async fn seal(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Seal { reply }).await?;
        answer.await.map_err(|_| self.stopped())?
    }

    /// Ends the writer and frees the directory; later appends fail with
    /// [`StoreError::Stopped`], queries are still answered.
    pub async fn close(&self) {
        self.take_sender();
        let writer = self.take_writer();
        // Joining waits for at most one group or segment; not on the async threads.
        let _ = tokio::task::spawn_blocking(move || end(writer)).await;
    }

    fn take_sender(&self) {
        drop(
            self.commands
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    fn take_writer(&self) -> Option<(JoinHandle<()>, File)> {
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    fn stopped(&self) -> StoreError {
        StoreError::Stopped(if self.read_only {
            "it was opened for reading only".to_owned()
        } else {
            "it was closed".to_owned()
        })
    }

    async fn send(&self, command: Command) -> Result<(), StoreError> {
        let sender = self
            .commands
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(|| self.stopped())?;
        sender.send(command).await.map_err(|_| self.stopped())
    }
}

/// Waits for the writer, then frees the directory.
fn end(writer: Option<(JoinHandle<()>, File)>) {
    if let Some((thread, lock)) = writer {
        if thread.join().is_err() {
            tracing::error!("the store's writer ended in a panic; what it acknowledged is on disk");
        }
        drop(lock);
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.take_sender();
        end(self.take_writer());
    }
}

#[async_trait]
impl TimeSeriesStore for EmbeddedStore {
    async fn append(&self, frames: Vec<Frame>) -> Result<AppendReceipt, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Append { frames, reply }).await?;
        answer.await.map_err(|_| self.stopped())?
    }

    async fn query(&self, query: &Query) -> Result<Answer, StoreError> {
        self.query_with_source(query)
            .await
            .map(|(answer, _)| answer)
    }

    async fn query_with_source(&self, query: &Query) -> Result<(Answer, Source), StoreError> {
        if let Query::Latest { select, since } = query {
            // From memory alone and short: no thread of its own.
            let answer = read::latest(&self.shared, select, *since);
            return Ok((answer, Source::default()));
        }
        let shared = Arc::clone(&self.shared);
        let query = query.clone();
        tokio::task::spawn_blocking(move || read::answer(&shared, &query))
            .await
            .map_err(|e| StoreError::Stopped(format!("a query ended early: {e}")))?
    }

    fn stats(&self) -> StoreStats {
        let mut stats = self.shared.read().stats;
        stats.disk_bytes += self.shared.wal_bytes.load(Ordering::Relaxed);
        stats.damaged += self.shared.damaged.load(Ordering::Relaxed);
        stats
    }
}
