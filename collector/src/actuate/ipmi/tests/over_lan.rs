//! The actuator over the network, against a controller of this house that a foreign
//! tool understands too.

use super::lan::{self, Lan as Bmc};
use super::*;
use crate::actuate::heard::hear;
use std::process::Command;

struct Net {
    bmc: Bmc,
    dir: tempfile::TempDir,
}

impl Net {
    fn new(controller: Controller) -> Self {
        Self {
            bmc: Bmc::start(controller),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn open_as(&self, user: &str, password: &str) -> IpmiActuator {
        let credentials = BmcCredentials {
            user: user.into(),
            password: password.into(),
        };
        let address = IpmiAddress::new(&format!("127.0.0.1:{}", self.bmc.port));
        let range = (Watts(800.0), Watts(9_000.0));
        let node = NodeId::from("n1");
        IpmiActuator::new(&address, Some(credentials), &node, range, self.dir.path()).unwrap()
    }

    fn open(&self) -> IpmiActuator {
        self.open_as(lan::USER, lan::PASSWORD)
    }

    fn has(&self) -> Option<u16> {
        self.bmc.edit(|b| b.controller.in_force())
    }
}

#[test]
fn a_limit_is_found_set_and_switched_off_again_in_a_real_session() {
    let net = Net::new(Controller::off());
    let mut actuator = net.open();
    let found = actuator.devices().remove(0);
    assert_eq!((found.uuid.as_str(), found.found), (GUID, Watts(9_000.0)));
    assert_eq!(
        actuator.set(&node(), GUID, Watts(4_000.7)),
        Ok(Watts(4_000.0))
    );
    assert_eq!(net.has(), Some(4_000));
    assert_eq!(actuator.set(&node(), GUID, found.found), Ok(found.found));
    assert_eq!(net.has(), None);
    assert_eq!(net.bmc.edit(|b| b.opened), 1, "one session for all of it");
}

#[test]
fn a_controller_that_starts_anew_is_spoken_to_again() {
    let net = Net::new(Controller::new());
    let mut actuator = net.open();
    actuator.set(&node(), GUID, Watts(4_000.0)).unwrap();
    net.bmc.reboot();
    assert_eq!(actuator.current(&node()), Ok(Watts(4_000.0)));
    assert_eq!(net.bmc.edit(|b| b.opened), 2);
}

#[test]
fn who_is_not_let_in_or_may_not_set_is_told_so_without_a_secret() {
    let net = Net::new(Controller::new());
    for (user, password) in [(lan::USER, "swordfish"), ("nobody", lan::PASSWORD)] {
        let mut actuator = net.open_as(user, password);
        let (refused, log) = hear(|| error(actuator.current(&node())));
        assert!(
            matches!(refused, IpmiError::Unauthorised { .. }),
            "{refused}"
        );
        let text = format!("{refused} {refused:?}");
        assert!(text.contains("user and password of the BMC"), "{text}");
        assert!(!text.contains(password), "{text}");
        // It is not asked until the account is locked.
        let asked = net.bmc.edit(|b| b.opened);
        let (devices, told) = hear(|| actuator.devices());
        assert_eq!(devices, []);
        assert!(told.contains("user and password of the BMC"), "{told}");
        assert!(!(log + &told).contains(password));
        assert_eq!(net.bmc.edit(|b| b.opened), asked);
    }
    // What no controller takes is not sent to it.
    let asked = net.bmc.edit(|b| b.opened);
    let refused = error(net.open_as(lan::USER, &"x".repeat(21)).current(&node()));
    assert!(
        refused.to_string().contains("at most 20 bytes"),
        "{refused}"
    );
    assert_eq!(net.bmc.edit(|b| b.opened), asked);
    // A mere user reads, and learns what is missing when it sets.
    net.bmc.edit(|b| b.most = 2);
    let mut actuator = net.open();
    assert_eq!(actuator.current(&node()), Ok(Watts(6_000.0)));
    let refused = error(actuator.set(&node(), GUID, Watts(4_000.0)));
    assert!(
        refused.to_string().contains("privilege Operator"),
        "{refused}"
    );
    assert_eq!(net.has(), Some(6_000));
    net.bmc.edit(|b| b.most = 3);
    assert_eq!(
        net.open().set(&node(), GUID, Watts(4_000.0)),
        Ok(Watts(4_000.0))
    );
}

#[test]
fn a_controller_with_steps_of_its_own_keeps_no_more_than_was_asked() {
    let net = Net::new(Controller::new());
    net.bmc
        .edit(|b| b.controller.rounds = |watts| watts.div_ceil(25) * 25);
    let mut actuator = net.open();
    assert_eq!(
        actuator.set(&node(), GUID, Watts(4_010.0)),
        Ok(Watts(4_000.0))
    );
    let writes = || {
        let log = net.bmc.edit(|b| b.controller.log.clone());
        log.iter().filter(|c| **c == controller::SET).count()
    };
    let before = writes();
    // A lease renewed writes nothing, and other caps are asked for as they are kept.
    assert_eq!(
        actuator.set(&node(), GUID, Watts(4_010.4)),
        Ok(Watts(4_000.0))
    );
    assert_eq!(writes(), before);
    assert_eq!(
        actuator.set(&node(), GUID, Watts(5_099.0)),
        Ok(Watts(5_075.0))
    );
    assert_eq!(writes(), before + 1);
    // What was found goes back exactly.
    assert_eq!(
        actuator.set(&node(), GUID, Watts(6_000.0)),
        Ok(Watts(6_000.0))
    );
    assert!(std::fs::read_dir(net.dir.path()).unwrap().next().is_none());
}

#[test]
fn a_controller_with_no_room_for_a_session_is_no_wrong_password() {
    let net = Net::new(Controller::new());
    let mut actuator = net.open();
    net.bmc.edit(|b| b.full = true);
    let away = error(actuator.current(&node()));
    assert!(matches!(away, IpmiError::Away { .. }), "{away}");
    net.bmc.edit(|b| b.full = false);
    assert_eq!(actuator.current(&node()), Ok(Watts(6_000.0)));
}

/// The library behind it panics at such; the agent's caps must not end with that.
#[test]
fn nonsense_in_a_login_is_an_error_and_the_next_login_is_tried() {
    let net = Net::new(Controller::new());
    let mut actuator = net.open();
    for nonsense in [
        vec![],
        vec![0x0a],
        vec![0x0a, 0, 0, 0, 9, 9, 9, 9],
        vec![0xff; 300],
    ] {
        net.bmc.edit(|b| b.last_step = Some(nonsense.clone()));
        let refused = error(actuator.current(&node()));
        assert!(
            matches!(
                refused,
                IpmiError::Away { .. } | IpmiError::Unauthorised { .. }
            ),
            "{refused}"
        );
    }
    net.bmc.edit(|b| b.last_step = None);
    assert_eq!(actuator.current(&node()), Ok(Watts(6_000.0)));
}

#[test]
fn what_a_foreign_tool_sees_is_what_was_set() {
    let net = Net::new(Controller::off());
    let tool = |words: &[&str]| {
        let port = net.bmc.port.to_string();
        Command::new("ipmitool")
            .args(["-I", "lanplus", "-H", "127.0.0.1", "-p", &port, "-C", "3"])
            .args(["-U", lan::USER, "-P", lan::PASSWORD, "-R", "1", "-N", "3"])
            .args(["dcmi", "power"])
            .args(words)
            .output()
    };
    let Ok(before) = tool(&["get_limit"]) else {
        return simulator::skipped("ipmitool");
    };
    let text = String::from_utf8_lossy(&before.stdout).into_owned();
    assert!(
        text.contains("Deactivated") || text.contains("No Active"),
        "{text}"
    );
    let mut actuator = net.open();
    actuator.set(&node(), GUID, Watts(4_321.0)).unwrap();
    let after = tool(&["get_limit"]).unwrap();
    let text = String::from_utf8_lossy(&after.stdout).into_owned();
    assert!(text.contains("4321"), "{text} {after:?}");
    // And the other way round.
    let set = tool(&["set_limit", "limit", "3456"]).unwrap();
    assert!(set.status.success(), "{set:?}");
    assert_eq!(actuator.current(&node()), Ok(Watts(3_456.0)));
}
