//! What a plan is asked for, as plain data: slots, jobs, and what everything
//! costs. Nothing here knows sites, stores or forecasts; [`super::build`]
//! makes it from those, and tests make it by hand.
//!
//! ```text
//! unit of cost   one kilowatt hour at the mean price of the horizon
//! unit of time   one slot
//! unit of work   one quantum: a quarter of what a gang does in a slot at its base level
//! ```
//!
//! Cost of a schedule of job j, slot by slot while work is left:
//!
//! ```text
//! in the system            hold_j
//! past the deadline        late_j
//! running at level l       gang_j · (energy_l · cost_t + slow_l)
//! running, then not        pause_j
//! at the end of the slots  terminal_j a quantum left, and late_j a slot that it must yet take past the deadline
//! ```
//!
//! Limits of every slot t: the gangs that run need no more than `devices`;
//! `gang · (power + each_t)` of those that run is no more than `power_t`; of every
//! power contract, what could be drawn below it is no more than its `power_t`,
//! see [`super::contracts`].

use heliostat_models::{JobClass, JobId, Timestamp, Watts};
use serde::Serialize;

/// Quanta of work that a gang does in one slot at its base level.
pub const QUANTA_A_SLOT: u32 = 4;
/// Most levels a job may have.
pub const MAX_LEVELS: usize = 3;

/// One question to the planner.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// Begin of slot 0.
    pub start: Timestamp,
    /// Length of a slot in hours.
    pub slot_hours: f64,
    /// Devices that jobs may hold at the same time.
    pub devices: u32,
    /// The slots, in order.
    pub slots: Vec<Slot>,
    /// The jobs, in order of their ids.
    pub jobs: Vec<Job>,
    /// Limits over some of the devices, in the order of the site file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contracts: Vec<Contract>,
}

/// A power contract.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contract {
    /// Its name.
    pub id: String,
    /// Devices that it covers.
    pub devices: u32,
    /// By slot: power that the devices below it may be given together, above what
    /// every device has anyway.
    pub power: Vec<Watts>,
}

/// One slot.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Slot {
    /// Power that all running gangs together may be given, above what every
    /// device has anyway.
    pub power: Watts,
    /// What each device that works takes of it besides its level's power: under
    /// a grid event devices at rest count with what they draw, not with their
    /// least cap, and one that starts to work takes the difference.
    pub each: Watts,
    /// Cost of a kilowatt hour that a job's device draws, cooling included; 1 in the mean of the horizon.
    pub cost: f64,
}

/// One job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Job {
    /// Which.
    pub id: JobId,
    /// What it is for.
    pub class: JobClass,
    /// Devices it needs at the same time.
    pub gang: u32,
    /// Work left, in quanta.
    pub work: u32,
    /// How it may run, fastest (the base level) first; at least one, at most [`MAX_LEVELS`].
    pub levels: Vec<Level>,
    /// First slot in which it may run.
    pub release: usize,
    /// First slot that ends after its deadline; `None`: no deadline.
    pub deadline: Option<i64>,
    /// Whether it may be paused once it runs.
    pub interruptible: bool,
    /// Whether it runs now.
    pub running: bool,
    /// Cost of one pause: checkpoint, restart and the work lost between.
    pub pause: f64,
    /// Cost of a slot in the system.
    pub hold: f64,
    /// Cost of a slot past the deadline, besides `hold`.
    pub late: f64,
    /// Cost of a quantum of work that is left at the end of the slots.
    pub terminal: f64,
    /// Of a job that runs on devices that are known: how many of them each contract
    /// covers. It has them until it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<Vec<u32>>,
}

/// A pace at which a job may run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Level {
    /// Cap of each device of the gang.
    pub cap: Watts,
    /// What of it counts against a slot's power.
    pub power: Watts,
    /// Relative speed, 1 = uncapped.
    pub speed: f64,
    /// Quanta of work done in a slot: 4, 3 or 2.
    pub quanta: u32,
    /// Kilowatt hours a device draws in a slot more than when it idles.
    pub energy: f64,
    /// Cost per device and slot of being slower than the base level.
    pub slow: f64,
}

/// Price of a device that a plan takes beyond what there is, per device and
/// slot; of power, per kilowatt and slot. Only jobs that must go on (running
/// and not interruptible) can cause it. Far above all else, so that it
/// happens only when nothing else is possible.
pub const OVERLOAD: f64 = 200.0;

impl Job {
    /// Watts that it takes of a slot's power at a level.
    pub fn takes(&self, level: usize, slot: &Slot) -> f64 {
        f64::from(self.gang) * (self.levels[level].power + slot.each).0
    }

    /// Runs now and may not be paused: it goes on whatever the limits say.
    pub fn pinned(&self) -> bool {
        self.running && !self.interruptible
    }

    /// How many of the first slots of a schedule it spends on the devices that it
    /// has now, where these are known.
    pub fn stays(&self, schedule: &Schedule) -> usize {
        if !self.running || self.home.is_none() {
            return 0;
        }
        schedule.0.iter().take_while(|l| **l > 0).count()
    }

    /// Whether it is in the system in a slot.
    pub fn waits_in(&self, slot: usize) -> bool {
        slot >= self.release
    }

    /// Cost of being unfinished in a slot.
    pub fn holding(&self, slot: usize) -> f64 {
        if slot < self.release {
            return 0.0;
        }
        let late = self.deadline.is_some_and(|d| slot as i64 >= d);
        self.hold + if late { self.late } else { 0.0 }
    }

    /// Cost of having `quanta` left after the last of `slots` slots. What is
    /// left needs at least `quanta` / 4 slots more; those past the deadline are late.
    pub fn left_over(&self, quanta: u32, slots: usize) -> f64 {
        if quanta == 0 {
            return 0.0;
        }
        let done_at = slots as f64 + f64::from(quanta) / f64::from(QUANTA_A_SLOT);
        let late = self.deadline.map_or(0.0, |d| {
            (done_at - (d.max(slots as i64)) as f64).max(0.0) * self.late
        });
        self.terminal * f64::from(quanta) + late
    }
}

/// What one job does: per slot 0 (does not run) or 1 + the index of its level.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Schedule(pub Vec<u8>);

impl Schedule {
    /// A schedule that never runs.
    pub fn idle(slots: usize) -> Self {
        Self(vec![0; slots])
    }

    /// The level in a slot, if it runs there.
    pub fn level(&self, slot: usize) -> Option<usize> {
        self.0
            .get(slot)
            .filter(|l| **l > 0)
            .map(|l| usize::from(*l) - 1)
    }
}

/// A schedule for each job, and what is known of how good they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// In the order of the problem's jobs.
    pub schedules: Vec<Schedule>,
    /// Cost of the schedules, overload included.
    pub primal: f64,
    /// No plan can cost less.
    pub bound: f64,
    /// The prices that prove the bound, per slot: of a device, of a watt.
    pub prices: Vec<(f64, f64)>,
    /// Those of a watt below each contract, by slot.
    pub contract_prices: Vec<Vec<f64>>,
    /// How the solver got there.
    pub effort: Effort,
}

/// What the solver did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Rounds of column generation.
    pub rounds: u32,
    /// Columns in the last linear program.
    pub columns: u32,
    /// Whether the linear program was solved to the end; if not, the bound
    /// still holds but could be closer.
    pub converged: bool,
}
