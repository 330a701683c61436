//! Partitions: that what they name exists and that their sizes agree.

use super::power::{Fed, Tree};
use super::use_one_of;
use crate::accelerators::AcceleratorCatalogue;
use crate::site::config::fault::Sink;
use crate::site::config::layout::MOST_NODES;
use crate::site::config::partition::PartitionSection;
use crate::site::config::reader::{At, Field};
use crate::site::config::schema::SiteFile;

/// Checks all partitions; [`super::sums`] adds them up.
pub(super) fn check(
    file: &SiteFile,
    catalogue: &AcceleratorCatalogue,
    tree: &Tree<'_>,
    sink: &Sink,
) {
    if !file
        .partitions
        .iter()
        .any(|p| p.status.is_none() || p.is_running())
    {
        sink.warning(
            0,
            "partition",
            "no partition is running: there is nothing to measure",
            "add a [[partition]] with status = \"running\"",
        );
    }
    for partition in &file.partitions {
        one(partition, file, catalogue, tree, sink);
    }
}

fn one(
    partition: &PartitionSection,
    file: &SiteFile,
    catalogue: &AcceleratorCatalogue,
    tree: &Tree<'_>,
    sink: &Sink,
) {
    let path = partition.prefix.as_str();
    let error = |field: &str, at: usize, message: String, remedy: String| {
        sink.error(at, &format!("{path}{field}"), message, remedy);
    };
    if let Some(hall) = &partition.hall {
        let halls = file
            .halls
            .iter()
            .filter_map(|h| h.id.as_ref())
            .map(|id| id.value.as_str());
        if !halls.clone().any(|id| id == hall.value) {
            let remedy = use_one_of(&hall.value, halls);
            error(
                "hall",
                hall.at,
                format!("unknown hall `{}`", hall.value),
                remedy,
            );
        }
    }
    accelerator(partition, catalogue, &error);
    if !partition.is_running()
        && partition.status.is_some()
        && partition.node_count().is_none()
        && partition.announced.is_none()
    {
        error(
            "announced",
            partition.at,
            "this contracted partition says neither its size nor what is announced".to_owned(),
            "add `announced` with what is known, or racks and nodes_per_rack".to_owned(),
        );
    }
    if let (Some(count), Some(per_rack)) = (partition.node_count(), &partition.nodes_per_rack)
        && count > MOST_NODES
    {
        error(
            "nodes_per_rack",
            per_rack.at,
            format!("a partition of {count} nodes is too large"),
            format!("the most is {MOST_NODES}; correct racks and nodes_per_rack, or split it"),
        );
    }
    if let (Some(nodes), Some(racks), Some(per_rack)) = (
        &partition.nodes,
        &partition.racks,
        &partition.nodes_per_rack,
    ) {
        let room = u64::from(racks.value) * u64::from(per_rack.value);
        if u64::from(nodes.value) > room {
            error(
                "nodes",
                nodes.at,
                format!(
                    "{} nodes do not fit into {} racks of {}",
                    nodes.value, racks.value, per_rack.value
                ),
                format!("there is room for {room}; add racks or correct the number"),
            );
        }
        if nodes.value < racks.value {
            error(
                "nodes",
                nodes.at,
                format!(
                    "{} nodes in {} racks leave racks empty",
                    nodes.value, racks.value
                ),
                "name only racks that hold nodes".to_owned(),
            );
        }
    }
    let Some(feeders) = &partition.fed_by else {
        return;
    };
    if feeders.value.iter().all(Vec::is_empty) {
        error(
            "fed_by",
            feeders.at,
            "its devices are under no breaker: nothing with a limit feeds them".to_owned(),
            format!(
                "name the power nodes that feed its racks; {}",
                use_one_of("", tree.ids())
            ),
        );
    }
    if let Some(racks) = &partition.racks
        && feeders.value.len() > racks.value as usize
    {
        error(
            "fed_by",
            feeders.at,
            format!(
                "{} feeders for {} racks: some feed nothing",
                feeders.value.len(),
                racks.value
            ),
            "name at most one feeder, or group of redundant feeders, a rack".to_owned(),
        );
    }
    for feeder in feeders.value.iter().flatten() {
        match tree.get(&feeder.value) {
            None => error(
                "fed_by",
                feeder.at,
                format!(
                    "its devices are under no breaker: `{}` is not in the power tree",
                    feeder.value
                ),
                use_one_of(&feeder.value, tree.ids()),
            ),
            Some(above) => Fed {
                what: "a rack",
                path: &format!("{path}rack_"),
                rating: partition.rack_rating.as_ref(),
                limit: partition.rack_limit.as_ref(),
                oversized: partition.oversized,
            }
            .check_below(
                &format!("`{}`", feeder.value),
                above.rating.as_ref().map(|r| r.value),
                above.limit.as_ref().map(|l| l.value),
                sink,
            ),
        }
    }
}

