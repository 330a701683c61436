use super::*;
use proptest::prelude::*;
use std::fs;
use std::sync::{Arc, Mutex};

/// A sysfs in a folder, as amdgpu lays it out.
struct Made(tempfile::TempDir);

impl Made {
    fn new() -> Self {
        let made = Self(tempfile::tempdir().unwrap());
        fs::create_dir_all(made.0.path().join("class/drm")).unwrap();
        made
    }

    fn card(&self, card: &str, slot: &str, files: &[(&str, &str)]) -> &Self {
        let device = self.0.path().join("class/drm").join(card).join("device");
        let hwmon = device.join("hwmon/hwmon3");
        fs::create_dir_all(&hwmon).unwrap();
        fs::write(
            device.join("uevent"),
            format!("DRIVER=amdgpu\nPCI_SLOT_NAME={slot}\n"),
        )
        .unwrap();
        fs::write(hwmon.join("name"), "amdgpu\n").unwrap();
        for (file, text) in files {
            fs::write(device.join(file), text).unwrap();
        }
        self
    }

    /// An MI250X: 100 to 560 W, now at 500 W.
    fn mi250x(&self, card: &str, slot: &str, id: &str) -> &Self {
        self.card(
            card,
            slot,
            &[
                ("unique_id", &format!("{id}\n")),
                ("product_name", "AMD Instinct MI250X\n"),
                ("hwmon/hwmon3/power1_cap", "500000000\n"),
                ("hwmon/hwmon3/power1_cap_min", "100000000\n"),
                ("hwmon/hwmon3/power1_cap_max", "560000000\n"),
                ("hwmon/hwmon3/power1_cap_default", "500000000\n"),
            ],
        )
    }

    fn hwmon(&self, card: &str) -> PathBuf {
        self.0
            .path()
            .join("class/drm")
            .join(card)
            .join("device/hwmon/hwmon3")
    }

    fn open(&self) -> HwmonActuator {
        HwmonActuator::open(self.0.path(), &NodeId::from("n1")).unwrap()
    }

    fn cap(&self, card: &str) -> String {
        fs::read_to_string(self.hwmon(card).join("power1_cap")).unwrap()
    }
}

fn gpu(n: usize) -> DeviceId {
    DeviceId::from(format!("n1-gpu{n}"))
}

const ID: &str = "AMD-b7a30f1c5d2e4416";

#[test]
fn cards_are_named_in_pci_order_and_second_dies_are_not_counted() {
    let made = Made::new();
    made.mi250x("card2", "0000:29:00.0", "1111111111111111")
        .mi250x("card1", "0000:C1:00.0", "2222222222222222")
        // The second die: the driver says zero.
        .card(
            "card3",
            "0000:2c:00.0",
            &[
                ("unique_id", "3333333333333333"),
                ("hwmon/hwmon3/power1_cap", "0"),
                ("hwmon/hwmon3/power1_cap_max", "0"),
            ],
        )
        // Another driver's, and a display socket.
        .card("card0", "0000:03:00.0", &[("hwmon/hwmon3/name", "nouveau")]);
    fs::create_dir_all(made.0.path().join("class/drm/card2-DP-1")).unwrap();
    let mut actuator = made.open();
    let devices = actuator.devices();
    let seen: Vec<(&str, &str)> = (devices.iter())
        .map(|d| (d.device.as_str(), d.uuid.as_str()))
        .collect();
    assert_eq!(
        seen,
        [
            ("n1-gpu0", "AMD-1111111111111111"),
            ("n1-gpu1", "AMD-2222222222222222")
        ]
    );
    let first = &devices[0];
    assert_eq!(first.product, "AMD Instinct MI250X");
    assert_eq!(
        (first.min, first.max, first.found, first.current),
        (Watts(100.0), Watts(560.0), Watts(500.0), Watts(500.0))
    );
}

#[test]
fn sets_in_microwatts_and_reads_back() {
    let made = Made::new();
    made.mi250x("card1", "0000:c1:00.0", "b7a30f1c5d2e4416");
    let mut actuator = made.open();
    assert_eq!(actuator.set(&gpu(0), ID, Watts(333.5)), Ok(Watts(333.5)));
    assert!(made.cap("card1").starts_with("333500000"));
    assert_eq!(actuator.current(&gpu(0)), Ok(Watts(333.5)));
}

