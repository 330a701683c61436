//! Hand-checked mixes, gaps, and rows as recorded.

use super::*;
use std::path::PathBuf;

fn mix(items: &[(Source, f64)]) -> Mix {
    items.iter().map(|(s, mw)| (*s, Some(*mw))).collect()
}

fn close(reading: Reading, expected: f64) -> bool {
    (reading.value().unwrap() - expected).abs() < 1e-9
}

#[test]
fn the_builtin_factors_are_sound_and_complete() {
    let text = include_str!("../../emission_factors.toml");
    EmissionFactors::parse("emission_factors.toml", text).unwrap();
    let factors = EmissionFactors::builtin();
    assert!(!factors.version.is_empty());
    // What the file marks is listed.
    assert!(factors.uncertain.iter().any(|u| u.value == "1070"));
}

#[test]
fn hand_checked_mix_of_wind_gas_and_nuclear() {
    // 500 MW wind (11 g), 300 MW gas (490 g; 370 direct), 200 MW nuclear (12 g):
    // (5,500 + 147,000 + 2,400) / 1,000 = 154.9; direct 111,000 / 1,000 = 111.
    let mix = mix(&[
        (Source::WindOnshore, 500.0),
        (Source::Gas, 300.0),
        (Source::Nuclear, 200.0),
    ]);
    let found = indicators(&mix, EmissionFactors::builtin());
    assert!(close(found.life_cycle, 154.9));
    assert!(close(found.direct, 111.0));
    assert!(close(found.renewable_share, 0.5));
    assert!(matches!(found.life_cycle, Reading::Measured(_)));
}

#[test]
fn pumped_storage_counts_as_the_mean_also_when_it_is_a_gap() {
    let factors = EmissionFactors::builtin();
    let without = mix(&[(Source::Solar, 100.0), (Source::HardCoal, 100.0)]);
    let mut with = without.clone();
    with.set(Source::PumpedStorage, Some(5_000.0));
    assert_eq!(indicators(&without, factors), indicators(&with, factors));
    with.set(Source::PumpedStorage, None);
    assert_eq!(indicators(&without, factors), indicators(&with, factors));
}

#[test]
fn nothing_generated_and_gaps_without_history_are_missing() {
    let factors = EmissionFactors::builtin();
    assert_eq!(indicators(&Mix::new(), factors), MixIndicators::MISSING);
    let zero = mix(&[(Source::Solar, 0.0), (Source::Gas, -3.0)]);
    assert_eq!(indicators(&zero, factors), MixIndicators::MISSING);
    let mut gap = mix(&[(Source::Solar, 10.0)]);
    gap.set(Source::Oil, Some(f64::NAN));
    assert_eq!(indicators(&gap, factors), MixIndicators::MISSING);
}

#[test]
fn a_gap_is_carried_then_left_out_if_small_or_missing_if_large() {
    let factors = EmissionFactors::builtin();
    let hour = |h: u64| Timestamp::from_seconds(0) + Duration::from_secs(3_600 * h);
    let mut history = MixHistory::default();
    let full = mix(&[
        (Source::WindOnshore, 690.0),
        (Source::Gas, 300.0),
        (Source::Oil, 10.0),
    ]);
    history.observe(hour(0), &full);
    let complete = history.indicators(hour(0), &full, factors);

    // Gas, 30 % of the mix: carried for three hours, then unknown.
    let mut no_gas = full.clone();
    no_gas.set(Source::Gas, None);
    let carried = history.indicators(hour(3), &no_gas, factors);
    assert_eq!(carried.life_cycle.value(), complete.life_cycle.value());
    assert!(matches!(carried.life_cycle, Reading::Estimated(_)));
    let later = history.indicators(hour(4), &no_gas, factors);
    assert_eq!(later, MixIndicators::MISSING);

    // Oil, 1 %: left out after that.
    let mut no_oil = full.clone();
    no_oil.set(Source::Oil, None);
    let without = history.indicators(hour(4), &no_oil, factors);
    // (690 · 11 + 300 · 490) / 990
    assert!(close(without.life_cycle, 154_590.0 / 990.0));
    assert!(matches!(without.life_cycle, Reading::Estimated(_)));
}

