//! Which instants a sample may have: one place for all doors into the store.

use heliostat_models::Timestamp;
use std::time::Duration;

/// Nothing was sampled before 2000-01-01T00:00:00Z; a clock that says so is not set.
pub const EARLIEST: Timestamp = Timestamp::from_seconds(946_684_800);
/// How far the clock of who samples may be ahead of this one.
pub const AHEAD: Duration = Duration::from_secs(600);

/// The instants that a store takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instants {
    /// The first.
    pub earliest: Timestamp,
    /// How far ahead of the store's clock the last is; [`Duration::MAX`]: no limit.
    pub ahead: Duration,
}

impl Default for Instants {
    fn default() -> Self {
        Self {
            earliest: EARLIEST,
            ahead: AHEAD,
        }
    }
}

impl Instants {
    /// The first and the last instant that are taken now. A store whose own
    /// clock is not set, that is before the first, cannot judge and takes all.
    pub fn allowed(&self, now: Timestamp) -> (Timestamp, Timestamp) {
        if now < self.earliest {
            return (Timestamp(i64::MIN), Timestamp(i64::MAX));
        }
        let ahead = i64::try_from(self.ahead.as_millis()).unwrap_or(i64::MAX);
        (self.earliest, Timestamp(now.0.saturating_add(ahead)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_of_1970_and_of_the_far_future_are_not_allowed() {
        let now = Timestamp::from_seconds(1_800_000_000);
        let (first, last) = Instants::default().allowed(now);
        assert_eq!((first, last), (EARLIEST, now + AHEAD));
        let unlimited = Instants {
            ahead: Duration::MAX,
            ..Instants::default()
        };
        assert_eq!(unlimited.allowed(now).1, Timestamp(i64::MAX));
        let unset = Instants::default().allowed(Timestamp(5));
        assert_eq!(unset, (Timestamp(i64::MIN), Timestamp(i64::MAX)));
    }
}
