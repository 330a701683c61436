//! Sources: whatever can say something of devices when asked.

pub mod grid;
pub mod host;
pub mod nvml;
pub mod rapl;
pub mod throughput;

use heliostat_models::{Frame, Timestamp};

/// Something that reads devices. It may block: every source runs on a thread
/// of its own, so that a slow one delays nobody else.
pub trait Source: Send {
    /// Name for messages and statistics, unique within an agent.
    fn name(&self) -> &str;
    /// Reads everything once. Each frame bears `at`, unless the source replays
    /// recorded instants.
    fn sample(&mut self, at: Timestamp) -> Result<Vec<Frame>, SourceError>;
    /// Begins anew after [`ErrorClass::Reconnect`]; called on the source's own
    /// thread, before the next `sample`.
    fn reconnect(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}

/// What the runtime does about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// It will never work: stop asking, and say so loudly.
    Fatal,
    /// Ask again at the next instant.
    Retry,
    /// Begin anew, then ask again; each failure in a row waits longer.
    Reconnect,
    /// What was read is no longer there, as a process that has ended: a normal stop.
    Gone,
}

/// Why a source could not say anything at all. What a single device cannot
/// say is `Reading::Missing`, not an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    /// What the runtime does about it.
    pub class: ErrorClass,
    /// For people: what was tried, what is wrong, what to do.
    pub message: String,
}

impl SourceError {
    /// An error of a class.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self {
            class,
            message: message.into(),
        }
    }
}
