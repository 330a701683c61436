//! The planner on the demonstration hall: from job records and recorded grid
//! frames to orders, budgets and the price of energy.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "helpers of tests fail by panicking and say what they measured"
)]

use heliostat_models::forecast::{Forecast, Limits as Range, forecast, persistence};
use heliostat_models::gpu::{GpuModel, WorkloadFamily};
use heliostat_models::grid::{EmissionFactors, Mix, Source, indicators};
use heliostat_models::job::JobOrder;
use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
use heliostat_models::{
    Catalogue, Celsius, DeviceId, Frame, JobClass, JobId, JobRecord, JobState, Quality, Reading,
    Site, Timestamp, Watts,
};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_optimizer::plan::Planner;
use heliostat_optimizer::plan::check::{check, check_bound};
use heliostat_optimizer::plan::policy::{PlanPolicy, SLOT};
use heliostat_optimizer::plan::price::{Worker, economic_cap, mean_work_per_watt, price_of_energy};
use heliostat_optimizer::plan::problem::{Job, Level, Problem, Slot, Solution};
use heliostat_optimizer::plan::solve::{Limits, solve};
use heliostat_optimizer::plan_service::{PlanInput, PlanOutput};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

const HOUR: i64 = 3_600;

fn start() -> Timestamp {
    Timestamp::parse("2019-03-12T00:00:00Z").unwrap()
}

fn demo() -> Arc<Site> {
    let loaded = load("demo.toml", builtin_demo(), LoadOptions::default());
    Arc::new(loaded.site.expect("the demonstration site is sound"))
}

fn record(id: &str, class: JobClass, gang: u32, hours: f64) -> JobRecord {
    let gpu = GpuModel::h100_sxm();
    let curve = WorkloadFamily::of_class(class)
        .workload()
        .speed_curve(&gpu, Watts(200.0), Watts(700.0))
        .unwrap();
    JobRecord {
        id: JobId::from(id),
        class,
        owner: "owner".into(),
        gang_size: gang,
        remaining_hours: hours,
        total_hours: hours,
        release: start(),
        deadline: None,
        state: JobState::Queued,
        devices: Vec::new(),
        curve,
        started: None,
        ended: None,
        at: start(),
    }
}

/// Jobs as on an ordinary day: about three quarters of the hall for two days.
fn day_of_jobs() -> Vec<JobRecord> {
    let mut jobs = Vec::new();
    for i in 0..40i64 {
        let (class, gang, hours) = match i % 10 {
            0 => (JobClass::Inference, 8 + 8 * (i as u32 / 20), 60.0),
            1 | 2 => (
                JobClass::Training,
                32 + 8 * (i as u32 % 5),
                8.0 + i as f64 / 5.0,
            ),
            3..=6 => (
                JobClass::FineTuning,
                8 + 8 * (i as u32 % 2),
                3.0 + i as f64 / 8.0,
            ),
            _ => (JobClass::Experiment, 1 + (i as u32 % 8), 1.5),
        };
        let mut job = record(&format!("job-{i:02}"), class, gang, hours);
        if i % 3 == 2 {
            job.release = start() + SLOT * (4 * i as u32 % 90);
        } else if i < 12 {
            job.state = JobState::Running;
        }
        if matches!(class, JobClass::Training | JobClass::FineTuning) && i % 2 == 1 {
            let slack = (hours * 2.5 * 3_600.0) as u64;
            job.deadline = Some(job.release + std::time::Duration::from_secs(slack));
        }
        jobs.push(job);
    }
    jobs
}

/// Hourly grid frames of the 20 days before and 3 after the start: a daily wave
/// on a slow one.
fn waves(site: &Site) -> Vec<Frame> {
    (-20 * 24..72)
        .map(|h| {
            let hour = f64::from(h);
            let sun = (hour / 24.0 * std::f64::consts::TAU).cos();
            let wind = (hour / 61.0 * std::f64::consts::TAU).sin();
            let carbon = 380.0 + 90.0 * sun + 70.0 * wind;
            frame(
                site,
                start(),
                h64(h),
                carbon,
                (0.45 - carbon / 3_000.0).clamp(0.0, 1.0),
            )
        })
        .collect()
}

fn h64(hours: i32) -> i64 {
    i64::from(hours) * HOUR * 1_000
}

