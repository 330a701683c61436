//! Sends what the spool holds, and sends it again until it is acknowledged.
//!
//! Acknowledgements are cumulative: "all up to N is in the store". For that
//! to be true, ingest must know where an agent's run of sequences begins.
//! So whenever sending begins anew, and where the sequence skips (after a
//! crash), the agent first sends a *marker*: a batch without frames whose
//! sequence says that nothing up to it will be sent any more.
//!
//! ```text
//! connect    marker 56   57 58 59 60 ...        oldest unacknowledged is 57
//! 2 s quiet  marker 58   59 60 61 ...           57 and 58 were acknowledged
//! gap        ... 60 (all acknowledged)  marker 4096   4097 4098 ...
//! ```

use crate::mqtt::Link;
use crate::spool::{Acknowledged, Spool, SpoolError};
use heliostat_models::wire::{FrameBatch, Topics};
use heliostat_models::{AgentId, Catalogue, Frame, SiteId};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Batches and bytes that may be on their way unacknowledged.
const WINDOW: (usize, usize) = (64, 4 << 20);
/// Quiet time after which everything unacknowledged is sent again; doubles up
/// to the second number while nothing is acknowledged (wall time).
const QUIET: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// The spool and what of it is on its way.
pub(super) struct Outbox {
    pub(super) spool: Spool,
    agent: AgentId,
    topic: String,
    connected: bool,
    /// Sequence and length of what is on its way, oldest first.
    on_the_way: VecDeque<(u64, usize)>,
    /// Everything up to here was sent on this connection, or need not be.
    sent: u64,
    /// A marker must be sent before anything else.
    unmarked: bool,
    progress: Instant,
    quiet: Duration,
    pub(super) resends: u64,
}

impl Outbox {
    pub(super) fn new(spool: Spool, site: &SiteId, agent: &AgentId) -> Self {
        Self {
            spool,
            agent: agent.clone(),
            topic: Topics::new(site).frames(agent),
            connected: false,
            on_the_way: VecDeque::new(),
            sent: 0,
            unmarked: true,
            progress: Instant::now(),
            quiet: QUIET.0,
            resends: 0,
        }
    }

    /// Writes frames to the spool.
    pub(super) fn keep(&mut self, frames: Vec<Frame>) -> Result<(), SpoolError> {
        let samples = frames.iter().map(|f| f.readings.len() as u32).sum();
        let agent = self.agent.clone();
        self.spool.append(samples, |sequence| {
            let batch = FrameBatch {
                agent,
                sequence,
                frames,
            };
            batch
                .encode(Catalogue::builtin())
                .map_err(|e| e.to_string())
        })?;
        Ok(())
    }

    /// The broker is reached: begin at the oldest batch.
    pub(super) fn connected(&mut self, link: &Link) {
        self.connected = true;
        self.quiet = QUIET.0;
        self.begin(link);
    }

    /// The broker is not reached: nothing is on its way any more.
    pub(super) fn disconnected(&mut self) {
        self.connected = false;
        self.on_the_way.clear();
    }

    /// Takes an acknowledgement in. One for what was not sent on this
    /// connection is from another time and not believed.
    pub(super) fn acknowledged(
        &mut self,
        sequence: u64,
        link: &Link,
    ) -> Result<Acknowledged, SpoolError> {
        if !self.connected || sequence > self.sent {
            return Ok(Acknowledged::default());
        }
        let done = self.spool.acknowledge(sequence)?;
        if done.batches > 0 {
            self.progress = Instant::now();
            self.quiet = QUIET.0;
        }
        while self.on_the_way.front().is_some_and(|(s, _)| *s <= sequence) {
            self.on_the_way.pop_front();
        }
        self.pump(link);
        Ok(done)
    }

    /// Sends all again if nothing was acknowledged for too long.
    pub(super) fn tick(&mut self, link: &Link) {
        if !self.connected {
            return;
        }
        if !self.on_the_way.is_empty() && self.progress.elapsed() >= self.quiet {
            self.resends += 1;
            self.quiet = (self.quiet * 2).min(QUIET.1);
            self.begin(link);
        } else {
            self.pump(link);
        }
    }

    /// Begins at the oldest batch again.
    fn begin(&mut self, link: &Link) {
        self.on_the_way.clear();
        self.progress = Instant::now();
        self.unmarked = true;
        self.pump(link);
    }

    /// Sends as much as may be on its way.
    pub(super) fn pump(&mut self, link: &Link) {
        if !self.connected {
            return;
        }
        if self.unmarked {
            let oldest = self.spool.oldest().unwrap_or(self.spool.next_sequence());
            if !self.mark(oldest - 1, link) {
                return;
            }
            self.unmarked = false;
        }
        let bytes: usize = self.on_the_way.iter().map(|(_, b)| b).sum();
        let (count, bytes) = (
            WINDOW.0.saturating_sub(self.on_the_way.len()),
            WINDOW.1.saturating_sub(bytes),
        );
        if count == 0 || bytes == 0 {
            return;
        }
        let batches = match self.spool.read_after(self.sent, count, bytes) {
            Ok(batches) => batches,
            Err(error) => {
                tracing::error!(%error, "the spool cannot be read; it is tried again");
                return;
            }
        };
        for (sequence, batch) in batches {
            if sequence != self.sent + 1 {
                // A gap: cross it only when all before it is acknowledged.
                if !self.on_the_way.is_empty() || !self.mark(sequence - 1, link) {
                    return;
                }
            }
            if self.on_the_way.is_empty() {
                self.progress = Instant::now();
            }
            let length = batch.len();
            if !link.publish(&self.topic, batch) {
                return;
            }
            self.on_the_way.push_back((sequence, length));
            self.sent = sequence;
        }
    }

    /// Says that nothing up to `sequence` will be sent any more.
    fn mark(&mut self, sequence: u64, link: &Link) -> bool {
        let marker = FrameBatch {
            agent: self.agent.clone(),
            sequence,
            frames: Vec::new(),
        };
        let Ok(bytes) = marker.encode(Catalogue::builtin()) else {
            return false;
        };
        let sent = link.publish(&self.topic, bytes);
        if sent {
            self.sent = sequence;
        }
        sent
    }
}
