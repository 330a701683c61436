//! Each running job's speed curve, learned from what the store says of it.
//!
//! A job begins with the curve that its record states, or where that says
//! nothing with the prior of its class on its accelerator. What follows under
//! each cap is learned: the throughput that it reports under
//! `job_throughput_per_second`; for a job that states no curve, the clocks of
//! its devices as a proxy too. (A stated curve comes from earlier runs of the
//! job and is better than what a clock can tell: in simulation, off by 0.007
//! in relative speed, and not less after listening to clocks.) The curve that decisions see changes only when that matters, so that caps do
//! not flutter with noise. From devices whose node is limited as a whole nothing is
//! learned: their caps are estimates. Service floors are kept by the lower bound.
//! What was learned of a job outlives a change of its record, and control itself (`kept.rs`).

mod kept;
mod narrowed;

use super::measure::Readings;
use super::probing::Trying;
use heliostat_models::accelerators::AcceleratorCatalogue;
use heliostat_models::gpu::{
    GpuModel, Observation, Probe, ProbeLedger, Source, SpeedEstimate, SpeedLearner, SpeedPriors,
    WorkloadFamily,
};
use heliostat_models::site::Device;
use heliostat_models::{
    Catalogue, DeviceId, JobId, JobRecord, JobState, Site, SpeedCurve, Timestamp, Watts,
};
use heliostat_store::jobs::JobEntry;
use kept::{Keeping, KeptJob};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often a curve is looked at anew, and over how long clocks are averaged:
/// long enough to see all phases of a training step.
const LEARN_EVERY: Duration = Duration::from_secs(60);
/// Instants that a mean of clocks is made of at least: each sees one phase.
const INSTANTS: u32 = 10;
/// After a change of cap clocks follow within this.
const CLOCKS_SETTLE: Duration = Duration::from_secs(3);
/// A reported throughput looks back over up to this.
const THROUGHPUT_SETTLES: Duration = Duration::from_secs(60);
/// Caps closer than this share are one cap.
const SAME_CAP: f64 = 0.005;
/// Share of time with a kernel running below which clocks say nothing of work.
const BUSY: f64 = 0.2;
/// Change of relative speed anywhere that makes decisions see a new curve.
const MATTERS: f64 = 0.01;
/// How far a job is taken to lie from a curve that is stated for itself,
/// relative to how far jobs of its family lie from their mean, until what is
/// seen says otherwise.
const STATED: f64 = 0.25;

/// One job.
#[derive(Clone, Debug)]
pub(super) struct Learned {
    pub(super) learner: SpeedLearner,
    /// The curve that the job's record gave when learning began.
    stated: SpeedCurve,
    /// Whether clocks are listened to: not where a curve is stated.
    by_clock: bool,
    /// The devices that it held last.
    devices: Vec<DeviceId>,
    /// What decisions see.
    curve: SpeedCurve,
    /// What floors are kept by.
    lower: SpeedCurve,
    next: Timestamp,
    /// Cap in force, and since when.
    pub(super) cap: Watts,
    pub(super) since: Timestamp,
    clocks: Clocks,
    pub(super) heard: Timestamp,
    /// What trying caps has cost, and what is being tried.
    pub(super) ledger: ProbeLedger,
    pub(super) trying: Option<Trying>,
    /// A cap worth trying, as of the last look.
    pub(super) wish: Option<Probe>,
}

/// Clocks since the last observation, each instant weighing by how busy it was.
#[derive(Clone, Debug, Default)]
struct Clocks {
    clock: f64,
    busy: f64,
    instants: u32,
    from: Option<Timestamp>,
    last: Timestamp,
}

/// All jobs that run or wait to go on.
#[derive(Clone, Debug, Default)]
pub(super) struct Curves {
    pub(super) jobs: BTreeMap<JobId, Learned>,
    /// Grows whenever decisions would see another curve or another trial.
    pub(super) version: u64,
    /// What outlives this run.
    keeping: Keeping,
}

impl Curves {
    /// Whether a curve is to be looked at anew even where nothing new was read.
    pub fn due(&self, now: Timestamp) -> bool {
        self.jobs.values().any(|l| l.next <= now)
    }

    /// The record of a job with what is believed in the place of the curve that
    /// it states, while it runs.
    pub fn believed(&self, record: &JobRecord) -> JobRecord {
        let learned = self.jobs.get(&record.id);
        let learned = learned.filter(|_| record.state == JobState::Running);
        let mut record = record.clone();
        if let Some(learned) = learned {
            record.curve = learned.curve.clone();
        }
        record
    }

