//! A history as a row of slots, gaps left open.

use super::SLOT;
use crate::time::Timestamp;
use std::time::Duration;

/// How long a value holds at most when no next one follows: the longest
/// resolution of the grid's data.
const LONGEST_HOLD: Duration = Duration::from_secs(3_600);

/// Values in slots from `first` on; `None` is a gap.
pub(super) struct Series {
    first: Timestamp,
    slots: Vec<Option<f64>>,
}

impl Series {
    /// From (instant, value) in any order. What is newer than `issued`, older
    /// than `days` before it, or not finite is left out. `None` if nothing is left.
    pub(super) fn new(
        history: &[(Timestamp, f64)],
        issued: Timestamp,
        days: usize,
    ) -> Option<Self> {
        let first = (issued - Duration::from_secs(86_400 * days as u64)).floor_to(SLOT);
        let mut records: Vec<(Timestamp, f64)> = (history.iter().copied())
            .filter(|(at, value)| *at >= first && *at <= issued && value.is_finite())
            .collect();
        if records.is_empty() {
            return None;
        }
        records.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let hold = resolution(&records);
        let mut sums: Vec<(f64, u32)> = Vec::new();
        for (index, (at, value)) in records.iter().enumerate() {
            let end = (records.get(index + 1)).map_or(*at + hold, |next| next.0.min(*at + hold));
            let from = slot_index(first, *at);
            // A value that is shorter than a slot still counts in its own.
            let to = slot_index(first, Timestamp(end.0 - 1)).max(from);
            if sums.len() <= to {
                sums.resize(to + 1, (0.0, 0));
            }
            for (sum, count) in &mut sums[from..=to] {
                *sum += value;
                *count += 1;
            }
        }
        let slots = (sums.into_iter())
            .map(|(sum, count)| (count > 0).then(|| sum / f64::from(count)))
            .collect();
        Some(Self { first, slots })
    }

    /// The slot that contains an instant not before the first slot.
    pub(super) fn slot_of(&self, at: Timestamp) -> usize {
        slot_index(self.first, at)
    }

    /// When a slot begins.
    pub(super) fn start_of(&self, slot: usize) -> Timestamp {
        self.first + SLOT * slot as u32
    }

    /// The value of a slot, if known.
    pub(super) fn get(&self, slot: usize) -> Option<f64> {
        self.slots.get(slot).copied().flatten()
    }

    /// All known values.
    pub(super) fn values(&self) -> impl Iterator<Item = f64> + '_ {
        self.slots.iter().filter_map(|slot| *slot)
    }

    /// Their mean.
    pub(super) fn mean(&self) -> Option<f64> {
        let (sum, count) = self.values().fold((0.0, 0_u32), |(s, n), v| (s + v, n + 1));
        (count > 0).then(|| sum / f64::from(count))
    }

    /// The last known value before a slot.
    pub(super) fn last_before(&self, slot: usize) -> Option<f64> {
        let end = slot.min(self.slots.len());
        self.slots[..end].iter().rev().find_map(|value| *value)
    }

    /// Share of the slots in a range that are known.
    pub(super) fn coverage(&self, from: usize, to: usize) -> f64 {
        let known = (from..to).filter(|slot| self.get(*slot).is_some()).count();
        known as f64 / (to - from).max(1) as f64
    }
}

fn slot_index(first: Timestamp, at: Timestamp) -> usize {
    usize::try_from((at.0 - first.0).div_euclid(SLOT.as_millis() as i64)).unwrap_or(0)
}

/// The usual distance between records (their median), a slot at least.
fn resolution(records: &[(Timestamp, f64)]) -> Duration {
    let mut steps: Vec<i64> = records.windows(2).map(|w| w[1].0.0 - w[0].0.0).collect();
    steps.sort_unstable();
    let median = steps.get(steps.len() / 2).copied().unwrap_or(0);
    Duration::from_millis(median.unsigned_abs()).clamp(SLOT, LONGEST_HOLD)
}
