//! Power contracts, for the checker: the rule of [`super::contracts`] worked out
//! again by other means. The hottest devices that could stand below a contract are
//! found by the price of a place there, the share of the bound by bisection.

use super::problem::{Job, Problem, Schedule};

/// Where a job's devices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum At {
    /// It stands still.
    Rest,
    /// It runs, nobody knows where.
    Anywhere,
    /// It runs on the devices that it has at the begin.
    Home,
}

/// Where it begins.
pub(super) fn begins(job: &Job) -> At {
    match (job.running, &job.home) {
        (true, Some(_)) => At::Home,
        (true, None) => At::Anywhere,
        (false, _) => At::Rest,
    }
}

/// Where it is in a slot in which it runs, when it was there in the slot before.
pub(super) fn runs_on(before: At) -> At {
    match before {
        At::Home => At::Home,
        At::Anywhere | At::Rest => At::Anywhere,
    }
}

/// Where each job is in each slot.
pub(super) fn whereabouts(problem: &Problem, schedules: &[Schedule]) -> Vec<Vec<At>> {
    let of_job = |(job, schedule): (&Job, &Schedule)| {
        let mut at = begins(job);
        let step = |level: &u8| {
            at = if *level == 0 { At::Rest } else { runs_on(at) };
            at
        };
        schedule.0.iter().map(step).collect()
    };
    problem.jobs.iter().zip(schedules).map(of_job).collect()
}

fn at_home(job: &Job, contract: usize) -> u32 {
    let home = job.home.as_deref().unwrap_or_default();
    home.get(contract).copied().unwrap_or_default()
}

/// Whether a job is bound to stand where it is: work is left after all slots
/// before at its best pace, and nobody may pause it.
fn surely_there(job: &Job, slot: usize) -> bool {
    let best = job.levels.iter().map(|l| u64::from(l.quanta)).max();
    let done = slot as u64 * best.unwrap_or(0);
    job.home.is_some()
        && job.running
        && !job.interruptible
        && job.release == 0
        && best > Some(0)
        && done < u64::from(job.work)
}

/// Whether a job may yet be where it is: work is left at its worst pace.
fn perhaps_there(job: &Job, slot: usize) -> bool {
    let worst = job.levels.iter().map(|l| u64::from(l.quanta)).min();
    let done = slot as u64 * worst.unwrap_or(0);
    job.home.is_some()
        && job.running
        && job.release == 0
        && worst > Some(0)
        && done < u64::from(job.work)
}

/// Most that could be drawn below a contract in a slot above what devices have
/// anyway; `counts` says of which jobs.
pub(super) fn most(
    problem: &Problem,
    schedules: &[Schedule],
    whereabouts: &[Vec<At>],
    (contract, slot): (usize, usize),
    counts: impl Fn(&Job) -> bool,
) -> f64 {
    let mut places = problem.contracts[contract].devices;
    let mut known = 0.0;
    let mut open: Vec<(f64, f64)> = Vec::new();
    for ((job, schedule), at) in problem.jobs.iter().zip(schedules).zip(whereabouts) {
        let sure = surely_there(job, slot);
        if sure {
            places = places.saturating_sub(at_home(job, contract));
        }
        let level = schedule.0.get(slot).copied().unwrap_or(0);
        let level = usize::from(level).checked_sub(1);
        let Some(level) = level.and_then(|l| job.levels.get(l)) else {
            continue;
        };
        if !counts(job) {
            continue;
        }
        let devices = match at[slot] {
            At::Home => at_home(job, contract),
            At::Anywhere | At::Rest => job.gang.min(problem.contracts[contract].devices),
        };
        if sure {
            known += level.power.0 * f64::from(devices);
        } else {
            open.push((level.power.0, f64::from(devices)));
        }
    }
    // With a price for each place, what the best can earn is no less than what the
    // hottest draw, and at the best price it is the same.
    let dearest = |price: f64| {
        let earned = open.iter().map(|(watts, n)| (watts - price).max(0.0) * n);
        price * f64::from(places) + earned.sum::<f64>()
    };
    let prices = open.iter().map(|(watts, _)| *watts);
    known + prices.map(dearest).fold(dearest(0.0), f64::min)
}

/// Least share of a gang on unknown devices that stands below a contract when as
/// many devices as can be are in use.
pub(super) fn share(problem: &Problem, contract: usize, slot: usize) -> f64 {
    let pinned: u32 = (problem.jobs.iter())
        .filter(|job| job.running && !job.interruptible)
        .map(|job| job.gang)
        .sum();
    let wanted: u32 = (problem.jobs.iter())
        .filter(|job| slot >= job.release)
        .map(|job| job.gang)
        .sum();
    let mut all = f64::from(wanted.min(pinned.max(problem.devices)));
    let mut below = problem.contracts[contract].devices;
    let mut others = Vec::new();
    for job in &problem.jobs {
        if surely_there(job, slot) {
            all -= f64::from(job.gang);
            below = below.saturating_sub(at_home(job, contract));
        } else if perhaps_there(job, slot) {
            others.push((f64::from(at_home(job, contract)), f64::from(job.gang)));
        }
    }
    let below = f64::from(below);
    if below <= 0.0 || all <= 0.0 {
        return 0.0;
    }
    // The share at which, whoever stays, no less than that is below.
    let spare = |share: f64| {
        let taken = others.iter().map(|(k, g)| (k - share * g).max(0.0));
        below - share * all - taken.sum::<f64>()
    };
    let (mut low, mut high) = (0.0, 1.0);
    if spare(high) >= 0.0 {
        return high;
    }
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if spare(middle) >= 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

/// By slot, what a contract's price takes of a job for each watt of a device of its
/// gang; and how many devices it may alone have below it.
pub(super) struct Priced {
    /// Elsewhere, at home: devices that count with the price.
    count: Vec<(f64, f64)>,
    /// Elsewhere, at home: devices that it alone could have there.
    alone: Vec<(f64, f64)>,
}

impl Priced {
    /// Of a job below a contract whose shares by slot are these.
    pub fn new(problem: &Problem, job: &Job, contract: usize, shares: &[f64]) -> Self {
        let covered = problem.contracts[contract].devices;
        let home = at_home(job, contract);
        let free = |slot: usize| {
            let sure = problem.jobs.iter().filter(|job| surely_there(job, slot));
            let held: u32 = sure.map(|job| at_home(job, contract)).sum();
            covered.saturating_sub(held)
        };
        let count = shares
            .iter()
            .map(|share| (f64::from(job.gang) * share, f64::from(home)));
        let alone = (0..shares.len()).map(|slot| {
            let free = free(slot);
            let most = |devices: u32| f64::from(devices.min(covered).min(free));
            (most(job.gang), most(home))
        });
        Self {
            count: count.collect(),
            alone: alone.collect(),
        }
    }

    /// Devices that count with the price.
    pub fn count(&self, slot: usize, at: At) -> f64 {
        pick(self.count[slot], at)
    }

    /// Devices that it alone could have below.
    pub fn alone(&self, slot: usize, at: At) -> f64 {
        pick(self.alone[slot], at)
    }
}

fn pick((elsewhere, home): (f64, f64), at: At) -> f64 {
    if at == At::Home { home } else { elsewhere }
}
