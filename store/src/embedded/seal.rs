//! Sealing: what is in memory becomes Parquet files, one a day and kind of device.

use super::condense::condense;
use super::files::open_segment;
use super::head::DeviceHead;
use super::manifest::{DAY_MS, Entry, Manifest, Tier, day_of};
use super::segment::schema::Key;
use super::segment::{
    Encoded, FileWriter, GROUP_ROWS, OwnedRows, Plan, Precision, Rows, Segment, footer_crc,
};
use super::state::State;
use super::{Options, Shared};
use crate::query::StoreError;
use heliostat_models::Catalogue;
use parquet::errors::ParquetError;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

/// Kind of a device that the site does not know.
pub const UNKNOWN_KIND: &str = "unknown";

/// Seals what is in memory; the logs up to `sealed` hold nothing else. Before the
/// manifest is replaced nothing has changed, after an error nothing has either.
pub fn seal(
    directory: &Path,
    shared: &Shared,
    options: &Options,
    sealed: u64,
) -> Result<(), StoreError> {
    let encoded = encode(shared, options).map_err(|e| {
        StoreError::io("encoding a segment in", directory, std::io::Error::other(e))
    })?;
    let mut added = Vec::new();
    for ((day, kind), files) in encoded {
        let place = Place { day, kind: &kind };
        if let Err(error) = create(directory, shared, options, place, files, &mut added) {
            // Gives the space back at once: the disk may be full.
            for entry in added {
                let _ = std::fs::remove_file(directory.join(entry.path()));
            }
            return Err(error);
        }
    }
    let opened = open_all(directory, shared, added)?;
    commit(
        directory,
        shared,
        options,
        opened,
        |manifest| manifest.sealed = sealed,
        |state| {
            for device in &mut state.devices {
                device.head = DeviceHead::default();
            }
            state.head_samples = 0;
        },
    )
}

/// Opens files that were just written.
pub fn open_all(
    directory: &Path,
    shared: &Shared,
    files: Vec<Entry>,
) -> Result<Vec<(Entry, Segment)>, StoreError> {
    let mut state = shared.write();
    (files.into_iter())
        .map(|entry| match open_segment(directory, &entry, &mut state) {
            Ok(segment) => Ok((entry, segment)),
            Err(error) => {
                let path = directory.join(entry.path());
                Err(StoreError::io("reading back", &path, error))
            }
        })
        .collect()
}

/// Makes files part of the store: first on disk, then in memory. After an error
/// nothing in memory has changed, and the files stay: the manifest may have got
/// through all the same, and if it has not they go at the next opening.
pub fn commit(
    directory: &Path,
    shared: &Shared,
    options: &Options,
    added: Vec<(Entry, Segment)>,
    change: impl FnOnce(&mut Manifest),
    also: impl FnOnce(&mut State),
) -> Result<(), StoreError> {
    let mut manifest = shared.manifest();
    let mut next = manifest.clone();
    next.files
        .extend(added.iter().map(|(entry, _)| entry.clone()));
    change(&mut next);
    next.write(directory, &*options.disk)?;
    *manifest = next;
    let mut state = shared.write();
    for (entry, segment) in added {
        state.stats.disk_bytes += entry.bytes;
        state.add(&entry, segment);
    }
    also(&mut state);
    Ok(())
}

/// The partition that a file belongs to.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Days since 1970.
    pub day: i64,
    /// Kind of device.
    pub kind: &'a str,
}

/// Writes a raw file and its rollups under new numbers; no manifest names them yet.
pub fn create(
    directory: &Path,
    shared: &Shared,
    options: &Options,
    place: Place<'_>,
    files: Vec<(Tier, Encoded)>,
    added: &mut Vec<Entry>,
) -> Result<(), StoreError> {
    let mut raw = None;
    for (tier, file) in files {
        let id = {
            let mut manifest = shared.manifest();
            manifest.next += 1;
            manifest.next - 1
        };
        let entry = Entry {
            id,
            tier,
            day: place.day,
            kind: place.kind.to_owned(),
            bytes: file.bytes.len() as u64,
            footer: footer_crc(&file.bytes).unwrap_or_default(),
            frames: file.frames,
            samples: file.samples,
            of: raw,
        };
        let path = directory.join(entry.path());
        (options.disk.create(&path, &file.bytes))
            .map_err(|e| StoreError::io("writing", &path, e))?;
        if tier == Tier::Raw {
            raw = Some(id);
        }
        added.push(entry);
    }
    Ok(())
}

type ByPartition<T> = BTreeMap<(i64, String), T>;

