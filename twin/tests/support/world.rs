//! A hall with its own breakers, real agents and controllers around a real
//! broker, and everything between them that can fail.

use async_trait::async_trait;
use heliostat_collector::{
    Agent, AgentConfig, AgentHandle, Broker, CapActuator, CapError, MqttConfig, Source,
};
use heliostat_models::gpu::WorkloadFamily;
use heliostat_models::lease::CappableDevice;
use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
use heliostat_models::{
    AgentId, Catalogue, DecisionKind, DeviceId, Frame, JobClass, JobId, Reading, Site, Timestamp,
    Watts,
};
use heliostat_optimizer::control::{ControlHandle, Controller, ControllerConfig, ControllerDeps};
use heliostat_store::decisions::DecisionLog;
use heliostat_store::jobs::JobTable;
use heliostat_store::query::StoreStats;
use heliostat_store::{
    Answer, AppendReceipt, Clock, Query, SteppedClock, StoreError, TimeSeriesStore,
};
use heliostat_twin::{CapSource, FacilitySource, Hall, HallConfig, JobSpec, NodeSensorSource};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub const START: Timestamp = Timestamp(1_530_000_000_000);
/// How long the network and everybody's answers get for each second of the
/// site's time where a test does not say otherwise.
const SECOND: Duration = Duration::from_millis(15);
/// Longest wait for a controller to have seen a second pass.
const SEEN: Duration = Duration::from_millis(500);

pub fn broker() -> SocketAddr {
    Broker::start("127.0.0.1:0".parse().unwrap())
        .unwrap()
        .address()
}

/// A stretch of network that can be cut, and led elsewhere.
pub struct Wire {
    pub address: SocketAddr,
    target: Arc<Mutex<Option<SocketAddr>>>,
    connections: Arc<Mutex<JoinSet<()>>>,
}

impl Wire {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wire = Self {
            address: listener.local_addr().unwrap(),
            target: Arc::new(Mutex::new(Some(target))),
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

    pub fn cut(&self) {
        *self.target.lock().unwrap() = None;
        self.connections.lock().unwrap().abort_all();
    }

    pub fn lead_to(&self, target: SocketAddr) {
        self.cut();
        *self.target.lock().unwrap() = Some(target);
    }
}

/// The latest frame of each device.
#[derive(Default)]
pub struct Latest {
    frames: Mutex<HashMap<DeviceId, Frame>>,
    version: AtomicU64,
}

#[async_trait]
impl TimeSeriesStore for Latest {
    async fn append(&self, frames: Vec<Frame>) -> Result<AppendReceipt, StoreError> {
        let mut latest = self.frames.lock().unwrap();
        for frame in frames {
            if latest.get(&frame.device).is_none_or(|f| f.at <= frame.at) {
                latest.insert(frame.device.clone(), frame);
            }
        }
        self.version.fetch_add(1, Ordering::Relaxed);
        Ok(AppendReceipt::default())
    }
    async fn query(&self, query: &Query) -> Result<Answer, StoreError> {
        Ok(match query {
            Query::Latest { since, .. } => {
                let frames = self.frames.lock().unwrap();
                let fresh = frames.values().filter(|f| f.at >= *since);
                Answer::Frames(fresh.cloned().collect())
            }
            _ => Answer::Series(Vec::new()),
        })
    }
    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
    fn version(&self) -> Option<u64> {
        Some(self.version.load(Ordering::Relaxed))
    }
}

/// The hall, also while a test that holds it fails.
fn lock(hall: &Mutex<Hall>) -> MutexGuard<'_, Hall> {
    hall.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node's devices: their limits are the hall's, and outlive the agent.
struct HallDevices {
    hall: Arc<Mutex<Hall>>,
    devices: Vec<(usize, CappableDevice)>,
}

impl CapActuator for HallDevices {
    fn devices(&mut self) -> Vec<CappableDevice> {
        let hall = lock(&self.hall);
        (self.devices.iter())
            .map(|(place, known)| {
                let current = hall.device_cap(*place).unwrap();
                CappableDevice {
                    found: current,
                    current,
                    ..known.clone()
                }
            })
            .collect()
    }
    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        let known = self.devices.iter().find(|(_, d)| d.device == *device);
        let (place, known) = known.ok_or_else(|| CapError::UnknownDevice(device.clone()))?;
        assert!(known.min <= cap && cap <= known.max, "{cap} for {device}");
        if uuid != known.uuid {
            return Err(CapError::WrongDevice {
                device: device.clone(),
                expected: uuid.to_owned(),
                found: known.uuid.clone(),
            });
        }
        let mut hall = lock(&self.hall);
        hall.set_cap(*place, cap);
        let now = hall.now();
        // An instant not after the present only reads limits.
        hall.step(now);
        Ok(cap)
    }
    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        let known = self.devices.iter().find(|(_, d)| d.device == *device);
        let (place, _) = known.ok_or_else(|| CapError::UnknownDevice(device.clone()))?;
        Ok(lock(&self.hall).device_cap(*place).unwrap())
    }
}

