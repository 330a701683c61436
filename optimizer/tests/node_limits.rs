//! Nodes that their agents limit as a whole: one order for all accelerators, under
//! the same invariants as caps of accelerators, whatever the network does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/agents.rs"]
mod agents;
#[path = "support/site.rs"]
mod sites;

use agents::World;
use heliostat_models::lease::{
    AgentHello, CapAnswer, CapCommand, CapOutcome, CapReport, CappableDevice, ForeignChanges,
};
use heliostat_models::{AgentId, DeviceId, Frame, Reading, Site, Timestamp, Watts};
use heliostat_optimizer::check::{Facts, NO_TERMS, check_transition};
use heliostat_optimizer::control::Executor;
use heliostat_optimizer::control::measure::{Readings, measure};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The small site; in odd places nodes are limited as a whole.
fn mixed(site: &Arc<Site>, seed: u64, trouble: f64, start: f64) -> World {
    let mut world = World::new(Arc::clone(site), seed, trouble, Watts(start));
    for node in [1, 3] {
        world.limit_whole(node, Watts(start));
    }
    world.tighten();
    world.hello_all();
    world
}

fn settle(world: &mut World) {
    for _ in 0..8 {
        world.send_commands();
        while !world.wires.is_empty() {
            world.deliver();
        }
    }
}

/// What the checker says of commands as they go out.
fn broken(world: &World, before: &BTreeMap<DeviceId, Watts>, commands: &[CapCommand]) -> String {
    let nodes = world.site.power.nodes();
    let uncontrolled: Vec<Watts> = (nodes.iter().zip(&world.room))
        .map(|(node, room)| node.limit - *room)
        .collect();
    let (ranges, pinned) = (BTreeMap::new(), BTreeMap::new());
    let facts = Facts {
        site: &world.site,
        margin: 0.0,
        grid: None,
        uncontrolled: &uncontrolled,
        ranges: &ranges,
        pinned: &pinned,
        jobs: &[],
        price_of_energy: 0.0,
        terms: &NO_TERMS,
    };
    let sent = world.executor.caps_in(commands);
    let found = check_transition(&facts, before, &sent);
    found.iter().map(|b| format!("{b}; ")).collect()
}

/// A random walk; says how near the limits it came, and how often a node's limit
/// was above its least.
fn walk(site: &Arc<Site>, seed: u64) -> (f64, usize) {
    let (mut most, mut raised) = (f64::NEG_INFINITY, 0);
    let trouble = [0.0, 0.1, 0.35][seed as usize % 3];
    let mut world = mixed(site, seed, trouble, 300.0);
    for round in 0..400 {
        let when = format!("seed {seed}, round {round}");
        match world.rng.usize(0..11) {
            0 => {
                let targets = world.draw_targets();
                world.executor.set_targets(&targets);
            }
            1 => {
                let seconds = world.rng.u64(0..40);
                world.step_time(seconds);
            }
            2 if round % 7 == 0 => {
                world.stop_or_come_back();
            }
            3 if round % 5 == 0 => {
                world.refuse_or_obey();
            }
            4 if trouble > 0.0 && !world.history.is_empty() => {
                world.deliver_again();
            }
            5 if round % 40 == 0 => world.executor.take_charge(1 + round as u64),
            6 | 7 => {
                let before = world.executor.worst().clone();
                let sent = world.history.len();
                world.send_commands();
                let commands: Vec<CapCommand> = (world.history[sent..].iter())
                    .map(|(_, c)| c.clone())
                    .collect();
                assert_eq!(broken(&world, &before, &commands), "", "{when}");
            }
            _ => world.deliver(),
        }
        let (excess, node) = world.excess();
        assert!(excess <= 1e-6, "{when}: {excess} W above `{node}`");
        most = most.max(excess);
        for (place, node) in site.nodes.iter().enumerate() {
            let believed: Watts = world.executor.worst_caps()[node.devices.clone()]
                .iter()
                .sum();
            let has = world.below(place);
            assert!(
                believed >= has - Watts(1e-6),
                "{when}: `{}` has {has}, believed at most {believed}",
                node.id
            );
            let whole = world.agents[node.id.as_str()].whole;
            raised += usize::from(whole && has.0 > 800.0);
        }
    }
    (most, raised)
}

