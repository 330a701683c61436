//! The master of the column generation: which mixture of the schedules found
//! so far fits into the site. A linear program:
//!
//! ```text
//! minimise   sum over columns k of cost_k x_k + OVERLOAD · (devices and power beyond the limits)
//! subject to sum of x_k over the columns of job j      = 1         for every job
//!            sum of devices_kb x_k − beyond_b         <= devices_b  for every block b of slots
//!            sum of kilowatts_kb x_k − beyond'_b      <= power_b
//!            the same of what counts below each contract, at the least (see [`super::contracts`])
//! ```
//!
//! A block is a few slots taken together (an hour of four quarters): their
//! limits are summed. That relaxes the problem, so its dual prices still
//! prove a bound, and it keeps the program small. Rows that no mixture can
//! break are left out.

use super::contracts::Rules;
use super::problem::{OVERLOAD, Problem, Schedule};
use good_lp::solvers::clarabel::clarabel;
use good_lp::{
    DualValues, Expression, ProblemVariables, Solution as _, SolutionWithDual, SolverModel,
    Variable, variable,
};

/// A schedule that the master may use.
#[derive(Clone, Debug)]
pub struct Column {
    /// Index of its job.
    pub job: usize,
    /// What it does.
    pub schedule: Schedule,
    /// What it costs.
    pub cost: f64,
    /// Device slots and kilowatt slots by block.
    usage: Vec<(f64, f64)>,
    /// Kilowatt slots below contracts, by contract and block.
    below: Vec<Vec<f64>>,
}

/// Prices of capacity. By block, where they are constant, those of power are per
/// kilowatt and slot; by slot, per watt.
#[derive(Clone, Debug, Default)]
pub struct Prices {
    /// Of a device, and of power.
    pub common: Vec<(f64, f64)>,
    /// Of power below each contract.
    pub contracts: Vec<Vec<f64>>,
}

impl Prices {
    /// Everything is free.
    pub fn none(blocks: usize, contracts: usize) -> Self {
        Self {
            common: vec![(0.0, 0.0); blocks],
            contracts: vec![vec![0.0; blocks]; contracts],
        }
    }

    /// Halfway and so on: `weight` of these, the rest of those.
    pub fn blend(&self, newest: &Self, weight: f64) -> Self {
        let mix = |a: &f64, b: &f64| weight * a + (1.0 - weight) * b;
        let common = self.common.iter().zip(&newest.common);
        let contracts = self.contracts.iter().zip(&newest.contracts);
        Self {
            common: common
                .map(|(a, b)| (mix(&a.0, &b.0), mix(&a.1, &b.1)))
                .collect(),
            contracts: contracts
                .map(|(a, b)| a.iter().zip(b).map(|(a, b)| mix(a, b)).collect())
                .collect(),
        }
    }
}

/// What the linear program says.
#[derive(Clone, Debug)]
pub struct Mixture {
    /// Its value.
    pub value: f64,
    /// Weight of each column.
    pub weights: Vec<f64>,
    /// Prices of capacity, by block.
    pub prices: Prices,
}

/// The master and its columns.
#[derive(Debug)]
pub struct Master<'a> {
    problem: &'a Problem,
    rules: &'a Rules,
    block: usize,
    /// Limits by block: device slots, kilowatt slots.
    limits: Vec<(f64, f64)>,
    /// Kilowatt slots by contract and block.
    contracts: Vec<Vec<f64>>,
    columns: Vec<Column>,
}

impl<'a> Master<'a> {
    /// A master without columns whose blocks are `block` slots long.
    pub fn new(problem: &'a Problem, rules: &'a Rules, block: usize) -> Self {
        let contracts = problem.contracts.iter().map(|contract| {
            let blocks = contract.power.chunks(block.max(1));
            blocks
                .map(|slots| slots.iter().map(|power| power.0 / 1e3).sum())
                .collect()
        });
        let limits = problem
            .slots
            .chunks(block.max(1))
            .map(|slots| {
                let devices = slots.len() as f64 * f64::from(problem.devices);
                (devices, slots.iter().map(|s| s.power.0 / 1e3).sum())
            })
            .collect();
        Self {
            problem,
            rules,
            block: block.max(1),
            limits,
            contracts: contracts.collect(),
            columns: Vec::new(),
        }
    }

    /// The columns, in the order in which they came.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Adds a schedule unless it is known. Returns whether it was new.
    pub fn add(&mut self, job: usize, schedule: &Schedule, cost: f64) -> bool {
        let known = |c: &Column| c.job == job && c.schedule == *schedule;
        if self.columns.iter().any(known) {
            return false;
        }
        let the_job = &self.problem.jobs[job];
        let gang = f64::from(the_job.gang);
        let mut usage = vec![(0.0, 0.0); self.limits.len()];
        for (t, slot) in self.problem.slots.iter().enumerate() {
            if let Some(l) = schedule.level(t) {
                let block = &mut usage[t / self.block];
                block.0 += gang;
                block.1 += the_job.takes(l, slot) / 1e3;
            }
        }
        let stays = the_job.stays(schedule);
        let below = (0..self.contracts.len()).map(|c| {
            let mut below = vec![0.0; self.limits.len()];
            for t in 0..self.problem.slots.len() {
                if let Some(l) = schedule.level(t) {
                    let devices = self.rules.share(c, t, the_job, t < stays);
                    below[t / self.block] += devices * the_job.levels[l].power.0 / 1e3;
                }
            }
            below
        });
        self.columns.push(Column {
            job,
            schedule: schedule.clone(),
            cost,
            usage,
            below: below.collect(),
        });
        true
    }

