//! What learned speed curves are worth: jobs with measured curves share 60 %
//! of their rated power; curves are learned from the cap that each job runs
//! under and at most four probes, with a prior that has not seen the job.
//!
//! Prints its figures (`cargo test -p heliostat-optimizer --test speed_models
//! -- --nocapture`); without the measurements it says that it was skipped.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test's helpers fail by unwrapping, and it prints what it measured or why it was skipped"
)]

#[path = "../../models/tests/recorded/mod.rs"]
mod recorded;

use heliostat_models::gpu::{
    GpuModel, Observation, ProbeLedger, ProbePolicy, Profile, Source, SpeedLearner, SpeedPrior,
    WorkloadFamily, concave_fit,
};
use heliostat_models::{DeviceId, JobClass, JobId, SpeedCurve, Timestamp, Watts};
use heliostat_optimizer::allocate::{DeviceSpec, Group, LimitNode, Outcome, Problem, allocate};
use recorded::recorded;
use std::collections::BTreeMap;

/// Share of the rated power that the jobs have together.
const BUDGET: f64 = 0.6;

/// A workload as it was measured: cap and rate relative to that under the highest cap.
struct Measured {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Measured {
    fn new(name: String, mut points: Vec<(f64, f64)>) -> Self {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let full = points.last().unwrap().1;
        points.iter_mut().for_each(|p| p.1 /= full);
        Self { name, points }
    }
    fn rate(&self, cap: f64) -> f64 {
        let upper = self.points.partition_point(|p| p.0 < cap);
        if upper == 0 {
            return self.points[0].1;
        }
        let Some((c1, r1)) = self.points.get(upper).copied() else {
            return self.points[upper - 1].1;
        };
        let (c0, r0) = self.points[upper - 1];
        r0 + (r1 - r0) * (cap - c0) / (c1 - c0)
    }
    fn profile(&self) -> Profile {
        Profile::new(&self.in_watts()).unwrap()
    }
    fn in_watts(&self) -> Vec<(Watts, f64)> {
        self.points.iter().map(|p| (Watts(p.0), p.1)).collect()
    }
}

fn zeus(gpu: &str) -> Option<Vec<Measured>> {
    let text = recorded(&format!(
        "gpu/zeus_power_limit/trace/summary_power_{gpu}.csv"
    ))?;
    let mut sweeps: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |i: usize| fields[i].trim().parse::<f64>().unwrap();
        let sweep = sweeps.entry(fields[..4].join(" ")).or_default();
        sweep.push((number(4), 1.0 / number(5)));
    }
    let long = sweeps.into_iter().filter(|(_, s)| s.len() >= 5);
    Some(long.map(|(name, s)| Measured::new(name, s)).collect())
}

fn ada() -> Option<Vec<Measured>> {
    (0..8)
        .map(|n| {
            let text = recorded(&format!(
                "gpu/rtx4000ada_power_limit/Dataset/results_powertest_single_{n}.csv"
            ))?;
            let points = text.lines().map(|line| {
                let f: Vec<f64> = line.split(',').map(|x| x.trim().parse().unwrap()).collect();
                (f[0] / 1_000.0, 1.0 / f[2])
            });
            Some(Measured::new(format!("workload {n}"), points.collect()))
        })
        .collect()
}

/// Range that all of them were measured in.
fn range(jobs: &[Measured]) -> (f64, f64) {
    let ends = |j: &Measured| (j.points[0].0, j.points[j.points.len() - 1].0);
    jobs.iter()
        .map(ends)
        .fold((0.0, f64::INFINITY), |a, b| (a.0.max(b.0), a.1.min(b.1)))
}

