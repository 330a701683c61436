//! What the control loops show to the pages and the API: one value, replaced
//! as a whole, so that a reader never sees half a decision.

use crate::grid_event::GridEvent;
use heliostat_models::budget::BudgetSlot;
use heliostat_models::{Certificate, DeviceId, JobId, Site, Timestamp, Watts};
use serde::{Serialize, Serializer};
use std::sync::Arc;
use tokio::sync::watch;

/// Where control stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlMode {
    /// Decides, shows, sends nothing.
    #[default]
    Observe,
    /// Decides and sends.
    Armed,
}

/// The states of control.
///
/// ```text
///              armed                        the lock is ours
///  observe <----------> standing by  <---------------------------> armed
///            disarmed                another controller's              ^  |
///                                                                 well |  | some devices or readings
///                                                                      |  v are beyond reach
///   nothing can be sent: the checker refuses or the          safe <-- degraded
///   broker is away; leases end, agents set safe caps              -->
/// ```
///
/// From `armed` and `degraded` control goes to `safe` and back by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlState {
    /// Not armed: decides, shows, sends nothing.
    #[default]
    Observe,
    /// Armed, and another controller is in charge, or nobody yet.
    StandingBy,
    /// In charge, and everything answers.
    Armed,
    /// In charge; what does not answer counts at its worst.
    Degraded,
    /// In charge, and nothing can be sent: leases end and agents set safe caps.
    Safe,
}

/// One limit now: a power node's, or a power contract's.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PowerNodeView {
    /// Its name.
    pub id: String,
    /// Limit in force, grid events included.
    pub limit: Watts,
    /// Power below it that caps do not control (as used by the allocator, uncertainty included).
    pub uncontrolled: Watts,
    /// Sum of the caps below it; at a grid event's limit a device at rest counts
    /// with its measured draw and a reserve.
    pub capped: Watts,
    /// What one more watt here would be worth, in work per hour and watt.
    pub price: f64,
}

/// One device's cap now.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CapView {
    /// Decided.
    pub decided: Watts,
    /// Last acknowledged by the agent.
    pub acknowledged: Option<Watts>,
    /// Set by the limit of its node as a whole: then both are estimates, what the
    /// limit leaves to the device by the share that is decided for it.
    pub by_node_limit: bool,
}

/// The caps of a site's devices, cheap to clone however many there are.
#[derive(Clone, Debug, Default)]
pub struct CapsView {
    site: Option<Arc<Site>>,
    caps: Arc<[Option<CapView>]>,
}

impl CapsView {
    /// Of a site, by the place of each device in it; `None` where none is decided.
    pub fn new(site: Arc<Site>, caps: impl IntoIterator<Item = Option<CapView>>) -> Self {
        Self {
            site: Some(site),
            caps: caps.into_iter().collect(),
        }
    }

    /// A device's cap, where one is decided.
    pub fn get(&self, device: &DeviceId) -> Option<&CapView> {
        let (place, _) = self.site.as_ref()?.device(device)?;
        self.caps.get(place)?.as_ref()
    }

    /// Every cap decided, by the places of the devices.
    pub fn values(&self) -> impl Iterator<Item = &CapView> {
        self.caps.iter().flatten()
    }

    /// Every cap decided, with its device.
    pub fn iter(&self) -> impl Iterator<Item = (&DeviceId, &CapView)> {
        let devices = self.site.iter().flat_map(|site| &site.devices);
        (devices.zip(self.caps.iter()))
            .filter_map(|(device, cap)| Some((&device.id, cap.as_ref()?)))
    }

    /// How many caps are decided.
    pub fn len(&self) -> usize {
        self.values().count()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.values().next().is_none()
    }
}

impl Serialize for CapsView {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

/// A job's place in the plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedJob {
    /// Which.
    pub job: JobId,
    /// Stretches in which it runs: begin, end, relative power level (0 to 1).
    pub runs: Vec<(Timestamp, Timestamp, f64)>,
    /// Why it stands where it stands, in a sentence.
    pub reason: String,
}

