//! How fast and how good plans are. Prints JSON lines
//! `{"name","unit","ours","theirs","ratio","peer"}`; the peers run here, on the
//! same instances: every job as soon as it fits, and every job in its own
//! best hours, moved aside where the hall is full.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark measures real time, prints its figures and may stop at the first fault"
)]

use heliostat_models::{JobClass, JobId, Timestamp, Watts};
use heliostat_optimizer::plan::check::{check, check_bound, cost};
use heliostat_optimizer::plan::problem::{Job, Level, Problem, Schedule, Slot};
use heliostat_optimizer::plan::solve::{Limits, solve};
use std::time::Instant;

/// Instances of each size.
const SEEDS: u64 = 5;

fn main() {
    for (name, devices, jobs) in [("demo", 256, 45), ("hall", 1_024, 120)] {
        let mut sum = Sums::default();
        for seed in 0..SEEDS {
            let problem = instance(seed, devices, jobs);
            let begin = Instant::now();
            let plan = solve(&problem, Limits::default());
            let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
            assert_eq!(check(&problem, &plan), []);
            assert_eq!(check_bound(&problem, &plan), []);
            sum.time += milliseconds;
            sum.slowest = sum.slowest.max(milliseconds);
            let gap = (plan.primal - plan.bound) / plan.primal.abs().max(1.0);
            sum.gap += gap;
            sum.widest = sum.widest.max(gap);
            sum.ours += plan.primal;
            sum.bound += plan.bound;
            sum.soonest += cost(&problem, &as_soon_as_possible(&problem));
            sum.best_hours += cost(&problem, &best_hours_repaired(&problem));
            if std::env::var_os("HELIOSTAT_BENCH_VERBOSE").is_some() {
                eprintln!(
                    "{name} {seed}: {milliseconds:.0} ms gap {gap:.4} {:?}",
                    plan.effort
                );
            }
        }
        sum.print(name, jobs);
    }
}

#[derive(Default)]
struct Sums {
    time: f64,
    slowest: f64,
    gap: f64,
    widest: f64,
    ours: f64,
    bound: f64,
    soonest: f64,
    best_hours: f64,
}

impl Sums {
    fn print(&self, name: &str, jobs: usize) {
        let n = SEEDS as f64;
        line(
            &format!("plan_{name}_{jobs}_jobs_time_mean"),
            "ms",
            self.time / n,
            None,
        );
        line(
            &format!("plan_{name}_{jobs}_jobs_time_max"),
            "ms",
            self.slowest,
            None,
        );
        line(&format!("plan_{name}_gap_mean"), "1", self.gap / n, None);
        line(&format!("plan_{name}_gap_max"), "1", self.widest, None);
        for (name_of, peer, theirs) in [
            ("vs_soonest", "as soon as possible", self.soonest),
            (
                "vs_best_hours",
                "best hours a job, repaired",
                self.best_hours,
            ),
            ("vs_bound", "lower bound", self.bound),
        ] {
            let theirs = Some((theirs / n, peer));
            line(
                &format!("plan_{name}_objective_{name_of}"),
                "kWh at mean price",
                self.ours / n,
                theirs,
            );
        }
    }
}

fn line(name: &str, unit: &str, ours: f64, theirs: Option<(f64, &str)>) {
    println!(
        "{}",
        serde_json::json!({
            "name": name,
            "unit": unit,
            "ours": ours,
            "theirs": theirs.map(|t| t.0),
            "ratio": theirs.map(|t| ours / t.0),
            "peer": theirs.map(|t| t.1),
        })
    );
}

/// A hall, about three quarters busy over two days, and a grid whose hours differ.
fn instance(seed: u64, devices: u32, jobs: usize) -> Problem {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut wind = 0.0f64;
    let mut costs: Vec<f64> = (0..192)
        .map(|t| {
            wind = 0.97 * wind + 0.06 * (random.f64() - 0.5);
            let sun = (f64::from(t) / 96.0 * std::f64::consts::TAU).cos();
            (1.0 + 0.25 * sun + wind).max(0.1)
        })
        .collect();
    let mean = costs.iter().sum::<f64>() / 192.0;
    costs.iter_mut().for_each(|c| *c /= mean);
    let power = f64::from(devices) * 500.0 * 0.72;
    let event = 60..76;
    let slots = costs
        .iter()
        .enumerate()
        .map(|(t, cost)| Slot {
            each: Watts::ZERO,
            power: Watts(if event.contains(&t) {
                power * 0.65
            } else {
                power
            }),
            cost: *cost,
        })
        .collect();
    let mut list = Vec::new();
    let mut busy = 0.0;
    for index in 0..jobs {
        let job = random_job(&mut random, index, devices);
        let hours = f64::from(job.gang) * f64::from(job.work.min(768)) / 16.0;
        if busy + hours < f64::from(devices) * 48.0 * 0.78 {
            busy += hours;
            list.push(job);
        }
    }
    Problem {
        start: Timestamp::from_seconds(1_550_000_000),
        slot_hours: 0.25,
        devices,
        slots,
        jobs: list,
        contracts: Vec::new(),
    }
}

