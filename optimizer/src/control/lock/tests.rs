use super::*;
use proptest::prelude::*;

const LEASE: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> Timestamp {
    Timestamp(1_000_000) + Duration::from_secs(seconds)
}

fn lock(run: &str) -> Lock {
    Lock::new(run, None, LEASE)
}

#[test]
fn alone_it_takes_the_lock_as_soon_as_it_listens_and_renews_it() {
    let mut a = lock("a");
    assert_eq!(a.tick(at(0), false), None);
    let taken = a.tick(at(1), true).unwrap();
    assert_eq!(a.fence(), Some(taken.fence));
    assert_eq!(a.tick(at(2), true), None);
    assert_eq!(a.tick(at(11), true).unwrap().fence, taken.fence);
    // The broker was away: it may have forgotten.
    a.reconnected(at(12));
    assert!(a.tick(at(12), true).is_some());
    assert!(a.release(at(13)).unwrap().released);
    assert_eq!((a.fence(), a.release(at(13))), (None, None));
}

#[test]
fn who_stands_by_takes_over_a_lease_after_the_last_renewal() {
    let (mut a, mut b) = (lock("a"), lock("b"));
    b.hear(&a.tick(at(0), true).unwrap(), at(1));
    assert_eq!((b.tick(at(30), true), b.other()), (None, Some("a")));
    b.hear(&a.tick(at(20), true).unwrap(), at(20));
    assert_eq!(b.tick(at(49), true), None);
    let taken = b.tick(at(50), true).unwrap();
    assert!(taken.fence > a.fence().unwrap());
    a.hear(&taken, at(50));
    assert_eq!((a.fence(), a.other()), (None, Some("b")));
}

/// An earlier run of one's own name is nobody else; a lock that was released says who it was.
#[test]
fn others_are_noticed_once_for_each_time_that_they_are_heard() {
    let named = |run: &str, name: &str| Lock::new(run, Some(name.into()), LEASE);
    let mut own = named("b2", "b");
    own.hear(&named("b1", "b").tick(at(0), true).unwrap(), at(1));
    assert!(!own.take_others());
    let mut other = named("a1", "a");
    own.hear(&other.tick(at(1), true).unwrap(), at(2));
    assert_eq!((own.take_others(), own.take_others()), (true, false));
    own.hear(&other.release(at(3)).unwrap(), at(3));
    assert!(own.take_others());
    let ours = own.tick(at(3), true).unwrap();
    own.hear(&ours, at(4));
    own.hear_fence(ours.fence, at(4));
    assert!(!own.take_others());
    own.hear_fence(((ours.fence >> TAG) + 1) << TAG, at(5));
    assert!(own.take_others());
}

#[test]
fn a_lock_that_is_released_or_our_own_from_before_is_taken_at_once() {
    let mut a = lock("a");
    a.tick(at(0), true);
    let mut b = lock("b");
    b.hear(&a.release(at(1)).unwrap(), at(1));
    assert!(b.tick(at(1), true).is_some());
    let run = |run: &str| Lock::new(run, Some("site-server".into()), LEASE);
    let left = run("before").tick(at(0), true).unwrap();
    let mut after = run("after");
    after.hear(&left, at(2));
    assert!(after.tick(at(2), true).unwrap().fence > left.fence);
    // The broker has forgotten it, and the clock went back; agents tell.
    let mut later = run("later");
    later.hear_fence(left.fence, Timestamp(0));
    assert!(later.tick(Timestamp(0), true).unwrap().fence > left.fence);
    // Nobody tells: the clock alone makes it higher.
    assert!(run("much later").tick(at(9), true).unwrap().fence > left.fence);
    // Another machine's is not.
    let mut other = Lock::new("other", Some("another".into()), LEASE);
    other.hear(&left, at(2));
    assert_eq!(other.tick(at(2), true), None);
}

#[test]
fn a_fence_that_agents_know_ends_our_charge_though_no_lock_is_heard() {
    let mut a = lock("a");
    let fence = a.tick(at(0), true).unwrap().fence;
    a.hear_fence(fence, at(1));
    assert_eq!(a.fence(), Some(fence));
    a.hear_fence(fence + 1, at(1));
    assert_eq!((a.fence(), a.other()), (None, None));
    assert_eq!(a.tick(at(30), true), None);
    assert!(a.tick(at(31), true).unwrap().fence > fence + 1);
}

