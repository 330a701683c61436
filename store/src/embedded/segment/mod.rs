//! Segments: immutable Parquet files of frames, one row a frame, sorted by
//! device and time, each for one day and kind of device. Any reader of Parquet
//! reads them; `schema` says what the columns are.
//!
//! The table of devices and the places of the column chunks stay in memory as
//! the index; chunks are read when a query wants them and verified then.

mod chunk;
mod delta;
mod hybrid;
mod page;
mod plan;
mod read;
pub mod schema;
mod sequence;
mod stored;
mod table;
#[cfg(test)]
mod tests;
mod write;

pub use plan::{Decimals, Plan, Precision};
pub use read::{Cache, Chunk, Decoded, OwnedRows, ReadError};
pub use sequence::Sequence;
pub use stored::Scratch;
pub use table::{Column, Table};
pub use write::{Encoded, FileWriter, GROUP_ROWS};

use heliostat_models::Catalogue;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::schema::types::SchemaDescPtr;
use schema::Planned;
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Bytes behind the footer: its length and the magic.
const TAIL: u64 = 8;

/// Where a device's rows are in a segment.
#[derive(Clone, Copy, Debug)]
pub struct BlockMeta {
    /// Index of the device in the store.
    pub device: u32,
    /// Number of the row group.
    pub group: u32,
    /// First row in the row group.
    pub start: u32,
    /// Rows.
    pub rows: u32,
    /// Time of the first row.
    pub first: i64,
    /// Time of the last row.
    pub last: i64,
}

/// An open segment.
#[derive(Debug)]
pub struct Segment {
    /// Its number, unique in the store.
    pub id: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Its metrics.
    pub columns: Vec<Planned>,
    /// Of a rollup: whether readings at the begin of a step are told apart from
    /// those inside, as since the second form of rollups.
    pub edges: bool,
    /// Of a rollup: whether least and most of a counter are left out where its first
    /// and last value tell them, as since the third form.
    pub derived: bool,
    schema: SchemaDescPtr,
    /// Rows and chunks by column, by row group.
    groups: Vec<(u32, Vec<Chunk>)>,
    /// By device.
    blocks: Vec<BlockMeta>,
    /// Instants of the first and the last of all rows.
    pub span: (i64, i64),
    /// Row groups found damaged.
    damaged: Mutex<BTreeSet<u32>>,
    /// Replaced: the file goes when nobody reads it any more.
    retired: AtomicBool,
}

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// The CRC-32 of a file's footer, its length and the magic behind it.
pub fn footer_crc(bytes: &[u8]) -> Option<u32> {
    let (_, tail) = bytes.split_at_checked(bytes.len().checked_sub(TAIL as usize)?)?;
    let length = u32::from_le_bytes(tail.get(..4)?.try_into().ok()?) as usize;
    let start = (bytes.len() - TAIL as usize).checked_sub(length)?;
    Some(crc32fast::hash(bytes.get(start..)?))
}

/// Reads the footer and holds it against the length and checksum that it must have.
fn verified_footer(file: &mut File, length: u64, crc: u32) -> io::Result<()> {
    if file.metadata()?.len() != length || length < TAIL {
        return Err(bad("it is not as long as it was when written"));
    }
    let mut tail = [0; 4];
    file.seek(SeekFrom::Start(length - TAIL))?;
    file.read_exact(&mut tail)?;
    let footer = u64::from(u32::from_le_bytes(tail)) + TAIL;
    let start = length
        .checked_sub(footer)
        .ok_or_else(|| bad("its footer is longer than the file"))?;
    let mut bytes = vec![0; footer as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut bytes)?;
    if crc32fast::hash(&bytes) != crc {
        return Err(bad("its footer does not match its checksum"));
    }
    Ok(())
}

fn entry<T: DeserializeOwned>(meta: &ParquetMetaData, key: &str) -> io::Result<T> {
    let entries = meta.file_metadata().key_value_metadata();
    let found = entries.and_then(|all| all.iter().find(|e| e.key == key)?.value.as_deref());
    let text = found.ok_or_else(|| bad(format!("its footer lacks `{key}`")))?;
    serde_json::from_str(text).map_err(|e| bad(format!("`{key}` in its footer: {e}")))
}

