//! Grafana's Prometheus data source, unchanged: the requests that it sends, word
//! for word, to us and to Prometheus with the same samples; the answers must be
//! the same.
//!
//! The requests are those of Grafana's backend (`pkg/promlib`: forms by POST,
//! times as seconds with decimals, steps as seconds) and of its query editor
//! and template variables (`packages/grafana-prometheus`: `labels`, `series`,
//! label values with `match[]`, `metadata`, `query_exemplars`, `rules`).
//!
//! Needs Debian's `prometheus`; skipped with a line where it is missing, unless
//! HELIOSTAT_PEERS=required.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests say what they expect, and wait for another program by the wall"
)]

#[path = "../../tests/support/peers.rs"]
mod peers;
mod support;

use heliostat_dashboard::{Server, serve};
use heliostat_models::{Catalogue, DeviceId, Frame, Reading, Timestamp};
use heliostat_store::TimeSeriesStore;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::World;
use support::http::{Answer, get, request};

/// Half an hour before the clock of the world, seconds since 1970.
const T0: i64 = 1_551_449_100 - 1_800;
const DEVICES: [&str; 3] = ["r01-n1-gpu0", "r01-n1-gpu1", "r02-n3-gpu5"];

/// Where the API is, and who speaks there.
struct Api {
    address: SocketAddr,
    prefix: &'static str,
}

impl Api {
    /// A GET, or a POST where there is a form.
    async fn ask(&self, path: &str, form: Option<&str>) -> Answer {
        let path = format!("{}/api/v1/{path}", self.prefix);
        let mut answer = match form {
            None => get(self.address, &path).await,
            Some(form) => {
                let kind = [("Content-Type", "application/x-www-form-urlencoded")];
                request(self.address, "POST", &path, &kind, form).await
            }
        };
        if answer
            .head
            .to_lowercase()
            .contains("transfer-encoding: chunked")
        {
            answer.body = joined(&answer.body);
        }
        answer
    }
}

/// A body that came in chunks: length in hexadecimal, line, that many bytes, line.
fn joined(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = chunks.windows(2).position(|w| w == b"\r\n") {
        let length = str::from_utf8(&chunks[..end]).unwrap();
        let length = usize::from_str_radix(length.trim(), 16).unwrap();
        body.extend(&chunks[end + 2..end + 2 + length]);
        chunks = &chunks[(end + 4 + length).min(chunks.len())..];
    }
    body
}

/// Watts and degrees every 15 seconds; the third GPU is silent for a while.
fn samples() -> Vec<(&'static str, usize, i64, f64)> {
    let mut all = Vec::new();
    for (place, _) in DEVICES.iter().enumerate() {
        for step in 0..120i64 {
            if place == 2 && (40..70).contains(&step) {
                continue;
            }
            let watts = 300.0 + ((step * 37 + place as i64 * 11) % 97) as f64 * 2.5;
            let at = (T0 + step * 15) * 1_000 + 250;
            all.push(("gpu_power_watts", place, at, watts));
            all.push(("gpu_temperature_celsius", place, at, (watts / 10.0).round()));
        }
    }
    all
}

async fn ours(directory: &Path) -> (World, Server) {
    let world = World::new(directory);
    let catalogue = Catalogue::builtin();
    let frames = (samples().chunks(2))
        .map(|pair| Frame {
            device: DeviceId::from(DEVICES[pair[0].1]),
            at: Timestamp(pair[0].2),
            readings: (pair.iter())
                .map(|(name, _, _, value)| (catalogue.id(name).unwrap(), Reading::Measured(*value)))
                .collect(),
        })
        .collect();
    world.store.append(frames).await.unwrap();
    let listen = "127.0.0.1:0".parse().unwrap();
    let server = serve(listen, world.app(), None).await.unwrap();
    (world, server)
}

