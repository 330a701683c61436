//! One grid event after the other, of random depth at random moments, and what
//! became of each.
//!
//! From the signal until the site's power has stayed below the limit, the
//! site's clock is the wall clock: network, agents, controller, the broker and
//! the hall itself take the time that they take. Between events a second of
//! the site is as short as all of them can bear.

use super::{START, Setup, World, jobs, lock, site};
use heliostat_models::JobClass::{self, Experiment, Inference, Training};
use heliostat_models::{JobState, Timestamp, Watts};
use heliostat_optimizer::control::ControlHandle;
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_optimizer::view::CapView;
use heliostat_store::Clock;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The deepest reduction that is asked for, and the shallowest.
const DEEPEST: f64 = 0.30;
const SHALLOWEST: f64 = 0.05;
/// Longest wait for power to fall and stay (the two seconds included).
const PATIENCE: Duration = Duration::from_secs(20);
/// Seconds over which power is averaged before an event, in it and after it.
const MEAN: u64 = 3;
/// Seconds that an event goes on after it has been complied with.
const HOLD: u64 = 6;
/// Seconds until power is back.
const BACK: u64 = 10;

/// Seconds from the signal to power below the limit, at most; and to the last cap.
pub const WITHIN: f64 = 5.0;
/// Speed that every service keeps: the classes' floor of 0.6, less what a
/// measured draw may be off by.
const SERVICE: f64 = 0.58;
/// Share of the power that is back some seconds after an event. Jobs come and
/// go in between.
const BACK_AGAIN: f64 = 0.9;
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
    /// Power after the event, as a share of what was drawn before.
    pub back: f64,
    /// Speeds before, and while the event was on.
    pub before: Speeds,
    pub during: Speeds,
    /// The slowest service while the event was on.
    pub slowest_service: f64,
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
            self.slowest_service >= SERVICE,
            format!("a service at {:.2}", self.slowest_service),
        );
        // Who gives first: in each pair the later class keeps more of its speed.
        let order = [Experiment, Training, Inference];
        let kept: Vec<f64> = (order.iter())
            .filter_map(|class| Some(self.during.get(class)? / self.before.get(class)?))
            .collect();
        must(
            kept.is_sorted(),
            format!("{order:?} keep {kept:.3?} of their speeds"),
        );
        must(
            self.back >= BACK_AGAIN,
            format!("{:.3} of the power is back", self.back),
        );
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
    let (mut kept, mut slowest_service) = (Vec::new(), f64::INFINITY);
    for _ in 0..HOLD {
        world.pass(1).await;
        kept.push(lock(&world.hall).site_power());
        slowest_service = slowest_service.min(slowest(world, Inference));
        for (class, speed) in speeds(world) {
            *sums.entry(class).or_default() += speed / HOLD as f64;
        }
    }
    let (complied, broken) = {
        let hall = lock(&world.hall);
        (hall.seconds_to_compliance(), hall.grid_limit_broken())
    };
    handle.cancel_grid_event(&id);
    lock(&world.hall).end_grid_limit();
    world.pass(BACK).await;
    let back = mean_power(world, MEAN).await;
    Outcome {
        share,
        complied,
        confirmed,
        broken,
        beyond: (limit - mean(&kept)) / drawn,
        back: back / drawn,
        before,
        during: sums,
        slowest_service,
    }
}

/// Waits until control's view says that every device has what was decided
/// since this event; wall seconds from now.
fn watch(handle: &heliostat_optimizer::control::ControlHandle, id: &str) -> JoinHandle<f64> {
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
    let mut sums: BTreeMap<JobClass, (f64, f64)> = BTreeMap::new();
    for job in hall.jobs() {
        if job.state == JobState::Running
            && let Some(speed) = hall.job_speed(&job.id)
        {
            let (sum, count) = sums.entry(job.class).or_default();
            *sum += speed * f64::from(job.gang_size);
            *count += f64::from(job.gang_size);
        }
    }
    (sums.into_iter())
        .map(|(class, (sum, count))| (class, sum / count))
        .collect()
}

/// The slowest job of a class that has run for more than a second.
fn slowest(world: &World, class: JobClass) -> f64 {
    let hall = lock(&world.hall);
    let now = hall.now();
    (hall.jobs().into_iter())
        .filter(|j| j.class == class && j.state == JobState::Running)
        .filter(|j| j.started.is_some_and(|s| now.seconds_since(s) > 1.0))
        .filter_map(|j| hall.job_speed(&j.id))
        .fold(f64::INFINITY, f64::min)
}
