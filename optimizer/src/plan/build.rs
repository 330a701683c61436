//! From a site, its jobs and an outlook to a [`Problem`].

use super::members::{self, ContractLimit};
use super::outlook::Outlook;
use super::policy::{PlanPolicy, SLOT};
use super::price::{self, Worker};
use super::problem::{Job, Level, Problem, QUANTA_A_SLOT, Slot};
use crate::check::IDLE_RESERVE;
use crate::grid_event::{Ask, GridEvent};
use crate::plan_service::PlanInput;
use heliostat_models::cooling::Plant;
use heliostat_models::site::ClassPolicy;
use heliostat_models::site::power::PowerNodeKind;
use heliostat_models::{Celsius, JobId, JobRecord, JobState, Site, Timestamp, Watts, weather};

/// Two levels closer than this are one.
const LEAST_LEVEL_STEP: Watts = Watts(5.0);

/// A problem, and what had to be left out of it.
#[derive(Clone, Debug)]
pub struct Built {
    /// For the solver.
    pub problem: Problem,
    /// Jobs that can never run here, and why.
    pub impossible: Vec<(JobId, String)>,
    /// What the site may draw, by slot.
    pub limits: Vec<SiteLimit>,
    /// What power contracts let through, in the order of the site file.
    pub contracts: Vec<ContractLimit>,
    /// Weighted work per hour that the mean watt buys.
    pub work_per_watt: f64,
    /// Highest settable cap of an accelerator.
    pub highest_cap: Watts,
}

/// What the site may draw in a slot.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteLimit {
    /// At the utility feed, less the margin.
    pub feed: Watts,
    /// For IT equipment.
    pub it: Watts,
    /// The grid event that limits it, where one does.
    pub event: Option<String>,
    /// What limits it, in a sentence.
    pub reason: String,
}

/// Makes the problem as of `now`; slot 0 begins at `start`.
pub fn build(
    now: Timestamp,
    start: Timestamp,
    input: &PlanInput,
    outlook: &Outlook,
    policy: &PlanPolicy,
) -> Built {
    let site = &*input.site;
    let devices = site.devices.len() as u32;
    let range = cap_range(site);
    let slot_hours = SLOT.as_secs_f64() / 3_600.0;
    let alive: Vec<&JobRecord> = input
        .jobs
        .iter()
        .filter(|j| !matches!(j.state, JobState::Completed | JobState::Cancelled))
        .collect();
    let work_per_watt = work_per_watt(site, &alive).unwrap_or(1.0 / range.1.0.max(1.0));

    let context = Context {
        now,
        start,
        slot_hours,
        policy,
    };
    let contracts = members::limits(input, outlook);
    let mut homes = members::homes(site, &alive);
    let mut impossible = Vec::new();
    let mut jobs = Vec::new();
    for record in alive {
        if record.gang_size == 0 || record.gang_size > devices {
            impossible.push((
                record.id.clone(),
                format!(
                    "needs {} devices at the same time, the site has {devices}; it is held until somebody changes that",
                    record.gang_size
                ),
            ));
            continue;
        }
        let class = class_policy(site, record);
        let lambda = policy.strength * work_per_watt;
        let levels = levels(record, &class, lambda, range, slot_hours, policy);
        let home = homes.remove(&record.id);
        jobs.extend(job(&context, record, &class, levels).map(|job| Job { home, ..job }));
    }
    jobs.sort_by(|a, b| a.id.cmp(&b.id));

    let limits = site_limits(site, &input.grid_events, outlook, start);
    // As the allocator counts. At breakers every device has its least cap,
    // whether it works or not, so only what goes beyond that is shared out;
    // pausing frees nothing below that, and a gang at its least cap takes
    // nothing. Under a grid event a device at rest has what it draws and a
    // reserve, and working takes the rest of the least cap too.
    let overhead: Watts = site.nodes.iter().map(|n| n.overhead).sum();
    let least: Watts = site.devices.iter().map(|d| d.min_cap).sum();
    let slots = limits
        .iter()
        .zip(&outlook.index)
        .map(|(limit, cost)| {
            let each = match limit.event {
                Some(_) => spared_at_rest(range, policy),
                None => Watts::ZERO,
            };
            let at_rest = least - each * f64::from(devices);
            Slot {
                power: (limit.it - overhead * policy.overhead_share - at_rest).max(Watts::ZERO),
                each,
                cost: *cost,
            }
        })
        .collect();
    Built {
        problem: Problem {
            start,
            slot_hours,
            devices,
            slots,
            jobs,
            contracts: contracts.iter().map(ContractLimit::for_solver).collect(),
        },
        impossible,
        limits,
        contracts,
        work_per_watt,
        highest_cap: range.1,
    }
}

