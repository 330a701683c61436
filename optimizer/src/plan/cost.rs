//! What a schedule costs and takes, for the solver. The checker has its own.

use super::contracts::{Below, Entry, Rules};
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

/// What is taken of each slot: devices, watts, and what stands below contracts.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Devices and watts by slot.
    pub taken: Vec<(u32, f64)>,
    /// The same of jobs that could stand still.
    yielding: Vec<(u32, f64)>,
    /// By contract and slot.
    below: Vec<Vec<Below>>,
}

impl Usage {
    /// Nothing taken.
    pub fn new(problem: &Problem) -> Self {
        let slots = problem.slots.len();
        Self {
            taken: vec![(0, 0.0); slots],
            yielding: vec![(0, 0.0); slots],
            below: vec![vec![Below::default(); slots]; problem.contracts.len()],
        }
    }

    /// Adds a job's schedule.
    pub fn add(&mut self, problem: &Problem, rules: &Rules, job: usize, schedule: &Schedule) {
        let the_job = &problem.jobs[job];
        for (t, (taken, slot)) in self.taken.iter_mut().zip(&problem.slots).enumerate() {
            if let Some(l) = schedule.level(t) {
                taken.0 += the_job.gang;
                taken.1 += the_job.takes(l, slot);
                if !the_job.pinned() {
                    self.yielding[t].0 += the_job.gang;
                    self.yielding[t].1 += the_job.takes(l, slot);
                }
            }
        }
        self.each_below(problem, rules, job, schedule, Below::put);
    }

    /// Takes a job's schedule out again.
    pub fn remove(&mut self, problem: &Problem, rules: &Rules, job: usize, schedule: &Schedule) {
        let the_job = &problem.jobs[job];
        for (t, (taken, slot)) in self.taken.iter_mut().zip(&problem.slots).enumerate() {
            if let Some(l) = schedule.level(t) {
                taken.0 -= the_job.gang;
                taken.1 -= the_job.takes(l, slot);
                if !the_job.pinned() {
                    self.yielding[t].0 -= the_job.gang;
                    self.yielding[t].1 -= the_job.takes(l, slot);
                }
            }
        }
        self.each_below(problem, rules, job, schedule, Below::take);
    }

    /// Overload that one more job adds in a slot at a level, contracts apart; of one
    /// that must go on infinite where others could make room for it.
    pub fn added(&self, problem: &Problem, job: &Job, slot: usize, level: usize) -> f64 {
        let (devices, watts) = self.taken[slot];
        let (with_devices, with_watts) = (
            devices + job.gang,
            watts + job.takes(level, &problem.slots[slot]),
        );
        let (yield_devices, yield_watts) = self.yielding[slot];
        let in_the_way = with_devices > problem.devices && yield_devices > 0
            || with_watts > problem.slots[slot].power.0 + POWER_SLACK && yield_watts > POWER_SLACK;
        if job.pinned() && in_the_way {
            return f64::INFINITY;
        }
        excess(problem, slot, with_devices, with_watts) - excess(problem, slot, devices, watts)
    }

    fn each_below(
        &mut self,
        problem: &Problem,
        rules: &Rules,
        job: usize,
        schedule: &Schedule,
        change: impl Fn(&mut Below, Entry),
    ) {
        let stays = problem.jobs[job].stays(schedule);
        for (c, slots) in self.below.iter_mut().enumerate() {
            for (t, below) in slots.iter_mut().enumerate() {
                if let Some(l) = schedule.level(t) {
                    change(below, rules.entry(problem, (c, t), job, l, t < stays));
                }
            }
        }
    }

    /// Whether every contract bears one more job in a slot, or does not feel it.
    pub fn contracts_bear(
        &self,
        problem: &Problem,
        rules: &Rules,
        slot: usize,
        more: impl Fn(usize) -> Entry,
    ) -> bool {
        self.below.iter().enumerate().all(|(c, slots)| {
            let with = rules.most((c, slot), &slots[slot], Some(more(c)));
            with <= problem.contracts[c].power[slot].0 + POWER_SLACK
                || with <= rules.most((c, slot), &slots[slot], None)
        })
    }

    /// What one more job, that must go on, takes of contracts beyond their limits,
    /// weighed far above its price; infinite where others could make room for it.
    pub fn contracts_added(
        &self,
        problem: &Problem,
        rules: &Rules,
        slot: usize,
        more: impl Fn(usize) -> Entry,
    ) -> f64 {
        let added = self.below.iter().enumerate().map(|(c, slots)| {
            let (at, below, more) = ((c, slot), &slots[slot], more(c));
            let with = rules.most(at, below, Some(more));
            let room = problem.contracts[c].power[slot].0;
            let forced = rules.most_pinned(at, below, Some(more));
            if with > room + POWER_SLACK && with > forced + POWER_SLACK {
                return f64::INFINITY;
            }
            SLOW_FIRST * (beyond(with, room) - beyond(rules.most(at, below, None), room))
        });
        added.sum()
    }

    /// Price of what a slot is taken beyond its limits.
    pub fn overload(&self, problem: &Problem, rules: &Rules, slot: usize) -> f64 {
        let (devices, watts) = self.taken[slot];
        let mut price = excess(problem, slot, devices, watts);
        for (c, slots) in self.below.iter().enumerate() {
            let most = rules.most((c, slot), &slots[slot], None);
            price += beyond(most, problem.contracts[c].power[slot].0);
        }
        price
    }
}

/// How much more than its price an excess of contracts weighs while a plan is
/// made: a job that must go on is slowed before it takes even a few watts too much.
const SLOW_FIRST: f64 = 1e3;

/// Watts by which sums may miss through rounding.
pub const POWER_SLACK: f64 = 1e-3;

/// Price of `devices` and `watts` in a slot beyond its limits.
fn excess(problem: &Problem, slot: usize, devices: u32, watts: f64) -> f64 {
    let devices = devices.saturating_sub(problem.devices);
    let watts = watts - problem.slots[slot].power.0;
    let watts = if watts > POWER_SLACK { watts } else { 0.0 };
    OVERLOAD * (f64::from(devices) + watts / 1_000.0)
}

/// Price of watts beyond a contract's.
fn beyond(watts: f64, room: f64) -> f64 {
    let watts = watts - room;
    if watts > POWER_SLACK {
        OVERLOAD * watts / 1_000.0
    } else {
        0.0
    }
}

/// Cost of a whole plan, overload included.
pub fn of_plan(problem: &Problem, rules: &Rules, schedules: &[Schedule]) -> f64 {
    let mut usage = Usage::new(problem);
    let mut cost = 0.0;
    for (index, (job, schedule)) in problem.jobs.iter().zip(schedules).enumerate() {
        usage.add(problem, rules, index, schedule);
        cost += of_schedule(problem, job, schedule);
    }
    cost + (0..problem.slots.len())
        .map(|t| usage.overload(problem, rules, t))
        .sum::<f64>()
}
