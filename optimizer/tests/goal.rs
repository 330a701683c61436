//! Most work per joule, and the fairest speeds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

mod support;

use heliostat_models::Watts;
use heliostat_optimizer::allocate::{Problem, allocate, fairest, most_work_per_joule, objective};
use support::scale::{Scale, gangs, singles};
use support::worst_excess;

fn scale(rng: &mut fastrand::Rng) -> Scale {
    Scale {
        devices: rng.usize(10..80),
        rack: rng.usize(2..10),
        row: rng.usize(1..4),
        hall: 2,
        corners: rng.usize(3..10),
        tight: 0.4 + 0.5 * rng.f64(),
    }
}

fn power(problem: &Problem, caps: &[Watts]) -> f64 {
    let feeds = problem.nodes.iter().filter(|n| n.parents.is_empty());
    let fixed = feeds.map(|f| f.uncontrolled.0).fold(0.0, f64::max);
    caps.iter().map(|c| c.0).sum::<f64>() + fixed
}

#[test]
fn no_price_of_energy_gives_more_work_per_joule_within_the_slowdown() {
    let mut rng = fastrand::Rng::with_seed(21);
    for _ in 0..20 {
        let scale = scale(&mut rng);
        let mut case = singles(&mut rng, scale);
        let most = objective(&case, &allocate(&case).unwrap().allocation().caps);
        for slowdown in [0.0, 0.02, 0.1, 1.0] {
            let got = most_work_per_joule(&case, slowdown).unwrap();
            let caps = &got.outcome.allocation().caps;
            assert!(worst_excess(&case, caps) <= 1e-6);
            assert!((objective(&case, caps) - got.work).abs() <= 1e-9 * got.work);
            assert!(got.work >= (1.0 - slowdown) * most - 1e-9 * most);
            assert!((power(&case, caps) - got.power.0).abs() <= 1e-6);
            for step in 0..60 {
                case.price_of_energy = 0.0002 * f64::from(step);
                let other = allocate(&case).unwrap().allocation().caps.clone();
                case.price_of_energy = 0.0;
                let work = objective(&case, &other);
                if work >= (1.0 - slowdown) * most {
                    let ratio = work / power(&case, &other);
                    assert!(ratio <= got.work / got.power.0 * (1.0 + 1e-9));
                }
            }
        }
    }
}

#[test]
fn nobody_can_be_faster_without_making_someone_as_slow_slower() {
    let mut rng = fastrand::Rng::with_seed(22);
    for round in 0..20 {
        let scale = scale(&mut rng);
        let case = if round % 2 == 0 {
            singles(&mut rng, scale)
        } else {
            let jobs = rng.usize(3..12);
            gangs(&mut rng, scale, jobs, 10)
        };
        let by_group = fairest(&case).unwrap().unwrap();
        let caps = |changed: usize, by: f64| {
            let mut caps = vec![Watts(100.0); case.devices.len()];
            for (place, group) in case.groups.iter().enumerate() {
                for device in &group.devices {
                    let more = if place == changed { by } else { 0.0 };
                    caps[*device] = by_group[place] + Watts(more);
                }
            }
            caps
        };
        assert!(worst_excess(&case, &caps(0, 0.0)) <= 1e-6);
        let speed = |place: usize| case.groups[place].curve.speed(by_group[place]);
        for place in 0..case.groups.len() {
            if case.groups[place].curve.speed(Watts(700.0)) <= speed(place) + 1e-6 {
                continue;
            }
            // A watt more breaks a limit at which nobody faster could give way.
            let more = caps(place, 1.0);
            assert!(
                worst_excess(&case, &more) > 0.0,
                "job {place} could be faster"
            );
            let rooms = support::rooms(&case);
            let mut drawn = vec![0.0; rooms.len()];
            let mut fastest = vec![0.0f64; rooms.len()];
            for (other, group) in case.groups.iter().enumerate() {
                for device in &group.devices {
                    for row in support::limits_above(&case, *device) {
                        drawn[row] += more[*device].0;
                        let raised = by_group[other].0 > 100.0;
                        let pace = if raised { speed(other) } else { 0.0 };
                        fastest[row] = fastest[row].max(pace);
                    }
                }
            }
            let held = (0..rooms.len())
                .any(|row| drawn[row] > rooms[row] && fastest[row] <= speed(place) + 1e-6);
            assert!(
                held,
                "job {place} is slower than one that shares its full limits"
            );
        }
    }
}
