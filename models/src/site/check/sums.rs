//! Floors and safe caps: that they fit below every limit, from the node to the
//! utility feed, cooling included where its feeder is known.

use super::power::{Fed, Tree};
use crate::accelerators::AcceleratorCatalogue;
use crate::site::config::fault::Sink;
use crate::site::config::layout::{Sizes, layout};
use crate::site::config::partition::PartitionSection;
use crate::site::config::schema::SiteFile;
use std::collections::BTreeMap;

/// Power of the devices and nodes below something, in watts.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Draw {
    /// All devices at their lowest caps, nodes at their largest overhead.
    floor: f64,
    /// All devices at their safe caps.
    safe: f64,
    /// All devices at their highest caps.
    peak: f64,
}

impl Draw {
    pub(super) fn of_nodes(sizes: &Sizes, nodes: usize) -> Self {
        let nodes = nodes as f64;
        let at = |cap: f64| nodes * (sizes.overhead + f64::from(sizes.devices_per_node) * cap);
        Self {
            floor: at(sizes.min_cap),
            safe: at(sizes.safe_cap),
            peak: at(sizes.max_cap),
        }
    }

    /// Of devices alone, without their node.
    pub(super) fn of_devices(sizes: &Sizes, devices: u32) -> Self {
        let devices = f64::from(devices);
        Self {
            floor: devices * sizes.min_cap,
            safe: devices * sizes.safe_cap,
            peak: devices * sizes.max_cap,
        }
    }

    pub(super) fn add(&mut self, other: Self, factor: f64) {
        self.floor += factor * other.floor;
        self.safe += factor * other.safe;
        self.peak += factor * other.peak;
    }
}

/// Checks the limits of partitions, then their sums in the tree.
pub(super) fn check(
    file: &SiteFile,
    catalogue: &AcceleratorCatalogue,
    tree: &Tree<'_>,
    sink: &Sink,
) {
    let margin = (file.control.as_ref())
        .and_then(|control| control.margin.as_ref())
        .map_or(0.0, |margin| margin.value);
    let mut below: BTreeMap<&str, Draw> = BTreeMap::new();
    let mut all = Draw::default();
    for partition in &file.partitions {
        let Some(sizes) = partition.sizes(catalogue) else {
            continue;
        };
        own_limits(partition, &sizes, margin, sink);
        let (Some(racks), Some(feeders)) = (layout(partition), &partition.fed_by) else {
            continue;
        };
        if !partition.is_running() {
            continue;
        }
        for rack in racks {
            let draw = Draw::of_nodes(&sizes, rack.nodes.len());
            all.add(draw, 1.0);
            let group = feeders.value.get(rack.feeder).into_iter().flatten();
            for id in tree.upwards(group.map(|feeder| feeder.value.as_str())) {
                below.entry(id).or_default().add(draw, 1.0);
            }
        }
    }
    let cooling = file.cooling.as_ref();
    let pue = cooling
        .and_then(|c| c.design_pue.as_ref())
        .map_or(1.0, |pue| pue.value.max(1.0));
    if let Some(feeder) = cooling.and_then(|c| c.fed_by.as_ref()) {
        for id in tree.upwards([feeder.value.as_str()]) {
            below.entry(id).or_default().add(all, pue - 1.0);
        }
    }
    for (id, draw) in &below {
        if let Some(section) = tree.get(id)
            && let Some(limit) = &section.limit
        {
            let field = format!("{}limit_watts", section.prefix);
            within(
                &format!("`{id}`"),
                &field,
                *draw,
                limit.value,
                limit.at,
                margin,
                sink,
            );
        }
    }
    benchmark(file, all.peak * pue, sink);
}

/// Floors and safe caps against one limit.
pub(super) fn within(
    what: &str,
    field: &str,
    draw: Draw,
    limit: f64,
    at: usize,
    margin: f64,
    sink: &Sink,
) {
    let usable = limit * (1.0 - margin);
    if draw.floor > limit {
        sink.error(
            at,
            field,
            format!(
                "floors are above the limit: with all devices below {what} at their lowest caps, {:.0} W are drawn; the limit is {limit} W",
                draw.floor
            ),
            "raise the limit, or put fewer devices below it: no allocation can keep it",
        );
    } else if draw.safe > usable {
        sink.error(
            at,
            field,
            format!(
                "with all devices below {what} at their safe caps, {:.0} W are drawn; the limit less its margin is {usable:.0} W",
                draw.safe
            ),
            "lower safe_cap_watts: safe caps must keep every limit when control is lost",
        );
    }
}

/// What a benchmark drew against what the file says could be drawn.
fn benchmark(file: &SiteFile, peak: f64, sink: &Sink) {
    let benchmark = file
        .site
        .as_ref()
        .and_then(|site| site.benchmark_power.as_ref());
    if let Some(benchmark) = benchmark
        && peak > 0.0
        && benchmark.value > peak
    {
        sink.warning(
            benchmark.at,
            "site.benchmark_power_watts",
            format!(
                "a benchmark drew {} W, but all running partitions together can draw only {peak:.0} W",
                benchmark.value
            ),
            "check the caps and node_overhead_watts, or whether a partition is missing",
        );
    }
}

/// Limits of the racks and nodes that the partition makes.
fn own_limits(partition: &PartitionSection, sizes: &Sizes, margin: f64, sink: &Sink) {
    let path = partition.prefix.as_str();
    let fed = |what, prefix, rating, limit| Fed {
        what,
        path: prefix,
        rating,
        limit,
        oversized: partition.oversized,
    };
    let (rack_path, node_path) = (format!("{path}rack_"), format!("{path}node_"));
    let (rating, limit) = (
        partition.rack_rating.as_ref(),
        partition.rack_limit.as_ref(),
    );
    fed("a rack", &rack_path, rating, limit).check_own(sink);
    let (rating, limit) = (
        partition.node_rating.as_ref(),
        partition.node_limit.as_ref(),
    );
    let node = fed("a node", &node_path, rating, limit);
    node.check_own(sink);
    node.check_below(
        "its rack",
        Some(sizes.rack_rating),
        Some(sizes.rack_limit),
        sink,
    );
    if let Some(limit) = &partition.rack_limit {
        let most = sizes.nodes.div_ceil(u64::from(sizes.racks.max(1))) as usize;
        let draw = Draw::of_nodes(sizes, most);
        within(
            "a rack",
            &format!("{rack_path}limit_watts"),
            draw,
            limit.value,
            limit.at,
            margin,
            sink,
        );
    }
    // A node's limit falls back on its rating, then on what its parts can draw.
    if let Some(limit) = partition
        .node_limit
        .as_ref()
        .or(partition.node_rating.as_ref())
    {
        let draw = Draw::of_nodes(sizes, 1);
        within(
            "a node",
            &format!("{node_path}limit_watts"),
            draw,
            limit.value,
            limit.at,
            margin,
            sink,
        );
    }
}
