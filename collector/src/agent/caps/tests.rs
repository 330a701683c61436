use super::*;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// Devices whose limits outlive the agent, as those of real ones do: in files.
pub(super) struct FileDevices {
    directory: PathBuf,
    pub(super) log: Arc<Mutex<Vec<(DeviceId, f64)>>>,
    pub(super) broken: Arc<Mutex<Option<DeviceId>>>,
    pub(super) range: Arc<Mutex<(Watts, Watts)>>,
}

pub(super) const UUID: &str = "GPU-1";

impl FileDevices {
    pub(super) fn new(directory: &Path) -> Self {
        for device in ["n1-gpu0", "n1-gpu1"] {
            let path = directory.join(device);
            if !path.exists() {
                std::fs::write(path, "700").unwrap();
            }
        }
        Self {
            directory: directory.to_owned(),
            log: Arc::default(),
            broken: Arc::default(),
            range: Arc::new(Mutex::new((Watts(200.0), Watts(700.0)))),
        }
    }
}

impl CapActuator for FileDevices {
    fn devices(&mut self) -> Vec<CappableDevice> {
        ["n1-gpu0", "n1-gpu1"]
            .map(|name| {
                let device = DeviceId::from(name);
                let limit = self.current(&device).unwrap();
                CappableDevice {
                    device,
                    uuid: UUID.into(),
                    product: "Test".into(),
                    min: Watts(200.0),
                    max: Watts(700.0),
                    found: limit,
                    current: limit,
                }
            })
            .to_vec()
    }

    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        if self.broken.lock().unwrap().as_ref() == Some(device) {
            return Err(CapError::Lost {
                device: device.clone(),
            });
        }
        if uuid != UUID {
            return Err(CapError::WrongDevice {
                device: device.clone(),
                expected: uuid.into(),
                found: UUID.into(),
            });
        }
        let (min, max) = *self.range.lock().unwrap();
        if cap > max {
            return Err(CapError::OutOfRange {
                device: device.clone(),
                cap,
                min,
                max,
            });
        }
        std::fs::write(self.directory.join(device.as_str()), cap.0.to_string()).unwrap();
        self.log.lock().unwrap().push((device.clone(), cap.0));
        self.current(device)
    }

    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        let text = std::fs::read_to_string(self.directory.join(device.as_str()))
            .map_err(|_| CapError::UnknownDevice(device.clone()))?;
        Ok(Watts(text.parse().unwrap()))
    }

    fn range(&mut self, _: &DeviceId) -> Option<(Watts, Watts)> {
        Some(*self.range.lock().unwrap())
    }
}

pub(super) fn limit(directory: &Path, device: &str) -> f64 {
    let text = std::fs::read_to_string(directory.join(device)).unwrap();
    text.parse().unwrap()
}

pub(super) fn keeper(directory: &Path, arm: bool) -> CapKeeper {
    let devices = FileDevices::new(directory);
    let agent = AgentId::from("n1");
    CapKeeper::new(agent, arm, Some(Box::new(devices)), directory, at(0)).unwrap()
}

pub(super) fn keeper_of(devices: impl CapActuator + 'static, directory: &Path) -> CapKeeper {
    let agent = AgentId::from("n1");
    CapKeeper::new(agent, true, Some(Box::new(devices)), directory, at(0)).unwrap()
}

/// An instant by which all clocks show the same.
pub(super) fn at(millis: i64) -> Now {
    Now::from(Timestamp(millis))
}

pub(super) fn lease(device: &str, cap: f64) -> CapLease {
    CapLease {
        device: DeviceId::from(device),
        uuid: UUID.into(),
        cap: Watts(cap),
        safe_cap: Watts(300.0),
    }
}

pub(super) fn command(
    controller: &str,
    sequence: u64,
    issued: i64,
    leases: Vec<CapLease>,
) -> CapCommand {
    CapCommand {
        sequence,
        fence: 0,
        controller: controller.into(),
        issued: Timestamp(issued),
        expires: Timestamp(issued + 30_000),
        leases,
    }
}

pub(super) fn applied(answer: &CapAnswer) -> Vec<Option<f64>> {
    let outcomes = answer.reports.iter().map(|r| match &r.outcome {
        CapOutcome::Applied { readback } => Some(readback.0),
        CapOutcome::Refused { .. } => None,
    });
    outcomes.collect()
}

