//! A hall with its own breakers, real agents and controllers around a real
//! broker, and everything between them that can fail.
//!
//! Readings go the whole way: a source of each node's agent, its spool, the
//! broker, ingest, the store that control reads.

mod disturbed;
pub mod events;
pub mod faults;
mod large;
mod latest;
mod node;
mod skewed;
mod wire;

pub use disturbed::Telemetry;
pub use large::{demo, jobs, site};
pub use node::lock;
pub use skewed::Skew;
pub use wire::{Done, Manners, Wire};

use disturbed::Disturbed;
use heliostat_collector::{
    Agent, AgentConfig, AgentHandle, AgentStats, Broker, CapActuator, Ingest, IngestHandle,
    MqttConfig, Pseudonymiser, Source,
};
use heliostat_models::gpu::WorkloadFamily;
use heliostat_models::lease::CappableDevice;
use heliostat_models::{AgentId, DecisionKind, JobClass, JobId, Site, Timestamp, Watts};
use heliostat_optimizer::control::{ControlHandle, Controller, ControllerConfig, ControllerDeps};
use heliostat_store::decisions::DecisionLog;
use heliostat_store::jobs::JobTable;
use heliostat_store::{Clock, SteppedClock, TimeSeriesStore};
use heliostat_twin::{CapSource, FacilitySource, Hall, HallConfig, JobSpec};
use latest::Latest;
use node::{HallDevices, HallNode};
use skewed::SkewedClock;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

pub const START: Timestamp = Timestamp(1_530_000_000_000);
/// How long the network and everybody's answers get for each second of the
/// site's time where a test does not say otherwise.
const SECOND: Duration = Duration::from_millis(15);
/// Longest wait for a controller to have seen a second pass.
const SEEN: Duration = Duration::from_millis(500);
/// Longest wait for the readings of a second to be in the store, where nothing
/// keeps them from it.
const STORED: Duration = Duration::from_secs(3);
/// How finely time passes where it passes as fast as outside.
const LIVE_STEP: Duration = Duration::from_millis(100);

pub fn broker() -> SocketAddr {
    Broker::start("127.0.0.1:0".parse().unwrap())
        .unwrap()
        .address()
}

/// A controller: what it runs on, and whether it runs.
pub struct Seat {
    pub wire: Wire,
    pub deps: ControllerDeps,
    pub handle: Option<ControlHandle>,
    identity: String,
    skew: Skew,
    _directory: TempDir,
}

/// How a world begins.
pub struct Setup {
    pub site: Arc<Site>,
    pub seed: u64,
    pub controllers: usize,
    /// How often agents read their devices.
    pub sample_every: Duration,
}

pub struct World {
    pub site: Arc<Site>,
    pub clock: Arc<SteppedClock>,
    pub hall: Arc<Mutex<Hall>>,
    pub broker: SocketAddr,
    pub seats: Vec<Seat>,
    /// Two halves of the agents, each behind a wire.
    pub halves: [Wire; 2],
    /// Between the broker and ingest.
    pub intake: Wire,
    pub agents: BTreeMap<AgentId, AgentHandle>,
    pub telemetry: Arc<Mutex<Telemetry>>,
    /// How wrong each node's clock is; right where nothing is said.
    pub skews: BTreeMap<usize, Skew>,
    /// How long each second of the site's time lasts, beyond what controllers need.
    pub second: Duration,
    pub rng: fastrand::Rng,
    pub ingest: IngestHandle,
    store: Arc<Latest>,
    sample_every: Duration,
    /// Whether the readings of the last second came in time.
    stored: bool,
    swapped: BTreeMap<usize, u32>,
    directory: TempDir,
}

impl World {
    /// The demo hall of 256 devices at their safe caps, controllers that are
    /// not started yet, all agents.
    pub async fn new(seed: u64, controllers: usize) -> Self {
        Self::of(Setup {
            site: demo(),
            seed,
            controllers,
            sample_every: Duration::from_secs(1),
        })
        .await
    }

