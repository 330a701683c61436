//! Condensing: the rows of devices become the rows of their rollups.
//!
//! Sums are taken over the decimals that the values are, so that they are exact.
//! `energy` says what a power's readings come to, `cells` what is written down.

use super::bucket::{Bucket, NOTHING};
use super::cells::{Cells, What};
use super::codec::{ABSENT, MEASURED};
use super::decimal::power;
use super::energy::integrate;
use super::head::Sample;
use super::manifest::Tier;
use super::segment::schema::Part;
use super::segment::{Column, Decimals, Table};
use heliostat_models::Catalogue;
use heliostat_models::metrics::MetricKind;
use std::ops::Range;

/// Number of rollups.
pub const TIERS: usize = Tier::ROLLUPS.len();
/// Place of the minutes among them.
const MINUTES: usize = TIERS - 1;

/// Begin of the step that an instant lies in.
pub fn begin_of(at: i64, step: i64) -> i64 {
    at.checked_sub(at.rem_euclid(step)).unwrap_or(i64::MIN)
}

/// Where a device's rows are: in the table that is condensed, and in each rollup.
#[derive(Debug)]
struct Place {
    rows: Range<usize>,
    steps: [Range<usize>; TIERS],
}

/// Makes rollups of tables; from the coarsest to the finest.
#[derive(Debug, Default)]
pub struct Condenser {
    /// The rows of each rollup so far.
    pub rollups: [Table; TIERS],
    places: Vec<Place>,
    /// Where the rows of each minute of the table at hand end.
    ends: Vec<usize>,
    /// Steps of one device and metric.
    buckets: [Vec<Bucket>; TIERS],
}

/// The readings of a device and metric.
#[derive(Clone, Copy)]
pub struct Readings<'a> {
    /// Instants.
    pub times: &'a [i64],
    /// States.
    pub states: &'a [u8],
    /// Values.
    pub values: &'a [f64],
    /// The values as integers over a power of ten, where they are such.
    integers: Option<&'a [i64]>,
    scale: u8,
    /// Whether all are measured.
    measured: bool,
}

impl Condenser {
    /// Takes a table's devices and instants; its columns come next.
    pub fn begin(&mut self, table: &Table) {
        self.places.clear();
        self.ends.clear();
        let mut begin = 0;
        for (device, count) in &table.devices {
            let rows = begin..begin + count;
            begin = rows.end;
            let before: [usize; TIERS] = std::array::from_fn(|tier| self.rollups[tier].rows());
            let mut minute: Option<i64> = None;
            for row in rows.clone() {
                let at = table.times[row];
                let width = Tier::Minute.step_ms();
                if minute.is_some_and(|minute| at < minute.saturating_add(width)) {
                    continue;
                }
                if minute.is_some() {
                    self.ends.push(row);
                }
                minute = Some(begin_of(at, width));
                for (tier, rollup) in Tier::ROLLUPS.into_iter().zip(&mut self.rollups) {
                    let step = begin_of(at, tier.step_ms());
                    let known = rollup
                        .devices
                        .last()
                        .is_some_and(|(last, _)| last == device)
                        && rollup.times.last() == Some(&step);
                    if known {
                        continue;
                    }
                    rollup.times.push(step);
                    match rollup.devices.last_mut() {
                        Some((last, steps)) if last == device => *steps += 1,
                        _ => rollup.devices.push((device.clone(), 1)),
                    }
                }
            }
            if minute.is_some() {
                self.ends.push(rows.end);
            }
            self.places.push(Place {
                rows,
                steps: std::array::from_fn(|tier| before[tier]..self.rollups[tier].rows()),
            });
        }
    }

