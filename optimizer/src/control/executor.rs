//! The executor: from decided caps to commands, lower before raise.
//!
//! A pure state machine: it is told what arrived and what time it is, and says
//! what to send. For every device it knows the largest cap that the device may
//! have now: what it last reported, and every cap sent since whose fate is not
//! known. A device that never reported counts with its highest settable cap.
//!
//! ```text
//!  decided lower:  send at once; counts as the old cap until answered
//!  decided higher: send only what fits while everything else counts as above
//! ```
//!
//! The safe cap in a lease is never above its cap, so a lease that ends on an
//! agent that still runs only lowers. What an agent restores when it stops
//! or starts again raises nothing while a lease is in force: an agent that is to
//! stop says so, its devices count with the limits that it found, and when room
//! has been made they are leased those like any other raise.
//!
//! Nodes that are limited as a whole take one order for all their accelerators
//! (`executor/whole.rs`). Where the site limits how fast caps may change, `ramp.rs` holds back what would
//! be faster; what a limit demands passes.

mod pace;
mod whole;

use super::device::{Device, Sent};
use super::ramp::Ramps;
use super::rows::LimitRows;
use heliostat_models::lease::{AgentHello, CapAnswer, CapCommand, CapLease, CapOutcome, CapReport};
use heliostat_models::site::FINEST_STEP;
use heliostat_models::{AgentId, DeviceId, Site, Timestamp, Watts};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use whole::{lease, order};

/// Raises by less than this wait until all of it fits.
const SMALLEST_STEP: f64 = 5.0;
/// Two caps closer than this are the same command: drivers take whole milliwatts.
const SAME: f64 = 0.000_5;

/// What an agent was last sent.
#[derive(Clone, Debug, Default)]
struct Agent {
    devices: Vec<usize>,
    /// Sequence, instant and caps of the last command.
    last: Option<(u64, Timestamp, Vec<Option<Watts>>)>,
    /// Highest sequence answered.
    answered: u64,
    /// When the oldest command without an answer was sent.
    waiting_since: Option<Timestamp>,
    /// Until when what was last answered surely holds.
    held_until: Option<Timestamp>,
    /// Must be sent its caps anew, whether they changed or not.
    stale: bool,
    /// The node that it limits as a whole, where it caps no accelerator.
    whole: Option<usize>,
}

/// The executor of one controller run.
#[derive(Debug)]
pub struct Executor {
    site: Arc<Site>,
    /// The limits above each device: power nodes and contracts.
    rows: LimitRows,
    controller: String,
    /// Under which we are in charge; zero where nobody asked for one.
    fence: u64,
    lease: Duration,
    sequence: u64,
    devices: Vec<Device>,
    /// Limits of nodes as a whole.
    wholes: HashMap<usize, Device>,
    limited_whole: Arc<BTreeSet<usize>>,
    agents: BTreeMap<AgentId, Agent>,
    room: Vec<Watts>,
    targets: Vec<Option<Watts>>,
    /// What each device may have at most, kept up to date change by change.
    worst: Vec<Watts>,
    /// The same by name, and the ranges that agents said.
    worst_by_name: BTreeMap<DeviceId, Watts>,
    ranges: Arc<BTreeMap<DeviceId, (Watts, Watts)>>,
    /// The cap that each device last reported, where one did.
    reported: Vec<Option<Watts>>,
    /// Devices that refused their last command.
    refusing: BTreeSet<usize>,
    /// Devices for which nobody answers, as of the last look.
    silent: Vec<bool>,
    /// How fast caps may change, where the site says so.
    ramps: Option<Ramps>,
    version: u64,
}

impl Executor {
    /// For a controller run of this name, which agents tell from other runs by it.
    pub fn new(site: Arc<Site>, controller: String, lease: Duration) -> Self {
        let devices: Vec<Device> = (site.devices.iter())
            .map(|d| Device::new(d.min_cap, d.max_cap, d.safe_cap))
            .collect();
        let rows = LimitRows::new(&site);
        let worst: Vec<Watts> = devices.iter().map(Device::worst).collect();
        Self {
            controller,
            fence: 0,
            lease,
            sequence: 0,
            wholes: HashMap::new(),
            limited_whole: Arc::default(),
            agents: BTreeMap::new(),
            room: vec![Watts::ZERO; rows.count()],
            rows,
            targets: vec![None; site.devices.len()],
            worst_by_name: (site.devices.iter().zip(&worst))
                .map(|(d, worst)| (d.id.clone(), *worst))
                .collect(),
            worst,
            ranges: Arc::default(),
            reported: vec![None; site.devices.len()],
            refusing: BTreeSet::new(),
            silent: vec![true; site.devices.len()],
            ramps: Ramps::new(&site),
            version: 0,
            devices,
            site,
        }
    }

