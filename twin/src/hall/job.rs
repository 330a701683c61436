//! A job in the hall: what it does, where it stands in its life.

use crate::error::TwinError;
use heliostat_models::gpu::{GpuModel, Workload, WorkloadFamily};
use heliostat_models::job::JobOrder;
use heliostat_models::site::Device;
use heliostat_models::{JobClass, JobId, JobRecord, JobState, Timestamp};

/// A job as its owner submits it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobSpec {
    /// Number; unique in the hall.
    pub id: JobId,
    /// What it is for.
    pub class: JobClass,
    /// Account name; becomes a pseudonym at ingest.
    pub owner: String,
    /// Devices it needs at the same time.
    pub gang_size: u32,
    /// Work, in hours of the whole gang at full speed.
    pub hours: f64,
    /// When it may start.
    pub release: Timestamp,
    /// When it should be done.
    pub deadline: Option<Timestamp>,
    /// How it behaves under a cap.
    pub family: WorkloadFamily,
}

/// Where a job is, more finely than [`JobState`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stage {
    /// Has no devices: never ran, or checkpointed.
    Waiting,
    /// Loads its state; seconds left.
    Starting(f64),
    /// Computes.
    Computing,
    /// Writes its state; seconds left, then it gives the devices back.
    Stopping(f64),
    /// All work done.
    Done,
}

/// A job in the hall.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub record: JobRecord,
    /// How it truly behaves; the record's curve is only what is believed.
    pub truth: Workload,
    pub order: JobOrder,
    pub stage: Stage,
    /// Device indices while it holds some.
    pub gang: Vec<usize>,
    /// Speed of the slowest member in the last sub-step.
    pub speed: f64,
    pub changed: bool,
    pub reported: Timestamp,
    /// Seconds of one iteration, and of one round with checkpoint and gaps.
    periods: (f64, f64),
    offset: f64,
}

fn number(seed: u64, id: &JobId) -> u64 {
    id.as_str()
        .bytes()
        .fold(seed ^ 0xcbf2_9ce4_8422_2325, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
        })
}

impl Job {
    /// Takes a job in. Its true behaviour is drawn from the seed and its name,
    /// so every hall of that seed sees the same job.
    pub(crate) fn new(
        spec: &JobSpec,
        gpu: &GpuModel,
        device: &Device,
        devices: usize,
        order: JobOrder,
        seed: u64,
        now: Timestamp,
    ) -> Result<Self, TwinError> {
        let refuse = |fault: String| TwinError::Job {
            job: spec.id.clone(),
            fault,
        };
        if spec.gang_size == 0 || spec.gang_size as usize > devices {
            return Err(refuse(format!(
                "needs {} devices; the hall has 1 to {devices} to give",
                spec.gang_size
            )));
        }
        if !(spec.hours.is_finite() && spec.hours > 0.0) {
            return Err(refuse(format!(
                "has {} hours of work; a finite number above 0 is needed",
                spec.hours
            )));
        }
        let prior = spec.family.workload();
        let curve = prior
            .speed_curve(gpu, device.min_cap, device.max_cap)
            .ok_or_else(|| refuse("has no speed curve on this accelerator".to_owned()))?;
        let mut random = fastrand::Rng::with_seed(number(seed, &spec.id));
        let truth = prior.perturbed(|| random.f64());
        let periods = (4.0 + 12.0 * random.f64(), 1_200.0 + 2_400.0 * random.f64());
        Ok(Self {
            record: JobRecord {
                id: spec.id.clone(),
                class: spec.class,
                owner: spec.owner.clone(),
                gang_size: spec.gang_size,
                remaining_hours: spec.hours,
                total_hours: spec.hours,
                release: spec.release,
                deadline: spec.deadline,
                state: JobState::Queued,
                devices: Vec::new(),
                curve,
                started: None,
                ended: None,
                at: now,
            },
            truth,
            order,
            stage: Stage::Waiting,
            gang: Vec::new(),
            speed: 0.0,
            changed: true,
            reported: now,
            periods,
            offset: random.f64() * 3_600.0,
        })
    }

    /// The phase at an instant, as an index into [`heliostat_models::gpu::Phase::ALL`],
    /// from the shares of time that phases take now. Compute, memory and
    /// communication alternate within an iteration; checkpoint and idle gap
    /// come at the end of a round.
    pub(crate) fn phase_at(&self, at: Timestamp, time: &[f64; 5]) -> usize {
        let seconds = at.seconds() + self.offset;
        let round = (seconds / self.periods.1).fract();
        let quiet = time[3] + time[4];
        if round >= 1.0 - quiet {
            return if round < 1.0 - time[4] { 3 } else { 4 };
        }
        let busy = time[0] + time[1] + time[2];
        let mut place = (seconds / self.periods.0).fract() * busy;
        for (index, share) in time.iter().take(2).enumerate() {
            if place < *share {
                return index;
            }
            place -= share;
        }
        2
    }

    /// Holds devices.
    pub(crate) fn is_placed(&self) -> bool {
        matches!(
            self.stage,
            Stage::Starting(_) | Stage::Computing | Stage::Stopping(_)
        )
    }

    /// Seconds until something happens of itself, at the present speed.
    pub(crate) fn next_event(&self) -> Option<f64> {
        match self.stage {
            Stage::Starting(left) | Stage::Stopping(left) => Some(left),
            Stage::Computing if self.speed > 0.0 => {
                Some(self.record.remaining_hours * 3_600.0 / self.speed)
            }
            _ => None,
        }
    }

    /// Notes a new state.
    pub(crate) fn note(&mut self, state: JobState, now: Timestamp) {
        self.record.state = state;
        self.record.at = now;
        self.changed = true;
    }
}
