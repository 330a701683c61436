//! Condensing: the rows of a device become the rows of its rollups.
//!
//! Sums are taken over the decimals that the values are, so that they are exact.
//! Energy is the trapezoid between neighbouring values of one file, over gaps no
//! longer than [`GAP_LIMIT`](super::steps::GAP_LIMIT) median spacings.

use super::bucket::{Bucket, NOTHING};
use super::codec::{ABSENT, ESTIMATED, MEASURED, has_value};
use super::decimal::{MAX_SCALE, fit, power};
use super::head::Sample;
use super::manifest::Tier;
use super::segment::schema::{Key, Part};
use super::segment::{OwnedRows, Rows};
use super::steps::Spacings;
use heliostat_models::metrics::MetricKind;
use heliostat_models::{Catalogue, MetricId};

/// Begin of the step that an instant lies in.
fn begin_of(at: i64, step: i64) -> i64 {
    at.checked_sub(at.rem_euclid(step)).unwrap_or(i64::MIN)
}

/// Begins of the steps that instants lie in.
fn steps_of(times: &[i64], step: i64) -> Vec<i64> {
    let mut steps: Vec<i64> = times.iter().map(|at| begin_of(*at, step)).collect();
    steps.dedup();
    steps
}

/// The rows of one device, condensed to each rollup, from the coarsest to the finest.
pub fn condense(rows: &Rows<'_>, catalogue: &Catalogue) -> Vec<(Tier, OwnedRows)> {
    let step = Tier::Minute.step_ms();
    let minutes = steps_of(rows.times, step);
    // Where the rows of each minute end.
    let ends: Vec<usize> = (rows.times.iter().enumerate().skip(1))
        .filter(|(row, at)| begin_of(**at, step) != begin_of(rows.times[row - 1], step))
        .map(|(row, _)| row)
        .chain([rows.times.len()])
        .collect();
    let mut condensed: Vec<(Tier, OwnedRows)> = (Tier::ROLLUPS.into_iter())
        .map(|tier| {
            let times = steps_of(&minutes, tier.step_ms());
            let columns = Vec::new();
            (tier, OwnedRows { times, columns })
        })
        .collect();
    for (key, states, values) in &rows.columns {
        if key.part != Part::Value || states.iter().all(|s| *s == ABSENT) {
            continue;
        }
        let metric = catalogue.metric(key.metric);
        let is_power = metric.unit == "W" && metric.kind == MetricKind::Gauge;
        let traced = metric.kind != MetricKind::Gauge;
        let decimals = decimals(states, values);
        let buckets = add_up(rows.times, &minutes, &ends, (states, values), &decimals);
        for (tier, rollup) in &mut condensed {
            let mut buckets = if *tier == Tier::Minute {
                buckets.clone()
            } else {
                bring_together(&minutes, &buckets, &rollup.times, tier.step_ms())
            };
            if is_power {
                let step = (rollup.times.as_slice(), tier.step_ms());
                integrate(rows.times, step, states, values, &mut buckets);
            }
            let what = What {
                metric: key.metric,
                is_power,
                traced,
                scale: decimals.as_ref().map(|(scale, _)| *scale),
            };
            put(what, &rollup.times, &buckets, &mut rollup.columns);
        }
    }
    condensed
}

/// The smallest scale at which all values are decimals, and the decimals.
fn decimals(states: &[u8], values: &[f64]) -> Option<(u8, Vec<i64>)> {
    let mut scale = 0;
    let mut integers = Vec::with_capacity(values.len());
    while integers.len() < values.len() {
        let row = integers.len();
        if !has_value(*states.get(row)?) {
            integers.push(0);
        } else if let Some(integer) = fit(values[row], scale) {
            integers.push(integer);
        } else if scale < MAX_SCALE {
            // What fitted a scale may not fit the next: from the begin.
            scale += 1;
            integers.clear();
        } else {
            return None;
        }
    }
    Some((scale, integers))
}

fn add_up(
    times: &[i64],
    begins: &[i64],
    ends: &[usize],
    (states, values): (&[u8], &[f64]),
    decimals: &Option<(u8, Vec<i64>)>,
) -> Vec<Bucket> {
    let mut buckets = vec![NOTHING; begins.len()];
    let mut start = 0;
    for ((bucket, begin), end) in buckets.iter_mut().zip(begins).zip(ends) {
        for row in start..*end {
            let (at, state, value) = (times[row], states[row], values[row]);
            let exact = decimals.as_ref().map_or(0, |(_, integers)| integers[row]);
            bucket.push(*begin, Sample { at, state, value }, exact);
        }
        start = *end;
    }
    buckets
}

/// Longer steps from shorter ones.
fn bring_together(begins: &[i64], buckets: &[Bucket], steps: &[i64], step: i64) -> Vec<Bucket> {
    let mut longer = vec![NOTHING; steps.len()];
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
    longer
}

