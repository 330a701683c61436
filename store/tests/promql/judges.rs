//! The same questions to us, to Prometheus and to VictoriaMetrics, on the same samples.
//!
//! Prometheus judges everything, at the edges of its version 2 (the one that
//! Debian has). VictoriaMetrics judges what MetricsQL computes by the same rules;
//! it differs on purpose, and is no judge, in:
//!
//! * `rate`, `increase`, `delta`, `irate`, `idelta`, `changes`, `resets`: it extrapolates nothing and
//!   counts the sample before the window;
//! * bare selectors: how long a value counts follows from the series' own interval;
//! * names of metrics, which it keeps through functions, so that two metrics' series do not collide;
//! * `deriv` of a single sample (0, ours: nothing), `sgn` of nothing (0, ours: nothing), `bottomk` where
//!   series lack an instant (nothing counts as the smallest), `scalar` of nothing (absent, ours: NaN);
//! * subqueries, whose steps it begins elsewhere; `quantile` beyond 0 and 1; what is refused: it
//!   answers more.

use crate::data::{T0, engine, hall, stored};
use crate::peers::{Peer, Table};
use heliostat_models::Timestamp;
use heliostat_store::promql::{Dialect, Engine, Instants, ResultSeries, Value};
use std::time::Duration;

/// Relative difference of two values that count as equal.
const TOLERANCE: f64 = 1e-9;

/// Every kind of expression that is evaluated.
pub const QUERIES: &[&str] = &[
    // Selectors.
    "gpu_power_watts",
    "gpu_power_watts{rack=\"r01\"}",
    "gpu_power_watts{device!~\".*gpu0\"}",
    "{__name__=~\"gpu_(power_watts|temperature_celsius)\", device=~\"r0[12]-n1-gpu0\"}",
    "gpu_power_watts offset 7m",
    "gpu_power_watts offset -3m",
    "gpu_power_watts @ 1551400000",
    "gpu_power_watts @ start()",
    "gpu_power_watts @ end() offset 10m",
    "no_such_metric",
    // Functions of a window.
    "rate(gpu_energy_joules_total[5m])",
    "rate(gpu_energy_joules_total[1m])",
    "rate(gpu_energy_joules_total[37s])",
    "irate(gpu_energy_joules_total[5m])",
    "increase(gpu_energy_joules_total[15m])",
    "increase(gpu_energy_joules_total[3m] offset 4m)",
    "delta(gpu_temperature_celsius[10m])",
    "idelta(gpu_temperature_celsius[1m])",
    "deriv(gpu_temperature_celsius[10m])",
    "changes(gpu_utilization_ratio[15m])",
    "resets(gpu_energy_joules_total[1h])",
    "avg_over_time(gpu_power_watts[1m])",
    "min_over_time(gpu_power_watts[90s])",
    "max_over_time(gpu_power_watts[90s])",
    "sum_over_time(gpu_power_watts[5m])",
    "count_over_time(gpu_power_watts[5m])",
    "last_over_time(gpu_power_watts[10m])",
    "present_over_time(gpu_power_watts[1m])",
    "quantile_over_time(0.9, gpu_power_watts[10m])",
    "quantile_over_time(1.5, gpu_power_watts[1m])",
    "stddev_over_time(gpu_power_watts[10m])",
    "stdvar_over_time(gpu_power_watts[10m])",
    "avg_over_time(gpu_power_watts[5m] @ 1551400000)",
    // Functions of a value.
    "abs(gpu_temperature_celsius - 45)",
    "ceil(gpu_power_watts / 7)",
    "floor(gpu_power_watts / 7)",
    "round(gpu_power_watts / 7)",
    "round(gpu_power_watts, 25)",
    "clamp(gpu_power_watts, 200, 400)",
    "clamp_min(gpu_power_watts, 300)",
    "clamp_max(gpu_power_watts, 300)",
    "sqrt(gpu_power_watts) + ln(gpu_power_watts) + log2(gpu_power_watts) + log10(gpu_power_watts)",
    "sgn(gpu_temperature_celsius - 45)",
    "exp(gpu_utilization_ratio)",
    "time() - timestamp(gpu_power_watts)",
    "timestamp(gpu_power_watts + 0)",
    "scalar(gpu_power_watts{device=\"r01-n1-gpu0\"}) / 2",
    "scalar(gpu_power_watts)",
    "vector(time())",
    "absent(gpu_power_watts{device=\"r02-n1-gpu0\"})",
    "absent(no_such_metric{a=\"b\", c=~\"d\"})",
    "label_replace(gpu_power_watts, \"slot\", \"$2-$1\", \"device\", \"(.*)-gpu(.*)\")",
    // Aggregations.
    "sum(gpu_power_watts)",
    "sum by (rack) (avg_over_time(gpu_power_watts[1m]))",
    "avg without (device, node) (gpu_power_watts)",
    "min by (node) (gpu_power_watts)",
    "max by (node, kind) (gpu_power_watts)",
    "count by (rack) (gpu_power_watts > 300)",
    "group by (hall) (gpu_power_watts)",
    "stddev(gpu_power_watts)",
    "stdvar by (rack) (gpu_power_watts)",
    "quantile(0.75, gpu_power_watts)",
    "quantile by (rack) (0.25, gpu_power_watts)",
    "topk(2, gpu_energy_joules_total)",
    "bottomk by (rack) (1, gpu_energy_joules_total)",
    "topk(0, gpu_power_watts)",
    // Operators.
    "gpu_power_watts * 2 + 1",
    "1000 - gpu_power_watts",
    "gpu_power_watts % 7",
    "2 ^ (gpu_temperature_celsius / 10)",
    "-gpu_power_watts",
    "gpu_power_watts / 0",
    "gpu_power_watts > 350",
    "350 < gpu_power_watts",
    "gpu_power_watts > bool 350",
    "gpu_power_watts == gpu_power_watts",
    "gpu_power_watts > gpu_temperature_celsius * 7.5",
    "gpu_power_watts / ignoring(kind) gpu_temperature_celsius",
    "gpu_power_watts / on(node) group_left node_power_watts",
    "gpu_power_watts * on(node) group_left(kind) node_power_watts",
    "node_power_watts - on(node) group_right(hall) gpu_power_watts",
    "node_power_watts - on(node) sum by (node) (gpu_power_watts)",
    "gpu_power_watts >= on(rack, device) gpu_temperature_celsius",
    "gpu_power_watts and on(node) (node_power_watts > 1500)",
    "gpu_power_watts unless on(node) (node_power_watts > 1500)",
    "(gpu_power_watts > 400) or gpu_temperature_celsius",
    "node_power_watts or gpu_power_watts",
    "1 + 2 * 3 ^ 2 - 7 % 4",
    "2 > bool 1",
    "max by (device) (gpu_power_watts atan2 gpu_temperature_celsius)",
    // Subqueries.
    "max_over_time(sum by (rack) (gpu_power_watts)[10m:1m])",
    "avg_over_time(rate(gpu_energy_joules_total[2m])[10m:30s])",
    "quantile_over_time(0.5, (gpu_power_watts > 300)[20m:])",
    "last_over_time(gpu_power_watts[15m:45s] offset 2m)",
    // Refused by both.
    "node_power_watts + on(node) gpu_power_watts",
    "gpu_power_watts + on(node) node_power_watts",
    "rate({__name__=~\"gpu_power_watts|gpu_temperature_celsius\"}[5m])",
];

