//! Whether a problem means something.

use super::problem::{Group, Problem, ProblemError};
use heliostat_models::Watts;

impl Problem {
    /// Whether the problem means something.
    ///
    /// # Errors
    /// The first contradiction, by nodes, devices, groups.
    pub fn validate(&self) -> Result<(), ProblemError> {
        let number = |what, of: &str, value: f64| {
            if value.is_finite() && value >= 0.0 {
                Ok(())
            } else {
                let of = of.to_owned();
                Err(ProblemError::Number { what, of, value })
            }
        };
        number("price_of_energy", "problem", self.price_of_energy)?;
        number("step", "problem", self.step.0)?;
        for (place, node) in self.nodes.iter().enumerate() {
            number("limit", &node.id, node.limit.0)?;
            number("uncontrolled", &node.id, node.uncontrolled.0)?;
            number("spare", &node.id, node.spare.0)?;
            number("uncertainty", &node.id, node.uncertainty.0)?;
            if let Some(parent) = node.parents.iter().find(|p| **p >= place) {
                return Err(ProblemError::Reference {
                    what: "power node",
                    of: node.id.clone(),
                    index: *parent,
                });
            }
        }
        for device in &self.devices {
            number("min", device.id.as_str(), device.min.0)?;
            number("max", device.id.as_str(), device.max.0)?;
            number("step", device.id.as_str(), device.step.0)?;
            number(
                "fixed",
                device.id.as_str(),
                device.fixed.map_or(0.0, |f| f.0),
            )?;
            if device.min > device.max {
                return Err(ProblemError::Range {
                    device: device.id.clone(),
                    min: device.min,
                    max: device.max,
                });
            }
            if device.node >= self.nodes.len() {
                return Err(ProblemError::Reference {
                    what: "power node",
                    of: device.id.to_string(),
                    index: device.node,
                });
            }
        }
        for contract in &self.contracts {
            number("limit", &contract.id, contract.limit.0)?;
            number("uncontrolled", &contract.id, contract.uncontrolled.0)?;
            number("uncertainty", &contract.id, contract.uncertainty.0)?;
            let nodes = contract
                .nodes
                .iter()
                .map(|v| ("power node", *v, self.nodes.len()));
            let devices = contract
                .devices
                .iter()
                .map(|d| ("device", *d, self.devices.len()));
            for (what, index, there) in nodes.chain(devices) {
                if index >= there {
                    return Err(ProblemError::Reference {
                        what,
                        of: contract.id.clone(),
                        index,
                    });
                }
            }
        }
        self.validate_groups(number)
    }

    fn validate_groups(
        &self,
        number: impl Fn(&'static str, &str, f64) -> Result<(), ProblemError>,
    ) -> Result<(), ProblemError> {
        let mut holder: Vec<Option<&Group>> = vec![None; self.devices.len()];
        for group in &self.groups {
            number("weight", group.job.as_str(), group.weight)?;
            number("floor_speed", group.job.as_str(), group.floor_speed)?;
            let (mut low, mut high) = (0.0f64, f64::INFINITY);
            for index in &group.devices {
                let Some(device) = self.devices.get(*index) else {
                    return Err(ProblemError::Reference {
                        what: "device",
                        of: group.job.to_string(),
                        index: *index,
                    });
                };
                if let Some(first) = holder[*index].replace(group) {
                    return Err(ProblemError::HeldTwice {
                        device: device.id.clone(),
                        first: first.job.clone(),
                        second: group.job.clone(),
                    });
                }
                if device.fixed.is_none() {
                    low = low.max(device.min.0);
                    high = high.min(device.max.0);
                }
            }
            if low > high {
                return Err(ProblemError::NoCommonCap {
                    job: group.job.clone(),
                    low: Watts(low),
                    high: Watts(high),
                });
            }
        }
        Ok(())
    }
}
