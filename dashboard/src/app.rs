//! What the dashboard is given: everything it shows comes through here.

use heliostat_models::Site;
use heliostat_optimizer::grid_event::GridEvent;
use heliostat_optimizer::view::ViewReceiver;
use heliostat_store::decisions::DecisionLog;
use heliostat_store::jobs::JobTable;
use heliostat_store::{Clock, TimeSeriesStore};
use std::sync::Arc;

/// A site's running parts, as the pages and the API see them.
pub struct App {
    /// The site.
    pub site: Arc<Site>,
    /// Samples.
    pub store: Arc<dyn TimeSeriesStore>,
    /// Jobs.
    pub jobs: Arc<JobTable>,
    /// Decisions.
    pub decisions: Arc<DecisionLog>,
    /// What control shows.
    pub view: ViewReceiver,
    /// Where commands go; `None` where no control loop runs.
    pub control: Option<Arc<dyn ControlCommands>>,
    /// The site's time.
    pub clock: Arc<dyn Clock>,
    /// How ingest and store are, asked anew each time.
    pub health: Arc<dyn Fn() -> Health + Send + Sync>,
    /// A banner, e.g. `demo, recorded grid data of 2019`.
    pub title_note: Option<String>,
}

/// What the API may ask of control.
pub trait ControlCommands: Send + Sync {
    /// Hands a grid event over.
    fn submit_grid_event(&self, event: GridEvent);
    /// Arms or disarms; `who` goes to the log of decisions.
    fn arm(&self, armed: bool, who: &str);
}

/// How the parts behind the pages are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    /// For `/metrics` and the foot of the pages.
    pub counters: Vec<HealthCounter>,
    /// What is wrong now and what it means, a sentence each; stands on top of every page.
    pub troubles: Vec<String>,
}

/// One counter for `/metrics` and the foot of the pages.
#[derive(Clone, Debug, PartialEq)]
pub struct HealthCounter {
    /// Prometheus name; one that ends in `_total` only grows.
    pub name: String,
    /// What it counts, for people.
    pub help: String,
    /// Its value now.
    pub value: f64,
}
