//! What the control loop asks of a planner, and what it gets back. The loop
//! knows planners only through this.

use crate::grid_event::GridEvent;
use crate::view::PlanView;
use heliostat_models::job::JobOrder;
use heliostat_models::{DeviceId, Frame, JobId, JobRecord, Site, Timestamp, Watts};
use std::collections::HashMap;
use std::sync::Arc;

/// Everything a plan may know. Nothing in it is newer than the instant at
/// which the planner is asked.
#[derive(Clone, Debug)]
pub struct PlanInput {
    /// Where.
    pub site: Arc<Site>,
    /// Every job that is not over, by id.
    pub jobs: Vec<JobRecord>,
    /// Frames of the grid device, by rising time.
    pub grid_history: Vec<Frame>,
    /// Grid events running or to come, by begin. A `ReduceBy` was already
    /// turned into a `Limit` at the feed when it came in.
    pub grid_events: Vec<GridEvent>,
    /// Caps in force (acknowledged by the agents).
    pub caps: HashMap<DeviceId, Watts>,
    /// Power at the utility feed now, where a meter says it.
    pub site_power: Option<Watts>,
    /// Power of the IT equipment now, where a meter says it.
    pub it_power: Option<Watts>,
    /// What power contracts carry besides caps, in the order of the site file, when
    /// every device may have its highest cap; empty: what is rated.
    pub contract_loads: Vec<ContractLoad>,
}

/// What the members of a power contract draw that no cap controls, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ContractLoad {
    /// Their nodes, but for what caps control.
    pub it: Watts,
    /// The plant, as it is now.
    pub plant: Watts,
    /// Most power that may pass members which carry the plant: what its share is of.
    pub carries: Watts,
}

/// A plan and what follows from it at once.
#[derive(Clone, Debug)]
pub struct PlanOutput {
    /// The plan with its proof, for the pages.
    pub view: PlanView,
    /// What schedulers are told; a job not named keeps its last order.
    pub orders: Vec<(JobId, JobOrder)>,
    /// The price of energy λ from now on: gang hours at full speed that a watt
    /// hour must at least buy (see `heliostat_models::budget::BudgetSlot`).
    /// Later slots' prices stand in the plan's slots.
    pub price_of_energy: f64,
}

/// A planner. Synchronous and deterministic: the same calls give the same
/// bytes. It may keep its last plan, to stay close to it.
pub trait PlanService: Send {
    /// Makes the plan anew at `now`.
    fn replan(&mut self, now: Timestamp, input: PlanInput) -> PlanOutput;
}
