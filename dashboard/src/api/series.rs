//! Latest values and ranges.

use super::{Call, json};
use crate::params::{ApiError, Params, duration};
use crate::units::unit_of;
use axum::http::StatusCode;
use axum::response::Response;
use heliostat_models::foreign::is_foreign;
use heliostat_models::{Catalogue, DeviceId, Quality, Timestamp};
use heliostat_store::query::{AcrossDevices, Label, OverTime, Selector, Series, Source, Told};
use heliostat_store::{Query, foreign};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// How far back `latest` looks.
const LATEST_SINCE: Duration = Duration::from_secs(86_400);
/// Longest that the store may take.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// Values that one answer may carry.
const MAX_VALUES: usize = 200_000;
/// Steps of an aggregate.
const MAX_STEPS: i64 = 20_000;

#[derive(Serialize)]
struct LatestView {
    at: Timestamp,
    devices: Vec<DeviceLatest>,
    /// Why this is not all, while an external store is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<String>,
}

#[derive(Serialize)]
struct DeviceLatest {
    device: DeviceId,
    kind: &'static str,
    hall: String,
    rack: String,
    node: String,
    at: Timestamp,
    /// Too old to speak of now.
    stale: bool,
    readings: BTreeMap<String, ReadingView>,
}

#[derive(Serialize)]
struct ReadingView {
    value: Option<f64>,
    unit: String,
    quality: Quality,
}

#[derive(Serialize)]
struct RangeView {
    metric: String,
    unit: String,
    from: Timestamp,
    to: Timestamp,
    step_seconds: Option<f64>,
    /// How the devices of a group became one, also where the request left it to us.
    #[serde(skip_serializing_if = "Option::is_none")]
    across: Option<AcrossDevices>,
    series: Vec<SeriesView>,
    /// What it was made of: the width of a rollup's steps, readings as they came.
    source: Source,
    /// Why this is not all, while an external store is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    partial: Option<String>,
}

#[derive(Serialize)]
struct SeriesView {
    labels: BTreeMap<&'static str, String>,
    points: Vec<heliostat_store::query::Point>,
}

const KINDS: [&str; 6] = ["gpu", "node", "meter", "cooling", "grid", "unknown"];

fn word(label: Label) -> &'static str {
    match label {
        Label::Kind => "kind",
        Label::Hall => "hall",
        Label::Row => "row",
        Label::Rack => "rack",
        Label::Node => "node",
        Label::Device => "device",
    }
}

/// The devices that the parameters name.
fn selector(call: &Call) -> Result<Selector, ApiError> {
    let params = &call.params;
    let site = &call.shared.app.site;
    let mut select = Selector::default();
    for name in params.list("device") {
        let id = DeviceId::from(name);
        if site.entity(&id).is_none() && !is_foreign(&id) {
            return Err(ApiError::bad(
                "device",
                format!("the site has no device `{name}`"),
                "names from /api/v1/site and /api/v1/latest",
            ));
        }
        select.devices.push(id);
    }
    if let Some(kind) = params.get("kind") {
        if !KINDS.contains(&kind) {
            return Err(ApiError::bad(
                "kind",
                format!("`{kind}` is no kind"),
                KINDS.join(", "),
            ));
        }
        select.labels.push((Label::Kind, kind.to_owned()));
    }
    for (name, label) in [
        ("hall", Label::Hall),
        ("rack", Label::Rack),
        ("node", Label::Node),
    ] {
        if let Some(value) = params.get(name) {
            let is_known = match label {
                Label::Hall => site.halls.iter().any(|h| h.id == value),
                Label::Rack => site.racks.iter().any(|r| r.id == value),
                _ => site.node(value).is_some(),
            };
            if !is_known {
                return Err(ApiError::bad(
                    name,
                    format!("the site has no {name} `{value}`"),
                    "names from /api/v1/site",
                ));
            }
            select.labels.push((label, value.to_owned()));
        }
    }
    Ok(select)
}

pub(super) async fn latest(call: Call) -> Result<Response, ApiError> {
    let select = selector(&call)?;
    let shared = &call.shared;
    let now = shared.app.clock.now();
    let query = Query::Latest {
        select,
        since: now - LATEST_SINCE,
    };
    let told = ask(&call, &query).await?;
    let (mut frames, partial) = (told.answer.frames(), told.partial);
    frames.sort_by(|a, b| a.device.cmp(&b.device));
    let stale_after = shared.now().stale_after;
    let catalogue = Catalogue::builtin();
    let devices = frames
        .into_iter()
        .map(|frame| {
            let labels = shared.app.site.labels(&frame.device).unwrap_or_default();
            DeviceLatest {
                kind: labels.kind,
                hall: labels.hall,
                rack: labels.rack,
                node: labels.node,
                at: frame.at,
                stale: labels.kind != "grid" && frame.at + stale_after < now,
                readings: frame
                    .readings
                    .iter()
                    .map(|(metric, reading)| {
                        let about = catalogue.metric(*metric);
                        let view = ReadingView {
                            value: reading.value(),
                            unit: about.unit.clone(),
                            quality: reading.quality(),
                        };
                        (about.name.clone(), view)
                    })
                    .collect(),
                device: frame.device,
            }
        })
        .collect();
    json(&LatestView {
        partial,
        at: now,
        devices,
    })
}

