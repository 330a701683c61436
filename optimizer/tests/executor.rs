//! The executor against a network that loses, doubles, delays and reorders
//! messages, agents that stop and come back, and leases that end.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/site.rs"]
mod sites;

use heliostat_models::lease::{
    AgentHello, CapAnswer, CapCommand, CapOutcome, CapReport, CappableDevice, ForeignChanges,
};
use heliostat_models::{AgentId, DeviceId, Site, Timestamp, Watts};
use heliostat_optimizer::control::Executor;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(60);

/// An agent as the collector builds it, over limits that live in the hardware.
struct Agent {
    id: AgentId,
    alive: bool,
    limits: BTreeMap<DeviceId, Watts>,
    leases: BTreeMap<DeviceId, (Watts, Timestamp)>,
    last: Option<(u64, CapAnswer)>,
    refuses: bool,
    /// The highest fence seen; on its disk.
    fence: u64,
    leaving: bool,
}

impl Agent {
    fn hello(&self, at: Timestamp) -> AgentHello {
        let devices = (self.limits.iter())
            .map(|(device, current)| CappableDevice {
                device: device.clone(),
                uuid: format!("GPU-{device}"),
                product: "test".into(),
                min: Watts(200.0),
                max: Watts(700.0),
                found: Watts(700.0),
                current: *current,
            })
            .collect();
        AgentHello {
            agent: self.id.clone(),
            version: "test".into(),
            fence: self.fence,
            at,
            devices,
            foreign: ForeignChanges::default(),
            leaving: self.leaving,
        }
    }

    fn command(&mut self, command: &CapCommand, now: Timestamp) -> Option<CapAnswer> {
        if command.fence > self.fence {
            self.fence = command.fence;
            self.last = None;
        }
        let outdated = command.fence < self.fence;
        if let Some((last, answer)) = self.last.as_ref().filter(|_| !outdated) {
            if command.sequence == *last {
                return Some(answer.clone());
            }
            if command.sequence < *last {
                return None;
            }
        }
        let mut reports = Vec::new();
        for lease in &command.leases {
            let outcome = if outdated || self.refuses || command.expires <= now {
                CapOutcome::Refused {
                    reason: "test".into(),
                    current: Some(self.limits[&lease.device]),
                }
            } else {
                assert!(lease.cap.0 >= 200.0 && lease.cap.0 <= 700.0);
                assert!(lease.safe_cap <= lease.cap, "a safe cap must not raise");
                self.limits.insert(lease.device.clone(), lease.cap);
                self.leases
                    .insert(lease.device.clone(), (lease.safe_cap, command.expires));
                CapOutcome::Applied {
                    readback: lease.cap,
                }
            };
            reports.push(CapReport {
                device: lease.device.clone(),
                outcome,
            });
        }
        let answer = CapAnswer {
            agent: self.id.clone(),
            fence: self.fence,
            sequence: Some(command.sequence),
            controller: Some(command.controller.clone()),
            at: now,
            reports,
        };
        if !outdated {
            self.last = Some((command.sequence, answer.clone()));
        }
        Some(answer)
    }

    fn expire(&mut self, now: Timestamp) -> Option<CapAnswer> {
        let mut reports = Vec::new();
        for (device, (safe, expires)) in std::mem::take(&mut self.leases) {
            if expires > now {
                self.leases.insert(device, (safe, expires));
                continue;
            }
            self.limits.insert(device.clone(), safe);
            reports.push(CapReport {
                device,
                outcome: CapOutcome::Applied { readback: safe },
            });
        }
        (!reports.is_empty()).then(|| CapAnswer {
            agent: self.id.clone(),
            fence: self.fence,
            sequence: None,
            controller: None,
            at: now,
            reports,
        })
    }
}

#[derive(Clone)]
enum Message {
    Hello(AgentHello),
    Command(AgentId, CapCommand),
    Answer(CapAnswer),
}

struct World {
    site: Arc<Site>,
    agents: HashMap<AgentId, Agent>,
    executor: Executor,
    /// A controller that was in charge before, and does not know better.
    earlier: Option<Executor>,
    wires: Vec<Message>,
    now: Timestamp,
    room: Vec<Watts>,
    rng: fastrand::Rng,
    /// Share of messages lost and doubled.
    trouble: f64,
    /// Every command that was ever sent; a broker may deliver one again.
    history: Vec<(AgentId, CapCommand)>,
}

