//! Answers that were worked out by hand.

use crate::data::{at, by, engine, labels, one, series, stored};
use heliostat_models::Timestamp;
use heliostat_store::promql::{Dialect, Value};

const WATTS: &str = "gpu_power_watts";
const JOULES: &str = "gpu_energy_joules_total";

#[tokio::test]
async fn a_value_holds_for_five_minutes_and_not_over_a_missing_reading() {
    let directory = tempfile::tempdir().unwrap();
    let points = [
        (0.0, Some(100.0)),
        (15.0, Some(110.0)),
        (30.0, None),
        (400.0, Some(120.0)),
    ];
    let store = stored(directory.path(), &series(WATTS, "r01-n1-gpu0", &points)).await;
    let mut engine = engine(&store);
    for (seconds, expected) in [
        (-0.001, None),
        (0.0, Some(100.0)),
        (14.999, Some(100.0)),
        (29.999, Some(110.0)),
        (30.0, None),
        (399.0, None),
        (400.0, Some(120.0)),
        (699.999, Some(120.0)),
        (700.0, None),
    ] {
        assert_eq!(one(&engine, WATTS, seconds).await, expected, "at {seconds}");
    }
    // Functions of a window take the values that are there.
    assert_eq!(
        one(&engine, "count_over_time(gpu_power_watts[1m])", 40.0).await,
        Some(2.0)
    );
    assert_eq!(
        one(&engine, "sum_over_time(gpu_power_watts[40s])", 40.0).await,
        Some(110.0)
    );
    assert_eq!(
        one(&engine, "last_over_time(gpu_power_watts[1m])", 40.0).await,
        Some(110.0)
    );
    assert_eq!(
        one(&engine, "absent(gpu_power_watts)", 40.0).await,
        Some(1.0)
    );
    assert_eq!(
        one(&engine, "timestamp(gpu_power_watts) - 1551398400", 20.0).await,
        Some(15.0)
    );
    // The older dialect sees a sample exactly at the beginning of a window.
    engine.dialect = Dialect::Prometheus2;
    assert_eq!(one(&engine, WATTS, 700.0).await, Some(120.0));
    assert_eq!(
        one(&engine, "sum_over_time(gpu_power_watts[40s])", 40.0).await,
        Some(210.0)
    );
}

#[tokio::test]
async fn growth_is_extrapolated_as_prometheus_does() {
    let directory = tempfile::tempdir().unwrap();
    let mut samples = series(
        JOULES,
        "r01-n1-gpu0",
        &[
            (15.0, Some(10.0)),
            (30.0, Some(20.0)),
            (45.0, Some(30.0)),
            (60.0, Some(40.0)),
        ],
    );
    // Restarts between the second and the third.
    samples.extend(series(
        JOULES,
        "r01-n1-gpu1",
        &[
            (10.0, Some(100.0)),
            (20.0, Some(130.0)),
            (30.0, Some(15.0)),
            (40.0, Some(25.0)),
        ],
    ));
    let store = stored(directory.path(), &samples).await;
    let engine = engine(&store);
    let of = async |query: &str, gpu: usize| {
        let query = query.replace(
            "E",
            &format!("gpu_energy_joules_total{{device=\"r01-n1-gpu{gpu}\"}}"),
        );
        one(&engine, &query, 60.0).await.unwrap()
    };
    // 30 J in 45 s; 15 s more to the begin of the window, where it was zero.
    assert_eq!(of("increase(E[1m])", 0).await, 40.0);
    assert_eq!(of("rate(E[1m])", 0).await, 40.0 / 60.0);
    assert_eq!(of("irate(E[1m])", 0).await, 10.0 / 15.0);
    assert_eq!(of("delta(E[1m])", 0).await, 40.0);
    // 30 + 15 + 10 J in 30 s; 10 s to the begin are less than 1.1 spacings, and
    // the 20 s to the end count as half a spacing.
    let grown = of("increase(E[1m])", 1).await;
    assert!((grown - 55.0 * 45.0 / 30.0).abs() < 1e-12, "{grown}");
    assert_eq!(of("resets(E[1m])", 1).await, 1.0);
    assert_eq!(of("changes(E[1m])", 1).await, 3.0);
    assert_eq!(of("deriv(E[1m])", 0).await, 10.0 / 15.0);
    // One sample shows no growth.
    assert_eq!(
        one(&engine, "rate(gpu_energy_joules_total[10s])", 12.0).await,
        None
    );
}

