//! What a job says of its own progress: work per second in a unit of its own.
//! The speed curves of control are learned from it.

use super::control::{body, may_write};
use super::{Call, json};
use crate::params::ApiError;
use axum::response::Response;
use heliostat_models::{Catalogue, Frame, JobId, Reading, Timestamp};
use heliostat_store::instants::Instants;
use serde::Deserialize;
use serde_json::json as object;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Throughput {
    per_second: f64,
    #[serde(default)]
    at: Option<Timestamp>,
}

/// Stores it; the answer comes when it is on disk.
pub(super) async fn submit(call: Call) -> Result<Response, ApiError> {
    may_write(&call)?;
    let given: Throughput = body(&call)?;
    let app = &call.shared.app;
    let id = JobId::from(call.name.as_str());
    if app.jobs.get(&id).is_none() {
        let remedy = "see /api/v1/jobs for those that are known";
        return Err(ApiError::unknown("job", &call.name, remedy));
    }
    let metric = Catalogue::job_throughput();
    let (least, most) = Catalogue::builtin().metric(metric).range;
    if !(least..=most).contains(&given.per_second) {
        return Err(ApiError::bad(
            "per_second",
            format!("{} cannot be work per second", given.per_second),
            format!("{least} to {most}"),
        ));
    }
    let now = app.clock.now();
    let at = given.at.unwrap_or(now);
    let (first, last) = Instants::default().allowed(now);
    if !(first..=last).contains(&at) {
        let error = format!("{at} is no instant of a sample; it is {now}");
        return Err(ApiError::bad("at", error, format!("{first} to {last}")));
    }
    let device = id.source();
    let frame = Frame {
        device: device.clone(),
        at,
        readings: vec![(metric, Reading::Measured(given.per_second))],
    };
    let receipt = (app.store.append(vec![frame]).await).map_err(|e| ApiError::store(&e))?;
    json(&object!({ "device": device, "at": at, "stored": receipt.frames }))
}
