//! Power usage effectiveness over a window: energy of the data centre by
//! energy of the IT equipment, a ratio of sums (EN 50600-4-2), never a mean of
//! ratios. Shown as interim (iPUE), because the standard's period is a year.

use crate::figure::Figure;
use heliostat_models::site::{MeterRole, Site};
use heliostat_models::{DeviceId, Timestamp};
use heliostat_store::query::{AcrossDevices, OverTime, Selector};
use heliostat_store::{Query, TimeSeriesStore};
use serde::Serialize;
use std::time::Duration;

/// Parts of the window in which presence of readings is looked at.
const PARTS: u64 = 60;

/// The PUE of one window and what it rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Pue {
    pub(crate) value: Figure,
    /// Length of the window in seconds.
    pub(crate) window_seconds: f64,
    /// Share of the window that energy registers of meters cover.
    pub(crate) measured_share: f64,
    /// Share that integrals of power readings cover.
    pub(crate) estimated_share: f64,
    /// Share of which nothing is known.
    pub(crate) missing_share: f64,
    /// What it is measured from, in words.
    pub(crate) source: String,
}

/// Readings from which an energy can be had, best first.
struct Basis {
    metric: &'static str,
    over_time: OverTime,
    devices: Vec<DeviceId>,
    is_register: bool,
    words: String,
}

/// Where a basis has readings: begin and end of the covered stretch.
#[derive(Clone, Copy)]
struct Cover {
    from: Timestamp,
    to: Timestamp,
}

pub(crate) async fn pue(
    store: &dyn TimeSeriesStore,
    site: &Site,
    to: Timestamp,
    window: Duration,
) -> Pue {
    let from = to - window;
    let mut unknown = Pue {
        value: Figure::MISSING,
        window_seconds: window.as_secs_f64(),
        measured_share: 0.0,
        estimated_share: 0.0,
        missing_share: 1.0,
        source: "no meter of the whole data centre has readings".to_owned(),
    };
    let Some((total, total_cover)) =
        first_covered(store, bases(site, MeterRole::DataCentre), from, to).await
    else {
        return unknown;
    };
    let Some((it, it_cover)) = first_covered(store, bases(site, MeterRole::It), from, to).await
    else {
        unknown.source = "neither a meter of the IT equipment nor the nodes have readings".into();
        return unknown;
    };
    // Both over the same stretch, or the ratio compares different hours.
    let cover = Cover {
        from: total_cover.from.max(it_cover.from),
        to: total_cover.to.min(it_cover.to),
    };
    if cover.from >= cover.to {
        unknown.source = "the meters have no stretch of time in common".into();
        return unknown;
    }
    let share = cover.to.seconds_since(cover.from) / window.as_secs_f64();
    let is_measured = total.is_register && it.is_register;
    let joules_total = energy(store, &total, cover).await;
    let joules_it = energy(store, &it, cover).await;
    let ratio = joules_total.with(joules_it, |t, i| if i > 0.0 { t / i } else { f64::NAN });
    let value = if is_measured {
        ratio
    } else {
        ratio.as_estimate()
    };
    let known = if value.value.is_some() {
        share.min(1.0)
    } else {
        0.0
    };
    Pue {
        value,
        measured_share: if is_measured { known } else { 0.0 },
        estimated_share: if is_measured { 0.0 } else { known },
        missing_share: 1.0 - known,
        source: format!("{} by {}", total.words, it.words),
        ..unknown
    }
}

fn bases(site: &Site, role: MeterRole) -> Vec<Basis> {
    let meters: Vec<_> = site.meters.iter().filter(|m| m.role == role).collect();
    let devices: Vec<DeviceId> = meters.iter().map(|m| m.id.clone()).collect();
    let names = devices
        .iter()
        .map(DeviceId::as_str)
        .collect::<Vec<_>>()
        .join(" + ");
    let category = match meters.iter().filter_map(|m| m.pue_category).min() {
        Some(c) => format!(", category {c}"),
        None => String::new(),
    };
    let mut all = Vec::new();
    if !devices.is_empty() {
        all.push(Basis {
            metric: "meter_energy_joules_total",
            over_time: OverTime::Increase,
            devices: devices.clone(),
            is_register: true,
            words: format!("energy register of {names}{category}"),
        });
        all.push(Basis {
            metric: "meter_power_watts",
            over_time: OverTime::Integral,
            devices,
            is_register: false,
            words: format!("power of {names}{category}"),
        });
    }
    if role == MeterRole::It && !site.nodes.is_empty() {
        all.push(Basis {
            metric: "node_power_watts",
            over_time: OverTime::Integral,
            devices: site
                .nodes
                .iter()
                .map(|n| DeviceId::from(n.id.as_str()))
                .collect(),
            is_register: false,
            words: format!("power of {} nodes", site.nodes.len()),
        });
    }
    all
}

async fn first_covered(
    store: &dyn TimeSeriesStore,
    bases: Vec<Basis>,
    from: Timestamp,
    to: Timestamp,
) -> Option<(Basis, Cover)> {
    for basis in bases {
        if let Some(cover) = covered(store, &basis, from, to).await {
            return Some((basis, cover));
        }
    }
    None
}

/// The stretch from the first to the last part in which every device has a reading.
async fn covered(
    store: &dyn TimeSeriesStore,
    basis: &Basis,
    from: Timestamp,
    to: Timestamp,
) -> Option<Cover> {
    let step = ((to.0 - from.0) as u64 / PARTS).max(1);
    let query = Query::Aggregate {
        metric: basis.metric.to_owned(),
        select: select(&basis.devices),
        from,
        to,
        step_ms: step,
        over_time: OverTime::Count,
        across: Some(AcrossDevices::Count),
        group_by: Vec::new(),
    };
    let series = match store.query(&query).await {
        Ok(answer) => answer.series(),
        Err(error) => {
            tracing::warn!(%error, "the PUE could not be computed");
            return None;
        }
    };
    let all = basis.devices.len() as f64;
    let whole = |p: &&heliostat_store::query::Point| p.value.is_some_and(|v| v >= all);
    let points = &series.first()?.points;
    let first = points.iter().find(whole)?;
    let last = points.iter().rev().find(whole)?;
    Some(Cover {
        from: first.at,
        to: (last.at + Duration::from_millis(step)).min(to),
    })
}

async fn energy(store: &dyn TimeSeriesStore, basis: &Basis, cover: Cover) -> Figure {
    let query = Query::Aggregate {
        metric: basis.metric.to_owned(),
        select: select(&basis.devices),
        from: cover.from,
        to: cover.to,
        step_ms: (cover.to.0 - cover.from.0) as u64,
        over_time: basis.over_time,
        across: Some(AcrossDevices::Sum),
        group_by: Vec::new(),
    };
    match store.query(&query).await {
        Ok(answer) => answer
            .series()
            .first()
            .and_then(|s| s.points.first())
            .map_or(Figure::MISSING, |p| Figure::of(p.value, p.quality)),
        Err(error) => {
            tracing::warn!(%error, "the PUE could not be computed");
            Figure::MISSING
        }
    }
}

fn select(devices: &[DeviceId]) -> Selector {
    Selector {
        devices: devices.to_vec(),
        labels: Vec::new(),
    }
}
