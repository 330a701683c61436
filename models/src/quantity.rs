//! Physical quantities as types, so that a milliwatt can never be added to a
//! watt. The unit is fixed where a driver hands a number over; from there on
//! only these types travel.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub, SubAssign};

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $unit:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub f64);

        impl $name {
            /// Nothing of it.
            pub const ZERO: Self = Self(0.0);
            /// The unit's symbol, as printed behind a number.
            pub const UNIT: &'static str = $unit;
            /// The bare number in this type's unit.
            pub const fn get(self) -> f64 { self.0 }
            /// The smaller of two; a NaN loses.
            pub fn min(self, other: Self) -> Self { Self(self.0.min(other.0)) }
            /// The larger of two; a NaN loses.
            pub fn max(self, other: Self) -> Self { Self(self.0.max(other.0)) }
            /// Limited to a range; `low` must not exceed `high`.
            pub fn clamp(self, low: Self, high: Self) -> Self { self.max(low).min(high) }
            /// The total order of IEEE 754, for sorting.
            pub fn total_cmp(&self, other: &Self) -> std::cmp::Ordering { self.0.total_cmp(&other.0) }
            /// Neither infinite nor NaN.
            pub fn is_finite(self) -> bool { self.0.is_finite() }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match f.precision() {
                    Some(p) => write!(f, "{:.*} {}", p, self.0, $unit),
                    None => write!(f, "{} {}", self.0, $unit),
                }
            }
        }
        impl Add for $name { type Output = Self; fn add(self, o: Self) -> Self { Self(self.0 + o.0) } }
        impl Sub for $name { type Output = Self; fn sub(self, o: Self) -> Self { Self(self.0 - o.0) } }
        impl Neg for $name { type Output = Self; fn neg(self) -> Self { Self(-self.0) } }
        impl AddAssign for $name { fn add_assign(&mut self, o: Self) { self.0 += o.0 } }
        impl SubAssign for $name { fn sub_assign(&mut self, o: Self) { self.0 -= o.0 } }
        impl Mul<f64> for $name { type Output = Self; fn mul(self, k: f64) -> Self { Self(self.0 * k) } }
        impl Div<f64> for $name { type Output = Self; fn div(self, k: f64) -> Self { Self(self.0 / k) } }
        /// The ratio of two like quantities is a bare number.
        impl Div for $name { type Output = f64; fn div(self, o: Self) -> f64 { self.0 / o.0 } }
        impl Sum for $name { fn sum<I: Iterator<Item = Self>>(i: I) -> Self { Self(i.map(|q| q.0).sum()) } }
        impl<'a> Sum<&'a $name> for $name { fn sum<I: Iterator<Item = &'a Self>>(i: I) -> Self { Self(i.map(|q| q.0).sum()) } }
    };
}

quantity!(
    /// Electrical or thermal power.
    Watts, "W");
quantity!(
    /// Energy.
    Joules, "J");
quantity!(
    /// Temperature.
    Celsius, "°C");
quantity!(
    /// Carbon dioxide equivalent per unit of electrical energy.
    GramsPerKilowattHour, "gCO2e/kWh");
quantity!(
    /// Price of electrical energy.
    EurosPerMegawattHour, "EUR/MWh");

impl Watts {
    /// From NVML's unit; the only place where milliwatts end.
    pub fn from_milliwatts(milliwatts: u32) -> Self {
        Self(f64::from(milliwatts) / 1_000.0)
    }
    /// For a driver's call; rounded down, so that a cap never grows by rounding.
    pub fn to_milliwatts_floor(self) -> u32 {
        // `as` saturates; the small nudge keeps 300.1 W from becoming 300,099 mW.
        (self.0 * 1_000.0 + 1e-6).floor().max(0.0) as u32
    }
    /// From kilowatts.
    pub fn from_kilowatts(kilowatts: f64) -> Self {
        Self(kilowatts * 1_000.0)
    }
    /// In kilowatts.
    pub fn kilowatts(self) -> f64 {
        self.0 / 1_000.0
    }
    /// Energy at this power over a span of seconds.
    pub fn over_seconds(self, seconds: f64) -> Joules {
        Joules(self.0 * seconds)
    }
}

impl Joules {
    /// In kilowatt hours.
    pub fn kilowatt_hours(self) -> f64 {
        self.0 / 3.6e6
    }
    /// From kilowatt hours.
    pub fn from_kilowatt_hours(kwh: f64) -> Self {
        Self(kwh * 3.6e6)
    }
    /// Carbon of this energy at an intensity, in grams of CO2 equivalent.
    pub fn carbon_grams(self, intensity: GramsPerKilowattHour) -> f64 {
        self.kilowatt_hours() * intensity.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliwatts_round_down_but_not_exact_values() {
        assert_eq!(Watts(300.1).to_milliwatts_floor(), 300_100);
        assert_eq!(Watts(300.000_999).to_milliwatts_floor(), 300_000);
        assert_eq!(Watts(-5.0).to_milliwatts_floor(), 0);
        assert_eq!(Watts::from_milliwatts(1_500), Watts(1.5));
    }

    #[test]
    fn energy_and_carbon_agree_with_hand_calculation() {
        let energy = Watts(1_000.0).over_seconds(7_200.0);
        assert_eq!(energy.kilowatt_hours(), 2.0);
        assert_eq!(energy.carbon_grams(GramsPerKilowattHour(300.0)), 600.0);
    }
}
