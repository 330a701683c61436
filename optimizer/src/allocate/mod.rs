//! Caps at one instant: which job gets how many watts, with a proof that no
//! other choice does more.
//!
//! ```text
//! maximise   sum_j w_j |G_j| f_j(p_j)  -  λ sum_i p_i
//! subject to sum of p_i over the devices i below v  <=  L_v - U_v    for every power node v
//!            floor_j <= p_j <= M_j, all devices of a gang share p_j
//! ```
//!
//! `w` is the weight of a job's class, `|G|` its devices, `f` its relative
//! speed against the per-device cap, so the first sum counts weighted device
//! hours at full speed per hour. `λ`, the price of energy, is in the same work
//! per watt hour. Every number of work per watt in this module is in that unit.
//!
//! [`allocate`] gives marginal segments in descending worth until a power node
//! saturates ([`sweep`](self::sweep)). That is exact when no binding node
//! splits a gang. The dual bound says whether it was; if not, a linear program
//! with limits and cuts added lazily takes over ([`linear`](self::linear)).
//! Whatever solved it, the bound is evaluated from the node prices alone, so
//! the gap is honest.

mod bound;
mod canonical;
mod explain;
mod linear;
mod model;
mod problem;
mod shed;
mod sweep;

pub use bound::{dual_bound, objective};
pub use problem::{
    Allocation, DeviceSpec, Group, GroupCap, LimitNode, Method, Outcome, Problem, ProblemError,
    Shed,
};

use heliostat_models::{Certificate, Watts};
use model::Model;

/// Gaps below this share of the objective need no second solver.
const EXACT: f64 = 1e-9;

/// Allocates. Deterministic: the same problem gives the same bytes.
///
/// # Errors
/// When the problem contradicts itself: an index that points nowhere, a number
/// that is not finite, a device in two gangs, a gang with no common cap.
pub fn allocate(problem: &Problem) -> Result<Outcome, ProblemError> {
    problem.validate()?;
    let model = Model::new(problem);
    let conflict = model.conflict();
    if conflict.is_empty() {
        return Ok(Outcome::Allocated(solve(problem, &model)));
    }
    let names = |nodes: &[usize]| -> Vec<String> {
        nodes.iter().map(|v| problem.nodes[*v].id.clone()).collect()
    };
    let conflict = names(&conflict);
    let (relaxed, mut shed) = shed::shed(problem);
    let model = Model::new(&relaxed);
    shed.allocation = solve(&relaxed, &model);
    // The hash speaks of what came in, not of what was made of it.
    shed.allocation.certificate.inputs_hash = canonical::hash(problem);
    explain::tell_what_was_shed(problem, &mut shed);
    Ok(Outcome::Infeasible { conflict, shed })
}

/// Solves a problem whose floors fit below every limit.
fn solve(problem: &Problem, model: &Model) -> Allocation {
    let swept = sweep::sweep(model);
    let mut best = swept.caps;
    let mut prices = swept.prices;
    let mut method = Method::Sweep;
    let primal = model.value(&best);
    let bound = model.bound(&prices);
    if bound - primal > EXACT * primal.abs().max(1.0) {
        let refined = linear::refine(model, &best, &prices);
        method = Method::LinearProgram;
        best = refined.caps;
        prices = refined.prices;
    }
    finish(problem, model, &best, prices, method)
}

/// Rounds down, fills in every device and writes the certificate.
fn finish(
    problem: &Problem,
    model: &Model,
    group_caps: &[f64],
    prices: Vec<f64>,
    method: Method,
) -> Allocation {
    let mut caps: Vec<Watts> = (problem.devices.iter())
        .map(|d| d.fixed.unwrap_or(d.min))
        .collect();
    let rounded: Vec<f64> = (model.groups.iter().zip(group_caps))
        .map(|(g, p)| model::round_down(*p, problem.step.0).clamp(g.floor, g.ceiling))
        .collect();
    for (group, cap) in problem.groups.iter().zip(&rounded) {
        for device in &group.devices {
            if problem.devices[*device].fixed.is_none() {
                caps[*device] = Watts(*cap);
            }
        }
    }
    let primal = objective(problem, &caps);
    let dual = dual_bound(problem, &prices).max(primal);
    let certificate = Certificate::new(primal, dual, canonical::hash(problem));
    let capped = model.capped(&caps, problem);
    let groups = explain::groups(problem, model, &rounded, &prices);
    let jobs = explain::jobs(problem, model, &groups, &prices);
    Allocation {
        caps,
        groups,
        jobs,
        node_prices: prices,
        capped,
        certificate,
        method,
    }
}
