//! What every engine refuses in a question, in the same words.

use crate::query::{AcrossDevices, OverTime, Query, StoreError};
use heliostat_models::{Catalogue, MetricId};

/// Points that one query may return; more is refused.
pub const MAX_POINTS: usize = 5_000_000;

/// The metric of this name.
pub fn known(metric: &str) -> Result<MetricId, StoreError> {
    (Catalogue::builtin().id(metric)).ok_or_else(|| StoreError::UnknownMetric(metric.to_owned()))
}

/// Whether a question makes sense, whatever is stored.
pub fn check(query: &Query) -> Result<(), StoreError> {
    let bad = |text: String| Err(StoreError::BadQuery(text));
    if let Query::Range { from, to, .. } | Query::Aggregate { from, to, .. } = query
        && from >= to
    {
        return bad(format!(
            "the interval from {from} to {to} is empty; `from` must be before `to`"
        ));
    }
    let Query::Aggregate {
        step_ms,
        over_time,
        across,
        ..
    } = query
    else {
        return Ok(());
    };
    if *step_ms == 0 {
        return bad("the step must be at least 1 ms".to_owned());
    }
    if let OverTime::Quantile(q) = over_time
        && !(0.0..=1.0).contains(q)
    {
        return bad(format!("the quantile {q} is not between 0 and 1"));
    }
    if let Some(AcrossDevices::TopK(0) | AcrossDevices::BottomK(0)) = across {
        return bad("the best 0 devices are none; ask for at least 1".to_owned());
    }
    Ok(())
}

/// Whether an answer of so many points may be given.
pub fn check_points(count: usize) -> Result<(), StoreError> {
    if count <= MAX_POINTS {
        return Ok(());
    }
    Err(StoreError::BadQuery(format!(
        "the answer would have more than {MAX_POINTS} points; ask for a shorter time, a longer step or fewer devices"
    )))
}
