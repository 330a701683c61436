//! The site's power contracts with what their members draw now.
//!
//! Below a power node that is a member everything counts that no cap controls:
//! each node's own draw once, however many members it is below, and the plant
//! where a member carries it. Single devices bring nothing with them, unless
//! their node is limited as a whole: it shares its limit out as it likes, so that
//! a few of its devices may have all of it.

use super::measure::Measured;
use crate::check::ContractTerm;
use crate::plan_service::ContractLoad;
use heliostat_models::Watts;
use heliostat_models::site::power::PowerNodeKind;
use heliostat_models::site::{PowerContract, Site};
use std::collections::BTreeSet;

/// What a contract covers besides caps.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Covered {
    /// Compute nodes, by place in the site.
    nodes: Vec<usize>,
    /// Whether a utility feed is among its members.
    feed: bool,
    /// Transformers at or below its members, by place in the tree.
    transformers: Vec<usize>,
    /// Devices that are members while others of their node are not.
    singles: Vec<usize>,
}

/// What the site's contracts cover.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Contracts {
    covered: Vec<Covered>,
}

impl Contracts {
    /// Of a site.
    pub fn new(site: &Site) -> Self {
        let covered = (site.power_contracts.iter())
            .map(|contract| Covered::new(site, contract))
            .collect();
        Self { covered }
    }

    /// The contracts as the checker counts them, with the loads of now; `margin` is
    /// the share of each limit that is never given away, `whole` the nodes that are
    /// limited as a whole.
    pub fn terms(
        &self,
        site: &Site,
        measured: &Measured,
        margin: f64,
        whole: &BTreeSet<usize>,
    ) -> Vec<ContractTerm> {
        (site.power_contracts.iter().zip(&self.covered))
            .map(|(contract, covered)| covered.term(site, contract, measured, margin, whole))
            .collect()
    }

    /// What the contracts' members draw besides caps, for what is planned ahead.
    pub fn loads(
        &self,
        site: &Site,
        measured: &Measured,
        margin: f64,
        whole: &BTreeSet<usize>,
    ) -> Vec<ContractLoad> {
        (site.power_contracts.iter().zip(&self.covered))
            .map(|(contract, covered)| {
                let (load, more) = covered.besides_caps(site, measured, whole);
                let limit = contract.usable(margin);
                ContractLoad {
                    it: load + more,
                    plant: covered.plant(site, measured, limit),
                    carries: covered.carries(site, limit),
                }
            })
            .collect()
    }
}

impl Covered {
    /// By a contract.
    pub fn new(site: &Site, contract: &PowerContract) -> Self {
        let tree = site.power.nodes();
        let mut below = vec![false; tree.len()];
        for node in &contract.nodes {
            below[*node] = true;
        }
        // Parents stand before their children.
        for (place, node) in tree.iter().enumerate() {
            below[place] |= node.parents.iter().any(|parent| below[*parent]);
        }
        let of_kind = |kind| {
            let places = tree.iter().enumerate();
            places
                .filter(move |(_, node)| node.kind == kind)
                .map(|(place, _)| place)
        };
        Self {
            nodes: (site.nodes.iter().enumerate())
                .filter(|(_, node)| below[node.power_node])
                .map(|(place, _)| place)
                .collect(),
            feed: of_kind(PowerNodeKind::UtilityFeed).any(|place| below[place]),
            transformers: of_kind(PowerNodeKind::Transformer)
                .filter(|place| below[*place])
                .collect(),
            singles: singles(site, contract, &below),
        }
    }

    /// The compute nodes that it covers, by place in the site.
    pub fn nodes(&self) -> &[usize] {
        &self.nodes
    }

    /// The contract as [`Contracts::terms`] says.
    pub fn term(
        &self,
        site: &Site,
        contract: &PowerContract,
        measured: &Measured,
        margin: f64,
        whole: &BTreeSet<usize>,
    ) -> ContractTerm {
        let (load, more) = self.besides_caps(site, measured, whole);
        let limit = contract.usable(margin);
        ContractTerm {
            id: contract.id.clone(),
            limit: contract.limit,
            in_full: contract.in_full,
            uncontrolled: load + self.plant(site, measured, limit),
            uncertainty: more,
            members: contract.members.clone(),
        }
    }