#[tokio::test]
async fn series_carry_the_labels_of_the_site_and_are_matched_by_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut samples = Vec::new();
    for (device, watts) in [
        ("r01-n1-gpu0", 1.0),
        ("r01-n1-gpu1", 2.0),
        ("r02-n1-gpu0", 4.0),
    ] {
        samples.extend(series(WATTS, device, &[(0.0, Some(watts))]));
    }
    samples.extend(series("node_power_watts", "r01-n1", &[(0.0, Some(8.0))]));
    let store = stored(directory.path(), &samples).await;
    let engine = engine(&store);
    for (query, sum) in [
        ("gpu_power_watts{rack=\"r01\"}", Some(3.0)),
        ("gpu_power_watts{rack!=\"r01\"}", Some(4.0)),
        ("gpu_power_watts{device=~\".*gpu0\"}", Some(5.0)),
        (
            "gpu_power_watts{device=~\"r01-n1-gpu0|r02-n1-gpu0\"}",
            Some(5.0),
        ),
        ("gpu_power_watts{device!~\".*gpu0\"}", Some(2.0)),
        ("gpu_power_watts{rack=~\"r0\"}", None),
        ("gpu_power_watts{nonsense=\"\"}", Some(7.0)),
        ("gpu_power_watts{nonsense!=\"\"}", None),
        ("{__name__=~\".*_power_watts\", site=\"demo\"}", Some(15.0)),
        ("{kind=\"node\"}", Some(8.0)),
        ("not_a_metric", None),
    ] {
        assert_eq!(
            one(&engine, &format!("sum({query})"), 1.0).await,
            sum,
            "{query}"
        );
    }
    let Value::Vector(all) = at(&engine, "gpu_power_watts{rack=\"r02\"}", 1.0)
        .await
        .unwrap()
    else {
        panic!("a vector");
    };
    assert_eq!(all[0].labels, labels(&samples[2]));
    // What was missing at first is not listed before its device was heard of.
    let listed = engine
        .series(&["{rack=\"r01\"}".to_owned()], Timestamp(0))
        .await
        .unwrap();
    assert_eq!(listed.len(), 3);
    assert!(
        engine
            .series(&[], Timestamp(crate::data::T0 + 1))
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(engine.series(&[], Timestamp(0)).await.unwrap().len(), 4);
}

#[tokio::test]
async fn groups_partners_and_sets() {
    let directory = tempfile::tempdir().unwrap();
    let mut samples = Vec::new();
    for (device, watts) in [
        ("r01-n1-gpu0", 1.0),
        ("r01-n1-gpu1", 2.0),
        ("r02-n1-gpu0", 4.0),
    ] {
        samples.extend(series(WATTS, device, &[(0.0, Some(watts))]));
    }
    for (device, watts) in [("r01-n1", 10.0), ("r02-n1", 20.0)] {
        samples.extend(series("node_power_watts", device, &[(0.0, Some(watts))]));
    }
    let store = stored(directory.path(), &samples).await;
    let engine = engine(&store);
    let pairs = |all: &[(&str, f64)]| -> Vec<(String, f64)> {
        all.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect()
    };
    for (query, label, expected) in [
        (
            "sum by (rack) (gpu_power_watts)",
            "rack",
            vec![("r01", 3.0), ("r02", 4.0)],
        ),
        (
            "avg by (rack) (gpu_power_watts)",
            "rack",
            vec![("r01", 1.5), ("r02", 4.0)],
        ),
        (
            "count without (device, node, row) (gpu_power_watts)",
            "rack",
            vec![("r01", 2.0), ("r02", 1.0)],
        ),
        (
            "topk(2, gpu_power_watts)",
            "device",
            vec![("r02-n1-gpu0", 4.0), ("r01-n1-gpu1", 2.0)],
        ),
        (
            "bottomk by (rack) (1, gpu_power_watts)",
            "device",
            vec![("r01-n1-gpu0", 1.0), ("r02-n1-gpu0", 4.0)],
        ),
        (
            "sort_desc(gpu_power_watts > 1)",
            "device",
            vec![("r02-n1-gpu0", 4.0), ("r01-n1-gpu1", 2.0)],
        ),
        (
            "gpu_power_watts / on(node) group_left node_power_watts",
            "device",
            vec![
                ("r01-n1-gpu0", 0.1),
                ("r01-n1-gpu1", 0.2),
                ("r02-n1-gpu0", 0.2),
            ],
        ),
        (
            "node_power_watts - on(node) sum by (node) (gpu_power_watts)",
            "node",
            vec![("r01-n1", 7.0), ("r02-n1", 16.0)],
        ),
        (
            "node_power_watts and on(rack) gpu_power_watts{rack=\"r02\"}",
            "node",
            vec![("r02-n1", 20.0)],
        ),
        (
            "node_power_watts unless on(rack) gpu_power_watts{rack=\"r02\"}",
            "node",
            vec![("r01-n1", 10.0)],
        ),
        (
            "gpu_power_watts{rack=\"r02\"} or node_power_watts{rack=\"r01\"}",
            "device",
            vec![("r02-n1-gpu0", 4.0), ("r01-n1", 10.0)],
        ),
        (
            "3 > bool gpu_power_watts{rack=\"r02\"}",
            "device",
            vec![("r02-n1-gpu0", 0.0)],
        ),
        (
            "label_replace(node_power_watts, \"short\", \"$1\", \"node\", \"(r..)-.*\")",
            "short",
            vec![("r01", 10.0), ("r02", 20.0)],
        ),
        (
            "vector(scalar(node_power_watts{rack=\"r01\"}) + 2 ^ 3)",
            "",
            vec![("", 18.0)],
        ),
    ] {
        let mut found = by(&engine, query, 1.0, label).await;
        let mut expected = pairs(&expected);
        if query.contains(" or ") {
            found.sort_by(|a, b| a.0.cmp(&b.0));
            expected.sort_by(|a, b| a.0.cmp(&b.0));
        }
        assert_eq!(found, expected, "{query}");
    }
    for (query, said) in [
        (
            "node_power_watts + on(node) gpu_power_watts",
            "many-to-many matching not allowed",
        ),
        (
            "gpu_power_watts + on(node) node_power_watts",
            "multiple matches for labels: many-to-one",
        ),
        (
            "rate({__name__=~\"gpu_power_watts|node_power_watts\"}[5m]) + on() group_left() vector(1)",
            "",
        ),
        (
            "label_replace(gpu_power_watts, \"device\", \"same\", \"\", \"\")",
            "vector cannot contain metrics with the same labelset",
        ),
        (
            "sum by (x) (label_replace(gpu_power_watts, \"0x\", \"\", \"\", \"\"))",
            "invalid destination label name",
        ),
    ] {
        match at(&engine, query, 1.0).await {
            Err(error) => assert!(
                !said.is_empty() && error.to_string().contains(said),
                "{query}: {error}"
            ),
            Ok(value) => assert!(said.is_empty(), "{query}: {value:?}"),
        }
    }
}

