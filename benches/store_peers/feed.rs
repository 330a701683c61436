//! Sends bodies and takes the time of each answer.

use crate::process::Server;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .into()
}

fn send(agent: &ureq::Agent, url: &str, body: &[u8]) -> f64 {
    loop {
        let begin = Instant::now();
        let mut answer = (agent.post(url))
            .header("Content-Encoding", "snappy")
            .header("Content-Type", "application/x-protobuf")
            .header("X-Prometheus-Remote-Write-Version", "0.1.0")
            .send(body)
            .unwrap_or_else(|e| panic!("{url}: {e}"));
        match answer.status().as_u16() {
            200 | 204 => return begin.elapsed().as_secs_f64() * 1e3,
            // As every sender does when it is told to come again.
            429 | 503 => std::thread::sleep(Duration::from_millis(50)),
            status => panic!(
                "{url}: {status} {}",
                answer.body_mut().read_to_string().unwrap_or_default()
            ),
        }
    }
}

/// One after the other over one connection; milliseconds until each answer.
pub fn at_once(server: &Server, bodies: &[Vec<u8>]) -> Vec<f64> {
    let (agent, url) = (agent(), server.url("/api/v1/write"));
    bodies.iter().map(|body| send(&agent, &url, body)).collect()
}

/// A second's bodies each second, spread over it, from four connections;
/// milliseconds until each answer.
pub fn paced(server: &Server, seconds: &[Vec<Vec<u8>>]) -> Vec<f64> {
    let begin = Instant::now();
    let mut due = VecDeque::new();
    for (second, bodies) in seconds.iter().enumerate() {
        for (place, body) in bodies.iter().enumerate() {
            let part = place as f64 / bodies.len() as f64;
            due.push_back((Duration::from_secs_f64(second as f64 + part), body));
        }
    }
    let (due, times) = (Mutex::new(due), Mutex::new(Vec::new()));
    let url = server.url("/api/v1/write");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let agent = agent();
                loop {
                    let Some((at, body)) = due.lock().expect("a lock").pop_front() else {
                        return;
                    };
                    std::thread::sleep((begin + at).saturating_duration_since(Instant::now()));
                    let time = send(&agent, &url, body);
                    times.lock().expect("a lock").push(time);
                }
            });
        }
    });
    times.into_inner().expect("a lock")
}
