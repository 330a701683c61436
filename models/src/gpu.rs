//! Power and speed of an accelerator under a power cap, by workload phase.
//!
//! # The model
//!
//! An accelerator under a cap lowers its core clock until its draw fits. With
//! the clock `f` relative to its maximum, a phase of a workload draws
//!
//! ```text
//! P(f) = P_idle + (P_phase - P_idle) · (s + (1 - s) · φ(f))
//! φ(f) = f · V(f)²,   V(f) = max(0.65, 0.5 + 0.5 f)
//! ```
//!
//! where `s` is the share that does not follow the core clock (device memory
//! keeps its own) and `V` the relative core voltage: dynamic power of CMOS is
//! proportional to `f V²`, and voltage falls with the clock down to a floor.
//! A phase whose time depends on the clock with sensitivity `c` takes
//! `c / f + (1 - c)` times as long; a job's speed is the harmonic mean over
//! its phases.
//!
//! # How well it agrees with measurements
//!
//! The shape (`φ` and the law of time) was held against measured sweeps of
//! power limits: Zeus (V100, P100, RTX 6000; 164 workloads) and a sweep of an
//! RTX 4000 Ada (8 workloads, 30 to 130 W). Per workload `P_phase`, `s` and
//! `c` are fitted on every second cap and judged on the others. Mean absolute
//! error of relative speed on the caps not fitted: V100 0.018, P100 0.019,
//! RTX 6000 0.029, RTX 4000 Ada 0.028. `tests/gpu_against_data.rs`
//! recomputes these figures. The families below are settings of the same
//! model for HBM accelerators; their mean draws are held against the ranges
//! that the ML.ENERGY leaderboard measured on H100.
//!
//! # What is learned
//!
//! That model is where a job begins. [`SpeedLearner`] then learns its curve
//! from what is seen of it, starting from a [`SpeedPrior`] of its like
//! ([`SpeedPriors`]), and says which cap would teach most
//! ([`SpeedLearner::next_probe`]). A job reports its throughput under the
//! metric `job_throughput_per_second`, in any unit, as the device `job.` and
//! its number (Prometheus remote write and line protocol take the device from
//! the label `device`). Without it the core clock stands in: a stated proxy
//! with the uncertainty that it was measured to have.
//!
//! Held against the Zeus sweeps (V100 / P100 / RTX 6000; 60 % of the rated
//! power, one uniform cap to compare with, the prior fitted without the job's
//! own profile): perfect knowledge of every measured curve gains 4.07 / 1.99 /
//! 6.20 % work over a uniform cap; curves learned from the present cap and at
//! most four probes gain 3.76 / 1.77 / 5.55 %, which is 99.7 / 99.8 / 99.4 % of
//! the work that perfect knowledge does. With the prior by the model alone, as
//! for accelerators that nobody swept: 99.0 / 99.7 / 98.2 %. A probed job loses
//! at most 47 s by its probes.
//!
//! Measured curves are neither concave nor monotone: 51 of 68, 39 of 45, 40 of
//! 51 are not, and none of the 8 of an RTX 4000 Ada. The envelope lies above
//! the worst point of a curve by 0.9 / 1.2 / 1.4 % in the median and by up to
//! 21 %; the corners an allocation picks lie on the measurement, so allocating
//! by envelopes costs nothing there (below 0.001 % of the work). The Ada's
//! curves are convex below 50 W, where it no longer lowers its clock smoothly: the
//! envelope lies up to 74 % too high there, and allocating by it costs 1.5 %.
//! `optimizer/tests/speed_models.rs` recomputes these figures and prints each profile's.

mod concave;
mod gaussian;
pub mod learner;
mod memory;
pub mod observation;
pub mod prior;
mod priors;
pub mod probe;
pub mod profile;

pub use concave::concave_fit;
pub use learner::{SpeedEstimate, SpeedLearner};
pub use memory::SpeedMemory;
pub use observation::{Observation, Source};
pub use prior::SpeedPrior;
pub use priors::{DRAW_SPREAD, SpeedPriors, Swept};
pub use probe::{Probe, ProbeLedger, ProbePolicy};
pub use profile::Profile;

