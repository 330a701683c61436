//! Forecasts of the grid (carbon intensity, renewable share, price) for the
//! next 48 hours in slots of 15 minutes, from the series' own past.
//!
//! Two methods, both pure functions of what was known at the issue time:
//!
//! * [`persistence`]: the same time yesterday; the yardstick.
//! * [`forecast`]: a weighted mean of the same slot on the last 14 days plus what
//!   the last hour differs from that mean, fading over the horizon:
//!
//! ```text
//! x(t) = sum over d of w_d · x(t - d days)  +  level · exp(-h / 36 h),   w_d ~ 0.85^d
//! level = mean over the last hour of (observed - the same weighted mean)
//! ```
//!
//! Day, memory and fading were chosen on the carbon intensity of DE, FI, GR, IT,
//! ES, SE and FR in 2018 and 2019, where the mean absolute error over 48 h is
//! about a fifth below that of persistence; a test measures it anew.
//!
//! The interval comes from the method's own past: it is replayed on each of the
//! last 14 days, and the 10 % and 90 % quantiles of its errors, by six hours of
//! horizon, are laid around the new forecast.
//!
//! Architecture invariant: nothing newer than the issue time is looked at,
//! whatever the history contains.

mod series;

use crate::time::Timestamp;
use serde::Serialize;
use series::Series;
use std::ops::RangeInclusive;
use std::time::Duration;

/// Length of a slot.
pub const SLOT: Duration = Duration::from_secs(900);
/// Number of slots in a forecast: 48 hours.
pub const SLOTS: usize = 192;
/// Slots in a day.
const DAY: usize = 96;
/// Days whose same slot is averaged.
const DAYS: usize = 14;
/// Weight of a day against the one after it.
const MEMORY: f64 = 0.85;
/// Slots whose level corrects the mean: one hour.
const LEVEL_SLOTS: usize = 4;
/// Slots over which the correction fades to 1/e: 36 hours.
const FADING_SLOTS: f64 = 144.0;
/// Past days on which a method is replayed for its interval.
const REPLAYS: usize = 14;
/// Slots of horizon whose errors are pooled: six hours.
const POOL: usize = 24;
/// Fewer errors than this say nothing of their spread.
const ENOUGH_ERRORS: usize = 24;

/// One slot of a forecast, in the unit of its history.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ForecastSlot {
    /// When the slot begins.
    pub start: Timestamp,
    /// Expected mean over the slot.
    pub value: f64,
    /// In one case of ten it is lower than this.
    pub low: f64,
    /// In one case of ten it is higher than this.
    pub high: f64,
}

/// A forecast as it was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// When; it saw nothing newer.
    pub issued: Timestamp,
    /// [`SLOTS`] slots, the first of which contains the issue time.
    pub slots: Vec<ForecastSlot>,
    /// Share of the last 14 days for which the history had values, 0 to 1.
    pub coverage: f64,
}

impl Forecast {
    /// The slot that contains an instant.
    pub fn at(&self, at: Timestamp) -> Option<&ForecastSlot> {
        let first = self.slots.first()?.start;
        let index = (at.0 - first.0).div_euclid(SLOT.as_millis() as i64);
        self.slots.get(usize::try_from(index).ok()?)
    }
}

/// The values that a series can take; forecasts stay within them.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits(pub RangeInclusive<f64>);

impl Limits {
    /// Anything, e.g. prices.
    pub const ANY: Self = Self(f64::NEG_INFINITY..=f64::INFINITY);
    /// Nothing below zero, e.g. carbon intensity.
    pub const NOT_NEGATIVE: Self = Self(0.0..=f64::INFINITY);
    /// 0 to 1, e.g. a share.
    pub const RATIO: Self = Self(0.0..=1.0);

    fn keep(&self, value: f64) -> f64 {
        value.max(*self.0.start()).min(*self.0.end())
    }
}

/// The same time yesterday. `None` when the history has no usable value.
pub fn persistence(
    history: &[(Timestamp, f64)],
    issued: Timestamp,
    limits: &Limits,
) -> Option<Forecast> {
    make(history, issued, limits, yesterday)
}

/// The weighted mean of the last days with the level of the last hour. `history`
/// holds (instant, value) in any order; a value holds from its instant to the
/// next one, an hour at most. `None` when it has no usable value.
pub fn forecast(
    history: &[(Timestamp, f64)],
    issued: Timestamp,
    limits: &Limits,
) -> Option<Forecast> {
    make(history, issued, limits, weighted_days)
}

/// A method: the values of the slots `known..known + SLOTS` from those before
/// `known`; `None` where it cannot say.
type Method = fn(&Series, usize) -> Vec<Option<f64>>;

