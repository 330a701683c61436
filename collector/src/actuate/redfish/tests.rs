mod changes;
mod recorded;
mod server;

use super::*;
use crate::actuate::heard::hear;
use proptest::prelude::*;
use serde_json::json;
use server::{Answer, Fault, Server, Tree, hgx};

const BOARD: &str = "/redfish/v1/Systems/HGX_Baseboard_0/Processors";
const NODE_LIMIT: &str = "/redfish/v1/Chassis/Node0/Controls/NodePowerLimit";
const UUID: &str = "aaaaaaaa-0000-0000-0000-000000000001";
const NODE_UUID: &str = "11111111-2222-3333-4444-555555555555";
const NODE_RANGE: (Watts, Watts) = (Watts(800.0), Watts(6_000.0));

fn credentials() -> Option<BmcCredentials> {
    Some(BmcCredentials {
        user: server::USER.into(),
        password: server::PASSWORD.into(),
    })
}

/// The server, the agent's folder, and an actuator over both.
struct Stage {
    server: Server,
    dir: tempfile::TempDir,
}

impl Stage {
    fn new(tree: Tree) -> Self {
        Self {
            server: Server::start(tree),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn open(&self, scope: Scope) -> RedfishActuator {
        self.open_as(scope, credentials(), None)
    }

    fn open_as(
        &self,
        scope: Scope,
        credentials: Option<BmcCredentials>,
        system: Option<&str>,
    ) -> RedfishActuator {
        let address = BmcAddress::new(&self.server.base, None).unwrap();
        let node = NodeId::from("n1");
        let system = system.map(str::to_owned);
        let mut actuator = RedfishActuator::new(
            &address,
            credentials.clone(),
            &node,
            system,
            scope,
            self.dir.path(),
        )
        .unwrap();
        actuator.bmc = Bmc::new(&address, credentials).unwrap().without_waits();
        actuator
    }

    fn gpus(&self) -> RedfishActuator {
        self.open(Scope::Gpus {
            names: BTreeMap::new(),
        })
    }

    fn node(&self) -> RedfishActuator {
        self.open(Scope::Node { range: NODE_RANGE })
    }

    fn value(&self, path: &str, at: &str) -> Value {
        self.server
            .edit(|tree| tree.resources[path].pointer(at).cloned().unwrap())
    }

    fn fault(&self, method: &'static str, at: &'static str, answer: Answer) {
        let fault = Fault { method, at, answer };
        self.server.edit(|tree| tree.faults.push(fault));
    }

    fn patches(&self) -> usize {
        self.server.edit(|tree| tree.patches().len())
    }
}

fn gpu(n: usize) -> DeviceId {
    DeviceId::from(format!("n1-gpu{n}"))
}

fn metrics(gpu: &str) -> String {
    format!("{BOARD}/{gpu}/EnvironmentMetrics")
}

#[test]
fn gpus_are_found_in_the_order_of_their_numbers() {
    let stage = Stage::new(hgx());
    let devices = stage.gpus().devices();
    let seen: Vec<(&str, &str)> = (devices.iter())
        .map(|d| (d.device.as_str(), &d.uuid[d.uuid.len() - 2..]))
        .collect();
    assert_eq!(
        seen,
        [
            ("n1-gpu0", "01"),
            ("n1-gpu1", "02"),
            ("n1-gpu2", "03"),
            ("n1-gpu3", "10")
        ]
    );
    let first = &devices[0];
    assert_eq!(
        (first.uuid.as_str(), first.product.as_str()),
        (UUID, "NVIDIA H200")
    );
    assert_eq!(
        (first.min, first.max, first.current),
        (Watts(200.0), Watts(700.0), Watts(700.0))
    );
}

#[test]
fn the_drivers_names_go_with_the_uuid_not_with_the_order() {
    let stage = Stage::new(hgx());
    let names = BTreeMap::from([
        (
            plain_uuid("GPU-AAAAAAAA-0000-0000-0000-000000000010"),
            gpu(0),
        ),
        (plain_uuid(&format!("GPU-{UUID}")), gpu(7)),
    ]);
    let mut actuator = stage.open(Scope::Gpus { names });
    let names: Vec<DeviceId> = actuator.devices().into_iter().map(|d| d.device).collect();
    assert_eq!(names, [gpu(7), gpu(0)]);
    assert_eq!(actuator.set(&gpu(7), UUID, Watts(400.0)), Ok(Watts(400.0)));
    assert_eq!(
        stage.value(&metrics("GPU_SXM_1"), "/PowerLimitWatts/SetPoint"),
        400
    );
}

#[test]
fn a_limit_is_set_with_the_etag_and_read_back() {
    let stage = Stage::new(hgx());
    let mut actuator = stage.gpus();
    assert_eq!(
        actuator.set(&gpu(1), &UUID.replace("001", "002"), Watts(450.7)),
        Ok(Watts(450.0))
    );
    assert_eq!(actuator.current(&gpu(1)), Ok(Watts(450.0)));
    let patches = stage.server.edit(|tree| tree.patches());
    let change = json!({"PowerLimitWatts": {"SetPoint": 450}});
    assert_eq!(patches, [(metrics("GPU_SXM_2"), change)]);
    // The session is given back at the end.
    assert_eq!(
        stage.server.edit(|tree| (tree.logins, tree.sessions.len())),
        (1, 1)
    );
    drop(actuator);
    assert!(stage.server.edit(|tree| tree.sessions.is_empty()));
}

#[test]
fn a_connection_is_kept_and_one_that_was_closed_in_the_meantime_is_made_anew() {
    for closes in [false, true] {
        let mut tree = hgx();
        tree.closes = closes;
        let stage = Stage::new(tree);
        let mut actuator = stage.gpus();
        for cap in [400.0, 500.0, 600.0] {
            assert_eq!(actuator.set(&gpu(0), UUID, Watts(cap)), Ok(Watts(cap)));
        }
        let (requests, connections) = stage.server.edit(|t| (t.log.len(), t.connections));
        assert!(requests > 12, "{requests}");
        assert_eq!(
            connections == 1,
            !closes,
            "{connections} for {requests} requests"
        );
        assert_eq!(stage.patches(), 3);
    }
}

#[test]
fn another_gpu_and_a_cap_out_of_range_are_refused_unwritten() {
    let stage = Stage::new(hgx());
    let mut actuator = stage.gpus();
    assert!(matches!(
        actuator.set(&gpu(0), "someone-else", Watts(400.0)),
        Err(CapError::WrongDevice { .. })
    ));
    for cap in [199.0, 701.0, f64::NAN] {
        assert!(matches!(
            actuator.set(&gpu(0), UUID, Watts(cap)),
            Err(CapError::OutOfRange { .. })
        ));
    }
    assert_eq!(
        actuator.set(&gpu(9), UUID, Watts(400.0)),
        Err(CapError::UnknownDevice(gpu(9)))
    );
    // Exchanged while the agent runs.
    let path = format!("{BOARD}/GPU_SXM_1");
    stage
        .server
        .edit(|tree| tree.touch(&path, "/UUID", json!("bbbbbbbb-0")));
    assert!(matches!(
        actuator.set(&gpu(0), UUID, Watts(400.0)),
        Err(CapError::WrongDevice { .. })
    ));
    assert_eq!(stage.patches(), 0);
}

#[test]
fn a_limit_that_was_off_is_switched_on_and_off_again_also_after_a_crash() {
    let stage = Stage::new(hgx());
    let mut actuator = stage.node();
    let node = DeviceId::from("n1");
    let found = actuator.devices().remove(0);
    // Off counts as the highest limit.
    assert_eq!(
        (
            found.device.clone(),
            found.uuid.as_str(),
            found.min,
            found.max,
            found.found
        ),
        (
            node.clone(),
            NODE_UUID,
            Watts(764.0),
            Watts(2_754.0),
            Watts(2_754.0)
        )
    );
    // As high as that while off: nothing to do.
    assert_eq!(actuator.set(&node, NODE_UUID, found.max), Ok(found.max));
    assert_eq!(stage.patches(), 0);
    assert_eq!(
        actuator.set(&node, NODE_UUID, Watts(2_000.0)),
        Ok(Watts(2_000.0))
    );
    assert_eq!(stage.value(NODE_LIMIT, "/ControlMode"), "Automatic");
    // A crash: the next run knows only what is on disk.
    std::mem::forget(actuator);
    let mut actuator = stage.node();
    assert_eq!(actuator.current(&node), Ok(Watts(2_000.0)));
    assert_eq!(actuator.set(&node, NODE_UUID, found.found), Ok(found.found));
    assert_eq!(stage.value(NODE_LIMIT, "/ControlMode"), "Disabled");
    assert_eq!(std::fs::read_dir(stage.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_limit_outside_the_sites_range_is_restored_all_the_same() {
    let stage = Stage::new(power_control(json!(348), "LogEventOnly"));
    let mut actuator = stage.node();
    let node = DeviceId::from("n1");
    let found = actuator.devices().remove(0);
    assert_eq!((found.min, found.found), (Watts(800.0), Watts(348.0)));
    let low = actuator.set(&node, &found.uuid, Watts(347.0));
    assert!(matches!(low, Err(CapError::OutOfRange { .. })), "{low:?}");
    assert_eq!(
        actuator.set(&node, &found.uuid, Watts(5_000.0)),
        Ok(Watts(5_000.0))
    );
    assert_eq!(
        actuator.set(&node, &found.uuid, Watts(348.0)),
        Ok(Watts(348.0))
    );
    assert_eq!(std::fs::read_dir(stage.dir.path()).unwrap().count(), 0);
}

/// A node whose limit is told in the older way.
fn power_control(watts: Value, exception: &str) -> Tree {
    let mut tree = hgx();
    let power = "/redfish/v1/Chassis/Node0/Power";
    let limit = json!({"LimitInWatts": watts, "LimitException": exception});
    tree.resources.insert(
        power.to_owned(),
        json!({"PowerControl": [{"MemberId": "0"}, {"PowerLimit": limit}]}),
    );
    let chassis = tree.resources.get_mut("/redfish/v1/Chassis/Node0").unwrap();
    chassis["Controls"] = json!({"@odata.id": "/redfish/v1/Chassis/Node0/Gone"});
    chassis["Power"] = json!({"@odata.id": power});
    tree
}

#[test]
fn a_limit_that_powers_the_node_off_is_left_alone() {
    let stage = Stage::new(power_control(json!(5_000), "HardPowerOff"));
    let mut actuator = stage.node();
    let node = DeviceId::from("n1");
    assert_eq!(actuator.devices(), []);
    let refused = CapError::PowersOff {
        device: node.clone(),
    };
    assert_eq!(
        actuator.set(&node, NODE_UUID, Watts(4_000.0)),
        Err(refused.clone())
    );
    assert_eq!(stage.patches(), 0);
    // Off, it does no harm; switched on, it is told to do none.
    let stage = Stage::new(power_control(Value::Null, "HardPowerOff"));
    let mut actuator = stage.node();
    assert_eq!(
        actuator.set(&node, NODE_UUID, Watts(4_000.0)),
        Ok(Watts(4_000.0))
    );
    let (power, at) = (
        "/redfish/v1/Chassis/Node0/Power",
        "/PowerControl/1/PowerLimit",
    );
    assert_eq!(
        stage.value(power, &format!("{at}/LimitException")),
        "NoAction"
    );
    assert_eq!(
        actuator.set(&node, NODE_UUID, NODE_RANGE.1),
        Ok(NODE_RANGE.1)
    );
    assert_eq!(
        stage.value(power, &format!("{at}/LimitInWatts")),
        Value::Null
    );
    // A controller that keeps its exception: the limit is off again at once.
    let mut tree = power_control(Value::Null, "HardPowerOff");
    tree.whim = Some(Box::new(|power| {
        power["PowerControl"][1]["PowerLimit"]["LimitException"] = json!("HardPowerOff");
    }));
    let stage = Stage::new(tree);
    let mut actuator = stage.node();
    assert_eq!(actuator.set(&node, NODE_UUID, Watts(4_000.0)), Err(refused));
    assert_eq!(
        stage.value(power, &format!("{at}/LimitInWatts")),
        Value::Null
    );
    assert_eq!(std::fs::read_dir(stage.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_mode_that_enforces_nothing_is_told() {
    let stage = Stage::new(hgx());
    let path = metrics("GPU_SXM_1");
    stage
        .server
        .edit(|tree| tree.touch(&path, "/PowerLimitWatts/ControlMode", json!("Manual")));
    let mut actuator = stage.gpus();
    let refused = actuator.set(&gpu(0), UUID, Watts(400.0));
    assert_eq!(
        refused,
        Err(CapError::NotEnforced {
            device: gpu(0),
            mode: "Manual".into()
        })
    );
    assert_eq!((stage.patches(), actuator.devices().len()), (0, 3));
}

fn error(outcome: Result<Watts, CapError>) -> RedfishError {
    match outcome {
        Err(CapError::Redfish { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_refusal_is_told_apart() {
    let stage = Stage::new(hgx());
    let mut actuator = stage.gpus();
    actuator.devices();
    let mut cap = 400.0;
    let mut after = |status: u16, headers: &'static str, times: usize| {
        for _ in 0..times {
            stage.fault("PATCH", "GPU_SXM_1", Answer::Status(status, headers));
        }
        // Another each time: what is in force is not written again.
        cap += 1.0;
        actuator.set(&gpu(0), UUID, Watts(cap))
    };
    // A session that ran out, and a controller that is busy for a moment.
    assert_eq!(after(401, "", 1), Ok(Watts(401.0)));
    assert_eq!(after(503, "Retry-After: 30\r\n", 1), Ok(Watts(402.0)));
    let busy = error(after(503, "Retry-After: 30\r\n", 2));
    assert!(
        busy.to_string().ends_with("it asks to come again in 30 s"),
        "{busy}"
    );
    assert!(matches!(
        error(after(401, "", 2)),
        RedfishError::Unauthorised { .. }
    ));
    assert!(matches!(
        error(after(403, "", 1)),
        RedfishError::Forbidden { .. }
    ));
    assert!(matches!(
        error(after(404, "", 1)),
        RedfishError::NotFound { .. }
    ));
    assert!(matches!(
        error(after(405, "", 1)),
        RedfishError::NotWritable { .. }
    ));
    // Not followed: the token would go along.
    let moved = error(after(308, "Location: http://127.0.0.1:1/\r\n", 1));
    assert!(
        matches!(moved, RedfishError::Status { status: 308, .. }),
        "{moved}"
    );
    assert!(matches!(
        error(after(500, "", 1)),
        RedfishError::Status { status: 500, .. }
    ));
}

#[test]
fn bodies_that_are_no_resources_are_told_apart() {
    let stage = Stage::new(hgx());
    let mut actuator = stage.gpus();
    actuator.devices();
    let mut with = |body: &[u8]| {
        stage.fault(
            "GET",
            "GPU_SXM_1/EnvironmentMetrics",
            Answer::Body(body.to_vec()),
        );
        actuator.current(&gpu(0))
    };
    assert!(matches!(
        error(with(b"{\"PowerLimitWatts\": {")),
        RedfishError::NotJson { .. }
    ));
    assert!(matches!(error(with(b"")), RedfishError::NotJson { .. }));
    assert!(matches!(
        error(with(b"\xff\xfe")),
        RedfishError::NotJson { .. }
    ));
    let long = vec![b' '; (4 << 20) + 1];
    assert!(matches!(error(with(&long)), RedfishError::TooLong { .. }));
    let none = CapError::NotSupported { device: gpu(0) };
    assert_eq!(with(b"[]"), Err(none));
}

#[test]
fn users_are_known_by_session_or_with_each_request() {
    let mut tree = hgx();
    tree.basic = true;
    let stage = Stage::new(tree);
    assert_eq!(
        stage.gpus().set(&gpu(0), UUID, Watts(400.0)),
        Ok(Watts(400.0))
    );
    let stage = Stage::new(hgx());
    for wrong in [
        None,
        Some(BmcCredentials {
            user: server::USER.into(),
            password: "guess".into(),
        }),
    ] {
        let scope = Scope::Gpus {
            names: BTreeMap::new(),
        };
        let guessed = wrong.is_some();
        let mut actuator = stage.open_as(scope, wrong, None);
        let (devices, log) = hear(|| actuator.devices());
        assert_eq!(devices, []);
        assert!(
            log.contains("user and password of the BMC") && !log.contains("guess"),
            "{log}"
        );
        let error = error(actuator.current(&gpu(0)));
        assert!(
            matches!(error, RedfishError::Unauthorised { .. }),
            "{error}"
        );
        assert!(!error.to_string().contains("guess"));
        // Without a password nobody is locked out; with a wrong one it is tried once.
        assert_eq!(stage.server.edit(|tree| tree.refused), usize::from(guessed));
    }
}

#[test]
fn neither_password_nor_token_is_logged_when_all_goes_well_or_wrong() {
    let stage = Stage::new(hgx());
    let (_, log) = hear(|| {
        let mut actuator = stage.gpus();
        actuator.devices();
        actuator.set(&gpu(0), UUID, Watts(400.0)).unwrap();
        stage.fault("PATCH", "GPU_SXM_1", Answer::Status(401, ""));
        actuator.set(&gpu(0), UUID, Watts(500.0)).unwrap();
        stage.server.edit(|tree| tree.silent = true);
        error(actuator.set(&gpu(0), UUID, Watts(300.0)))
    });
    // It does hear what is logged.
    assert!(log.contains("listed by the management controller"), "{log}");
    assert!(
        !log.contains(server::PASSWORD) && !log.contains("token"),
        "{log}"
    );
}

#[test]
fn a_controller_that_is_away_at_the_start_is_found_later() {
    let address = BmcAddress::new("http://127.0.0.1:1", None).unwrap();
    let stage = Stage::new(hgx());
    let mut actuator = stage.gpus();
    let there = std::mem::replace(&mut actuator.bmc, Bmc::new(&address, None).unwrap());
    assert_eq!(actuator.devices(), []);
    assert!(matches!(
        error(actuator.current(&gpu(0))),
        RedfishError::Away { .. }
    ));
    actuator.bmc = there;
    assert_eq!(actuator.devices().len(), 4);
}

#[test]
fn certificates_are_known_by_fingerprint_or_authority() {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use sha2::Digest;
    let server = Server::start_tls(hgx());
    let dir = tempfile::tempdir().unwrap();
    let shown = CertificateDer::from_pem_file(server::tls_file("bmc.pem")).unwrap();
    let fingerprint: [u8; 32] = sha2::Sha256::digest(shown.as_ref()).into();
    let read = |trust| {
        let address = BmcAddress::new(&server.base, Some(trust)).unwrap();
        let scope = Scope::Gpus {
            names: BTreeMap::new(),
        };
        let node = NodeId::from("n1");
        RedfishActuator::new(&address, credentials(), &node, None, scope, dir.path())
            .unwrap()
            .set(&gpu(0), UUID, Watts(400.0))
    };
    assert_eq!(read(Trust::Fingerprint(fingerprint)), Ok(Watts(400.0)));
    assert_eq!(
        read(Trust::Authorities(server::tls_file("ca.pem"))),
        Ok(Watts(400.0))
    );
    let before = server.edit(|tree| tree.logins);
    let mut other = fingerprint;
    other[31] ^= 1;
    assert!(matches!(
        error(read(Trust::Fingerprint(other))),
        RedfishError::Away { .. }
    ));
    // The certificate itself is no authority.
    let itself = error(read(Trust::Authorities(server::tls_file("bmc.pem"))));
    assert!(matches!(itself, RedfishError::Away { .. }), "{itself}");
    // No password went to whom we do not know.
    assert_eq!(server.edit(|tree| tree.logins), before);
    let none = BmcAddress::new(
        &server.base,
        Some(Trust::Authorities("/nonexistent".into())),
    );
    let missing = Bmc::new(&none.unwrap(), None).err().unwrap();
    assert!(missing.to_string().contains("/nonexistent"), "{missing}");
}

proptest! {
    // Each asks a server dozens of times.
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is set and however often the agent dies: what is in force is
    /// never above what was asked, and at the end the limit is as it was found.
    #[test]
    fn all_goes_back_to_what_was_found(
        older: bool,
        found in prop_oneof![Just(None), (300u64..9_000).prop_map(Some)],
        steps in prop::collection::vec((800.0..2_700f64, any::<bool>()), 0..4),
    ) {
        let (tree, path, at) = if older {
            let tree = power_control(json!(found), "LogEventOnly");
            (tree, "/redfish/v1/Chassis/Node0/Power", "/PowerControl/1/PowerLimit")
        } else {
            let mut tree = hgx();
            let control = tree.resources.get_mut(NODE_LIMIT).unwrap();
            if let Some(watts) = found {
                control["SetPoint"] = json!(watts);
                control["ControlMode"] = json!("Automatic");
            }
            (tree, NODE_LIMIT, "")
        };
        let stage = Stage::new(tree);
        let mut actuator = stage.node();
        let node = DeviceId::from("n1");
        let was = actuator.devices().remove(0).found;
        let before = stage.value(path, at);
        for (cap, dies) in steps {
            let has = actuator.set(&node, NODE_UUID, Watts(cap)).unwrap();
            prop_assert!(has.get() <= cap && has.get() > cap - 1.0);
            if dies {
                actuator = stage.node();
            }
        }
        prop_assert_eq!(actuator.set(&node, NODE_UUID, was), Ok(was));
        prop_assert_eq!(std::fs::read_dir(stage.dir.path()).unwrap().count(), 0);
        let after = stage.value(path, at);
        let name = if older { "LimitInWatts" } else { "ControlMode" };
        prop_assert_eq!(&after[name], &before[name]);
        if found.is_some() && !older {
            prop_assert_eq!(&after["SetPoint"], &before["SetPoint"]);
        }
    }
}
