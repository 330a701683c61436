//! What is written is read back by the `parquet` crate, which shares no code with
//! the encoders.

use super::chunk::{self, Dictionary};
use super::page::{Chunk, Press};
use super::schema::{Key, Part, Shape};
use super::*;
use crate::embedded::codec::{ABSENT, ESTIMATED, MEASURED, MISSING, has_value};
use crate::embedded::decimal::fit;
use heliostat_models::{DeviceId, MetricId};
use proptest::prelude::*;

/// Values with runs, gaps, small steps and large ones, over several pages.
fn values<T: Clone + std::fmt::Debug>(
    of: impl Strategy<Value = T>,
) -> impl Strategy<Value = Vec<Option<T>>> {
    let run = (
        prop::option::weighted(0.8, of),
        prop_oneof![Just(1usize), 1usize..20, 1usize..400],
    );
    let times = prop_oneof![4 => Just(1usize), 1 => 1usize..12];
    (prop::collection::vec(run, 1..60), times).prop_map(|(runs, times)| {
        let once = runs.into_iter().flat_map(|(value, run)| vec![value; run]);
        let once: Vec<_> = once.collect();
        once.iter()
            .cycle()
            .take(once.len() * times)
            .cloned()
            .collect()
    })
}

fn key() -> Key {
    Key::value(Catalogue::gpu_power())
}

/// Levels, where a row has no value, and the values that are there.
fn parted<T: Copy>(rows: &[Option<T>]) -> (Option<Vec<u8>>, Vec<T>) {
    let levels = rows.iter().map(|row| u8::from(row.is_some())).collect();
    let whole = rows.iter().all(Option::is_some);
    (
        (!whole).then_some(levels),
        rows.iter().copied().flatten().collect(),
    )
}

fn decoded(chunk: &Chunk, shape: Shape) -> Vec<Option<u64>> {
    let (levels, values) = chunk.decode(key(), shape).unwrap();
    let mut values = values.into_iter();
    let mut next = |level: &i16| (*level == 1).then(|| values.next().unwrap().to_bits());
    levels.iter().map(&mut next).collect()
}

fn integers_come_back(rows: &[Option<i64>]) {
    let (levels, values) = parted(rows);
    let mut press = Press::new().unwrap();
    let chunk = chunk::integers(&mut press, rows.len(), levels.as_deref(), &values, true).unwrap();
    let wanted: Vec<Option<u64>> = (rows.iter())
        .map(|r| r.map(|i| (i as f64).to_bits()))
        .collect();
    assert_eq!(decoded(&chunk, Shape::Decimal { scale: 0 }), wanted);
}

