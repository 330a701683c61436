//! When the floors do not fit below the limits: which floors give way.
//!
//! By class: experiments first, then fine-tuning, training, inference; only
//! jobs with a device below a broken limit. Where even the lowest caps exceed
//! a limit, all devices below it stay at their lowest and the excess is told.

use super::dense::Dense;
use super::levels::Levels;
use super::problem::{Outcome, Problem, Shed};
use super::rows::Rows;
use super::{conflict, explain, finish};
use heliostat_models::{JobClass, JobId, Watts};

/// The order in which floors give way.
const ORDER: [JobClass; 4] = [
    JobClass::Experiment,
    JobClass::FineTuning,
    JobClass::Training,
    JobClass::Inference,
];

/// What to do where the floors do not fit below the limits in `conflict`.
pub(super) fn outcome(problem: &Problem, conflict: &[usize], hash: String) -> Outcome {
    let conflict = (conflict.iter())
        .map(|row| problem.limit_name(*row).to_owned())
        .collect();
    let mut relaxed = problem.clone();
    let beyond = lift_hopeless(&mut relaxed);
    let mut dropped = Vec::new();
    loop {
        let before = dropped.len();
        for class in ORDER {
            drop_floors(&mut relaxed, class, &mut dropped);
        }
        // A pass that drops nothing has nothing left to mend.
        if dropped.len() == before {
            break;
        }
    }
    let dense = Dense::new(&relaxed, Rows::new(&relaxed));
    let mut levels = Levels::new(&dense);
    let solved = finish::solve(&dense, &mut levels);
    let mut shed = Shed {
        // The hash speaks of what came in, not of what was made of it.
        allocation: finish::finish(&relaxed, &dense, &solved, hash),
        dropped,
        beyond,
    };
    explain::tell_what_was_shed(problem, &mut shed);
    Outcome::Infeasible { conflict, shed }
}

/// Drops the floors of one class below broken limits.
fn drop_floors(problem: &mut Problem, class: JobClass, dropped: &mut Vec<JobId>) {
    let dense = Dense::new(problem, Rows::new(problem));
    let broken = conflict::smallest(&dense);
    if broken.is_empty() {
        return;
    }
    let mut is_broken = vec![false; dense.rows.count];
    for row in broken {
        is_broken[row] = true;
    }
    for (place, group) in problem.groups.iter_mut().enumerate() {
        let slot = dense.slot[place] as usize;
        let below = (dense.points_of(slot).iter()).any(|(point, _)| {
            dense
                .rows
                .above(*point)
                .iter()
                .any(|r| is_broken[*r as usize])
        });
        if group.class == class && group.floor_speed > 0.0 && below {
            group.floor_speed = 0.0;
            dropped.push(group.job.clone());
        }
    }
}

/// Lifts each limit that even the lowest caps exceed to what those draw; which, and by how much.
fn lift_hopeless(problem: &mut Problem) -> Vec<(String, Watts)> {
    let mut lowest = problem.clone();
    for group in &mut lowest.groups {
        group.floor_speed = 0.0;
    }
    let dense = Dense::new(&lowest, Rows::new(&lowest));
    let mut beyond = Vec::new();
    for row in 0..dense.rows.count {
        let left = dense.left[row];
        if left < -dense.slack(row) {
            let over = Watts(-left * dense.unit);
            beyond.push((problem.limit_name(row).to_owned(), over));
            let nodes = problem.nodes.len();
            match problem.nodes.get_mut(row) {
                Some(node) => node.limit += over,
                None => problem.contracts[row - nodes].limit += over,
            }
        }
    }
    beyond
}
