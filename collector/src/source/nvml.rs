//! NVIDIA GPUs through NVML, by the unmodified `nvml-wrapper`. The library may
//! be the real driver's or one that implements the same C interface.
//!
//! Here NVML's units end: milliwatts, millijoules, percent and megahertz become
//! watts, joules, ratios and hertz.

use super::{ErrorClass, Source, SourceError};
use crate::actuate::NvmlActuator;
use heliostat_models::lease::CappableDevice;
use heliostat_models::{Catalogue, DeviceId, Frame, MetricId, NodeId, Reading, Timestamp, Watts};
use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// The name that the system's loader is asked for when no path is given.
const DEFAULT_LIBRARY: &str = "libnvidia-ml.so.1";

/// Why NVML cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NvmlOpenError {
    /// No such library.
    #[error(
        "the NVML library `{library}` cannot be loaded: {reason}; install the NVIDIA driver, give the library's path with --nvml-lib, or leave the GPUs out with --sources host"
    )]
    Library {
        /// The path or name that was tried.
        library: String,
        /// What the loader said.
        reason: String,
    },
    /// The library is there, the driver is not.
    #[error(
        "NVML `{library}` does not start: {reason}; check with `nvidia-smi` that the driver runs, or leave the GPUs out with --sources host"
    )]
    Start {
        /// The path or name that was tried.
        library: String,
        /// What NVML said.
        reason: String,
    },
}

/// An open NVML and the order of its devices; shared by source and actuator.
#[derive(Debug)]
pub(crate) struct Session {
    library: Option<PathBuf>,
    node: NodeId,
    open: RwLock<Open>,
}

#[derive(Debug)]
struct Open {
    nvml: Nvml,
    /// NVML indices in the order of PCI addresses.
    order: Vec<u32>,
}

impl Session {
    fn open(library: Option<&Path>, node: &NodeId) -> Result<Self, NvmlOpenError> {
        Ok(Self {
            library: library.map(Path::to_owned),
            node: node.clone(),
            open: RwLock::new(open(library)?),
        })
    }

    fn reopen(&self) -> Result<(), NvmlOpenError> {
        let fresh = open(self.library.as_deref())?;
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// The name of the device at a place in PCI order.
    fn name(&self, place: usize) -> DeviceId {
        DeviceId::from(format!("{}-gpu{place}", self.node))
    }

    /// The devices' names in PCI order.
    pub(crate) fn names(&self) -> Vec<DeviceId> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        (0..open.order.len())
            .map(|place| self.name(place))
            .collect()
    }

    /// Does something with a device; `None` when there is none of that name.
    pub(crate) fn with<T>(
        &self,
        device: &DeviceId,
        work: impl FnOnce(&mut Device<'_>) -> Result<T, NvmlError>,
    ) -> Option<Result<T, NvmlError>> {
        let place = (device.as_str().strip_prefix(self.node.as_str()))
            .and_then(|rest| rest.strip_prefix("-gpu")?.parse::<usize>().ok())?;
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let index = *open.order.get(place)?;
        Some(
            open.nvml
                .device_by_index(index)
                .and_then(|mut d| work(&mut d)),
        )
    }
}

fn open(library: Option<&Path>) -> Result<Open, NvmlOpenError> {
    let name = library.map_or_else(|| DEFAULT_LIBRARY.to_owned(), |p| p.display().to_string());
    let mut builder = Nvml::builder();
    if let Some(path) = library {
        builder.lib_path(path.as_os_str());
    }
    let nvml = builder.init().map_err(|error| match error {
        NvmlError::LibloadingError(error) => NvmlOpenError::Library {
            library: name.clone(),
            reason: error.to_string(),
        },
        NvmlError::FailedToLoadSymbol(reason) => NvmlOpenError::Library {
            library: name.clone(),
            reason: format!("it is no NVML: {reason}"),
        },
        error => NvmlOpenError::Start {
            library: name.clone(),
            reason: error.to_string(),
        },
    })?;
    let count = nvml.device_count().map_err(|error| NvmlOpenError::Start {
        library: name,
        reason: error.to_string(),
    })?;
    // A device that is lost already has no address; it goes last, so that the
    // others keep the names they have while it is well only if it was last.
    // NVML itself counts in PCI order, so the index stands in for it.
    let mut order: Vec<((u32, u32, u32), u32)> = Vec::new();
    for index in 0..count {
        let address = (nvml.device_by_index(index))
            .and_then(|d| d.pci_info())
            .map(|pci| (pci.domain, pci.bus, pci.device));
        match address {
            Ok(address) => order.push((address, index)),
            Err(_) => {
                let before = order.last().map_or((0, 0, 0), |(address, _)| *address);
                order.push((before, index));
            }
        }
    }
    order.sort();
    Ok(Open {
        nvml,
        order: order.into_iter().map(|(_, index)| index).collect(),
    })
}

/// Reads the GPUs of this node.
pub struct NvmlSource {
    session: Arc<Session>,
}

impl NvmlSource {
    /// Opens NVML; `library` is the system's when `None`. Devices are named
    /// `NODE-gpuN`, N counting in the order of PCI addresses.
    pub fn open(library: Option<&Path>, node: &NodeId) -> Result<Self, NvmlOpenError> {
        Ok(Self {
            session: Arc::new(Session::open(library, node)?),
        })
    }

    /// The GPUs with their settable ranges; one that does not say its UUID or
    /// range cannot be capped and is left out.
    pub fn devices(&self) -> Vec<CappableDevice> {
        cappable(&self.session)
    }

    /// How many GPUs there are, cappable or not.
    pub fn count(&self) -> usize {
        self.session.names().len()
    }

