//! The InfluxDB 2 engine: its lines into VictoriaMetrics' `/api/v2/write`, and
//! its questions to a server that gives recorded answers.
//!
//! The answers in `tests/data/flux_*.csv` are annotated CSV after InfluxDB 2's
//! documentation (annotations datatype, group and default; CRLF; an empty line
//! between tables; errors as a table with `error` and `reference`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod remote_support;

use heliostat_models::site::config;
use heliostat_models::{Catalogue, DeviceId, Frame, Quality, Reading, Site, Timestamp};
use heliostat_store::influxdb2::InfluxDb2;
use heliostat_store::query::{AcrossDevices, Label, OverTime, Point, Selector, Series};
use heliostat_store::remote::{Engine, Options, RemoteStore};
use heliostat_store::{Query, SteppedClock, StoreError, TimeSeriesStore};
use remote_support::VictoriaProcess;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// 2023-07-22T04:26:40Z.
const T: i64 = 1_690_000_000_000;

fn site() -> Arc<Site> {
    let loaded = config::load("demo.toml", config::builtin_demo(), Default::default());
    Arc::new(loaded.site.unwrap())
}

fn frame(at: i64) -> Frame {
    Frame {
        device: DeviceId::from("r01-n1-gpu0"),
        at: Timestamp(at),
        readings: vec![
            (Catalogue::gpu_power(), Reading::Estimated(412.5)),
            (Catalogue::gpu_temperature(), Reading::Missing),
        ],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_lines_are_taken_by_victoriametrics() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = VictoriaProcess::start(directory.path()) else {
        return;
    };
    let engine = InfluxDb2::new(&server.url(), "o", "b", "", site()).unwrap();
    let frames = (0..10).map(|n| frame(T + n * 1_000)).collect();
    engine.write(frames).await.unwrap();
    let url = server.url();
    let mut found = String::new();
    for _ in 0..100 {
        let url = url.clone();
        found = tokio::task::spawn_blocking(move || {
            (ureq::post(format!("{url}/api/v1/export")))
                .send_form([
                    ("match[]", "{device=\"r01-n1-gpu0\"}"),
                    ("start", "1690000000"),
                ])
                .unwrap()
                .body_mut()
                .read_to_string()
                .unwrap()
        })
        .await
        .unwrap();
        if found.lines().count() == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // VictoriaMetrics names a series measurement_field.
    let mut names = Vec::new();
    for line in found.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["metric"]["rack"], "r01");
        assert_eq!(line["timestamps"].as_array().unwrap().len(), 10);
        assert_eq!(line["timestamps"][9], T + 9_000);
        let name = line["metric"]["__name__"].as_str().unwrap().to_owned();
        names.push((name, line["values"][0].as_f64().unwrap()));
    }
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("heliostat_gpu_power_watts", 412.5),
        ("heliostat_gpu_power_watts_quality", 1.0),
        ("heliostat_gpu_temperature_celsius_quality", 2.0),
        ("heliostat_heliostat_frame", 2.0),
    ];
    assert_eq!(
        names,
        expected.map(|(name, value)| (name.to_owned(), value))
    );
}

/// What was asked: first line, `Authorization`, body.
type Asked = Arc<Mutex<Vec<(String, String, String)>>>;

/// A server with recorded answers; `answer` picks one by path and body.
fn recorded(
    answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static,
) -> (String, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let noted = Arc::clone(&asked);
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (noted, answer) = (Arc::clone(&noted), Arc::clone(&answer));
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut first, mut length, mut token) = (String::new(), 0, String::new());
                if reader.read_line(&mut first).unwrap_or(0) == 0 {
                    return;
                }
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    match line.trim_end().split_once(": ") {
                        None => break,
                        Some((key, value)) => match key.to_ascii_lowercase().as_str() {
                            "content-length" => length = value.parse().unwrap(),
                            "authorization" => value.clone_into(&mut token),
                            _ => {}
                        },
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                let body = String::from_utf8(body).unwrap();
                let path = first.split(' ').nth(1).unwrap().to_owned();
                let (status, text) = answer(&path, &body);
                noted.lock().unwrap().push((path, token, body));
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    text.len()
                );
                let _ = stream.write_all(format!("{head}{text}").as_bytes());
            });
        }
    });
    (url, asked)
}

