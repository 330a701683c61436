//! Which frame a sample goes into.
//!
//! The store knows a frame by device and instant and keeps the first that
//! comes. Senders of open protocols cut an instant's samples into several
//! requests. What comes later for an instant that has its frame already is put
//! into a frame of its own, one or a few milliseconds after it ([`SLOTS`]); what
//! comes twice is recognised by what was put where.

use super::part::MetricSet;
use heliostat_models::MetricId;
use std::collections::VecDeque;

/// Milliseconds, the instant's own included, over which an instant's samples may spread.
pub(super) const SLOTS: i64 = 8;
/// Frames remembered a device. The store is asked about older ones.
const KEPT: usize = 16;
/// The same of a device that stands for a series of an unknown metric: it has
/// one sample an instant, and there are many of them.
const KEPT_OF_UNKNOWN: usize = 2;

/// A frame that is in the store, or on its way.
#[derive(Clone, Copy, Debug)]
struct Taken {
    slot: i64,
    /// The instant its samples are of, in milliseconds before the slot.
    behind: u8,
    metrics: MetricSet,
    /// Its place among the frames that are on their way, if it is one.
    frame: u32,
}

impl Taken {
    fn of(&self) -> i64 {
        self.slot - i64::from(self.behind)
    }
}

/// One device's latest frames.
#[derive(Debug)]
struct Recent {
    /// By rising slot.
    frames: VecDeque<Taken>,
    /// Nothing of this device is in the store after this instant, as far as is known here.
    high: i64,
    kept: u8,
}

/// What was put where lately, by number of the device.
#[derive(Debug, Default)]
pub(super) struct Memory {
    devices: Vec<Option<Recent>>,
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
    fn of(&self, device: u32) -> Option<&Recent> {
        self.devices.get(device as usize)?.as_ref()
    }

    fn of_mut(&mut self, device: u32) -> Option<&mut Recent> {
        self.devices.get_mut(device as usize)?.as_mut()
    }

    /// Whether the device was met before.
    pub(super) fn has_met(&self, device: u32) -> bool {
        self.of(device).is_some()
    }

    /// Meets a device whose latest frame in the store is at `high`.
    pub(super) fn meet(&mut self, device: u32, is_unknown: bool, high: i64) {
        let place = device as usize;
        if self.devices.len() <= place {
            self.devices.resize_with(place + 1, || None);
        }
        let kept = if is_unknown { KEPT_OF_UNKNOWN } else { KEPT };
        self.devices[place] = Some(Recent {
            frames: VecDeque::new(),
            high,
            kept: kept as u8,
        });
    }

    /// Forgets a device: what is in the store is not known any more.
    pub(super) fn part_from(&mut self, device: u32) {
        if let Some(recent) = self.devices.get_mut(device as usize) {
            *recent = None;
        }
    }

    /// Whether only the store can tell what it has of an instant.
    pub(super) fn is_unsure(&self, device: u32, at: i64) -> bool {
        (self.of(device)).is_none_or(|recent| at <= recent.high && recent.at(at).is_none())
    }

    /// Whether no frame is remembered at an instant or in the slots behind it.
    pub(super) fn is_free(&self, device: u32, at: i64) -> bool {
        (self.of(device)).is_none_or(|recent| recent.slots(at).next().is_none())
    }

    /// Where a metric of an instant belongs.
    pub(super) fn slot(&self, device: u32, at: i64, metric: MetricId) -> Slot {
        let Some(recent) = self.of(device) else {
            return Slot::At(at);
        };
        let mut free = Some(at);
        for taken in recent.slots(at) {
            if taken.of() == at && taken.metrics.contains(metric) {
                return Slot::There;
            }
            if free == Some(taken.slot) {
                free = (taken.slot + 1 < at.saturating_add(SLOTS)).then_some(taken.slot + 1);
            }
        }
        free.map_or(Slot::None, Slot::At)
    }

    /// The frame on its way that samples of an instant may still join.
    pub(super) fn on_its_way(&self, device: u32, at: i64) -> Option<u32> {
        let taken = self.of(device)?.at(at)?;
        (taken.behind == 0).then_some(taken.frame)
    }

    /// Notes that a frame is on its way to `slot` with these metrics, of instant
    /// `of`: from now on it counts as taken.
    pub(super) fn send(&mut self, device: u32, slot: i64, of: i64, metrics: MetricSet, frame: u32) {
        self.enter(device, slot, of, metrics, frame);
    }

    /// Notes that the store has a frame at `slot` with these metrics, of instant `of`.
    pub(super) fn note(
        &mut self,
        device: u32,
        slot: i64,
        of: i64,
        metrics: impl IntoIterator<Item = MetricId>,
    ) {
        let mut set = MetricSet::default();
        for metric in metrics {
            set.insert(metric);
        }
        self.enter(device, slot, of, set, u32::MAX);
    }