use crate::accelerators::Accelerator;
use crate::curve::SpeedCurve;
use crate::job::JobClass;
use crate::quantity::{Celsius, Watts};
use std::sync::LazyLock;

/// Lowest relative core voltage.
const VOLTAGE_FLOOR: f64 = 0.65;
/// Relative voltage where the line meets clock zero.
const VOLTAGE_AT_REST: f64 = 0.5;
/// Share by which static power grows for one kelvin (leakage, about 0.4 %/K
/// around 50 °C for recent nodes; an assumption, not a fit).
const LEAKAGE_PER_KELVIN: f64 = 0.004;
/// Temperature at which [`GpuModel::idle`] holds.
const IDLE_AT: Celsius = Celsius(40.0);

/// Relative dynamic power at a relative clock.
pub fn phi(clock: f64) -> f64 {
    let voltage = (VOLTAGE_AT_REST + (1.0 - VOLTAGE_AT_REST) * clock).max(VOLTAGE_FLOOR);
    clock * voltage * voltage
}

const STEPS: usize = 1_024;

/// Clocks for evenly spaced values of [`phi`], because the twin asks for one
/// several times a GPU and step. Linear between; the error is below 1e-4.
static CLOCKS: LazyLock<Vec<f64>> = LazyLock::new(|| {
    (0..=STEPS)
        .map(|step| {
            let wanted = step as f64 / STEPS as f64;
            let (mut low, mut high) = (0.0, 1.0);
            for _ in 0..50 {
                let middle = 0.5 * (low + high);
                if phi(middle) <= wanted {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            low
        })
        .collect()
});

/// The highest relative clock whose [`phi`] is at most `wanted`.
pub fn clock_of_phi(wanted: f64) -> f64 {
    if wanted >= 1.0 {
        return 1.0;
    }
    if wanted.is_nan() || wanted <= 0.0 {
        return 0.0;
    }
    let place = wanted * STEPS as f64;
    let index = place as usize;
    let (low, high) = (CLOCKS[index], CLOCKS[index + 1]);
    low + (high - low) * (place - index as f64)
}

/// What a phase of a workload is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Tensor cores at full load.
    Compute,
    /// Bound by device memory.
    Memory,
    /// Waits for, and copies to, other accelerators.
    Communication,
    /// Writes its state to storage.
    Checkpoint,
    /// Waits for data or requests.
    IdleGap,
}

impl Phase {
    /// All of them, in the order of [`Workload::phases`].
    pub const ALL: [Self; 5] = [
        Self::Compute,
        Self::Memory,
        Self::Communication,
        Self::Checkpoint,
        Self::IdleGap,
    ];
    /// Share of time in which a kernel runs, as NVML counts it.
    pub fn utilization(self) -> f64 {
        match self {
            Self::Compute | Self::Memory => 1.0,
            Self::Communication => 0.95,
            Self::Checkpoint => 0.15,
            Self::IdleGap => 0.0,
        }
    }
    /// Share of time in which device memory is read or written.
    pub fn memory_utilization(self) -> f64 {
        match self {
            Self::Compute => 0.45,
            Self::Memory => 0.90,
            Self::Communication => 0.25,
            Self::Checkpoint => 0.20,
            Self::IdleGap => 0.0,
        }
    }
}

/// One phase's figures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhaseModel {
    /// Share of the job's time at full clock, 0 to 1; all phases add up to 1.
    pub share: f64,
    /// Draw at full clock between idle (0) and thermal design power (1).
    pub draw: f64,
    /// How much of the phase's time follows the core clock, 0 to 1.
    pub sensitivity: f64,
    /// Share of the dynamic draw that does not follow the core clock.
    pub constant: f64,
}

