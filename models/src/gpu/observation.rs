//! What was seen of a job's speed at its caps, in bounded memory: a
//! recency-weighted mean for each cap and source.

use crate::quantity::Watts;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// After this long an observation weighs half.
pub const HALF_LIFE: Duration = Duration::from_secs(45 * 60);
/// Caps remembered for each source; the one that weighs least goes first.
const BINS: usize = 10;
/// Caps closer than this share of the larger are one cap.
const SAME_CAP: f64 = 0.01;
/// Standard deviation of one observation of ln rate, before there are enough
/// to estimate it: of a throughput, and of a clock, which depends on the phase
/// in which the device was asked.
const THROUGHPUT_NOISE: f64 = 0.03;
const CLOCK_NOISE: f64 = 0.10;
/// How many observations that guess counts for.
const GUESSED: f64 = 6.0;
/// Observations in a row that must contradict what a cap had before, and by
/// how many standard deviations, until the job is taken to do other work.
const CONTRADICTIONS: u32 = 3;
const CONTRADICTS: f64 = 4.0;
/// What then remains of the weight of all that was seen before.
const AFTER_CHANGE: f64 = 0.02;
/// Weight (in fresh observations) below which a cap's mean is forgotten.
const FORGOTTEN: f64 = 0.02;
/// ln of a rate, and a weight, beyond which nothing was ever seen.
const LARGEST_LN: f64 = 300.0;
const LARGEST_WEIGHT: f64 = 1e9;

/// Systematic error of ln rate that averaging does not remove: a throughput
/// counts finished steps, warms up, waits for data.
const THROUGHPUT_BIAS: f64 = 0.01;
/// ln(speed) for one of ln(relative clock). Fitted to the RTX 4000 Ada sweep
/// (8 workloads, 30 to 130 W, mean clock while a kernel ran): 0.704; ten in a
/// hundred readings lie below 0.23 and above 0.85.
pub const CLOCK_TO_SPEED: f64 = 0.70;
/// By how much that differs between jobs: standard deviation in that sweep.
pub const CLOCK_SPREAD: f64 = 0.27;
/// Systematic error of ln clock itself.
const CLOCK_ERROR: f64 = 0.02;

/// How a rate came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The job counts its own work; any unit, the same all the time.
    Throughput,
    /// A stated proxy: the core clock relative to the highest, while a kernel
    /// runs, 0 to 1. It cannot tell waiting for memory from computing, and
    /// counts as that uncertain.
    Clock,
}

/// A job's rate under one cap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// Cap of each device of its gang, in force long enough to show.
    pub cap: Watts,
    /// Work per second, or relative clock: see the source. Above zero.
    pub rate: f64,
    /// How it was seen.
    pub source: Source,
    /// When.
    pub at: Timestamp,
    /// How much it counts; 1 for an ordinary one.
    pub weight: f64,
}

/// The mean at one cap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bin {
    pub cap: Watts,
    /// Mean of ln rate.
    pub mean: f64,
    /// Weight left at `at`, in fresh observations.
    weight: f64,
    /// Weighted sum of squared departures from the mean.
    spread: f64,
    at: Timestamp,
    contradicted: u32,
}

impl Source {
    fn noise(self) -> f64 {
        match self {
            Self::Throughput => THROUGHPUT_NOISE,
            Self::Clock => CLOCK_NOISE,
        }
    }
}

impl Bin {
    fn weight_at(&self, now: Timestamp) -> f64 {
        let age = now.seconds_since(self.at).max(0.0);
        self.weight * (-age / HALF_LIFE.as_secs_f64()).exp2()
    }

    /// Variance of one observation here.
    fn noise(&self, source: Source) -> f64 {
        (GUESSED * source.noise().powi(2) + self.spread) / (GUESSED + self.weight)
    }

    /// Variance of the mean at `now`: noise averaged, bias not.
    pub fn variance(&self, source: Source, now: Timestamp) -> f64 {
        let bias = match source {
            Source::Throughput => THROUGHPUT_BIAS,
            Source::Clock => CLOCK_ERROR,
        };
        bias * bias + self.noise(source) / self.weight_at(now).max(1e-6)
    }
}

/// Everything seen from one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Bins {
    bins: Vec<Bin>,
}

impl Bins {
    /// Takes an observation in; false when it is no number that could be one.
    pub fn add(&mut self, seen: &Observation) -> bool {
        let above = |value: f64| value.is_finite() && value > 0.0;
        if !(above(seen.rate) && above(seen.weight) && seen.cap.is_finite()) {
            return false;
        }
        let value = seen.rate.ln();
        let near = |bin: &Bin| (bin.cap - seen.cap).0.abs() <= SAME_CAP * bin.cap.max(seen.cap).0;
        let Some(place) = self.bins.iter().position(near) else {
            self.make_room(seen.at);
            self.bins.push(Bin {
                cap: seen.cap,
                mean: value,
                weight: seen.weight,
                spread: 0.0,
                at: seen.at,
                contradicted: 0,
            });
            return true;
        };
        let bin = &mut self.bins[place];
        let off = value - bin.mean;
        let usual =
            (bin.noise(seen.source) * (1.0 + 1.0 / bin.weight_at(seen.at).max(1e-6))).sqrt();
        if off.abs() > CONTRADICTS * usual {
            bin.contradicted += 1;
            if bin.contradicted < CONTRADICTIONS {
                // One outlier is noise and does not count; a row of them is a change.
                return true;
            }
            *bin = Bin {
                cap: seen.cap,
                mean: value,
                weight: seen.weight,
                spread: 0.0,
                at: seen.at,
                contradicted: 0,
            };
            self.discount(place);
            return true;
        }
        let before = bin.weight_at(seen.at);
        let fading = before / bin.weight.max(f64::MIN_POSITIVE);
        let after = before + seen.weight;
        bin.cap = bin.cap + (seen.cap - bin.cap) * (seen.weight / after);
        bin.mean += off * seen.weight / after;
        bin.spread = bin.spread * fading + off * off * seen.weight * before / after;
        bin.weight = after;
        bin.at = bin.at.max(seen.at);
        bin.contradicted = 0;
        true
    }

