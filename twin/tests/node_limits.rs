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

use heliostat_collector::actuate::redfish::{BmcAddress, Scope};
use heliostat_collector::actuate::{BmcCredentials, RedfishActuator};
use heliostat_collector::{
    Agent, AgentConfig, AgentHandle, Broker, CapActuator, CapError, MqttConfig,
};
use heliostat_models::lease::CappableDevice;
use heliostat_models::{AgentId, DecisionKind, DeviceId, Watts};
use heliostat_optimizer::control::{ControlHandle, Controller, ControllerConfig};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_store::Clock;
use loop_world::{LoopWorld, START};
use serde_json::Value;
use server::Server;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const LIMIT: &str = "/redfish/v1/Chassis/Node0/Controls/NodePowerLimit";
/// How long the network gets for a second of the site's time.
const SECOND: Duration = Duration::from_millis(20);
const LEASE: Duration = Duration::from_secs(20);

/// GPUs that keep what they are told.
struct Gpus(Vec<CappableDevice>);

impl CapActuator for Gpus {
    fn devices(&mut self) -> Vec<CappableDevice> {
        self.0.clone()
    }
    fn set(&mut self, device: &DeviceId, _uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        let known = self.0.iter_mut().find(|d| d.device == *device);
        known.map_or_else(
            || Err(CapError::UnknownDevice(device.clone())),
            |known| {
                known.current = cap;
                Ok(cap)
            },
        )
    }
    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        let known = self.0.iter().find(|d| d.device == *device);
        (known.map(|d| d.current)).ok_or_else(|| CapError::UnknownDevice(device.clone()))
    }
}

/// The stage: the first node's GPUs are capped, the second is limited as a whole.
struct Stage {
    world: LoopWorld,
    server: Server,
    broker: SocketAddr,
    control: ControlHandle,
}

impl Stage {
    fn new() -> Self {
        let world = LoopWorld::new(sites::small());
        let broker = Broker::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let mut policy = world.site.control.clone();
        policy.allocate_every = Duration::from_secs(2);
        policy.lease = LEASE;
        let config = ControllerConfig {
            mqtt: MqttConfig::from(broker.address()),
            armed: true,
            policy,
            planner_enabled: false,
            identity: None,
        };
        let control = Controller::start(config, world.deps.clone()).unwrap();
        Self {
            server: Server::start(server::hgx()),
            broker: broker.address(),
            control,
            world,
        }
    }

    fn agent(&self, node: usize, actuator: Box<dyn CapActuator>) -> AgentHandle {
        let name = self.world.site.nodes[node].id.as_str();
        let config = AgentConfig {
            agent: AgentId::from(name),
            site: self.world.site.id.clone(),
            mqtt: MqttConfig::from(self.broker),
            spool_dir: self.world.directory.path().join(name),
            sample_every: Duration::from_secs(1),
            spool_limit_bytes: 1 << 20,
            arm: true,
        };
        let clock = Arc::clone(&self.world.clock) as Arc<dyn Clock>;
        Agent::start(config, Vec::new(), Some(actuator), clock).unwrap()
    }

    fn gpus(&self) -> AgentHandle {
        let node = &self.world.site.nodes[0];
        let devices = (self.world.site.devices[node.devices.clone()].iter())
            .map(|d| CappableDevice {
                device: d.id.clone(),
                uuid: format!("GPU-{}", d.id),
                product: "test".into(),
                min: d.min_cap,
                max: d.max_cap,
                found: d.safe_cap,
                current: d.safe_cap,
            })
            .collect();
        self.agent(0, Box::new(Gpus(devices)))
    }

    fn whole(&self) -> AgentHandle {
        let node = &self.world.site.nodes[1];
        let credentials = BmcCredentials {
            user: server::USER.into(),
            password: server::PASSWORD.into(),
        };
        let actuator = RedfishActuator::new(
            &BmcAddress::new(&self.server.base, None).unwrap(),
            Some(credentials),
            &node.id,
            None,
            Scope::Node {
                range: (Watts(1_800.0), Watts(2_800.0)),
            },
            &self.world.directory.path().join("limits"),
        );
        self.agent(1, Box::new(actuator.unwrap()))
    }

    /// What the management controller says of its limit.
    fn limit(&self) -> (Value, f64) {
        self.server.edit(|tree| {
            let limit = &tree.resources[LIMIT];
            let mode = limit["ControlMode"].clone();
            (mode, limit["SetPoint"].as_f64().unwrap())
        })
    }

