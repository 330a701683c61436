//! Budgets: power that a subtree may use over an interval, published by the planner.

use crate::quantity::{EurosPerMegawattHour, GramsPerKilowattHour, Watts};
use crate::reading::Quality;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Power for one interval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetSlot {
    /// Begin, inclusive.
    pub start: Timestamp,
    /// End, exclusive.
    pub end: Timestamp,
    /// Power that may be drawn.
    pub power: Watts,
    /// Power that the plan expects to be drawn.
    pub planned: Watts,
    /// The price of energy λ that the allocator uses: gang hours at full speed
    /// that a watt hour must at least buy (work per joule, see DESIGN).
    pub price_of_energy: f64,
    /// Forecast carbon intensity, where known.
    pub carbon: Option<GramsPerKilowattHour>,
    /// Forecast price, where known.
    pub price: Option<EurosPerMegawattHour>,
    /// Forecast renewable share, where known.
    pub renewable: Option<f64>,
    /// How the limit is known.
    pub quality: Quality,
    /// The limit that binds (a power node, a grid event, the device count) and why.
    pub reason: String,
}

/// The budget of one scope over the horizon.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Site, hall, rack or job, as `kind:name`.
    pub scope: String,
    /// When it was made; it saw nothing newer.
    pub issued: Timestamp,
    /// Limit and use at this instant.
    pub now: BudgetSlot,
    /// Per 15 minutes for the horizon.
    pub slots: Vec<BudgetSlot>,
}
