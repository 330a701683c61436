//! Every sentence that says why a cap is what it is holds: what it claims is
//! recomputed from the problem, the prices and the caps alone.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

mod support;

use heliostat_models::{JobId, SpeedCurve, Watts};
use heliostat_optimizer::allocate::{Allocation, Outcome, Problem, Shed, allocate};
use std::collections::{BTreeMap, BTreeSet};
use support::{Shape, limits_above, problem, rooms};

/// Watts by which a cap may miss a corner: a driver's step and the rounding to it.
const NEAR: f64 = 0.004;

/// A small site: events at the feed, contracts, gangs, pinned devices, steps,
/// flat curves, curves that end far below full speed.
fn random(rng: &mut fastrand::Rng) -> Problem {
    let shape = Shape {
        racks: rng.usize(1..=4),
        nodes: rng.usize(1..=3),
        devices: rng.usize(1..=4),
        gang: rng.usize(1..=12),
        corners: rng.usize(2..=8),
    };
    let (share, shuffle) = (0.15 + 1.05 * rng.f64(), rng.bool());
    let mut case = problem(rng, shape, share, shuffle);
    let contracts = [0, 0, 1, 3][rng.usize(0..4)];
    support::scale::contracts(rng, &mut case, contracts, share);
    case.step = Watts([0.001, 0.001, 1.0, 25.0][rng.usize(0..4)]);
    if rng.bool() {
        case.price_of_energy = 0.004 * rng.f64();
    }
    if rng.f64() < 0.3 {
        // A grid event counts devices at rest with what they draw.
        case.nodes[0].limit = case.nodes[0].limit * 0.8;
        case.nodes[0].spare = Watts(200.0 * rng.f64());
    }
    for device in &mut case.devices {
        if rng.f64() < 0.05 {
            device.fixed = Some(Watts([100.0, 150.0, 700.0][rng.usize(0..3)]));
        }
    }
    let (floors, flats) = (rng.f64(), 0.3 * rng.f64());
    for group in &mut case.groups {
        if rng.f64() < floors {
            group.floor_speed = rng.f64();
        }
        if rng.f64() < flats {
            let top = [0.3, 1.0][rng.usize(0..2)];
            let low = if rng.bool() { top } else { top * 0.4 };
            let knee = [250.0, 700.0][rng.usize(0..2)];
            let points = [(Watts(100.0), low), (Watts(knee), top), (Watts(701.0), top)];
            group.curve = SpeedCurve::envelope(&points).unwrap();
        }
    }
    case
}

/// What the test works out for itself about a gang.
struct Gang {
    low: f64,
    floor: f64,
    high: f64,
    /// Devices that can be commanded.
    free: Vec<usize>,
    /// Worth of a watt of all its devices together, per speed per watt of each.
    scale: f64,
}

fn gang(case: &Problem, group: usize, dropped: bool) -> Option<Gang> {
    let spec = &case.groups[group];
    let (fixed, free): (Vec<usize>, Vec<usize>) =
        (spec.devices.iter()).partition(|d| case.devices[**d].fixed.is_some());
    if free.is_empty() {
        return None;
    }
    let slowest = (fixed.iter()).map(|d| case.devices[*d].fixed.unwrap().0);
    let slowest = slowest.fold(f64::INFINITY, f64::min);
    let step = case.step.0;
    let up = |cap: f64| (cap / step - 1e-6).ceil() * step;
    let low = up(100.0);
    let high = ((700f64.min(slowest) / step + 1e-6).floor() * step).max(low);
    let (mut below, mut floor) = (low, high);
    let wanted = if dropped { 0.0 } else { spec.floor_speed };
    if spec.curve.speed(Watts(low)) >= wanted {
        floor = low;
    } else {
        for _ in 0..80 {
            let middle = 0.5 * (below + floor);
            if spec.curve.speed(Watts(middle)) >= wanted {
                floor = middle;
            } else {
                below = middle;
            }
        }
    }
    Some(Gang {
        low,
        floor: up(floor).min(high),
        high,
        scale: spec.weight * spec.devices.len() as f64 / free.len() as f64,
        free,
    })
}

/// The figure that stands before `unit`, the `place`th of them.
fn figure(text: &str, unit: &str, place: usize) -> f64 {
    let before = text.split(unit).nth(place).unwrap();
    let digits = before.rsplit([' ', '(']).next().unwrap();
    digits
        .parse()
        .unwrap_or_else(|_| panic!("{digits}: {text}"))
}

/// Whether a figure printed to three digits per kilowatt is this one per watt.
fn is(printed: f64, per_watt: f64) -> bool {
    (printed - per_watt * 1_000.0).abs() < 6e-4 + 1e-6 * printed.abs()
}