#[test]
fn applies_reads_back_and_restores_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(dir.path(), true);
    let answer = keeper
        .command(&command("c", 1, 0, vec![lease("n1-gpu0", 450.0)]), at(10))
        .unwrap();
    assert_eq!(
        (answer.sequence, applied(&answer)),
        (Some(1), vec![Some(450.0)])
    );
    assert_eq!(limit(dir.path(), "n1-gpu0"), 450.0);
    assert!(dir.path().join("found-caps.json").exists());
    keeper.restore();
    assert_eq!(limit(dir.path(), "n1-gpu0"), 700.0);
    assert!(!dir.path().join("found-caps.json").exists());
    assert_eq!(keeper.stats.restored, 1);
}

#[test]
fn an_ended_lease_becomes_the_safe_cap_and_a_renewal_prevents_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(dir.path(), true);
    keeper.command(&command("c", 1, 0, vec![lease("n1-gpu0", 450.0)]), at(0));
    keeper.command(
        &command("c", 2, 20_000, vec![lease("n1-gpu0", 460.0)]),
        at(20_000),
    );
    assert_eq!(keeper.expire(at(49_999)), None);
    assert_eq!(keeper.next_end(), Some(Timestamp(50_000)));
    let answer = keeper.expire(at(50_000)).unwrap();
    assert_eq!(
        (answer.sequence, applied(&answer)),
        (None, vec![Some(300.0)])
    );
    assert_eq!(limit(dir.path(), "n1-gpu0"), 300.0);
    assert_eq!(keeper.next_end(), None);
    assert_eq!(keeper.stats.safe_caps_set, 1);
    // Only what was leased.
    assert_eq!(limit(dir.path(), "n1-gpu1"), 700.0);
}

#[test]
fn a_safe_cap_that_cannot_be_set_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let devices = FileDevices::new(dir.path());
    let broken = Arc::clone(&devices.broken);
    let mut keeper = keeper_of(devices, dir.path());
    keeper.command(&command("c", 1, 0, vec![lease("n1-gpu0", 450.0)]), at(0));
    *broken.lock().unwrap() = Some(DeviceId::from("n1-gpu0"));
    assert_eq!(applied(&keeper.expire(at(30_000)).unwrap()), [None]);
    *broken.lock().unwrap() = None;
    assert_eq!(applied(&keeper.expire(at(31_000)).unwrap()), [Some(300.0)]);
}

#[test]
fn older_commands_are_ignored_and_a_repeated_one_is_answered_again_without_a_write() {
    let dir = tempfile::tempdir().unwrap();
    let devices = FileDevices::new(dir.path());
    let log = Arc::clone(&devices.log);
    let mut keeper = keeper_of(devices, dir.path());
    let second = command("c", 2, 2_000, vec![lease("n1-gpu0", 450.0)]);
    let first_answer = keeper.command(&second, at(2_000));
    let stale = command("c", 1, 1_000, vec![lease("n1-gpu0", 700.0)]);
    assert_eq!(keeper.command(&stale, at(2_100)), None);
    assert_eq!(keeper.command(&second, at(2_200)), first_answer);
    assert_eq!(log.lock().unwrap().len(), 1);
    // A new controller run counts from one again; a dead one's late message is older.
    let new_run = command("d", 1, 3_000, vec![lease("n1-gpu0", 500.0)]);
    assert!(keeper.command(&new_run, at(3_000)).is_some());
    let late = command("c", 3, 2_500, vec![lease("n1-gpu0", 700.0)]);
    assert_eq!(keeper.command(&late, at(3_100)), None);
    assert_eq!(limit(dir.path(), "n1-gpu0"), 500.0);
    assert_eq!(keeper.stats.ignored, 2);
}

#[test]
fn an_exchanged_device_is_not_restored_and_stays_on_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let entry = r#"[{"device":"n1-gpu0","uuid":"GPU-other","found":650.0}]"#;
    std::fs::write(dir.path().join("found-caps.json"), entry).unwrap();
    let keeper = keeper(dir.path(), true);
    assert_eq!(limit(dir.path(), "n1-gpu0"), 700.0);
    assert_eq!(keeper.stats.restore_failures, 1);
    let left = std::fs::read_to_string(dir.path().join("found-caps.json")).unwrap();
    assert!(left.contains("GPU-other"));
}

#[test]
fn a_list_that_cannot_be_read_stops_the_agent_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("found-caps.json"), "{").unwrap();
    let devices = FileDevices::new(dir.path());
    let Err(error) = CapKeeper::new(
        AgentId::from("n1"),
        true,
        Some(Box::new(devices)),
        dir.path(),
        at(0),
    ) else {
        panic!("started over a broken list");
    };
    assert!(error.to_string().contains("nvidia-smi -pl"), "{error}");
}

