//! What power contracts let through in each slot, and which of their devices
//! running jobs hold.
//!
//! As control counts them: against a contract every device below it has its least
//! cap, whether it works or not, and what no cap controls counts at what it may be
//! while every device has its highest. The plant is taken at what it is now or, in
//! slots for which more is expected, at that.

use super::outlook::Outlook;
use super::problem::Contract;
use crate::control::contracts::Contracts;
use crate::control::measure::{Readings, measure};
use crate::plan_service::{ContractLoad, PlanInput};
use heliostat_models::site::PowerContract;
use heliostat_models::{JobId, JobRecord, JobState, Site, Watts};
use std::collections::{BTreeMap, BTreeSet};

/// A power contract over the horizon.
#[derive(Clone, Debug, PartialEq)]
pub struct ContractLimit {
    /// Its name.
    pub id: String,
    /// What its members may draw, the margin taken off.
    pub limit: Watts,
    /// Devices that it covers.
    pub devices: u32,
    /// What they have together at their least caps.
    pub least: Watts,
    /// Load that no cap controls, by slot.
    pub load: Vec<Watts>,
}

impl ContractLimit {
    /// Power by slot that devices below it may be given above their least caps;
    /// below zero where load and least caps alone exceed it.
    pub fn room(&self, slot: usize) -> Watts {
        self.limit - self.load[slot] - self.least
    }

    pub(super) fn for_solver(&self) -> Contract {
        let room = |slot| self.room(slot).max(Watts::ZERO);
        Contract {
            id: self.id.clone(),
            devices: self.devices,
            power: (0..self.load.len()).map(room).collect(),
        }
    }
}

/// The site's power contracts by slot.
pub(super) fn limits(input: &PlanInput, outlook: &Outlook) -> Vec<ContractLimit> {
    let site = &*input.site;
    if site.power_contracts.is_empty() {
        return Vec::new();
    }
    let margin = site.control.margin;
    let loads = if input.contract_loads.len() == site.power_contracts.len() {
        input.contract_loads.clone()
    } else {
        rated(input, margin)
    };
    let of_contract = |(contract, load): (&PowerContract, &ContractLoad)| {
        let covered = covered(site, contract);
        let load_in = |pue: &f64| {
            let expected = load.carries * (1.0 - 1.0 / pue.max(1.0));
            load.it + load.plant.max(expected)
        };
        ContractLimit {
            id: contract.id.clone(),
            limit: contract.usable(margin),
            devices: covered.iter().map(|c| u32::from(*c)).sum(),
            least: (site.devices.iter().zip(&covered))
                .filter(|(_, covered)| **covered)
                .map(|(device, _)| device.min_cap)
                .sum(),
            load: outlook.pue.iter().map(load_in).collect(),
        }
    };
    let contracts = site.power_contracts.iter().zip(&loads);
    contracts.map(of_contract).collect()
}

/// Loads where nobody has read any: every node as rated.
fn rated(input: &PlanInput, margin: f64) -> Vec<ContractLoad> {
    let site = &*input.site;
    let mut measured = measure(site, &Readings::default(), &[], &[]);
    measured.site_power = input.site_power;
    measured.it_power = input.it_power;
    Contracts::new(site).loads(site, &measured, margin, &BTreeSet::new())
}

/// Which devices a contract covers, by place in the site.
fn covered(site: &Site, contract: &PowerContract) -> Vec<bool> {
    let mut covered = vec![false; site.devices.len()];
    for node in &site.nodes {
        let above = site.power.path_up(node.power_node);
        if above.iter().any(|v| contract.nodes.contains(v)) {
            covered[node.devices.clone()].fill(true);
        }
    }
    for device in &contract.devices {
        covered[*device] = true;
    }
    covered
}

/// Of each job that runs on known devices: how many of them each contract covers.
/// Records that do not name as many devices as the job needs, or that name devices
/// which the site does not have or a later record gives to another job, tell nothing.
pub(super) fn homes(site: &Site, jobs: &[&JobRecord]) -> BTreeMap<JobId, Vec<u32>> {
    let mut homes = BTreeMap::new();
    if site.power_contracts.is_empty() {
        return homes;
    }
    let contracts = site.power_contracts.iter();
    let covered: Vec<Vec<bool>> = contracts.map(|c| covered(site, c)).collect();
    let running = jobs.iter().filter(|j| j.state == JobState::Running);
    let mut running: Vec<&JobRecord> = running.copied().collect();
    running.sort_by(|a, b| b.at.cmp(&a.at).then(a.id.cmp(&b.id)));
    let mut held = vec![false; site.devices.len()];
    for job in running {
        let named = site.devices_named(&job.devices).map(|(place, _)| place);
        let places: BTreeSet<usize> = named.collect();
        let theirs = places.iter().any(|place| held[*place]);
        places.iter().for_each(|place| held[*place] = true);
        if theirs || places.len() != job.gang_size as usize || places.len() != job.devices.len() {
            continue;
        }
        let below = |covered: &Vec<bool>| {
            let below = places.iter().filter(|place| covered[**place]);
            below.count() as u32
        };
        homes.insert(job.id.clone(), covered.iter().map(below).collect());
    }
    homes
}
