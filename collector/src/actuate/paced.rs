//! An actuator whose limits are read back at a pace of one's own.

use super::{CapActuator, CapError};
use heliostat_models::lease::CappableDevice;
use heliostat_models::{DeviceId, Watts};
use std::time::Duration;

/// Wraps another actuator and says how often limits are read back.
pub struct Paced {
    inner: Box<dyn CapActuator>,
    every: Duration,
}

impl Paced {
    /// `inner`, asked for its limits every so often.
    pub fn new(inner: Box<dyn CapActuator>, every: Duration) -> Self {
        Self { inner, every }
    }
}

impl CapActuator for Paced {
    fn devices(&mut self) -> Vec<CappableDevice> {
        self.inner.devices()
    }
    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        self.inner.set(device, uuid, cap)
    }
    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        self.inner.current(device)
    }
    fn range(&mut self, device: &DeviceId) -> Option<(Watts, Watts)> {
        self.inner.range(device)
    }
    fn writes(&self) -> bool {
        self.inner.writes()
    }
    fn look_every(&self) -> Duration {
        self.every
    }
    fn restore_within(&self) -> Duration {
        self.inner.restore_within()
    }
}
