//! From a name and labels to a device and a metric of ours, remembered by the
//! bytes that said it.

use super::book::Book;
use super::names::{About, Meaning, Names, Origin};
use super::part::{Added, Grouping};
use super::unknown::UnknownMetrics;
use heliostat_models::foreign::{ForeignFault, ForeignSeries};
use heliostat_models::{Catalogue, DeviceId, JobId, MetricId, Reading, Site, Timestamp};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Series of unknown metrics that are kept, those counted that the store had at
/// the start (about 1 kB of memory each, most of it the store's).
pub const MOST_UNKNOWN: usize = 100_000;
/// UUIDs remembered.
const UUIDS: usize = 200_000;
/// Our own exposition puts this before a catalogue's name.
const OWN_PREFIX: &str = "heliostat_";

/// Where the samples of a series go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// Into the store.
    Channel(Channel),
    /// Number of an unknown metric, and why its samples are not stored.
    Unstored(u32, &'static str),
    /// Nowhere, for a reason.
    Refused(&'static str),
    /// Nowhere yet: a UUID whose index nobody said.
    UnknownUuid,
    /// Each value is the index of an accelerator; number of the lesson.
    Lesson(u32),
}

/// A device's metric, and how values become ours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Channel {
    pub(super) device: u32,
    pub(super) metric: MetricId,
    factor: f64,
    /// One over the factor, where that is a whole number: then values are divided,
    /// because 0.001 is not a thousandth, and a register's millijoules times it are
    /// no decimals, which cost half as much again on disk.
    divisor: Option<f64>,
    offset: f64,
    /// Lowest and highest value that the catalogue takes.
    pub(super) range: (f64, f64),
    /// Which program says so; its values for "not known" are missing readings.
    origin: Option<u16>,
    /// None of those values is nearer to zero.
    missing_from: f64,
    pub(super) estimated: bool,
    /// Number of the unknown metric whose series the device stands for.
    pub(super) unknown: Option<u32>,
}

impl Channel {
    /// Of a metric in our unit.
    fn new(device: u32, metric: MetricId) -> Self {
        Self {
            device,
            metric,
            factor: 1.0,
            divisor: None,
            offset: 0.0,
            range: Catalogue::builtin().metric(metric).range,
            origin: None,
            missing_from: f64::INFINITY,
            estimated: false,
            unknown: None,
        }
    }

    /// The value in our unit; none where the program means "not known".
    pub(super) fn convert(&self, value: f64) -> Option<f64> {
        if value.is_nan() || (value.abs() >= self.missing_from && self.means_missing(value)) {
            return None;
        }
        let scaled = match self.divisor {
            Some(divisor) => value / divisor,
            None => value * self.factor,
        };
        Some(scaled + self.offset)
    }

    fn means_missing(&self, value: f64) -> bool {
        let origin = self
            .origin
            .map(|o| &Names::builtin().origins[usize::from(o)]);
        origin.is_some_and(|origin| origin.missing.contains(&value))
    }
}

/// Who samples are about.
pub(super) struct Resolver {
    site: Arc<Site>,
    pub(super) book: Book,
    pub(super) grouping: Grouping,
    devices: Vec<DeviceId>,
    by_device: HashMap<DeviceId, u32>,
    /// Node and index of an accelerator by UUID.
    uuids: HashMap<String, (usize, u32)>,
    /// Node and UUID that a series of indices speaks of, and the number of each.
    lessons: Vec<(usize, String)>,
    by_lesson: HashMap<(usize, String), u32>,
    /// Grows with every UUID learned.
    pub(super) learned: u64,
    pub(super) unknown: UnknownMetrics,
    /// Series of unknown metrics that have a place in the store.
    foreign: HashSet<DeviceId>,
}

impl Resolver {
    pub(super) fn new(site: Arc<Site>) -> Self {
        Self {
            site,
            book: Book::default(),
            grouping: Grouping::default(),
            devices: Vec::new(),
            by_device: HashMap::new(),
            uuids: HashMap::new(),
            lessons: Vec::new(),
            by_lesson: HashMap::new(),
            learned: 0,
            unknown: UnknownMetrics::default(),
            foreign: HashSet::new(),
        }
    }