/// What happens to readings on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Telemetry {
    /// Share lost.
    pub lost: f64,
    /// Share that comes late, and by how many seconds.
    pub late: (f64, u32),
    /// Share that comes twice.
    pub twice: f64,
    /// Share of sensors that say something else, and what they make of a value.
    pub wrong: (f64, f64),
}

/// A controller: what it runs on, and whether it runs.
pub struct Seat {
    pub wire: Wire,
    pub deps: ControllerDeps,
    pub handle: Option<ControlHandle>,
    identity: String,
    _directory: TempDir,
}

pub struct World {
    pub site: Arc<Site>,
    pub clock: Arc<SteppedClock>,
    pub hall: Arc<Mutex<Hall>>,
    pub broker: SocketAddr,
    pub seats: Vec<Seat>,
    /// Two halves of the agents, each behind a wire.
    pub halves: [Wire; 2],
    pub agents: BTreeMap<AgentId, AgentHandle>,
    pub telemetry: Telemetry,
    /// How long each second of the site's time lasts, beyond what controllers need.
    pub second: Duration,
    pub rng: fastrand::Rng,
    store: Arc<Latest>,
    late: VecDeque<(Timestamp, Vec<Frame>)>,
    sources: Vec<Box<dyn Source>>,
    swapped: BTreeMap<usize, u32>,
    directory: TempDir,
}

impl World {
    /// A hall of 256 devices at their safe caps, two controllers, all agents.
    pub async fn new(seed: u64, controllers: usize) -> Self {
        let loaded = load("demo.toml", builtin_demo(), LoadOptions::default());
        let site = Arc::new(loaded.site.unwrap());
        let safe = site.devices.iter().map(|d| d.safe_cap).collect();
        let config = HallConfig::new(START, seed);
        let hall = Hall::new(Arc::clone(&site), config, CapSource::Memory(safe)).unwrap();
        let hall = Arc::new(Mutex::new(hall));
        let mut sources: Vec<Box<dyn Source>> =
            vec![Box::new(FacilitySource::new(Arc::clone(&hall)))];
        for node in &site.nodes {
            let source = NodeSensorSource::new(Arc::clone(&hall), &node.id).unwrap();
            sources.push(Box::new(source));
        }
        let broker = broker();
        let mut world = Self {
            clock: Arc::new(SteppedClock::new(START)),
            hall,
            broker,
            seats: Vec::new(),
            halves: [Wire::to(broker).await, Wire::to(broker).await],
            agents: BTreeMap::new(),
            telemetry: Telemetry::default(),
            second: SECOND,
            rng: fastrand::Rng::with_seed(seed),
            store: Arc::default(),
            late: VecDeque::new(),
            sources,
            swapped: BTreeMap::new(),
            directory: tempfile::tempdir().unwrap(),
            site,
        };
        for number in 0..controllers {
            world.seat(number).await;
        }
        for node in 0..world.site.nodes.len() {
            world.start_agent(node);
        }
        world
    }

    async fn seat(&mut self, number: usize) {
        let directory = tempfile::tempdir().unwrap();
        let deps = ControllerDeps {
            site: Arc::clone(&self.site),
            store: Arc::clone(&self.store) as Arc<dyn TimeSeriesStore>,
            jobs: Arc::new(JobTable::open(directory.path()).unwrap()),
            decisions: Arc::new(DecisionLog::open(directory.path()).unwrap()),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
        };
        self.seats.push(Seat {
            wire: Wire::to(self.broker).await,
            deps,
            handle: None,
            identity: format!("controller-{number}"),
            _directory: directory,
        });
    }

