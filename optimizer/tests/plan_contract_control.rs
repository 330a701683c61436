//! Plan and control together under a power contract that binds: a scheduler starts
//! what the plan orders, on the worst devices or on others, and control never has to
//! give up a service level for the contract's sake.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/loop_world.rs"]
mod loop_world;

use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
use heliostat_models::{
    DecisionKind, JobClass, JobId, JobRecord, JobState, Site, SpeedCurve, Watts,
};
use heliostat_optimizer::control::{Controller, ControllerConfig};
use heliostat_optimizer::view::{ControlView, ViewReceiver};
use loop_world::{LoopWorld, START};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const SLOT: Duration = Duration::from_secs(900);
/// What a service level of 0.9 needs at the curve of these jobs.
const FLOOR: Watts = Watts(567.0);

/// The demonstration site; the tenant's rack has 6.4 kW above least caps, enough for
/// 17 of its 32 devices at their service level.
fn site() -> Arc<Site> {
    let contract =
        "[[power_contract]]\nid = \"tenant\"\nlimit_watts = 18_780\nmembers = [\"r01\"]\n";
    let text = builtin_demo()
        .replace("[class.training]", &format!("{contract}\n[class.training]"))
        .replace("floor_speed = 0.6", "floor_speed = 0.9");
    let loaded = load("test.toml", &text, LoadOptions::default());
    let errors: Vec<String> = loaded.errors().map(ToString::to_string).collect();
    Arc::new(loaded.site.unwrap_or_else(|| panic!("{errors:?}")))
}

fn jobs() -> Vec<JobRecord> {
    let points = (0..=100).map(|k| {
        let cap = 200.0 + 5.0 * f64::from(k);
        (Watts(cap), (cap / 700.0).sqrt())
    });
    let curve = SpeedCurve::envelope(&points.collect::<Vec<_>>()).unwrap();
    let job = |k: u32| JobRecord {
        id: JobId::from(format!("serve-{k}").as_str()),
        class: JobClass::Inference,
        owner: "p".into(),
        gang_size: 8,
        remaining_hours: 0.4,
        total_hours: 0.4,
        release: START,
        deadline: None,
        state: JobState::Queued,
        devices: Vec::new(),
        curve: curve.clone(),
        started: None,
        ended: None,
        at: START,
    };
    (0..6).map(job).collect()
}

async fn until(
    view: &mut ViewReceiver,
    what: &str,
    good: impl Fn(&ControlView) -> bool,
) -> Arc<ControlView> {
    let wait = view.wait_for(|v| good(v));
    match tokio::time::timeout(Duration::from_secs(120), wait).await {
        Ok(seen) => Arc::clone(&seen.unwrap()),
        Err(_) => panic!("never: {what}"),
    }
}

/// How a run went.
#[derive(Debug, Default)]
struct Run {
    /// Slots until all jobs were done.
    slots: u32,
    /// Most jobs that ran below the contract at the same time.
    below: usize,
    /// Slots in which some job had less than its service level needs.
    slowed: u32,
    /// Decisions that dropped service levels.
    dropped: usize,
}