/// Energy between neighbouring values, split at the borders of the steps.
fn integrate(
    times: &[i64],
    (steps, step): (&[i64], i64),
    states: &[u8],
    values: &[f64],
    buckets: &mut [Bucket],
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
            if let Some(bucket) = buckets.get_mut(at).filter(|_| steps[at] == first) {
                bucket.known += seconds;
                if guessed {
                    bucket.guessed += joules;
                } else {
                    bucket.measured += joules;
                }
            }
            t = next;
        }
    }
}

/// What is known of a metric whose buckets become columns.
#[derive(Clone, Copy)]
struct What {
    metric: MetricId,
    is_power: bool,
    /// Whether neighbouring steps are joined to each other, as of counters.
    traced: bool,
    /// Digits behind the point of all its values.
    scale: Option<u8>,
}

impl What {
    fn sum(self, bucket: &Bucket) -> f64 {
        match self.scale {
            Some(scale) => bucket.exact as f64 / power(scale),
            None => bucket.sum,
        }
    }

    fn inside_sum(self, bucket: &Bucket) -> f64 {
        let edge = self.scale.and_then(|scale| fit(bucket.edge.value, scale));
        match (self.scale, edge) {
            (Some(scale), Some(edge)) => bucket.exact.saturating_sub(edge) as f64 / power(scale),
            _ => bucket.inside[0],
        }
    }
}

/// Whether the whole without the edge says what is inside; to the rounding of a
/// sum of doubles.
fn tells_inside(whole: f64, edge: f64, inside: f64) -> bool {
    (whole - edge - inside).abs() <= 1e-13 * inside.abs()
}

/// State and value of a row, of a step and its number; none where it says nothing.
type CellOf<'a> = dyn Fn(usize, &Bucket) -> Option<(u8, f64)> + 'a;

/// The columns of one metric; parts that say nothing are left out.
fn put(
    what: What,
    begins: &[i64],
    buckets: &[Bucket],
    columns: &mut Vec<(Key, Vec<u8>, Vec<f64>)>,
) {
    let mut column = |part, of: &CellOf<'_>| {
        let found = || buckets.iter().enumerate().map(|(row, b)| of(row, b));
        if found().any(|cell| cell.is_some()) {
            let metric = what.metric;
            let cells = found().map(|cell| cell.unwrap_or((ABSENT, 0.0)));
            let (states, values) = cells.unzip();
            columns.push((Key { metric, part }, states, values));
        }
    };
    let some = |there: bool, value: f64| there.then_some((MEASURED, value));
    let valued = |b: &Bucket| b.count > 0;
    column(Part::Min, &|_, b| some(valued(b), b.min));
    column(Part::Max, &|_, b| some(valued(b), b.max));
    column(Part::Sum, &|_, b| some(valued(b), what.sum(b)));
    column(Part::Count, &|_, b| some(valued(b), f64::from(b.count)));
    column(Part::Last, &|_, b| {
        let state = |s: u8| if what.traced { s } else { MEASURED };
        b.last.map(|s| (state(s.state), s.value))
    });
    let some_count = |count: u32| some(count > 0, f64::from(count));
    column(Part::Estimated, &|_, b| some_count(b.estimated));
    column(Part::Missing, &|_, b| some_count(b.missing));
    column(Part::Edge, &|_, b| {
        (b.edge.state != ABSENT).then_some((b.edge.state, b.edge.value))
    });
    // Where the edge is the smallest or largest of all, or drowns the sum.
    let parted = |b: &Bucket| has_value(b.edge.state) && b.first.is_some();
    let differ = |a: f64, b: f64| a.to_bits() != b.to_bits();
    column(Part::InsideSum, &|_, b| {
        let inside = what.inside_sum(b);
        let told = tells_inside(what.sum(b), b.edge.value, inside);
        some(parted(b) && !told, inside)
    });
    column(Part::InsideMin, &|_, b| {
        let [_, min, _] = b.inside;
        some(parted(b) && differ(b.min, min), min)
    });
    column(Part::InsideMax, &|_, b| {
        let [.., max] = b.inside;
        some(parted(b) && differ(b.max, max), max)
    });
    if what.traced {
        let after = |row: usize, s: Sample| s.at.wrapping_sub(begins[row]) as f64;
        column(Part::First, &|_, b| b.first.map(|s| (s.state, s.value)));
        column(Part::FirstAfter, &|row, b| {
            b.first.map(|s| (MEASURED, after(row, s)))
        });
        column(Part::LastAfter, &|row, b| {
            b.last.map(|s| (MEASURED, after(row, s)))
        });
    }
    if what.is_power {
        let milli = |value: f64| (value * 1e3).round() / 1e3;
        let known = |b: &Bucket| b.known > 0.0;
        column(Part::MeasuredJoules, &|_, b| {
            some(known(b), milli(b.measured))
        });
        column(Part::EstimatedJoules, &|_, b| {
            some(b.guessed != 0.0, milli(b.guessed))
        });
        column(Part::KnownSeconds, &|_, b| some(known(b), b.known));
    } else if what.traced {
        column(Part::Restarts, &|_, b| some(b.restarts != 0.0, b.restarts));
    }
}
