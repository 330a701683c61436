//! From frames to the load that no cap controls.
//!
//! What is not known is taken at its highest: a node without a fresh reading
//! counts with its rated overhead, a plant without one with a poor efficiency.
//! Uncertainty widens the load and never narrows it.

use heliostat_models::site::MeterRole;
use heliostat_models::site::power::PowerNodeKind;
use heliostat_models::{Catalogue, DeviceId, Frame, JobState, MetricId, Site, Timestamp, Watts};
use heliostat_store::jobs::JobEntry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Share of a node's rated overhead that is added to a measured one: fans and
/// processors follow their devices when caps are raised between two readings.
const OVERHEAD_RESERVE: f64 = 0.1;
/// The same where only the sum of all nodes counts, at the utility feed: what
/// one node adds between two readings another leaves.
const OVERHEAD_RESERVE_AT_FEED: f64 = 0.03;
/// Readings of a node and of its devices belong together when they are at most so
/// far apart: of a device that was read later than its node and draws more by then,
/// the difference would be missing in the node's overhead.
const TOGETHER: Duration = Duration::from_secs(1);
/// A device that draws more than this many times the most that its cap may be does
/// not keep to it …
const BEYOND_CAP: f64 = 1.1;
/// … unless it was read before this long after the cap came down.
const SETTLED: Duration = Duration::from_secs(5);
/// A device that is said to draw more than this many times its highest cap is misread.
const MISREAD: f64 = 1.2;
/// What runs draws at least this share of its rated or design figure; a reading
/// below is not believed.
const LEAST_SHARE: f64 = 0.2;
/// And so much more of it, by how far its devices draw their most: fans follow them.
const LEAST_SHARE_UNDER_LOAD: f64 = 0.3;
/// Without fresh meters the plant is taken to need this many times its design overhead.
const UNKNOWN_PLANT: f64 = 1.5;
/// A further watt of IT costs at most this many times the plant's design overhead.
const MARGINAL_PLANT: f64 = 2.0;

/// The latest frames, as far as control reads them, and how old they may be.
#[derive(Debug, Default)]
pub struct Readings {
    frames: HashMap<DeviceId, Frame>,
    since: Timestamp,
    /// The oldest instant among the frames.
    oldest: Option<Timestamp>,
    /// Nodes that are limited as a whole.
    whole: Arc<BTreeSet<usize>>,
    /// Since when each device has no more than the cap that it counts with, by place
    /// in the site; empty where nobody knows.
    caps_since: Arc<Vec<Timestamp>>,
}

impl Readings {
    /// Frames before `since` are stale and do not count.
    pub fn new(frames: Vec<Frame>, since: Timestamp) -> Self {
        let used = used();
        let mut oldest: Option<Timestamp> = None;
        let keep = |mut frame: Frame| {
            // Kept until there are new ones, so nothing is kept that nobody reads.
            frame.readings.retain(|(metric, _)| used.contains(metric));
            if frame.readings.is_empty() || frame.at < since {
                return None;
            }
            frame.readings.shrink_to_fit();
            oldest = Some(oldest.map_or(frame.at, |at| at.min(frame.at)));
            Some((frame.device.clone(), frame))
        };
        let frames = frames.into_iter().filter_map(keep).collect();
        Self {
            frames,
            since,
            oldest,
            whole: Arc::default(),
            caps_since: Arc::default(),
        }
    }

    /// The same with the instants since when caps hold: who draws more than its cap
    /// later than that does not keep to it.
    pub fn caps_since(self, caps_since: Arc<Vec<Timestamp>>) -> Self {
        Self { caps_since, ..self }
    }

    /// The same with these nodes limited as a whole, by place in the site: their
    /// overhead counts as rated, because what it leaves of that their accelerators
    /// may draw; so may they what those at rest beside them leave.
    pub fn limited_whole(self, whole: Arc<BTreeSet<usize>>) -> Self {
        Self { whole, ..self }
    }

