//! The task of ingest: takes what has arrived, stores it in one go, and
//! acknowledges it to each agent.

use super::acks::Run;
use super::instant::stored_at;
use super::jobs::JobDesk;
use super::validate::{Refused, Validator, refuse};
use super::{SharedStats, edit};
use crate::mqtt::{Inbox, Link, LinkEvent};
use heliostat_models::ids::is_valid_name;
use heliostat_models::wire::{Ack, Decoded, FrameBatch, Topics};
use heliostat_models::{AgentId, Catalogue, Frame, Site};
use heliostat_store::{AppendReceipt, Clock, TimeSeriesStore};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Messages handled in one go.
const GROUP: usize = 512;
/// First and longest pause before a store that failed is tried again (wall time).
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Bytes of an unreadable batch that are put into the log.
const SHOWN: usize = 48;

pub(super) struct Writer {
    pub(super) topics: Topics,
    pub(super) site: Arc<Site>,
    pub(super) store: Arc<dyn TimeSeriesStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) link: Link,
    pub(super) inbox: Inbox,
    pub(super) events: mpsc::UnboundedReceiver<LinkEvent>,
    pub(super) jobs: JobDesk,
    pub(super) runs: BTreeMap<AgentId, Run>,
    pub(super) stats: SharedStats,
}

/// What one go is made of.
#[derive(Default)]
struct Group {
    frames: Vec<Frame>,
    /// Agent, sequence, and whether it is a marker; in the order of arrival.
    heard: Vec<(AgentId, u64, bool)>,
    refused: Refused,
    unreadable: u64,
}

