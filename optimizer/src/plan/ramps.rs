//! Plans and ramp limits.
//!
//! A plan may ask for steeper ramps than control gives: its levels change at once
//! where a slot begins, and control spreads what would be faster than the site file
//! allows. So work may come later than planned. By how much at most:
//!
//! ```text
//! behind_t = max(0, behind_{t-1} − slot) + falls_t / down + rises_t / up + twice the window
//! lost_j   = sum over slots t in which j rises of behind_t · (pace of its level − pace before)
//! ```
//!
//! with the slowest limit that all of a rise could stand below, since nobody knows
//! where jobs will be; a rise may have to wait for what falls. What control changes
//! besides, at other prices of energy or readings, no plan knows.
//!
//! Plans are not made otherwise for it: who has a deadline with less to spare than
//! this is told so, and the next plan starts from the work that is then left.

use super::policy::SLOT;
use super::problem::{Job, Problem, QUANTA_A_SLOT, Schedule, Solution};
use heliostat_models::{Site, Watts};

/// How fast caps may change; all in watts and seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Ramps {
    window: f64,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq)]
struct Row {
    up: Option<f64>,
    down: Option<f64>,
    /// From all least to all highest caps below it.
    most: f64,
}

impl Ramps {
    /// Of a site; `None` where nothing is limited.
    pub fn new(site: &Site) -> Option<Self> {
        let limits = &site.ramps.limits;
        if limits.is_empty() {
            return None;
        }
        let rows = limits.iter().map(|limit| {
            let below = |place: &usize| {
                let path = || site.power.path_up(site.power_node_of(*place));
                limit.at.is_none_or(|at| path().contains(&at))
            };
            let range =
                |place: usize| (site.devices[place].max_cap - site.devices[place].min_cap).0;
            Row {
                up: limit.up.map(|rate| rate.0),
                down: limit.down.map(|rate| rate.0),
                most: (0..site.devices.len()).filter(below).map(range).sum(),
            }
        });
        Some(Self {
            window: site.ramps.window.as_secs_f64(),
            rows: rows.collect(),
        })
    }

    /// Seconds that caps may need for a rise and for the falls that it waits for.
    fn seconds(&self, rise: f64, fall: f64) -> f64 {
        let longest = |watts: f64, rate: &dyn Fn(&Row) -> Option<f64>| {
            let rows = self.rows.iter();
            rows.filter_map(|row| Some((watts.min(row.most), rate(row)?)))
                .map(|(watts, rate)| watts / rate)
                .fold(0.0, f64::max)
        };
        longest(rise, &|row| row.up) + longest(fall, &|row| row.down) + 2.0 * self.window
    }

    /// By slot, how many seconds after its begin the last of its rises may be done.
    /// `now`: what each job's devices have above their least caps at the begin.
    pub fn behind(&self, problem: &Problem, plan: &Solution, now: &[Watts]) -> Vec<f64> {
        let mut behind: f64 = 0.0;
        let slots = 0..problem.slots.len();
        slots
            .map(|t| {
                let (mut rise, mut fall) = (0.0, 0.0);
                let jobs = problem.jobs.iter().zip(&plan.schedules);
                for (index, (job, schedule)) in jobs.enumerate() {
                    let at_begin = || f64::from(job.gang) * at_begin(now, index).0;
                    let before = t.checked_sub(1);
                    let before = before.map_or_else(at_begin, |t| watts(job, schedule, t));
                    let change = watts(job, schedule, t) - before;
                    rise += change.max(0.0);
                    fall += (-change).max(0.0);
                }
                behind = (behind - SLOT.as_secs_f64()).max(0.0);
                if rise > 0.0 {
                    behind += self.seconds(rise, fall);
                }
                behind
            })
            .collect()
    }

    /// Quanta of work that each job may have done less by the end of its schedule.
    pub fn lost(&self, problem: &Problem, plan: &Solution, now: &[Watts]) -> Vec<f64> {
        let behind = self.behind(problem, plan, now);
        let of_job = |(index, (job, schedule)): (usize, (&Job, &Schedule))| {
            let levels = job
                .levels
                .iter()
                .filter(|l| l.power <= at_begin(now, index));
            let begins = levels.map(|l| f64::from(l.quanta)).fold(0.0, f64::max);
            let pace = |t: usize| {
                let level = schedule.level(t);
                level.map_or(0.0, |l| f64::from(job.levels[l].quanta))
            };
            let lost = behind.iter().enumerate().map(|(t, seconds)| {
                let before = t.checked_sub(1).map_or(begins, pace);
                (pace(t) - before).max(0.0) * seconds / SLOT.as_secs_f64()
            });
            lost.sum()
        };
        problem
            .jobs
            .iter()
            .zip(&plan.schedules)
            .enumerate()
            .map(of_job)
            .collect()
    }
}

/// What each device of a job has at the begin; of a job not known, its least cap.
fn at_begin(now: &[Watts], job: usize) -> Watts {
    now.get(job).copied().unwrap_or(Watts::ZERO)
}

/// What a job's devices have above their least caps.
fn watts(job: &Job, schedule: &Schedule, slot: usize) -> f64 {
    let level = schedule.level(slot);
    level.map_or(0.0, |l| f64::from(job.gang) * job.levels[l].power.0)
}

/// Seconds that a job needs to make up for lost quanta at the pace at which it ends.
pub fn seconds_to_make_up(job: &Job, schedule: &Schedule, lost: f64) -> f64 {
    let last = schedule.0.iter().rposition(|l| *l > 0);
    let level = last.and_then(|t| schedule.level(t));
    let pace = level.map_or(QUANTA_A_SLOT, |l| job.levels[l].quanta);
    lost / f64::from(pace.max(1)) * SLOT.as_secs_f64()
}
