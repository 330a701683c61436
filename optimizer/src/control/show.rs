//! What control shows: the view for pages and API, and plans in words.

use super::round::Control;
use crate::allocate::Contract;
use crate::plan_service::PlanOutput;
use crate::view::{CapView, CapsView, ControlHealth, ControlState, ControlView, PowerNodeView};
use heliostat_models::job::JobOrder;
use heliostat_models::site::power::PowerNodeKind;
use heliostat_models::{JobId, Timestamp, Watts};
use std::sync::Arc;

/// The parts of the view that are as large as the site.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// What they were made from: decisions made, and the executor's state.
    from: Option<(u64, u64)>,
    /// The caps asked for while load was being taken off.
    relieved: Option<Vec<Watts>>,
    caps: CapsView,
    power: Arc<[PowerNodeView]>,
    contracts: Arc<[PowerNodeView]>,
}

impl Shown {
    /// Makes them anew where what they show has changed.
    fn update(control: &mut Control) {
        let from = Some((control.allocations, control.executor.version()));
        let relieved = control.watch.caps();
        if control.shown.from == from && control.shown.relieved.as_deref() == relieved {
            return;
        }
        let site = &control.deps.site;
        let allocation = control.in_force.as_ref().map(|f| f.outcome.allocation());
        let prices = allocation.map_or(&[][..], |a| &a.node_prices);
        let allocated = allocation.map_or(&[][..], |a| &a.caps);
        let decided = relieved.unwrap_or(allocated);
        let reported = control.executor.reported();
        let whole = control.executor.limited_whole();
        let devices = site.devices.iter().zip(decided).zip(reported);
        let caps = devices.map(|((device, decided), reported)| {
            Some(CapView {
                decided: *decided,
                acknowledged: *reported,
                by_node_limit: whole.contains(&device.node),
            })
        });
        let problem = control.problem.as_deref();
        let power = (site.power.nodes().iter().enumerate())
            .filter(|(_, node)| node.kind != PowerNodeKind::Node)
            .map(|(place, node)| {
                let asked = problem.and_then(|p| p.nodes.get(place));
                let capped = allocation.and_then(|a| a.capped.get(place));
                // What devices at rest are known not to draw of their caps is no load.
                let spare = asked.map_or(Watts::ZERO, |n| n.spare);
                let capped = capped.map_or(Watts::ZERO, |capped| *capped - spare);
                PowerNodeView {
                    id: node.id.clone(),
                    limit: asked.map_or(node.limit, |n| n.limit),
                    uncontrolled: asked.map_or(Watts::ZERO, |n| n.uncontrolled + n.uncertainty),
                    capped: capped.max(Watts::ZERO),
                    price: prices.get(place).copied().unwrap_or(0.0),
                }
            })
            .collect();
        let contracts = contracts(control, allocated);
        let relieved = relieved.map(<[Watts]>::to_vec);
        control.shown = Shown {
            from,
            relieved,
            caps: CapsView::new(Arc::clone(site), caps),
            power,
            contracts,
        };
    }
}

/// The site's power contracts under the caps decided.
fn contracts(control: &Control, decided: &[Watts]) -> Arc<[PowerNodeView]> {
    let site = &control.deps.site;
    if site.power_contracts.is_empty() {
        return Arc::default();
    }
    let nodes = site.power.nodes().len();
    let mut capped = vec![Watts::ZERO; site.power_contracts.len()];
    for (place, cap) in decided.iter().enumerate() {
        let rows = control.executor.rows().above(place).iter();
        for contract in rows.filter_map(|row| row.checked_sub(nodes)) {
            capped[contract] += *cap;
        }
    }
    let allocation = control.in_force.as_ref().map(|f| f.outcome.allocation());
    let prices = allocation.map_or(&[][..], |a| &a.contract_prices);
    let asked = control.problem.as_deref().map_or(&[][..], |p| &p.contracts);
    (site.power_contracts.iter().zip(capped).enumerate())
        .map(|(place, (contract, capped))| {
            let usable = contract.usable(control.config.policy.margin);
            let load = |c: &Contract| c.uncontrolled + c.uncertainty;
            PowerNodeView {
                id: contract.id.clone(),
                limit: asked.get(place).map_or(usable, |c| c.limit),
                uncontrolled: asked.get(place).map_or(Watts::ZERO, load),
                capped,
                price: prices.get(place).copied().unwrap_or(0.0),
            }
        })
        .collect()
}

/// Where in [`ControlState`]'s machine control is.
fn state(control: &Control) -> ControlState {
    if !control.is_to_act() {
        ControlState::Observe
    } else if !control.armed() {
        ControlState::StandingBy
    } else if control.refused || !control.is_connected() {
        ControlState::Safe
    } else if control.executor.beyond_reach() > 0
        || !control.told_troubles().is_empty()
        || control.watch.is_active()
    {
        ControlState::Degraded
    } else {
        ControlState::Armed
    }
}

/// Figures of control's own.
fn health(control: &Control) -> ControlHealth {
    let (foreign_changes, foreign_corrected) = control.agents.foreign();
    ControlHealth {
        refused: control.journal.refusals,
        beyond_reach: if control.armed() {
            control.executor.beyond_reach()
        } else {
            0
        },
        unanswered: control.executor.unanswered(),
        foreign_changes,
        foreign_corrected,
        foreign_devices: control.agents.devices_touched(),
        clocks_off: control.agents.clocks_off(),
        unsigned: control.link.unsigned(),
        grid_event_unmet: control.notices.unmet.is_some(),
        fence: control.lock.fence(),
        allocated: control.allocated,
        troubles: control.told_troubles(),
    }
}

/// Publishes how things stand, as one value.
pub(super) fn publish(control: &mut Control, now: Timestamp) {
    Shown::update(control);
    let view = ControlView {
        at: now,
        mode: control.mode,
        state: state(control),
        in_charge: control.lock.other().map(str::to_owned),
        power: Arc::clone(&control.shown.power),
        contracts: Arc::clone(&control.shown.contracts),
        troubles: control
            .watch
            .troubles
            .iter()
            .map(|t| format!("{t}."))
            .collect(),
        caps: control.shown.caps.clone(),
        price_of_energy: control.planning.price(now),
        allocation: control.in_force.as_ref().map(|f| f.certificate.clone()),
        plan: control.planning.latest.as_ref().map(|p| p.view.clone()),
        grid_events: control.events.all(),
        max_gap: control.max_gap,
        allocations: control.allocations,
        rounds: control.rounds,
        health: health(control),
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
        reasons.join("; ")
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
