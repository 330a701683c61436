//! Reading a segment: a column chunk is read whole and held against its
//! checksum, then only the pages that are wanted are decoded.

use super::schema::{self, Key, Planned, Shape, TIME};
use super::{BlockMeta, Segment};
use crate::embedded::codec::{ABSENT, MEASURED};
use crate::embedded::decimal::power;
use crate::embedded::head::{Sample, reading_of};
use crate::embedded::state::Row;
use bytes::{Buf, Bytes};
use parquet::basic::Compression;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

/// Bytes of chunks that one query keeps at a time.
const KEPT_BYTES: usize = 64 << 20;
/// Bytes of decoded columns that one query keeps at a time.
const KEPT_DECODED: usize = 64 << 20;
/// Files that one query keeps open at a time.
const OPEN_FILES: usize = 64;

/// Why a block cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The file's format is violated.
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    /// The bytes are not those that were written.
    #[error("column `{column}` of row group {group} does not match its checksum")]
    Checksum {
        /// Name of the column.
        column: String,
        /// Number of the row group.
        group: u32,
    },
    /// The file contradicts itself.
    #[error("{0}")]
    Contradiction(&'static str),
}

/// Where a column chunk is in the file.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u32,
    /// First byte of its data pages, from the begin of the chunk, where a dictionary comes before.
    pub data: Option<u32>,
    /// Of its pages.
    pub compression: Compression,
    /// CRC-32 of its bytes.
    pub crc: u32,
}

/// What a query has read and may need again: open files, and chunks that hold
/// more than one device.
#[derive(Debug, Default)]
pub struct Cache {
    files: HashMap<u64, File>,
    chunks: HashMap<(u64, u32, usize), Bytes>,
    kept: usize,
    /// Whether whole row groups are decoded at once and kept: worth it for a
    /// query of many devices, too much for one of few.
    whole: bool,
    times: HashMap<(u64, u32), Arc<Vec<i64>>>,
    decoded: HashMap<(u64, u32, usize), Arc<Decoded>>,
    kept_decoded: usize,
}

/// State and value of each row; the value of a row without one is 0.
pub type Decoded = (Vec<u8>, Vec<f64>);

impl Cache {
    /// For a query of so many devices.
    pub fn for_devices(count: usize) -> Self {
        Self {
            whole: count >= 8,
            ..Self::default()
        }
    }

    fn keep_decoded(&mut self, bytes: usize) {
        if self.kept_decoded + bytes > KEPT_DECODED {
            self.times.clear();
            self.decoded.clear();
            self.kept_decoded = 0;
        }
        self.kept_decoded += bytes;
    }

    /// The bytes of a chunk, verified.
    pub fn chunk(
        &mut self,
        segment: &Segment,
        group: u32,
        column: usize,
    ) -> Result<Bytes, ReadError> {
        let key = (segment.id, group, column);
        if let Some(bytes) = self.chunks.get(&key) {
            return Ok(bytes.clone());
        }
        let chunk = segment.chunk(group, column)?;
        if !self.files.contains_key(&segment.id) {
            if self.files.len() >= OPEN_FILES {
                self.files.clear();
            }
            self.files.insert(segment.id, File::open(&segment.path)?);
        }
        let mut bytes = vec![0; chunk.length as usize];
        if let Some(mut file) = self.files.get(&segment.id) {
            file.seek(SeekFrom::Start(chunk.offset))?;
            file.read_exact(&mut bytes)?;
        }
        if crc32fast::hash(&bytes) != chunk.crc {
            return Err(ReadError::Checksum {
                column: segment.schema.column(column).name().to_owned(),
                group,
            });
        }
        if self.kept + bytes.len() > KEPT_BYTES {
            self.chunks.clear();
            self.kept = 0;
        }
        self.kept += bytes.len();
        let bytes = Bytes::from(bytes);
        self.chunks.insert(key, bytes.clone());
        Ok(bytes)
    }
}

