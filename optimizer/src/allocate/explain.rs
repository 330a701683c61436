//! Why each gang has the cap it has.

use super::model::{GangModel, Model};
use super::problem::{GroupCap, Problem, Shed};
use heliostat_models::Watts;
use heliostat_models::decision::JobCap;
use std::collections::BTreeMap;

/// Watts by which a cap may miss a corner and still count as at it.
const AT: f64 = 2e-3;

/// Cap, speed, worth of the last watt and binding node of every gang.
pub(super) fn groups(
    problem: &Problem,
    model: &Model,
    caps: &[f64],
    prices: &[f64],
) -> Vec<GroupCap> {
    (problem.groups.iter().zip(&model.groups).zip(caps))
        .map(|((group, gang), cap)| GroupCap {
            cap: Watts(*cap),
            speed: group.curve.speed(Watts(*cap)),
            marginal: marginal(gang, *cap),
            binding: binding(gang, prices),
        })
        .collect()
}

/// Worth per watt of the stretch that the cap ends in; at the floor, of the
/// stretch that would come next.
fn marginal(gang: &GangModel, cap: f64) -> f64 {
    let below = gang.pieces.iter().rev().find(|p| p.from + AT < cap);
    below
        .or(gang.pieces.first())
        .map_or(0.0, |p| p.gain / gang.count)
}

/// Worth per watt of the next stretch; `None` at the ceiling.
fn next(gang: &GangModel, cap: f64) -> Option<f64> {
    (gang.pieces.iter())
        .find(|p| p.to > cap + AT)
        .map(|p| p.gain / gang.count)
}

fn binding(gang: &GangModel, prices: &[f64]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (node, _) in &gang.rows {
        if prices[*node] > best.map_or(0.0, |(_, p)| p) {
            best = Some((*node, prices[*node]));
        }
    }
    best.map(|(node, _)| node)
}

/// The same told to people: one entry a gang, then the devices no job holds.
pub(super) fn jobs(
    problem: &Problem,
    model: &Model,
    groups: &[GroupCap],
    prices: &[f64],
) -> Vec<JobCap> {
    let mut out: Vec<JobCap> = (problem.groups.iter().zip(&model.groups).zip(groups))
        .map(|((group, gang), got)| JobCap {
            job: Some(group.job.clone()),
            devices: group.devices.len() as u32,
            cap: got.cap,
            speed: got.speed,
            binding: got.binding.map(|v| problem.nodes[v].id.clone()),
            marginal: got.marginal,
            reason: reason(problem, model, gang, got, prices),
        })
        .collect();
    out.extend(idle(problem));
    out
}

fn reason(
    problem: &Problem,
    model: &Model,
    gang: &GangModel,
    got: &GroupCap,
    prices: &[f64],
) -> String {
    let cap = got.cap.0;
    let kilo = |worth: f64| worth * 1_000.0;
    if gang.count == 0.0 {
        return "None of its devices can be commanded now; they are counted at the highest cap they may have.".to_owned();
    }
    let Some(next) = next(gang, cap) else {
        return format!(
            "Full cap: no limit above it is short of power, and its last watt still buys more work than the price of energy ({:.3} h/kWh).",
            kilo(model.price)
        );
    };
    let at_floor = cap <= gang.floor + AT;
    let held = if at_floor {
        "Held at the lowest cap that its service level allows"
    } else {
        "Capped"
    };
    match got.binding {
        Some(node) => format!(
            "{held}: `{}` is at its limit of {:.1} kW; a watt there is worth {:.3} h/kWh above the price of energy, the next watt here would buy {:.3} h/kWh for it.",
            problem.nodes[node].id,
            problem.nodes[node].limit.kilowatts(),
            kilo(prices[node]),
            kilo(next),
        ),
        None if next <= model.price => format!(
            "{held}: one more watt would buy {:.3} h/kWh, less than the price of energy ({:.3} h/kWh).",
            kilo(next),
            kilo(model.price),
        ),
        None => format!("{held}: a limit above it is full."),
    }
}

/// Devices that no gang holds, by cap.
fn idle(problem: &Problem) -> Vec<JobCap> {
    let mut held = vec![false; problem.devices.len()];
    for device in problem.groups.iter().flat_map(|g| &g.devices) {
        held[*device] = true;
    }
    let mut by_cap: BTreeMap<(u64, bool), u32> = BTreeMap::new();
    for (device, _) in problem.devices.iter().zip(&held).filter(|(_, h)| !**h) {
        let cap = device.fixed.unwrap_or(device.min).0;
        *by_cap
            .entry((cap.to_bits(), device.fixed.is_some()))
            .or_default() += 1;
    }
    (by_cap.into_iter())
        .map(|((bits, fixed), devices)| JobCap {
            job: None,
            devices,
            cap: Watts(f64::from_bits(bits)),
            speed: 0.0,
            binding: None,
            marginal: 0.0,
            reason: if fixed {
                "Not under command now; counted at the highest cap they may have.".to_owned()
            } else {
                "No job holds these devices; they wait at their lowest cap.".to_owned()
            },
        })
        .collect()
}

/// Adds to the reasons which floors were dropped, and what even that does not mend.
pub(super) fn tell_what_was_shed(problem: &Problem, shed: &mut Shed) {
    for entry in &mut shed.allocation.jobs {
        if entry.job.as_ref().is_some_and(|j| shed.dropped.contains(j)) {
            entry.reason = format!("Its floor was dropped to keep a limit. {}", entry.reason);
        }
        for (node, over) in &shed.beyond {
            let below = problem.groups.iter().zip(&shed.allocation.groups);
            let here = below
                .filter(|(g, _)| Some(&g.job) == entry.job.as_ref())
                .any(|(_, got)| got.binding.is_some_and(|v| problem.nodes[v].id == *node));
            if here {
                entry.reason += &format!(
                    " Even the lowest caps exceed `{node}` by {:.1} kW.",
                    over.kilowatts()
                );
            }
        }
    }
}
