//! Rollups: the rows of a segment condensed to one row a device and step of a
//! minute, a quarter of an hour or an hour. A rollup belongs to exactly one raw
//! file and is written with it, so that late data, which comes into another
//! file, makes no rollup wrong: a query adds up what the rollups of all files
//! say of a step.
//!
//! Sums are taken over the decimals that the values are, so that they are exact.
//! Energy is the trapezoid between neighbouring values of one file, over gaps no
//! longer than [`GAP_LIMIT`](super::steps::GAP_LIMIT) median spacings.

use super::codec::{ABSENT, ESTIMATED, MEASURED, MISSING, has_value};
use super::decimal::{MAX_SCALE, fit, power};
use super::head::Sample;
use super::manifest::Tier;
use super::segment::schema::{Key, Part};
use super::segment::{BlockMeta, Cache, OwnedRows, ReadError, Rows, Segment};
use super::steps::Spacings;
use crate::query::OverTime;
use heliostat_models::metrics::MetricKind;
use heliostat_models::{Catalogue, MetricId};

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

/// Begin of the step that an instant lies in.
fn begin_of(at: i64, step: i64) -> i64 {
    at.checked_sub(at.rem_euclid(step)).unwrap_or(i64::MIN)
}

#[derive(Clone, Copy)]
struct Sums {
    count: u32,
    estimated: u32,
    missing: u32,
    sum: f64,
    exact: i64,
    min: f64,
    max: f64,
    last: f64,
    /// Joules and seconds.
    measured: f64,
    guessed: f64,
    known: f64,
}

const NOTHING: Sums = Sums {
    count: 0,
    estimated: 0,
    missing: 0,
    sum: 0.0,
    exact: 0,
    min: f64::INFINITY,
    max: f64::NEG_INFINITY,
    last: 0.0,
    measured: 0.0,
    guessed: 0.0,
    known: 0.0,
};

/// The rows of one device, condensed.
pub fn condense(rows: &Rows<'_>, tier: Tier, catalogue: &Catalogue) -> OwnedRows {
    let step = tier.step_ms().max(1);
    let mut times: Vec<i64> = rows.times.iter().map(|at| begin_of(*at, step)).collect();
    times.dedup();
    let mut columns = Vec::new();
    for (key, states, values) in &rows.columns {
        if key.part == Part::Value && states.iter().any(|s| *s != ABSENT) {
            let metric = catalogue.metric(key.metric);
            let is_power = metric.unit == "W" && metric.kind == MetricKind::Gauge;
            let scale = common_scale(states, values);
            let mut sums = add_up(rows.times, &times, step, states, values, scale);
            if is_power {
                integrate(rows.times, &times, step, states, values, &mut sums);
            }
            put(key.metric, is_power, scale, &sums, &mut columns);
        }
    }
    OwnedRows { times, columns }
}

/// The smallest scale at which all values are decimals.
fn common_scale(states: &[u8], values: &[f64]) -> Option<u8> {
    let mut scale = 0;
    for (_, value) in states.iter().zip(values).filter(|(s, _)| has_value(**s)) {
        while fit(*value, scale).is_none() {
            scale += 1;
            if scale > MAX_SCALE {
                return None;
            }
        }
    }
    Some(scale)
}

fn add_up(
    times: &[i64],
    steps: &[i64],
    step: i64,
    states: &[u8],
    values: &[f64],
    scale: Option<u8>,
) -> Vec<Sums> {
    let mut sums = vec![NOTHING; steps.len()];
    let mut at = 0;
    for ((time, state), value) in times.iter().zip(states).zip(values) {
        while at + 1 < steps.len() && steps[at] != begin_of(*time, step) {
            at += 1;
        }
        let Some(sum) = sums.get_mut(at) else { break };
        if *state == MISSING {
            sum.missing += 1;
        }
        if !has_value(*state) {
            continue;
        }
        sum.count += 1;
        sum.estimated += u32::from(*state == ESTIMATED);
        sum.sum += value;
        let exact = scale.and_then(|scale| fit(*value, scale));
        sum.exact = sum.exact.saturating_add(exact.unwrap_or(0));
        sum.min = sum.min.min(*value);
        sum.max = sum.max.max(*value);
        sum.last = *value;
    }
    sums
}

