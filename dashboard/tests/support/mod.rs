//! A site with made-up readings, jobs, a plan and decisions, served by the real
//! store, for tests and for looking at the pages.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    reason = "support of tests and of an example; not every user needs all of it"
)]

mod control;
pub mod http;
mod readings;

use control::{JOBS, decisions, records, view};

use heliostat_dashboard::{App, ControlCommands, Health, HealthCounter};
use heliostat_models::site::config;
use heliostat_models::{Site, Timestamp};
use heliostat_optimizer::grid_event::GridEvent;
use heliostat_optimizer::view::{ControlView, ViewSender};
use heliostat_store::decisions::DecisionLog;
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::jobs::JobTable;
use heliostat_store::{SteppedClock, TimeSeriesStore};
use readings::frames;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const NOW: &str = "2019-03-01T14:05:00Z";

/// Everything behind an [`App`], to be changed while it is served.
pub struct World {
    pub site: Arc<Site>,
    pub clock: Arc<SteppedClock>,
    pub store: Arc<EmbeddedStore>,
    pub jobs: Arc<JobTable>,
    pub decisions: Arc<DecisionLog>,
    pub view: ViewSender,
    pub control: Arc<FakeControl>,
}

/// Remembers what it was told.
#[derive(Default)]
pub struct FakeControl {
    pub events: Mutex<Vec<GridEvent>>,
    pub called_off: Mutex<Vec<String>>,
    pub arms: Mutex<Vec<(bool, String)>>,
}

impl ControlCommands for FakeControl {
    fn submit_grid_event(&self, event: GridEvent) {
        self.events.lock().unwrap().push(event);
    }
    fn cancel_grid_event(&self, id: &str) {
        self.called_off.lock().unwrap().push(id.to_owned());
    }
    fn arm(&self, armed: bool, who: &str) {
        self.arms.lock().unwrap().push((armed, who.to_owned()));
    }
}

pub fn now() -> Timestamp {
    Timestamp::parse(NOW).unwrap()
}

/// The demonstration site, with a tenant whose racks hang at two PDUs.
pub fn demo_site() -> Site {
    let tenant = "[[power_contract]]\nid = \"tenant\"\nlimit_watts = 66_000\nmembers = [\"pdu-1\", \"r07\"]\n";
    let text =
        config::builtin_demo().replace("[class.training]", &format!("{tenant}[class.training]"));
    let loaded = config::load("demo.toml", &text, config::LoadOptions::default());
    loaded.site.expect("the built-in demo site is sound")
}

impl World {
    pub fn new(directory: &Path) -> Self {
        let site = Arc::new(demo_site());
        let clock = Arc::new(SteppedClock::new(now()));
        let dyn_clock: Arc<dyn heliostat_store::Clock> = clock.clone();
        let store = EmbeddedStore::open(&directory.join("data"), site.clone(), dyn_clock).unwrap();
        Self {
            jobs: Arc::new(JobTable::open(directory).unwrap()),
            decisions: Arc::new(DecisionLog::open(directory).unwrap()),
            view: ViewSender::new(Arc::new(ControlView::default())),
            control: Arc::new(FakeControl::default()),
            site,
            clock,
            store,
        }
    }

    pub fn app(&self) -> App {
        let store = Arc::clone(&self.store);
        App {
            site: Arc::clone(&self.site),
            store: self.store.clone(),
            jobs: Arc::clone(&self.jobs),
            decisions: Arc::clone(&self.decisions),
            view: self.view.subscribe(),
            control: Some(self.control.clone()),
            clock: self.clock.clone(),
            health: Arc::new(move || {
                let stats = store.stats();
                let counter = |name: &str, help: &str, value: u64| HealthCounter {
                    name: name.into(),
                    help: help.into(),
                    value: value as f64,
                };
                let counters = vec![
                    counter("store_frames", "Frames stored", stats.frames),
                    counter("store_samples", "Samples stored", stats.samples),
                    counter("ingest_refused_total", "Values refused", 0),
                    counter("agents_connected", "Agents connected", 33),
                ];
                Health {
                    counters,
                    troubles: Vec::new(),
                }
            }),
            title_note: Some(
                "Demonstration in software: 3,456 times real time, recorded grid data of 2019"
                    .into(),
            ),
        }
    }

    /// Frames of all devices, every `step` of the `span` before now.
    pub async fn fill(&self, span: Duration, step: Duration) {
        let mut at = now() - span;
        while at < now() {
            self.store.append(frames(&self.site, at)).await.unwrap();
            at = at + step;
        }
    }

    /// Frames of one instant.
    pub async fn sample(&self, at: Timestamp) {
        self.store.append(frames(&self.site, at)).await.unwrap();
    }

    pub fn fill_jobs(&self) {
        for spec in JOBS {
            for record in records(&self.site, spec) {
                self.jobs.put(record).unwrap();
            }
        }
    }

    pub fn show(&self, at: Timestamp, event: bool) {
        self.view
            .send_replace(Arc::new(view(&self.site, at, event)));
    }

    pub fn decide(&self) {
        for decision in decisions() {
            self.decisions.record(decision).unwrap();
        }
    }

    pub async fn full(directory: &Path, span: Duration, step: Duration) -> Self {
        let world = Self::new(directory);
        world.fill(span, step).await;
        world.fill_jobs();
        world.show(now(), false);
        world.decide();
        world
    }
}
