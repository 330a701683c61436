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

mod hear;
mod pace;
mod sense;
mod tell;
mod wanted;
mod whole;

use super::device::{Device, Sent};
use super::ramp::Ramps;
use super::rows::LimitRows;
use heliostat_models::lease::{CapCommand, CapLease, CapOutcome, CapReport};
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
    /// Since when each may have no more than that, where it came down.
    lowered: Arc<Vec<Timestamp>>,
    /// The last instant that the loop told.
    seen: Timestamp,
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
            lowered: Arc::new(vec![Timestamp(i64::MIN); devices.len()]),
            seen: Timestamp(i64::MIN),
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
            if worst < self.worst[place] {
                Arc::make_mut(&mut self.lowered)[place] = self.seen;
            }
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
            let whole = (agent.whole).and_then(|node| Some((node, self.wholes.get(&node)?)));
            let caps: Vec<Option<Watts>> = match whole {
                Some((node, limit)) => vec![order(&self.site, node, limit, &wanted)],
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
                    .map(|cap| lease(&self.site.nodes[node], limit, cap))
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
