//! The words of the pages, in one place, so that a translation can come.

use heliostat_models::site::power::PowerNodeKind;
use heliostat_models::{DecisionKind, JobState};

pub(crate) const NO_READING: &str = "no reading";
pub(crate) const SKIP: &str = "Skip to content";
pub(crate) const OVERVIEW: &str = "Overview";
pub(crate) const JOBS: &str = "Jobs";
pub(crate) const DECISIONS: &str = "Decisions";
pub(crate) const CHARTS: &str = "Charts";
pub(crate) const API: &str = "API";
pub(crate) const POWER_NOW: &str = "Power now";
pub(crate) const PART_GPU: &str = "GPUs";
pub(crate) const PART_IT: &str = "Other IT";
pub(crate) const PART_COOLING: &str = "Cooling and losses";
pub(crate) const PART_UNKNOWN: &str = "Part not known";
pub(crate) const NOT_KNOWN: &str = "not known";
pub(crate) const PUE: &str = "PUE";
pub(crate) const GRID: &str = "Grid";
pub(crate) const RENEWABLE: &str = "Renewable share";
pub(crate) const PRICE: &str = "Day-ahead price";
pub(crate) const CONTROL: &str = "Control";
pub(crate) const ARMED: &str = "Armed";
pub(crate) const OBSERVING: &str = "Observing";
pub(crate) const ARMED_NOTE: &str = "decides and sends caps";
pub(crate) const OBSERVING_NOTE: &str = "decides and shows, sends nothing";
pub(crate) const STANDING_BY: &str = "Standing by";
pub(crate) const STANDING_BY_NOTE: &str = "another controller is in charge, or none yet";
pub(crate) const DEGRADED: &str = "Degraded";
pub(crate) const DEGRADED_NOTE: &str =
    "sends caps; what does not answer counts at the most it may draw";
pub(crate) const SAFE: &str = "Safe";
pub(crate) const SAFE_NOTE: &str = "nothing can be sent; agents fall back to safe caps";
pub(crate) const POWER_TREE: &str = "Power against limits";
pub(crate) const POWER_CONTRACTS: &str = "Power contracts";
pub(crate) const POWER_CONTRACTS_NOTE: &str = "Limits over sets that cut across the tree. Shown are the caps decided for the members, and what no cap controls; while control only observes, nobody has set these caps.";
pub(crate) const RACKS: &str = "Racks";
pub(crate) const JOB_AXIS: &str = "Jobs: past 24 hours and plan for the next 48";
pub(crate) const JOB_TABLE: &str = "Running, paused and queued jobs as a table";
pub(crate) const LATEST_DECISIONS: &str = "Latest decisions";
pub(crate) const NOT_FOUND: &str = "Not found";
pub(crate) const NO_JOBS: &str = "No job has been announced yet.";
pub(crate) const NO_DECISIONS: &str = "No decision has been taken yet.";
pub(crate) const FREE: &str = "no job holds it";

/// A kind of power node, for people.
pub(crate) fn power_kind(kind: PowerNodeKind) -> &'static str {
    match kind {
        PowerNodeKind::UtilityFeed => "utility feed",
        PowerNodeKind::Transformer => "transformer",
        PowerNodeKind::Ups => "UPS",
        PowerNodeKind::Busway => "busway",
        PowerNodeKind::Pdu => "PDU",
        PowerNodeKind::Breaker => "breaker",
        PowerNodeKind::Rack => "rack",
        PowerNodeKind::Node => "node",
    }
}

/// A kind of decision, for people.
pub(crate) fn decision_kind(kind: DecisionKind) -> &'static str {
    match kind {
        DecisionKind::Allocation => "Caps",
        DecisionKind::Plan => "Plan",
        DecisionKind::GridEvent => "Grid event",
        DecisionKind::Arming => "Arming",
        DecisionKind::Refusal => "Refused",
        DecisionKind::Incident => "Incident",
        DecisionKind::Relief => "Relief",
        DecisionKind::Retention => "Log",
    }
}

/// A state of a job, for people and, in lower case, for style sheets.
pub(crate) fn job_state(state: JobState) -> (&'static str, &'static str) {
    match state {
        JobState::Queued => ("Queued", "queued"),
        JobState::Running => ("Running", "running"),
        JobState::Paused => ("Paused", "paused"),
        JobState::Completed => ("Completed", "completed"),
        JobState::Cancelled => ("Cancelled", "cancelled"),
    }
}
