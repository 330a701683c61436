//! The conductor moves the clock: step the hall, tell the time, let everybody
//! act, step again. It waits for the slowest, so that nothing is lost by haste.

use super::Args;
use super::pace::Pace;
use super::screen::Screen;
use super::stage::Stage;
use super::summary::{Summary, peak_memory_mib, ratio};
use crate::run::stop_signal;
use heliostat_models::{Timestamp, Watts};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_store::Clock;
use std::process::ExitCode;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Share of its power that the grid asks the site to shed.
const SHED: f64 = 0.3;
/// How long the grid asks for it.
const EVENT: Duration = Duration::from_secs(3_600);
/// Steps of real time while the hall follows the event.
const SLOW_STEP: Duration = Duration::from_millis(100);
/// After this long without compliance the time-lapse goes on.
const SLOW_LIMIT: Duration = Duration::from_secs(30);
/// Longest that a step waits for agents and control.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for caps to come down before the hall opens, and for the
/// spools to empty at the end.
const SETTLE: Duration = Duration::from_secs(20);

/// What happened at the grid event.
#[derive(Clone, Copy, Default)]
struct Event {
    limit: Option<Watts>,
    seconds: Option<f64>,
}

/// Runs the demo from the first step to the summary.
pub async fn conduct(args: &Args) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let pace = Pace::fit(args.span, args.wall);
    let mut stage = Stage::set(args, &pace).await?;
    let screen = Screen::open(args, &stage);
    open_hall(&mut stage).await?;

    let mut event = Event::default();
    let stopped = tokio::select! {
        outcome = play(args, &pace, begun, &mut stage, &screen, &mut event) => { outcome?; false }
        outcome = stop_signal() => { outcome?; true }
    };
    drain(&stage).await;
    screen.close();
    let summary = summarise(args, &stage, event, begun);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        println!("{summary}");
    }
    if !args.headless && !stopped {
        eprintln!(
            "the dashboard stays at http://{}; Ctrl-C ends it",
            stage.server.web.address()
        );
        stop_signal().await?;
    }
    stage.strike().await;
    let sound = summary.samples_lost == 0 && summary.limit_violations == 0;
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Jobs may start once every GPU bears a cap of ours: until then the hall's
/// devices stand at the driver's default limits, which together exceed the site's.
async fn open_hall(stage: &mut Stage) -> anyhow::Result<()> {
    let view = stage.server.control.view();
    let wanted = stage.site.devices.len();
    let ready = async {
        loop {
            // The clock stands; control acts on hellos and answers as they come.
            let acknowledged = view
                .borrow()
                .caps
                .values()
                .filter(|c| c.acknowledged == Some(c.decided))
                .count();
            if acknowledged == wanted {
                return;
            }
            advance(stage, stage.clock.now() + Duration::from_secs(1)).await;
            sleep(Duration::from_millis(50)).await;
        }
    };
    if timeout(SETTLE, ready).await.is_err() {
        let view = view.borrow();
        let known = view
            .caps
            .values()
            .filter(|c| c.acknowledged.is_some())
            .count();
        anyhow::bail!(
            "only {known} of {wanted} GPUs took their first cap within {SETTLE:?}; run with HELIOSTAT_LOG=info to see why"
        );
    }
    let now = stage.clock.now();
    let mut hall = stage.hall.lock().unwrap_or_else(PoisonError::into_inner);
    // The comparisons stood idle meanwhile; now all three begin to count.
    stage.shadows.step(now, &hall);
    stage.shadows.reset_tally();
    hall.reset_tally();
    hall.open(true);
    Ok(())
}

