use super::*;
use std::collections::HashSet;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn replay(zone: &str, from: &str, until: &str) -> Vec<Frame> {
    let mut grid = GridReplay::new(zone, DeviceId::from("grid"), at(from), Duration::ZERO).unwrap();
    grid.sample(at(until)).unwrap()
}

fn price(frame: &Frame) -> Option<f64> {
    frame.get(Catalogue::grid_price()).and_then(Reading::value)
}

#[test]
fn a_record_is_emitted_once_when_it_begins() {
    let mut grid = GridReplay::new(
        "DE",
        DeviceId::from("grid-DE"),
        at("2018-05-01"),
        Duration::ZERO,
    )
    .unwrap();
    let first = grid.sample(at("2018-05-01")).unwrap();
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].at, at("2018-05-01"));
    assert!(grid.sample(at("2018-05-01T00:14:59Z")).unwrap().is_empty());
    let next = grid.sample(at("2018-05-01T00:15:00Z")).unwrap();
    assert_eq!(next.len(), 1);
    // The price changes with the hour only.
    assert!(price(&first[0]).is_some());
    assert_eq!(next[0].get(Catalogue::grid_price()), None);
    let carbon = next[0]
        .get(Catalogue::grid_carbon())
        .and_then(Reading::value)
        .unwrap();
    let direct = next[0]
        .get(Catalogue::grid_carbon_direct())
        .and_then(Reading::value)
        .unwrap();
    let share = next[0]
        .get(Catalogue::grid_renewable())
        .and_then(Reading::value)
        .unwrap();
    assert!(
        (100.0..900.0).contains(&carbon) && direct < carbon,
        "{carbon} {direct}"
    );
    assert!((0.05..0.95).contains(&share));
}

#[test]
fn the_backfill_comes_with_the_first_sample() {
    let day = Duration::from_secs(86_400);
    let mut grid = GridReplay::new("FI", DeviceId::from("g"), at("2018-05-02"), day).unwrap();
    let frames = grid.sample(at("2018-05-02")).unwrap();
    assert_eq!(frames.len(), 25);
    assert_eq!(frames[0].at, at("2018-05-01"));
    assert!(frames.windows(2).all(|w| w[0].at < w[1].at));
}

#[test]
fn gaps_stay_gaps() {
    let frames = replay("ES", "2018-11-07T06:00:00Z", "2018-11-07T10:00:00Z");
    let instants: Vec<Timestamp> = frames.iter().map(|f| f.at).collect();
    let recorded = ["06", "07", "09", "10"].map(|h| at(&format!("2018-11-07T{h}:00:00Z")));
    assert_eq!(instants, recorded, "08:00 was never published");
}

#[test]
fn a_replay_runs_over_the_turn_of_the_year_and_ends_with_the_recording() {
    let frames = replay("SE", "2018-12-31T21:00:00Z", "2019-01-01T01:00:00Z");
    assert_eq!(frames.len(), 5);
    let unique: HashSet<Timestamp> = frames.iter().map(|f| f.at).collect();
    assert_eq!(unique.len(), 5);
    assert!(replay("SE", "2020-01-01", "2020-02-01").is_empty());
    assert!(replay("SE", "2010-01-01", "2010-02-01").is_empty());
}

#[test]
fn the_day_of_summer_time_has_23_prices() {
    // Local midnight is 23:00 UTC the day before; summer time begins at 01:00 UTC.
    let frames = replay("DE", "2018-03-24T23:00:00Z", "2018-03-25T21:59:00Z");
    let prices: Vec<(Timestamp, f64)> = frames
        .iter()
        .filter_map(|f| Some((f.at, price(f)?)))
        .collect();
    assert_eq!(prices.len(), 23);
    assert!(
        prices
            .windows(2)
            .all(|w| w[1].0.seconds_since(w[0].0) == 3_600.0)
    );
    // Northern Italy shows both sides of the change: 01:00 and 03:00 local.
    let frames = replay("IT-NORD", "2018-03-25T00:00:00Z", "2018-03-25T01:00:00Z");
    let prices: Vec<f64> = frames.iter().filter_map(price).collect();
    assert_eq!(prices, [46.0, 37.85]);
}

#[test]
fn the_day_of_winter_time_has_25_prices_in_order() {
    let frames = replay("DE-LU", "2018-10-27T22:00:00Z", "2018-10-28T22:59:00Z");
    let prices: Vec<(Timestamp, f64)> = frames
        .iter()
        .filter_map(|f| Some((f.at, price(f)?)))
        .collect();
    assert_eq!(prices.len(), 25);
    assert!(
        prices
            .windows(2)
            .all(|w| w[1].0.seconds_since(w[0].0) == 3_600.0)
    );
    // 02:00 twice: summer time first.
    let of = |text| prices.iter().find(|(t, _)| *t == at(text)).unwrap().1;
    assert_eq!(of("2018-10-28T00:00:00Z"), 41.62);
    assert_eq!(of("2018-10-28T01:00:00Z"), 41.59);
}

#[test]
fn the_german_price_changes_its_column_without_a_break() {
    let frames = replay("DE", "2018-09-30T20:00:00Z", "2018-09-30T23:00:00Z");
    let prices: Vec<f64> = frames.iter().filter_map(price).collect();
    assert_eq!(prices.len(), 4);
    // 00:00 on 1 October local is 22:00 UTC: the first of the new zone.
    assert_eq!(prices[2], 59.53);
}

#[test]
fn a_zone_without_a_recorded_price_has_none() {
    for zone in ["FI", "GR", "ES", "SE", "SE3"] {
        let frames = replay(zone, "2018-05-01", "2018-05-02");
        assert!(frames.len() >= 24, "{zone}");
        assert!(frames.iter().all(|f| price(f).is_none()), "{zone}");
    }
}

#[test]
fn an_unknown_zone_is_answered_with_those_that_are_known() {
    let Err(error) = GridReplay::new("XX", DeviceId::from("g"), Timestamp(0), Duration::ZERO)
    else {
        panic!("XX is no zone");
    };
    assert!(
        error.to_string().contains("DE, FI, GR, IT, ES and SE"),
        "{error}"
    );
}

#[test]
fn every_file_is_sound_and_of_its_resolution() {
    // The whole of each is read by a replay over both years, a zone at a time.
    for (zone, least) in [("FI", 17_500), ("IT", 17_500)] {
        let frames = replay(zone, "2017-12-31T23:00:00Z", "2020-01-01");
        assert!(frames.len() >= least, "{zone}: {}", frames.len());
        let known = frames.iter().filter(|f| {
            f.get(Catalogue::grid_carbon())
                .and_then(Reading::value)
                .is_some()
        });
        assert!(known.count() * 100 > frames.len() * 90, "{zone}");
    }
}
