//! Asks every source at every instant, each on its own thread, so that one
//! that hangs delays nobody.
//!
//! ```text
//! instant      T0          T1          T2          T3
//! fast         [x]         [x]         [x]         [x]
//! slow         [.............x]                    [x]     T0 and T1 counted as skipped
//! ```

use super::stats::SourceStats;
use crate::source::{ErrorClass, Source, SourceError};
use heliostat_models::{Frame, Reading, Timestamp};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc as blocking;
use tokio::sync::mpsc;

/// Longest run of instants that a failing source is left alone.
const LONGEST_REST: u32 = 60;

/// All sources of an agent.
pub(super) struct Sampler {
    slots: Vec<Slot>,
    replies: mpsc::UnboundedReceiver<Reply>,
    /// The instant asked for, and how many answers are awaited.
    at: Option<Timestamp>,
    awaited: usize,
}

struct Slot {
    name: String,
    ask: Option<blocking::Sender<Ask>>,
    /// The instant it works on.
    busy: Option<Timestamp>,
    reconnect: bool,
    failures: u32,
    rest: u32,
    stats: SourceStats,
}

struct Ask {
    at: Timestamp,
    reconnect: bool,
}

/// A source's answer.
pub(super) struct Reply {
    source: usize,
    at: Timestamp,
    result: Result<Vec<Frame>, SourceError>,
}

impl Sampler {
    /// Starts a thread for each source.
    pub(super) fn start(sources: Vec<Box<dyn Source>>) -> std::io::Result<Self> {
        let (reply, replies) = mpsc::unbounded_channel();
        let mut slots = Vec::new();
        for (index, source) in sources.into_iter().enumerate() {
            let name = source.name().to_owned();
            let (ask, asked) = blocking::channel();
            let reply = reply.clone();
            std::thread::Builder::new()
                .name(format!("source-{name}"))
                .spawn(move || serve(index, source, &asked, &reply))?;
            slots.push(Slot {
                name,
                ask: Some(ask),
                busy: None,
                reconnect: false,
                failures: 0,
                rest: 0,
                stats: SourceStats::default(),
            });
        }
        Ok(Self {
            slots,
            replies,
            at: None,
            awaited: 0,
        })
    }

    /// Asks every source that is free. Whoever has not answered the instant
    /// before has missed it.
    pub(super) fn begin(&mut self, at: Timestamp) {
        self.give_up();
        self.at = Some(at);
        for slot in &mut self.slots {
            let Some(ask) = &slot.ask else { continue };
            if slot.busy.is_some() || slot.rest > 0 {
                slot.rest = slot.rest.saturating_sub(1);
                slot.stats.skipped += 1;
                continue;
            }
            let sent = ask.send(Ask {
                at,
                reconnect: slot.reconnect,
            });
            if sent.is_ok() {
                slot.busy = Some(at);
                self.awaited += 1;
            } else {
                slot.ask = None;
                slot.stats.stopped = Some("its thread has ended".into());
            }
        }
    }

    /// Awaits the answers of the running instant no longer; late ones are not used.
    pub(super) fn give_up(&mut self) {
        // One that hangs since an earlier instant was counted by `begin`.
        let late = |s: &&mut Slot| self.at.is_some() && s.busy == self.at;
        for slot in self.slots.iter_mut().filter(late) {
            slot.stats.skipped += 1;
        }
        self.awaited = 0;
        self.at = None;
    }

    /// Whether every source asked has answered.
    pub(super) fn is_complete(&self) -> bool {
        self.awaited == 0
    }

    /// The next answer; never returns while nobody is asked.
    pub(super) async fn reply(&mut self) -> Reply {
        match self.replies.recv().await {
            Some(reply) => reply,
            // No source is left: there is nothing to wait for.
            None => std::future::pending().await,
        }
    }

    /// Takes an answer in; the frames, if it is one to the running instant.
    pub(super) fn accept(&mut self, reply: Reply) -> Vec<Frame> {
        let slot = &mut self.slots[reply.source];
        slot.busy = None;
        let in_time = self.at == Some(reply.at);
        if in_time {
            self.awaited = self.awaited.saturating_sub(1);
        }
        match reply.result {
            Ok(frames) => {
                slot.failures = 0;
                slot.reconnect = false;
                if !in_time {
                    return Vec::new();
                }
                for (_, reading) in frames.iter().flat_map(|f| &f.readings) {
                    slot.stats.samples += 1;
                    slot.stats.missing += u64::from(matches!(reading, Reading::Missing));
                }
                frames
            }
            Err(error) => {
                slot.fail(error);
                Vec::new()
            }
        }
    }

    /// The counters of each source.
    pub(super) fn stats(&self) -> BTreeMap<String, SourceStats> {
        let slots = self.slots.iter();
        slots.map(|s| (s.name.clone(), s.stats.clone())).collect()
    }
}

impl Slot {
    fn fail(&mut self, error: SourceError) {
        let news = self.stats.last_error.as_deref() != Some(error.message.as_str());
        match error.class {
            ErrorClass::Gone => {
                tracing::info!(
                    source = self.name,
                    reason = error.message,
                    "a source has ended"
                );
                self.ask = None;
                self.stats.stopped = Some(error.message);
                return;
            }
            ErrorClass::Fatal => {
                tracing::error!(
                    source = self.name,
                    error = error.message,
                    "a source is given up"
                );
                self.ask = None;
                self.stats.stopped = Some(error.message.clone());
            }
            ErrorClass::Retry if news => {
                tracing::warn!(
                    source = self.name,
                    error = error.message,
                    "a source failed; it is asked again"
                );
            }
            ErrorClass::Retry => {}
            ErrorClass::Reconnect => {
                self.failures += 1;
                self.reconnect = true;
                self.rest = (1u32 << self.failures.min(6))
                    .saturating_sub(2)
                    .min(LONGEST_REST);
                if news {
                    tracing::warn!(
                        source = self.name,
                        error = error.message,
                        "a source failed; it is connected anew"
                    );
                }
            }
        }
        self.stats.errors += 1;
        self.stats.last_error = Some(error.message);
    }
}

/// The thread of one source.
fn serve(
    index: usize,
    mut source: Box<dyn Source>,
    asked: &blocking::Receiver<Ask>,
    reply: &mpsc::UnboundedSender<Reply>,
) {
    while let Ok(ask) = asked.recv() {
        let result = catch_unwind(AssertUnwindSafe(|| {
            if ask.reconnect {
                source.reconnect()?;
            }
            source.sample(ask.at)
        }))
        .unwrap_or_else(|_| {
            Err(SourceError::new(
                ErrorClass::Fatal,
                "it panicked; please report this with the log",
            ))
        });
        let answer = Reply {
            source: index,
            at: ask.at,
            result,
        };
        if reply.send(answer).is_err() {
            return;
        }
    }
}
