//! What is expected of the grid over the horizon, from its recorded past
//! only: nothing newer than the issue time is looked at.

use super::policy::{PlanPolicy, SLOT};
use heliostat_models::forecast::{self, Limits};
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
        let series = |metric: &str, limits: Limits| {
            let metric = Catalogue::builtin().id(metric)?;
            let past: Vec<(Timestamp, f64)> = history
                .iter()
                .filter(|f| f.at <= now)
                .filter_map(|f| Some((f.at, f.get(metric)?.value()?)))
                .filter(|(_, v)| v.is_finite())
                .collect();
            let newest = past.iter().map(|p| p.0).max()?;
            if newest < now - policy.oldest_history {
                return None;
            }
            let forecast = forecast::forecast(&past, now, &limits)?;
            (0..slots as u32)
                .map(|t| {
                    let slot = forecast.at(start + SLOT * t)?;
                    Some(Expected {
                        value: slot.value,
                        low: slot.low,
                        high: slot.high,
                    })
                })
                .collect()
        };
        let carbon = series(CARBON, Limits::NOT_NEGATIVE);
        let price = series(PRICE, Limits::ANY);
        let renewable = series(RENEWABLE, Limits::RATIO);
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
