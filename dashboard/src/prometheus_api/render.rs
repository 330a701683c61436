//! Answers in Prometheus' JSON: numbers as texts, instants as seconds.

use super::Refusal;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use heliostat_models::metrics::MetricKind;
use heliostat_models::{Catalogue, Timestamp};
use heliostat_store::promql::{Labels, ResultSeries, Told, Value};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The PromQL whose semantics are followed, which Grafana asks for.
const DIALECT_VERSION: &str = "3.0.0";

fn json(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
}

pub(super) fn success(data: &str) -> Response {
    json(
        StatusCode::OK,
        format!("{{\"status\":\"success\",\"data\":{data}}}"),
    )
}

/// A text in quotes.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

pub(super) fn refusal(refusal: &Refusal) -> Response {
    let error = quoted(&refusal.error);
    let text = format!(
        "{{\"status\":\"error\",\"errorType\":\"{}\",\"error\":{error}}}",
        refusal.kind
    );
    json(refusal.status, text)
}

/// An answer; with `stats`, where a request asks for them or a rollup went in.
pub(super) fn told(told: &Told, stats: bool) -> Response {
    let mut out = data(&told.value);
    if stats || told.source.rollup_ms.is_some() {
        out.pop();
        let rollup = told.source.rollup_ms.map(|ms| ms as f64 / 1e3);
        let rollup = rollup.map_or("null".to_owned(), |seconds| seconds.to_string());
        let raw = told.source.raw_samples;
        let _ = write!(
            out,
            ",\"stats\":{{\"rollupSeconds\":{rollup},\"samples\":{{\"totalQueryableSamples\":{raw}}}}}}}"
        );
    }
    let warnings = (told.partial.iter())
        .map(|why| format!(",\"warnings\":[{}]", quoted(why)))
        .collect::<String>();
    json(
        StatusCode::OK,
        format!("{{\"status\":\"success\",\"data\":{out}{warnings}}}"),
    )
}

fn data(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Scalar(at, number) => {
            out.push_str("{\"resultType\":\"scalar\",\"result\":");
            point(&mut out, *at, *number);
        }
        Value::Text(at, text) => {
            out.push_str("{\"resultType\":\"string\",\"result\":[");
            seconds(&mut out, *at);
            let _ = write!(out, ",{}]", quoted(text));
        }
        Value::Vector(all) => {
            out.push_str("{\"resultType\":\"vector\",\"result\":");
            list(&mut out, all, |out, one| {
                head(out, one);
                out.push_str(",\"value\":");
                if let Some((at, number)) = one.points.first() {
                    point(out, *at, *number);
                }
                out.push('}');
            });
        }
        Value::Matrix(all) => {
            out.push_str("{\"resultType\":\"matrix\",\"result\":");
            list(&mut out, all, |out, one| {
                head(out, one);
                out.push_str(",\"values\":");
                list(out, &one.points, |out, (at, number)| {
                    point(out, *at, *number);
                });
                out.push('}');
            });
        }
    }
    out.push('}');
    out
}

fn list<T>(out: &mut String, all: &[T], mut one: impl FnMut(&mut String, &T)) {
    out.push('[');
    for (index, item) in all.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        one(out, item);
    }
    out.push(']');
}

fn head(out: &mut String, series: &ResultSeries) {
    out.push_str("{\"metric\":");
    labels(out, &series.labels);
}

fn labels(out: &mut String, labels: &Labels) {
    out.push('{');
    for (index, (name, value)) in labels.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(out, "{comma}{}:{}", quoted(name), quoted(value));
    }
    out.push('}');
}

fn point(out: &mut String, at: Timestamp, number: f64) {
    out.push('[');
    seconds(out, at);
    let _ = match number {
        n if n.is_nan() => write!(out, ",\"NaN\"]"),
        f64::INFINITY => write!(out, ",\"+Inf\"]"),
        f64::NEG_INFINITY => write!(out, ",\"-Inf\"]"),
        n => write!(out, ",\"{n}\"]"),
    };
}

/// Seconds with three decimals, none where the milliseconds are zero.
fn seconds(out: &mut String, at: Timestamp) {
    let sign = if at.0 < 0 { "-" } else { "" };
    let (whole, rest) = (at.0.unsigned_abs() / 1_000, at.0.unsigned_abs() % 1_000);
    let _ = match rest {
        0 => write!(out, "{sign}{whole}"),
        _ => write!(out, "{sign}{whole}.{rest:03}"),
    };
}

pub(super) fn series(all: &[Labels]) -> Response {
    let mut out = String::new();
    list(&mut out, all, labels);
    success(&out)
}

