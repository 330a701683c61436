//! The master of the column generation: which mixture of the schedules found
//! so far fits into the site. A linear program:
//!
//! ```text
//! minimise   sum over columns k of cost_k x_k + OVERLOAD · (devices and power beyond the limits)
//! subject to sum of x_k over the columns of job j      = 1         for every job
//!            sum of devices_kb x_k − beyond_b         <= devices_b  for every block b of slots
//!            sum of kilowatts_kb x_k − beyond'_b      <= power_b
//! ```
//!
//! A block is a few slots taken together (an hour of four quarters): their
//! limits are summed. That relaxes the problem, so its dual prices still
//! prove a bound, and it keeps the program small. Rows that no mixture can
//! break are left out.

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
}

/// Prices of capacity, constant over a block: per device and slot, per
/// kilowatt and slot.
pub type BlockPrices = Vec<(f64, f64)>;

/// What the linear program says.
#[derive(Clone, Debug)]
pub struct Mixture {
    /// Its value.
    pub value: f64,
    /// Weight of each column.
    pub weights: Vec<f64>,
    /// Prices of capacity.
    pub prices: BlockPrices,
}

/// The master and its columns.
#[derive(Debug)]
pub struct Master<'a> {
    problem: &'a Problem,
    block: usize,
    /// Limits by block: device slots, kilowatt slots.
    limits: Vec<(f64, f64)>,
    columns: Vec<Column>,
}

impl<'a> Master<'a> {
    /// A master without columns whose blocks are `block` slots long.
    pub fn new(problem: &'a Problem, block: usize) -> Self {
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
            block: block.max(1),
            limits,
            columns: Vec::new(),
        }
    }

    /// The columns, in the order in which they came.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.limits.len()
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
        self.columns.push(Column {
            job,
            schedule: schedule.clone(),
            cost,
            usage,
        });
        true
    }

    /// Prices by slot: per device, per watt.
    pub fn by_slot(&self, prices: &BlockPrices) -> Vec<(f64, f64)> {
        (0..self.problem.slots.len())
            .map(|t| {
                let (device, kilowatt) = prices[t / self.block];
                (device, kilowatt / 1e3)
            })
            .collect()
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
            let part = |usage: &(f64, f64)| match which {
                Resource::Devices => usage.0,
                Resource::Power => usage.1,
            };
            let beyond = vars.add(variable().min(0.0));
            objective.add_mul(OVERLOAD, beyond);
            let mut row = Expression::with_capacity(self.columns.len());
            for (column, x) in self.columns.iter().zip(&x) {
                let taken = part(&column.usage[block]);
                if taken > 0.0 {
                    row.add_mul(taken, *x);
                }
            }
            row.add_mul(-1.0, beyond);
            limits.push((block, which, row, part(&self.limits[block])));
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
        let mut prices = vec![(0.0, 0.0); self.limits.len()];
        for (block, which, row) in limit_rows {
            // One more device lowers the cost: the dual is negative, the price is not.
            let price = (-dual.dual(row)).clamp(0.0, OVERLOAD);
            match which {
                Resource::Devices => prices[block].0 = price,
                Resource::Power => prices[block].1 = price,
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
            prices: vec![(0.0, 0.0); self.limits.len()],
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
        rows
    }
}

/// What is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resource {
    Devices,
    Power,
}
