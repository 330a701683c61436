//! The values of a column of a row group become a chunk: integers as differences,
//! doubles by a dictionary where few are different and byte by byte where many are,
//! texts by a dictionary.

use super::page::{Chunk, Press};
use super::{delta, hybrid};
use crate::embedded::codec::{ABSENT, ESTIMATED, MEASURED, MISSING};
use crate::embedded::segment::schema::quality_name;
use heliostat_models::DeviceId;
use parquet::basic::Encoding;
use parquet::data_type::ByteArray;
use parquet::errors::Result;
use parquet::file::statistics::Statistics;

/// Rows of a page: what is decoded to find one value.
const PAGE_ROWS: usize = 4_096;
/// Entries of a dictionary of doubles; where there are more different values, each is written out.
const ENTRIES: usize = 8_192;
/// Slots of the table that finds a double's entry; a power of two, twice the entries.
const SLOTS: usize = 2 * ENTRIES;
/// No entry.
const EMPTY: u16 = u16::MAX;

/// Which rows have a value: of each 1 or 0; none where all have one.
pub type Levels<'a> = Option<&'a [u8]>;

/// The chunk of the devices' names, by how many rows are whose.
pub fn devices(press: &mut Press, devices: &[(DeviceId, usize)]) -> Result<Chunk> {
    let mut pages = press.chunk();
    for (name, _) in devices {
        put_text(&mut pages.press.page, name.as_str());
    }
    pages.dictionary(devices.len())?;
    let width = width_of(devices.len());
    let mut left = devices.iter().zip(0u64..).map(|((_, rows), n)| (n, *rows));
    let mut next = left.next();
    while next.is_some() {
        pages.press.page.push(width as u8);
        let mut rows = 0;
        while let Some((number, run)) = next {
            let fits = run.min(PAGE_ROWS - rows);
            hybrid::put_run(&mut pages.press.page, width, number, fits);
            rows += fits;
            next = if fits == run {
                left.next()
            } else {
                Some((number, run - fits))
            };
            if rows == PAGE_ROWS {
                break;
            }
        }
        pages.data(rows, Encoding::RLE_DICTIONARY)?;
    }
    let text =
        |device: Option<&(DeviceId, usize)>| device.map(|(id, _)| ByteArray::from(id.as_str()));
    let statistics = Statistics::byte_array(
        text(devices.first()),
        text(devices.last()),
        None,
        Some(0),
        false,
    );
    Ok(pages.finish(Some(statistics)))
}

/// The chunk of a column of integers that every row has.
pub fn times(press: &mut Press, times: &[i64]) -> Result<Chunk> {
    let mut pages = press.chunk();
    for page in times.chunks(PAGE_ROWS) {
        delta::put(&mut pages.press.page, page);
        pages.data(page.len(), Encoding::DELTA_BINARY_PACKED)?;
    }
    Ok(pages.finish(Some(range_of(times, 0))))
}

fn range_of(values: &[i64], nulls: usize) -> Statistics {
    let (least, most) = (values.iter().min(), values.iter().max());
    Statistics::int64(
        least.copied(),
        most.copied(),
        None,
        Some(nulls as u64),
        false,
    )
}

/// Shows the rows and the values of each page.
fn by_page<'a, T>(
    rows: usize,
    levels: Levels<'a>,
    values: &'a [T],
    mut show: impl FnMut(usize, Levels<'a>, &'a [T]) -> Result<()>,
) -> Result<()> {
    let (mut row, mut rest) = (0, values);
    while row < rows {
        let count = PAGE_ROWS.min(rows - row);
        let levels = levels.map(|levels| &levels[row..row + count]);
        let there = levels.map_or(count, |l| l.iter().map(|l| usize::from(*l)).sum());
        let (now, later) = rest.split_at(there);
        show(count, levels, now)?;
        (row, rest) = (row + count, later);
    }
    Ok(())
}

/// The chunk of a column of integers; `values` are those that are there.
pub fn integers(
    press: &mut Press,
    rows: usize,
    levels: Levels<'_>,
    values: &[i64],
    statistics: bool,
) -> Result<Chunk> {
    let mut pages = press.chunk();
    by_page(rows, levels, values, |rows, levels, values| {
        pages.levels(rows, levels);
        if values.is_empty() {
            return pages.data(rows, Encoding::PLAIN);
        }
        delta::put(&mut pages.press.page, values);
        pages.data(rows, Encoding::DELTA_BINARY_PACKED)
    })?;
    let range = statistics.then(|| range_of(values, rows - values.len()));
    Ok(pages.finish(range))
}

