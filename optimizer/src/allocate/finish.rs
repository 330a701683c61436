//! From a problem in numbers to an allocation with its certificate.

use super::bound;
use super::coupled;
use super::dense::Dense;
use super::explain;
use super::gang;
use super::levels::Levels;
use super::problem::{Allocation, Method, Problem};
use heliostat_models::{Certificate, Watts};

/// What gangs take and what limits cost.
#[derive(Clone, Debug)]
pub(super) struct Solved {
    /// Units that each slot takes above its floor.
    pub taken: Vec<f64>,
    /// Price of each row.
    pub prices: Vec<f64>,
    /// Who found it.
    pub method: Method,
}

/// Solves a problem whose floors fit below every limit.
pub(super) fn solve(dense: &Dense, levels: &mut Levels) -> Solved {
    levels.solve(dense, None);
    let prices = levels.prices(dense);
    if fits(dense, &levels.taken) {
        return Solved {
            taken: levels.taken.clone(),
            prices,
            method: Method::Sweep,
        };
    }
    let (found, _) = coupled::solve(dense, &prices, None);
    Solved {
        taken: found.taken,
        prices: found.prices,
        method: found.method,
    }
}

/// Whether all limits are kept, also those that the sweep left out of account:
/// the ones that cut across, and those that split a gang.
pub(super) fn fits(dense: &Dense, taken: &[f64]) -> bool {
    if !dense.tangled() {
        return true;
    }
    let used = dense.used(taken);
    (used.iter().zip(&dense.left)).all(|(used, left)| *used <= left.max(0.0))
}

/// Rounds down, fills in every device, writes the certificate and the reasons.
pub(super) fn finish(
    problem: &Problem,
    dense: &Dense,
    solved: &Solved,
    hash: String,
) -> Allocation {
    let mut allocation = figures(problem, dense, solved, hash);
    allocation.jobs = explain::jobs(problem, dense, &allocation.groups, &solved.prices);
    allocation
}

/// The same without the reasons.
pub(super) fn figures(
    problem: &Problem,
    dense: &Dense,
    solved: &Solved,
    hash: String,
) -> Allocation {
    let mut caps: Vec<Watts> = (problem.devices.iter())
        .map(|d| d.fixed.unwrap_or(d.min))
        .collect();
    let mut group_caps = vec![0.0; problem.groups.len()];
    for (slot, taken) in solved.taken.iter().enumerate() {
        let range = &dense.range[slot];
        let cap = gang::round_down(dense.cap(slot, *taken), range.step);
        group_caps[dense.group[slot] as usize] = cap.clamp(range.floor, range.ceiling);
    }
    for (group, cap) in problem.groups.iter().zip(&group_caps) {
        for device in &group.devices {
            if problem.devices[*device].fixed.is_none() {
                caps[*device] = Watts(*cap);
            }
        }
    }
    let primal = bound::objective(problem, &caps);
    let dual = bound::bound(problem, &dense.rows, &solved.prices).max(primal);
    let mut drawn = vec![0.0; dense.rows.points()];
    for (point, cap) in dense.rows.point.iter().zip(&caps) {
        drawn[*point as usize] += cap.0;
    }
    let mut capped = vec![Watts::ZERO; problem.nodes.len()];
    for (point, drawn) in drawn.into_iter().enumerate().filter(|(_, d)| *d > 0.0) {
        for row in dense.rows.above(point as u32) {
            if let Some(sum) = capped.get_mut(*row as usize) {
                *sum += Watts(drawn);
            }
        }
    }
    let groups = explain::groups(problem, dense, &group_caps, &solved.prices);
    let (nodes, contracts) = solved.prices.split_at(problem.nodes.len());
    Allocation {
        caps,
        groups,
        jobs: Vec::new(),
        node_prices: nodes.to_vec(),
        contract_prices: contracts.to_vec(),
        capped,
        certificate: Certificate::new(primal, dual, hash),
        method: solved.method,
    }
}
