//! Sums against limits, caps against ranges, gangs against floors.

use super::{Facts, Findings, Proposal, Rule, TOLERANCE};
use heliostat_models::{JobRecord, Watts};
use std::collections::HashMap;

pub(super) fn check(facts: &Facts<'_>, proposal: &Proposal<'_>, findings: &mut Findings) {
    finite(facts, proposal, findings);
    devices(facts, proposal, findings);
    nodes(facts, proposal, findings);
    for job in facts.jobs {
        gang(facts, proposal, job, findings);
    }
}

fn finite(facts: &Facts<'_>, proposal: &Proposal<'_>, findings: &mut Findings) {
    let nodes = facts.site.power.nodes();
    if facts.uncontrolled.len() != nodes.len() || proposal.node_prices.len() != nodes.len() {
        findings.add(
            Rule::Finite,
            format!(
                "{} loads and {} prices for {} power nodes",
                facts.uncontrolled.len(),
                proposal.node_prices.len(),
                nodes.len()
            ),
        );
    }
    let promised = facts.grid.map_or(&[][..], |g| g.uncontrolled);
    if facts.grid.is_some_and(|g| !g.limit.is_finite())
        || !matches!(promised.len(), n if facts.grid.is_none() || n == nodes.len())
    {
        findings.add(
            Rule::Finite,
            format!(
                "the grid event's limit is no number, or {} loads stand for {} power nodes",
                promised.len(),
                nodes.len()
            ),
        );
    }
    let loads = nodes.iter().zip(facts.uncontrolled);
    for (node, load) in loads.chain(nodes.iter().zip(promised)) {
        if !(load.is_finite() && load.0 >= 0.0) {
            findings.add(
                Rule::Finite,
                format!("the uncontrolled load at `{}` is {load}", node.id),
            );
        }
    }
    for (node, price) in nodes.iter().zip(proposal.node_prices) {
        if !(price.is_finite() && *price >= 0.0) {
            findings.add(
                Rule::Finite,
                format!("the price at `{}` is {price}", node.id),
            );
        }
    }
    for (device, cap) in proposal.caps.iter().filter(|(_, c)| !c.is_finite()) {
        findings.add(Rule::Finite, format!("the cap of `{device}` is {cap}"));
    }
    let certificate = proposal.certificate;
    for (what, value) in [
        ("primal", certificate.primal),
        ("dual bound", certificate.dual_bound),
        ("gap", certificate.gap),
        ("price of energy", facts.price_of_energy),
    ] {
        if !value.is_finite() {
            findings.add(Rule::Finite, format!("the {what} is {value}"));
        }
    }
}

fn devices(facts: &Facts<'_>, proposal: &Proposal<'_>, findings: &mut Findings) {
    for (place, device) in facts.site.devices.iter().enumerate() {
        let Some(cap) = proposal.caps.get(&device.id) else {
            findings.add(Rule::EveryDevice, format!("`{}` has no cap", device.id));
            continue;
        };
        if let Some(pinned) = facts.pinned.get(&device.id) {
            if (*cap - *pinned).0.abs() > TOLERANCE.0 {
                findings.add(
                    Rule::Pinned,
                    format!(
                        "`{}` cannot be commanded and may have {pinned}, not {cap}",
                        device.id
                    ),
                );
            }
            continue;
        }
        let (low, high) = facts.range(place);
        if !(*cap >= low - TOLERANCE && *cap <= high + TOLERANCE) {
            findings.add(
                Rule::DeviceRange,
                format!("`{}`: {cap} is not within {low} to {high}", device.id),
            );
        }
    }
    for device in proposal.caps.keys() {
        if facts.site.device(device).is_none() {
            findings.add(
                Rule::EveryDevice,
                format!("`{device}` is no device of this site"),
            );
        }
    }
}

fn nodes(facts: &Facts<'_>, proposal: &Proposal<'_>, findings: &mut Findings) {
    let tree = &facts.site.power;
    let mut capped = vec![Watts::ZERO; tree.nodes().len()];
    let mut at_lowest = vec![true; tree.nodes().len()];
    for (place, device) in facts.site.devices.iter().enumerate() {
        let cap = proposal.caps.get(&device.id).copied().unwrap_or_default();
        let lowest = facts.pinned.contains_key(&device.id)
            || cap <= facts.range(place).0 + Watts(0.001) + TOLERANCE;
        for node in tree.path_up(facts.site.power_node_of(place)) {
            capped[node] += cap;
            at_lowest[node] &= lowest;
        }
    }
    for (place, node) in tree.nodes().iter().enumerate() {
        let room = facts.room(place);
        if capped[place] <= room + TOLERANCE {
            continue;
        }
        if !proposal.beyond.contains(&node.id) {
            findings.add(
                Rule::NodeLimit,
                format!(
                    "`{}`: caps add up to {:.3}, uncontrolled load leaves {:.3} to them",
                    node.id, capped[place], room
                ),
            );
        } else if !at_lowest[place] {
            findings.add(
                Rule::Beyond,
                format!(
                    "`{}` is declared beyond keeping, but not all caps below are at their lowest",
                    node.id
                ),
            );
        }
    }
}

fn gang(facts: &Facts<'_>, proposal: &Proposal<'_>, job: &JobRecord, findings: &mut Findings) {
    let mut distinct: HashMap<u64, Watts> = HashMap::new();
    let (mut slowest, mut able) = (Watts(f64::INFINITY), Watts(f64::INFINITY));
    for id in &job.devices {
        let (Some(cap), Some((place, _))) = (proposal.caps.get(id), facts.site.device(id)) else {
            continue;
        };
        slowest = slowest.min(*cap);
        match facts.pinned.get(id) {
            Some(pinned) => able = able.min(*pinned),
            None => {
                able = able.min(facts.range(place).1);
                distinct.insert(cap.0.to_bits(), *cap);
            }
        }
    }
    if distinct.len() > 1 {
        let mut caps: Vec<Watts> = distinct.into_values().collect();
        caps.sort_by(Watts::total_cmp);
        findings.add(
            Rule::GangEqual,
            format!(
                "the devices of job `{}` have {} different caps from {} to {}",
                job.id,
                caps.len(),
                caps[0],
                caps[caps.len() - 1]
            ),
        );
    }
    let floor = facts
        .site
        .classes
        .get(&job.class)
        .map_or(0.0, |c| c.floor_speed);
    if !slowest.is_finite() || proposal.dropped.contains(&job.id) {
        return;
    }
    let needed = floor.min(job.curve.speed(able));
    let speed = job.curve.speed(slowest);
    if speed < needed - 1e-6 {
        findings.add(
            Rule::Floor,
            format!(
                "job `{}` would run at {speed:.4} of full speed; its class's floor is {needed:.4}",
                job.id
            ),
        );
    }
}
