//! When the floors do not fit below the limits: which floors give way.
//!
//! By class: of the jobs below broken limits, inference keeps its floors as far
//! as limits allow, then training, then fine-tuning, then experiments. So a
//! floor is dropped only where it does not fit although every lower class is at
//! its lowest caps; and at the end none is dropped that would fit. Within a
//! class those come first that need least, so that most jobs keep theirs.
//! Where even the lowest caps exceed a limit, all devices below it stay at
//! their lowest and the excess is told.

use super::dense::Dense;
use super::levels::Levels;
use super::problem::{Outcome, Problem, Shed};
use super::{conflict, explain, finish};
use heliostat_models::{JobClass, Watts};

/// The order in which floors give way.
const ORDER: [JobClass; 4] = [
    JobClass::Experiment,
    JobClass::FineTuning,
    JobClass::Training,
    JobClass::Inference,
];

/// What to do where the floors do not fit below the limits in `conflict`.
pub(super) fn outcome(
    problem: &Problem,
    dense: &Dense,
    conflict: &[usize],
    hash: String,
) -> Outcome {
    let mut relaxed = problem.clone();
    let mut left = dense.left.clone();
    let beyond = lift_hopeless(&mut relaxed, dense, &mut left);
    let dropped = drop_floors(problem, dense, conflict, left);
    for (group, _) in &dropped {
        relaxed.groups[*group].floor_speed = 0.0;
    }
    let dense = Dense::new(&relaxed, dense.rows.clone());
    let mut levels = Levels::new(&dense);
    let solved = finish::solve(&dense, &mut levels);
    let mut shed = Shed {
        // The hash speaks of what came in, not of what was made of it.
        allocation: finish::finish(&relaxed, &dense, &solved, hash),
        dropped: (dropped.iter())
            .map(|(group, _)| problem.groups[*group].job.clone())
            .collect(),
        beyond,
    };
    explain::tell_what_was_shed(problem, &dropped, &mut shed);
    let conflict = (conflict.iter())
        .map(|row| problem.limit_name(*row).to_owned())
        .collect();
    Outcome::Infeasible { conflict, shed }
}

/// The floors that give way, by group, in the order of their classes, and the
/// limit that each would break, of several one in `conflict`. `left` is what each
/// limit leaves beside all floors, in units.
fn drop_floors(
    problem: &Problem,
    dense: &Dense,
    conflict: &[usize],
    mut left: Vec<f64>,
) -> Vec<(usize, usize)> {
    let is_broken: Vec<bool> = (left.iter().enumerate())
        .map(|(row, left)| *left < -dense.slack(row))
        .collect();
    let mut asked: Vec<(usize, f64, usize)> = Vec::new();
    for (place, group) in problem.groups.iter().enumerate() {
        let slot = dense.slot[place] as usize;
        let needs = conflict::can_give(dense, slot) * dense.range[slot].count;
        let below = || rows(dense, slot).any(|(row, _)| is_broken[row]);
        if needs > 0.0 && below() {
            let class = ORDER.iter().position(|c| *c == group.class).unwrap_or(0);
            asked.push((class, needs, place));
            take(dense, slot, -1.0, &mut left);
        }
    }
    asked.sort_by(|a, b| {
        (b.0.cmp(&a.0))
            .then(a.1.total_cmp(&b.1))
            .then(a.2.cmp(&b.2))
    });
    let mut dropped: Vec<(usize, usize, usize)> = Vec::new();
    for (class, _, place) in asked {
        let slot = dense.slot[place] as usize;
        take(dense, slot, 1.0, &mut left);
        let broken = (rows(dense, slot).map(|(row, _)| row))
            .filter(|row| left[*row] < 0.0)
            .min_by_key(|row| conflict.binary_search(row).is_err());
        if let Some(row) = broken {
            take(dense, slot, -1.0, &mut left);
            dropped.push((class, place, row));
        }
    }
    dropped.sort_unstable();
    (dropped.into_iter())
        .map(|(_, place, row)| (place, row))
        .collect()
}

/// The limits above a gang, once for each place where devices hang, and how many do.
fn rows(dense: &Dense, slot: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
    (dense.points_of(slot).iter()).flat_map(|(point, devices)| {
        let above = dense.rows.above(*point).iter();
        above.map(|row| (*row as usize, f64::from(*devices)))
    })
}

/// Takes what a gang's floor needs above its lowest cap, `sign` times.
fn take(dense: &Dense, slot: usize, sign: f64, left: &mut [f64]) {
    let each = sign * conflict::can_give(dense, slot);
    for (row, devices) in rows(dense, slot) {
        left[row] -= each * devices;
    }
}

/// Lifts each limit that even the lowest caps exceed to what those draw, in the
/// problem and in what is left; which, and by how much.
fn lift_hopeless(problem: &mut Problem, dense: &Dense, left: &mut [f64]) -> Vec<(String, Watts)> {
    let mut beyond = Vec::new();
    for (row, give) in conflict::can_give_below(dense).into_iter().enumerate() {
        let at_lowest = left[row] + give;
        if at_lowest >= -dense.slack(row) {
            continue;
        }
        left[row] -= at_lowest;
        let over = Watts(-at_lowest * dense.unit);
        beyond.push((problem.limit_name(row).to_owned(), over));
        let nodes = problem.nodes.len();
        match problem.nodes.get_mut(row) {
            Some(node) => node.limit += over,
            None => problem.contracts[row - nodes].limit += over,
        }
    }
    beyond
}
