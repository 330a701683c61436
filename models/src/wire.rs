//! Messages and topics on MQTT, and the binary form of a batch of frames.
//!
//! ```text
//! heliostat/v1/SITE/frames/AGENT     agent -> ingest   FrameBatch, binary (below), QoS 1
//! heliostat/v1/SITE/acks/AGENT       ingest -> agent   Ack, JSON, QoS 1
//! heliostat/v1/SITE/hello/AGENT      agent -> all      AgentHello, JSON, retained
//! heliostat/v1/SITE/caps/AGENT       executor -> agent CapCommand, JSON, QoS 1
//! heliostat/v1/SITE/applied/AGENT    agent -> executor CapAnswer, JSON, QoS 1
//! heliostat/v1/SITE/control          controller -> all ControlLock, JSON, retained
//! heliostat/v1/SITE/jobs             scheduler -> ingest JobRecord, JSON, QoS 1
//! heliostat/v1/SITE/orders           planner -> scheduler JobOrders, JSON, QoS 1
//! ```
//!
//! Where the site has a key, hello, caps, applied and control are signed; see
//! [`crate::signed`].
//!
//! A batch is `"HF"`, a version byte, a postcard body, and the CRC-32 of all
//! before it (little endian). Metrics and devices go by name, once a batch.

use crate::ids::{AgentId, DeviceId, JobId, SiteId};
use crate::job::JobOrder;
use crate::metrics::{Catalogue, MetricId};
use crate::reading::{Frame, Reading};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Upper bound of a batch on the wire; larger ones are refused unread.
pub const MAX_BATCH_BYTES: usize = 1 << 20;

/// The topics of one site.
#[derive(Clone, Debug)]
pub struct Topics {
    root: String,
}

impl Topics {
    /// The topics of `site`.
    pub fn new(site: &SiteId) -> Self {
        Self {
            root: format!("heliostat/v1/{site}"),
        }
    }
    /// Frames of one agent.
    pub fn frames(&self, agent: &AgentId) -> String {
        format!("{}/frames/{agent}", self.root)
    }
    /// Frames of every agent (subscription).
    pub fn all_frames(&self) -> String {
        format!("{}/frames/+", self.root)
    }
    /// Acknowledgements for one agent.
    pub fn acks(&self, agent: &AgentId) -> String {
        format!("{}/acks/{agent}", self.root)
    }
    /// What an agent says of itself.
    pub fn hello(&self, agent: &AgentId) -> String {
        format!("{}/hello/{agent}", self.root)
    }
    /// Every agent's hello (subscription).
    pub fn all_hellos(&self) -> String {
        format!("{}/hello/+", self.root)
    }
    /// Caps for one agent.
    pub fn caps(&self, agent: &AgentId) -> String {
        format!("{}/caps/{agent}", self.root)
    }
    /// An agent's answers to caps.
    pub fn applied(&self, agent: &AgentId) -> String {
        format!("{}/applied/{agent}", self.root)
    }
    /// Every agent's answers (subscription).
    pub fn all_applied(&self) -> String {
        format!("{}/applied/+", self.root)
    }
    /// Which controller is in charge.
    pub fn control(&self) -> String {
        format!("{}/control", self.root)
    }
    /// Grid events, as controllers tell each other of them.
    pub fn grid_events(&self) -> String {
        format!("{}/grid-events", self.root)
    }
    /// Job records from schedulers.
    pub fn jobs(&self) -> String {
        format!("{}/jobs", self.root)
    }
    /// Orders to schedulers.
    pub fn orders(&self) -> String {
        format!("{}/orders", self.root)
    }
    /// The last part of a topic: the agent of a `frames/…`, `hello/…`, `applied/…` topic.
    pub fn agent_of(topic: &str) -> Option<AgentId> {
        topic
            .rsplit('/')
            .next()
            .filter(|s| !s.is_empty())
            .map(AgentId::from)
    }
}

/// Frames on their way from an agent's spool to the store.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameBatch {
    /// Whose.
    pub agent: AgentId,
    /// Place in the agent's spool; grows by one a batch, never reused.
    pub sequence: u64,
    /// The frames.
    pub frames: Vec<Frame>,
}