    /// Grows whenever something changes that decisions or readers see: what a
    /// device may have, reports, can be set to, or whether it obeys.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// We are in charge under a new fence. Until an agent has said that it knows
    /// of it, orders of an earlier controller may still reach it, so that its
    /// devices count with their highest caps.
    pub fn take_charge(&mut self, fence: u64) {
        self.fence = fence;
        if let Some(ramps) = &mut self.ramps {
            ramps.empty();
        }
        for place in 0..self.devices.len() {
            self.devices[place].unfence();
            self.refresh(place);
        }
        for node in Arc::clone(&self.limited_whole).iter() {
            if let Some(limit) = self.wholes.get_mut(node) {
                limit.unfence();
            }
            self.reflect(*node);
        }
        for agent in self.agents.values_mut() {
            agent.stale = true;
            agent.waiting_since = None;
        }
    }

    /// Takes over what has become of a device.
    fn refresh(&mut self, place: usize) {
        let change = self.take_over(place);
        self.pace_changed(place, change);
    }

    /// Takes over what has become of a device; by how much the largest cap that it
    /// may have changed, and the one that it says to have.
    fn take_over(&mut self, place: usize) -> (Watts, Watts) {
        let device = &self.devices[place];
        let id = &self.site.devices[place].id;
        let worst = device.worst();
        let said = self.reported[place].zip(device.reported());
        let change = (
            worst - self.worst[place],
            said.map_or(Watts::ZERO, |(before, now)| now - before),
        );
        if worst != self.worst[place] {
            self.worst[place] = worst;
            self.worst_by_name.insert(id.clone(), worst);
            self.version += 1;
        }
        let range = (device.min, device.max);
        if device.is_known() && self.ranges.get(id) != Some(&range) {
            Arc::make_mut(&mut self.ranges).insert(id.clone(), range);
            self.version += 1;
        }
        if device.reported() != self.reported[place] {
            self.reported[place] = device.reported();
            self.version += 1;
        }
        let changed = match device.refused {
            Some(_) => self.refusing.insert(place),
            None => self.refusing.remove(&place),
        };
        self.version += u64::from(changed);
        change
    }

    /// Power that caps below each limit may add up to: limit less margin less
    /// uncontrolled load; power nodes by place in the tree, then contracts.
    pub fn set_room(&mut self, room: Vec<Watts>) {
        self.room = room;
    }

    /// The decided caps. Devices not named keep what was decided before.
    pub fn set_targets(&mut self, targets: &BTreeMap<DeviceId, Watts>) {
        for (id, cap) in targets {
            if let Some((place, _)) = self.site.device(id) {
                self.targets[place] = Some(*cap);
            }
        }
        for node in Arc::clone(&self.limited_whole).iter() {
            self.reflect(*node);
        }
    }

    /// An agent said who it is and what its devices have.
    pub fn on_hello(&mut self, hello: &AgentHello) {
        let mut mine = Vec::new();
        for said in &hello.devices {
            let Some((place, device)) = self.site.device(&said.device) else {
                continue;
            };
            // An agent speaks for the devices of its own node only.
            if self.site.nodes[device.node].id.as_str() != hello.agent.as_str() {
                continue;
            }
            mine.push(place);
            self.devices[place].on_hello(said, hello.fence >= self.fence, hello.at);
            let leaving = hello.leaving.then(|| said.found.clamp(said.min, said.max));
            if self.devices[place].leaving != leaving {
                self.devices[place].leaving = leaving;
                self.version += 1;
            }
            self.refresh(place);
            self.pace_told(place);
        }
        let node = self.site.node(hello.agent.as_str()).map(|(node, _)| node);
        let mut whole = None;
        if let Some(node) = node {
            if mine.is_empty() {
                mine = self.hello_of_whole(node, hello);
                whole = Some(node).filter(|_| !mine.is_empty());
            } else {
                self.is_not_whole(node);
            }
        }
        mine.sort_unstable();
        let agent = self.agents.entry(hello.agent.clone()).or_default();
        if agent.devices != mine || agent.whole != whole {
            agent.last = None;
            agent.devices = mine;
            agent.whole = whole;
        }
        agent.stale = true;
    }

