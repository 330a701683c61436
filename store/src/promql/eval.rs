//! Evaluation of a plan over what was read: no I/O, no clock.
//!
//! Every expression is evaluated for all instants at once, series by series.

use super::data::{ABSENT, Fetched, Row, Samples, is_there, merge, nameless};
use super::error::PromqlError;
use super::labels::Labels;
use super::plan::{AggregateFn, Grid, Node, Selector, WindowFn, Windows};
use super::window::{self, Lay};
use super::{Dialect, aggregate, binary, value};
use std::sync::atomic::{AtomicBool, Ordering};

/// The value of an expression at the instants of a grid.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Output {
    /// A number per instant.
    Scalar(Vec<f64>),
    /// Series.
    Vector(Vec<Row>),
    /// Series of samples, only as the whole of a query.
    Raw(Vec<Samples>),
    /// A text.
    Text(String),
}

/// What an evaluation has at hand.
pub(super) struct Evaluator<'a> {
    pub selectors: &'a [Selector],
    /// What was read for each selector.
    pub fetched: &'a [Fetched],
    pub dialect: Dialect,
    /// Values that one expression may have, over all its series and instants.
    pub max_values: usize,
    /// Set when nobody waits any more.
    pub cancelled: &'a AtomicBool,
}

type Evaluated<T = Output> = Result<T, PromqlError>;

