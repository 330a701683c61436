//! The samples of a request, brought together by device and instant as they come.

use heliostat_models::{DeviceId, MetricId, Reading};
use std::collections::HashMap;

/// A set of metrics of the catalogue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MetricSet(u128);

impl MetricSet {
    /// Metrics that can be told apart; a test holds the catalogue against it.
    #[cfg(test)]
    pub(super) const MOST: usize = 128;

    fn bit(metric: MetricId) -> u128 {
        1u128.checked_shl(u32::from(metric.0)).unwrap_or(0)
    }

    pub(super) fn contains(self, metric: MetricId) -> bool {
        self.0 & Self::bit(metric) != 0
    }

    /// Adds a metric; false where it was there.
    pub(super) fn insert(&mut self, metric: MetricId) -> bool {
        let is_new = !self.contains(metric);
        self.0 |= Self::bit(metric);
        is_new
    }

    /// Takes all of another set in.
    pub(super) fn extend(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// What one request says of a device at an instant.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) device: DeviceId,
    /// Its number, as the resolver counts.
    pub(super) number: u32,
    /// It stands for a series that is in no catalogue.
    pub(super) is_unknown: bool,
    /// The request's place in a group that is written together.
    pub(super) request: u32,
    /// Milliseconds since 1970.
    pub(super) at: i64,
    pub(super) metrics: MetricSet,
    /// Each metric once.
    pub(super) readings: Vec<(MetricId, Reading)>,
    /// The device's part that was begun after this one.
    next: u32,
}

const NONE: u32 = u32::MAX;
/// Parts of a request at most (about 120 bytes each): its memory is bounded
/// also where each sample is of another device or instant.
pub(super) const MOST_PARTS: usize = 500_000;
/// Parts that room is made for beforehand, at most.
const MOST_ROOM: usize = 100_000;

/// Where a device's parts of the request in work are.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The request; another one's is void.
    request: u64,
    /// The part that the sample before went into.
    current: u32,
    /// The part that was begun last.
    newest: u32,
    /// The latest instant of any part.
    latest: i64,
    /// Readings of a part lately: so much room the next one gets.
    usual: u32,
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// It stands in its part.
    New,
    /// The request has said it before.
    Again,
    /// The request speaks of more devices and instants than [`MOST_PARTS`].
    TooMany,
}

/// Brings samples together; kept from request to request for its memory of devices.
#[derive(Debug, Default)]
pub(super) struct Grouping {
    request: u64,
    places: Vec<Place>,
    /// Parts of devices with several instants.
    by_instant: HashMap<(u32, i64), u32>,
    parts: Vec<Part>,
    /// Parts of a request lately.
    usual: usize,
}

impl Grouping {
    /// Begins with the next request; parts of the last one that nobody took are void.
    pub(super) fn begin(&mut self) {
        self.request += 1;
        self.parts = Vec::with_capacity(self.usual);
        self.by_instant.clear();
    }

    /// The request's parts, in the order in which they were begun.
    pub(super) fn take(&mut self) -> Vec<Part> {
        for part in &self.parts {
            if let Some(place) = self.places.get_mut(part.number as usize) {
                place.usual = part.readings.len() as u32;
            }
        }
        self.by_instant.clear();
        self.usual = self.parts.len().min(MOST_ROOM);
        std::mem::take(&mut self.parts)
    }

    /// Takes a sample in.
    pub(super) fn add(
        &mut self,
        number: u32,
        device: impl FnOnce() -> (DeviceId, bool),
        at: i64,
        metric: MetricId,
        reading: Reading,
    ) -> Added {
        let place = match self.find(number, at) {
            Some(place) => place,
            None if self.parts.len() >= MOST_PARTS => return Added::TooMany,
            None => self.open(number, device(), at),
        };
        let part = &mut self.parts[place as usize];
        if !part.metrics.insert(metric) {
            return Added::Again;
        }
        part.readings.push((metric, reading));
        Added::New
    }

