//! The HTTP API: shapes, refusals, the document against the routes, writes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

#[path = "../../tests/support/peers.rs"]
mod peers;
mod support;

use heliostat_dashboard::{Server, serve};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::World;
use support::http::{Answer, get, request};

async fn served(world: &World, token: Option<&str>) -> Server {
    let listen = "127.0.0.1:0".parse().unwrap();
    serve(listen, world.app(), token.map(str::to_owned))
        .await
        .unwrap()
}

async fn small_world(directory: &std::path::Path) -> World {
    let span = Duration::from_secs(3_600);
    let world = World::full(directory, span, Duration::from_secs(300)).await;
    world.sample(support::now()).await;
    world
}

#[tokio::test]
async fn every_route_of_the_document_is_served_and_every_served_one_is_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let world = small_world(directory.path()).await;
    let server = served(&world, None).await;
    let at = server.address();
    let document = get(at, "/api/v1/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 14, "{}", paths.len());
    let page = get(at, "/api").await.text();
    for (path, operations) in paths {
        let address = path
            .replace("{id}", "llm-70b")
            .replace("power-budget", "power-budget?scope=site")
            .replace("range", "range?metric=gpu_power_watts");
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["summary"].is_string() && operation["operationId"].is_string());
            let method = method.to_uppercase();
            assert!(
                page.contains(&format!("<code>{method} {path}</code>")),
                "{path} is on the page"
            );
            let answer = request(at, &method, &address, &[], "").await;
            let expected = if method == "GET" { 200 } else { 403 };
            assert_eq!(
                answer.status,
                expected,
                "{method} {address}: {}",
                answer.text()
            );
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "query" {
                    // Known: never refused as an unknown parameter.
                    let name = parameter["name"].as_str().unwrap();
                    let join = if address.contains('?') { '&' } else { '?' };
                    let text = get(at, &format!("{address}{join}{name}=")).await.text();
                    assert!(!text.contains("unknown parameter"), "{path} {name}");
                }
            }
        }
        // What the document does not list is not served.
        let other = if operations.get("post").is_some() {
            "PUT"
        } else {
            "POST"
        };
        let refused = request(at, other, &address, &[], "").await;
        assert_eq!(refused.status, 405, "{other} {path}");
        assert!(
            refused.json()["remedy"].is_string(),
            "{other} {path} in JSON"
        );
        let head = refused.head.to_ascii_lowercase();
        assert!(head.contains("\r\nallow: "), "{other} {path}: {head}");
    }
    for unlisted in ["/api/v1/nothing", "/api/v1", "/api/v2/site"] {
        let answer = get(at, unlisted).await;
        assert_eq!(answer.status, 404, "{unlisted}");
        assert!(answer.json()["remedy"].is_string());
    }
    server.stop().await;
}

fn refusal(answer: &Answer, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    let error = answer.json();
    for key in ["error", "field", "allowed", "remedy"] {
        assert!(error.get(key).is_some(), "{error} lacks {key}");
    }
    error
}

