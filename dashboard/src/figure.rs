//! A number that knows how it came to be, and arithmetic that keeps that.

use heliostat_models::{Quality, Reading};
use serde::Serialize;

/// How many parts of a sum are known in full, and of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Parts known in full.
    pub known: usize,
    /// All parts.
    pub all: usize,
}

/// A value, or the lack of one, with its quality.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The number, if there is one.
    pub value: Option<f64>,
    /// How it came to be; the worst of all that went into it.
    pub quality: Quality,
    /// Of a sum whose parts are not all known: how many are. The value is then
    /// a bound from below (powers are not negative), no estimate of the whole.
    pub partial: Option<Coverage>,
}

impl Figure {
    /// No reading.
    pub const MISSING: Self = Self {
        value: None,
        quality: Quality::Missing,
        partial: None,
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
                partial: None,
            },
            _ => Self::MISSING,
        }
    }
    /// This figure where it stands for the whole; a partial sum is missing.
    pub fn whole(self) -> Self {
        match self.partial {
            None => self,
            Some(_) => Self::MISSING,
        }
    }
    /// The other figure where this one is missing, or is partial and the other is whole.
    pub fn or(self, other: Self) -> Self {
        if self.value.is_none() || (self.partial.is_some() && other.whole().value.is_some()) {
            other
        } else {
            self
        }
    }
    /// The same number, known no better than estimated.
    pub fn as_estimate(self) -> Self {
        Self {
            partial: self.partial,
            ..Self::of(self.value, self.quality.max(Quality::Estimated))
        }
    }
    /// A function of two figures; missing when either is, or is only partial:
    /// a difference or ratio with a part left out says nothing.
    pub fn with(self, other: Self, f: impl Fn(f64, f64) -> f64) -> Self {
        match (self.whole().value, other.whole().value) {
            (Some(a), Some(b)) => Self::of(Some(f(a, b)), self.quality.max(other.quality)),
            _ => Self::MISSING,
        }
    }
    /// A growing function of the number: of a partial sum it stays a bound from below.
    pub fn map(self, f: impl Fn(f64) -> f64) -> Self {
        let mapped = Self::of(self.value.map(f), self.quality);
        Self {
            partial: self.partial.filter(|_| mapped.value.is_some()),
            ..mapped
        }
    }
    /// The sum. Where some parts are missing it is partial; where all are, it
    /// is missing: nothing is not zero.
    pub fn sum(parts: impl IntoIterator<Item = Self>) -> Self {
        let (mut total, mut known, mut all) = (0.0, 0_usize, 0_usize);
        let mut has_value = false;
        let mut worst = Quality::Measured;
        for part in parts {
            all += 1;
            if let Some(v) = part.value {
                has_value = true;
                known += usize::from(part.partial.is_none());
                total += v;
                worst = worst.max(part.quality);
            }
        }
        if !has_value {
            return Self::MISSING;
        }
        if known == all {
            return Self::of(Some(total), worst);
        }
        Self {
            partial: Some(Coverage { known, all }),
            ..Self::of(Some(total), Quality::Estimated)
        }
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
    fn a_sum_with_a_hole_is_partial_and_of_nothing_is_missing() {
        let parts = [Figure::measured(2.0), Figure::MISSING];
        let sum = Figure::sum(parts);
        assert_eq!(sum.value, Some(2.0));
        assert_eq!(sum.partial, Some(Coverage { known: 1, all: 2 }));
        assert_eq!(sum.whole(), Figure::MISSING);
        assert_eq!(sum.map(|v| v * 2.0).partial, sum.partial);
        assert_eq!(sum.as_estimate().partial, sum.partial);
        let of_sums = Figure::sum([sum, Figure::measured(3.0)]);
        assert_eq!(of_sums.value, Some(5.0));
        assert_eq!(of_sums.partial, Some(Coverage { known: 1, all: 2 }));
        assert_eq!(Figure::sum([Figure::MISSING]), Figure::MISSING);
        assert_eq!(Figure::sum([]), Figure::MISSING);
        assert_eq!(Figure::sum([Figure::measured(2.0)]), Figure::measured(2.0));
    }

    #[test]
    fn nothing_is_split_off_a_partial_sum() {
        let part = Figure::sum([Figure::measured(2.0), Figure::MISSING]);
        let whole = Figure::measured(100.0);
        assert_eq!(whole.with(part, |a, b| a - b), Figure::MISSING);
        assert_eq!(part.with(whole, |a, b| a / b), Figure::MISSING);
        assert_eq!(part.or(whole), whole);
        assert_eq!(part.or(Figure::MISSING), part);
        assert_eq!(whole.or(part), whole);
    }

    #[test]
    fn a_ratio_by_zero_is_missing_not_infinite() {
        let ratio = Figure::measured(1.0).with(Figure::measured(0.0), |a, b| a / b);
        assert_eq!(ratio, Figure::MISSING);
    }
}
