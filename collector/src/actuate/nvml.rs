//! Power limits through NVML.

use super::{CapActuator, CapError};
use crate::source::nvml::{Session, cappable};
use heliostat_models::lease::CappableDevice;
use heliostat_models::{DeviceId, Watts};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::structs::device::PowerManagementConstraints;
use std::sync::Arc;

/// Sets power limits with `nvmlDeviceSetPowerManagementLimit`; made by
/// [`NvmlSource::actuator`](crate::source::nvml::NvmlSource::actuator).
pub struct NvmlActuator {
    session: Arc<Session>,
}

impl NvmlActuator {
    pub(crate) fn new(session: Arc<Session>) -> Self {
        Self { session }
    }

    fn ask<T>(
        &self,
        device: &DeviceId,
        action: &'static str,
        work: impl FnOnce(&mut nvml_wrapper::Device<'_>) -> Result<T, NvmlError>,
    ) -> Result<T, CapError> {
        match self.session.with(device, work) {
            Some(outcome) => outcome.map_err(|e| translate(device, action, &e)),
            None => Err(CapError::UnknownDevice(device.clone())),
        }
    }
}

impl CapActuator for NvmlActuator {
    fn devices(&mut self) -> Vec<CappableDevice> {
        cappable(&self.session)
    }

    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        let found = self.ask(device, "reading the UUID", |d| d.uuid())?;
        if found != uuid {
            return Err(CapError::WrongDevice {
                device: device.clone(),
                expected: uuid.to_owned(),
                found,
            });
        }
        let range = self.ask(device, "reading the settable range", |d| {
            d.power_management_limit_constraints()
        })?;
        let (min, max) = (range.min_limit, range.max_limit);
        let milliwatts = cap.to_milliwatts_floor();
        if !cap.is_finite() || milliwatts < min || milliwatts > max {
            return Err(CapError::OutOfRange {
                device: device.clone(),
                cap,
                min: Watts::from_milliwatts(min),
                max: Watts::from_milliwatts(max),
            });
        }
        self.ask(device, "setting the power limit", |d| {
            d.set_power_management_limit(milliwatts)
        })?;
        self.current(device)
    }

    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        self.ask(device, "reading the power limit", |d| {
            d.power_management_limit()
        })
        .map(Watts::from_milliwatts)
    }

    fn range(&mut self, device: &DeviceId) -> Option<(Watts, Watts)> {
        let range = self.ask(device, "reading the settable range", |d| {
            d.power_management_limit_constraints()
        });
        let watts = |range: PowerManagementConstraints| {
            let (min, max) = (range.min_limit, range.max_limit);
            (Watts::from_milliwatts(min), Watts::from_milliwatts(max))
        };
        range.ok().map(watts)
    }
}

fn translate(device: &DeviceId, action: &'static str, error: &NvmlError) -> CapError {
    let device = device.clone();
    match error {
        NvmlError::NoPermission => CapError::NoPermission { device },
        NvmlError::GpuLost | NvmlError::ResetRequired => CapError::Lost { device },
        NvmlError::NotSupported => CapError::NotSupported { device },
        other => CapError::Driver {
            device,
            action,
            message: other.to_string(),
        },
    }
}