/// What VictoriaMetrics computes by the same rules.
pub const VICTORIA_METRICS: &[&str] = &[
    // Functions of a window; an aggregation takes the name away, which VictoriaMetrics keeps.
    "sum by (rack) (avg_over_time(gpu_power_watts[1m]))",
    "sum(sum_over_time(gpu_power_watts[5m]))",
    "sum by (node) (count_over_time(gpu_power_watts[5m]))",
    "min by (rack) (min_over_time(gpu_power_watts[90s]))",
    "max by (rack) (max_over_time(gpu_power_watts[90s]))",
    "avg without (device) (avg_over_time(gpu_power_watts[10m]))",
    "max by (device) (quantile_over_time(0.9, gpu_power_watts[10m]))",
    "max by (device) (quantile_over_time(0, gpu_power_watts[10m]))",
    "max by (device) (stddev_over_time(gpu_power_watts[10m]))",
    "max by (device) (stdvar_over_time(gpu_power_watts[10m]))",
    "max by (device) (last_over_time(gpu_power_watts[2m]))",
    "max by (device) (present_over_time(gpu_power_watts[2m]))",
    "sum by (rack) (avg_over_time(gpu_power_watts[5m] offset 4m))",
    "sum by (rack) (avg_over_time(gpu_power_watts[5m] offset -4m))",
    "sum by (rack) (avg_over_time(gpu_power_watts[5m] @ 1551400000))",
    "sum by (rack) (avg_over_time(gpu_power_watts[5m] @ end()))",
    "sum by (rack) (avg_over_time(gpu_power_watts[5m] @ start() offset 1m))",
    // Selection.
    "sum(avg_over_time(gpu_power_watts{rack=\"r01\"}[1m]))",
    "sum(avg_over_time(gpu_power_watts{device!~\".*gpu0\"}[1m]))",
    "sum(avg_over_time(no_such_metric[1m]))",
    // Aggregations.
    "avg by (rack) (avg_over_time(gpu_power_watts[1m]))",
    "count(avg_over_time(gpu_power_watts[1m]) > 300)",
    "group by (hall) (avg_over_time(gpu_power_watts[1m]))",
    "stddev(avg_over_time(gpu_power_watts[5m]))",
    "stdvar by (rack) (avg_over_time(gpu_power_watts[5m]))",
    "quantile(0.75, avg_over_time(gpu_power_watts[5m]))",
    "quantile by (rack) (0.25, avg_over_time(gpu_power_watts[5m]))",
    "max(avg_over_time(gpu_energy_joules_total[5m])) - min(avg_over_time(gpu_energy_joules_total[5m]))",
    "sum(topk(2, sum by (device) (avg_over_time(gpu_energy_joules_total[5m]))))",
    // Functions of a value.
    "sum(abs(avg_over_time(gpu_temperature_celsius[5m]) - 45))",
    "sum(ceil(avg_over_time(gpu_power_watts[5m]) / 7))",
    "sum(floor(avg_over_time(gpu_power_watts[5m]) / 7))",
    "sum(round(avg_over_time(gpu_power_watts[5m])))",
    "sum(round(avg_over_time(gpu_power_watts[5m]), 25))",
    "sum(clamp(avg_over_time(gpu_power_watts[5m]), 200, 400))",
    "sum(clamp_min(avg_over_time(gpu_power_watts[5m]), 300))",
    "sum(clamp_max(avg_over_time(gpu_power_watts[5m]), 300))",
    "sum(sqrt(avg_over_time(gpu_power_watts[5m])))",
    "sum(ln(avg_over_time(gpu_power_watts[5m])))",
    "sum(log2(avg_over_time(gpu_power_watts[5m])))",
    "sum(log10(avg_over_time(gpu_power_watts[5m])))",
    "sum(exp(avg_over_time(gpu_utilization_ratio[5m])))",
    "vector(time())",
    "absent(sum(avg_over_time(no_such_metric[5m])))",
    "label_replace(sum by (device) (avg_over_time(gpu_power_watts[5m])), \"slot\", \"$2-$1\", \"device\", \"(.*)-gpu(.*)\")",
    // Operators.
    "sum by (rack) (avg_over_time(gpu_power_watts[5m])) * 2 + 1",
    "1000 - sum by (rack) (avg_over_time(gpu_power_watts[5m]))",
    "sum by (rack) (avg_over_time(gpu_power_watts[5m])) % 7",
    "2 ^ (sum by (rack) (avg_over_time(gpu_temperature_celsius[5m])) / 100)",
    "-sum by (rack) (avg_over_time(gpu_power_watts[5m]))",
    "sum by (rack) (avg_over_time(gpu_power_watts[5m])) > 600",
    "600 < sum by (rack) (avg_over_time(gpu_power_watts[5m]))",
    "sum by (rack) (avg_over_time(gpu_power_watts[5m])) > bool 600",
    "sum by (rack) (avg_over_time(gpu_power_watts[5m])) != bool 600",
    "sum by (node) (avg_over_time(gpu_power_watts[5m])) / on(node) group_left sum by (node) (avg_over_time(node_power_watts[5m]))",
    "sum by (node) (avg_over_time(gpu_power_watts[5m])) / sum by (node) (avg_over_time(node_power_watts[5m]))",
    "sum by (node, rack) (avg_over_time(gpu_power_watts[5m])) - ignoring(rack) sum by (node) (avg_over_time(node_power_watts[5m]))",
    "sum by (node) (avg_over_time(gpu_power_watts[5m])) and on(node) (sum by (node) (avg_over_time(node_power_watts[5m])) > 1500)",
    "sum by (node) (avg_over_time(gpu_power_watts[5m])) unless on(node) (sum by (node) (avg_over_time(node_power_watts[5m])) > 1500)",
    "sum by (node) (avg_over_time(node_power_watts[5m])) or sum by (node) (avg_over_time(gpu_power_watts[5m]))",
    "1 + 2 * 3 ^ 2 - 7 % 4",
    "2 > bool 1",
];

