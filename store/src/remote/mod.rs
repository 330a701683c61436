//! External engines behind the trait of the store: what they share.
//!
//! ```text
//! append -> known already? -> spool on disk (synced, then the answer) -> sender -> engine
//!                                                                         └ settled: the spool forgets
//! query  -> engine, and over its answer what is still in the spool
//!           engine away: what is in the spool, marked as partial
//! ```
//!
//! A frame is acknowledged when it is on *our* disk. It stays in the spool until
//! the engine has had time to flush it ([`Habits::settles_after`]) and is seen to
//! be the same process still; after a restart of the engine what it had not
//! surely flushed is looked for, reading by reading, and what is not found is
//! sent again. So nothing acknowledged is lost and nothing is doubled, whoever
//! is killed. What the spool may hold is bounded; beyond it `append` refuses,
//! and the agents keep what is not acknowledged.

pub mod engine;
pub mod fold;
mod http;
mod queue;
mod read;
mod sender;
mod spool;

pub use engine::{ByDevice, Engine, Found, Habits, RemoteError};
pub(crate) use http::{Http, shortened};
pub(crate) use read::step_points;

use crate::clock::Clock;
use crate::query::{
    Answer, AppendReceipt, Query, Selector, StoreError, StoreStats, TimeSeriesStore, Told,
};
use async_trait::async_trait;
use heliostat_models::{DeviceId, Frame, Reading, Site, foreign};
use queue::{Queue, Stage};
use spool::Spool;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// The time by which an engine flushes: the computer's, whatever clock the site
/// runs by, because the engine is a process of its own that does not know ours.
#[allow(clippy::disallowed_methods)]
fn engine_time() -> Instant {
    Instant::now()
}

/// Devices named in one request to an engine.
const DEVICES: usize = 200;
/// Frames no older than this are told from doubles up to the newest there is.
const RECENT_MS: i64 = 3_600_000;
/// Later than any instant; engines clamp it to what they know.
const FOREVER: i64 = i64::MAX;

/// Counters of an external engine's spool.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RemoteHealth {
    /// Whether the engine answered when it was last asked.
    pub up: bool,
    /// Frames that the engine does not surely have yet.
    pub spooled_frames: u64,
    /// Readings in those.
    pub spooled_samples: u64,
    /// Frames looked for again because the engine was restarted.
    pub rechecked_frames: u64,
    /// What went wrong last, if it still does.
    pub trouble: Option<String>,
}

/// How the spool behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Readings that the spool may hold (about 40 bytes of memory and 11 of
    /// disk each); `append` refuses more.
    pub spool_samples: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            spool_samples: 5_000_000,
        }
    }
}

struct Shared {
    engine: Arc<dyn Engine>,
    site: Arc<Site>,
    clock: Arc<dyn Clock>,
    options: Options,
    queue: Mutex<Queue>,
    spool: Mutex<Spool>,
    up: AtomicBool,
    rechecked: AtomicU64,
    trouble: Mutex<Option<String>>,
    stats: Mutex<StoreStats>,
    news: Notify,
}

impl Shared {
    // A panic elsewhere cannot leave these half changed in a way that matters
    // more than going on.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn stats(&self) -> MutexGuard<'_, StoreStats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether the engine answers; says so once when that changes.
    fn note(&self, outcome: Result<(), &RemoteError>) {
        let text = outcome.err().map(ToString::to_string);
        let up = text.is_none();
        if self.up.swap(up, Ordering::Relaxed) != up {
            match &text {
                Some(error) => tracing::warn!(
                    %error,
                    "the external store is away; frames are spooled here until it answers"
                ),
                None => tracing::info!("the external store answers"),
            }
        }
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }
}

/// A store whose frames are kept by an external engine.
pub struct RemoteStore {
    shared: Arc<Shared>,
    /// One append at a time, so that a double cannot slip in between.
    appending: tokio::sync::Mutex<()>,
    stop: watch::Sender<bool>,
    sender: Mutex<Option<JoinHandle<()>>>,
    closed: AtomicBool,
}

impl std::fmt::Debug for RemoteStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteStore")
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

