//! Limits, ranges and places that are not what they were, or not what was asked.

use super::*;

#[test]
fn a_controller_with_steps_of_its_own_keeps_no_more_than_was_asked() {
    let mut tree = hgx();
    tree.whim = Some(Box::new(|r| {
        let asked = r["PowerLimitWatts"]["SetPoint"].as_f64().unwrap();
        r["PowerLimitWatts"]["SetPoint"] = json!((asked / 20.0).round() * 20.0);
    }));
    let stage = Stage::new(tree);
    let mut actuator = stage.gpus();
    assert_eq!(actuator.set(&gpu(0), UUID, Watts(455.0)), Ok(Watts(440.0)));
    let before = stage.patches();
    assert_eq!(actuator.set(&gpu(0), UUID, Watts(455.0)), Ok(Watts(440.0)));
    assert_eq!(stage.patches(), before, "a lease renewed");
    assert_eq!(actuator.set(&gpu(0), UUID, Watts(619.0)), Ok(Watts(600.0)));
    assert_eq!(stage.patches(), before + 1, "asked for as it is kept");
    assert_eq!(actuator.set(&gpu(0), UUID, Watts(700.0)), Ok(Watts(700.0)));
    assert_eq!(std::fs::read_dir(stage.dir.path()).unwrap().count(), 0);
}

#[test]
fn a_range_that_changes_under_way_counts_from_then_on() {
    let stage = Stage::new(hgx());
    let mut actuator = stage.gpus();
    assert_eq!(actuator.range(&gpu(0)), Some((Watts(200.0), Watts(700.0))));
    let path = metrics("GPU_SXM_1");
    stage
        .server
        .edit(|tree| tree.touch(&path, "/PowerLimitWatts/AllowableMax", json!(600)));
    let refused = actuator.set(&gpu(0), UUID, Watts(650.0));
    assert!(
        matches!(refused, Err(CapError::OutOfRange { max, .. }) if max == Watts(600.0)),
        "{refused:?}"
    );
    assert_eq!(actuator.range(&gpu(0)), Some((Watts(200.0), Watts(600.0))));
    assert_eq!(stage.patches(), 0);
}

#[test]
fn a_gpu_that_vanishes_between_the_change_and_the_reading_is_an_error() {
    let stage = Stage::new(hgx());
    let mut actuator = stage.gpus();
    actuator.devices();
    stage.fault(
        "GET",
        "GPU_SXM_1/EnvironmentMetrics",
        Answer::Body(first_reading()),
    );
    stage.fault(
        "GET",
        "GPU_SXM_1/EnvironmentMetrics",
        Answer::Status(404, ""),
    );
    let gone = error(actuator.set(&gpu(0), UUID, Watts(400.0)));
    assert!(matches!(gone, RedfishError::NotFound { .. }), "{gone}");
    assert_eq!(stage.patches(), 1);
    // The next command finds it as it is.
    assert_eq!(actuator.current(&gpu(0)), Ok(Watts(400.0)));
}

#[test]
fn a_limit_that_new_firmware_has_put_elsewhere_is_found_again() {
    let stage = Stage::new(hgx());
    let mut actuator = stage.node();
    let node = DeviceId::from("n1");
    actuator.set(&node, NODE_UUID, Watts(2_000.0)).unwrap();
    let (list, moved) = (
        "/redfish/v1/Chassis/Node0/Controls",
        "/redfish/v1/Chassis/Node0/Controls/Total",
    );
    stage.server.edit(|tree| {
        let limit = tree.resources.remove(NODE_LIMIT).unwrap();
        tree.resources.insert(moved.to_owned(), limit);
        let members = json!([{"@odata.id": moved}]);
        tree.touch(list, "/Members", members);
    });
    let gone = error(actuator.current(&node));
    assert!(matches!(gone, RedfishError::NotFound { .. }), "{gone}");
    assert_eq!(actuator.current(&node), Ok(Watts(2_000.0)));
    // And it goes back to what was found there.
    assert_eq!(
        actuator.set(&node, NODE_UUID, Watts(2_754.0)),
        Ok(Watts(2_754.0))
    );
    assert_eq!(stage.value(moved, "/ControlMode"), "Disabled");
}

#[test]
fn a_change_that_is_taken_and_not_kept_shows_in_what_is_read_back() {
    let mut tree = hgx();
    tree.whim = Some(Box::new(|r| r["PowerLimitWatts"]["SetPoint"] = json!(700)));
    let stage = Stage::new(tree);
    assert_eq!(
        stage.gpus().set(&gpu(0), UUID, Watts(400.0)),
        Ok(Watts(700.0))
    );
}

#[test]
fn somebody_else_in_between_is_met_once_and_told_twice() {
    let stage = Stage::new(hgx());
    let mut actuator = stage.gpus();
    stage.fault("PATCH", "GPU_SXM_1", Answer::Status(412, ""));
    assert_eq!(actuator.set(&gpu(0), UUID, Watts(400.0)), Ok(Watts(400.0)));
    stage.fault("PATCH", "GPU_SXM_1", Answer::Status(412, ""));
    stage.fault("PATCH", "GPU_SXM_1", Answer::Status(412, ""));
    let error = error(actuator.set(&gpu(0), UUID, Watts(300.0)));
    assert!(matches!(error, RedfishError::Changed { .. }), "{error}");
    assert_eq!(actuator.current(&gpu(0)), Ok(Watts(400.0)));
}

/// What the first GPU says before anything is changed; without a tag of its state.
fn first_reading() -> Vec<u8> {
    let limit = json!({"SetPoint": 700, "AllowableMin": 200, "AllowableMax": 700, "ControlMode": "Automatic"});
    json!({"PowerLimitWatts": limit, "@odata.etag": "W/\"0\""})
        .to_string()
        .into_bytes()
}
