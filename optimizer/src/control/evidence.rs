//! The inputs of an allocation as the decision log keeps them: the whole
//! problem, or what differs from the one before; and the hash of what came out.
//!
//! Everything is postcard, so that every number comes back to the last bit.

use crate::allocate::{Contract, DeviceSpec, Group, LimitNode, Outcome, Problem};
use heliostat_models::{DeviceId, JobId, Watts};
use heliostat_store::decisions::{Hash, Inputs};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

/// First byte of the content: another form gets another number, below 128;
/// from there on they are those of [reliefs](super::relief::Question).
const VERSION: u8 = 2;
/// The form of before: its differences say nothing of contracts, which were the
/// same then.
const WITHOUT_CONTRACTS: u8 = 1;

/// What an allocation was made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Question {
    /// What the allocator was asked.
    pub problem: Arc<Problem>,
    /// Jobs that were under trial, and the caps tried: it stands in the reasons.
    pub trials: Vec<(JobId, Watts)>,
}

/// Why inputs cannot be read back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// From another program.
    #[error(
        "inputs of form {0} are not known here (this program knows {WITHOUT_CONTRACTS} and {VERSION})"
    )]
    Version(u8),
    /// Not inputs at all.
    #[error("inputs cannot be read: {0}")]
    Form(String),
    /// A difference, and nothing that it differs from.
    #[error("inputs say what differs from those before, which are not there or not sound")]
    NothingBefore,
    /// A difference that points outside of what it differs from.
    #[error("inputs differ from others than those before them")]
    Misfit,
}

/// What differs between two problems on the same tree with the same devices.
/// Elements stand whole but for their names, so that no field is forgotten.
#[derive(Debug, Serialize, Deserialize)]
struct Difference {
    price_of_energy: f64,
    step: Watts,
    nodes: Vec<(u32, LimitNode)>,
    devices: Vec<(u32, DeviceSpec)>,
    /// Jobs that are no more.
    ended: Vec<JobId>,
    /// Jobs that are new or others than they were.
    groups: Vec<Group>,
    trials: Vec<(JobId, Watts)>,
    /// Limits and loads of contracts, without name and members.
    contracts: Vec<(u32, Contract)>,
}

/// As the log keeps it: what differs from `before` where that is given and on
/// the same tree, else everything.
///
/// # Errors
/// When it cannot be encoded, which only a bug could bring about.
pub fn encode(question: &Question, before: Option<&Problem>) -> Result<Inputs, EvidenceError> {
    let difference = before.and_then(|before| difference(before, question));
    let content = match &difference {
        Some(difference) => postcard::to_extend(difference, vec![VERSION]),
        None => {
            // Large: room for all of it at once, instead of growing to twice that.
            let problem = &question.problem;
            let room = 72 * (problem.devices.len() + problem.nodes.len());
            let mut begun = Vec::with_capacity(room);
            begun.push(VERSION);
            postcard::to_extend(question, begun)
        }
    };
    Ok(Inputs {
        whole: difference.is_none(),
        content: content.map_err(|e| EvidenceError::Form(e.to_string()))?,
    })
}

/// Reads inputs back; `before` are those before them, where they are sound.
///
/// # Errors
/// See [`EvidenceError`].
pub fn decode(inputs: &Inputs, before: Option<Question>) -> Result<Question, EvidenceError> {
    let form = |e: postcard::Error| EvidenceError::Form(e.to_string());
    let (version, content) = (inputs.content.split_first())
        .ok_or_else(|| EvidenceError::Form("they are empty".to_owned()))?;
    if ![WITHOUT_CONTRACTS, VERSION].contains(version) {
        return Err(EvidenceError::Version(*version));
    }
    if inputs.whole {
        return postcard::from_bytes(content).map_err(form);
    }
    let difference = if *version == WITHOUT_CONTRACTS {
        // The contracts stand last: an empty list is one byte of zero.
        postcard::from_bytes(&[content, &[0]].concat())
    } else {
        postcard::from_bytes(content)
    };
    let difference = difference.map_err(form)?;
    apply(before.ok_or(EvidenceError::NothingBefore)?, difference)
}

