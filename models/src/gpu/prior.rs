//! What is known of a job's speed under caps before anything was seen of it:
//! the mean of its like, and how its like differ from each other.

use super::profile::Profile;
use crate::curve::SpeedCurve;
use crate::quantity::Watts;

/// Principal components kept of how profiles differ.
const COMPONENTS: usize = 3;
/// Points of a prior, from its lowest share of the highest cap up to all of it.
pub const KNOTS: usize = 13;
/// What one profile has of its own, beside the components: standard deviation
/// of ln speed, and over which share of the highest cap it is smooth. Chosen
/// by leaving one out on the Zeus sweeps.
pub(super) const OWN: f64 = 0.05;
pub(super) const OWN_LENGTH: f64 = 0.08;
/// Profiles that an accelerator's mean counts for beside a family's own.
const POOLED: f64 = 4.0;
/// Standard deviation of ln speed for each unit of |ln cap| below the lowest
/// cap of the profiles.
pub(super) const BEYOND: f64 = 0.5;

/// Speed against cap among a population of jobs, in relative numbers: caps as
/// shares of the highest, ln of the speed relative to that at the highest.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeedPrior {
    /// Rising shares of the highest cap; the last is 1.
    pub knots: Vec<f64>,
    /// Mean of ln speed at each; 0 at the last.
    pub mean: Vec<f64>,
    /// The covariance of ln speed is the sum of the outer products of these.
    pub components: Vec<Vec<f64>>,
    /// Standard deviation of what a job has of its own besides.
    pub own: f64,
    /// Profiles it was fitted to; 0: by a model alone.
    pub profiles: usize,
}

impl SpeedPrior {
    /// Fits a prior to measured profiles. `None` when there is none, or none
    /// that reaches over any range of caps.
    pub fn fit(profiles: &[Profile]) -> Option<Self> {
        let lowest = (profiles.iter().map(Profile::lowest)).fold(0.0f64, f64::max);
        if profiles.is_empty() || lowest >= 1.0 {
            return None;
        }
        let step = (1.0 - lowest) / (KNOTS - 1) as f64;
        let knots: Vec<f64> = (0..KNOTS)
            .map(|k| {
                if k + 1 == KNOTS {
                    1.0
                } else {
                    lowest + step * k as f64
                }
            })
            .collect();
        let rows: Vec<Vec<f64>> = (profiles.iter())
            .map(|p| knots.iter().map(|x| p.log_speed(*x)).collect())
            .collect();
        let mean = mean(&rows);
        let components = components(&rows, &mean);
        Some(Self {
            knots,
            mean,
            components,
            own: OWN,
            profiles: profiles.len(),
        })
    }

    /// The same population of which a part is known to be of the job's family:
    /// its mean, drawn towards the whole's where it is small.
    #[must_use]
    pub fn for_family(&self, family: &[Profile]) -> Self {
        let count = family.len() as f64;
        let sums = (self.knots.iter().zip(&self.mean)).map(|(x, all)| {
            let own: f64 = family.iter().map(|p| p.log_speed(*x)).sum();
            (own + POOLED * all) / (count + POOLED)
        });
        Self {
            mean: sums.collect(),
            profiles: self.profiles,
            ..self.clone()
        }
    }

    /// The same spread about a curve that is stated for the job itself.
    /// `highest` is the highest cap; it is taken to be 1 in the curve's speed.
    #[must_use]
    pub fn around(&self, curve: &SpeedCurve, highest: Watts) -> Self {
        let full = curve.speed(highest).max(f64::MIN_POSITIVE);
        let at = |share: &f64| (curve.speed(highest * *share) / full).max(1e-3).ln();
        Self {
            mean: self.knots.iter().map(at).collect(),
            ..self.clone()
        }
    }

    /// The same with all spread multiplied.
    #[must_use]
    pub fn spread_by(mut self, factor: f64) -> Self {
        self.own *= factor;
        for value in self.components.iter_mut().flatten() {
            *value *= factor;
        }
        self
    }

    /// Mean of ln speed at a share of the highest cap. Below the lowest knot
    /// speed goes on falling as it does there, at least as fast as the cap.
    pub fn mean_at(&self, share: f64) -> f64 {
        self.interpolated(&self.mean, share) + self.beyond(share)
    }

    /// The components at a share of the highest cap.
    pub fn components_at(&self, share: f64) -> Vec<f64> {
        (self.components.iter().map(|c| self.interpolated(c, share))).collect()
    }

    /// Standard deviation of ln speed at a share, beside the components and
    /// what a profile has of its own: where no profile reaches.
    pub(super) fn doubt_at(&self, share: f64) -> f64 {
        match self.knots.first() {
            Some(lowest) if share < *lowest => BEYOND * (lowest / share.max(1e-3)).ln(),
            _ => 0.0,
        }
    }

    fn beyond(&self, share: f64) -> f64 {
        match (self.knots.as_slice(), self.mean.as_slice()) {
            ([x0, x1, ..], [m0, m1, ..]) if share < *x0 => {
                // A straight line in speed itself, through the two lowest knots.
                let (s0, s1) = (m0.exp(), m1.exp());
                let line = s0 - (s1 - s0) / (x1 - x0) * (x0 - share);
                let in_step = s0 * share / x0;
                line.min(in_step).max(0.02 * s0).ln() - m0
            }
            _ => 0.0,
        }
    }

