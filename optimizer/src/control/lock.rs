//! Which of several controllers is in charge: one holds the lock, the others
//! stand by.
//!
//! ```text
//!            nobody's lock heard for a lease, or the last one released
//! stand by ------------------------------------------------------------> holds
//!     ^                                                                    |
//!     +------------------- a higher fence heard of, from whomever ---------+
//! ```
//!
//! The lock is a message that the broker retains and its holder renews. A
//! broker decides nothing, so that two may believe that they hold it, each on
//! its side of a split. What keeps that safe is the fence: every holder has a
//! higher one than those before, agents refuse orders below the highest that
//! they have seen, and a new holder counts each device with its highest cap
//! until the device's agent knows of it. So a lock that is late, lost or
//! doubled costs work, never a limit.
//!
//! A state machine without I/O. Time is our own clock at the receipt of
//! messages; no other machine's clock is relied on.

use heliostat_models::Timestamp;
use heliostat_models::lease::ControlLock;
use std::time::Duration;

/// Low bits of a fence that tell apart two who take the lock at one moment. The
/// bits above are seconds since 1970, or one more than was ever heard of: far
/// below the 2^53 up to which every reader of JSON counts.
const TAG: u32 = 16;

/// Where a controller stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    StandsBy,
    Holds {
        fence: u64,
        renewed: Option<Timestamp>,
    },
}

/// The lock as one controller sees it.
#[derive(Clone, Debug)]
pub struct Lock {
    run: String,
    identity: Option<String>,
    lease: Duration,
    tag: u64,
    role: Role,
    /// Highest fence ever heard of.
    highest: u64,
    /// Who else holds it, and when we heard so last.
    other: Option<(Option<String>, Timestamp)>,
    /// Another controller was heard to be, or to have been, in charge.
    has_heard_others: bool,
}

impl Lock {
    /// Of a controller run. `identity` is the name that it keeps over restarts.
    pub fn new(run: &str, identity: Option<String>, lease: Duration) -> Self {
        // FNV-1a: to tell controllers apart, not against anybody.
        let name = identity.as_deref().unwrap_or(run);
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self {
            run: run.to_owned(),
            identity,
            lease,
            tag: (hash ^ (hash >> 32)) & ((1 << TAG) - 1),
            role: Role::StandsBy,
            highest: 0,
            other: None,
            has_heard_others: false,
        }
    }

    /// The fence under which we are in charge, if we are.
    pub fn fence(&self) -> Option<u64> {
        match self.role {
            Role::Holds { fence, .. } => Some(fence),
            Role::StandsBy => None,
        }
    }

    /// Who is in charge instead, where we know.
    pub fn other(&self) -> Option<&str> {
        self.other.as_ref()?.0.as_deref()
    }

    /// Whether another controller was heard to be, or to have been, in charge since
    /// this was asked last; an earlier run of our own name is none.
    pub fn take_others(&mut self) -> bool {
        std::mem::take(&mut self.has_heard_others)
    }

    /// A lock was published.
    pub fn hear(&mut self, lock: &ControlLock, now: Timestamp) {
        if lock.holder == self.run {
            return;
        }
        let is_own = lock.identity.is_some() && lock.identity == self.identity;
        self.has_heard_others |= !is_own;
        let known = self.highest;
        self.highest = known.max(lock.fence);
        if let Role::Holds { fence, renewed } = &mut self.role
            && lock.fence <= *fence
        {
            // Ours is to be what later ones hear.
            *renewed = None;
            return;
        }
        if lock.fence < known {
            return;
        }
        self.role = Role::StandsBy;
        let ended = lock.released || is_own;
        self.other = (!ended).then(|| (Some(lock.holder.clone()), now));
    }

    /// An agent knows of this fence.
    pub fn hear_fence(&mut self, fence: u64, now: Timestamp) {
        let ours = self.fence().unwrap_or(0);
        if fence <= self.highest.max(ours) {
            return;
        }
        self.highest = fence;
        self.role = Role::StandsBy;
        // One of our own is left from a run that is no more.
        let own = self.identity.is_some() && fence & ((1 << TAG) - 1) == self.tag;
        self.other = (!own).then_some((None, now));
        self.has_heard_others |= !own;
    }

    /// We reach the broker again: who holds the lock could not be heard meanwhile.
    pub fn reconnected(&mut self, now: Timestamp) {
        if let Some((_, heard)) = &mut self.other {
            *heard = now;
        }
        if let Role::Holds { renewed, .. } = &mut self.role {
            *renewed = None;
        }
    }

    /// What to publish now. `listening`: whether we are connected, and have been
    /// for long enough to have heard of a lock that the broker keeps.
    pub fn tick(&mut self, now: Timestamp, listening: bool) -> Option<ControlLock> {
        if !listening {
            return None;
        }
        let (fence, renewed) = match self.role {
            Role::Holds { fence, renewed } => (fence, renewed),
            Role::StandsBy => {
                let lease = self.lease.as_secs_f64();
                if (self.other.as_ref()).is_some_and(|(_, at)| now.seconds_since(*at) < lease) {
                    return None;
                }
                // The clock makes it higher than what was forgotten with a broker;
                // what is remembered counts more than any clock.
                let seconds = u64::try_from(now.millis() / 1_000).unwrap_or(0);
                let count = ((self.highest >> TAG) + 1).max(seconds);
                self.highest = (count << TAG) | self.tag;
                self.other = None;
                (self.highest, None)
            }
        };
        let due = renewed.is_none_or(|at| now.seconds_since(at) >= self.lease.as_secs_f64() / 3.0);
        self.role = Role::Holds {
            fence,
            renewed: if due { Some(now) } else { renewed },
        };
        due.then(|| self.message(fence, now, false))
    }

    /// Gives the lock up, where we hold it.
    pub fn release(&mut self, now: Timestamp) -> Option<ControlLock> {
        let fence = self.fence()?;
        self.role = Role::StandsBy;
        Some(self.message(fence, now, true))
    }

    fn message(&self, fence: u64, now: Timestamp, released: bool) -> ControlLock {
        ControlLock {
            holder: self.run.clone(),
            identity: self.identity.clone(),
            fence,
            renewed: now,
            released,
        }
    }
}

#[cfg(test)]
#[path = "lock/tests.rs"]
mod tests;
