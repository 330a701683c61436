//! Prices by a first-order method, for problems too large for a solver of
//! linear programs: the primal-dual hybrid gradient with restarts.
//!
//! In every step each gang chooses what it takes at the prices of the limits
//! above it, drawn a little to what it took before; then each limit raises its
//! price where it was exceeded and lowers it where there was room. Each step is
//! gone twice as far as it leads and then drawn to where the steps began, the
//! less the more there were of them (the reflected Halpern iteration); they
//! begin anew where they have become clearly better (Applegate et al.,
//! "Practical large-scale linear programming using primal-dual hybrid
//! gradient", 2021; Lu and Yang, "Restarted Halpern PDHG for linear
//! programming", 2024; steps by Pock and Chambolle, 2011). The number of steps
//! is bounded by the work that they do, not by the clock, so that the same
//! problem gives the same bits.

use super::coupled::Best;
use super::matrix::Matrix;

/// Steps between two looks at how good it is.
const LOOK: usize = 20;
/// Entries and stretches handled at most, all steps together.
const EFFORT: usize = 120_000_000;
/// Steps at most.
const STEPS: usize = 6_000;
/// Looks between two choices that are pulled inside the limits, which costs as
/// much as many steps; every one is where the gap is nearly good.
const OFFER: usize = 10;
/// How many times the good gap that is.
const NEARLY: f64 = 1.5;
/// Where the best is near already, this part of the steps at most.
const NEAR: usize = 3;
/// What is this much better than the last start is a new start.
const MUCH: f64 = 0.2;
/// One this much better is, when it is no longer getting better.
const SOME: f64 = 0.8;

/// Both sides' choice.
#[derive(Clone)]
struct Point {
    /// What columns take.
    taken: Vec<f64>,
    /// What rows cost.
    prices: Vec<f64>,
    /// What columns take of each row.
    used: Vec<f64>,
}

impl Point {
    /// Goes twice as far as `next` and is then drawn to `start`, so that `keep` of it stays.
    fn reflect(&mut self, next: &Self, start: &Self, keep: f64) {
        let each = |at: &mut [f64], next: &[f64], start: &[f64]| {
            for ((at, next), start) in at.iter_mut().zip(next).zip(start) {
                *at = keep * (2.0 * next - *at) + (1.0 - keep) * start;
            }
        };
        each(&mut self.taken, &next.taken, &start.taken);
        each(&mut self.prices, &next.prices, &start.prices);
        each(&mut self.used, &next.used, &start.used);
    }
}

struct Steps<'a> {
    matrix: &'a Matrix,
    /// One by the sum of each column's shares.
    by_column: Vec<f64>,
    /// One by the sum of each row's shares.
    by_row: Vec<f64>,
    /// Price against power: how large a step of prices is beside one of watts.
    weight: f64,
    usage: Vec<f64>,
}

impl<'a> Steps<'a> {
    fn new(matrix: &'a Matrix, weight: f64) -> Self {
        let mut shares = vec![0.0; matrix.rows.len()];
        let by_column = (0..matrix.slots.len())
            .map(|column| {
                let mut sum = 0.0;
                for (row, share) in matrix.column(column) {
                    shares[*row as usize] += share;
                    sum += share;
                }
                1.0 / f64::max(sum, 1e-9)
            })
            .collect();
        Self {
            matrix,
            by_column,
            by_row: shares.iter().map(|s| 1.0 / s.max(1e-9)).collect(),
            weight,
            usage: vec![0.0; matrix.rows.len()],
        }
    }

    /// One step from `at`, which holds what it uses.
    fn step(&mut self, at: &mut Point) {
        let matrix = self.matrix;
        self.usage.fill(0.0);
        for column in 0..at.taken.len() {
            let cost = matrix.cost(column, &at.prices);
            let reach = self.by_column[column] / self.weight;
            let taken = choose(
                matrix.pieces(column),
                at.taken[column] - reach * cost,
                reach,
            );
            at.taken[column] = taken;
            for (row, share) in matrix.column(column) {
                self.usage[*row as usize] += share * taken;
            }
        }
        for (row, price) in at.prices.iter_mut().enumerate() {
            let ahead = 2.0 * self.usage[row] - at.used[row];
            let reach = self.by_row[row] * self.weight;
            *price = (*price + reach * (ahead - matrix.left[row])).max(0.0);
        }
        at.used.copy_from_slice(&self.usage);
    }
}

