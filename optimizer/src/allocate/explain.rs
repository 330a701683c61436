//! Why each gang has the cap it has.

use super::dense::Dense;
use super::problem::{GroupCap, Problem, Shed};
use heliostat_models::decision::JobCap;
use heliostat_models::{JobId, Watts};
use std::collections::{BTreeMap, BTreeSet};

/// Watts by which a cap may miss a corner and still count as at it.
const AT: f64 = 2e-3;

/// Cap, speed, worth of the last watt and binding limit of every gang.
pub(super) fn groups(
    problem: &Problem,
    dense: &Dense,
    caps: &[f64],
    prices: &[f64],
) -> Vec<GroupCap> {
    let mut binding: Vec<Option<Option<usize>>> = vec![None; dense.rows.points()];
    (problem.groups.iter().zip(caps).enumerate())
        .map(|(place, (group, cap))| {
            let slot = dense.slot[place] as usize;
            GroupCap {
                cap: Watts(*cap),
                speed: group.curve.speed(Watts(*cap)),
                marginal: marginal(dense, slot, *cap),
                binding: (dense.points_of(slot).iter())
                    .filter_map(|(point, _)| {
                        *binding[*point as usize]
                            .get_or_insert_with(|| dearest(dense.rows.above(*point), prices))
                    })
                    .reduce(|best, row| dearer(best, row, prices)),
            }
        })
        .collect()
}

/// Why one gang has its cap.
pub(super) fn one(
    problem: &Problem,
    dense: &Dense,
    group: usize,
    cap: f64,
    prices: &[f64],
) -> JobCap {
    let slot = dense.slot[group] as usize;
    let points = dense.points_of(slot).iter();
    let got = GroupCap {
        cap: Watts(cap),
        speed: problem.groups[group].curve.speed(Watts(cap)),
        marginal: marginal(dense, slot, cap),
        binding: points
            .filter_map(|(point, _)| dearest(dense.rows.above(*point), prices))
            .reduce(|best, row| dearer(best, row, prices)),
    };
    told(problem, dense, group, &got, prices)
}

fn told(problem: &Problem, dense: &Dense, place: usize, got: &GroupCap, prices: &[f64]) -> JobCap {
    let group = &problem.groups[place];
    JobCap {
        job: Some(group.job.clone()),
        devices: group.devices.len() as u32,
        cap: got.cap,
        speed: got.speed,
        binding: got.binding.map(|v| problem.limit_name(v).to_owned()),
        marginal: got.marginal,
        reason: reason(problem, dense, dense.slot[place] as usize, got, prices),
    }
}

fn dearest(rows: &[u32], prices: &[f64]) -> Option<usize> {
    let priced = (rows.iter().map(|r| *r as usize)).filter(|r| prices[*r] > 0.0);
    priced.reduce(|best, row| dearer(best, row, prices))
}

/// The row with the larger price; of equal ones the one nearer to the feed.
fn dearer(a: usize, b: usize, prices: &[f64]) -> usize {
    if prices[b] > prices[a] || (prices[b] == prices[a] && b < a) {
        b
    } else {
        a
    }
}

/// Stretches of a gang: cap where each ends, worth of a watt.
fn stretches(dense: &Dense, slot: usize) -> impl Iterator<Item = (f64, f64)> + '_ {
    let mut units = 0.0;
    dense
        .segments(slot)
        .filter(|s| dense.slope[*s] > 0.0)
        .map(move |segment| {
            units += dense.width[segment];
            (dense.cap(slot, units), dense.slope[segment])
        })
}

/// Worth per watt of the stretch that the cap ends in; at the floor, of the
/// stretch that would come next.
fn marginal(dense: &Dense, slot: usize, cap: f64) -> f64 {
    let mut begin = dense.range[slot].floor;
    let mut worth = None;
    for (end, slope) in stretches(dense, slot) {
        if worth.is_none() || begin + AT < cap {
            worth = Some(slope);
        }
        begin = end;
    }
    worth.unwrap_or(0.0)
}

/// Worth per watt of the next stretch; `None` at the ceiling.
fn next(dense: &Dense, slot: usize, cap: f64) -> Option<f64> {
    stretches(dense, slot)
        .find(|(end, _)| *end > cap + AT)
        .map(|(_, slope)| slope)
}

/// The same told to people: one entry a gang, then the devices no job holds.
pub(super) fn jobs(
    problem: &Problem,
    dense: &Dense,
    groups: &[GroupCap],
    prices: &[f64],
) -> Vec<JobCap> {
    let mut out: Vec<JobCap> = (groups.iter().enumerate())
        .map(|(place, got)| told(problem, dense, place, got, prices))
        .collect();
    out.extend(idle(problem));
    out
}

/// Why a gang has its cap, in a sentence.
fn reason(problem: &Problem, dense: &Dense, slot: usize, got: &GroupCap, prices: &[f64]) -> String {
    let cap = got.cap.0;
    let kilo = |worth: f64| worth * 1_000.0;
    if dense.range[slot].count == 0.0 {
        return "None of its devices can be commanded now; they are counted at the highest cap they may have.".to_owned();
    }
    let Some(next) = next(dense, slot, cap) else {
        return format!(
            "Full cap: no limit above it is short of power, and its last watt still buys more work than the price of energy ({:.3} h/kWh).",
            kilo(dense.price)
        );
    };
    let at_floor = cap <= dense.range[slot].floor + AT;
    let held = if at_floor {
        "Held at the lowest cap that its service level allows"
    } else {
        "Capped"
    };
    match got.binding {
        Some(node) => format!(
            "{held}: `{}` is at its limit of {:.1} kW, whose price is {:.3} h/kWh above that of energy; the next watt here would buy {:.3} h/kWh for it.",
            problem.limit_name(node),
            dense.limits[node] / 1_000.0,
            kilo(prices[node]),
            kilo(next),
        ),
        None if next <= dense.price => format!(
            "{held}: one more watt would buy {:.3} h/kWh, less than the price of energy ({:.3} h/kWh).",
            kilo(next),
            kilo(dense.price),
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
    let dropped: BTreeSet<&JobId> = shed.dropped.iter().collect();
    let beyond: BTreeMap<&str, usize> = (shed.beyond.iter().enumerate())
        .map(|(place, (node, _))| (node.as_str(), place))
        .collect();
    // Below which of those limits each job is held.
    let mut here: BTreeMap<&JobId, BTreeSet<usize>> = BTreeMap::new();
    for (group, got) in problem.groups.iter().zip(&shed.allocation.groups) {
        let limit = got.binding.map(|row| problem.limit_name(row));
        if let Some(place) = limit.and_then(|name| beyond.get(name)) {
            here.entry(&group.job).or_default().insert(*place);
        }
    }
    for entry in &mut shed.allocation.jobs {
        let Some(job) = &entry.job else { continue };
        if dropped.contains(job) {
            entry.reason = format!("Its floor was dropped to keep a limit. {}", entry.reason);
        }
        for place in here.get(job).into_iter().flatten() {
            let (node, over) = &shed.beyond[*place];
            entry.reason += &format!(
                " Even the lowest caps exceed `{node}` by {:.1} kW.",
                over.kilowatts()
            );
        }
    }
}
