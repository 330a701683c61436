//! Queries: rows from memory and segments, brought together per device.
//!
//! The lock is held for one device at a time and only while its rows in memory
//! are copied, so that the writer goes on during a long query.

use super::Shared;
use super::aggregate::{Group, point};
use super::codec::{ESTIMATED, MEASURED};
use super::head::Sample;
use super::manifest::Tier;
use super::reader::{Asked, Reader};
use super::rollup;
use super::steps::{Spacings, Stepper};
use crate::query::{
    AcrossDevices, Answer, Label, MAX_POINTS, OverTime, Point, Query, Selector, Series, Source,
    StoreError,
};
use heliostat_models::{Catalogue, Frame, MetricId, Quality, Timestamp};
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
pub fn answer(shared: &Shared, query: &Query) -> Result<(Answer, Source), StoreError> {
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
            check_interval(*from, *to)?;
            range(shared, metric, select, from.0, to.0)
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
            check_interval(*from, *to)?;
            if *step_ms == 0 {
                return Err(StoreError::BadQuery(
                    "the step must be at least 1 ms".to_owned(),
                ));
            }
            let steps = Asked {
                metric,
                from: from.0,
                to: to.0,
                step: *step_ms,
                over_time: *over_time,
            };
            match across {
                None => apart(shared, select, &steps),
                Some(across) => grouped(shared, select, &steps, *across, group_by),
            }
        }
    }?;
    Ok((Answer::Series(series), source))
}

type Found = (Vec<Series>, Source);

fn known(metric: &str) -> Result<MetricId, StoreError> {
    Catalogue::builtin()
        .id(metric)
        .ok_or_else(|| StoreError::UnknownMetric(metric.to_owned()))
}

fn check_interval(from: Timestamp, to: Timestamp) -> Result<(), StoreError> {
    if from < to {
        return Ok(());
    }
    Err(StoreError::BadQuery(format!(
        "the interval from {from} to {to} is empty; `from` must be before `to`"
    )))
}

fn check_points(count: usize) -> Result<(), StoreError> {
    if count <= MAX_POINTS {
        return Ok(());
    }
    Err(StoreError::BadQuery(format!(
        "the answer would have more than {MAX_POINTS} points; ask for a shorter time, a longer step or fewer devices"
    )))
}

/// Label and value of all labels of a device that are not empty.
fn labels_of(shared: &Shared, device: u32) -> Vec<(Label, String)> {
    let state = shared.read();
    let entry = &state.devices[device as usize];
    [
        Label::Kind,
        Label::Hall,
        Label::Row,
        Label::Rack,
        Label::Node,
        Label::Device,
    ]
    .into_iter()
    .map(|label| (label, label.of(&entry.id, &entry.labels).to_owned()))
    .filter(|(_, value)| !value.is_empty())
    .collect()
}

fn range(
    shared: &Shared,
    metric: MetricId,
    select: &Selector,
    from: i64,
    to: i64,
) -> Result<Found, StoreError> {
    let mut all = Vec::new();
    let mut count = 0;
    // In a statement of its own, so that the lock is not held during the loop.
    let devices = shared.read().select(select);
    let mut reader = Reader::new(shared, devices.len());
    for device in devices {
        let mut points = Vec::new();
        reader.visit(device, metric, from, to, &mut |samples| {
            check_points(count + points.len() + samples.len())?;
            points.extend(samples.iter().map(point_of));
            Ok(())
        })?;
        count += points.len();
        if !points.is_empty() {
            all.push(Series {
                labels: labels_of(shared, device),
                points,
            });
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

impl Asked {
    /// The coarsest rollup whose steps make up the steps that are asked for.
    fn tier(&self) -> Option<Tier> {
        let fits = |tier: &Tier| {
            let width = tier.step_ms();
            self.step.is_multiple_of(width as u64) && self.from.rem_euclid(width) == 0
        };
        Tier::ROLLUPS.into_iter().find(fits)
    }

    fn of(
        &self,
        reader: &mut Reader<'_>,
        device: u32,
    ) -> Result<Vec<super::steps::StepValue>, StoreError> {
        let mut gap_limit = 0;
        if self.over_time == OverTime::Integral {
            let mut spacings = Spacings::default();
            reader.visit(device, self.metric, self.from, self.to, &mut |samples| {
                spacings.push(samples);
                Ok(())
            })?;
            gap_limit = spacings.gap_limit();
        }
        let mut stepper = Stepper::new(self.from, self.step, self.over_time, gap_limit);
        let within =
            |stepper: &Stepper| check_points(if stepper.overflow() { usize::MAX } else { 0 });
        if rollup::answers(self.over_time) {
            reader.visit_partials(device, self, self.tier(), &mut |partials| {
                stepper.push_partials(partials);
                within(&stepper)
            })?;
        } else if self.over_time == OverTime::Integral {
            stepper.push_energies(&reader.energies(device, self));
            reader.visit(device, self.metric, self.from, self.to, &mut |samples| {
                stepper.push(samples);
                within(&stepper)
            })?;
        } else {
            reader.visit_counter(device, self, &mut |samples| {
                stepper.push(samples);
                within(&stepper)
            })?;
        }
        Ok(stepper.finish())
    }
}

fn apart(shared: &Shared, select: &Selector, steps: &Asked) -> Result<Found, StoreError> {
    let mut all = Vec::new();
    let mut count = 0;
    // In a statement of its own, so that the lock is not held during the loop.
    let devices = shared.read().select(select);
    let mut reader = Reader::new(shared, devices.len());
    for device in devices {
        let found = steps.of(&mut reader, device)?;
        count += found.len();
        check_points(count)?;
        if !found.is_empty() {
            let points = (found.iter())
                .map(|s| point(steps.from, steps.step, s.index, s.value, s.estimated))
                .collect();
            all.push(Series {
                labels: labels_of(shared, device),
                points,
            });
        }
    }
    Ok((all, reader.source))
}

fn grouped(
    shared: &Shared,
    select: &Selector,
    steps: &Asked,
    across: AcrossDevices,
    group_by: &[Label],
) -> Result<Found, StoreError> {
    let mut groups: BTreeMap<Vec<String>, Group> = BTreeMap::new();
    let mut count = 0;
    // In a statement of its own, so that the lock is not held during the loop.
    let devices = shared.read().select(select);
    let mut reader = Reader::new(shared, devices.len());
    for device in devices {
        let found = steps.of(&mut reader, device)?;
        if found.is_empty() {
            continue;
        }
        let key: Vec<String> = {
            let state = shared.read();
            let entry = &state.devices[device as usize];
            (group_by.iter())
                .map(|label| label.of(&entry.id, &entry.labels).to_owned())
                .collect()
        };
        let group = groups.entry(key).or_default();
        count -= group.len();
        group.add(&found);
        count += group.len();
        check_points(count)?;
    }
    let all = (groups.into_iter())
        .map(|(key, group)| Series {
            labels: group_by.iter().copied().zip(key).collect(),
            points: group.points(across, steps.from, steps.step),
        })
        .collect();
    Ok((all, reader.source))
}
