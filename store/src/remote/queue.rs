//! The frames that an external engine does not surely have yet, and what comes
//! next for each. A state machine without I/O; time is told to it.
//!
//! ```text
//! waiting ──(looked for, if it may be there already)── sent ──(settled, same process)── forgotten
//!    ^                                                   │
//!    └── the engine was restarted, or nobody can tell ───┘
//! ```

use heliostat_models::{DeviceId, Frame, MetricId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// A frame's number in the queue; rises.
pub type Number = u64;

/// Instants remembered of each device, to tell doubles without asking.
const REMEMBERED: usize = 300;

/// Where a frame stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// To be sent; `look` when parts of it may be there already, and not before an instant.
    Waiting {
        /// Whether to look for it first.
        look: bool,
        /// When it may be looked for or sent.
        after: Option<Instant>,
    },
    /// Acknowledged by the engine at an instant, by this process of it.
    Sent {
        /// When.
        at: Instant,
        /// Which process, where that can be told.
        process: Option<String>,
    },
}

#[derive(Debug)]
struct Entry {
    frame: Arc<Frame>,
    stage: Stage,
}

/// What is known of a device's instants without asking.
#[derive(Debug, Default)]
struct Known {
    /// All frames at or after this instant are among `instants`.
    from: i64,
    instants: std::collections::BTreeSet<i64>,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: BTreeMap<Number, Entry>,
    by_device: HashMap<DeviceId, BTreeMap<i64, Number>>,
    known: HashMap<DeviceId, Known>,
    latest: HashMap<DeviceId, Arc<Frame>>,
    next: Number,
    readings: usize,
}

impl Queue {
    /// Takes a frame in; its number. It must not be there already.
    pub fn push(&mut self, frame: Arc<Frame>, stage: Stage) -> Number {
        let number = self.next;
        self.next += 1;
        let (device, at) = (frame.device.clone(), frame.at.0);
        self.readings += frame.readings.len();
        if (self.latest.get(&device)).is_none_or(|known| known.at < frame.at) {
            self.latest.insert(device.clone(), Arc::clone(&frame));
        }
        let known = self.known.entry(device.clone()).or_insert_with(|| Known {
            // Nothing is known of what came before this program began.
            from: i64::MAX,
            ..Known::default()
        });
        known.instants.insert(at);
        if known.instants.len() > REMEMBERED
            && let Some(first) = known.instants.pop_first()
        {
            known.from = known.from.max(first.saturating_add(1));
        }
        (self.by_device.entry(device).or_default()).insert(at, number);
        self.entries.insert(number, Entry { frame, stage });
        number
    }

    /// Whether a frame is stored already; `None` when only the engine can say.
    pub fn is_known(&self, device: &DeviceId, at: i64) -> Option<bool> {
        let queued = (self.by_device.get(device)).is_some_and(|frames| frames.contains_key(&at));
        let known = self.known.get(device);
        if queued || known.is_some_and(|k| k.instants.contains(&at)) {
            return Some(true);
        }
        known.filter(|k| at >= k.from).map(|_| false)
    }

    /// The engine has said which instants of a device stand at or after `from`.
    pub fn learn(&mut self, device: &DeviceId, from: i64, instants: &[i64]) {
        let known = self.known.entry(device.clone()).or_insert_with(|| Known {
            from: i64::MAX,
            ..Known::default()
        });
        known.instants.extend(instants);
        known.from = known.from.min(from);
        while known.instants.len() > REMEMBERED
            && let Some(first) = known.instants.pop_first()
        {
            known.from = known.from.max(first.saturating_add(1));
        }
    }

    /// Up to so many readings to send at `now`, oldest first; either all to be
    /// looked for before, or none.
    pub fn to_send(&self, now: Instant, readings: usize) -> (bool, Vec<(Number, Arc<Frame>)>) {
        let mut batch: Vec<(Number, Arc<Frame>)> = Vec::new();
        let (mut looking, mut count) = (false, 0);
        for (number, entry) in &self.entries {
            let Stage::Waiting { look, after } = &entry.stage else {
                continue;
            };
            if after.is_some_and(|after| after > now) {
                continue;
            }
            if batch.is_empty() {
                looking = *look;
            }
            if *look != looking || (count >= readings && !batch.is_empty()) {
                break;
            }
            count += entry.frame.readings.len() + 1;
            batch.push((*number, Arc::clone(&entry.frame)));
        }
        (looking, batch)
    }

    /// The frames acknowledged at or before `until`, with the process that did.
    pub fn settled(
        &self,
        until: Instant,
        most: usize,
    ) -> Vec<(Number, Arc<Frame>, Instant, Option<String>)> {
        (self.entries.iter())
            .filter_map(|(number, entry)| match &entry.stage {
                Stage::Sent { at, process } if *at <= until => {
                    Some((*number, Arc::clone(&entry.frame), *at, process.clone()))
                }
                _ => None,
            })
            .take(most)
            .collect()
    }

    /// Moves frames on.
    pub fn set(&mut self, numbers: impl IntoIterator<Item = Number>, stage: &Stage) {
        for number in numbers {
            if let Some(entry) = self.entries.get_mut(&number) {
                entry.stage = stage.clone();
            }
        }
    }

    /// The engine was restarted: what it had acknowledged to an earlier process is looked for.
    pub fn restarted(&mut self, process: &str, visible: impl Fn(Instant) -> Instant) -> usize {
        let mut count = 0;
        for entry in self.entries.values_mut() {
            if let Stage::Sent { at, process: by } = &entry.stage
                && by.as_deref() != Some(process)
            {
                entry.stage = Stage::Waiting {
                    look: true,
                    after: Some(visible(*at)),
                };
                count += 1;
            }
        }
        count
    }

