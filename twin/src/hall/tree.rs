//! Power through the tree: what flows at every power node.

use heliostat_models::site::power::PowerNodeKind;
use heliostat_models::{Site, Watts};

/// Which power nodes carry what.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    parents: Vec<Vec<usize>>,
    /// Power node of each compute node.
    leaves: Vec<usize>,
    /// Where cooling and losses are fed in.
    facility: Vec<usize>,
}

impl Flow {
    /// Of a site. Cooling and losses are fed from its transformers; without
    /// one, from its roots. They share the load evenly.
    pub(crate) fn new(site: &Site) -> Self {
        let nodes = site.power.nodes();
        let of_kind = |kind: PowerNodeKind| -> Vec<usize> {
            (0..nodes.len())
                .filter(|i| nodes[*i].kind == kind)
                .collect()
        };
        let mut facility = of_kind(PowerNodeKind::Transformer);
        if facility.is_empty() {
            facility = (0..nodes.len())
                .filter(|i| nodes[*i].parents.is_empty())
                .collect();
        }
        Self {
            parents: nodes.iter().map(|n| n.parents.clone()).collect(),
            leaves: site.nodes.iter().map(|n| n.power_node).collect(),
            facility,
        }
    }

    /// Fills `flow` (one number a power node) from the power of each compute
    /// node and of the facility. Redundant feeds share evenly.
    pub(crate) fn fill(&self, nodes: &[Watts], facility: Watts, flow: &mut Vec<Watts>) {
        flow.clear();
        flow.resize(self.parents.len(), Watts::ZERO);
        for (leaf, power) in self.leaves.iter().zip(nodes) {
            flow[*leaf] += *power;
        }
        let part = facility / self.facility.len().max(1) as f64;
        for place in &self.facility {
            flow[*place] += part;
        }
        // Parents stand before their children.
        for index in (0..self.parents.len()).rev() {
            let up = flow[index] / self.parents[index].len().max(1) as f64;
            for parent in &self.parents[index] {
                flow[*parent] += up;
            }
        }
    }
}