#[tokio::test]
async fn latest_and_range_carry_units_and_quality() {
    let directory = tempfile::tempdir().unwrap();
    let world = small_world(directory.path()).await;
    let server = served(&world, None).await;
    let at = server.address();
    let latest = get(at, "/api/v1/latest?kind=gpu&rack=r01").await.json();
    let devices = latest["devices"].as_array().unwrap();
    assert_eq!(devices.len(), 32);
    assert_eq!(devices[0]["stale"], false);
    assert_eq!(devices[0]["readings"]["gpu_power_watts"]["unit"], "W");
    assert_eq!(
        devices[0]["readings"]["gpu_power_watts"]["quality"],
        "measured"
    );
    let estimated = get(at, "/api/v1/latest?device=r03-n2-gpu6").await.json();
    assert_eq!(
        estimated["devices"][0]["readings"]["gpu_power_watts"]["quality"],
        "estimated"
    );

    let raw = get(
        at,
        "/api/v1/range?metric=meter_power_watts&device=meter-site&from=now-1h",
    )
    .await
    .json();
    assert_eq!(raw["unit"], "W");
    assert_eq!(raw["series"][0]["points"].as_array().unwrap().len(), 12);
    let query = "/api/v1/range?metric=gpu_power_watts&kind=gpu&from=now-1h&step=30m&agg=avg&across=sum&by=rack";
    let sums = get(at, query).await.json();
    assert_eq!(sums["series"].as_array().unwrap().len(), 8);
    assert_eq!(sums["step_seconds"], 1_800.0);
    assert_eq!(sums["across"], "sum");
    // A group without a way to make it one is summed, and the answer says so.
    let same = get(at, &query.replace("&across=sum", "")).await.json();
    assert_eq!(same["across"], "sum");
    assert_eq!(same["series"], sums["series"]);
    let apart = get(at, &query.replace("&across=sum&by=rack", "")).await;
    assert!(apart.json().get("across").is_none());
    for (agg, unit) in [("integral", "J"), ("rate", "W/s"), ("max", "W")] {
        let path = query.replace("agg=avg", &format!("agg={agg}"));
        assert_eq!(get(at, &path).await.json()["unit"], unit, "{agg}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_allowed_is_refused_with_what_is() {
    let directory = tempfile::tempdir().unwrap();
    let world = small_world(directory.path()).await;
    let server = served(&world, None).await;
    let at = server.address();
    for (path, status, field) in [
        ("/api/v1/latest?kind=toaster", 400, "kind"),
        ("/api/v1/latest?rack=r99", 400, "rack"),
        ("/api/v1/latest?device=nobody", 400, "device"),
        ("/api/v1/latest?devise=x", 400, "devise"),
        ("/api/v1/range", 400, "metric"),
        ("/api/v1/range?metric=gpu_power", 400, "metric"),
        (
            "/api/v1/range?metric=gpu_power_watts&from=soon",
            400,
            "from",
        ),
        (
            "/api/v1/range?metric=gpu_power_watts&from=now-400d&step=1s",
            400,
            "step",
        ),
        ("/api/v1/range?metric=gpu_power_watts&agg=avg", 400, "step"),
        (
            "/api/v1/range?metric=gpu_power_watts&step=1h&agg=median",
            400,
            "agg",
        ),
        (
            "/api/v1/range?metric=gpu_power_watts&step=1h&by=shelf",
            400,
            "by",
        ),
        ("/api/v1/power-budget", 400, "scope"),
        ("/api/v1/power-budget?scope=moon", 400, "scope"),
        ("/api/v1/power-budget?scope=rack:r99", 404, "scope"),
        ("/api/v1/jobs?limit=0", 400, "limit"),
        ("/api/v1/decisions?kind=whim", 400, "kind"),
        ("/api/v1/report?format=pdf", 400, "format"),
        ("/api/v1/report?from=now&to=now", 400, "from"),
    ] {
        let error = refusal(&get(at, path).await, status);
        assert_eq!(error["field"], field, "{path}: {error}");
        assert!(!error["allowed"].as_str().unwrap().is_empty());
    }
    let error = refusal(&get(at, "/api/v1/jobs/none").await, 404);
    assert!(error["error"].as_str().unwrap().contains("none"));
    server.stop().await;
}

#[tokio::test]
async fn jobs_plan_decisions_budgets_and_reports_have_their_shapes() {
    let directory = tempfile::tempdir().unwrap();
    let world = small_world(directory.path()).await;
    let server = served(&world, None).await;
    let at = server.address();
    let jobs = get(at, "/api/v1/jobs?state=running").await.json();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 6);
    assert_eq!(jobs["total"], 12);
    let job = get(at, "/api/v1/jobs/climate-ens").await.json();
    assert_eq!(job["state"], "paused");
    assert_eq!(job["history"].as_array().unwrap().len(), 3);
    assert!(job["planned"]["reason"].as_str().unwrap().contains("sun"));
    let plan = get(at, "/api/v1/plan").await.json();
    assert_eq!(plan["plan"]["slots"].as_array().unwrap().len(), 192);
    let decisions = get(at, "/api/v1/decisions?kind=allocation&limit=1")
        .await
        .json();
    assert_eq!(
        decisions["decisions"][0]["summary"],
        "llm-70b from 520 to 560 W, 7 jobs unchanged."
    );
    for scope in ["site", "hall:hall-1", "rack:r01", "job:llm-70b"] {
        let budget = get(at, &format!("/api/v1/power-budget?scope={scope}"))
            .await
            .json();
        assert!(budget["now"]["power"].as_f64().unwrap() > 0.0, "{budget}");
        assert!(!budget["now"]["reason"].as_str().unwrap().is_empty());
        assert!(budget["slots"].as_array().unwrap().len() >= 190, "{scope}");
    }
    let report = get(at, "/api/v1/report?from=now-1h").await;
    assert_eq!(report.status, 200);
    assert!(report.text().contains("measured_share"));
    let csv = get(at, "/api/v1/report?from=now-1h&format=csv").await;
    assert!(csv.head.contains("text/csv") && csv.text().lines().count() > 5);
    let site = get(at, "/api/v1/site").await.json();
    assert_eq!(site["racks"].as_array().unwrap().len(), 8);
    let catalogue = get(at, "/api/v1/metrics-catalogue").await.json();
    assert!(catalogue["metrics"].as_array().unwrap().len() > 20);
    let control = get(at, "/api/v1/control").await.json();
    assert_eq!(control["mode"], "armed");
    let tenant = &control["contracts"][0];
    assert_eq!(
        (&tenant["id"], &tenant["capped"]),
        (&"tenant".into(), &33_000.0.into())
    );
    assert!(
        tenant["price"].as_f64().unwrap() > 0.0 && tenant["limit"].as_f64().unwrap() < 66_000.0
    );
    assert_eq!(get(at, "/healthz").await.status, 200);
    server.stop().await;
}

const EVENT: &str = r#"{"id":"dso-17","from":"2019-03-01T15:00:00Z","to":"2019-03-01T17:00:00Z","ask":{"reduce_by":0.3},"reason":"congestion"}"#;
const ARM: &str = r#"{"armed":false,"who":"night shift"}"#;

#[tokio::test]
async fn a_job_tells_its_throughput() {
    let directory = tempfile::tempdir().unwrap();
    let world = small_world(directory.path()).await;
    let server = served(&world, Some("secret")).await;
    let (at, good) = (server.address(), [("Authorization", "Bearer secret")]);
    let job = "climate-ens";
    let path = format!("/api/v1/jobs/{job}/throughput");
    let post = async |path: &str, headers: &[(&str, &str)], body: &str| {
        request(at, "POST", path, headers, body).await
    };

    refusal(&post(&path, &[], r#"{"per_second": 12.5}"#).await, 403);
    let answer = post(&path, &good, r#"{"per_second": 12.5}"#).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let told = answer.json();
    assert_eq!(
        (&told["stored"], &told["at"]),
        (&json!(1), &json!(support::NOW))
    );
    let latest = get(at, &format!("/api/v1/latest?device=job.{job}"))
        .await
        .json();
    let reading = &latest["devices"][0]["readings"]["job_throughput_per_second"];
    assert_eq!(
        (&reading["value"], &reading["unit"]),
        (&json!(12.5), &json!("1/s"))
    );

    for (body, field) in [
        (r#"{"per_second": -1}"#, "per_second"),
        (r#"{"per_second": "fast"}"#, "body"),
        (r#"{"per_minute": 1}"#, "body"),
        (r#"{"per_second": 1, "at": "1970-01-01T00:00:00Z"}"#, "at"),
        (r#"{"per_second": 1, "at": "2030-01-01T00:00:00Z"}"#, "at"),
    ] {
        let error = refusal(&post(&path, &good, body).await, 400);
        assert_eq!(error["field"], field, "{body}: {error}");
    }
    let nobody = "/api/v1/jobs/nobody/throughput";
    refusal(&post(nobody, &good, r#"{"per_second": 1}"#).await, 404);
    server.stop().await;
}

#[tokio::test]
async fn writes_need_the_token() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    let open = served(&world, None).await;
    for (path, body) in [("/api/v1/grid-events", EVENT), ("/api/v1/control/arm", ARM)] {
        let answer = request(
            open.address(),
            "POST",
            path,
            &[("Authorization", "Bearer ")],
            body,
        )
        .await;
        assert!(
            refusal(&answer, 403)["error"]
                .as_str()
                .unwrap()
                .contains("no token is configured")
        );
    }
    open.stop().await;

    let server = served(&world, Some("secret")).await;
    let at = server.address();
    for wrong in ["Bearer wrong", "Basic secret", "secret", "Bearer secret2"] {
        let answer = request(
            at,
            "POST",
            "/api/v1/control/arm",
            &[("Authorization", wrong)],
            ARM,
        )
        .await;
        refusal(&answer, 403);
    }
    assert!(
        world.control.arms.lock().unwrap().is_empty(),
        "nothing got through"
    );
    let good = [("Authorization", "Bearer secret")];
    let answer = request(at, "POST", "/api/v1/control/arm", &good, ARM).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(
        world.control.arms.lock().unwrap()[..],
        [(false, "night shift".to_owned())]
    );
    let answer = request(at, "POST", "/api/v1/grid-events", &good, EVENT).await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(
        world.control.events.lock().unwrap()[0].ask,
        Ask::ReduceBy(0.3)
    );

    let path = "/api/v1/grid-events/dso-17";
    refusal(&request(at, "DELETE", path, &good, "").await, 404);
    let running = GridEvent {
        id: "dso-17".into(),
        ..world.control.events.lock().unwrap()[0].clone()
    };
    (world.view).send_modify(|view| Arc::make_mut(view).grid_events.push(running));
    refusal(&request(at, "DELETE", path, &[], "").await, 403);
    assert!(world.control.called_off.lock().unwrap().is_empty());
    let answer = request(at, "DELETE", path, &good, "").await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(world.control.called_off.lock().unwrap()[..], ["dso-17"]);

    for (from, to, field) in [
        ("dso-17", "a b", "id"),
        ("0.3", "1.0", "ask"),
        ("T17", "T14", "to"),
        ("congestion", "", "reason"),
        ("\"id\"", "\"ID\"", "body"),
        ("2019-03-01", "2018-03-01", "to"),
    ] {
        let body = EVENT.replace(from, to);
        let error = refusal(
            &request(at, "POST", "/api/v1/grid-events", &good, &body).await,
            400,
        );
        assert_eq!(error["field"], field, "{body}: {error}");
    }
    let long = format!("{{\"armed\":true,\"who\":\"{}\"}}", "x".repeat(20_000));
    let answer = request(at, "POST", "/api/v1/control/arm", &good, &long).await;
    refusal(&answer, 413);
    let answer = get(at, "/api/v1/jobs/%FF").await;
    refusal(&answer, 400);
    assert_eq!(world.control.events.lock().unwrap().len(), 1);
    server.stop().await;
}

#[tokio::test]
async fn prometheus_accepts_the_metrics() {
    let directory = tempfile::tempdir().unwrap();
    let world = small_world(directory.path()).await;
    let server = served(&world, None).await;
    let answer = get(server.address(), "/metrics").await;
    server.stop().await;
    assert!(answer.head.contains("version=0.0.4"));
    let text = answer.text();
    for expected in [
        "heliostat_gpu_power_watts{device=\"r01-n1-gpu0\",kind=\"gpu\",rack=\"r01\",node=\"r01-n1\"} ",
        "heliostat_control_armed 1\n",
        "heliostat_control_state{state=\"armed\"} 1\n",
        "heliostat_control_lock_fence 117000000\n",
        "heliostat_control_allocations_total 18204\n",
        "heliostat_ingest_refused_total 0\n",
        "heliostat_power_node_limit_watts{power_node=\"feed\"} 190000\n",
        "heliostat_power_contract_load_watts{contract=\"tenant\"} 49500\n",
        "heliostat_power_contract_limit_watts{contract=\"tenant\"} 64680\n",
    ] {
        assert!(text.contains(expected), "no `{expected}`");
    }
    assert!(
        !text.contains("device=\"r03-n2-gpu5\""),
        "a silent GPU has no sample"
    );
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match promtool {
        Ok(child) => child,
        Err(error) => {
            peers::skip("promtool", error);
            return;
        }
    };
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned()
        + &String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim().is_empty(),
        "promtool: {said}"
    );
}
