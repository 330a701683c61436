use super::ends::ALONE;
use super::tests::{FileDevices, applied, at, command, keeper, keeper_of, lease, limit};
use super::*;

const GPU: &str = "n1-gpu0";
const HOUR: i64 = ALONE.as_millis() as i64;

fn crashed(directory: &Path, cap: f64) {
    let mut keeper = keeper(directory, true);
    keeper.command(&command("c", 7, 0, vec![lease(GPU, cap)]), at(0));
    assert_eq!(limit(directory, GPU), cap);
}

#[test]
fn after_a_crash_the_safe_cap_holds_until_control_speaks() {
    let dir = tempfile::tempdir().unwrap();
    crashed(dir.path(), 450.0);
    // A reset of the machine meanwhile: the device is at its default.
    std::fs::write(dir.path().join(GPU), "700").unwrap();
    let mut second = keeper(dir.path(), true);
    assert_eq!(limit(dir.path(), GPU), 300.0);
    let told = &second.devices()[0];
    assert_eq!((told.found, told.current), (Watts(700.0), Watts(300.0)));
    // It is kept against others too.
    std::fs::write(dir.path().join(GPU), "650").unwrap();
    assert_eq!(applied(&second.check(at(1_000)).unwrap()), [Some(300.0)]);
    let order = command("d", 1, 1_000, vec![lease(GPU, 520.0)]);
    second.command(&order, at(1_000)).unwrap();
    assert_eq!(limit(dir.path(), GPU), 520.0);
    // With a controller there is no hour after which all is restored.
    assert_eq!(second.next_end(), Some(Timestamp(31_000)));
    second.expire(at(31_000));
    assert_eq!(second.expire(at(31_000 + HOUR)), None);
    assert_eq!(limit(dir.path(), GPU), 300.0);
}

#[test]
fn after_a_crash_and_an_hour_without_control_what_was_found_is_restored() {
    let dir = tempfile::tempdir().unwrap();
    crashed(dir.path(), 450.0);
    // Also an agent that only observes cleans up after one that did not.
    let mut second = keeper(dir.path(), false);
    assert_eq!(limit(dir.path(), GPU), 300.0);
    // What it refuses is no word of a controller.
    second.command(&command("d", 1, 0, vec![lease(GPU, 520.0)]), at(0));
    assert_eq!(second.next_end(), Some(Timestamp(HOUR)));
    assert_eq!(second.expire(at(HOUR - 1)), None);
    let answer = second.expire(at(HOUR)).unwrap();
    assert_eq!(
        (answer.sequence, applied(&answer)),
        (None, vec![Some(700.0)])
    );
    assert_eq!(limit(dir.path(), GPU), 700.0);
    assert!(!dir.path().join("found-caps.json").exists());
    assert_eq!((second.next_end(), second.stats.restored), (None, 1));
}

#[test]
fn a_device_below_its_safe_cap_or_without_one_is_not_raised() {
    for (before, kept, after) in [(250.0, true, 250.0), (450.0, false, 450.0)] {
        let dir = tempfile::tempdir().unwrap();
        let mut lease = lease(GPU, before);
        lease.safe_cap = Watts(before.min(300.0));
        let mut first = keeper(dir.path(), true);
        first.command(&command("c", 1, 0, vec![lease]), at(0));
        drop(first);
        if !kept {
            // An agent of an earlier version wrote none; or it was damaged.
            std::fs::write(dir.path().join("leases.json"), "{\"leases\"").unwrap();
        }
        let second = keeper(dir.path(), true);
        assert_eq!(limit(dir.path(), GPU), after);
        assert_eq!(second.stats.safe_caps_set, 0);
    }
}

#[test]
fn what_was_obeyed_before_a_crash_is_not_obeyed_again() {
    let dir = tempfile::tempdir().unwrap();
    crashed(dir.path(), 450.0);
    let mut second = keeper(dir.path(), true);
    let mut order = |controller: &str, sequence, issued| {
        let order = command(controller, sequence, issued, vec![lease(GPU, 600.0)]);
        second.command(&order, at(1_000)).is_some()
    };
    assert!(!order("c", 7, 0) && !order("c", 6, 900) && !order("b", 99, -1));
    assert_eq!(limit(dir.path(), GPU), 300.0);
    assert!(order("c", 8, 0));
    assert_eq!(limit(dir.path(), GPU), 600.0);
}

#[test]
fn a_lease_lasts_its_length_from_its_receipt_whatever_the_clocks_show() {
    for skew in [-300_000i64, -30_001, 0, 30_001, 300_000] {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = keeper(dir.path(), true);
        let here = Now {
            wall: Timestamp(1_000_000 + skew),
            at: Timestamp(1_000_000 + skew),
            steady: Timestamp(77),
        };
        let order = command("c", 1, 1_000_000, vec![lease(GPU, 450.0)]);
        let answer = keeper.command(&order, here).unwrap();
        assert_eq!(applied(&answer), [Some(450.0)], "{skew}");
        // Its own instant is told, so that control can compare.
        assert_eq!(answer.at, Timestamp(1_000_000 + skew));
        assert_eq!(keeper.next_end(), Some(Timestamp(30_077)));
        // A clock that is set changes nothing of it.
        let later = |steady| Now {
            wall: Timestamp(5),
            at: here.at,
            steady: Timestamp(steady),
        };
        assert_eq!(keeper.expire(later(30_076)), None);
        assert!(keeper.expire(later(30_077)).is_some());
    }
}

