//! From the parsed expression to the plan; what is not evaluated is refused here, by name.

use super::error::PromqlError;
use super::fetch;
use super::labels::{Labels, METRIC_NAME};
use super::plan::{
    AggregateFn, BinaryFn, Cardinality, Grid, Grouping, Matching, Node, Selector, Shift, ValueFn,
    WindowFn, Windows,
};
use super::{Dialect, LOOKBACK_MS};
use crate::query::{AcrossDevices, Label, OverTime};
use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::token::{
    T_ADD, T_ATAN2, T_AVG, T_BOTTOMK, T_COUNT, T_DIV, T_EQLC, T_GROUP, T_GTE, T_GTR, T_LAND, T_LOR,
    T_LSS, T_LTE, T_LUNLESS, T_MAX, T_MIN, T_MOD, T_MUL, T_NEQ, T_POW, T_QUANTILE, T_STDDEV,
    T_STDVAR, T_SUB, T_SUM, T_TOPK,
};
use promql_parser::parser::{
    AggregateExpr, AtModifier, BinaryExpr, Call, Expr, LabelModifier, Offset, SubqueryExpr,
    VectorMatchCardinality, VectorSelector,
};
use regex::Regex;
use std::time::{Duration, SystemTime};

/// Functions that are evaluated, for the message that refuses another.
const FUNCTIONS: &str = "abs, absent, avg_over_time, ceil, changes, clamp, clamp_max, clamp_min, count_over_time, \
     delta, deriv, exp, floor, idelta, increase, irate, label_replace, last_over_time, ln, log10, log2, \
     max_over_time, min_over_time, present_over_time, quantile_over_time, rate, resets, round, scalar, sgn, sort, \
     sort_desc, sqrt, stddev_over_time, stdvar_over_time, sum_over_time, time, timestamp, vector";
/// Aggregations that are evaluated.
const AGGREGATIONS: &str =
    "avg, bottomk, count, group, max, min, quantile, stddev, stdvar, sum, topk";
/// Spacing of a subquery that names none.
const SUBQUERY_STEP_MS: i64 = 60_000;
/// Instants of one subquery.
const MAX_SUBQUERY_STEPS: i64 = 100_000;

/// Lowers one query.
pub(super) struct Lowering {
    /// `@ start()` and `@ end()`: of the request, whatever its instants are.
    pub start: i64,
    pub end: i64,
    pub dialect: Dialect,
    pub selectors: Vec<Selector>,
}

type Lowered<T = Node> = Result<T, PromqlError>;

