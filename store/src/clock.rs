//! Time comes from an injected clock, so that a day can be replayed in seconds
//! and a race can be tested.

use async_trait::async_trait;
use heliostat_models::Timestamp;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// What time it is, and waiting for a time.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
    /// Returns once `now() >= at`.
    async fn wait_until(&self, at: Timestamp);
    /// As [`Clock::now`], but goes on evenly also where the clock is set: what
    /// lasts for a while is measured by it. Only differences mean anything.
    fn steady(&self) -> Timestamp {
        self.now()
    }
    /// Returns once `steady() >= at`.
    async fn wait_until_steady(&self, at: Timestamp) {
        self.wait_until(at).await;
    }
    /// Returns once `span` has passed on this clock.
    async fn wait(&self, span: Duration) {
        self.wait_until(self.now() + span).await;
    }
}

/// The computer's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

#[async_trait]
impl Clock for WallClock {
    #[allow(clippy::disallowed_methods)] // the one place that may ask the system
    fn now(&self) -> Timestamp {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp(since.as_millis() as i64)
    }
    async fn wait_until(&self, at: Timestamp) {
        loop {
            let left = at.0 - self.now().0;
            if left <= 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left as u64)).await;
        }
    }
    #[allow(clippy::disallowed_methods)] // the one place that may ask the system
    fn steady(&self) -> Timestamp {
        static BEGUN: OnceLock<(Instant, Timestamp)> = OnceLock::new();
        let (begun, at) = BEGUN.get_or_init(|| (Instant::now(), self.now()));
        *at + begun.elapsed()
    }
    async fn wait_until_steady(&self, at: Timestamp) {
        loop {
            let left = at.0 - self.steady().0;
            if left <= 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(left as u64)).await;
        }
    }
}

/// A clock that stands still until it is told to move. Never moves back.
#[derive(Clone, Debug)]
pub struct SteppedClock {
    now: watch::Sender<Timestamp>,
}

impl SteppedClock {
    /// A clock that shows `start`.
    pub fn new(start: Timestamp) -> Self {
        Self {
            now: watch::Sender::new(start),
        }
    }
    /// Moves to `to`, if that is later, and wakes whoever waited for it.
    pub fn advance_to(&self, to: Timestamp) {
        self.now.send_if_modified(|now| {
            let later = to > *now;
            if later {
                *now = to;
            }
            later
        });
    }
}

#[async_trait]
impl Clock for SteppedClock {
    fn now(&self) -> Timestamp {
        *self.now.borrow()
    }
    async fn wait_until(&self, at: Timestamp) {
        // The sender lives in self, so the wait cannot end by its being dropped.
        let _ = self.now.subscribe().wait_for(|now| *now >= at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_stepped_clock_wakes_at_the_instant_and_never_goes_back() {
        let clock = Arc::new(SteppedClock::new(Timestamp(1_000)));
        let waiting = tokio::spawn({
            let clock = Arc::clone(&clock);
            async move {
                clock.wait_until(Timestamp(2_000)).await;
                clock.now()
            }
        });
        clock.advance_to(Timestamp(1_500));
        clock.advance_to(Timestamp(900));
        assert_eq!(clock.now(), Timestamp(1_500));
        clock.advance_to(Timestamp(2_500));
        assert_eq!(waiting.await.unwrap(), Timestamp(2_500));
    }
}
