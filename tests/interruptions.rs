//! Agents, broker and server killed while the hall runs: no acknowledged sample
//! lost, none doubled, caps back to safe values when leases end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failing test panics"
)]

mod support;

use heliostat_models::site::config;
use heliostat_models::{DeviceId, Site, Timestamp};
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::query::Selector;
use heliostat_store::{Query, TimeSeriesStore, WallClock};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::{Process, free_port, get_json, until};

const SITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sites/small.toml");
const NODES: [&str; 2] = ["r01-n1", "r01-n2"];
const SECOND: Duration = Duration::from_secs(1);

/// One whole hall at a time: the machines that run tests have few cores, and
/// a late sample must mean a fault, not a neighbour.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

struct Rig {
    dir: tempfile::TempDir,
    site: Arc<Site>,
    http: u16,
    mqtt: u16,
    _alone: MutexGuard<'static, ()>,
}

impl Rig {
    fn new() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let text = std::fs::read_to_string(SITE).unwrap();
        let loaded = config::load(SITE, &text, config::LoadOptions::default());
        let site = loaded.site.unwrap_or_else(|| panic!("{:?}", loaded.faults));
        Self {
            dir: tempfile::tempdir().unwrap(),
            site: Arc::new(site),
            http: free_port(),
            mqtt: free_port(),
            _alone: alone,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    fn server(&self, own_broker: bool) -> Process {
        let data = self.text("data");
        let http = format!("127.0.0.1:{}", self.http);
        let mqtt = format!("127.0.0.1:{}", self.mqtt);
        let broker = if own_broker {
            "--mqtt-listen"
        } else {
            "--broker"
        };
        let args = [
            "run", "--site", SITE, "--data", &data, "--http", &http, broker, &mqtt, "--arm",
        ];
        let mut server = Process::heliostat(self.dir.path(), "server", &args);
        server.line_with("mqtt", Duration::from_secs(30));
        server
    }

    fn twin(&self) -> Process {
        let boards = self.text("boards");
        let mqtt = format!("127.0.0.1:{}", self.mqtt);
        let twin = Process::heliostat(
            self.dir.path(),
            "twin",
            &[
                "simulate", "--site", SITE, "--boards", &boards, "--mqtt", &mqtt,
            ],
        );
        until(
            "boards",
            Duration::from_secs(30),
            || NODES.iter().all(|n| self.library(n).exists()),
            |there| *there,
        );
        twin
    }

    fn library(&self, node: &str) -> PathBuf {
        self.path("boards").join(node).join("libnvidia-ml.so.1")
    }

    fn agent(&self, node: &str) -> Process {
        let mqtt = format!("127.0.0.1:{}", self.mqtt);
        let spool = self.text(&format!("spool-{node}"));
        let library = self.library(node).to_string_lossy().into_owned();
        let args = [
            "agent",
            "--site",
            SITE,
            "--node",
            node,
            "--mqtt",
            &mqtt,
            "--spool",
            &spool,
            "--nvml-lib",
            &library,
            "--arm",
            "--sources",
            "nvml",
        ];
        Process::heliostat(self.dir.path(), &format!("agent-{node}"), &args)
    }

    /// GPUs of which the server has heard within the last five seconds.
    fn gpus_heard(&self) -> usize {
        let Some(answer) = get_json(&self.base(), "/api/v1/latest?kind=gpu") else {
            return 0;
        };
        let now = jiff_now();
        let frames = answer["devices"].as_array().cloned().unwrap_or_default();
        frames
            .iter()
            .filter_map(|f| Timestamp::parse(f["at"].as_str()?))
            .filter(|at| now.seconds_since(*at) < 5.0)
            .count()
    }

    fn wait_for_all_gpus(&self) {
        until(
            "every GPU heard of",
            Duration::from_secs(40),
            || self.gpus_heard(),
            |n| *n == self.site.devices.len(),
        );
    }

    /// Instants (s) and values of a metric of a device, read from the store after the server has ended.
    fn stored(&self, device: &DeviceId, metric: &str) -> Vec<(i64, f64)> {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = EmbeddedStore::open(
                &self.path("data").join("store"),
                Arc::clone(&self.site),
                Arc::new(WallClock),
            )
            .unwrap();
            let query = Query::Range {
                metric: metric.to_owned(),
                select: Selector {
                    devices: vec![device.clone()],
                    labels: vec![],
                },
                from: Timestamp(0),
                to: Timestamp(i64::MAX / 2),
            };
            let series = store.query(&query).await.unwrap().series();
            let points = series.into_iter().flat_map(|s| s.points);
            points
                .filter_map(|p| Some((p.at.0.div_euclid(1_000), p.value?)))
                .collect()
        })
    }
}

fn jiff_now() -> Timestamp {
    use heliostat_store::Clock;
    WallClock.now()
}

/// Longest distance between neighbours, and whether any instant stands twice.
fn gaps(points: &[(i64, f64)]) -> (i64, bool) {
    let longest = points
        .windows(2)
        .map(|w| w[1].0 - w[0].0)
        .max()
        .unwrap_or(i64::MAX);
    let unique: BTreeSet<i64> = points.iter().map(|p| p.0).collect();
    (longest, unique.len() != points.len())
}

/// A killed or absent part in between may cost no sample: at most one second
/// may be missing at a time (a late reading is counted as missed, not lost).
fn assert_unbroken(rig: &Rig, nodes: &[&str]) {
    for device in rig
        .site
        .devices
        .iter()
        .filter(|d| nodes.contains(&rig.site.nodes[d.node].id.as_str()))
    {
        let points = rig.stored(&device.id, "gpu_power_watts");
        let (longest, doubled) = gaps(&points);
        assert!(
            points.len() > 10,
            "{}: only {} samples",
            device.id,
            points.len()
        );
        assert!(longest <= 2, "{}: a gap of {longest} s", device.id);
        assert!(!doubled, "{}: an instant is stored twice", device.id);
    }
}

