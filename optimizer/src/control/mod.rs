//! From measurements to commands: the control loop.
//!
//! ```text
//! store ─gather─> Problem ─allocate─> Outcome ─check─> executor ─MQTT─> agents
//!                                                         ^               │
//!                                                         └───answers─────┘
//! ```
//!
//! Observing is the default: everything up to the checker runs, nothing is sent.

mod device;
pub mod executor;

pub use executor::Executor;
