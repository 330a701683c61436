//! Open ingest as its senders see it: over HTTP, and with Prometheus and
//! vmagent themselves.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    missing_docs
)]
#![allow(clippy::disallowed_methods, reason = "tests wait by the wall")]

#[path = "../../tests/support/peers.rs"]
mod peers;
#[path = "support/mod.rs"]
mod support;

use heliostat_dashboard::{Server, serve};
use heliostat_models::{DeviceId, Timestamp};
use heliostat_store::query::Selector;
use heliostat_store::{Clock as _, Query, TimeSeriesStore as _, WallClock};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::http::{Answer, get, request};
use support::{World, now};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const LOOPBACK: &str = "127.0.0.1:0";

async fn start(world: &World, listen: &str, token: Option<&str>) -> Server {
    let listen: SocketAddr = listen.parse().unwrap();
    serve(listen, world.app(), token.map(str::to_owned))
        .await
        .unwrap()
}

async fn points(world: &World, metric: &str, device: &str) -> Vec<Option<f64>> {
    let query = Query::Range {
        metric: metric.to_owned(),
        select: Selector {
            devices: vec![DeviceId::from(device)],
            labels: vec![],
        },
        from: Timestamp(0),
        to: Timestamp(i64::MAX / 2),
    };
    let series = world.store.query(&query).await.unwrap().series();
    (series.iter().flat_map(|s| &s.points))
        .map(|p| p.value)
        .collect()
}

async fn post(server: &Server, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    request(server.address(), "POST", path, headers, body).await
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let mut lines = answer.head.lines().filter_map(|l| l.split_once(": "));
    (lines.find(|(n, _)| n.eq_ignore_ascii_case(name))).map_or("", |(_, value)| value)
}

#[tokio::test]
async fn both_versions_of_the_influx_api_and_partial_writes() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    let server = start(&world, LOOPBACK, None).await;
    let at = now().0 / 1_000;
    let good = format!("node_power_watts,device=r01-n1 value=4100 {at}");
    let answer = post(&server, "/write?db=telegraf&precision=s", &[], &good).await;
    assert_eq!(
        (answer.status, header(&answer, "x-heliostat-stored")),
        (204, "1")
    );
    assert!(answer.body.is_empty());
    let next = format!("node_power_watts,device=r01-n1 value=4200 {}", now().0 + 1);
    let path = "/api/v2/write?org=o&bucket=b&precision=ms";
    assert_eq!(post(&server, path, &[], &next).await.status, 204);
    assert_eq!(
        points(&world, "node_power_watts", "r01-n1").await,
        [Some(4_100.0), Some(4_200.0)]
    );
    // A bad line and an impossible one are told; the good ones stay.
    let mixed = format!(
        "node_power_watts,device=r01-n2 value=1 {at}\nnonsense\nnode_power_watts,device=r01-n2 value=-5 {at}\nfan,host=r01-n1 rpm=9 {at}\n"
    );
    let answer = post(&server, "/write?precision=s", &[], &mixed).await;
    assert_eq!(answer.status, 400);
    let body = answer.json();
    assert_eq!(body["faults"][0]["line"], 2);
    assert_eq!(body["faults"][1]["fault"], "node_power_watts: out of range");
    assert!(
        body["error"]
            .as_str()
            .unwrap()
            .starts_with("partial write: 2 not stored, 2 stored")
    );
    assert_eq!(header(&answer, "x-heliostat-unknown-metrics"), "1");
    assert_eq!(
        points(&world, "node_power_watts", "r01-n2").await,
        [Some(1.0)]
    );
    // What is unknown is shown, honestly.
    let unknown = get(server.address(), "/api/v1/unknown-metrics")
        .await
        .json();
    assert_eq!(unknown["stored"], true);
    assert_eq!(unknown["metrics"][0]["series"], 1);
    assert_eq!(unknown["metrics"][0]["name"], "fan_rpm");
    assert_eq!(unknown["metrics"][0]["unit"], "unknown");
    assert_eq!(unknown["refused"]["node_power_watts: out of range"], 1);
    let metrics = get(server.address(), "/metrics").await.text();
    assert!(metrics.contains("heliostat_open_ingest_samples_total{outcome=\"stored\"} 3\n"));
    assert!(
        metrics.contains("heliostat_open_ingest_samples_total{outcome=\"unknown_metric\"} 1\n")
    );
    // What Telegraf does first.
    assert_eq!(get(server.address(), "/ping").await.status, 204);
    let created = post(&server, "/query?q=CREATE+DATABASE+telegraf", &[], "").await;
    assert_eq!(created.json()["results"][0]["statement_id"], 0);
    let form = "q=CREATE+DATABASE+%22telegraf%22";
    assert_eq!(post(&server, "/query", &[], form).await.status, 200);
    let other = post(&server, "/query?q=SELECT+1", &[], "").await;
    assert_eq!(other.status, 400, "an empty answer would be a lie");
    server.stop().await;
}

