//! Whole plans: jobs put into the site one after another, each by its best
//! schedule in what the others left, then made better by taking jobs out and
//! putting them back. What is placed always fits, but for jobs that must go
//! on whatever the limits say; what they take too much is priced.

use super::contracts::Rules;
use super::cost::{self, POWER_SLACK, Usage};
use super::master::Prices;
use super::pricing::{Pricer, SlotCosts};
use super::problem::{MAX_LEVELS, Problem, Schedule};

/// Smallest gain for which anything is moved.
const WORTH: f64 = 1e-7;

/// A plan in the making.
#[derive(Debug)]
pub struct Placer<'a> {
    problem: &'a Problem,
    rules: &'a Rules,
    pricer: &'a mut Pricer,
    usage: Usage,
    schedules: Vec<Option<Schedule>>,
    costs: Vec<SlotCosts>,
    /// On the devices that the job has now.
    home_costs: Vec<SlotCosts>,
    /// Searches done.
    searches: u32,
}

impl<'a> Placer<'a> {
    /// An empty site.
    pub fn new(problem: &'a Problem, rules: &'a Rules, pricer: &'a mut Pricer) -> Self {
        let costs = vec![[f64::INFINITY; MAX_LEVELS]; problem.slots.len()];
        Self {
            problem,
            rules,
            pricer,
            usage: Usage::new(problem),
            schedules: vec![None; problem.jobs.len()],
            home_costs: costs.clone(),
            costs,
            searches: 0,
        }
    }

    /// Puts all jobs in, in the given order. `guide` are prices by slot that make a job leave contested slots to others.
    pub fn fill(&mut self, order: &[usize], guide: Option<&Prices>) {
        for job in order {
            if self.schedules[*job].is_none() {
                let (_, schedule) = self.search(*job, guide);
                self.put(*job, schedule);
            }
        }
    }

    /// Puts a job in as given, if that fits. Returns whether it did.
    pub fn try_put(&mut self, job: usize, schedule: &Schedule) -> bool {
        let stays = self.problem.jobs[job].stays(schedule);
        let fits = (0..self.problem.slots.len()).all(|t| {
            schedule.level(t).is_none_or(|l| {
                self.usage
                    .added(self.problem, &self.problem.jobs[job], t, l)
                    == 0.0
                    && self.contracts_bear(job, t, l, t < stays)
            })
        });
        if fits {
            self.put(job, schedule.clone());
        }
        fits
    }

    /// Takes over a whole plan, overload and all.
    pub fn adopt(&mut self, plan: &[Schedule]) {
        for (job, schedule) in plan.iter().enumerate() {
            self.put(job, schedule.clone());
        }
    }

    /// Moves single jobs, then pairs, while that makes the plan cheaper and
    /// fewer than `most` searches were done.
    pub fn improve(&mut self, most: u32) {
        let start = self.searches;
        let mut moved = true;
        while moved && self.searches - start < most {
            moved = false;
            for job in 0..self.problem.jobs.len() {
                if self.searches - start >= most {
                    return;
                }
                moved |= self.move_one(job);
            }
            if !moved {
                moved = self.move_pairs(most.saturating_sub(self.searches - start));
            }
        }
    }

    /// The plan and its cost, overload included.
    pub fn finish(self) -> (f64, Vec<Schedule>) {
        let slots = self.problem.slots.len();
        let schedules: Vec<Schedule> = self
            .schedules
            .into_iter()
            .map(|s| s.unwrap_or_else(|| Schedule::idle(slots)))
            .collect();
        let cost = cost::of_plan(self.problem, self.rules, &schedules);
        (cost, schedules)
    }

    fn put(&mut self, job: usize, schedule: Schedule) {
        self.usage.add(self.problem, self.rules, job, &schedule);
        self.schedules[job] = Some(schedule);
    }

    fn take(&mut self, job: usize) -> Option<Schedule> {
        let schedule = self.schedules[job].take()?;
        self.usage.remove(self.problem, self.rules, job, &schedule);
        Some(schedule)
    }

    fn contracts_bear(&self, job: usize, slot: usize, level: usize, at_home: bool) -> bool {
        let (problem, rules) = (self.problem, self.rules);
        let entry = |c| rules.entry(problem, (c, slot), job, level, at_home);
        (self.usage).contracts_bear(problem, rules, slot, entry)
    }

    /// Overload of contracts that a job which must go on adds in a slot.
    fn contracts_added(&self, job: usize, slot: usize, level: usize, at_home: bool) -> f64 {
        let (problem, rules) = (self.problem, self.rules);
        let entry = |c| rules.entry(problem, (c, slot), job, level, at_home);
        (self.usage).contracts_added(problem, rules, slot, entry)
    }

