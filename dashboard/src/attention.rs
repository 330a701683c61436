//! Whether anybody looks: snapshots of a large site are not made for nobody.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// After the last request snapshots go on for this long.
const LASTS: Duration = Duration::from_secs(5);

/// Who looked last, and when.
#[derive(Debug)]
pub(crate) struct Attention {
    begun: Instant,
    /// Milliseconds from `begun` to the last request.
    last: AtomicU64,
    roused: Notify,
}

impl Attention {
    pub(crate) fn new() -> Self {
        Self {
            begun: Instant::now(),
            last: AtomicU64::new(0),
            roused: Notify::new(),
        }
    }

    /// Somebody asks. Whether nobody did for so long that what there is may be old.
    pub(crate) fn rouse(&self) -> bool {
        let was_left = self.rouse_at(self.elapsed());
        self.roused.notify_one();
        was_left
    }

    /// Returns at once while somebody looks, else when somebody does.
    pub(crate) async fn wait(&self) {
        while self.is_left_at(self.elapsed()) {
            self.roused.notified().await;
        }
    }

    fn rouse_at(&self, now: u64) -> bool {
        let was_left = self.is_left_at(now);
        self.last.store(now, Ordering::Release);
        was_left
    }

    fn is_left_at(&self, now: u64) -> bool {
        let since = now.saturating_sub(self.last.load(Ordering::Acquire));
        since > LASTS.as_millis() as u64
    }

    fn elapsed(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_a_while_after_each_request() {
        let attention = Attention::new();
        let lasts = LASTS.as_millis() as u64;
        assert!(!attention.is_left_at(lasts), "a server that just started");
        assert!(attention.is_left_at(lasts + 1));
        assert!(attention.rouse_at(lasts + 1), "the first one must wait");
        assert!(!attention.rouse_at(lasts + 2), "the next one need not");
        assert!(!attention.is_left_at(2 * lasts + 2));
        assert!(attention.is_left_at(2 * lasts + 3));
    }
}