/// The chunk of a column of doubles; `values` are those that are there.
pub fn doubles(
    press: &mut Press,
    dictionary: &mut Dictionary,
    rows: usize,
    levels: Levels<'_>,
    values: &[f64],
    statistics: bool,
) -> Result<Chunk> {
    let few = dictionary.fill(values);
    let mut pages = press.chunk();
    if few && !values.is_empty() {
        for entry in &dictionary.entries {
            pages.press.page.extend_from_slice(&entry.to_le_bytes());
        }
        pages.dictionary(dictionary.entries.len())?;
        let width = width_of(dictionary.entries.len());
        by_page(
            rows,
            levels,
            &dictionary.indices,
            |rows, levels, indices| {
                pages.levels(rows, levels);
                if indices.is_empty() {
                    return pages.data(rows, Encoding::PLAIN);
                }
                pages.press.page.push(width as u8);
                hybrid::put(&mut pages.press.page, width, indices);
                pages.data(rows, Encoding::RLE_DICTIONARY)
            },
        )?;
    } else {
        by_page(rows, levels, values, |rows, levels, values| {
            pages.levels(rows, levels);
            if values.is_empty() {
                return pages.data(rows, Encoding::PLAIN);
            }
            let page = &mut pages.press.page;
            for byte in 0..8 {
                page.extend(values.iter().map(|value| value.to_le_bytes()[byte]));
            }
            pages.data(rows, Encoding::BYTE_STREAM_SPLIT)
        })?;
    }
    let different = dictionary.entries.iter().map(|bits| f64::from_bits(*bits));
    let range = statistics.then(|| match few {
        true => span_of(different, rows - values.len()),
        false => span_of(values.iter().copied(), rows - values.len()),
    });
    Ok(pages.finish(range))
}

/// Least and most of doubles, as Parquet wants them: NaN is neither, and of zeros
/// the least is the negative one.
fn span_of(values: impl Iterator<Item = f64>, nulls: usize) -> Statistics {
    let mut span: Option<(f64, f64)> = None;
    for value in values.filter(|value| !value.is_nan()) {
        let (least, most) = span.get_or_insert((value, value));
        *least = least.min(value);
        *most = most.max(value);
    }
    let least = span.map(|(least, _)| if least == 0.0 { -0.0 } else { least });
    let most = span.map(|(_, most)| if most == 0.0 { 0.0 } else { most });
    Statistics::double(least, most, None, Some(nulls as u64), false)
}

/// The chunk of a column of qualities.
pub fn qualities(press: &mut Press, states: &[u8]) -> Result<Chunk> {
    let mut pages = press.chunk();
    for state in [MEASURED, ESTIMATED, MISSING] {
        put_text(
            &mut pages.press.page,
            quality_name(state).unwrap_or_default(),
        );
    }
    pages.dictionary(3)?;
    let width = width_of(3);
    let (mut levels, mut indices) = (Vec::new(), Vec::new());
    for states in states.chunks(PAGE_ROWS) {
        let there = |state: &&u8| **state != ABSENT;
        levels.clear();
        levels.extend(states.iter().map(|state| u8::from(there(&state))));
        indices.clear();
        // The states from MEASURED on are numbered one by one, as above.
        indices.extend(states.iter().filter(there).map(|state| state - MEASURED));
        pages.levels(states.len(), Some(&levels));
        if indices.is_empty() {
            pages.data(states.len(), Encoding::PLAIN)?;
            continue;
        }
        pages.press.page.push(width as u8);
        hybrid::put(&mut pages.press.page, width, &indices);
        pages.data(states.len(), Encoding::RLE_DICTIONARY)?;
    }
    Ok(pages.finish(None))
}

fn put_text(page: &mut Vec<u8>, text: &str) {
    page.extend_from_slice(&(text.len() as u32).to_le_bytes());
    page.extend_from_slice(text.as_bytes());
}

/// Bits of an index of a dictionary: a whole byte for as long as that does.
fn width_of(entries: usize) -> u32 {
    let highest = entries.saturating_sub(1);
    (usize::BITS - highest.leading_zeros()).max(8)
}

/// The different doubles of a chunk, by their bits.
#[derive(Debug, Default)]
pub struct Dictionary {
    /// In the order in which they came.
    entries: Vec<u64>,
    /// Of each value the number of its entry.
    indices: Vec<u16>,
    slots: Vec<u16>,
}

impl Dictionary {
    /// Finds the different ones; false where they are too many.
    fn fill(&mut self, values: &[f64]) -> bool {
        self.entries.clear();
        self.indices.clear();
        self.indices.reserve(values.len());
        self.slots.clear();
        self.slots.resize(SLOTS, EMPTY);
        let mut last = None;
        for value in values {
            let bits = value.to_bits();
            let index = match last {
                Some((same, index)) if same == bits => index,
                _ => match self.entry(bits) {
                    Some(index) => index,
                    None => return false,
                },
            };
            last = Some((bits, index));
            self.indices.push(index);
        }
        true
    }

    fn entry(&mut self, bits: u64) -> Option<u16> {
        // The golden ratio's bits spread what differs in few places (Knuth, 6.4).
        let hash = bits.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut slot = (hash >> (64 - SLOTS.trailing_zeros())) as usize;
        loop {
            let index = self.slots[slot];
            if index == EMPTY {
                break;
            }
            if self.entries[usize::from(index)] == bits {
                return Some(index);
            }
            slot = (slot + 1) % SLOTS;
        }
        if self.entries.len() == ENTRIES {
            return None;
        }
        let index = self.entries.len() as u16;
        self.entries.push(bits);
        self.slots[slot] = index;
        Some(index)
    }
}
