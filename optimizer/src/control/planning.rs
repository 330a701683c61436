//! The slow loop's side in the control loop: asks the planner, keeps its
//! answer, knows the price of energy of every slot.

use super::measure::measure;
use super::round::Control;
use crate::plan_service::{ContractLoad, PlanInput, PlanOutput, PlanService};
use heliostat_models::job::JobOrder;
use heliostat_models::{Catalogue, DeviceId, Frame, JobId, MetricId, Timestamp, Watts};
use heliostat_store::query::Selector;
use heliostat_store::{Query, StoreError, TimeSeriesStore};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How far back the planner sees the grid: two weeks show it every weekday twice.
const HISTORY: Duration = Duration::from_secs(14 * 86_400);

/// A planner, at work or at rest.
pub(super) struct Planning {
    planner: Option<Box<dyn PlanService>>,
    working: Option<JoinHandle<(Box<dyn PlanService>, PlanOutput)>>,
    /// The last plan.
    pub latest: Option<PlanOutput>,
    orders: BTreeMap<JobId, JobOrder>,
}

impl Planning {
    pub fn new(planner: Option<Box<dyn PlanService>>) -> Self {
        Self {
            planner,
            working: None,
            latest: None,
            orders: BTreeMap::new(),
        }
    }

    /// Whether a plan can be asked for now.
    pub fn is_idle(&self) -> bool {
        self.planner.is_some()
    }

    /// Starts to plan, beside the control loop.
    pub fn ask(&mut self, now: Timestamp, input: PlanInput) {
        if let Some(mut planner) = self.planner.take() {
            self.working = Some(tokio::task::spawn_blocking(move || {
                let output = planner.replan(now, input);
                (planner, output)
            }));
        }
    }

    /// Waits for the plan that is being made; for ever when none is. Safe to cancel.
    pub async fn done(&mut self) -> Result<PlanOutput, String> {
        let Some(working) = &mut self.working else {
            return std::future::pending().await;
        };
        let result = working.await;
        self.working = None;
        match result {
            Ok((planner, output)) => {
                self.planner = Some(planner);
                Ok(output)
            }
            // The planner is gone with its thread; caps go on without it.
            Err(error) => Err(format!("the planner ended: {error}")),
        }
    }

    /// Keeps a plan; says which orders are new.
    pub fn keep(&mut self, output: PlanOutput) -> Vec<(JobId, JobOrder)> {
        let news = (output.orders.iter())
            .filter(|(job, order)| self.orders.get(job) != Some(order))
            .cloned()
            .collect();
        self.orders = output.orders.iter().cloned().collect();
        self.latest = Some(output);
        news
    }

    /// The price of energy at `now`: that of the plan's slot, or of the plan as a whole.
    pub fn price(&self, now: Timestamp) -> f64 {
        let Some(plan) = &self.latest else {
            return 0.0;
        };
        let slots = &plan.view.slots;
        let slot = slots.iter().find(|s| s.start <= now && now < s.end);
        let price = slot.map_or(plan.price_of_energy, |s| s.price_of_energy);
        if price.is_finite() {
            price.max(0.0)
        } else {
            0.0
        }
    }
}

impl Control {
    /// What power contracts may carry besides caps while every device has its
    /// highest: a plan does not know which caps there will be.
    pub(super) fn contract_loads(&self) -> Vec<ContractLoad> {
        let site = &self.deps.site;
        if site.power_contracts.is_empty() {
            return Vec::new();
        }
        let highest: Vec<Watts> = site.devices.iter().map(|d| d.max_cap).collect();
        let (readings, jobs) = (&self.inputs.readings, &self.inputs.jobs);
        let measured = measure(site, readings, jobs, &highest);
        let margin = self.config.policy.margin;
        (self.contracts).loads(site, &measured, margin, self.executor.limited_whole())
    }
}

/// What was recorded of the grid up to `now`, as frames by rising time.
pub(super) async fn grid_history(
    store: &dyn TimeSeriesStore,
    grid: &DeviceId,
    now: Timestamp,
) -> Result<Vec<Frame>, StoreError> {
    let mut frames: BTreeMap<Timestamp, Frame> = BTreeMap::new();
    let metrics: [MetricId; 4] = [
        Catalogue::grid_carbon(),
        Catalogue::grid_carbon_direct(),
        Catalogue::grid_renewable(),
        Catalogue::grid_price(),
    ];
    for metric in metrics {
        let query = Query::Range {
            metric: Catalogue::builtin().metric(metric).name.clone(),
            select: Selector {
                devices: vec![grid.clone()],
                labels: Vec::new(),
            },
            from: now - HISTORY,
            to: now + Duration::from_millis(1),
        };
        for point in store
            .query(&query)
            .await?
            .series()
            .into_iter()
            .flat_map(|s| s.points)
        {
            use heliostat_models::{Quality, Reading};
            let reading = match (point.value, point.quality) {
                (Some(value), Quality::Measured) => Reading::Measured(value),
                (Some(value), _) => Reading::Estimated(value),
                (None, _) => Reading::Missing,
            };
            let frame = frames.entry(point.at).or_insert_with(|| Frame {
                device: grid.clone(),
                at: point.at,
                readings: Vec::new(),
            });
            frame.readings.push((metric, reading));
        }
    }
    Ok(frames.into_values().collect())
}
