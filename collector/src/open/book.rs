//! Series met before, by the bytes that named them.
//!
//! A sender names its series in the same order every time. So the book
//! remembers which series came after which, and the next one costs one
//! comparison of bytes; only where the order changes a hash is looked up. The
//! bytes are always compared: neither a wrong guess nor a collision can mislead.

use super::remote_write::begins_with;
use super::resolve::Target;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Series remembered (about 300 bytes each); where there are more, the memory begins anew.
const REMEMBERED: usize = 400_000;
/// No series.
pub(super) const NONE: u32 = u32::MAX;

struct Entry {
    key: Box<[u8]>,
    target: Target,
    /// What came after it last time.
    next: u32,
    /// Another one with the same hash.
    same: u32,
}

/// All of them.
pub(super) struct Book {
    entries: Vec<Entry>,
    by_hash: HashMap<u64, u32, AsIs>,
    /// Drawn anew in each process, so that nobody can prepare collisions.
    seed: u64,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            by_hash: HashMap::default(),
            seed: RandomState::new().hash_one(0),
        }
    }
}

impl Book {
    /// The series that is expected after `before`, if `message` begins with its
    /// labels; and how long those are.
    pub(super) fn expected(&self, before: u32, message: &[u8]) -> Option<(u32, usize)> {
        let number = self.entries.get(before as usize)?.next;
        let key = &self.entries.get(number as usize)?.key;
        begins_with(message, key).then_some((number, key.len()))
    }

    /// The series of a key, noted as what came after `before`.
    pub(super) fn find(&mut self, before: u32, key: &[u8]) -> Option<u32> {
        let mut number = *self.by_hash.get(&hash(self.seed, key))?;
        loop {
            let entry = self.entries.get(number as usize)?;
            if *entry.key == *key {
                break;
            }
            number = entry.same;
        }
        if let Some(entry) = self.entries.get_mut(before as usize) {
            entry.next = number;
        }
        Some(number)
    }

    /// Where the samples of a series go.
    pub(super) fn target(&self, number: u32) -> Option<Target> {
        Some(self.entries.get(number as usize)?.target)
    }

    /// Remembers a series that is not remembered yet, as what came after `before`.
    pub(super) fn remember(&mut self, before: u32, key: &[u8], target: Target) -> u32 {
        if self.entries.len() >= REMEMBERED {
            self.clear();
        }
        let number = self.entries.len() as u32;
        let same = (self.by_hash).insert(hash(self.seed, key), number);
        self.entries.push(Entry {
            key: key.into(),
            target,
            next: NONE,
            same: same.unwrap_or(NONE),
        });
        if let Some(entry) = self.entries.get_mut(before as usize) {
            entry.next = number;
        }
        number
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.by_hash.clear();
    }
}

/// Sixteen bytes a step, by the high and low half of a product (as in wyhash).
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product as u64) ^ ((product >> 64) as u64)
    };
    let word = |bytes: &[u8]| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(word)
    };
    let mut state = seed ^ (bytes.len() as u64).wrapping_mul(ODD);
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        state = fold(word(&chunk[..8]) ^ state, word(&chunk[8..]) ^ ODD);
    }
    let rest = chunks.remainder();
    let (low, high) = rest.split_at(rest.len().min(8));
    fold(fold(word(low) ^ state, word(high) ^ ODD), seed | 1)
}

/// What is a hash already.
#[derive(Clone, Copy, Default)]
struct AsIs(u64);

impl BuildHasher for AsIs {
    type Hasher = Self;
    fn build_hasher(&self) -> Self {
        Self(0)
    }
}

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::open::encode::series;
    use proptest::prelude::*;

    fn key(n: u32) -> Vec<u8> {
        series(&[("__name__", &format!("m{n}"))], &[])
    }

    proptest! {
        /// Whatever came after whatever: a series is itself or not known.
        #[test]
        fn neither_order_nor_hash_misleads(steps in prop::collection::vec((0u32..12, any::<bool>()), 0..80)) {
            let mut book = Book::default();
            let mut model = HashMap::new();
            let mut before = NONE;
            for (n, restart) in steps {
                if restart {
                    before = NONE;
                }
                let message = [key(n), series(&[], &[(1.0, 5)])].concat();
                let labels = key(n);
                let found = match book.expected(before, &message) {
                    Some((number, length)) => {
                        prop_assert_eq!(length, labels.len());
                        Some(number)
                    }
                    None => book.find(before, &labels),
                };
                prop_assert_eq!(found.is_some(), model.contains_key(&n));
                before = match found {
                    Some(number) => {
                        prop_assert_eq!(book.target(number), model.get(&n).copied());
                        number
                    }
                    None => {
                        let target = Target::Lesson(n);
                        model.insert(n, target);
                        book.remember(before, &labels, target)
                    }
                };
                // What is remembered is expected the next time.
                prop_assert!(restart || book.expected(before, b"nothing").is_none());
            }
        }
    }

    #[test]
    fn equal_hashes_are_told_apart() {
        let mut book = Book::default();
        let first = book.remember(NONE, b"a", Target::Lesson(1));
        // As if "b" hashed to the same.
        let hash_of_b = hash(book.seed, b"b");
        book.by_hash.insert(hash_of_b, first);
        assert_eq!(book.find(NONE, b"b"), None);
        let second = book.remember(NONE, b"b", Target::Lesson(2));
        assert_eq!(book.find(NONE, b"b"), Some(second));
        book.by_hash.insert(hash(book.seed, b"a"), second);
        assert_eq!(book.find(NONE, b"a"), Some(first));
    }

    #[test]
    fn every_byte_counts() {
        let base: Vec<u8> = (0..50).collect();
        let mut seen = std::collections::HashSet::new();
        for length in 0..=base.len() {
            assert!(seen.insert(hash(7, &base[..length])));
        }
        for place in 0..base.len() {
            for bit in 0..8 {
                let mut other = base.clone();
                other[place] ^= 1 << bit;
                assert!(seen.insert(hash(7, &other)), "{place} {bit}");
            }
        }
    }
}
