//! What the engine keeps in memory, under one lock: devices with their rows not
//! yet sealed and their latest frame, and the list of segments.

use super::head::{DeviceHead, Sample};
use super::manifest::{Entry, Tier};
use super::segment::{BlockMeta, Segment};
use crate::query::{Selector, StoreStats};
use ahash::RandomState;
use heliostat_models::site::Labels;
use heliostat_models::{DeviceId, Frame, MetricId, Reading, Site, foreign};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Rows of a device that are fewer milliseconds apart are one instant, whose
/// readings came in several parts: open ingest gives each part a frame of its own.
pub const ONE_INSTANT_MS: i64 = 8;

/// A frame without its device.
pub type Row = (i64, Vec<(MetricId, Reading)>);

/// A device that has been heard of.
#[derive(Debug)]
pub struct DeviceEntry {
    /// Its name.
    pub id: DeviceId,
    /// Its labels; empty where the site does not know it.
    pub labels: Labels,
    /// Rows that came since the last sealing began.
    pub head: DeviceHead,
    /// Rows that are being sealed: they are in memory until their segment is there.
    pub frozen: Option<Arc<DeviceHead>>,
    /// The rows of the latest instant among the segments, by rising time.
    pub sealed: Vec<Row>,
}

impl DeviceEntry {
    /// The latest instant there is.
    pub fn newest(&self) -> Option<i64> {
        let frozen = self.frozen.as_ref().and_then(|head| head.newest());
        let sealed = self.sealed.last().map(|(at, _)| *at);
        [self.head.newest(), frozen, sealed]
            .into_iter()
            .flatten()
            .max()
    }

    /// The rows of the latest instant, by rising time.
    fn latest_rows(&self) -> Vec<Row> {
        let Some(newest) = self.newest() else {
            return Vec::new();
        };
        let from = newest.saturating_sub(ONE_INSTANT_MS - 1);
        let mut rows = self.head.readings_from(from);
        let frozen = self.frozen.iter().flat_map(|head| head.readings_from(from));
        let sealed = self.sealed.iter().filter(|(at, _)| *at >= from).cloned();
        rows.extend(frozen.chain(sealed));
        rows.sort_by_key(|(at, _)| *at);
        rows
    }

    /// The latest instant and what was read then, of a metric that was read
    /// twice the later reading.
    pub fn latest(&self) -> Option<Row> {
        let mut rows = self.latest_rows();
        let (at, mut readings) = rows.pop()?;
        for (_, earlier) in rows.into_iter().rev() {
            let before = readings.len();
            for reading in earlier {
                if readings[..before]
                    .iter()
                    .all(|(metric, _)| *metric != reading.0)
                {
                    readings.push(reading);
                }
            }
        }
        Some((at, readings))
    }

    /// Whether a row at this instant is in memory.
    pub fn contains(&self, at: i64) -> bool {
        self.head.contains(at) || self.frozen.as_ref().is_some_and(|head| head.contains(at))
    }

    /// What is in memory of a metric in `[from, to)`, by rising time.
    pub fn samples(&self, metric: MetricId, from: i64, to: i64) -> Vec<Sample> {
        let Some(last) = to.checked_sub(1).filter(|last| *last >= from) else {
            return Vec::new();
        };
        let newer = self.head.samples(metric, from, last);
        let Some(frozen) = &self.frozen else {
            return newer;
        };
        let mut all = frozen.samples(metric, from, last);
        let in_order = match (all.last(), newer.first()) {
            (Some(before), Some(after)) => before.at < after.at,
            _ => true,
        };
        all.extend(newer);
        if !in_order {
            all.sort_by_key(|sample| sample.at);
        }
        all
    }

    /// The rows being sealed are in a segment now.
    pub fn thaw(&mut self) {
        // What is newer than those rows stays in the head and is not kept twice.
        let head = std::mem::take(&mut self.head);
        self.sealed = self.latest_rows();
        self.frozen = None;
        self.head = head;
    }
}

