//! For how long a breaker surely bears more than its rating: its manufacturer's
//! inverse-time curve.

use serde::{Deserialize, Serialize};

/// What standards promise of any breaker that keeps them: 1.05 times its
/// rating for an hour (IEC 60947-2, conventional non-tripping current), 2.55
/// times for a second (IEC 60898-1, table 7), nothing above.
pub const STANDARD: [(f64, f64); 2] = [(1.05, 3_600.0), (2.55, 1.0)];

/// Classes that a site file may name, and what each surely bears. The letters
/// are those of IEC 60898-1, table 7: 1.13 times for an hour, 2.55 times for a
/// second, and 3, 5 or 10 times for a tenth of a second.
pub const CLASSES: [(&str, &[(f64, f64)]); 6] = [
    ("standard", &STANDARD),
    ("none", &[]),
    ("iec-60947-2", &[(1.05, 3_600.0)]),
    ("iec-60898-1-b", &[(1.13, 3_600.0), (2.55, 1.0), (3.0, 0.1)]),
    ("iec-60898-1-c", &[(1.13, 3_600.0), (2.55, 1.0), (5.0, 0.1)]),
    (
        "iec-60898-1-d",
        &[(1.13, 3_600.0), (2.55, 1.0), (10.0, 0.1)],
    ),
];

/// For how long a breaker surely bears a load: stairs, so that nothing is
/// promised between two points that the worse of them does not promise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(f64, f64)>", into = "Vec<(f64, f64)>")]
pub struct TripCurve {
    points: Vec<(f64, f64)>,
}

/// Why points are no time-current curve.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error(
    "point {place} of the time-current curve is ({multiple} × rating, {seconds} s); multiples must rise from 1, seconds must fall and not be negative"
)]
pub struct NotACurve {
    place: usize,
    multiple: f64,
    seconds: f64,
}

impl TryFrom<Vec<(f64, f64)>> for TripCurve {
    type Error = NotACurve;

    fn try_from(points: Vec<(f64, f64)>) -> Result<Self, NotACurve> {
        Self::new(&points)
    }
}

impl From<TripCurve> for Vec<(f64, f64)> {
    fn from(curve: TripCurve) -> Self {
        curve.points
    }
}

impl Default for TripCurve {
    fn default() -> Self {
        Self {
            points: STANDARD.to_vec(),
        }
    }
}

impl TripCurve {
    /// From (multiple of the rating, seconds that it is surely borne).
    ///
    /// # Errors
    /// When the multiples do not rise or the seconds do not fall.
    pub fn new(points: &[(f64, f64)]) -> Result<Self, NotACurve> {
        let (mut above, mut below) = (1.0, f64::INFINITY);
        for (place, (multiple, seconds)) in points.iter().copied().enumerate() {
            let sound = multiple.is_finite() && multiple > above && seconds >= 0.0;
            if !(sound && seconds < below) {
                return Err(NotACurve {
                    place,
                    multiple,
                    seconds,
                });
            }
            (above, below) = (multiple, seconds);
        }
        Ok(Self {
            points: points.to_vec(),
        })
    }

    /// One of [`CLASSES`] by its name.
    pub fn of_class(name: &str) -> Option<Self> {
        let class = CLASSES.iter().find(|(class, _)| *class == name);
        class.map(|(_, points)| Self {
            points: points.to_vec(),
        })
    }

    /// Its points: (multiple of the rating, seconds that it is surely borne), by
    /// rising multiple.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// Seconds for which a load, as a multiple of the rating, is surely borne.
    pub fn holds(&self, load: f64) -> f64 {
        if load <= 1.0 {
            return f64::INFINITY;
        }
        // A load that is no number is not borne at all.
        let step = self.points.iter().find(|(multiple, _)| load <= *multiple);
        step.map_or(0.0, |(_, seconds)| *seconds)
    }

    /// Share of what the breaker bears that a row of loads (multiple of the
    /// rating, seconds) uses up when it cannot cool in between; above 1 it may trip.
    pub fn used(&self, loads: &[(f64, f64)]) -> f64 {
        let lasting = loads
            .iter()
            .filter(|(load, seconds)| *seconds > 0.0 && self.holds(*load).is_finite());
        lasting
            .map(|(load, seconds)| seconds / self.holds(*load))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_a_curve_and_bears_no_more_above() {
        for (name, points) in CLASSES {
            let made = TripCurve::new(points).map_err(|fault| format!("{name}: {fault}"));
            assert_eq!(made, TripCurve::of_class(name).ok_or(String::new()));
            let curve = TripCurve {
                points: points.to_vec(),
            };
            let loads = [1.0, 1.04, 1.1, 1.3, 2.0, 2.6, 4.0, 6.0, 11.0];
            assert!(
                loads
                    .windows(2)
                    .all(|l| curve.holds(l[0]) >= curve.holds(l[1]))
            );
            assert_eq!(curve.holds(1.0), f64::INFINITY);
            assert_eq!(curve.holds(11.0), 0.0);
        }
        assert_eq!(TripCurve::of_class("iec-60898-1-z"), None);
    }

    #[test]
    fn points_that_rise_or_fall_the_wrong_way_are_no_curve() {
        for points in [
            &[(1.0, 60.0)][..],
            &[(1.2, 60.0), (1.1, 30.0)],
            &[(1.2, 60.0), (1.3, 60.0)],
            &[(1.2, -1.0)],
            &[(f64::NAN, 1.0)],
            &[(1.2, f64::NAN)],
        ] {
            assert!(TripCurve::new(points).is_err(), "{points:?}");
        }
    }
}
