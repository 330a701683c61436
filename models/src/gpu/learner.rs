//! A job's speed against its cap, learned while it runs.
//!
//! ln of the speed relative to that under the highest cap is held at a few
//! knots as a normal distribution: first the prior's, then conditioned on the
//! mean rates seen under each cap. A throughput has a unit of its own, so its
//! scale is one more unknown, of which nothing is assumed; a clock is relative
//! already, but how much speed follows it is the job's own and unknown too
//! (and learned where the job reports throughput as well). The mean at the knots is then drawn to the nearest concave,
//! non-decreasing function, each knot weighing by how sure it is; so are the
//! bounds, from two standard deviations either way.
//!
//! Pure and without a clock: `now` only says how old observations are.

use super::concave::concave_fit;
use super::gaussian::Gaussian;
use super::observation::{Bin, Bins, CLOCK_SPREAD, CLOCK_TO_SPEED, Observation, Source};
use super::prior::{KNOTS, OWN_LENGTH, SpeedPrior};
use crate::curve::SpeedCurve;
use crate::quantity::Watts;
use crate::time::Timestamp;

/// Standard deviations between a curve and its bounds.
pub const BOUND: f64 = 2.0;
/// Standard deviation of ln of a throughput's unknown scale, about a first
/// guess: a factor of twenty either way, which is to say nothing.
const SCALE_UNKNOWN: f64 = 3.0;
/// Variance of ln speed below which a knot weighs no more in the regression.
const SURE: f64 = 1e-4;

/// What is believed of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeedLearner {
    prior: SpeedPrior,
    /// What the prior's spread may be multiplied by; what is seen decides.
    spreads: Vec<f64>,
    low: Watts,
    high: Watts,
    throughput: Bins,
    clock: Bins,
}

/// A curve and how sure it is.
#[derive(Clone, Debug, PartialEq)]
pub struct SpeedEstimate {
    /// Relative speed against cap, as believed.
    pub curve: SpeedCurve,
    /// Nowhere above the curve; what promises are made on.
    pub lower: SpeedCurve,
    /// Nowhere below the curve.
    pub upper: SpeedCurve,
    /// Rate at full speed in the unit that the job reports; `None` while it reports none.
    pub full_rate: Option<f64>,
    /// Largest standard deviation of ln speed within the range.
    pub doubt: f64,
    /// Caps of which something is known, by throughput and by clock.
    pub seen: (usize, usize),
}

/// Distribution of ln speed at the knots; behind them that of ln scale, and of
/// how much more speed follows the clock than it usually does.
#[derive(Clone, Debug)]
pub(super) struct Belief {
    pub caps: Vec<Watts>,
    pub gaussian: Gaussian,
    pub throughput: Vec<Bin>,
    clocks: usize,
}

impl SpeedLearner {
    /// Of a job on devices with this settable range. A range that is empty or
    /// upside down is taken as the single cap `range.1`.
    pub fn new(prior: SpeedPrior, range: (Watts, Watts)) -> Self {
        Self {
            prior,
            spreads: vec![1.0],
            low: range.0.min(range.1),
            high: range.1,
            throughput: Bins::default(),
            clock: Bins::default(),
        }
    }

    /// Of a job for which a curve is stated. It is taken to lie nearer to that
    /// curve than jobs of its family lie to each other, by the factor `trust`,
    /// until what is seen is likelier if it does not (the larger evidence decides).
    pub fn stated(
        prior: &SpeedPrior,
        curve: &SpeedCurve,
        trust: f64,
        range: (Watts, Watts),
    ) -> Self {
        Self {
            spreads: vec![trust, 1.0],
            ..Self::new(prior.around(curve, range.1), range)
        }
    }

    /// Settable range that it speaks of.
    pub fn range(&self) -> (Watts, Watts) {
        (self.low, self.high)
    }

    /// What was seen, by throughput and by clock.
    pub(super) fn bins(&self) -> (&Bins, &Bins) {
        (&self.throughput, &self.clock)
    }

    pub(super) fn bins_mut(&mut self) -> (&mut Bins, &mut Bins) {
        (&mut self.throughput, &mut self.clock)
    }

    /// Takes an observation in; false when it cannot be one and is left out.
    pub fn observe(&mut self, seen: &Observation) -> bool {
        match seen.source {
            Source::Throughput => self.throughput.add(seen),
            // A clock above the highest is the highest.
            Source::Clock => self.clock.add(&Observation {
                rate: seen.rate.min(1.0),
                ..*seen
            }),
        }
    }

    /// What is believed now.
    pub fn estimate(&self, now: Timestamp) -> SpeedEstimate {
        let belief = self.belief(now);
        let size = belief.caps.len();
        let x: Vec<f64> = belief.caps.iter().map(|c| c.0).collect();
        let mean = &belief.gaussian.mean;
        let deviation: Vec<f64> = (0..size).map(|k| belief.deviation(k)).collect();
        let weight: Vec<f64> = deviation.iter().map(|d| 1.0 / (d * d + SURE)).collect();
        let middle: Vec<f64> = mean[..size].iter().map(|m| m.exp()).collect();
        let mut curve = concave_fit(&x, &middle, &weight);
        let full = curve.last().copied().unwrap_or(1.0).max(1e-6);
        curve.iter_mut().for_each(|s| *s /= full);

        let below: Vec<f64> = (0..size)
            .map(|k| (mean[k] - BOUND * deviation[k]).exp().min(curve[k]))
            .collect();
        let mut lower = concave_fit(&x, &below, &weight);
        // A multiple of a concave function is one: none may stand above its bound.
        let share = (below.iter().zip(&lower))
            .map(|(b, l)| b / l.max(1e-12))
            .fold(1.0f64, f64::min);
        lower.iter_mut().for_each(|l| *l *= share);
        let above = (0..size).map(|k| (mean[k] + BOUND * deviation[k]).exp().max(curve[k]));
        let upper: Vec<f64> = above.collect();

        let full_rate = (!belief.throughput.is_empty()).then(|| mean[size].exp());
        SpeedEstimate {
            curve: as_curve(&belief.caps, &curve),
            lower: as_curve(&belief.caps, &lower),
            upper: as_curve(&belief.caps, &upper),
            full_rate,
            doubt: deviation.iter().copied().fold(0.0, f64::max),
            seen: (belief.throughput.len(), belief.clocks),
        }
    }

