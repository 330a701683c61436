//! The site at one instant, made once a second and shared by all pages.

use crate::app::{App, Health};
use crate::digest::{Entry, digest};
use crate::figure::Figure;
use crate::pue::{Pue, pue};
use heliostat_models::site::power::PowerNodeKind;
use heliostat_models::site::{MeterRole, Site};
use heliostat_models::{Catalogue, DeviceId, Frame, JobId, JobState, MetricId, Timestamp, Watts};
use heliostat_optimizer::view::ControlView;
use heliostat_store::Query;
use heliostat_store::jobs::JobEntry;
use heliostat_store::query::Selector;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Grid data comes by the hour; older than this it no longer speaks of now.
const GRID_FRESH: Duration = Duration::from_secs(3 * 3_600);
/// Lines of decisions on the overview, and how many decisions they are made of at most.
const DECISION_LINES: usize = 8;
const DECISIONS: usize = 128;

/// Which nodes hang below each power node. Made once.
pub(crate) struct Tree {
    /// Indices into `site.nodes`, by power node.
    nodes_below: Vec<Vec<usize>>,
    /// Power nodes above the level of racks: index and depth.
    pub(crate) upper: Vec<(usize, usize)>,
}

impl Tree {
    pub(crate) fn of(site: &Site) -> Self {
        let power = site.power.nodes();
        let mut nodes_below = vec![Vec::new(); power.len()];
        for (index, node) in site.nodes.iter().enumerate() {
            for above in site.power.path_up(node.power_node) {
                nodes_below[above].push(index);
            }
        }
        let mut depth = vec![0; power.len()];
        let mut upper = Vec::new();
        for (index, node) in power.iter().enumerate() {
            depth[index] = node.parents.first().map_or(0, |p| depth[*p] + 1);
            if !matches!(node.kind, PowerNodeKind::Rack | PowerNodeKind::Node) {
                upper.push((index, depth[index]));
            }
        }
        Self { nodes_below, upper }
    }
}

/// Power by part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parts {
    pub(crate) total: Figure,
    pub(crate) gpu: Figure,
    pub(crate) other_it: Figure,
    pub(crate) cooling: Figure,
    /// Of the total: what cannot be told apart because readings are missing.
    pub(crate) unassigned: Figure,
}

/// A power node's use against its limit.
#[derive(Clone, Debug)]
pub(crate) struct PowerBar {
    pub(crate) id: String,
    pub(crate) kind: PowerNodeKind,
    pub(crate) depth: usize,
    pub(crate) power: Figure,
    /// In force now, grid events included.
    pub(crate) limit: Watts,
    /// As configured.
    pub(crate) configured: Watts,
}

impl PowerBar {
    /// Above its limit by more than meters can err (0.5 %).
    pub(crate) fn is_over(&self) -> bool {
        self.power.value.is_some_and(|p| p > self.limit.0 * 1.005)
    }
}

/// What the grid says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    pub(crate) carbon: Figure,
    pub(crate) renewable: Figure,
    pub(crate) price: Figure,
}

/// The site at one instant.
pub(crate) struct Snapshot {
    pub(crate) at: Timestamp,
    /// Older readings do not speak of now.
    pub(crate) stale_after: Duration,
    /// The latest frame of each device, stale ones included.
    pub(crate) latest: HashMap<DeviceId, Frame>,
    pub(crate) view: Arc<ControlView>,
    /// Whether some power node has two feeds.
    is_redundant: bool,
    pub(crate) parts: Parts,
    pub(crate) upper: Vec<PowerBar>,
    /// By rack.
    pub(crate) racks: Vec<PowerBar>,
    pub(crate) grid: Grid,
    pub(crate) pue_hour: Pue,
    pub(crate) pue_day: Pue,
    pub(crate) jobs: Vec<JobEntry>,
    /// Which job holds a device.
    pub(crate) holder: HashMap<DeviceId, JobId>,
    /// Number of the latest decision.
    pub(crate) decision: Option<u64>,
    pub(crate) decisions: Arc<[Entry]>,
    pub(crate) health: Health,
}

