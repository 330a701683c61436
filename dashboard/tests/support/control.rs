//! Made-up jobs, plan, caps and decisions.
#![allow(
    dead_code,
    clippy::unwrap_used,
    missing_docs,
    reason = "support of tests and of an example; not every user needs all of it"
)]

use super::now;
use super::readings::{carbon, gpu_watts};
use heliostat_models::decision::{Decision, DecisionKind, JobCap};
use heliostat_models::{
    BudgetSlot, Certificate, EurosPerMegawattHour, GramsPerKilowattHour, JobClass, JobId,
    JobRecord, JobState, Quality, Site, SpeedCurve, Timestamp, Watts,
};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_optimizer::view::{
    CapView, CapsView, ControlHealth, ControlMode, ControlState, ControlView, PlanView, PlannedJob,
    PowerNodeView,
};
use std::sync::Arc;
use std::time::Duration;

/// Id, class, gang, state, first device, hours before now of its start, total hours.
pub type Spec = (&'static str, JobClass, u32, JobState, usize, i64, f64);

pub const JOBS: &[Spec] = &[
    (
        "llm-70b",
        JobClass::Training,
        96,
        JobState::Running,
        0,
        9,
        20.0,
    ),
    (
        "vision-xl",
        JobClass::Training,
        48,
        JobState::Running,
        96,
        6,
        11.0,
    ),
    (
        "chat-serve",
        JobClass::Inference,
        24,
        JobState::Running,
        144,
        24,
        400.0,
    ),
    (
        "embed-serve",
        JobClass::Inference,
        16,
        JobState::Running,
        168,
        24,
        400.0,
    ),
    (
        "sft-legal",
        JobClass::FineTuning,
        16,
        JobState::Running,
        184,
        3,
        6.0,
    ),
    (
        "probe-17",
        JobClass::Experiment,
        8,
        JobState::Running,
        200,
        1,
        2.5,
    ),
    (
        "climate-ens",
        JobClass::Training,
        64,
        JobState::Paused,
        0,
        14,
        16.0,
    ),
    (
        "sft-med",
        JobClass::FineTuning,
        16,
        JobState::Queued,
        0,
        2,
        5.0,
    ),
    (
        "protein-3",
        JobClass::Training,
        32,
        JobState::Queued,
        0,
        4,
        9.0,
    ),
    (
        "probe-18",
        JobClass::Experiment,
        4,
        JobState::Queued,
        0,
        0,
        1.0,
    ),
    (
        "probe-16",
        JobClass::Experiment,
        8,
        JobState::Completed,
        0,
        8,
        3.0,
    ),
    (
        "sft-code",
        JobClass::FineTuning,
        16,
        JobState::Completed,
        0,
        16,
        7.0,
    ),
];

pub fn hours(h: f64) -> Duration {
    Duration::from_secs_f64(h * 3_600.0)
}

pub fn records(site: &Site, spec: &Spec) -> Vec<JobRecord> {
    let (id, class, gang, state, first, begun, total) = *spec;
    let start = now() - hours(begun as f64);
    let curve = SpeedCurve::envelope(&[
        (Watts(200.0), 0.35),
        (Watts(450.0), 0.86),
        (Watts(700.0), 1.0),
    ])
    .unwrap();
    let base = JobRecord {
        id: JobId::from(id),
        class,
        owner: "9f2c1ab4".into(),
        gang_size: gang,
        remaining_hours: total,
        total_hours: total,
        release: start - hours(1.0),
        deadline: (class == JobClass::Training).then(|| now() + hours(total * 1.9)),
        state: JobState::Queued,
        devices: Vec::new(),
        curve,
        started: None,
        ended: None,
        at: start - hours(1.0),
    };
    let mut out = vec![base.clone()];
    if state == JobState::Queued {
        return out;
    }
    let running = JobRecord {
        state: JobState::Running,
        started: Some(start),
        at: start,
        devices: site.devices[first..first + gang as usize]
            .iter()
            .map(|d| d.id.clone())
            .collect(),
        ..base
    };
    out.push(running.clone());
    let last = match state {
        JobState::Paused => JobRecord {
            state,
            devices: Vec::new(),
            remaining_hours: total - 8.0,
            at: start + hours(8.0),
            ..running
        },
        JobState::Completed => JobRecord {
            state,
            devices: Vec::new(),
            remaining_hours: 0.0,
            ended: Some(start + hours(total)),
            at: start + hours(total),
            ..running
        },
        _ => JobRecord {
            remaining_hours: (total - begun as f64 * 0.9).max(0.5),
            at: now(),
            ..running
        },
    };
    out.push(last);
    out
}

pub fn view(site: &Site, at: Timestamp, event: bool) -> ControlView {
    let cut = if event { 0.7 } else { 1.0 };
    let power = site
        .power
        .nodes()
        .iter()
        .filter(|n| n.kind != heliostat_models::site::power::PowerNodeKind::Node)
        .map(|n| PowerNodeView {
            id: n.id.clone(),
            limit: if n.parents.is_empty() {
                n.limit * cut
            } else {
                n.limit
            },
            uncontrolled: n.limit * 0.15,
            capped: n.limit * 0.8,
            price: 0.0,
        })
        .collect();
    let caps = (0..site.devices.len()).map(|i| {
        let cap = Watts(gpu_watts(i, at).1);
        let view = CapView {
            decided: cap,
            acknowledged: (i != 77).then_some(cap),
            by_node_limit: i == 78,
        };
        Some(view)
    });
    let caps = CapsView::new(Arc::new(site.clone()), caps);
    let run = |from: f64, to: f64, level: f64| (at + hours(from), at + hours(to), level);
    let planned = [
        (
            "llm-70b",
            vec![run(0.0, 13.0, 0.8)],
            "Runs on: pausing would cost more than the 9 g/kWh it saves.",
        ),
        (
            "vision-xl",
            vec![run(0.0, 6.5, 0.8)],
            "Due tomorrow at noon; no slack to wait.",
        ),
        (
            "chat-serve",
            vec![run(0.0, 48.0, 1.0)],
            "Inference is never paused.",
        ),
        (
            "embed-serve",
            vec![run(0.0, 48.0, 1.0)],
            "Inference is never paused.",
        ),
        (
            "sft-legal",
            vec![run(0.0, 3.5, 0.9)],
            "Ends within the hour of lowest intensity.",
        ),
        (
            "climate-ens",
            vec![run(18.0, 26.5, 1.0)],
            "Waits for tomorrow's sun: 262 instead of 431 gCO2e/kWh.",
        ),
        (
            "sft-med",
            vec![run(18.5, 23.5, 1.0)],
            "Put into the greenest hours before its release of devices ends.",
        ),
        (
            "protein-3",
            vec![run(19.0, 25.0, 1.0), run(41.0, 44.5, 0.9)],
            "Split over two windows of low intensity.",
        ),
        (
            "probe-18",
            vec![run(0.25, 1.5, 1.0)],
            "Experiments start as soon as devices are free.",
        ),
    ];
    let slots = (0..192)
        .map(|i| {
            let start = at.floor_to(Duration::from_secs(900)) + Duration::from_secs(900 * i);
            let (intensity, renewable, price) = carbon(start);
            BudgetSlot {
                start,
                end: start + Duration::from_secs(900),
                power: Watts(190_000.0),
                planned: Watts(120_000.0 + 40_000.0 * (i as f64 / 30.0).sin()),
                price_of_energy: 0.0004,
                carbon: Some(GramsPerKilowattHour(intensity * 1.02)),
                price: Some(EurosPerMegawattHour(price)),
                renewable: Some(renewable),
                quality: Quality::Estimated,
                reason: "the utility feed's limit".into(),
            }
        })
        .collect();
    ControlView {
        at,
        mode: ControlMode::Armed,
        state: ControlState::Armed,
        in_charge: None,
        power,
        contracts: (site.power_contracts.iter())
            .map(|contract| PowerNodeView {
                id: contract.id.clone(),
                limit: contract.usable(site.control.margin),
                uncontrolled: contract.limit * 0.25,
                capped: contract.limit * 0.5,
                price: 0.0003,
            })
            .collect(),
        troubles: Vec::new(),
        caps,
        price_of_energy: 0.0004,
        allocation: Some(Certificate::new(212.4, 212.4, "ab12".repeat(16))),
        plan: Some(PlanView {
            issued: at - Duration::from_secs(300),
            certificate: Certificate::new(1_000.0, 998.4, "cd34".repeat(16)),
            jobs: planned
                .into_iter()
                .map(|(job, runs, reason)| PlannedJob {
                    job: JobId::from(job),
                    runs,
                    reason: reason.into(),
                })
                .collect(),
            slots,
            contracts: Vec::new(),
        }),
        grid_events: if event {
            vec![GridEvent {
                id: "dso-17".into(),
                from: at - Duration::from_secs(120),
                to: at + hours(2.0),
                ask: Ask::ReduceBy(0.3),
                reason: "the grid operator asks for 30 % less".into(),
            }]
        } else {
            Vec::new()
        },
        max_gap: 0.0016,
        allocations: 18_204,
        rounds: 20_000,
        health: ControlHealth {
            fence: Some(117_000_000),
            allocated: Some(at - Duration::from_secs(3)),
            ..ControlHealth::default()
        },
    }
}

pub fn decisions() -> Vec<Decision> {
    let decision = |minutes: u64, kind, summary: &str, reason: &str, gap: Option<f64>| Decision {
        sequence: 0,
        at: now() - Duration::from_secs(minutes * 60),
        kind,
        armed: true,
        summary: summary.into(),
        reason: reason.into(),
        certificate: gap.map(|g| Certificate::new(1_000.0, 1_000.0 * (1.0 + g), "ef56".repeat(16))),
        caps: Vec::new(),
    };
    let mut out = vec![
        decision(
            410,
            DecisionKind::Arming,
            "Control was armed.",
            "Asked by the night shift.",
            None,
        ),
        decision(
            300,
            DecisionKind::Plan,
            "9 jobs planned, 3 of them later.",
            "Tomorrow from 08:00 to 16:00 the grid is 39 % cleaner.",
            Some(0.0016),
        ),
        decision(
            95,
            DecisionKind::GridEvent,
            "Grid event dso-16 began: 20 % less until 13:30.",
            "The grid operator reports congestion.",
            None,
        ),
        decision(
            94,
            DecisionKind::Allocation,
            "208 caps lowered to 455 W.",
            "The utility feed's limit fell to 152 kW.",
            Some(0.0),
        ),
        decision(
            35,
            DecisionKind::GridEvent,
            "Grid event dso-16 ended.",
            "Its time is over.",
            None,
        ),
        decision(
            20,
            DecisionKind::Refusal,
            "A proposal was refused; nothing was sent.",
            "The checker found pdu-3 120 W above its limit.",
            None,
        ),
        decision(
            2,
            DecisionKind::Allocation,
            "llm-70b from 520 to 560 W, 7 jobs unchanged.",
            "probe-16 ended and left 4.1 kW at pdu-2.",
            Some(0.0),
        ),
    ];
    if let Some(last) = out.last_mut() {
        for (job, devices, reason) in [
            (
                "llm-70b",
                96,
                "pdu-1 binds: the last watt here buys 0.0011 of speed, more than anywhere else below it.",
            ),
            ("vision-xl", 48, "pdu-3 binds."),
        ] {
            last.caps.push(JobCap {
                job: Some(JobId::from(job)),
                devices,
                cap: Watts(560.0),
                speed: 0.93,
                binding: Some("pdu-1".into()),
                marginal: 0.0011,
                reason: reason.into(),
            });
        }
    }
    out
}
