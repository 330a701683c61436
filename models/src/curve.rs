//! How fast a job runs under a power cap, as the optimizer sees it.

use crate::quantity::Watts;
use serde::{Deserialize, Serialize};

/// Bounds of a curve that is read from outside; no device and no job comes near.
const MOST_POINTS: usize = 1_000;
const NO_POINTS: &str = "it needs 1 to 1,000 points of [cap in watts, relative speed]";
const MOST_WATTS: f64 = 1e6;
const MOST_SPEED: f64 = 1e3;
/// A curve may bend upwards by this share of its highest speed: by rounding.
const ROUNDING: f64 = 1e-6;

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

    /// What is wrong with a curve that was read from outside, so that none can be
    /// made of it.
    pub fn fault(&self) -> Option<&'static str> {
        let sound = |value: f64, most: f64| (0.0..=most).contains(&value);
        let points = &self.points;
        if points.is_empty() || points.len() > MOST_POINTS {
            return Some(NO_POINTS);
        }
        if !points
            .iter()
            .all(|(w, s)| sound(w.0, MOST_WATTS) && sound(*s, MOST_SPEED))
        {
            return Some("caps must be 0 to 1,000,000 W and speeds 0 to 1,000 (1 is uncapped)");
        }
        None
    }

    /// A curve that was read from outside, as it may be used: the least concave one
    /// above its points.
    ///
    /// # Errors
    /// What is wrong with it, where no curve can be made of it.
    pub fn mended(&self) -> Result<Self, &'static str> {
        match self.fault() {
            Some(fault) => Err(fault),
            None => Self::envelope(&self.points).ok_or(NO_POINTS),
        }
    }

    /// Whether it rises and bends down only.
    pub fn is_concave(&self) -> bool {
        let points = &self.points;
        let rises = |p: &[(Watts, f64)]| p[0].0 < p[1].0 && p[0].1 <= p[1].1;
        let slope = |a: &(Watts, f64), b: &(Watts, f64)| (b.1 - a.1) / (b.0 - a.0).0;
        let top = points.last().map_or(0.0, |p| p.1);
        points.windows(2).all(rises)
            && points.windows(3).all(|p| {
                // What the next point may lie above the line through the two before it.
                let line = p[1].1 + slope(&p[0], &p[1]) * (p[2].0 - p[1].0).0;
                p[2].1 <= line + ROUNDING * top
            })
    }

    /// The same, stated from this cap on. Below the first point nobody knows: speed
    /// falls there as along the first stretch or in proportion to the cap, whichever
    /// is faster, so that nobody counts on a speed that was never seen.
    #[must_use]
    pub fn stated_from(self, low: Watts) -> Self {
        let [(from, speed), rest @ ..] = self.points.as_slice() else {
            return self;
        };
        if *from <= low || *speed <= 0.0 {
            return self;
        }
        let first = (rest.first()).map_or(0.0, |(w, s)| (s - speed) / (*w - *from).0);
        let slope = first.max(speed / from.0);
        let least = (speed - slope * (*from - low).0).max(0.0);
        let mut points = Vec::with_capacity(self.points.len() + 1);
        points.push((low, least));
        points.extend_from_slice(&self.points);
        let stated = Self { points };
        // A first stretch that would end below no speed at all bends upwards there.
        match stated.is_concave() {
            true => stated,
            false => Self::envelope(&stated.points).unwrap_or(self),
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
            prop_assert!(curve.is_concave() && curve.mended().is_ok());
            let (low, before) = (Watts(20.0), curve.clone());
            let curve = curve.stated_from(low);
            prop_assert!(curve.is_concave() && curve.speed(low) >= 0.0);
            for (w, _) in &points {
                prop_assert!(curve.speed(*w) >= before.speed(*w) - 1e-12);
            }
        }
    }

    #[test]
    fn what_comes_from_outside_is_held_against_sense() {
        let of = |points: &str| serde_json::from_str::<SpeedCurve>(points).unwrap();
        for (points, mended) in [
            ("[[0,1]]", "[[0,1]]"),
            (
                "[[200,0.5],[450,0.9],[700,1]]",
                "[[200,0.5],[450,0.9],[700,1]]",
            ),
            // Measured curves are neither concave nor monotone.
            ("[[700,0.5],[200,1]]", "[[200,1],[700,1]]"),
            ("[[200,0.1],[450,0.2],[700,1]]", "[[200,0.1],[700,1]]"),
        ] {
            assert_eq!(of(points).mended().unwrap(), of(mended), "{points}");
            assert_eq!(of(points).is_concave(), points == mended, "{points}");
        }
        for (points, fault) in [
            ("[]", "1 to 1,000 points"),
            ("[[200,0.1],[700,1e308]]", "speeds 0 to 1,000"),
            ("[[-1,0.1],[700,1]]", "caps must be 0"),
            ("[[200,-0.1],[700,1]]", "speeds 0 to 1,000"),
        ] {
            assert!(of(points).mended().unwrap_err().contains(fault), "{points}");
        }
    }

    #[test]
    fn below_its_first_point_speed_is_not_made_up() {
        let of = |points: &[(f64, f64)]| SpeedCurve {
            points: points.iter().map(|(w, s)| (Watts(*w), *s)).collect(),
        };
        let low = Watts(200.0);
        // In proportion to the cap, or along a first stretch that is steeper.
        assert_eq!(
            of(&[(400.0, 0.6), (700.0, 1.0)])
                .stated_from(low)
                .speed(low),
            0.3
        );
        let steep = of(&[(400.0, 0.6), (450.0, 0.9)]).stated_from(low);
        assert_eq!(steep.speed(low), 0.0);
        assert!(steep.is_concave());
        assert_eq!(
            of(&[(700.0, 1.0)]).stated_from(low).points(),
            [(low, 2.0 / 7.0), (Watts(700.0), 1.0)]
        );
        for same in [of(&[(200.0, 0.5), (700.0, 1.0)]), SpeedCurve::unaffected()] {
            assert_eq!(same.clone().stated_from(low), same);
        }
    }
}
