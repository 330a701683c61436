//! Writing a segment: row groups of whole devices, sorted by device and time.
//!
//! Which columns there are, and how their numbers are stored, is known when the last
//! row group is there: groups are kept encoded until then. What was encoded before
//! another group needed more digits is encoded again.
//!
//! What only this engine needs stands in the file's key-value metadata, beside
//! the meaning of the columns: which rows of which row group are whose
//! (`heliostat.devices`), and a CRC-32 of each column chunk
//! (`heliostat.checksums`), because Parquet's pages carry none here.

use super::chunk;
use super::page::Chunk;
use super::plan::{Decimals, Plan};
use super::schema::{self, Key, Part, Planned, Shape};
use super::stored::{Scratch, Stored, agree, nothing, store};
use super::table::{Column, Table};
use crate::embedded::codec::ABSENT;
use bytes::Bytes;
use heliostat_models::Catalogue;
use parquet::errors::Result;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::SchemaDescriptor;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows after which a row group is closed, once the device at hand is whole.
pub const GROUP_ROWS: usize = 65_536;

/// Key of the table of devices.
pub const DEVICES_KEY: &str = "heliostat.devices";
/// Key of the checksums.
pub const CHECKSUMS_KEY: &str = "heliostat.checksums";
/// Key of a rollup's form: 2 where readings at the begin of a step are told apart.
pub const ROLLUP_KEY: &str = "heliostat.rollup";
/// The form that is written.
pub const ROLLUP_FORM: u32 = 2;
/// Key of what the columns mean.
pub const COLUMNS_KEY: &str = "heliostat.columns";

/// A finished file.
#[derive(Debug)]
pub struct Encoded {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Rows in it.
    pub frames: u64,
    /// Readings in it.
    pub samples: u64,
}

/// A row group, encoded.
struct Group {
    rows: usize,
    device: Chunk,
    time: Chunk,
    columns: BTreeMap<Key, Stored>,
}

/// Writes one file.
pub struct FileWriter {
    plan: Plan,
    groups: Vec<Group>,
    devices: Vec<Value>,
    length: usize,
    frames: u64,
    samples: u64,
}

