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
//! A series of an unknown metric has the name and the labels that it came with.

mod aggregate;
mod answer;
mod binary;
mod data;
mod error;
mod eval;
mod fetch;
mod foreign;
mod labels;
mod lower;
mod plan;
mod stats;
mod text;
mod value;
mod window;

pub(crate) use aggregate::best_first;
pub use error::PromqlError;
pub use labels::{Labels, METRIC_NAME};
pub use lower::is_label_name;
pub(crate) use stats::quantile;

use crate::query::{Source, TimeSeriesStore};
use eval::Evaluator;
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
/// Stack for the depth that a query may have, bytes; also without optimisation.
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

/// An answer and what is to be said of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The answer.
    pub value: Value,
    /// What it was made of.
    pub source: Source,
    /// Why it holds only what is at hand; `None`: it is whole.
    pub partial: Option<String>,
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
        self.query_told(text, instants).await.map(|told| told.value)
    }

    /// Answers a query and says what the answer was made of.
    pub async fn query_told(&self, text: &str, instants: Instants) -> Result<Told, PromqlError> {
        let (engine, text) = (self.clone(), text.to_owned());
        let planned = on_deep_stack(move || engine.plan(&text::parse(&text)?, instants));
        let plan = planned.await?;
        let mut fetched = Vec::with_capacity(plan.selectors.len());
        let (mut source, mut partial) = (Source::default(), None);
        for selector in &plan.selectors {
            let store = self.store.as_ref();
            let read = fetch::fetch(store, &self.site, selector, &self.limits).await?;
            fetched.push(read.fetched);
            source.add(read.source);
            partial = partial.or(read.partial);
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
            answer::answer(&plan, output, instants)
        });
        Ok(Told {
            value: evaluated.await?,
            source,
            partial,
        })
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
        let parsed = on_deep_stack(move || texts.iter().map(|text| text::matchers(text)).collect());
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
