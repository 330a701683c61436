//! The planner: which job runs when and at which pace over the next 48 hours.
//!
//! ```text
//! PlanInput ──outlook──> carbon, price, PUE a slot ──build──> Problem
//!     Problem ──solve──> schedules, bound, prices ──check──> PlanView, orders, λ
//! ```
//!
//! Interruptible jobs are put into the best hours under the site's limits of
//! power and devices and under its power contracts; others run from their release
//! on; experiments soon. Plans say when jobs run, not where: a contract is kept
//! wherever schedulers put them ([`contracts`]).
//! The bound of column generation tells how far from the best plan the plan
//! can be at most. It is made anew on a rolling horizon: pausing costs, so
//! what runs changes only when the gain exceeds the cost of the change.

pub mod build;
pub mod check;
mod check_contracts;
mod contract_view;
pub mod contracts;
mod cost;
mod master;
mod members;
pub mod outlook;
mod place;
pub mod policy;
mod present;
pub mod price;
mod pricing;
pub mod problem;
pub mod ramps;
pub mod solve;

use crate::plan_service::{PlanInput, PlanOutput, PlanService};
use crate::view::PlanView;
use heliostat_models::job::JobOrder;
use heliostat_models::{Certificate, JobId, Timestamp};
use outlook::Outlook;
use policy::{PlanPolicy, SLOT, SLOTS};
use problem::{Problem, Solution};
use sha2::{Digest, Sha256};
use solve::Limits;

/// The planner. Keeps nothing between plans: the state of the jobs says all
/// that a plan must know of the one before.
#[derive(Clone, Copy, Debug, Default)]
pub struct Planner {
    /// What it is told to want.
    pub policy: PlanPolicy,
    /// When it stops searching.
    pub limits: Limits,
}

impl Planner {
    /// A planner with the default policy.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a plan as of `now`.
    pub fn plan(&self, now: Timestamp, input: &PlanInput) -> PlanOutput {
        let start = now.floor_to(SLOT);
        let pue = build::pue(input, start, SLOTS, &self.policy);
        let outlook = Outlook::new(
            &input.site,
            &input.grid_history,
            pue,
            now,
            start,
            &self.policy,
        );
        let built = build::build(now, start, input, &outlook, &self.policy);
        let plan = solve::solve(&built.problem, self.limits);
        let faults = check::check(&built.problem, &plan);
        let slots = present::slots(&input.site, &built, &outlook, &plan, &self.policy);
        let price_of_energy = slots.first().map_or(0.0, |s| s.price_of_energy);
        let mut orders = Vec::new();
        let mut jobs = Vec::new();
        if faults.is_empty() {
            orders = orders_of(&built.problem, &plan);
            orders.extend(
                built
                    .impossible
                    .iter()
                    .map(|(job, _)| (job.clone(), JobOrder::Hold)),
            );
            orders.sort_by(|a, b| a.0.cmp(&b.0));
            jobs = present::jobs(input, &built, &outlook, &plan);
        } else {
            // Cannot happen unless the solver is wrong. Jobs keep their last orders.
            for fault in &faults {
                tracing::error!(%fault, "the checker refuses the plan; jobs keep their orders");
            }
        }
        PlanOutput {
            view: PlanView {
                issued: now,
                certificate: Certificate::new(plan.primal, plan.bound, hash(&built.problem)),
                jobs,
                slots,
                contracts: contract_view::contracts(&built, &plan),
            },
            orders,
            price_of_energy,
        }
    }
}

impl PlanService for Planner {
    fn replan(&mut self, now: Timestamp, input: PlanInput) -> PlanOutput {
        self.plan(now, &input)
    }
}

/// What each job is told for the first slot.
fn orders_of(problem: &Problem, plan: &Solution) -> Vec<(JobId, JobOrder)> {
    let order = |index: usize| {
        let job = &problem.jobs[index];
        // A job without work left is told to run, so that it can finish.
        if job.work == 0 || plan.schedules[index].level(0).is_some() {
            JobOrder::Run
        } else {
            JobOrder::Hold
        }
    };
    (0..problem.jobs.len())
        .map(|i| (problem.jobs[i].id.clone(), order(i)))
        .collect()
}

/// SHA-256 over the canonical form of a problem: JSON, fields in their
/// declared order, jobs by id.
pub fn hash(problem: &Problem) -> String {
    // Serialising plain structs into memory cannot fail; were it to, an empty
    // hash says that nothing is vouched for.
    let bytes = serde_json::to_vec(problem).unwrap_or_default();
    if bytes.is_empty() {
        return String::new();
    }
    Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
