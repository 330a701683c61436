//! The certificate's two numbers, from the problem and nothing else: what an
//! allocation is worth, and what no allocation can beat.

use super::gang;
use super::problem::Problem;
use super::rows::{NONE, Rows};
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

/// The Lagrangian bound at prices π of the power nodes and, after them, the
/// contracts (those left out, and negative ones, count as zero):
///
/// ```text
/// D(π) = sum_j max_p [ w_j |G_j| f_j(p) - p sum_{i in G_j} (λ + sum_{v above i} π_v) ] + sum_v π_v (L_v - U_v)
/// ```
///
/// For any π >= 0 no allocation that keeps limits and floors is worth more.
pub fn dual_bound(problem: &Problem, prices: &[f64]) -> f64 {
    bound(problem, &Rows::new(problem), prices)
}

/// The same when it is known which limits stand above what.
pub(super) fn bound(problem: &Problem, rows: &Rows, prices: &[f64]) -> f64 {
    let price = |row: usize| prices.get(row).map_or(0.0, |p| p.max(0.0));
    let rooms =
        (problem.nodes.iter().map(|n| n.room())).chain(problem.contracts.iter().map(|c| c.room()));
    let mut total: f64 = rooms
        .enumerate()
        .map(|(row, room)| price(row) * room.0)
        .sum();
    // What a watt costs at each point.
    let mut costs = vec![f64::NAN; rows.points()];
    let mut cost = |device: usize| {
        let point = rows.point[device];
        let known = &mut costs[point as usize];
        if known.is_nan() {
            let above = rows.above(point).iter().map(|r| price(*r as usize));
            *known = problem.price_of_energy + above.sum::<f64>();
        }
        *known
    };
    let mut holder = vec![NONE; problem.devices.len()];
    let mut corners = Vec::new();
    for (place, group) in problem.groups.iter().enumerate() {
        let range = gang::range(problem, group);
        let mut each = 0.0;
        for device in &group.devices {
            holder[*device] = place as u32;
            if problem.devices[*device].fixed.is_none() {
                each += cost(*device);
            }
        }
        if range.count == 0.0 {
            total += range.base;
            continue;
        }
        let value = |cap: f64, speed: f64| range.worth * speed - each * cap;
        gang::corners(group, &range, &mut corners);
        let floor = value(range.floor, group.curve.speed(Watts(range.floor)));
        total += (corners.iter()).fold(floor, |best, (cap, speed)| best.max(value(*cap, *speed)));
    }
    for (place, device) in problem.devices.iter().enumerate() {
        let cap = match device.fixed {
            Some(fixed) => fixed,
            None if holder[place] == NONE => device.min,
            None => continue,
        };
        total -= cost(place) * cap.0;
    }
    total
}