fn frame(site: &Site, from: Timestamp, after: i64, carbon: f64, renewable: f64) -> Frame {
    let id = |name: &str| Catalogue::builtin().id(name).unwrap();
    Frame {
        device: site.grid_device(),
        at: Timestamp(from.0 + after),
        readings: vec![
            (
                id("grid_carbon_intensity_grams_per_kilowatt_hour"),
                Reading::Estimated(carbon),
            ),
            (
                id("grid_renewable_share_ratio"),
                Reading::Estimated(renewable),
            ),
        ],
    }
}

fn input(jobs: Vec<JobRecord>, history: Vec<Frame>) -> PlanInput {
    PlanInput {
        site: demo(),
        jobs,
        grid_history: history,
        grid_events: Vec::new(),
        caps: HashMap::new(),
        site_power: None,
        it_power: None,
        contract_loads: Vec::new(),
    }
}

fn hours(output: &PlanOutput, id: &str) -> f64 {
    let job = output.view.jobs.iter().find(|j| j.job.as_str() == id);
    job.unwrap()
        .runs
        .iter()
        .map(|(from, to, _)| to.seconds_since(*from) / 3_600.0)
        .sum()
}

fn order(output: &PlanOutput, id: &str) -> JobOrder {
    let found = output.orders.iter().find(|(job, _)| job.as_str() == id);
    found.unwrap().1
}

#[test]
fn a_day_of_jobs_is_planned_with_a_small_gap_and_a_price_for_every_slot() {
    let site = demo();
    let input = input(day_of_jobs(), waves(&site));
    let output = Planner::new().plan(start(), &input);
    let view = &output.view;
    println!("certificate {:?}", view.certificate);
    assert!(view.certificate.gap < 0.02, "{:?}", view.certificate);
    assert!(view.certificate.dual_bound <= view.certificate.primal);
    assert_eq!(view.slots.len(), 192);
    assert_eq!(view.jobs.len(), 40);
    assert_eq!(output.orders.len(), 40);
    assert_eq!(output.price_of_energy, view.slots[0].price_of_energy);
    let mean: f64 = view.slots.iter().map(|s| s.price_of_energy).sum::<f64>() / 192.0;
    // Near strength / highest cap; more where the weights of the running jobs are above 1.
    assert!((0.3 / 700.0..0.8 / 700.0).contains(&mean), "{mean}");
    for slot in &view.slots {
        assert!(
            slot.planned <= slot.power,
            "{} > {}",
            slot.planned,
            slot.power
        );
        assert_eq!(slot.quality, Quality::Estimated);
        assert!(slot.reason.contains("feed"), "{}", slot.reason);
    }
    // Dirty hours have the higher price.
    let (dirty, clean) = extremes(view.slots.iter().map(|s| s.carbon.unwrap().0));
    assert!(view.slots[dirty].price_of_energy > 1.2 * view.slots[clean].price_of_energy);
    // Inference is never held.
    assert_eq!(order(&output, "job-00"), JobOrder::Run);
    assert!(hours(&output, "job-00") > 47.0);
    for job in &view.jobs {
        assert!(!job.reason.is_empty());
    }
}

fn extremes(values: impl Iterator<Item = f64>) -> (usize, usize) {
    let values: Vec<f64> = values.collect();
    let by = |a: &usize, b: &usize| values[*a].total_cmp(&values[*b]);
    let most = (0..values.len()).max_by(by).unwrap();
    let least = (0..values.len()).min_by(by).unwrap();
    (most, least)
}

#[test]
fn the_same_input_gives_the_same_bytes_and_the_future_is_not_seen() {
    let site = demo();
    let whole = input(day_of_jobs(), waves(&site));
    let mut past = whole.clone();
    past.grid_history.retain(|f| f.at <= start());
    assert!(past.grid_history.len() < whole.grid_history.len());
    let text = |input: &PlanInput| {
        let output = Planner::new().plan(start(), input);
        (serde_json::to_string(&output.view).unwrap(), output.orders)
    };
    assert_eq!(text(&whole), text(&past));
}