fn doubles_come_back(rows: &[Option<f64>]) {
    let (levels, values) = parted(rows);
    let (mut press, mut dictionary) = (Press::new().unwrap(), Dictionary::default());
    let chunk = chunk::doubles(
        &mut press,
        &mut dictionary,
        rows.len(),
        levels.as_deref(),
        &values,
        true,
    )
    .unwrap();
    let wanted: Vec<Option<u64>> = rows.iter().map(|r| r.map(f64::to_bits)).collect();
    assert_eq!(decoded(&chunk, Shape::Double), wanted);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn integers_of_any_steps_come_back(rows in values(prop_oneof![
        0i64..3, -200i64..200, 0i64..100_000, -(1i64 << 53)..(1i64 << 53)
    ])) {
        integers_come_back(&rows);
    }

    #[test]
    fn doubles_come_back_bit_by_bit(rows in values(prop_oneof![
        4 => (0u8..30).prop_map(f64::from), 1 => any::<u64>().prop_map(f64::from_bits)
    ])) {
        doubles_come_back(&rows);
    }

    /// Groups of rows whose values need ever other columns: what was encoded
    /// first must be as the last needs it.
    #[test]
    fn a_file_holds_every_bit_whatever_its_groups_need(
        groups in prop::collection::vec(prop::collection::vec((0u8..3, 0u8..4, 0usize..8), 1..40), 1..5)
    ) {
        const VALUES: [f64; 8] = [1.0, 2.5, 250.125, 0.000_001, 9.0e15, 0.1 + 0.2, -0.0, f64::NAN];
        let metrics = ["gpu_power_watts", "gpu_temperature_celsius", "gpu_energy_joules_total"]
            .map(|name| Catalogue::builtin().id(name).unwrap());
        let mut scratch = Scratch::new().unwrap();
        let mut file = FileWriter::new(Plan::default());
        let mut wanted = Vec::new();
        for (number, rows) in groups.iter().enumerate() {
            let mut table = Table::default();
            let name = DeviceId::from(format!("gpu-{number}"));
            table.devices.push((name, rows.len()));
            for (row, (metric, state, value)) in rows.iter().enumerate() {
                table.times.push(row as i64 * 1_000);
                let value = if has_value(*state) { VALUES[*value] } else { 0.0 };
                let metric = metrics[usize::from(*metric)];
                let place = table.place(Key::value(metric));
                table.columns[place].set(row, *state, value);
                if *state != ABSENT {
                    wanted.push((number, row as i64 * 1_000, metric, *state, value.to_bits()));
                }
            }
            file.group(&mut scratch, &mut table, Catalogue::builtin()).unwrap();
        }
        let file = file.finish(&mut scratch, Catalogue::builtin()).unwrap();
        prop_assert_eq!(file.samples, wanted.len() as u64);
        let (directory, mut names) = (tempfile::tempdir().unwrap(), Vec::new());
        let path = directory.path().join("1.parquet");
        std::fs::write(&path, &file.bytes).unwrap();
        let crc = footer_crc(&file.bytes).unwrap();
        let segment = Segment::open(&path, 1, file.bytes.len() as u64, crc, Catalogue::builtin(), |name| {
            names.push(name.to_owned());
            names.len() as u32 - 1
        }).unwrap();
        prop_assert!(segment.verify().is_empty());
        let mut found: Vec<(usize, i64, MetricId, u8, u64)> = Vec::new();
        for meta in segment.blocks() {
            let rows = segment.rows(&mut Cache::default(), meta).unwrap();
            for (key, states, values) in &rows.columns {
                prop_assert_eq!(key.part, Part::Value);
                for ((at, state), value) in rows.times.iter().zip(states).zip(values) {
                    if *state != ABSENT {
                        let number = names[meta.device as usize].trim_start_matches("gpu-").parse().unwrap();
                        found.push((number, *at, key.metric, *state, value.to_bits()));
                    }
                }
            }
        }
        found.sort_unstable();
        wanted.sort_unstable();
        prop_assert_eq!(found, wanted);
    }
}

#[test]
fn many_different_doubles_come_back() {
    // More than a dictionary takes, in some pages; few in others.
    let rows: Vec<Option<f64>> = (0..30_000)
        .map(|i| (i % 7 != 0).then_some(if i < 9_000 { 5.0 } else { f64::from(i) / 7.0 }))
        .collect();
    doubles_come_back(&rows);
    // As many as a dictionary takes, whose indices are longer than a byte.
    let rows: Vec<Option<f64>> = (0..30_000)
        .map(|i| Some(f64::from(i % 8_192) / 3.0))
        .collect();
    doubles_come_back(&rows);
    doubles_come_back(&[None; 5_000]);
    integers_come_back(&[None; 5_000]);
}

#[test]
fn steps_across_the_whole_range_of_integers_come_back() {
    let mut press = Press::new().unwrap();
    let times = [
        i64::MIN,
        i64::MAX,
        0,
        -1,
        i64::MIN,
        i64::MIN + 300,
        i64::MAX,
    ];
    let chunk = chunk::integers(&mut press, times.len(), None, &times, false).unwrap();
    let wanted: Vec<Option<u64>> = times.iter().map(|t| Some((*t as f64).to_bits())).collect();
    assert_eq!(decoded(&chunk, Shape::Decimal { scale: 0 }), wanted);
}

#[test]
fn qualities_and_values_are_told_apart_in_one_column() {
    let mut table = Table::default();
    table.devices.push((DeviceId::from("a"), 4));
    table.times = vec![0, 1, 2, 3];
    let place = table.place(key());
    for (row, state) in [ABSENT, MISSING, ESTIMATED, MEASURED]
        .into_iter()
        .enumerate()
    {
        let value = if has_value(state) { 7.25 } else { 0.0 };
        table.columns[place].set(row, state, value);
    }
    let mut scratch = Scratch::new().unwrap();
    let mut file = FileWriter::new(Plan::of(&Precision::AllDeclared));
    table.round(&Precision::AllDeclared, Catalogue::builtin());
    // A tenth of a watt is declared.
    assert_eq!(fit(table.columns[place].values[3], 1), Some(73));
    file.group(&mut scratch, &mut table, Catalogue::builtin())
        .unwrap();
    let file = file.finish(&mut scratch, Catalogue::builtin()).unwrap();
    assert_eq!((file.frames, file.samples), (4, 3));
}
