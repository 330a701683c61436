//! The shim through the unmodified `nvml-wrapper`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test's helpers fail by unwrapping, and it prints what it measured or why it was skipped"
)]

use heliostat_models::Site;
use heliostat_models::site::config::{self, LoadOptions};
use heliostat_nvml_shim::board::{self, FaultFlags, Readings};
use heliostat_twin::{NodeBoard, boards};
use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;

fn site() -> Site {
    config::load("demo.toml", config::builtin_demo(), LoadOptions::default())
        .site
        .unwrap()
}

fn boards() -> (tempfile::TempDir, Vec<NodeBoard>, Site) {
    let directory = tempfile::tempdir().unwrap();
    let site = site();
    let made = boards::create(directory.path(), &site).unwrap();
    (directory, made, site)
}

fn open(board: &NodeBoard) -> Nvml {
    Nvml::builder()
        .lib_path(board.lib.as_os_str())
        .init()
        .unwrap()
}

fn fault(board: &NodeBoard, device: usize, bits: u32) {
    board
        .board
        .set_faults(device, FaultFlags { bits, delay_ms: 0 })
        .unwrap();
}

#[test]
fn every_reading_arrives() {
    let (_directory, boards, site) = boards();
    let readings = Readings {
        power_mw: 432_100,
        temperature_c: 57,
        energy_mj: 9_876_543_210_123,
        sm_mhz: 1_755,
        memory_mhz: 2_619,
        gpu_percent: 98,
        memory_percent: 45,
        memory_used: 40 << 30,
        at_ms: 1,
    };
    boards[0].board.write_readings(3, &[readings]).unwrap();
    let nvml = open(&boards[0]);
    assert_eq!(nvml.device_count().unwrap(), 8);
    assert!(nvml.sys_driver_version().unwrap().starts_with("550."));
    assert!(nvml.sys_nvml_version().unwrap().starts_with("12."));
    let device = nvml.device_by_index(3).unwrap();
    assert_eq!(device.index().unwrap(), 3);
    assert_eq!(device.name().unwrap(), "NVIDIA H100 80GB HBM3");
    assert_eq!(device.power_usage().unwrap(), 432_100);
    assert_eq!(
        device.total_energy_consumption().unwrap(),
        9_876_543_210_123
    );
    assert_eq!(device.temperature(TemperatureSensor::Gpu).unwrap(), 57);
    assert_eq!(device.clock_info(Clock::SM).unwrap(), 1_755);
    assert_eq!(device.clock_info(Clock::Graphics).unwrap(), 1_755);
    assert_eq!(device.clock_info(Clock::Memory).unwrap(), 2_619);
    assert_eq!(device.max_clock_info(Clock::SM).unwrap(), 1_980);
    let utilization = device.utilization_rates().unwrap();
    assert_eq!((utilization.gpu, utilization.memory), (98, 45));
    let memory = device.memory_info().unwrap();
    assert_eq!(memory.used, 40 << 30);
    assert_eq!(memory.total, memory.used + memory.free);
    let limits = device.power_management_limit_constraints().unwrap();
    assert_eq!((limits.min_limit, limits.max_limit), (200_000, 700_000));
    assert_eq!(device.power_management_limit_default().unwrap(), 700_000);
    assert_eq!(device.enforced_power_limit().unwrap(), 700_000);
    let pci = device.pci_info().unwrap();
    assert_eq!((pci.bus, pci.bus_id.as_str()), (0x5d, "00000000:5D:00.0"));
    let uuid = device.uuid().unwrap();
    assert_eq!(uuid, boards::uuid(&site, 3));
    assert_eq!(
        nvml.device_by_uuid(uuid.as_str()).unwrap().index().unwrap(),
        3
    );
    assert_eq!(
        nvml.device_by_pci_bus_id("00000000:5d:00.0")
            .unwrap()
            .index()
            .unwrap(),
        3
    );
}