/// An accelerator's figures, as far as power and speed need them.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuModel {
    /// Product name as the driver says it.
    pub product: String,
    /// Draw without work, driver loaded, at 40 °C.
    pub idle: Watts,
    /// Thermal design power.
    pub tdp: Watts,
    /// Lowest clock relative to the highest.
    pub lowest_clock: f64,
    /// Highest core clock, megahertz.
    pub core_mhz: u32,
    /// Memory clock, megahertz.
    pub memory_mhz: u32,
    /// Device memory, bytes.
    pub memory_bytes: u64,
}

impl GpuModel {
    /// H100 SXM with 80 GB. Idle, clocks, memory and limits as recorded by
    /// nvidia-smi of driver 590.48 (69.9 and 71.2 W idle, 345 of 1,980 MHz).
    pub fn h100_sxm() -> Self {
        Self {
            product: "NVIDIA H100 80GB HBM3".to_owned(),
            idle: Watts(70.0),
            tdp: Watts(700.0),
            lowest_clock: 345.0 / 1_980.0,
            core_mhz: 1_980,
            memory_mhz: 2_619,
            memory_bytes: 85_520_809_984,
        }
    }

    /// A100 SXM4 with 80 GB. Idle is the lower quarter of the Acme clusters'
    /// readings (61.9 to 66.4 W); clocks from NVIDIA's data sheet.
    pub fn a100_sxm() -> Self {
        Self {
            product: "NVIDIA A100-SXM4-80GB".to_owned(),
            idle: Watts(63.0),
            tdp: Watts(400.0),
            lowest_clock: 210.0 / 1_410.0,
            core_mhz: 1_410,
            memory_mhz: 1_593,
            memory_bytes: 85_899_345_920,
        }
    }

    /// From the catalogue's figures. Clocks, which it does not hold, are those
    /// of the maker's data sheets by key, else those of an H100; they are shown
    /// but only their ratio to the lowest enters the physics.
    pub fn from_catalogue(accelerator: &Accelerator) -> Self {
        let key = accelerator.key.as_str();
        let clocks = [
            ("a100", 1_410, 1_593),
            ("h200", 1_980, 3_201),
            ("gh200", 1_980, 2_619),
            ("gb", 2_062, 3_996),
            ("b200", 1_965, 3_996),
            ("b300", 2_032, 3_996),
            ("mi250", 1_700, 1_600),
            ("mi300", 2_100, 2_600),
        ];
        let found = clocks.iter().find(|(prefix, ..)| key.starts_with(prefix));
        let (core_mhz, memory_mhz) =
            found.map_or((1_980, 2_619), |(_, core, memory)| (*core, *memory));
        let product = accelerator.product_names.first();
        Self {
            product: product.unwrap_or(&accelerator.name).clone(),
            idle: accelerator.idle,
            tdp: accelerator.tdp,
            lowest_clock: 345.0 / f64::from(core_mhz),
            core_mhz,
            memory_mhz,
            memory_bytes: (accelerator.memory_gigabytes * 1e9) as u64,
        }
    }

    /// Draw without work at a temperature of the die.
    pub fn idle_at(&self, temperature: Celsius) -> Watts {
        self.idle * (1.0 + LEAKAGE_PER_KELVIN * (temperature - IDLE_AT).get())
    }

    /// The highest relative clock at which a phase's draw stays within `cap`;
    /// the lowest clock where even that draws more.
    pub fn clock_under_cap(&self, phase: &PhaseModel, cap: Watts, temperature: Celsius) -> f64 {
        let idle = self.idle_at(temperature);
        let dynamic = phase.draw * (self.tdp - self.idle).get();
        let follows = dynamic * (1.0 - phase.constant);
        if follows <= 0.0 {
            return 1.0;
        }
        let wanted = ((cap - idle).get() - dynamic * phase.constant) / follows;
        clock_of_phi(wanted).max(self.lowest_clock)
    }

    /// Draw of a phase at a relative clock.
    pub fn power_at(&self, phase: &PhaseModel, clock: f64, temperature: Celsius) -> Watts {
        let dynamic = (self.tdp - self.idle) * phase.draw;
        self.idle_at(temperature) + dynamic * (phase.constant + (1.0 - phase.constant) * phi(clock))
    }
}

