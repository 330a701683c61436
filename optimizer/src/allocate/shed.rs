//! When the floors do not fit below the limits: which floors give way.
//!
//! By class: experiments first, then fine-tuning, training, inference; only
//! jobs with a device below a broken limit. Where even the lowest caps exceed
//! a limit, all devices below it stay at their lowest and the excess is told.

use super::model::Model;
use super::problem::{Allocation, Method, Problem, Shed};
use heliostat_models::{Certificate, JobClass, Watts};

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
    let mut dropped = Vec::new();
    for class in ORDER {
        let model = Model::new(&relaxed);
        let broken = model.conflict();
        if broken.is_empty() {
            break;
        }
        for (group, gang) in relaxed.groups.iter_mut().zip(&model.groups) {
            let below = gang.rows.iter().any(|(v, _)| broken.contains(v));
            if group.class == class && group.floor_speed > 0.0 && below {
                group.floor_speed = 0.0;
                dropped.push(group.job.clone());
            }
        }
    }
    let mut beyond = Vec::new();
    let model = Model::new(&relaxed);
    let left = model.left(&model.floors());
    for (place, left) in left.iter().enumerate() {
        if *left < -model.slack(place) {
            let node = &mut relaxed.nodes[place];
            beyond.push((node.id.clone(), Watts(-left)));
            node.limit += Watts(-left);
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
