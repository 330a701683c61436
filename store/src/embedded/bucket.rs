//! What became of the values of one device and metric in a step of a rollup.
//!
//! A reading at the very begin of a step is its edge and is told apart from what
//! is inside, so that a step speaks of both intervals that readers ask for:
//! `[t, t + step)` is edge and inside, `(t, t + step]` is inside and the next
//! step's edge.

use super::codec::{ABSENT, ESTIMATED, MISSING, has_value};
use super::head::Sample;

/// A step.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Readings with a value.
    pub count: u32,
    /// Those of them that are estimated.
    pub estimated: u32,
    /// Readings without a value.
    pub missing: u32,
    /// Sum of the values.
    pub sum: f64,
    /// The same over the decimals that the values are.
    pub exact: i64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
    /// The reading at the begin; state [`ABSENT`] where there is none.
    pub edge: Sample,
    /// Sum, smallest and largest of the values inside.
    pub inside: [f64; 3],
    /// The first value inside.
    pub first: Option<Sample>,
    /// The latest value of all.
    pub last: Option<Sample>,
    /// Of values inside, what each had counted that the next one is below: with
    /// it, the last less the first is the growth of a counter.
    pub restarts: f64,
    /// Energy between measured values, joules.
    pub measured: f64,
    /// Energy where a value was estimated or one between was missing, joules.
    pub guessed: f64,
    /// Milliseconds that those two speak of.
    pub known: u64,
}

/// A step of which nothing is known yet.
pub const NOTHING: Bucket = Bucket {
    count: 0,
    estimated: 0,
    missing: 0,
    sum: 0.0,
    exact: 0,
    min: f64::INFINITY,
    max: f64::NEG_INFINITY,
    edge: Sample {
        at: 0,
        state: ABSENT,
        value: 0.0,
    },
    inside: [0.0, f64::INFINITY, f64::NEG_INFINITY],
    first: None,
    last: None,
    restarts: 0.0,
    measured: 0.0,
    guessed: 0.0,
    known: 0,
};

/// What a counter had counted before it restarted between two values; else 0.
pub fn restarted(before: &Sample, value: f64) -> f64 {
    if value >= before.value {
        0.0
    } else {
        before.value
    }
}

impl Bucket {
    /// Takes the next reading of a step that begins at `begin`; `exact` is the
    /// value's decimals.
    pub fn push(&mut self, begin: i64, sample: Sample, exact: i64) {
        if sample.state == ABSENT {
            return;
        }
        let at_edge = sample.at == begin;
        if at_edge {
            self.edge = sample;
        }
        if !has_value(sample.state) {
            self.missing += u32::from(sample.state == MISSING);
            return;
        }
        let value = sample.value;
        self.count += 1;
        self.estimated += u32::from(sample.state == ESTIMATED);
        self.sum += value;
        self.exact = self.exact.saturating_add(exact);
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        if !at_edge {
            let [sum, min, max] = self.inside;
            self.inside = [sum + value, min.min(value), max.max(value)];
            match (&self.first, &self.last) {
                (Some(_), Some(last)) => self.restarts += restarted(last, value),
                _ => self.first = Some(sample),
            }
        }
        self.last = Some(sample);
    }

    /// The same readings as part of a longer step that began earlier: the edge
    /// is one of those inside.
    fn inner(mut self) -> Self {
        if has_value(self.edge.state) {
            if let Some(first) = self.first.replace(self.edge) {
                self.restarts += restarted(&self.edge, first.value);
            }
            self.inside = [self.sum, self.min, self.max];
        }
        self.edge = NOTHING.edge;
        self
    }

    /// Takes the next shorter step of a longer one; energies are left out.
    /// `whole`: the longer one begins with it.
    pub fn append(&mut self, next: &Self, whole: bool) {
        if whole {
            *self = *next;
            return;
        }
        let next = next.inner();
        self.count += next.count;
        self.estimated += next.estimated;
        self.missing += next.missing;
        self.sum += next.sum;
        self.exact = self.exact.saturating_add(next.exact);
        self.min = self.min.min(next.min);
        self.max = self.max.max(next.max);
        let ([a, b, c], [sum, min, max]) = (self.inside, next.inside);
        self.inside = [a + sum, b.min(min), c.max(max)];
        self.restarts += next.restarts;
        if let (Some(_), Some(last), Some(first)) = (&self.first, &self.last, &next.first) {
            self.restarts += restarted(last, first.value);
        }
        self.first = self.first.or(next.first);
        self.last = next.last.or(self.last);
    }
}
