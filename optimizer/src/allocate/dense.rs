//! The problem as dense arrays of numbers: what the solvers work on.
//!
//! Gangs stand in **slots**, ordered by the place in the forest where they
//! hang, so that all stretches below a row lie next to one another in memory.
//!
//! Watts are counted in whole **units** of a power of two of a watt, small
//! enough that a unit is worth nothing and large enough that sums of them are
//! exact in 53 bits. So sums do not depend on their order: an increment gives
//! the same bits as a fresh start, and no limit is exceeded by rounding.

use super::gang::{self, Range};
use super::problem::{Group, Problem};
use super::read::{Half, stretches};
use super::rows::{NONE, Rows};

/// Relative room for the rounding of sums of watts.
pub(super) const SLACK: f64 = 1e-9;
/// Sums of units stay below this.
const EXACT: f64 = (1u64 << 52) as f64;

/// The whole.
#[derive(Clone, Debug)]
pub(super) struct Dense {
    /// Which limits stand above what.
    pub rows: Rows,
    /// Watts in a unit.
    pub unit: f64,
    /// λ.
    pub price: f64,
    /// Units left at each row for gangs above their floors; below zero when the floors do not fit.
    pub left: Vec<f64>,
    /// The gang in each slot, by place in the problem's groups.
    pub group: Vec<u32>,
    /// The slot of each group.
    pub slot: Vec<u32>,
    /// The group that holds each device; [`NONE`] for none.
    pub holder: Vec<u32>,
    /// Range of the gang in each slot.
    pub range: Vec<Range>,
    /// The place in the forest of each slot's gang.
    pub home: Vec<u32>,
    /// Where each slot's stretches begin.
    pub start: Vec<u32>,
    /// Worth of a watt in each stretch, λ not taken off; 0 for an unused one.
    pub slope: Vec<f64>,
    /// Units in each stretch, of all the gang's devices together.
    pub width: Vec<f64>,
    /// Where each place's slots begin.
    pub at: Vec<u32>,
    /// Limits of the rows in watts, for tolerances.
    pub limits: Vec<f64>,
    /// Units of power that have been promised below each row.
    load: Vec<f64>,
    /// Where each slot's points begin.
    pub point_start: Vec<u32>,
    /// Points of the gangs, and how many of their devices hang there.
    pub points: Vec<(u32, u32)>,
    /// Whole watts of all devices at their highest.
    highest: u64,
    /// Gangs without a device that can be commanded.
    idle: usize,
    /// Units of devices that no gang commands.
    without: f64,
    /// What a watt more for every device is worth at most.
    pub steepest: f64,
    /// Stretches from which two threads count them.
    pub beside: u32,
    /// Corners of a curve being read, kept for their memory.
    corners: Vec<(f64, f64)>,
}

/// Stretches from which starting a thread costs little beside counting them.
const COUNTED_BESIDE: u32 = 1 << 21;
/// Gangs from which they are read by two threads.
const BESIDE: usize = 8_192;

/// Units that sums of this many watts still fit.
fn unit_for(watts: u64) -> f64 {
    let mut unit = 2f64.powi(-26);
    while watts as f64 / unit > EXACT {
        unit *= 2.0;
    }
    unit
}

fn whole_watts(problem: &Problem, device: usize) -> u64 {
    let device = &problem.devices[device];
    let fixed = device.fixed.unwrap_or_default();
    device.max.max(fixed).0.ceil() as u64
}

impl Dense {
    /// Of a valid problem.
    pub fn new(problem: &Problem, rows: Rows) -> Self {
        let highest = (0..problem.devices.len())
            .map(|d| whole_watts(problem, d))
            .sum();
        let mut holder = vec![NONE; problem.devices.len()];
        for (place, group) in problem.groups.iter().enumerate() {
            for device in &group.devices {
                holder[*device] = place as u32;
            }
        }
        let groups = problem.groups.len();
        let mut dense = Self {
            unit: unit_for(highest),
            price: problem.price_of_energy,
            left: vec![0.0; rows.count],
            limits: vec![0.0; rows.count],
            load: vec![0.0; rows.count],
            group: vec![0; groups],
            slot: vec![0; groups],
            range: Vec::with_capacity(groups),
            home: vec![0; groups],
            start: Vec::with_capacity(groups + 1),
            slope: Vec::new(),
            width: Vec::new(),
            at: Vec::new(),
            point_start: vec![0],
            points: Vec::with_capacity(groups),
            holder,
            highest,
            idle: 0,
            without: 0.0,
            steepest: 0.0,
            beside: COUNTED_BESIDE,
            corners: Vec::new(),
            rows,
        };
        dense.order(problem);
        dense.fill(problem);
        dense.promise(problem);
        for row in 0..dense.rows.count {
            dense.set_room(problem, row);
        }
        dense
    }

