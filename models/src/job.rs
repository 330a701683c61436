//! Jobs: what a scheduler says of them, and what becomes of them.

use crate::curve::SpeedCurve;
use crate::ids::{DeviceId, JobId};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a job is for; its policy follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobClass {
    /// Long synchronous training; interruptible at checkpoints.
    Training,
    /// Shorter training of an existing model; interruptible.
    FineTuning,
    /// Serves requests; never paused.
    Inference,
    /// A try-out; first to give way.
    Experiment,
}

impl JobClass {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Training,
        Self::FineTuning,
        Self::Inference,
        Self::Experiment,
    ];
}

impl fmt::Display for JobClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Training => "training",
            Self::FineTuning => "fine-tuning",
            Self::Inference => "inference",
            Self::Experiment => "experiment",
        })
    }
}

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Submitted, has no devices.
    Queued,
    /// Computes on its devices.
    Running,
    /// Checkpointed; holds no devices and waits to go on.
    Paused,
    /// All work done.
    Completed,
    /// Ended without finishing.
    Cancelled,
}

/// What is known of a job. Who ran it is a pseudonym from ingest on; names,
/// paths and scripts never enter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// As its scheduler numbers it.
    pub id: JobId,
    /// What it is for.
    pub class: JobClass,
    /// Pseudonym of the owner after ingest (keyed HMAC, hex). On the way from
    /// the scheduler to ingest it is the account name.
    pub owner: String,
    /// Devices it needs at the same time, all at the pace of the slowest.
    pub gang_size: u32,
    /// Work still to do, in hours at full speed of the whole gang.
    pub remaining_hours: f64,
    /// Work it had at the start, same unit.
    pub total_hours: f64,
    /// When it may start.
    pub release: Timestamp,
    /// When it should be done; `None`: whenever.
    pub deadline: Option<Timestamp>,
    /// Where it is in its life.
    pub state: JobState,
    /// The devices it holds while running.
    pub devices: Vec<DeviceId>,
    /// Speed against per-device cap, as best known.
    pub curve: SpeedCurve,
    /// When it first ran.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// When this record was true.
    pub at: Timestamp,
}

/// What the planner wants of a job now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobOrder {
    /// Run, as soon as devices are free.
    Run,
    /// Do not start; if running, checkpoint and give the devices back.
    Hold,
}
