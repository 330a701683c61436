//! Ramp limits: how fast the executor's caps may rise and fall.
//!
//! Each limit is a row with a bucket a direction. A bucket fills at the rate that
//! the site file states, up to the window's worth of it; a change takes out what it
//! changes the sum below the row by, and one the other way puts back.
//!
//! ```text
//! rate --> [ sent: at most rate × window     ] --\
//!                                                 > the lesser of both may be sent now
//! rate --> [ answered: likewise ] - on its way --/
//! ```
//!
//! So between any two instants the sum of the largest caps rises by at most rate ×
//! (time + window). It is counted when sent and once more when answered, because what
//! waits in a network arrives all at once, whenever it was sent. What is urgent
//! comes down without asking and takes out what there is.
//!
//! Devices move by gangs: all of a gang stand at one level on the way, and the gang
//! furthest behind moves first.

use heliostat_models::site::ramp::RampPolicy;
use heliostat_models::{Site, Timestamp, Watts};
use std::ops::Range;

/// A device moves by at least this at a time, where the bucket can ever hold it.
const STEP: f64 = 5.0;
/// Share of a full bucket that is worth a step where that is less.
const WORTH: f64 = 0.5;
/// Differences below this are none: caps go in whole milliwatts.
const SAME: f64 = 0.000_5;
/// A device that reads back less than asked by up to this has rounded.
const ROUNDED: f64 = 1.0;

/// A limit in one direction.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Watts a second.
    rate: f64,
    /// What a full one holds, watts.
    full: f64,
    /// What may still be sent.
    sent: f64,
    /// What may still be answered.
    answered: f64,
    /// What was answered since time last passed.
    lately: f64,
}

impl Bucket {
    fn passes(&mut self, seconds: f64) {
        self.sent = (self.sent + self.rate * seconds).min(self.full);
        // Nobody knows when within that time: at its end, with the bucket full before.
        let before = (self.answered + self.lately + self.rate * seconds).min(self.full);
        self.answered = (before - self.lately).max(0.0);
        self.lately = 0.0;
    }

    /// A change along the way was answered, or one the other way where it is negative.
    fn takes_answer(&mut self, change: f64) {
        self.answered = (self.answered - change).clamp(0.0, self.full);
        self.lately += change.max(0.0);
    }
}

/// One place where caps must not change faster.
#[derive(Clone, Debug)]
struct Row {
    up: Option<Bucket>,
    down: Option<Bucket>,
}

/// What the executor knows as it looks what to send; all by place in the site.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    /// What is decided.
    pub targets: &'a [Option<Watts>],
    /// The largest caps that devices may have.
    pub worst: &'a [Watts],
    /// What was last reported.
    pub reported: &'a [Option<Watts>],
    /// Must come down without delay.
    pub urgent: &'a [bool],
    /// Something is on its way to them.
    pub waiting: &'a [bool],
    /// Nothing was heard for so long that their leases may have ended.
    pub deaf: &'a [bool],
}

/// The ramp limits of a site.
#[derive(Clone, Debug)]
pub(super) struct Ramps {
    rows: Vec<Row>,
    /// Rows above each compute node.
    above: Vec<Vec<usize>>,
    /// The compute node of each device.
    node: Vec<usize>,
    /// The cap that each device was last asked for, as far as it may have it.
    asked: Vec<Option<Watts>>,
    /// Devices that move together.
    gangs: Vec<Vec<usize>>,
    at: Option<Timestamp>,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Up,
    Down,
}

impl Way {
    /// Watts along it.
    fn along(self, cap: Watts) -> f64 {
        match self {
            Self::Up => cap.0,
            Self::Down => -cap.0,
        }
    }

    fn cap(self, along: f64) -> Watts {
        Watts(self.along(Watts(along)))
    }
}

/// A device on its way, in watts along the way.
#[derive(Clone, Copy, Debug)]
struct Move {
    place: usize,
    from: f64,
    to: f64,
}

impl Move {
    /// Where it stands when its gang has come to a level.
    fn at(&self, level: f64) -> f64 {
        let level = (level * 1_000.0).floor() / 1_000.0;
        self.to.min(self.from.max(level))
    }
}

