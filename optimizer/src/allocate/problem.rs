//! The allocator's input and output as plain data.

use heliostat_models::decision::JobCap;
use heliostat_models::{Certificate, DeviceId, JobClass, JobId, SpeedCurve, Watts};
use serde::{Deserialize, Serialize};

/// A power node as the allocator sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitNode {
    /// Its name.
    pub id: String,
    /// What feeds it, by place in [`Problem::nodes`]; parents stand before their children.
    pub parents: Vec<usize>,
    /// What may be drawn at it.
    pub limit: Watts,
    /// What is drawn at or below it that no cap controls.
    pub uncontrolled: Watts,
    /// By how much that may be more than stated; counted in full.
    #[serde(default)]
    pub uncertainty: Watts,
    /// By how much the caps below may exceed what is left, because devices at
    /// rest are known to draw less than their lowest caps; zero at breakers.
    #[serde(default)]
    pub spare: Watts,
}

/// A device that has, or could have, a cap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceSpec {
    /// Its name.
    pub id: DeviceId,
    /// Lowest cap that can be set.
    pub min: Watts,
    /// Highest cap that can be set.
    pub max: Watts,
    /// The power node directly above it, by place in [`Problem::nodes`].
    pub node: usize,
    /// Set when the device cannot be commanded now: the largest cap that it may have.
    pub fixed: Option<Watts>,
    /// Its caps are multiples of this; zero leaves it to [`Problem::step`].
    #[serde(default)]
    pub step: Watts,
}

impl LimitNode {
    /// What is left for caps: the limit and the spare, less what no cap
    /// controls at its upper bound.
    pub fn room(&self) -> Watts {
        self.limit + self.spare - self.uncontrolled - self.uncertainty
    }
}

/// A limit that a contract sets over a set of power nodes and devices,
/// wherever they stand in the tree. A device that it covers twice counts once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Contract {
    /// Its name.
    pub id: String,
    /// What its members may draw together.
    pub limit: Watts,
    /// What the members draw that no cap controls.
    #[serde(default)]
    pub uncontrolled: Watts,
    /// By how much that may be more than stated; counted in full.
    #[serde(default)]
    pub uncertainty: Watts,
    /// Power nodes, by place: all devices below are covered.
    #[serde(default)]
    pub nodes: Vec<usize>,
    /// Single devices, by place.
    #[serde(default)]
    pub devices: Vec<usize>,
}

impl Contract {
    /// What is left for caps.
    pub fn room(&self) -> Watts {
        self.limit - self.uncontrolled - self.uncertainty
    }
}

/// A job's gang.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The job.
    pub job: JobId,
    /// Its class; says in which order floors give way.
    pub class: JobClass,
    /// Worth of a device hour of it at full speed.
    pub weight: f64,
    /// Lowest relative speed that is acceptable, 0 to 1.
    pub floor_speed: f64,
    /// Relative speed against the cap of each device.
    pub curve: SpeedCurve,
    /// Its devices, by place in [`Problem::devices`].
    pub devices: Vec<usize>,
}

/// Everything an allocation depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// The power nodes, parents first.
    pub nodes: Vec<LimitNode>,
    /// The devices. One that is in no group gets its lowest cap.
    pub devices: Vec<DeviceSpec>,
    /// The jobs that run.
    pub groups: Vec<Group>,
    /// Limits over sets that cut across the tree.
    #[serde(default)]
    pub contracts: Vec<Contract>,
    /// The price of energy λ: weighted device hours at full speed that a watt
    /// hour must at least buy.
    pub price_of_energy: f64,
    /// Caps are rounded down to a multiple of this; zero leaves them exact.
    pub step: Watts,
}

/// Which solver found the allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Marginal segments in descending worth; exact here.
    Sweep,
    /// Prices of the limits found by a first-order method; the gap says how near.
    Prices,
    /// Linear program with limits and cuts added lazily.
    LinearProgram,
    /// All speeds raised together until limits are full.
    Fairness,
}

/// What one gang got.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupCap {
    /// The cap on each of its devices.
    pub cap: Watts,
    /// Expected relative speed.
    pub speed: f64,
    /// Weighted device hours per watt hour that the last watt bought.
    pub marginal: f64,
    /// The full limit with the largest price above it: a power node by place,
    /// or a contract by its place after all power nodes.
    pub binding: Option<usize>,
}

