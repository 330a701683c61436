//! Two controllers, one hall: one is in charge, the other stands by, whatever
//! fails; and the hall's own breakers are the referee.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers fail by unwrapping"
)]

#[path = "support/world.rs"]
#[allow(dead_code, unused_imports, reason = "support of several tests")]
mod world;

use heliostat_models::{DecisionKind, Watts};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_store::Clock as _;
use std::time::Duration;
use world::{Setup, World, broker, site};

/// Two periods of the lock's lease.
const TWO_LEASES: u64 = 40;

async fn running(seed: u64) -> World {
    let mut world = World::new(seed, 2).await;
    world.submit_jobs();
    world.start_controller(0);
    world.reconnect().await;
    world.pass(20).await;
    world.pass_until(20, |w| w.in_charge() == [0]).await;
    world.start_controller(1);
    world.reconnect().await;
    world.pass(30).await;
    assert_eq!(world.in_charge(), [0], "the second stands by");
    // It does something: caps are no longer the safe ones that were found.
    let safe: Watts = world.site.devices.iter().map(|d| d.safe_cap).sum();
    assert!(
        (world.capped() - safe).0.abs() > 5_000.0,
        "{}",
        world.capped()
    );
    world.judge("before anything fails");
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_takes_over_within_two_leases_when_the_holder_dies() {
    let mut world = running(1).await;
    world.kill_controller(0).await;
    let took = world.pass_until(TWO_LEASES, |w| w.in_charge() == [1]).await;
    assert!(took >= 10, "no sooner than it must: {took} s");
    world.pass(30).await;
    world.judge("after the takeover");
    // Who comes back stands by.
    world.start_controller(0);
    world.reconnect().await;
    world.pass(30).await;
    assert_eq!(world.in_charge(), [1]);
    // A controller that is stopped in an orderly way hands over at once.
    let handle = world.seats[1].handle.take().unwrap();
    handle.stop().await;
    assert!(world.pass_until(5, |w| w.in_charge() == [0]).await <= 5);
    world.pass(20).await;
    world.judge("at the end");
    let log = &world.seats[1].deps.decisions;
    let told = log.latest(99, |d| d.kind == DecisionKind::Arming);
    assert!(
        told.iter()
            .any(|d| d.summary.contains("stands by") || d.summary.contains("in charge"))
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grid_event_is_kept_whoever_heard_of_it_and_whoever_dies() {
    let mut world = running(5).await;
    let event = GridEvent {
        id: "dso-1".into(),
        from: world.clock.now(),
        to: world.clock.now() + Duration::from_secs(3_600),
        ask: Ask::ReduceBy(0.2),
        reason: "the operator asks".into(),
    };
    let of = |world: &World, seat: usize| {
        let handle = world.seats[seat].handle.as_ref();
        handle.map_or(Vec::new(), |h| h.view().borrow().grid_events.clone())
    };
    // The one that stands by hears of it, and the one in charge follows.
    let handle = world.seats[1].handle.clone().unwrap();
    handle.submit_grid_event(event.clone());
    world
        .pass_until(10, |w| of(w, 0) == of(w, 1) && !of(w, 0).is_empty())
        .await;
    let capped = world.capped();
    world.pass(10).await;
    assert!(world.capped() < capped, "{} of {capped}", world.capped());
    let asked = world.capped();
    // It dies, and the next one in charge keeps what was promised; so does one
    // that comes back and knows nothing.
    world.kill_controller(0).await;
    world.pass_until(TWO_LEASES, |w| w.in_charge() == [1]).await;
    world.start_controller(0);
    world.reconnect().await;
    world.pass(20).await;
    assert_eq!(of(&world, 0), [event]);
    assert!(
        world.capped() <= asked * 1.1,
        "{} of {asked}",
        world.capped()
    );
    // Called off at one, it is over at both.
    let handle = world.seats[0].handle.clone().unwrap();
    handle.cancel_grid_event("dso-1");
    world
        .pass_until(10, |w| of(w, 0).is_empty() && of(w, 1).is_empty())
        .await;
    world.pass(20).await;
    assert!(world.capped() > asked, "{} of {asked}", world.capped());
    world.judge("at the end");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_cut_off_is_replaced_and_stands_by_when_it_is_back() {
    let mut world = running(2).await;
    world.seats[0].wire.cut();
    world
        .pass_until(TWO_LEASES, |w| w.in_charge().contains(&1))
        .await;
    world.pass(20).await;
    world.judge("while it is cut off");
    let broker = world.broker;
    world.seats[0].wire.lead_to(broker);
    world.reconnect().await;
    world.pass_until(20, |w| w.in_charge() == [1]).await;
    world.pass(20).await;
    world.judge("after it is back");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_in_charge_on_two_sides_of_a_split_break_no_limit() {
    let mut world = running(3).await;
    // Half of the agents and the second controller are on an island.
    let island = broker();
    world.halves[1].lead_to(island);
    world.seats[1].wire.lead_to(island);
    world.reconnect().await;
    world
        .pass_until(TWO_LEASES, |w| w.in_charge() == [0, 1])
        .await;
    world.pass(60).await;
    assert_eq!(world.in_charge(), [0, 1], "each on its side");
    world.judge("during the split");
    let main = world.broker;
    world.halves[1].lead_to(main);
    world.seats[1].wire.lead_to(main);
    world.reconnect().await;
    world
        .pass_until(TWO_LEASES, |w| w.in_charge().len() == 1)
        .await;
    world.pass(30).await;
    assert_eq!(world.in_charge(), [1], "the later one");
    world.judge("after the split");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_that_is_started_again_goes_on_without_waiting_for_itself() {
    let mut world = World::new(4, 1).await;
    world.submit_jobs();
    world.start_controller(0);
    world.reconnect().await;
    world.pass(30).await;
    assert_eq!(world.in_charge(), [0]);
    for forgotten in [false, true] {
        world.kill_controller(0).await;
        if forgotten {
            // Its broker went with it, and with the broker the lock.
            world.change_broker();
        }
        world.start_controller(0);
        world.reconnect().await;
        world.pass_until(5, |w| w.in_charge() == [0]).await;
        world.pass(20).await;
        world.judge("after the restart");
        // Caps follow the readings, so that the last few watts are on their way.
        let off: Vec<f64> = {
            let view = world.seats[0].handle.as_ref().unwrap().view();
            let view = view.borrow();
            let off = view.caps.values().map(|c| match c.acknowledged {
                Some(has) => (has - c.decided).0,
                None => f64::INFINITY,
            });
            off.filter(|off| off.abs() > 15.0).collect()
        };
        assert!(off.is_empty(), "{} of 256 devices: {off:?}", off.len());
    }
    world.end().await;
}

/// A broker may give only so many retained messages to who subscribes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_hears_of_every_agent_of_a_larger_site_at_once() {
    let site = site(1_280);
    assert!(site.nodes.len() >= 160, "{}", site.nodes.len());
    let setup = Setup {
        site,
        seed: 5,
        controllers: 1,
        sample_every: Duration::from_secs(5),
    };
    let mut world = World::of(setup).await;
    // All hellos are said before it comes, and not again for half a minute.
    world.reconnect().await;
    world.start_controller(0);
    world.reconnect().await;
    world.pass_until(8, |w| w.in_charge() == [0]).await;
    world.pass(4).await;
    let view = world.seats[0].handle.as_ref().unwrap().view();
    let unknown = (view.borrow().caps.values())
        .filter(|cap| cap.acknowledged.is_none())
        .count();
    assert_eq!((unknown, view.borrow().caps.len()), (0, 1_280));
    world.end().await;
}
