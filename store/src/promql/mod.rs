//! PromQL over any store: parse, plan, read, evaluate.
//!
//! ```text
//! text -> promql-parser -> lower (refusals by name) -> plan: expression and selectors
//! selectors -> fetch (typed queries of the store) -> samples that some instant looks at
//! plan + samples -> eval (pure, all instants of a series at once) -> answer
//! ```
//!
//! A series is a metric of the catalogue on a device; its labels are `device`,
//! `kind`, `hall`, `row`, `rack`, `node` and `site`, those that apply. A reading
//! that is known to be missing ends its series until the next one, like
//! Prometheus' staleness marker; no value is carried over it. An estimated value
//! counts like a measured one, because PromQL has no word for the difference.

mod aggregate;
mod binary;
mod data;
mod error;
mod eval;
mod fetch;
mod labels;
mod lower;
mod plan;
mod stats;
mod value;
mod window;

pub use error::PromqlError;
pub use labels::{Labels, METRIC_NAME};
pub use lower::is_label_name;

use crate::query::TimeSeriesStore;
use data::{Row, Samples, is_there};
use eval::{Evaluator, Output};
use heliostat_models::{Site, Timestamp};
use lower::{Lowering, bare};
use plan::{Grid, Node};
use promql_parser::label::Matcher;
use promql_parser::parser::Expr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How far back an instant vector looks for a sample, milliseconds.
const LOOKBACK_MS: i64 = 300_000;
/// Longest query text, bytes.
const MAX_TEXT: usize = 64 << 10;
/// Brackets and operators of a query: bounds the depth of what is evaluated.
const MAX_OPERATORS: usize = 250;
/// Stack for the depth that [`MAX_OPERATORS`] allows, bytes; also without optimisation.
const STACK: usize = 32 << 20;

/// Which Prometheus' edges are followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Prometheus 2: a window contains a sample exactly at its beginning.
    Prometheus2,
    /// Prometheus 3 (and VictoriaMetrics): it does not.
    #[default]
    Prometheus3,
}

impl Dialect {
    fn closed(self) -> bool {
        self == Self::Prometheus2
    }
}

/// What one query may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Series of one selector.
    pub series: usize,
    /// Samples kept of one selector, and values of one expression over all its
    /// series and instants; 8 to 16 bytes each.
    pub samples: usize,
    /// Instants of a range query.
    pub steps: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            series: 200_000,
            samples: 10_000_000,
            steps: 11_000,
        }
    }
}

/// When a query is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instants {
    /// Once.
    At(Timestamp),
    /// From `start` to `end`, both inclusive, every `step`.
    Range {
        /// The first.
        start: Timestamp,
        /// None after this.
        end: Timestamp,
        /// From one to the next; at least a millisecond.
        step: Duration,
    },
}

/// A series of an answer: instants by rising time, with their values.
#[derive(Clone, Debug, PartialEq)]
pub struct ResultSeries {
    /// Its labels.
    pub labels: Labels,
    /// At least one.
    pub points: Vec<(Timestamp, f64)>,
}

/// An answer, in the types of PromQL.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// One number, of an instant query.
    Scalar(Timestamp, f64),
    /// A text, of an instant query.
    Text(Timestamp, String),
    /// One value of each series, of an instant query.
    Vector(Vec<ResultSeries>),
    /// Values over time.
    Matrix(Vec<ResultSeries>),
}

/// Evaluates PromQL on a store.
#[derive(Clone)]
pub struct Engine {
    store: Arc<dyn TimeSeriesStore>,
    site: Arc<Site>,
    /// Which edges are followed.
    pub dialect: Dialect,
    /// What a query may use.
    pub limits: Limits,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("dialect", &self.dialect)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// Ends an evaluation on its thread when the one who asked has gone.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Engine {
    /// On this store, which holds the devices of this site.
    pub fn new(store: Arc<dyn TimeSeriesStore>, site: Arc<Site>) -> Self {
        Self {
            store,
            site,
            dialect: Dialect::default(),
            limits: Limits::default(),
        }
    }