fn accelerator(
    partition: &PartitionSection,
    catalogue: &AcceleratorCatalogue,
    error: &dyn Fn(&str, usize, String, String),
) {
    let Some(key) = &partition.accelerator else {
        if let Some(devices) = &partition.devices_per_node
            && devices.value > 0
        {
            error(
                "accelerator",
                devices.at,
                format!("{} devices a node, but no `accelerator`", devices.value),
                use_one_of("", catalogue.iter().map(|a| a.key.as_str())),
            );
        }
        return;
    };
    let Some(known) = catalogue.get(&key.value) else {
        error(
            "accelerator",
            key.at,
            format!("unknown accelerator `{}`", key.value),
            use_one_of(&key.value, catalogue.iter().map(|a| a.key.as_str())),
        );
        return;
    };
    let (low, high) = (known.min_cap.get(), known.max_cap.get());
    let caps: [(&str, &Field<f64>); 3] = [
        ("min_cap_watts", &partition.min_cap),
        ("max_cap_watts", &partition.max_cap),
        ("safe_cap_watts", &partition.safe_cap),
    ];
    for (field, cap) in caps {
        if let Some(cap) = cap
            && !(low..=high).contains(&cap.value)
        {
            error(
                field,
                cap.at,
                format!("a cap of {} W cannot be set on {}", cap.value, known.name),
                format!("it takes {low} to {high} W"),
            );
        }
    }
    let bound = |field: &Field<f64>, default: f64| field.as_ref().map_or(default, |f| f.value);
    let (low, high) = (
        bound(&partition.min_cap, low),
        bound(&partition.max_cap, high),
    );
    let blamed = partition.safe_cap.as_ref().or(partition.min_cap.as_ref());
    if let Some(blamed) = blamed {
        let safe = bound(&partition.safe_cap, low);
        if low > high || !(low..=high).contains(&safe) {
            error(
                "safe_cap_watts",
                blamed.at,
                format!("the caps are out of order: lowest {low}, safe {safe}, highest {high} W"),
                "keep min_cap_watts <= safe_cap_watts <= max_cap_watts".to_owned(),
            );
        }
    }
    if let Some(step) = &partition.cap_step {
        steps(partition, step, (low, high), error);
    }
}

/// Caps that stand in the file must be ones that can be set.
fn steps(
    partition: &PartitionSection,
    step: &At<f64>,
    (low, high): (f64, f64),
    error: &dyn Fn(&str, usize, String, String),
) {
    if step.value > high - low && high > low {
        let message = format!(
            "a step of {} W leaves no cap between the lowest ({low} W) and the highest ({high} W)",
            step.value
        );
        let remedy = "write the smallest change of a cap that the device can be set to".to_owned();
        error("cap_step_watts", step.at, message, remedy);
    }
    let Some(safe) = &partition.safe_cap else {
        return;
    };
    let count = safe.value / step.value;
    let settable = (count - count.round()).abs() < 1e-6 || safe.value == low || safe.value == high;
    if !settable {
        let message = format!(
            "a safe cap of {} W is no multiple of the step of {} W",
            safe.value, step.value
        );
        let remedy = format!("use {} W", (count.floor() * step.value).max(low));
        error("safe_cap_watts", safe.at, message, remedy);
    }
}