#[test]
fn whatever_the_network_does_no_limit_is_exceeded_below_limits_of_nodes() {
    let site = sites::small();
    let ramped = sites::small_text().replacen(
        "[control]\n",
        "[control]\nramp_up_watts_per_second = 50\nramp_down_watts_per_second = 40\n",
        1,
    );
    let ramped = sites::parse(&ramped);
    let (mut most, mut raised) = (f64::NEG_INFINITY, 0);
    for seed in 0..120 {
        let (near, high) = walk(if seed % 4 == 3 { &ramped } else { &site }, seed);
        (most, raised) = (most.max(near), raised + high);
    }
    assert!(most > -50.0, "never closer than {most} W");
    assert!(raised > 1_000, "{raised}");
}

#[test]
fn a_node_gets_the_sum_of_its_caps_and_its_overhead_in_whole_watts() {
    let site = sites::small();
    for seed in 0..20 {
        let mut world = mixed(&site, seed, 0.0, 700.0);
        for _ in 0..3 {
            let targets = world.draw_targets();
            world.executor.set_targets(&targets);
            settle(&mut world);
            assert!(world.excess().0 <= 1e-6);
            for (place, node) in site.nodes.iter().enumerate() {
                let sum: f64 = (site.devices[node.devices.clone()].iter())
                    .map(|d| targets[&d.id].0)
                    .sum();
                let lacks = sum - world.below(place).0;
                assert!(
                    (-0.01..1.0).contains(&lacks),
                    "{}: {lacks} W short",
                    node.id
                );
                // And of that each is told to have its share.
                for d in &site.devices[node.devices.clone()] {
                    let has = world.executor.acknowledged()[&d.id];
                    assert!((targets[&d.id] - has).0.abs() < 1.0, "{}: {has}", d.id);
                }
            }
            assert_eq!(world.executor.unanswered(), 0);
            world.executor.look(world.now);
            assert_eq!(world.executor.beyond_reach(), 0);
            // Nothing is sent again for what was rounded.
            world.step_time(5);
            assert_eq!(world.executor.tick(world.now), []);
        }
    }
}

/// What a node's devices take from each other costs no order.
#[test]
fn what_moves_within_a_node_is_its_own_affair() {
    let site = sites::small();
    let mut world = mixed(&site, 1, 0.0, 300.0);
    let mut targets: BTreeMap<DeviceId, Watts> = (site.devices.iter())
        .map(|d| (d.id.clone(), Watts(300.0)))
        .collect();
    world.executor.set_targets(&targets);
    settle(&mut world);
    let [a, b] = [2, 3].map(|place| site.devices[place].id.clone());
    assert_eq!(site.devices[2].node, 1);
    targets.insert(a.clone(), Watts(350.0));
    targets.insert(b.clone(), Watts(250.0));
    world.executor.set_targets(&targets);
    assert_eq!(world.executor.tick(world.now), []);
    let has = world.executor.acknowledged();
    assert_eq!((has[&a], has[&b]), (Watts(350.0), Watts(250.0)));
}

#[test]
fn a_lease_that_ends_leaves_the_node_its_safe_caps_and_a_new_fence_counts_its_highest() {
    let site = sites::small();
    let mut world = mixed(&site, 1, 0.0, 300.0);
    let targets = (site.devices.iter())
        .map(|d| (d.id.clone(), Watts(420.0)))
        .collect();
    world.executor.set_room(vec![Watts(1e9); world.room.len()]);
    world.executor.set_targets(&targets);
    settle(&mut world);
    let node = &site.nodes[1];
    let safe: Watts = site.devices[node.devices.clone()]
        .iter()
        .map(|d| d.safe_cap)
        .sum();
    assert!(safe < world.below(1));
    world.step_time(70);
    assert_eq!(world.below(1), safe);
    while !world.wires.is_empty() {
        world.deliver();
    }
    let worst = |world: &World| -> Watts {
        world.executor.worst_caps()[node.devices.clone()]
            .iter()
            .sum()
    };
    assert!((worst(&world) - safe).0.abs() < 1e-6);
    world.executor.take_charge(7);
    assert!((worst(&world).0 - 1_400.0).abs() < 1e-6);
    settle(&mut world);
    assert!((worst(&world).0 - 840.0).abs() < 1.0);
}