/// The class's policy; a class that the site does not speak of has weight 1 and is never paused.
pub fn class_policy(site: &Site, record: &JobRecord) -> ClassPolicy {
    let unspoken = ClassPolicy {
        weight: 1.0,
        floor_speed: 0.0,
        interruptible: false,
        pause_minutes: 0.0,
    };
    site.classes.get(&record.class).copied().unwrap_or(unspoken)
}

/// Lowest and highest cap that any accelerator of the site can have.
fn cap_range(site: &Site) -> (Watts, Watts) {
    let mut caps = site.devices.iter().map(|d| (d.min_cap, d.max_cap));
    let first = caps.next().unwrap_or_default();
    caps.fold(first, |(low, high), (min, max)| {
        (low.min(min), high.max(max))
    })
}

/// By how much a device at rest counts for less than its least cap where a
/// grid event limits.
fn spared_at_rest(range: (Watts, Watts), policy: &PlanPolicy) -> Watts {
    (range.0 * (1.0 - IDLE_RESERVE) - range.1 * policy.idle_share).max(Watts::ZERO)
}

/// What the mean watt of the running jobs buys; of all jobs, where none runs.
fn work_per_watt(site: &Site, jobs: &[&JobRecord]) -> Option<f64> {
    let workers = |only_running: bool| {
        let chosen = jobs
            .iter()
            .filter(move |j| !only_running || j.state == JobState::Running)
            .map(|j| Worker {
                gang: j.gang_size,
                weight: class_policy(site, j).weight,
                curve: &j.curve,
            });
        price::mean_work_per_watt(chosen)
    };
    workers(true).or_else(|| workers(false))
}

/// The paces of a job: its base level, which is what the allocator will give it
/// in mean conditions; the cap at which it does 3/4 of that; and its least cap.
fn levels(
    record: &JobRecord,
    class: &ClassPolicy,
    lambda: f64,
    range: (Watts, Watts),
    slot_hours: f64,
    policy: &PlanPolicy,
) -> Vec<Level> {
    let curve = &record.curve;
    let base_cap = price::economic_cap(curve, class.weight, lambda, class.floor_speed, range);
    let base_speed = curve.speed(base_cap);
    // The worth of a device hour of work at cost index 1, in kilowatt hours: 1 / λ.
    let worth = class.weight / (1e3 * lambda.max(1e-9));
    let idle = range.1 * policy.idle_share;
    let level = |cap: Watts, quanta: u32| {
        let speed = curve.speed(cap);
        Level {
            cap,
            power: (cap - range.0).max(Watts::ZERO),
            speed,
            quanta,
            energy: (cap - idle).max(Watts::ZERO).kilowatts() * slot_hours,
            slow: worth * (base_speed - speed).max(0.0) * slot_hours,
        }
    };
    let floor_cap = price::cap_for_speed(curve, class.floor_speed);
    let least = range.0.max(floor_cap).min(base_cap);
    // Whole quanta only; what the least cap does beyond them is given away.
    let slowest = f64::from(QUANTA_A_SLOT) * curve.speed(least) / base_speed.max(1e-6);
    let slowest = (slowest + 1e-6).floor() as u32;
    let three_quarters = price::cap_for_speed(curve, 0.75 * base_speed).max(least);
    let mut levels = vec![level(base_cap, QUANTA_A_SLOT)];
    if three_quarters <= base_cap - LEAST_LEVEL_STEP {
        levels.push(level(three_quarters, 3));
    }
    let last = levels[levels.len() - 1];
    if least <= last.cap - LEAST_LEVEL_STEP && slowest >= 1 {
        levels.push(level(least, slowest.min(last.quanta)));
    }
    levels
}

