//! A group of appends that is written with one fsync: which of its frames are
//! new, which are doubles, late or refused.

use super::Shared;
use super::manifest::Tier;
use super::segment::{BlockMeta, Cache, Segment};
use crate::instants::Instants;
use crate::query::{AppendReceipt, StoreError};
use ahash::RandomState;
use heliostat_models::{Catalogue, Frame, MetricId, Reading, Timestamp};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// Times of sealed blocks kept for the search for doubles, in instants (8 bytes each).
const KEPT_TIMES: usize = 500_000;

/// Where an append's outcome goes.
pub type Reply = oneshot::Sender<Result<AppendReceipt, StoreError>>;

/// Frames to append, and to whom to answer.
pub type Append = (Vec<Frame>, Reply);

/// An append on its way.
#[derive(Debug)]
pub struct Pending {
    /// Its new frames, each with the index of its device.
    pub fresh: Vec<(u32, Frame)>,
    /// What will be answered.
    pub receipt: AppendReceipt,
    /// To whom.
    pub reply: Reply,
}

/// What a group does to the counters once it is durable.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// New frames older than the latest of their device that was stored before the append.
    pub late: u64,
    /// New frames that came, within one append, after a newer one of their device.
    pub out_of_order: u64,
}

/// Tells new frames from doubles.
#[derive(Debug)]
pub struct Sorter {
    shared: Arc<Shared>,
    instants: Instants,
    /// Latest instant of each device, by index; of frames that are on their way as well.
    newest: Vec<Option<i64>>,
    /// Up to when each device may have had frames that retention had removed
    /// before the store was opened.
    floor: Vec<Option<i64>>,
    /// The metrics of a frame that was found sound: the next is most often like it.
    sound: Vec<MetricId>,
    times: HashMap<(u64, u32), Arc<[i64]>, RandomState>,
    kept_times: usize,
}

impl Sorter {
    /// For a store.
    pub fn new(shared: Arc<Shared>, instants: Instants) -> Self {
        let (newest, floor) = {
            let state = shared.read();
            let floor = state.last_left();
            let devices = state.devices.iter().zip(&floor);
            let newest = devices.map(|(d, floor)| d.newest().max(*floor)).collect();
            (newest, floor)
        };
        Self {
            shared,
            instants,
            newest,
            floor,
            sound: Vec::new(),
            times: HashMap::default(),
            kept_times: 0,
        }
    }

    /// Sorts a group; answers at once what cannot be stored.
    pub fn sort(&mut self, appends: Vec<Append>, now: Timestamp) -> (Vec<Pending>, Counts) {
        let allowed = self.instants.allowed(now);
        let mut counts = Counts::default();
        let mut group: Vec<Pending> = Vec::with_capacity(appends.len());
        // Frames of this group; kept only from the first one on that is not
        // newer than all of its device.
        let mut known: Option<HashSet<(u32, i64), RandomState>> = None;
        for (mut frames, reply) in appends {
            if let Err(error) = self.check(&mut frames, allowed) {
                if matches!(error, StoreError::BadInstant { .. }) {
                    self.shared.write().stats.refused += frames.len() as u64;
                }
                let _ = reply.send(Err(error));
                continue;
            }
            let devices = self.intern(&frames);
            let mut receipt = AppendReceipt::default();
            let mut fresh: Vec<(u32, Frame)> = Vec::with_capacity(frames.len());
            for (frame, device) in frames.into_iter().zip(devices) {
                let (at, samples) = (frame.at.0, frame.readings.len() as u64);
                let newest = self.newest.get(device as usize).copied().flatten();
                let is_newer = newest.is_none_or(|newest| at > newest);
                if is_newer {
                    self.note(device, Some(at));
                } else {
                    let known = known.get_or_insert_with(|| {
                        let before = group.iter().flat_map(|append| &append.fresh);
                        let frames = before.chain(&fresh);
                        frames
                            .map(|(device, frame)| (*device, frame.at.0))
                            .collect()
                    });
                    if known.contains(&(device, at)) || self.is_stored(device, at) {
                        receipt.duplicates += 1;
                        receipt.duplicate_samples += samples;
                        continue;
                    }
                    let durable = self.durable(device);
                    if durable.is_some_and(|durable| at < durable) {
                        counts.late += 1;
                    } else {
                        counts.out_of_order += 1;
                    }
                }
                if let Some(known) = &mut known {
                    known.insert((device, at));
                }
                receipt.frames += 1;
                receipt.samples += samples;
                fresh.push((device, frame));
            }
            group.push(Pending {
                fresh,
                receipt,
                reply,
            });
        }
        (group, counts)
    }

    /// A group could not be written: none of its frames is there.
    pub fn forget(&mut self, group: &[Pending]) {
        for (device, _) in group.iter().flat_map(|append| &append.fresh) {
            let durable = self.durable(*device);
            self.note(*device, durable);
        }
    }