/// What no table knows keeps its name and labels, and is asked for by them.
#[tokio::test]
async fn unknown_metrics_answer_under_their_own_names() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    let server = start(&world, LOOPBACK, None).await;
    let at = now().0 / 1_000;
    let body = format!(
        "prometheus,instance=r01-n1:9100,job=node node_load1=0.5 {at}\n\
         prometheus,instance=r01-n2:9100,job=node node_load1=1.5 {at}\n\
         prometheus,instance=r01-n2:9100,user=alice home_size=7 {at}\n"
    );
    let answer = post(&server, "/write?precision=s", &[], &body).await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(header(&answer, "x-heliostat-unknown-metrics"), "2");
    // Who somebody is does not enter.
    assert_eq!(header(&answer, "x-heliostat-unplaced"), "1");
    let ask = async |path: &str| get(server.address(), path).await.json();
    let one = ask(&format!(
        "/api/v1/query?query=node_load1%7Binstance%3D%22r01-n2%3A9100%22%7D*2&time={at}"
    ))
    .await;
    let result = &one["data"]["result"];
    assert_eq!(result[0]["value"][1], "3");
    let labels = serde_json::json!({"instance": "r01-n2:9100", "job": "node"});
    assert_eq!(result[0]["metric"], labels);
    let sum = ask(&format!(
        "/api/v1/query_range?query=sum(node_load1)&start={at}&end={at}&step=15"
    ))
    .await;
    assert_eq!(sum["data"]["result"][0]["values"][0][1], "2");
    let series = ask("/api/v1/series?match[]=%7Bjob%3D%22node%22%7D").await;
    assert_eq!(series["data"].as_array().unwrap().len(), 2);
    assert_eq!(series["data"][0]["__name__"], "node_load1");
    let names = ask("/api/v1/label/__name__/values").await;
    assert_eq!(names["data"], serde_json::json!(["node_load1"]));
    let instances = ask("/api/v1/label/instance/values").await;
    assert_eq!(instances["data"].as_array().unwrap().len(), 2);
    let about = ask("/api/v1/metadata?metric=node_load1").await;
    assert_eq!(about["data"]["node_load1"][0]["unit"], "unknown");
    // By its own name it is not PromQL's.
    let inner = ask(&format!("/api/v1/query?query=unknown_value&time={at}")).await;
    assert_eq!(inner["data"]["result"], serde_json::json!([]));
    // Typed queries know the name too.
    let range = ask(&format!(
        "/api/v1/range?metric=node_load1&from={}&to={}",
        Timestamp::from_seconds(at - 60),
        Timestamp::from_seconds(at + 60)
    ))
    .await;
    assert_eq!(range["unit"], "unknown", "{range}");
    assert_eq!(range["series"].as_array().unwrap().len(), 2);
    let none = get(server.address(), "/api/v1/range?metric=node_load99").await;
    assert_eq!(none.status, 400);
    // Nothing that speaks of the site's devices is bothered.
    let latest = ask("/api/v1/latest").await;
    assert_eq!(latest["devices"], serde_json::json!([]));
    let unknown = ask("/api/v1/latest?kind=unknown").await;
    assert_eq!(unknown["devices"].as_array().unwrap().len(), 2);
    server.stop().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    let server = start(&world, LOOPBACK, None).await;
    for (path, headers, status, words) in [
        ("/write?precision=days", &[][..], 400, "n, u, ms, s, m, h"),
        ("/api/v2/write?precision=h", &[], 400, "ns, us, ms, s"),
        (
            "/write",
            &[("Content-Encoding", "br")],
            415,
            "plain or gzip",
        ),
        ("/write", &[("Content-Encoding", "gzip")], 400, "no gzip"),
        ("/api/v1/write", &[], 400, "snappy"),
        (
            "/api/v1/write",
            &[("Content-Encoding", "zstd")],
            415,
            "snappy",
        ),
        (
            "/api/v1/write",
            &[(
                "Content-Type",
                "application/x-protobuf;proto=io.prometheus.write.v2.Request",
            )],
            415,
            "2.0",
        ),
    ] {
        let answer = post(&server, path, headers, "some text that is nothing").await;
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let body = answer.json();
        assert!(body["error"].as_str().unwrap().contains(words), "{body}");
    }
    // Longer than is taken: refused by what is announced, before it is read.
    let long = "x".repeat((32 << 20) + 1);
    assert_eq!(post(&server, "/write", &[], &long).await.status, 413);
    // Only the routes of open ingest take long bodies.
    let comment = format!(
        "#{}\nnode_power_watts,device=r01-n1 value=1",
        "x".repeat(1 << 20)
    );
    assert_eq!(post(&server, "/write", &[], &comment).await.status, 204);
    assert_eq!(
        post(&server, "/api/v1/control/arm", &[], &comment)
            .await
            .status,
        413
    );
    server.stop().await;
}

