//! Which gangs have changed since the last answer, and what they were before.
//!
//! With the stretches of before at hand, a sum over many gangs is brought up
//! to date by what the changed ones take more or less. Sums are of whole
//! units, so that gives the same bits as counting all of them again.

use super::bracket::where_above;
use super::dense::Dense;

/// Changes since the last answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Touched {
    /// Slot, and where its stretches of before begin; rising after [`Touched::sort`].
    slots: Vec<(u32, u32)>,
    /// Worth and units of the stretches of before.
    before: Vec<(f64, f64)>,
    /// Whether a slot is among them.
    is: Vec<bool>,
    /// Whether a place has one of them.
    at: Vec<bool>,
}

impl Touched {
    /// None so far.
    pub fn new(dense: &Dense) -> Self {
        Self {
            is: vec![false; dense.group.len()],
            at: vec![false; dense.rows.tree.row.len()],
            ..Self::default()
        }
    }

    /// Notes a slot that is about to change.
    pub fn note(&mut self, dense: &Dense, slot: usize) {
        if std::mem::replace(&mut self.is[slot], true) {
            return;
        }
        self.slots.push((slot as u32, self.before.len() as u32));
        let segments = dense.segments(slot);
        let widths = &dense.width[segments.clone()];
        let pairs = dense.slope[segments].iter().zip(widths);
        self.before
            .extend(pairs.map(|(slope, width)| (*slope, *width)));
        self.at[dense.home[slot] as usize] = true;
    }

    /// Puts them in order; to be done before they are asked for.
    pub fn sort(&mut self) {
        self.slots.sort_unstable();
    }

    /// Forgets them.
    pub fn clear(&mut self, dense: &Dense) {
        for (slot, _) in self.slots.drain(..) {
            self.is[slot as usize] = false;
            self.at[dense.home[slot as usize] as usize] = false;
        }
        self.before.clear();
    }

    /// Whether a slot is among them.
    pub fn has(&self, slot: u32) -> bool {
        self.is[slot as usize]
    }

    /// Whether a gang of this place is among them.
    pub fn is_at(&self, place: usize) -> bool {
        self.at[place]
    }

    /// Those between two slots, with where their stretches of before begin.
    pub fn between(&self, begin: u32, end: u32) -> &[(u32, u32)] {
        let from = self.slots.partition_point(|(slot, _)| *slot < begin);
        let to = self.slots.partition_point(|(slot, _)| *slot < end);
        &self.slots[from..to]
    }

    /// Units that a slot takes at a price now, less those that it took before.
    pub fn change(&self, dense: &Dense, (slot, begin): (u32, u32), price: f64) -> f64 {
        let segments = dense.segments(slot as usize);
        let before = &self.before[begin as usize..begin as usize + segments.len()];
        let (mut now, mut then) = (0.0, 0.0);
        for (segment, (slope, width)) in segments.zip(before) {
            now += where_above(dense.slope[segment], price, dense.width[segment]);
            then += where_above(*slope, price, *width);
        }
        now - then
    }
}