#[test]
fn another_chip_and_a_cap_out_of_range_are_refused_unwritten() {
    let made = Made::new();
    made.mi250x("card1", "0000:c1:00.0", "b7a30f1c5d2e4416");
    let mut actuator = made.open();
    // Exchanged while the agent runs: the file says so.
    let id = made.hwmon("card1").join("../../unique_id");
    fs::write(&id, "ffffffffffffffff\n").unwrap();
    let wrong = actuator.set(&gpu(0), ID, Watts(400.0));
    assert!(
        matches!(wrong, Err(CapError::WrongDevice { .. })),
        "{wrong:?}"
    );
    fs::write(&id, "b7a30f1c5d2e4416\n").unwrap();
    for cap in [99.9, 560.1, f64::NAN] {
        let refused = actuator.set(&gpu(0), ID, Watts(cap));
        assert!(
            matches!(refused, Err(CapError::OutOfRange { .. })),
            "{refused:?}"
        );
    }
    let unknown = actuator.set(&gpu(7), ID, Watts(400.0));
    assert_eq!(unknown, Err(CapError::UnknownDevice(gpu(7))));
    assert_eq!(made.cap("card1"), "500000000\n");
}

#[test]
fn without_a_chip_number_the_place_on_the_bus_stands_for_it() {
    let made = Made::new();
    made.mi250x("card1", "0000:c1:00.0", "");
    assert_eq!(made.open().devices()[0].uuid, "PCI-0000:c1:00.0");
    fs::remove_file(made.hwmon("card1").join("../../unique_id")).unwrap();
    assert_eq!(made.open().devices()[0].uuid, "PCI-0000:c1:00.0");
}

#[test]
fn a_gpu_that_is_gone_is_lost_and_its_neighbour_keeps_its_name() {
    let made = Made::new();
    made.mi250x("card1", "0000:c1:00.0", "b7a30f1c5d2e4416")
        .mi250x("card2", "0000:c6:00.0", "2222222222222222");
    let mut actuator = made.open();
    fs::remove_dir_all(made.0.path().join("class/drm/card1")).unwrap();
    let lost = CapError::Lost { device: gpu(0) };
    assert_eq!(actuator.current(&gpu(0)), Err(lost.clone()));
    assert_eq!(actuator.set(&gpu(0), ID, Watts(400.0)), Err(lost));
    // Nothing was created where it had been.
    assert!(!made.hwmon("card1").exists());
    let left = actuator.devices();
    assert_eq!((left.len(), left[0].device.clone()), (1, gpu(1)));
    assert_eq!(
        actuator.set(&gpu(1), "AMD-2222222222222222", Watts(400.0)),
        Ok(Watts(400.0))
    );
}

#[test]
fn nonsense_in_a_file_is_an_error_not_a_limit() {
    let made = Made::new();
    made.mi250x("card1", "0000:c1:00.0", "b7a30f1c5d2e4416");
    let mut actuator = made.open();
    for text in ["", "N/A", "-5", "5e8", "99999999999999999999999"] {
        fs::write(made.hwmon("card1").join("power1_cap"), text).unwrap();
        let read = actuator.current(&gpu(0));
        assert!(
            matches!(read, Err(CapError::Driver { .. })),
            "{text}: {read:?}"
        );
    }
}

#[test]
fn no_sysfs_names_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let Err(error) = HwmonActuator::open(folder.path(), &NodeId::from("n1")) else {
        panic!("opened a sysfs that is not there");
    };
    assert!(error.to_string().contains("--actuator"), "{error}");
}

/// What a driver does to a write.
enum Driver {
    Forbids,
    Reverts,
    Fails(i32),
    /// Takes the write and is gone, with its folder.
    Vanishes(PathBuf),
}

struct Between(Driver, Arc<Mutex<Vec<String>>>);

impl SysFiles for Between {
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        RealFiles.list(folder)
    }
    fn read(&self, file: &Path) -> io::Result<String> {
        RealFiles.read(file)
    }
    fn write(&self, _: &Path, text: &str) -> io::Result<()> {
        self.1.lock().unwrap().push(text.to_owned());
        match &self.0 {
            Driver::Vanishes(folder) => fs::remove_dir_all(folder),
            Driver::Forbids => Err(io::ErrorKind::PermissionDenied.into()),
            Driver::Reverts => Ok(()),
            Driver::Fails(errno) => Err(io::Error::from_raw_os_error(*errno)),
        }
    }
}

