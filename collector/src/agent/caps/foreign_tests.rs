use super::tests::{FileDevices, applied, at, command, keeper, keeper_of, lease, limit};
use super::*;
use heliostat_models::lease::{Foreign, ForeignNote};
use std::sync::Arc;

const GPU: &str = "n1-gpu0";

/// A keeper of a device that has a lease of 450 W, and was found at 700 W.
fn leased(directory: &Path) -> CapKeeper {
    let mut keeper = keeper(directory, true);
    keeper.command(&command("c", 1, 0, vec![lease(GPU, 450.0)]), at(0));
    assert_eq!(keeper.check(at(0)), None);
    keeper
}

/// Somebody sets the limit.
fn meddle(directory: &Path, to: &str) {
    std::fs::write(directory.join(GPU), to).unwrap();
}

fn asks(sequence: u64, now: i64, cap: f64) -> CapCommand {
    command("c", sequence, now, vec![lease(GPU, cap)])
}

#[test]
fn a_reset_or_a_driver_loaded_anew_is_set_back_at_once_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = leased(dir.path());
    // A reset of the GPU, and persistence mode off: the limit is the default again.
    for time in 1..=20i64 {
        meddle(dir.path(), "700");
        let answer = keeper.check(at(time * 1_000)).unwrap();
        assert_eq!(
            (answer.sequence, answer.at, applied(&answer)),
            (None, Timestamp(time * 1_000), vec![Some(450.0)])
        );
        assert_eq!(limit(dir.path(), GPU), 450.0);
        // However often it comes again; from the fifth time on it is told as such.
        assert_eq!(keeper.foreign().notes.len(), usize::from(time >= 5));
    }
    let told = keeper.foreign();
    assert_eq!((told.changes, told.corrected), (20, 20));
    let since = Timestamp(1_000);
    assert_eq!(told.notes[0].what, Foreign::RaisedAgain { since });
    assert_eq!(keeper.check(at(21_000)), None);
    // It does not narrow what control may ask for.
    assert_eq!(keeper.devices()[0].max, Watts(700.0));
}

#[test]
fn a_lower_limit_is_respected_told_and_asked_for_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = leased(dir.path());
    meddle(dir.path(), "320");
    let answer = keeper.check(at(1_000)).unwrap();
    assert_eq!(applied(&answer), [Some(320.0)]);
    assert_eq!(keeper.check(at(2_000)), None, "told once");
    let until = Some(Timestamp(1_000 + 600_000));
    let limit_left = Watts(320.0);
    let note = ForeignNote {
        device: GPU.into(),
        what: Foreign::Lowered {
            limit: limit_left,
            until,
        },
    };
    assert_eq!(keeper.foreign().notes, [note]);
    assert_eq!(keeper.devices()[0].max, Watts(320.0));
    // Control asks for more before it has heard: it gets what is left to it.
    let answer = keeper.command(&asks(2, 2_000, 500.0), at(2_000)).unwrap();
    assert_eq!(
        (applied(&answer), limit(dir.path(), GPU)),
        (vec![Some(320.0)], 320.0)
    );
    // Lower is as ever, and the end of the lease goes no higher than is left.
    keeper.command(&asks(3, 3_000, 250.0), at(3_000)).unwrap();
    assert_eq!(limit(dir.path(), GPU), 250.0);
    assert_eq!(keeper.devices()[0].max, Watts(320.0));
    // After the stated time it is control's again.
    assert_eq!(keeper.check(at(601_000)), None);
    assert_eq!(keeper.devices()[0].max, Watts(700.0));
    keeper
        .command(&asks(4, 601_000, 500.0), at(601_000))
        .unwrap();
    assert_eq!(limit(dir.path(), GPU), 500.0);
}

#[test]
fn whoever_lowers_again_and_again_is_let_have_it_until_it_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = leased(dir.path());
    let (mut now, mut sequence) = (0, 1);
    for _ in 0..3 {
        now += 7_200_000;
        sequence += 1;
        keeper.check(at(now));
        keeper
            .command(&asks(sequence, now, 450.0), at(now))
            .unwrap();
        meddle(dir.path(), "300");
        keeper.check(at(now));
    }
    let until = |keeper: &CapKeeper| match keeper.foreign().notes[..] {
        [
            ForeignNote {
                what: Foreign::Lowered { until, .. },
                ..
            },
        ] => until,
        ref other => panic!("{other:?}"),
    };
    assert_eq!(until(&keeper), None);
    now += 86_400_000;
    keeper.check(at(now));
    keeper.command(&asks(9, now, 450.0), at(now)).unwrap();
    assert_eq!(limit(dir.path(), GPU), 300.0);
    // Taken back: first to what is leased, then control may raise it.
    meddle(dir.path(), "700");
    let answer = keeper.check(at(now)).unwrap();
    assert_eq!(applied(&answer), [Some(300.0)]);
    assert_eq!(keeper.devices()[0].max, Watts(700.0));
    keeper.command(&asks(10, now, 450.0), at(now)).unwrap();
    assert_eq!(limit(dir.path(), GPU), 450.0);
}

