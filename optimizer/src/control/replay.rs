//! Takes the allocations and reliefs of a day again, from the inputs that were
//! logged with them, and holds what comes out against what was decided: bit for bit.

use super::evidence::{self, EvidenceError, Question};
use super::probing;
use super::relief;
use crate::allocate::{Outcome, ProblemError, allocate};
use heliostat_models::decision::JobCap;
use heliostat_models::{Decision, DecisionKind, Timestamp};
use heliostat_store::StoreError;
use heliostat_store::decisions::{
    Break, Checkpoint, Hash, Logged, Removed, read_decisions, read_inputs, read_removed,
};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// What came of taking a day's decisions again.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Replayed {
    /// Begin of the day, UTC.
    pub day: Timestamp,
    /// Allocations logged on that day; the next three figures are of these.
    pub allocations: u64,
    /// Those that came out the same, bit for bit.
    pub same: u64,
    /// Those logged without inputs, before the log kept them.
    pub without_inputs: u64,
    /// Those whose inputs were removed, because they are of long ago.
    pub removed: u64,
    /// Decisions to take load off at once, or no longer.
    pub reliefs: Reliefs,
    /// When the inputs of the day were removed, where they were.
    pub inputs_removed: Option<Removed>,
    /// Decisions that came out otherwise, or could not be taken again.
    pub differing: Vec<Difference>,
    /// Records of the whole log from before it was chained.
    pub unchained: u64,
    /// Where the chain of the whole log breaks first, in words.
    pub broken_chain: Option<String>,
    /// When the first decision was taken that the log has.
    pub log_from: Option<Timestamp>,
    /// What was cut off the log's beginning, where anything was.
    pub cut: Option<Checkpoint>,
    /// Seconds from the first of these decisions of the day to the last.
    pub spanned_s: f64,
}

/// What came of the reliefs of a day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Reliefs {
    /// Logged on that day.
    pub decisions: u64,
    /// Those that came out the same, bit for bit.
    pub same: u64,
    /// Those logged without inputs, because they could not be written.
    pub without_inputs: u64,
    /// Those whose inputs were removed, because they are of long ago.
    pub removed: u64,
}

/// A decision that did not come out as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its number.
    pub decision: u64,
    /// What it is.
    pub kind: DecisionKind,
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

    /// Decisions of any kind whose inputs were removed in their time.
    pub fn removed_in_all(&self) -> u64 {
        self.removed + self.reliefs.removed
    }

    /// Whether decisions of the day were cut off the log in their time.
    pub fn is_cut_off(&self) -> bool {
        let of_day = |cut: &Checkpoint| self.day <= cut.until && cut.first < self.day + DAY;
        self.cut.as_ref().is_some_and(of_day)
    }
}

/// Why one decision is not the same.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the inputs that it refers to are not in the file of its day")]
    NoInputs,
    #[error("its inputs are not what was written: their hash does not fit")]
    Inputs,
    #[error("its inputs are those of another kind of decision")]
    Kind,
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error("its inputs contradict themselves: {0}")]
    Problem(#[from] ProblemError),
    #[error("{0}")]
    Other(String),
}

