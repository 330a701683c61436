//! One gang in numbers: its range, its floor and the stretches of its curve.

use super::problem::{Group, Problem};
use heliostat_models::Watts;

/// A gang as its curve and its devices make it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    /// Devices that can be commanded.
    pub count: f64,
    /// Lowest cap that all its devices can be set to, in watts.
    pub low: f64,
    /// Lowest cap that keeps the floor, in watts.
    pub floor: f64,
    /// Highest cap, in watts.
    pub ceiling: f64,
    /// Weighted work at the floor.
    pub base: f64,
    /// Weighted work at full speed.
    pub worth: f64,
    /// What caps are multiples of, in watts; zero for none.
    pub step: f64,
}

/// Rounds down to a multiple of `step`; what is a multiple already stays.
pub(super) fn round_down(value: f64, step: f64) -> f64 {
    if step > 0.0 {
        multiple((value / step + 1e-7).floor(), step)
    } else {
        value
    }
}

fn round_up(value: f64, step: f64) -> f64 {
    if step > 0.0 {
        multiple((value / step - 1e-7).ceil(), step)
    } else {
        value
    }
}

/// `count` steps. Where a step is a whole part of one, by division: 200,100
/// milliwatts are then the same number that a driver's reading becomes.
fn multiple(count: f64, step: f64) -> f64 {
    let parts = (1.0 / step).round();
    if (parts * step - 1.0).abs() < 1e-12 {
        count / parts
    } else {
        count * step
    }
}

/// Reads a gang.
pub(super) fn range(problem: &Problem, group: &Group) -> Range {
    let (mut low, mut high) = (0.0f64, f64::INFINITY);
    let (mut slowest, mut count) = (f64::INFINITY, 0.0);
    let mut step = problem.step.0;
    for device in group.devices.iter().map(|d| &problem.devices[*d]) {
        if let Some(fixed) = device.fixed {
            // The gang runs at the pace of its slowest member.
            slowest = slowest.min(fixed.0);
            continue;
        }
        count += 1.0;
        low = low.max(device.min.0);
        high = high.min(device.max.0);
        step = common_step(step, device.step.0);
    }
    let (low, ceiling) = if count == 0.0 {
        let cap = if slowest.is_finite() { slowest } else { 0.0 };
        (cap, cap)
    } else {
        let low = round_up(low, step).min(high);
        (low, round_down(high.min(slowest.max(low)), step).max(low))
    };
    let of_devices = Range {
        count,
        low,
        floor: low,
        ceiling,
        base: 0.0,
        worth: 0.0,
        step,
    };
    of_devices.of_job(group)
}

impl Range {
    /// The range of the same devices when only the job's curve, weight or floor has changed.
    pub fn of_job(self, group: &Group) -> Self {
        let floor = if self.count == 0.0 {
            self.low
        } else {
            round_up(cap_for(group, group.floor_speed), self.step).clamp(self.low, self.ceiling)
        };
        let worth = group.weight * group.devices.len() as f64;
        Self {
            floor,
            base: worth * group.curve.speed(Watts(floor)),
            worth,
            ..self
        }
    }
}

/// A step that is a multiple of both, in whole microwatts; the larger one
/// where there is none below a hundred kilowatts.
fn common_step(a: f64, b: f64) -> f64 {
    if a == b || b <= 0.0 {
        return a;
    }
    if a <= 0.0 {
        return b;
    }
    let (x, y) = ((a * 1e6).round() as u64, (b * 1e6).round() as u64);
    let (mut p, mut q) = (x.max(1), y.max(1));
    while q > 0 {
        (p, q) = (q, p % q);
    }
    match (x / p).checked_mul(y) {
        Some(both) if both > 0 && both < 100_000_000_000 => both as f64 / 1e6,
        _ => a.max(b),
    }
}

/// Smallest cap at which a curve reaches a speed; infinite when it never does.
pub(super) fn cap_for(group: &Group, speed: f64) -> f64 {
    let points = group.curve.points();
    if points[0].1 >= speed {
        return 0.0;
    }
    for pair in points.windows(2) {
        let ((w0, s0), (w1, s1)) = (pair[0], pair[1]);
        if s1 >= speed {
            return w0.0 + (w1 - w0).0 * (speed - s0) / (s1 - s0);
        }
    }
    f64::INFINITY
}

/// The corners of the work that a gang does from floor to ceiling: cap, speed.
/// Concave; where the curve says nothing below its first point and the floor
/// stands there, a straight line leads over the gap.
pub(super) fn corners(group: &Group, range: &Range, out: &mut Vec<(f64, f64)>) {
    out.clear();
    if range.ceiling <= range.floor {
        return;
    }
    let points = group.curve.points();
    out.push((range.floor, group.curve.speed(Watts(range.floor))));
    for (cap, speed) in points {
        if cap.0 > range.floor && cap.0 < range.ceiling {
            push_hull(out, cap.0, *speed);
        }
    }
    push_hull(out, range.ceiling, group.curve.speed(Watts(range.ceiling)));
}

fn push_hull(out: &mut Vec<(f64, f64)>, cap: f64, speed: f64) {
    // Only the first corner can lie too low: the curve itself is concave.
    if let [(w0, s0), (w1, s1)] = out[..]
        && (s1 - s0) * (cap - w0) < (speed - s0) * (w1 - w0)
    {
        out.pop();
    }
    out.push((cap, speed));
}

/// Puts corners on whole steps: a corner between two steps becomes both of
/// them, so that the best cap of any price is one that can be set.
pub(super) fn on_steps(group: &Group, range: &Range, corners: &mut Vec<(f64, f64)>) {
    // Finer steps cost less than a corner more is worth.
    if range.step < COARSE || corners.len() < 2 {
        return;
    }
    let mut out: Vec<(f64, f64)> = Vec::with_capacity(2 * corners.len());
    for (cap, _) in corners.iter() {
        let below = round_down(*cap, range.step);
        let above = round_up(*cap, range.step);
        for at in [below, above] {
            let at = at.clamp(range.floor, range.ceiling);
            if out.last().is_none_or(|(last, _)| at > *last) {
                out.push((at, group.curve.speed(Watts(at))));
            }
        }
    }
    *corners = out;
}

/// Watts from which a step counts as coarse.
const COARSE: f64 = 0.25;