impl World {
    fn new(seed: u64, trouble: f64, start: Watts) -> Self {
        let site = sites::small();
        let mut agents = HashMap::new();
        for node in &site.nodes {
            let id = AgentId::from(node.id.as_str());
            let limits = site.devices[node.devices.clone()]
                .iter()
                .map(|d| (d.id.clone(), start))
                .collect();
            let agent = Agent {
                id: id.clone(),
                alive: true,
                limits,
                leases: BTreeMap::new(),
                last: None,
                refuses: false,
                fence: 0,
                leaving: false,
            };
            agents.insert(id, agent);
        }
        let executor = Executor::new(Arc::clone(&site), "run-1".into(), LEASE);
        let room = vec![Watts(1e9); site.power.nodes().len()];
        Self {
            site,
            agents,
            executor,
            earlier: None,
            wires: Vec::new(),
            now: Timestamp(1_000_000),
            room,
            rng: fastrand::Rng::with_seed(seed),
            trouble,
            history: Vec::new(),
        }
    }

    fn post(&mut self, message: Message) {
        if self.rng.f64() < self.trouble {
            return;
        }
        if self.rng.f64() < self.trouble {
            self.wires.push(message.clone());
        }
        self.wires.push(message);
    }

    fn send_commands(&mut self) {
        for (agent, command) in self.executor.tick(self.now) {
            self.history.push((agent.clone(), command.clone()));
            self.post(Message::Command(agent, command));
        }
    }

    /// Delivers one message from anywhere in the wires.
    fn deliver(&mut self) {
        if self.wires.is_empty() {
            return;
        }
        let at = if self.trouble > 0.0 {
            self.rng.usize(0..self.wires.len())
        } else {
            0
        };
        match self.wires.remove(at) {
            Message::Hello(hello) => {
                self.executor.on_hello(&hello);
                (self.earlier.iter_mut()).for_each(|e| e.on_hello(&hello));
            }
            Message::Answer(answer) => {
                self.executor.on_answer(&answer);
                (self.earlier.iter_mut()).for_each(|e| e.on_answer(&answer));
            }
            Message::Command(id, command) => {
                let now = self.now;
                let agent = self.agents.get_mut(&id).unwrap();
                if agent.alive
                    && let Some(answer) = agent.command(&command, now)
                {
                    self.post(Message::Answer(answer));
                }
            }
        }
    }

    fn step_time(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        let mut answers = Vec::new();
        for agent in self.agents.values_mut().filter(|a| a.alive) {
            answers.extend(agent.expire(self.now));
        }
        answers.sort_by(|a, b| a.agent.cmp(&b.agent));
        for answer in answers {
            self.post(Message::Answer(answer));
        }
    }

    /// Watts by which the worst power node exceeds its room; the limits that
    /// the hardware has are what counts.
    fn excess(&self) -> (f64, String) {
        let mut drawn = vec![Watts::ZERO; self.room.len()];
        for (place, device) in self.site.devices.iter().enumerate() {
            let node = &self.site.nodes[device.node];
            let cap = self.agents[node.id.as_str()].limits[&device.id];
            for up in self.site.power.path_up(self.site.power_node_of(place)) {
                drawn[up] += cap;
            }
        }
        (drawn.iter().zip(&self.room).zip(self.site.power.nodes()))
            .map(|((d, r), n)| ((*d - *r).0, n.id.clone()))
            .fold((f64::NEG_INFINITY, String::new()), |a, b| {
                if a.0 >= b.0 { a } else { b }
            })
    }

    /// Targets whose sums fill every room exactly or leave some.
    fn draw_targets(&mut self) -> BTreeMap<DeviceId, Watts> {
        let mut left = self.room.clone();
        let mut targets = BTreeMap::new();
        let count = self.site.devices.len();
        let mut order: Vec<usize> = (0..count).collect();
        self.rng.shuffle(&mut order);
        let above: Vec<Vec<usize>> = (0..count)
            .map(|d| self.site.power.path_up(self.site.power_node_of(d)))
            .collect();
        for (place, path) in above.iter().enumerate() {
            for node in path {
                left[*node] -= Watts(200.0);
            }
            targets.insert(self.site.devices[place].id.clone(), Watts(200.0));
        }
        for place in order {
            let most = above[place]
                .iter()
                .fold(500.0, |m: f64, v| m.min(left[*v].0));
            let more = Watts((most * self.rng.f64().powf(0.3)).max(0.0));
            for node in &above[place] {
                left[*node] -= more;
            }
            targets.insert(self.site.devices[place].id.clone(), Watts(200.0) + more);
        }
        targets
    }

