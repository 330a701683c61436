//! Power limits of AMD GPUs through the `amdgpu` driver's hwmon files.
//!
//! ```text
//! /sys/class/drm/card1/device/unique_id                          16 hex digits of the chip
//! /sys/class/drm/card1/device/hwmon/hwmon4/power1_cap            microwatts, read and write
//!                                         power1_cap_min, _max   microwatts, the settable range
//! ```
//!
//! (Linux, `Documentation/gpu/amdgpu/thermal.rst` and `Documentation/ABI/testing/sysfs-class-hwmon`.)
//! Here the driver's microwatts end. It rounds down to whole watts itself.

mod sysfs;

pub use sysfs::{RealFiles, SysFiles};

use super::{CapActuator, CapError, verify};
use heliostat_models::lease::CappableDevice;
use heliostat_models::{DeviceId, NodeId, Watts};
use std::io;
use std::path::{Path, PathBuf};

/// Microwatts in a watt.
const MICRO: f64 = 1e6;

/// Sets power limits of the AMD GPUs of this node.
pub struct HwmonActuator {
    files: Box<dyn SysFiles>,
    /// `/sys/class/drm`.
    root: PathBuf,
    cards: Vec<Card>,
}

/// One GPU with a settable limit, where it was found last.
#[derive(Clone, Debug)]
struct Card {
    name: DeviceId,
    /// Its place on the bus, where it tells one.
    slot: Option<String>,
    /// `/sys/class/drm/cardN/device`.
    device: PathBuf,
    /// The hwmon folder within it.
    hwmon: PathBuf,
}

/// Why no AMD GPU can be capped.
#[derive(Debug, thiserror::Error)]
pub enum HwmonOpenError {
    /// The folder of graphics cards cannot be read.
    #[error(
        "{path} cannot be read: {reason}; check with `ls /sys/class/drm` that the amdgpu driver runs, or choose another --actuator"
    )]
    NoCards {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

impl HwmonActuator {
    /// Looks for GPUs under a sysfs, `/sys` except in tests. Devices are named
    /// `NODE-gpuN`, N counting those with a limit in the order of PCI addresses:
    /// the second die of an MI250X shows no limit of its own and is not counted.
    pub fn open(sysfs: &Path, node: &NodeId) -> Result<Self, HwmonOpenError> {
        Self::open_with(Box::new(RealFiles), sysfs, node)
    }

    /// The same over other files.
    pub fn open_with(
        files: Box<dyn SysFiles>,
        sysfs: &Path,
        node: &NodeId,
    ) -> Result<Self, HwmonOpenError> {
        let root = sysfs.join("class/drm");
        let found = look(files.as_ref(), &root).map_err(|e| HwmonOpenError::NoCards {
            path: root.clone(),
            reason: e.to_string(),
        })?;
        let cards = (found.into_iter().enumerate())
            .map(|(place, (slot, device, hwmon))| Card {
                name: DeviceId::from(format!("{node}-gpu{place}")),
                slot,
                device,
                hwmon,
            })
            .collect();
        Ok(Self { files, root, cards })
    }

    /// How many GPUs with a limit there are.
    pub fn count(&self) -> usize {
        self.cards.len()
    }

    /// A GPU by its name. A driver that was loaded anew has other numbers for its
    /// folders; the place on the bus says which is which.
    fn card(&mut self, device: &DeviceId) -> Result<Card, CapError> {
        let place = self.cards.iter().position(|c| &c.name == device);
        let place = place.ok_or_else(|| CapError::UnknownDevice(device.clone()))?;
        if self
            .files
            .read(&self.cards[place].hwmon.join("name"))
            .is_err()
        {
            let found = look(self.files.as_ref(), &self.root).unwrap_or_default();
            for (slot, device, hwmon) in found {
                let same = |c: &&mut Card| slot.is_some() && c.slot == slot;
                if let Some(card) = self.cards.iter_mut().find(same) {
                    (card.device, card.hwmon) = (device, hwmon);
                }
            }
        }
        Ok(self.cards[place].clone())
    }

    fn watts(&self, card: &Card, file: &str, action: &'static str) -> Result<Watts, CapError> {
        let text = (self.files.read(&card.hwmon.join(file)))
            .map_err(|e| translate(&card.name, action, &e))?;
        let microwatts: u64 = text.trim().parse().map_err(|_| CapError::Driver {
            device: card.name.clone(),
            action,
            message: format!("{file} holds `{}`, no number of microwatts", text.trim()),
        })?;
        Ok(Watts(microwatts as f64 / MICRO))
    }

    fn settable(&self, card: &Card) -> Result<(Watts, Watts), CapError> {
        let action = "reading the settable range";
        let max = self.watts(card, "power1_cap_max", action)?;
        // Older drivers let the lowest limit out; it is zero there.
        let min = match self.watts(card, "power1_cap_min", action) {
            Err(CapError::Lost { .. }) => Watts::ZERO,
            other => other?,
        };
        Ok((min, max))
    }

    /// The chip's number; where the driver tells none, its place on the bus.
    fn identity(&self, card: &Card) -> Result<String, CapError> {
        match self.files.read(&card.device.join("unique_id")) {
            Ok(text) if !text.trim().is_empty() => Ok(format!("AMD-{}", text.trim())),
            Ok(_) => self.bus_identity(card),
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.bus_identity(card),
            Err(e) => Err(translate(&card.name, "reading the UUID", &e)),
        }
    }

    fn bus_identity(&self, card: &Card) -> Result<String, CapError> {
        match pci_address(self.files.as_ref(), &card.device) {
            Some(address) => Ok(format!("PCI-{address}")),
            None => Err(CapError::Lost {
                device: card.name.clone(),
            }),
        }
    }

    fn describe(&self, card: &Card) -> Result<CappableDevice, CapError> {
        let (min, max) = self.settable(card)?;
        let limit = self.watts(card, "power1_cap", "reading the power limit")?;
        let product = (self.files.read(&card.device.join("product_name")).ok())
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "AMD GPU".to_owned());
        Ok(CappableDevice {
            device: card.name.clone(),
            uuid: self.identity(card)?,
            product,
            min,
            max,
            found: limit,
            current: limit,
        })
    }
}

