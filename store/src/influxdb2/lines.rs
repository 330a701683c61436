//! Frames as line protocol, one line a frame, instants in milliseconds.

use crate::query::Label;
use crate::remote::engine::{MARKER, QUALITY, parts};
use heliostat_models::{Catalogue, Frame, Site};
use influxdb2::models::{DataPoint, WriteDataPoint};

/// Measurement of all lines.
pub(super) const MEASUREMENT: &str = "heliostat";
/// Tags beside `device`.
pub(super) const TAGS: [(&str, Label); 5] = [
    ("kind", Label::Kind),
    ("hall", Label::Hall),
    ("row", Label::Row),
    ("rack", Label::Rack),
    ("node", Label::Node),
];

/// The body of one write with millisecond precision.
pub fn line_protocol(frames: &[Frame], site: &Site) -> Vec<u8> {
    let catalogue = Catalogue::builtin();
    let mut body = Vec::new();
    for frame in frames {
        let labels = site.labels(&frame.device).unwrap_or_default();
        let mut point = DataPoint::builder(MEASUREMENT)
            .tag("device", frame.device.as_str())
            .timestamp(frame.at.0)
            .field(MARKER, frame.readings.len() as f64);
        for (key, label) in TAGS {
            // An empty tag is no valid line.
            let value = label.of(&frame.device, &labels);
            if !value.is_empty() {
                point = point.tag(key, value);
            }
        }
        for (metric, reading) in &frame.readings {
            let name = &catalogue.metric(*metric).name;
            let (value, quality) = parts(*reading);
            if let Some(value) = value {
                point = point.field(name, value);
            }
            if let Some(quality) = quality {
                point = point.field(format!("{name}{QUALITY}"), quality);
            }
        }
        // Neither can fail: the marker is a field, and memory takes all bytes.
        if let Ok(point) = point.build() {
            let _ = point.write_data_point_to(&mut body);
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::site::config;
    use heliostat_models::{DeviceId, Reading, Timestamp};

    #[test]
    fn a_frame_is_a_line_and_a_missing_reading_no_value() {
        let loaded = config::load("demo", config::builtin_demo(), Default::default());
        let site = loaded.site.unwrap();
        let frames = [
            Frame {
                device: DeviceId::from("r01-n1-gpu0"),
                at: Timestamp(1_690_000_000_123),
                readings: vec![
                    (Catalogue::gpu_power(), Reading::Estimated(412.5)),
                    (Catalogue::gpu_temperature(), Reading::Missing),
                ],
            },
            Frame {
                device: DeviceId::from("somebody else's, meter=1"),
                at: Timestamp(5),
                readings: vec![],
            },
        ];
        let body = String::from_utf8(line_protocol(&frames, &site)).unwrap();
        assert_eq!(
            body,
            "heliostat,device=r01-n1-gpu0,hall=hall-1,kind=gpu,node=r01-n1,rack=r01,row=row-1 gpu_power_watts=412.5,gpu_power_watts_quality=1,gpu_temperature_celsius_quality=2,heliostat_frame=2 1690000000123\n\
             heliostat,device=somebody\\ else's\\,\\ meter\\=1 heliostat_frame=0 5\n"
        );
    }
}