impl Evaluator<'_> {
    /// The value of an expression at the instants of `grid`.
    pub(super) fn output(&self, node: &Node, grid: &Grid) -> Evaluated {
        Ok(match node {
            Node::Number(number) => Output::Scalar(vec![*number; grid.count]),
            Node::Text(text) => Output::Text(text.clone()),
            Node::Time => Output::Scalar(grid.times().map(|t| t as f64 / 1_000.0).collect()),
            Node::Scalar(argument) => {
                let rows = self.vector(argument, grid)?;
                Output::Scalar((0..grid.count).map(|i| only(&rows, i)).collect())
            }
            Node::Raw(windows) => Output::Raw(self.raw(windows)?),
            Node::Negate(argument) => match self.output(argument, grid)? {
                Output::Scalar(values) => Output::Scalar(values.iter().map(|v| -v).collect()),
                other => {
                    let rows = rows_of(other)?.into_iter();
                    Output::Vector(nameless(rows.map(|row| row.map(|_, v| -v)).collect())?)
                }
            },
            Node::Binary {
                function,
                matching,
                left,
                right,
            } => {
                let (left, right) = (self.output(left, grid)?, self.output(right, grid)?);
                match (left, right) {
                    (Output::Scalar(a), Output::Scalar(b)) => Output::Scalar(
                        (a.iter().zip(&b))
                            .map(|(a, b)| binary::apply(*function, *a, *b))
                            .collect(),
                    ),
                    (Output::Scalar(scalar), other) => Output::Vector(binary::with_scalar(
                        *function,
                        matching.as_bool,
                        rows_of(other)?,
                        &scalar,
                        true,
                    )?),
                    (other, Output::Scalar(scalar)) => Output::Vector(binary::with_scalar(
                        *function,
                        matching.as_bool,
                        rows_of(other)?,
                        &scalar,
                        false,
                    )?),
                    (left, right) => {
                        let (left, right) = (rows_of(left)?, rows_of(right)?);
                        use super::plan::BinaryFn::{And, Or, Unless};
                        self.check()?;
                        Output::Vector(match function {
                            And | Or | Unless => {
                                binary::set(*function, &matching.on, left, right, grid.count)
                            }
                            _ => binary::between(*function, matching, left, right, grid.count)?,
                        })
                    }
                }
            }
            other => Output::Vector(self.series(other, grid)?),
        })
    }

    /// The expressions that give series.
    fn series(&self, node: &Node, grid: &Grid) -> Evaluated<Vec<Row>> {
        match node {
            Node::Instant { selector, stamps } => self.instant(*selector, *stamps, grid),
            Node::Window {
                function,
                param,
                windows,
            } => {
                let param = self.optional(param.as_deref(), grid)?;
                self.windowed(*function, &param, windows, grid)
            }
            Node::Value {
                function,
                params,
                argument,
            } => {
                let params = (params.iter())
                    .map(|param| self.scalar(param, grid))
                    .collect::<Result<Vec<_>, _>>()?;
                nameless(value::apply(
                    *function,
                    &params,
                    self.vector(argument, grid)?,
                ))
            }
            Node::Timestamp(argument) => {
                let rows = self.vector(argument, grid)?.into_iter();
                let seconds = |index: usize, _: f64| grid.at(index) as f64 / 1_000.0;
                nameless(rows.map(|row| row.map(seconds)).collect())
            }
            Node::Vector(argument) => Ok(vec![Row {
                labels: Labels::default(),
                values: self.scalar(argument, grid)?,
            }]),
            Node::Absent { labels, argument } => {
                let rows = self.vector(argument, grid)?;
                let there = |i: usize| rows.iter().any(|r| is_there(r.values[i]));
                let values = (0..grid.count)
                    .map(|i| if there(i) { ABSENT } else { 1.0 })
                    .collect();
                let labels = labels.clone();
                Ok(vec![Row { labels, values }])
            }
            Node::LabelReplace {
                argument,
                target,
                replacement,
                source,
                pattern,
            } => {
                let rows = self.vector(argument, grid)?.into_iter().map(|mut row| {
                    if let Some(found) = pattern.captures(row.labels.get(source)) {
                        let mut text = String::new();
                        found.expand(replacement, &mut text);
                        row.labels.set(target, &text);
                    }
                    row
                });
                merge(rows)
            }
            Node::Sort { argument, .. } => self.vector(argument, grid),
            Node::Aggregate {
                function,
                grouping,
                param,
                argument,
            } => {
                if let Node::Window {
                    windows: Windows::Stored(which),
                    ..
                } = &**argument
                    && let Fetched::Grouped(rows) = &self.fetched[*which]
                {
                    return Ok(spread_all(rows, grid.count));
                }
                let param = self.optional(param.as_deref(), grid)?;
                let rows = self.vector(argument, grid)?;
                self.check()?;
                aggregate::aggregate(*function, grouping, &param, rows, grid.count)
            }
            other => rows_of(self.output(other, grid)?),
        }
    }

    fn vector(&self, node: &Node, grid: &Grid) -> Evaluated<Vec<Row>> {
        rows_of(self.output(node, grid)?)
    }

    fn scalar(&self, node: &Node, grid: &Grid) -> Evaluated<Vec<f64>> {
        match self.output(node, grid)? {
            Output::Scalar(values) => Ok(values),
            _ => Err(PromqlError::BadRequest(
                "a scalar is needed here".to_owned(),
            )),
        }
    }

    fn optional(&self, node: Option<&Node>, grid: &Grid) -> Evaluated<Vec<f64>> {
        node.map_or(Ok(Vec::new()), |node| self.scalar(node, grid))
    }

    /// Fails when nobody waits any more.
    fn check(&self) -> Evaluated<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(PromqlError::Cancelled);
        }
        Ok(())
    }

    fn room_for(&self, series: usize, grid: &Grid) -> Evaluated<()> {
        if series.saturating_mul(grid.count) > self.max_values {
            return Err(PromqlError::TooMuch {
                what: "samples",
                limit: self.max_values,
            });
        }
        self.check()
    }

    fn instant(&self, which: usize, stamps: bool, grid: &Grid) -> Evaluated<Vec<Row>> {
        let selector = &self.selectors[which];
        let Fetched::Samples(all) = &self.fetched[which] else {
            return Ok(Vec::new());
        };
        self.room_for(all.len(), grid)?;
        let lay = lay(selector);
        let mut rows = Vec::with_capacity(all.len());
        for samples in all {
            self.check()?;
            let row = latest(samples, lay, grid.count, stamps);
            if !row.is_empty() {
                rows.push(row);
            }
        }
        if stamps { nameless(rows) } else { Ok(rows) }
    }

    fn windowed(
        &self,
        function: WindowFn,
        param: &[f64],
        windows: &Windows,
        grid: &Grid,
    ) -> Evaluated<Vec<Row>> {
        let inner;
        let (all, lay) = match windows {
            Windows::Stored(which) => match &self.fetched[*which] {
                Fetched::Samples(all) => (all, lay(&self.selectors[*which])),
                Fetched::Folded(rows) => {
                    let labelled = rows.iter().map(|row| Row {
                        labels: window::labels(function, &row.labels),
                        values: spread(&row.values, grid.count),
                    });
                    return merge(labelled);
                }
                // Taken by the aggregation around it.
                Fetched::Grouped(rows) => return Ok(spread_all(rows, grid.count)),
            },
            Windows::Subquery {
                references,
                reach,
                closed,
                ..
            } => {
                inner = self.raw(windows)?;
                let lay = Lay {
                    references: *references,
                    reach: *reach,
                    closed: *closed,
                };
                (&inner, lay)
            }
        };
        self.room_for(all.len(), grid)?;
        let mut rows = Vec::with_capacity(all.len());
        for samples in all {
            self.check()?;
            let mut row = window::row(samples, lay, grid.count, |index, w| {
                let param = param.get(index).copied().unwrap_or(f64::NAN);
                window::apply(function, param, w, self.dialect)
            });
            row.labels = window::labels(function, &row.labels);
            rows.push(row);
        }
        merge(rows.into_iter())
    }

    /// The samples behind windows.
    fn raw(&self, windows: &Windows) -> Evaluated<Vec<Samples>> {
        match windows {
            Windows::Stored(which) => Ok(match &self.fetched[*which] {
                Fetched::Samples(all) => all.clone(),
                Fetched::Folded(_) | Fetched::Grouped(_) => Vec::new(),
            }),
            Windows::Subquery { node, inner, .. } => {
                let rows = self.vector(node, inner)?;
                Ok((rows.into_iter())
                    .map(|row| {
                        let there = inner.times().zip(row.values).filter(|(_, v)| is_there(*v));
                        let (times, values) = there.unzip();
                        Samples {
                            labels: row.labels,
                            times,
                            values,
                        }
                    })
                    .collect())
            }
        }
    }
}

