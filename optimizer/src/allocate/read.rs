//! Reading gangs of a problem into arrays, a part of them at a time.

use super::gang::{self, Range};
use super::problem::{Group, Problem};
use super::rows::Rows;

/// What is read of some slots that follow one another.
#[derive(Default)]
pub(super) struct Half {
    /// Range of each gang.
    pub range: Vec<Range>,
    /// Points of the gangs, and how many of their devices hang there.
    pub points: Vec<(u32, u32)>,
    /// Where the points of each slot end.
    pub point_end: Vec<u32>,
    /// Gangs without a device that can be commanded.
    pub idle: usize,
    /// What a watt more for every device is worth at most.
    pub steepest: f64,
}

impl Half {
    /// Reads the groups of slots whose stretches begin at `start`, and ends with the last of it.
    pub fn read(
        problem: &Problem,
        rows: &Rows,
        unit: f64,
        groups: &[u32],
        start: &[u32],
        slopes: &mut [f64],
        widths: &mut [f64],
    ) -> Self {
        let mut half = Self {
            range: Vec::with_capacity(groups.len()),
            points: Vec::with_capacity(groups.len()),
            point_end: Vec::with_capacity(groups.len()),
            ..Self::default()
        };
        let mut corners = Vec::new();
        for (at, group) in groups.iter().enumerate() {
            let group = &problem.groups[*group as usize];
            let range = gang::range(problem, group);
            let own = (start[at] - start[0]) as usize..(start[at + 1] - start[0]) as usize;
            let (slopes, widths) = (&mut slopes[own.clone()], &mut widths[own]);
            // What is kept for a group's stretches is reckoned from the same group.
            let fits = stretches(group, &range, unit, (slopes, widths), &mut corners);
            debug_assert!(fits);
            half.steepest += range.count * slopes.first().copied().unwrap_or(0.0);
            half.range.push(range);
            half.find_points(problem, rows, group);
        }
        half
    }

    fn find_points(&mut self, problem: &Problem, rows: &Rows, group: &Group) {
        let begin = self.points.len();
        for device in &group.devices {
            if problem.devices[*device].fixed.is_none() {
                self.points.push((rows.point[*device], 1));
            }
        }
        let mine = &mut self.points[begin..];
        if mine.len() > 1 {
            mine.sort_unstable();
            let mut last = 0;
            for at in 1..mine.len() {
                if mine[at].0 == mine[last].0 {
                    mine[last].1 += 1;
                } else {
                    last += 1;
                    mine[last] = mine[at];
                }
            }
            self.points.truncate(begin + last + 1);
        }
        self.idle += usize::from(self.points.len() == begin);
        self.point_end.push(self.points.len() as u32);
    }
}

/// Writes the stretches of a group; whether they fit into what is kept for them.
pub(super) fn stretches(
    group: &Group,
    range: &Range,
    unit: f64,
    (slopes, widths): (&mut [f64], &mut [f64]),
    corners: &mut Vec<(f64, f64)>,
) -> bool {
    gang::corners(group, range, corners);
    gang::on_steps(group, range, corners);
    slopes.fill(0.0);
    widths.fill(0.0);
    let per_watt = 1.0 / unit;
    let (mut used, mut before) = (0, 0.0);
    for pair in corners.windows(2) {
        let ((w0, s0), (w1, s1)) = (pair[0], pair[1]);
        let slope = range.worth * (s1 - s0) / ((w1 - w0) * range.count);
        let exact = (w1 - range.floor) * per_watt;
        // The last corner is rounded up; the cap itself stops at the ceiling.
        let after = if w1 >= range.ceiling {
            up(exact)
        } else {
            near(exact)
        };
        if slope > 0.0 && after > before {
            if used == slopes.len() {
                return false;
            }
            slopes[used] = slope;
            widths[used] = (after - before) * range.count;
            used += 1;
            before = after;
        }
    }
    true
}

/// The whole number at or above a number of 0 to 2^53. Without a call, unlike
/// `ceil` where the processor that was compiled for has no instruction for it.
fn up(value: f64) -> f64 {
    let whole = value as i64 as f64;
    if whole < value { whole + 1.0 } else { whole }
}

/// The whole number nearest to such a number; halves go up.
fn near(value: f64) -> f64 {
    let whole = value as i64 as f64;
    if value - whole >= 0.5 {
        whole + 1.0
    } else {
        whole
    }
}
