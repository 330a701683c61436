//! What of a relief is worth a line in the log: it is looked at every second
//! while it lasts, and is the same most of the time.

use super::{Question, Relief};
use heliostat_models::{JobId, Watts};
use std::collections::{BTreeMap, BTreeSet};

/// A relief as it was noted.
#[derive(Debug)]
pub(in crate::control) struct Noted {
    /// The caps of the jobs that are asked for less than was decided.
    caps: BTreeMap<JobId, Watts>,
    dropped: BTreeSet<JobId>,
    breakers: BTreeSet<usize>,
    is_enough: bool,
    /// Whether an allocation was noted after it: its caps would seem to hold.
    pub is_behind: bool,
}

impl Noted {
    pub fn new(asked: &Question, relief: &Relief) -> Self {
        let lowered = asked.jobs.iter().filter_map(|job| {
            let mut places = job.devices.iter().map(|place| *place as usize);
            let place = places.find(|p| relief.caps[*p] < asked.devices[*p].then)?;
            Some((job.id.clone(), relief.caps[place]))
        });
        Self {
            caps: lowered.collect(),
            dropped: relief.dropped.iter().cloned().collect(),
            breakers: relief.breakers.iter().map(|b| b.node).collect(),
            is_enough: relief.is_enough,
            is_behind: false,
        }
    }

    /// Whether `now` says something else. Breakers that are strained no longer
    /// are news only where caps change by it.
    pub fn is_other(&self, now: &Self) -> bool {
        self.is_behind
            || self.caps != now.caps
            || self.dropped != now.dropped
            || self.is_enough != now.is_enough
            || !now.breakers.is_subset(&self.breakers)
    }
}
