//! The allocator with a memory: a problem that changes a little at a time.
//!
//! What a change touches is computed anew and nothing else; the caps and the
//! prices are the same bits as those of a fresh start, because sums are of
//! whole units and levels do not depend on the way to them.

use super::bound::dual_bound;
use super::canonical::Parts;
use super::dense::Dense;
use super::finish::{self, Solved};
use super::levels::Levels;
use super::problem::{Method, Outcome, Problem, ProblemError};
use super::rows::{NONE, Rows};
use super::touched::Touched;
use super::{conflict, explain, gang, shed};
use heliostat_models::{SpeedCurve, Watts};

/// A change of a problem. What is not here (jobs that start or end, devices
/// that come or go, another tree) makes a new problem.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The limit of a power node.
    Limit {
        /// Which, by place.
        node: usize,
        /// Its limit now.
        limit: Watts,
    },
    /// What no cap controls at a power node.
    Uncontrolled {
        /// Which, by place.
        node: usize,
        /// What is drawn now.
        uncontrolled: Watts,
        /// By how much it may be more.
        uncertainty: Watts,
    },
    /// The limit of a contract.
    ContractLimit {
        /// Which, by place.
        contract: usize,
        /// Its limit now.
        limit: Watts,
    },
    /// The range of a device.
    Range {
        /// Which, by place.
        device: usize,
        /// Lowest cap that can be set now.
        min: Watts,
        /// Highest cap that can be set now.
        max: Watts,
    },
    /// The speed curve of a job.
    Curve {
        /// Which, by place in the groups.
        group: usize,
        /// Its curve now.
        curve: SpeedCurve,
    },
    /// Weight and floor of a job.
    Service {
        /// Which, by place in the groups.
        group: usize,
        /// Worth of a device hour at full speed.
        weight: f64,
        /// Lowest speed that is acceptable.
        floor_speed: f64,
    },
    /// The price of energy λ.
    PriceOfEnergy(f64),
}

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
    /// A change did not fit into the arrays.
    outgrown: bool,
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
            outgrown: false,
        })
    }

    /// The problem as it is now.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// Forgets all answers, so that the next one starts afresh from the arrays.
    pub fn forget(&mut self) {
        self.afresh = true;
        self.solved = None;
    }

    /// Takes in a change. The whole of it is refused when it contradicts the rest.
    ///
    /// # Errors
    /// The contradiction.
    pub fn change(&mut self, change: Change) -> Result<(), ProblemError> {
        self.check(&change)?;
        self.solved = None;
        match change {
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
                    self.gang_changed(group as usize);
                }
            }
            Change::Curve { group, curve } => {
                self.problem.groups[group].curve = curve;
                self.stale(|parts| parts.touch_group(group));
                self.gang_changed(group);
            }
            Change::Service {
                group,
                weight,
                floor_speed,
            } => {
                self.problem.groups[group].weight = weight;
                self.problem.groups[group].floor_speed = floor_speed;
                self.stale(|parts| parts.touch_group(group));
                self.gang_changed(group);
            }
            Change::PriceOfEnergy(price) => {
                self.problem.price_of_energy = price;
                self.dense.price = price;
                self.afresh = true;
            }
        }
        Ok(())
    }

    fn stale(&mut self, touch: impl FnOnce(&mut Parts)) {
        self.parts.as_mut().map(touch);
    }

    fn node_changed(&mut self, node: usize) {
        self.stale(|parts| parts.touch_node(node));
        self.dense.set_room(&self.problem, node);
    }

    fn gang_changed(&mut self, group: usize) {
        if self.outgrown {
            return;
        }
        if !self.afresh {
            self.touched
                .note(&self.dense, self.dense.slot[group] as usize);
        }
        self.outgrown = !self.dense.set_gang(&self.problem, group) || !self.dense.unit_holds();
    }

    /// Makes the arrays anew where a change did not fit into them.
    fn grow(&mut self) {
        if std::mem::take(&mut self.outgrown) {
            self.dense = Dense::new(&self.problem, Rows::new(&self.problem));
            self.levels = Levels::new(&self.dense);
            self.touched = Touched::new(&self.dense);
            self.afresh = true;
        }
    }

    fn check(&self, change: &Change) -> Result<(), ProblemError> {
        let number = |what, of: &str, value: f64| {
            let of = of.to_owned();
            if value.is_finite() && value >= 0.0 {
                Ok(())
            } else {
                Err(ProblemError::Number { what, of, value })
            }
        };
        let there = |what, index: usize, count: usize| {
            let of = "change".to_owned();
            if index < count {
                Ok(())
            } else {
                Err(ProblemError::Reference { what, of, index })
            }
        };
        let problem = &self.problem;
        match change {
            Change::Limit { node, limit } => {
                there("power node", *node, problem.nodes.len())?;
                number("limit", &problem.nodes[*node].id, limit.0)
            }
            Change::Uncontrolled {
                node,
                uncontrolled,
                uncertainty,
            } => {
                there("power node", *node, problem.nodes.len())?;
                number("uncontrolled", &problem.nodes[*node].id, uncontrolled.0)?;
                number("uncertainty", &problem.nodes[*node].id, uncertainty.0)
            }
            Change::ContractLimit { contract, limit } => {
                there("contract", *contract, problem.contracts.len())?;
                number("limit", &problem.contracts[*contract].id, limit.0)
            }
            Change::Range { device, min, max } => {
                there("device", *device, problem.devices.len())?;
                self.check_range(*device, *min, *max, number)
            }
            Change::Curve { group, .. } => there("group", *group, problem.groups.len()),
            Change::Service {
                group,
                weight,
                floor_speed,
            } => {
                there("group", *group, problem.groups.len())?;
                number("weight", problem.groups[*group].job.as_str(), *weight)?;
                number(
                    "floor_speed",
                    problem.groups[*group].job.as_str(),
                    *floor_speed,
                )
            }
            Change::PriceOfEnergy(price) => number("price_of_energy", "problem", *price),
        }
    }

    fn check_range(
        &self,
        device: usize,
        min: Watts,
        max: Watts,
        number: impl Fn(&'static str, &str, f64) -> Result<(), ProblemError>,
    ) -> Result<(), ProblemError> {
        let spec = &self.problem.devices[device];
        number("min", spec.id.as_str(), min.0)?;
        number("max", spec.id.as_str(), max.0)?;
        if min > max {
            let device = spec.id.clone();
            return Err(ProblemError::Range { device, min, max });
        }
        let holder = self.dense.holder[device];
        if holder == NONE || spec.fixed.is_some() {
            return Ok(());
        }
        let group = &self.problem.groups[holder as usize];
        let (mut low, mut high) = (min, max);
        for other in group.devices.iter().filter(|d| **d != device) {
            let other = &self.problem.devices[*other];
            if other.fixed.is_none() {
                low = low.max(other.min);
                high = high.min(other.max);
            }
        }
        if low > high {
            let job = group.job.clone();
            return Err(ProblemError::NoCommonCap { job, low, high });
        }
        Ok(())
    }

    /// Solves; `None` when the floors do not fit below the limits, see
    /// [`Engine::outcome`] for what to do then. Makes no sentences and no hash.
    pub fn solve(&mut self) -> Option<Numbers> {
        self.grow();
        if !conflict::smallest(&self.dense).is_empty() {
            self.solved = None;
            return None;
        }
        self.touched.sort();
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
        let near = self.solved.take().map_or(prices, |s| s.prices);
        let found = super::coupled::solve(&self.dense, &near);
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

    /// Why a job has its cap, in a sentence.
    pub fn why(&self, group: usize) -> Option<String> {
        let solved = self.solved.as_ref()?;
        let cap = self.cap(group)?;
        Some(explain::one(
            &self.problem,
            &self.dense,
            group,
            cap.0,
            &solved.prices,
        ))
    }

    /// SHA-256 of the problem as it is now. The first time it is taken of all,
    /// later of what has changed.
    pub fn inputs_hash(&mut self) -> String {
        let parts = self.parts.get_or_insert_with(|| Parts::new(&self.problem));
        parts.hash(&self.problem)
    }

    /// The whole answer: every cap, every reason, the certificate.
    pub fn outcome(&mut self) -> Outcome {
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
        Outcome::Allocated(finish::finish(&self.problem, &self.dense, &solved, hash))
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
