//! Budgets of the demonstration hall: what may be used, what is planned, and
//! which limit says so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests fail by panicking and say what they measured"
)]

use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
use heliostat_models::site::power::PowerNodeKind;
use heliostat_models::{
    Certificate, DeviceId, JobClass, JobId, JobRecord, JobState, Quality, Site, SpeedCurve,
    Timestamp, Watts,
};
use heliostat_optimizer::budget::{BudgetError, Scope, budget_for};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_optimizer::plan::Planner;
use heliostat_optimizer::plan_service::PlanInput;
use heliostat_optimizer::view::{CapView, CapsView, ControlView, PlanView, PowerNodeView};
use std::collections::HashMap;
use std::sync::Arc;

fn now() -> Timestamp {
    Timestamp::parse("2019-03-12T00:05:00Z").unwrap()
}

fn demo() -> Site {
    load("demo.toml", builtin_demo(), LoadOptions::default())
        .site
        .unwrap()
}

fn job(id: &str, gang: u32, devices: &[DeviceId]) -> JobRecord {
    JobRecord {
        id: JobId::from(id),
        class: JobClass::Training,
        owner: "owner".into(),
        gang_size: gang,
        remaining_hours: 5.0,
        total_hours: 5.0,
        release: now(),
        deadline: None,
        state: if devices.is_empty() {
            JobState::Queued
        } else {
            JobState::Running
        },
        devices: devices.to_vec(),
        curve: SpeedCurve::envelope(&[(Watts(200.0), 0.5), (Watts(700.0), 1.0)]).unwrap(),
        started: None,
        ended: None,
        at: now(),
    }
}

/// The devices of the first rack.
fn first_rack(site: &Site) -> Vec<DeviceId> {
    (site.devices.iter())
        .filter(|d| site.nodes[d.node].rack == 0)
        .map(|d| d.id.clone())
        .collect()
}

/// Every rack draws `each`; nodes above the sum of theirs, the feed the cooling too.
fn drawing(site: &Site, each: f64) -> ControlView {
    let nodes = site.power.nodes();
    let mut used = vec![0.0; nodes.len()];
    for rack in &site.racks {
        used[rack.power_node] = each;
    }
    for index in (0..nodes.len()).rev() {
        if let Some(parent) = nodes[index].parents.first() {
            used[*parent] += used[index];
        }
    }
    let power = (nodes.iter().enumerate())
        .filter(|(_, n)| n.kind != PowerNodeKind::Node)
        .map(|(i, n)| PowerNodeView {
            id: n.id.clone(),
            limit: n.limit,
            uncontrolled: Watts(if n.parents.is_empty() { 10_000.0 } else { 0.0 }),
            capped: Watts(used[i]),
            price: 0.0,
        })
        .collect();
    ControlView {
        at: now(),
        power,
        ..ControlView::default()
    }
}

fn planned(site: &Site, jobs: &[JobRecord], events: Vec<GridEvent>) -> PlanView {
    let input = PlanInput {
        site: Arc::new(site.clone()),
        jobs: jobs.to_vec(),
        grid_history: Vec::new(),
        grid_events: events,
        caps: HashMap::new(),
        site_power: None,
        it_power: None,
        contract_loads: Vec::new(),
    };
    Planner::new().plan(now(), &input).view
}