#[test]
fn uuids_are_unique_and_shaped_like_real_ones() {
    let site = site();
    let all: std::collections::HashSet<String> = (0..site.devices.len())
        .map(|d| boards::uuid(&site, d))
        .collect();
    assert_eq!(all.len(), 256);
    assert!(all.iter().all(|u| u.len() == 40 && u.starts_with("GPU-")));
}

#[test]
fn limits_are_set_within_the_range_and_outlive_the_process() {
    let (_directory, boards, _) = boards();
    {
        let nvml = open(&boards[0]);
        let mut device = nvml.device_by_index(0).unwrap();
        device.set_power_management_limit(345_678).unwrap();
        for wrong in [0, 199_999, 700_001, u32::MAX] {
            assert!(matches!(
                device.set_power_management_limit(wrong),
                Err(NvmlError::InvalidArg)
            ));
        }
        assert_eq!(device.enforced_power_limit().unwrap(), 345_678);
        assert_eq!(
            nvml.device_by_index(1)
                .unwrap()
                .enforced_power_limit()
                .unwrap(),
            700_000
        );
        // As if the process were killed: no shutdown, nothing restored.
        std::mem::forget(nvml);
    }
    assert_eq!(boards[0].board.limit(0).unwrap().limit_mw, 345_678);
    assert_eq!(boards[0].board.limit(0).unwrap().sets, 1);
}

#[test]
fn faults_answer_with_the_documented_codes() {
    let (_directory, boards, _) = boards();
    let nvml = open(&boards[0]);
    let mut device = nvml.device_by_index(2).unwrap();

    fault(&boards[0], 2, board::FAULT_NO_PERMISSION);
    assert!(matches!(
        device.set_power_management_limit(300_000),
        Err(NvmlError::NoPermission)
    ));
    assert_eq!(device.enforced_power_limit().unwrap(), 700_000);

    fault(
        &boards[0],
        2,
        board::FAULT_NO_LIMITS | board::FAULT_NO_ENERGY | board::FAULT_NO_POWER,
    );
    assert!(matches!(
        device.enforced_power_limit(),
        Err(NvmlError::NotSupported)
    ));
    assert!(matches!(
        device.set_power_management_limit(300_000),
        Err(NvmlError::NotSupported)
    ));
    assert!(matches!(
        device.total_energy_consumption(),
        Err(NvmlError::NotSupported)
    ));
    assert!(matches!(device.power_usage(), Err(NvmlError::NotSupported)));
    assert!(device.temperature(TemperatureSensor::Gpu).is_ok());

    fault(&boards[0], 2, board::FAULT_LOST);
    assert!(matches!(device.power_usage(), Err(NvmlError::GpuLost)));
    assert!(matches!(device.uuid(), Err(NvmlError::GpuLost)));
    assert!(matches!(nvml.device_by_index(2), Err(NvmlError::GpuLost)));
    assert_eq!(nvml.device_count().unwrap(), 8);
    assert!(nvml.device_by_index(3).unwrap().power_usage().is_ok());

    fault(&boards[0], 2, 0);
    assert!(device.power_usage().is_ok());
    assert!(matches!(
        nvml.device_by_index(8),
        Err(NvmlError::InvalidArg)
    ));
    assert!(matches!(
        nvml.device_by_uuid("GPU-nobody"),
        Err(NvmlError::NotFound)
    ));
}

#[test]
fn a_slow_device_takes_its_time() {
    let (_directory, boards, _) = boards();
    let nvml = open(&boards[0]);
    let device = nvml.device_by_index(0).unwrap();
    let flags = FaultFlags {
        bits: board::FAULT_SLOW,
        delay_ms: 80,
    };
    boards[0].board.set_faults(0, flags).unwrap();
    // How long a call takes is what is tested, so the wall clock is right here.
    #[allow(clippy::disallowed_methods)]
    let begin = std::time::Instant::now();
    device.power_usage().unwrap();
    assert!(begin.elapsed().as_millis() >= 80);
}