#[test]
fn a_change_right_before_a_command_counts_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = leased(dir.path());
    meddle(dir.path(), "280");
    let answer = keeper.command(&asks(2, 1_000, 500.0), at(1_000)).unwrap();
    assert_eq!(applied(&answer), [Some(280.0)]);
    meddle(dir.path(), "690");
    let answer = keeper.command(&asks(3, 2_000, 260.0), at(2_000)).unwrap();
    assert_eq!(
        (applied(&answer), keeper.stats.foreign_seen),
        (vec![Some(260.0)], 2)
    );
}

#[test]
fn a_safe_cap_is_kept_like_a_lease_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = leased(dir.path());
    keeper.expire(at(30_000)).unwrap();
    meddle(dir.path(), "700");
    std::fs::write(dir.path().join("n1-gpu1"), "500").unwrap();
    assert_eq!(applied(&keeper.check(at(31_000)).unwrap()), [Some(300.0)]);
    // What was never leased is not ours.
    assert_eq!(limit(dir.path(), "n1-gpu1"), 500.0);
    keeper.restore();
    meddle(dir.path(), "650");
    assert_eq!(keeper.check(at(32_000)), None);
    assert_eq!(limit(dir.path(), GPU), 650.0);
}

#[test]
fn what_somebody_lowered_is_not_restored_above_that() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = leased(dir.path());
    meddle(dir.path(), "320");
    keeper.check(at(1_000));
    keeper.restore();
    assert_eq!((limit(dir.path(), GPU), keeper.stats.restored), (320.0, 1));
    assert!(!dir.path().join("found-caps.json").exists());
}

#[test]
fn a_stop_asks_for_no_room_that_somebody_else_keeps_anyway() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = leased(dir.path());
    meddle(dir.path(), "320");
    keeper.check(at(1_000));
    // Somebody else's 320 W are all that will be restored, and they are there.
    assert_eq!(keeper.leave(true, at(2_000)), Leave::Restored);
    assert_eq!((limit(dir.path(), GPU), keeper.stats.restored), (320.0, 1));
    let mut keeper = leased(dir.path());
    meddle(dir.path(), "320");
    keeper.check(at(1_000));
    keeper.command(&asks(2, 2_000, 250.0), at(2_000));
    assert_eq!(keeper.leave(true, at(3_000)), Leave::Asks);
    keeper.command(&asks(3, 4_000, 320.0), at(4_000));
    assert!(keeper.leaves_now());
}

#[test]
fn a_limit_that_cannot_be_read_counts_as_unknown_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = leased(dir.path());
    let (file, away) = (dir.path().join(GPU), dir.path().join("away"));
    std::fs::rename(&file, &away).unwrap();
    assert_eq!([keeper.check(at(1)), keeper.check(at(2))], [None, None]);
    let answer = keeper.check(at(3)).unwrap();
    let CapOutcome::Refused { reason, current } = &answer.reports[0].outcome else {
        panic!("{answer:?}");
    };
    assert!(reason.contains("cannot be read") && current.is_none());
    assert_eq!(keeper.foreign().notes[0].what, Foreign::Unreadable);
    std::fs::rename(&away, &file).unwrap();
    assert_eq!(applied(&keeper.check(at(4)).unwrap()), [Some(450.0)]);
    assert_eq!(keeper.foreign().notes, []);
}

#[test]
fn what_is_too_high_and_cannot_be_set_back_is_told_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let devices = FileDevices::new(dir.path());
    let broken = Arc::clone(&devices.broken);
    let mut keeper = keeper_of(devices, dir.path());
    keeper.command(&asks(1, 0, 450.0), at(0));
    meddle(dir.path(), "700");
    *broken.lock().unwrap() = Some(GPU.into());
    for time in 1..4 {
        let answer = keeper.check(at(time)).unwrap();
        let current = Some(Watts(700.0));
        assert!(
            matches!(&answer.reports[0].outcome, CapOutcome::Refused { current: c, .. } if *c == current)
        );
    }
    *broken.lock().unwrap() = None;
    assert_eq!(applied(&keeper.check(at(4)).unwrap()), [Some(450.0)]);
}

#[test]
fn a_dry_run_reads_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let dry = crate::actuate::DryRun::new(Box::new(FileDevices::new(dir.path())));
    let mut keeper = keeper_of(dry, dir.path());
    // A cap that the device has already is answered as set.
    keeper.command(&asks(1, 0, 700.0), at(0));
    meddle(dir.path(), "500");
    assert_eq!((keeper.keeps(), keeper.check(at(1))), (false, None));
}