    /// An agent answered a command, or told that leases ended.
    pub fn on_answer(&mut self, answer: &CapAnswer) {
        let Some(agent) = self.agents.get(&answer.agent) else {
            return;
        };
        let mine = agent.devices.clone();
        let last = agent.last.as_ref().map(|(sequence, _, _)| *sequence);
        let ours = answer.controller.as_deref() == Some(self.controller.as_str());
        let sequence = answer.sequence.filter(|_| ours);
        let fenced = answer.fence >= self.fence;
        let whole = agent.whole;
        for report in &answer.reports {
            if let Some(node) = self.whole_named(&report.device) {
                if whole == Some(node) {
                    let (command, when) = ((sequence, last), (fenced, answer.at));
                    self.whole_answered(node, report, command, when);
                }
                continue;
            }
            let Some((place, _)) = self.site.device(&report.device) else {
                continue;
            };
            if !mine.contains(&place) {
                continue;
            }
            let (now_has, refused) = outcome(report);
            self.devices[place].on_report(now_has, refused, sequence, fenced, answer.at);
            self.refresh(place);
            self.pace_heard(place, sequence, last);
        }
        let Some(agent) = self.agents.get_mut(&answer.agent) else {
            return;
        };
        match sequence {
            Some(sequence) => {
                agent.answered = agent.answered.max(sequence);
                if let Some((_, at, _)) = agent.last.as_ref().filter(|(s, _, _)| *s <= sequence) {
                    agent.waiting_since = None;
                    agent.held_until = Some(*at + self.lease);
                }
            }
            // Leases ended, or another controller was obeyed: say again what we want.
            None => agent.stale = true,
        }
    }

    /// What to send now, taken as sent. Call it after every event and at every tick.
    pub fn tick(&mut self, now: Timestamp) -> Vec<(AgentId, CapCommand)> {
        let commands = self.propose(now);
        self.sent(&commands, now);
        commands
    }

    /// What to send now. What comes of it must be told to [`Executor::sent`],
    /// whether it leaves or not: it may have.
    pub fn propose(&mut self, now: Timestamp) -> Vec<(AgentId, CapCommand)> {
        let mut wanted = self.wanted();
        self.hold_back(now, &mut wanted);
        let mut out = Vec::new();
        for (id, agent) in &mut self.agents {
            let whole = (agent.whole)
                .and_then(|node| Some((&self.site.nodes[node], self.wholes.get(&node)?)));
            let caps: Vec<Option<Watts>> = match whole {
                Some((node, limit)) => vec![order(node, limit, &wanted)],
                None => agent.devices.iter().map(|d| wanted[*d]).collect(),
            };
            if caps.iter().all(Option::is_none) {
                continue;
            }
            let due = match &agent.last {
                None => true,
                Some((_, sent, last)) => {
                    let age = now.seconds_since(*sent);
                    let lease = self.lease.as_secs_f64();
                    let unanswered = agent.waiting_since.is_some();
                    differ(last, &caps)
                        || age >= lease / 2.0
                        || unanswered && age >= lease / 8.0
                        || agent.stale
                }
            };
            if !due {
                continue;
            }
            self.sequence += 1;
            let leases = match whole {
                Some((node, limit)) => caps[0]
                    .map(|cap| lease(node, limit, cap))
                    .into_iter()
                    .collect(),
                None => (agent.devices.iter().zip(&caps))
                    .filter_map(|(place, cap)| {
                        let device = &self.devices[*place];
                        Some(CapLease {
                            device: self.site.devices[*place].id.clone(),
                            uuid: device.uuid.clone(),
                            cap: (*cap)?,
                            safe_cap: device.safe.min((*cap)?),
                        })
                    })
                    .collect(),
            };
            agent.last = Some((self.sequence, now, caps));
            agent.waiting_since.get_or_insert(now);
            agent.stale = false;
            let command = CapCommand {
                sequence: self.sequence,
                controller: self.controller.clone(),
                fence: self.fence,
                issued: now,
                expires: now + self.lease,
                leases,
            };
            out.push((id.clone(), command));
        }
        out
    }

