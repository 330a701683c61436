//! The columns of a segment: which metric, how its numbers are stored, and the
//! Parquet schema that says so.
//!
//! ```text
//! device  STRING            time  TIMESTAMP(MILLIS, UTC)
//! <metric>                  DECIMAL(16, s) or INT64 where every value of the file is one, else DOUBLE
//! <metric>_quality          STRING, only where not all is measured: measured, estimated, missing; null: not in the frame
//! ```
//! Without a quality column a value is measured and a null means that the frame
//! does not speak of the metric.

use crate::embedded::codec::{ESTIMATED, MEASURED, MISSING};
use heliostat_models::metrics::{Metric, MetricKind};
use heliostat_models::{Catalogue, MetricId};
use parquet::basic::{LogicalType, Repetition, TimeUnit, Type as Physical};
use parquet::errors::Result;
use parquet::schema::types::{SchemaDescriptor, Type, TypePtr};
use std::sync::Arc;

/// Column of the device's name.
pub const DEVICE: usize = 0;
/// Column of the instant.
pub const TIME: usize = 1;
/// Ending of the name of a quality column.
pub const QUALITY: &str = "_quality";
/// Digits of every decimal column: those that an f64 holds exactly.
const DIGITS: i32 = 16;

/// What of a metric a column holds: of frames the value, of rollups what became
/// of the values of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The value itself.
    Value,
    /// Smallest value.
    Min,
    /// Largest value.
    Max,
    /// Sum of the values.
    Sum,
    /// How many values.
    Count,
    /// The latest value.
    Last,
    /// How many of the values are estimated.
    Estimated,
    /// How many readings were missing.
    Missing,
    /// Of a power: energy between measured values, joules to the millijoule.
    MeasuredJoules,
    /// Of a power: energy where a value was estimated or one between was missing.
    EstimatedJoules,
    /// Of a power: the part of the step that those two speak of; the rest is unknown.
    KnownSeconds,
    /// The reading at the very begin of the step; it counts in the parts above.
    Edge,
    /// Sum of the values without that one, where the two sums do not tell it.
    InsideSum,
    /// Smallest without that one, where it is another.
    InsideMin,
    /// Largest without that one, where it is another.
    InsideMax,
    /// Of a counter: the first value after the begin.
    First,
    /// Of a counter: milliseconds of that one after the begin.
    FirstAfter,
    /// Of a counter: milliseconds of the latest value after the begin.
    LastAfter,
    /// Of a counter: what it had counted at each restart between the first value
    /// after the begin and the latest.
    Restarts,
}

impl Part {
    /// How many there are; [`Part::Restarts`] is the last.
    pub const COUNT: usize = Self::Restarts as usize + 1;
}

/// The parts and the endings of their columns' names.
const ENDINGS: [(Part, &str); 18] = [
    (Part::Edge, "_edge"),
    (Part::InsideSum, "_inside_sum"),
    (Part::InsideMin, "_inside_min"),
    (Part::InsideMax, "_inside_max"),
    (Part::First, "_first"),
    (Part::FirstAfter, "_first_after_ms"),
    (Part::LastAfter, "_last_after_ms"),
    (Part::Restarts, "_restarts"),
    (Part::Min, "_min"),
    (Part::Max, "_max"),
    (Part::Sum, "_sum"),
    (Part::Count, "_count"),
    (Part::Last, "_last"),
    (Part::Estimated, "_estimated"),
    (Part::Missing, "_missing"),
    (Part::MeasuredJoules, "_measured_joules"),
    (Part::EstimatedJoules, "_estimated_joules"),
    (Part::KnownSeconds, "_known_seconds"),
];

/// A metric's column in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Which metric.
    pub metric: MetricId,
    /// What of it.
    pub part: Part,
}

impl Key {
    /// The column of a metric's values.
    pub fn value(metric: MetricId) -> Self {
        let part = Part::Value;
        Self { metric, part }
    }

    /// The name of the column.
    pub fn name(self, catalogue: &Catalogue) -> String {
        let ending = ENDINGS.iter().find(|(part, _)| *part == self.part);
        let name = &catalogue.metric(self.metric).name;
        format!("{name}{}", ending.map_or("", |(_, ending)| ending))
    }

    fn named(name: &str, catalogue: &Catalogue) -> Option<Self> {
        if let Some(metric) = catalogue.id(name) {
            return Some(Self::value(metric));
        }
        ENDINGS.iter().find_map(|(part, ending)| {
            let metric = catalogue.id(name.strip_suffix(ending)?)?;
            let part = *part;
            Some(Self { metric, part })
        })
    }

    /// How its numbers are stored, unless a value forbids it. Numbers that change
    /// with nearly every row and come from an instrument's integer register, and
    /// counts, are decimals; the others take few different values, for which a
    /// dictionary of doubles is shorter.
    pub fn shape(self, catalogue: &Catalogue) -> Shape {
        let metric = catalogue.metric(self.metric);
        let register =
            metric.kind != MetricKind::Gauge || matches!(metric.unit.as_str(), "W" | "J" | "B");
        match self.part {
            Part::Count | Part::Estimated | Part::Missing | Part::FirstAfter | Part::LastAfter => {
                Shape::Decimal { scale: 0 }
            }
            Part::MeasuredJoules | Part::EstimatedJoules | Part::KnownSeconds => {
                Shape::Decimal { scale: 3 }
            }
            Part::Sum | Part::InsideSum => Shape::Decimal {
                scale: usual_scale(metric),
            },
            _ if register => Shape::Decimal {
                scale: usual_scale(metric),
            },
            _ => Shape::Double,
        }
    }
}

