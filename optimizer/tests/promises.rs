//! What a site has promised: a reduction counts against what it drew, and an event
//! and a person's word on arming outlive the controller that took them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/loop_world.rs"]
mod loop_world;
#[path = "support/site.rs"]
mod sites;

use heliostat_models::{Catalogue, DecisionKind, DeviceId, Frame, Reading, Watts};
use heliostat_optimizer::control::{Controller, ControllerConfig};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_optimizer::view::{ControlMode, ControlView};
use heliostat_store::TimeSeriesStore;
use loop_world::{LoopWorld, START, free_port, until};
use std::time::Duration;

#[tokio::test]
async fn a_reduction_counts_against_the_meter_of_the_site() {
    let world = LoopWorld::new(sites::demo());
    let frames = |after: u64| -> Vec<Frame> {
        let reading = |device: &str, watts: f64| Frame {
            device: DeviceId::from(device),
            at: START + Duration::from_secs(after),
            readings: vec![(Catalogue::meter_power(), Reading::Measured(watts))],
        };
        vec![
            reading("meter-site", 168_000.0),
            reading("meter-it-a", 75_000.0),
            reading("meter-it-b", 75_000.0),
        ]
    };
    world.store.append(frames(0)).await.unwrap();
    let handle = Controller::start(world.config(free_port(), false), world.deps.clone()).unwrap();
    let mut view = handle.view();
    until(&mut view, "a first allocation", |v| v.allocations >= 1).await;
    handle.submit_grid_event(GridEvent {
        id: "dr-1".into(),
        from: START + Duration::from_secs(60),
        to: START + Duration::from_secs(600),
        ask: Ask::ReduceBy(0.3),
        reason: "the operator asks".into(),
    });
    until(&mut view, "the event", |v| v.grid_events.len() == 1).await;
    // It begins between two periods of allocation.
    world.clock.advance_to(START + Duration::from_secs(60));
    let feed = |v: &ControlView| v.power.iter().find(|p| p.id == "feed").unwrap().limit.0;
    let limit = 168_000.0 * 0.7 * (1.0 - world.site.control.margin);
    until(&mut view, "its limit", |v| (feed(v) - limit).abs() < 1.0).await;
    // Nobody obeys while control observes: that the event is not met is said.
    world.store.append(frames(89)).await.unwrap();
    world.clock.advance_to(START + Duration::from_secs(89));
    until(&mut view, "the time", |v| {
        v.at >= START + Duration::from_secs(89)
    })
    .await;
    assert!(!view.borrow().health.grid_event_unmet, "there is time yet");
    world.store.append(frames(92)).await.unwrap();
    world.clock.advance_to(START + Duration::from_secs(92));
    let late = until(&mut view, "a trouble", |v| v.health.grid_event_unmet).await;
    assert!(
        late.health.troubles[0].contains("grid event `dr-1`"),
        "{late:?}"
    );
    handle.cancel_grid_event("dr-1");
    until(&mut view, "it to be over", |v| !v.health.grid_event_unmet).await;
    until(&mut view, "the usual limit", |v| feed(v) > 180_000.0).await;
    handle.stop().await;
    let told = world
        .deps
        .decisions
        .latest(9, |d| d.kind == DecisionKind::GridEvent);
    assert_eq!(told.len(), 2, "{told:?}");
}

#[tokio::test]
async fn a_grid_event_outlives_its_controller() {
    let world = LoopWorld::new(sites::demo());
    let kept = tempfile::tempdir().unwrap();
    let start = || {
        let config = ControllerConfig {
            directory: Some(kept.path().to_owned()),
            ..world.config(free_port(), false)
        };
        Controller::start(config, world.deps.clone()).unwrap()
    };
    let event = |id: &str, ask| GridEvent {
        id: id.into(),
        from: START,
        to: START + Duration::from_secs(600),
        ask,
        reason: "the operator asks".into(),
    };
    let feed = |v: &ControlView| v.power.iter().find(|p| p.id == "feed").map(|p| p.limit.0);
    let limit = 90_000.0 * (1.0 - world.site.control.margin);
    let is_in_force = |v: &ControlView| feed(v).is_some_and(|l| (l - limit).abs() < 1.0);
    let first = start();
    first.submit_grid_event(event("dr-1", Ask::Limit(Watts(90_000.0))));
    first.submit_grid_event(event("dr-2", Ask::Limit(Watts(80_000.0))));
    first.cancel_grid_event("dr-2");
    until(&mut first.view(), "its limit", is_in_force).await;
    // So does a person's word, here that it is to be armed.
    first.arm(true, "night shift");
    let is_armed = |v: &ControlView| v.mode == ControlMode::Armed;
    until(&mut first.view(), "it to be armed", is_armed).await;
    first.stop().await;
    let second = start();
    until(&mut second.view(), "it to be armed still", is_armed).await;
    let seen = until(&mut second.view(), "its limit once more", is_in_force).await;
    assert_eq!(
        seen.grid_events,
        [event("dr-1", Ask::Limit(Watts(90_000.0)))]
    );
    second.stop().await;
    // What cannot be read is told, and stays until there is something to keep.
    let file = kept.path().join("grid-events.json");
    std::fs::write(&file, "?").unwrap();
    let third = start();
    until(&mut third.view(), "a first allocation", |v| {
        v.allocations >= 1
    })
    .await;
    third.stop().await;
    let told = (world.deps.decisions).latest(1, |d| d.kind == DecisionKind::Incident);
    assert!(told[0].summary.contains("grid-events.json"), "{told:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"?");
}
