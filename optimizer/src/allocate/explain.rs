//! Why each gang has the cap it has.

use super::dense::Dense;
use super::finish::Solved;
use super::problem::{GroupCap, Method, Problem, Shed};
use heliostat_models::Watts;
use heliostat_models::decision::JobCap;
use std::collections::BTreeMap;

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
    solved: &Solved,
) -> JobCap {
    let prices = &solved.prices;
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
    told(problem, dense, group, &got, solved)
}

fn told(problem: &Problem, dense: &Dense, place: usize, got: &GroupCap, solved: &Solved) -> JobCap {
    let group = &problem.groups[place];
    JobCap {
        job: Some(group.job.clone()),
        devices: group.devices.len() as u32,
        cap: got.cap,
        speed: got.speed,
        binding: got.binding.map(|v| problem.limit_name(v).to_owned()),
        marginal: got.marginal,
        reason: reason(problem, dense, dense.slot[place] as usize, got, solved),
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
    solved: &Solved,
) -> Vec<JobCap> {
    let mut out: Vec<JobCap> = (groups.iter().enumerate())
        .map(|(place, got)| told(problem, dense, place, got, solved))
        .collect();
    out.extend(idle(problem));
    out
}

/// Why a gang has its cap, in a sentence. Each says only what the figures show.
fn reason(
    problem: &Problem,
    dense: &Dense,
    slot: usize,
    got: &GroupCap,
    solved: &Solved,
) -> String {
    let prices = &solved.prices;
    let (cap, range) = (got.cap.0, &dense.range[slot]);
    if range.count == 0.0 {
        return "None of its devices can be commanded now; they are counted at the highest cap they may have.".to_owned();
    }
    let at_floor = cap <= range.floor + AT;
    let held_up = range.floor > range.low + AT;
    if at_floor && range.ceiling <= range.floor + AT {
        return if held_up {
            "Held up by its floor: no cap below the highest that can be set keeps its service level."
        } else {
            "The only cap that all its devices can be set to."
        }
        .to_owned();
    }
    let held = match (at_floor, held_up) {
        (true, true) => "Held up by its floor, at the lowest cap that its service level allows",
        (true, false) => "At the lowest cap that can be set",
        (false, _) => "Capped",
    };
    if cap >= range.ceiling - AT {
        return at_ceiling(problem, dense, slot, got, prices);
    }
    let kilo = |worth: f64| worth * 1_000.0;
    let Some(next) = next(dense, slot, cap) else {
        return format!("{held}: more would buy nothing, it runs no faster above this cap.");
    };
    match got.binding {
        _ if next <= dense.price => format!(
            "{held}: one more watt would buy {:.3} h/kWh, no more than the price of energy ({:.3} h/kWh).",
            kilo(next),
            kilo(dense.price),
        ),
        Some(node) => format!(
            "{held}: `{}` is {} {:.1} kW, whose price is {:.3} h/kWh above that of energy; the next watt here would buy {:.3} h/kWh for it.",
            problem.limit_name(node),
            // Approximate prices may stand at limits with something left.
            match solved.method {
                Method::Sweep => "at its limit of",
                _ => "limited to",
            },
            dense.limits[node] / 1_000.0,
            kilo(prices[node]),
            kilo(next),
        ),
        None => format!(
            "{held}: one more watt would buy {:.3} h/kWh, more than the price of energy ({:.3} h/kWh), and no limit above it has a price; what that is worth lies within the gap of the proof.",
            kilo(next),
            kilo(dense.price),
        ),
    }
}

/// Why a gang has the highest cap that it can be set to, above its floor.
fn at_ceiling(
    problem: &Problem,
    dense: &Dense,
    slot: usize,
    got: &GroupCap,
    prices: &[f64],
) -> String {
    let kilo = |worth: f64| worth * 1_000.0;
    let cost = cost(dense, slot, prices);
    let is_flat = stretches(dense, slot)
        .last()
        .is_none_or(|(end, _)| end + AT < got.cap.0);
    if got.marginal < cost || is_flat {
        return "Full cap, the highest that can be set.".to_owned();
    }
    let buys = format!("its last watt still buys {:.3} h/kWh", kilo(got.marginal));
    match got.binding {
        None => format!(
            "Full cap, the highest that can be set: no limit above it is short of power, and {buys}, the price of energy being {:.3} h/kWh.",
            kilo(dense.price)
        ),
        Some(node) => format!(
            "Full cap, the highest that can be set: {buys}, a watt costs {:.3} h/kWh here, `{}` being short of power.",
            kilo(cost),
            problem.limit_name(node)
        ),
    }
}

/// What a watt costs a gang: energy and all limits above it, by its devices' mean.
fn cost(dense: &Dense, slot: usize, prices: &[f64]) -> f64 {
    let limits: f64 = (dense.points_of(slot).iter())
        .map(|(point, devices)| {
            let above = dense.rows.above(*point).iter();
            f64::from(*devices) * above.map(|row| prices[*row as usize]).sum::<f64>()
        })
        .sum();
    dense.price + limits / dense.range[slot].count
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

/// Adds to the reasons which floors were dropped, by group, for which limit,
/// and what even that does not mend.
pub(super) fn tell_what_was_shed(problem: &Problem, dropped: &[(usize, usize)], shed: &mut Shed) {
    let mut gave_way = vec![None; problem.groups.len()];
    for (group, row) in dropped {
        gave_way[*group] = Some(*row);
    }
    let beyond: BTreeMap<&str, usize> = (shed.beyond.iter().enumerate())
        .map(|(place, (limit, _))| (limit.as_str(), place))
        .collect();
    // One entry a group, in the order of the groups.
    let allocation = &mut shed.allocation;
    for ((entry, got), row) in (allocation.jobs.iter_mut().zip(&allocation.groups)).zip(gave_way) {
        if let Some(row) = row {
            entry.reason = format!(
                "Its floor was dropped: with it `{}` would be exceeded. {}",
                problem.limit_name(row),
                entry.reason
            );
        }
        let binding = got.binding.map(|row| problem.limit_name(row));
        if let Some(place) = binding.and_then(|name| beyond.get(name)) {
            let (limit, over) = &shed.beyond[*place];
            entry.reason += &format!(
                " Even the lowest caps exceed `{limit}` by {:.1} kW.",
                over.kilowatts()
            );
        }
    }
}
