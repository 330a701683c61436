//! Which limits the floors break: the smallest set that says it all.
//!
//! Jobs can give up what lies between their floors and their lowest caps. A
//! broken limit is **implied** by others when jobs that give up enough to keep
//! those, in whatever way, have given up enough to keep it too. Named is a set
//! of broken limits that implies all the others and of which none is implied by
//! the rest: leave one out, and it can be broken with all the others kept.
//! There is one such set, but for limits that imply one another, such as two
//! feeds that carry the same; of those the one that covers less is named, then
//! the first.
//!
//! A limit that even the lowest caps exceed cannot be kept. It is named unless
//! named ones nested below account for its excess, and to others counts as one
//! below which nothing more can be given up.

use super::dense::Dense;
use super::rows::NONE;
use good_lp::solvers::clarabel::clarabel;
use good_lp::{Expression, ProblemVariables, Solution, SolverModel, Variable, variable};
use std::collections::BTreeMap;

/// Share of what a limit needs by which an implied one may miss it: what the
/// solver of linear programs gets right and more.
const NEAR: f64 = 1e-6;
/// Pairs of a limit and a gang in all linear programs of one question. What more
/// would be needed for stays named, implied or not: that takes thousands of
/// broken limits with gangs across them.
const PAIRS: usize = 100_000;

/// Whether the floors break any limit.
pub(super) fn any(dense: &Dense) -> bool {
    (0..dense.rows.count).any(|row| is_broken(dense, row))
}

fn is_broken(dense: &Dense, row: usize) -> bool {
    dense.left[row] < -dense.slack(row)
}

/// The smallest set of limits in conflict with the floors, by row; empty when
/// the floors fit.
pub(super) fn smallest(dense: &Dense) -> Vec<usize> {
    if !any(dense) {
        return Vec::new();
    }
    let mut needs = Needs::new(dense);
    let mut named = needs.nested();
    let loose = dense.rows.tree.loose.iter().map(|r| *r as usize);
    named.extend(loose.filter(|row| is_broken(dense, *row)));
    if named.len() > 1 {
        needs.leave_out_implied(&mut named);
    }
    named.sort_unstable();
    named
}

/// Units that each device of a slot's gang can give up.
pub(super) fn can_give(dense: &Dense, slot: usize) -> f64 {
    let range = &dense.range[slot];
    if range.count == 0.0 {
        return 0.0;
    }
    (range.floor / dense.unit).ceil() - (range.low / dense.unit).ceil()
}

/// Units that can be given up below each row.
pub(super) fn can_give_below(dense: &Dense) -> Vec<f64> {
    let most: Vec<f64> = (dense.range.iter().enumerate())
        .map(|(slot, range)| can_give(dense, slot) * range.count)
        .collect();
    dense.used(&most)
}

/// What must be given up, and what can be.
struct Needs<'a> {
    dense: &'a Dense,
    /// Units that can be given up below each row.
    most: Vec<f64>,
    /// Units that nested limits below each row take care of.
    from_below: Vec<f64>,
    /// Units that must be given up below each row, as far as they can; zero
    /// where the floors fit.
    need: Vec<f64>,
    /// Whether not even all of it is enough.
    hopeless: Vec<bool>,
}

impl<'a> Needs<'a> {
    fn new(dense: &'a Dense) -> Self {
        let most = can_give_below(dense);
        let (mut need, mut hopeless) = (vec![0.0; most.len()], vec![false; most.len()]);
        for row in (0..most.len()).filter(|row| is_broken(dense, *row)) {
            need[row] = (-dense.left[row]).min(most[row]);
            hopeless[row] = -dense.left[row] > most[row] + dense.slack(row);
        }
        Self {
            dense,
            from_below: vec![0.0; most.len()],
            most,
            need,
            hopeless,
        }
    }

