//! The hall of 2,500 series at 1 Hz, hours of it, and a year of one meter: cost
//! of writing, memory, questions, `kill -9`, bytes on disk.

use crate::ask::{Question, ask, percentile, same};
use crate::bodies::{Bodies, THEIR_POWER, of_one_series};
use crate::hall::{GPUS, Hall};
use crate::process::{Kind, Server, bytes_below};
use crate::{DIFFER, feed, last_minute, line, site};
use heliostat_models::Site;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Seconds of data that go to one server, then to the other.
const ROUND: i64 = 600;
/// The meter of the year.
const METER: &str = "meter-site";
const HOUR: i64 = 3_600;

/// Runs it; VictoriaMetrics' bytes a sample.
pub fn run(root: &Path, hours: i64, with_peer: bool) -> Option<f64> {
    let (path, site) = site("demo");
    let (ours, theirs) = (root.join("ours"), root.join("theirs"));
    let start = || {
        let mut servers = vec![Server::start(Kind::Ours { site: path.clone() }, &ours)];
        if with_peer {
            servers.push(Server::start(Kind::VictoriaMetrics, &theirs));
        }
        servers
    };
    let servers = start();
    idle(&servers, "2500_series");
    let end = last_minute();
    let samples = write(&servers, &site, end, hours);
    peak(&servers, "store_peak_memory_2500_series");
    fleet_and_gpus(&servers, &site, end, hours);
    peak(&servers, "store_peak_memory_2500_series_after_queries");
    let servers = kill(servers, end);
    if let Some(theirs) = servers.get(1) {
        theirs.get("/internal/force_flush", &[]).expect("flushed");
    }
    servers.into_iter().for_each(Server::stop);
    let per_sample = |directory: &Path| bytes_below(directory) as f64 / samples;
    let their_size = with_peer.then(|| per_sample(&theirs));
    line(
        "store_bytes_per_sample_with_log",
        "B",
        per_sample(&ours),
        their_size,
    );
    compact(&path, &ours);
    line(
        "store_bytes_per_sample_lossless",
        "B",
        per_sample(&ours),
        their_size,
    );
    let servers = start();
    year(&servers, end);
    servers.into_iter().for_each(Server::stop);
    compact(&path, &ours);
    of_a_year(&start(), end);
    their_size
}

/// What the servers use while nothing comes, seconds a second: ours runs a site's
/// control loop beside its store.
pub fn idle(servers: &[Server], what: &str) -> Vec<f64> {
    let before: Vec<f64> = servers.iter().map(Server::cpu_seconds).collect();
    std::thread::sleep(Duration::from_secs(5));
    let used: Vec<f64> = (servers.iter().zip(before))
        .map(|(server, before)| (server.cpu_seconds() - before) / 5.0)
        .collect();
    line(
        &format!("store_idle_cpu_{what}"),
        "s/s",
        used[0],
        used.get(1).copied(),
    );
    used
}

/// Prints the highest resident memory so far.
pub fn peak(servers: &[Server], name: &str) {
    let peak: Vec<f64> = servers.iter().map(Server::peak_megabytes).collect();
    line(name, "MB", peak[0], peak.get(1).copied());
}

/// Brings the files of a stopped server of ours together, as its keeper does in time.
fn compact(site: &Path, data: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_heliostat"))
        .args(["store", "compact", "--site"])
        .arg(site)
        .arg("--data")
        .arg(data)
        .output()
        .expect("heliostat store");
    assert!(output.status.success(), "{output:?}");
}

/// A meter's power for a year up to `end`, once a minute.
fn year(servers: &[Server], end: i64) {
    let samples: Vec<(i64, f64)> = (0..365 * 24 * 60)
        .map(|minute| {
            let at = end - 60 * (365 * 24 * 60 - minute);
            let day = (at % 86_400) as f64 / 86_400.0 * std::f64::consts::TAU;
            let noise = ((minute * 7_919) % 1_009) as f64;
            (
                at * 1_000,
                (140_000.0 + 20_000.0 * day.sin() + noise).round(),
            )
        })
        .collect();
    let labels = [("__name__", "meter_power_watts"), ("device", METER)];
    let bodies = of_one_series(&labels, &samples);
    for server in servers {
        feed::at_once(server, &bodies);
    }
}

/// Everything of the hall but its last minute goes in, in turn; how many samples.
fn write(servers: &[Server], site: &Site, end: i64, hours: i64) -> f64 {
    let mut bodies = Bodies::new(site, GPUS);
    let mut hall = Hall::new(
        site.devices[..GPUS].iter().map(|d| d.id.clone()).collect(),
        1,
    );
    let begin = end - hours * HOUR;
    let rounds = hours * HOUR / ROUND;
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); servers.len()];
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); servers.len()];
    let first: Vec<f64> = servers.iter().map(Server::cpu_seconds).collect();
    for round in 0..rounds {
        let all: Vec<Vec<u8>> = (0..ROUND)
            .flat_map(|second| {
                let at = (begin + round * ROUND + second + 1) * 1_000;
                bodies.of(&hall.step(), at)
            })
            .collect();
        let mut order: Vec<usize> = (0..servers.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for place in order {
            let before = servers[place].cpu_seconds();
            times[place].extend(feed::at_once(&servers[place], &all));
            let cpu = servers[place].cpu_seconds() - before;
            rates[place].push((ROUND as usize * bodies.samples()) as f64 / cpu.max(0.01));
        }
    }
    // What is put off after the answers belongs to them.
    std::thread::sleep(Duration::from_secs(5));
    let samples = (hours * HOUR) as f64 * bodies.samples() as f64;
    let whole: Vec<f64> = (servers.iter().zip(first))
        .map(|(server, first)| samples / (server.cpu_seconds() - first))
        .collect();
    let name = "store_remote_write_per_cpu_second_2500_series";
    line(name, "samples/s", whole[0], whole.get(1).copied());
    let middle: Vec<f64> = rates.iter().map(|r| percentile(r, 0.5)).collect();
    let name = "store_remote_write_per_cpu_second_2500_series_median_round";
    line(name, "samples/s", middle[0], middle.get(1).copied());
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let waits: Vec<f64> = times.iter().map(|t| percentile(t, share)).collect();
        let name = format!("store_remote_write_answer_{name}_2500_series");
        line(&name, "ms", waits[0], waits.get(1).copied());
    }
    samples
}

