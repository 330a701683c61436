use super::*;
use heliostat_models::site::config;
use heliostat_models::{Catalogue, DeviceId, Frame, MetricId, Reading};
use heliostat_store::SteppedClock;
use heliostat_store::embedded::EmbeddedStore;
use std::sync::Arc;

const HOUR: i64 = 3_600;

fn site() -> Arc<Site> {
    let text = include_str!("../../../site-configs/demo.toml");
    let loaded = config::load("demo.toml", text, Default::default());
    Arc::new(loaded.site.expect("the demo's site is sound"))
}

fn frame(device: &DeviceId, seconds: i64, readings: &[(MetricId, f64)]) -> Frame {
    Frame {
        device: device.clone(),
        at: Timestamp::from_seconds(seconds),
        readings: readings
            .iter()
            .map(|(m, v)| (*m, Reading::Measured(*v)))
            .collect(),
    }
}

async fn made(site: &Arc<Site>, frames: Vec<Frame>, options: ReportOptions) -> Report {
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(SteppedClock::new(Timestamp(0)));
    let store = EmbeddedStore::open(directory.path(), Arc::clone(site), clock).unwrap();
    store.append(frames).await.unwrap();
    let (from, to) = (
        Timestamp::from_seconds(0),
        Timestamp::from_seconds(2 * HOUR),
    );
    report(site, store.as_ref(), from, to, options)
        .await
        .unwrap()
}

/// Two hours: the centre at 120 kW, IT at 100 kW, cooling at 15 kW, one GPU at
/// 500 W; 400 g/kWh in the first hour, 200 g/kWh in the second.
fn two_hours(site: &Site) -> Vec<Frame> {
    let mut frames = Vec::new();
    for t in (0..=2 * HOUR).step_by(60) {
        for meter in &site.meters {
            let watts = match meter.role {
                MeterRole::DataCentre => 120_000.0,
                MeterRole::It => 100_000.0,
                MeterRole::Cooling => 15_000.0,
                _ => 0.0,
            };
            frames.push(frame(
                &meter.id,
                t,
                &[(Catalogue::meter_energy(), 1e6 + watts * t as f64)],
            ));
        }
        frames.push(frame(
            &site.devices[0].id,
            t,
            &[(Catalogue::gpu_power(), 500.0)],
        ));
    }
    for (t, grams) in [(0, 400.0), (HOUR, 200.0)] {
        let readings = [
            (Catalogue::grid_carbon_direct(), grams),
            (Catalogue::grid_carbon(), grams + 50.0),
        ];
        frames.push(frame(&site.grid_device(), t, &readings));
    }
    frames
}

fn value(report: &Report, key: &str) -> f64 {
    let found = report.get(key).and_then(|v| v.value);
    found.unwrap_or_else(|| panic!("{key} has no value: {:?}", report.get(key)))
}

#[tokio::test]
async fn figures_agree_with_hand_calculation() {
    let site = site();
    let roles = |role| site.meters.iter().filter(|m| m.role == role).count() as f64;
    assert!(
        roles(MeterRole::DataCentre) == 1.0 && roles(MeterRole::It) >= 1.0,
        "{:?}",
        site.meters
    );
    let report = made(&site, two_hours(&site), ReportOptions::default()).await;
    let near = |key: &str, wanted: f64| {
        let found = value(&report, key);
        assert!(
            (found - wanted).abs() < 1e-6 * wanted.abs().max(1.0),
            "{key}: {found} is not {wanted}"
        );
    };
    near("energy_data_centre", 240.0);
    near("energy_it", 200.0 * roles(MeterRole::It));
    near("pue", 1.2 / roles(MeterRole::It));
    near("carbon_location_based_direct", 120.0 * 0.4 + 120.0 * 0.2);
    near(
        "carbon_location_based_life_cycle",
        120.0 * 0.45 + 120.0 * 0.25,
    );
    near("energy_gpu", 1.0);
    near("cue", 72.0 / 240.0 * value(&report, "pue"));
    let edc = report.get("energy_data_centre").unwrap();
    assert_eq!((edc.measured_share, edc.missing_share), (1.0, 0.0));
    // One of many accelerators, and only its power: estimated, and mostly missing.
    let gpu = report.get("energy_gpu").unwrap();
    assert_eq!(gpu.measured_share, 0.0);
    assert!((gpu.estimated_share - 1.0 / site.devices.len() as f64).abs() < 1e-9);
    // Known for different times: no difference is made of them.
    assert_eq!(report.get("energy_it_other").unwrap().value, None);
    assert_eq!(report.get("pue").unwrap().label, "iPUE");
    assert!(!report.is_empty());
}

