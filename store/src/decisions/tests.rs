use super::*;
use heliostat_models::{DecisionKind, Timestamp};

fn decision(at: i64, kind: DecisionKind) -> Decision {
    Decision {
        sequence: 999,
        at: Timestamp(at),
        kind,
        armed: false,
        summary: format!("decision at {at}"),
        reason: "because".to_owned(),
        certificate: None,
        caps: Vec::new(),
    }
}

#[test]
fn numbers_go_on_after_reopening_and_after_a_torn_tail() {
    let directory = tempfile::tempdir().unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    for at in 0..3 {
        assert_eq!(
            log.record(decision(at, DecisionKind::Plan)).unwrap(),
            at as u64
        );
    }
    drop(log);
    let log = DecisionLog::open(directory.path()).unwrap();
    assert_eq!(log.record(decision(3, DecisionKind::Arming)).unwrap(), 3);
    drop(log);
    // The last one torn: its number was never safely given, so it is given again.
    let path = directory.path().join("decisions.log");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    assert_eq!(log.record(decision(4, DecisionKind::Plan)).unwrap(), 3);
    let found: Vec<(u64, i64)> = log
        .latest(10, |_| true)
        .iter()
        .map(|d| (d.sequence, d.at.0))
        .collect();
    assert_eq!(found, [(3, 4), (2, 2), (1, 1), (0, 0)]);
}

#[test]
fn latest_is_newest_first_filtered_and_told_to_listeners() {
    let directory = tempfile::tempdir().unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    let mut news = log.subscribe();
    for at in 0..6 {
        let kind = if at % 2 == 0 {
            DecisionKind::Plan
        } else {
            DecisionKind::Allocation
        };
        log.record(decision(at, kind)).unwrap();
    }
    let plans = log.latest(2, |d| d.kind == DecisionKind::Plan);
    assert_eq!(plans.iter().map(|d| d.sequence).collect::<Vec<_>>(), [4, 2]);
    assert_eq!(news.try_recv().unwrap().sequence, 0);
}

#[test]
fn memory_is_bounded_and_the_disk_keeps_all() {
    let directory = tempfile::tempdir().unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    for at in 0..IN_MEMORY as i64 + 10 {
        log.record(decision(at, DecisionKind::Plan)).unwrap();
    }
    assert_eq!(log.latest(usize::MAX, |_| true).len(), IN_MEMORY);
    let history = read_decisions(directory.path()).unwrap();
    assert_eq!(history.decisions.len(), IN_MEMORY + 10);
    assert_eq!(history.chain.chained, IN_MEMORY as u64 + 10);
    assert_eq!(history.chain.broken, None);
}

fn path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("decisions.log")
}

/// The records of a log, and a log made of records: with sound checksums, as
/// one would write who changes the past on purpose.
fn records(directory: &tempfile::TempDir) -> Vec<Vec<u8>> {
    FramedLog::read(&path(directory), KIND).unwrap().records
}

fn rewrite(directory: &tempfile::TempDir, records: &[Vec<u8>]) {
    std::fs::remove_file(path(directory)).unwrap();
    let (mut log, _) = FramedLog::open(&path(directory), KIND).unwrap();
    log.append_all(records.iter().map(Vec::as_slice)).unwrap();
}

fn six() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    for at in 0..6 {
        log.record(decision(at, DecisionKind::Allocation)).unwrap();
    }
    directory
}

#[test]
fn whatever_byte_is_changed_the_chain_names_the_record() {
    let directory = six();
    let sound = records(&directory);
    assert_eq!(read_decisions(directory.path()).unwrap().chain.broken, None);
    for (place, record) in sound.iter().enumerate() {
        for byte in (0..record.len()).step_by(7).chain([0, 1, 33, 65]) {
            let mut changed = sound.clone();
            changed[place][byte] ^= 1;
            rewrite(&directory, &changed);
            let chain = read_decisions(directory.path()).unwrap().chain;
            let broken = chain.broken.expect("a changed byte is found");
            assert_eq!(broken.record, place as u64, "byte {byte}: {broken}");
        }
    }
}