/// Takes the decisions of the day of `at` again. `store` is the directory of
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
        log_from: history.decisions.first().map(|l| l.decision.at),
        cut: history.chain.cut.clone(),
        ..Replayed::default()
    };
    let again = [DecisionKind::Allocation, DecisionKind::Relief];
    let of_day: Vec<&Logged> = (history.decisions.iter())
        .filter(|l| again.contains(&l.decision.kind))
        .filter(|l| l.decision.at.floor_to(DAY) == day)
        .collect();
    if let (Some(first), Some(last)) = (of_day.first(), of_day.last()) {
        replayed.spanned_s = last.decision.at.seconds_since(first.decision.at);
    }
    let mut waiting: HashMap<Hash, Vec<&Logged>> = HashMap::new();
    for logged in of_day {
        let is_relief = replayed.count(logged.decision.kind);
        match logged.evidence {
            Some(reference) => waiting.entry(reference.inputs).or_default().push(logged),
            None if is_relief => replayed.reliefs.without_inputs += 1,
            None => replayed.without_inputs += 1,
        }
    }
    let all = read_inputs(store, day)?;
    let reliefs: HashSet<Hash> = (waiting.values().flatten())
        .filter(|l| l.decision.kind == DecisionKind::Relief)
        .filter_map(|l| Some(l.evidence?.inputs))
        .collect();
    // The same may have been asked twice: a damaged copy is no loss then.
    let sound: HashSet<Hash> = all.iter().filter(|f| f.sound).map(|f| f.hash).collect();
    let mut before: Option<Question> = None;
    for found in all {
        // What allocations differ from is not touched by reliefs between them,
        // nor by the damaged inputs of one.
        let says_so = found.sound && relief::Question::is_one(&found.inputs);
        let is_relief = says_so || reliefs.contains(&found.hash);
        let asked_by = if found.sound || !sound.contains(&found.hash) {
            waiting.remove(&found.hash).unwrap_or_default()
        } else {
            Vec::new()
        };
        if is_relief {
            let question = if found.sound {
                relief::Question::decode(&found.inputs).map_err(Fault::from)
            } else {
                Err(Fault::Inputs)
            };
            for logged in asked_by {
                let outcome = match &question {
                    Ok(question) => relieve_again(question, logged),
                    Err(fault) => Err(Fault::Other(fault.to_string())),
                };
                replayed.note(&logged.decision, outcome);
            }
            continue;
        }
        let question = if found.sound {
            evidence::decode(&found.inputs, before.take()).map_err(Fault::from)
        } else {
            Err(Fault::Inputs)
        };
        for logged in asked_by {
            let outcome = match &question {
                Ok(question) => allocate_again(question, logged),
                Err(fault) => Err(Fault::Other(fault.to_string())),
            };
            replayed.note(&logged.decision, outcome);
        }
        before = question.ok();
    }
    replayed.inputs_removed = read_removed(store, day)?;
    for logged in waiting.into_values().flatten() {
        match (&replayed.inputs_removed, logged.decision.kind) {
            (Some(_), DecisionKind::Relief) => replayed.reliefs.removed += 1,
            (Some(_), _) => replayed.removed += 1,
            (None, _) => replayed.note(&logged.decision, Err(Fault::NoInputs)),
        }
    }
    replayed.differing.sort_by_key(|d| d.decision);
    Ok(replayed)
}

impl Replayed {
    /// Counts a decision; whether it is a relief.
    fn count(&mut self, kind: DecisionKind) -> bool {
        let is_relief = kind == DecisionKind::Relief;
        if is_relief {
            self.reliefs.decisions += 1;
        } else {
            self.allocations += 1;
        }
        is_relief
    }

    fn note(&mut self, decision: &Decision, outcome: Result<(), Fault>) {
        match outcome {
            Ok(()) if decision.kind == DecisionKind::Relief => self.reliefs.same += 1,
            Ok(()) => self.same += 1,
            Err(fault) => self.differing.push(Difference {
                decision: decision.sequence,
                kind: decision.kind,
                at: decision.at,
                how: fault.to_string(),
            }),
        }
    }
}

/// Works one relief out again and compares.
fn relieve_again(question: &relief::Question, logged: &Logged) -> Result<(), Fault> {
    if logged.decision.kind != DecisionKind::Relief {
        return Err(Fault::Kind);
    }
    let outcome = question.answer();
    let caps = outcome
        .as_ref()
        .map_or_else(Vec::new, |outcome| relief::explained(question, outcome));
    compare_caps(&logged.decision.caps, &caps)?;
    let hash = relief::hash_of(outcome.as_ref())?;
    match logged.evidence {
        Some(reference) if reference.outcome == hash => Ok(()),
        _ => Err(Fault::Other(
            "a cap of a device, a job that gives way or a strained breaker is another".to_owned(),
        )),
    }
}

/// Takes one allocation again and compares.
fn allocate_again(question: &Question, logged: &Logged) -> Result<(), Fault> {
    if logged.decision.kind != DecisionKind::Allocation {
        return Err(Fault::Kind);
    }
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
    compare_caps(&decision.caps, &allocation.jobs)
}

fn compare_caps(logged: &[JobCap], now: &[JobCap]) -> Result<(), Fault> {
    if logged.len() != now.len() {
        return Err(Fault::Other(format!(
            "the log has caps for {} jobs or groups of devices, from the inputs there are {}",
            logged.len(),
            now.len()
        )));
    }
    match logged.iter().zip(now).find(|(logged, now)| logged != now) {
        Some((logged, now)) => Err(Fault::Other(differ(logged, now))),
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
