use super::*;
use heliostat_models::gpu::Workload;
use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
use heliostat_models::{Celsius, Frame, JobClass, Reading};
use proptest::prelude::*;
use std::sync::Arc;

#[path = "restarts.rs"]
mod restarts;

const GANG: usize = 4;

fn site() -> Site {
    load("demo.toml", builtin_demo(), LoadOptions::default())
        .site
        .unwrap()
}

fn job(site: &Site, class: JobClass, curve: SpeedCurve) -> JobEntry {
    JobEntry {
        record: JobRecord {
            id: JobId::from("17"),
            class,
            owner: "p".into(),
            gang_size: GANG as u32,
            remaining_hours: 1.0,
            total_hours: 1.0,
            release: Timestamp(0),
            deadline: None,
            state: JobState::Running,
            devices: site.devices[..GANG].iter().map(|d| d.id.clone()).collect(),
            curve,
            started: None,
            ended: None,
            at: Timestamp(0),
        },
        history: Vec::new(),
    }
}

/// What the first devices of the site and the job say at one instant.
fn readings(site: &Site, at: Timestamp, cap: f64, clock: f64, rate: Option<f64>) -> Readings {
    let highest = highest_clock(&site.devices[0].accelerator).unwrap();
    let mut frames: Vec<Frame> = (site.devices[..GANG].iter())
        .map(|device| Frame {
            device: device.id.clone(),
            at,
            readings: vec![
                (Catalogue::gpu_power_limit(), Reading::Measured(cap)),
                (
                    Catalogue::gpu_sm_clock(),
                    Reading::Measured(clock * highest),
                ),
                (Catalogue::gpu_utilization(), Reading::Measured(0.98)),
            ],
        })
        .collect();
    frames.extend(rate.map(|rate| Frame {
        device: JobId::from("17").source(),
        at,
        readings: vec![(Catalogue::job_throughput(), Reading::Measured(rate))],
    }));
    Readings::new(frames, at - Duration::from_secs(5))
}

struct World {
    site: Site,
    curves: Curves,
    stated: JobEntry,
    now: Timestamp,
}

impl World {
    fn new(class: JobClass, curve: SpeedCurve) -> Self {
        let site = site();
        let stated = job(&site, class, curve);
        Self {
            site,
            curves: Curves::default(),
            stated,
            now: Timestamp(0),
        }
    }

    /// Runs for so many seconds; what decisions would see at the end.
    fn run(&mut self, seconds: u64, cap: f64, clock: f64, rate: Option<f64>) -> SpeedCurve {
        let mut seen = self.stated.record.curve.clone();
        for _ in 0..seconds / 5 {
            self.now = self.now + Duration::from_secs(5);
            let readings = readings(&self.site, self.now, cap, clock, rate);
            let entries = [self.stated.clone()];
            self.curves.learn(&self.site, &readings, &entries, self.now);
            seen = self.curves.believed(&entries[0].record).curve;
        }
        seen
    }
}

fn gpu(site: &Site) -> GpuModel {
    let key = &site.devices[0].accelerator;
    GpuModel::from_catalogue(AcceleratorCatalogue::builtin().get(key).unwrap())
}

fn typical(class: JobClass) -> (SpeedCurve, Workload, GpuModel) {
    let site = site();
    let gpu = gpu(&site);
    let workload = WorkloadFamily::of_class(class).workload();
    let device = &site.devices[0];
    let curve = workload.speed_curve(&gpu, device.min_cap, device.max_cap);
    (curve.unwrap(), workload, gpu)
}

#[test]
fn until_something_is_seen_the_stated_curve_holds() {
    let (curve, ..) = typical(JobClass::Training);
    let mut world = World::new(JobClass::Training, curve.clone());
    assert_eq!(world.run(5, 400.0, 0.7, None), curve);
    // Devices that do not work say nothing of work, however long.
    let idle = Readings::new(Vec::new(), Timestamp(0));
    let mut entries = [world.stated.clone()];
    let later = world.now + Duration::from_secs(9_000);
    world.curves.learn(&world.site, &idle, &entries, later);
    assert_eq!(world.curves.believed(&entries[0].record).curve, curve);
    // A job that is over is forgotten.
    entries[0].record.state = JobState::Completed;
    world.curves.learn(&world.site, &idle, &entries, later);
    assert!(world.curves.jobs.is_empty());
}