#[tokio::test]
async fn writes_are_off_unless_a_token_is_there_or_nobody_else_can_reach_us() {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    let line = "node_power_watts,device=r01-n1 value=4100";
    // On loopback without a token: programs may, pages may not, names of others may not.
    let server = start(&world, LOOPBACK, None).await;
    assert_eq!(post(&server, "/write", &[], line).await.status, 204);
    let page = [("Origin", "https://evil.example")];
    assert_eq!(post(&server, "/write", &page, line).await.status, 403);
    let rebound = [("Host", "evil.example")];
    assert_eq!(post(&server, "/write", &rebound, line).await.status, 403);
    server.stop().await;
    // Beyond loopback without a token: off.
    let server = start(&world, "0.0.0.0:0", None).await;
    let address = SocketAddr::from(([127, 0, 0, 1], server.address().port()));
    let answer = request(address, "POST", "/write", &[], line).await;
    assert_eq!(answer.status, 403);
    assert!(answer.text().contains("writing samples is off"));
    server.stop().await;
    // With a token: needed everywhere.
    let server = start(&world, LOOPBACK, Some("s3")).await;
    for path in ["/write", "/api/v2/write", "/api/v1/write"] {
        assert_eq!(post(&server, path, &[], line).await.status, 401, "{path}");
        let wrong = [("Authorization", "Token s4")];
        assert_eq!(
            post(&server, path, &wrong, line).await.status,
            401,
            "{path}"
        );
    }
    for good in ["Token s3", "Bearer s3", "Basic YTpzMw=="] {
        let headers = [("Authorization", good)];
        assert_eq!(
            post(&server, "/write", &headers, line).await.status,
            204,
            "{good}"
        );
    }
    server.stop().await;
}

/// A dcgm-exporter of one node: power that counts up with every scrape.
struct Exporter {
    address: SocketAddr,
    is_up: Arc<AtomicBool>,
}

