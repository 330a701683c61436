//! A site as the program works with it: every hall, rack, node and device by
//! name, and the power tree above them. Made from a configuration file by
//! [`config`](self::config), which also checks it.

pub mod check;
pub mod config;
mod find;
pub mod power;
pub mod ramp;
pub mod store;
pub mod trip;

use crate::foreign;
use crate::ids::{DeviceId, NodeId, SiteId};
use crate::job::JobClass;
use crate::quantity::{Celsius, Watts};
use power::PowerTree;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use trip::TripCurve;

/// A data centre, expanded from its configuration. Indices (`usize`) point
/// into the vectors beside them.
#[derive(Clone, Debug)]
pub struct Site {
    /// Short name, used in topics and paths.
    pub id: SiteId,
    /// Name for people.
    pub name: String,
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// Grid zone, e.g. `DE-LU`; what grid data is asked for.
    pub zone: String,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
    /// The tree of limits.
    pub power: PowerTree,
    /// Halls.
    pub halls: Vec<Hall>,
    /// Racks, in the order of the configuration.
    pub racks: Vec<Rack>,
    /// Nodes, rack by rack.
    pub nodes: Vec<Node>,
    /// Accelerators, node by node.
    pub devices: Vec<Device>,
    /// Meters.
    pub meters: Vec<Meter>,
    /// The cooling plant.
    pub cooling: Cooling,
    /// Contracts for electricity.
    pub contracts: Vec<Contract>,
    /// Limits over sets that cut across the power tree.
    pub power_contracts: Vec<PowerContract>,
    /// Time-current curves of the power nodes whose file says one, by name;
    /// [`trip::STANDARD`] holds for the others.
    pub trip_curves: BTreeMap<String, TripCurve>,
    /// Policy of each job class.
    pub classes: BTreeMap<JobClass, ClassPolicy>,
    /// How control behaves.
    pub control: ControlPolicy,
    /// How fast caps may rise and fall.
    pub ramps: ramp::RampPolicy,
    /// Which engine keeps the time series.
    pub store: store::StoreChoice,
    /// Devices, nodes, meters and the plant by name; see [`Site::entity`].
    pub(crate) names: HashMap<DeviceId, Entity>,
}

/// A computer room.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hall {
    /// Short name.
    pub id: String,
    /// Name for people.
    pub name: String,
}

/// A rack.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rack {
    /// Short name, unique in the site.
    pub id: String,
    /// Row within the hall.
    pub row: String,
    /// Index into [`Site::halls`].
    pub hall: usize,
    /// Index into [`PowerTree::nodes`].
    pub power_node: usize,
}

/// A compute node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name, unique in the site; also the name of its agent.
    pub id: NodeId,
    /// Index into [`Site::racks`].
    pub rack: usize,
    /// Index into [`PowerTree::nodes`].
    pub power_node: usize,
    /// Most that the node draws besides its accelerators.
    pub overhead: Watts,
    /// First and one past the last of its devices in [`Site::devices`].
    pub devices: std::ops::Range<usize>,
}

/// An accelerator.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Name, unique in the site: `NODE-gpuN`.
    pub id: DeviceId,
    /// Index into [`Site::nodes`].
    pub node: usize,
    /// Index within the node, in PCI order.
    pub index: u32,
    /// Key in the accelerator catalogue.
    pub accelerator: std::sync::Arc<str>,
    /// Lowest limit that may be set.
    pub min_cap: Watts,
    /// Highest limit that may be set.
    pub max_cap: Watts,
    /// Set when control is lost; all safe caps together keep every limit.
    pub safe_cap: Watts,
    /// Caps between the lowest and the highest are multiples of this.
    pub cap_step: Watts,
}

/// Caps are set in whole milliwatts where a device is not coarser.
pub const FINEST_STEP: Watts = Watts(0.001);