/// A report does not change when the raw readings go: registers are exact at
/// every step of a rollup, a power within one reading at each end of the period.
#[tokio::test]
async fn a_report_over_days_whose_readings_are_gone_is_made_of_rollups() {
    let site = site();
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(SteppedClock::new(Timestamp(0)));
    let given = Arc::clone(&clock) as Arc<_>;
    let store = EmbeddedStore::open(directory.path(), Arc::clone(&site), given).unwrap();
    let mut frames = two_hours(&site);
    // Intensities come often enough to be condensed; and the day after has some too.
    frames.retain(|f| f.device != site.grid_device());
    for t in (0..2 * HOUR).step_by(300) {
        let grams = if t < HOUR { 400.0 } else { 200.0 };
        let readings = [
            (Catalogue::grid_carbon_direct(), grams),
            (Catalogue::grid_carbon(), grams + 50.0),
        ];
        frames.push(frame(&site.grid_device(), t, &readings));
    }
    store.append(frames).await.unwrap();
    let span = [0, 2 * HOUR].map(Timestamp::from_seconds);
    let made = async || {
        let options = ReportOptions::default();
        report(&site, store.as_ref(), span[0], span[1], options).await
    };
    let before = made().await.unwrap();
    let late = 91 * 24 * HOUR;
    clock.advance_to(Timestamp::from_seconds(late));
    let sign_of_life = [(Catalogue::gpu_power(), 500.0)];
    let sign_of_life = frame(&site.devices[0].id, late, &sign_of_life);
    store.append(vec![sign_of_life]).await.unwrap();
    store.compact().await.unwrap();
    assert_eq!(store.stats().frames, 1, "the readings are gone");
    let after = made().await.unwrap();
    for key in [
        "energy_data_centre",
        "energy_it",
        "energy_gpu",
        "pue",
        "carbon_location_based_direct",
        "carbon_location_based_life_cycle",
        "cue",
    ] {
        let (wanted, found) = (before.get(key).unwrap(), after.get(key).unwrap());
        // One reading of sixty seconds at either end of two hours.
        let bound = 2.0 * 60.0 / 7_200.0;
        let (a, b) = (value(&before, key), value(&after, key));
        assert!((a - b).abs() <= bound * a, "{key}: {b} is not {a}");
        for (a, b) in [
            (wanted.measured_share, found.measured_share),
            (wanted.estimated_share, found.estimated_share),
            (wanted.missing_share, found.missing_share),
        ] {
            assert!((a - b).abs() <= bound, "{key}: {found:?} is not {wanted:?}");
        }
    }
    let note = &after.get("energy_data_centre").unwrap().note;
    assert!(note.contains("rollups of"), "{note}");
    assert!(
        !before
            .get("energy_data_centre")
            .unwrap()
            .note
            .contains("rollups")
    );
}

#[tokio::test]
async fn no_data_gives_nulls_and_never_zero() {
    let site = site();
    let report = made(&site, vec![], ReportOptions::default()).await;
    assert!(report.is_empty());
    for v in &report.values {
        assert_eq!(
            (
                v.value,
                v.measured_share,
                v.estimated_share,
                v.missing_share
            ),
            (None, 0.0, 0.0, 1.0),
            "{}",
            v.key
        );
    }
    let json = report.to_json();
    assert!(json["values"]["pue"]["value"].is_null());
    assert_eq!(json["values"]["pue"]["missing_share"], 1.0);
    assert!(!report.to_csv().contains("NaN"));
}

#[tokio::test]
async fn a_gap_is_missing_and_the_bounds_widen() {
    let site = site();
    let it: Vec<DeviceId> = site
        .meters
        .iter()
        .filter(|m| m.role == MeterRole::It)
        .map(|m| m.id.clone())
        .collect();
    // The IT meters are silent in the second hour.
    let frames = two_hours(&site)
        .into_iter()
        .filter(|f| !(it.contains(&f.device) && f.at.seconds() > HOUR as f64))
        .collect();
    let report = made(&site, frames, ReportOptions::default()).await;
    let pue = report.get("pue").unwrap();
    assert!((value(&report, "pue") - 1.2 / it.len() as f64).abs() < 1e-9);
    assert!((pue.missing_share - 0.5).abs() < 1e-9);
    assert!(value(&report, "pue_high") > value(&report, "pue"));
    assert!(
        report
            .get("energy_it")
            .unwrap()
            .note
            .contains("lower bound")
    );
}

#[tokio::test]
async fn csv_has_a_line_a_figure_and_quotes_what_needs_it() {
    let site = site();
    let report = made(&site, two_hours(&site), ReportOptions::default()).await;
    let csv = report.to_csv();
    assert_eq!(csv.lines().count(), report.values.len() + 1);
    assert!(csv.lines().nth(1).unwrap().contains(",energy_data_centre,"));
    let json = report.to_json();
    for v in &report.values {
        for field in [
            "value",
            "unit",
            "formula",
            "measured_share",
            "estimated_share",
            "missing_share",
            "note",
        ] {
            assert!(
                json["values"][v.key].get(field).is_some(),
                "{} has no {field}",
                v.key
            );
        }
        let sum = v.measured_share + v.estimated_share + v.missing_share;
        assert!((sum - 1.0).abs() < 1e-9, "{}: shares sum to {sum}", v.key);
    }
}

#[tokio::test]
async fn an_empty_period_is_refused() {
    let site = site();
    let directory = tempfile::tempdir().unwrap();
    let clock = Arc::new(SteppedClock::new(Timestamp(0)));
    let store = EmbeddedStore::open(directory.path(), Arc::clone(&site), clock).unwrap();
    let error = report(
        &site,
        store.as_ref(),
        Timestamp(5),
        Timestamp(5),
        ReportOptions::default(),
    )
    .await
    .unwrap_err();
    assert!(error.to_string().contains("`from` must be before `to`"));
}
