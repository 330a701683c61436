//! Devices to samples, and caps to devices.
//!
//! ```text
//! device -> Source -> Frame -> Spool (disk) -> MQTT -> Ingest -> store
//!                                   ^                     |
//!                                   +------- Ack ---------+
//! Prometheus, vmagent, Telegraf -> remote write, line protocol -> OpenIngest -> store
//! executor -> CapCommand (MQTT) -> Agent -> CapActuator -> device
//! ```
//!
//! A sample is acknowledged end to end: the agent keeps it on its own disk
//! until ingest says that the store has it. Sampling follows the injected
//! clock; only network retries, batching and `fsync` follow the wall clock.

pub mod actuate;
pub mod agent;
pub mod broker;
pub mod broker_probe;
pub mod ingest;
pub mod mqtt;
pub mod open;
pub mod pseudonym;
pub mod source;
pub mod spool;

pub use actuate::{CapActuator, CapError};
pub use agent::{Agent, AgentConfig, AgentError, AgentHandle, AgentStats};
pub use broker::{Broker, BrokerError};
pub use ingest::{Ingest, IngestError, IngestHandle, IngestStats};
pub use mqtt::{Credentials, MqttConfig};
pub use pseudonym::Pseudonymiser;
pub use source::{ErrorClass, Source, SourceError};