impl FileWriter {
    /// Begins a file.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            groups: Vec::new(),
            devices: Vec::new(),
            length: 0,
            frames: 0,
            samples: 0,
        }
    }

    /// Bytes so far.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.frames
    }

    /// Begins a row group with the devices and instants of a table; its columns come next.
    pub fn begin_group(&mut self, scratch: &mut Scratch, table: &Table) -> Result<()> {
        let device = chunk::devices(&mut scratch.press, &table.devices)?;
        let time = chunk::times(&mut scratch.press, &table.times)?;
        self.length += device.bytes.len() + time.bytes.len();
        let mut row = 0;
        let devices = table.devices.iter().map(|(device, rows)| {
            let times = table.times.get(row..row + rows).unwrap_or_default();
            row += rows;
            json!([device.as_str(), rows, times.first(), times.last()])
        });
        self.devices.push(Value::Array(devices.collect()));
        self.frames += table.rows() as u64;
        self.groups.push(Group {
            rows: table.rows(),
            device,
            time,
            columns: BTreeMap::new(),
        });
        Ok(())
    }

    /// Digits behind the point that a column's values have at least, where they are decimals.
    pub fn least_scale(&self, key: Key, catalogue: &Catalogue) -> u8 {
        match self.plan.shape_of(key, catalogue) {
            Shape::Decimal { scale } => scale,
            Shape::Double => 0,
        }
    }

    /// Adds a column to the row group that was begun last; `decimals`: its values, where they are such.
    pub fn column(
        &mut self,
        scratch: &mut Scratch,
        column: &Column,
        decimals: Option<&Decimals>,
        catalogue: &Catalogue,
    ) -> Result<()> {
        let Some(group) = (self.groups.last_mut()).filter(|_| column.says_something()) else {
            return Ok(());
        };
        let key = column.key;
        let shape = match (self.plan.shape_of(key, catalogue), decimals) {
            (Shape::Decimal { .. }, Some(found)) => Shape::Decimal { scale: found.scale },
            _ => Shape::Double,
        };
        self.plan.widen(key, shape);
        if key.part == Part::Value {
            let there = column.states.iter().filter(|s| **s != ABSENT);
            self.samples += there.count() as u64;
        }
        let stored = store(scratch, column, decimals, shape)?;
        self.length += stored.values.bytes.len();
        self.length += stored.qualities.as_ref().map_or(0, |q| q.bytes.len());
        group.columns.insert(key, stored);
        Ok(())
    }

    /// Writes a row group: a whole table.
    pub fn group(
        &mut self,
        scratch: &mut Scratch,
        table: &mut Table,
        catalogue: &Catalogue,
    ) -> Result<()> {
        table.fill();
        self.begin_group(scratch, table)?;
        let mut decimals = Decimals::default();
        for column in table.columns.iter().filter(|c| c.says_something()) {
            let wanted = self.plan.shape_of(column.key, catalogue) != Shape::Double;
            let least = self.least_scale(column.key, catalogue);
            let found = wanted && decimals.find(&column.states, &column.values, least);
            self.column(scratch, column, found.then_some(&decimals), catalogue)?;
        }
        Ok(())
    }

    /// The columns with their places, by the order of the catalogue.
    fn columns(&self, catalogue: &Catalogue) -> Vec<Planned> {
        let mut columns: BTreeMap<Key, Planned> = BTreeMap::new();
        for (key, stored) in self.groups.iter().flat_map(|group| &group.columns) {
            let column = columns.entry(*key).or_insert_with(|| Planned {
                name: key.name(catalogue),
                key: Some(*key),
                shape: self.plan.shape_of(*key, catalogue),
                quality: false,
                place: 0,
            });
            column.quality |= stored.qualities.is_some();
        }
        let mut columns: Vec<Planned> = columns.into_values().collect();
        schema::place(&mut columns);
        columns
    }

    /// Ends the file.
    pub fn finish(mut self, scratch: &mut Scratch, catalogue: &Catalogue) -> Result<Encoded> {
        let mut columns = self.columns(catalogue);
        for column in &mut columns {
            let key = column.key;
            let mut stored: Vec<&mut Stored> = (self.groups.iter_mut())
                .filter_map(|group| group.columns.get_mut(&key?))
                .collect();
            agree(scratch, column, &mut stored)?;
        }
        let schema = schema::schema(&columns)?;
        let described = SchemaDescriptor::new(Arc::clone(&schema));
        let properties = WriterProperties::builder().set_created_by("heliostat".to_owned());
        let bytes = Vec::with_capacity(self.length + self.length / 16);
        let mut file = SerializedFileWriter::new(bytes, schema, Arc::new(properties.build()))?;
        let mut checksums: Vec<Value> = Vec::new();
        for mut group in self.groups {
            let mut chunks = vec![group.device, group.time];
            for column in &columns {
                let stored = column.key.and_then(|key| group.columns.remove(&key));
                let stored = match stored {
                    Some(stored) => stored,
                    None => nothing(scratch, group.rows, column)?,
                };
                chunks.push(stored.values);
                chunks.extend(stored.qualities);
            }
            let mut writer = file.next_row_group()?;
            let mut sums = Vec::with_capacity(chunks.len());
            for (place, chunk) in chunks.into_iter().enumerate() {
                sums.push(crc32fast::hash(&chunk.bytes));
                let closed = chunk.closed(described.column(place))?;
                writer.append_column(&Bytes::from(chunk.bytes), closed)?;
            }
            writer.close()?;
            checksums.push(json!(sums));
        }
        let mut meaning = Map::new();
        for key in columns.iter().filter_map(|c| c.key) {
            let metric = catalogue.metric(key.metric);
            meaning.insert(
                metric.name.clone(),
                json!({"unit": metric.unit, "kind": metric.kind, "description": metric.description}),
            );
        }
        for (key, value) in [
            (DEVICES_KEY, Value::Array(self.devices)),
            (CHECKSUMS_KEY, Value::Array(checksums)),
            (COLUMNS_KEY, Value::Object(meaning)),
            (ROLLUP_KEY, json!(ROLLUP_FORM)),
        ] {
            let entry = KeyValue::new(key.to_owned(), value.to_string());
            file.append_key_value_metadata(entry);
        }
        Ok(Encoded {
            bytes: file.into_inner()?,
            frames: self.frames,
            samples: self.samples,
        })
    }
}