#[test]
fn the_server_is_killed_caps_become_safe_and_no_sample_is_lost() {
    let rig = Rig::new();
    let mut server = rig.server(true);
    let mut twin = rig.twin();
    let mut agents: Vec<Process> = NODES.iter().map(|n| rig.agent(n)).collect();
    rig.wait_for_all_gpus();
    let capped = || {
        get_json(&rig.base(), "/api/v1/control")
            .and_then(|c| {
                // In charge, and every command answered: hellos alone acknowledge too.
                let answered = c["state"] == "armed" && c["health"]["unanswered"] == 0;
                c["caps"].as_object().filter(|_| answered).map(|caps| {
                    caps.values()
                        .filter(|c| c["acknowledged"].is_number())
                        .count() as u64
                })
            })
            .unwrap_or(0)
    };
    until("caps acknowledged", Duration::from_secs(30), capped, |n| {
        *n as usize == rig.site.devices.len()
    });
    let killed = jiff_now();
    server.kill();
    // Leases of this site last 6 s.
    std::thread::sleep(9 * SECOND);
    let restarted = jiff_now();
    let mut server = rig.server(true);
    rig.wait_for_all_gpus();
    std::thread::sleep(3 * SECOND);
    for agent in &mut agents {
        assert_eq!(agent.terminate(20 * SECOND), Some(0));
    }
    assert_eq!(server.terminate(20 * SECOND), Some(0));
    twin.kill();
    assert_unbroken(&rig, &NODES);
    let mut otherwise = 0;
    for device in &rig.site.devices {
        let limits = rig.stored(&device.id, "gpu_power_limit_watts");
        let is_safe = |watts: f64| (watts - device.safe_cap.get()).abs() < 0.5;
        otherwise += limits
            .iter()
            .filter(|(at, w)| at * 1_000 < killed.0 && !is_safe(*w))
            .count();
        let silent = |at: i64| at * 1_000 > killed.0 + 7_500 && at * 1_000 < restarted.0;
        let safe: Vec<f64> = limits
            .iter()
            .filter(|(at, _)| silent(*at))
            .map(|(_, w)| *w)
            .collect();
        assert!(
            !safe.is_empty(),
            "{}: no sample from the silence",
            device.id
        );
        assert!(
            safe.iter().all(|w| is_safe(*w)),
            "{}: {safe:?} instead of {}",
            device.id,
            device.safe_cap
        );
    }
    assert!(
        otherwise > 0,
        "no cap differed from the safe one while control ran, so nothing was shown"
    );
}

#[test]
fn an_agent_is_killed_and_restarted_and_costs_only_its_own_absence() {
    let rig = Rig::new();
    let mut server = rig.server(true);
    let mut twin = rig.twin();
    let mut first = rig.agent(NODES[0]);
    let mut second = rig.agent(NODES[1]);
    rig.wait_for_all_gpus();
    std::thread::sleep(4 * SECOND);
    let killed = jiff_now().0 / 1_000;
    first.kill();
    std::thread::sleep(4 * SECOND);
    let mut first = rig.agent(NODES[0]);
    rig.wait_for_all_gpus();
    std::thread::sleep(4 * SECOND);
    for agent in [&mut first, &mut second] {
        assert_eq!(agent.terminate(20 * SECOND), Some(0));
    }
    assert_eq!(server.terminate(20 * SECOND), Some(0));
    twin.kill();
    assert_unbroken(&rig, &NODES[1..]);
    for device in rig
        .site
        .devices
        .iter()
        .filter(|d| rig.site.nodes[d.node].id.as_str() == NODES[0])
    {
        let points = rig.stored(&device.id, "gpu_power_watts");
        let (before, after): (Vec<_>, Vec<_>) =
            points.iter().copied().partition(|(at, _)| *at <= killed);
        for part in [&before, &after] {
            let (longest, doubled) = gaps(part);
            assert!(
                longest <= 2 && !doubled,
                "{}: gap {longest} s, doubled {doubled}",
                device.id
            );
        }
        let last = before.last().unwrap().0;
        assert!(
            killed - last <= 2,
            "{}: {} s before the kill are lost",
            device.id,
            killed - last
        );
    }
}

#[test]
fn the_broker_is_gone_for_a_while_and_no_sample_is_lost() {
    if support::peers::missing("mosquitto") {
        return;
    }
    let rig = Rig::new();
    let broker = || {
        let mut command = Command::new("mosquitto");
        command.args(["-p", &rig.mqtt.to_string()]);
        Process::start(rig.dir.path(), "mosquitto", command)
    };
    let mut mosquitto = broker();
    let mut server = rig.server(false);
    let mut twin = rig.twin();
    let mut agents: Vec<Process> = NODES.iter().map(|n| rig.agent(n)).collect();
    rig.wait_for_all_gpus();
    mosquitto.kill();
    std::thread::sleep(6 * SECOND);
    let mut mosquitto = broker();
    rig.wait_for_all_gpus();
    std::thread::sleep(4 * SECOND);
    for agent in &mut agents {
        assert_eq!(agent.terminate(20 * SECOND), Some(0));
    }
    assert_eq!(server.terminate(20 * SECOND), Some(0));
    mosquitto.kill();
    twin.kill();
    assert_unbroken(&rig, &NODES);
}
