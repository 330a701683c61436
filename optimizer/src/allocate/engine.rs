//! The allocator with a memory: a problem that changes a little at a time.
//!
//! What a change touches is computed anew and nothing else. On nested limits
//! the caps and the prices are the same bits as those of a fresh start, because
//! sums are of whole units and levels do not depend on the way to them.
//!
//! Where gangs or limits cut across one another, the search begins at what was
//! found for the problem before. It ends elsewhere than a fresh start, at an
//! answer with a gap of its own, bounded from the problem as it is now: at most
//! 4e-7, for large problems 9e-5, or what a fresh start reaches. There the same
//! problem, the same changes and the same calls one after the other give the
//! same bits; the same problem by another way does not. Who must be able to
//! compute an answer again from its inputs alone takes
//! [`allocate`](super::allocate), as control and the replay of its log do, or
//! [`Engine::forget`]s first.

use super::bound::dual_bound;
use super::canonical::Parts;
use super::change::Change;
use super::coupled::{self, Before};
use super::dense::Dense;
use super::finish::{self, Solved};
use super::levels::Levels;
use super::problem::{Allocation, Method, Outcome, Problem, ProblemError};
use super::rows::{NONE, Rows};
use super::told::Told;
use super::touched::Touched;
use super::{conflict, explain, gang, shed};
use heliostat_models::decision::JobCap;
use heliostat_models::{SpeedCurve, Watts};

/// Curves that are taken in together.
const TOGETHER: usize = 64;

/// The figures of an answer, before caps are rounded to their steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Numbers {
    /// Value of the objective.
    pub primal: f64,
    /// What no allocation can beat.
    pub dual_bound: f64,
    /// Who found it.
    pub method: Method,
}

impl Numbers {
    /// `(bound - primal) / max(1, |primal|)`.
    pub fn gap(&self) -> f64 {
        (self.dual_bound - self.primal).abs() / self.primal.abs().max(1.0)
    }
}

/// A problem, its arrays and its last answer.
pub struct Engine {
    problem: Problem,
    dense: Dense,
    levels: Levels,
    /// Made when a hash is first asked for.
    parts: Option<Parts>,
    /// Gangs that have changed since the last answer.
    touched: Touched,
    /// Whether the next answer must start afresh from the arrays.
    afresh: bool,
    solved: Option<Solved>,
    /// What was last found where gangs or limits cut across.
    before: Option<Before>,
    /// A change did not fit into the arrays.
    outgrown: bool,
    told: Told,
}

impl Engine {
    /// Of a problem.
    ///
    /// # Errors
    /// When the problem contradicts itself.
    pub fn new(problem: Problem) -> Result<Self, ProblemError> {
        problem.validate()?;
        let dense = Dense::new(&problem, Rows::new(&problem));
        Ok(Self {
            levels: Levels::new(&dense),
            touched: Touched::new(&dense),
            dense,
            parts: None,
            problem,
            afresh: true,
            solved: None,
            before: None,
            outgrown: false,
            told: Told::default(),
        })
    }

    /// The problem as it is now.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Forgets all answers, so that the next one starts afresh from the arrays.
    pub fn forget(&mut self) {
        self.afresh = true;
        self.before = None;
        self.solved = None;
    }

