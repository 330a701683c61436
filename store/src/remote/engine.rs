//! What an external engine must be able to do.
//!
//! A reading is stored as a value under its metric's name. Next to it stand
//! two companions: `METRIC_quality`, written only where a reading was not
//! measured ([`ESTIMATED`] beside a value, [`MISSING`] in place of one), and
//! [`MARKER`], once a frame, the number of its readings. So a missing reading
//! has no value anywhere, a frame without any value is still a frame, and the
//! queries that people write against the engine see values alone.

use super::fold::Steps;
use crate::query::{Point, Selector};
use async_trait::async_trait;
use heliostat_models::{DeviceId, Frame, MetricId, Quality, Reading, Timestamp};
use std::collections::HashMap;
use std::time::Duration;

/// Name of the companion that stands once for each frame.
pub const MARKER: &str = "heliostat_frame";
/// Ending of the companion that says how a value came to be.
pub const QUALITY: &str = "_quality";
/// Its value beside an estimated reading.
pub const ESTIMATED: f64 = 1.0;
/// Its value in place of a missing reading.
pub const MISSING: f64 = 2.0;

/// Why an external engine did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    /// Nobody answers, or too slowly; what was sent may have arrived or not.
    #[error("{url} does not answer: {reason}")]
    Away {
        /// Where it should answer.
        url: String,
        /// What happened.
        reason: String,
    },
    /// It answers, but not as it should.
    #[error("{url} refused ({status}): {text}")]
    Refused {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
        /// What it said, shortened.
        text: String,
    },
    /// Its answer is not understood.
    #[error("the answer of {url} is not understood: {reason}")]
    Garbled {
        /// Where.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The answer is larger than what one query may read.
    #[error(
        "the answer would need more than {0} raw readings; ask for a shorter time or fewer devices"
    )]
    TooLarge(usize),
}

/// How an engine behaves.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// After this long an acknowledged write survives `kill -9` of the engine.
    pub settles_after: Duration,
    /// After this long a write is found by every query.
    pub visible_after: Duration,
    /// Whether a point written twice is one point. If not, what may have
    /// arrived is looked for before it is sent again.
    pub overwrites: bool,
}

/// A frame as far as it was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What was found of it.
    pub frame: Frame,
    /// Whether its marker was found too.
    pub marked: bool,
}

/// Points of each device, by rising time.
pub type ByDevice = Vec<(DeviceId, Vec<Point>)>;

/// An external engine.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// How it behaves.
    fn habits(&self) -> Habits;
    /// Whether it answers, and which process does: another text after a
    /// restart. `None` where that cannot be told.
    async fn process(&self) -> Result<Option<String>, RemoteError>;
    /// Writes frames. `Ok` when the engine has acknowledged all of them.
    async fn write(&self, frames: Vec<Frame>) -> Result<(), RemoteError>;
    /// The instants in `[from, to]` at which frames of these devices stand.
    async fn instants(
        &self,
        devices: &[DeviceId],
        from: i64,
        to: i64,
    ) -> Result<HashMap<DeviceId, Vec<i64>>, RemoteError>;
    /// What stands of these devices in `[from, to]`.
    async fn frames(
        &self,
        devices: &[DeviceId],
        from: i64,
        to: i64,
    ) -> Result<Vec<Found>, RemoteError>;
    /// The instant of each device's latest frame in `[since, until]`.
    async fn latest(
        &self,
        select: &Selector,
        since: i64,
        until: i64,
    ) -> Result<Vec<(DeviceId, i64)>, RemoteError>;
    /// The readings of a metric in `[from, to)`.
    async fn range(
        &self,
        metric: &str,
        select: &Selector,
        from: i64,
        to: i64,
    ) -> Result<ByDevice, RemoteError>;
    /// One point a step and device, at the begin of the step; `None` where the
    /// engine's language cannot say it exactly, so that it is computed from
    /// [`Engine::range`].
    async fn steps(
        &self,
        metric: &str,
        select: &Selector,
        steps: &Steps,
    ) -> Result<Option<ByDevice>, RemoteError>;
}

/// Puts frames together from values and companions.
#[derive(Debug, Default)]
pub struct Assembly {
    frames: HashMap<(DeviceId, i64), Parts>,
}

#[derive(Debug, Default)]
struct Parts {
    marked: bool,
    values: HashMap<MetricId, f64>,
    qualities: HashMap<MetricId, f64>,
}

impl Assembly {
    /// Takes a point of the series or field `name`; what is not ours is passed over.
    pub fn add(&mut self, device: &DeviceId, name: &str, at: i64, value: f64) {
        let catalogue = heliostat_models::Catalogue::builtin();
        let quality = || name.strip_suffix(QUALITY).and_then(|n| catalogue.id(n));
        let (metric, flagged) = match (catalogue.id(name), quality()) {
            (Some(metric), _) => (Some(metric), false),
            (None, Some(metric)) => (Some(metric), true),
            (None, None) if name == MARKER => (None, false),
            (None, None) => return,
        };
        let parts = self.frames.entry((device.clone(), at)).or_default();
        match metric {
            None => parts.marked = true,
            Some(metric) if flagged => {
                parts.qualities.insert(metric, value);
            }
            Some(metric) => {
                parts.values.insert(metric, value);
            }
        }
    }

    /// The frames, by device and instant; readings in the catalogue's order.
    pub fn finish(self) -> Vec<Found> {
        let mut found: Vec<Found> = (self.frames.into_iter())
            .map(|((device, at), parts)| {
                let missing = (parts.qualities.iter())
                    .filter(|(metric, _)| !parts.values.contains_key(metric))
                    .map(|(metric, _)| (*metric, Reading::Missing));
                let mut readings: Vec<(MetricId, Reading)> = (parts.values.iter())
                    .map(|(metric, value)| {
                        let estimated = parts.qualities.contains_key(metric);
                        let reading = if estimated {
                            Reading::Estimated(*value)
                        } else {
                            Reading::Measured(*value)
                        };
                        (*metric, reading)
                    })
                    .chain(missing)
                    .collect();
                readings.sort_by_key(|(metric, _)| *metric);
                Found {
                    frame: Frame {
                        device,
                        at: Timestamp(at),
                        readings,
                    },
                    marked: parts.marked,
                }
            })
            .collect();
        found.sort_by(|a, b| (&a.frame.device, a.frame.at).cmp(&(&b.frame.device, b.frame.at)));
        found
    }
}

/// Brings values and qualities of one metric together as points by rising time.
pub fn points(values: &[(i64, f64)], qualities: &[(i64, f64)]) -> Vec<Point> {
    let mut at: std::collections::BTreeMap<i64, (Option<f64>, bool)> = Default::default();
    for (instant, value) in values {
        at.entry(*instant).or_default().0 = Some(*value);
    }
    for (instant, _) in qualities {
        at.entry(*instant).or_default().1 = true;
    }
    (at.into_iter())
        .map(|(instant, (value, marked))| super::fold::point(instant, value, marked))
        .collect()
}

/// What is written of a reading: its value, and its quality where it was not
/// measured. A number that is none (NaN, infinite) is a missing reading.
pub fn parts(reading: Reading) -> (Option<f64>, Option<f64>) {
    let value = reading.value().filter(|value| value.is_finite());
    let quality = match (value, reading.quality()) {
        (None, _) => Some(MISSING),
        (Some(_), Quality::Estimated) => Some(ESTIMATED),
        (Some(_), _) => None,
    };
    (value, quality)
}
