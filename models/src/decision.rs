//! Decisions: what was decided, why, and the proof that came with it.

use crate::ids::JobId;
use crate::quantity::Watts;
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// The proof that travels with an allocation or a plan. For a maximisation
/// `dual_bound >= primal`, for a minimisation `dual_bound <= primal`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Value of the objective that was reached.
    pub primal: f64,
    /// What no solution can beat.
    pub dual_bound: f64,
    /// `|primal - dual_bound| / max(1, |primal|)`.
    pub gap: f64,
    /// SHA-256 over the canonical form of all inputs, hex.
    pub inputs_hash: String,
}

impl Certificate {
    /// Makes a certificate and computes its gap.
    pub fn new(primal: f64, dual_bound: f64, inputs_hash: String) -> Self {
        let gap = (primal - dual_bound).abs() / primal.abs().max(1.0);
        Self {
            primal,
            dual_bound,
            gap,
            inputs_hash,
        }
    }
}

/// What kind of decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionKind {
    /// Caps at one instant.
    Allocation,
    /// Which jobs run when.
    Plan,
    /// A limit changed from outside: a grid event began or ended.
    GridEvent,
    /// Control was armed or disarmed.
    Arming,
    /// The checker refused a proposal; nothing was sent.
    Refusal,
    /// Something failed and was contained.
    Incident,
    /// Load taken off at once below breakers that may not bear the way to the
    /// caps decided, or no longer.
    Relief,
    /// Decisions of long ago were cut off the log.
    Retention,
}

/// Why one job has the cap it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobCap {
    /// Which job; `None` for the devices that no job holds.
    pub job: Option<JobId>,
    /// How many devices.
    pub devices: u32,
    /// The cap on each.
    pub cap: Watts,
    /// Expected relative speed.
    pub speed: f64,
    /// The power node that binds, if one does.
    pub binding: Option<String>,
    /// Work per watt that the last watt bought.
    pub marginal: f64,
    /// The same in a sentence.
    pub reason: String,
}

/// One decision, as the log keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Grows by one.
    pub sequence: u64,
    /// When it was taken.
    pub at: Timestamp,
    /// What kind.
    pub kind: DecisionKind,
    /// Whether it was acted upon: false while only observing.
    pub armed: bool,
    /// What was decided, in one sentence.
    pub summary: String,
    /// Why, in one sentence.
    pub reason: String,
    /// The proof, where a solver decided.
    pub certificate: Option<Certificate>,
    /// Why each job has its cap (allocations).
    pub caps: Vec<JobCap>,
}
