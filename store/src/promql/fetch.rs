//! Reads what a plan needs from a store, device by device, keeping only the
//! samples that some instant looks at.

use super::Limits;
use super::data::{ABSENT, Fetched, Row, Samples};
use super::error::PromqlError;
use super::foreign;
use super::labels::{Labels, METRIC_NAME};
use super::plan::Selector;
use crate::query::{
    Label, Query, Selector as Devices, Series, Source, StoreError, TimeSeriesStore,
};
use heliostat_models::{Catalogue, DeviceId, Site, Timestamp};
use promql_parser::label::{MatchOp, Matcher};
use std::collections::HashMap;

/// Points that one question to the store should bring, about.
const POINTS_AT_ONCE: usize = 500_000;
/// Folded windows that one question may bring.
const FOLDED_AT_ONCE: usize = 2_000_000;
/// Devices of the first question.
const FIRST_DEVICES: usize = 16;

/// A series that may exist: a metric of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The device.
    pub device: DeviceId,
    /// The labels, the name of the metric included.
    pub labels: Labels,
}

/// The labels of a device at a site, without a metric.
fn device_labels(site: &Site, device: &DeviceId) -> Labels {
    let known = site.labels(device).unwrap_or_default();
    Labels::of([
        ("device", device.as_str()),
        ("hall", &known.hall),
        ("kind", known.kind),
        ("node", &known.node),
        ("rack", &known.rack),
        ("row", &known.row),
        ("site", site.id.as_str()),
    ])
}

/// What matchers say that a store can filter by itself.
fn devices(matchers: &[Matcher]) -> Devices {
    let mut select = Devices::default();
    for matcher in matchers.iter().filter(|m| !m.value.is_empty()) {
        match store_label(&matcher.name) {
            Some(Label::Device) => {
                if let Some(names) = literals(matcher)
                    && select.devices.is_empty()
                {
                    select.devices = names.into_iter().map(DeviceId::from).collect();
                }
            }
            Some(label) if matches!(matcher.op, MatchOp::Equal) => {
                select.labels.push((label, matcher.value.clone()));
            }
            _ => {}
        }
    }
    select
}

/// The store's label of this name.
pub(super) fn store_label(name: &str) -> Option<Label> {
    Some(match name {
        "kind" => Label::Kind,
        "hall" => Label::Hall,
        "row" => Label::Row,
        "rack" => Label::Rack,
        "node" => Label::Node,
        "device" => Label::Device,
        _ => return None,
    })
}

/// The name of the store's label.
fn label_name(label: Label) -> &'static str {
    match label {
        Label::Kind => "kind",
        Label::Hall => "hall",
        Label::Row => "row",
        Label::Rack => "rack",
        Label::Node => "node",
        Label::Device => "device",
    }
}

/// Whether [`devices`] says all that matchers say of devices.
fn says_all(matchers: &[Matcher], site: &Site) -> bool {
    let mut named = false;
    (matchers.iter())
        .filter(|m| m.name != METRIC_NAME)
        .all(|matcher| {
            let equal = matches!(matcher.op, MatchOp::Equal) && !matcher.value.is_empty();
            match store_label(&matcher.name) {
                Some(Label::Device) => {
                    !std::mem::replace(&mut named, true) && literals(matcher).is_some()
                }
                Some(_) => equal,
                None => matcher.name == "site" && matcher.is_match(site.id.as_str()),
            }
        })
}

