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
    /// Calls a grid event off.
    fn cancel_grid_event(&self, id: &str);
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

/// So many of control's troubles stand on top of the pages; the log has all.
const TROUBLES: usize = 3;

impl Health {
    /// With what control says is wrong.
    pub(crate) fn with_control(mut self, troubles: &[String]) -> Self {
        let shown = troubles.iter().take(TROUBLES);
        self.troubles
            .extend(shown.map(|trouble| format!("{trouble}.")));
        if let Some(more) = troubles.len().checked_sub(TROUBLES).filter(|m| *m > 0) {
            let text = format!("And {more} more in the log of decisions.");
            self.troubles.push(text);
        }
        self
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_troubles_stand_with_the_others_and_are_bounded() {
        let own = Health {
            counters: Vec::new(),
            troubles: vec!["The store is away.".to_owned()],
        };
        assert_eq!(own.clone().with_control(&[]), own);
        let many: Vec<String> = (0..5).map(|n| format!("Trouble {n}")).collect();
        let all = own.with_control(&many).troubles.join(" ");
        assert_eq!(
            all,
            "The store is away. Trouble 0. Trouble 1. Trouble 2. And 2 more in the log of decisions."
        );
    }
}
