//! The checker: nothing reaches a device that it has not passed.
//!
//! It starts from the site's configuration, the contracts and steps in force
//! and what is true now, adds up every limit itself and re-evaluates the proof
//! from the prices given.
//!
//! Architecture invariant: no code is shared with `allocate`. Where both need
//! the same figure, it is computed here by another way.

mod excursion;
mod limits;
mod proof;
mod seen;
mod terms;
mod transition;

pub use excursion::{Below, Breaker, Breakers, Excursion, Moment, check_excursion};
pub use heliostat_models::site::trip::TripCurve;
pub use terms::{ContractTerm, NO_TERMS, Terms};
pub use transition::check_transition;

use heliostat_models::{Certificate, DeviceId, JobId, JobRecord, Site, Watts};
use seen::Seen;
use std::collections::BTreeMap;
use std::fmt;

/// Watts by which a sum may pass a limit by the rounding of numbers alone: a
/// thousandth of the smallest step in which a cap can be set.
pub const TOLERANCE: Watts = Watts(1e-6);
/// Share of its lowest cap by which a device at rest may draw more than was read.
pub const IDLE_RESERVE: f64 = 0.1;
/// Relative tolerance of objective values.
const PROOF_TOLERANCE: f64 = 1e-6;

/// What is true now, as far as it bears on caps.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The configuration; every limit comes from here.
    pub site: &'a Site,
    /// Share of each limit that is never given away.
    pub margin: f64,
    /// The grid event in force, if one is.
    pub grid: Option<AtFeed<'a>>,
    /// Power at and below each power node that no cap controls, by its place in the tree.
    pub uncontrolled: &'a [Watts],
    /// Lowest and highest settable cap where agents said so; else the site's figures hold.
    pub ranges: &'a BTreeMap<DeviceId, (Watts, Watts)>,
    /// Devices that cannot be commanded, and the largest cap that each may have.
    pub pinned: &'a BTreeMap<DeviceId, Watts>,
    /// The jobs that run.
    pub jobs: &'a [JobRecord],
    /// The price of energy λ.
    pub price_of_energy: f64,
    /// Contracts with the loads of now, those of the site file among them, and
    /// what else holds besides it; [`NO_TERMS`] where nothing does.
    pub terms: &'a Terms,
}

/// What holds at the utility feed while a grid event is in force.
///
/// A breaker must bear what devices may draw, a promise to the grid only what
/// they draw: here a device that no job holds counts with its fresh reading
/// and [`IDLE_RESERVE`] of its lowest cap on top, though never above that cap.
/// A job may start before the next allocation, so for as many devices as
/// `starting` says, those with the most to give, the lowest cap counts. All
/// others count with their caps.
#[derive(Clone, Copy, Debug)]
pub struct AtFeed<'a> {
    /// What the event allows.
    pub limit: Watts,
    /// As [`Facts::uncontrolled`], by the most that is expected of all nodes
    /// together: nothing is added for uncertainty.
    pub uncontrolled: &'a [Watts],
    /// Fresh readings of the devices that no job holds.
    pub idle: &'a BTreeMap<DeviceId, Watts>,
    /// Devices that jobs may take before the next allocation.
    pub starting: usize,
}

/// What is proposed.
#[derive(Clone, Copy, Debug)]
pub struct Proposal<'a> {
    /// A cap for every device of the site; a pinned one's is its pinned cap.
    pub caps: &'a BTreeMap<DeviceId, Watts>,
    /// Price of each power node, by its place in the tree, and after them of
    /// each contract.
    pub node_prices: &'a [f64],
    /// The proof.
    pub certificate: &'a Certificate,
    /// Jobs whose floors are declared dropped.
    pub dropped: &'a [JobId],
    /// Power nodes and contracts declared to be beyond what caps can keep.
    pub beyond: &'a [String],
}

/// A rule that proposals must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// Caps and uncontrolled load below a power node stay within its limit.
    NodeLimit,
    /// A contract's members stay within its limit, and are known.
    Contract,
    /// On the way from the old caps to the new ones the limit holds too.
    Transition,
    /// No breaker carries more for longer than its time-current curve allows.
    TripCurve,
    /// A cap lies in its device's settable range.
    DeviceRange,
    /// A cap is a multiple of its device's step, or the end of its range.
    Step,
    /// Every device of the site has a cap, and nothing else has.
    EveryDevice,
    /// A device that cannot be commanded keeps its cap.
    Pinned,
    /// All devices of a gang have one cap.
    GangEqual,
    /// A job's speed is not below its class's floor, unless that is declared dropped.
    Floor,
    /// Below a node declared beyond keeping, every device is at its lowest cap.
    Beyond,
    /// Every number is finite; prices and loads are not negative.
    Finite,
    /// The primal value is what the caps are worth.
    Primal,
    /// The dual bound follows from the node prices, and nothing beats it.
    Dual,
    /// The gap is that between the two.
    Gap,
}

impl Rule {
    /// Its name, for logs and tests.
    pub fn name(self) -> &'static str {
        match self {
            Self::NodeLimit => "node-limit",
            Self::Contract => "contract",
            Self::Transition => "transition",
            Self::TripCurve => "trip-curve",
            Self::DeviceRange => "device-range",
            Self::Step => "step",
            Self::EveryDevice => "every-device",
            Self::Pinned => "pinned",
            Self::GangEqual => "gang-equal",
            Self::Floor => "floor",
            Self::Beyond => "beyond",
            Self::Finite => "finite",
            Self::Primal => "primal",
            Self::Dual => "dual",
            Self::Gap => "gap",
        }
    }
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken {
    /// Which.
    pub rule: Rule,
    /// Where and by how much.
    pub detail: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule.name(), self.detail)
    }
}

