//! The sealer: a thread that turns the rows that were set aside into segments
//! while the writer goes on. See [`super::writer`] for the order that keeps
//! every acknowledged frame in exactly one place.

use super::encode::Output;
use super::files::wal_path;
use super::keeper::Work;
use super::manifest::{DAY_MS, Entry, day_of};
use super::seal::{Place, commit, create, discard, open_all};
use super::segment::{GROUP_ROWS, Plan, Table};
use super::state::Frozen;
use super::writer::Command;
use super::{Options, Shared};
use crate::query::StoreError;
use heliostat_models::Catalogue;
use parquet::errors::ParquetError;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

/// Kind of a device that the site does not know.
pub const UNKNOWN_KIND: &str = "unknown";

/// Rows that were set aside; the logs up to `sealed` hold nothing else.
#[derive(Debug)]
pub struct Job {
    /// The number of the last of those logs.
    pub sealed: u64,
    /// The rows.
    pub rows: Vec<Frozen>,
}

/// The number up to which logs are sealed now; or the job again, and why nothing
/// has changed.
pub type Outcome = Result<u64, (Job, StoreError)>;

/// The sealer's own state.
pub struct Sealer {
    /// The store's directory.
    pub directory: PathBuf,
    /// What it shares with queries and the writer.
    pub shared: Arc<Shared>,
    /// How the engine behaves.
    pub options: Options,
    /// Where outcomes go.
    pub outcomes: mpsc::Sender<Outcome>,
    /// The writer's queue, to wake it. Weak: the writer ends when nobody else can send.
    pub wake: tokio::sync::mpsc::WeakSender<Command>,
    /// Where the keeper is told that something was sealed.
    pub look: mpsc::Sender<Work>,
}

/// The rows of a device in a day.
type OfDay<'a> = (&'a Frozen, (i64, i64));

impl Sealer {
    /// Works until the writer has ended.
    pub fn run(self, jobs: mpsc::Receiver<Job>) {
        let mut first_log = 0;
        while let Ok(job) = jobs.recv() {
            let outcome = match self.seal(&job) {
                Ok(()) => {
                    self.remove_logs(&mut first_log, job.sealed);
                    let _ = self.look.send(Work::Look);
                    Ok(job.sealed)
                }
                Err(error) => Err((job, error)),
            };
            if self.outcomes.send(outcome).is_err() {
                return;
            }
            if let Some(wake) = self.wake.upgrade() {
                // When the queue is full the writer is awake.
                let _ = wake.try_send(Command::Sealed);
            }
        }
    }

    /// Writes the segments of a job. Before the manifest is replaced nothing has
    /// changed, after an error nothing has either.
    fn seal(&self, job: &Job) -> Result<(), StoreError> {
        let mut added = Vec::new();
        for ((day, kind), devices) in partitions(job) {
            let place = Place { day, kind };
            if let Err(error) = self.write(place, &devices, &mut added) {
                discard(&self.directory, added);
                return Err(error);
            }
        }
        let opened = open_all(&self.directory, &self.shared, added)?;
        let sealed = job.sealed;
        commit(
            &self.directory,
            &self.shared,
            &self.options,
            opened,
            |manifest| manifest.sealed = sealed,
            |state| {
                for rows in &job.rows {
                    if let Some(entry) = state.devices.get_mut(rows.device as usize) {
                        entry.thaw();
                    }
                }
                state.frozen_samples = 0;
            },
        )
    }

    /// Writes the files of a day and kind.
    fn write(
        &self,
        place: Place<'_>,
        devices: &[OfDay<'_>],
        added: &mut Vec<Entry>,
    ) -> Result<(), StoreError> {
        let files = self.encode(devices).map_err(|e| {
            let directory = &self.directory;
            StoreError::io("encoding a segment in", directory, std::io::Error::other(e))
        })?;
        create(
            &self.directory,
            &self.shared,
            &self.options,
            place,
            files,
            added,
        )
    }

    /// The files of a day and kind. Row group by row group, so that little more
    /// than one of them is in memory a second time.
    fn encode(&self, devices: &[OfDay<'_>]) -> Result<super::encode::Files, ParquetError> {
        let precision = &self.options.precision;
        let mut output = Output::new(&Plan::of(precision))?;
        let mut table = Table::default();
        for (place, (frozen, (first, last))) in devices.iter().enumerate() {
            (frozen.head).append_to(&mut table, frozen.id.clone(), *first, *last);
            if table.rows() >= GROUP_ROWS || place + 1 == devices.len() {
                table.round(precision, Catalogue::builtin());
                output.group(&mut table)?;
                table.clear();
            }
        }
        output.finish(self.options.rollup_rows)
    }

    /// Removes the logs that are sealed now.
    fn remove_logs(&self, first: &mut u64, sealed: u64) {
        // Of logs from before this process began there are few; a number that
        // has no file costs one call.
        let begin = (*first).max(sealed.saturating_sub(1_000));
        for number in begin..=sealed {
            // One that stays is recognised as sealed at the next opening.
            let _ = std::fs::remove_file(wal_path(&self.directory, number));
        }
        *first = sealed + 1;
    }
}

/// The rows of a job by day and kind, each device's by rising name.
fn partitions(job: &Job) -> BTreeMap<(i64, &str), Vec<OfDay<'_>>> {
    let mut rows: Vec<&Frozen> = job.rows.iter().collect();
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    let mut partitions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for frozen in rows {
        let kind = match frozen.kind {
            "" => UNKNOWN_KIND,
            kind => kind,
        };
        let mut next = frozen.head.first_from(i64::MIN);
        while let Some(first) = next {
            let day = day_of(first);
            // The last day ends with time itself.
            let end = (day + 1).checked_mul(DAY_MS);
            let last = end.map_or(i64::MAX, |end| end - 1);
            let partition = partitions.entry((day, kind)).or_default();
            partition.push((frozen, (first, last)));
            next = end.and_then(|end| frozen.head.first_from(end));
        }
    }
    partitions
}
