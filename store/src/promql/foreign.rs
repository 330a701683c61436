//! Series of unknown metrics in PromQL: under their own names and labels.
//!
//! In the store each is a device whose name is the series' text
//! ([`heliostat_models::foreign`]) and whose only metric is `unknown_value`.
//! Under that name they are not to be had here.

use super::error::PromqlError;
use super::labels::{Labels, METRIC_NAME};
use crate::query::{Query, Selector, TimeSeriesStore};
use heliostat_models::foreign::{self, ForeignSeries};
use heliostat_models::{Catalogue, DeviceId, Timestamp};
use promql_parser::label::{MatchOp, Matcher};

/// Whether matchers leave room for a metric that is not in the catalogue.
fn may_match(matchers: &[Matcher]) -> bool {
    !(matchers.iter()).any(|m| {
        let is_name = m.name == METRIC_NAME && matches!(m.op, MatchOp::Equal);
        is_name && Catalogue::builtin().id(&m.value).is_some()
    })
}

/// The labels of a series, its name included, if all matchers accept them.
fn accepted(device: &DeviceId, matchers: &[Matcher]) -> Option<Labels> {
    // Most are told by the name alone, unread.
    let is_other = |m: &Matcher| {
        let is_name = m.name == METRIC_NAME && matches!(m.op, MatchOp::Equal);
        is_name && !foreign::is_of(device, &m.value)
    };
    if matchers.iter().any(is_other) {
        return None;
    }
    let labels = labels(device)?;
    (matchers.iter())
        .all(|m| m.is_match(labels.get(&m.name)))
        .then_some(labels)
}

/// The labels of the series that a device stands for; none where it stands for itself.
pub(super) fn labels(device: &DeviceId) -> Option<Labels> {
    if !foreign::is_foreign(device) {
        return None;
    }
    let series = ForeignSeries::parse(device.as_str())?;
    let name = std::iter::once((METRIC_NAME, series.name()));
    Some(Labels::of(name.chain(series.labels())))
}

/// The series of unknown metrics that matchers accept and that have a sample at
/// or after `since`, each with its labels.
pub(super) async fn candidates(
    store: &dyn TimeSeriesStore,
    matchers: &[Matcher],
    since: Timestamp,
) -> Result<Vec<(DeviceId, Labels)>, PromqlError> {
    if !may_match(matchers) {
        return Ok(Vec::new());
    }
    let query = Query::Latest {
        select: Selector::unknown(),
        since,
    };
    let frames = store.query(&query).await?.frames();
    Ok((frames.into_iter())
        .filter_map(|frame| Some((accepted(&frame.device, matchers)?, frame.device)))
        .map(|(labels, device)| (device, labels))
        .collect())
}
