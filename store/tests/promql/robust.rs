//! Refusals, limits, hostile texts, and the same answer whichever way it is read.

use crate::data::{T0, at, engine, hall, stored};
use crate::support::SITE;
use async_trait::async_trait;
use heliostat_models::{Frame, Timestamp};
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::promql::{Dialect, Engine, Instants, PromqlError, Value};
use heliostat_store::query::StoreStats;
use heliostat_store::{Answer, AppendReceipt, Query, StoreError, TimeSeriesStore};
use proptest::prelude::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

#[tokio::test]
async fn what_is_not_supported_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(&stored(directory.path(), &[]).await);
    for (query, name) in [
        (
            "histogram_quantile(0.9, gpu_power_watts)",
            "histogram_quantile",
        ),
        ("predict_linear(gpu_power_watts[5m], 60)", "predict_linear"),
        ("count_values(\"x\", gpu_power_watts)", "count_values"),
        ("hour()", "hour"),
    ] {
        match at(&engine, query, 0.0).await {
            Err(PromqlError::Unsupported(text)) => assert!(
                text.contains(&format!("\"{name}\" is not supported")),
                "{text}"
            ),
            other => panic!("{query}: {other:?}"),
        }
    }
    for query in [
        "",
        "sum(",
        "gpu_power_watts[5m",
        "no_such_function(x)",
        "{}",
        "{device=~\".*\"}",
        "1 2",
        "x{a=\"b\"",
    ] {
        let found = at(&engine, query, 0.0).await;
        assert!(
            matches!(found, Err(PromqlError::Parse(_))),
            "{query}: {found:?}"
        );
    }
}

#[tokio::test]
async fn limits_are_held_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = stored(directory.path(), &hall()).await;
    let mut engine = engine(&store);
    engine.limits.samples = 1_000;
    engine.limits.series = 5;
    let refused = async |query: &str| at(&engine, query, 7_000.0).await.unwrap_err().to_string();
    let text = refused("sum(rate(gpu_energy_joules_total[2h]))").await;
    assert!(text.contains("more than 1000 samples"), "{text}");
    let text = refused("{site=\"demo\"}").await;
    assert!(text.contains("more than 5 series"), "{text}");
    let range = |seconds: i64| Instants::Range {
        start: Timestamp(T0),
        end: Timestamp(T0 + seconds * 1_000),
        step: Duration::from_secs(1),
    };
    assert!(engine.query("vector(1)", range(10_999)).await.is_ok());
    let text = engine
        .query("vector(1)", range(11_000))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("maximum resolution of 11000 points"),
        "{text}"
    );
    let text = engine
        .query("\"x\"", range(1))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("invalid expression type \"string\""),
        "{text}"
    );
    let deep = refused(&"(".repeat(100_000)).await;
    assert!(deep.contains("longer than"), "{deep}");
    assert!(refused(&"-".repeat(1_000)).await.contains("more than 250"));
}

/// As deep as is allowed, on a thread as small as the server's.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_deepest_query_fits_on_the_stack() {
    let directory = tempfile::tempdir().unwrap();
    let engine = engine(&stored(directory.path(), &[]).await);
    let deepest = [
        format!("{}1{}", "(".repeat(250), ")".repeat(250)),
        format!("1{}", "+1".repeat(250)),
        format!("{}vector(1)", "-".repeat(249)),
        format!("{}vector(1){}", "abs(".repeat(249), ")".repeat(249)),
        format!("{}vector(1){}", "sum(".repeat(249), ")".repeat(249)),
    ];
    let answered = tokio::spawn(async move {
        for query in deepest {
            at(&engine, &query, 0.0).await.unwrap();
        }
    });
    answered.await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    /// Words of the language in any order: an answer or an error, never a panic.
    #[test]
    fn no_text_makes_it_panic(words in proptest::collection::vec(word(), 0..14), noise in "\\PC{0,12}") {
        let directory = tempfile::tempdir().unwrap();
        let runtime = crate::support::runtime();
        runtime.block_on(async {
            let samples = crate::data::series("gpu_power_watts", "r01-n1-gpu0", &[(0.0, Some(1.0)), (15.0, None)]);
            let engine = engine(&stored(directory.path(), &samples).await);
            for query in [words.join(" "), words.concat(), noise.clone(), format!("{}{noise}", words.concat())] {
                let _ = at(&engine, &query, 20.0).await;
                let range = Instants::Range { start: Timestamp(T0), end: Timestamp(T0 + 60_000), step: Duration::from_secs(7) };
                let _ = engine.query(&query, range).await;
            }
        });
    }
}