    /// Gives every gang its slot.
    fn order(&mut self, problem: &Problem) {
        let places = self.rows.tree.row.len();
        let mut homes = Vec::with_capacity(problem.groups.len());
        let mut begin = vec![0u32; places + 1];
        for group in &problem.groups {
            let tree = &self.rows.tree;
            let able = (group.devices.iter()).filter(|d| problem.devices[**d].fixed.is_none());
            let home = able
                .map(|d| tree.home[self.rows.point[*d] as usize])
                .reduce(|a, b| tree.meet(a, b))
                .unwrap_or(0);
            homes.push(home);
            begin[home as usize + 1] += 1;
        }
        for place in 0..places {
            begin[place + 1] += begin[place];
        }
        self.at = begin.clone();
        for (group, home) in homes.into_iter().enumerate() {
            let slot = begin[home as usize];
            begin[home as usize] += 1;
            self.slot[group] = slot;
            self.group[slot as usize] = group as u32;
            self.home[slot as usize] = home;
        }
    }

    /// Reads every gang's range, stretches and points; large problems in two halves side by side.
    fn fill(&mut self, problem: &Problem) {
        let slots = self.group.len();
        self.start.push(0);
        let mut end = 0;
        for group in &self.group {
            end += capacity(problem, &problem.groups[*group as usize]) as u32;
            self.start.push(end);
        }
        self.slope = vec![0.0; end as usize];
        self.width = vec![0.0; end as usize];
        let middle = if slots < BESIDE { slots } else { slots / 2 };
        let (unit, rows, start) = (self.unit, &self.rows, &self.start);
        let cut = start[middle] as usize;
        let (slopes, more_slopes) = self.slope.split_at_mut(cut);
        let (widths, more_widths) = self.width.split_at_mut(cut);
        let half = |groups: &[u32], start: &[u32], slopes: &mut [f64], widths: &mut [f64]| {
            Half::read(problem, rows, unit, groups, start, slopes, widths)
        };
        let (groups, more_groups) = self.group.split_at(middle);
        let halves = if more_groups.is_empty() {
            [half(groups, start, slopes, widths), Half::default()]
        } else {
            std::thread::scope(|scope| {
                let beside =
                    scope.spawn(|| half(more_groups, &start[middle..], more_slopes, more_widths));
                let here = half(groups, &start[..=middle], slopes, widths);
                match beside.join() {
                    Ok(beside) => [here, beside],
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            })
        };
        for half in halves {
            let before = self.points.len() as u32;
            self.point_start
                .extend(half.point_end.iter().map(|end| before + end));
            self.points.extend(half.points);
            self.range.extend(half.range);
            self.idle += half.idle;
            self.steepest += half.steepest;
        }
    }

    /// Writes a slot's stretches; whether they fit into what is kept for them.
    fn stretches(&mut self, group: &Group, slot: usize) -> bool {
        let segments = self.segments(slot);
        let mut corners = std::mem::take(&mut self.corners);
        let fits = stretches(
            group,
            &self.range[slot],
            self.unit,
            (&mut self.slope[segments.clone()], &mut self.width[segments]),
            &mut corners,
        );
        self.corners = corners;
        self.steepest += self.steepness(slot);
        fits
    }

    /// What a watt more for each of a gang's devices is worth at most.
    fn steepness(&self, slot: usize) -> f64 {
        let first = self.segments(slot).next().map_or(0.0, |s| self.slope[s]);
        self.range[slot].count * first
    }

    /// Sums up what floors and devices without a command take from each row.
    fn promise(&mut self, problem: &Problem) {
        let points = (self.rows.point.iter().max()).map_or(0, |p| *p as usize + 1);
        let mut at_point = vec![0.0; points.max(problem.nodes.len())];
        for device in 0..problem.devices.len() {
            let load = self.device_load(problem, device);
            self.without += load;
            at_point[self.rows.point[device] as usize] += load;
        }
        for slot in 0..self.group.len() {
            let load = self.floor_load(slot);
            for (point, count) in self.points_of(slot) {
                at_point[*point as usize] += load * f64::from(*count);
            }
        }
        for (point, load) in at_point.into_iter().enumerate().filter(|(_, l)| *l > 0.0) {
            for row in self.rows.above(point as u32) {
                self.load[*row as usize] += load;
            }
        }
    }

    /// Units that a device takes which no gang commands.
    fn device_load(&self, problem: &Problem, device: usize) -> f64 {
        let spec = &problem.devices[device];
        let cap = match spec.fixed {
            Some(fixed) => fixed,
            None if self.holder[device] == NONE => spec.min,
            None => return 0.0,
        };
        (cap.0 / self.unit).ceil()
    }

    /// Units that each device of a gang takes at its floor.
    fn floor_load(&self, slot: usize) -> f64 {
        (self.range[slot].floor / self.unit).ceil()
    }

    /// Reads a row's limit anew.
    pub fn set_room(&mut self, problem: &Problem, row: usize) {
        let nodes = problem.nodes.len();
        let (room, limit) = match problem.nodes.get(row) {
            Some(node) => (node.room(), node.limit),
            None => (
                problem.contracts[row - nodes].room(),
                problem.contracts[row - nodes].limit,
            ),
        };
        self.limits[row] = limit.0;
        self.left[row] = (room.0 / self.unit).floor() - self.load[row];
    }

    /// Reads a gang anew whose curve, weight or floor has changed, or, as a
    /// `whole`, the range of a device; `false` when the arrays are too small
    /// for it and all must be made anew.
    pub fn set_gang(&mut self, problem: &Problem, slot: usize, whole: bool) -> bool {
        let group = &problem.groups[self.group[slot] as usize];
        let before = self.floor_load(slot);
        let range = if whole {
            gang::range(problem, group)
        } else {
            self.range[slot].of_job(group)
        };
        if range.count != self.range[slot].count {
            return false;
        }
        self.steepest -= self.steepness(slot);
        self.range[slot] = range;
        if !self.stretches(group, slot) {
            return false;
        }
        let change = self.floor_load(slot) - before;
        if change != 0.0 {
            for at in self.point_start[slot]..self.point_start[slot + 1] {
                let (point, count) = self.points[at as usize];
                self.add_load(point, change * f64::from(count));
            }
        }
        true
    }

    /// Takes the load of a device without a gang out of the sums, or puts it in.
    pub fn move_device(&mut self, problem: &Problem, device: usize, sign: f64) {
        let load = self.device_load(problem, device);
        self.without += sign * load;
        self.add_load(self.rows.point[device], sign * load);
        let watts = whole_watts(problem, device);
        self.highest = if sign > 0.0 {
            self.highest + watts
        } else {
            self.highest - watts
        };
    }

    fn add_load(&mut self, point: u32, units: f64) {
        for row in self.rows.above(point) {
            self.load[*row as usize] += units;
            self.left[*row as usize] -= units;
        }
    }

    /// Watts of devices that no gang commands.
    pub fn uncommanded(&self) -> f64 {
        self.without * self.unit
    }

    /// Whether the units still are those that a fresh start would choose.
    pub fn unit_holds(&self) -> bool {
        unit_for(self.highest) == self.unit
    }

    /// Whether a gang or a limit cuts across the nested limits.
    pub fn tangled(&self) -> bool {
        !self.rows.tree.loose.is_empty() || self.points.len() > self.group.len() - self.idle
    }

    /// Points of the gang in a slot.
    pub fn points_of(&self, slot: usize) -> &[(u32, u32)] {
        &self.points[self.point_start[slot] as usize..self.point_start[slot + 1] as usize]
    }

    /// Stretches of the gang in a slot.
    pub fn segments(&self, slot: usize) -> std::ops::Range<usize> {
        self.start[slot] as usize..self.start[slot + 1] as usize
    }

    /// Units below which room at a row counts as none.
    pub fn slack(&self, row: usize) -> f64 {
        (SLACK * self.limits[row].max(1.0) / self.unit).max(1.0)
    }

    /// Units of each row that the gangs take above their floors.
    pub fn used(&self, taken: &[f64]) -> Vec<f64> {
        let mut used = vec![0.0; self.rows.count];
        for (slot, taken) in taken.iter().enumerate().filter(|(_, t)| **t > 0.0) {
            let each = taken / self.range[slot].count;
            for (point, count) in self.points_of(slot) {
                for row in self.rows.above(*point) {
                    used[*row as usize] += each * f64::from(*count);
                }
            }
        }
        used
    }

    /// The cap that units above its floor make of a gang.
    pub fn cap(&self, slot: usize, taken: f64) -> f64 {
        let range = &self.range[slot];
        if range.count == 0.0 {
            return range.floor;
        }
        (range.floor + taken / range.count * self.unit).min(range.ceiling)
    }
}

/// How many stretches are kept for a gang: some more than it has, so that a
/// curve learned anew mostly finds room.
fn capacity(problem: &Problem, group: &Group) -> usize {
    let points = group.curve.points().len();
    let coarse =
        (problem.step.0 > 0.0) || (group.devices.iter()).any(|d| problem.devices[*d].step.0 > 0.0);
    // A floor below the first point makes one stretch more.
    let low = group.curve.points()[0].0;
    let below = (group.devices.iter()).any(|d| problem.devices[*d].min < low);
    let most = if coarse {
        2 * points + 2
    } else {
        points - 1 + usize::from(below)
    };
    most.max(1).next_multiple_of(KEPT)
}

/// Stretches are kept by so many.
const KEPT: usize = 8;
