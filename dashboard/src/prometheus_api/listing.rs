//! Which series there are, and what their labels are.

use super::Refusal;
use super::form::Form;
use heliostat_models::Timestamp;
use heliostat_store::promql::{Engine, Labels};
use std::collections::BTreeSet;

/// The series that `match[]` accepts (all, without it) and whose devices have
/// sent anything since `start`.
pub(super) async fn series(engine: &Engine, form: &Form) -> Result<Vec<Labels>, Refusal> {
    let since = form.instant("start")?.unwrap_or(Timestamp(i64::MIN));
    if form.instant("end")?.is_some_and(|end| end < since) {
        return Err(Refusal::parameter(
            "end",
            "end timestamp must not be before start time",
        ));
    }
    engine
        .series(&form.all("match[]"), since)
        .await
        .map_err(|error| Refusal::of("match[]", &error))
}

/// Names of labels, sorted.
pub(super) fn names(series: &[Labels]) -> BTreeSet<&str> {
    (series.iter())
        .flat_map(|labels| labels.iter().map(|(name, _)| name))
        .collect()
}

/// Values of a label, sorted.
pub(super) fn values<'a>(series: &'a [Labels], name: &str) -> BTreeSet<&'a str> {
    (series.iter().map(|labels| labels.get(name)))
        .filter(|value| !value.is_empty())
        .collect()
}
