//! A controller of DCMI's power management behind ipmi-rs' own connection
//! trait, and a session with a simulator that nobody here wrote.

mod controller;
mod lan;
mod over_lan;
mod simulator;

use super::*;
use controller::{Controller, LOG_ONLY, NOTHING, POWER_OFF};
use ipmi_rs::connection::{IpmiConnection, Message, NetFn, Request, Response};
use proptest::prelude::*;
use std::sync::{Arc, Mutex};
use wire::{Trouble, exchange};

/// The controller as a connection of ipmi-rs.
#[derive(Clone)]
struct Fake(Arc<Mutex<Controller>>);

#[derive(Debug)]
struct Never;

impl IpmiConnection for Fake {
    type SendError = Never;
    type RecvError = Never;
    type Error = Never;

    fn send(&mut self, _: &mut Request) -> Result<(), Never> {
        Err(Never)
    }
    fn recv(&mut self) -> Result<Response, Never> {
        Err(Never)
    }
    fn send_recv(&mut self, request: &mut Request) -> Result<Response, Never> {
        let (netfn, command) = (request.netfn_raw(), request.cmd());
        let data = self
            .0
            .lock()
            .unwrap()
            .answer(netfn, command, request.data());
        let message = Message::new_response(NetFn::from(netfn), command, data);
        Response::new(message, 0).ok_or(Never)
    }
}

impl Wire for Fake {
    fn ask(&mut self, ask: &Ask) -> Result<Said, IpmiError> {
        exchange(self, ask).map_err(|e| match e {
            Trouble::Shape(error) => error,
            Trouble::Connection(Never) => panic!("an answer without a completion code"),
        })
    }
}

struct Stage {
    bmc: Arc<Mutex<Controller>>,
    dir: tempfile::TempDir,
}

