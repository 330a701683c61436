//! The way from the old caps to the new ones.

use super::{Broken, Facts, Findings, Rule, TOLERANCE};
use heliostat_models::{DeviceId, Watts};
use std::collections::BTreeMap;

/// Whether, with every device at the larger of what it may have now (`worst`)
/// and what it is about to be sent (`sent`), every limit holds.
///
/// A node whose limit `worst` alone already exceeds was so before this
/// controller acted; there no device may be sent more than it has.
pub fn check_transition(
    facts: &Facts<'_>,
    worst: &BTreeMap<DeviceId, Watts>,
    sent: &BTreeMap<DeviceId, Watts>,
) -> Vec<Broken> {
    let mut findings = Findings::default();
    let tree = &facts.site.power;
    let mut during = vec![Watts::ZERO; tree.nodes().len()];
    let mut raised: Vec<Option<&DeviceId>> = vec![None; tree.nodes().len()];
    for (place, device) in facts.site.devices.iter().enumerate() {
        let most = facts.range(place).1;
        let now = worst.get(&device.id).copied().unwrap_or(most);
        let then = sent.get(&device.id).copied().unwrap_or(now);
        if !(now.is_finite() && then.is_finite()) {
            findings.add(
                Rule::Finite,
                format!("`{}` is to go from {now} to {then}", device.id),
            );
        }
        for node in tree.path_up(facts.site.power_node_of(place)) {
            during[node] += now.max(then);
            if then > now + TOLERANCE {
                raised[node] = Some(&device.id);
            }
        }
    }
    for (place, node) in tree.nodes().iter().enumerate() {
        let room = facts.room(place);
        if during[place] <= room + TOLERANCE {
            continue;
        }
        if let Some(device) = raised[place] {
            findings.add(
                Rule::Transition,
                format!(
                    "`{}`: while caps change they add up to {:.3}, there is room for {:.3}, and `{device}` is to be raised",
                    node.id, during[place], room
                ),
            );
        }
    }
    findings.0
}
