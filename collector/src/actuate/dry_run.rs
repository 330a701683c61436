//! An actuator that verifies and reads, and writes nothing.

use super::{CapActuator, CapError, verify};
use heliostat_models::lease::CappableDevice;
use heliostat_models::{DeviceId, Watts};
use std::time::Duration;

/// A limit closer than this to the one asked for needs no write.
const SAME: f64 = 0.6;

/// Wraps another actuator. A cap that the device has already is answered as set;
/// any other ends, after all that can be verified without a write, in
/// [`CapError::DryRun`], so that nobody mistakes it for a cap in force.
pub struct DryRun {
    inner: Box<dyn CapActuator>,
}

impl DryRun {
    /// A dry run of `inner`, whose `set` is never called.
    pub fn new(inner: Box<dyn CapActuator>) -> Self {
        Self { inner }
    }
}

impl CapActuator for DryRun {
    fn devices(&mut self) -> Vec<CappableDevice> {
        self.inner.devices()
    }

    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        // Asked anew each time: identity and range are those of now.
        let devices = self.inner.devices();
        let known = (devices.iter().find(|d| &d.device == device))
            .ok_or_else(|| CapError::UnknownDevice(device.clone()))?;
        verify::identity(device, uuid, &known.uuid)?;
        verify::range(device, cap, (known.min, known.max))?;
        let current = self.inner.current(device)?;
        if (current.get() - cap.get()).abs() <= SAME {
            return Ok(current);
        }
        tracing::info!(%device, %cap, %current, "dry run: a power limit would be set");
        Err(CapError::DryRun {
            device: device.clone(),
            cap,
            current,
        })
    }

    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        self.inner.current(device)
    }

    fn range(&mut self, device: &DeviceId) -> Option<(Watts, Watts)> {
        self.inner.range(device)
    }

    fn writes(&self) -> bool {
        false
    }

    fn look_every(&self) -> Duration {
        self.inner.look_every()
    }

    fn restore_within(&self) -> Duration {
        self.inner.restore_within()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A GPU that must not be written to.
    struct ReadOnly;

    impl CapActuator for ReadOnly {
        fn devices(&mut self) -> Vec<CappableDevice> {
            vec![CappableDevice {
                device: "n1-gpu0".into(),
                uuid: "GPU-1".into(),
                product: "Test".into(),
                min: Watts(200.0),
                max: Watts(700.0),
                found: Watts(650.0),
                current: Watts(650.0),
            }]
        }
        fn set(&mut self, device: &DeviceId, _: &str, cap: Watts) -> Result<Watts, CapError> {
            panic!("a dry run wrote {cap} to {device}");
        }
        fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
            match device.as_str() {
                "n1-gpu0" => Ok(Watts(650.0)),
                _ => Err(CapError::UnknownDevice(device.clone())),
            }
        }
    }

    #[test]
    fn verifies_all_writes_nothing_and_says_what_it_would_do() {
        let mut dry = DryRun::new(Box::new(ReadOnly));
        let gpu = DeviceId::from("n1-gpu0");
        assert!(!dry.writes());
        assert_eq!(
            (dry.devices().len(), dry.current(&gpu)),
            (1, Ok(Watts(650.0)))
        );
        let would = dry.set(&gpu, "GPU-1", Watts(450.0)).unwrap_err();
        assert_eq!(
            would.to_string(),
            "dry run: n1-gpu0 would have been set to 450 W; it keeps 650 W"
        );
        // What needs no write is done: a limit found is thus restored.
        assert_eq!(dry.set(&gpu, "GPU-1", Watts(650.0)), Ok(Watts(650.0)));
        assert!(matches!(
            dry.set(&gpu, "GPU-2", Watts(650.0)),
            Err(CapError::WrongDevice { .. })
        ));
        assert!(matches!(
            dry.set(&gpu, "GPU-1", Watts(701.0)),
            Err(CapError::OutOfRange { .. })
        ));
        assert!(matches!(
            dry.set(&"n1-gpu9".into(), "GPU-1", Watts(450.0)),
            Err(CapError::UnknownDevice(_))
        ));
    }
}
