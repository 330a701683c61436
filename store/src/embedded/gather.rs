//! Steps that are added up in any order: of many devices at once, file by file,
//! on as many threads as it is worth.
//!
//! Sums, counts and extremes of a step do not depend on which part of it comes
//! first, so nothing is sorted or merged here: each device has its steps in a
//! row, and what is in memory, in segments and in rollups is added to them.

use super::codec::{ESTIMATED, MISSING, has_value};
use super::decoded::Rows;
use super::head::Sample;
use super::reader::{Asked, Feed, Reader};
use super::rollup::Partial;
use super::steps::StepValue;
use crate::query::{OverTime, StoreError};
use std::thread;

/// Steps, over all its devices, that one thread holds at a time; 48 bytes each.
const HELD_STEPS: u64 = 1 << 20;
/// Devices that are looked up at a time: so long the lock is held.
const DEVICES_AT_ONCE: usize = 32;
/// Devices for which a thread is worth its start.
const WORTH_A_THREAD: usize = 48;
/// Threads of one query.
const MOST_THREADS: usize = 4;

/// A step at hand.
#[derive(Clone, Copy, Debug)]
struct Cell {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    estimated: bool,
    /// A reading was missing.
    missing: bool,
}

const EMPTY: Cell = Cell {
    count: 0,
    sum: 0.0,
    min: f64::INFINITY,
    max: f64::NEG_INFINITY,
    estimated: false,
    missing: false,
};

/// The steps of one device.
struct Cells {
    cells: Vec<Cell>,
    from: i64,
    step: i64,
    /// The step that was added to last: number, begin, end.
    at: (usize, i64, i64),
}

impl Cells {
    fn new(asked: &Asked, steps: usize) -> Self {
        let step = i64::try_from(asked.step).unwrap_or(i64::MAX);
        Self {
            cells: vec![EMPTY; steps],
            from: asked.from,
            step,
            at: (0, asked.from, asked.from.saturating_add(step)),
        }
    }

    /// The step of an instant that is not before the first.
    fn cell(&mut self, at: i64) -> Option<&mut Cell> {
        let (_, begin, end) = self.at;
        if at < begin || at >= end {
            let index = at.checked_sub(self.from)? / self.step;
            let begin = self.from.saturating_add(index.saturating_mul(self.step));
            let end = begin.saturating_add(self.step);
            self.at = (usize::try_from(index).ok()?, begin, end);
        }
        self.cells.get_mut(self.at.0)
    }

    fn samples(&mut self, samples: &[Sample]) {
        for sample in samples {
            let Some(cell) = self.cell(sample.at) else {
                continue;
            };
            if has_value(sample.state) {
                cell.count += 1;
                cell.sum += sample.value;
                cell.min = cell.min.min(sample.value);
                cell.max = cell.max.max(sample.value);
                cell.estimated |= sample.state == ESTIMATED;
            } else {
                cell.missing |= sample.state == MISSING;
            }
        }
    }

    fn part(&mut self, part: &Partial, whole: bool) {
        let Some(cell) = self.cell(part.at) else {
            return;
        };
        cell.missing |= part.missing || !whole;
        if part.count > 0 {
            cell.count += part.count;
            cell.sum += part.sum;
            cell.min = cell.min.min(part.min);
            cell.max = cell.max.max(part.max);
            cell.estimated |= part.estimated;
        }
    }

    fn finish(self, over_time: OverTime) -> Vec<StepValue> {
        let value = |c: &Cell| match over_time {
            OverTime::Avg => c.sum / c.count as f64,
            OverTime::Min => c.min,
            OverTime::Max => c.max,
            OverTime::Count => c.count as f64,
            _ => c.sum,
        };
        // A step without values is no point.
        (self.cells.iter().enumerate())
            .filter(|(_, cell)| cell.count > 0)
            .map(|(index, cell)| StepValue {
                index: index as u64,
                value: Some(value(cell)),
                estimated: cell.estimated || cell.missing,
            })
            .collect()
    }
}

