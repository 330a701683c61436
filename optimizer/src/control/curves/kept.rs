//! What was learned of jobs, and what trying caps has cost them, on disk: a job has
//! one budget for as long as it lives, however often control starts anew.
//!
//! What a trial may cost is on disk before the trial begins; what was learned follows
//! now and then. Where what trials have cost is not known, because the file is
//! damaged or another controller was in charge, the jobs that are there are not tried any more.

use super::{Curves, Learned};
use crate::control::kept_file;
use heliostat_models::gpu::{ProbeLedger, SpeedMemory};
use heliostat_models::{JobId, JobState, Timestamp};
use heliostat_store::jobs::JobEntry;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What was learned is written at most so often; it fades within hours anyway.
const WRITE_EVERY: Duration = Duration::from_secs(600);
/// After a write that failed, the next one is tried after this.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// Of so many jobs what was learned is kept; of the others only what trials cost.
const MOST_LEARNED: usize = 5_000;

/// One job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeptJob {
    pub job: JobId,
    /// What trying caps has cost it.
    pub trials: ProbeLedger,
    /// What was seen of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen: Option<SpeedMemory>,
}

impl KeptJob {
    /// Of a job that must not be tried any more.
    fn spent(job: &JobId) -> Self {
        Self {
            job: job.clone(),
            trials: ProbeLedger::SPENT,
            seen: None,
        }
    }
}

/// The file, and what is to be written to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Keeping {
    path: Option<PathBuf>,
    /// Of an earlier run, by job, until the job runs.
    earlier: BTreeMap<JobId, KeptJob>,
    /// An earlier run left something that cannot be read.
    is_lost: bool,
    /// Whether there is anything that is not on disk.
    has_news: bool,
    next: Timestamp,
    trouble: Option<String>,
}

impl Keeping {
    /// What an earlier run kept of a job.
    pub fn take(&mut self, job: &JobId) -> Option<KeptJob> {
        self.earlier.remove(job)
    }

    /// There is something to keep.
    pub fn news(&mut self) {
        self.has_news = true;
    }
}

impl Curves {
    /// With what is learned kept in a directory, or nowhere.
    pub fn kept_in(directory: Option<&Path>) -> Self {
        let path = directory.map(|directory| directory.join("speed-curves.json"));
        Self {
            keeping: Keeping {
                path,
                ..Keeping::default()
            },
            ..Self::default()
        }
    }

    /// Takes up what an earlier run kept; what is wrong where that cannot be read.
    pub fn recall(&mut self) -> Option<String> {
        let path = self.keeping.path.as_ref()?;
        match read(path) {
            Ok(jobs) => {
                let by_id = jobs.into_iter().map(|kept| (kept.job.clone(), kept));
                self.keeping.earlier = by_id.collect();
                None
            }
            Err(error) => {
                self.keeping.is_lost = true;
                Some(format!(
                    "What was learned of jobs' speeds cannot be read from {}: {error}. It is learned anew, and no caps are tried on the jobs that are there",
                    path.display()
                ))
            }
        }
    }

    /// What keeps it from being kept.
    pub fn trouble(&self) -> Option<&String> {
        self.keeping.trouble.as_ref()
    }

    /// What trials have cost these jobs is not known: they are not tried any more.
    pub fn spend(&mut self, entries: &[JobEntry]) {
        for record in entries.iter().map(|entry| &entry.record) {
            if matches!(record.state, JobState::Completed | JobState::Cancelled) {
                continue;
            }
            let ledger = match self.jobs.get_mut(&record.id) {
                Some(learned) => &mut learned.ledger,
                None => {
                    let earlier = self.keeping.earlier.entry(record.id.clone());
                    &mut (earlier.or_insert_with(|| KeptJob::spent(&record.id))).trials
                }
            };
            if *ledger != ProbeLedger::SPENT {
                *ledger = ProbeLedger::SPENT;
                self.keeping.has_news = true;
            }
        }
    }

    /// Does so where an earlier run's file was damaged.
    pub(super) fn spend_what_is_lost(&mut self, entries: &[JobEntry]) {
        if std::mem::take(&mut self.keeping.is_lost) {
            self.keeping.has_news = true;
            self.spend(entries);
        }
    }

    /// Forgets the jobs that are over.
    pub(super) fn forget(&mut self, is_alive: impl Fn(&JobId) -> bool) {
        let before = self.jobs.len() + self.keeping.earlier.len();
        self.jobs.retain(|id, _| is_alive(id));
        self.keeping.earlier.retain(|id, _| is_alive(id));
        self.keeping.has_news |= self.jobs.len() + self.keeping.earlier.len() != before;
    }

    /// Writes what there is to keep, when it is time.
    pub fn keep(&mut self, now: Timestamp) {
        if self.keeping.has_news && now >= self.keeping.next {
            self.write(now);
        }
    }

    /// Writes what there is to keep, because control ends.
    pub fn keep_at_end(&mut self, now: Timestamp) {
        if self.keeping.has_news {
            self.write(now);
        }
    }

    /// Writes what there is to keep at once; whether all is on disk that is to be.
    pub(in crate::control) fn write(&mut self, now: Timestamp) -> bool {
        let Some(path) = &self.keeping.path else {
            return true;
        };
        let written = kept_file::write(path, &self.to_keep(now));
        self.keeping.next = now + WRITE_EVERY;
        self.keeping.trouble = None;
        self.keeping.has_news = false;
        let Err(error) = written else {
            return true;
        };
        self.keeping.next = now + TRY_AGAIN;
        self.keeping.has_news = true;
        self.keeping.trouble = Some(format!(
            "What is learned of jobs' speeds cannot be kept in {}, no caps are tried meanwhile: {error}",
            path.display()
        ));
        false
    }

    fn to_keep(&self, now: Timestamp) -> Vec<KeptJob> {
        let ours = self.jobs.iter().map(|(id, learned)| learned.kept(id, now));
        let earlier = self.keeping.earlier.values().cloned();
        let mut learned = 0;
        let mut jobs: Vec<KeptJob> = (ours.chain(earlier))
            .map(|mut job| {
                learned += usize::from(job.seen.is_some());
                job.seen = job.seen.filter(|_| learned <= MOST_LEARNED);
                job
            })
            .filter(|job| job.seen.is_some() || job.trials != ProbeLedger::default())
            .collect();
        jobs.sort_by(|a, b| a.job.cmp(&b.job));
        jobs
    }
}

impl Learned {
    /// What is to be kept of it.
    pub(super) fn kept(&self, job: &JobId, now: Timestamp) -> KeptJob {
        let seen = self.learner.memory(now);
        KeptJob {
            job: job.clone(),
            trials: self.ledger,
            seen: (!seen.is_empty()).then_some(seen),
        }
    }
}

/// What is in the file; nothing where there is none.
fn read(path: &Path) -> io::Result<Vec<KeptJob>> {
    let jobs: Vec<KeptJob> = kept_file::read(path)?.unwrap_or_default();
    let is_sound = |kept: &KeptJob| {
        kept.trials.is_sound() && kept.seen.as_ref().is_none_or(SpeedMemory::is_sound)
    };
    match jobs.iter().find(|kept| !is_sound(kept)) {
        Some(kept) => Err(io::Error::other(format!(
            "what it says of job `{}` cannot be",
            kept.job
        ))),
        None => Ok(jobs),
    }
}
