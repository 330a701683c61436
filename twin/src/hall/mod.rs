//! The hall: accelerators, nodes, racks, cooling and meters, moved through
//! time by [`Hall::step`]. Deterministic for a seed and a sequence of calls.
//!
//! # Sub-steps
//!
//! A step of any length is cut into sub-steps: 0.25 s for the two seconds
//! after a cap, a job or a fault changed, then 1 s for four seconds, then up to
//! 30 s; never across an event (a job starts, ends, or finishes a checkpoint).
//! In sub-steps of up to 1 s every job is in one phase and draw is noisy; in
//! longer ones every job draws its mean over all phases. A coarse sub-step is
//! taken only where even the hungriest phases of all jobs together keep every
//! limit; else the hall goes on second by second, so that no breaker misses a
//! peak. Draw within a sub-step is integrated exactly (see `gpu`), so the error
//! is that of means for phases: below 1 % of energy over an hour (tested).

mod caps;
mod fault;
mod gpu;
mod job;
mod readings;
mod release;
mod schedule;
mod tally;
mod tree;
mod watch;

pub use caps::CapSource;
pub use fault::Fault;
pub use job::JobSpec;
pub use tally::{GridPoint, Tally};
pub use watch::{GRACE_MS, TOLERANCE, Violation};

use crate::boards::gpu_model;
use crate::error::TwinError;
use gpu::{Activity, Gpu, REGULATION};
use heliostat_models::cooling::{Facility, Plant};
use heliostat_models::gpu::GpuModel;
use heliostat_models::job::JobOrder;
use heliostat_models::{Celsius, Joules, Site, Timestamp, Watts, weather};
use job::{Job, Stage};
use std::collections::HashMap;
use std::sync::Arc;
use watch::{GridLimit, Watch};

/// The grid as a function of time.
pub type GridFunction = Arc<dyn Fn(Timestamp) -> GridPoint + Send + Sync>;

/// What a job does until somebody orders otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DefaultOrder {
    /// Run as soon as devices are free.
    #[default]
    Run,
    /// Interruptible jobs wait for an order; others run.
    HoldInterruptible,
}

/// How closely a hall looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resolution {
    /// Phases, transients and breakers.
    #[default]
    Fine,
    /// Means only, no breakers: for comparisons.
    Coarse,
}

/// How a hall begins.
#[derive(Clone)]
pub struct HallConfig {
    /// When.
    pub start: Timestamp,
    /// Of everything random. Halls of one seed see the same jobs behave alike.
    pub seed: u64,
    /// What jobs do until ordered otherwise.
    pub default_order: DefaultOrder,
    /// Whether jobs may start at once; see [`Hall::open`].
    pub open: bool,
    /// How closely to look.
    pub resolution: Resolution,
    /// The grid, for the tally of carbon and renewable energy.
    pub grid: Option<GridFunction>,
    /// Figures of accelerators by key, where they differ from the catalogue's
    /// or the catalogue has none.
    pub models: Vec<(String, GpuModel)>,
}

impl HallConfig {
    /// An open hall in fine resolution, whose jobs run as they come.
    pub fn new(start: Timestamp, seed: u64) -> Self {
        Self {
            start,
            seed,
            default_order: DefaultOrder::Run,
            open: true,
            resolution: Resolution::Fine,
            grid: None,
            models: Vec::new(),
        }
    }
}

impl std::fmt::Debug for HallConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HallConfig from {} with seed {}", self.start, self.seed)
    }
}

/// Longest sub-step, milliseconds.
const COARSE_MS: i64 = 30_000;
const FINE_MS: i64 = 1_000;
const FINEST_MS: i64 = 250;
/// Steps up to this length follow the phases, milliseconds.
const FOLLOW_MS: i64 = 5_000;

/// A data centre in software.
pub struct Hall {
    site: Arc<Site>,
    now: Timestamp,
    seed: u64,
    default_order: DefaultOrder,
    open: bool,
    resolution: Resolution,
    grid: Option<GridFunction>,
    random: fastrand::Rng,
    caps: CapSource,
    cap_buffer: Vec<Watts>,
    gpus: Vec<Gpu>,
    /// The first device's figures as catalogued, for what is believed of jobs.
    prior: Option<GpuModel>,
    jobs: Vec<Job>,
    by_id: HashMap<heliostat_models::JobId, usize>,
    node_power: Vec<Watts>,
    node_inlet: Vec<Celsius>,
    flow_of: tree::Flow,
    flow: Vec<Watts>,
    peak_flow: Vec<Watts>,
    plant: Plant,
    facility: Facility,
    outdoor: Celsius,
    meters: Vec<Joules>,
    watch: Watch,
    grid_limit: Option<GridLimit>,
    disturbed: Timestamp,
    tally: Tally,
}