    /// These commands go out: what they ask counts from now on.
    pub fn sent(&mut self, commands: &[(AgentId, CapCommand)], now: Timestamp) {
        for (_, command) in commands {
            for lease in &command.leases {
                let sent = Sent {
                    sequence: command.sequence,
                    cap: lease.cap,
                    expires: command.expires,
                };
                if let Some(node) = self.whole_named(&lease.device) {
                    self.whole_sent(node, sent, now);
                    continue;
                }
                let Some((place, _)) = self.site.device(&lease.device) else {
                    continue;
                };
                self.devices[place].sent(sent, now);
                self.refresh(place);
                if let Some(ramps) = &mut self.ramps {
                    ramps.sent(place, lease.cap);
                }
            }
        }
    }

    /// The cap to ask of each device now: the decided one where that lowers, and
    /// as much of it as fits where it raises.
    fn wanted(&self) -> Vec<Option<Watts>> {
        let mut left = self.left();
        let mut wanted = vec![None; self.devices.len()];
        // Behind the devices of the last node that is limited as a whole.
        let mut next = 0;
        for (place, device) in self.devices.iter().enumerate() {
            let node = self.site.devices[place].node;
            let together = &self.site.nodes[node].devices;
            if place == together.start && self.wholes.contains_key(&node) {
                self.wanted_of_whole(node, &mut left, &mut wanted);
                next = together.end;
            }
            if place < next {
                continue;
            }
            let Some(target) = self.targets[place] else {
                continue;
            };
            let target = self.settable(place, target.clamp(device.min, device.max));
            let worst = self.worst[place];
            if !device.is_fenced() {
                wanted[place] = Some(self.unfenced(place, target, &left));
                continue;
            }
            if target <= worst {
                wanted[place] = Some(target);
                continue;
            }
            let above = self.rows.above(place);
            let fits = (above.iter()).fold(target - worst, |fits, row| fits.min(left[*row]));
            let raise = if fits >= target - worst {
                target - worst
            } else if fits.0 >= SMALLEST_STEP {
                (self.settable(place, worst + fits) - worst).max(Watts::ZERO)
            } else {
                Watts::ZERO
            };
            let cap = worst + raise;
            // A device below its settable range waits until it can be lifted into it.
            if cap >= device.min {
                wanted[place] = Some(whole(cap));
                for row in above {
                    left[*row] -= raise;
                }
            }
        }
        wanted
    }

    /// Room that the largest caps leave below each limit; less than nothing where
    /// they exceed it.
    fn left(&self) -> Vec<Watts> {
        let mut left = self.room.clone();
        for (place, worst) in self.worst.iter().enumerate() {
            for row in self.rows.above(place) {
                left[*row] -= *worst;
            }
        }
        left
    }

    /// What to ask of a device that counts with its highest cap, because an
    /// earlier controller's orders may still reach it: no more than it was last
    /// said to have, unless there is room for all at their highest.
    fn unfenced(&self, place: usize, target: Watts, left: &[Watts]) -> Watts {
        let device = &self.devices[place];
        let above = self.rows.above(place);
        if above.iter().all(|row| left[*row] >= Watts::ZERO) {
            return target;
        }
        let stated = target.min(device.stated());
        self.settable(place, stated.clamp(device.min, device.max))
    }

    /// The highest cap, not above this one, that the device can be set to: a
    /// multiple of its step, or an end of its range.
    fn settable(&self, place: usize, cap: Watts) -> Watts {
        let (device, step) = (&self.devices[place], self.site.devices[place].cap_step);
        if step <= FINEST_STEP || cap <= device.min || cap >= device.max {
            return whole(cap);
        }
        // A multiple may have lost its last bit on the way.
        let count = (cap / step + 1e-9).floor();
        whole((step * count).max(device.min))
    }

    /// The limits above each device.
    pub(super) fn rows(&self) -> &LimitRows {
        &self.rows
    }

    /// The largest cap that each device may have now.
    pub fn worst(&self) -> &BTreeMap<DeviceId, Watts> {
        &self.worst_by_name
    }

    /// The same by place in the site.
    pub fn worst_caps(&self) -> &[Watts] {
        &self.worst
    }

    /// The largest cap that each device may have by its agent's word and our own
    /// orders, those of an earlier controller left out of account; by place.
    pub fn held(&self) -> Vec<Watts> {
        self.devices.iter().map(Device::held).collect()
    }

