//! A data centre in software that speaks the real interfaces: GPUs through
//! NVML's own C interface, meters and sensors as sources of frames, jobs
//! through the scheduler's topics. What is physics and how well it agrees with
//! measurements stands in `README.md` of this crate.
//!
//! Architecture invariant: nothing here is known to the optimizer. It sees
//! what agents read, and what the twin's own breakers count it cannot touch.

pub mod boards;
pub mod bridge;
pub mod error;
pub mod facility;
pub mod hall;
pub mod shadow;
pub mod workload;

pub use boards::NodeBoard;
pub use bridge::SchedulerBridge;
pub use error::TwinError;
pub use facility::{FacilitySource, NodeSensorSource};
pub use hall::{
    CapSource, DefaultOrder, Fault, GridPoint, Hall, HallConfig, JobSpec, Tally, Violation,
};
pub use shadow::Shadows;
