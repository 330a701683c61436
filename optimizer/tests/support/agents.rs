//! Agents as the collector builds them, over limits that live in hardware, and a
//! network between them and an executor that loses, doubles, delays and reorders.
#![allow(dead_code)]

use heliostat_models::lease::{
    AgentHello, CapAnswer, CapCommand, CapOutcome, CapReport, CappableDevice, ForeignChanges,
};
use heliostat_models::{AgentId, DeviceId, Site, Timestamp, Watts};
use heliostat_optimizer::control::Executor;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

pub const LEASE: Duration = Duration::from_secs(60);

/// An agent as the collector builds it, over limits that live in the hardware.
pub struct Agent {
    pub id: AgentId,
    pub alive: bool,
    pub limits: BTreeMap<DeviceId, Watts>,
    pub leases: BTreeMap<DeviceId, (Watts, Timestamp)>,
    pub last: Option<(u64, CapAnswer)>,
    pub refuses: bool,
    /// What each limit may be set to.
    pub range: (Watts, Watts),
    /// What each limit was found at.
    pub found: Watts,
    /// It limits its node as a whole, in whole watts.
    pub whole: bool,
    /// A limit at least this high is off, and what its node draws then.
    pub off: Option<(Watts, Watts)>,
    /// The highest fence seen; on its disk.
    pub fence: u64,
    pub leaving: bool,
}

