//! What devices still have until caps are lowered, against breakers' curves:
//! every breaker judged as an independent reckoning in time does, and load
//! taken off by class, no more than it takes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/site.rs"]
mod sites;

use heliostat_models::lease::{AgentHello, CapAnswer, CapOutcome, CapReport, CappableDevice};
use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
use heliostat_models::{AgentId, JobClass, Site, Timestamp, Watts};
use heliostat_optimizer::check::{Breakers, Facts, Moment, TripCurve};
use heliostat_optimizer::control::Executor;
use heliostat_optimizer::control::relief::relief;
use heliostat_optimizer::state::State;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

type Curves = BTreeMap<String, TripCurve>;

/// Eighths of a second add up exactly.
const TICK: f64 = 0.125;

fn random_curve(rng: &mut fastrand::Rng) -> TripCurve {
    let (mut multiple, mut seconds) = (1.0, 400.0);
    let points: Vec<(f64, f64)> = (0..rng.usize(0..5))
        .map(|_| {
            multiple += 0.02 + 0.2 * rng.f64();
            seconds *= 0.2 + 0.7 * rng.f64();
            (multiple, seconds)
        })
        .collect();
    TripCurve::new(&points).unwrap()
}

/// Nodes whose breakers heat through when the moment is lived tick by tick.
fn lived(site: &Site, facts: &Facts<'_>, curves: &Curves, moment: &Moment<'_>) -> Vec<usize> {
    let standard = TripCurve::default();
    let mut tripped = Vec::new();
    for (place, node) in site.power.nodes().iter().enumerate() {
        let curve = curves.get(&node.id).unwrap_or(&standard);
        let (mut heat, mut at) = (0.0, 0.0);
        let end = moment.seconds.max(moment.late_seconds);
        while at < end {
            let mut load = facts.uncontrolled[place];
            for (device, spec) in site.devices.iter().enumerate() {
                let above = site.power.path_up(site.nodes[spec.node].power_node);
                if above.contains(&place) {
                    let waits = if moment.late[device] {
                        moment.late_seconds.max(moment.seconds)
                    } else {
                        moment.seconds
                    };
                    let (now, then) = (moment.now[device], moment.then[device]);
                    load += if at < waits { now.max(then) } else { then };
                }
            }
            let holds = curve.holds(load / node.rating);
            heat += if holds.is_finite() { TICK / holds } else { 0.0 };
            at += TICK;
        }
        if heat > 1.0 + 1e-9 {
            tripped.push(place);
        }
    }
    tripped
}

#[test]
fn breakers_are_judged_as_if_the_moment_were_lived() {
    let site = sites::small();
    let (mut strained, mut calm) = (0, 0);
    for seed in 0..150 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut state = State::read(&site, "{}").unwrap();
        // Loads such that the breakers stand near their ratings.
        for (load, node) in state.uncontrolled.iter_mut().zip(site.power.nodes()) {
            *load = node.rating * (0.6 + 0.5 * rng.f64());
        }
        let mut curves = Curves::new();
        for node in site.power.nodes() {
            if rng.bool() {
                curves.insert(node.id.clone(), random_curve(&mut rng));
            }
        }
        let mut draw =
            || -> Vec<Watts> { (0..8).map(|_| Watts(200.0 + 500.0 * rng.f64())).collect() };
        let (now, then) = (draw(), draw());
        let late: Vec<bool> = (0..8).map(|_| rng.f64() < 0.3).collect();
        let moment = Moment {
            now: &now,
            then: &then,
            seconds: TICK * f64::from(rng.u32(0..80)),
            late: &late,
            late_seconds: TICK * f64::from(rng.u32(0..480)),
        };
        let facts = state.facts(&site);
        let found: Vec<usize> = (Breakers::new(&facts, &curves).strained(&moment).iter())
            .map(|e| e.node)
            .collect();
        assert_eq!(found, lived(&site, &facts, &curves, &moment), "seed {seed}");
        strained += found.len();
        calm += site.power.nodes().len() - found.len();
    }
    assert!(
        strained > 100 && calm > 100,
        "{strained} strained, {calm} calm"
    );
}

