//! Numbers as integers over a power of ten, where that gives every bit back.

/// Powers of ten that a value may be scaled by.
const POWERS: [f64; 7] = [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6];
/// Integers up to here are exact in an f64.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// 1.5 x 2^52.
const ROUNDING: f64 = 6_755_399_441_055_744.0;

/// The highest scale.
pub const MAX_SCALE: u8 = POWERS.len() as u8 - 1;

/// The power of ten of a scale; of one that is too high the highest.
pub fn power(scale: u8) -> f64 {
    POWERS[usize::from(scale.min(MAX_SCALE))]
}

/// The value as an integer over `power(scale)`; none unless exactly this value
/// comes back. -0.0 is no integer.
pub fn fit(value: f64, scale: u8) -> Option<i64> {
    let power = power(scale);
    let scaled = value * power;
    let integer = if scaled.abs() < EXACT / 4.0 {
        // Beside this number doubles are whole: the sum is rounded by the
        // addition, which is much faster than a call. That a half goes to the
        // even side does not matter, because no decimal of these sizes is one.
        (scaled + ROUNDING).to_bits() as i64 - ROUNDING.to_bits() as i64
    } else {
        let rounded = scaled.round();
        if rounded.is_nan() || rounded.abs() >= EXACT {
            return None;
        }
        rounded as i64
    };
    ((integer as f64 / power).to_bits() == value.to_bits()).then_some(integer)
}

/// The smallest scale from `least` up at which a value fits.
pub fn scale_of(value: f64, least: u8) -> Option<u8> {
    (least..=MAX_SCALE).find(|scale| fit(value, *scale).is_some())
}

/// Rounds to multiples of a precision: 0.1, 0.001, 1, 1048576 …
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rounding {
    /// Precision as an integer over the power of ten of the scale.
    step: i64,
    /// Digits behind the point.
    pub scale: u8,
}

impl Rounding {
    /// To multiples of `precision`; none where that is no decimal.
    pub fn to(precision: f64) -> Option<Self> {
        let scale = scale_of(precision, 0)?;
        let step = fit(precision, scale).filter(|step| *step > 0)?;
        Some(Self { step, scale })
    }

    /// The nearest multiple; the value itself where that cannot be told.
    pub fn round(self, value: f64) -> f64 {
        let power = power(self.scale);
        let steps = (value * power / self.step as f64).round();
        let rounded = steps * self.step as f64;
        if rounded.is_nan() || rounded.abs() >= EXACT {
            return value;
        }
        (rounded as i64) as f64 / power
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_fits_comes_back_bit_by_bit(value in any::<u64>().prop_map(f64::from_bits), scale in 0..=MAX_SCALE) {
            if let Some(integer) = fit(value, scale) {
                prop_assert_eq!((integer as f64 / power(scale)).to_bits(), value.to_bits());
            }
        }

        #[test]
        fn decimals_fit_at_their_scale(integer in -4_000_000_000i64..4_000_000_000, scale in 0..=MAX_SCALE) {
            prop_assert_eq!(fit(integer as f64 / power(scale), scale), Some(integer));
        }

        #[test]
        fn rounding_moves_by_at_most_half_a_step(value in -1e9f64..1e9, which in 0usize..6) {
            let precision = [0.001, 0.1, 0.25, 1.0, 15.0, 1_048_576.0][which];
            let rounding = Rounding::to(precision).unwrap();
            let rounded = rounding.round(value);
            prop_assert!((rounded - value).abs() <= precision * 0.500_001);
            prop_assert_eq!(rounding.round(rounded).to_bits(), rounded.to_bits());
            prop_assert!(fit(rounded, rounding.scale).is_some());
        }
    }

    #[test]
    fn odd_values_are_left_alone() {
        assert_eq!(fit(-0.0, 3), None);
        assert_eq!(fit(f64::NAN, 0), None);
        assert_eq!(fit(0.1, 0), None);
        assert_eq!(fit(1e300, 0), None);
        assert_eq!(Rounding::to(0.0), None);
        let milli = Rounding::to(0.001).unwrap();
        assert!(milli.round(f64::NAN).is_nan());
        assert_eq!(milli.round(f64::INFINITY), f64::INFINITY);
    }
}
