//! What may change of a problem while an engine keeps its arrays.

use super::problem::{Problem, ProblemError};
use super::rows::NONE;
use heliostat_models::{SpeedCurve, Watts};

/// A change of a problem. What is not here (jobs that start or end, devices
/// that come or go, another tree) makes a new problem.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The limit of a power node.
    Limit {
        /// Which, by place.
        node: usize,
        /// Its limit now.
        limit: Watts,
    },
    /// What no cap controls at a power node.
    Uncontrolled {
        /// Which, by place.
        node: usize,
        /// What is drawn now.
        uncontrolled: Watts,
        /// By how much it may be more.
        uncertainty: Watts,
    },
    /// The limit of a contract.
    ContractLimit {
        /// Which, by place.
        contract: usize,
        /// Its limit now.
        limit: Watts,
    },
    /// The range of a device.
    Range {
        /// Which, by place.
        device: usize,
        /// Lowest cap that can be set now.
        min: Watts,
        /// Highest cap that can be set now.
        max: Watts,
    },
    /// The speed curve of a job.
    Curve {
        /// Which, by place in the groups.
        group: usize,
        /// Its curve now.
        curve: SpeedCurve,
    },
    /// Weight and floor of a job.
    Service {
        /// Which, by place in the groups.
        group: usize,
        /// Worth of a device hour at full speed.
        weight: f64,
        /// Lowest speed that is acceptable.
        floor_speed: f64,
    },
    /// The price of energy λ.
    PriceOfEnergy(f64),
}

impl Change {
    /// Whether it leaves the problem sound; `holder` is the group of each device.
    pub(super) fn check(&self, problem: &Problem, holder: &[u32]) -> Result<(), ProblemError> {
        let number = |what, of: &str, value: f64| {
            let of = of.to_owned();
            if value.is_finite() && value >= 0.0 {
                Ok(())
            } else {
                Err(ProblemError::Number { what, of, value })
            }
        };
        let there = |what, index: usize, count: usize| {
            let of = "change".to_owned();
            if index < count {
                Ok(())
            } else {
                Err(ProblemError::Reference { what, of, index })
            }
        };
        match self {
            Change::Limit { node, limit } => {
                there("power node", *node, problem.nodes.len())?;
                number("limit", &problem.nodes[*node].id, limit.0)
            }
            Change::Uncontrolled {
                node,
                uncontrolled,
                uncertainty,
            } => {
                there("power node", *node, problem.nodes.len())?;
                number("uncontrolled", &problem.nodes[*node].id, uncontrolled.0)?;
                number("uncertainty", &problem.nodes[*node].id, uncertainty.0)
            }
            Change::ContractLimit { contract, limit } => {
                there("contract", *contract, problem.contracts.len())?;
                number("limit", &problem.contracts[*contract].id, limit.0)
            }
            Change::Range { device, min, max } => {
                there("device", *device, problem.devices.len())?;
                range(problem, holder, *device, (*min, *max), number)
            }
            Change::Curve { group, .. } => there("group", *group, problem.groups.len()),
            Change::Service {
                group,
                weight,
                floor_speed,
            } => {
                there("group", *group, problem.groups.len())?;
                number("weight", problem.groups[*group].job.as_str(), *weight)?;
                number(
                    "floor_speed",
                    problem.groups[*group].job.as_str(),
                    *floor_speed,
                )
            }
            Change::PriceOfEnergy(price) => number("price_of_energy", "problem", *price),
        }
    }
}

fn range(
    problem: &Problem,
    holder: &[u32],
    device: usize,
    (min, max): (Watts, Watts),
    number: impl Fn(&'static str, &str, f64) -> Result<(), ProblemError>,
) -> Result<(), ProblemError> {
    let spec = &problem.devices[device];
    number("min", spec.id.as_str(), min.0)?;
    number("max", spec.id.as_str(), max.0)?;
    if min > max {
        let device = spec.id.clone();
        return Err(ProblemError::Range { device, min, max });
    }
    let holder = holder[device];
    if holder == NONE || spec.fixed.is_some() {
        return Ok(());
    }
    let group = &problem.groups[holder as usize];
    let (mut low, mut high) = (min, max);
    for other in group.devices.iter().filter(|d| **d != device) {
        let other = &problem.devices[*other];
        if other.fixed.is_none() {
            low = low.max(other.min);
            high = high.min(other.max);
        }
    }
    if low > high {
        let job = group.job.clone();
        return Err(ProblemError::NoCommonCap { job, low, high });
    }
    Ok(())
}
