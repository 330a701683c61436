//! Writing a segment: row groups of whole devices, sorted by device and time.
//!
//! What only this engine needs stands in the file's key-value metadata, beside
//! the meaning of the columns: which rows of which row group are whose
//! (`heliostat.devices`), and a CRC-32 of each column chunk
//! (`heliostat.checksums`), because Parquet's pages carry none here.

use super::schema::{self, Key, Part, Planned, Shape};
use crate::embedded::codec::{ABSENT, ESTIMATED, MEASURED, has_value};
use crate::embedded::decimal::{Rounding, fit, scale_of};
use heliostat_models::Catalogue;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::Result;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::ColumnPath;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Rows after which a row group is closed, once the device at hand is whole.
pub const GROUP_ROWS: usize = 65_536;
/// Rows of a page: what is decoded to find one value.
const PAGE_ROWS: usize = 4_096;
/// A dictionary longer than this gives way to plain columns of bytes.
const DICTIONARY_BYTES: usize = 64 << 10;
/// zstd's level: beyond, time grows faster than files shrink.
const LEVEL: i32 = 3;

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

/// How values are stored: all bits, or to the precision that the catalogue declares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// Bit by bit.
    #[default]
    Lossless,
    /// These metrics, by name, as multiples of their declared precision; the others bit by bit.
    Declared(Vec<String>),
    /// All metrics as multiples of their declared precision.
    AllDeclared,
}

impl Precision {
    /// The rounding of a metric; none where all bits are kept.
    pub fn rounding(&self, name: &str, precision: f64) -> Option<Rounding> {
        let declared = match self {
            Self::Lossless => false,
            Self::Declared(names) => names.iter().any(|n| n == name),
            Self::AllDeclared => true,
        };
        declared.then(|| Rounding::to(precision)).flatten()
    }
}

/// A column, the state of each row, the value of each row.
pub type BorrowedColumn<'a> = (Key, &'a [u8], &'a [f64]);

/// Rows of one device by rising time.
#[derive(Clone, Debug)]
pub struct Rows<'a> {
    /// Its name.
    pub device: &'a str,
    /// Instants.
    pub times: &'a [i64],
    /// Column, state of each row, value of each row.
    pub columns: Vec<BorrowedColumn<'a>>,
}

impl Rows<'_> {
    /// Readings in them.
    pub fn samples(&self) -> u64 {
        (self.columns.iter())
            .filter(|(key, _, _)| key.part == Part::Value)
            .map(|(_, states, _)| states.iter().filter(|s| **s != ABSENT).count() as u64)
            .sum()
    }
}

/// What the columns of a file must hold, gathered from the rows that are to be written.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    columns: Vec<Planned>,
}

impl Plan {
    /// Takes note of rows.
    pub fn see(&mut self, rows: &Rows<'_>, precision: &Precision, catalogue: &Catalogue) {
        for (key, states, values) in &rows.columns {
            if states.iter().all(|s| *s == ABSENT) {
                continue;
            }
            let found = self.columns.iter().position(|c| c.key == Some(*key));
            let at = found.unwrap_or_else(|| {
                let declared = catalogue.metric(key.metric);
                let rounding = precision.rounding(&declared.name, declared.precision);
                let shape = match (key.shape(catalogue), rounding) {
                    (Shape::Decimal { .. }, Some(Rounding { scale, .. }))
                        if key.part == Part::Value =>
                    {
                        Shape::Decimal { scale }
                    }
                    (shape, _) => shape,
                };
                self.columns.push(Planned {
                    name: key.name(catalogue),
                    key: Some(*key),
                    shape,
                    quality: false,
                    place: 0,
                });
                self.columns.len() - 1
            });
            let Some(column) = self.columns.get_mut(at) else {
                continue;
            };
            column.quality |= states.iter().any(|s| *s != MEASURED && *s != ABSENT);
            for (state, value) in states.iter().zip(values.iter()) {
                let Shape::Decimal { scale } = column.shape else {
                    break;
                };
                if has_value(*state) && fit(*value, scale).is_none() {
                    column.shape = match scale_of(*value, scale) {
                        Some(scale) => Shape::Decimal { scale },
                        None => Shape::Double,
                    };
                }
            }
        }
    }

