//! A real controller, a real embedded broker and real agents around a site of eight
//! devices, with a clock that is told to move.
#![allow(dead_code)]

use super::loop_world::LoopWorld;
use heliostat_collector::{
    Agent, AgentConfig, AgentHandle, Broker, CapActuator, CapError, MqttConfig,
};
use heliostat_models::lease::CappableDevice;
use heliostat_models::{AgentId, DeviceId, Site, Watts};
use heliostat_optimizer::control::{ControlHandle, Controller, ControllerConfig};
use heliostat_store::Clock;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the network gets for a second of the site's time.
const SECOND: Duration = Duration::from_millis(20);
/// How long leases last: two seconds here, so that a busy machine is in time.
pub const LEASE: Duration = Duration::from_secs(100);

/// Limits as the hardware has them.
pub type Limits = Arc<Mutex<BTreeMap<DeviceId, Watts>>>;

/// GPUs that keep what they are told.
struct Gpus {
    devices: Vec<CappableDevice>,
    limits: Limits,
}

impl CapActuator for Gpus {
    fn devices(&mut self) -> Vec<CappableDevice> {
        self.devices.clone()
    }
    fn set(&mut self, device: &DeviceId, _uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        self.current(device)?;
        self.limits.lock().unwrap().insert(device.clone(), cap);
        Ok(cap)
    }
    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        let limits = self.limits.lock().unwrap();
        let known = limits.get(device).copied();
        known.ok_or_else(|| CapError::UnknownDevice(device.clone()))
    }
}

pub struct Stage {
    pub world: LoopWorld,
    pub control: ControlHandle,
    pub limits: Limits,
    broker: SocketAddr,
}

impl Stage {
    /// A controller that is armed, and no agent yet.
    pub fn new(site: Arc<Site>) -> Self {
        let broker = Broker::start("127.0.0.1:0".parse().unwrap()).unwrap();
        Self::at(site, broker.address())
    }

    /// The same, with a broker that is somewhere else.
    pub fn at(site: Arc<Site>, broker: SocketAddr) -> Self {
        let world = LoopWorld::new(site);
        let mut policy = world.site.control.clone();
        policy.allocate_every = Duration::from_secs(2);
        policy.lease = LEASE;
        let config = ControllerConfig {
            mqtt: MqttConfig::from(broker),
            armed: true,
            policy,
            planner_enabled: false,
            identity: None,
            directory: None,
        };
        let control = Controller::start(config, world.deps.clone()).unwrap();
        Self {
            broker,
            limits: Limits::default(),
            control,
            world,
        }
    }

    /// A node's agent.
    pub fn agent(&self, node: usize, actuator: Box<dyn CapActuator>) -> AgentHandle {
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

    /// The agent of a node whose GPUs are capped, each found at this.
    pub fn gpus(&self, node: usize, found: Watts) -> AgentHandle {
        let node_of = &self.world.site.nodes[node];
        let devices: Vec<CappableDevice> = (self.world.site.devices[node_of.devices.clone()]
            .iter())
        .map(|d| CappableDevice {
            device: d.id.clone(),
            uuid: format!("GPU-{}", d.id),
            product: "test".into(),
            min: d.min_cap,
            max: d.max_cap,
            found,
            current: found,
        })
        .collect();
        let named = devices.iter().map(|d| (d.device.clone(), found));
        self.limits.lock().unwrap().extend(named);
        let limits = Arc::clone(&self.limits);
        self.agent(node, Box::new(Gpus { devices, limits }))
    }

    /// Lets a second pass.
    pub async fn second(&self) {
        let clock = &self.world.clock;
        clock.advance_to(clock.now() + Duration::from_secs(1));
        tokio::time::sleep(SECOND).await;
    }

    /// Lets seconds pass until something is so.
    pub async fn until(&self, what: &str, good: impl Fn() -> bool) {
        self.until_within(300, what, good).await;
    }

    /// The same, where so many seconds may pass.
    pub async fn until_within(&self, seconds: usize, what: &str, good: impl Fn() -> bool) {
        for _ in 0..seconds {
            if good() {
                return;
            }
            self.second().await;
        }
        panic!("never: {what}; {:#?}", self.story());
    }

    /// What the log of decisions says.
    pub fn story(&self) -> Vec<String> {
        let log = &self.world.deps.decisions;
        (log.latest(20, |_| true).iter())
            .map(|d| format!("{} {}", d.summary, d.reason))
            .collect()
    }
}
