//! The exact sweep on nested limits, without sorting what does not matter.
//!
//! Giving stretches in descending worth until a limit refuses is exact on
//! nested limits. The worth at which a limit first refuses a watt is its
//! **level**; a gang gets the stretches worth more than the highest level
//! above it. So only the levels are needed, and the order of the few stretches
//! next to them.
//!
//! For a price μ the demand below a row is what its gangs would take at μ, the
//! demand of each row below it cut off at that row's room. It falls as μ rises.
//! A row whose demand at the level above it does not fit has a level of its
//! own: it is bracketed between two prices, and the stretches worth something
//! in between are swept in order. What a row knows about its bracket (a
//! **domain**) is kept: when little changes, only the gangs that were touched
//! are counted again. Sums are of whole units, so all ways give the same bits.

use super::bracket::{self, add_up, collect_of, in_order, where_above};
use super::dense::Dense;
use super::touched::Touched;

/// A stretch whose worth lies within a bracket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Worth of a watt.
    pub slope: f64,
    /// Units.
    pub width: f64,
    /// Which stretch.
    pub segment: u32,
    /// Whose.
    pub slot: u32,
    /// Where it hangs.
    pub place: u32,
}

/// What a row with a level of its own knows.
#[derive(Clone, Debug)]
struct Domain {
    low: f64,
    high: f64,
    /// Units that gangs of each place below take at `high`.
    own: Vec<f64>,
    /// Stretches with `low < worth <= high`, in the order of the sweep.
    items: Vec<Item>,
    /// Units that the sweep gave of each; below zero where another row decides.
    gave: Vec<f64>,
    /// Room that its row had when it was last swept.
    room: f64,
    /// What its stretches added to primal and bound then.
    within: (f64, f64),
    /// When it was last brought up to date.
    round: u64,
}

/// Levels, and what every gang takes.
#[derive(Clone, Debug)]
pub(super) struct Levels {
    domains: Vec<Option<Domain>>,
    /// The worth of a watt at each place: the highest level at or above it.
    pub level: Vec<f64>,
    /// Bracket under which each place was last given its stretches.
    given: Vec<(f64, f64)>,
    /// Units that each slot takes above its floor.
    pub taken: Vec<f64>,
    /// Those of its stretches above the bracket, and their worth.
    above: Vec<(f64, f64)>,
    /// Worth of the floor of each slot net of λ.
    base: Vec<f64>,
    /// Worth of the stretches above the bracket, by place.
    worth: Vec<f64>,
    /// Units of the same.
    units: Vec<f64>,
    /// Worth of the floors net of λ, by place.
    floors: Vec<f64>,
    /// What the stretches within brackets add to primal and bound.
    within: (f64, f64),
    /// Demand at each place under the bracket being looked at.
    raw: Vec<f64>,
    /// Units left at each place while its bracket is swept.
    room: Vec<f64>,
    /// Whether a place refuses.
    dead: Vec<bool>,
    /// Room left to the sweep, kept for its memory.
    spare: Vec<f64>,
    round: u64,
}

impl Levels {
    /// Nothing known yet.
    pub fn new(dense: &Dense) -> Self {
        let places = dense.rows.tree.row.len();
        Self {
            domains: vec![None; places],
            level: vec![0.0; places],
            given: vec![(f64::NAN, f64::NAN); places],
            taken: vec![0.0; dense.group.len()],
            above: vec![(0.0, 0.0); dense.group.len()],
            base: vec![0.0; dense.group.len()],
            worth: vec![0.0; places],
            units: vec![0.0; places],
            floors: vec![0.0; places],
            within: (0.0, 0.0),
            raw: vec![0.0; places],
            room: vec![0.0; places],
            dead: vec![false; places],
            spare: Vec::new(),
            round: 0,
        }
    }

