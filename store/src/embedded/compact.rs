//! Compaction: the small files of a day and kind of device become few large ones,
//! with their rollups. New files are written, then the manifest that names them
//! instead of the old ones, then the old ones go; a crash between leaves files
//! that no manifest names.

use super::codec::ABSENT;
use super::encode::Output;
use super::manifest::{DAY_MS, Entry, Manifest, Tier};
use super::seal::{Place, commit, create, discard, open_all};
use super::segment::{BlockMeta, Cache, GROUP_ROWS, OwnedRows, Plan, ReadError, Segment, Table};
use super::{Options, Shared};
use crate::query::StoreError;
use heliostat_models::{DeviceId, Timestamp};
use parquet::errors::ParquetError;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A file of this length is closed and not compacted again.
const FULL_BYTES: usize = 32 << 20;
/// Time after the end of a day at which its files are brought together whatever their number.
const REST_MS: i64 = 3_600_000;

/// Why files are left as they are.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// One of them is damaged, or was written by a later version.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// The new file cannot be made.
    #[error("encoding: {0}")]
    Encoding(#[from] ParquetError),
    /// The new files cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store is being closed.
    #[error("the store is being closed")]
    Stopped,
}

/// Files to bring together: raw ones of one day and kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    day: i64,
    kind: String,
    ids: Vec<u64>,
}

/// What there is to compact. A file is not merged with much larger ones before
/// its day is over, so that every frame is written again only a few times.
pub fn jobs(manifest: &Manifest, files: usize, now: Timestamp, all: bool) -> Vec<Job> {
    let mut partitions: BTreeMap<(i64, &str), Vec<&Entry>> = BTreeMap::new();
    for entry in &manifest.files {
        if entry.tier == Tier::Raw && entry.bytes < FULL_BYTES as u64 / 2 {
            let key = (entry.day, entry.kind.as_str());
            partitions.entry(key).or_default().push(entry);
        }
    }
    let mut jobs = Vec::new();
    for ((day, kind), entries) in partitions {
        let mut add = |entries: &[&Entry]| {
            jobs.push(Job {
                day,
                kind: kind.to_owned(),
                ids: entries.iter().map(|e| e.id).collect(),
            });
        };
        let end = day.saturating_add(1).saturating_mul(DAY_MS);
        let over = now.0 >= end.saturating_add(REST_MS);
        if all || over {
            if entries.len() > 1 {
                add(&entries);
            }
            continue;
        }
        // By size, each class eight times the one before.
        let mut classes: BTreeMap<u32, Vec<&Entry>> = BTreeMap::new();
        for entry in entries {
            let class = entry.bytes.max(1).ilog2() / 3;
            classes.entry(class).or_default().push(entry);
        }
        for entries in classes.values().filter(|e| e.len() >= files.max(2)) {
            add(entries);
        }
    }
    jobs
}

/// Brings the files of a job together. Does nothing where one of them is gone.
pub fn run(
    directory: &Path,
    shared: &Shared,
    options: &Options,
    job: &Job,
) -> Result<(), CompactError> {
    let segments: Vec<Arc<Segment>> = (shared.read().segments.iter())
        .filter(|s| job.ids.contains(&s.id))
        .map(Arc::clone)
        .collect();
    if segments.len() != job.ids.len() {
        return Ok(());
    }
    for segment in &segments {
        if segment.columns.iter().any(|c| c.key.is_none()) {
            let what = "it has a metric that this version's catalogue does not know";
            return Err(unreadable(segment, ReadError::Contradiction(what)));
        }
    }
    let mut added = Vec::new();
    let written = write(directory, shared, options, job, &segments, &mut added);
    if let Err(error) = written {
        discard(directory, added);
        return Err(error);
    }
    let opened = open_all(directory, shared, added)?;
    let gone = |entry: &Entry| {
        job.ids.contains(&entry.id) || entry.of.is_some_and(|of| job.ids.contains(&of))
    };
    let raw = |entries: &[Entry], sum: &dyn Fn(&Entry) -> u64| -> u64 {
        (entries.iter().filter(|e| e.tier == Tier::Raw))
            .map(sum)
            .sum()
    };
    let (mut before, mut after) = (Vec::new(), Vec::new());
    after.extend(opened.iter().map(|(entry, _)| entry.clone()));
    before.extend(shared.manifest().files.iter().filter(|e| gone(e)).cloned());
    let remove = |manifest: &mut Manifest| manifest.files.retain(|entry| !gone(entry));
    commit(directory, shared, options, opened, remove, |state| {
        state.retire(&job.ids);
        let stats = &mut state.stats;
        stats.disk_bytes -= before.iter().map(|e| e.bytes).sum::<u64>();
        stats.frames += raw(&after, &|e| e.frames);
        stats.frames -= raw(&before, &|e| e.frames);
        stats.samples += raw(&after, &|e| e.samples);
        stats.samples -= raw(&before, &|e| e.samples);
    })?;
    tracing::debug!(
        day = job.day,
        kind = job.kind,
        files = job.ids.len(),
        "compacted"
    );
    Ok(())
}

