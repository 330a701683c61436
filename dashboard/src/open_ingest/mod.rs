//! Open ingest over HTTP: Prometheus remote write, InfluxDB line protocol, and
//! the two calls that InfluxDB's clients make before they write.
//!
//! | answer | when |
//! |---|---|
//! | 204 | all that can be stored is on disk; the headers `x-heliostat-…` count the rest |
//! | 400 | the body cannot be read, or some of it cannot be true; what is sound of it is stored, the answer says what is not |
//! | 401, 403 | no token or a wrong one; writes are off; a browser asks |
//! | 413, 415 | too long; a form that is not read here |
//! | 429, 503 | too much in work; the store cannot write: send it again |

mod auth;

use crate::server::Shared;
use auth::Refusal;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use heliostat_collector::open::{Admission, Encoding, MAX_BODY, OpenError, Precision, Tally};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How long a body may take to arrive, on the wall.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/v1/write", post(remote_write))
        .route("/write", post(write_v1))
        .route("/api/v2/write", post(write_v2))
        .route("/ping", get(ping))
        .route("/query", get(create_database).post(create_database))
}

/// Version 1 of InfluxDB's clients asks whether somebody is there.
async fn ping() -> Response {
    (StatusCode::NO_CONTENT, [("x-influxdb-version", "1.8")]).into_response()
}

/// Telegraf creates its database before it writes; there is but one here. The
/// statement comes in the address or as a form. Others are not answered.
async fn create_database(Query(given): Given, body: Bytes) -> Response {
    let form = str::from_utf8(&body)
        .ok()
        .and_then(|text| format!("/?{text}").parse::<Uri>().ok())
        .and_then(|uri| Given::try_from_uri(&uri).ok())
        .map_or_else(Vec::new, |Query(form)| form);
    let statement = (given.iter().chain(&form))
        .find(|(name, _)| name == "q")
        .map_or("", |(_, statement)| statement.trim());
    let verb = statement.get(..15).unwrap_or_default();
    if verb.eq_ignore_ascii_case("create database") {
        axum::Json(json!({ "results": [{ "statement_id": 0 }] })).into_response()
    } else {
        let error = "InfluxQL is not answered here, but for CREATE DATABASE; ask /api/v1/range";
        (
            StatusCode::BAD_REQUEST,
            axum::Json(json!({ "error": error })),
        )
            .into_response()
    }
}

async fn remote_write(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let outcome = async {
        let leave = enter(&shared, &headers)?;
        let kind = text_of(&headers, header::CONTENT_TYPE);
        if kind.contains("io.prometheus.write.v2") {
            return Err(Failure::form(
                "remote write 2.0 is not read here; set `protobuf_message: prometheus.WriteRequest`",
            ));
        }
        if !matches!(text_of(&headers, header::CONTENT_ENCODING), "" | "snappy") {
            return Err(Failure::form("the body must be a snappy block"));
        }
        let body = collect(&headers, body).await?;
        Ok(shared.open.remote_write(leave, body).await?)
    };
    answer(outcome.await, "series")
}

type Given = Query<Vec<(String, String)>>;

async fn write_v1(
    State(shared): State<Arc<Shared>>,
    Query(given): Given,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(lines(&shared, &given, &headers, body, true).await, "line")
}

async fn write_v2(
    State(shared): State<Arc<Shared>>,
    Query(given): Given,
    headers: HeaderMap,
    body: Body,
) -> Response {
    answer(lines(&shared, &given, &headers, body, false).await, "line")
}

/// Parameters but `precision` (`db`, `rp`, `org`, `bucket`, …) say where to put
/// what is written; there is but one place here.
async fn lines(
    shared: &Shared,
    given: &[(String, String)],
    headers: &HeaderMap,
    body: Body,
    is_v1: bool,
) -> Result<Tally, Failure> {
    let leave = enter(shared, headers)?;
    let named = given.iter().find(|(name, _)| name == "precision");
    let precision = named.map_or("", |(_, value)| value.as_str());
    let precision = Precision::parse(precision)
        .filter(|p| is_v1 || !matches!(p, Precision::Minutes | Precision::Hours))
        .ok_or_else(|| {
            let allowed = if is_v1 {
                "n, u, ms, s, m, h"
            } else {
                "ns, us, ms, s"
            };
            Failure::new(
                StatusCode::BAD_REQUEST,
                format!("precision `{precision}` is not one of {allowed}"),
            )
        })?;
    let encoding = match text_of(headers, header::CONTENT_ENCODING) {
        "" | "identity" => Encoding::Plain,
        "gzip" => Encoding::Gzip,
        _ => return Err(Failure::form("the body must be plain or gzip")),
    };
    let body = collect(headers, body).await?;
    Ok(shared.open.lines(leave, body, encoding, precision).await?)
}