    /// Finds all levels. `touched` are the gangs, in order, that have changed
    /// since the last call; `None` stands for all.
    pub fn solve(&mut self, dense: &Dense, touched: Option<&Touched>) {
        let tree = &dense.rows.tree;
        for place in 1..self.room.len() {
            self.room[place] = dense.left[tree.row[place] as usize].max(0.0);
        }
        self.room[0] = f64::INFINITY;
        if touched.is_none() {
            self.domains.fill(None);
            self.given.fill((f64::NAN, f64::NAN));
        }
        self.round += 1;
        self.dead.fill(false);
        self.within = (0.0, 0.0);
        self.level[0] = dense.price;
        // What no limit holds back is held back by the price of energy.
        self.refresh(dense, 0, (dense.price, dense.price), touched);
        self.demand(dense, 0);
        self.descend(dense, 0, touched);
    }

    /// Resolves the topmost full rows below `top`, whose domain is up to date
    /// and whose demand stands in `raw`; then gives the others their stretches.
    fn descend(&mut self, dense: &Dense, top: usize, touched: Option<&Touched>) {
        let tree = &dense.rows.tree;
        let end = tree.end[top] as usize;
        let bracket = self.domains[top]
            .as_ref()
            .map_or((0.0, 0.0), |d| (d.low, d.high));
        let mut full = Vec::new();
        let mut place = top;
        while place < end {
            if place != top && self.raw[place] > self.room[place] {
                full.push(place);
                place = tree.end[place] as usize;
                continue;
            }
            if place != top && !self.dead[place] {
                self.level[place] = self.level[tree.up[place] as usize];
            }
            self.give(dense, place, bracket, touched);
            place += 1;
        }
        self.give_items(dense, top);
        for place in full {
            self.resolve(dense, place, bracket.1, touched);
        }
    }

    /// Finds the level of a row whose demand at `above` does not fit.
    fn resolve(&mut self, dense: &Dense, top: usize, above: f64, touched: Option<&Touched>) {
        if self.stands(dense, top, touched) {
            return;
        }
        let known = self.domains[top]
            .take()
            .filter(|d| d.round + 1 == self.round);
        if let Some(domain) = known {
            let bracket = (domain.low, domain.high);
            self.domains[top] = Some(domain);
            self.refresh(dense, top, bracket, touched);
            self.demand(dense, top);
            if self.raw[top] <= self.room[top] && self.sweep(dense, top) {
                self.descend(dense, top, touched);
                return;
            }
        }
        let hint = self.domains[top].is_some().then_some(self.level[top]);
        let mut bracket = bracket::find(dense, &self.room, &mut self.raw, top, above, hint);
        loop {
            self.domains[top] = None;
            self.refresh(dense, top, bracket, touched);
            self.demand(dense, top);
            if self.sweep(dense, top) {
                break;
            }
            // Only rounding at the edge of a bracket leads here.
            bracket = (above, f64::MAX);
        }
        self.descend(dense, top, touched);
    }

    /// Whether nothing has changed at a row with no row below it, so that all
    /// that was found there last time still stands.
    fn stands(&mut self, dense: &Dense, top: usize, touched: Option<&Touched>) -> bool {
        let alone = dense.rows.tree.end[top] as usize == top + 1;
        if !alone || touched.is_none_or(|t| !t.of_place(top).is_empty()) {
            return false;
        }
        let (round, room) = (self.round, self.room[top]);
        let known = self.domains[top].as_mut();
        let Some(domain) = known.filter(|d| d.round + 1 == round && d.room == room) else {
            return false;
        };
        domain.round = round;
        self.within.0 += domain.within.0;
        self.within.1 += domain.within.1;
        true
    }

