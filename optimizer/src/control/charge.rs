//! Who is in charge, as the loop lives it: the lock's messages in and out, and
//! what follows when it is taken or lost.

use super::round::Control;
use crate::view::ControlMode;
use heliostat_models::Timestamp;
use heliostat_models::lease::ControlLock;
use std::time::Duration;

/// What the broker keeps is heard within this after connecting (network time):
/// who holds the lock, and grid events.
pub(super) const KEPT_IS_HEARD: Duration = Duration::from_millis(300);

impl Control {
    /// Whether caps are sent: control is armed, and this controller is in charge.
    pub fn armed(&self) -> bool {
        self.is_to_act() && self.lock.fence().is_some()
    }

    /// Whether control is armed, whoever is in charge.
    pub fn is_to_act(&self) -> bool {
        self.mode == ControlMode::Armed
    }

    /// Another controller speaks of the lock.
    pub fn hear_lock(&mut self, lock: &ControlLock) {
        let now = self.deps.clock.now();
        let held = self.lock.fence();
        self.lock.hear(lock, now);
        self.note_charge(held, now);
    }

    /// An agent knows of a fence.
    pub fn hear_fence(&mut self, fence: u64) {
        let now = self.deps.clock.now();
        let held = self.lock.fence();
        self.lock.hear_fence(fence, now);
        self.note_charge(held, now);
    }

    /// The broker is reached again.
    pub fn hear_connected(&mut self) {
        self.connected = Some(tokio::time::Instant::now());
        self.forget_told();
        self.lock.reconnected(self.deps.clock.now());
    }

    /// Takes, renews or leaves the lock; whether this controller has just taken charge.
    pub fn mind_lock(&mut self) -> bool {
        if !self.is_to_act() {
            return false;
        }
        let now = self.deps.clock.now();
        let held = self.lock.fence();
        let listening = self.link.is_connected()
            && (self.connected).is_some_and(|since| since.elapsed() >= KEPT_IS_HEARD);
        if let Some(lock) = self.lock.tick(now, listening)
            && !self.link.lock(&lock)
        {
            // It did not leave: as soon as it can, again.
            self.lock.reconnected(now);
        }
        self.note_charge(held, now);
        held.is_none() && self.armed()
    }

    /// Whether the broker is reached.
    pub fn is_connected(&self) -> bool {
        self.link.is_connected()
    }

    /// Whether the lock is to be looked at again soon, because it is not ours.
    pub fn waits_for_lock(&self) -> bool {
        self.is_to_act() && self.lock.fence().is_none()
    }

    pub(super) fn release(&mut self) {
        if let Some(lock) = self.lock.release(self.deps.clock.now()) {
            self.link.lock(&lock);
        }
    }

    /// Notes who is in charge where that has changed; takes charge where it is us.
    fn note_charge(&mut self, held: Option<u64>, now: Timestamp) {
        let holds = self.lock.fence();
        if holds == held {
            return;
        }
        if let Some(fence) = holds {
            self.executor.take_charge(fence);
        }
        self.journal.charge(now, holds, self.lock.other());
    }
}
