//! The records of the write-ahead log. Each stands alone: it lists the devices
//! and metrics it speaks of by name, so that a damaged record costs only itself.
//!
//! ```text
//! record  = version(1) devices metrics frames
//! devices = count, count x text          metrics = count, count x text
//! frames  = count, count x frame
//! frame   = device, time (difference to the frame before), count, count x reading
//! reading = metric << 2 | state, and 8 bytes where the state has a value
//! ```
//! Counts and indices are varints, times signed varints.

use super::codec::{Cursor, has_value, put_block, put_signed, put_varint};
use super::head::{reading_of, state_of};
use heliostat_models::{Catalogue, Frame, MetricId, Timestamp};
use std::collections::HashMap;

const VERSION: u8 = 1;
/// A record is closed once it is longer than this.
const FULL: usize = 1 << 20;

/// Collects frames into records.
#[derive(Default)]
pub struct RecordWriter<'a> {
    done: Vec<Vec<u8>>,
    devices: Vec<&'a str>,
    device_places: HashMap<&'a str, u64>,
    metrics: Vec<MetricId>,
    /// Place of each metric in this record, by its id; `u64::MAX`: none yet.
    metric_places: Vec<u64>,
    frames: u64,
    body: Vec<u8>,
    last: i64,
}

impl<'a> RecordWriter<'a> {
    /// Adds a frame whose metrics are all in the catalogue.
    pub fn push(&mut self, frame: &'a Frame, catalogue: &Catalogue) {
        let name = frame.device.as_str();
        let device = *self.device_places.entry(name).or_insert_with(|| {
            self.devices.push(name);
            self.devices.len() as u64 - 1
        });
        put_varint(&mut self.body, device);
        put_signed(&mut self.body, frame.at.0.wrapping_sub(self.last));
        self.last = frame.at.0;
        put_varint(&mut self.body, frame.readings.len() as u64);
        for (metric, reading) in &frame.readings {
            let id = usize::from(metric.0);
            if id >= self.metric_places.len() {
                self.metric_places.resize(id + 1, u64::MAX);
            }
            if self.metric_places[id] == u64::MAX {
                self.metric_places[id] = self.metrics.len() as u64;
                self.metrics.push(*metric);
            }
            let (state, value) = state_of(*reading);
            put_varint(
                &mut self.body,
                self.metric_places[id] << 2 | u64::from(state),
            );
            if has_value(state) {
                self.body.extend_from_slice(&value.to_le_bytes());
            }
        }
        self.frames += 1;
        if self.body.len() > FULL {
            self.close(catalogue);
        }
    }

    /// The records.
    pub fn finish(mut self, catalogue: &Catalogue) -> Vec<Vec<u8>> {
        if self.frames > 0 {
            self.close(catalogue);
        }
        self.done
    }

    fn close(&mut self, catalogue: &Catalogue) {
        let mut record = vec![VERSION];
        put_varint(&mut record, self.devices.len() as u64);
        for device in self.devices.drain(..) {
            put_block(&mut record, device.as_bytes());
        }
        put_varint(&mut record, self.metrics.len() as u64);
        for metric in self.metrics.drain(..) {
            put_block(&mut record, catalogue.metric(metric).name.as_bytes());
        }
        put_varint(&mut record, self.frames);
        record.append(&mut self.body);
        self.done.push(record);
        self.device_places.clear();
        self.metric_places.clear();
        self.frames = 0;
        self.last = 0;
    }
}

/// Reads a record; `None` when it is none. Readings of metrics that this
/// catalogue does not know are left out.
pub fn read_record(bytes: &[u8], catalogue: &Catalogue) -> Option<Vec<Frame>> {
    let mut cursor = Cursor::new(bytes);
    if cursor.byte()? != VERSION {
        return None;
    }
    let mut devices = Vec::new();
    for _ in 0..cursor.length()? {
        devices.push(heliostat_models::DeviceId::from(cursor.text()?));
    }
    let mut metrics = Vec::new();
    for _ in 0..cursor.length()? {
        metrics.push(catalogue.id(cursor.text()?));
    }
    let count = cursor.length()?;
    let mut frames = Vec::with_capacity(count.min(cursor.left()));
    let mut last = 0i64;
    for _ in 0..count {
        let device = devices.get(cursor.length()?)?.clone();
        last = last.wrapping_add(cursor.signed()?);
        let readings_count = cursor.length()?;
        let mut readings = Vec::with_capacity(readings_count.min(cursor.left()));
        for _ in 0..readings_count {
            let word = cursor.varint()?;
            let state = (word & 3) as u8;
            let metric = *metrics.get(usize::try_from(word >> 2).ok()?)?;
            let value = if has_value(state) { cursor.f64()? } else { 0.0 };
            if let (Some(metric), Some(reading)) = (metric, reading_of(state, value)) {
                readings.push((metric, reading));
            }
        }
        frames.push(Frame {
            device,
            at: Timestamp(last),
            readings,
        });
    }
    (cursor.left() == 0).then_some(frames)
}

/// The records of frames.
#[cfg(any(test, fuzzing))]
pub(crate) fn wal_records(frames: &[Frame]) -> Vec<Vec<u8>> {
    let mut writer = RecordWriter::default();
    for frame in frames {
        writer.push(frame, Catalogue::builtin());
    }
    writer.finish(Catalogue::builtin())
}

/// Whatever is read of a record is read again when it is written.
#[cfg(any(test, fuzzing))]
pub(crate) fn wal_record_survives(record: &[u8]) {
    let Some(frames) = read_record(record, Catalogue::builtin()) else {
        return;
    };
    let again: Option<Vec<_>> = (wal_records(&frames).iter())
        .map(|record| read_record(record, Catalogue::builtin()))
        .collect();
    let again: Vec<Frame> = again.into_iter().flatten().flatten().collect();
    // By text: NaN is not equal to itself.
    assert_eq!(format!("{again:?}"), format!("{frames:?}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::{DeviceId, Reading};
    use proptest::prelude::*;

    fn reading() -> impl Strategy<Value = Reading> {
        prop_oneof![
            any::<f64>().prop_map(Reading::Measured),
            any::<f64>().prop_map(Reading::Estimated),
            Just(Reading::Missing),
        ]
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(frames in prop::collection::vec(("[a-z]{1,3}", any::<i64>(), prop::collection::vec((0u16..20, reading()), 0..6)), 0..20)) {
            let frames: Vec<Frame> = frames.into_iter().map(|(device, at, readings)| Frame {
                device: DeviceId::from(device),
                at: Timestamp(at),
                readings: readings.into_iter().map(|(m, r)| (MetricId(m), r)).collect(),
            }).collect();
            let mut writer = RecordWriter::default();
            for frame in &frames {
                writer.push(frame, Catalogue::builtin());
            }
            let read: Vec<Frame> = writer.finish(Catalogue::builtin()).iter()
                .flat_map(|r| read_record(r, Catalogue::builtin()).unwrap()).collect();
            // By text: NaN is not equal to itself.
            prop_assert_eq!(format!("{read:?}"), format!("{frames:?}"));
        }

        #[test]
        fn noise_is_refused_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 1..80)) {
            bytes[0] = VERSION;
            let _ = read_record(&bytes, Catalogue::builtin());
        }
    }
}