/// Energy between neighbouring values, split at the borders of the steps.
fn integrate(
    times: &[i64],
    steps: &[i64],
    step: i64,
    states: &[u8],
    values: &[f64],
    sums: &mut [Sums],
) {
    let rows = times.iter().zip(states).zip(values);
    let samples: Vec<Sample> = rows
        .map(|((at, state), value)| Sample {
            at: *at,
            state: *state,
            value: *value,
        })
        .collect();
    let mut spacings = Spacings::default();
    spacings.push(&samples);
    let limit = spacings.gap_limit();
    let mut before: Option<Sample> = None;
    let mut bridged = false;
    let mut at = 0;
    for sample in samples.iter().filter(|s| s.state != ABSENT) {
        if !has_value(sample.state) {
            bridged = true;
            continue;
        }
        let guessed = std::mem::take(&mut bridged) || sample.state == ESTIMATED;
        let Some(begin) = before.replace(*sample) else {
            continue;
        };
        let span = sample.at.wrapping_sub(begin.at) as u64;
        if span > limit {
            continue;
        }
        let guessed = guessed || begin.state == ESTIMATED;
        let slope = (sample.value - begin.value) / span as f64;
        let mut t = begin.at;
        while t < sample.at {
            let first = begin_of(t, step);
            let next = first.saturating_add(step).min(sample.at);
            while at + 1 < steps.len() && steps[at] < first {
                at += 1;
            }
            let value_at = |t: i64| begin.value + slope * (t - begin.at) as f64;
            let seconds = (next - t) as f64 / 1e3;
            let joules = (value_at(t) + value_at(next)) / 2.0 * seconds;
            // A step without any row has no place; what passes through it stays unknown.
            if let Some(sum) = sums.get_mut(at).filter(|_| steps[at] == first) {
                sum.known += seconds;
                if guessed {
                    sum.guessed += joules;
                } else {
                    sum.measured += joules;
                }
            }
            t = next;
        }
    }
}

/// The columns of one metric; parts that say nothing are left out.
fn put(
    metric: MetricId,
    is_power: bool,
    scale: Option<u8>,
    sums: &[Sums],
    columns: &mut Vec<(Key, Vec<u8>, Vec<f64>)>,
) {
    let milli = |value: f64| (value * 1e3).round() / 1e3;
    let mut column = |part, there: &dyn Fn(&Sums) -> bool, value: &dyn Fn(&Sums) -> f64| {
        if sums.iter().any(there) {
            let state = |s| if there(s) { MEASURED } else { ABSENT };
            let states = sums.iter().map(state).collect();
            let value = |s| if there(s) { value(s) } else { 0.0 };
            let key = Key { metric, part };
            columns.push((key, states, sums.iter().map(value).collect()));
        }
    };
    let valued = |s: &Sums| s.count > 0;
    column(Part::Min, &valued, &|s| s.min);
    column(Part::Max, &valued, &|s| s.max);
    column(Part::Sum, &valued, &|s| match scale {
        Some(scale) => s.exact as f64 / power(scale),
        None => s.sum,
    });
    column(Part::Count, &valued, &|s| f64::from(s.count));
    column(Part::Last, &valued, &|s| s.last);
    column(Part::Estimated, &|s| s.estimated > 0, &|s| {
        f64::from(s.estimated)
    });
    column(Part::Missing, &|s| s.missing > 0, &|s| f64::from(s.missing));
    if is_power {
        let known = |s: &Sums| s.known > 0.0;
        column(Part::MeasuredJoules, &known, &|s| milli(s.measured));
        column(Part::EstimatedJoules, &|s| s.guessed != 0.0, &|s| {
            milli(s.guessed)
        });
        column(Part::KnownSeconds, &known, &|s| s.known);
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
