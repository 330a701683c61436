//! The checker lets sound proposals pass and rejects every planted violation,
//! each by the name of the rule that it breaks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/scene.rs"]
mod scene;

use heliostat_models::{Certificate, DeviceId, JobClass, JobId, SpeedCurve, Watts};
use heliostat_optimizer::allocate::Outcome;
use heliostat_optimizer::check::{Proposal, Rule, check_allocation, check_caps, check_transition};
use scene::{Caps, Scene, declared};
use std::collections::BTreeMap;

type Change<'a> = &'a dyn Fn(&mut Caps, &mut Vec<f64>, &mut Certificate);

#[test]
fn what_the_allocator_proposes_passes_shed_or_not() {
    let (mut shed, mut beyond) = (0, 0);
    for seed in 0..150 {
        let mut scene = Scene::random(seed);
        if seed % 5 == 0 {
            scene.feed_limit = Some(Watts(60_000.0 + 500.0 * seed as f64));
        }
        let (outcome, caps) = scene.solve();
        let (dropped, hopeless) = declared(&outcome);
        shed += usize::from(!dropped.is_empty());
        beyond += usize::from(!hopeless.is_empty());
        let allocation = outcome.allocation();
        let broken = check_allocation(
            &scene.facts(),
            &Proposal {
                caps: &caps,
                node_prices: &allocation.node_prices,
                certificate: &allocation.certificate,
                dropped: &dropped,
                beyond: &hopeless,
            },
        );
        assert!(broken.is_empty(), "seed {seed}: {broken:?}");
    }
    assert!(shed > 5 && beyond > 2, "{shed} {beyond}");
}

#[test]
fn every_planted_violation_is_rejected_by_name() {
    let mut planted = 0;
    for seed in 0..40 {
        let mut scene = Scene::random(1_000 + seed);
        scene.feed_limit = Some(Watts(150_000.0));
        let (outcome, caps) = scene.solve();
        let Outcome::Allocated(good) = &outcome else {
            continue;
        };
        let facts = scene.facts();
        let job = &scene.jobs[0];
        let commanded: Vec<&DeviceId> = (job.devices.iter())
            .filter(|d| !scene.pinned.contains_key(*d))
            .collect();
        let floor = scene.site.classes[&job.class].floor_speed;
        let prices = &good.node_prices;
        let mut violations: Vec<(Rule, Caps, Vec<f64>, Certificate)> = Vec::new();
        let mut plant = |rule: Rule, change: Change<'_>| {
            let (mut caps, mut prices, mut certificate) =
                (caps.clone(), prices.clone(), good.certificate.clone());
            change(&mut caps, &mut prices, &mut certificate);
            violations.push((rule, caps, prices, certificate));
        };
        plant(Rule::NodeLimit, &|caps, _, _| {
            caps.values_mut().for_each(|c| *c = Watts(700.0))
        });
        plant(Rule::DeviceRange, &|caps, _, _| {
            *caps.get_mut(commanded[0]).unwrap() = Watts(150.0)
        });
        plant(Rule::DeviceRange, &|caps, _, _| {
            *caps.get_mut(commanded[0]).unwrap() = Watts(700.1)
        });
        plant(Rule::EveryDevice, &|caps, _, _| {
            caps.remove(commanded[0]);
        });
        plant(Rule::EveryDevice, &|caps, _, _| {
            caps.insert(DeviceId::from("nobody"), Watts(300.0));
        });
        plant(Rule::GangEqual, &|caps, _, _| {
            *caps.get_mut(commanded[0]).unwrap() -= Watts(0.01)
        });
        plant(Rule::Finite, &|caps, _, _| {
            *caps.get_mut(commanded[0]).unwrap() = Watts(f64::NAN)
        });
        plant(Rule::Finite, &|_, prices, _| prices[0] = -1e-6);
        plant(Rule::Finite, &|_, prices, _| prices.truncate(1));
        plant(Rule::Finite, &|_, _, certificate| {
            certificate.primal = f64::INFINITY
        });
        plant(Rule::Primal, &|_, _, certificate| {
            certificate.primal *= 1.001
        });
        plant(Rule::Dual, &|_, _, certificate| {
            certificate.dual_bound -= 0.001 * certificate.dual_bound.abs().max(1.0)
        });
        plant(Rule::Dual, &|_, prices, _| {
            prices.iter_mut().for_each(|p| *p += 1e-3)
        });
        plant(Rule::Gap, &|_, _, certificate| certificate.gap += 1e-3);
        if floor > 0.0 && job.curve.speed(Watts(200.0)) < floor - 1e-3 {
            plant(Rule::Floor, &|caps, _, _| {
                commanded
                    .iter()
                    .for_each(|d| *caps.get_mut(*d).unwrap() = Watts(200.0))
            });
        }
        if let Some(pinned) = scene.pinned.keys().next() {
            plant(Rule::Pinned, &|caps, _, _| {
                *caps.get_mut(pinned).unwrap() = Watts(300.0)
            });
        }
        for (rule, caps, prices, certificate) in violations {
            let proposal = Proposal {
                caps: &caps,
                node_prices: &prices,
                certificate: &certificate,
                dropped: &[],
                beyond: &[],
            };
            let broken = check_allocation(&facts, &proposal);
            assert!(
                broken.iter().any(|b| b.rule == rule),
                "seed {seed}: `{}` was not noticed; found {broken:?}",
                rule.name()
            );
            planted += 1;
        }
    }
    assert!(planted > 300, "{planted}");
}

