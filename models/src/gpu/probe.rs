//! Which cap to try next, so that most is learned and little is lost.
//!
//! The next cap is the one that narrows the distribution of the whole curve
//! most (active learning by expected variance reduction: Cohn, Ghahramani and
//! Jordan, *Active Learning with Statistical Models*, 1996), among those that
//! the job's slowdown budget and service floor allow. How much a cap would
//! narrow it does not depend on what will be seen, so the choice is
//! deterministic.

use super::gaussian::dot;
use super::learner::{BOUND, SpeedLearner, form};
use crate::quantity::Watts;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Standard deviations by which a probe must clear the service floor.
const FLOOR_CLEARANCE: f64 = 3.0;
/// Variance of what a probe will say: bias of a throughput, and noise of some reports.
const PROBE_VARIANCE: f64 = 2e-4;
/// Mean reduction of variance a knot below which there is nothing to learn
/// that an allocation would notice: a standard deviation of 0.5 %.
const WORTHWHILE: f64 = 0.005 * 0.005;
/// Caps closer than this share of the range to one that was seen teach nothing new.
const NEAR: f64 = 0.04;

/// What probing a job may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProbePolicy {
    /// Most probes of one job.
    pub most: u32,
    /// How long a probe lasts.
    pub lasts: Duration,
    /// Time that the job may lose by all its probes together, against running on as it does.
    pub slowdown: Duration,
    /// Lowest relative speed that is acceptable (its class's floor).
    pub floor_speed: f64,
    /// Highest cap there is room for; above the present one only where power is to spare.
    pub highest: Watts,
}

impl ProbePolicy {
    /// Four probes of a minute that together lose at most a minute.
    pub fn usual(floor_speed: f64, highest: Watts) -> Self {
        Self {
            most: 4,
            lasts: Duration::from_secs(60),
            slowdown: Duration::from_secs(60),
            floor_speed,
            highest,
        }
    }
}

/// What probing a job has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeLedger {
    /// Probes made.
    pub made: u32,
    /// Seconds that they may have lost at the worst, by what was believed then.
    pub lost: f64,
}

/// A cap to try.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Which.
    pub cap: Watts,
    /// Seconds of work it will lose, as believed; negative when it gains.
    pub expected_loss: f64,
    /// Seconds it may lose: two standard deviations, and never taken for less
    /// than a speed in proportion to power would lose, which is the most for any
    /// concave curve.
    pub worst_loss: f64,
    /// Mean variance of ln speed that it takes away at each knot.
    pub learns: f64,
}

impl ProbeLedger {
    /// Of a job of which nothing more may be asked.
    pub const SPENT: Self = Self {
        made: u32::MAX,
        lost: 1e12,
    };

    /// Whether it can be one; it may come from a file.
    pub fn is_sound(&self) -> bool {
        (0.0..f64::INFINITY).contains(&self.lost)
    }

    /// A probe was made.
    pub fn charge(&mut self, probe: &Probe) {
        self.made = self.made.saturating_add(1);
        self.lost += probe.worst_loss;
    }
}

