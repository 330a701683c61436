//! What must hold of any bytes that a stranger sends. The fuzz targets in `fuzz/`
//! run this for long, the tests with seeded damage for a moment. Not part of the
//! program.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a broken property stops the run"
)]

use super::line::Lines;
use super::parcel::Parcel;
use super::remote_write::{MAX_DECODED, decompress, read};
use super::resolve::Resolver;
use super::{NOW, Precision};
use heliostat_models::site::config;
use heliostat_models::{DeviceId, MetricId, Reading, Site, foreign};
use std::sync::Arc;

/// Bodies after which the memory of names begins anew; damaged names would fill it.
const FRESH: u32 = 4_096;

/// Reads bodies, with the memory that the ones before left.
pub struct Desk {
    site: Arc<Site>,
    resolver: Resolver,
    bodies: u32,
    buffer: Vec<u8>,
}

impl Default for Desk {
    fn default() -> Self {
        Self::new()
    }
}

impl Desk {
    /// Of the demo's site.
    pub fn new() -> Self {
        let loaded = config::load("demo.toml", config::builtin_demo(), Default::default());
        let site = Arc::new(loaded.site.expect("the demo's site is sound"));
        Self {
            resolver: Resolver::new(Arc::clone(&site)),
            site,
            bodies: 0,
            buffer: Vec::new(),
        }
    }

    fn next(&mut self) {
        self.bodies += 1;
        if self.bodies.is_multiple_of(FRESH) {
            self.resolver = Resolver::new(Arc::clone(&self.site));
        }
    }

    /// A body of remote write, and the same bytes as what is inside one: whether
    /// either could be read.
    pub fn remote_write(&mut self, bytes: &[u8]) -> bool {
        self.next();
        let mut buffer = std::mem::take(&mut self.buffer);
        let inside = match decompress(bytes, &mut buffer) {
            Ok(length) => {
                assert!(length <= MAX_DECODED);
                self.message(&buffer[..length])
            }
            Err(_) => false,
        };
        self.buffer = buffer;
        self.message(bytes) || inside
    }

    /// Every sample of a message is somewhere, and what is known from the first
    /// reading changes nothing in the next.
    fn message(&mut self, message: &[u8]) -> bool {
        let Ok(first) = Parcel::of_remote_write(message, &mut self.resolver, NOW) else {
            return false;
        };
        let mut samples = 0;
        let whole = read(message, |s| {
            samples += s.samples.len() as u64 + s.histograms
        });
        assert_eq!(whole, Ok(()));
        assert_eq!(counted(&first), samples);
        sound(&first);
        // The first may have taught which GPU has which UUID.
        let mut again = || Parcel::of_remote_write(message, &mut self.resolver, NOW);
        let (second, third) = (again().expect("as before"), again().expect("as before"));
        assert_eq!(second.tally, third.tally);
        assert_eq!(said(&second), said(&third));
        true
    }

    /// A body of line protocol. How many samples and faults it held.
    pub fn line_protocol(&mut self, body: &[u8]) -> u64 {
        self.next();
        let parcel = Parcel::of_lines(body, Precision::Seconds, &mut self.resolver, NOW);
        let expected = Lines::new(body)
            .map(|line| line.map_or(1, |point| point.fields.len() as u64))
            .sum();
        assert_eq!(counted(&parcel) + parcel.tally.texts, expected);
        sound(&parcel);
        expected
    }
}

fn counted(parcel: &Parcel) -> u64 {
    let t = &parcel.tally;
    (parcel.parts.iter().map(|p| p.readings.len() as u64)).sum::<u64>()
        + t.duplicates
        + t.lessons
        + t.unplaced.values().sum::<u64>()
        + t.refused.values().sum::<u64>()
}

/// What goes to the store can be stored, and once an instant.
fn sound(parcel: &Parcel) {
    let mut seen = std::collections::HashSet::new();
    for part in &parcel.parts {
        assert!(seen.insert((part.number, part.at)));
        assert_eq!(part.is_unknown, foreign::is_foreign(&part.device));
        if part.is_unknown {
            let series = foreign::ForeignSeries::parse(part.device.as_str());
            assert_eq!(series.expect("a series").device(), Ok(part.device.clone()));
        }
        for (place, (metric, reading)) in part.readings.iter().enumerate() {
            assert!(reading.value().is_none_or(f64::is_finite));
            assert!(part.readings[..place].iter().all(|(m, _)| m != metric));
        }
    }
}

type Said = Vec<(DeviceId, i64, Vec<(MetricId, Reading)>)>;

fn said(parcel: &Parcel) -> Said {
    (parcel.parts.iter())
        .map(|p| (p.device.clone(), p.at, p.readings.clone()))
        .collect()
}
