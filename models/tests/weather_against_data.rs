//! The synthetic outdoor temperature against recorded years, hour by hour.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test's helpers fail by unwrapping, and it prints what it measured or why it was skipped"
)]

mod recorded;

use heliostat_models::{Timestamp, weather};
use recorded::recorded;

fn instant(year: i32, month: u32, day: u32, hour: u32) -> Timestamp {
    Timestamp::parse(&format!("{year:04}-{month:02}-{day:02}T{hour:02}:00:00Z")).unwrap()
}

/// Hourly values of a file of the National Solar Radiation Database, UTC.
fn nsrdb(path: &str) -> Option<Vec<(Timestamp, f64)>> {
    let text = recorded(&format!("weather/{path}"))?;
    // Files differ in what columns they have and in which order.
    let header: Vec<&str> = text.lines().nth(2)?.split(',').collect();
    let names = ["Year", "Month", "Day", "Hour", "Minute", "Temperature"];
    let columns: Vec<usize> = (names.iter())
        .filter_map(|name| header.iter().position(|h| h.trim() == *name))
        .collect();
    assert_eq!(columns.len(), names.len(), "{path}: {header:?}");
    let rows = text.lines().skip(3).filter_map(|line| {
        let f: Vec<&str> = line.split(',').collect();
        let n = |i: usize| f.get(columns[i])?.trim().parse::<u32>().ok();
        (n(4)? == 0).then_some(())?;
        let at = instant(n(0)? as i32, n(1)?, n(2)?, n(3)?);
        Some((at, f[columns[5]].trim().parse().ok()?))
    });
    Some(rows.collect())
}

/// Hourly values of a typical year in EnergyPlus form, local time = UTC + 1.
fn epw(path: &str) -> Option<Vec<(Timestamp, f64)>> {
    let text = recorded(&format!("weather/{path}"))?;
    let rows = text.lines().skip(8).filter_map(|line| {
        let f: Vec<&str> = line.split(',').collect();
        let n = |i: usize| f.get(i)?.parse::<u32>().ok();
        let hour = n(3)? - 1;
        let at = instant(2018, n(1)?, n(2)?, hour);
        Some((Timestamp(at.0 - 3_600_000), f[6].parse().ok()?))
    });
    Some(rows.collect())
}

#[test]
fn hourly_temperature_is_off_by_a_few_kelvin_in_the_mean() {
    let years = "cities_15min/NSRDB_15min";
    let cities = [
        (
            "Athens",
            37.97,
            23.74,
            nsrdb(&format!("{years}/Athens/1291832_37.97_23.74_2019.csv")),
        ),
        (
            "Malaga",
            36.73,
            -4.42,
            nsrdb(&format!("{years}/Malaga/213028_36.73_-4.42_2019.csv")),
        ),
        (
            "Stockholm",
            59.33,
            18.06,
            nsrdb(&format!("{years}/Stockholm/984998_59.33_18.06_2019.csv")),
        ),
        (
            "Uccle",
            50.81,
            4.34,
            nsrdb(&format!("{years}/Uccle/454992_50.81_4.34_2019.csv")),
        ),
        (
            "Bologna",
            44.53,
            11.30,
            epw("bologna/ITA_ER_Bologna-Marconi.AP.161400_TMYx.2004-2018.epw"),
        ),
    ];
    for (city, latitude, longitude, hours) in cities {
        let Some(hours) = hours else { continue };
        assert!(hours.len() > 8_000, "{city}: {} hours", hours.len());
        let errors = hours
            .iter()
            .map(|(at, real)| weather::outdoor(latitude, longitude, *at, 1).get() - real);
        let (mut absolute, mut bias) = (0.0, 0.0);
        for error in errors {
            absolute += error.abs();
            bias += error;
        }
        let (absolute, bias) = (absolute / hours.len() as f64, bias / hours.len() as f64);
        let mean = hours.iter().map(|h| h.1).sum::<f64>() / hours.len() as f64;
        println!(
            "{city}: recorded mean {mean:.1} °C, mean absolute error {absolute:.2} K, bias {bias:+.2} K"
        );
        assert!(absolute < 5.5, "{city}: {absolute}");
        assert!(bias.abs() < 3.5, "{city}: {bias}");
    }
}
