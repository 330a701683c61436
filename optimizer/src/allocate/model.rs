//! The problem in the form the solvers work on: one variable a gang (the cap
//! of each of its devices), and for each power node how many of the gang's
//! devices stand below it.

use super::problem::Problem;
use heliostat_models::Watts;

/// Relative room for the rounding of sums of watts.
pub(super) const SLACK: f64 = 1e-9;

/// A stretch of a gang's curve with one slope.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    /// Cap where it begins.
    pub from: f64,
    /// Cap where it ends.
    pub to: f64,
    /// Weighted work gained by the gang per watt of cap on each device.
    pub gain: f64,
}

/// A gang.
#[derive(Clone, Debug)]
pub(super) struct GangModel {
    /// Devices that can be commanded.
    pub count: f64,
    /// Lowest cap that keeps the floor.
    pub floor: f64,
    /// Highest cap.
    pub ceiling: f64,
    /// Weighted work at the floor.
    pub base: f64,
    /// From floor to ceiling, by falling gain; stretches that gain nothing left out.
    pub pieces: Vec<Piece>,
    /// Power nodes above, and how many of its devices stand below each.
    pub rows: Vec<(usize, f64)>,
}

impl GangModel {
    /// Weighted work at a cap between floor and ceiling.
    pub fn work(&self, cap: f64) -> f64 {
        let mut work = self.base;
        for piece in &self.pieces {
            if cap <= piece.from {
                break;
            }
            work += piece.gain * (cap.min(piece.to) - piece.from);
        }
        work
    }
}

/// The whole.
#[derive(Clone, Debug)]
pub(super) struct Model {
    /// In the order of the problem's groups.
    pub groups: Vec<GangModel>,
    /// Watts left at each node for gangs: limit and spare less uncontrolled less devices in no gang.
    pub room: Vec<f64>,
    /// Each node and all above it.
    pub above: Vec<Vec<usize>>,
    /// λ.
    pub price: f64,
    /// What devices outside the gangs cost in the objective.
    pub constant: f64,
    /// Limits, for tolerances.
    limits: Vec<f64>,
}

/// Rounds down to a multiple of `step`; what is a multiple already stays.
pub(super) fn round_down(value: f64, step: f64) -> f64 {
    if step > 0.0 {
        multiple((value / step + 1e-7).floor(), step)
    } else {
        value
    }
}

fn round_up(value: f64, step: f64) -> f64 {
    if step > 0.0 {
        multiple((value / step - 1e-7).ceil(), step)
    } else {
        value
    }
}

/// `count` steps. Where a step is a whole part of one, by division: 200,100
/// milliwatts are then the same number that a driver's reading becomes.
fn multiple(count: f64, step: f64) -> f64 {
    let parts = (1.0 / step).round();
    if (parts * step - 1.0).abs() < 1e-12 {
        count / parts
    } else {
        count * step
    }
}

impl Model {
    /// Of a valid problem.
    pub fn new(problem: &Problem) -> Self {
        let above = above(problem);
        let mut in_gang = vec![false; problem.devices.len()];
        for group in &problem.groups {
            for device in &group.devices {
                in_gang[*device] = problem.devices[*device].fixed.is_none();
            }
        }
        let mut room: Vec<f64> = (problem.nodes.iter())
            .map(|n| n.limit.0 + n.spare.0 - n.uncontrolled.0)
            .collect();
        let mut constant = 0.0;
        for (device, _) in problem.devices.iter().zip(&in_gang).filter(|(_, g)| !**g) {
            let cap = device.fixed.unwrap_or(device.min).0;
            constant -= problem.price_of_energy * cap;
            for node in &above[device.node] {
                room[*node] -= cap;
            }
        }
        let groups = (problem.groups.iter())
            .map(|g| gang(problem, g, &above))
            .collect();
        Self {
            groups,
            room,
            above,
            price: problem.price_of_energy,
            constant,
            limits: problem.nodes.iter().map(|n| n.limit.0).collect(),
        }
    }

    /// Watts below which room at a node counts as none.
    pub fn slack(&self, node: usize) -> f64 {
        SLACK * self.limits[node].max(1.0)
    }

    /// Room at each node once every gang has `caps`.
    pub fn left(&self, caps: &[f64]) -> Vec<f64> {
        let mut left = self.room.clone();
        for (group, cap) in self.groups.iter().zip(caps) {
            for (node, count) in &group.rows {
                left[*node] -= count * cap;
            }
        }
        left
    }

    /// The floors.
    pub fn floors(&self) -> Vec<f64> {
        self.groups.iter().map(|g| g.floor).collect()
    }

