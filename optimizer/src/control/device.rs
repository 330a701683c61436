//! What the executor knows of one device's cap.

use heliostat_models::lease::{CLOCK_BOUND, CappableDevice};
use heliostat_models::{Timestamp, Watts};

/// An agent takes a command up to [`CLOCK_BOUND`] after its end, by a clock that
/// may be as much behind ours.
const CLOCK_GRACE: u32 = 2;

/// A limit that changed by more than this followed a command.
const MOVED: f64 = 0.5;

/// A cap that was sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sent {
    pub sequence: u64,
    pub cap: Watts,
    pub expires: Timestamp,
}

/// What a limit of the node as a whole means for one of its accelerators.
#[derive(Clone, Debug)]
pub(super) struct Part<'a> {
    /// Who is limited.
    pub uuid: &'a str,
    pub range: (Watts, Watts),
    pub worst: Watts,
    pub stated: Option<Watts>,
    /// Its share of what the node's agent found, where that is about to stop.
    pub leaving: Option<Watts>,
    pub refused: Option<String>,
    pub fenced: bool,
}

/// One device, or a node that is limited as a whole.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// As the driver says it; empty until an agent told.
    pub uuid: String,
    /// Lowest settable cap.
    pub min: Watts,
    /// Highest settable cap.
    pub max: Watts,
    /// The highest that `max` ever was: while somebody keeps the device lower, an
    /// agent says less, and takes that back before we hear of it. Of a node's limit,
    /// what the node draws without.
    highest: Watts,
    /// Its agent is about to stop and would set this limit, which it found.
    pub leaving: Option<Watts>,
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
    /// Commands up to this one went out before the last hello; an answer to them
    /// may be older than it.
    doubted: u64,
    /// Caps sent that may still take effect, oldest first.
    sent: Vec<Sent>,
    /// Whether its agent knows that we are in charge. Until then an order of an
    /// earlier controller may still be on its way, with any cap.
    fenced: bool,
    /// The largest cap that it may have, where that follows from its node's limit.
    follows: Option<Watts>,
}

impl Device {
    pub fn new(min: Watts, max: Watts, safe: Watts) -> Self {
        Self {
            uuid: String::new(),
            min,
            max,
            highest: max,
            leaving: None,
            safe: safe.clamp(min, max),
            refused: None,
            stated: None,
            answered: 0,
            settled: 0,
            doubted: 0,
            sent: Vec::new(),
            fenced: true,
            follows: None,
        }
    }

    /// Its node is limited as a whole: all that is known of it follows from that.
    pub fn follow(&mut self, part: Part<'_>) {
        part.uuid.clone_into(&mut self.uuid);
        (self.min, self.max) = part.range;
        self.safe = self.safe.clamp(self.min, self.max);
        self.refused = part.refused;
        self.stated = Some((part.stated, Timestamp(i64::MIN)));
        self.leaving = part.leaving;
        self.fenced = part.fenced;
        self.follows = Some(part.worst);
        self.sent.clear();
    }

    /// Its agent said what cannot be: what it has is unknown, and it is left alone.
    pub fn on_nonsense(&mut self, fault: String, fenced: bool, at: Timestamp) {
        self.fenced = fenced;
        self.state(None, at);
        self.settled = 0;
        self.leaving = None;
        self.refused = Some(fault);
    }

    /// We are in charge under a new fence, which no agent knows yet.
    pub fn unfence(&mut self) {
        self.fenced = false;
    }

    pub fn is_fenced(&self) -> bool {
        self.fenced
    }

    /// Whether its node is limited as a whole.
    pub fn is_part(&self) -> bool {
        self.follows.is_some()
    }

    pub fn is_known(&self) -> bool {
        !self.uuid.is_empty()
    }

    pub fn reported(&self) -> Option<Watts> {
        self.stated.and_then(|(cap, _)| cap)
    }

    /// The cap that the device was last said to have; unknown, the highest that it
    /// may come to.
    pub fn stated(&self) -> Watts {
        self.reported().unwrap_or(self.highest)
    }

    /// The largest cap that the device may have now.
    pub fn worst(&self) -> Watts {
        let held = self.held();
        if self.fenced || self.follows.is_some() {
            held
        } else {
            held.max(self.highest)
        }
    }

