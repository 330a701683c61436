//! Queries: rows from memory and segments, brought together per device.
//!
//! The lock is held for one device at a time and only while its rows in memory
//! are copied, so that the writer goes on during a long query.

use super::Shared;
use super::aggregate::{Group, point};
use super::codec::{ESTIMATED, MEASURED};
use super::gather;
use super::head::Sample;
use super::reader::{Asked, Reader, Waiting};
use super::steps::{Spacings, StepValue, Stepper};
use crate::promql::best_first;
use crate::query::{
    AcrossDevices, Answer, Condensed, Label, OverTime, Point, Query, Selector, Series, Source,
    StoreError,
};
use crate::question::{self, check_points, known};
use heliostat_models::{DeviceId, Frame, Quality, Timestamp};
use std::collections::BTreeMap;

/// The latest frame of each device, by name.
pub fn latest(shared: &Shared, select: &Selector, since: Timestamp) -> Answer {
    let state = shared.read();
    let frames = (state.select(select).into_iter())
        .filter_map(|index| {
            let entry = &state.devices[index as usize];
            entry.newest().filter(|at| *at >= since.0)?;
            let (at, readings) = entry.latest()?;
            Some(Frame {
                device: entry.id.clone(),
                at: Timestamp(at),
                readings,
            })
        })
        .collect();
    Answer::Frames(frames)
}

/// Answers any query; reads files.
pub fn answer(
    shared: &Shared,
    query: &Query,
    waiting: &Waiting,
) -> Result<(Answer, Source), StoreError> {
    let (series, source) = match query {
        Query::Latest { select, since } => {
            return Ok((latest(shared, select, *since), Source::default()));
        }
        Query::Range {
            metric,
            select,
            from,
            to,
        } => {
            let metric = known(metric)?;
            question::check(query)?;
            let asked = Asked {
                metric,
                from: from.0,
                to: to.0,
                step: 1,
                over_time: OverTime::Last,
            };
            range(shared, select, &asked, waiting)
        }
        Query::Aggregate {
            metric,
            select,
            from,
            to,
            step_ms,
            over_time,
            across,
            group_by,
        } => {
            let metric = known(metric)?;
            question::check(query)?;
            let asked = Asked {
                metric,
                from: from.0,
                to: to.0,
                step: *step_ms,
                over_time: *over_time,
            };
            // In a statement of its own, so that the lock is not held from here on.
            let devices = shared.read().select(select);
            let mut reader = Reader::new(shared, devices.len(), waiting)?;
            let series = match across {
                None => apart(&mut reader, &devices, &asked),
                Some(AcrossDevices::TopK(k)) => {
                    let chosen = chosen(&mut reader, &devices, &asked, group_by, (*k, true))?;
                    apart(&mut reader, &chosen, &asked)
                }
                Some(AcrossDevices::BottomK(k)) => {
                    let chosen = chosen(&mut reader, &devices, &asked, group_by, (*k, false))?;
                    apart(&mut reader, &chosen, &asked)
                }
                Some(across) => grouped(&mut reader, &devices, &asked, *across, group_by),
            }?;
            Ok((series, reader.source))
        }
    }?;
    Ok((Answer::Series(series), source))
}

/// The energy of a device that only rollups know, by a register or a power.
pub fn condensed(
    shared: &Shared,
    metric: &str,
    device: &DeviceId,
    (from, to): (Timestamp, Timestamp),
) -> Result<Condensed, StoreError> {
    let asked = Asked {
        metric: known(metric)?,
        from: from.0,
        to: to.0,
        // No rollup has such steps: of each segment the finest that is left.
        step: 1,
        over_time: OverTime::Integral,
    };
    let found = shared.read().find(device);
    let mut reader = Reader::new(shared, 1, &Waiting::default())?;
    let stretches = found.map_or_else(Vec::new, |device| reader.stretches(device, &asked));
    Ok(Condensed {
        stretches,
        rollup_ms: reader.source.rollup_ms,
    })
}

type Found = (Vec<Series>, Source);

/// Label and value of all labels of devices that are not empty.
fn labels_of(shared: &Shared, devices: &[u32]) -> Vec<Vec<(Label, String)>> {
    let state = shared.read();
    (devices.iter())
        .map(|device| {
            let entry = &state.devices[*device as usize];
            Label::all_of(&entry.id, &entry.labels)
        })
        .collect()
}

/// The values of these labels of each device.
fn keys_of(shared: &Shared, devices: &[u32], group_by: &[Label]) -> Vec<Vec<String>> {
    let state = shared.read();
    let of = |device: &u32| {
        let entry = &state.devices[*device as usize];
        (group_by.iter())
            .map(|label| label.of(&entry.id, &entry.labels).to_owned())
            .collect()
    };
    devices.iter().map(of).collect()
}

fn range(
    shared: &Shared,
    select: &Selector,
    asked: &Asked,
    waiting: &Waiting,
) -> Result<Found, StoreError> {
    let mut all = Vec::new();
    let mut count = 0;
    // In a statement of its own, so that the lock is not held during the loop.
    let devices = shared.read().select(select);
    let mut reader = Reader::new(shared, devices.len(), waiting)?;
    let labels = labels_of(shared, &devices);
    for (device, labels) in devices.into_iter().zip(labels) {
        let mut points = Vec::new();
        reader.visit(device, asked, &mut |samples| {
            check_points(count + points.len() + samples.len())?;
            points.extend(samples.iter().map(point_of));
            Ok(())
        })?;
        count += points.len();
        if !points.is_empty() {
            all.push(Series { labels, points });
        }
    }
    Ok((all, reader.source))
}

