//! Sums, quantiles and variances of a few values.

/// A sum that keeps what rounding loses (Neumaier, ZAMM 54, 1974).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NeumaierSum {
    sum: f64,
    lost: f64,
}

impl NeumaierSum {
    pub(super) fn add(&mut self, value: f64) {
        let sum = self.sum + value;
        self.lost += if self.sum.abs() >= value.abs() {
            (self.sum - sum) + value
        } else {
            (value - sum) + self.sum
        };
        self.sum = sum;
    }
    pub(super) fn value(&self) -> f64 {
        // What infinity lost is not a number.
        if self.sum.is_finite() {
            self.sum + self.lost
        } else {
            self.sum
        }
    }
}

/// The sum of values.
pub(super) fn sum(values: &[f64]) -> f64 {
    let mut sum = NeumaierSum::default();
    values.iter().for_each(|v| sum.add(*v));
    sum.value()
}

/// The quantile by linear interpolation between neighbours; below 0 and above 1
/// infinite. Sorts the values, NaN first.
pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(|a, b| {
        b.is_nan()
            .cmp(&a.is_nan())
            .then(a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
    });
    let rank = q * (values.len() - 1) as f64;
    let lower = (rank.floor() as usize).min(values.len() - 1);
    let upper = (lower + 1).min(values.len() - 1);
    let weight = rank - rank.floor();
    values[lower] * (1.0 - weight) + values[upper] * weight
}

/// Population variance, by Welford's method.
pub(super) fn variance(values: &[f64]) -> f64 {
    let (mut mean, mut squares) = (0.0, 0.0);
    for (index, value) in values.iter().enumerate() {
        let delta = value - mean;
        mean += delta / (index + 1) as f64;
        squares += delta * (value - mean);
    }
    squares / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_interpolate_and_run_out_at_the_ends() {
        let mut values = [4.0, 1.0, 3.0, 2.0];
        assert_eq!(quantile(0.0, &mut values), 1.0);
        assert_eq!(quantile(0.5, &mut values), 2.5);
        assert_eq!(quantile(1.0, &mut values), 4.0);
        assert_eq!(quantile(-0.1, &mut values), f64::NEG_INFINITY);
        assert_eq!(quantile(1.1, &mut values), f64::INFINITY);
        assert!(quantile(f64::NAN, &mut values).is_nan());
    }

    #[test]
    fn sums_keep_small_terms_and_infinities() {
        let of = |values: &[f64]| sum(values);
        assert_eq!(of(&[1e16, 1.0, -1e16]), 1.0);
        assert_eq!(of(&[f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(of(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
    }

    proptest! {
        #[test]
        fn a_quantile_lies_between_its_neighbours_and_rises(
            mut values in proptest::collection::vec(-1e6_f64..1e6, 1..40), a in 0.0..1.0_f64, b in 0.0..1.0_f64
        ) {
            let (low, high) = (quantile(a.min(b), &mut values), quantile(a.max(b), &mut values));
            prop_assert!(low <= high + 1e-6);
            prop_assert!(values[0] - 1e-6 <= low && high <= values[values.len() - 1] + 1e-6);
        }

        #[test]
        fn variance_does_not_move_with_the_values(
            values in proptest::collection::vec(-1e3_f64..1e3, 1..40), by in -1e3_f64..1e3
        ) {
            let moved: Vec<f64> = values.iter().map(|v| v + by).collect();
            prop_assert!((variance(&values) - variance(&moved)).abs() < 1e-5);
            prop_assert!(variance(&values) >= 0.0);
        }
    }
}
