//! A hall of 250 GPUs with ten metrics each, 2,500 series, at 1 Hz: what sizes,
//! rates and query times are measured on. `docs/store-bench.md` holds it
//! against recorded GPUs.
//!
//! * Jobs of 8 GPUs run for 10 to 110 minutes, then another begins: idle (15 %),
//!   held at a power limit (35 %), or drawing what they draw (50 %).
//! * Power is what NVML gives: milliwatts, averaged by the driver, so that
//!   successive values follow each other (first-order, 0.7). Noise is 0.25 % of
//!   the level, 0.1 % where the limit holds it; free jobs swing with their steps and
//!   dip to two thirds for a second or two now and then (all-reduce, checkpoints).
//! * The energy register counts millijoules of the true power between two readings;
//!   readings come up to 20 ms early or late, and the register moves every 100 ms.
//! * Both temperatures follow power with time constants of one and two minutes,
//!   with a sensor's noise, in whole degrees.
//! * The SM clock of a GPU at its limit walks in steps of 15 MHz and stays in
//!   half of the seconds; of another it stands at its highest. The memory clock has two
//!   states.
//! * Utilisations are whole per cents: of the SMs 100 with rare excursions, of the
//!   memory about the job's mean, some jobs steady and some not.
//! * Memory in use changes with the job and now and then by pages of 2 MiB.
//!
//! The same seed gives the same hall.
#![allow(dead_code, clippy::panic)] // each bench uses a part, and may stop short

pub mod statistics;

use heliostat_models::{Catalogue, DeviceId, Frame, MetricId, Reading, Timestamp};

/// GPUs in the hall.
pub const GPUS: usize = 250;
/// Metrics of a GPU, in the order of a frame.
pub const METRICS: [&str; 10] = [
    "gpu_power_watts",
    "gpu_power_limit_watts",
    "gpu_energy_joules_total",
    "gpu_temperature_celsius",
    "gpu_memory_temperature_celsius",
    "gpu_utilization_ratio",
    "gpu_memory_utilization_ratio",
    "gpu_memory_used_bytes",
    "gpu_sm_clock_hertz",
    "gpu_memory_clock_hertz",
];
/// GPUs of one job.
const GANG: usize = 8;
/// Highest SM clock and its step, MHz.
const CLOCK: (f64, f64) = (1_980.0, 15.0);

/// Values of one GPU at one instant, in the catalogue's units.
pub type Row = [f64; METRICS.len()];

/// Numbers that look random (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// Between 0 and 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// Normal with deviation 1, near enough (the sum of four, scaled).
    fn normal(&mut self) -> f64 {
        ((0..4).map(|_| self.unit()).sum::<f64>() - 2.0) * 3.0_f64.sqrt()
    }
    fn happens(&mut self, share: f64) -> bool {
        self.unit() < share
    }
}

/// What the GPUs of a gang do.
#[derive(Clone, Copy, PartialEq)]
enum Load {
    Idle,
    /// Power is held at the limit; the clock gives way.
    Limited,
    Free,
}

/// What a gang runs.
struct Job {
    until: i64,
    load: Load,
    /// Watts.
    level: f64,
    limit: f64,
    swing: f64,
    period: f64,
    /// MiB.
    memory: f64,
    /// Mean and deviation of the memory's utilisation, per cent.
    traffic: (f64, f64),
}

impl Job {
    fn new(random: &mut Random, now: i64) -> Self {
        let load = match random.unit() {
            u if u < 0.15 => Load::Idle,
            u if u < 0.50 => Load::Limited,
            _ => Load::Free,
        };
        let limit = if load == Load::Limited {
            // What an operator sets, in tens of watts.
            450.0 + (random.unit() * 25.0).floor() * 10.0
        } else {
            700.0
        };
        let level = match load {
            Load::Idle => 70.0,
            Load::Limited => limit - 2.0,
            Load::Free => 300.0 + random.unit() * 360.0,
        };
        let idle = load == Load::Idle;
        Self {
            until: now + 600 + (random.unit() * 6_000.0) as i64,
            load,
            level,
            limit,
            swing: if load == Load::Free {
                random.unit() * 40.0
            } else {
                0.0
            },
            period: 5.0 + random.unit() * 60.0,
            memory: if idle {
                0.0
            } else {
                40_000.0 + random.unit() * 38_000.0
            },
            traffic: if idle {
                (0.0, 0.0)
            } else {
                (5.0 + random.unit() * 60.0, 0.2 + random.unit() * 2.0)
            },
        }
    }
}

struct Gpu {
    power: f64,
    joules: f64,
    temperature: f64,
    memory_temperature: f64,
    clock: f64,
    utilization: f64,
    pages: f64,
    late_ms: f64,
    /// Seconds that a dip still lasts.
    dip: u8,
}