impl Agent {
    pub fn hello(&self, at: Timestamp) -> AgentHello {
        let devices = (self.limits.iter())
            .map(|(device, current)| CappableDevice {
                device: device.clone(),
                uuid: format!("GPU-{device}"),
                product: "test".into(),
                min: self.range.0,
                max: self.range.1,
                found: self.found,
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

    pub fn command(&mut self, command: &CapCommand, now: Timestamp) -> Option<CapAnswer> {
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
                let within = self.range.0 <= lease.cap && lease.cap <= self.range.1;
                assert!(within || lease.cap == self.found, "{}", lease.cap);
                assert!(lease.safe_cap <= lease.cap, "a safe cap must not raise");
                // What was found goes back exactly.
                let readback = match self.whole && lease.cap != self.found {
                    true => Watts(lease.cap.0.floor()),
                    false => lease.cap,
                };
                self.limits.insert(lease.device.clone(), readback);
                self.leases
                    .insert(lease.device.clone(), (lease.safe_cap, command.expires));
                CapOutcome::Applied { readback }
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

    pub fn expire(&mut self, now: Timestamp) -> Option<CapAnswer> {
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
pub enum Message {
    Hello(AgentHello),
    Command(AgentId, CapCommand),
    Answer(CapAnswer),
}

pub struct World {
    pub site: Arc<Site>,
    pub agents: HashMap<AgentId, Agent>,
    pub executor: Executor,
    /// A controller that was in charge before, and does not know better.
    pub earlier: Option<Executor>,
    pub wires: Vec<Message>,
    pub now: Timestamp,
    pub room: Vec<Watts>,
    pub rng: fastrand::Rng,
    /// Share of messages lost and doubled.
    pub trouble: f64,
    /// Every command that was ever sent; a broker may deliver one again.
    pub history: Vec<(AgentId, CapCommand)>,
}

impl World {
    /// All devices found at `start`; `trouble` is the share of messages lost and doubled.
    pub fn new(site: Arc<Site>, seed: u64, trouble: f64, start: Watts) -> Self {
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
                range: (Watts(200.0), Watts(700.0)),
                found: Watts(700.0),
                whole: false,
                off: None,
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

    /// From now on a node's agent limits it as a whole, by what its devices may be
    /// set to together; each is found with `start`.
    pub fn limit_whole(&mut self, node: usize, start: Watts) {
        let node = &self.site.nodes[node];
        let count = node.devices.len() as f64;
        let all = |each: Watts| node.overhead + each * count;
        let agent = self.agents.get_mut(node.id.as_str()).unwrap();
        agent.whole = true;
        agent.range = (all(Watts(200.0)), all(Watts(700.0)));
        agent.found = agent.range.1;
        agent.limits = BTreeMap::from([(DeviceId::from(node.id.as_str()), all(start))]);
    }

    /// What the hardware lets a node's devices have together.
    pub fn below(&self, node: usize) -> Watts {
        let node = &self.site.nodes[node];
        let agent = &self.agents[node.id.as_str()];
        let mut sum: Watts = agent.limits.values().copied().sum();
        if let Some((_, draws)) = agent.off.filter(|(from, _)| sum >= *from) {
            sum = draws;
        }
        match agent.whole {
            true => sum - node.overhead,
            false => sum,
        }
    }

    pub fn post(&mut self, message: Message) {
        if self.rng.f64() < self.trouble {
            return;
        }
        if self.rng.f64() < self.trouble {
            self.wires.push(message.clone());
        }
        self.wires.push(message);
    }

    pub fn send_commands(&mut self) {
        for (agent, command) in self.executor.tick(self.now) {
            self.history.push((agent.clone(), command.clone()));
            self.post(Message::Command(agent, command));
        }
    }

    /// Delivers one message from anywhere in the wires.
    pub fn deliver(&mut self) {
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

    pub fn some_agent(&mut self) -> AgentId {
        let mut ids: Vec<AgentId> = self.agents.keys().cloned().collect();
        ids.sort();
        ids[self.rng.usize(0..ids.len())].clone()
    }

    /// Some agent stops, or comes back without a memory of its leases.
    pub fn stop_or_come_back(&mut self) {
        let (id, now) = (self.some_agent(), self.now);
        let agent = self.agents.get_mut(&id).unwrap();
        agent.alive = !agent.alive;
        agent.leases.clear();
        agent.last = None;
        if agent.alive {
            let hello = agent.hello(now);
            self.post(Message::Hello(hello));
        }
    }

    /// Some agent refuses from now on, or obeys again.
    pub fn refuse_or_obey(&mut self) {
        let id = self.some_agent();
        let agent = self.agents.get_mut(&id).unwrap();
        agent.refuses = !agent.refuses;
    }

    /// The broker delivers one of the latest commands once more.
    pub fn deliver_again(&mut self) {
        let last = self.history.len();
        let at = self.rng.usize(last.saturating_sub(12)..last);
        let (agent, command) = self.history[at].clone();
        self.wires.push(Message::Command(agent, command));
    }

    pub fn step_time(&mut self, seconds: u64) {
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
    pub fn excess(&self) -> (f64, String) {
        let mut drawn = vec![Watts::ZERO; self.room.len()];
        for (place, node) in self.site.nodes.iter().enumerate() {
            let caps = self.below(place);
            for up in self.site.power.path_up(node.power_node) {
                drawn[up] += caps;
            }
        }
        (drawn.iter().zip(&self.room).zip(self.site.power.nodes()))
            .map(|((d, r), n)| ((*d - *r).0, n.id.clone()))
            .fold((f64::NEG_INFINITY, String::new()), |a, b| {
                if a.0 >= b.0 { a } else { b }
            })
    }

    /// Targets whose sums fill every room exactly or leave some.
    pub fn draw_targets(&mut self) -> BTreeMap<DeviceId, Watts> {
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

    pub fn hello_all(&mut self) {
        let mut hellos: Vec<AgentHello> = self.agents.values().map(|a| a.hello(self.now)).collect();
        hellos.sort_by(|a, b| a.agent.cmp(&b.agent));
        for hello in hellos {
            self.executor.on_hello(&hello);
            (self.earlier.iter_mut()).for_each(|e| e.on_hello(&hello));
        }
    }

    /// The earlier controller orders whatever it likes.
    pub fn earlier_orders(&mut self) {
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
    pub fn tighten(&mut self) {
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
