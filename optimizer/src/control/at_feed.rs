//! Which limit holds at a power node: its breaker's, or the grid event's.
//!
//! A breaker must bear whatever devices may draw, so below it every device
//! counts with its cap. What a grid event asks is a promise about the meter at
//! the feed: there a device that no job holds counts with what it was read to
//! draw and a reserve, see [`AtFeed`]. Jobs that may start before the next
//! allocation are counted beforehand at the lowest caps that they start with;
//! `starts` knows them.

use crate::allocate::LimitNode;
use crate::check::{AtFeed, Facts, IDLE_RESERVE};
use heliostat_models::Watts;

/// A power node under the limit that leaves the least to caps.
pub(super) fn limit_node(facts: &Facts<'_>, place: usize) -> LimitNode {
    let node = &facts.site.power.nodes()[place];
    let usable = 1.0 - facts.margin;
    let breaker = LimitNode {
        id: node.id.clone(),
        parents: node.parents.clone(),
        limit: node.limit * usable,
        uncontrolled: facts.uncontrolled[place],
        spare: Watts::ZERO,
        uncertainty: facts
            .terms
            .uncertainty
            .get(place)
            .copied()
            .unwrap_or_default(),
    };
    match &facts.grid {
        Some(grid) if node.parents.is_empty() => {
            let promise = LimitNode {
                limit: grid.limit * usable,
                uncontrolled: grid.uncontrolled[place],
                uncertainty: Watts::ZERO,
                spare: spare(facts, grid, place),
                ..breaker.clone()
            };
            if room(&promise) < room(&breaker) {
                promise
            } else {
                breaker
            }
        }
        _ => breaker,
    }
}

/// What caps below a power node may add up to.
pub(super) fn room(node: &LimitNode) -> Watts {
    node.room()
}

/// By how much the devices at rest below a feed stay under their lowest caps;
/// of those that jobs may take, nothing.
fn spare(facts: &Facts<'_>, grid: &AtFeed<'_>, feed: usize) -> Watts {
    let site = facts.site;
    let mut spared: Vec<f64> = Vec::new();
    for (place, device) in site.devices.iter().enumerate() {
        let Some(drawn) = grid.idle.get(&device.id) else {
            continue;
        };
        if !(site.power.path_up(site.power_node_of(place))).contains(&feed) {
            continue;
        }
        let stated = facts.ranges.get(&device.id).copied();
        let lowest = stated.map_or(device.min_cap, |(low, _)| low);
        let counted = (*drawn + lowest * IDLE_RESERVE).min(lowest);
        spared.push((lowest - counted).0);
    }
    spared.sort_by(|a, b| b.total_cmp(a));
    Watts(spared.iter().skip(grid.starting).sum())
}