    /// Of the nested limits, those that the ones below do not imply. What is
    /// below one counts once, so that what nested limits need adds up.
    fn nested(&mut self) -> Vec<usize> {
        let (dense, tree) = (self.dense, &self.dense.rows.tree);
        let mut named = Vec::new();
        // Given up below each place once the named limits are kept, and the
        // same if lowest caps did not matter.
        let mut given = vec![0.0; tree.row.len()];
        let mut wanted = vec![0.0; tree.row.len()];
        for place in (1..tree.row.len()).rev() {
            let row = tree.row[place];
            if row == NONE {
                continue;
            }
            let row = row as usize;
            let (lacks, slack) = (-dense.left[row], dense.slack(row));
            let more = if self.hopeless[row] {
                lacks - wanted[place] > slack
            } else {
                lacks > slack && self.need[row] - given[place] > slack
            };
            if more {
                named.push(row);
                wanted[place] = lacks.max(wanted[place]);
            }
            self.from_below[row] = given[place];
            given[place] = self.need[row].max(given[place]);
            let up = tree.up[place] as usize;
            given[up] += given[place];
            wanted[up] += wanted[place];
        }
        named
    }

    /// Leaves out, one after the other, what the rest implies; what covers most
    /// first, so that all below a limit still stands when it is asked for.
    fn leave_out_implied(&self, named: &mut Vec<usize>) {
        let mut is_named = vec![false; self.dense.rows.count];
        named.iter().for_each(|row| is_named[*row] = true);
        let below = self.below(&is_named);
        let mut order: Vec<(f64, usize)> = (named.iter())
            .filter(|row| !self.hopeless[**row])
            .map(|row| (below[*row].iter().map(|(_, devices)| devices).sum(), *row))
            .collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
        let mut pairs = PAIRS;
        for (_, row) in order {
            is_named[row] = false;
            let enough = self.need[row] * (1.0 - NEAR) - self.dense.slack(row);
            is_named[row] = !self.is_implied(row, &below[row], &is_named, enough, &mut pairs);
        }
        named.retain(|row| is_named[*row]);
    }

    /// Gangs below each of these rows that can give something up, and how many
    /// of their devices hang there.
    fn below(&self, is_named: &[bool]) -> Vec<Vec<(usize, f64)>> {
        let mut below: Vec<Vec<(usize, f64)>> = vec![Vec::new(); is_named.len()];
        for slot in 0..self.dense.range.len() {
            if can_give(self.dense, slot) > 0.0 {
                self.above(slot, is_named, |row, devices| match below[row].last_mut() {
                    Some((last, sum)) if *last == slot => *sum += devices,
                    _ => below[row].push((slot, devices)),
                });
            }
        }
        below
    }

    /// The rows above a gang that are asked for, once for each place where
    /// devices hang, and how many do.
    fn above(&self, slot: usize, is_asked: &[bool], mut each: impl FnMut(usize, f64)) {
        for (point, devices) in self.dense.points_of(slot) {
            for row in self.dense.rows.above(*point).iter().map(|r| *r as usize) {
                if is_asked[row] {
                    each(row, f64::from(*devices));
                }
            }
        }
    }

