//! Metrics that nobody told us the unit of: their series are stored as they are
//! ([`heliostat_models::foreign`]); here they are counted by name, with the latest
//! value, and shown, so that somebody can add them to the table of names.

use heliostat_models::Timestamp;
use serde::Serialize;
use std::collections::HashMap;

/// Names told apart; what comes beyond is counted together.
const NAMES: usize = 10_000;
/// Longest name kept, in bytes.
const LONGEST: usize = 200;
/// The name under which all beyond [`NAMES`] are counted.
const OTHERS: &str = "(others)";

/// What is known of a metric that is not in the catalogue.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnknownMetric {
    /// As the sender calls it.
    pub name: String,
    /// Nobody said.
    pub unit: &'static str,
    /// Series that came since the start and are stored.
    pub series: u64,
    /// Samples that came since the start, those that could not be stored included.
    pub samples: u64,
    /// The latest value, of whichever series.
    pub last_value: Option<f64>,
    /// The latest sample's instant.
    pub last_seen: Option<Timestamp>,
}

/// All of them, numbered.
#[derive(Default)]
pub(super) struct UnknownMetrics {
    metrics: Vec<UnknownMetric>,
    by_name: HashMap<String, u32>,
}

impl UnknownMetrics {
    /// The number of a name.
    pub(super) fn number(&mut self, name: &str) -> u32 {
        let name = shortened(name);
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let name = if self.metrics.len() < NAMES {
            name
        } else {
            OTHERS
        };
        if let Some(number) = self.by_name.get(name) {
            return *number;
        }
        let number = self.metrics.len() as u32;
        self.metrics.push(UnknownMetric {
            name: name.to_owned(),
            unit: "unknown",
            series: 0,
            samples: 0,
            last_value: None,
            last_seen: None,
        });
        self.by_name.insert(name.to_owned(), number);
        number
    }

    /// Counts a series that is stored.
    pub(super) fn has_series(&mut self, number: u32) {
        if let Some(metric) = self.metrics.get_mut(number as usize) {
            metric.series += 1;
        }
    }

    /// Counts what a request brought.
    pub(super) fn count(&mut self, number: u32, seen: &Seen) {
        let Some(metric) = self.metrics.get_mut(number as usize) else {
            return;
        };
        metric.samples += seen.samples;
        if seen.at >= metric.last_seen && seen.at.is_some() {
            metric.last_seen = seen.at;
            metric.last_value = seen.value;
        }
    }

    /// Those that samples came of, by name.
    pub(super) fn list(&self) -> Vec<UnknownMetric> {
        let mut list: Vec<_> = (self.metrics.iter())
            .filter(|m| m.samples > 0)
            .cloned()
            .collect();
        list.sort_by(|a, b| a.name.cmp(&b.name));
        list
    }
}

/// What one request said of an unknown metric.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) samples: u64,
    pub(super) value: Option<f64>,
    pub(super) at: Option<Timestamp>,
}

impl Seen {
    pub(super) fn add(&mut self, value: f64, at: Timestamp) {
        self.samples += 1;
        if Some(at) >= self.at && value.is_finite() {
            self.at = Some(at);
            self.value = Some(value);
        }
    }
}

fn shortened(name: &str) -> &str {
    let mut end = name.len().min(LONGEST);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_latest_and_bounds_the_names() {
        let mut unknown = UnknownMetrics::default();
        let number = unknown.number("fan_rpm");
        let mut seen = Seen::default();
        seen.add(2_000.0, Timestamp(20));
        seen.add(1_000.0, Timestamp(10));
        seen.add(f64::NAN, Timestamp(30));
        unknown.count(number, &seen);
        let list = unknown.list();
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].samples, list[0].last_value), (3, Some(2_000.0)));
        for n in 0..NAMES + 10 {
            let number = unknown.number(&format!("m{n}"));
            let mut seen = Seen::default();
            seen.add(1.0, Timestamp(1));
            unknown.count(number, &seen);
        }
        let list = unknown.list();
        assert_eq!(list.len(), NAMES + 1);
        assert_eq!(
            list.iter().map(|m| m.samples).sum::<u64>(),
            NAMES as u64 + 13
        );
        assert_eq!(list[0].name, OTHERS);
        assert_eq!(list[0].samples, 11);
        assert!(shortened(&"ä".repeat(300)).len() <= LONGEST);
    }
}