#[test]
fn codes_and_columns_name_the_same_sources() {
    for source in Source::ALL {
        assert_eq!(Source::from_psr(source.psr()), Some(*source));
        assert_eq!(Source::from_column(source.word()), Some(*source));
        let column = format!("{source}_mw");
        assert_eq!(Source::from_column(&column), Some(*source));
    }
    assert_eq!(Source::from_column("time_utc"), None);
}

fn shared() -> PathBuf {
    std::env::var_os("HELIOSTAT_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")),
        PathBuf::from,
    )
}

/// First rows of the recorded files against values worked out by hand.
#[test]
fn recorded_rows_give_plausible_and_hand_checked_values() {
    let folder = shared().join("data/public/generation_by_source");
    let Ok(text) = std::fs::read_to_string(folder.join("SE_2018.csv")) else {
        eprintln!("SKIPPED: no recorded generation under {}", folder.display());
        return;
    };
    let mut lines = text.lines();
    let columns: Vec<Option<Source>> = lines
        .next()
        .unwrap()
        .split(',')
        .map(Source::from_column)
        .collect();
    let row: Mix = (columns.iter().zip(lines.next().unwrap().split(',')))
        .filter_map(|(source, cell)| Some(((*source)?, cell.parse().ok())))
        .collect();
    // 4998 hydro, 8542 nuclear, 1133 other, 2214 wind; sum 16,887 MW.
    // (4998·24 + 8542·12 + 1133·700 + 2214·11) / 16,887 = 61.579...
    let found = indicators(&row, EmissionFactors::builtin());
    let expected = (119_952.0 + 102_504.0 + 793_100.0 + 24_354.0) / 16_887.0;
    assert!(close(found.life_cycle, expected), "{found:?}");
    assert!(close(found.renewable_share, 7_212.0 / 16_887.0));

    for zone in ["DE", "FI", "GR", "IT", "ES", "SE", "FR"] {
        let path = folder.join(format!("{zone}_2019.csv"));
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        let header = lines.next().unwrap();
        let columns: Vec<Option<Source>> = header.split(',').map(Source::from_column).collect();
        // Every column but the time is a known source.
        assert_eq!(
            columns.iter().filter(|c| c.is_none()).count(),
            1,
            "{zone}: {header}"
        );
        let mut history = MixHistory::default();
        let (mut sum, mut known, mut missing) = (0.0, 0_u32, 0_u32);
        for line in lines {
            let mut cells = line.split(',');
            let at = Timestamp::parse(cells.next().unwrap()).unwrap();
            let mix: Mix = (columns[1..].iter().zip(cells))
                .filter_map(|(source, cell)| Some(((*source)?, cell.parse().ok())))
                .collect();
            history.observe(at, &mix);
            match history
                .indicators(at, &mix, EmissionFactors::builtin())
                .life_cycle
                .value()
            {
                Some(value) => {
                    assert!((11.0..=1_000.0).contains(&value), "{zone} {at}: {value}");
                    sum += value;
                    known += 1;
                }
                None => missing += 1,
            }
        }
        let mean = sum / f64::from(known);
        eprintln!("{zone} 2019: mean {mean:.0} g/kWh, {known} instants, {missing} missing");
        // Published yearly means of these zones lie in these wide bands.
        let band = match zone {
            "SE" | "FR" => 20.0..100.0,
            "FI" => 80.0..300.0,
            "GR" => 400.0..800.0,
            _ => 200.0..550.0,
        };
        assert!(band.contains(&mean), "{zone}: {mean}");
        assert!(missing < known / 10, "{zone}: {missing} missing");
    }
}
