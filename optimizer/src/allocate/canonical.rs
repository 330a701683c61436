//! The canonical form of a problem, for the hash of a certificate's inputs:
//! every field in the order of its declaration, texts and lists with their
//! length before them, numbers as their IEEE 754 bits, all little endian.
//!
//! The hash is a tree, so that a change costs only its branch: SHA-256 of every
//! [`PART`] entries, of every [`FAN`] such hashes, and of all of those.

use super::problem::{Contract, DeviceSpec, Group, LimitNode, Problem};
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

/// Power nodes, devices, jobs or contracts in a part.
const PART: usize = 2;
/// Hashes of parts in a branch.
const FAN: usize = 16;

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

/// The hashes of one list of a problem, and which no longer hold.
#[derive(Clone, Debug, Default)]
struct Branches {
    parts: Vec<Hash>,
    branches: Vec<Hash>,
    stale: Vec<u32>,
    is_stale: Vec<bool>,
}

impl Branches {
    fn new<T>(all: &[T], write: impl Fn(&mut Canonical, &T)) -> Self {
        let parts: Vec<Hash> = (all.chunks(PART))
            .map(|part| of(|out| part.iter().for_each(|one| write(out, one))))
            .collect();
        Self {
            branches: parts.chunks(FAN).map(branch).collect(),
            is_stale: vec![false; parts.len()],
            stale: Vec::new(),
            parts,
        }
    }

    /// An entry has changed.
    fn touch(&mut self, place: usize) {
        let part = place / PART;
        if !std::mem::replace(&mut self.is_stale[part], true) {
            self.stale.push(part as u32);
        }
    }

    /// Takes the hashes anew that no longer hold.
    fn renew<T>(&mut self, all: &[T], write: impl Fn(&mut Canonical, &T)) {
        self.stale.sort_unstable();
        let mut last = None;
        for part in self.stale.drain(..).map(|part| part as usize) {
            self.is_stale[part] = false;
            let begin = part * PART;
            let entries = &all[begin..(begin + PART).min(all.len())];
            self.parts[part] = of(|out| entries.iter().for_each(|one| write(out, one)));
            let at = part / FAN;
            if let Some(done) = last.replace(at).filter(|done| *done != at) {
                renew_branch(&mut self.branches, &self.parts, done);
            }
        }
        if let Some(done) = last {
            renew_branch(&mut self.branches, &self.parts, done);
        }
    }
}

fn of(write: impl FnOnce(&mut Canonical)) -> Hash {
    let mut out = Canonical(Sha256::new());
    write(&mut out);
    out.0.finalize().into()
}

fn branch(parts: &[Hash]) -> Hash {
    of(|out| parts.iter().for_each(|part| out.0.update(part)))
}

fn renew_branch(branches: &mut [Hash], parts: &[Hash], at: usize) {
    let begin = at * FAN;
    branches[at] = branch(&parts[begin..(begin + FAN).min(parts.len())]);
}

/// The hashes of a problem.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    nodes: Branches,
    devices: Branches,
    groups: Branches,
    contracts: Branches,
}

impl Parts {
    /// Of all parts.
    pub fn new(problem: &Problem) -> Self {
        Self {
            nodes: Branches::new(&problem.nodes, Canonical::node),
            devices: Branches::new(&problem.devices, Canonical::device),
            groups: Branches::new(&problem.groups, Canonical::group),
            contracts: Branches::new(&problem.contracts, Canonical::contract),
        }
    }

    /// A power node has changed.
    pub fn touch_node(&mut self, place: usize) {
        self.nodes.touch(place);
    }

    /// A device has changed.
    pub fn touch_device(&mut self, place: usize) {
        self.devices.touch(place);
    }

    /// A group has changed.
    pub fn touch_group(&mut self, place: usize) {
        self.groups.touch(place);
    }

    /// A contract has changed.
    pub fn touch_contract(&mut self, place: usize) {
        self.contracts.touch(place);
    }

    /// SHA-256 of the problem as it is now, hex.
    pub fn hash(&mut self, problem: &Problem) -> String {
        self.nodes.renew(&problem.nodes, Canonical::node);
        self.devices.renew(&problem.devices, Canonical::device);
        self.groups.renew(&problem.groups, Canonical::group);
        self.contracts
            .renew(&problem.contracts, Canonical::contract);
        let mut all = Sha256::new();
        all.update(head(problem));
        for list in [&self.nodes, &self.devices, &self.groups, &self.contracts] {
            list.branches.iter().for_each(|branch| all.update(branch));
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
        out.text("heliostat allocation problem 4");
        out.count(PART);
        out.count(FAN);
        out.count(problem.nodes.len());
        out.count(problem.devices.len());
        out.count(problem.groups.len());
        out.count(problem.contracts.len());
        out.number(problem.price_of_energy);
        out.number(problem.step.0);
    })
}
