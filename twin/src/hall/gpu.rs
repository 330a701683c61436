//! One accelerator's state, and how it moves through a sub-step.
//!
//! Draw follows its target by a first-order law, whose solution is exact over
//! any span, so energy carries no integration error of its own:
//!
//! ```text
//! P(t) = T + (P0 - T) e^(-t/τ),   E = T t + (P0 - T) τ (1 - e^(-t/τ))
//! ```
//!
//! A new cap takes effect after a dead time of 0.05 to 0.25 s, then draw falls
//! with τ of 0.1 to 0.2 s; load changes follow with τ of 0.3 to 0.5 s, about the
//! reaction that NVIDIA's driver shows at a 0.1 s polling rate.

use heliostat_models::gpu::{GpuModel, OperatingPoint, Phase, Workload};
use heliostat_models::{Celsius, Watts};

/// Drivers hold the mean of a capped device at or a little below its cap: in
/// the RTX 4000 Ada sweep, caps that bind see 99 to 100.5 % of it.
pub(crate) const REGULATION: f64 = 0.99;
/// Noise of an uncapped draw, relative to its dynamic part (standard deviation).
const NOISE: f64 = 0.012;
/// Noise of an idle board relative to that: recorded idle cards spread by 4 %
/// (5 to 95 % of hours), which is about this.
const IDLE_NOISE: f64 = 0.9;
/// Correlation time of that noise, seconds.
const NOISE_SECONDS: f64 = 3.0;
/// Thermal time constant of die and cold plate, seconds.
const THERMAL_SECONDS: f64 = 40.0;
/// Die above inlet without load, kelvin: H100 at 70 W shows 41 °C with a 32 °C inlet.
const REST_RISE: f64 = 7.0;

/// What a device is doing in a sub-step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Activity {
    /// No job.
    Idle,
    /// Saves or loads the state of its job.
    Transfer,
    /// Computes: in this phase (by index), or in all of them in the mean. The
    /// number is the gang's speed, which the slowest member sets.
    Busy(Option<usize>, f64),
}

/// An accelerator.
#[derive(Clone, Debug)]
pub(crate) struct Gpu {
    pub model: GpuModel,
    /// Job that holds it, as an index into the hall's jobs.
    pub job: Option<usize>,
    /// Limit that was set.
    pub cap: Watts,
    /// Limit in effect until the dead time is over.
    old_cap: Watts,
    dead_left: f64,
    /// Draw at the end of the last sub-step.
    pub power: Watts,
    /// Mean draw over the last sub-step.
    pub mean_power: Watts,
    /// Joules since the beginning.
    pub energy: f64,
    /// Joules at which the energy register was reset.
    pub register_from: f64,
    pub temperature: Celsius,
    /// Relative core clock.
    pub clock: f64,
    pub utilization: f64,
    pub memory_utilization: f64,
    /// Share of device memory in use.
    pub memory_used: f64,
    pub lost: bool,
    pub stuck: bool,
    dead_time: f64,
    tau_cap: f64,
    tau_load: f64,
    /// Kelvin by which this one runs warmer than its neighbours.
    warm: f64,
    /// Kelvin per watt between inlet and die.
    resistance: f64,
    noise: f64,
    point: OperatingPoint,
    point_cap: Watts,
    point_temperature: Celsius,
    point_job: Option<usize>,
}

impl Gpu {
    /// A device at rest. `rise` is how much warmer the die gets from rest to
    /// thermal design power, kelvin; every device differs a little.
    pub(crate) fn new(
        mut model: GpuModel,
        cap: Watts,
        rise: f64,
        inlet: Celsius,
        random: &mut fastrand::Rng,
    ) -> Self {
        let resistance = rise / model.tdp.get();
        model.idle = model.idle * (0.94 + 0.12 * random.f64());
        model.tdp = model.tdp * (0.985 + 0.03 * random.f64());
        let warm = 6.0 * random.f64() - 3.0;
        let idle = model.idle;
        let point = Workload { phases: REST }.under_cap(&model, cap, Celsius(40.0));
        Self {
            job: None,
            cap,
            old_cap: cap,
            dead_left: 0.0,
            power: idle,
            mean_power: idle,
            energy: 0.0,
            register_from: 0.0,
            temperature: inlet + Celsius(REST_RISE + warm + resistance * idle.get()),
            clock: model.lowest_clock,
            utilization: 0.0,
            memory_utilization: 0.0,
            memory_used: 0.0,
            lost: false,
            stuck: false,
            dead_time: 0.05 + 0.2 * random.f64(),
            tau_cap: 0.1 + 0.1 * random.f64(),
            tau_load: 0.3 + 0.2 * random.f64(),
            warm,
            resistance,
            noise: 0.0,
            point,
            point_cap: Watts(-1.0),
            point_temperature: Celsius(0.0),
            point_job: None,
            model,
        }
    }

    /// Sets another limit; true when it differs from the one set before.
    pub(crate) fn set_cap(&mut self, cap: Watts) -> bool {
        if cap == self.cap {
            return false;
        }
        // A second change within the dead time keeps the limit in effect.
        if self.dead_left <= 0.0 {
            self.old_cap = self.cap;
        }
        self.cap = cap;
        self.dead_left = self.dead_time;
        true
    }

    /// The operating point of a job under the cap that was set. Computed anew
    /// only when cap, job or temperature (by more than a kelvin) changed.
    pub(crate) fn operating_point(&mut self, job: usize, workload: &Workload) -> &OperatingPoint {
        let stale = self.point_cap != self.cap
            || self.point_job != Some(job)
            || (self.point_temperature - self.temperature).get().abs() > 1.0;
        if stale {
            self.point = workload.under_cap(&self.model, self.cap * REGULATION, self.temperature);
            self.point_cap = self.cap;
            self.point_job = Some(job);
            self.point_temperature = self.temperature;
        }
        &self.point
    }

