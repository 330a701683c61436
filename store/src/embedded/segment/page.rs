//! Pages and the chunk of a column that they make up: what `chunk` encodes is
//! compressed here and gets its header (Parquet format, "Data Pages", version 1;
//! the headers are Thrift's compact protocol).
//!
//! These are our own, because the parquet crate's column writer makes a new zstd
//! context a page and asks for its values twice: three times as long for blocks of
//! a few dozen rows a device. The file around them, its footer and all reading are
//! the crate's.
//!
//! A chunk whose first page zstd does not shorten is stored as it is: packed
//! noise takes as much time to compress as anything else, and nothing comes of it.

use super::hybrid;
use super::schema::{self, Key, Planned, Shape, TIME};
use crate::embedded::codec::put_signed;
use crate::embedded::decimal::power;
use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::column::writer::ColumnCloseResult;
use parquet::data_type::DataType;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ColumnChunkMetaData;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::file::statistics::Statistics;
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor};
use std::io::Cursor;
use std::sync::Arc;
use zstd::bulk::Compressor;
use zstd::zstd_safe::compress_bound;

/// Shorter pages are too few bytes to judge a chunk by.
const JUDGED: usize = 1_024;

/// What writing pages needs again and again, kept from page to page.
pub struct Press {
    compressor: Compressor<'static>,
    /// The page at hand, not compressed.
    pub page: Vec<u8>,
    compressed: Vec<u8>,
    chunk: Vec<u8>,
}

impl Press {
    /// One with nothing in it, of zstd's level.
    pub fn new(level: i32) -> Result<Self> {
        Ok(Self {
            compressor: Compressor::new(level)?,
            page: Vec::new(),
            compressed: Vec::new(),
            chunk: Vec::new(),
        })
    }

    /// Begins a chunk.
    pub fn chunk(&mut self) -> Pages<'_> {
        self.chunk.clear();
        Pages {
            press: self,
            raw: 0,
            values: 0,
            dictionary: None,
            encoding: Encoding::PLAIN,
            stored: None,
        }
    }
}

/// A chunk of a column, as it stands in the file.
#[derive(Debug)]
pub struct Chunk {
    /// Its pages with their headers.
    pub bytes: Vec<u8>,
    /// Bytes that they would have if they were not compressed.
    raw: usize,
    /// Rows, those without a value included.
    pub rows: usize,
    /// Bytes of the dictionary's page before the others, where there is one.
    dictionary: Option<usize>,
    encoding: Encoding,
    /// Whether its pages are compressed.
    compression: Compression,
    /// Least and largest value.
    pub statistics: Option<Statistics>,
}

/// A chunk on its way.
pub struct Pages<'a> {
    /// Where the page at hand is made.
    pub press: &'a mut Press,
    raw: usize,
    values: usize,
    dictionary: Option<usize>,
    encoding: Encoding,
    /// Whether its pages are stored as they are; not known before the first.
    stored: Option<bool>,
}

/// What a page is.
enum Kind {
    Dictionary { entries: usize },
    Data { rows: usize, encoding: Encoding },
}

impl Pages<'_> {
    /// Ends the page at hand, which is the dictionary of those to come.
    pub fn dictionary(&mut self, entries: usize) -> Result<()> {
        self.end_page(Kind::Dictionary { entries })?;
        self.dictionary = Some(self.press.chunk.len());
        Ok(())
    }

    /// Ends the page at hand.
    pub fn data(&mut self, rows: usize, encoding: Encoding) -> Result<()> {
        self.values += rows;
        // A page without a single value names none that matters.
        if encoding != Encoding::PLAIN {
            self.encoding = encoding;
        }
        self.end_page(Kind::Data { rows, encoding })
    }

    /// Writes which rows of the page at hand have a value: 1, or 0.
    pub fn levels(&mut self, rows: usize, levels: Option<&[u8]>) {
        let page = &mut self.press.page;
        page.extend_from_slice(&[0; 4]);
        match levels {
            Some(levels) => hybrid::put(page, 1, levels),
            None => hybrid::put_run(page, 1, 1, rows),
        }
        let length = (page.len() - 4) as u32;
        page[..4].copy_from_slice(&length.to_le_bytes());
    }

    fn end_page(&mut self, kind: Kind) -> Result<()> {
        let press = &mut *self.press;
        if self.stored != Some(true) {
            press.compressed.clear();
            press.compressed.reserve(compress_bound(press.page.len()));
            let mut cursor = Cursor::new(&mut press.compressed);
            (press.compressor).compress_to_buffer(&press.page, &mut cursor)?;
            let judged = press.page.len() >= JUDGED && self.dictionary.is_none();
            let hardly = press.compressed.len() * 64 > press.page.len() * 63;
            self.stored
                .get_or_insert(judged && hardly && matches!(kind, Kind::Data { .. }));
        }
        let content = match self.stored {
            Some(true) => &press.page,
            _ => &press.compressed,
        };
        let begin = press.chunk.len();
        put_header(&mut press.chunk, press.page.len(), content.len(), &kind);
        self.raw += press.chunk.len() - begin + press.page.len();
        press.chunk.extend_from_slice(content);
        press.page.clear();
        Ok(())
    }

    /// Ends the chunk.
    pub fn finish(self, statistics: Option<Statistics>) -> Chunk {
        Chunk {
            bytes: self.press.chunk.clone(),
            raw: self.raw,
            rows: self.values,
            dictionary: self.dictionary,
            encoding: self.encoding,
            compression: match self.stored {
                Some(true) => Compression::UNCOMPRESSED,
                _ => Compression::ZSTD(Default::default()),
            },
            statistics,
        }
    }
}

