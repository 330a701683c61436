use super::*;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn gpu() -> DeviceId {
    DeviceId::from("n1-gpu0")
}

fn expected(asked: f64) -> Expected {
    Expected {
        asked: Watts(asked),
        had: Watts(asked),
        found: Watts(700.0),
    }
}

#[test]
fn a_higher_limit_is_set_back_for_ever_and_told_when_it_comes_again_and_again() {
    let mut watch = Watch::default();
    let mut now = Timestamp(0);
    for time in 1..=40 {
        assert_eq!(
            watch.judge(&gpu(), expected(450.0), Watts(700.0), now),
            Finding::TooHigh
        );
        assert_eq!(watch.notes().len(), usize::from(time >= AGAIN), "{time}");
        assert_eq!(watch.ceiling(&gpu()), None);
        now = now + SECOND;
    }
    // Told once, and taken back when it has been quiet for long enough.
    assert_eq!(watch.version(), 1);
    watch.lapse(now + LATELY);
    assert_eq!((watch.notes().len(), watch.version()), (0, 2));
}

#[test]
fn a_lower_limit_is_left_for_longer_and_longer_and_in_the_end_for_good() {
    let mut watch = Watch::default();
    let mut now = Timestamp(0);
    for time in 1..=GIVE_UP {
        let finding = watch.judge(&gpu(), expected(450.0), Watts(300.0), now);
        assert_eq!(finding, Finding::Lowered);
        assert_eq!(watch.ceiling(&gpu()), Some(Watts(300.0)));
        let long = LEAVE * (1 << (time - 1));
        watch.lapse(now + (long - SECOND));
        assert!(watch.ceiling(&gpu()).is_some());
        watch.lapse(now + long);
        assert_eq!(watch.ceiling(&gpu()).is_some(), time == GIVE_UP, "{time}");
        now = now + long;
    }
    // Whoever did it lifts it a little, then takes it back.
    let raise = |watch: &mut Watch, to| watch.judge(&gpu(), expected(300.0), Watts(to), now);
    assert_eq!(raise(&mut watch, 350.0), Finding::TooHigh);
    assert_eq!(watch.ceiling(&gpu()), Some(Watts(350.0)));
    assert_eq!(raise(&mut watch, 700.0), Finding::TooHigh);
    assert_eq!(watch.ceiling(&gpu()), None);
}

#[test]
fn what_a_device_keeps_or_takes_late_is_no_foreign_change() {
    let mut watch = Watch::default();
    let slow = Expected {
        asked: Watts(450.0),
        had: Watts(700.0),
        found: Watts(700.0),
    };
    for current in [700.0, 620.0, 450.4, 449.5] {
        let finding = watch.judge(&gpu(), slow, Watts(current), Timestamp(0));
        assert_eq!(finding, Finding::AsSet, "{current}");
    }
    assert_eq!(watch.version(), 0);
}

#[test]
fn one_reading_that_fails_is_nothing_three_are() {
    let mut watch = Watch::default();
    assert_eq!([watch.unread(&gpu()), watch.unread(&gpu())], [false; 2]);
    assert!(!watch.read(&gpu()), "it was back in time");
    let failed: Vec<bool> = (0..5).map(|_| watch.unread(&gpu())).collect();
    assert_eq!(failed, [false, false, true, false, false]);
    assert_eq!(watch.notes()[0].what, Foreign::Unreadable);
    assert!(watch.read(&gpu()));
    assert_eq!(watch.notes(), []);
}

proptest! {
    /// Whatever is read: too high is always found, and a ceiling is never above
    /// the last limit that somebody else set.
    #[test]
    fn too_high_is_always_found(
        readings in prop::collection::vec((200.0..700.0f64, 0u32..2_000), 1..60),
        asked in 200.0..700.0f64,
    ) {
        let mut watch = Watch::default();
        let mut now = Timestamp(0);
        let mut has = asked;
        for (current, pause) in readings {
            now = now + SECOND * pause;
            watch.lapse(now);
            let finding = watch.judge(&gpu(), expected(has), Watts(current), now);
            prop_assert_eq!(finding == Finding::TooHigh, current > has + SAME);
            prop_assert_eq!(finding == Finding::Lowered, current < has - SAME);
            if finding == Finding::Lowered {
                prop_assert_eq!(watch.ceiling(&gpu()), Some(Watts(current)));
                has = current;
            } else if let Some(ceiling) = watch.ceiling(&gpu()) {
                prop_assert!(ceiling.0 >= has - SAME);
            }
        }
    }
}