impl Exporter {
    async fn start() -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_up = Arc::new(AtomicBool::new(true));
        let up = Arc::clone(&is_up);
        tokio::spawn(async move {
            let mut scrapes = 0;
            while let Ok((mut stream, _)) = listener.accept().await {
                if !up.load(Ordering::Relaxed) {
                    continue;
                }
                scrapes += 1;
                let mut text = String::new();
                for (name, value) in [
                    ("DCGM_FI_DEV_POWER_USAGE", f64::from(scrapes)),
                    ("DCGM_FI_DEV_GPU_TEMP", 55.0),
                    (
                        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
                        1_000.0 * f64::from(scrapes),
                    ),
                    ("DCGM_FI_DEV_XID_ERRORS", 0.0),
                ] {
                    for gpu in 0..8 {
                        text.push_str(&format!(
                            "{name}{{gpu=\"{gpu}\",UUID=\"GPU-{gpu}\",Hostname=\"r05-n1\",modelName=\"NVIDIA H100\"}} {value}\n"
                        ));
                    }
                }
                let mut buffer = [0; 4_096];
                let _ = stream.read(&mut buffer).await;
                let head = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    text.len()
                );
                let _ = stream.write_all(format!("{head}{text}").as_bytes()).await;
            }
        });
        Self { address, is_up }
    }
}