impl PhaseModel {
    /// How many times as long the phase takes at a relative clock.
    pub fn stretch(&self, clock: f64) -> f64 {
        self.sensitivity / clock + 1.0 - self.sensitivity
    }
}

/// Families of workloads that behave alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkloadFamily {
    /// Dense training of large language models.
    LlmTraining,
    /// Training that spends much time between accelerators (mixture of experts).
    CommunicationHeavy,
    /// Fine-tuning with images: input pipelines leave gaps.
    VisionFineTuning,
    /// Serving language models: mostly decoding, bound by memory.
    InferenceDecode,
    /// Notebooks and try-outs: much waiting.
    Experiment,
}

/// A workload: its phases, in the order of [`Phase::ALL`].
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// The phases' figures.
    pub phases: [PhaseModel; 5],
}

/// A workload's mean behaviour under one cap.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperatingPoint {
    /// Speed relative to full clock, above 0 and at most 1.
    pub speed: f64,
    /// Mean draw over all phases.
    pub power: Watts,
    /// Draw of the hungriest phase.
    pub peak: Watts,
    /// Share of time in each phase under the cap; adds up to 1.
    pub time: [f64; 5],
    /// Relative clock in each phase.
    pub clock: [f64; 5],
    /// Draw in each phase.
    pub phase_power: [Watts; 5],
}

const fn phase(share: f64, draw: f64, sensitivity: f64, constant: f64) -> PhaseModel {
    PhaseModel {
        share,
        draw,
        sensitivity,
        constant,
    }
}

impl WorkloadFamily {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::LlmTraining,
        Self::CommunicationHeavy,
        Self::VisionFineTuning,
        Self::InferenceDecode,
        Self::Experiment,
    ];

    /// The family that a class of jobs mostly belongs to.
    pub fn of_class(class: JobClass) -> Self {
        match class {
            JobClass::Training => Self::LlmTraining,
            JobClass::FineTuning => Self::VisionFineTuning,
            JobClass::Inference => Self::InferenceDecode,
            JobClass::Experiment => Self::Experiment,
        }
    }

    /// The family's typical workload. Draws are chosen so that mean power on
    /// an H100 lies within the ranges measured by the ML.ENERGY leaderboard
    /// (chat serving: quartiles 449 to 576 W; heavy generation: up to 680 W)
    /// and nvidia-smi (632 W under a burn-in); sensitivities lie within
    /// what the sweeps of power limits gave (0.3 to 1.0).
    pub fn workload(self) -> Workload {
        // compute, memory, communication, checkpoint, idle gap
        let phases = match self {
            Self::LlmTraining => [
                phase(0.72, 0.97, 0.85, 0.12),
                phase(0.13, 0.70, 0.35, 0.22),
                phase(0.11, 0.45, 0.10, 0.30),
                phase(0.02, 0.15, 0.05, 0.50),
                phase(0.02, 0.06, 0.00, 0.80),
            ],
            Self::CommunicationHeavy => [
                phase(0.48, 0.95, 0.85, 0.12),
                phase(0.14, 0.70, 0.35, 0.22),
                phase(0.34, 0.42, 0.10, 0.30),
                phase(0.02, 0.15, 0.05, 0.50),
                phase(0.02, 0.06, 0.00, 0.80),
            ],
            Self::VisionFineTuning => [
                phase(0.60, 0.84, 0.75, 0.15),
                phase(0.24, 0.64, 0.40, 0.22),
                phase(0.03, 0.40, 0.10, 0.30),
                phase(0.02, 0.15, 0.05, 0.50),
                phase(0.11, 0.08, 0.00, 0.80),
            ],
            Self::InferenceDecode => [
                phase(0.24, 0.93, 0.85, 0.12),
                phase(0.60, 0.66, 0.35, 0.22),
                phase(0.05, 0.40, 0.10, 0.30),
                phase(0.00, 0.15, 0.05, 0.50),
                phase(0.11, 0.10, 0.00, 0.80),
            ],
            Self::Experiment => [
                phase(0.34, 0.80, 0.75, 0.15),
                phase(0.24, 0.52, 0.40, 0.22),
                phase(0.04, 0.35, 0.10, 0.30),
                phase(0.01, 0.15, 0.05, 0.50),
                phase(0.37, 0.06, 0.00, 0.80),
            ],
        };
        Workload { phases }
    }
}

