//! Whether the connection to the broker is lost again and again right after it was
//! made, as when a second agent of the same name runs: a broker keeps one connection
//! of a name, so the two take it from each other.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// So many connections within [`WITHIN`] are no network that comes and goes.
const MANY: usize = 6;
/// See [`MANY`]. After trouble an agent waits up to 5 s before it tries again, and a
/// connection that was made ends that.
const WITHIN: Duration = Duration::from_secs(60);

/// The last connections (wall time).
#[derive(Debug, Default)]
pub(super) struct Reconnects {
    at: VecDeque<Instant>,
    told: Option<Instant>,
}

impl Reconnects {
    /// A connection was made; whether somebody is to be told, at most once in [`WITHIN`].
    pub(super) fn made(&mut self, now: Instant) -> bool {
        let since = |at: Instant| now.saturating_duration_since(at);
        self.at.push_back(now);
        while self.at.len() > MANY {
            self.at.pop_front();
        }
        let many = self.at.len() == MANY && self.at.front().is_some_and(|at| since(*at) <= WITHIN);
        let tell = many && self.told.is_none_or(|at| since(at) > WITHIN);
        if tell {
            self.told = Some(now);
        }
        tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_in_a_minute_are_told_once_in_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut seen = Reconnects::default();
        // A network that comes and goes.
        for minute in 0..20 {
            assert!(!seen.made(at(20 * minute)));
        }
        let told: Vec<u64> = (1_000..1_200).filter(|s| seen.made(at(*s))).collect();
        assert_eq!(told, [1_005, 1_066, 1_127, 1_188]);
    }
}
