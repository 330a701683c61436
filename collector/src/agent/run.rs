//! The agent's own task: one loop over the clock, the sources, the network,
//! the caps and the wish to stop. Nothing in it blocks.

use super::AgentConfig;
use super::caps_thread::{CapEvent, CapNews, CapTask, CapThread, Cause};
use super::outbox::Outbox;
use super::reconnects::Reconnects;
use super::sampler::Sampler;
use super::stats::AgentStats;
use super::times::Times;
use crate::mqtt::{Link, LinkEvent};
use heliostat_models::lease::{AgentHello, CapCommand, CappableDevice, ForeignChanges};
use heliostat_models::signed;
use heliostat_models::wire::{Ack, Topics};
use heliostat_models::{Catalogue, Frame, Timestamp};
use heliostat_store::Clock;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// How long frames wait for the other sources of their instant, to share a
/// batch with them (wall time).
const GATHER: Duration = Duration::from_millis(50);
/// How often the spool is forced to the disk (wall time).
const SYNC: Duration = Duration::from_secs(1);
/// How often it is looked whether to send again (wall time).
const LOOK: Duration = Duration::from_millis(250);
/// How often the hello is renewed, for subscribers that a broker kept it from (wall time).
const HELLO: Duration = Duration::from_secs(30);
/// At a stop: longest wait for an acknowledgement, and for all (wall time).
const DRAIN: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(20));
/// At a stop: longest wait for a broker that is not reached (wall time).
const NOBODY: Duration = Duration::from_millis(500);
/// At a stop: longest wait for the actuator to restore limits, whatever it asks for (wall time).
const RESTORE: Duration = Duration::from_secs(120);
/// At a stop: longest wait for the controller to make room for what was found (wall
/// time); half of the time for restoring where that is more, as others then have
/// management controllers too, which take their time to lower.
const ROOM: Duration = Duration::from_secs(10);
/// Most readings in one batch, which keeps it well below the wire's limit.
const BATCH_SAMPLES: usize = 20_000;

pub(super) struct Runner {
    pub(super) config: AgentConfig,
    pub(super) outbox: Outbox,
    pub(super) topics: Topics,
    pub(super) link: Link,
    pub(super) events: mpsc::UnboundedReceiver<LinkEvent>,
    pub(super) sampler: Sampler,
    pub(super) caps: CapThread,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) times: Times,
    pub(super) sampled: watch::Sender<Timestamp>,
    pub(super) stats: Arc<Mutex<AgentStats>>,
    /// The spool's next sequence and how much waited, when it was last synced.
    pub(super) synced: (u64, u64),
    /// What the caps' thread told last.
    pub(super) told: Told,
    pub(super) reconnects: Reconnects,
}

/// What the caps' thread told last, for hellos and for the pace of looks.
#[derive(Default)]
pub(super) struct Told {
    /// The highest fence seen.
    fence: u64,
    foreign: ForeignChanges,
    leaving: bool,
    /// Limits are kept that are to be read back.
    keeps: bool,
    /// A look is under way; there is never more than one.
    looking: bool,
    /// Hellos that were asked for and have not come.
    hellos: usize,
    /// No look before this instant.
    next_look: Timestamp,
}

/// Frames of the running instant that are not in the spool yet.
#[derive(Default)]
struct Gathered {
    frames: Vec<Frame>,
    until: Option<Instant>,
}

