//! A time axis whose ticks stand at round hours and days (UTC).

use crate::format;
use heliostat_models::Timestamp;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;
use std::time::Duration;

const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const DAY: u64 = 86_400;
/// Spaces between ticks that people find round, in seconds.
const STEPS: [u64; 19] = [
    10,
    30,
    MINUTE,
    2 * MINUTE,
    5 * MINUTE,
    10 * MINUTE,
    15 * MINUTE,
    30 * MINUTE,
    HOUR,
    2 * HOUR,
    3 * HOUR,
    6 * HOUR,
    12 * HOUR,
    DAY,
    2 * DAY,
    7 * DAY,
    14 * DAY,
    28 * DAY,
    56 * DAY,
];

/// Milliseconds since the epoch on a horizontal axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeAxis {
    pub(super) from: i64,
    pub(super) to: i64,
}

impl TimeAxis {
    /// Instants of at most `most` ticks.
    pub(super) fn ticks(self, most: usize) -> Vec<i64> {
        let span = (self.to - self.from).max(1) as u64;
        let step = STEPS
            .iter()
            .map(|s| s * 1_000)
            .find(|s| span / s < most.max(1) as u64)
            .unwrap_or(span);
        let step = Duration::from_millis(step);
        let mut at = Timestamp(self.from - 1).next_multiple_of(step);
        let mut ticks = Vec::new();
        while at.0 <= self.to {
            ticks.push(at.0);
            at = at + step;
        }
        ticks
    }
}

/// The text at a tick: the day at midnight, else the hour.
pub(super) fn label(at: i64) -> String {
    let at = Timestamp(at);
    if at == at.floor_to(Duration::from_secs(DAY)) {
        format::day(at)
    } else {
        format::clock(at)
    }
}

impl Ranged for TimeAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = i64;

    fn map(&self, value: &i64, limit: (i32, i32)) -> i32 {
        let share = (value - self.from) as f64 / (self.to - self.from).max(1) as f64;
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }
    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<i64> {
        self.ticks(hint.max_num_points())
    }
    fn range(&self) -> Range<i64> {
        self.from..self.to
    }
}

impl ValueFormatter<i64> for TimeAxis {
    fn format_ext(&self, value: &i64) -> String {
        label(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ticks_are_few_inside_and_round(from in 0i64..4_000_000_000_000, span in 1i64..35_000_000_000, most in 1usize..40) {
            let axis = TimeAxis { from, to: from + span };
            let ticks = axis.ticks(most);
            prop_assert!(ticks.len() <= most + 1);
            prop_assert!(ticks.iter().all(|t| (from..=from + span).contains(t)));
        }
    }

    #[test]
    fn a_day_is_marked_at_round_hours_with_its_date() {
        let from = Timestamp::parse("2019-03-01T14:05:00Z").unwrap().0;
        let axis = TimeAxis {
            from,
            to: from + 86_400_000,
        };
        let labels: Vec<String> = axis.ticks(9).into_iter().map(label).collect();
        assert_eq!(
            labels,
            [
                "15:00", "18:00", "21:00", "2 Mar", "03:00", "06:00", "09:00", "12:00"
            ]
        );
    }
}
