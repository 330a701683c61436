//! What holds at a site beyond its configuration file: contracts over sets
//! that cut across the power tree, the steps of devices, and how far the load
//! that no cap controls may be off.

use super::{Facts, Findings, Rule};
use heliostat_models::{DeviceId, Watts};
use std::collections::{BTreeMap, HashMap};

/// A limit over power nodes and devices, wherever they stand. What it covers
/// twice counts once.
#[derive(Clone, Debug, PartialEq)]
pub struct ContractTerm {
    /// Its name.
    pub id: String,
    /// What its members may draw together, before the site's margin.
    pub limit: Watts,
    /// Whether the margin is not taken off.
    pub in_full: bool,
    /// What they draw that no cap controls.
    pub uncontrolled: Watts,
    /// By how much that may be more; counted in full.
    pub uncertainty: Watts,
    /// Names of power nodes, with all devices below them, and of single devices.
    pub members: Vec<String>,
}

impl ContractTerm {
    /// What may be drawn where the site keeps this margin.
    pub fn usable(&self, margin: f64) -> Watts {
        let kept = if self.in_full { 0.0 } else { margin };
        self.limit * (1.0 - kept)
    }
}

/// Everything that holds besides the site file, and the site's own contracts
/// with what their members draw now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// Limits over sets.
    pub contracts: Vec<ContractTerm>,
    /// Caps of these devices are multiples of a step; those of the others of
    /// the step in the site file.
    pub steps: BTreeMap<DeviceId, Watts>,
    /// By how much [`Facts::uncontrolled`] may be more, by place in the tree;
    /// counted in full. Empty: nothing.
    pub uncertainty: Vec<Watts>,
}

/// Nothing but the site file, where that has no contracts.
pub static NO_TERMS: Terms = Terms {
    contracts: Vec::new(),
    steps: BTreeMap::new(),
    uncertainty: Vec::new(),
};

/// Which limits stand above each device. A **row** is a limit: first the power
/// nodes by their place in the tree, then the contracts.
pub(super) struct Above {
    /// Rows above each power node that devices hang at.
    at: Vec<Vec<usize>>,
    /// Contracts that name a device and none of the power nodes above it.
    named: HashMap<usize, Vec<usize>>,
    /// Power node of each device.
    node: Vec<usize>,
    /// How many rows there are.
    pub count: usize,
}

impl Above {
    /// Reads the members by their names.
    pub fn new(facts: &Facts<'_>) -> Self {
        let (site, nodes) = (facts.site, facts.site.power.nodes());
        let places: HashMap<&str, usize> = (nodes
            .iter()
            .enumerate()
            .map(|(place, n)| (n.id.as_str(), place)))
        .collect();
        let mut at = vec![Vec::new(); nodes.len()];
        let mut by_node: Vec<Vec<usize>> = vec![Vec::new(); nodes.len()];
        let mut by_device: HashMap<usize, Vec<usize>> = HashMap::new();
        for (place, contract) in facts.terms.contracts.iter().enumerate() {
            let row = nodes.len() + place;
            for member in &contract.members {
                if let Some(node) = places.get(member.as_str()) {
                    by_node[*node].push(row);
                } else if let Some((device, _)) = site.device(&DeviceId::from(member.as_str())) {
                    by_device.entry(device).or_default().push(row);
                }
            }
        }
        let node: Vec<usize> = (0..site.devices.len())
            .map(|d| site.power_node_of(d))
            .collect();
        for from in &node {
            if at[*from].is_empty() {
                let mut rows = site.power.path_up(*from);
                let contracts: Vec<usize> = rows.iter().flat_map(|v| by_node[*v].clone()).collect();
                rows.extend(contracts);
                once_each(&mut rows);
                at[*from] = rows;
            }
        }
        for (device, rows) in &mut by_device {
            rows.retain(|row| !at[node[*device]].contains(row));
            once_each(rows);
        }
        let count = nodes.len() + facts.terms.contracts.len();
        Self {
            at,
            named: by_device,
            node,
            count,
        }
    }

    /// The rows above a device, each once.
    pub fn rows(&self, device: usize) -> impl Iterator<Item = usize> + '_ {
        let named = self.named.get(&device).map_or(&[][..], Vec::as_slice);
        self.at[self.node[device]].iter().chain(named).copied()
    }
}

fn once_each(rows: &mut Vec<usize>) {
    rows.sort_unstable();
    rows.dedup();
}

/// Whether the terms mean something at this site.
pub(super) fn check(facts: &Facts<'_>, findings: &mut Findings) {
    let (site, terms) = (facts.site, facts.terms);
    let number = |findings: &mut Findings, what: String, value: Watts| {
        if !(value.is_finite() && value.0 >= 0.0) {
            findings.add(Rule::Finite, format!("{what} is {value}"));
        }
    };
    let nodes = site.power.nodes();
    if !terms.uncertainty.is_empty() && terms.uncertainty.len() != nodes.len() {
        findings.add(
            Rule::Finite,
            format!(
                "{} uncertainties for {} power nodes",
                terms.uncertainty.len(),
                nodes.len()
            ),
        );
    }
    for (node, uncertainty) in nodes.iter().zip(&terms.uncertainty) {
        number(
            findings,
            format!("the uncertainty at `{}`", node.id),
            *uncertainty,
        );
    }
    for (device, step) in &terms.steps {
        number(findings, format!("the step of `{device}`"), *step);
    }
    of_the_site(facts, findings);
    if terms.contracts.is_empty() {
        return;
    }
    let known: std::collections::HashSet<&str> = nodes.iter().map(|n| n.id.as_str()).collect();
    for contract in &terms.contracts {
        for (what, value) in [
            ("limit", contract.limit),
            ("uncontrolled load", contract.uncontrolled),
            ("uncertainty", contract.uncertainty),
        ] {
            number(
                findings,
                format!("the {what} of contract `{}`", contract.id),
                value,
            );
        }
        for member in &contract.members {
            let device = DeviceId::from(member.as_str());
            if !known.contains(member.as_str()) && site.device(&device).is_none() {
                findings.add(
                    Rule::Contract,
                    format!(
                        "contract `{}` names `{member}`, which is neither a power node nor a device of this site",
                        contract.id
                    ),
                );
            }
        }
    }
}

/// Whether every contract of the site file is counted, once and as it stands there.
fn of_the_site(facts: &Facts<'_>, findings: &mut Findings) {
    for stated in &facts.site.power_contracts {
        let mut counted = (facts.terms.contracts.iter()).filter(|c| c.id == stated.id);
        let same = counted.next().is_some_and(|c| {
            c.limit == stated.limit && c.in_full == stated.in_full && c.members == stated.members
        });
        if !same || counted.next().is_some() {
            findings.add(
                Rule::Contract,
                format!(
                    "contract `{}` of the site is not counted as its file says it",
                    stated.id
                ),
            );
        }
    }
}