    /// Answers a query. Dropping the future ends the evaluation too, so a time
    /// limit is a timeout around this.
    pub async fn query(&self, text: &str, instants: Instants) -> Result<Value, PromqlError> {
        let (engine, text) = (self.clone(), text.to_owned());
        let planned = on_deep_stack(move || engine.plan(&parse(&text)?, instants));
        let plan = planned.await?;
        let mut fetched = Vec::with_capacity(plan.selectors.len());
        for selector in &plan.selectors {
            let store = self.store.as_ref();
            fetched.push(fetch::fetch(store, &self.site, selector, &self.limits).await?);
        }
        let guard = CancelOnDrop(Arc::new(AtomicBool::new(false)));
        let cancelled = Arc::clone(&guard.0);
        let (dialect, max_values) = (self.dialect, self.limits.samples);
        let evaluated = on_deep_stack(move || {
            let evaluator = Evaluator {
                selectors: &plan.selectors,
                fetched: &fetched,
                dialect,
                max_values,
                cancelled: &cancelled,
            };
            let output = evaluator.output(&plan.node, &plan.grid)?;
            answer(&plan, output, instants)
        });
        evaluated.await
    }

    /// The labels of the series that any of the selectors accepts (all, if there
    /// is none) and whose device has sent a frame at or after `since`; sorted.
    /// A series is known by the latest frame of its device.
    pub async fn series(
        &self,
        selectors: &[String],
        since: Timestamp,
    ) -> Result<Vec<Labels>, PromqlError> {
        let texts = selectors.to_vec();
        let parsed = on_deep_stack(move || texts.iter().map(|text| matchers(text)).collect());
        let mut all: Vec<Vec<Matcher>> = parsed.await?;
        if all.is_empty() {
            all.push(Vec::new());
        }
        let mut found = std::collections::BTreeSet::new();
        for matchers in &all {
            let store = self.store.as_ref();
            let limit = self.limits.series;
            let candidates = fetch::candidates(store, &self.site, matchers, since, limit).await?;
            found.extend(candidates.into_iter().map(|c| c.labels));
        }
        Ok(found.into_iter().collect())
    }

    fn plan(&self, expr: &Expr, instants: Instants) -> Result<Plan, PromqlError> {
        let grid = self.grid(instants)?;
        let (start, end) = match instants {
            Instants::At(at) => (at, at),
            Instants::Range { start, end, .. } => (start, end),
        };
        let mut lowering = Lowering {
            start: start.0,
            end: end.0,
            dialect: self.dialect,
            selectors: Vec::new(),
        };
        let is_range_vector = matches!(bare(expr), Expr::MatrixSelector(_) | Expr::Subquery(_));
        let node = match instants {
            Instants::At(_) if is_range_vector => lowering.raw(expr, &grid)?,
            Instants::Range { .. }
                if is_range_vector || matches!(bare(expr), Expr::StringLiteral(_)) =>
            {
                let what = if is_range_vector {
                    "range vector"
                } else {
                    "string"
                };
                return Err(PromqlError::BadRequest(format!(
                    "invalid expression type \"{what}\" for range query, must be Scalar or instant Vector"
                )));
            }
            _ => lowering.node(expr, &grid)?,
        };
        Ok(Plan {
            node,
            grid,
            selectors: lowering.selectors,
        })
    }

    fn grid(&self, instants: Instants) -> Result<Grid, PromqlError> {
        let (start, end, step) = match instants {
            Instants::At(at) => (at.0, at.0, 1),
            Instants::Range { start, end, step } => {
                let step = i64::try_from(step.as_millis()).unwrap_or(i64::MAX);
                (start.0, end.0, step)
            }
        };
        if end < start {
            return Err(PromqlError::BadRequest(
                "end timestamp must not be before start time".to_owned(),
            ));
        }
        if step < 1 {
            return Err(PromqlError::BadRequest(
                "zero or negative query resolution step widths are not accepted. Try a positive integer".to_owned(),
            ));
        }
        let count = end.saturating_sub(start) / step + 1;
        if count > self.limits.steps as i64 {
            return Err(PromqlError::BadRequest(format!(
                "exceeded maximum resolution of {} points per timeseries. Try decreasing the query resolution (?step=XX)",
                self.limits.steps
            )));
        }
        Ok(Grid {
            start,
            step,
            count: count as usize,
        })
    }
}

/// Runs recursive work on a thread of its own, whose stack is deep enough for it.
async fn on_deep_stack<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PromqlError> + Send + 'static,
) -> Result<T, PromqlError> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    let early = |why: String| PromqlError::Execution(format!("the evaluation ended early: {why}"));
    std::thread::Builder::new()
        .name("promql".to_owned())
        .stack_size(STACK)
        // When nobody waits any more, the answer is not wanted.
        .spawn(move || drop(reply.send(work())))
        .map_err(|e| early(e.to_string()))?;
    answer.await.map_err(|e| early(e.to_string()))?
}

/// A query ready to be read and evaluated.
struct Plan {
    node: Node,
    grid: Grid,
    selectors: Vec<plan::Selector>,
}

