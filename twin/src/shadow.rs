//! Comparisons: the same jobs and the same seed in halls that run beside the
//! managed one, in memory.
//!
//! * **uncapped**: every job runs as soon as devices are free, at the highest caps.
//! * **uniform**: jobs run when the managed hall runs them, and all devices
//!   have one cap, chosen at every step so that this hall's GPUs use the same
//!   energy as the managed ones. What remains between the two is who gets the watts.

use crate::error::TwinError;
use crate::hall::{CapSource, DefaultOrder, Hall, HallConfig, JobSpec, Resolution, Tally};
use heliostat_models::job::JobOrder;
use heliostat_models::{JobState, Timestamp, Watts};

/// Steps are cut to this length, so that the uniform cap follows closely, milliseconds.
const STRIDE_MS: i64 = 60_000;

/// Both comparisons.
#[derive(Debug)]
pub struct Shadows {
    uncapped: Hall,
    uniform: Hall,
    low: Watts,
    high: Watts,
    cap: Watts,
}

impl Shadows {
    /// Halls beside `managed`, which has not moved yet, with the jobs that
    /// were or will be submitted to it. `config` is the managed hall's.
    ///
    /// # Errors
    /// As [`Hall::new`] and [`Hall::submit`].
    pub fn new(managed: &Hall, config: &HallConfig, jobs: &[JobSpec]) -> Result<Self, TwinError> {
        let site = managed.site();
        let highest: Vec<Watts> = site.devices.iter().map(|d| d.max_cap).collect();
        let bound = |of: fn(&heliostat_models::site::Device) -> Watts,
                     start: f64,
                     pick: fn(Watts, Watts) -> Watts| {
            site.devices.iter().map(of).fold(Watts(start), pick)
        };
        let (low, high) = (
            bound(|d| d.min_cap, f64::INFINITY, Watts::min),
            bound(|d| d.max_cap, 0.0, Watts::max),
        );
        let beside = |order: DefaultOrder| HallConfig {
            default_order: order,
            open: true,
            resolution: Resolution::Coarse,
            ..config.clone()
        };
        let mut uncapped = Hall::new(
            site.clone(),
            beside(DefaultOrder::Run),
            CapSource::Memory(highest.clone()),
        )?;
        let mut uniform = Hall::new(
            site.clone(),
            beside(DefaultOrder::HoldInterruptible),
            CapSource::Memory(highest),
        )?;
        for job in jobs {
            uncapped.submit(job)?;
            uniform.submit(job)?;
        }
        Ok(Self {
            uncapped,
            uniform,
            low,
            high,
            cap: high,
        })
    }

    /// A job that came later.
    ///
    /// # Errors
    /// As [`Hall::submit`].
    pub fn submit(&mut self, job: &JobSpec) -> Result<(), TwinError> {
        self.uncapped.submit(job)?;
        self.uniform.submit(job)
    }

    /// Moves both to `to`, after the managed hall went there.
    pub fn step(&mut self, to: Timestamp, managed: &Hall) {
        self.uncapped.step(to);
        self.mirror_orders(managed);
        while self.uniform.now() < to {
            let next = Timestamp((self.uniform.now().0 + STRIDE_MS).min(to.0));
            let seconds = next.seconds_since(self.uniform.now());
            // What the managed hall is ahead (or behind), over what is left of the step.
            let ahead = managed.tally().gpu - self.uniform.tally().gpu;
            let left = to.seconds_since(self.uniform.now()).max(seconds);
            self.cap = self.cap_for(Watts(ahead.get() / left));
            for device in 0..self.uniform.site().devices.len() {
                self.uniform.set_cap(device, self.cap);
            }
            self.uniform.step(next);
        }
    }

    /// A job may run here when it runs there, or is over there.
    fn mirror_orders(&mut self, managed: &Hall) {
        let orders: Vec<_> = (self.uniform.job_ids())
            .filter_map(|id| {
                let order = match managed.job_state(id)? {
                    JobState::Running | JobState::Completed => JobOrder::Run,
                    JobState::Queued | JobState::Paused | JobState::Cancelled => JobOrder::Hold,
                };
                (self.uniform.order_of(id) != Some(order)).then(|| (id.clone(), order))
            })
            .collect();
        for (id, order) in orders {
            self.uniform.order(&id, order);
        }
    }

    /// The one cap at which all devices together draw `power`.
    fn cap_for(&self, power: Watts) -> Watts {
        let (mut low, mut high) = (self.low, self.high);
        if self.uniform.predicted_gpu_power(high) <= power {
            return high;
        }
        for _ in 0..12 {
            let middle = (low + high) / 2.0;
            if self.uniform.predicted_gpu_power(middle) <= power {
                low = middle;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Begins to count both anew, when the managed hall does.
    pub fn reset_tally(&mut self) {
        self.uncapped.reset_tally();
        self.uniform.reset_tally();
    }
    /// Sums of the uncapped hall.
    pub fn uncapped(&self) -> Tally {
        self.uncapped.tally()
    }
    /// Sums of the hall under one uniform cap.
    pub fn uniform(&self) -> Tally {
        self.uniform.tally()
    }
    /// The uniform cap now.
    pub fn uniform_cap(&self) -> Watts {
        self.cap
    }
    /// The uncapped hall.
    pub fn uncapped_hall(&self) -> &Hall {
        &self.uncapped
    }
    /// The hall under one uniform cap.
    pub fn uniform_hall(&self) -> &Hall {
        &self.uniform
    }
}
