//! What is worth a line in the decision log: changes, not repetitions.

use super::evidence::{self, EvidenceError, Question};
use crate::allocate::{Method, Outcome, Problem, Shed};
use crate::check::Broken;
use crate::control::events::Change;
use crate::control::relief::{self, Noted, Relief};
use heliostat_models::decision::JobCap;
use heliostat_models::{Certificate, Decision, DecisionKind, JobId, Timestamp};
use heliostat_store::decisions::{DecisionLog, Evidence};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A cap that changed by less than this share is no news.
const MATERIAL: f64 = 0.01;
/// An allocation that changed nothing is logged at most this often, seconds.
const UNCHANGED: f64 = 3_600.0;
/// The same refusal is not repeated within this time, seconds.
const AGAIN: f64 = 900.0;
/// Inputs stand in a file a day.
const DAY: Duration = Duration::from_secs(86_400);
/// So many power nodes are named; the others are counted.
const NAMED: usize = 3;

/// Writes decisions.
#[derive(Debug)]
pub(super) struct Journal {
    log: Arc<DecisionLog>,
    caps: BTreeMap<(Option<JobId>, u64), f64>,
    /// What the last allocation that was noted was made from, and its day.
    logged: Option<(Timestamp, Arc<Problem>)>,
    /// The relief noted last, while load is being taken off.
    relieved: Option<Noted>,
    allocation_at: Option<Timestamp>,
    shed: BTreeSet<String>,
    refusal: Option<(String, Timestamp)>,
    /// Proposals that the checker refused.
    pub refusals: u64,
    trouble: BTreeSet<String>,
    /// Nodes that are limited as a whole.
    limited_whole: usize,
}

impl Journal {
    pub fn new(log: Arc<DecisionLog>) -> Self {
        Self {
            log,
            caps: BTreeMap::new(),
            logged: None,
            relieved: None,
            allocation_at: None,
            shed: BTreeSet::new(),
            refusal: None,
            refusals: 0,
            trouble: BTreeSet::new(),
            limited_whole: 0,
        }
    }

    /// So many nodes are limited as a whole; what is noted of caps says so.
    pub fn nodes_limited_whole(&mut self, count: usize) {
        self.limited_whole = count;
    }

    /// Whether even an unchanged allocation is to be noted again.
    pub fn is_due(&self, now: Timestamp) -> bool {
        (self.allocation_at).is_none_or(|at| now.seconds_since(at) >= UNCHANGED)
    }

