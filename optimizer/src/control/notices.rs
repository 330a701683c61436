//! Grid events outlive their controller: they are kept on disk, and the broker keeps
//! them for whoever stands by. Each controller takes in what others know and tells
//! what they lack, so that all come to know the same.

use super::charge::KEPT_IS_HEARD;
use super::events::{EventsFile, Notice};
use super::round::Control;
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
