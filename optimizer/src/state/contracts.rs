//! The contracts in a state file.
//!
//! What their members draw besides caps is counted as control counts it for the
//! contracts of the site file, unless the file says it.

use super::read::{NodeLoad, Reading};
use super::reader::join;
use crate::check::{ContractTerm, TOLERANCE};
use crate::control::contracts::Covered;
use crate::control::measure::Measured;
use heliostat_models::site::{PowerContract, Site};
use heliostat_models::{DeviceId, Watts};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};

const FIELDS: [&str; 5] = [
    "id",
    "limit_watts",
    "uncontrolled_watts",
    "uncertainty_watts",
    "members",
];

/// What a member may be called.
const MEMBERS: &str = "a list of names of power nodes, racks, nodes and devices";

/// A contract as the file states it.
pub(super) struct Stated {
    contract: PowerContract,
    covered: Covered,
    /// What its members draw besides caps, and by how much that may be more.
    load: Option<Watts>,
    more: Option<Watts>,
}

impl Stated {
    /// As the checker counts it, with what is measured where the file says nothing;
    /// a load that the file states is as uncertain as it says.
    pub fn term(&self, site: &Site, measured: &Measured, margin: f64) -> ContractTerm {
        let whole = BTreeSet::new();
        let mut term = (self.covered).term(site, &self.contract, measured, margin, &whole);
        if let Some(load) = self.load {
            term.uncontrolled = load;
            term.uncertainty = Watts::ZERO;
        }
        term.uncertainty = self.more.unwrap_or(term.uncertainty);
        term
    }

    /// What the file's nodes that it covers say that they draw besides caps.
    fn said(&self, nodes: &[NodeLoad]) -> Watts {
        (self.covered.nodes().iter())
            .map(|place| nodes[*place])
            .filter(|node| node.is_stated)
            .map(|node| node.load)
            .sum()
    }
}

impl Reading<'_> {
    /// All of them, held against what the file says of nodes.
    pub(super) fn contracts(
        &mut self,
        file: &Map<String, Value>,
        nodes: &[NodeLoad],
    ) -> Vec<Stated> {
        let mut contracts: Vec<Stated> = Vec::new();
        let site = self.site;
        let power: HashMap<&str, usize> = (site.power.nodes().iter().enumerate())
            .map(|(place, node)| (node.id.as_str(), place))
            .collect();
        let listed = file
            .get("contracts")
            .map(|contracts| self.faults.list("contracts", contracts, "a list"));
        for (place, value) in listed.unwrap_or_default().iter().enumerate() {
            let at = format!("contracts[{place}]");
            let Some(stated) = self.contract(&at, value, &power) else {
                continue;
            };
            let id = &stated.contract.id;
            let is_taken = power.contains_key(id.as_str())
                || (site.power_contracts.iter()).any(|c| c.id == *id)
                || contracts.iter().any(|c| c.contract.id == *id);
            if is_taken {
                let fault = format!("`{id}` is the name of another limit");
                let allowed = "a name that no power node and no other contract has, those of the site file included";
                self.faults.add(&join(&at, "id"), fault, allowed);
            }
            let said = stated.said(nodes);
            let given = stated.load.map(|l| l + stated.more.unwrap_or_default());
            if let Some(given) = given.filter(|given| *given + TOLERANCE < said) {
                let fault = format!(
                    "is {given} with its uncertainty, and by `nodes` its members draw {said} besides their devices"
                );
                let allowed = format!("nothing, so that it is counted, or at least {said}");
                self.faults
                    .add(&join(&at, "uncontrolled_watts"), fault, allowed);
            }
            contracts.push(stated);
        }
        contracts
    }

    /// One of them; `power` are the places of power nodes.
    fn contract(
        &mut self,
        at: &str,
        value: &Value,
        power: &HashMap<&str, usize>,
    ) -> Option<Stated> {
        let of = self.faults.fields(at, value, &FIELDS)?;
        let id = self.faults.text(&join(at, "id"), of.get("id"), "a name");
        let mut watts = |key: &str| self.faults.number(at, key, of, "watts").map(Watts);
        let (limit, load, more) = (
            watts("limit_watts"),
            watts("uncontrolled_watts"),
            watts("uncertainty_watts"),
        );
        if !of.contains_key("limit_watts") {
            self.faults
                .add(&join(at, "limit_watts"), "is missing", "a number of watts");
        }
        let (mut members, mut nodes, mut devices) = (Vec::new(), Vec::new(), Vec::new());
        let field = join(at, "members");
        let listed = of.get("members").unwrap_or(&Value::Null);
        for member in self.faults.list(&field, listed, MEMBERS) {
            let Some(name) = self.faults.text(&field, Some(member), MEMBERS) else {
                continue;
            };
            if let Some(node) = power.get(name) {
                members.push(name.to_owned());
                nodes.push(*node);
            } else if let Some(found) = self.named_devices(name) {
                members.extend(found.iter().map(ToString::to_string));
                let place = |device: &DeviceId| self.site.device(device).map(|(place, _)| place);
                devices.extend(found.iter().filter_map(place));
            } else {
                let fault = format!("names `{name}`, which is not there");
                self.faults.add(&field, fault, MEMBERS);
            }
        }
        let contract = PowerContract {
            id: id?.to_owned(),
            limit: limit?,
            in_full: false,
            members,
            nodes,
            devices,
        };
        Some(Stated {
            covered: Covered::new(self.site, &contract),
            contract,
            load,
            more,
        })
    }
}