/// What a meter counts, after EN 50600-4-2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MeterRole {
    /// Total energy of the data centre (EDC).
    DataCentre,
    /// Energy of the IT equipment (EIT).
    It,
    /// Energy of the cooling plant.
    Cooling,
    /// On-site renewable generation (ERES-OS).
    OnSiteRenewable,
    /// Back-up generators (EDC-BG).
    BackUp,
    /// Re-used heat (EREUSE).
    ReusedHeat,
    /// Something else; shown, not reported.
    Other,
}

/// A meter.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Meter {
    /// Name, unique in the site.
    pub id: DeviceId,
    /// What it counts.
    pub role: MeterRole,
    /// Where it sits: a power node's id, if at one.
    pub at: Option<String>,
    /// PUE category of the measuring point (EN 50600-4-2: 1 UPS output, 2 PDU output, 3 IT input).
    pub pue_category: Option<u8>,
}

/// The cooling plant, as far as the models need it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cooling {
    /// Name of the plant as a source of frames.
    pub id: DeviceId,
    /// For people: `direct-liquid`, `rear-door`, `air`.
    pub kind: String,
    /// Coolant into the room.
    pub supply: Celsius,
    /// Design PUE at full load and mean outdoor temperature.
    pub design_pue: f64,
    /// Outdoor temperature up to which no compressor runs.
    pub free_cooling_below: Celsius,
}

/// A contract for electricity.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Contract {
    /// Short name.
    pub id: String,
    /// `ppa`, `guarantee-of-origin`, `on-site` or `supplier`.
    pub kind: String,
    /// Share of consumption that it covers with renewables, 0 to 1.
    pub renewable_share: f64,
}

/// A limit over a set of power nodes and devices, wherever they stand in the
/// tree: what a tenant may draw, or what several feeders may draw together.
/// What it covers twice counts once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PowerContract {
    /// Short name; no power node has the same.
    pub id: String,
    /// What its members may draw together, all that is fed at or below its
    /// power nodes included, and of single devices what these draw alone.
    pub limit: Watts,
    /// Whether the limit may be used in full, without the site's margin.
    pub in_full: bool,
    /// Its members by name.
    pub members: Vec<String>,
    /// Those of them that are power nodes: indices into [`PowerTree::nodes`].
    #[serde(skip)]
    pub nodes: Vec<usize>,
    /// Those of them that are devices: indices into [`Site::devices`].
    #[serde(skip)]
    pub devices: Vec<usize>,
}

impl PowerContract {
    /// What may be drawn where a site keeps this margin.
    pub fn usable(&self, margin: f64) -> Watts {
        if self.in_full {
            self.limit
        } else {
            self.limit * (1.0 - margin)
        }
    }
}

/// Policy of one job class.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassPolicy {
    /// Weight of a unit of this class's work in the objective.
    pub weight: f64,
    /// Lowest relative speed that is acceptable while it runs (0 to 1).
    pub floor_speed: f64,
    /// Whether it may be paused.
    pub interruptible: bool,
    /// Minutes lost by one pause (checkpoint and restart).
    pub pause_minutes: f64,
}

/// How control behaves.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlPolicy {
    /// Whether control is armed from the start; false: observe only.
    pub armed: bool,
    /// How often caps are computed.
    pub allocate_every: std::time::Duration,
    /// How long a cap holds without renewal.
    pub lease: std::time::Duration,
    /// How often the plan is made anew.
    pub plan_every: std::time::Duration,
    /// How often devices are read.
    pub sample_every: std::time::Duration,
    /// Share of each limit that is never given away, against uncertainty.
    pub margin: f64,
    /// Weight of carbon in the plan (0 to 1); the rest weighs cost.
    pub carbon_weight: f64,
    /// For how many days the inputs of decisions are kept, so that they can be taken again.
    pub keep_inputs_days: u32,
    /// For how many days a job is known after its end.
    pub keep_jobs_days: u32,
    /// For how many days decisions are kept in their log.
    pub keep_decisions_days: u32,
}