struct Told<'a> {
    case: &'a Problem,
    allocation: &'a Allocation,
    /// Sum of the caps below each limit.
    drawn: &'a [f64],
    prices: &'a [f64],
}

impl Told<'_> {
    /// Checks what a sentence claims; which kind it is.
    fn check(&self, group: usize, gang: Option<&Gang>, text: &str) -> &'static str {
        let (case, spec) = (self.case, &self.case.groups[group]);
        let Some(gang) = gang else {
            assert!(text.starts_with("None of its devices can be commanded now"));
            return "uncommanded";
        };
        let cap = self.allocation.groups[group].cap.0;
        let price = case.price_of_energy;
        let speed = |cap: f64| spec.curve.speed(Watts(cap.min(gang.high)));
        // Per watt of all devices, a little to the right and to the left, or to the next step.
        let (near, far) = if case.step.0 > 0.5 {
            (0.0, case.step.0)
        } else {
            (NEAR, NEAR + 0.002)
        };
        let slope = |from: f64, to: f64| gang.scale * (speed(to) - speed(from)) / (to - from);
        let right = || slope(cap + near, cap + far);
        // Next to a corner either side of it will do.
        let buys = |printed: f64| {
            is(printed, right()) || (near > 0.0 && is(printed, slope(cap + 2e-4, cap + 12e-4)))
        };
        let left = || slope(cap - far, cap - near);
        let above = |device: &usize| limits_above(case, *device);
        let costs =
            (gang.free.iter()).map(|d| above(d).iter().map(|r| self.prices[*r]).sum::<f64>());
        let cost = price + costs.sum::<f64>() / gang.free.len() as f64;
        let dearest =
            (gang.free.iter().flat_map(above)).fold(0.0, |most, r| self.prices[r].max(most));
        let at_floor = cap <= gang.floor + NEAR;
        let held_up = gang.floor > gang.low + NEAR;
        if text.starts_with("Held up by its floor: no cap below the highest") {
            assert!(held_up && gang.floor >= gang.high - NEAR);
            return "floor is ceiling";
        }
        if text.starts_with("The only cap") {
            assert!(gang.low >= gang.high - NEAR);
            return "only cap";
        }
        if let Some(rest) = text.strip_prefix("Full cap, the highest that can be set") {
            assert!(cap >= gang.high - NEAR && gang.floor < gang.high - 1e-3);
            if rest.starts_with('.') {
                return "full";
            }
            assert!(is(figure(text, " h/kWh", 0), left()), "{} {cap}", left());
            assert!(left() >= cost - 1e-9 - 1e-6 * cost, "{} {cost}", left());
            if rest.contains("no limit above it is short of power") {
                assert!(dearest == 0.0 && is(figure(text, " h/kWh", 1), price));
                return "full, nothing short";
            }
            assert!(
                dearest > 0.0 && is(figure(text, " h/kWh", 1), cost),
                "{cost}"
            );
            return "full, a limit short";
        }
        if text.starts_with("Held up by its floor, at the lowest cap") {
            assert!(at_floor && held_up, "{cap} {} {}", gang.floor, gang.low);
        } else if text.starts_with("At the lowest cap that can be set") {
            assert!(cap <= gang.low + NEAR);
        } else {
            assert!(text.starts_with("Capped:") && cap > gang.floor + 1e-3);
        }
        let room_above = gang.high > cap + 1e-3;
        if text.contains("more would buy nothing") {
            assert!(speed(gang.high) - speed(cap + near) <= 1e-12 && room_above);
            return "more buys nothing";
        }
        assert!(room_above);
        if text.contains("no more than the price of energy") {
            assert!(right() <= price + 1e-9, "{} {price}", right());
            assert!(buys(figure(text, " h/kWh", 0)) && is(figure(text, " h/kWh", 1), price));
            return "price";
        }
        if text.contains("no limit above it has a price") {
            assert!(dearest == 0.0 && right() > price);
            assert!(buys(figure(text, " h/kWh", 0)) && is(figure(text, " h/kWh", 1), price));
            assert!(self.allocation.certificate.gap > 0.0);
            return "gap";
        }
        assert!(text.contains("whose price is"), "{text}");
        let name = text.split('`').nth(1).unwrap();
        let row = (0..self.prices.len())
            .find(|r| case.limit_name(*r) == name)
            .unwrap();
        assert!(self.prices[row] == dearest && dearest > 0.0);
        assert!(gang.free.iter().flat_map(above).any(|r| r == row));
        assert!(is(figure(text, " h/kWh", 0), dearest) && buys(figure(text, " h/kWh", 1)));
        if text.contains("is at its limit of") {
            // Up to the step that each device below is rounded down by.
            let below = (0..case.devices.len()).filter(|d| above(d).contains(&row));
            let rounding = below.count() as f64 * (case.step.0 + 1e-3);
            let room = rooms(case)[row];
            assert!(
                self.drawn[row] >= room - rounding,
                "{} of {room}",
                self.drawn[row]
            );
            return "limit, full";
        }
        "limit"
    }
}