impl Stage {
    fn new(controller: Controller) -> Self {
        Self {
            bmc: Arc::new(Mutex::new(controller)),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self) -> IpmiActuator {
        let address = IpmiAddress::new("/nonexistent");
        let range = (Watts(800.0), Watts(9_000.0));
        let node = NodeId::from("n1");
        let mut actuator =
            IpmiActuator::new(&address, None, &node, range, self.dir.path()).unwrap();
        actuator.wire = Box::new(Fake(Arc::clone(&self.bmc)));
        actuator.pause = Duration::ZERO;
        actuator
    }

    fn bmc<T>(&self, work: impl FnOnce(&mut Controller) -> T) -> T {
        work(&mut self.bmc.lock().unwrap())
    }

    fn is_clean(&self) -> bool {
        std::fs::read_dir(self.dir.path()).unwrap().count() == 0
    }
}

const GUID: &str = "IPMI-0102030405060708090a0b0c0d0e0f10";

fn node() -> DeviceId {
    DeviceId::from("n1")
}

#[test]
fn a_limit_in_force_is_changed_and_goes_back_with_all_that_belongs_to_it() {
    let stage = Stage::new(Controller::new());
    let mut actuator = stage.open();
    let found = actuator.devices().remove(0);
    assert_eq!(
        (
            found.device.clone(),
            found.uuid.as_str(),
            found.product.as_str()
        ),
        (node(), GUID, "BMC 4753/3842")
    );
    assert_eq!((found.found, found.max), (Watts(6_000.0), Watts(9_000.0)));
    assert_eq!(
        actuator.set(&node(), GUID, Watts(4_200.9)),
        Ok(Watts(4_200.0))
    );
    let kept = stage.bmc(|b| b.limit);
    assert_eq!(
        (kept.action, kept.correction_ms, kept.sampling_s),
        (LOG_ONLY, 6_000, 20)
    );
    assert_eq!(actuator.current(&node()), Ok(Watts(4_200.0)));
    assert_eq!(
        actuator.set(&node(), GUID, Watts(6_000.0)),
        Ok(Watts(6_000.0))
    );
    assert!(stage.is_clean());
    let reading = actuator.reading().unwrap();
    assert_eq!(
        (reading.watts, reading.average, reading.active),
        (894, 893, true)
    );
}

#[test]
fn a_limit_that_was_off_is_off_again_also_after_a_crash() {
    for tells_inactive in [true, false] {
        let mut controller = Controller::off();
        controller.tells_inactive = tells_inactive;
        let stage = Stage::new(controller);
        let mut actuator = stage.open();
        let found = actuator.devices().remove(0).found;
        assert_eq!(found, Watts(9_000.0));
        // As high as that while off: nothing to do.
        assert_eq!(actuator.set(&node(), GUID, found), Ok(found));
        assert!(stage.bmc(|b| !b.log.contains(&0x04)));
        assert_eq!(
            actuator.set(&node(), GUID, Watts(4_000.0)),
            Ok(Watts(4_000.0))
        );
        // What had been "power off" while it did not count is nothing now.
        let limit = stage.bmc(|b| b.limit);
        assert_eq!((stage.bmc(|b| b.active), limit.action), (true, NOTHING));
        assert!(limit.correction_ms > 0 && limit.sampling_s > 0);
        drop(actuator);
        let mut actuator = stage.open();
        assert_eq!(actuator.set(&node(), GUID, found), Ok(found));
        assert!(!stage.bmc(|b| b.active) && stage.is_clean());
    }
}

#[test]
fn no_limit_that_powers_off_is_ever_touched_or_left_behind() {
    let mut controller = Controller::new();
    controller.limit.action = POWER_OFF;
    let stage = Stage::new(controller);
    let mut actuator = stage.open();
    let refused = Err(CapError::PowersOff { device: node() });
    assert_eq!(actuator.set(&node(), GUID, Watts(4_000.0)), refused);
    assert_eq!(actuator.devices(), []);
    assert!(stage.bmc(|b| !b.log.contains(&0x04)));
    // One that keeps the action whatever is set.
    let mut controller = Controller::off();
    controller.stubborn = true;
    let stage = Stage::new(controller);
    assert_eq!(stage.open().set(&node(), GUID, Watts(4_000.0)), refused);
    assert!(!stage.bmc(|b| b.active) && stage.is_clean());
}

#[test]
fn another_node_and_a_cap_out_of_range_are_refused_unwritten() {
    let stage = Stage::new(Controller::new());
    let mut actuator = stage.open();
    let wrong = actuator.set(&node(), "IPMI-someone", Watts(4_000.0));
    assert!(
        matches!(wrong, Err(CapError::WrongDevice { .. })),
        "{wrong:?}"
    );
    for cap in [799.0, 9_001.0, f64::NAN] {
        let refused = actuator.set(&node(), GUID, Watts(cap));
        assert!(
            matches!(refused, Err(CapError::OutOfRange { .. })),
            "{refused:?}"
        );
    }
    let unknown = actuator.set(&"n2".into(), GUID, Watts(4_000.0));
    assert_eq!(unknown, Err(CapError::UnknownDevice("n2".into())));
    assert!(stage.bmc(|b| !b.log.contains(&0x04)));
    // What the controller itself does not take.
    stage.bmc(|b| b.takes = (2_000, 10_000));
    let refused = error(actuator.set(&node(), GUID, Watts(1_000.0)));
    assert!(
        matches!(refused, IpmiError::Refused { code: 0x84, .. }),
        "{refused}"
    );
    assert_eq!(actuator.current(&node()), Ok(Watts(6_000.0)));
}

fn error(outcome: Result<Watts, CapError>) -> IpmiError {
    match outcome {
        Err(CapError::Ipmi { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn completion_codes_come_out_as_errors_and_busy_ones_are_asked_again() {
    let stage = Stage::new(Controller::new());
    let mut actuator = stage.open();
    let mut cap = 4_000.0;
    let mut with = |codes: &[(u8, u8)]| {
        stage.bmc(|b| b.codes = codes.to_vec());
        // Another each time: what is in force is not written again.
        cap += 1.0;
        actuator.set(&node(), GUID, Watts(cap))
    };
    assert_eq!(with(&[(0x04, 0xc0), (0x04, 0xc3)]), Ok(Watts(4_001.0)));
    let busy = error(with(&[(0x04, 0xc0); 3]));
    assert!(matches!(busy, IpmiError::Busy { code: 0xc0, .. }), "{busy}");
    let missing = error(with(&[(0x03, 0xc1)]));
    assert!(
        matches!(missing, IpmiError::NotImplemented { code: 0xc1, .. }),
        "{missing}"
    );
    assert!(matches!(
        error(with(&[(0x04, 0xd4)])),
        IpmiError::NoPrivilege { .. }
    ));
    assert!(matches!(
        error(with(&[(0x04, 0x89)])),
        IpmiError::Refused { .. }
    ));
    // Success, and nothing behind it.
    assert!(matches!(
        error(with(&[(0x04, 0x00)])),
        IpmiError::Shape { .. }
    ));
    assert!(matches!(
        error(with(&[(0x03, 0x00)])),
        IpmiError::Shape { .. }
    ));
}

#[test]
fn a_controller_without_a_guid_is_known_by_its_product() {
    for guid in [vec![0; 16], vec![0xff; 16], vec![1; 3]] {
        let mut controller = Controller::new();
        controller.guid = guid;
        let stage = Stage::new(controller);
        assert_eq!(stage.open().devices()[0].uuid, "IPMI-4753-3842");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is set and however often the agent dies: what is in force is
    /// never above what was asked, never powers the node off, and at the end the
    /// controller is as it was found.
    #[test]
    fn all_goes_back_to_what_was_found(
        active: bool,
        tells_inactive: bool,
        watts in 500u16..10_000,
        steps in prop::collection::vec((800.0..9_000f64, any::<bool>()), 0..8),
    ) {
        let mut controller = if active { Controller::new() } else { Controller::off() };
        controller.limit.watts = watts;
        controller.tells_inactive = tells_inactive;
        let before = controller.limit;
        let stage = Stage::new(controller);
        let mut actuator = stage.open();
        let found = actuator.devices().remove(0).found;
        for (cap, dies) in steps {
            let has = actuator.set(&node(), GUID, Watts(cap)).unwrap();
            prop_assert!(has.get() <= cap && has.get() > cap - 1.0);
            let (active, action) = stage.bmc(|b| (b.active, b.limit.action));
            prop_assert!(active && action != POWER_OFF);
            if dies {
                actuator = stage.open();
            }
        }
        prop_assert_eq!(actuator.set(&node(), GUID, found), Ok(found));
        prop_assert!(stage.is_clean());
        stage.bmc(|b| {
            prop_assert_eq!(b.active, active);
            if active {
                prop_assert_eq!(b.limit, before);
            }
            Ok(())
        })?;
    }
}