/// A process that ends with the test.
struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(program: &str, directory: &Path, args: &[String]) -> Option<Peer> {
    let log = std::fs::File::create(directory.join("peer.log")).unwrap();
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn();
    match child {
        Ok(child) => Some(Peer(child)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            peers::skip(program, error);
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

async fn until(what: &str, log: &Path, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..300 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let log = std::fs::read_to_string(log.join("peer.log")).unwrap_or_default();
    panic!("{what}: not within 30 s; the peer said:\n{log}");
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(LOOPBACK).unwrap();
    listener.local_addr().unwrap().port()
}

/// What both scrapers must bring about: every scrape in the store once, in
/// order and whole, energy in joules, staleness as a missing reading.
async fn scraped_by(program: &str, args: impl Fn(&Path, &Exporter, SocketAddr) -> Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    let mut app = world.app();
    app.clock = Arc::new(WallClock);
    // The store judges instants by the world's.
    world.clock.advance_to(WallClock.now());
    let server = serve(LOOPBACK.parse().unwrap(), app, Some("s3".into()))
        .await
        .unwrap();
    let exporter = Exporter::start().await;
    let args = args(directory.path(), &exporter, server.address());
    let Some(_peer) = spawn(program, directory.path(), &args) else {
        return;
    };
    // Power and energy of each GPU.
    let readings = async || {
        let mut all = Vec::new();
        for gpu in 0..8 {
            for metric in ["gpu_power_watts", "gpu_energy_joules_total"] {
                all.push(points(&world, metric, &format!("r05-n1-gpu{gpu}")).await);
            }
        }
        all
    };
    until("ten scrapes arrive", directory.path(), async || {
        readings().await.iter().all(|points| points.len() >= 10)
    })
    .await;
    exporter.is_up.store(false, Ordering::Relaxed);
    // All of an instant's series become stale together: nothing is carried on.
    until("staleness arrives", directory.path(), async || {
        (readings().await.iter()).all(|points| points.last() == Some(&None))
    })
    .await;
    let all = readings().await;
    for points in &all {
        // 1,000 mJ are 1 J; and what came in several requests came whole.
        assert_eq!(points, &all[0]);
    }
    let seen: Vec<f64> = all[0].iter().flatten().copied().collect();
    assert!(seen.is_sorted_by(|a, b| a < b), "none twice: {seen:?}");
    let unknown = get(server.address(), "/api/v1/unknown-metrics")
        .await
        .json();
    let names: Vec<_> = unknown["metrics"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"DCGM_FI_DEV_XID_ERRORS"), "{names:?}");
    assert!(names.contains(&"up"), "{names:?}");
    assert_eq!(unknown["refused"], serde_json::json!({}));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prometheus_feeds_us_as_it_is() {
    scraped_by("prometheus", |directory, exporter, us| {
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n\
             scrape_configs: [{{job_name: dcgm, static_configs: [{{targets: ['{}']}}]}}]\n\
             remote_write: [{{url: 'http://{us}/api/v1/write', authorization: {{credentials: s3}}, queue_config: {{batch_send_deadline: 100ms, max_samples_per_send: 50, min_shards: 3}}}}]\n",
            exporter.address
        );
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        vec![
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", directory.join("tsdb").display()),
            format!("--web.listen-address=127.0.0.1:{}", free_port()),
        ]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn vmagent_feeds_us_as_it_is() {
    scraped_by("vmagent", |directory, exporter, us| {
        let config = format!(
            "global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}\n\
             scrape_configs: [{{job_name: dcgm, static_configs: [{{targets: ['{}']}}]}}]\n",
            exporter.address
        );
        let file = directory.join("scrape.yml");
        std::fs::write(&file, config).unwrap();
        vec![
            format!("-promscrape.config={}", file.display()),
            format!("-remoteWrite.url=http://{us}/api/v1/write"),
            "-remoteWrite.bearerToken=s3".to_owned(),
            "-remoteWrite.flushInterval=100ms".to_owned(),
            format!(
                "-remoteWrite.tmpDataPath={}",
                directory.join("queue").display()
            ),
            format!("-httpListenAddr=127.0.0.1:{}", free_port()),
        ]
    })
    .await;
}

/// InfluxDB's own client for Python: what it makes of names with spaces, of
/// gzip, and of our answer to what cannot be true.
const CLIENT: &str = r#"
import sys
from influxdb_client import InfluxDBClient, Point, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS
from influxdb_client.rest import ApiException
url, at = sys.argv[1], int(sys.argv[2])
client = InfluxDBClient(url=url, token="s3", org="any", enable_gzip=True)
write = client.write_api(write_options=SYNCHRONOUS)
def gpu(index, watts):
    return (Point("nvidia_smi").tag("host", "r06-n2.example.org").tag("index", str(index))
        .tag("name", "NVIDIA H100, 80GB = HBM3").field("power_draw", watts).field("temperature_gpu", 61)
        .field("pstate", "P0 \"fast\"").time(at, WritePrecision.S))
write.write(bucket="any", record=[gpu(0, 431.25), gpu(1, 99.5)], write_precision=WritePrecision.S)
try:
    write.write(bucket="any", record=[gpu(2, 250.0), gpu(3, 1e9)], write_precision=WritePrecision.S)
    sys.exit("the impossible was accepted")
except ApiException as error:
    assert error.status == 400, error
    assert "out of range" in error.message, error.message
try:
    InfluxDBClient(url=url, token="bad", org="any").write_api(write_options=SYNCHRONOUS).write(bucket="b", record="a b=1")
    sys.exit("a wrong token was accepted")
except ApiException as error:
    assert error.status == 401, error
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn influxdbs_own_client_writes_as_it_is() {
    let Some(python) = peers::python("influxdb_client") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let world = World::new(directory.path());
    let server = start(&world, LOOPBACK, Some("s3")).await;
    let args = [
        "-c".to_owned(),
        CLIENT.to_owned(),
        format!("http://{}", server.address()),
        (now().0 / 1_000).to_string(),
    ];
    let client = tokio::task::spawn_blocking(move || Command::new(python).args(args).output());
    let output = client.await.unwrap().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for (gpu, watts) in [(0, 431.25), (1, 99.5), (2, 250.0)] {
        let found = points(&world, "gpu_power_watts", &format!("r06-n2-gpu{gpu}")).await;
        assert_eq!(found, [Some(watts)], "GPU {gpu}");
    }
    let impossible = points(&world, "gpu_power_watts", "r06-n2-gpu3").await;
    assert_eq!(impossible, []);
    assert_eq!(
        points(&world, "gpu_temperature_celsius", "r06-n2-gpu3").await,
        [Some(61.0)]
    );
    server.stop().await;
}