/// The series of a metric that is not in the catalogue.
async fn of_unknown(
    call: &Call,
    name: &str,
    since: Timestamp,
    mut select: Selector,
) -> Result<Selector, ApiError> {
    let found = foreign::series_of(&*call.shared.app.store, name, since).await;
    let mut found = found.map_err(|e| ApiError::store(&e))?;
    if !select.devices.is_empty() {
        found.retain(|device| select.devices.contains(device));
    }
    if found.is_empty() {
        return Err(ApiError::bad(
            "metric",
            format!("there is no metric `{name}`"),
            "a name from /api/v1/metrics-catalogue, or from /api/v1/unknown-metrics with samples in this time",
        ));
    }
    select.devices = found;
    Ok(select)
}

pub(super) async fn range(call: Call) -> Result<Response, ApiError> {
    let params = &call.params;
    let metric = params.required("metric", "a name from /api/v1/metrics-catalogue")?;
    let (from, to) = params.span(call.shared.app.clock.now(), "now-6h", "now")?;
    let mut select = selector(&call)?;
    let (id, stored_name) = match Catalogue::builtin().id(metric) {
        Some(id) => (id, metric),
        None => {
            select = of_unknown(&call, metric, from, select).await?;
            (Catalogue::unknown_value(), foreign::metric())
        }
    };
    let step = step(params, from, to)?;
    let over_time =
        by_word(params, "agg", OverTime::parse, OverTime::WORDS)?.unwrap_or(OverTime::Avg);
    let group_by = group_by(params)?;
    // A group without a way to make it one: summed, and the answer says so.
    let across = by_word(params, "across", AcrossDevices::parse, AcrossDevices::WORDS)?
        .or_else(|| (!group_by.is_empty()).then_some(AcrossDevices::Sum));
    let stored_unit = &Catalogue::builtin().metric(id).unit;
    let (query, unit) = match step {
        None => {
            let query = Query::Range {
                metric: stored_name.to_owned(),
                select,
                from,
                to,
            };
            (query, stored_unit.clone())
        }
        Some(step) => {
            let query = Query::Aggregate {
                metric: stored_name.to_owned(),
                select,
                from,
                to,
                step_ms: step.as_millis() as u64,
                over_time,
                across,
                group_by,
            };
            (query, unit_of(stored_unit, over_time, across))
        }
    };
    let told = ask(&call, &query).await?;
    let (series, partial, source) = (told.answer.series(), told.partial, told.source);
    bounded(&series)?;
    json(&RangeView {
        metric: metric.to_owned(),
        unit,
        from,
        to,
        step_seconds: step.map(|s| s.as_secs_f64()),
        partial,
        source,
        across,
        series: series
            .into_iter()
            .map(|s| SeriesView {
                labels: s.labels.into_iter().map(|(l, v)| (word(l), v)).collect(),
                points: s.points,
            })
            .collect(),
    })
}

/// A parameter by its word.
fn by_word<T>(
    params: &Params,
    name: &str,
    parse: fn(&str) -> Option<T>,
    words: &str,
) -> Result<Option<T>, ApiError> {
    let parsed = |text: &str| {
        parse(text)
            .ok_or_else(|| ApiError::bad(name, format!("`{text}` is none of the words"), words))
    };
    params.get(name).map(parsed).transpose()
}

/// Asks the store, for no longer than a query may take.
async fn ask(call: &Call, query: &Query) -> Result<Told, ApiError> {
    let asked = call.shared.app.store.ask(query);
    match tokio::time::timeout(TIME_LIMIT, asked).await {
        Ok(told) => told.map_err(|e| ApiError::store(&e)),
        Err(_) => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the query took longer than {} s", TIME_LIMIT.as_secs()),
            "ask for a shorter time, fewer devices, or steps that a rollup has (1m, 15m, 1h)",
        )),
    }
}

fn step(params: &Params, from: Timestamp, to: Timestamp) -> Result<Option<Duration>, ApiError> {
    let Some(text) = params.get("step") else {
        for name in ["agg", "across", "by"] {
            if params.get(name).is_some() {
                return Err(ApiError::bad(
                    "step",
                    format!("`{name}` needs a `step`"),
                    "30s, 15m, 1h, 1d",
                ));
            }
        }
        return Ok(None);
    };
    let step = duration(text).filter(|s| !s.is_zero()).ok_or_else(|| {
        ApiError::bad("step", format!("`{text}` is no width"), "30s, 15m, 1h, 1d")
    })?;
    if (to.0 - from.0) / step.as_millis().max(1) as i64 > MAX_STEPS {
        return Err(ApiError::bad(
            "step",
            "the stretch has more than 20,000 steps",
            "a longer step or a shorter stretch",
        ));
    }
    Ok(Some(step))
}

fn group_by(params: &Params) -> Result<Vec<Label>, ApiError> {
    params
        .list("by")
        .into_iter()
        .map(|text| {
            Label::ALL
                .into_iter()
                .find(|l| word(*l) == text)
                .ok_or_else(|| {
                    ApiError::bad(
                        "by",
                        format!("`{text}` is no label"),
                        Label::ALL.map(word).join(", "),
                    )
                })
        })
        .collect()
}

fn bounded(series: &[Series]) -> Result<(), ApiError> {
    let values: usize = series.iter().map(|s| s.points.len()).sum();
    if values > MAX_VALUES {
        return Err(ApiError::bad(
            "step",
            format!("the answer would have {values} values, more than {MAX_VALUES}"),
            "a `step`, fewer devices or a shorter stretch",
        ));
    }
    Ok(())
}
