//! Points of one device become one value a step, and devices become groups:
//! for what an engine's query language cannot say exactly, and for frames that
//! are not there yet. The rules are those of [`OverTime`]: a step is
//! `[from + i*step, from + (i+1)*step)`, a missing reading makes an estimate of
//! a step that has other values, and growth belongs to the later of two values.

use crate::promql::quantile;
use crate::query::{AcrossDevices, OverTime, Point};
use heliostat_models::{Quality, Timestamp};
use std::collections::BTreeMap;

/// Gaps of at most this many median spacings are integrated over.
const GAP_LIMIT: u64 = 5;

/// The steps of a query.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Steps {
    /// Begin, inclusive, milliseconds.
    pub from: i64,
    /// End, exclusive, milliseconds.
    pub to: i64,
    /// Width in milliseconds, above 0.
    pub step: i64,
    /// What a step's value is.
    pub over_time: OverTime,
}

impl Steps {
    /// Begin of the step in which an instant lies.
    pub fn begin_of(&self, at: i64) -> i64 {
        let since = at.saturating_sub(self.from);
        self.from
            .saturating_add(since.div_euclid(self.step).saturating_mul(self.step))
    }

    /// How many steps there are, the last one perhaps cut short.
    pub fn count(&self) -> u64 {
        let span = self.to.saturating_sub(self.from).max(0);
        (span as u64).div_ceil(self.step.max(1) as u64)
    }
}

#[derive(Clone, Debug)]
struct Sums {
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    last: f64,
    covered: i64,
    estimated: bool,
    incomplete: bool,
    /// All of them, where they are needed.
    values: Vec<f64>,
}

impl Default for Sums {
    fn default() -> Self {
        Self {
            count: 0,
            sum: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            last: 0.0,
            covered: 0,
            estimated: false,
            incomplete: false,
            values: Vec::new(),
        }
    }
}

/// The steps of one device; its points by rising time, none twice. A step
/// without values gives no point, but an integral says what it left out.
pub fn steps_of(points: &[Point], steps: &Steps) -> Vec<Point> {
    let mut sums: BTreeMap<i64, Sums> = BTreeMap::new();
    let inside = || (points.iter()).filter(|p| p.at.0 >= steps.from && p.at.0 < steps.to);
    match steps.over_time {
        OverTime::Increase | OverTime::Rate => grow(inside(), steps, &mut sums),
        OverTime::Integral => integrate(inside(), steps, &mut sums),
        _ => {
            for point in inside() {
                let step = sums.entry(steps.begin_of(point.at.0)).or_default();
                match point.value {
                    None => step.incomplete = true,
                    Some(value) => {
                        step.count += 1;
                        step.sum += value;
                        step.min = step.min.min(value);
                        step.max = step.max.max(value);
                        step.last = value;
                        if matches!(steps.over_time, OverTime::Quantile(_)) {
                            step.values.push(value);
                        }
                        step.estimated |= point.quality == Quality::Estimated;
                    }
                }
            }
        }
    }
    (sums.into_iter())
        .filter_map(|(begin, step)| finish(begin, step, steps.over_time))
        .collect()
}

fn finish(begin: i64, mut step: Sums, over_time: OverTime) -> Option<Point> {
    let counted = step.count > 0;
    let covered = step.covered > 0;
    let value = match over_time {
        OverTime::Avg => counted.then(|| step.sum / step.count as f64),
        OverTime::Min => counted.then_some(step.min),
        OverTime::Max => counted.then_some(step.max),
        OverTime::Sum => counted.then_some(step.sum),
        OverTime::Count => counted.then_some(step.count as f64),
        OverTime::Last => counted.then_some(step.last),
        OverTime::Increase | OverTime::Integral => covered.then_some(step.sum),
        OverTime::Rate => covered.then(|| step.sum / (step.covered as f64 / 1_000.0)),
        OverTime::Quantile(q) => counted.then(|| quantile(q, &mut step.values)),
    };
    let told = value.is_some() || (over_time == OverTime::Integral && step.incomplete);
    told.then(|| point(begin, value, step.estimated || step.incomplete))
}

fn grow<'a>(
    points: impl Iterator<Item = &'a Point>,
    steps: &Steps,
    sums: &mut BTreeMap<i64, Sums>,
) {
    let mut previous: Option<(&Point, f64)> = None;
    for point in points {
        let Some(value) = point.value else { continue };
        if let Some((before, known)) = previous.replace((point, value)) {
            let step = sums.entry(steps.begin_of(point.at.0)).or_default();
            // A drop is a restart at zero: what was counted since is the new value.
            step.sum += if value >= known { value - known } else { value };
            step.covered += point.at.0 - before.at.0;
            step.estimated |= [before.quality, point.quality].contains(&Quality::Estimated);
        }
    }
}

