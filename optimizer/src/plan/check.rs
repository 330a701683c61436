//! The independent checker of plans. It reads a plan as stretches of time per
//! job, recomputes everything from the problem, and shares no code with the
//! solver: neither its cost function nor its search.
//!
//! Passed means: every job's stretches are allowed, every slot's limits hold
//! (but for what pinned jobs force, which must be priced), the claimed cost is
//! the true one, and the prices prove the claimed bound.

use super::check_contracts::{At, Priced, begins, most, runs_on, share, whereabouts};
use super::problem::{Job, OVERLOAD, Problem, Schedule, Solution};
use heliostat_models::JobId;
use std::collections::BTreeMap;

/// Relative difference that rounding in sums may cause.
const TOLERANCE: f64 = 1e-6;
/// Watts that rounding in sums may cause.
const WATT_TOLERANCE: f64 = 1e-2;
/// Watts that rounding may cause where one job alone is held against a limit: the
/// bound is over plans whose jobs each keep it.
const ALONE_TOLERANCE: f64 = 1e-3;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanFault {
    /// The plan is not about these jobs and slots.
    #[error("the plan has {found} {what}, the problem {expected}")]
    Shape {
        /// Of what.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// A job runs at a pace that it does not have.
    #[error("{job} runs at level {level} in slot {slot}; it has {levels}")]
    UnknownLevel {
        /// Which job.
        job: JobId,
        /// Where.
        slot: usize,
        /// As the plan says, from 1.
        level: u8,
        /// How many it has.
        levels: usize,
    },
    /// A job runs before its release.
    #[error("{job} runs in slot {slot}, before its release in slot {release}")]
    BeforeRelease {
        /// Which job.
        job: JobId,
        /// Where.
        slot: usize,
        /// First slot allowed.
        release: usize,
    },
    /// A job that may not be paused is paused.
    #[error("{job} may not be interrupted but stands still in slot {slot}")]
    Broken {
        /// Which job.
        job: JobId,
        /// First slot in which it stands.
        slot: usize,
    },
    /// A job runs though all its work is done.
    #[error("{job} runs in slot {slot} with no work left")]
    Overdone {
        /// Which job.
        job: JobId,
        /// Where.
        slot: usize,
    },
    /// More devices are in use than there are.
    #[error("slot {slot} uses {used} devices of {limit}")]
    Devices {
        /// Where.
        slot: usize,
        /// In use.
        used: u32,
        /// There are.
        limit: u32,
    },
    /// More power is given than there is.
    #[error("slot {slot} gives {used:.1} W of {limit:.1} W")]
    Power {
        /// Where.
        slot: usize,
        /// Given.
        used: f64,
        /// There is.
        limit: f64,
    },
    /// More could be drawn below a power contract than it allows.
    #[error(
        "slot {slot} lets devices below power contract `{contract}` have {used:.1} W of {limit:.1} W"
    )]
    Contract {
        /// Its name.
        contract: String,
        /// Where.
        slot: usize,
        /// What could be given there, above what devices have anyway.
        used: f64,
        /// There is.
        limit: f64,
    },
    /// The cost is not what the plan says.
    #[error("the plan claims a cost of {claimed}, it is {found}")]
    Cost {
        /// As claimed.
        claimed: f64,
        /// As recomputed.
        found: f64,
    },
    /// The bound lies above the cost, so it bounds nothing.
    #[error("the bound {bound} lies above the cost {primal}")]
    BoundAbove {
        /// As claimed.
        bound: f64,
        /// As claimed.
        primal: f64,
    },
    /// A price is negative, too high or no number.
    #[error("the price of {what} in slot {slot} is {price}, outside 0 to {most}")]
    Price {
        /// Of a device, of a watt, of a watt below a contract.
        what: String,
        /// Where.
        slot: usize,
        /// As given.
        price: f64,
        /// Highest that proves anything.
        most: f64,
    },
    /// The prices prove less than is claimed.
    #[error("the bound {claimed} is claimed, the prices prove {proven}")]
    Unproven {
        /// As claimed.
        claimed: f64,
        /// What the prices prove.
        proven: f64,
    },
}

/// A job that a plan finishes late, or not within the horizon.
#[derive(Clone, Debug, PartialEq)]
pub struct Late {
    /// Which.
    pub job: JobId,
    /// Slots past the deadline, at least.
    pub slots: f64,
}