#[test]
fn refuses_another_uuid_an_ended_command_and_everything_unless_armed() {
    let dir = tempfile::tempdir().unwrap();
    let mut armed = keeper(dir.path(), true);
    let mut wrong = lease("n1-gpu0", 450.0);
    wrong.uuid = "GPU-other".into();
    let answer = armed
        .command(&command("c", 1, 0, vec![wrong]), at(0))
        .unwrap();
    assert_eq!(applied(&answer), [None]);
    let late = command("c", 2, 0, vec![lease("n1-gpu0", 450.0)]);
    let answer = armed.command(&late, at(930_000)).unwrap();
    assert_eq!(applied(&answer), [None]);
    drop(armed);
    let mut observer = keeper(dir.path(), false);
    let answer = observer
        .command(&command("c", 3, 0, vec![lease("n1-gpu0", 450.0)]), at(0))
        .unwrap();
    match &answer.reports[0].outcome {
        CapOutcome::Refused { reason, current } => {
            assert!(reason.contains("--arm"), "{reason}");
            assert_eq!(*current, Some(Watts(700.0)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(limit(dir.path(), "n1-gpu0"), 700.0);
}

#[test]
fn lowers_before_it_raises() {
    let dir = tempfile::tempdir().unwrap();
    let devices = FileDevices::new(dir.path());
    let log = Arc::clone(&devices.log);
    let mut keeper = keeper_of(devices, dir.path());
    keeper.command(&command("c", 1, 0, vec![lease("n1-gpu0", 300.0)]), at(0));
    log.lock().unwrap().clear();
    let swap = vec![lease("n1-gpu0", 600.0), lease("n1-gpu1", 400.0)];
    keeper.command(&command("c", 2, 1, swap), at(1));
    let order: Vec<String> = log
        .lock()
        .unwrap()
        .iter()
        .map(|(d, _)| d.to_string())
        .collect();
    assert_eq!(order, ["n1-gpu1", "n1-gpu0"]);
}

#[test]
fn a_device_whose_limit_could_not_be_noted_is_not_capped() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(dir.path(), true);
    std::fs::write(dir.path().join("n1-gpu7"), "700").unwrap();
    let answer = keeper
        .command(
            &command(
                "c",
                1,
                0,
                vec![lease("n1-gpu7", 450.0), lease("n1-gpu0", 450.0)],
            ),
            at(0),
        )
        .unwrap();
    assert_eq!(applied(&answer).iter().flatten().count(), 1);
    assert_eq!(limit(dir.path(), "n1-gpu7"), 700.0);
    assert_eq!(limit(dir.path(), "n1-gpu0"), 450.0);
}

#[test]
fn orders_below_the_highest_fence_seen_are_refused_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let order = |controller: &str, fence: u64, sequence: u64, cap: f64| {
        let mut order = command(controller, sequence, 0, vec![lease("n1-gpu0", cap)]);
        order.fence = fence;
        order
    };
    let has = || limit(dir.path(), "n1-gpu0");
    let refused = |answer: Option<CapAnswer>| {
        let answer = answer.unwrap();
        assert_eq!(answer.fence, 7);
        matches!(&answer.reports[0].outcome, CapOutcome::Refused { reason, current }
            if reason.contains("later controller") && *current == Some(Watts(has())))
    };
    let mut first = keeper(dir.path(), true);
    first.command(&order("a", 3, 9, 500.0), at(0)).unwrap();
    // Another controller, whose clock is behind and whose numbers begin anew.
    let mut later = order("b", 7, 1, 400.0);
    later.issued = Timestamp(-60_000);
    let answer = first.command(&later, at(0)).unwrap();
    assert_eq!((answer.fence, has()), (7, 400.0));
    assert!(refused(first.command(&order("a", 3, 10, 600.0), at(1))));
    assert!(refused(first.command(&order("c", 0, 1, 600.0), at(1))));
    assert_eq!((has(), first.stats.ignored), (400.0, 2));
    // Its own next order is not mistaken for an old one.
    first.command(&order("b", 7, 2, 420.0), at(1)).unwrap();
    assert_eq!(has(), 420.0);
    drop(first);
    let mut second = keeper(dir.path(), true);
    assert_eq!((second.fence(), has()), (7, 300.0));
    assert!(refused(second.command(&order("a", 3, 11, 650.0), at(2))));
    assert_eq!(has(), 300.0);
    drop(second);
    // What cannot be understood is not taken for nothing.
    std::fs::write(dir.path().join("control-fence"), "many").unwrap();
    let devices = Box::new(FileDevices::new(dir.path()));
    let agent = AgentId::from("n1");
    let error = CapKeeper::new(agent, true, Some(devices), dir.path(), at(0)).err();
    assert!(error.is_some_and(|e| e.to_string().contains("control-fence")));
}

/// A management controller that is away when the agent starts.
struct Late(FileDevices, Arc<Mutex<bool>>);

impl CapActuator for Late {
    fn devices(&mut self) -> Vec<CappableDevice> {
        match *self.1.lock().unwrap() {
            true => self.0.devices(),
            false => Vec::new(),
        }
    }
    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        self.0.set(device, uuid, cap)
    }
    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        self.0.current(device)
    }
}

