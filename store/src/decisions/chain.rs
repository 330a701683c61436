//! The chain of the decision log: each record carries the hash of the one
//! before it and its own.
//!
//! ```text
//! chained record = 1(u8) own(32 bytes) before(32 bytes) body        own = SHA-256(before body)
//! old record     = body alone, which begins with `{`                own = SHA-256(before body)
//! checkpoint     = 2(u8) JSON, at the begin of the file only
//! ```
//!
//! The first record follows 32 zero bytes, or where the log's beginning was cut
//! off what the checkpoint says that it follows. Records from before the log was
//! chained carry no hash; the first chained one after them vouches for how
//! they stood then.

use super::cut::Checkpoint;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use std::fmt;

/// A SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// Of several pieces, one after the other.
    pub fn of(pieces: &[&[u8]]) -> Self {
        let mut all = Sha256::new();
        pieces.iter().for_each(|piece| all.update(piece));
        Self(all.finalize().into())
    }

    /// From its 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let mut hash = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).ok()?;
            *byte = u8::from_str_radix(digits, 16).ok()?;
        }
        Some(Self(hash))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| de::Error::custom("a hash has 64 hexadecimal digits"))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// First byte of a chained record.
const CHAINED: u8 = 1;
/// First byte of a checkpoint.
const CHECKPOINT: u8 = 2;
/// Bytes before the body.
const HEAD: usize = 1 + 32 + 32;

/// A chained record of this body after a record of hash `before`, and its hash.
pub(super) fn link(before: Hash, body: &[u8]) -> (Vec<u8>, Hash) {
    let own = Hash::of(&[&before.0, body]);
    let mut record = Vec::with_capacity(HEAD + body.len());
    record.push(CHAINED);
    record.extend_from_slice(&own.0);
    record.extend_from_slice(&before.0);
    record.extend_from_slice(body);
    (record, own)
}

/// The record with which a log begins whose beginning was cut off.
pub(super) fn head(cut: &Checkpoint) -> Result<Vec<u8>, serde_json::Error> {
    let mut record = vec![CHECKPOINT];
    serde_json::to_writer(&mut record, cut)?;
    Ok(record)
}

/// What is wrong with the chain at a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The record's own hash is not that of its content.
    #[error("its content is not what was written: its hash does not fit")]
    Content,
    /// It does not follow the record that stands before it.
    #[error("it does not follow the record before it: one was changed, taken out or put in there")]
    Link,
    /// It stands after chained records and carries no hash.
    #[error("it carries no hash, though the records before it do")]
    Unchained,
    /// It is neither a chained nor an old record.
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    /// The log's beginning is missing, and no record says that it was cut off there.
    #[error("what stood before it was cut off, and the log has no note of that")]
    NotNoted,
}

/// The first place where the chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Break {
    /// The record, counted from 0 since the log began, those cut off included.
    pub record: u64,
    /// The decision that stands there, where it can be read.
    pub decision: Option<u64>,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "record {}", self.record)?;
        if let Some(decision) = self.decision {
            write!(f, " (decision {decision})")?;
        }
        write!(f, ": {}", self.fault)
    }
}

/// How the chain of a log stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Records from before the log was chained.
    pub unchained: u64,
    /// Records with hashes.
    pub chained: u64,
    /// The first that is broken, of those cut off too.
    pub broken: Option<Break>,
    /// What was cut off before the first record.
    pub cut: Option<Checkpoint>,
    /// Whether a record says the same of what was cut off.
    is_noted: bool,
    /// Hash of the last record, which the next one carries.
    pub(super) last: Hash,
}

impl Chain {
    /// Takes a checkpoint in where one stands at the begin; whether that was one.
    pub(super) fn begin(&mut self, record: &[u8]) -> bool {
        let is_first = self.unchained + self.chained == 0 && self.cut.is_none();
        let Some((&CHECKPOINT, text)) = record.split_first().filter(|_| is_first) else {
            return false;
        };
        match serde_json::from_slice::<Checkpoint>(text) {
            Ok(cut) => {
                self.last = cut.last;
                self.cut = Some(cut);
            }
            Err(error) => self.note(Fault::Unreadable(error.to_string())),
        }
        true
    }

    /// Takes in what a record says of what was cut off.
    pub(super) fn notes(&mut self, cut: Option<&Checkpoint>) {
        self.is_noted |= cut.is_some() && cut == self.cut.as_ref();
    }

    /// All records were taken.
    pub(super) fn end(&mut self) {
        let Some(cut) = &self.cut else { return };
        if let Some(broken) = &cut.broken {
            self.broken = Some(broken.clone());
        } else if !self.is_noted && self.broken.is_none() {
            self.broken = Some(Break {
                record: cut.records,
                decision: None,
                fault: Fault::NotNoted,
            });
        }
    }

    /// Records before the next one, those cut off included.
    pub(super) fn count(&self) -> u64 {
        self.cut.as_ref().map_or(0, |cut| cut.records) + self.unchained + self.chained
    }

    /// Takes the next record in; returns its body.
    pub(super) fn take<'a>(&mut self, record: &'a [u8]) -> &'a [u8] {
        if record.first() == Some(&CHAINED) && record.len() >= HEAD {
            let (head, body) = record.split_at(HEAD);
            let mut own = Hash::default();
            let mut before = Hash::default();
            own.0.copy_from_slice(&head[1..33]);
            before.0.copy_from_slice(&head[33..]);
            if Hash::of(&[&before.0, body]) != own {
                self.note(Fault::Content);
            } else if before != self.last {
                self.note(Fault::Link);
            }
            self.chained += 1;
            // What follows is held against what stands here.
            self.last = own;
            return body;
        }
        if record.first() != Some(&b'{') {
            self.note(Fault::Unreadable("its form is not known here".to_owned()));
        } else if self.chained > 0 {
            self.note(Fault::Unchained);
        }
        self.unchained += 1;
        self.last = Hash::of(&[&self.last.0, record]);
        record
    }

    /// Says of the record taken last which decision it is, or why it cannot be read.
    pub(super) fn name(&mut self, decision: Result<u64, String>) {
        let record = self.count() - 1;
        match decision {
            Ok(number) => {
                if let Some(broken) = self.broken.as_mut().filter(|b| b.record == record) {
                    broken.decision = Some(number);
                }
            }
            Err(why) if self.broken.is_none() => {
                self.broken = Some(Break {
                    record,
                    decision: None,
                    fault: Fault::Unreadable(why),
                });
            }
            Err(_) => {}
        }
    }

    fn note(&mut self, fault: Fault) {
        if self.broken.is_none() {
            self.broken = Some(Break {
                record: self.count(),
                decision: None,
                fault,
            });
        }
    }
}
