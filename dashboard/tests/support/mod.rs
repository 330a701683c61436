//! A site with made-up readings, jobs, a plan and decisions, served by the real
//! store, for tests and for looking at the pages.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "support of tests and of an example; not every user needs all of it"
)]

pub mod http;

use heliostat_dashboard::{App, ControlCommands, HealthCounter};
use heliostat_models::decision::{Decision, DecisionKind, JobCap};
use heliostat_models::metrics::MetricId;
use heliostat_models::site::config;
use heliostat_models::{
    BudgetSlot, Catalogue, Certificate, DeviceId, EurosPerMegawattHour, Frame,
    GramsPerKilowattHour, JobClass, JobId, JobRecord, JobState, Quality, Reading, Site, SpeedCurve,
    Timestamp, Watts,
};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_optimizer::view::{
    CapView, ControlMode, ControlView, PlanView, PlannedJob, PowerNodeView, ViewSender,
};
use heliostat_store::decisions::DecisionLog;
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::jobs::JobTable;
use heliostat_store::{SteppedClock, TimeSeriesStore};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const NOW: &str = "2019-03-01T14:05:00Z";

/// Everything behind an [`App`], to be changed while it is served.
pub struct World {
    pub site: Arc<Site>,
    pub clock: Arc<SteppedClock>,
    pub store: Arc<EmbeddedStore>,
    pub jobs: Arc<JobTable>,
    pub decisions: Arc<DecisionLog>,
    pub view: ViewSender,
    pub control: Arc<FakeControl>,
}

/// Remembers what it was told.
#[derive(Default)]
pub struct FakeControl {
    pub events: Mutex<Vec<GridEvent>>,
    pub arms: Mutex<Vec<(bool, String)>>,
}

impl ControlCommands for FakeControl {
    fn submit_grid_event(&self, event: GridEvent) {
        self.events.lock().unwrap().push(event);
    }
    fn arm(&self, armed: bool, who: &str) {
        self.arms.lock().unwrap().push((armed, who.to_owned()));
    }
}

pub fn now() -> Timestamp {
    Timestamp::parse(NOW).unwrap()
}

pub fn demo_site() -> Site {
    let loaded = config::load(
        "demo.toml",
        config::builtin_demo(),
        config::LoadOptions::default(),
    );
    loaded.site.expect("the built-in demo site is sound")
}

impl World {
    pub fn new(directory: &Path) -> Self {
        let site = Arc::new(demo_site());
        let clock = Arc::new(SteppedClock::new(now()));
        let dyn_clock: Arc<dyn heliostat_store::Clock> = clock.clone();
        let store = EmbeddedStore::open(&directory.join("data"), site.clone(), dyn_clock).unwrap();
        Self {
            jobs: Arc::new(JobTable::open(directory).unwrap()),
            decisions: Arc::new(DecisionLog::open(directory).unwrap()),
            view: ViewSender::new(Arc::new(ControlView::default())),
            control: Arc::new(FakeControl::default()),
            site,
            clock,
            store,
        }
    }

    pub fn app(&self) -> App {
        let store = Arc::clone(&self.store);
        App {
            site: Arc::clone(&self.site),
            store: self.store.clone(),
            jobs: Arc::clone(&self.jobs),
            decisions: Arc::clone(&self.decisions),
            view: self.view.subscribe(),
            control: Some(self.control.clone()),
            clock: self.clock.clone(),
            health: Arc::new(move || {
                let stats = store.stats();
                let counter = |name: &str, help: &str, value: u64| HealthCounter {
                    name: name.into(),
                    help: help.into(),
                    value: value as f64,
                };
                vec![
                    counter("store_frames", "Frames stored", stats.frames),
                    counter("store_samples", "Samples stored", stats.samples),
                    counter("ingest_refused_total", "Values refused", 0),
                    counter("agents_connected", "Agents connected", 33),
                ]
            }),
            title_note: Some(
                "Demonstration in software: 3,456 times real time, recorded grid data of 2019"
                    .into(),
            ),
        }
    }

