//! One round of control: read, decide, check, send, show.

use super::controller::{Command, ControllerConfig, ControllerDeps};
use super::curves::Curves;
use super::decide::{Counted, InForce};
use super::events::GridEvents;
use super::executor::Executor;
use super::journal::Journal;
use super::link::Link;
use super::measure::{Measured, Readings, measure};
use super::planning::{Planning, grid_history};
use super::show;
use super::starts::Starts;
use crate::allocate::LimitNode;
use crate::check::{Facts, NO_TERMS, check_transition};
use crate::plan_service::{PlanInput, PlanOutput};
use crate::view::{ControlMode, ViewSender};
use heliostat_models::wire::JobOrders;
use heliostat_models::{DeviceId, JobId, JobState, Timestamp, Watts};
use heliostat_store::Query;
use heliostat_store::jobs::JobEntry;
use heliostat_store::query::Selector;
use std::collections::BTreeMap;
use std::time::Duration;

/// Leases are looked at, and the view is shown, at least this often by the site's clock.
const BEAT: Duration = Duration::from_secs(1);

/// The state of the loop.
pub(super) struct Control {
    pub config: ControllerConfig,
    pub deps: ControllerDeps,
    pub executor: Executor,
    pub planning: Planning,
    pub mode: ControlMode,
    pub events: GridEvents,
    pub in_force: Option<InForce>,
    pub measured: Option<Measured>,
    /// The power nodes as the last round saw them.
    pub nodes: Vec<LimitNode>,
    pub counted: Counted,
    pub starts: Starts,
    /// How fast each job is under each cap, as learned.
    pub curves: Curves,
    pub max_gap: f64,
    pub allocations: u64,
    pub view: ViewSender,
    link: Link,
    pub(super) journal: Journal,
    /// Set while the checker refuses: nothing is sent, renewals neither.
    pub(super) refused: bool,
    next: Timestamp,
    next_plan: Timestamp,
    /// When leases are looked at again, and the view is shown anew, if nothing happens before.
    pub next_beat: Timestamp,
    running: Vec<(JobId, Vec<DeviceId>)>,
    pub(super) price: f64,
}

impl Control {
    pub fn new(
        config: ControllerConfig,
        deps: ControllerDeps,
        run: String,
        link: Link,
        planning: Planning,
        view: ViewSender,
    ) -> Self {
        let now = deps.clock.now();
        Self {
            executor: Executor::new(deps.site.clone(), run, config.policy.lease),
            journal: Journal::new(deps.decisions.clone()),
            mode: if config.armed {
                ControlMode::Armed
            } else {
                ControlMode::Observe
            },
            config,
            deps,
            planning,
            events: GridEvents::default(),
            in_force: None,
            measured: None,
            nodes: Vec::new(),
            counted: Counted::default(),
            starts: Starts::default(),
            curves: Curves::default(),
            max_gap: 0.0,
            allocations: 0,
            view,
            link,
            refused: false,
            next: now,
            next_plan: now,
            next_beat: now,
            running: Vec::new(),
            price: 0.0,
        }
    }

    pub fn armed(&self) -> bool {
        self.mode == ControlMode::Armed
    }

    /// Logs how control starts.
    pub fn begin(&mut self) {
        if self.armed() {
            let now = self.deps.clock.now();
            self.journal.arming(now, true, "the configuration at start");
        }
    }

    /// Ends the connection; leases end by themselves.
    pub fn end(&mut self) {
        self.link.stop();
    }

    /// When the clock next calls for a round.
    pub fn next_round(&self) -> Timestamp {
        self.events
            .next_change()
            .map_or(self.next, |at| at.min(self.next))
    }

