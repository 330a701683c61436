//! One query's way to the rows: from memory, segments and rollups, brought into
//! the order of time per device.

use super::Shared;
use super::head::Sample;
use super::manifest::Tier;
use super::rollup::{self, Partial};
use super::segment::schema::{Key, Part};
use super::segment::{BlockMeta, Cache, ReadError, Segment};
use crate::query::{OverTime, Source, StoreError};
use heliostat_models::MetricId;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Something at an instant.
trait Timed {
    fn at(&self) -> i64;
}

impl Timed for Sample {
    fn at(&self) -> i64 {
        self.at
    }
}

impl Timed for Partial {
    fn at(&self) -> i64 {
        self.at
    }
}

/// A device's rows in a segment, and in the rollup that stands for them. Where
/// only the rollup is left, its rows are all there is.
#[derive(Clone)]
struct Piece {
    first: i64,
    last: i64,
    raw: Option<(Arc<Segment>, BlockMeta)>,
    rollup: Option<(Tier, Arc<Segment>, BlockMeta)>,
}

/// What a query asks of each device.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Which metric.
    pub metric: MetricId,
    /// Begin, inclusive.
    pub from: i64,
    /// End, exclusive.
    pub to: i64,
    /// Width of a step in milliseconds.
    pub step: u64,
    /// Within a step.
    pub over_time: OverTime,
}

/// Energy of one step of a rollup.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Energy {
    /// Begin of the step.
    pub at: i64,
    /// Its width in milliseconds.
    pub width_ms: u64,
    /// Joules between measured values.
    pub measured: f64,
    /// Joules where a value was estimated or missing.
    pub estimated: f64,
    /// The part of the step that those speak of.
    pub known_seconds: f64,
}

/// Reads one query's rows.
pub struct Reader<'a> {
    shared: &'a Shared,
    cache: Cache,
    /// What was read so far.
    pub source: Source,
}

impl<'a> Reader<'a> {
    /// For a query of so many devices.
    pub fn new(shared: &'a Shared, devices: usize) -> Self {
        Self {
            shared,
            cache: Cache::for_devices(devices),
            source: Source::default(),
        }
    }

    /// What there is of a device and metric in `[from, to)`: in memory, and in
    /// segments by rising time. With a tier a segment comes with its rollup,
    /// where that says the same. `condensed`: also what is left of segments that
    /// retention has removed.
    fn pieces(
        &self,
        device: u32,
        metric: MetricId,
        (from, to): (i64, i64),
        tier: Option<Tier>,
        condensed: bool,
    ) -> (Vec<Sample>, Vec<Piece>) {
        let state = self.shared.read();
        let head = &state.devices[device as usize];
        let rollup_of = |segment: &Segment, meta: &BlockMeta| {
            let tier = tier?;
            // A step that is cut off at the end of the interval is no step of the rollup.
            let whole = meta.last < to || to.rem_euclid(tier.step_ms()) == 0;
            let rollup = state.rollups.get(&(segment.id, tier)).filter(|_| whole)?;
            let place = *rollup.block_of(device)?;
            Some((tier, Arc::clone(rollup), place))
        };
        let mut pieces: Vec<Piece> = (state.blocks(device, from, to.saturating_sub(1)))
            .map(|(segment, meta)| Piece {
                first: meta.first,
                last: meta.last,
                rollup: rollup_of(segment, &meta),
                raw: Some((Arc::clone(segment), meta)),
            })
            .collect();
        if condensed {
            let left = (state.left(device, tier)).map(|(tier, rollup, meta)| Piece {
                first: meta.first,
                last: meta.last.saturating_add(tier.step_ms() - 1),
                raw: None,
                rollup: Some((tier, Arc::clone(rollup), meta)),
            });
            pieces.extend(left.filter(|piece| piece.first < to && piece.last >= from));
        }
        pieces.sort_by_key(|piece| piece.first);
        (head.samples(metric, from, to), pieces)
    }

