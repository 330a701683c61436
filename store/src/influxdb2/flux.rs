//! Questions in Flux, and the records of their answers.

use super::lines::{MEASUREMENT, TAGS};
use crate::query::{OverTime, Selector};
use crate::remote::engine::{MARKER, QUALITY, points as join};
use crate::remote::fold::Steps;
use crate::remote::{ByDevice, step_points};
use heliostat_models::{DeviceId, Timestamp};
use influxdb2::api::query::FluxRecord;
use influxdb2_structmap::value::Value;
use std::collections::BTreeMap;

/// Latest instant that is asked about, milliseconds (year 2255).
const LAST: i64 = 9_000_000_000_000;

/// A text as a Flux string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            // `${` would be interpolated.
            '$' => out.push_str("\\x24"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// From the bucket, `[from, to)`, these fields, these devices.
fn source(bucket: &str, fields: &[String], select: &Selector, from: i64, to: i64) -> String {
    let from = from.clamp(0, LAST);
    // An empty interval is an error of Flux; one millisecond of nothing is not.
    let to = to.clamp(from + 1, LAST + 1);
    let mut out = format!(
        "from(bucket: {})\n  |> range(start: {}, stop: {})\n  |> filter(fn: (r) => r._measurement == {})",
        quoted(bucket),
        Timestamp(from),
        Timestamp(to),
        quoted(MEASUREMENT)
    );
    let any = |column: &str, values: Vec<String>| -> String {
        let terms: Vec<String> = (values.iter())
            .map(|value| format!("r.{column} == {value}"))
            .collect();
        format!("\n  |> filter(fn: (r) => {})", terms.join(" or "))
    };
    if !fields.is_empty() {
        out += &any("_field", fields.iter().map(|f| quoted(f)).collect());
    }
    if !select.devices.is_empty() {
        let devices = select.devices.iter().map(|d| quoted(d.as_str()));
        out += &any("device", devices.collect());
    }
    for (label, value) in &select.labels {
        let tag = (TAGS.iter())
            .find(|(_, known)| known == label)
            .map_or("device", |(tag, _)| *tag);
        out += &any(tag, vec![quoted(value)]);
    }
    out
}

/// Only what is read of an answer; a column of tags that differ between tables
/// would only make it longer.
const KEEP: &str = "\n  |> keep(columns: [\"_time\", \"_value\", \"_field\", \"device\"])";

fn of(devices: &[DeviceId]) -> Selector {
    Selector {
        devices: devices.to_vec(),
        labels: Vec::new(),
    }
}

/// Markers of devices in `[from, to]`.
pub(super) fn instants(bucket: &str, devices: &[DeviceId], from: i64, to: i64) -> String {
    let fields = [MARKER.to_owned()];
    source(bucket, &fields, &of(devices), from, to.saturating_add(1)) + KEEP
}

/// Everything of devices in `[from, to]`.
pub(super) fn frames(bucket: &str, devices: &[DeviceId], from: i64, to: i64) -> String {
    source(bucket, &[], &of(devices), from, to.saturating_add(1)) + KEEP
}

/// The latest marker of each series in `[since, until]`.
pub(super) fn latest(bucket: &str, select: &Selector, since: i64, until: i64) -> String {
    let fields = [MARKER.to_owned()];
    let source = source(bucket, &fields, select, since, until.saturating_add(1));
    format!("{source}\n  |> last(){KEEP}")
}

/// A metric and its quality in `[from, to)`.
pub(super) fn range(bucket: &str, metric: &str, select: &Selector, from: i64, to: i64) -> String {
    let fields = [metric.to_owned(), format!("{metric}{QUALITY}")];
    source(bucket, &fields, select, from, to) + KEEP
}

/// Values and flags of each step; `None` where Flux does not say the same.
pub(super) fn steps(
    bucket: &str,
    metric: &str,
    select: &Selector,
    steps: &Steps,
) -> Option<[String; 2]> {
    let function = match steps.over_time {
        OverTime::Avg => "mean",
        OverTime::Min => "min",
        OverTime::Max => "max",
        OverTime::Sum => "sum",
        OverTime::Count => "count",
        OverTime::Last => "last",
        _ => return None,
    };
    let of = |field: String, function: &str| {
        // Windows lie at multiples of their width since 1970, moved by the offset.
        format!(
            "{}\n  |> aggregateWindow(every: {}ms, offset: {}ms, fn: {function}, createEmpty: false, timeSrc: \"_start\"){KEEP}",
            source(bucket, &[field], select, steps.from, steps.to),
            steps.step,
            steps.from.rem_euclid(steps.step),
        )
    };
    Some([
        of(metric.to_owned(), function),
        of(format!("{metric}{QUALITY}"), "count"),
    ])
}

/// One value of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct FluxPoint {
    pub device: DeviceId,
    pub field: String,
    pub at: i64,
    pub value: f64,
}

