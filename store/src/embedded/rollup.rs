//! Rollups: the rows of a segment condensed to one row a device and step of a
//! minute, a quarter of an hour or an hour. A rollup belongs to exactly one raw
//! file and is written with it, so that late data, which comes into another
//! file, makes no rollup wrong: a query adds up what the rollups of all files
//! say of a step.
//!
//! Here they are read; `condense` makes them of rows, `bucket` says what of a step
//! is kept.

use super::codec::{ESTIMATED, MISSING, has_value};
use super::head::Sample;
use super::segment::schema::{Key, Part};
use super::segment::{BlockMeta, Cache, ReadError, Segment};
use crate::query::OverTime;
use heliostat_models::MetricId;

/// What is known of the values of one device and metric in a part of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Partial {
    /// An instant within the step: of a sample its own, of a rollup its begin.
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

/// Whether rollups can answer this kind of question.
pub fn answers(over_time: OverTime) -> bool {
    !matches!(
        over_time,
        OverTime::Increase | OverTime::Rate | OverTime::Integral
    )
}

/// The steps of a rollup of a device and metric that begin in `[from, to)`.
pub fn partials(
    segment: &Segment,
    cache: &mut Cache,
    meta: &BlockMeta,
    metric: MetricId,
    over_time: OverTime,
    (from, to): (i64, i64),
) -> Result<Vec<Partial>, ReadError> {
    let mut partials: Vec<Partial> = Vec::new();
    let wanted: &[Part] = match over_time {
        OverTime::Avg => &[Part::Count, Part::Sum],
        OverTime::Min => &[Part::Min],
        OverTime::Max => &[Part::Max],
        OverTime::Sum => &[Part::Sum],
        OverTime::Last => &[Part::Last],
        _ => &[Part::Count],
    };
    for part in wanted
        .iter()
        .copied()
        .chain([Part::Estimated, Part::Missing])
    {
        let samples = segment.samples(cache, meta, Key { metric, part }, from, to)?;
        let mut place = 0;
        for sample in samples {
            while partials.get(place).is_some_and(|p| p.at < sample.at) {
                place += 1;
            }
            if partials.get(place).is_none_or(|p| p.at != sample.at) {
                let nothing = Partial {
                    at: sample.at,
                    count: 0,
                    sum: 0.0,
                    min: f64::INFINITY,
                    max: f64::NEG_INFINITY,
                    last: 0.0,
                    estimated: false,
                    missing: false,
                };
                partials.insert(place, nothing);
            }
            let Some(partial) = partials.get_mut(place) else {
                continue;
            };
            match part {
                Part::Estimated => partial.estimated = true,
                Part::Missing => partial.missing = true,
                Part::Count => partial.count = sample.value as u64,
                _ => {
                    partial.count = partial.count.max(1);
                    match part {
                        Part::Min => partial.min = sample.value,
                        Part::Max => partial.max = sample.value,
                        Part::Last => partial.last = sample.value,
                        _ => partial.sum = sample.value,
                    }
                }
            }
        }
    }
    Ok(partials)
}
