//! `cargo xtask bench open-ingest`: remote write into a server of its own
//! process and into VictoriaMetrics, the same bodies one after the other, and
//! the processor time that each took. Ours answers when the samples are on
//! disk (one fsync a request here, since one sender waits for each answer);
//! VictoriaMetrics answers before.
//!
//! The samples are those of dcgm-exporter's nine metrics that the catalogue
//! knows, once a second. Bodies are as vmagent makes them: up to 10,000 samples,
//! of several instants where the hall is small; and for the small hall also one
//! body an instant, as a sender does that does not wait.
//!
//! `…_without_store` is the same server with a store that throws everything
//! away: what HTTP, decompression, reading and grouping cost by themselves.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a bench speaks on standard output, goes by the wall and may stop short"
)]

use heliostat_dashboard::App;
use heliostat_models::site::config;
use heliostat_models::{Frame, Site};
use heliostat_optimizer::view::{ControlView, ViewSender};
use heliostat_store::decisions::DecisionLog;
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::jobs::JobTable;
use heliostat_store::query::StoreStats;
use heliostat_store::{
    Answer, AppendReceipt, Clock, Query, StoreError, TimeSeriesStore, WallClock,
};
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The environment variable by which this program knows that it is the server.
const SERVE: &str = "HELIOSTAT_BENCH_SERVE";
/// dcgm-exporter's metrics and their values about a mean, in its units.
const METRICS: [(&str, f64, f64); 9] = [
    ("DCGM_FI_DEV_POWER_USAGE", 550.0, 120.0),
    ("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", 700.0, 0.0),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 4.0e12, 0.0),
    ("DCGM_FI_DEV_GPU_TEMP", 58.0, 3.0),
    ("DCGM_FI_DEV_GPU_UTIL", 90.0, 10.0),
    ("DCGM_FI_DEV_MEM_COPY_UTIL", 45.0, 12.0),
    ("DCGM_FI_DEV_FB_USED", 70_000.0, 300.0),
    ("DCGM_FI_DEV_SM_CLOCK", 1_800.0, 90.0),
    ("DCGM_FI_DEV_MEM_CLOCK", 2_619.0, 0.0),
];

fn main() {
    match std::env::var(SERVE) {
        Ok(args) => serve(&args),
        Err(_) => {
            for load in LOADS {
                compare(&load);
            }
        }
    }
}

/// What is sent.
struct Load {
    name: &'static str,
    site: &'static str,
    gpus: usize,
    /// Samples of a body at most; 0: one body an instant.
    body: usize,
    /// Seconds.
    instants: usize,
}

const LOADS: [Load; 3] = [
    Load {
        name: "2304_series",
        site: "demo",
        gpus: 256,
        body: 10_000,
        instants: 1_800,
    },
    Load {
        name: "2304_series_body_an_instant",
        site: "demo",
        gpus: 256,
        body: 0,
        instants: 900,
    },
    Load {
        name: "100008_series",
        site: "gigafactory",
        gpus: 11_112,
        body: 10_000,
        instants: 60,
    },
];

/// A store that keeps nothing.
#[derive(Default)]
struct Discard(AtomicU64);

#[async_trait::async_trait]
impl TimeSeriesStore for Discard {
    async fn append(&self, frames: Vec<Frame>) -> Result<AppendReceipt, StoreError> {
        let samples = frames.iter().map(|f| f.readings.len() as u64).sum();
        self.0.fetch_add(samples, Ordering::Relaxed);
        Ok(AppendReceipt {
            frames: frames.len() as u64,
            samples,
            ..AppendReceipt::default()
        })
    }
    async fn query(&self, query: &Query) -> Result<Answer, StoreError> {
        Ok(match query {
            Query::Latest { .. } => Answer::Frames(Vec::new()),
            _ => Answer::Series(Vec::new()),
        })
    }
    fn stats(&self) -> StoreStats {
        StoreStats {
            samples: self.0.load(Ordering::Relaxed),
            ..StoreStats::default()
        }
    }
}

fn site(name: &str) -> Site {
    let path = format!("{}/site-configs/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the site file");
    let loaded = config::load(&path, &text, config::LoadOptions::default());
    loaded.site.expect("the site is sound")
}

