//! The best schedule of one job when every slot and level has a cost: a
//! shortest path over (slot, work left, running or not), backwards in time.
//! Exact. A job that runs may have other costs until it is first paused: that is one
//! state more. Its cost is O(slots · quanta · levels); the inner loop is plain
//! arithmetic on rows, so that it runs as vector instructions.

use super::problem::{Job, MAX_LEVELS, QUANTA_A_SLOT, Schedule};

/// Cost of running in a slot at each level; infinite where it may not.
pub type SlotCosts = [f64; MAX_LEVELS];

/// Rows of values, kept between calls so that nothing is allocated anew.
#[derive(Debug, Default)]
pub struct Pricer {
    idle: Vec<f64>,
    busy: Vec<f64>,
    /// Running on the devices that it has now.
    home: Vec<f64>,
    go: Vec<f64>,
}

impl Pricer {
    /// The cheapest schedule of `job` and its cost, given what running costs
    /// in each slot (prices of capacity included). An infinite cost means that
    /// the job must go on but is forbidden to. `home`: the same while it is on
    /// the devices that it has now, where that makes a difference.
    pub fn best(
        &mut self,
        job: &Job,
        costs: &[SlotCosts],
        home: Option<&[SlotCosts]>,
    ) -> (f64, Schedule) {
        let slots = costs.len();
        // More than this cannot be done within the slots.
        let doable = slots.saturating_sub(job.release) as u32 * QUANTA_A_SLOT;
        let work = job.work.min(doable);
        let beyond = job.work - work;
        let width = work as usize + 1;
        self.idle.clear();
        self.idle.resize((slots + 1) * width, 0.0);
        self.busy.clear();
        self.busy.resize((slots + 1) * width, 0.0);
        self.go.clear();
        self.go.resize(width, 0.0);
        let home = home.filter(|_| job.running);
        self.home.clear();
        if home.is_some() {
            self.home.resize((slots + 1) * width, 0.0);
        }

        for left in 0..width {
            let value = job.left_over(left as u32 + beyond, slots);
            self.idle[slots * width + left] = value;
            self.busy[slots * width + left] = value;
            if home.is_some() {
                self.home[slots * width + left] = value;
            }
        }
        // With work beyond the slots, nothing left of `work` is not the end.
        let never_ends = beyond > 0;
        let first = usize::from(!never_ends);
        for t in (0..slots).rev() {
            let low = lowest_left(job, work, t).max(first);
            let (idle_now, idle_next) = self.idle.split_at_mut((t + 1) * width);
            let (busy_now, busy_next) = self.busy.split_at_mut((t + 1) * width);
            let idle_now = &mut idle_now[t * width..];
            let busy_now = &mut busy_now[t * width..];
            let (idle_next, busy_next) = (&idle_next[..width], &busy_next[..width]);
            let go = &mut self.go[..width];
            advance_all(job, t, &costs[t], go, busy_next, low);
            let hold = job.holding(t);
            let pause = if job.interruptible {
                job.pause
            } else {
                f64::INFINITY
            };
            for r in low..width {
                let stop = idle_next[r] + hold;
                let run = go[r] + hold;
                idle_now[r] = stop.min(run);
                busy_now[r] = (stop + pause).min(run);
            }
            if let Some(home) = home {
                let (now, next) = self.home.split_at_mut((t + 1) * width);
                let now = &mut now[t * width..];
                advance_all(job, t, &home[t], go, &next[..width], low);
                for r in low..width {
                    now[r] = (idle_next[r] + hold + pause).min(go[r] + hold);
                }
            }
        }
        let rows = match (home, job.running) {
            (Some(_), _) => &self.home,
            (None, true) => &self.busy,
            (None, false) => &self.idle,
        };
        let value = rows[work as usize];
        (value, self.trace(job, costs, home, work, never_ends))
    }

    /// Walks forward along the cheapest choices.
    fn trace(
        &self,
        job: &Job,
        costs: &[SlotCosts],
        home: Option<&[SlotCosts]>,
        work: u32,
        never_ends: bool,
    ) -> Schedule {
        let slots = costs.len();
        let width = work as usize + 1;
        let mut schedule = Schedule::idle(slots);
        let mut left = work as usize;
        let mut running = job.running;
        let mut home = home;
        for (t, costs) in costs.iter().enumerate() {
            if left == 0 && !never_ends {
                break;
            }
            let next = (t + 1) * width;
            let pause = match (running, job.interruptible) {
                (false, _) => 0.0,
                (true, true) => job.pause,
                (true, false) => f64::INFINITY,
            };
            let mut best = self.idle[next + left] + pause;
            let mut choice = None;
            let (costs, rows) = match home {
                Some(home) => (&home[t], &self.home),
                None => (costs, &self.busy),
            };
            if job.waits_in(t) {
                for (l, level) in job.levels.iter().enumerate() {
                    let after = left.saturating_sub(level.quanta as usize);
                    let value = costs[l] + rows[next + after];
                    // On a tie a job that runs goes on, and one that waits waits.
                    if value < best || (running && choice.is_none() && value <= best) {
                        best = value;
                        choice = Some((l, after));
                    }
                }
            }
            running = choice.is_some();
            // Once paused, it comes back wherever there is room.
            home = home.filter(|_| running);
            if let Some((l, after)) = choice {
                schedule.0[t] = l as u8 + 1;
                left = after;
            }
        }
        schedule
    }
}

/// Cost of running in a slot and of what comes then, by what is left before it.
fn advance_all(
    job: &Job,
    slot: usize,
    costs: &SlotCosts,
    go: &mut [f64],
    next: &[f64],
    low: usize,
) {
    go[low..].fill(f64::INFINITY);
    if job.waits_in(slot) {
        for (level, cost) in job.levels.iter().zip(costs) {
            if cost.is_finite() {
                advance(go, next, low, level.quanta as usize, *cost);
            }
        }
    }
}

/// Least work that can be left at the begin of a slot.
fn lowest_left(job: &Job, work: u32, slot: usize) -> usize {
    let done = slot.saturating_sub(job.release) as u32 * QUANTA_A_SLOT;
    work.saturating_sub(done) as usize
}

/// `go[r] = min(go[r], cost + next[max(r - quanta, 0)])` for `r >= low`.
fn advance(go: &mut [f64], next: &[f64], low: usize, quanta: usize, cost: f64) {
    let width = go.len();
    let split = quanta.clamp(low, width);
    for value in &mut go[low..split] {
        *value = value.min(cost + next[0]);
    }
    for (value, after) in go[split..]
        .iter_mut()
        .zip(&next[split - quanta.min(split)..])
    {
        *value = value.min(cost + after);
    }
}
