//! Which jobs may start before the next allocation, and when orders to start
//! are given.
//!
//! Under a grid event devices at rest count with what they draw, so a start
//! must have its power beforehand. An order to start goes out only when an
//! allocation has counted the job's devices at their lowest caps and the caps
//! that it lowered for that are acknowledged. What was ordered before the
//! event, and jobs that nobody gave an order, count as starting all the while.

use heliostat_models::job::JobOrder;
use heliostat_models::wire::JobOrders;
use heliostat_models::{JobId, JobState, Timestamp};
use heliostat_store::jobs::JobEntry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What schedulers were told, and what they are to be told.
#[derive(Debug, Default)]
pub(super) struct Starts {
    /// Last order sent, and when it was first sent.
    told: BTreeMap<JobId, (JobOrder, Timestamp)>,
    /// Orders of the latest plan that are not all sent.
    pending: Option<JobOrders>,
    /// Jobs that the allocation in force has counted as starting.
    counted: BTreeSet<JobId>,
}

impl Starts {
    /// New orders; they take the place of those not sent yet.
    pub fn submit(&mut self, orders: JobOrders) {
        self.pending = Some(orders);
    }

    /// Jobs that could start within `soon`: those that may, and those that a
    /// pending order would let start. `soon` is also how long a scheduler may
    /// take to obey an order to hold.
    pub fn waiting(&self, jobs: &[JobEntry], now: Timestamp, soon: Duration) -> Waiting {
        let mut waiting = Waiting::default();
        for record in jobs.iter().map(|e| &e.record) {
            let waits = matches!(record.state, JobState::Queued | JobState::Paused);
            if !waits || record.release > now + soon {
                continue;
            }
            let gang = record.gang_size as usize;
            let held = (self.told.get(&record.id))
                .is_some_and(|(o, at)| *o == JobOrder::Hold && *at + soon <= now);
            let asked = (self.pending.iter().flat_map(|p| &p.orders))
                .any(|(id, order)| *id == record.id && *order == JobOrder::Run);
            if !held {
                waiting.free += gang;
                waiting.jobs.insert(record.id.clone());
            } else if asked {
                waiting.asked += gang;
                waiting.asking.insert(record.id.clone());
            }
        }
        waiting
    }

    /// The allocation in force has counted these as starting.
    pub fn counted(&mut self, jobs: BTreeSet<JobId>) {
        self.counted = jobs;
    }

    /// The orders that may go out now. `in_force`: whether a grid event makes
    /// starts wait; `fits`: whether all caps have come down for those counted.
    /// `runs` says of a job whether it has its devices.
    pub fn due(
        &self,
        in_force: bool,
        fits: bool,
        runs: impl Fn(&JobId) -> bool,
    ) -> Option<JobOrders> {
        let pending = self.pending.as_ref()?;
        let may = |id: &JobId, order: JobOrder| {
            let free = self.counted.contains(id) && fits;
            order == JobOrder::Hold || !in_force || runs(id) || free
        };
        let orders: Vec<(JobId, JobOrder)> = (pending.orders.iter())
            .filter(|(id, order)| may(id, *order))
            .cloned()
            .collect();
        (!orders.is_empty()).then_some(JobOrders {
            issued: pending.issued,
            orders,
        })
    }

    /// These orders were sent.
    pub fn sent(&mut self, orders: &JobOrders, now: Timestamp) {
        for (id, order) in &orders.orders {
            match self.told.get_mut(id) {
                Some((last, _)) if last == order => {}
                _ => {
                    self.told.insert(id.clone(), (*order, now));
                }
            }
        }
        let sent: BTreeSet<&JobId> = orders.orders.iter().map(|(id, _)| id).collect();
        if let Some(pending) = &mut self.pending {
            pending.orders.retain(|(id, _)| !sent.contains(id));
        }
        self.pending.take_if(|p| p.orders.is_empty());
    }
}

/// Devices and jobs that may come into use before the next allocation.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Waiting {
    /// Devices of jobs that may start whenever they like.
    pub free: usize,
    /// Those jobs.
    pub jobs: BTreeSet<JobId>,
    /// Devices of jobs that wait for an order that is about to be given.
    pub asked: usize,
    /// Those jobs.
    pub asking: BTreeSet<JobId>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::{JobClass, JobRecord, SpeedCurve, Watts};

    const SOON: Duration = Duration::from_secs(10);

    fn job(id: &str, gang: u32, release: i64) -> JobEntry {
        JobEntry {
            record: JobRecord {
                id: JobId::from(id),
                class: JobClass::Training,
                owner: "p".into(),
                gang_size: gang,
                remaining_hours: 1.0,
                total_hours: 1.0,
                release: Timestamp(release),
                deadline: None,
                state: JobState::Queued,
                devices: Vec::new(),
                curve: SpeedCurve::envelope(&[(Watts(200.0), 0.5), (Watts(700.0), 1.0)]).unwrap(),
                started: None,
                ended: None,
                at: Timestamp(0),
            },
            history: Vec::new(),
        }
    }

    fn orders(list: &[(&str, JobOrder)]) -> JobOrders {
        JobOrders {
            issued: Timestamp(0),
            orders: list.iter().map(|(id, o)| (JobId::from(*id), *o)).collect(),
        }
    }

    #[test]
    fn what_was_not_told_to_hold_may_start() {
        let jobs = [job("a", 8, 0), job("b", 4, 0), job("later", 2, 1_000_000)];
        let mut starts = Starts::default();
        assert_eq!(starts.waiting(&jobs, Timestamp(0), SOON).free, 12);
        starts.sent(&orders(&[("a", JobOrder::Hold)]), Timestamp(0));
        // A scheduler takes a while to obey.
        assert_eq!(starts.waiting(&jobs, Timestamp(9_999), SOON).free, 12);
        assert_eq!(starts.waiting(&jobs, Timestamp(10_000), SOON).free, 4);
    }

    #[test]
    fn under_a_grid_event_a_start_waits_until_it_is_counted_and_fits() {
        let jobs = [job("a", 8, 0), job("b", 4, 0)];
        let mut starts = Starts::default();
        let hold = orders(&[("a", JobOrder::Hold), ("b", JobOrder::Run)]);
        starts.sent(&hold, Timestamp(0));
        starts.submit(orders(&[("a", JobOrder::Run), ("b", JobOrder::Hold)]));
        let later = Timestamp(60_000);
        let waiting = starts.waiting(&jobs, later, SOON);
        assert_eq!((waiting.free, waiting.asked), (4, 8));
        let nobody = |_: &JobId| false;
        let due = |starts: &Starts, fits| starts.due(true, fits, nobody).map(|o| o.orders.len());
        assert_eq!(due(&starts, true), Some(1), "holding is always allowed");
        starts.counted(waiting.asking);
        assert_eq!(due(&starts, false), Some(1));
        assert_eq!(due(&starts, true), Some(2));
        assert_eq!(starts.due(false, false, nobody).unwrap().orders.len(), 2);
        let sent = starts.due(true, false, nobody).unwrap();
        starts.sent(&sent, later);
        assert_eq!(due(&starts, false), None, "the start still waits");
        let sent = starts.due(true, true, nobody).unwrap();
        starts.sent(&sent, later);
        assert_eq!(due(&starts, true), None);
        // Ordered, it counts as starting until it runs.
        assert_eq!(starts.waiting(&jobs, later, SOON).free, 12);
    }
}