/// A server of store and dashboard alone, until it is killed.
fn serve(args: &str) {
    let mut args = args.splitn(3, ' ');
    let mut next = || args.next().expect("site, store and directory");
    let site = Arc::new(site(next()));
    let discards = next() == "discard";
    let directory = Path::new(next());
    let clock: Arc<dyn Clock> = Arc::new(WallClock);
    let store: Arc<dyn TimeSeriesStore> = if discards {
        Arc::new(Discard::default())
    } else {
        EmbeddedStore::open(directory, Arc::clone(&site), Arc::clone(&clock)).expect("the store")
    };
    let counted = Arc::clone(&store);
    let app = App {
        site,
        store,
        jobs: Arc::new(JobTable::open(directory).expect("the job table")),
        decisions: Arc::new(DecisionLog::open(directory).expect("the decisions")),
        view: ViewSender::new(Arc::new(ControlView::default())).subscribe(),
        control: None,
        clock,
        health: Arc::new(Default::default),
        title_note: None,
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let listen = "127.0.0.1:0".parse().expect("an address");
        let server = heliostat_dashboard::serve(listen, app, None)
            .await
            .expect("the server");
        println!("{}", server.address());
        // The parent closes standard input when it wants the number of samples.
        let wait = || std::io::stdin().read_to_end(&mut Vec::new());
        let _ = tokio::task::spawn_blocking(wait).await;
        println!("{}", counted.stats().samples);
        server.stop().await;
    });
}

/// A process that ends with the bench.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Server {
    /// Processor time so far: fields 14 and 15 of `stat`, in hundredths of a second.
    fn cpu_seconds(&self) -> f64 {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("stat");
        let after = text.rsplit_once(')').expect("a name in brackets").1;
        let fields: Vec<f64> = (after.split_whitespace().skip(11).take(2))
            .filter_map(|f| f.parse().ok())
            .collect();
        fields.iter().sum::<f64>() / 100.0
    }
}

fn compare(load: &Load) {
    let site = site(load.site);
    let series = load.gpus * METRICS.len();
    let count = series * load.instants;
    let samples = count as f64;
    let bodies = bodies(&site, load);
    let bytes: usize = bodies.iter().map(Vec::len).sum();
    eprintln!(
        "{series} series, {} instants, {} requests, {bytes} bytes",
        load.instants,
        bodies.len()
    );
    let print = |what: &str, unit: &str, ours: f64, theirs: Option<f64>| {
        let name = format!("remote_write_{what}_{}", load.name);
        let ratio = theirs.filter(|t| *t > 0.0).map(|t| ours / t);
        let peer = theirs.map(|_| "VictoriaMetrics");
        println!(
            "{}",
            json!({"name": name, "unit": unit, "ours": ours, "theirs": theirs, "ratio": ratio, "peer": peer})
        );
    };
    let directory = tempfile::tempdir().expect("a directory");
    let ours = |store: &str| {
        let (mut server, address) = our_server(load.site, store, directory.path());
        let fed = feed(&server, &address, &bodies);
        let stored = stored(&mut server);
        assert_eq!(stored, count, "all that was sent is stored");
        fed
    };
    let (without, _) = ours("discard");
    let (cpu, slowest) = ours("embedded");
    let theirs = victoria_metrics(directory.path())
        .map(|(server, address)| feed(&server, &address, &bodies));
    if theirs.is_none() {
        eprintln!("VictoriaMetrics is not installed (apt install victoria-metrics)");
    }
    print(
        "per_cpu_second",
        "samples/s",
        samples / cpu,
        theirs.map(|(cpu, _)| samples / cpu),
    );
    print(
        "per_cpu_second_without_store",
        "samples/s",
        samples / without,
        None,
    );
    print(
        "p99_answer",
        "ms",
        slowest * 1e3,
        theirs.map(|(_, slowest)| slowest * 1e3),
    );
}

