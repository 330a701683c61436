//! The writer: one thread that takes all waiting appends as a group, writes
//! them to the log with one fsync, brings them into memory and answers. When
//! memory is full or old it sets it aside for the sealer and goes on at once.

use super::files::{Opened, WAL_KIND, wal_path};
use super::group::{Append, Counts, Pending, Reply, Sorter};
use super::sealer::{Job, Outcome};
use super::wal::RecordWriter;
use super::{Options, Shared};
use crate::clock::Clock;
use crate::framed_log::FramedLog;
use crate::query::StoreError;
use heliostat_models::{Catalogue, Frame, Timestamp};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Readings after which a group is closed.
const GROUP: usize = 100_000;
/// Readings for which one fsync costs little beside themselves: nobody waits for more.
const ENOUGH: usize = 20_000;
/// Those who were just answered often send again at once: while several write, each
/// group waits this long for them, and again for as long as more come …
const NAP: Duration = Duration::from_micros(50);
/// … up to so often. A lone append never waits.
const NAPS: usize = 8;
/// Memory may grow to this many times the sealing size while sealing fails or
/// lags; then appends wait for it, and are refused if it fails.
const OVERFLOW: u64 = 4;

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
    /// The sealer has done something.
    Sealed,
}

/// Somebody who waits for the logs up to a number to be sealed.
type Waiting = (u64, oneshot::Sender<Result<(), StoreError>>);

/// The writer's own state.
pub struct Writer {
    directory: PathBuf,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    options: Options,
    sorter: Sorter,
    records: RecordWriter,
    log: FramedLog,
    number: u64,
    /// Logs whose frames are in memory, the open one included.
    live: Vec<u64>,
    head_since: Option<Timestamp>,
    /// Whether the group before was of several appends.
    several: bool,
    /// Readings in memory at which sealing is tried again after it failed.
    retry_at: u64,
    /// To the sealer, and from it.
    jobs: std::sync::mpsc::Sender<Job>,
    outcomes: std::sync::mpsc::Receiver<Outcome>,
    /// Whether the sealer has a job.
    sealing: bool,
    /// What it could not seal, to be tried again before anything else.
    failed: Option<Job>,
    waiting: Vec<Waiting>,
}

/// The writer's ends of its ways to the sealer and back.
pub type Ways = (
    std::sync::mpsc::Sender<Job>,
    std::sync::mpsc::Receiver<Outcome>,
);

impl Writer {
    /// Begins a log after what opening found.
    pub fn begin(
        directory: &Path,
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
        options: Options,
        opened: Opened,
        (jobs, outcomes): Ways,
    ) -> Result<Self, StoreError> {
        let mut live = opened.live;
        // A log that is still live and not sealed goes on; else a new one begins.
        let (number, log) = match opened.last {
            Some(log) => log,
            None => {
                let number = opened.highest + 1;
                live.push(number);
                (number, open_log(directory, number)?)
            }
        };
        for number in opened.obsolete {
            // Left over from a crash right after sealing.
            let _ = std::fs::remove_file(wal_path(directory, number));
        }
        let has_rows = shared.read().head_samples > 0;
        let head_since = has_rows.then(|| clock.now());
        let writer = Self {
            directory: directory.to_owned(),
            sorter: Sorter::new(Arc::clone(&shared), options.instants),
            shared,
            clock,
            options,
            records: RecordWriter::default(),
            log,
            number,
            live,
            head_since,
            several: false,
            retry_at: 0,
            jobs,
            outcomes,
            sealing: false,
            failed: None,
            waiting: Vec::new(),
        };
        writer.count_log();
        Ok(writer)
    }