    /// Tells of series of unknown metrics that the store has already.
    pub(super) fn has_stored(&mut self, series: impl IntoIterator<Item = DeviceId>) {
        self.foreign.extend(series);
    }

    /// Adds a reading to the request's.
    pub(super) fn group(&mut self, channel: &Channel, at: Timestamp, reading: Reading) -> Added {
        let devices = &self.devices;
        let device = || {
            let device = devices[channel.device as usize].clone();
            (device, channel.unknown.is_some())
        };
        (self.grouping).add(channel.device, device, at.0, channel.metric, reading)
    }

    /// Works out where a series goes.
    pub(super) fn resolve(&mut self, name: &str, labels: &[(&str, &str)]) -> Target {
        let bare = name.strip_prefix(OWN_PREFIX).unwrap_or(name);
        if let Some(metric) = Catalogue::builtin().id(bare)
            && metric != Catalogue::unknown_value()
        {
            return self.own(metric, labels);
        }
        let names = Names::builtin();
        let Some(rule) = names.rule(name, labels) else {
            return self.foreign(name, labels);
        };
        let origin = &names.origins[rule.origin];
        if first(labels, &origin.unless).is_some() {
            return Target::Refused("about a part of a device (MIG), not the whole");
        }
        let Some(host) = first(labels, &origin.host) else {
            return Target::Refused("no label names the node");
        };
        let Some(node) = self.node(host) else {
            return Target::Refused("unknown node");
        };
        match rule.meaning {
            Meaning::Index => match first(labels, &origin.uuid) {
                Some(uuid) => self.lesson_of(node, normal_uuid(uuid)),
                None => Target::Refused("no label holds the GPU's UUID"),
            },
            Meaning::Metric { to, factor, offset } => {
                let device = match origin.about {
                    About::Node => DeviceId::from(self.site.nodes[node].id.as_str()),
                    About::Gpu => match self.gpu(origin, node, labels) {
                        Ok(device) => device,
                        Err(target) => return target,
                    },
                };
                let whole = 1.0 / factor;
                Target::Channel(Channel {
                    factor,
                    divisor: (whole.abs() > 1.0 && whole.fract() == 0.0).then_some(whole),
                    offset,
                    origin: u16::try_from(rule.origin).ok(),
                    missing_from: origin.missing_from,
                    ..Channel::new(self.number(device), to)
                })
            }
        }
    }

    /// A metric that bears our name, with the device in the label `device`.
    fn own(&mut self, metric: MetricId, labels: &[(&str, &str)]) -> Target {
        let get = |name: &str| labels.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        // Of a job's metric `device` is that of who was scraped, unless it is the job's.
        let job = (metric == Catalogue::job_throughput()).then(|| get("job_id"));
        let device = match (job.flatten(), get("device")) {
            (Some(job), _) => JobId::from(job).source(),
            (None, Some(device)) => DeviceId::from(device),
            (None, None) => {
                return Target::Refused("a metric of ours without the label `device`");
            }
        };
        if self.site.entity(&device).is_none() {
            return Target::Refused("unknown device");
        }
        Target::Channel(Channel {
            estimated: get("quality") == Some("estimated"),
            ..Channel::new(self.number(device), metric)
        })
    }

    /// A metric that nobody told us the meaning of: it is kept as it is, under its
    /// own name and labels.
    fn foreign(&mut self, name: &str, labels: &[(&str, &str)]) -> Target {
        let number = self.unknown.number(name);
        if Names::builtin().is_personal(labels) {
            return Target::Unstored(
                number,
                "an unknown metric with a label that may name a person",
            );
        }
        let series = ForeignSeries::new(name, labels.iter().copied());
        let device = match series.and_then(|series| series.device()) {
            Ok(device) => device,
            Err(fault) => return Target::Unstored(number, reason(fault)),
        };
        if !self.foreign.contains(&device) {
            if self.foreign.len() >= MOST_UNKNOWN {
                return Target::Unstored(number, TOO_MANY);
            }
            self.foreign.insert(device.clone());
        }
        if !self.by_device.contains_key(&device) {
            self.unknown.has_series(number);
        }
        Target::Channel(Channel {
            unknown: Some(number),
            ..Channel::new(self.number(device), Catalogue::unknown_value())
        })
    }