    /// What the nodes below draw of themselves, and by how much it may be more.
    fn besides_caps(
        &self,
        site: &Site,
        measured: &Measured,
        whole: &BTreeSet<usize>,
    ) -> (Watts, Watts) {
        let (mut load, mut more) = (Watts::ZERO, Watts::ZERO);
        for node in &self.nodes {
            load += measured.overhead[*node].0;
            more += measured.overhead[*node].1;
        }
        for device in self.singles.iter().map(|place| &site.devices[*place]) {
            if whole.contains(&device.node) {
                more += device.max_cap - device.min_cap;
            }
        }
        (load, more)
    }

    /// Most power that may pass members which carry the plant.
    fn carries(&self, site: &Site, limit: Watts) -> Watts {
        if self.feed {
            return limit;
        }
        let tree = site.power.nodes();
        let own = |place: &usize| tree[*place].limit.min(limit);
        self.transformers.iter().map(own).sum()
    }

    /// Most that the plant may draw below the members when they may draw this
    /// much: all of it at a feed, else each transformer's share by its size.
    fn plant(&self, site: &Site, measured: &Measured, limit: Watts) -> Watts {
        if self.feed {
            return measured.plant(site, limit, 1.0);
        }
        let tree = site.power.nodes();
        let all: Watts = (tree.iter())
            .filter(|node| node.kind == PowerNodeKind::Transformer)
            .map(|node| node.limit)
            .sum();
        (self.transformers.iter())
            .map(|place| {
                let own = tree[*place].limit;
                measured.plant(site, own.min(limit), own / all)
            })
            .sum()
    }
}

/// A contract's devices that stand in nodes of which it covers only a part;
/// `below` says which power nodes it covers.
fn singles(site: &Site, contract: &PowerContract, below: &[bool]) -> Vec<usize> {
    let named: BTreeSet<usize> = contract.devices.iter().copied().collect();
    let is_in_part = |device: &usize| {
        let node = &site.nodes[site.devices[*device].node];
        !below[node.power_node] && !node.devices.clone().all(|d| named.contains(&d))
    };
    named.iter().copied().filter(is_in_part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;
    use heliostat_models::site::config::{LoadOptions, builtin_demo, load};

    #[test]
    fn a_few_devices_of_a_node_that_is_limited_as_a_whole_count_at_their_highest() {
        let all: Vec<String> = (0..8).map(|d| format!("\"r02-n1-gpu{d}\"")).collect();
        let text = format!(
            "[[power_contract]]\nid = \"t\"\nlimit_watts = 60_000\nmembers = [\"r03\", \"r03-n1-gpu0\", \"r01-n1-gpu0\", \"r01-n2-gpu3\", {}]\n[class.training]",
            all.join(", ")
        );
        let text = builtin_demo().replace("[class.training]", &text);
        let site = load("test.toml", &text, LoadOptions::default())
            .site
            .unwrap();
        let state = State::read(&site, "{}").unwrap();
        assert_eq!(state.terms.contracts[0].uncertainty, Watts::ZERO);
        let measured = Measured {
            it_uncontrolled: Vec::new(),
            it_uncertain: Vec::new(),
            it_at_feed: Vec::new(),
            idle: std::collections::BTreeMap::new(),
            site_power: None,
            site_power_at: None,
            it_power: None,
            nodes_measured: 0,
            overhead: vec![(Watts(1_000.0), Watts(50.0)); site.nodes.len()],
        };
        let node = |name: &str| site.node(name).unwrap().0;
        let whole = BTreeSet::from([
            node("r01-n1"),
            node("r02-n1"),
            node("r03-n1"),
            node("r04-n1"),
        ]);
        let term = &Contracts::new(&site).terms(&site, &measured, 0.02, &whole)[0];
        // Of the rack all, of r02-n1 all its devices, of r01-n1 one alone.
        assert_eq!(term.uncontrolled, Watts(4_000.0));
        assert_eq!(term.uncertainty, Watts(4.0 * 50.0 + 500.0));
    }
}
