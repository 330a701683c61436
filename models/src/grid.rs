//! How clean the grid's power is: from a generation mix to carbon intensity
//! and renewable share. Pure functions; the data comes from elsewhere.
//!
//! The intensity of a zone is the mean of its sources' emission factors,
//! weighted with their generation:
//!
//! ```text
//! intensity = sum over s of  P_s · f_s  /  sum over s of  P_s
//! ```
//!
//! **Pumped storage and batteries** are left out above and below the line. That
//! is the same as counting what they give back at the zone's mean, which is how
//! Electricity Maps treats storage. What they take up is not in these data.
//! **Imports** are not in it either: this is the mix that the zone produces.
//! **Negative generation** (a plant that draws more than it gives) counts as 0.
//!
//! **Gaps.** A source that is not in the mix at all is not used in the zone. A
//! source that is in it without a value is a gap, and no gap is filled silently:
//!
//! 1. its last value is carried on for up to [`CARRY`]; the result is Estimated;
//! 2. longer gaps of a source with a usual share up to [`SMALL_SHARE`] leave it
//!    out; the result is Estimated, and wrong by little;
//! 3. otherwise the result is Missing.

mod factors;
mod source;

pub use factors::{EmissionFactors, Factor};
pub use source::Source;

use crate::reading::Reading;
use crate::time::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the last value of a source stands in for a gap. Three hours: the
/// error of the intensity by then is about that of a day-ahead forecast.
pub const CARRY: Duration = Duration::from_secs(3 * 3_600);

/// The usual share up to which a source may be left out. At 2 % the intensity
/// moves by at most 2 % of the distance between the source's factor and the mean.
pub const SMALL_SHARE: f64 = 0.02;

/// What a zone generates at one instant, by source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mix {
    megawatts: BTreeMap<Source, Option<f64>>,
}

impl Mix {
    /// An empty mix.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a source's generation in MW; `None` is a gap. Not finite is a gap too.
    pub fn set(&mut self, source: Source, megawatts: Option<f64>) {
        self.megawatts
            .insert(source, megawatts.filter(|mw| mw.is_finite()));
    }

    /// A source's generation in MW: outer `None` when the zone does not have
    /// it, inner `None` for a gap.
    pub fn get(&self, source: Source) -> Option<Option<f64>> {
        self.megawatts.get(&source).copied()
    }

    /// All sources of the zone.
    pub fn iter(&self) -> impl Iterator<Item = (Source, Option<f64>)> + '_ {
        self.megawatts.iter().map(|(source, mw)| (*source, *mw))
    }

    /// Sum over the sources that have a value and are no storage, in MW.
    pub fn known_megawatts(&self) -> f64 {
        (self.iter())
            .filter(|(source, _)| !source.is_storage())
            .filter_map(|(_, mw)| mw)
            .map(|mw| mw.max(0.0))
            .sum()
    }
}

impl FromIterator<(Source, Option<f64>)> for Mix {
    fn from_iter<I: IntoIterator<Item = (Source, Option<f64>)>>(items: I) -> Self {
        let mut mix = Self::new();
        for (source, mw) in items {
            mix.set(source, mw);
        }
        mix
    }
}

/// What a mix means. All three are of one quality.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixIndicators {
    /// Life-cycle intensity in gCO2e/kWh.
    pub life_cycle: Reading,
    /// Direct intensity in gCO2e/kWh.
    pub direct: Reading,
    /// Share of generation that counts as renewable, 0 to 1.
    pub renewable_share: Reading,
}

impl MixIndicators {
    const MISSING: Self = Self {
        life_cycle: Reading::Missing,
        direct: Reading::Missing,
        renewable_share: Reading::Missing,
    };
}

/// The indicators of a mix of which nothing earlier is known: any gap makes
/// them Missing. [`MixHistory`] can do better.
pub fn indicators(mix: &Mix, factors: &EmissionFactors) -> MixIndicators {
    MixHistory::default().indicators(Timestamp::default(), mix, factors)
}

/// What was seen of a zone so far; lets gaps be judged.
#[derive(Clone, Debug, Default)]
pub struct MixHistory {
    seen: BTreeMap<Source, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Timestamp,
    megawatts: f64,
    /// Usual share of the zone's generation.
    share: f64,
}

/// Weight of a new observation in the usual share: the memory is some 200
/// observations, two days at 15 min and a week at 60 min.
const SHARE_MEMORY: f64 = 1.0 / 200.0;

impl MixHistory {
    /// Takes a mix in. Mixes must come in the order of time; an older one than
    /// the last is ignored source by source.
    pub fn observe(&mut self, at: Timestamp, mix: &Mix) {
        let gapless = mix.iter().all(|(_, mw)| mw.is_some());
        let total = mix.known_megawatts();
        for (source, megawatts) in mix.iter() {
            let Some(megawatts) = megawatts else { continue };
            let before = self.seen.get(&source).copied();
            if before.is_some_and(|seen| seen.at > at) {
                continue;
            }
            // Shares of an incomplete sum would be too large.
            let now = (gapless && total > 0.0).then(|| megawatts.max(0.0) / total);
            let share = match (before, now) {
                (Some(seen), Some(now)) => seen.share + SHARE_MEMORY * (now - seen.share),
                (Some(seen), None) => seen.share,
                (None, Some(now)) => now,
                // Nothing is known of it: not small.
                (None, None) => 1.0,
            };
            let seen = Seen {
                at,
                megawatts,
                share,
            };
            self.seen.insert(source, seen);
        }
    }

    /// What a mix means at an instant; only what was observed before counts.
    pub fn indicators(&self, at: Timestamp, mix: &Mix, factors: &EmissionFactors) -> MixIndicators {
        let mut estimated = false;
        let (mut total, mut life_cycle, mut direct, mut renewable) = (0.0, 0.0, 0.0, 0.0);
        for (source, megawatts) in mix.iter() {
            // Storage counts as the zone's mean, gap or not.
            if source.is_storage() {
                continue;
            }
            let megawatts = match megawatts {
                Some(megawatts) => megawatts,
                None => {
                    estimated = true;
                    match self.seen.get(&source) {
                        Some(seen) if at <= seen.at + CARRY => seen.megawatts,
                        Some(seen) if seen.share <= SMALL_SHARE => continue,
                        _ => return MixIndicators::MISSING,
                    }
                }
            }
            .max(0.0);
            let Some(factor) = factors.get(source) else {
                return MixIndicators::MISSING;
            };
            total += megawatts;
            life_cycle += megawatts * factor.life_cycle.get();
            direct += megawatts * factor.direct.get();
            renewable += megawatts * factor.renewable;
        }
        if total <= 0.0 {
            return MixIndicators::MISSING;
        }
        let reading = |sum: f64| {
            if estimated {
                Reading::Estimated(sum / total)
            } else {
                Reading::Measured(sum / total)
            }
        };
        MixIndicators {
            life_cycle: reading(life_cycle),
            direct: reading(direct),
            renewable_share: reading(renewable),
        }
    }
}

#[cfg(test)]
mod tests;