#[test]
fn a_record_that_states_no_curve_gets_the_prior() {
    let nothing = SpeedCurve::envelope(&[(Watts(700.0), 1.0)]).unwrap();
    let mut world = World::new(JobClass::Training, nothing);
    let seen = world.run(5, 400.0, 0.7, None);
    let (typical, ..) = typical(JobClass::Training);
    for cap in [250.0, 400.0, 600.0] {
        let off = seen.speed(Watts(cap)) - typical.speed(Watts(cap));
        assert!(off.abs() < 0.03, "{off} at {cap}");
    }
}

#[test]
fn reported_throughput_moves_the_curve_and_what_is_reported_too_soon_does_not() {
    let (curve, ..) = typical(JobClass::Training);
    let mut world = World::new(JobClass::Training, curve.clone());
    // Hardly slower at 400 W than at 700 W, against what was stated.
    world.run(600, 700.0, 1.0, Some(1_000.0));
    let seen = world.run(55, 400.0, 1.0, Some(10.0));
    assert!((seen.speed(Watts(400.0)) - curve.speed(Watts(400.0))).abs() < 0.1);
    let seen = world.run(600, 400.0, 1.0, Some(980.0));
    assert!(curve.speed(Watts(400.0)) < 0.9);
    assert!((seen.speed(Watts(400.0)) - 0.98).abs() < 0.02, "{seen:?}");
}

/// The limit that a GPU reports is not what its node's limit leaves to it.
#[test]
fn under_a_limit_of_the_node_nothing_is_learned() {
    let (curve, ..) = typical(JobClass::Training);
    let mut world = World::new(JobClass::Training, curve.clone());
    let nodes = Arc::new(BTreeSet::from([0]));
    for whole in [nodes, Arc::default()] {
        let held = !whole.is_empty();
        let entries = [world.stated.clone()];
        for (cap, rate) in [(700.0, 1_000.0), (400.0, 980.0)] {
            for _ in 0..120 {
                world.now = world.now + Duration::from_secs(5);
                let read = readings(&world.site, world.now, cap, 1.0, Some(rate))
                    .limited_whole(Arc::clone(&whole));
                world.curves.learn(&world.site, &read, &entries, world.now);
            }
        }
        let seen = world.curves.believed(&entries[0].record).curve;
        assert_eq!(seen == curve, held, "{seen:?}");
    }
}

#[test]
fn a_curve_stands_still_while_nothing_that_matters_is_learned() {
    let (curve, ..) = typical(JobClass::Training);
    let mut world = World::new(JobClass::Training, curve);
    world.run(900, 500.0, 0.9, Some(700.0));
    let before = world.run(300, 500.0, 0.9, Some(700.0));
    let mut changes = 0;
    let mut last = before;
    for minute in 0..60 {
        let rate = 700.0 + f64::from(minute % 5);
        let seen = world.run(60, 500.0, 0.9, Some(rate));
        changes += u32::from(seen != last);
        last = seen;
    }
    assert!(changes <= 3, "{changes} curves in an hour of nothing new");
}

