//! Takes the allocations of a day again, from the inputs that were logged with
//! them, and holds what comes out against what was decided: bit for bit.

use super::evidence::{self, EvidenceError, Question};
use super::probing;
use crate::allocate::{Outcome, ProblemError, allocate};
use heliostat_models::decision::JobCap;
use heliostat_models::{Decision, DecisionKind, Timestamp};
use heliostat_store::StoreError;
use heliostat_store::decisions::{
    Break, Hash, Logged, Removed, read_decisions, read_inputs, read_removed,
};
use serde::Serialize;
use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// What came of taking a day's decisions again.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Replayed {
    /// Begin of the day, UTC.
    pub day: Timestamp,
    /// Allocations logged on that day.
    pub allocations: u64,
    /// Those that came out the same, bit for bit.
    pub same: u64,
    /// Those logged without inputs, before the log kept them.
    pub without_inputs: u64,
    /// Those whose inputs were removed, because they are of long ago.
    pub removed: u64,
    /// When the inputs of the day were removed, where they were.
    pub inputs_removed: Option<Removed>,
    /// Those that came out otherwise, or could not be taken again.
    pub differing: Vec<Difference>,
    /// Records of the whole log from before it was chained.
    pub unchained: u64,
    /// Where the chain of the whole log breaks first, in words.
    pub broken_chain: Option<String>,
    /// Seconds from the first of the day's allocations to the last.
    pub spanned_s: f64,
}

/// A decision that did not come out as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its number.
    pub decision: u64,
    /// When it was taken.
    pub at: Timestamp,
    /// What differs, and how.
    pub how: String,
}

impl Replayed {
    /// Whether nothing speaks against the log.
    pub fn is_sound(&self) -> bool {
        self.differing.is_empty() && self.broken_chain.is_none()
    }
}

/// Why one decision is not the same.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the inputs that it refers to are not in the file of its day")]
    NoInputs,
    #[error("its inputs are not what was written: their hash does not fit")]
    Inputs,
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error("its inputs contradict themselves: {0}")]
    Problem(#[from] ProblemError),
    #[error("{0}")]
    Other(String),
}

/// Takes the allocations of the day of `at` again. `store` is the directory of
/// the log. Changes nothing.
///
/// # Errors
/// When the log cannot be read; what is wrong in it is an outcome.
pub fn replay_day(store: &Path, at: Timestamp) -> Result<Replayed, StoreError> {
    let day = at.floor_to(DAY);
    let history = read_decisions(store)?;
    let mut replayed = Replayed {
        day,
        unchained: history.chain.unchained,
        broken_chain: history.chain.broken.as_ref().map(Break::to_string),
        ..Replayed::default()
    };
    let of_day: Vec<&Logged> = (history.decisions.iter())
        .filter(|l| l.decision.kind == DecisionKind::Allocation)
        .filter(|l| l.decision.at.floor_to(DAY) == day)
        .collect();
    if let (Some(first), Some(last)) = (of_day.first(), of_day.last()) {
        replayed.spanned_s = last.decision.at.seconds_since(first.decision.at);
    }
    let mut waiting: HashMap<Hash, Vec<&Logged>> = HashMap::new();
    for logged in of_day {
        replayed.allocations += 1;
        match logged.evidence {
            Some(reference) => waiting.entry(reference.inputs).or_default().push(logged),
            None => replayed.without_inputs += 1,
        }
    }
    let mut before: Option<Question> = None;
    for found in read_inputs(store, day)? {
        let question = if found.sound {
            evidence::decode(&found.inputs, before.take()).map_err(Fault::from)
        } else {
            Err(Fault::Inputs)
        };
        for logged in waiting.remove(&found.hash).unwrap_or_default() {
            let outcome = match &question {
                Ok(question) => again(question, logged),
                Err(fault) => Err(Fault::Other(fault.to_string())),
            };
            replayed.note(&logged.decision, outcome);
        }
        before = question.ok();
    }
    replayed.inputs_removed = read_removed(store, day)?;
    for logged in waiting.into_values().flatten() {
        if replayed.inputs_removed.is_some() {
            replayed.removed += 1;
            continue;
        }
        replayed.note(&logged.decision, Err(Fault::NoInputs));
    }
    replayed.differing.sort_by_key(|d| d.decision);
    Ok(replayed)
}

impl Replayed {
    fn note(&mut self, decision: &Decision, outcome: Result<(), Fault>) {
        match outcome {
            Ok(()) => self.same += 1,
            Err(fault) => self.differing.push(Difference {
                decision: decision.sequence,
                at: decision.at,
                how: fault.to_string(),
            }),
        }
    }
}

/// Takes one decision again and compares.
fn again(question: &Question, logged: &Logged) -> Result<(), Fault> {
    let mut outcome = allocate(&question.problem)?;
    probing::tell(&mut outcome, &question.trials);
    compare(&outcome, &logged.decision)?;
    let hash = evidence::hash_of(&outcome)?;
    match logged.evidence {
        Some(reference) if reference.outcome == hash => Ok(()),
        _ => Err(Fault::Other(
            "a cap of a device, a price of a power node or what had to give way is another"
                .to_owned(),
        )),
    }
}

/// Holds what can be read in the log against what came out.
fn compare(outcome: &Outcome, decision: &Decision) -> Result<(), Fault> {
    let allocation = outcome.allocation();
    let other = |what: String| Err(Fault::Other(what));
    match &decision.certificate {
        Some(logged) if logged.inputs_hash != allocation.certificate.inputs_hash => {
            return other(format!(
                "the certificate speaks of inputs {}, the logged inputs are {}",
                logged.inputs_hash, allocation.certificate.inputs_hash
            ));
        }
        Some(logged) if *logged != allocation.certificate => {
            return other(format!(
                "the certificate says {} of at most {}, from the inputs it is {} of at most {}",
                logged.primal,
                logged.dual_bound,
                allocation.certificate.primal,
                allocation.certificate.dual_bound
            ));
        }
        Some(_) => {}
        None => return other("the log has no certificate".to_owned()),
    }
    if decision.caps.len() != allocation.jobs.len() {
        return other(format!(
            "the log has caps for {} jobs or groups of devices, from the inputs there are {}",
            decision.caps.len(),
            allocation.jobs.len()
        ));
    }
    let pairs = decision.caps.iter().zip(&allocation.jobs);
    match pairs.into_iter().find(|(logged, now)| logged != now) {
        Some((logged, now)) => other(differ(logged, now)),
        None => Ok(()),
    }
}

fn differ(logged: &JobCap, now: &JobCap) -> String {
    let whose = |cap: &JobCap| match &cap.job {
        Some(job) => format!("job `{job}`"),
        None => format!("{} devices of no job", cap.devices),
    };
    if logged.job != now.job || logged.devices != now.devices {
        return format!(
            "the log has {} where the inputs have {}",
            whose(logged),
            whose(now)
        );
    }
    if logged.cap != now.cap {
        return format!(
            "the cap of {} is {} W in the log and {} W from the inputs",
            whose(now),
            logged.cap.0,
            now.cap.0
        );
    }
    format!(
        "speed, price or reason of the cap of {} are others in the log than from the inputs",
        whose(now)
    )
}