    /// Takes in a change, by copying what is new into the memory that is there.
    /// The whole of it is refused when it contradicts the rest.
    ///
    /// # Errors
    /// The contradiction.
    pub fn change(&mut self, change: &Change) -> Result<(), ProblemError> {
        change.check(&self.problem, &self.dense.holder)?;
        self.solved = None;
        match *change {
            Change::Limit { node, limit } => {
                self.problem.nodes[node].limit = limit;
                self.node_changed(node);
            }
            Change::Uncontrolled {
                node,
                uncontrolled,
                uncertainty,
            } => {
                self.problem.nodes[node].uncontrolled = uncontrolled;
                self.problem.nodes[node].uncertainty = uncertainty;
                self.node_changed(node);
            }
            Change::ContractLimit { contract, limit } => {
                self.problem.contracts[contract].limit = limit;
                self.stale(|parts| parts.touch_contract(contract));
                let row = self.problem.nodes.len() + contract;
                self.dense.set_room(&self.problem, row);
            }
            Change::Range { device, min, max } => {
                self.dense.move_device(&self.problem, device, -1.0);
                self.problem.devices[device].min = min;
                self.problem.devices[device].max = max;
                self.dense.move_device(&self.problem, device, 1.0);
                self.stale(|parts| parts.touch_device(device));
                let group = self.dense.holder[device];
                if group != NONE {
                    self.gang_changed(group as usize, true);
                }
            }
            Change::Curve { group, ref curve } => {
                self.put_curve(group, curve);
                self.gang_changed(group, false);
            }
            Change::Service {
                group,
                weight,
                floor_speed,
            } => {
                self.problem.groups[group].weight = weight;
                self.problem.groups[group].floor_speed = floor_speed;
                self.stale(|parts| parts.touch_group(group));
                self.gang_changed(group, false);
            }
            Change::PriceOfEnergy(price) => {
                self.problem.price_of_energy = price;
                self.dense.price = price;
                self.afresh = true;
                self.before = None;
            }
        }
        Ok(())
    }