/// How the numbers of a column are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Integers over a power of ten: counters, powers, sizes.
    Decimal {
        /// Digits behind the point.
        scale: u8,
    },
    /// As they are.
    Double,
}

impl Shape {
    /// The one that holds what both do.
    pub fn widest(self, other: Self) -> Self {
        match (self, other) {
            (Self::Decimal { scale: a }, Self::Decimal { scale: b }) => {
                Self::Decimal { scale: a.max(b) }
            }
            _ => Self::Double,
        }
    }
}

/// A metric's column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Which it is; none where the catalogue no longer has the metric.
    pub key: Option<Key>,
    /// How its numbers are stored.
    pub shape: Shape,
    /// Whether a quality column follows.
    pub quality: bool,
    /// Place of the value's column in the file.
    pub place: usize,
}

/// The digits behind the point that an instrument of this unit gives: drivers
/// count milliwatts and millijoules.
fn usual_scale(metric: &Metric) -> u8 {
    if matches!(metric.unit.as_str(), "W" | "J") {
        3
    } else {
        0
    }
}

/// Name of a state in a quality column; none for a metric that is not there.
pub fn quality_name(state: u8) -> Option<&'static str> {
    match state {
        MEASURED => Some("measured"),
        ESTIMATED => Some("estimated"),
        MISSING => Some("missing"),
        _ => None,
    }
}

/// State of a name in a quality column.
pub fn quality_state(name: &[u8]) -> Option<u8> {
    match name {
        b"measured" => Some(MEASURED),
        b"estimated" => Some(ESTIMATED),
        b"missing" => Some(MISSING),
        _ => None,
    }
}

/// Gives the columns their places.
pub fn place(columns: &mut [Planned]) {
    let mut next = TIME + 1;
    for column in columns {
        column.place = next;
        next += 1 + usize::from(column.quality);
    }
}

/// The schema of these columns.
pub fn schema(columns: &[Planned]) -> Result<TypePtr> {
    let text = |name: &str, repetition| {
        Type::primitive_type_builder(name, Physical::BYTE_ARRAY)
            .with_repetition(repetition)
            .with_logical_type(Some(LogicalType::String))
            .build()
            .map(Arc::new)
    };
    let mut fields = vec![
        text("device", Repetition::REQUIRED)?,
        Arc::new(
            Type::primitive_type_builder("time", Physical::INT64)
                .with_repetition(Repetition::REQUIRED)
                .with_logical_type(Some(LogicalType::timestamp(true, TimeUnit::MILLIS)))
                .build()?,
        ),
    ];
    for column in columns {
        let value = match column.shape {
            Shape::Double => Type::primitive_type_builder(&column.name, Physical::DOUBLE),
            Shape::Decimal { scale: 0 } => {
                Type::primitive_type_builder(&column.name, Physical::INT64)
            }
            Shape::Decimal { scale } => Type::primitive_type_builder(&column.name, Physical::INT64)
                .with_logical_type(Some(LogicalType::decimal(i32::from(scale), DIGITS)))
                .with_precision(DIGITS)
                .with_scale(i32::from(scale)),
        };
        fields.push(Arc::new(
            value.with_repetition(Repetition::OPTIONAL).build()?,
        ));
        if column.quality {
            let name = format!("{}{QUALITY}", column.name);
            fields.push(text(&name, Repetition::OPTIONAL)?);
        }
    }
    Type::group_type_builder("frame")
        .with_fields(fields)
        .build()
        .map(Arc::new)
}

/// The columns of a file; `None` when it is none of ours.
pub fn columns(schema: &SchemaDescriptor, catalogue: &Catalogue) -> Option<Vec<Planned>> {
    let mut columns: Vec<Planned> = Vec::new();
    let name = |place: usize| (place < schema.num_columns()).then(|| schema.column(place));
    if name(DEVICE)?.name() != "device" || name(TIME)?.name() != "time" {
        return None;
    }
    for place in TIME + 1..schema.num_columns() {
        let descr = schema.column(place);
        if let Some(last) = columns.last_mut()
            && descr.name().strip_suffix(QUALITY) == Some(&last.name)
        {
            last.quality = true;
            continue;
        }
        let shape = match descr.physical_type() {
            Physical::DOUBLE => Shape::Double,
            Physical::INT64 => Shape::Decimal {
                scale: u8::try_from(descr.type_scale().max(0)).ok()?,
            },
            _ => return None,
        };
        columns.push(Planned {
            name: descr.name().to_owned(),
            key: Key::named(descr.name(), catalogue),
            shape,
            quality: false,
            place,
        });
    }
    Some(columns)
}