/// One job of each class on a node of its own in rack 1, and one elsewhere.
fn classes() -> (Arc<Site>, State) {
    let text = builtin_demo().replace(
        "rack_rating_watts",
        "rack_trip_curve = [[1.05, 3600], [1.6, 20]]\nrack_rating_watts",
    );
    let site = Arc::new(
        load("test.toml", &text, LoadOptions::default())
            .site
            .unwrap(),
    );
    let speed = json!([[200, 0.1], [300, 0.3], [400, 0.6], [700, 1.0]]);
    let job = |class: &str, node: &str| json!({"id": format!("{class}-{node}"), "class": class, "devices": [node], "speed": speed});
    let state = json!({"jobs": [
        job("inference", "r01-n1"), job("training", "r01-n2"),
        job("fine-tuning", "r01-n3"), job("experiment", "r01-n4"),
        job("experiment", "r05-n1"),
    ]});
    let state = State::read(&site, &state.to_string()).unwrap();
    (site, state)
}

#[test]
fn load_comes_off_by_class_and_no_more_than_it_takes() {
    let (site, state) = classes();
    let rack = site.power.find("r01").unwrap();
    let of = |class: JobClass| {
        (state.jobs.iter())
            .find(move |j| j.class == class && j.id.as_str().contains("r01"))
            .unwrap()
    };
    let floor = |class: JobClass| {
        // By search over whole watts.
        let job = of(class);
        let needs = site.classes[&class].floor_speed;
        (200..=700)
            .map(f64::from)
            .find(|cap| job.curve.speed(Watts(*cap)) >= needs - 1e-9)
            .unwrap()
    };
    let mut depths = Vec::new();
    for extra in (0..19_000).step_by(250) {
        // Other load at the rack, while an agent is late with nothing to lower.
        let mut state = state.clone();
        state.uncontrolled[rack] += Watts(f64::from(extra));
        let facts = state.facts(&site);
        let caps: Vec<Watts> = site.devices.iter().map(|_| Watts(650.0)).collect();
        let mut late = vec![false; site.devices.len()];
        late[0] = true;
        let moment = Moment {
            now: &caps,
            then: &caps,
            seconds: 4.0,
            late: &late,
            late_seconds: 60.0,
        };
        let all = Breakers::new(&facts, &site.trip_curves);
        let Some(found) = relief(&facts, &site.trip_curves, &moment) else {
            assert!(all.strained(&moment).is_empty());
            depths.push(0);
            continue;
        };
        assert!(found.breakers.iter().any(|b| b.node == rack));
        assert!(
            found
                .caps
                .iter()
                .zip(&caps)
                .all(|(now, before)| now <= before)
        );
        let after = all.strained(&Moment {
            then: &found.caps,
            ..moment
        });
        assert_eq!(found.is_enough, after.is_empty(), "{extra}");
        let cap = |class: JobClass| {
            let devices = &of(class).devices;
            let caps: Vec<Watts> = devices
                .iter()
                .map(|d| found.caps[site.device(d).unwrap().0])
                .collect();
            assert!(caps.iter().all(|c| *c == caps[0]), "a gang has one cap");
            caps[0].0
        };
        let order = [
            JobClass::Experiment,
            JobClass::FineTuning,
            JobClass::Training,
            JobClass::Inference,
        ];
        let mut depth = 0;
        for (pass, level) in [true, false].into_iter().enumerate() {
            for (place, class) in order.into_iter().enumerate() {
                let low = if level { floor(class) } else { 200.0 };
                if cap(class) <= low + 0.5 {
                    assert_eq!(depth, 4 * pass + place, "{extra}: {class} before its turn");
                    depth += 1;
                }
            }
        }
        let dropped: Vec<JobClass> = order
            .into_iter()
            .filter(|c| found.dropped.contains(&of(*c).id))
            .collect();
        assert_eq!(dropped, order[..depth.saturating_sub(4)]);
        // One class fewer would not have done.
        let fewer: Vec<Watts> = {
            let class = order[(depth - 1) % 4];
            let back = if depth > 4 { floor(class) } else { 650.0 };
            let mut fewer = found.caps.clone();
            of(class)
                .devices
                .iter()
                .for_each(|d| fewer[site.device(d).unwrap().0] = Watts(back));
            fewer
        };
        assert!(
            !all.strained(&Moment {
                then: &fewer,
                ..moment
            })
            .is_empty(),
            "{extra}: more than it takes"
        );
        // Who hangs at other breakers is left alone.
        let elsewhere = &state
            .jobs
            .iter()
            .find(|j| j.id.as_str().contains("r05"))
            .unwrap()
            .devices[0];
        assert_eq!(found.caps[site.device(elsewhere).unwrap().0], Watts(650.0));
        depths.push(depth);
    }
    assert!(depths.is_sorted(), "{depths:?}");
    assert!(
        (0..=8).all(|depth| depths.contains(&depth)),
        "every depth is met: {depths:?}"
    );
}

