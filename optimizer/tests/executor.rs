//! The executor against a network that loses, doubles, delays and reorders
//! messages, agents that stop and come back, and leases that end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/agents.rs"]
mod agents;
#[path = "support/site.rs"]
mod sites;

use agents::{LEASE, Message, World};
use heliostat_models::{AgentId, DeviceId, Watts};
use heliostat_optimizer::control::Executor;
use std::collections::BTreeMap;
use std::sync::Arc;

#[test]
fn whatever_the_network_does_no_limit_is_ever_exceeded() {
    let (mut most, mut raised) = (f64::NEG_INFINITY, 0);
    for seed in 0..120 {
        let trouble = [0.0, 0.1, 0.35][seed as usize % 3];
        let mut world = World::new(sites::small(), seed, trouble, Watts(300.0));
        world.tighten();
        world.hello_all();
        for round in 0..400 {
            match world.rng.usize(0..10) {
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
                4 if trouble > 0.0 => {
                    // A hello that was true then and arrives whenever.
                    let mut ids: Vec<AgentId> = world.agents.keys().cloned().collect();
                    ids.sort();
                    let id = &ids[world.rng.usize(0..ids.len())];
                    let agent = &world.agents[id];
                    if agent.alive {
                        let hello = agent.hello(world.now);
                        world.post(Message::Hello(hello));
                    }
                }
                5 => world.send_commands(),
                6 if trouble > 0.0 && !world.history.is_empty() => {
                    // One of the last commands once more, to whoever is there now.
                    world.deliver_again();
                }
                _ => {
                    world.deliver();
                    if trouble == 0.0 {
                        world.send_commands();
                    }
                }
            }
            let (excess, node) = world.excess();
            assert!(
                excess <= 1e-6,
                "seed {seed}, round {round}: {excess} W above `{node}`"
            );
            most = most.max(excess);
            // What it believes is never below what is.
            let worst = world.executor.worst();
            for agent in world.agents.values() {
                for (device, limit) in &agent.limits {
                    assert!(
                        worst[device] >= *limit - Watts(1e-6),
                        "seed {seed}, round {round}: `{device}` has {limit}, believed at most {}",
                        worst[device]
                    );
                    raised += usize::from(limit.0 > 450.0);
                }
            }
        }
    }
    // The walk came close to the limits, else it would prove nothing.
    assert!(most > -50.0, "never closer than {most} W");
    assert!(raised > 1_000, "{raised}");
}

#[test]
fn with_a_sound_network_it_reaches_what_was_decided() {
    for seed in 0..20 {
        let mut world = World::new(sites::small(), seed, 0.0, Watts(700.0));
        world.tighten();
        // Found above every limit: that was so before, and only lowers go out.
        assert!(world.excess().0 > 0.0);
        world.hello_all();
        for _ in 0..3 {
            let targets = world.draw_targets();
            world.executor.set_targets(&targets);
            for _ in 0..12 {
                world.send_commands();
                while !world.wires.is_empty() {
                    world.deliver();
                }
            }
            assert!(world.excess().0 <= 1e-6);
            let have = world.executor.acknowledged();
            for (device, target) in &targets {
                assert!(
                    (have[device] - *target).0.abs() < 0.002,
                    "{device}: {} not {target}",
                    have[device]
                );
            }
            assert_eq!(world.executor.unanswered(), 0);
            world.step_time(5);
        }
    }
}

#[test]
fn leases_are_renewed_before_they_end_and_only_then() {
    let mut world = World::new(sites::small(), 1, 0.0, Watts(300.0));
    world.tighten();
    world.hello_all();
    let targets = world.draw_targets();
    world.executor.set_targets(&targets);
    for _ in 0..10 {
        world.send_commands();
        while !world.wires.is_empty() {
            world.deliver();
        }
    }
    let reached = world.executor.acknowledged();
    let mut commands = 0;
    for _ in 0..100 {
        world.step_time(10);
        let out = world.executor.tick(world.now);
        commands += out.len();
        for (agent, command) in out {
            world.wires.push(Message::Command(agent, command));
        }
        while !world.wires.is_empty() {
            world.deliver();
        }
    }
    assert_eq!(
        world.executor.acknowledged(),
        reached,
        "no lease ever ended"
    );
    // 1,000 s at one renewal in 30 s for 4 agents.
    assert!((100..=150).contains(&commands), "{commands}");
}

#[test]
fn devices_that_do_not_obey_are_counted_at_what_they_may_have() {
    let mut world = World::new(sites::small(), 1, 0.0, Watts(650.0));
    let nobody = world.executor.pinned(world.now);
    assert_eq!(nobody.len(), 8);
    assert!(
        nobody.values().all(|c| *c == Watts(700.0)),
        "unknown counts at its highest"
    );
    world.tighten();
    world.hello_all();
    assert!(world.executor.pinned(world.now).is_empty());
    let first = world.site.nodes[0].id.to_string();
    world.agents.get_mut(first.as_str()).unwrap().refuses = true;
    let targets = world.draw_targets();
    world.executor.set_targets(&targets);
    world.send_commands();
    while !world.wires.is_empty() {
        world.deliver();
    }
    let pinned = world.executor.pinned(world.now);
    assert_eq!(pinned.len(), 2);
    assert!(pinned.values().all(|c| *c == Watts(650.0)));
    assert_eq!(world.executor.refusals().len(), 2);
    // A silent agent is pinned after two leases, at the largest cap it may have.
    let second = world.site.nodes[1].id.to_string();
    world.agents.get_mut(second.as_str()).unwrap().alive = false;
    for _ in 0..20 {
        world.step_time(10);
        world.send_commands();
        while !world.wires.is_empty() {
            world.deliver();
        }
    }
    assert_eq!(world.executor.pinned(world.now).len(), 4);
}

