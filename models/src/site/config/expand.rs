//! A checked file becomes a [`Site`]: racks, nodes and devices by name.

use super::LoadOptions;
use super::layout::layout;
use super::partition::PartitionSection;
use super::reader::Field;
use super::schema::{PowerSection, RampFields, SiteFile};
use crate::accelerators::AcceleratorCatalogue;
use crate::ids::{DeviceId, NodeId, SiteId};
use crate::quantity::{Celsius, Watts};
use crate::site::power::{PowerNode, PowerNodeKind, PowerTree};
use crate::site::ramp::{RampLimit, RampPolicy, USUAL_WINDOW};
use crate::site::store::StoreChoice;
use crate::site::{
    ClassPolicy, Contract, ControlPolicy, Cooling, Device, Hall, Meter, Node, PowerContract, Rack,
    Site,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// The name of a field without which a site cannot be made. The checks find
/// such fields first, so none is met after them.
pub(crate) type Lacking = &'static str;

fn need<T>(field: &Field<T>, name: Lacking) -> Result<&T, Lacking> {
    field.as_ref().map(|field| &field.value).ok_or(name)
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
            let ready = feeds
                .value
                .iter()
                .all(|f| placed.contains(&f.value.as_str()));
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
        power_contracts: Vec::new(),
        trip_curves: BTreeMap::new(),
        classes: classes(file)?,
        control: control(file)?,
        ramps: ramps(file),
        store: store(file)?,
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
        let index = index.ok_or("power.feeds")?;
        site.ramps.add(ramp(Some(index), &section.ramp));
        power.insert(id.as_str(), index);
        if let Some(curve) = &section.trip_curve {
            site.trip_curves.insert(id.clone(), curve.value.clone());
        }
    }
    for partition in &file.partitions {
        // What is only ordered has no size yet, more often than not.
        let known = partition.is_running()
            || (options.include_contracted && partition.sizes(catalogue).is_some());
        if known && (partition.is_running() || options.include_contracted) {
            add_partition(&mut site, partition, catalogue, &power)?;
        }
    }
    site.power_contracts = power_contracts(file, &site)?;
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
    let accelerator: Arc<str> = match &partition.accelerator {
        Some(key) => Arc::from(key.value.as_str()),
        None => Arc::from(""),
    };
    for planned in layout(partition).ok_or("partition.racks")? {
        let parents = (feeders.get(planned.feeder))
            .ok_or("partition.fed_by")?
            .iter()
            .map(|feed| {
                power
                    .get(feed.value.as_str())
                    .copied()
                    .ok_or("partition.fed_by")
            })
            .collect::<Result<Vec<usize>, _>>()?;
        let rack_power = (site.power.push(PowerNode {
            id: planned.id.clone(),
            kind: PowerNodeKind::Rack,
            parents,
            rating: Watts(sizes.rack_rating),
            limit: Watts(sizes.rack_limit),
        }))
        .ok_or("partition.fed_by")?;
        if let Some(curve) = &partition.rack_trip_curve {
            (site.trip_curves).insert(planned.id.clone(), curve.value.clone());
        }
        let rack = site.racks.len();
        for node_id in planned.nodes {
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
                    cap_step: Watts(sizes.cap_step),
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
            id: planned.id,
            row: planned.row,
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

/// Contracts over power nodes and devices, their members found by name.
fn power_contracts(file: &SiteFile, site: &Site) -> Result<Vec<PowerContract>, Lacking> {
    if file.power_contracts.is_empty() {
        return Ok(Vec::new());
    }
    let nodes: HashMap<&str, usize> = (site.power.nodes().iter().enumerate())
        .map(|(place, node)| (node.id.as_str(), place))
        .collect();
    let devices: HashMap<&str, usize> = (site.devices.iter().enumerate())
        .map(|(place, device)| (device.id.as_str(), place))
        .collect();
    let place = |by_name: &HashMap<&str, usize>, member: &String| by_name.get(&**member).copied();
    (file.power_contracts.iter())
        .map(|section| {
            let members: Vec<String> = (need(&section.members, "power_contract.members")?.iter())
                .map(|member| member.value.clone())
                .collect();
            let known =
                |member: &String| nodes.contains_key(&**member) || devices.contains_key(&**member);
            if !members.iter().all(known) {
                return Err("power_contract.members");
            }
            Ok(PowerContract {
                id: need(&section.id, "power_contract.id")?.clone(),
                limit: Watts(*need(&section.limit, "power_contract.limit_watts")?),
                in_full: section.in_full,
                nodes: members.iter().filter_map(|m| place(&nodes, m)).collect(),
                devices: (members.iter())
                    .filter(|m| !nodes.contains_key(m.as_str()))
                    .filter_map(|m| place(&devices, m))
                    .collect(),
                members,
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

fn store(file: &SiteFile) -> Result<StoreChoice, Lacking> {
    match &file.store {
        None => Ok(StoreChoice::default()),
        Some(section) => section.choice.clone().ok_or("store.engine"),
    }
}

/// Where a site does not say: a year, and some to look into it.
pub(crate) const KEEP_DAYS: u32 = 400;
/// Ten years and a week: for so long records of measuring points and devices are
/// to be kept by Delegated Regulation (EU) 2024/1364, annex II.
pub(crate) const KEEP_DECISIONS: u32 = 3_660;

fn control(file: &SiteFile) -> Result<ControlPolicy, Lacking> {
    let control = file.control.as_ref().ok_or("control")?;
    let seconds = |field: &Field<f64>, name: Lacking| -> Result<Duration, Lacking> {
        Ok(Duration::from_secs_f64(*need(field, name)?))
    };
    let days = |field: &Field<u32>| field.as_ref().map_or(KEEP_DAYS, |days| days.value);
    Ok(ControlPolicy {
        // Observe-only is the default.
        armed: control.armed.as_ref().is_some_and(|armed| armed.value),
        allocate_every: seconds(&control.allocate_every, "control.allocate_every_seconds")?,
        lease: seconds(&control.lease, "control.lease_seconds")?,
        plan_every: seconds(&control.plan_every, "control.plan_every_seconds")?,
        sample_every: seconds(&control.sample_every, "control.sample_every_seconds")?,
        margin: *need(&control.margin, "control.margin_ratio")?,
        carbon_weight: *need(&control.carbon_weight, "control.carbon_weight")?,
        keep_inputs_days: days(&control.keep_inputs_days),
        keep_jobs_days: days(&control.keep_jobs_days),
        keep_decisions_days: (control.keep_decisions_days.as_ref())
            .map_or(KEEP_DECISIONS, |days| days.value),
    })
}

/// The site's own ramp limits; those of power nodes come with their nodes.
fn ramps(file: &SiteFile) -> RampPolicy {
    let control = file.control.as_ref();
    let window = control.and_then(|c| c.ramp_window.as_ref());
    let mut ramps = RampPolicy {
        window: window.map_or(USUAL_WINDOW, |w| Duration::from_secs_f64(w.value)),
        limits: Vec::new(),
    };
    if let Some(control) = control {
        ramps.add(ramp(None, &control.ramp));
    }
    ramps
}

fn ramp(at: Option<usize>, fields: &RampFields) -> RampLimit {
    let rate = |field: &Field<f64>| field.as_ref().map(|f| Watts(f.value));
    RampLimit {
        at,
        up: rate(&fields.up),
        down: rate(&fields.down),
    }
}