#[test]
fn a_node_declared_beyond_keeping_must_be_at_its_lowest() {
    let mut scene = Scene::random(3);
    scene.pinned.clear();
    scene.feed_limit = Some(Watts(60_000.0));
    let (outcome, mut caps) = scene.solve();
    let (dropped, beyond) = declared(&outcome);
    assert!(beyond.contains(&"feed".to_owned()));
    let first = scene.site.devices[200].id.clone();
    caps.insert(first, Watts(205.0));
    let allocation = outcome.allocation();
    let proposal = Proposal {
        caps: &caps,
        node_prices: &allocation.node_prices,
        certificate: &allocation.certificate,
        dropped: &dropped,
        beyond: &beyond,
    };
    let broken = check_allocation(&scene.facts(), &proposal);
    assert!(broken.iter().any(|b| b.rule == Rule::Beyond), "{broken:?}");
}

#[test]
fn raising_before_others_have_lowered_is_rejected() {
    let scene = Scene {
        feed_limit: Some(Watts(150_000.0)),
        ..Scene::random(9)
    };
    let facts = scene.facts();
    let (_, caps) = scene.solve();
    let nobody = BTreeMap::new();
    // All at the safe cap now: to go at once to the new caps breaks a limit on the way.
    let now: BTreeMap<DeviceId, Watts> = (caps.iter().enumerate())
        .map(|(i, (d, c))| (d.clone(), if i % 2 == 0 { *c } else { Watts(690.0) }))
        .collect();
    let up = BTreeMap::from([(caps.keys().next().unwrap().clone(), Watts(699.0))]);
    let broken = check_transition(&facts, &now, &up);
    assert!(broken.iter().all(|b| b.rule == Rule::Transition) && !broken.is_empty());
    // Lowers alone may go out, though the limit is exceeded as things stand.
    let down = now.keys().map(|d| (d.clone(), Watts(200.0))).collect();
    assert!(check_transition(&facts, &now, &down).is_empty());
    // What is not known counts at its highest.
    let broken = check_transition(&facts, &nobody, &up);
    assert!(
        broken.is_empty(),
        "at its highest already, it is not raised: {broken:?}"
    );
    // From low caps everything fits.
    let low: BTreeMap<DeviceId, Watts> = caps.keys().map(|d| (d.clone(), Watts(200.0))).collect();
    assert!(check_transition(&facts, &low, &caps).is_empty());
}

/// A scene under a grid event in which every device that no job holds is at rest.
fn at_rest(seed: u64, starting: usize) -> Scene {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::random(seed);
    scene.pinned.clear();
    scene.feed_limit = Some(Watts(105_000.0 + 20_000.0 * rng.f64()));
    let held: Vec<&DeviceId> = scene.jobs.iter().flat_map(|j| &j.devices).collect();
    scene.idle = (scene.site.devices.iter())
        .filter(|d| !held.contains(&&d.id))
        .map(|d| (d.id.clone(), Watts(60.0 + 140.0 * rng.f64())))
        .collect();
    scene.starting = starting;
    scene
}

