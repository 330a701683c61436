//! Rollups: the rows of a segment condensed to one row a device and step of a
//! minute, a quarter of an hour or an hour. A rollup belongs to exactly one raw
//! file and is written with it, so that late data, which comes into another
//! file, makes no rollup wrong: a query adds up what the rollups of all files
//! say of a step.
//!
//! Here they are read; `condense` makes them of rows, `bucket` says what of a step
//! is kept.

use super::codec::{ABSENT, ESTIMATED, MISSING, has_value};
use super::decoded::{DecodedColumns, Rows};
use super::head::Sample;
use super::manifest::Tier;
use super::segment::schema::{Key, Part};
use super::segment::{BlockMeta, Cache, Decoded, ReadError, Segment};
use crate::query::OverTime;
use heliostat_models::metrics::MetricKind;
use heliostat_models::{Catalogue, MetricId};
use std::sync::Arc;

/// What is known of the values of one device and metric in a part of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Partial {
    /// An instant within the step: of a sample its own, of a rollup one at which
    /// it begins.
    pub at: i64,
    /// How many values; where the query does not ask for it, whether there are any.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// The latest.
    pub last: f64,
    /// Whether one of them is estimated.
    pub estimated: bool,
    /// Whether a reading was missing.
    pub missing: bool,
}

impl Partial {
    /// Of one sample.
    pub fn of(sample: &Sample) -> Self {
        Self {
            at: sample.at,
            count: u64::from(has_value(sample.state)),
            sum: sample.value,
            min: sample.value,
            max: sample.value,
            last: sample.value,
            estimated: sample.state == ESTIMATED,
            missing: sample.state == MISSING,
        }
    }
}

/// A value of a counter, and how it grew up to there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Traced {
    /// The value.
    pub sample: Sample,
    /// From the value before in the same step of a rollup: what the counter had
    /// counted at restarts between, and whether a value between is estimated.
    pub since: Option<(f64, bool)>,
}

/// Which intervals the steps of a query are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lean {
    /// `[t, t + step)`, like those of a rollup.
    Left,
    /// `(t, t + step]`: in milliseconds, from the one after `t`.
    Right,
}

impl Lean {
    /// How steps from this instant lie to the steps of a rollup, if they do.
    pub fn of(from: i64, tier: Tier) -> Option<Self> {
        match from.rem_euclid(tier.step_ms().max(1)) {
            0 => Some(Self::Left),
            1 => Some(Self::Right),
            _ => None,
        }
    }

    /// From a step of a rollup to one of a query, milliseconds.
    fn by(self) -> i64 {
        i64::from(self == Self::Right)
    }
}

/// A rollup as one query reads it.
pub struct View<'a> {
    /// Where decoded columns are kept.
    pub kept: &'a DecodedColumns,
    /// The rollup.
    pub segment: &'a Arc<Segment>,
    /// Which metric.
    pub metric: MetricId,
    /// Which intervals are asked for.
    pub lean: Lean,
    /// Begin and end of the query.
    pub interval: (i64, i64),
    /// Whether more devices than a few are asked for.
    pub many: bool,
}

/// State and value of a row of a column that may not be there.
fn cell(column: &Option<Arc<Decoded>>, row: usize) -> (u8, f64) {
    let Some(column) = column else {
        return (ABSENT, 0.0);
    };
    match (column.0.get(row), column.1.get(row)) {
        (Some(state), Some(value)) => (*state, *value),
        _ => (ABSENT, 0.0),
    }
}

/// The columns that hold the answer: of the whole step, and of what is inside
/// where that is another.
fn main_parts(over_time: OverTime) -> (Part, Part) {
    match over_time {
        OverTime::Min => (Part::Min, Part::InsideMin),
        OverTime::Max => (Part::Max, Part::InsideMax),
        OverTime::Last => (Part::Last, Part::Last),
        _ => (Part::Sum, Part::InsideSum),
    }
}

