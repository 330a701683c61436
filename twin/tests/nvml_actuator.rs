//! The actuator of NVIDIA's driver, through the shim: what a driver can do to a limit.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail by unwrapping")]

use heliostat_collector::source::nvml::NvmlSource;
use heliostat_collector::{CapActuator, CapError};
use heliostat_models::site::config::{self, LoadOptions};
use heliostat_models::{DeviceId, Watts};
use heliostat_nvml_shim::board::{
    FAULT_LOST, FAULT_NO_LIMITS, FAULT_NO_PERMISSION, FAULT_SLOW, FaultFlags,
};
use heliostat_twin::{NodeBoard, boards};
use std::time::Duration;

struct Node {
    _directory: tempfile::TempDir,
    board: NodeBoard,
    source: NvmlSource,
    gpus: Vec<(DeviceId, String)>,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let site = config::load("demo.toml", config::builtin_demo(), LoadOptions::default())
            .site
            .unwrap();
        let board = boards::create(directory.path(), &site).unwrap().remove(0);
        let source = NvmlSource::open(Some(&board.lib), &site.nodes[0].id).unwrap();
        let gpus = (source.devices().into_iter())
            .map(|d| (d.device, d.uuid))
            .collect();
        Self {
            _directory: directory,
            board,
            source,
            gpus,
        }
    }

    fn fault(&self, gpu: usize, bits: u32) {
        let delay_ms = if bits & FAULT_SLOW == 0 { 0 } else { 20 };
        let faults = FaultFlags { bits, delay_ms };
        self.board.board.set_faults(gpu, faults).unwrap();
    }

    fn limit(&self, gpu: usize) -> u32 {
        self.board.board.limit(gpu).unwrap().limit_mw
    }
}

#[test]
fn what_a_driver_does_to_a_limit_comes_out_as_it_is() {
    let node = Node::new();
    let mut actuator = node.source.actuator();
    let (gpu, uuid) = node.gpus[3].clone();
    assert_eq!(
        actuator.set(&gpu, &uuid, Watts(432.1)),
        Ok(Watts(432.1)),
        "in milliwatts"
    );
    assert_eq!(
        (node.limit(3), actuator.current(&gpu)),
        (432_100, Ok(Watts(432.1)))
    );
    assert_eq!(actuator.range(&gpu), Some((Watts(200.0), Watts(700.0))));
    // Another card, a cap out of range, and no device at all: nothing is written.
    let wrong = actuator.set(&gpu, &node.gpus[2].1, Watts(300.0));
    assert!(
        matches!(wrong, Err(CapError::WrongDevice { .. })),
        "{wrong:?}"
    );
    for cap in [199.9, 700.1, f64::NAN, f64::INFINITY] {
        let refused = actuator.set(&gpu, &uuid, Watts(cap));
        assert!(
            matches!(refused, Err(CapError::OutOfRange { .. })),
            "{refused:?}"
        );
    }
    let unknown = DeviceId::from("another-gpu0");
    assert_eq!(
        actuator.set(&unknown, &uuid, Watts(300.0)),
        Err(CapError::UnknownDevice(unknown.clone()))
    );
    // What the driver refuses, with what there is to do about it.
    let device = || gpu.clone();
    node.fault(3, FAULT_NO_PERMISSION);
    let forbidden = actuator.set(&gpu, &uuid, Watts(300.0)).unwrap_err();
    assert_eq!(forbidden, CapError::NoPermission { device: device() });
    assert!(
        forbidden.to_string().contains("CAP_SYS_ADMIN"),
        "{forbidden}"
    );
    node.fault(3, FAULT_NO_LIMITS);
    assert_eq!(
        actuator.set(&gpu, &uuid, Watts(300.0)),
        Err(CapError::NotSupported { device: device() })
    );
    assert_eq!(actuator.range(&gpu), None);
    assert_eq!(node.limit(3), 432_100);
}

#[test]
fn a_gpu_that_falls_off_the_bus_is_lost_to_itself_and_its_neighbours_keep_their_names() {
    let node = Node::new();
    let mut actuator = node.source.actuator();
    let (gpu, uuid) = node.gpus[0].clone();
    node.fault(0, FAULT_LOST);
    let lost = CapError::Lost {
        device: gpu.clone(),
    };
    assert_eq!(actuator.set(&gpu, &uuid, Watts(300.0)), Err(lost.clone()));
    assert_eq!(actuator.current(&gpu), Err(lost));
    let left: Vec<DeviceId> = actuator.devices().into_iter().map(|d| d.device).collect();
    let others: Vec<DeviceId> = node.gpus[1..]
        .iter()
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(left, others);
    let (next, uuid) = node.gpus[1].clone();
    assert_eq!(actuator.set(&next, &uuid, Watts(333.0)), Ok(Watts(333.0)));
    assert_eq!((node.limit(0), node.limit(1)), (700_000, 333_000));
}

/// Whenever in the course of a command the GPU goes, its limit is what was there
/// before or what was asked, and nobody is told that all went well when it did not.
#[test]
fn a_gpu_that_is_lost_in_the_middle_of_a_command_is_never_taken_for_capped() {
    let node = Node::new();
    let (gpu, uuid) = node.gpus[2].clone();
    let mut lost = 0;
    for round in 0..12u32 {
        node.fault(2, 0);
        let mut actuator = node.source.actuator();
        actuator.set(&gpu, &uuid, Watts(700.0)).unwrap();
        // Each of the driver's answers takes 20 ms.
        node.fault(2, FAULT_SLOW);
        let outcome = std::thread::scope(|scope| {
            let command = scope.spawn(|| actuator.set(&gpu, &uuid, Watts(400.0)));
            std::thread::sleep(Duration::from_millis(u64::from(15 * round)));
            node.fault(2, FAULT_LOST | FAULT_SLOW);
            command.join().unwrap()
        });
        assert!([400_000, 700_000].contains(&node.limit(2)));
        match outcome {
            Ok(has) => assert_eq!((has, node.limit(2)), (Watts(400.0), 400_000)),
            Err(error) => {
                assert_eq!(
                    error,
                    CapError::Lost {
                        device: gpu.clone()
                    }
                );
                lost += 1;
            }
        }
    }
    assert!(lost > 0);
    node.fault(2, FAULT_SLOW);
    let mut actuator = node.source.actuator();
    assert_eq!(actuator.set(&gpu, &uuid, Watts(500.0)), Ok(Watts(500.0)));
}
