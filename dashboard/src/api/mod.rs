//! HTTP API v1. One table names every route with its parameters; the router,
//! the OpenAPI document and the page for people are all made from it.

mod control;
mod handlers;
mod openapi;
mod series;
mod throughput;
mod views;

use crate::guard::MAX_BODY;
use crate::params::{ApiError, Params};
use crate::server::Shared;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection, RawPathParamsRejection};
use axum::extract::{Query, RawPathParams, State};
use axum::http::{HeaderMap, Method as HttpMethod, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

pub(crate) use openapi::document;

/// Where the OpenAPI document stands.
pub(crate) const DOCUMENT: &str = "/api/v1/openapi.json";

/// The methods in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
    Delete,
}

impl Method {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// A parameter as documented.
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) required: bool,
}

/// What a handler gets.
struct Call {
    shared: Arc<Shared>,
    params: Params,
    /// The last part of the path, where the path has a name in it.
    name: String,
    headers: HeaderMap,
    body: Bytes,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response, ApiError>> + Send>>;

/// A route.
pub(crate) struct Endpoint {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) about: &'static str,
    pub(crate) params: &'static [Param],
    /// An example of the body, where one is sent.
    pub(crate) body: Option<&'static str>,
    /// An address to try; empty where there is none.
    pub(crate) example: &'static str,
    handler: fn(Call) -> Answer,
}

const fn param(name: &'static str, about: &'static str) -> Param {
    Param {
        name,
        about,
        required: false,
    }
}

const fn needed(name: &'static str, about: &'static str) -> Param {
    Param {
        name,
        about,
        required: true,
    }
}

const FROM: Param = param(
    "from",
    "begin: now, now-6h, RFC 3339 or a date (default now-6h)",
);
const TO: Param = param("to", "end, exclusive (default now)");

const fn reads(
    path: &'static str,
    about: &'static str,
    params: &'static [Param],
    example: &'static str,
    handler: fn(Call) -> Answer,
) -> Endpoint {
    Endpoint {
        method: Method::Get,
        path,
        about,
        params,
        body: None,
        example,
        handler,
    }
}

/// Turns an `async fn(Call)` into a table's entry.
macro_rules! handler {
    ($function:path) => {
        |call| Box::pin($function(call))
    };
}