impl Workload {
    /// Mean behaviour of one accelerator under a cap.
    pub fn under_cap(&self, gpu: &GpuModel, cap: Watts, temperature: Celsius) -> OperatingPoint {
        let mut point = OperatingPoint {
            speed: 1.0,
            power: Watts::ZERO,
            peak: Watts::ZERO,
            time: [0.0; 5],
            clock: [1.0; 5],
            phase_power: [Watts::ZERO; 5],
        };
        let mut total = 0.0;
        let mut energy = 0.0;
        for (index, phase) in self.phases.iter().enumerate() {
            let clock = gpu.clock_under_cap(phase, cap, temperature);
            let power = gpu.power_at(phase, clock, temperature);
            let time = phase.share * phase.stretch(clock);
            point.clock[index] = clock;
            point.phase_power[index] = power;
            point.time[index] = time;
            if phase.share > 0.0 {
                point.peak = point.peak.max(power);
            }
            total += time;
            energy += time * power.get();
        }
        // A workload of no phases at all has nothing to do: full speed, idle.
        if total <= 0.0 {
            point.power = gpu.idle_at(temperature);
            return point;
        }
        for time in &mut point.time {
            *time /= total;
        }
        let shares: f64 = self.phases.iter().map(|p| p.share).sum();
        point.speed = shares / total;
        point.power = Watts(energy / total);
        point
    }

    /// The same workload with its own character: draw within ±4 %, sensitivity
    /// and time shares within ±10 % of the family's, drawn from `random`
    /// (numbers in 0 to 1).
    pub fn perturbed(&self, mut random: impl FnMut() -> f64) -> Self {
        let mut around_one = |width: f64| 1.0 + width * (2.0 * random() - 1.0);
        let draw = around_one(0.04);
        let sensitivity = around_one(0.10);
        let mut phases = self.phases;
        for phase in &mut phases {
            phase.draw = (phase.draw * draw).clamp(0.0, 1.0);
            phase.sensitivity = (phase.sensitivity * sensitivity).clamp(0.0, 1.0);
            phase.share *= around_one(0.10);
        }
        let total: f64 = phases.iter().map(|p| p.share).sum();
        for phase in &mut phases {
            phase.share /= total;
        }
        Self { phases }
    }

