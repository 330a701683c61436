//! A column of a row group, encoded: as soon as its values are there, and again
//! where it turns out later that it must hold more.

use super::chunk::{self, Dictionary};
use super::page::{Chunk, Press, fault};
use super::plan::Decimals;
use super::schema::{Part, Planned, Shape};
use super::table::Column;
use crate::embedded::codec::{ABSENT, MEASURED, has_value};
use parquet::errors::Result;

/// What encoding needs again and again.
pub struct Scratch {
    /// Makes pages.
    pub press: Press,
    dictionary: Dictionary,
    levels: Vec<u8>,
    doubles: Vec<f64>,
    integers: Vec<i64>,
}

impl Scratch {
    /// Nothing yet.
    pub fn new() -> Result<Self> {
        Ok(Self {
            press: Press::new()?,
            dictionary: Dictionary::default(),
            levels: Vec::new(),
            doubles: Vec::new(),
            integers: Vec::new(),
        })
    }
}

/// A column of a row group, encoded.
pub struct Stored {
    /// How its numbers are stored.
    pub shape: Shape,
    /// Its values.
    pub values: Chunk,
    /// Its qualities, where not all is measured.
    pub qualities: Option<Chunk>,
}

/// Encodes a column of a row group.
pub fn store(
    scratch: &mut Scratch,
    column: &Column,
    decimals: Option<&Decimals>,
    shape: Shape,
) -> Result<Stored> {
    let Scratch {
        press,
        dictionary,
        levels,
        doubles,
        integers,
    } = scratch;
    let (key, states) = (column.key, &column.states);
    let statistics = key.part == Part::Value;
    let measured = states.iter().all(|state| *state == MEASURED);
    let there = || states.iter().map(|state| has_value(*state));
    let all = measured || there().all(|there| there);
    levels.clear();
    if !all {
        levels.extend(there().map(u8::from));
    }
    let values = match (shape, decimals) {
        (Shape::Decimal { .. }, Some(found)) => {
            let mut values = &found.integers;
            if !all {
                only(&found.integers, there(), integers);
                values = integers;
            }
            let levels = (!all).then_some(levels.as_slice());
            chunk::integers(press, states.len(), levels, values, statistics)?
        }
        _ => {
            let mut values = &column.values;
            if !all {
                only(&column.values, there(), doubles);
                values = doubles;
            }
            let levels = (!all).then_some(levels.as_slice());
            chunk::doubles(press, dictionary, states.len(), levels, values, statistics)?
        }
    };
    let odd = |state: &u8| *state != MEASURED && *state != ABSENT;
    let qualities = match !measured && states.iter().any(odd) {
        true => Some(chunk::qualities(press, states)?),
        false => None,
    };
    Ok(Stored {
        shape,
        values,
        qualities,
    })
}

/// Those that are there.
fn only<T: Copy>(all: &[T], there: impl Iterator<Item = bool>, kept: &mut Vec<T>) {
    kept.clear();
    let values = all.iter().zip(there).filter(|(_, there)| *there);
    kept.extend(values.map(|(value, _)| *value));
}

/// Encodes again what was encoded before it was known what the column must hold.
pub fn agree(
    scratch: &mut Scratch,
    planned: &mut Planned,
    stored: &mut [&mut Stored],
) -> Result<()> {
    let Some(key) = planned.key else {
        return Ok(());
    };
    let mut decimals = Decimals::default();
    loop {
        let mut again = false;
        for stored in stored.iter_mut() {
            let lacks = planned.quality && stored.qualities.is_none();
            if stored.shape == planned.shape && !lacks {
                continue;
            }
            let (levels, values) = stored.values.decode(key, stored.shape)?;
            let states: Vec<u8> = (levels.iter())
                .map(|level| if *level == 0 { ABSENT } else { MEASURED })
                .collect();
            let mut values = values.into_iter();
            let mut value = |state: &u8| match *state {
                ABSENT => 0.0,
                _ => values.next().unwrap_or_default(),
            };
            let values = states.iter().map(&mut value).collect();
            let column = Column {
                key,
                states,
                values,
            };
            if lacks {
                let qualities = chunk::qualities(&mut scratch.press, &column.states)?;
                stored.qualities = Some(qualities);
            }
            let qualities = stored.qualities.take();
            if let Shape::Decimal { scale } = planned.shape {
                let found = decimals.find(&column.states, &column.values, scale);
                if !found || decimals.scale != scale {
                    // What has few digits may be too long with more of them.
                    planned.shape = Shape::Double;
                    again = true;
                    stored.qualities = qualities;
                    break;
                }
            }
            **stored = store(scratch, &column, Some(&decimals), planned.shape)?;
            stored.qualities = qualities;
        }
        if !again {
            return Ok(());
        }
    }
}

/// A column of which a row group has nothing.
pub fn nothing(scratch: &mut Scratch, rows: usize, planned: &Planned) -> Result<Stored> {
    let key = planned
        .key
        .ok_or_else(|| fault("a column is of no metric"))?;
    let (states, values) = (vec![ABSENT; rows], vec![0.0; rows]);
    let mut decimals = Decimals::default();
    decimals.find(&states, &values, 0);
    let column = Column {
        key,
        states,
        values,
    };
    let mut stored = store(scratch, &column, Some(&decimals), planned.shape)?;
    if planned.quality {
        stored.qualities = Some(chunk::qualities(&mut scratch.press, &column.states)?);
    }
    Ok(stored)
}
