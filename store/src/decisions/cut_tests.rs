use super::*;
use heliostat_models::DecisionKind;
use proptest::prelude::*;
use proptest::sample::Index;
use std::time::Duration;

const HOUR: i64 = 3_600_000;
const DAYS: i64 = 24 * HOUR;

fn decision(at: i64) -> Decision {
    Decision {
        sequence: 0,
        at: Timestamp(at),
        kind: DecisionKind::Allocation,
        armed: true,
        summary: format!("decision at {at}"),
        reason: "because".to_owned(),
        certificate: None,
        caps: Vec::new(),
    }
}

fn path(directory: &tempfile::TempDir) -> PathBuf {
    directory.path().join("decisions.log")
}

/// A decision an hour.
fn hours(count: i64) -> (tempfile::TempDir, DecisionLog) {
    let directory = tempfile::tempdir().unwrap();
    let log = DecisionLog::open(directory.path()).unwrap();
    for hour in 0..count {
        log.record(decision(hour * HOUR)).unwrap();
    }
    (directory, log)
}

fn history(directory: &tempfile::TempDir) -> History {
    read_decisions(directory.path()).unwrap()
}

#[test]
fn what_is_old_goes_a_part_at_a_time_and_the_chain_goes_on() {
    let (directory, log) = hours(40 * 24);
    let now = Timestamp(40 * DAYS);
    let mut news = log.subscribe();
    let before = std::fs::metadata(path(&directory)).unwrap().len();
    assert_eq!(log.cut(now, 40).unwrap(), None);
    let mut cuts = 0;
    while let Some(cut) = log.cut(now, 10).unwrap() {
        cuts += 1;
        let (end, first) = (cut.until, cut.first);
        assert_eq!(
            cut.records as i64 - (cuts - 1).max(0),
            end.0 / HOUR + 1 - (cuts - 1)
        );
        assert!(first == Timestamp(0) && end < Timestamp(30 * DAYS), "{end}");
        let history = history(&directory);
        assert_eq!((history.chain.broken, history.chain.cut), (None, Some(cut)));
        // What stays is what came after, and the notes of all cuts.
        let next = &history.decisions[0].decision;
        assert_eq!(next.at, end + Duration::from_millis(HOUR as u64));
        assert_eq!(
            history.decisions.len() as i64,
            40 * 24 - end.0 / HOUR - 1 + cuts
        );
        let noted = news.try_recv().unwrap();
        assert_eq!(noted.kind, DecisionKind::Retention);
        assert!(
            noted.summary.contains(&end.to_string()),
            "{}",
            noted.summary
        );
    }
    assert!((8..20).contains(&cuts), "{cuts} cuts of an eighth at most");
    let first = history(&directory).decisions[0].decision.at;
    let late = (30 * DAYS - first.0) / HOUR;
    assert!(late <= 10 * 24 / 31 + 1, "{late} hours more than asked for");
    assert!(std::fs::metadata(path(&directory)).unwrap().len() < before / 3);
    // Numbers and chain go on, in this process and the next.
    assert_eq!(log.record(decision(now.0)).unwrap() as i64, 40 * 24 + cuts);
    drop(log);
    let log = DecisionLog::open(directory.path()).unwrap();
    assert_eq!(
        log.record(decision(now.0)).unwrap() as i64,
        40 * 24 + cuts + 1
    );
    assert_eq!(history(&directory).chain.broken, None);
    assert!(log.latest(usize::MAX, |d| d.at < first).is_empty());
}

#[test]
fn a_clock_that_is_wrong_by_years_costs_an_eighth_and_stamps_of_it_hold_nothing_up() {
    let (directory, log) = hours(20 * 24);
    let years = Timestamp(9_000 * DAYS);
    assert_eq!(log.cut(years, 30).unwrap(), None, "not believed");
    log.record(decision(years.0)).unwrap();
    let cut = log.cut(years, 30).unwrap().unwrap();
    assert!(cut.records <= 60, "{}", cut.records);
    // Set right again: what was stamped ahead goes with its neighbours.
    for hour in 20 * 24..60 * 24 {
        log.record(decision(hour * HOUR)).unwrap();
    }
    while log.cut(Timestamp(60 * DAYS), 30).unwrap().is_some() {}
    let history = history(&directory);
    assert!(history.decisions[0].decision.at >= Timestamp(28 * DAYS));
    assert_eq!(history.chain.broken, None);
}

#[test]
fn decisions_are_logged_while_the_log_is_cut() {
    let (directory, log) = hours(100 * 24);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..2_000 {
                log.record(decision(100 * DAYS + n)).unwrap();
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..6 {
                    log.cut(Timestamp(100 * DAYS), 30).unwrap();
                }
            });
        }
        writer.join().unwrap();
    });
    let history = history(&directory);
    assert_eq!(history.chain.broken, None);
    let cut = history.chain.cut.unwrap();
    let numbers = history.decisions.iter().map(|l| l.decision.sequence);
    assert!(numbers.eq(cut.records..cut.records + history.decisions.len() as u64));
    let own = |l: &&Logged| l.decision.kind == DecisionKind::Allocation;
    let late = history.decisions.iter().filter(own);
    assert_eq!(
        late.filter(|l| l.decision.at >= Timestamp(100 * DAYS))
            .count(),
        2_000
    );
}

