use super::*;
use crate::quantity::Watts;
use crate::reading::Reading;
use crate::time::Timestamp;
use proptest::prelude::*;
use std::time::Duration;

const RULES: EnergyRules = EnergyRules {
    max_power: Watts(1_000.0),
    max_gap: Duration::from_secs(60),
    register_span: None,
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(seconds)
}

fn series(values: &[(i64, f64)]) -> Vec<Placed> {
    values
        .iter()
        .map(|(t, v)| (at(*t), Reading::Measured(*v)))
        .collect()
}

fn profile(from: i64, to: i64, register: &[(i64, f64)], power: &[(i64, f64)]) -> Profile {
    Profile::new(at(from), at(to), &series(register), &series(power), &RULES)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * (1.0 + a.abs().max(b.abs()))
}

#[test]
fn a_sound_register_is_believed_even_over_a_long_gap() {
    let e = profile(0, 3_600, &[(0, 5.0), (3_600, 3_605.0)], &[]).energy();
    assert_eq!((e.measured, e.estimated), (Joules(3_600.0), Joules(0.0)));
    assert_eq!(e.coverage.shares().measured, 1.0);
}

#[test]
fn a_restart_falls_back_to_power_and_else_is_unknown() {
    let register = [(0, 100.0), (10, 1_100.0), (20, 50.0), (30, 1_050.0)];
    let e = profile(0, 30, &register, &[]).energy();
    assert_eq!((e.measured, e.estimated), (Joules(2_000.0), Joules(0.0)));
    assert_eq!(e.coverage.unknown_seconds, 10.0);
    let e = profile(0, 30, &register, &[(5, 100.0), (15, 100.0), (25, 100.0)]).energy();
    assert_eq!(
        (e.measured, e.estimated),
        (Joules(2_000.0), Joules(1_000.0))
    );
    assert_eq!(e.coverage.unknown_seconds, 0.0);
}

#[test]
fn a_wrap_is_believed_only_where_the_span_is_known_and_the_power_plausible() {
    let register = series(&[(0, 4_000.0), (10, 500.0)]);
    let energy = |span| {
        let rules = EnergyRules {
            register_span: Some(Joules(span)),
            ..RULES
        };
        Profile::new(at(0), at(10), &register, &[], &rules).energy()
    };
    assert_eq!(
        energy(4_294.967_296).measured,
        Joules(4_294.967_296 - 4_000.0 + 500.0)
    );
    assert_eq!(energy(1e9).known(), None);
}

#[test]
fn a_register_that_grows_faster_than_the_power_allows_is_refused() {
    let e = profile(0, 20, &[(0, 0.0), (10, 1e6), (20, 1e6 + 100.0)], &[]).energy();
    assert_eq!(e.measured, Joules(100.0));
    assert_eq!(e.coverage.unknown_seconds, 10.0);
}

#[test]
fn power_is_integrated_over_short_gaps_only_and_clipped_at_the_edges() {
    // 100 W rising to 200 W from -10 s to 10 s; then a gap of 100 s; then 300 W for 10 s.
    let power = [(-10, 100.0), (10, 200.0), (110, 300.0), (120, 300.0)];
    let e = profile(0, 130, &[], &power).energy();
    assert!(close(e.estimated.0, 175.0 * 10.0 + 3_000.0), "{e:?}");
    assert_eq!(e.coverage.estimated_seconds, 20.0);
    assert_eq!(e.coverage.unknown_seconds, 110.0);
}

#[test]
fn nothing_known_is_none_and_all_missing() {
    let e = profile(0, 60, &[(30, 5.0)], &[(30, 5.0)]).energy();
    assert_eq!(e.known(), None);
    assert_eq!(e.coverage.shares(), Shares::NONE);
    assert_eq!(
        profile(5, 5, &[], &[]).energy().coverage.shares(),
        Shares::NONE
    );
}

#[test]
fn pue_is_the_ratio_of_sums_over_common_time() {
    // The centre at 150 W for an hour; IT at 100 W, but its meter silent in the second half.
    let edc = profile(
        0,
        3_600,
        &[(0, 0.0), (1_800, 270_000.0), (3_600, 540_000.0)],
        &[],
    );
    let eit = profile(0, 3_600, &[(0, 0.0), (1_800, 180_000.0)], &[]);
    let sums = RatioSums::of(&edc, &eit);
    let errors = MeterErrors {
        relative: 0.0,
        max_data_centre: Some(Watts(200.0)),
        max_it: Some(Watts(150.0)),
    };
    let pue = Pue::new(&sums, PueCategory::from_number(1), &errors);
    assert_eq!(pue.value, Some(1.5));
    assert_eq!(pue.label, "iPUE");
    assert_eq!(pue.shares.missing, 0.5);
    // Low: 270 kJ + 150 W * 1800 s over 180 kJ + the same. High: 270 kJ + 200 W * 1800 s over 180 kJ.
    assert!(close(pue.low.unwrap(), 540.0 / 450.0));
    assert!(close(pue.high.unwrap(), 630.0 / 180.0));
    let unbounded = Pue::new(&sums, None, &MeterErrors::default());
    assert_eq!((unbounded.low, unbounded.high), (None, None));
    // Meters of class 1 alone: 1.5 * 1.01 / 0.99.
    let whole = RatioSums::of(
        &edc,
        &profile(0, 3_600, &[(0, 0.0), (3_600, 360_000.0)], &[]),
    );
    let class = MeterErrors {
        relative: 0.01,
        ..MeterErrors::default()
    };
    let pue = Pue::new(&whole, None, &class);
    assert!(close(pue.high.unwrap(), 1.5 * 1.01 / 0.99));
    assert!(close(pue.low.unwrap(), 1.5 * 0.99 / 1.01));
}