    /// The actuator for the same GPUs, sharing the open library.
    pub fn actuator(&self) -> NvmlActuator {
        NvmlActuator::new(Arc::clone(&self.session))
    }
}

/// The devices that can be capped.
pub(crate) fn cappable(session: &Session) -> Vec<CappableDevice> {
    let mut found = Vec::new();
    for name in session.names() {
        let described = session.with(&name, |device| {
            let range = device.power_management_limit_constraints()?;
            let limit = Watts::from_milliwatts(device.power_management_limit()?);
            Ok(CappableDevice {
                device: name.clone(),
                uuid: device.uuid()?,
                product: device.name()?,
                min: Watts::from_milliwatts(range.min_limit),
                max: Watts::from_milliwatts(range.max_limit),
                found: limit,
                current: limit,
            })
        });
        match described {
            Some(Ok(device)) => found.push(device),
            Some(Err(error)) => tracing::warn!(device = %name, %error, "this GPU cannot be capped"),
            None => {}
        }
    }
    found
}

impl Source for NvmlSource {
    fn name(&self) -> &str {
        "nvml"
    }

    fn sample(&mut self, at: Timestamp) -> Result<Vec<Frame>, SourceError> {
        let mut frames = Vec::new();
        let mut dead: Option<NvmlError> = None;
        for name in self.session.names() {
            let readings = self.session.with(&name, |device| Ok(read(device)));
            let readings = match readings {
                Some(Ok(readings)) => readings,
                Some(Err(error)) => {
                    if needs_restart(&error) {
                        dead = Some(error);
                    }
                    METRICS
                        .iter()
                        .map(|metric| (metric(), Reading::Missing))
                        .collect()
                }
                None => continue,
            };
            frames.push(Frame {
                device: name,
                at,
                readings,
            });
        }
        match dead {
            // Not one device's trouble: the driver went away under us.
            Some(error) => Err(SourceError::new(
                ErrorClass::Reconnect,
                format!("the NVIDIA driver does not answer: {error}"),
            )),
            None => Ok(frames),
        }
    }

    fn reconnect(&mut self) -> Result<(), SourceError> {
        (self.session.reopen()).map_err(|e| SourceError::new(ErrorClass::Reconnect, e.to_string()))
    }
}

fn needs_restart(error: &NvmlError) -> bool {
    matches!(
        error,
        NvmlError::Uninitialized | NvmlError::DriverNotLoaded | NvmlError::LibRmVersionMismatch
    )
}

/// All that is read of a GPU.
const METRICS: [fn() -> MetricId; 9] = [
    Catalogue::gpu_power,
    Catalogue::gpu_power_limit,
    Catalogue::gpu_energy,
    Catalogue::gpu_temperature,
    Catalogue::gpu_utilization,
    Catalogue::gpu_memory_utilization,
    Catalogue::gpu_memory_used,
    Catalogue::gpu_sm_clock,
    Catalogue::gpu_memory_clock,
];

/// Reads a device; what it cannot say now is missing.
fn read(device: &Device<'_>) -> Vec<(MetricId, Reading)> {
    let utilization = device.utilization_rates();
    let percent = |value: Option<u32>| reading(value, |v| f64::from(v) / 100.0);
    let megahertz = |value: Result<u32, NvmlError>| reading(value.ok(), |v| f64::from(v) * 1e6);
    let values = [
        reading(device.power_usage().ok(), |v| {
            Watts::from_milliwatts(v).get()
        }),
        reading(device.enforced_power_limit().ok(), |v| {
            Watts::from_milliwatts(v).get()
        }),
        large(device.total_energy_consumption().ok(), 1e-3),
        reading(device.temperature(TemperatureSensor::Gpu).ok(), f64::from),
        percent(utilization.as_ref().ok().map(|u| u.gpu)),
        percent(utilization.as_ref().ok().map(|u| u.memory)),
        large(device.memory_info().ok().map(|m| m.used), 1.0),
        megahertz(device.clock_info(Clock::SM)),
        megahertz(device.clock_info(Clock::Memory)),
    ];
    METRICS.iter().map(|metric| metric()).zip(values).collect()
}

/// NVML's "not available" is the largest number (`NVML_VALUE_NOT_AVAILABLE`); here it is missing.
fn reading(value: Option<u32>, unit: impl FnOnce(u32) -> f64) -> Reading {
    match value {
        Some(value) if value != u32::MAX => Reading::Measured(unit(value)),
        _ => Reading::Missing,
    }
}

fn large(value: Option<u64>, unit: f64) -> Reading {
    match value {
        Some(value) if value != u64::MAX => Reading::Measured(value as f64 * unit),
        _ => Reading::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_are_missing() {
        assert_eq!(reading(Some(u32::MAX), f64::from), Reading::Missing);
        assert_eq!(reading(Some(300), f64::from), Reading::Measured(300.0));
        assert_eq!(reading(None, f64::from), Reading::Missing);
        assert_eq!(large(Some(u64::MAX), 1.0), Reading::Missing);
        assert_eq!(large(Some(1_500), 1e-3), Reading::Measured(1.5));
    }

    #[test]
    fn a_missing_library_is_named_with_the_remedy() {
        let path = Path::new("/nonexistent/libnvidia-ml.so.1");
        let Err(error) = NvmlSource::open(Some(path), &NodeId::from("n1")) else {
            panic!("opened a library that does not exist");
        };
        let text = error.to_string();
        assert!(text.contains("/nonexistent/libnvidia-ml.so.1"), "{text}");
        assert!(text.contains("--sources host"), "{text}");
    }

    #[test]
    fn a_library_that_is_no_nvml_is_refused() {
        // The C library is on every Linux, and is no NVML.
        let opened = NvmlSource::open(Some(Path::new("libc.so.6")), &NodeId::from("n1"));
        assert!(matches!(opened, Err(NvmlOpenError::Library { .. })));
    }
}