/// Whole watts are no reason to get stuck, however slowly power may rise.
#[test]
fn under_a_ramp_limit_nodes_limited_as_a_whole_rise_with_the_others_and_arrive() {
    for rate in [2.0, 75.0] {
        let text = sites::small_text().replacen(
            "[control]\n",
            &format!("[control]\nramp_window_seconds = 4\nramp_up_watts_per_second = {rate}\n"),
            1,
        );
        let site = sites::parse(&text);
        let mut world = mixed(&site, 1, 0.0, 250.0);
        world.executor.set_room(vec![Watts(1e9); world.room.len()]);
        let ids: Vec<DeviceId> = site.devices.iter().map(|d| d.id.clone()).collect();
        world.executor.set_gangs([&ids[..]].into_iter());
        let targets = ids.iter().map(|d| (d.clone(), Watts(400.0))).collect();
        world.executor.set_targets(&targets);
        let all = |world: &World| (0..4).map(|n| world.below(n).0).sum::<f64>();
        let (start, mut took) = (all(&world), 0.0);
        while all(&world) < 3_200.0 - 2.0 {
            settle(&mut world);
            let rose = all(&world) - start;
            assert!(rose <= rate * took + 0.01, "{rose} W in {took} s");
            let [a, b] = [0, 1].map(|node| world.below(node).0);
            assert!((a - b).abs() < 12.0, "{a} and {b} W");
            world.step_time(1);
            took += 1.0;
            assert!(took <= 1_200.0 / rate + 8.0, "{rose} W in {took} s");
        }
    }
}

/// How a node's limit was found: off, as a part of a watt, above what it can draw.
fn as_found(world: &mut World, kind: usize) -> Watts {
    let node = &world.site.nodes[1];
    let (over, most) = (node.overhead, node.overhead + Watts(1_400.0));
    let agent = world.agents.get_mut(node.id.as_str()).unwrap();
    match kind {
        0 => {
            // The controller's highest is less than the node can draw.
            agent.range.1 = over + Watts(1_250.0);
            agent.found = agent.range.1;
            agent.off = Some((agent.found, most));
            Watts(1_400.0)
        }
        1 => {
            agent.found = over + Watts(1_333.4);
            Watts(1_333.4)
        }
        _ => {
            agent.found = most + Watts(3_000.0);
            agent.off = Some((most, most));
            Watts(1_400.0)
        }
    }
}