/// The log with other records, as one would write it who changes the past.
fn rewritten(records: &[Vec<u8>]) -> Option<Break> {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = FramedLog::open(&path(&directory), KIND).unwrap();
    log.append_all(records.iter().map(Vec::as_slice)).unwrap();
    drop(log);
    let opened = DecisionLog::open(directory.path()).unwrap();
    let read = history(&directory).chain;
    assert_eq!(opened.chain(), &read);
    read.broken
}

#[test]
fn who_cuts_off_more_or_says_something_else_of_it_is_found() {
    let (directory, log) = hours(40 * 24);
    let cut = log.cut(Timestamp(40 * DAYS), 30).unwrap().unwrap();
    log.record(decision(41 * DAYS)).unwrap();
    drop(log);
    let sound = FramedLog::read(&path(&directory), KIND).unwrap().records;
    assert_eq!(rewritten(&sound), None);
    let not_noted = |broken: Option<Break>| {
        let broken = broken.unwrap();
        assert_eq!(broken.fault, Fault::NotNoted, "{broken}");
    };
    let other = |change: &dyn Fn(&mut Checkpoint)| {
        let mut cut = cut.clone();
        change(&mut cut);
        let mut records = sound.clone();
        records[0] = chain::head(&cut).unwrap();
        rewritten(&records)
    };
    assert_eq!(other(&|_| ()), None);
    not_noted(other(&|cut| cut.records -= 1));
    not_noted(other(&|cut| cut.first = Timestamp(HOUR)));
    not_noted(other(&|cut| cut.until = Timestamp(HOUR)));
    not_noted(other(&|cut| cut.at = Timestamp(HOUR)));
    not_noted(other(&|cut| cut.kept_days = 31));
    let hash = other(&|cut| cut.last = Hash::of(&[b"another"])).unwrap();
    assert_eq!((hash.fault, hash.record), (Fault::Link, cut.records));
    // More cut off, with a checkpoint that fits the chain.
    let mut chain = Chain::default();
    for record in &sound[..4] {
        read(&mut chain, record);
    }
    let more = Checkpoint {
        records: cut.records + 3,
        last: chain.last,
        ..cut.clone()
    };
    let mut records = vec![chain::head(&more).unwrap()];
    records.extend_from_slice(&sound[4..]);
    not_noted(rewritten(&records));
    // No checkpoint, one in the middle, one that cannot be read, the note taken out.
    let first = rewritten(&sound[1..]).unwrap();
    assert_eq!((first.record, first.fault), (0, Fault::Link));
    let mut twice = sound.clone();
    twice.insert(5, sound[0].clone());
    assert!(matches!(
        rewritten(&twice).unwrap().fault,
        Fault::Unreadable(_)
    ));
    let mut noise = sound.clone();
    noise[0].truncate(20);
    assert!(matches!(
        rewritten(&noise).unwrap().fault,
        Fault::Unreadable(_)
    ));
    let mut silent = sound.clone();
    let note = silent.remove(silent.len() - 2);
    assert!(String::from_utf8_lossy(&note).contains("retention"));
    assert!(rewritten(&silent).is_some());
    not_noted(rewritten(&sound[..sound.len() - 2]));
}

#[test]
fn a_cut_does_not_whitewash_what_was_broken() {
    let (directory, log) = hours(40 * 24);
    drop(log);
    let mut records = FramedLog::read(&path(&directory), KIND).unwrap().records;
    records.remove(3);
    std::fs::remove_file(path(&directory)).unwrap();
    let (mut log, _) = FramedLog::open(&path(&directory), KIND).unwrap();
    log.append_all(records.iter().map(Vec::as_slice)).unwrap();
    drop(log);
    let broken = history(&directory).chain.broken;
    assert_eq!(broken.as_ref().map(|b| b.record), Some(3));
    let log = DecisionLog::open(directory.path()).unwrap();
    for _ in 0..3 {
        log.cut(Timestamp(40 * DAYS), 1).unwrap().unwrap();
        assert_eq!(history(&directory).chain.broken, broken);
    }
    // Somebody's own checkpoint without a note is one for good, too.
    let (directory, log) = hours(40 * 24);
    log.cut(Timestamp(40 * DAYS), 1).unwrap().unwrap();
    drop(log);
    let records = FramedLog::read(&path(&directory), KIND).unwrap().records;
    std::fs::remove_file(path(&directory)).unwrap();
    let (mut log, _) = FramedLog::open(&path(&directory), KIND).unwrap();
    let without_note = &records[..records.len() - 1];
    log.append_all(without_note.iter().map(Vec::as_slice))
        .unwrap();
    drop(log);
    let log = DecisionLog::open(directory.path()).unwrap();
    log.cut(Timestamp(40 * DAYS), 1).unwrap().unwrap();
    let broken = history(&directory).chain.broken.unwrap();
    assert_eq!(broken.fault, Fault::NotNoted);
}