static ENDPOINTS: &[Endpoint] = &[
    reads(
        "/api/v1/site",
        "The site: halls, racks, nodes, devices, power nodes and power contracts with limits, meters.",
        &[],
        "/api/v1/site",
        handler!(handlers::site),
    ),
    reads(
        "/api/v1/latest",
        "The latest frame of each device, each value with unit and quality; stale ones are marked.",
        &[
            param("kind", "gpu, node, meter, cooling, grid, job or unknown"),
            param("hall", "only devices of this hall"),
            param("rack", "only devices of this rack"),
            param("node", "only devices of this node"),
            param(
                "device",
                "one or several names, repeated or separated by commas",
            ),
        ],
        "/api/v1/latest?kind=meter",
        handler!(series::latest),
    ),
    reads(
        "/api/v1/range",
        "One metric over time: raw readings, or one value per step when `step` is given. `unit` is that of the values: \
         an integral of W is in J, a rate of J in W.",
        &[
            needed("metric", "a name from the catalogue, e.g. gpu_power_watts"),
            param(
                "device",
                "one or several names, repeated or separated by commas",
            ),
            param("kind", "gpu, node, meter, cooling, grid, job or unknown"),
            param("hall", "only devices of this hall"),
            param("rack", "only devices of this rack"),
            param("node", "only devices of this node"),
            FROM,
            TO,
            param("step", "width of a step: 30s, 15m, 1h, 1d"),
            param(
                "agg",
                "within a step: avg (default), min, max, sum, count, last, increase, rate, integral, quantile:0.95",
            ),
            param(
                "across",
                "devices of a group become one: sum, avg, min, max, count (default with `by`: sum; else each device apart); or the best few: topk:5, bottomk:5",
            ),
            param(
                "by",
                "labels that make a group: kind, hall, row, rack, node, device; its devices are summed unless `across` says otherwise",
            ),
        ],
        "/api/v1/range?metric=meter_power_watts&kind=meter&step=15m",
        handler!(series::range),
    ),
    reads(
        "/api/v1/power-budget",
        "Power that may be used now and per 15 minutes for the next 48 h, with the limit that binds and why.",
        &[needed("scope", "site, hall:NAME, rack:NAME or job:ID")],
        "/api/v1/power-budget?scope=site",
        handler!(handlers::power_budget),
    ),
    reads(
        "/api/v1/jobs",
        "All jobs with their history of states. Owners are pseudonyms.",
        &[
            param("state", "queued, running, paused, completed or cancelled"),
            param("limit", "at most this many, 1 to 10000 (default 1000)"),
        ],
        "/api/v1/jobs?state=running",
        handler!(handlers::jobs),
    ),
    reads(
        "/api/v1/jobs/{id}",
        "One job, with its place in the plan.",
        &[],
        "",
        handler!(handlers::job),
    ),
    Endpoint {
        method: Method::Post,
        path: "/api/v1/jobs/{id}/throughput",
        about: "A job's work per second in a unit of its own (samples, tokens, steps), from which control learns how its speed depends on power. `at` is now where it is left out. Also taken: a file on the node (`heliostat agent --throughput DIR`), and `job_throughput_per_second{job_id=\"…\"}` by remote write.",
        params: &[],
        body: Some("{\"per_second\": 1234.5}"),
        example: "",
        handler: handler!(throughput::submit),
    },
    reads(
        "/api/v1/plan",
        "The plan in force: jobs, slots, power contracts by slot (limit, load, caps planned, price), forecasts and certificate; null while there is none.",
        &[],
        "/api/v1/plan",
        handler!(handlers::plan),
    ),
    reads(
        "/api/v1/decisions",
        "The latest decisions, newest first, with reasons and certificates.",
        &[
            param("limit", "at most this many, 1 to 2000 (default 50)"),
            param(
                "kind",
                "allocation, plan, grid_event, arming, refusal, incident, relief or retention",
            ),
        ],
        "/api/v1/decisions?limit=5",
        handler!(handlers::decisions),
    ),
    reads(
        "/api/v1/report",
        "Energy, PUE, REF and location-based carbon, each value with its measured, estimated and missing shares.",
        &[
            param("from", "begin (default now-24h)"),
            TO,
            param("format", "json (default) or csv"),
        ],
        "/api/v1/report?from=now-24h",
        handler!(handlers::report),
    ),
    reads(
        "/api/v1/metrics-catalogue",
        "Every metric: name, unit, kind, valid range, precision, description.",
        &[],
        "/api/v1/metrics-catalogue",
        handler!(handlers::catalogue),
    ),
    reads(
        "/api/v1/unknown-metrics",
        "Metrics that came by remote write or line protocol and are not in the catalogue (unit unknown), since the start: each series is stored as a device of kind `unknown` and answers in PromQL under its own name and labels. With what could not be placed or was refused, by reason.",
        &[],
        "/api/v1/unknown-metrics",
        handler!(handlers::unknown_metrics),
    ),
    reads(
        "/api/v1/grid-events",
        "Grid events that are running or to come. They outlive the server: they are kept on disk and by the broker.",
        &[],
        "/api/v1/grid-events",
        handler!(control::grid_events),
    ),
    Endpoint {
        method: Method::Post,
        path: "/api/v1/grid-events",
        about: "Hands a grid event over. `ask` is {\"reduce_by\": share} or {\"limit\": watts}. One of the same id is replaced; a reduction counts against what the site drew when that id first came.",
        params: &[],
        body: Some(
            "{\"id\": \"dso-17\", \"from\": \"2019-03-01T12:00:00Z\", \"to\": \"2019-03-01T14:00:00Z\", \"ask\": {\"reduce_by\": 0.3}, \"reason\": \"congestion\"}",
        ),
        example: "",
        handler: handler!(control::submit_grid_event),
    },
    Endpoint {
        method: Method::Delete,
        path: "/api/v1/grid-events/{id}",
        about: "Calls a grid event off, whether it runs or is to come.",
        params: &[],
        body: None,
        example: "",
        handler: handler!(control::cancel_grid_event),
    },
    reads(
        "/api/v1/control",
        "Where control stands: mode, power nodes and power contracts (load, limit, price), caps, price of energy, certificate.",
        &[],
        "/api/v1/control",
        handler!(control::control),
    ),
    Endpoint {
        method: Method::Post,
        path: "/api/v1/control/arm",
        about: "Arms or disarms control. Logged with the name given in `who`.",
        params: &[],
        body: Some("{\"armed\": true, \"who\": \"night shift\"}"),
        example: "",
        handler: handler!(control::arm),
    },
    reads(
        DOCUMENT,
        "This API as an OpenAPI document.",
        &[],
        DOCUMENT,
        handler!(handlers::openapi),
    ),
];