fn make(
    history: &[(Timestamp, f64)],
    issued: Timestamp,
    limits: &Limits,
    method: Method,
) -> Option<Forecast> {
    let series = Series::new(history, issued, DAYS + REPLAYS + 2)?;
    // The current slot and those of a record that still holds may be known already.
    let known = series.slot_of(issued);
    let values = method(&series, known);
    let spread = Spread::of(&series, known, method);
    let mean = series.mean()?;
    let mut last = series.last_before(known).unwrap_or(mean);
    let slots = (values.into_iter().enumerate())
        .map(|(h, value)| {
            let start = series.start_of(known + h);
            if let Some(seen) = series.get(known + h) {
                let value = limits.keep(seen);
                return ForecastSlot {
                    start,
                    value,
                    low: value,
                    high: value,
                };
            }
            // Where even the method is silent, the slot before goes on.
            last = limits.keep(value.unwrap_or(last));
            let (down, up) = spread.around(h);
            ForecastSlot {
                start,
                value: last,
                low: limits.keep(last + down),
                high: limits.keep(last + up),
            }
        })
        .collect();
    Some(Forecast {
        issued,
        slots,
        coverage: series.coverage(known.saturating_sub(DAYS * DAY), known),
    })
}

fn yesterday(series: &Series, known: usize) -> Vec<Option<f64>> {
    (known..known + SLOTS)
        .map(|slot| {
            same_slot(series, known, slot)
                .next()
                .map(|(_, value)| value)
        })
        .collect()
}

fn weighted_days(series: &Series, known: usize) -> Vec<Option<f64>> {
    let level = level(series, known);
    (known..known + SLOTS)
        .map(|slot| {
            let fading = (-((slot - known) as f64 + 1.0) / FADING_SLOTS).exp();
            Some(weighted_mean(series, known, slot)? + level * fading)
        })
        .collect()
}

/// What the last hour differs from the weighted mean of its own days before.
fn level(series: &Series, known: usize) -> f64 {
    let recent: Vec<f64> = (known.saturating_sub(LEVEL_SLOTS)..known)
        .filter_map(|slot| Some(series.get(slot)? - weighted_mean(series, slot, slot)?))
        .collect();
    if recent.is_empty() {
        0.0
    } else {
        recent.iter().sum::<f64>() / recent.len() as f64
    }
}

fn weighted_mean(series: &Series, known: usize, slot: usize) -> Option<f64> {
    let (mut sum, mut weights) = (0.0, 0.0);
    for (day, value) in same_slot(series, known, slot) {
        let weight = MEMORY.powi(day as i32);
        sum += weight * value;
        weights += weight;
    }
    (weights > 0.0).then(|| sum / weights)
}

/// The same slot on the days before `known`, the latest first, as (days before
/// the latest possible one, value); gaps are left out.
fn same_slot(series: &Series, known: usize, slot: usize) -> impl Iterator<Item = (usize, f64)> {
    let nearest = (slot + 1).saturating_sub(known).div_ceil(DAY).max(1);
    (0..DAYS).filter_map(move |day| {
        let before = slot.checked_sub((nearest + day) * DAY)?;
        Some((day, series.get(before)?))
    })
}

/// Quantiles of a method's past errors (observed - forecast), by horizon.
struct Spread {
    pools: Vec<(f64, f64)>,
}

impl Spread {
    fn of(series: &Series, known: usize, method: Method) -> Self {
        let mut errors = vec![Vec::new(); SLOTS.div_ceil(POOL)];
        for day in 1..=REPLAYS {
            let Some(then) = known.checked_sub(day * DAY) else {
                break;
            };
            for (h, value) in method(series, then).into_iter().enumerate() {
                // Only what is known now: the last replays are compared in part.
                let seen = (then + h < known).then(|| series.get(then + h)).flatten();
                if let (Some(value), Some(seen)) = (value, seen) {
                    errors[h / POOL].push(seen - value);
                }
            }
        }
        let all: Vec<f64> = errors.iter().flatten().copied().collect();
        // With too little past to replay, the spread of the series itself.
        let fallback = if all.len() >= ENOUGH_ERRORS {
            quantiles(all)
        } else {
            let (low, high) = quantiles(series.values().collect());
            (low - high, high - low)
        };
        let pools = (errors.into_iter())
            .map(|pool| {
                if pool.len() >= ENOUGH_ERRORS {
                    quantiles(pool)
                } else {
                    fallback
                }
            })
            .collect();
        Self { pools }
    }

    /// What to add for the lower and the upper end; never the wrong way.
    fn around(&self, horizon: usize) -> (f64, f64) {
        let (low, high) = self.pools[horizon / POOL];
        (low.min(0.0), high.max(0.0))
    }
}

/// The 10 % and 90 % quantiles; zero of nothing.
fn quantiles(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = ((values.len().saturating_sub(1)) as f64 * share).round() as usize;
        values.get(index).copied().unwrap_or(0.0)
    };
    (at(0.1), at(0.9))
}

#[cfg(test)]
mod tests;
