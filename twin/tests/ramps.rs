//! How fast a site's power may rise, through a real controller, broker and agents.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "../../optimizer/tests/support/loop_world.rs"]
mod loop_world;
#[path = "../../optimizer/tests/support/site.rs"]
mod sites;
#[path = "support/stage.rs"]
mod stage;

use heliostat_models::Watts;
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_store::Clock;
use loop_world::START;
use stage::Stage;
use std::sync::Arc;
use std::time::Duration;

/// Watts a second, and how many seconds of it may come at once.
const RATE: f64 = 50.0;
const WINDOW: f64 = 10.0;

/// Every sum of caps, second by second, while the site rises, comes down for a
/// grid event and rises again: up at the rate, down at once, a gang together.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sites_power_rises_at_its_rate_and_falls_when_the_grid_asks() {
    let text = sites::small_text().replacen(
        "[control]\n",
        &format!(
            "[control]\nramp_up_watts_per_second = {RATE}\nramp_down_watts_per_second = {RATE}\nramp_window_seconds = {WINDOW}\n"
        ),
        1,
    );
    let stage = Stage::new(sites::parse(&text));
    let site = Arc::clone(&stage.world.site);
    let agents: Vec<_> = (0..4).map(|node| stage.gpus(node, Watts(250.0))).collect();
    let all_answer = || {
        let view = stage.control.view().borrow().clone();
        view.caps.len() == 8 && view.caps.values().all(|c| c.acknowledged.is_some())
    };
    stage.until("every agent", all_answer).await;
    stage.world.run_job("train-1", 1..7, START);
    let sum = || -> f64 { stage.limits.lock().unwrap().values().map(|c| c.0).sum() };
    let apart = || {
        let limits = stage.limits.lock().unwrap();
        let of = |place: usize| limits[&site.devices[place].id].0;
        let all = (1..7).map(of);
        all.clone().fold(0.0, f64::max) - all.fold(f64::MAX, f64::min)
    };
    let (start, mut last, mut excess) = (sum(), sum(), 0.0f64);
    let mut rises = Vec::new();
    for (second, ask) in [(80, Some(10_500.0)), (10, None), (80, None)] {
        let began = (last, stage.world.clock.now());
        for _ in 0..second {
            stage.second().await;
            let now = sum();
            excess = (excess + now - last - RATE).max(0.0);
            // One second of it, because an order may take effect in the next.
            let allowed = RATE * (WINDOW + 1.0) + 0.1;
            assert!(excess <= allowed, "{excess} W too fast");
            last = now;
            // A full bucket lifts each of six by 83 W, or one of them alone by 450 W.
            assert!(ask.is_none() || apart() < 180.0, "{} W apart", apart());
        }
        rises.push((began.0, last));
        if let Some(limit) = ask {
            let now = stage.world.clock.now();
            stage.control.submit_grid_event(GridEvent {
                id: "dr-1".into(),
                from: now,
                to: now + Duration::from_secs(14),
                ask: Ask::Limit(Watts(limit)),
                reason: "the operator asks".into(),
            });
        }
    }
    let story = stage.story();
    // 6 devices from 250 W to 700 W rise for 54 s, those at rest come down slowly.
    let [first, event, after] = rises[..] else {
        panic!("{rises:?}")
    };
    assert!(
        first.0 <= start && first.1 > start + 2_000.0,
        "{rises:?} {story:#?}"
    );
    // 10 s at 50 W/s would be 500 W.
    assert!(event.1 < event.0 - 1_000.0, "{rises:?} {story:#?}");
    assert!((after.1 - first.1).abs() < 1.0, "{rises:?} {story:#?}");
    stage.control.stop().await;
    for agent in agents {
        agent.stop().await;
    }
}
