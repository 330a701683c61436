//! The trait of the store and its typed queries: what an embedded engine, an
//! InfluxDB and a PromQL server can all answer.

use async_trait::async_trait;
use heliostat_models::indicators::Stretch;
use heliostat_models::site::Labels;
use heliostat_models::{DeviceId, Frame, Quality, Timestamp, foreign};
use serde::{Deserialize, Serialize};

/// A store of frames. `append` returns when the frames are durable.
#[async_trait]
pub trait TimeSeriesStore: Send + Sync + 'static {
    /// Writes frames; once this returns, they survive `kill -9` and power
    /// loss. A frame whose device and instant are already stored is counted as
    /// a duplicate and not stored again.
    async fn append(&self, frames: Vec<Frame>) -> Result<AppendReceipt, StoreError>;
    /// Answers a query.
    async fn query(&self, query: &Query) -> Result<Answer, StoreError>;
    /// Answers a query and says what the answer was made of.
    async fn query_with_source(&self, query: &Query) -> Result<(Answer, Source), StoreError> {
        Ok((self.query(query).await?, Source::default()))
    }
    /// Counters of this engine since it was opened.
    fn stats(&self) -> StoreStats;
    /// Differs from an earlier answer whenever frames were stored since; who
    /// asks for the latest frames again and again need not ask while it is the
    /// same. `None`: this engine does not say.
    fn version(&self) -> Option<u64> {
        None
    }
    /// What is still known of a device's energy in `[from, to)` where the readings
    /// themselves are gone; `metric` is a register or a power. An engine that
    /// keeps no such thing knows nothing.
    async fn condensed(
        &self,
        _metric: &str,
        _device: &DeviceId,
        _from: Timestamp,
        _to: Timestamp,
    ) -> Result<Condensed, StoreError> {
        Ok(Condensed::default())
    }
    /// Answers a query and says whether the answer is whole. An engine that is
    /// always at hand answers wholly.
    async fn ask(&self, query: &Query) -> Result<Told, StoreError> {
        let (answer, source) = self.query_with_source(query).await?;
        Ok(Told {
            answer,
            partial: None,
            source,
        })
    }
}

/// Energy that rollups know and readings no longer tell.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condensed {
    /// By rising time.
    pub stretches: Vec<Stretch>,
    /// Width of the rollup's steps in milliseconds, where one went in.
    pub rollup_ms: Option<u64>,
}

/// An answer, and what is missing from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// The answer.
    pub answer: Answer,
    /// Why the answer holds only what is at hand; `None`: it is whole.
    pub partial: Option<String>,
    /// What it was made of, as far as the engine says so.
    pub source: Source,
}

/// What became of appended frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendReceipt {
    /// Frames stored.
    pub frames: u64,
    /// Readings in them, missing ones included.
    pub samples: u64,
    /// Frames that were there already.
    pub duplicates: u64,
    /// Readings in those.
    pub duplicate_samples: u64,
}

/// Counters of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StoreStats {
    /// Frames stored, those found at opening included.
    pub frames: u64,
    /// Readings stored, those found at opening included.
    pub samples: u64,
    /// Duplicates refused.
    pub duplicates: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Records cut off a torn tail or found damaged at opening.
    pub damaged: u64,
    /// Frames stored although their device had a later one already.
    pub late: u64,
    /// Frames stored that came together with a later one of their device, and after it.
    pub out_of_order: u64,
    /// Frames refused because of their instant, those of the same append included.
    pub refused: u64,
}

/// Which devices a query speaks of; empty fields match all. Series of unknown
/// metrics ([`heliostat_models::foreign`]) can be many and are nobody's devices:
/// only who asks for their kind, or for them by name, is told of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// Exactly these devices.
    #[serde(default)]
    pub devices: Vec<DeviceId>,
    /// `label -> value` that must be equal: `kind`, `hall`, `row`, `rack`, `node`.
    #[serde(default)]
    pub labels: Vec<(Label, String)>,
}

impl Selector {
    /// All series of unknown metrics.
    pub fn unknown() -> Self {
        Self {
            devices: Vec::new(),
            labels: vec![(Label::Kind, foreign::KIND.to_owned())],
        }
    }

    /// Whether series of unknown metrics are spoken of by their kind.
    pub fn is_of_unknown(&self) -> bool {
        (self.labels.iter()).any(|(label, value)| *label == Label::Kind && value == foreign::KIND)
    }
}

