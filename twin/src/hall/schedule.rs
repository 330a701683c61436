//! Which job runs on which devices: first come, first served, by racks.

use super::Hall;
use super::job::{Job, JobSpec, Stage};
use crate::error::TwinError;
use heliostat_models::job::JobOrder;
use heliostat_models::{JobId, JobRecord, JobState};

/// A job that has waited so long is not overtaken any more by smaller ones, seconds.
const PATIENCE: f64 = 7_200.0;
/// Progress of a running job is reported so often, milliseconds.
const REPORT_MS: i64 = 300_000;

impl Hall {
    /// Takes a job in.
    ///
    /// # Errors
    /// When its name is taken, it asks for more devices than there are, or has no work.
    pub fn submit(&mut self, spec: &JobSpec) -> Result<(), TwinError> {
        if self.by_id.contains_key(&spec.id) {
            return Err(TwinError::Job {
                job: spec.id.clone(),
                fault: "is there already; every job needs a number of its own".to_owned(),
            });
        }
        let (Some(device), Some(gpu)) = (self.site.devices.first(), &self.prior) else {
            return Err(TwinError::Job {
                job: spec.id.clone(),
                fault: "cannot run: the site has no devices".to_owned(),
            });
        };
        let job = Job::new(
            spec,
            gpu,
            device,
            self.gpus.len(),
            self.first_order(spec.class),
            self.seed,
            self.now,
        )?;
        self.by_id.insert(spec.id.clone(), self.jobs.len());
        self.jobs.push(job);
        Ok(())
    }

    /// Obeys an order. False when there is no such job, or it is over.
    pub fn order(&mut self, id: &JobId, order: JobOrder) -> bool {
        let Some(index) = self.by_id.get(id).copied() else {
            return false;
        };
        if self.jobs[index].stage == Stage::Done {
            return false;
        }
        self.jobs[index].order = order;
        self.follow_order(index);
        true
    }

    /// The order that a job is under.
    pub fn order_of(&self, id: &JobId) -> Option<JobOrder> {
        self.by_id.get(id).map(|i| self.jobs[*i].order)
    }

    /// Starts to checkpoint a running job that was told to hold. Jobs of
    /// classes that are never paused run on.
    fn follow_order(&mut self, index: usize) {
        let pause = self.pause_seconds(index);
        let job = &mut self.jobs[index];
        let interruptible =
            (self.site.classes.get(&job.record.class)).is_none_or(|c| c.interruptible);
        if job.order == JobOrder::Hold && interruptible && job.is_placed() {
            match job.stage {
                // What was not loaded need not be saved.
                Stage::Starting(_) => job.stage = Stage::Stopping(0.001),
                Stage::Computing => job.stage = Stage::Stopping(pause.max(0.001)),
                _ => {}
            }
            self.disturb();
        }
    }

    /// Half of what a pause costs: one half to save, one to load.
    fn pause_seconds(&self, index: usize) -> f64 {
        let class = self.site.classes.get(&self.jobs[index].record.class);
        class.map_or(150.0, |c| c.pause_minutes * 30.0)
    }

    /// Gives devices to jobs that may run; true when one got some.
    pub(super) fn start_jobs(&mut self) -> bool {
        if !self.open {
            return false;
        }
        let mut free = self
            .gpus
            .iter()
            .filter(|g| g.job.is_none() && !g.lost)
            .count();
        if free == 0 {
            return false;
        }
        let mut waiting: Vec<usize> = (0..self.jobs.len())
            .filter(|i| {
                let job = &self.jobs[*i];
                job.stage == Stage::Waiting
                    && job.order == JobOrder::Run
                    && job.record.release <= self.now
            })
            .collect();
        waiting.sort_by_key(|i| self.jobs[*i].record.release);
        let mut started = false;
        for index in waiting {
            let size = self.jobs[index].record.gang_size as usize;
            if size <= free {
                self.place(index, size);
                free -= size;
                started = true;
            } else if self.now.seconds_since(self.jobs[index].record.release) > PATIENCE {
                break;
            }
        }
        started
    }

