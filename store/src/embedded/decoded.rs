//! Columns of rollups, decoded, kept from query to query.
//!
//! Every query over days reads the same few columns; decoded they are small,
//! because a rollup has one row for many. What is kept goes with its segment,
//! and what was not used for longest goes when there is too much of it.

use super::segment::schema::{Key, TIME};
use super::segment::{BlockMeta, Cache, Decoded, ReadError, Segment};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Bytes that are kept.
const KEPT_BYTES: usize = 64 << 20;
/// Rows of a row group up to which it is decoded whole, also for few devices.
const SMALL_GROUP: u32 = 16_384;

/// A column of a row group.
#[derive(Clone, Debug)]
enum Column {
    Times(Arc<Vec<i64>>),
    Values(Arc<Decoded>),
}

#[derive(Debug)]
struct Entry {
    of: Weak<Segment>,
    column: Column,
    bytes: usize,
    /// The query's turn that used it last.
    used: u64,
}

#[derive(Debug, Default)]
struct Kept {
    /// By segment, row group and place of the column.
    columns: HashMap<(u64, u32, usize), Entry>,
    bytes: usize,
    turn: u64,
}

/// What is kept.
#[derive(Debug, Default)]
pub struct DecodedColumns(Mutex<Kept>);

/// Rows of a rollup: instants, and columns in the order that was asked for.
#[derive(Debug)]
pub struct Rows {
    /// Begins of steps.
    pub times: Arc<Vec<i64>>,
    /// States and values; none where the file has no such column.
    pub columns: Vec<Option<Arc<Decoded>>>,
    /// Number in the row group of the first of them.
    base: usize,
}

impl Rows {
    /// Whether a block of the same row group is among these rows.
    pub fn has(&self, meta: &BlockMeta) -> bool {
        let start = meta.start as usize;
        start >= self.base && start + meta.rows as usize <= self.base + self.times.len()
    }

    /// Where the steps of a block that begin in `[from, to)` are among these rows.
    pub fn of(&self, meta: &BlockMeta, from: i64, to: i64) -> std::ops::Range<usize> {
        let start = (meta.start as usize).saturating_sub(self.base);
        let times = (self.times.get(start..start + meta.rows as usize)).unwrap_or_default();
        let first = times.partition_point(|t| *t < from);
        let last = times.partition_point(|t| *t < to).max(first);
        start + first..start + last
    }
}

impl DecodedColumns {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The columns of the row group in which a block is; `many`: other blocks of
    /// it will be asked for too.
    pub fn rows(
        &self,
        segment: &Arc<Segment>,
        cache: &mut Cache,
        meta: &BlockMeta,
        keys: &[Key],
        many: bool,
    ) -> Result<Rows, ReadError> {
        let all = segment.group_rows(meta.group);
        let places: Vec<Option<usize>> = (keys.iter())
            .map(|key| Some(segment.columns.iter().find(|c| c.key == Some(*key))?.place))
            .collect();
        let found = |column| self.find(segment.id, meta.group, column);
        let known = found(TIME);
        if known.is_none() && !many && all > SMALL_GROUP {
            // One device of many: only its rows.
            let columns = keys.iter().map(|key| {
                let block = segment.block_column(cache, meta, *key)?;
                Ok(block.map(Arc::new))
            });
            return Ok(Rows {
                columns: columns.collect::<Result<_, ReadError>>()?,
                times: Arc::new(segment.block_times(cache, meta)?),
                base: meta.start as usize,
            });
        }
        let whole = BlockMeta {
            start: 0,
            rows: all,
            ..*meta
        };
        let times = match known {
            Some(Column::Times(times)) => times,
            _ => {
                let times = Arc::new(segment.block_times(cache, &whole)?);
                let column = Column::Times(Arc::clone(&times));
                self.keep(segment, meta.group, TIME, column, times.len() * 8);
                times
            }
        };
        let mut columns = Vec::with_capacity(keys.len());
        for (key, place) in keys.iter().zip(places) {
            let Some(place) = place else {
                columns.push(None);
                continue;
            };
            if let Some(Column::Values(values)) = found(place) {
                columns.push(Some(values));
                continue;
            }
            let values = segment.block_column(cache, &whole, *key)?.map(Arc::new);
            if let Some(values) = &values {
                let column = Column::Values(Arc::clone(values));
                self.keep(segment, meta.group, place, column, values.0.len() * 9);
            }
            columns.push(values);
        }
        Ok(Rows {
            times,
            columns,
            base: 0,
        })
    }

    fn find(&self, segment: u64, group: u32, place: usize) -> Option<Column> {
        let mut kept = self.kept();
        kept.turn += 1;
        let turn = kept.turn;
        let entry = kept.columns.get_mut(&(segment, group, place))?;
        entry.used = turn;
        Some(entry.column.clone())
    }

    fn keep(&self, of: &Arc<Segment>, group: u32, place: usize, column: Column, bytes: usize) {
        let mut kept = self.kept();
        kept.turn += 1;
        let entry = Entry {
            of: Arc::downgrade(of),
            column,
            bytes,
            used: kept.turn,
        };
        if let Some(double) = kept.columns.insert((of.id, group, place), entry) {
            kept.bytes -= double.bytes;
        }
        kept.bytes += bytes;
        if kept.bytes > KEPT_BYTES {
            kept.make_room();
        }
    }
}

impl Kept {
    /// Drops what belongs to segments that are gone, then the half that was not
    /// used for longest.
    fn make_room(&mut self) {
        self.columns.retain(|_, entry| entry.of.strong_count() > 0);
        self.bytes = self.columns.values().map(|entry| entry.bytes).sum();
        if self.bytes <= KEPT_BYTES / 2 {
            return;
        }
        let mut turns: Vec<(u64, usize)> =
            (self.columns.values().map(|e| (e.used, e.bytes))).collect();
        turns.sort_unstable();
        let mut too_much = self.bytes - KEPT_BYTES / 2;
        let oldest_kept = turns.into_iter().find(|(_, bytes)| {
            let last = *bytes >= too_much;
            too_much = too_much.saturating_sub(*bytes);
            last
        });
        let until = oldest_kept.map_or(u64::MAX, |(used, _)| used);
        self.columns.retain(|_, entry| entry.used > until);
        self.bytes = self.columns.values().map(|entry| entry.bytes).sum();
    }
}
