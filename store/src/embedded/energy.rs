//! The energy of a power's readings: the trapezoid between neighbouring values of
//! one file, over gaps no longer than [`GAP_LIMIT`](super::steps::GAP_LIMIT) median
//! spacings, as part of the steps that it lies in.

use super::bucket::Bucket;
use super::codec::{ABSENT, ESTIMATED, has_value};
use super::condense::{Readings, TIERS, begin_of};
use super::head::Sample;
use super::manifest::Tier;
use super::steps::Spacings;

/// Energy within a minute.
#[derive(Clone, Copy, Default)]
struct Energy {
    measured: f64,
    guessed: f64,
    known: u64,
}

/// Energy between neighbouring values, split at the borders of minutes.
pub fn integrate(
    readings: Readings<'_>,
    steps: [&[i64]; TIERS],
    buckets: &mut [Vec<Bucket>; TIERS],
) {
    let minute = Tier::Minute.step_ms();
    let mut spacings = Spacings::default();
    let rows = || readings.times.iter().zip(readings.states);
    for (at, _) in rows().filter(|(_, state)| has_value(**state)) {
        spacings.note(*at);
    }
    let limit = spacings.gap_limit();
    let mut places = [0; TIERS];
    let mut give = |begin: i64, energy: Energy| {
        for (tier, place) in places.iter_mut().enumerate() {
            let (steps, first) = (steps[tier], begin_of(begin, Tier::ROLLUPS[tier].step_ms()));
            while *place + 1 < steps.len() && steps[*place] < first {
                *place += 1;
            }
            // A step without any row has no place; what passes through it stays unknown.
            let bucket = buckets[tier].get_mut(*place);
            if let Some(bucket) = bucket.filter(|_| steps[*place] == first) {
                bucket.measured += energy.measured;
                bucket.guessed += energy.guessed;
                bucket.known += energy.known;
            }
        }
    };
    let mut before: Option<Sample> = None;
    let mut bridged = false;
    let (mut begin, mut energy) = (i64::MIN, Energy::default());
    for ((at, state), value) in rows().zip(readings.values) {
        if !has_value(*state) {
            bridged |= *state != ABSENT;
            continue;
        }
        let (at, state, value) = (*at, *state, *value);
        let guessed = std::mem::take(&mut bridged) || state == ESTIMATED;
        let Some(from) = before.replace(Sample { at, state, value }) else {
            continue;
        };
        let span = at.wrapping_sub(from.at) as u64;
        if span > limit {
            continue;
        }
        let guessed = guessed || from.state == ESTIMATED;
        let slope = (value - from.value) / span as f64;
        let mut t = from.at;
        while t < at {
            if t >= begin.saturating_add(minute) || begin == i64::MIN {
                give(begin, std::mem::take(&mut energy));
                begin = begin_of(t, minute);
            }
            let next = begin.saturating_add(minute).min(at);
            let value_at = |t: i64| from.value + slope * (t - from.at) as f64;
            let (first, last) = match (t == from.at, next == at) {
                (true, true) => (from.value, value),
                _ => (value_at(t), value_at(next)),
            };
            let part = next.wrapping_sub(t) as u64;
            let joules = (first + last) / 2.0 * (part as f64 / 1e3);
            energy.known += part;
            if guessed {
                energy.guessed += joules;
            } else {
                energy.measured += joules;
            }
            t = next;
        }
    }
    give(begin, energy);
}