/// Caps at one instant and their proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Allocation {
    /// One cap a device, in the order of [`Problem::devices`].
    pub caps: Vec<Watts>,
    /// One entry a group, in the order of [`Problem::groups`].
    pub groups: Vec<GroupCap>,
    /// The same told to people, and the devices that no job holds.
    pub jobs: Vec<JobCap>,
    /// What one more watt at each power node would be worth, net of λ.
    pub node_prices: Vec<f64>,
    /// The same for each contract.
    #[serde(default)]
    pub contract_prices: Vec<f64>,
    /// Sum of the caps below each power node.
    pub capped: Vec<Watts>,
    /// The proof.
    pub certificate: Certificate,
    /// Who found it.
    pub method: Method,
}

/// What had to give way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shed {
    /// The safest allocation that was found. Its certificate speaks of the
    /// problem with the floors below dropped.
    pub allocation: Allocation,
    /// Jobs whose floor was dropped.
    pub dropped: Vec<JobId>,
    /// Limits that even the lowest caps exceed, and by how much.
    pub beyond: Vec<(String, Watts)>,
}

/// How an allocation ended. Infeasibility is an outcome, no error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All floors and all limits are kept.
    Allocated(Allocation),
    /// The floors do not fit below the limits.
    Infeasible {
        /// The smallest set of limits in conflict with the floors: jobs that
        /// give up what these ask, in whatever way, keep all the others too, and
        /// of these each could still be broken with the others kept.
        conflict: Vec<String>,
        /// What to do instead.
        shed: Shed,
    },
}

impl Outcome {
    /// The caps to set, shed or not.
    pub fn allocation(&self) -> &Allocation {
        match self {
            Self::Allocated(allocation) => allocation,
            Self::Infeasible { shed, .. } => &shed.allocation,
        }
    }
}

/// What makes a problem meaningless.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ProblemError {
    /// A number that must be finite is not.
    #[error("`{what}` of `{of}` is {value}; it must be a finite number, not below zero")]
    Number {
        /// Which field.
        what: &'static str,
        /// Of what.
        of: String,
        /// What it is.
        value: f64,
    },
    /// An index points nowhere, or a parent does not stand before its child.
    #[error(
        "`{of}` refers to {what} number {index}, which is not there (parents stand before their children)"
    )]
    Reference {
        /// Device or power node.
        what: &'static str,
        /// Who refers.
        of: String,
        /// The index.
        index: usize,
    },
    /// A device's lowest cap is above its highest.
    #[error("device `{device}`: its lowest cap {min} is above its highest {max}")]
    Range {
        /// Which.
        device: DeviceId,
        /// Lowest.
        min: Watts,
        /// Highest.
        max: Watts,
    },
    /// Two jobs hold one device, or one job holds it twice.
    #[error(
        "device `{device}` is held by job `{first}` and by job `{second}`; a device belongs to one gang"
    )]
    HeldTwice {
        /// Which.
        device: DeviceId,
        /// One job.
        first: JobId,
        /// The other.
        second: JobId,
    },
    /// A gang's devices have no cap in common.
    #[error(
        "the devices of job `{job}` share no cap: one needs at least {low}, another bears at most {high}"
    )]
    NoCommonCap {
        /// Which.
        job: JobId,
        /// The highest of the lowest caps.
        low: Watts,
        /// The lowest of the highest caps.
        high: Watts,
    },
}

impl Allocation {
    /// What one more watt at each limit would be worth: power nodes by place,
    /// then contracts.
    pub fn prices(&self) -> Vec<f64> {
        [&self.node_prices[..], &self.contract_prices].concat()
    }
}

impl Problem {
    /// What each limit leaves for caps: power nodes by place, then contracts.
    pub fn rooms(&self) -> impl Iterator<Item = Watts> + '_ {
        let contracts = self.contracts.iter().map(Contract::room);
        self.nodes.iter().map(LimitNode::room).chain(contracts)
    }

    /// Name of a limit: the power nodes come first, then the contracts.
    pub fn limit_name(&self, row: usize) -> &str {
        match self.nodes.get(row) {
            Some(node) => &node.id,
            None => &self.contracts[row - self.nodes.len()].id,
        }
    }
}