    /// What is decided for the accelerators of the second node, together.
    fn decided(&self) -> f64 {
        let view = self.control.view().borrow().clone();
        (self.world.site.devices[self.world.site.nodes[1].devices.clone()].iter())
            .map(|d| view.caps.get(&d.id).map_or(0.0, |c| c.decided.0))
            .sum()
    }

    /// Whether the limit is what the decided caps and the overhead make of it.
    fn is_as_decided(&self) -> bool {
        let overhead = self.world.site.nodes[1].overhead.0;
        let limit = self.limit();
        limit.0 == "Automatic" && limit.1 == (overhead + self.decided() + 1e-6).floor()
    }

    /// Lets seconds pass until something is so.
    async fn until(&self, what: &str, good: impl Fn(&Self) -> bool) {
        for _ in 0..300 {
            if good(self) {
                return;
            }
            let clock = &self.world.clock;
            clock.advance_to(clock.now() + Duration::from_secs(1));
            tokio::time::sleep(SECOND).await;
        }
        let log = &self.world.deps.decisions;
        let story: Vec<String> = (log.latest(9, |_| true).iter())
            .map(|d| format!("{} {}", d.summary, d.reason))
            .collect();
        let (limit, decided) = (self.limit(), self.decided());
        panic!("never: {what}; {limit:?}, {decided} W decided; {story:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_limited_as_a_whole_follows_what_is_decided_for_its_accelerators() {
    let stage = Stage::new();
    let site = Arc::clone(&stage.world.site);
    assert_eq!(stage.limit(), ("Disabled".into(), 0.0));
    let agents = [stage.gpus(), stage.whole()];
    // One job over both nodes: its devices share a cap, however it is kept.
    stage.world.run_job("train-1", 0..4, START);
    let overhead = site.nodes[1].overhead.0;
    // With room for all it gets all but the last watt: the highest means off.
    let highest = 2_753.0 - overhead;
    let decided = |s: &Stage| s.is_as_decided() && s.decided() == highest;
    stage.until("the highest caps", decided).await;

    // A grid event: the node's limit comes down with the other caps.
    stage.control.submit_grid_event(GridEvent {
        id: "dr-1".into(),
        from: stage.world.clock.now(),
        to: stage.world.clock.now() + Duration::from_secs(3_600),
        ask: Ask::Limit(Watts(13_000.0)),
        reason: "the operator asks".into(),
    });
    let lowered = |s: &Stage| s.is_as_decided() && s.decided() < highest - 100.0;
    stage.until("the node's limit as decided", lowered).await;
    let acknowledged = |s: &Stage| {
        let view = s.control.view().borrow().clone();
        let near = |d: &heliostat_models::site::Device| {
            let cap = view.caps.get(&d.id).unwrap();
            let has = cap.acknowledged.unwrap_or_default();
            (cap.decided - has).0.abs() < 1.0
        };
        site.devices[..4].iter().all(near)
    };
    stage.until("answers", acknowledged).await;
    let view = stage.control.view().borrow().clone();
    let cap = |place: usize| *view.caps.get(&site.devices[place].id).unwrap();
    let marked = |place: usize| cap(place).by_node_limit;
    assert_eq!([0, 1, 2, 3].map(marked), [false, false, true, true]);
    assert_eq!(cap(0).decided, cap(3).decided, "one gang");
    let log = &stage.world.deps.decisions;
    let said = log.latest(20, |d| d.kind == DecisionKind::Allocation);
    let said: Vec<&str> = said.iter().map(|d| d.reason.as_str()).collect();
    assert!(
        said.iter().any(|r| r.contains("kept by the node's limit")),
        "{said:?}"
    );
    stage.control.cancel_grid_event("dr-1");
    stage.until("the highest caps again", decided).await;

    // Control ends, and with it the leases; the agent says good-bye.
    stage.control.stop().await;
    let safe: Watts = site.devices[site.nodes[1].devices.clone()]
        .iter()
        .map(|d| d.safe_cap)
        .sum();
    let is_safe = |s: &Stage| s.limit() == ("Automatic".into(), overhead + safe.0);
    stage.until("the safe caps", is_safe).await;
    for agent in agents {
        agent.stop().await;
    }
    assert_eq!(stage.limit().0, "Disabled", "as it was found");
}
