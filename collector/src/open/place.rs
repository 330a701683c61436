//! Which frame a sample goes into.
//!
//! The store knows a frame by device and instant and keeps the first that
//! comes. Senders of open protocols cut an instant's samples into several
//! requests. What comes later for an instant that has its frame already is put
//! into a frame of its own, one or a few milliseconds after it ([`SLOTS`]); what
//! comes twice is recognised by what was put where.

use heliostat_models::MetricId;
use std::collections::{BTreeMap, HashMap};

/// Milliseconds, the instant's own included, over which an instant's samples may spread.
pub(super) const SLOTS: i64 = 8;
/// Frames remembered a device. The store is asked about older ones.
const KEPT: usize = 16;

/// A frame that is in the store.
#[derive(Debug)]
struct Taken {
    /// The instant its samples are of, in milliseconds.
    of: i64,
    metrics: Vec<MetricId>,
}

/// One device's latest frames.
#[derive(Debug, Default)]
struct Recent {
    frames: BTreeMap<i64, Taken>,
    /// Nothing of this device is in the store after this instant, as far as is known here.
    high: i64,
}

/// What was put where lately.
#[derive(Debug, Default)]
pub(super) struct Memory {
    devices: HashMap<u32, Recent>,
}

/// Where a sample belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// It is in the store.
    There,
    /// Into the frame at this instant.
    At(i64),
    /// Every slot is taken.
    None,
}

impl Memory {
    /// Whether the device was met before.
    pub(super) fn has_met(&self, device: u32) -> bool {
        self.devices.contains_key(&device)
    }

    /// Meets a device whose latest frame in the store is at `high`.
    pub(super) fn meet(&mut self, device: u32, high: i64) {
        self.devices.entry(device).or_default().high = high;
    }

    /// Whether only the store can tell what it has of an instant.
    pub(super) fn is_unsure(&self, device: u32, at: i64) -> bool {
        (self.devices.get(&device))
            .is_none_or(|recent| at <= recent.high && !recent.frames.contains_key(&at))
    }

    /// Whether no frame is remembered at an instant or in the slots behind it.
    pub(super) fn is_free(&self, device: u32, at: i64) -> bool {
        let slots = at..at.saturating_add(SLOTS);
        (self.devices.get(&device)).is_none_or(|r| r.frames.range(slots).next().is_none())
    }

    /// Where a metric of an instant belongs.
    pub(super) fn slot(&self, device: u32, at: i64, metric: MetricId) -> Slot {
        let Some(recent) = self.devices.get(&device) else {
            return Slot::At(at);
        };
        let mut free = None;
        for slot in at..at.saturating_add(SLOTS) {
            match recent.frames.get(&slot) {
                Some(taken) if taken.of == at && taken.metrics.contains(&metric) => {
                    return Slot::There;
                }
                Some(_) => {}
                None => free = free.or(Some(slot)),
            }
        }
        free.map_or(Slot::None, Slot::At)
    }

    /// Notes that the store has a frame at `slot` with these metrics, of instant `of`.
    pub(super) fn note(
        &mut self,
        device: u32,
        slot: i64,
        of: i64,
        metrics: impl IntoIterator<Item = MetricId>,
    ) {
        let recent = self.devices.entry(device).or_default();
        recent.high = recent.high.max(slot);
        let taken = recent.frames.entry(slot).or_insert_with(|| Taken {
            of,
            metrics: Vec::new(),
        });
        for metric in metrics {
            if !taken.metrics.contains(&metric) {
                taken.metrics.push(metric);
            }
        }
    }

    /// Forgets the oldest frames beyond what is kept; between groups, so that
    /// what one group was told of the store holds until its end.
    pub(super) fn forget(&mut self, devices: impl IntoIterator<Item = u32>) {
        for device in devices {
            if let Some(recent) = self.devices.get_mut(&device) {
                while recent.frames.len() > KEPT {
                    recent.frames.pop_first();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POWER: MetricId = MetricId(0);
    const ENERGY: MetricId = MetricId(2);

    #[test]
    fn what_comes_later_goes_behind_and_what_comes_twice_is_there() {
        let mut memory = Memory::default();
        memory.meet(7, 500);
        assert!(memory.is_unsure(7, 500) && !memory.is_unsure(7, 1_000));
        assert_eq!(memory.slot(7, 1_000, POWER), Slot::At(1_000));
        memory.note(7, 1_000, 1_000, [POWER]);
        assert_eq!(memory.slot(7, 1_000, POWER), Slot::There);
        assert_eq!(memory.slot(7, 1_000, ENERGY), Slot::At(1_001));
        memory.note(7, 1_001, 1_000, [ENERGY]);
        assert_eq!(memory.slot(7, 1_000, ENERGY), Slot::There);
        // The next millisecond's own samples are not taken for the earlier one's.
        assert_eq!(memory.slot(7, 1_001, ENERGY), Slot::At(1_002));
        for slot in 1_000..1_000 + SLOTS {
            memory.note(7, slot, 1_000, [POWER]);
        }
        assert_eq!(memory.slot(7, 1_000, MetricId(5)), Slot::None);
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_unsure() {
        let mut memory = Memory::default();
        memory.meet(1, 0);
        for second in 1..=100 {
            memory.note(1, second * 1_000, second * 1_000, [POWER]);
        }
        memory.forget([1]);
        assert_eq!(memory.devices[&1].frames.len(), KEPT);
        assert!(memory.is_unsure(1, 1_000));
        assert!(!memory.is_unsure(1, 100_000) && !memory.is_unsure(1, 100_001));
    }
}