    /// The nodes that are limited as a whole.
    pub(super) fn whole(&self) -> &Arc<BTreeSet<usize>> {
        &self.whole
    }

    /// Frames after `until` do not count: a clock that is ahead would keep them
    /// fresh for long after, and make them pass for later than a job's start.
    pub fn not_after(mut self, until: Timestamp) -> Self {
        self.frames.retain(|_, frame| frame.at <= until);
        self
    }

    /// Whether all that counted still counts when frames before `since` are stale.
    pub fn stay_fresh(&self, since: Timestamp) -> bool {
        since >= self.since && self.oldest.is_none_or(|oldest| oldest >= since)
    }

    /// How old a frame may be, given how often devices are read.
    pub fn freshness(sample_every: Duration) -> Duration {
        (sample_every * 3).max(Duration::from_secs(5))
    }

    /// A fresh reading of one metric, and its instant.
    pub(super) fn value(&self, device: &DeviceId, metric: MetricId) -> Option<(f64, Timestamp)> {
        let frame = self.frames.get(device).filter(|f| f.at >= self.since)?;
        Some((frame.get(metric)?.value()?, frame.at))
    }

    /// Whether a device that was read then had its cap for long enough.
    fn is_settled(&self, place: usize, read: Timestamp) -> bool {
        let since = self.caps_since.get(place);
        since.is_some_and(|since| read > *since + SETTLED)
    }

    fn watts(&self, device: &DeviceId, metric: MetricId) -> Option<(Watts, Timestamp)> {
        let (value, at) = self.value(device, metric)?;
        Some((Watts(value.max(0.0)), at))
    }
}

/// The metrics that control reads.
fn used() -> [MetricId; 7] {
    [
        Catalogue::gpu_power(),
        Catalogue::gpu_power_limit(),
        Catalogue::gpu_sm_clock(),
        Catalogue::gpu_utilization(),
        Catalogue::node_power(),
        Catalogue::meter_power(),
        Catalogue::job_throughput(),
    ]
}

/// What the readings say of power that no cap controls.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// IT power at and below each power node that no cap controls.
    pub it_uncontrolled: Vec<Watts>,
    /// By how much that may be more.
    pub it_uncertain: Vec<Watts>,
    /// The most that is expected of all nodes together: for a promise to the
    /// grid, not for breakers.
    pub it_at_feed: Vec<Watts>,
    /// Fresh readings of the devices that no job holds.
    pub idle: BTreeMap<DeviceId, Watts>,
    /// Power of the whole site, where a meter says it.
    pub site_power: Option<Watts>,
    /// When the oldest reading of that was taken.
    pub site_power_at: Option<Timestamp>,
    /// Power of the IT equipment, where meters say it.
    pub it_power: Option<Watts>,
    /// Nodes whose overhead is measured; the others count with their rated one.
    pub nodes_measured: usize,
    /// What each node draws besides its devices, by place in the site: what was
    /// read of it, and by how much it may be more.
    pub overhead: Vec<(Watts, Watts)>,
}

