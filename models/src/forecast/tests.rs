//! What the forecasts promise, on made and on recorded series.

use super::*;
use crate::grid::{EmissionFactors, MixHistory, Source};
use proptest::prelude::*;
use std::path::PathBuf;

const START: Timestamp = Timestamp(1_514_764_800_000); // 2018-01-01T00:00:00Z

fn slot(n: usize) -> Timestamp {
    START + SLOT * n as u32
}

/// A series with the same day over and over.
fn daily(slots: usize) -> Vec<(Timestamp, f64)> {
    (0..slots)
        .map(|n| {
            (
                slot(n),
                200.0 + 50.0 * ((n % DAY) as f64 / DAY as f64 * std::f64::consts::TAU).sin(),
            )
        })
        .collect()
}

#[test]
fn a_series_that_repeats_is_forecast_exactly_by_both() {
    let history = daily(40 * DAY);
    let truth = daily(44 * DAY);
    let issued = slot(40 * DAY - 1) + Duration::from_secs(60);
    for made in [
        forecast(&history, issued, &Limits::ANY).unwrap(),
        persistence(&history, issued, &Limits::ANY).unwrap(),
    ] {
        assert_eq!(made.slots.len(), SLOTS);
        assert_eq!(made.slots[0].start, slot(40 * DAY - 1));
        assert!((made.coverage - 1.0).abs() < 1e-12);
        for (h, s) in made.slots.iter().enumerate() {
            let expected = truth[40 * DAY - 1 + h].1;
            assert!((s.value - expected).abs() < 1e-6, "slot {h}");
            // Its past errors were zero.
            assert!(s.high - s.low < 1e-6);
        }
    }
}

#[test]
fn a_jump_of_the_level_is_followed_and_fades() {
    let mut history = daily(30 * DAY);
    for (_, value) in &mut history[30 * DAY - 4..] {
        *value += 100.0;
    }
    let issued = slot(30 * DAY);
    let base = daily(33 * DAY);
    let made = forecast(&history, issued, &Limits::ANY).unwrap();
    let excess = |h: usize| made.slots[h].value - base[30 * DAY + h].1;
    // exp(-1/144) of the jump at once, exp(-97/144) after a day.
    assert!(
        (excess(1) - 100.0 * (-2.0_f64 / 144.0).exp()).abs() < 1.0,
        "{}",
        excess(1)
    );
    assert!(
        (excess(90) - 100.0 * (-91.0_f64 / 144.0).exp()).abs() < 1.0,
        "{}",
        excess(90)
    );
}

#[test]
fn hourly_records_fill_their_hour_and_no_more() {
    let history: Vec<_> = (0..24 * 20).map(|h| (slot(4 * h), h as f64)).collect();
    let series = Series::new(&history, slot(4 * 24 * 20), 40).unwrap();
    let at = |n: usize| series.get(series.slot_of(slot(n)));
    assert_eq!((at(8), at(11), at(12)), (Some(2.0), Some(2.0), Some(3.0)));
    assert_eq!(at(4 * 24 * 20 - 1), Some(479.0));
    assert_eq!(at(4 * 24 * 20), None);
}

#[test]
fn no_history_no_forecast_and_one_value_goes_on() {
    let any = Limits::ANY;
    assert_eq!(forecast(&[], slot(0), &any), None);
    assert_eq!(forecast(&[(slot(9), 1.0)], slot(0), &any), None);
    assert_eq!(forecast(&[(slot(0), f64::NAN)], slot(1), &any), None);
    let one = forecast(&[(slot(0), 7.0)], slot(3), &any).unwrap();
    assert!(one.slots.iter().all(|s| s.value == 7.0));
    assert_eq!(
        one.at(slot(3) + Duration::from_secs(899)).unwrap().start,
        slot(3)
    );
    assert_eq!(one.at(slot(2)), None);
    assert_eq!(one.at(slot(3 + SLOTS)), None);
}