impl RemoteStore {
    /// Opens the spool in a directory and begins to send. The engine need not
    /// answer yet. Must be called within an asynchronous runtime.
    ///
    /// Fails with [`StoreError::InUse`] when another process has the spool open.
    pub fn open(
        directory: &Path,
        engine: Arc<dyn Engine>,
        site: Arc<Site>,
        clock: Arc<dyn Clock>,
        options: Options,
    ) -> Result<Arc<Self>, StoreError> {
        let (spool, opened) = Spool::open(directory)?;
        let habits = engine.habits();
        let mut queue = Queue::default();
        let mut stats = StoreStats {
            damaged: opened.damaged,
            ..StoreStats::default()
        };
        for frame in opened.frames {
            stats.frames += 1;
            stats.samples += frame.readings.len() as u64;
            // An earlier run may have sent it a moment ago.
            let stage = Stage::Waiting {
                look: !habits.overwrites,
                after: (!habits.overwrites).then(|| engine_time() + habits.visible_after),
            };
            queue.push(Arc::new(frame), stage);
        }
        let shared = Arc::new(Shared {
            engine,
            site,
            clock,
            options,
            queue: Mutex::new(queue),
            spool: Mutex::new(spool),
            up: AtomicBool::new(true),
            rechecked: AtomicU64::new(0),
            trouble: Mutex::new(None),
            stats: Mutex::new(stats),
            news: Notify::new(),
        });
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(sender::run(Arc::clone(&shared), stopped));
        Ok(Arc::new(Self {
            shared,
            appending: tokio::sync::Mutex::new(()),
            stop,
            sender: Mutex::new(Some(task)),
            closed: AtomicBool::new(false),
        }))
    }

    /// Ends the sending. What the engine does not have yet stays in the spool
    /// and is sent when the store is opened again.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        let _ = self.stop.send(true);
        let task = (self.sender.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }

