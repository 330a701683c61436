//! The trees of real management controllers, which are not part of the project:
//! where they are absent, a test says so and ends.

use super::server::{Server, Tree};
use super::*;
use std::path::PathBuf;

/// A tree by its path below `data/protocols`.
fn recorded(tree: &str) -> Option<Tree> {
    let shared = std::env::var_os("HELIOSTAT_SHARED").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let root = shared.join("data/protocols").join(tree);
    let mut found = Tree::default();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else {
            eprintln!(
                "SKIPPED: {} is not there; set HELIOSTAT_SHARED to try real trees",
                folder.display()
            );
            return None;
        };
        for entry in entries.map(|e| e.unwrap().path()) {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.ends_with("index.json") {
                let below = folder.strip_prefix(&root).unwrap().to_str().unwrap();
                let path = format!("/redfish/v1/{below}");
                let value = serde_json::from_slice(&std::fs::read(&entry).unwrap()).unwrap();
                found
                    .resources
                    .insert(path.trim_end_matches('/').to_owned(), value);
            }
        }
    }
    Some(found)
}

fn stage(tree: &str) -> Option<Stage> {
    Some(Stage {
        server: Server::start(recorded(tree)?),
        dir: tempfile::tempdir().unwrap(),
    })
}

const RACKMOUNT: &str = "redfish_dmtf/public-rackmount1";

#[test]
fn the_standards_own_example_is_capped_by_its_metrics() {
    let Some(stage) = stage(RACKMOUNT) else {
        return;
    };
    let mut actuator = stage.node();
    let found = actuator.devices().remove(0);
    assert_eq!(found.uuid, "38947555-7742-3448-3784-823347823834");
    assert_eq!(
        (found.product.as_str(), found.min, found.max, found.current),
        ("Contoso 3500", Watts(150.0), Watts(1_000.0), Watts(500.0))
    );
    let set = actuator.set(&found.device, &found.uuid, Watts(420.0));
    assert_eq!(set, Ok(Watts(420.0)));
    let path = "/redfish/v1/Chassis/1U/EnvironmentMetrics";
    assert_eq!(stage.value(path, "/PowerLimitWatts/SetPoint"), 420);
    assert_eq!(stage.value(path, "/PowerWatts/Reading"), 374);
    let mut gpus = stage.gpus();
    assert!(matches!(
        error(gpus.current(&gpu(0))),
        RedfishError::NoLimit { .. }
    ));
}

#[test]
fn the_same_by_its_control_and_by_its_power() {
    for (gone, path, at) in [
        (
            &["EnvironmentMetrics"][..],
            "/redfish/v1/Chassis/1U/Controls/PowerLimit",
            "/SetPoint",
        ),
        (
            &["EnvironmentMetrics", "Controls"],
            "/redfish/v1/Chassis/1U/Power",
            "/PowerControl/0/PowerLimit/LimitInWatts",
        ),
    ] {
        let Some(stage) = stage(RACKMOUNT) else {
            return;
        };
        stage.server.edit(|tree| {
            let chassis = tree.resources.get_mut("/redfish/v1/Chassis/1U").unwrap();
            for name in gone {
                chassis.as_object_mut().unwrap().remove(*name);
            }
        });
        let mut actuator = stage.node();
        let found = actuator.devices().remove(0);
        assert_eq!(found.current, Watts(500.0));
        let set = actuator.set(&found.device, &found.uuid, Watts(900.0));
        assert_eq!((set, stage.value(path, at)), (Ok(Watts(900.0)), json!(900)));
    }
}

#[test]
fn a_recorded_limit_that_powers_off_is_left_alone() {
    let Some(stage) = stage("redfish_recorded/Gigabyte") else {
        return;
    };
    let mut actuator = stage.node();
    let refused = actuator.current(&"n1".into());
    assert_eq!(
        refused,
        Err(CapError::PowersOff {
            device: "n1".into()
        })
    );
    assert_eq!((actuator.devices(), stage.patches()), (vec![], 0));
}

#[test]
fn recorded_blades_without_limits_say_so_and_name_their_systems() {
    let Some(stage) = stage("redfish_recorded/EX235n") else {
        return;
    };
    let why = error(stage.node().current(&"n1".into())).to_string();
    assert!(
        why.contains("Node0, Node1") && why.contains("--bmc-system"),
        "{why}"
    );
    let scope = || Scope::Node { range: NODE_RANGE };
    let mut one = stage.open_as(scope(), credentials(), Some("Node1"));
    let why = error(one.current(&"n1".into())).to_string();
    assert!(why.contains("no chassis of the system `Node1`"), "{why}");
    let mut none = stage.open_as(scope(), credentials(), Some("Node7"));
    let why = error(none.current(&"n1".into())).to_string();
    assert!(why.contains("no system `Node7`"), "{why}");
    // Its GPUs have no EnvironmentMetrics.
    let why = error(stage.gpus().current(&gpu(0))).to_string();
    assert!(why.contains("--actuator redfish-node"), "{why}");
}

#[test]
fn a_recorded_ilo_without_a_limit_says_so() {
    let Some(stage) = stage("redfish_recorded/XL675d_A100") else {
        return;
    };
    let why = error(stage.node().current(&"n1".into()));
    assert!(matches!(why, RedfishError::NoLimit { .. }), "{why}");
}
