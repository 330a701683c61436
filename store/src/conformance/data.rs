//! The suite's frames, and what must be answered of them: computed here from
//! the readings one by one, apart from every engine.

use crate::query::{AcrossDevices, Label, OverTime, Point, Query, Selector, Series};
use heliostat_models::{Catalogue, DeviceId, Frame, Quality, Reading, Site, Timestamp};
use std::collections::BTreeMap;

/// A gauge.
pub const POWER: &str = "gpu_power_watts";
/// A counter.
pub const ENERGY: &str = "gpu_energy_joules_total";

/// Seconds of data, one frame a second.
const SECONDS: i64 = 60;
/// The second in which the first device's counter starts anew.
const RESTART: i64 = 31;

/// Frames of four devices in two racks.
pub struct Data {
    pub devices: Vec<DeviceId>,
    pub begin: Timestamp,
    frames: Vec<Frame>,
}

impl Data {
    pub fn new(site: &Site, now: Timestamp) -> Self {
        let hour = 3_600_000;
        let begin = Timestamp(now.0.div_euclid(hour) * hour - 2 * hour + 123);
        let devices: Vec<DeviceId> = site.devices.iter().map(|d| d.id.clone()).collect();
        let mut frames = Vec::new();
        for second in 0..SECONDS {
            for (place, device) in devices.iter().enumerate() {
                let readings = vec![
                    (Catalogue::gpu_power(), power(place, second)),
                    (Catalogue::gpu_energy(), energy(place, second)),
                ];
                // The last device is silent for a while: its gap is too long to integrate over.
                if place == 3 && (20..40).contains(&second) {
                    continue;
                }
                frames.push(Frame {
                    device: device.clone(),
                    at: Timestamp(begin.0 + second * 1_000),
                    readings,
                });
            }
        }
        for frame in &mut frames {
            frame.readings.sort_by_key(|(metric, _)| *metric);
        }
        Self {
            devices,
            begin,
            frames,
        }
    }

    /// The earlier half, and the later.
    pub fn halves(&self) -> (Vec<Frame>, Vec<Frame>) {
        let middle = self.begin.0 + SECONDS / 2 * 1_000;
        (self.frames.iter().cloned()).partition(|frame| frame.at.0 < middle)
    }

    /// The last instant.
    pub fn last(&self) -> Timestamp {
        Timestamp(self.begin.0 + (SECONDS - 1) * 1_000)
    }

    /// All devices of the run and no others.
    pub fn everything(&self) -> Selector {
        Selector {
            devices: self.devices.clone(),
            labels: Vec::new(),
        }
    }

    /// How many readings of power are missing, and how many estimated, in the range.
    pub fn flawed(&self) -> (usize, usize) {
        let (from, to) = self.interval();
        let count = |quality| {
            (self.frames.iter())
                .filter(|f| f.at >= from && f.at < to)
                .filter_map(|f| f.get(Catalogue::gpu_power()))
                .filter(|r| r.quality() == quality)
                .count()
        };
        (count(Quality::Missing), count(Quality::Estimated))
    }

    /// One value of each label, to select by.
    pub fn labels(&self, site: &Site) -> Vec<(Label, String)> {
        let device = &self.devices[2];
        let labels = site.labels(device).unwrap_or_default();
        (Label::ALL.into_iter())
            .map(|label| (label, label.of(device, &labels).to_owned()))
            .collect()
    }

    /// The latest frames no older than `since`, by device.
    pub fn latest(&self, since: Timestamp) -> Vec<Frame> {
        let mut latest: BTreeMap<&DeviceId, &Frame> = BTreeMap::new();
        for frame in self.frames.iter().filter(|f| f.at >= since) {
            let known = latest.entry(&frame.device).or_insert(frame);
            if frame.at > known.at {
                *known = frame;
            }
        }
        latest.into_values().cloned().collect()
    }

    /// Begins between two frames and ends on one, which is then not in it.
    fn interval(&self) -> (Timestamp, Timestamp) {
        (
            Timestamp(self.begin.0 + 2_500),
            Timestamp(self.begin.0 + 57_000),
        )
    }

    /// Readings of one metric and what they must be.
    pub fn range(&self, site: &Site, metric: &str, select: &Selector) -> (Query, Vec<Series>) {
        let (from, to) = self.interval();
        let query = Query::Range {
            metric: metric.to_owned(),
            select: select.clone(),
            from,
            to,
        };
        let expected = (self.points(metric).into_iter())
            .filter(|(device, _)| {
                let labels = site.labels(device).unwrap_or_default();
                select.devices.contains(device)
                    && (select.labels.iter()).all(|(l, value)| l.of(device, &labels) == value)
            })
            .map(|(device, points)| Series {
                labels: all_labels(site, &device),
                points,
            })
            .collect();
        (query, expected)
    }