impl Ramps {
    /// Of a site; `None` where nothing is limited. Buckets begin empty: an earlier
    /// controller may just have used them.
    pub fn new(site: &Site) -> Option<Self> {
        let RampPolicy { window, limits } = &site.ramps;
        if limits.is_empty() {
            return None;
        }
        let bucket = |rate: Option<Watts>| {
            rate.map(|rate| Bucket {
                rate: rate.0,
                full: rate.0 * window.as_secs_f64(),
                sent: 0.0,
                answered: 0.0,
                lately: 0.0,
            })
        };
        let rows = (limits.iter())
            .map(|l| Row {
                up: bucket(l.up),
                down: bucket(l.down),
            })
            .collect();
        let above = (site.nodes.iter())
            .map(|node| {
                let path = site.power.path_up(node.power_node);
                (limits.iter().enumerate())
                    .filter(|(_, l)| l.at.is_none_or(|at| path.contains(&at)))
                    .map(|(row, _)| row)
                    .collect()
            })
            .collect();
        let count = site.devices.len();
        Some(Self {
            rows,
            above,
            node: site.devices.iter().map(|d| d.node).collect(),
            asked: vec![None; count],
            gangs: (0..count).map(|place| vec![place]).collect(),
            at: None,
        })
    }

    /// Which devices move together; those not named move alone.
    pub fn set_gangs(&mut self, gangs: Vec<Vec<usize>>) {
        let mut alone = vec![true; self.asked.len()];
        for place in gangs.iter().flatten() {
            alone[*place] = false;
        }
        let single = alone.iter().enumerate().filter(|(_, alone)| **alone);
        let single = single.map(|(place, _)| vec![place]);
        self.gangs = gangs.into_iter().chain(single).collect();
    }

    /// We are in charge, and do not know what was used up before.
    pub fn empty(&mut self) {
        for row in &mut self.rows {
            for bucket in [&mut row.up, &mut row.down].into_iter().flatten() {
                (bucket.sent, bucket.answered) = (0.0, 0.0);
            }
        }
    }

    /// A device said what it has, of itself or for the first time. `least` is its
    /// lowest settable cap: found below, it is lifted there at once.
    pub fn told(&mut self, place: usize, has: Watts, least: Watts, target: Option<Watts>) {
        let has = has.max(least);
        let asked = self.asked[place].unwrap_or(has);
        // Above what was asked it stays only as far as that is wanted now.
        let kept = target.map_or(asked, |target| asked.max(target));
        self.asked[place] = Some(has.min(kept));
    }

    /// A device answered what it was asked last; `obeyed`: it took it.
    pub fn answered(&mut self, place: usize, has: Watts, least: Watts, obeyed: bool) {
        let off = if obeyed { ROUNDED } else { 0.0 };
        if let Some(asked) = &mut self.asked[place]
            && has.0 < asked.0 - off
        {
            *asked = has.max(least);
        }
    }

    /// The largest cap that a device may have changed.
    pub fn worst_changed(&mut self, place: usize, by: Watts) {
        for row in &self.above[self.node[place]] {
            let Row { up, down } = &mut self.rows[*row];
            if let Some(up) = up {
                up.sent = (up.sent - by.0.min(0.0)).min(up.full);
            }
            if let Some(down) = down {
                down.takes_answer(-by.0);
            }
        }
    }

    /// A device says that it has another cap than it said before.
    pub fn reported_changed(&mut self, place: usize, by: Watts) {
        for row in &self.above[self.node[place]] {
            if let Some(up) = &mut self.rows[*row].up {
                up.takes_answer(by.0);
            }
        }
    }

    /// A node limited as a whole is asked for so much for its accelerators together.
    pub fn sent_together(&mut self, places: Range<usize>, sum: Watts) {
        let asked: Watts = self.asked[places.clone()].iter().flatten().copied().sum();
        let more = (sum - asked) / places.len().max(1) as f64;
        for place in places {
            let cap = self.asked[place].unwrap_or_default() + more;
            self.sent(place, cap);
        }
    }

