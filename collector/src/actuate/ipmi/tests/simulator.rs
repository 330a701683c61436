//! OpenIPMI's simulator of a management controller: RMCP+ is real there, and
//! DCMI is not implemented.

#[path = "../../../../../tests/support/peers.rs"]
mod peers;

use super::*;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Simulator {
    child: Child,
    port: u16,
}

impl Drop for Simulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(directory: &Path) -> Option<Simulator> {
    // Bound and let go of: the simulator takes a number, not a socket.
    let port = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = directory.join("lan.conf");
    let text = format!(
        "name \"heliostat\"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {port}\n    priv_limit admin\n    allowed_auths_admin none md5\n    guid a123456789abcdefa123456789abcdef\n  endlan\n  user 2 true \"ops\" \"hunter2\" admin 10 none md5\n"
    );
    std::fs::write(&config, text).unwrap();
    let commands = directory.join("bmc.emu");
    // Manufacturer 0x1291, product 0x0f02.
    std::fs::write(
        &commands,
        "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nmc_enable 0x20\n",
    )
    .unwrap();
    let state = directory.join("state");
    std::fs::create_dir(&state).unwrap();
    let child = Command::new("ipmi_sim")
        .args(["-n", "-p"])
        .arg("-c")
        .arg(&config)
        .arg("-f")
        .arg(&commands)
        .arg("-s")
        .arg(&state)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    child.ok().map(|child| Simulator { child, port })
}

pub(super) fn skipped(tool: &str) {
    peers::skip(tool, "it does not start");
}

fn credentials(password: &str) -> Option<BmcCredentials> {
    Some(BmcCredentials {
        user: "ops".into(),
        password: password.into(),
    })
}

/// Asks until the simulator listens.
fn device_id(lan: &mut Lan) -> Result<Said, IpmiError> {
    let ask = Ask {
        name: "Get Device ID",
        netfn: 0x06,
        command: 0x01,
        data: Vec::new(),
    };
    let mut outcome = lan.ask(&ask);
    for _ in 0..50 {
        if !matches!(outcome, Err(IpmiError::Away { .. })) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
        outcome = lan.ask(&ask);
    }
    outcome
}

#[test]
fn a_session_opens_and_dcmi_is_refused_as_not_implemented() {
    let dir = tempfile::tempdir().unwrap();
    let Some(simulator) = start(dir.path()) else {
        return skipped("ipmi_sim");
    };
    let address = format!("127.0.0.1:{}", simulator.port);
    let mut lan = Lan::new(&address, credentials("hunter2"));
    let said = device_id(&mut lan).unwrap();
    let id = ipmi_rs::app::DeviceId::from_data(&said.data).unwrap();
    assert_eq!(
        (said.code, id.manufacturer_id, id.product_id),
        (0, 0x1291, 0x0f02)
    );
    let range = (Watts(800.0), Watts(9_000.0));
    let mut actuator = IpmiActuator::new(
        &IpmiAddress::new(&address),
        credentials("hunter2"),
        &NodeId::from("n1"),
        range,
        dir.path(),
    )
    .unwrap();
    let missing = error(actuator.current(&node()));
    assert_eq!(
        missing,
        IpmiError::NotImplemented {
            command: "Get Power Limit",
            code: 0xc1
        }
    );
    assert_eq!(actuator.devices(), []);
    let reading = actuator.reading().unwrap_err();
    assert!(
        matches!(reading, IpmiError::NotImplemented { .. }),
        "{reading}"
    );
    let mut wrong = Lan::new(&address, credentials("guess"));
    let refused = device_id(&mut wrong).unwrap_err();
    assert!(
        matches!(refused, IpmiError::Unauthorised { .. }),
        "{refused}"
    );
    assert!(!refused.to_string().contains("guess"));
}

#[test]
fn a_simulator_that_is_killed_and_comes_back_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut simulator) = start(dir.path()) else {
        return skipped("ipmi_sim");
    };
    let address = format!("127.0.0.1:{}", simulator.port);
    let mut lan = Lan::new(&address, credentials("hunter2"));
    device_id(&mut lan).unwrap();
    simulator.child.kill().unwrap();
    simulator.child.wait().unwrap();
    let ask = Ask {
        name: "Get Device ID",
        netfn: 0x06,
        command: 0x01,
        data: Vec::new(),
    };
    let gone = lan.ask(&ask).unwrap_err();
    assert!(matches!(gone, IpmiError::Away { .. }), "{gone}");
    let again = Command::new("ipmi_sim")
        .args(["-n", "-p", "-c"])
        .arg(dir.path().join("lan.conf"))
        .arg("-f")
        .arg(dir.path().join("bmc.emu"))
        .arg("-s")
        .arg(dir.path().join("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    simulator.child = again.unwrap();
    assert_eq!(device_id(&mut lan).unwrap().code, 0);
}
