//! From the file's fields to a state.

use super::State;
use super::reader::{Fault, Faults, join};
use crate::check::{Terms, TripCurve};
use crate::control::contracts::Contracts;
use crate::control::measure::Measured;
use heliostat_models::site::Node;
use heliostat_models::{DeviceId, Site, Watts};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Share of a node's rated overhead by which a stated load may be more, where
/// the file does not say by how much: what control adds to a fresh reading.
const UNCERTAIN: f64 = 0.1;

const FIELDS: [&str; 10] = [
    "price_of_energy",
    "grid_limit_watts",
    "site_watts",
    "it_watts",
    "nodes",
    "devices",
    "contracts",
    "jobs",
    "lowering_seconds",
    "trip_curves",
];

/// Seconds until a lowered cap is in force, where the file says none: the
/// agents' answer, and a device's own second or two.
const LOWERING: f64 = 5.0;

/// Reads it.
pub(super) fn read(site: &Site, text: &str) -> Result<State, Vec<Fault>> {
    let mut faults = Faults::default();
    let value = match serde_json::from_str::<Value>(text) {
        Ok(value) => value,
        Err(error) => {
            faults.add("", format!("is no JSON: {error}"), "one JSON object");
            return Err(faults.0);
        }
    };
    let empty = Map::new();
    let file = faults.fields("", &value, &FIELDS).unwrap_or(&empty);
    let mut reading = Reading {
        site,
        faults,
        watts: BTreeMap::new(),
        ranges: BTreeMap::new(),
        pinned: BTreeMap::new(),
        in_force: BTreeMap::new(),
        steps: BTreeMap::new(),
    };
    reading.devices(file);
    let jobs = reading.jobs(file);
    let nodes = reading.nodes(file);
    let stated = reading.contracts(file, &nodes);
    let trip_curves = reading.trip_curves(file);
    let lowering = reading
        .faults
        .number("", "lowering_seconds", file, "seconds");
    let mut watts = |key: &str| reading.faults.number("", key, file, "watts").map(Watts);
    let (grid_limit, site_power, it_power) = (
        watts("grid_limit_watts"),
        watts("site_watts"),
        watts("it_watts"),
    );
    if let Some((site, it)) = site_power.zip(it_power).filter(|(site, it)| it > site) {
        let fault = format!("is {it}, more than the whole site draws");
        let allowed = format!("at most site_watts, {site}");
        reading.faults.add("it_watts", fault, allowed);
    }
    let unit = "weighted device hours at full speed per watt hour";
    let price = reading.faults.number("", "price_of_energy", file, unit);
    if !reading.faults.0.is_empty() {
        return Err(reading.faults.0);
    }
    let held: HashSet<&DeviceId> = jobs.iter().flat_map(|j| &j.devices).collect();
    let idle = (reading.watts.iter())
        .filter(|(device, _)| !held.contains(device) && !reading.pinned.contains_key(*device))
        .map(|(device, watts)| (device.clone(), *watts))
        .collect();
    let mut it = vec![Watts::ZERO; site.power.nodes().len()];
    let mut uncertain = it.clone();
    for (node, own) in site.nodes.iter().zip(&nodes) {
        for up in site.power.path_up(node.power_node) {
            it[up] += own.load;
            uncertain[up] += own.more;
        }
    }
    let measured = Measured {
        it_at_feed: it
            .iter()
            .zip(&uncertain)
            .map(|(it, more)| *it + *more)
            .collect(),
        it_uncontrolled: it,
        it_uncertain: uncertain.clone(),
        idle,
        site_power,
        site_power_at: None,
        it_power,
        nodes_measured: 0,
        overhead: nodes.iter().map(|own| (own.load, own.more)).collect(),
    };
    let (margin, whole) = (site.control.margin, BTreeSet::new());
    let mut contracts = Contracts::new(site).terms(site, &measured, margin, &whole);
    contracts.extend((stated.into_iter()).map(|c| c.term(site, &measured, margin)));
    let limits = |event: Option<Watts>| -> Vec<Watts> {
        let usable = 1.0 - site.control.margin;
        let under = |feed: bool, limit: Watts| match event {
            Some(event) if feed => limit.min(event) * usable,
            _ => limit * usable,
        };
        (site.power.nodes().iter())
            .map(|n| under(n.parents.is_empty(), n.limit))
            .collect()
    };
    let terms = Terms {
        contracts,
        steps: reading.steps,
        uncertainty: uncertain,
    };
    Ok(State {
        price_of_energy: price.unwrap_or(0.0),
        grid_limit,
        uncontrolled: measured.uncontrolled(site, &limits(None)),
        at_feed: measured.uncontrolled_at_feed(site, &limits(grid_limit)),
        idle: measured.idle,
        ranges: reading.ranges,
        pinned: reading.pinned,
        jobs,
        terms,
        in_force: reading.in_force,
        lowering_seconds: lowering.unwrap_or(LOWERING),
        trip_curves,
    })
}