fn integrate<'a>(
    points: impl Iterator<Item = &'a Point> + Clone,
    steps: &Steps,
    sums: &mut BTreeMap<i64, Sums>,
) {
    let limit = gap_limit(points.clone());
    let mut previous: Option<(&Point, f64)> = None;
    let mut bridged = false;
    for point in points {
        let Some(value) = point.value else {
            bridged = true;
            continue;
        };
        let was_bridged = std::mem::take(&mut bridged);
        let Some((before, known)) = previous.replace((point, value)) else {
            continue;
        };
        let (begin, end) = (before.at.0, point.at.0);
        let span = (end - begin) as f64;
        let lost = (end - begin) as u64 > limit;
        let value_at = |t: i64| known + (value - known) * ((t - begin) as f64 / span);
        let mut t = begin;
        while t < end {
            let first = steps.begin_of(t);
            let next = first.saturating_add(steps.step).min(end);
            let step = sums.entry(first).or_default();
            if lost {
                step.incomplete = true;
            } else {
                step.sum += (value_at(t) + value_at(next)) / 2.0 * ((next - t) as f64 / 1_000.0);
                step.covered += next - t;
                step.estimated |=
                    was_bridged || [before.quality, point.quality].contains(&Quality::Estimated);
            }
            t = next;
        }
    }
}

/// [`GAP_LIMIT`] times the (lower) median spacing of the values, milliseconds.
fn gap_limit<'a>(points: impl Iterator<Item = &'a Point>) -> u64 {
    let at: Vec<i64> = points
        .filter(|p| p.value.is_some())
        .map(|p| p.at.0)
        .collect();
    let mut spacings: Vec<u64> = at
        .windows(2)
        .map(|pair| (pair[1] - pair[0]) as u64)
        .collect();
    spacings.sort_unstable();
    let middle = spacings.len().div_ceil(2).saturating_sub(1);
    spacings.get(middle).map_or(0, |median| median * GAP_LIMIT)
}

/// The steps of several devices as those of their group.
pub fn across(devices: &[Vec<Point>], how: AcrossDevices) -> Vec<Point> {
    let mut steps: BTreeMap<Timestamp, Sums> = BTreeMap::new();
    for point in devices.iter().flatten() {
        let step = steps.entry(point.at).or_default();
        // A device known to be missing makes what the others give incomplete.
        step.estimated |= point.quality != Quality::Measured;
        if let Some(value) = point.value {
            step.count += 1;
            step.sum += value;
            step.min = step.min.min(value);
            step.max = step.max.max(value);
        }
    }
    (steps.into_iter())
        .map(|(at, step)| {
            let value = (step.count > 0).then(|| match how {
                // The best few are chosen before; of one device this is its value.
                AcrossDevices::Sum | AcrossDevices::TopK(_) | AcrossDevices::BottomK(_) => step.sum,
                AcrossDevices::Avg => step.sum / step.count as f64,
                AcrossDevices::Min => step.min,
                AcrossDevices::Max => step.max,
                AcrossDevices::Count => step.count as f64,
            });
            point(at.0, value, step.estimated)
        })
        .collect()
}

/// A value at an instant, with the quality that follows.
pub fn point(at: i64, value: Option<f64>, estimated: bool) -> Point {
    let quality = match (value, estimated) {
        (None, _) => Quality::Missing,
        (Some(_), true) => Quality::Estimated,
        (Some(_), false) => Quality::Measured,
    };
    Point {
        at: Timestamp(at),
        value,
        quality,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn measured(points: &[(i64, f64)]) -> Vec<Point> {
        (points.iter())
            .map(|(at, value)| point(*at, Some(*value), false))
            .collect()
    }

    fn over(over_time: OverTime, to: i64, step: i64) -> Steps {
        Steps {
            from: 0,
            to,
            step,
            over_time,
        }
    }

    #[test]
    fn growth_belongs_to_the_later_value_and_a_restart_counts_from_zero() {
        let points = measured(&[(0, 10.0), (1_000, 14.0), (2_000, 3.0), (3_000, 5.0)]);
        let steps = steps_of(&points, &over(OverTime::Increase, 4_000, 2_000));
        assert_eq!(steps, measured(&[(0, 4.0), (2_000, 5.0)]));
    }

    #[test]
    fn an_integral_leaves_long_gaps_out_and_says_so() {
        let points = measured(&[
            (500, 100.0),
            (1_500, 200.0),
            (2_500, 200.0),
            (11_500, 300.0),
            (12_500, 300.0),
            (13_500, 300.0),
        ]);
        let steps = steps_of(&points, &over(OverTime::Integral, 14_000, 1_000));
        assert_eq!(steps[0], point(0, Some(62.5), false));
        assert_eq!(steps[2], point(2_000, Some(100.0), true));
        assert_eq!(steps[3], point(3_000, None, true));
        assert_eq!(steps.last(), Some(&point(13_000, Some(150.0), false)));
    }

    proptest! {
        /// Cutting time into steps neither adds nor loses anything.
        #[test]
        fn steps_add_up_to_the_whole(
            gaps in prop::collection::vec((1i64..4_000, -50.0..500.0f64), 1..60),
            step in 1i64..7_000,
        ) {
            let mut at = 0;
            let points: Vec<Point> = gaps.iter().map(|(gap, value)| {
                at += gap;
                point(at, Some(*value), false)
            }).collect();
            for over_time in [OverTime::Sum, OverTime::Count, OverTime::Integral] {
                let total = |step| -> f64 {
                    (steps_of(&points, &over(over_time, at + 1, step)).iter())
                        .filter_map(|p| p.value)
                        .sum()
                };
                let (cut, whole) = (total(step), total(at + 1));
                prop_assert!((cut - whole).abs() <= 1e-6 * whole.abs().max(1.0), "{cut} {whole}");
            }
        }
    }
}