    /// The deepest nodes that the floors exceed; empty when the floors fit.
    pub fn conflict(&self) -> Vec<usize> {
        let left = self.left(&self.floors());
        let broken: Vec<bool> = (left.iter().enumerate())
            .map(|(v, r)| *r < -self.slack(v))
            .collect();
        let mut deepest = broken.clone();
        for node in (0..broken.len()).filter(|v| broken[*v]) {
            for up in self.above[node].iter().filter(|u| **u != node) {
                deepest[*up] = false;
            }
        }
        (0..deepest.len()).filter(|v| deepest[*v]).collect()
    }

    /// Objective at exact gang caps.
    pub fn value(&self, caps: &[f64]) -> f64 {
        let gangs: f64 = (self.groups.iter().zip(caps))
            .map(|(g, p)| g.work(*p) - self.price * g.count * p)
            .sum();
        gangs + self.constant
    }

    /// Dual bound at node prices that are not negative.
    pub fn bound(&self, prices: &[f64]) -> f64 {
        let rent: f64 = prices.iter().zip(&self.room).map(|(p, r)| p * r).sum();
        let gangs: f64 = (self.groups.iter())
            .map(|g| {
                let cost = self.cost(g, prices);
                let best: f64 = (g.pieces.iter())
                    .map(|s| (s.gain - cost).max(0.0) * (s.to - s.from))
                    .sum();
                g.base - cost * g.floor + best
            })
            .sum();
        gangs + rent + self.constant
    }

    /// What a watt of cap on each device of a gang costs.
    pub fn cost(&self, gang: &GangModel, prices: &[f64]) -> f64 {
        let nodes: f64 = gang.rows.iter().map(|(v, n)| n * prices[*v]).sum();
        self.price * gang.count + nodes
    }

    /// Sum of the caps below each node.
    pub fn capped(&self, caps: &[Watts], problem: &Problem) -> Vec<Watts> {
        let mut sums = vec![Watts::ZERO; self.room.len()];
        for (device, cap) in problem.devices.iter().zip(caps) {
            for node in &self.above[device.node] {
                sums[*node] += *cap;
            }
        }
        sums
    }
}

fn above(problem: &Problem) -> Vec<Vec<usize>> {
    let mut above: Vec<Vec<usize>> = Vec::with_capacity(problem.nodes.len());
    for (place, node) in problem.nodes.iter().enumerate() {
        let mut path = vec![place];
        for parent in &node.parents {
            for up in &above[*parent] {
                if !path.contains(up) {
                    path.push(*up);
                }
            }
        }
        above.push(path);
    }
    above
}

fn gang(problem: &Problem, group: &super::problem::Group, above: &[Vec<usize>]) -> GangModel {
    let (mut low, mut high) = (0.0f64, f64::INFINITY);
    let mut slowest = f64::INFINITY;
    let mut count = 0.0;
    let mut rows: Vec<(usize, f64)> = Vec::new();
    for device in group.devices.iter().map(|d| &problem.devices[*d]) {
        if let Some(fixed) = device.fixed {
            // The gang runs at the pace of its slowest member.
            slowest = slowest.min(fixed.0);
            continue;
        }
        count += 1.0;
        low = low.max(device.min.0);
        high = high.min(device.max.0);
        for node in &above[device.node] {
            match rows.iter_mut().find(|(v, _)| v == node) {
                Some((_, n)) => *n += 1.0,
                None => rows.push((*node, 1.0)),
            }
        }
    }
    rows.sort_unstable_by_key(|(v, _)| *v);
    if count == 0.0 {
        let cap = if slowest.is_finite() { slowest } else { 0.0 };
        let base = group.weight * group.devices.len() as f64 * group.curve.speed(Watts(cap));
        return GangModel {
            count,
            floor: cap,
            ceiling: cap,
            base,
            pieces: Vec::new(),
            rows,
        };
    }
    let step = problem.step.0;
    let low = round_up(low, step).min(high);
    let ceiling = round_down(high.min(slowest.max(low)), step).max(low);
    let floor = round_up(floor_cap(group), step).clamp(low, ceiling);
    let worth = group.weight * group.devices.len() as f64;
    let pieces = (group.curve.segments(Watts(floor), Watts(ceiling)))
        .map(|s| Piece {
            from: s.from.0,
            to: s.to.0,
            gain: worth * s.slope,
        })
        .collect();
    GangModel {
        count,
        floor,
        ceiling,
        base: worth * group.curve.speed(Watts(floor)),
        pieces,
        rows,
    }
}

/// Smallest cap at which the curve reaches the floor speed; infinite when it never does.
fn floor_cap(group: &super::problem::Group) -> f64 {
    let points = group.curve.points();
    if points[0].1 >= group.floor_speed {
        return 0.0;
    }
    for pair in points.windows(2) {
        let ((w0, s0), (w1, s1)) = (pair[0], pair[1]);
        if s1 >= group.floor_speed {
            return w0.0 + (w1 - w0).0 * (group.floor_speed - s0) / (s1 - s0);
        }
    }
    f64::INFINITY
}