    /// Prices by slot: per device, per watt.
    pub fn by_slot(&self, prices: &Prices) -> Prices {
        let slots = 0..self.problem.slots.len();
        let common = slots.clone().map(|t| {
            let (device, kilowatt) = prices.common[t / self.block];
            (device, kilowatt / 1e3)
        });
        let by_slot = |prices: &Vec<f64>| {
            let slots = slots.clone();
            slots.map(|t| prices[t / self.block] / 1e3).collect()
        };
        Prices {
            common: common.collect(),
            contracts: prices.contracts.iter().map(by_slot).collect(),
        }
    }

    /// No prices.
    pub fn free(&self) -> Prices {
        Prices::none(self.limits.len(), self.contracts.len())
    }

    /// Solves the linear program. `None` when the solver gives up.
    pub fn solve(&self) -> Option<Mixture> {
        let contested = self.contested();
        if contested.is_empty() {
            return Some(self.uncontested());
        }
        let mut vars = ProblemVariables::new();
        let mut objective = Expression::with_capacity(self.columns.len());
        let mut rows: Vec<Expression> = vec![Expression::default(); self.problem.jobs.len()];
        let x: Vec<Variable> = self
            .columns
            .iter()
            .map(|column| {
                let x = vars.add(variable().min(0.0));
                objective.add_mul(column.cost, x);
                rows[column.job].add_mul(1.0, x);
                x
            })
            .collect();
        let mut limits = Vec::new();
        for (block, which) in contested {
            let limit = match which {
                Resource::Devices => self.limits[block].0,
                Resource::Power => self.limits[block].1,
                Resource::Contract(c) => self.contracts[c][block],
            };
            let beyond = vars.add(variable().min(0.0));
            objective.add_mul(OVERLOAD, beyond);
            let mut row = Expression::with_capacity(self.columns.len());
            for (column, x) in self.columns.iter().zip(&x) {
                let taken = column.takes(block, which);
                if taken > 0.0 {
                    row.add_mul(taken, *x);
                }
            }
            row.add_mul(-1.0, beyond);
            limits.push((block, which, row, limit));
        }
        let mut model = vars.minimise(objective.clone()).using(clarabel);
        model
            .settings()
            .tol_gap_rel(1e-7)
            .tol_gap_abs(1e-7)
            .max_iter(80);
        for row in rows {
            model.add_constraint(row.eq(1.0));
        }
        let limit_rows: Vec<_> = limits
            .into_iter()
            .map(|(block, which, row, limit)| (block, which, model.add_constraint(row.leq(limit))))
            .collect();
        let mut solved = model.solve().ok()?;
        let value = objective.eval_with(&solved);
        let weights = x.iter().map(|x| solved.value(*x)).collect();
        let dual = solved.compute_dual();
        let mut prices = self.free();
        for (block, which, row) in limit_rows {
            // One more device lowers the cost: the dual is negative, the price is not.
            let price = (-dual.dual(row)).clamp(0.0, OVERLOAD);
            match which {
                Resource::Devices => prices.common[block].0 = price,
                Resource::Power => prices.common[block].1 = price,
                Resource::Contract(c) => prices.contracts[c][block] = price,
            }
        }
        value.is_finite().then_some(Mixture {
            value,
            weights,
            prices,
        })
    }

    /// Every job's cheapest column: optimal where no limit can be broken.
    fn uncontested(&self) -> Mixture {
        let mut weights = vec![0.0; self.columns.len()];
        let mut value = 0.0;
        for job in 0..self.problem.jobs.len() {
            let own = (self.columns.iter().enumerate()).filter(|(_, c)| c.job == job);
            if let Some((index, column)) = own.min_by(|a, b| a.1.cost.total_cmp(&b.1.cost)) {
                weights[index] = 1.0;
                value += column.cost;
            }
        }
        Mixture {
            value,
            weights,
            prices: self.free(),
        }
    }

    /// The limits that some mixture of the columns would break.
    fn contested(&self) -> Vec<(usize, Resource)> {
        let mut most = vec![vec![(0.0f64, 0.0f64); self.limits.len()]; self.problem.jobs.len()];
        for column in &self.columns {
            for (most, used) in most[column.job].iter_mut().zip(&column.usage) {
                *most = (most.0.max(used.0), most.1.max(used.1));
            }
        }
        let mut rows = Vec::new();
        for (block, limit) in self.limits.iter().enumerate() {
            let devices: f64 = most.iter().map(|m| m[block].0).sum();
            let power: f64 = most.iter().map(|m| m[block].1).sum();
            if devices > limit.0 + 1e-9 {
                rows.push((block, Resource::Devices));
            }
            if power > limit.1 + 1e-9 {
                rows.push((block, Resource::Power));
            }
        }
        for (c, limits) in self.contracts.iter().enumerate() {
            let mut most = vec![vec![0.0f64; limits.len()]; self.problem.jobs.len()];
            for column in &self.columns {
                for (most, below) in most[column.job].iter_mut().zip(&column.below[c]) {
                    *most = most.max(*below);
                }
            }
            for (block, limit) in limits.iter().enumerate() {
                if most.iter().map(|m| m[block]).sum::<f64>() > limit + 1e-9 {
                    rows.push((block, Resource::Contract(c)));
                }
            }
        }
        rows
    }
}

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Devices,
    Power,
    /// Power below a contract, by its place.
    Contract(usize),
}

impl Column {
    fn takes(&self, block: usize, which: Resource) -> f64 {
        match which {
            Resource::Devices => self.usage[block].0,
            Resource::Power => self.usage[block].1,
            Resource::Contract(c) => self.below[c][block],
        }
    }
}