fn fleet_and_gpus(servers: &[Server], site: &Site, end: i64, hours: i64) {
    let fleet = |metric: &str| format!("sum by (rack) (avg_over_time({metric}[1m]))");
    let fleet = Question {
        ours: fleet("gpu_power_watts"),
        theirs: fleet(THEIR_POWER),
        start: end - hours * HOUR + 60,
        end,
        step: 60,
    };
    let name = format!("store_query_fleet_{hours}h");
    timed(servers, &name, "rack", 21, &[fleet]);
    let gpus: Vec<Question> = (0..200usize)
        .map(|n| {
            let device = &site.devices[n * 37 % GPUS];
            let node = site.nodes[device.node].id.as_str();
            let end = end - (n as i64 % 60) * 15;
            Question {
                ours: format!("gpu_power_watts{{device=\"{}\"}}", device.id),
                theirs: format!(
                    "{THEIR_POWER}{{Hostname=\"{node}\",gpu=\"{}\"}}",
                    device.index
                ),
                start: end - HOUR,
                end,
                step: 15,
            }
        })
        .collect();
    timed(servers, "store_query_one_gpu_last_hour", "rack", 1, &gpus);
}

fn of_a_year(servers: &[Server], end: i64) {
    let hour = end / HOUR * HOUR;
    let power = format!("avg_over_time(meter_power_watts{{device=\"{METER}\"}}[1h])");
    let facility = Question {
        ours: power.clone(),
        theirs: power,
        start: hour - 364 * 24 * HOUR,
        end: hour,
        step: HOUR,
    };
    timed(
        servers,
        "store_query_year_of_hours",
        "device",
        21,
        &[facility],
    );
}

/// Asks each server `rounds` times after one time to warm it, and prints the
/// median and the 99th percentile.
fn timed(servers: &[Server], name: &str, label: &str, rounds: usize, questions: &[Question]) {
    let mut answers = Vec::new();
    let mut times: Vec<Vec<f64>> = Vec::new();
    for server in servers {
        let (tables, _) = ask(server, questions, label);
        answers.push(tables);
        times.push(
            (0..rounds)
                .flat_map(|_| ask(server, questions, label).1)
                .collect(),
        );
    }
    if let [ours, theirs] = &answers[..] {
        let compared = same(ours, theirs).unwrap_or_else(|difference| {
            eprintln!("{name}: the answers differ: {difference}");
            DIFFER.store(true, Ordering::Relaxed);
            0
        });
        line(
            &format!("{name}_values_compared"),
            "1",
            compared as f64,
            None,
        );
    }
    for (what, share) in [("median", 0.5), ("p99", 0.99)] {
        let waits: Vec<f64> = times.iter().map(|t| percentile(t, share)).collect();
        line(
            &format!("{name}_{what}"),
            "ms",
            waits[0],
            waits.get(1).copied(),
        );
    }
}

/// The last minute's bodies, `kill -9` at the last answer, then: how long until
/// a question is answered, and what is lost.
fn kill(servers: Vec<Server>, end: i64) -> Vec<Server> {
    let labels = |device: &'static str| [("__name__", "meter_power_watts"), ("device", device)];
    let samples: Vec<(i64, f64)> = (0..5_000)
        .map(|n| ((end - 5_000 + n) * 1_000 + 500, 100_000.0 + n as f64))
        .collect();
    let bodies = of_one_series(&labels("meter-cooling"), &samples);
    let (mut ready, mut lost, mut alive) = (Vec::new(), Vec::new(), Vec::new());
    for server in servers {
        feed::at_once(&server, &bodies);
        let server = server.respawn_after_kill();
        // `None` before it answers.
        let count = |server: &Server, query: &str| -> Option<f64> {
            let path = format!("{}/query", server.prometheus());
            let time = end.to_string();
            let text = server
                .get(&path, &[("query", query), ("time", &time)])
                .ok()?;
            let answer: serde_json::Value = serde_json::from_str(&text).ok()?;
            let value = answer["data"]["result"][0]["value"][1].as_str();
            Some(value.and_then(|text| text.parse().ok()).unwrap_or(0.0))
        };
        let power = if server.is_ours() {
            "gpu_power_watts"
        } else {
            THEIR_POWER
        };
        // Ours is ready when it answers with what it had before; the peer, which may
        // have lost it, when it answers.
        let query = format!("count({power})");
        let time = server.wait_until(|server| match count(server, &query) {
            Some(found) => !server.is_ours() || found == GPUS as f64,
            None => false,
        });
        ready.push(time.as_secs_f64() * 1e3);
        let query = "sum(count_over_time(meter_power_watts{device=\"meter-cooling\"}[2h]))";
        lost.push(samples.len() as f64 - count(&server, query).unwrap_or(0.0));
        alive.push(server);
    }
    line(
        "store_ready_after_kill",
        "ms",
        ready[0],
        ready.get(1).copied(),
    );
    line(
        "store_samples_lost_by_kill_of_5000",
        "1",
        lost[0],
        lost.get(1).copied(),
    );
    alive
}