    /// The same by its agent's word and our own orders, an earlier controller's
    /// left out of account.
    pub fn held(&self) -> Watts {
        if let Some(worst) = self.follows {
            return worst;
        }
        (self.sent.iter())
            .filter(|s| s.sequence > self.settled)
            .fold(self.stated(), |worst, s| worst.max(s.cap))
    }

    /// An agent started or came back. It may have forgotten which commands it
    /// had, so those that have not ended count again.
    /// `fenced`: it knows that we are in charge.
    pub fn on_hello(&mut self, said: &CappableDevice, fenced: bool, at: Timestamp) {
        if self.uuid != said.uuid || self.follows.is_some() {
            // Another card in this place: nothing that was known holds for it.
            *self = Self {
                uuid: said.uuid.clone(),
                sent: std::mem::take(&mut self.sent),
                answered: self.answered,
                ..Self::new(said.min, said.max, self.safe)
            };
        }
        self.fenced = fenced;
        self.min = said.min;
        self.max = said.max;
        self.highest = self.highest.max(said.max);
        self.safe = self.safe.clamp(said.min, said.max);
        self.state(Some(said.current), at);
        self.settled = 0;
        self.doubted = self.sent.last().map_or(self.answered, |s| s.sequence);
        self.refused = None;
    }

    /// It may come to this beyond what is ever asked for: a limit of a node may be
    /// off, and an agent that stops is leased what it found.
    pub fn may_reach(&mut self, most: Watts) {
        self.highest = self.highest.max(most);
    }

