//! Prometheus and VictoriaMetrics, started on the same samples.

use crate::data::{Sample, text};
use crate::programs::missing;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Points of a series: instant in milliseconds, value.
pub type Points = Vec<(i64, f64)>;
/// Labels as sorted text, and points.
pub type Table = BTreeMap<Vec<(String, String)>, Points>;

/// A server that ends with the test.
pub struct Peer {
    child: Child,
    base: String,
    agent: ureq::Agent,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

impl Peer {
    fn start(mut command: Command, address: &str, ready: &str) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(20)))
            .build()
            .into();
        let peer = Self {
            child,
            base: format!("http://{address}"),
            agent,
        };
        let end = Instant::now() + Duration::from_secs(60);
        while !peer
            .agent
            .get(format!("{}{ready}", peer.base))
            .call()
            .is_ok_and(|r| r.status().as_u16() == 200)
        {
            assert!(Instant::now() < end, "{command:?} does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        peer
    }

    /// Prometheus with these samples in blocks; none where it is not installed.
    pub fn prometheus(directory: &Path, samples: &[Sample]) -> Option<Self> {
        if missing("prometheus") || missing("promtool") {
            return None;
        }
        let (input, blocks, config) = ["in.txt", "blocks", "empty.yml"]
            .map(|n| directory.join(n))
            .into();
        std::fs::write(&input, format!("{}# EOF\n", text(samples, false))).unwrap();
        std::fs::write(&config, "").unwrap();
        let made = Command::new("promtool")
            .args(["tsdb", "create-blocks-from", "openmetrics"])
            .args([&input, &blocks])
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        let address = free_address();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", blocks.display()))
            .arg("--storage.tsdb.retention.time=100y")
            .arg(format!("--web.listen-address={address}"));
        Some(Self::start(command, &address, "/-/ready"))
    }

    /// VictoriaMetrics with these samples; none where it is not installed.
    pub fn victoria_metrics(directory: &Path, samples: &[Sample]) -> Option<Self> {
        if missing("victoria-metrics") {
            return None;
        }
        let address = free_address();
        let mut command = Command::new("victoria-metrics");
        command
            .arg(format!(
                "-storageDataPath={}",
                directory.join("vm").display()
            ))
            .arg(format!("-httpListenAddr={address}"))
            .arg("-retentionPeriod=100y");
        let peer = Self::start(command, &address, "/health");
        let sent = peer
            .agent
            .post(format!("{}/api/v1/import/prometheus", peer.base))
            .send(text(samples, true))
            .unwrap();
        assert!(sent.status().is_success());
        let flushed = peer
            .agent
            .get(format!("{}/internal/force_flush", peer.base))
            .call()
            .unwrap();
        assert!(flushed.status().is_success());
        Some(peer)
    }

    /// Its answer, or its error's text.
    pub fn query(&self, path: &str, parameters: &[(&str, String)]) -> Result<Table, String> {
        let mut request = self.agent.get(format!("{}{path}", self.base));
        for (name, value) in parameters {
            request = request.query(*name, value);
        }
        let text = request.call().unwrap().body_mut().read_to_string().unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        Ok(table(&answer["data"]))
    }
}

fn point(value: &Value) -> (i64, f64) {
    let at = (value[0].as_f64().unwrap() * 1_000.0).round() as i64;
    (at, value[1].as_str().unwrap().parse().unwrap())
}

fn table(data: &Value) -> Table {
    if data["resultType"] == "scalar" {
        return Table::from([(Vec::new(), vec![point(&data["result"])])]);
    }
    let mut table = Table::new();
    for series in data["result"].as_array().unwrap() {
        let labels = series["metric"].as_object().unwrap();
        let key = labels
            .iter()
            .map(|(n, v)| (n.clone(), v.as_str().unwrap().to_owned()))
            .collect();
        let points = match series["values"].as_array() {
            Some(all) => all.iter().map(point).collect(),
            None => vec![point(&series["value"])],
        };
        assert!(table.insert(key, points).is_none());
    }
    table
}