/// A device's rows that are being sealed.
#[derive(Debug)]
pub struct Frozen {
    /// Its index.
    pub device: u32,
    /// Its name.
    pub id: DeviceId,
    /// Its kind; empty where the site does not know it.
    pub kind: &'static str,
    /// The rows.
    pub head: Arc<DeviceHead>,
}

/// Everything in memory.
#[derive(Debug)]
pub struct State {
    site: Arc<Site>,
    /// Devices by index.
    pub devices: Vec<DeviceEntry>,
    by_name: HashMap<DeviceId, u32, RandomState>,
    /// Devices that are no series of unknown metrics, by index.
    own: Vec<u32>,
    /// Those that are.
    foreign: BTreeMap<DeviceId, u32>,
    /// Segments of frames.
    pub segments: Vec<Arc<Segment>>,
    /// Rollups by the segment that they condense.
    pub rollups: HashMap<(u64, Tier), Arc<Segment>>,
    /// Segments that are gone and whose rollups are left.
    left: BTreeSet<u64>,
    /// Of those the ones that are only damaged: what they held may be sent again.
    pub lost: BTreeSet<u64>,
    /// Readings that came since the last sealing began.
    pub head_samples: u64,
    /// Readings that are being sealed.
    pub frozen_samples: u64,
    /// Counters, without the log's bytes.
    pub stats: StoreStats,
    /// Rows taken in since the opening; never falls.
    pub taken: u64,
}

impl State {
    /// Nothing yet.
    pub fn new(site: Arc<Site>) -> Self {
        Self {
            site,
            devices: Vec::new(),
            by_name: HashMap::default(),
            own: Vec::new(),
            foreign: BTreeMap::new(),
            segments: Vec::new(),
            rollups: HashMap::new(),
            left: BTreeSet::new(),
            lost: BTreeSet::new(),
            head_samples: 0,
            frozen_samples: 0,
            stats: StoreStats::default(),
            taken: 0,
        }
    }

    /// Takes a file in.
    pub fn add(&mut self, entry: &Entry, segment: Segment) {
        match (entry.tier, entry.of) {
            (Tier::Raw, _) => self.segments.push(Arc::new(segment)),
            (tier, Some(raw)) => {
                self.rollups.insert((raw, tier), Arc::new(segment));
            }
            // One that belongs to nothing is never written.
            (_, None) => {}
        }
    }

