//! Ratios of sums: PUE, REF, ERF, CUE.

use super::profile::Profile;
use super::{Coverage, Shares};
use crate::indicators::Carbon;
use crate::quantity::{Joules, Watts};
use serde::Serialize;
use std::ops::AddAssign;

/// Two energies over the time in which both are known, so that a gap of one
/// meter does not bend the ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct RatioSums {
    /// Sum above the line.
    pub numerator: Joules,
    /// Sum below the line.
    pub denominator: Joules,
    /// Time in which both are measured, both known, or either unknown.
    pub coverage: Coverage,
}

impl RatioSums {
    /// Of two profiles of the same interval.
    pub fn of(numerator: &Profile, denominator: &Profile) -> Self {
        let mut sums = Self::default();
        let mut coverage = Coverage::default();
        for below in denominator.spans() {
            for above in numerator.within(below.from, below.to) {
                sums.numerator += Joules(above.joules());
                for part in denominator.within(above.from, above.to) {
                    sums.denominator += Joules(part.joules());
                }
                coverage.add_known(above.seconds(), above.measured && below.measured);
            }
        }
        coverage.fill(denominator.seconds());
        sums.coverage = coverage;
        sums
    }

    /// The ratio; `None` when nothing is known or there is nothing below the line.
    pub fn ratio(&self) -> Option<f64> {
        let known = self.coverage.known_seconds() > 0.0 && self.denominator.0 > 0.0;
        known.then(|| self.numerator / self.denominator)
    }
}

impl AddAssign for RatioSums {
    fn add_assign(&mut self, other: Self) {
        self.numerator += other.numerator;
        self.denominator += other.denominator;
        self.coverage += other.coverage;
    }
}

/// Where IT energy is measured (EN 50600-4-2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PueCategory {
    /// 1, basic: output of the UPS.
    UpsOutput,
    /// 2, intermediate: output of the PDU.
    PduOutput,
    /// 3, advanced: input of the IT equipment.
    ItInput,
}

impl PueCategory {
    /// By its number.
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::UpsOutput),
            2 => Some(Self::PduOutput),
            3 => Some(Self::ItInput),
            _ => None,
        }
    }
    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            Self::UpsOutput => 1,
            Self::PduOutput => 2,
            Self::ItInput => 3,
        }
    }
}

/// What is stated of the two meters behind a PUE.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MeterErrors {
    /// Largest relative error of both meters, e.g. 0.01 for accuracy class 1; 0 when not stated.
    pub relative: f64,
    /// Highest power of the data centre, where a limit or rating says it.
    pub max_data_centre: Option<Watts>,
    /// Highest power of the IT equipment, likewise.
    pub max_it: Option<Watts>,
}

/// Power usage effectiveness.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pue {
    /// EDC / EIT over the time in which both are known.
    pub value: Option<f64>,
    /// `PUE` of twelve months or more, else `iPUE`, the interim value.
    pub label: &'static str,
    /// Where IT energy is measured, where stated.
    pub category: Option<PueCategory>,
    /// What it is known from.
    pub shares: Shares,
    /// The true PUE of the whole period is no lower; `None` when no bound can be given.
    pub low: Option<f64>,
    /// The true PUE of the whole period is no higher; likewise.
    pub high: Option<f64>,
}

/// The shortest year, in seconds.
const TWELVE_MONTHS: f64 = 365.0 * 86_400.0;

impl Pue {
    /// From sums of EDC over EIT.
    ///
    /// The bounds hold whatever happened in the unknown time: the centre drew
    /// between nothing and its limit, and never less than its IT.
    pub fn new(sums: &RatioSums, category: Option<PueCategory>, errors: &MeterErrors) -> Self {
        let value = sums.ratio();
        let unknown = sums.coverage.unknown_seconds;
        let most = |limit: Option<Watts>| match limit {
            _ if unknown <= 0.0 => Some(0.0),
            limit => limit.map(|watts| watts.over_seconds(unknown).0),
        };
        let (edc, eit, e) = (sums.numerator.0, sums.denominator.0, errors.relative);
        // Unknown IT energy X adds at least X above the line: the ratio falls most with the most X.
        let low = value
            .and(most(errors.max_it))
            .map(|x| ((edc * (1.0 - e) + x) / (eit * (1.0 + e) + x)).max(1.0));
        let high = value
            .and(most(errors.max_data_centre))
            .filter(|_| e < 1.0)
            .map(|x| (edc * (1.0 + e) + x) / (eit * (1.0 - e)));
        Self {
            value,
            label: if sums.coverage.seconds() >= TWELVE_MONTHS {
                "PUE"
            } else {
                "iPUE"
            },
            category,
            shares: sums.coverage.shares(),
            low,
            high,
        }
    }
}

/// Carbon usage effectiveness: kilograms of CO2 equivalent of the data centre
/// per kilowatt hour of IT (EN 50600-4-8).
///
/// The energies are those of the PUE: carbon over the centre's known time is
/// scaled by PUE to IT, so that the two need not be known at the same times.
pub fn cue(carbon: &Carbon, data_centre: Joules, pue: &RatioSums) -> Option<f64> {
    let per_kilowatt_hour = carbon.grams()? / 1_000.0 / data_centre.kilowatt_hours();
    let cue = per_kilowatt_hour * pue.ratio()?;
    cue.is_finite().then_some(cue)
}

/// Renewable energy factor (EN 50600-4-3): the share of EDC that is renewable,
/// from on-site generation and from contracts (shares of consumption, of which
/// the guarantees are retired). At most 1.
pub fn renewable_factor(on_site: Option<f64>, contracted: Option<f64>) -> Option<f64> {
    match (on_site, contracted) {
        (None, None) => None,
        (on_site, contracted) => {
            Some((on_site.unwrap_or(0.0) + contracted.unwrap_or(0.0)).clamp(0.0, 1.0))
        }
    }
}