/// The values of an answer; records without device, time or number are not ours.
pub(super) fn points(records: Vec<FluxRecord>) -> Vec<FluxPoint> {
    (records.into_iter())
        .filter_map(|mut record| {
            let Some(Value::String(device)) = record.values.remove("device") else {
                return None;
            };
            let Some(Value::TimeRFC(time)) = record.values.remove("_time") else {
                return None;
            };
            let value = match record.values.remove("_value")? {
                Value::Double(value) => value.into_inner(),
                Value::Long(value) => value as f64,
                Value::UnsignedLong(value) => value as f64,
                _ => return None,
            };
            let field = match record.values.remove("_field") {
                Some(Value::String(field)) => field,
                _ => String::new(),
            };
            Some(FluxPoint {
                device: DeviceId::from(device),
                field,
                at: time.timestamp_millis(),
                value,
            })
        })
        .collect()
}

/// Instants and values.
type Column = Vec<(i64, f64)>;

/// Values and qualities of one metric, by device.
pub(super) fn series(records: Vec<FluxRecord>) -> ByDevice {
    let mut columns: BTreeMap<DeviceId, (Column, Column)> = BTreeMap::new();
    for point in points(records) {
        let (values, qualities) = columns.entry(point.device).or_default();
        if point.field.ends_with(QUALITY) {
            qualities.push((point.at, point.value));
        } else {
            values.push((point.at, point.value));
        }
    }
    (columns.into_iter())
        .map(|(device, (values, qualities))| (device, join(&values, &qualities)))
        .collect()
}

/// The steps of each device, from the answers to both questions of [`steps`].
pub(super) fn stepped(values: Vec<FluxRecord>, flagged: Vec<FluxRecord>) -> ByDevice {
    let by_device = |records| {
        let mut columns: BTreeMap<DeviceId, Vec<(i64, f64)>> = BTreeMap::new();
        for point in points(records) {
            let column = columns.entry(point.device).or_default();
            column.push((point.at, point.value));
        }
        columns
    };
    let mut flagged = by_device(flagged);
    (by_device(values).into_iter())
        .map(|(device, values)| {
            let flagged = flagged.remove(&device).unwrap_or_default();
            let points = step_points(&values, &flagged);
            (device, points)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Label;

    #[test]
    fn a_question_is_bounded_and_quoted() {
        let select = Selector {
            devices: vec![DeviceId::from("a\"b"), DeviceId::from("${x}")],
            labels: vec![(Label::Rack, "r1".to_owned())],
        };
        let asked = Steps {
            from: 1_690_000_005_000,
            to: 1_690_000_065_000,
            step: 10_000,
            over_time: OverTime::Avg,
        };
        let [values, flagged] = steps("b", "gpu_power_watts", &select, &asked).unwrap();
        assert_eq!(
            values,
            r#"from(bucket: "b")
  |> range(start: 2023-07-22T04:26:45Z, stop: 2023-07-22T04:27:45Z)
  |> filter(fn: (r) => r._measurement == "heliostat")
  |> filter(fn: (r) => r._field == "gpu_power_watts")
  |> filter(fn: (r) => r.device == "a\"b" or r.device == "\x24{x}")
  |> filter(fn: (r) => r.rack == "r1")
  |> aggregateWindow(every: 10000ms, offset: 5000ms, fn: mean, createEmpty: false, timeSrc: "_start")
  |> keep(columns: ["_time", "_value", "_field", "device"])"#
        );
        assert!(flagged.contains("gpu_power_watts_quality") && flagged.contains("fn: count"));
        let integral = Steps {
            over_time: OverTime::Integral,
            ..asked
        };
        assert!(steps("b", "gpu_power_watts", &select, &integral).is_none());
        // Wide open is clamped to instants that can be written.
        let wide = range("b", "m", &Selector::default(), i64::MIN, i64::MAX);
        assert!(
            wide.contains("start: 1970-01-01T00:00:00Z, stop: 2255-"),
            "{wide}"
        );
    }
}
