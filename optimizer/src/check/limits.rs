//! Sums against limits, caps against ranges, gangs against floors.

use super::seen::Seen;
use super::{Facts, Findings, Proposal, Rule, TOLERANCE};
use heliostat_models::site::FINEST_STEP;
use heliostat_models::{JobRecord, Watts};
use std::collections::HashMap;

/// Share of a step by which a cap may miss a multiple by rounding.
const STEP_TOLERANCE: f64 = 1e-6;

pub(super) fn check(
    facts: &Facts<'_>,
    seen: &Seen,
    proposal: &Proposal<'_>,
    findings: &mut Findings,
) {
    finite(facts, proposal, findings);
    devices(facts, seen, proposal, findings);
    sums(facts, seen, proposal, findings);
    for (number, job) in facts.jobs.iter().enumerate() {
        gang(facts, seen, proposal, (number, job), findings);
    }
}

fn finite(facts: &Facts<'_>, proposal: &Proposal<'_>, findings: &mut Findings) {
    let nodes = facts.site.power.nodes();
    let rows = nodes.len() + facts.terms.contracts.len();
    if facts.uncontrolled.len() != nodes.len() || proposal.node_prices.len() != rows {
        findings.add(
            Rule::Finite,
            format!(
                "{} loads and {} prices for {} power nodes and {} contracts",
                facts.uncontrolled.len(),
                proposal.node_prices.len(),
                nodes.len(),
                rows - nodes.len()
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
    for (row, price) in proposal.node_prices.iter().enumerate().take(rows) {
        if !(price.is_finite() && *price >= 0.0) {
            findings.add(
                Rule::Finite,
                format!("the price at `{}` is {price}", facts.row_name(row)),
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

fn devices(facts: &Facts<'_>, seen: &Seen, proposal: &Proposal<'_>, findings: &mut Findings) {
    for (place, device) in facts.site.devices.iter().enumerate() {
        let Some(cap) = seen.caps[place] else {
            findings.add(Rule::EveryDevice, format!("`{}` has no cap", device.id));
            continue;
        };
        if let Some(pinned) = seen.pinned[place] {
            if (cap - pinned).0.abs() > TOLERANCE.0 {
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
        let (low, high) = seen.range[place];
        if !(cap >= low - TOLERANCE && cap <= high + TOLERANCE) {
            findings.add(
                Rule::DeviceRange,
                format!("`{}`: {cap} is not within {low} to {high}", device.id),
            );
        }
        step(facts, place, cap, (low, high), findings);
    }
    if proposal.caps.len() == seen.caps.iter().flatten().count() {
        return;
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

/// A cap between the ends of a range must be one that the device can be set to.
fn step(
    facts: &Facts<'_>,
    place: usize,
    cap: Watts,
    (low, high): (Watts, Watts),
    findings: &mut Findings,
) {
    // That drivers take whole milliwatts is no rule of the site: caps are cut
    // to them when they are sent.
    let step = facts.step(place);
    if step <= FINEST_STEP {
        return;
    }
    let device = &facts.site.devices[place].id;
    let count = cap / step;
    let at_end = cap <= low + TOLERANCE || cap >= high - TOLERANCE;
    if !at_end && (count - count.round()).abs() > STEP_TOLERANCE {
        findings.add(
            Rule::Step,
            format!("`{device}`: {cap} is no multiple of its step of {step}"),
        );
    }
}

/// The lowest cap that each device can have beside those of its gang.
pub(super) fn lowest(facts: &Facts<'_>, seen: &Seen) -> Vec<Watts> {
    let mut lowest: Vec<Watts> = seen.range.iter().map(|(low, _)| *low).collect();
    for job in 0..facts.jobs.len() {
        let step = facts.common_step(seen.free(job)) as f64 / 1_000.0;
        let most = (seen.free(job)).fold(Watts::ZERO, |most, place| most.max(seen.range[place].0));
        let most = Watts((most.0 / step - 1e-6).ceil() * step).max(most);
        for place in seen.free(job) {
            lowest[place] = lowest[place].max(most);
        }
    }
    lowest
}

fn sums(facts: &Facts<'_>, seen: &Seen, proposal: &Proposal<'_>, findings: &mut Findings) {
    let above = &seen.above;
    let capped = seen.capped();
    let mut at_lowest = vec![true; above.count];
    let least = lowest(facts, seen);
    for (place, (cap, least)) in seen.caps.iter().zip(least).enumerate() {
        let cap = cap.unwrap_or_default();
        let lowest = seen.pinned[place].is_some() || cap <= least + Watts(0.001) + TOLERANCE;
        if !lowest {
            above.rows(place).for_each(|row| at_lowest[row] = false);
        }
    }
    let nodes = facts.site.power.nodes().len();
    for row in 0..above.count {
        let room = facts.room(row);
        if capped[row] <= room + TOLERANCE {
            continue;
        }
        let name = facts.row_name(row);
        if !proposal.beyond.iter().any(|b| b == name) {
            let rule = if row < nodes {
                Rule::NodeLimit
            } else {
                Rule::Contract
            };
            findings.add(
                rule,
                format!(
                    "`{name}`: caps add up to {:.3}, uncontrolled load leaves {room:.3} to them",
                    capped[row]
                ),
            );
        } else if !at_lowest[row] {
            findings.add(
                Rule::Beyond,
                format!("`{name}` is declared beyond keeping, but not all caps below are at their lowest"),
            );
        }
    }
}

fn gang(
    facts: &Facts<'_>,
    seen: &Seen,
    proposal: &Proposal<'_>,
    (number, job): (usize, &JobRecord),
    findings: &mut Findings,
) {
    let mut distinct: HashMap<u64, Watts> = HashMap::new();
    let (mut slowest, mut able) = (Watts(f64::INFINITY), Watts(f64::INFINITY));
    for place in &seen.gangs[number] {
        let Some(cap) = seen.caps[*place] else {
            continue;
        };
        slowest = slowest.min(cap);
        match seen.pinned[*place] {
            Some(pinned) => able = able.min(pinned),
            None => {
                able = able.min(seen.range[*place].1);
                distinct.insert(cap.0.to_bits(), cap);
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
    // The highest cap may lie between two steps; what can be set is the one below.
    let step = facts.common_step(seen.free(number)) as f64 / 1_000.0;
    able = Watts((able.0 / step + 1e-6).floor() * step).min(able);
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
