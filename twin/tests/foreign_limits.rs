//! Others touch power limits, agents die and stop, while control is armed: it
//! sees what is so, goes on, and the hall's own breakers are the referee.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers fail by unwrapping"
)]

#[path = "support/world.rs"]
#[allow(dead_code, reason = "support of several tests")]
mod world;

use heliostat_models::{AgentId, DecisionKind, Watts};
use heliostat_optimizer::view::ControlView;
use std::sync::Arc;
use world::World;

/// What the devices of a node were found at.
const FOUND: Watts = Watts(600.0);

fn view(world: &World) -> Arc<ControlView> {
    let view = world.seats[0].handle.as_ref().unwrap().view();
    Arc::clone(&view.borrow())
}

fn cap(world: &World, place: usize) -> Watts {
    world.hall.lock().unwrap().device_cap(place).unwrap()
}

/// Somebody at the node sets a limit.
fn meddle(world: &World, place: usize, to: Watts) {
    let mut hall = world.hall.lock().unwrap();
    hall.set_cap(place, to);
    let now = hall.now();
    // An instant not after the present only reads limits.
    hall.step(now);
}

/// What control decided for a device.
fn decided(world: &World, place: usize) -> Watts {
    let view = view(world);
    let device = &world.site.devices[place].id;
    view.caps.get(device).unwrap().decided
}

fn node_of(world: &World, place: usize) -> AgentId {
    let node = &world.site.nodes[world.site.devices[place].node];
    AgentId::from(node.id.as_str())
}

async fn busy(seed: u64) -> World {
    let mut world = World::new(seed, 1).await;
    world.submit_jobs();
    world.start_controller(0);
    world.reconnect().await;
    world.pass(40).await;
    world.pass_until(20, |w| w.in_charge() == [0]).await;
    world.judge("before anybody meddles");
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_is_set_back_and_a_lowered_limit_is_planned_around() {
    let mut world = busy(11).await;
    let (reset, lowered) = (3, 40);
    let device = |place: usize| world.site.devices[place].id.to_string();
    let (reset_name, lowered_name) = (device(reset), device(lowered));
    // A GPU is reset: its limit is the highest until the agent's next look.
    let highest = world.site.devices[reset].max_cap;
    for _ in 0..6 {
        meddle(&world, reset, highest);
        world.pass(1).await;
        world.pass_until(10, |w| cap(w, reset) < highest).await;
    }
    let stats = world.agents[&node_of(&world, reset)].stats().caps;
    assert!(stats.reverts_corrected >= 5, "{stats:?}");
    let trouble = |world: &World, name: &str| {
        let health = &view(world).health;
        health.troubles.iter().any(|t| t.contains(name))
    };
    world
        .pass_until(20, |w| {
            trouble(w, &format!("`{reset_name}` is raised again"))
        })
        .await;
    let health = view(&world).health.clone();
    assert!(health.foreign_corrected >= 3, "{health:?}");
    // Somebody lowers another one: control asks for no more there.
    let before = decided(&world, lowered);
    let low = world.site.devices[lowered].min_cap + Watts(10.0);
    assert!(before > low + Watts(20.0), "{before}");
    meddle(&world, lowered, low);
    world
        .pass_until(20, |w| decided(w, lowered) <= low + Watts(0.01))
        .await;
    assert!(trouble(
        &world,
        &format!("lowered the limit of `{lowered_name}`")
    ));
    world.pass(30).await;
    assert!(
        cap(&world, lowered) <= low + Watts(0.01),
        "it is left to whoever set it"
    );
    world.judge("while others meddle");
    // It is told where people look, once.
    let log = &world.seats[0].deps.decisions;
    let told = log.latest(999, |d| {
        d.kind == DecisionKind::Incident && d.summary.contains(&lowered_name)
    });
    assert_eq!(told.len(), 1, "{told:?}");
    // Taken back: it is control's again.
    meddle(&world, lowered, world.site.devices[lowered].max_cap);
    world
        .pass_until(30, |w| decided(w, lowered) > low + Watts(20.0))
        .await;
    assert!(!trouble(&world, &lowered_name));
    world.judge("at the end");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_stops_restores_what_it_found_and_no_limit_is_exceeded() {
    let mut world = World::new(12, 1).await;
    // The first node's devices were found high, though not above what the node's own
    // limit bears, while nothing ran.
    let devices = world.site.nodes[0].devices.clone();
    for place in devices.clone() {
        meddle(&world, place, FOUND);
    }
    world.restart_agent(0, true).await;
    world.start_controller(0);
    world.reconnect().await;
    world.pass_until(20, |w| w.in_charge() == [0]).await;
    world.submit_jobs();
    world.pass(40).await;
    world.judge("before it stops");
    let name = node_of(&world, devices.start);
    let found = FOUND * devices.len() as f64;
    let has = |world: &World| -> Watts { devices.clone().map(|place| cap(world, place)).sum() };
    assert!(has(&world) < found - Watts(100.0), "{}", has(&world));
    let agent = world.agents.remove(&name).unwrap();
    let stopping = tokio::spawn(agent.stop());
    for _ in 0..30 {
        world.pass(1).await;
        world.judge("while it stops");
        if stopping.is_finished() {
            break;
        }
    }
    let stats = stopping.await.unwrap();
    assert_eq!(
        (stats.caps.restored, stats.caps.not_restored),
        (devices.len() as u64, 0)
    );
    assert!((has(&world) - found).0.abs() < 0.01, "{}", has(&world));
    world.pass(60).await;
    world.judge("after it has gone");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_under_load_comes_back_at_safe_caps_and_raises_nothing() {
    let mut world = World::new(13, 1).await;
    let devices = world.site.nodes[0].devices.clone();
    for place in devices.clone() {
        let highest = world.site.devices[place].max_cap;
        meddle(&world, place, highest);
    }
    world.restart_agent(0, true).await;
    world.submit_jobs();
    world.start_controller(0);
    world.reconnect().await;
    world.pass(40).await;
    let has = |world: &World| -> Watts { devices.clone().map(|place| cap(world, place)).sum() };
    for _ in 0..5 {
        let before = has(&world);
        world.restart_agent(0, false).await;
        assert!(
            has(&world) <= before + Watts(0.01),
            "nothing is raised by a start"
        );
        world.pass(15).await;
        world.judge("after a crash");
    }
    world.end().await;
}
