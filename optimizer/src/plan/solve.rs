//! The solver: column generation for the bound and the prices, then whole
//! plans placed with the help of those prices. Deterministic: no clock, no
//! randomness, no threads; it stops by counts, never by time.

use super::contracts::Rules;
use super::cost::{self, POWER_SLACK};
use super::master::{Master, Mixture, Prices};
use super::place::Placer;
use super::pricing::{Pricer, SlotCosts};
use super::problem::{Effort, Job, MAX_LEVELS, Problem, Schedule, Solution};

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Rounds of column generation.
    pub rounds: u32,
    /// Relative difference of linear program and bound that is close enough.
    pub tolerance: f64,
    /// Searches spent on making each of the two best whole plans better. Four
    /// times as many make a plan a tenth of a percent cheaper.
    pub searches: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            rounds: 14,
            tolerance: 1e-3,
            searches: 160,
        }
    }
}

/// Up to this many slots every slot has rows of its own in the master.
const FINE_SLOTS: usize = 64;
/// Slots in a block of a longer horizon: an hour.
const BLOCK: usize = 4;
/// Weight of the best prices so far against the newest ones of the linear
/// program (Wentges' smoothing): the latter jump wildly in early rounds.
const SMOOTHING: f64 = 0.5;

/// Solves `problem`.
pub fn solve(problem: &Problem, limits: Limits) -> Solution {
    let block = if problem.slots.len() <= FINE_SLOTS {
        1
    } else {
        BLOCK
    };
    let mut pricer = Pricer::default();
    let rules = Rules::new(problem);
    let mut search = Search {
        problem,
        rules: &rules,
        master: Master::new(problem, &rules, block),
        best: Bound::default(),
        effort: Effort::default(),
    };
    let order = insertion_order(problem);

    // As good as it gets without a look at prices: a start for the columns.
    let mut placer = Placer::new(problem, &rules, &mut pricer);
    placer.fill(&order, None);
    let mut plans = vec![placer.finish()];
    search.learn(&plans[0].1);

    let mixture = search.generate(&mut pricer, limits);

    let prices = search.master.by_slot(&search.best.prices);
    let mut placer = Placer::new(problem, &rules, &mut pricer);
    placer.fill(&order, Some(&prices));
    plans.push(placer.finish());
    if let Some(mixture) = &mixture {
        let mut placer = Placer::new(problem, &rules, &mut pricer);
        let pinned: Vec<usize> = (order.iter().copied())
            .filter(|j| problem.jobs[*j].pinned())
            .collect();
        placer.fill(&pinned, Some(&prices));
        for (job, schedule) in heaviest(&search.master, mixture) {
            if !problem.jobs[job].pinned() {
                placer.try_put(job, schedule);
            }
        }
        placer.fill(&order, Some(&prices));
        plans.push(placer.finish());
    }
    // The cheaper half is worth more work; ties go to the earlier plan.
    plans.sort_by(|a, b| a.0.total_cmp(&b.0));
    plans.truncate(2);
    let mut best: Option<(f64, Vec<Schedule>)> = None;
    for (_, schedules) in &plans {
        let mut placer = Placer::new(problem, &rules, &mut pricer);
        placer.adopt(schedules);
        placer.improve(limits.searches);
        let plan = placer.finish();
        if best.as_ref().is_none_or(|b| plan.0 < b.0) {
            best = Some(plan);
        }
    }
    let (primal, schedules) = best.unwrap_or_default();
    Solution {
        schedules,
        primal,
        // Rounding in sums must not lift the bound above what was reached.
        bound: search.best.value.min(primal),
        prices: prices.common,
        contract_prices: prices.contracts,
        effort: search.effort,
    }
}

/// The order in which jobs are put in: those that must go on, those that run,
/// then who has the least time to spare, then by number.
fn insertion_order(problem: &Problem) -> Vec<usize> {
    let mut order: Vec<usize> = (0..problem.jobs.len()).collect();
    let slots = problem.slots.len() as i64;
    order.sort_by_key(|j| {
        let job = &problem.jobs[*j];
        let rank = match (job.pinned(), job.interruptible, job.running) {
            (true, _, _) => 0,
            (_, false, _) => 1,
            (_, _, true) => 2,
            _ => 3,
        };
        let needs = i64::from(job.work.div_ceil(super::problem::QUANTA_A_SLOT));
        let spare = job.deadline.unwrap_or(2 * slots) - job.release as i64 - needs;
        (rank, spare, *j)
    });
    order
}

/// For each job its column of the largest weight, heaviest first.
fn heaviest<'m>(master: &'m Master<'_>, mixture: &Mixture) -> Vec<(usize, &'m Schedule)> {
    let mut top: Vec<(f64, usize, &Schedule)> = Vec::new();
    for (column, weight) in master.columns().iter().zip(&mixture.weights) {
        match top.iter_mut().find(|t| t.1 == column.job) {
            Some(known) if known.0 >= *weight => {}
            Some(known) => *known = (*weight, column.job, &column.schedule),
            None => top.push((*weight, column.job, &column.schedule)),
        }
    }
    top.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    top.into_iter().map(|(_, job, s)| (job, s)).collect()
}

/// The best bound so far and the prices that prove it.
#[derive(Debug)]
struct Bound {
    value: f64,
    prices: Prices,
}