/// What a name in the site stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entity {
    /// Index into [`Site::devices`].
    Device(usize),
    /// Index into [`Site::nodes`].
    Node(usize),
    /// Index into [`Site::meters`].
    Meter(usize),
    /// The cooling plant.
    Cooling,
    /// The grid zone.
    Grid,
    /// A job that speaks of itself; see [`JobId::source`](crate::JobId::source).
    Job,
}

/// Labels of a source of frames; empty where a label does not apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Labels {
    /// `gpu`, `node`, `meter`, `cooling`, `grid`, `job`; `unknown` of series that are
    /// in no catalogue.
    pub kind: &'static str,
    /// Hall.
    pub hall: String,
    /// Row.
    pub row: String,
    /// Rack.
    pub rack: String,
    /// Node.
    pub node: String,
}

impl Site {
    /// Fills the index of names; the configuration's expansion calls it last.
    /// Returns the first name that stands for two things.
    pub fn index_names(&mut self) -> Result<(), DeviceId> {
        let mut names = HashMap::new();
        let all = (self.devices.iter().enumerate())
            .map(|(i, d)| (d.id.clone(), Entity::Device(i)))
            .chain(
                (self.nodes.iter().enumerate())
                    .map(|(i, n)| (DeviceId::from(n.id.as_str()), Entity::Node(i))),
            )
            .chain((self.meters.iter().enumerate()).map(|(i, m)| (m.id.clone(), Entity::Meter(i))))
            .chain([
                (self.cooling.id.clone(), Entity::Cooling),
                (self.grid_device(), Entity::Grid),
            ]);
        for (name, entity) in all {
            if names.insert(name.clone(), entity).is_some() {
                return Err(name);
            }
        }
        self.names = names;
        Ok(())
    }

    /// What a name stands for.
    pub fn entity(&self, id: &DeviceId) -> Option<Entity> {
        let job = || id.is_job().then_some(Entity::Job);
        self.names.get(id).copied().or_else(job)
    }

    /// The name under which grid frames of this site's zone arrive.
    pub fn grid_device(&self) -> DeviceId {
        DeviceId::from(format!("grid-{}", self.zone))
    }

    /// A node by its name.
    pub fn node(&self, id: &str) -> Option<(usize, &Node)> {
        match self.names.get(id) {
            Some(Entity::Node(i)) => Some((*i, &self.nodes[*i])),
            _ => None,
        }
    }

    /// A device by its name.
    pub fn device(&self, id: &DeviceId) -> Option<(usize, &Device)> {
        match self.names.get(id) {
            Some(Entity::Device(i)) => Some((*i, &self.devices[*i])),
            _ => None,
        }
    }

    /// The labels of a source of frames.
    pub fn labels(&self, id: &DeviceId) -> Option<Labels> {
        let of_node = |kind: &'static str, node: usize| {
            let node = &self.nodes[node];
            let rack = &self.racks[node.rack];
            Labels {
                kind,
                hall: self.halls[rack.hall].id.clone(),
                row: rack.row.clone(),
                rack: rack.id.clone(),
                node: node.id.to_string(),
            }
        };
        let bare = |kind| Labels {
            kind,
            ..Labels::default()
        };
        if foreign::is_foreign(id) {
            return Some(bare(foreign::KIND));
        }
        Some(match self.entity(id)? {
            Entity::Device(i) => of_node("gpu", self.devices[i].node),
            Entity::Node(i) => of_node("node", i),
            Entity::Meter(_) => bare("meter"),
            Entity::Cooling => bare("cooling"),
            Entity::Grid => bare("grid"),
            Entity::Job => bare("job"),
        })
    }

    /// The power node directly above a device.
    pub fn power_node_of(&self, device: usize) -> usize {
        self.nodes[self.devices[device].node].power_node
    }
}