async fn play(
    args: &Args,
    pace: &Pace,
    begun: Instant,
    stage: &mut Stage,
    screen: &Screen,
    event: &mut Event,
) -> anyhow::Result<()> {
    let (start, end) = (args.start, args.start + args.span);
    let halfway = (start + args.span / 2).floor_to(pace.step);
    let lapse_end = begun + pace.lapse_wall;
    let mut slow = Duration::ZERO;
    let mut next_wall = Instant::now();
    let mut event_ends = None;
    while stage.clock.now() < end {
        let now = stage.clock.now();
        // A machine that cannot keep up covers less, but the event always comes.
        let late = Instant::now() >= lapse_end + slow;
        if event_ends.is_none() && (now >= halfway || late) {
            let at = Instant::now();
            *event = grid_event(stage, screen, now.seconds_since(start)).await?;
            slow = at.elapsed();
            event_ends = Some(now + EVENT);
            next_wall = Instant::now();
        } else if late {
            break;
        }
        if event_ends.is_some_and(|ends| now >= ends) {
            stage.hall().end_grid_limit();
        }
        let to = stage.clock.now().next_multiple_of(pace.step).min(end);
        step(stage, to).await;
        screen.show(
            stage,
            Duration::from_secs_f64(to.seconds_since(start).max(0.0)),
            "",
        );
        next_wall += pace.step_wall;
        if next_wall > Instant::now() {
            sleep_until(next_wall).await;
        } else {
            next_wall = Instant::now();
        }
    }
    Ok(())
}

/// One step of the time-lapse: the halls move, then the clock, then everybody acts.
async fn step(stage: &mut Stage, to: Timestamp) {
    advance(stage, to).await;
    let hall = stage.hall.lock().unwrap_or_else(PoisonError::into_inner);
    stage.shadows.step(to, &hall);
    drop(hall);
    if let Some(plan) = &stage.server.control.view().borrow().plan {
        stage.max_plan_gap = stage.max_plan_gap.max(plan.certificate.gap);
    }
}

/// Moves hall and clock and waits until agents and control have acted.
async fn advance(stage: &Stage, to: Timestamp) {
    // Physics of 256 GPUs; short, but not for the threads that carry messages.
    tokio::task::block_in_place(|| stage.hall().step(to));
    stage.clock.advance_to(to);
    let everybody = async {
        for agent in &stage.agents {
            agent.wait_sampled_until(to).await;
        }
        let mut view = stage.server.control.view();
        // The sender lives as long as the stage.
        let _ = view.wait_for(|v| v.at >= to).await;
    };
    if timeout(PATIENCE, everybody).await.is_err() {
        tracing::debug!(%to, "a step was not followed in time");
    }
}

/// The grid asks for less; real time until the hall has followed.
async fn grid_event(stage: &mut Stage, screen: &Screen, passed: f64) -> anyhow::Result<Event> {
    let now = stage.clock.now();
    let limit = {
        let mut hall = stage.hall();
        let limit = hall.site_power() * (1.0 - SHED);
        hall.begin_grid_limit(limit, now);
        limit
    };
    stage.server.control.submit_grid_event(GridEvent {
        id: "demo-halfway".to_owned(),
        from: now,
        to: now + EVENT,
        ask: Ask::Limit(limit),
        reason: format!(
            "the grid operator asks for {:.0} % less for an hour",
            SHED * 100.0
        ),
    });
    let mut wall = Instant::now();
    let mut seconds = None;
    while seconds.is_none() && stage.clock.now().seconds_since(now) < SLOW_LIMIT.as_secs_f64() {
        wall += SLOW_STEP;
        sleep_until(wall).await;
        let to = stage.clock.now() + SLOW_STEP;
        tokio::task::block_in_place(|| stage.hall().step(to));
        stage.clock.advance_to(to);
        seconds = stage.hall().seconds_to_compliance();
        screen.show(
            stage,
            Duration::from_secs_f64(passed),
            "grid event, real time",
        );
    }
    Ok(Event {
        limit: Some(limit),
        seconds,
    })
}

