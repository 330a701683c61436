//! Breakers with unlike time-current curves: control relies on what a slow one
//! bears, and the hall's own breakers judge by the curve that each has. A fast
//! one trips where a slow one was believed in, so that the judge can say no.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's helpers fail by unwrapping"
)]

#[path = "support/world.rs"]
#[allow(dead_code, unused_imports, reason = "support of several tests")]
mod world;

use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
use heliostat_models::{AgentId, DecisionKind, Site};
use heliostat_twin::{CapSource, Hall, HallConfig};
use std::sync::Arc;
use std::time::Duration;
use world::{START, Setup, World, lock};

/// Two minutes, and ten seconds, of all that the PDUs carry here.
const SLOW: &str = "[[1.1, 600], [1.4, 120]]";
const FAST: &str = "[[1.4, 10]]";

/// The demo hall with PDUs that all devices at their highest caps overload, by
/// a fifth, and half of them a little still; they have this curve.
fn site(curve: &str) -> Arc<Site> {
    let pdu = "rating_watts = 55_000\nlimit_watts = 48_000\n";
    let text = builtin_demo();
    assert_eq!(text.matches(pdu).count(), 4);
    let small = format!("rating_watts = 46_000\nlimit_watts = 44_000\ntrip_curve = {curve}\n");
    let loaded = load(
        "test.toml",
        &text.replace(pdu, &small),
        LoadOptions::default(),
    );
    Arc::new(loaded.site.unwrap_or_else(|| panic!("{:?}", loaded.faults)))
}

/// What became of a site found at full power.
#[derive(Debug)]
struct Seen {
    /// Breakers of the hall that let go.
    trips: u64,
    /// Seconds in which some PDU carried more than its rating.
    overloaded: u64,
    /// Whether load was taken off at once.
    relieved: bool,
    /// The lowest cap that any device had in the meantime, W.
    lowest: f64,
}

/// All devices are found at their highest caps and all jobs run; every other
/// rack's agents die before control takes charge, which hears of all of them
/// still and waits for their answers. Control knows of `believed` curves, the
/// hall's breakers have `real` ones.
async fn found_at_full_power(believed: &str, real: &str) -> Seen {
    let mut world = World::of(Setup {
        site: site(believed),
        seed: 11,
        controllers: 1,
        sample_every: Duration::from_secs(1),
    })
    .await;
    let highest = world.site.devices.iter().map(|d| d.max_cap).collect();
    *lock(&world.hall) = Hall::new(
        site(real),
        HallConfig::new(START, 11),
        CapSource::Memory(highest),
    )
    .unwrap();
    world.second = Duration::from_millis(25);
    world.submit_jobs();
    for node in 0..world.site.nodes.len() {
        world.restart_agent(node, false).await;
    }
    world.reconnect().await;
    world.pass(3).await;
    let racks: Vec<usize> = world.site.nodes.iter().map(|n| n.rack).collect();
    for (node, rack) in racks.into_iter().enumerate() {
        if rack % 2 == 1 {
            let agent = AgentId::from(world.site.nodes[node].id.as_str());
            world.agents.remove(&agent).unwrap().kill().await;
        }
    }
    // From here on it is for control to see to.
    lock(&world.hall).reset_tally();
    world.start_controller(0);
    let mut seen = Seen {
        trips: 0,
        overloaded: 0,
        relieved: false,
        lowest: f64::INFINITY,
    };
    for _ in 0..55 {
        world.pass(1).await;
        let hall = lock(&world.hall);
        let nodes = world.site.power.nodes().iter().zip(hall.power_nodes());
        let over = nodes.filter(|(node, power)| **power > node.rating).count();
        seen.overloaded += u64::from(over > 0);
        let caps = (0..world.site.devices.len()).filter_map(|place| hall.device_cap(place));
        seen.lowest = caps.map(|cap| cap.0).fold(seen.lowest, f64::min);
    }
    seen.trips = lock(&world.hall).trips();
    let log = &world.seats[0].deps.decisions;
    seen.relieved = !log.latest(9, |d| d.kind == DecisionKind::Relief).is_empty();
    world.end().await;
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_slow_breaker_bears_is_used_and_a_fast_one_is_relieved_or_trips() {
    // Control relies on the slow curve: nobody gives way at once, the PDUs are
    // overloaded for longer than a fast one bears, and none trips.
    let slow = found_at_full_power(SLOW, SLOW).await;
    assert!(!slow.relieved && slow.overloaded > 10, "{slow:?}");
    assert_eq!(slow.trips, 0, "{slow:?}");
    // The same under breakers that are fast: the hall's judge says no.
    let wrong = found_at_full_power(SLOW, FAST).await;
    assert!(!wrong.relieved && wrong.trips > 0, "{wrong:?}");
    // Told so, control takes load off in time.
    let fast = found_at_full_power(FAST, FAST).await;
    assert!(
        fast.relieved && fast.overloaded < slow.overloaded,
        "{fast:?}"
    );
    assert_eq!(fast.trips, 0, "{fast:?}");
}