/// Jobs of which nothing is stated, seen by their clocks alone at three caps.
/// Each truth lies well away from the family's typical workload.
#[test]
fn clocks_correct_a_prior_that_is_wrong_and_leave_a_stated_curve_alone() {
    let (mut before_off, mut learned_off) = (0.0, 0.0);
    let nothing = SpeedCurve::envelope(&[(Watts(700.0), 1.0)]).unwrap();
    for class in JobClass::ALL {
        let (curve, workload, gpu) = typical(class);
        for draw in [0.6, 0.75, 1.0] {
            let mut truth = workload.clone();
            for phase in &mut truth.phases {
                phase.draw = (phase.draw * draw).min(1.0);
            }
            let at = |cap: f64| truth.under_cap(&gpu, Watts(cap), Celsius(55.0));
            let mut world = World::new(class, nothing.clone());
            let mut told = World::new(class, curve.clone());
            let mut seen = nothing.clone();
            let prior = world.run(5, 700.0, 1.0, None);
            for cap in [700.0, 450.0, 330.0] {
                let point = at(cap);
                // While a kernel runs: compute, memory, communication.
                let busy: f64 = point.time[..3].iter().sum();
                let clock: f64 = (0..3).map(|p| point.time[p] * point.clock[p]).sum();
                seen = world.run(600, cap, clock / busy, None);
                assert_eq!(told.run(600, cap, clock / busy, None), curve);
            }
            for cap in (200..=700).step_by(50) {
                let cap = f64::from(cap);
                before_off += (prior.speed(Watts(cap)) - at(cap).speed).abs();
                learned_off += (seen.speed(Watts(cap)) - at(cap).speed).abs();
            }
        }
    }
    let points = 4.0 * 3.0 * 11.0;
    println!(
        "off by {:.4} before, by {:.4} as learned from clocks",
        before_off / points,
        learned_off / points
    );
    assert!(
        learned_off <= 0.8 * before_off,
        "{learned_off} {before_off}"
    );
}

#[test]
fn floors_are_kept_by_the_lower_bound_and_within_the_range() {
    let (curve, ..) = typical(JobClass::Inference);
    let mut world = World::new(JobClass::Inference, curve.clone());
    world.run(5, 700.0, 1.0, None);
    let ranges = BTreeMap::new();
    let records = [world.stated.record.clone()];
    for floor in [0.0, 0.3, 0.6, 0.9, 1.5] {
        let classes = &mut world.site.classes;
        classes.get_mut(&JobClass::Inference).unwrap().floor_speed = floor;
        let cautious = world
            .curves
            .narrowed(&world.site, &records, &Arc::new(ranges.clone()));
        for device in &world.site.devices[..GANG] {
            let (low, high) =
                (cautious.get(&device.id).copied()).unwrap_or((device.min_cap, device.max_cap));
            assert!(device.min_cap <= low && low <= high && high == device.max_cap);
            let lower = &world.curves.jobs[&JobId::from("17")].lower;
            assert!(lower.speed(low) >= floor - 1e-9 || low == high || floor > 1.0);
            assert!(curve.speed(low) >= floor.min(curve.speed(high)) - 1e-9);
        }
    }
}