    /// Takes note of a file that is to be written again.
    pub fn see_columns(&mut self, others: &[Planned]) {
        for other in others.iter().filter(|c| c.key.is_some()) {
            let Some(column) = (self.columns.iter_mut()).find(|c| c.key == other.key) else {
                self.columns.push(other.clone());
                continue;
            };
            column.quality |= other.quality;
            column.shape = match (column.shape, other.shape) {
                (Shape::Decimal { scale: a }, Shape::Decimal { scale: b }) => {
                    Shape::Decimal { scale: a.max(b) }
                }
                _ => Shape::Double,
            };
        }
    }

    /// The columns with their places, by the order of the catalogue.
    fn finish(mut self) -> Vec<Planned> {
        self.columns.sort_by_key(|c| c.key);
        schema::place(&mut self.columns);
        self.columns
    }
}

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

/// Writes one file.
pub struct FileWriter {
    file: SerializedFileWriter<Vec<u8>>,
    columns: Vec<Planned>,
    devices: Vec<Value>,
    checksums: Vec<Value>,
    frames: u64,
    samples: u64,
}

fn properties(columns: &[Planned]) -> Result<WriterPropertiesPtr> {
    let mut properties = WriterProperties::builder()
        .set_created_by("heliostat".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(LEVEL)?))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_offset_index_disabled(true)
        .set_dictionary_page_size_limit(DICTIONARY_BYTES)
        .set_encoding(Encoding::BYTE_STREAM_SPLIT)
        .set_column_encoding(ColumnPath::from("device"), Encoding::DELTA_BYTE_ARRAY);
    let mut integers = vec!["time"];
    for column in columns {
        if column.shape != Shape::Double {
            integers.push(&column.name);
        }
        if column.quality {
            let path = ColumnPath::from(format!("{}{}", column.name, schema::QUALITY));
            properties = properties.set_column_encoding(path, Encoding::DELTA_BYTE_ARRAY);
        }
    }
    for (name, part) in (columns
        .iter()
        .map(|c| (c.name.as_str(), c.key.map(|k| k.part))))
    .chain([("device", None), ("time", None)])
    {
        if part.is_none_or(|part| part == Part::Value) {
            let (path, enabled) = (ColumnPath::from(name), EnabledStatistics::Chunk);
            properties = properties.set_column_statistics_enabled(path, enabled);
        }
    }
    for name in integers {
        let path = ColumnPath::from(name);
        properties = properties
            .set_column_dictionary_enabled(path.clone(), false)
            .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED);
    }
    Ok(Arc::new(properties.build()))
}

impl FileWriter {
    /// Begins a file.
    pub fn new(plan: Plan) -> Result<Self> {
        let columns = plan.finish();
        let schema = schema::schema(&columns)?;
        Ok(Self {
            file: SerializedFileWriter::new(Vec::new(), schema, properties(&columns)?)?,
            columns,
            devices: Vec::new(),
            checksums: Vec::new(),
            frames: 0,
            samples: 0,
        })
    }

    /// Bytes so far.
    pub fn length(&self) -> usize {
        self.file.bytes_written()
    }