#[test]
fn a_node_whose_agent_is_to_stop_is_leased_exactly_what_was_found_once_there_is_room() {
    let site = sites::small();
    let id = AgentId::from(site.nodes[1].id.as_str());
    let (mut near, mut waited) = (f64::NEG_INFINITY, 0);
    for seed in 0..60 {
        let mut world = mixed(&site, seed, [0.0, 0.3][seed as usize % 2], 300.0);
        let draws = as_found(&mut world, seed as usize % 3);
        // Its own node bears what was found; with the others as they are, its rack does not.
        world.room[site.nodes[1].power_node] = draws;
        world.executor.set_room(world.room.clone());
        world.hello_all();
        let full = world.draw_targets();
        world.executor.set_targets(&full);
        for _ in 0..40 {
            world.send_commands();
            world.deliver();
        }
        world.agents.get_mut(&id).unwrap().leaving = true;
        world.hello_all();
        let found = world.agents[&id].found;
        let has = |world: &World| *world.agents[&id].limits.values().next().unwrap();
        assert!(has(&world) < found, "seed {seed}: nothing to restore");
        for round in 0..200 {
            // What the allocator does: theirs is given, the others get less.
            let pinned = world.executor.pinned(world.now);
            let given: Watts = (site.devices[site.nodes[1].devices.clone()].iter())
                .map(|d| pinned[&d.id])
                .sum();
            assert!((given - draws).0.abs() < 1e-6, "seed {seed}: {given}");
            let mut targets: BTreeMap<DeviceId, Watts> = (site.devices.iter())
                .map(|d| (d.id.clone(), Watts(200.0)))
                .collect();
            targets.extend(pinned);
            world.executor.set_targets(&targets);
            let before = world.executor.worst().clone();
            let sent = world.history.len();
            world.send_commands();
            let commands: Vec<CapCommand> = (world.history[sent..].iter())
                .map(|(_, c)| c.clone())
                .collect();
            assert_eq!(broken(&world, &before, &commands), "", "seed {seed}");
            if round > 160 {
                world.trouble = 0.0;
            }
            for _ in 0..1 + world.rng.usize(0..8) {
                world.deliver();
            }
            let (excess, node) = world.excess();
            assert!(
                excess <= 1e-6,
                "seed {seed}, round {round}: {excess} W above `{node}`"
            );
            near = near.max(excess);
            waited += usize::from(has(&world) != found);
            world.step_time(1);
        }
        for _ in 0..12 {
            settle(&mut world);
            world.step_time(8);
        }
        assert_eq!(has(&world), found, "seed {seed}");
        // It stopped, and another one came: from now on control's own limits again.
        world.agents.get_mut(&id).unwrap().leaving = false;
        world.hello_all();
        assert!(
            !world
                .executor
                .pinned(world.now)
                .contains_key(&site.devices[2].id)
        );
        world.executor.set_targets(&full);
        settle(&mut world);
        assert!(
            has(&world) < found && world.excess().0 <= 1e-6,
            "seed {seed}"
        );
    }
    assert!(near > -1.0 && waited > 60, "{near} W, {waited} rounds");
}

/// An earlier controller's order to an agent that was about to stop may still come.
#[test]
fn under_a_new_fence_a_limit_that_may_be_off_counts_with_all_that_the_node_draws() {
    let site = sites::small();
    let mut world = mixed(&site, 1, 0.0, 300.0);
    let draws = as_found(&mut world, 0);
    world.hello_all();
    let worst = |world: &World| -> Watts {
        let places = site.nodes[1].devices.clone();
        world.executor.worst_caps()[places].iter().sum()
    };
    assert!(worst(&world) < Watts(700.0));
    world.executor.take_charge(3);
    assert!((worst(&world) - draws).0.abs() < 1e-6, "{}", worst(&world));
}

/// A management controller that says nothing may have lost the limit.
#[test]
fn a_limit_that_cannot_be_read_counts_with_all_that_the_node_draws() {
    let site = sites::small();
    let mut world = mixed(&site, 1, 0.0, 300.0);
    as_found(&mut world, 0);
    world.hello_all();
    let node = site.nodes[1].id.as_str();
    let unknown = CapOutcome::Refused {
        reason: "its limit cannot be read".into(),
        current: None,
    };
    world.executor.on_answer(&CapAnswer {
        agent: AgentId::from(node),
        sequence: None,
        controller: None,
        fence: 0,
        at: world.now + std::time::Duration::from_secs(1),
        reports: vec![CapReport {
            device: DeviceId::from(node),
            outcome: unknown,
        }],
    });
    let places = site.nodes[1].devices.clone();
    let worst: Watts = world.executor.worst_caps()[places].iter().sum();
    assert!((worst.0 - 1_400.0).abs() < 1e-6, "{worst}");
}