    /// The job does other work: what other caps had counts little from here on.
    fn discount(&mut self, but: usize) {
        for (place, bin) in self.bins.iter_mut().enumerate() {
            if place != but {
                bin.weight *= AFTER_CHANGE;
                bin.spread *= AFTER_CHANGE;
            }
        }
    }

    fn make_room(&mut self, now: Timestamp) {
        self.bins.retain(|b| b.weight_at(now) >= FORGOTTEN);
        if self.bins.len() >= BINS {
            let least = (self.bins.iter().enumerate())
                .min_by(|a, b| a.1.weight_at(now).total_cmp(&b.1.weight_at(now)));
            if let Some((place, _)) = least {
                self.bins.remove(place);
            }
        }
    }

    /// Whether nothing was seen.
    pub fn is_empty(&self) -> bool {
        self.bins.is_empty()
    }

    /// Whether it can have been seen; it may come from a file.
    pub fn is_sound(&self) -> bool {
        let is_sound = |bin: &Bin| {
            bin.cap.is_finite()
                && bin.cap > Watts::ZERO
                && bin.mean.abs() <= LARGEST_LN
                && bin.weight > 0.0
                && bin.weight <= LARGEST_WEIGHT
                && (0.0..f64::INFINITY).contains(&bin.spread)
        };
        self.bins.len() <= BINS && self.bins.iter().all(is_sound)
    }

    /// The same without what no longer counts.
    pub fn counting(&self, now: Timestamp) -> Self {
        Self { bins: self.at(now) }
    }

    /// The same with what lies in the future taken for seen now.
    pub fn not_after(&self, now: Timestamp) -> Self {
        let now_at_most = |bin: &Bin| Bin {
            at: bin.at.min(now),
            ..*bin
        };
        Self {
            bins: self.bins.iter().map(now_at_most).collect(),
        }
    }

    /// What still counts, by rising cap.
    pub fn at(&self, now: Timestamp) -> Vec<Bin> {
        let mut bins: Vec<Bin> = (self.bins.iter().copied())
            .filter(|b| b.weight_at(now) >= FORGOTTEN)
            .collect();
        bins.sort_by(|a, b| a.cap.total_cmp(&b.cap));
        bins
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(cap: f64, rate: f64, at: i64) -> Observation {
        Observation {
            cap: Watts(cap),
            rate,
            source: Source::Throughput,
            at: Timestamp(at * 1_000),
            weight: 1.0,
        }
    }

    #[test]
    fn caps_are_told_apart_and_memory_is_bounded() {
        let mut bins = Bins::default();
        for round in 0..50 {
            for step in 0..40 {
                let cap = 200.0 + 12.0 * f64::from(step);
                assert!(bins.add(&seen(cap, 100.0, round * 40 + i64::from(step))));
            }
        }
        let now = Timestamp(2_000_000);
        assert!(bins.at(now).len() <= BINS);
        assert!(bins.at(now).windows(2).all(|b| b[0].cap < b[1].cap));
        for wrong in [f64::NAN, 0.0, -1.0, f64::INFINITY] {
            assert!(!bins.add(&seen(300.0, wrong, 2_000)));
        }
    }

    #[test]
    fn more_observations_are_surer_and_old_ones_less() {
        let mut bins = Bins::default();
        bins.add(&seen(300.0, 100.0, 0));
        let one = bins.at(Timestamp(0))[0].variance(Source::Throughput, Timestamp(0));
        for at in 1..20 {
            bins.add(&seen(300.0, 100.0 + f64::from(at as i32 % 3), at));
        }
        let now = Timestamp(20_000);
        let many = bins.at(now)[0].variance(Source::Throughput, now);
        assert!(many < one / 2.0 && many > THROUGHPUT_BIAS.powi(2));
        let later = now + HALF_LIFE * 4;
        assert!(bins.at(later)[0].variance(Source::Throughput, later) > 2.0 * many);
        assert!(bins.at(now + HALF_LIFE * 20).is_empty());
    }

    #[test]
    fn an_outlier_is_ignored_and_a_change_of_work_is_believed() {
        let mut bins = Bins::default();
        for at in 0..30 {
            bins.add(&seen(300.0, 100.0, at));
            bins.add(&seen(500.0, 130.0, at));
        }
        bins.add(&seen(300.0, 10.0, 30));
        bins.add(&seen(300.0, 100.0, 31));
        let rate = |bins: &Bins, place: usize| bins.at(Timestamp(40_000))[place].mean.exp();
        assert!((rate(&bins, 0) - 100.0).abs() < 0.5);
        for at in 32..36 {
            bins.add(&seen(300.0, 20.0, at));
        }
        assert!((rate(&bins, 0) - 20.0).abs() < 0.5);
        let now = Timestamp(40_000);
        let old = bins.at(now)[1].variance(Source::Throughput, now);
        assert!(
            old > 4.0 * THROUGHPUT_BIAS.powi(2),
            "the other cap is doubted: {old}"
        );
    }
}