impl Runner {
    pub(super) async fn run(mut self, first: Timestamp, mut stop: oneshot::Receiver<()>) {
        let clock = Arc::clone(&self.clock);
        let mut next = first;
        let mut running: Option<Timestamp> = None;
        let mut gathered = Gathered::default();
        let mut expiry: Option<Timestamp> = None;
        let mut sync = tokio::time::interval(SYNC);
        let mut look = tokio::time::interval(LOOK);
        let mut hello = tokio::time::interval(HELLO);
        loop {
            tokio::select! {
                // Time first: an instant must not wait behind a busy network.
                biased;
                _ = &mut stop => break,
                () = clock.wait_until(next) => {
                    if let Some(at) = running.take() {
                        self.sampler.give_up();
                        self.finish(at, &mut gathered);
                    }
                    let now = clock.now();
                    let due = now.floor_to(self.config.sample_every).max(next);
                    self.miss(next, due);
                    self.sampler.begin(due);
                    next = due + self.config.sample_every;
                    running = Some(due);
                    self.look(due);
                    if self.sampler.is_complete() {
                        running = None;
                        self.finish(due, &mut gathered);
                    }
                }
                () = wait_for(&clock, expiry) => {
                    // Set anew by the thread's answer; until then do not ask again.
                    expiry = None;
                    let now = self.times.now();
                    self.caps.ask(CapTask::Tick(now));
                }
                reply = self.sampler.reply() => {
                    let frames = self.sampler.accept(reply);
                    gathered.frames.extend(frames);
                    match running {
                        Some(at) if self.sampler.is_complete() => {
                            running = None;
                            self.finish(at, &mut gathered);
                        }
                        _ if gathered.until.is_none() && !gathered.frames.is_empty() => {
                            gathered.until = Some(Instant::now() + GATHER);
                        }
                        _ => {}
                    }
                }
                () = at(gathered.until) => self.keep(&mut gathered),
                news = self.caps.news() => expiry = self.take_news(news, expiry),
                event = self.events.recv() => match event {
                    Some(event) => self.take_event(event),
                    None => break,
                },
                _ = look.tick() => {
                    self.outbox.tick(&self.link);
                    self.publish_counts();
                }
                _ = sync.tick() => self.sync(),
                // A management controller may need longer for one than until the next.
                _ = hello.tick(), if self.told.hellos == 0 => self.ask_devices(),
            }
        }
        self.sampler.give_up();
        self.keep(&mut gathered);
        self.end().await;
    }

    /// Has limits read back, where any are kept and the actuator's pace allows it.
    fn look(&mut self, due: Timestamp) {
        if !self.told.keeps || self.told.looking || due < self.told.next_look {
            return;
        }
        self.told.looking = true;
        self.told.next_look = due + self.caps.look_every;
        let now = self.times.now();
        self.caps.ask(CapTask::Look(now));
    }

    fn ask_devices(&mut self) {
        let now = self.times.now();
        self.told.hellos += 1;
        self.caps.ask(CapTask::Devices(now));
    }

    /// An instant is done: what was gathered goes to the spool.
    fn finish(&mut self, instant: Timestamp, gathered: &mut Gathered) {
        self.keep(gathered);
        self.publish_counts();
        self.sampled.send_replace(instant);
    }

    fn miss(&mut self, next: Timestamp, due: Timestamp) {
        let every = self.config.sample_every.as_millis().max(1) as i64;
        let missed = (due.0 - next.0) / every;
        if missed > 0 {
            self.edit(|s| s.instants_missed += missed as u64);
            tracing::debug!(agent = %self.config.agent, missed, "the clock was ahead of sampling");
        }
    }

    /// Writes gathered frames to the spool and sends them.
    fn keep(&mut self, gathered: &mut Gathered) {
        gathered.until = None;
        let mut frames = std::mem::take(&mut gathered.frames).into_iter().peekable();
        while frames.peek().is_some() {
            let mut batch = Vec::new();
            let mut samples = 0;
            while let Some(frame) =
                frames.next_if(|f| batch.is_empty() || samples + f.readings.len() <= BATCH_SAMPLES)
            {
                let frame = known_metrics_only(frame);
                samples += frame.readings.len();
                batch.push(frame);
            }
            self.keep_batch(batch, samples as u64);
        }
        self.outbox.pump(&self.link);
    }

    fn keep_batch(&mut self, batch: Vec<Frame>, samples: u64) {
        let count = batch.len() as u64;
        let outcome = self.outbox.keep(batch);
        let agent = self.config.agent.clone();
        self.edit(|stats| {
            stats.samples_taken += samples;
            match outcome {
                Ok(()) => {
                    stats.batches_spooled += 1;
                    stats.frames_spooled += count;
                }
                Err(error) => {
                    let reason = error.to_string();
                    let dropped = stats.samples_dropped.entry(reason_key(&error)).or_default();
                    // Loud at the first, then at every doubling.
                    if dropped.checked_ilog2() != (*dropped + samples).checked_ilog2() {
                        tracing::error!(%agent, reason, dropped = *dropped + samples, "samples are dropped");
                    }
                    *dropped += samples;
                }
            }
        });
    }