    /// Notes an allocation where it differs from the last one noted. `why` says
    /// what prompted it, `question` what it was made from.
    pub fn allocation(
        &mut self,
        now: Timestamp,
        armed: bool,
        outcome: &Outcome,
        question: &Question,
        why: &str,
    ) {
        let allocation = outcome.allocation();
        let caps = by_job(&allocation.jobs);
        let shed: BTreeSet<String> = match outcome {
            Outcome::Allocated(_) => BTreeSet::new(),
            Outcome::Infeasible { conflict, .. } => conflict.iter().cloned().collect(),
        };
        let changed = changed(&self.caps, &caps);
        let due = self.is_due(now);
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
                named(conflict.iter().cloned())
            ),
            Outcome::Infeasible { shed, .. } => format!(
                "All devices at their lowest caps below {}: even those exceed its limit.",
                beyond_limits(shed)
            ),
        };
        let solver = solver(outcome);
        let kind = DecisionKind::Allocation;
        let mut reason = format!("{why}; {solver}.");
        match self.limited_whole {
            0 => {}
            1 => {
                reason += " At one node caps are kept by the node's limit; what each of its accelerators gets is an estimate."
            }
            nodes => {
                reason += &format!(
                    " At {nodes} nodes caps are kept by the node's limit; what each of their accelerators gets is an estimate."
                );
            }
        }
        let mut decision = decision(now, kind, armed, summary, reason);
        decision.certificate = Some(allocation.certificate.clone());
        decision.caps = allocation.jobs.clone();
        self.write_with(decision, outcome, question);
        self.caps = caps;
        self.shed = shed;
        self.allocation_at = Some(now);
        self.refusal = None;
        if let Some(relieved) = &mut self.relieved {
            relieved.is_behind = true;
        }
    }

    /// Notes what is taken off at once where it differs from what was noted last,
    /// with what it was worked out from; `None`: that it is over.
    pub fn relief(&mut self, now: Timestamp, asked: &relief::Question, relief: Option<&Relief>) {
        let noted = relief.map(|relief| Noted::new(asked, relief));
        let is_news = match (&self.relieved, &noted) {
            (Some(had), Some(has)) => had.is_other(has),
            (None, None) => false,
            _ => true,
        };
        if !is_news {
            return;
        }
        let caps = relief.map_or_else(Vec::new, |relief| relief::explained(asked, relief));
        let (summary, reason) = relief::summary(asked, relief, caps.len());
        let mut decision = decision(now, DecisionKind::Relief, true, summary, reason);
        decision.caps = caps;
        let evidence = asked.encode().and_then(|inputs| {
            let outcome = relief::hash_of(relief)?;
            Ok(Evidence { inputs, outcome })
        });
        self.write_evidence(decision, evidence);
        self.relieved = noted;
        if relief.is_none() {
            self.allocation_at = None;
        }
    }

    /// Load is no longer taken off, because nothing is asked for any more; the
    /// next allocation is noted, whatever it is.
    pub fn relief_is_off(&mut self) {
        if self.relieved.take().is_some() {
            self.allocation_at = None;
        }
    }

    /// Notes that the checker refused; the same refusal is not repeated at once.
    pub fn refusal(
        &mut self,
        now: Timestamp,
        armed: bool,
        broken: &[Broken],
        certificate: Option<&Certificate>,
    ) {
        self.refusals += 1;
        let rules: BTreeSet<&str> = broken.iter().map(|b| b.rule.name()).collect();
        let rules = rules.into_iter().collect::<Vec<_>>().join(", ");
        let again = (self.refusal.as_ref())
            .is_some_and(|(r, at)| *r == rules && now.seconds_since(*at) < AGAIN);
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

    /// Notes that this controller took charge under a fence, or that another did.
    pub fn charge(&self, now: Timestamp, fence: Option<u64>, other: Option<&str>) {
        let (summary, reason) = match (fence, other) {
            (Some(fence), _) => (
                format!("This controller is in charge of caps, under fence {fence}."),
                "Nobody else holds the lock.".to_owned(),
            ),
            (None, Some(other)) => (
                "This controller stands by.".to_owned(),
                format!("`{other}` is in charge under a later fence."),
            ),
            (None, None) => (
                "This controller stands by.".to_owned(),
                "An agent obeys another one under a later fence.".to_owned(),
            ),
        };
        let kind = DecisionKind::Arming;
        self.write(decision(now, kind, fence.is_some(), summary, reason));
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
    /// `decides`: whether decisions are still taken.
    pub fn troubles(&mut self, now: Timestamp, armed: bool, troubles: Vec<String>, decides: bool) {
        let current: BTreeSet<String> = troubles.into_iter().collect();
        for trouble in current.difference(&self.trouble) {
            let reason = match decides {
                true => "Contained: everything else goes on.",
                false => {
                    "Nothing is decided while this lasts, grid events included: leases end, and agents set safe caps."
                }
            };
            let reason = reason.to_owned();
            let kind = DecisionKind::Incident;
            self.write(decision(now, kind, armed, format!("{trouble}."), reason));
        }
        self.trouble = current;
    }

    /// Writes an allocation with all that is needed to take it again.
    fn write_with(&mut self, decision: Decision, outcome: &Outcome, question: &Question) {
        let day = decision.at.floor_to(DAY);
        let whole = self.log.needs_whole(decision.at);
        // A relief may have begun the day's file: what differs needs an allocation there.
        let before = (self.logged.as_ref())
            .filter(|(of, _)| !whole && *of == day)
            .map(|(_, problem)| &**problem);
        let evidence = evidence::encode(question, before).and_then(|inputs| {
            let outcome = evidence::hash_of(outcome)?;
            Ok(Evidence { inputs, outcome })
        });
        let is_there = self.write_evidence(decision, evidence);
        // Nothing can differ from what is not in the file.
        self.logged = is_there.then(|| (day, Arc::clone(&question.problem)));
    }

    /// Whether both are in the log.
    fn write_evidence(
        &self,
        decision: Decision,
        evidence: Result<Evidence, EvidenceError>,
    ) -> bool {
        match evidence {
            Ok(evidence) => match self.log.record_with(decision, &evidence) {
                Ok(_) => return true,
                Err(error) => tracing::error!(%error, "a decision could not be logged"),
            },
            Err(error) => {
                tracing::error!(%error, "a decision is logged without its inputs");
                self.write(decision);
            }
        }
        false
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

/// How the caps were found; of what could not be kept, that.
fn solver(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Allocated(allocation) => match allocation.method {
            Method::Sweep => "the sweep was exact".to_owned(),
            Method::Prices => "prices of the limits, for gangs or limits that cross".to_owned(),
            Method::LinearProgram => {
                "a linear program, for gangs split by a full power node".to_owned()
            }
            Method::Fairness => "all speeds raised together until limits were full".to_owned(),
        },
        Outcome::Infeasible { conflict, shed } if shed.beyond.is_empty() => format!(
            "infeasible: the floors of the running jobs exceed what {} leaves to them; the certificate speaks of the rest, with {} floors dropped",
            named(conflict.iter().cloned()),
            shed.dropped.len()
        ),
        Outcome::Infeasible { shed, .. } => format!(
            "infeasible: even the lowest caps exceed what is allowed below {}; the certificate speaks of the limits lifted by that",
            beyond_limits(shed)
        ),
    }
}

/// The power nodes that even the lowest caps exceed, the deepest first.
fn beyond_limits(shed: &Shed) -> String {
    // Parents stand before their children.
    let deepest = shed.beyond.iter().rev();
    named(deepest.map(|(node, over)| format!("{node} (by {:.1} kW)", over.kilowatts())))
}

/// The first few, and how many more there are.
fn named(nodes: impl ExactSizeIterator<Item = String>) -> String {
    let more = nodes.len().saturating_sub(NAMED);
    let mut text = nodes.take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        text += &format!(" and {more} more");
    }
    text
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

#[cfg(test)]
mod tests;
