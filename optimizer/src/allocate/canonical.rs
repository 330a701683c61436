//! The canonical form of a problem, for the hash of a certificate's inputs:
//! every field in the order of its declaration, texts and lists with their
//! length before them, numbers as their IEEE 754 bits, all little endian.
//!
//! The hash is taken by parts, so that a change costs only its part: SHA-256
//! of each part, then SHA-256 of those.

use super::problem::{Contract, DeviceSpec, Group, LimitNode, Problem};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// Power nodes, devices, jobs or contracts in a part.
const PART: usize = 8;

struct Canonical(Sha256);

impl Canonical {
    fn number(&mut self, value: f64) {
        // Both zeros are one number.
        let value = if value == 0.0 { 0.0 } else { value };
        self.0.update(value.to_bits().to_le_bytes());
    }
    fn count(&mut self, value: usize) {
        self.0.update((value as u64).to_le_bytes());
    }
    fn text(&mut self, value: &str) {
        self.count(value.len());
        self.0.update(value.as_bytes());
    }
    fn places(&mut self, places: &[usize]) {
        self.count(places.len());
        places.iter().for_each(|p| self.count(*p));
    }
    fn node(&mut self, node: &LimitNode) {
        self.text(&node.id);
        self.places(&node.parents);
        self.number(node.limit.0);
        self.number(node.uncontrolled.0);
        self.number(node.uncertainty.0);
        self.number(node.spare.0);
    }
    fn device(&mut self, device: &DeviceSpec) {
        self.text(device.id.as_str());
        self.number(device.min.0);
        self.number(device.max.0);
        self.count(device.node);
        self.count(usize::from(device.fixed.is_some()));
        self.number(device.fixed.unwrap_or_default().0);
        self.number(device.step.0);
    }
    fn group(&mut self, group: &Group) {
        self.text(group.job.as_str());
        self.text(&group.class.to_string());
        self.number(group.weight);
        self.number(group.floor_speed);
        self.count(group.curve.points().len());
        for (cap, speed) in group.curve.points() {
            self.number(cap.0);
            self.number(*speed);
        }
        self.places(&group.devices);
    }
    fn contract(&mut self, contract: &Contract) {
        self.text(&contract.id);
        self.number(contract.limit.0);
        self.number(contract.uncontrolled.0);
        self.number(contract.uncertainty.0);
        self.places(&contract.nodes);
        self.places(&contract.devices);
    }
}

type Hash = [u8; 32];

/// The hashes of the parts of a problem.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    head: Hash,
    nodes: Vec<Hash>,
    devices: Vec<Hash>,
    groups: Vec<Hash>,
    contracts: Vec<Hash>,
}

fn of(write: impl FnOnce(&mut Canonical)) -> Hash {
    let mut out = Canonical(Sha256::new());
    write(&mut out);
    out.0.finalize().into()
}

fn each<T>(all: &[T], write: impl Fn(&mut Canonical, &T)) -> Vec<Hash> {
    (all.chunks(PART))
        .map(|part| of(|out| part.iter().for_each(|one| write(out, one))))
        .collect()
}

fn again<T>(all: &[T], place: usize, write: impl Fn(&mut Canonical, &T)) -> Hash {
    let begin = place / PART * PART;
    let part = &all[begin..(begin + PART).min(all.len())];
    of(|out| part.iter().for_each(|one| write(out, one)))
}

impl Parts {
    /// Of all parts.
    pub fn new(problem: &Problem) -> Self {
        Self {
            head: head(problem),
            nodes: each(&problem.nodes, Canonical::node),
            devices: each(&problem.devices, Canonical::device),
            groups: each(&problem.groups, Canonical::group),
            contracts: each(&problem.contracts, Canonical::contract),
        }
    }

    /// The price of energy has changed.
    pub fn set_head(&mut self, problem: &Problem) {
        self.head = head(problem);
    }

    /// A power node has changed.
    pub fn set_node(&mut self, problem: &Problem, place: usize) {
        self.nodes[place / PART] = again(&problem.nodes, place, Canonical::node);
    }

    /// A device has changed.
    pub fn set_device(&mut self, problem: &Problem, place: usize) {
        self.devices[place / PART] = again(&problem.devices, place, Canonical::device);
    }

    /// A group has changed.
    pub fn set_group(&mut self, problem: &Problem, place: usize) {
        self.groups[place / PART] = again(&problem.groups, place, Canonical::group);
    }

    /// A contract has changed.
    pub fn set_contract(&mut self, problem: &Problem, place: usize) {
        self.contracts[place / PART] = again(&problem.contracts, place, Canonical::contract);
    }

    /// SHA-256 of the parts' hashes, hex.
    pub fn hash(&self) -> String {
        let mut all = Sha256::new();
        all.update(self.head);
        for parts in [&self.nodes, &self.devices, &self.groups, &self.contracts] {
            parts.iter().for_each(|part| all.update(part));
        }
        let mut hex = String::with_capacity(64);
        for byte in all.finalize() {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }
}

fn head(problem: &Problem) -> Hash {
    of(|out| {
        out.text("heliostat allocation problem 3");
        out.count(PART);
        out.count(problem.nodes.len());
        out.count(problem.devices.len());
        out.count(problem.groups.len());
        out.count(problem.contracts.len());
        out.number(problem.price_of_energy);
        out.number(problem.step.0);
    })
}