/// Parses a query whose size is bounded, so that its evaluation cannot run out of stack.
fn parse(text: &str) -> Result<Expr, PromqlError> {
    if text.len() > MAX_TEXT {
        return Err(PromqlError::Parse(format!(
            "the query is longer than {MAX_TEXT} bytes"
        )));
    }
    if operators(text) > MAX_OPERATORS {
        return Err(PromqlError::Parse(format!(
            "the query has more than {MAX_OPERATORS} brackets and operators"
        )));
    }
    promql_parser::parser::parse(text).map_err(PromqlError::Parse)
}

/// Opening brackets, operators and word operators outside of quotes.
fn operators(text: &str) -> usize {
    let mut count = 0;
    let mut quote = None;
    let mut word = String::new();
    let mut escaped = false;
    for c in text.chars().chain([' ']) {
        if let Some(open) = quote {
            if escaped {
                escaped = false;
            } else if c == '\\' && open != '`' {
                escaped = true;
            } else if c == open {
                quote = None;
            }
            continue;
        }
        if c.is_alphanumeric() || c == '_' {
            word.push(c.to_ascii_lowercase());
            continue;
        }
        count += usize::from(matches!(word.as_str(), "and" | "or" | "unless" | "atan2"));
        word.clear();
        match c {
            '"' | '\'' | '`' => quote = Some(c),
            '(' | '[' | '+' | '-' | '*' | '/' | '%' | '^' | '=' | '<' | '>' | '!' => count += 1,
            _ => {}
        }
    }
    count
}

/// The matchers of a selector that stands alone.
fn matchers(text: &str) -> Result<Vec<Matcher>, PromqlError> {
    let expr = parse(text)?;
    if !matches!(expr, Expr::VectorSelector(_)) {
        return Err(PromqlError::Parse(format!(
            "`{text}` is no series selector such as metric{{label=\"value\"}}"
        )));
    }
    let grid = Grid {
        start: 0,
        step: 1,
        count: 1,
    };
    let mut lowering = Lowering {
        start: 0,
        end: 0,
        dialect: Dialect::default(),
        selectors: Vec::new(),
    };
    lowering.node(&expr, &grid)?;
    Ok(lowering
        .selectors
        .pop()
        .map(|s| s.matchers)
        .unwrap_or_default())
}

fn answer(plan: &Plan, output: Output, instants: Instants) -> Result<Value, PromqlError> {
    let at = Timestamp(plan.grid.start);
    let is_range = matches!(instants, Instants::Range { .. });
    Ok(match output {
        Output::Text(text) => Value::Text(at, text),
        Output::Raw(all) => {
            let all = all.into_iter().filter_map(|s| window_of(plan, s));
            Value::Matrix(sorted(all.collect()))
        }
        Output::Scalar(values) if !is_range => {
            Value::Scalar(at, values.first().copied().unwrap_or(f64::NAN))
        }
        Output::Scalar(values) => Value::Matrix(vec![points(
            plan,
            Row {
                labels: Labels::default(),
                values,
            },
        )]),
        Output::Vector(rows) => {
            let mut rows: Vec<Row> = data::merge(rows.into_iter())?;
            if is_range {
                let all = rows.into_iter().map(|row| points(plan, row));
                Value::Matrix(sorted(all.collect()))
            } else {
                eval::order(&plan.node, &mut rows);
                Value::Vector(rows.into_iter().map(|row| points(plan, row)).collect())
            }
        }
    })
}

fn sorted(mut all: Vec<ResultSeries>) -> Vec<ResultSeries> {
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    all
}

fn points(plan: &Plan, row: Row) -> ResultSeries {
    let at = plan.grid.times().map(Timestamp);
    ResultSeries {
        labels: row.labels,
        points: at.zip(row.values).filter(|(_, v)| is_there(*v)).collect(),
    }
}

/// The samples of the one window of a query that is a range vector.
fn window_of(plan: &Plan, samples: Samples) -> Option<ResultSeries> {
    let (first, last) = match &plan.node {
        Node::Raw(plan::Windows::Stored(which)) => plan.selectors.get(*which)?.span(),
        Node::Raw(plan::Windows::Subquery {
            references,
            reach,
            closed,
            ..
        }) => (
            plan::window_start(references.start, *reach, *closed),
            references.start,
        ),
        _ => return None,
    };
    let points: Vec<(Timestamp, f64)> = (samples.times.iter().zip(&samples.values))
        .filter(|(t, v)| (first..=last).contains(*t) && is_there(**v))
        .map(|(t, v)| (Timestamp(*t), *v))
        .collect();
    (!points.is_empty()).then_some(ResultSeries {
        labels: samples.labels,
        points,
    })
}