fn add(table: &mut Table, series: Vec<ResultSeries>) {
    for one in series {
        let key = one
            .labels
            .iter()
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        let points = one.points.iter().map(|(at, v)| (at.0, *v)).collect();
        assert!(table.insert(key, points).is_none(), "the same labels twice");
    }
}

fn ours(value: Value) -> Table {
    let mut table = Table::new();
    match value {
        Value::Scalar(at, number) => {
            table.insert(Vec::new(), vec![(at.0, number)]);
        }
        Value::Vector(all) | Value::Matrix(all) => add(&mut table, all),
        Value::Text(..) => panic!("no query here is a text"),
    }
    table
}

fn differ(a: &Table, b: &Table) -> Option<String> {
    if a.keys().ne(b.keys()) {
        return Some(format!(
            "series: ours {:?}, theirs {:?}",
            a.keys(),
            b.keys()
        ));
    }
    for (labels, ours) in a {
        let theirs = &b[labels];
        if ours.iter().map(|p| p.0).ne(theirs.iter().map(|p| p.0)) {
            let count = (ours.len(), theirs.len());
            let odd = ours.iter().zip(theirs).find(|(a, b)| a.0 != b.0);
            return Some(format!(
                "{labels:?}: instants differ, {count:?}, first at {odd:?}"
            ));
        }
        for (a, b) in ours.iter().zip(theirs) {
            let close = (a.1 - b.1).abs() <= TOLERANCE * a.1.abs().max(b.1.abs());
            if !(close || a.1 == b.1 || (a.1.is_nan() && b.1.is_nan())) {
                return Some(format!(
                    "{labels:?} at {}: ours {}, theirs {}",
                    a.0, a.1, b.1
                ));
            }
        }
    }
    None
}