    /// Forgets frames that the engine has for good.
    pub fn forget(&mut self, numbers: impl IntoIterator<Item = Number>) {
        for number in numbers {
            let Some(entry) = self.entries.remove(&number) else {
                continue;
            };
            self.readings -= entry.frame.readings.len();
            if let Some(frames) = self.by_device.get_mut(&entry.frame.device) {
                frames.remove(&entry.frame.at.0);
                if frames.is_empty() {
                    self.by_device.remove(&entry.frame.device);
                }
            }
        }
    }

    /// The oldest number still here; the next one when none is.
    pub fn oldest(&self) -> Number {
        (self.entries.first_key_value()).map_or(self.next, |(number, _)| *number)
    }

    /// Number the next frame gets.
    pub fn next(&self) -> Number {
        self.next
    }

    /// Frames here.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Readings here.
    pub fn readings(&self) -> usize {
        self.readings
    }

    /// The frames here of the devices that `wanted` accepts, with instants in `[from, to)`.
    pub fn local(&self, wanted: impl Fn(&DeviceId) -> bool, from: i64, to: i64) -> Vec<Arc<Frame>> {
        let mut found = Vec::new();
        if from >= to {
            return found;
        }
        for (device, frames) in &self.by_device {
            if wanted(device) {
                found.extend(
                    (frames.range(from..to))
                        .filter_map(|(_, number)| self.entries.get(number))
                        .map(|entry| Arc::clone(&entry.frame)),
                );
            }
        }
        found
    }

    /// The latest frames written by this program, of the devices that `wanted` accepts.
    pub fn latest(&self, wanted: impl Fn(&DeviceId) -> bool) -> Vec<Arc<Frame>> {
        (self.latest.values())
            .filter(|frame| wanted(&frame.device))
            .cloned()
            .collect()
    }
}

/// What must still be written of a frame of which parts were found; `None` when it is whole.
pub fn lacking(frame: &Frame, found: Option<&super::engine::Found>) -> Option<Frame> {
    let Some(found) = found else {
        return Some(frame.clone());
    };
    let there: std::collections::HashSet<MetricId> =
        found.frame.readings.iter().map(|(m, _)| *m).collect();
    let readings: Vec<_> = (frame.readings.iter())
        .filter(|(metric, _)| !there.contains(metric))
        .copied()
        .collect();
    (!readings.is_empty() || !found.marked).then(|| Frame {
        device: frame.device.clone(),
        at: frame.at,
        readings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::Timestamp;
    use std::time::Duration;

    fn frame(device: &str, at: i64) -> Arc<Frame> {
        Arc::new(Frame {
            device: DeviceId::from(device),
            at: Timestamp(at),
            readings: vec![],
        })
    }

    const NEW: Stage = Stage::Waiting {
        look: false,
        after: None,
    };

    #[test]
    fn a_restart_sends_back_what_the_earlier_process_had_acknowledged() {
        let mut queue = Queue::default();
        let now = super::super::engine_time();
        let a = queue.push(frame("a", 1), NEW);
        let b = queue.push(frame("a", 2), NEW);
        let sent = |process: &str| Stage::Sent {
            at: now,
            process: Some(process.to_owned()),
        };
        queue.set([a], &sent("one"));
        queue.set([b], &sent("two"));
        assert_eq!(queue.restarted("two", |at| at), 1);
        let (look, batch) = queue.to_send(now, 1_000);
        assert!(look);
        assert_eq!(batch.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [a]);
        assert_eq!(queue.settled(now, 10).len(), 1);
        queue.forget([a, b]);
        assert_eq!((queue.len(), queue.oldest()), (0, queue.next()));
        // Forgotten frames are still known, so that a late double is one.
        assert_eq!(queue.is_known(&DeviceId::from("a"), 2), Some(true));
        assert_eq!(queue.is_known(&DeviceId::from("a"), 3), None);
        queue.learn(&DeviceId::from("a"), 0, &[]);
        assert_eq!(queue.is_known(&DeviceId::from("a"), 3), Some(false));
    }

    #[test]
    fn what_may_have_arrived_waits_until_it_can_be_seen() {
        let mut queue = Queue::default();
        let now = super::super::engine_time();
        let later = now + Duration::from_secs(12);
        queue.push(
            frame("a", 1),
            Stage::Waiting {
                look: true,
                after: Some(later),
            },
        );
        queue.push(frame("a", 2), NEW);
        let (look, batch) = queue.to_send(now, 1_000);
        assert_eq!((look, batch.len()), (false, 1));
        let (look, batch) = queue.to_send(later, 1_000);
        assert_eq!((look, batch.len()), (true, 1));
    }

    #[test]
    fn only_so_many_instants_are_remembered_and_the_rest_is_not_guessed() {
        let mut queue = Queue::default();
        let device = DeviceId::from("a");
        queue.learn(&device, 0, &[]);
        for at in 0..(REMEMBERED as i64 + 10) {
            let number = queue.push(frame("a", at), NEW);
            queue.forget([number]);
        }
        assert_eq!(queue.is_known(&device, 3), None);
        assert_eq!(queue.is_known(&device, 20), Some(true));
        assert_eq!(queue.is_known(&device, 10_000), Some(false));
    }
}
