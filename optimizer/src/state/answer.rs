//! One allocation of a state: solved, checked, explained.

use super::way::{Way, way};
use super::{State, problem};
use crate::allocate::{
    Allocation, Change, Engine, Method, Outcome, Problem, ProblemError, allocate, fair,
    most_work_per_joule,
};
use crate::check::{Broken, Facts, Proposal, check_allocation};
use heliostat_models::decision::JobCap;
use heliostat_models::{Certificate, DeviceId, JobClass, JobId, Site, SiteId, Watts};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// Limits, the dearest first, for which the worth of a kilowatt is found by
/// allocating anew with that kilowatt.
const ASKED: usize = 64;

/// What to want.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "name")]
pub enum Goal {
    /// The most work net of the price of energy.
    Balanced,
    /// The most work that the limits allow, whatever energy costs.
    MostWork,
    /// The most work per joule that keeps this much of the most work.
    WorkPerJoule {
        /// Share of the most work that may be lost.
        slowdown: f64,
    },
    /// The lowest speed as high as it goes, then the next lowest, and so on.
    Fair,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refused {
    /// The state contradicts itself.
    #[error(transparent)]
    Problem(#[from] ProblemError),
    /// The checker rejects what was found.
    #[error("the checker rejects this allocation: {}", listed(.0))]
    Checker(Vec<Broken>),
}

fn listed(broken: &[Broken]) -> String {
    broken
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// All limits and all floors are kept.
    Allocated,
    /// The floors do not fit below the limits; the caps are the safest found.
    Infeasible,
}

/// A limit that even the lowest caps exceed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Excess {
    /// Which.
    pub limit: String,
    /// By how much.
    pub watts: Watts,
}

/// A power node or a contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LimitAnswer {
    /// Its name.
    pub name: String,
    /// Whether it is a contract.
    pub contract: bool,
    /// What may be drawn, the site's margin taken off.
    pub limit: Watts,
    /// What is drawn that no cap controls.
    pub uncontrolled: Watts,
    /// By how much that may be more.
    pub uncertainty: Watts,
    /// What devices at rest below it draw less than their lowest caps.
    pub spare: Watts,
    /// Sum of the caps below it.
    pub caps: Watts,
    /// What a watt more is worth at the margin, net of the price of energy:
    /// weighted device hours at full speed per watt hour.
    pub price: f64,
    /// What a whole kilowatt more is worth: weighted devices at full speed.
    /// Found by allocating anew; absent for all but the dearest limits.
    pub kilowatt_more: Option<f64>,
}

/// A job, or the devices that none holds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobAnswer {
    /// The job's class.
    pub class: Option<JobClass>,
    /// Cap, speed, worth of the last watt, binding limit, reason.
    #[serde(flatten)]
    pub told: JobCap,
}

/// The whole answer. The checker has passed it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// The site.
    pub site: SiteId,
    /// What was wanted.
    pub goal: Goal,
    /// How it ended.
    pub ending: Ending,
    /// The smallest set of limits in conflict with the floors.
    pub conflict: Vec<String>,
    /// Jobs whose floors gave way, in the order of their classes.
    pub shed: Vec<JobId>,
    /// Limits that even the lowest caps exceed.
    pub beyond: Vec<Excess>,
    /// The price of energy that holds, weighted device hours per watt hour.
    pub price_of_energy: f64,
    /// The proof; of a fair allocation, the gap is what fairness costs.
    pub certificate: Certificate,
    /// Who found it.
    pub method: Method,
    /// Every limit, by place in the tree, contracts behind them.
    pub limits: Vec<LimitAnswer>,
    /// Every job.
    pub jobs: Vec<JobAnswer>,
    /// Every device's cap.
    pub caps: BTreeMap<DeviceId, Watts>,
    /// How to get there from the caps in force, where the state says those.
    pub way: Option<Way>,
}

/// Allocates, has it checked, explains.
///
/// # Errors
/// When the state contradicts itself, or the checker rejects the result.
pub fn answer(site: &Site, state: &State, goal: Goal) -> Result<Answer, Refused> {
    let mut facts = state.facts(site);
    if goal != Goal::Balanced {
        facts.price_of_energy = 0.0;
    }
    let mut problem = problem(&facts);
    let outcome = match goal {
        Goal::Balanced | Goal::MostWork => allocate(&problem)?,
        Goal::Fair => fair(&problem)?,
        Goal::WorkPerJoule { slowdown } => {
            let found = most_work_per_joule(&problem, slowdown)?;
            facts.price_of_energy = found.price;
            problem.price_of_energy = found.price;
            found.outcome
        }
    };
    let allocation = outcome.allocation();
    let caps: BTreeMap<DeviceId, Watts> = (problem.devices.iter().zip(&allocation.caps))
        .map(|(device, cap)| (device.id.clone(), *cap))
        .collect();
    let (mut conflict, mut shed, mut beyond) = (Vec::new(), Vec::new(), Vec::new());
    if let Outcome::Infeasible {
        conflict: limits,
        shed: given,
    } = &outcome
    {
        conflict.clone_from(limits);
        shed.clone_from(&given.dropped);
        beyond.extend(given.beyond.iter().map(|(limit, watts)| Excess {
            limit: limit.clone(),
            watts: *watts,
        }));
    }
    let prices = [&allocation.node_prices[..], &allocation.contract_prices].concat();
    check(
        &facts,
        &caps,
        &prices,
        &allocation.certificate,
        &shed,
        &beyond,
    )?;
    let classes: HashMap<&JobId, JobClass> =
        problem.groups.iter().map(|g| (&g.job, g.class)).collect();
    let jobs = allocation.jobs.iter().map(|told| JobAnswer {
        class: told.job.as_ref().and_then(|job| classes.get(job).copied()),
        told: told.clone(),
    });
    Ok(Answer {
        site: site.id.clone(),
        goal,
        ending: match outcome {
            Outcome::Allocated(_) => Ending::Allocated,
            Outcome::Infeasible { .. } => Ending::Infeasible,
        },
        conflict,
        shed,
        beyond,
        price_of_energy: problem.price_of_energy,
        certificate: allocation.certificate.clone(),
        method: allocation.method,
        limits: limits(&problem, allocation, &prices),
        jobs: jobs.collect(),
        way: way(&facts, state, &caps),
        caps,
    })
}