#[test]
fn a_record_taken_out_put_in_or_moved_breaks_the_chain_there() {
    let directory = six();
    let sound = records(&directory);
    let broken_at = |records: &[Vec<u8>]| {
        rewrite(&directory, records);
        let chain = DecisionLog::open(directory.path()).unwrap().chain().clone();
        chain.broken.map(|b| (b.record, b.decision, b.fault))
    };
    assert_eq!(broken_at(&sound), None);
    let mut out = sound.clone();
    out.remove(2);
    assert_eq!(broken_at(&out), Some((2, Some(3), Fault::Link)));
    let mut twice = sound.clone();
    twice.insert(3, sound[2].clone());
    assert_eq!(broken_at(&twice), Some((3, Some(2), Fault::Link)));
    let mut moved = sound.clone();
    moved.swap(3, 4);
    assert_eq!(broken_at(&moved), Some((3, Some(4), Fault::Link)));
    let mut bare = sound.clone();
    bare[4] = bare[4][65..].to_vec();
    assert_eq!(broken_at(&bare), Some((4, Some(4), Fault::Unchained)));
}

#[test]
fn an_old_log_reads_on_is_said_to_be_unchained_and_is_vouched_for_from_now_on() {
    let directory = tempfile::tempdir().unwrap();
    let old: Vec<Vec<u8>> = (0..3)
        .map(|n| {
            let mut old = decision(n, DecisionKind::Plan);
            old.sequence = n as u64;
            serde_json::to_vec(&old).unwrap()
        })
        .collect();
    let (mut log, _) = FramedLog::open(&path(&directory), KIND).unwrap();
    log.append_all(old.iter().map(Vec::as_slice)).unwrap();
    drop(log);
    let log = DecisionLog::open(directory.path()).unwrap();
    assert_eq!((log.chain().unchained, log.chain().chained), (3, 0));
    assert_eq!(log.record(decision(3, DecisionKind::Arming)).unwrap(), 3);
    drop(log);
    let history = read_decisions(directory.path()).unwrap();
    assert_eq!((history.chain.unchained, history.chain.chained), (3, 1));
    assert_eq!((history.chain.broken, history.decisions.len()), (None, 4));
    // What was not chained then can no longer be changed unseen.
    let mut changed = records(&directory);
    let text = String::from_utf8(changed[1].clone()).unwrap();
    changed[1] = text.replace("because", "by magic").into_bytes();
    rewrite(&directory, &changed);
    let broken = read_decisions(directory.path()).unwrap().chain.broken;
    assert_eq!(broken.map(|b| (b.record, b.fault)), Some((3, Fault::Link)));
}

#[test]
fn the_chain_goes_on_after_a_torn_tail_and_shows_a_damaged_record() {
    let directory = six();
    let bytes = std::fs::read(path(&directory)).unwrap();
    std::fs::write(path(&directory), &bytes[..bytes.len() - 3]).unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    assert_eq!(log.record(decision(9, DecisionKind::Plan)).unwrap(), 5);
    drop(log);
    let chain = read_decisions(directory.path()).unwrap().chain;
    assert_eq!((chain.chained, chain.broken), (6, None));
    // A block of the disk went bad in the middle of the second record.
    let mut bytes = std::fs::read(path(&directory)).unwrap();
    let second = 8 + 12 + records(&directory)[0].len();
    bytes[second + 90] ^= 4;
    std::fs::write(path(&directory), bytes).unwrap();
    let broken = read_decisions(directory.path())
        .unwrap()
        .chain
        .broken
        .unwrap();
    assert_eq!((broken.decision, broken.fault), (Some(2), Fault::Link));
}

fn evidence(whole: bool, content: &[u8]) -> Evidence {
    Evidence {
        inputs: Inputs {
            whole,
            content: content.to_vec(),
        },
        outcome: Hash::of(&[content]),
    }
}

#[test]
fn inputs_are_kept_by_day_and_found_by_their_hash() {
    let directory = tempfile::tempdir().unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    let day = 86_400_000;
    let large = vec![7; (9 << 20) + 5];
    let all: [(i64, &[u8]); 4] = [
        (0, b"first"),
        (5, b"difference"),
        (day - 1, &large),
        (day, b"another day"),
    ];
    let needs: Vec<bool> = (all.iter())
        .map(|(at, content)| {
            let whole = log.needs_whole(Timestamp(*at));
            let taken = decision(*at, DecisionKind::Allocation);
            log.record_with(taken, &evidence(whole, content)).unwrap();
            whole
        })
        .collect();
    assert_eq!(needs, [true, false, false, true]);
    drop(log);
    // A new process begins with whole inputs, in the same file.
    let log = DecisionLog::open(directory.path()).unwrap();
    assert!(log.needs_whole(Timestamp(day + 1)));
    let taken = decision(day + 1, DecisionKind::Allocation);
    log.record_with(taken, &evidence(true, b"again")).unwrap();
    let history = read_decisions(directory.path()).unwrap();
    let of_day = |at| read_inputs(directory.path(), Timestamp(at)).unwrap();
    assert_eq!((of_day(0).len(), of_day(day).len()), (3, 2));
    assert!(of_day(2 * day).is_empty());
    for logged in &history.decisions {
        let reference = logged.evidence.unwrap();
        let found = of_day(logged.decision.at.0);
        let found = found.iter().find(|f| f.hash == reference.inputs).unwrap();
        assert!(found.sound);
        assert_eq!(Hash::of(&[&found.inputs.content]), reference.outcome);
    }
    assert_eq!(of_day(0)[2].inputs.content, large);
}

