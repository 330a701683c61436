//! Other things to want than the most work at a price of energy.
//!
//! The most work under the budget is [`allocate`](super::allocate) at price 0;
//! balanced by price is the same at the planner's λ. Here stand the most work
//! per joule within a stated slowdown, and the fairest speeds.

use super::bound::objective;
use super::change::Change;
use super::dense::Dense;
use super::engine::Engine;
use super::finish::{self, Solved};
use super::problem::{Method, Outcome, Problem, ProblemError};
use super::rows::Rows;
use super::{allocate, conflict, gang};
use heliostat_models::Watts;

/// Prices tried at most.
const TRIES: usize = 60;
/// Share of the speeds between slowest and fastest by which a fair speed may miss.
const FINE: f64 = 1e-12;

/// The most work per joule that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Efficient {
    /// Caps and the proof that at `price` no others are worth more.
    pub outcome: Outcome,
    /// The price of energy that leads there, in work per watt hour.
    pub price: f64,
    /// Weighted device hours per hour.
    pub work: f64,
    /// Watts that this takes: caps and, at the feed that counts most, what no cap controls.
    pub power: Watts,
}

/// The most work per joule that keeps at least `1 - slowdown` of the most work
/// that the limits allow.
///
/// By Dinkelbach's method: at the price `work / power` of an allocation, the
/// best one has at least its ratio, and none is better where the price no
/// longer changes. Where that is too slow, the highest price is taken that
/// keeps the work; between two prices at which a job's cap jumps no mixture is
/// looked for, which costs at most one stretch of one curve.
///
/// # Errors
/// When the problem contradicts itself.
pub fn most_work_per_joule(problem: &Problem, slowdown: f64) -> Result<Efficient, ProblemError> {
    let mut engine = Engine::new(problem.clone())?;
    let mut at = |price: f64| -> Result<Efficient, ProblemError> {
        engine.change(&Change::PriceOfEnergy(price))?;
        let outcome = engine.outcome();
        let caps = &outcome.allocation().caps;
        let power: Watts = caps.iter().copied().sum();
        let fixed = uncontrolled(problem);
        Ok(Efficient {
            price,
            work: objective(engine.problem(), caps) + price * power.0,
            power: power + fixed,
            outcome,
        })
    };
    let most = at(0.0)?;
    let least = (1.0 - slowdown.clamp(0.0, 1.0)) * most.work;
    let mut best = most;
    for _ in 0..TRIES {
        if best.power.0 <= 0.0 || matches!(best.outcome, Outcome::Infeasible { .. }) {
            return Ok(best);
        }
        let price = best.work / best.power.0;
        if price <= best.price * (1.0 + 1e-12) {
            return Ok(best);
        }
        let next = at(price)?;
        if next.work < least {
            return within(best, price, least, at);
        }
        best = next;
    }
    Ok(best)
}

/// The highest price between that of `best` and `high` that keeps the work.
fn within(
    mut best: Efficient,
    mut high: f64,
    least: f64,
    mut at: impl FnMut(f64) -> Result<Efficient, ProblemError>,
) -> Result<Efficient, ProblemError> {
    for _ in 0..TRIES {
        let price = 0.5 * (best.price + high);
        if price <= best.price || price >= high {
            break;
        }
        let next = at(price)?;
        if next.work < least {
            high = price;
        } else {
            best = next;
        }
    }
    Ok(best)
}

/// What no cap controls at the feed that counts most.
fn uncontrolled(problem: &Problem) -> Watts {
    let feeds = problem.nodes.iter().filter(|n| n.parents.is_empty());
    feeds.fold(Watts::ZERO, |most, feed| most.max(feed.uncontrolled))
}

/// The fairest caps by group: the lowest speed as high as the limits allow,
/// then the next lowest, and so on (lexicographic max-min of relative speed).
/// `None` where the floors do not fit below the limits.
///
/// All jobs speed up together until a limit is full; those below it stop, the
/// others go on. Exact for any limits, up to the fineness of a bisection. In
/// O(full limits × (devices + limits)).
///
/// # Errors
/// When the problem contradicts itself.
pub fn fairest(problem: &Problem) -> Result<Option<Vec<Watts>>, ProblemError> {
    problem.validate()?;
    let dense = Dense::new(problem, Rows::new(problem));
    if !conflict::smallest(&dense).is_empty() {
        return Ok(None);
    }
    let mut caps = vec![Watts::ZERO; problem.groups.len()];
    for (slot, stop) in raise_together(problem, &dense).into_iter().enumerate() {
        caps[dense.group[slot] as usize] = Watts(stop.cap);
    }
    Ok(Some(caps))
}

/// Where a gang stopped, and the limit that stopped it.
#[derive(Clone, Copy)]
struct Stop {
    cap: f64,
    row: Option<usize>,
}

