//! The site's power contracts with what their members draw now.
//!
//! Below a power node that is a member everything counts that no cap controls:
//! each node's own draw once, however many members it is below, and the plant
//! where a member carries it. Single devices bring nothing with them.

use super::measure::Measured;
use crate::check::ContractTerm;
use heliostat_models::Watts;
use heliostat_models::site::power::PowerNodeKind;
use heliostat_models::site::{PowerContract, Site};

/// What a contract covers besides caps.
#[derive(Clone, Debug, PartialEq)]
struct Covered {
    /// Compute nodes, by place in the site.
    nodes: Vec<usize>,
    /// Whether a utility feed is among its members.
    feed: bool,
    /// Transformers at or below its members, by place in the tree.
    transformers: Vec<usize>,
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
    /// the share of each limit that is never given away.
    pub fn terms(&self, site: &Site, measured: &Measured, margin: f64) -> Vec<ContractTerm> {
        (site.power_contracts.iter().zip(&self.covered))
            .map(|(contract, covered)| {
                let (mut load, mut more) = (Watts::ZERO, Watts::ZERO);
                for node in &covered.nodes {
                    load += measured.overhead[*node].0;
                    more += measured.overhead[*node].1;
                }
                let limit = contract.usable(margin);
                ContractTerm {
                    id: contract.id.clone(),
                    limit: contract.limit,
                    in_full: contract.in_full,
                    uncontrolled: load + covered.plant(site, measured, limit),
                    uncertainty: more,
                    members: contract.members.clone(),
                }
            })
            .collect()
    }
}

impl Covered {
    fn new(site: &Site, contract: &PowerContract) -> Self {
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
        }
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
