//! A yardstick: allocation in three phases as nvPAX (arXiv 2605.01837) is
//! described, on an interior-point solver. It knows requests and priorities,
//! no speed curves: a request is the cap from which more power buys nothing.
//!
//! 1. A quadratic program: the least weighted squared shortfall of requests.
//! 2. A linear program: what is left, up to the requests.
//! 3. A linear program: what is still left, up to the highest caps.
//!
//! All keep every limit; the later phases take nothing away. Written by us from
//! the published description; its authors' own program may be faster.

use super::support::{limits_above, rooms};
use clarabel::algebra::CscMatrix;
use clarabel::solver::{
    DefaultSettings, DefaultSolver, IPSolver, NonnegativeConeT, SolverStatus, SupportedConeT,
};
use heliostat_models::Watts;
use heliostat_optimizer::allocate::Problem;
use std::time::Instant;

/// Watts in the unit that the solver sees.
const SCALE: f64 = 100.0;

/// One phase: least of `square · x²/2 + line · x` between two bounds.
struct Phase<'a> {
    /// Devices of each gang below each limit, by column.
    columns: &'a [Vec<(usize, f64)>],
    rooms: &'a [f64],
    square: Vec<f64>,
    line: Vec<f64>,
    low: Vec<f64>,
    high: Vec<f64>,
}

/// Caps by device, and milliseconds spent in the solver.
pub fn caps(problem: &Problem) -> Option<(Vec<Watts>, f64)> {
    let mut rooms: Vec<f64> = rooms(problem)
        .into_iter()
        .map(|room| room / SCALE)
        .collect();
    let mut caps: Vec<Watts> = problem.devices.iter().map(|d| d.min).collect();
    let mut held = vec![false; caps.len()];
    let mut columns = Vec::new();
    let (mut low, mut high, mut wanted, mut weight) = (vec![], vec![], vec![], vec![]);
    for group in &problem.groups {
        let mut below = std::collections::BTreeMap::new();
        let (mut min, mut max) = (0.0f64, f64::INFINITY);
        for device in &group.devices {
            held[*device] = true;
            min = min.max(problem.devices[*device].min.0 / SCALE);
            max = max.min(problem.devices[*device].max.0 / SCALE);
            for row in limits_above(problem, *device) {
                *below.entry(row).or_insert(0.0) += 1.0;
            }
        }
        let full = group.curve.points().last().map_or(0.0, |p| p.1);
        let from = group.curve.points().iter().find(|p| p.1 >= full);
        low.push(min);
        high.push(max);
        wanted.push(from.map_or(max, |p| p.0.0 / SCALE).clamp(min, max));
        weight.push(group.weight * group.devices.len() as f64);
        columns.push(below.into_iter().collect::<Vec<(usize, f64)>>());
    }
    for (device, _) in held.iter().enumerate().filter(|(_, held)| !**held) {
        for row in limits_above(problem, device) {
            rooms[row] -= problem.devices[device].min.0 / SCALE;
        }
    }
    let sizes: Vec<f64> = problem
        .groups
        .iter()
        .map(|g| -(g.devices.len() as f64))
        .collect();
    let nothing = vec![0.0; low.len()];
    let began = Instant::now();
    let phase = |square: Vec<f64>, line: Vec<f64>, low: Vec<f64>, high: Vec<f64>| Phase {
        columns: &columns,
        rooms: &rooms,
        square,
        line,
        low,
        high,
    };
    let pull = weight.iter().zip(&wanted).map(|(w, r)| -w * r).collect();
    let first = phase(weight, pull, low, high.clone()).solve()?;
    let at_most: Vec<f64> = first.iter().zip(&wanted).map(|(x, r)| x.max(*r)).collect();
    let second = phase(nothing.clone(), sizes.clone(), first, at_most).solve()?;
    let third = phase(nothing, sizes, second, high).solve()?;
    let milliseconds = began.elapsed().as_secs_f64() * 1e3;
    for (group, cap) in problem.groups.iter().zip(third) {
        for device in &group.devices {
            caps[*device] = Watts(cap * SCALE);
        }
    }
    Some((caps, milliseconds))
}

impl Phase<'_> {
    /// `None` when the solver gives up.
    fn solve(&self) -> Option<Vec<f64>> {
        let (count, limits) = (self.low.len(), self.rooms.len());
        let (mut starts, mut rows, mut values) = (vec![0], Vec::new(), Vec::new());
        for (column, below) in self.columns.iter().enumerate() {
            for (row, devices) in below {
                rows.push(*row);
                values.push(*devices);
            }
            rows.extend([limits + column, limits + count + column]);
            values.extend([1.0, -1.0]);
            starts.push(rows.len());
        }
        let height = limits + 2 * count;
        let matrix = CscMatrix::new(height, count, starts, rows, values);
        let mut right = self.rooms.to_vec();
        // What an earlier phase gave may miss its bounds by the solver's tolerance.
        right.extend(
            self.high
                .iter()
                .zip(&self.low)
                .map(|(high, low)| high.max(*low) + 1e-6),
        );
        right.extend(self.low.iter().map(|low| 1e-6 - low));
        let kept: Vec<usize> = (0..count).filter(|c| self.square[*c] > 0.0).collect();
        let square = if kept.is_empty() {
            CscMatrix::zeros((count, count))
        } else {
            let starts = (0..=count).collect();
            CscMatrix::new(
                count,
                count,
                starts,
                (0..count).collect(),
                self.square.clone(),
            )
        };
        let cones: [SupportedConeT<f64>; 1] = [NonnegativeConeT(height)];
        let settings = DefaultSettings {
            verbose: false,
            ..DefaultSettings::default()
        };
        let mut solver =
            DefaultSolver::new(&square, &self.line, &matrix, &right, &cones, settings).ok()?;
        solver.solve();
        let done = [SolverStatus::Solved, SolverStatus::AlmostSolved];
        done.contains(&solver.solution.status)
            .then(|| solver.solution.x.clone())
    }
}