impl Default for Bound {
    fn default() -> Self {
        Self {
            value: f64::NEG_INFINITY,
            prices: Prices::default(),
        }
    }
}

struct Search<'a> {
    problem: &'a Problem,
    rules: &'a Rules,
    master: Master<'a>,
    best: Bound,
    effort: Effort,
}

impl Search<'_> {
    fn of_job<'j>(&'j self, job: &'j Job) -> AtPrices<'j> {
        AtPrices {
            problem: self.problem,
            rules: self.rules,
            job,
        }
    }

    /// Gives the master the schedules of a whole plan.
    fn learn(&mut self, plan: &[Schedule]) {
        for (index, schedule) in plan.iter().enumerate() {
            let cost = cost::of_schedule(self.problem, &self.problem.jobs[index], schedule);
            self.master.add(index, schedule, cost);
        }
    }

    /// Rounds of pricing and linear programs. The last mixture, if there is one.
    fn generate(&mut self, pricer: &mut Pricer, limits: Limits) -> Option<Mixture> {
        // Without prices every job gets its very best; a first bound.
        self.price(pricer, &self.master.free());
        let mut last = None;
        while self.effort.rounds < limits.rounds {
            self.effort.rounds += 1;
            self.effort.columns = self.master.columns().len() as u32;
            let Some(mixture) = self.master.solve() else {
                break;
            };
            let close = limits.tolerance * mixture.value.abs().max(1.0);
            if mixture.value - self.best.value <= close {
                self.effort.converged = true;
                return Some(mixture);
            }
            let smooth = self.best.prices.blend(&mixture.prices, SMOOTHING);
            let mut new = self.price(pricer, &smooth);
            if !new {
                new = self.price(pricer, &mixture.prices);
            }
            if mixture.value - self.best.value <= close || !new {
                self.effort.converged = true;
                return Some(mixture);
            }
            last = Some(mixture);
        }
        last
    }

    /// Every job's best schedule at these prices. The sum of their costs,
    /// less the worth of all capacity at the prices, is a bound of every plan
    /// (weak duality; each price is between 0 and the price of overload).
    /// Returns whether a new schedule was found.
    fn price(&mut self, pricer: &mut Pricer, prices: &Prices) -> bool {
        let by_slot = self.master.by_slot(prices);
        let mut value = -worth(self.problem, &by_slot);
        let mut costs = vec![[f64::INFINITY; MAX_LEVELS]; self.problem.slots.len()];
        let mut home_costs = costs.clone();
        let mut new = false;
        for (index, job) in self.problem.jobs.iter().enumerate() {
            let stands = self.of_job(job);
            stands.priced(false, &by_slot, &mut costs);
            if job.home.is_some() {
                stands.priced(true, &by_slot, &mut home_costs);
            }
            let home = job.home.as_ref().map(|_| home_costs.as_slice());
            let (cost, schedule) = pricer.best(job, &costs, home);
            value += cost;
            let own = cost::of_schedule(self.problem, job, &schedule);
            new |= self.master.add(index, &schedule, own);
        }
        if value > self.best.value {
            self.best = Bound {
                value,
                prices: prices.clone(),
            };
        }
        new
    }
}

/// A job at the prices of capacity.
struct AtPrices<'a> {
    problem: &'a Problem,
    rules: &'a Rules,
    job: &'a Job,
}

impl AtPrices<'_> {
    /// Cost of running it in each slot at each level, with prices of capacity.
    /// What alone breaks a limit is forbidden, unless the job must go on.
    fn priced(&self, at_home: bool, prices: &Prices, costs: &mut [SlotCosts]) {
        let Self {
            problem,
            rules,
            job,
        } = self;
        let gang = f64::from(job.gang);
        let slots = problem.slots.iter().zip(&prices.common);
        for (t, ((slot, (device, watt)), costs)) in slots.zip(costs).enumerate() {
            for (l, cost) in costs.iter_mut().enumerate().take(job.levels.len()) {
                let power = job.takes(l, slot);
                let alone = job.gang <= problem.devices
                    && power <= slot.power.0 + POWER_SLACK
                    && (problem.contracts.iter().enumerate()).all(|(c, contract)| {
                        rules.alone(problem, (c, t), job, l, at_home)
                            <= contract.power[t].0 + POWER_SLACK
                    });
                if !alone && !job.pinned() {
                    *cost = f64::INFINITY;
                    continue;
                }
                *cost = cost::running_cost(job, l, slot.cost) + gang * device + power * watt;
                for (c, prices) in prices.contracts.iter().enumerate() {
                    let below = rules.share(c, t, job, at_home);
                    *cost += below * job.levels[l].power.0 * prices[t];
                }
            }
        }
    }
}

/// Worth of all capacity at these prices.
fn worth(problem: &Problem, prices: &Prices) -> f64 {
    let devices = f64::from(problem.devices);
    let common: f64 = problem
        .slots
        .iter()
        .zip(&prices.common)
        .map(|(slot, (device, watt))| device * devices + watt * slot.power.0)
        .sum();
    let contracts = problem.contracts.iter().zip(&prices.contracts);
    contracts.fold(common, |sum, (contract, prices)| {
        let below = contract.power.iter().zip(prices);
        sum + below.map(|(power, price)| power.0 * price).sum::<f64>()
    })
}