    /// Takes in changes one after the other; those before one that is refused
    /// stay. Many curves are taken in sooner so than one by one.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn change_all(&mut self, changes: &[Change]) -> Result<(), ProblemError> {
        // A few at a time, in passes of little work each: so waits for memory
        // overlap, and what one pass has brought near still is for the next.
        for some in changes.chunks(TOGETHER) {
            let curves = some.iter().map_while(|change| match change {
                Change::Curve { group, curve } => Some((*group, curve)),
                _ => None,
            });
            let there = |(group, _): &(usize, _)| *group < self.problem.groups.len();
            let curves: Vec<_> = curves.take_while(there).collect();
            if !curves.is_empty() {
                self.solved = None;
            }
            for (group, curve) in &curves {
                self.put_curve(*group, curve);
            }
            if !self.afresh && !self.outgrown {
                for (group, _) in &curves {
                    let slot = self.dense.slot[*group] as usize;
                    self.touched.note(&self.dense, slot);
                }
            }
            for (group, _) in &curves {
                self.gang_changed(*group, false);
            }
            for change in &some[curves.len()..] {
                self.change(change)?;
            }
        }
        Ok(())
    }

    fn put_curve(&mut self, group: usize, curve: &SpeedCurve) {
        self.problem.groups[group].curve.clone_from(curve);
        self.stale(|parts| parts.touch_group(group));
    }

    fn stale(&mut self, touch: impl FnOnce(&mut Parts)) {
        self.parts.as_mut().map(touch);
    }

    fn node_changed(&mut self, node: usize) {
        self.stale(|parts| parts.touch_node(node));
        self.dense.set_room(&self.problem, node);
    }

    fn gang_changed(&mut self, group: usize, whole: bool) {
        self.told.note(group);
        if self.outgrown {
            return;
        }
        let slot = self.dense.slot[group] as usize;
        if !self.afresh {
            self.touched.note(&self.dense, slot);
        }
        self.outgrown = !self.dense.set_gang(&self.problem, slot, whole);
    }

    /// Makes the arrays anew where a change did not fit into them.
    fn grow(&mut self) {
        if !std::mem::take(&mut self.outgrown) && self.dense.unit_holds() {
            return;
        }
        self.dense = Dense::new(&self.problem, Rows::new(&self.problem));
        self.levels = Levels::new(&self.dense);
        self.touched = Touched::new(&self.dense);
        self.afresh = true;
        self.before = None;
        // Units may be others now.
        self.told.forget();
    }

    /// Solves; `None` when the floors do not fit below the limits, see
    /// [`Engine::outcome`] for what to do then. Makes no sentences and no hash.
    pub fn solve(&mut self) -> Option<Numbers> {
        self.grow();
        if !conflict::smallest(&self.dense).is_empty() {
            self.solved = None;
            return None;
        }
        self.touched.sort(&self.dense);
        let touched = (!self.afresh).then_some(&self.touched);
        self.levels.solve(&self.dense, touched);
        self.touched.clear(&self.dense);
        self.afresh = false;
        let prices = self.levels.prices(&self.dense);
        if finish::fits(&self.dense, &self.levels.taken) {
            let (primal, dual_bound) = self.levels.proof(&self.dense, &prices);
            let method = Method::Sweep;
            let taken = Vec::new();
            self.solved = Some(Solved {
                taken,
                prices,
                method,
            });
            return Some(Numbers {
                primal,
                dual_bound,
                method,
            });
        }
        let before = self.before.take();
        let (found, next) = coupled::solve(&self.dense, &prices, before.as_ref());
        self.before = Some(next);
        let numbers = Numbers {
            primal: found.primal,
            dual_bound: found.bound,
            method: found.method,
        };
        self.solved = Some(Solved {
            taken: found.taken,
            prices: found.prices,
            method: found.method,
        });
        Some(numbers)
    }

    /// The cap of a job's devices as last solved, rounded down to their step.
    pub fn cap(&self, group: usize) -> Option<Watts> {
        let solved = self.solved.as_ref()?;
        let slot = *self.dense.slot.get(group)? as usize;
        let range = &self.dense.range[slot];
        let cap = gang::round_down(self.dense.cap(slot, self.taken(solved)[slot]), range.step);
        Some(Watts(cap.clamp(range.floor, range.ceiling)))
    }

    /// Prices of the power nodes and, after them, the contracts, as last solved.
    pub fn prices(&self) -> Option<&[f64]> {
        self.solved.as_ref().map(|s| s.prices.as_slice())
    }

    /// The bound of the prices last solved, from the problem and nothing else.
    pub fn bound_from_prices(&self) -> Option<f64> {
        Some(dual_bound(&self.problem, self.prices()?))
    }

    /// Groups whose cap is another than when this was last asked, at first all
    /// of them; none while the floors do not fit. Costs a look at each and work
    /// for those that changed.
    pub fn changed(&mut self) -> Vec<usize> {
        let Some(solved) = &self.solved else {
            return Vec::new();
        };
        let mut told = std::mem::take(&mut self.told);
        let cap = |group: usize| self.cap(group).map_or(f64::NAN, |cap| cap.0);
        let changed = told.changed(&self.dense.group, self.taken(solved), cap);
        self.told = told;
        changed
    }

    /// Cap of a job as last solved and why, in figures and in a sentence.
    pub fn explain(&self, group: usize) -> Option<JobCap> {
        let solved = self.solved.as_ref()?;
        let cap = self.cap(group)?;
        let (problem, dense) = (&self.problem, &self.dense);
        Some(explain::one(problem, dense, group, cap.0, &solved.prices))
    }

    /// SHA-256 of the problem as it is now. The first time it is taken of all,
    /// later of what has changed.
    pub fn inputs_hash(&mut self) -> String {
        let parts = self.parts.get_or_insert_with(|| Parts::new(&self.problem));
        parts.hash(&self.problem)
    }

    /// The whole answer: every cap, every reason, the certificate.
    pub fn outcome(&mut self) -> Outcome {
        self.answer(finish::finish)
    }

    /// The same without words: [`Allocation::jobs`] is empty where the floors
    /// fit. [`Engine::changed`] says whom to ask [`Engine::explain`] for.
    pub fn figures(&mut self) -> Outcome {
        self.answer(finish::figures)
    }

    fn answer(
        &mut self,
        finish: impl FnOnce(&Problem, &Dense, &Solved, String) -> Allocation,
    ) -> Outcome {
        let hash = self.inputs_hash();
        if self.solved.is_none() {
            self.solve();
        }
        let Some(solved) = &self.solved else {
            let conflict = conflict::smallest(&self.dense);
            return shed::outcome(&self.problem, &conflict, hash);
        };
        let solved = Solved {
            taken: self.taken(solved).to_vec(),
            ..solved.clone()
        };
        Outcome::Allocated(finish(&self.problem, &self.dense, &solved, hash))
    }

    /// What the slots take: the sweep keeps it itself.
    fn taken<'a>(&'a self, solved: &'a Solved) -> &'a [f64] {
        if solved.method == Method::Sweep {
            &self.levels.taken
        } else {
            &solved.taken
        }
    }
}
