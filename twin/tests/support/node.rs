//! What an agent has before it on a compute node of the hall: devices that can
//! be capped, and sensors.

use heliostat_collector::source::SourceError;
use heliostat_collector::{CapActuator, CapError, Source};
use heliostat_models::lease::CappableDevice;
use heliostat_models::{Catalogue, DeviceId, Frame, Reading, Timestamp, Watts};
use heliostat_twin::{Hall, NodeSensorSource};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The hall, also while a test that holds it fails.
pub fn lock(hall: &Mutex<Hall>) -> MutexGuard<'_, Hall> {
    hall.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A node's devices: their limits are the hall's, and outlive the agent.
pub struct HallDevices {
    pub hall: Arc<Mutex<Hall>>,
    pub devices: Vec<(usize, CappableDevice)>,
}

impl HallDevices {
    fn find(&self, device: &DeviceId) -> Result<&(usize, CappableDevice), CapError> {
        let known = self.devices.iter().find(|(_, d)| d.device == *device);
        known.ok_or_else(|| CapError::UnknownDevice(device.clone()))
    }
}

impl CapActuator for HallDevices {
    fn devices(&mut self) -> Vec<CappableDevice> {
        let hall = lock(&self.hall);
        (self.devices.iter())
            .map(|(place, known)| {
                let current = hall.device_cap(*place).unwrap();
                CappableDevice {
                    found: current,
                    current,
                    ..known.clone()
                }
            })
            .collect()
    }

    fn set(&mut self, device: &DeviceId, uuid: &str, cap: Watts) -> Result<Watts, CapError> {
        let (place, known) = self.find(device)?;
        assert!(known.min <= cap && cap <= known.max, "{cap} for {device}");
        if uuid != known.uuid {
            return Err(CapError::WrongDevice {
                device: device.clone(),
                expected: uuid.to_owned(),
                found: known.uuid.clone(),
            });
        }
        lock(&self.hall).set_cap(*place, cap);
        Ok(cap)
    }

    fn current(&mut self, device: &DeviceId) -> Result<Watts, CapError> {
        let (place, _) = self.find(device)?;
        Ok(lock(&self.hall).device_cap(*place).unwrap())
    }
}

/// A node's sensors and its devices' readings, as one source.
pub struct HallNode {
    hall: Arc<Mutex<Hall>>,
    devices: Vec<DeviceId>,
    places: Range<usize>,
    sensors: NodeSensorSource,
}

impl HallNode {
    pub fn new(hall: &Arc<Mutex<Hall>>, node: usize) -> Self {
        let site = Arc::clone(lock(hall).site());
        let node = &site.nodes[node];
        Self {
            hall: Arc::clone(hall),
            devices: (site.devices[node.devices.clone()].iter())
                .map(|d| d.id.clone())
                .collect(),
            places: node.devices.clone(),
            sensors: NodeSensorSource::new(Arc::clone(hall), &node.id).unwrap(),
        }
    }
}

impl Source for HallNode {
    fn name(&self) -> &str {
        "node"
    }

    fn sample(&mut self, at: Timestamp) -> Result<Vec<Frame>, SourceError> {
        let mut frames = self.sensors.sample(at)?;
        let hall = lock(&self.hall);
        for (place, device) in self.places.clone().zip(&self.devices) {
            let power = hall.device_power(place).unwrap();
            let limit = hall.device_cap(place).unwrap();
            frames.push(Frame {
                device: device.clone(),
                at,
                readings: vec![
                    (Catalogue::gpu_power(), Reading::Measured(power.0)),
                    (Catalogue::gpu_power_limit(), Reading::Measured(limit.0)),
                ],
            });
        }
        Ok(frames)
    }
}
