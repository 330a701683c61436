//! The embedded engine: a write-ahead log with group commit, columns in memory,
//! and immutable Parquet files that any other tool reads as well.
//!
//! ```text
//! append -> writer thread: log (one write, one fsync a group) -> memory -> answer
//!                          memory full or old -> set aside, a new log begins
//!           sealer thread: set aside -> Parquet files -> manifest -> old log deleted
//!           keeper thread: small files -> large ones; what is too old goes
//! query  -> memory and segments, on a blocking thread; the latest frames from memory alone
//! ```
//!
//! Acknowledged means: the log's fsync has returned. A frame is told from a
//! double by device and instant, in memory and in segments alike. Memory is
//! bounded by [`Options::seal_samples`], the index (about 50 bytes a device and
//! segment), 64 MiB of decoded columns of rollups, and of a query what it has read
//! of files (128 MiB a thread) and a million steps a thread.

mod aggregate;
mod bucket;
mod cells;
mod codec;
mod compact;
mod condense;
mod decimal;
mod decoded;
pub mod disk;
mod encode;
mod energy;
mod files;
mod gather;
mod group;
mod head;
mod keeper;
pub mod maintain;
mod manifest;
mod read;
mod reader;
mod retention;
mod rollup;
mod seal;
mod sealer;
mod segment;
mod state;
mod steps;
mod wal;
mod writer;

use crate::clock::Clock;
use crate::directory_lock::{Access, DirectoryLock};
use crate::instants::Instants;
use crate::query::{
    Answer, AppendReceipt, Condensed, Limits, Query, Source, StoreError, StoreStats,
    TimeSeriesStore,
};
use async_trait::async_trait;
use decoded::DecodedColumns;
use disk::{Disk, FileSystem};
use heliostat_models::{DeviceId, Frame, Site, Timestamp};
use keeper::{Keeper, Work};
use manifest::Manifest;
pub use manifest::Tier;
use reader::Waiting;
pub use retention::Retention;
use sealer::Sealer;
pub use segment::Precision;
use state::State;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
#[cfg(any(test, fuzzing))]
pub(crate) use wal::{wal_record_survives, wal_records};
use writer::{Command, Writer};

/// Appends that may wait for the writer; more wait before the queue.
const QUEUE: usize = 1_024;
/// Niceness that sealing and compaction add: a third of the weight of who answers.
const BEHIND: i32 = 5;

/// How the engine behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Readings in memory at which they are sealed into a segment; about 10 bytes
    /// each, 24 at most, else it is earlier, and there may be as many again that are
    /// being sealed.
    pub seal_samples: u64,
    /// Age of what is in memory, by the site's clock, at which it is sealed.
    pub seal_age: Duration,
    /// Which metrics are stored bit by bit and which to their declared precision.
    pub precision: Precision,
    /// Files of a day and kind, and of like size, at which they are brought together.
    pub compact_files: usize,
    /// A rollup is written where it has at most one row for so many raw ones: it
    /// has several columns a metric. 0: always.
    pub rollup_rows: usize,
    /// How long files are kept.
    pub retention: Retention,
    /// Which instants are taken.
    pub instants: Instants,
    /// What one query may use.
    pub limits: Limits,
    /// How files are written.
    pub disk: Arc<dyn Disk>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seal_samples: 2_000_000,
            seal_age: Duration::from_secs(6 * 3_600),
            precision: Precision::Lossless,
            compact_files: 8,
            rollup_rows: 8,
            retention: Retention::default(),
            instants: Instants::default(),
            limits: Limits::default(),
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
    /// The store is being closed: what can wait for the next opening waits.
    stopping: AtomicBool,
    /// Segments found damaged by a query.
    damaged: AtomicU64,
    /// Columns of rollups for the queries to come.
    decoded: DecodedColumns,
    /// What one query may use.
    limits: Limits,
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

/// What ends before the directory is free: writer, sealer and keeper, then the lock.
type Threads = (Vec<JoinHandle<()>>, DirectoryLock);

/// The embedded store. Dropping it, or [`EmbeddedStore::close`], ends the writer
/// and frees the directory; what is acknowledged is on disk before that already.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    work: Mutex<Option<std::sync::mpsc::Sender<Work>>>,
    writer: Mutex<Option<Threads>>,
    read_only: bool,
}