    /// The prior conditioned on everything seen.
    pub(super) fn belief(&self, now: Timestamp) -> Belief {
        let caps = self.caps();
        let throughput = self.throughput.at(now);
        let clocks = self.clock.at(now);
        let mut gaussian = None;
        let mut evidence = f64::NEG_INFINITY;
        for spread in &self.spreads {
            let mut of_this = self.before(&caps, *spread);
            let likely = condition(&mut of_this, &caps, &throughput, &clocks, now);
            if gaussian.is_none() || likely > evidence {
                gaussian = Some(of_this);
                evidence = likely;
            }
        }
        Belief {
            gaussian: gaussian.unwrap_or_else(|| self.before(&caps, 1.0)),
            caps,
            throughput,
            clocks: clocks.len(),
        }
    }

    fn caps(&self) -> Vec<Watts> {
        let width = self.high - self.low;
        if width.0 <= 0.0 {
            return vec![self.high];
        }
        (0..KNOTS)
            .map(|k| match k + 1 {
                KNOTS => self.high,
                _ => self.low + width * (k as f64 / (KNOTS - 1) as f64),
            })
            .collect()
    }

    /// The prior at the knots, with speed 1 at the highest cap.
    fn before(&self, caps: &[Watts], spread: f64) -> Gaussian {
        let size = caps.len();
        let prior = self.prior.clone().spread_by(spread);
        let own = prior.own;
        let shares: Vec<f64> = caps.iter().map(|c| c.0 / self.high.0.max(1e-9)).collect();
        let parts: Vec<Vec<f64>> = (shares.iter())
            .map(|s| {
                let mut parts = prior.components_at(*s);
                parts.push(prior.doubt_at(*s));
                parts
            })
            .collect();
        let mut covariance = vec![vec![0.0; size + 2]; size + 2];
        for i in 0..size {
            for j in 0..size {
                let shared = super::gaussian::dot(&parts[i], &parts[j]);
                let apart = (shares[i] - shares[j]) / OWN_LENGTH;
                covariance[i][j] = shared + own * own * (-0.5 * apart * apart).exp();
            }
        }
        covariance[size][size] = SCALE_UNKNOWN * SCALE_UNKNOWN;
        covariance[size + 1][size + 1] = CLOCK_SPREAD * CLOCK_SPREAD;
        let mut mean: Vec<f64> = shares.iter().map(|s| prior.mean_at(*s)).collect();
        mean.extend([0.0, 0.0]);
        let mut gaussian = Gaussian { mean, covariance };
        gaussian.observe(&form(caps, self.high, 0.0, 0.0), 0.0, 1e-10);
        gaussian
    }
}

impl Belief {
    /// Standard deviation of ln speed at a knot.
    pub fn deviation(&self, knot: usize) -> f64 {
        self.gaussian.covariance[knot][knot].max(0.0).sqrt()
    }
}

/// Takes in the means of all caps seen; ln of how likely they were together.
fn condition(
    gaussian: &mut Gaussian,
    caps: &[Watts],
    throughput: &[Bin],
    clocks: &[Bin],
    now: Timestamp,
) -> f64 {
    let size = caps.len();
    if let Some(first) = throughput.first() {
        let form = form(caps, first.cap, 0.0, 0.0);
        gaussian.mean[size] = first.mean - gaussian.of(&form).0;
    }
    let mut likely = 0.0;
    for bin in throughput {
        let form = form(caps, bin.cap, 1.0, 0.0);
        likely += gaussian.observe(&form, bin.mean, bin.variance(Source::Throughput, now));
    }
    for bin in clocks {
        let form = form(caps, bin.cap, 0.0, -bin.mean);
        let variance = bin.variance(Source::Clock, now);
        likely += gaussian.observe(&form, CLOCK_TO_SPEED * bin.mean, variance);
    }
    likely
}

/// ln speed at a cap as a linear form of the knots, with so many times the two
/// numbers behind them on top.
pub(super) fn form(caps: &[Watts], cap: Watts, scale: f64, clock: f64) -> Vec<f64> {
    let mut form = vec![0.0; caps.len() + 2];
    let upper = caps.partition_point(|c| *c < cap);
    if upper == 0 {
        form[0] = 1.0;
    } else if upper == caps.len() {
        form[upper - 1] = 1.0;
    } else {
        let along = (cap - caps[upper - 1]) / (caps[upper] - caps[upper - 1]);
        form[upper - 1] = 1.0 - along;
        form[upper] = along;
    }
    form[caps.len()] = scale;
    form[caps.len() + 1] = clock;
    form
}

fn as_curve(caps: &[Watts], speeds: &[f64]) -> SpeedCurve {
    let points: Vec<(Watts, f64)> = caps.iter().copied().zip(speeds.iter().copied()).collect();
    SpeedCurve::envelope(&points).unwrap_or_else(SpeedCurve::unaffected)
}

#[cfg(test)]
mod tests;