    /// Target of the draw, before noise.
    fn target(&mut self, activity: Activity) -> Watts {
        let idle = self.model.idle_at(self.temperature);
        let (target, clock, busy, memory) = match activity {
            Activity::Idle => (idle, self.model.lowest_clock, 0.0, 0.0),
            Activity::Transfer => {
                let phase = Phase::Checkpoint;
                let draw = idle + (self.model.tdp - self.model.idle) * 0.15;
                (
                    draw.min(self.cap),
                    0.9,
                    phase.utilization(),
                    phase.memory_utilization(),
                )
            }
            Activity::Busy(phase, gang_speed) => {
                let point = &self.point;
                let own = match phase {
                    Some(index) => point.phase_power[index],
                    None => point.power,
                };
                // Who is faster than the slowest waits for it in communication.
                let share = (gang_speed / point.speed).clamp(0.0, 1.0);
                let waiting = point.phase_power[2].min(own);
                let mean = |of: fn(Phase) -> f64| match phase {
                    Some(index) => of(Phase::ALL[index]),
                    None => (Phase::ALL.iter().zip(point.time))
                        .map(|(p, t)| of(*p) * t)
                        .sum(),
                };
                let clock = match phase {
                    Some(index) => point.clock[index],
                    None => (point.clock.iter().zip(point.time))
                        .map(|(c, t)| c * t)
                        .sum(),
                };
                (
                    own * share + waiting * (1.0 - share),
                    clock,
                    mean(Phase::utilization),
                    mean(Phase::memory_utilization),
                )
            }
        };
        self.clock = clock;
        self.utilization = busy;
        self.memory_utilization = memory;
        target
    }

    /// Moves through `seconds`. `noisy` is set where phases are followed one
    /// by one; in coarse steps noise has no effect on the mean.
    pub(crate) fn advance(
        &mut self,
        activity: Activity,
        seconds: f64,
        inlet: Celsius,
        noisy: bool,
        random: &mut fastrand::Rng,
    ) {
        if self.lost {
            // Fallen off the bus: it draws what an idle board draws.
            self.coast(self.model.idle, self.tau_load, seconds);
            self.utilization = 0.0;
            self.memory_utilization = 0.0;
            return;
        }
        let mut target = self.target(activity);
        if noisy {
            let keep = (-seconds / NOISE_SECONDS).exp();
            // Sum of three uniform numbers: near enough to normal, and cheap.
            let kick = 2.0 * (random.f64() + random.f64() + random.f64() - 1.5);
            self.noise = self.noise * keep + NOISE * (1.0 - keep * keep).sqrt() * kick;
            let idle = self.model.idle;
            let dynamic = (target - idle).max(Watts::ZERO);
            let capped = target >= self.cap * (REGULATION - 0.005);
            let strength = if capped { 0.3 } else { 1.0 };
            target += (dynamic * strength + idle * IDLE_NOISE) * self.noise;
        }
        target = target.min(self.cap.max(self.model.idle));
        let mut energy = 0.0;
        let mut left = seconds;
        if self.dead_left > 0.0 {
            let wait = self.dead_left.min(left);
            self.dead_left -= wait;
            left -= wait;
            // Until then the old limit rules: draw stays, or follows the load below it.
            let before = if self.cap < self.old_cap {
                self.power.max(target).min(self.old_cap)
            } else {
                target.min(self.old_cap)
            };
            energy += self.relax(before, self.tau_load, wait);
        }
        let tau = if target < self.power {
            self.tau_cap
        } else {
            self.tau_load
        };
        energy += self.relax(target, tau, left);
        self.settle(energy, seconds, inlet);
    }

    fn coast(&mut self, target: Watts, tau: f64, seconds: f64) {
        let energy = self.relax(target, tau, seconds);
        self.energy += energy;
        self.mean_power = Watts(energy / seconds.max(1e-9));
    }

    /// First-order approach to `target`; the energy of the span, joules.
    fn relax(&mut self, target: Watts, tau: f64, seconds: f64) -> f64 {
        if seconds <= 0.0 {
            return 0.0;
        }
        let keep = (-seconds / tau).exp();
        let gap = (self.power - target).get();
        self.power = target + Watts(gap * keep);
        target.get() * seconds + gap * tau * (1.0 - keep)
    }

    fn settle(&mut self, energy: f64, seconds: f64, inlet: Celsius) {
        self.energy += energy;
        self.mean_power = Watts(energy / seconds.max(1e-9));
        let warm = inlet + Celsius(REST_RISE + self.warm + self.resistance * self.mean_power.get());
        let keep = (-seconds / THERMAL_SECONDS).exp();
        self.temperature = warm + (self.temperature - warm) * keep;
    }

    /// The most it can draw with what it does: the hungriest phase under its
    /// cap, or what it draws while a lower cap has not taken effect.
    pub(crate) fn peak(&self, busy: bool) -> Watts {
        let phase = if busy { self.point.peak } else { Watts::ZERO };
        phase.max(self.mean_power).min(self.cap.max(self.power))
    }
}

const REST: [heliostat_models::gpu::PhaseModel; 5] = [heliostat_models::gpu::PhaseModel {
    share: 0.2,
    draw: 0.0,
    sensitivity: 0.0,
    constant: 0.5,
}; 5];

impl Gpu {
    /// Shares of time in each phase at the present operating point.
    pub(crate) fn time_shares(&self) -> &[f64; 5] {
        &self.point.time
    }
}