/// A hello of one node, with these devices.
fn hello(site: &Site, node: usize, devices: Vec<CappableDevice>) -> AgentHello {
    AgentHello {
        agent: AgentId::from(site.nodes[node].id.as_str()),
        version: "test".into(),
        fence: 0,
        at: Timestamp(5),
        devices,
        foreign: ForeignChanges::default(),
        leaving: false,
    }
}

fn cappable(device: &str, min: f64, max: f64, current: f64) -> CappableDevice {
    CappableDevice {
        device: DeviceId::from(device),
        uuid: format!("UUID-{device}"),
        product: "test".into(),
        min: Watts(min),
        max: Watts(max),
        found: Watts(current),
        current: Watts(current),
    }
}

fn executor(site: &Arc<Site>) -> Executor {
    let mut executor = Executor::new(Arc::clone(site), "run".into(), agents::LEASE);
    executor.set_room(vec![Watts(1e9); site.power.nodes().len()]);
    let targets = (site.devices.iter())
        .map(|d| (d.id.clone(), Watts(500.0)))
        .collect();
    executor.set_targets(&targets);
    executor
}

#[test]
fn what_a_nodes_limit_can_be_set_to_says_what_its_accelerators_can() {
    let site = sites::small();
    let (node, over) = (site.nodes[1].id.as_str(), site.nodes[1].overhead.0);
    let mut executor = executor(&site);
    // Wider than its accelerators; one end narrower; both narrower, and between watts.
    for (min, max, low, high) in [
        (100.0, 20_000.0, 200.0, 700.0),
        (100.0, over + 1_000.0, 200.0, 499.5),
        (over + 501.0, over + 900.4, 250.5, 450.0),
    ] {
        let limit = cappable(node, min, max, over + 600.0);
        executor.on_hello(&hello(&site, 1, vec![limit]));
        for d in &site.devices[site.nodes[1].devices.clone()] {
            assert_eq!(executor.ranges()[&d.id], (Watts(low), Watts(high)));
        }
        let (_, command) = executor.tick(Timestamp(9)).remove(0);
        let [lease] = &command.leases[..] else {
            panic!("{command:?}");
        };
        assert_eq!(lease.device.as_str(), node);
        assert_eq!(lease.uuid, format!("UUID-{node}"));
        assert_eq!(lease.cap.0, (over + 2.0 * 500.0f64.min(high)).floor());
        assert!(lease.safe_cap <= lease.cap && lease.safe_cap.0 >= min);
    }
    assert_eq!(executor.limited_whole(), &Arc::new(BTreeSet::from([1])));
    // One that leaves its accelerators no cap: nothing is sent, and it says why.
    let mut executor = self::executor(&site);
    let limit = cappable(node, 100.0, over + 300.0, over + 250.0);
    executor.on_hello(&hello(&site, 1, vec![limit]));
    assert_eq!(executor.tick(Timestamp(99)), []);
    let id = &site.devices[2].id;
    let reason = &executor.refusals()[id];
    assert!(
        reason.contains("less its overhead") && reason.contains("-650 W to 150 W"),
        "{reason}"
    );
    assert_eq!(executor.pinned(Timestamp(99))[id], Watts(125.0));
}

/// A limit that is off is told as the highest, and a node may draw more than that.
#[test]
fn a_limit_that_may_be_off_bounds_nothing() {
    let site = sites::small();
    let node = &site.nodes[1];
    let over = node.overhead.0;
    let mut executor = executor(&site);
    let limit = cappable(node.id.as_str(), 800.0, over + 1_300.0, over + 1_300.0);
    executor.on_hello(&hello(&site, 1, vec![limit]));
    let worst = |e: &Executor| -> Watts { e.worst_caps()[node.devices.clone()].iter().sum() };
    assert_eq!(worst(&executor), Watts(1_400.0));
    // The highest that is ever asked for switches it on.
    let all = (site.devices.iter())
        .map(|d| (d.id.clone(), Watts(700.0)))
        .collect();
    executor.set_targets(&all);
    let (_, command) = executor.tick(Timestamp(9)).remove(0);
    assert_eq!(command.leases[0].cap, Watts(over + 1_299.0));
    assert_eq!(worst(&executor), Watts(1_400.0));
    let id = DeviceId::from(node.id.as_str());
    let readback = command.leases[0].cap;
    executor.on_answer(&CapAnswer {
        agent: AgentId::from(node.id.as_str()),
        sequence: Some(command.sequence),
        controller: Some(command.controller),
        fence: 0,
        at: Timestamp(10),
        reports: vec![CapReport {
            device: id,
            outcome: CapOutcome::Applied { readback },
        }],
    });
    assert_eq!(worst(&executor), Watts(1_299.0));
}

