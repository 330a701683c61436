//! The conductor moves the clock: step the hall, tell the time, let everybody
//! act, step again. It waits for the slowest, so that nothing is lost by haste.

use super::Args;
use super::account::summarise;
use super::pace::Pace;
use super::screen::Screen;
use super::stage::Stage;
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
/// How far behind its plan the time-lapse may be and still catch up.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Longest that a step waits for agents and control.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for caps to come down before the hall opens, and for the
/// spools to empty at the end.
const SETTLE: Duration = Duration::from_secs(20);
/// Longest wait for the next acknowledgement while the spools empty.
const STALL: Duration = Duration::from_secs(3);

/// What happened at the grid event.
#[derive(Clone, Copy, Default)]
pub struct Event {
    /// The limit that was asked for, once it was.
    pub limit: Option<Watts>,
    /// Seconds until it was lastingly complied with; none if it was not.
    pub seconds: Option<f64>,
    /// Times that the limit was exceeded after it had been complied with.
    pub broken: u64,
}

/// Runs the demo from the first step to the summary.
pub async fn conduct(args: &Args) -> anyhow::Result<ExitCode> {
    let begun = Instant::now();
    let pace = Pace::fit(args.span, args.wall);
    let mut stage = Stage::set(args, &pace).await?;
    let screen = Screen::open(args, &stage);
    let mut event = Event::default();
    let stopped = tokio::select! {
        outcome = perform(args, &pace, begun, &mut stage, &screen, &mut event) => { outcome?; false }
        outcome = stop_signal() => { outcome?; true }
    };
    screen.close();
    let summary = summarise(args, &pace, &stage, event, begun);
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
    tokio::select! {
        () = stage.strike() => {}
        outcome = stop_signal() => outcome?,
    }
    let sound = stopped || summary.is_sound();
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// From the first cap to the last acknowledgement.
async fn perform(
    args: &Args,
    pace: &Pace,
    begun: Instant,
    stage: &mut Stage,
    screen: &Screen,
    event: &mut Event,
) -> anyhow::Result<()> {
    open_hall(stage).await?;
    play(args, pace, begun, stage, screen, event).await?;
    drain(stage).await;
    Ok(())
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
    let mut next_wall = Instant::now();
    let mut event_ends = None;
    while stage.clock.now() < end {
        let now = stage.clock.now();
        // A machine that cannot keep up covers less, but the event always comes.
        let passed = begun.elapsed();
        if event_ends.is_none() && (now >= halfway || passed >= pace.event_wall) {
            *event = grid_event(stage, screen, now.seconds_since(start)).await?;
            event_ends = Some(now + EVENT);
            next_wall = Instant::now();
        } else if passed >= pace.end_wall {
            break;
        }
        if event_ends.is_some_and(|ends| now >= ends) {
            stage.hall().end_grid_limit();
        }
        event.broken = event.broken.max(stage.hall().grid_limit_broken());
        let to = stage.clock.now().next_multiple_of(pace.step).min(end);
        step(stage, to).await;
        screen.show(
            stage,
            Duration::from_secs_f64(to.seconds_since(start).max(0.0)),
            "",
        );
        // Late steps are caught up, but a long halt does not end in a rush.
        next_wall = (next_wall + pace.step_wall).max(Instant::now() - CATCH_UP);
        sleep_until(next_wall).await;
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
        broken: 0,
    })
}

/// The clock stands; waits until every sample taken is acknowledged, or no
/// acknowledgement comes any more.
async fn drain(stage: &Stage) {
    let waiting = || {
        stage
            .agents
            .iter()
            .map(|a| a.stats().batches_waiting)
            .sum::<u64>()
    };
    let mut left = waiting();
    let mut since = Instant::now();
    while left > 0 && since.elapsed() < STALL {
        sleep(Duration::from_millis(20)).await;
        let now = waiting();
        if now < left {
            left = now;
            since = Instant::now();
        }
    }
    if left > 0 {
        tracing::warn!(
            batches = left,
            "samples are still in the agents' spools: the store does not take them"
        );
    }
}
