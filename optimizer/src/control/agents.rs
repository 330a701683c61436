//! What agents say of themselves beside caps: their clocks, and what others do
//! to the limits that they keep. It becomes troubles that people see.

use heliostat_models::lease::{AgentHello, CapAnswer, Foreign, ForeignChanges};
use heliostat_models::{AgentId, Timestamp};
use std::collections::BTreeMap;

/// Clocks that surely differ by more seconds than the second are told, until they differ
/// by less than the first.
const CLOCKS: (f64, f64) = (45.0, 60.0);
/// So many of one kind are named one by one; the others are spoken of together.
const NAMED: usize = 8;

/// What is known of one agent.
#[derive(Debug, Default)]
struct Said {
    /// By how many seconds its clock is ahead of ours, where that is told.
    ahead: Option<f64>,
    foreign: ForeignChanges,
}

/// All agents.
#[derive(Debug, Default)]
pub(super) struct Agents {
    said: BTreeMap<AgentId, Said>,
    /// Of all agents, over their restarts.
    changes: u64,
    corrected: u64,
}

impl Agents {
    /// An agent said who it is.
    pub fn on_hello(&mut self, hello: &AgentHello) {
        let said = self.said.entry(hello.agent.clone()).or_default();
        let (before, foreign) = (&said.foreign, &hello.foreign);
        // An agent that was started anew counts from zero.
        let more = |before: u64, after: u64| after.checked_sub(before).unwrap_or(after);
        self.changes += more(before.changes, foreign.changes);
        self.corrected += more(before.corrected, foreign.corrected);
        said.foreign = foreign.clone();
    }

    /// An agent answered a command that was sent then. Its clock is off by what its
    /// answer's instant lies outside of the time in which it was given: however long
    /// the ways take, and however fast time is made to pass, that is no guess.
    pub fn on_answer(&mut self, answer: &CapAnswer, sent: Timestamp, now: Timestamp) {
        let said = self.said.entry(answer.agent.clone()).or_default();
        let ahead = answer.at.seconds_since(now).max(0.0);
        let behind = sent.seconds_since(answer.at).max(0.0);
        let off = ahead - behind;
        let bound = match said.ahead {
            Some(_) => CLOCKS.0,
            None => CLOCKS.1,
        };
        said.ahead = (off.abs() > bound).then_some(off);
    }

    /// Limits that others changed, and those of them that were set back.
    pub fn foreign(&self) -> (u64, u64) {
        (self.changes, self.corrected)
    }

    /// Agents whose clock differs from ours by more than is sound.
    pub fn clocks_off(&self) -> usize {
        (self.said.values())
            .filter(|said| said.ahead.is_some())
            .count()
    }

    /// Devices whose limit somebody else keeps, or that do not tell it.
    pub fn devices_touched(&self) -> usize {
        self.said
            .values()
            .map(|said| said.foreign.notes.len())
            .sum()
    }

    /// What people should know, in sentences that stay the same while it lasts.
    pub fn troubles(&self) -> Vec<String> {
        let clocks = (self.said.iter()).filter_map(|(agent, said)| {
            let way = if said.ahead? > 0.0 { "ahead of" } else { "behind" };
            Some(format!(
                "The clock of agent `{agent}` is more than {:.0} s {way} control's; leases go by their length, but its readings bear wrong instants: set it",
                CLOCKS.0
            ))
        });
        let notes = self.said.values().flat_map(|said| &said.foreign.notes);
        let limits = notes.map(|note| match &note.what {
            Foreign::Lowered { limit, until } => {
                let until = until.map_or("it is taken back".to_owned(), |at| at.to_string());
                format!(
                    "Somebody else lowered the limit of `{}` to {limit}; it is left at that until {until}",
                    note.device
                )
            }
            Foreign::RaisedAgain { .. } => format!(
                "The limit of `{}` is raised again and again by resets or somebody else, and set back each time",
                note.device
            ),
            Foreign::Unreadable => format!(
                "The limit of `{}` cannot be read; it counts at its highest",
                note.device
            ),
        });
        few(clocks, "Further agents' clocks differ")
            .chain(few(limits, "Others touch the limits of further devices"))
            .collect()
    }
}

/// The first ones; one sentence for all beyond.
fn few(all: impl Iterator<Item = String>, more: &str) -> impl Iterator<Item = String> {
    let more = format!("{more}; `/metrics` counts them");
    all.enumerate()
        .take(NAMED + 1)
        .map(move |(place, text)| if place < NAMED { text } else { more.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::Watts;
    use heliostat_models::lease::ForeignNote;

    fn answer(agent: &str, at: i64) -> CapAnswer {
        CapAnswer {
            agent: agent.into(),
            sequence: Some(1),
            controller: None,
            fence: 0,
            at: Timestamp(at),
            reports: Vec::new(),
        }
    }

    fn hello(agent: &str, changes: u64, devices: usize) -> AgentHello {
        let note = |number| ForeignNote {
            device: format!("{agent}-gpu{number}").into(),
            what: Foreign::Lowered {
                limit: Watts(300.0),
                until: None,
            },
        };
        AgentHello {
            agent: agent.into(),
            version: String::new(),
            fence: 0,
            at: Timestamp(0),
            devices: Vec::new(),
            foreign: ForeignChanges {
                changes,
                corrected: changes / 2,
                notes: (0..devices).map(note).collect(),
            },
            leaving: false,
        }
    }

    #[test]
    fn clocks_that_differ_are_told_and_do_not_flutter() {
        let mut agents = Agents::default();
        // Sent ten minutes before the answer came.
        let (sent, now) = (Timestamp(-600_000), Timestamp(0));
        let mut told = |at: i64| {
            agents.on_answer(&answer("n1", at), sent, now);
            agents.troubles()
        };
        assert_eq!(told(60_000), Vec::<String>::new());
        let ahead = told(61_000);
        assert!(
            ahead[0].contains("`n1`") && ahead[0].contains("ahead of"),
            "{ahead:?}"
        );
        assert_eq!(told(46_000), ahead);
        assert_eq!(told(45_000), Vec::<String>::new());
        for slow in [-1, -300_000, -600_000, -660_000] {
            assert_eq!(told(slow), Vec::<String>::new(), "it may have waited");
        }
        assert!(told(-661_000)[0].contains("behind"));
        assert_eq!(agents.clocks_off(), 1);
    }

    #[test]
    fn changes_are_counted_over_restarts_and_named_up_to_a_bound() {
        let mut agents = Agents::default();
        for (changes, devices) in [(4, 1), (4, 1), (10, 2), (2, 1)] {
            agents.on_hello(&hello("n1", changes, devices));
        }
        assert_eq!(agents.foreign(), (12, 6));
        assert!(agents.troubles()[0].contains("`n1-gpu0` to 300 W"));
        agents.on_hello(&hello("n2", 0, 40));
        let many = agents.troubles();
        assert_eq!((many.len(), agents.devices_touched()), (NAMED + 1, 41));
        agents.on_hello(&hello("n2", 0, 41));
        assert_eq!(agents.troubles(), many, "the same sentences while it lasts");
        agents.on_hello(&hello("n1", 2, 0));
        agents.on_hello(&hello("n2", 0, 0));
        assert_eq!(agents.troubles(), Vec::<String>::new());
    }
}