/// Six jobs on a hall whose scheduler takes devices in this order. Without a plan
/// all start at once.
async fn run(planned: bool, order: &[usize]) -> Run {
    let world = LoopWorld::new(site());
    let config = ControllerConfig {
        planner_enabled: planned,
        ..world.config(9, false)
    };
    let mut jobs = jobs();
    for job in &jobs {
        world.deps.jobs.put(job.clone()).unwrap();
    }
    let handle = Controller::start(config, world.deps.clone()).unwrap();
    let mut view = handle.view();
    let tenant: BTreeSet<usize> = (0..32).collect();
    let mut run = Run::default();
    while jobs.iter().any(|j| j.state != JobState::Completed) {
        let now = START + SLOT * run.slots;
        run.slots += 1;
        assert!(run.slots < 24, "never done: {jobs:?}");
        world.clock.advance_to(now);
        let told = until(&mut view, "a round and a plan", |v| {
            let plan = v.plan.as_ref().is_some_and(|p| p.issued >= now);
            v.at >= now && v.allocations > 0 && (plan || !planned)
        })
        .await;
        let wanted = |job: &JobRecord| {
            let Some(plan) = &told.plan else { return true };
            let place = plan.jobs.iter().find(|p| p.job == job.id);
            place.is_some_and(|p| p.runs.first().is_some_and(|run| run.0 <= now))
        };
        for contract in told.plan.iter().flat_map(|p| &p.contracts) {
            for slot in &contract.slots {
                assert!(slot.uncontrolled + slot.capped <= contract.limit + Watts(0.01));
            }
        }
        let after = now + Duration::from_secs(1);
        for place in 0..jobs.len() {
            if jobs[place].state == JobState::Queued && wanted(&jobs[place]) {
                let held: BTreeSet<_> = jobs.iter().flat_map(|j| &j.devices).collect();
                let free = order.iter().map(|d| &world.site.devices[*d].id);
                let free: Vec<_> = free.filter(|id| !held.contains(id)).cloned().collect();
                let job = &mut jobs[place];
                job.devices = free[..8].to_vec();
                (job.state, job.started, job.at) = (JobState::Running, Some(after), after);
                world.deps.jobs.put(job.clone()).unwrap();
            }
        }
        let later = now + Duration::from_secs(65);
        world.clock.advance_to(later);
        let seen = until(&mut view, "caps for what runs", |v| v.at >= later).await;
        let tenant_now = &seen.contracts[0];
        assert!(tenant_now.capped + tenant_now.uncontrolled <= tenant_now.limit + Watts(1e-6));
        let running: Vec<&mut JobRecord> = (jobs.iter_mut())
            .filter(|j| j.state == JobState::Running)
            .collect();
        let (mut slowed, mut below) = (false, 0);
        for job in running {
            let caps = job
                .devices
                .iter()
                .map(|d| seen.caps.get(d).unwrap().decided);
            let cap = caps.fold(Watts(700.0), Watts::min);
            slowed |= cap < FLOOR - Watts(1.0);
            let first = world.site.device(&job.devices[0]).unwrap().0;
            below += usize::from(tenant.contains(&first));
            job.remaining_hours -= 0.25 * job.curve.speed(cap);
            job.at = later;
            if job.remaining_hours <= 0.0 {
                job.remaining_hours = 0.0;
                job.devices.clear();
                (job.state, job.ended) = (JobState::Completed, Some(later));
            }
            world.deps.jobs.put(job.clone()).unwrap();
        }
        run.slowed += u32::from(slowed);
        run.below = run.below.max(below);
    }
    handle.stop().await;
    let decisions = (world.deps.decisions).latest(1_000, |d| d.kind == DecisionKind::Allocation);
    let dropped = |d: &&heliostat_models::Decision| d.summary.contains("dropped");
    run.dropped = decisions.iter().filter(dropped).count();
    run
}

#[tokio::test]
async fn what_a_plan_starts_below_a_contract_keeps_its_service_level() {
    let worst: Vec<usize> = (0..256).collect();
    let kind: Vec<usize> = (0..256).rev().collect();
    let careless = run(false, &worst).await;
    assert!(careless.slowed > 0 && careless.dropped > 0, "{careless:?}");
    let planned = run(true, &worst).await;
    assert_eq!((planned.slowed, planned.dropped), (0, 0), "{planned:?}");
    assert_eq!(planned.below, 2, "{planned:?}");
    assert!(planned.slots > careless.slots);
    // Where the scheduler keeps out of the tenant's rack, the plan sees it and starts more.
    let elsewhere = run(true, &kind).await;
    assert_eq!(
        (elsewhere.slowed, elsewhere.dropped, elsewhere.below),
        (0, 0, 0)
    );
    assert!(elsewhere.slots < planned.slots, "{elsewhere:?} {planned:?}");
}
