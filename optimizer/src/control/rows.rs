//! The limits above each device: power nodes by their place in the tree, then
//! the site's power contracts in the order of its file.

use heliostat_models::Site;
use std::collections::HashMap;
use std::ops::Range;

/// Limits by device. Devices of a node have the same ones, but for those that a
/// contract names singly.
#[derive(Clone, Debug)]
pub(super) struct LimitRows {
    /// By compute node.
    of_node: Vec<Vec<usize>>,
    /// All rows of the devices that a contract names singly.
    of_device: HashMap<usize, Vec<usize>>,
    /// Compute node of each device.
    node: Vec<usize>,
    count: usize,
}

impl LimitRows {
    /// Of a site.
    pub fn new(site: &Site) -> Self {
        let nodes = site.power.nodes().len();
        let mut by_power_node: HashMap<usize, Vec<usize>> = HashMap::new();
        for (place, contract) in site.power_contracts.iter().enumerate() {
            for node in &contract.nodes {
                by_power_node.entry(*node).or_default().push(nodes + place);
            }
        }
        let of_node: Vec<Vec<usize>> = (site.nodes.iter())
            .map(|node| {
                let mut rows = site.power.path_up(node.power_node);
                let contracts = rows.iter().filter_map(|v| by_power_node.get(v)).flatten();
                let mut contracts: Vec<usize> = contracts.copied().collect();
                // What a contract covers twice counts once.
                contracts.sort_unstable();
                contracts.dedup();
                rows.append(&mut contracts);
                rows
            })
            .collect();
        let node: Vec<usize> = site.devices.iter().map(|device| device.node).collect();
        let mut of_device: HashMap<usize, Vec<usize>> = HashMap::new();
        for (place, contract) in site.power_contracts.iter().enumerate() {
            for device in &contract.devices {
                let rows = of_device.entry(*device);
                let rows = rows.or_insert_with(|| of_node[node[*device]].clone());
                if !rows.contains(&(nodes + place)) {
                    rows.push(nodes + place);
                }
            }
        }
        Self {
            of_node,
            of_device,
            node,
            count: nodes + site.power_contracts.len(),
        }
    }

    /// The limits above a device, by its place in the site, nearest first.
    pub fn above(&self, device: usize) -> &[usize] {
        match self.of_device.get(&device) {
            Some(rows) => rows,
            None => &self.of_node[self.node[device]],
        }
    }

    /// The limits above any of these devices, each once.
    pub fn above_any(&self, devices: Range<usize>) -> Vec<usize> {
        let mut rows: Vec<usize> = devices.flat_map(|d| self.above(d)).copied().collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    /// How many limits there are.
    pub fn count(&self) -> usize {
        self.count
    }
}
