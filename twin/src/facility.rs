//! Sources of frames for what is not a GPU: meters and cooling plant, and a
//! node's own sensors. They stand in for Modbus meters and management
//! controllers; values are those of the hall's last sub-step.

use crate::hall::Hall;
use heliostat_collector::source::{ErrorClass, Source, SourceError};
use heliostat_models::{Catalogue, DeviceId, Frame, NodeId, Reading, Timestamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

fn lock(hall: &Mutex<Hall>) -> MutexGuard<'_, Hall> {
    hall.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All meters and the cooling plant of a site.
#[derive(Debug)]
pub struct FacilitySource {
    hall: Arc<Mutex<Hall>>,
}

impl FacilitySource {
    /// Of a hall.
    pub fn new(hall: Arc<Mutex<Hall>>) -> Self {
        Self { hall }
    }
}

impl Source for FacilitySource {
    fn name(&self) -> &str {
        "facility"
    }

    fn sample(&mut self, at: Timestamp) -> Result<Vec<Frame>, SourceError> {
        let hall = lock(&self.hall);
        let site = hall.site();
        let mut frames: Vec<Frame> = (site.meters.iter().enumerate())
            .map(|(index, meter)| Frame {
                device: meter.id.clone(),
                at,
                readings: vec![
                    (
                        Catalogue::meter_power(),
                        Reading::Measured(hall.meter_power(index).get()),
                    ),
                    (
                        Catalogue::meter_energy(),
                        Reading::Measured(hall.meter_energy(index).get()),
                    ),
                ],
            })
            .collect();
        let cooling = hall.cooling();
        frames.push(Frame {
            device: site.cooling.id.clone(),
            at,
            readings: vec![
                (
                    Catalogue::cooling_supply(),
                    Reading::Measured(cooling.supply.get()),
                ),
                (
                    Catalogue::cooling_return(),
                    Reading::Measured(cooling.returned.get()),
                ),
                (
                    Catalogue::outdoor_temperature(),
                    Reading::Measured(cooling.outdoor.get()),
                ),
            ],
        });
        Ok(frames)
    }
}

/// The sensors of one node, as its management controller would have them.
#[derive(Debug)]
pub struct NodeSensorSource {
    hall: Arc<Mutex<Hall>>,
    device: DeviceId,
    name: String,
    index: usize,
}

impl NodeSensorSource {
    /// Of a node; `None` when the site has none of this name.
    pub fn new(hall: Arc<Mutex<Hall>>, node: &NodeId) -> Option<Self> {
        let index = lock(&hall).site().node(node.as_str())?.0;
        Some(Self {
            hall,
            device: DeviceId::from(node.as_str()),
            // One agent may speak for many nodes; its sources' names must differ.
            name: format!("node-sensors-{node}"),
            index,
        })
    }
}

impl Source for NodeSensorSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn sample(&mut self, at: Timestamp) -> Result<Vec<Frame>, SourceError> {
        let Some(node) = lock(&self.hall).node(self.index) else {
            return Err(SourceError::new(
                ErrorClass::Gone,
                format!("node {} is not in the hall any more", self.device),
            ));
        };
        Ok(vec![Frame {
            device: self.device.clone(),
            at,
            readings: vec![
                (Catalogue::node_power(), Reading::Measured(node.power.get())),
                (
                    Catalogue::node_inlet_temperature(),
                    Reading::Measured(node.inlet.get()),
                ),
                (
                    Catalogue::node_temperature(),
                    Reading::Measured(node.temperature.get()),
                ),
                (
                    Catalogue::node_cpu_utilization(),
                    Reading::Measured(node.cpu_utilization),
                ),
            ],
        }])
    }
}
