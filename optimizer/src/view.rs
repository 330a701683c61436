//! What the control loops show to the pages and the API: one value, replaced
//! as a whole, so that a reader never sees half a decision.

use crate::grid_event::GridEvent;
use heliostat_models::budget::BudgetSlot;
use heliostat_models::{Certificate, DeviceId, JobId, Timestamp, Watts};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

/// Where control stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlMode {
    /// Decides, shows, sends nothing.
    #[default]
    Observe,
    /// Decides and sends.
    Armed,
}

/// One power node now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PowerNodeView {
    /// Its name.
    pub id: String,
    /// Limit in force, grid events included.
    pub limit: Watts,
    /// Power below it that caps do not control (as used by the allocator, uncertainty included).
    pub uncontrolled: Watts,
    /// Sum of the caps below it; at a grid event's limit a device at rest counts
    /// with its measured draw and a reserve.
    pub capped: Watts,
    /// What one more watt here would be worth, in work per hour and watt.
    pub price: f64,
}

/// One device's cap now.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CapView {
    /// Decided.
    pub decided: Watts,
    /// Last acknowledged by the agent.
    pub acknowledged: Option<Watts>,
}

/// A job's place in the plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedJob {
    /// Which.
    pub job: JobId,
    /// Stretches in which it runs: begin, end, relative power level (0 to 1).
    pub runs: Vec<(Timestamp, Timestamp, f64)>,
    /// Why it stands where it stands, in a sentence.
    pub reason: String,
}

/// The plan in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanView {
    /// When it was made; it saw nothing newer.
    pub issued: Timestamp,
    /// Its proof.
    pub certificate: Certificate,
    /// The jobs.
    pub jobs: Vec<PlannedJob>,
    /// Site power, price of energy and forecasts per 15 minutes.
    pub slots: Vec<BudgetSlot>,
}

/// Everything control shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ControlView {
    /// When this was true.
    pub at: Timestamp,
    /// Observing or armed.
    pub mode: ControlMode,
    /// Power nodes above the level of single nodes, in the order of the tree.
    pub power: Vec<PowerNodeView>,
    /// Caps by device.
    pub caps: HashMap<DeviceId, CapView>,
    /// The price of energy in use.
    pub price_of_energy: f64,
    /// Proof of the allocation in force.
    pub allocation: Option<Certificate>,
    /// The plan in force.
    pub plan: Option<PlanView>,
    /// Grid events running or to come.
    pub grid_events: Vec<GridEvent>,
    /// Largest gap of any allocation's certificate so far; a plan's stands in the plan.
    pub max_gap: f64,
    /// Allocations made so far.
    pub allocations: u64,
}

/// Where control puts its view.
pub type ViewSender = watch::Sender<Arc<ControlView>>;
/// Where readers take it.
pub type ViewReceiver = watch::Receiver<Arc<ControlView>>;