    /// The best schedule in what is left, and its cost with what it overloads.
    fn search(&mut self, job: usize, guide: Option<&Prices>) -> (f64, Schedule) {
        self.searches += 1;
        let mut costs = std::mem::take(&mut self.costs);
        self.running_costs(job, guide, false, &mut costs);
        self.costs = costs;
        let the_job = &self.problem.jobs[job];
        if the_job.home.is_none() {
            return self.pricer.best(the_job, &self.costs, None);
        }
        let mut costs = std::mem::take(&mut self.home_costs);
        self.running_costs(job, guide, true, &mut costs);
        self.home_costs = costs;
        (self.pricer).best(the_job, &self.costs, Some(&self.home_costs))
    }

    /// What running costs by slot and level in what is left.
    fn running_costs(
        &self,
        job: usize,
        guide: Option<&Prices>,
        at_home: bool,
        costs: &mut [SlotCosts],
    ) {
        let the_job = &self.problem.jobs[job];
        let gang = f64::from(the_job.gang);
        for (t, slot) in self.problem.slots.iter().enumerate() {
            let (devices, watts) = self.usage.taken[t];
            let room = devices + the_job.gang <= self.problem.devices;
            for (l, cost) in costs[t].iter_mut().enumerate().take(the_job.levels.len()) {
                let power = the_job.takes(l, slot);
                let fits = room && watts + power <= slot.power.0 + POWER_SLACK;
                let own = cost::running_cost(the_job, l, slot.cost);
                *cost = if the_job.pinned() {
                    let over = if fits {
                        0.0
                    } else {
                        self.usage
                            .added(self.problem, &self.problem.jobs[job], t, l)
                    };
                    own + over + self.contracts_added(job, t, l, at_home)
                } else if fits && self.contracts_bear(job, t, l, at_home) {
                    own
                } else {
                    f64::INFINITY
                };
                if let Some(guide) = guide {
                    *cost += gang * guide.common[t].0 + power * guide.common[t].1;
                    for (c, prices) in guide.contracts.iter().enumerate() {
                        let below = self.rules.share(c, t, the_job, at_home);
                        *cost += below * the_job.levels[l].power.0 * prices[t];
                    }
                }
            }
        }
    }

    /// Cost of a job as it stands, with the overload that would go with it.
    fn stands(&mut self, job: usize, schedule: &Schedule) -> f64 {
        let the_job = &self.problem.jobs[job];
        let mut over: f64 = (0..self.problem.slots.len())
            .filter_map(|t| {
                schedule.level(t).map(|l| {
                    self.usage
                        .added(self.problem, &self.problem.jobs[job], t, l)
                })
            })
            .sum();
        if the_job.pinned() {
            let stays = the_job.stays(schedule);
            over += (0..self.problem.slots.len())
                .filter_map(|t| {
                    let level = schedule.level(t)?;
                    Some(self.contracts_added(job, t, level, t < stays))
                })
                .sum::<f64>();
        }
        cost::of_schedule(self.problem, the_job, schedule) + over
    }

    fn move_one(&mut self, job: usize) -> bool {
        let Some(old) = self.take(job) else {
            return false;
        };
        let before = self.stands(job, &old);
        let (after, new) = self.search(job, None);
        let better = after < before - WORTH;
        self.put(job, if better { new } else { old });
        better
    }

    /// Takes two jobs out and puts them back in the other order. Returns at
    /// the first gain.
    fn move_pairs(&mut self, most: u32) -> bool {
        let start = self.searches;
        let jobs = self.problem.jobs.len();
        for distance in 1..jobs {
            for first in 0..jobs - distance {
                let second = first + distance;
                for (a, b) in [(first, second), (second, first)] {
                    if self.searches - start >= most {
                        return false;
                    }
                    if self.swap(a, b) {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// `a` first, then `b`, if that is cheaper than what stands.
    fn swap(&mut self, a: usize, b: usize) -> bool {
        let (Some(old_a), Some(old_b)) = (self.schedules[a].clone(), self.schedules[b].clone())
        else {
            return false;
        };
        if !meet(&old_a, &old_b) {
            return false;
        }
        self.take(a);
        let before_a = self.stands(a, &old_a);
        self.take(b);
        let before = before_a + self.stands(b, &old_b);
        let (cost_a, new_a) = self.search(a, None);
        self.put(a, new_a);
        let (cost_b, new_b) = self.search(b, None);
        self.put(b, new_b);
        if cost_a + cost_b < before - WORTH {
            return true;
        }
        self.take(a);
        self.take(b);
        self.put(b, old_b);
        self.put(a, old_a);
        false
    }
}

/// Whether two schedules could stand in each other's way: one runs where the other does not.
fn meet(a: &Schedule, b: &Schedule) -> bool {
    a != b
}