#[test]
fn without_history_jobs_run_as_soon_as_possible_and_it_says_so() {
    let jobs = vec![record("a", JobClass::Training, 32, 6.0)];
    let output = Planner::new().plan(start(), &input(jobs, Vec::new()));
    assert_eq!(order(&output, "a"), JobOrder::Run);
    let job = &output.view.jobs[0];
    assert_eq!(job.runs[0].0, start());
    assert_eq!(job.runs.len(), 1, "{:?}", job.runs);
    assert!(job.reason.contains("no forecast"), "{}", job.reason);
    let slot = &output.view.slots[0];
    assert_eq!(slot.quality, Quality::Missing);
    assert!(slot.carbon.is_none() && slot.price_of_energy > 0.0);
}

#[test]
fn a_gang_larger_than_the_site_is_held_with_a_reason() {
    let jobs = vec![record("huge", JobClass::Training, 500, 6.0)];
    let output = Planner::new().plan(start(), &input(jobs, Vec::new()));
    assert_eq!(order(&output, "huge"), JobOrder::Hold);
    assert!(output.view.jobs[0].reason.contains("the site has 256"));
}

#[test]
fn a_job_that_cannot_meet_its_deadline_runs_at_once_and_is_said_to_be_late() {
    let site = demo();
    let mut late = record("late", JobClass::Training, 32, 10.0);
    late.deadline = Some(start() + SLOT * 16);
    let output = Planner::new().plan(start(), &input(vec![late], waves(&site)));
    assert_eq!(order(&output, "late"), JobOrder::Run);
    let reason = &output.view.jobs[0].reason;
    assert!(reason.contains("missed by about"), "{reason}");
}

#[test]
fn a_grid_event_lowers_the_budget_and_is_named() {
    let site = demo();
    let mut input = input(day_of_jobs(), waves(&site));
    input.grid_events.push(GridEvent {
        id: "event-7".into(),
        from: start() + SLOT * 8,
        to: start() + SLOT * 16,
        ask: Ask::Limit(Watts(110_000.0)),
        reason: "the grid asks for less".into(),
    });
    let output = Planner::new().plan(start(), &input);
    for (t, slot) in output.view.slots.iter().enumerate() {
        let inside = (8..16).contains(&t);
        assert_eq!(
            slot.reason.contains("event-7"),
            inside,
            "{t}: {}",
            slot.reason
        );
        // Less the margin of 2 %.
        assert_eq!((slot.power.0 - 107_800.0).abs() < 1e-6, inside);
        assert!(
            slot.planned.0 <= slot.power.0 * 1.02,
            "{t}: {} of {}",
            slot.planned,
            slot.power
        );
    }
    assert!(
        output.view.certificate.gap < 0.05,
        "{:?}",
        output.view.certificate
    );
}

#[test]
fn a_grid_event_does_not_starve_the_hall_beyond_what_is_asked() {
    let site = demo();
    let mut jobs = day_of_jobs();
    for job in &mut jobs {
        // All want to run at once.
        job.release = start();
        job.deadline = Some(start() + SLOT * 4);
    }
    let mut input = input(jobs, waves(&site));
    input.grid_events.push(GridEvent {
        id: "event-7".into(),
        from: start(),
        to: start() + SLOT * 4,
        ask: Ask::Limit(Watts(105_000.0)),
        reason: "the grid asks for less".into(),
    });
    let output = Planner::new().plan(start(), &input);
    for slot in &output.view.slots[..4] {
        let share = slot.planned / slot.power;
        assert!(
            share > 0.85 && share < 1.02,
            "{share:.3} of {}: {}",
            slot.power,
            slot.reason
        );
    }
}

#[test]
fn a_job_that_a_grid_event_keeps_waiting_is_told_so_and_no_loss_is_sold_as_a_gain() {
    let site = demo();
    let mut input = input(day_of_jobs(), waves(&site));
    input.grid_events.push(GridEvent {
        id: "event-7".into(),
        from: start(),
        to: start() + SLOT * 4,
        ask: Ask::Limit(Watts(75_000.0)),
        reason: "the grid asks for less".into(),
    });
    let output = Planner::new().plan(start(), &input);
    let named = (output.view.jobs.iter())
        .filter(|j| {
            j.reason
                .contains("grid event event-7 leaves too little power")
        })
        .count();
    assert!(named > 0, "{:?}", output.view.jobs);
    for job in &output.view.jobs {
        let Some((before, at_once)) = job
            .reason
            .split_once(" gCO2e/kWh on the mean while it runs, ")
        else {
            continue;
        };
        let then: f64 = before.rsplit(' ').next().unwrap().parse().unwrap();
        let now: f64 = at_once.split(' ').next().unwrap().parse().unwrap();
        assert!(then < now, "{}", job.reason);
    }
}

