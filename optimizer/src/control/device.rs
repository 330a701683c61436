//! What the executor knows of one device's cap.

use heliostat_models::lease::CappableDevice;
use heliostat_models::{Timestamp, Watts};
use std::time::Duration;

/// By how much an agent's clock may be behind ours.
const CLOCK_GRACE: Duration = Duration::from_secs(10);

/// A cap that was sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sent {
    pub sequence: u64,
    pub cap: Watts,
    pub expires: Timestamp,
}

/// One device.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// As the driver says it; empty until an agent told.
    pub uuid: String,
    /// Lowest settable cap.
    pub min: Watts,
    /// Highest settable cap.
    pub max: Watts,
    /// The configuration's safe cap, within the range.
    pub safe: Watts,
    /// Why the last command was refused.
    pub refused: Option<String>,
    /// The last limit that the agent stated, and when it was true. `None`
    /// inside: the agent itself could not read it.
    stated: Option<(Option<Watts>, Timestamp)>,
    /// Highest sequence that an answer bore.
    answered: u64,
    /// Commands up to this one can no longer change the device.
    settled: u64,
    /// Caps sent that may still take effect, oldest first.
    sent: Vec<Sent>,
}

impl Device {
    pub fn new(min: Watts, max: Watts, safe: Watts) -> Self {
        Self {
            uuid: String::new(),
            min,
            max,
            safe: safe.clamp(min, max),
            refused: None,
            stated: None,
            answered: 0,
            settled: 0,
            sent: Vec::new(),
        }
    }

    pub fn is_known(&self) -> bool {
        !self.uuid.is_empty()
    }

    pub fn reported(&self) -> Option<Watts> {
        self.stated.and_then(|(cap, _)| cap)
    }

    /// The largest cap that the device may have now.
    pub fn worst(&self) -> Watts {
        let stated = self.reported().unwrap_or(self.max);
        (self.sent.iter())
            .filter(|s| s.sequence > self.settled)
            .fold(stated, |worst, s| worst.max(s.cap))
    }

    /// An agent started or came back. It may have forgotten which commands it
    /// had, so those that have not ended count again.
    pub fn on_hello(&mut self, said: &CappableDevice, at: Timestamp) {
        if self.uuid != said.uuid {
            // Another card in this place: nothing that was known holds for it.
            *self = Self {
                uuid: said.uuid.clone(),
                sent: std::mem::take(&mut self.sent),
                answered: self.answered,
                ..Self::new(said.min, said.max, self.safe)
            };
        }
        self.min = said.min;
        self.max = said.max;
        self.safe = self.safe.clamp(said.min, said.max);
        self.state(Some(said.current), at);
        self.settled = 0;
    }

    /// An answer: what the device has now, whether it refused, to which of our commands.
    pub fn on_report(
        &mut self,
        now_has: Option<Watts>,
        refused: Option<String>,
        sequence: Option<u64>,
        at: Timestamp,
    ) {
        if let Some(sequence) = sequence {
            if sequence < self.answered {
                return;
            }
            let news = sequence > self.answered;
            let older = self.stated.is_some_and(|(_, known)| at < known);
            if older {
                return;
            }
            self.answered = sequence;
            self.settled = sequence;
            self.refused = refused;
            if news {
                // The agent has done nothing since: its numbering says so even
                // where the clock stood still.
                self.stated = Some((now_has, at));
                return;
            }
        }
        self.state(now_has, at);
    }

    /// Takes a statement unless a later one is known; of two at one instant the
    /// larger counts.
    fn state(&mut self, now_has: Option<Watts>, at: Timestamp) {
        match self.stated {
            Some((_, known)) if at < known => {}
            Some((had, known)) if at == known => {
                let larger = had.zip(now_has).map(|(a, b)| a.max(b));
                self.stated = Some((larger, at));
            }
            _ => self.stated = Some((now_has, at)),
        }
    }

    /// A cap goes out. Forgets caps that can no longer take effect.
    pub fn sent(&mut self, sent: Sent, now: Timestamp) {
        let settled = self.settled;
        self.sent.retain(|old| {
            let over = old.sequence <= settled && old.expires + CLOCK_GRACE < now;
            // A later cap that is at least as high, and ends no earlier, stands for it.
            !over && old.cap > sent.cap
        });
        self.sent.push(sent);
    }
}
