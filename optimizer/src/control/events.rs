//! Grid events: what they allow at the feed, and when they begin and end.

use crate::grid_event::{Ask, GridEvent};
use heliostat_models::{Timestamp, Watts};

/// An event, and the limit that it came to.
#[derive(Clone, Debug, PartialEq)]
struct Held {
    event: GridEvent,
    limit: Watts,
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

/// The events running or to come.
#[derive(Clone, Debug, Default)]
pub struct GridEvents {
    held: Vec<Held>,
    ended: Vec<GridEvent>,
}

impl GridEvents {
    /// Takes an event in; one of the same id is replaced. `drawn` is what the
    /// site draws now, against which a reduction counts.
    pub fn submit(&mut self, event: GridEvent, drawn: Watts) {
        let limit = match event.ask {
            Ask::ReduceBy(share) if share.is_finite() => drawn * (1.0 - share.clamp(0.0, 1.0)),
            Ask::Limit(limit) if limit.is_finite() => limit.max(Watts::ZERO),
            // A request that says nothing binds nothing; it stays visible.
            _ => Watts(f64::MAX),
        };
        self.held.retain(|h| h.event.id != event.id);
        self.held.push(Held {
            event,
            limit,
            begun: false,
        });
        self.held
            .sort_by(|a, b| (a.event.from, &a.event.id).cmp(&(b.event.from, &b.event.id)));
    }

    /// Calls an event off; whether it was known.
    pub fn cancel(&mut self, id: &str) -> bool {
        let before = self.held.len();
        for held in self.held.iter().filter(|h| h.event.id == id && h.begun) {
            self.ended.push(held.event.clone());
        }
        self.held.retain(|h| h.event.id != id);
        self.held.len() < before
    }

    /// What began or ended up to `now`, each told once.
    pub fn changes(&mut self, now: Timestamp) -> Vec<Change> {
        let mut changes: Vec<Change> = self.ended.drain(..).map(Change::Ended).collect();
        for held in &mut self.held {
            if !held.begun && held.event.from <= now && now < held.event.to {
                held.begun = true;
                changes.push(Change::Began(held.event.clone(), held.limit));
            }
        }
        self.held.retain(|held| {
            let over = held.event.to <= now;
            if over && held.begun {
                changes.push(Change::Ended(held.event.clone()));
            }
            !over
        });
        changes
    }

    /// What may be drawn at the feed at `now`, when an event says so.
    pub fn limit(&self, now: Timestamp) -> Option<Watts> {
        (self.held.iter())
            .filter(|h| h.event.from <= now && now < h.event.to)
            .map(|h| h.limit)
            .min_by(Watts::total_cmp)
            .filter(|l| l.0 < f64::MAX)
    }

    /// The next instant at which an event begins or ends; one that has passed
    /// and was not told by [`GridEvents::changes`] yet counts too.
    pub fn next_change(&self) -> Option<Timestamp> {
        (self.held.iter())
            .map(|h| if h.begun { h.event.to } else { h.event.from })
            .min()
    }

    /// All events, as they came in.
    pub fn all(&self) -> Vec<GridEvent> {
        self.held.iter().map(|h| h.event.clone()).collect()
    }

    /// All events with reductions turned into limits, for the planner.
    pub fn as_limits(&self) -> Vec<GridEvent> {
        (self.held.iter())
            .filter(|h| h.limit.0 < f64::MAX)
            .map(|h| GridEvent {
                ask: Ask::Limit(h.limit),
                ..h.event.clone()
            })
            .collect()
    }
}
