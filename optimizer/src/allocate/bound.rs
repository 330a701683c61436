//! The certificate's two numbers, from the problem and nothing else: what an
//! allocation is worth, and what no allocation can beat.

use super::model::Model;
use super::problem::Problem;
use heliostat_models::Watts;

/// Objective of caps given per device. A gang runs at the pace of its
/// slowest device.
pub fn objective(problem: &Problem, caps: &[Watts]) -> f64 {
    let work: f64 = (problem.groups.iter())
        .filter(|g| !g.devices.is_empty())
        .map(|g| {
            let slowest = (g.devices.iter()).fold(f64::INFINITY, |low, d| low.min(caps[*d].0));
            g.weight * g.devices.len() as f64 * g.curve.speed(Watts(slowest))
        })
        .sum();
    let power: f64 = caps.iter().map(|c| c.0).sum();
    work - problem.price_of_energy * power
}

/// The Lagrangian bound at node prices π (negative ones count as zero):
///
/// ```text
/// D(π) = sum_j max_p [ w_j |G_j| f_j(p) - p sum_{i in G_j} (λ + sum_{v above i} π_v) ] + sum_v π_v (L_v - U_v)
/// ```
///
/// For any π >= 0 no allocation that keeps limits and floors is worth more.
pub fn dual_bound(problem: &Problem, prices: &[f64]) -> f64 {
    let prices: Vec<f64> = prices.iter().map(|p| p.max(0.0)).collect();
    Model::new(problem).bound(&prices)
}