/// Checks and cuts off what is said of floors that gave way.
fn of_shed<'a>(
    case: &Problem,
    group: usize,
    shed: Option<&Shed>,
    dropped: &BTreeSet<&JobId>,
    text: &'a str,
) -> &'a str {
    let of = |group: usize| gang(case, group, false);
    let load = |floor_of: &dyn Fn(usize) -> bool, row: usize| -> f64 {
        let mut caps: Vec<f64> = (case.devices.iter())
            .map(|d| d.fixed.unwrap_or(d.min).0)
            .collect();
        for group in 0..case.groups.len() {
            if let Some(gang) = of(group) {
                let cap = if floor_of(group) {
                    gang.floor
                } else {
                    gang.low
                };
                gang.free.iter().for_each(|d| caps[*d] = cap);
            }
        }
        let below = (0..caps.len()).filter(|d| limits_above(case, *d).contains(&row));
        below.map(|d| caps[d]).sum()
    };
    let find = |name: &str| (0..rooms(case).len()).find(|r| case.limit_name(*r) == name);
    let is_dropped = |group: usize| dropped.contains(&case.groups[group].job);
    let said = text.strip_prefix("Its floor was dropped: with it ");
    assert_eq!(said.is_some(), is_dropped(group), "{text}");
    let mut rest = text;
    if let Some(said) = said {
        let (name, after) = said.split_once(" would be exceeded. ").unwrap();
        let row = find(name.trim_matches('`')).unwrap();
        let with = load(&|other| other == group || !is_dropped(other), row);
        assert!(with > rooms(case)[row] - 1e-3, "{with} {text}");
        rest = after;
    }
    if let Some((before, said)) = rest.split_once(" Even the lowest caps exceed ") {
        let (name, by) = said.split_once(" by ").unwrap();
        let row = find(name.trim_matches('`')).unwrap();
        let over = load(&|_| false, row) - rooms(case)[row];
        let printed: f64 = by.trim_end_matches(" kW.").parse().unwrap();
        assert!(
            (printed - over / 1_000.0).abs() < 0.051 && over > 0.0,
            "{over} {text}"
        );
        assert!(
            shed.unwrap()
                .beyond
                .iter()
                .any(|(limit, _)| limit == name.trim_matches('`'))
        );
        rest = before;
    }
    rest
}

#[test]
fn every_sentence_holds() {
    let mut rng = fastrand::Rng::with_seed(41);
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for round in 0..1_500 {
        let case = random(&mut rng);
        let outcome = allocate(&case).unwrap();
        let allocation = outcome.allocation();
        let shed = match &outcome {
            Outcome::Infeasible { shed, .. } => Some(shed),
            Outcome::Allocated(_) => None,
        };
        let dropped: BTreeSet<&JobId> = shed.iter().flat_map(|s| &s.dropped).collect();
        let prices = allocation.prices();
        let mut drawn = vec![0.0; prices.len()];
        for (device, cap) in allocation.caps.iter().enumerate() {
            for row in limits_above(&case, device) {
                drawn[row] += cap.0;
            }
        }
        let told = Told {
            case: &case,
            allocation,
            drawn: &drawn,
            prices: &prices,
        };
        for (group, entry) in allocation.jobs.iter().enumerate().take(case.groups.len()) {
            let spec = &case.groups[group];
            let known = gang(&case, group, dropped.contains(&spec.job));
            let claim = || {
                let rest = of_shed(&case, group, shed, &dropped, &entry.reason);
                told.check(group, known.as_ref(), rest)
            };
            let kind = std::panic::catch_unwind(std::panic::AssertUnwindSafe(claim));
            let kind = kind.unwrap_or_else(|_| {
                panic!(
                    "round {round}, step {}, {:?}, cap {}, {:?}: {}",
                    case.step, allocation.method, entry.cap, spec.curve, entry.reason
                )
            });
            *kinds.entry(kind).or_default() += 1;
        }
    }
    eprintln!("{kinds:?}");
    for kind in [
        "uncommanded",
        "floor is ceiling",
        "only cap",
        "full, nothing short",
        "full, a limit short",
        "more buys nothing",
        "price",
        "limit",
        "limit, full",
    ] {
        assert!(
            kinds.get(kind).is_some_and(|n| *n > 20),
            "{kind}: {kinds:?}"
        );
    }
}