    /// Writes a row group: whole devices by rising name.
    pub fn group(&mut self, devices: &[Rows<'_>]) -> Result<()> {
        let mut group = self.file.next_row_group()?;
        write_keys(&mut group, devices)?;
        for column in &self.columns {
            write_values(&mut group, column, devices)?;
            if column.quality {
                write_qualities(&mut group, column, devices)?;
            }
        }
        let written = group.close()?;
        self.file.flush()?;
        let bytes = self.file.inner();
        let checksums: Vec<u32> = (written.columns().iter())
            .map(|chunk| {
                let (offset, length) = chunk.byte_range();
                let chunk = bytes.get(offset as usize..(offset + length) as usize);
                crc32fast::hash(chunk.unwrap_or_default())
            })
            .collect();
        self.checksums.push(json!(checksums));
        let table: Vec<Value> = (devices.iter())
            .map(|d| json!([d.device, d.times.len(), d.times.first(), d.times.last()]))
            .collect();
        self.devices.push(Value::Array(table));
        for rows in devices {
            self.frames += rows.times.len() as u64;
            self.samples += rows.samples();
        }
        Ok(())
    }

    /// Ends the file.
    pub fn finish(mut self, catalogue: &Catalogue) -> Result<Encoded> {
        let mut meaning = Map::new();
        for key in self.columns.iter().filter_map(|c| c.key) {
            let metric = catalogue.metric(key.metric);
            meaning.insert(
                metric.name.clone(),
                json!({"unit": metric.unit, "kind": metric.kind, "description": metric.description}),
            );
        }
        for (key, value) in [
            (DEVICES_KEY, Value::Array(std::mem::take(&mut self.devices))),
            (
                CHECKSUMS_KEY,
                Value::Array(std::mem::take(&mut self.checksums)),
            ),
            (COLUMNS_KEY, Value::Object(meaning)),
            (ROLLUP_KEY, json!(ROLLUP_FORM)),
        ] {
            let entry = KeyValue::new(key.to_owned(), value.to_string());
            self.file.append_key_value_metadata(entry);
        }
        Ok(Encoded {
            bytes: self.file.into_inner()?,
            frames: self.frames,
            samples: self.samples,
        })
    }
}

type Group<'a> = SerializedRowGroupWriter<'a, Vec<u8>>;

fn too_few() -> parquet::errors::ParquetError {
    parquet::errors::ParquetError::General("a row group has fewer columns than planned".to_owned())
}

fn write_keys(group: &mut Group<'_>, devices: &[Rows<'_>]) -> Result<()> {
    let mut column = group.next_column()?.ok_or_else(too_few)?;
    for rows in devices {
        let names = vec![ByteArray::from(rows.device); rows.times.len()];
        (column.typed::<ByteArrayType>()).write_batch(&names, None, None)?;
    }
    column.close()?;
    let mut column = group.next_column()?.ok_or_else(too_few)?;
    for rows in devices {
        (column.typed::<Int64Type>()).write_batch(rows.times, None, None)?;
    }
    column.close()
}

/// States and values of a metric; none where the device does not have it.
fn found<'a>(rows: &'a Rows<'_>, column: &Planned) -> Option<(&'a [u8], &'a [f64])> {
    (rows.columns.iter())
        .find(|(key, _, _)| Some(*key) == column.key)
        .map(|(_, states, values)| (*states, *values))
}

fn write_values(group: &mut Group<'_>, planned: &Planned, devices: &[Rows<'_>]) -> Result<()> {
    let mut column = group.next_column()?.ok_or_else(too_few)?;
    let mut levels: Vec<i16> = Vec::new();
    let (mut doubles, mut integers): (Vec<f64>, Vec<i64>) = (Vec::new(), Vec::new());
    for rows in devices {
        levels.clear();
        doubles.clear();
        match found(rows, planned) {
            Some((states, values)) => {
                levels.extend(states.iter().map(|s| i16::from(has_value(*s))));
                let kept = states.iter().zip(values).filter(|(s, _)| has_value(**s));
                doubles.extend(kept.map(|(_, v)| *v));
            }
            None => levels.resize(rows.times.len(), 0),
        }
        match planned.shape {
            Shape::Double => {
                (column.typed::<DoubleType>()).write_batch(&doubles, Some(&levels), None)?;
            }
            Shape::Decimal { scale } => {
                integers.clear();
                // What does not fit was seen when planning; it cannot come here.
                integers.extend(doubles.iter().map_while(|v| fit(*v, scale)));
                (column.typed::<Int64Type>()).write_batch(&integers, Some(&levels), None)?;
            }
        }
    }
    column.close()
}

fn write_qualities(group: &mut Group<'_>, planned: &Planned, devices: &[Rows<'_>]) -> Result<()> {
    let mut column = group.next_column()?.ok_or_else(too_few)?;
    let names = [MEASURED, ESTIMATED, crate::embedded::codec::MISSING]
        .map(|s| schema::quality_name(s).map(ByteArray::from));
    for rows in devices {
        let states = found(rows, planned).map(|(states, _)| states);
        let levels: Vec<i16> = match states {
            Some(states) => states.iter().map(|s| i16::from(*s != ABSENT)).collect(),
            None => vec![0; rows.times.len()],
        };
        let values: Vec<ByteArray> = (states.unwrap_or_default().iter())
            .filter(|s| **s != ABSENT)
            .filter_map(|s| names.get(usize::from(*s) - 1).cloned().flatten())
            .collect();
        (column.typed::<ByteArrayType>()).write_batch(&values, Some(&levels), None)?;
    }
    column.close()
}
