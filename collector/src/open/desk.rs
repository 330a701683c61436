//! The desk: one task that takes all waiting requests together, puts their
//! samples into frames, appends those, and answers once they are durable.

use super::OpenError;
use super::parcel::Tally;
use super::part::{MetricSet, Part};
use super::place::{Memory, SLOTS, Slot};
use heliostat_models::{Catalogue, DeviceId, Frame, Timestamp};
use heliostat_store::query::{Label, Selector};
use heliostat_store::{Query, StoreError, TimeSeriesStore};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Requests written together at most.
const GROUP: usize = 64;
/// The store is asked about this long a stretch at a time, in milliseconds.
const STRETCH: i64 = 600_000;
/// And about so many devices at a time.
const DEVICES: u32 = 500;

/// A request, read.
pub(super) struct Request {
    pub(super) parts: Vec<Part>,
    pub(super) reply: oneshot::Sender<Result<Written, OpenError>>,
}

/// What became of a request's samples.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub(super) stored: u64,
    /// The same, of unknown metrics.
    pub(super) unknown: u64,
    pub(super) duplicates: u64,
    /// Samples of instants that all slots are taken of.
    pub(super) crowded: u64,
}

impl Written {
    fn store(&mut self, part: &Part) {
        let samples = part.readings.len() as u64;
        if part.is_unknown {
            self.unknown += samples;
        } else {
            self.stored += samples;
        }
    }

    pub(super) fn enter(self, tally: &mut Tally) {
        tally.stored += self.stored;
        tally.unknown += self.unknown;
        tally.duplicates += self.duplicates;
        if self.crowded > 0 {
            let reason = format!("an instant's samples came in more than {SLOTS} parts");
            *tally.unplaced.entry(reason).or_default() += self.crowded;
        }
    }
}

pub(super) struct Desk {
    store: Arc<dyn TimeSeriesStore>,
    memory: Memory,
}

/// A frame on its way: where it goes, and what is in it.
struct Placed {
    slot: i64,
    first: Part,
    /// What other requests said of the same instant.
    more: Vec<Part>,
}

impl Placed {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        std::iter::once(&self.first).chain(&self.more)
    }

    fn frame(&self) -> Frame {
        let mut readings = self.first.readings.clone();
        for part in &self.more {
            readings.extend_from_slice(&part.readings);
        }
        Frame {
            device: self.first.device.clone(),
            at: Timestamp(self.slot),
            readings,
        }
    }
}

impl Desk {
    pub(super) fn new(store: Arc<dyn TimeSeriesStore>) -> Self {
        Self {
            store,
            memory: Memory::default(),
        }
    }

