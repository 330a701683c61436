//! A checked file becomes a [`Site`]: racks, nodes and devices by name.

use super::LoadOptions;
use super::pattern::Filling;
use super::reader::Field;
use super::schema::{PartitionSection, PartitionStatus, PowerSection, SiteFile};
use crate::accelerators::{Accelerator, AcceleratorCatalogue};
use crate::ids::{DeviceId, NodeId, SiteId};
use crate::quantity::{Celsius, Watts};
use crate::site::power::{PowerNode, PowerNodeKind, PowerTree};
use crate::site::{
    ClassPolicy, Contract, ControlPolicy, Cooling, Device, Hall, Meter, Node, Rack, Site,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The name of a field without which a site cannot be made. The checks find
/// such fields first, so none is met after them.
pub(crate) type Lacking = &'static str;

fn need<'f, T>(field: &'f Field<T>, name: Lacking) -> Result<&'f T, Lacking> {
    field.as_ref().map(|field| &field.value).ok_or(name)
}

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
            rack_rating: value(&self.rack_rating)?,
            rack_limit: value(&self.rack_limit)?,
            node_rating: value(&self.node_rating).or(node_limit).unwrap_or(peak),
            node_limit: node_limit.unwrap_or(peak),
        })
    }
}

/// Which of `groups` feeders carries rack `rack` of `racks`: neighbours share one.
pub(crate) fn feeder_of(rack: u32, racks: u32, groups: usize) -> usize {
    (u64::from(rack) * groups as u64 / u64::from(racks.max(1))) as usize
}

/// Number of the first node of a rack; nodes are spread evenly.
pub(crate) fn nodes_before(rack: u32, racks: u32, nodes: u64) -> u64 {
    u64::from(rack) * nodes / u64::from(racks.max(1))
}

/// Sections of the power tree, parents first; those in a circle or below a
/// missing parent are left out.
pub(crate) fn in_order(sections: &[PowerSection]) -> Vec<&PowerSection> {
    let mut placed: Vec<&str> = Vec::new();
    let mut ordered = Vec::new();
    let mut waiting: Vec<&PowerSection> = sections.iter().collect();
    loop {
        let before = waiting.len();
        waiting.retain(|section| {
            let Some((id, feeds)) = section.id.as_ref().zip(section.feeds.as_ref()) else {
                return true;
            };
            let ready = feeds.value.iter().all(|f| placed.contains(&f.value.as_str()));
            if ready {
                placed.push(&id.value);
                ordered.push(*section);
            }
            !ready
        });
        if waiting.is_empty() || waiting.len() == before {
            return ordered;
        }
    }
}

/// Makes the site.
pub(crate) fn expand(
    file: &SiteFile,
    catalogue: &AcceleratorCatalogue,
    options: LoadOptions,
) -> Result<Site, Lacking> {
    let section = file.site.as_ref().ok_or("site")?;
    let grid = file.grid.as_ref().ok_or("grid")?;
    let mut site = Site {
        id: SiteId::from(need(&section.id, "site.id")?.as_str()),
        name: need(&section.name, "site.name")?.clone(),
        country: need(&section.country, "site.country")?.clone(),
        zone: need(&grid.zone, "grid.zone")?.clone(),
        latitude: *need(&section.latitude, "site.latitude")?,
        longitude: *need(&section.longitude, "site.longitude")?,
        power: PowerTree::default(),
        halls: Vec::new(),
        racks: Vec::new(),
        nodes: Vec::new(),
        devices: Vec::new(),
        meters: meters(file)?,
        cooling: cooling(file)?,
        contracts: contracts(file)?,
        classes: classes(file)?,
        control: control(file)?,
        names: HashMap::new(),
    };
    for hall in &file.halls {
        site.halls.push(Hall {
            id: need(&hall.id, "hall.id")?.clone(),
            name: need(&hall.name, "hall.name")?.clone(),
        });
    }
    let mut power = HashMap::new();
    for section in in_order(&file.power) {
        let id = need(&section.id, "power.id")?;
        let parents = (need(&section.feeds, "power.feeds")?.iter())
            .map(|feed| power.get(feed.value.as_str()).copied().ok_or("power.feeds"))
            .collect::<Result<Vec<usize>, _>>()?;
        let index = site.power.push(PowerNode {
            id: id.clone(),
            kind: *need(&section.kind, "power.kind")?,
            parents,
            rating: Watts(*need(&section.rating, "power.rating_watts")?),
            limit: Watts(*need(&section.limit, "power.limit_watts")?),
        });
        power.insert(id.as_str(), index.ok_or("power.feeds")?);
    }
    for partition in &file.partitions {
        // What is only ordered has no size yet, more often than not.
        let known = partition.is_running()
            || (options.include_contracted && partition.sizes(catalogue).is_some());
        if known && (partition.is_running() || options.include_contracted) {
            add_partition(&mut site, partition, catalogue, &power)?;
        }
    }
    Ok(site)
}

