//! What can be read in the hall, and the readings for the boards.

use super::Hall;
use heliostat_models::site::MeterRole;
use heliostat_models::{Celsius, Joules, Watts};
use heliostat_nvml_shim::board::Readings;

/// The cooling plant's readings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CoolingReading {
    /// Coolant into the room.
    pub supply: Celsius,
    /// Coolant out of the room.
    pub returned: Celsius,
    /// Dry bulb outside.
    pub outdoor: Celsius,
    /// Power of pumps, fans and compressors.
    pub power: Watts,
}

/// A node's readings, as its management controller has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeReading {
    /// Whole node.
    pub power: Watts,
    /// Air or liquid that enters.
    pub inlet: Celsius,
    /// Hottest sensor besides the accelerators.
    pub temperature: Celsius,
    /// Share of processor time not idle.
    pub cpu_utilization: f64,
}

impl Hall {
    /// Power of the IT equipment in the last sub-step.
    pub fn it_power(&self) -> Watts {
        self.node_power.iter().sum()
    }
    /// Power of the accelerators in the last sub-step.
    pub fn gpu_power(&self) -> Watts {
        self.gpus.iter().map(|g| g.mean_power).sum()
    }
    /// Power of the whole site in the last sub-step.
    pub fn site_power(&self) -> Watts {
        self.it_power() + self.facility.total()
    }
    /// Power through every power node, in the order of the tree.
    pub fn power_nodes(&self) -> &[Watts] {
        &self.flow
    }
    /// Momentary ratio of site power to IT power.
    pub fn pue(&self) -> Option<f64> {
        self.facility.pue(self.it_power())
    }
    /// Power of one device in the last sub-step.
    pub fn device_power(&self, device: usize) -> Option<Watts> {
        self.gpus.get(device).map(|g| g.mean_power)
    }
    /// Limit that is set on one device.
    pub fn device_cap(&self, device: usize) -> Option<Watts> {
        self.gpus.get(device).map(|g| g.cap)
    }
    /// Temperature of one device's die.
    pub fn device_temperature(&self, device: usize) -> Option<Celsius> {
        self.gpus.get(device).map(|g| g.temperature)
    }
    /// Whether a job holds a device.
    pub fn is_held(&self, device: usize) -> bool {
        self.gpus.get(device).is_some_and(|g| g.job.is_some())
    }

    /// Power at a meter of the site (by index): at its power node where it has
    /// one. Without one, what its role says. The twin has no generators, no
    /// on-site sources and no reuse of heat: such meters show zero.
    pub fn meter_power(&self, meter: usize) -> Watts {
        let Some(meter) = self.site.meters.get(meter) else {
            return Watts::ZERO;
        };
        let node = meter.at.as_ref().and_then(|at| self.site.power.find(at));
        match (meter.role, node) {
            (MeterRole::OnSiteRenewable | MeterRole::BackUp | MeterRole::ReusedHeat, _) => {
                Watts::ZERO
            }
            (MeterRole::Cooling, _) => self.facility.cooling,
            (_, Some(node)) => self.flow.get(node).copied().unwrap_or(Watts::ZERO),
            (MeterRole::DataCentre, None) => self.site_power(),
            (MeterRole::It, None) => self.it_power(),
            (MeterRole::Other, None) => self.facility.losses,
        }
    }
    /// Energy register of a meter (by index).
    pub fn meter_energy(&self, meter: usize) -> Joules {
        self.meters.get(meter).copied().unwrap_or(Joules::ZERO)
    }

    /// The cooling plant.
    pub fn cooling(&self) -> CoolingReading {
        CoolingReading {
            supply: self.site.cooling.supply,
            returned: self.facility.return_temperature,
            outdoor: self.outdoor,
            power: self.facility.cooling,
        }
    }

    /// A node (by index in the site).
    pub fn node(&self, node: usize) -> Option<NodeReading> {
        let place = self.site.nodes.get(node)?;
        let power = *self.node_power.get(node)?;
        let gpus = &self.gpus[place.devices.clone()];
        let own = power - gpus.iter().map(|g| g.mean_power).sum::<Watts>();
        let load = (own / place.overhead.max(Watts(1.0)) - 0.5) / 0.5;
        let inlet = self.node_inlet[node];
        Some(NodeReading {
            power,
            inlet,
            temperature: inlet + Celsius(12.0 + 25.0 * load.clamp(0.0, 1.0)),
            cpu_utilization: (0.02 + 0.4 * load).clamp(0.0, 1.0),
        })
    }

    /// Writes what the sensors say onto the boards.
    pub(super) fn publish(&mut self) {
        if !matches!(self.caps, super::CapSource::Boards(_)) {
            return;
        }
        let at_ms = self.now.0.max(0) as u64;
        let per_cent = |share: f64| (share * 100.0).round().clamp(0.0, 100.0) as u32;
        let readings: Vec<Option<Readings>> = (self.gpus.iter())
            .map(|g| {
                (!g.stuck && !g.lost).then(|| Readings {
                    power_mw: (g.power.get() * 1_000.0).round().max(0.0) as u32,
                    temperature_c: g.temperature.get().round().max(0.0) as u32,
                    energy_mj: ((g.energy - g.register_from) * 1_000.0).max(0.0) as u64,
                    sm_mhz: (g.clock * f64::from(g.model.core_mhz)).round() as u32,
                    memory_mhz: g.model.memory_mhz,
                    gpu_percent: per_cent(g.utilization),
                    memory_percent: per_cent(g.memory_utilization),
                    memory_used: (g.memory_used * g.model.memory_bytes as f64) as u64,
                    at_ms,
                })
            })
            .collect();
        self.caps.write(&readings);
    }
}
