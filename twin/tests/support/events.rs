//! One grid event after the other, of random depth at random moments, and what
//! became of each.
//!
//! From the signal until the site's power has stayed below the limit, the
//! site's clock is the wall clock: network, agents, controller, the broker and
//! the hall itself take the time that they take. Between events a second of
//! the site is as short as all of them can bear.

use super::{START, Setup, World, jobs, lock, site};
use heliostat_models::JobClass::{self, Experiment, Inference, Training};
use heliostat_models::{JobRecord, JobState, Timestamp, Watts};
use heliostat_optimizer::control::ControlHandle;
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_optimizer::view::CapView;
use heliostat_store::Clock;
use heliostat_twin::Hall;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The deepest reduction that is asked for, and the shallowest.
const DEEPEST: f64 = 0.30;
const SHALLOWEST: f64 = 0.05;
/// Longest wait for power to fall and stay (the two seconds included).
const PATIENCE: Duration = Duration::from_secs(20);
/// Seconds over which power is averaged before an event.
const MEAN: u64 = 3;
/// Seconds that an event goes on after it has been complied with.
const HOLD: u64 = 5;

/// Seconds from the signal to power below the limit, at most; and to the last cap.
pub const WITHIN: f64 = 5.0;
/// Speed that every service keeps: the classes' floor of 0.6, less what a
/// measured draw may be off by.
const SERVICE: f64 = 0.58;
/// Share of the power that must be back after an event, and within how many
/// seconds of the site's. Jobs come and go in between.
const BACK: (f64, u64) = (0.95, 40);
/// Watts by which mean caps of two classes may differ and still be the same:
/// a job that has just begun has the caps that it found.
const SAME: f64 = 5.0;
/// Seconds after which a job that begins in an event must have its level: the
/// next round gives it.
const BEGINNING: f64 = 5.0;
/// Files and sockets that an agent and its way to the broker take.
const FILES_OF_AGENT: u64 = 10;

/// Mean speed of the devices of each class, relative to full speed.
pub type Speeds = BTreeMap<JobClass, f64>;

/// What became of one event.
pub struct Outcome {
    /// Share of what was drawn that was to be shed.
    pub share: f64,
    /// Seconds from the signal to power below the limit, where it stayed for
    /// 2 s; the clock of the site was the wall clock.
    pub complied: Option<f64>,
    /// Wall seconds from the signal until control knew that every device of the
    /// site has no more than it had decided: the last cap was applied and read
    /// back before.
    pub confirmed: Option<f64>,
    /// Times that the limit was broken again.
    pub broken: u64,
    /// Share of what was drawn that was shed beyond what was asked.
    pub beyond: f64,
    /// Seconds after the event until power was back.
    pub back: Option<u64>,
    /// Speeds before, and while the event was on.
    pub before: Speeds,
    pub during: Speeds,
    /// Mean cap of the devices that each class held in the end, watts.
    pub caps: BTreeMap<JobClass, f64>,
    /// The slowest service while the event was on, and for how many seconds it
    /// had run.
    pub slowest_service: (f64, f64),
}

impl Outcome {
    /// What is wrong with it; empty when all is as promised.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut must = |sound: bool, fault: String| {
            if !sound {
                faults.push(fault);
            }
        };
        let within = |seconds: Option<f64>| seconds.is_some_and(|s| s <= WITHIN);
        must(
            within(self.complied),
            format!("met after {:?} s", self.complied),
        );
        must(
            within(self.confirmed),
            format!("all caps after {:?} s", self.confirmed),
        );
        must(self.broken == 0, "the limit was not kept".to_owned());
        must(
            self.slowest_service.0 >= SERVICE,
            format!(
                "a service at {:.2}, {:.1} s after it began",
                self.slowest_service.0, self.slowest_service.1
            ),
        );
        // Who gives first: the lower class has the lower caps, down to the lowest.
        let order = [Experiment, Training, Inference];
        let caps: Vec<f64> = (order.iter())
            .filter_map(|class| self.caps.get(class).copied())
            .collect();
        must(
            caps.windows(2).all(|pair| pair[0] <= pair[1] + SAME),
            format!("{order:?} have caps of {caps:.0?} W"),
        );
        must(self.back.is_some(), "the power is not back".to_owned());
        faults
    }
}

/// A hall of at least so many devices, full of jobs that come and go for so
/// many targets, under one controller that has settled.
pub async fn busy(devices: usize, targets: usize) -> World {
    let site = site(devices);
    let agents = site.nodes.len() as u64;
    let (needed, allowed) = (FILES_OF_AGENT * agents + 256, open_files());
    assert!(
        allowed.is_none_or(|allowed| allowed >= needed),
        "{agents} agents in one process open up to {needed} files, {allowed:?} are allowed; raise it with `ulimit -n {needed}`"
    );
    let is_large = site.devices.len() > 256;
    let mut world = World::of(Setup {
        site: site.clone(),
        seed: 11,
        controllers: 1,
        sample_every: Duration::from_secs(if is_large { 5 } else { 1 }),
    })
    .await;
    let span = Duration::from_secs(60 * (targets as u64 + 2));
    for job in jobs(&site, START, span, 11) {
        lock(&world.hall).submit(&job).unwrap();
    }
    world.start_controller(0);
    world.reconnect().await;
    world.pass(60).await;
    world
}