fn random_job(random: &mut fastrand::Rng, index: usize, devices: u32) -> Job {
    let unit = devices / 256;
    let (class, gang, hours, hold) = match index % 10 {
        0 => (JobClass::Inference, random.u32(1..=3) * 8, 100.0, 5.0),
        1 | 2 => (
            JobClass::Training,
            random.u32(4..=8) * 8,
            6.0 + 12.0 * random.f64(),
            0.005,
        ),
        3..=6 => (
            JobClass::FineTuning,
            random.u32(1..=2) * 8,
            2.0 + 6.0 * random.f64(),
            0.01,
        ),
        _ => (
            JobClass::Experiment,
            random.u32(1..=8),
            0.5 + 3.0 * random.f64(),
            0.3,
        ),
    };
    let gang = gang * unit.max(1);
    let inference = class == JobClass::Inference;
    let release = if index.is_multiple_of(3) {
        0
    } else {
        random.usize(0..96)
    };
    let work = (hours * 16.0) as u32;
    let slack = 1.5 + 2.0 * random.f64();
    let spread = f64::from(gang) * 0.25;
    let levels = [(4u32, 600.0f64), (3, 400.0), (2, 290.0)];
    Job {
        id: JobId::from(format!("job-{index:03}")),
        class,
        gang,
        work,
        levels: levels
            .into_iter()
            .filter(|(quanta, _)| !inference || *quanta > 2)
            .map(|(quanta, watts)| Level {
                cap: Watts(watts),
                power: Watts(watts - 200.0),
                speed: 0.96 * f64::from(quanta) / 4.0,
                quanta,
                energy: (watts - 70.0) / 4_000.0,
                slow: 2.0 * 0.96 * (1.0 - f64::from(quanta) / 4.0) * 0.25,
            })
            .collect(),
        release,
        deadline: (!inference && random.bool())
            .then(|| release as i64 + (hours * 4.0 * slack) as i64),
        interruptible: !inference,
        running: release == 0 && index.is_multiple_of(2),
        pause: f64::from(gang) * 0.53 * 8.0 / 60.0,
        hold: hold * spread,
        late: spread,
        terminal: f64::from(gang) * 0.1325 / 4.0 * 1.15,
        home: None,
    }
}

/// Room that is left: devices and watts by slot.
struct Room(Vec<(u32, f64)>);

impl Room {
    fn new(problem: &Problem) -> Self {
        let room = |s: &Slot| (problem.devices, s.power.0);
        Self(problem.slots.iter().map(room).collect())
    }
    /// The fastest level that fits in a slot; what must go on fits always.
    fn take(&mut self, job: &Job, slot: usize) -> Option<u8> {
        let gang = f64::from(job.gang);
        let (devices, watts) = &mut self.0[slot];
        let fits = |l: &Level| job.gang <= *devices && gang * l.power.0 <= *watts;
        let level = job.levels.iter().position(fits);
        let level = if job.pinned() {
            level.or(Some(job.levels.len() - 1))
        } else {
            level
        }?;
        *devices = devices.saturating_sub(job.gang);
        *watts -= gang * job.levels[level].power.0;
        Some(level as u8 + 1)
    }
}

/// First come, first served: what runs first, then by release.
fn by_release(problem: &Problem) -> Vec<usize> {
    let mut order: Vec<usize> = (0..problem.jobs.len()).collect();
    order.sort_by_key(|j| {
        let job = &problem.jobs[*j];
        (!job.pinned(), job.interruptible, !job.running, job.release)
    });
    order
}

/// Every job in the first slots in which it fits, without a pause once it
/// runs where it may not be paused.
fn as_soon_as_possible(problem: &Problem) -> Vec<Schedule> {
    in_order_of(problem, |_, t| t as f64)
}

/// Every job in its cheapest slots up to its deadline; where those are full,
/// in the next cheapest.
fn best_hours_repaired(problem: &Problem) -> Vec<Schedule> {
    in_order_of(problem, |job, t| {
        let late = job.deadline.is_some_and(|d| t as i64 >= d);
        if job.interruptible {
            problem.slots[t].cost + if late { 1e3 } else { 0.0 } + 1e-6 * t as f64
        } else {
            t as f64
        }
    })
}

fn in_order_of(problem: &Problem, key: impl Fn(&Job, usize) -> f64) -> Vec<Schedule> {
    let slots = problem.slots.len();
    let mut room = Room::new(problem);
    let mut plan = vec![Schedule::idle(slots); problem.jobs.len()];
    for index in by_release(problem) {
        let job = &problem.jobs[index];
        let mut order: Vec<usize> = (job.release..slots).collect();
        order.sort_by(|a, b| key(job, *a).total_cmp(&key(job, *b)));
        let mut left = job.work;
        for t in order {
            if left == 0 {
                break;
            }
            if let Some(level) = room.take(job, t) {
                plan[index].0[t] = level;
                left = left.saturating_sub(job.levels[usize::from(level) - 1].quanta);
            }
        }
    }
    plan
}