impl Segment {
    /// Opens a segment: reads and verifies its footer. `device` gives the
    /// store's index of a name.
    pub fn open(
        path: &Path,
        id: u64,
        length: u64,
        crc: u32,
        catalogue: &Catalogue,
        mut device: impl FnMut(&str) -> u32,
    ) -> io::Result<Self> {
        let mut file = File::open(path)?;
        verified_footer(&mut file, length, crc)?;
        let meta = (ParquetMetaDataReader::new().parse_and_finish(&file))
            .map_err(|e| bad(format!("its footer: {e}")))?;
        let schema = meta.file_metadata().schema_descr_ptr();
        let columns = schema::columns(&schema, catalogue)
            .ok_or_else(|| bad("its columns are not those of a segment"))?;
        let checksums: Vec<Vec<u32>> = entry(&meta, write::CHECKSUMS_KEY)?;
        let devices: Vec<Vec<(String, u32, i64, i64)>> = entry(&meta, write::DEVICES_KEY)?;
        // The first form had no such entry.
        let form: u32 = entry(&meta, write::ROLLUP_KEY).unwrap_or(1);
        let contradicts = || bad("its footer contradicts itself");
        if checksums.len() != meta.num_row_groups() || devices.len() != meta.num_row_groups() {
            return Err(contradicts());
        }
        let mut groups = Vec::with_capacity(meta.num_row_groups());
        let mut blocks = Vec::new();
        for (place, (group, (checksums, devices))) in
            (meta.row_groups().iter().zip(checksums.iter().zip(devices))).enumerate()
        {
            let mut start = 0u32;
            for (name, rows, first, last) in devices {
                blocks.push(BlockMeta {
                    device: device(&name),
                    group: place as u32,
                    start,
                    rows,
                    first,
                    last,
                });
                start = start.checked_add(rows).ok_or_else(contradicts)?;
            }
            if i64::from(start) != group.num_rows() || checksums.len() != group.num_columns() {
                return Err(contradicts());
            }
            let mut chunks = Vec::with_capacity(checksums.len());
            for (column, crc) in group.columns().iter().zip(checksums) {
                let (offset, bytes) = column.byte_range();
                let data = u64::try_from(column.data_page_offset()).map_err(|_| contradicts())?;
                let dictionary = column.dictionary_page_offset().is_some();
                if offset.checked_add(bytes).is_none_or(|end| end > length) || data < offset {
                    return Err(contradicts());
                }
                chunks.push(Chunk {
                    offset,
                    length: u32::try_from(bytes).map_err(|_| contradicts())?,
                    data: dictionary.then_some((data - offset) as u32),
                    compression: column.compression(),
                    crc: *crc,
                });
            }
            groups.push((start, chunks));
        }
        blocks.sort_by_key(|b| b.device);
        blocks.shrink_to_fit();
        let first = blocks.iter().map(|b| b.first).min().unwrap_or(i64::MAX);
        let last = blocks.iter().map(|b| b.last).max().unwrap_or(i64::MIN);
        Ok(Self {
            id,
            path: path.to_owned(),
            columns,
            edges: form >= 2,
            derived: form >= 3,
            schema,
            groups,
            blocks,
            span: (first, last),
            damaged: Mutex::default(),
            retired: AtomicBool::new(false),
        })
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

    /// Rows of a row group.
    pub fn group_rows(&self, group: u32) -> u32 {
        self.groups.get(group as usize).map_or(0, |g| g.0)
    }

    fn chunk(&self, group: u32, column: usize) -> Result<Chunk, ReadError> {
        (self.groups.get(group as usize))
            .and_then(|(_, chunks)| chunks.get(column).copied())
            .ok_or(ReadError::Contradiction("there is no such column"))
    }

    /// Reads every chunk and names what is damaged.
    pub fn verify(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (group, (_, chunks)) in self.groups.iter().enumerate() {
            let mut cache = Cache::default();
            for column in 0..chunks.len() {
                if let Err(error) = cache.chunk(self, group as u32, column) {
                    faults.push(error.to_string());
                }
            }
        }
        faults
    }

    /// Takes note of a row group that cannot be read and says so once in the
    /// log; returns whether this was the first time.
    pub fn report_damage(&self, group: u32, error: &dyn std::fmt::Display) -> bool {
        let first = (self.damaged.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .insert(group);
        if first {
            tracing::error!(
                file = %self.path.display(), row_group = group, %error,
                "a segment is damaged: what it held there of some devices cannot be read, all else is served; restore the file from a copy"
            );
        }
        first
    }

    /// Whether a row group was found damaged.
    pub fn is_damaged(&self, group: u32) -> bool {
        (self.damaged.lock())
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&group)
    }

    /// Has the file removed once the last query is done with it.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.retired.load(Ordering::Acquire) {
            // One that stays is not in the manifest and goes at the next opening.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
