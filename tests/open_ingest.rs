//! Line protocol into the real program, which is killed while it writes: what
//! was answered with 204 is in the store, and nothing is there twice.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failing test panics"
)]

mod support;

use heliostat_models::Timestamp;
use heliostat_models::site::config;
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::query::Selector;
use heliostat_store::{Clock, Query, TimeSeriesStore, WallClock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use support::{Process, free_port};

const SITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sites/small.toml");
const KILLS: usize = 5;

#[test]
fn what_was_answered_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let begun = WallClock.now().0;
    // Instant and watts of every line that was answered with 204.
    let mut answered = BTreeMap::new();
    let mut next = 0;
    for round in 0..KILLS {
        let (http, mqtt) = (free_port(), free_port());
        let args = [
            "run".to_owned(),
            format!("--site={SITE}"),
            format!("--data={}", data.display()),
            format!("--http=127.0.0.1:{http}"),
            format!("--mqtt-listen=127.0.0.1:{mqtt}"),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut server = Process::heliostat(dir.path(), "server", &args);
        server.line_with("mqtt", Duration::from_secs(30));
        let url = format!("http://127.0.0.1:{http}/write?precision=ms");
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(300 + 137 * round as u64));
            server.kill();
        });
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(5)))
            .build()
            .into();
        loop {
            let at = begun - 3_600_000 + 100 * next;
            let watts = 1_000.0 + (next % 500) as f64;
            let line = format!("node_power_watts,device=r01-n1 value={watts} {at}\n");
            // Sent again after a kill, as every sender does: it may be there already.
            let Ok(answer) = agent.post(&url).send(&line) else {
                break;
            };
            assert_eq!(answer.status(), 204);
            answered.insert(at, watts);
            next += 1;
        }
        killer.join().unwrap();
    }
    assert!(answered.len() > 10 * KILLS, "{} lines", answered.len());
    let loaded = config::load(
        SITE,
        &std::fs::read_to_string(SITE).unwrap(),
        config::LoadOptions::default(),
    );
    let site = Arc::new(loaded.site.unwrap());
    let store = EmbeddedStore::open(&data.join("store"), site, Arc::new(WallClock)).unwrap();
    let query = Query::Range {
        metric: "node_power_watts".into(),
        select: Selector {
            devices: vec!["r01-n1".into()],
            labels: vec![],
        },
        from: Timestamp(0),
        to: Timestamp(i64::MAX / 2),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let series = runtime.block_on(store.query(&query)).unwrap().series();
    let points: Vec<_> = (series.iter().flat_map(|s| &s.points))
        .map(|p| (p.at.0, p.value.unwrap()))
        .collect();
    let stored: BTreeMap<i64, f64> = points.iter().copied().collect();
    assert_eq!(points.len(), stored.len(), "none is there twice");
    for (at, watts) in &answered {
        assert_eq!(stored.get(at), Some(watts), "answered and lost");
    }
    // The one line that was on its way at the last kill may be there besides.
    assert!(stored.len() <= answered.len() + 1);
    // At their own instants: a line sent again was known, not put behind.
    assert!(points.iter().all(|(at, _)| (at - begun) % 100 == 0));
}