/// A label that can be filtered and grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// `gpu`, `node`, `meter`, `cooling`, `grid`; `unknown` of series of unknown metrics.
    Kind,
    /// Hall.
    Hall,
    /// Row.
    Row,
    /// Rack.
    Rack,
    /// Node.
    Node,
    /// The device itself.
    Device,
}

impl Label {
    /// All labels, from the widest to the device itself.
    pub const ALL: [Self; 6] = [
        Self::Kind,
        Self::Hall,
        Self::Row,
        Self::Rack,
        Self::Node,
        Self::Device,
    ];

    /// Label and value of all labels of a device that are not empty.
    pub fn all_of(device: &DeviceId, labels: &Labels) -> Vec<(Self, String)> {
        (Self::ALL.into_iter())
            .map(|label| (label, label.of(device, labels)))
            .filter(|(_, value)| !value.is_empty())
            .map(|(label, value)| (label, value.to_owned()))
            .collect()
    }

    /// The value of this label of a device.
    pub fn of<'a>(self, device: &'a DeviceId, labels: &'a Labels) -> &'a str {
        match self {
            Self::Kind => labels.kind,
            Self::Hall => &labels.hall,
            Self::Row => &labels.row,
            Self::Rack => &labels.rack,
            Self::Node => &labels.node,
            Self::Device => device.as_str(),
        }
    }
}

/// How the values of one device within a step become one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverTime {
    /// Mean of the values.
    Avg,
    /// Smallest.
    Min,
    /// Largest.
    Max,
    /// Sum.
    Sum,
    /// How many values.
    Count,
    /// The latest.
    Last,
    /// Growth of a counter, restarts removed.
    Increase,
    /// Growth of a counter per second.
    Rate,
    /// Time integral in unit-seconds over gaps no longer than the limit below.
    Integral,
    /// The value that this share of the values, between 0 and 1, is not above;
    /// between two values by linear interpolation. Needs the values themselves:
    /// a step of which only rollups are left is missing.
    Quantile(f64),
}

impl OverTime {
    /// The words of [`OverTime::parse`].
    pub const WORDS: &str =
        "avg, min, max, sum, count, last, increase, rate, integral, quantile:0.95";

    /// From its word; a quantile's share stands behind a colon.
    pub fn parse(word: &str) -> Option<Self> {
        if let Some(share) = word.strip_prefix("quantile:") {
            let share = share.parse().ok().filter(|q| (0.0..=1.0).contains(q))?;
            return Some(Self::Quantile(share));
        }
        Some(match word {
            "avg" => Self::Avg,
            "min" => Self::Min,
            "max" => Self::Max,
            "sum" => Self::Sum,
            "count" => Self::Count,
            "last" => Self::Last,
            "increase" => Self::Increase,
            "rate" => Self::Rate,
            "integral" => Self::Integral,
            _ => return None,
        })
    }
}

impl AcrossDevices {
    /// The words of [`AcrossDevices::parse`].
    pub const WORDS: &str = "sum, avg, min, max, count, topk:5, bottomk:5";

    /// From its word; how many of the best stands behind a colon.
    pub fn parse(word: &str) -> Option<Self> {
        if let Some((way, few)) = word.split_once(':') {
            let few = few.parse().ok().filter(|k| *k > 0)?;
            return match way {
                "topk" => Some(Self::TopK(few)),
                "bottomk" => Some(Self::BottomK(few)),
                _ => None,
            };
        }
        Some(match word {
            "sum" => Self::Sum,
            "avg" => Self::Avg,
            "min" => Self::Min,
            "max" => Self::Max,
            "count" => Self::Count,
            _ => return None,
        })
    }
}

/// How the devices of one group become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AcrossDevices {
    /// Sum.
    Sum,
    /// Mean.
    Avg,
    /// Smallest.
    Min,
    /// Largest.
    Max,
    /// How many devices had a value.
    Count,
    /// The so many devices of each group with the largest value over the whole
    /// time, as series of their own, best first.
    TopK(u32),
    /// The same with the smallest.
    BottomK(u32),
}