impl Gpu {
    fn row(&mut self, job: &Job, now: i64, random: &mut Random) -> Row {
        let busy = job.load != Load::Idle;
        let phase = now as f64 / job.period * std::f64::consts::TAU;
        let mut target = (job.level + job.swing * phase.sin()).min(job.limit);
        if self.dip > 0 {
            self.dip -= 1;
            target *= 0.67;
        } else if job.load == Load::Free && random.happens(0.01) {
            self.dip = 1 + u8::from(random.happens(0.4));
        }
        let noise = match job.load {
            Load::Idle => 0.15,
            Load::Limited => 0.001 * job.level,
            Load::Free => 0.0025 * job.level,
        };
        self.power = (self.power + 0.3 * (target - self.power) + noise * random.normal()).max(0.0);
        let late_ms = random.unit() * 20.0;
        let span = 1.0 + (late_ms - self.late_ms) / 1e3;
        self.late_ms = late_ms;
        self.joules += self.power * (span * 10.0).round() / 10.0 + 0.01 * random.unit();
        self.temperature += (30.0 + self.power * 0.06 - self.temperature) / 60.0;
        let warm = self.temperature + 4.0 + 0.1 * job.traffic.0;
        self.memory_temperature += (warm - self.memory_temperature) / 120.0;
        match job.load {
            Load::Limited if random.happens(0.5) => {
                let steps = 1.0 + (random.unit().powi(3) * 6.0).floor();
                let way = if random.happens(0.5) { steps } else { -steps };
                self.clock = (self.clock + way * CLOCK.1).clamp(1_200.0, CLOCK.0 - CLOCK.1);
            }
            Load::Limited => {}
            Load::Free => self.clock = CLOCK.0,
            Load::Idle => self.clock = 345.0,
        }
        if !busy {
            self.utilization = 0.0;
        } else if self.utilization == 0.0 || random.happens(0.03) {
            let below = if random.happens(0.7) {
                0.0
            } else {
                1.0 + random.unit() * 9.0
            };
            self.utilization = 100.0 - below.floor();
        }
        if busy && random.happens(0.002) {
            self.pages = (self.pages + (random.normal() * 20.0).round()).max(0.0);
        }
        let traffic = (job.traffic.0 + job.traffic.1 * random.normal()).clamp(0.0, 100.0);
        let sensor =
            |true_value: f64, random: &mut Random| (true_value + 0.1 * random.normal()).round();
        [
            (self.power * 1e3).round() / 1e3,
            job.limit,
            (self.joules * 1e3).round() / 1e3,
            sensor(self.temperature, random),
            sensor(self.memory_temperature, random),
            self.utilization / 100.0,
            traffic.round() / 100.0,
            (600.0 + job.memory.round() + self.pages * 2.0) * 1_048_576.0,
            self.clock * 1e6,
            if busy { 2_619e6 } else { 810e6 },
        ]
    }
}

/// The hall, second by second.
pub struct Hall {
    random: Random,
    jobs: Vec<Job>,
    gpus: Vec<Gpu>,
    devices: Vec<DeviceId>,
    metrics: Vec<MetricId>,
    second: i64,
}

impl Hall {
    /// A hall of these GPUs.
    pub fn new(devices: Vec<DeviceId>, seed: u64) -> Self {
        let metrics = (METRICS.iter())
            .map(|name| {
                let id = Catalogue::builtin().id(name);
                id.unwrap_or_else(|| panic!("{name} is not in the catalogue"))
            })
            .collect();
        let mut random = Random(seed);
        let gpus = (0..devices.len())
            .map(|_| Gpu {
                power: 70.0,
                joules: random.unit() * 3e9,
                temperature: 35.0,
                memory_temperature: 40.0,
                clock: 1_800.0,
                utilization: 0.0,
                pages: 0.0,
                late_ms: 0.0,
                dip: 0,
            })
            .collect();
        Self {
            random,
            jobs: Vec::new(),
            gpus,
            devices,
            metrics,
            second: 0,
        }
    }

    /// The values of the next second, a row a device.
    pub fn step(&mut self) -> Vec<Row> {
        let now = self.second;
        self.second += 1;
        for gang in 0..self.devices.len().div_ceil(GANG) {
            if self.jobs.get(gang).is_none_or(|job| now >= job.until) {
                let job = Job::new(&mut self.random, now);
                if gang < self.jobs.len() {
                    self.jobs[gang] = job;
                } else {
                    self.jobs.push(job);
                }
            }
        }
        let (jobs, random) = (&self.jobs, &mut self.random);
        (self.gpus.iter_mut().enumerate())
            .map(|(place, gpu)| gpu.row(&jobs[place / GANG], now, random))
            .collect()
    }

    /// The frames of the next second, one a device; the first is at `begin` (ms since 1970).
    pub fn next(&mut self, begin: i64) -> Vec<Frame> {
        let at = Timestamp(begin + self.second * 1_000);
        let rows = self.step();
        (self.devices.iter().zip(rows))
            .map(|(device, row)| Frame {
                device: device.clone(),
                at,
                readings: (self.metrics.iter().copied())
                    .zip(row.map(Reading::Measured))
                    .collect(),
            })
            .collect()
    }
}
