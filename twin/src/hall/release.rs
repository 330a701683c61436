//! When a breaker lets go, as this referee reads its curve.
//!
//! Where the site file states a time-current curve, the breaker here is the
//! worst that keeps its maker's word: it bears a load for exactly as long as the
//! next stated point at or above it says, and lets go the moment after; above the
//! last point it lets go at once. Loads one after the other use up what is borne
//! in parts: half of one time and half of another are all.
//!
//! Where the file states none, heat grows with `(P / rating)² - 1.05²` and the
//! breaker lets go at 63.4: 1.25 times the rating trips after 138 s and double
//! after 22 s, never later than IEC 60898 demands of a thermal release (1.45
//! times within an hour, 2.55 times within a minute). From 5 times the rating on,
//! where class B has let go, it trips at once.
//!
//! Either kind cools at or below its rating as the second one does: at half the
//! rating in 74 s, at the rating itself in ten minutes.
//!
//! Architecture invariant: nothing here is shared with what control decides by.
//! From `models` come the stated points, and nothing that is worked out from them.

use heliostat_models::site::trip::TripCurve;

const TRIP_FROM: f64 = 1.05;
const TRIP_HEAT: f64 = 63.4;
/// Multiple of the rating at which the magnetic release lets go at once.
const TRIP_AT_ONCE: f64 = 5.0;
/// What the rounding of sums may add to a load or a share.
const ROUNDING: f64 = 1e-9;

/// What makes a breaker let go.
#[derive(Clone, Debug)]
pub(super) struct Release {
    /// Multiples of the rating and the seconds for which they are borne, where
    /// the site file states them.
    stated: Option<Vec<(f64, f64)>>,
    /// How far it is heated through; above 1 it lets go.
    heated: f64,
}

impl Release {
    /// A cold one, by the curve that the site file states.
    pub(super) fn new(stated: Option<&TripCurve>) -> Self {
        Self {
            stated: stated.map(|curve| curve.points().to_vec()),
            heated: 0.0,
        }
    }

    /// Carries a load, as a multiple of the rating, for so many seconds; whether
    /// it lets go. It is cold again then.
    pub(super) fn carry(&mut self, load: f64, seconds: f64) -> bool {
        let above = load > 1.0 + ROUNDING;
        let at_once = match &self.stated {
            Some(points) if above => {
                let borne = borne(points, load);
                self.heated += seconds / borne.max(f64::MIN_POSITIVE);
                borne <= 0.0 && seconds > 0.0
            }
            _ => {
                self.heated += seconds * (load * load - TRIP_FROM * TRIP_FROM) / TRIP_HEAT;
                self.stated.is_none() && load >= TRIP_AT_ONCE
            }
        };
        self.heated = self.heated.max(0.0);
        // What is no number is no load that anybody could bear.
        let lets_go = at_once || self.heated > 1.0 + ROUNDING || load.is_nan();
        if lets_go {
            self.cool();
        }
        lets_go
    }

    /// Makes it cold.
    pub(super) fn cool(&mut self) {
        self.heated = 0.0;
    }
}

/// Seconds for which a load above the rating is borne.
fn borne(points: &[(f64, f64)], load: f64) -> f64 {
    let mut borne = 0.0;
    for (multiple, seconds) in points.iter().rev() {
        if load > multiple + ROUNDING {
            break;
        }
        borne = *seconds;
    }
    borne
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn curve(points: &[(f64, f64)]) -> TripCurve {
        TripCurve::new(points).unwrap()
    }

    /// Tenths of a second until a cold breaker lets go; `None`: not within a day.
    fn tenths(stated: Option<&TripCurve>, load: f64) -> Option<u64> {
        let mut release = Release::new(stated);
        (1..864_000).find(|_| release.carry(load, 0.1))
    }

    #[test]
    fn just_below_the_curve_it_bears_and_just_above_it_trips() {
        let slow = curve(&[(1.05, 3_600.0), (1.25, 120.0), (2.0, 20.0)]);
        for (load, seconds) in [
            (1.05, 3_600.0),
            (1.25, 120.0),
            (2.0, 20.0),
            (1.1, 120.0),
            (1.3, 20.0),
        ] {
            let mut release = Release::new(Some(&slow));
            assert!(
                !release.carry(load, seconds),
                "{load} for {seconds} s is stated to be borne"
            );
            assert!(
                release.carry(load, 0.01),
                "{load} for longer than {seconds} s is not"
            );
        }
        // Just above a stated multiple the next one counts, above the last none.
        assert_eq!(tenths(Some(&slow), 1.2499), Some(1_201));
        assert_eq!(tenths(Some(&slow), 1.2501), Some(201));
        assert_eq!(tenths(Some(&slow), 1.9999), Some(201));
        assert_eq!(tenths(Some(&slow), 2.0001), Some(1));
        assert_eq!(tenths(Some(&slow), 1.0), None);
        let none = TripCurve::of_class("none").unwrap();
        assert_eq!(
            (tenths(Some(&none), 1.0), tenths(Some(&none), 1.001)),
            (None, Some(1))
        );
    }

    #[test]
    fn unlike_breakers_judge_the_same_load_unlike() {
        let fast = curve(&[(1.5, 2.0)]);
        let slow = curve(&[(1.5, 50.0)]);
        let seconds = |c: Option<&TripCurve>| tenths(c, 1.25).unwrap() as f64 / 10.0;
        assert!((2.0..2.2).contains(&seconds(Some(&fast))));
        assert!((50.0..50.2).contains(&seconds(Some(&slow))));
        // The built-in one, where none is stated.
        assert!((137.0..139.0).contains(&seconds(None)));
    }

    #[test]
    fn parts_of_what_is_borne_add_up_and_cool_away() {
        let curve = curve(&[(1.2, 100.0), (1.5, 10.0)]);
        let mut release = Release::new(Some(&curve));
        assert!(!release.carry(1.1, 60.0));
        assert!(!release.carry(1.4, 3.9));
        assert!(release.carry(1.4, 0.2), "six tenths and four");
        assert!(!release.carry(1.1, 60.0), "cold again");
        assert!(!release.carry(0.5, 75.0));
        assert!(!release.carry(1.1, 99.0), "and once more");
        assert!(release.carry(f64::NAN, 1.0));
    }

    proptest! {
        /// Against the statement itself: a constant load trips in the second after
        /// the one that is stated, however the time is cut up.
        #[test]
        fn a_constant_load_is_borne_for_as_long_as_is_stated(
            steps in prop::collection::vec((0.01..0.5f64, 0.2..0.9f64), 1..6),
            load in 1.001..4.0f64,
            parts in 1u32..40,
        ) {
            let (mut multiple, mut seconds) = (1.0, 3_600.0);
            let points: Vec<(f64, f64)> = (steps.iter())
                .map(|(up, down)| {
                    multiple += up;
                    seconds *= down;
                    (multiple, seconds)
                })
                .collect();
            let stated = curve(&points);
            let borne = points.iter().filter(|(m, _)| load <= *m).map(|(_, s)| *s).fold(0.0, f64::max);
            let mut release = Release::new(Some(&stated));
            if borne > 0.0 {
                for _ in 0..parts {
                    prop_assert!(!release.carry(load, borne / f64::from(parts)));
                }
            }
            prop_assert!(release.carry(load, 0.01 * borne.max(0.1)));
        }
    }
}
