//! One query's way to the rows: from memory, segments and rollups, brought into
//! the order of time per device.

use super::Shared;
use super::codec::{MEASURED, has_value};
use super::decoded::Rows;
use super::head::Sample;
use super::manifest::Tier;
use super::rollup::{Lean, Partial, Traced, View};
use super::segment::schema::{Key, Part};
use super::segment::{BlockMeta, Cache, ReadError, Segment};
use super::state::State;
use crate::query::{OverTime, Source, StoreError};
use heliostat_models::indicators::Stretch;
use heliostat_models::metrics::MetricKind;
use heliostat_models::{Catalogue, Joules, MetricId, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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

impl Timed for Traced {
    fn at(&self) -> i64 {
        self.sample.at
    }
}

/// A rollup that says what a query asks of a segment.
#[derive(Clone, Debug)]
pub struct Rollup {
    /// Width of its steps.
    pub tier: Tier,
    /// How its steps are read.
    pub lean: Lean,
    /// The file.
    pub segment: Arc<Segment>,
    /// Whether its steps make up those that are asked for. If not, it is all
    /// that is left, and says only about what they held.
    pub whole: bool,
}

/// A file of frames, and the rollup that stands for it. Where only the rollup is
/// left, it is all there is.
#[derive(Clone, Debug)]
pub struct Feed {
    raw: Option<Arc<Segment>>,
    rollup: Option<Rollup>,
}

impl Feed {
    /// The rollup and a device's place in it.
    pub fn rollup_of(&self, device: u32) -> Option<(&Rollup, BlockMeta)> {
        let rollup = self.rollup.as_ref()?;
        Some((rollup, *rollup.segment.block_of(device)?))
    }

    /// The file of frames and a device's place in it.
    pub fn raw_of(&self, device: u32, asked: &Asked) -> Option<(&Arc<Segment>, BlockMeta)> {
        let raw = self.raw.as_ref()?;
        let meta = *raw.block_of(device)?;
        (meta.first < asked.to && meta.last >= asked.from).then_some((raw, meta))
    }
}

/// A device's rows in a segment, and in the rollup that stands for them. Where
/// only the rollup is left, its rows are all there is.
#[derive(Clone)]
struct Piece {
    first: i64,
    last: i64,
    raw: Option<(Arc<Segment>, BlockMeta)>,
    rollup: Option<(Rollup, BlockMeta)>,
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

impl Asked {
    /// The rollups whose steps make up the steps that are asked for, from the
    /// coarsest to the finest.
    fn tiers(&self) -> impl Iterator<Item = (Tier, Lean)> + '_ {
        (Tier::ROLLUPS.into_iter())
            .filter(|tier| self.step.is_multiple_of(tier.step_ms() as u64))
            .filter_map(|tier| Some((tier, Lean::of(self.from, tier)?)))
    }

    /// The coarsest rollup of a segment that says the same of these steps; `last`
    /// is the last instant in the segment.
    fn rollup(&self, state: &State, segment: u64, last: i64) -> Option<Rollup> {
        self.tiers().find_map(|(tier, lean)| {
            // A step that is cut off at the end of the interval is no step of the rollup.
            let ends = Lean::of(self.to, tier) == Some(lean) || last < self.to;
            let rollup = state.rollups.get(&(segment, tier)).filter(|_| ends)?;
            (lean == Lean::Left || rollup.edges).then(|| Rollup {
                tier,
                lean,
                segment: Arc::clone(rollup),
                whole: true,
            })
        })
    }

    /// What is left of segments that retention has removed.
    fn left(&self, state: &State) -> Vec<Rollup> {
        let of = |segment| {
            let finest = (Tier::ROLLUPS.into_iter().rev())
                .find_map(|tier| Some((tier, state.rollups.get(&(segment, tier))?)));
            let (tier, rollup) = finest?;
            let last = rollup.span.1.saturating_add(tier.step_ms() - 1);
            self.rollup(state, segment, last).or_else(|| {
                Some(Rollup {
                    tier,
                    lean: Lean::Left,
                    segment: Arc::clone(rollup),
                    whole: false,
                })
            })
        };
        (state.left().filter_map(of))
            .filter(|rollup| {
                let (first, last) = rollup.segment.span;
                first < self.to && last.saturating_add(rollup.tier.step_ms()) > self.from
            })
            .collect()
    }
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

impl Energy {
    /// As a stretch of time: what it speaks of, from the begin of the step. Power
    /// between readings is an estimate of energy, whatever the readings are.
    fn stretch(&self) -> Stretch {
        let known = (self.known_seconds * 1e3).round() as i64;
        Stretch {
            from: Timestamp(self.at),
            to: Timestamp(self.at.saturating_add(known)),
            joules: Joules(self.measured + self.estimated),
            measured: false,
        }
    }
}

/// Ends when nobody waits for the answer any more.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// Nobody waits any more.
    pub fn end(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads one query's rows.
pub struct Reader<'a> {
    /// Where everything is.
    pub shared: &'a Shared,
    cache: Cache,
    /// Of how many devices.
    devices: usize,
    waiting: Waiting,
    /// What was read so far.
    pub source: Source,
}

impl<'a> Reader<'a> {
    /// For a query of so many devices.
    pub fn new(shared: &'a Shared, devices: usize, waiting: &Waiting) -> Result<Self, StoreError> {
        let most = shared.limits.series;
        if devices > most {
            return Err(StoreError::BadQuery(format!(
                "the query speaks of {devices} devices, more than {most}; ask for fewer"
            )));
        }
        Ok(Self {
            shared,
            cache: Cache::for_devices(devices),
            devices,
            waiting: waiting.clone(),
            source: Source::default(),
        })
    }

    /// For another thread of the same query.
    pub fn another(&self) -> Self {
        Self {
            shared: self.shared,
            cache: Cache::for_devices(self.devices),
            devices: self.devices,
            waiting: self.waiting.clone(),
            source: Source::default(),
        }
    }

    /// Fails when nobody waits any more.
    pub fn go_on(&self) -> Result<(), StoreError> {
        if self.waiting.0.load(Ordering::Relaxed) {
            return Err(StoreError::Stopped(
                "nobody waits for the answer any more".to_owned(),
            ));
        }
        Ok(())
    }

    /// Takes note of readings that go in as they are.
    pub fn count(&mut self, samples: usize) -> Result<(), StoreError> {
        self.source.raw_samples += samples as u64;
        let most = self.shared.limits.samples;
        if self.source.raw_samples > most {
            return Err(StoreError::BadQuery(format!(
                "the query would read more than {most} readings; ask for a shorter time, fewer devices, or steps that a rollup has (1 min, 15 min, 1 h)"
            )));
        }
        self.go_on()
    }

    /// Takes note of what another thread has read.
    pub fn add(&mut self, other: Source) -> Result<(), StoreError> {
        self.source.rollup_ms = self.source.rollup_ms.max(other.rollup_ms);
        self.count(usize::try_from(other.raw_samples).unwrap_or(usize::MAX))
    }

    fn rolled_up(&mut self, tier: Tier) {
        let width = tier.step_ms() as u64;
        self.source.rollup_ms = self.source.rollup_ms.max(Some(width));
    }

    /// What devices have in memory, and the files in which there may be more of
    /// them; both of one moment.
    pub fn feeds(&self, devices: &[u32], asked: &Asked) -> (Vec<Vec<Sample>>, Vec<Feed>) {
        let state = self.shared.read();
        let heads = (devices.iter())
            .map(|device| {
                let head = &state.devices[*device as usize];
                head.samples(asked.metric, asked.from, asked.to)
            })
            .collect();
        let mut feeds: Vec<Feed> = (state.segments.iter())
            .filter(|segment| segment.span.0 < asked.to && segment.span.1 >= asked.from)
            .map(|segment| Feed {
                rollup: asked.rollup(&state, segment.id, segment.span.1),
                raw: Some(Arc::clone(segment)),
            })
            .collect();
        feeds.extend(asked.left(&state).into_iter().map(|rollup| Feed {
            raw: None,
            rollup: Some(rollup),
        }));
        (heads, feeds)
    }

    /// A rollup as this query reads it.
    pub fn view<'b>(&self, rollup: &'b Rollup, asked: &Asked) -> View<'b>
    where
        'a: 'b,
    {
        View {
            kept: &self.shared.decoded,
            segment: &rollup.segment,
            metric: asked.metric,
            lean: rollup.lean,
            interval: (asked.from, asked.to),
            many: self.devices >= 8,
        }
    }

    /// The rows of a rollup's row group; none, and a note of it, when it is damaged.
    pub fn rows(
        &mut self,
        view: &View<'_>,
        meta: &BlockMeta,
        rollup: &Rollup,
        over_time: OverTime,
    ) -> Option<Rows> {
        match view.read(&mut self.cache, meta, over_time) {
            Ok(rows) => {
                self.rolled_up(rollup.tier);
                Some(rows)
            }
            Err(error) => {
                self.report(view.segment, meta, &error);
                None
            }
        }
    }

    /// What there is of a device and metric: in memory, and in segments by rising
    /// time. `by_rollup`: a segment comes with a rollup that says the same, and
    /// what is left of segments that retention has removed comes too.
    fn pieces(&self, device: u32, asked: &Asked, by_rollup: bool) -> (Vec<Sample>, Vec<Piece>) {
        let (from, to) = (asked.from, asked.to);
        let state = self.shared.read();
        let head = &state.devices[device as usize];
        let mut pieces: Vec<Piece> = (state.blocks(device, from, to.saturating_sub(1)))
            .map(|(segment, meta)| {
                let rollup = (by_rollup.then(|| asked.rollup(&state, segment.id, meta.last)))
                    .flatten()
                    .and_then(|rollup| {
                        let place = *rollup.segment.block_of(device)?;
                        Some((rollup, place))
                    });
                Piece {
                    first: meta.first,
                    last: meta.last,
                    rollup,
                    raw: Some((Arc::clone(segment), meta)),
                }
            })
            .collect();
        if by_rollup {
            let left = asked.left(&state).into_iter().filter_map(|rollup| {
                let place = *rollup.segment.block_of(device)?;
                Some(Piece {
                    first: place.first,
                    last: place.last.saturating_add(rollup.tier.step_ms() - 1),
                    raw: None,
                    rollup: Some((rollup, place)),
                })
            });
            pieces.extend(left.filter(|piece| piece.first < to && piece.last >= from));
        }
        pieces.sort_by_key(|piece| piece.first);
        (head.samples(asked.metric, from, to), pieces)
    }

    /// Shows the samples of a device and metric in `[from, to)` by rising time,
    /// run by run.
    pub fn visit(
        &mut self,
        device: u32,
        asked: &Asked,
        show: &mut dyn FnMut(&[Sample]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (in_memory, pieces) = self.pieces(device, asked, false);
        self.count(in_memory.len())?;
        let load = &mut |piece: Piece| self.load(&piece, asked);
        in_order(in_memory, pieces, load, true, show)
    }

    /// Shows the values of a counter that say all of its growth, by rising time;
    /// where only rollups are left whose steps are too long, it grows at the end
    /// of each.
    pub fn visit_counter(
        &mut self,
        device: u32,
        asked: &Asked,
        show: &mut dyn FnMut(&[Traced]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (in_memory, mut pieces) = self.pieces(device, asked, true);
        // Between values that lie between each other a counter's growth is not
        // that of each alone; and the first form of rollups has too little.
        let mixed = overlap(&in_memory, &pieces);
        // Of a gauge nobody keeps what it had counted at restarts.
        let counts = Catalogue::builtin().metric(asked.metric).kind != MetricKind::Gauge;
        for piece in pieces.iter_mut().filter(|piece| piece.raw.is_some()) {
            let told = |(rollup, _): &(Rollup, BlockMeta)| counts && !mixed && rollup.segment.edges;
            piece.rollup = piece.rollup.take().filter(told);
        }
        self.count(in_memory.len())?;
        let traced = |samples: Vec<Sample>| -> Vec<Traced> {
            (samples.into_iter().filter(|s| has_value(s.state)))
                .map(|sample| Traced {
                    sample,
                    since: None,
                })
                .collect()
        };
        let in_memory = traced(in_memory);
        let load = &mut |piece: Piece| -> Result<Vec<Traced>, StoreError> {
            let Some((rollup, place)) = &piece.rollup else {
                return self.load(&piece, asked).map(traced);
            };
            if !rollup.segment.edges || !counts {
                let part = Part::Last;
                let key = Key {
                    metric: asked.metric,
                    part,
                };
                let mut samples = self.of_rollup(rollup, place, key, asked);
                for sample in &mut samples {
                    sample.at = sample.at.saturating_add(rollup.tier.step_ms() - 1);
                }
                samples.retain(|sample| sample.at < asked.to);
                return Ok(traced(samples));
            }
            let view = self.view(rollup, asked);
            match view.traces(&mut self.cache, place) {
                Ok(mut traces) => {
                    self.rolled_up(rollup.tier);
                    for trace in traces.iter_mut().filter(|_| !rollup.whole) {
                        if let Some((_, estimated)) = &mut trace.since {
                            *estimated = true;
                        }
                    }
                    Ok(traces)
                }
                Err(error) => {
                    self.report(&rollup.segment, place, &error);
                    self.load(&piece, asked).map(traced)
                }
            }
        };
        in_order(in_memory, pieces, load, true, show)
    }

    /// The energy of a device that only rollups know: of a register between its
    /// values, of a power in the steps of the rollup.
    pub fn stretches(&mut self, device: u32, asked: &Asked) -> Vec<Stretch> {
        let metric = Catalogue::builtin().metric(asked.metric);
        let (_, mut pieces) = self.pieces(device, asked, true);
        pieces.retain(|piece| piece.raw.is_none());
        if metric.kind == MetricKind::Gauge {
            let energies = self.energies_of(pieces, asked).into_iter();
            return energies.map(|energy| energy.stretch()).collect();
        }
        let mut traces: Vec<Traced> = Vec::new();
        for (rollup, place) in pieces.iter().filter_map(|piece| piece.rollup.as_ref()) {
            let view = self.view(rollup, asked);
            match view.traces(&mut self.cache, place) {
                Ok(found) => {
                    self.rolled_up(rollup.tier);
                    traces.extend(found);
                }
                Err(error) => self.report(&rollup.segment, place, &error),
            }
        }
        traces.sort_by_key(Timed::at);
        // What was counted around a restart nobody knows.
        let sound = |pair: &&[Traced]| {
            let restarted = pair[1].since.is_some_and(|(restarts, _)| restarts != 0.0);
            !restarted && pair[1].sample.value >= pair[0].sample.value
        };
        (traces.windows(2).filter(sound))
            .map(|pair| Stretch {
                from: Timestamp(pair[0].sample.at),
                to: Timestamp(pair[1].sample.at),
                joules: Joules(pair[1].sample.value - pair[0].sample.value),
                measured: pair.iter().all(|trace| trace.sample.state == MEASURED)
                    && !pair[1].since.is_some_and(|(_, estimated)| estimated),
            })
            .collect()
    }

    /// The energy of the steps of which only rollups are left, before the first
    /// instant of which there is more: begin, width in seconds, joules between
    /// measured values, joules estimated, seconds that those speak of.
    pub fn energies(&mut self, device: u32, asked: &Asked) -> Vec<Energy> {
        let (in_memory, pieces) = self.pieces(device, asked, true);
        let raw = pieces.iter().filter(|p| p.raw.is_some()).map(|p| p.first);
        let more = in_memory.iter().map(|s| s.at).chain(raw).min();
        let before = |piece: &Piece| more.is_none_or(|more| piece.last < more);
        let left = (pieces.into_iter()).filter(|piece| piece.raw.is_none() && before(piece));
        self.energies_of(left.collect(), asked)
    }

    fn energies_of(&mut self, pieces: Vec<Piece>, asked: &Asked) -> Vec<Energy> {
        let mut energies: Vec<Energy> = Vec::new();
        for (rollup, place) in pieces.iter().filter_map(|piece| piece.rollup.as_ref()) {
            let metric = asked.metric;
            let mut part = |part| self.of_rollup(rollup, place, Key { metric, part }, asked);
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
                    width_ms: rollup.tier.step_ms() as u64,
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
        rollup: &Rollup,
        place: &BlockMeta,
        key: Key,
        asked: &Asked,
    ) -> Vec<Sample> {
        let segment = &rollup.segment;
        match segment.samples(&mut self.cache, place, key, asked.from, asked.to) {
            Ok(samples) => {
                self.rolled_up(rollup.tier);
                samples
            }
            Err(error) => {
                self.report(segment, place, &error);
                Vec::new()
            }
        }
    }

    /// Shows parts of steps of a device, by rising time, run by run. Where no
    /// rollup's steps fit, rollups are used only where nothing else is left, and
    /// what they say of a step is marked as not the whole of it.
    pub fn visit_partials(
        &mut self,
        device: u32,
        asked: &Asked,
        show: &mut dyn FnMut(&[Partial]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (in_memory, mut pieces) = self.pieces(device, asked, true);
        if asked.over_time == OverTime::Last && overlap(&in_memory, &pieces) {
            // Which of two parts of a step is the later one only the samples say.
            for piece in pieces.iter_mut().filter(|piece| piece.raw.is_some()) {
                piece.rollup = None;
            }
        }
        self.count(in_memory.len())?;
        let in_memory = in_memory.iter().map(Partial::of).collect();
        let load = &mut |piece: Piece| -> Result<Vec<Partial>, StoreError> {
            if let Some((rollup, place)) = &piece.rollup {
                let view = self.view(rollup, asked);
                if let Some(rows) = self.rows(&view, place, rollup, asked.over_time) {
                    let mut partials = Vec::new();
                    view.show(&rows, place, asked.over_time, |partial| {
                        let mut partial = *partial;
                        partial.missing |= !rollup.whole;
                        partials.push(partial);
                    });
                    return Ok(partials);
                }
                // The samples that it was made of may still be there.
            }
            let samples = self.load(&piece, asked)?;
            Ok(samples.iter().map(Partial::of).collect())
        };
        in_order(in_memory, pieces, load, false, show)
    }

    /// The begins of the steps of which only rollups are left.
    pub fn steps_left(&mut self, device: u32, asked: &Asked) -> Vec<Partial> {
        let (_, pieces) = self.pieces(device, asked, true);
        let mut left = Vec::new();
        for piece in pieces.iter().filter(|piece| piece.raw.is_none()) {
            let Some((rollup, place)) = &piece.rollup else {
                continue;
            };
            let view = self.view(rollup, asked);
            if let Some(rows) = self.rows(&view, place, rollup, OverTime::Count) {
                view.show(&rows, place, OverTime::Count, |part| left.push(*part));
            }
        }
        left.sort_by_key(|part| part.at);
        left
    }

    fn load(&mut self, piece: &Piece, asked: &Asked) -> Result<Vec<Sample>, StoreError> {
        let Some((segment, meta)) = &piece.raw else {
            return Ok(Vec::new());
        };
        let samples = self.samples(segment, meta, asked);
        self.count(samples.len())?;
        Ok(samples)
    }

    /// The samples of a block; none, and a note of it, when it is damaged.
    pub fn samples(&mut self, segment: &Segment, meta: &BlockMeta, asked: &Asked) -> Vec<Sample> {
        let (key, cache) = (Key::value(asked.metric), &mut self.cache);
        match segment.samples(cache, meta, key, asked.from, asked.to) {
            Ok(samples) => samples,
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
    load: &mut dyn FnMut(Piece) -> Result<Vec<T>, StoreError>,
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
                (first, last, load(piece)?)
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
