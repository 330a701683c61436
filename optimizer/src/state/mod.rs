//! What is true at a site at one instant, from a file: for one allocation
//! without a running server, and for questions of the kind "what if".
//!
//! The file is JSON. All of it may be left out; `{}` is the site with no job.
//!
//! ```json
//! {
//!   "price_of_energy": 0.0004,
//!   "grid_limit_watts": 150000,
//!   "site_watts": 182000, "it_watts": 160000,
//!   "nodes":   { "r01-n1": { "watts": 5100, "uncertainty_watts": 60 }, "r01-n2": { "overhead_watts": 900 } },
//!   "devices": { "r01-n1-gpu0": { "watts": 520, "cap_watts": 600, "max_watts": 650, "step_watts": 5 }, "r02-n1-gpu3": { "fixed_watts": 700 } },
//!   "lowering_seconds": 5, "trip_curves": { "pdu-1": [[1.05, 3600], [1.3, 120], [2, 5]] },
//!   "contracts": [ { "id": "tenant-a", "limit_watts": 60000, "members": ["r01", "r02-n1-gpu0"] } ],
//!   "jobs": [ { "id": "train-1", "class": "training", "devices": ["r01-n1", "r02-n1-gpu0"],
//!               "speed": [[200, 0.55], [400, 0.86], [700, 1.0]] } ]
//! }
//! ```
//!
//! What is not stated is taken as control takes what it does not know: a node
//! draws its rated overhead, the plant one and a half times its design's, and a
//! contract's members what the same figures say of them, unless the contract has
//! `uncontrolled_watts`. The site file's own contracts, steps and time-current curves hold too; a curve stated here
//! stands in place of the site's.

mod answer;
mod contracts;
mod jobs;
mod read;
mod reader;
mod way;

pub use answer::{Answer, Ending, Excess, Goal, JobAnswer, LimitAnswer, Refused, answer};
pub use reader::Fault;
pub use way::Way;

use crate::allocate::Problem;
use crate::check::{AtFeed, Facts, Terms, TripCurve};
use crate::control::assemble;
use heliostat_models::{DeviceId, JobRecord, Site, Watts};
use std::collections::BTreeMap;

/// What a state file says, beside the site that it speaks of.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// The price of energy λ, weighted device hours per watt hour.
    pub price_of_energy: f64,
    /// Limit at the feeds while a grid event is in force.
    pub grid_limit: Option<Watts>,
    /// See [`Facts::uncontrolled`].
    pub uncontrolled: Vec<Watts>,
    /// See [`AtFeed::uncontrolled`].
    pub at_feed: Vec<Watts>,
    /// See [`AtFeed::idle`].
    pub idle: BTreeMap<DeviceId, Watts>,
    /// See [`Facts::ranges`].
    pub ranges: BTreeMap<DeviceId, (Watts, Watts)>,
    /// See [`Facts::pinned`].
    pub pinned: BTreeMap<DeviceId, Watts>,
    /// The jobs that run.
    pub jobs: Vec<JobRecord>,
    /// Contracts, steps and uncertainty.
    pub terms: Terms,
    /// Caps in force, where stated.
    pub in_force: BTreeMap<DeviceId, Watts>,
    /// Seconds until a lowered cap is surely in force.
    pub lowering_seconds: f64,
    /// Time-current curves of breakers by power node, where stated.
    pub trip_curves: BTreeMap<String, TripCurve>,
}

impl State {
    /// Reads a state of this site.
    ///
    /// # Errors
    /// All faults of the file.
    pub fn read(site: &Site, text: &str) -> Result<Self, Vec<Fault>> {
        read::read(site, text)
    }

    /// The facts that the checker judges by.
    pub fn facts<'a>(&'a self, site: &'a Site) -> Facts<'a> {
        Facts {
            site,
            margin: site.control.margin,
            grid: self.grid_limit.map(|limit| AtFeed {
                limit,
                uncontrolled: &self.at_feed,
                idle: &self.idle,
                starting: 0,
            }),
            uncontrolled: &self.uncontrolled,
            ranges: &self.ranges,
            pinned: &self.pinned,
            jobs: &self.jobs,
            price_of_energy: self.price_of_energy,
            terms: &self.terms,
        }
    }
}

/// The allocator's problem under these facts, their terms included.
pub fn problem(facts: &Facts<'_>) -> Problem {
    assemble::problem(facts)
}