#[test]
fn replanning_an_hour_long_does_not_shuffle_what_runs() {
    let site = demo();
    let history = waves(&site);
    let mut jobs = day_of_jobs();
    let (mut pauses, mut running_slots) = (0, 0);
    for step in 0..8u32 {
        let now = start() + SLOT * step;
        for job in &mut jobs {
            job.at = now;
        }
        let output = Planner::new().plan(now, &input(jobs.clone(), history.clone()));
        for job in &mut jobs {
            let runs = order(&output, job.id.as_str()) == JobOrder::Run;
            let ran = job.state == JobState::Running;
            pauses += u32::from(ran && !runs);
            running_slots += u32::from(ran);
            job.state = match (runs, ran, job.state) {
                (true, _, _) => JobState::Running,
                (false, true, _) => JobState::Paused,
                (false, false, state) => state,
            };
            if runs {
                job.remaining_hours = (job.remaining_hours - 0.24).max(0.01);
            }
        }
    }
    println!("{pauses} pauses in {running_slots} running slots");
    assert!(
        running_slots > 50 && pauses <= running_slots / 15,
        "{pauses} of {running_slots}"
    );
}

/// What the price of energy buys in mean conditions on the accelerators of
/// the demonstration: at least 5 % more work per joule for a modest slowdown.
#[test]
fn the_price_of_energy_buys_work_per_joule() {
    let policy = PlanPolicy::default();
    let gpu = GpuModel::h100_sxm();
    let range = (Watts(200.0), Watts(700.0));
    let mut sums = [(0.0, 0.0); 2];
    for family in WorkloadFamily::ALL {
        let workload = family.workload();
        let curve = workload.speed_curve(&gpu, range.0, range.1).unwrap();
        let worker = Worker {
            gang: 1,
            weight: 1.0,
            curve: &curve,
        };
        let mean = mean_work_per_watt([worker].into_iter()).unwrap();
        let lambda = price_of_energy(mean, 1.0, Some(0.4), &policy);
        let cap = economic_cap(&curve, 1.0, lambda, 0.3, range);
        let points = [range.1, cap].map(|c| workload.under_cap(&gpu, c, Celsius(60.0)));
        for (sum, point) in sums.iter_mut().zip(&points) {
            *sum = (sum.0 + point.speed, sum.1 + point.power.0);
        }
        println!(
            "{family:?}: cap {cap:.0}, speed {:.3}, work per joule {:.3}",
            points[1].speed / points[0].speed,
            points[1].speed / points[1].power.0 * points[0].power.0 / points[0].speed
        );
    }
    let speed = sums[1].0 / sums[0].0;
    let per_joule = speed / (sums[1].1 / sums[0].1);
    println!("all: speed {speed:.3}, work per joule {per_joule:.3}");
    assert!(per_joule >= 1.05, "{per_joule}");
    assert!(speed >= 0.88, "{speed}");
}

fn shared() -> PathBuf {
    std::env::var_os("HELIOSTAT_SHARED").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared")),
        PathBuf::from,
    )
}

/// Carbon intensity by instant, from recorded generation.
fn recorded_carbon(file: &str) -> Option<Vec<(Timestamp, f64)>> {
    let path = shared().join("data/public/generation_by_source").join(file);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!(
            "SKIPPED: {} is not there; this test needs recorded generation",
            path.display()
        );
        return None;
    };
    let mut lines = text.lines();
    let columns: Vec<Option<Source>> = lines.next()?.split(',').map(Source::from_column).collect();
    let mut series = Vec::new();
    for line in lines {
        let mut mix = Mix::new();
        let mut fields = line.split(',');
        let at = Timestamp::parse(fields.next()?)?;
        for (source, field) in columns.iter().skip(1).zip(fields) {
            if let Some(source) = source {
                mix.set(*source, field.parse().ok());
            }
        }
        let found = indicators(&mix, EmissionFactors::builtin());
        if let Some(value) = found.life_cycle.value() {
            series.push((at, value));
        }
    }
    Some(series)
}