#[test]
fn devices_that_cannot_be_commanded_are_asked_for_nothing() {
    let (site, mut state) = classes();
    let rack = site.power.find("r01").unwrap();
    state.uncontrolled[rack] += Watts(22_000.0);
    let pinned = state.jobs[0].devices[0].clone();
    state.pinned.insert(pinned.clone(), Watts(650.0));
    let facts = state.facts(&site);
    let caps: Vec<Watts> = site.devices.iter().map(|_| Watts(650.0)).collect();
    let moment = Moment {
        now: &caps,
        then: &caps,
        seconds: 40.0,
        late: &[],
        late_seconds: 0.0,
    };
    let found = relief(&facts, &site.trip_curves, &moment).unwrap();
    let cap = |place: usize| found.caps[place];
    assert_eq!(cap(site.device(&pinned).unwrap().0), Watts(650.0));
    assert_eq!(
        cap(site.device(&state.jobs[0].devices[1]).unwrap().0),
        Watts(200.0)
    );
    assert!(
        !found.is_enough,
        "what is there already is more than it bears"
    );
}

#[test]
fn agents_are_late_when_they_owe_an_answer_and_held_is_their_word_and_our_orders() {
    let site = sites::small();
    let second = |s: i64| Timestamp(1_000_000 + 1_000 * s);
    let mut executor = Executor::new(Arc::clone(&site), "run".into(), Duration::from_secs(30));
    executor.set_room(vec![Watts(1e9); site.power.nodes().len()]);
    let all = |cap: f64| {
        site.devices
            .iter()
            .map(|d| (d.id.clone(), Watts(cap)))
            .collect::<BTreeMap<_, _>>()
    };
    for node in &site.nodes {
        let devices = node.devices.clone().map(|d| CappableDevice {
            device: site.devices[d].id.clone(),
            uuid: format!("GPU-{d}"),
            product: "test".into(),
            min: Watts(200.0),
            max: Watts(700.0),
            found: Watts(700.0),
            current: Watts(500.0),
        });
        executor.on_hello(&AgentHello {
            agent: AgentId::from(node.id.as_str()),
            at: second(0),
            version: "test".into(),
            devices: devices.collect(),
            fence: 0,
            foreign: heliostat_models::lease::ForeignChanges::default(),
            leaving: false,
        });
    }
    executor.set_targets(&all(300.0));
    let sent = executor.tick(second(0));
    assert_eq!(sent.len(), 4);
    assert_eq!(executor.late(second(5), 5.0), vec![false; 8]);
    assert_eq!(executor.late(second(6), 5.0), vec![true; 8]);
    // The first node answers.
    let (agent, command) = &sent[0];
    let reports = command.leases.iter().map(|lease| CapReport {
        device: lease.device.clone(),
        outcome: CapOutcome::Applied {
            readback: lease.cap,
        },
    });
    executor.on_answer(&CapAnswer {
        agent: agent.clone(),
        at: second(6),
        controller: Some("run".into()),
        sequence: Some(command.sequence),
        fence: 0,
        reports: reports.collect(),
    });
    let is_theirs =
        |place: usize| site.nodes[site.devices[place].node].id.as_str() == agent.as_str();
    let late = executor.late(second(7), 5.0);
    let held = executor.held();
    for place in 0..8 {
        assert_eq!(late[place], !is_theirs(place));
        assert_eq!(
            held[place],
            Watts(if is_theirs(place) { 300.0 } else { 500.0 })
        );
    }
    // What an earlier controller may still have ordered is no load that is there.
    executor.take_charge(7);
    assert_eq!(executor.held(), held);
    assert!(
        executor
            .worst_caps()
            .iter()
            .all(|worst| *worst == Watts(700.0))
    );
    // What goes up counts from the moment it is sent.
    executor.set_targets(&all(600.0));
    executor.tick(second(8));
    assert!(executor.held().iter().all(|held| *held == Watts(600.0)));
}
