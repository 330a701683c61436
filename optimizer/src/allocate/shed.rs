//! When the floors do not fit below the limits: which floors give way.
//!
//! By class: experiments first, then fine-tuning, training, inference; only
//! jobs with a device below a broken limit. Where even the lowest caps exceed
//! a limit, all devices below it stay at their lowest and the excess is told.

use super::model::Model;
use super::problem::{Allocation, Method, Problem, Shed};
use heliostat_models::{Certificate, JobClass, JobId, Watts};

/// The order in which floors give way.
const ORDER: [JobClass; 4] = [
    JobClass::Experiment,
    JobClass::FineTuning,
    JobClass::Training,
    JobClass::Inference,
];

/// The problem with floors dropped, and with hopeless limits lifted to what
/// the lowest caps draw; the allocation in the returned value is still empty.
pub(super) fn shed(problem: &Problem) -> (Problem, Shed) {
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
    let shed = Shed {
        allocation: Allocation {
            caps: Vec::new(),
            groups: Vec::new(),
            jobs: Vec::new(),
            node_prices: Vec::new(),
            capped: Vec::new(),
            certificate: Certificate::new(0.0, 0.0, String::new()),
            method: Method::Sweep,
        },
        dropped,
        beyond,
    };
    (relaxed, shed)
}

/// Drops the floors of one class below the deepest broken limits.
fn drop_floors(problem: &mut Problem, class: JobClass, dropped: &mut Vec<JobId>) {
    let model = Model::new(problem);
    let broken = model.conflict();
    for (group, gang) in problem.groups.iter_mut().zip(&model.groups) {
        let below = gang.rows.iter().any(|(v, _)| broken.contains(v));
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
    let model = Model::new(&lowest);
    let left = model.left(&model.floors());
    let mut beyond = Vec::new();
    for (place, left) in left.iter().enumerate() {
        if *left < -model.slack(place) {
            let node = &mut problem.nodes[place];
            beyond.push((node.id.clone(), Watts(-left)));
            node.limit += Watts(-left);
        }
    }
    beyond
}