    /// First rack that holds the whole gang; else all free devices in order.
    fn place(&mut self, index: usize, size: usize) {
        let is_free = |g: &super::Gpu| g.job.is_none() && !g.lost;
        let mut in_rack: Vec<Vec<usize>> = vec![Vec::new(); self.site.racks.len()];
        for (device, gpu) in self.gpus.iter().enumerate().filter(|(_, g)| is_free(g)) {
            let rack = self.site.nodes[self.site.devices[device].node].rack;
            in_rack[rack].push(device);
            debug_assert!(gpu.job.is_none());
        }
        let whole = in_rack.iter().find(|rack| rack.len() >= size);
        let gang: Vec<usize> = match whole {
            Some(rack) => rack.iter().copied().take(size).collect(),
            // Emptiest racks first, so that a large gang spans as few as it can.
            None => {
                let mut racks: Vec<&Vec<usize>> = in_rack.iter().collect();
                racks.sort_by_key(|rack| std::cmp::Reverse(rack.len()));
                let mut gang: Vec<usize> =
                    racks.into_iter().flatten().copied().take(size).collect();
                gang.sort_unstable();
                gang
            }
        };
        let resumes = self.jobs[index].record.started.is_some();
        let load = if resumes {
            self.pause_seconds(index)
        } else {
            0.0
        };
        for device in &gang {
            self.gpus[*device].job = Some(index);
            self.gpus[*device].memory_used = 0.55 + 0.4 * ((index * 37 % 100) as f64 / 100.0);
        }
        let now = self.now;
        let job = &mut self.jobs[index];
        job.record.devices = gang
            .iter()
            .map(|d| self.site.devices[*d].id.clone())
            .collect();
        job.gang = gang;
        job.speed = 0.0;
        job.stage = if load > 0.0 {
            Stage::Starting(load)
        } else {
            Stage::Computing
        };
        job.record.started.get_or_insert(now);
        job.note(JobState::Running, now);
    }

    /// Takes the devices from a job.
    fn release(&mut self, index: usize, stage: Stage, state: JobState) {
        for device in std::mem::take(&mut self.jobs[index].gang) {
            self.gpus[device].job = None;
            self.gpus[device].memory_used = 0.0;
        }
        let now = self.now;
        let job = &mut self.jobs[index];
        job.stage = stage;
        job.speed = 0.0;
        job.record.devices.clear();
        job.note(state, now);
        if state == JobState::Completed {
            job.record.remaining_hours = 0.0;
            job.record.ended = Some(now);
        }
    }

    /// A device is lost: its job goes back into the queue, with its last
    /// checkpoint (work of the present round is not lost; its restart is paid).
    pub(super) fn evict(&mut self, device: usize) {
        if let Some(index) = self.gpus[device].job {
            self.release(index, Stage::Waiting, JobState::Queued);
        }
    }

    /// Moves jobs on by a sub-step that has passed; true when one changed its stage.
    pub(super) fn progress(&mut self, seconds: f64) -> bool {
        let mut changed = false;
        for index in 0..self.jobs.len() {
            let now = self.now;
            let job = &mut self.jobs[index];
            match job.stage {
                Stage::Computing => {
                    job.record.remaining_hours -= job.speed * seconds / 3_600.0;
                    if job.record.remaining_hours <= 1e-9 {
                        self.release(index, Stage::Done, JobState::Completed);
                        self.tally.completed += 1;
                        changed = true;
                    } else if now.0 - job.reported.0 >= REPORT_MS {
                        job.reported = now;
                        job.record.at = now;
                        job.changed = true;
                    }
                }
                Stage::Starting(left) if left <= seconds + 1e-9 => {
                    job.stage = Stage::Computing;
                    changed = true;
                }
                Stage::Starting(left) => job.stage = Stage::Starting(left - seconds),
                Stage::Stopping(left) if left <= seconds + 1e-9 => {
                    self.release(index, Stage::Waiting, JobState::Paused);
                    changed = true;
                }
                Stage::Stopping(left) => job.stage = Stage::Stopping(left - seconds),
                Stage::Waiting | Stage::Done => {}
            }
        }
        changed
    }

    /// The jobs whose record changed since this was asked last; progress of
    /// running ones every five minutes.
    pub fn take_changed_jobs(&mut self) -> Vec<JobRecord> {
        (self.jobs.iter_mut())
            .filter_map(|job| std::mem::take(&mut job.changed).then(|| job.record.clone()))
            .collect()
    }

    /// All jobs as they stand.
    pub fn jobs(&self) -> Vec<JobRecord> {
        self.jobs.iter().map(|j| j.record.clone()).collect()
    }

    /// A job's state.
    pub fn job_state(&self, id: &JobId) -> Option<JobState> {
        self.by_id.get(id).map(|i| self.jobs[*i].record.state)
    }

    /// Relative speed of a running job's gang in the last sub-step.
    pub fn job_speed(&self, id: &JobId) -> Option<f64> {
        self.by_id.get(id).map(|i| self.jobs[*i].speed)
    }

    /// The names of all jobs, in the order of submission.
    pub(crate) fn job_ids(&self) -> impl Iterator<Item = &JobId> {
        self.jobs.iter().map(|j| &j.record.id)
    }
}
