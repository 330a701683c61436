//! The log of decisions: append-only, numbered, chained by hashes, the latest
//! in memory; and beside it the inputs from which decisions can be taken again.

mod chain;
mod cut;
mod inputs;
mod removed;

pub use chain::{Break, Chain, Fault, Hash};
pub use cut::Checkpoint;
pub use inputs::{Found, Inputs, read_inputs};
pub use removed::{Removed, read_removed};

use crate::framed_log::FramedLog;
use crate::query::StoreError;
use heliostat_models::{Decision, Timestamp};
use inputs::InputsLog;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use tokio::sync::broadcast;

/// Decisions kept in memory for the pages; all are on disk.
const IN_MEMORY: usize = 2_000;
const KIND: &[u8; 3] = b"dec";

/// The log.
#[derive(Debug)]
pub struct DecisionLog {
    inner: Mutex<Inner>,
    news: broadcast::Sender<Decision>,
    found: Chain,
}

#[derive(Debug)]
struct Inner {
    log: FramedLog,
    inputs: InputsLog,
    last: Hash,
    recent: VecDeque<Decision>,
    next: u64,
    /// Records written while the log's beginning is being cut off.
    meanwhile: Option<Vec<Vec<u8>>>,
}

impl Inner {
    /// A decision is in the log.
    fn logged(&mut self, decision: Decision, own: Hash) {
        self.last = own;
        self.next += 1;
        self.recent.push_back(decision);
        if self.recent.len() > IN_MEMORY {
            self.recent.pop_front();
        }
    }
}

/// From what a decision was taken, and what came out of it to the last bit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The inputs.
    pub inputs: Inputs,
    /// Hash of everything that was decided.
    pub outcome: Hash,
}

/// Where a decision's evidence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The inputs' hash, as [`Found::hash`] says it.
    pub inputs: Hash,
    /// Hash of everything that was decided.
    pub outcome: Hash,
}

/// A decision as the log keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Logged {
    /// The decision.
    pub decision: Decision,
    /// Its evidence, where it has any.
    pub evidence: Option<Reference>,
}

/// A log read back.
#[derive(Clone, Debug)]
pub struct History {
    /// The decisions that can be read, by their numbers.
    pub decisions: Vec<Logged>,
    /// How the chain stands.
    pub chain: Chain,
}

/// The body of a record. Old records are the decision alone.
#[derive(Serialize, Deserialize)]
struct Body {
    #[serde(flatten)]
    decision: Decision,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inputs: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<String>,
    /// What was cut off the log's beginning, where that is what it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cut: Option<Checkpoint>,
}

