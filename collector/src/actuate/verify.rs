//! What every actuator verifies right before it writes.

use super::CapError;
use heliostat_models::{DeviceId, Watts};

/// Fails when the device at hand is not the one that the cap was decided for.
pub(super) fn identity(device: &DeviceId, expected: &str, found: &str) -> Result<(), CapError> {
    if expected == found {
        return Ok(());
    }
    Err(CapError::WrongDevice {
        device: device.clone(),
        expected: expected.to_owned(),
        found: found.to_owned(),
    })
}

/// Fails when the cap is no number, or outside what the device accepts.
pub(super) fn range(
    device: &DeviceId,
    cap: Watts,
    (min, max): (Watts, Watts),
) -> Result<(), CapError> {
    if cap.is_finite() && cap >= min && cap <= max {
        return Ok(());
    }
    Err(CapError::OutOfRange {
        device: device.clone(),
        cap,
        min,
        max,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_closed_and_take_numbers_only() {
        let device = DeviceId::from("n1-gpu0");
        let within = |cap| range(&device, Watts(cap), (Watts(200.0), Watts(700.0))).is_ok();
        assert!(within(200.0) && within(700.0));
        for bad in [199.999, 700.001, f64::NAN, f64::INFINITY, -1.0] {
            assert!(!within(bad), "{bad}");
        }
    }
}
