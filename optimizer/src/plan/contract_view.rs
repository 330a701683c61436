//! Power contracts as a plan shows them, and in words.

use super::build::Built;
use super::contracts::{Rules, below};
use super::cost::POWER_SLACK;
use super::members::ContractLimit;
use super::problem::{Problem, Schedule, Solution};
use crate::view::{ContractSlot, PlannedContract};
use heliostat_models::Watts;

/// Prices above this, per kilowatt and slot, say that a limit binds.
pub(super) const BINDS: f64 = 1e-6;

/// Each contract over the horizon.
pub(super) fn contracts(built: &Built, plan: &Solution) -> Vec<PlannedContract> {
    let problem = &built.problem;
    let book = Book::new(problem, plan);
    let show = |(place, contract): (usize, &ContractLimit)| {
        let slot = |t: usize| ContractSlot {
            start: problem.start + super::policy::SLOT * t as u32,
            uncontrolled: contract.load[t],
            capped: contract.least + Watts(book.most(place, t, None)),
            price: book.price(place, t),
        };
        PlannedContract {
            id: contract.id.clone(),
            limit: contract.limit,
            slots: (0..problem.slots.len()).map(slot).collect(),
        }
    };
    built.contracts.iter().enumerate().map(show).collect()
}

/// What a plan takes of contracts.
pub(super) struct Book<'a> {
    problem: &'a Problem,
    plan: &'a Solution,
    rules: Rules,
}

impl<'a> Book<'a> {
    /// Of a plan.
    pub fn new(problem: &'a Problem, plan: &'a Solution) -> Self {
        Self {
            problem,
            plan,
            rules: Rules::new(problem),
        }
    }

    /// Price of a kilowatt and slot.
    pub fn price(&self, contract: usize, slot: usize) -> f64 {
        let prices = self.plan.contract_prices.get(contract);
        1e3 * prices.and_then(|p| p.get(slot)).copied().unwrap_or(0.0)
    }

    /// Names of contracts that bind in a slot.
    pub fn binding(&self, slot: usize) -> Vec<&'a str> {
        let contracts = self.problem.contracts.iter().enumerate();
        let binding = contracts.filter(|(c, _)| self.price(*c, slot) > BINDS);
        binding.map(|(_, contract)| contract.id.as_str()).collect()
    }

    /// Most watts above least caps below a contract of all jobs, but of one.
    pub fn most(&self, contract: usize, slot: usize, but: Option<usize>) -> f64 {
        let at = (contract, slot);
        let there = below(self.problem, &self.rules, &self.plan.schedules, at, but);
        self.rules.most(at, &there, None)
    }

    /// Names of contracts that leave a job too little in a slot, at its slowest, and
    /// whether each would even if the job were alone.
    pub fn obstacles(&self, job: usize, slot: usize, at_home: bool) -> Vec<(&'a str, bool)> {
        let the_job = &self.problem.jobs[job];
        let power = |l: &usize| the_job.levels[*l].power;
        let levels = 0..the_job.levels.len();
        let Some(slowest) = levels.min_by(|a, b| power(a).0.total_cmp(&power(b).0)) else {
            return Vec::new();
        };
        let too_much = |(c, contract): (usize, &'a super::problem::Contract)| {
            let at = (c, slot);
            let room = contract.power[slot].0 + POWER_SLACK;
            let there = below(
                self.problem,
                &self.rules,
                &self.plan.schedules,
                at,
                Some(job),
            );
            let own = (self.rules).entry(self.problem, at, job, slowest, at_home);
            let with = self.rules.most(at, &there, Some(own));
            let stops = with > room && with > self.rules.most(at, &there, None);
            let alone = (self.rules).alone(self.problem, at, the_job, slowest, at_home) > room;
            stops.then_some((contract.id.as_str(), alone))
        };
        let contracts = self.problem.contracts.iter().enumerate();
        contracts.filter_map(too_much).collect()
    }

    /// Names of contracts that jobs which must go on exceed while this one of them runs.
    pub fn exceeded(&self, job: usize, schedule: &Schedule) -> Vec<&'a str> {
        let slots = 0..self.problem.slots.len();
        let runs: Vec<usize> = slots.filter(|t| schedule.level(*t).is_some()).collect();
        let exceeded = |(c, contract): &(usize, &super::problem::Contract)| {
            runs.iter().any(|t| {
                let all = self.most(*c, *t, None);
                let rest = self.most(*c, *t, Some(job));
                all > contract.power[*t].0 + POWER_SLACK && all > rest
            })
        };
        let contracts = self.problem.contracts.iter().enumerate();
        let contracts = contracts.filter(exceeded);
        contracts
            .map(|(_, contract)| contract.id.as_str())
            .collect()
    }
}

/// Contracts that load and least caps alone exceed in a slot, in words.
pub(super) fn beyond_help(contracts: &[ContractLimit], slot: usize) -> String {
    let beyond = contracts.iter().filter(|c| c.room(slot) < Watts::ZERO);
    let say = |contract: &ContractLimit| {
        format!(
            "; no plan keeps power contract {}: least caps ({:.1} kW) and load that no cap controls ({:.1} kW) exceed its {:.1} kW",
            contract.id,
            contract.least.kilowatts(),
            contract.load[slot].kilowatts(),
            contract.limit.kilowatts()
        )
    };
    beyond.map(say).collect()
}