#[test]
fn devices_that_come_later_are_told_and_keep_the_limit_to_restore() {
    let dir = tempfile::tempdir().unwrap();
    let crashed = |keeper: CapKeeper| drop(keeper);
    let mut first = keeper(dir.path(), true);
    first.command(&command("c", 1, 0, vec![lease("n1-gpu0", 450.0)]), at(0));
    crashed(first);
    let (there, broken) = (Arc::default(), Arc::default());
    let mut devices = FileDevices::new(dir.path());
    devices.broken = Arc::clone(&broken);
    *broken.lock().unwrap() = Some(DeviceId::from("n1-gpu0"));
    let late = Late(devices, Arc::clone(&there));
    let mut keeper = keeper_of(late, dir.path());
    assert_eq!(keeper.devices(), []);
    *there.lock().unwrap() = true;
    *broken.lock().unwrap() = None;
    let told = keeper.devices();
    // What the first run found, not what it left behind.
    assert_eq!(
        (told.len(), told[0].found, told[0].current),
        (2, Watts(700.0), Watts(450.0))
    );
    keeper.restore();
    assert_eq!(limit(dir.path(), "n1-gpu0"), 700.0);
}

#[test]
fn a_range_that_changes_under_way_is_told_at_once_where_it_matters_and_else_at_the_next_hello() {
    let dir = tempfile::tempdir().unwrap();
    let devices = FileDevices::new(dir.path());
    let range = Arc::clone(&devices.range);
    let mut keeper = keeper_of(devices, dir.path());
    let order = |sequence, cap| command("c", sequence, 0, vec![lease("n1-gpu0", cap)]);
    keeper.command(&order(1, 450.0), at(0));
    *range.lock().unwrap() = (Watts(250.0), Watts(600.0));
    let told = |keeper: &mut CapKeeper| {
        let told = keeper.devices().remove(0);
        (told.min, told.max)
    };
    let version = keeper.foreign_version();
    let answer = keeper.command(&order(2, 650.0), at(0)).unwrap();
    assert_eq!(applied(&answer), [None]);
    assert!(keeper.foreign_version() > version);
    assert_eq!(told(&mut keeper), (Watts(250.0), Watts(600.0)));
    *range.lock().unwrap() = (Watts(200.0), Watts(700.0));
    assert_eq!(told(&mut keeper), (Watts(200.0), Watts(700.0)));
    // What was found is beyond the range now: it stays on the list, and is told.
    *range.lock().unwrap() = (Watts(250.0), Watts(600.0));
    keeper.restore();
    assert_eq!(
        (limit(dir.path(), "n1-gpu0"), keeper.stats.restore_failures),
        (450.0, 1)
    );
    assert!(dir.path().join("found-caps.json").exists());
}

#[test]
fn a_device_that_vanishes_is_not_told_with_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper(dir.path(), true);
    keeper.command(&command("c", 1, 0, vec![lease("n1-gpu0", 450.0)]), at(0));
    let names = |keeper: &mut CapKeeper| -> Vec<String> {
        let devices = keeper.devices().into_iter();
        devices.map(|d| d.device.to_string()).collect()
    };
    let away = |name: &str| {
        let file = dir.path().join(name);
        std::fs::rename(&file, dir.path().join("away")).unwrap();
        move || std::fs::rename(file.with_file_name("away"), &file).unwrap()
    };
    // One that nobody caps: at once. One that is kept: when it counts as unknown.
    let back = away("n1-gpu1");
    assert_eq!(names(&mut keeper), ["n1-gpu0"]);
    back();
    let back = away("n1-gpu0");
    assert_eq!(names(&mut keeper), ["n1-gpu0", "n1-gpu1"]);
    for time in 1..=3 {
        keeper.check(at(time));
    }
    assert_eq!(names(&mut keeper), ["n1-gpu1"]);
    back();
    let answer = keeper.check(at(4)).unwrap();
    assert_eq!(applied(&answer), [Some(450.0)]);
    assert_eq!(names(&mut keeper), ["n1-gpu0", "n1-gpu1"]);
}