impl std::fmt::Debug for Hall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hall {} at {}", self.site.id, self.now)
    }
}

impl Hall {
    /// A hall at rest: no jobs, all devices idle under the limits of `caps`.
    ///
    /// # Errors
    /// When the site names an accelerator that the catalogue does not know.
    pub fn new(site: Arc<Site>, config: HallConfig, caps: CapSource) -> Result<Self, TwinError> {
        let mut random = fastrand::Rng::with_seed(config.seed);
        let devices = site.devices.len();
        let mut cap_buffer: Vec<Watts> = site.devices.iter().map(|d| d.max_cap).collect();
        caps.read(&mut cap_buffer);
        let air = site.cooling.kind.contains("air");
        let node_inlet: Vec<Celsius> = (site.nodes.iter())
            .map(|_| site.cooling.supply + Celsius(1.5 * random.f64()))
            .collect();
        let mut gpus = Vec::with_capacity(devices);
        let mut prior = None;
        for (device, cap) in site.devices.iter().zip(&cap_buffer) {
            let known = config
                .models
                .iter()
                .find(|(key, _)| **key == *device.accelerator);
            let model = match known {
                Some((_, model)) => model.clone(),
                None => gpu_model(&device.accelerator)?,
            };
            prior.get_or_insert_with(|| model.clone());
            // Recorded: an H100 rises 18 K from 70 to 632 W; A100 in air, about 33 K.
            let rise = if air { 34.0 } else { 22.0 };
            gpus.push(Gpu::new(
                model,
                *cap,
                rise,
                node_inlet[device.node],
                &mut random,
            ));
        }
        let full_load = gpus.iter().map(|g| g.model.tdp).sum::<Watts>()
            + site.nodes.iter().map(|n| n.overhead).sum::<Watts>();
        let plant = Plant::new(
            &site.cooling,
            full_load,
            weather::annual_mean(site.latitude),
        );
        let mut hall = Self {
            now: config.start,
            seed: config.seed,
            default_order: config.default_order,
            open: config.open,
            resolution: config.resolution,
            grid: config.grid,
            random,
            caps,
            cap_buffer,
            gpus,
            prior,
            jobs: Vec::new(),
            by_id: HashMap::new(),
            node_power: vec![Watts::ZERO; site.nodes.len()],
            node_inlet,
            flow_of: tree::Flow::new(&site),
            flow: Vec::new(),
            peak_flow: Vec::new(),
            plant,
            facility: Facility::default(),
            outdoor: Celsius(0.0),
            meters: vec![Joules::ZERO; site.meters.len()],
            watch: Watch::new(site.power.nodes(), &site.trip_curves),
            grid_limit: None,
            disturbed: config.start,
            tally: Tally::default(),
            site,
        };
        hall.spread(false);
        hall.publish();
        Ok(hall)
    }

    /// The site.
    pub fn site(&self) -> &Arc<Site> {
        &self.site
    }
    /// The instant that the hall stands at.
    pub fn now(&self) -> Timestamp {
        self.now
    }
    /// Sums so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }
    /// Violations that the hall's own breakers saw.
    pub fn violations(&self) -> Vec<Violation> {
        self.watch.violations()
    }
    /// How often a breaker would have tripped.
    pub fn trips(&self) -> u64 {
        self.watch.trips()
    }
    /// Begins to count energy, work and violations anew; energy registers of
    /// devices and meters go on.
    pub fn reset_tally(&mut self) {
        self.tally = Tally::default();
        self.watch.reset();
    }
    /// Lets jobs start, or keeps those that wait from starting.
    pub fn open(&mut self, open: bool) {
        self.open = open;
    }
    /// Sets a limit of a hall whose caps are in memory; the device obeys from
    /// the hall's present on.
    pub fn set_cap(&mut self, device: usize, cap: Watts) {
        if let CapSource::Memory(caps) = &mut self.caps
            && let (Some(own), Some(gpu)) = (caps.get_mut(device), self.gpus.get_mut(device))
        {
            *own = cap;
            if gpu.set_cap(cap) {
                self.disturb();
            }
        }
    }

    /// From `at` on the site must draw no more than `limit` at its feed; the
    /// hall measures how long that takes. Replaces an earlier one.
    pub fn begin_grid_limit(&mut self, limit: Watts, at: Timestamp) {
        self.grid_limit = Some(GridLimit::new(limit, at));
    }
    /// Ends the limit; what was measured of it is forgotten.
    pub fn end_grid_limit(&mut self) {
        self.grid_limit = None;
    }
    /// Seconds from the beginning of the grid limit until power stayed below
    /// it for 2 s; `None` while that has not happened.
    pub fn seconds_to_compliance(&self) -> Option<f64> {
        self.grid_limit.and_then(|g| g.complied)
    }

