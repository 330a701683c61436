//! Energy accounting and the indicators that are reported from it.
//!
//! ```text
//! register and power readings -> Profile (power over time, only where known)
//! Profile                     -> Energy of any interval: measured, estimated, unknown
//! Profiles and intensities    -> PUE, REF, ERF, CUE, location-based carbon
//! ```
//!
//! No gap invents energy: what neither a sound register nor power readings close
//! enough together speak of stays unknown, and every sum carries how much of its
//! time was measured, estimated and unknown.
//!
//! Formulas: EN 50600-4-2 (PUE), 4-3 (REF), 4-6 (ERF), 4-8 (CUE) and their twins
//! ISO/IEC 30134-2, -3, -6, -8; GHG Protocol Scope 2, location-based method.
//! Indicators are ratios of sums, never means of ratios.

mod carbon;
mod profile;
mod ratio;

pub use carbon::{Carbon, carbon};
pub use profile::{EnergyRules, Placed, Profile, Stretch};
pub use ratio::{MeterErrors, Pue, PueCategory, RatioSums, cue, renewable_factor};

use crate::quantity::Joules;
use serde::Serialize;
use std::iter::Sum;
use std::ops::AddAssign;

/// How long something was measured, estimated and unknown, in seconds. Of a sum
/// over devices: device-seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Coverage {
    /// Seconds for which an instrument speaks.
    pub measured_seconds: f64,
    /// Seconds for which something was computed.
    pub estimated_seconds: f64,
    /// Seconds of which nothing is known.
    pub unknown_seconds: f64,
}

/// The same as shares; they sum to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Shares {
    /// Share of the time that was measured.
    pub measured: f64,
    /// Share of the time that was estimated.
    pub estimated: f64,
    /// Share of the time that is unknown.
    pub missing: f64,
}

impl Shares {
    /// Nothing is known.
    pub const NONE: Self = Self {
        measured: 0.0,
        estimated: 0.0,
        missing: 1.0,
    };
}

impl Coverage {
    /// Nothing known of these seconds.
    pub const fn unknown(seconds: f64) -> Self {
        Self {
            measured_seconds: 0.0,
            estimated_seconds: 0.0,
            unknown_seconds: seconds,
        }
    }
    /// All of it.
    pub fn seconds(&self) -> f64 {
        self.measured_seconds + self.estimated_seconds + self.unknown_seconds
    }
    /// Seconds of which something is known.
    pub fn known_seconds(&self) -> f64 {
        self.measured_seconds + self.estimated_seconds
    }
    /// As shares; of no time at all nothing is known.
    pub fn shares(&self) -> Shares {
        let all = self.seconds();
        if all <= 0.0 {
            return Shares::NONE;
        }
        Shares {
            measured: self.measured_seconds / all,
            estimated: self.estimated_seconds / all,
            missing: self.unknown_seconds / all,
        }
    }
    /// Adds seconds that are known.
    fn add_known(&mut self, seconds: f64, measured: bool) {
        if measured {
            self.measured_seconds += seconds;
        } else {
            self.estimated_seconds += seconds;
        }
    }
    /// Counts all of `whole` seconds that are not known as unknown.
    fn fill(&mut self, whole: f64) {
        self.unknown_seconds = (whole - self.known_seconds()).max(0.0);
        if self.unknown_seconds < 1e-6 {
            // Rounding of sums, not a gap.
            self.unknown_seconds = 0.0;
        }
    }
}

impl AddAssign for Coverage {
    fn add_assign(&mut self, other: Self) {
        self.measured_seconds += other.measured_seconds;
        self.estimated_seconds += other.estimated_seconds;
        self.unknown_seconds += other.unknown_seconds;
    }
}

/// Energy over an interval and what it is known from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Energy {
    /// From differences of a sound register of measured values.
    pub measured: Joules,
    /// From power readings, or from estimated values.
    pub estimated: Joules,
    /// The time behind both, and the time of which nothing is known.
    pub coverage: Coverage,
}

impl Energy {
    /// What is known, measured and estimated; `None` when nothing is. A lower
    /// bound of the truth while some time is unknown.
    pub fn known(&self) -> Option<Joules> {
        (self.coverage.known_seconds() > 0.0).then(|| self.measured + self.estimated)
    }
}

impl AddAssign for Energy {
    fn add_assign(&mut self, other: Self) {
        self.measured += other.measured;
        self.estimated += other.estimated;
        self.coverage += other.coverage;
    }
}

impl Sum for Energy {
    fn sum<I: Iterator<Item = Self>>(energies: I) -> Self {
        energies.fold(Self::default(), |mut sum, energy| {
            sum += energy;
            sum
        })
    }
}

#[cfg(test)]
mod tests;