/// The texts that a matcher accepts, where it names them one by one.
fn literals(matcher: &Matcher) -> Option<Vec<&str>> {
    let is_plain = |text: &str| {
        !text.is_empty()
            && (text.bytes()).all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    match matcher.op {
        MatchOp::Equal => Some(vec![matcher.value.as_str()]),
        MatchOp::Re(_) => {
            let names: Vec<&str> = matcher.value.split('|').collect();
            names.iter().all(|n| is_plain(n)).then_some(names)
        }
        _ => None,
    }
}

fn matches(matchers: &[Matcher], labels: &Labels, name_too: bool) -> bool {
    (matchers.iter())
        .filter(|m| name_too || m.name != METRIC_NAME)
        .all(|m| m.is_match(labels.get(&m.name)))
}

/// The series whose latest frame is not older than `since`, that matchers
/// accept: what `series`, `labels` and `label values` speak of.
pub(super) async fn candidates(
    store: &dyn TimeSeriesStore,
    site: &Site,
    matchers: &[Matcher],
    since: Timestamp,
    limit: usize,
) -> Result<Vec<Candidate>, PromqlError> {
    let select = devices(matchers);
    let mut found = Vec::new();
    for frame in store
        .query(&Query::Latest { select, since })
        .await?
        .frames()
    {
        let labels = device_labels(site, &frame.device);
        if !matches(matchers, &labels, false) {
            continue;
        }
        for (metric, _) in &frame.readings {
            let mut labels = labels.clone();
            labels.set(METRIC_NAME, &Catalogue::builtin().metric(*metric).name);
            if matches(matchers, &labels, true) {
                found.push(Candidate {
                    device: frame.device.clone(),
                    labels,
                });
            }
        }
        if found.len() > limit {
            return Err(PromqlError::TooMuch {
                what: "series",
                limit,
            });
        }
    }
    for (device, labels) in foreign::candidates(store, matchers, since).await? {
        found.push(Candidate { device, labels });
    }
    if found.len() > limit {
        return Err(PromqlError::TooMuch {
            what: "series",
            limit,
        });
    }
    Ok(found)
}

/// What was read for a selector, and what the store said of it.
pub(super) struct Read {
    /// The series.
    pub fetched: Fetched,
    /// What they were made of.
    pub source: Source,
    /// Why they are not all.
    pub partial: Option<String>,
}

/// Reads what a selector looks at.
pub(super) async fn fetch(
    store: &dyn TimeSeriesStore,
    site: &Site,
    selector: &Selector,
    limits: &Limits,
) -> Result<Read, PromqlError> {
    let mut reader = Reader {
        store,
        site,
        selector,
        limits,
        kept: 0,
        samples: Vec::new(),
        rows: Vec::new(),
        places: HashMap::new(),
        source: Source::default(),
        partial: None,
    };
    let (first, last) = selector.span();
    if selector.references.count > 0 && first <= last {
        let names = selector.matchers.iter().filter(|m| m.name == METRIC_NAME);
        let accepts = |name: &str| names.clone().all(|m| m.is_match(name));
        let metrics: Vec<&str> = (Catalogue::builtin().iter())
            .filter(|(id, m)| *id != Catalogue::unknown_value() && accepts(&m.name))
            .map(|(_, m)| m.name.as_str())
            .collect();
        let at_once = reader.at_once();
        let mut matching = None;
        for name in metrics {
            let done = match &at_once {
                Some(select) => reader.whole(name, select, first, last).await?,
                None => false,
            };
            if !done {
                if matching.is_none() {
                    matching = Some(reader.devices().await?);
                }
                let devices = matching.as_deref().unwrap_or_default();
                reader.metric(name, devices, first, last).await?;
            }
        }
        let unknown = foreign::candidates(store, &selector.matchers, Timestamp(first)).await?;
        let unknown: Vec<DeviceId> = unknown.into_iter().map(|(device, _)| device).collect();
        let about = Catalogue::builtin().metric(Catalogue::unknown_value());
        reader.metric(&about.name, &unknown, first, last).await?;
    }
    let fetched = match (selector.fold, &selector.across) {
        (Some(_), Some(_)) => Fetched::Grouped(reader.rows),
        (Some(_), None) => Fetched::Folded(reader.rows),
        (None, _) => {
            reader.samples.sort_by(|a, b| a.labels.cmp(&b.labels));
            Fetched::Samples(reader.samples)
        }
    };
    Ok(Read {
        fetched,
        source: reader.source,
        partial: reader.partial,
    })
}

fn of(devices: &[DeviceId]) -> Devices {
    Devices {
        devices: devices.to_vec(),
        labels: Vec::new(),
    }
}

struct Reader<'a> {
    store: &'a dyn TimeSeriesStore,
    site: &'a Site,
    selector: &'a Selector,
    limits: &'a Limits,
    /// Samples kept so far.
    kept: usize,
    samples: Vec<Samples>,
    rows: Vec<Row>,
    places: HashMap<Labels, usize>,
    source: Source,
    partial: Option<String>,
}