impl Writer {
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut events = Vec::with_capacity(GROUP);
        loop {
            tokio::select! {
                biased;
                _ = &mut stop => break,
                count = self.events.recv_many(&mut events, GROUP) => if count == 0 { break },
            }
            let mut group = Group::default();
            for event in events.drain(..) {
                self.take(event, &mut group);
            }
            if !self.write(group, &mut stop).await {
                break;
            }
        }
        self.jobs.stop().await;
        self.link.stop().await;
    }

    fn take(&mut self, event: LinkEvent, group: &mut Group) {
        match event {
            LinkEvent::Connected => {
                // The run of every agent begins with its next marker: what was
                // sent while this was away may be lost.
                self.runs.clear();
                edit(&self.stats, |s| s.connected = true);
            }
            LinkEvent::Disconnected(reason) => {
                edit(&self.stats, |s| {
                    if s.connected {
                        tracing::warn!(reason, "ingest does not reach the broker");
                    }
                    s.connected = false;
                });
            }
            LinkEvent::Message { topic, payload, .. } => {
                if topic == self.topics.jobs() {
                    self.jobs.put(payload);
                } else if let Some(agent) = Topics::agent_of(&topic)
                    && is_valid_name(agent.as_str())
                {
                    self.take_batch(agent, &payload, group);
                } else {
                    tracing::warn!(
                        topic,
                        "a message from an agent without a proper name is refused"
                    );
                    group.unreadable += 1;
                }
            }
        }
    }

    fn take_batch(&self, agent: AgentId, payload: &[u8], group: &mut Group) {
        let now = self.clock.now();
        edit(&self.stats, |s| {
            s.batches += 1;
            s.agents.insert(agent.clone(), now);
        });
        let Decoded { batch, unknown } = match FrameBatch::decode(payload, Catalogue::builtin()) {
            Ok(decoded) => decoded,
            Err(error) => {
                let shown = &payload[..payload.len().min(SHOWN)];
                tracing::warn!(%agent, %error, bytes = payload.len(), begins = ?shown, "a batch is refused");
                group.unreadable += 1;
                // Acknowledged all the same where its place is known, so that
                // it does not hold up what follows for ever.
                if let Some(sequence) = sequence_of(payload) {
                    group.heard.push((agent, sequence, false));
                }
                return;
            }
        };
        for (name, count) in unknown {
            refuse(
                &mut group.refused,
                format!("{name}: unknown metric"),
                count as u64,
            );
        }
        let is_marker = batch.frames.is_empty();
        group.heard.push((agent.clone(), batch.sequence, is_marker));
        if batch.agent != agent {
            let samples = batch.frames.iter().map(|f| f.readings.len() as u64).sum();
            refuse(
                &mut group.refused,
                "sent on another agent's topic".into(),
                samples,
            );
            return;
        }
        let validator = Validator {
            site: &self.site,
            now,
        };
        for frame in batch.frames {
            if let Some(mut sound) = validator.check(&agent, frame, &mut group.refused) {
                sound.at = stored_at(&self.site, &agent, &sound);
                group.frames.push(sound);
            }
        }
    }

    /// Stores a group and acknowledges it. False when told to stop while the
    /// store could not write: then nothing of it is acknowledged.
    async fn write(&mut self, group: Group, stop: &mut oneshot::Receiver<()>) -> bool {
        let Some(receipt) = self.append(group.frames, stop).await else {
            return false;
        };
        let postponed = self.inbox.dropped();
        edit(&self.stats, |s| {
            s.samples_stored += receipt.samples;
            s.frames_stored += receipt.frames;
            s.duplicates += receipt.duplicate_samples;
            s.batches_unreadable += group.unreadable;
            s.postponed = postponed;
            for (reason, count) in group.refused {
                refuse(&mut s.refused, reason, count);
            }
        });
        let mut agents = BTreeSet::new();
        for (agent, sequence, is_marker) in group.heard {
            let run = self.runs.entry(agent.clone()).or_default();
            if is_marker {
                run.marker(sequence);
            } else {
                run.durable(sequence);
            }
            agents.insert(agent);
        }
        for agent in agents {
            let Some(sequence) = self.runs.get(&agent).and_then(Run::upto) else {
                continue;
            };
            if let Ok(bytes) = serde_json::to_vec(&Ack { sequence }) {
                // If the network is too slow for it, the agent sends again.
                self.link.publish(&self.topics.acks(&agent), bytes);
            }
        }
        true
    }

    /// Appends until the store takes it; a full disk is waited out.
    async fn append(
        &self,
        frames: Vec<Frame>,
        stop: &mut oneshot::Receiver<()>,
    ) -> Option<AppendReceipt> {
        if frames.is_empty() {
            return Some(AppendReceipt::default());
        }
        let mut pause = RETRY.0;
        loop {
            match self.store.append(frames.clone()).await {
                Ok(receipt) => {
                    if pause > RETRY.0 {
                        tracing::info!("the store writes again");
                        edit(&self.stats, |s| s.store_trouble = None);
                    }
                    return Some(receipt);
                }
                Err(error) => {
                    if pause == RETRY.0 {
                        tracing::error!(%error, "the store cannot write; agents keep their samples until it can");
                    }
                    edit(&self.stats, |s| {
                        s.store_failures += 1;
                        s.store_trouble = Some(error.to_string());
                    });
                }
            }
            tokio::select! {
                _ = &mut *stop => return None,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RETRY.1);
        }
    }
}

/// The sequence of a batch whose body is otherwise unreadable.
fn sequence_of(payload: &[u8]) -> Option<u64> {
    // "HF", version, then postcard: the agent's name (length, bytes) and the
    // sequence, both numbers as LEB128.
    let mut rest = payload.strip_prefix(b"HF")?.get(1..)?;
    let length = usize::try_from(leb128(&mut rest)?).ok()?;
    rest = rest.get(length..)?;
    leb128(&mut rest)
}

fn leb128(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f).checked_shl(shift)?;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_sequence_of_a_damaged_batch_is_still_found(sequence: u64, name in "[a-z0-9]{1,40}") {
            let batch = FrameBatch { agent: AgentId::from(name), sequence, frames: Vec::new() };
            let mut bytes = batch.encode(Catalogue::builtin()).unwrap();
            let end = bytes.len() - 1;
            bytes[end] ^= 1;
            prop_assert!(FrameBatch::decode(&bytes, Catalogue::builtin()).is_err());
            prop_assert_eq!(sequence_of(&bytes), Some(sequence));
        }

        #[test]
        fn noise_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = sequence_of(&bytes);
        }
    }
}
