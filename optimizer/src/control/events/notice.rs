//! What controllers tell each other of a grid event, and what is kept of it.
//!
//! Notices of one event are ordered the same way everywhere, so that whoever has
//! heard the same ones, in whatever order and however often, knows the same.

use crate::grid_event::{Ask, GridEvent};
use heliostat_models::Watts;
use heliostat_models::ids::is_valid_name;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;

/// A grid event as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// The event.
    pub event: GridEvent,
    /// The limit at the feed that it came to when it was taken in.
    pub limit: Watts,
    /// Grows with every change of the event.
    pub revision: i64,
    /// Called off.
    #[serde(default)]
    pub off: bool,
}

impl Notice {
    /// Whether this one counts instead of the other, of the same event: it is
    /// later, or of the same revision and asks for more.
    pub fn outranks(&self, other: &Self) -> bool {
        self.rank() > other.rank()
    }

    /// Whether it makes sense; strangers may have written it.
    pub fn is_sound(&self) -> bool {
        is_valid_name(&self.event.id)
            && self.event.from < self.event.to
            && self.limit.is_finite()
            && self.limit >= Watts::ZERO
    }

    /// What a reduction was reckoned from.
    pub(super) fn drawn(&self) -> Option<Watts> {
        match self.event.ask {
            Ask::ReduceBy(share) if share < 1.0 => Some(self.limit / (1.0 - share.max(0.0))),
            _ => None,
        }
    }

    fn rank(&self) -> impl Ord {
        // Of watts that are not negative, the bits rise as the watts do.
        let limit = self.limit.0.max(0.0).to_bits();
        // The last makes any two that differ differ in rank.
        let text = serde_json::to_string(&self.event).unwrap_or_default();
        (
            self.revision,
            !self.off,
            Reverse(limit),
            self.event.to,
            text,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::GridEvents;
    use super::*;
    use heliostat_models::Timestamp;
    use proptest::prelude::*;

    fn notice() -> impl Strategy<Value = Notice> {
        let limit = (0..3u32).prop_map(|l| Watts(f64::from(l)));
        (
            0..3u8,
            0..3i64,
            1..4i64,
            limit,
            0..3i64,
            prop::bool::weighted(0.3),
        )
            .prop_map(|(id, from, length, limit, revision, off)| Notice {
                event: GridEvent {
                    id: format!("e{id}"),
                    from: Timestamp(from),
                    to: Timestamp(from + length),
                    ask: Ask::ReduceBy(0.1),
                    reason: "r".into(),
                },
                limit,
                revision,
                off,
            })
    }

    proptest! {
        /// In whatever order, however often, in whatever portions.
        #[test]
        fn who_heard_the_same_knows_the_same(
            notices in prop::collection::vec(notice(), 0..12),
            again in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            portion in 1usize..5, now in 0i64..4,
        ) {
            let now = Timestamp(now);
            let mut one = GridEvents::default();
            one.merge(notices.clone(), now);
            let mut other = GridEvents::default();
            let mut shuffled: Vec<Notice> = notices.iter().rev().cloned().collect();
            for index in again.iter().filter(|_| !notices.is_empty()) {
                shuffled.push(index.get(&notices).clone());
            }
            for part in shuffled.chunks(portion) {
                other.merge(part.to_vec(), now);
                other.merge(one.notices(), now);
            }
            other.merge(one.notices(), now);
            prop_assert_eq!(one.notices(), other.notices());
            prop_assert!(!one.merge(other.notices(), now));
            prop_assert_eq!(one.limit(now), other.limit(now));
            // What a controller takes in itself counts from then on, everywhere.
            let event = GridEvent { id: "e0".into(), from: now, to: Timestamp(99), ask: Ask::Limit(Watts(7.0)), reason: "r".into() };
            one.submit(event, Watts::ZERO, now);
            prop_assert!(other.merge(one.notices(), now));
            prop_assert_eq!(one.notices(), other.notices());
            prop_assert!(other.cancel("e0", now) && !other.cancel("e0", now));
            prop_assert!(one.merge(other.notices(), now));
            prop_assert!(one.all().iter().all(|event| event.id != "e0"));
        }
    }
}