/// Devices that are lost right after they took a limit.
struct Vanishing(FileDevices, Arc<Mutex<bool>>);

impl CapActuator for Vanishing {
    fn devices(&mut self) -> Vec<CappableDevice> {
        self.0.devices()
    }
    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        self.0.set(device, uuid, cap)?;
        self.current(device)
    }
    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        match *self.1.lock().unwrap() {
            true => Err(CapError::Lost {
                device: device.clone(),
            }),
            false => self.0.current(device),
        }
    }
}

#[test]
fn a_device_lost_right_after_it_took_a_limit_is_unknown_and_its_lease_ends_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let lost = Arc::new(Mutex::new(false));
    let devices = Vanishing(FileDevices::new(dir.path()), Arc::clone(&lost));
    let mut keeper = keeper_of(devices, dir.path());
    *lost.lock().unwrap() = true;
    let order = command("c", 1, 0, vec![lease("n1-gpu0", 450.0)]);
    let answer = keeper.command(&order, at(0)).unwrap();
    let CapOutcome::Refused { current, .. } = &answer.reports[0].outcome else {
        panic!("{answer:?}");
    };
    assert_eq!((*current, limit(dir.path(), "n1-gpu0")), (None, 450.0));
    assert_eq!(keeper.next_end(), Some(Timestamp(30_000)));
    assert_eq!(applied(&keeper.expire(at(30_000)).unwrap()), [None]);
    *lost.lock().unwrap() = false;
    // Back: nobody else had a hand in it, and the end that was due comes.
    assert_eq!(keeper.check(at(31_000)), None);
    assert_eq!(keeper.foreign().changes, 0);
    assert_eq!(applied(&keeper.expire(at(31_000)).unwrap()), [Some(300.0)]);
    keeper.restore();
    assert_eq!(limit(dir.path(), "n1-gpu0"), 700.0);
}

/// A driver that takes any limit and keeps at least 500 W.
struct Stubborn(FileDevices);

impl CapActuator for Stubborn {
    fn devices(&mut self) -> Vec<CappableDevice> {
        self.0.devices()
    }
    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        self.0.set(device, uuid, cap.max(Watts(500.0)))
    }
    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        self.0.current(device)
    }
}

#[test]
fn a_limit_that_is_taken_and_kept_higher_is_no_cap_applied_and_yet_minded() {
    let dir = tempfile::tempdir().unwrap();
    let mut keeper = keeper_of(Stubborn(FileDevices::new(dir.path())), dir.path());
    let mut asked = |sequence, cap| {
        let order = command("c", sequence, 0, vec![lease("n1-gpu0", cap)]);
        keeper.command(&order, at(0)).unwrap().reports.remove(0)
    };
    let CapOutcome::Refused { reason, current } = asked(1, 450.0).outcome else {
        panic!("more than was allowed counts as applied");
    };
    assert_eq!(current, Some(Watts(500.0)));
    assert!(reason.contains("450 W and keeps 500 W"), "{reason}");
    let readback = Watts(500.0);
    assert_eq!(asked(2, 500.0).outcome, CapOutcome::Applied { readback });
    asked(3, 450.0);
    // Nobody else did that, its lease ends, and it goes back to what was found.
    assert_eq!(keeper.check(at(1)), None);
    assert_eq!(keeper.next_end(), Some(Timestamp(30_000)));
    assert_eq!(applied(&keeper.expire(at(30_000)).unwrap()), [Some(500.0)]);
    keeper.restore();
    assert_eq!(limit(dir.path(), "n1-gpu0"), 700.0);
}

#[test]
fn a_dry_run_answers_what_it_would_do_and_leaves_nothing_to_restore() {
    let dir = tempfile::tempdir().unwrap();
    let inner = FileDevices::new(dir.path());
    let log = Arc::clone(&inner.log);
    let dry = crate::actuate::DryRun::new(Box::new(inner));
    let mut keeper = keeper_of(dry, dir.path());
    let answer = keeper
        .command(&command("c", 1, 0, vec![lease("n1-gpu0", 450.0)]), at(10))
        .unwrap();
    let CapOutcome::Refused { reason, current } = &answer.reports[0].outcome else {
        panic!("a dry run applied a cap: {answer:?}");
    };
    assert!(
        reason.starts_with("dry run: n1-gpu0 would have been set to 450 W"),
        "{reason}"
    );
    assert_eq!(*current, Some(Watts(700.0)));
    assert!(!dir.path().join("found-caps.json").exists());
    // No lease is held, so none ends in a safe cap.
    assert_eq!(keeper.next_end(), None);
    keeper.restore();
    assert_eq!(*log.lock().unwrap(), []);
}