    /// Waits until the engine surely has everything; whether it came to that
    /// within `patience`.
    pub async fn drained(&self, patience: Duration) -> bool {
        let end = engine_time() + patience;
        loop {
            if self.shared.queue().len() == 0 {
                return true;
            }
            if engine_time() >= end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// How the engine and the spool are.
    pub fn health(&self) -> RemoteHealth {
        let (frames, samples) = {
            let queue = self.shared.queue();
            (queue.len() as u64, queue.readings() as u64)
        };
        RemoteHealth {
            up: self.shared.up.load(Ordering::Relaxed),
            spooled_frames: frames,
            spooled_samples: samples,
            rechecked_frames: self.shared.rechecked.load(Ordering::Relaxed),
            trouble: (self.shared.trouble.lock())
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }

    /// The frames that are news, each with whether the engine must be asked
    /// before it is sent; and what the receipt says so far.
    async fn sift(&self, frames: Vec<Frame>) -> (Vec<(Frame, bool)>, AppendReceipt) {
        let mut receipt = AppendReceipt::default();
        let mut seen: HashSet<(DeviceId, i64)> = HashSet::new();
        let mut sifted: Vec<(Frame, Option<bool>)> = Vec::with_capacity(frames.len());
        {
            let queue = self.shared.queue();
            for frame in frames {
                let double = !seen.insert((frame.device.clone(), frame.at.0));
                let known = if double {
                    Some(true)
                } else {
                    queue.is_known(&frame.device, frame.at.0)
                };
                sifted.push((frame, known));
            }
        }
        let asked = self.look_up(&sifted).await;
        let mut news = Vec::with_capacity(sifted.len());
        for (frame, known) in sifted {
            let there = |found: &HashMap<DeviceId, BTreeSet<i64>>| {
                (found.get(&frame.device)).is_some_and(|at| at.contains(&frame.at.0))
            };
            let (double, unsure) = match (known, &asked) {
                (Some(double), _) => (double, false),
                (None, Some(found)) => (there(found), false),
                (None, None) => (false, true),
            };
            let samples = frame.readings.len() as u64;
            if double {
                receipt.duplicates += 1;
                receipt.duplicate_samples += samples;
            } else {
                receipt.frames += 1;
                receipt.samples += samples;
                news.push((finite(frame), unsure));
            }
        }
        (news, receipt)
    }

    /// Asks the engine for the instants around the frames of which nothing is
    /// known here; `None` when it cannot be asked.
    async fn look_up(
        &self,
        sifted: &[(Frame, Option<bool>)],
    ) -> Option<HashMap<DeviceId, BTreeSet<i64>>> {
        let unknown = || sifted.iter().filter(|(_, known)| known.is_none());
        let devices: BTreeSet<&DeviceId> = unknown().map(|(frame, _)| &frame.device).collect();
        if devices.is_empty() {
            return Some(HashMap::new());
        }
        if !self.shared.up.load(Ordering::Relaxed) {
            return None;
        }
        let from = unknown().map(|(frame, _)| frame.at.0).min()?;
        let last = unknown().map(|(frame, _)| frame.at.0).max()?;
        let recent = from >= self.shared.clock.now().0.saturating_sub(RECENT_MS);
        let to = if recent { FOREVER } else { last };
        let devices: Vec<DeviceId> = devices.into_iter().cloned().collect();
        let mut all = HashMap::new();
        for some in devices.chunks(DEVICES) {
            match self.shared.engine.instants(some, from, to).await {
                Ok(found) => {
                    for device in some {
                        let instants = found.get(device).map_or(&[][..], Vec::as_slice);
                        if recent {
                            self.shared.queue().learn(device, from, instants);
                        }
                        all.insert(device.clone(), instants.iter().copied().collect());
                    }
                }
                Err(error) => {
                    self.shared.note(Err(&error));
                    return None;
                }
            }
        }
        Some(all)
    }
}

/// A number that is none is a missing reading.
fn finite(mut frame: Frame) -> Frame {
    for (_, reading) in &mut frame.readings {
        if reading.value().is_some_and(|value| !value.is_finite()) {
            *reading = Reading::Missing;
        }
    }
    frame
}

impl Drop for RemoteStore {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

#[async_trait]
impl TimeSeriesStore for RemoteStore {
    async fn append(&self, frames: Vec<Frame>) -> Result<AppendReceipt, StoreError> {
        let _turn = self.appending.lock().await;
        if self.closed.load(Ordering::Relaxed) {
            return Err(StoreError::Stopped("it was closed".to_owned()));
        }
        let (news, receipt) = self.sift(frames).await;
        if !news.is_empty() {
            let held = self.shared.queue().readings();
            if held + receipt.samples as usize > self.shared.options.spool_samples {
                return Err(StoreError::SpoolFull { samples: held });
            }
            let shared = Arc::clone(&self.shared);
            let overwrites = shared.engine.habits().overwrites;
            let (frames, unsure): (Vec<Frame>, Vec<bool>) = news.into_iter().unzip();
            // The sync blocks for as long as the disk takes.
            tokio::task::spawn_blocking(move || {
                // Held until the queue knows them, so that their file is not taken for done.
                let mut spool = shared.spool();
                spool.append(&frames)?;
                let mut queue = shared.queue();
                for (frame, unsure) in frames.into_iter().zip(unsure) {
                    let stage = Stage::Waiting {
                        look: unsure && !overwrites,
                        after: None,
                    };
                    queue.push(Arc::new(frame), stage);
                }
                Ok::<(), StoreError>(())
            })
            .await
            .map_err(|e| StoreError::Stopped(format!("the spool's writer ended early: {e}")))??;
            self.shared.news.notify_one();
        }
        let mut stats = self.shared.stats();
        stats.frames += receipt.frames;
        stats.samples += receipt.samples;
        stats.duplicates += receipt.duplicates;
        Ok(receipt)
    }

    async fn query(&self, query: &Query) -> Result<Answer, StoreError> {
        Ok(self.ask(query).await?.answer)
    }

    async fn ask(&self, query: &Query) -> Result<Told, StoreError> {
        read::ask(&self.shared, query).await
    }

    fn stats(&self) -> StoreStats {
        let mut stats = *self.shared.stats();
        stats.disk_bytes = self.shared.spool().bytes();
        stats
    }
}

/// Whether a selector speaks of a device, by the site's labels.
fn selects(site: &Site, select: &Selector, device: &DeviceId) -> bool {
    if !select.devices.is_empty() && !select.devices.contains(device) {
        return false;
    }
    if select.devices.is_empty() && foreign::is_foreign(device) && !select.is_of_unknown() {
        return false;
    }
    if select.labels.is_empty() {
        return true;
    }
    let labels = site.labels(device).unwrap_or_default();
    (select.labels.iter()).all(|(label, value)| label.of(device, &labels) == value)
}

/// Runs of things that lie close in time, each with its devices: what can be
/// asked for together without reading the time between.
fn runs(mut wanted: Vec<(DeviceId, i64)>) -> Vec<(Vec<DeviceId>, i64, i64)> {
    const GAP_MS: i64 = 60_000;
    wanted.sort_by_key(|(_, at)| *at);
    let mut runs: Vec<(BTreeSet<DeviceId>, i64, i64)> = Vec::new();
    for (device, at) in wanted {
        match runs.last_mut() {
            Some((devices, _, last))
                if at.saturating_sub(*last) <= GAP_MS
                    && (devices.len() < DEVICES || devices.contains(&device)) =>
            {
                devices.insert(device);
                *last = at;
            }
            _ => runs.push((BTreeSet::from([device]), at, at)),
        }
    }
    (runs.into_iter())
        .map(|(devices, from, to)| (devices.into_iter().collect(), from, to))
        .collect()
}
