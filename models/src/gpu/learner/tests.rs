use super::*;
use crate::gpu::{GpuModel, WorkloadFamily};
use proptest::prelude::*;
use std::sync::LazyLock;

const RANGE: (Watts, Watts) = (Watts(200.0), Watts(700.0));

static PRIOR: LazyLock<SpeedPrior> = LazyLock::new(|| {
    SpeedPrior::modelled(&GpuModel::h100_sxm(), WorkloadFamily::LlmTraining, RANGE).unwrap()
});

fn prior() -> SpeedPrior {
    PRIOR.clone()
}

fn seen(cap: f64, rate: f64, source: Source, at: i64) -> Observation {
    Observation {
        cap: Watts(cap),
        rate,
        source,
        at: Timestamp(at),
        weight: 1.0,
    }
}

fn is_concave_and_monotone(curve: &SpeedCurve) -> bool {
    let slopes: Vec<f64> = (curve.points().windows(2))
        .map(|p| (p[1].1 - p[0].1) / (p[1].0 - p[0].0).0)
        .collect();
    slopes.iter().all(|s| *s >= -1e-12) && slopes.windows(2).all(|s| s[1] <= s[0] + 1e-9)
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![Just(Source::Throughput), Just(Source::Clock)]
}

proptest! {
    #[test]
    fn curves_are_concave_and_monotone_and_lie_between_their_bounds(
        observations in prop::collection::vec((150.0..800.0f64, 0.05..3.0f64, source(), 0i64..9_000_000), 0..40),
        low in 50.0..400.0f64, width in 0.0..600.0f64,
    ) {
        let mut learner = SpeedLearner::new(prior(), (Watts(low), Watts(low + width)));
        for (cap, rate, source, at) in &observations {
            learner.observe(&seen(*cap, *rate, *source, *at));
        }
        let found = learner.estimate(Timestamp(9_000_000));
        for curve in [&found.curve, &found.lower, &found.upper] {
            prop_assert!(is_concave_and_monotone(curve), "{curve:?}");
        }
        prop_assert!((found.curve.speed(Watts(low + width)) - 1.0).abs() < 1e-9);
        for step in 0..=60 {
            let cap = Watts(low + width * f64::from(step) / 60.0);
            let (down, here, up) = (found.lower.speed(cap), found.curve.speed(cap), found.upper.speed(cap));
            prop_assert!(down >= 0.0 && down <= here + 1e-9 && here <= up + 1e-9, "{down} {here} {up} at {cap}");
        }
    }

    #[test]
    fn the_same_observations_give_the_same_bytes(
        observations in prop::collection::vec((200.0..700.0f64, 0.1..2.0f64, source()), 1..20),
    ) {
        let learn = || {
            let mut learner = SpeedLearner::new(prior(), RANGE);
            for (cap, rate, source) in &observations {
                learner.observe(&seen(*cap, *rate, *source, 0));
            }
            serde_json::to_string(&learner.estimate(Timestamp(0)).curve).unwrap()
        };
        prop_assert_eq!(learn(), learn());
    }

    #[test]
    fn the_unit_of_the_throughput_does_not_matter(
        rates in prop::collection::vec((200.0..700.0f64, 0.3..1.0f64), 1..8), unit in -6.0..9.0f64,
    ) {
        let learn = |unit: f64| {
            let mut learner = SpeedLearner::new(prior(), RANGE);
            for (cap, rate) in &rates {
                learner.observe(&seen(*cap, rate * unit, Source::Throughput, 0));
            }
            learner.estimate(Timestamp(0))
        };
        let (one, other) = (learn(1.0), learn(unit.exp()));
        for cap in (200..=700).step_by(25) {
            let cap = Watts(f64::from(cap));
            prop_assert!((one.curve.speed(cap) - other.curve.speed(cap)).abs() < 1e-6);
        }
    }

    #[test]
    fn converges_to_the_truth_under_noise(
        bend in 0.1..1.0f64, knee in 300.0..800.0f64, seed: u64,
    ) {
        let truth = |cap: f64| (cap.min(knee) / knee.min(700.0)).powf(bend);
        let mut state = seed;
        let mut noise = || {
            let mut sum = -6.0;
            for _ in 0..12 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                sum += (state >> 40) as f64 / (1u64 << 24) as f64;
            }
            0.02 * sum
        };
        let mut learner = SpeedLearner::new(prior(), RANGE);
        for round in 0..60 {
            for step in 0..9 {
                let cap = 200.0 + 62.5 * f64::from(step);
                let rate = 87.0 * truth(cap) * (1.0 + noise());
                learner.observe(&seen(cap, rate, Source::Throughput, round * 10_000));
            }
        }
        let found = learner.estimate(Timestamp(600_000));
        // Between the caps seen, nobody can know where a knee lies.
        for step in 0..9 {
            let cap = 200.0 + 62.5 * f64::from(step);
            let (cap, truth) = (Watts(cap), truth(cap));
            let off = (found.curve.speed(cap) - truth).abs();
            prop_assert!(off < 0.035, "{off} at {cap} (bend {bend}, knee {knee})");
        }
        let rate = found.full_rate.unwrap();
        prop_assert!((rate / 87.0 - 1.0).abs() < 0.03, "{rate}");
    }
}