    /// Takes a column of that table; `decimals`: its values, where they are such.
    pub fn column(
        &mut self,
        times: &[i64],
        column: &Column,
        decimals: Option<&Decimals>,
        catalogue: &Catalogue,
    ) {
        if column.key.part != Part::Value || !column.says_something() {
            return;
        }
        let measured = column.states.iter().all(|state| *state == MEASURED);
        let metric = catalogue.metric(column.key.metric);
        let is_power = metric.unit == "W" && metric.kind == MetricKind::Gauge;
        let traced = metric.kind != MetricKind::Gauge;
        let mut ends = self.ends.as_slice();
        let mut own = Decimals::default();
        let mut cells: [Cells; TIERS] = std::array::from_fn(|_| Cells::of(column.key.metric));
        for place in &self.places {
            let rows = place.rows.clone();
            let (these, later) = ends.split_at(place.steps[MINUTES].len());
            ends = later;
            let states = &column.states[rows.clone()];
            if !measured && states.iter().all(|state| *state == ABSENT) {
                continue;
            }
            let values = &column.values[rows.clone()];
            let (scale, integers) = match decimals {
                Some(found) => (found.scale, Some(&found.integers[rows.clone()])),
                // One device's odd values make no other's sums inexact.
                None => match own.find(states, values, 0) {
                    true => (own.scale, Some(own.integers.as_slice())),
                    false => (0, None),
                },
            };
            let readings = Readings {
                times: &times[rows.clone()],
                states,
                values,
                integers,
                scale,
                measured,
            };
            let steps: [&[i64]; TIERS] =
                std::array::from_fn(|tier| &self.rollups[tier].times[place.steps[tier].clone()]);
            add_up(
                readings,
                steps[MINUTES],
                (rows.start, these),
                &mut self.buckets[MINUTES],
            );
            let [hours, quarters, minutes] = &mut self.buckets;
            let finest = (steps[MINUTES], minutes.as_slice());
            bring_together(finest, steps[0], Tier::Hour.step_ms(), hours);
            bring_together(finest, steps[1], Tier::Quarter.step_ms(), quarters);
            if is_power {
                integrate(readings, steps, &mut self.buckets);
            }
            let what = What {
                is_power,
                traced,
                scale: integers.map(|_| scale),
            };
            for (tier, rollup) in self.rollups.iter_mut().enumerate() {
                let buckets = self.buckets[tier].iter().zip(place.steps[tier].clone());
                for (bucket, row) in buckets {
                    cells[tier].put(rollup, what, row, bucket);
                }
            }
        }
    }
}

/// What each minute's readings come to; `ends`: where they end, from the number of the first row.
fn add_up(
    readings: Readings<'_>,
    begins: &[i64],
    (first, ends): (usize, &[usize]),
    buckets: &mut Vec<Bucket>,
) {
    buckets.clear();
    let mut start = 0;
    for (begin, end) in begins.iter().zip(ends) {
        let rows = start..end - first;
        start = rows.end;
        let quick = (readings.integers.filter(|_| readings.measured))
            .and_then(|integers| quick(readings, *begin, rows.clone(), integers));
        buckets.push(quick.unwrap_or_else(|| {
            let mut bucket = NOTHING;
            for row in rows {
                let (at, state, value) = (
                    readings.times[row],
                    readings.states[row],
                    readings.values[row],
                );
                let exact = readings.integers.map_or(0, |integers| integers[row]);
                bucket.push(*begin, Sample { at, state, value }, exact);
            }
            bucket
        }));
    }
}

/// The same as one by one, of a minute whose readings are all measured decimals;
/// none where they fall, because a counter may have begun anew.
fn quick(
    readings: Readings<'_>,
    begin: i64,
    rows: Range<usize>,
    integers: &[i64],
) -> Option<Bucket> {
    let sample = |row: usize| Sample {
        at: readings.times[row],
        state: MEASURED,
        value: readings.values[row],
    };
    let integers = &integers[rows.clone()];
    let at_edge = readings.times[rows.start] == begin;
    let (edge, inside) = integers.split_at(usize::from(at_edge));
    let (mut sum, mut least, mut most) = (0i64, i64::MAX, i64::MIN);
    let mut falls = 0.0;
    let mut before = inside.first().copied().unwrap_or_default();
    for integer in inside {
        sum = sum.saturating_add(*integer);
        least = least.min(*integer);
        most = most.max(*integer);
        if *integer < before {
            falls += before as f64 / power(readings.scale);
        }
        before = *integer;
    }
    let double = |integer: i64| integer as f64 / power(readings.scale);
    let mut bucket = NOTHING;
    bucket.count = rows.len() as u32;
    bucket.exact = sum;
    bucket.restarts = falls;
    if !inside.is_empty() {
        bucket.inside = [double(sum), double(least), double(most)];
        bucket.first = Some(sample(rows.start + edge.len()));
    }
    for integer in edge {
        bucket.edge = sample(rows.start);
        bucket.exact = bucket.exact.saturating_add(*integer);
        least = least.min(*integer);
        most = most.max(*integer);
    }
    (bucket.min, bucket.max) = (double(least), double(most));
    bucket.sum = double(bucket.exact);
    bucket.last = Some(sample(rows.end - 1));
    Some(bucket)
}

/// Longer steps from minutes.
fn bring_together(
    (begins, buckets): (&[i64], &[Bucket]),
    steps: &[i64],
    step: i64,
    longer: &mut Vec<Bucket>,
) {
    longer.clear();
    longer.resize(steps.len(), NOTHING);
    let mut at = 0;
    for (begin, bucket) in begins.iter().zip(buckets) {
        let of = begin_of(*begin, step);
        while at + 1 < steps.len() && steps[at] != of {
            at += 1;
        }
        if let Some(long) = longer.get_mut(at) {
            long.append(bucket, *begin == of);
        }
    }
}
