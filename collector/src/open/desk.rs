//! The desk: one task that takes all waiting requests together, puts their
//! samples into frames, appends those, and answers once they are durable.

use super::OpenError;
use super::parcel::{Sample, Tally};
use super::place::{Memory, SLOTS, Slot};
use heliostat_models::{Catalogue, DeviceId, Frame, Timestamp};
use heliostat_store::query::{Label, Selector};
use heliostat_store::{Query, StoreError, TimeSeriesStore};
use std::collections::btree_map::Entry;
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
    pub(super) samples: Vec<Sample>,
    /// Names of the devices that its samples number.
    pub(super) devices: Vec<(u32, DeviceId)>,
    pub(super) reply: oneshot::Sender<Result<Written, OpenError>>,
}

/// What became of a request's samples.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub(super) stored: u64,
    pub(super) duplicates: u64,
    /// Samples of instants that all slots are taken of.
    pub(super) crowded: u64,
}

impl Written {
    pub(super) fn enter(self, tally: &mut Tally) {
        tally.stored += self.stored;
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
    names: HashMap<u32, DeviceId>,
}

fn of_one_instant(a: &Sample, b: &Sample) -> bool {
    (a.device, a.at) == (b.device, b.at)
}

/// A frame on its way: device, slot, instant, and the samples in it.
type Placed = ((u32, i64), (i64, Vec<Sample>));

impl Desk {
    pub(super) fn new(store: Arc<dyn TimeSeriesStore>) -> Self {
        Self {
            store,
            memory: Memory::default(),
            names: HashMap::new(),
        }
    }

    /// Works until nobody can send any more.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut requests = Vec::with_capacity(GROUP);
        while queue.recv_many(&mut requests, GROUP).await > 0 {
            let mut samples = Vec::new();
            let mut replies = Vec::with_capacity(requests.len());
            for (place, request) in requests.drain(..).enumerate() {
                self.names.extend(request.devices);
                samples.extend(request.samples.into_iter().map(|s| Sample {
                    request: place as u32,
                    ..s
                }));
                replies.push(request.reply);
            }
            let mut written = vec![Written::default(); replies.len()];
            let outcome = self.write(samples, &mut written).await;
            for (reply, written) in replies.into_iter().zip(written) {
                // Who no longer waits has been served all the same.
                let _ = reply.send(match &outcome {
                    Ok(()) => Ok(written),
                    Err(error) => Err(OpenError::Store(error.to_string())),
                });
            }
        }
    }

    async fn write(
        &mut self,
        mut samples: Vec<Sample>,
        written: &mut [Written],
    ) -> Result<(), StoreError> {
        // By request last: of two that say the same, the first counts.
        samples.sort_by_key(|s| (s.device, s.at, s.metric));
        samples.dedup_by(|later, first| {
            let same =
                (later.device, later.at, later.metric) == (first.device, first.at, first.metric);
            if same {
                written[later.request as usize].duplicates += 1;
            }
            same
        });
        let touched: BTreeSet<u32> = samples.iter().map(|s| s.device).collect();
        self.meet(&touched).await?;
        let unsure: Vec<Sample> = (samples.chunk_by(of_one_instant))
            .filter(|c| self.memory.is_unsure(c[0].device, c[0].at.0))
            .flatten()
            .copied()
            .collect();
        self.recall(&unsure).await?;
        // Each round fills at least one slot of each instant, so that the rounds end.
        for _ in 0..SLOTS {
            let placed = self.place(&mut samples, written);
            if placed.is_empty() {
                break;
            }
            let frames = placed.iter().map(|p| self.frame(p)).collect();
            let receipt = self.store.append(frames).await?;
            if receipt.duplicates > 0 {
                // Somebody else's frames stand at some of these instants.
                let all: Vec<Sample> = placed.iter().flat_map(|(_, (_, s))| s).copied().collect();
                self.recall(&all).await?;
            }
            for ((device, slot), (of, frame)) in placed {
                if receipt.duplicates == 0 {
                    let metrics = frame.iter().map(|s| s.metric);
                    self.memory.note(device, slot, of, metrics);
                    for sample in frame {
                        written[sample.request as usize].stored += 1;
                    }
                    continue;
                }
                self.memory.note(device, slot, of, []);
                for sample in frame {
                    if self.memory.slot(device, of, sample.metric) == Slot::There {
                        written[sample.request as usize].stored += 1;
                    } else {
                        samples.push(sample);
                    }
                }
            }
        }
        for sample in samples {
            written[sample.request as usize].crowded += 1;
        }
        self.memory.forget(touched);
        Ok(())
    }