    /// The readings of a metric in the interval, by device.
    fn points(&self, metric: &str) -> BTreeMap<DeviceId, Vec<Point>> {
        let (from, to) = self.interval();
        let mut all: BTreeMap<DeviceId, Vec<Point>> = BTreeMap::new();
        let id = Catalogue::builtin().id(metric);
        for frame in self.frames.iter().filter(|f| f.at >= from && f.at < to) {
            if let Some(reading) = id.and_then(|id| frame.get(id)) {
                all.entry(frame.device.clone()).or_default().push(Point {
                    at: frame.at,
                    value: reading.value(),
                    quality: reading.quality(),
                });
            }
        }
        all
    }

    /// A question for steps.
    pub fn aggregate(
        &self,
        metric: &str,
        over_time: OverTime,
        step_ms: u64,
        across: Option<AcrossDevices>,
        group_by: &[Label],
    ) -> Query {
        let (from, to) = self.interval();
        Query::Aggregate {
            metric: metric.to_owned(),
            select: self.everything(),
            from,
            to,
            step_ms,
            over_time,
            across,
            group_by: group_by.to_vec(),
        }
    }

    /// What must be answered to it.
    pub fn aggregated(
        &self,
        site: &Site,
        metric: &str,
        over_time: OverTime,
        step_ms: u64,
        across: Option<AcrossDevices>,
        group_by: &[Label],
    ) -> Vec<Series> {
        let (from, to) = self.interval();
        let mut steps: BTreeMap<DeviceId, Vec<Point>> = BTreeMap::new();
        for (device, points) in self.points(metric) {
            let mut begin = from.0;
            while begin < to.0 {
                let end = (begin + step_ms as i64).min(to.0);
                let point = step(&points, begin, end, over_time);
                steps.entry(device.clone()).or_default().extend(point);
                begin += step_ms as i64;
            }
        }
        let best = match across {
            Some(AcrossDevices::TopK(k)) => Some((k, -1.0)),
            Some(AcrossDevices::BottomK(k)) => Some((k, 1.0)),
            _ => None,
        };
        if let Some((k, sign)) = best {
            return self.few(site, metric, over_time, (k, sign), group_by, steps);
        }
        let Some(across) = across else {
            return (steps.into_iter())
                .map(|(device, points)| Series {
                    labels: all_labels(site, &device),
                    points,
                })
                .collect();
        };
        let mut groups: BTreeMap<Vec<String>, BTreeMap<Timestamp, Vec<Point>>> = BTreeMap::new();
        for (device, points) in steps {
            let labels = site.labels(&device).unwrap_or_default();
            let key = (group_by.iter())
                .map(|label| label.of(&device, &labels).to_owned())
                .collect();
            let group = groups.entry(key).or_default();
            for point in points {
                group.entry(point.at).or_default().push(point);
            }
        }
        (groups.into_iter())
            .map(|(key, steps)| Series {
                labels: group_by.iter().copied().zip(key).collect(),
                points: steps
                    .into_values()
                    .map(|points| join(&points, across))
                    .collect(),
            })
            .collect()
    }
}

impl Data {
    /// The steps of the devices of each group with the smallest (times `sign`)
    /// value over the whole interval, best first.
    fn few(
        &self,
        site: &Site,
        metric: &str,
        over_time: OverTime,
        (k, sign): (u32, f64),
        group_by: &[Label],
        mut steps: BTreeMap<DeviceId, Vec<Point>>,
    ) -> Vec<Series> {
        let (from, to) = self.interval();
        let mut ranked: Vec<(Vec<String>, f64, DeviceId)> = (self.points(metric).into_iter())
            .filter_map(|(device, points)| {
                let labels = site.labels(&device).unwrap_or_default();
                let key = (group_by.iter())
                    .map(|label| label.of(&device, &labels).to_owned())
                    .collect();
                let whole = step(&points, from.0, to.0, over_time)?;
                Some((key, whole.value? * sign, device))
            })
            .collect();
        ranked.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let mut all = Vec::new();
        for group in ranked.chunk_by(|a, b| a.0 == b.0) {
            for (_, _, device) in group.iter().take(k as usize) {
                all.push(Series {
                    labels: all_labels(site, device),
                    points: steps.remove(device).unwrap_or_default(),
                });
            }
        }
        all
    }
}

/// Fractions of two are exact in every engine's number format; thirds are not.
fn power(place: usize, second: i64) -> Reading {
    let value = 100.0 * (place + 1) as f64 + (second * second % 37) as f64 / 3.0;
    match (place, second) {
        (1, 10 | 11) => Reading::Missing,
        // The first instant of a step, and the last of another.
        (1, 24 | 44) => Reading::Estimated(value),
        (2, 5..20) => Reading::Missing,
        (0, 59) => Reading::Estimated(value),
        (3, 59) => Reading::Missing,
        _ => Reading::Measured(value),
    }
}

fn energy(place: usize, second: i64) -> Reading {
    let counted = if place == 0 && second >= RESTART {
        (second - RESTART + 1) * 110
    } else {
        1_000_000 + second * 100 * (place as i64 + 1)
    };
    Reading::Measured(counted as f64 + 0.25)
}

