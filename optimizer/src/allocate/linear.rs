//! The linear program, for gangs that binding power nodes split.
//!
//! One variable a gang for its cap, one for its work below the tangents of
//! its curve. Limits and tangents are added lazily: first the limits that
//! the sweep filled and the stretches next to where it stopped, then whatever
//! an answer breaks or leaves out. Each answer is pulled back inside every
//! limit, topped up by a sweep and judged by the full problem, so neither the
//! solver's tolerance nor stopping early can make the result infeasible or
//! the gap dishonest.

use super::model::Model;
use super::sweep::sweep_from;
use good_lp::solvers::clarabel::clarabel;
use good_lp::{
    DualValues, Expression, ProblemVariables, Solution, SolutionWithDual, SolverModel, variable,
};

/// Rounds of adding limits and tangents.
const ROUNDS: usize = 24;
/// Relative gap that is good enough: below what rounding to milliwatts costs.
const GOOD: f64 = 4e-7;
/// Stretches to each side of a cap that enter at first.
const NEIGHBOURS: usize = 3;

/// Caps of the gangs and prices of the nodes.
pub(super) struct Refined {
    pub caps: Vec<f64>,
    pub prices: Vec<f64>,
}

/// What stands in the linear program so far.
struct Restricted {
    /// Whether a node's limit is in it.
    limits: Vec<bool>,
    /// Which stretches of each gang are in it.
    tangents: Vec<Vec<bool>>,
}

/// Improves on a sweep's caps and prices; never returns anything worse.
pub(super) fn refine(model: &Model, caps: &[f64], prices: &[f64]) -> Refined {
    let mut best = Refined {
        caps: caps.to_vec(),
        prices: prices.to_vec(),
    };
    let (mut primal, mut bound) = (model.value(caps), model.bound(prices));
    let mut restricted = Restricted::around(model, caps);
    for _ in 0..ROUNDS {
        let Some(answer) = solve(model, &restricted) else {
            break;
        };
        let inside = pull_inside(model, &answer.caps);
        let topped = sweep_from(model, inside).caps;
        let value = model.value(&topped);
        if value > primal {
            primal = value;
            best.caps = topped;
        }
        let value = model.bound(&answer.prices);
        if value < bound {
            bound = value;
            best.prices = answer.prices;
        }
        let grown = restricted.grow(model, &answer.caps);
        if bound - primal <= GOOD * primal.abs().max(1.0) || !grown {
            break;
        }
    }
    best
}

impl Restricted {
    fn around(model: &Model, caps: &[f64]) -> Self {
        let mut restricted = Self {
            limits: vec![false; model.room.len()],
            tangents: (model.groups.iter())
                .map(|g| vec![false; g.pieces.len()])
                .collect(),
        };
        restricted.grow(model, caps);
        restricted
    }

    /// Adds broken or full limits and the stretches around `caps`; whether anything was new.
    fn grow(&mut self, model: &Model, caps: &[f64]) -> bool {
        let mut grown = false;
        for (node, left) in model.left(caps).into_iter().enumerate() {
            if left <= model.slack(node) && !self.limits[node] {
                self.limits[node] = true;
                grown = true;
            }
        }
        for ((gang, cap), tangents) in model.groups.iter().zip(caps).zip(&mut self.tangents) {
            let at = gang.pieces.partition_point(|p| p.to < *cap);
            let from = at.saturating_sub(NEIGHBOURS);
            let to = (at + NEIGHBOURS + 1).min(gang.pieces.len());
            for tangent in &mut tangents[from.min(to)..to] {
                grown |= !*tangent;
                *tangent = true;
            }
        }
        grown
    }
}

struct Answer {
    caps: Vec<f64>,
    prices: Vec<f64>,
}