impl SpeedLearner {
    /// The next cap to try for a job that runs under `present`, or `None`: the
    /// budget is spent, no cap is safe, or nothing worth the trouble is left to learn.
    pub fn next_probe(
        &self,
        now: Timestamp,
        present: Watts,
        spent: &ProbeLedger,
        policy: &ProbePolicy,
    ) -> Option<Probe> {
        if spent.made >= policy.most {
            return None;
        }
        let (low, high) = self.range();
        let belief = self.belief(now);
        let knots = belief.caps.len();
        let near = (high - low) * NEAR;
        let left = policy.slowdown.as_secs_f64() - spent.lost;
        let here = form(&belief.caps, present, 0.0, 0.0);
        let mut best: Option<Probe> = None;
        for cap in &belief.caps {
            let known = (belief.throughput.iter()).any(|b| (b.cap - *cap).0.abs() < near.0);
            if known || (*cap - present).0.abs() < near.0 || *cap > policy.highest {
                continue;
            }
            let there = form(&belief.caps, *cap, 0.0, 0.0);
            let (mean, deviation) = belief.gaussian.of(&there);
            if (mean - FLOOR_CLEARANCE * deviation).exp() < policy.floor_speed {
                continue;
            }
            let change: Vec<f64> = there.iter().zip(&here).map(|(t, h)| t - h).collect();
            let (mean, deviation) = belief.gaussian.of(&change);
            let seconds = policy.lasts.as_secs_f64();
            let by_belief = 1.0 - (mean - BOUND * deviation).exp();
            let by_proportion = 1.0 - *cap / present;
            let worst_loss = seconds * by_belief.max(by_proportion).max(0.0);
            if worst_loss > left {
                continue;
            }
            let seen = form(&belief.caps, *cap, 1.0, 0.0);
            let along = belief.gaussian.along(&seen);
            let total = dot(&seen, &along) + PROBE_VARIANCE;
            let learns = dot(&along[..knots], &along[..knots]) / total / knots as f64;
            if learns >= WORTHWHILE && best.is_none_or(|b| learns > b.learns) {
                best = Some(Probe {
                    cap: *cap,
                    expected_loss: seconds * (1.0 - mean.exp()),
                    worst_loss,
                    learns,
                });
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::learner::SpeedEstimate;
    use crate::gpu::{GpuModel, Observation, Source, SpeedPrior, WorkloadFamily};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    const RANGE: (Watts, Watts) = (Watts(200.0), Watts(700.0));

    static PRIOR: LazyLock<SpeedPrior> = LazyLock::new(|| {
        SpeedPrior::modelled(&GpuModel::h100_sxm(), WorkloadFamily::LlmTraining, RANGE).unwrap()
    });

    fn prior() -> SpeedPrior {
        PRIOR.clone()
    }

    /// Probes a job of this truth until nothing is left to try; what was lost in truth.
    fn probe_all(
        truth: &dyn Fn(f64) -> f64,
        present: f64,
        policy: &ProbePolicy,
    ) -> (Vec<f64>, f64, SpeedEstimate) {
        let mut learner = SpeedLearner::new(prior(), RANGE);
        let mut ledger = ProbeLedger::default();
        let mut at = Timestamp(0);
        let see = |learner: &mut SpeedLearner, cap: f64, at: Timestamp| {
            assert!(learner.observe(&Observation {
                cap: Watts(cap),
                rate: 1_234.0 * truth(cap),
                source: Source::Throughput,
                at,
                weight: 10.0,
            }));
        };
        see(&mut learner, present, at);
        let (mut caps, mut lost) = (Vec::new(), 0.0);
        while let Some(probe) = learner.next_probe(at, Watts(present), &ledger, policy) {
            let seconds = policy.lasts.as_secs_f64();
            lost += seconds * (1.0 - truth(probe.cap.0) / truth(present)).max(0.0);
            assert!(probe.expected_loss <= probe.worst_loss + 1e-9);
            ledger.charge(&probe);
            at = at + policy.lasts;
            see(&mut learner, probe.cap.0, at);
            caps.push(probe.cap.0);
        }
        (caps, lost, learner.estimate(at))
    }

    proptest! {
        #[test]
        fn probing_keeps_to_its_budget_its_number_and_its_room(
            bend in 0.05..1.0f64, knee in 250.0..900.0f64, present in 200.0..700.0f64,
            budget in 0.0..120.0f64, most in 0u32..6, highest in 200.0..700.0f64,
        ) {
            // Concave for every bend up to 1, flat above the knee.
            let truth = |cap: f64| (cap.min(knee) / 700.0).powf(bend);
            let policy = ProbePolicy {
                most,
                slowdown: Duration::from_secs_f64(budget),
                ..ProbePolicy::usual(0.0, Watts(highest))
            };
            let (caps, lost, _) = probe_all(&truth, present, &policy);
            prop_assert!(caps.len() <= most as usize);
            prop_assert!(lost <= budget + 1e-6, "{lost} of {budget}: {caps:?}");
            prop_assert!(caps.iter().all(|c| *c <= highest && *c >= 200.0));
            for (i, cap) in caps.iter().enumerate() {
                prop_assert!(caps[..i].iter().all(|c| (c - cap).abs() > 15.0), "twice: {caps:?}");
            }
        }

        #[test]
        fn probing_stays_above_the_floor(
            draw in prop::collection::vec(-1.7..1.7f64, 3), present in 350.0..700.0f64,
            floor in 0.2..0.8f64,
        ) {
            // A job of the population that the prior speaks of.
            let prior = prior();
            let truth = |cap: f64| {
                let share = cap / 700.0;
                let parts = prior.components_at(share);
                let off: f64 = parts.iter().zip(&draw).map(|(p, d)| p * d).sum();
                (prior.mean_at(share) + off).exp().min(1.0)
            };
            let policy = ProbePolicy::usual(floor, RANGE.1);
            let (caps, _, _) = probe_all(&truth, present, &policy);
            for cap in caps {
                prop_assert!(truth(cap) >= floor - 0.01, "{} at {cap} below {floor}", truth(cap));
            }
        }
    }

    #[test]
    fn four_probes_find_a_curve_that_is_far_from_the_prior() {
        let flat = |cap: f64| (cap.min(260.0) / 260.0).powf(0.5);
        let (caps, _, found) = probe_all(&flat, 420.0, &ProbePolicy::usual(0.0, RANGE.1));
        assert!((1..=4).contains(&caps.len()), "{caps:?}");
        for cap in (300..=700).step_by(50) {
            let off = found.curve.speed(Watts(f64::from(cap))) - flat(f64::from(cap));
            assert!(off.abs() < 0.04, "{off} at {cap} after {caps:?}");
        }
    }

    #[test]
    fn what_is_known_is_not_probed() {
        let mut learner = SpeedLearner::new(prior(), RANGE);
        for step in 0..10 {
            let cap = Watts(200.0 + 500.0 * f64::from(step) / 9.0);
            learner.observe(&Observation {
                cap,
                rate: 5.0 * (cap.0 / 700.0).sqrt(),
                source: Source::Throughput,
                at: Timestamp(0),
                weight: 100.0,
            });
        }
        let ledger = ProbeLedger::default();
        let policy = ProbePolicy::usual(0.3, RANGE.1);
        let probe = learner.next_probe(Timestamp(0), Watts(450.0), &ledger, &policy);
        assert_eq!(probe, None);
    }
}