    /// Segments that are gone and whose rollups are left.
    pub fn left(&self) -> impl Iterator<Item = u64> + '_ {
        self.left.iter().copied()
    }

    /// Where there is something of a device in rollups whose segment retention
    /// has removed: of each segment the finest rollup that is left.
    pub fn removed(&self, device: u32) -> impl Iterator<Item = (Tier, &Arc<Segment>, BlockMeta)> {
        let removed = self.left.difference(&self.lost);
        removed.filter_map(move |of| {
            let (tier, rollup) = (Tier::ROLLUPS.into_iter().rev())
                .find_map(|tier| Some((tier, self.rollups.get(&(*of, tier))?)))?;
            Some((tier, rollup, *rollup.block_of(device)?))
        })
    }

    /// The last instant that each device may have had in segments that retention has removed.
    pub fn last_left(&self) -> Vec<Option<i64>> {
        let mut last = vec![None; self.devices.len()];
        for ((of, tier), rollup) in &self.rollups {
            if !self.left.contains(of) || self.lost.contains(of) {
                continue;
            }
            for meta in rollup.blocks() {
                let end = meta.last.saturating_add(tier.step_ms() - 1);
                if let Some(last) = last.get_mut(meta.device as usize) {
                    *last = (*last).max(Some(end));
                }
            }
        }
        last
    }

    /// Finds the rollups whose segment is gone.
    pub fn note_left(&mut self) {
        let there: HashSet<u64> = self.segments.iter().map(|s| s.id).collect();
        let of = self.rollups.keys().map(|(of, _)| *of);
        self.left = of.filter(|of| !there.contains(of)).collect();
    }

    /// Lets go of single files: segments without their rollups, rollups without their segment.
    pub fn retire_files(&mut self, files: &HashSet<u64>) {
        self.segments.retain(|segment| {
            let gone = files.contains(&segment.id);
            if gone {
                segment.retire();
            }
            !gone
        });
        self.rollups.retain(|_, rollup| {
            let gone = files.contains(&rollup.id);
            if gone {
                rollup.retire();
            }
            !gone
        });
        self.note_left();
    }

    /// Lets segments go, and their rollups; the files go when no query reads them any more.
    pub fn retire(&mut self, segments: &[u64]) {
        self.segments.retain(|segment| {
            let gone = segments.contains(&segment.id);
            if gone {
                segment.retire();
            }
            !gone
        });
        self.rollups.retain(|(of, _), rollup| {
            let gone = segments.contains(of);
            if gone {
                rollup.retire();
            }
            !gone
        });
    }

    /// The index of a device, if it has been heard of.
    pub fn find(&self, id: &DeviceId) -> Option<u32> {
        self.by_name.get(id).copied()
    }

    /// The index of a device, new ones included.
    pub fn intern(&mut self, id: &DeviceId) -> u32 {
        if let Some(index) = self.find(id) {
            return index;
        }
        let index = self.devices.len() as u32;
        self.devices.push(DeviceEntry {
            id: id.clone(),
            labels: self.site.labels(id).unwrap_or_default(),
            head: DeviceHead::default(),
            frozen: None,
            sealed: Vec::new(),
        });
        self.by_name.insert(id.clone(), index);
        if foreign::is_foreign(id) {
            self.foreign.insert(id.clone(), index);
        } else {
            self.own.push(index);
        }
        index
    }

    /// Takes a new row in.
    pub fn insert(&mut self, device: u32, frame: &Frame) {
        let Some(entry) = self.devices.get_mut(device as usize) else {
            return;
        };
        entry.head.insert(frame.at.0, &frame.readings);
        let samples = frame.readings.len() as u64;
        self.head_samples += samples;
        self.stats.frames += 1;
        self.taken += 1;
        self.stats.samples += samples;
    }

    /// Sets the rows in memory aside for sealing; those of the last time must
    /// have been thawed. Returns them with their devices.
    pub fn freeze(&mut self) -> Vec<Frozen> {
        let mut frozen = Vec::new();
        for (index, entry) in self.devices.iter_mut().enumerate() {
            if entry.head.is_empty() {
                continue;
            }
            let head = Arc::new(std::mem::take(&mut entry.head));
            entry.frozen = Some(Arc::clone(&head));
            frozen.push(Frozen {
                device: index as u32,
                id: entry.id.clone(),
                kind: entry.labels.kind,
                head,
            });
        }
        self.frozen_samples = std::mem::take(&mut self.head_samples);
        frozen
    }

    /// Segments that may hold rows of a device in `[from, to]`, with the place in each.
    pub fn blocks(
        &self,
        device: u32,
        from: i64,
        to: i64,
    ) -> impl Iterator<Item = (&Arc<Segment>, BlockMeta)> {
        let there = move |s: &&Arc<Segment>| s.span.0 <= to && s.span.1 >= from;
        (self.segments.iter().filter(there)).filter_map(move |segment| {
            let meta = segment.block_of(device)?;
            (meta.first <= to && meta.last >= from).then_some((segment, *meta))
        })
    }

    /// The devices that a selector speaks of, by name.
    pub fn select(&self, selector: &Selector) -> Vec<u32> {
        let mut found: Vec<u32> = if selector.is_of_unknown() && selector.devices.is_empty() {
            self.foreign.values().copied().collect()
        } else if selector.devices.is_empty() {
            self.own.clone()
        } else {
            selector
                .devices
                .iter()
                .filter_map(|id| self.find(id))
                .collect()
        };
        found.retain(|index| {
            let entry = &self.devices[*index as usize];
            (selector.labels.iter())
                .all(|(label, value)| label.of(&entry.id, &entry.labels) == value)
        });
        found.sort_by(|a, b| {
            self.devices[*a as usize]
                .id
                .cmp(&self.devices[*b as usize].id)
        });
        found.dedup();
        found
    }
}
