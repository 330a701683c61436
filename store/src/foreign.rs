//! Series of unknown metrics, asked for by the name they came under, whichever
//! the engine. What they are: [`heliostat_models::foreign`].

use crate::query::{Query, Selector, StoreError, TimeSeriesStore};
use heliostat_models::foreign::{self, ForeignSeries};
use heliostat_models::{Catalogue, DeviceId, Timestamp};
use std::collections::BTreeSet;

/// The metric under which the store has them.
pub fn metric() -> &'static str {
    &Catalogue::builtin().metric(Catalogue::unknown_value()).name
}

/// The devices that stand for the series of an unknown metric with a sample at
/// or after `since`.
pub async fn series_of(
    store: &dyn TimeSeriesStore,
    name: &str,
    since: Timestamp,
) -> Result<Vec<DeviceId>, StoreError> {
    let all = devices(store, since).await?;
    Ok((all.into_iter())
        .filter(|device| foreign::is_of(device, name))
        .collect())
}

/// The names of unknown metrics with a sample at or after `since`.
pub async fn names(
    store: &dyn TimeSeriesStore,
    since: Timestamp,
) -> Result<BTreeSet<String>, StoreError> {
    let all = devices(store, since).await?;
    Ok((all.iter())
        .filter_map(|device| Some(ForeignSeries::parse(device.as_str())?.name().to_owned()))
        .collect())
}

async fn devices(
    store: &dyn TimeSeriesStore,
    since: Timestamp,
) -> Result<Vec<DeviceId>, StoreError> {
    let query = Query::Latest {
        select: Selector::unknown(),
        since,
    };
    let frames = store.query(&query).await?.frames();
    Ok(frames.into_iter().map(|frame| frame.device).collect())
}
