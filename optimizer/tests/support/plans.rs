//! Problems for planners, and the best of all plans by plain enumeration.
#![allow(
    dead_code,
    reason = "support of several tests; not every one needs all of it"
)]

use heliostat_models::{JobClass, JobId, Timestamp, Watts};
use heliostat_optimizer::plan::check::{check, check_bound};
use heliostat_optimizer::plan::problem::{Job, Level, Problem, Slot, Solution};
use heliostat_optimizer::plan::solve::{Limits, solve};

pub fn level(quanta: u32, watts: f64) -> Level {
    Level {
        cap: Watts(watts),
        power: Watts(watts - 200.0),
        speed: f64::from(quanta) / 4.0,
        quanta,
        energy: watts / 4_000.0,
        slow: 0.1 * f64::from(4 - quanta),
    }
}

pub fn job(id: &str, gang: u32, work: u32) -> Job {
    Job {
        id: JobId::from(id),
        class: JobClass::Training,
        gang,
        work,
        levels: vec![level(4, 700.0)],
        release: 0,
        deadline: None,
        interruptible: true,
        running: false,
        pause: 0.0,
        hold: 0.0,
        late: 0.0,
        terminal: 10.0,
        home: None,
    }
}

pub fn problem(costs: &[f64], devices: u32, watts: f64, jobs: Vec<Job>) -> Problem {
    Problem {
        start: Timestamp(0),
        slot_hours: 0.25,
        devices,
        slots: costs
            .iter()
            .map(|cost| Slot {
                each: Watts::ZERO,
                power: Watts(watts),
                cost: *cost,
            })
            .collect(),
        jobs,
        contracts: Vec::new(),
    }
}

/// Every schedule that a job may have.
fn all_schedules(job: &Job, slots: usize) -> Vec<Vec<u8>> {
    let mut found = vec![Vec::new()];
    for t in 0..slots {
        let mut longer = Vec::new();
        for schedule in &found {
            let done: u32 = schedule
                .iter()
                .filter(|l| **l > 0)
                .map(|l| job.levels[usize::from(*l) - 1].quanta)
                .sum();
            let runs_now = schedule.last().map_or(job.running, |l| *l > 0);
            let may_stop = job.interruptible || !runs_now || done >= job.work;
            if may_stop {
                longer.push([schedule.as_slice(), &[0]].concat());
            }
            if t >= job.release && done < job.work {
                for l in 1..=job.levels.len() as u8 {
                    longer.push([schedule.as_slice(), &[l]].concat());
                }
            }
        }
        found = longer;
    }
    found
}

/// Cost by the words of the module's documentation, written a third time.
fn cost(problem: &Problem, job: &Job, schedule: &[u8]) -> f64 {
    let (mut left, mut on, mut sum) = (i64::from(job.work), job.running, 0.0);
    for (t, l) in schedule.iter().enumerate() {
        if left <= 0 {
            break;
        }
        if t >= job.release {
            sum += job.hold;
            if job.deadline.is_some_and(|d| t as i64 >= d) {
                sum += job.late;
            }
        }
        if *l == 0 {
            sum += if on { job.pause } else { 0.0 };
        } else {
            let level = job.levels[usize::from(*l) - 1];
            sum += f64::from(job.gang) * (level.energy * problem.slots[t].cost + level.slow);
            left -= i64::from(level.quanta);
        }
        on = *l > 0;
    }
    if left > 0 {
        sum += job.terminal * left as f64;
        if let Some(d) = job.deadline {
            let end = schedule.len() as f64;
            sum += job.late * (end + left as f64 / 4.0 - (d as f64).max(end)).max(0.0);
        }
    }
    sum
}

/// The least cost of all plans that break no limit; infinite where none does.
pub fn brute_force(problem: &Problem) -> f64 {
    let slots = problem.slots.len();
    let choices: Vec<Vec<(Vec<u8>, f64)>> = problem
        .jobs
        .iter()
        .map(|job| {
            all_schedules(job, slots)
                .into_iter()
                .map(|s| {
                    let cost = cost(problem, job, &s);
                    (s, cost)
                })
                .collect()
        })
        .collect();
    let mut used = vec![(0u32, 0.0f64); slots];
    let mut chosen = Vec::new();
    let best = f64::INFINITY;
    descend(problem, &choices, (0.0, best), &mut chosen, &mut used)
}

fn descend<'c>(
    problem: &Problem,
    choices: &'c [Vec<(Vec<u8>, f64)>],
    (so_far, best): (f64, f64),
    chosen: &mut Vec<&'c [u8]>,
    used: &mut Vec<(u32, f64)>,
) -> f64 {
    let index = chosen.len();
    if index == choices.len() {
        return best.min(so_far);
    }
    let job = &problem.jobs[index];
    let mut best = best;
    for (schedule, cost) in &choices[index] {
        if so_far + cost >= best {
            continue;
        }
        let before = used.clone();
        let mut fits = true;
        for (t, l) in schedule.iter().enumerate().filter(|(_, l)| **l > 0) {
            used[t].0 += job.gang;
            used[t].1 += f64::from(job.gang) * job.levels[usize::from(*l) - 1].power.0;
            fits &= used[t].0 <= problem.devices && used[t].1 <= problem.slots[t].power.0 + 1e-6;
        }
        chosen.push(schedule);
        if fits && contracts_bear(problem, chosen) {
            best = descend(problem, choices, (so_far + cost, best), chosen, used);
        }
        chosen.pop();
        *used = before;
    }
    best
}

/// Whether these schedules of the first jobs keep every contract.
pub fn contracts_bear(problem: &Problem, schedules: &[&[u8]]) -> bool {
    (problem.contracts.iter().enumerate()).all(|(c, contract)| {
        (contract.power.iter().enumerate())
            .all(|(t, room)| hottest(problem, schedules, c, t) <= room.0 + 1e-6)
    })
}

/// What could be drawn below a contract in a slot, device by device: the devices of
/// jobs that cannot but be there, and the hottest of all others that fit beside them.
pub fn hottest(problem: &Problem, schedules: &[&[u8]], contract: usize, slot: usize) -> f64 {
    let mut places = problem.contracts[contract].devices as usize;
    let (mut sum, mut hot) = (0.0, Vec::new());
    for (index, job) in problem.jobs.iter().enumerate() {
        let home = job.home.as_ref().filter(|_| job.running);
        let home = home.map(|home| home[contract] as usize);
        let fastest = job.levels.iter().map(|l| l.quanta).max().unwrap_or(1);
        let bound = !job.interruptible && slot * (fastest as usize) < job.work as usize;
        let sure = home.filter(|_| bound);
        places -= sure.unwrap_or(0);
        let Some(schedule) = schedules.get(index) else {
            continue;
        };
        let Some(level) = usize::from(schedule[slot]).checked_sub(1) else {
            continue;
        };
        let watts = job.levels[level].power.0;
        let never_paused = schedule[..slot].iter().all(|l| *l > 0);
        match (sure, home.filter(|_| never_paused)) {
            (Some(there), _) => sum += watts * there as f64,
            (None, Some(there)) => hot.extend(std::iter::repeat_n(watts, there)),
            (None, None) => hot.extend(std::iter::repeat_n(watts, job.gang as usize)),
        }
    }
    hot.sort_by(|a, b| b.total_cmp(a));
    sum + hot.iter().take(places).sum::<f64>()
}

pub fn verified(problem: &Problem) -> Solution {
    let plan = solve(problem, Limits::default());
    assert_eq!(check(problem, &plan), []);
    assert_eq!(check_bound(problem, &plan), []);
    plan
}