/// Reads what can be read. `caps` are the largest that devices may have now, by
/// place in the site (unknown: the highest settable): up to there they may draw
/// more at any moment, and their node with them.
pub fn measure(site: &Site, readings: &Readings, jobs: &[JobEntry], caps: &[Watts]) -> Measured {
    let changed = changes(site, jobs);
    let idle = idle(site, readings, jobs, caps);
    let mut expected = caps.to_vec();
    for (place, drawn) in &idle {
        expected[*place] = expected[*place].min(*drawn);
    }
    let idle = (idle.into_iter())
        .map(|(place, drawn)| (site.devices[place].id.clone(), drawn))
        .collect();
    let mut it_uncontrolled = vec![Watts::ZERO; site.power.nodes().len()];
    let mut it_uncertain = it_uncontrolled.clone();
    let mut it_at_feed = it_uncontrolled.clone();
    let mut nodes_measured = 0;
    let mut overheads = Vec::with_capacity(site.nodes.len());
    for (place, node) in site.nodes.iter().enumerate() {
        let of_node =
            |caps, reserve| overhead(site, readings, place, changed[place], caps, reserve);
        let measured = of_node(caps, OVERHEAD_RESERVE);
        let at_feed = of_node(&expected, OVERHEAD_RESERVE_AT_FEED);
        let at_feed = at_feed.map_or(node.overhead, |(read, more)| read + more);
        nodes_measured += usize::from(measured.is_some());
        // What is not known counts at its rated figure, which leaves nothing to add.
        let (read, more) = measured.unwrap_or((node.overhead, Watts::ZERO));
        overheads.push((read, more));
        for up in site.power.path_up(node.power_node) {
            it_uncontrolled[up] += read;
            it_uncertain[up] += more;
            it_at_feed[up] += at_feed;
        }
    }
    let metered = |role: MeterRole| {
        let mut sum = None;
        for meter in site.meters.iter().filter(|m| m.role == role) {
            let (watts, at) = readings.watts(&meter.id, Catalogue::meter_power())?;
            let (before, oldest) = sum.unwrap_or((Watts::ZERO, at));
            sum = Some((before + watts, oldest.min(at)));
        }
        sum
    };
    let (site_power, site_power_at) = metered(MeterRole::DataCentre).unzip();
    Measured {
        it_uncontrolled,
        it_uncertain,
        it_at_feed,
        idle,
        site_power,
        site_power_at,
        it_power: metered(MeterRole::It).map(|(watts, _)| watts),
        nodes_measured,
        overhead: overheads,
    }
}

/// What the devices draw that no job holds, where a fresh reading says it. One
/// that may have less than its lowest cap is left out: there is nothing to spare.
fn idle(
    site: &Site,
    readings: &Readings,
    jobs: &[JobEntry],
    caps: &[Watts],
) -> Vec<(usize, Watts)> {
    if readings.frames.is_empty() {
        return Vec::new();
    }
    let mut held = vec![false; site.devices.len()];
    for entry in jobs.iter().filter(|e| e.record.state == JobState::Running) {
        for (place, _) in site.devices_named(&entry.record.devices) {
            held[place] = true;
        }
    }
    (site.devices.iter().zip(caps).enumerate())
        .filter(|(place, (d, cap))| **cap >= d.min_cap && !held[*place])
        .filter(|(_, (d, _))| !readings.whole.contains(&d.node))
        .filter_map(|(place, (d, _))| {
            let (drawn, _) = readings.watts(&d.id, Catalogue::gpu_power())?;
            Some((place, drawn))
        })
        .collect()
}

/// When the jobs of each node last changed: a reading from before says
/// nothing of what the node does now.
fn changes(site: &Site, jobs: &[JobEntry]) -> Vec<Timestamp> {
    let mut changed = vec![Timestamp(i64::MIN); site.nodes.len()];
    for entry in jobs.iter().filter(|e| e.record.state == JobState::Running) {
        let at = entry.history.last().map_or(entry.record.at, |(at, _)| *at);
        for (_, device) in site.devices_named(&entry.record.devices) {
            changed[device.node] = changed[device.node].max(at);
        }
    }
    changed
}

