//! What the planner is told to want. Every figure that steers a plan and is
//! not physics stands here, with its reason.

use heliostat_models::JobClass;
use serde::Serialize;
use std::time::Duration;

/// Length of a slot: the market time unit of European day-ahead trading since October 2025.
pub const SLOT: Duration = Duration::from_secs(900);
/// Slots of a plan: 48 h.
pub const SLOTS: usize = 192;

/// The planner's policy. The unit of cost is a kilowatt hour at the mean
/// price of the horizon, see [`super::problem`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PlanPolicy {
    /// Strength κ of the price of energy. In mean conditions a watt is not
    /// given to a job when it buys less than this share of what the mean watt
    /// of the running jobs buys. 0 gives away all power there is; 1 would
    /// hold every job near its most efficient point, whatever the slowdown.
    /// On the modelled H100, over five families of workloads with equal
    /// weights, 0.35 buys 3 % more work per joule for 3 % of the speed, 0.6 buys
    /// 10 % for 10 %, 0.8 buys 16 % for 16 %; a test recomputes the one in use.
    pub strength: f64,
    /// The price of energy rises no higher than this many times its mean, so
    /// that a single extreme hour does not starve the hall.
    pub highest_index: f64,
    /// Renewable share from which the price of energy falls...
    pub renewable_from: f64,
    /// ...and the share at which it is 0: then the watt would otherwise be curtailed.
    pub renewable_to: f64,
    /// Cost per device and hour past the deadline, times the class's weight.
    /// More than an hour's energy of one device: lateness is worse than
    /// waste, but not at any price.
    pub lateness: f64,
    /// What work put off beyond the horizon costs more than the mean: it
    /// comes back, and then meets the jobs that are still to come.
    pub terminal_premium: f64,
    /// Share of its cap that an idle accelerator draws. Readings of idle H100 lie between 60 and 120 W of 700 W.
    pub idle_share: f64,
    /// Share of a node's rated overhead (CPUs, fans, switches) that is
    /// expected to be drawn. Only for the plan: hard limits are kept by the
    /// allocator, with what is measured.
    pub overhead_share: f64,
    /// Share of its full load at which the hall is taken to run where no meter says it.
    pub usual_load: f64,
    /// Grid history older than this says nothing of the days to come.
    pub oldest_history: Duration,
}

impl Default for PlanPolicy {
    fn default() -> Self {
        Self {
            strength: 0.6,
            highest_index: 2.5,
            renewable_from: 0.85,
            renewable_to: 0.97,
            lateness: 1.0,
            terminal_premium: 0.15,
            idle_share: 0.1,
            overhead_share: 0.6,
            usual_load: 0.6,
            oldest_history: Duration::from_secs(48 * 3_600),
        }
    }
}

impl PlanPolicy {
    /// Cost of keeping one device's work waiting for an hour. Somebody sits
    /// before an experiment; a training run is looked at tomorrow, and its
    /// price only decides between hours that are as good as equal.
    pub fn waiting(&self, class: JobClass) -> f64 {
        match class {
            JobClass::Inference => 5.0,
            JobClass::Experiment => 0.3,
            JobClass::FineTuning => 0.01,
            JobClass::Training => 0.005,
        }
    }
}