/// The store has all batches of an agent up to and including this one on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Highest sequence of an unbroken run that is durable.
    pub sequence: u64,
}

/// What the planner wants of jobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobOrders {
    /// When it was decided.
    pub issued: Timestamp,
    /// The orders; a job not named keeps its last one.
    pub orders: Vec<(JobId, JobOrder)>,
}

/// Why a batch was not understood.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WireError {
    /// Longer than [`MAX_BATCH_BYTES`].
    #[error("a batch of {0} bytes is longer than the {MAX_BATCH_BYTES} allowed")]
    TooLong(usize),
    /// Not a batch at all.
    #[error("not a batch of frames: it does not begin with `HF`")]
    Magic,
    /// From a newer program.
    #[error("batch version {0} is not known here (this program knows 1); update the receiver")]
    Version(u8),
    /// Damaged on the way.
    #[error("the checksum of a batch does not match its content")]
    Checksum,
    /// Well-formed but meaningless.
    #[error("the body of a batch cannot be read: {0}")]
    Body(String),
}

#[derive(Serialize, Deserialize)]
struct WireBatch<'a> {
    #[serde(borrow)]
    agent: &'a str,
    sequence: u64,
    #[serde(borrow)]
    metrics: Vec<&'a str>,
    #[serde(borrow)]
    devices: Vec<&'a str>,
    base: i64,
    frames: Vec<WireFrame>,
}

#[derive(Serialize, Deserialize)]
struct WireFrame {
    device: u32,
    /// Milliseconds after `base`.
    after: i64,
    readings: Vec<(u16, WireReading)>,
}

#[derive(Serialize, Deserialize)]
enum WireReading {
    Measured(f64),
    Estimated(f64),
    Missing,
}

/// A decoded batch, and the metrics that this program's catalogue does not know.
#[derive(Debug)]
pub struct Decoded {
    /// What was understood.
    pub batch: FrameBatch,
    /// Readings of unknown metrics that were left out, by name and count.
    pub unknown: Vec<(String, usize)>,
}

const HEAD: [u8; 3] = [b'H', b'F', 1];

impl FrameBatch {
    /// The binary form.
    pub fn encode(&self, catalogue: &Catalogue) -> Result<Vec<u8>, WireError> {
        let base = self.frames.iter().map(|f| f.at.0).min().unwrap_or(0);
        let mut devices: Vec<&str> = Vec::new();
        let mut device_index: HashMap<&str, u32> = HashMap::new();
        let mut metrics: Vec<&str> = Vec::new();
        let mut metric_index: HashMap<MetricId, u16> = HashMap::new();
        let mut frames = Vec::with_capacity(self.frames.len());
        for frame in &self.frames {
            let name = frame.device.as_str();
            let device = *device_index.entry(name).or_insert_with(|| {
                devices.push(name);
                devices.len() as u32 - 1
            });
            let readings = frame
                .readings
                .iter()
                .map(|(metric, reading)| {
                    let index = *metric_index.entry(*metric).or_insert_with(|| {
                        metrics.push(&catalogue.metric(*metric).name);
                        metrics.len() as u16 - 1
                    });
                    let reading = match reading {
                        Reading::Measured(v) => WireReading::Measured(*v),
                        Reading::Estimated(v) => WireReading::Estimated(*v),
                        Reading::Missing => WireReading::Missing,
                    };
                    (index, reading)
                })
                .collect();
            frames.push(WireFrame {
                device,
                after: frame.at.0.wrapping_sub(base),
                readings,
            });
        }
        let wire = WireBatch {
            agent: self.agent.as_str(),
            sequence: self.sequence,
            metrics,
            devices,
            base,
            frames,
        };
        let mut out = HEAD.to_vec();
        out = postcard::to_extend(&wire, out).map_err(|e| WireError::Body(e.to_string()))?;
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        if out.len() > MAX_BATCH_BYTES {
            return Err(WireError::TooLong(out.len()));
        }
        Ok(out)
    }