    /// Speed against cap between the device's settable limits, as the
    /// optimizer's prior knowledge: the least concave curve above the model's
    /// values at 17 caps.
    pub fn speed_curve(&self, gpu: &GpuModel, min: Watts, max: Watts) -> Option<SpeedCurve> {
        let points: Vec<(Watts, f64)> = (0..=16)
            .map(|step| {
                let cap = min + (max - min) * (f64::from(step) / 16.0);
                (cap, self.under_cap(gpu, cap, Celsius(55.0)).speed)
            })
            .collect();
        SpeedCurve::envelope(&points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_inverts_phi() {
        for step in 0..=1_000 {
            let clock = f64::from(step) / 1_000.0;
            assert!((clock_of_phi(phi(clock)) - clock).abs() < 2e-4, "{clock}");
        }
        assert_eq!(clock_of_phi(2.0), 1.0);
        assert_eq!(clock_of_phi(-1.0), 0.0);
        assert_eq!(clock_of_phi(f64::NAN), 0.0);
    }

    #[test]
    fn families_add_up_and_draw_what_was_measured_on_h100() {
        // Bands: ML.ENERGY leaderboard on H100 (5 to 95 % quantiles per task),
        // and nvidia-smi's recording of a loaded H100 (632 W).
        let bands = [
            (WorkloadFamily::LlmTraining, 540.0, 660.0),
            (WorkloadFamily::CommunicationHeavy, 420.0, 600.0),
            (WorkloadFamily::VisionFineTuning, 400.0, 600.0),
            (WorkloadFamily::InferenceDecode, 401.0, 586.0),
            (WorkloadFamily::Experiment, 180.0, 400.0),
        ];
        for (family, low, high) in bands {
            let workload = family.workload();
            let shares: f64 = workload.phases.iter().map(|p| p.share).sum();
            assert!((shares - 1.0).abs() < 1e-9, "{family:?}");
            let point = workload.under_cap(&GpuModel::h100_sxm(), Watts(700.0), Celsius(60.0));
            assert!(
                (low..=high).contains(&point.power.get()),
                "{family:?} draws {}",
                point.power
            );
            assert!(point.speed > 0.98, "{family:?} {}", point.speed);
        }
    }

    proptest! {
        #[test]
        fn draw_keeps_to_the_cap_and_speed_grows_with_it(
            family in prop::sample::select(WorkloadFamily::ALL.to_vec()),
            seed: u64, cap in 200.0..700.0f64, more in 0.0..200.0f64, temperature in 25.0..85.0f64,
        ) {
            let mut state = seed;
            let workload = family.workload().perturbed(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 40) as f64 / (1u64 << 24) as f64
            });
            let gpu = GpuModel::h100_sxm();
            let t = Celsius(temperature);
            let low = workload.under_cap(&gpu, Watts(cap), t);
            let high = workload.under_cap(&gpu, Watts(cap + more), t);
            for (index, phase) in workload.phases.iter().enumerate() {
                // Only at the lowest clock may a draw exceed its cap.
                let free = low.clock[index] > gpu.lowest_clock + 1e-9;
                let power = low.phase_power[index].get();
                prop_assert!(!free || phase.draw == 0.0 || power <= cap + 0.2, "{power} above {cap}");
                prop_assert!(power <= cap + 25.0, "{power} far above {cap}");
            }
            prop_assert!(low.power <= low.peak + Watts(1e-9));
            prop_assert!(high.speed >= low.speed - 1e-9);
            prop_assert!(low.speed > 0.0 && high.speed <= 1.0 + 1e-9);
            prop_assert!((low.time.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            // What the cap saves is worth more than what it costs, never less than idle.
            prop_assert!(low.power >= gpu.idle_at(t) - Watts(1e-9));
        }
    }

    #[test]
    fn below_every_clock_the_draw_exceeds_the_cap_as_real_drivers_do() {
        let gpu = GpuModel::h100_sxm();
        let point =
            WorkloadFamily::LlmTraining
                .workload()
                .under_cap(&gpu, Watts(80.0), Celsius(40.0));
        assert!(point.peak > Watts(80.0));
        assert!((point.clock[0] - gpu.lowest_clock).abs() < 1e-12);
    }

    #[test]
    fn the_prior_curve_lies_close_to_the_model() {
        let gpu = GpuModel::h100_sxm();
        for family in WorkloadFamily::ALL {
            let workload = family.workload();
            let curve = workload
                .speed_curve(&gpu, Watts(200.0), Watts(700.0))
                .unwrap();
            let (mut worst, mut sum) = (0.0_f64, 0.0);
            for cap in (200..=700).step_by(10) {
                let cap = Watts(f64::from(cap));
                let model = workload.under_cap(&gpu, cap, Celsius(55.0)).speed;
                let off = (curve.speed(cap) - model).abs();
                worst = worst.max(off);
                sum += off / 51.0;
            }
            println!("{family:?}: off by {sum:.4} in the mean, {worst:.4} at worst");
            // The model is not concave near the lowest caps; the envelope is.
            assert!(worst < 0.03 && sum < 0.003, "{family:?} {sum} {worst}");
        }
    }
}
