//! Prometheus' HTTP API as its own clients see it: shapes, forms, errors, and
//! promtool as the judge.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect"
)]

#[path = "../../tests/support/peers.rs"]
mod peers;
mod support;

use heliostat_dashboard::{Server, serve};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;
use support::World;
use support::http::{get, request};

/// 2019-03-01T14:05:00Z, the clock of the world.
const NOW: i64 = 1_551_449_100;

async fn served(directory: &std::path::Path) -> Server {
    let world = World::full(
        directory,
        Duration::from_secs(3_600),
        Duration::from_secs(300),
    )
    .await;
    world.sample(support::now()).await;
    let listen = "127.0.0.1:0".parse().unwrap();
    serve(listen, world.app(), None).await.unwrap()
}

/// Escapes what must not stand in an address.
fn escaped(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

async fn data(server: &Server, path: &str) -> Value {
    let answer = get(server.address(), path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    let body = answer.json();
    assert_eq!(body["status"], "success", "{path}");
    body["data"].clone()
}

#[tokio::test]
async fn instant_and_range_queries_have_prometheus_shapes() {
    let directory = tempfile::tempdir().unwrap();
    let server = served(directory.path()).await;
    // Grafana's test of a data source.
    let two = data(
        &server,
        "/prometheus/api/v1/query?query=1%2B1&time=1551449100.5",
    )
    .await;
    assert_eq!(
        two,
        json!({"resultType": "scalar", "result": [1_551_449_100.5, "2"]})
    );
    let query = escaped("sum by (rack) (gpu_power_watts)");
    for prefix in ["/prometheus/api/v1", "/api/v1"] {
        let vector = data(&server, &format!("{prefix}/query?query={query}")).await;
        assert_eq!(vector["resultType"], "vector");
        let first = &vector["result"][0];
        assert_eq!(first["metric"], json!({"rack": "r01"}));
        // Without a time: the site's now.
        assert_eq!(first["value"][0], NOW);
        assert!(first["value"][1].as_str().unwrap().parse::<f64>().unwrap() > 1_000.0);
        let range = format!("start={}&end=2019-03-01T14:05:00Z&step=5m", NOW - 1_800);
        let matrix = data(
            &server,
            &format!("{prefix}/query_range?query={query}&{range}"),
        )
        .await;
        assert_eq!(matrix["resultType"], "matrix");
        let values = matrix["result"][0]["values"].as_array().unwrap();
        assert_eq!(values.len(), 7);
        assert_eq!(values[6][0], NOW);
        assert_eq!(values[6][1], first["value"][1]);
    }
    // The site's own API beside it is as it was.
    assert_eq!(get(server.address(), "/api/v1/site").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn forms_may_be_posted() {
    let directory = tempfile::tempdir().unwrap();
    let server = served(directory.path()).await;
    let long = "r01-n1-gpu0|".repeat(2_000);
    let query = escaped(&format!(
        "count(gpu_power_watts{{device=~\"{long}r01-n1-gpu1\"}})"
    ));
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let body = format!("query={query}&time={NOW}");
    let answer = request(
        server.address(),
        "POST",
        "/prometheus/api/v1/query",
        &form,
        &body,
    )
    .await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["data"]["result"][0]["value"][1], "2");
    let plain = [("Content-Type", "text/plain")];
    let answer = request(
        server.address(),
        "POST",
        "/prometheus/api/v1/query",
        &plain,
        "query=1",
    )
    .await;
    assert_eq!(answer.status, 400);
    server.stop().await;
}

#[tokio::test]
async fn errors_have_prometheus_types_and_codes() {
    let directory = tempfile::tempdir().unwrap();
    let server = served(directory.path()).await;
    for (path, status, kind, text) in [
        (
            "query?query=sum(",
            400,
            "bad_data",
            "invalid parameter \"query\": parse error",
        ),
        (
            "query?query=1&time=soon",
            400,
            "bad_data",
            "cannot parse \"soon\" to a valid timestamp",
        ),
        (
            "query?query=1&timeout=soon",
            400,
            "bad_data",
            "cannot parse \"soon\" to a valid duration",
        ),
        (
            "query?query=holt_winters(x[5m],1,1)",
            400,
            "bad_data",
            "holt_winters",
        ),
        (
            "query?query=predict_linear(gpu_power_watts[5m],1)",
            400,
            "bad_data",
            "\"predict_linear\" is not supported",
        ),
        (
            "query?query=gpu_power_watts%2Bon(rack)gpu_power_watts",
            422,
            "execution",
            "many-to-many matching not allowed",
        ),
        (
            "query_range?query=1&start=0&end=1&step=0",
            400,
            "bad_data",
            "zero or negative query resolution",
        ),
        (
            "query_range?query=1&start=2&end=1&step=1",
            400,
            "bad_data",
            "end timestamp must not be before start time",
        ),
        (
            "query_range?query=1&start=0&end=11001&step=1",
            400,
            "bad_data",
            "exceeded maximum resolution of 11000 points",
        ),
        (
            "query_range?query=1&end=1&step=1",
            400,
            "bad_data",
            "invalid parameter \"start\"",
        ),
        (
            "query_range?query=x%5B5m%5D&start=0&end=1&step=1",
            400,
            "bad_data",
            "invalid expression type \"range vector\"",
        ),
        ("series", 400, "bad_data", "no match[] parameter provided"),
        (
            "series?match[]=sum(x)",
            400,
            "bad_data",
            "invalid parameter \"match[]\"",
        ),
        (
            "label/0x/values",
            400,
            "bad_data",
            "invalid label name: \"0x\"",
        ),
        (
            "metadata?limit=x",
            400,
            "bad_data",
            "limit must be a number",
        ),
        ("targets", 404, "not_found", "this server has query"),
    ] {
        let answer = get(server.address(), &format!("/prometheus/api/v1/{path}")).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let body = answer.json();
        assert_eq!(body["status"], "error", "{path}");
        assert_eq!(body["errorType"], kind, "{path}");
        let error = body["error"].as_str().unwrap();
        assert!(error.contains(text), "{path}: {error}");
    }
    let answer = get(
        server.address(),
        "/prometheus/api/v1/query?query=vector(1)&timeout=0",
    )
    .await;
    assert_eq!(
        (answer.status, &answer.json()["errorType"]),
        (503, &json!("timeout"))
    );
    server.stop().await;
}

#[tokio::test]
async fn series_and_labels_are_listed() {
    let directory = tempfile::tempdir().unwrap();
    let server = served(directory.path()).await;
    let base = "/prometheus/api/v1";
    let names = data(&server, &format!("{base}/labels")).await;
    assert_eq!(
        names,
        json!([
            "__name__", "device", "hall", "kind", "node", "rack", "row", "site"
        ])
    );
    let kinds = data(&server, &format!("{base}/label/kind/values")).await;
    assert_eq!(kinds, json!(["cooling", "gpu", "grid", "meter", "node"]));
    let selector = escaped("gpu_power_watts{node=\"r01-n1\"}");
    let devices = data(
        &server,
        &format!("{base}/label/device/values?match[]={selector}&start=0"),
    )
    .await;
    assert_eq!(devices.as_array().unwrap().len(), 8);
    let metrics = data(&server, &format!("{base}/label/__name__/values")).await;
    assert!(
        metrics
            .as_array()
            .unwrap()
            .contains(&json!("meter_energy_joules_total"))
    );
    let series = data(
        &server,
        &format!("{base}/series?match[]={selector}&match[]=grid_price_euros_per_megawatt_hour"),
    )
    .await;
    let series = series.as_array().unwrap();
    assert_eq!(series.len(), 9);
    assert_eq!(
        series[0],
        json!({
            "__name__": "gpu_power_watts", "device": "r01-n1-gpu0", "hall": "hall-1", "kind": "gpu",
            "node": "r01-n1", "rack": "r01", "row": "row-1", "site": "demo",
        })
    );
    assert_eq!(
        series[8],
        json!({"__name__": "grid_price_euros_per_megawatt_hour", "device": "grid-DE", "kind": "grid", "site": "demo"})
    );
    // Nothing has been sent since tomorrow.
    let none = data(
        &server,
        &format!("{base}/series?match[]={selector}&start={}", NOW + 86_400),
    )
    .await;
    assert_eq!(none, json!([]));
    let about = data(
        &server,
        &format!("{base}/metadata?metric=gpu_energy_joules_total"),
    )
    .await;
    assert_eq!(about["gpu_energy_joules_total"][0]["type"], "counter");
    assert_eq!(about["gpu_energy_joules_total"][0]["unit"], "J");
    let all = data(&server, &format!("{base}/metadata")).await;
    assert!(all.as_object().unwrap().len() >= 27);
    let two = data(&server, &format!("{base}/metadata?limit=2")).await;
    assert_eq!(two.as_object().unwrap().len(), 2);
    let build = data(&server, &format!("{base}/status/buildinfo")).await;
    assert_eq!(build["version"], "3.0.0");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_reads_our_answers() {
    let directory = tempfile::tempdir().unwrap();
    let server = served(directory.path()).await;
    let url = format!("http://{}/prometheus", server.address());
    let run = |arguments: Vec<String>| {
        tokio::task::spawn_blocking(move || {
            Command::new("promtool")
                .arg("query")
                .args(arguments)
                .output()
        })
    };
    let words =
        |line: &str| -> Vec<String> { line.split(' ').map(|w| w.replace("URL", &url)).collect() };
    for (line, expected) in [
        (
            format!("instant --time={NOW} URL count(gpu_power_watts)"),
            "{} => 255 @[1551449100]",
        ),
        (
            format!(
                "range --start={} --end={NOW} --step=5m URL max(gpu_power_limit_watts)",
                NOW - 600
            ),
            "560 @[1551449100]",
        ),
        (
            format!("series --start=0 --end={NOW} --match=meter_power_watts URL"),
            "kind=\"meter\"",
        ),
        (format!("labels --start=0 --end={NOW} URL rack"), "r08"),
    ] {
        let output = match run(words(&line)).await.unwrap() {
            Ok(output) => output,
            Err(error) => {
                peers::skip("promtool", error);
                return;
            }
        };
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {text}{errors}");
        assert!(text.contains(expected), "{line}: {text}{errors}");
    }
    server.stop().await;
}