/// How many steps a query has, where they can be added up in any order and are
/// not too many to be held.
pub fn steps(asked: &Asked) -> Option<usize> {
    let any_order = matches!(
        asked.over_time,
        OverTime::Avg | OverTime::Min | OverTime::Max | OverTime::Sum | OverTime::Count
    );
    let span = asked.to.checked_sub(asked.from)? as u64;
    let steps = span.div_ceil(asked.step.max(1));
    (any_order && steps <= HELD_STEPS).then_some(steps as usize)
}

/// Shows the steps of devices, in their order; those without any are shown too.
pub fn gather(
    reader: &mut Reader<'_>,
    devices: &[u32],
    asked: &Asked,
    steps: usize,
    show: &mut dyn FnMut(u32, Vec<StepValue>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = (devices.len() / WORTH_A_THREAD).clamp(1, cores.min(MOST_THREADS));
    let held = (HELD_STEPS as usize / steps.max(1)).max(1);
    let mut rest = devices;
    while !rest.is_empty() {
        let share = rest.len().div_ceil(threads).min(held);
        let (now, later) = rest.split_at((share * threads).min(rest.len()));
        rest = later;
        let mut shares = now.chunks(share);
        // The first share is worked on here.
        let (mine, others) = (shares.next().unwrap_or_default(), shares);
        let found = thread::scope(|scope| {
            let others: Vec<_> = others
                .map(|share| {
                    let mut reader = reader.another();
                    scope.spawn(move || {
                        let found = of_share(&mut reader, share, asked, steps);
                        (found, reader.source)
                    })
                })
                .collect();
            let mut all = of_share(reader, mine, asked, steps)?;
            for other in others {
                let (found, source) = (other.join())
                    .map_err(|_| StoreError::Stopped("a query's thread ended".to_owned()))?;
                all.extend(found?);
                reader.add(source)?;
            }
            Ok::<_, StoreError>(all)
        })?;
        for (device, steps) in now.iter().zip(found) {
            show(*device, steps)?;
        }
    }
    Ok(())
}

fn of_share(
    reader: &mut Reader<'_>,
    devices: &[u32],
    asked: &Asked,
    steps: usize,
) -> Result<Vec<Vec<StepValue>>, StoreError> {
    let mut all = Vec::with_capacity(devices.len());
    for devices in devices.chunks(DEVICES_AT_ONCE) {
        reader.go_on()?;
        let (heads, feeds) = reader.feeds(devices, asked);
        let mut cells: Vec<Cells> = (devices.iter()).map(|_| Cells::new(asked, steps)).collect();
        for (cells, samples) in cells.iter_mut().zip(&heads) {
            reader.count(samples.len())?;
            cells.samples(samples);
        }
        for feed in &feeds {
            of_feed(reader, feed, devices, asked, &mut cells)?;
        }
        all.extend(cells.into_iter().map(|cells| cells.finish(asked.over_time)));
    }
    Ok(all)
}

/// Adds what one file, or the rollup that stands for it, has of the devices.
fn of_feed(
    reader: &mut Reader<'_>,
    feed: &Feed,
    devices: &[u32],
    asked: &Asked,
    all: &mut [Cells],
) -> Result<(), StoreError> {
    // Of the row group that was read last.
    let mut read: Option<(u32, Rows)> = None;
    for (device, cells) in devices.iter().zip(all) {
        if let Some((rollup, meta)) = feed.rollup_of(*device) {
            let view = reader.view(rollup, asked);
            let known = |(group, rows): &(u32, Rows)| *group == meta.group && rows.has(&meta);
            if !read.as_ref().is_some_and(known) {
                let rows = reader.rows(&view, &meta, rollup, asked.over_time);
                read = rows.map(|rows| (meta.group, rows));
            }
            if let Some((_, rows)) = &read {
                let whole = rollup.whole;
                view.show(rows, &meta, asked.over_time, |part| cells.part(part, whole));
                continue;
            }
        }
        if let Some((raw, meta)) = feed.raw_of(*device, asked) {
            let samples = reader.samples(raw, &meta, asked);
            reader.count(samples.len())?;
            cells.samples(&samples);
        }
    }
    Ok(())
}