fn history_strategy() -> impl Strategy<Value = Vec<(Timestamp, f64)>> {
    // Gaps, jitter and two values in a slot included.
    proptest::collection::vec((0_i64..20 * 86_400, -50.0..900.0_f64), 1..400).prop_map(|records| {
        (records.into_iter())
            .map(|(s, v)| (START + Duration::from_secs(s as u64), v))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn never_looks_past_the_issue_time(
        history in history_strategy(),
        issue_day in 1_u64..20,
        later in -1_000.0..1_000.0_f64,
    ) {
        let issued = START + Duration::from_secs(issue_day * 86_400 + 1_234);
        let limits = Limits::NOT_NEGATIVE;
        let past: Vec<_> = history.iter().copied().filter(|(at, _)| *at <= issued).collect();
        let changed: Vec<_> = (history.iter())
            .map(|(at, v)| (*at, if *at > issued { later } else { *v }))
            .collect();
        for method in [forecast, persistence] {
            let with = method(&history, issued, &limits);
            prop_assert_eq!(&with, &method(&past, issued, &limits));
            prop_assert_eq!(&with, &method(&changed, issued, &limits));
        }
    }

    #[test]
    fn keeps_order_limits_and_slots(history in history_strategy(), issue_day in 1_u64..20) {
        let issued = START + Duration::from_secs(issue_day * 86_400 + 77);
        let Some(made) = forecast(&history, issued, &Limits::NOT_NEGATIVE) else {
            return Ok(());
        };
        prop_assert_eq!(made.slots.len(), SLOTS);
        for (h, s) in made.slots.iter().enumerate() {
            prop_assert_eq!(s.start, issued.floor_to(SLOT) + SLOT * h as u32);
            prop_assert!(0.0 <= s.low && s.low <= s.value && s.value <= s.high);
            prop_assert!(s.high.is_finite());
        }
        // The order in which records come does not matter.
        let mut reversed = history.clone();
        reversed.reverse();
        prop_assert_eq!(Some(made), forecast(&reversed, issued, &Limits::NOT_NEGATIVE));
    }
}

fn recorded(zone: &str) -> Option<Vec<(Timestamp, f64)>> {
    let root = std::env::var_os("HELIOSTAT_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")),
        PathBuf::from,
    );
    let folder = root.join("data/public/generation_by_source");
    let mut series = Vec::new();
    let mut history = MixHistory::default();
    for year in [2018, 2019] {
        let text = std::fs::read_to_string(folder.join(format!("{zone}_{year}.csv"))).ok()?;
        let mut lines = text.lines();
        let columns: Vec<_> = lines.next()?.split(',').map(Source::from_column).collect();
        // The beginning of the second year is enough, and quick.
        for line in lines.take(if year == 2018 { usize::MAX } else { 3_000 }) {
            let mut cells = line.split(',');
            let at = Timestamp::parse(cells.next()?)?;
            let mix = (columns[1..].iter().zip(cells))
                .filter_map(|(source, cell)| Some(((*source)?, cell.parse().ok())))
                .collect();
            history.observe(at, &mix);
            let found = history.indicators(at, &mix, EmissionFactors::builtin());
            series.extend(found.life_cycle.value().map(|value| (at, value)));
        }
    }
    Some(series)
}

#[test]
fn on_recorded_series_ours_beats_persistence_and_its_interval_holds() {
    let (mut pooled_ours, mut pooled_theirs) = (0.0, 0.0);
    let (mut inside, mut all) = (0_u32, 0_u32);
    for zone in ["DE", "FI", "GR", "IT", "ES", "SE", "FR"] {
        let Some(series) = recorded(zone) else {
            eprintln!("SKIPPED: no recorded generation; set HELIOSTAT_SHARED to where it is");
            return;
        };
        let (mut ours, mut theirs, mut count) = (0.0, 0.0, 0.0);
        // Every 13 days and 7 hours, so that all hours and weekdays come.
        let mut issued = series[0].0 + Duration::from_secs(35 * 86_400);
        let end = series[series.len() - 1].0 - Duration::from_secs(3 * 86_400);
        while issued < end {
            let from =
                series.partition_point(|(at, _)| *at < issued - Duration::from_secs(31 * 86_400));
            let to =
                series.partition_point(|(at, _)| *at <= issued + Duration::from_secs(3 * 86_400));
            // The later values are handed in too: they must not matter.
            let window = &series[from..to];
            let limits = Limits::NOT_NEGATIVE;
            let (Some(a), Some(b)) = (
                forecast(window, issued, &limits),
                persistence(window, issued, &limits),
            ) else {
                issued = issued + Duration::from_secs(86_400);
                continue;
            };
            for (at, truth) in window.iter().filter(|(at, _)| *at > issued) {
                let (Some(x), Some(y)) = (a.at(*at), b.at(*at)) else {
                    continue;
                };
                ours += (x.value - truth).abs();
                theirs += (y.value - truth).abs();
                count += 1.0;
                all += 1;
                inside += u32::from((x.low..=x.high).contains(truth));
            }
            issued = issued + Duration::from_secs(13 * 86_400 + 7 * 3_600);
        }
        assert!(count > 1_000.0, "{zone}");
        let (ours, theirs) = (ours / count, theirs / count);
        eprintln!(
            "{zone}: mean absolute error over 48 h {ours:.1} g/kWh, persistence {theirs:.1} ({:.2})",
            ours / theirs
        );
        pooled_ours += ours / theirs;
        pooled_theirs += 1.0;
    }
    let ratio = pooled_ours / pooled_theirs;
    let held = f64::from(inside) / f64::from(all);
    eprintln!(
        "pooled ratio {ratio:.3}; {:.0} % within the 80 % interval",
        100.0 * held
    );
    assert!(ratio < 0.9, "{ratio}");
    assert!((0.7..0.9).contains(&held), "{held}");
}