struct Prometheus(Child, SocketAddr);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Prometheus on the same samples; none where it is not installed.
fn prometheus(directory: &Path, world: &World) -> Option<Prometheus> {
    if peers::missing("prometheus") || peers::missing("promtool") {
        return None;
    }
    let mut text = String::new();
    let mut samples = samples();
    samples.sort_by_key(|s| (s.0, s.1, s.2));
    for (name, place, at, value) in samples {
        let known = world.site.labels(&DeviceId::from(DEVICES[place])).unwrap();
        writeln!(
            text,
            "{name}{{device=\"{}\",hall=\"{}\",kind=\"{}\",node=\"{}\",rack=\"{}\",row=\"{}\",site=\"{}\"}} {value} {}.{:03}",
            DEVICES[place], known.hall, known.kind, known.node, known.rack, known.row, world.site.id, at / 1_000, at % 1_000,
        )
        .unwrap();
    }
    let [input, blocks, config] = ["in.txt", "blocks", "empty.yml"].map(|n| directory.join(n));
    std::fs::write(&input, format!("{text}# EOF\n")).unwrap();
    std::fs::write(&config, "").unwrap();
    let made = (Command::new("promtool").args(["tsdb", "create-blocks-from", "openmetrics"]))
        .args([&input, &blocks])
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", blocks.display()))
        .arg("--storage.tsdb.retention.time=100y")
        .arg("--enable-feature=exemplar-storage")
        .arg(format!("--web.listen-address={address}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Some(Prometheus(child, address))
}

/// What is asked: path, form of a POST, and how the answers compare.
struct Case {
    path: &'static str,
    form: Option<&'static str>,
    judge: Judge,
}

#[derive(Clone, Copy, Debug)]
enum Judge {
    /// The same data.
    Same,
    /// The same members and types in the data; what they say is the server's own.
    Shape,
    /// The same refusal.
    Refused,
}

const fn get_of(path: &'static str) -> Case {
    let (form, judge) = (None, Judge::Same);
    Case { path, form, judge }
}

const fn post(path: &'static str, form: &'static str) -> Case {
    Case {
        path,
        form: Some(form),
        judge: Judge::Same,
    }
}

const fn judged(case: Case, judge: Judge) -> Case {
    Case { judge, ..case }
}

const CASES: &[Case] = &[
    // "Save & test".
    post("query", "query=1%2B1&time=1551449100.123"),
    judged(get_of("status/buildinfo"), Judge::Shape),
    // Template variables and the query editor's lists.
    get_of("labels?start=1551445500&end=1551449100"),
    post(
        "labels",
        "start=1551445500&end=1551449100&match%5B%5D=gpu_power_watts",
    ),
    get_of("label/__name__/values?start=1551445500&end=1551449100"),
    get_of("label/__name__/values?start=1551445500&end=1551449100&limit=40000"),
    get_of(
        "label/device/values?start=1551445500&end=1551449100&match%5B%5D=gpu_power_watts%7Brack%3D%22r01%22%7D",
    ),
    get_of(
        "label/device/values?match[]=%7B__name__%3D%22gpu_power_watts%22%2Crack%3D~%22r0.%2B%22%7D&start=1551445500.5&end=1551449100.25",
    ),
    get_of("label/no_such_label/values?start=1551445500&end=1551449100"),
    get_of("series?match%5B%5D=gpu_power_watts&start=1551445500&end=1551449100"),
    post(
        "series",
        "match%5B%5D=%7Bdevice%3D%22r01-n1-gpu0%22%7D&start=1551445500&end=1551449100&limit=40000",
    ),
    judged(get_of("metadata"), Judge::Shape),
    judged(
        get_of("metadata?limit=5000&limit_per_metric=1"),
        Judge::Shape,
    ),
    get_of("metadata?metric=no_such_metric"),
    // Panels: ranges as forms, steps in every spelling.
    post(
        "query_range",
        "query=gpu_power_watts&start=1551447300&end=1551449100&step=15s",
    ),
    post(
        "query_range",
        "query=gpu_power_watts&start=1551447300&end=1551449100&step=60",
    ),
    post(
        "query_range",
        "query=gpu_power_watts&start=1551447300.123&end=1551449099.877&step=37.5",
    ),
    post(
        "query_range",
        "query=gpu_power_watts&start=2019-03-01T13%3A35%3A00Z&end=2019-03-01T14%3A05%3A00.5Z&step=1m30s",
    ),
    post(
        "query_range",
        "query=sum%20by%20(rack)%20(avg_over_time(gpu_power_watts%5B1m%5D))&start=1551447300&end=1551449100&step=30&timeout=30s",
    ),
    post(
        "query_range",
        "query=avg(rate(gpu_temperature_celsius%5B5m0s%5D))%20by%20(node)&start=1551447300&end=1551449100&step=60",
    ),
    post(
        "query_range",
        "query=topk(1%2C%20gpu_power_watts)&start=1551447300&end=1551448000&step=60",
    ),
    post(
        "query_range",
        "query=no_such_metric&start=1551447300&end=1551449100&step=15",
    ),
    get_of(
        "query_range?query=max%28gpu_temperature_celsius%29&start=1551447300&end=1551449100&step=15",
    ),
    // Stat panels, tables and the editor's own probes.
    post("query", "query=gpu_power_watts&time=1551449000"),
    post("query", "query=gpu_power_watts&time=1551449000.25"),
    get_of("query?query=count%28gpu_power_watts%29&time=1551449000.999"),
    post(
        "query",
        "query=gpu_power_watts%7Bdevice%3D%22r01-n1-gpu0%22%7D%5B1m%5D&time=1551449000",
    ),
    post("query", "query=%22text%22&time=1551449000"),
    // Exemplars, rules and alerts: there are none.
    post(
        "query_exemplars",
        "query=gpu_power_watts&start=1551447300&end=1551449100",
    ),
    get_of("query_exemplars?query=gpu_power_watts&start=1551447300&end=1551449100"),
    get_of("rules"),
    get_of("rules?type=record"),
    get_of("alerts"),
    // Mistakes that a user makes in the editor.
    judged(
        post(
            "query_range",
            "query=sum(gpu_power_watts&start=1551447300&end=1551449100&step=15",
        ),
        Judge::Refused,
    ),
    judged(
        post(
            "query_range",
            "query=gpu_power_watts&start=1551447300&end=1551449100&step=0",
        ),
        Judge::Refused,
    ),
    judged(
        post(
            "query_range",
            "query=gpu_power_watts&start=1551447300&end=1551549100&step=1",
        ),
        Judge::Refused,
    ),
    judged(
        post(
            "query_range",
            "query=gpu_power_watts&start=1551449100&end=1551447300&step=15",
        ),
        Judge::Refused,
    ),
    judged(
        post(
            "query_range",
            "query=gpu_power_watts%5B5m%5D&start=1551447300&end=1551449100&step=15",
        ),
        Judge::Refused,
    ),
    judged(
        post(
            "query",
            "query=gpu_power_watts%20%2B%20on(rack)%20gpu_power_watts&time=1551449000",
        ),
        Judge::Refused,
    ),
    judged(post("query", "query=1&time=soon"), Judge::Refused),
    judged(get_of("series"), Judge::Refused),
    judged(get_of("label/0x/values"), Judge::Refused),
    judged(get_of("metadata?limit=x"), Judge::Refused),
    judged(
        get_of("query_exemplars?query=x&start=5&end=1"),
        Judge::Refused,
    ),
];

/// Series in the order of their labels: Prometheus promises none.
fn in_order(mut data: Value) -> Value {
    for list in [data.pointer_mut("/result")].into_iter().flatten() {
        if let Some(series) = list
            .as_array_mut()
            .filter(|all| all.iter().all(Value::is_object))
        {
            series.sort_by_key(|one| one["metric"].to_string());
        }
    }
    data
}

/// Numbers that are the same but for the last digits of a sum.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.keys().eq(b.keys()) && a.iter().all(|(key, value)| same(value, &b[key]))
        }
        (Value::String(a), Value::String(b)) => {
            a == b
                || (a.parse::<f64>().ok().zip(b.parse::<f64>().ok()))
                    .is_some_and(|(a, b)| (a - b).abs() <= 1e-12 * a.abs())
        }
        (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

/// Names of members and kinds of values; members named by data count as one.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(all) if !all.is_empty() && all.values().all(Value::is_string) => {
            json!(all.keys().collect::<BTreeSet<_>>())
        }
        Value::Object(_) => json!("members"),
        Value::Array(_) => json!("list"),
        other => json!(other.is_string()),
    }
}

