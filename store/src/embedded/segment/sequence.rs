//! Reading a segment from its begin to its end, device by device: each row group's
//! columns are opened once and go on from row to row.

use super::read::{self, Cache, OwnedRows, ReadError};
use super::schema::{Planned, TIME};
use super::{BlockMeta, Segment};
use crate::embedded::codec::ABSENT;
use parquet::column::reader::ColumnReader;
use std::sync::Arc;

/// A segment on the way through its rows.
pub struct Sequence {
    segment: Arc<Segment>,
    open: Option<Open>,
}

/// The columns of a row group, all at the same row.
struct Open {
    group: u32,
    row: u32,
    times: ColumnReader,
    columns: Vec<(Planned, ColumnReader, Option<ColumnReader>)>,
}

impl Sequence {
    /// At the begin.
    pub fn new(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            open: None,
        }
    }

    /// The segment.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    fn open(&self, group: u32) -> Result<Open, ReadError> {
        // What was read of the file goes with the readers.
        let mut cache = Cache::default();
        let segment = &self.segment;
        let mut columns = Vec::with_capacity(segment.columns.len());
        for column in segment.columns.iter().filter(|c| c.key.is_some()) {
            let values = segment.reader(&mut cache, group, column.place)?;
            let qualities = match column.quality {
                true => Some(segment.reader(&mut cache, group, column.place + 1)?),
                false => None,
            };
            columns.push((column.clone(), values, qualities));
        }
        Ok(Open {
            group,
            row: 0,
            times: segment.reader(&mut cache, group, TIME)?,
            columns,
        })
    }

    /// All rows of a block: instants, and state and value by metric. Blocks that
    /// follow each other in the file are read without reading anything twice.
    pub fn rows(&mut self, meta: &BlockMeta) -> Result<OwnedRows, ReadError> {
        // After an error nobody knows where the readers are: it is taken out.
        let mut open = match self.open.take() {
            Some(open) if open.group == meta.group && open.row <= meta.start => open,
            _ => self.open(meta.group)?,
        };
        let skip = (meta.start - open.row) as usize;
        let rows = meta.rows as usize;
        let times = read::times(&mut open.times, skip, rows)?;
        let mut columns = Vec::with_capacity(open.columns.len());
        for (column, values, qualities) in &mut open.columns {
            let (states, values) =
                read::decode(values, qualities.as_mut(), column.shape, skip, rows)?;
            if let Some(key) = column.key
                && states.iter().any(|state| *state != ABSENT)
            {
                columns.push((key, states, values));
            }
        }
        open.row = meta.start.saturating_add(meta.rows);
        self.open = Some(open);
        Ok(OwnedRows { times, columns })
    }
}
