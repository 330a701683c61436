use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Step {
    /// Append a batch of this many bytes.
    Append(usize),
    /// Acknowledge this share of what waits.
    Acknowledge(f64),
    /// The process is killed: what it wrote is there, nothing is closed.
    Crash,
    /// The machine lost power: this many bytes at the end of the newest file are gone.
    PowerLoss(u64),
    /// A clean stop and start.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..200).prop_map(Step::Append),
        3 => (0.0..1.0f64).prop_map(Step::Acknowledge),
        1 => Just(Step::Crash),
        1 => (0u64..300).prop_map(Step::PowerLoss),
        1 => Just(Step::Restart),
    ]
}

fn content(sequence: u64, length: usize) -> Vec<u8> {
    (0..length).map(|i| (sequence as usize + i) as u8).collect()
}

fn all(spool: &Spool) -> Vec<(u64, Vec<u8>)> {
    spool.read_after(0, usize::MAX, usize::MAX).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The model: a map of what waits. Whatever happens in between, nothing
    /// unacknowledged is lost (but what a power loss tore off the very end),
    /// and no sequence is given twice.
    #[test]
    fn nothing_waiting_is_lost_and_no_sequence_comes_twice(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        // Segments of 1 KiB, so that rotation and removal happen often.
        let mut spool = Some(Spool::open(dir.path(), 8 << 10).unwrap());
        let mut waiting: BTreeMap<u64, usize> = BTreeMap::new();
        let mut given = BTreeSet::new();
        let mut highest_acknowledged = 0;
        for step in steps {
            let open = spool.as_mut().unwrap();
            match step {
                Step::Append(length) => match open.append(3, |s| Ok(content(s, length))) {
                    Ok(sequence) => {
                        prop_assert!(given.insert(sequence), "{} came twice", sequence);
                        waiting.insert(sequence, length);
                    }
                    Err(SpoolError::Full { bytes, limit, .. }) => {
                        prop_assert!(bytes + FRAME + PREFIX as u64 + length as u64 > limit);
                    }
                    Err(other) => return Err(TestCaseError::fail(other.to_string())),
                },
                Step::Acknowledge(share) => {
                    let count = (share * waiting.len() as f64) as usize;
                    let Some(upto) = waiting.keys().nth(count).copied() else { continue };
                    let done = open.acknowledge(upto).unwrap();
                    prop_assert_eq!(done.batches, count as u64 + 1);
                    prop_assert_eq!(done.samples, 3 * (count as u64 + 1));
                    waiting.retain(|s, _| *s > upto);
                    highest_acknowledged = upto;
                }
                Step::Crash => {
                    drop(spool.take());
                    spool = Some(Spool::open(dir.path(), 8 << 10).unwrap());
                    // Acknowledged ones may be back, as they are only noted now and then.
                }
                Step::PowerLoss(bytes) => {
                    let newest = open.sync_path().to_owned();
                    drop(spool.take());
                    let length = std::fs::metadata(&newest).unwrap().len();
                    let file = File::options().write(true).open(&newest).unwrap();
                    file.set_len(length.saturating_sub(bytes)).unwrap();
                    drop(file);
                    let fresh = Spool::open(dir.path(), 8 << 10).unwrap();
                    let left: BTreeSet<u64> = all(&fresh).iter().map(|(s, _)| *s).collect();
                    // Only a tail may be gone.
                    let first_gone = waiting.keys().find(|s| !left.contains(s)).copied();
                    if let Some(first) = first_gone {
                        prop_assert!(waiting.range(first..).all(|(s, _)| !left.contains(s)));
                        waiting.retain(|s, _| *s < first);
                    }
                    spool = Some(fresh);
                }
                Step::Restart => {
                    open.close().unwrap();
                    let next = open.next_sequence();
                    drop(spool.take());
                    let fresh = Spool::open(dir.path(), 8 << 10).unwrap();
                    prop_assert_eq!(fresh.next_sequence(), next, "a clean restart skips nothing");
                    prop_assert_eq!(fresh.waiting(), waiting.len() as u64);
                    spool = Some(fresh);
                }
            }
            let open = spool.as_ref().unwrap();
            let found: BTreeMap<u64, Vec<u8>> = all(open).into_iter().collect();
            for (sequence, length) in &waiting {
                prop_assert_eq!(found.get(sequence), Some(&content(*sequence, *length)));
            }
            // Nothing else, but acknowledged ones that a crash brought back.
            prop_assert!(found.keys().all(|s| waiting.contains_key(s) || *s <= highest_acknowledged));
            prop_assert!(open.bytes() <= 8 << 10);
            if found.len() > waiting.len() {
                let upto = highest_acknowledged;
                spool.as_mut().unwrap().acknowledge(upto).unwrap();
            }
        }
    }
}

#[test]
fn a_directory_belongs_to_one_agent() {
    let dir = tempfile::tempdir().unwrap();
    let first = Spool::open(dir.path(), 1 << 20).unwrap();
    let error = Spool::open(dir.path(), 1 << 20).unwrap_err();
    assert!(matches!(error, SpoolError::InUse { .. }));
    assert!(error.to_string().contains("--spool"), "{error}");
    drop(first);
    Spool::open(dir.path(), 1 << 20).unwrap();
}

#[test]
fn a_damaged_record_costs_only_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    for _ in 0..5 {
        spool.append(1, |s| Ok(content(s, 50))).unwrap();
    }
    let path = spool.sync_path().to_owned();
    drop(spool);
    let mut bytes = std::fs::read(&path).unwrap();
    // The middle of the third of five equal records.
    let record = (bytes.len() - HEADER as usize) / 5;
    bytes[HEADER as usize + 2 * record + record / 2] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let spool = Spool::open(dir.path(), 1 << 20).unwrap();
    assert_eq!(spool.found().damaged, 1);
    let expected: Vec<_> = [1, 2, 4, 5].map(|s| (s, content(s, 50))).to_vec();
    assert_eq!(all(&spool), expected);
}

#[test]
fn a_full_spool_keeps_the_oldest_and_takes_new_ones_after_an_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 2_000).unwrap();
    let mut last = 0;
    let error = loop {
        match spool.append(1, |s| Ok(content(s, 100))) {
            Ok(sequence) => last = sequence,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SpoolError::Full { .. }), "{error}");
    assert_eq!(spool.oldest(), Some(1));
    spool.acknowledge(last).unwrap();
    spool.append(1, |s| Ok(content(s, 100))).unwrap();
    assert_eq!(all(&spool), vec![(last + 1, content(last + 1, 100))]);
}

#[test]
fn reading_is_bounded_by_count_and_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut spool = Spool::open(dir.path(), 1 << 20).unwrap();
    for _ in 0..10 {
        spool.append(1, |s| Ok(content(s, 100))).unwrap();
    }
    let sequences = |after, count, bytes| -> Vec<u64> {
        let found = spool.read_after(after, count, bytes).unwrap();
        found.into_iter().map(|(s, _)| s).collect()
    };
    assert_eq!(sequences(3, 2, usize::MAX), [4, 5]);
    assert_eq!(sequences(0, 9, 250), [1, 2]);
    assert_eq!(sequences(9, 9, 1), [10]);
}