#[test]
fn many_boards_live_in_one_process_without_mixing() {
    let (_directory, boards, site) = boards();
    let open: Vec<Nvml> = boards.iter().map(open).collect();
    for (index, nvml) in open.iter().enumerate() {
        let mut device = nvml.device_by_index(0).unwrap();
        let first = site.nodes[index].devices.start;
        assert_eq!(device.uuid().unwrap(), boards::uuid(&site, first));
        device
            .set_power_management_limit(300_000 + index as u32)
            .unwrap();
    }
    for (index, board) in boards.iter().enumerate() {
        assert_eq!(
            board.board.limit(0).unwrap().limit_mw,
            300_000 + index as u32
        );
    }
}

#[test]
fn eight_threads_read_and_set_while_the_twin_writes() {
    let (_directory, boards, _) = boards();
    let nvml = open(&boards[0]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=400u32 {
                let r = Readings {
                    power_mw: round,
                    energy_mj: u64::from(round) << 33,
                    ..Readings::default()
                };
                boards[0].board.write_readings(0, &[r; 8]).unwrap();
            }
        });
        for thread in 0..8u32 {
            let nvml = &nvml;
            scope.spawn(move || {
                let mut device = nvml.device_by_index(thread).unwrap();
                let mut last = 0;
                for round in 0..200 {
                    let power = device.power_usage().unwrap();
                    assert!(power >= last && power <= 400);
                    last = power;
                    let energy = device.total_energy_consumption().unwrap();
                    assert_eq!(energy & 0x1_ffff_ffff, 0, "a torn reading came through");
                    device
                        .set_power_management_limit(200_000 + thread * 1_000 + round)
                        .unwrap();
                    assert_eq!(
                        device.enforced_power_limit().unwrap(),
                        200_000 + thread * 1_000 + round
                    );
                }
            });
        }
    });
    assert_eq!(boards[0].board.limit(7).unwrap().sets, 200);
}

#[test]
fn without_a_board_the_driver_is_not_loaded() {
    let (_directory, boards, _) = boards();
    std::fs::remove_file(boards[0].lib.with_file_name("board.bin")).unwrap();
    let error = Nvml::builder()
        .lib_path(boards[0].lib.as_os_str())
        .init()
        .unwrap_err();
    assert!(matches!(error, NvmlError::DriverNotLoaded), "{error}");
}

#[test]
fn hostile_arguments_are_refused_and_never_followed() {
    let (_directory, boards, _) = boards();
    let nvml = open(&boards[0]);
    let lib = nvml.lib();
    let wild: [usize; 5] = [0, 8, usize::MAX, 0x4e56_4d4c_0000 + 8, 0x4e56_4d4b_ffff];
    // SAFETY: the shim promises to follow no handle, and to check every pointer for null.
    #[allow(unsafe_code)]
    unsafe {
        for handle in wild {
            let mut power = 7;
            let call = lib.nvmlDeviceGetPowerUsage.as_ref().unwrap();
            assert_eq!(
                call(handle as *mut _, &raw mut power),
                2,
                "handle {handle:x}"
            );
            assert_eq!(power, 7, "written although refused");
        }
        let count = lib.nvmlDeviceGetCount_v2.as_ref().unwrap();
        assert_eq!(count(std::ptr::null_mut()), 2);
        let by_uuid = lib.nvmlDeviceGetHandleByUUID.as_ref().unwrap();
        assert_eq!(by_uuid(std::ptr::null(), std::ptr::null_mut()), 2);
        let version = lib.nvmlSystemGetDriverVersion.as_ref().unwrap();
        let mut short = [1 as std::ffi::c_char; 3];
        assert_eq!(version(short.as_mut_ptr(), 3), 7);
        assert_eq!(short, [1; 3]);
        let shutdown = lib.nvmlShutdown.as_ref().unwrap();
        assert_eq!(shutdown(), 0);
        assert_eq!(shutdown(), 1);
        let mut number = 0;
        assert_eq!(count(&raw mut number), 1);
        let init = lib.nvmlInit_v2.as_ref().unwrap();
        assert_eq!(init(), 0);
    }
}
