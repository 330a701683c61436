//! The records of the write-ahead log. Each stands alone: it lists the devices
//! and metrics it speaks of by name, so that a damaged record costs only itself.
//!
//! ```text
//! record  = version(2) devices metrics frames
//! devices = count, count x text          metrics = count, count x text
//! frames  = count, count x frame
//! frame   = device, time (difference to the frame before), shape, 8 bytes for each reading with a value
//! shape   = its number in this record; of a new one, which has the next number,
//!           count, count x (metric << 2 | state) follow
//! ```
//! Counts, numbers and indices are varints, times signed varints. In version 1
//! each frame named its metrics: count, count x (metric << 2 | state, and 8 bytes
//! where the state has a value) stood in place of shape and values.

use super::codec::{Cursor, has_value, put_block, put_signed, put_varint};
use super::head::{reading_of, state_of};
use heliostat_models::{Catalogue, Frame, MetricId, Reading, Timestamp};

const VERSION: u8 = 2;
/// A record is closed once it is longer than this.
const FULL: usize = 1 << 20;
/// Shapes that a frame is compared with; frames of one source have few.
const SHAPES: usize = 16;
/// No place yet.
const NOWHERE: u32 = u32::MAX;

/// Metric and state of each reading of a frame.
type Shape = Vec<u32>;

/// Collects frames into records. It is used for many groups, so that what it
/// needs is allocated once.
#[derive(Debug, Default)]
pub struct RecordWriter {
    done: Vec<Vec<u8>>,
    /// Names of this record's devices, each with its length.
    names: Vec<u8>,
    /// Place in this record of each device, by its index.
    device_places: Vec<u32>,
    /// Indices of the devices that have one.
    devices: Vec<u32>,
    metrics: Vec<MetricId>,
    metric_places: Vec<u32>,
    /// The latest shapes and their numbers; the last used is first.
    shapes: Vec<(u64, Shape)>,
    next_shape: u64,
    frames: u64,
    body: Vec<u8>,
    last: i64,
}

/// Metric and state of a reading as one number, and its value.
fn word_of((metric, reading): &(MetricId, Reading)) -> (u32, f64) {
    let (state, value) = state_of(*reading);
    (u32::from(metric.0) << 2 | u32::from(state), value)
}

impl RecordWriter {
    /// Adds a frame of the device with this index, whose metrics are all in the catalogue.
    pub fn push(&mut self, device: u32, frame: &Frame, catalogue: &Catalogue) {
        let index = device as usize;
        if index >= self.device_places.len() {
            self.device_places.resize(index + 1, NOWHERE);
        }
        if self.device_places[index] == NOWHERE {
            self.device_places[index] = self.devices.len() as u32;
            self.devices.push(device);
            put_block(&mut self.names, frame.device.as_str().as_bytes());
        }
        self.body.reserve(32 + 12 * frame.readings.len());
        put_varint(&mut self.body, u64::from(self.device_places[index]));
        put_signed(&mut self.body, frame.at.0.wrapping_sub(self.last));
        self.last = frame.at.0;
        self.put_shape(&frame.readings);
        for (_, reading) in &frame.readings {
            if let Reading::Measured(value) | Reading::Estimated(value) = reading {
                self.body.extend_from_slice(&value.to_le_bytes());
            }
        }
        self.frames += 1;
        if self.body.len() > FULL {
            self.close(catalogue);
        }
    }

    fn put_shape(&mut self, readings: &[(MetricId, Reading)]) {
        let same = |(_, shape): &(u64, Shape)| {
            shape.len() == readings.len()
                && (shape.iter().zip(readings)).all(|(word, reading)| *word == word_of(reading).0)
        };
        if let Some(place) = self.shapes.iter().position(same) {
            self.shapes.swap(0, place);
            put_varint(&mut self.body, self.shapes[0].0);
            return;
        }
        put_varint(&mut self.body, self.next_shape);
        put_varint(&mut self.body, readings.len() as u64);
        let mut shape = Shape::with_capacity(readings.len());
        for reading in readings {
            let (word, _) = word_of(reading);
            shape.push(word);
            let id = (word >> 2) as usize;
            if id >= self.metric_places.len() {
                self.metric_places.resize(id + 1, NOWHERE);
            }
            if self.metric_places[id] == NOWHERE {
                self.metric_places[id] = self.metrics.len() as u32;
                self.metrics.push(reading.0);
            }
            let place = u64::from(self.metric_places[id]);
            put_varint(&mut self.body, place << 2 | u64::from(word & 3));
        }
        self.shapes.truncate(SHAPES - 1);
        self.shapes.insert(0, (self.next_shape, shape));
        self.next_shape += 1;
    }

    /// The records of what was added since the last call.
    pub fn take(&mut self, catalogue: &Catalogue) -> Vec<Vec<u8>> {
        if self.frames > 0 {
            self.close(catalogue);
        }
        std::mem::take(&mut self.done)
    }

