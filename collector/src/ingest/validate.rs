//! What may enter the store: known devices, spoken of by whom it concerns,
//! values within the catalogue's range, times that can be.

use heliostat_models::metrics::Metric;
use heliostat_models::site::Entity;
use heliostat_models::{AgentId, Catalogue, Frame, Site, Timestamp};
use heliostat_store::instants::{AHEAD, EARLIEST};
use std::collections::{BTreeMap, HashSet};

/// Reasons that are told apart; names in them come from outside and could be many.
const REASONS: usize = 500;

/// Readings refused, by reason.
pub(crate) type Refused = BTreeMap<String, u64>;

/// Counts `samples` refused for a reason.
pub(crate) fn refuse(refused: &mut Refused, reason: String, samples: u64) {
    let reason = if refused.len() < REASONS || refused.contains_key(&reason) {
        reason
    } else {
        "other reasons".into()
    };
    *refused.entry(reason).or_default() += samples;
}

/// Checks frames against a site.
pub(super) struct Validator<'a> {
    pub(super) site: &'a Site,
    pub(super) now: Timestamp,
}

impl Validator<'_> {
    /// The part of a frame that may be stored; what may not is counted.
    pub(super) fn check(
        &self,
        agent: &AgentId,
        mut frame: Frame,
        refused: &mut Refused,
    ) -> Option<Frame> {
        let samples = frame.readings.len() as u64;
        if let Err(reason) = self.frame_fault(agent, &frame) {
            refuse(refused, reason.into(), samples);
            return None;
        }
        let catalogue = Catalogue::builtin();
        let mut seen = HashSet::with_capacity(frame.readings.len());
        frame.readings.retain(|(id, reading)| {
            let metric = catalogue.metric(*id);
            let fault = if !seen.insert(*id) {
                "stands twice in a frame"
            } else {
                match reading.value().and_then(|v| value_fault(metric, v)) {
                    Some(fault) => fault,
                    None => return true,
                }
            };
            refuse(refused, format!("{}: {fault}", metric.name), 1);
            false
        });
        (!frame.readings.is_empty()).then_some(frame)
    }

    fn frame_fault(&self, agent: &AgentId, frame: &Frame) -> Result<(), &'static str> {
        let Some(entity) = self.site.entity(&frame.device) else {
            return Err("unknown device");
        };
        // An agent that is a node's speaks for that node; others (gateways to
        // meters, plants, the grid or management controllers) for anything.
        if let Some((node, _)) = self.site.node(agent.as_str()) {
            let own = match entity {
                Entity::Node(i) => i == node,
                Entity::Device(i) => self.site.devices[i].node == node,
                // A job writes its throughput on one of its nodes; which those are, only
                // the table of jobs knows. Nothing but speed curves is made of it.
                Entity::Job => frame
                    .readings
                    .iter()
                    .all(|(m, _)| *m == Catalogue::job_throughput()),
                Entity::Meter(_) | Entity::Cooling | Entity::Grid => false,
            };
            if !own {
                return Err("a node's agent speaks for what is not the node's");
            }
        }
        time_fault(frame.at, self.now).map_or(Ok(()), Err)
    }
}

/// Why an instant cannot be one of a sample, if it cannot.
pub(crate) fn time_fault(at: Timestamp, now: Timestamp) -> Option<&'static str> {
    if at < EARLIEST {
        Some("time before 2000")
    } else if at > now + AHEAD {
        Some("time more than 10 min ahead")
    } else {
        None
    }
}

/// Why a value cannot be one of a metric, if it cannot.
pub(crate) fn value_fault(metric: &Metric, value: f64) -> Option<&'static str> {
    if !value.is_finite() {
        Some("not finite")
    } else if value < metric.range.0 || value > metric.range.1 {
        Some("out of range")
    } else {
        None
    }
}