/// Work done under the caps that the allocator gives for these curves.
fn work(jobs: &[Measured], curves: Vec<SpeedCurve>) -> f64 {
    let (low, high) = range(jobs);
    let problem = Problem {
        nodes: vec![LimitNode {
            id: "feed".to_owned(),
            parents: Vec::new(),
            limit: Watts(BUDGET * high * jobs.len() as f64),
            uncontrolled: Watts::ZERO,
            uncertainty: Watts::ZERO,
            spare: Watts::ZERO,
        }],
        devices: (0..jobs.len())
            .map(|n| DeviceSpec {
                id: DeviceId::from(format!("gpu{n:03}")),
                min: Watts(low),
                max: Watts(high),
                node: 0,
                fixed: None,
                step: Watts::ZERO,
            })
            .collect(),
        groups: (curves.into_iter().enumerate())
            .map(|(n, curve)| Group {
                job: JobId::from(format!("job{n:03}")),
                class: JobClass::Training,
                weight: 1.0,
                floor_speed: 0.0,
                curve,
                devices: vec![n],
            })
            .collect(),
        contracts: Vec::new(),
        price_of_energy: 0.0,
        step: Watts(0.001),
    };
    let Outcome::Allocated(found) = allocate(&problem).unwrap() else {
        unreachable!("the lowest caps fit")
    };
    let total: f64 = found.caps.iter().map(|c| c.0).sum();
    assert!(total <= problem.nodes[0].limit.0 + 1e-6);
    jobs.iter().zip(&found.caps).map(|(j, c)| j.rate(c.0)).sum()
}

/// An upper bound on what anyone could do who knew every measured curve, as
/// it is, dips and all: the Lagrangian bound over caps of whole watts and the
/// measured ones (between two measured caps the curves are straight).
fn perfect(jobs: &[Measured]) -> f64 {
    let (low, high) = range(jobs);
    let budget = BUDGET * high * jobs.len() as f64;
    let bound = |price: f64| -> f64 {
        let best = |job: &Measured| {
            let inside = job
                .points
                .iter()
                .map(|p| p.0)
                .filter(|c| (low..=high).contains(c));
            inside
                .chain([low, high])
                .map(|cap| job.rate(cap) - price * cap)
                .fold(f64::NEG_INFINITY, f64::max)
        };
        price * budget + jobs.iter().map(best).sum::<f64>()
    };
    // Convex in the price: golden-section search.
    let (mut a, mut b) = (0.0, 0.2);
    for _ in 0..200 {
        let (c, d) = (a + 0.382 * (b - a), a + 0.618 * (b - a));
        if bound(c) < bound(d) { b = d } else { a = c }
    }
    bound(0.5 * (a + b))
}

/// How the curves are learned.
struct Way<'a> {
    prior: &'a dyn Fn(usize) -> SpeedPrior,
    probes: u32,
    /// Relative standard deviation of one report; ten reports a cap.
    noise: f64,
    /// Whether caps above the present one may be tried.
    upwards: bool,
}

#[derive(Default)]
struct Learned {
    curves: Vec<SpeedCurve>,
    most_probes: u32,
    probes: u32,
    /// Seconds lost by probing, in truth and at the worst as believed, of the job that lost most.
    lost: f64,
    feared: f64,
    /// Share of the measured points between the bounds.
    covered: f64,
}

