//! Grid events: somebody outside asks the site to draw less for a while.

use heliostat_models::{Timestamp, Watts};
use serde::{Deserialize, Serialize};

/// So many events may be running or to come; further ones are refused.
pub const MAX_EVENTS: usize = 500;

/// A request to draw less.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridEvent {
    /// As the sender names it.
    pub id: String,
    /// When it begins.
    pub from: Timestamp,
    /// When it ends.
    pub to: Timestamp,
    /// What is asked.
    pub ask: Ask,
    /// Who asks and why, for people.
    pub reason: String,
}

/// What a grid event asks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Reduce the site's power to `1 - share` of what it drew when the event came in.
    ReduceBy(f64),
    /// Draw no more than this at the utility feed.
    Limit(Watts),
}
