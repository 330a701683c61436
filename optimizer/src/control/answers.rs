//! How long lowering takes: the time from a command to its answer, as measured.

use heliostat_models::lease::{CapAnswer, CapCommand};
use heliostat_models::{AgentId, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// Taken while no answer has been measured: the agents' answer and a device's
/// own second or two.
const STATED: f64 = 5.0;
/// Seconds in which a device follows a limit that is set.
const DEVICE: f64 = 2.0;
/// The slowest answer of this long counts, and of as long before.
const WINDOW: Duration = Duration::from_secs(900);

/// Times of answers to one controller run.
#[derive(Debug)]
pub(super) struct AnswerTimes {
    controller: String,
    lease: Duration,
    /// When commands went out that have no answer yet, by sequence.
    sent: BTreeMap<u64, Timestamp>,
    /// Begin of the window, the slowest answer in it, and in the one before.
    window: Option<(Timestamp, f64, Option<f64>)>,
}

impl AnswerTimes {
    /// Of a run of this name.
    pub fn new(controller: String, lease: Duration) -> Self {
        Self {
            controller,
            lease,
            sent: BTreeMap::new(),
            window: None,
        }
    }

    /// These commands go out.
    pub fn sent(&mut self, commands: &[(AgentId, CapCommand)], now: Timestamp) {
        // What is not answered by then is late, and counted as such elsewhere.
        let since = now - self.lease * 2;
        self.sent.retain(|_, at| *at >= since);
        self.sent
            .extend(commands.iter().map(|(_, c)| (c.sequence, now)));
    }

    /// An answer came; when the command that it answers went out, where it is the
    /// first answer to one of ours.
    pub fn heard(&mut self, answer: &CapAnswer, now: Timestamp) -> Option<Timestamp> {
        if answer.controller.as_ref() != Some(&self.controller) {
            return None;
        }
        let sent = answer.sequence.and_then(|s| self.sent.remove(&s))?;
        let took = now.seconds_since(sent).max(0.0);
        self.window = Some(match self.window {
            None => (now, took, None),
            Some((begin, slowest, _)) if now - WINDOW >= begin => (now, took, Some(slowest)),
            Some((begin, slowest, before)) => (begin, slowest.max(took), before),
        });
        Some(sent)
    }

    /// Seconds until a lowered cap is in force where the agent answers.
    pub fn seconds(&self) -> f64 {
        match self.window {
            None => STATED,
            Some((_, slowest, before)) => slowest.max(before.unwrap_or(0.0)) + DEVICE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(sequence: u64) -> (AgentId, CapCommand) {
        let command = CapCommand {
            sequence,
            controller: "run".into(),
            fence: 0,
            issued: Timestamp(0),
            expires: Timestamp(0),
            leases: Vec::new(),
        };
        (AgentId::from("n1"), command)
    }

    fn answer(sequence: u64, controller: &str) -> CapAnswer {
        CapAnswer {
            agent: AgentId::from("n1"),
            controller: Some(controller.into()),
            sequence: Some(sequence),
            fence: 0,
            at: Timestamp(0),
            reports: Vec::new(),
        }
    }

    #[test]
    fn the_slowest_answer_of_late_counts_and_is_forgotten_in_time() {
        let mut times = AnswerTimes::new("run".into(), Duration::from_secs(30));
        assert_eq!(times.seconds(), STATED);
        let second = |s: i64| Timestamp(s * 1_000);
        times.sent(&[command(1), command(2)], second(0));
        times.heard(&answer(1, "another run"), second(50));
        assert_eq!(times.seconds(), STATED, "not ours");
        times.heard(&answer(1, "run"), second(1));
        assert_eq!(times.seconds(), 1.0 + DEVICE);
        times.heard(&answer(2, "run"), second(9));
        times.heard(&answer(2, "run"), second(40));
        assert_eq!(times.seconds(), 9.0 + DEVICE, "an answer counts once");
        // One window on it still counts, two windows on no more.
        for (sequence, at, slowest) in [(3, 1_000, 9.0), (4, 2_000, 1.0)] {
            times.sent(&[command(sequence)], second(at));
            times.heard(&answer(sequence, "run"), second(at + 1));
            assert_eq!(times.seconds(), slowest + DEVICE);
        }
    }
}