/// Collects what is broken.
#[derive(Default)]
struct Findings(Vec<Broken>);

impl Findings {
    fn add(&mut self, rule: Rule, detail: String) {
        self.0.push(Broken { rule, detail });
    }
}

/// Checks a proposed allocation. Empty: it may go out.
pub fn check_allocation(facts: &Facts<'_>, proposal: &Proposal<'_>) -> Vec<Broken> {
    let mut findings = Findings::default();
    let seen = limits_kept(facts, proposal, &mut findings);
    // Sums over numbers that are not there prove nothing.
    if findings
        .0
        .iter()
        .all(|b| !matches!(b.rule, Rule::Finite | Rule::EveryDevice))
    {
        proof::check(facts, &seen, proposal, &mut findings);
    }
    findings.0
}

/// The same without the proof, for caps whose proof speaks of other inputs:
/// what they may let devices draw, and nothing of how good they are.
pub fn check_caps(facts: &Facts<'_>, proposal: &Proposal<'_>) -> Vec<Broken> {
    let mut findings = Findings::default();
    limits_kept(facts, proposal, &mut findings);
    findings.0
}

fn limits_kept(facts: &Facts<'_>, proposal: &Proposal<'_>, findings: &mut Findings) -> Seen {
    let seen = Seen::new(facts, proposal);
    terms::check(facts, findings);
    limits::check(facts, &seen, proposal, findings);
    seen
}

impl Facts<'_> {
    /// What the breaker at a power node bears, less the margin.
    pub fn limit(&self, node: usize) -> Watts {
        self.site.power.nodes()[node].limit * (1.0 - self.margin)
    }

    /// Name of a limit: power nodes by place, then contracts.
    fn row_name(&self, row: usize) -> &str {
        let nodes = self.site.power.nodes();
        match nodes.get(row) {
            Some(node) => &node.id,
            None => &self.terms.contracts[row - nodes.len()].id,
        }
    }

    /// By how much the load at a power node may be more than stated.
    fn uncertainty(&self, node: usize) -> Watts {
        self.terms
            .uncertainty
            .get(node)
            .copied()
            .unwrap_or_default()
    }

    /// What the caps below a limit may add up to: at a power node below its
    /// breaker's limit, and at a feed below the grid event's as [`AtFeed`]
    /// counts; behind the power nodes stand the contracts.
    fn room(&self, node: usize) -> Watts {
        if let Some(contract) = node
            .checked_sub(self.site.power.nodes().len())
            .and_then(|place| self.terms.contracts.get(place))
        {
            return contract.usable(self.margin) - contract.uncontrolled - contract.uncertainty;
        }
        let load =
            self.uncontrolled.get(node).copied().unwrap_or_default() + self.uncertainty(node);
        let breaker = self.limit(node) - load;
        match &self.grid {
            Some(grid) if self.site.power.nodes()[node].parents.is_empty() => {
                let load = grid.uncontrolled.get(node).copied().unwrap_or_default();
                let promise = grid.limit * (1.0 - self.margin) - load;
                breaker.min(promise + self.not_drawn(grid, node))
            }
            _ => breaker,
        }
    }

    /// What devices at rest below a feed draw less than their lowest caps, for certain.
    fn not_drawn(&self, grid: &AtFeed<'_>, feed: usize) -> Watts {
        let mut held = vec![false; self.site.devices.len()];
        for job in self.jobs {
            for (place, _) in self.site.devices_named(&job.devices) {
                held[place] = true;
            }
        }
        let mut less: Vec<Watts> = Vec::new();
        for (place, drawn) in self.site.by_place(grid.idle).into_iter().enumerate() {
            let Some(drawn) = drawn.filter(|d| d.is_finite() && !held[place]) else {
                continue;
            };
            let above = self.site.power.path_up(self.site.power_node_of(place));
            if above.contains(&feed) {
                let lowest = self.range(place).0;
                less.push((lowest * (1.0 - IDLE_RESERVE) - drawn).clamp(Watts::ZERO, lowest));
            }
        }
        less.sort_by(Watts::total_cmp);
        let certain = less.len().saturating_sub(grid.starting);
        less[..certain].iter().copied().sum()
    }

    /// Settable range of a device by its place in the site.
    fn range(&self, device: usize) -> (Watts, Watts) {
        let device = &self.site.devices[device];
        let stated = self.ranges.get(&device.id).copied();
        stated.unwrap_or((device.min_cap, device.max_cap))
    }

    /// What caps of a device are multiples of: as the terms say it, else the site file.
    fn step(&self, place: usize) -> Watts {
        let device = &self.site.devices[place];
        let stated = self.terms.steps.get(&device.id).copied();
        stated.unwrap_or(device.cap_step)
    }

    /// In which steps a cap of all these devices can be set, in whole
    /// milliwatts: the smallest number that each of their steps divides.
    fn common_step(&self, devices: impl Iterator<Item = usize>) -> u64 {
        let steps = devices.map(|place| self.step(place));
        steps.fold(1, |common, step| {
            let step = ((step.0 * 1_000.0).round() as u64).max(1);
            // By search, from multiple to multiple of the larger one.
            let (large, small) = (common.max(step), common.min(step));
            (1..=small)
                .map(|k| k * large)
                .find(|m| m % small == 0)
                .unwrap_or(large)
        })
    }
}
