//! From the file's fields to a state.

use super::State;
use super::reader::{Fault, Faults, join};
use crate::check::{ContractTerm, Terms, TripCurve};
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
        terms: Terms::default(),
    };
    reading.devices(file);
    let jobs = reading.jobs(file);
    let (overhead, uncertainty) = reading.nodes(file);
    reading.contracts(file);
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
    for (node, (load, more)) in site.nodes.iter().zip(overhead.iter().zip(&uncertainty)) {
        for up in site.power.path_up(node.power_node) {
            it[up] += *load;
            uncertain[up] += *more;
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
        it_power,
        nodes_measured: 0,
        overhead: overhead.into_iter().zip(uncertainty).collect(),
    };
    let mut contracts =
        Contracts::new(site).terms(site, &measured, site.control.margin, &BTreeSet::new());
    contracts.append(&mut reading.terms.contracts);
    reading.terms.contracts = contracts;
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
    reading.terms.uncertainty = uncertain;
    Ok(State {
        price_of_energy: price.unwrap_or(0.0),
        grid_limit,
        uncontrolled: measured.uncontrolled(site, &limits(None)),
        at_feed: measured.uncontrolled_at_feed(site, &limits(grid_limit)),
        idle: measured.idle,
        ranges: reading.ranges,
        pinned: reading.pinned,
        jobs,
        terms: reading.terms,
        in_force: reading.in_force,
        lowering_seconds: lowering.unwrap_or(LOWERING),
        trip_curves,
    })
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
    terms: Terms,
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
            self.terms
                .steps
                .extend(step.filter(|s| s.0 > 0.0).map(|s| (id, s)));
        }
    }

    /// Overhead and uncertainty of every node of the site.
    fn nodes(&mut self, file: &Map<String, Value>) -> (Vec<Watts>, Vec<Watts>) {
        const KNOWN: [&str; 3] = ["watts", "overhead_watts", "uncertainty_watts"];
        let mut overhead: Vec<Watts> = self.site.nodes.iter().map(|n| n.overhead).collect();
        let mut uncertainty = vec![Watts::ZERO; overhead.len()];
        let Some(nodes) = file.get("nodes") else {
            return (overhead, uncertainty);
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
            uncertainty[place] = more.unwrap_or(match stated {
                Some(_) => node.overhead * UNCERTAIN,
                None => Watts::ZERO,
            });
            overhead[place] = stated.unwrap_or(node.overhead);
        }
        (overhead, uncertainty)
    }

    /// What a node draws besides its devices, all of which must have been read.
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
        Some((all - drawn).max(Watts::ZERO))
    }

    fn contracts(&mut self, file: &Map<String, Value>) {
        const KNOWN: [&str; 5] = [
            "id",
            "limit_watts",
            "uncontrolled_watts",
            "uncertainty_watts",
            "members",
        ];
        let Some(contracts) = file.get("contracts") else {
            return;
        };
        let power: HashSet<&str> = self
            .site
            .power
            .nodes()
            .iter()
            .map(|n| n.id.as_str())
            .collect();
        for (place, value) in self
            .faults
            .list("contracts", contracts, "a list")
            .iter()
            .enumerate()
        {
            let at = format!("contracts[{place}]");
            let Some(of) = self.faults.fields(&at, value, &KNOWN) else {
                continue;
            };
            let field = join(&at, "id");
            let id = self.faults.text(&field, of.get("id"), "a name");
            let taken = |id: &str| {
                power.contains(id)
                    || (self.site.power_contracts.iter()).any(|c| c.id == id)
                    || self.terms.contracts.iter().any(|c| c.id == id)
            };
            if let Some(id) = id.filter(|id| taken(id)) {
                let fault = format!("`{id}` is the name of another limit");
                let allowed = "a name that no power node and no other contract has, those of the site file included";
                self.faults.add(&field, fault, allowed);
            }
            let mut watts = |key: &str| self.faults.number(&at, key, of, "watts").map(Watts);
            let (limit, load, more) = (
                watts("limit_watts"),
                watts("uncontrolled_watts"),
                watts("uncertainty_watts"),
            );
            if !of.contains_key("limit_watts") {
                self.faults
                    .add(&join(&at, "limit_watts"), "is missing", "a number of watts");
            }
            let mut members = Vec::new();
            let field = join(&at, "members");
            let allowed = "a list of names of power nodes, racks, nodes and devices";
            let listed = of.get("members").unwrap_or(&Value::Null);
            for member in self.faults.list(&field, listed, allowed) {
                let Some(name) = self.faults.text(&field, Some(member), allowed) else {
                    continue;
                };
                if power.contains(name) {
                    members.push(name.to_owned());
                } else if let Some(devices) = self.named_devices(name) {
                    members.extend(devices.iter().map(ToString::to_string));
                } else {
                    self.faults.add(
                        &field,
                        format!("names `{name}`, which is not there"),
                        allowed,
                    );
                }
            }
            if let (Some(id), Some(limit)) = (id, limit) {
                self.terms.contracts.push(ContractTerm {
                    id: id.to_owned(),
                    limit,
                    in_full: false,
                    uncontrolled: load.unwrap_or_default(),
                    uncertainty: more.unwrap_or_default(),
                    members,
                });
            }
        }
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