    fn hello_all(&mut self) {
        let mut hellos: Vec<AgentHello> = self.agents.values().map(|a| a.hello(self.now)).collect();
        hellos.sort_by(|a, b| a.agent.cmp(&b.agent));
        for hello in hellos {
            self.executor.on_hello(&hello);
            (self.earlier.iter_mut()).for_each(|e| e.on_hello(&hello));
        }
    }

    /// The earlier controller orders whatever it likes.
    fn earlier_orders(&mut self) {
        let targets: BTreeMap<DeviceId, Watts> = (self.site.devices.iter())
            .map(|d| (d.id.clone(), Watts(200.0 + 500.0 * self.rng.f64())))
            .collect();
        let Some(earlier) = &mut self.earlier else {
            return;
        };
        earlier.set_targets(&targets);
        for (agent, command) in earlier.tick(self.now) {
            self.post(Message::Command(agent, command));
        }
    }

    /// Limits such that each rack, and all together, bear about 60 % of full power.
    fn tighten(&mut self) {
        for (place, node) in self.site.power.nodes().iter().enumerate() {
            let below = (0..self.site.devices.len())
                .filter(|d| {
                    let at = self.site.power_node_of(*d);
                    self.site.power.path_up(at).contains(&place)
                })
                .count();
            let share = if node.parents.is_empty() { 0.55 } else { 0.65 };
            self.room[place] = Watts(700.0 * share * below as f64);
        }
        self.executor.set_room(self.room.clone());
    }
}

#[test]
fn whatever_the_network_does_no_limit_is_ever_exceeded() {
    let (mut most, mut raised) = (f64::NEG_INFINITY, 0);
    for seed in 0..120 {
        let trouble = [0.0, 0.1, 0.35][seed as usize % 3];
        let mut world = World::new(seed, trouble, Watts(300.0));
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
                    // Stops, or comes back without a memory of its leases.
                    let mut ids: Vec<AgentId> = world.agents.keys().cloned().collect();
                    ids.sort();
                    let id = ids[world.rng.usize(0..ids.len())].clone();
                    let now = world.now;
                    let agent = world.agents.get_mut(&id).unwrap();
                    agent.alive = !agent.alive;
                    agent.leases.clear();
                    agent.last = None;
                    if agent.alive {
                        let hello = agent.hello(now);
                        world.post(Message::Hello(hello));
                    }
                }
                3 if round % 5 == 0 => {
                    let mut ids: Vec<AgentId> = world.agents.keys().cloned().collect();
                    ids.sort();
                    let id = ids[world.rng.usize(0..ids.len())].clone();
                    let agent = world.agents.get_mut(&id).unwrap();
                    agent.refuses = !agent.refuses;
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
                    let last = world.history.len();
                    let at = world.rng.usize(last.saturating_sub(12)..last);
                    let (agent, command) = world.history[at].clone();
                    world.wires.push(Message::Command(agent, command));
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
        let mut world = World::new(seed, 0.0, Watts(700.0));
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
    let mut world = World::new(1, 0.0, Watts(300.0));
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
    let mut world = World::new(1, 0.0, Watts(650.0));
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
        let mut world = World::new(seed, trouble, Watts(300.0));
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
    for seed in 0..40 {
        let mut world = World::new(seed, [0.0, 0.3][seed as usize % 2], Watts(300.0));
        world.tighten();
        let mut ids: Vec<AgentId> = world.agents.keys().cloned().collect();
        ids.sort();
        let id = ids[world.rng.usize(0..ids.len())].clone();
        // Its own node bears what was found; with the others as they are, its rack does not.
        let (place, node) = world.site.node(id.as_str()).unwrap();
        let _ = place;
        let bears = Watts(700.0 * node.devices.len() as f64);
        world.room[node.power_node] = bears;
        world.executor.set_room(world.room.clone());
        world.hello_all();
        let full = world.draw_targets();
        world.executor.set_targets(&full);
        for _ in 0..30 {
            world.send_commands();
            world.deliver();
        }
        world.agents.get_mut(&id).unwrap().leaving = true;
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
                assert_eq!(pinned[device], Watts(700.0));
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
