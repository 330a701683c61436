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
//! or starts again is not in this machine's hand: its next hello tells it, and
//! until lowers are answered nothing is raised there.

use super::device::{Device, Sent};
use heliostat_models::lease::{AgentHello, CapAnswer, CapCommand, CapLease, CapOutcome};
use heliostat_models::{AgentId, DeviceId, Site, Timestamp, Watts};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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
    /// Must be sent its caps anew, whether they changed or not.
    stale: bool,
}

/// The executor of one controller run.
#[derive(Debug)]
pub struct Executor {
    site: Arc<Site>,
    above: Vec<Vec<usize>>,
    controller: String,
    lease: Duration,
    sequence: u64,
    devices: Vec<Device>,
    agents: BTreeMap<AgentId, Agent>,
    room: Vec<Watts>,
    targets: Vec<Option<Watts>>,
}

impl Executor {
    /// For a controller run of this name, which agents tell from other runs by it.
    pub fn new(site: Arc<Site>, controller: String, lease: Duration) -> Self {
        let devices = (site.devices.iter())
            .map(|d| Device::new(d.min_cap, d.max_cap, d.safe_cap))
            .collect();
        let above = (0..site.devices.len())
            .map(|d| site.power.path_up(site.power_node_of(d)))
            .collect();
        Self {
            above,
            controller,
            lease,
            sequence: 0,
            devices,
            agents: BTreeMap::new(),
            room: vec![Watts::ZERO; site.power.nodes().len()],
            targets: vec![None; site.devices.len()],
            site,
        }
    }