/// A chunk's bytes at their place in the file.
struct Window {
    offset: u64,
    bytes: Bytes,
}

impl Window {
    fn from(&self, start: u64) -> parquet::errors::Result<Bytes> {
        let skip = start
            .checked_sub(self.offset)
            .and_then(|s| usize::try_from(s).ok());
        match skip {
            Some(skip) if skip <= self.bytes.len() => Ok(self.bytes.slice(skip..)),
            _ => Err(ParquetError::EOF(
                "a page is outside of its chunk".to_owned(),
            )),
        }
    }
}

impl Length for Window {
    fn len(&self) -> u64 {
        self.offset + self.bytes.len() as u64
    }
}

impl ChunkReader for Window {
    type T = bytes::buf::Reader<Bytes>;
    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(self.from(start)?.reader())
    }
    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        let bytes = self.from(start)?;
        if length > bytes.len() {
            return Err(ParquetError::EOF("a page is cut off".to_owned()));
        }
        Ok(bytes.slice(..length))
    }
}

/// Rows of a column: levels (1: there is a value) and the values there are.
struct Column<T> {
    levels: Vec<i16>,
    values: Vec<T>,
}

impl Segment {
    fn reader(
        &self,
        cache: &mut Cache,
        group: u32,
        column: usize,
    ) -> Result<ColumnReader, ReadError> {
        let bytes = cache.chunk(self, group, column)?;
        let chunk = self.chunk(group, column)?;
        let rows = self.group_rows(group);
        let descr = self.schema.column(column);
        let offset = chunk.offset as i64;
        let meta = ColumnChunkMetaData::builder(Arc::clone(&descr))
            .set_compression(chunk.compression)
            .set_num_values(i64::from(rows))
            .set_total_compressed_size(i64::from(chunk.length))
            .set_dictionary_page_offset(chunk.data.map(|_| offset))
            .set_data_page_offset(offset + i64::from(chunk.data.unwrap_or(0)))
            .build()?;
        let window = Window {
            offset: chunk.offset,
            bytes,
        };
        let pages = SerializedPageReader::new(Arc::new(window), &meta, rows as usize, None)?;
        Ok(get_column_reader(descr, Box::new(pages)))
    }

    /// Instants of rows `skip..skip + rows` of a row group.
    fn times_of(
        &self,
        cache: &mut Cache,
        group: u32,
        skip: usize,
        rows: usize,
    ) -> Result<Vec<i64>, ReadError> {
        let ColumnReader::Int64ColumnReader(mut reader) = self.reader(cache, group, TIME)? else {
            return Err(ReadError::Contradiction("the times are no integers"));
        };
        let mut times = Vec::with_capacity(rows);
        read_rows(&mut reader, skip, rows, None, &mut times)?;
        Ok(times)
    }

    /// The instants of a block.
    pub fn times(&self, cache: &mut Cache, meta: &BlockMeta) -> Result<Vec<i64>, ReadError> {
        let (start, rows) = (meta.start as usize, meta.rows as usize);
        let all = self.group_rows(meta.group) as usize;
        if !cache.whole || rows == all {
            return self.times_of(cache, meta.group, start, rows);
        }
        let key = (self.id, meta.group);
        let times = match cache.times.get(&key) {
            Some(times) => Arc::clone(times),
            None => {
                let times = Arc::new(self.times_of(cache, meta.group, 0, all)?);
                cache.keep_decoded(all * 8);
                cache.times.insert(key, Arc::clone(&times));
                times
            }
        };
        Ok(times.get(start..start + rows).unwrap_or_default().to_vec())
    }

    /// The instants of a block's rows, and of no others.
    pub fn block_times(&self, cache: &mut Cache, meta: &BlockMeta) -> Result<Vec<i64>, ReadError> {
        let (start, rows) = (meta.start as usize, meta.rows as usize);
        self.times_of(cache, meta.group, start, rows)
    }