#[test]
fn what_the_driver_does_to_a_write_comes_out_as_it_is() {
    let made = Made::new();
    made.mi250x("card1", "0000:c1:00.0", "b7a30f1c5d2e4416");
    let set = |driver| {
        let written = Arc::default();
        let files = Box::new(Between(driver, Arc::clone(&written)));
        let mut actuator =
            HwmonActuator::open_with(files, made.0.path(), &NodeId::from("n1")).unwrap();
        let outcome = actuator.set(&gpu(0), ID, Watts(400.0));
        assert_eq!(*written.lock().unwrap(), ["400000000"]);
        outcome
    };
    assert_eq!(
        set(Driver::Forbids),
        Err(CapError::NoPermission { device: gpu(0) })
    );
    // Taken and not kept: the answer is what the device has.
    assert_eq!(set(Driver::Reverts), Ok(Watts(500.0)));
    assert_eq!(
        set(Driver::Fails(19)),
        Err(CapError::Lost { device: gpu(0) })
    );
    let invalid = set(Driver::Fails(22));
    assert!(
        matches!(invalid, Err(CapError::Driver { .. })),
        "{invalid:?}"
    );
}

#[test]
fn a_range_that_changes_under_way_counts_from_then_on() {
    let made = Made::new();
    made.mi250x("card1", "0000:c1:00.0", "b7a30f1c5d2e4416");
    let mut actuator = made.open();
    assert_eq!(actuator.range(&gpu(0)), Some((Watts(100.0), Watts(560.0))));
    fs::write(made.hwmon("card1").join("power1_cap_max"), "450000000\n").unwrap();
    let refused = actuator.set(&gpu(0), ID, Watts(500.0));
    let range = (Watts(100.0), Watts(450.0));
    assert!(
        matches!(refused, Err(CapError::OutOfRange { max, .. }) if max == range.1),
        "{refused:?}"
    );
    assert_eq!(actuator.range(&gpu(0)), Some(range));
    fs::remove_dir_all(made.0.path().join("class/drm/card1")).unwrap();
    assert_eq!(actuator.range(&gpu(0)), None);
}

#[test]
fn a_driver_that_is_loaded_anew_has_other_folders_for_the_same_gpus() {
    let made = Made::new();
    made.mi250x("card1", "0000:c1:00.0", "b7a30f1c5d2e4416")
        .mi250x("card2", "0000:c6:00.0", "2222222222222222");
    let mut actuator = made.open();
    actuator.set(&gpu(0), ID, Watts(400.0)).unwrap();
    // Both cards and their sensors get new numbers, the other way round.
    let drm = made.0.path().join("class/drm");
    for (from, to) in [("card1", "card4"), ("card2", "card3")] {
        fs::rename(drm.join(from), drm.join(to)).unwrap();
        let hwmon = drm.join(to).join("device/hwmon");
        fs::rename(hwmon.join("hwmon3"), hwmon.join("hwmon7")).unwrap();
    }
    assert_eq!(actuator.current(&gpu(0)), Ok(Watts(400.0)));
    assert_eq!(actuator.set(&gpu(0), ID, Watts(350.0)), Ok(Watts(350.0)));
    let other = "AMD-2222222222222222";
    assert_eq!(actuator.set(&gpu(1), other, Watts(300.0)), Ok(Watts(300.0)));
    let names: Vec<DeviceId> = actuator.devices().into_iter().map(|d| d.device).collect();
    assert_eq!(names, [gpu(0), gpu(1)]);
}

#[test]
fn a_gpu_that_vanishes_between_the_write_and_the_reading_is_lost() {
    let made = Made::new();
    made.mi250x("card1", "0000:c1:00.0", "b7a30f1c5d2e4416");
    let gone = made.0.path().join("class/drm/card1");
    let files = Box::new(Between(Driver::Vanishes(gone), Arc::default()));
    let mut actuator = HwmonActuator::open_with(files, made.0.path(), &NodeId::from("n1")).unwrap();
    let lost = CapError::Lost { device: gpu(0) };
    assert_eq!(actuator.set(&gpu(0), ID, Watts(400.0)), Err(lost));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is asked for, what is written is within the range, never above
    /// what was asked, and within a microwatt of it.
    #[test]
    fn never_written_above_what_was_asked(cap in prop_oneof![-1e9..1e9f64, 0.0..700.0f64]) {
        let made = Made::new();
        made.mi250x("card1", "0000:c1:00.0", "b7a30f1c5d2e4416");
        let outcome = made.open().set(&gpu(0), ID, Watts(cap));
        let written: f64 = made.cap("card1").trim().parse().unwrap();
        if (100.0..=560.0).contains(&cap) {
            prop_assert!(outcome.is_ok());
            prop_assert!(written <= cap * 1e6 && written > cap * 1e6 - 1.0);
        } else {
            prop_assert!(outcome.is_err());
            prop_assert_eq!(written, 5e8);
        }
    }
}
