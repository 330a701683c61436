//! Prices by a first-order method, for problems too large for a solver of
//! linear programs: the primal-dual hybrid gradient with restarts.
//!
//! In every step each gang chooses what it takes at the prices of the limits
//! above it, drawn a little to what it took before; then each limit raises its
//! price where it was exceeded and lowers it where there was room. Averages of
//! such steps converge to an optimum of both sides; starting anew from an
//! average when it has become clearly better makes that fast (Applegate et al.,
//! "Practical large-scale linear programming using primal-dual hybrid
//! gradient", 2021; steps by Pock and Chambolle, 2011). The number of steps is
//! bounded by the work that they do, not by the clock, so that the same
//! problem gives the same bits.

use super::coupled::Best;
use super::matrix::Matrix;

/// Steps between two looks at how good it is.
const LOOK: usize = 40;
/// Entries and stretches handled at most, all steps together.
const EFFORT: usize = 120_000_000;
/// Steps at most.
const STEPS: usize = 6_000;
/// An average this much better than the last start is a new start.
const MUCH: f64 = 0.2;
/// One this much better is, when it is no longer getting better.
const SOME: f64 = 0.8;

/// One side's choice: what columns take, what rows cost.
#[derive(Clone)]
struct Point {
    taken: Vec<f64>,
    prices: Vec<f64>,
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

impl Steps<'_> {
    /// One step from `at`; `usage` is kept between steps as what `at` uses.
    fn step(&mut self, at: &mut Point, used: &mut [f64]) {
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
            let ahead = 2.0 * self.usage[row] - used[row];
            let reach = self.by_row[row] * self.weight;
            *price = (*price + reach * (ahead - matrix.left[row])).max(0.0);
        }
        used.copy_from_slice(&self.usage);
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

/// Improves on the best known so far; never makes it worse.
pub(super) fn refine(matrix: &Matrix, order: &[(f64, u32, f64)], best: &mut Best, good: f64) {
    let (columns, rows) = (matrix.slots.len(), matrix.rows.len());
    if columns == 0 || rows == 0 {
        return;
    }
    let mut shares = vec![0.0; rows];
    let by_column = (0..columns)
        .map(|column| {
            let mut sum = 0.0;
            for (row, share) in matrix.column(column) {
                shares[*row as usize] += share;
                sum += share;
            }
            1.0 / f64::max(sum, 1e-9)
        })
        .collect();
    let by_row = shares.iter().map(|s| 1.0 / s.max(1e-9)).collect();
    let typical = |values: &mut dyn Iterator<Item = f64>, count: usize| {
        (values.map(|v| v * v).sum::<f64>() / count.max(1) as f64).sqrt()
    };
    let worth = typical(&mut (0..columns).map(|c| matrix.pieces(c)[0].0), columns);
    let watts = typical(&mut matrix.most.iter().copied(), columns);
    let mut steps = Steps {
        matrix,
        by_column,
        by_row,
        weight: worth / watts.max(1e-9),
        usage: vec![0.0; rows],
    };
    let mut at = Point {
        taken: best.taken.clone(),
        prices: best.prices.clone(),
    };
    let mut start = at.clone();
    let mut sum = Point {
        taken: vec![0.0; columns],
        prices: vec![0.0; rows],
    };
    let mut used = usage(matrix, &at.taken);
    let (mut since, mut at_start, mut before) = (0usize, f64::INFINITY, f64::INFINITY);
    let limit = STEPS.min(EFFORT / matrix.size().max(1));
    for round in 1..=limit / LOOK {
        for _ in 0..LOOK {
            steps.step(&mut at, &mut used);
            add(&mut sum, &at);
        }
        since += LOOK;
        let mean = mean(&sum, since as f64);
        let (error, mean_error) = (error(matrix, &at), error(matrix, &mean));
        let candidate = if error < mean_error { &at } else { &mean };
        let least = error.min(mean_error);
        best.offer_prices(matrix, &candidate.prices);
        if round % 5 == 0 || least < good {
            best.offer(matrix, order, &candidate.taken, &candidate.prices);
            if best.gap() <= good {
                return;
            }
        }
        let anew = least <= MUCH * at_start
            || (least <= SOME * at_start && least > before)
            || since * 3 >= round * LOOK + 20 * LOOK;
        before = least;
        if anew {
            at = candidate.clone();
            let moved = distance(&at.taken, &start.taken);
            let priced = distance(&at.prices, &start.prices);
            if moved > 1e-9 * watts && priced > 1e-12 * worth {
                let ratio = priced / moved;
                steps.weight = (0.5 * ratio.ln() + 0.5 * steps.weight.ln()).exp();
            }
            used = usage(matrix, &at.taken);
            start = at.clone();
            sum.taken.fill(0.0);
            sum.prices.fill(0.0);
            (since, at_start, before) = (0, least, f64::INFINITY);
        }
    }
    best.offer(matrix, order, &at.taken, &at.prices);
}

fn usage(matrix: &Matrix, taken: &[f64]) -> Vec<f64> {
    let left = matrix.left_after(taken);
    (left.iter().zip(&matrix.left))
        .map(|(after, room)| room - after)
        .collect()
}

fn add(sum: &mut Point, at: &Point) {
    for (sum, value) in sum.taken.iter_mut().zip(&at.taken) {
        *sum += value;
    }
    for (sum, value) in sum.prices.iter_mut().zip(&at.prices) {
        *sum += value;
    }
}

fn mean(sum: &Point, count: f64) -> Point {
    let by = |values: &[f64]| values.iter().map(|v| v / count).collect();
    Point {
        taken: by(&sum.taken),
        prices: by(&sum.prices),
    }
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
    let left = matrix.left_after(&at.taken);
    let broken: f64 = (left.iter().zip(&at.prices))
        .map(|(left, price)| (-left).max(0.0) * price)
        .sum();
    ((bound - value).abs() + broken) / bound.abs().max(1.0)
}
