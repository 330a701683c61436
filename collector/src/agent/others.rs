//! What others do to limits that this agent keeps, and how far it gives way.
//!
//! | read back | means | done |
//! |---|---|---|
//! | as set | nothing | nothing |
//! | higher | a reset, a driver loaded anew without persistence mode, a tool | set back at once, however often: limits were reckoned with it |
//! | lower | a person, a tool, protection against heat | left, for a while; then asked for again; after [`GIVE_UP`] times left until it is taken back |
//!
//! A state machine without I/O that is told what was read and when.

use heliostat_models::lease::{Foreign, ForeignNote};
use heliostat_models::{DeviceId, Timestamp, Watts};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Two limits closer than this are the same: drivers round to whole watts or less.
pub(super) const SAME: f64 = 0.6;
/// A limit that somebody lowered is left at that for so long; each further time twice as long.
pub(super) const LEAVE: Duration = Duration::from_secs(600);
/// Lowered so often, it is left until whoever did it takes it back.
pub(super) const GIVE_UP: u32 = 3;
/// Not lowered for this long, the next time counts as the first.
const FORGIVE: Duration = Duration::from_secs(6 * 3_600);
/// Set back so often within [`LATELY`], somebody raises it again and again.
pub(super) const AGAIN: usize = 5;
/// See [`AGAIN`].
pub(super) const LATELY: Duration = Duration::from_secs(600);
/// Readings that fail one after the other before the limit counts as unknown.
pub(super) const UNREADABLE: u32 = 3;

/// What a device's limit ought to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// What it was set to.
    pub(super) asked: Watts,
    /// What was read back then: some take a limit and keep another, or take it later.
    pub(super) had: Watts,
    /// What was found before the first cap.
    pub(super) found: Watts,
}

/// What a reading means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    AsSet,
    TooHigh,
    Lowered,
}

/// A limit that is left to somebody else.
#[derive(Clone, Copy, Debug)]
struct Left {
    limit: Watts,
    until: Option<Timestamp>,
}

#[derive(Debug, Default)]
struct Seen {
    left: Option<Left>,
    /// How often it was lowered, and when last.
    lowered: (u32, Timestamp),
    /// When it was set back lately.
    set_back: VecDeque<Timestamp>,
    raised_since: Option<Timestamp>,
    unread: u32,
}

/// What is known of all devices that somebody else touched.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: BTreeMap<DeviceId, Seen>,
    version: u64,
}

impl Watch {
    /// Grows with whatever is worth telling.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// A limit was read.
    pub(super) fn judge(
        &mut self,
        device: &DeviceId,
        expected: Expected,
        current: Watts,
        now: Timestamp,
    ) -> Finding {
        let low = expected.asked.min(expected.had).0 - SAME;
        let high = expected.asked.max(expected.had).0 + SAME;
        if current.0 >= low && current.0 <= high {
            return Finding::AsSet;
        }
        let seen = self.seen.entry(device.clone()).or_default();
        if current.0 > high {
            seen.set_back.push_back(now);
            if seen.set_back.len() > AGAIN {
                seen.set_back.pop_front();
            }
            let often = seen.set_back.len() == AGAIN
                && (seen.set_back.front()).is_some_and(|first| now <= *first + LATELY);
            if often && seen.raised_since.is_none() {
                seen.raised_since = seen.set_back.front().copied();
                self.version += 1;
            }
            if let Some(left) = &mut seen.left {
                // Back at what was found: whoever lowered it has taken that back.
                let gone = current.0 >= expected.found.0 - SAME;
                left.limit = current;
                if gone {
                    seen.left = None;
                }
                self.version += 1;
            }
            return Finding::TooHigh;
        }
        let (times, last) = seen.lowered;
        let times = if now > last + FORGIVE { 1 } else { times + 1 };
        seen.lowered = (times, now);
        let until = (times < GIVE_UP).then(|| now + LEAVE * (1 << (times - 1)));
        let limit = current;
        seen.left = Some(Left { limit, until });
        self.version += 1;
        Finding::Lowered
    }

    /// A limit could not be read; whether from now on it counts as unknown.
    pub(super) fn unread(&mut self, device: &DeviceId) -> bool {
        let seen = self.seen.entry(device.clone()).or_default();
        seen.unread = seen.unread.saturating_add(1);
        let now = seen.unread == UNREADABLE;
        self.version += u64::from(now);
        now
    }

    /// A limit was read; whether it had counted as unknown.
    pub(super) fn read(&mut self, device: &DeviceId) -> bool {
        let Some(seen) = self.seen.get_mut(device) else {
            return false;
        };
        let was = seen.unread >= UNREADABLE;
        seen.unread = 0;
        self.version += u64::from(was);
        was
    }

    /// Whether a limit counts as unknown.
    pub(super) fn is_unknown(&self, device: &DeviceId) -> bool {
        (self.seen.get(device)).is_some_and(|seen| seen.unread >= UNREADABLE)
    }

    /// No more than this may be set, because somebody else keeps it there.
    pub(super) fn ceiling(&self, device: &DeviceId) -> Option<Watts> {
        Some(self.seen.get(device)?.left?.limit)
    }

    /// Time has passed: what was left long enough is asked for again.
    pub(super) fn lapse(&mut self, now: Timestamp) {
        for seen in self.seen.values_mut() {
            if seen.left.and_then(|l| l.until).is_some_and(|at| at <= now) {
                seen.left = None;
                self.version += 1;
            }
            let quiet = (seen.set_back.back()).is_none_or(|last| now > *last + LATELY);
            if quiet && seen.raised_since.take().is_some() {
                seen.set_back.clear();
                self.version += 1;
            }
        }
    }

    /// What goes on now, by the names of the devices.
    pub(super) fn notes(&self) -> Vec<ForeignNote> {
        let mut notes = Vec::new();
        for (device, seen) in &self.seen {
            let mut note = |what| {
                let device = device.clone();
                notes.push(ForeignNote { device, what });
            };
            if let Some(Left { limit, until }) = seen.left {
                note(Foreign::Lowered { limit, until });
            }
            if let Some(since) = seen.raised_since {
                note(Foreign::RaisedAgain { since });
            }
            if seen.unread >= UNREADABLE {
                note(Foreign::Unreadable);
            }
        }
        notes
    }

    /// Nothing is kept any more.
    pub(super) fn forget(&mut self) {
        self.version += u64::from(!self.seen.is_empty());
        self.seen.clear();
    }
}

#[cfg(test)]
#[path = "others/tests.rs"]
mod tests;