    /// Brings a domain up to date: all of it when its bracket is new, else
    /// only the places touched.
    fn refresh(
        &mut self,
        dense: &Dense,
        top: usize,
        bracket: (f64, f64),
        touched: Option<&Touched>,
    ) {
        let end = dense.rows.tree.end[top] as usize;
        let (low, high) = bracket;
        let known = self.domains[top].take();
        let known = known.filter(|d| d.round + 1 == self.round && (d.low, d.high) == bracket);
        let domain = match known {
            Some(mut domain) => {
                let mine = match touched {
                    None => &[][..],
                    Some(touched) if end == top + 1 => touched.of_place(top),
                    Some(touched) => touched.between(dense.at[top], dense.at[end]),
                };
                if let Some(touched) = touched.filter(|_| !mine.is_empty()) {
                    domain.items.retain(|i| !touched.has(i.slot));
                    let kept = domain.items.len();
                    for one in mine {
                        let place = dense.home[one.0 as usize];
                        domain.own[place as usize - top] += touched.change(dense, *one, high);
                        collect_of(dense, one.0, (low, high), &mut domain.items);
                    }
                    if domain.items.len() > kept {
                        in_order(&mut domain.items);
                    }
                }
                domain
            }
            None => {
                let (all, mut items) = bracket::gather(dense, (top, end), bracket);
                in_order(&mut items);
                Domain {
                    low,
                    high,
                    own: all,
                    items,
                    gave: Vec::new(),
                    room: f64::NAN,
                    within: (0.0, 0.0),
                    round: 0,
                }
            }
        };
        self.domains[top] = Some(Domain {
            round: self.round,
            ..domain
        });
    }

    /// Demand at the upper end of a domain's bracket, into `raw`.
    fn demand(&mut self, dense: &Dense, top: usize) {
        let Some(domain) = &self.domains[top] else {
            return;
        };
        self.raw[top..top + domain.own.len()].copy_from_slice(&domain.own);
        add_up(dense, &self.room, &mut self.raw, top);
    }

    /// Gives the stretches within a domain's bracket in order; whether its row refused one.
    fn sweep(&mut self, dense: &Dense, top: usize) -> bool {
        let tree = &dense.rows.tree;
        let end = tree.end[top] as usize;
        let fits = self.raw[top] <= self.room[top];
        let Some(mut domain) = self.domains[top].take().filter(|_| fits) else {
            return false;
        };
        let mut left = std::mem::take(&mut self.spare);
        left.clear();
        left.extend((top..end).map(|p| self.room[p] - self.raw[p]));
        // Below a row that is full already, that row decides.
        for place in top..end {
            let above = place > top && self.dead[tree.up[place] as usize];
            self.dead[place] = above || left[place - top] < 0.0;
        }
        domain.gave.clear();
        for item in &domain.items {
            let elsewhere = self.dead[item.place as usize];
            domain.gave.push(if elsewhere { -1.0 } else { 0.0 });
        }
        for (item, gave) in domain.items.iter().zip(&mut domain.gave) {
            if self.dead[top] {
                break;
            }
            if *gave == 0.0 {
                *gave = self.offer(dense, top, &mut left, item);
            }
        }
        self.domains[top] = Some(domain);
        self.spare = left;
        self.dead[top]
    }

    /// Units that a stretch gets of what is left at the places above it.
    fn offer(&mut self, dense: &Dense, top: usize, left: &mut [f64], item: &Item) -> f64 {
        let tree = &dense.rows.tree;
        let mut most = item.width;
        let mut place = item.place as usize;
        loop {
            if self.dead[place] {
                return 0.0;
            }
            most = most.min(left[place - top]);
            if place == top {
                break;
            }
            place = tree.up[place] as usize;
        }
        let count = dense.range[item.slot as usize].count;
        let refused = most < item.width;
        let given = if refused {
            (most / count).floor() * count
        } else {
            most
        };
        place = item.place as usize;
        loop {
            left[place - top] -= given;
            if refused && left[place - top] < count {
                self.dead[place] = true;
                self.level[place] = item.slope;
            }
            if place == top {
                return given;
            }
            place = tree.up[place] as usize;
        }
    }

