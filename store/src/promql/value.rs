//! Functions of single values.

use super::data::{ABSENT, Row};
use super::plan::ValueFn;

/// Applies a function to each value; `params` have a value per instant each.
pub(super) fn apply(function: ValueFn, params: &[Vec<f64>], rows: Vec<Row>) -> Vec<Row> {
    let param = |which: usize, index: usize, default: f64| {
        (params.get(which))
            .and_then(|p| p.get(index))
            .copied()
            .unwrap_or(default)
    };
    let of = |index: usize, v: f64| match function {
        ValueFn::Abs => v.abs(),
        ValueFn::Ceil => v.ceil(),
        ValueFn::Floor => v.floor(),
        ValueFn::Exp => v.exp(),
        ValueFn::Ln => v.ln(),
        ValueFn::Log2 => v.log2(),
        ValueFn::Log10 => v.log10(),
        ValueFn::Sqrt => v.sqrt(),
        ValueFn::Sgn if v > 0.0 => 1.0,
        ValueFn::Sgn if v < 0.0 => -1.0,
        ValueFn::Sgn => v,
        ValueFn::Round => {
            // Half rounds up, and multiples are taken by the inverse, as Prometheus does.
            let inverse = 1.0 / param(0, index, 1.0);
            (v * inverse + 0.5).floor() / inverse
        }
        ValueFn::Clamp => {
            let (low, high) = (param(0, index, f64::NAN), param(1, index, f64::NAN));
            if high < low {
                ABSENT
            } else {
                larger(low, smaller(high, v))
            }
        }
        ValueFn::ClampMin => larger(param(0, index, f64::NAN), v),
        ValueFn::ClampMax => smaller(param(0, index, f64::NAN), v),
    };
    (rows.into_iter())
        .map(|row| row.map(of))
        .filter(|row| !row.is_empty())
        .collect()
}

/// The larger; not a number where either is not.
fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.max(b)
    }
}

fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.min(b)
    }
}