#[test]
fn an_old_log_without_hashes_is_cut_too() {
    let directory = tempfile::tempdir().unwrap();
    let old: Vec<Vec<u8>> = (0..400)
        .map(|n| {
            let mut old = decision(n * DAYS);
            old.sequence = n as u64;
            serde_json::to_vec(&old).unwrap()
        })
        .collect();
    let (mut log, _) = FramedLog::open(&path(&directory), KIND).unwrap();
    log.append_all(old.iter().map(Vec::as_slice)).unwrap();
    drop(log);
    let log = DecisionLog::open(directory.path()).unwrap();
    log.cut(Timestamp(400 * DAYS), 100).unwrap().unwrap();
    let chain = history(&directory).chain;
    let cut = chain.cut.unwrap();
    assert_eq!((chain.broken, chain.chained), (None, 1));
    assert_eq!(cut.records + chain.unchained, 400);
    // What stays can no longer be changed unseen.
    let mut records = FramedLog::read(&path(&directory), KIND).unwrap().records;
    let text = String::from_utf8(records[7].clone()).unwrap();
    records[7] = text.replace("because", "by magic").into_bytes();
    assert_eq!(rewritten(&records).unwrap().fault, Fault::Link);
}

#[derive(Clone, Debug)]
enum Step {
    /// Decisions so many hours apart.
    Log(u8, u8),
    /// The process ends and another begins.
    Reopen,
    /// What is older than so many days goes.
    Cut(u32),
    /// The same, and the machine dies at some byte or step of it.
    Crash(u32, Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..30, 0u8..20).prop_map(|(count, hours)| Step::Log(count, hours)),
        1 => Just(Step::Reopen),
        3 => (0u32..20).prop_map(Step::Cut),
        3 => (0u32..20, any::<Index>()).prop_map(|(days, at)| Step::Crash(days, at)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    /// Whatever is logged and cut, and whenever the machine dies: the chain
    /// holds, what stays is the end of what was logged, the checkpoint counts the
    /// rest, and nothing of late is lost.
    #[test]
    fn nothing_is_lost_that_is_to_be_kept(steps in prop::collection::vec(step(), 1..25)) {
        let directory = tempfile::tempdir().unwrap();
        let (file, new) = (path(&directory), directory.path().join("decisions.log.new"));
        let mut log = DecisionLog::open(directory.path()).unwrap();
        let mut all: Vec<Timestamp> = Vec::new();
        let mut now = Timestamp(1_000 * DAYS);
        let mut gone = 0;
        for step in steps {
            match step {
                Step::Log(count, hours) => for _ in 0..count {
                    now = Timestamp(now.0 + i64::from(hours) * HOUR);
                    prop_assert_eq!(log.record(decision(now.0)).unwrap(), all.len() as u64);
                    all.push(now);
                },
                Step::Reopen => {
                    drop(log);
                    log = DecisionLog::open(directory.path()).unwrap();
                }
                Step::Cut(days) => {
                    if let Some(cut) = log.cut(now, days).unwrap() {
                        all.push(cut.at);
                        prop_assert!(cut.records > gone && cut.kept_days == days);
                        prop_assert!(cut.until < now.floor_to(Duration::from_secs(86_400)) - Duration::from_secs(86_400) * days);
                        gone = cut.records;
                    }
                }
                Step::Crash(days, at) => {
                    let before = std::fs::read(&file).unwrap();
                    let cut = log.cut(now, days).unwrap();
                    drop(log);
                    let after = std::fs::read(&file).unwrap();
                    prop_assert!(!new.exists());
                    if let Some(cut) = cut {
                        // Any byte of the new file, whole beside the old one, in its place.
                        let point = at.index(after.len() + 2);
                        if point <= after.len() {
                            std::fs::write(&file, &before).unwrap();
                            std::fs::write(&new, &after[..point]).unwrap();
                        } else {
                            all.push(cut.at);
                            gone = cut.records;
                        }
                    }
                    log = DecisionLog::open(directory.path()).unwrap();
                    prop_assert!(!new.exists());
                }
            }
            let history = history(&directory);
            prop_assert_eq!(&history.chain.broken, &None);
            let left: Vec<Timestamp> = history.decisions.iter().map(|l| l.decision.at).collect();
            prop_assert_eq!(&left[..], &all[gone as usize..]);
            let numbers = history.decisions.iter().map(|l| l.decision.sequence);
            prop_assert!(numbers.eq(gone..all.len() as u64));
            match history.chain.cut {
                Some(cut) => prop_assert_eq!(
                    (cut.records, cut.first, cut.until),
                    (gone, all[0], all[gone as usize - 1])
                ),
                None => prop_assert_eq!(gone, 0),
            }
        }
    }
}