    /// Devices whose agents have owed an answer for more than so many seconds, by place.
    pub fn late(&self, now: Timestamp, seconds: f64) -> Vec<bool> {
        let mut late = vec![false; self.devices.len()];
        for agent in self.agents.values() {
            let owes = |since: Timestamp| now.seconds_since(since) > seconds;
            if agent.waiting_since.is_some_and(owes) {
                agent.devices.iter().for_each(|place| late[*place] = true);
            }
        }
        late
    }

    /// The cap that each device last reported, by place in the site.
    pub fn reported(&self) -> &[Option<Watts>] {
        &self.reported
    }

    /// The cap that each device last reported, where one did.
    pub fn acknowledged(&self) -> BTreeMap<DeviceId, Watts> {
        (self.site.devices.iter().zip(&self.reported))
            .filter_map(|(d, reported)| Some((d.id.clone(), (*reported)?)))
            .collect()
    }

    /// Settable ranges as agents said them.
    pub fn ranges(&self) -> &Arc<BTreeMap<DeviceId, (Watts, Watts)>> {
        &self.ranges
    }

    /// Looks which devices nobody answers for: no agent speaks for them, or
    /// theirs has not answered for two leases.
    pub fn look(&mut self, now: Timestamp) {
        let mut silent = vec![true; self.devices.len()];
        for agent in self.agents.values() {
            let quiet = agent
                .waiting_since
                .is_some_and(|since| now.seconds_since(since) > 2.0 * self.lease.as_secs_f64());
            for place in &agent.devices {
                silent[*place] = quiet;
            }
        }
        if silent != self.silent {
            self.silent = silent;
            self.version += 1;
        }
    }

    /// How many devices cannot be commanded, as of the last look.
    pub fn beyond_reach(&self) -> usize {
        let silent = |place: &usize| self.silent[*place];
        let refusing = self.refusing.iter().filter(|p| !silent(p)).count();
        refusing + self.silent.iter().filter(|s| **s).count()
    }

    /// Devices whose cap is not ours to choose now, with what they count with:
    /// no agent speaks for them, the last command was refused, or their agent
    /// has not answered for two leases, with the largest cap they may have; or
    /// their agent is about to stop, with at least what it found.
    pub fn pinned(&mut self, now: Timestamp) -> BTreeMap<DeviceId, Watts> {
        self.look(now);
        (self.site.devices.iter().zip(&self.worst).enumerate())
            .filter_map(|(place, (d, worst))| {
                let leaving = self.devices[place].leaving;
                let pinned = self.silent[place] || self.refusing.contains(&place);
                (pinned || leaving.is_some())
                    .then(|| (d.id.clone(), worst.max(leaving.unwrap_or(*worst))))
            })
            .collect()
    }

    /// How many devices nobody answers for, as of the last look.
    pub fn silent(&self) -> usize {
        self.silent.iter().filter(|s| **s).count()
    }

    /// Why devices refused their last command.
    pub fn refusals(&self) -> BTreeMap<DeviceId, String> {
        (self.refusing.iter())
            .filter_map(|place| {
                let reason = self.devices[*place].refused.clone()?;
                Some((self.site.devices[*place].id.clone(), reason))
            })
            .collect()
    }

    /// Commands that no answer has come to.
    pub fn unanswered(&self) -> usize {
        (self.agents.values())
            .filter(|a| a.waiting_since.is_some())
            .count()
    }
}

/// Rounded down to whole milliwatts, as they are set.
fn whole(cap: Watts) -> Watts {
    Watts::from_milliwatts(cap.to_milliwatts_floor())
}

/// What an answer says that a device has, and why it refused.
fn outcome(report: &CapReport) -> (Option<Watts>, Option<String>) {
    match &report.outcome {
        CapOutcome::Applied { readback } => (Some(*readback), None),
        CapOutcome::Refused { reason, current } => (*current, Some(reason.clone())),
    }
}

fn differ(last: &[Option<Watts>], caps: &[Option<Watts>]) -> bool {
    last.len() != caps.len()
        || last.iter().zip(caps).any(|pair| match pair {
            (Some(a), Some(b)) => (*a - *b).0.abs() > SAME,
            (None, None) => false,
            _ => true,
        })
}