    /// Counts what accelerators of such a node were asked for together as shared
    /// out like this.
    pub fn share_out(&mut self, places: Range<usize>, hint: &[Watts]) {
        let asked: Option<Watts> = self.asked[places.clone()].iter().copied().sum();
        let Some(asked) = asked else { return };
        let hinted: Watts = hint.iter().copied().sum();
        let more = (asked - hinted) / hint.len().max(1) as f64;
        for (place, part) in places.zip(hint) {
            self.asked[place] = Some(*part + more);
        }
    }

    /// A cap goes out.
    pub fn sent(&mut self, place: usize, cap: Watts) {
        let asked = self.asked[place].replace(cap).unwrap_or(cap);
        let more = (cap - asked).0;
        for row in &self.above[self.node[place]] {
            let Row { up, down } = &mut self.rows[*row];
            if let Some(up) = up {
                up.sent = (up.sent - more.max(0.0)).max(0.0);
            }
            if let Some(down) = down {
                // What rises may fall again.
                down.sent = (down.sent + more).clamp(0.0, down.full);
            }
        }
    }

    /// Holds back what would be too fast. `safe`: the caps that devices go to
    /// when leases end.
    pub fn limit(
        &mut self,
        now: Timestamp,
        view: &View<'_>,
        safe: impl Fn(usize) -> Watts,
        wanted: &mut [Option<Watts>],
    ) {
        self.refill(now);
        for (place, cap) in wanted.iter_mut().enumerate() {
            if view.deaf[place]
                && self.rises_slowly(place)
                && let (Some(cap), Some(asked)) = (cap, &mut self.asked[place])
            {
                // It may be at its safe cap, and comes up from there.
                let has = view.reported[place].unwrap_or(*asked);
                *asked = asked.min(has).min(safe(place));
                *cap = cap.min(*asked);
            }
        }
        for way in [Way::Up, Way::Down] {
            let mut left = self.left(way, view);
            let mut gangs: Vec<(f64, usize)> = (0..self.gangs.len())
                .filter_map(|gang| Some((self.behind(way, gang, view, wanted)?, gang)))
                .collect();
            gangs.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            for (_, gang) in gangs {
                let moves = self.moves(way, gang, view, wanted);
                let level = self.level(way, &moves, &mut left);
                for m in &moves {
                    wanted[m.place] = Some(way.cap(m.at(level)));
                }
            }
        }
    }

    fn rises_slowly(&self, place: usize) -> bool {
        let mut above = self.above[self.node[place]].iter();
        above.any(|row| self.rows[*row].up.is_some())
    }

    fn refill(&mut self, now: Timestamp) {
        let passed = self.at.map_or(0.0, |at| now.seconds_since(at)).max(0.0);
        self.at = Some(self.at.map_or(now, |at| at.max(now)));
        for row in &mut self.rows {
            for bucket in [&mut row.up, &mut row.down].into_iter().flatten() {
                bucket.passes(passed);
            }
        }
    }

    /// What each row lets through now; without end where it limits nothing.
    fn left(&self, way: Way, view: &View<'_>) -> Vec<f64> {
        let mut left: Vec<f64> = (self.rows.iter())
            .map(|row| bucket(row, way).map_or(f64::INFINITY, |b| b.answered))
            .collect();
        for (place, asked) in self.asked.iter().enumerate() {
            // What nobody has answered for a lease is no longer on its way.
            let on_its_way = view.waiting[place] && !view.deaf[place];
            let (Some(asked), true) = (asked, on_its_way) else {
                continue;
            };
            let coming = match way {
                Way::Up => *asked - view.reported[place].unwrap_or(*asked),
                Way::Down => view.worst[place] - *asked,
            };
            for row in &self.above[self.node[place]] {
                left[*row] -= coming.0.max(0.0);
            }
        }
        for (left, row) in left.iter_mut().zip(&self.rows) {
            *left = left.min(bucket(row, way).map_or(f64::INFINITY, |b| b.sent));
        }
        left
    }

