//! The twin's own breakers. They see actual power and the site's limits, and
//! know nothing of caps, allocations or certificates.
//!
//! A **violation** is a draw above a power node's limit by more than 0.5 % for
//! longer than 2 s: shorter is within what capping hardware can follow, and
//! less is within what revenue meters tell apart. A **trip** is a draw above
//! the rating for longer than the breaker's curve allows: the site file's of that
//! breaker, and where it states none a built-in one (`release.rs`).
//! Trips are counted; the twin does not switch the load off.

use super::release::Release;
use heliostat_models::site::power::PowerNode;
use heliostat_models::site::trip::TripCurve;
use heliostat_models::{Timestamp, Watts};
use std::collections::BTreeMap;

/// Share above a limit that is not counted.
pub const TOLERANCE: f64 = 0.005;
/// Milliseconds above a limit that are not counted.
pub const GRACE_MS: i64 = 2_000;

/// A power node drew more than its limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Which power node.
    pub node: String,
    /// Since when.
    pub from: Timestamp,
    /// Until when; the present where it goes on.
    pub to: Timestamp,
    /// Most power above the limit.
    pub worst: Watts,
    /// The limit that was exceeded.
    pub limit: Watts,
}

#[derive(Clone, Debug)]
struct Breaker {
    id: String,
    limit: Watts,
    rating: Watts,
    above: Option<(Timestamp, Timestamp, Watts)>,
    release: Release,
}

/// All breakers of a site.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    breakers: Vec<Breaker>,
    ended: Vec<Violation>,
    trips: u64,
}

impl Breaker {
    fn violation(&self) -> Option<Violation> {
        let (from, to, worst) = self.above?;
        (to.0 - from.0 > GRACE_MS).then(|| Violation {
            node: self.id.clone(),
            from,
            to,
            worst,
            limit: self.limit,
        })
    }
}

impl Watch {
    /// Breakers at every power node; `curves` holds the time-current curves of
    /// those whose site file states one, by name.
    pub fn new(nodes: &[PowerNode], curves: &BTreeMap<String, TripCurve>) -> Self {
        let breakers = (nodes.iter())
            .map(|n| Breaker {
                id: n.id.clone(),
                limit: n.limit,
                rating: n.rating,
                above: None,
                release: Release::new(curves.get(&n.id)),
            })
            .collect();
        Self {
            breakers,
            ended: Vec::new(),
            trips: 0,
        }
    }

    /// Whether a power at any node would count, were it to last.
    pub fn exceeds(&self, flow: &[Watts]) -> bool {
        (self.breakers.iter().zip(flow)).any(|(b, p)| *p > b.limit * (1.0 + TOLERANCE))
    }

    /// Sees the power of every node over a span.
    pub fn see(&mut self, flow: &[Watts], from: Timestamp, to: Timestamp) {
        let seconds = to.seconds_since(from);
        for (breaker, power) in self.breakers.iter_mut().zip(flow) {
            if *power > breaker.limit * (1.0 + TOLERANCE) {
                let excess = *power - breaker.limit;
                breaker.above = Some(match breaker.above {
                    Some((since, _, worst)) => (since, to, worst.max(excess)),
                    None => (from, to, excess),
                });
            } else if breaker.above.is_some() {
                self.ended.extend(breaker.violation());
                breaker.above = None;
            }
            let load = *power / breaker.rating.max(Watts(1.0));
            if breaker.release.carry(load, seconds) {
                self.trips += 1;
            }
        }
    }

    /// Violations so far, those that go on included.
    pub fn violations(&self) -> Vec<Violation> {
        let going_on = self.breakers.iter().filter_map(Breaker::violation);
        self.ended.iter().cloned().chain(going_on).collect()
    }

    /// Trips so far.
    pub fn trips(&self) -> u64 {
        self.trips
    }

    /// Forgets everything seen so far.
    pub fn reset(&mut self) {
        self.ended.clear();
        self.trips = 0;
        for breaker in &mut self.breakers {
            breaker.above = None;
            breaker.release.cool();
        }
    }
}

/// A limit that a contract or a grid event sets for a while, and how long the
/// hall took to comply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct GridLimit {
    pub limit: Watts,
    pub at: Timestamp,
    below_since: Option<Timestamp>,
    pub complied: Option<f64>,
    above_since: Option<Timestamp>,
    counted: bool,
    /// Times that power rose above the limit again for longer than the breakers' grace.
    pub broken: u64,
}

impl GridLimit {
    pub(crate) fn new(limit: Watts, at: Timestamp) -> Self {
        Self {
            limit,
            at,
            below_since: None,
            complied: None,
            above_since: None,
            counted: false,
            broken: 0,
        }
    }

    /// Sees the site's power over a span. Complied: below the limit (with the
    /// breakers' tolerance) for 2 s; counted is the time to the first of them.
    pub(crate) fn see(&mut self, power: Watts, from: Timestamp, to: Timestamp) {
        if to <= self.at {
            return;
        }
        let above = power > self.limit * (1.0 + TOLERANCE);
        if self.complied.is_some() {
            self.keep(above, from, to);
            return;
        }
        if above {
            self.below_since = None;
            return;
        }
        let since = *self.below_since.get_or_insert(from.max(self.at));
        if to.0 - since.0 >= GRACE_MS {
            self.complied = Some(since.seconds_since(self.at));
        }
    }

