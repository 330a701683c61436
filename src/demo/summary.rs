//! What the demo says at its end. Every figure comes from the twin's own
//! instruments or from counters of the parts, none from the optimizer's hopes.

use heliostat_models::Timestamp;
use serde::Serialize;
use std::fmt;

/// The summary; its field names are its JSON keys.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Grid zone replayed.
    pub zone: String,
    /// First simulated instant.
    pub from: Timestamp,
    /// Last simulated instant.
    pub to: Timestamp,
    /// Simulated time covered.
    pub simulated_hours: f64,
    /// Simulated time asked for; less was covered when the machine was slow.
    pub requested_hours: f64,
    /// Real time taken so far.
    pub wall_seconds: f64,
    /// Simulated seconds between two allocations in the time-lapse.
    pub control_period_seconds: f64,
    /// GPUs in the hall.
    pub gpus: usize,
    /// Energy at the site's own meter, cooling included.
    pub energy_kwh: f64,
    /// Energy of the IT equipment.
    pub it_energy_kwh: f64,
    /// Energy ratio over the period (interim PUE).
    pub pue: f64,
    /// Work done: GPU-hours at full speed.
    pub work_gpu_hours: f64,
    /// The same in the uncapped hall.
    pub work_gpu_hours_uncapped: f64,
    /// The same in the uniformly capped hall.
    pub work_gpu_hours_uniform_cap: f64,
    /// Energy of the uncapped hall.
    pub energy_kwh_uncapped: f64,
    /// Energy of the uniformly capped hall.
    pub energy_kwh_uniform_cap: f64,
    /// Work per joule at the site's meter.
    pub work_per_joule: f64,
    /// Against the same jobs, uncapped, as soon as possible.
    pub work_per_joule_ratio_vs_uncapped: Option<f64>,
    /// Against the same jobs and orders under one uniform cap that draws the same GPU power at every step.
    pub work_per_joule_ratio_vs_uniform_cap: Option<f64>,
    /// The same two with each class's work weighted as the site's policy does.
    pub weighted_work_per_joule_ratio_vs_uncapped: Option<f64>,
    /// See above.
    pub weighted_work_per_joule_ratio_vs_uniform_cap: Option<f64>,
    /// Life-cycle carbon of the energy.
    pub carbon_kg: f64,
    /// Carbon per unit of work against the uncapped hall.
    pub carbon_ratio_vs_uncapped: Option<f64>,
    /// Carbon in total against the uncapped hall, whatever work either did.
    pub carbon_total_ratio_vs_uncapped: Option<f64>,
    /// Share of the energy that was renewable when it was drawn.
    pub renewable_share: Option<f64>,
    /// The same in the uncapped hall.
    pub renewable_share_uncapped: Option<f64>,
    /// Share of the energy for which the recording knows carbon and renewables.
    pub grid_data_share: f64,
    /// Simulated seconds from the grid event to lasting compliance, at the site's meter; null when it was not reached or never came.
    pub grid_event_seconds_to_compliance: Option<f64>,
    /// The limit that the grid asked for, in kW.
    pub grid_event_limit_kw: Option<f64>,
    /// Largest gap of any allocation's certificate.
    pub max_certificate_gap: f64,
    /// Largest gap of any plan's certificate.
    pub max_plan_gap: f64,
    /// Allocations made.
    pub allocations: u64,
    /// Jobs whose deadline lay within the run.
    pub deadlines: u64,
    /// Those not done by their deadline.
    pub deadlines_missed: u64,
    /// The same in the uncapped hall.
    pub deadlines_missed_uncapped: u64,
    /// The same in the uniformly capped hall.
    pub deadlines_missed_uniform_cap: u64,
    /// Limits exceeded, counted by the twin's own breakers, the grid event's limit included.
    pub limit_violations: u64,
    /// Samples that the agents took.
    pub samples_taken: u64,
    /// Samples that the store holds on disk.
    pub samples_stored: u64,
    /// Taken, not stored, still in a spool on disk.
    pub samples_waiting: u64,
    /// Taken, but neither stored nor in a spool any more.
    pub samples_lost: u64,
    /// Instants at which a source was not read in time.
    pub samples_missed: u64,
    /// Peak memory of this process, MiB.
    pub peak_memory_mib: Option<f64>,
    /// What a reader must know to read the figures right.
    pub notes: Vec<String>,
}

impl Summary {
    /// Whether the run kept its promises: no limit exceeded, every sample on
    /// the server's disk.
    pub fn is_sound(&self) -> bool {
        self.limit_violations == 0 && self.samples_lost == 0 && self.samples_waiting == 0
    }
}

/// `a / b`, or nothing when there is no `b`.
pub fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0 && a.is_finite()).then(|| a / b)
}

/// The largest resident size of this process so far (Linux).
pub fn peak_memory_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1_024.0)
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none = |value: Option<f64>, digits: usize| {
            value.map_or("unknown".to_owned(), |v| format!("{v:.digits$}"))
        };
        let rows = [
            (
                "simulated",
                format!(
                    "{:.1} h of {} from {}, in {:.0} s",
                    self.simulated_hours, self.zone, self.from, self.wall_seconds
                ),
            ),
            (
                "energy",
                format!("{:.1} kWh, PUE {:.3}", self.energy_kwh, self.pue),
            ),
            (
                "work",
                format!(
                    "{:.0} GPU-hours at full speed (uncapped hall {:.0})",
                    self.work_gpu_hours, self.work_gpu_hours_uncapped
                ),
            ),
            (
                "work per joule",
                format!(
                    "{} of uncapped, {} of a uniform cap of equal power",
                    or_none(self.work_per_joule_ratio_vs_uncapped, 3),
                    or_none(self.work_per_joule_ratio_vs_uniform_cap, 3)
                ),
            ),
            (
                "weighted work/J",
                format!(
                    "{} of uncapped, {} of a uniform cap of equal power",
                    or_none(self.weighted_work_per_joule_ratio_vs_uncapped, 3),
                    or_none(self.weighted_work_per_joule_ratio_vs_uniform_cap, 3)
                ),
            ),
            (
                "carbon",
                format!(
                    "{:.1} kg, {} of uncapped per unit of work, {} in total",
                    self.carbon_kg,
                    or_none(self.carbon_ratio_vs_uncapped, 3),
                    or_none(self.carbon_total_ratio_vs_uncapped, 3)
                ),
            ),
            (
                "renewable share",
                format!(
                    "{} (uncapped {})",
                    or_none(self.renewable_share, 3),
                    or_none(self.renewable_share_uncapped, 3)
                ),
            ),
            (
                "grid event",
                format!(
                    "{} s to compliance",
                    or_none(self.grid_event_seconds_to_compliance, 1)
                ),
            ),
            (
                "proof",
                format!(
                    "largest gap {:.1e} of {} allocations, {:.1e} of the plans",
                    self.max_certificate_gap, self.allocations, self.max_plan_gap
                ),
            ),
            ("limits exceeded", format!("{}", self.limit_violations)),
            (
                "samples",
                format!(
                    "{} taken, {} stored, {} waiting, {} lost",
                    self.samples_taken,
                    self.samples_stored,
                    self.samples_waiting,
                    self.samples_lost
                ),
            ),
        ];
        for (name, value) in rows {
            writeln!(f, "{name:16} {value}")?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}