/// Watts at which the worth of a watt has fallen to what being drawn from
/// `drawn` makes of it.
fn choose(pieces: &[(f64, f64)], drawn: f64, reach: f64) -> f64 {
    let mut begin = 0.0;
    for (slope, width) in pieces {
        let wish = drawn + reach * slope;
        if wish <= begin {
            return begin;
        }
        if wish <= begin + width {
            return wish;
        }
        begin += width;
    }
    begin
}

/// Improves on the best known so far; never makes it worse. `weight` says that
/// the best is near, and with which price against power the steps to it ended.
/// Returns that of these steps.
pub(super) fn refine(
    matrix: &Matrix,
    order: &[(f64, u32, f64)],
    best: &mut Best,
    good: f64,
    weight: Option<f64>,
) -> Option<f64> {
    let (columns, rows) = (matrix.slots.len(), matrix.rows.len());
    if columns == 0 || rows == 0 {
        return None;
    }
    let typical = |values: &mut dyn Iterator<Item = f64>, count: usize| {
        (values.map(|v| v * v).sum::<f64>() / count.max(1) as f64).sqrt()
    };
    let worth = typical(&mut (0..columns).map(|c| matrix.pieces(c)[0].0), columns);
    let watts = typical(&mut matrix.most.iter().copied(), columns);
    let mut steps = Steps::new(matrix, weight.unwrap_or(worth / watts.max(1e-9)));
    let mut at = Point {
        taken: best.taken.clone(),
        prices: best.prices.clone(),
        used: usage(matrix, &best.taken),
    };
    let (mut start, mut next) = (at.clone(), at.clone());
    let (mut since, mut at_start, mut before) = (0usize, f64::INFINITY, f64::INFINITY);
    let part = if weight.is_some() { NEAR } else { 1 };
    let limit = STEPS.min(EFFORT / matrix.size().max(1)) / part;
    for round in 1..=limit / LOOK {
        for _ in 0..LOOK {
            next.clone_from(&at);
            steps.step(&mut next);
            since += 1;
            at.reflect(&next, &start, since as f64 / (since + 1) as f64);
        }
        let least = error(matrix, &next);
        best.offer_prices(matrix, &next.prices);
        if round % OFFER == 0 || least < NEARLY * good {
            best.offer(matrix, order, &next.taken, &next.prices);
            if best.gap() <= good {
                return Some(steps.weight);
            }
        }
        let anew = least <= MUCH * at_start
            || (least <= SOME * at_start && least > before)
            || since * 3 >= round * LOOK + 20 * LOOK;
        before = least;
        if anew {
            let moved = distance(&next.taken, &start.taken);
            let priced = distance(&next.prices, &start.prices);
            if moved > 1e-9 * watts && priced > 1e-12 * worth {
                let ratio = priced / moved;
                steps.weight = (0.5 * ratio.ln() + 0.5 * steps.weight.ln()).exp();
            }
            // Sums by difference lose a little with every step.
            next.used = usage(matrix, &next.taken);
            at.clone_from(&next);
            start.clone_from(&next);
            (since, at_start, before) = (0, least, f64::INFINITY);
        }
    }
    best.offer(matrix, order, &next.taken, &next.prices);
    Some(steps.weight)
}

fn usage(matrix: &Matrix, taken: &[f64]) -> Vec<f64> {
    let left = matrix.left_after(taken);
    (left.iter().zip(&matrix.left))
        .map(|(after, room)| room - after)
        .collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    (a.iter().zip(b))
        .map(|(a, b)| (a - b) * (a - b))
        .sum::<f64>()
        .sqrt()
}

/// How far from optimal a point is: its duality gap and what it breaks of the
/// limits, the latter at the prices of the most that a watt is worth.
fn error(matrix: &Matrix, at: &Point) -> f64 {
    let value = matrix.value(&at.taken);
    let bound = matrix.bound(&at.prices);
    let broken: f64 = (at.used.iter().zip(&matrix.left).zip(&at.prices))
        .map(|((used, left), price)| (used - left).max(0.0) * price)
        .sum();
    ((bound - value).abs() + broken) / bound.abs().max(1.0)
}
