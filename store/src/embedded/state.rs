//! What the engine keeps in memory, under one lock: devices with their rows not
//! yet sealed and their latest frame, and the list of segments.

use super::head::DeviceHead;
use super::manifest::{Entry, Tier};
use super::segment::{BlockMeta, Segment};
use crate::query::{Selector, StoreStats};
use heliostat_models::site::Labels;
use heliostat_models::{DeviceId, Frame, MetricId, Reading, Site, foreign};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// A device that has been heard of.
#[derive(Debug)]
pub struct DeviceEntry {
    /// Its name.
    pub id: DeviceId,
    /// Its labels; empty where the site does not know it.
    pub labels: Labels,
    /// Rows not yet sealed.
    pub head: DeviceHead,
    /// The row with the latest instant.
    pub latest: Option<(i64, Vec<(MetricId, Reading)>)>,
}

/// Everything in memory.
#[derive(Debug)]
pub struct State {
    site: Arc<Site>,
    /// Devices by index.
    pub devices: Vec<DeviceEntry>,
    by_name: HashMap<DeviceId, u32>,
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
    /// Readings not yet sealed.
    pub head_samples: u64,
    /// Counters, without the log's bytes.
    pub stats: StoreStats,
}

impl State {
    /// Nothing yet.
    pub fn new(site: Arc<Site>) -> Self {
        Self {
            site,
            devices: Vec::new(),
            by_name: HashMap::new(),
            own: Vec::new(),
            foreign: BTreeMap::new(),
            segments: Vec::new(),
            rollups: HashMap::new(),
            left: BTreeSet::new(),
            head_samples: 0,
            stats: StoreStats::default(),
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

    /// Where there is something of a device in rollups whose segment is gone: of
    /// each segment the rollup of this tier, else the finest that is left.
    pub fn left(
        &self,
        device: u32,
        tier: Option<Tier>,
    ) -> impl Iterator<Item = (Tier, &Arc<Segment>, BlockMeta)> {
        self.left.iter().filter_map(move |of| {
            let tiers = Tier::ROLLUPS.into_iter().rev();
            let (tier, rollup) = (tier.into_iter().chain(tiers))
                .find_map(|tier| Some((tier, self.rollups.get(&(*of, tier))?)))?;
            Some((tier, rollup, *rollup.block_of(device)?))
        })
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
            latest: None,
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
        if entry.latest.as_ref().is_none_or(|(at, _)| frame.at.0 > *at) {
            // Reuses the vector: this happens for every frame.
            let (at, readings) = entry.latest.get_or_insert_default();
            *at = frame.at.0;
            readings.clear();
            readings.extend_from_slice(&frame.readings);
        }
        let samples = frame.readings.len() as u64;
        self.head_samples += samples;
        self.stats.frames += 1;
        self.stats.samples += samples;
    }

    /// Segments that may hold rows of a device in `[from, to]`, with the place in each.
    pub fn blocks(
        &self,
        device: u32,
        from: i64,
        to: i64,
    ) -> impl Iterator<Item = (&Arc<Segment>, BlockMeta)> {
        self.segments.iter().filter_map(move |segment| {
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
