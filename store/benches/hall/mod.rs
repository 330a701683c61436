//! A hall of 278 GPUs with nine metrics each, 2,502 series, at 1 Hz: what the
//! sizes and query times are measured on.
//!
//! * Jobs of 8 GPUs run for a while, then another begins: each has a power level
//!   between idle (about 70 W) and the limit (700 W), a swing in time with its
//!   steps (checkpoints, all-reduce), and a utilisation that goes with it.
//! * Power is what NVML gives: milliwatts, averaged by the driver, so that
//!   successive values follow each other (first-order, 0.7) with noise of 2 W.
//! * The energy register counts millijoules of the true power between two readings;
//!   readings come up to 20 ms early or late, and the register moves every 100 ms.
//! * Temperature follows power with a time constant of a minute, in whole
//!   degrees; the SM clock gives way in steps of 15 MHz near the limit; the memory clock has two
//!   states; memory in use changes with the job and now and then by an allocation of 2 MiB pages.
//!
//! The same seed gives the same hall.

use heliostat_models::{Catalogue, DeviceId, Frame, MetricId, Reading, Timestamp};

/// GPUs in the hall.
#[allow(dead_code)] // not every bench uses it
pub const GPUS: usize = 278;
/// Metrics of a GPU, in the order of a frame.
pub const METRICS: [&str; 9] = [
    "gpu_power_watts",
    "gpu_power_limit_watts",
    "gpu_energy_joules_total",
    "gpu_temperature_celsius",
    "gpu_utilization_ratio",
    "gpu_memory_utilization_ratio",
    "gpu_memory_used_bytes",
    "gpu_sm_clock_hertz",
    "gpu_memory_clock_hertz",
];
/// GPUs of one job.
const GANG: usize = 8;

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
    /// Normal with deviation 1 (the sum of twelve).
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }
}

/// What a gang runs.
struct Job {
    until: i64,
    level: f64,
    swing: f64,
    period: f64,
    memory: f64,
}

struct Gpu {
    power: f64,
    true_joules: f64,
    temperature: f64,
    pages: f64,
    late_ms: f64,
}

/// The hall, second by second.
pub struct Hall {
    random: Random,
    jobs: Vec<Job>,
    gpus: Vec<Gpu>,
    devices: Vec<DeviceId>,
    metrics: Vec<MetricId>,
    /// Seconds since its begin.
    second: i64,
}

impl Hall {
    /// A hall of these devices, as many as there are GPUs.
    pub fn new(devices: Vec<DeviceId>, seed: u64) -> Self {
        let metrics = METRICS
            .map(|m| Catalogue::builtin().id(m).unwrap())
            .to_vec();
        let mut random = Random(seed);
        let gpus = (0..devices.len())
            .map(|_| Gpu {
                power: 70.0,
                true_joules: random.unit() * 3e9,
                temperature: 35.0,
                pages: 0.0,
                late_ms: 0.0,
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

    fn job(random: &mut Random, now: i64) -> Job {
        let idle = random.unit() < 0.15;
        Job {
            until: now + 600 + (random.unit() * 6_000.0) as i64,
            level: if idle {
                70.0
            } else {
                350.0 + random.unit() * 330.0
            },
            swing: if idle { 0.0 } else { random.unit() * 40.0 },
            period: 5.0 + random.unit() * 60.0,
            memory: if idle {
                0.0
            } else {
                20_000.0 + random.unit() * 18_000.0
            },
        }
    }

    /// The frames of the next second, one a device.
    pub fn next(&mut self, begin: i64) -> Vec<Frame> {
        let now = self.second;
        self.second += 1;
        let gangs = self.devices.len().div_ceil(GANG);
        for gang in 0..gangs {
            if self.jobs.get(gang).is_none_or(|job| now >= job.until) {
                let job = Self::job(&mut self.random, now);
                if gang < self.jobs.len() {
                    self.jobs[gang] = job;
                } else {
                    self.jobs.push(job);
                }
            }
        }
        let at = Timestamp(begin + now * 1_000);
        let mut frames = Vec::with_capacity(self.devices.len());
        for (place, gpu) in self.gpus.iter_mut().enumerate() {
            let random = &mut self.random;
            let job = &self.jobs[place / GANG];
            let busy = job.level > 100.0;
            let phase = now as f64 / job.period * std::f64::consts::TAU;
            let target = (job.level + job.swing * phase.sin()).min(700.0);
            let noise = if busy { 2.0 } else { 0.2 };
            gpu.power += 0.3 * (target - gpu.power) + noise * random.normal();
            let late_ms = random.unit() * 20.0;
            let span = 1.0 + (late_ms - gpu.late_ms) / 1e3;
            gpu.late_ms = late_ms;
            // The register moves every 100 ms.
            gpu.true_joules += gpu.power * (span * 10.0).round() / 10.0 + 0.01 * random.unit();
            gpu.temperature += (30.0 + gpu.power * 0.06 - gpu.temperature) / 60.0;
            if random.unit() < 0.002 && busy {
                gpu.pages = (gpu.pages + (random.normal() * 20.0).round()).max(0.0);
            }
            let throttled = ((gpu.power - 600.0).max(0.0) / 12.0).round();
            let utilization = if busy {
                (0.97 + 0.015 * random.normal()).min(1.0)
            } else {
                0.0
            };
            let memory = if busy {
                0.35 + job.swing / 200.0 + 0.02 * random.normal()
            } else {
                0.0
            };
            let values = [
                (gpu.power.max(0.0) * 1e3).round() / 1e3,
                700.0,
                (gpu.true_joules * 1e3).round() / 1e3,
                gpu.temperature.round(),
                (utilization * 100.0).round() / 100.0,
                (memory * 100.0).round() / 100.0,
                (600.0 + job.memory.round() * 2.0 + gpu.pages * 2.0) * 1_048_576.0,
                if busy {
                    (1_980.0 - 15.0 * throttled) * 1e6
                } else {
                    345e6
                },
                if busy { 2_619e6 } else { 810e6 },
            ];
            frames.push(Frame {
                device: self.devices[place].clone(),
                at,
                readings: (self.metrics.iter().copied())
                    .zip(values.map(Reading::Measured))
                    .collect(),
            });
        }
        frames
    }
}
