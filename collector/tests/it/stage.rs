//! What the tests need around an agent: a store in memory, a broker that can
//! be taken away, a site, a clock that is moved by hand.

use async_trait::async_trait;
use heliostat_collector::{
    Agent, AgentConfig, AgentHandle, Broker, CapActuator, Ingest, IngestHandle, MqttConfig,
    Pseudonymiser, Source, SourceError,
};
use heliostat_models::site::config;
use heliostat_models::{AgentId, Catalogue, DeviceId, Frame, Reading, Site, Timestamp};
use heliostat_store::jobs::JobTable;
use heliostat_store::query::StoreStats;
use heliostat_store::{Answer, AppendReceipt, Query, SteppedClock, StoreError, TimeSeriesStore};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Where the clock starts.
pub const START: Timestamp = Timestamp::from_seconds(1_520_000_000);

/// Frames by device and instant; can be told to have a full disk.
#[derive(Default)]
pub struct MemoryStore {
    pub frames: Mutex<BTreeMap<(DeviceId, Timestamp), Frame>>,
    pub full: AtomicBool,
}

#[async_trait]
impl TimeSeriesStore for MemoryStore {
    async fn append(&self, frames: Vec<Frame>) -> Result<AppendReceipt, StoreError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(StoreError::DiskFull {
                path: "/test".into(),
            });
        }
        let mut receipt = AppendReceipt::default();
        let mut stored = self.frames.lock().unwrap();
        for frame in frames {
            let samples = frame.readings.len() as u64;
            match stored.entry((frame.device.clone(), frame.at)) {
                Entry::Vacant(free) => {
                    receipt.frames += 1;
                    receipt.samples += samples;
                    free.insert(frame);
                }
                Entry::Occupied(_) => {
                    receipt.duplicates += 1;
                    receipt.duplicate_samples += samples;
                }
            }
        }
        Ok(receipt)
    }
    async fn query(&self, _: &Query) -> Result<Answer, StoreError> {
        Err(StoreError::BadQuery("these tests do not ask".into()))
    }
    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}

/// A broker behind a connection that can be cut. When it is mended, a fresh
/// broker stands behind it that knows nothing, as after a restart.
pub struct Wire {
    pub address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl Wire {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap(),
            target: Arc::default(),
            connections: Arc::default(),
        };
        let (target, connections) = (Arc::clone(&wire.target), Arc::clone(&wire.connections));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let Some(target) = *target.lock().unwrap() else {
                    continue;
                };
                connections.lock().unwrap().spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        wire
    }
    /// Puts a fresh broker behind the wire.
    pub fn mend(&self) {
        let broker = Broker::start("127.0.0.1:0".parse().unwrap()).unwrap();
        *self.target.lock().unwrap() = Some(broker.address());
    }
    /// Breaks all connections and refuses new ones.
    pub fn cut(&self) {
        *self.target.lock().unwrap() = None;
        self.connections.lock().unwrap().abort_all();
    }
}

/// A source that always says the power of one GPU.
pub struct OneGpu {
    pub name: String,
    pub device: DeviceId,
}

impl Source for OneGpu {
    fn name(&self) -> &str {
        &self.name
    }
    fn sample(&mut self, at: Timestamp) -> Result<Vec<Frame>, SourceError> {
        let readings = vec![
            (
                Catalogue::gpu_power(),
                Reading::Measured(at.seconds() % 700.0),
            ),
            (Catalogue::gpu_temperature(), Reading::Missing),
        ];
        Ok(vec![Frame {
            device: self.device.clone(),
            at,
            readings,
        }])
    }
}

/// Everything, in a directory that is removed at the end.
pub struct Stage {
    pub dir: tempfile::TempDir,
    pub site: Arc<Site>,
    pub store: Arc<MemoryStore>,
    pub jobs: Arc<JobTable>,
    pub clock: Arc<SteppedClock>,
    pub now: Timestamp,
}

impl Stage {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let loaded = config::load(
            "demo.toml",
            config::builtin_demo(),
            config::LoadOptions::default(),
        );
        Self {
            site: Arc::new(loaded.site.unwrap()),
            store: Arc::default(),
            jobs: Arc::new(JobTable::open(dir.path()).unwrap()),
            clock: Arc::new(SteppedClock::new(START)),
            now: START,
            dir,
        }
    }
    /// The first node's name, which is its agent's.
    pub fn node(&self) -> AgentId {
        AgentId::from(self.site.nodes[0].id.as_str())
    }
    /// A device of the first node.
    pub fn gpu(&self, index: usize) -> DeviceId {
        self.site.devices[self.site.nodes[0].devices.clone()][index]
            .id
            .clone()
    }
    pub fn spool(&self) -> PathBuf {
        self.dir.path().join("spool")
    }
    pub fn config(&self, broker: SocketAddr) -> AgentConfig {
        AgentConfig {
            agent: self.node(),
            site: self.site.id.clone(),
            mqtt: MqttConfig::from(broker),
            spool_dir: self.spool(),
            sample_every: Duration::from_secs(10),
            spool_limit_bytes: 16 << 20,
            arm: true,
        }
    }
    pub fn agent(&self, broker: SocketAddr, actuator: Option<Box<dyn CapActuator>>) -> AgentHandle {
        self.agent_with(self.config(broker), actuator)
    }
    pub fn agent_with(
        &self,
        config: AgentConfig,
        actuator: Option<Box<dyn CapActuator>>,
    ) -> AgentHandle {
        let source = OneGpu {
            name: "gpu".into(),
            device: self.gpu(0),
        };
        Agent::start(config, vec![Box::new(source)], actuator, self.clock.clone()).unwrap()
    }
    pub fn ingest(&self, broker: SocketAddr) -> IngestHandle {
        self.ingest_with(MqttConfig::from(broker))
    }
    pub fn ingest_with(&self, mqtt: MqttConfig) -> IngestHandle {
        let key = Pseudonymiser::open(&self.dir.path().join("key")).unwrap();
        Ingest::start(
            mqtt,
            Arc::clone(&self.site),
            Arc::clone(&self.store) as Arc<dyn TimeSeriesStore>,
            Arc::clone(&self.jobs),
            key,
            self.clock.clone(),
        )
        .unwrap()
    }
    /// Moves the clock over `count` instants of 10 s, each sampled before the next.
    pub async fn walk(&mut self, agent: &AgentHandle, count: usize) {
        agent.wait_sampled_until(self.now).await;
        for _ in 0..count {
            self.now = self.now + Duration::from_secs(10);
            self.clock.advance_to(self.now);
            agent.wait_sampled_until(self.now).await;
        }
    }
    /// What the clock shows.
    pub fn clock_now(&self) -> Timestamp {
        heliostat_store::Clock::now(&*self.clock)
    }
    /// How many frames of the first GPU are stored.
    pub fn stored(&self) -> usize {
        self.store.frames.lock().unwrap().len()
    }
}

/// Waits until something is so; fails with its name after 20 s.
pub async fn until(what: &str, mut so: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}
