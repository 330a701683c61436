//! Segments: immutable files of columns, sealed from the part in memory.
//!
//! ```text
//! file    = "HSEG" version(1) block* footer length(u32 LE) crc32(u32 LE, over the footer) "GESH"
//! block   = times (with length), count, count x (metric, column (with length))   one a device
//! footer  = count, count x metric name, count, count x device
//! device  = name, rows, samples, first, last, offset, length, crc32 of the block (u32 LE)
//! ```
//! The footers' facts on devices stay in memory as the index of device and time
//! range; blocks are read when a query wants them and verified then.

use super::codec::{
    Cursor, decode_column, decode_times, encode_column, encode_times, put_block, put_signed,
    put_varint,
};
use super::head::{DeviceHead, Sample, reading_of, select};
use heliostat_models::{Catalogue, MetricId, Reading};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const HEAD: &[u8; 5] = b"HSEG\x01";
const END: &[u8; 4] = b"GESH";
/// Bytes behind the footer.
const TAIL: u64 = 12;

/// Where a device's rows are in a segment.
#[derive(Clone, Copy, Debug)]
pub struct BlockMeta {
    /// Index of the device in the store.
    pub device: u32,
    /// Rows.
    pub rows: u32,
    /// Time of the first row.
    pub first: i64,
    /// Time of the last row.
    pub last: i64,
    offset: u64,
    length: u32,
    crc: u32,
}

/// An open segment.
#[derive(Debug)]
pub struct Segment {
    /// Its number: that of the last log whose frames it holds.
    pub id: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
    /// Rows in it.
    pub frames: u64,
    /// Readings in it.
    pub samples: u64,
    metrics: Vec<Option<MetricId>>,
    /// By device.
    blocks: Vec<BlockMeta>,
    damaged: AtomicBool,
}

/// One device's rows, read and verified.
#[derive(Debug)]
pub struct Block<'a> {
    rows: usize,
    times: &'a [u8],
    columns: Vec<(Option<MetricId>, &'a [u8])>,
}