fn point_of(sample: &Sample) -> Point {
    let (value, quality) = match sample.state {
        MEASURED => (Some(sample.value), Quality::Measured),
        ESTIMATED => (Some(sample.value), Quality::Estimated),
        _ => (None, Quality::Missing),
    };
    Point {
        at: Timestamp(sample.at),
        value,
        quality,
    }
}

/// Shows the steps of each device that has any.
fn each(
    reader: &mut Reader<'_>,
    devices: &[u32],
    asked: &Asked,
    show: &mut dyn FnMut(u32, Vec<StepValue>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    if let Some(steps) = gather::steps(asked) {
        return gather::gather(reader, devices, asked, steps, show);
    }
    for device in devices {
        reader.go_on()?;
        let found = in_order(reader, *device, asked)?;
        show(*device, found)?;
    }
    Ok(())
}

/// The steps of one device, of which the order of its values matters or that are
/// too many to be held.
fn in_order(
    reader: &mut Reader<'_>,
    device: u32,
    asked: &Asked,
) -> Result<Vec<StepValue>, StoreError> {
    let mut gap_limit = 0;
    if asked.over_time == OverTime::Integral {
        let mut spacings = Spacings::default();
        reader.visit(device, asked, &mut |samples| {
            spacings.push(samples);
            Ok(())
        })?;
        gap_limit = spacings.gap_limit();
    }
    let mut stepper = Stepper::new(asked.from, asked.step, asked.over_time, gap_limit);
    let within = |stepper: &Stepper| check_points(if stepper.overflow() { usize::MAX } else { 0 });
    match asked.over_time {
        OverTime::Increase | OverTime::Rate => {
            reader.visit_counter(device, asked, &mut |values| {
                stepper.push_traced(values);
                within(&stepper)
            })?;
        }
        OverTime::Integral | OverTime::Quantile(_) => {
            if asked.over_time == OverTime::Integral {
                stepper.push_energies(&reader.energies(device, asked));
            } else {
                stepper.push_left(&reader.steps_left(device, asked));
            }
            reader.visit(device, asked, &mut |samples| {
                stepper.push(samples);
                within(&stepper)
            })?;
        }
        _ => {
            reader.visit_partials(device, asked, &mut |partials| {
                stepper.push_partials(partials);
                within(&stepper)
            })?;
        }
    }
    Ok(stepper.finish())
}

fn apart(
    reader: &mut Reader<'_>,
    devices: &[u32],
    asked: &Asked,
) -> Result<Vec<Series>, StoreError> {
    let mut labels = labels_of(reader.shared, devices).into_iter();
    let mut all = Vec::new();
    let mut count = 0;
    each(reader, devices, asked, &mut |_, found| {
        let labels = labels.next().unwrap_or_default();
        count += found.len();
        check_points(count)?;
        if !found.is_empty() {
            let points = (found.iter())
                .map(|s| point(asked.from, asked.step, s.index, s.value, s.estimated))
                .collect();
            all.push(Series { labels, points });
        }
        Ok(())
    })?;
    Ok(all)
}

fn grouped(
    reader: &mut Reader<'_>,
    devices: &[u32],
    asked: &Asked,
    across: AcrossDevices,
    group_by: &[Label],
) -> Result<Vec<Series>, StoreError> {
    let mut keys = keys_of(reader.shared, devices, group_by).into_iter();
    let mut groups: BTreeMap<Vec<String>, Group> = BTreeMap::new();
    let mut count = 0;
    each(reader, devices, asked, &mut |_, found| {
        let key = keys.next().unwrap_or_default();
        if found.is_empty() {
            return Ok(());
        }
        let group = groups.entry(key).or_default();
        count -= group.len();
        group.add(&found);
        count += group.len();
        check_points(count)
    })?;
    Ok((groups.into_iter())
        .map(|(key, group)| Series {
            labels: group_by.iter().copied().zip(key).collect(),
            points: group.points(across, asked.from, asked.step),
        })
        .collect())
}

/// The devices of each group with the largest (or smallest) value over the whole
/// time, best first; of equal ones the first by name.
fn chosen(
    reader: &mut Reader<'_>,
    devices: &[u32],
    asked: &Asked,
    group_by: &[Label],
    (k, largest): (u32, bool),
) -> Result<Vec<u32>, StoreError> {
    let whole = Asked {
        step: asked.to.abs_diff(asked.from),
        ..*asked
    };
    let mut keys = keys_of(reader.shared, devices, group_by).into_iter();
    let mut groups: BTreeMap<Vec<String>, Vec<(f64, u32)>> = BTreeMap::new();
    each(reader, devices, &whole, &mut |device, found| {
        let key = keys.next().unwrap_or_default();
        if let Some(value) = found.first().and_then(|step| step.value) {
            groups.entry(key).or_default().push((value, device));
        }
        Ok(())
    })?;
    let mut chosen = Vec::new();
    for group in groups.values_mut() {
        group.sort_by(|a, b| best_first(a.0, b.0, largest));
        chosen.extend(group.iter().take(k as usize).map(|(_, device)| *device));
    }
    Ok(chosen)
}