    fn enter(&mut self, device: u32, slot: i64, of: i64, metrics: MetricSet, frame: u32) {
        if !self.has_met(device) {
            self.meet(device, false, i64::MIN);
        }
        let Some(recent) = self.of_mut(device) else {
            return;
        };
        recent.high = recent.high.max(slot);
        let new = Taken {
            slot,
            behind: u8::try_from(slot.saturating_sub(of)).unwrap_or(u8::MAX),
            metrics,
            frame,
        };
        match recent.place(slot) {
            Ok(place) => recent.frames[place].metrics.extend(metrics),
            Err(place) => recent.frames.insert(place, new),
        }
    }

    /// Takes back that a frame was on its way.
    pub(super) fn unsend(&mut self, device: u32, slot: i64) {
        if let Some(recent) = self.of_mut(device)
            && let Ok(place) = recent.place(slot)
        {
            recent.frames.remove(place);
        }
    }

    /// Forgets the oldest frames beyond what is kept; between groups, so that
    /// what one group was told of the store holds until its end.
    pub(super) fn forget(&mut self, devices: impl IntoIterator<Item = u32>) {
        for device in devices {
            if let Some(recent) = self.of_mut(device) {
                let beyond = (recent.frames.len()).saturating_sub(usize::from(recent.kept));
                recent.frames.drain(..beyond);
                if beyond > KEPT {
                    recent.frames.shrink_to(KEPT);
                }
            }
        }
    }
}

impl Recent {
    fn place(&self, slot: i64) -> Result<usize, usize> {
        // Nearly everything comes in order.
        match self.frames.back() {
            None => Err(0),
            Some(last) if last.slot < slot => Err(self.frames.len()),
            Some(_) => self.frames.binary_search_by_key(&slot, |t| t.slot),
        }
    }

    fn at(&self, slot: i64) -> Option<&Taken> {
        self.frames.get(self.place(slot).ok()?)
    }

    /// What stands in the slots of an instant.
    fn slots(&self, at: i64) -> impl Iterator<Item = &Taken> {
        let (Ok(first) | Err(first)) = self.place(at);
        let end = at.saturating_add(SLOTS);
        (self.frames.range(first..)).take_while(move |t| t.slot < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const POWER: MetricId = MetricId(0);
    const ENERGY: MetricId = MetricId(2);

    #[test]
    fn what_comes_later_goes_behind_and_what_comes_twice_is_there() {
        let mut memory = Memory::default();
        memory.meet(7, false, 500);
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
        memory.unsend(7, 1_003);
        assert_eq!(memory.slot(7, 1_000, MetricId(5)), Slot::At(1_003));
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_is_unsure() {
        let mut memory = Memory::default();
        memory.meet(1, false, 0);
        memory.meet(2, true, 0);
        for second in 1..=100 {
            memory.note(1, second * 1_000, second * 1_000, [POWER]);
            memory.note(2, second * 1_000, second * 1_000, [POWER]);
        }
        memory.forget([1, 2]);
        assert_eq!(memory.of(1).unwrap().frames.len(), KEPT);
        assert_eq!(memory.of(2).unwrap().frames.len(), KEPT_OF_UNKNOWN);
        assert!(memory.is_unsure(1, 1_000));
        assert!(!memory.is_unsure(1, 100_000) && !memory.is_unsure(1, 100_001));
        memory.part_from(1);
        assert!(memory.is_unsure(1, 100_001) && !memory.has_met(1));
    }

    proptest! {
        /// The slot is what a look at each slot in turn says.
        #[test]
        fn the_slot_is_the_first_free_one(
            notes in prop::collection::vec((0i64..20, 0i64..8, 0u16..3), 0..25), at in 0i64..20, metric in 0u16..3,
        ) {
            let mut memory = Memory::default();
            let mut model = std::collections::BTreeMap::new();
            for (slot, behind, metric) in notes {
                memory.note(0, slot, slot - behind, [MetricId(metric)]);
                let (_, metrics) = model.entry(slot).or_insert((slot - behind, vec![]));
                metrics.push(metric);
            }
            let there = (at..at + SLOTS).any(|slot| {
                model.get(&slot).is_some_and(|(of, metrics)| *of == at && metrics.contains(&metric))
            });
            let free = (at..at + SLOTS).find(|slot| !model.contains_key(slot));
            let expected = match (there, free) {
                (true, _) => Slot::There,
                (false, Some(slot)) => Slot::At(slot),
                (false, None) => Slot::None,
            };
            prop_assert_eq!(memory.slot(0, at, MetricId(metric)), expected);
            prop_assert_eq!(memory.is_free(0, at), (at..at + SLOTS).all(|s| !model.contains_key(&s)));
        }
    }
}
