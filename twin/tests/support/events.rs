//! One grid event after the other, of random depth at random moments, and what
//! became of each.
//!
//! From the signal until the site's power has stayed below the limit, the
//! site's clock is the wall clock: network, agents, controller, the broker and
//! the hall itself take the time that they take. Between events a second of
//! the site is as short as all of them can bear.

use super::{World, lock};
use heliostat_models::{JobClass, JobState, Timestamp, Watts};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
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
const MEAN: u64 = 4;
/// Seconds that an event goes on after it has been complied with.
const HOLD: u64 = 8;
/// Seconds until power is back.
const BACK: u64 = 14;

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
        slowest_service = slowest_service.min(slowest(world, JobClass::Inference));
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
                let has = |c: &heliostat_optimizer::view::CapView| {
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