/// Asks both; what is different, if anything is, and how many points were compared.
async fn compare(
    engine: &Engine,
    peer: &Peer,
    query: &str,
    instants: Instants,
) -> (Option<String>, usize) {
    let seconds = |t: Timestamp| format!("{}.{:03}", t.0 / 1_000, t.0 % 1_000);
    let text = ("query", query.to_owned());
    let theirs = match instants {
        Instants::At(at) => peer.query("/api/v1/query", &[text, ("time", seconds(at))]),
        Instants::Range { start, end, step } => {
            let span = [
                text,
                ("start", seconds(start)),
                ("end", seconds(end)),
                ("step", step.as_secs().to_string()),
                ("nocache", "1".to_owned()),
            ];
            peer.query("/api/v1/query_range", &span)
        }
    };
    match (engine.query(query, instants).await.map(ours), theirs) {
        (Ok(ours), Ok(theirs)) => (differ(&ours, &theirs), ours.values().map(Vec::len).sum()),
        (Err(_), Err(_)) => (None, 0),
        (ours, theirs) => (Some(format!("ours {ours:?}, theirs {theirs:?}")), 0),
    }
}

fn occasions() -> Vec<Instants> {
    let at = |seconds: i64| Instants::At(Timestamp(T0 + seconds * 1_000));
    let range = |from: i64, to: i64, step: u64| Instants::Range {
        start: Timestamp(T0 + from * 1_000),
        end: Timestamp(T0 + to * 1_000),
        step: Duration::from_secs(step),
    };
    // On the samples and between them, before the first and after the last.
    vec![
        at(600),
        at(1_801),
        at(7_300),
        range(0, 7_500, 60),
        range(907, 5_000, 37),
        range(-600, 8_000, 300),
    ]
}

async fn judge(engine: &Engine, peer: &Peer, name: &str, queries: &[&str], occasions: &[Instants]) {
    let (mut faults, mut compared) = (Vec::new(), 0);
    for query in queries {
        for instants in occasions {
            let (fault, points) = compare(engine, peer, query, *instants).await;
            compared += points;
            faults.extend(fault.map(|f| format!("{query} ({instants:?})\n    {f}")));
        }
    }
    println!(
        "{name}: {} queries on {} occasions, {compared} values compared",
        queries.len(),
        occasions.len()
    );
    assert!(
        faults.is_empty(),
        "{} differences from {name}:\n{}",
        faults.len(),
        faults.join("\n")
    );
    assert!(compared > 1_000);
}

#[tokio::test]
async fn prometheus_gives_the_same_answers() {
    let directory = tempfile::tempdir().unwrap();
    let samples = hall();
    let Some(peer) = Peer::prometheus(directory.path(), &samples) else {
        return;
    };
    let store = stored(&directory.path().join("data"), &samples).await;
    let mut engine = engine(&store);
    engine.dialect = Dialect::Prometheus2;
    judge(&engine, &peer, "Prometheus", QUERIES, &occasions()).await;
}

#[tokio::test]
async fn victoria_metrics_gives_the_same_answers() {
    let directory = tempfile::tempdir().unwrap();
    let samples = hall();
    let Some(peer) = Peer::victoria_metrics(directory.path(), &samples) else {
        return;
    };
    let store = stored(&directory.path().join("data"), &samples).await;
    judge(
        &engine(&store),
        &peer,
        "VictoriaMetrics",
        VICTORIA_METRICS,
        &occasions(),
    )
    .await;
}
