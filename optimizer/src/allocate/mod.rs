//! Caps at one instant: which job gets how many watts, with a proof that no
//! other choice does more.
//!
//! ```text
//! maximise   sum_j w_j |G_j| f_j(p_j)  -  λ sum_i p_i
//! subject to sum of p_i over the devices i below v  <=  L_v - U_v    for every power node and contract v
//!            floor_j <= p_j <= M_j, all devices of a gang share p_j
//! ```
//!
//! `w` is the weight of a job's class, `|G|` its devices, `f` its relative
//! speed against the per-device cap, so the first sum counts weighted device
//! hours at full speed per hour. `λ`, the price of energy, is in the same work
//! per watt hour. Every number of work per watt in this module is in that unit.
//! `U` is what no cap controls, at its upper bound. Under redundant feeds a
//! device counts in full below each, for either may have to carry all.
//!
//! * Nested limits: the exact sweep ([`levels`](self::levels)).
//! * Gangs or limits that cut across one another: the sweep without them, and
//!   where that breaks a limit, prices by a first-order method
//!   ([`prices`](self::prices)) and, for problems that are not too large, a
//!   linear program with limits and cuts added lazily ([`program`](self::program)).
//!
//! Whatever solved it, the bound is evaluated from the prices alone, so the
//! gap is honest. [`Engine`] keeps what does not change from one instant to
//! the next.

mod bound;
mod bracket;
mod canonical;
mod change;
mod conflict;
mod coupled;
mod dense;
mod engine;
mod explain;
mod finish;
mod gang;
mod goal;
mod levels;
mod matrix;
mod prices;
mod problem;
mod program;
mod read;
mod rows;
mod shed;
mod told;
mod touched;
mod validate;

pub use bound::{dual_bound, objective};
pub use change::Change;
pub use engine::{Engine, Numbers};
pub use goal::{Efficient, fair, fairest, most_work_per_joule};
pub use problem::{
    Allocation, Contract, DeviceSpec, Group, GroupCap, LimitNode, Method, Outcome, Problem,
    ProblemError, Shed,
};

use dense::Dense;
use levels::Levels;
use rows::Rows;

/// Devices from which the hash of the inputs is computed beside the solution.
const BESIDE: usize = 4_096;

/// Allocates. Deterministic: the same problem gives the same bytes.
///
/// # Errors
/// When the problem contradicts itself: an index that points nowhere, a number
/// that is not finite, a device in two gangs, a gang with no common cap.
pub fn allocate(problem: &Problem) -> Result<Outcome, ProblemError> {
    problem.validate()?;
    if problem.devices.len() < BESIDE {
        let hash = canonical::Parts::new(problem).hash(problem);
        return Ok(outcome(problem, || hash));
    }
    Ok(std::thread::scope(|scope| {
        let hash = scope.spawn(|| canonical::Parts::new(problem).hash(problem));
        outcome(problem, || match hash.join() {
            Ok(hash) => hash,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }))
}

/// Solves a valid problem; asks for the hash of its inputs at the end.
fn outcome(problem: &Problem, hash: impl FnOnce() -> String) -> Outcome {
    let dense = Dense::new(problem, Rows::new(problem));
    let conflict = conflict::smallest(&dense);
    if conflict.is_empty() {
        let mut levels = Levels::new(&dense);
        let solved = finish::solve(&dense, &mut levels);
        return Outcome::Allocated(finish::finish(problem, &dense, &solved, hash()));
    }
    shed::outcome(problem, &conflict, hash())
}
