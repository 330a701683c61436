//! The instant under which a frame is stored.
//!
//! The store knows a frame by device and instant and keeps the first. A node's
//! own agent and a gateway to management controllers both sample on the full
//! second, and speak of the same node: the later of the two would pass for a
//! double, and its readings would be lost. A gateway's readings of nodes and
//! their devices are therefore stored one to seven milliseconds behind, always
//! the same for one gateway, so that what is sent again is still recognised.
//! The latest frame of a device is made of all that lies so close together.

use heliostat_models::site::Entity;
use heliostat_models::{AgentId, Frame, Site, Timestamp};
use std::time::Duration;

/// Milliseconds over which one instant's readings may spread, the instant's own included.
pub const SPREAD: i64 = 8;

/// The instant to store a frame of `agent` under.
pub(super) fn stored_at(site: &Site, agent: &AgentId, frame: &Frame) -> Timestamp {
    let is_of_node = matches!(
        site.entity(&frame.device),
        Some(Entity::Node(_) | Entity::Device(_))
    );
    if is_of_node && site.node(agent.as_str()).is_none() {
        frame.at + Duration::from_millis(behind(agent))
    } else {
        frame.at
    }
}

/// Where a gateway's readings stand: 1 to 7, spread evenly by its name (FNV-1a).
fn behind(agent: &AgentId) -> u64 {
    let hash = (agent.as_str().bytes()).fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    1 + (hash >> 32) % (SPREAD as u64 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn gateways_stand_behind_and_not_all_at_one_place() {
        let places: BTreeSet<u64> = (0..100)
            .map(|n| behind(&AgentId::from(format!("gateway-{n}"))))
            .collect();
        assert_eq!(places, (1..SPREAD as u64).collect());
    }
}