#[test]
fn scopes_are_read_as_they_are_written() {
    for text in ["site", "hall:hall-1", "rack:r01", "job:a:b"] {
        assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
    }
    for text in ["", "rack", "rack:", "row:x", "Site"] {
        let error = text.parse::<Scope>().unwrap_err();
        assert!(error.to_string().contains("rack:NAME"), "{error}");
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let site = demo();
    let view = ControlView::default();
    let jobs = [job("train-1", 8, &[])];
    for (scope, known) in [
        ("hall:x", "hall-1"),
        ("rack:x", "r08"),
        ("job:x", "train-1"),
    ] {
        let scope: Scope = scope.parse().unwrap();
        let error = budget_for(&scope, &site, &view, &jobs, now()).unwrap_err();
        assert!(matches!(&error, BudgetError::UnknownName { name, .. } if name == "x"));
        assert!(error.to_string().contains(known), "{error}");
    }
}

#[test]
fn a_rack_may_use_its_limit_until_the_others_need_the_pdu() {
    let site = demo();
    let rack: Scope = "rack:r01".parse().unwrap();
    let of = |each: f64| {
        let view = drawing(&site, each);
        budget_for(&rack, &site, &view, &[], now()).unwrap().now
    };
    let quiet = of(15_000.0);
    assert_eq!(quiet.power, Watts(26_000.0));
    assert_eq!(quiet.planned, Watts(15_000.0));
    assert!(quiet.reason.contains("r01"), "{}", quiet.reason);
    assert_eq!(quiet.quality, Quality::Measured);
    // Two racks a PDU of 48 kW; the other one takes 23 kW. The feed has 190 kW,
    // of which the seven others and the cooling take 171: that binds harder.
    let busy = of(23_000.0);
    assert_eq!(busy.power, Watts(19_000.0));
    assert!(busy.reason.contains("others take"), "{}", busy.reason);
}

#[test]
fn a_grid_event_limits_site_hall_and_racks_later() {
    let site = demo();
    let event = GridEvent {
        id: "event-7".into(),
        from: Timestamp::parse("2019-03-12T02:00:00Z").unwrap(),
        to: Timestamp::parse("2019-03-12T04:00:00Z").unwrap(),
        ask: Ask::Limit(Watts(90_000.0)),
        reason: "the grid asks for less".into(),
    };
    let jobs = [
        job("train-1", 32, &first_rack(&site)),
        job("train-2", 64, &[]),
    ];
    let mut view = drawing(&site, 12_000.0);
    view.plan = Some(planned(&site, &jobs, vec![event.clone()]));
    view.grid_events = vec![event];
    for scope in ["site", "hall:hall-1", "rack:r01"] {
        let scope: Scope = scope.parse().unwrap();
        let budget = budget_for(&scope, &site, &view, &jobs, now()).unwrap();
        assert_eq!(budget.scope, scope.to_string());
        assert_eq!(budget.slots.len(), 192);
        for slot in &budget.slots {
            let inside =
                slot.start >= view.grid_events[0].from && slot.end <= view.grid_events[0].to;
            if scope != Scope::Rack("r01".into()) {
                assert_eq!(slot.reason.contains("event-7"), inside, "{}", slot.reason);
            }
            let most = match (&scope, inside) {
                (Scope::Rack(_), _) => 26_000.0 * 0.98,
                (_, true) => 90_000.0 * 0.98,
                _ => 190_000.0 * 0.98,
            } + 1e-6;
            assert!(slot.power.0 <= most && slot.power.0 > 0.0, "{}", slot.power);
        }
    }
}

#[test]
fn a_rack_that_a_job_holds_is_planned_higher_than_an_idle_one() {
    let site = demo();
    let jobs = [job("train-1", 32, &first_rack(&site))];
    let mut view = drawing(&site, 12_000.0);
    view.plan = Some(planned(&site, &jobs, Vec::new()));
    let planned = |rack: &str| {
        let scope: Scope = rack.parse().unwrap();
        let budget = budget_for(&scope, &site, &view, &jobs, now()).unwrap();
        budget.slots[0].planned.0
    };
    assert!(planned("rack:r01") > planned("rack:r02") + 32.0 * 250.0);
    let all: f64 = (1..=8).map(|r| planned(&format!("rack:r0{r}"))).sum();
    assert!((planned("hall:hall-1") - all).abs() < 1e-6);
    let site_planned = planned("site");
    assert!(
        site_planned > all && site_planned < 1.4 * all,
        "{site_planned} {all}"
    );
}

#[test]
fn a_job_has_the_sum_of_its_caps_now_and_its_levels_later() {
    let site = demo();
    let devices = first_rack(&site);
    let jobs = [job("train-1", 32, &devices)];
    let mut view = drawing(&site, 12_000.0);
    let cap = CapView {
        decided: Watts(500.0),
        acknowledged: None,
        by_node_limit: false,
    };
    let caps = (site.devices.iter()).map(|d| devices.contains(&d.id).then_some(cap));
    view.caps = CapsView::new(Arc::new(site.clone()), caps);
    view.plan = Some(PlanView {
        issued: now(),
        certificate: Certificate::new(1.0, 1.0, String::new()),
        ..planned(&site, &jobs, Vec::new())
    });
    let scope: Scope = "job:train-1".parse().unwrap();
    let budget = budget_for(&scope, &site, &view, &jobs, now()).unwrap();
    assert_eq!(budget.now.power, Watts(16_000.0));
    let runs = &view.plan.as_ref().unwrap().jobs[0].runs;
    let expected = 700.0 * runs[0].2 * 32.0;
    assert!((budget.slots[0].power.0 - expected).abs() < 1e-6);
    let last = budget.slots.last().unwrap();
    assert_eq!(last.power, Watts::ZERO);
    assert!(last.reason.starts_with("held"), "{}", last.reason);
}

#[test]
fn without_a_plan_the_limits_alone_are_told_and_marked_as_such() {
    let site = demo();
    let view = ControlView::default();
    let budget = budget_for(&Scope::Site, &site, &view, &[], now()).unwrap();
    assert_eq!(budget.slots.len(), 192);
    assert!(budget.slots[0].start <= now() && now() < budget.slots[0].end);
    assert_eq!(budget.slots[0].power, Watts(190_000.0 * 0.98));
    // Now and later have the same margin, and say so.
    assert_eq!(budget.now.power, budget.slots[0].power);
    for slot in [&budget.now, &budget.slots[0]] {
        assert!(slot.reason.contains("margin of 2 %"), "{}", slot.reason);
    }
    assert_eq!(budget.slots[0].quality, Quality::Missing);
    assert!(budget.slots[0].reason.contains("no plan yet"));
    let rack = Scope::Rack("r01".into());
    let budget = budget_for(&rack, &site, &view, &[], now()).unwrap();
    let most = Watts(26_000.0 * 0.98);
    assert!((budget.now.power - most).0.abs() < 1e-6 && budget.slots[0].power <= most);
    assert!(
        budget.now.reason.contains("margin of 2 %"),
        "{}",
        budget.now.reason
    );
}
