//! Which gangs have changed since the last answer, and what they were before.
//!
//! With the stretches of before at hand, a sum over many gangs is brought up
//! to date by what the changed ones take more or less. Sums are of whole
//! units, so that gives the same bits as counting all of them again.

use super::bracket::units_above;
use super::dense::Dense;

/// Changes since the last answer.
#[derive(Clone, Debug)]
pub(super) struct Touched {
    /// Slot, and where its stretches of before begin; rising after [`Touched::sort`].
    slots: Vec<(u32, u32)>,
    /// Worth of the stretches of before.
    slope: Vec<f64>,
    /// Units of the same.
    width: Vec<f64>,
    /// Whether a slot is among them.
    is: Vec<bool>,
    /// Where those of each place begin and end in `slots`; for [`Touched::sort`] to say.
    at: Vec<(u32, u32)>,
}

impl Touched {
    /// None so far.
    pub fn new(dense: &Dense) -> Self {
        Self {
            slots: Vec::new(),
            slope: Vec::new(),
            width: Vec::new(),
            is: vec![false; dense.group.len()],
            at: vec![(0, 0); dense.rows.tree.row.len()],
        }
    }

    /// Notes a slot that is about to change.
    pub fn note(&mut self, dense: &Dense, slot: usize) {
        if std::mem::replace(&mut self.is[slot], true) {
            return;
        }
        self.slots.push((slot as u32, self.slope.len() as u32));
        let segments = dense.segments(slot);
        self.slope.extend_from_slice(&dense.slope[segments.clone()]);
        self.width.extend_from_slice(&dense.width[segments]);
    }

    /// Puts them in order; to be done before they are asked for.
    pub fn sort(&mut self, dense: &Dense) {
        self.slots.sort_unstable();
        for (at, (slot, _)) in self.slots.iter().enumerate() {
            let of_place = &mut self.at[dense.home[*slot as usize] as usize];
            if of_place.1 == 0 {
                of_place.0 = at as u32;
            }
            of_place.1 = at as u32 + 1;
        }
    }

    /// Forgets them.
    pub fn clear(&mut self, dense: &Dense) {
        for (slot, _) in self.slots.drain(..) {
            self.is[slot as usize] = false;
            self.at[dense.home[slot as usize] as usize] = (0, 0);
        }
        self.slope.clear();
        self.width.clear();
    }

    /// Whether a slot is among them.
    pub fn has(&self, slot: u32) -> bool {
        self.is[slot as usize]
    }

    /// Those of a place, with where their stretches of before begin.
    pub fn of_place(&self, place: usize) -> &[(u32, u32)] {
        let (begin, end) = self.at[place];
        &self.slots[begin as usize..end as usize]
    }

    /// The same of all between two slots.
    pub fn between(&self, begin: u32, end: u32) -> &[(u32, u32)] {
        let from = self.slots.partition_point(|(slot, _)| *slot < begin);
        let to = self.slots.partition_point(|(slot, _)| *slot < end);
        &self.slots[from..to]
    }

    /// Units that a slot takes at a price now, less those that it took before.
    pub fn change(&self, dense: &Dense, (slot, begin): (u32, u32), price: f64) -> f64 {
        let segments = dense.segments(slot as usize);
        let before = begin as usize..begin as usize + segments.len();
        let now = units_above(
            &dense.slope[segments.clone()],
            &dense.width[segments],
            price,
        );
        now - units_above(&self.slope[before.clone()], &self.width[before], price)
    }
}