fn unreadable(segment: &Segment, source: ReadError) -> CompactError {
    let path = segment.path.display().to_string();
    CompactError::Unreadable { path, source }
}

fn write(
    directory: &Path,
    shared: &Shared,
    options: &Options,
    job: &Job,
    segments: &[Arc<Segment>],
    added: &mut Vec<Entry>,
) -> Result<(), CompactError> {
    let mut plan = Plan::default();
    for segment in segments {
        plan.see_columns(&segment.columns);
    }
    let mut blocks: HashMap<u32, Vec<(&Segment, BlockMeta)>> = HashMap::new();
    for segment in segments {
        for meta in segment.blocks() {
            blocks
                .entry(meta.device)
                .or_default()
                .push((segment, *meta));
        }
    }
    let mut devices: Vec<(DeviceId, u32)> = {
        let state = shared.read();
        let name = |index: &u32| (state.devices[*index as usize].id.clone(), *index);
        blocks.keys().map(name).collect()
    };
    devices.sort();
    let mut cache = Cache::default();
    let mut output = Output::new(&plan)?;
    let mut table = Table::default();
    let last = devices.len().saturating_sub(1);
    for (place, (name, index)) in devices.into_iter().enumerate() {
        if shared.stopping.load(Ordering::Relaxed) {
            return Err(CompactError::Stopped);
        }
        let mut rows: Option<OwnedRows> = None;
        for (segment, meta) in blocks.get(&index).into_iter().flatten() {
            let found = segment.rows(&mut cache, meta).map_err(|e| {
                if segment.report_damage(meta.group, &e) {
                    shared.damaged.fetch_add(1, Ordering::Relaxed);
                }
                unreadable(segment, e)
            })?;
            rows = Some(match rows {
                None => found,
                Some(rows) => merge(rows, found),
            });
        }
        if let Some(rows) = rows {
            table.push(name, &rows);
        }
        if table.rows() >= GROUP_ROWS || (place == last && table.rows() > 0) {
            output.group(&mut table)?;
            table.clear();
        }
        if output.length() >= FULL_BYTES || place == last {
            let full = std::mem::replace(&mut output, Output::new(&plan)?);
            let place = Place {
                day: job.day,
                kind: &job.kind,
            };
            create(
                directory,
                shared,
                options,
                place,
                full.finish(options.rollup_rows)?,
                added,
            )?;
        }
    }
    Ok(())
}

/// The rows of both, by rising time. Of an instant that both have, as after
/// damage that was healed by sending again, what the first lacks comes from the second.
fn merge(a: OwnedRows, b: OwnedRows) -> OwnedRows {
    let mut times: Vec<i64> = a.times.iter().chain(&b.times).copied().collect();
    times.sort_unstable();
    times.dedup();
    let rows_of = |from: &OwnedRows| -> Vec<usize> {
        let mut row = 0;
        (from.times.iter())
            .map(|at| {
                row += times[row..].partition_point(|t| t < at);
                row
            })
            .collect()
    };
    let mut columns: Vec<(_, Vec<u8>, Vec<f64>)> = Vec::new();
    for from in [&a, &b] {
        let rows = rows_of(from);
        for (key, states, values) in &from.columns {
            let found = columns.iter().position(|(k, _, _)| k == key);
            let at = found.unwrap_or_else(|| {
                columns.push((*key, vec![ABSENT; times.len()], vec![0.0; times.len()]));
                columns.len() - 1
            });
            let (_, all_states, all_values) = &mut columns[at];
            for ((row, state), value) in rows.iter().zip(states).zip(values) {
                if all_states[*row] == ABSENT {
                    all_states[*row] = *state;
                    all_values[*row] = *value;
                }
            }
        }
    }
    OwnedRows { times, columns }
}
