//! A query as it is evaluated: the parsed expression with every selector, time
//! and function resolved, and the samples that must be read for it.

use super::labels::Labels;
use crate::query::{AcrossDevices, Label, OverTime};
use promql_parser::label::Matcher;
use regex::Regex;

/// The instants at which an expression is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    /// The first, milliseconds since 1970.
    pub start: i64,
    /// From one to the next, milliseconds; at least 1.
    pub step: i64,
    /// How many.
    pub count: usize,
}

impl Grid {
    pub(super) fn at(&self, index: usize) -> i64 {
        self.start
            .saturating_add(self.step.saturating_mul(index as i64))
    }
    pub(super) fn last(&self) -> i64 {
        self.at(self.count.saturating_sub(1))
    }
    pub(super) fn times(&self) -> impl Iterator<Item = i64> + '_ {
        (0..self.count).map(|i| self.at(i))
    }
    /// The first instant that is not before `time`.
    fn not_before(&self, time: i64) -> Option<i64> {
        if time <= self.start {
            return (self.count > 0).then_some(self.start);
        }
        let steps = time.saturating_sub(self.start).saturating_sub(1) / self.step + 1;
        (steps < self.count as i64).then(|| self.at(steps as usize))
    }
}

/// Where the instants of a grid look: `offset` and `@` applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shift {
    /// `@`: always this instant.
    pub fixed: Option<i64>,
    /// `offset`: so many milliseconds earlier.
    pub offset: i64,
}

impl Shift {
    pub(super) fn of(&self, time: i64) -> i64 {
        self.fixed.unwrap_or(time).saturating_sub(self.offset)
    }
    /// The instants that are looked at: one where `@` is given.
    pub(super) fn grid(&self, grid: &Grid) -> Grid {
        Grid {
            start: self.of(grid.start),
            step: grid.step,
            count: if self.fixed.is_some() {
                grid.count.min(1)
            } else {
                grid.count
            },
        }
    }
}

/// Series to be read.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    /// Name of the metric included.
    pub matchers: Vec<Matcher>,
    /// The instants that are looked at.
    pub references: Grid,
    /// How far back from each, milliseconds: the range, or the lookback.
    pub reach: i64,
    /// Only the latest sample before each instant counts.
    pub latest_only: bool,
    /// A sample exactly at the beginning of a window belongs to it.
    pub closed: bool,
    /// The store may fold each window into one value.
    pub fold: Option<OverTime>,
    /// And the values of each group of devices into one.
    pub across: Option<(AcrossDevices, Vec<Label>)>,
}

impl Selector {
    /// The first instant of the window that ends at `reference`.
    pub(super) fn window_start(&self, reference: i64) -> i64 {
        window_start(reference, self.reach, self.closed)
    }

    /// Whether any instant looks at a sample of this time that is followed by one at `next`.
    pub(super) fn wants(&self, time: i64, next: Option<i64>) -> bool {
        self.references.not_before(time).is_some_and(|reference| {
            self.window_start(reference) <= time
                && (!self.latest_only || next.is_none_or(|next| reference < next))
        })
    }

    /// The time that must be read: first and last, inclusive.
    pub(super) fn span(&self) -> (i64, i64) {
        (
            self.window_start(self.references.start),
            self.references.last(),
        )
    }
}

/// The first instant, milliseconds, of a window that ends at `end`.
pub(super) fn window_start(end: i64, reach: i64, closed: bool) -> i64 {
    end.saturating_sub(reach).saturating_add(i64::from(!closed))
}

/// What becomes of the samples of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowFn {
    Rate,
    Increase,
    Delta,
    Irate,
    Idelta,
    Avg,
    Min,
    Max,
    Sum,
    Count,
    Last,
    Present,
    Quantile,
    Stddev,
    Stdvar,
    Changes,
    Resets,
    Deriv,
}

/// What becomes of each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueFn {
    Abs,
    Ceil,
    Floor,
    Exp,
    Ln,
    Log2,
    Log10,
    Sqrt,
    Sgn,
    Round,
    Clamp,
    ClampMin,
    ClampMax,
}

