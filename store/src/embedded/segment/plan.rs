//! How the numbers of a file are stored: bit by bit or rounded, as decimals or as
//! doubles.

use super::schema::{Key, Part, Planned, Shape};
use crate::embedded::codec::has_value;
use crate::embedded::decimal::{MAX_SCALE, Rounding, fit};
use heliostat_models::Catalogue;
use std::collections::BTreeMap;

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

/// How the columns of a file are stored: those of which more is known than the
/// catalogue says, as of files that are written again.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    shapes: BTreeMap<Key, Shape>,
    precision: Precision,
}

impl Plan {
    /// Of values that are rounded like this.
    pub fn of(precision: &Precision) -> Self {
        Self {
            shapes: BTreeMap::new(),
            precision: precision.clone(),
        }
    }

    /// Takes note of a file that is to be written again.
    pub fn see_columns(&mut self, others: &[Planned]) {
        for other in others {
            if let Some(key) = other.key {
                self.widen(key, other.shape);
            }
        }
    }

    /// A column needs at least this.
    pub fn widen(&mut self, key: Key, shape: Shape) {
        let known = self.shapes.entry(key).or_insert(shape);
        *known = known.widest(shape);
    }

    /// How a column is stored, as far as is known.
    pub fn shape_of(&self, key: Key, catalogue: &Catalogue) -> Shape {
        if let Some(shape) = self.shapes.get(&key) {
            return *shape;
        }
        let declared = catalogue.metric(key.metric);
        let rounding = (self.precision).rounding(&declared.name, declared.precision);
        match (key.shape(catalogue), rounding) {
            (Shape::Decimal { .. }, Some(Rounding { scale, .. })) if key.part == Part::Value => {
                Shape::Decimal { scale }
            }
            (shape, _) => shape,
        }
    }
}

/// The values of a column as integers over a power of ten; 0 where there is none.
#[derive(Debug, Default)]
pub struct Decimals {
    /// The power.
    pub scale: u8,
    /// The integers.
    pub integers: Vec<i64>,
}

impl Decimals {
    /// Finds the smallest scale from `least` up at which all values are decimals;
    /// false where there is none.
    pub fn find(&mut self, states: &[u8], values: &[f64], least: u8) -> bool {
        for scale in least..=MAX_SCALE {
            self.integers.clear();
            let rows = states.iter().zip(values);
            self.integers.extend(rows.map_while(|(state, value)| {
                if has_value(*state) {
                    fit(*value, scale)
                } else {
                    Some(0)
                }
            }));
            if self.integers.len() == values.len() {
                self.scale = scale;
                return true;
            }
        }
        false
    }
}
