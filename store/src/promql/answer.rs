//! What was evaluated as an answer in the types of PromQL.

use super::data::{self, Row, Samples, is_there};
use super::error::PromqlError;
use super::eval::{self, Output};
use super::labels::Labels;
use super::plan::{self, Node};
use super::{Instants, Plan, ResultSeries, Value};
use heliostat_models::Timestamp;

/// The answer of a plan.
pub(super) fn answer(
    plan: &Plan,
    output: Output,
    instants: Instants,
) -> Result<Value, PromqlError> {
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