/// Answers as an InfluxDB with the recorded data does.
fn influx(path: &str, body: &str) -> (u16, String) {
    if path.starts_with("/ready") {
        return (200, "{\"status\":\"ready\"}".to_owned());
    }
    if path.starts_with("/api/v2/write") {
        return (204, String::new());
    }
    let text = if body.contains("fn: mean") {
        include_str!("data/flux_mean.csv")
    } else if body.contains("fn: count") {
        include_str!("data/flux_count.csv")
    } else if body.contains("last()") {
        include_str!("data/flux_last.csv")
    } else if body.contains("gpu_power_watts_quality") {
        include_str!("data/flux_range.csv")
    } else if body.contains("heliostat_frame") {
        // Markers of devices that are not there yet.
        ""
    } else {
        include_str!("data/flux_frames.csv")
    };
    (200, text.to_owned())
}

fn open(directory: &Path, url: &str) -> Arc<RemoteStore> {
    let site = site();
    let engine = InfluxDb2::new(url, "ops", "tele", "s3cret", Arc::clone(&site)).unwrap();
    let clock = Arc::new(SteppedClock::new(Timestamp(T + 60_000)));
    RemoteStore::open(directory, Arc::new(engine), site, clock, Options::default()).unwrap()
}

fn range() -> Query {
    Query::Range {
        metric: "gpu_power_watts".to_owned(),
        select: Selector::default(),
        from: Timestamp(T),
        to: Timestamp(T + 60_000),
    }
}

fn point(at: i64, value: Option<f64>, quality: Quality) -> Point {
    Point {
        at: Timestamp(at),
        value,
        quality,
    }
}

#[tokio::test]
async fn frames_go_out_as_lines_and_leave_the_spool_when_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let (url, asked) = recorded(influx);
    let store = open(directory.path(), &url);
    let receipt = store.append(vec![frame(T), frame(T)]).await.unwrap();
    assert_eq!((receipt.frames, receipt.duplicates), (1, 1));
    assert!(store.drained(Duration::from_secs(10)).await);
    store.close().await;
    let asked = asked.lock().unwrap();
    let writes: Vec<_> = (asked.iter())
        .filter(|(path, ..)| path.starts_with("/api/v2/write"))
        .collect();
    let (path, token, body) = writes[0];
    assert_eq!(path, "/api/v2/write?bucket=tele&org=ops&precision=ms");
    assert_eq!(token, "Token s3cret");
    assert_eq!(
        body,
        "heliostat,device=r01-n1-gpu0,hall=hall-1,kind=gpu,node=r01-n1,rack=r01,row=row-1 gpu_power_watts=412.5,gpu_power_watts_quality=1,gpu_temperature_celsius_quality=2,heliostat_frame=2 1690000000000\n"
    );
    assert_eq!(writes.len(), 1);
}

