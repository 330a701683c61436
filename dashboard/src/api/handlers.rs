//! Reading routes: site, jobs, plan, decisions, budgets, reports.

use super::views::{DecisionView, JobView, SiteView};
use super::{Call, json};
use crate::params::ApiError;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use heliostat_models::{Catalogue, DecisionKind, JobId, JobRecord, JobState};
use heliostat_optimizer::budget::{BudgetError, Scope, budget_for};
use serde_json::json as object;

pub(super) async fn site(call: Call) -> Result<Response, ApiError> {
    json(&SiteView::of(&call.shared.app.site))
}

pub(super) async fn power_budget(call: Call) -> Result<Response, ApiError> {
    const SCOPES: &str = "site, hall:NAME, rack:NAME or job:ID";
    let text = call.params.required("scope", SCOPES)?;
    let fault = |error: BudgetError| match error {
        BudgetError::NotAScope(_) => ApiError::bad("scope", error.to_string(), SCOPES),
        BudgetError::UnknownName { ref known, .. } => {
            let allowed = known.clone();
            ApiError {
                status: 404,
                ..ApiError::bad("scope", error.to_string(), allowed)
            }
        }
    };
    let scope: Scope = text.parse().map_err(fault)?;
    let snapshot = call.shared.now();
    let jobs: Vec<JobRecord> = snapshot.jobs.iter().map(|j| j.record.clone()).collect();
    let site = &call.shared.app.site;
    let view = call.shared.app.view.borrow().clone();
    let budget = budget_for(&scope, site, &view, &jobs, call.shared.app.clock.now());
    json(&budget.map_err(fault)?)
}

pub(super) async fn jobs(call: Call) -> Result<Response, ApiError> {
    let state = call.params.choice(
        "state",
        &[
            ("queued", JobState::Queued),
            ("running", JobState::Running),
            ("paused", JobState::Paused),
            ("completed", JobState::Completed),
            ("cancelled", JobState::Cancelled),
        ],
    )?;
    let limit = call.params.count("limit", 1_000, 1..=10_000)?;
    let all = call.shared.app.jobs.all();
    let view = call.shared.app.view.borrow().clone();
    let jobs: Vec<JobView<'_>> = all
        .iter()
        .filter(|j| state.is_none_or(|s| j.record.state == s))
        .take(limit)
        .map(|j| JobView::of(j, view.plan.as_ref()))
        .collect();
    json(&object!({ "jobs": jobs, "total": all.len() }))
}

pub(super) async fn job(call: Call) -> Result<Response, ApiError> {
    let id = JobId::from(call.name.as_str());
    let Some(entry) = call.shared.app.jobs.get(&id) else {
        return Err(ApiError::unknown(
            "job",
            &call.name,
            "see /api/v1/jobs for those that are known",
        ));
    };
    let view = call.shared.app.view.borrow().clone();
    json(&JobView::of(&entry, view.plan.as_ref()))
}

pub(super) async fn plan(call: Call) -> Result<Response, ApiError> {
    let view = call.shared.app.view.borrow().clone();
    json(&object!({ "at": view.at, "plan": view.plan }))
}

pub(super) async fn decisions(call: Call) -> Result<Response, ApiError> {
    let kind = call.params.choice(
        "kind",
        &[
            ("allocation", DecisionKind::Allocation),
            ("plan", DecisionKind::Plan),
            ("grid_event", DecisionKind::GridEvent),
            ("arming", DecisionKind::Arming),
            ("refusal", DecisionKind::Refusal),
            ("incident", DecisionKind::Incident),
            ("relief", DecisionKind::Relief),
            ("retention", DecisionKind::Retention),
        ],
    )?;
    let limit = call.params.count("limit", 50, 1..=2_000)?;
    let found = call
        .shared
        .app
        .decisions
        .latest(limit, |d| kind.is_none_or(|k| d.kind == k));
    let decisions: Vec<DecisionView<'_>> = found.iter().map(DecisionView::of).collect();
    json(&object!({ "decisions": decisions }))
}

pub(super) async fn report(call: Call) -> Result<Response, ApiError> {
    let (from, to) = call
        .params
        .span(call.shared.app.clock.now(), "now-24h", "now")?;
    let is_csv = call
        .params
        .choice("format", &[("json", false), ("csv", true)])?
        .unwrap_or(false);
    super::views::report(&call.shared, from, to, is_csv).await
}

pub(super) async fn catalogue(_: Call) -> Result<Response, ApiError> {
    let metrics: Vec<_> = Catalogue::builtin().iter().map(|(_, m)| m).collect();
    json(&object!({ "metrics": metrics }))
}

pub(super) async fn openapi(_: Call) -> Result<Response, ApiError> {
    let text = super::document().to_json().map_err(|e| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the document could not be written: {e}"),
            "tell the maintainers",
        )
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

pub(super) async fn unknown_metrics(call: Call) -> Result<Response, ApiError> {
    let open = &call.shared.open;
    let totals = open.totals();
    json(&object!({
        "stored": true,
        "series_kept": heliostat_collector::open::MOST_UNKNOWN,
        "metrics": open.unknown_metrics(),
        "unplaced": totals.unplaced,
        "refused": totals.refused,
        "samples": {
            "stored": totals.stored,
            "duplicates": totals.duplicates,
            "unknown": totals.unknown,
            "texts": totals.texts,
        },
    }))
}