impl DecisionLog {
    /// Opens the log in a directory that exists, and follows its chain. A chain
    /// that is broken is told and goes on: control does not wait for the past.
    ///
    /// # Errors
    /// When the file cannot be read or written, or is none of ours.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join("decisions.log");
        cut::clear(&path);
        let (log, found) =
            FramedLog::open(&path, KIND).map_err(|e| StoreError::io("opening", &path, e))?;
        let mut chain = Chain::default();
        let mut recent = VecDeque::new();
        let mut next = 0;
        for record in found.records {
            let Some(logged) = read(&mut chain, &record) else {
                continue;
            };
            next = logged.decision.sequence + 1;
            recent.push_back(logged.decision);
            if recent.len() > IN_MEMORY {
                recent.pop_front();
            }
        }
        chain.end();
        if let Some(broken) = &chain.broken {
            tracing::error!(%broken, path = %path.display(), "the chain of the decision log is broken; decisions before it are vouched for, later ones only among themselves");
        }
        if chain.unchained > 0 {
            tracing::info!(
                records = chain.unchained,
                "decisions from before the log was chained carry no hash"
            );
        }
        let inner = Mutex::new(Inner {
            log,
            inputs: InputsLog::new(inputs_directory(directory)),
            last: chain.last,
            recent,
            next,
            meanwhile: None,
        });
        Ok(Self {
            inner,
            news: broadcast::Sender::new(256),
            found: chain,
        })
    }

    /// Keeps the inputs of decisions for so many days: when the first decision of a
    /// day comes, those of days that ended longer ago are removed.
    #[must_use]
    pub fn keep_inputs(self, days: u32) -> Self {
        self.lock().inputs.keep(days);
        self
    }

    /// How the chain stood at the opening.
    pub fn chain(&self) -> &Chain {
        &self.found
    }

    /// Whether the inputs of a decision at this instant must be whole, because
    /// there are none before them in the same file.
    pub fn needs_whole(&self, at: Timestamp) -> bool {
        self.lock().inputs.needs_whole(at)
    }

    /// Numbers a decision and appends it; returns its number.
    ///
    /// # Errors
    /// When the disk takes it not.
    pub fn record(&self, decision: Decision) -> Result<u64, StoreError> {
        self.append(decision, None)
    }

    /// The same with what the decision was taken from.
    ///
    /// # Errors
    /// When the disk takes it not.
    pub fn record_with(&self, decision: Decision, evidence: &Evidence) -> Result<u64, StoreError> {
        self.append(decision, Some(evidence))
    }

    fn append(
        &self,
        mut decision: Decision,
        evidence: Option<&Evidence>,
    ) -> Result<u64, StoreError> {
        let mut inner = self.lock();
        // First, so that no decision stands without its evidence.
        let inputs = match evidence {
            Some(evidence) => Some(inner.inputs.append(decision.at, &evidence.inputs)?),
            None => None,
        };
        decision.sequence = inner.next;
        let body = Body {
            decision,
            inputs: inputs.map(|hash| hash.to_string()),
            outcome: evidence.map(|e| e.outcome.to_string()),
            cut: None,
        };
        let bytes = serde_json::to_vec(&body).map_err(|e| StoreError::BadQuery(e.to_string()))?;
        let (record, own) = chain::link(inner.last, &bytes);
        let path = inner.log.path().to_owned();
        inner
            .log
            .append(&record)
            .map_err(|e| StoreError::io("writing", &path, e))?;
        if let Some(meanwhile) = &mut inner.meanwhile {
            meanwhile.push(record);
        }
        inner.logged(body.decision.clone(), own);
        // Nobody listening is no fault.
        let _ = self.news.send(body.decision);
        Ok(inner.next - 1)
    }

    /// The latest `count` decisions that `keep` accepts, newest first.
    pub fn latest(&self, count: usize, keep: impl Fn(&Decision) -> bool) -> Vec<Decision> {
        (self.lock().recent.iter().rev())
            .filter(|d| keep(d))
            .take(count)
            .cloned()
            .collect()
    }

    /// Decisions as they are taken.
    pub fn subscribe(&self) -> broadcast::Receiver<Decision> {
        self.news.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the log in a directory and changes nothing; the log of a running
/// server may be read.
///
/// # Errors
/// When the file cannot be read or is none of ours.
pub fn read_decisions(directory: &Path) -> Result<History, StoreError> {
    let path = directory.join("decisions.log");
    let found = FramedLog::read(&path, KIND).map_err(|e| StoreError::io("reading", &path, e))?;
    let mut chain = Chain::default();
    let decisions = (found.records.iter())
        .filter_map(|record| read(&mut chain, record))
        .collect();
    chain.end();
    Ok(History { decisions, chain })
}

/// Takes a record into the chain and reads it.
fn read(chain: &mut Chain, record: &[u8]) -> Option<Logged> {
    if chain.begin(record) {
        return None;
    }
    let body = serde_json::from_slice::<Body>(chain.take(record));
    let read = body.map_err(|e| e.to_string());
    chain.name(
        read.as_ref()
            .map(|b| b.decision.sequence)
            .map_err(Clone::clone),
    );
    match read {
        Ok(body) => {
            chain.notes(body.cut.as_ref());
            let hash = |text: Option<String>| Hash::parse(&text?);
            let evidence = hash(body.inputs).zip(hash(body.outcome));
            Some(Logged {
                decision: body.decision,
                evidence: evidence.map(|(inputs, outcome)| Reference { inputs, outcome }),
            })
        }
        Err(error) => {
            tracing::warn!(error, "a decision cannot be read and is left out");
            None
        }
    }
}

/// Where the inputs of a log's decisions are.
fn inputs_directory(directory: &Path) -> PathBuf {
    directory.join("decision-inputs")
}

#[cfg(test)]
mod cut_tests;
#[cfg(test)]
mod tests;