impl Reader<'_> {
    /// What to ask the store for where one question brings all, and not too much.
    fn at_once(&self) -> Option<Devices> {
        let select = devices(&self.selector.matchers);
        let site_devices = self.site.devices.len() + self.site.nodes.len() + self.site.meters.len();
        let count = match select.devices.len() {
            0 => site_devices,
            named => named,
        };
        let small = match (self.selector.fold, &self.selector.across) {
            (Some(_), Some(_)) => true,
            (Some(_), None) => {
                count.saturating_mul(self.selector.references.count) <= FOLDED_AT_ONCE
            }
            (None, _) => !select.devices.is_empty() && count <= FIRST_DEVICES,
        };
        (small && says_all(&self.selector.matchers, self.site)).then_some(select)
    }

    /// Reads one metric in one question; not, where the store refuses so much.
    /// Groups that cannot be had at once are those of the devices that match.
    async fn whole(
        &mut self,
        name: &str,
        select: &Devices,
        first: i64,
        last: i64,
    ) -> Result<bool, PromqlError> {
        match self.ask(name, select.clone(), first, last).await {
            Ok(_) => Ok(true),
            Err(PromqlError::Store(StoreError::BadQuery(_))) if self.selector.across.is_none() => {
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    /// The devices that may have a matching series.
    async fn devices(&self) -> Result<Vec<DeviceId>, PromqlError> {
        let matchers = &self.selector.matchers;
        let query = Query::Latest {
            select: devices(matchers),
            since: Timestamp(self.selector.span().0),
        };
        let frames = self.store.query(&query).await?.frames();
        Ok((frames.into_iter().map(|frame| frame.device))
            .filter(|device| matches(matchers, &device_labels(self.site, device), false))
            .collect())
    }

    /// Reads one metric, a few devices at a time: as many as bring about
    /// [`POINTS_AT_ONCE`], fewer or a shorter time where the store refuses.
    async fn metric(
        &mut self,
        name: &str,
        devices: &[DeviceId],
        first: i64,
        last: i64,
    ) -> Result<(), PromqlError> {
        let mut at_once = match self.selector.across {
            // A group's devices must not be parted.
            Some(_) => devices.len(),
            None => FIRST_DEVICES,
        };
        let mut rest = devices;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(at_once.min(rest.len()));
            match self.ask(name, of(now), first, last).await {
                Ok(points) => {
                    let more = POINTS_AT_ONCE / (points / now.len()).max(1);
                    at_once = more.clamp(1, at_once.saturating_mul(8));
                    rest = later;
                }
                Err(PromqlError::Store(StoreError::BadQuery(_)))
                    if now.len() > 1 && self.selector.across.is_none() =>
                {
                    at_once = now.len() / 2;
                }
                Err(PromqlError::Store(StoreError::BadQuery(_)))
                    if self.selector.fold.is_none() && last - first > 1_000 =>
                {
                    self.by_halves(name, now, first, last).await?;
                    rest = later;
                }
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// A device whose samples are too many for one question: in parts of the time.
    async fn by_halves(
        &mut self,
        name: &str,
        device: &[DeviceId],
        first: i64,
        last: i64,
    ) -> Result<(), PromqlError> {
        let mut from = first;
        let mut length = (last - first) / 2;
        while from <= last {
            let to = from.saturating_add(length).min(last);
            match self.ask(name, of(device), from, to).await {
                Ok(_) => from = to.saturating_add(1),
                Err(PromqlError::Store(StoreError::BadQuery(_))) if length > 1_000 => length /= 2,
                Err(other) => return Err(other),
            }
        }
        Ok(())
    }

    /// One question; how many points it brought.
    async fn ask(
        &mut self,
        name: &str,
        select: Devices,
        first: i64,
        last: i64,
    ) -> Result<usize, PromqlError> {
        let (from, to) = (Timestamp(first), Timestamp(last.saturating_add(1)));
        let metric = name.to_owned();
        let query = match self.selector.fold {
            None => Query::Range {
                metric,
                select,
                from,
                to,
            },
            Some(over_time) => Query::Aggregate {
                metric,
                select,
                from,
                to,
                step_ms: self.fold_step(),
                over_time,
                across: self.selector.across.as_ref().map(|(how, _)| *how),
                group_by: (self.selector.across.as_ref())
                    .map_or_else(Vec::new, |(_, labels)| labels.clone()),
            },
        };
        let told = self.store.ask(&query).await?;
        self.source.add(told.source);
        self.partial = self.partial.take().or(told.partial);
        let series = told.answer.series();
        let points = series.iter().map(|s| s.points.len()).sum();
        for one in series {
            self.take(name, one)?;
        }
        Ok(points)
    }

    /// Width of a folded window, milliseconds.
    fn fold_step(&self) -> u64 {
        (self.selector.reach as u64).saturating_add(u64::from(self.selector.closed))
    }

    fn take(&mut self, name: &str, series: Series) -> Result<(), PromqlError> {
        let labels = if self.selector.across.is_some() {
            let pairs = series.labels.iter();
            Labels::of(pairs.map(|(label, value)| (label_name(*label), value.as_str())))
        } else {
            let device = (series.labels.iter()).find(|(label, _)| *label == Label::Device);
            let Some((_, device)) = device else {
                return Ok(());
            };
            let device = DeviceId::from(device.as_str());
            foreign::labels(&device).unwrap_or_else(|| {
                let mut labels = device_labels(self.site, &device);
                labels.set(METRIC_NAME, name);
                labels
            })
        };
        let kept = match self.selector.fold {
            Some(_) => self.fold(labels, &series),
            None => self.keep(labels, &series),
        };
        self.kept += kept;
        let series = self.samples.len().max(self.rows.len());
        for (what, limit, used) in [
            ("series", self.limits.series, series),
            ("samples", self.limits.samples, self.kept),
        ] {
            if used > limit {
                return Err(PromqlError::TooMuch { what, limit });
            }
        }
        Ok(())
    }

    /// Keeps the samples that some instant looks at.
    fn keep(&mut self, labels: Labels, series: &Series) -> usize {
        let place = *self.places.entry(labels).or_insert_with_key(|labels| {
            self.samples.push(Samples {
                labels: labels.clone(),
                ..Samples::default()
            });
            self.samples.len() - 1
        });
        let samples = &mut self.samples[place];
        let before = samples.times.len();
        let selector = self.selector;
        for point in &series.points {
            // Whether the one before is needed shows only now.
            if let Some(previous) = samples.times.last()
                && !selector.wants(*previous, Some(point.at.0))
            {
                samples.times.pop();
                samples.values.pop();
            }
            samples.times.push(point.at.0);
            samples.values.push(point.value.unwrap_or(ABSENT));
        }
        samples.times.len().saturating_sub(before)
    }

    /// The windows folded by the store, each at its instant.
    fn fold(&mut self, labels: Labels, series: &Series) -> usize {
        let (first, _) = self.selector.span();
        let mut values = vec![ABSENT; self.selector.references.count];
        for point in &series.points {
            let index = point.at.0.saturating_sub(first) as u64 / self.fold_step().max(1);
            if let (Some(cell), Some(value)) = (values.get_mut(index as usize), point.value) {
                *cell = value;
            }
        }
        self.rows.push(Row { labels, values });
        self.selector.references.count
    }
}
