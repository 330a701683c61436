//! How jobs count against power contracts, for the solver. The checker has its own.
//!
//! A contract covers some of the devices, and a plan says when jobs run, not where.
//! What is known: a job that runs has its devices until it is paused. All else is
//! counted at the worst:
//!
//! ```text
//! below contract c in slot t at most
//!     the devices that it covers of jobs that surely run there still,
//!     and of all other running jobs the hottest devices that could stand there:
//!         of a job on known devices those that are covered, else of its whole gang,
//!         as many as then are left of what c covers
//! ```
//!
//! A job surely runs while it may not be paused and could not be done yet at its
//! fastest. So whichever free devices schedulers give, a plan's levels fit.
//!
//! No linear function says this, so the bound goes by one that lies below it:
//! known devices in full, of other gangs the least share that must stand below c
//! when all the rest is full. With `k` of a gang `g` covered and `n` of the `N`
//! devices that can be in use (all, or those of all jobs released), that share is the least over the jobs that may still be where they are of
//!
//! ```text
//! (n − sum of k) / (N − sum of g)
//! ```
//!
//! because no more than `N` devices are in use, and the hottest of them are at least
//! as hot as all on the mean.

use super::problem::{Contract, Job, Problem, Schedule};

/// What counts where, read off a problem once.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// By job: slots from the first on in which it surely holds its devices.
    certain: Vec<usize>,
    /// By contract and slot: devices that jobs other than those may hold.
    free: Vec<Vec<u32>>,
    /// By contract and slot: least share of a gang on unknown devices that is covered.
    share: Vec<Vec<f64>>,
}

impl Rules {
    /// Of a problem; empty where it has no contracts.
    pub fn new(problem: &Problem) -> Self {
        if problem.contracts.is_empty() {
            return Self::default();
        }
        let certain: Vec<usize> = problem.jobs.iter().map(certain).collect();
        let slots = problem.slots.len();
        let by_slot = |contract: &dyn Fn(usize) -> (u32, f64)| -> (Vec<u32>, Vec<f64>) {
            (0..slots).map(contract).unzip()
        };
        let (free, share) = (0..problem.contracts.len())
            .map(|c| by_slot(&|t| free_and_share(problem, &certain, c, t)))
            .unzip();
        Self {
            certain,
            free,
            share,
        }
    }

    /// Devices below a contract that a job may hold in a slot.
    pub fn below(&self, contract: &Contract, place: usize, job: &Job, at_home: bool) -> u32 {
        match &job.home {
            Some(home) if at_home => home.get(place).copied().unwrap_or(0),
            _ => job.gang.min(contract.devices),
        }
    }

    /// Devices below a contract that a job counts with in the bound.
    pub fn share(&self, contract: usize, slot: usize, job: &Job, at_home: bool) -> f64 {
        match &job.home {
            Some(home) if at_home => f64::from(home.get(contract).copied().unwrap_or(0)),
            _ => f64::from(job.gang) * self.share[contract][slot],
        }
    }

    /// Watts that a job alone may take below a contract.
    pub fn alone(
        &self,
        problem: &Problem,
        (contract, slot): (usize, usize),
        job: &Job,
        level: usize,
        at_home: bool,
    ) -> f64 {
        let below = self.below(&problem.contracts[contract], contract, job, at_home);
        let below = below.min(self.free[contract][slot]);
        f64::from(below) * job.levels[level].power.0
    }

    /// What a job adds below a contract in a slot at a level.
    pub fn entry(
        &self,
        problem: &Problem,
        (contract, slot): (usize, usize),
        job: usize,
        level: usize,
        at_home: bool,
    ) -> Entry {
        let the_job = &problem.jobs[job];
        Entry {
            watts: the_job.levels[level].power.0,
            count: self.below(&problem.contracts[contract], contract, the_job, at_home),
            certain: slot < self.certain[job],
            pinned: the_job.pinned(),
        }
    }

    /// Most that may be drawn below a contract in a slot by what stands there, and
    /// one more.
    pub fn most(
        &self,
        (contract, slot): (usize, usize),
        below: &Below,
        more: Option<Entry>,
    ) -> f64 {
        below.most(self.free[contract][slot], more, |_| true)
    }

    /// The same of jobs that go on whatever the limits say.
    pub fn most_pinned(
        &self,
        (contract, slot): (usize, usize),
        below: &Below,
        more: Option<Entry>,
    ) -> f64 {
        below.most(self.free[contract][slot], more, |entry| entry.pinned)
    }
}