/// Every rule that `plan` breaks; none when it may be used. The proof of the
/// bound is left to [`check_bound`].
pub fn check(problem: &Problem, plan: &Solution) -> Vec<PlanFault> {
    let mut faults = shape(problem, plan);
    if !faults.is_empty() {
        return faults;
    }
    let mut cost = 0.0;
    for (job, schedule) in problem.jobs.iter().zip(&plan.schedules) {
        cost += walk(problem, job, &schedule.0, &mut faults);
    }
    cost += capacity(problem, &plan.schedules, &mut faults);
    let near = TOLERANCE * cost.abs().max(1.0);
    if exceeds((cost - plan.primal).abs(), near) {
        faults.push(PlanFault::Cost {
            claimed: plan.primal,
            found: cost,
        });
    }
    if exceeds(plan.bound, plan.primal + near) {
        faults.push(PlanFault::BoundAbove {
            bound: plan.bound,
            primal: plan.primal,
        });
    }
    faults
}

/// Whether `value` is above `most`; what is no number exceeds everything.
fn exceeds(value: f64, most: f64) -> bool {
    value.is_nan() || most.is_nan() || value > most
}

/// What schedules cost, recomputed from first principles; whether they are
/// allowed is [`check`]'s question.
pub fn cost(problem: &Problem, schedules: &[Schedule]) -> f64 {
    let mut ignored = Vec::new();
    let jobs: f64 = (problem.jobs.iter().zip(schedules))
        .map(|(job, schedule)| walk(problem, job, &schedule.0, &mut ignored))
        .sum();
    jobs + capacity(problem, schedules, &mut ignored)
}

/// Whether the prices prove the bound: recomputes what every job would do at
/// these prices, with a search of its own. Costs about as much as one round
/// of the solver.
pub fn check_bound(problem: &Problem, plan: &Solution) -> Vec<PlanFault> {
    let mut faults = shape(problem, plan);
    for (slot, (device, watt)) in plan.prices.iter().enumerate() {
        let whole = |price: f64, most: f64| price >= 0.0 && price <= most * (1.0 + TOLERANCE);
        let below = (problem.contracts.iter().zip(&plan.contract_prices))
            .filter_map(|(contract, prices)| Some((contract, *prices.get(slot)?)))
            .map(|(c, price)| (format!("a watt below `{}`", c.id), price, OVERLOAD / 1e3));
        let common = [
            ("a device".to_owned(), *device, OVERLOAD),
            ("a watt".to_owned(), *watt, OVERLOAD / 1e3),
        ];
        for (what, price, most) in common.into_iter().chain(below) {
            if !whole(price, most) {
                faults.push(PlanFault::Price {
                    what,
                    slot,
                    price,
                    most,
                });
            }
        }
    }
    if !faults.is_empty() {
        return faults;
    }
    let mut proven = 0.0;
    for (slot, (device, watt)) in problem.slots.iter().zip(&plan.prices) {
        proven -= device * f64::from(problem.devices) + watt * slot.power.0;
    }
    for (contract, prices) in problem.contracts.iter().zip(&plan.contract_prices) {
        let worth = contract
            .power
            .iter()
            .zip(prices)
            .map(|(p, price)| p.0 * price);
        proven -= worth.sum::<f64>();
    }
    let shares: Vec<Vec<f64>> = (0..problem.contracts.len())
        .map(|c| {
            (0..problem.slots.len())
                .map(|t| share(problem, c, t))
                .collect()
        })
        .collect();
    for job in &problem.jobs {
        let below = shares.iter().enumerate();
        let below: Vec<Priced> = below
            .map(|(c, shares)| Priced::new(problem, job, c, shares))
            .collect();
        proven += cheapest(problem, job, plan, &below);
    }
    let near = TOLERANCE * plan.primal.abs().max(1.0);
    if exceeds(plan.bound, proven + near) {
        faults.push(PlanFault::Unproven {
            claimed: plan.bound,
            proven,
        });
    }
    faults
}

/// Jobs that the plan finishes after their deadline, in order.
pub fn late_jobs(problem: &Problem, plan: &Solution) -> Vec<Late> {
    let slots = problem.slots.len() as f64;
    let mut late = Vec::new();
    for (job, schedule) in problem.jobs.iter().zip(&plan.schedules) {
        let (Some(deadline), true) = (job.deadline, job.work > 0) else {
            continue;
        };
        let mut left = i64::from(job.work);
        let mut end = None;
        for (slot, level) in schedule.0.iter().enumerate() {
            if let Some(level) = usize::from(*level)
                .checked_sub(1)
                .and_then(|l| job.levels.get(l))
            {
                left -= i64::from(level.quanta);
                if left <= 0 {
                    end = Some(slot as f64 + 1.0);
                    break;
                }
            }
        }
        let end = end.unwrap_or(slots + left.max(0) as f64 / 4.0);
        let over = end - deadline.max(0) as f64;
        if over > 0.0 {
            late.push(Late {
                job: job.id.clone(),
                slots: over,
            });
        }
    }
    late
}