    /// Gives the gangs of a place the stretches above a bracket.
    fn give(
        &mut self,
        dense: &Dense,
        place: usize,
        bracket: (f64, f64),
        touched: Option<&Touched>,
    ) {
        let slots = dense.at[place]..dense.at[place + 1];
        let mut based_anew = false;
        if self.given[place] == bracket {
            let mine = touched.map_or(&[][..], |t| t.of_place(place));
            if mine.is_empty() {
                return;
            }
            for (slot, _) in mine {
                based_anew |= self.give_slot(dense, *slot as usize, bracket.1);
            }
        } else {
            self.given[place] = bracket;
            for slot in slots.clone() {
                based_anew |= self.give_slot(dense, slot as usize, bracket.1);
            }
        }
        let slots = slots.start as usize..slots.end as usize;
        let (mut units, mut worth) = (0.0, 0.0);
        for (taken, of_worth) in &self.above[slots.clone()] {
            units += taken;
            worth += of_worth;
        }
        self.units[place] = units;
        self.worth[place] = worth;
        if based_anew {
            self.floors[place] = self.base[slots].iter().sum();
        }
    }

    /// Gives one slot its stretches; whether the worth of its floor is another than before.
    fn give_slot(&mut self, dense: &Dense, slot: usize, price: f64) -> bool {
        let above = above(dense, slot, price);
        self.above[slot] = above;
        self.taken[slot] = above.0;
        let range = &dense.range[slot];
        let base = range.base - dense.price * range.count * range.floor;
        std::mem::replace(&mut self.base[slot], base).to_bits() != base.to_bits()
    }

    /// Gives what the sweep gave within a domain's bracket.
    fn give_items(&mut self, dense: &Dense, top: usize) {
        let Some(domain) = &mut self.domains[top] else {
            return;
        };
        let mine = || {
            let items = domain.items.iter().zip(&domain.gave);
            items.filter(|(_, gave)| **gave >= 0.0)
        };
        for (item, _) in mine() {
            self.taken[item.slot as usize] = self.above[item.slot as usize].0;
        }
        let mut within = (0.0, 0.0);
        for (item, given) in mine() {
            self.taken[item.slot as usize] += given;
            within.0 += (item.slope - dense.price) * given;
            let price = self.level[item.place as usize];
            within.1 += (item.slope - price).max(0.0) * item.width;
        }
        domain.within = within;
        domain.room = self.room[top];
        self.within.0 += within.0;
        self.within.1 += within.1;
    }

    /// The objective and, at the prices found, what no choice can beat.
    /// The bound allows for what rounding to units may hide.
    pub fn proof(&self, dense: &Dense, prices: &[f64]) -> (f64, f64) {
        let (mut primal, mut bound) = self.within;
        for place in 0..self.level.len() {
            primal += self.worth[place] - dense.price * self.units[place];
            bound += self.worth[place] - self.level[place] * self.units[place];
        }
        for (price, left) in prices.iter().zip(&dense.left) {
            bound += price * left;
        }
        let base = self.floors.iter().sum::<f64>() - dense.price * dense.uncommanded();
        let hidden = dense.unit * dense.steepest;
        (
            base + primal * dense.unit,
            base + bound * dense.unit + hidden,
        )
    }

    /// What a watt more at each row is worth, net of λ.
    pub fn prices(&self, dense: &Dense) -> Vec<f64> {
        let tree = &dense.rows.tree;
        let mut prices = vec![0.0; dense.rows.count];
        for place in 1..tree.row.len() {
            let above = self.level[tree.up[place] as usize];
            prices[tree.row[place] as usize] = (self.level[place] - above).max(0.0);
        }
        prices
    }
}

/// Units of a slot's stretches worth more than a price, and their worth.
fn above(dense: &Dense, slot: usize, price: f64) -> (f64, f64) {
    let (mut units, mut worth) = (0.0, 0.0);
    let segments = dense.segments(slot);
    let widths = &dense.width[segments.clone()];
    for (slope, width) in dense.slope[segments].iter().zip(widths) {
        let taken = where_above(*slope, price, *width);
        units += taken;
        worth += slope * taken;
    }
    (units, worth)
}
