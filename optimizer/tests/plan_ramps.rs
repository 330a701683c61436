//! Plans and ramp limits: what the executor's spreading of a plan's changes costs
//! jobs is never more than the plan says, and deadlines that it may cost are told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/agents.rs"]
mod agents;
#[path = "support/site.rs"]
mod sites;

use agents::World;
use heliostat_models::{JobClass, JobId, JobRecord, JobState, Site, SpeedCurve, Timestamp, Watts};
use heliostat_optimizer::plan::Planner;
use heliostat_optimizer::plan::build::{Built, build};
use heliostat_optimizer::plan::outlook::Outlook;
use heliostat_optimizer::plan::policy::PlanPolicy;
use heliostat_optimizer::plan::ramps::Ramps;
use heliostat_optimizer::plan::solve::{Limits, solve};
use heliostat_optimizer::plan_service::PlanInput;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const START: Timestamp = Timestamp(1_546_300_800_000);

/// The small site of eight devices with ramp limits.
fn site(ramps: &str) -> Arc<Site> {
    let text = sites::small_text().replacen("[control]\n", &format!("[control]\n{ramps}\n"), 1);
    sites::parse(&text)
}

fn curve() -> SpeedCurve {
    let points = (0..=10).map(|k| {
        let cap = 200.0 + 50.0 * f64::from(k);
        (Watts(cap), (cap / 700.0).sqrt())
    });
    SpeedCurve::envelope(&points.collect::<Vec<_>>()).unwrap()
}

fn job(id: &str, gang: u32, hours: f64, deadline: Option<Timestamp>) -> JobRecord {
    JobRecord {
        id: JobId::from(id),
        class: JobClass::Training,
        owner: "p".into(),
        gang_size: gang,
        remaining_hours: hours,
        total_hours: hours,
        release: START,
        deadline,
        state: JobState::Queued,
        devices: Vec::new(),
        curve: curve(),
        started: None,
        ended: None,
        at: START,
    }
}

fn input(site: &Arc<Site>, jobs: Vec<JobRecord>) -> PlanInput {
    PlanInput {
        site: Arc::clone(site),
        jobs,
        grid_history: Vec::new(),
        grid_events: Vec::new(),
        caps: HashMap::new(),
        site_power: None,
        it_power: None,
        contract_loads: Vec::new(),
    }
}

fn built(input: &PlanInput) -> Built {
    let policy = PlanPolicy::default();
    let outlook = Outlook::new(&input.site, &[], vec![1.2; 16], START, START, &policy);
    build(START, START, input, &outlook, &policy)
}