    /// Power that caps below each power node may add up to: limit less margin less
    /// uncontrolled load, by place in the tree.
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
            self.devices[place].on_hello(said, hello.at);
        }
        mine.sort_unstable();
        let agent = self.agents.entry(hello.agent.clone()).or_default();
        if agent.devices != mine {
            agent.last = None;
            agent.devices = mine;
        }
        agent.stale = true;
    }

    /// An agent answered a command, or told that leases ended.
    pub fn on_answer(&mut self, answer: &CapAnswer) {
        let Some(agent) = self.agents.get_mut(&answer.agent) else {
            return;
        };
        let ours = answer.controller.as_deref() == Some(self.controller.as_str());
        let sequence = answer.sequence.filter(|_| ours);
        for report in &answer.reports {
            let Some((place, _)) = self.site.device(&report.device) else {
                continue;
            };
            if !agent.devices.contains(&place) {
                continue;
            }
            let (now_has, refused) = match &report.outcome {
                CapOutcome::Applied { readback } => (Some(*readback), None),
                CapOutcome::Refused { reason, current } => (*current, Some(reason.clone())),
            };
            self.devices[place].on_report(now_has, refused, sequence, answer.at);
        }
        match sequence {
            Some(sequence) => {
                agent.answered = agent.answered.max(sequence);
                if agent.last.as_ref().is_some_and(|(s, _, _)| *s <= sequence) {
                    agent.waiting_since = None;
                }
            }
            // Leases ended, or another controller was obeyed: say again what we want.
            None => agent.stale = true,
        }
    }

    /// What to send now. Call it after every event and at every tick.
    pub fn tick(&mut self, now: Timestamp) -> Vec<(AgentId, CapCommand)> {
        let wanted = self.wanted();
        let mut out = Vec::new();
        for (id, agent) in &mut self.agents {
            let caps: Vec<Option<Watts>> = agent.devices.iter().map(|d| wanted[*d]).collect();
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
            let expires = now + self.lease;
            let mut leases = Vec::new();
            for (place, cap) in agent.devices.iter().zip(&caps) {
                let Some(cap) = cap else { continue };
                let device = &mut self.devices[*place];
                device.sent(
                    Sent {
                        sequence: self.sequence,
                        cap: *cap,
                        expires,
                    },
                    now,
                );
                leases.push(CapLease {
                    device: self.site.devices[*place].id.clone(),
                    uuid: device.uuid.clone(),
                    cap: *cap,
                    safe_cap: device.safe.min(*cap),
                });
            }
            agent.last = Some((self.sequence, now, caps));
            agent.waiting_since.get_or_insert(now);
            agent.stale = false;
            let command = CapCommand {
                sequence: self.sequence,
                controller: self.controller.clone(),
                issued: now,
                expires,
                leases,
            };
            out.push((id.clone(), command));
        }
        out
    }

    /// The cap to ask of each device now: the decided one where that lowers, and
    /// as much of it as fits where it raises.
    fn wanted(&self) -> Vec<Option<Watts>> {
        let mut left = self.room.clone();
        for (device, above) in self.devices.iter().zip(&self.above) {
            for node in above {
                left[*node] -= device.worst();
            }
        }
        let mut wanted = vec![None; self.devices.len()];
        for (place, device) in self.devices.iter().enumerate() {
            let Some(target) = self.targets[place] else {
                continue;
            };
            let target = whole(target.clamp(device.min, device.max));
            let worst = device.worst();
            if target <= worst {
                wanted[place] = Some(target);
                continue;
            }
            let above = &self.above[place];
            let fits = (above.iter()).fold(target - worst, |fits, node| fits.min(left[*node]));
            let raise = if fits >= target - worst {
                target - worst
            } else if fits.0 >= SMALLEST_STEP {
                whole(worst + fits) - worst
            } else {
                Watts::ZERO
            };
            let cap = worst + raise;
            // A device below its settable range waits until it can be lifted into it.
            if cap >= device.min {
                wanted[place] = Some(whole(cap));
                for node in above {
                    left[*node] -= raise;
                }
            }
        }
        wanted
    }

    /// The largest cap that each device may have now.
    pub fn worst(&self) -> BTreeMap<DeviceId, Watts> {
        (self.site.devices.iter().zip(&self.devices))
            .map(|(d, state)| (d.id.clone(), state.worst()))
            .collect()
    }

    /// The cap that each device last reported, where one did.
    pub fn acknowledged(&self) -> BTreeMap<DeviceId, Watts> {
        (self.site.devices.iter().zip(&self.devices))
            .filter_map(|(d, state)| Some((d.id.clone(), state.reported()?)))
            .collect()
    }

    /// Settable ranges as agents said them.
    pub fn ranges(&self) -> BTreeMap<DeviceId, (Watts, Watts)> {
        (self.site.devices.iter().zip(&self.devices))
            .filter(|(_, state)| state.is_known())
            .map(|(d, state)| (d.id.clone(), (state.min, state.max)))
            .collect()
    }

    /// Devices that cannot be commanded now, with the largest cap they may
    /// have: no agent speaks for them, the last command was refused, or their
    /// agent has not answered for two leases.
    pub fn pinned(&self, now: Timestamp) -> BTreeMap<DeviceId, Watts> {
        let mut silent = vec![true; self.devices.len()];
        for agent in self.agents.values() {
            let quiet = agent
                .waiting_since
                .is_some_and(|since| now.seconds_since(since) > 2.0 * self.lease.as_secs_f64());
            for place in &agent.devices {
                silent[*place] = quiet;
            }
        }
        (self.site.devices.iter().zip(&self.devices).zip(silent))
            .filter(|((_, state), silent)| *silent || state.refused.is_some())
            .map(|((d, state), _)| (d.id.clone(), state.worst()))
            .collect()
    }

    /// Why devices refused their last command.
    pub fn refusals(&self) -> BTreeMap<DeviceId, String> {
        (self.site.devices.iter().zip(&self.devices))
            .filter_map(|(d, state)| Some((d.id.clone(), state.refused.clone()?)))
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

fn differ(last: &[Option<Watts>], caps: &[Option<Watts>]) -> bool {
    last.len() != caps.len()
        || last.iter().zip(caps).any(|pair| match pair {
            (Some(a), Some(b)) => (*a - *b).0.abs() > SAME,
            (None, None) => false,
            _ => true,
        })
}
