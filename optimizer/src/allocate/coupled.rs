//! When gangs or limits cut across one another: prices first, then, where the
//! problem is small enough for it, the linear program.
//!
//! Where the problem has changed a little, what was found before is where the
//! search begins ([`Before`]). Only that is taken over: value and bound are
//! those of the problem as it is now, and the gap that is asked for is the same.
//! So the answer may have other bits than one found afresh, but the same
//! problems one after the other have the same bits.

use super::dense::Dense;
use super::matrix::Matrix;
use super::problem::Method;
use super::{prices, program};

/// Relative gap that is good enough: below what rounding to milliwatts costs.
const GOOD: f64 = 4e-7;
/// The same where the linear program would take too long.
const GOOD_LARGE: f64 = 5e-5;
/// The same, where the answer to a problem that was a little other is at hand.
const GOOD_NEAR: f64 = 9e-5;
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

/// What was found for a problem that was a little other.
#[derive(Clone, Debug)]
pub(super) struct Before {
    /// Units that each slot took above its floor.
    taken: Vec<f64>,
    /// Price of each row of the problem.
    prices: Vec<f64>,
    /// Who found it.
    method: Method,
    /// Price against power in the steps of the first-order method.
    weight: Option<f64>,
}

/// Solves; `near` are prices of the problem's rows, of nested limits alone.
pub(super) fn solve(dense: &Dense, near: &[f64], before: Option<&Before>) -> (Coupled, Before) {
    let matrix = Matrix::new(dense);
    let order = matrix.order();
    let mut best = Best {
        taken: vec![0.0; matrix.slots.len()],
        prices: vec![0.0; matrix.rows.len()],
        primal: 0.0,
        bound: f64::INFINITY,
        base: base(dense),
    };
    let mut way = Way {
        large: matrix.size() > LARGE,
        method: Method::Prices,
        weight: None,
    };
    let there = before.is_some_and(|before| way.go_on(dense, &matrix, &order, &mut best, before));
    if !there {
        way.start(dense, &matrix, &order, &mut best, near);
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
    let found = Coupled {
        taken: all,
        prices,
        method: way.method,
        primal: best.base + best.primal,
        bound: best.base + best.bound,
    };
    let next = Before {
        taken: found.taken.clone(),
        prices: found.prices.clone(),
        method: found.method,
        weight: way.weight,
    };
    (found, next)
}

/// How the best is looked for.
struct Way {
    /// Whether the linear program would take too long.
    large: bool,
    /// Who found the best.
    method: Method,
    /// Where the steps of prices ended.
    weight: Option<f64>,
}

impl Way {
    /// The gap that is good enough.
    fn good(&self) -> f64 {
        if self.large { GOOD_LARGE } else { GOOD }
    }

    /// From nothing but the problem.
    fn start(
        &mut self,
        dense: &Dense,
        matrix: &Matrix,
        order: &[(f64, u32, f64)],
        best: &mut Best,
        near: &[f64],
    ) {
        let mut taken = vec![0.0; matrix.slots.len()];
        let level = matrix.fill(order, &mut taken);
        let primal = matrix.value(&taken);
        if primal > best.primal {
            (best.primal, best.taken) = (primal, taken);
        }
        best.offer_prices(matrix, &vec![0.0; matrix.rows.len()]);
        best.offer_prices(matrix, &of_rows(matrix, near));
        best.offer_prices(matrix, &greedy_prices(dense, matrix, &level));
        self.method = Method::Prices;
        let good = self.good();
        if best.gap() > good {
            let steps = prices::refine(matrix, order, best, good, None);
            self.weight = steps.or(self.weight);
        }
        if best.gap() > good && !self.large {
            self.method = Method::LinearProgram;
            program::refine(matrix, order, best, good);
        }
    }

    /// From what was found before, by the method that found it; whether that was enough.
    fn go_on(
        &mut self,
        dense: &Dense,
        matrix: &Matrix,
        order: &[(f64, u32, f64)],
        best: &mut Best,
        before: &Before,
    ) -> bool {
        let units = matrix.slots.iter().map(|s| before.taken[*s as usize]);
        let taken: Vec<f64> = units.map(|units| units * dense.unit).collect();
        best.offer(matrix, order, &taken, &of_rows(matrix, &before.prices));
        (self.method, self.weight) = (before.method, before.weight);
        let good = if self.large { GOOD_NEAR } else { GOOD };
        if best.gap() > good {
            if before.method == Method::LinearProgram && !self.large {
                program::refine(matrix, order, best, good);
            } else if let Some(weight) = before.weight {
                self.method = Method::Prices;
                let steps = prices::refine(matrix, order, best, good, Some(weight));
                self.weight = steps.or(self.weight);
            }
        }
        best.gap() <= good
    }
}

/// Prices of the problem's rows by the rows of a matrix.
fn of_rows(matrix: &Matrix, prices: &[f64]) -> Vec<f64> {
    matrix.rows.iter().map(|r| prices[*r as usize]).collect()
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