/// The files of what is in memory, by day and kind.
fn encode(
    shared: &Shared,
    options: &Options,
) -> Result<ByPartition<Vec<(Tier, Encoded)>>, ParquetError> {
    let catalogue = Catalogue::builtin();
    let state = shared.read();
    let mut devices: Vec<_> = (state.devices.iter())
        .filter(|d| !d.head.times().is_empty())
        .collect();
    devices.sort_by(|a, b| a.id.cmp(&b.id));
    let mut partitions: ByPartition<Vec<Rows<'_>>> = BTreeMap::new();
    for device in devices {
        let kind = if device.labels.kind.is_empty() {
            UNKNOWN_KIND
        } else {
            device.labels.kind
        };
        for (day, mut rows) in by_day(device.id.as_str(), &device.head) {
            rows.round(&options.precision, catalogue);
            let partition = partitions.entry((day, kind.to_owned())).or_default();
            partition.push(rows);
        }
    }
    (partitions.into_iter())
        .map(|(key, devices)| Ok((key, encode_partition(&devices, options, catalogue)?)))
        .collect()
}

/// The files of a partition: the rows as they are, then condensed.
fn encode_partition(
    devices: &[Rows<'_>],
    options: &Options,
    catalogue: &Catalogue,
) -> Result<Vec<(Tier, Encoded)>, ParquetError> {
    let raw = encode_rows(devices, &options.precision, catalogue)?;
    let mut files = vec![(Tier::Raw, raw)];
    let mut rollups: Vec<_> = Tier::ROLLUPS.map(|tier| (tier, Vec::new())).into();
    for rows in devices {
        for ((_, all), (_, condensed)) in rollups.iter_mut().zip(condense(rows, catalogue)) {
            all.push((rows.device.to_owned(), condensed));
        }
    }
    let rows = devices.iter().map(|rows| rows.times.len()).sum();
    let worth = (rows, options.rollup_rows);
    for (tier, condensed) in rollups {
        files.extend(encode_rollup(tier, &condensed, worth, catalogue)?);
    }
    Ok(files)
}

/// A rollup's file; none where it would be hardly shorter than the raw rows, of
/// devices that are read as seldom as once a step.
pub fn encode_rollup(
    tier: Tier,
    condensed: &[(String, OwnedRows)],
    (raw_rows, worth): (usize, usize),
    catalogue: &Catalogue,
) -> Result<Option<(Tier, Encoded)>, ParquetError> {
    let rows: usize = condensed.iter().map(|(_, rows)| rows.times.len()).sum();
    if rows * worth > raw_rows {
        return Ok(None);
    }
    let rows: Vec<Rows<'_>> = (condensed.iter())
        .map(|(device, rows)| rows.borrow(device))
        .collect();
    // Of values that are rounded already nothing more is rounded.
    let file = encode_rows(&rows, &Precision::Lossless, catalogue)?;
    Ok(Some((tier, file)))
}

/// A file of these rows.
fn encode_rows(
    devices: &[Rows<'_>],
    precision: &Precision,
    catalogue: &Catalogue,
) -> Result<Encoded, ParquetError> {
    let mut plan = Plan::default();
    for rows in devices {
        plan.see(rows, precision, catalogue);
    }
    let mut file = FileWriter::new(plan)?;
    let mut rest = devices;
    while !rest.is_empty() {
        let mut rows = 0;
        let count = rest.iter().take_while(|d| {
            let fits = rows < GROUP_ROWS;
            rows += d.times.len();
            fits
        });
        let (group, others) = rest.split_at(count.count());
        file.group(group)?;
        rest = others;
    }
    file.finish(catalogue)
}

/// The rows of a device, day by day.
fn by_day<'a>(device: &'a str, head: &'a DeviceHead) -> Vec<(i64, Rows<'a>)> {
    let times = head.times();
    let mut days = Vec::new();
    let mut begin = 0;
    while let Some(first) = times.get(begin) {
        let day = day_of(*first);
        // The last day ends with time itself.
        let end = match (day + 1).checked_mul(DAY_MS) {
            Some(next) => begin + times[begin..].partition_point(|t| *t < next),
            None => times.len(),
        };
        let columns = (head.columns().iter())
            .map(|c| {
                (
                    Key::value(c.metric),
                    &c.states[begin..end],
                    Cow::from(&c.values[begin..end]),
                )
            })
            .collect();
        let rows = Rows {
            device,
            times: &times[begin..end],
            columns,
        };
        days.push((day, rows));
        begin = end;
    }
    days
}
