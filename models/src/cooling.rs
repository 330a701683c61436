//! Power of the cooling plant and of everything else that is neither IT nor
//! cooling, as a function of IT load and outdoor temperature.
//!
//! Parts, each with its law:
//!
//! | part | law |
//! |---|---|
//! | pumps and fans | `b · (0.3 + 0.7 · load^2.5)`; affinity laws give the cube of the flow, control keeps some pressure |
//! | compressors | heat · share / COP; share 0 up to the free-cooling temperature, 1 from 12 K above it on |
//! | distribution losses | proportional to IT power (UPS, transformers, lines) |
//! | fixed | lights, controls, standing losses of the UPS |
//!
//! `COP = 0.6 · T_cold / (T_hot - T_cold)` in kelvin: six tenths of Carnot's limit
//! between the coolant supply less 5 K and outdoors plus 12 K. Held against a
//! recorded chilled-water plant (`tests/cooling_against_data.rs`) this gives its
//! chillers' coefficient within 5 % in the mean, and within 0.7 reading by
//! reading. The three parts without compressor are scaled so that PUE at full
//! load and mean outdoor temperature is the site's design PUE.

use crate::quantity::{Celsius, Watts};
use crate::site::Cooling;

/// Kelvin above the free-cooling temperature at which compressors carry all heat.
const BLEND: f64 = 12.0;
/// Share of Carnot's efficiency that compressors reach.
pub const CARNOT_SHARE: f64 = 0.6;
/// Kelvin between coolant supply and evaporation.
const EVAPORATOR: f64 = 5.0;
/// Kelvin between outdoor air and condensation.
const CONDENSER: f64 = 12.0;
/// A compressor never gets better than this; small temperature lifts end the law.
const BEST_COP: f64 = 12.0;

/// Shares of what the design PUE leaves beside compressors.
const PUMPS_AND_FANS: f64 = 0.50;
const DISTRIBUTION: f64 = 0.35;
const FIXED: f64 = 0.15;

/// A site's plant, ready to be asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Plant {
    supply: Celsius,
    free_below: Celsius,
    full_load: Watts,
    /// Overhead at full load without compressors, relative to IT power.
    base: f64,
}

/// What a data centre draws besides its IT.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Facility {
    /// Pumps, fans, compressors.
    pub cooling: Watts,
    /// Distribution losses and the fixed part.
    pub losses: Watts,
    /// Coolant that comes back from the room.
    pub return_temperature: Celsius,
}

impl Facility {
    /// All of it.
    pub fn total(&self) -> Watts {
        self.cooling + self.losses
    }
    /// Momentary ratio of all power to IT power; `None` without IT power.
    pub fn pue(&self, it: Watts) -> Option<f64> {
        (it > Watts::ZERO).then(|| 1.0 + self.total() / it)
    }
}

/// Cooling work per electrical work of a compressor between two temperatures.
pub fn coefficient_of_performance(cold: Celsius, hot: Celsius) -> f64 {
    let lift = (hot - cold).get();
    if lift <= 0.0 {
        return BEST_COP;
    }
    (CARNOT_SHARE * (cold.get() + 273.15) / lift).min(BEST_COP)
}

impl Plant {
    /// The plant of a site, whose IT draws `full_load` at most, where
    /// outdoor temperature is `mean_outdoor` in the mean.
    pub fn new(cooling: &Cooling, full_load: Watts, mean_outdoor: Celsius) -> Self {
        let mut plant = Self {
            supply: cooling.supply,
            free_below: cooling.free_cooling_below,
            full_load,
            base: 0.0,
        };
        let overhead = (cooling.design_pue - 1.0).max(0.0);
        // A design PUE that compressors alone would exceed still leaves something to move the coolant.
        plant.base = (overhead - plant.compressor_ratio(mean_outdoor)).max(0.4 * overhead);
        plant
    }

    /// Share of the heat that compressors carry.
    pub fn compressor_share(&self, outdoor: Celsius) -> f64 {
        ((outdoor - self.free_below).get() / BLEND).clamp(0.0, 1.0)
    }

    /// Compressor power relative to the heat.
    fn compressor_ratio(&self, outdoor: Celsius) -> f64 {
        let cold = self.supply - Celsius(EVAPORATOR);
        let hot = outdoor + Celsius(CONDENSER);
        self.compressor_share(outdoor) / coefficient_of_performance(cold, hot)
    }

    /// What the data centre draws besides `it`.
    pub fn facility(&self, it: Watts, outdoor: Celsius) -> Facility {
        let it = it.max(Watts::ZERO);
        let full = self.full_load.max(Watts(1.0));
        let load = (it / full).min(1.2);
        let moving = full * (self.base * PUMPS_AND_FANS) * (0.3 + 0.7 * load.powf(2.5));
        let compressors = it * self.compressor_ratio(outdoor);
        Facility {
            cooling: moving + compressors,
            losses: it * (self.base * DISTRIBUTION) + full * (self.base * FIXED),
            // Flow follows load down to 30 %, so the spread of 10 K holds over most of the range.
            return_temperature: self.supply + Celsius(10.0 * load / load.max(0.3)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::DeviceId;
    use proptest::prelude::*;

    fn cooling(design_pue: f64, supply: f64, free: f64) -> Cooling {
        Cooling {
            id: DeviceId::from("plant"),
            kind: "direct-liquid".into(),
            supply: Celsius(supply),
            design_pue,
            free_cooling_below: Celsius(free),
        }
    }

    #[test]
    fn meets_the_design_pue_at_full_load_and_mean_temperature() {
        for (pue, supply, free) in [(1.08, 30.0, 24.0), (1.2, 24.0, 12.0), (1.5, 18.0, 8.0)] {
            let plant = Plant::new(&cooling(pue, supply, free), Watts(1e5), Celsius(11.0));
            let reached = plant
                .facility(Watts(1e5), Celsius(11.0))
                .pue(Watts(1e5))
                .unwrap();
            assert!((reached - pue).abs() < 1e-9, "{pue}: {reached}");
        }
    }

    proptest! {
        #[test]
        fn warmer_never_costs_less_and_a_higher_load_lowers_pue(
            pue in 1.02..1.8f64, supply in 16.0..40.0f64, free in 5.0..30.0f64,
            load in 0.1..1.0f64, outdoor in -20.0..40.0f64, warmer in 0.0..15.0f64,
        ) {
            let plant = Plant::new(&cooling(pue, supply, free), Watts(1e6), Celsius(11.0));
            let it = Watts(1e6 * load);
            let cool = plant.facility(it, Celsius(outdoor));
            let warm = plant.facility(it, Celsius(outdoor + warmer));
            prop_assert!(warm.total() >= cool.total() - Watts(1e-6));
            prop_assert!(cool.cooling > Watts::ZERO && cool.losses >= Watts::ZERO);
            prop_assert!(cool.pue(it).unwrap() > 1.0);
            prop_assert!(cool.return_temperature >= Celsius(supply));
        }
    }

    #[test]
    fn without_load_only_standing_power_is_left() {
        let plant = Plant::new(&cooling(1.2, 24.0, 12.0), Watts(1e5), Celsius(11.0));
        let none = plant.facility(Watts::ZERO, Celsius(30.0));
        assert!(none.pue(Watts::ZERO).is_none());
        assert!(none.total() > Watts::ZERO && none.total() < Watts(1e5) * 0.06);
    }
}