/// When the plan is made, and how.
struct Context<'a> {
    now: Timestamp,
    start: Timestamp,
    slot_hours: f64,
    policy: &'a PlanPolicy,
}

/// A job in the planner's terms; `None` when it has no pace to run at.
fn job(
    context: &Context<'_>,
    record: &JobRecord,
    class: &ClassPolicy,
    levels: Vec<Level>,
) -> Option<Job> {
    let Context {
        now,
        start,
        slot_hours,
        policy,
    } = *context;
    let base = *levels.first()?;
    let quanta = f64::from(QUANTA_A_SLOT) * record.remaining_hours.max(0.0)
        / (base.speed.max(1e-6) * slot_hours);
    let work = (quanta - 1e-6).ceil().clamp(0.0, 1e9) as u32;
    let gang = f64::from(record.gang_size);
    let running = record.state == JobState::Running;
    let slot_seconds = SLOT.as_secs_f64();
    let release = if record.release <= now {
        0
    } else {
        (record.release.seconds_since(start) / slot_seconds)
            .ceil()
            .max(0.0) as usize
    };
    // Counted from now, not from the begin of the slot: better a little early than late.
    let deadline = record
        .deadline
        .map(|d| (d.seconds_since(now) / slot_seconds).floor() as i64);
    let hold = gang * policy.waiting(record.class) * slot_hours;
    let late = gang * policy.lateness * class.weight.max(0.0) * slot_hours;
    // A quantum at the mean price of 1, as at the base level.
    let quantum = gang * base.energy / f64::from(QUANTA_A_SLOT);
    Some(Job {
        id: record.id.clone(),
        class: record.class,
        gang: record.gang_size,
        work,
        release,
        deadline,
        interruptible: class.interruptible,
        running,
        // What is lost between checkpoint and restart is done and paid twice.
        pause: gang * base.energy / slot_hours * class.pause_minutes.max(0.0) / 60.0,
        hold,
        late,
        terminal: quantum * (1.0 + policy.terminal_premium) + hold / f64::from(QUANTA_A_SLOT),
        home: None,
        levels,
    })
}

/// What the power tree can deliver to IT equipment in each slot, and what the
/// feed may draw.
fn site_limits(
    site: &Site,
    events: &[GridEvent],
    outlook: &Outlook,
    start: Timestamp,
) -> Vec<SiteLimit> {
    let usable = 1.0 - site.control.margin.clamp(0.0, 1.0);
    let roots: Vec<_> = site
        .power
        .nodes()
        .iter()
        .filter(|n| n.parents.is_empty())
        .collect();
    let feed: Watts = roots.iter().map(|n| n.limit).sum();
    let names: Vec<&str> = roots.iter().map(|n| n.id.as_str()).collect();
    let of_feed = format!(
        "limit of {} ({:.0} kW, less a margin of {:.0} %)",
        names.join(" and "),
        feed.kilowatts(),
        100.0 * (1.0 - usable)
    );
    (0u32..)
        .zip(&outlook.pue)
        .map(|(t, pue)| {
            let below = deliverable_below_roots(site, *pue);
            let from = start + SLOT * t;
            let to = from + SLOT;
            let mut limit = SiteLimit {
                feed: feed * usable,
                it: feed * usable / *pue,
                event: None,
                reason: of_feed.clone(),
            };
            for event in events.iter().filter(|e| e.from < to && e.to > from) {
                let asked = match event.ask {
                    Ask::Limit(watts) => watts,
                    Ask::ReduceBy(share) => feed * (1.0 - share.clamp(0.0, 1.0)),
                };
                if asked * usable < limit.feed {
                    limit.feed = asked * usable;
                    limit.it = asked * usable / *pue;
                    limit.event = Some(event.id.clone());
                    limit.reason = format!(
                        "grid event {} ({:.0} kW, less a margin of {:.0} %): {}",
                        event.id,
                        asked.kilowatts(),
                        100.0 * (1.0 - usable),
                        event.reason
                    );
                }
            }
            if below * usable < limit.it {
                limit.it = below * usable;
                limit.event = None;
                limit.feed = limit.feed.min(below * usable * *pue);
                limit.reason = format!(
                    "limits below the feed let {:.0} kW through to the racks, less a margin of {:.0} %",
                    below.kilowatts(),
                    100.0 * (1.0 - usable)
                );
            }
            limit
        })
        .collect()
}