fn unsupported<T>(text: String) -> Lowered<T> {
    Err(PromqlError::Unsupported(text))
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Without the parentheses around it.
pub(super) fn bare(expr: &Expr) -> &Expr {
    match expr {
        Expr::Paren(inner) => bare(&inner.expr),
        other => other,
    }
}

impl Lowering {
    /// An expression evaluated at the instants of `grid`.
    pub(super) fn node(&mut self, expr: &Expr, grid: &Grid) -> Lowered {
        match expr {
            Expr::NumberLiteral(number) => Ok(Node::Number(number.val)),
            Expr::StringLiteral(text) => Ok(Node::Text(text.val.clone())),
            Expr::Paren(inner) => self.node(&inner.expr, grid),
            Expr::Unary(inner) => Ok(Node::Negate(Box::new(self.node(&inner.expr, grid)?))),
            Expr::VectorSelector(selector) => Ok(Node::Instant {
                selector: self.instant(selector, grid)?,
                stamps: false,
            }),
            Expr::MatrixSelector(_) | Expr::Subquery(_) => Err(PromqlError::BadRequest(
                "a range vector stands where an instant vector or a scalar is needed".to_owned(),
            )),
            Expr::Call(call) => self.call(call, grid),
            Expr::Aggregate(aggregate) => self.aggregate(aggregate, grid),
            Expr::Binary(binary) => self.binary(binary, grid),
            Expr::Extension(other) => {
                unsupported(format!("{} is not supported", other.expr.name()))
            }
        }
    }

    /// The windows of an instant query that is nothing but a range vector.
    pub(super) fn raw(&mut self, expr: &Expr, grid: &Grid) -> Lowered {
        Ok(Node::Raw(self.windows(expr, grid, None)?))
    }

    fn boxed(&mut self, expr: &Expr, grid: &Grid) -> Lowered<Box<Node>> {
        self.node(expr, grid).map(Box::new)
    }

    fn shift(&self, at: Option<&AtModifier>, offset: Option<&Offset>) -> Shift {
        Shift {
            fixed: at.map(|at| match at {
                AtModifier::Start => self.start,
                AtModifier::End => self.end,
                AtModifier::At(time) => match time.duration_since(SystemTime::UNIX_EPOCH) {
                    Ok(after) => millis(after),
                    Err(before) => -millis(before.duration()),
                },
            }),
            offset: match offset {
                None => 0,
                Some(Offset::Pos(by)) => millis(*by),
                Some(Offset::Neg(by)) => -millis(*by),
            },
        }
    }

    fn matchers(selector: &VectorSelector) -> Lowered<Vec<Matcher>> {
        if !selector.matchers.or_matchers.is_empty() {
            return unsupported("`or` between label matchers is not supported".to_owned());
        }
        let mut matchers = selector.matchers.matchers.clone();
        if let Some(name) = &selector.name {
            matchers.push(Matcher::new(MatchOp::Equal, METRIC_NAME, name));
        }
        if matchers.iter().all(|m| m.is_match("")) {
            return Err(PromqlError::Parse(
                "vector selector must contain at least one non-empty matcher".to_owned(),
            ));
        }
        Ok(matchers)
    }

    fn instant(&mut self, selector: &VectorSelector, grid: &Grid) -> Lowered<usize> {
        let shift = self.shift(selector.at.as_ref(), selector.offset.as_ref());
        self.selectors.push(Selector {
            matchers: Self::matchers(selector)?,
            references: shift.grid(grid),
            reach: LOOKBACK_MS,
            latest_only: true,
            closed: self.dialect.closed(),
            fold: None,
            across: None,
        });
        Ok(self.selectors.len() - 1)
    }

    fn windows(&mut self, expr: &Expr, grid: &Grid, fold: Option<OverTime>) -> Lowered<Windows> {
        match bare(expr) {
            Expr::MatrixSelector(matrix) => {
                let shift = self.shift(matrix.vs.at.as_ref(), matrix.vs.offset.as_ref());
                let references = shift.grid(grid);
                let reach = millis(matrix.range);
                let closed = self.dialect.closed();
                // Windows that neither overlap nor leave anything out can be folded where the samples lie.
                let tiles = references.count == 1 || (references.step == reach && !closed);
                self.selectors.push(Selector {
                    matchers: Self::matchers(&matrix.vs)?,
                    references,
                    reach,
                    latest_only: false,
                    closed,
                    fold: fold.filter(|_| tiles),
                    across: None,
                });
                Ok(Windows::Stored(self.selectors.len() - 1))
            }
            Expr::Subquery(subquery) => self.subquery(subquery, grid),
            _ => Err(PromqlError::BadRequest(
                "a range vector such as `metric[5m]` is needed here".to_owned(),
            )),
        }
    }

    fn subquery(&mut self, subquery: &SubqueryExpr, grid: &Grid) -> Lowered<Windows> {
        let shift = self.shift(subquery.at.as_ref(), subquery.offset.as_ref());
        let references = shift.grid(grid);
        let reach = millis(subquery.range);
        let step = subquery.step.map_or(SUBQUERY_STEP_MS, millis).max(1);
        let closed = self.dialect.closed();
        // The instants of a subquery are multiples of its step since 1970.
        let begin = super::plan::window_start(references.start, reach, closed);
        let mut start = begin.div_euclid(step).saturating_mul(step);
        if start < begin {
            start = start.saturating_add(step);
        }
        let last = references.last();
        let count = if last < start {
            0
        } else {
            last.saturating_sub(start) / step + 1
        };
        if count > MAX_SUBQUERY_STEPS {
            return Err(PromqlError::TooMuch {
                what: "steps in one subquery",
                limit: MAX_SUBQUERY_STEPS as usize,
            });
        }
        let inner = Grid {
            start,
            step,
            count: count as usize,
        };
        Ok(Windows::Subquery {
            node: self.boxed(&subquery.expr, &inner)?,
            inner,
            references,
            reach,
            closed,
        })
    }

    fn call(&mut self, call: &Call, grid: &Grid) -> Lowered {
        let name = call.func.name;
        let arguments = &call.args.args;
        let argument = |index: usize| -> Lowered<&Expr> {
            arguments
                .get(index)
                .map(|e| &**e)
                .ok_or_else(|| PromqlError::Parse(format!("too few arguments in call to '{name}'")))
        };
        if let Some((function, fold)) = window_function(name) {
            let quantile = function == WindowFn::Quantile;
            let param = match quantile {
                true => Some(self.boxed(argument(0)?, grid)?),
                false => None,
            };
            let windows = self.windows(argument(usize::from(quantile))?, grid, fold)?;
            return Ok(Node::Window {
                function,
                param,
                windows,
            });
        }
        if let Some(function) = value_function(name) {
            let params = (arguments.iter().skip(1))
                .map(|param| self.node(param, grid))
                .collect::<Result<_, _>>()?;
            return Ok(Node::Value {
                function,
                params,
                argument: self.boxed(argument(0)?, grid)?,
            });
        }
        match name {
            "time" => Ok(Node::Time),
            "timestamp" => match bare(argument(0)?) {
                Expr::VectorSelector(selector) => Ok(Node::Instant {
                    selector: self.instant(selector, grid)?,
                    stamps: true,
                }),
                other => Ok(Node::Timestamp(self.boxed(other, grid)?)),
            },
            "scalar" => Ok(Node::Scalar(self.boxed(argument(0)?, grid)?)),
            "vector" => Ok(Node::Vector(self.boxed(argument(0)?, grid)?)),
            "sort" | "sort_desc" => Ok(Node::Sort {
                argument: self.boxed(argument(0)?, grid)?,
                descending: name == "sort_desc",
            }),
            "absent" => Ok(Node::Absent {
                labels: labels_when_absent(argument(0)?),
                argument: self.boxed(argument(0)?, grid)?,
            }),
            "label_replace" => self.label_replace(call, grid),
            _ => unsupported(format!(
                "function \"{name}\" is not supported; supported are {FUNCTIONS}"
            )),
        }
    }

    fn label_replace(&mut self, call: &Call, grid: &Grid) -> Lowered {
        let [argument, target, replacement, source, pattern] = call.args.args.as_slice() else {
            return Err(PromqlError::Parse(
                "label_replace needs five arguments".to_owned(),
            ));
        };
        let text = |expr: &Expr| match bare(expr) {
            Expr::StringLiteral(text) => Ok(text.val.clone()),
            _ => Err(PromqlError::Parse(
                "label_replace needs four strings".to_owned(),
            )),
        };
        let (target, pattern) = (text(target)?, text(pattern)?);
        if !is_label_name(&target) {
            return Err(PromqlError::Execution(format!(
                "invalid destination label name in label_replace(): {target}"
            )));
        }
        let pattern = Regex::new(&format!("^(?s:{pattern})$")).map_err(|_| {
            PromqlError::Execution(format!(
                "invalid regular expression in label_replace(): {pattern}"
            ))
        })?;
        Ok(Node::LabelReplace {
            argument: self.boxed(argument, grid)?,
            target,
            replacement: text(replacement)?,
            source: text(source)?,
            pattern,
        })
    }

    fn aggregate(&mut self, aggregate: &AggregateExpr, grid: &Grid) -> Lowered {
        let function = match aggregate.op.id() {
            T_SUM => AggregateFn::Sum,
            T_AVG => AggregateFn::Avg,
            T_MIN => AggregateFn::Min,
            T_MAX => AggregateFn::Max,
            T_COUNT => AggregateFn::Count,
            T_GROUP => AggregateFn::Group,
            T_STDDEV => AggregateFn::Stddev,
            T_STDVAR => AggregateFn::Stdvar,
            T_QUANTILE => AggregateFn::Quantile,
            T_TOPK => AggregateFn::TopK,
            T_BOTTOMK => AggregateFn::BottomK,
            _ => {
                return unsupported(format!(
                    "aggregation \"{}\" is not supported; supported are {AGGREGATIONS}",
                    aggregate.op
                ));
            }
        };
        let grouping = match &aggregate.modifier {
            None => Grouping::By(Vec::new()),
            Some(LabelModifier::Include(by)) => Grouping::By(by.labels.clone()),
            Some(LabelModifier::Exclude(without)) => Grouping::Without(without.labels.clone()),
        };
        let param = match &aggregate.param {
            Some(param) => Some(self.boxed(param, grid)?),
            None => None,
        };
        let argument = self.boxed(&aggregate.expr, grid)?;
        if let Node::Window {
            windows: Windows::Stored(which),
            ..
        } = &*argument
            && let Some(selector) = self.selectors.get_mut(*which)
        {
            selector.across = across(function, &grouping, selector);
        }
        Ok(Node::Aggregate {
            function,
            grouping,
            param,
            argument,
        })
    }

    fn binary(&mut self, binary: &BinaryExpr, grid: &Grid) -> Lowered {
        let function = match binary.op.id() {
            T_ADD => BinaryFn::Add,
            T_SUB => BinaryFn::Sub,
            T_MUL => BinaryFn::Mul,
            T_DIV => BinaryFn::Div,
            T_MOD => BinaryFn::Mod,
            T_POW => BinaryFn::Pow,
            T_ATAN2 => BinaryFn::Atan2,
            T_EQLC => BinaryFn::Eq,
            T_NEQ => BinaryFn::Ne,
            T_LSS => BinaryFn::Lt,
            T_LTE => BinaryFn::Le,
            T_GTR => BinaryFn::Gt,
            T_GTE => BinaryFn::Ge,
            T_LAND => BinaryFn::And,
            T_LOR => BinaryFn::Or,
            T_LUNLESS => BinaryFn::Unless,
            _ => return unsupported(format!("operator \"{}\" is not supported", binary.op)),
        };
        let mut matching = Matching {
            on: Grouping::Without(Vec::new()),
            cardinality: Cardinality::OneToOne,
            as_bool: false,
        };
        if let Some(modifier) = &binary.modifier {
            if modifier.fill_values.lhs.is_some() || modifier.fill_values.rhs.is_some() {
                return unsupported("the modifier \"fill\" is not supported".to_owned());
            }
            matching.as_bool = modifier.return_bool;
            match &modifier.matching {
                Some(LabelModifier::Include(on)) => matching.on = Grouping::By(on.labels.clone()),
                Some(LabelModifier::Exclude(ignoring)) => {
                    matching.on = Grouping::Without(ignoring.labels.clone());
                }
                None => {}
            }
            matching.cardinality = match &modifier.card {
                VectorMatchCardinality::ManyToOne(take) => {
                    Cardinality::ManyToOne(take.labels.clone())
                }
                VectorMatchCardinality::OneToMany(take) => {
                    Cardinality::OneToMany(take.labels.clone())
                }
                _ => Cardinality::OneToOne,
            };
        }
        Ok(Node::Binary {
            function,
            matching,
            left: self.boxed(&binary.lhs, grid)?,
            right: self.boxed(&binary.rhs, grid)?,
        })
    }
}

/// How the store can make groups of the windows that it folds: where each device
/// has one series at most, and the labels are the store's own.
fn across(
    function: AggregateFn,
    grouping: &Grouping,
    selector: &Selector,
) -> Option<(AcrossDevices, Vec<Label>)> {
    let across = match function {
        AggregateFn::Sum => AcrossDevices::Sum,
        AggregateFn::Avg => AcrossDevices::Avg,
        AggregateFn::Min => AcrossDevices::Min,
        AggregateFn::Max => AcrossDevices::Max,
        AggregateFn::Count => AcrossDevices::Count,
        _ => return None,
    };
    let one_metric =
        (selector.matchers.iter()).any(|m| m.name == METRIC_NAME && matches!(m.op, MatchOp::Equal));
    let Grouping::By(names) = grouping else {
        return None;
    };
    let mut labels: Vec<Label> = (names.iter())
        .map(|name| fetch::store_label(name))
        .collect::<Option<_>>()?;
    labels.sort_by_key(|label| *label as u8);
    labels.dedup();
    (one_metric && selector.fold.is_some()).then_some((across, labels))
}

fn window_function(name: &str) -> Option<(WindowFn, Option<OverTime>)> {
    Some(match name {
        "rate" => (WindowFn::Rate, None),
        "increase" => (WindowFn::Increase, None),
        "delta" => (WindowFn::Delta, None),
        "irate" => (WindowFn::Irate, None),
        "idelta" => (WindowFn::Idelta, None),
        "avg_over_time" => (WindowFn::Avg, Some(OverTime::Avg)),
        "min_over_time" => (WindowFn::Min, Some(OverTime::Min)),
        "max_over_time" => (WindowFn::Max, Some(OverTime::Max)),
        "sum_over_time" => (WindowFn::Sum, Some(OverTime::Sum)),
        "count_over_time" => (WindowFn::Count, Some(OverTime::Count)),
        "last_over_time" => (WindowFn::Last, Some(OverTime::Last)),
        "present_over_time" => (WindowFn::Present, None),
        "quantile_over_time" => (WindowFn::Quantile, None),
        "stddev_over_time" => (WindowFn::Stddev, None),
        "stdvar_over_time" => (WindowFn::Stdvar, None),
        "changes" => (WindowFn::Changes, None),
        "resets" => (WindowFn::Resets, None),
        "deriv" => (WindowFn::Deriv, None),
        _ => return None,
    })
}

fn value_function(name: &str) -> Option<ValueFn> {
    Some(match name {
        "abs" => ValueFn::Abs,
        "ceil" => ValueFn::Ceil,
        "floor" => ValueFn::Floor,
        "exp" => ValueFn::Exp,
        "ln" => ValueFn::Ln,
        "log2" => ValueFn::Log2,
        "log10" => ValueFn::Log10,
        "sqrt" => ValueFn::Sqrt,
        "sgn" => ValueFn::Sgn,
        "round" => ValueFn::Round,
        "clamp" => ValueFn::Clamp,
        "clamp_min" => ValueFn::ClampMin,
        "clamp_max" => ValueFn::ClampMax,
        _ => return None,
    })
}

/// What `absent` can say of the series that is not there: the labels that were asked to be equal.
fn labels_when_absent(argument: &Expr) -> Labels {
    let mut labels = Labels::default();
    let Expr::VectorSelector(selector) = bare(argument) else {
        return labels;
    };
    let mut seen: Vec<&str> = Vec::new();
    for matcher in &selector.matchers.matchers {
        if matcher.name == METRIC_NAME {
            continue;
        }
        let is_equal = matches!(matcher.op, MatchOp::Equal);
        // Asked for twice, or in another way: nothing can be said.
        let value = if is_equal && !seen.contains(&matcher.name.as_str()) {
            matcher.value.as_str()
        } else {
            ""
        };
        labels.set(&matcher.name, value);
        seen.push(&matcher.name);
    }
    labels
}

/// Letters, digits and `_`, not beginning with a digit.
pub fn is_label_name(name: &str) -> bool {
    !name.is_empty()
        && !name.as_bytes()[0].is_ascii_digit()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