fn difference(case: &Case, ours: &Answer, theirs: &Answer) -> Option<String> {
    let kind = |answer: &Answer| {
        (answer.head.lines())
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-type"))
            .map(|(_, kind)| kind.trim().to_owned())
    };
    if ours.status != theirs.status {
        return Some(format!(
            "status {} and {}: {} {}",
            ours.status,
            theirs.status,
            ours.text(),
            theirs.text()
        ));
    }
    if kind(ours) != kind(theirs) {
        return Some(format!(
            "content type {:?} and {:?}",
            kind(ours),
            kind(theirs)
        ));
    }
    let (a, b) = (ours.json(), theirs.json());
    let equal = match case.judge {
        Judge::Same => {
            a["status"] == b["status"]
                && same(&in_order(a["data"].clone()), &in_order(b["data"].clone()))
        }
        Judge::Shape => a["status"] == b["status"] && shape(&a["data"]) == shape(&b["data"]),
        Judge::Refused => {
            a["status"] == "error" && a["errorType"] == b["errorType"] && a["error"].is_string()
        }
    };
    (!equal).then(|| format!("{:?}\n    ours   {a}\n    theirs {b}", case.judge))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_grafana_asks_is_answered_as_prometheus_answers() {
    let directory = tempfile::tempdir().unwrap();
    let (world, server) = ours(directory.path()).await;
    let Some(peer) = prometheus(directory.path(), &world) else {
        server.stop().await;
        return;
    };
    let end = Instant::now() + Duration::from_secs(60);
    while tokio::net::TcpStream::connect(peer.1).await.is_err()
        || get(peer.1, "/-/ready").await.status != 200
    {
        assert!(Instant::now() < end, "Prometheus does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let us = |prefix| Api {
        address: server.address(),
        prefix,
    };
    let them = Api {
        address: peer.1,
        prefix: "",
    };
    let mut faults = Vec::new();
    for case in CASES {
        let theirs = them.ask(case.path, case.form).await;
        let ours = us("/prometheus").ask(case.path, case.form).await;
        let fault = difference(case, &ours, &theirs);
        faults.extend(fault.map(|f| format!("{} {:?}: {f}", case.path, case.form)));
    }
    assert!(
        faults.is_empty(),
        "{} differences:\n{}",
        faults.len(),
        faults.join("\n")
    );
    // Prometheus knows no metadata of what it did not scrape; their form is documented.
    let about = us("/prometheus").ask("metadata", None).await.json();
    for (name, entries) in about["data"].as_object().unwrap() {
        let keys = ["help", "type", "unit"];
        let entry = entries[0].as_object().unwrap();
        assert!(
            entry.keys().eq(keys) && entry.values().all(Value::is_string),
            "{name}"
        );
    }
    // A data source may name the server without the prefix as well.
    let form = "query=gpu_power_watts&start=1551447300&end=1551449100&step=15s";
    let with = us("/prometheus")
        .ask("query_range", Some(form))
        .await
        .json();
    assert_eq!(us("").ask("query_range", Some(form)).await.json(), with);
    server.stop().await;
}
