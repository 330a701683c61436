//! A node whose management controller limits it as a whole: a real controller, a
//! real broker, a real agent over Redfish, and beside it one that caps its GPUs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "../../optimizer/tests/support/loop_world.rs"]
mod loop_world;
#[path = "../../collector/src/actuate/redfish/tests/server.rs"]
#[allow(dead_code, clippy::duplicate_mod, reason = "support of several tests")]
mod server;
#[path = "../../optimizer/tests/support/site.rs"]
mod sites;
#[path = "support/stage.rs"]
mod stage;

use heliostat_collector::actuate::redfish::{BmcAddress, Scope};
use heliostat_collector::actuate::{BmcCredentials, RedfishActuator};
use heliostat_collector::{AgentHandle, AgentStats, CapActuator, CapError};
use heliostat_models::lease::CappableDevice;
use heliostat_models::{DeviceId, Watts};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_store::Clock;
use loop_world::START;
use serde_json::Value;
use server::Server;
use stage::Stage;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: &str = "/redfish/v1/Chassis/Node0/Controls/NodePowerLimit";

/// A controller that is quick, so that an agent waits less long for room.
struct Quick(RedfishActuator);

impl CapActuator for Quick {
    fn devices(&mut self) -> Vec<CappableDevice> {
        self.0.devices()
    }
    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        self.0.set(device, uuid, cap)
    }
    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        self.0.current(device)
    }
}

/// Limits the second node of the stage as a whole.
fn actuator(stage: &Stage, server: &Server) -> RedfishActuator {
    let credentials = BmcCredentials {
        user: server::USER.into(),
        password: server::PASSWORD.into(),
    };
    let range = (Watts(1_800.0), Watts(2_800.0));
    RedfishActuator::new(
        &BmcAddress::new(&server.base, None).unwrap(),
        Some(credentials),
        &stage.world.site.nodes[1].id,
        None,
        Scope::Node { range },
        &stage.world.directory.path().join("limits"),
    )
    .unwrap()
}

/// What the management controller says of its limit.
fn limit(server: &Server) -> (Value, f64) {
    server.edit(|tree| {
        let limit = &tree.resources[LIMIT];
        let mode = limit["ControlMode"].clone();
        (mode, limit["SetPoint"].as_f64().unwrap())
    })
}

/// The operator limits the site.
fn ask_for(stage: &Stage, watts: f64) {
    stage.control.cancel_grid_event("dr-1");
    stage.control.submit_grid_event(GridEvent {
        id: "dr-1".into(),
        from: stage.world.clock.now(),
        to: stage.world.clock.now() + Duration::from_secs(36_000),
        ask: Ask::Limit(Watts(watts)),
        reason: "the operator asks".into(),
    });
}

