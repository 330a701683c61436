//! Numbers and instants as people read them. All times are UTC and say so.

use crate::figure::{Coverage, Figure};
use heliostat_models::{Quality, Timestamp};

/// A number with a thousands separator and a fixed number of decimals.
pub(crate) fn number(value: f64, decimals: usize) -> String {
    let plain = format!("{:.*}", decimals, value.abs());
    let (whole, fraction) = plain.split_once('.').unwrap_or((&plain, ""));
    let mut out = String::with_capacity(plain.len() + 4);
    if value < 0.0 && plain.bytes().any(|b| (b'1'..=b'9').contains(&b)) {
        out.push('\u{2212}');
    }
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// Power with the prefix that suits it.
pub(crate) fn watts(value: f64) -> String {
    match value.abs() {
        v if v < 1_000.0 => format!("{} W", number(value, 0)),
        v if v < 999_950.0 => format!("{} kW", number(value / 1e3, 1)),
        _ => format!("{} MW", number(value / 1e6, 2)),
    }
}

/// A share between 0 and 1 in per cent.
pub(crate) fn percent(value: f64) -> String {
    let value = value * 100.0;
    let decimals = usize::from(value.abs() < 9.95 && value.abs() > 0.0);
    format!("{} %", number(value, decimals))
}

/// Joules as energy on a bill.
pub(crate) fn energy(joules: f64) -> String {
    let kwh = joules / 3.6e6;
    match kwh.abs() {
        v if v < 1_000.0 => format!("{} kWh", number(kwh, 1)),
        _ => format!("{} MWh", number(kwh / 1e3, 2)),
    }
}

/// Bytes with a binary prefix.
pub(crate) fn bytes(value: f64) -> String {
    let gib = value / f64::from(1_u32 << 30);
    format!("{} GiB", number(gib, 1))
}

/// A gap of a certificate: exact ones are worth saying so.
pub(crate) fn gap(value: f64) -> String {
    if value <= 1e-9 {
        "exact".to_owned()
    } else if value < 1e-5 {
        "< 0.001 %".to_owned()
    } else {
        format!("{} %", number(value * 100.0, 3))
    }
}

/// A figure's text: `≈` before an estimate, `≥` before a sum of which parts are
/// not known, words where there is none.
pub(crate) fn figure(figure: Figure, text: impl Fn(f64) -> String) -> String {
    match figure.value {
        Some(v) if figure.partial.is_some() => format!("≥ {}", text(v)),
        Some(v) if figure.quality == Quality::Measured => text(v),
        Some(v) => format!("≈ {}", text(v)),
        None => crate::text::NO_READING.to_owned(),
    }
}

/// A share, or where only a part is known, how much of it.
pub(crate) fn share_or_coverage(share: Figure) -> String {
    match (share.partial, share.value) {
        (Some(of), Some(_)) => coverage(of),
        (_, value) => value.map_or(String::new(), percent),
    }
}

/// `8 of 256 known`.
pub(crate) fn coverage(of: Coverage) -> String {
    format!("{} of {} known", of.known, of.all)
}

/// A reading of the catalogue's unit in a unit that people like.
pub(crate) fn in_unit(value: f64, unit: &str) -> String {
    match unit {
        "W" => watts(value),
        "J" => energy(value),
        "1" => percent(value),
        "B" => bytes(value),
        "Hz" => format!("{} MHz", number(value / 1e6, 0)),
        "°C" => format!("{} °C", number(value, 1)),
        other => format!("{} {}", number(value, 1), unit_label(other)),
    }
}

/// A unit as it stands on an axis.
pub(crate) fn unit_label(unit: &str) -> &str {
    match unit {
        "gCO2e/kWh" => "gCO₂e/kWh",
        "1" => "%",
        other => other,
    }
}

fn strftime(at: Timestamp, format: &str) -> String {
    match jiff::Timestamp::from_millisecond(at.0) {
        Ok(t) => t
            .to_zoned(jiff::tz::TimeZone::UTC)
            .strftime(format)
            .to_string(),
        Err(_) => at.to_string(),
    }
}

/// `14:05`.
pub(crate) fn clock(at: Timestamp) -> String {
    strftime(at, "%H:%M")
}
/// `1 Mar`.
pub(crate) fn day(at: Timestamp) -> String {
    strftime(at, "%-d %b")
}
/// `1 Mar 14:05`.
pub(crate) fn day_clock(at: Timestamp) -> String {
    strftime(at, "%-d %b %H:%M")
}
/// `Fri 1 Mar 2019, 14:05:10 UTC`.
pub(crate) fn full(at: Timestamp) -> String {
    strftime(at, "%a %-d %b %Y, %H:%M:%S UTC")
}

/// A span in the two units that matter.
pub(crate) fn span(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..=119 => format!("{s} s"),
        120..=7_199 => format!("{} min", s / 60),
        7_200..=172_799 => format!("{} h {:02} min", s / 3_600, s % 3_600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(number(1_234_567.891, 1), "1,234,567.9");
        assert_eq!(number(-1_234.0, 0), "\u{2212}1,234");
        assert_eq!(number(-0.01, 1), "0.0");
        assert_eq!(watts(612.4), "612 W");
        assert_eq!(watts(999_949.0), "999.9 kW");
        assert_eq!(watts(999_960.0), "1.00 MW");
        assert_eq!(percent(0.4321), "43 %");
        assert_eq!(percent(0.0432), "4.3 %");
        assert_eq!(percent(1.0), "100 %");
        assert_eq!(gap(0.0), "exact");
        assert_eq!(span(3.0 * 86_400.0), "3 d 0 h");
    }

    #[test]
    fn estimates_and_holes_are_marked() {
        assert_eq!(figure(Figure::measured(5.0), watts), "5 W");
        assert_eq!(figure(Figure::estimated(5.0), watts), "≈ 5 W");
        assert_eq!(figure(Figure::MISSING, watts), "no reading");
        let partial = Figure::sum([Figure::measured(5.0), Figure::MISSING]);
        assert_eq!(figure(partial, watts), "≥ 5 W");
        assert_eq!(share_or_coverage(partial), "1 of 2 known");
        assert_eq!(share_or_coverage(Figure::measured(0.25)), "25 %");
    }

    #[test]
    fn instants_are_utc_and_say_so() {
        let at = Timestamp::parse("2019-03-01T14:05:10Z").unwrap();
        assert_eq!(full(at), "Fri 1 Mar 2019, 14:05:10 UTC");
        assert_eq!(day_clock(at), "1 Mar 14:05");
    }
}
