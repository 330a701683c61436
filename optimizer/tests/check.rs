//! The checker lets sound proposals pass and rejects every planted violation,
//! each by the name of the rule that it breaks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/site.rs"]
mod sites;

use heliostat_models::{
    Certificate, DeviceId, JobClass, JobId, JobRecord, JobState, Site, SpeedCurve, Timestamp, Watts,
};
use heliostat_optimizer::allocate::{Outcome, allocate};
use heliostat_optimizer::check::{
    AtFeed, Facts, Proposal, Rule, check_allocation, check_transition,
};
use heliostat_optimizer::control::assemble;
use std::collections::BTreeMap;
use std::sync::Arc;

type Caps = BTreeMap<DeviceId, Watts>;
type Change<'a> = &'a dyn Fn(&mut Caps, &mut Vec<f64>, &mut Certificate);

struct Scene {
    site: Arc<Site>,
    uncontrolled: Vec<Watts>,
    ranges: BTreeMap<DeviceId, (Watts, Watts)>,
    pinned: BTreeMap<DeviceId, Watts>,
    jobs: Vec<JobRecord>,
    feed_limit: Option<Watts>,
    idle: BTreeMap<DeviceId, Watts>,
    starting: usize,
    price: f64,
}

impl Scene {
    fn random(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let site = sites::demo();
        let mut uncontrolled = vec![Watts::ZERO; site.power.nodes().len()];
        for node in &site.nodes {
            let load = node.overhead * (0.4 + 0.6 * rng.f64());
            for up in site.power.path_up(node.power_node) {
                uncontrolled[up] += load;
            }
        }
        let mut jobs = Vec::new();
        let mut next = 0;
        while next + 60 < site.devices.len() {
            let size = [4, 8, 16, 48][rng.usize(0..4)];
            let devices: Vec<DeviceId> = (site.devices[next..next + size].iter())
                .map(|d| d.id.clone())
                .collect();
            next += size;
            let (knee, bend) = (0.5 + 0.4 * rng.f64(), 0.3 + 0.5 * rng.f64());
            let points: Vec<(Watts, f64)> = (0..=12)
                .map(|k| {
                    let cap = 200.0 + 500.0 * f64::from(k) / 12.0;
                    (Watts(cap), (cap / (700.0 * knee)).powf(bend).min(1.0))
                })
                .collect();
            jobs.push(JobRecord {
                id: JobId::from(format!("job{:02}", jobs.len())),
                class: JobClass::ALL[rng.usize(0..4)],
                owner: "p".into(),
                gang_size: size as u32,
                remaining_hours: 5.0,
                total_hours: 9.0,
                release: Timestamp(0),
                deadline: None,
                state: JobState::Running,
                devices,
                curve: SpeedCurve::envelope(&points).unwrap(),
                started: None,
                ended: None,
                at: Timestamp(0),
            });
        }
        let pinned = (0..rng.usize(0..3))
            .map(|_| (site.devices[rng.usize(0..256)].id.clone(), Watts(650.0)))
            .collect();
        Self {
            uncontrolled,
            ranges: BTreeMap::new(),
            pinned,
            jobs,
            feed_limit: rng.bool().then(|| Watts(110_000.0 + 60_000.0 * rng.f64())),
            idle: BTreeMap::new(),
            starting: 0,
            price: if rng.bool() { 0.0 } else { 0.001 * rng.f64() },
            site,
        }
    }

    fn facts(&self) -> Facts<'_> {
        Facts {
            site: &self.site,
            margin: 0.02,
            grid: self.feed_limit.map(|limit| AtFeed {
                limit,
                uncontrolled: &self.uncontrolled,
                idle: &self.idle,
                starting: self.starting,
            }),
            uncontrolled: &self.uncontrolled,
            ranges: &self.ranges,
            pinned: &self.pinned,
            jobs: &self.jobs,
            price_of_energy: self.price,
        }
    }

    fn solve(&self) -> (Outcome, BTreeMap<DeviceId, Watts>) {
        let problem = assemble::problem(&self.facts());
        let outcome = allocate(&problem).unwrap();
        let caps = assemble::caps(&problem, outcome.allocation());
        (outcome, caps)
    }
}

fn declared(outcome: &Outcome) -> (Vec<JobId>, Vec<String>) {
    match outcome {
        Outcome::Allocated(_) => Default::default(),
        Outcome::Infeasible { shed, .. } => (
            shed.dropped.clone(),
            shed.beyond.iter().map(|b| b.0.clone()).collect(),
        ),
    }
}

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
