//! Synthetic outdoor temperature from latitude, day and hour.
//!
//! This is no forecast and no record: it stands in for the weather where the
//! twin runs without one, and every figure made with it is synthetic. It is
//! the sum of an annual mean, a yearly and a daily wave, and a slow random
//! part for passing weather that is a pure function of the instant and a seed.
//!
//! The coefficients are for Europe between 36 and 65 degrees north, near sea
//! level, set by hand to annual means and swings.
//! `tests/weather_against_data.rs` recomputes how far hourly values are off in
//! five cities: 2.6 to 3.1 K in the mean, with a bias of -1.3 to +0.5 K (the
//! passing weather of a given day cannot agree).

use crate::quantity::Celsius;
use crate::time::Timestamp;

const DAY: f64 = 86_400.0;
/// Days of 1970-01-01 to now, counted in mean years.
const YEAR: f64 = 365.2425 * DAY;

/// Mean over a year at a latitude.
pub fn annual_mean(latitude: f64) -> Celsius {
    Celsius(19.0 - 0.56 * (latitude.abs() - 37.0))
}

/// Temperature at an instant. `longitude` only shifts the hour of the day.
pub fn outdoor(latitude: f64, longitude: f64, at: Timestamp, seed: u64) -> Celsius {
    let seconds = at.seconds();
    let hemisphere = if latitude < 0.0 { -1.0 } else { 1.0 };
    // Coldest around 18 January, warmest half a year later.
    let season = (seconds / YEAR - 17.5 / 365.2425) * std::f64::consts::TAU;
    let yearly = -hemisphere * (8.2 + 0.10 * (latitude.abs() - 37.0)) * season.cos();
    // Local solar time; warmest at 15:00. Days swing more in summer.
    let hour = (seconds / DAY + longitude / 360.0).fract() * 24.0;
    let swing = 3.4 - 1.4 * hemisphere * season.cos();
    let daily = swing * ((hour - 15.0) / 24.0 * std::f64::consts::TAU).cos();
    let passing = 2.4 * smooth_noise(seconds / (2.5 * DAY), seed);
    annual_mean(latitude) + Celsius(yearly + daily + passing)
}

/// Value noise: random numbers at whole positions, joined smoothly; about -1 to 1.
fn smooth_noise(position: f64, seed: u64) -> f64 {
    let base = position.floor();
    let part = position - base;
    let ease = part * part * (3.0 - 2.0 * part);
    let at = |index: i64| {
        // SplitMix64 of the index and the seed.
        let mut z = (index as u64)
            .wrapping_add(seed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    let (low, high) = (at(base as i64), at(base as i64 + 1));
    low + (high - low) * ease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp::parse(text).unwrap()
    }

    #[test]
    fn summers_are_warm_nights_cold_and_the_north_cooler() {
        for seed in 0..20 {
            let noon = outdoor(50.0, 8.0, at("2019-07-15T14:00:00Z"), seed);
            assert!(noon > outdoor(50.0, 8.0, at("2019-07-15T02:00:00Z"), seed));
            assert!(noon > outdoor(50.0, 8.0, at("2019-01-15T14:00:00Z"), seed));
            assert!(outdoor(64.0, 8.0, at("2019-07-15T14:00:00Z"), seed) < noon);
            // South of the equator the year is turned round.
            assert!(
                outdoor(-35.0, 18.0, at("2019-01-15T12:00:00Z"), seed)
                    > outdoor(-35.0, 18.0, at("2019-07-15T12:00:00Z"), seed)
            );
        }
    }

    #[test]
    fn is_continuous_and_the_same_for_the_same_seed() {
        let start = at("2018-06-01");
        for minute in 0..20_000 {
            let now = Timestamp(start.0 + minute * 60_000);
            let next = Timestamp(now.0 + 60_000);
            let (a, b) = (outdoor(48.0, 9.0, now, 7), outdoor(48.0, 9.0, next, 7));
            assert!((a - b).get().abs() < 0.1, "{minute}");
            assert_eq!(a, outdoor(48.0, 9.0, now, 7));
        }
    }
}
