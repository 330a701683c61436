//! Getting series from the store in as many points as a chart can show.

use crate::figure::Coverage;
use crate::params::ApiError;
use crate::server::Shared;
use heliostat_models::{DeviceId, Quality, Timestamp};
use heliostat_store::Query;
use heliostat_store::query::{AcrossDevices, OverTime, Point, Selector};
use std::time::Duration;

/// Raw points that may be read for one line; beyond, the store aggregates.
const MAX_RAW: f64 = 200_000.0;

/// One device's readings, thinned to the smallest and largest of each pixel.
pub(super) async fn one(
    shared: &Shared,
    metric: &str,
    device: &DeviceId,
    from: Timestamp,
    to: Timestamp,
    pixels: u32,
) -> Result<Vec<Point>, ApiError> {
    let select = Selector {
        devices: vec![device.clone()],
        labels: Vec::new(),
    };
    let period = shared
        .app
        .site
        .control
        .sample_every
        .as_secs_f64()
        .max(0.001);
    if to.seconds_since(from) / period <= MAX_RAW {
        let query = Query::Range {
            metric: metric.to_owned(),
            select,
            from,
            to,
        };
        return Ok(thin(&first(shared, &query).await?, from, to, pixels));
    }
    let step_ms = ((to.0 - from.0) / i64::from(pixels.max(1))).max(1) as u64;
    let mut both = Vec::new();
    for over_time in [OverTime::Min, OverTime::Max] {
        let query = Query::Aggregate {
            metric: metric.to_owned(),
            select: select.clone(),
            from,
            to,
            step_ms,
            over_time,
            across: None,
            group_by: Vec::new(),
        };
        both.extend(first(shared, &query).await?);
    }
    both.sort_by_key(|p| p.at);
    Ok(both)
}

/// The sum over devices per step. A step must hold several samples of each
/// device, or their unequal instants would show as jumps. Where fewer devices
/// had a value than there are, the sum is a bound from below: it is marked as no
/// better than an estimate, and the fewest that had one are told.
pub(super) async fn sum(
    shared: &Shared,
    metric: &str,
    devices: &[DeviceId],
    from: Timestamp,
    to: Timestamp,
    pixels: u32,
) -> Result<Sum, ApiError> {
    // An empty selector would mean all devices.
    if devices.is_empty() {
        return Ok(Sum::default());
    }
    let period = shared.app.site.control.sample_every.as_millis() as u64;
    let step_ms = ((to.0 - from.0) as u64 / u64::from((pixels / 3).max(1)))
        .max(period * 4)
        .max(300_000);
    // Whole steps since the epoch, so that the line does not tremble as time goes on.
    let begin = from.floor_to(Duration::from_millis(step_ms));
    let query = |over_time, across| Query::Aggregate {
        metric: metric.to_owned(),
        select: Selector {
            devices: devices.to_vec(),
            labels: Vec::new(),
        },
        from: begin,
        to,
        step_ms,
        over_time,
        across: Some(across),
        group_by: Vec::new(),
    };
    let mut sums = first(shared, &query(OverTime::Avg, AcrossDevices::Sum)).await?;
    let counts = first(shared, &query(OverTime::Count, AcrossDevices::Count)).await?;
    let all = devices.len();
    let mut known = Vec::with_capacity(sums.len());
    for point in &mut sums {
        let count = counts
            .binary_search_by_key(&point.at, |c| c.at)
            .ok()
            .and_then(|i| counts[i].value);
        let count = count.unwrap_or(0.0) as usize;
        known.push(count);
        if count < all && point.value.is_some() {
            point.quality = point.quality.max(Quality::Estimated);
        }
    }
    // The step that is still filling says too little.
    if let Some(last) = sums.last()
        && last.at + Duration::from_millis(step_ms) > to
        && sums.len() > 1
    {
        sums.pop();
        known.pop();
    }
    Ok(Sum {
        points: sums,
        known,
        all,
    })
}

/// A sum over devices per step.
#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) points: Vec<Point>,
    /// How many devices had a value, by point.
    known: Vec<usize>,
    /// How many there are.
    all: usize,
}

impl Sum {
    /// The fewest devices that a point rests on, where that is not all.
    pub(super) fn coverage(&self) -> Option<Coverage> {
        let with_value = (self.points.iter().zip(&self.known)).filter(|(p, _)| p.value.is_some());
        let known = with_value.map(|(_, known)| *known).min()?;
        let all = self.all;
        (known < all).then_some(Coverage { known, all })
    }
    /// The points that rest on all devices; the others are missing.
    pub(super) fn whole(mut self) -> Vec<Point> {
        for (point, known) in self.points.iter_mut().zip(&self.known) {
            if *known < self.all {
                point.value = None;
                point.quality = Quality::Missing;
            }
        }
        self.points
    }
}

