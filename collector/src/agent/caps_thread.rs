//! The thread on which the driver is called to set limits: it may take long,
//! and sampling must not wait for it.

use super::caps::CapKeeper;
use super::stats::CapStats;
use heliostat_models::Timestamp;
use heliostat_models::lease::{CapAnswer, CapCommand, CappableDevice};
use std::sync::mpsc as blocking;
use tokio::sync::mpsc;

/// What the thread is asked.
pub(super) enum CapTask {
    /// Apply a command.
    Command(Box<CapCommand>, Timestamp),
    /// Time has passed.
    Tick(Timestamp),
    /// Read all limits, for a hello.
    Devices,
    /// Restore the limits found.
    Restore,
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

/// What is told with every event.
pub(super) struct CapNews {
    pub(super) event: Option<CapEvent>,
    pub(super) next_expiry: Option<Timestamp>,
    /// The highest fence seen.
    pub(super) fence: u64,
    pub(super) stats: CapStats,
}

/// The thread's two ends.
pub(super) struct CapThread {
    tasks: blocking::Sender<CapTask>,
    news: mpsc::UnboundedReceiver<CapNews>,
}

impl CapThread {
    pub(super) fn start(keeper: CapKeeper) -> std::io::Result<Self> {
        let (tasks, asked) = blocking::channel();
        let (tell, news) = mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("caps".into())
            .spawn(move || serve(keeper, &asked, &tell))?;
        Ok(Self { tasks, news })
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
        let foreign = keeper.stats.foreign_changes.clone();
        let event = match task {
            CapTask::Command(command, now) => keeper.command(&command, now).map(CapEvent::Answer),
            CapTask::Tick(now) => keeper.expire(now).map(CapEvent::Answer),
            CapTask::Devices => Some(CapEvent::Devices(keeper.devices())),
            CapTask::Restore => {
                keeper.restore();
                Some(CapEvent::Restored)
            }
        };
        let news = CapNews {
            event,
            next_expiry: keeper.next_expiry(),
            fence: keeper.fence(),
            stats: keeper.stats.clone(),
        };
        if tell.send(news).is_err() {
            return;
        }
        if keeper.stats.foreign_changes != foreign {
            // Whoever watches must hear that somebody else changed a limit.
            let news = CapNews {
                event: Some(CapEvent::Devices(keeper.devices())),
                next_expiry: keeper.next_expiry(),
                fence: keeper.fence(),
                stats: keeper.stats.clone(),
            };
            let _ = tell.send(news);
        }
    }
}