/// The plan in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlanView {
    /// When it was made; it saw nothing newer.
    pub issued: Timestamp,
    /// Its proof.
    pub certificate: Certificate,
    /// The jobs.
    pub jobs: Vec<PlannedJob>,
    /// Site power, price of energy and forecasts per 15 minutes.
    pub slots: Vec<BudgetSlot>,
    /// Power contracts, in the order of the site file.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub contracts: Vec<PlannedContract>,
}

/// A power contract in the plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlannedContract {
    /// Its name.
    pub id: String,
    /// What its members may draw together, the margin taken off.
    pub limit: Watts,
    /// By slot.
    pub slots: Vec<ContractSlot>,
}

/// A power contract in one slot of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ContractSlot {
    /// Begin of the slot.
    pub start: Timestamp,
    /// Most power of its members that caps do not control.
    pub uncontrolled: Watts,
    /// Most that the plan's caps below it may add up to, wherever jobs find their devices.
    pub capped: Watts,
    /// What one more kilowatt over the slot would be worth, in kilowatt hours at the
    /// mean price of the horizon.
    pub price: f64,
}

/// Figures of control's own health, for alarms.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ControlHealth {
    /// Proposals that the checker refused so far; nothing of them was sent.
    pub refused: u64,
    /// Devices that cannot be commanded now; they count at the highest cap they may have.
    pub beyond_reach: usize,
    /// Commands that no answer has come to.
    pub unanswered: usize,
    /// Limits that others than control changed, so far.
    pub foreign_changes: u64,
    /// Of those, limits that were too high and were set back by the agents.
    pub foreign_corrected: u64,
    /// Devices whose limit somebody else keeps, or that do not tell it, now.
    pub foreign_devices: usize,
    /// Agents whose clock differs from control's by more than is sound, now.
    pub clocks_off: usize,
    /// Messages refused because their signature is missing or wrong, so far.
    pub unsigned: u64,
    /// Whether the site draws more than a grid event allows, although there was time.
    pub grid_event_unmet: bool,
    /// The fence under which this controller is in charge.
    pub fence: Option<u64>,
    /// When an allocation was last decided, or found to be the same still.
    pub allocated: Option<Timestamp>,
    /// What is wrong now and was contained, in sentences.
    pub troubles: Vec<String>,
}

/// Everything control shows.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ControlView {
    /// When this was true.
    pub at: Timestamp,
    /// Observing or armed.
    pub mode: ControlMode,
    /// How control stands, whatever was asked of it.
    pub state: ControlState,
    /// Another controller that is in charge, where we know of one.
    pub in_charge: Option<String>,
    /// Power nodes above the level of single nodes, in the order of the tree.
    pub power: Arc<[PowerNodeView]>,
    /// Power contracts, in the order of the site file.
    pub contracts: Arc<[PowerNodeView]>,
    /// Breakers that may not bear what devices still have, while load is taken off.
    pub troubles: Vec<String>,
    /// Caps by device.
    pub caps: CapsView,
    /// The price of energy in use.
    pub price_of_energy: f64,
    /// Proof of the allocation in force.
    pub allocation: Option<Certificate>,
    /// The plan in force.
    pub plan: Option<PlanView>,
    /// Grid events running or to come.
    pub grid_events: Vec<GridEvent>,
    /// Largest gap of any allocation's certificate so far; a plan's stands in the plan.
    pub max_gap: f64,
    /// Allocations made so far: rounds in which something had changed.
    pub allocations: u64,
    /// Rounds so far, those in which nothing had changed included.
    pub rounds: u64,
    /// How control itself is.
    pub health: ControlHealth,
}

/// Where control puts its view.
pub type ViewSender = watch::Sender<Arc<ControlView>>;
/// Where readers take it.
pub type ViewReceiver = watch::Receiver<Arc<ControlView>>;