fn all_labels(site: &Site, device: &DeviceId) -> Vec<(Label, String)> {
    let labels = site.labels(device).unwrap_or_default();
    (Label::ALL.into_iter())
        .map(|label| (label, label.of(device, &labels).to_owned()))
        .filter(|(_, value)| !value.is_empty())
        .collect()
}

fn made(at: i64, value: Option<f64>, flawed: bool) -> Point {
    Point {
        at: Timestamp(at),
        value,
        quality: match value {
            None => Quality::Missing,
            Some(_) if flawed => Quality::Estimated,
            Some(_) => Quality::Measured,
        },
    }
}

/// The step `[begin, end)` of one device.
fn step(points: &[Point], begin: i64, end: i64, over_time: OverTime) -> Option<Point> {
    let within: Vec<&Point> = (points.iter())
        .filter(|p| p.at.0 >= begin && p.at.0 < end)
        .collect();
    let mut values: Vec<f64> = within.iter().filter_map(|p| p.value).collect();
    let flawed = within.iter().any(|p| p.quality != Quality::Measured);
    let count = values.len() as f64;
    let sum: f64 = values.iter().sum();
    let value = match over_time {
        OverTime::Avg => sum / count,
        OverTime::Sum => sum,
        OverTime::Count => count,
        OverTime::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
        OverTime::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        OverTime::Last => values.last().copied().unwrap_or_default(),
        OverTime::Increase | OverTime::Rate => return growth(points, begin, end, over_time),
        OverTime::Integral => return area(points, begin, end),
        OverTime::Quantile(q) => {
            values.sort_by(f64::total_cmp);
            between(&values, q)
        }
    };
    (!values.is_empty()).then(|| made(begin, Some(value), flawed))
}

/// The value at a share of the way through sorted values.
fn between(values: &[f64], share: f64) -> f64 {
    let place = share * values.len().saturating_sub(1) as f64;
    let at = |place: f64| values.get(place as usize).copied().unwrap_or_default();
    at(place.floor()) + (at(place.ceil()) - at(place.floor())) * place.fract()
}

/// Neighbouring values.
fn pairs(points: &[Point]) -> Vec<(&Point, f64, &Point, f64)> {
    let valued: Vec<(&Point, f64)> = (points.iter())
        .filter_map(|p| Some((p, p.value?)))
        .collect();
    (valued.windows(2))
        .map(|pair| (pair[0].0, pair[0].1, pair[1].0, pair[1].1))
        .collect()
}

fn growth(points: &[Point], begin: i64, end: i64, over_time: OverTime) -> Option<Point> {
    let within = |p: &Point| p.at.0 >= begin && p.at.0 < end;
    let (mut grown, mut seconds, mut flawed) = (0.0, 0.0, false);
    for (before, old, after, new) in pairs(points) {
        if within(after) {
            grown += if new < old { new } else { new - old };
            seconds += after.at.seconds_since(before.at);
            flawed |= [before.quality, after.quality].contains(&Quality::Estimated);
        }
    }
    let value = if over_time == OverTime::Rate {
        grown / seconds
    } else {
        grown
    };
    (seconds > 0.0).then(|| made(begin, Some(value), flawed))
}

fn area(points: &[Point], begin: i64, end: i64) -> Option<Point> {
    let (mut area, mut covered, mut flawed, mut lost) = (0.0, false, false, false);
    for (before, old, after, new) in pairs(points) {
        let (left, right) = (before.at.0.max(begin), after.at.0.min(end));
        if left >= right {
            continue;
        }
        // Readings come every second: more than five is a gap.
        if after.at.0 - before.at.0 > 5_000 {
            lost = true;
            continue;
        }
        let slope = (new - old) / (after.at.0 - before.at.0) as f64;
        let at = |t: i64| old + slope * (t - before.at.0) as f64;
        area += (at(left) + at(right)) / 2.0 * (right - left) as f64 / 1_000.0;
        covered = true;
        flawed |= [before.quality, after.quality].contains(&Quality::Estimated)
            || (points.iter()).any(|p| p.value.is_none() && p.at > before.at && p.at < after.at);
    }
    (covered || lost).then(|| made(begin, covered.then_some(area), flawed || lost))
}

fn join(points: &[Point], across: AcrossDevices) -> Point {
    let values: Vec<f64> = points.iter().filter_map(|p| p.value).collect();
    let sum: f64 = values.iter().sum();
    let value = match across {
        AcrossDevices::Sum | AcrossDevices::TopK(_) | AcrossDevices::BottomK(_) => sum,
        AcrossDevices::Avg => sum / values.len() as f64,
        AcrossDevices::Min => values.iter().copied().fold(f64::INFINITY, f64::min),
        AcrossDevices::Max => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        AcrossDevices::Count => values.len() as f64,
    };
    let flawed = points.iter().any(|p| p.quality != Quality::Measured);
    let at = points.first().map_or(0, |p| p.at.0);
    made(at, (!values.is_empty()).then_some(value), flawed)
}