    /// Times that the site, having complied, drew more than the grid limit
    /// again for longer than the breakers' grace.
    pub fn grid_limit_broken(&self) -> u64 {
        self.grid_limit.map_or(0, |g| g.broken)
    }

    /// Something changed: look closely for a while.
    pub(crate) fn disturb(&mut self) {
        self.disturbed = self.now;
    }

    /// Moves to an instant. Limits are read once, at the beginning; readings
    /// are written once, at the end. An instant not after the present only
    /// reads limits.
    pub fn step(&mut self, to: Timestamp) {
        self.read_caps();
        let follow = self.resolution == Resolution::Fine && to.0 - self.now.0 <= FOLLOW_MS;
        while self.now < to {
            if self.start_jobs() {
                self.disturb();
            }
            self.refresh_points();
            let span = self.next_span(to, follow);
            self.substep(span);
        }
        self.publish();
    }

    fn read_caps(&mut self) {
        let mut caps = std::mem::take(&mut self.cap_buffer);
        self.caps.read(&mut caps);
        let mut changed = false;
        for (gpu, cap) in self.gpus.iter_mut().zip(&caps) {
            changed |= gpu.set_cap(*cap);
        }
        self.cap_buffer = caps;
        if changed {
            self.disturb();
        }
    }

    /// Operating points and the speed of every gang.
    fn refresh_points(&mut self) {
        for (index, job) in self.jobs.iter_mut().enumerate() {
            if job.stage != Stage::Computing {
                continue;
            }
            let mut speed = f64::INFINITY;
            for device in &job.gang {
                speed = speed.min(self.gpus[*device].operating_point(index, &job.truth).speed);
            }
            job.speed = speed;
        }
    }

    /// Milliseconds to the end of the next sub-step.
    fn next_span(&mut self, to: Timestamp, follow: bool) -> i64 {
        let since = self.now.0 - self.disturbed.0;
        let mut span = to.0 - self.now.0;
        for job in &self.jobs {
            if let Some(seconds) = job.next_event() {
                span = span.min(((seconds * 1_000.0).ceil() as i64).max(1));
            }
            if job.stage == Stage::Waiting && job.record.release > self.now {
                span = span.min(job.record.release.0 - self.now.0);
            }
        }
        if self.resolution == Resolution::Coarse {
            return span;
        }
        if let Some(grid) = self.grid_limit {
            span = span.min(if grid.at > self.now {
                grid.at.0 - self.now.0
            } else if grid.complied.is_none() {
                FINEST_MS
            } else {
                FINE_MS
            });
        }
        if since < 2_000 {
            return span.min(FINEST_MS);
        }
        if follow || since < 6_000 || self.could_exceed() {
            return span.min(FINE_MS);
        }
        span.min(COARSE_MS)
    }

    /// Whether the hungriest phases of all jobs at once would exceed a limit.
    fn could_exceed(&mut self) -> bool {
        let power: Vec<Watts> = (self.site.nodes.iter())
            .map(|node| {
                let peaks = self.gpus[node.devices.clone()].iter();
                let gpus: Watts = peaks.map(|g| g.peak(g.job.is_some())).sum();
                gpus + self.overhead(node, gpus)
            })
            .collect();
        let it: Watts = power.iter().sum();
        let facility = self.plant.facility(it, self.outdoor).total();
        let mut flow = std::mem::take(&mut self.peak_flow);
        self.flow_of.fill(&power, facility, &mut flow);
        let exceeds = self.watch.exceeds(&flow);
        self.peak_flow = flow;
        exceeds
    }

    /// What a node draws besides its accelerators: half of its rated overhead
    /// at rest, all of it at full load (processors feed the accelerators, fans
    /// follow the heat). Linear: Acme's GPU servers draw 1.4 to 1.5 kW at rest
    /// and 5.0 kW loaded with 8 A100, which leaves 0.9 and 1.8 kW to the rest.
    fn overhead(&self, node: &heliostat_models::site::Node, gpus: Watts) -> Watts {
        let devices = &self.gpus[node.devices.clone()];
        let idle: Watts = devices.iter().map(|g| g.model.idle).sum();
        let full: Watts = devices.iter().map(|g| g.model.tdp).sum();
        let load = if full > idle {
            (gpus - idle) / (full - idle)
        } else {
            0.0
        };
        node.overhead * (0.5 + 0.48 * load.clamp(0.0, 1.0))
    }

