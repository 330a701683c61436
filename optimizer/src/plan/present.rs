//! The plan as people and the allocator read it: stretches with a reason,
//! budgets and the price of energy by slot.

use super::build::{Built, SiteLimit, expected_power};
use super::contract_view::{Book, beyond_help};
use super::cost::POWER_SLACK;
use super::outlook::{Expected, Outlook, mean};
use super::policy::{PlanPolicy, SLOT};
use super::price::price_of_energy;
use super::problem::{Job, Problem, QUANTA_A_SLOT, Schedule, Solution};
use super::ramps::{Ramps, seconds_to_make_up};
use crate::plan_service::PlanInput;
use crate::view::PlannedJob;
use heliostat_models::{
    BudgetSlot, EurosPerMegawattHour, GramsPerKilowattHour, JobClass, Site, Timestamp, Watts,
};

/// The site's budget by slot.
pub fn slots(
    site: &Site,
    built: &Built,
    outlook: &Outlook,
    plan: &Solution,
    policy: &PlanPolicy,
) -> Vec<BudgetSlot> {
    let problem = &built.problem;
    let book = Book::new(problem, plan);
    let at = |series: &Option<Vec<Expected>>, t: usize| {
        series.as_ref().and_then(|s| s.get(t)).map(|e| e.value)
    };
    (0..problem.slots.len())
        .map(|t| {
            let (busy, running) = taken(problem, plan, t);
            let start = instant(problem, t);
            let renewable = at(&outlook.renewable, t);
            let limit = &built.limits[t];
            BudgetSlot {
                start,
                end: start + SLOT,
                power: limit.feed,
                planned: expected_power(site, running, busy, outlook.pue[t], policy),
                price_of_energy: price_of_energy(
                    built.work_per_watt,
                    outlook.index[t],
                    renewable,
                    policy,
                ),
                carbon: at(&outlook.carbon, t).map(GramsPerKilowattHour),
                price: at(&outlook.price, t).map(EurosPerMegawattHour),
                renewable,
                quality: outlook.quality(),
                reason: slot_reason(&book, problem, plan, t, busy, &limit.reason)
                    + &beyond_help(&built.contracts, t),
            }
        })
        .collect()
}

/// Devices in use and the sum of their caps in a slot.
fn taken(problem: &Problem, plan: &Solution, slot: usize) -> (u32, Watts) {
    let mut busy = 0;
    let mut running = Watts::ZERO;
    for (job, schedule) in problem.jobs.iter().zip(&plan.schedules) {
        if let Some(level) = schedule.level(slot) {
            busy += job.gang;
            running += job.levels[level].cap * f64::from(job.gang);
        }
    }
    (busy, running)
}

/// What binds in a slot: what has a price there.
fn slot_reason(
    book: &Book<'_>,
    problem: &Problem,
    plan: &Solution,
    slot: usize,
    busy: u32,
    limit: &str,
) -> String {
    let (device, watt) = plan.prices.get(slot).copied().unwrap_or_default();
    let all = problem.devices;
    let contracts = book.binding(slot);
    if !contracts.is_empty() {
        let too = if watt * 1e3 > 1e-6 {
            ", and so does power"
        } else {
            ""
        };
        let (s, bind) = if contracts.len() > 1 {
            ("s", "bind")
        } else {
            ("", "binds")
        };
        format!(
            "{limit}; power contract{s} {} {bind}{too}; {busy} of {all} devices are planned",
            contracts.join(" and ")
        )
    } else if watt * 1e3 > 1e-6 {
        format!("{limit}; power binds, {busy} of {all} devices are planned")
    } else if device > 1e-6 {
        format!("{limit}; the number of devices binds: {busy} of {all} are planned")
    } else {
        format!("{limit}; nothing binds, {busy} of {all} devices are planned")
    }
}