    /// The device's part of an instant.
    fn find(&mut self, number: u32, at: i64) -> Option<u32> {
        let place = self.places.get_mut(number as usize)?;
        if place.request != self.request {
            return None;
        }
        let current = &self.parts[place.current as usize];
        if current.at == at {
            return Some(place.current);
        }
        // A series' samples rise, as did those of the series before it.
        if let Some(next) = self.parts.get(current.next as usize)
            && next.at == at
        {
            place.current = current.next;
            return Some(place.current);
        }
        if at > place.latest {
            return None;
        }
        let found = *self.by_instant.get(&(number, at))?;
        place.current = found;
        Some(found)
    }

    fn open(&mut self, number: u32, (device, is_unknown): (DeviceId, bool), at: i64) -> u32 {
        let new = self.parts.len() as u32;
        if self.places.len() <= number as usize {
            let void = Place {
                request: 0,
                current: NONE,
                newest: NONE,
                latest: i64::MIN,
                usual: 1,
            };
            self.places.resize(number as usize + 1, void);
        }
        let place = &mut self.places[number as usize];
        if place.request == self.request {
            // Only where a device has several instants they are looked up.
            if let Some(newest) = self.parts.get_mut(place.newest as usize) {
                newest.next = new;
                self.by_instant.insert((number, newest.at), place.newest);
            }
            self.by_instant.insert((number, at), new);
            place.latest = place.latest.max(at);
        } else {
            place.request = self.request;
            place.latest = at;
        }
        (place.current, place.newest) = (new, new);
        self.parts.push(Part {
            device,
            number,
            is_unknown,
            request: 0,
            at,
            metrics: MetricSet::default(),
            readings: Vec::with_capacity(place.usual as usize),
            next: NONE,
        });
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::Catalogue;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn the_catalogue_fits_into_a_set() {
        assert!(Catalogue::builtin().iter().count() <= MetricSet::MOST);
        let mut set = MetricSet::default();
        assert!(set.insert(MetricId(127)) && !set.insert(MetricId(127)));
        assert!(set.insert(MetricId(0)) && !set.contains(MetricId(1)));
    }

    #[test]
    fn one_request_takes_so_much_memory_and_the_next_begins_anew() {
        let mut grouping = Grouping::default();
        let device = || (DeviceId::from("d"), false);
        let mut add =
            |at: i64, metric: u16| grouping.add(0, device, at, MetricId(metric), Reading::Missing);
        for at in 0..MOST_PARTS as i64 {
            assert_eq!(add(at, 0), Added::New);
        }
        assert_eq!(add(-1, 0), Added::TooMany);
        assert_eq!((add(7, 1), add(7, 1)), (Added::New, Added::Again));
        assert_eq!(grouping.take().len(), MOST_PARTS);
        grouping.begin();
        assert_eq!(
            grouping.add(0, device, -1, MetricId(0), Reading::Missing),
            Added::New
        );
    }

    proptest! {
        /// In whatever order samples come: what a map by device and instant says.
        #[test]
        fn parts_are_a_map_by_device_and_instant(
            requests in prop::collection::vec(prop::collection::vec((0u32..4, 0i64..6, 0u16..3), 0..60), 1..4),
        ) {
            let mut grouping = Grouping::default();
            for samples in requests {
                grouping.begin();
                let mut model: BTreeMap<(u32, i64), Vec<(MetricId, Reading)>> = BTreeMap::new();
                for (place, (number, at, metric)) in samples.into_iter().enumerate() {
                    let (metric, reading) = (MetricId(metric), Reading::Measured(place as f64));
                    let known = model.entry((number, at)).or_default();
                    let is_new = known.iter().all(|(m, _)| *m != metric);
                    if is_new {
                        known.push((metric, reading));
                    }
                    let device = || (DeviceId::from(format!("d{number}")), false);
                    let expected = if is_new { Added::New } else { Added::Again };
                    prop_assert_eq!(grouping.add(number, device, at, metric, reading), expected);
                }
                let parts = grouping.take();
                let found: BTreeMap<_, _> = (parts.iter())
                    .map(|p| ((p.number, p.at), p.readings.clone()))
                    .collect();
                prop_assert_eq!(parts.len(), found.len());
                prop_assert_eq!(found, model);
            }
        }
    }
}