/// Two controllers, one of them replaced without knowing it, on a network that
/// loses, doubles and reorders: what the one in charge believes a device may
/// have is never below what it has, and in the end it gets its way.
#[test]
fn orders_of_an_earlier_controller_are_counted_until_they_can_no_longer_come() {
    let (mut above, mut refused) = (0, 0);
    for seed in 0..90 {
        let trouble = [0.05, 0.15, 0.35][seed as usize % 3];
        let mut world = World::new(sites::small(), seed, trouble, Watts(300.0));
        world.tighten();
        let mut earlier = Executor::new(Arc::clone(&world.site), "run-0".into(), LEASE);
        earlier.take_charge(1);
        earlier.set_room(vec![Watts(1e9); world.room.len()]);
        world.earlier = Some(earlier);
        world.hello_all();
        for _ in 0..20 {
            world.earlier_orders();
            world.deliver();
        }
        world.executor.take_charge(2);
        let all: Watts = world.executor.worst().values().copied().sum();
        assert_eq!(all, Watts(700.0 * world.site.devices.len() as f64));
        for round in 0..300 {
            match world.rng.usize(0..8) {
                0 => {
                    let targets = world.draw_targets();
                    world.executor.set_targets(&targets);
                }
                1 => {
                    let seconds = world.rng.u64(0..30);
                    world.step_time(seconds);
                }
                2 => world.earlier_orders(),
                3 if round % 5 == 0 => world.hello_all(),
                4 => world.send_commands(),
                _ => world.deliver(),
            }
            for agent in world.agents.values() {
                for (device, limit) in &agent.limits {
                    let believed = world.executor.worst()[device];
                    assert!(
                        believed >= *limit - Watts(1e-6),
                        "seed {seed}, round {round}: `{device}` has {limit}, believed at most {believed}"
                    );
                    above += usize::from(limit.0 > 500.0);
                }
            }
        }
        world.trouble = 0.0;
        let targets = world.draw_targets();
        world.executor.set_targets(&targets);
        for _ in 0..12 {
            world.earlier_orders();
            world.send_commands();
            while !world.wires.is_empty() {
                world.deliver();
            }
            world.step_time(5);
        }
        assert!(world.excess().0 <= 1e-6, "seed {seed}");
        assert!(world.agents.values().all(|a| a.fence == 2));
        refused += world.earlier.as_ref().map_or(0, |e| e.refusals().len());
    }
    assert!(above > 1_000 && refused > 100, "{above} {refused}");
}

#[test]
fn an_agent_that_is_to_stop_is_leased_what_it_found_once_there_is_room() {
    let stepped = sites::small_text().replace(
        "devices_per_node = 2",
        "devices_per_node = 2\ncap_step_watts = 25",
    );
    for seed in 0..40 {
        // What was found need not be a multiple of the step.
        let (site, found) = match seed % 4 {
            0 | 1 => (sites::small(), Watts(700.0)),
            _ => (sites::parse(&stepped), Watts(690.0)),
        };
        let trouble = [0.0, 0.3][seed as usize % 2];
        let mut world = World::new(site, seed, trouble, Watts(300.0));
        world.tighten();
        let id = world.some_agent();
        // Its own node bears what was found; with the others as they are, its rack does not.
        let (place, node) = world.site.node(id.as_str()).unwrap();
        let _ = place;
        let bears = found * node.devices.len() as f64;
        world.room[node.power_node] = bears;
        world.executor.set_room(world.room.clone());
        world.hello_all();
        let full = world.draw_targets();
        world.executor.set_targets(&full);
        for _ in 0..30 {
            world.send_commands();
            world.deliver();
        }
        let agent = world.agents.get_mut(&id).unwrap();
        (agent.leaving, agent.found) = (true, found);
        world.hello_all();
        let has = |world: &World| -> Watts { world.agents[&id].limits.values().copied().sum() };
        let before = has(&world);
        assert!(before < bears, "seed {seed}: nothing to restore");
        for round in 0..150 {
            // What the allocator does: theirs is given, the others get less.
            let now = world.now;
            let mut targets: BTreeMap<DeviceId, Watts> = (world.site.devices.iter())
                .map(|d| (d.id.clone(), Watts(200.0)))
                .collect();
            let pinned = world.executor.pinned(now);
            for device in world.agents[&id].limits.keys() {
                assert_eq!(pinned[device], found);
            }
            targets.extend(pinned);
            world.executor.set_targets(&targets);
            world.send_commands();
            if round > 120 {
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
            world.step_time(1);
        }
        for _ in 0..12 {
            world.send_commands();
            while !world.wires.is_empty() {
                world.deliver();
            }
            world.step_time(8);
            assert!(world.excess().0 <= 1e-6, "seed {seed}");
        }
        assert_eq!(has(&world), bears, "seed {seed}");
    }
}