impl View<'_> {
    /// Whether what is not told of least and most is told by first and last.
    fn derives(&self, over_time: OverTime) -> bool {
        self.segment.derived
            && matches!(over_time, OverTime::Min | OverTime::Max)
            && Catalogue::builtin().metric(self.metric).kind != MetricKind::Gauge
    }

    /// The columns that [`View::show`] reads.
    pub fn read(
        &self,
        cache: &mut Cache,
        meta: &BlockMeta,
        over_time: OverTime,
    ) -> Result<Rows, ReadError> {
        let (main, inside) = main_parts(over_time);
        let parts = [Part::Count, Part::Estimated, Part::Missing, main];
        let more = [Part::Edge, inside, Part::First, Part::Last];
        let wanted = match self.lean {
            _ if self.derives(over_time) => 4,
            Lean::Left => 0,
            Lean::Right => 2,
        };
        self.columns(
            cache,
            meta,
            parts.into_iter().chain(more.into_iter().take(wanted)),
        )
    }

    fn columns(
        &self,
        cache: &mut Cache,
        meta: &BlockMeta,
        parts: impl Iterator<Item = Part>,
    ) -> Result<Rows, ReadError> {
        let metric = self.metric;
        let keys: Vec<Key> = parts.map(|part| Key { metric, part }).collect();
        (self.kept).rows(self.segment, cache, meta, &keys, self.many)
    }

    /// The rows of a block that have a part in the query.
    fn rows_of(&self, rows: &Rows, meta: &BlockMeta) -> std::ops::Range<usize> {
        let (from, to) = self.interval;
        rows.of(meta, from.saturating_sub(self.lean.by()), to)
    }

    /// Shows what the rows of a block say of the steps of a query, by rising time.
    pub fn show(
        &self,
        rows: &Rows,
        meta: &BlockMeta,
        over_time: OverTime,
        mut take: impl FnMut(&Partial),
    ) {
        let [counts, estimates, gaps, main, rest @ ..] = rows.columns.as_slice() else {
            return;
        };
        let mut part = |at, (count, value): (u64, f64), estimated, missing| {
            if count > 0 || missing {
                take(&Partial {
                    at,
                    count,
                    sum: value,
                    min: value,
                    max: value,
                    last: value,
                    estimated,
                    missing,
                });
            }
        };
        let derives = self.derives(over_time);
        let (from, to) = self.interval;
        for row in self.rows_of(rows, meta) {
            let Some(begin) = rows.times.get(row).copied() else {
                break;
            };
            let mut count = cell(counts, row).1 as u64;
            let (mut estimated, mut missing) = (cell(estimates, row).1, cell(gaps, row).1);
            let (state, edge) = rest.first().map_or((ABSENT, 0.0), |edges| cell(edges, row));
            // Of a counter that never fell the first value is the least, the last the most.
            let derived = match (over_time, rest) {
                (OverTime::Min, [.., first, _]) if derives => Some(cell(first, row).1),
                (OverTime::Max, [.., last]) if derives => Some(cell(last, row).1),
                _ => None,
            };
            let whole = match (cell(main, row), derived) {
                ((ABSENT, _), Some(_)) if over_time == OverTime::Min && has_value(state) => edge,
                ((ABSENT, _), Some(derived)) => derived,
                ((_, told), _) => told,
            };
            let ([_, insides, ..], Lean::Right) = (rest, self.lean) else {
                part(begin, (count, whole), estimated > 0.0, missing > 0.0);
                continue;
            };
            if state != ABSENT && begin >= from {
                let valued = has_value(state);
                let one = (u64::from(valued), edge);
                part(begin, one, state == ESTIMATED, state == MISSING);
            }
            if begin.saturating_add(1) >= to {
                continue;
            }
            count = count.saturating_sub(u64::from(has_value(state)));
            estimated -= f64::from(u8::from(state == ESTIMATED));
            missing -= f64::from(u8::from(state == MISSING));
            let inside = match (over_time, cell(insides, row)) {
                (OverTime::Last, _) => whole,
                (_, (told, value)) if told != ABSENT => value,
                (OverTime::Avg | OverTime::Sum, _) if has_value(state) => whole - edge,
                _ if has_value(state) => derived.unwrap_or(whole),
                _ => whole,
            };
            part(begin + 1, (count, inside), estimated > 0.0, missing > 0.0);
        }
    }

    /// The values of a counter that say all of its growth, by rising time.
    pub fn traces(&self, cache: &mut Cache, meta: &BlockMeta) -> Result<Vec<Traced>, ReadError> {
        const PARTS: [Part; 7] = [
            Part::Estimated,
            Part::Edge,
            Part::First,
            Part::FirstAfter,
            Part::Last,
            Part::LastAfter,
            Part::Restarts,
        ];
        let rows = self.columns(cache, meta, PARTS.into_iter())?;
        let [
            estimates,
            edges,
            first,
            first_after,
            last,
            last_after,
            restarts,
        ] = rows.columns.as_slice()
        else {
            return Ok(Vec::new());
        };
        let (from, to) = self.interval;
        let mut traces = Vec::new();
        let mut add = |at: i64, (state, value): (u8, f64), since| {
            if has_value(state) && at >= from && at < to {
                let sample = Sample { at, state, value };
                traces.push(Traced { sample, since });
            }
        };
        for row in self.rows_of(&rows, meta) {
            let Some(begin) = rows.times.get(row).copied() else {
                break;
            };
            let edge = cell(edges, row);
            add(begin, edge, None);
            let first = cell(first, row);
            if !has_value(first.0) {
                continue;
            }
            let [first_at, last_at] = [first_after, last_after]
                .map(|after| begin.saturating_add(cell(after, row).1 as i64));
            add(first_at, first, None);
            if last_at > first_at {
                let at_edge = f64::from(u8::from(edge.0 == ESTIMATED));
                let estimated = cell(estimates, row).1 > at_edge;
                let since = (cell(restarts, row).1, estimated);
                add(last_at, cell(last, row), Some(since));
            }
        }
        Ok(traces)
    }
}
