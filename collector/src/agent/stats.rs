//! What an agent counts, for pages, metrics and tests.

use heliostat_models::{DeviceId, Watts};
use serde::Serialize;
use std::collections::BTreeMap;

/// Counters of one agent since it was started.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct AgentStats {
    /// Whether the broker is reached now.
    pub connected: bool,
    /// Why not, when it is not.
    pub disconnected_because: Option<String>,
    /// Times that the connection was lost again and again right after it was made, as
    /// when a second agent of the same name runs; told once a minute.
    pub doubled: u64,
    /// Readings that sources handed over, missing ones included.
    pub samples_taken: u64,
    /// Readings that the store has, as ingest said; those found in the spool at start included.
    pub samples_acknowledged: u64,
    /// Readings found in the spool at start.
    pub samples_found: u64,
    /// Readings that could not be kept, by reason.
    pub samples_dropped: BTreeMap<String, u64>,
    /// Frames written to the spool.
    pub frames_spooled: u64,
    /// Batches written to the spool.
    pub batches_spooled: u64,
    /// Batches that wait for their acknowledgement.
    pub batches_waiting: u64,
    /// Bytes of the spool on disk.
    pub spool_bytes: u64,
    /// Times that sending began again at the oldest batch.
    pub resends: u64,
    /// Instants that passed without being sampled, because the clock was ahead.
    pub instants_missed: u64,
    /// Each source.
    pub sources: BTreeMap<String, SourceStats>,
    /// Caps.
    pub caps: CapStats,
    /// Cap commands refused unread, because their signature is missing or wrong.
    pub caps_unsigned: u64,
}

impl AgentStats {
    /// Readings dropped, for whatever reason.
    pub fn dropped(&self) -> u64 {
        self.samples_dropped.values().sum()
    }
}

/// Counters of one source.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SourceStats {
    /// Readings handed over, missing ones included.
    pub samples: u64,
    /// Readings that said that the value is missing.
    pub missing: u64,
    /// Times it failed as a whole.
    pub errors: u64,
    /// Instants at which it was not asked or did not finish in its period.
    pub skipped: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Why it is not asked any more, if so.
    pub stopped: Option<String>,
}

/// Counters about caps.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CapStats {
    /// Commands received.
    pub commands: u64,
    /// Commands older than what the agent had.
    pub ignored: u64,
    /// Leases applied.
    pub applied: u64,
    /// Leases refused.
    pub refused: u64,
    /// Safe caps set because a lease ended.
    pub safe_caps_set: u64,
    /// Limits restored to what was found, after a crash or at a stop.
    pub restored: u64,
    /// Limits that could not be restored; tried again at the next start.
    pub restore_failures: u64,
    /// Devices whose limit was left at the safe cap at a stop, because nobody made room for more.
    pub not_restored: u64,
    /// Commands refused because the clocks of both machines differ too much, or they are of another time.
    pub out_of_time: u64,
    /// Limits found changed by somebody else.
    pub foreign_seen: u64,
    /// Of those, limits that were too high and were set back.
    pub reverts_corrected: u64,
    /// Devices whose limit somebody else changed, and to what it was last.
    pub foreign_changes: BTreeMap<DeviceId, Watts>,
}