/// How many files this process may have open.
fn open_files() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|l| l.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// Asks for one reduction: number 0 for the deepest, the others at random.
pub async fn ask(world: &mut World, number: usize) -> Outcome {
    let drawn = mean_power(world, MEAN).await;
    let before = speeds(world);
    let share = match number {
        0 => DEEPEST,
        _ => SHALLOWEST + (DEEPEST - SHALLOWEST) * world.rng.f64(),
    };
    // Not on the second.
    let moment = Duration::from_millis(world.rng.u64(0..2_000));
    world.live(moment, |_| false).await;
    let limit = drawn * (1.0 - share);
    let id = format!("event-{number}");
    let now: Timestamp = world.clock.now();
    lock(&world.hall).begin_grid_limit(limit, now);
    let handle = world.seats[0].handle.clone().unwrap();
    let confirmation = watch(&handle, &id);
    handle.submit_grid_event(GridEvent {
        id: id.clone(),
        from: now,
        to: now + Duration::from_secs(3_600),
        ask: Ask::Limit(limit),
        reason: "the operator asks".into(),
    });
    let done = confirmation.abort_handle();
    let is_over = |world: &World| {
        lock(&world.hall).seconds_to_compliance().is_some() && confirmation.is_finished()
    };
    world.live(PATIENCE, is_over).await;
    done.abort();
    let confirmed = confirmation.await.ok();
    let mut sums = Speeds::new();
    let (mut kept, mut slowest_service) = (Vec::new(), (f64::INFINITY, 0.0));
    for _ in 0..HOLD {
        world.pass(1).await;
        kept.push(lock(&world.hall).site_power());
        let now = slowest(world, Inference);
        if now.0 < slowest_service.0 {
            slowest_service = now;
        }
        for (class, speed) in speeds(world) {
            *sums.entry(class).or_default() += speed / HOLD as f64;
        }
    }
    let caps = caps(world);
    let (complied, broken) = {
        let hall = lock(&world.hall);
        (hall.seconds_to_compliance(), hall.grid_limit_broken())
    };
    handle.cancel_grid_event(&id);
    lock(&world.hall).end_grid_limit();
    let mut back = None;
    for second in 1..=BACK.1 {
        world.pass(1).await;
        if lock(&world.hall).site_power() >= drawn * BACK.0 {
            back = Some(second);
            break;
        }
    }
    Outcome {
        share,
        complied,
        confirmed,
        broken,
        beyond: (limit - mean(&kept)) / drawn,
        back,
        before,
        during: sums,
        caps,
        slowest_service,
    }
}

/// Waits until control's view says that every device has what was decided
/// since this event; wall seconds from now.
fn watch(handle: &ControlHandle, id: &str) -> JoinHandle<f64> {
    let (mut view, id, begun) = (handle.view(), id.to_owned(), Instant::now());
    tokio::spawn(async move {
        let _ = view
            .wait_for(|v| {
                let known = v.grid_events.iter().any(|e| e.id == id);
                let has = |c: &CapView| {
                    c.acknowledged
                        .is_some_and(|has| has <= c.decided + Watts(0.001))
                };
                known && v.caps.values().all(has)
            })
            .await;
        begun.elapsed().as_secs_f64()
    })
}

async fn mean_power(world: &mut World, seconds: u64) -> Watts {
    let mut samples = Vec::new();
    for _ in 0..seconds {
        world.pass(1).await;
        samples.push(lock(&world.hall).site_power());
    }
    mean(&samples)
}

fn mean(samples: &[Watts]) -> Watts {
    samples.iter().copied().sum::<Watts>() * (1.0 / samples.len() as f64)
}

/// Mean speeds by class, every device alike.
fn speeds(world: &World) -> Speeds {
    let hall = lock(&world.hall);
    let speeds = running(&hall).map(|job| {
        let speed = hall.job_speed(&job.id).unwrap_or(0.0);
        let size = f64::from(job.gang_size);
        (job.class, speed * size, size)
    });
    means(speeds)
}

/// Mean caps by class, every device alike.
fn caps(world: &World) -> BTreeMap<JobClass, f64> {
    let hall = lock(&world.hall);
    let places = |job: &JobRecord| -> Vec<usize> {
        (job.devices.iter())
            .filter_map(|d| world.site.device(d).map(|(place, _)| place))
            .collect()
    };
    let caps = running(&hall).flat_map(|job| {
        let caps = places(&job).into_iter().filter_map(|p| hall.device_cap(p));
        let caps: Vec<_> = caps.map(|cap| (job.class, cap.0, 1.0)).collect();
        caps
    });
    means(caps)
}

fn running(hall: &Hall) -> impl Iterator<Item = JobRecord> {
    let jobs = hall.jobs().into_iter();
    jobs.filter(|j| j.state == JobState::Running)
}

fn means(parts: impl Iterator<Item = (JobClass, f64, f64)>) -> BTreeMap<JobClass, f64> {
    let mut sums: BTreeMap<JobClass, (f64, f64)> = BTreeMap::new();
    for (class, part, weight) in parts {
        let (sum, count) = sums.entry(class).or_default();
        *sum += part;
        *count += weight;
    }
    (sums.into_iter())
        .map(|(class, (sum, count))| (class, sum / count))
        .collect()
}

/// The slowest job of a class, those left out that have just begun, and for how
/// many seconds it has run.
fn slowest(world: &World, class: JobClass) -> (f64, f64) {
    let hall = lock(&world.hall);
    let now = hall.now();
    (running(&hall).filter(|job| job.class == class))
        .filter_map(|job| Some((hall.job_speed(&job.id)?, now.seconds_since(job.started?))))
        .filter(|(_, age)| *age > BEGINNING)
        .min_by(|a, b| a.0.total_cmp(&b.0))
        .unwrap_or((f64::INFINITY, 0.0))
}