fn check(
    facts: &Facts<'_>,
    caps: &BTreeMap<DeviceId, Watts>,
    prices: &[f64],
    certificate: &Certificate,
    dropped: &[JobId],
    beyond: &[Excess],
) -> Result<(), Refused> {
    let beyond: Vec<String> = beyond.iter().map(|b| b.limit.clone()).collect();
    let proposal = Proposal {
        caps,
        node_prices: prices,
        certificate,
        dropped,
        beyond: &beyond,
    };
    let broken = check_allocation(facts, &proposal);
    if broken.is_empty() {
        Ok(())
    } else {
        Err(Refused::Checker(broken))
    }
}

fn limits(problem: &Problem, allocation: &Allocation, prices: &[f64]) -> Vec<LimitAnswer> {
    let more = kilowatt_more(problem, prices);
    let nodes = problem
        .nodes
        .iter()
        .zip(&allocation.capped)
        .map(|(node, caps)| LimitAnswer {
            name: node.id.clone(),
            contract: false,
            limit: node.limit,
            uncontrolled: node.uncontrolled,
            uncertainty: node.uncertainty,
            spare: node.spare,
            caps: *caps,
            price: 0.0,
            kilowatt_more: None,
        });
    let covered = covered(problem, &allocation.caps);
    let contracts = problem
        .contracts
        .iter()
        .zip(covered)
        .map(|(contract, caps)| LimitAnswer {
            name: contract.id.clone(),
            contract: true,
            limit: contract.limit,
            uncontrolled: contract.uncontrolled,
            uncertainty: contract.uncertainty,
            spare: Watts::ZERO,
            caps,
            price: 0.0,
            kilowatt_more: None,
        });
    let mut limits: Vec<LimitAnswer> = nodes.chain(contracts).collect();
    for ((limit, price), more) in limits.iter_mut().zip(prices).zip(more) {
        (limit.price, limit.kilowatt_more) = (*price, more);
    }
    limits
}

/// Sum of the caps that each contract covers.
fn covered(problem: &Problem, caps: &[Watts]) -> Vec<Watts> {
    let mut below: Vec<Vec<bool>> = Vec::new();
    for contract in &problem.contracts {
        let mut is = vec![false; problem.nodes.len()];
        contract.nodes.iter().for_each(|node| is[*node] = true);
        for (place, node) in problem.nodes.iter().enumerate() {
            is[place] |= node.parents.iter().any(|parent| is[*parent]);
        }
        below.push(is);
    }
    let sum = |(contract, below): (&crate::allocate::Contract, Vec<bool>)| {
        let members = problem
            .devices
            .iter()
            .enumerate()
            .filter(|(place, device)| below[device.node] || contract.devices.contains(place));
        members.map(|(place, _)| caps[place]).sum()
    };
    problem.contracts.iter().zip(below).map(sum).collect()
}

/// What a kilowatt more at each limit is worth. Nothing where a watt is; where
/// the floors do not fit, what a watt is worth says nothing of a kilowatt.
fn kilowatt_more(problem: &Problem, prices: &[f64]) -> Vec<Option<f64>> {
    let mut more: Vec<Option<f64>> = prices.iter().map(|p| (*p == 0.0).then_some(0.0)).collect();
    let Ok(mut engine) = Engine::new(problem.clone()) else {
        return more;
    };
    let Some(now) = engine.solve() else {
        return vec![None; prices.len()];
    };
    let mut dearest: Vec<usize> = (0..prices.len()).filter(|row| prices[*row] > 0.0).collect();
    dearest.sort_by(|a, b| prices[*b].total_cmp(&prices[*a]).then(a.cmp(b)));
    let nodes = problem.nodes.len();
    for row in dearest.into_iter().take(ASKED) {
        let with = |extra: Watts| match problem.nodes.get(row) {
            Some(node) => Change::Limit {
                node: row,
                limit: node.limit + extra,
            },
            None => {
                let contract = row - nodes;
                let limit = problem.contracts[contract].limit + extra;
                Change::ContractLimit { contract, limit }
            }
        };
        let then = engine
            .change(&with(Watts(1_000.0)))
            .ok()
            .and_then(|()| engine.solve());
        more[row] = then.map(|then| (then.primal - now.primal).max(0.0));
        if engine.change(&with(Watts::ZERO)).is_err() {
            break;
        }
    }
    more
}