/// Solves the restricted program; `None` when the solver gave up.
fn solve(model: &Model, restricted: &Restricted) -> Option<Answer> {
    let mut variables = ProblemVariables::new();
    let mut objective = Expression::default();
    // Caps run from 0 (floor) to 1 (ceiling) and work is divided by a common
    // scale, so that the solver's tolerances mean the same for every gang.
    let scale = (model.groups.iter())
        .flat_map(|g| g.pieces.first().map(|p| p.gain * (g.ceiling - g.floor)))
        .fold(0.0f64, f64::max);
    if scale <= 0.0 {
        return None;
    }
    let mut columns = Vec::with_capacity(model.groups.len());
    for gang in &model.groups {
        let width = gang.ceiling - gang.floor;
        if width <= 0.0 || gang.pieces.is_empty() {
            columns.push(None);
            continue;
        }
        let cap = variables.add(variable().min(0.0).max(1.0));
        let work = variables.add(variable());
        objective += work - cap * (model.price * gang.count * width / scale);
        columns.push(Some((cap, work, width)));
    }
    let mut program = variables.maximise(objective).using(clarabel);
    for ((gang, column), tangents) in (model.groups.iter().zip(&columns)).zip(&restricted.tangents)
    {
        let Some((cap, work, width)) = column else {
            continue;
        };
        let mut corner = gang.base;
        for (piece, wanted) in gang.pieces.iter().zip(tangents) {
            if *wanted {
                // work <= f(from) + slope (floor + width·x - from), less the base.
                let offset = (corner - gang.base + piece.gain * (gang.floor - piece.from)) / scale;
                program.add_constraint(
                    (Expression::from(*work) - *cap * (piece.gain * width / scale)).leq(offset),
                );
            }
            corner += piece.gain * (piece.to - piece.from);
        }
        // Work never exceeds that of the ceiling; keeps the program bounded.
        program.add_constraint(Expression::from(*work).leq((corner - gang.base) / scale));
    }
    let left = model.left(&model.floors());
    let mut rows = Vec::new();
    for node in (0..left.len()).filter(|v| restricted.limits[*v]) {
        let mut drawn = Expression::default();
        let mut largest = 0.0f64;
        for (gang, column) in model.groups.iter().zip(&columns) {
            if let (Some((cap, _, width)), Some((_, count))) =
                (column, gang.rows.iter().find(|(v, _)| *v == node))
            {
                largest = largest.max(count * width);
                drawn += *cap * (count * width);
            }
        }
        if largest > 0.0 {
            let room = left[node].max(0.0) / largest;
            let row = program.add_constraint((drawn * (1.0 / largest)).leq(room));
            rows.push((node, row, largest));
        }
    }
    let mut solution = program.solve().ok()?;
    let caps: Vec<f64> = (model.groups.iter().zip(&columns))
        .map(|(gang, column)| match column {
            Some((cap, _, width)) => gang.floor + width * solution.value(*cap).clamp(0.0, 1.0),
            None => gang.floor,
        })
        .collect();
    let mut prices = vec![0.0; left.len()];
    let dual = solution.compute_dual();
    for (node, row, largest) in rows {
        let price = dual.dual(row) * scale / largest;
        prices[node] = if price.is_finite() {
            price.max(0.0)
        } else {
            0.0
        };
    }
    caps.iter()
        .all(|c| c.is_finite())
        .then_some(Answer { caps, prices })
}

/// Lowers gangs below each broken limit, in proportion to what they have above
/// their floors, until it is kept.
fn pull_inside(model: &Model, caps: &[f64]) -> Vec<f64> {
    let mut caps: Vec<f64> = (model.groups.iter().zip(caps))
        .map(|(g, p)| p.clamp(g.floor, g.ceiling))
        .collect();
    for node in 0..model.room.len() {
        let below = || {
            (model.groups.iter().enumerate()).filter_map(|(j, g)| {
                g.rows
                    .iter()
                    .find(|(v, _)| *v == node)
                    .map(|(_, n)| (j, *n))
            })
        };
        let drawn: f64 = below().map(|(j, n)| n * caps[j]).sum();
        let over = drawn - model.room[node];
        if over <= 0.0 {
            continue;
        }
        let above_floors: f64 = below()
            .map(|(j, n)| n * (caps[j] - model.groups[j].floor))
            .sum();
        if above_floors <= 0.0 {
            continue;
        }
        let keep = (1.0 - over / above_floors).max(0.0);
        for (j, _) in below() {
            let floor = model.groups[j].floor;
            caps[j] = floor + (caps[j] - floor) * keep;
        }
    }
    caps
}