    /// Learns from the latest readings; see [`Curves::believed`].
    pub fn learn(
        &mut self,
        site: &Site,
        readings: &Readings,
        entries: &[JobEntry],
        now: Timestamp,
    ) {
        self.spend_what_is_lost(entries);
        let mut alive = BTreeSet::new();
        for record in entries.iter().map(|e| &e.record) {
            let over = matches!(record.state, JobState::Completed | JobState::Cancelled);
            if !over {
                alive.insert(record.id.clone());
            }
            if record.state != JobState::Running {
                continue;
            }
            let Some((first, range)) = common(site, &record.devices) else {
                continue;
            };
            let known = self.jobs.get(&record.id);
            if known.is_none_or(|l| l.stated != record.curve || l.learner.range() != range) {
                let kept = match known {
                    Some(learned) => Some(learned.kept(&record.id, now)),
                    None => self.keeping.take(&record.id),
                };
                let mut begun = Learned::begin(record, &first.accelerator, range, kept, now);
                if let Some(learned) = known {
                    begun.go_on_from(learned);
                }
                self.jobs.insert(record.id.clone(), begun);
                self.version += 1;
            }
            if let Some(learned) = self.jobs.get_mut(&record.id) {
                let tried = learned.trying;
                if learned.observe(site, readings, record) {
                    self.keeping.news();
                }
                let floor = site
                    .classes
                    .get(&record.class)
                    .map_or(0.0, |c| c.floor_speed);
                let other = learned.look(floor, now);
                self.version += u64::from(other || learned.trying != tried);
            }
        }
        self.forget(|id| alive.contains(id));
    }
}

/// The lowest cap at which a curve reaches a speed; its last corner where it
/// never does. `None` when any cap will do.
pub(super) fn cap_for(curve: &SpeedCurve, speed: f64) -> Option<Watts> {
    let points = curve.points();
    if points.first().is_none_or(|p| p.1 >= speed) {
        return None;
    }
    for pair in points.windows(2) {
        let ((w0, s0), (w1, s1)) = (pair[0], pair[1]);
        if s1 >= speed {
            return Some(w0 + (w1 - w0) * ((speed - s0) / (s1 - s0)));
        }
    }
    points.last().map(|p| p.0)
}

impl Learned {
    /// Begins with what is stated, and `kept`: what is known of the job from before.
    fn begin(
        record: &JobRecord,
        accelerator: &str,
        range: (Watts, Watts),
        kept: Option<KeptJob>,
        now: Timestamp,
    ) -> Self {
        let family = WorkloadFamily::of_class(record.class);
        let prior = SpeedPriors::builtin().of(accelerator, family, range);
        let states = record.curve.points().len() >= 2;
        let mut learner = if states {
            SpeedLearner::stated(&prior, &record.curve, STATED, range)
        } else {
            SpeedLearner::new(prior, range)
        };
        let (ledger, seen) = kept.map_or_else(Default::default, |k| (k.trials, k.seen));
        if let Some(seen) = seen {
            // Beside a stated curve clocks are not listened to.
            let seen = if states { seen.without_clocks() } else { seen };
            learner.recall(&seen, now);
        }
        let found = learner.estimate(now);
        Self {
            curve: if states && found.seen == (0, 0) {
                record.curve.clone()
            } else {
                found.curve
            },
            lower: found.lower,
            learner,
            stated: record.curve.clone(),
            by_clock: !states,
            devices: record.devices.clone(),
            next: now + LEARN_EVERY,
            cap: Watts::ZERO,
            since: now,
            clocks: Clocks::default(),
            heard: now,
            ledger,
            trying: None,
            wish: None,
        }
    }

    /// The job's record has changed, not the cap that its devices have.
    fn go_on_from(&mut self, before: &Self) {
        self.devices.clone_from(&before.devices);
        (self.cap, self.since, self.heard) = (before.cap, before.since, before.heard);
        if self.by_clock && before.by_clock {
            self.clocks = before.clocks.clone();
        }
    }

    /// Takes in what the latest readings say, if they are new and the cap has
    /// been in force for long enough; whether anything was learned.
    fn observe(&mut self, site: &Site, readings: &Readings, record: &JobRecord) -> bool {
        // Under a limit of the node nobody knows which cap a device was held to.
        let mut known = record.devices.iter().filter_map(|d| site.device(d));
        if known.any(|(_, d)| readings.whole().contains(&d.node)) {
            return false;
        }
        let Some((cap, at)) = gang_cap(readings, &record.devices) else {
            return false;
        };
        if (cap - self.cap).0.abs() > SAME_CAP * cap.0 || self.devices != record.devices {
            self.devices.clone_from(&record.devices);
            self.cap = cap;
            self.since = at;
            self.clocks = Clocks::default();
        }
        let mut learned = false;
        if self.by_clock && at >= self.since + CLOCKS_SETTLE && at > self.clocks.last {
            self.clocks.last = at;
            learned |= self.hear_clocks(site, readings, record, at);
        }
        let source = record.id.source();
        if let Some((rate, at)) = readings.value(&source, Catalogue::job_throughput())
            && at > self.heard
            && at >= self.since + THROUGHPUT_SETTLES
        {
            self.heard = at;
            let (tried, cap) = (self.trying.as_ref().map(Trying::cap), self.cap);
            if tried.is_some_and(|t| (t - cap).0.abs() <= SAME_CAP * cap.0) {
                self.trying = None;
            }
            self.see(rate, Source::Throughput, at);
            learned = true;
        }
        learned
    }

