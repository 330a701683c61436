//! The part of the store that is in memory: per device its rows as they came,
//! one behind the other in chunks that are never moved, so that taking a frame
//! in touches one place of memory and no row is copied when there are more.
//!
//! ```text
//! row    = instant, states (2 bits a metric, 32 in a word), a word a metric with the value's bits
//! chunk  = rows of one width, by rising time
//! late   = rows that came after a newer one, by their instant
//! ```
//! A metric's place in the rows is fixed when it is first heard of; rows from
//! before are narrower and do not have it. About 8.3 bytes a reading, and 16 a row.

use super::codec::{ABSENT, ESTIMATED, MEASURED, MISSING};
use super::segment::Table;
use super::segment::schema::Key;
use heliostat_models::{DeviceId, MetricId, Reading};
use std::collections::BTreeMap;

/// Rows of a device's first chunk; each further one has twice as many …
const FIRST_ROWS: usize = 8;
/// … up to here.
const CHUNK_ROWS: usize = 256;
/// Metrics whose states share a word.
const PER_WORD: usize = 32;

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
    /// Metrics by their place in the rows.
    metrics: Vec<MetricId>,
    chunks: Vec<Rows>,
    late: BTreeMap<i64, Rows>,
}

/// Rows of one width.
#[derive(Debug)]
struct Rows {
    /// Metrics that have a place in them.
    width: usize,
    /// Words of a row.
    stride: usize,
    cells: Vec<u64>,
}

/// Rows that follow each other in time and in memory.
#[derive(Clone, Copy)]
struct Run<'a> {
    width: usize,
    stride: usize,
    cells: &'a [u64],
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

impl Rows {
    fn new(width: usize, rows: usize) -> Self {
        let stride = 1 + width.div_ceil(PER_WORD) + width;
        Self {
            width,
            stride,
            cells: Vec::with_capacity(stride * rows),
        }
    }

    fn is_full(&self) -> bool {
        self.cells.len() + self.stride > self.cells.capacity()
    }

    fn first(&self) -> Option<i64> {
        self.cells.first().map(|at| *at as i64)
    }

    fn last(&self) -> Option<i64> {
        let begin = self.cells.len().checked_sub(self.stride)?;
        self.cells.get(begin).map(|at| *at as i64)
    }

    /// Adds a row whose readings stand at these places.
    fn push(&mut self, at: i64, readings: impl Iterator<Item = (usize, Reading)>) {
        let begin = self.cells.len();
        self.cells.resize(begin + self.stride, 0);
        let Some((first, row)) = (self.cells.get_mut(begin..)).and_then(|r| r.split_first_mut())
        else {
            return;
        };
        *first = at as u64;
        let (states, values) = row.split_at_mut(self.stride - 1 - self.width);
        for (place, reading) in readings {
            let (state, value) = state_of(reading);
            if let (Some(word), Some(cell)) =
                (states.get_mut(place / PER_WORD), values.get_mut(place))
            {
                *word |= u64::from(state) << (2 * (place % PER_WORD));
                *cell = value.to_bits();
            }
        }
    }

    /// The rows in `[from, last]`.
    fn between(&self, from: i64, last: i64) -> Run<'_> {
        let run = Run {
            width: self.width,
            stride: self.stride,
            cells: &self.cells,
        };
        let rows = self.cells.len() / self.stride;
        let begin = run.before(rows, |at| at < from);
        let end = run.before(rows, |at| at <= last).max(begin);
        run.part(begin, end)
    }
}