/// How a group becomes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AggregateFn {
    Sum,
    Avg,
    Min,
    Max,
    Count,
    Group,
    Stddev,
    Stdvar,
    Quantile,
    TopK,
    BottomK,
}

/// Which labels tell groups, or partners, apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Grouping {
    /// These.
    By(Vec<String>),
    /// All but these and the name of the metric.
    Without(Vec<String>),
}

impl Grouping {
    pub(super) fn key(&self, labels: &Labels) -> Labels {
        match self {
            Self::By(names) => labels.keeping(|name| names.iter().any(|n| n == name)),
            Self::Without(names) => labels.keeping(|name| {
                name != super::labels::METRIC_NAME && !names.iter().any(|n| n == name)
            }),
        }
    }
}

/// An operator between two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BinaryFn {
    Add,
    Sub,
    Mul,
    Div,
    Mod,
    Pow,
    Atan2,
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    And,
    Or,
    Unless,
}

impl BinaryFn {
    pub(super) fn is_comparison(self) -> bool {
        use BinaryFn::{Eq, Ge, Gt, Le, Lt, Ne};
        matches!(self, Eq | Ne | Lt | Le | Gt | Ge)
    }
}

/// Which side may have several partners for one of the other, and the labels
/// that are taken over from the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cardinality {
    OneToOne,
    ManyToOne(Vec<String>),
    OneToMany(Vec<String>),
}

/// How partners find each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Matching {
    pub on: Grouping,
    pub cardinality: Cardinality,
    /// A comparison gives 0 or 1 instead of filtering.
    pub as_bool: bool,
}

/// Where the windows of a function come from.
#[derive(Clone, Debug)]
pub(super) enum Windows {
    /// The store, by number of the selector.
    Stored(usize),
    /// A subquery over instants of its own.
    Subquery {
        node: Box<Node>,
        inner: Grid,
        references: Grid,
        reach: i64,
        closed: bool,
    },
}

/// An expression.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Number(f64),
    Text(String),
    Time,
    /// The latest sample of each series; with `stamps` its time instead.
    Instant {
        selector: usize,
        stamps: bool,
    },
    /// All samples of a window, only as the whole of an instant query.
    Raw(Windows),
    Window {
        function: WindowFn,
        param: Option<Box<Node>>,
        windows: Windows,
    },
    Value {
        function: ValueFn,
        params: Vec<Node>,
        argument: Box<Node>,
    },
    Timestamp(Box<Node>),
    Scalar(Box<Node>),
    Vector(Box<Node>),
    Negate(Box<Node>),
    Absent {
        labels: Labels,
        argument: Box<Node>,
    },
    LabelReplace {
        argument: Box<Node>,
        target: String,
        replacement: String,
        source: String,
        pattern: Regex,
    },
    Sort {
        argument: Box<Node>,
        descending: bool,
    },
    Aggregate {
        function: AggregateFn,
        grouping: Grouping,
        param: Option<Box<Node>>,
        argument: Box<Node>,
    },
    Binary {
        function: BinaryFn,
        matching: Matching,
        left: Box<Node>,
        right: Box<Node>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A sample is kept exactly when some instant's window, looked at one by one, uses it.
        #[test]
        fn a_sample_is_kept_exactly_when_an_instant_looks_at_it(
            start in -50_i64..50, step in 1_i64..20, count in 1_usize..12, reach in 1_i64..30,
            closed: bool, latest_only: bool, time in -100_i64..200, gap in 1_i64..40,
        ) {
            let references = Grid { start, step, count };
            let selector = Selector { matchers: vec![], references, reach, latest_only, closed, fold: None, across: None };
            let next = time + gap;
            let used = references.times().any(|t| {
                let in_window = time <= t && (time > t - reach || (closed && time == t - reach));
                in_window && !(latest_only && next <= t)
            });
            prop_assert_eq!(selector.wants(time, Some(next)), used);
        }
    }
}
