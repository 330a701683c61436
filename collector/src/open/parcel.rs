//! One request, read: samples on their way to the store, by device and instant,
//! and a tally of what does not go there.

use super::book::NONE;
use super::line::{Lines, Precision};
use super::part::{Added, Part};
use super::protobuf::WireFault;
use super::remote_write;
use super::resolve::{Channel, Resolver, Target};
use super::unknown::Seen;
use crate::ingest::validate::{Refused, refuse, time_fault, value_fault};
use heliostat_models::metrics::Metric;
use heliostat_models::{Catalogue, Reading, Timestamp};
use std::collections::HashMap;

/// Faults told one by one; all are counted.
const TOLD: usize = 20;

/// Why the rest of a request is refused; see [`super::part::MOST_PARTS`].
const TOO_MANY: &str =
    "more than 500,000 devices and instants in one request; send smaller batches";

/// A fault of a request, for its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, or for remote write the series, from 1.
    pub place: usize,
    /// What is wrong with it.
    pub fault: String,
}

/// What becomes of the samples of a request, each counted once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Samples of the catalogue's metrics that are in the store, missing ones included.
    pub stored: u64,
    /// Samples that were there already.
    pub duplicates: u64,
    /// Samples of metrics that are not in the catalogue and are in the store.
    pub unknown: u64,
    /// Samples that teach which GPU has which UUID.
    pub lessons: u64,
    /// Texts, which are not stored.
    pub texts: u64,
    /// Samples that nothing of this site could be found for, by reason.
    pub unplaced: Refused,
    /// Lines that cannot be read and samples that cannot be true, by reason.
    pub refused: Refused,
    /// The first of these, with their places.
    pub faults: Vec<Fault>,
}

impl Tally {
    fn fault(&mut self, place: usize, reason: String, samples: u64) {
        if self.faults.len() < TOLD {
            self.faults.push(Fault {
                place,
                fault: reason.clone(),
            });
        }
        refuse(&mut self.refused, reason, samples);
    }

    /// Adds another tally; of its faults only the counts.
    pub(super) fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.unknown += other.unknown;
        self.lessons += other.lessons;
        self.texts += other.texts;
        for (reason, count) in &other.unplaced {
            refuse(&mut self.unplaced, reason.clone(), *count);
        }
        for (reason, count) in &other.refused {
            refuse(&mut self.refused, reason.clone(), *count);
        }
    }
}

/// A request on its way.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    pub(super) parts: Vec<Part>,
    pub(super) unknown: HashMap<u32, Seen>,
    pub(super) tally: Tally,
    /// Samples whose GPU would be known after a lesson.
    waiting: u64,
}

/// A series and where it stands.
struct Place {
    target: Target,
    /// Line or series, from 1.
    number: usize,
}

impl Parcel {
    /// Reads a request; once more if what it taught makes more of it readable.
    fn read<E>(
        resolver: &mut Resolver,
        mut pass: impl FnMut(&mut Self, &mut Resolver) -> Result<(), E>,
    ) -> Result<Self, E> {
        let before = resolver.learned;
        let mut parcel = Self::default();
        resolver.grouping.begin();
        pass(&mut parcel, resolver)?;
        if parcel.waiting > 0 && resolver.learned > before {
            parcel = Self::default();
            resolver.grouping.begin();
            pass(&mut parcel, resolver)?;
        }
        parcel.parts = resolver.grouping.take();
        for (number, seen) in &parcel.unknown {
            resolver.unknown.count(*number, seen);
        }
        Ok(parcel)
    }

    /// Reads a decompressed remote-write request.
    pub(super) fn of_remote_write(
        message: &[u8],
        resolver: &mut Resolver,
        now: Timestamp,
    ) -> Result<Self, WireFault> {
        Self::read(resolver, |parcel, resolver| {
            let mut number = 0;
            let mut before = NONE;
            let mut series = remote_write::Series::default();
            remote_write::each(message, |bytes| {
                number += 1;
                before = parcel.take_series(bytes, &mut series, (number, before), resolver, now)?;
                Ok(())
            })
        })
    }