#[test]
fn where_accelerators_are_capped_a_limit_of_their_node_is_left_alone() {
    let site = sites::small();
    let node = &site.nodes[1];
    let mut executor = executor(&site);
    let limit = cappable(node.id.as_str(), 800.0, 3_000.0, 2_000.0);
    let gpus = || {
        (site.devices[node.devices.clone()].iter())
            .map(|d| cappable(d.id.as_str(), 200.0, 700.0, 300.0))
    };
    let both: Vec<CappableDevice> = gpus().chain([limit.clone()]).collect();
    let leased = |executor: &mut Executor, at: i64| -> Vec<String> {
        let commands = executor.tick(Timestamp(at));
        let leases = commands.into_iter().flat_map(|(_, c)| c.leases);
        leases.map(|l| l.device.to_string()).collect()
    };
    let named: Vec<String> = gpus().map(|d| d.device.to_string()).collect();
    executor.on_hello(&hello(&site, 1, both));
    assert_eq!(leased(&mut executor, 10), named);
    assert!(executor.limited_whole().is_empty());
    // The agent comes back with another actuator, and then with the first again.
    executor.on_hello(&hello(&site, 1, vec![limit]));
    assert_eq!(leased(&mut executor, 20), [node.id.to_string()]);
    executor.on_hello(&hello(&site, 1, gpus().collect()));
    assert_eq!(leased(&mut executor, 30), named);
    assert!(executor.limited_whole().is_empty());
    let worst: Watts = executor.worst_caps()[node.devices.clone()].iter().sum();
    assert_eq!(worst, Watts(1_000.0));
}

/// What the overhead does not need the accelerators may draw, and those at rest
/// leave theirs to the others: neither may be given away twice.
#[test]
fn below_a_limit_of_the_node_overhead_counts_as_rated_and_nothing_is_at_rest() {
    let site = sites::small();
    let now = Timestamp(1_000_000);
    let catalogue = heliostat_models::Catalogue::builtin();
    let read = |device: &str, metric: &str, value: f64| Frame {
        device: DeviceId::from(device),
        at: now,
        readings: vec![(catalogue.id(metric).unwrap(), Reading::Measured(value))],
    };
    let mut frames = Vec::new();
    for node in &site.nodes {
        frames.push(read(node.id.as_str(), "node_power_watts", 700.0));
        for d in &site.devices[node.devices.clone()] {
            frames.push(read(d.id.as_str(), "gpu_power_watts", 80.0));
        }
    }
    let whole = Arc::new(BTreeSet::from([1]));
    let readings = |whole| Readings::new(frames.clone(), now).limited_whole(whole);
    let caps = vec![Watts(200.0); site.devices.len()];
    let free = measure(&site, &readings(Arc::default()), &[], &caps);
    let held = measure(&site, &readings(whole), &[], &caps);
    let at = site.nodes[1].power_node;
    assert!(free.it_uncontrolled[at] < site.nodes[1].overhead);
    assert_eq!(held.it_uncontrolled[at], site.nodes[1].overhead);
    assert_eq!(held.it_at_feed[at], site.nodes[1].overhead);
    let other = site.nodes[0].power_node;
    assert_eq!(held.it_uncontrolled[other], free.it_uncontrolled[other]);
    assert_eq!(free.idle.len(), 8);
    assert_eq!(held.idle.len(), 6);
}