/// Every job's place in the plan, by id.
pub fn jobs(
    input: &PlanInput,
    built: &Built,
    outlook: &Outlook,
    plan: &Solution,
) -> Vec<PlannedJob> {
    let problem = &built.problem;
    let teller = Teller {
        problem,
        outlook,
        plan,
        limits: &built.limits,
        book: Book::new(problem, plan),
        lost: Ramps::new(&input.site)
            .map(|ramps| ramps.lost(problem, plan, &power_now(input, problem))),
    };
    let mut jobs: Vec<PlannedJob> = problem
        .jobs
        .iter()
        .zip(&plan.schedules)
        .enumerate()
        .map(|(place, (job, schedule))| {
            let record = input.jobs.iter().find(|r| r.id == job.id);
            PlannedJob {
                job: job.id.clone(),
                runs: runs(problem, job, schedule, built.highest_cap),
                reason: teller.reason(place, schedule, record.and_then(|r| r.deadline)),
            }
        })
        .collect();
    jobs.extend(built.impossible.iter().map(|(job, reason)| PlannedJob {
        job: job.clone(),
        runs: Vec::new(),
        reason: reason.clone(),
    }));
    jobs.sort_by(|a, b| a.job.cmp(&b.job));
    jobs
}

/// What the devices of each job have now above their least caps, by the one with the
/// lowest cap; nothing where that is not known.
fn power_now(input: &PlanInput, problem: &Problem) -> Vec<Watts> {
    let of_job = |job: &Job| {
        let record = input.jobs.iter().find(|r| r.id == job.id)?;
        let caps = record.devices.iter().map(|d| input.caps.get(d).copied());
        let caps: Option<Vec<Watts>> = caps.collect();
        let lowest = caps?.into_iter().reduce(Watts::min)?;
        let base = job.levels.first()?;
        Some((lowest - (base.cap - base.power)).max(Watts::ZERO))
    };
    let jobs = problem.jobs.iter();
    jobs.map(|job| of_job(job).filter(|_| job.running).unwrap_or(Watts::ZERO))
        .collect()
}

/// Stretches of one level; the level relative to the highest settable cap.
fn runs(
    problem: &Problem,
    job: &Job,
    schedule: &Schedule,
    highest: Watts,
) -> Vec<(Timestamp, Timestamp, f64)> {
    let mut runs: Vec<(Timestamp, Timestamp, f64)> = Vec::new();
    for t in 0..problem.slots.len() {
        let Some(level) = schedule.level(t) else {
            continue;
        };
        let share = (job.levels[level].cap / highest.max(Watts(1.0))).clamp(0.0, 1.0);
        let (from, to) = (instant(problem, t), instant(problem, t + 1));
        match runs.last_mut() {
            Some(last) if last.1 == from && last.2 == share => last.1 = to,
            _ => runs.push((from, to, share)),
        }
    }
    runs
}

fn instant(problem: &Problem, slot: usize) -> Timestamp {
    problem.start + SLOT * slot as u32
}

/// Tells why a job stands where it stands.
struct Teller<'a> {
    problem: &'a Problem,
    outlook: &'a Outlook,
    plan: &'a Solution,
    limits: &'a [SiteLimit],
    book: Book<'a>,
    /// Quanta that jobs may lose to ramp limits, where there are any.
    lost: Option<Vec<f64>>,
}