/// The number of an encoding in headers, of those that are used here.
fn number_of(encoding: Encoding) -> i64 {
    match encoding {
        Encoding::RLE => 3,
        Encoding::DELTA_BINARY_PACKED => 5,
        Encoding::RLE_DICTIONARY => 8,
        Encoding::BYTE_STREAM_SPLIT => 9,
        _ => 0,
    }
}

/// A header of Thrift's compact protocol: a byte with the distance to the field
/// before and the type, then the value; 0 ends a structure.
fn put_header(out: &mut Vec<u8>, raw: usize, length: usize, kind: &Kind) {
    const I32: u8 = 5;
    const STRUCT: u8 = 12;
    let mut number = |head: u8, value: i64| {
        out.push(head << 4 | I32);
        put_signed(out, value);
    };
    let page_type = match kind {
        Kind::Data { .. } => 0,
        Kind::Dictionary { .. } => 2,
    };
    number(1, page_type);
    number(1, raw as i64);
    number(1, length as i64);
    match kind {
        Kind::Data { rows, encoding } => {
            // Field 5 after field 3.
            out.push(2 << 4 | STRUCT);
            let mut number = |value: i64| {
                out.push(1 << 4 | I32);
                put_signed(out, value);
            };
            number(*rows as i64);
            number(number_of(*encoding));
            number(number_of(Encoding::RLE));
            number(number_of(Encoding::RLE));
        }
        Kind::Dictionary { entries } => {
            // Field 7 after field 3.
            out.push(4 << 4 | STRUCT);
            out.push(1 << 4 | I32);
            put_signed(out, *entries as i64);
            out.push(1 << 4 | I32);
            put_signed(out, number_of(Encoding::PLAIN));
        }
    }
    out.extend_from_slice(&[0, 0]);
}

impl Chunk {
    /// What the footer says of it, as if it stood at the begin of a file.
    pub fn metadata(&self, column: ColumnDescPtr) -> Result<ColumnChunkMetaData> {
        let mut encodings = vec![Encoding::RLE, self.encoding];
        if self.dictionary.is_some() {
            encodings.push(Encoding::PLAIN);
        }
        let builder = ColumnChunkMetaData::builder(column)
            .set_encodings(encodings)
            .set_compression(self.compression)
            .set_num_values(self.rows as i64)
            .set_total_compressed_size(self.bytes.len() as i64)
            .set_total_uncompressed_size(self.raw as i64)
            .set_dictionary_page_offset(self.dictionary.map(|_| 0))
            .set_data_page_offset(self.dictionary.unwrap_or(0) as i64);
        match &self.statistics {
            Some(statistics) => builder.set_statistics(statistics.clone()).build(),
            None => builder.build(),
        }
    }

    /// The same with what Parquet's writer wants to know.
    pub fn closed(&self, column: ColumnDescPtr) -> Result<ColumnCloseResult> {
        Ok(ColumnCloseResult {
            bytes_written: self.bytes.len() as u64,
            rows_written: self.rows as u64,
            metadata: self.metadata(column)?,
            bloom_filter: None,
            column_index: None,
            offset_index: None,
        })
    }
}

impl Chunk {
    /// Levels (1: there is a value) and the values there are, of a metric's column.
    pub fn decode(&self, key: Key, shape: Shape) -> Result<(Vec<i16>, Vec<f64>)> {
        let planned = Planned {
            name: "values".to_owned(),
            key: Some(key),
            shape,
            quality: false,
            place: 0,
        };
        let schema = SchemaDescriptor::new(schema::schema(&[planned])?);
        let column = schema.column(TIME + 1);
        let metadata = self.metadata(Arc::clone(&column))?;
        let bytes = Arc::new(Bytes::copy_from_slice(&self.bytes));
        let pages = SerializedPageReader::new(bytes, &metadata, self.rows, None)?;
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        match (get_column_reader(column, Box::new(pages)), shape) {
            (ColumnReader::DoubleColumnReader(mut reader), Shape::Double) => {
                all_rows(&mut reader, self.rows, &mut levels, &mut values)?;
            }
            (ColumnReader::Int64ColumnReader(mut reader), Shape::Decimal { scale }) => {
                let mut integers = Vec::new();
                all_rows(&mut reader, self.rows, &mut levels, &mut integers)?;
                values.extend(integers.iter().map(|i| *i as f64 / power(scale)));
            }
            _ => return Err(fault("a chunk is of another type than it was written as")),
        }
        Ok((levels, values))
    }
}

fn all_rows<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    rows: usize,
    levels: &mut Vec<i16>,
    values: &mut Vec<T::T>,
) -> Result<()> {
    while levels.len() < rows {
        let (read, _, _) = reader.read_records(rows - levels.len(), Some(levels), None, values)?;
        if read == 0 {
            return Err(fault("a chunk has fewer rows than were written"));
        }
    }
    Ok(())
}

/// A fault of what was to be encoded.
pub fn fault(what: &str) -> ParquetError {
    ParquetError::General(what.to_owned())
}