/// All routes of the API.
pub(crate) fn endpoints() -> &'static [Endpoint] {
    ENDPOINTS
}

pub(crate) fn routes() -> Router<Arc<Shared>> {
    let mut router = Router::new();
    for endpoint in ENDPOINTS {
        router = router.route(endpoint.path, route(endpoint));
    }
    router.route("/api/{*rest}", axum::routing::any(unknown_route))
}

fn route(endpoint: &'static Endpoint) -> MethodRouter<Arc<Shared>> {
    let serve = move |State(shared): State<Arc<Shared>>,
                      path: Result<RawPathParams, RawPathParamsRejection>,
                      given: Result<Query<Vec<(String, String)>>, QueryRejection>,
                      headers: HeaderMap,
                      body: Result<Bytes, BytesRejection>| async move {
        let call = || {
            let path = path.map_err(|e| unreadable(e.status(), &e.body_text()))?;
            let Query(given) = given.map_err(|e| unreadable(e.status(), &e.body_text()))?;
            let known: Vec<&str> = endpoint.params.iter().map(|p| p.name).collect();
            Ok(Call {
                shared,
                params: Params::new(given, &known)?,
                name: path.iter().next().map_or("", |(_, v)| v).to_owned(),
                headers,
                body: body.map_err(|e| unreadable(e.status(), &e.body_text()))?,
            })
        };
        let result = match call() {
            Ok(call) => (endpoint.handler)(call).await,
            Err(error) => Err(error),
        };
        result.unwrap_or_else(IntoResponse::into_response)
    };
    match endpoint.method {
        Method::Get => get(serve),
        Method::Post => post(serve),
        Method::Delete => delete(serve),
    }
}

/// What could not even be read of a request.
pub(crate) fn unreadable(status: StatusCode, why: &str) -> ApiError {
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        let error = format!("the body is longer than {MAX_BODY} bytes");
        return ApiError::new(status, error, "send one event or command at a time");
    }
    let remedy = "write it as the examples at /api do";
    ApiError::new(status, format!("the request cannot be read: {why}"), remedy)
}

/// 405 for every route there is; the `Allow` header names the methods it has.
pub(crate) async fn method_not_allowed(method: HttpMethod, uri: Uri) -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{} does not take {method}", uri.path()),
        "use a method of the `Allow` header; /api lists the routes of the API",
    )
}

async fn unknown_route() -> ApiError {
    ApiError::new(
        StatusCode::NOT_FOUND,
        "the API has no such route",
        "see /api for the routes",
    )
}

/// An answer as JSON.
fn json(value: &impl serde::Serialize) -> Result<Response, ApiError> {
    let text = serde_json::to_vec(value).map_err(|e| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the answer could not be written: {e}"),
            "tell the maintainers",
        )
    })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}
