//! A normal distribution over a few numbers, and what an observation of a
//! linear form of them makes of it (Kalman's update, Joseph's form).

/// Mean and covariance.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Gaussian {
    pub mean: Vec<f64>,
    /// Symmetric, row by row.
    pub covariance: Vec<Vec<f64>>,
}

impl Gaussian {
    /// Takes in that `form · numbers` was seen as `value`, wrong by `variance`
    /// (above zero). Returns ln of how likely that was, but for a constant.
    pub fn observe(&mut self, form: &[f64], value: f64, variance: f64) -> f64 {
        let along = self.along(form);
        let total = dot(form, &along) + variance;
        let gain: Vec<f64> = along.iter().map(|a| a / total).collect();
        let surprise = value - dot(form, &self.mean);
        for (mean, gain) in self.mean.iter_mut().zip(&gain) {
            *mean += gain * surprise;
        }
        // (I - kh)P(I - kh)' + kvk' = P - ka' - ak' + (h·a + v)kk': symmetric whatever rounds.
        for i in 0..gain.len() {
            for j in 0..=i {
                let lost = gain[i] * along[j] + along[i] * gain[j] - total * gain[i] * gain[j];
                let kept = self.covariance[i][j] - lost;
                self.covariance[i][j] = kept;
                self.covariance[j][i] = kept;
            }
        }
        -0.5 * (total.ln() + surprise * surprise / total)
    }

    /// Covariance of each number with `form · numbers`.
    pub fn along(&self, form: &[f64]) -> Vec<f64> {
        self.covariance.iter().map(|row| dot(row, form)).collect()
    }

    /// Mean and standard deviation of `form · numbers`.
    pub fn of(&self, form: &[f64]) -> (f64, f64) {
        let variance = dot(form, &self.along(form));
        (dot(form, &self.mean), variance.max(0.0).sqrt())
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Two numbers observed one after the other against the closed form of
        /// the posterior precision, inverted by hand.
        #[test]
        fn agrees_with_the_closed_form(
            a in 0.1..4.0f64, b in 0.1..4.0f64, c in -0.9..0.9f64,
            h in (-2.0..2.0f64, -2.0..2.0f64), y in -3.0..3.0f64, v in 0.01..2.0f64,
        ) {
            let cross = c * (a * b).sqrt();
            let mut it = Gaussian { mean: vec![0.3, -0.2], covariance: vec![vec![a, cross], vec![cross, b]] };
            let likely = it.observe(&[h.0, h.1], y, v);
            let spread = h.0 * h.0 * a + 2.0 * h.0 * h.1 * cross + h.1 * h.1 * b + v;
            let off = y - (h.0 * 0.3 - h.1 * 0.2);
            prop_assert!((likely + 0.5 * (spread.ln() + off * off / spread)).abs() < 1e-9);
            let det = a * b - cross * cross;
            let precision = [
                [b / det + h.0 * h.0 / v, -cross / det + h.0 * h.1 / v],
                [-cross / det + h.0 * h.1 / v, a / det + h.1 * h.1 / v],
            ];
            let det = precision[0][0] * precision[1][1] - precision[0][1] * precision[1][0];
            let closed = [
                [precision[1][1] / det, -precision[0][1] / det],
                [-precision[1][0] / det, precision[0][0] / det],
            ];
            let start = [0.3, -0.2];
            for (i, row) in closed.iter().enumerate() {
                for (ours, theirs) in it.covariance[i].iter().zip(row) {
                    prop_assert!((ours - theirs).abs() < 1e-7);
                }
                let shift = (row[0] * h.0 + row[1] * h.1) / v * off;
                prop_assert!((it.mean[i] - start[i] - shift).abs() < 1e-6);
            }
        }
    }
}