fn lay(selector: &Selector) -> Lay {
    Lay {
        references: selector.references,
        reach: selector.reach,
        closed: selector.closed,
    }
}

/// A value for each of `count` instants, where `@` made one of them all.
fn spread(values: &[f64], count: usize) -> Vec<f64> {
    match values {
        [only] => vec![*only; count],
        all => all.to_vec(),
    }
}

fn spread_all(rows: &[Row], count: usize) -> Vec<Row> {
    (rows.iter().filter(|row| !row.is_empty()))
        .map(|row| Row {
            labels: row.labels.clone(),
            values: spread(&row.values, count),
        })
        .collect()
}

/// The latest sample of each window, unless it says that the reading was missing.
fn latest(samples: &Samples, lay: Lay, count: usize, stamps: bool) -> Row {
    let mut next = 0;
    let values = lay.references.times().map(|end| {
        while samples.times.get(next).is_some_and(|t| *t <= end) {
            next += 1;
        }
        let found = next
            .checked_sub(1)
            .map(|i| (samples.times[i], samples.values[i]));
        match found {
            Some((time, value))
                if is_there(value)
                    && time >= super::plan::window_start(end, lay.reach, lay.closed) =>
            {
                if stamps {
                    time as f64 / 1_000.0
                } else {
                    value
                }
            }
            _ => ABSENT,
        }
    });
    Row {
        labels: samples.labels.clone(),
        values: spread(&values.collect::<Vec<_>>(), count),
    }
}

fn rows_of(output: Output) -> Evaluated<Vec<Row>> {
    match output {
        Output::Vector(rows) => Ok(rows),
        _ => Err(PromqlError::BadRequest(
            "an instant vector is needed here".to_owned(),
        )),
    }
}

/// The value of the only series that is there; not a number where there is none or several.
fn only(rows: &[Row], index: usize) -> f64 {
    let mut there = (rows.iter().map(|r| r.values[index])).filter(|v| is_there(*v));
    match (there.next(), there.next()) {
        (Some(value), None) => value,
        _ => f64::NAN,
    }
}

/// Orders the result of an instant query: by value where the query asks for an
/// order, else by labels.
pub(super) fn order(node: &Node, rows: &mut [Row]) {
    let largest = match node {
        Node::Sort { descending, .. } => Some(*descending),
        Node::Aggregate { function, .. } => match function {
            AggregateFn::TopK => Some(true),
            AggregateFn::BottomK => Some(false),
            _ => None,
        },
        _ => None,
    };
    let first = |row: &Row| row.values.first().copied().unwrap_or(f64::NAN);
    rows.sort_by(|a, b| match largest {
        Some(largest) => aggregate::best_first(first(a), first(b), largest),
        None => a.labels.cmp(&b.labels),
    });
}
