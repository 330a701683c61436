//! How fast the demo's clock runs: time-lapse before and after the grid event,
//! real time during it, and never faster than the hall's agents can follow.

use std::time::Duration;

/// Real time between two steps of the time-lapse, when the machine keeps up.
const STEP_WALL: Duration = Duration::from_millis(40);
/// Simulated widths that a step may have: divisors of an hour, so that samples
/// fall on round instants.
const WIDTHS: [u64; 8] = [30, 60, 90, 120, 180, 300, 600, 900];

/// The plan of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Simulated time of one step of the time-lapse; also the sample period.
    pub step: Duration,
    /// Real time that one step should take.
    pub step_wall: Duration,
    /// Simulated seconds per real second in the time-lapse.
    pub speed: f64,
    /// Real time after which the grid event comes, however far the run came.
    pub event_wall: Duration,
    /// Real time after which the run ends, however far it came.
    pub end_wall: Duration,
}

impl Pace {
    /// Fits `span` of simulated time into `wall` of real time, less what the
    /// grid event in real time and the draining at the end will take.
    pub fn fit(span: Duration, wall: Duration) -> Self {
        let slow = Duration::from_secs(10).min(wall / 5);
        let drain = Duration::from_secs(4).min(wall / 10);
        let lapse_wall = wall - slow - drain;
        let wanted = span.as_secs_f64() / (lapse_wall.as_secs_f64() / STEP_WALL.as_secs_f64());
        let width = WIDTHS
            .iter()
            .copied()
            .find(|w| *w as f64 >= wanted)
            .unwrap_or(WIDTHS[WIDTHS.len() - 1]);
        let step = Duration::from_secs(width);
        let steps = (span.as_secs_f64() / step.as_secs_f64()).ceil().max(1.0);
        let step_wall = lapse_wall.div_f64(steps);
        Self {
            step,
            step_wall,
            speed: step.as_secs_f64() / step_wall.as_secs_f64(),
            event_wall: lapse_wall,
            end_wall: wall - drain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_span_fits_into_the_wall_and_steps_stay_round() {
        for (span_hours, wall_seconds) in [(48, 60), (48, 600), (48, 15), (1, 60), (336, 60)] {
            let (span, wall) = (
                Duration::from_secs(span_hours * 3_600),
                Duration::from_secs(wall_seconds),
            );
            let pace = Pace::fit(span, wall);
            assert_eq!(3_600 % pace.step.as_secs() % 30, 0);
            assert!(pace.event_wall < pace.end_wall && pace.end_wall < wall);
            let steps = (span.as_secs_f64() / pace.step.as_secs_f64()).ceil();
            assert!(pace.step_wall.as_secs_f64() * steps <= pace.event_wall.as_secs_f64() + 1e-3);
        }
        assert_eq!(
            Pace::fit(Duration::from_secs(172_800), Duration::from_secs(60))
                .step
                .as_secs(),
            180
        );
    }
}