    /// Once complied with, the limit must be kept, as a breaker's.
    fn keep(&mut self, above: bool, from: Timestamp, to: Timestamp) {
        if !above {
            self.above_since = None;
            self.counted = false;
            return;
        }
        let since = *self.above_since.get_or_insert(from);
        if to.0 - since.0 > GRACE_MS && !self.counted {
            self.counted = true;
            self.broken += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::site::power::PowerNodeKind;

    fn watch() -> Watch {
        Watch::new(&[feed("feed")], &BTreeMap::new())
    }

    fn feed(id: &str) -> PowerNode {
        PowerNode {
            id: id.into(),
            kind: PowerNodeKind::UtilityFeed,
            parents: vec![],
            rating: Watts(1_200.0),
            limit: Watts(1_000.0),
        }
    }

    #[test]
    fn each_breaker_trips_by_its_own_curve() {
        let fast = TripCurve::new(&[(1.5, 10.0)]).unwrap();
        let slow = TripCurve::new(&[(1.5, 300.0)]).unwrap();
        let curves = BTreeMap::from([("fast".to_owned(), fast), ("slow".to_owned(), slow)]);
        let mut w = Watch::new(&[feed("fast"), feed("slow"), feed("built-in")], &curves);
        let mut first = None;
        for second in 0..310 {
            let at = |s: i64| Timestamp(1_000 * s);
            w.see(&[Watts(1_500.0); 3], at(second), at(second + 1));
            first = first.or((w.trips() > 0).then_some(second + 1));
        }
        assert_eq!(first, Some(11));
        // 1.25 times the rating: every 11 s, once after 300, and after 138 and 276.
        assert_eq!(w.trips(), 310 / 11 + 1 + 2);
        w.reset();
        assert_eq!(w.trips(), 0);
    }

    fn run(watch: &mut Watch, powers: &[f64], step_ms: i64) {
        for (i, p) in powers.iter().enumerate() {
            let at = i as i64 * step_ms;
            watch.see(&[Watts(*p)], Timestamp(at), Timestamp(at + step_ms));
        }
    }

    #[test]
    fn short_or_small_excess_does_not_count_long_and_large_does() {
        let mut w = watch();
        run(
            &mut w,
            &[1_100.0, 1_100.0, 900.0, 1_004.0, 1_004.0, 1_004.0, 1_004.0],
            1_000,
        );
        assert_eq!(w.violations(), vec![]);
        let mut w = watch();
        run(&mut w, &[900.0, 1_100.0, 1_200.0, 1_100.0, 900.0], 1_000);
        let found = w.violations();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].worst, Watts(200.0));
        assert_eq!(
            (found[0].from, found[0].to),
            (Timestamp(1_000), Timestamp(4_000))
        );
        // One that goes on is reported too, once.
        run(&mut w, &[1_100.0; 5], 1_000);
        assert_eq!(w.violations().len(), 2);
        w.reset();
        assert!(w.violations().is_empty());
    }

    #[test]
    fn trips_by_the_inverse_time_curve() {
        let seconds_at = |load: f64| {
            let mut w = watch();
            let mut seconds = 0;
            while w.trips() == 0 && seconds < 1_000 {
                let at = seconds * 1_000;
                w.see(
                    &[Watts(1_200.0 * load)],
                    Timestamp(at),
                    Timestamp(at + 1_000),
                );
                seconds += 1;
            }
            seconds
        };
        assert_eq!(seconds_at(1.04), 1_000);
        assert!(
            (130..=145).contains(&seconds_at(1.25)),
            "{}",
            seconds_at(1.25)
        );
        assert!((20..=25).contains(&seconds_at(2.0)));
        // IEC 60898-1: within an hour at 1.45, within a minute at 2.55 times the
        // rating, at once (0.1 s) from 5 times on in class B.
        assert!(seconds_at(1.45) < 3_600);
        assert!((1..=60).contains(&seconds_at(2.55)));
        assert_eq!(seconds_at(5.0), 1);
        let times: Vec<i64> = [1.1, 1.2, 1.4, 1.8, 2.5, 4.0].map(seconds_at).into();
        assert!(times.is_sorted_by(|a, b| a > b), "{times:?}");
    }

    #[test]
    fn heat_goes_again_while_the_load_is_low() {
        let mut w = watch();
        // 100 s at 1.25 times the rating, then as long at half of it, and again:
        // together they would trip, with the pause they do not.
        for (round, load) in [1.25, 0.5, 1.25, 0.5].into_iter().enumerate() {
            let from = 100_000 * round as i64;
            w.see(
                &[Watts(1_200.0 * load)],
                Timestamp(from),
                Timestamp(from + 100_000),
            );
        }
        assert_eq!(w.trips(), 0);
        w.see(&[Watts(1_500.0)], Timestamp(0), Timestamp(150_000));
        assert_eq!(w.trips(), 1);
    }

    #[test]
    fn compliance_needs_two_seconds_below() {
        let mut g = GridLimit::new(Watts(100.0), Timestamp(10_000));
        let mut at = 9_000;
        for p in [120.0, 120.0, 99.0, 120.0, 99.0, 99.0, 99.0] {
            g.see(Watts(p), Timestamp(at), Timestamp(at + 1_000));
            at += 1_000;
        }
        assert_eq!(g.complied, Some(3.0));
        for p in [120.0, 99.0, 120.0, 120.0, 120.0, 120.0, 99.0] {
            g.see(Watts(p), Timestamp(at), Timestamp(at + 1_000));
            at += 1_000;
        }
        assert_eq!(g.broken, 1, "one second is within the grace, four are not");
    }
}