fn word() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "gpu_power_watts",
        "{rack=\"r01\"}",
        "{device=~\"r.*\"}",
        "[5m]",
        "[1m:10s]",
        "[",
        "]",
        "(",
        ")",
        "{",
        "}",
        ",",
        "rate",
        "sum",
        "avg_over_time",
        "topk",
        "quantile",
        "by",
        "without",
        "(rack)",
        "on",
        "ignoring",
        "group_left",
        "offset",
        "5m",
        "-5m",
        "@",
        "start()",
        "end()",
        "1e300",
        "-",
        "+",
        "/",
        "%",
        "^",
        "==",
        "bool",
        ">",
        "and",
        "or",
        "unless",
        "1",
        "0",
        "NaN",
        "Inf",
        "\"x\"",
        "vector",
        "scalar",
        "time()",
        "absent",
        "label_replace",
        "timestamp",
        "round",
        "clamp",
        "292y",
        "9223372036854775807",
    ])
}

/// A store that the cases of a property share.
static HALL: LazyLock<(tempfile::TempDir, Arc<EmbeddedStore>)> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let store = crate::support::runtime().block_on(stored(directory.path(), &hall()));
    (directory, store)
});

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]
    /// Evaluating all instants at once gives what one instant after the other gives.
    #[test]
    fn a_range_is_its_instants(
        query in proptest::sample::select(crate::judges::QUERIES), from in -400_i64..7_600, step in 1_i64..1_500, count in 1_i64..9,
        newer: bool,
    ) {
        // What these mean depends on the range.
        prop_assume!(!query.contains("start()") && !query.contains("end()"));
        let mut engine = engine(&HALL.1);
        engine.dialect = if newer { Dialect::Prometheus3 } else { Dialect::Prometheus2 };
        let at = |index: i64| Timestamp(T0 + (from + index * step) * 1_000);
        let range = Instants::Range { start: at(0), end: at(count - 1), step: Duration::from_secs(step as u64) };
        crate::support::runtime().block_on(async {
            let Ok(whole) = engine.query(query, range).await else {
                return Ok(());
            };
            let mut whole = points(whole);
            let mut single = Vec::new();
            for index in 0..count {
                match engine.query(query, Instants::At(at(index))).await.unwrap() {
                    Value::Scalar(at, value) => single.push(("{}".to_owned(), at.0, value)),
                    Value::Vector(all) => single.extend(
                        all.iter().map(|s| (s.labels.to_string(), s.points[0].0.0, s.points[0].1)),
                    ),
                    other => panic!("{query}: {other:?}"),
                }
            }
            single.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
            whole.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
            prop_assert_eq!(whole.len(), single.len(), "{}", query);
            for (a, b) in whole.iter().zip(&single) {
                prop_assert_eq!((&a.0, a.1), (&b.0, b.1), "{}", query);
                let close = (a.2 - b.2).abs() <= 1e-12 * a.2.abs();
                prop_assert!(close || a.2.to_bits() == b.2.to_bits() || a.2 == b.2, "{}: {:?} {:?}", query, a, b);
            }
            Ok(())
        })?;
    }
}

/// Refuses more points than it is told, as the store does with very many.
struct Narrow {
    inner: Arc<dyn TimeSeriesStore>,
    most: usize,
    refused: AtomicUsize,
}