impl EmbeddedStore {
    /// Opens the store in a directory, making it if need be.
    ///
    /// Fails with [`StoreError::InUse`] when another process, or another store of
    /// this one, has it open, and with [`StoreError::Io`] when the directory holds
    /// the readings of another site. Damage is isolated and counted in the statistics.
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
        let lock = files::lock(directory, Access::Alone)?;
        files::check_site(directory, &site.id, true)?;
        let manifest = Manifest::read(directory)?;
        files::remove_unfinished(directory, &manifest)?;
        files::write_catalogue(directory, &*options.disk)?;
        let mut state = State::new(site);
        let opened = files::load(directory, &manifest, &mut state, true)?;
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            manifest: Mutex::new(manifest),
            wal_bytes: AtomicU64::new(opened.wal_bytes),
            stopping: AtomicBool::new(false),
            damaged: AtomicU64::new(0),
            decoded: DecodedColumns::default(),
            limits: options.limits,
        });
        let (work, work_queue) = std::sync::mpsc::channel();
        let keeper = Keeper {
            directory: directory.to_owned(),
            shared: Arc::clone(&shared),
            clock: Arc::clone(&clock),
            options: options.clone(),
            failed: Vec::new(),
        };
        let (commands, queue) = mpsc::channel(QUEUE);
        let (jobs, job_queue) = std::sync::mpsc::channel();
        let (outcomes, outcome_queue) = std::sync::mpsc::channel();
        let sealer = Sealer {
            directory: directory.to_owned(),
            shared: Arc::clone(&shared),
            options: options.clone(),
            outcomes,
            wake: commands.downgrade(),
            look: work.clone(),
        };
        let ways = (jobs, outcome_queue);
        let writer = Writer::begin(directory, Arc::clone(&shared), clock, options, opened, ways)?;
        let threads = vec![
            spawn(directory, "store-writer", move || writer.run(queue))?,
            spawn(directory, "store-sealer", move || {
                give_way();
                sealer.run(job_queue);
            })?,
            spawn(directory, "store-keeper", move || {
                give_way();
                keeper.run(work_queue);
            })?,
        ];
        // Days may have ended since the store was last open.
        let _ = work.send(Work::Look);
        Ok(Arc::new(Self {
            shared,
            commands: Mutex::new(Some(commands)),
            work: Mutex::new(Some(work)),
            writer: Mutex::new(Some((threads, lock))),
            read_only: false,
        }))
    }

    /// Opens the store in a directory to query it only: nothing on disk is
    /// changed, `append` is refused. Several may read at a time, but none while
    /// a writer has the directory ([`StoreError::InUse`]).
    pub fn open_read_only(directory: &Path, site: Arc<Site>) -> Result<Arc<Self>, StoreError> {
        let lock = files::lock(directory, Access::Shared)?;
        files::check_site(directory, &site.id, false)?;
        let manifest = Manifest::read(directory)?;
        let mut state = State::new(site);
        let opened = files::load(directory, &manifest, &mut state, false)?;
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            manifest: Mutex::new(manifest),
            wal_bytes: AtomicU64::new(opened.wal_bytes),
            stopping: AtomicBool::new(false),
            damaged: AtomicU64::new(0),
            decoded: DecodedColumns::default(),
            limits: Limits::default(),
        });
        Ok(Arc::new(Self {
            shared,
            commands: Mutex::new(None),
            work: Mutex::new(None),
            // No thread; the lock stands for the store.
            writer: Mutex::new(Some((Vec::new(), lock))),
            read_only: true,
        }))
    }

    /// Seals what is in memory into a segment now. Nothing in memory: nothing happens.
    pub async fn seal(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Seal { reply }).await?;
        answer.await.map_err(|_| self.stopped())?
    }

    /// Seals what is in memory and brings all files of each day and kind of device
    /// together now. Damaged files are left as they are.
    pub async fn compact(&self) -> Result<(), StoreError> {
        self.seal().await?;
        let (reply, answer) = oneshot::channel();
        let work = (self.work.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(|| self.stopped())?;
        work.send(Work::Compact { reply })
            .map_err(|_| self.stopped())?;
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
        self.shared.stopping.store(true, Ordering::Relaxed);
        drop(
            self.work
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        drop(
            self.commands
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    fn take_writer(&self) -> Option<Threads> {
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

fn spawn(
    directory: &Path,
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StoreError> {
    (std::thread::Builder::new().name(name.to_owned()))
        .spawn(work)
        .map_err(|e| StoreError::io("starting a thread for", directory, e))
}

/// From here on this thread runs behind those that somebody waits for. Linux keeps
/// the niceness a thread; elsewhere it is the whole process's and stays as it is.
fn give_way() {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::nice(BEHIND)
    {
        tracing::debug!(%error, "sealing runs beside answers, not behind them");
    }
}

/// Waits for the threads, then frees the directory.
fn end(threads: Option<Threads>) {
    if let Some((threads, lock)) = threads {
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(
                    "a thread of the store ended in a panic; what was acknowledged is on disk"
                );
            }
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

/// Ends a query on its thread when the one who asked has gone.
struct EndOnDrop(Waiting);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
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
        let guard = EndOnDrop(Waiting::default());
        let waiting = guard.0.clone();
        tokio::task::spawn_blocking(move || read::answer(&shared, &query, &waiting))
            .await
            .map_err(|e| StoreError::Stopped(format!("a query ended early: {e}")))?
    }

    async fn condensed(
        &self,
        metric: &str,
        device: &DeviceId,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Condensed, StoreError> {
        let shared = Arc::clone(&self.shared);
        let (metric, device) = (metric.to_owned(), device.clone());
        tokio::task::spawn_blocking(move || read::condensed(&shared, &metric, &device, (from, to)))
            .await
            .map_err(|e| StoreError::Stopped(format!("a query ended early: {e}")))?
    }

    fn stats(&self) -> StoreStats {
        let mut stats = self.shared.read().stats;
        stats.disk_bytes += self.shared.wal_bytes.load(Ordering::Relaxed);
        stats.damaged += self.shared.damaged.load(Ordering::Relaxed);
        stats
    }

    fn version(&self) -> Option<u64> {
        Some(self.shared.read().taken)
    }
}