fn difference(before: &Problem, question: &Question) -> Option<Difference> {
    let after = &question.problem;
    let same_tree = before.nodes.len() == after.nodes.len()
        && before.devices.len() == after.devices.len()
        && before.contracts.len() == after.contracts.len()
        && (before.contracts.iter().zip(&after.contracts))
            .all(|(a, b)| a.id == b.id && a.nodes == b.nodes && a.devices == b.devices)
        && (before.nodes.iter().zip(&after.nodes))
            .all(|(a, b)| a.id == b.id && a.parents == b.parents)
        && (before.devices.iter().zip(&after.devices)).all(|(a, b)| a.id == b.id);
    if !same_tree || !is_by_job(&before.groups) || !is_by_job(&after.groups) {
        return None;
    }
    let nodes = (before.nodes.iter().zip(&after.nodes).zip(0..))
        .filter(|((a, b), _)| a != b)
        .map(|((_, b), place)| {
            let bare = LimitNode {
                id: String::new(),
                parents: Vec::new(),
                ..b.clone()
            };
            (place, bare)
        })
        .collect();
    let devices = (before.devices.iter().zip(&after.devices).zip(0..))
        .filter(|((a, b), _)| a != b)
        .map(|((_, b), place)| {
            let bare = DeviceSpec {
                id: DeviceId::from(""),
                ..b.clone()
            };
            (place, bare)
        })
        .collect();
    let find = |groups: &[Group], job: &JobId| groups.binary_search_by(|g| g.job.cmp(job)).ok();
    let ended = (before.groups.iter())
        .filter(|g| find(&after.groups, &g.job).is_none())
        .map(|g| g.job.clone())
        .collect();
    let groups = (after.groups.iter())
        .filter(|g| find(&before.groups, &g.job).is_none_or(|at| before.groups[at] != **g))
        .cloned()
        .collect();
    Some(Difference {
        price_of_energy: after.price_of_energy,
        step: after.step,
        nodes,
        devices,
        ended,
        groups,
        trials: question.trials.clone(),
        contracts: (before.contracts.iter().zip(&after.contracts).zip(0..))
            .filter(|((a, b), _)| a != b)
            .map(|((_, b), place)| {
                let bare = Contract {
                    id: String::new(),
                    nodes: Vec::new(),
                    devices: Vec::new(),
                    ..b.clone()
                };
                (place, bare)
            })
            .collect(),
    })
}

/// Whether groups stand by the names of their jobs, each once.
fn is_by_job(groups: &[Group]) -> bool {
    groups.windows(2).all(|pair| pair[0].job < pair[1].job)
}

fn apply(before: Question, difference: Difference) -> Result<Question, EvidenceError> {
    let mut problem = Arc::unwrap_or_clone(before.problem);
    problem.price_of_energy = difference.price_of_energy;
    problem.step = difference.step;
    for (place, bare) in difference.nodes {
        let node = problem.nodes.get_mut(place as usize);
        let node = node.ok_or(EvidenceError::Misfit)?;
        *node = LimitNode {
            id: std::mem::take(&mut node.id),
            parents: std::mem::take(&mut node.parents),
            ..bare
        };
    }
    for (place, bare) in difference.devices {
        let device = problem.devices.get_mut(place as usize);
        let device = device.ok_or(EvidenceError::Misfit)?;
        *device = DeviceSpec {
            id: device.id.clone(),
            ..bare
        };
    }
    for (place, bare) in difference.contracts {
        let contract = problem.contracts.get_mut(place as usize);
        let contract = contract.ok_or(EvidenceError::Misfit)?;
        *contract = Contract {
            id: std::mem::take(&mut contract.id),
            nodes: std::mem::take(&mut contract.nodes),
            devices: std::mem::take(&mut contract.devices),
            ..bare
        };
    }
    let gone: BTreeSet<&JobId> = (difference.ended.iter())
        .chain(difference.groups.iter().map(|g| &g.job))
        .collect();
    problem.groups.retain(|g| !gone.contains(&g.job));
    problem.groups.extend(difference.groups);
    problem.groups.sort_by(|a, b| a.job.cmp(&b.job));
    Ok(Question {
        problem: Arc::new(problem),
        trials: difference.trials,
    })
}

/// Hash of everything that an allocation said: every cap, price, reason and
/// the certificate, to the last bit.
///
/// # Errors
/// When it cannot be encoded, which only a bug could bring about.
pub fn hash_of(outcome: &Outcome) -> Result<Hash, EvidenceError> {
    let bytes = postcard::to_allocvec(outcome).map_err(|e| EvidenceError::Form(e.to_string()))?;
    Ok(Hash::of(&[&bytes]))
}
