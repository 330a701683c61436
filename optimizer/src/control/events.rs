//! Grid events: what they allow at the feed, and when they begin and end.

mod kept;
mod notice;

pub use kept::EventsFile;
pub use notice::Notice;

use crate::grid_event::{Ask, GridEvent, MAX_EVENTS};
use heliostat_models::{Timestamp, Watts};
use std::collections::BTreeMap;

/// An event as it is known, and whether its begin was told.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    notice: Notice,
    begun: bool,
}

/// A change that events brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// An event began; the feed's limit is now this.
    Began(GridEvent, Watts),
    /// An event ended, or was called off while it ran.
    Ended(GridEvent),
}

/// The events running or to come, by name; those called off, too, until they
/// would have ended, so that nobody brings them back.
#[derive(Clone, Debug, Default)]
pub struct GridEvents {
    held: BTreeMap<String, Held>,
    ended: Vec<GridEvent>,
}

impl GridEvents {
    /// Takes an event in; one of the same id is replaced. `drawn` is what the
    /// site draws now, against which a reduction counts. One without sense, and
    /// one more than there may be, is not taken.
    pub fn submit(&mut self, event: GridEvent, drawn: Watts, now: Timestamp) -> bool {
        let known = self.held.get(&event.id).map(|held| &held.notice);
        let known = known.filter(|known| !known.off);
        // Told again, or for longer: it counts against what was drawn at first, and
        // not against what it left.
        let drawn = known.and_then(Notice::drawn).unwrap_or(drawn);
        let limit = match event.ask {
            Ask::ReduceBy(share) if share.is_finite() => drawn * (1.0 - share.clamp(0.0, 1.0)),
            Ask::Limit(limit) if limit.is_finite() => limit.max(Watts::ZERO),
            _ => return false,
        };
        if known.is_some_and(|known| known.event == event) {
            return true;
        }
        if !self.has_room(&event.id) {
            return false;
        }
        let notice = Notice {
            revision: self.next_revision(&event.id, now),
            event,
            limit,
            off: false,
        };
        self.hold(notice);
        true
    }

    /// Calls an event off; whether it was known.
    pub fn cancel(&mut self, id: &str, now: Timestamp) -> bool {
        let revision = self.next_revision(id, now);
        let Some(held) = self.held.get_mut(id).filter(|h| !h.notice.off) else {
            return false;
        };
        if held.begun {
            self.ended.push(held.notice.event.clone());
        }
        held.notice.off = true;
        held.notice.revision = revision;
        true
    }

    /// Takes in what another controller, or an earlier run, knew; whether that
    /// was news. What ended before `now` is none.
    pub fn merge(&mut self, notices: Vec<Notice>, now: Timestamp) -> bool {
        let mut news = false;
        for notice in notices {
            let known = self.held.get(&notice.event.id).map(|held| &held.notice);
            if notice.event.to <= now
                || !notice.is_sound()
                || known.is_some_and(|known| !notice.outranks(known))
                || !self.has_room(&notice.event.id)
            {
                continue;
            }
            news = true;
            self.hold(notice);
        }
        news
    }

    /// Everything that is known, by name.
    pub fn notices(&self) -> Vec<Notice> {
        self.held.values().map(|held| held.notice.clone()).collect()
    }

    /// What began or ended up to `now`, each told once.
    pub fn changes(&mut self, now: Timestamp) -> Vec<Change> {
        let mut changes: Vec<Change> = self.ended.drain(..).map(Change::Ended).collect();
        for held in self.held.values_mut().filter(|held| !held.notice.off) {
            let event = &held.notice.event;
            if !held.begun && event.from <= now && now < event.to {
                held.begun = true;
                changes.push(Change::Began(event.clone(), held.notice.limit));
            }
        }
        self.held.retain(|_, held| {
            let over = held.notice.event.to <= now;
            if over && held.begun && !held.notice.off {
                changes.push(Change::Ended(held.notice.event.clone()));
            }
            !over
        });
        changes
    }

    /// What may be drawn at the feed at `now`, when an event says so.
    pub fn limit(&self, now: Timestamp) -> Option<Watts> {
        self.tightest(now).map(|(_, limit)| limit)
    }

    /// The event that asks for most at `now`, and its limit.
    pub fn tightest(&self, now: Timestamp) -> Option<(&GridEvent, Watts)> {
        (self.live())
            .filter(|h| h.notice.event.from <= now && now < h.notice.event.to)
            .map(|h| (&h.notice.event, h.notice.limit))
            .min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The next instant at which an event begins or ends; one that has passed
    /// and was not told by [`GridEvents::changes`] yet counts too.
    pub fn next_change(&self) -> Option<Timestamp> {
        (self.live())
            .map(|h| match h.begun {
                true => h.notice.event.to,
                false => h.notice.event.from,
            })
            .min()
    }

    /// All events, by their begin.
    pub fn all(&self) -> Vec<GridEvent> {
        let mut all: Vec<GridEvent> = self.live().map(|h| h.notice.event.clone()).collect();
        all.sort_by(|a, b| (a.from, &a.id).cmp(&(b.from, &b.id)));
        all
    }

    /// All events with reductions turned into limits, for the planner.
    pub fn as_limits(&self) -> Vec<GridEvent> {
        (self.live())
            .map(|h| GridEvent {
                ask: Ask::Limit(h.notice.limit),
                ..h.notice.event.clone()
            })
            .collect()
    }

    /// Those that were not called off.
    fn live(&self) -> impl Iterator<Item = &Held> {
        self.held.values().filter(|held| !held.notice.off)
    }

    /// Whether an event can be held besides the others. What was called off makes
    /// room, the longest known first.
    fn has_room(&mut self, id: &str) -> bool {
        if self.held.len() < MAX_EVENTS || self.held.contains_key(id) {
            return true;
        }
        let off = self.held.iter().filter(|(_, held)| held.notice.off);
        let oldest = off.min_by_key(|(_, held)| held.notice.revision);
        let oldest = oldest.map(|(id, _)| id.clone());
        oldest.is_some_and(|id| self.held.remove(&id).is_some())
    }

    fn hold(&mut self, notice: Notice) {
        let id = notice.event.id.clone();
        let begun = false;
        let off = notice.off;
        let before = self.held.insert(id, Held { notice, begun });
        if let Some(before) = before.filter(|before| before.begun && off) {
            self.ended.push(before.notice.event);
        }
    }

    /// Above all that is known of an event; instants, so that a run which knows
    /// nothing of it outranks an older one that does.
    fn next_revision(&self, id: &str, now: Timestamp) -> i64 {
        let known = self.held.get(id).map_or(0, |h| h.notice.revision);
        known.saturating_add(1).max(now.millis())
    }
}
