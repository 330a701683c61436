//! Units of what is made of readings over time.

use heliostat_store::query::{AcrossDevices, OverTime};

/// The unit of an aggregate of readings in `unit`: a time integral has the
/// unit times seconds (W·s is J), a rate the unit by seconds (J/s is W), a
/// count none; all else keeps the unit.
pub fn unit_of(unit: &str, over_time: OverTime, across: Option<AcrossDevices>) -> String {
    if across == Some(AcrossDevices::Count) {
        return "1".to_owned();
    }
    // A fraction gets brackets, or it could not be told what is divided by what.
    let whole = match unit.contains('/') {
        true => format!("({unit})"),
        false => unit.to_owned(),
    };
    match (over_time, unit) {
        (OverTime::Count, _) => "1".to_owned(),
        (OverTime::Integral, "W") => "J".to_owned(),
        (OverTime::Integral, "1") => "s".to_owned(),
        (OverTime::Integral, "Hz") => "1".to_owned(),
        (OverTime::Integral, _) => format!("{whole}·s"),
        (OverTime::Rate, "J") => "W".to_owned(),
        (OverTime::Rate, _) => format!("{whole}/s"),
        _ => unit.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integrals_rates_and_counts_have_their_own_units() {
        for (unit, over_time, expected) in [
            ("W", OverTime::Integral, "J"),
            ("W", OverTime::Rate, "W/s"),
            ("J", OverTime::Rate, "W"),
            ("J", OverTime::Increase, "J"),
            ("J", OverTime::Integral, "J·s"),
            ("B", OverTime::Rate, "B/s"),
            ("1", OverTime::Integral, "s"),
            ("1", OverTime::Rate, "1/s"),
            ("EUR/MWh", OverTime::Integral, "(EUR/MWh)·s"),
            ("EUR/MWh", OverTime::Rate, "(EUR/MWh)/s"),
            ("°C", OverTime::Max, "°C"),
            ("W", OverTime::Count, "1"),
        ] {
            assert_eq!(
                unit_of(unit, over_time, None),
                expected,
                "{unit} {over_time:?}"
            );
        }
        let counted = unit_of("W", OverTime::Avg, Some(AcrossDevices::Count));
        assert_eq!(counted, "1");
        let summed = unit_of("W", OverTime::Avg, Some(AcrossDevices::Sum));
        assert_eq!(summed, "W");
    }
}