fn add_partition(
    site: &mut Site,
    partition: &PartitionSection,
    catalogue: &AcceleratorCatalogue,
    power: &HashMap<&str, usize>,
) -> Result<(), Lacking> {
    let sizes = partition.sizes(catalogue).ok_or("partition")?;
    let hall_id = need(&partition.hall, "partition.hall")?;
    let hall = (site.halls.iter().position(|hall| hall.id == *hall_id)).ok_or("partition.hall")?;
    let feeders = need(&partition.fed_by, "partition.fed_by")?;
    let rack_pattern = need(&partition.rack_id, "partition.rack_id")?;
    let node_pattern = need(&partition.node_id, "partition.node_id")?;
    let accelerator: Arc<str> = match &partition.accelerator {
        Some(key) => Arc::from(key.value.as_str()),
        None => Arc::from(""),
    };
    let number = |field: &Field<u32>, default| field.as_ref().map_or(default, |f| f.value);
    let first_rack = number(&partition.first_rack, 1);
    let first_node = number(&partition.first_node, 1);
    let per_row = number(&partition.racks_per_row, sizes.racks);
    let mut index = 0_u32;
    for r in 0..sizes.racks {
        let row = r / per_row.max(1) + 1;
        let rack_id = rack_pattern.fill(&[
            ("rack", Filling::Number(first_rack + r)),
            ("row", Filling::Number(row)),
        ]);
        let row_id = match &partition.row_id {
            Some(pattern) => pattern.value.fill(&[("row", Filling::Number(row))]),
            None => format!("row{row}"),
        };
        let parents = (feeders.get(feeder_of(r, sizes.racks, feeders.len())))
            .ok_or("partition.fed_by")?
            .iter()
            .map(|feed| power.get(feed.value.as_str()).copied().ok_or("partition.fed_by"))
            .collect::<Result<Vec<usize>, _>>()?;
        let rack_power = (site.power.push(PowerNode {
            id: rack_id.clone(),
            kind: PowerNodeKind::Rack,
            parents,
            rating: Watts(sizes.rack_rating),
            limit: Watts(sizes.rack_limit),
        }))
        .ok_or("partition.fed_by")?;
        let rack = site.racks.len();
        let nodes = nodes_before(r + 1, sizes.racks, sizes.nodes)
            - nodes_before(r, sizes.racks, sizes.nodes);
        for n in 0..nodes as u32 {
            let node_id = node_pattern.fill(&[
                ("rack_id", Filling::Text(&rack_id)),
                ("rack", Filling::Number(first_rack + r)),
                ("node", Filling::Number(first_node + n)),
                ("index", Filling::Number(first_node + index)),
            ]);
            index += 1;
            let power_node = (site.power.push(PowerNode {
                id: node_id.clone(),
                kind: PowerNodeKind::Node,
                parents: vec![rack_power],
                rating: Watts(sizes.node_rating),
                limit: Watts(sizes.node_limit),
            }))
            .ok_or("partition.node_id")?;
            let first_device = site.devices.len();
            for d in 0..sizes.devices_per_node {
                site.devices.push(Device {
                    id: DeviceId::from(format!("{node_id}-gpu{d}")),
                    node: site.nodes.len(),
                    index: d,
                    accelerator: Arc::clone(&accelerator),
                    min_cap: Watts(sizes.min_cap),
                    max_cap: Watts(sizes.max_cap),
                    safe_cap: Watts(sizes.safe_cap),
                });
            }
            site.nodes.push(Node {
                id: NodeId::from(node_id),
                rack,
                power_node,
                overhead: Watts(sizes.overhead),
                devices: first_device..site.devices.len(),
            });
        }
        site.racks.push(Rack {
            id: rack_id,
            row: row_id,
            hall,
            power_node: rack_power,
        });
    }
    Ok(())
}

