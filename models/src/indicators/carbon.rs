//! Location-based carbon: the sum over time of energy times the intensity of the
//! grid. With the direct (generation-stage) intensity it is what Scope 2 counts;
//! with the life-cycle intensity it shows the whole. Label which.

use super::Coverage;
use super::profile::{Placed, Profile};
use crate::quantity::{GramsPerKilowattHour, Joules};
use crate::reading::Quality;
use serde::Serialize;
use std::ops::AddAssign;
use std::time::Duration;

/// Carbon over an interval and what it is known from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Carbon {
    /// Grams of CO2 equivalent where energy and intensity are measured.
    pub measured_grams: f64,
    /// Grams where one of them is estimated.
    pub estimated_grams: f64,
    /// The energy behind the grams.
    pub energy: Joules,
    /// The time behind both, and the time in which one of them is unknown.
    pub coverage: Coverage,
}

impl Carbon {
    /// What is known; `None` when nothing is.
    pub fn grams(&self) -> Option<f64> {
        (self.coverage.known_seconds() > 0.0).then_some(self.measured_grams + self.estimated_grams)
    }
}

impl AddAssign for Carbon {
    fn add_assign(&mut self, other: Self) {
        self.measured_grams += other.measured_grams;
        self.estimated_grams += other.estimated_grams;
        self.energy += other.energy;
        self.coverage += other.coverage;
    }
}

/// Carbon of a profile. An intensity (grams per kilowatt hour, by rising time)
/// holds from its instant until the next reading, but no longer than `hold`:
/// the resolution of the grid's record.
pub fn carbon(profile: &Profile, intensity: &[Placed], hold: Duration) -> Carbon {
    let mut sum = Carbon::default();
    let mut coverage = Coverage::default();
    for (place, (at, reading)) in intensity.iter().enumerate() {
        let Some(value) = reading.value().filter(|v| v.is_finite()) else {
            continue;
        };
        let mut until = *at + hold;
        if let Some((next, _)) = intensity.get(place + 1) {
            until = until.min(*next);
        }
        for span in profile.within(at.0, until.0) {
            let measured = span.measured && reading.quality() == Quality::Measured;
            let energy = Joules(span.joules());
            let grams = energy.carbon_grams(GramsPerKilowattHour(value));
            if measured {
                sum.measured_grams += grams;
            } else {
                sum.estimated_grams += grams;
            }
            sum.energy += energy;
            coverage.add_known(span.seconds(), measured);
        }
    }
    coverage.fill(profile.seconds());
    sum.coverage = coverage;
    sum
}