    /// A column of a block's rows, and of no others; none when the file has no such column.
    pub fn block_column(
        &self,
        cache: &mut Cache,
        meta: &BlockMeta,
        key: Key,
    ) -> Result<Option<Decoded>, ReadError> {
        let Some(column) = self.columns.iter().find(|c| c.key == Some(key)) else {
            return Ok(None);
        };
        let (start, rows) = (meta.start as usize, meta.rows as usize);
        (self.decode(cache, meta.group, column, start, rows)).map(Some)
    }

    fn doubles(
        &self,
        cache: &mut Cache,
        group: u32,
        column: &Planned,
        skip: usize,
        rows: usize,
    ) -> Result<Column<f64>, ReadError> {
        let mut levels = Vec::with_capacity(rows);
        match (self.reader(cache, group, column.place)?, column.shape) {
            (ColumnReader::DoubleColumnReader(mut reader), Shape::Double) => {
                let mut values = Vec::with_capacity(rows);
                read_rows(&mut reader, skip, rows, Some(&mut levels), &mut values)?;
                Ok(Column { levels, values })
            }
            (ColumnReader::Int64ColumnReader(mut reader), Shape::Decimal { scale }) => {
                let mut integers: Vec<i64> = Vec::with_capacity(rows);
                read_rows(&mut reader, skip, rows, Some(&mut levels), &mut integers)?;
                let power = power(scale);
                let values = integers.iter().map(|i| *i as f64 / power).collect();
                Ok(Column { levels, values })
            }
            _ => Err(ReadError::Contradiction(
                "a column is of another type than the schema says",
            )),
        }
    }

    fn qualities(
        &self,
        cache: &mut Cache,
        group: u32,
        place: usize,
        skip: usize,
        rows: usize,
    ) -> Result<Vec<u8>, ReadError> {
        let ColumnReader::ByteArrayColumnReader(mut reader) = self.reader(cache, group, place)?
        else {
            return Err(ReadError::Contradiction("the qualities are no text"));
        };
        let (mut levels, mut values): (Vec<i16>, Vec<ByteArray>) = (Vec::new(), Vec::new());
        read_rows(&mut reader, skip, rows, Some(&mut levels), &mut values)?;
        let mut values = values.iter();
        let states = levels.iter().map(|level| match level {
            0 => Some(ABSENT),
            _ => values.next().and_then(|v| schema::quality_state(v.data())),
        });
        (states.collect::<Option<Vec<u8>>>())
            .ok_or(ReadError::Contradiction("a quality has an unknown name"))
    }

    /// States and values of rows `skip..skip + rows` of a row group; the value of a row without one is 0.
    fn column_of(
        &self,
        cache: &mut Cache,
        group: u32,
        column: &Planned,
        skip: usize,
        rows: usize,
    ) -> Result<Decoded, ReadError> {
        let all = self.group_rows(group) as usize;
        if !cache.whole || rows == all {
            return self.decode(cache, group, column, skip, rows);
        }
        let key = (self.id, group, column.place);
        let whole = match cache.decoded.get(&key) {
            Some(whole) => Arc::clone(whole),
            None => {
                let whole = Arc::new(self.decode(cache, group, column, 0, all)?);
                cache.keep_decoded(all * 9);
                cache.decoded.insert(key, Arc::clone(&whole));
                whole
            }
        };
        let range = skip..skip + rows;
        match (whole.0.get(range.clone()), whole.1.get(range)) {
            (Some(states), Some(values)) => Ok((states.to_vec(), values.to_vec())),
            _ => Err(ReadError::Contradiction(
                "a block is outside of its row group",
            )),
        }
    }