fn learn(jobs: &[Measured], way: &Way<'_>) -> Learned {
    let (low, high) = range(jobs);
    let mut random = fastrand::Rng::with_seed(7);
    let mut normal = move || (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
    let mut out = Learned::default();
    let (mut inside, mut points) = (0usize, 0usize);
    for (place, job) in jobs.iter().enumerate() {
        let mut learner = SpeedLearner::new((way.prior)(place), (Watts(low), Watts(high)));
        let mut at = Timestamp(0);
        let mut see = |learner: &mut SpeedLearner, cap: Watts, at: Timestamp| {
            for _ in 0..10 {
                assert!(learner.observe(&Observation {
                    cap,
                    rate: 1_000.0 * job.rate(cap.0) * (1.0 + way.noise * normal()),
                    source: Source::Throughput,
                    at,
                    weight: 1.0,
                }));
            }
        };
        let present = Watts(BUDGET * high);
        let most = if way.upwards { high } else { present.0 };
        let policy = ProbePolicy {
            most: way.probes,
            ..ProbePolicy::usual(0.0, Watts(most))
        };
        let mut ledger = ProbeLedger::default();
        if way.probes > 0 {
            see(&mut learner, present, at);
        }
        let mut lost = 0.0;
        while let Some(probe) = learner.next_probe(at, present, &ledger, &policy) {
            let seconds = policy.lasts.as_secs_f64();
            lost += seconds * (1.0 - job.rate(probe.cap.0) / job.rate(present.0)).max(0.0);
            ledger.charge(&probe);
            at = at + policy.lasts;
            see(&mut learner, probe.cap, at);
        }
        let found = learner.estimate(at);
        let full = job.profile().envelope().points().last().unwrap().1;
        for (cap, rate) in job.in_watts() {
            let (down, up) = (found.lower.speed(cap), found.upper.speed(cap));
            points += 1;
            inside += usize::from((down - 0.01..=up + 0.01).contains(&(rate / full)));
        }
        out.curves.push(found.curve);
        out.most_probes = out.most_probes.max(ledger.made);
        out.probes += ledger.made;
        out.lost = out.lost.max(lost);
        out.feared = out.feared.max(ledger.lost);
    }
    out.covered = inside as f64 / points as f64;
    out
}

fn uniform(jobs: &[Measured]) -> f64 {
    let (_, high) = range(jobs);
    jobs.iter().map(|j| j.rate(BUDGET * high)).sum()
}

/// Prior from all the others.
fn leave_one_out(jobs: &[Measured]) -> impl Fn(usize) -> SpeedPrior {
    let profiles: Vec<Profile> = jobs.iter().map(Measured::profile).collect();
    move |place| {
        let mut others = profiles.clone();
        others.remove(place);
        SpeedPrior::fit(&others).unwrap()
    }
}

#[test]
fn learned_curves_do_nearly_what_perfect_knowledge_would() {
    // Rated power and idle draw, for the prior by the model alone.
    let families = [
        ("V100", zeus("v100"), 250.0, 40.0),
        ("P100", zeus("p100"), 250.0, 30.0),
        ("RTX 6000", zeus("rtx6000"), 260.0, 20.0),
    ];
    println!(
        "work at {BUDGET} of the rated power; `of perfect`: share of an upper bound on any allocation; gain: over one uniform cap"
    );
    for (name, jobs, tdp, idle) in families {
        let Some(jobs) = jobs else { continue };
        let own = leave_one_out(&jobs);
        let gpu = GpuModel {
            tdp: Watts(tdp),
            idle: Watts(idle),
            ..GpuModel::h100_sxm()
        };
        let (low, high) = range(&jobs);
        let foreign = |_: usize| {
            let family = WorkloadFamily::VisionFineTuning;
            SpeedPrior::modelled(&gpu, family, (Watts(low), Watts(high))).unwrap()
        };
        let (uniform, perfect) = (uniform(&jobs), perfect(&jobs));
        let ceiling = 100.0 * (perfect / uniform - 1.0);
        println!(
            "{name}: {} workloads; uniform does {:.2} % of perfect; the most that any allocation gains is {ceiling:.2} %",
            jobs.len(),
            100.0 * uniform / perfect,
        );
        type Prior<'a> = &'a dyn Fn(usize) -> SpeedPrior;
        let ways: [(&str, Prior<'_>, u32, f64, bool); 7] = [
            ("prior alone", &own, 0, 0.0, true),
            ("1 probe", &own, 1, 0.0, true),
            ("2 probes", &own, 2, 0.0, true),
            ("4 probes", &own, 4, 0.0, true),
            ("4 probes, reports wrong by 3 %", &own, 4, 0.03, true),
            ("4 probes, none above the present cap", &own, 4, 0.0, false),
            ("4 probes, prior by the model alone", &foreign, 4, 0.0, true),
        ];
        for (what, prior, probes, noise, upwards) in ways {
            let learned = learn(
                &jobs,
                &Way {
                    prior,
                    probes,
                    noise,
                    upwards,
                },
            );
            assert!(learned.most_probes <= probes);
            let (lost, feared, covered) = (learned.lost, learned.feared, learned.covered);
            let mean = f64::from(learned.probes) / jobs.len() as f64;
            let done = work(&jobs, learned.curves);
            let (share, gain) = (done / perfect, 100.0 * (done / uniform - 1.0));
            println!(
                "  {what}: {:.2} % of perfect, gain {gain:.2} %, {:.0} % of what can be gained; {mean:.1} probes a job, \
                 at most {lost:.0} s lost ({feared:.0} s allowed for); {:.0} % of measured points between the bounds",
                100.0 * share,
                100.0 * gain / ceiling,
                100.0 * covered,
            );
            if probes == 4 {
                assert!(share >= 0.95, "{name}, {what}: {share}");
                assert!(
                    lost <= 60.0 && feared <= 60.0,
                    "{name}, {what}: {lost} {feared}"
                );
            }
            if what == "4 probes" {
                // Four per cent over a uniform cap where anyone could gain that
                // much; elsewhere most of what there is to gain.
                let wanted = f64::min(4.0, 0.8 * ceiling);
                assert!(gain >= wanted, "{name}, {what}: {gain} below {wanted}");
            }
        }
    }
}

#[test]
fn what_the_concave_envelope_costs() {
    let all = [
        ("V100", zeus("v100")),
        ("P100", zeus("p100")),
        ("RTX 6000", zeus("rtx6000")),
        ("RTX 4000 Ada", ada()),
    ];
    for (name, jobs) in all {
        let Some(jobs) = jobs else { continue };
        let (mut above, mut apart, mut crooked) = (Vec::new(), Vec::new(), 0);
        for job in &jobs {
            let profile = job.profile();
            let x: Vec<f64> = job.points.iter().map(|p| p.0).collect();
            let y: Vec<f64> = job.points.iter().map(|p| p.1).collect();
            let fit = concave_fit(&x, &y, &vec![1.0; x.len()]);
            let over = |c: f64, r: f64| profile.envelope().speed(Watts(c)) / r - 1.0;
            let worst = (job.points.iter())
                .map(|p| over(p.0, p.1))
                .fold(0.0, f64::max);
            let off = (y.iter().zip(&fit))
                .map(|(y, f)| (f / y - 1.0).abs())
                .fold(0.0, f64::max);
            println!(
                "  {name}, {}: envelope above the measured curve by at most {:.1} %, regression off by at most {:.1} %",
                job.name,
                100.0 * worst,
                100.0 * off
            );
            crooked += usize::from(worst > 1e-9);
            above.push(worst);
            apart.push(off);
        }
        let middle = |values: &mut Vec<f64>| {
            values.sort_by(f64::total_cmp);
            (
                100.0 * values[values.len() / 2],
                100.0 * values[values.len() - 1],
            )
        };
        let (above, apart) = (middle(&mut above), middle(&mut apart));
        let known = work(
            &jobs,
            jobs.iter()
                .map(|j| j.profile().envelope().clone())
                .collect(),
        );
        let perfect = perfect(&jobs);
        println!(
            "{name}: {crooked} of {} curves are not concave and monotone; envelope above by {:.1} % (median of the worst points; worst of all {:.1} %), \
             regression off by {:.1} % ({:.1} %); allocating by the envelopes costs {:.3} % of the work",
            jobs.len(),
            above.0,
            above.1,
            apart.0,
            apart.1,
            100.0 * (1.0 - known / perfect),
        );
        assert!(known >= 0.98 * perfect, "{name}: {known} {perfect}");
    }
}