#[test]
fn a_gang_of_unequal_ranges_keeps_a_common_cap() {
    let (curve, ..) = typical(JobClass::Inference);
    let mut world = World::new(JobClass::Inference, curve);
    world.run(5, 700.0, 1.0, None);
    let classes = &mut world.site.classes;
    classes.get_mut(&JobClass::Inference).unwrap().floor_speed = 0.95;
    let device = |place: usize| world.site.devices[place].id.clone();
    let ranges: BTreeMap<_, _> = [
        (device(0), (Watts(200.0), Watts(300.0))),
        (device(1), (Watts(200.0), Watts(700.0))),
    ]
    .into();
    let records = [world.stated.record.clone()];
    let narrowed = world
        .curves
        .narrowed(&world.site, &records, &Arc::new(ranges.clone()));
    let own = |place: usize| narrowed[&device(place)];
    assert_eq!(own(0), (Watts(300.0), Watts(300.0)));
    assert_eq!(own(1), (Watts(300.0), Watts(700.0)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// Whatever floors, trials, agents and steps say: a gang that has a cap in common
    /// has one when its range is narrowed.
    #[test]
    fn narrowing_leaves_a_gang_a_common_cap(
        floor in 0.0..1.2f64, trial in 100.0..800.0f64, is_tried: bool,
        step in prop_oneof![Just(0.001), Just(5.0), Just(25.0)],
        bounds in prop::collection::vec((200.0..700.0f64, 0.0..500.0f64), GANG),
    ) {
        let (curve, ..) = typical(JobClass::Inference);
        let mut world = World::new(JobClass::Inference, curve);
        world.run(5, 700.0, 1.0, None);
        let classes = &mut world.site.classes;
        classes.get_mut(&JobClass::Inference).unwrap().floor_speed = floor;
        let mut ranges = BTreeMap::new();
        for (device, (low, width)) in world.site.devices[..GANG].iter_mut().zip(bounds) {
            device.cap_step = Watts(step);
            ranges.insert(device.id.clone(), (Watts(low), Watts((low + width).min(700.0))));
        }
        let common = |ranges: &BTreeMap<DeviceId, (Watts, Watts)>| {
            let low = ranges.values().map(|r| r.0.0).fold(0.0, f64::max);
            let high = ranges.values().map(|r| r.1.0).fold(f64::INFINITY, f64::min);
            (low / step - 1e-9).ceil() * step <= high + 1e-9
        };
        prop_assume!(common(&ranges));
        let learned = world.curves.jobs.get_mut(&JobId::from("17")).unwrap();
        learned.trying = is_tried.then(|| Trying::of(Watts(trial)));
        let records = [world.stated.record.clone()];
        let narrowed = world.curves.narrowed(&world.site, &records, &Arc::new(ranges.clone()));
        prop_assert!(common(&narrowed), "{narrowed:?}");
        for (device, (low, high)) in narrowed.iter() {
            prop_assert!(low <= high && ranges[device].0 <= *low && *high <= ranges[device].1);
        }
    }
}

/// A job that says how fast it is, on devices that do as they are told.
#[test]
fn caps_are_tried_downwards_within_the_budget_and_only_when_allowed() {
    let (curve, workload, gpu) = typical(JobClass::Training);
    let speed = |cap: f64| workload.under_cap(&gpu, Watts(cap), Celsius(55.0)).speed;
    for allowed in [false, true] {
        // Little is known of it: no curve is stated.
        let nothing = SpeedCurve::envelope(&[(Watts(700.0), 1.0)]).unwrap();
        let mut world = World::new(JobClass::Training, nothing);
        let floor = world.site.classes[&JobClass::Training].floor_speed;
        let records = [world.stated.record.clone()];
        let usual = 500.0;
        let (mut lost, mut tried, mut seen) = (0.0, BTreeSet::new(), curve.clone());
        for _ in 0..2_000 {
            world.curves.try_caps(world.now, allowed);
            let none = BTreeMap::new();
            let narrowed = world
                .curves
                .narrowed(&world.site, &records, &Arc::new(none.clone()));
            let (low, high) = (narrowed.get(&records[0].devices[0]).copied())
                .unwrap_or((Watts(200.0), Watts(700.0)));
            assert!(low <= high);
            let cap = high.0.min(usual);
            if cap < usual {
                tried.insert(cap as i64);
                assert!(speed(cap) >= floor);
            }
            lost += 5.0 * (1.0 - speed(cap) / speed(usual));
            seen = world.run(5, cap, 0.9, Some(64.0 * speed(cap)));
        }
        assert_eq!(tried.is_empty(), !allowed);
        assert!(tried.len() <= 4 && lost <= 120.0, "{tried:?} {lost}");
        if allowed {
            let off = |cap: f64| {
                (seen.speed(Watts(cap)) / seen.speed(Watts(usual)) * speed(usual) - speed(cap))
                    .abs()
            };
            assert!(
                off(300.0) < 0.03 && off(400.0) < 0.03,
                "{} {}",
                off(300.0),
                off(400.0)
            );
            // Over: everything is as before.
            assert!(world.curves.jobs.values().all(|l| l.trying.is_none()));
        }
    }
}

#[test]
fn a_grid_event_ends_a_trial_at_once() {
    let nothing = SpeedCurve::envelope(&[(Watts(700.0), 1.0)]).unwrap();
    let mut world = World::new(JobClass::Training, nothing);
    world.run(600, 600.0, 1.0, Some(64.0));
    world.curves.try_caps(world.now, true);
    assert!(world.curves.jobs.values().all(|l| l.trying.is_some()));
    world.curves.try_caps(world.now, false);
    assert!(world.curves.jobs.values().all(|l| l.trying.is_none()));
}
