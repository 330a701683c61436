//! The thread on which the driver is called to set limits: it may take long,
//! and sampling must not wait for it.

use super::caps::{CapKeeper, Leave, Now};
use super::stats::CapStats;
use heliostat_models::Timestamp;
use heliostat_models::lease::{CapAnswer, CapCommand, CappableDevice, ForeignChanges};
use std::sync::mpsc as blocking;
use std::time::Duration;
use tokio::sync::mpsc;

/// What the thread is asked.
pub(super) enum CapTask {
    /// Apply a command.
    Command(Box<CapCommand>, Now),
    /// Time has passed.
    Tick(Now),
    /// Read back the limits that are kept.
    Look(Now),
    /// Read all limits, for a hello.
    Devices(Now),
    /// The agent stops. `told`: what is restored reaches the broker.
    Leave { told: bool, now: Now },
    /// The agent stops without the controller's leave.
    Stay,
}

/// What the thread says.
pub(super) enum CapEvent {
    /// An answer for the executor.
    Answer(CapAnswer),
    /// The devices with their limits of now.
    Devices(Vec<CappableDevice>),
    /// All is restored that could be.
    Restored,
}

/// What news come of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// A [`CapTask::Look`].
    Look,
    /// A [`CapTask::Tick`].
    Tick,
    /// A [`CapTask::Devices`].
    Devices,
    Other,
}

/// What is told with every event.
pub(super) struct CapNews {
    pub(super) event: Option<CapEvent>,
    /// When something is to be done next, by the steady clock.
    pub(super) next_end: Option<Timestamp>,
    /// The highest fence seen.
    pub(super) fence: u64,
    /// Whether limits are kept that are to be read back.
    pub(super) keeps: bool,
    /// What it comes of.
    pub(super) cause: Cause,
    /// The controller is asked for leave to stop.
    pub(super) leaving: bool,
    pub(super) foreign: ForeignChanges,
    pub(super) stats: CapStats,
}

/// The thread's two ends.
pub(super) struct CapThread {
    tasks: blocking::Sender<CapTask>,
    news: mpsc::UnboundedReceiver<CapNews>,
    /// How often limits are read back; zero: at every sample.
    pub(super) look_every: Duration,
    /// How long restoring may take.
    pub(super) restore_within: Duration,
}

impl CapThread {
    pub(super) fn start(keeper: CapKeeper) -> std::io::Result<Self> {
        let (tasks, asked) = blocking::channel();
        let (tell, news) = mpsc::unbounded_channel();
        let (look_every, restore_within) = (keeper.look_every(), keeper.restore_within());
        std::thread::Builder::new()
            .name("caps".into())
            .spawn(move || serve(keeper, &asked, &tell))?;
        Ok(Self {
            tasks,
            news,
            look_every,
            restore_within,
        })
    }

    pub(super) fn ask(&self, task: CapTask) {
        // The thread ends only when this end is dropped.
        let _ = self.tasks.send(task);
    }

    /// The next news; never returns once the thread has ended.
    pub(super) async fn news(&mut self) -> CapNews {
        match self.news.recv().await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    }
}

fn serve(
    mut keeper: CapKeeper,
    asked: &blocking::Receiver<CapTask>,
    tell: &mpsc::UnboundedSender<CapNews>,
) {
    while let Ok(task) = asked.recv() {
        let foreign = keeper.foreign_version();
        let cause = match task {
            CapTask::Look(_) => Cause::Look,
            CapTask::Tick(_) => Cause::Tick,
            CapTask::Devices(_) => Cause::Devices,
            _ => Cause::Other,
        };
        let event = match task {
            CapTask::Command(command, now) => keeper.command(&command, now).map(CapEvent::Answer),
            CapTask::Tick(now) => keeper.expire(now).map(CapEvent::Answer),
            CapTask::Look(now) => keeper.check(now).map(CapEvent::Answer),
            CapTask::Devices(now) => {
                if let Some(answer) = keeper.check(now)
                    && !say(&keeper, tell, Some(CapEvent::Answer(answer)), Cause::Other)
                {
                    return;
                }
                Some(CapEvent::Devices(keeper.devices()))
            }
            CapTask::Leave { told, now } => Some(match keeper.leave(told, now) {
                Leave::Restored => CapEvent::Restored,
                Leave::Asks => CapEvent::Devices(keeper.devices()),
            }),
            CapTask::Stay => {
                keeper.stay();
                Some(CapEvent::Restored)
            }
        };
        if !say(&keeper, tell, event, cause) {
            return;
        }
        if keeper.leaves_now() && !say(&keeper, tell, Some(CapEvent::Restored), Cause::Other) {
            return;
        }
        if keeper.foreign_version() != foreign {
            // Whoever watches must hear what others do to limits.
            let devices = CapEvent::Devices(keeper.devices());
            say(&keeper, tell, Some(devices), Cause::Other);
        }
    }
}

/// Tells what came of a task; whether anybody hears it.
fn say(
    keeper: &CapKeeper,
    tell: &mpsc::UnboundedSender<CapNews>,
    event: Option<CapEvent>,
    cause: Cause,
) -> bool {
    let news = CapNews {
        event,
        next_end: keeper.next_end(),
        fence: keeper.fence(),
        keeps: keeper.keeps(),
        cause,
        leaving: keeper.is_leaving(),
        foreign: keeper.foreign(),
        stats: keeper.stats.clone(),
    };
    tell.send(news).is_ok()
}
