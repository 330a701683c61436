//! The rows of several devices, column by column, one device behind the other:
//! what becomes a row group. It is filled, written and cleared again and again,
//! so that its memory is asked for once.

use super::plan::Precision;
use super::read::OwnedRows;
use super::schema::Key;
use crate::embedded::codec::ABSENT;
use heliostat_models::{Catalogue, DeviceId};

/// A column: state and value of each row.
#[derive(Debug)]
pub struct Column {
    /// Which.
    pub key: Key,
    /// States; rows behind the last are absent.
    pub states: Vec<u8>,
    /// Values; 0 where a row has none.
    pub values: Vec<f64>,
}

/// Rows of devices by rising name, each device's by rising time.
#[derive(Debug, Default)]
pub struct Table {
    /// Whose, and how many rows.
    pub devices: Vec<(DeviceId, usize)>,
    /// Instants.
    pub times: Vec<i64>,
    /// Columns in no particular order.
    pub columns: Vec<Column>,
}

impl Column {
    /// Lets the rows before this one that are not there yet be absent.
    pub fn pad(&mut self, rows: usize) {
        if self.states.len() < rows {
            self.states.resize(rows, ABSENT);
            self.values.resize(rows, 0.0);
        }
    }

    /// Sets a row behind all that are there.
    pub fn set(&mut self, row: usize, state: u8, value: f64) {
        self.pad(row);
        self.states.push(state);
        self.values.push(value);
    }

    /// Whether a row says anything.
    pub fn says_something(&self) -> bool {
        self.states.iter().any(|state| *state != ABSENT)
    }
}

impl Table {
    /// How many rows.
    pub fn rows(&self) -> usize {
        self.times.len()
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.devices.clear();
        self.times.clear();
        for column in &mut self.columns {
            column.states.clear();
            column.values.clear();
        }
    }

    /// The number of a column; a new one has no rows yet.
    pub fn place(&mut self, key: Key) -> usize {
        let found = self.columns.iter().position(|column| column.key == key);
        found.unwrap_or_else(|| {
            let (states, values) = (Vec::new(), Vec::new());
            self.columns.push(Column {
                key,
                states,
                values,
            });
            self.columns.len() - 1
        })
    }

    /// Takes the rows of one more device.
    pub fn push(&mut self, device: DeviceId, rows: &OwnedRows) {
        let before = self.rows();
        for (key, states, values) in &rows.columns {
            let place = self.place(*key);
            let column = &mut self.columns[place];
            column.pad(before);
            column.states.extend_from_slice(states);
            column.values.extend_from_slice(values);
        }
        self.times.extend_from_slice(&rows.times);
        self.devices.push((device, rows.times.len()));
    }

    /// Gives every column all rows.
    pub fn fill(&mut self) {
        let rows = self.rows();
        for column in &mut self.columns {
            column.pad(rows);
        }
    }

    /// Rounds the values of metrics that are not stored bit by bit.
    pub fn round(&mut self, precision: &Precision, catalogue: &Catalogue) {
        for column in &mut self.columns {
            let declared = catalogue.metric(column.key.metric);
            if let Some(rounding) = precision.rounding(&declared.name, declared.precision) {
                for value in &mut column.values {
                    *value = rounding.round(*value);
                }
            }
        }
    }
}