    /// Works until nobody can send any more.
    pub fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let mut next = queue.blocking_recv();
        while let Some(command) = next.take() {
            while let Ok(outcome) = self.outcomes.try_recv() {
                self.sealed(outcome);
            }
            match command {
                Command::Sealed => {}
                Command::Seal { reply } => self.wait_for_seal(reply),
                Command::Append { frames, reply } => {
                    let (appends, other) = self.gather((frames, reply), &mut queue);
                    next = other;
                    self.commit(appends);
                }
            }
            self.seal_if_due();
            if next.is_none() {
                next = queue.blocking_recv();
            }
        }
    }

    /// The appends that are written together with this one, and the command behind
    /// them that is none.
    fn gather(
        &mut self,
        first: Append,
        queue: &mut mpsc::Receiver<Command>,
    ) -> (Vec<Append>, Option<Command>) {
        let mut readings = count(&first.0);
        let mut appends = vec![first];
        let (mut other, mut napped) = (None, false);
        for _ in 0..=NAPS {
            let before = appends.len();
            while readings < GROUP && other.is_none() {
                match queue.try_recv() {
                    Ok(Command::Append { frames, reply }) => {
                        readings += count(&frames);
                        appends.push((frames, reply));
                    }
                    Ok(command) => other = Some(command),
                    Err(_) => break,
                }
            }
            let several = self.several || appends.len() > 1;
            let came = appends.len() > before;
            if !several || readings >= ENOUGH || other.is_some() || (napped && !came) {
                break;
            }
            napped = true;
            std::thread::sleep(NAP);
        }
        self.several = appends.len() > 1;
        (appends, other)
    }

    /// Writes a group and answers each append.
    fn commit(&mut self, appends: Vec<Append>) {
        let (group, counts) = self.sorter.sort(appends, self.clock.now());
        let written = self.write(&group);
        if let Err(error) = written {
            tracing::error!(%error, "frames could not be stored and are not acknowledged");
            self.sorter.forget(&group);
            for append in group {
                let _ = append.reply.send(Err(again(&error)));
            }
            return;
        }
        self.take_in(&group, counts);
        for append in group {
            // Who no longer waits has been served all the same.
            let _ = append.reply.send(Ok(append.receipt));
        }
    }

    /// Brings a durable group into memory.
    fn take_in(&mut self, group: &[Pending], counts: Counts) {
        let mut state = self.shared.write();
        for append in group {
            for (device, frame) in &append.fresh {
                state.insert(*device, frame);
            }
            state.stats.duplicates += append.receipt.duplicates;
        }
        state.stats.late += counts.late;
        state.stats.out_of_order += counts.out_of_order;
    }

    /// Brings a group's new frames to the disk.
    fn write(&mut self, group: &[Pending]) -> Result<(), StoreError> {
        let fresh = || group.iter().flat_map(|append| &append.fresh);
        if fresh().next().is_none() {
            return Ok(());
        }
        self.hold_back()?;
        for (device, frame) in fresh() {
            self.records.push(*device, frame, Catalogue::builtin());
        }
        let records = self.records.take(Catalogue::builtin());
        let before = self.log.length();
        let written = self.options.disk.append(&mut self.log, &records);
        let grown = self.log.length().saturating_sub(before);
        (self.shared.wal_bytes).fetch_add(grown, Ordering::Relaxed);
        written.map_err(|e| StoreError::io("writing", self.log.path(), e))?;
        self.head_since.get_or_insert_with(|| self.clock.now());
        Ok(())
    }

    /// Readings in memory: those that came, and those that are being sealed.
    fn in_memory(&self) -> (u64, u64) {
        let state = self.shared.read();
        (state.head_samples, state.frozen_samples)
    }

    /// Waits while there is too much in memory: sealing lags, or has failed for
    /// long. Rather refuse than run out of memory.
    fn hold_back(&mut self) -> Result<(), StoreError> {
        let full = self.options.seal_samples.saturating_mul(OVERFLOW);
        loop {
            let (head, frozen) = self.in_memory();
            if head.saturating_add(frozen) <= full {
                return Ok(());
            }
            if !self.sealing {
                self.begin_sealing()?;
            }
            let stopped = |_| StoreError::Stopped("its sealer ended".to_owned());
            let outcome = self.outcomes.recv().map_err(stopped)?;
            if let Some(error) = self.sealed(outcome) {
                return Err(error);
            }
        }
    }

    fn seal_if_due(&mut self) {
        if self.sealing {
            return;
        }
        let (head, frozen) = self.in_memory();
        let all = head.saturating_add(frozen);
        let old = (self.head_since)
            .is_some_and(|since| self.clock.now() >= since + self.options.seal_age);
        let due = all >= self.retry_at && (head >= self.options.seal_samples || frozen > 0 || old);
        if (due || !self.waiting.is_empty())
            && let Err(error) = self.begin_sealing()
        {
            self.put_off(&error);
        }
    }

    /// Somebody wants all that was acknowledged so far in segments.
    fn wait_for_seal(&mut self, reply: oneshot::Sender<Result<(), StoreError>>) {
        let (head, frozen) = self.in_memory();
        if head == 0 && frozen == 0 && self.log.is_empty() {
            let _ = reply.send(Ok(()));
            return;
        }
        // The open log is sealed when it has been closed, with the next job. An
        // empty one stays open: what is in memory then stands in those before,
        // as after a crash between the begin of a log and its first record.
        let upto = self.number - u64::from(self.log.is_empty());
        self.waiting.push((upto, reply));
    }

    /// Gives the sealer what it could not seal, else what is in memory.
    ///
    /// The order keeps every acknowledged frame in exactly one place that the
    /// next opening believes. Here: a new log begins and is durable, so that the
    /// logs up to the sealed number hold nothing else than the rows set aside.
    /// Then the sealer: the segments become durable, then the manifest that
    /// names them and that number; in one step of the state the segments take
    /// the place of the rows set aside, so that a query sees each row once; only
    /// then the logs go. A crash between leaves logs that opening knows to be
    /// sealed by their number, or files that no manifest names. There is never
    /// more than one job, so that logs are sealed in their order.
    fn begin_sealing(&mut self) -> Result<(), StoreError> {
        let job = match self.failed.take() {
            Some(job) => job,
            None => {
                if self.in_memory().0 == 0 && self.log.is_empty() {
                    // All is in segments; nobody may wait for what never comes.
                    for (_, reply) in self.waiting.drain(..) {
                        let _ = reply.send(Ok(()));
                    }
                    return Ok(());
                }
                self.begin_log()?;
                let rows = self.shared.write().freeze();
                self.head_since = None;
                Job {
                    sealed: self.number - 1,
                    rows,
                }
            }
        };
        let stopped = |_| StoreError::Stopped("its sealer ended".to_owned());
        self.jobs.send(job).map_err(stopped)?;
        self.sealing = true;
        Ok(())
    }

    /// Takes note of what the sealer did; returns the error if it failed.
    fn sealed(&mut self, outcome: Outcome) -> Option<StoreError> {
        self.sealing = false;
        match outcome {
            Ok(sealed) => {
                self.retry_at = 0;
                self.live.retain(|number| *number > sealed);
                self.count_log();
                for (upto, reply) in std::mem::take(&mut self.waiting) {
                    if upto <= sealed {
                        let _ = reply.send(Ok(()));
                    } else {
                        self.waiting.push((upto, reply));
                    }
                }
                None
            }
            Err((job, error)) => {
                self.failed = Some(job);
                self.put_off(&error);
                Some(error)
            }
        }
    }

    fn put_off(&mut self, error: &StoreError) {
        let (head, frozen) = self.in_memory();
        self.retry_at =
            (head.saturating_add(frozen)).saturating_add(self.options.seal_samples / 8 + 1);
        tracing::warn!(%error, "sealing failed and is tried again later; nothing is lost, the log holds it");
        for (_, reply) in self.waiting.drain(..) {
            let _ = reply.send(Err(again(error)));
        }
    }

    /// Goes on with a new log, unless nothing stands in the one at hand.
    fn begin_log(&mut self) -> Result<(), StoreError> {
        if self.log.is_empty() && self.live.len() > 1 {
            return Ok(());
        }
        self.log = open_log(&self.directory, self.number + 1)?;
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

fn open_log(directory: &Path, number: u64) -> Result<FramedLog, StoreError> {
    let path = wal_path(directory, number);
    let (log, _) =
        FramedLog::open(&path, WAL_KIND).map_err(|e| StoreError::io("opening", &path, e))?;
    Ok(log)
}

fn count(frames: &[Frame]) -> usize {
    frames.iter().map(|f| f.readings.len() + 1).sum()
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