/// What a node draws besides its devices, when all of it was read together, after
/// the last change, and can be; grown in step with the devices from what they drew to what
/// their caps allow, up to the rated overhead where they allow everything; and
/// by how much it may be more.
fn overhead(
    site: &Site,
    readings: &Readings,
    place: usize,
    changed: Timestamp,
    caps: &[Watts],
    reserve: f64,
) -> Option<(Watts, Watts)> {
    if readings.whole.contains(&place) {
        return None;
    }
    let node = &site.nodes[place];
    let name = DeviceId::from(node.id.as_str());
    let (all, at) = readings.watts(&name, Catalogue::node_power())?;
    if at <= changed {
        return None;
    }
    let (mut drawn, mut allowed, mut most) = (Watts::ZERO, Watts::ZERO, Watts::ZERO);
    let mut beyond = Watts::ZERO;
    for place in node.devices.clone() {
        let device = &site.devices[place];
        let (watts, when) = readings.watts(&device.id, Catalogue::gpu_power())?;
        let apart = when.millis().abs_diff(at.millis());
        if u128::from(apart) > TOGETHER.as_millis() || watts > device.max_cap * MISREAD {
            return None;
        }
        drawn += watts;
        let cap = caps.get(place).copied().unwrap_or(device.max_cap);
        if watts > cap * BEYOND_CAP && readings.is_settled(place, when) {
            beyond += watts - cap;
        }
        allowed += cap;
        most += device.max_cap;
    }
    if beyond > Watts::ZERO {
        // Either it is misread, or it draws what no cap controls: both count.
        return Some((node.overhead.max(all - drawn) + beyond, Watts::ZERO));
    }
    if drawn > all {
        // One of them is wrong, and nothing says which.
        return None;
    }
    let least = LEAST_SHARE + LEAST_SHARE_UNDER_LOAD * (drawn / most).clamp(0.0, 1.0);
    let measured = (all - drawn).max(node.overhead * least);
    if measured >= node.overhead {
        return Some((measured, Watts::ZERO));
    }
    let growth = if most > drawn {
        ((allowed - drawn) / (most - drawn)).clamp(0.0, 1.0)
    } else {
        1.0
    };
    let grown = measured + (node.overhead - measured) * growth;
    let most = (grown + node.overhead * reserve).min(node.overhead);
    Some((grown, most - grown))
}

impl Measured {
    /// Uncontrolled power at and below each power node, the cooling plant and
    /// losses included where they are fed (utility feeds and transformers).
    /// `limits` are those in force.
    ///
    /// The plant's load is what it is now, and grows with IT power up to what
    /// the limit leaves; when IT power must fall it is not trusted to follow.
    pub fn uncontrolled(&self, site: &Site, limits: &[Watts]) -> Vec<Watts> {
        self.with_plant(site, limits, &self.it_uncontrolled)
    }

    /// The same at the feeds under a grid event's limit, see [`Measured::it_at_feed`].
    pub fn uncontrolled_at_feed(&self, site: &Site, limits: &[Watts]) -> Vec<Watts> {
        self.with_plant(site, limits, &self.it_at_feed)
    }

    fn with_plant(&self, site: &Site, limits: &[Watts], it: &[Watts]) -> Vec<Watts> {
        let mut uncontrolled = it.to_vec();
        let transformers: Watts = (site.power.nodes().iter().zip(limits))
            .filter(|(n, _)| n.kind == PowerNodeKind::Transformer)
            .map(|(_, l)| *l)
            .sum();
        for (place, node) in site.power.nodes().iter().enumerate() {
            let share = match node.kind {
                PowerNodeKind::UtilityFeed => 1.0,
                // Transformers side by side carry the plant by their size.
                PowerNodeKind::Transformer if transformers > Watts::ZERO => {
                    limits[place] / transformers
                }
                _ => continue,
            };
            uncontrolled[place] += self.plant(site, limits[place], share);
        }
        uncontrolled
    }

    /// Most that the plant may draw at a node with this limit that carries this share of it.
    pub(super) fn plant(&self, site: &Site, limit: Watts, share: f64) -> Watts {
        let design = (site.cooling.design_pue - 1.0).max(0.0);
        let metered = self.site_power.zip(self.it_power);
        // Where IT is said to draw more than the whole site, a meter is wrong.
        let Some((all, it)) = metered.filter(|(all, it)| all >= it) else {
            let rate = design * UNKNOWN_PLANT;
            return limit * (rate / (1.0 + rate));
        };
        let plant = (all - it).max(it * design * LEAST_SHARE) * share;
        let it = it * share;
        let room = limit - plant;
        if room <= it {
            return plant;
        }
        let mean = if it > Watts::ZERO {
            plant / it
        } else {
            f64::INFINITY
        };
        let rate = mean.min(design * MARGINAL_PLANT);
        let it_then = (room + it * rate) / (1.0 + rate);
        limit - it_then
    }
}
