//! From measurements to commands: the control loop.
//!
//! ```text
//! store ─gather─> Problem ─allocate─> Outcome ─check─> executor ─MQTT─> agents
//!                                                         ^               │
//!                                                         └───answers─────┘
//! ```
//!
//! Observing is the default: everything up to the checker runs, nothing is sent.

mod agents;
mod answers;
mod arming;
pub mod assemble;
mod at_feed;
mod charge;
pub(crate) mod contracts;
pub mod controller;
mod curves;
mod decide;
mod device;
pub mod events;
pub mod evidence;
pub mod executor;
mod inputs;
mod journal;
mod kept_file;
mod link;
pub mod lock;
pub mod measure;
mod notices;
mod planning;
mod probing;
mod ramp;
pub mod relief;
pub mod replay;
mod round;
mod rows;
mod show;
mod solve;
mod starts;

pub use controller::{ControlError, ControlHandle, Controller, ControllerConfig, ControllerDeps};
pub use executor::Executor;