impl Snapshot {
    /// A device's reading, unless it is stale.
    pub(crate) fn figure(&self, device: &DeviceId, metric: MetricId) -> Figure {
        match self.latest.get(device) {
            Some(frame) if frame.at + self.stale_after >= self.at => frame.get(metric).into(),
            _ => Figure::MISSING,
        }
    }
    /// The grid event in force, if one is.
    pub(crate) fn running_event(&self) -> Option<&heliostat_optimizer::grid_event::GridEvent> {
        self.view
            .grid_events
            .iter()
            .find(|e| e.from <= self.at && self.at < e.to)
    }
    /// The site's limit in force and as configured, in watts. Several roots
    /// that feed different loads add up; redundant ones must each carry all.
    pub(crate) fn site_limits(&self) -> (f64, f64) {
        let roots = self.upper.iter().filter(|b| b.depth == 0);
        let pairs: Vec<(f64, f64)> = roots.map(|b| (b.limit.0, b.configured.0)).collect();
        let smallest = |a: (f64, f64), b: &(f64, f64)| (a.0.min(b.0), a.1.min(b.1));
        match pairs.first() {
            Some(first) if self.is_redundant => pairs.iter().fold(*first, smallest),
            _ => pairs.iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1)),
        }
    }
    /// Jobs in one state.
    pub(crate) fn jobs_in(&self, state: JobState) -> usize {
        self.jobs.iter().filter(|j| j.record.state == state).count()
    }
    /// Measured power of a node; where its own sensor is silent, that of its GPUs from below.
    pub(crate) fn node_power(&self, site: &Site, node: usize) -> Figure {
        let node = &site.nodes[node];
        let own = self.figure(&DeviceId::from(node.id.as_str()), Catalogue::node_power());
        own.or(Figure::sum(
            site.devices[node.devices.clone()]
                .iter()
                .map(|d| self.figure(&d.id, Catalogue::gpu_power())),
        )
        .as_estimate())
    }
}

/// Makes snapshots; keeps what need not be computed each time.
pub(crate) struct Feeder {
    parts: FeederParts,
    pue: Option<(Timestamp, Pue, Pue)>,
    digest: (Option<u64>, Arc<[Entry]>),
    /// Site seconds that pass in a second on the wall, smoothed.
    pace: f64,
    last: Option<(Timestamp, tokio::time::Instant)>,
}

struct FeederParts {
    site: Arc<Site>,
    store: Arc<dyn heliostat_store::TimeSeriesStore>,
    jobs: Arc<heliostat_store::jobs::JobTable>,
    decisions: Arc<heliostat_store::decisions::DecisionLog>,
    view: heliostat_optimizer::view::ViewReceiver,
    clock: Arc<dyn heliostat_store::Clock>,
    health: Arc<dyn Fn() -> Health + Send + Sync>,
}

impl Feeder {
    pub(crate) fn new(app: &App) -> Self {
        Self {
            parts: FeederParts {
                site: Arc::clone(&app.site),
                store: Arc::clone(&app.store),
                jobs: Arc::clone(&app.jobs),
                decisions: Arc::clone(&app.decisions),
                view: app.view.clone(),
                clock: Arc::clone(&app.clock),
                health: Arc::clone(&app.health),
            },
            pue: None,
            digest: (None, Arc::new([])),
            pace: 1.0,
            last: None,
        }
    }

    /// How old a reading may be: five sample periods, a minute at least; and
    /// where the site's clock runs fast, what passes on it in four seconds,
    /// because the way of a sample takes time on the wall.
    fn stale_after(&mut self, now: Timestamp) -> Duration {
        let wall = tokio::time::Instant::now();
        if let Some((then, then_wall)) = self.last {
            let passed = wall.duration_since(then_wall).as_secs_f64();
            if passed > 0.05 {
                let pace = now.seconds_since(then).max(0.0) / passed;
                // Up at once, down slowly: a clock that halts for a moment makes nothing stale.
                self.pace = pace.max(0.7 * self.pace + 0.3 * pace);
            }
        }
        self.last = Some((now, wall));
        let periods = self.parts.site.control.sample_every * 5;
        Duration::from_secs(60)
            .max(periods)
            .max(Duration::from_secs_f64(4.0 * self.pace.min(1e6)))
    }