    /// Shows the samples of a device and metric in `[from, to)` by rising time,
    /// run by run.
    pub fn visit(
        &mut self,
        device: u32,
        metric: MetricId,
        from: i64,
        to: i64,
        show: &mut dyn FnMut(&[Sample]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (in_memory, pieces) = self.pieces(device, metric, (from, to), None, false);
        self.source.raw_samples += in_memory.len() as u64;
        let load = &mut |piece: Piece| self.load(&piece, metric, from, to);
        in_order(in_memory, pieces, load, true, show)
    }

    /// The same for a counter: where only rollups are left, the last value of
    /// each of their steps.
    pub fn visit_counter(
        &mut self,
        device: u32,
        asked: &Asked,
        show: &mut dyn FnMut(&[Sample]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (metric, from, to) = (asked.metric, asked.from, asked.to);
        let (in_memory, pieces) = self.pieces(device, metric, (from, to), None, true);
        self.source.raw_samples += in_memory.len() as u64;
        let load = &mut |piece: Piece| match (&piece.raw, &piece.rollup) {
            (None, Some((tier, rollup, place))) => {
                let part = Part::Last;
                let mut samples = self.of_rollup(*tier, rollup, place, Key { metric, part }, asked);
                for sample in &mut samples {
                    sample.at = sample.at.saturating_add(tier.step_ms() - 1);
                }
                samples.retain(|sample| sample.at < to);
                samples
            }
            _ => self.load(&piece, metric, from, to),
        };
        in_order(in_memory, pieces, load, true, show)
    }

    /// The energy of the steps of which only rollups are left, before the first
    /// instant of which there is more: begin, width in seconds, joules between
    /// measured values, joules estimated, seconds that those speak of.
    pub fn energies(&mut self, device: u32, asked: &Asked) -> Vec<Energy> {
        let (metric, interval) = (asked.metric, (asked.from, asked.to));
        let (in_memory, pieces) = self.pieces(device, metric, interval, None, true);
        let raw = pieces.iter().filter(|p| p.raw.is_some()).map(|p| p.first);
        let more = in_memory.iter().map(|s| s.at).chain(raw).min();
        let mut energies: Vec<Energy> = Vec::new();
        for piece in pieces {
            let (None, Some((tier, rollup, place))) = (&piece.raw, &piece.rollup) else {
                continue;
            };
            if more.is_some_and(|more| piece.last >= more) {
                continue;
            }
            let mut part = |part| self.of_rollup(*tier, rollup, place, Key { metric, part }, asked);
            let (known, measured) = (part(Part::KnownSeconds), part(Part::MeasuredJoules));
            let guessed = part(Part::EstimatedJoules);
            energies.extend(known.iter().map(|known| {
                let at = |samples: &[Sample]| {
                    let found = samples.binary_search_by_key(&known.at, |s| s.at);
                    found
                        .ok()
                        .and_then(|i| samples.get(i))
                        .map_or(0.0, |s| s.value)
                };
                Energy {
                    at: known.at,
                    width_ms: tier.step_ms() as u64,
                    measured: at(&measured),
                    estimated: at(&guessed),
                    known_seconds: known.value,
                }
            }));
        }
        energies.sort_by_key(|energy| energy.at);
        energies
    }

    fn of_rollup(
        &mut self,
        tier: Tier,
        rollup: &Segment,
        place: &BlockMeta,
        key: Key,
        asked: &Asked,
    ) -> Vec<Sample> {
        match rollup.samples(&mut self.cache, place, key, asked.from, asked.to) {
            Ok(samples) => {
                self.source.rollup_ms = Some(tier.step_ms() as u64);
                samples
            }
            Err(error) => {
                self.report(rollup, place, &error);
                Vec::new()
            }
        }
    }

    /// Shows parts of steps of a device, by rising time, run by run. Without a
    /// tier whose steps fit, rollups are used only where nothing else is left,
    /// and what they say of a step is marked as not the whole of it.
    pub fn visit_partials(
        &mut self,
        device: u32,
        asked: &Asked,
        tier: Option<Tier>,
        show: &mut dyn FnMut(&[Partial]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let interval = (asked.from, asked.to);
        let (in_memory, mut pieces) = self.pieces(device, asked.metric, interval, tier, true);
        if asked.over_time == OverTime::Last && overlap(&in_memory, &pieces) {
            // Which of two parts of a step is the later one only the samples say.
            for piece in pieces.iter_mut().filter(|piece| piece.raw.is_some()) {
                piece.rollup = None;
            }
        }
        self.source.raw_samples += in_memory.len() as u64;
        let in_memory = in_memory.iter().map(Partial::of).collect();
        let load = &mut |piece: Piece| {
            let Some((width, rollup, place)) = &piece.rollup else {
                return self.load_partials(&piece, asked);
            };
            let (cache, over_time) = (&mut self.cache, asked.over_time);
            match rollup::partials(rollup, cache, place, asked.metric, over_time, interval) {
                Ok(mut partials) => {
                    self.source.rollup_ms = Some(width.step_ms() as u64);
                    if tier.is_none_or(|tier| tier < *width) {
                        partials.iter_mut().for_each(|p| p.missing = true);
                    }
                    partials
                }
                Err(error) => {
                    // The samples that it was made of may still be there.
                    self.report(rollup, place, &error);
                    self.load_partials(&piece, asked)
                }
            }
        };
        in_order(in_memory, pieces, load, false, show)
    }

    fn load_partials(&mut self, piece: &Piece, asked: &Asked) -> Vec<Partial> {
        let samples = self.load(piece, asked.metric, asked.from, asked.to);
        samples.iter().map(Partial::of).collect()
    }

    /// The samples of a block; none, and a note of it, when it is damaged.
    fn load(&mut self, piece: &Piece, metric: MetricId, from: i64, to: i64) -> Vec<Sample> {
        let Some((segment, meta)) = &piece.raw else {
            return Vec::new();
        };
        match segment.samples(&mut self.cache, meta, Key::value(metric), from, to) {
            Ok(samples) => {
                self.source.raw_samples += samples.len() as u64;
                samples
            }
            Err(error) => {
                self.report(segment, meta, &error);
                Vec::new()
            }
        }
    }

    fn report(&self, segment: &Segment, meta: &BlockMeta, error: &ReadError) {
        if segment.report_damage(meta.group, error) {
            self.shared.damaged.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether the rows of two of these lie between each other.
fn overlap(in_memory: &[Sample], pieces: &[Piece]) -> bool {
    let mut spans: Vec<(i64, i64)> = pieces.iter().map(|p| (p.first, p.last)).collect();
    if let (Some(first), Some(last)) = (in_memory.first(), in_memory.last()) {
        spans.push((first.at, last.at));
    }
    spans.sort_unstable();
    spans.windows(2).any(|pair| pair[1].0 <= pair[0].1)
}

/// Shows what is in memory and in pieces by rising time; runs that overlap are
/// merged before they are shown, `distinct` ones keeping the first of an instant.
fn in_order<T: Timed>(
    in_memory: Vec<T>,
    pieces: Vec<Piece>,
    load: &mut dyn FnMut(Piece) -> Vec<T>,
    distinct: bool,
    show: &mut dyn FnMut(&[T]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut in_memory = Some(in_memory).filter(|samples| !samples.is_empty());
    let mut pieces = pieces.into_iter().peekable();
    let mut pending: Vec<T> = Vec::new();
    let mut pending_last = i64::MIN;
    loop {
        let head_first = in_memory.as_ref().and_then(|s| s.first()).map(T::at);
        let piece_first = pieces.peek().map(|piece| piece.first);
        let (first, last, mut run) = match (head_first, piece_first) {
            (None, None) => break,
            (Some(head), piece) if piece.is_none_or(|piece| head < piece) => {
                let run = in_memory.take().unwrap_or_default();
                (head, run.last().map_or(head, T::at), run)
            }
            _ => {
                let Some(piece) = pieces.next() else { break };
                let (first, last) = (piece.first, piece.last);
                (first, last, load(piece))
            }
        };
        if pending.is_empty() {
            pending = run;
        } else if first > pending_last {
            show(&pending)?;
            pending = run;
        } else {
            pending.append(&mut run);
            pending.sort_by_key(T::at);
            if distinct {
                pending.dedup_by_key(|s| s.at());
            }
        }
        pending_last = pending_last.max(last);
    }
    show(&pending)
}
