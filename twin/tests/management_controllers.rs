//! A node limited as a whole by its management controller, under armed control, when
//! that controller reverts its limit, says nothing, refuses, and when the broker goes:
//! the same over Redfish and over IPMI, each on a socket of its own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "../../collector/src/actuate/ipmi/tests/controller.rs"]
#[allow(
    dead_code,
    clippy::new_without_default,
    reason = "support of several tests"
)]
mod controller;
#[path = "../../collector/src/actuate/ipmi/tests/lan.rs"]
#[allow(dead_code, reason = "support of several tests")]
mod lan;
#[path = "../../optimizer/tests/support/loop_world.rs"]
mod loop_world;
#[path = "../../collector/src/actuate/redfish/tests/server.rs"]
#[allow(dead_code, clippy::duplicate_mod, reason = "support of several tests")]
mod server;
#[path = "../../optimizer/tests/support/site.rs"]
mod sites;
#[path = "support/stage.rs"]
mod stage;
#[path = "support/wire.rs"]
#[allow(dead_code, reason = "support of several tests")]
mod wire;

use heliostat_collector::actuate::ipmi::IpmiAddress;
use heliostat_collector::actuate::redfish::{BmcAddress, Scope};
use heliostat_collector::actuate::{BmcCredentials, IpmiActuator, RedfishActuator};
use heliostat_collector::{Broker, CapActuator};
use heliostat_models::Watts;
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_optimizer::view::ControlState;
use heliostat_store::Clock;
use loop_world::START;
use serde_json::json;
use stage::Stage;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: &str = "/redfish/v1/Chassis/Node0/Controls/NodePowerLimit";
/// What the site says of the node.
const RANGE: (Watts, Watts) = (Watts(1_800.0), Watts(2_800.0));

/// A management controller, and what it can do to us.
trait Bmc {
    fn actuator(&self, stage: &Stage) -> Box<dyn CapActuator>;
    /// What holds; none where the limit is off.
    fn limit(&self) -> Option<f64>;
    /// It switches its limit off by itself.
    fn reverts(&self);
    fn says_nothing(&self, so: bool);
    fn refuses(&self, so: bool);
}

impl Bmc for server::Server {
    fn actuator(&self, stage: &Stage) -> Box<dyn CapActuator> {
        let credentials = BmcCredentials {
            user: server::USER.into(),
            password: server::PASSWORD.into(),
        };
        let actuator = RedfishActuator::new(
            &BmcAddress::new(&self.base, None).unwrap(),
            Some(credentials),
            &stage.world.site.nodes[1].id,
            None,
            Scope::Node { range: RANGE },
            &stage.world.directory.path().join("limits"),
        );
        Box::new(actuator.unwrap())
    }

    fn limit(&self) -> Option<f64> {
        self.edit(|tree| {
            let limit = &tree.resources[LIMIT];
            (limit["ControlMode"] == "Automatic").then(|| limit["SetPoint"].as_f64().unwrap())
        })
    }

    fn reverts(&self) {
        self.edit(|tree| tree.touch(LIMIT, "/ControlMode", json!("Disabled")));
    }

    fn says_nothing(&self, so: bool) {
        self.edit(|tree| tree.silent = so);
    }

    fn refuses(&self, so: bool) {
        self.edit(|tree| tree.read_only = so);
    }
}

impl Bmc for lan::Lan {
    fn actuator(&self, stage: &Stage) -> Box<dyn CapActuator> {
        let credentials = BmcCredentials {
            user: lan::USER.into(),
            password: lan::PASSWORD.into(),
        };
        let actuator = IpmiActuator::new(
            &IpmiAddress::new(&format!("127.0.0.1:{}", self.port)),
            Some(credentials),
            &stage.world.site.nodes[1].id,
            RANGE,
            &stage.world.directory.path().join("limits"),
        );
        Box::new(actuator.unwrap())
    }

    fn limit(&self) -> Option<f64> {
        self.edit(|bmc| bmc.controller.in_force().map(f64::from))
    }

    fn reverts(&self) {
        self.edit(|bmc| bmc.controller.active = false);
    }

    fn says_nothing(&self, so: bool) {
        self.edit(|bmc| bmc.silent = so);
    }

    fn refuses(&self, so: bool) {
        // The command is not supported in the present state.
        self.edit(|bmc| bmc.controller.refuses = so.then_some(0xd5));
    }
}

