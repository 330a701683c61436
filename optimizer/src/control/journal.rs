//! What is worth a line in the decision log: changes, not repetitions.

use crate::allocate::{Method, Outcome};
use crate::check::Broken;
use crate::control::events::Change;
use heliostat_models::decision::JobCap;
use heliostat_models::{Certificate, Decision, DecisionKind, JobId, Timestamp};
use heliostat_store::decisions::DecisionLog;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A cap that changed by less than this share is no news.
const MATERIAL: f64 = 0.01;
/// An allocation is logged at least this often, seconds.
const AT_LEAST: f64 = 900.0;

/// Writes decisions.
#[derive(Debug)]
pub(super) struct Journal {
    log: Arc<DecisionLog>,
    caps: BTreeMap<(Option<JobId>, u64), f64>,
    allocation_at: Option<Timestamp>,
    shed: BTreeSet<String>,
    refusal: Option<(String, Timestamp)>,
    trouble: BTreeSet<String>,
}

impl Journal {
    pub fn new(log: Arc<DecisionLog>) -> Self {
        Self {
            log,
            caps: BTreeMap::new(),
            allocation_at: None,
            shed: BTreeSet::new(),
            refusal: None,
            trouble: BTreeSet::new(),
        }
    }

    /// Notes an allocation where it differs from the last one noted. `why` says
    /// what prompted it.
    pub fn allocation(&mut self, now: Timestamp, armed: bool, outcome: &Outcome, why: &str) {
        let allocation = outcome.allocation();
        let caps = by_job(&allocation.jobs);
        let shed: BTreeSet<String> = match outcome {
            Outcome::Allocated(_) => BTreeSet::new(),
            Outcome::Infeasible { conflict, .. } => conflict.iter().cloned().collect(),
        };
        let changed = changed(&self.caps, &caps);
        let due = (self.allocation_at).is_none_or(|at| now.seconds_since(at) >= AT_LEAST);
        if changed == 0 && !due && shed == self.shed {
            return;
        }
        let jobs = allocation.groups.len();
        let summary = match outcome {
            Outcome::Allocated(_) => format!(
                "Caps for {jobs} jobs; {changed} changed by more than {:.0} %.",
                MATERIAL * 100.0
            ),
            Outcome::Infeasible { conflict, shed } if shed.beyond.is_empty() => format!(
                "Service levels of {} jobs dropped: together the floors exceed the limit at {}.",
                shed.dropped.len(),
                conflict.join(", ")
            ),
            Outcome::Infeasible { shed, .. } => format!(
                "All devices at their lowest caps below {}: even those exceed its limit.",
                (shed.beyond.iter())
                    .map(|(node, over)| format!("{node} (by {:.1} kW)", over.kilowatts()))
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        };
        let solver = match allocation.method {
            Method::Sweep => "the sweep was exact",
            Method::LinearProgram => "a linear program, for gangs split by a full power node",
        };
        let kind = DecisionKind::Allocation;
        let reason = format!("{why}; {solver}.");
        let mut decision = decision(now, kind, armed, summary, reason);
        decision.certificate = Some(allocation.certificate.clone());
        decision.caps = allocation.jobs.clone();
        self.write(decision);
        self.caps = caps;
        self.shed = shed;
        self.allocation_at = Some(now);
        self.refusal = None;
    }

    /// Notes that the checker refused; the same refusal is not repeated at once.
    pub fn refusal(
        &mut self,
        now: Timestamp,
        armed: bool,
        broken: &[Broken],
        certificate: Option<&Certificate>,
    ) {
        let rules: BTreeSet<&str> = broken.iter().map(|b| b.rule.name()).collect();
        let rules = rules.into_iter().collect::<Vec<_>>().join(", ");
        let again = (self.refusal.as_ref())
            .is_some_and(|(r, at)| *r == rules && now.seconds_since(*at) < AT_LEAST);
        tracing::error!(rules, again, "the checker refused; nothing is sent");
        if again {
            return;
        }
        let reason: Vec<String> = broken.iter().take(3).map(ToString::to_string).collect();
        let summary = format!("The checker refused a proposal ({rules}); nothing was sent.");
        let kind = DecisionKind::Refusal;
        let mut decision = decision(now, kind, armed, summary, reason.join("; "));
        decision.certificate = certificate.cloned();
        self.write(decision);
        self.refusal = Some((rules, now));
    }

    /// Notes a grid event's begin or end.
    pub fn grid(&self, now: Timestamp, armed: bool, change: &Change) {
        let (summary, event) = match change {
            Change::Began(event, limit) => (
                format!(
                    "Grid event `{}`: the site may draw {:.1} kW until {}.",
                    event.id,
                    limit.kilowatts(),
                    event.to
                ),
                event,
            ),
            Change::Ended(event) => (format!("Grid event `{}` is over.", event.id), event),
        };
        let kind = DecisionKind::GridEvent;
        self.write(decision(now, kind, armed, summary, event.reason.clone()));
    }

    /// Notes that control was armed or disarmed.
    pub fn arming(&self, now: Timestamp, armed: bool, who: &str) {
        let summary = if armed {
            "Control armed: caps are sent."
        } else {
            "Control disarmed: nothing is sent any more; leases end and agents set safe caps."
        };
        let reason = format!("By {who}.");
        let kind = DecisionKind::Arming;
        self.write(decision(now, kind, armed, summary.to_owned(), reason));
    }

    /// Notes a plan.
    pub fn plan(
        &self,
        now: Timestamp,
        armed: bool,
        summary: String,
        reason: String,
        proof: Certificate,
    ) {
        let mut decision = decision(now, DecisionKind::Plan, armed, summary, reason);
        decision.certificate = Some(proof);
        self.write(decision);
    }

    /// Notes what goes wrong and was contained; each trouble once while it lasts.
    pub fn troubles(&mut self, now: Timestamp, armed: bool, troubles: Vec<String>) {
        let current: BTreeSet<String> = troubles.into_iter().collect();
        for trouble in current.difference(&self.trouble) {
            let reason = "Contained: everything else goes on.".to_owned();
            let kind = DecisionKind::Incident;
            self.write(decision(now, kind, armed, format!("{trouble}."), reason));
        }
        self.trouble = current;
    }

    fn write(&self, decision: Decision) {
        if let Err(error) = self.log.record(decision) {
            tracing::error!(%error, "a decision could not be logged");
        }
    }
}

fn decision(
    at: Timestamp,
    kind: DecisionKind,
    armed: bool,
    summary: String,
    reason: String,
) -> Decision {
    Decision {
        sequence: 0,
        at,
        kind,
        armed,
        summary,
        reason,
        certificate: None,
        caps: Vec::new(),
    }
}

/// Caps by job; devices of no job stand apart by cap and count.
fn by_job(jobs: &[JobCap]) -> BTreeMap<(Option<JobId>, u64), f64> {
    (jobs.iter())
        .map(|j| {
            let apart = if j.job.is_some() {
                0
            } else {
                j.cap.0.to_bits() ^ u64::from(j.devices)
            };
            ((j.job.clone(), apart), j.cap.0)
        })
        .collect()
}

fn changed(
    before: &BTreeMap<(Option<JobId>, u64), f64>,
    after: &BTreeMap<(Option<JobId>, u64), f64>,
) -> usize {
    let moved = (after.iter())
        .filter(|((job, _), _)| job.is_some())
        .filter(|(job, cap)| match before.get(*job) {
            Some(had) => (had - **cap).abs() > MATERIAL * had.abs().max(1.0),
            None => true,
        })
        .count();
    let gone = (before.keys())
        .filter(|key| key.0.is_some() && !after.contains_key(*key))
        .count();
    moved + gone
}