#[test]
fn a_year_makes_pue_of_ipue_and_no_it_makes_none() {
    let year = 365 * 86_400;
    let edc = profile(0, year, &[(0, 0.0), (year, 2.0 * year as f64)], &[]);
    let eit = profile(0, year, &[(0, 0.0), (year, year as f64)], &[]);
    let pue = Pue::new(&RatioSums::of(&edc, &eit), None, &MeterErrors::default());
    assert_eq!((pue.label, pue.value), ("PUE", Some(2.0)));
    let idle = profile(0, year, &[(0, 7.0), (year, 7.0)], &[]);
    assert_eq!(RatioSums::of(&edc, &idle).ratio(), None);
}

#[test]
fn two_feeds_together_are_known_only_where_both_are() {
    let one = profile(0, 100, &[(0, 0.0), (60, 600.0)], &[]);
    let two = profile(0, 100, &[], &[(30, 100.0), (50, 300.0), (100, 300.0)]);
    let both = one.plus(&two).energy();
    // 30 s to 60 s: 10 W, and 200 W on average for 20 s, then 300 W for 10 s.
    assert_eq!(both.measured, Joules(0.0));
    assert!(
        close(both.estimated.0, 300.0 + 4_000.0 + 3_000.0),
        "{both:?}"
    );
    assert_eq!(both.coverage.unknown_seconds, 70.0);
}

#[test]
fn carbon_is_energy_times_intensity_over_time() {
    // 1 kWh in the first hour at 400 g, 1 kWh in the second at 100 g; the third has no intensity.
    let hours = profile(0, 10_800, &[(0, 0.0), (10_800, 3.0 * 3.6e6)], &[]);
    let intensity = series(&[(0, 400.0), (3_600, 100.0)]);
    let found = carbon(&hours, &intensity, Duration::from_secs(3_600));
    assert!(close(found.grams().unwrap(), 500.0));
    assert!(close(found.coverage.shares().missing, 1.0 / 3.0));
    assert!(close(found.energy.kilowatt_hours(), 2.0));
    // At a PUE of 1.25: 0.25 kg/kWh of the centre's energy make 0.3125 kg per kWh of IT.
    let sums = RatioSums {
        numerator: Joules(5.0),
        denominator: Joules(4.0),
        coverage: Coverage {
            measured_seconds: 1.0,
            ..Coverage::default()
        },
    };
    assert!(close(cue(&found, found.energy, &sums).unwrap(), 0.3125));
    assert_eq!(
        carbon(&hours, &[], Duration::from_secs(3_600)).grams(),
        None
    );
}

#[test]
fn the_renewable_factor_adds_up_to_one_at_most() {
    assert_eq!(renewable_factor(None, None), None);
    assert_eq!(renewable_factor(Some(0.25), None), Some(0.25));
    assert_eq!(renewable_factor(Some(0.5), Some(1.0)), Some(1.0));
}

fn readings(top: f64) -> impl Strategy<Value = Vec<Placed>> {
    let reading = prop_oneof![
        6 => (0.0..top).prop_map(Reading::Measured),
        1 => (0.0..top).prop_map(Reading::Estimated),
        1 => Just(Reading::Missing),
        1 => Just(Reading::Measured(f64::NAN)),
        1 => (-top..top * 1e6).prop_map(Reading::Measured),
    ];
    prop::collection::vec((1i64..90, reading), 0..30).prop_map(|steps| {
        let mut t = -60;
        steps
            .into_iter()
            .map(|(step, reading)| {
                t += step;
                (at(t), reading)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn shares_sum_to_one_energy_is_bounded_and_parts_make_the_whole(
        register in readings(5_000.0), power in readings(1_000.0), cut in 0i64..1_000, wraps: bool,
    ) {
        let rules = EnergyRules { register_span: wraps.then_some(Joules(6_000.0)), ..RULES };
        let build = |from, to| Profile::new(at(from), at(to), &register, &power, &rules);
        let whole = build(0, 1_000).energy();
        let shares = whole.coverage.shares();
        prop_assert!(close(shares.measured + shares.estimated + shares.missing, 1.0));
        prop_assert!(close(whole.coverage.seconds(), 1_000.0));
        let total = whole.measured + whole.estimated;
        prop_assert!(total.0 >= 0.0);
        prop_assert!(total.0 <= rules.max_power.0 * whole.coverage.known_seconds() * (1.0 + 1e-8));
        // Splitting the interval anywhere gives the same sum and the same known time,
        // whether one profile is asked twice or two are built.
        let one = build(0, 1_000);
        for halves in [
            [one.energy_of(at(0), at(cut)), one.energy_of(at(cut), at(1_000))],
            [build(0, cut).energy(), build(cut, 1_000).energy()],
        ] {
            let both: Energy = halves.into_iter().sum();
            prop_assert!(close((both.measured + both.estimated).0, total.0));
            prop_assert!(close(both.coverage.known_seconds(), whole.coverage.known_seconds()));
        }
    }

    #[test]
    fn a_ratio_of_a_profile_to_itself_is_one(register in readings(5_000.0), power in readings(1_000.0)) {
        let p = Profile::new(at(0), at(1_000), &register, &power, &RULES);
        let sums = RatioSums::of(&p, &p);
        prop_assert!(close(sums.numerator.0, sums.denominator.0));
        prop_assert!(close(sums.coverage.known_seconds(), p.energy().coverage.known_seconds()));
    }
}