/// What a node draws besides its devices.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeLoad {
    pub load: Watts,
    /// By how much it may be more.
    more: Watts,
    /// Whether the file says it; else it is the rated figure.
    pub is_stated: bool,
}

/// What has been read so far.
pub(super) struct Reading<'a> {
    pub site: &'a Site,
    pub faults: Faults,
    /// What devices were read to draw.
    watts: BTreeMap<DeviceId, Watts>,
    pub ranges: BTreeMap<DeviceId, (Watts, Watts)>,
    pub pinned: BTreeMap<DeviceId, Watts>,
    in_force: BTreeMap<DeviceId, Watts>,
    /// Devices' own steps.
    steps: BTreeMap<DeviceId, Watts>,
}

impl Reading<'_> {
    fn devices(&mut self, file: &Map<String, Value>) {
        const KNOWN: [&str; 6] = [
            "watts",
            "min_watts",
            "max_watts",
            "step_watts",
            "fixed_watts",
            "cap_watts",
        ];
        let Some(devices) = file.get("devices") else {
            return;
        };
        let allowed = "an object from names of devices to what is known of them";
        for (name, value) in self
            .faults
            .named("devices", devices, allowed)
            .into_iter()
            .flatten()
        {
            let at = join("devices", name);
            let id = DeviceId::from(name.as_str());
            let Some((_, device)) = self.site.device(&id) else {
                self.unknown(
                    &at,
                    "device",
                    self.site.devices.iter().map(|d| d.id.as_str()),
                );
                continue;
            };
            let Some(of) = self.faults.fields(&at, value, &KNOWN) else {
                continue;
            };
            let [watts, min, max, step, fixed, cap] =
                KNOWN.map(|key| self.faults.number(&at, key, of, "watts").map(Watts));
            let (low, high) = (min.unwrap_or(device.min_cap), max.unwrap_or(device.max_cap));
            if low > high {
                let fault = format!("its lowest cap {low} is above its highest {high}");
                self.faults.add(&at, fault, "min_watts not above max_watts");
            } else if min.is_some() || max.is_some() {
                self.ranges.insert(id.clone(), (low, high));
            }
            self.watts.extend(watts.map(|w| (id.clone(), w)));
            self.pinned.extend(fixed.map(|w| (id.clone(), w)));
            self.in_force.extend(cap.map(|w| (id.clone(), w)));
            self.steps
                .extend(step.filter(|s| s.0 > 0.0).map(|s| (id, s)));
        }
    }

    /// What every node of the site draws besides its devices.
    fn nodes(&mut self, file: &Map<String, Value>) -> Vec<NodeLoad> {
        const KNOWN: [&str; 3] = ["watts", "overhead_watts", "uncertainty_watts"];
        let rated = |node: &Node| NodeLoad {
            load: node.overhead,
            more: Watts::ZERO,
            is_stated: false,
        };
        let mut loads: Vec<NodeLoad> = self.site.nodes.iter().map(rated).collect();
        let Some(nodes) = file.get("nodes") else {
            return loads;
        };
        let allowed = "an object from names of nodes to what is known of them";
        for (name, value) in self
            .faults
            .named("nodes", nodes, allowed)
            .into_iter()
            .flatten()
        {
            let at = join("nodes", name);
            let Some((place, node)) = self.site.node(name) else {
                self.unknown(&at, "node", self.site.nodes.iter().map(|n| n.id.as_str()));
                continue;
            };
            let Some(of) = self.faults.fields(&at, value, &KNOWN) else {
                continue;
            };
            let [all, own, more] =
                KNOWN.map(|key| self.faults.number(&at, key, of, "watts").map(Watts));
            let stated = match (all, own) {
                (Some(_), Some(_)) => {
                    let fault =
                        "says both what the node draws and what it draws besides its devices";
                    self.faults
                        .add(&at, fault, "either watts or overhead_watts");
                    continue;
                }
                (Some(all), None) => self.besides(&at, node, all),
                (None, own) => own,
            };
            loads[place] = NodeLoad {
                load: stated.unwrap_or(node.overhead),
                more: more.unwrap_or(match stated {
                    Some(_) => node.overhead * UNCERTAIN,
                    None => Watts::ZERO,
                }),
                is_stated: stated.is_some(),
            };
        }
        loads
    }

    /// What a node draws besides its devices, all of which must have been read, and
    /// cannot draw more than it.
    fn besides(&mut self, at: &str, node: &Node, all: Watts) -> Option<Watts> {
        let mut drawn = Watts::ZERO;
        for device in &self.site.devices[node.devices.clone()] {
            let Some(watts) = self.watts.get(&device.id) else {
                let fault = format!("`devices.{}.watts` is missing", device.id);
                let allowed =
                    "watts of a node only with watts of all its devices; else overhead_watts";
                self.faults.add(&join(at, "watts"), fault, allowed);
                return None;
            };
            drawn += *watts;
        }
        if all < drawn {
            let fault = format!("is {all}, and its devices alone draw {drawn}");
            let allowed = format!("at least the watts of its devices, {drawn}");
            self.faults.add(&join(at, "watts"), fault, allowed);
            return None;
        }
        Some(all - drawn)
    }

    fn trip_curves(&mut self, file: &Map<String, Value>) -> BTreeMap<String, TripCurve> {
        let mut curves = self.site.trip_curves.clone();
        let Some(stated) = file.get("trip_curves") else {
            return curves;
        };
        let allowed = "an object from names of power nodes to lists of [multiple of the rating, seconds borne]";
        for (name, points) in (self.faults.named("trip_curves", stated, allowed))
            .into_iter()
            .flatten()
        {
            let at = join("trip_curves", name);
            if self.site.power.find(name).is_none() {
                let nodes = self.site.power.nodes().iter().map(|n| n.id.as_str());
                self.unknown(&at, "power node", nodes);
                continue;
            }
            let allowed = "a list of [multiple of the rating, seconds borne], multiples rising from 1, seconds falling";
            let pairs = serde_json::from_value::<Vec<(f64, f64)>>(points.clone());
            let curve = pairs
                .map_err(|e| e.to_string())
                .and_then(|pairs| TripCurve::new(&pairs).map_err(|e| e.to_string()));
            match curve {
                Ok(curve) => _ = curves.insert(name.clone(), curve),
                Err(fault) => self.faults.add(&at, fault, allowed),
            }
        }
        curves
    }

    /// The devices that a name stands for: one, those of a node or of a rack.
    pub(super) fn named_devices(&self, name: &str) -> Option<Vec<DeviceId>> {
        let site = self.site;
        if let Some((_, device)) = site.device(&DeviceId::from(name)) {
            return Some(vec![device.id.clone()]);
        }
        let of = |node: &Node| {
            site.devices[node.devices.clone()]
                .iter()
                .map(|d| d.id.clone())
        };
        if let Some((_, node)) = site.node(name) {
            return Some(of(node).collect());
        }
        let rack = site.racks.iter().position(|r| r.id == name)?;
        Some(
            site.nodes
                .iter()
                .filter(|n| n.rack == rack)
                .flat_map(of)
                .collect(),
        )
    }

    fn unknown<'n>(&mut self, at: &str, kind: &str, names: impl Iterator<Item = &'n str>) {
        let some: Vec<&str> = names.take(3).collect();
        let allowed = format!(
            "a {kind} of site `{}`, such as {}",
            self.site.id,
            some.join(", ")
        );
        self.faults
            .add(at, format!("is no {kind} of this site"), allowed);
    }
}
