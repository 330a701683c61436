//! The instants that the caps' side of an agent goes by.

use super::caps::Now;
use heliostat_models::Timestamp;
use heliostat_models::lease::CLOCK_BOUND;
use heliostat_store::Clock;
use std::sync::Arc;

/// Reads the clock for the caps.
pub(super) struct Times {
    clock: Arc<dyn Clock>,
    /// The latest instant of a statement.
    stated: Option<Timestamp>,
}

impl Times {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            stated: None,
        }
    }

    /// An earlier run stated something at this instant. A clock that was ahead by
    /// more than is sound and is right now is not followed.
    pub(super) fn not_before(&mut self, said: Option<Timestamp>) {
        let now = self.clock.now();
        self.stated = said.filter(|said| *said <= now + CLOCK_BOUND);
    }

    /// Now. What is stated never goes back, also where the clock is set back:
    /// whoever hears of two states takes the later one.
    pub(super) fn now(&mut self) -> Now {
        let wall = self.clock.now();
        let at = self.stated.map_or(wall, |stated| stated.max(wall));
        self.stated = Some(at);
        Now {
            wall,
            at,
            steady: self.clock.steady(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_trait::async_trait;
    use std::sync::Mutex;

    /// A clock that people set.
    struct Set(Mutex<Timestamp>);

    #[async_trait]
    impl Clock for Set {
        fn now(&self) -> Timestamp {
            *self.0.lock().unwrap()
        }
        async fn wait_until(&self, _: Timestamp) {}
    }

    #[test]
    fn statements_never_go_back_over_a_restart_unless_the_clock_was_far_off() {
        let clock = Arc::new(Set(Mutex::new(Timestamp(1_000_000))));
        let mut times = Times::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let mut stated = |to: i64| {
            *clock.0.lock().unwrap() = Timestamp(to);
            let now = times.now();
            (now.wall.0, now.at.0)
        };
        assert_eq!(stated(1_000_000), (1_000_000, 1_000_000));
        assert_eq!(stated(400_000), (400_000, 1_000_000));
        assert_eq!(stated(1_000_001), (1_000_001, 1_000_001));
        *clock.0.lock().unwrap() = Timestamp(500_000);
        for (said, at) in [
            (Some(900_000), 900_000),
            (Some(1_400_001), 500_000),
            (Some(3), 500_000),
            (None, 500_000),
        ] {
            times = Times::new(Arc::clone(&clock) as Arc<dyn Clock>);
            times.not_before(said.map(Timestamp));
            assert_eq!(times.now().at, Timestamp(at), "{said:?}");
        }
    }
}