#[test]
fn what_is_of_another_time_is_refused_with_both_clocks() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(dir.path(), true);
    let mut reason = |sequence, issued, now| {
        let order = command("c", sequence, issued, vec![lease(GPU, 450.0)]);
        let answer = keeper.command(&order, at(now)).unwrap();
        match &answer.reports[0].outcome {
            CapOutcome::Refused { reason, .. } => Some(reason.clone()),
            CapOutcome::Applied { .. } => None,
        }
    };
    let text = reason(1, 0, 930_000).unwrap();
    assert!(
        text.contains("1970-01-01T00:00:30") && text.contains("compare the clocks"),
        "{text}"
    );
    assert!(reason(2, 900_001, 0).is_some());
    assert_eq!(reason(3, 0, 929_999), None);
    assert_eq!(reason(4, 900_000, 0), None);
    assert_eq!(keeper.stats.out_of_time, 2);
    let mut backwards = command("c", 5, 1_000, vec![lease(GPU, 450.0)]);
    backwards.expires = Timestamp(1_000);
    let answer = keeper.command(&backwards, at(0)).unwrap();
    assert_eq!(applied(&answer), [None]);
    // No lease is without end.
    let mut endless = command("c", 6, 0, vec![lease(GPU, 450.0)]);
    endless.expires = Timestamp(i64::MAX / 2);
    keeper.command(&endless, at(0)).unwrap();
    assert_eq!(keeper.next_end(), Some(Timestamp(HOUR)));
}

#[test]
fn a_stop_under_a_lease_asks_and_restores_once_room_was_made() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(dir.path(), true);
    let both = |sequence, now, a, b| {
        let leases = vec![lease(GPU, a), lease("n1-gpu1", b)];
        command("c", sequence, now, leases)
    };
    keeper.command(&both(1, 0, 450.0, 400.0), at(0));
    assert_eq!(keeper.leave(true, at(1_000)), Leave::Asks);
    assert!(!keeper.leaves_now() && keeper.is_leaving());
    assert_eq!(limit(dir.path(), GPU), 450.0);
    // Room for one of them is not enough; then for both.
    keeper.command(&both(2, 1_500, 700.0, 400.0), at(1_500));
    assert!(!keeper.leaves_now());
    keeper.command(&both(3, 2_000, 700.0, 700.0), at(2_000));
    assert!(keeper.leaves_now() && !keeper.is_leaving());
    assert_eq!(keeper.stats.restored, 2);
    assert!(!dir.path().join("found-caps.json").exists());
}

#[test]
fn a_stop_without_leave_keeps_the_safe_cap_for_a_later_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = keeper(dir.path(), true);
    let leases = vec![lease(GPU, 450.0), lease("n1-gpu1", 700.0)];
    first.command(&command("c", 1, 0, leases), at(0));
    assert_eq!(first.leave(true, at(1_000)), Leave::Asks);
    first.stay();
    assert_eq!(
        (limit(dir.path(), GPU), first.stats.not_restored),
        (300.0, 1)
    );
    // What had as much as was found already is done with.
    assert_eq!(
        (limit(dir.path(), "n1-gpu1"), first.stats.restored),
        (700.0, 1)
    );
    drop(first);
    let mut second = keeper(dir.path(), true);
    assert_eq!(limit(dir.path(), GPU), 300.0);
    second.expire(at(HOUR));
    assert_eq!(limit(dir.path(), GPU), 700.0);
}

#[test]
fn a_stop_without_a_lease_restores_where_the_broker_hears_of_it() {
    for (told, after) in [(true, 700.0), (false, 300.0)] {
        let dir = tempfile::tempdir().unwrap();
        let mut keeper = keeper_of(FileDevices::new(dir.path()), dir.path());
        keeper.command(&command("c", 1, 0, vec![lease(GPU, 450.0)]), at(0));
        keeper.expire(at(30_000));
        assert_eq!(keeper.leave(told, at(31_000)), Leave::Restored);
        assert_eq!(limit(dir.path(), GPU), after, "{told}");
    }
}

#[test]
fn what_is_there_when_control_first_speaks_is_what_was_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(dir.path(), true);
    // The operator sets another limit while nobody caps the device.
    std::fs::write(dir.path().join(GPU), "600").unwrap();
    keeper.command(&command("c", 1, 0, vec![lease(GPU, 450.0)]), at(0));
    assert_eq!(keeper.devices()[0].found, Watts(600.0));
    keeper.command(&command("c", 2, 1, vec![lease(GPU, 500.0)]), at(1));
    keeper.restore();
    assert_eq!(limit(dir.path(), GPU), 600.0);
}

#[test]
fn a_limit_found_below_what_can_be_asked_for_is_restored_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(GPU), "150").unwrap();
    let mut keeper = keeper(dir.path(), true);
    keeper.command(&command("c", 1, 0, vec![lease(GPU, 450.0)]), at(0));
    keeper.restore();
    assert_eq!((limit(dir.path(), GPU), keeper.stats.restored), (150.0, 1));
}