    fn note(&mut self, device: u32, newest: Option<i64>) {
        let index = device as usize;
        if index >= self.newest.len() {
            self.newest.resize(index + 1, None);
        }
        self.newest[index] = newest;
    }

    fn durable(&self, device: u32) -> Option<i64> {
        let state = self.shared.read();
        let newest = (state.devices.get(device as usize)).and_then(|entry| entry.newest());
        newest.max(self.floor.get(device as usize).copied().flatten())
    }

    /// Whether frames can be stored at all; of a metric that stands twice in
    /// one, the first counts, as in [`Frame::get`].
    fn check(
        &mut self,
        frames: &mut [Frame],
        (first, last): (Timestamp, Timestamp),
    ) -> Result<(), StoreError> {
        let known = Catalogue::builtin().len();
        for frame in frames {
            if frame.at < first || frame.at > last {
                return Err(StoreError::BadInstant {
                    device: frame.device.to_string(),
                    at: frame.at,
                    first,
                    last,
                });
            }
            let readings = &mut frame.readings;
            let like_before = readings.len() == self.sound.len()
                && (readings.iter().zip(&self.sound)).all(|((metric, _), sound)| metric == sound);
            if like_before {
                continue;
            }
            if let Some((metric, _)) = readings.iter().find(|(m, _)| usize::from(m.0) >= known) {
                return Err(StoreError::UnknownMetric(format!("number {}", metric.0)));
            }
            keep_first_of_each(readings);
            self.sound.clear();
            self.sound
                .extend(readings.iter().map(|(metric, _)| *metric));
        }
        Ok(())
    }

    /// The indices of the frames' devices, new ones included.
    fn intern(&self, frames: &[Frame]) -> Vec<u32> {
        let known: Vec<Option<u32>> = {
            let state = self.shared.read();
            frames.iter().map(|f| state.find(&f.device)).collect()
        };
        (frames.iter().zip(known))
            .map(|(frame, known)| {
                known.unwrap_or_else(|| self.shared.write().intern(&frame.device))
            })
            .collect()
    }

    /// Whether a device's row at an instant is in memory or in a segment, or may
    /// have been in one that retention has removed.
    fn is_stored(&mut self, device: u32, at: i64) -> bool {
        type Found = Vec<(Arc<Segment>, BlockMeta, i64)>;
        let (segments, left): (Found, Found) = {
            let state = self.shared.read();
            if state.devices[device as usize].contains(at) {
                return true;
            }
            let segments = (state.blocks(device, at, at))
                .map(|(segment, meta)| (Arc::clone(segment), meta, at));
            // Of those only rollups are left. Where one has a row for the step that
            // the frame falls into, nobody can tell whether the frame went into it;
            // taken again, it would count twice for as long as rollups are kept.
            let left = (state.removed(device))
                .map(|(tier, rollup, meta)| (Arc::clone(rollup), meta, step_of(at, tier)))
                .filter(|(_, meta, step)| (meta.first..=meta.last).contains(step));
            (segments.collect(), left.collect())
        };
        (segments.into_iter().chain(left))
            .any(|(segment, meta, at)| self.times_of(&segment, &meta).binary_search(&at).is_ok())
    }

    fn times_of(&mut self, segment: &Arc<Segment>, meta: &BlockMeta) -> Arc<[i64]> {
        let key = (segment.id, meta.device);
        if let Some(times) = self.times.get(&key) {
            return Arc::clone(times);
        }
        // What a damaged block held is lost; a frame sent again heals it.
        let times = if segment.is_damaged(meta.group) {
            Vec::new()
        } else {
            (segment.times(&mut Cache::default(), meta)).unwrap_or_else(|error| {
                if segment.report_damage(meta.group, &error) {
                    self.shared.damaged.fetch_add(1, Ordering::Relaxed);
                }
                Vec::new()
            })
        };
        let times: Arc<[i64]> = times.into();
        if self.kept_times > KEPT_TIMES {
            self.times.clear();
            self.kept_times = 0;
        }
        self.kept_times += times.len();
        self.times.insert(key, Arc::clone(&times));
        times
    }
}

/// Begin of the step of a rollup that an instant lies in.
fn step_of(at: i64, tier: Tier) -> i64 {
    at.saturating_sub(at.rem_euclid(tier.step_ms().max(1)))
}

/// A metric stands in a frame at most once; of doubles the first counts.
fn keep_first_of_each(readings: &mut Vec<(MetricId, Reading)>) {
    let mut place = 1;
    while place < readings.len() {
        let (before, rest) = readings.split_at(place);
        if before.iter().any(|(metric, _)| *metric == rest[0].0) {
            readings.remove(place);
        } else {
            place += 1;
        }
    }
}
