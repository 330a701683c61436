//! The part of the store that is in memory: per device one column of times and
//! per metric one of states and values, all of the same length.

use super::codec::{ABSENT, ESTIMATED, MEASURED, MISSING};
use heliostat_models::{MetricId, Reading};

/// A row of a column: instant, state, value (0 where the state has none).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Milliseconds since 1970.
    pub at: i64,
    /// One of the states of [`super::codec`].
    pub state: u8,
    /// The value.
    pub value: f64,
}

/// What one device has in memory.
#[derive(Debug, Default)]
pub struct DeviceHead {
    times: Vec<i64>,
    columns: Vec<Column>,
}

/// One metric of a device in memory.
#[derive(Debug)]
pub struct Column {
    /// Which.
    pub metric: MetricId,
    /// State of each row.
    pub states: Vec<u8>,
    /// Value of each row.
    pub values: Vec<f64>,
}

/// A reading as state and value.
pub fn state_of(reading: Reading) -> (u8, f64) {
    match reading {
        Reading::Measured(value) => (MEASURED, value),
        Reading::Estimated(value) => (ESTIMATED, value),
        Reading::Missing => (MISSING, 0.0),
    }
}

/// State and value as a reading; none where the metric is absent.
pub fn reading_of(state: u8, value: f64) -> Option<Reading> {
    match state {
        MEASURED => Some(Reading::Measured(value)),
        ESTIMATED => Some(Reading::Estimated(value)),
        MISSING => Some(Reading::Missing),
        _ => None,
    }
}

impl DeviceHead {
    /// The times, rising.
    pub fn times(&self) -> &[i64] {
        &self.times
    }

    /// The metrics.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Whether a row at this instant is there.
    pub fn contains(&self, at: i64) -> bool {
        self.times.last().is_some_and(|last| at <= *last) && self.times.binary_search(&at).is_ok()
    }

    /// Adds a row that is not there yet.
    pub fn insert(&mut self, at: i64, readings: &[(MetricId, Reading)]) {
        let in_order = self.times.last().is_none_or(|last| at > *last);
        let row = if in_order {
            self.times.len()
        } else {
            self.times.partition_point(|t| *t < at)
        };
        self.times.insert(row, at);
        for column in &mut self.columns {
            column.states.insert(row, ABSENT);
            column.values.insert(row, 0.0);
        }
        for (place, (metric, reading)) in readings.iter().enumerate() {
            // Frames of one source name their metrics in the same order, so the
            // column is nearly always at the same place.
            let found = match self.columns.get(place) {
                Some(column) if column.metric == *metric => Some(place),
                _ => self.columns.iter().position(|c| c.metric == *metric),
            };
            let column = found.unwrap_or_else(|| {
                self.columns.push(Column {
                    metric: *metric,
                    states: vec![ABSENT; self.times.len()],
                    values: vec![0.0; self.times.len()],
                });
                self.columns.len() - 1
            });
            let (state, value) = state_of(*reading);
            self.columns[column].states[row] = state;
            self.columns[column].values[row] = value;
        }
    }

    /// The samples of a metric in `[from, to)`.
    pub fn samples(&self, metric: MetricId, from: i64, to: i64) -> Vec<Sample> {
        let Some(column) = self.columns.iter().find(|c| c.metric == metric) else {
            return Vec::new();
        };
        select(&self.times, &column.states, &column.values, from, to)
    }
}

/// The samples of a column in `[from, to)`; rows without the metric left out.
pub fn select(times: &[i64], states: &[u8], values: &[f64], from: i64, to: i64) -> Vec<Sample> {
    let first = times.partition_point(|t| *t < from);
    let last = times.partition_point(|t| *t < to).max(first);
    (times[first..last].iter())
        .zip(states.get(first..last).unwrap_or_default())
        .zip(values.get(first..last).unwrap_or_default())
        .filter(|((_, state), _)| **state != ABSENT)
        .map(|((at, state), value)| Sample {
            at: *at,
            state: *state,
            value: *value,
        })
        .collect()
}
