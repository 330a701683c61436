//! The recorded grid of the demo's period as a function of time, for the
//! tallies of the halls: what was true, not what anybody forecast.

use anyhow::Context;
use heliostat_collector::Source;
use heliostat_collector::source::grid::GridReplay;
use heliostat_models::quantity::GramsPerKilowattHour;
use heliostat_models::{Catalogue, DeviceId, Timestamp};
use heliostat_twin::GridPoint;
use heliostat_twin::hall::GridFunction;
use std::sync::Arc;
use std::time::Duration;

/// A record holds until the next one, but no longer than this: real gaps stay gaps.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Reads the recording of a zone from `start` on.
pub fn recorded(zone: &str, start: Timestamp, span: Duration) -> anyhow::Result<GridFunction> {
    let mut replay = GridReplay::new(zone, DeviceId::from("truth"), start, LONGEST)?;
    let frames = replay
        .sample(start + span)
        .context("the recording cannot be read")?;
    let table: Vec<(Timestamp, GridPoint)> = frames
        .iter()
        .filter(|f| f.get(Catalogue::grid_carbon()).is_some())
        .map(|frame| {
            let value = |metric| frame.get(metric).and_then(|r| r.value());
            let point = GridPoint {
                intensity: value(Catalogue::grid_carbon()).map(GramsPerKilowattHour),
                renewable_share: value(Catalogue::grid_renewable()),
            };
            (frame.at, point)
        })
        .collect();
    Ok(Arc::new(move |at| {
        let next = table.partition_point(|(begin, _)| *begin <= at);
        match next.checked_sub(1).map(|i| &table[i]) {
            Some((begin, point)) if at <= *begin + LONGEST => *point,
            _ => GridPoint::default(),
        }
    }))
}