    /// Frames of all devices, every `step` of the `span` before now.
    pub async fn fill(&self, span: Duration, step: Duration) {
        let mut at = now() - span;
        while at < now() {
            self.store.append(frames(&self.site, at)).await.unwrap();
            at = at + step;
        }
    }

    /// Frames of one instant.
    pub async fn sample(&self, at: Timestamp) {
        self.store.append(frames(&self.site, at)).await.unwrap();
    }

    pub fn fill_jobs(&self) {
        for (index, spec) in JOBS.iter().enumerate() {
            for record in records(&self.site, index, spec) {
                self.jobs.put(record).unwrap();
            }
        }
    }

    pub fn show(&self, at: Timestamp, event: bool) {
        self.view
            .send_replace(Arc::new(view(&self.site, at, event)));
    }

    pub fn decide(&self) {
        for decision in decisions() {
            self.decisions.record(decision).unwrap();
        }
    }

    pub async fn full(directory: &Path, span: Duration, step: Duration) -> Self {
        let world = Self::new(directory);
        world.fill(span, step).await;
        world.fill_jobs();
        world.show(now(), false);
        world.decide();
        world
    }
}

fn noise(seed: u64) -> f64 {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    x ^= x >> 31;
    x = x.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 29;
    (x >> 11) as f64 / (1_u64 << 53) as f64
}

fn busy(index: usize) -> bool {
    index < 208
}

fn gpu_watts(index: usize, at: Timestamp) -> (f64, f64) {
    let limit = if busy(index) { 560.0 } else { 400.0 };
    let wobble = noise(index as u64 * 7_919 + at.0 as u64 / 60_000);
    let watts = if busy(index) {
        let wave = (at.seconds() / 5_400.0 + (index / 32) as f64).sin();
        limit * (0.88 + 0.07 * wave + 0.05 * wobble)
    } else {
        78.0 + 20.0 * wobble
    };
    (watts, limit)
}

fn carbon(at: Timestamp) -> (f64, f64, f64) {
    let hour = at.seconds() / 3_600.0;
    let day = ((hour % 24.0 - 13.0) / 24.0 * std::f64::consts::TAU).cos();
    let slow = (hour / 17.0).sin();
    let intensity = 390.0 - 110.0 * day - 60.0 * slow;
    (
        intensity,
        (0.42 + 0.18 * day + 0.1 * slow).clamp(0.0, 1.0),
        41.0 - 14.0 * day - 8.0 * slow,
    )
}