    /// An answer: what the device has now, whether it refused, to which of our
    /// commands; `fenced`: its agent knows that we are in charge.
    pub fn on_report(
        &mut self,
        now_has: Option<Watts>,
        refused: Option<String>,
        sequence: Option<u64>,
        fenced: bool,
        at: Timestamp,
    ) {
        self.fenced |= fenced;
        let Some(sequence) = sequence else {
            self.state(now_has, at);
            return;
        };
        let known = self.stated.map_or(at, |(_, known)| known);
        if sequence < self.answered || at < known {
            return;
        }
        // Taking what it has already shows no obedience: who refuses is asked for
        // something else again at its agent's next hello, not at every other round.
        let moved = match (self.reported(), now_has) {
            (Some(had), Some(has)) => (has - had).0.abs() > MOVED,
            _ => true,
        };
        if refused.is_some() || moved {
            self.refused = refused;
        }
        if sequence == self.answered || (sequence <= self.doubted && at == known) {
            self.state(now_has, at);
            return;
        }
        // The agent has obeyed nothing older since: its numbering says so even
        // where the clock stood still.
        self.answered = sequence;
        self.settled = sequence;
        self.stated = Some((now_has, at));
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
            let over = old.sequence <= settled && old.expires + CLOCK_BOUND * CLOCK_GRACE < now;
            // A later cap that is at least as high, and ends no earlier, stands for it.
            !over && old.cap > sent.cap
        });
        self.sent.push(sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::DeviceId;

    const LATER: Timestamp = Timestamp(900_000);

    fn hello(current: f64) -> CappableDevice {
        CappableDevice {
            device: DeviceId::from("n1-gpu0"),
            uuid: "GPU-1".into(),
            product: "test".into(),
            min: Watts(200.0),
            max: Watts(700.0),
            found: Watts(700.0),
            current: Watts(current),
        }
    }

    /// Told 500 W, then 250 W, both answered, all within one instant.
    fn lowered() -> Device {
        let mut device = Device::new(Watts(200.0), Watts(700.0), Watts(400.0));
        assert_eq!(
            device.worst(),
            Watts(700.0),
            "unknown counts at its highest"
        );
        device.on_hello(&hello(300.0), true, Timestamp(0));
        for (sequence, cap) in [(1, 500.0), (2, 250.0)] {
            let sent = Sent {
                sequence,
                cap: Watts(cap),
                expires: LATER,
            };
            device.sent(sent, Timestamp(0));
            assert_eq!(device.worst(), Watts(500.0), "not answered yet");
            device.on_report(Some(Watts(cap)), None, Some(sequence), true, Timestamp(1));
        }
        assert_eq!(device.worst(), Watts(250.0));
        device
    }

    #[test]
    fn an_agent_that_comes_back_may_be_given_an_old_command_again() {
        let mut device = lowered();
        device.on_hello(&hello(250.0), true, Timestamp(2));
        assert_eq!(device.worst(), Watts(500.0));
        // An answer to a command from before the hello settles nothing.
        device.on_report(Some(Watts(250.0)), None, Some(2), true, Timestamp(2));
        assert_eq!(device.worst(), Watts(500.0));
        let sent = Sent {
            sequence: 3,
            cap: Watts(250.0),
            expires: LATER,
        };
        device.sent(sent, Timestamp(3));
        device.on_report(Some(Watts(250.0)), None, Some(3), true, Timestamp(3));
        assert_eq!(device.worst(), Watts(250.0));
    }

    #[test]
    fn an_answer_at_the_instant_of_a_hello_may_be_from_before_it() {
        let mut device = lowered();
        let sent = Sent {
            sequence: 3,
            cap: Watts(220.0),
            expires: LATER,
        };
        device.sent(sent, Timestamp(5));
        // It obeyed, then stopped and restored 700 W, all at one instant; the
        // answer comes last.
        device.on_hello(&hello(700.0), true, Timestamp(5));
        device.on_report(Some(Watts(220.0)), None, Some(3), true, Timestamp(5));
        assert_eq!(device.worst(), Watts(700.0));
    }

    #[test]
    fn until_it_knows_who_is_in_charge_it_may_have_any_cap() {
        let mut device = lowered();
        device.unfence();
        assert_eq!(
            (device.worst(), device.stated()),
            (Watts(700.0), Watts(250.0))
        );
        // A hello from before our fence changes nothing of that.
        device.on_hello(&hello(260.0), false, Timestamp(2));
        assert_eq!(
            (device.worst(), device.stated()),
            (Watts(700.0), Watts(260.0))
        );
        let sent = Sent {
            sequence: 3,
            cap: Watts(240.0),
            expires: LATER,
        };
        device.sent(sent, Timestamp(3));
        assert_eq!(device.worst(), Watts(700.0));
        device.on_report(Some(Watts(240.0)), None, Some(3), true, Timestamp(3));
        assert_eq!(device.worst(), Watts(240.0));
    }

    #[test]
    fn who_refuses_is_asked_again_at_the_next_hello_or_when_it_moves() {
        let mut device = lowered();
        let answer = |device: &mut Device, sequence, cap: f64, refused: Option<&str>| {
            let at = Timestamp(sequence as i64);
            device.on_report(
                Some(Watts(cap)),
                refused.map(Into::into),
                Some(sequence),
                true,
                at,
            );
            device.refused.is_some()
        };
        assert!(answer(&mut device, 3, 250.0, Some("no")));
        assert!(answer(&mut device, 4, 250.0, None), "it has that already");
        device.on_hello(&hello(250.0), true, Timestamp(5));
        assert!(device.refused.is_none());
        assert!(answer(&mut device, 6, 250.0, Some("no")));
        assert!(!answer(&mut device, 7, 300.0, None), "it moves");
        assert!(answer(&mut device, 8, 300.0, Some("no")));
        device.on_report(None, Some("lost".into()), Some(9), true, Timestamp(9));
        assert!(!answer(&mut device, 10, 300.0, None), "it is back");
    }

    #[test]
    fn old_news_changes_nothing() {
        let mut device = lowered();
        device.on_report(Some(Watts(210.0)), None, Some(1), true, Timestamp(1));
        device.on_report(Some(Watts(210.0)), None, None, true, Timestamp(0));
        assert_eq!(device.worst(), Watts(250.0));
        // Leases that ended at a later instant are news.
        device.on_report(Some(Watts(240.0)), None, None, true, Timestamp(9));
        assert_eq!(device.worst(), Watts(240.0));
        // What cannot be read counts at its highest.
        device.on_report(None, Some("lost".into()), None, true, Timestamp(10));
        assert_eq!(device.worst(), Watts(700.0));
    }

    #[test]
    fn another_card_in_the_same_place_is_another_device() {
        let mut device = lowered();
        let other = CappableDevice {
            uuid: "GPU-2".into(),
            max: Watts(650.0),
            ..hello(600.0)
        };
        device.on_hello(&other, true, Timestamp(3));
        assert_eq!(device.worst(), Watts(600.0));
        assert_eq!(device.max, Watts(650.0));
    }
}