/// A question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "query")]
pub enum Query {
    /// The latest frame of each device, no older than `since`. Frames of a device
    /// that are less than 8 ms apart may be given as one: open ingest stores the
    /// readings of one instant in several parts.
    Latest {
        /// Which devices.
        select: Selector,
        /// Older frames do not count.
        since: Timestamp,
    },
    /// Raw readings of one metric in `[from, to)`.
    Range {
        /// Metric, by name.
        metric: String,
        /// Which devices.
        select: Selector,
        /// Begin, inclusive.
        from: Timestamp,
        /// End, exclusive.
        to: Timestamp,
    },
    /// One value per step and group in `[from, to)`. Instants are whole
    /// milliseconds, so steps that include their end instead of their begin,
    /// `(t, t + step]`, are asked for from `t + 1` to the millisecond after the
    /// last; rollups answer both.
    Aggregate {
        /// Metric, by name.
        metric: String,
        /// Which devices.
        select: Selector,
        /// Begin, inclusive; steps are counted from here.
        from: Timestamp,
        /// End, exclusive.
        to: Timestamp,
        /// Width of a step in milliseconds.
        step_ms: u64,
        /// Within a step.
        over_time: OverTime,
        /// Within a group; `None` keeps every device apart.
        across: Option<AcrossDevices>,
        /// Labels whose values make a group.
        group_by: Vec<Label>,
    },
}

/// What one query may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Devices that it speaks of.
    pub series: usize,
    /// Readings that go in as they came; what rollups say does not count.
    pub samples: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            series: 200_000,
            samples: 500_000_000,
        }
    }
}

/// A series: its labels and its points by rising time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Series {
    /// Label and value; of an ungrouped series all that are not empty.
    pub labels: Vec<(Label, String)>,
    /// Instant (of an aggregate: begin of the step), value, quality. A point
    /// that is missing has no value.
    pub points: Vec<Point>,
}

/// A value at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    /// When.
    pub at: Timestamp,
    /// The value, if there is one.
    pub value: Option<f64>,
    /// The worst quality that went into it: measured only when all of it was.
    pub quality: Quality,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Query::Latest`].
    Frames(Vec<Frame>),
    /// To the others.
    Series(Vec<Series>),
}

impl Answer {
    /// The frames, of an answer to [`Query::Latest`]; else none.
    pub fn frames(self) -> Vec<Frame> {
        match self {
            Self::Frames(frames) => frames,
            Self::Series(_) => Vec::new(),
        }
    }
    /// The series, of an answer to the other queries; else none.
    pub fn series(self) -> Vec<Series> {
        match self {
            Self::Series(series) => series,
            Self::Frames(_) => Vec::new(),
        }
    }
}

/// What an answer was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Source {
    /// Width of the rollup's steps in milliseconds, where one went in.
    pub rollup_ms: Option<u64>,
    /// Readings that went in as they came.
    pub raw_samples: u64,
}

impl Source {
    /// Takes note of what else went in.
    pub fn add(&mut self, other: Self) {
        self.rollup_ms = self.rollup_ms.max(other.rollup_ms);
        self.raw_samples = self.raw_samples.saturating_add(other.raw_samples);
    }
}

/// Why the store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process writes to this directory.
    #[error(
        "the data directory {path} is in use by another heliostat process; stop it, or give another directory with --data"
    )]
    InUse {
        /// The directory.
        path: String,
    },
    /// The disk is full. Nothing acknowledged is lost; agents keep what is not acknowledged.
    #[error("the disk that holds {path} is full; free some space, writing goes on by itself")]
    DiskFull {
        /// The directory.
        path: String,
    },
    /// The external engine is away or slow, and what may wait for it here is
    /// reached. Nothing acknowledged is lost; agents keep what is not acknowledged.
    #[error(
        "{samples} readings wait here for the external store, more are not taken; see that it answers, writing goes on by itself"
    )]
    SpoolFull {
        /// Readings that wait.
        samples: usize,
    },
    /// Reading or writing failed otherwise.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The metric is not in the catalogue.
    #[error("unknown metric `{0}`; `heliostat query --metrics` lists them")]
    UnknownMetric(String),
    /// A frame's instant cannot be; nothing of the append is stored.
    #[error(
        "a frame of `{device}` bears the time {at}, which cannot be; from {first} to {last} is allowed: set the clock of who sent it"
    )]
    BadInstant {
        /// Whose.
        device: String,
        /// Its instant.
        at: Timestamp,
        /// The first that is allowed.
        first: Timestamp,
        /// The last that is allowed now.
        last: Timestamp,
    },
    /// The query asks for what cannot be answered.
    #[error("{0}")]
    BadQuery(String),
    /// The engine has stopped.
    #[error("the store has stopped: {0}")]
    Stopped(String),
}

impl StoreError {
    /// An input or output error, told apart from a full disk.
    pub fn io(action: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        let path = path.display().to_string();
        if source.kind() == std::io::ErrorKind::StorageFull {
            Self::DiskFull { path }
        } else {
            Self::Io {
                action,
                path,
                source,
            }
        }
    }
}