    fn decode(
        &self,
        cache: &mut Cache,
        group: u32,
        column: &Planned,
        skip: usize,
        rows: usize,
    ) -> Result<Decoded, ReadError> {
        let Column { levels, values } = self.doubles(cache, group, column, skip, rows)?;
        let states = if column.quality {
            self.qualities(cache, group, column.place + 1, skip, rows)?
        } else {
            let state = |level: &i16| if *level == 0 { ABSENT } else { MEASURED };
            levels.iter().map(state).collect()
        };
        if values.len() == rows {
            return Ok((states, values));
        }
        let mut present = values.into_iter();
        let spread = levels.iter().map(|level| match level {
            0 => 0.0,
            _ => present.next().unwrap_or_default(),
        });
        let spread = spread.collect();
        Ok((states, spread))
    }

    /// The samples of a metric in `[from, to)`; none when the file has no such column.
    pub fn samples(
        &self,
        cache: &mut Cache,
        meta: &BlockMeta,
        key: Key,
        from: i64,
        to: i64,
    ) -> Result<Vec<Sample>, ReadError> {
        let Some(column) = self.columns.iter().find(|c| c.key == Some(key)) else {
            return Ok(Vec::new());
        };
        let times = self.times(cache, meta)?;
        let first = times.partition_point(|t| *t < from);
        let last = times.partition_point(|t| *t < to).max(first);
        if first == last {
            return Ok(Vec::new());
        }
        let skip = meta.start as usize + first;
        let (states, values) = self.column_of(cache, meta.group, column, skip, last - first)?;
        Ok((times[first..last].iter().zip(states).zip(values))
            .filter(|((_, state), _)| *state != ABSENT)
            .map(|((at, state), value)| Sample {
                at: *at,
                state,
                value,
            })
            .collect())
    }

    /// The rows of a block from an instant on, of which there are few.
    pub fn last_rows(
        &self,
        cache: &mut Cache,
        meta: &BlockMeta,
        from: i64,
    ) -> Result<Vec<Row>, ReadError> {
        let times = self.times(cache, meta)?;
        let first = times.partition_point(|at| *at < from);
        let times = times.get(first..).unwrap_or_default();
        let mut rows: Vec<Row> = times.iter().map(|at| (*at, Vec::new())).collect();
        let skip = meta.start as usize + first;
        for column in &self.columns {
            let (states, values) = self.column_of(cache, meta.group, column, skip, rows.len())?;
            let Some(key) = column.key else {
                continue;
            };
            for ((_, readings), (state, value)) in rows.iter_mut().zip(states.iter().zip(values)) {
                readings.extend(reading_of(*state, value).map(|reading| (key.metric, reading)));
            }
        }
        Ok(rows)
    }

    /// All rows of a block: instants, and state and value by metric.
    pub fn rows(&self, cache: &mut Cache, meta: &BlockMeta) -> Result<OwnedRows, ReadError> {
        let times = self.times(cache, meta)?;
        let mut columns = Vec::new();
        for column in &self.columns {
            let Some(key) = column.key else {
                continue;
            };
            let (start, rows) = (meta.start as usize, meta.rows as usize);
            let (states, values) = self.column_of(cache, meta.group, column, start, rows)?;
            if states.iter().any(|s| *s != ABSENT) {
                columns.push((key, states, values));
            }
        }
        Ok(OwnedRows { times, columns })
    }
}

/// Levels, where the column has any, and values of rows `skip..skip + rows`.
fn read_rows<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    skip: usize,
    rows: usize,
    mut levels: Option<&mut Vec<i16>>,
    values: &mut Vec<T::T>,
) -> Result<(), ReadError> {
    reader.skip_records(skip)?;
    let mut done = 0;
    while done < rows {
        // A page at a time.
        let levels = levels.as_deref_mut();
        let (read, _, _) = reader.read_records(rows - done, levels, None, values)?;
        done += read;
        if read == 0 {
            return Err(ReadError::Contradiction("a column is too short"));
        }
    }
    Ok(())
}

/// Rows of a device, read.
#[derive(Debug)]
pub struct OwnedRows {
    /// Instants, rising.
    pub times: Vec<i64>,
    /// Column, state of each row, value of each row.
    pub columns: Vec<(Key, Vec<u8>, Vec<f64>)>,
}
