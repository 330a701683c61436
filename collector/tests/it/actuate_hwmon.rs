//! A lease from the wire to an AMD GPU's file in sysfs, and back after a crash.

use crate::caps::next;
use crate::ingest::client;
use crate::stage::{START, Stage, Wire, until};
use heliostat_collector::CapActuator;
use heliostat_collector::actuate::{DryRun, HwmonActuator};
use heliostat_models::lease::{CapAnswer, CapCommand, CapLease, CapOutcome};
use heliostat_models::wire::Topics;
use heliostat_models::{DeviceId, NodeId, Watts};
use rumqttc::QoS;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One card as amdgpu shows it: 100 to 560 W, now at 500 W.
fn sysfs(root: &Path) -> PathBuf {
    let device = root.join("class/drm/card1/device");
    let hwmon = device.join("hwmon/hwmon3");
    std::fs::create_dir_all(&hwmon).unwrap();
    let write = |path: PathBuf, text: &str| std::fs::write(path, text).unwrap();
    write(device.join("uevent"), "PCI_SLOT_NAME=0000:c1:00.0\n");
    write(device.join("unique_id"), "b7a30f1c5d2e4416\n");
    write(hwmon.join("name"), "amdgpu\n");
    write(hwmon.join("power1_cap_min"), "100000000\n");
    write(hwmon.join("power1_cap_max"), "560000000\n");
    write(hwmon.join("power1_cap"), "500000000\n");
    hwmon.join("power1_cap")
}

fn command(device: &DeviceId, cap: f64) -> Vec<u8> {
    let command = CapCommand {
        sequence: 1,
        controller: "run-1".into(),
        fence: 0,
        issued: START,
        expires: START + Duration::from_secs(30),
        leases: vec![CapLease {
            device: device.clone(),
            uuid: "AMD-b7a30f1c5d2e4416".into(),
            cap: Watts(cap),
            safe_cap: Watts(350.0),
        }],
    };
    serde_json::to_vec(&command).unwrap()
}

/// An agent that was sent one lease of 400 W, and its answer to that.
async fn leased(stage: &Stage, dry: bool) -> (heliostat_collector::AgentHandle, CapOutcome) {
    let wire = Wire::new().await;
    wire.mend();
    let (node, gpu) = (stage.node(), stage.gpu(0));
    let topics = Topics::new(&stage.site.id);
    let (executor, mut answers) = client(wire.address, "executor", topics.applied(&node)).await;
    let agent = stage.agent(wire.address, Some(actuator(stage, dry)));
    until("the agent is connected", || agent.stats().connected).await;
    let sent = executor.publish(
        topics.caps(&node),
        QoS::AtLeastOnce,
        false,
        command(&gpu, 400.0),
    );
    sent.await.unwrap();
    let mut answer: CapAnswer = next(&mut answers).await;
    (agent, answer.reports.remove(0).outcome)
}

fn actuator(stage: &Stage, dry: bool) -> Box<dyn CapActuator> {
    let node = NodeId::from(stage.node().as_str());
    let hwmon = HwmonActuator::open(&stage.dir.path().join("sys"), &node).unwrap();
    match dry {
        true => Box::new(DryRun::new(Box::new(hwmon))),
        false => Box::new(hwmon),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_reaches_the_file_and_after_a_crash_the_safe_cap_does() {
    let stage = Stage::new();
    let file = sysfs(&stage.dir.path().join("sys"));
    let (agent, outcome) = leased(&stage, false).await;
    let readback = Watts(400.0);
    assert_eq!(outcome, CapOutcome::Applied { readback });
    agent.kill().await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "400000000");
    let nobody = Wire::new().await;
    let agent = stage.agent(nobody.address, Some(actuator(&stage, false)));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "350000000");
    until("it is counted", || agent.stats().caps.safe_caps_set == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_answers_and_writes_to_no_file() {
    let stage = Stage::new();
    let file = sysfs(&stage.dir.path().join("sys"));
    let (agent, outcome) = leased(&stage, true).await;
    let CapOutcome::Refused { reason, current } = outcome else {
        panic!("a dry run applied a cap");
    };
    assert!(reason.contains("would have been set to 400 W"), "{reason}");
    assert_eq!(current, Some(Watts(500.0)));
    agent.stop().await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "500000000\n");
}
