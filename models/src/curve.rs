//! How fast a job runs under a power cap, as the optimizer sees it.

use crate::quantity::Watts;
use serde::{Deserialize, Serialize};

/// A piecewise linear, non-decreasing, concave curve from the cap of each
/// device of a gang (watts) to the gang's relative speed (1 = uncapped).
/// Measured curves are neither concave nor monotone; [`SpeedCurve::envelope`]
/// makes the smallest such curve that lies above the points it is given.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpeedCurve {
    points: Vec<(Watts, f64)>,
}

/// A stretch of a curve with one slope.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// Cap where the stretch begins.
    pub from: Watts,
    /// Cap where it ends.
    pub to: Watts,
    /// Relative speed gained per watt of cap.
    pub slope: f64,
}

impl Clone for SpeedCurve {
    fn clone(&self) -> Self {
        let points = self.points.clone();
        Self { points }
    }

    /// Into the memory that is there.
    fn clone_from(&mut self, other: &Self) {
        self.points.clone_from(&other.points);
    }
}

impl SpeedCurve {
    /// The least concave non-decreasing curve above `points` (cap, relative
    /// speed). `None` when fewer than one finite point is given.
    pub fn envelope(points: &[(Watts, f64)]) -> Option<Self> {
        let mut sorted: Vec<(Watts, f64)> = points
            .iter()
            .copied()
            .filter(|(w, s)| w.is_finite() && s.is_finite())
            .collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut best = f64::NEG_INFINITY;
        let mut hull: Vec<(Watts, f64)> = Vec::with_capacity(sorted.len());
        for (w, s) in sorted {
            // More power never hurts: a device may always draw less than its cap.
            best = best.max(s);
            while hull.last().is_some_and(|last| last.0 == w) {
                hull.pop();
            }
            while hull.len() >= 2 {
                let (a, b) = (hull[hull.len() - 2], hull[hull.len() - 1]);
                let before = (b.1 - a.1) * (w.0 - a.0.0);
                let after = (best - a.1) * (b.0.0 - a.0.0);
                if before <= after {
                    hull.pop();
                } else {
                    break;
                }
            }
            hull.push((w, best));
        }
        if hull.is_empty() {
            None
        } else {
            Some(Self { points: hull })
        }
    }

    /// Of a job that no cap slows: full speed everywhere.
    pub fn unaffected() -> Self {
        Self {
            points: vec![(Watts::ZERO, 1.0)],
        }
    }

    /// The corner points, by rising cap.
    pub fn points(&self) -> &[(Watts, f64)] {
        &self.points
    }

    /// Relative speed at a cap; constant beyond both ends.
    pub fn speed(&self, cap: Watts) -> f64 {
        let points = &self.points;
        let upper = points.partition_point(|(w, _)| *w < cap);
        if upper == 0 {
            return points[0].1;
        }
        if upper == points.len() {
            return points[upper - 1].1;
        }
        let ((w0, s0), (w1, s1)) = (points[upper - 1], points[upper]);
        s0 + (s1 - s0) * ((cap - w0) / (w1 - w0))
    }

    /// The stretches between `low` and `high`, by falling slope. Stretches of
    /// slope zero are left out: a watt there buys nothing.
    pub fn segments(&self, low: Watts, high: Watts) -> impl Iterator<Item = Segment> + '_ {
        self.points.windows(2).filter_map(move |pair| {
            let ((w0, s0), (w1, s1)) = (pair[0], pair[1]);
            let slope = (s1 - s0) / (w1 - w0).0;
            let (from, to) = (w0.max(low), w1.min(high));
            (from < to && slope > 0.0).then_some(Segment { from, to, slope })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn envelope_is_concave_monotone_and_above(points in prop::collection::vec((50.0..800.0f64, 0.0..1.2f64), 1..12)) {
            let points: Vec<_> = points.into_iter().map(|(w, s)| (Watts(w), s)).collect();
            let curve = SpeedCurve::envelope(&points).unwrap();
            for (w, s) in &points {
                prop_assert!(curve.speed(*w) >= s - 1e-9);
            }
            let slopes: Vec<f64> = curve.points().windows(2).map(|p| (p[1].1 - p[0].1) / (p[1].0 - p[0].0).0).collect();
            prop_assert!(slopes.iter().all(|s| *s >= -1e-12));
            prop_assert!(slopes.windows(2).all(|s| s[1] <= s[0] + 1e-9));
        }
    }
}