async fn first(shared: &Shared, query: &Query) -> Result<Vec<Point>, ApiError> {
    let answer = shared.app.store.query(query).await;
    let series = answer.map_err(|e| ApiError::store(&e))?.series();
    Ok(series
        .into_iter()
        .next()
        .map(|s| s.points)
        .unwrap_or_default())
}

/// Keeps of each pixel's points the smallest and the largest, in their order,
/// and one missing point where there was any.
pub(super) fn thin(points: &[Point], from: Timestamp, to: Timestamp, pixels: u32) -> Vec<Point> {
    if points.len() <= pixels as usize * 2 {
        return points.to_vec();
    }
    let width = ((to.0 - from.0) as f64 / f64::from(pixels.max(1))).max(1.0);
    let pixel = |p: &Point| ((p.at.0 - from.0) as f64 / width) as i64;
    points
        .chunk_by(|a, b| pixel(a) == pixel(b))
        .flat_map(|chunk| {
            let with_value = || {
                chunk
                    .iter()
                    .enumerate()
                    .filter_map(|(i, p)| Some((i, p.value?)))
            };
            let low = with_value().min_by(|a, b| a.1.total_cmp(&b.1));
            let high = with_value().max_by(|a, b| a.1.total_cmp(&b.1));
            let hole = chunk.iter().position(|p| p.value.is_none());
            let mut keep: Vec<usize> = [low.map(|l| l.0), high.map(|h| h.0), hole]
                .into_iter()
                .flatten()
                .collect();
            keep.sort_unstable();
            keep.dedup();
            keep.into_iter().map(|i| chunk[i])
        })
        .collect()
}

/// Cuts a line where a reading is missing or where time passes without one
/// (five times the median space, as the store's integrals do).
pub(super) fn stretches(points: &[Point]) -> Vec<Vec<Point>> {
    let mut spaces: Vec<i64> = points
        .windows(2)
        .map(|p| p[1].at.0 - p[0].at.0)
        .filter(|s| *s > 0)
        .collect();
    spaces.sort_unstable();
    let longest = spaces
        .get(spaces.len() / 2)
        .map_or(i64::MAX, |m| m.saturating_mul(5));
    let mut out: Vec<Vec<Point>> = Vec::new();
    let mut is_open = false;
    for point in points {
        if point.value.is_none() {
            is_open = false;
            continue;
        }
        match out.last_mut() {
            Some(line)
                if is_open
                    && line
                        .last()
                        .is_some_and(|last| point.at.0 - last.at.0 <= longest) =>
            {
                line.push(*point);
            }
            _ => out.push(vec![*point]),
        }
        is_open = true;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(at: i64, value: Option<f64>) -> Point {
        Point {
            at: Timestamp(at),
            value,
            quality: if value.is_some() {
                Quality::Measured
            } else {
                Quality::Missing
            },
        }
    }

    proptest! {
        #[test]
        fn thinning_keeps_extremes_holes_and_order(values in prop::collection::vec(prop::option::weighted(0.95, -1e6..1e6f64), 0..3_000), pixels in 1u32..200) {
            let points: Vec<_> = values.iter().enumerate().map(|(i, v)| point(i as i64 * 10, *v)).collect();
            let to = Timestamp(points.len() as i64 * 10 + 1);
            let thinned = thin(&points, Timestamp(0), to, pixels);
            prop_assert!(thinned.len() <= (pixels as usize + 1) * 3 || thinned.len() == points.len());
            prop_assert!(thinned.windows(2).all(|w| w[0].at <= w[1].at));
            let extreme = |ps: &[Point], f: fn(f64, f64) -> f64| ps.iter().filter_map(|p| p.value).reduce(f);
            prop_assert_eq!(extreme(&points, f64::max), extreme(&thinned, f64::max));
            prop_assert_eq!(extreme(&points, f64::min), extreme(&thinned, f64::min));
            let holes = |ps: &[Point]| ps.iter().any(|p| p.value.is_none());
            prop_assert_eq!(holes(&points), holes(&thinned));
        }
    }

    #[test]
    fn a_sum_of_some_devices_is_not_that_of_all() {
        let sum = Sum {
            points: vec![point(0, Some(8.0)), point(10, Some(2.0)), point(20, None)],
            known: vec![4, 1, 0],
            all: 4,
        };
        assert_eq!(sum.coverage(), Some(Coverage { known: 1, all: 4 }));
        let values: Vec<_> = sum.whole().iter().map(|p| p.value).collect();
        assert_eq!(values, [Some(8.0), None, None]);
    }

    #[test]
    fn lines_break_at_holes_and_at_silence() {
        let points = [
            point(0, Some(1.0)),
            point(10, Some(2.0)),
            point(20, None),
            point(30, Some(3.0)),
            point(40, Some(3.0)),
            point(200, Some(4.0)),
        ];
        let lengths: Vec<usize> = stretches(&points).iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 2, 1]);
    }
}