    /// Averages clocks; whether that has come to an observation.
    fn hear_clocks(
        &mut self,
        site: &Site,
        readings: &Readings,
        record: &JobRecord,
        at: Timestamp,
    ) -> bool {
        let (mut clock, mut busy) = (0.0, 0.0);
        for (_, device) in site.devices_named(&record.devices) {
            let read = |metric| readings.value(&device.id, metric).map(|(v, _)| v);
            let (Some(hertz), Some(share), Some(highest)) = (
                read(Catalogue::gpu_sm_clock()),
                read(Catalogue::gpu_utilization()),
                highest_clock(&device.accelerator),
            ) else {
                return false;
            };
            clock += share * (hertz / highest).min(1.0);
            busy += share;
        }
        if busy < BUSY * record.devices.len() as f64 {
            return false;
        }
        let from = *self.clocks.from.get_or_insert(at);
        self.clocks.clock += clock;
        self.clocks.busy += busy;
        self.clocks.instants += 1;
        let is_enough = self.clocks.instants >= INSTANTS && at >= from + LEARN_EVERY;
        if is_enough {
            self.see(self.clocks.clock / self.clocks.busy, Source::Clock, at);
            self.clocks = Clocks {
                last: at,
                ..Clocks::default()
            };
        }
        is_enough
    }

    fn see(&mut self, rate: f64, source: Source, at: Timestamp) {
        self.learner.observe(&Observation {
            cap: self.cap,
            rate,
            source,
            at,
            weight: 1.0,
        });
    }

    /// Looks at the curve anew when it is time; whether decisions see another.
    fn look(&mut self, floor: f64, now: Timestamp) -> bool {
        if now < self.next {
            return false;
        }
        self.wish = self.wish(floor, now);
        self.next = now.next_multiple_of(LEARN_EVERY);
        let found = self.learner.estimate(now);
        if found.seen == (0, 0) {
            return false;
        }
        let SpeedEstimate { curve, lower, .. } = found;
        let (other, lowered) = (differ(&curve, &self.curve), differ(&lower, &self.lower));
        if other {
            self.curve = curve;
        }
        if lowered {
            self.lower = lower;
        }
        other || lowered
    }
}

/// Whether two curves differ anywhere by as much as matters.
fn differ(a: &SpeedCurve, b: &SpeedCurve) -> bool {
    let corners = a.points().iter().chain(b.points()).map(|p| p.0);
    corners
        .map(|cap| (a.speed(cap) - b.speed(cap)).abs())
        .any(|off| off >= MATTERS)
}

/// The first of a job's devices, and the range that all of them share. `None`
/// when the site knows none of them, or they share no cap.
fn common<'a>(site: &'a Site, devices: &[DeviceId]) -> Option<(&'a Device, (Watts, Watts))> {
    let mut known = site.devices_named(devices).map(|(_, d)| d);
    let first = known.next()?;
    let range = known.fold((first.min_cap, first.max_cap), |(low, high), d| {
        (low.max(d.min_cap), high.min(d.max_cap))
    });
    (range.0 <= range.1).then_some((first, range))
}

/// The one cap that all devices of a gang have, and the oldest of its readings.
fn gang_cap(readings: &Readings, devices: &[DeviceId]) -> Option<(Watts, Timestamp)> {
    let mut low = f64::INFINITY;
    let mut high = 0.0f64;
    let mut at = Timestamp(i64::MAX);
    for device in devices {
        let (cap, then) = readings.value(device, Catalogue::gpu_power_limit())?;
        low = low.min(cap);
        high = high.max(cap);
        at = at.min(then);
    }
    let one = !devices.is_empty() && high - low <= SAME_CAP * high && low > 0.0;
    one.then_some((Watts(low), at))
}

/// Highest core clock of an accelerator, hertz.
fn highest_clock(accelerator: &str) -> Option<f64> {
    let known = AcceleratorCatalogue::builtin().get(accelerator)?;
    Some(f64::from(GpuModel::from_catalogue(known).core_mhz) * 1e6)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test fails by unwrapping, and prints what it measured"
)]
mod tests;