fn our_server(site: &str, store: &str, directory: &Path) -> (Server, String) {
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .env(SERVE, format!("{site} {store} {}", directory.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the server starts");
    let mut line = String::new();
    let out = child.stdout.as_mut().expect("piped");
    // One byte at a time, so that nothing of the next line is swallowed.
    while !line.ends_with('\n') {
        let mut byte = [0];
        out.read_exact(&mut byte).expect("an address");
        line.push(char::from(byte[0]));
    }
    (Server(child), line.trim().to_owned())
}

fn stored(server: &mut Server) -> usize {
    drop(server.0.stdin.take());
    let out = server.0.stdout.take().expect("piped");
    let line = BufReader::new(out).lines().next().expect("a line");
    line.expect("text").parse().expect("a number")
}

fn victoria_metrics(directory: &Path) -> Option<(Server, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let child = Command::new("victoria-metrics")
        .arg(format!(
            "-storageDataPath={}",
            directory.join("vm").display()
        ))
        .arg(format!("-httpListenAddr={address}"))
        .arg("-retentionPeriod=100y")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let server = Server(child);
    for _ in 0..100 {
        if ureq::get(format!("http://{address}/health")).call().is_ok() {
            return Some((server, address));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("VictoriaMetrics does not answer");
}

/// Sends all bodies; processor seconds of the server, and the 99th percentile of its answers in seconds.
fn feed(server: &Server, address: &str, bodies: &[Vec<u8>]) -> (f64, f64) {
    let agent: ureq::Agent = ureq::Agent::config_builder().build().into();
    let url = format!("http://{address}/api/v1/write");
    let before = server.cpu_seconds();
    let mut times: Vec<f64> = bodies
        .iter()
        .map(|body| {
            let begun = Instant::now();
            let answer = (agent.post(&url))
                .header("Content-Encoding", "snappy")
                .header("Content-Type", "application/x-protobuf")
                .send(&body[..])
                .unwrap_or_else(|e| panic!("{url}: {e}"));
            assert_eq!(answer.status(), 204);
            begun.elapsed().as_secs_f64()
        })
        .collect();
    // What is put off after the answer belongs to it.
    std::thread::sleep(Duration::from_secs(3));
    let cpu = server.cpu_seconds() - before;
    times.sort_by(f64::total_cmp);
    (cpu.max(0.01), times[(times.len() - 1) * 99 / 100])
}

/// Requests with one sample a second of each series up to now, by rising time and
/// within an instant by node, as exporters are scraped.
fn bodies(site: &Site, load: &Load) -> Vec<Vec<u8>> {
    let mut rng = fastrand::Rng::with_seed(1);
    let end = WallClock.now().0;
    let devices = &site.devices[..load.gpus];
    let mut all = Vec::new();
    let mut message = Vec::new();
    let mut waiting = 0;
    let mut send = |message: &mut Vec<u8>| {
        let body = snap::raw::Encoder::new().compress_vec(message);
        all.push(body.expect("a body"));
        message.clear();
    };
    for instant in 0..load.instants {
        let at = end - 1_000 * (load.instants - instant) as i64;
        for node in devices.chunk_by(|a, b| a.node == b.node) {
            let more = node.len() * METRICS.len();
            if load.body > 0 && waiting + more > load.body {
                send(&mut message);
                waiting = 0;
            }
            waiting += more;
            for (metric, mean, spread) in METRICS {
                for device in node {
                    let gpu = device.index.to_string();
                    let labels = [
                        ("Hostname", site.nodes[device.node].id.as_str()),
                        ("UUID", device.id.as_str()),
                        ("__name__", metric),
                        ("gpu", gpu.as_str()),
                        ("instance", "10.0.0.1:9400"),
                        ("job", "dcgm"),
                        ("modelName", "NVIDIA H100 80GB HBM3"),
                    ];
                    let value = match metric {
                        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION" => mean + 550_000.0 * instant as f64,
                        _ => (mean + spread * (rng.f64() - 0.5)).round(),
                    };
                    series(&mut message, &labels, value, at);
                }
            }
        }
        if load.body == 0 {
            send(&mut message);
            waiting = 0;
        }
    }
    if waiting > 0 {
        send(&mut message);
    }
    all
}

fn series(message: &mut Vec<u8>, labels: &[(&str, &str)], value: f64, at: i64) {
    let mut bytes = Vec::new();
    for (name, value) in labels {
        let mut label = Vec::new();
        field(&mut label, 1, name.as_bytes());
        field(&mut label, 2, value.as_bytes());
        field(&mut bytes, 1, &label);
    }
    let mut sample = vec![1 << 3 | 1];
    sample.extend(value.to_bits().to_le_bytes());
    sample.push(2 << 3);
    varint(&mut sample, at.cast_unsigned());
    field(&mut bytes, 2, &sample);
    field(message, 1, &bytes);
}

fn field(out: &mut Vec<u8>, number: u8, content: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, content.len() as u64);
    out.extend(content);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