/// The clock stands; waits until every sample taken is acknowledged.
async fn drain(stage: &Stage) {
    let empty = async {
        while stage.agents.iter().any(|a| a.stats().batches_waiting > 0) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(SETTLE, empty).await.is_err() {
        tracing::warn!("some samples are still in the agents' spools");
    }
}

fn summarise(args: &Args, stage: &Stage, event: Event, begun: Instant) -> Summary {
    let hall = stage.hall();
    let ours = hall.tally();
    let (free, flat) = (stage.shadows.uncapped(), stage.shadows.uniform());
    let view = stage.server.control.view().borrow().clone();
    let stats: Vec<_> = stage.agents.iter().map(|a| a.stats()).collect();
    let taken: u64 = stats.iter().map(|s| s.samples_taken).sum();
    let waiting: u64 = stats
        .iter()
        .map(|s| s.samples_taken + s.samples_found - s.samples_acknowledged)
        .sum();
    let stored = stage.server.store.store().stats().samples;
    let per_joule = |t: &heliostat_twin::Tally| ratio(t.work_hours, t.site.get());
    let carbon_per_work = |t: &heliostat_twin::Tally| ratio(t.carbon_grams, t.work_hours);
    let over = |a: Option<f64>, b: Option<f64>| a.zip(b).and_then(|(a, b)| ratio(a, b));
    let mut notes = vec![
        "hall, jobs and weather are simulated; generation is recorded".to_owned(),
        "carbon is life-cycle, average of the zone's own generation".to_owned(),
        "work counts GPU-hours at full speed, all job classes alike".to_owned(),
    ];
    let covered = hall.now().seconds_since(args.start);
    if covered + 1.0 < args.span.as_secs_f64() {
        notes.push("the machine was too slow or the run was stopped: less simulated time was covered than asked for".to_owned());
    }
    Summary {
        zone: args.zone.clone(),
        from: args.start,
        to: hall.now(),
        simulated_hours: covered / 3_600.0,
        requested_hours: args.span.as_secs_f64() / 3_600.0,
        wall_seconds: begun.elapsed().as_secs_f64(),
        gpus: stage.site.devices.len(),
        energy_kwh: ours.site.kilowatt_hours(),
        it_energy_kwh: ours.it.kilowatt_hours(),
        pue: ratio(ours.site.get(), ours.it.get()).unwrap_or(f64::NAN),
        work_gpu_hours: ours.work_hours,
        work_gpu_hours_uncapped: free.work_hours,
        work_gpu_hours_uniform_cap: flat.work_hours,
        energy_kwh_uncapped: free.site.kilowatt_hours(),
        energy_kwh_uniform_cap: flat.site.kilowatt_hours(),
        work_per_joule: per_joule(&ours).unwrap_or_default(),
        work_per_joule_ratio_vs_uncapped: over(per_joule(&ours), per_joule(&free)),
        work_per_joule_ratio_vs_uniform_cap: over(per_joule(&ours), per_joule(&flat)),
        carbon_kg: ours.carbon_grams / 1_000.0,
        carbon_ratio_vs_uncapped: over(carbon_per_work(&ours), carbon_per_work(&free)),
        carbon_total_ratio_vs_uncapped: ratio(ours.carbon_grams, free.carbon_grams),
        renewable_share: ours.renewable_share(),
        renewable_share_uncapped: free.renewable_share(),
        grid_data_share: ratio(ours.site_with_intensity.get(), ours.site.get()).unwrap_or_default(),
        grid_event_seconds_to_compliance: event.seconds,
        grid_event_limit_kw: event.limit.map(Watts::kilowatts),
        max_certificate_gap: view.max_gap,
        max_plan_gap: stage.max_plan_gap,
        allocations: view.allocations,
        limit_violations: hall.violations().len() as u64,
        samples_taken: taken,
        samples_stored: stored,
        samples_lost: taken as i64 - stored as i64 - waiting as i64,
        samples_missed: stats
            .iter()
            .map(|s| s.instants_missed + s.sources.values().map(|v| v.skipped).sum::<u64>())
            .sum(),
        peak_memory_mib: peak_memory_mib(),
        notes,
    }
}