fn shape(problem: &Problem, plan: &Solution) -> Vec<PlanFault> {
    let mut faults = Vec::new();
    let mut expect = |what, found, expected| {
        if found != expected {
            faults.push(PlanFault::Shape {
                what,
                found,
                expected,
            });
        }
    };
    let slots = problem.slots.len();
    expect("schedules", plan.schedules.len(), problem.jobs.len());
    for schedule in &plan.schedules {
        expect("slots in a schedule", schedule.0.len(), slots);
    }
    expect("prices", plan.prices.len(), slots);
    let contracts = problem.contracts.len();
    expect(
        "contracts with prices",
        plan.contract_prices.len(),
        contracts,
    );
    for (contract, prices) in problem.contracts.iter().zip(&plan.contract_prices) {
        expect("slots of a contract", contract.power.len(), slots);
        expect("prices of a contract", prices.len(), slots);
    }
    faults
}

/// Follows one job through the slots: its rules, and its cost from first principles.
fn walk(problem: &Problem, job: &Job, levels: &[u8], faults: &mut Vec<PlanFault>) -> f64 {
    let gang = f64::from(job.gang);
    let mut done = 0u64;
    let total = u64::from(job.work);
    let mut was_running = job.running;
    let mut cost = 0.0;
    for (slot, said) in levels.iter().enumerate() {
        let runs = *said != 0;
        if done >= total {
            if runs {
                faults.push(PlanFault::Overdone {
                    job: job.id.clone(),
                    slot,
                });
            }
            continue;
        }
        if slot >= job.release {
            cost += job.hold;
            if job.deadline.is_some_and(|d| (slot as i64) + 1 > d) {
                cost += job.late;
            }
        }
        if was_running && !runs {
            cost += job.pause;
            if !job.interruptible {
                faults.push(PlanFault::Broken {
                    job: job.id.clone(),
                    slot,
                });
            }
        }
        if runs {
            if slot < job.release {
                faults.push(PlanFault::BeforeRelease {
                    job: job.id.clone(),
                    slot,
                    release: job.release,
                });
            }
            let slot_cost = problem.slots.get(slot).map_or(0.0, |s| s.cost);
            match job.levels.get(usize::from(*said) - 1) {
                Some(level) => {
                    done += u64::from(level.quanta);
                    cost += gang * level.energy * slot_cost + gang * level.slow;
                }
                None => faults.push(PlanFault::UnknownLevel {
                    job: job.id.clone(),
                    slot,
                    level: *said,
                    levels: job.levels.len(),
                }),
            }
        }
        was_running = runs;
    }
    cost + after_the_end(job, total.saturating_sub(done), levels.len())
}

/// Cost of work that is left at the end.
fn after_the_end(job: &Job, left: u64, slots: usize) -> f64 {
    if left == 0 {
        return 0.0;
    }
    let left = left as f64;
    let mut cost = job.terminal * left;
    if let Some(deadline) = job.deadline {
        // Four quanta a slot from the end on.
        let over = slots as f64 + left / 4.0 - (deadline as f64).max(slots as f64);
        cost += job.late * over.max(0.0);
    }
    cost
}

/// Limits of every slot. What is beyond them is a fault unless the jobs that
/// must go on, each at its least, already break them; it costs in any case.
fn capacity(problem: &Problem, schedules: &[Schedule], faults: &mut Vec<PlanFault>) -> f64 {
    let mut cost = 0.0;
    for (t, slot) in problem.slots.iter().enumerate() {
        let (mut devices, mut watts) = (0u32, 0.0f64);
        let mut forced_devices = 0u32;
        for (job, schedule) in problem.jobs.iter().zip(schedules) {
            let said = usize::from(schedule.0.get(t).copied().unwrap_or(0));
            if said == 0 {
                continue;
            }
            let power = job
                .levels
                .get(said - 1)
                .map_or(0.0, |l| l.power.0 + slot.each.0);
            devices += job.gang;
            watts += power * f64::from(job.gang);
            if job.running && !job.interruptible {
                forced_devices += job.gang;
            }
        }
        let over_devices = devices.saturating_sub(problem.devices);
        let over_watts = (watts - slot.power.0).max(0.0);
        if over_devices > 0 && forced_devices < devices {
            faults.push(PlanFault::Devices {
                slot: t,
                used: devices,
                limit: problem.devices,
            });
        }
        if over_watts > WATT_TOLERANCE
            && (forced_devices == 0 || others_draw(problem, schedules, t) > WATT_TOLERANCE)
        {
            faults.push(PlanFault::Power {
                slot: t,
                used: watts,
                limit: slot.power.0,
            });
        }
        cost += OVERLOAD * f64::from(over_devices);
        if over_watts > WATT_TOLERANCE {
            cost += OVERLOAD * over_watts / 1e3;
        }
    }
    cost + contracts(problem, schedules, faults)
}

