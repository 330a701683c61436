//! Prometheus' HTTP API, version 1, over the site's store: what Grafana and
//! promtool speak. Under `/prometheus/api/v1`, and under `/api/v1` beside the
//! program's own routes, whose names differ. Paths, forms, shapes, errors and
//! status codes are Prometheus' (prometheus.io/docs/prometheus/latest/querying/api).

mod absent;
mod form;
mod listing;
mod render;

use crate::server::Shared;
use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Extension, Router};
use form::Form;
use heliostat_models::Timestamp;
use heliostat_store::promql::{Engine, Instants, PromqlError};
use heliostat_store::{StoreError, foreign};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Longest evaluation, the wait for its turn included; a request may ask for less.
const TIME_LIMIT: Duration = Duration::from_secs(30);
/// Queries that are evaluated at a time; more wait for their turn.
const AT_ONCE: usize = 4;
/// Longest form, bytes. Queries of dashboards can be long lists of devices.
const MAX_FORM: usize = 256 << 10;

/// Why a request was not answered, as Prometheus says it.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    kind: &'static str,
    error: String,
}

impl Refusal {
    fn bad_data(error: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: "bad_data",
            error: error.into(),
        }
    }

    fn parameter(name: &str, error: impl std::fmt::Display) -> Self {
        Self::bad_data(format!("invalid parameter \"{name}\": {error}"))
    }

    fn timeout() -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            kind: "timeout",
            error: "query timed out in expression evaluation".to_owned(),
        }
    }

    /// An error of a query that stood in the parameter `name`.
    fn of(name: &str, error: &PromqlError) -> Self {
        use PromqlError as E;
        let (status, kind) = match error {
            E::Parse(_) | E::Unsupported(_) => return Self::parameter(name, error),
            E::BadRequest(_) => return Self::bad_data(error.to_string()),
            E::Execution(_)
            | E::TooMuch { .. }
            | E::Store(StoreError::BadQuery(_) | StoreError::UnknownMetric(_)) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "execution")
            }
            E::Cancelled => (StatusCode::SERVICE_UNAVAILABLE, "canceled"),
            E::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        Self {
            status,
            kind,
            error: error.to_string(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        render::refusal(&self)
    }
}

type Answer = Result<Response, Refusal>;

/// All routes, under both prefixes.
pub(crate) fn routes() -> Router<Arc<Shared>> {
    let mut router = Router::new();
    for prefix in ["/prometheus/api/v1", "/api/v1"] {
        router = router
            .route(&format!("{prefix}/query"), get(query).post(query))
            .route(
                &format!("{prefix}/query_range"),
                get(query_range).post(query_range),
            )
            .route(&format!("{prefix}/series"), get(series).post(series))
            .route(&format!("{prefix}/labels"), get(labels).post(labels))
            .route(&format!("{prefix}/label/{{name}}/values"), get(values))
            .route(&format!("{prefix}/metadata"), get(metadata))
            .route(&format!("{prefix}/status/buildinfo"), get(build_info))
            .route(
                &format!("{prefix}/query_exemplars"),
                get(absent::exemplars).post(absent::exemplars),
            )
            .route(&format!("{prefix}/rules"), get(absent::rules))
            .route(&format!("{prefix}/alerts"), get(absent::alerts));
    }
    router
        .route("/prometheus/{*rest}", any(unknown))
        .layer(DefaultBodyLimit::max(MAX_FORM))
        .layer(Extension(Arc::new(Semaphore::new(AT_ONCE))))
}

type Gate = Extension<Arc<Semaphore>>;

fn engine(shared: &Shared) -> Engine {
    Engine::new(Arc::clone(&shared.app.store), Arc::clone(&shared.app.site))
}

async fn query(State(shared): State<Arc<Shared>>, gate: Gate, request: Request) -> Answer {
    let form = Form::read(request).await?;
    let at = form.instant("time")?.unwrap_or(shared.app.clock.now());
    evaluate(&shared, &gate, &form, Instants::At(at)).await
}

async fn query_range(State(shared): State<Arc<Shared>>, gate: Gate, request: Request) -> Answer {
    let form = Form::read(request).await?;
    let start = form.required_instant("start")?;
    let end = form.required_instant("end")?;
    if end < start {
        return Err(Refusal::parameter(
            "end",
            "end timestamp must not be before start time",
        ));
    }
    let step = form.step()?;
    evaluate(&shared, &gate, &form, Instants::Range { start, end, step }).await
}

async fn evaluate(shared: &Shared, gate: &Gate, form: &Form, instants: Instants) -> Answer {
    let limit = form.duration("timeout")?.unwrap_or(TIME_LIMIT);
    if limit.is_zero() {
        return Err(Refusal::timeout());
    }
    let text = form.get("query").unwrap_or_default();
    let engine = engine(shared);
    let turn = async {
        // A closed gate would mean that the server stops.
        let Ok(_turn) = gate.acquire().await else {
            return Err(PromqlError::Cancelled);
        };
        engine.query_told(text, instants).await
    };
    match tokio::time::timeout(limit.min(TIME_LIMIT), turn).await {
        Ok(Ok(told)) => Ok(render::told(&told, form.get("stats").is_some())),
        Ok(Err(error)) => Err(Refusal::of("query", &error)),
        Err(_) => Err(Refusal::timeout()),
    }
}

async fn series(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    let form = Form::read(request).await?;
    if form.all("match[]").is_empty() {
        return Err(Refusal::bad_data("no match[] parameter provided"));
    }
    Ok(render::series(
        &listing::series(&engine(&shared), &form).await?,
    ))
}

async fn labels(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    let form = Form::read(request).await?;
    let found = listing::series(&engine(&shared), &form).await?;
    Ok(render::texts(&listing::names(&found)))
}

async fn values(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    if !heliostat_store::promql::is_label_name(&name) {
        return Err(Refusal::bad_data(format!("invalid label name: \"{name}\"")));
    }
    let form = Form::read(request).await?;
    let found = listing::series(&engine(&shared), &form).await?;
    Ok(render::texts(&listing::values(&found, &name)))
}

async fn metadata(State(shared): State<Arc<Shared>>, request: Request) -> Answer {
    let form = Form::read(request).await?;
    let limit = match form.get("limit").filter(|text| !text.is_empty()) {
        None => usize::MAX,
        Some(text) => match text.parse::<i64>() {
            // Below zero means without limit.
            Ok(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
            Err(_) => return Err(Refusal::bad_data("limit must be a number")),
        },
    };
    let unknown = foreign::names(&*shared.app.store, Timestamp(i64::MIN)).await;
    let unknown = unknown.map_err(|error| Refusal::of("metric", &error.into()))?;
    Ok(render::metadata(
        form.get("metric").unwrap_or_default(),
        &unknown,
        limit,
    ))
}

async fn build_info() -> Response {
    render::build_info()
}

async fn unknown() -> Refusal {
    Refusal {
        status: StatusCode::NOT_FOUND,
        kind: "not_found",
        error: "of Prometheus' API this server has query, query_range, series, labels, label/NAME/values, metadata and status/buildinfo, and answers that it has no exemplars, rules and alerts"
            .to_owned(),
    }
}