fn values(forecast: &Forecast) -> Vec<f64> {
    forecast.slots.iter().map(|s| s.value).collect()
}

/// One job of 24 h, as of `now`, against costs by slot.
fn plan_one(costs: &[f64], now: Timestamp) -> Solution {
    let problem = Problem {
        start: now,
        slot_hours: 0.25,
        devices: 8,
        slots: costs
            .iter()
            .map(|c| Slot {
                each: Watts::ZERO,
                power: Watts(1e6),
                cost: *c,
            })
            .collect(),
        jobs: vec![Job {
            id: JobId::from("train"),
            class: JobClass::Training,
            gang: 8,
            work: 96 * 4,
            levels: vec![Level {
                cap: Watts(600.0),
                power: Watts(400.0),
                speed: 1.0,
                quanta: 4,
                energy: 0.15,
                slow: 0.0,
            }],
            release: 0,
            deadline: Some(192),
            interruptible: true,
            running: false,
            pause: 8.0 * 0.6 * 10.0 / 60.0,
            hold: 0.001,
            late: 10.0,
            terminal: 10.0,
            home: None,
        }],
        contracts: Vec::new(),
    };
    let plan = solve(&problem, Limits::default());
    assert_eq!(check(&problem, &plan), []);
    assert_eq!(check_bound(&problem, &plan), []);
    plan
}

#[test]
fn shifting_saves_carbon_on_recorded_grids_also_with_persistence() {
    let Some(series) = recorded_carbon("DE_2019.csv") else {
        return;
    };
    let at = |t: Timestamp| series.binary_search_by_key(&t, |p| p.0).ok();
    let (mut now_sum, mut perfect_sum, mut honest_sum, mut ours_sum) = (0.0, 0.0, 0.0, 0.0);
    let mut days = 0;
    let first = Timestamp::parse("2019-01-20T00:00:00Z").unwrap();
    for day in (0..330).step_by(5) {
        let now = first + std::time::Duration::from_secs(86_400 * day);
        let truth: Option<Vec<f64>> = (0..192u32)
            .map(|t| at(now + SLOT * t).map(|i| series[i].1))
            .collect();
        let (Some(truth), Some(until)) = (truth, at(now)) else {
            continue;
        };
        let past = &series[until.saturating_sub(96 * 20)..=until];
        let yesterday = persistence(past, now, &Range::NOT_NEGATIVE);
        let ours = forecast(past, now, &Range::NOT_NEGATIVE);
        let (Some(yesterday), Some(ours)) = (yesterday, ours) else {
            continue;
        };
        let relative = |values: &[f64]| -> Vec<f64> {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            values.iter().map(|v| v / mean).collect()
        };
        let emitted = |plan: &Solution| -> f64 {
            (0..192)
                .filter(|t| plan.schedules[0].level(*t).is_some())
                .map(|t| truth[t])
                .sum()
        };
        now_sum += truth[..96].iter().sum::<f64>();
        perfect_sum += emitted(&plan_one(&relative(&truth), now));
        honest_sum += emitted(&plan_one(&relative(&values(&yesterday)), now));
        ours_sum += emitted(&plan_one(&relative(&values(&ours)), now));
        days += 1;
    }
    let perfect = 1.0 - perfect_sum / now_sum;
    let honest = 1.0 - honest_sum / now_sum;
    let ours = 1.0 - ours_sum / now_sum;
    println!(
        "{days} days: saved {perfect:.3} with a perfect forecast, {ours:.3} with ours, {honest:.3} with persistence"
    );
    assert!(days > 30);
    assert!((0.08..0.40).contains(&perfect), "{perfect}");
    assert!(honest > 0.0 && honest < perfect, "{honest}");
    assert!(ours > 0.0 && ours < perfect, "{ours}");
}

#[test]
fn devices_of_the_demonstration_bear_known_names() {
    // Guards the other tests: they speak of the 256 devices of this site.
    let site = demo();
    assert_eq!(site.devices.len(), 256);
    assert!(site.device(&DeviceId::from("r01-n1-gpu0")).is_some());
}