#[test]
fn at_a_grid_event_devices_at_rest_count_as_drawn_and_starts_with_their_caps() {
    let mut used = 0;
    for seed in 0..60 {
        let scene = at_rest(seed, seed as usize % 40);
        let (outcome, caps) = scene.solve();
        let Outcome::Allocated(allocation) = &outcome else {
            continue;
        };
        let proposal = |caps| Proposal {
            caps,
            node_prices: &allocation.node_prices,
            certificate: &allocation.certificate,
            dropped: &[],
            beyond: &[],
        };
        let broken = check_allocation(&scene.facts(), &proposal(&caps));
        assert!(broken.is_empty(), "seed {seed}: {broken:?}");
        // What may really be drawn: jobs at their caps, the devices at rest
        // with the most to gain at 200 W, the others as read and 20 W.
        let feed = scene.site.power.find("feed").unwrap();
        let mut rest: Vec<f64> = scene
            .idle
            .values()
            .map(|w| (w.0 + 20.0).min(200.0))
            .collect();
        rest.sort_by(f64::total_cmp);
        let starting: f64 = (200.0 * scene.starting.min(rest.len()) as f64)
            + rest.iter().skip(scene.starting).sum::<f64>();
        let held: f64 = (caps.iter())
            .filter(|(d, _)| !scene.idle.contains_key(*d))
            .map(|(_, c)| c.0)
            .sum();
        let limit = 0.98 * scene.feed_limit.unwrap().0;
        let drawn = scene.uncontrolled[feed].0 + held + starting;
        assert!(drawn <= limit + 1e-6, "seed {seed}: {drawn} of {limit}");
        let all: f64 = caps.values().map(|c| c.0).sum();
        if scene.uncontrolled[feed].0 + all <= limit {
            continue;
        }
        used += 1;
        // Were all of them to start, or none of them read, it would not fit.
        let mut more = at_rest(seed, scene.starting);
        more.starting = more.idle.len();
        let broken = check_allocation(&more.facts(), &proposal(&caps));
        assert!(
            broken.iter().any(|b| b.rule == Rule::NodeLimit),
            "{broken:?}"
        );
        let low: Caps = caps.keys().map(|d| (d.clone(), Watts(200.0))).collect();
        let broken = check_transition(&more.facts(), &low, &caps);
        assert!(
            broken.iter().any(|b| b.rule == Rule::Transition),
            "{broken:?}"
        );
        let mut stale = at_rest(seed, scene.starting);
        stale.idle.clear();
        let broken = check_allocation(&stale.facts(), &proposal(&caps));
        assert!(
            broken.iter().any(|b| b.rule == Rule::NodeLimit),
            "{broken:?}"
        );
    }
    assert!(used > 20, "{used}");
}

#[test]
fn breakers_count_devices_at_rest_with_their_caps_also_during_a_grid_event() {
    let mut scene = at_rest(5, 0);
    scene.jobs.clear();
    let (_, mut caps) = scene.solve();
    // An event that allows more than the feed bears changes nothing.
    scene.feed_limit = Some(Watts(900_000.0));
    scene.idle = (scene.site.devices.iter())
        .map(|d| (d.id.clone(), Watts(60.0)))
        .collect();
    caps.values_mut().for_each(|c| *c = Watts(200.0));
    let rack = scene.site.racks[0].power_node;
    let allowed = 0.98 * scene.site.power.nodes()[rack].limit.0;
    scene.uncontrolled[rack] = Watts(allowed - 32.0 * 200.0);
    let fits = |scene: &Scene| {
        let least: Caps = caps.keys().map(|d| (d.clone(), Watts(100.0))).collect();
        check_transition(&scene.facts(), &least, &caps).is_empty()
    };
    assert!(fits(&scene));
    scene.uncontrolled[rack] += Watts(1.0);
    assert!(!fits(&scene));
}

