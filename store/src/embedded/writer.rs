//! The writer: one thread that takes all waiting appends as a group, writes
//! them to the log with one fsync, brings them into memory and answers; and
//! seals memory into a segment when it is full or old.

use super::files::{Opened, WAL_KIND, wal_path};
use super::keeper::Work;
use super::seal;
use super::segment::Cache;
use super::wal::RecordWriter;
use super::{Options, Shared};
use crate::clock::Clock;
use crate::framed_log::FramedLog;
use crate::query::{AppendReceipt, StoreError};
use heliostat_models::{Catalogue, Frame, Timestamp};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{mpsc, oneshot};

/// Readings after which a group is closed.
const GROUP: usize = 100_000;
/// Memory may grow to this many times the sealing size while sealing fails;
/// then appends are refused.
const OVERFLOW: u64 = 4;
/// Times of sealed blocks kept for the search for doubles, in instants (8 bytes each).
const KEPT_TIMES: usize = 500_000;

type Reply = oneshot::Sender<Result<AppendReceipt, StoreError>>;

/// What the writer is asked.
pub enum Command {
    /// Write frames.
    Append {
        /// Which.
        frames: Vec<Frame>,
        /// To whom.
        reply: Reply,
    },
    /// Seal now.
    Seal {
        /// To whom.
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

/// The writer's own state.
pub struct Writer {
    directory: PathBuf,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    options: Options,
    log: FramedLog,
    number: u64,
    /// Logs whose frames are in memory, the open one included.
    live: Vec<u64>,
    head_since: Option<Timestamp>,
    /// Readings in memory at which sealing is tried again after it failed.
    retry_at: u64,
    times: HashMap<(u64, u32), Arc<[i64]>>,
    kept_times: usize,
    /// Where the keeper is told that something was sealed.
    look: std::sync::mpsc::Sender<Work>,
}

/// An append on its way.
struct Pending {
    /// Its new frames, each with its device.
    fresh: Vec<(u32, Frame)>,
    receipt: AppendReceipt,
    reply: Reply,
}

impl Writer {
    /// Begins a log after what opening found.
    pub fn begin(
        directory: &Path,
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
        options: Options,
        opened: Opened,
        look: std::sync::mpsc::Sender<Work>,
    ) -> Result<Self, StoreError> {
        let mut live = opened.live;
        // A log that is still live and not sealed goes on; else a new one begins.
        let number = match live.last() {
            Some(last) => *last,
            None => {
                live.push(opened.highest + 1);
                opened.highest + 1
            }
        };
        let path = wal_path(directory, number);
        let (log, _) =
            FramedLog::open(&path, WAL_KIND).map_err(|e| StoreError::io("opening", &path, e))?;
        for number in opened.obsolete {
            // Left over from a crash right after sealing.
            let _ = std::fs::remove_file(wal_path(directory, number));
        }
        let has_rows = shared.read().head_samples > 0;
        let head_since = has_rows.then(|| clock.now());
        let writer = Self {
            directory: directory.to_owned(),
            shared,
            clock,
            options,
            log,
            number,
            live,
            head_since,
            retry_at: 0,
            times: HashMap::new(),
            kept_times: 0,
            look,
        };
        writer.count_log();
        Ok(writer)
    }

    /// Works until nobody can send any more.
    pub fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut next = queue.blocking_recv();
        while let Some(command) = next.take() {
            match command {
                Command::Seal { reply } => {
                    let _ = reply.send(self.seal());
                }
                Command::Append { frames, reply } => {
                    let mut appends = vec![(frames, reply)];
                    let mut readings = count(&appends[0].0);
                    while readings < GROUP {
                        match queue.try_recv() {
                            Ok(Command::Append { frames, reply }) => {
                                readings += count(&frames);
                                appends.push((frames, reply));
                            }
                            Ok(seal) => {
                                next = Some(seal);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    self.commit(appends);
                    self.seal_if_due();
                }
            }
            if next.is_none() {
                next = queue.blocking_recv();
            }
        }
    }

    /// Writes a group and answers each append.
    fn commit(&mut self, appends: Vec<(Vec<Frame>, Reply)>) {
        let group = self.sort_out(appends);
        let mut writer = RecordWriter::default();
        for (_, frame) in group.iter().flat_map(|append| &append.fresh) {
            writer.push(frame, Catalogue::builtin());
        }
        let records = writer.finish(Catalogue::builtin());
        let written = self.write(&records);
        self.count_log();
        if let Err(error) = written {
            tracing::error!(%error, "frames could not be stored and are not acknowledged");
            for append in group {
                let _ = append.reply.send(Err(again(&error)));
            }
            return;
        }
        if !records.is_empty() {
            self.head_since.get_or_insert_with(|| self.clock.now());
        }
        {
            let mut state = self.shared.write();
            for append in &group {
                for (device, frame) in &append.fresh {
                    state.insert(*device, frame);
                }
                state.stats.duplicates += append.receipt.duplicates;
            }
        }
        for append in group {
            // Who no longer waits has been served all the same.
            let _ = append.reply.send(Ok(append.receipt));
        }
    }

    /// Brings records to the disk.
    fn write(&mut self, records: &[Vec<u8>]) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        let samples = self.shared.read().head_samples;
        if samples > self.options.seal_samples.saturating_mul(OVERFLOW) {
            // Sealing has failed for long: rather refuse than run out of memory.
            self.seal()?;
        }
        let path = self.log.path().to_owned();
        (self.options.disk.append(&mut self.log, records))
            .map_err(|e| StoreError::io("writing", &path, e))
    }

    /// Tells new frames from doubles; answers at once what cannot be stored.
    fn sort_out(&mut self, appends: Vec<(Vec<Frame>, Reply)>) -> Vec<Pending> {
        let mut group = Vec::with_capacity(appends.len());
        let mut in_group: HashSet<(u32, i64)> = HashSet::new();
        for (frames, reply) in appends {
            if let Some(error) = frames.iter().find_map(unstorable) {
                let _ = reply.send(Err(error));
                continue;
            }
            let mut receipt = AppendReceipt::default();
            let mut fresh = Vec::with_capacity(frames.len());
            for mut frame in frames {
                let device = self.intern(&frame);
                keep_first_of_each(&mut frame);
                let samples = frame.readings.len() as u64;
                if !in_group.insert((device, frame.at.0)) || self.is_stored(device, frame.at.0) {
                    receipt.duplicates += 1;
                    receipt.duplicate_samples += samples;
                } else {
                    receipt.frames += 1;
                    receipt.samples += samples;
                    fresh.push((device, frame));
                }
            }
            group.push(Pending {
                fresh,
                receipt,
                reply,
            });
        }
        group
    }

    fn intern(&self, frame: &Frame) -> u32 {
        let known = self.shared.read().find(&frame.device);
        known.unwrap_or_else(|| self.shared.write().intern(&frame.device))
    }

    /// Whether a device's row at an instant is in memory or in a segment.
    fn is_stored(&mut self, device: u32, at: i64) -> bool {
        let candidates: Vec<_> = {
            let state = self.shared.read();
            let entry = &state.devices[device as usize];
            // The usual case: later than all before.
            if entry
                .latest
                .as_ref()
                .is_some_and(|(latest, _)| at > *latest)
            {
                return false;
            }
            if entry.head.contains(at) {
                return true;
            }
            (state.blocks(device, at, at))
                .map(|(segment, meta)| (Arc::clone(segment), meta))
                .collect()
        };
        for (segment, meta) in candidates {
            let key = (segment.id, device);
            let times = match self.times.get(&key) {
                Some(times) => Arc::clone(times),
                None => {
                    // What a damaged block held is lost; a frame sent again heals it.
                    let times = if segment.is_damaged(meta.group) {
                        Vec::new()
                    } else {
                        (segment.times(&mut Cache::default(), &meta)).unwrap_or_else(|error| {
                            if segment.report_damage(meta.group, &error) {
                                self.shared.damaged.fetch_add(1, Ordering::Relaxed);
                            }
                            Vec::new()
                        })
                    };
                    let times: Arc<[i64]> = times.into();
                    if self.kept_times > KEPT_TIMES {
                        self.times.clear();
                        self.kept_times = 0;
                    }
                    self.kept_times += times.len();
                    self.times.insert(key, Arc::clone(&times));
                    times
                }
            };
            if times.binary_search(&at).is_ok() {
                return true;
            }
        }
        false
    }

    fn seal_if_due(&mut self) {
        let samples = self.shared.read().head_samples;
        let old = self
            .head_since
            .is_some_and(|since| self.clock.now() >= since + self.options.seal_age);
        if samples < self.retry_at || (samples < self.options.seal_samples && !old) {
            return;
        }
        match self.seal() {
            Ok(()) => self.retry_at = 0,
            Err(error) => {
                self.retry_at = samples + self.options.seal_samples / 8 + 1;
                tracing::warn!(%error, "sealing failed and is tried again later; nothing is lost, the log holds it");
            }
        }
    }

    /// Seals what is in memory.
    ///
    /// The order keeps every acknowledged frame in exactly one place that the
    /// next opening believes: first a new log begins, so that the logs up to the
    /// sealed number hold nothing else than the segments; then the segments
    /// become durable, then the manifest that names them and that number; only
    /// then the logs go. A crash between leaves logs that opening knows to be
    /// sealed by their number, or files that no manifest names.
    fn seal(&mut self) -> Result<(), StoreError> {
        if self.shared.read().head_samples == 0 && self.log.is_empty() {
            return Ok(());
        }
        self.begin_log()?;
        let sealed = self.number - 1;
        seal::seal(&self.directory, &self.shared, &self.options, sealed)?;
        let _ = self.look.send(Work::Look);
        self.head_since = None;
        for number in std::mem::replace(&mut self.live, vec![self.number]) {
            if number != self.number {
                // One that stays is recognised as sealed at the next opening.
                let _ = std::fs::remove_file(wal_path(&self.directory, number));
            }
        }
        self.count_log();
        Ok(())
    }

    /// Goes on with a new log, unless nothing stands in the one at hand.
    fn begin_log(&mut self) -> Result<(), StoreError> {
        if self.log.is_empty() && self.live.len() > 1 {
            return Ok(());
        }
        let path = wal_path(&self.directory, self.number + 1);
        let (log, _) =
            FramedLog::open(&path, WAL_KIND).map_err(|e| StoreError::io("opening", &path, e))?;
        self.log = log;
        self.number += 1;
        self.live.push(self.number);
        Ok(())
    }

    fn count_log(&self) {
        let earlier: u64 = (self.live.iter())
            .filter(|n| **n != self.number)
            .filter_map(|n| std::fs::metadata(wal_path(&self.directory, *n)).ok())
            .map(|m| m.len())
            .sum();
        (self.shared.wal_bytes).store(earlier + self.log.length(), Ordering::Relaxed);
    }
}

fn count(frames: &[Frame]) -> usize {
    frames.iter().map(|f| f.readings.len() + 1).sum()
}

/// Why a frame cannot be stored, if it cannot.
fn unstorable(frame: &Frame) -> Option<StoreError> {
    let known = Catalogue::builtin().iter().count();
    let unknown = (frame.readings.iter()).find(|(metric, _)| usize::from(metric.0) >= known)?;
    Some(StoreError::UnknownMetric(format!("number {}", unknown.0.0)))
}

/// A metric stands in a frame at most once; of doubles the first counts, as in [`Frame::get`].
fn keep_first_of_each(frame: &mut Frame) {
    let mut place = 1;
    while place < frame.readings.len() {
        let (before, rest) = frame.readings.split_at(place);
        if before.iter().any(|(metric, _)| *metric == rest[0].0) {
            frame.readings.remove(place);
        } else {
            place += 1;
        }
    }
}

/// The same error once more: every append of a failed group gets its own.
fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::DiskFull { path } => StoreError::DiskFull { path: path.clone() },
        StoreError::Io {
            action,
            path,
            source,
        } => StoreError::Io {
            action,
            path: path.clone(),
            source: std::io::Error::new(source.kind(), source.to_string()),
        },
        other => StoreError::Stopped(other.to_string()),
    }
}
