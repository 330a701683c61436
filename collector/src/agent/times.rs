//! The instants that the caps' side of an agent goes by.

use super::caps::Now;
use heliostat_models::Timestamp;
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
