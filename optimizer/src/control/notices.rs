//! What was promised and said outlives its controller. Grid events: they are kept on disk, and the broker
//! keeps them for whoever stands by. Each controller takes in what others know
//! and tells what they lack, so that all come to know the same. And whether a person armed or disarmed it.

use super::arming::{Word, WordFile};
use super::charge::KEPT_IS_HEARD;
use super::events::{EventsFile, Notice};
use super::round::Control;
use crate::view::ControlMode;
use heliostat_models::Timestamp;
use std::path::Path;
use std::time::Duration;

/// A site has this long to follow a grid event before it is told that it does not.
const TO_COMPLY: Duration = Duration::from_secs(30);
/// What meters may say above a limit that is kept.
const SLACK: f64 = 0.005;

/// Where grid events are kept besides in memory.
#[derive(Debug)]
pub(super) struct Notices {
    file: Option<EventsFile>,
    /// What the broker keeps, as heard or told.
    on_broker: Vec<Notice>,
    /// What is wrong with the file.
    pub trouble: Option<String>,
    /// What the site draws beyond a grid event's limit.
    pub unmet: Option<String>,
}

impl Notices {
    /// In a directory, or on the broker alone.
    pub fn new(directory: Option<&Path>) -> Self {
        Self {
            file: directory.map(EventsFile::new),
            on_broker: Vec::new(),
            trouble: None,
            unmet: None,
        }
    }

    /// What people should hear of.
    pub fn troubles(&self) -> impl Iterator<Item = &String> {
        self.trouble.iter().chain(&self.unmet)
    }
}

impl Control {
    /// Takes up what an earlier run knew.
    pub(super) fn recall_events(&mut self, now: Timestamp) {
        let Some(file) = &mut self.notices.file else {
            return;
        };
        match file.read() {
            Ok(notices) => drop(self.events.merge(notices, now)),
            Err(error) => {
                let path = file.path().display();
                let lost = format!(
                    "Grid events of an earlier run cannot be read from {path}: {error}. What nobody else tells must be handed over again"
                );
                tracing::error!("{lost}");
                (self.journal).troubles(now, self.armed(), vec![lost], true);
            }
        }
    }

    /// Takes up whether a person armed or disarmed an earlier run; who, where that counts.
    pub(super) fn recall_arming(&mut self, now: Timestamp) -> Option<String> {
        let file = WordFile::new(self.config.directory.as_deref()?);
        match file.read(self.config.armed) {
            Ok(word) => word
                .filter(|word| word.armed != self.is_to_act())
                .map(|word| {
                    self.mode = match word.armed {
                        true => ControlMode::Armed,
                        false => ControlMode::Observe,
                    };
                    format!("{} at {}, before the restart", word.who, word.at)
                }),
            Err(error) => {
                // Nobody knows whether somebody disarmed it: a person must say it again.
                self.mode = ControlMode::Observe;
                let lost = format!(
                    "Whether control was armed cannot be read ({error}): it observes until somebody arms it"
                );
                tracing::error!("{lost}");
                self.journal.troubles(now, false, vec![lost], true);
                None
            }
        }
    }

    /// Keeps a person's word.
    pub(super) fn keep_arming(&self, armed: bool, who: String, now: Timestamp) {
        let Some(directory) = self.config.directory.as_deref() else {
            return;
        };
        let configured = self.config.armed;
        let at = now;
        let word = Word {
            armed,
            who,
            at,
            configured,
        };
        if let Err(error) = WordFile::new(directory).write(&word) {
            tracing::error!(%error, armed, "it cannot be kept whether control is armed; a restart goes by the configuration");
        }
    }

    /// Another controller, or the broker's memory, speaks of grid events; whether
    /// that was news.
    pub fn hear_events(&mut self, notices: Vec<Notice>) -> bool {
        let now = self.deps.clock.now();
        self.notices.on_broker.clone_from(&notices);
        let news = self.events.merge(notices, now);
        if news {
            self.plan_soon(now);
        }
        news
    }

    /// Keeps on disk what changed, and tells the broker what it lacks.
    pub(super) fn mind_events(&mut self) {
        let known = self.events.notices();
        if let Some(file) = &mut self.notices.file {
            self.notices.trouble = (file.write(known.clone()).err()).map(|error| {
                let path = file.path().display();
                format!("Grid events cannot be kept in {path}, a restart may forget them: {error}")
            });
        }
        let lacking = (known.iter()).any(|notice| !self.notices.on_broker.contains(notice));
        // What the broker keeps is heard first, so that nothing of it is replaced unread.
        let heard = (self.connected).is_some_and(|since| since.elapsed() >= KEPT_IS_HEARD);
        if lacking && heard && self.link.events(&known) {
            self.notices.on_broker = known;
        }
    }

    /// Says where a grid event's limit is not kept although there was time.
    pub(super) fn unmet(&self, now: Timestamp) -> Option<String> {
        let (event, limit) = self.events.tightest(now)?;
        let measured = self.inputs.measured.as_ref()?;
        // A meter that was read before says nothing of what is drawn by then.
        let is_late = measured.site_power_at? >= event.from + TO_COMPLY
            && measured.site_power? > limit * (1.0 + SLACK);
        is_late.then(|| {
            let so_far = match self.armed() {
                true => {
                    "see what is shed, and which floors and loads are left, in the last allocation"
                }
                false => "control observes and sends nothing",
            };
            format!(
                "The site draws more than the {:.1} kW that grid event `{}` allows; {so_far}",
                limit.kilowatts(),
                event.id
            )
        })
    }

    /// A broker that was away may have forgotten what it kept.
    pub(super) fn forget_told(&mut self) {
        self.notices.on_broker.clear();
    }
}