/// The most IT power that the limits below the roots let through: from the
/// leaves up, a node passes on no more than its limit. Feeds and transformers
/// carry the cooling too, all below them IT power only. Where a node has two
/// feeds each is counted as able to carry all.
fn deliverable_below_roots(site: &Site, pue: f64) -> Watts {
    let nodes = site.power.nodes();
    let mut children = vec![Watts::ZERO; nodes.len()];
    for node in &site.nodes {
        let peak: Watts = site.devices[node.devices.clone()]
            .iter()
            .map(|d| d.max_cap)
            .sum::<Watts>()
            + node.overhead;
        children[node.power_node] += peak;
    }
    let mut total = Watts::ZERO;
    for (index, node) in nodes.iter().enumerate().rev() {
        if node.parents.is_empty() {
            total += children[index];
            continue;
        }
        let carries_cooling = matches!(
            node.kind,
            PowerNodeKind::UtilityFeed | PowerNodeKind::Transformer
        );
        let limit = node.limit / if carries_cooling { pue } else { 1.0 };
        let passed = children[index].min(limit);
        // A second feed carries the same load, not another one.
        if let Some(parent) = node.parents.first() {
            children[*parent] += passed;
        }
    }
    total
}

/// Expected power at the feed when `running` is what the jobs' caps add up to
/// on `busy` devices.
pub fn expected_power(
    site: &Site,
    running: Watts,
    busy: u32,
    pue: f64,
    policy: &PlanPolicy,
) -> Watts {
    let overhead: Watts = site.nodes.iter().map(|n| n.overhead).sum();
    let idle_devices = site.devices.len() as f64 - f64::from(busy);
    let idle = cap_range(site).1 * policy.idle_share * idle_devices.max(0.0);
    (overhead * policy.overhead_share + idle + running) * pue
}

/// Site power over IT power by slot: the plant's model at the temperatures
/// that are usual for the place, day and hour, scaled so that it agrees with
/// what the meters say now, where both of them speak.
pub fn pue(input: &PlanInput, start: Timestamp, slots: usize, policy: &PlanPolicy) -> Vec<f64> {
    let site = &*input.site;
    let overhead: Watts = site.nodes.iter().map(|n| n.overhead).sum();
    let full = overhead + site.devices.iter().map(|d| d.max_cap).sum::<Watts>();
    let plant = Plant::new(&site.cooling, full, weather::annual_mean(site.latitude));
    let load = input.it_power.filter(|p| p.0 > 0.0);
    let load = load.unwrap_or(full * policy.usual_load);
    let model: Vec<f64> = (0..slots as u32)
        .map(|t| {
            let outdoor = usual_temperature(site, start + SLOT * t);
            let pue = plant.facility(load, outdoor).pue(load);
            pue.unwrap_or(site.cooling.design_pue).max(1.0)
        })
        .collect();
    let measured = match (input.site_power, input.it_power) {
        (Some(site), Some(it)) if it.0 > 0.0 => Some(site / it),
        _ => None,
    };
    // Meters that disagree with all physics are not followed.
    let measured = measured.filter(|p| (1.0..3.0).contains(p));
    let scale = match (measured, model.first()) {
        (Some(measured), Some(first)) if *first > 1.0 => (measured - 1.0) / (first - 1.0),
        _ => 1.0,
    };
    model.iter().map(|p| 1.0 + (p - 1.0) * scale).collect()
}

/// The mean over many possible weathers.
fn usual_temperature(site: &Site, at: Timestamp) -> Celsius {
    const WEATHERS: u32 = 8;
    let sum: Celsius = (0..WEATHERS)
        .map(|seed| weather::outdoor(site.latitude, site.longitude, at, u64::from(seed)))
        .sum();
    sum / f64::from(WEATHERS)
}
