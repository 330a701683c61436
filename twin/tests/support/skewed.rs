//! Clocks that are wrong.

use async_trait::async_trait;
use heliostat_models::Timestamp;
use heliostat_store::{Clock, SteppedClock};
use std::sync::Arc;

/// How wrong a clock is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Skew {
    /// Milliseconds ahead, at the beginning.
    pub ahead: i64,
    /// Seconds by which it gains on a true second.
    pub drift: f64,
}

/// A clock that follows another one, wrongly.
pub struct SkewedClock {
    truth: Arc<SteppedClock>,
    skew: Skew,
    from: Timestamp,
}

impl SkewedClock {
    /// From now on.
    pub fn new(truth: &Arc<SteppedClock>, skew: Skew) -> Self {
        Self {
            truth: Arc::clone(truth),
            skew,
            from: super::START,
        }
    }

    fn shown(&self, truth: Timestamp) -> Timestamp {
        let gained = (truth.0 - self.from.0) as f64 * self.skew.drift;
        Timestamp(truth.0 + self.skew.ahead + gained.floor() as i64)
    }
}

#[async_trait]
impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        self.shown(self.truth.now())
    }

    async fn wait_until(&self, at: Timestamp) {
        let elapsed = (at.0 - self.from.0 - self.skew.ahead) as f64 / (1.0 + self.skew.drift);
        let mut truth = Timestamp(self.from.0 + elapsed.floor() as i64);
        // Rounding may leave it a millisecond short.
        while self.shown(truth) < at {
            truth = Timestamp(truth.0 + 1);
        }
        self.truth.wait_until(truth).await;
    }
}
