//! The columns of rollups: what of a step is written down, and where.

use super::bucket::Bucket;
use super::codec::{ABSENT, MEASURED, has_value};
use super::decimal::{fit, power};
use super::head::Sample;
use super::segment::Table;
use super::segment::schema::{Key, Part};
use heliostat_models::MetricId;

/// What is known of a metric whose buckets become columns.
#[derive(Clone, Copy)]
pub struct What {
    /// Whether it is a power, whose energy is told.
    pub is_power: bool,
    /// Whether neighbouring steps are joined to each other, as of counters.
    pub traced: bool,
    /// Digits behind the point of all its values.
    pub scale: Option<u8>,
}

impl What {
    fn sum(self, bucket: &Bucket) -> f64 {
        match self.scale {
            Some(scale) => bucket.exact as f64 / power(scale),
            None => bucket.sum,
        }
    }

    fn inside_sum(self, bucket: &Bucket) -> f64 {
        let edge = self.scale.and_then(|scale| fit(bucket.edge.value, scale));
        match (self.scale, edge) {
            (Some(scale), Some(edge)) => bucket.exact.saturating_sub(edge) as f64 / power(scale),
            _ => bucket.inside[0],
        }
    }
}

/// Whether the whole without the edge says what is inside; to the rounding of a
/// sum of doubles.
fn tells_inside(whole: f64, edge: f64, inside: f64) -> bool {
    (whole - edge - inside).abs() <= 1e-13 * inside.abs()
}

/// The columns of one metric in one rollup.
pub struct Cells {
    metric: MetricId,
    /// Their numbers, as far as they are known, by part.
    places: [Option<usize>; Part::COUNT],
}

impl Cells {
    /// None of them is known yet.
    pub fn of(metric: MetricId) -> Self {
        let places = [None; Part::COUNT];
        Self { metric, places }
    }

    fn set(&mut self, table: &mut Table, row: usize, part: Part, (state, value): (u8, f64)) {
        let metric = self.metric;
        let place =
            *self.places[part as usize].get_or_insert_with(|| table.place(Key { metric, part }));
        if let Some(column) = table.columns.get_mut(place) {
            column.set(row, state, value);
        }
    }

    /// Writes a step; parts that say nothing are left out.
    pub fn put(&mut self, table: &mut Table, what: What, row: usize, b: &Bucket) {
        let begin = table.times[row];
        let mut set = |part, state, value| self.set(table, row, part, (state, value));
        let mut some = |part, value| set(part, MEASURED, value);
        if b.count > 0 {
            some(Part::Min, b.min);
            some(Part::Max, b.max);
            some(Part::Sum, what.sum(b));
            some(Part::Count, f64::from(b.count));
        }
        if b.estimated > 0 {
            some(Part::Estimated, f64::from(b.estimated));
        }
        if b.missing > 0 {
            some(Part::Missing, f64::from(b.missing));
        }
        // Where the edge is the smallest or largest of all, or drowns the sum.
        if has_value(b.edge.state) && b.first.is_some() {
            let [_, least, most] = b.inside;
            let inside = what.inside_sum(b);
            if !tells_inside(what.sum(b), b.edge.value, inside) {
                some(Part::InsideSum, inside);
            }
            if b.min.to_bits() != least.to_bits() {
                some(Part::InsideMin, least);
            }
            if b.max.to_bits() != most.to_bits() {
                some(Part::InsideMax, most);
            }
        }
        let after = |s: &Sample| s.at.wrapping_sub(begin) as f64;
        if what.traced {
            if let Some(first) = &b.first {
                some(Part::FirstAfter, after(first));
            }
            if let Some(last) = &b.last {
                some(Part::LastAfter, after(last));
            }
        }
        let milli = |value: f64| (value * 1e3).round() / 1e3;
        if what.is_power {
            if b.known > 0 {
                some(Part::MeasuredJoules, milli(b.measured));
                some(Part::KnownSeconds, b.known as f64 / 1e3);
            }
            if b.guessed != 0.0 {
                some(Part::EstimatedJoules, milli(b.guessed));
            }
        } else if what.traced && b.restarts != 0.0 {
            some(Part::Restarts, b.restarts);
        }
        if let Some(last) = &b.last {
            let state = if what.traced { last.state } else { MEASURED };
            set(Part::Last, state, last.value);
        }
        if b.edge.state != ABSENT {
            set(Part::Edge, b.edge.state, b.edge.value);
        }
        if let Some(first) = b.first.filter(|_| what.traced) {
            set(Part::First, first.state, first.value);
        }
    }
}
