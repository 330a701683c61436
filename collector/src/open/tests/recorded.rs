//! What real exporters answered, sent as Prometheus would send it and as
//! Telegraf would.

use super::*;

/// Name, labels and value of one line of an exposition.
type Line<'a> = (&'a str, Vec<(&'a str, &'a str)>, f64);

/// The samples of a Prometheus text exposition without escapes or times.
fn exposition(text: &str) -> Vec<Line<'_>> {
    let lines = text
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty());
    lines
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            let labels = labels.trim_end_matches('}');
            let pairs = labels.split("\",").filter(|l| !l.is_empty());
            let labels = pairs
                .map(|pair| {
                    let (name, value) = pair.split_once("=\"").unwrap();
                    (name, value.trim_end_matches('"'))
                })
                .collect();
            (name, labels, value.parse().unwrap())
        })
        .collect()
}

/// As remote write, with the labels that Prometheus puts on.
fn written<'a>(lines: &[Line<'a>], renamed: (&'a str, &'a str), instance: &'a str) -> Vec<Vec<u8>> {
    (lines.iter())
        .map(|(name, labels, value)| {
            let mut all = vec![("__name__", *name), ("instance", instance), ("job", "gpu")];
            all.extend(
                labels
                    .iter()
                    .map(|(n, v)| (*n, if *v == renamed.0 { renamed.1 } else { *v })),
            );
            all.sort_unstable();
            series(&all, &[(*value, NOW.0)])
        })
        .collect()
}

const DCGM: &str = include_str!("../../../tests/data/dcgm_h100.prom");
const EXPORTER: &str = include_str!("../../../tests/data/nvidia_gpu_exporter_h100.prom");

#[tokio::test]
async fn eight_h100_behind_dcgm_exporter() {
    let stage = Stage::new();
    let lines = exposition(DCGM);
    let tally = stage
        .write(&written(&lines, ("gpu-node-1", "r04-n2"), "10.1.2.3:9400"))
        .await
        .unwrap();
    assert_eq!(tally.stored, lines.len() as u64);
    // By hand from the recording: GPU 0 drew 113.611 W at 30 °C.
    let power = stage.stored("gpu_power_watts", "r04-n2-gpu0").await;
    assert_eq!(power, [(0.0, Some(113.611))]);
    let heat = stage.stored("gpu_temperature_celsius", "r04-n2-gpu0").await;
    assert_eq!(heat, [(0.0, Some(30.0))]);
    for gpu in 0..8 {
        let name = format!("r04-n2-gpu{gpu}");
        assert_eq!(stage.stored("gpu_power_watts", &name).await.len(), 1);
    }
    assert_eq!(stage.store.stats().frames, 8);
}

#[tokio::test]
async fn the_same_as_telegraf_writes_it() {
    let stage = Stage::new();
    let mut body = String::new();
    for (name, labels, value) in exposition(DCGM) {
        body.push_str(name);
        for (label, text) in labels.iter().filter(|(_, v)| !v.is_empty()) {
            let text = if *label == "Hostname" { "r04-n2" } else { text };
            body.push_str(&format!(",{label}={}", text.replace(' ', "\\ ")));
        }
        body.push_str(&format!(" gauge={value} {}\n", NOW.0 / 1_000));
    }
    let tally = stage.lines(&body).await;
    assert_eq!((tally.stored, tally.faults.len()), (30, 0));
    let power = stage.stored("gpu_power_watts", "r04-n2-gpu3").await;
    assert_eq!(power, [(0.0, Some(67.316))]);
}

#[tokio::test]
async fn an_h100_behind_nvidia_gpu_exporter_is_found_by_its_uuid() {
    let stage = Stage::new();
    let lines = exposition(EXPORTER);
    // The series that tells the index comes in the middle of the body: all of
    // the body is understood all the same.
    let sent = written(&lines, ("-", "-"), "r01-n4:9835");
    let tally = stage.write(&sent).await.unwrap();
    assert_eq!(tally.lessons, 1);
    assert_eq!(tally.faults, []);
    assert_eq!(tally.stored, 8);
    for (metric, value) in [
        ("gpu_power_watts", 631.95),
        ("gpu_power_limit_watts", 700.0),
        ("gpu_temperature_celsius", 59.0),
        ("gpu_utilization_ratio", 1.0),
        ("gpu_memory_utilization_ratio", 0.11),
        ("gpu_memory_used_bytes", 2.0780679168e10),
        ("gpu_sm_clock_hertz", 1.98e9),
        ("gpu_memory_clock_hertz", 2.619e9),
    ] {
        let found = stage.stored(metric, "r01-n4-gpu0").await;
        assert_eq!(found, [(0.0, Some(value))], "{metric}");
    }
    // Nothing is dropped in silence.
    let counted = tally.stored
        + tally.duplicates
        + tally.unknown
        + tally.lessons
        + tally.unplaced.values().sum::<u64>();
    assert_eq!(counted, lines.len() as u64);
    assert!(
        (stage.open.unknown_metrics().iter())
            .any(|m| m.name == "nvidia_smi_temperature_memory" && m.last_value == Some(54.0))
    );
    // A UUID without an index is told as such.
    let stray = series(
        &[
            ("__name__", "nvidia_smi_power_draw_watts"),
            ("instance", "r01-n4:9835"),
            ("uuid", "ffff"),
        ],
        &[(1.0, NOW.0)],
    );
    let tally = stage.write(&[stray]).await.unwrap();
    assert_eq!(
        tally.unplaced["a GPU's UUID whose index no sample has told yet"],
        1
    );
}
