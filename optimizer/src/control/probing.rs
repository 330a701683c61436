//! Trying caps on running jobs, where their curves are not known well enough.
//!
//! Only downwards, so that no limit is touched; only for jobs that report
//! their throughput, because a proxy teaches too little for what a trial
//! costs; only while control is armed and no grid event is in force; few jobs
//! at a time; and within a budget of time that the job may lose by all trials
//! together, however often control starts anew and the job's record changes. A trial narrows the settable range of the job's devices; the
//! allocator, the checker and the executor do the rest.

use super::curves::{Curves, Learned};
use crate::allocate::Outcome;
use heliostat_models::gpu::{Probe, ProbePolicy};
use heliostat_models::site::FINEST_STEP;
use heliostat_models::{JobId, Timestamp, Watts};
use std::time::Duration;

/// Longest that a cap is tried: caps come down, throughput settles, a report comes.
const LASTS: Duration = Duration::from_secs(180);
/// What a job may lose by all its trials together.
const SLOWDOWN: Duration = Duration::from_secs(120);
/// Of so many jobs one may be under trial at a time (and one always).
const ONE_OF: usize = 20;

/// A cap that is being tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Trying {
    probe: Probe,
    until: Timestamp,
}

impl Trying {
    /// A trial of a cap that nobody wished for.
    #[cfg(test)]
    pub fn of(cap: Watts) -> Self {
        let probe = Probe {
            cap,
            expected_loss: 0.0,
            worst_loss: 0.0,
            learns: 0.0,
        };
        let until = Timestamp(i64::MAX);
        Self { probe, until }
    }

    /// The cap that the job must not exceed meanwhile.
    pub fn cap(&self) -> Watts {
        self.probe.cap
    }
}

impl Learned {
    /// A cap worth trying on this job, if it runs steadily and says how fast.
    pub(super) fn wish(&self, floor_speed: f64, now: Timestamp) -> Option<Probe> {
        if self.trying.is_some() || self.heard <= self.since {
            return None;
        }
        let policy = ProbePolicy {
            lasts: LASTS,
            slowdown: SLOWDOWN,
            ..ProbePolicy::usual(floor_speed, self.cap)
        };
        self.learner
            .next_probe(now, self.cap, &self.ledger, &policy)
    }
}

impl Curves {
    /// Ends trials that are over, begins new ones where they are allowed, and keeps
    /// what is to be kept.
    pub fn try_caps(&mut self, now: Timestamp, allowed: bool) {
        for learned in self.jobs.values_mut() {
            let ended = learned.trying.take_if(|t| !allowed || t.until <= now);
            self.version += u64::from(ended.is_some());
        }
        if allowed {
            self.begin_trials(now);
        }
        self.keep(now);
    }

    fn begin_trials(&mut self, now: Timestamp) {
        let most = (self.jobs.len() / ONE_OF).max(1);
        let mut running = self.jobs.values().filter(|l| l.trying.is_some()).count();
        // Those that were tried least come first.
        let mut waiting: Vec<(u32, JobId)> = (self.jobs.iter())
            .filter(|(_, l)| l.wish.is_some() && l.trying.is_none())
            .map(|(id, l)| (l.ledger.made, id.clone()))
            .collect();
        waiting.sort();
        let mut begun = Vec::new();
        for (_, id) in waiting {
            if running >= most {
                break;
            }
            if let Some(learned) = self.jobs.get_mut(&id)
                && let Some(probe) = learned.wish.take()
            {
                begun.push((id, learned.ledger));
                learned.ledger.charge(&probe);
                learned.trying = Some(Trying {
                    probe,
                    until: now + LASTS,
                });
                running += 1;
            }
        }
        if begun.is_empty() {
            return;
        }
        // A trial whose cost might be forgotten is not made.
        let is_kept = self.write(now);
        for (id, before) in begun {
            let Some(learned) = self.jobs.get_mut(&id) else {
                continue;
            };
            if is_kept {
                let cap = learned.trying.as_ref().map(Trying::cap);
                tracing::debug!(job = %id, ?cap, "a cap is tried");
                self.version += 1;
            } else {
                learned.ledger = before;
                learned.trying = None;
            }
        }
    }

    /// The jobs under trial, and the caps that they must not exceed meanwhile.
    pub fn trials(&self) -> Vec<(JobId, Watts)> {
        (self.jobs.iter())
            .filter_map(|(id, l)| Some((id.clone(), l.trying?.cap())))
            .collect()
    }
}

/// Says of jobs under trial, by rising name, that this is why they have their caps.
pub(super) fn tell(outcome: &mut Outcome, trials: &[(JobId, Watts)]) {
    let allocation = match outcome {
        Outcome::Allocated(allocation) => allocation,
        Outcome::Infeasible { shed, .. } => &mut shed.allocation,
    };
    for entry in &mut allocation.jobs {
        let Some(job) = &entry.job else { continue };
        let trial = trials.binary_search_by(|(id, _)| id.cmp(job));
        if let Ok(place) = trial
            && let (_, cap) = &trials[place]
            && entry.cap + FINEST_STEP >= *cap
        {
            entry.reason = format!(
                "Held at {cap:.0} for up to {} s to learn how fast the job is there.",
                LASTS.as_secs()
            );
        }
    }
}