    fn gpu(
        &mut self,
        origin: &Origin,
        node: usize,
        labels: &[(&str, &str)],
    ) -> Result<DeviceId, Target> {
        let uuid = first(labels, &origin.uuid).map(normal_uuid);
        let index = match (first(labels, &origin.gpu), &uuid) {
            (Some(text), _) => text
                .parse()
                .map_err(|_| Target::Refused("the GPU's index is no number"))?,
            (None, Some(uuid)) => match self.uuids.get(uuid) {
                Some((of, index)) if *of == node => *index,
                _ => return Err(Target::UnknownUuid),
            },
            (None, None) => return Err(Target::Refused("no label tells which GPU")),
        };
        let device = self
            .at_index(node, index)
            .ok_or(Target::Refused("the node has no GPU of this index"))?;
        if let Some(uuid) = uuid {
            self.learn(uuid, node, index);
        }
        Ok(device)
    }

    fn at_index(&self, node: usize, index: u32) -> Option<DeviceId> {
        let range = self.site.nodes[node].devices.clone();
        let device = (self.site.devices[range].iter()).find(|d| d.index == index)?;
        Some(device.id.clone())
    }

    fn lesson_of(&mut self, node: usize, uuid: String) -> Target {
        let key = (node, uuid);
        if let Some(number) = self.by_lesson.get(&key) {
            return Target::Lesson(*number);
        }
        if self.lessons.len() >= UUIDS {
            return Target::Refused("more GPUs than can be told apart");
        }
        let number = self.lessons.len() as u32;
        self.lessons.push(key.clone());
        self.by_lesson.insert(key, number);
        Target::Lesson(number)
    }

    /// Takes the value of a series of indices. False where it cannot be one.
    pub(super) fn lesson(&mut self, lesson: u32, value: f64) -> bool {
        let Some((node, uuid)) = self.lessons.get(lesson as usize).cloned() else {
            return false;
        };
        let index = value as u32;
        if f64::from(index) != value || self.at_index(node, index).is_none() {
            return false;
        }
        self.learn(uuid, node, index);
        true
    }

    fn learn(&mut self, uuid: String, node: usize, index: u32) {
        if self.uuids.get(&uuid) == Some(&(node, index)) {
            return;
        }
        if self.uuids.len() >= UUIDS {
            self.uuids.clear();
        }
        if self.uuids.insert(uuid, (node, index)).is_some() {
            // A board moved: what was worked out with its old place is void.
            self.book.clear();
        }
        self.learned += 1;
    }

    fn number(&mut self, device: DeviceId) -> u32 {
        if let Some(number) = self.by_device.get(&device) {
            return *number;
        }
        let number = self.devices.len() as u32;
        self.devices.push(device.clone());
        self.by_device.insert(device, number);
        number
    }

    /// The node that a host's name means: as it is, without its port, or without its domain.
    fn node(&self, host: &str) -> Option<usize> {
        let bare = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
            _ => host,
        };
        let short = bare.split('.').next().unwrap_or(bare);
        let find = |name: &str| self.site.node(name).map(|(index, _)| index);
        find(host).or_else(|| find(bare)).or_else(|| find(short))
    }
}

/// Why no more series of unknown metrics are taken.
const TOO_MANY: &str = "a series of an unknown metric beyond the 100,000 that are kept";

fn reason(fault: ForeignFault) -> &'static str {
    match fault {
        ForeignFault::NoName => "an unknown metric without a name",
        ForeignFault::NoLabelName => "a label of an unknown metric has no name",
        ForeignFault::Twice => "a label of an unknown metric stands twice",
        ForeignFault::TooMany => "an unknown metric with more than 64 labels",
        ForeignFault::TooLong => {
            "an unknown metric whose name and labels are longer than 2,048 bytes"
        }
    }
}

/// The value of the first of these labels that is present and not empty.
fn first<'a>(labels: &[(&str, &'a str)], wanted: &[String]) -> Option<&'a str> {
    wanted.iter().find_map(|w| {
        let found = labels.iter().find(|(n, v)| n == w && !v.is_empty());
        found.map(|(_, v)| *v)
    })
}

/// Some programs write `GPU-` before a UUID, some do not.
fn normal_uuid(uuid: &str) -> String {
    uuid.strip_prefix("GPU-").unwrap_or(uuid).to_lowercase()
}