    /// Does as told; says why a round follows.
    pub fn obey(&mut self, command: Command) -> &'static str {
        let now = self.deps.clock.now();
        match command {
            Command::Submit(event) => {
                let drawn = self.drawn();
                self.events.submit(event, drawn);
                self.next_plan = now;
                "a grid event came in"
            }
            Command::Cancel(id) => {
                if !self.events.cancel(&id) {
                    tracing::warn!(id, "no grid event of this name");
                }
                self.next_plan = now;
                "a grid event was called off"
            }
            Command::Arm(armed, who) => {
                if armed != self.armed() {
                    self.mode = if armed {
                        ControlMode::Armed
                    } else {
                        ControlMode::Observe
                    };
                    self.journal.arming(now, armed, &who);
                }
                "control was armed or disarmed"
            }
            Command::Stop => "control stops",
        }
    }

    /// What the site draws now: its meter; else the IT meters and the plant at
    /// its design; else the least that it can draw, so that a reduction is
    /// never reckoned from too much.
    fn drawn(&self) -> Watts {
        let design = self.deps.site.cooling.design_pue;
        if let Some(measured) = &self.measured {
            if let Some(all) = measured.site_power {
                return all;
            }
            if let Some(it) = measured.it_power {
                return it * design;
            }
        }
        tracing::warn!(
            "no meter says what the site draws; a reduction counts from its lowest caps"
        );
        self.deps.site.devices.iter().map(|d| d.min_cap).sum()
    }

    /// Whether other jobs run, or on other devices, than in the last round.
    pub fn jobs_changed(&self) -> bool {
        running(&self.deps.jobs.all()) != self.running
    }

    /// One round.
    pub async fn round(&mut self, why: &str) {
        let now = self.deps.clock.now();
        self.next = now.next_multiple_of(self.config.policy.allocate_every);
        for change in self.events.changes(now) {
            self.journal.grid(now, self.armed(), &change);
        }
        let mut entries = self.deps.jobs.all();
        self.running = running(&entries);
        let since = now - Readings::freshness(self.config.policy.sample_every);
        let select = Selector::default();
        let mut troubles = Vec::new();
        let frames = match self
            .deps
            .store
            .query(&Query::Latest { select, since })
            .await
        {
            Ok(answer) => answer.frames(),
            Err(error) => {
                // Without readings everything counts at its rated figure.
                troubles.push(format!("The store gives no readings: {error}"));
                Vec::new()
            }
        };
        let readings = Readings::new(frames, since);
        self.curves
            .learn(&self.deps.site, &readings, &mut entries, now);
        let may_try = self.armed() && !self.refused && self.events.limit(now).is_none();
        self.curves.try_caps(now, may_try);
        let caps = self.executor.worst();
        let measured = measure(&self.deps.site, &readings, &entries, &caps);
        self.price = self.planning.price(now);
        self.decide(now, why, &entries, &measured, &mut troubles);
        self.measured = Some(measured);
        self.journal.troubles(now, self.armed(), troubles);
        self.send();
        if now >= self.next_plan && self.planning.is_idle() {
            self.next_plan = now.next_multiple_of(self.config.policy.plan_every);
            self.ask_for_plan(now, &entries).await;
        }
    }

    /// Sends what may be sent now, and shows how things stand.
    pub fn send(&mut self) {
        let now = self.deps.clock.now();
        self.next_beat = now + BEAT;
        if self.armed() && !self.refused && self.in_force.is_some() {
            let worst = self.executor.worst();
            let commands = self.executor.tick(now);
            let sent: BTreeMap<DeviceId, Watts> = (commands.iter())
                .flat_map(|(_, c)| &c.leases)
                .map(|l| (l.device.clone(), l.cap))
                .collect();
            let ranges = self.executor.ranges();
            let pinned = BTreeMap::new();
            let facts = Facts {
                site: &self.deps.site,
                margin: self.config.policy.margin,
                grid: None,
                uncontrolled: &[],
                ranges: &ranges,
                pinned: &pinned,
                jobs: &[],
                price_of_energy: self.price,
                terms: &NO_TERMS,
            };
            let facts = self.counted.complete(facts, self.events.limit(now));
            let broken = if sent.is_empty() {
                Vec::new()
            } else {
                check_transition(&facts, &worst, &sent)
            };
            if broken.is_empty() {
                for (agent, command) in &commands {
                    self.link.command(agent, command);
                }
            } else {
                self.journal.refusal(now, true, &broken, None);
            }
        }
        if self.armed() {
            self.give_orders(now);
        }
        show::publish(self, now);
    }

    /// Tells schedulers what they may be told now.
    fn give_orders(&mut self, now: Timestamp) {
        let event = self.events.limit(now).is_some();
        let fits = !event || !self.refused && self.in_force.is_some() && self.fits_at_feeds();
        let runs = |id: &JobId| self.running.iter().any(|(running, _)| running == id);
        if let Some(orders) = self.starts.due(event, fits, runs)
            && self.link.orders(&orders)
        {
            self.starts.sent(&orders, now);
        }
    }

    async fn ask_for_plan(&mut self, now: Timestamp, entries: &[JobEntry]) {
        let grid = self.deps.site.grid_device();
        let grid_history = match grid_history(self.deps.store.as_ref(), &grid, now).await {
            Ok(frames) => frames,
            Err(error) => {
                tracing::warn!(%error, "the planner sees no grid history");
                Vec::new()
            }
        };
        let over = [JobState::Completed, JobState::Cancelled];
        let input = PlanInput {
            site: self.deps.site.clone(),
            jobs: (entries.iter().map(|e| e.record.clone()))
                .filter(|j| !over.contains(&j.state))
                .collect(),
            grid_history,
            grid_events: self.events.as_limits(),
            caps: self.executor.acknowledged().into_iter().collect(),
            site_power: self.measured.as_ref().and_then(|m| m.site_power),
            it_power: self.measured.as_ref().and_then(|m| m.it_power),
        };
        self.planning.ask(now, input);
    }

    /// Takes a plan that is done, and tells schedulers when armed.
    pub fn take_plan(&mut self, plan: Result<PlanOutput, String>) {
        let now = self.deps.clock.now();
        let output = match plan {
            Ok(output) => output,
            Err(trouble) => {
                self.journal.troubles(now, self.armed(), vec![trouble]);
                return;
            }
        };
        let orders = JobOrders {
            issued: output.view.issued,
            orders: output.orders.clone(),
        };
        let proof = output.view.certificate.clone();
        let news = self.planning.keep(output);
        if self.armed() && !orders.orders.is_empty() {
            // All of them each time: a scheduler that was away hears the last word.
            self.starts.submit(orders);
        }
        if let Some(plan) = self.planning.latest.as_ref().filter(|_| !news.is_empty()) {
            let (summary, reason) = show::plan_in_words(plan, &news);
            self.journal.plan(now, self.armed(), summary, reason, proof);
        }
    }
}

fn running(entries: &[JobEntry]) -> Vec<(JobId, Vec<DeviceId>)> {
    (entries.iter())
        .filter(|e| e.record.state == JobState::Running)
        .map(|e| (e.record.id.clone(), e.record.devices.clone()))
        .collect()
}