pub fn frames(site: &Site, at: Timestamp) -> Vec<Frame> {
    let frame = |device: DeviceId, readings: Vec<(MetricId, f64)>| Frame {
        device,
        at,
        readings: readings
            .into_iter()
            .map(|(m, v)| (m, Reading::Measured(v)))
            .collect(),
    };
    let mut out = Vec::new();
    let mut it = 0.0;
    let mut halves = [0.0, 0.0];
    for (index, node) in site.nodes.iter().enumerate() {
        let mut sum = 0.0;
        for i in node.devices.clone() {
            let device = &site.devices[i];
            // One GPU is silent, one says its power only as an estimate.
            if i == 77 {
                continue;
            }
            let (watts, limit) = gpu_watts(i, at);
            sum += watts;
            let mut readings = frame(
                device.id.clone(),
                vec![
                    (Catalogue::gpu_power_limit(), limit),
                    (Catalogue::gpu_temperature(), 34.0 + watts / 14.0),
                    (
                        Catalogue::gpu_utilization(),
                        if busy(i) { 0.96 } else { 0.0 },
                    ),
                    (
                        Catalogue::gpu_memory_utilization(),
                        if busy(i) { 0.55 } else { 0.0 },
                    ),
                    (Catalogue::gpu_sm_clock(), 1.2e9 + watts * 1e6),
                ],
            );
            let power = if i == 78 {
                Reading::Estimated(watts)
            } else {
                Reading::Measured(watts)
            };
            readings.readings.push((Catalogue::gpu_power(), power));
            out.push(readings);
        }
        let whole = sum + 900.0;
        it += whole;
        halves[index * 2 / site.nodes.len()] += whole;
        out.push(frame(
            DeviceId::from(node.id.as_str()),
            vec![
                (Catalogue::node_power(), whole),
                (Catalogue::node_cpu_utilization(), 0.21),
                (Catalogue::node_inlet_temperature(), 31.8),
            ],
        ));
    }
    let hour = at.seconds() / 3_600.0;
    let outdoor = 7.0 + 4.0 * ((hour % 24.0 - 15.0) / 24.0 * std::f64::consts::TAU).cos();
    let pue = 1.105 + 0.002 * outdoor;
    // Registers that grow with a plausible mean power: enough for ratios.
    let register = |share: f64| (at.seconds() - 1.55e9) * 150_000.0 * share;
    for meter in &site.meters {
        use heliostat_models::site::MeterRole as Role;
        let (watts, share) = match (meter.role, meter.at.as_deref()) {
            (Role::DataCentre, _) => (it * pue, 1.118),
            (Role::It, Some("ups-b")) => (halves[1], 0.47),
            (Role::It, _) => (halves[0], 0.53),
            (Role::Cooling, _) => (it * (pue - 1.03), 0.09),
            _ => continue,
        };
        out.push(frame(
            meter.id.clone(),
            vec![
                (Catalogue::meter_power(), watts),
                (Catalogue::meter_energy(), register(share)),
            ],
        ));
    }
    out.push(frame(
        site.cooling.id.clone(),
        vec![
            (Catalogue::outdoor_temperature(), outdoor),
            (Catalogue::cooling_supply(), 32.0),
            (Catalogue::cooling_return(), 41.5 + 0.3 * outdoor),
        ],
    ));
    let (intensity, renewable, price) = carbon(at);
    out.push(frame(
        site.grid_device(),
        vec![
            (Catalogue::grid_carbon(), intensity),
            (Catalogue::grid_carbon_direct(), intensity * 0.9),
            (Catalogue::grid_renewable(), renewable),
            (Catalogue::grid_price(), price),
        ],
    ));
    out
}