#[tokio::test]
async fn values_of_every_type() {
    let directory = tempfile::tempdir().unwrap();
    let points: Vec<(f64, Option<f64>)> = (0..5)
        .map(|i| (f64::from(i) * 10.0, Some(f64::from(i))))
        .collect();
    let store = stored(directory.path(), &series(WATTS, "r01-n1-gpu0", &points)).await;
    let engine = engine(&store);
    let Value::Matrix(raw) = at(&engine, "gpu_power_watts[25s]", 40.0).await.unwrap() else {
        panic!("a matrix");
    };
    assert_eq!(
        raw[0].points.iter().map(|p| p.1).collect::<Vec<_>>(),
        [2.0, 3.0, 4.0]
    );
    let Value::Matrix(sub) = at(&engine, "(2 * gpu_power_watts)[20s:10s]", 40.0)
        .await
        .unwrap()
    else {
        panic!("a matrix");
    };
    assert_eq!(
        sub[0].points.iter().map(|p| p.1).collect::<Vec<_>>(),
        [6.0, 8.0]
    );
    assert!(
        matches!(at(&engine, "\"x\"", 0.0).await.unwrap(), Value::Text(_, text) if text == "x")
    );
    assert!(matches!(at(&engine, "-1 + 3", 0.0).await.unwrap(), Value::Scalar(_, v) if v == 2.0));
    for (query, expected) in [
        ("round(gpu_power_watts * 0.6)", 2.0),
        ("clamp(gpu_power_watts, 0, 3)", 3.0),
        ("clamp_min(gpu_power_watts, 9)", 9.0),
        ("gpu_power_watts offset 15s", 2.0),
        ("gpu_power_watts offset -15s", 4.0),
        ("gpu_power_watts @ 1551398410", 1.0),
        ("quantile_over_time(0.5, gpu_power_watts[1m])", 2.0),
        (
            "max_over_time(sum_over_time(gpu_power_watts[20s])[1m:10s])",
            7.0,
        ),
        ("stddev_over_time(gpu_power_watts[20s])", 0.5),
        ("time() - 1551398400", 40.0),
    ] {
        assert_eq!(one(&engine, query, 40.0).await, Some(expected), "{query}");
    }
    assert_eq!(
        one(&engine, "clamp(gpu_power_watts, 3, 0)", 40.0).await,
        None
    );
}