    /// Whether a device is to move this way.
    fn moves_so(
        &self,
        way: Way,
        place: usize,
        view: &View<'_>,
        wanted: &[Option<Watts>],
    ) -> Option<Move> {
        let passes = view.deaf[place] || way == Way::Down && view.urgent[place];
        if passes {
            return None;
        }
        let from = way.along(self.asked[place]?);
        let to = way.along(wanted[place]?);
        (to > from + SAME).then_some(Move { place, from, to })
    }

    /// How far behind a gang is: the least share of any device's way that is done.
    fn behind(
        &self,
        way: Way,
        gang: usize,
        view: &View<'_>,
        wanted: &[Option<Watts>],
    ) -> Option<f64> {
        let moves =
            (self.gangs[gang].iter()).filter_map(|place| self.moves_so(way, *place, view, wanted));
        moves
            .map(|m| {
                let (from, to) = (m.from.abs(), m.to.abs());
                from.min(to) / from.max(to)
            })
            .min_by(f64::total_cmp)
    }

    /// A gang's devices on their way; none passes one that waits for room.
    fn moves(&self, way: Way, gang: usize, view: &View<'_>, wanted: &[Option<Watts>]) -> Vec<Move> {
        let members = &self.gangs[gang];
        let mut moves: Vec<Move> = (members.iter())
            .filter_map(|place| self.moves_so(way, *place, view, wanted))
            .collect();
        if way == Way::Up {
            let held = (members.iter())
                .filter(|place| !view.deaf[**place])
                .filter_map(|place| {
                    let (target, asked) = (view.targets[*place]?, self.asked[*place]?);
                    let cap = wanted[*place].unwrap_or(asked);
                    (cap.0 < target.0 - SAME).then_some(cap.0)
                })
                .min_by(f64::total_cmp);
            for m in &mut moves {
                m.to = held.map_or(m.to, |held| m.to.min(held)).max(m.from);
            }
        }
        moves
    }

    /// How far a gang gets; what it uses is taken out of `left`.
    fn level(&self, way: Way, moves: &[Move], left: &mut [f64]) -> f64 {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for m in moves {
            (low, high) = (low.min(m.from), high.max(m.to));
        }
        let all = self.needs(moves, high);
        let short: Vec<usize> = (all.iter())
            .filter(|(row, need, _)| *need > left[*row] + SAME)
            .map(|(row, _, _)| *row)
            .collect();
        if !short.is_empty() {
            let fits = |level: f64| {
                (self.needs(moves, level).iter()).all(|(row, need, _)| *need <= left[*row])
            };
            // Where nothing is left, nothing needs to be searched.
            if short.iter().all(|row| left[*row] > 0.0) {
                let mut above = high;
                for _ in 0..48 {
                    let middle = (low + above) / 2.0;
                    if fits(middle) {
                        low = middle;
                    } else {
                        above = middle;
                    }
                }
            }
            high = low;
            let worth = (self.needs(moves, high).iter()).any(|(row, need, count)| {
                let full = bucket(&self.rows[*row], way).map_or(0.0, |b| b.full);
                short.contains(row) && *need >= (STEP * *count as f64).min(full * WORTH)
            });
            if !worth {
                // Kept for it until it is worth a message.
                for row in short {
                    left[row] = 0.0;
                }
                return f64::NEG_INFINITY;
            }
        }
        for (row, need, _) in self.needs(moves, high) {
            left[row] -= need;
        }
        high
    }

    /// What a gang's way up to a level takes of each row, and for how many devices.
    fn needs(&self, moves: &[Move], level: f64) -> Vec<(usize, f64, usize)> {
        let mut needs: Vec<(usize, f64, usize)> = Vec::new();
        for m in moves {
            let more = m.at(level) - m.from;
            for row in &self.above[self.node[m.place]] {
                match needs.iter_mut().find(|(r, _, _)| r == row) {
                    Some((_, need, count)) => {
                        *need += more;
                        *count += 1;
                    }
                    None => needs.push((*row, more, 1)),
                }
            }
        }
        needs
    }
}

fn bucket(row: &Row, way: Way) -> Option<&Bucket> {
    match way {
        Way::Up => row.up.as_ref(),
        Way::Down => row.down.as_ref(),
    }
}
