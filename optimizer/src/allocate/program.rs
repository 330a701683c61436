//! The linear program, for gangs and limits that cut across one another.
//!
//! One variable a gang for what it takes, one for its work below the tangents
//! of its curve. Limits and tangents are added lazily: first the limits that
//! are full and the stretches next to where a first answer stopped, then
//! whatever an answer breaks or leaves out. Each answer is pulled back inside
//! every limit, topped up in order of worth and judged by the full problem, so
//! neither the solver's tolerance nor stopping early can make the result
//! infeasible or the gap dishonest.

use super::coupled::Best;
use super::matrix::Matrix;
use good_lp::solvers::clarabel::clarabel;
use good_lp::{
    DualValues, Expression, ProblemVariables, Solution, SolutionWithDual, SolverModel, Variable,
    variable,
};

/// Rounds of adding limits and tangents.
const ROUNDS: usize = 24;
/// Stretches to each side of what a gang takes that enter at first.
const NEIGHBOURS: usize = 3;
/// Share of a limit below which what is left of it counts as nothing.
const FULL: f64 = 1e-9;

/// What stands in the linear program so far.
struct Restricted {
    /// Whether a row is in it.
    limits: Vec<bool>,
    /// Which stretches of each column are in it.
    tangents: Vec<Vec<bool>>,
}

/// Improves on the best known so far; never makes it worse.
pub(super) fn refine(matrix: &Matrix, order: &[(f64, u32, f64)], best: &mut Best, good: f64) {
    let mut restricted = Restricted::around(matrix, &best.taken);
    for _ in 0..ROUNDS {
        let Some(answer) = solve(matrix, &restricted) else {
            break;
        };
        best.offer(matrix, order, &answer.taken, &answer.prices);
        let grown = restricted.grow(matrix, &answer.taken);
        if best.gap() <= good || !grown {
            break;
        }
    }
}

impl Restricted {
    fn around(matrix: &Matrix, taken: &[f64]) -> Self {
        let mut restricted = Self {
            limits: vec![false; matrix.rows.len()],
            tangents: (0..matrix.slots.len())
                .map(|column| vec![false; matrix.pieces(column).len()])
                .collect(),
        };
        restricted.grow(matrix, taken);
        restricted
    }

    /// Adds broken or full limits and the stretches around `taken`; whether anything was new.
    fn grow(&mut self, matrix: &Matrix, taken: &[f64]) -> bool {
        let mut grown = false;
        for (row, left) in matrix.left_after(taken).into_iter().enumerate() {
            if left <= FULL * matrix.left[row].max(1.0) && !self.limits[row] {
                self.limits[row] = true;
                grown = true;
            }
        }
        for (column, tangents) in self.tangents.iter_mut().enumerate() {
            let mut begin = 0.0;
            let at = (matrix.pieces(column).iter())
                .take_while(|(_, width)| {
                    begin += width;
                    begin < taken[column]
                })
                .count();
            let from = at.saturating_sub(NEIGHBOURS);
            let to = (at + NEIGHBOURS + 1).min(tangents.len());
            for tangent in &mut tangents[from.min(to)..to] {
                grown |= !*tangent;
                *tangent = true;
            }
        }
        grown
    }
}

struct Answer {
    taken: Vec<f64>,
    prices: Vec<f64>,
}

/// Solves the restricted program; `None` when the solver gave up.
fn solve(matrix: &Matrix, restricted: &Restricted) -> Option<Answer> {
    let mut variables = ProblemVariables::new();
    let mut objective = Expression::default();
    // What is taken runs from 0 to 1 and work is divided by a common scale, so
    // that the solver's tolerances mean the same for every gang.
    let scale = (0..matrix.slots.len())
        .map(|column| matrix.pieces(column)[0].0 * matrix.most[column])
        .fold(0.0f64, f64::max);
    if scale <= 0.0 {
        return None;
    }
    let mut columns: Vec<(Variable, Variable)> = Vec::with_capacity(matrix.slots.len());
    for _ in 0..matrix.slots.len() {
        let share = variables.add(variable().min(0.0).max(1.0));
        let work = variables.add(variable());
        objective += work;
        columns.push((share, work));
    }
    let mut program = variables.maximise(objective).using(clarabel);
    for (column, (share, work)) in columns.iter().enumerate() {
        let (mut corner, mut begin) = (0.0, 0.0);
        for ((slope, width), wanted) in matrix
            .pieces(column)
            .iter()
            .zip(&restricted.tangents[column])
        {
            if *wanted {
                let offset = (corner - slope * begin) / scale;
                let rise = slope * matrix.most[column] / scale;
                program.add_constraint((Expression::from(*work) - *share * rise).leq(offset));
            }
            corner += slope * width;
            begin += width;
        }
        // Work never exceeds that at the ceiling; keeps the program bounded.
        program.add_constraint(Expression::from(*work).leq(corner / scale));
    }
    let mut drawn: Vec<Vec<(Variable, f64)>> = vec![Vec::new(); matrix.rows.len()];
    for (column, (share, _)) in columns.iter().enumerate() {
        for (row, part) in matrix.column(column) {
            if restricted.limits[*row as usize] {
                drawn[*row as usize].push((*share, part * matrix.most[column]));
            }
        }
    }
    let mut rows = Vec::new();
    for (row, drawn) in drawn.into_iter().enumerate() {
        let largest = drawn.iter().map(|(_, watts)| *watts).fold(0.0, f64::max);
        if largest > 0.0 {
            let sum: Expression = drawn
                .into_iter()
                .map(|(v, watts)| v * (watts / largest))
                .sum();
            let row_of = program.add_constraint(sum.leq(matrix.left[row] / largest));
            rows.push((row, row_of, largest));
        }
    }
    let mut solution = program.solve().ok()?;
    let taken: Vec<f64> = (columns.iter().zip(&matrix.most))
        .map(|((share, _), most)| most * solution.value(*share).clamp(0.0, 1.0))
        .collect();
    let mut prices = vec![0.0; matrix.rows.len()];
    let dual = solution.compute_dual();
    for (row, row_of, largest) in rows {
        let price = dual.dual(row_of) * scale / largest;
        prices[row] = if price.is_finite() {
            price.max(0.0)
        } else {
            0.0
        };
    }
    (taken.iter().all(|t| t.is_finite())).then_some(Answer { taken, prices })
}
