//! The canonical form of a problem, for the hash of a certificate's inputs:
//! every field in the order of its declaration, texts and lists with their
//! length before them, numbers as their IEEE 754 bits, all little endian.

use super::problem::Problem;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;

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
}

/// SHA-256 of the canonical form, hex.
pub(super) fn hash(problem: &Problem) -> String {
    let mut out = Canonical(Sha256::new());
    out.text("heliostat allocation problem 2");
    out.count(problem.nodes.len());
    for node in &problem.nodes {
        out.text(&node.id);
        out.count(node.parents.len());
        node.parents.iter().for_each(|p| out.count(*p));
        out.number(node.limit.0);
        out.number(node.uncontrolled.0);
        out.number(node.spare.0);
    }
    out.count(problem.devices.len());
    for device in &problem.devices {
        out.text(device.id.as_str());
        out.number(device.min.0);
        out.number(device.max.0);
        out.count(device.node);
        out.count(usize::from(device.fixed.is_some()));
        out.number(device.fixed.unwrap_or_default().0);
    }
    out.count(problem.groups.len());
    for group in &problem.groups {
        out.text(group.job.as_str());
        out.text(&group.class.to_string());
        out.number(group.weight);
        out.number(group.floor_speed);
        out.count(group.curve.points().len());
        for (cap, speed) in group.curve.points() {
            out.number(cap.0);
            out.number(*speed);
        }
        out.count(group.devices.len());
        group.devices.iter().for_each(|d| out.count(*d));
    }
    out.number(problem.price_of_energy);
    out.number(problem.step.0);
    let digest = out.0.finalize();
    let mut hex = String::with_capacity(64);
    for byte in digest {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}