/// Floors that are dropped without need, and limits said to be beyond keeping
/// that are not, in proposals whose caps break nothing.
#[test]
fn what_gives_way_without_need_is_rejected_by_name() {
    let (mut floors, mut limits) = (0, 0);
    for seed in 0..40 {
        let mut scene = Scene::with_terms(3_000 + seed);
        // Some with room for all, some with little, some with too little.
        scene.feed_limit = Some(Watts(75_000.0 + 3_000.0 * seed as f64));
        let (outcome, caps) = scene.solve();
        let (dropped, beyond) = declared(&outcome);
        let allocation = outcome.allocation();
        let prices = scene::prices(&outcome);
        let check = |dropped: &[JobId], beyond: &[String]| {
            let proposal = Proposal {
                caps: &caps,
                node_prices: &prices,
                certificate: &allocation.certificate,
                dropped,
                beyond,
            };
            check_caps(&scene.facts(), &proposal)
        };
        let broken = check(&dropped, &beyond);
        assert!(broken.is_empty(), "seed {seed}: {broken:?}");
        // Any floor more than those: it is kept, so it fits.
        for job in scene.jobs.iter().filter(|j| !dropped.contains(&j.id)) {
            let mut more = dropped.clone();
            more.push(job.id.clone());
            let broken = check(&more, &beyond);
            assert!(
                broken
                    .iter()
                    .any(|b| b.rule == Rule::Dropped && b.detail.contains(job.id.as_str())),
                "seed {seed}, {}: {broken:?}",
                job.id
            );
            floors += 1;
        }
        // All floors at once, where all fit.
        if dropped.is_empty() {
            let all: Vec<JobId> = scene.jobs.iter().map(|j| j.id.clone()).collect();
            let broken = check(&all, &beyond);
            assert!(broken.iter().all(|b| b.rule == Rule::Dropped) && !broken.is_empty());
        }
        let nodes = scene.site.power.nodes();
        for node in nodes.iter().filter(|n| !beyond.contains(&n.id)) {
            let mut more = beyond.clone();
            more.push(node.id.clone());
            let broken = check(&dropped, &more);
            assert!(
                broken
                    .iter()
                    .any(|b| b.rule == Rule::Beyond && b.detail.contains(&node.id)),
                "seed {seed}, {}: {broken:?}",
                node.id
            );
            limits += 1;
        }
        for (dropped, beyond) in [
            (vec!["nobody".into()], vec![]),
            (vec![], vec!["nothing".to_owned()]),
        ] {
            let broken = check(&dropped, &beyond);
            assert!(
                (broken.iter())
                    .any(|b| b.detail.contains("nobody") || b.detail.contains("nothing")),
                "{broken:?}"
            );
        }
    }
    eprintln!("{floors} floors and {limits} limits");
    assert!(floors > 200 && limits > 500, "{floors} {limits}");
}

/// A floor that one more watt would leave room for is dropped rightly; with that watt, wrongly.
#[test]
fn a_floor_is_dropped_rightly_up_to_the_watt_that_it_lacks() {
    let mut scene = Scene::random(7);
    scene.pinned.clear();
    scene.feed_limit = None;
    scene.jobs.truncate(1);
    scene.jobs[0].class = JobClass::Inference;
    scene.jobs[0].curve =
        SpeedCurve::envelope(&[(Watts(200.0), 0.0), (Watts(700.0), 1.0)]).unwrap();
    let job = scene.jobs[0].clone();
    let high = 200.0 + 500.0 * scene.site.classes[&job.class].floor_speed;
    assert!(high > 210.0, "{high}");
    let feed = scene.site.power.find("feed").unwrap();
    let size = job.devices.len() as f64;
    let rest = (scene.site.devices.len() as f64 - size) * 200.0;
    let needs = scene.uncontrolled[feed].0 + rest + size * high;
    for (more, fits) in [(-0.1, false), (0.1, true)] {
        scene.feed_limit = Some(Watts((needs + more) / 0.98));
        let caps: Caps = (scene.site.devices.iter())
            .map(|d| (d.id.clone(), Watts(200.0)))
            .collect();
        let proposal = Proposal {
            caps: &caps,
            node_prices: &vec![0.0; scene.site.power.nodes().len()],
            certificate: &Certificate::new(0.0, 0.0, String::new()),
            dropped: std::slice::from_ref(&job.id),
            beyond: &[],
        };
        let broken = check_caps(&scene.facts(), &proposal);
        let refused = broken.iter().any(|b| b.rule == Rule::Dropped);
        assert_eq!(refused, fits, "{more}: {broken:?}");
    }
}