#[test]
fn a_lower_lock_that_others_might_hear_last_is_overwritten() {
    let (mut a, mut b) = (lock("a"), lock("b"));
    let low = a.tick(at(0), true).unwrap();
    b.hear(&low, at(0));
    let high = b.tick(at(40), true).unwrap();
    // A renewal of the lower one comes late.
    b.hear(&low, at(41));
    assert_eq!(b.fence(), Some(high.fence));
    assert_eq!(b.tick(at(41), true).unwrap().fence, high.fence);
}

/// What happens in a world of three controllers and one broker.
#[derive(Clone, Debug)]
enum Step {
    /// Time passes, all that are alive and connected get their turn.
    Pass(u64),
    /// Cut off from the broker, or connected again.
    Cut(usize),
    /// Killed; another run of it starts.
    Kill(usize),
    /// Its clock is off by so many seconds.
    Skew(usize, i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1u64..25).prop_map(Step::Pass),
        2 => (0usize..3).prop_map(Step::Cut),
        1 => (0usize..3).prop_map(Step::Kill),
        1 => ((0usize..3), -500i64..500).prop_map(|(who, by)| Step::Skew(who, by)),
    ]
}

struct World {
    now: u64,
    locks: Vec<Lock>,
    cut: [bool; 3],
    skew: [i64; 3],
    retained: Option<ControlLock>,
    runs: usize,
}

impl World {
    fn clock(&self, who: usize) -> Timestamp {
        Timestamp(at(self.now).0 + self.skew[who] * 1_000)
    }

    fn publish(&mut self, lock: ControlLock) {
        for who in 0..3 {
            if !self.cut[who] {
                let now = self.clock(who);
                self.locks[who].hear(&lock, now);
            }
        }
        self.retained = Some(lock);
    }

    fn connect(&mut self, who: usize) {
        self.cut[who] = false;
        let now = self.clock(who);
        self.locks[who].reconnected(now);
        if let Some(lock) = self.retained.clone() {
            self.locks[who].hear(&lock, now);
        }
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += 1;
            for who in 0..3 {
                let now = self.clock(who);
                if let Some(lock) = self.locks[who].tick(now, !self.cut[who]) {
                    self.publish(lock);
                }
            }
        }
    }

    fn in_charge(&self) -> Vec<usize> {
        (0..3)
            .filter(|who| !self.cut[*who] && self.locks[*who].fence().is_some())
            .collect()
    }
}

proptest! {
    /// Of those that reach the broker never more than one is in charge after all
    /// have heard one another, every fence is held by one alone, the retained
    /// lock is the highest, and within two leases somebody is in charge.
    #[test]
    fn one_of_those_who_reach_the_broker_is_in_charge(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World {
            now: 0,
            locks: (0..3).map(|n| lock(&format!("run-{n}"))).collect(),
            cut: [false; 3],
            skew: [0; 3],
            retained: None,
            runs: 3,
        };
        let mut held: std::collections::BTreeMap<u64, usize> = std::collections::BTreeMap::new();
        for step in steps {
            match step {
                Step::Pass(seconds) => world.pass(seconds),
                Step::Cut(who) if world.cut[who] => world.connect(who),
                Step::Cut(who) => world.cut[who] = true,
                Step::Kill(who) => {
                    world.runs += 1;
                    world.locks[who] = lock(&format!("run-{}", world.runs));
                    world.connect(who);
                }
                Step::Skew(who, by) => world.skew[who] = by,
            }
            prop_assert!(world.in_charge().len() <= 1 || world.cut.contains(&false));
            world.pass(1);
            prop_assert!(world.in_charge().len() <= 1, "{:?}", world.in_charge());
            for who in 0..3 {
                if let Some(fence) = world.locks[who].fence() {
                    let run = *held.entry(fence).or_insert(who);
                    prop_assert_eq!(run, who);
                }
            }
        }
        // Clocks that jump back may let a lease last longer; they stand still now.
        world.skew = [0; 3];
        if world.cut.iter().all(|cut| *cut) {
            world.connect(1);
        }
        for who in 0..3 {
            if !world.cut[who] {
                world.connect(who);
            }
        }
        world.pass(2 * LEASE.as_secs());
        prop_assert_eq!(world.in_charge().len(), 1);
        let holder = world.in_charge()[0];
        prop_assert_eq!(world.retained.as_ref().map(|l| l.fence), world.locks[holder].fence());
    }
}