    pub(crate) async fn snapshot(&mut self, tree: &Tree) -> Snapshot {
        let now = self.parts.clock.now();
        let stale_after = self.stale_after(now);
        let (pue_hour, pue_day) = self.pues(now).await;
        let (decision, decisions) = self.digest();
        let p = &self.parts;
        let site = &*p.site;
        let query = Query::Latest {
            select: Selector::default(),
            since: now - GRID_FRESH.max(stale_after),
        };
        let frames = match p.store.query(&query).await {
            Ok(answer) => answer.frames(),
            Err(error) => {
                tracing::warn!(%error, "the latest readings cannot be had");
                Vec::new()
            }
        };
        let jobs = p.jobs.all();
        let holder = jobs
            .iter()
            .filter(|j| j.record.state == JobState::Running)
            .flat_map(|j| {
                let id = &j.record.id;
                j.record.devices.iter().map(|d| (d.clone(), id.clone()))
            })
            .collect();
        let missing = Figure::MISSING;
        let view = p.view.borrow().clone();
        let mut snapshot = Snapshot {
            at: now,
            stale_after,
            latest: frames.into_iter().map(|f| (f.device.clone(), f)).collect(),
            view: Arc::clone(&view),
            is_redundant: !site.power.is_tree(),
            parts: Parts {
                total: missing,
                gpu: missing,
                other_it: missing,
                cooling: missing,
                unassigned: missing,
            },
            upper: Vec::new(),
            racks: Vec::new(),
            grid: Grid {
                carbon: missing,
                renewable: missing,
                price: missing,
            },
            pue_hour,
            pue_day,
            jobs,
            holder,
            decision,
            decisions,
            health: (p.health)().with_control(&view.health.troubles),
        };
        snapshot.parts = parts(&snapshot, site);
        if let Some(frame) = snapshot.latest.get(&site.grid_device()) {
            snapshot.grid = Grid {
                carbon: frame.get(Catalogue::grid_carbon()).into(),
                renewable: frame.get(Catalogue::grid_renewable()).into(),
                price: frame.get(Catalogue::grid_price()).into(),
            };
        }
        let node_power: Vec<Figure> = (0..site.nodes.len())
            .map(|n| snapshot.node_power(site, n))
            .collect();
        snapshot.upper = tree
            .upper
            .iter()
            .map(|(node, depth)| bar(&snapshot, site, tree, &node_power, *node, *depth))
            .collect();
        snapshot.racks = site
            .racks
            .iter()
            .map(|r| bar(&snapshot, site, tree, &node_power, r.power_node, 0))
            .collect();
        snapshot
    }

    /// The latest decisions, made anew when there is a newer one.
    fn digest(&mut self) -> (Option<u64>, Arc<[Entry]>) {
        let log = &self.parts.decisions;
        let newest = log.latest(1, |_| true).first().map(|d| d.sequence);
        if newest != self.digest.0 {
            let latest = log.latest(DECISIONS, |_| true);
            self.digest = (newest, digest(&latest, DECISION_LINES).into());
        }
        self.digest.clone()
    }

    /// The PUE of the last hour and day, made anew when half a minute has passed.
    async fn pues(&mut self, now: Timestamp) -> (Pue, Pue) {
        if let Some((at, hour, day)) = &self.pue
            && now.seconds_since(*at).abs() < 30.0
        {
            return (hour.clone(), day.clone());
        }
        let (store, site) = (&*self.parts.store, &*self.parts.site);
        let hour = pue(store, site, now, Duration::from_secs(3_600)).await;
        let day = pue(store, site, now, Duration::from_secs(86_400)).await;
        self.pue = Some((now, hour.clone(), day.clone()));
        (hour, day)
    }
}

