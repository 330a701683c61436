//! Budgets: how much power a site, hall, rack or job may use, now and per
//! 15 minutes for the plan's horizon, and which limit says so.
//!
//! For a hall or a rack the tree is walked from the racks up: what may pass a
//! power node is its limit less what others below it take. Now that is what
//! the control loop shows; later it is what the plan expects, jobs that have
//! no devices yet spread evenly over all racks (so those slots are estimated).

use crate::plan::policy::{PlanPolicy, SLOT, SLOTS};
use crate::view::{ControlView, PlanView, PlannedJob};
use heliostat_models::{
    Budget, BudgetSlot, JobId, JobRecord, JobState, Quality, Site, Timestamp, Watts,
};
use std::fmt;
use std::str::FromStr;

/// Whose budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The whole site, at the utility feed.
    Site,
    /// One hall's IT equipment.
    Hall(String),
    /// One rack.
    Rack(String),
    /// The devices of one job.
    Job(JobId),
}

impl FromStr for Scope {
    type Err = BudgetError;
    fn from_str(text: &str) -> Result<Self, BudgetError> {
        match text.split_once(':') {
            None if text == "site" => Ok(Self::Site),
            Some(("hall", name)) if !name.is_empty() => Ok(Self::Hall(name.to_owned())),
            Some(("rack", name)) if !name.is_empty() => Ok(Self::Rack(name.to_owned())),
            Some(("job", name)) if !name.is_empty() => Ok(Self::Job(JobId::from(name))),
            _ => Err(BudgetError::NotAScope(text.to_owned())),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site => f.write_str("site"),
            Self::Hall(name) => write!(f, "hall:{name}"),
            Self::Rack(name) => write!(f, "rack:{name}"),
            Self::Job(id) => write!(f, "job:{id}"),
        }
    }
}

/// Why there is no budget.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetError {
    /// Not a scope at all.
    #[error("`{0}` is no scope; write site, hall:NAME, rack:NAME or job:ID")]
    NotAScope(String),
    /// Nothing bears this name.
    #[error("there is no {kind} `{name}`; known: {known}")]
    UnknownName {
        /// `hall`, `rack` or `job`.
        kind: &'static str,
        /// As asked.
        name: String,
        /// What there is, shortened where it is long.
        known: String,
    },
}

/// The budget of a scope at `now`.
///
/// # Errors
/// When nothing bears the scope's name.
pub fn budget_for(
    scope: &Scope,
    site: &Site,
    view: &ControlView,
    jobs: &[JobRecord],
    now: Timestamp,
) -> Result<Budget, BudgetError> {
    let teller = Teller {
        site,
        view,
        jobs,
        now,
        policy: PlanPolicy::default(),
    };
    let unknown = |kind, name: &str, known: Vec<&str>| BudgetError::UnknownName {
        kind,
        name: name.to_owned(),
        known: shorten(&known),
    };
    let (now_slot, slots) = match scope {
        Scope::Site => teller.site_budget(),
        Scope::Hall(name) => {
            let hall = site.halls.iter().position(|h| h.id == *name);
            let names = || site.halls.iter().map(|h| h.id.as_str()).collect();
            let hall = hall.ok_or_else(|| unknown("hall", name, names()))?;
            let racks: Vec<bool> = site.racks.iter().map(|r| r.hall == hall).collect();
            teller.racks_budget(&racks)
        }
        Scope::Rack(name) => {
            let rack = site.racks.iter().position(|r| r.id == *name);
            let names = || site.racks.iter().map(|r| r.id.as_str()).collect();
            let rack = rack.ok_or_else(|| unknown("rack", name, names()))?;
            let racks: Vec<bool> = (0..site.racks.len()).map(|r| r == rack).collect();
            teller.racks_budget(&racks)
        }
        Scope::Job(id) => {
            let job = jobs.iter().find(|j| j.id == *id);
            let names = || {
                jobs.iter()
                    .filter(|j| is_alive(j))
                    .map(|j| j.id.as_str())
                    .collect()
            };
            let job = job.ok_or_else(|| unknown("job", id.as_str(), names()))?;
            teller.job_budget(job)
        }
    };
    Ok(Budget {
        scope: scope.to_string(),
        issued: view.plan.as_ref().map_or(now, |p| p.issued),
        now: now_slot,
        slots,
    })
}

fn is_alive(job: &JobRecord) -> bool {
    !matches!(job.state, JobState::Completed | JobState::Cancelled)
}