impl Teller<'_> {
    fn reason(&self, place: usize, schedule: &Schedule, deadline: Option<Timestamp>) -> String {
        let job = &self.problem.jobs[place];
        let first = (0..self.problem.slots.len()).find(|t| schedule.level(*t).is_some());
        let late = self.late(place, schedule, deadline);
        let why = match first {
            _ if job.work == 0 => "all its work is done".to_owned(),
            None => self.never(place),
            Some(first) if !job.interruptible => self.unbroken(place, schedule, first),
            Some(first) => self.shifted(place, schedule, first),
        };
        match late {
            Some(late) => format!("{why}; {late}"),
            None => why,
        }
    }

    /// A job that does not run within the horizon.
    fn never(&self, place: usize) -> String {
        let job = &self.problem.jobs[place];
        let all = self.problem.slots.len();
        if job.release >= all {
            return "is released only after the horizon".to_owned();
        }
        let obstacles = self.obstacles(place, job.release..all);
        if !obstacles.is_empty() {
            return format!("does not run within the horizon: {}", obstacles.join("; "));
        }
        "waits: every hour of the horizon costs more than the mean that work put off is valued at"
            .to_owned()
    }

    fn unbroken(&self, place: usize, schedule: &Schedule, first: usize) -> String {
        let job = &self.problem.jobs[place];
        let what = match job.class {
            JobClass::Inference => "serves requests, so it is never paused",
            _ => "may not be interrupted",
        };
        if job.running {
            let exceeded = self.book.exceeded(place, schedule);
            if exceeded.is_empty() {
                return format!("runs and {what}");
            }
            return format!(
                "runs and {what}; power contract {} leaves less than it needs, so control may slow it below what its class is promised",
                exceeded.join(" and ")
            );
        }
        if first <= job.release {
            return format!("{what}; starts at its release");
        }
        let until = instant(self.problem, first);
        let why = self.why_not(place, &(job.release..first).collect::<Vec<_>>());
        format!("{what}; waits until {until}{why}")
    }

    fn shifted(&self, place: usize, schedule: &Schedule, first: usize) -> String {
        let job = &self.problem.jobs[place];
        let chosen = slots_of(self.problem, schedule);
        let soonest: Vec<usize> = (job.release..self.problem.slots.len())
            .take(chosen.len())
            .collect();
        if chosen == soonest {
            let spare = job.deadline.map(|d| d - job.release as i64 - needs(job));
            return match spare {
                Some(spare) if spare <= 0 => {
                    "runs at once: its deadline leaves no time to wait".to_owned()
                }
                _ if self.outlook.carbon.is_none() && self.outlook.price.is_none() => {
                    "runs as soon as possible: there is no forecast of the grid".to_owned()
                }
                _ => "runs at once: waiting would not make it better".to_owned(),
            };
        }
        let waits = if first > job.release {
            format!("waits until {}", instant(self.problem, first))
        } else {
            let pauses = chosen.windows(2).filter(|w| w[1] != w[0] + 1).count();
            match pauses {
                0 => "runs now".to_owned(),
                1 => "runs now, pauses once".to_owned(),
                n => format!("runs now, pauses {n} times"),
            }
        };
        let last = chosen.last().map_or(first, |t| *t);
        let still: Vec<usize> = (job.release..last)
            .filter(|t| schedule.level(*t).is_none())
            .collect();
        let mut reasons = self.obstacles(place, still.iter().copied());
        reasons.extend(self.gain(&chosen, &soonest));
        if reasons.is_empty() {
            return format!("{waits}{}", self.why_not(place, &still));
        }
        format!("{waits}: {}", reasons.join("; "))
    }

    /// Why it stands still in these slots, where no gain of its own says it.
    fn why_not(&self, place: usize, still: &[usize]) -> String {
        let obstacles = self.obstacles(place, still.iter().copied());
        if !obstacles.is_empty() {
            return format!(": {}", obstacles.join("; "));
        }
        let scarce = |price: &dyn Fn(&(f64, f64)) -> f64| {
            (still.iter()).any(|t| self.plan.prices.get(*t).is_some_and(|p| price(p) > 1e-6))
        };
        let binding = still.iter().flat_map(|t| self.book.binding(*t)).next();
        if let Some(contract) = binding {
            format!(
                ": below power contract {contract} power is short meanwhile, and other jobs make more of it"
            )
        } else if scarce(&|p| p.1 * 1e3) {
            ": power is short meanwhile, and other jobs make more of it".to_owned()
        } else if scarce(&|p| p.0) {
            ": devices are short meanwhile, and other jobs make more of them".to_owned()
        } else {
            ": all jobs together cost less so".to_owned()
        }
    }

    /// What keeps a job from running in these slots, whatever it would gain:
    /// what a grid event allows, other limits, power contracts, devices that others hold.
    fn obstacles(&self, place: usize, slots: impl Iterator<Item = usize>) -> Vec<String> {
        let job = &self.problem.jobs[place];
        let schedule = &self.plan.schedules[place];
        let mut said: Vec<String> = Vec::new();
        for t in slots {
            let (busy, watts) = self.others(job, t);
            let slot = &self.problem.slots[t];
            let least = (0..job.levels.len())
                .map(|l| job.takes(l, slot))
                .fold(f64::INFINITY, f64::min);
            let mut reasons = Vec::new();
            if watts + least > slot.power.0 + POWER_SLACK {
                reasons.push(match &self.limits[t].event {
                    Some(event) => format!("grid event {event} leaves too little power for it"),
                    None => "the limits leave too little power for it".to_owned(),
                });
            }
            // As soon as it stands still, it may come back on any devices.
            let at_home = t <= job.stays(schedule) && job.running && job.home.is_some();
            for (contract, alone) in self.book.obstacles(place, t, at_home) {
                reasons.push(if alone {
                    format!("power contract {contract} leaves too little power for it on devices that it may be given, even were it alone")
                } else {
                    format!("power contract {contract} leaves too little power for it beside other jobs")
                });
            }
            if busy + job.gang > self.problem.devices {
                reasons.push(format!("other jobs hold the {} devices it needs", job.gang));
            }
            for reason in reasons {
                if !said.contains(&reason) {
                    said.push(reason);
                }
            }
        }
        said
    }

    /// What the chosen slots have on the mean over the soonest ones, where it is a gain.
    fn gain(&self, chosen: &[usize], soonest: &[usize]) -> Option<String> {
        let over = |slots: &[usize], series: &[Expected]| {
            mean(slots.iter().filter_map(|t| series.get(*t)).map(|e| e.value))
        };
        if let Some(carbon) = &self.outlook.carbon {
            let (then, now) = (over(chosen, carbon), over(soonest, carbon));
            if then + 1.0 <= now {
                return Some(format!(
                    "{then:.0} gCO2e/kWh on the mean while it runs, {now:.0} had it run at once"
                ));
            }
        }
        if let Some(price) = &self.outlook.price {
            let (then, now) = (over(chosen, price), over(soonest, price));
            if then + 0.1 <= now {
                return Some(format!(
                    "{then:.1} EUR/MWh on the mean while it runs, {now:.1} had it run at once"
                ));
            }
        }
        let index = |slots: &[usize]| mean(slots.iter().map(|t| self.outlook.index[*t]));
        let (then, now) = (index(chosen), index(soonest));
        (then + 0.005 <= now).then(|| {
            format!("its energy, cooling included, costs {then:.2} of the mean, {now:.2} had it run at once")
        })
    }

    fn late(
        &self,
        place: usize,
        schedule: &Schedule,
        deadline: Option<Timestamp>,
    ) -> Option<String> {
        let job = &self.problem.jobs[place];
        let deadline = deadline?;
        let done: u32 = (0..self.problem.slots.len())
            .filter_map(|t| schedule.level(t))
            .map(|l| job.levels[l].quanta)
            .sum();
        let end = if done >= job.work {
            instant(self.problem, slots_of(self.problem, schedule).last()? + 1)
        } else {
            let more = (job.work - done).div_ceil(QUANTA_A_SLOT);
            instant(self.problem, self.problem.slots.len() + more as usize)
        };
        // Finer than a slot the plan cannot tell.
        let hours = end.seconds_since(deadline) / 3_600.0 - self.problem.slot_hours;
        if job.work > 0 && hours > 0.0 {
            return Some(format!(
                "its deadline {deadline} is missed by about {hours:.1} h"
            ));
        }
        let lost = self.lost.as_ref()?.get(place)?;
        let later = seconds_to_make_up(job, schedule, *lost);
        let over = end.seconds_since(deadline) + later;
        (job.work > 0 && over > 0.0).then(|| {
            format!(
                "its deadline {deadline} may be missed by up to {:.0} min: caps rise only as fast as ramp limits let them, which may cost it {:.0} min",
                (over / 60.0).ceil(),
                (later / 60.0).ceil()
            )
        })
    }

    /// Devices and watts that other jobs take of a slot.
    fn others(&self, job: &Job, slot: usize) -> (u32, f64) {
        let (mut busy, mut watts) = (0, 0.0);
        for (other, schedule) in self.problem.jobs.iter().zip(&self.plan.schedules) {
            if other.id != job.id
                && let Some(level) = schedule.level(slot)
            {
                busy += other.gang;
                watts += other.takes(level, &self.problem.slots[slot]);
            }
        }
        (busy, watts)
    }
}

fn needs(job: &Job) -> i64 {
    i64::from(job.work.div_ceil(QUANTA_A_SLOT))
}

fn slots_of(problem: &Problem, schedule: &Schedule) -> Vec<usize> {
    (0..problem.slots.len())
        .filter(|t| schedule.level(*t).is_some())
        .collect()
}