    pub fn start_controller(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        let mut policy = self.site.control.clone();
        policy.allocate_every = Duration::from_secs(2);
        policy.lease = Duration::from_secs(20);
        let config = ControllerConfig {
            mqtt: MqttConfig::from(seat.wire.address),
            armed: true,
            policy,
            planner_enabled: false,
            identity: Some(seat.identity.clone()),
        };
        seat.handle = Some(Controller::start(config, seat.deps.clone()).unwrap());
    }

    /// Ends a controller as a crash would: it says good-bye to nobody.
    pub async fn kill_controller(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        seat.wire.cut();
        if let Some(handle) = seat.handle.take() {
            handle.stop().await;
        }
        seat.wire.lead_to(self.broker);
    }

    pub fn start_agent(&mut self, node: usize) {
        let at = &self.site.nodes[node];
        let agent = AgentId::from(at.id.as_str());
        let swap = self.swapped.get(&node).copied().unwrap_or(0);
        let devices = (at.devices.clone())
            .map(|place| {
                let device = &self.site.devices[place];
                let known = CappableDevice {
                    device: device.id.clone(),
                    uuid: format!("GPU-{}-{swap}", device.id),
                    product: "test".into(),
                    min: device.min_cap,
                    max: device.max_cap,
                    found: device.safe_cap,
                    current: device.safe_cap,
                };
                (place, known)
            })
            .collect();
        let actuator = HallDevices {
            hall: Arc::clone(&self.hall),
            devices,
        };
        let half = &self.halves[node * 2 / self.site.nodes.len()];
        let config = AgentConfig {
            agent: agent.clone(),
            site: self.site.id.clone(),
            mqtt: MqttConfig::from(half.address),
            spool_dir: self.directory.path().join(agent.as_str()),
            sample_every: Duration::from_secs(1),
            spool_limit_bytes: 1 << 20,
            arm: true,
        };
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let handle = Agent::start(config, Vec::new(), Some(Box::new(actuator)), clock).unwrap();
        self.agents.insert(agent, handle);
    }

    /// Kills a node's agent and starts it again; `swap`: its cards are others then.
    pub async fn restart_agent(&mut self, node: usize, swap: bool) {
        let agent = AgentId::from(self.site.nodes[node].id.as_str());
        if let Some(handle) = self.agents.remove(&agent) {
            handle.kill().await;
        }
        if swap {
            *self.swapped.entry(node).or_default() += 1;
            // New cards come with nothing to restore.
            let spool = self.directory.path().join(agent.as_str());
            let _ = std::fs::remove_file(spool.join("found-caps.json"));
        }
        self.start_agent(node);
    }

    /// Jobs that together want more than the site may draw.
    pub fn submit_jobs(&mut self) {
        let mut hall = lock(&self.hall);
        let parts = [
            (JobClass::Training, 96, WorkloadFamily::LlmTraining),
            (JobClass::Training, 64, WorkloadFamily::LlmTraining),
            (JobClass::FineTuning, 32, WorkloadFamily::LlmTraining),
            (JobClass::Inference, 16, WorkloadFamily::LlmTraining),
            (JobClass::Inference, 16, WorkloadFamily::LlmTraining),
            (JobClass::Experiment, 16, WorkloadFamily::LlmTraining),
        ];
        for (number, (class, gang_size, family)) in parts.into_iter().enumerate() {
            hall.submit(&JobSpec {
                id: JobId::from(format!("job-{number}")),
                class,
                owner: "somebody".into(),
                gang_size,
                hours: 400.0,
                release: START,
                deadline: None,
                family,
            })
            .unwrap();
        }
    }