fn metered(snapshot: &Snapshot, site: &Site, role: MeterRole) -> Figure {
    Figure::sum(
        site.meters
            .iter()
            .filter(|m| m.role == role)
            .map(|m| snapshot.figure(&m.id, Catalogue::meter_power())),
    )
}

/// Power by part. Without a meter of the IT the nodes are summed; without one
/// of the whole, the design PUE gives an estimate, marked as such.
fn parts(snapshot: &Snapshot, site: &Site) -> Parts {
    let gpu = Figure::sum(
        site.devices
            .iter()
            .map(|d| snapshot.figure(&d.id, Catalogue::gpu_power())),
    );
    let nodes = Figure::sum((0..site.nodes.len()).map(|n| snapshot.node_power(site, n)));
    let it = metered(snapshot, site, MeterRole::It).or(nodes);
    let total = metered(snapshot, site, MeterRole::DataCentre)
        .or(it.map(|w| w * site.cooling.design_pue).as_estimate());
    split(total, it, gpu)
}

/// Splits the whole into its parts. What only partial sums could split stays
/// unassigned; the share that no reading tells is not given to any part.
fn split(total: Figure, it: Figure, gpu: Figure) -> Parts {
    let rest = |whole: Figure, part: Figure| whole.with(part, |a, b| (a - b).max(0.0));
    let (other_it, cooling) = (rest(it, gpu), rest(total, it));
    let told: f64 = [gpu, other_it, cooling]
        .iter()
        .filter_map(|p| p.value)
        .sum();
    let is_told = other_it.value.is_some() && cooling.value.is_some();
    Parts {
        total,
        gpu,
        other_it,
        cooling,
        unassigned: if is_told {
            Figure::MISSING
        } else {
            total.whole().map(|t| (t - told).max(0.0)).as_estimate()
        },
    }
}

fn bar(
    snapshot: &Snapshot,
    site: &Site,
    tree: &Tree,
    node_power: &[Figure],
    index: usize,
    depth: usize,
) -> PowerBar {
    let node = &site.power.nodes()[index];
    let live = snapshot.view.power.iter().find(|v| v.id == node.id);
    let below = Figure::sum(tree.nodes_below[index].iter().map(|n| node_power[*n]));
    // A meter that sits here speaks for this place; that of the whole data
    // centre, if its place is not given, for the root.
    let is_root = node.parents.is_empty();
    let is_only_root = is_root && tree.upper.iter().filter(|(_, d)| *d == 0).count() == 1;
    let here = |m: &&heliostat_models::site::Meter| match m.role {
        MeterRole::DataCentre => m.at.as_deref().map_or(is_root, |at| at == node.id),
        MeterRole::It => m.at.as_deref() == Some(node.id.as_str()),
        _ => false,
    };
    let own = match site.meters.iter().find(here) {
        Some(meter) => snapshot.figure(&meter.id, Catalogue::meter_power()),
        None if is_only_root => snapshot.parts.total,
        None => Figure::MISSING,
    };
    let power = own.or(below);
    PowerBar {
        id: node.id.clone(),
        kind: node.kind,
        depth,
        power,
        limit: live.map_or(node.limit, |l| l.limit),
        configured: node.limit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_few_readings_cannot_split_is_given_to_no_part() {
        let (total, it) = (Figure::measured(190.0), Figure::measured(172.0));
        let few = Figure::sum((0..256).map(|i| match i {
            0..8 => Figure::measured(0.2),
            _ => Figure::MISSING,
        }));
        let parts = split(total, it, few);
        assert_eq!(parts.other_it, Figure::MISSING);
        assert_eq!(parts.cooling, Figure::measured(18.0));
        let unassigned = parts.unassigned.value.unwrap();
        assert!((unassigned - (172.0 - 1.6)).abs() < 1e-9, "{unassigned}");
        let all = split(total, it, Figure::measured(100.0));
        assert_eq!(all.other_it, Figure::measured(72.0));
        assert_eq!(all.unassigned, Figure::MISSING);
        // Of a total that is itself only known in part nothing is left over.
        let dark = split(few, few, few);
        assert_eq!(dark.unassigned, Figure::MISSING);
    }
}