/// Why nothing of a request was taken.
struct Failure {
    status: StatusCode,
    message: String,
    retry_after: Option<&'static str>,
}

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            retry_after: None,
        }
    }
    fn form(message: &str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let (status, retry_after) = match &error {
            OpenError::Body(_) | OpenError::Refused(_) => (StatusCode::BAD_REQUEST, None),
            OpenError::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, None),
            OpenError::Busy => (StatusCode::TOO_MANY_REQUESTS, Some("1")),
            OpenError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, Some("5")),
        };
        Self {
            status,
            message: error.to_string(),
            retry_after,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.status(), refusal.to_string())
    }
}

/// What stands before a body is read: the right to write, and room for it.
fn enter(shared: &Shared, headers: &HeaderMap) -> Result<Admission, Failure> {
    auth::may_write(shared.token.as_deref(), shared.loopback, headers)?;
    Ok(shared.open.admit()?)
}

async fn collect(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Failure> {
    let too_long = || Failure::from(OpenError::TooLong);
    let announced = text_of(headers, header::CONTENT_LENGTH).parse::<usize>();
    if announced.is_ok_and(|length| length > MAX_BODY) {
        return Err(too_long());
    }
    match tokio::time::timeout(PATIENCE, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => Ok(bytes.into()),
        Ok(Err(_)) => Err(too_long()),
        Err(_) => Err(Failure::new(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not arrive within 30 s",
        )),
    }
}

fn text_of(headers: &HeaderMap, name: header::HeaderName) -> &str {
    (headers.get(name))
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .trim()
}

/// InfluxDB's clients read `error` (version 1) or `message` (version 2).
fn answer(outcome: Result<Tally, Failure>, place: &str) -> Response {
    let tally = match outcome {
        Ok(tally) => tally,
        Err(failure) => {
            let code = match failure.status {
                StatusCode::UNAUTHORIZED => "unauthorized",
                StatusCode::FORBIDDEN => "forbidden",
                StatusCode::TOO_MANY_REQUESTS => "too many requests",
                StatusCode::SERVICE_UNAVAILABLE => "unavailable",
                StatusCode::PAYLOAD_TOO_LARGE => "request too large",
                _ => "invalid",
            };
            let body =
                json!({ "code": code, "message": failure.message, "error": failure.message });
            let mut response = (failure.status, axum::Json(body)).into_response();
            if let Some(seconds) = failure.retry_after {
                let seconds = HeaderValue::from_static(seconds);
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
            }
            return response;
        }
    };
    let refused: u64 = tally.refused.values().sum();
    let mut response = if refused == 0 {
        StatusCode::NO_CONTENT.into_response()
    } else {
        let first = (tally.faults.first())
            .map(|f| format!("{place} {}: {}", f.place, f.fault))
            .unwrap_or_default();
        let message = format!(
            "partial write: {refused} not stored, {} stored; first {first}",
            tally.stored + tally.unknown
        );
        let faults: Vec<_> = (tally.faults.iter())
            .map(|f| json!({ place: f.place, "fault": f.fault }))
            .collect();
        let body = json!({
            "code": "invalid",
            "message": message,
            "error": message,
            "stored": tally.stored,
            "unknown_metrics": tally.unknown,
            "refused": tally.refused,
            "faults": faults,
        });
        (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
    };
    for (name, count) in [
        ("x-heliostat-stored", tally.stored),
        ("x-heliostat-duplicates", tally.duplicates),
        ("x-heliostat-unknown-metrics", tally.unknown),
        ("x-heliostat-unplaced", tally.unplaced.values().sum()),
        ("x-heliostat-refused", refused),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from(count));
    }
    response
}
