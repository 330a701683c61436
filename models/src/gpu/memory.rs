//! What was seen of a job, for keeping where its learner ends: a process that
//! starts anew goes on from there.

use super::learner::SpeedLearner;
use super::observation::Bins;
use crate::quantity::Watts;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Watts by which a range may have changed on its way through a file.
const SAME: f64 = 1e-6;

/// What a learner saw, without what it believes by its prior.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedMemory {
    /// The settable range under which it was seen.
    range: (Watts, Watts),
    throughput: Bins,
    clock: Bins,
}

impl SpeedMemory {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.throughput.is_empty() && self.clock.is_empty()
    }

    /// Whether a learner can have had it: it may have been read from a file.
    pub fn is_sound(&self) -> bool {
        self.throughput.is_sound() && self.clock.is_sound()
    }

    /// The same without what was seen by clocks.
    #[must_use]
    pub fn without_clocks(self) -> Self {
        Self {
            clock: Bins::default(),
            ..self
        }
    }
}

impl SpeedLearner {
    /// What still counts of all that was seen.
    pub fn memory(&self, now: Timestamp) -> SpeedMemory {
        let (throughput, clock) = self.bins();
        SpeedMemory {
            range: self.range(),
            throughput: throughput.counting(now),
            clock: clock.counting(now),
        }
    }

    /// Takes up what an earlier learner of the same job saw, in the place of what this
    /// one did. False, and nothing done, when it was seen under another settable range, which is
    /// another machine, or is not sound.
    pub fn recall(&mut self, memory: &SpeedMemory, now: Timestamp) -> bool {
        let (low, high) = self.range();
        let differs = |a: Watts, b: Watts| (a - b).0.abs() > SAME;
        let is_another = differs(low, memory.range.0) || differs(high, memory.range.1);
        if is_another || !memory.is_sound() {
            return false;
        }
        let (throughput, clock) = self.bins_mut();
        *throughput = memory.throughput.not_after(now);
        *clock = memory.clock.not_after(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{GpuModel, Observation, Source, SpeedPrior, WorkloadFamily};
    use std::time::Duration;

    const RANGE: (Watts, Watts) = (Watts(200.0), Watts(700.0));

    fn learner() -> SpeedLearner {
        let family = WorkloadFamily::LlmTraining;
        let prior = SpeedPrior::modelled(&GpuModel::h100_sxm(), family, RANGE);
        SpeedLearner::new(prior.unwrap(), RANGE)
    }

    fn seen() -> SpeedLearner {
        let mut learner = learner();
        for (step, cap) in [300.0, 450.0, 700.0, 300.0, 450.0].into_iter().enumerate() {
            for (source, rate) in [(Source::Throughput, 40.0), (Source::Clock, 0.8)] {
                assert!(learner.observe(&Observation {
                    cap: Watts(cap),
                    rate: rate * (cap / 700.0).powf(0.4),
                    source,
                    at: Timestamp(60_000 * step as i64),
                    weight: 1.0,
                }));
            }
        }
        learner
    }

    #[test]
    fn who_recalls_goes_on_as_who_never_ended() {
        let now = Timestamp(300_000);
        let text = serde_json::to_string(&seen().memory(now)).unwrap();
        let memory: SpeedMemory = serde_json::from_str(&text).unwrap();
        let (mut one, mut other) = (seen(), learner());
        assert!(other.recall(&memory, now));
        for learner in [&mut one, &mut other] {
            learner.observe(&Observation {
                cap: Watts(300.0),
                rate: 28.0,
                source: Source::Throughput,
                at: now,
                weight: 1.0,
            });
        }
        let (one, other) = (one.estimate(now), other.estimate(now));
        assert_eq!(one.seen, other.seen);
        // Figures may differ in their last digit on the way through a text.
        for cap in (200..=700).step_by(20) {
            let cap = Watts(f64::from(cap));
            assert!((one.curve.speed(cap) - other.curve.speed(cap)).abs() < 1e-9);
            assert!((one.lower.speed(cap) - other.lower.speed(cap)).abs() < 1e-9);
        }
    }

    #[test]
    fn what_counts_no_more_is_not_kept_and_what_cannot_be_is_not_recalled() {
        let now = Timestamp(300_000);
        assert!(learner().memory(now).is_empty());
        assert!(!seen().memory(now).is_empty());
        let long = now + Duration::from_secs(86_400);
        assert!(seen().memory(long).is_empty());
        assert_eq!(seen().memory(now).without_clocks().clock, Bins::default());
        // Another machine's.
        let family = WorkloadFamily::LlmTraining;
        let range = (Watts(100.0), Watts(400.0));
        let prior = SpeedPrior::modelled(&GpuModel::h100_sxm(), family, range).unwrap();
        assert!(!SpeedLearner::new(prior, range).recall(&seen().memory(now), now));
        let text = serde_json::to_value(seen().memory(now)).unwrap();
        for (field, wrong) in [
            ("cap", -1.0),
            ("cap", 0.0),
            ("weight", 0.0),
            ("weight", 1e300),
            ("spread", -1.0),
            ("mean", 1e6),
        ] {
            let mut text = text.clone();
            text["throughput"][0][field] = wrong.into();
            let memory: SpeedMemory = serde_json::from_value(text).unwrap();
            assert!(!memory.is_sound(), "{field}");
            assert!(!learner().recall(&memory, now));
        }
        let mut many = text;
        let first = many["throughput"][0].clone();
        many["throughput"] = vec![first; 500].into();
        let memory: SpeedMemory = serde_json::from_value(many).unwrap();
        assert!(!memory.is_sound());
    }

    /// The clock was set back between two runs: what was seen fades from now on.
    #[test]
    fn what_was_seen_in_the_future_is_taken_for_seen_now() {
        let before = Timestamp(0) - Duration::from_secs(86_400);
        let mut learner = learner();
        assert!(learner.recall(&seen().memory(Timestamp(300_000)), before));
        assert_ne!(learner.estimate(before).seen, (0, 0));
        let day_later = before + Duration::from_secs(86_400);
        assert_eq!(learner.estimate(day_later).seen, (0, 0));
    }
}