    fn substep(&mut self, span: i64) {
        let seconds = span as f64 / 1_000.0;
        let from = self.now;
        let sampled = self.resolution == Resolution::Fine && span <= FINE_MS;
        let noisy = sampled;
        for index in 0..self.gpus.len() {
            let activity = self.activity(index, sampled);
            let inlet = self.node_inlet[self.site.devices[index].node];
            self.gpus[index].advance(activity, seconds, inlet, noisy, &mut self.random);
        }
        self.now = Timestamp(from.0 + span);
        self.spread(noisy);
        if self.resolution == Resolution::Fine {
            self.watch.see(&self.flow, from, self.now);
        }
        let site_power = self.site_power();
        if let Some(grid) = &mut self.grid_limit {
            grid.see(site_power, from, self.now);
        }
        self.count(from, seconds);
        if self.progress(seconds) {
            self.disturb();
        }
    }

    fn activity(&self, gpu: usize, sampled: bool) -> Activity {
        let Some(index) = self.gpus[gpu].job else {
            return Activity::Idle;
        };
        let job = &self.jobs[index];
        match job.stage {
            Stage::Computing => {
                // One phase for the whole gang: that of its first member.
                let phase = sampled.then(|| {
                    let first = job.gang.first().copied().unwrap_or(gpu);
                    job.phase_at(self.now, self.gpus[first].time_shares())
                });
                Activity::Busy(phase, job.speed)
            }
            Stage::Starting(_) | Stage::Stopping(_) => Activity::Transfer,
            Stage::Waiting | Stage::Done => Activity::Idle,
        }
    }

    /// Power of nodes, of the facility and through the tree.
    fn spread(&mut self, noisy: bool) {
        for (index, node) in self.site.nodes.iter().enumerate() {
            let gpus: Watts = (self.gpus[node.devices.clone()].iter())
                .map(|g| g.mean_power)
                .sum();
            let wobble = if noisy {
                1.0 + 0.02 * (self.random.f64() - 0.5)
            } else {
                1.0
            };
            self.node_power[index] = gpus + self.overhead(node, gpus) * wobble;
        }
        self.outdoor =
            weather::outdoor(self.site.latitude, self.site.longitude, self.now, self.seed);
        let it = self.it_power();
        self.facility = self.plant.facility(it, self.outdoor);
        let total = self.facility.total();
        let mut flow = std::mem::take(&mut self.flow);
        self.flow_of.fill(&self.node_power, total, &mut flow);
        self.flow = flow;
    }

    /// Adds a sub-step to the tally and the meters.
    fn count(&mut self, from: Timestamp, seconds: f64) {
        let hours = seconds / 3_600.0;
        let gpu: Watts = self.gpus.iter().map(|g| g.mean_power).sum();
        let site = self.site_power().over_seconds(seconds);
        let tally = &mut self.tally;
        tally.gpu += gpu.over_seconds(seconds);
        tally.it += self.node_power.iter().sum::<Watts>().over_seconds(seconds);
        tally.site += site;
        tally.device_hours += hours * self.gpus.len() as f64;
        for job in self.jobs.iter().filter(|j| j.is_placed()) {
            tally.held_hours += hours * job.gang.len() as f64;
            if job.stage == Stage::Computing {
                let work = hours * job.speed * job.gang.len() as f64;
                let class = self.site.classes.get(&job.record.class);
                tally.work_hours += work;
                tally.weighted_work_hours += work * class.map_or(1.0, |c| c.weight);
            }
        }
        if let Some(grid) = &self.grid {
            let point = grid(from);
            if let Some(intensity) = point.intensity {
                tally.carbon_grams += site.carbon_grams(intensity);
                tally.site_with_intensity += site;
            }
            if let Some(share) = point.renewable_share {
                tally.renewable += site * share;
                tally.site_with_share += site;
            }
        }
        for index in 0..self.meters.len() {
            let power = self.meter_power(index);
            self.meters[index] += power.over_seconds(seconds);
        }
    }

    /// Mean power of the accelerators were every cap `cap`, at present
    /// temperatures, job by job.
    pub(crate) fn predicted_gpu_power(&self, cap: Watts) -> Watts {
        let mut total: Watts = (self.gpus.iter().filter(|g| g.job.is_none()))
            .map(|g| g.model.idle_at(g.temperature))
            .sum();
        for job in self.jobs.iter().filter(|j| j.is_placed()) {
            let Some(first) = job.gang.first().map(|i| &self.gpus[*i]) else {
                continue;
            };
            let point = job
                .truth
                .under_cap(&first.model, cap * REGULATION, first.temperature);
            total += point.power * job.gang.len() as f64;
        }
        total
    }

    /// The order a job begins with.
    fn first_order(&self, class: heliostat_models::JobClass) -> JobOrder {
        let interruptible = self
            .site
            .classes
            .get(&class)
            .is_none_or(|c| c.interruptible);
        match self.default_order {
            DefaultOrder::HoldInterruptible if interruptible => JobOrder::Hold,
            _ => JobOrder::Run,
        }
    }
}

#[cfg(test)]
mod tests;