#[tokio::test]
async fn recorded_answers_become_series_with_their_qualities() {
    let directory = tempfile::tempdir().unwrap();
    let (url, asked) = recorded(influx);
    let store = open(directory.path(), &url);
    let series = store.query(&range()).await.unwrap().series();
    let of = |series: &[Series]| -> Vec<(String, Vec<Point>)> {
        (series.iter())
            .map(|s| (s.labels.last().unwrap().1.clone(), s.points.clone()))
            .collect()
    };
    let expected = [
        (
            "r01-n1-gpu0".to_owned(),
            vec![
                point(T, Some(412.5), Quality::Measured),
                point(T + 1_250, Some(413.0), Quality::Estimated),
                point(T + 2_000, None, Quality::Missing),
            ],
        ),
        (
            "r02-n1-gpu0".to_owned(),
            vec![point(T, Some(650.125), Quality::Measured)],
        ),
    ];
    assert_eq!(of(&series), expected);
    // Steps by InfluxDB, groups by us; the flag of a step without values makes no point.
    let query = Query::Aggregate {
        metric: "gpu_power_watts".to_owned(),
        select: Selector::default(),
        from: Timestamp(T),
        to: Timestamp(T + 30_000),
        step_ms: 10_000,
        over_time: OverTime::Avg,
        across: Some(AcrossDevices::Sum),
        group_by: vec![Label::Rack],
    };
    let series = store.query(&query).await.unwrap().series();
    let expected = [
        (
            "r01".to_owned(),
            vec![
                point(T, Some(512.75), Quality::Estimated),
                point(T + 10_000, Some(420.0), Quality::Measured),
            ],
        ),
        (
            "r02".to_owned(),
            vec![point(T, Some(650.0), Quality::Measured)],
        ),
    ];
    assert_eq!(of(&series), expected);
    let latest = Query::Latest {
        select: Selector::default(),
        since: Timestamp(0),
    };
    let frames = store.query(&latest).await.unwrap().frames();
    let expected = Frame {
        device: DeviceId::from("r01-n1-gpu0"),
        at: Timestamp(T + 2_000),
        readings: vec![
            (Catalogue::gpu_power(), Reading::Missing),
            (Catalogue::gpu_temperature(), Reading::Measured(61.0)),
        ],
    };
    assert_eq!(frames, [expected]);
    store.close().await;
    let asked = asked.lock().unwrap();
    assert!((asked.iter()).all(|(_, token, _)| token == "Token s3cret"));
    assert!(
        (asked.iter()).any(|(path, _, body)| path == "/api/v2/query?org=ops"
            && body.contains("start: 2023-07-22T04:26:40Z, stop: 2023-07-22T04:27:40Z"))
    );
}

#[tokio::test]
async fn errors_are_told_and_an_answer_out_of_shape_is_no_panic() {
    let directory = tempfile::tempdir().unwrap();
    // An empty number, on which the client crate panics.
    let broken = include_str!("data/flux_range.csv").replace("412.5", "");
    for (status, text, expected) in [
        (
            200,
            include_str!("data/flux_error.csv").to_owned(),
            "Failed to parse query",
        ),
        (200, broken, "not understood"),
        (
            401,
            "{\"code\":\"unauthorized\",\"message\":\"unauthorized access\"}".to_owned(),
            "unauthorized access",
        ),
    ] {
        let (url, _) = recorded(move |path, body| match influx(path, body) {
            (200, _) if path.starts_with("/api/v2/query") => (status, text.clone()),
            other => other,
        });
        let store = open(directory.path(), &url);
        match store.query(&range()).await {
            Err(StoreError::BadQuery(reason)) => {
                assert!(reason.contains(expected), "{reason}");
                assert!(!reason.contains("s3cret"));
            }
            other => panic!("expected {expected:?}, got {other:?}"),
        }
        store.close().await;
    }
    assert!(InfluxDb2::new("no address", "o", "b", "t", site()).is_err());
}

#[tokio::test]
async fn away_it_spools_up_to_its_limit_and_answers_in_part() {
    let directory = tempfile::tempdir().unwrap();
    let site = site();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{free}");
    let engine = Arc::new(InfluxDb2::new(&url, "o", "b", "t", Arc::clone(&site)).unwrap());
    let clock = Arc::new(SteppedClock::new(Timestamp(T)));
    let options = Options { spool_samples: 5 };
    let store = RemoteStore::open(directory.path(), engine, site, clock, options).unwrap();
    store
        .append(vec![frame(T), frame(T + 1_000)])
        .await
        .unwrap();
    let full = store.append(vec![frame(T + 2_000)]).await;
    assert!(
        matches!(full, Err(StoreError::SpoolFull { samples: 4 })),
        "{full:?}"
    );
    let told = store.ask(&range()).await.unwrap();
    assert!(told.partial.unwrap().contains(&url));
    let points: Vec<i64> = (told.answer.series().iter())
        .flat_map(|s| s.points.iter().map(|p| p.at.0))
        .collect();
    assert_eq!(points, [T, T + 1_000]);
    store.close().await;
}