    /// Whether at least `enough` is given up below a limit, by the gangs `inside`
    /// it, once those that are named are kept.
    ///
    /// Gangs that have no device inside give up all they can, which costs
    /// nothing here; only limits that want more than that bear on the answer.
    /// One at a time they are soon asked, and of nested limits and gangs that is
    /// all; otherwise a linear program asks them together.
    fn is_implied(
        &self,
        row: usize,
        inside: &[(usize, f64)],
        is_named: &[bool],
        enough: f64,
        pairs: &mut usize,
    ) -> bool {
        if self.from_below[row] >= enough {
            return true;
        }
        let mut offers: BTreeMap<usize, Vec<Offer>> = BTreeMap::new();
        for (slot, here) in inside {
            let each = can_give(self.dense, *slot);
            let cost = here * each;
            self.above(*slot, is_named, |other, devices| {
                let offers = offers.entry(other).or_default();
                match offers.last_mut() {
                    Some(last) if last.slot == *slot => last.watts += devices * each,
                    _ => offers.push(Offer {
                        slot: *slot,
                        watts: devices * each,
                        cost,
                    }),
                }
            });
        }
        let mut kept: Vec<(f64, Vec<Offer>)> = Vec::new();
        for (other, offers) in offers {
            let all: f64 = offers.iter().map(|o| o.watts).sum();
            let want = self.need[other] - (self.most[other] - all);
            if want > self.dense.slack(other) {
                if cheapest(want, &offers) >= enough {
                    return true;
                }
                kept.push((want, offers));
            }
        }
        let size: usize = kept.iter().map(|(_, offers)| offers.len()).sum();
        if kept.len() < 2 || !self.dense.tangled() || some_way(&kept) < enough || size > *pairs {
            return false;
        }
        *pairs -= size;
        program(&kept).is_some_and(|least| least >= enough)
    }
}

/// What a gang can give up below another limit, in units, and what that costs
/// below the one that is asked for.
#[derive(Clone, Copy)]
struct Offer {
    slot: usize,
    watts: f64,
    cost: f64,
}

/// The least cost of `want`.
fn cheapest(mut want: f64, offers: &[Offer]) -> f64 {
    let mut offers = offers.to_vec();
    offers.sort_by(|a, b| (a.cost * b.watts).total_cmp(&(b.cost * a.watts)));
    let mut cost = 0.0;
    for offer in offers {
        let part = (want / offer.watts).clamp(0.0, 1.0);
        cost += part * offer.cost;
        want -= part * offer.watts;
    }
    cost
}

/// What one way costs to meet several wants: one after the other, each as cheaply
/// as the ones before leave it.
fn some_way(kept: &[(f64, Vec<Offer>)]) -> f64 {
    // Share that each gang gives up of what it can.
    let mut shares: BTreeMap<usize, f64> = BTreeMap::new();
    let mut cost = 0.0;
    for (want, offers) in kept {
        let mut want = *want;
        let mut left = Vec::with_capacity(offers.len());
        for offer in offers {
            let share = shares.get(&offer.slot).copied().unwrap_or(0.0);
            want -= share * offer.watts;
            left.push((*offer, 1.0 - share));
        }
        left.sort_by(|(a, _), (b, _)| (a.cost * b.watts).total_cmp(&(b.cost * a.watts)));
        for (offer, left) in left {
            let more = (want / offer.watts).clamp(0.0, left);
            want -= more * offer.watts;
            cost += more * offer.cost;
            *shares.entry(offer.slot).or_default() += more;
        }
    }
    cost
}

/// The least for several wants at once; `None` when the solver gave up.
fn program(kept: &[(f64, Vec<Offer>)]) -> Option<f64> {
    // The share that each gang gives up of what it can, and costs by the largest,
    // so that the solver's tolerances mean the same for all.
    let offers = kept.iter().flat_map(|(_, offers)| offers);
    let scale = offers.clone().map(|o| o.cost).fold(0.0, f64::max);
    let mut variables = ProblemVariables::new();
    let mut shares: BTreeMap<usize, Variable> = BTreeMap::new();
    let mut cost = Expression::default();
    for offer in offers {
        shares.entry(offer.slot).or_insert_with(|| {
            let share = variables.add(variable().min(0.0).max(1.0));
            cost += share * (offer.cost / scale);
            share
        });
    }
    let mut program = variables.minimise(cost.clone()).using(clarabel);
    for (want, offers) in kept {
        let mut given = Expression::default();
        for offer in offers {
            given += shares[&offer.slot] * (offer.watts / want);
        }
        program.add_constraint(given.geq(1.0));
    }
    Some(program.solve().ok()?.eval(cost) * scale)
}
