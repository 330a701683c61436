//! Frames as the lines of `/api/v1/import`: one line a series, with all its
//! values of the batch.

use crate::query::Label;
use crate::remote::engine::{MARKER, QUALITY, parts};
use heliostat_models::{Catalogue, DeviceId, Frame, Site};
use std::collections::BTreeMap;

/// Labels beside `device`, by the names they have in the engine.
pub(super) const LABELS: [(&str, Label); 5] = [
    ("kind", Label::Kind),
    ("hall", Label::Hall),
    ("row", Label::Row),
    ("rack", Label::Rack),
    ("node", Label::Node),
];

#[derive(Default)]
struct Column {
    values: Vec<f64>,
    timestamps: Vec<i64>,
}

/// The body of one import.
pub(super) fn import_lines(frames: &[Frame], site: &Site) -> Vec<u8> {
    let catalogue = Catalogue::builtin();
    let mut columns: BTreeMap<(&DeviceId, String), Column> = BTreeMap::new();
    for frame in frames {
        let mut put = |name: String, value: f64| {
            let column = columns.entry((&frame.device, name)).or_default();
            column.values.push(value);
            column.timestamps.push(frame.at.0);
        };
        put(MARKER.to_owned(), frame.readings.len() as f64);
        for (metric, reading) in &frame.readings {
            let name = &catalogue.metric(*metric).name;
            let (value, quality) = parts(*reading);
            if let Some(value) = value {
                put(name.clone(), value);
            }
            if let Some(quality) = quality {
                put(format!("{name}{QUALITY}"), quality);
            }
        }
    }
    let mut body = Vec::new();
    for ((device, name), column) in columns {
        let labels = site.labels(device).unwrap_or_default();
        let mut metric = serde_json::Map::new();
        metric.insert("__name__".to_owned(), name.into());
        metric.insert("device".to_owned(), device.as_str().into());
        for (key, label) in LABELS {
            let value = label.of(device, &labels);
            if !value.is_empty() {
                metric.insert(key.to_owned(), value.into());
            }
        }
        let line = serde_json::json!({
            "metric": metric,
            "values": column.values,
            "timestamps": column.timestamps,
        });
        body.extend_from_slice(line.to_string().as_bytes());
        body.push(b'\n');
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::site::config;
    use heliostat_models::{Reading, Timestamp};

    #[test]
    fn a_missing_reading_has_no_value_and_a_batch_has_a_line_a_series() {
        let loaded = config::load("demo", config::builtin_demo(), Default::default());
        let site = loaded.site.unwrap();
        let frame = |at, reading| Frame {
            device: DeviceId::from("r01-n1-gpu0"),
            at: Timestamp(at),
            readings: vec![(Catalogue::gpu_power(), reading)],
        };
        let frames = [
            frame(1_000, Reading::Measured(7.25)),
            frame(2_000, Reading::Missing),
            frame(3_000, Reading::Estimated(f64::NAN)),
            frame(4_000, Reading::Estimated(8.0)),
        ];
        let body = String::from_utf8(import_lines(&frames, &site)).unwrap();
        let labels = r#""device":"r01-n1-gpu0","hall":"hall-1","kind":"gpu","node":"r01-n1","rack":"r01","row":"row-1""#;
        let expected = [
            format!(
                r#"{{"metric":{{"__name__":"gpu_power_watts",{labels}}},"timestamps":[1000,4000],"values":[7.25,8.0]}}"#
            ),
            format!(
                r#"{{"metric":{{"__name__":"gpu_power_watts_quality",{labels}}},"timestamps":[2000,3000,4000],"values":[2.0,2.0,1.0]}}"#
            ),
            format!(
                r#"{{"metric":{{"__name__":"heliostat_frame",{labels}}},"timestamps":[1000,2000,3000,4000],"values":[1.0,1.0,1.0,1.0]}}"#
            ),
        ];
        assert_eq!(body.lines().collect::<Vec<_>>(), expected);
    }
}
