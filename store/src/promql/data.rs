//! Series as they are read and as they are evaluated.

use super::error::{PromqlError, same_labels};
use super::labels::Labels;
use std::collections::HashMap;

/// Stands where a series has no value at an instant, and for a reading that is
/// known to be missing; Prometheus' staleness marker, which no computation yields.
pub(super) const ABSENT: f64 = f64::from_bits(0x7ff0_0000_0000_0002);

/// Whether there is a value; an ordinary NaN is one.
pub(super) fn is_there(value: f64) -> bool {
    value.to_bits() != ABSENT.to_bits()
}

/// A series as read: samples by rising time. A value that is [`ABSENT`] says
/// that the reading was missing and ends what was before.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Samples {
    pub labels: Labels,
    /// Milliseconds since 1970.
    pub times: Vec<i64>,
    pub values: Vec<f64>,
}

/// What was read for one selector.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fetched {
    /// The samples that some instant looks at.
    Samples(Vec<Samples>),
    /// One value per instant, folded by the store.
    Folded(Vec<Row>),
    /// The same of each group of devices.
    Grouped(Vec<Row>),
}

/// A series as evaluated: one value per instant of the grid.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub labels: Labels,
    pub values: Vec<f64>,
}

impl Row {
    pub(super) fn is_empty(&self) -> bool {
        !self.values.iter().any(|v| is_there(*v))
    }
    /// Each value that is there through a function.
    pub(super) fn map(mut self, function: impl Fn(usize, f64) -> f64) -> Self {
        for (index, value) in self.values.iter_mut().enumerate() {
            if is_there(*value) {
                *value = function(index, *value);
            }
        }
        self
    }
}

/// Rows without the name of the metric. Two that become one must not have a
/// value at the same instant.
pub(super) fn nameless(rows: Vec<Row>) -> Result<Vec<Row>, PromqlError> {
    merge(rows.into_iter().map(|row| Row {
        labels: row.labels.nameless(),
        values: row.values,
    }))
}

/// Rows of the same labels become one; empty ones are left out.
pub(super) fn merge(rows: impl Iterator<Item = Row>) -> Result<Vec<Row>, PromqlError> {
    let mut merged: Vec<Row> = Vec::new();
    let mut places: HashMap<Labels, usize> = HashMap::new();
    for row in rows.filter(|row| !row.is_empty()) {
        match places.get(&row.labels) {
            None => {
                places.insert(row.labels.clone(), merged.len());
                merged.push(row);
            }
            Some(place) => {
                for (known, new) in merged[*place].values.iter_mut().zip(row.values) {
                    match (is_there(*known), is_there(new)) {
                        (true, true) => return Err(same_labels()),
                        (false, true) => *known = new,
                        _ => {}
                    }
                }
            }
        }
    }
    Ok(merged)
}