impl<'a> Run<'a> {
    /// How many of the first `rows` rows are such; the rows rise.
    fn before(&self, rows: usize, is: impl Fn(i64) -> bool) -> usize {
        let (mut low, mut high) = (0, rows);
        while low < high {
            let middle = low + (high - low) / 2;
            if is(self.at(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
    fn part(&self, begin: usize, end: usize) -> Self {
        let cells = (self.cells).get(begin * self.stride..end * self.stride);
        Self {
            cells: cells.unwrap_or_default(),
            ..*self
        }
    }
    fn rows(&self) -> usize {
        self.cells.len() / self.stride
    }
    fn at(&self, row: usize) -> i64 {
        self.cells[row * self.stride] as i64
    }
    fn times(self) -> impl Iterator<Item = i64> + 'a {
        self.cells
            .chunks_exact(self.stride)
            .map(|row| row[0] as i64)
    }
    /// State and value of a metric's place in each row.
    fn column(self, place: usize) -> impl Iterator<Item = (u8, f64)> + 'a {
        let (word, shift) = (1 + place / PER_WORD, 2 * (place % PER_WORD));
        let cell = self.stride - self.width + place;
        (self.cells.chunks_exact(self.stride)).map(move |row| {
            let state = (row[word] >> shift) as u8 & 3;
            (state, f64::from_bits(row[cell]))
        })
    }
}

impl DeviceHead {
    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.late.is_empty()
    }

    /// The latest instant.
    pub fn newest(&self) -> Option<i64> {
        // What came late is older than something that came before.
        self.chunks.last().and_then(Rows::last)
    }

    /// Whether a row at this instant is there.
    pub fn contains(&self, at: i64) -> bool {
        if self.newest().is_none_or(|newest| at > newest) {
            return false;
        }
        let place = (self.chunks).partition_point(|c| c.last().is_some_and(|last| last < at));
        let chunk = self.chunks.get(place);
        self.late.contains_key(&at) || chunk.is_some_and(|c| c.between(at, at).rows() > 0)
    }

    /// Adds a row that is not there yet.
    pub fn insert(&mut self, at: i64, readings: &[(MetricId, Reading)]) {
        let agree = readings.len() <= self.metrics.len()
            && (readings.iter().zip(&self.metrics)).all(|((metric, _), known)| metric == known);
        // Frames of one source name their metrics in the same order, so that
        // place and order nearly always agree.
        let mut places = Vec::new();
        if !agree {
            for (metric, _) in readings {
                let found = self.metrics.iter().position(|m| m == metric);
                places.push(found.unwrap_or_else(|| {
                    self.metrics.push(*metric);
                    self.metrics.len() - 1
                }));
            }
        }
        let width = self.metrics.len();
        let is_late = self.newest().is_some_and(|newest| at <= newest);
        let rows = if is_late {
            (self.late.entry(at)).or_insert_with(|| Rows::new(width, 1))
        } else {
            let fits = (self.chunks.last()).is_some_and(|c| c.width == width && !c.is_full());
            if !fits {
                let before = self
                    .chunks
                    .last()
                    .map_or(FIRST_ROWS / 2, |c| c.cells.capacity() / c.stride);
                self.chunks
                    .push(Rows::new(width, (2 * before).min(CHUNK_ROWS)));
            }
            match self.chunks.last_mut() {
                Some(chunk) => chunk,
                None => return,
            }
        };
        let readings = readings.iter().map(|(_, reading)| *reading);
        if agree {
            rows.push(at, readings.enumerate());
        } else {
            rows.push(at, places.into_iter().zip(readings));
        }
    }

    /// Shows the rows in `[from, last]` by rising time, as few runs as there are.
    fn runs<'a>(&'a self, from: i64, last: i64, mut show: impl FnMut(Run<'a>)) {
        if from > last {
            return;
        }
        let mut late = self.late.range(from..=last).peekable();
        let begin = (self.chunks).partition_point(|c| c.last().is_some_and(|end| end < from));
        for chunk in self.chunks.get(begin..).unwrap_or_default() {
            if chunk.first().is_some_and(|first| first > last) {
                break;
            }
            let mut run = chunk.between(from, last);
            while run.rows() > 0 {
                let Some((at, _)) = late.peek() else {
                    show(run);
                    break;
                };
                let (rows, at) = (run.rows(), **at);
                let before = run.before(rows, |t| t < at);
                if before > 0 {
                    show(run.part(0, before));
                    run = run.part(before, rows);
                } else if let Some((_, row)) = late.next() {
                    show(row.between(at, at));
                }
            }
        }
        for (at, row) in late {
            show(row.between(*at, *at));
        }
    }

    /// The samples of a metric in `[from, last]`.
    pub fn samples(&self, metric: MetricId, from: i64, last: i64) -> Vec<Sample> {
        let mut samples = Vec::new();
        let Some(place) = self.metrics.iter().position(|m| *m == metric) else {
            return samples;
        };
        self.runs(from, last, |run| {
            if place < run.width {
                let rows = run.times().zip(run.column(place));
                samples.extend(
                    rows.filter(|(_, (state, _))| *state != ABSENT)
                        .map(|(at, (state, value))| Sample { at, state, value }),
                );
            }
        });
        samples
    }

    /// Appends the rows in `[from, last]` to a table, as those of a device.
    pub fn append_to(&self, table: &mut Table, device: DeviceId, from: i64, last: i64) {
        let before = table.rows();
        self.runs(from, last, |run| table.times.extend(run.times()));
        let rows = table.rows() - before;
        for (place, metric) in self.metrics.iter().enumerate() {
            let column = table.place(Key::value(*metric));
            let Some(column) = table.columns.get_mut(column) else {
                continue;
            };
            column.pad(before);
            self.runs(from, last, |run| {
                if place < run.width {
                    column.states.extend(run.column(place).map(|(s, _)| s));
                    column.values.extend(run.column(place).map(|(_, v)| v));
                } else {
                    column.pad(column.states.len() + run.rows());
                }
            });
        }
        table.devices.push((device, rows));
    }

    /// The first instant from `at` on.
    pub fn first_from(&self, at: i64) -> Option<i64> {
        let place = (self.chunks).partition_point(|c| c.last().is_some_and(|last| last < at));
        let in_order =
            (self.chunks.get(place)).and_then(|c| c.between(at, i64::MAX).times().next());
        let late = self.late.range(at..).next().map(|(at, _)| *at);
        [in_order, late].into_iter().flatten().min()
    }

    /// The readings of the rows from `from` on, by rising time.
    pub fn readings_from(&self, from: i64) -> Vec<(i64, Vec<(MetricId, Reading)>)> {
        let mut found = Vec::new();
        self.runs(from, i64::MAX, |run| {
            for row in 0..run.rows() {
                let one = run.part(row, row + 1);
                let cells = (0..run.width).filter_map(|place| one.column(place).next());
                let readings = (self.metrics.iter().zip(cells))
                    .filter_map(|(m, (state, value))| Some((*m, reading_of(state, value)?)))
                    .collect();
                found.push((run.at(row), readings));
            }
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_come_back_by_time_however_they_came(
            frames in prop::collection::btree_map(-50i64..50, prop::collection::btree_map(0u16..70, -9i32..9, 0..40), 1..40)
                .prop_map(|frames| frames.into_iter().collect::<Vec<_>>()).prop_shuffle(),
            (from, last) in (-60i64..60, -60i64..60),
        ) {
            let mut head = DeviceHead::default();
            let mut plain = BTreeMap::new();
            for (at, readings) in frames {
                prop_assert!(!head.contains(at));
                // Sometimes in another order.
                let mut readings: Vec<_> = (readings.into_iter())
                    .map(|(m, v)| (MetricId(m), match v { -9 => Reading::Missing, v if v < -5 => Reading::Estimated(v.into()), v => Reading::Measured(v.into()) }))
                    .collect();
                if at % 7 == 0 { readings.reverse(); }
                head.insert(at, &readings);
                readings.sort_by_key(|(m, _)| *m);
                plain.insert(at, readings);
                prop_assert!(head.contains(at));
            }
            prop_assert_eq!(head.newest(), plain.keys().next_back().copied());
            let sorted = |(at, mut readings): (i64, Vec<(MetricId, Reading)>)| { readings.sort_by_key(|(m, _)| *m); (at, readings) };
            let all: Vec<_> = head.readings_from(from).into_iter().map(sorted).collect();
            let wanted: Vec<_> = plain.range(from..).map(|(a, r)| (*a, r.clone())).collect();
            prop_assert_eq!(all, wanted);
            prop_assert_eq!(head.first_from(from), plain.range(from..).next().map(|(at, _)| *at));
            let mut table = Table::default();
            head.append_to(&mut table, DeviceId::from("a"), from, last);
            // Another one behind it, so that columns do not all begin at the first row.
            let rows = table.rows();
            head.append_to(&mut table, DeviceId::from("b"), from, last);
            table.fill();
            prop_assert_eq!(&table.times[..rows], &table.times[rows..]);
            let inside = || plain.iter().filter(|(at, _)| (from..=last).contains(*at));
            prop_assert_eq!(&table.times[..rows], &inside().map(|(at, _)| *at).collect::<Vec<_>>()[..]);
            for metric in 0..70 {
                let id = MetricId(metric);
                let wanted: Vec<Sample> = inside()
                    .filter_map(|(at, readings)| readings.iter().find(|(m, _)| *m == id).map(|(_, r)| (*at, *r)))
                    .map(|(at, reading)| { let (state, value) = state_of(reading); Sample { at, state, value } })
                    .collect();
                prop_assert_eq!(head.samples(id, from, last), &wanted[..]);
                let column = table.columns.iter().find(|column| column.key == Key::value(id));
                let cells = column.map_or(Vec::new(), |c| c.states.iter().copied().zip(c.values.iter().copied()).collect());
                for cells in cells.chunks(rows.max(1)) {
                    let found: Vec<Sample> = (table.times.iter().zip(cells))
                        .filter(|(_, (state, _))| *state != ABSENT)
                        .map(|(at, (state, value))| Sample { at: *at, state: *state, value: *value }).collect();
                    prop_assert_eq!(&found[..], &wanted[..]);
                }
                prop_assert!(!cells.is_empty() || wanted.is_empty());
            }
        }
    }
}