    /// Works until nobody can send any more.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut requests = Vec::with_capacity(GROUP);
        while queue.recv_many(&mut requests, GROUP).await > 0 {
            let mut parts = Vec::new();
            let mut replies = Vec::with_capacity(requests.len());
            for (place, mut request) in requests.drain(..).enumerate() {
                if place == 0 {
                    parts = request.parts;
                } else {
                    for part in &mut request.parts {
                        part.request = place as u32;
                    }
                    parts.append(&mut request.parts);
                }
                replies.push(request.reply);
            }
            let mut written = vec![Written::default(); replies.len()];
            let outcome = self.write(parts, &mut written).await;
            for (reply, written) in replies.into_iter().zip(written) {
                // Who no longer waits has been served all the same.
                let _ = reply.send(match &outcome {
                    Ok(()) => Ok(written),
                    Err(error @ StoreError::BadInstant { .. }) => {
                        Err(OpenError::Refused(error.to_string()))
                    }
                    Err(error) => Err(OpenError::Store(error.to_string())),
                });
            }
        }
    }

    async fn write(
        &mut self,
        mut parts: Vec<Part>,
        written: &mut [Written],
    ) -> Result<(), StoreError> {
        // Stable, so that of two requests that say the same the first counts.
        parts.sort_by_key(|part| part.at);
        let mut touched: Vec<u32> = parts.iter().map(|part| part.number).collect();
        touched.sort_unstable();
        touched.dedup();
        let outcome = self.write_parts(parts, written).await;
        if outcome.is_err() {
            // What was on its way may be in the store or not.
            for device in touched {
                self.memory.part_from(device);
            }
        } else {
            self.memory.forget(touched);
        }
        outcome
    }

    async fn write_parts(
        &mut self,
        mut parts: Vec<Part>,
        written: &mut [Written],
    ) -> Result<(), StoreError> {
        self.meet(&parts).await?;
        let unsure = |part: &&Part| self.memory.is_unsure(part.number, part.at);
        let unsure: Vec<Part> = parts.iter().filter(unsure).cloned().collect();
        self.recall(unsure.iter()).await?;
        // Each round fills at least one slot of each instant, so that the rounds end.
        for _ in 0..SLOTS {
            let placed = self.place(std::mem::take(&mut parts), written);
            if placed.is_empty() {
                break;
            }
            let frames = placed.iter().map(Placed::frame).collect();
            let receipt = self.store.append(frames).await?;
            if receipt.duplicates == 0 {
                for part in placed.iter().flat_map(Placed::parts) {
                    written[part.request as usize].store(part);
                }
                break;
            }
            parts = self.sort_out(placed, written).await?;
        }
        for part in parts {
            written[part.request as usize].crowded += part.readings.len() as u64;
        }
        Ok(())
    }

    /// Somebody else's frames stood at some of these instants: tells what the store
    /// took from what must go elsewhere.
    async fn sort_out(
        &mut self,
        placed: Vec<Placed>,
        written: &mut [Written],
    ) -> Result<Vec<Part>, StoreError> {
        for frame in &placed {
            self.memory.unsend(frame.first.number, frame.slot);
        }
        self.recall(placed.iter().flat_map(Placed::parts)).await?;
        let mut left = Vec::new();
        for Placed { slot, first, more } in placed {
            self.memory.note(first.number, slot, first.at, []);
            for mut part in std::iter::once(first).chain(more) {
                let (mut there, mut elsewhere) = (Vec::new(), Vec::new());
                for reading in part.readings.drain(..) {
                    match self.memory.slot(part.number, part.at, reading.0) {
                        Slot::There => there.push(reading),
                        _ => elsewhere.push(reading),
                    }
                }
                part.readings = there;
                written[part.request as usize].store(&part);
                part.readings = elsewhere;
                if !part.readings.is_empty() {
                    part.metrics = set_of(&part);
                    left.push(part);
                }
            }
        }
        Ok(left)
    }

    /// Puts parts into frames; what is there already or has no place is counted.
    fn place(&mut self, parts: Vec<Part>, written: &mut [Written]) -> Vec<Placed> {
        let mut placed: Vec<Placed> = Vec::with_capacity(parts.len());
        for mut part in parts {
            let (device, at) = (part.number, part.at);
            let mut slot = at;
            if !self.memory.is_free(device, at) {
                let tally = &mut written[part.request as usize];
                let joins = (self.memory.on_its_way(device, at))
                    .filter(|frame| is_at(placed.get(*frame as usize), device, at));
                part.readings.retain(|(metric, _)| {
                    match self.memory.slot(device, at, *metric) {
                        Slot::There => tally.duplicates += 1,
                        Slot::None if joins.is_none() => tally.crowded += 1,
                        Slot::None => return true,
                        Slot::At(free) => {
                            slot = free;
                            return true;
                        }
                    }
                    false
                });
                if part.readings.is_empty() {
                    continue;
                }
                part.metrics = set_of(&part);
                if let Some(frame) = joins {
                    self.memory.send(device, at, at, part.metrics, frame);
                    placed[frame as usize].more.push(part);
                    continue;
                }
            }
            let frame = placed.len() as u32;
            self.memory.send(device, slot, at, part.metrics, frame);
            placed.push(Placed {
                slot,
                first: part,
                more: Vec::new(),
            });
        }
        placed
    }

    /// Learns how far the store is with devices that are met for the first time.
    async fn meet(&mut self, parts: &[Part]) -> Result<(), StoreError> {
        let strangers: BTreeMap<u32, (&DeviceId, bool)> = (parts.iter())
            .filter(|part| !self.memory.has_met(part.number))
            .map(|part| (part.number, (&part.device, part.is_unknown)))
            .collect();
        if strangers.is_empty() {
            return Ok(());
        }
        let query = Query::Latest {
            select: of(strangers.values().map(|(device, _)| *device)),
            since: Timestamp(0),
        };
        let latest = self.store.query(&query).await?.frames();
        let high: HashMap<&DeviceId, i64> = latest.iter().map(|f| (&f.device, f.at.0)).collect();
        for (number, (device, is_unknown)) in strangers {
            let high = high.get(device).copied();
            (self.memory).meet(number, is_unknown, high.unwrap_or(i64::MIN));
        }
        Ok(())
    }

    /// Asks the store what it has of these samples, and brings it to mind.
    async fn recall<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a Part>,
    ) -> Result<(), StoreError> {
        // By stretch and metric, so that a question is neither long nor small.
        let mut questions: BTreeMap<_, BTreeMap<u32, (&DeviceId, BTreeSet<i64>)>> = BTreeMap::new();
        for part in parts {
            for (metric, _) in &part.readings {
                let stretch = part.at.div_euclid(STRETCH);
                (questions
                    .entry((stretch, *metric, part.number / DEVICES))
                    .or_default())
                .entry(part.number)
                .or_insert_with(|| (&part.device, BTreeSet::new()))
                .1
                .insert(part.at);
            }
        }
        for ((_, metric, _), devices) in questions {
            let first = devices.values().filter_map(|(_, t)| t.first()).min();
            let last = devices.values().filter_map(|(_, t)| t.last()).max();
            let (Some(first), Some(last)) = (first, last) else {
                continue;
            };
            let query = Query::Range {
                metric: Catalogue::builtin().metric(metric).name.clone(),
                select: of(devices.values().map(|(device, _)| *device)),
                from: Timestamp(*first),
                to: Timestamp(last.saturating_add(SLOTS)),
            };
            let answer = self.store.query(&query).await?.series();
            let by_name: HashMap<&str, (u32, &BTreeSet<i64>)> = (devices.iter())
                .map(|(number, (device, instants))| (device.as_str(), (*number, instants)))
                .collect();
            for series in answer {
                let device = (series.labels.iter())
                    .find(|(label, _)| *label == Label::Device)
                    .and_then(|(_, name)| by_name.get(name.as_str()));
                let Some((device, instants)) = device else {
                    continue;
                };
                for point in series.points {
                    let slot = point.at.0;
                    // The latest instant asked about that this may be a part of.
                    let of = instants.range(slot - SLOTS + 1..=slot).next_back();
                    if let Some(of) = of {
                        self.memory.note(*device, slot, *of, [metric]);
                    }
                }
            }
        }
        Ok(())
    }
}

fn of<'a>(devices: impl Iterator<Item = &'a DeviceId>) -> Selector {
    Selector {
        devices: devices.cloned().collect(),
        labels: Vec::new(),
    }
}

fn set_of(part: &Part) -> MetricSet {
    let mut set = MetricSet::default();
    for (metric, _) in &part.readings {
        set.insert(*metric);
    }
    set
}

/// Whether a frame on its way is of this device and goes to this instant.
fn is_at(frame: Option<&Placed>, device: u32, at: i64) -> bool {
    frame.is_some_and(|f| f.first.number == device && f.slot == at && f.first.at == at)
}
