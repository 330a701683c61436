//! The shapes of answers that are not models' own.

use crate::params::{ApiError, INSTANTS};
use crate::report::{self, ReportError, ReportOptions};
use crate::server::Shared;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use heliostat_models::site::power::PowerNodeKind;
use heliostat_models::site::{Cooling, Hall, Meter, PowerContract, Site};
use heliostat_models::{Decision, JobRecord, JobState, Timestamp, Watts};
use heliostat_optimizer::view::{PlanView, PlannedJob};
use heliostat_store::jobs::JobEntry;
use serde::Serialize;

/// The site, names instead of indices.
#[derive(Serialize)]
pub(super) struct SiteView<'a> {
    id: &'a str,
    name: &'a str,
    country: &'a str,
    zone: &'a str,
    latitude: f64,
    longitude: f64,
    halls: &'a [Hall],
    racks: Vec<RackView<'a>>,
    power: Vec<PowerView<'a>>,
    power_contracts: &'a [PowerContract],
    meters: &'a [Meter],
    cooling: &'a Cooling,
}

#[derive(Serialize)]
struct RackView<'a> {
    id: &'a str,
    row: &'a str,
    hall: &'a str,
    power_node: &'a str,
    nodes: Vec<NodeView<'a>>,
}

#[derive(Serialize)]
struct NodeView<'a> {
    id: &'a str,
    power_node: &'a str,
    overhead: Watts,
    devices: Vec<DeviceView<'a>>,
}

#[derive(Serialize)]
struct DeviceView<'a> {
    id: &'a str,
    index: u32,
    accelerator: &'a str,
    min_cap: Watts,
    max_cap: Watts,
    safe_cap: Watts,
}

#[derive(Serialize)]
struct PowerView<'a> {
    id: &'a str,
    kind: PowerNodeKind,
    parents: Vec<&'a str>,
    rating: Watts,
    limit: Watts,
}

impl<'a> SiteView<'a> {
    pub(super) fn of(site: &'a Site) -> Self {
        let power = site.power.nodes();
        let mut racks: Vec<RackView<'a>> = site
            .racks
            .iter()
            .map(|r| RackView {
                id: &r.id,
                row: &r.row,
                hall: &site.halls[r.hall].id,
                power_node: &power[r.power_node].id,
                nodes: Vec::new(),
            })
            .collect();
        for node in &site.nodes {
            racks[node.rack].nodes.push(NodeView {
                id: node.id.as_str(),
                power_node: &power[node.power_node].id,
                overhead: node.overhead,
                devices: site.devices[node.devices.clone()]
                    .iter()
                    .map(|d| DeviceView {
                        id: d.id.as_str(),
                        index: d.index,
                        accelerator: &d.accelerator,
                        min_cap: d.min_cap,
                        max_cap: d.max_cap,
                        safe_cap: d.safe_cap,
                    })
                    .collect(),
            });
        }
        Self {
            id: site.id.as_str(),
            name: &site.name,
            country: &site.country,
            zone: &site.zone,
            latitude: site.latitude,
            longitude: site.longitude,
            halls: &site.halls,
            racks,
            power: power
                .iter()
                .map(|n| PowerView {
                    id: &n.id,
                    kind: n.kind,
                    parents: n.parents.iter().map(|p| power[*p].id.as_str()).collect(),
                    rating: n.rating,
                    limit: n.limit,
                })
                .collect(),
            power_contracts: &site.power_contracts,
            meters: &site.meters,
            cooling: &site.cooling,
        }
    }
}

/// A job with its history and its place in the plan.
#[derive(Serialize)]
pub(super) struct JobView<'a> {
    #[serde(flatten)]
    record: &'a JobRecord,
    history: Vec<StateChange>,
    planned: Option<&'a PlannedJob>,
}

#[derive(Serialize)]
struct StateChange {
    at: Timestamp,
    state: JobState,
}

impl<'a> JobView<'a> {
    pub(super) fn of(entry: &'a JobEntry, plan: Option<&'a PlanView>) -> Self {
        Self {
            record: &entry.record,
            history: entry
                .history
                .iter()
                .map(|(at, state)| StateChange {
                    at: *at,
                    state: *state,
                })
                .collect(),
            planned: plan.and_then(|p| p.jobs.iter().find(|j| j.job == entry.record.id)),
        }
    }
}

/// A decision with the address of its page.
#[derive(Serialize)]
pub(super) struct DecisionView<'a> {
    #[serde(flatten)]
    decision: &'a Decision,
    page: String,
}

impl<'a> DecisionView<'a> {
    pub(super) fn of(decision: &'a Decision) -> Self {
        Self {
            decision,
            page: format!("/decisions/{}", decision.sequence),
        }
    }
}

/// The report of a stretch of time.
pub(super) async fn report(
    shared: &Shared,
    from: Timestamp,
    to: Timestamp,
    is_csv: bool,
) -> Result<Response, ApiError> {
    let options = ReportOptions::default();
    let app = &shared.app;
    let report = match report::report(&app.site, &*app.store, from, to, options).await {
        Ok(report) => report,
        Err(ReportError::Store(error)) => return Err(ApiError::store(&error)),
        Err(error) => return Err(ApiError::bad("from", error.to_string(), INSTANTS)),
    };
    if is_csv {
        let kind = [(header::CONTENT_TYPE, "text/csv; charset=utf-8")];
        Ok((kind, report.to_csv()).into_response())
    } else {
        super::json(&report.to_json())
    }
}
