//! Queries: what the engine answers, and over it what is still in the spool.

use super::engine::{ByDevice, RemoteError};
use super::fold::{Steps, across, point, steps_of};
use super::{FOREVER, Shared, runs, selects};
use crate::promql::best_first;
use crate::query::{
    AcrossDevices, Answer, Label, OverTime, Point, Query, Selector, Series, Source, StoreError,
    Told,
};
use crate::question::{self, check_points, known};
use heliostat_models::{DeviceId, Frame, MetricId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Answers a query.
pub async fn ask(shared: &Shared, query: &Query) -> Result<Told, StoreError> {
    match query {
        Query::Latest { select, since } => latest(shared, select, since.0).await,
        Query::Range {
            metric,
            select,
            from,
            to,
        } => {
            let id = known(metric)?;
            question::check(query)?;
            let local = local(shared, select, id, from.0, to.0);
            let (theirs, partial) = or_partial(
                shared,
                shared.engine.range(metric, select, from.0, to.0).await,
            )?;
            let all = merge(shared, select, theirs.unwrap_or_default(), local);
            check_points(all.values().map(Vec::len).sum())?;
            Ok(told(apart(shared, all), partial))
        }
        Query::Aggregate {
            metric,
            select,
            from,
            to,
            step_ms,
            over_time,
            across: how,
            group_by,
        } => {
            let id = known(metric)?;
            question::check(query)?;
            let step = i64::try_from(*step_ms).unwrap_or(i64::MAX);
            let steps = Steps {
                from: from.0,
                to: to.0,
                step,
                over_time: *over_time,
            };
            if *over_time == OverTime::Integral {
                check_points(usize::try_from(steps.count()).unwrap_or(usize::MAX))?;
            }
            if let Some((k, largest)) = best(*how) {
                let steps = (&steps, group_by.as_slice(), k, largest);
                return few(shared, (metric, id), select, steps).await;
            }
            let (devices, partial) = aggregate(shared, metric, id, select, &steps).await?;
            check_points(devices.values().map(Vec::len).sum())?;
            let series = match how {
                None => apart(shared, devices),
                Some(how) => grouped(shared, devices, *how, group_by),
            };
            Ok(told(series, partial))
        }
    }
}

fn told(series: Vec<Series>, partial: Option<String>) -> Told {
    Told {
        answer: Answer::Series(series),
        partial,
        source: Source::default(),
    }
}

/// The engine's answer; or none and why, when it is away.
fn or_partial<T>(
    shared: &Shared,
    outcome: Result<T, RemoteError>,
) -> Result<(Option<T>, Option<String>), StoreError> {
    match outcome {
        Ok(answer) => Ok((Some(answer), None)),
        Err(error) => {
            let away = match &error {
                RemoteError::Away { .. } => true,
                RemoteError::Refused { status, .. } => *status >= 500,
                RemoteError::Garbled { .. } | RemoteError::TooLarge(_) => false,
            };
            if !away {
                return Err(StoreError::BadQuery(error.to_string()));
            }
            shared.note(Err(&error));
            let reason = format!("{error}; this is what is known here since it is away");
            Ok((None, Some(reason)))
        }
    }
}

/// The readings of a metric that are still here, by device and instant.
fn local(
    shared: &Shared,
    select: &Selector,
    metric: MetricId,
    from: i64,
    to: i64,
) -> BTreeMap<DeviceId, Vec<Point>> {
    let frames = (shared.queue()).local(|d| selects(&shared.site, select, d), from, to);
    let mut found: BTreeMap<DeviceId, Vec<Point>> = BTreeMap::new();
    for frame in frames {
        if let Some(reading) = frame.get(metric) {
            found.entry(frame.device.clone()).or_default().push(Point {
                at: frame.at,
                value: reading.value(),
                quality: reading.quality(),
            });
        }
    }
    found
}

/// Both together; at one instant of a device what is here counts.
fn merge(
    shared: &Shared,
    select: &Selector,
    theirs: ByDevice,
    ours: BTreeMap<DeviceId, Vec<Point>>,
) -> BTreeMap<DeviceId, Vec<Point>> {
    let mut all = ours;
    for (device, points) in theirs {
        if !selects(&shared.site, select, &device) {
            continue;
        }
        let known = all.entry(device).or_default();
        known.extend(points);
        // Stable: what was here first stays first and is kept.
        known.sort_by_key(|p| p.at);
        known.dedup_by_key(|p| p.at);
    }
    all.retain(|_, points| !points.is_empty());
    all
}

/// The steps of each device, and why they are not whole.
async fn aggregate(
    shared: &Shared,
    metric: &str,
    id: MetricId,
    select: &Selector,
    steps: &Steps,
) -> Result<(BTreeMap<DeviceId, Vec<Point>>, Option<String>), StoreError> {
    let ours = local(shared, select, id, steps.from, steps.to);
    let fold = |points: BTreeMap<DeviceId, Vec<Point>>| -> BTreeMap<DeviceId, Vec<Point>> {
        (points.into_iter())
            .map(|(device, points)| (device, steps_of(&points, steps)))
            .filter(|(_, steps)| !steps.is_empty())
            .collect()
    };
    let whole = matches!(
        steps.over_time,
        OverTime::Avg
            | OverTime::Min
            | OverTime::Max
            | OverTime::Sum
            | OverTime::Count
            | OverTime::Last
            | OverTime::Quantile(_)
    );
    let ready = if whole {
        let outcome = shared.engine.steps(metric, select, steps).await;
        match or_partial(shared, outcome)? {
            (None, partial) => return Ok((fold(ours), partial)),
            (Some(ready), _) => ready,
        }
    } else {
        None
    };
    // The steps in which something is still here are computed from readings;
    // without the engine's steps, all are.
    let at = || ours.values().flatten().map(|p| p.at.0);
    let (from, to) = match (&ready, at().min(), at().max()) {
        (None, ..) => (steps.from, steps.to),
        (Some(_), Some(first), Some(last)) => (
            steps.begin_of(first),
            steps
                .begin_of(last)
                .saturating_add(steps.step)
                .min(steps.to),
        ),
        (Some(_), ..) => (steps.to, steps.to),
    };
    let mut devices = BTreeMap::new();
    if from < to {
        let outcome = shared.engine.range(metric, select, from, to).await;
        let (theirs, partial) = or_partial(shared, outcome)?;
        devices = fold(merge(shared, select, theirs.unwrap_or_default(), ours));
        if partial.is_some() {
            return Ok((devices, partial));
        }
    }
    for (device, points) in ready.into_iter().flatten() {
        if !selects(&shared.site, select, &device) {
            continue;
        }
        let known: &mut Vec<Point> = devices.entry(device).or_default();
        known.extend((points.into_iter()).filter(|p| p.at.0 < from || p.at.0 >= to));
        known.sort_by_key(|p| p.at);
    }
    devices.retain(|_, points| !points.is_empty());
    Ok((devices, None))
}

/// How many of the best are asked for, and whether those are the largest.
fn best(how: Option<AcrossDevices>) -> Option<(u32, bool)> {
    match how {
        Some(AcrossDevices::TopK(k)) => Some((k, true)),
        Some(AcrossDevices::BottomK(k)) => Some((k, false)),
        _ => None,
    }
}

/// The `k` devices of each group with the best value over the whole time, best
/// first; of equal ones the first by name.
async fn few(
    shared: &Shared,
    (metric, id): (&str, MetricId),
    select: &Selector,
    (steps, group_by, k, largest): (&Steps, &[Label], u32, bool),
) -> Result<Told, StoreError> {
    let whole = Steps {
        step: steps.to.saturating_sub(steps.from),
        ..*steps
    };
    let (ranked, partial) = aggregate(shared, metric, id, select, &whole).await?;
    let mut groups: BTreeMap<Vec<String>, Vec<(f64, DeviceId)>> = BTreeMap::new();
    for (device, points) in ranked {
        let labels = shared.site.labels(&device).unwrap_or_default();
        let key = (group_by.iter())
            .map(|label| label.of(&device, &labels).to_owned())
            .collect();
        if let Some(value) = points.first().and_then(|point| point.value) {
            groups.entry(key).or_default().push((value, device));
        }
    }
    let mut chosen = Vec::new();
    for mut group in groups.into_values() {
        group.sort_by(|a, b| best_first(a.0, b.0, largest));
        chosen.extend(group.into_iter().take(k as usize).map(|(_, device)| device));
    }
    if chosen.is_empty() {
        return Ok(told(Vec::new(), partial));
    }
    let select = Selector {
        devices: chosen.clone(),
        ..select.clone()
    };
    let (mut devices, then_partial) = aggregate(shared, metric, id, &select, steps).await?;
    check_points(devices.values().map(Vec::len).sum())?;
    let series = (chosen.into_iter())
        .filter_map(|device| devices.remove_entry(&device))
        .flat_map(|(device, points)| apart(shared, BTreeMap::from([(device, points)])))
        .collect();
    Ok(told(series, partial.or(then_partial)))
}

/// Every device on its own, with all its labels that are not empty.
fn apart(shared: &Shared, devices: BTreeMap<DeviceId, Vec<Point>>) -> Vec<Series> {
    (devices.into_iter())
        .map(|(device, points)| {
            let labels = shared.site.labels(&device).unwrap_or_default();
            let labels = Label::all_of(&device, &labels);
            Series { labels, points }
        })
        .collect()
}

fn grouped(
    shared: &Shared,
    devices: BTreeMap<DeviceId, Vec<Point>>,
    how: AcrossDevices,
    group_by: &[Label],
) -> Vec<Series> {
    let mut groups: BTreeMap<Vec<String>, Vec<Vec<Point>>> = BTreeMap::new();
    for (device, points) in devices {
        let labels = shared.site.labels(&device).unwrap_or_default();
        let key = (group_by.iter())
            .map(|label| label.of(&device, &labels).to_owned())
            .collect();
        groups.entry(key).or_default().push(points);
    }
    (groups.into_iter())
        .map(|(key, members)| Series {
            labels: group_by.iter().copied().zip(key).collect(),
            points: across(&members, how),
        })
        .collect()
}

/// The latest frame of each device.
async fn latest(shared: &Shared, select: &Selector, since: i64) -> Result<Told, StoreError> {
    let ours: BTreeMap<DeviceId, Arc<Frame>> = (shared.queue())
        .latest(|device| selects(&shared.site, select, device))
        .into_iter()
        .filter(|frame| frame.at.0 >= since)
        .map(|frame| (frame.device.clone(), frame))
        .collect();
    let outcome = theirs_latest(shared, select, since, &ours).await;
    let (theirs, partial) = or_partial(shared, outcome)?;
    let mut frames: BTreeMap<DeviceId, Frame> = (ours.into_iter())
        .map(|(device, frame)| (device, Frame::clone(&frame)))
        .collect();
    for frame in theirs.unwrap_or_default() {
        frames.insert(frame.device.clone(), frame);
    }
    Ok(Told {
        answer: Answer::Frames(frames.into_values().collect()),
        partial,
        source: Source::default(),
    })
}

/// The engine's latest frames where they are later than ours.
async fn theirs_latest(
    shared: &Shared,
    select: &Selector,
    since: i64,
    ours: &BTreeMap<DeviceId, Arc<Frame>>,
) -> Result<Vec<Frame>, RemoteError> {
    let mut wanted = (shared.engine.latest(select, since, FOREVER)).await?;
    wanted.retain(|(device, at)| {
        selects(&shared.site, select, device)
            && ours.get(device).is_none_or(|frame| frame.at.0 < *at)
    });
    let instants: BTreeMap<DeviceId, i64> = wanted.iter().cloned().collect();
    let mut frames = Vec::new();
    for (devices, from, to) in runs(wanted) {
        let found = shared.engine.frames(&devices, from, to).await?;
        frames.extend(
            (found.into_iter())
                .filter(|f| f.marked && instants.get(&f.frame.device) == Some(&f.frame.at.0))
                .map(|f| f.frame),
        );
    }
    Ok(frames)
}

/// A point of an engine's own steps.
pub(crate) fn step_points(values: &[(i64, f64)], flagged: &[(i64, f64)]) -> Vec<Point> {
    // A step without values is no point, whatever is flagged in it.
    let flagged: std::collections::BTreeSet<i64> = flagged.iter().map(|(at, _)| *at).collect();
    let mut points: Vec<Point> = (values.iter())
        .map(|(at, value)| point(*at, Some(*value), flagged.contains(at)))
        .collect();
    points.sort_by_key(|p| p.at);
    // A device whose labels changed within a step has it twice; the first is kept.
    points.dedup_by_key(|p| p.at);
    points
}
