//! From a name and labels to a device and a metric of ours, remembered by the
//! bytes that said it.

use super::names::{About, Meaning, Names, Origin};
use super::unknown::UnknownMetrics;
use heliostat_models::{Catalogue, DeviceId, MetricId, Site};
use std::collections::HashMap;
use std::sync::Arc;

/// Series remembered (about 300 bytes each); a site with more starts the memory anew.
const REMEMBERED: usize = 400_000;
/// UUIDs remembered.
const UUIDS: usize = 200_000;
/// Our own exposition puts this before a catalogue's name.
const OWN_PREFIX: &str = "heliostat_";

/// Where the samples of a series go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Target {
    /// Into the store.
    Channel(Channel),
    /// Number of an unknown metric.
    Unknown(u32),
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
    offset: f64,
    /// Which program says so; its values for "not known" are missing readings.
    origin: Option<u16>,
    pub(super) estimated: bool,
}

impl Channel {
    /// The value in our unit; none where the program means "not known".
    pub(super) fn convert(&self, value: f64) -> Option<f64> {
        let missing = self
            .origin
            .map(|o| &Names::builtin().origins[usize::from(o)].missing);
        if value.is_nan() || missing.is_some_and(|m| m.contains(&value)) {
            return None;
        }
        Some(value * self.factor + self.offset)
    }
}

/// Who samples are about.
pub(super) struct Resolver {
    site: Arc<Site>,
    known: HashMap<Box<[u8]>, Target>,
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
}

impl Resolver {
    pub(super) fn new(site: Arc<Site>) -> Self {
        Self {
            site,
            known: HashMap::new(),
            devices: Vec::new(),
            by_device: HashMap::new(),
            uuids: HashMap::new(),
            lessons: Vec::new(),
            by_lesson: HashMap::new(),
            learned: 0,
            unknown: UnknownMetrics::default(),
        }
    }

    /// What a device's number stands for.
    pub(super) fn device(&self, number: u32) -> &DeviceId {
        &self.devices[number as usize]
    }

    /// The target of a series seen before.
    pub(super) fn remembered(&self, key: &[u8]) -> Option<Target> {
        self.known.get(key).copied()
    }

    /// Remembers a target. What may change with the next lesson is not remembered.
    pub(super) fn remember(&mut self, key: &[u8], target: Target) {
        if target == Target::UnknownUuid {
            return;
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(key.into(), target);
    }

    /// Works out where a series goes.
    pub(super) fn resolve(&mut self, name: &str, labels: &[(&str, &str)]) -> Target {
        let bare = name.strip_prefix(OWN_PREFIX).unwrap_or(name);
        if let Some(metric) = Catalogue::builtin().id(bare) {
            return self.own(metric, labels);
        }
        let names = Names::builtin();
        let Some(rule) = names.rule(name, labels) else {
            return Target::Unknown(self.unknown.number(name));
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
                Target::Channel(Channel {
                    device: self.number(device),
                    metric: to,
                    factor,
                    offset,
                    origin: u16::try_from(rule.origin).ok(),
                    estimated: false,
                })
            }
        }
    }

    /// A metric that bears our name, with the device in the label `device`.
    fn own(&mut self, metric: MetricId, labels: &[(&str, &str)]) -> Target {
        let get = |name: &str| labels.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
        let Some(device) = get("device") else {
            return Target::Refused("a metric of ours without the label `device`");
        };
        let device = DeviceId::from(device);
        if self.site.entity(&device).is_none() {
            return Target::Refused("unknown device");
        }
        Target::Channel(Channel {
            device: self.number(device),
            metric,
            factor: 1.0,
            offset: 0.0,
            origin: None,
            estimated: get("quality") == Some("estimated"),
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
            self.known.clear();
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