    /// Reads the binary form. Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8], catalogue: &Catalogue) -> Result<Decoded, WireError> {
        if bytes.len() > MAX_BATCH_BYTES {
            return Err(WireError::TooLong(bytes.len()));
        }
        if bytes.len() < HEAD.len() + 4 || bytes[..2] != HEAD[..2] {
            return Err(WireError::Magic);
        }
        if bytes[2] != HEAD[2] {
            return Err(WireError::Version(bytes[2]));
        }
        let (content, crc) = bytes.split_at(bytes.len() - 4);
        if crc != crc32fast::hash(content).to_le_bytes() {
            return Err(WireError::Checksum);
        }
        let body = |e: &str| WireError::Body(e.to_owned());
        let wire: WireBatch<'_> =
            postcard::from_bytes(&content[HEAD.len()..]).map_err(|e| body(&e.to_string()))?;
        let devices: Vec<DeviceId> = wire.devices.iter().map(|d| DeviceId::from(*d)).collect();
        let metrics: Vec<Option<MetricId>> = wire.metrics.iter().map(|m| catalogue.id(m)).collect();
        let mut unknown = vec![0usize; metrics.len()];
        let mut frames = Vec::with_capacity(wire.frames.len());
        for frame in wire.frames {
            let device = devices
                .get(frame.device as usize)
                .ok_or_else(|| body("a frame names a device that the batch does not list"))?;
            let mut readings = Vec::with_capacity(frame.readings.len());
            for (index, reading) in frame.readings {
                let place = usize::from(index);
                match metrics.get(place) {
                    None => {
                        return Err(body(
                            "a reading names a metric that the batch does not list",
                        ));
                    }
                    Some(None) => unknown[place] += 1,
                    Some(Some(metric)) => {
                        let reading = match reading {
                            WireReading::Measured(v) => Reading::Measured(v),
                            WireReading::Estimated(v) => Reading::Estimated(v),
                            WireReading::Missing => Reading::Missing,
                        };
                        readings.push((*metric, reading));
                    }
                }
            }
            frames.push(Frame {
                device: device.clone(),
                at: Timestamp(wire.base.wrapping_add(frame.after)),
                readings,
            });
        }
        let unknown = wire
            .metrics
            .iter()
            .zip(unknown)
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| ((*name).to_owned(), count))
            .collect();
        let batch = FrameBatch {
            agent: AgentId::from(wire.agent),
            sequence: wire.sequence,
            frames,
        };
        Ok(Decoded { batch, unknown })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reading() -> impl Strategy<Value = Reading> {
        prop_oneof![
            (-1e9..1e9f64).prop_map(Reading::Measured),
            (-1e9..1e9f64).prop_map(Reading::Estimated),
            Just(Reading::Missing),
        ]
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(
            sequence: u64,
            frames in prop::collection::vec(("[a-z]{1,8}", 0..4_102_444_800_000i64, prop::collection::vec((0u16..20, reading()), 0..8)), 0..20),
        ) {
            let frames = frames.into_iter().map(|(device, at, readings)| Frame {
                device: DeviceId::from(device),
                at: Timestamp(at),
                readings: readings.into_iter().map(|(m, r)| (MetricId(m), r)).collect(),
            }).collect();
            let batch = FrameBatch { agent: AgentId::from("n1"), sequence, frames };
            let bytes = batch.encode(Catalogue::builtin()).unwrap();
            let decoded = FrameBatch::decode(&bytes, Catalogue::builtin()).unwrap();
            prop_assert!(decoded.unknown.is_empty());
            prop_assert_eq!(decoded.batch, batch);
        }

        #[test]
        fn refuses_noise_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..200), fix: bool) {
            if fix && bytes.len() >= 7 {
                bytes[..3].copy_from_slice(&HEAD);
                let end = bytes.len() - 4;
                let crc = crc32fast::hash(&bytes[..end]).to_le_bytes();
                bytes[end..].copy_from_slice(&crc);
            }
            let _ = FrameBatch::decode(&bytes, Catalogue::builtin());
        }
    }

    #[test]
    fn one_flipped_bit_is_noticed() {
        let batch = FrameBatch {
            agent: AgentId::from("n1"),
            sequence: 7,
            frames: vec![],
        };
        let good = batch.encode(Catalogue::builtin()).unwrap();
        for byte in 0..good.len() {
            let mut bad = good.clone();
            bad[byte] ^= 1;
            assert!(FrameBatch::decode(&bad, Catalogue::builtin()).is_err());
        }
    }
}