    fn take_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Connected => {
                tracing::debug!(agent = %self.config.agent, "connected to the broker");
                if self.reconnects.made(Instant::now()) {
                    tracing::warn!(agent = %self.config.agent, "the connection to the broker is lost again and again right after it is made; does a second agent of this name run? A node has one agent");
                    self.edit(|s| s.doubled += 1);
                }
                self.edit(|s| {
                    s.connected = true;
                    s.disconnected_because = None;
                });
                self.ask_devices();
                self.outbox.connected(&self.link);
            }
            LinkEvent::Disconnected(reason) => {
                let mut first = false;
                self.edit(|s| {
                    first = s.connected || s.disconnected_because.is_none();
                    s.connected = false;
                    s.disconnected_because = Some(reason.clone());
                });
                if first {
                    tracing::warn!(agent = %self.config.agent, broker = %self.config.mqtt.host, port = self.config.mqtt.port, reason, "the broker is not reached; samples stay in the spool");
                }
                self.outbox.disconnected();
            }
            LinkEvent::Message { topic, payload, .. } => self.take_message(&topic, &payload),
        }
    }

    fn take_message(&mut self, topic: &str, payload: &[u8]) {
        let agent = &self.config.agent;
        if topic == self.topics.acks(agent) {
            match serde_json::from_slice::<Ack>(payload) {
                Ok(ack) => match self.outbox.acknowledged(ack.sequence, &self.link) {
                    Ok(done) => self.edit(|s| s.samples_acknowledged += done.samples),
                    Err(error) => {
                        tracing::error!(%error, "acknowledged samples cannot be removed from the spool")
                    }
                },
                Err(error) => tracing::warn!(%error, "an acknowledgement cannot be read"),
            }
        } else if topic == self.topics.caps(agent) {
            let content = match signed::open(self.config.mqtt.key.as_ref(), topic, payload) {
                Ok(content) => content,
                Err(reason) => {
                    self.edit(|s| s.caps_unsigned += 1);
                    tracing::warn!(%reason, "a cap command is refused unread");
                    return;
                }
            };
            match serde_json::from_slice::<CapCommand>(content) {
                Ok(command) => {
                    let now = self.times.now();
                    self.caps.ask(CapTask::Command(Box::new(command), now));
                }
                Err(error) => tracing::warn!(%error, "a cap command cannot be read and is ignored"),
            }
        }
    }

    fn take_news(&mut self, news: CapNews, asked: Option<Timestamp>) -> Option<Timestamp> {
        self.edit(|s| s.caps = news.stats);
        self.told.fence = news.fence;
        self.told.foreign = news.foreign;
        self.told.leaving = news.leaving;
        self.told.keeps = news.keeps;
        self.told.looking &= news.cause != Cause::Look;
        if news.cause == Cause::Devices {
            self.told.hellos = self.told.hellos.saturating_sub(1);
        }
        match news.event {
            Some(CapEvent::Answer(answer)) => {
                let ended = news.cause == Cause::Tick;
                if let Ok(bytes) = serde_json::to_vec(&answer) {
                    let topic = self.topics.applied(&self.config.agent);
                    let bytes = signed::seal(self.config.mqtt.key.as_ref(), &topic, bytes);
                    self.link.publish(&topic, bytes);
                }
                if ended {
                    self.ask_devices();
                }
            }
            Some(CapEvent::Devices(devices)) => self.say_hello(devices),
            Some(CapEvent::Restored) | None => {}
        }
        let now = self.clock.steady();
        match news.next_end {
            // A safe cap that could not be set is tried again a sample later, not at once.
            Some(at) if at <= now && asked.is_none() => Some(now + self.config.sample_every),
            other => other,
        }
    }

    fn say_hello(&mut self, devices: Vec<CappableDevice>) {
        let hello = AgentHello {
            agent: self.config.agent.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            fence: self.told.fence,
            at: self.times.now().at,
            devices,
            foreign: self.told.foreign.clone(),
            leaving: self.told.leaving,
        };
        if let Ok(bytes) = serde_json::to_vec(&hello) {
            let topic = self.topics.hello(&self.config.agent);
            let bytes = signed::seal(self.config.mqtt.key.as_ref(), &topic, bytes);
            self.link.publish_retained(&topic, bytes);
        }
    }

    /// Forces the spool to the disk, on a thread for such work.
    fn sync(&mut self) {
        let now = (
            self.outbox.spool.next_sequence(),
            self.outbox.spool.waiting(),
        );
        if now == self.synced {
            return;
        }
        self.synced = now;
        if let Err(error) = self.outbox.spool.note_acknowledged() {
            tracing::debug!(%error, "how far samples are acknowledged cannot be noted");
        }
        let path = self.outbox.spool.sync_path().to_owned();
        tokio::task::spawn_blocking(move || {
            let synced = std::fs::File::open(&path).and_then(|f| f.sync_data());
            match synced {
                // Acknowledged and removed in the meantime.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "the spool cannot be forced to the disk")
                }
                Ok(()) => {}
            }
        });
    }

    /// The clean end: limits restored, spool sent, good-bye said.
    async fn end(mut self) {
        let clock = Arc::clone(&self.clock);
        let (told, now) = (self.is_connected(), self.times.now());
        self.caps.ask(CapTask::Leave { told, now });
        let restore = self.caps.restore_within.min(RESTORE);
        let wait = ROOM.max(restore / 2);
        let within = restore + wait;
        let (mut restoring, mut restored) = (true, false);
        let mut expiry: Option<Timestamp> = None;
        let started = Instant::now();
        let mut room = Some(started + wait);
        let mut progress = started;
        let mut waiting = self.outbox.spool.waiting();
        let mut look = tokio::time::interval(Duration::from_millis(50));
        loop {
            let quiet = if self.is_connected() { DRAIN.0 } else { NOBODY };
            let drained = waiting == 0 || progress.elapsed() > quiet || started.elapsed() > DRAIN.1;
            if drained && (restored || started.elapsed() > within) {
                break;
            }
            tokio::select! {
                news = self.caps.news() => {
                    match news.event {
                        Some(CapEvent::Restored) => {
                            restoring = false;
                            room = None;
                            self.ask_devices();
                        }
                        // The hello with the limits restored is the last of it.
                        Some(CapEvent::Devices(_)) => restored = !restoring,
                        _ => {}
                    }
                    expiry = self.take_news(news, expiry);
                }
                // Leases go on, and end, while leave is waited for.
                () = wait_for(&clock, expiry) => {
                    expiry = None;
                    let now = self.times.now();
                    self.caps.ask(CapTask::Tick(now));
                }
                () = at(room) => {
                    room = None;
                    self.caps.ask(CapTask::Stay);
                }
                event = self.events.recv() => match event {
                    Some(event) => self.take_event(event),
                    None => break,
                },
                _ = look.tick() => self.outbox.tick(&self.link),
            }
            if self.outbox.spool.waiting() < waiting {
                waiting = self.outbox.spool.waiting();
                progress = Instant::now();
            }
        }
        if !restored {
            tracing::error!(agent = %self.config.agent, "the driver did not answer in time; power limits are restored at the next start");
        }
        if let Err(error) = self.outbox.spool.close() {
            tracing::error!(%error, "the spool cannot be closed cleanly; nothing in it is lost");
        }
        self.publish_counts();
        self.link.stop().await;
    }

    fn publish_counts(&mut self) {
        let sources = self.sampler.stats();
        let (waiting, bytes, resends) = (
            self.outbox.spool.waiting(),
            self.outbox.spool.bytes(),
            self.outbox.resends,
        );
        self.edit(|stats| {
            stats.sources = sources;
            stats.batches_waiting = waiting;
            stats.spool_bytes = bytes;
            stats.resends = resends;
        });
    }

    fn is_connected(&self) -> bool {
        let stats = self.stats.lock();
        stats.unwrap_or_else(PoisonError::into_inner).connected
    }

    fn edit(&self, change: impl FnOnce(&mut AgentStats)) {
        change(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A short name for why samples were dropped; the error itself holds numbers that vary.
fn reason_key(error: &crate::spool::SpoolError) -> String {
    use crate::spool::SpoolError as E;
    match error {
        E::Full { .. } => "spool full".into(),
        E::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            "disk full".into()
        }
        E::Io { .. } | E::InUse { .. } => "spool not writable".into(),
        E::Encode(_) => "batch not encodable".into(),
    }
}

/// A metric that the catalogue does not have cannot be named on the wire.
fn known_metrics_only(mut frame: Frame) -> Frame {
    let known = Catalogue::builtin().iter().count();
    frame
        .readings
        .retain(|(metric, _)| usize::from(metric.0) < known);
    frame
}

async fn wait_for(clock: &Arc<dyn Clock>, at: Option<Timestamp>) {
    match at {
        Some(at) => clock.wait_until_steady(at).await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
