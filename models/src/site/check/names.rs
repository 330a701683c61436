//! Names: no two things share one where they could be mistaken for each other,
//! and generated names can stand in topics.

use crate::ids::is_valid_name;
use crate::site::config::fault::Sink;
use crate::site::config::layout::layout;
use crate::site::config::partition::PartitionSection;
use crate::site::config::reader::Field;
use crate::site::config::schema::SiteFile;
use crate::site::config::slot::NAME_RULE;
use std::collections::{HashMap, HashSet};

/// Names of one kind and where each stands first.
struct Names<'s> {
    sink: &'s Sink,
    kind: &'static str,
    first: HashMap<String, usize>,
}

impl<'s> Names<'s> {
    fn new(sink: &'s Sink, kind: &'static str) -> Self {
        Self {
            sink,
            kind,
            first: HashMap::new(),
        }
    }

    fn field(&mut self, field: &str, name: &Field<String>) {
        if let Some(name) = name {
            self.add(field, name.value.clone(), name.at);
        }
    }

    /// Whether the name was new.
    fn add(&mut self, field: &str, name: String, at: usize) -> bool {
        if let Some(first) = self.first.get(&name) {
            let (line, _) = self.sink.place(*first);
            self.sink.error(
                at,
                field,
                format!(
                    "`{name}` is the name of two {}; the first is on line {line}",
                    self.kind
                ),
                "give each its own name",
            );
            return false;
        }
        self.first.insert(name, at);
        true
    }
}

/// Names of all power nodes, racks and nodes included.
pub(super) fn power_names(file: &SiteFile) -> HashSet<String> {
    let mut names: HashSet<String> = (file.power.iter())
        .filter_map(|p| p.id.as_ref())
        .map(|id| id.value.clone())
        .collect();
    for partition in file.partitions.iter().filter(|p| p.is_running()) {
        for rack in layout(partition).unwrap_or_default() {
            names.insert(rack.id);
            names.extend(rack.nodes);
        }
    }
    names
}

/// Checks all names of a file.
pub(super) fn check(file: &SiteFile, sink: &Sink) {
    let mut halls = Names::new(sink, "halls");
    for hall in &file.halls {
        halls.field("hall.id", &hall.id);
    }
    let mut contracts = Names::new(sink, "contracts");
    for contract in &file.contracts {
        contracts.field("contract.id", &contract.id);
    }
    let mut power_contracts = Names::new(sink, "power contracts");
    for contract in &file.power_contracts {
        power_contracts.field(&format!("{}id", contract.prefix), &contract.id);
    }
    let mut partitions = Names::new(sink, "partitions");
    for partition in &file.partitions {
        partitions.field("partition.id", &partition.id);
    }
    let mut power = Names::new(sink, "power nodes");
    for node in &file.power {
        power.field("power.id", &node.id);
    }
    // What emits frames: nodes, their devices, meters, the plant, the grid.
    let mut sources = Names::new(sink, "sources of data");
    if let Some(zone) = file.grid.as_ref().and_then(|grid| grid.zone.as_ref()) {
        sources.add("grid.zone", format!("grid-{}", zone.value), zone.at);
    }
    if let Some(cooling) = &file.cooling {
        sources.field("cooling.id", &cooling.id);
    }
    for meter in &file.meters {
        sources.field("meter.id", &meter.id);
    }
    for partition in &file.partitions {
        generated(partition, &mut power, &mut sources, sink);
    }
}

/// Racks, nodes and devices of a partition. One fault of a kind is enough: the
/// same pattern makes all the others.
fn generated(
    partition: &PartitionSection,
    power: &mut Names<'_>,
    sources: &mut Names<'_>,
    sink: &Sink,
) {
    let (Some(racks), Some(rack_id), Some(node_id)) =
        (layout(partition), &partition.rack_id, &partition.node_id)
    else {
        return;
    };
    let path = partition.prefix.as_str();
    let (rack_field, node_field) = (format!("{path}rack_id"), format!("{path}node_id"));
    let devices = partition.devices_per_node.as_ref().map_or(0, |d| d.value);
    let invalid = |at: usize, field: &str, name: &str| {
        let message = format!("the pattern makes `{name}`, which cannot be a name");
        sink.error(at, field, message, NAME_RULE);
    };
    let (mut racks_sound, mut nodes_sound) = (true, true);
    for rack in racks {
        if racks_sound && !is_valid_name(&rack.id) {
            invalid(rack_id.at, &rack_field, &rack.id);
            racks_sound = false;
        }
        racks_sound = racks_sound && power.add(&rack_field, rack.id, rack_id.at);
        for node in rack.nodes {
            if !nodes_sound {
                break;
            }
            // The longest name that is made of the node's.
            let longest = format!("{node}-gpu{}", devices.saturating_sub(1));
            if !is_valid_name(&longest) {
                invalid(node_id.at, &node_field, &longest);
                nodes_sound = false;
                break;
            }
            nodes_sound = sources.add(&node_field, node.clone(), node_id.at)
                && power.add(&node_field, node.clone(), node_id.at)
                && (0..devices)
                    .all(|d| sources.add(&node_field, format!("{node}-gpu{d}"), node_id.at));
        }
    }
}
