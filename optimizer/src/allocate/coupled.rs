//! When gangs or limits cut across one another: prices first, then, where the
//! problem is small enough for it, the linear program.

use super::dense::Dense;
use super::matrix::Matrix;
use super::problem::Method;
use super::{prices, program};

/// Relative gap that is good enough: below what rounding to milliwatts costs.
const GOOD: f64 = 4e-7;
/// The same where the linear program would take too long.
const GOOD_LARGE: f64 = 5e-5;
/// Entries and stretches from which it would.
const LARGE: usize = 12_000;

/// The best choice and the best prices found so far.
pub(super) struct Best {
    /// Watts that each column takes.
    pub taken: Vec<f64>,
    /// Price of each row.
    pub prices: Vec<f64>,
    primal: f64,
    bound: f64,
    /// Worth that is earned whatever is chosen, for the scale of the gap.
    base: f64,
}

impl Best {
    /// Keeps a choice, pulled inside and topped up, and prices where they are better.
    pub fn offer(
        &mut self,
        matrix: &Matrix,
        order: &[(f64, u32, f64)],
        taken: &[f64],
        prices: &[f64],
    ) {
        let mut taken = taken.to_vec();
        matrix.pull_inside(&mut taken);
        matrix.fill(order, &mut taken);
        let primal = matrix.value(&taken);
        if primal > self.primal {
            self.primal = primal;
            self.taken = taken;
        }
        self.offer_prices(matrix, prices);
    }

    /// Keeps prices where they prove more.
    pub fn offer_prices(&mut self, matrix: &Matrix, prices: &[f64]) {
        let bound = matrix.bound(prices);
        if bound < self.bound {
            self.bound = bound;
            self.prices = prices.to_vec();
        }
    }

    /// Relative gap.
    pub fn gap(&self) -> f64 {
        (self.bound - self.primal) / (self.primal + self.base).abs().max(1.0)
    }
}

/// What was found.
pub(super) struct Coupled {
    /// Units that each slot takes above its floor.
    pub taken: Vec<f64>,
    /// Price of each row of the problem.
    pub prices: Vec<f64>,
    /// Who found it.
    pub method: Method,
    /// Value of the objective.
    pub primal: f64,
    /// What no choice can beat.
    pub bound: f64,
}

/// Solves from prices of the problem's rows that are near.
pub(super) fn solve(dense: &Dense, near: &[f64]) -> Coupled {
    let matrix = Matrix::new(dense);
    let order = matrix.order();
    let mut taken = vec![0.0; matrix.slots.len()];
    let level = matrix.fill(&order, &mut taken);
    let mut best = Best {
        primal: matrix.value(&taken),
        taken,
        prices: vec![0.0; matrix.rows.len()],
        bound: f64::INFINITY,
        base: base(dense),
    };
    best.offer_prices(&matrix, &vec![0.0; matrix.rows.len()]);
    let near: Vec<f64> = matrix.rows.iter().map(|r| near[*r as usize]).collect();
    best.offer_prices(&matrix, &near);
    best.offer_prices(&matrix, &greedy_prices(dense, &matrix, &level));
    let large = matrix.size() > LARGE;
    let mut method = Method::Prices;
    let good = if large { GOOD_LARGE } else { GOOD };
    if best.gap() > good {
        prices::refine(&matrix, &order, &mut best, good);
    }
    if best.gap() > good && !large {
        method = Method::LinearProgram;
        program::refine(&matrix, &order, &mut best, good);
    }
    let mut all = vec![0.0; dense.group.len()];
    for (column, slot) in matrix.slots.iter().enumerate() {
        let count = dense.range[*slot as usize].count;
        let units = (best.taken[column] / dense.unit / count).floor().max(0.0);
        all[*slot as usize] = units * count;
    }
    let mut prices = vec![0.0; dense.rows.count];
    for (row, price) in matrix.rows.iter().zip(&best.prices) {
        prices[*row as usize] = *price;
    }
    Coupled {
        taken: all,
        prices,
        method,
        primal: best.base + best.primal,
        bound: best.base + best.bound,
    }
}

/// Worth of the floors, net of λ.
fn base(dense: &Dense) -> f64 {
    let floors = dense
        .range
        .iter()
        .map(|r| r.base - dense.price * r.floor * r.count);
    floors.sum::<f64>() - dense.price * dense.uncommanded()
}

/// Prices from the worth at which rows first refused in the order of worth: a
/// row's level less the prices of the rows above it.
fn greedy_prices(dense: &Dense, matrix: &Matrix, level: &[Option<f64>]) -> Vec<f64> {
    let mut place = vec![u32::MAX; dense.rows.count];
    for (at, row) in matrix.rows.iter().enumerate() {
        place[*row as usize] = at as u32;
    }
    let mut prices = vec![0.0f64; level.len()];
    // The widest rows first: what stands above a row covers more than it.
    let tree = &dense.rows.tree;
    for row in tree.row.iter().skip(1) {
        let at = place[*row as usize] as usize;
        let Some(Some(worth)) = level.get(at) else {
            continue;
        };
        let mut paid = 0.0;
        let mut up = tree.up[tree.place[*row as usize] as usize];
        while up != 0 {
            paid += prices
                .get(place[tree.row[up as usize] as usize] as usize)
                .copied()
                .unwrap_or(0.0);
            up = tree.up[up as usize];
        }
        prices[at] = (worth - paid).max(0.0);
    }
    prices
}