    /// Lets so many seconds pass, one by one.
    pub async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            let now = self.clock.now() + Duration::from_secs(1);
            lock(&self.hall).step(now);
            self.tell(now).await;
            self.clock.advance_to(now);
            for seat in &self.seats {
                if let Some(handle) = &seat.handle {
                    // On a busy machine a second must not be over before it began.
                    let mut view = handle.view();
                    let _ = tokio::time::timeout(SEEN, view.wait_for(|v| v.at >= now)).await;
                }
            }
            tokio::time::sleep(self.second).await;
        }
    }

    /// Readings and jobs on their way to the controllers.
    async fn tell(&mut self, now: Timestamp) {
        let on_time = self.arriving(now);
        if !on_time.is_empty() {
            self.store.append(on_time).await.unwrap();
        }
    }

    /// Tells of jobs, and takes readings; those that arrive now.
    fn arriving(&mut self, now: Timestamp) -> Vec<Frame> {
        let changed = lock(&self.hall).take_changed_jobs();
        for record in changed {
            for seat in &self.seats {
                seat.deps.jobs.put(record.clone()).unwrap();
            }
        }
        let mut frames: Vec<Frame> = (self.sources.iter_mut())
            .flat_map(|s| s.sample(now).unwrap())
            .collect();
        let hall = lock(&self.hall);
        for (place, device) in self.site.devices.iter().enumerate() {
            let power = hall.device_power(place).unwrap();
            let limit = hall.device_cap(place).unwrap();
            frames.push(Frame {
                device: device.id.clone(),
                at: now,
                readings: vec![
                    (Catalogue::gpu_power(), Reading::Measured(power.0)),
                    (Catalogue::gpu_power_limit(), Reading::Measured(limit.0)),
                ],
            });
        }
        drop(hall);
        let how = self.telemetry;
        let mut on_time = Vec::new();
        let mut late = Vec::new();
        for mut frame in frames {
            if self.rng.f64() < how.lost {
                continue;
            }
            // The same sensors are wrong all the while.
            let hash = frame.device.as_str().bytes().fold(7u64, |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
            });
            if (hash >> 20 & 0xfff) as f64 / 4_096.0 < how.wrong.0 {
                for (metric, reading) in &mut frame.readings {
                    let is_limit = *metric == Catalogue::gpu_power_limit();
                    if let Reading::Measured(value) = reading
                        && !is_limit
                    {
                        *value *= how.wrong.1;
                    }
                }
            }
            if self.rng.f64() < how.twice {
                on_time.push(frame.clone());
            }
            if self.rng.f64() < how.late.0 {
                late.push(frame);
            } else {
                on_time.push(frame);
            }
        }
        let due = now + Duration::from_secs(u64::from(how.late.1));
        self.late.push_back((due, late));
        while self.late.front().is_some_and(|(due, _)| *due <= now) {
            let (_, frames) = self.late.pop_front().unwrap();
            on_time.extend(frames);
        }
        on_time
    }

    /// Which controllers are in charge as they themselves see it.
    pub fn in_charge(&self) -> Vec<usize> {
        use heliostat_optimizer::view::ControlState::{Armed, Degraded, Safe};
        let acts = |seat: &Seat| {
            let view = seat.handle.as_ref()?.view();
            let state = view.borrow().state;
            matches!(state, Armed | Degraded | Safe).then_some(())
        };
        (self.seats.iter().enumerate())
            .filter_map(|(number, seat)| acts(seat).map(|()| number))
            .collect()
    }

    /// Lets seconds pass until something is so; how many it took.
    pub async fn pass_until(&mut self, most: u64, what: impl Fn(&Self) -> bool) -> u64 {
        for second in 0..=most {
            if what(self) {
                return second;
            }
            self.pass(1).await;
        }
        panic!(
            "not within {most} s; in charge: {:?}\n{}",
            self.in_charge(),
            self.story()
        );
    }

    /// Lets everybody find the network again. In the hall's time-lapse a pause
    /// between two attempts to connect would last for minutes.
    pub async fn reconnect(&self) {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
    }

    /// What the controllers' logs say of who is in charge.
    pub fn story(&self) -> String {
        let mut lines = Vec::new();
        for (number, seat) in self.seats.iter().enumerate() {
            let log = &seat.deps.decisions;
            for d in log.latest(20, |d| d.kind != DecisionKind::Allocation) {
                lines.push((
                    d.at,
                    format!("{} {number}: {} {}", d.at, d.summary, d.reason),
                ));
            }
        }
        lines.sort();
        let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
        lines.join("\n")
    }

    /// What the hall's own breakers say.
    pub fn judge(&self, when: &str) {
        let hall = lock(&self.hall);
        assert_eq!(hall.trips(), 0, "{when}");
        let violations = hall.violations();
        assert!(violations.is_empty(), "{when}: {violations:?}");
    }

    /// The sum of all caps.
    pub fn capped(&self) -> Watts {
        let hall = lock(&self.hall);
        (0..self.site.devices.len())
            .filter_map(|place| hall.device_cap(place))
            .sum()
    }

    pub async fn end(mut self) {
        for seat in &mut self.seats {
            if let Some(handle) = seat.handle.take() {
                handle.stop().await;
            }
        }
        for (_, agent) in std::mem::take(&mut self.agents) {
            agent.kill().await;
        }
    }
}