/// Stops an agent while time goes on; what it counted.
async fn stop(stage: &Stage, agent: AgentHandle) -> AgentStats {
    let stopping = tokio::spawn(agent.stop());
    while !stopping.is_finished() {
        stage.second().await;
    }
    stopping.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_agent_stops_or_dies_under_a_lease_goes_back_once_there_is_room() {
    let stage = Stage::new(sites::small());
    let server = Server::start(server::hgx());
    let site = Arc::clone(&stage.world.site);
    let node = &site.nodes[1];
    let safe: Watts = (site.devices[node.devices.clone()].iter())
        .map(|d| d.safe_cap)
        .sum();
    let safe = ("Automatic".into(), (node.overhead + safe).0);
    let gpus = stage.gpus(0, Watts(400.0));
    let start = || stage.agent(1, Box::new(Quick(actuator(&stage, &server))));
    let mut agent = start();
    stage.world.run_job("train-1", 0..4, START);
    let has = |place: usize| {
        let limits = stage.limits.lock().unwrap();
        limits[&site.devices[place].id]
    };
    let is_lowered = || limit(&server).0 == "Automatic" && limit(&server).1 < 2_700.0;
    ask_for(&stage, 13_000.0);
    stage.until("a lease", is_lowered).await;
    stage.until("the other's", || has(0) > Watts(550.0)).await;

    // It stops: others give way, and it is off again while control goes on.
    let before = has(0);
    let stats = stop(&stage, agent).await;
    assert_eq!((stats.caps.restored, stats.caps.not_restored), (1, 0));
    assert_eq!(limit(&server).0, "Disabled");
    assert!(has(0) < before, "{} after {before}", has(0));

    // It comes back, is limited again, and is killed: what it had or the safe caps,
    // never more, and what was off is remembered.
    agent = start();
    stage.until("a lease again", is_lowered).await;
    let leased = limit(&server).1;
    agent.kill().await;
    agent = start();
    assert!(limit(&server).1 <= leased && limit(&server).0 == "Automatic");
    stage
        .until("a third lease", || limit(&server) != safe && is_lowered())
        .await;

    // There is no room: it keeps its safe caps, and the next start sees to it.
    ask_for(&stage, 11_600.0);
    let is_short = || limit(&server).1 < safe.1 && has(0) < Watts(350.0);
    stage.until("less", is_short).await;
    let stats = stop(&stage, agent).await;
    assert_eq!((stats.caps.restored, stats.caps.not_restored), (0, 1));
    assert!(limit(&server).0 == "Automatic" && limit(&server).1 <= safe.1);
    agent = start();
    ask_for(&stage, 14_000.0);
    stage.until("room", || limit(&server).1 > safe.1).await;
    let stats = stop(&stage, agent).await;
    assert_eq!((stats.caps.restored, stats.caps.not_restored), (1, 0));
    assert_eq!(limit(&server).0, "Disabled", "as it was found");
    stage.control.stop().await;
    gpus.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_limited_as_a_whole_follows_what_is_decided_for_its_accelerators() {
    let stage = Stage::new(sites::small());
    let server = Server::start(server::hgx());
    let site = Arc::clone(&stage.world.site);
    let node = &site.nodes[1];
    let devices = &site.devices[node.devices.clone()];
    assert_eq!(limit(&server), ("Disabled".into(), 0.0));
    let agents = [
        stage.gpus(0, Watts(400.0)),
        stage.agent(1, Box::new(actuator(&stage, &server))),
    ];
    // What is decided for the accelerators together, and the limit made of it.
    let decided = || -> f64 {
        let view = stage.control.view().borrow().clone();
        let each = devices.iter().map(|d| view.caps.get(&d.id));
        each.map(|c| c.map_or(0.0, |c| c.decided.0)).sum()
    };
    let is_as_decided = || {
        let ordered = (node.overhead.0 + decided() + 1e-6).floor();
        limit(&server) == ("Automatic".into(), ordered)
    };
    // One job over both nodes: its devices share a cap, however it is kept.
    stage.world.run_job("train-1", 0..4, START);
    // With room for all it gets all but the last watt: the highest means off.
    let highest = 2_753.0 - node.overhead.0;
    let is_highest = || is_as_decided() && decided() == highest;
    stage.until("the highest caps", is_highest).await;

    // A grid event: the node's limit comes down with the other caps.
    stage.control.submit_grid_event(GridEvent {
        id: "dr-1".into(),
        from: stage.world.clock.now(),
        to: stage.world.clock.now() + Duration::from_secs(3_600),
        ask: Ask::Limit(Watts(13_000.0)),
        reason: "the operator asks".into(),
    });
    let is_lowered = || is_as_decided() && decided() < highest - 100.0;
    stage.until("the limit lowered", is_lowered).await;
    let is_acknowledged = || {
        let view = stage.control.view().borrow().clone();
        site.devices[..4].iter().all(|d| {
            let cap = view.caps.get(&d.id).unwrap();
            let has = cap.acknowledged.unwrap_or_default();
            (cap.decided - has).0.abs() < 1.0
        })
    };
    stage.until("answers", is_acknowledged).await;
    let view = stage.control.view().borrow().clone();
    let cap = |place: usize| *view.caps.get(&site.devices[place].id).unwrap();
    let marked = |place: usize| cap(place).by_node_limit;
    assert_eq!([0, 1, 2, 3].map(marked), [false, false, true, true]);
    assert_eq!(cap(0).decided, cap(3).decided, "one gang");
    let said = stage.story();
    assert!(
        said.iter().any(|r| r.contains("kept by the node's limit")),
        "{said:?}"
    );
    stage.control.cancel_grid_event("dr-1");
    stage.until("the highest caps again", is_highest).await;

    // Control ends, and with it the leases; the agent says good-bye.
    stage.control.stop().await;
    let safe: Watts = devices.iter().map(|d| d.safe_cap).sum();
    let is_safe = || limit(&server) == ("Automatic".into(), (node.overhead + safe).0);
    stage.until("the safe caps", is_safe).await;
    for agent in agents {
        agent.stop().await;
    }
    assert_eq!(limit(&server).0, "Disabled", "as it was found");
}