#[test]
fn what_ramps_cost_is_never_more_than_the_plan_says() {
    let mut felt = 0;
    for (seed, ramps) in [
        "ramp_up_watts_per_second = 2",
        "ramp_up_watts_per_second = 6\nramp_down_watts_per_second = 1.7",
        "ramp_up_watts_per_second = 30\nramp_window_seconds = 2",
        "ramp_up_watts_per_second = 1\nramp_window_seconds = 20",
    ]
    .into_iter()
    .enumerate()
    {
        let site = site(ramps);
        let mut rng = fastrand::Rng::with_seed(seed as u64);
        // Jobs that start at various instants and take turns on the devices.
        let jobs: Vec<JobRecord> = (0..5)
            .map(|k| JobRecord {
                release: START + Duration::from_secs(900 * rng.u64(0..6)),
                ..job(&format!("j{k}"), rng.u32(1..5), 0.2 + 0.6 * rng.f64(), None)
            })
            .collect();
        let built = built(&input(&site, jobs));
        let problem = &built.problem;
        let plan = solve(problem, Limits::default());
        let stated = Ramps::new(&site).unwrap().lost(problem, &plan, &[]);
        let mut world = World::new(Arc::clone(&site), seed as u64, 0.0, Watts(200.0));
        world.hello_all();
        // No more room than the plan needs: rises wait for what falls.
        let taken = |t: usize| -> f64 {
            let jobs = problem.jobs.iter().zip(&plan.schedules);
            jobs.filter_map(|(job, s)| Some(f64::from(job.gang) * job.levels[s.level(t)?].power.0))
                .sum()
        };
        let most = (0..problem.slots.len()).map(taken).fold(0.0, f64::max);
        for (room, node) in world.room.iter_mut().zip(site.power.nodes()) {
            if node.parents.is_empty() {
                *room = Watts(8.0 * 200.0 + most);
            }
        }
        world.executor.set_room(world.room.clone());
        let mut places: Vec<Vec<usize>> = vec![Vec::new(); problem.jobs.len()];
        let mut lost = vec![0.0; problem.jobs.len()];
        for slot in 0..problem.slots.len() {
            for (j, places) in places.iter_mut().enumerate() {
                if plan.schedules[j].level(slot).is_none() {
                    places.clear();
                }
            }
            for j in 0..places.len() {
                if plan.schedules[j].level(slot).is_some() && places[j].is_empty() {
                    let taken: Vec<usize> = places.iter().flatten().copied().collect();
                    let free = (0..site.devices.len()).filter(|d| !taken.contains(d));
                    places[j] = free.take(problem.jobs[j].gang as usize).collect();
                }
            }
            let mut caps: Vec<Watts> = site.devices.iter().map(|d| d.min_cap).collect();
            for (j, places) in places.iter().enumerate() {
                for place in places {
                    let level = plan.schedules[j].level(slot).unwrap();
                    caps[*place] = problem.jobs[j].levels[level].cap;
                }
            }
            let targets: BTreeMap<_, _> = (site.devices.iter().map(|d| d.id.clone()))
                .zip(caps)
                .collect();
            let gangs: Vec<Vec<_>> = (places.iter())
                .map(|p| p.iter().map(|d| site.devices[*d].id.clone()).collect())
                .collect();
            world.executor.set_gangs(gangs.iter().map(Vec::as_slice));
            world.executor.set_targets(&targets);
            for _ in 0..900 {
                for _ in 0..3 {
                    world.send_commands();
                    while !world.wires.is_empty() {
                        world.deliver();
                    }
                }
                world.step_time(1);
                for (j, places) in places.iter().enumerate() {
                    let Some(level) = plan.schedules[j].level(slot) else {
                        continue;
                    };
                    let has = places.iter().map(|place| {
                        let device = &site.devices[*place];
                        let node = &site.nodes[device.node];
                        world.agents[node.id.as_str()].limits[&device.id]
                    });
                    let has = has.fold(Watts(700.0), Watts::min);
                    let level = &problem.jobs[j].levels[level];
                    let pace = f64::from(level.quanta) * curve().speed(has) / level.speed;
                    lost[j] += (f64::from(level.quanta) - pace).max(0.0) / 900.0;
                }
            }
        }
        for ((job, lost), stated) in problem.jobs.iter().zip(&lost).zip(&stated) {
            assert!(
                lost <= stated,
                "{ramps}: {} lost {lost}, stated {stated}",
                job.id
            );
            felt += usize::from(*lost > 0.02);
        }
    }
    assert!(felt >= 8, "{felt}");
}

#[test]
fn a_deadline_that_ramps_may_cost_is_told_and_others_are_not() {
    let told = |ramps: &str, spare: u64, has: Option<f64>| {
        let site = site(ramps);
        // An hour of work; so many minutes more until its deadline.
        let deadline = START + Duration::from_secs(3_600 + 60 * spare);
        let mut input = input(&site, vec![job("urgent", 8, 1.0, Some(deadline))]);
        // What it does in an hour at its best level.
        input.jobs[0].remaining_hours = built(&input).problem.jobs[0].levels[0].speed;
        if let Some(cap) = has {
            let devices = site.devices.iter().map(|d| d.id.clone());
            input.jobs[0].state = JobState::Running;
            input.jobs[0].devices = devices.clone().collect();
            input.caps = devices.map(|d| (d, Watts(cap))).collect();
        }
        let output = Planner::new().plan(START, &input);
        let text = serde_json::to_string(&output.view.certificate).unwrap();
        (
            output.view.jobs[0].reason.clone(),
            output.view.jobs[0].runs.clone(),
            text,
        )
    };
    let (free, runs, certificate) = told("", 0, None);
    assert!(
        !free.contains("deadline") || free.contains("no time to wait"),
        "{free}"
    );
    // All eight devices rise by at most 500 W, at 2 W a second.
    let (slow, same_runs, same) = told("ramp_up_watts_per_second = 2", 0, None);
    assert!(
        slow.contains("may be missed by up to") && slow.contains("ramp limits"),
        "{slow}"
    );
    assert_eq!(
        (runs, certificate),
        (same_runs, same),
        "the plan itself is no other"
    );
    let (spare, ..) = told("ramp_up_watts_per_second = 2", 45, None);
    assert!(!spare.contains("ramp limits"), "{spare}");
    // What runs has its power already, or has yet to get it.
    let (has, ..) = told("ramp_up_watts_per_second = 2", 0, Some(700.0));
    assert!(!has.contains("ramp limits"), "{has}");
    let (lacks, ..) = told("ramp_up_watts_per_second = 2", 0, Some(210.0));
    assert!(lacks.contains("ramp limits"), "{lacks}");
}