/// The operator limits the site to this.
fn ask_for(stage: &Stage, watts: f64) {
    stage.control.cancel_grid_event("dr-1");
    stage.control.submit_grid_event(GridEvent {
        id: "dr-1".into(),
        from: stage.world.clock.now(),
        to: stage.world.clock.now() + Duration::from_secs(360_000),
        ask: Ask::Limit(Watts(watts)),
        reason: "the operator asks".into(),
    });
}

/// Whatever the management controller does, the two nodes together keep to what is
/// left to them; and when it is well again, so is control.
async fn goes_through(bmc: impl Bmc) {
    let broker = Broker::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let wire = wire::Wire::to(broker.address()).await;
    let stage = Stage::at(sites::small(), wire.address);
    let site = Arc::clone(&stage.world.site);
    let node = &site.nodes[1];
    let devices = &site.devices[node.devices.clone()];
    assert_eq!(bmc.limit(), None);
    let gpus = stage.gpus(0, Watts(400.0));
    let agent = stage.agent(1, bmc.actuator(&stage));
    // One job over both nodes: its devices share a cap, however it is kept.
    stage.world.run_job("train-1", 0..4, START);
    ask_for(&stage, 13_000.0);
    let decided = |place: usize| -> f64 {
        let view = stage.control.view().borrow().clone();
        let cap = view.caps.get(&site.devices[place].id);
        cap.map_or(0.0, |c| c.decided.0)
    };
    let has = |place: usize| -> f64 { stage.limits.lock().unwrap()[&site.devices[place].id].0 };
    let ordered = || (node.overhead.0 + decided(2) + decided(3) + 1e-6).floor();
    let state = || stage.control.view().borrow().state;
    let is_well = || {
        let limit = bmc.limit();
        limit == Some(ordered()) && limit < Some(2_700.0) && (has(0) - decided(0)).abs() < 1.0
    };
    let both = || bmc.limit().unwrap_or(2_800.0) - node.overhead.0 + has(0) + has(1);
    stage.until("a limit as decided", is_well).await;
    let room = both();

    // It switches the limit off by itself: set again at the next look, and told.
    bmc.reverts();
    stage.until("the limit set again", is_well).await;
    assert_eq!(agent.stats().caps.reverts_corrected, 1);

    // It says nothing: nobody knows what its node may draw, so it counts with all of it.
    bmc.says_nothing(true);
    let gave_way = || has(0) + has(1) <= room - 1_400.0 + 1.0 && state() == ControlState::Degraded;
    stage
        .until_within(3_000, "the others give way", gave_way)
        .await;
    let said = stage.story();
    assert!(
        said.iter().any(|r| r.contains(node.id.as_str())),
        "{said:?}"
    );
    bmc.says_nothing(false);
    stage.until_within(3_000, "a limit again", is_well).await;
    assert!(both() <= room + 1.0, "{} of {room} W", both());

    // It refuses: it counts with what it has, and the others bear the whole cut.
    let before = bmc.limit();
    bmc.refuses(true);
    ask_for(&stage, 12_500.0);
    let bear_it = || has(0) < decided(2) - 50.0 && state() == ControlState::Degraded;
    stage.until("the others bear it", bear_it).await;
    // It is asked again with its agent's hellos, not at every other round.
    let mut borne = 0;
    for _ in 0..50 {
        stage.second().await;
        assert_eq!(bmc.limit(), before);
        borne += usize::from(bear_it());
    }
    assert!(borne >= 40, "{borne}: {:#?}", stage.story());
    let less = both();
    bmc.refuses(false);

    // The broker goes, and with it the leases.
    wire.cut();
    let safe: f64 = devices.iter().map(|d| d.safe_cap.0).sum();
    let is_safe = || bmc.limit() == Some(node.overhead.0 + safe) && state() == ControlState::Safe;
    stage.until("safe caps", is_safe).await;
    wire.lead_to(broker.address());
    stage
        .until("control again", || {
            is_well() && state() != ControlState::Safe
        })
        .await;
    assert!(both() <= less + 1.0, "{} of {less} W", both());

    // Control ends, and with it the leases; the agent says good-bye.
    stage.control.stop().await;
    stage
        .until("safe caps", || bmc.limit() == Some(node.overhead.0 + safe))
        .await;
    let stats = agent.stop().await.caps;
    assert_eq!((stats.restored, stats.restore_failures), (1, 0));
    assert_eq!(bmc.limit(), None, "as it was found");
    gpus.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redfish_controller_with_moods_breaks_no_limit_and_comes_back() {
    goes_through(server::Server::start(server::hgx())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ipmi_controller_with_moods_breaks_no_limit_and_comes_back() {
    goes_through(lan::Lan::start(controller::Controller::off())).await;
}