/// Devices of a job below a contract in a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Entry {
    /// Power of each.
    watts: f64,
    /// How many may stand there.
    count: u32,
    /// They surely stand there.
    certain: bool,
    /// Their job goes on whatever the limits say.
    pinned: bool,
}

/// What stands below a contract in a slot, hottest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Below(Vec<Entry>);

impl Below {
    /// Puts a job's devices in.
    pub fn put(&mut self, entry: Entry) {
        let place = self.0.partition_point(|known| known.watts >= entry.watts);
        self.0.insert(place, entry);
    }

    /// Takes a job's devices out again.
    pub fn take(&mut self, entry: Entry) {
        if let Some(place) = self.0.iter().position(|known| *known == entry) {
            self.0.remove(place);
        }
    }

    fn most(&self, free: u32, more: Option<Entry>, counts: impl Fn(&Entry) -> bool) -> f64 {
        let mut left = free;
        let mut sum = 0.0;
        let mut more = more;
        let mut add = |entry: &Entry| {
            let count = if entry.certain {
                entry.count
            } else {
                let count = entry.count.min(left);
                left -= count;
                count
            };
            sum += f64::from(count) * entry.watts;
        };
        for entry in self.0.iter().filter(|entry| counts(entry)) {
            if let Some(hotter) = more.take_if(|more| more.watts > entry.watts) {
                add(&hotter);
            }
            add(entry);
        }
        if let Some(last) = more {
            add(&last);
        }
        sum
    }
}

/// What all jobs but one may draw below a contract in a slot.
pub fn below(
    problem: &Problem,
    rules: &Rules,
    schedules: &[Schedule],
    (contract, slot): (usize, usize),
    but: Option<usize>,
) -> Below {
    let mut below = Below::default();
    for (index, (job, schedule)) in problem.jobs.iter().zip(schedules).enumerate() {
        if but != Some(index)
            && let Some(level) = schedule.level(slot)
        {
            let at_home = slot < job.stays(schedule);
            below.put(rules.entry(problem, (contract, slot), index, level, at_home));
        }
    }
    below
}

/// Slots in which a job surely is on its devices: what may not be paused runs on
/// until its work is done, and sooner than at its fastest it cannot be.
fn certain(job: &Job) -> usize {
    let fastest = job.levels.iter().map(|l| l.quanta).max().unwrap_or(0);
    if job.home.is_some() && job.pinned() && job.release == 0 && fastest > 0 {
        job.work.div_ceil(fastest) as usize
    } else {
        0
    }
}

/// Slots in which a job may still be on the devices that it has now.
fn possible(job: &Job) -> usize {
    let slowest = job.levels.iter().map(|l| l.quanta).min().unwrap_or(0);
    if job.home.is_some() && job.running && job.release == 0 && slowest > 0 {
        job.work.div_ceil(slowest) as usize
    } else {
        0
    }
}

fn free_and_share(problem: &Problem, certain: &[usize], c: usize, t: usize) -> (u32, f64) {
    let covered = |job: &Job| {
        let home = job.home.as_ref().and_then(|home| home.get(c));
        home.copied().unwrap_or(0)
    };
    // Jobs that must go on may hold more devices than there are.
    let pinned = problem.jobs.iter().filter(|job| job.pinned());
    let pinned: u32 = pinned.map(|job| job.gang).sum();
    let released = problem.jobs.iter().filter(|job| job.release <= t);
    let wanted: u32 = released.map(|job| job.gang).sum();
    let mut all = f64::from(problem.devices.max(pinned).min(wanted));
    let mut free = problem.contracts[c].devices;
    let mut perhaps = Vec::new();
    for (job, certain) in problem.jobs.iter().zip(certain) {
        if t < *certain {
            free = free.saturating_sub(covered(job));
            all -= f64::from(job.gang);
        } else if t < possible(job) && covered(job) > 0 {
            perhaps.push((f64::from(covered(job)), f64::from(job.gang)));
        }
    }
    // Those that take more of the contract than the others lower the share.
    perhaps.sort_by(|a, b| (b.0 / b.1).total_cmp(&(a.0 / a.1)));
    let mut below = f64::from(free);
    for (covered, gang) in perhaps {
        if covered * all <= below * gang {
            break;
        }
        below -= covered;
        all -= gang;
    }
    let share = if all > 0.0 && below > 0.0 {
        (below / all).min(1.0)
    } else {
        0.0
    };
    (free, share)
}