#[test]
fn a_changed_byte_of_inputs_is_found_at_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    for (at, content) in [b"one", b"two", b"six"].into_iter().enumerate() {
        let whole = log.needs_whole(Timestamp(0));
        let taken = decision(at as i64, DecisionKind::Allocation);
        log.record_with(taken, &evidence(whole, content)).unwrap();
    }
    let file = directory.path().join("decision-inputs/1970-01-01.log");
    let sound = FramedLog::read(&file, b"inp").unwrap().records;
    for place in 0..3 {
        for byte in [0, 1, 32, 33, 35] {
            let mut changed = sound.clone();
            changed[place][byte] ^= 1;
            std::fs::remove_file(&file).unwrap();
            let (mut log, _) = FramedLog::open(&file, b"inp").unwrap();
            log.append_all(changed.iter().map(Vec::as_slice)).unwrap();
            let found = read_inputs(directory.path(), Timestamp(0)).unwrap();
            let first = found.iter().position(|f| !f.sound);
            assert_eq!(first, Some(place), "byte {byte} of {place}");
        }
    }
}

/// The names of the files of inputs.
fn days(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(inputs_directory(directory)).unwrap();
    let mut names: Vec<String> = files
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "removed.log")
        .collect();
    names.sort();
    names
}

fn with_inputs(log: &DecisionLog, day: i64, text: &str) {
    let at = day * 86_400_000 + 5;
    let evidence = Evidence {
        inputs: Inputs {
            whole: true,
            content: text.as_bytes().to_vec(),
        },
        outcome: Hash::of(&[b"outcome"]),
    };
    let made = decision(at, DecisionKind::Allocation);
    log.record_with(made, &evidence).unwrap();
}

#[test]
fn inputs_go_after_their_days_and_the_log_and_its_chain_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let at = |day: i64| Timestamp(day * 86_400_000);
    let log = DecisionLog::open(path).unwrap().keep_inputs(3);
    for day in [0, 1, 2, 3] {
        with_inputs(&log, day, "then");
    }
    assert_eq!(days(path).len(), 4, "three days besides the running one");
    with_inputs(&log, 4, "then");
    assert_eq!(days(path)[0], "1970-01-02.log");
    let removed = read_removed(path, at(0)).unwrap().unwrap();
    assert_eq!(
        (removed.day, removed.at, removed.kept_days),
        (at(0), Timestamp(4 * 86_400_000 + 5), 3)
    );
    assert!(removed.bytes > 0);
    assert_eq!(read_removed(path, at(1)).unwrap(), None);
    assert_eq!(read_inputs(path, at(0)).unwrap(), []);
    assert_eq!(read_inputs(path, at(1)).unwrap().len(), 1);
    drop(log);
    // Noted, and the machine died before the file went: it is there, and goes later.
    std::fs::write(inputs_directory(path).join("1970-01-01.log"), "left").unwrap();
    assert_eq!(read_removed(path, at(0)).unwrap(), None);
    let log = DecisionLog::open(path).unwrap().keep_inputs(3);
    with_inputs(&log, 4, "then");
    assert!(read_removed(path, at(0)).unwrap().is_some());
    let history = read_decisions(path).unwrap();
    assert_eq!((history.decisions.len(), history.chain.broken), (6, None));
    assert!(history.decisions.iter().all(|d| d.evidence.is_some()));
}

#[test]
fn a_clock_that_is_wrong_by_years_costs_a_month_at_most() {
    let directory = tempfile::tempdir().unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    for day in 0..40 {
        with_inputs(&log, day, "then");
    }
    let log = log.keep_inputs(400);
    with_inputs(&log, 20_000, "then");
    assert_eq!(days(directory.path()).len(), 40 + 1 - 31);
    // Without a bound nothing goes.
    drop(log);
    let log = DecisionLog::open(directory.path()).unwrap();
    with_inputs(&log, 20_001, "then");
    assert_eq!(days(directory.path()).len(), 40 + 2 - 31);
}