    /// Takes a series, the one after `before`; which it is in the book.
    fn take_series<'a>(
        &mut self,
        bytes: &'a [u8],
        series: &mut remote_write::Series<'a>,
        (number, before): (usize, u32),
        resolver: &mut Resolver,
        now: Timestamp,
    ) -> Result<u32, WireFault> {
        let expected = resolver.book.expected(before, bytes);
        let end = match expected {
            Some((_, end)) => end,
            None => remote_write::labels_end(bytes)?,
        };
        series.read(bytes, end)?;
        if series.histograms > 0 {
            let reason = "native histograms are not stored".to_owned();
            refuse(&mut self.tally.unplaced, reason, series.histograms);
        }
        // Labels behind the samples say more than the key does.
        let key = (!series.scattered).then(|| &bytes[..end]);
        let known = match (key, expected) {
            (None, _) => None,
            (Some(_), Some((known, _))) => Some(known),
            (Some(key), None) => resolver.book.find(before, key),
        };
        let found = known.and_then(|known| Some((known, resolver.book.target(known)?)));
        let (known, target) = match found {
            Some(found) => found,
            None => {
                let count = series.samples.len() as u64;
                let labels = match series.labels() {
                    Ok(labels) => labels,
                    Err(fault) => {
                        self.tally.fault(number, fault.to_owned(), count);
                        return Ok(before);
                    }
                };
                let Some((_, name)) = labels.iter().find(|(n, _)| *n == "__name__") else {
                    self.tally
                        .fault(number, "the series has no name".into(), count);
                    return Ok(before);
                };
                let target = resolver.resolve(name, &labels);
                match key {
                    // What the next lesson may change is not remembered.
                    Some(key) if target != Target::UnknownUuid => {
                        (resolver.book.remember(before, key, target), target)
                    }
                    _ => (before, target),
                }
            }
        };
        let place = Place { target, number };
        for (value, at) in &series.samples {
            self.take(&place, *value, Timestamp(*at), resolver, now);
        }
        Ok(known)
    }

    /// Reads a body of line protocol. Lines without a time are of `now`.
    pub(super) fn of_lines(
        body: &[u8],
        precision: Precision,
        resolver: &mut Resolver,
        now: Timestamp,
    ) -> Self {
        let read = Self::read(resolver, |parcel, resolver| {
            let mut key = Vec::new();
            let mut name = String::new();
            for point in Lines::new(body) {
                let point = match point {
                    Ok(point) => point,
                    Err((line, fault)) => {
                        parcel.tally.fault(line, fault.to_string(), 1);
                        continue;
                    }
                };
                let at = match point.time {
                    None => now,
                    Some(time) => match precision.millis(time) {
                        Some(millis) => Timestamp(millis),
                        None => {
                            let count = point.fields.len() as u64;
                            let fault = "the timestamp does not fit into the precision given";
                            parcel.tally.fault(point.line, fault.into(), count);
                            continue;
                        }
                    },
                };
                for (field, value) in &point.fields {
                    let Some(number) = value.number() else {
                        parcel.tally.texts += 1;
                        continue;
                    };
                    key.clear();
                    key.extend_from_slice(point.series);
                    // A newline cannot stand in a series: no two keys are alike.
                    key.push(b'\n');
                    key.extend_from_slice(field.as_bytes());
                    let known = (resolver.book.find(NONE, &key))
                        .and_then(|known| resolver.book.target(known));
                    let target = known.unwrap_or_else(|| {
                        metric_name(&point.measurement, field, &mut name);
                        let labels: Vec<(&str, &str)> =
                            (point.tags.iter()).map(|(k, v)| (&**k, &**v)).collect();
                        let target = resolver.resolve(&name, &labels);
                        if target != Target::UnknownUuid {
                            resolver.book.remember(NONE, &key, target);
                        }
                        target
                    });
                    let place = Place {
                        target,
                        number: point.line,
                    };
                    parcel.take(&place, number, at, resolver, now);
                }
            }
            Ok::<(), std::convert::Infallible>(())
        });
        match read {
            Ok(parcel) => parcel,
            Err(never) => match never {},
        }
    }

    fn take(
        &mut self,
        place: &Place,
        value: f64,
        at: Timestamp,
        resolver: &mut Resolver,
        now: Timestamp,
    ) {
        if let Some(fault) = time_fault(at, now) {
            return self.tally.fault(place.number, fault.into(), 1);
        }
        match place.target {
            Target::Channel(channel) => {
                self.take_reading(place.number, &channel, value, at, resolver);
            }
            Target::Unstored(number, reason) => {
                refuse(&mut self.tally.unplaced, reason.into(), 1);
                self.unknown.entry(number).or_default().add(value, at);
            }
            Target::Refused(reason) => refuse(&mut self.tally.unplaced, reason.into(), 1),
            Target::UnknownUuid => {
                self.waiting += 1;
                let reason = "a GPU's UUID whose index no sample has told yet";
                refuse(&mut self.tally.unplaced, reason.into(), 1);
            }
            Target::Lesson(lesson) => {
                if value.is_nan() || resolver.lesson(lesson, value) {
                    self.tally.lessons += 1;
                } else {
                    let reason = "the node has no GPU of this index";
                    refuse(&mut self.tally.unplaced, reason.into(), 1);
                }
            }
        }
    }

    fn take_reading(
        &mut self,
        place: usize,
        channel: &Channel,
        value: f64,
        at: Timestamp,
        resolver: &mut Resolver,
    ) {
        if let Some(number) = channel.unknown {
            self.unknown.entry(number).or_default().add(value, at);
            if value.is_infinite() {
                let reason = "an unknown metric's value that is infinite".to_owned();
                return refuse(&mut self.tally.unplaced, reason, 1);
            }
        }
        let reading = match channel.convert(value) {
            // NaN and Prometheus' staleness marker: it was asked and could not say.
            None => Reading::Missing,
            Some(value) => {
                let value = match in_range(channel, value) {
                    Ok(value) => value,
                    Err(reason) => return self.tally.fault(place, reason, 1),
                };
                if channel.estimated {
                    Reading::Estimated(value)
                } else {
                    Reading::Measured(value)
                }
            }
        };
        match resolver.group(channel, at, reading) {
            Added::New => {}
            Added::Again => self.tally.duplicates += 1,
            Added::TooMany => self.tally.fault(place, TOO_MANY.into(), 1),
        }
    }
}

/// The value, settled within its range; else why it cannot be.
fn in_range(channel: &Channel, value: f64) -> Result<f64, String> {
    let (low, high) = channel.range;
    if value >= low && value <= high {
        return Ok(value);
    }
    let about = Catalogue::builtin().metric(channel.metric);
    let value = settle(value, about);
    match value_fault(about, value) {
        None => Ok(value),
        Some(fault) => Err(format!("{}: {fault}", about.name)),
    }
}

/// A value beyond its range by far less than the metric's precision is at its
/// end: the sender's or our own arithmetic rounded it there.
fn settle(value: f64, about: &Metric) -> f64 {
    let slack = about.precision * 1e-3;
    let (low, high) = about.range;
    if value < low && value >= low - slack {
        low
    } else if value > high && value <= high + slack {
        high
    } else {
        value
    }
}

/// The metric that a field means; see `data/names.toml`.
fn metric_name(measurement: &str, field: &str, name: &mut String) {
    name.clear();
    match (measurement, field) {
        ("prometheus", field) => name.push_str(field),
        (measurement, "value" | "gauge" | "counter") => name.push_str(measurement),
        (measurement, field) => {
            name.push_str(measurement);
            name.push('_');
            name.push_str(field);
        }
    }
}