#[async_trait]
impl TimeSeriesStore for Narrow {
    async fn append(&self, frames: Vec<Frame>) -> Result<AppendReceipt, StoreError> {
        self.inner.append(frames).await
    }
    async fn query(&self, query: &Query) -> Result<Answer, StoreError> {
        let answer = self.inner.query(query).await?;
        if let Answer::Series(all) = &answer
            && all.iter().map(|s| s.points.len()).sum::<usize>() > self.most
        {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(StoreError::BadQuery("too many points".to_owned()));
        }
        Ok(answer)
    }
    fn stats(&self) -> StoreStats {
        self.inner.stats()
    }
}

fn two_hours(step: u64) -> Instants {
    Instants::Range {
        start: Timestamp(T0 - 60_000),
        end: Timestamp(T0 + 7_300_000),
        step: Duration::from_secs(step),
    }
}

#[tokio::test]
async fn a_store_that_refuses_large_answers_is_asked_in_parts() {
    let directory = tempfile::tempdir().unwrap();
    let store = stored(directory.path(), &hall()).await;
    let whole = engine(&store);
    let narrow = Arc::new(Narrow {
        inner: store.clone(),
        most: 100,
        refused: AtomicUsize::new(0),
    });
    let parts = Engine::new(narrow.clone(), SITE.clone());
    for query in [
        "gpu_power_watts",
        "sum by (rack) (gpu_power_watts)",
        "rate(gpu_energy_joules_total[5m])",
        "avg_over_time(gpu_power_watts[90s])",
    ] {
        for step in [15, 61, 600] {
            let expected = whole.query(query, two_hours(step)).await.unwrap();
            assert_eq!(
                parts.query(query, two_hours(step)).await.unwrap(),
                expected,
                "{query}"
            );
        }
    }
    assert!(narrow.refused.load(Ordering::Relaxed) > 0);
}

/// Windows that tile the time are folded by the store; the others are read raw.
/// A subquery at every instant is a third way to the same.
#[tokio::test]
async fn folded_windows_equal_those_that_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = stored(directory.path(), &hall()).await;
    let engine = engine(&store);
    assert_eq!(engine.dialect, Dialect::Prometheus3);
    for function in ["avg", "min", "max", "sum", "count", "last"] {
        let folded = format!("{function}_over_time(gpu_power_watts[1m])");
        let a = points(engine.query(&folded, two_hours(60)).await.unwrap());
        // Another spacing of instants is read raw; every second one of it is an instant of the first.
        let b = points(engine.query(&folded, two_hours(30)).await.unwrap());
        let b: Vec<_> = b
            .into_iter()
            .filter(|(_, at, _)| (at - T0).rem_euclid(60_000) == 0)
            .collect();
        assert!(a.len() > 100);
        assert_eq!(a.len(), b.len(), "{function}");
        for (a, b) in a.iter().zip(&b) {
            assert_eq!((&a.0, a.1), (&b.0, b.1), "{function}");
            assert!(
                (a.2 - b.2).abs() <= 1e-12 * a.2.abs(),
                "{function}: {a:?} {b:?}"
            );
        }
        // Asked for once, a window is folded too.
        let Value::Vector(once) = at(&engine, &folded, 600.0).await.unwrap() else {
            panic!("a vector");
        };
        let expected = b.iter().filter(|(_, at, _)| *at == T0 + 600_000);
        let found = once.iter().map(|s| (s.labels.to_string(), s.points[0].1));
        for (found, expected) in found.zip(expected) {
            assert_eq!(found.0, expected.0, "{function}");
            assert!(
                (found.1 - expected.2).abs() <= 1e-12 * found.1.abs(),
                "{function}"
            );
        }
    }
}

fn points(value: Value) -> Vec<(String, i64, f64)> {
    let Value::Matrix(all) = value else {
        panic!("a matrix");
    };
    (all.iter())
        .flat_map(|s| {
            s.points
                .iter()
                .map(|(at, v)| (s.labels.to_string(), at.0, *v))
        })
        .collect()
}