/// The bytes of a segment of these devices: name and rows each.
pub fn encode<'a>(
    devices: impl Iterator<Item = (&'a str, &'a DeviceHead)>,
    catalogue: &Catalogue,
) -> Vec<u8> {
    let mut out = HEAD.to_vec();
    let mut metrics: Vec<MetricId> = Vec::new();
    let mut places: HashMap<MetricId, u64> = HashMap::new();
    let mut table = Vec::new();
    let mut count = 0u64;
    let mut scratch = Vec::new();
    for (name, head) in devices {
        let (Some(first), Some(last)) = (head.times().first(), head.times().last()) else {
            continue;
        };
        let mut block = Vec::new();
        encode_times(head.times(), &mut scratch);
        put_block(&mut block, &scratch);
        put_varint(&mut block, head.columns().len() as u64);
        let mut samples = 0u64;
        for column in head.columns() {
            let place = *places.entry(column.metric).or_insert_with(|| {
                metrics.push(column.metric);
                metrics.len() as u64 - 1
            });
            samples += column
                .states
                .iter()
                .filter(|s| **s != super::codec::ABSENT)
                .count() as u64;
            scratch.clear();
            encode_column(&column.states, &column.values, &mut scratch);
            put_varint(&mut block, place);
            put_block(&mut block, &scratch);
        }
        scratch.clear();
        put_block(&mut table, name.as_bytes());
        put_varint(&mut table, head.times().len() as u64);
        put_varint(&mut table, samples);
        put_signed(&mut table, *first);
        put_signed(&mut table, *last);
        put_varint(&mut table, out.len() as u64);
        put_varint(&mut table, block.len() as u64);
        table.extend_from_slice(&crc32fast::hash(&block).to_le_bytes());
        count += 1;
        out.append(&mut block);
    }
    let mut footer = Vec::new();
    put_varint(&mut footer, metrics.len() as u64);
    for metric in metrics {
        put_block(&mut footer, catalogue.metric(metric).name.as_bytes());
    }
    put_varint(&mut footer, count);
    footer.append(&mut table);
    let crc = crc32fast::hash(&footer);
    let length = footer.len() as u32;
    out.append(&mut footer);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(END);
    out
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Segment {
    /// Opens a segment: reads and verifies its footer. `device` gives the
    /// store's index of a name.
    pub fn open(
        path: &Path,
        id: u64,
        catalogue: &Catalogue,
        mut device: impl FnMut(&str) -> u32,
    ) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut head = [0; HEAD.len()];
        file.read_exact(&mut head)?;
        if &head != HEAD || bytes < HEAD.len() as u64 + TAIL {
            return Err(bad("not a segment of this version, or cut off"));
        }
        let mut tail = [0; TAIL as usize];
        file.seek(SeekFrom::End(-(TAIL as i64)))?;
        file.read_exact(&mut tail)?;
        let mut cursor = Cursor::new(&tail);
        let (length, crc) = match (cursor.u32(), cursor.u32()) {
            (Some(length), Some(crc)) if &tail[8..] == END => (u64::from(length), crc),
            _ => return Err(bad("its end is cut off")),
        };
        let start = (bytes - TAIL)
            .checked_sub(length)
            .ok_or_else(|| bad("its footer is longer than the file"))?;
        file.seek(SeekFrom::Start(start))?;
        let mut footer = vec![0; length as usize];
        file.read_exact(&mut footer)?;
        if crc32fast::hash(&footer) != crc {
            return Err(bad("its footer does not match its checksum"));
        }
        let mut segment = Self {
            id,
            path: path.to_owned(),
            bytes,
            frames: 0,
            samples: 0,
            metrics: Vec::new(),
            blocks: Vec::new(),
            damaged: AtomicBool::new(false),
        };
        segment
            .read_footer(&mut Cursor::new(&footer), start, catalogue, &mut device)
            .ok_or_else(|| bad("its footer contradicts itself"))?;
        Ok(segment)
    }

    fn read_footer(
        &mut self,
        cursor: &mut Cursor<'_>,
        end: u64,
        catalogue: &Catalogue,
        device: &mut impl FnMut(&str) -> u32,
    ) -> Option<()> {
        for _ in 0..cursor.length()? {
            self.metrics.push(catalogue.id(cursor.text()?));
        }
        for _ in 0..cursor.length()? {
            let name = cursor.text()?;
            let rows = u32::try_from(cursor.varint()?).ok()?;
            self.frames += u64::from(rows);
            self.samples += cursor.varint()?;
            let meta = BlockMeta {
                device: device(name),
                rows,
                first: cursor.signed()?,
                last: cursor.signed()?,
                offset: cursor.varint()?,
                length: u32::try_from(cursor.varint()?).ok()?,
                crc: cursor.u32()?,
            };
            if meta.offset.checked_add(u64::from(meta.length))? > end {
                return None;
            }
            self.blocks.push(meta);
        }
        self.blocks.sort_by_key(|b| b.device);
        Some(())
    }

    /// Where a device's rows are, if there are any.
    pub fn block_of(&self, device: u32) -> Option<&BlockMeta> {
        let place = self
            .blocks
            .binary_search_by_key(&device, |b| b.device)
            .ok()?;
        self.blocks.get(place)
    }

    /// All devices' places.
    pub fn blocks(&self) -> &[BlockMeta] {
        &self.blocks
    }

    /// Reads a block's bytes from the open file of this segment.
    pub fn read(&self, file: &File, meta: &BlockMeta) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; meta.length as usize];
        let mut file = file;
        file.seek(SeekFrom::Start(meta.offset))?;
        file.read_exact(&mut bytes)?;
        if crc32fast::hash(&bytes) != meta.crc {
            return Err(bad("a block does not match its checksum"));
        }
        Ok(bytes)
    }

    /// The columns within a block's bytes.
    pub fn parse<'a>(&self, meta: &BlockMeta, bytes: &'a [u8]) -> Option<Block<'a>> {
        let mut cursor = Cursor::new(bytes);
        let times = cursor.block()?;
        let mut columns = Vec::new();
        for _ in 0..cursor.length()? {
            let metric = *self.metrics.get(cursor.length()?)?;
            columns.push((metric, cursor.block()?));
        }
        let rows = meta.rows as usize;
        Some(Block {
            rows,
            times,
            columns,
        })
    }

    /// Says once in the log that this file is damaged; returns whether this was the first time.
    pub fn report_damage(&self, error: &dyn std::fmt::Display) -> bool {
        let first = !self.damaged.swap(true, Ordering::Relaxed);
        if first {
            tracing::error!(
                file = %self.path.display(), %error,
                "a segment is damaged: what it held for some devices cannot be read, all else is served; restore the file from a copy"
            );
        }
        first
    }
}

impl Block<'_> {
    /// The times of the rows.
    pub fn times(&self) -> Option<Vec<i64>> {
        decode_times(self.times, self.rows)
    }

    /// The samples of a metric in `[from, to)`; none when the block has no such column.
    pub fn samples(&self, metric: MetricId, from: i64, to: i64) -> Option<Vec<Sample>> {
        let Some((_, column)) = self.columns.iter().find(|(m, _)| *m == Some(metric)) else {
            return Some(Vec::new());
        };
        let times = self.times()?;
        let (states, values) = decode_column(column, self.rows)?;
        Some(select(&times, &states, &values, from, to))
    }

    /// The last row.
    pub fn last_row(&self) -> Option<Vec<(MetricId, Reading)>> {
        let mut readings = Vec::new();
        for (metric, column) in &self.columns {
            let (states, values) = decode_column(column, self.rows)?;
            if let (Some(metric), Some(state), Some(value)) = (metric, states.last(), values.last())
                && let Some(reading) = reading_of(*state, *value)
            {
                readings.push((*metric, reading));
            }
        }
        Some(readings)
    }
}