    /// Puts samples into frames; what is there already or has no place is
    /// counted, and what must wait for the next round stays.
    fn place(&self, samples: &mut Vec<Sample>, written: &mut [Written]) -> Vec<Placed> {
        let mut frames: BTreeMap<(u32, i64), (i64, Vec<Sample>)> = BTreeMap::new();
        let all = std::mem::take(samples);
        for chunk in all.chunk_by(of_one_instant) {
            let (device, at) = (chunk[0].device, chunk[0].at.0);
            if self.memory.is_free(device, at) {
                match frames.entry((device, at)) {
                    Entry::Vacant(entry) => {
                        entry.insert((at, chunk.to_vec()));
                    }
                    Entry::Occupied(mut entry) if entry.get().0 == at => {
                        entry.get_mut().1.extend_from_slice(chunk);
                    }
                    // An earlier instant's later part stands there.
                    Entry::Occupied(_) => samples.extend_from_slice(chunk),
                }
                continue;
            }
            for sample in chunk {
                match self.memory.slot(device, at, sample.metric) {
                    Slot::There => written[sample.request as usize].duplicates += 1,
                    Slot::None => written[sample.request as usize].crowded += 1,
                    Slot::At(slot) => {
                        let (of, frame) = frames
                            .entry((device, slot))
                            .or_insert_with(|| (at, Vec::new()));
                        if *of == at {
                            frame.push(*sample);
                        } else {
                            samples.push(*sample);
                        }
                    }
                }
            }
        }
        frames.into_iter().collect()
    }

    fn frame(&self, ((device, slot), (_, samples)): &Placed) -> Frame {
        Frame {
            device: self.names[device].clone(),
            at: Timestamp(*slot),
            readings: samples.iter().map(|s| (s.metric, s.reading)).collect(),
        }
    }

    /// Learns how far the store is with devices that are met for the first time.
    async fn meet(&mut self, touched: &BTreeSet<u32>) -> Result<(), StoreError> {
        let strangers: Vec<u32> = (touched.iter())
            .filter(|d| !self.memory.has_met(**d))
            .copied()
            .collect();
        if strangers.is_empty() {
            return Ok(());
        }
        let query = Query::Latest {
            select: self.select(strangers.iter()),
            since: Timestamp(0),
        };
        let latest = self.store.query(&query).await?.frames();
        let high: HashMap<&DeviceId, i64> = latest.iter().map(|f| (&f.device, f.at.0)).collect();
        for device in strangers {
            let high = high.get(&self.names[&device]).copied();
            self.memory.meet(device, high.unwrap_or(i64::MIN));
        }
        Ok(())
    }

    fn select<'a>(&self, devices: impl Iterator<Item = &'a u32>) -> Selector {
        Selector {
            devices: devices.map(|d| self.names[d].clone()).collect(),
            labels: Vec::new(),
        }
    }

    /// Asks the store which of these samples it has, and brings them to mind.
    async fn recall(&mut self, samples: &[Sample]) -> Result<(), StoreError> {
        // By stretch and metric, so that a question is neither long nor small.
        let mut questions: BTreeMap<_, BTreeMap<u32, BTreeSet<i64>>> = BTreeMap::new();
        for sample in samples {
            let at = sample.at.0;
            let question = (
                at.div_euclid(STRETCH),
                sample.metric,
                sample.device / DEVICES,
            );
            (questions.entry(question).or_default())
                .entry(sample.device)
                .or_default()
                .insert(at);
        }
        for ((_, metric, _), devices) in questions {
            let first = devices.values().filter_map(|t| t.first()).min();
            let last = devices.values().filter_map(|t| t.last()).max();
            let (Some(first), Some(last)) = (first, last) else {
                continue;
            };
            let query = Query::Range {
                metric: Catalogue::builtin().metric(metric).name.clone(),
                select: self.select(devices.keys()),
                from: Timestamp(*first),
                to: Timestamp(last.saturating_add(SLOTS)),
            };
            let answer = self.store.query(&query).await?.series();
            let by_name: HashMap<&str, u32> = (devices.keys())
                .map(|d| (self.names[d].as_str(), *d))
                .collect();
            for series in answer {
                let device = (series.labels.iter())
                    .find(|(label, _)| *label == Label::Device)
                    .and_then(|(_, name)| by_name.get(name.as_str()));
                let Some((device, instants)) = device.and_then(|d| devices.get_key_value(d)) else {
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