/// Id, class, gang, state, first device, hours before now of its start, total hours.
type Spec = (&'static str, JobClass, u32, JobState, usize, i64, f64);

const JOBS: &[Spec] = &[
    (
        "llm-70b",
        JobClass::Training,
        96,
        JobState::Running,
        0,
        9,
        20.0,
    ),
    (
        "vision-xl",
        JobClass::Training,
        48,
        JobState::Running,
        96,
        6,
        11.0,
    ),
    (
        "chat-serve",
        JobClass::Inference,
        24,
        JobState::Running,
        144,
        24,
        400.0,
    ),
    (
        "embed-serve",
        JobClass::Inference,
        16,
        JobState::Running,
        168,
        24,
        400.0,
    ),
    (
        "sft-legal",
        JobClass::FineTuning,
        16,
        JobState::Running,
        184,
        3,
        6.0,
    ),
    (
        "probe-17",
        JobClass::Experiment,
        8,
        JobState::Running,
        200,
        1,
        2.5,
    ),
    (
        "climate-ens",
        JobClass::Training,
        64,
        JobState::Paused,
        0,
        14,
        16.0,
    ),
    (
        "sft-med",
        JobClass::FineTuning,
        16,
        JobState::Queued,
        0,
        2,
        5.0,
    ),
    (
        "protein-3",
        JobClass::Training,
        32,
        JobState::Queued,
        0,
        4,
        9.0,
    ),
    (
        "probe-18",
        JobClass::Experiment,
        4,
        JobState::Queued,
        0,
        0,
        1.0,
    ),
    (
        "probe-16",
        JobClass::Experiment,
        8,
        JobState::Completed,
        0,
        8,
        3.0,
    ),
    (
        "sft-code",
        JobClass::FineTuning,
        16,
        JobState::Completed,
        0,
        16,
        7.0,
    ),
];

fn hours(h: f64) -> Duration {
    Duration::from_secs_f64(h * 3_600.0)
}

fn records(site: &Site, _index: usize, spec: &Spec) -> Vec<JobRecord> {
    let (id, class, gang, state, first, begun, total) = *spec;
    let start = now() - hours(begun as f64);
    let curve = SpeedCurve::envelope(&[
        (Watts(200.0), 0.35),
        (Watts(450.0), 0.86),
        (Watts(700.0), 1.0),
    ])
    .unwrap();
    let base = JobRecord {
        id: JobId::from(id),
        class,
        owner: "9f2c1ab4".into(),
        gang_size: gang,
        remaining_hours: total,
        total_hours: total,
        release: start - hours(1.0),
        deadline: (class == JobClass::Training).then(|| now() + hours(total * 1.9)),
        state: JobState::Queued,
        devices: Vec::new(),
        curve,
        started: None,
        ended: None,
        at: start - hours(1.0),
    };
    let mut out = vec![base.clone()];
    if state == JobState::Queued {
        return out;
    }
    let running = JobRecord {
        state: JobState::Running,
        started: Some(start),
        at: start,
        devices: site.devices[first..first + gang as usize]
            .iter()
            .map(|d| d.id.clone())
            .collect(),
        ..base
    };
    out.push(running.clone());
    let last = match state {
        JobState::Paused => JobRecord {
            state,
            devices: Vec::new(),
            remaining_hours: total - 8.0,
            at: start + hours(8.0),
            ..running
        },
        JobState::Completed => JobRecord {
            state,
            devices: Vec::new(),
            remaining_hours: 0.0,
            ended: Some(start + hours(total)),
            at: start + hours(total),
            ..running
        },
        _ => JobRecord {
            remaining_hours: (total - begun as f64 * 0.9).max(0.5),
            at: now(),
            ..running
        },
    };
    out.push(last);
    out
}

pub fn view(site: &Site, at: Timestamp, event: bool) -> ControlView {
    let cut = if event { 0.7 } else { 1.0 };
    let power = site
        .power
        .nodes()
        .iter()
        .filter(|n| n.kind != heliostat_models::site::power::PowerNodeKind::Node)
        .map(|n| PowerNodeView {
            id: n.id.clone(),
            limit: if n.parents.is_empty() {
                n.limit * cut
            } else {
                n.limit
            },
            uncontrolled: n.limit * 0.15,
            capped: n.limit * 0.8,
            price: 0.0,
        })
        .collect();
    let caps = site
        .devices
        .iter()
        .enumerate()
        .map(|(i, d)| {
            let cap = Watts(gpu_watts(i, at).1);
            let view = CapView {
                decided: cap,
                acknowledged: (i != 77).then_some(cap),
            };
            (d.id.clone(), view)
        })
        .collect();
    let run = |from: f64, to: f64, level: f64| (at + hours(from), at + hours(to), level);
    let planned = [
        (
            "llm-70b",
            vec![run(0.0, 13.0, 0.8)],
            "Runs on: pausing would cost more than the 9 g/kWh it saves.",
        ),
        (
            "vision-xl",
            vec![run(0.0, 6.5, 0.8)],
            "Due tomorrow at noon; no slack to wait.",
        ),
        (
            "chat-serve",
            vec![run(0.0, 48.0, 1.0)],
            "Inference is never paused.",
        ),
        (
            "embed-serve",
            vec![run(0.0, 48.0, 1.0)],
            "Inference is never paused.",
        ),
        (
            "sft-legal",
            vec![run(0.0, 3.5, 0.9)],
            "Ends within the hour of lowest intensity.",
        ),
        (
            "climate-ens",
            vec![run(18.0, 26.5, 1.0)],
            "Waits for tomorrow's sun: 262 instead of 431 gCO2e/kWh.",
        ),
        (
            "sft-med",
            vec![run(18.5, 23.5, 1.0)],
            "Put into the greenest hours before its release of devices ends.",
        ),
        (
            "protein-3",
            vec![run(19.0, 25.0, 1.0), run(41.0, 44.5, 0.9)],
            "Split over two windows of low intensity.",
        ),
        (
            "probe-18",
            vec![run(0.25, 1.5, 1.0)],
            "Experiments start as soon as devices are free.",
        ),
    ];
    let slots = (0..192)
        .map(|i| {
            let start = at.floor_to(Duration::from_secs(900)) + Duration::from_secs(900 * i);
            let (intensity, renewable, price) = carbon(start);
            BudgetSlot {
                start,
                end: start + Duration::from_secs(900),
                power: Watts(190_000.0),
                planned: Watts(120_000.0 + 40_000.0 * (i as f64 / 30.0).sin()),
                price_of_energy: 0.0004,
                carbon: Some(GramsPerKilowattHour(intensity * 1.02)),
                price: Some(EurosPerMegawattHour(price)),
                renewable: Some(renewable),
                quality: Quality::Estimated,
                reason: "the utility feed's limit".into(),
            }
        })
        .collect();
    ControlView {
        at,
        mode: ControlMode::Armed,
        power,
        caps,
        price_of_energy: 0.0004,
        allocation: Some(Certificate::new(212.4, 212.4, "ab12".repeat(16))),
        plan: Some(PlanView {
            issued: at - Duration::from_secs(300),
            certificate: Certificate::new(1_000.0, 998.4, "cd34".repeat(16)),
            jobs: planned
                .into_iter()
                .map(|(job, runs, reason)| PlannedJob {
                    job: JobId::from(job),
                    runs,
                    reason: reason.into(),
                })
                .collect(),
            slots,
        }),
        grid_events: if event {
            vec![GridEvent {
                id: "dso-17".into(),
                from: at - Duration::from_secs(120),
                to: at + hours(2.0),
                ask: Ask::ReduceBy(0.3),
                reason: "the grid operator asks for 30 % less".into(),
            }]
        } else {
            Vec::new()
        },
        max_gap: 0.0016,
        allocations: 18_204,
    }
}

fn decisions() -> Vec<Decision> {
    let decision = |minutes: u64, kind, summary: &str, reason: &str, gap: Option<f64>| Decision {
        sequence: 0,
        at: now() - Duration::from_secs(minutes * 60),
        kind,
        armed: true,
        summary: summary.into(),
        reason: reason.into(),
        certificate: gap.map(|g| Certificate::new(1_000.0, 1_000.0 * (1.0 + g), "ef56".repeat(16))),
        caps: Vec::new(),
    };
    let mut out = vec![
        decision(
            410,
            DecisionKind::Arming,
            "Control was armed.",
            "Asked by the night shift.",
            None,
        ),
        decision(
            300,
            DecisionKind::Plan,
            "9 jobs planned, 3 of them later.",
            "Tomorrow from 08:00 to 16:00 the grid is 39 % cleaner.",
            Some(0.0016),
        ),
        decision(
            95,
            DecisionKind::GridEvent,
            "Grid event dso-16 began: 20 % less until 13:30.",
            "The grid operator reports congestion.",
            None,
        ),
        decision(
            94,
            DecisionKind::Allocation,
            "208 caps lowered to 455 W.",
            "The utility feed's limit fell to 152 kW.",
            Some(0.0),
        ),
        decision(
            35,
            DecisionKind::GridEvent,
            "Grid event dso-16 ended.",
            "Its time is over.",
            None,
        ),
        decision(
            20,
            DecisionKind::Refusal,
            "A proposal was refused; nothing was sent.",
            "The checker found pdu-3 120 W above its limit.",
            None,
        ),
        decision(
            2,
            DecisionKind::Allocation,
            "llm-70b from 520 to 560 W, 7 jobs unchanged.",
            "probe-16 ended and left 4.1 kW at pdu-2.",
            Some(0.0),
        ),
    ];
    if let Some(last) = out.last_mut() {
        for (job, devices, reason) in [
            (
                "llm-70b",
                96,
                "pdu-1 binds: the last watt here buys 0.0011 of speed, more than anywhere else below it.",
            ),
            ("vision-xl", 48, "pdu-3 binds."),
        ] {
            last.caps.push(JobCap {
                job: Some(JobId::from(job)),
                devices,
                cap: Watts(560.0),
                speed: 0.93,
                binding: Some("pdu-1".into()),
                marginal: 0.0011,
                reason: reason.into(),
            });
        }
    }
    out
}
