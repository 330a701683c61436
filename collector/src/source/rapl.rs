//! Energy of the CPU packages from the kernel's powercap interface
//! (`/sys/class/powercap/intel-rapl:N`, also on AMD). The registers count
//! microjoules and wrap at `max_energy_range_uj`, every few minutes on a busy
//! server; here the wraps are removed. Counting starts at zero with the first
//! reading, so that a restart never invents energy.

use heliostat_models::Joules;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel shows it.
pub const ROOT: &str = "/sys/class/powercap";

/// The packages of this machine.
#[derive(Debug)]
pub struct Rapl {
    packages: Vec<Package>,
    microjoules: u128,
}

#[derive(Debug)]
struct Package {
    register: PathBuf,
    /// Microjoules at which the register wraps to zero.
    range: u64,
    last: Option<u64>,
}

impl Rapl {
    /// Finds the packages below `root`; `None` where there are none.
    pub fn open(root: &Path) -> Option<Self> {
        let mut packages = Vec::new();
        for entry in fs::read_dir(root).ok()?.flatten() {
            let directory = entry.path();
            // Zones within a package (`package-0/core`) are part of it, and
            // `psys` counts the packages once more.
            let is_package = fs::read_to_string(directory.join("name"))
                .is_ok_and(|name| name.starts_with("package-"));
            let is_rapl = (entry.file_name().to_str())
                .is_some_and(|n| n.starts_with("intel-rapl:") && n.matches(':').count() == 1);
            let Some(range) = number(&directory.join("max_energy_range_uj")) else {
                continue;
            };
            if is_package && is_rapl && range > 0 {
                packages.push(Package {
                    register: directory.join("energy_uj"),
                    range,
                    last: None,
                });
            }
        }
        let found = !packages.is_empty();
        found.then_some(Self {
            packages,
            microjoules: 0,
        })
    }

    /// Energy of all packages since the first reading; `None` when one of them
    /// cannot be read (root only, on most kernels since 2020).
    pub fn read(&mut self) -> Option<Joules> {
        let mut values = Vec::with_capacity(self.packages.len());
        for package in &self.packages {
            values.push(number(&package.register)?);
        }
        for (package, now) in self.packages.iter_mut().zip(values) {
            if let Some(last) = package.last {
                self.microjoules += u128::from(growth(last, now, package.range));
            }
            package.last = Some(now);
        }
        Some(Joules(self.microjoules as f64 / 1e6))
    }
}

/// What a register grew by that wraps after `range`.
fn growth(last: u64, now: u64, range: u64) -> u64 {
    if now >= last {
        now - last
    } else {
        // The register runs from 0 to `range` inclusive.
        range.saturating_sub(last) + now + 1
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn package(root: &Path, name: &str, kind: &str, range: u64) -> PathBuf {
        let directory = root.join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("name"), format!("{kind}\n")).unwrap();
        fs::write(directory.join("max_energy_range_uj"), format!("{range}\n")).unwrap();
        fs::write(directory.join("energy_uj"), "0\n").unwrap();
        directory.join("energy_uj")
    }

    proptest! {
        #[test]
        fn wraps_are_removed(range in 10u64..1_000_000, start in 0u64..1_000_000, steps in prop::collection::vec(0.0..0.99f64, 1..20)) {
            let root = tempfile::tempdir().unwrap();
            let register = package(root.path(), "intel-rapl:0", "package-0", range);
            let mut true_total = start % (range + 1);
            let first = true_total;
            fs::write(&register, true_total.to_string()).unwrap();
            let mut rapl = Rapl::open(root.path()).unwrap();
            prop_assert_eq!(rapl.read(), Some(Joules(0.0)));
            for step in steps {
                true_total += (step * range as f64) as u64;
                fs::write(&register, (true_total % (range + 1)).to_string()).unwrap();
                let read = rapl.read().unwrap();
                prop_assert!((read.0 - (true_total - first) as f64 / 1e6).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn counts_packages_once_and_nothing_else() {
        let root = tempfile::tempdir().unwrap();
        let a = package(root.path(), "intel-rapl:0", "package-0", 1_000_000);
        let b = package(root.path(), "intel-rapl:1", "package-1", 1_000_000);
        let inner = package(root.path(), "intel-rapl:0:0", "core", 1_000_000);
        let psys = package(root.path(), "intel-rapl:2", "psys", 1_000_000);
        let mut rapl = Rapl::open(root.path()).unwrap();
        rapl.read().unwrap();
        for register in [&a, &b, &inner, &psys] {
            fs::write(register, "500000").unwrap();
        }
        assert_eq!(rapl.read(), Some(Joules(1.0)));
        fs::remove_file(&b).unwrap();
        assert_eq!(rapl.read(), None);
        assert!(Rapl::open(Path::new("/nonexistent")).is_none());
    }
}