    fn close(&mut self, catalogue: &Catalogue) {
        let mut record = Vec::with_capacity(self.body.len() + self.names.len() + 4_096);
        record.push(VERSION);
        put_varint(&mut record, self.devices.len() as u64);
        record.append(&mut self.names);
        put_varint(&mut record, self.metrics.len() as u64);
        for metric in self.metrics.drain(..) {
            put_block(&mut record, catalogue.metric(metric).name.as_bytes());
        }
        put_varint(&mut record, self.frames);
        record.append(&mut self.body);
        self.done.push(record);
        for device in self.devices.drain(..) {
            self.device_places[device as usize] = NOWHERE;
        }
        self.metric_places.clear();
        self.shapes.clear();
        (self.next_shape, self.frames, self.last) = (0, 0, 0);
    }
}

/// A reading's metric, none where the catalogue does not know it, and its state.
type Cell = (Option<MetricId>, u8);

fn read_cell(cursor: &mut Cursor<'_>, metrics: &[Option<MetricId>]) -> Option<Cell> {
    let word = cursor.varint()?;
    let metric = *metrics.get(usize::try_from(word >> 2).ok()?)?;
    Some((metric, (word & 3) as u8))
}

/// Reads a record; `None` when it is none. Readings of metrics that this
/// catalogue does not know are left out.
pub fn read_record(bytes: &[u8], catalogue: &Catalogue) -> Option<Vec<Frame>> {
    let mut cursor = Cursor::new(bytes);
    let version = cursor.byte()?;
    if version == 0 || version > VERSION {
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
    let mut shapes: Vec<Vec<Cell>> = Vec::new();
    let count = cursor.length()?;
    let mut frames = Vec::with_capacity(count.min(cursor.left()));
    let mut last = 0i64;
    for _ in 0..count {
        let device = devices.get(cursor.length()?)?.clone();
        last = last.wrapping_add(cursor.signed()?);
        let mut readings = Vec::new();
        let mut push = |cursor: &mut Cursor<'_>, (metric, state): Cell| {
            let value = if has_value(state) { cursor.f64()? } else { 0.0 };
            if let (Some(metric), Some(reading)) = (metric, reading_of(state, value)) {
                readings.push((metric, reading));
            }
            Some(())
        };
        if version == 1 {
            for _ in 0..cursor.length()? {
                let cell = read_cell(&mut cursor, &metrics)?;
                push(&mut cursor, cell)?;
            }
        } else {
            let number = cursor.length()?;
            if number == shapes.len() {
                let cells = cursor.length()?;
                let mut shape = Vec::with_capacity(cells.min(cursor.left()));
                for _ in 0..cells {
                    shape.push(read_cell(&mut cursor, &metrics)?);
                }
                shapes.push(shape);
            }
            for cell in shapes.get(number)? {
                push(&mut cursor, *cell)?;
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
    let mut devices = std::collections::HashMap::new();
    for frame in frames {
        let next = devices.len() as u32;
        let index = *devices.entry(&frame.device).or_insert(next);
        writer.push(index, frame, Catalogue::builtin());
    }
    writer.take(Catalogue::builtin())
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
    use heliostat_models::DeviceId;
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
            // Twice: nothing of one group is left in the next.
            for part in [&frames[..], &frames[..frames.len() / 2]] {
                for frame in part {
                    let index = frame.device.as_str().bytes().fold(0, |sum, b| sum * 27 + u32::from(b - b'`'));
                    writer.push(index, frame, Catalogue::builtin());
                }
                let read: Vec<Frame> = writer.take(Catalogue::builtin()).iter()
                    .flat_map(|r| read_record(r, Catalogue::builtin()).unwrap()).collect();
                // By text: NaN is not equal to itself.
                prop_assert_eq!(format!("{read:?}"), format!("{part:?}"));
            }
        }

        #[test]
        fn noise_is_refused_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 1..80), version in 0..=VERSION) {
            bytes[0] = version;
            let _ = read_record(&bytes, Catalogue::builtin());
        }
    }

    #[test]
    fn records_of_the_first_version_are_still_read() {
        let mut record = vec![1];
        put_varint(&mut record, 1);
        put_block(&mut record, b"a");
        put_varint(&mut record, 2);
        put_block(&mut record, b"gpu_power_watts");
        put_block(&mut record, b"no_longer_known");
        put_varint(&mut record, 1);
        put_varint(&mut record, 0);
        put_signed(&mut record, 5_000);
        put_varint(&mut record, 3);
        for (metric, value) in [(0u64, 1.5f64), (1, 2.5)] {
            put_varint(&mut record, metric << 2 | 1);
            record.extend_from_slice(&value.to_le_bytes());
        }
        put_varint(&mut record, 3);
        let frame = Frame {
            device: DeviceId::from("a"),
            at: Timestamp(5_000),
            readings: vec![
                (Catalogue::gpu_power(), Reading::Measured(1.5)),
                (Catalogue::gpu_power(), Reading::Missing),
            ],
        };
        assert_eq!(
            read_record(&record, Catalogue::builtin()),
            Some(vec![frame])
        );
    }
}