pub(super) fn texts(all: &BTreeSet<&str>) -> Response {
    let all: Vec<&str> = all.iter().copied().collect();
    let mut out = String::new();
    list(&mut out, &all, |out, text| out.push_str(&quoted(text)));
    success(&out)
}

/// What is known of all metrics, or of one: of those of the catalogue what that
/// says, of unknown ones that they are.
pub(super) fn metadata(metric: &str, unknown: &BTreeSet<String>, limit: usize) -> Response {
    let is_asked = |name: &str| metric.is_empty() || name == metric;
    let known = (Catalogue::builtin().iter())
        // By this name it is not to be had in PromQL.
        .filter(|(id, about)| *id != Catalogue::unknown_value() && is_asked(&about.name))
        .map(|(_, about)| {
            let kind = match about.kind {
                MetricKind::Gauge => "gauge",
                MetricKind::Counter | MetricKind::EnergyCounter => "counter",
            };
            let entry = serde_json::json!([{
                "type": kind, "help": about.description, "unit": about.unit,
            }]);
            (about.name.clone(), entry)
        });
    let unknown = (unknown.iter()).filter(|name| is_asked(name)).map(|name| {
        let entry = serde_json::json!([{ "type": "unknown", "help": "", "unit": "unknown" }]);
        (name.clone(), entry)
    });
    let all: serde_json::Map<String, serde_json::Value> =
        known.chain(unknown).take(limit).collect();
    success(&serde_json::Value::Object(all).to_string())
}

pub(super) fn build_info() -> Response {
    let own = concat!("heliostat ", env!("CARGO_PKG_VERSION"));
    let info = serde_json::json!({
        "version": DIALECT_VERSION, "revision": own, "branch": own,
        "buildUser": "", "buildDate": "", "goVersion": "",
    });
    success(&info.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_store::Source;

    #[test]
    fn points_are_written_as_prometheus_writes_them() {
        let written = |at, number| {
            let mut out = String::new();
            point(&mut out, Timestamp(at), number);
            out
        };
        assert_eq!(written(1_551_398_400_000, 1.0), "[1551398400,\"1\"]");
        assert_eq!(written(1_551_398_400_050, 0.1), "[1551398400.050,\"0.1\"]");
        assert_eq!(written(-1_500, 1e21), "[-1.500,\"1000000000000000000000\"]");
        assert_eq!(written(0, f64::NAN), "[0,\"NaN\"]");
        assert_eq!(written(0, f64::INFINITY), "[0,\"+Inf\"]");
        assert_eq!(written(0, f64::NEG_INFINITY), "[0,\"-Inf\"]");
    }

    #[tokio::test]
    async fn an_answer_says_that_a_rollup_went_in_and_what_is_missing() {
        let text = async |rollup_ms, partial: Option<&str>, stats| {
            let answer = Told {
                value: Value::Vector(Vec::new()),
                source: Source {
                    rollup_ms,
                    raw_samples: 7,
                },
                partial: partial.map(str::to_owned),
            };
            let body = told(&answer, stats).into_body();
            let bytes = axum::body::to_bytes(body, 1_000).await.unwrap();
            serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()
        };
        let plain = text(None, None, false).await;
        assert!(plain["data"].get("stats").is_none() && plain.get("warnings").is_none());
        let rolled = text(Some(60_000), Some("it is away"), false).await;
        assert_eq!(rolled["data"]["stats"]["rollupSeconds"], 60);
        assert_eq!(rolled["data"]["resultType"], "vector");
        assert_eq!(rolled["warnings"][0], "it is away");
        let asked = text(None, None, true).await;
        assert_eq!(
            asked["data"]["stats"]["samples"]["totalQueryableSamples"],
            7
        );
        assert!(asked["data"]["stats"]["rollupSeconds"].is_null());
    }

    #[test]
    fn values_are_shaped_by_their_type() {
        let one = ResultSeries {
            labels: Labels::of([("a", "x\"y")]),
            points: vec![(Timestamp(1_000), 2.0)],
        };
        assert_eq!(
            data(&Value::Vector(vec![one.clone()])),
            r#"{"resultType":"vector","result":[{"metric":{"a":"x\"y"},"value":[1,"2"]}]}"#
        );
        assert_eq!(
            data(&Value::Matrix(vec![one])),
            r#"{"resultType":"matrix","result":[{"metric":{"a":"x\"y"},"values":[[1,"2"]]}]}"#
        );
        assert_eq!(
            data(&Value::Text(Timestamp(1_000), "t".to_owned())),
            r#"{"resultType":"string","result":[1,"t"]}"#
        );
    }
}
