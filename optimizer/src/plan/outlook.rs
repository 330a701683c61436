//! What is expected of the grid over the horizon, from its recorded past
//! only: nothing newer than the issue time is looked at.

use super::policy::{PlanPolicy, SLOT};
use heliostat_models::{Catalogue, Frame, Quality, Site, Timestamp};

/// Metric of the carbon intensity.
const CARBON: &str = "grid_carbon_intensity_grams_per_kilowatt_hour";
/// Metric of the renewable share.
const RENEWABLE: &str = "grid_renewable_share_ratio";
/// Metric of the price.
const PRICE: &str = "grid_price_euros_per_megawatt_hour";
/// Means below these would blow an index up: a gram, and five euros a megawatt hour.
const LEAST_MEAN_CARBON: f64 = 1.0;
const LEAST_MEAN_PRICE: f64 = 5.0;

/// One expected value with its range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Expected {
    /// Expected value.
    pub value: f64,
    /// Low end of the range.
    pub low: f64,
    /// High end of the range.
    pub high: f64,
}

/// The grid and the cooling by slot.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlook {
    /// gCO2e/kWh.
    pub carbon: Option<Vec<Expected>>,
    /// EUR/MWh.
    pub price: Option<Vec<Expected>>,
    /// Share of renewables, 0 to 1.
    pub renewable: Option<Vec<Expected>>,
    /// Site power over IT power.
    pub pue: Vec<f64>,
    /// Cost of a kilowatt hour of IT energy by slot; mean 1, never below 0.
    pub index: Vec<f64>,
}

impl Outlook {
    /// Makes the outlook for `slots` slots from `start`, as of `now`.
    pub fn new(
        site: &Site,
        history: &[Frame],
        pue: Vec<f64>,
        now: Timestamp,
        start: Timestamp,
        policy: &PlanPolicy,
    ) -> Self {
        let slots = pue.len();
        let series = |metric: &str| {
            let metric = Catalogue::builtin().id(metric)?;
            let oldest = now - policy.oldest_history * 14;
            let past: Vec<(Timestamp, f64)> = history
                .iter()
                .filter(|f| f.at <= now && f.at >= oldest)
                .filter_map(|f| Some((f.at, f.get(metric)?.value()?)))
                .filter(|(_, v)| v.is_finite())
                .collect();
            let newest = past.last()?.0;
            if newest < now - policy.oldest_history {
                return None;
            }
            predict(&past, now, start, slots)
        };
        let carbon = series(CARBON);
        let price = series(PRICE);
        let renewable = series(RENEWABLE).map(|shares| {
            let unit = |v: f64| v.clamp(0.0, 1.0);
            let clamp = |e: Expected| Expected {
                value: unit(e.value),
                low: unit(e.low),
                high: unit(e.high),
            };
            shares.into_iter().map(clamp).collect()
        });
        let index = index(
            carbon.as_deref(),
            price.as_deref(),
            &pue,
            site.control.carbon_weight,
        );
        Self {
            carbon,
            price,
            renewable,
            pue,
            index,
        }
    }

    /// How well the grid is known.
    pub fn quality(&self) -> Quality {
        if self.carbon.is_some() || self.price.is_some() {
            Quality::Estimated
        } else {
            Quality::Missing
        }
    }
}

/// Cost of a kilowatt hour of IT energy by slot, 1 in the mean:
/// `pue_t · (a · carbon_t / mean carbon + (1 - a) · price_t / mean price)`.
/// Where one of the two is unknown the other has all weight; where both are,
/// only cooling tells hours apart. Never below 0: a negative price is no
/// reason to waste.
fn index(
    carbon: Option<&[Expected]>,
    price: Option<&[Expected]>,
    pue: &[f64],
    carbon_weight: f64,
) -> Vec<f64> {
    let relative = |series: &[Expected], least: f64| -> Vec<f64> {
        let mean = mean(series.iter().map(|e| e.value)).max(least);
        series.iter().map(|e| e.value / mean).collect()
    };
    let carbon = carbon.map(|c| relative(c, LEAST_MEAN_CARBON));
    let price = price.map(|p| relative(p, LEAST_MEAN_PRICE));
    let raw: Vec<f64> = (0..pue.len())
        .map(|t| {
            let grid = match (&carbon, &price) {
                (Some(c), Some(p)) => carbon_weight * c[t] + (1.0 - carbon_weight) * p[t],
                (Some(one), None) | (None, Some(one)) => one[t],
                (None, None) => 1.0,
            };
            (pue[t] * grid).max(0.0)
        })
        .collect();
    let mean = mean(raw.iter().copied());
    if mean <= 1e-9 {
        return vec![1.0; pue.len()];
    }
    raw.into_iter().map(|v| v / mean).collect()
}

/// Mean; 0 of nothing.
pub fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0u32), |(s, n), v| (s + v, n + 1));
    if count == 0 {
        0.0
    } else {
        sum / f64::from(count)
    }
}

/// Same time yesterday and the day before, moved by how far the last hours
/// were off; the range is the mean error of that rule in the past.
fn predict(
    past: &[(Timestamp, f64)],
    now: Timestamp,
    start: Timestamp,
    slots: usize,
) -> Option<Vec<Expected>> {
    let day = std::time::Duration::from_secs(86_400);
    let newest = *past.last()?;
    let before = |at: Timestamp| {
        let end = past.partition_point(|(t, _)| *t <= at);
        let (t, v) = past[..end].last()?;
        (at.seconds_since(*t) <= 2.0 * 3_600.0).then_some(*v)
    };
    let usual = |at: Timestamp| {
        let mut at = at;
        while at > now {
            at = at - day;
        }
        let (a, b) = (before(at), before(at - day));
        match (a, b) {
            (Some(a), Some(b)) => Some(0.6 * a + 0.4 * b),
            (one, other) => one.or(other),
        }
    };
    let offset = before(now - day).map_or(0.0, |yesterday| newest.1 - yesterday);
    let errors: Vec<f64> = past
        .iter()
        .filter_map(|(t, v)| Some((v - before(*t - day)?).abs()))
        .collect();
    let spread = mean(errors.iter().copied());
    Some(
        (0..slots)
            .map(|t| {
                let at = start + SLOT * t as u32;
                // What is off now fades within half a day.
                let fade = (-at.seconds_since(now).max(0.0) / 21_600.0).exp();
                let value = usual(at).map_or(newest.1, |u| u + offset * fade);
                Expected {
                    value,
                    low: value - spread,
                    high: value + spread,
                }
            })
            .collect(),
    )
}