impl CapActuator for HwmonActuator {
    fn devices(&mut self) -> Vec<CappableDevice> {
        let names: Vec<DeviceId> = self.cards.iter().map(|card| card.name.clone()).collect();
        let mut devices = Vec::new();
        for name in names {
            match self.card(&name).and_then(|card| self.describe(&card)) {
                Ok(device) => devices.push(device),
                Err(error) => {
                    tracing::warn!(device = %name, %error, "this GPU cannot be capped");
                }
            }
        }
        devices
    }

    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        let card = self.card(device)?;
        verify::identity(device, uuid, &self.identity(&card)?)?;
        verify::range(device, cap, self.settable(&card)?)?;
        let microwatts = (cap.get() * MICRO).floor() as u64;
        (self.files)
            .write(&card.hwmon.join("power1_cap"), &microwatts.to_string())
            .map_err(|e| translate(device, "setting the power limit", &e))?;
        self.watts(&card, "power1_cap", "reading the power limit")
    }

    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        let card = self.card(device)?;
        self.watts(&card, "power1_cap", "reading the power limit")
    }

    fn range(&mut self, device: &DeviceId) -> Option<(Watts, Watts)> {
        let card = self.card(device).ok()?;
        self.settable(&card).ok()
    }
}

/// A card's place on the bus, its folder, and the hwmon folder in that.
type Found = (Option<String>, PathBuf, PathBuf);

/// The cards with a limit, in the order of their places on the bus.
fn look(files: &dyn SysFiles, root: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in files.list(root)? {
        // `card0` is a card, `card0-DP-1` one of its sockets.
        let number = entry.strip_prefix("card");
        if !number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
            continue;
        }
        let device = root.join(&entry).join("device");
        if let Some(hwmon) = amdgpu(files, &device) {
            found.push((pci_address(files, &device), device, hwmon));
        }
    }
    found.sort();
    Ok(found)
}

/// The hwmon folder of a card, if the card is amdgpu's and has a limit.
fn amdgpu(files: &dyn SysFiles, device: &Path) -> Option<PathBuf> {
    let folder = device.join("hwmon");
    let mut names = files.list(&folder).ok()?;
    names.sort();
    names.into_iter().map(|n| folder.join(n)).find(|hwmon| {
        let read = |file: &str| files.read(&hwmon.join(file));
        let ours = read("name").is_ok_and(|name| name.trim() == "amdgpu");
        // Zero, or no file: a die whose limit is its neighbour's. Any other
        // trouble is a GPU's own and must not move the names of the others.
        let limited = match read("power1_cap_max") {
            Ok(text) => text.trim() != "0",
            Err(e) => e.kind() != io::ErrorKind::NotFound,
        };
        ours && limited
    })
}

/// Like `0000:c1:00.0`. Its texts sort as the addresses do.
fn pci_address(files: &dyn SysFiles, device: &Path) -> Option<String> {
    let text = files.read(&device.join("uevent")).ok()?;
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix("PCI_SLOT_NAME="))?;
    Some(line.trim().to_ascii_lowercase())
}

fn translate(device: &DeviceId, action: &'static str, error: &io::Error) -> CapError {
    let device = device.clone();
    // ENODEV: the device left while its file was open.
    const NO_SUCH_DEVICE: i32 = 19;
    match error.kind() {
        io::ErrorKind::PermissionDenied => CapError::NoPermission { device },
        io::ErrorKind::NotFound => CapError::Lost { device },
        _ if error.raw_os_error() == Some(NO_SUCH_DEVICE) => CapError::Lost { device },
        _ => CapError::Driver {
            device,
            action,
            message: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests;