    /// The same with any site.
    pub async fn of(setup: Setup) -> Self {
        let Setup { site, seed, .. } = setup;
        let safe = site.devices.iter().map(|d| d.safe_cap).collect();
        let config = HallConfig::new(START, seed);
        let hall = Hall::new(Arc::clone(&site), config, CapSource::Memory(safe)).unwrap();
        let broker = broker();
        let clock = Arc::new(SteppedClock::new(START));
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("ingest")).unwrap();
        let intake = Wire::to(broker).await;
        let store = Arc::new(Latest::default());
        let ingest = Ingest::start(
            MqttConfig::from(intake.address),
            Arc::clone(&site),
            Arc::clone(&store) as Arc<dyn TimeSeriesStore>,
            Arc::new(JobTable::open(&directory.path().join("ingest")).unwrap()),
            Pseudonymiser::open(&directory.path().join("key")).unwrap(),
            Arc::clone(&clock) as Arc<dyn Clock>,
        )
        .unwrap();
        let mut world = Self {
            clock,
            hall: Arc::new(Mutex::new(hall)),
            broker,
            seats: Vec::new(),
            halves: [Wire::to(broker).await, Wire::to(broker).await],
            intake,
            agents: BTreeMap::new(),
            telemetry: Arc::default(),
            skews: BTreeMap::new(),
            second: SECOND,
            rng: fastrand::Rng::with_seed(seed),
            ingest,
            store,
            sample_every: setup.sample_every,
            stored: true,
            swapped: BTreeMap::new(),
            directory,
            site,
        };
        for number in 0..setup.controllers {
            world.seat(number).await;
        }
        for node in 0..world.site.nodes.len() {
            world.start_agent(node);
        }
        world.start_gateway();
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
            skew: Skew::default(),
            _directory: directory,
        });
    }

    /// Sets a controller's clock from its next start on; whether that changes it.
    pub fn skew_controller(&mut self, number: usize, skew: Skew) -> bool {
        let seat = &mut self.seats[number];
        let changes = seat.skew != skew;
        seat.skew = skew;
        seat.deps.clock = Arc::new(SkewedClock::new(&self.clock, skew));
        changes
    }

    pub fn start_controller(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        let mut policy = self.site.control.clone();
        policy.allocate_every = Duration::from_secs(2);
        policy.lease = Duration::from_secs(20);
        policy.sample_every = self.sample_every;
        let config = ControllerConfig {
            mqtt: MqttConfig::from(seat.wire.address),
            armed: true,
            policy,
            planner_enabled: false,
            identity: Some(seat.identity.clone()),
            directory: None,
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
        let sensors = HallNode::new(&self.hall, node);
        let sensors = Disturbed::new(sensors, &self.telemetry, self.rng.u64(..));
        let half = self.halves[node * 2 / self.site.nodes.len()].address;
        let skew = self.skews.get(&node).copied().unwrap_or_default();
        let clock = Arc::new(SkewedClock::new(&self.clock, skew));
        self.agent(
            agent,
            half,
            vec![Box::new(sensors)],
            Some(Box::new(actuator)),
            clock,
        );
    }

    /// The agent for meters and plant.
    fn start_gateway(&mut self) {
        let facility = FacilitySource::new(Arc::clone(&self.hall));
        let facility = Disturbed::new(facility, &self.telemetry, self.rng.u64(..));
        let address = self.intake.address;
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        self.agent(
            "gateway".into(),
            address,
            vec![Box::new(facility)],
            None,
            clock,
        );
    }

    fn agent(
        &mut self,
        agent: AgentId,
        broker: SocketAddr,
        sources: Vec<Box<dyn Source>>,
        actuator: Option<Box<dyn CapActuator>>,
        clock: Arc<dyn Clock>,
    ) {
        let config = AgentConfig {
            agent: agent.clone(),
            site: self.site.id.clone(),
            mqtt: MqttConfig::from(broker),
            spool_dir: self.directory.path().join(agent.as_str()),
            sample_every: self.sample_every,
            spool_limit_bytes: 1 << 20,
            arm: true,
        };
        let handle = Agent::start(config, sources, actuator, clock).unwrap();
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

    /// Jobs that together want more than the demo hall may draw.
    pub fn submit_jobs(&mut self) {
        let mut hall = lock(&self.hall);
        let parts = [
            (JobClass::Training, 96),
            (JobClass::Training, 64),
            (JobClass::FineTuning, 32),
            (JobClass::Inference, 16),
            (JobClass::Inference, 16),
            (JobClass::Experiment, 16),
        ];
        for (number, (class, gang_size)) in parts.into_iter().enumerate() {
            hall.submit(&JobSpec {
                id: JobId::from(format!("job-{number}")),
                class,
                owner: "somebody".into(),
                gang_size,
                hours: 400.0,
                release: START,
                deadline: None,
                family: WorkloadFamily::LlmTraining,
            })
            .unwrap();
        }
    }

    /// Everything is led to another broker, which knows nothing of the first.
    pub fn change_broker(&mut self) {
        self.broker = broker();
        for wire in self.wires() {
            wire.lead_to(self.broker);
        }
    }

    pub fn wires(&self) -> impl Iterator<Item = &Wire> {
        let seats = self.seats.iter().map(|seat| &seat.wire);
        seats.chain(&self.halves).chain([&self.intake])
    }

    /// What all wires have done so far.
    pub fn done(&self) -> Done {
        self.wires()
            .map(Wire::done)
            .fold(Done::default(), |a, b| Done {
                held: a.held + b.held,
                doubled: a.doubled + b.doubled,
                late: a.late + b.late,
                withheld: a.withheld + b.withheld,
            })
    }

    /// Times that a source could say nothing.
    pub fn silences(&self) -> u64 {
        let stats = self.agents.values().map(AgentHandle::stats);
        let errors = |s: AgentStats| -> u64 { s.sources.values().map(|s| s.errors).sum() };
        stats.map(errors).sum()
    }

    /// Lets so many seconds pass, one by one.
    pub async fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.advance(self.clock.now() + Duration::from_secs(1))
                .await;
            self.settle().await;
            tokio::time::sleep(self.second).await;
        }
    }

    /// Goes to some moment within the next second while everybody is at work.
    pub async fn moment(&mut self) {
        let part = Duration::from_millis(self.rng.u64(1..1_000));
        self.advance(self.clock.now() + part).await;
        let work = self.second.mul_f64(2.0 * self.rng.f64());
        tokio::time::sleep(work).await;
    }

    /// Moves the hall and everybody's clock.
    async fn advance(&mut self, now: Timestamp) {
        let hall = Arc::clone(&self.hall);
        let changed = {
            let mut hall = lock(&hall);
            hall.step(now);
            hall.take_changed_jobs()
        };
        for record in changed {
            for seat in &self.seats {
                seat.deps.jobs.put(record.clone()).unwrap();
            }
        }
        self.clock.advance_to(now);
    }

    /// On a busy machine a second must not be over before it began: waits until
    /// controllers have seen it, and its readings are in the store.
    async fn settle(&mut self) {
        let now = self.clock.now();
        for seat in &self.seats {
            if let Some(handle) = &seat.handle {
                let seen = seat.deps.clock.now();
                let mut view = handle.view();
                let _ = tokio::time::timeout(SEEN, view.wait_for(|v| v.at >= seen)).await;
            }
        }
        let undisturbed =
            *self.telemetry.lock().unwrap() == Telemetry::default() && self.skews.is_empty();
        if undisturbed && now.floor_to(self.sample_every) == now {
            let site = &self.site;
            // Meters and the plant come with them.
            let frames = site.devices.len() + site.nodes.len() + site.meters.len() + 1;
            // Who was cut off has to find the network again, in its own time.
            let wait = if self.stored { STORED } else { self.second };
            let all = self.store.wait_for(now, frames);
            self.stored = tokio::time::timeout(wait, all).await.is_ok();
        }
    }

    /// Lets time pass as fast as it does outside: the site's clock shows how
    /// long it really took, whoever was slow.
    pub async fn live(&mut self, most: Duration, over: impl Fn(&Self) -> bool) {
        let (begun, from) = (Instant::now(), self.clock.now());
        let mut next = begun;
        loop {
            next = (next + LIVE_STEP).max(Instant::now());
            tokio::time::sleep_until(next.min(begun + most)).await;
            let passed = begun.elapsed();
            self.advance(from + passed).await;
            if passed >= most || over(self) {
                return;
            }
        }
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