#[test]
fn without_observations_it_is_the_prior() {
    for family in WorkloadFamily::ALL {
        let gpu = GpuModel::h100_sxm();
        let prior = SpeedPrior::modelled(&gpu, family, RANGE).unwrap();
        let stated = family
            .workload()
            .speed_curve(&gpu, RANGE.0, RANGE.1)
            .unwrap();
        let found = SpeedLearner::new(prior, RANGE).estimate(Timestamp(0));
        for cap in (200..=700).step_by(10) {
            let cap = Watts(f64::from(cap));
            let full = stated.speed(RANGE.1);
            let off = (found.curve.speed(cap) - stated.speed(cap) / full).abs();
            assert!(off < 0.02, "{family:?}: off by {off} at {cap}");
        }
        assert_eq!((found.full_rate, found.seen), (None, (0, 0)));
    }
}

#[test]
fn a_full_clock_under_a_low_cap_says_that_the_cap_costs_nothing() {
    let mut learner = SpeedLearner::new(prior(), RANGE);
    let before = learner.estimate(Timestamp(0));
    for at in 0..30 {
        learner.observe(&seen(300.0, 0.995, Source::Clock, at * 1_000));
    }
    let after = learner.estimate(Timestamp(30_000));
    assert!(before.curve.speed(Watts(300.0)) < 0.85);
    assert!(after.curve.speed(Watts(300.0)) > 0.95);
    assert!(after.lower.speed(Watts(300.0)) > before.lower.speed(Watts(300.0)));
}

#[test]
fn a_throughput_is_believed_more_than_a_clock_and_a_fresh_one_more_than_an_old() {
    let gap = |source: Source, now: i64| {
        let mut learner = SpeedLearner::new(prior(), RANGE);
        learner.observe(&seen(700.0, 1.0, source, 0));
        for _ in 0..20 {
            learner.observe(&seen(400.0, 0.5, source, 0));
        }
        let found = learner.estimate(Timestamp(now));
        found.upper.speed(Watts(400.0)) - found.lower.speed(Watts(400.0))
    };
    let hours = 6 * 3_600_000;
    assert!(gap(Source::Throughput, 0) < 0.6 * gap(Source::Clock, 0));
    assert!(gap(Source::Throughput, 0) < gap(Source::Throughput, hours));
}

#[test]
fn a_stated_curve_is_trusted_until_throughput_speaks_against_it() {
    let stated = SpeedCurve::envelope(&[(Watts(200.0), 0.3), (Watts(700.0), 1.0)]).unwrap();
    let new = || SpeedLearner::stated(&prior(), &stated, 0.25, RANGE);
    let narrow = new().estimate(Timestamp(0));
    let wide = SpeedLearner::new(prior().around(&stated, RANGE.1), RANGE).estimate(Timestamp(0));
    let gap = |it: &SpeedEstimate| it.upper.speed(Watts(300.0)) - it.lower.speed(Watts(300.0));
    assert!(gap(&narrow) < 0.5 * gap(&wide));
    let mut learner = new();
    for (cap, rate) in [(700.0, 1.0), (450.0, 0.97), (325.0, 0.9)] {
        for _ in 0..10 {
            learner.observe(&seen(cap, 40.0 * rate, Source::Throughput, 0));
        }
    }
    let found = learner.estimate(Timestamp(0));
    for (cap, rate) in [(450.0, 0.97), (325.0, 0.9)] {
        let off = found.curve.speed(Watts(cap)) - rate;
        assert!(off.abs() < 0.04, "{off} at {cap}");
    }
}
