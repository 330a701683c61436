//! What control shows: the view for pages and API, and plans in words.

use super::round::Control;
use crate::plan_service::PlanOutput;
use crate::view::{CapView, ControlView, PowerNodeView};
use heliostat_models::job::JobOrder;
use heliostat_models::site::power::PowerNodeKind;
use heliostat_models::{JobId, Timestamp, Watts};
use std::collections::HashMap;
use std::sync::Arc;

/// Publishes how things stand, as one value.
pub(super) fn publish(control: &Control, now: Timestamp) {
    let site = &control.deps.site;
    let acknowledged = control.executor.acknowledged();
    let mut caps = HashMap::new();
    let mut capped = vec![Watts::ZERO; site.power.nodes().len()];
    let mut prices: &[f64] = &[];
    if let Some(in_force) = &control.in_force {
        prices = &in_force.node_prices;
        for (place, device) in site.devices.iter().enumerate() {
            let Some(decided) = in_force.caps.get(&device.id).copied() else {
                continue;
            };
            for node in site.power.path_up(site.power_node_of(place)) {
                capped[node] += decided;
            }
            let view = CapView {
                decided,
                acknowledged: acknowledged.get(&device.id).copied(),
            };
            caps.insert(device.id.clone(), view);
        }
    }
    let power = (site.power.nodes().iter().enumerate())
        .filter(|(_, node)| node.kind != PowerNodeKind::Node)
        .map(|(place, node)| PowerNodeView {
            id: node.id.clone(),
            limit: control.nodes.get(place).map_or(node.limit, |n| n.limit),
            uncontrolled: control
                .nodes
                .get(place)
                .map_or(Watts::ZERO, |n| n.uncontrolled),
            // What devices at rest are known not to draw of their caps is no load.
            capped: (capped[place] - control.nodes.get(place).map_or(Watts::ZERO, |n| n.spare))
                .max(Watts::ZERO),
            price: prices.get(place).copied().unwrap_or(0.0),
        })
        .collect();
    let view = ControlView {
        at: now,
        mode: control.mode,
        power,
        caps,
        price_of_energy: control.planning.price(now),
        allocation: control.in_force.as_ref().map(|f| f.certificate.clone()),
        plan: control.planning.latest.as_ref().map(|p| p.view.clone()),
        grid_events: control.events.all(),
        max_gap: control.max_gap,
        allocations: control.allocations,
    };
    control.view.send_replace(Arc::new(view));
}

/// A plan's summary, and why its orders changed.
pub(super) fn plan_in_words(plan: &PlanOutput, news: &[(JobId, JobOrder)]) -> (String, String) {
    let names = |order: JobOrder| -> Vec<&str> {
        (news.iter())
            .filter(|(_, o)| *o == order)
            .map(|(job, _)| job.as_str())
            .collect()
    };
    let (run, hold) = (names(JobOrder::Run), names(JobOrder::Hold));
    let mut parts = Vec::new();
    if !run.is_empty() {
        parts.push(format!("run {}", listed(&run)));
    }
    if !hold.is_empty() {
        parts.push(format!("hold {}", listed(&hold)));
    }
    let summary = format!("Plan: {}.", parts.join("; "));
    let reasons: Vec<String> = (plan.view.jobs.iter())
        .filter(|j| news.iter().any(|(job, _)| *job == j.job))
        .take(3)
        .map(|j| format!("{}: {}", j.job, j.reason))
        .collect();
    let reason = if reasons.is_empty() {
        "The plan orders all jobs it knows.".to_owned()
    } else {
        reasons.join(" ")
    };
    (summary, reason)
}

fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 6;
    let mut text = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}
