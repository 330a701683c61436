//! 10,000 GPUs, 100,000 series: cost of writing, then answers at 100,000
//! samples a second as they come.

use crate::ask::percentile;
use crate::bodies::Bodies;
use crate::hall::Hall;
use crate::process::{Kind, Server};
use crate::small::{idle, peak};
use crate::{feed, last_minute, line, site};
use std::path::Path;
use std::time::{Duration, Instant};

const GPUS: usize = 10_000;
/// Seconds of data that go to one server, then to the other; and how often.
const ROUND: i64 = 15;
const ROUNDS: i64 = 6;
/// Seconds that are sent as they come.
const PACED: i64 = 20;

/// What a server of 100,008 GPUs uses while none of them reports.
pub fn idle_site(root: &Path) {
    let (path, _) = site("gigafactory");
    let servers = [Server::start(Kind::Ours { site: path }, root)];
    // The first rounds learn the site.
    std::thread::sleep(Duration::from_secs(5));
    idle(&servers, "of_a_site_of_100008_gpus");
    peak(&servers, "store_peak_memory_of_an_idle_site_of_100008_gpus");
}

/// Runs it.
pub fn run(root: &Path, with_peer: bool) {
    let (path, site) = site("lumi");
    let mut servers = vec![Server::start(Kind::Ours { site: path }, &root.join("ours"))];
    if with_peer {
        servers.push(Server::start(Kind::VictoriaMetrics, &root.join("theirs")));
    }
    let idle = idle(&servers, "100000_series");
    let mut bodies = Bodies::new(&site, GPUS);
    let mut hall = Hall::new(
        site.devices[..GPUS].iter().map(|d| d.id.clone()).collect(),
        1,
    );
    let begin = last_minute() - ROUND * ROUNDS - PACED;
    let mut next = {
        let mut second = 0;
        move || {
            second += 1;
            bodies.of(&hall.step(), (begin + second) * 1_000)
        }
    };
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); servers.len()];
    let first: Vec<f64> = servers.iter().map(Server::cpu_seconds).collect();
    let begun = Instant::now();
    for round in 0..ROUNDS {
        let all: Vec<Vec<u8>> = (0..ROUND).flat_map(|_| next()).collect();
        let mut order: Vec<usize> = (0..servers.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for place in order {
            let before = servers[place].cpu_seconds();
            feed::at_once(&servers[place], &all);
            let cpu = servers[place].cpu_seconds() - before;
            rates[place].push((ROUND * 100_000) as f64 / cpu.max(0.01));
        }
    }
    std::thread::sleep(Duration::from_secs(5));
    let samples = (ROUND * ROUNDS * 100_000) as f64;
    let whole: Vec<f64> = (servers.iter().zip(&first))
        .map(|(server, first)| samples / (server.cpu_seconds() - first))
        .collect();
    let name = "store_remote_write_per_cpu_second_100000_series";
    line(name, "samples/s", whole[0], whole.get(1).copied());
    // Without what the control loop of a site of this size takes meanwhile.
    let wall = begun.elapsed().as_secs_f64();
    let net: Vec<f64> = (whole.iter().zip(&idle))
        .map(|(rate, idle)| samples / (samples / rate - idle * wall).max(0.01))
        .collect();
    let name = "store_remote_write_per_cpu_second_100000_series_net_of_idle";
    line(name, "samples/s", net[0], net.get(1).copied());
    // The first round registers the series.
    let middle: Vec<f64> = rates.iter().map(|r| percentile(&r[1..], 0.5)).collect();
    let name = "store_remote_write_per_cpu_second_100000_series_median_round";
    line(name, "samples/s", middle[0], middle.get(1).copied());
    let seconds: Vec<Vec<Vec<u8>>> = (0..PACED).map(|_| next()).collect();
    let times: Vec<Vec<f64>> = (servers.iter().map(|s| feed::paced(s, &seconds))).collect();
    for (name, share) in [("p50", 0.5), ("p99", 0.99)] {
        let waits: Vec<f64> = times.iter().map(|t| percentile(t, share)).collect();
        let name = format!("store_remote_write_answer_{name}_at_100000_per_second");
        line(&name, "ms", waits[0], waits.get(1).copied());
    }
    peak(&servers, "store_peak_memory_100000_series");
}
