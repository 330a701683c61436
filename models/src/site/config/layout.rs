//! What a partition comes to: its sizes with defaults filled in, and its racks
//! and nodes by name. Both the checks and the expansion work with it.

use super::partition::{PartitionSection, PartitionStatus};
use super::pattern::Filling;
use super::reader::Field;
use crate::accelerators::{Accelerator, AcceleratorCatalogue};
use crate::quantity::Watts;
use crate::site::FINEST_STEP;

/// Most nodes that a partition may have: ten times those of the largest site
/// there is. A slip of the pen must not fill the memory.
pub(crate) const MOST_NODES: u64 = 250_000;

/// What one partition says, with defaults filled in.
#[derive(Clone, Debug)]
pub(crate) struct Sizes {
    pub racks: u32,
    pub nodes: u64,
    pub devices_per_node: u32,
    pub overhead: f64,
    pub min_cap: f64,
    pub max_cap: f64,
    pub safe_cap: f64,
    pub cap_step: f64,
    pub rack_rating: f64,
    pub rack_limit: f64,
    pub node_rating: f64,
    pub node_limit: f64,
}

impl PartitionSection {
    /// Number of nodes, where known.
    pub(crate) fn node_count(&self) -> Option<u64> {
        if let Some(nodes) = &self.nodes {
            return Some(u64::from(nodes.value));
        }
        let (racks, nodes) = (self.racks.as_ref()?, self.nodes_per_rack.as_ref()?);
        Some(u64::from(racks.value) * u64::from(nodes.value))
    }

    /// Whether it is installed.
    pub(crate) fn is_running(&self) -> bool {
        (self.status.as_ref()).is_some_and(|s| s.value == PartitionStatus::Running)
    }

    /// Figures with defaults filled in; `None` where something is missing.
    pub(crate) fn sizes(&self, catalogue: &AcceleratorCatalogue) -> Option<Sizes> {
        let value = |field: &Field<f64>| field.as_ref().map(|field| field.value);
        let devices_per_node = self.devices_per_node.as_ref()?.value;
        let accelerator = (self.accelerator.as_ref()).and_then(|key| catalogue.get(&key.value));
        let of_device = |get: fn(&Accelerator) -> Watts| match accelerator {
            Some(accelerator) => Some(get(accelerator).get()),
            None if devices_per_node == 0 => Some(0.0),
            None => None,
        };
        let overhead = value(&self.node_overhead)?;
        let max_cap = value(&self.max_cap).or_else(|| of_device(|a| a.max_cap))?;
        let min_cap = value(&self.min_cap).or_else(|| of_device(|a| a.min_cap))?;
        let peak = overhead + f64::from(devices_per_node) * max_cap;
        // Without a limit of its own, a node may draw what its parts can.
        let node_limit = value(&self.node_limit).or(value(&self.node_rating));
        Some(Sizes {
            racks: self.racks.as_ref()?.value,
            nodes: self.node_count()?,
            devices_per_node,
            overhead,
            min_cap,
            max_cap,
            safe_cap: value(&self.safe_cap).unwrap_or(min_cap),
            cap_step: value(&self.cap_step).unwrap_or(FINEST_STEP.0),
            rack_rating: value(&self.rack_rating)?,
            rack_limit: value(&self.rack_limit)?,
            node_rating: value(&self.node_rating).or(node_limit).unwrap_or(peak),
            node_limit: node_limit.unwrap_or(peak),
        })
    }
}

/// A rack that a partition describes.
#[derive(Clone, Debug)]
pub(crate) struct PlannedRack {
    pub id: String,
    pub row: String,
    /// Index into the partition's `fed_by`.
    pub feeder: usize,
    /// Names of its nodes.
    pub nodes: Vec<String>,
}

/// The racks of a partition by name: neighbours share a feeder, nodes are
/// spread evenly. `None` where sizes or patterns are missing or too large.
pub(crate) fn layout(partition: &PartitionSection) -> Option<Vec<PlannedRack>> {
    let racks = partition.racks.as_ref()?.value;
    let nodes = partition
        .node_count()
        .filter(|nodes| *nodes <= MOST_NODES)?;
    let feeders = partition.fed_by.as_ref()?.value.len() as u64;
    let rack_pattern = &partition.rack_id.as_ref()?.value;
    let node_pattern = &partition.node_id.as_ref()?.value;
    let number = |field: &Field<u32>, default| field.as_ref().map_or(default, |f| f.value);
    let first_rack = number(&partition.first_rack, 1);
    let first_node = number(&partition.first_node, 1);
    let per_row = number(&partition.racks_per_row, racks).max(1);
    let share = |total: u64, rack: u32| u64::from(rack) * total / u64::from(racks.max(1));
    let mut index = 0;
    let planned = (0..racks).map(|r| {
        let row = r / per_row + 1;
        let row_id = match &partition.row_id {
            Some(pattern) => pattern.value.fill(&[("row", Filling::Number(row))]),
            None => format!("row{row}"),
        };
        let id = rack_pattern.fill(&[
            ("rack", Filling::Number(first_rack + r)),
            ("row", Filling::Number(row)),
        ]);
        let count = (share(nodes, r + 1) - share(nodes, r)) as u32;
        let names = (0..count).map(|n| {
            let name = node_pattern.fill(&[
                ("rack_id", Filling::Text(&id)),
                ("rack", Filling::Number(first_rack + r)),
                ("node", Filling::Number(first_node + n)),
                ("index", Filling::Number(first_node + index)),
            ]);
            index += 1;
            name
        });
        PlannedRack {
            nodes: names.collect(),
            row: row_id,
            feeder: share(feeders, r) as usize,
            id,
        }
    });
    Some(planned.collect())
}