/// Power contracts of every slot, whatever devices jobs are given; as above, what
/// jobs that must go on take for themselves is no fault, and costs.
fn contracts(problem: &Problem, schedules: &[Schedule], faults: &mut Vec<PlanFault>) -> f64 {
    if problem.contracts.is_empty() {
        return 0.0;
    }
    let mut cost = 0.0;
    let whereabouts = whereabouts(problem, schedules);
    for (c, contract) in problem.contracts.iter().enumerate() {
        for (slot, limit) in contract.power.iter().enumerate() {
            let drawn = |counts: &dyn Fn(&Job) -> bool| {
                most(problem, schedules, &whereabouts, (c, slot), counts)
            };
            let used = drawn(&|_| true);
            let over = used - limit.0;
            if over <= WATT_TOLERANCE {
                continue;
            }
            cost += OVERLOAD * over / 1e3;
            let forced = drawn(&|job| job.running && !job.interruptible);
            if used > forced + WATT_TOLERANCE {
                faults.push(PlanFault::Contract {
                    contract: contract.id.clone(),
                    slot,
                    used,
                    limit: limit.0,
                });
            }
        }
    }
    cost
}

/// Watts of jobs that could stand still in a slot.
fn others_draw(problem: &Problem, schedules: &[Schedule], slot: usize) -> f64 {
    problem
        .jobs
        .iter()
        .zip(schedules)
        .filter(|(job, _)| !job.running || job.interruptible)
        .filter_map(|(job, schedule)| {
            let level = usize::from(*schedule.0.get(slot)?).checked_sub(1)?;
            let each = problem.slots[slot].each.0;
            Some((job.levels.get(level)?.power.0 + each) * f64::from(job.gang))
        })
        .sum()
}

/// Least cost of one job at given prices: forwards through the slots, a table
/// from (work done, where it runs) to the least cost so far.
fn cheapest(problem: &Problem, job: &Job, plan: &Solution, below: &[Priced]) -> f64 {
    let gang = f64::from(job.gang);
    let mut reached: BTreeMap<(u32, At), f64> = BTreeMap::from([((0, begins(job)), 0.0)]);
    let mut finished = f64::INFINITY;
    if job.work == 0 {
        return 0.0;
    }
    for (t, slot) in problem.slots.iter().enumerate() {
        let mut next: BTreeMap<(u32, At), f64> = BTreeMap::new();
        let mut keep = |state: (u32, At), cost: f64| {
            next.entry(state)
                .and_modify(|known| *known = known.min(cost))
                .or_insert(cost);
        };
        let mut waiting = 0.0;
        if t >= job.release {
            waiting += job.hold;
            if job.deadline.is_some_and(|d| (t as i64) + 1 > d) {
                waiting += job.late;
            }
        }
        for ((done, before), cost) in &reached {
            let cost = cost + waiting;
            if *before == At::Rest {
                keep((*done, At::Rest), cost);
            } else if job.interruptible {
                keep((*done, At::Rest), cost + job.pause);
            }
            let at = runs_on(*before);
            if t < job.release {
                continue;
            }
            for level in &job.levels {
                let power = gang * (level.power.0 + slot.each.0);
                let must = job.running && !job.interruptible;
                let contracts = problem.contracts.iter().zip(below);
                let too_much = job.gang > problem.devices
                    || power > slot.power.0 + ALONE_TOLERANCE
                    || contracts.clone().any(|(contract, below)| {
                        below.alone(t, at) * level.power.0 > contract.power[t].0 + ALONE_TOLERANCE
                    });
                if too_much && !must {
                    continue;
                }
                let mut price = gang * (level.energy * slot.cost + level.slow)
                    + gang * plan.prices[t].0
                    + power * plan.prices[t].1;
                for (prices, below) in plan.contract_prices.iter().zip(below) {
                    price += below.count(t, at) * level.power.0 * prices[t];
                }
                let after = done + level.quanta;
                if after >= job.work {
                    finished = finished.min(cost + price);
                } else {
                    keep((after, at), cost + price);
                }
            }
        }
        reached = next;
    }
    reached
        .into_iter()
        .map(|((done, _), cost)| {
            cost + after_the_end(job, u64::from(job.work - done), problem.slots.len())
        })
        .fold(finished, f64::min)
}
