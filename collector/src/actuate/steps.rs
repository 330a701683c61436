//! Management controllers take limits in steps of their own and do not tell them:
//! what they keep may be less than was asked, or more.
//!
//! More is not what was allowed, so less is asked for until what is kept is at
//! most that. What came of a cap is remembered, so that a lease that is renewed
//! writes nothing.

use super::before::is_same;
use heliostat_models::{DeviceId, Watts};
use std::collections::BTreeMap;

/// A controller that keeps more than this above what was asked has other reasons
/// than its steps.
const WIDEST: Watts = Watts(100.0);
/// How often less is asked for: the distance doubles, up to beyond half of [`WIDEST`].
const TRIES: u32 = 7;
/// Closer than this, what is kept is what was asked.
const SAME: Watts = Watts(0.5);

/// What is known of a device's steps.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The last cap, and what came of it.
    settled: Option<(Watts, Watts)>,
    /// A limit that it keeps as it is, and how far the next ones are from it.
    grid: Option<(Watts, Watts)>,
}

/// What is known of all devices' steps.
#[derive(Debug, Default)]
pub(super) struct Steps {
    known: BTreeMap<DeviceId, Known>,
}

impl Steps {
    /// Whether this is what the device keeps when asked for `cap`.
    pub(super) fn is_settled(&self, device: &DeviceId, cap: Watts, has: Watts) -> bool {
        (self.known.get(device).and_then(|known| known.settled))
            .is_some_and(|(c, h)| is_same(c, cap) && is_same(h, has))
    }

    /// How to ask for `cap`, and for nothing below `least`.
    pub(super) fn search(&self, device: &DeviceId, cap: Watts, least: Watts) -> Search {
        let grid = self.known.get(device).and_then(|known| known.grid);
        let asks = grid.map_or(cap, |(base, step)| {
            let on_grid = base + step * ((cap - base) / step + 1e-6).floor();
            // Some take whole watts only.
            Watts(on_grid.get().floor())
        });
        Search {
            cap,
            least,
            asks: if asks < least { cap } else { asks },
            tries: 0,
            above: None,
        }
    }

    /// This came of it in the end.
    pub(super) fn settle(&mut self, device: &DeviceId, search: &Search, has: Watts) {
        let known = self.known.entry(device.clone()).or_default();
        known.settled = Some((search.cap, has));
        if let Some(above) = search.above.filter(|_| has <= search.cap + SAME) {
            known.grid = Some((has, above - has));
        }
    }
}

/// The search for a limit that is kept at no more than the cap.
#[derive(Debug)]
pub(super) struct Search {
    cap: Watts,
    least: Watts,
    asks: Watts,
    tries: u32,
    /// The last that was kept and is too high.
    above: Option<Watts>,
}

impl Search {
    /// What to ask for now.
    pub(super) fn asks(&self) -> Watts {
        self.asks
    }

    /// The device keeps this; whether to ask once more.
    pub(super) fn goes_on(&mut self, has: Watts) -> bool {
        let excess = has - self.cap;
        if excess <= SAME || excess > WIDEST || self.tries == TRIES || self.asks <= self.least {
            return false;
        }
        let distance = (has - self.asks).max(Watts(1.0)) * 2.0;
        self.tries += 1;
        self.above = Some(has);
        self.asks = Watts((has - distance).get().floor()).max(self.least);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node() -> DeviceId {
        DeviceId::from("n1")
    }

    /// What is kept of a cap in the end, and how often less was asked for.
    fn ask(steps: &mut Steps, cap: f64, rounds: impl Fn(f64) -> f64) -> (f64, u32) {
        let mut search = steps.search(&node(), Watts(cap), Watts(200.0));
        loop {
            let has = rounds(search.asks().get());
            if !search.goes_on(Watts(has)) {
                steps.settle(&node(), &search, Watts(has));
                return (has, search.tries);
            }
        }
    }

    fn found(cap: f64, rounds: impl Fn(f64) -> f64) -> (f64, u32) {
        ask(&mut Steps::default(), cap, rounds)
    }

    #[test]
    fn what_is_kept_as_asked_or_for_other_reasons_is_asked_once() {
        assert_eq!(found(450.0, |watts| watts), (450.0, 0));
        assert_eq!(found(459.0, |w| (w / 10.0).floor() * 10.0), (450.0, 0));
        assert_eq!(found(450.0, |_| 700.0), (700.0, 0));
        // A controller that goes no lower is not asked for ever.
        assert_eq!(found(450.0, |_| 460.0), (460.0, 5));
        assert_eq!(found(205.0, |w| (w / 50.0).ceil() * 50.0), (200.0, 1));
        // Nothing below the least, whatever comes of it.
        assert_eq!(found(201.0, |w| (w / 70.0).ceil() * 70.0), (210.0, 1));
    }

    #[test]
    fn what_came_of_a_cap_is_known_at_its_renewal_and_so_are_the_steps() {
        let mut steps = Steps::default();
        let rounds = |watts: f64| (watts / 40.0).ceil() * 40.0;
        let settled = |steps: &Steps, cap, has| steps.is_settled(&node(), Watts(cap), Watts(has));
        assert!(!settled(&steps, 459.0, 440.0));
        let (has, tries) = ask(&mut steps, 459.0, rounds);
        assert!(has == 440.0 && tries > 0, "{has} W after {tries}");
        assert!(settled(&steps, 459.0, 440.0));
        assert!(!settled(&steps, 459.0, 480.0) && !settled(&steps, 440.0, 440.0));
        for (cap, has) in [
            (600.0, 600.0),
            (599.0, 560.0),
            (641.0, 640.0),
            (333.0, 320.0),
        ] {
            assert_eq!(ask(&mut steps, cap, rounds), (has, 0));
        }
        // Another firmware has other steps.
        let (has, tries) = ask(&mut steps, 575.0, |watts| (watts / 50.0).ceil() * 50.0);
        assert!(has == 550.0 && tries > 0, "{has} W after {tries}");
    }

    proptest! {
        /// Steps of any width, rounded up or to the nearest: no more than asked is
        /// kept, and not much less.
        #[test]
        fn no_more_than_asked_is_kept(cap in 500.0..6_000f64, step in 1u32..=100, up: bool) {
            let (cap, step) = (cap.floor(), f64::from(step));
            let (has, _) = found(cap, |watts| match up {
                true => (watts / step).ceil() * step,
                false => (watts / step).round() * step,
            });
            prop_assert!(has <= cap + 0.5, "{has} for {cap} in steps of {step}");
            prop_assert!(has > cap - step - 0.5, "{has} for {cap} in steps of {step}");
        }
    }
}