    fn interpolated(&self, values: &[f64], share: f64) -> f64 {
        let upper = self.knots.partition_point(|x| *x < share);
        match (upper.checked_sub(1), self.knots.get(upper)) {
            (None, _) => values.first().copied().unwrap_or(0.0),
            (_, None) => values.last().copied().unwrap_or(0.0),
            (Some(lower), Some(x1)) => {
                let x0 = self.knots[lower];
                let along = (share - x0) / (x1 - x0);
                values[lower] + (values[upper] - values[lower]) * along
            }
        }
    }
}

fn mean(rows: &[Vec<f64>]) -> Vec<f64> {
    let count = rows.len() as f64;
    let width = rows.first().map_or(0, Vec::len);
    (0..width)
        .map(|k| rows.iter().map(|r| r[k]).sum::<f64>() / count)
        .collect()
}

/// The principal components of the rows, each times its standard deviation,
/// by power iteration and deflation.
fn components(rows: &[Vec<f64>], mean: &[f64]) -> Vec<Vec<f64>> {
    let width = mean.len();
    let mut left: Vec<Vec<f64>> = (rows.iter())
        .map(|r| r.iter().zip(mean).map(|(v, m)| v - m).collect())
        .collect();
    let degrees = (rows.len() as f64 - 1.0).max(1.0);
    let mut found = Vec::new();
    for _ in 0..COMPONENTS {
        let mut direction: Vec<f64> = (0..width).map(|k| (width - k) as f64).collect();
        let mut strength = 0.0;
        for _ in 0..200 {
            let mut next = vec![0.0; width];
            for row in &left {
                let along = super::gaussian::dot(row, &direction);
                next.iter_mut().zip(row).for_each(|(n, r)| *n += along * r);
            }
            let size = super::gaussian::dot(&next, &next).sqrt();
            if size <= 1e-14 {
                break;
            }
            strength = size;
            next.iter_mut().for_each(|n| *n /= size);
            direction = next;
        }
        if strength / degrees <= 1e-10 {
            break;
        }
        let size = super::gaussian::dot(&direction, &direction).sqrt();
        direction.iter_mut().for_each(|d| *d /= size);
        for row in &mut left {
            let along = super::gaussian::dot(row, &direction);
            row.iter_mut()
                .zip(&direction)
                .for_each(|(r, d)| *r -= along * d);
        }
        // `strength` is the largest eigenvalue of the scatter matrix.
        let deviation = (strength / degrees).sqrt();
        found.push(direction.iter().map(|d| d * deviation).collect());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles(count: usize) -> Vec<Profile> {
        (0..count)
            .map(|n| {
                let bend = 0.3 + 0.6 * n as f64 / count as f64;
                let points = (0..=8).map(|k| {
                    let cap = 100.0 + 20.0 * f64::from(k);
                    (Watts(cap), (cap / 260.0).powf(bend))
                });
                Profile::new(&points.collect::<Vec<_>>()).unwrap()
            })
            .collect()
    }

    #[test]
    fn components_give_the_covariance_back() {
        let profiles = profiles(20);
        let prior = SpeedPrior::fit(&profiles).unwrap();
        // ln of these speeds lies on one line in `bend`, so that the first
        // component is the standard deviation itself.
        for share in [0.45, 0.6, 0.8] {
            let logs: Vec<f64> = profiles.iter().map(|p| p.log_speed(share)).collect();
            let mean = logs.iter().sum::<f64>() / 20.0;
            let variance = logs.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / 19.0;
            let sum: f64 = prior.components_at(share).iter().map(|c| c * c).sum();
            assert!((prior.mean_at(share) - mean).abs() < 2e-3);
            assert!((sum / variance - 1.0).abs() < 0.02, "{sum} {variance}");
        }
        assert_eq!(prior.mean_at(1.0), 0.0);
    }

    #[test]
    fn a_family_draws_the_mean_to_itself_as_it_grows() {
        let all = profiles(20);
        let prior = SpeedPrior::fit(&all).unwrap();
        let steep = &all[18..];
        let one = prior.for_family(&steep[..1]).mean_at(0.5);
        let two = prior.for_family(steep).mean_at(0.5);
        assert!(two < one && one < prior.mean_at(0.5));
        assert!(steep[0].log_speed(0.5) < two);
        assert_eq!(prior.for_family(&[]).mean, prior.mean);
    }

    #[test]
    fn below_all_profiles_speed_falls_on_and_doubt_grows() {
        let prior = SpeedPrior::fit(&profiles(9)).unwrap();
        let lowest = prior.knots[0];
        assert!(prior.mean_at(0.9 * lowest) <= prior.mean_at(lowest) + 0.9f64.ln() + 1e-12);
        assert_eq!(prior.doubt_at(lowest), 0.0);
        assert!(prior.doubt_at(0.5 * lowest) > 0.3);
        assert!(SpeedPrior::fit(&[]).is_none());
    }

    #[test]
    fn a_stated_curve_is_the_mean() {
        let prior = SpeedPrior::fit(&profiles(9)).unwrap();
        let curve = SpeedCurve::envelope(&[(Watts(200.0), 0.5), (Watts(700.0), 1.0)]).unwrap();
        let stated = prior.around(&curve, Watts(700.0));
        assert!((stated.mean_at(1.0)).abs() < 1e-12);
        assert!((stated.mean_at(450.0 / 700.0).exp() - 0.75).abs() < 0.01);
        assert_eq!(stated.components, prior.components);
    }
}