/// The first names of a list, and how many more there are.
fn shorten(names: &[&str]) -> String {
    const SHOWN: usize = 12;
    if names.is_empty() {
        return "none".to_owned();
    }
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

/// A power that may be used, and the limit that says so.
struct Allowed {
    power: Watts,
    reason: String,
}

struct Teller<'a> {
    site: &'a Site,
    view: &'a ControlView,
    jobs: &'a [JobRecord],
    now: Timestamp,
    policy: PlanPolicy,
}

impl Teller<'_> {
    /// The plan's slots that are not over; made up of limits alone where
    /// there is no plan yet.
    fn slots(&self) -> Vec<BudgetSlot> {
        if let Some(plan) = &self.view.plan {
            return plan
                .slots
                .iter()
                .filter(|s| s.end > self.now)
                .cloned()
                .collect();
        }
        let start = self.now.floor_to(SLOT);
        (0..SLOTS as u32)
            .map(|t| {
                let (from, to) = (start + SLOT * t, start + SLOT * (t + 1));
                let allowed = self.feed_limit(from, to);
                BudgetSlot {
                    start: from,
                    end: to,
                    power: allowed.power,
                    planned: self.feed_usage(),
                    price_of_energy: self.view.price_of_energy,
                    carbon: None,
                    price: None,
                    renewable: None,
                    quality: Quality::Missing,
                    reason: format!("{}; there is no plan yet", allowed.reason),
                }
            })
            .collect()
    }

    /// The slot of this instant with another power, use and reason.
    fn now_slot(&self, slots: &[BudgetSlot], allowed: Allowed, used: Watts) -> BudgetSlot {
        let current = slots.iter().find(|s| s.start <= self.now);
        BudgetSlot {
            start: self.now,
            end: current.map_or_else(|| self.now.next_multiple_of(SLOT), |s| s.end),
            power: allowed.power.max(Watts::ZERO),
            planned: used,
            price_of_energy: self.view.price_of_energy,
            carbon: current.and_then(|s| s.carbon),
            price: current.and_then(|s| s.price),
            renewable: current.and_then(|s| s.renewable),
            quality: if self.view.power.is_empty() {
                Quality::Estimated
            } else {
                Quality::Measured
            },
            reason: allowed.reason,
        }
    }

    /// Limit of the feed from the configuration and the grid events of a time.
    fn feed_limit(&self, from: Timestamp, to: Timestamp) -> Allowed {
        let roots: Vec<_> = (self.site.power.nodes().iter())
            .filter(|n| n.parents.is_empty())
            .collect();
        let names: Vec<&str> = roots.iter().map(|n| n.id.as_str()).collect();
        let usable = self.usable();
        let margin = format!(", less a margin of {:.0} %", 100.0 * (1.0 - usable));
        let mut allowed = Allowed {
            power: roots.iter().map(|n| n.limit).sum::<Watts>() * usable,
            reason: format!("limit of {}{margin}", names.join(" and ")),
        };
        for event in &self.view.grid_events {
            if event.from < to
                && event.to > from
                && let crate::grid_event::Ask::Limit(limit) = event.ask
                && limit * usable < allowed.power
            {
                allowed = Allowed {
                    power: limit * usable,
                    reason: format!("grid event {}: {}{margin}", event.id, event.reason),
                };
            }
        }
        allowed
    }

    /// Share of each limit that may be given away; the same now and later.
    fn usable(&self) -> f64 {
        1.0 - self.site.control.margin.clamp(0.0, 1.0)
    }

    fn feed_usage(&self) -> Watts {
        (self.site.power.nodes().iter())
            .filter(|n| n.parents.is_empty())
            .filter_map(|n| self.usage_now(&n.id))
            .sum()
    }

    /// Limit in force and use of a power node now, as the control loop shows them.
    fn shown(&self, id: &str) -> Option<(Watts, Watts)> {
        let node = self.view.power.iter().find(|n| n.id == id)?;
        Some((node.limit, node.uncontrolled + node.capped))
    }

    fn usage_now(&self, id: &str) -> Option<Watts> {
        self.shown(id).map(|(_, used)| used)
    }

    fn site_budget(&self) -> (BudgetSlot, Vec<BudgetSlot>) {
        let slots = self.slots();
        let mut allowed = self.feed_limit(self.now, self.now + SLOT / 900);
        let shown: Watts = (self.site.power.nodes().iter())
            .filter(|n| n.parents.is_empty())
            .filter_map(|n| self.shown(&n.id).map(|(limit, _)| limit))
            .sum();
        if shown > Watts::ZERO && shown < allowed.power {
            allowed.power = shown;
        }
        let now = self.now_slot(&slots, allowed, self.feed_usage());
        (now, slots)
    }

    /// Budget of the chosen racks together.
    fn racks_budget(&self, chosen: &[bool]) -> (BudgetSlot, Vec<BudgetSlot>) {
        let slots = self.slots();
        let used_now = self.rack_usage_now();
        let limit_now = |index: usize| {
            let node = &self.site.power.nodes()[index];
            self.shown(&node.id)
                .map_or(node.limit * self.usable(), |(limit, _)| limit)
        };
        let taken_now = |index: usize, below: Watts| {
            // What the loop knows of a node includes load that stands in no rack.
            self.usage_now(&self.site.power.nodes()[index].id)
                .unwrap_or(below)
        };
        let allowed = self.allowed(chosen, &used_now, &limit_now, &taken_now);
        let used: Watts = chosen_sum(chosen, &used_now);
        let now = self.now_slot(&slots, allowed, used);
        let later = slots
            .iter()
            .map(|slot| self.racks_later(chosen, slot))
            .collect();
        (now, later)
    }

    fn racks_later(&self, chosen: &[bool], slot: &BudgetSlot) -> BudgetSlot {
        let planned = self.rack_plan(slot);
        let nodes = self.site.power.nodes();
        let limit = |index: usize| {
            if nodes[index].parents.is_empty() {
                (nodes[index].limit * self.usable()).min(slot.power)
            } else {
                nodes[index].limit * self.usable()
            }
        };
        let taken = |index: usize, below: Watts| {
            if nodes[index].parents.is_empty() {
                below.max(slot.planned)
            } else {
                below
            }
        };
        let mut allowed = self.allowed(chosen, &planned, &limit, &taken);
        // At the root it is the slot's own limit that speaks, e.g. a grid event.
        if nodes
            .iter()
            .any(|n| n.parents.is_empty() && allowed.reason.contains(&n.id))
        {
            allowed.reason = format!("{}, shared with the rest of the site", slot.reason);
        }
        BudgetSlot {
            power: allowed.power.max(Watts::ZERO),
            planned: chosen_sum(chosen, &planned),
            quality: slot.quality.max(Quality::Estimated),
            reason: allowed.reason,
            ..slot.clone()
        }
    }

    /// What may pass to the chosen racks: from the racks up, each node's
    /// limit less what others take of it. `taken(node, sum of its racks)` is all that is taken.
    fn allowed(
        &self,
        chosen: &[bool],
        used: &[Watts],
        limit: &dyn Fn(usize) -> Watts,
        taken: &dyn Fn(usize, Watts) -> Watts,
    ) -> Allowed {
        let nodes = self.site.power.nodes();
        let margin = 100.0 * (1.0 - self.usable());
        let mut pass = vec![Watts::ZERO; nodes.len()];
        let mut own = vec![Watts::ZERO; nodes.len()];
        let mut all = vec![Watts::ZERO; nodes.len()];
        let mut concerned = vec![false; nodes.len()];
        let mut reasons: Vec<Option<String>> = vec![None; nodes.len()];
        for (rack, r) in self.site.racks.iter().zip(0..) {
            all[rack.power_node] += used[r];
            if chosen[r] {
                own[rack.power_node] += used[r];
                // A rack is fed through its own node only, which limits it below.
                pass[rack.power_node] = Watts(f64::INFINITY);
                concerned[rack.power_node] = true;
            }
        }
        let mut total = Allowed {
            power: Watts::ZERO,
            reason: String::new(),
        };
        for index in (0..nodes.len()).rev() {
            if !concerned[index] {
                if let Some(parent) = nodes[index].parents.first() {
                    let below = all[index];
                    all[*parent] += below;
                }
                continue;
            }
            let others = (taken(index, all[index]) - own[index]).max(Watts::ZERO);
            let here = limit(index) - others;
            if here < pass[index] {
                pass[index] = here;
                reasons[index] = Some(if others > Watts(0.5) {
                    format!(
                        "limit of {} ({:.1} kW, its margin of {:.0} % taken off), of which others take {:.1} kW",
                        nodes[index].id,
                        limit(index).kilowatts(),
                        margin,
                        others.kilowatts()
                    )
                } else {
                    format!(
                        "limit of {} ({:.1} kW, its margin of {:.0} % taken off)",
                        nodes[index].id,
                        limit(index).kilowatts(),
                        margin
                    )
                });
            }
            let reason = reasons[index].take();
            match nodes[index].parents.first() {
                Some(parent) => {
                    let (passed, owned, below) = (pass[index], own[index], all[index]);
                    pass[*parent] += passed;
                    own[*parent] += owned;
                    all[*parent] += below;
                    concerned[*parent] = true;
                    join(&mut reasons[*parent], reason);
                }
                None => {
                    total.power += pass[index];
                    total.reason = reason.unwrap_or_default();
                }
            }
        }
        total
    }

    /// Power by rack now, as the loop shows it; nothing where it does not
    /// (the slot then counts as estimated).
    fn rack_usage_now(&self) -> Vec<Watts> {
        self.site
            .racks
            .iter()
            .map(|rack| {
                let node = &self.site.power.nodes()[rack.power_node];
                self.usage_now(&node.id).unwrap_or(Watts::ZERO)
            })
            .collect()
    }

    /// Power by rack that the plan expects in a slot.
    fn rack_plan(&self, slot: &BudgetSlot) -> Vec<Watts> {
        let site = self.site;
        let highest = highest_cap(site);
        let idle = highest * self.policy.idle_share;
        let mut power = vec![Watts::ZERO; site.racks.len()];
        let mut devices = vec![0.0f64; site.racks.len()];
        for node in &site.nodes {
            let own = node.devices.len() as f64;
            power[node.rack] += node.overhead * self.policy.overhead_share + idle * own;
            devices[node.rack] += own;
        }
        let all: f64 = devices.iter().sum();
        for (job, level) in self.running_in(slot) {
            let Some(record) = self.jobs.iter().find(|r| r.id == job.job) else {
                continue;
            };
            let each = (highest * level - idle).max(Watts::ZERO);
            if record.devices.is_empty() {
                // Where it will stand nobody knows yet.
                for (power, own) in power.iter_mut().zip(&devices) {
                    *power += each * (f64::from(record.gang_size) * own / all.max(1.0));
                }
                continue;
            }
            for device in &record.devices {
                if let Some((_, device)) = site.device(device) {
                    power[site.nodes[device.node].rack] += each;
                }
            }
        }
        power
    }

    /// Jobs that the plan runs in a slot, and their levels.
    fn running_in(&self, slot: &BudgetSlot) -> impl Iterator<Item = (&PlannedJob, f64)> {
        let jobs = self.view.plan.iter().flat_map(|plan: &PlanView| &plan.jobs);
        let start = slot.start;
        jobs.filter_map(move |job| Some((job, level_at(job, start)?)))
    }

    fn job_budget(&self, job: &JobRecord) -> (BudgetSlot, Vec<BudgetSlot>) {
        let gang = f64::from(job.gang_size);
        let highest = highest_cap(self.site);
        let planned = (self.view.plan.iter())
            .flat_map(|p| &p.jobs)
            .find(|p| p.job == job.id);
        let slots = self.slots();
        let later = slots
            .iter()
            .map(|slot| {
                let level = planned.and_then(|p| level_at(p, slot.start));
                let power = highest * level.unwrap_or(0.0) * gang;
                BudgetSlot {
                    power,
                    planned: power,
                    quality: slot.quality.max(Quality::Estimated),
                    reason: match (planned, level) {
                        (None, _) => "the plan does not speak of this job".to_owned(),
                        (Some(p), None) => format!("held: {}", p.reason),
                        (Some(p), Some(_)) => p.reason.clone(),
                    },
                    ..slot.clone()
                }
            })
            .collect();
        let caps: Vec<Watts> = (job.devices.iter())
            .filter_map(|d| self.view.caps.get(d).map(|c| c.decided))
            .collect();
        let power: Watts = caps.iter().copied().sum();
        let allowed = Allowed {
            power,
            reason: if job.state != JobState::Running {
                "holds no devices now".to_owned()
            } else if caps.len() < job.devices.len() {
                "not all of its devices have a cap yet".to_owned()
            } else {
                "the sum of the caps on its devices".to_owned()
            },
        };
        let mut now = self.now_slot(&slots, allowed, power);
        if caps.len() < job.devices.len() {
            now.quality = Quality::Estimated;
        }
        (now, later)
    }
}

/// Joins the reasons of several subtrees; the first few say enough.
fn join(into: &mut Option<String>, more: Option<String>) {
    let Some(more) = more else { return };
    match into {
        None => *into = Some(more),
        Some(known) if known.len() < 120 => {
            known.push_str("; ");
            known.push_str(&more);
        }
        Some(_) => {}
    }
}

fn level_at(job: &PlannedJob, at: Timestamp) -> Option<f64> {
    let run = job
        .runs
        .iter()
        .find(|(from, to, _)| *from <= at && at < *to)?;
    Some(run.2)
}

fn highest_cap(site: &Site) -> Watts {
    site.devices
        .iter()
        .map(|d| d.max_cap)
        .fold(Watts::ZERO, Watts::max)
}

fn chosen_sum(chosen: &[bool], values: &[Watts]) -> Watts {
    chosen
        .iter()
        .zip(values)
        .filter(|(c, _)| **c)
        .map(|(_, v)| *v)
        .sum()
}
