//! Groups of series become one each, or give their largest or smallest.

use super::data::{ABSENT, Row, is_there};
use super::error::PromqlError;
use super::labels::Labels;
use super::plan::{AggregateFn, Grouping};
use super::stats::{quantile, sum, variance};
use super::window::extreme;
use std::cmp::Ordering;
use std::collections::HashMap;

/// Aggregates rows of `count` instants; `param` has a value per instant.
pub(super) fn aggregate(
    function: AggregateFn,
    grouping: &Grouping,
    param: &[f64],
    rows: Vec<Row>,
    count: usize,
) -> Result<Vec<Row>, PromqlError> {
    let mut groups: Vec<(Labels, Vec<Row>)> = Vec::new();
    let mut places: HashMap<Labels, usize> = HashMap::new();
    for row in rows {
        let key = grouping.key(&row.labels);
        let place = *places.entry(key).or_insert_with_key(|key| {
            groups.push((key.clone(), Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(row);
    }
    let mut out = Vec::new();
    for (labels, members) in groups {
        match function {
            AggregateFn::TopK | AggregateFn::BottomK => {
                let largest = function == AggregateFn::TopK;
                out.extend(choose(members, param, count, largest)?);
            }
            _ => out.push(Row {
                labels,
                values: fold(function, &members, param, count),
            }),
        }
    }
    out.retain(|row| !row.is_empty());
    Ok(out)
}

fn fold(function: AggregateFn, members: &[Row], param: &[f64], count: usize) -> Vec<f64> {
    let mut values = Vec::with_capacity(members.len());
    (0..count)
        .map(|index| {
            values.clear();
            values.extend(
                members
                    .iter()
                    .map(|r| r.values[index])
                    .filter(|v| is_there(*v)),
            );
            if values.is_empty() {
                return ABSENT;
            }
            let n = values.len() as f64;
            match function {
                AggregateFn::Sum => sum(&values),
                AggregateFn::Avg => sum(&values) / n,
                AggregateFn::Min => extreme(&values, |a, b| a < b).unwrap_or(ABSENT),
                AggregateFn::Max => extreme(&values, |a, b| a > b).unwrap_or(ABSENT),
                AggregateFn::Count => n,
                AggregateFn::Stdvar => variance(&values),
                AggregateFn::Stddev => variance(&values).sqrt(),
                AggregateFn::Quantile => {
                    quantile(param.get(index).copied().unwrap_or(f64::NAN), &mut values)
                }
                AggregateFn::Group | AggregateFn::TopK | AggregateFn::BottomK => 1.0,
            }
        })
        .collect()
}

/// At each instant the `k` largest or smallest keep their values.
fn choose(
    mut members: Vec<Row>,
    param: &[f64],
    count: usize,
    largest: bool,
) -> Result<Vec<Row>, PromqlError> {
    let mut order: Vec<(usize, f64)> = Vec::with_capacity(members.len());
    for index in 0..count {
        let k = param.get(index).copied().unwrap_or(f64::NAN);
        if k.is_nan() || k.abs() > i64::MAX as f64 {
            return Err(PromqlError::Execution(format!(
                "Scalar value {k} overflows int64"
            )));
        }
        let k = if k < 1.0 { 0 } else { k as usize };
        order.clear();
        let present = members.iter().enumerate();
        order.extend(
            present
                .map(|(place, row)| (place, row.values[index]))
                .filter(|(_, v)| is_there(*v)),
        );
        if order.len() <= k {
            continue;
        }
        order.sort_by(|a, b| best_first(a.1, b.1, largest));
        for (place, _) in order.iter().skip(k) {
            members[*place].values[index] = ABSENT;
        }
    }
    Ok(members)
}

/// Best first; what is not a number is last either way.
pub(crate) fn best_first(a: f64, b: f64, largest: bool) -> Ordering {
    a.is_nan().cmp(&b.is_nan()).then_with(|| {
        let rising = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
        if largest { rising.reverse() } else { rising }
    })
}
