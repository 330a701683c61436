//! A number that knows how it came to be, and arithmetic that keeps that.

use heliostat_models::{Quality, Reading};
use serde::Serialize;

/// A value, or the lack of one, with its quality.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The number, if there is one.
    pub value: Option<f64>,
    /// How it came to be; the worst of all that went into it.
    pub quality: Quality,
}

impl Figure {
    /// No reading.
    pub const MISSING: Self = Self {
        value: None,
        quality: Quality::Missing,
    };

    /// Read from an instrument.
    #[cfg(test)]
    pub fn measured(value: f64) -> Self {
        Self::of(Some(value), Quality::Measured)
    }
    /// Computed from something else.
    #[cfg(test)]
    pub fn estimated(value: f64) -> Self {
        Self::of(Some(value), Quality::Estimated)
    }
    /// A value with a quality; what is not finite is missing.
    pub fn of(value: Option<f64>, quality: Quality) -> Self {
        match value.filter(|v| v.is_finite()) {
            Some(v) if quality != Quality::Missing => Self {
                value: Some(v),
                quality,
            },
            _ => Self::MISSING,
        }
    }
    /// The other figure where this one is missing.
    pub fn or(self, other: Self) -> Self {
        if self.value.is_some() { self } else { other }
    }
    /// The same number, known no better than estimated.
    pub fn as_estimate(self) -> Self {
        Self::of(self.value, self.quality.max(Quality::Estimated))
    }
    /// A function of two figures; missing when either is.
    pub fn with(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        match (self.value, other.value) {
            (Some(a), Some(b)) => Self::of(Some(f(a, b)), self.quality.max(other.quality)),
            _ => Self::MISSING,
        }
    }
    /// A function of the number.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        Self::of(self.value.map(f), self.quality)
    }
    /// The sum. Where some parts are missing it is an estimate from below;
    /// where all are, it is missing: nothing is not zero.
    pub fn sum(parts: impl IntoIterator<Item = Self>) -> Self {
        let (mut total, mut known, mut all) = (0.0, 0_usize, 0_usize);
        let mut worst = Quality::Measured;
        for part in parts {
            all += 1;
            if let Some(v) = part.value {
                known += 1;
                total += v;
                worst = worst.max(part.quality);
            }
        }
        if known < all {
            worst = Quality::Estimated;
        }
        Self::of((known > 0).then_some(total), worst)
    }
}

impl From<Option<Reading>> for Figure {
    fn from(reading: Option<Reading>) -> Self {
        match reading {
            Some(r) => Self::of(r.value(), r.quality()),
            None => Self::MISSING,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_with_a_hole_is_an_estimate_and_of_nothing_is_missing() {
        let parts = [Figure::measured(2.0), Figure::MISSING];
        assert_eq!(Figure::sum(parts), Figure::estimated(2.0));
        assert_eq!(Figure::sum([Figure::MISSING]), Figure::MISSING);
        assert_eq!(Figure::sum([]), Figure::MISSING);
    }

    #[test]
    fn a_ratio_by_zero_is_missing_not_infinite() {
        let ratio = Figure::measured(1.0).with(Figure::measured(0.0), |a, b| a / b);
        assert_eq!(ratio, Figure::MISSING);
    }
}
