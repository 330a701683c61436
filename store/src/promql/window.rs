//! Functions of the samples in a window, as Prometheus computes them.

use super::data::{ABSENT, Row, Samples, is_there};
use super::plan::{Grid, WindowFn, window_start};
use super::stats::{NeumaierSum, quantile, variance};
use super::{Dialect, labels::Labels};

/// The samples of one window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window<'a> {
    /// Milliseconds, rising; as many as values, at least one.
    pub times: &'a [i64],
    pub values: &'a [f64],
    /// Begin and end of the window.
    pub start: i64,
    pub end: i64,
}

/// How windows lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lay {
    pub references: Grid,
    /// Milliseconds.
    pub reach: i64,
    pub closed: bool,
}

/// One value per instant of `count`; where there is only one window it counts for all of them.
pub(super) fn row(
    samples: &Samples,
    lay: Lay,
    count: usize,
    mut value: impl FnMut(usize, Window<'_>) -> Option<f64>,
) -> Row {
    let (times, values): (Vec<i64>, Vec<f64>) = (samples.times.iter())
        .zip(&samples.values)
        .filter(|(_, v)| is_there(**v))
        .map(|(t, v)| (*t, *v))
        .unzip();
    let (mut from, mut to) = (0, 0);
    let mut out = Vec::with_capacity(count);
    for index in 0..count {
        let end = if lay.references.count == 1 {
            lay.references.start
        } else {
            lay.references.at(index)
        };
        let first = window_start(end, lay.reach, lay.closed);
        while times.get(from).is_some_and(|t| *t < first) {
            from += 1;
        }
        to = to.max(from);
        while times.get(to).is_some_and(|t| *t <= end) {
            to += 1;
        }
        let found = (from < to).then(|| Window {
            times: &times[from..to],
            values: &values[from..to],
            start: end.saturating_sub(lay.reach),
            end,
        });
        out.push(found.and_then(|w| value(index, w)).unwrap_or(ABSENT));
    }
    Row {
        labels: samples.labels.clone(),
        values: out,
    }
}

/// The labels of a function's result.
pub(super) fn labels(function: WindowFn, labels: &Labels) -> Labels {
    if function == WindowFn::Last {
        labels.clone()
    } else {
        labels.nameless()
    }
}

/// The function's value of a window; `param` is the quantile where one is asked for.
pub(super) fn apply(
    function: WindowFn,
    param: f64,
    w: Window<'_>,
    dialect: Dialect,
) -> Option<f64> {
    let count = w.values.len() as f64;
    match function {
        WindowFn::Rate => {
            let seconds = (w.end - w.start) as f64 / 1_000.0;
            extrapolated(w, true, dialect).map(|growth| growth / seconds)
        }
        WindowFn::Increase => extrapolated(w, true, dialect),
        WindowFn::Delta => extrapolated(w, false, dialect),
        WindowFn::Irate => {
            let (before, last, seconds) = last_two(w)?;
            // A counter that fell has restarted at zero.
            let growth = if last < before { last } else { last - before };
            Some(growth / seconds)
        }
        WindowFn::Idelta => last_two(w).map(|(before, last, _)| last - before),
        WindowFn::Avg => {
            let mut sum = NeumaierSum::default();
            w.values.iter().for_each(|v| sum.add(*v));
            Some(sum.value() / count)
        }
        WindowFn::Sum => {
            let mut sum = NeumaierSum::default();
            w.values.iter().for_each(|v| sum.add(*v));
            Some(sum.value())
        }
        WindowFn::Min => extreme(w.values, |new, known| new < known),
        WindowFn::Max => extreme(w.values, |new, known| new > known),
        WindowFn::Count => Some(count),
        WindowFn::Last => w.values.last().copied(),
        WindowFn::Present => Some(1.0),
        WindowFn::Quantile => Some(quantile(param, &mut w.values.to_vec())),
        WindowFn::Stdvar => Some(variance(w.values)),
        WindowFn::Stddev => Some(variance(w.values).sqrt()),
        WindowFn::Changes => Some(pairs(w.values, |a, b| {
            a != b && !(a.is_nan() && b.is_nan())
        })),
        WindowFn::Resets => Some(pairs(w.values, |a, b| b < a)),
        WindowFn::Deriv => slope(w),
    }
}

fn pairs(values: &[f64], counts: impl Fn(f64, f64) -> bool) -> f64 {
    values.windows(2).filter(|p| counts(p[0], p[1])).count() as f64
}

/// The last value but one, the last, and the seconds between.
fn last_two(w: Window<'_>) -> Option<(f64, f64, f64)> {
    let n = w.values.len();
    (n >= 2).then(|| {
        let seconds = (w.times[n - 1] - w.times[n - 2]) as f64 / 1_000.0;
        (w.values[n - 2], w.values[n - 1], seconds)
    })
}

/// The value that is before all others; one that is a number is before NaN.
pub(super) fn extreme(values: &[f64], is_before: impl Fn(f64, f64) -> bool) -> Option<f64> {
    (values.iter().copied()).reduce(|known, new| {
        if is_before(new, known) || known.is_nan() {
            new
        } else {
            known
        }
    })
}

/// Growth over a window, extrapolated to its ends where the samples come close
/// to them (within 1.1 mean spacings), else by half a spacing; a counter is not
/// extrapolated below zero. After Prometheus' `extrapolatedRate` (promql/functions.go).
fn extrapolated(w: Window<'_>, is_counter: bool, dialect: Dialect) -> Option<f64> {
    let n = w.values.len();
    if n < 2 {
        return None;
    }
    let (first, last) = (w.values[0], w.values[n - 1]);
    let mut growth = last - first;
    if is_counter {
        for pair in w.values.windows(2) {
            if pair[1] < pair[0] {
                growth += pair[0];
            }
        }
    }
    let seconds = |from: i64, to: i64| (to - from) as f64 / 1_000.0;
    let sampled = seconds(w.times[0], w.times[n - 1]);
    let spacing = sampled / (n - 1) as f64;
    let threshold = spacing * 1.1;
    let capped = |to_edge: f64| {
        if to_edge < threshold {
            to_edge
        } else {
            spacing / 2.0
        }
    };
    let to_start = seconds(w.start, w.times[0]);
    // Where the counter, going on as it did, would have been zero.
    let to_zero = if is_counter && growth > 0.0 && first >= 0.0 {
        sampled * (first / growth)
    } else {
        f64::INFINITY
    };
    let before = match dialect {
        Dialect::Prometheus2 => capped(to_start.min(to_zero)),
        Dialect::Prometheus3 => capped(to_start).min(to_zero),
    };
    let after = capped(seconds(w.times[n - 1], w.end));
    Some(growth * ((sampled + before + after) / sampled))
}

/// Slope per second of the least-squares line.
fn slope(w: Window<'_>) -> Option<f64> {
    if w.values.len() < 2 {
        return None;
    }
    if w.values.iter().all(|v| *v == w.values[0]) {
        return Some(if w.values[0].is_finite() {
            0.0
        } else {
            f64::NAN
        });
    }
    let n = w.values.len() as f64;
    let mut sums = [NeumaierSum::default(); 4];
    for (time, value) in w.times.iter().zip(w.values) {
        let x = (time - w.times[0]) as f64 / 1_000.0;
        for (sum, term) in sums.iter_mut().zip([x, *value, x * value, x * x]) {
            sum.add(term);
        }
    }
    let [x, y, xy, xx] = sums.map(|s| s.value());
    Some((xy - x * y / n) / (xx - x * x / n))
}