fn meters(file: &SiteFile) -> Result<Vec<Meter>, Lacking> {
    (file.meters.iter())
        .map(|meter| {
            Ok(Meter {
                id: DeviceId::from(need(&meter.id, "meter.id")?.as_str()),
                role: *need(&meter.role, "meter.role")?,
                at: meter.place.as_ref().map(|place| place.value.clone()),
                pue_category: meter.pue_category.as_ref().map(|c| c.value as u8),
            })
        })
        .collect()
}

fn cooling(file: &SiteFile) -> Result<Cooling, Lacking> {
    let cooling = file.cooling.as_ref().ok_or("cooling")?;
    Ok(Cooling {
        id: DeviceId::from(need(&cooling.id, "cooling.id")?.as_str()),
        kind: (*need(&cooling.kind, "cooling.kind")?).to_owned(),
        supply: Celsius(*need(&cooling.supply, "cooling.supply_celsius")?),
        design_pue: *need(&cooling.design_pue, "cooling.design_pue")?,
        free_cooling_below: Celsius(*need(
            &cooling.free_cooling_below,
            "cooling.free_cooling_below_celsius",
        )?),
    })
}

fn contracts(file: &SiteFile) -> Result<Vec<Contract>, Lacking> {
    (file.contracts.iter())
        .map(|contract| {
            Ok(Contract {
                id: need(&contract.id, "contract.id")?.clone(),
                kind: (*need(&contract.kind, "contract.kind")?).to_owned(),
                renewable_share: *need(&contract.renewable_share, "contract.renewable_share")?,
            })
        })
        .collect()
}

fn classes(file: &SiteFile) -> Result<BTreeMap<crate::JobClass, ClassPolicy>, Lacking> {
    (file.classes.iter())
        .map(|class| {
            let policy = ClassPolicy {
                weight: *need(&class.weight, "class.weight")?,
                floor_speed: *need(&class.floor_speed, "class.floor_speed")?,
                interruptible: *need(&class.interruptible, "class.interruptible")?,
                pause_minutes: *need(&class.pause_minutes, "class.pause_minutes")?,
            };
            Ok((class.class, policy))
        })
        .collect()
}

fn control(file: &SiteFile) -> Result<ControlPolicy, Lacking> {
    let control = file.control.as_ref().ok_or("control")?;
    let seconds = |field: &Field<f64>, name: Lacking| -> Result<Duration, Lacking> {
        Ok(Duration::from_secs_f64(*need(field, name)?))
    };
    Ok(ControlPolicy {
        // Observe-only is the default.
        armed: control.armed.as_ref().is_some_and(|armed| armed.value),
        allocate_every: seconds(&control.allocate_every, "control.allocate_every_seconds")?,
        lease: seconds(&control.lease, "control.lease_seconds")?,
        plan_every: seconds(&control.plan_every, "control.plan_every_seconds")?,
        sample_every: seconds(&control.sample_every, "control.sample_every_seconds")?,
        margin: *need(&control.margin, "control.margin_ratio")?,
        carbon_weight: *need(&control.carbon_weight, "control.carbon_weight")?,
    })
}
