//! What a schedule costs and takes, for the solver. The checker has its own.

use super::problem::{Job, OVERLOAD, Problem, Schedule};

/// Cost of one schedule of a job, without overload.
pub fn of_schedule(problem: &Problem, job: &Job, schedule: &Schedule) -> f64 {
    let mut left = job.work;
    let mut running = job.running;
    let mut cost = 0.0;
    for (t, slot) in problem.slots.iter().enumerate() {
        if left == 0 {
            return cost;
        }
        cost += job.holding(t);
        match schedule.level(t) {
            Some(l) => {
                cost += running_cost(job, l, slot.cost);
                left = left.saturating_sub(job.levels[l].quanta);
                running = true;
            }
            None => {
                if running {
                    cost += job.pause;
                }
                running = false;
            }
        }
    }
    cost + job.left_over(left, problem.slots.len())
}

/// Cost of a slot in which a job runs at a level.
pub fn running_cost(job: &Job, level: usize, slot_cost: f64) -> f64 {
    let level = &job.levels[level];
    f64::from(job.gang) * (level.energy * slot_cost + level.slow)
}

/// What is taken of each slot: devices and watts.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Devices and watts by slot.
    pub taken: Vec<(u32, f64)>,
}

impl Usage {
    /// Nothing taken.
    pub fn new(slots: usize) -> Self {
        Self {
            taken: vec![(0, 0.0); slots],
        }
    }

    /// Adds a job's schedule.
    pub fn add(&mut self, problem: &Problem, job: &Job, schedule: &Schedule) {
        for (t, (taken, slot)) in self.taken.iter_mut().zip(&problem.slots).enumerate() {
            if let Some(l) = schedule.level(t) {
                taken.0 += job.gang;
                taken.1 += job.takes(l, slot);
            }
        }
    }

    /// Takes a job's schedule out again.
    pub fn remove(&mut self, problem: &Problem, job: &Job, schedule: &Schedule) {
        for (t, (taken, slot)) in self.taken.iter_mut().zip(&problem.slots).enumerate() {
            if let Some(l) = schedule.level(t) {
                taken.0 -= job.gang;
                taken.1 -= job.takes(l, slot);
            }
        }
    }

    /// Price of what a slot is taken beyond its limits.
    pub fn overload(&self, problem: &Problem, slot: usize) -> f64 {
        let (devices, watts) = self.taken[slot];
        excess(problem, slot, devices, watts)
    }
}

/// Watts by which sums may miss through rounding.
pub const POWER_SLACK: f64 = 1e-3;

/// Price of `devices` and `watts` in a slot beyond its limits.
pub fn excess(problem: &Problem, slot: usize, devices: u32, watts: f64) -> f64 {
    let devices = devices.saturating_sub(problem.devices);
    let watts = watts - problem.slots[slot].power.0;
    let watts = if watts > POWER_SLACK { watts } else { 0.0 };
    OVERLOAD * (f64::from(devices) + watts / 1_000.0)
}

/// Cost of a whole plan, overload included.
pub fn of_plan(problem: &Problem, schedules: &[Schedule]) -> f64 {
    let mut usage = Usage::new(problem.slots.len());
    let mut cost = 0.0;
    for (job, schedule) in problem.jobs.iter().zip(schedules) {
        usage.add(problem, job, schedule);
        cost += of_schedule(problem, job, schedule);
    }
    cost + (0..problem.slots.len())
        .map(|t| usage.overload(problem, t))
        .sum::<f64>()
}