/// Raises all speeds together until limits are full; by slot, caps on steps.
fn raise_together(problem: &Problem, dense: &Dense) -> Vec<Stop> {
    let mut stopped: Vec<Option<Stop>> = (dense.range.iter())
        .map(|r| {
            let fixed = r.count == 0.0 || r.ceiling <= r.floor;
            fixed.then_some(Stop {
                cap: r.floor,
                row: None,
            })
        })
        .collect();
    let cap_at = |slot: usize, speed: f64| {
        let range = &dense.range[slot];
        let group = &problem.groups[dense.group[slot] as usize];
        gang::cap_for(group, speed).clamp(range.floor, range.ceiling)
    };
    let fastest = (problem.groups.iter())
        .flat_map(|g| g.curve.points().iter().map(|p| p.1))
        .fold(0.0, f64::max);
    let mut speed = 0.0;
    while stopped.iter().any(Option::is_none) {
        let caps = |speed: f64| -> Vec<f64> {
            let each = stopped.iter().enumerate();
            each.map(|(slot, stop)| stop.map_or_else(|| cap_at(slot, speed), |s| s.cap))
                .collect()
        };
        let fits = |caps: &[f64]| left(dense, caps).iter().all(|left| *left >= 0.0);
        let (mut low, mut high) = (speed, fastest);
        if fits(&caps(high)) {
            low = high;
        }
        while high - low > FINE * fastest.max(1.0) {
            let middle = 0.5 * (low + high);
            if fits(&caps(middle)) {
                low = middle;
            } else {
                high = middle;
            }
        }
        speed = low;
        let here = caps(low);
        let beyond = left(dense, &caps(high));
        let mut any = false;
        for slot in 0..stopped.len() {
            let mut above = (dense.points_of(slot).iter())
                .flat_map(|(point, _)| dense.rows.above(*point))
                .map(|row| *row as usize);
            let row = above.find(|row| beyond[*row] < 0.0);
            if stopped[slot].is_none() && (low >= fastest || row.is_some()) {
                stopped[slot] = Some(Stop {
                    cap: here[slot],
                    row,
                });
                any = true;
            }
        }
        if !any {
            // Only rounding leads here: all that is left stays where it is.
            for (stop, cap) in stopped.iter_mut().zip(&here) {
                stop.get_or_insert(Stop {
                    cap: *cap,
                    row: None,
                });
            }
        }
    }
    let on_steps = stopped.into_iter().zip(&dense.range).map(|(stop, range)| {
        let stop = stop.unwrap_or(Stop {
            cap: range.floor,
            row: None,
        });
        let cap = gang::round_down(stop.cap, range.step).max(range.floor);
        Stop { cap, ..stop }
    });
    on_steps.collect()
}

/// The fairest caps as an allocation. Its bound is that of the most work, so
/// the gap says what fairness costs; each job is told which limit holds it.
/// Where the floors do not fit, what [`allocate`] does instead.
///
/// # Errors
/// When the problem contradicts itself.
pub fn fair(problem: &Problem) -> Result<Outcome, ProblemError> {
    let most = match allocate(problem)? {
        Outcome::Allocated(most) => most,
        infeasible => return Ok(infeasible),
    };
    let dense = Dense::new(problem, Rows::new(problem));
    let stops = raise_together(problem, &dense);
    let taken = (stops.iter().zip(&dense.range))
        .map(|(stop, range)| ((stop.cap - range.floor) / dense.unit).floor().max(0.0) * range.count)
        .collect();
    let solved = Solved {
        taken,
        prices: [most.node_prices, most.contract_prices].concat(),
        method: Method::Fairness,
    };
    let mut fair = finish::finish(problem, &dense, &solved, most.certificate.inputs_hash);
    for (place, got) in fair.groups.iter_mut().enumerate() {
        let slot = dense.slot[place] as usize;
        if dense.range[slot].count == 0.0 {
            continue;
        }
        got.binding = stops[slot].row;
        let told = &mut fair.jobs[place];
        told.binding = got.binding.map(|row| problem.limit_name(row).to_owned());
        told.reason = match &told.binding {
            Some(limit) => format!(
                "As fast as all jobs below `{limit}` can be together; no slower one gives way to a faster one."
            ),
            None => "As fast as it goes: no limit above it is short of power.".to_owned(),
        };
    }
    Ok(Outcome::Allocated(fair))
}

/// Units left at each limit under caps by slot; less than a device's unit below zero counts as kept.
fn left(dense: &Dense, caps: &[f64]) -> Vec<f64> {
    let taken: Vec<f64> = (dense.range.iter().zip(caps))
        .map(|(range, cap)| (cap - range.floor).max(0.0) * range.count / dense.unit)
        .collect();
    let used = dense.used(&taken);
    (used.iter().zip(&dense.left))
        .map(|(used, left)| left.max(0.0) - used)
        .collect()
}
