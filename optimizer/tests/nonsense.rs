//! An agent that says what cannot be takes nothing from the others: its devices
//! count at the most that they may draw and are left alone, whatever it says.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/agents.rs"]
mod agents;
#[path = "support/site.rs"]
mod sites;

use agents::{Message, World};
use heliostat_models::Watts;
use heliostat_models::lease::{AgentHello, CapOutcome, CappableDevice};

type Spoil = fn(&mut CappableDevice);

/// What a broken driver, a broken agent or a stranger might say.
const NONSENSE: [(&str, Spoil); 8] = [
    ("no range", |d| {
        (d.min, d.max) = (Watts(700.0), Watts(200.0))
    }),
    ("highest limit", |d| d.max = Watts(1e9)),
    ("highest limit", |d| d.max = Watts(f64::INFINITY)),
    ("lowest limit", |d| d.min = Watts(-5.0)),
    ("lowest limit", |d| d.min = Watts(f64::NAN)),
    ("limit in force", |d| d.current = Watts(-1e6)),
    ("limit in force", |d| d.current = Watts(1e9)),
    ("limit found", |d| d.found = Watts(f64::NEG_INFINITY)),
];

fn spoiled(world: &World, spoil: Spoil) -> AgentHello {
    let agent = &world.site.nodes[0].id;
    let hello = |(id, a): (_, &agents::Agent)| {
        (a.id.as_str() == agent.as_str()).then(|| (id, a.hello(world.now)))
    };
    let (_, mut hello): (&_, AgentHello) = world.agents.iter().find_map(hello).unwrap();
    spoil(&mut hello.devices[0]);
    hello
}

#[test]
fn what_cannot_be_is_not_believed_and_costs_the_others_nothing() {
    for (what, spoil) in NONSENSE {
        for known_before in [true, false] {
            let mut world = World::new(sites::small(), 1, 0.0, Watts(300.0));
            let hello = spoiled(&world, spoil);
            let (place, device) = world.site.device(&hello.devices[0].device).unwrap();
            let (id, highest) = (device.id.clone(), device.max_cap);
            if known_before {
                world.hello_all();
            } else {
                world.agents.get_mut(&hello.agent).unwrap().alive = false;
                world.hello_all();
                world.agents.get_mut(&hello.agent).unwrap().alive = true;
            }
            world.executor.on_hello(&hello);
            let refusals = world.executor.refusals();
            assert!(refusals[&id].contains(what), "{what}: {}", refusals[&id]);
            assert_eq!(refusals.len(), 1);
            assert_eq!(world.executor.worst_caps()[place], highest, "{what}");
            assert_eq!(world.executor.pinned(world.now)[&id], highest, "{what}");
            let ranges = world.executor.ranges();
            assert!(
                ranges
                    .values()
                    .all(|(low, high)| *low >= Watts::ZERO && low <= high && *high < Watts(1e4))
            );
            // The others are commanded, and this one is once sense is spoken of it.
            let targets = (world.site.devices.iter())
                .map(|d| (d.id.clone(), Watts(250.0)))
                .collect();
            world.executor.set_targets(&targets);
            let named = |world: &mut World| -> Vec<_> {
                let commands = world.executor.propose(world.now);
                world.executor.sent(&commands, world.now);
                for (agent, command) in &commands {
                    world.post(Message::Command(agent.clone(), command.clone()));
                }
                while !world.wires.is_empty() {
                    world.deliver();
                }
                commands
                    .iter()
                    .flat_map(|(_, c)| c.leases.iter().map(|l| l.device.clone()))
                    .collect()
            };
            let commanded = named(&mut world);
            assert_eq!(commanded.len(), world.site.devices.len() - 1, "{what}");
            assert!(!commanded.contains(&id));
            world.hello_all();
            assert!(named(&mut world).contains(&id), "{what}");
            assert!(world.executor.refusals().is_empty());
        }
    }
}

#[test]
fn an_answer_that_cannot_be_leaves_the_device_unknown() {
    for readback in [-1.0, 1e9, f64::NAN] {
        let mut world = World::new(sites::small(), 1, 0.0, Watts(300.0));
        world.hello_all();
        let targets = (world.site.devices.iter())
            .map(|d| (d.id.clone(), Watts(250.0)))
            .collect();
        world.executor.set_targets(&targets);
        let (agent, command) = world.executor.propose(world.now).remove(0);
        world
            .executor
            .sent(&[(agent.clone(), command.clone())], world.now);
        let now = world.now;
        let mut answer = world
            .agents
            .get_mut(&agent)
            .unwrap()
            .command(&command, now)
            .unwrap();
        answer.reports[0].outcome = CapOutcome::Applied {
            readback: Watts(readback),
        };
        world.executor.on_answer(&answer);
        let (place, device) = world.site.device(&answer.reports[0].device).unwrap();
        assert_eq!(
            world.executor.worst_caps()[place],
            device.max_cap,
            "{readback}"
        );
        let other = world.site.device(&answer.reports[1].device).unwrap().0;
        assert!(world.executor.worst_caps()[other] <= Watts(300.0));
    }
}
