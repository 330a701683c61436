//! One round of control: read, decide, check, send, show.

use super::agents::Agents;
use super::answers::AnswerTimes;
use super::contracts::Contracts;
use super::controller::{Command, ControllerConfig, ControllerDeps};
use super::curves::Curves;
use super::decide::{Asked, Counted, InForce};
use super::events::GridEvents;
use super::executor::Executor;
use super::inputs::Inputs;
use super::journal::Journal;
use super::link::Link;
use super::lock::Lock;
use super::measure::Readings;
use super::notices::Notices;
use super::planning::{Planning, grid_history};
use super::relief::Watch;
use super::show::{self, Shown};
use super::starts::Starts;
use crate::allocate::Problem;
use crate::check::{Facts, NO_TERMS, check_transition};
use crate::plan_service::{PlanInput, PlanOutput};
use crate::view::{ControlMode, ViewSender};
use heliostat_models::wire::JobOrders;
use heliostat_models::{JobId, JobRecord, JobState, Timestamp, Watts};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Leases are looked at, and the view is shown, at least this often by the site's clock.
const BEAT: Duration = Duration::from_secs(1);

/// While meters are silent, a site is taken to draw what it drew for so long.
const STILL_SO: Duration = Duration::from_secs(900);

/// The state of the loop.
pub(super) struct Control {
    pub config: ControllerConfig,
    pub deps: ControllerDeps,
    pub executor: Executor,
    pub agents: Agents,
    pub planning: Planning,
    pub mode: ControlMode,
    pub events: GridEvents,
    /// What the site drew when its meter was last read.
    metered: Option<(Watts, Timestamp)>,
    /// Where they are kept besides.
    pub(super) notices: Notices,
    pub in_force: Option<InForce>,
    pub inputs: Inputs,
    /// What the allocator was asked last.
    pub problem: Option<Arc<Problem>>,
    /// What the last decision was made from, and the troubles that it met.
    pub(super) asked: Option<Asked>,
    pub(super) troubles: Vec<String>,
    pub counted: Counted,
    /// What the site's power contracts cover.
    pub(super) contracts: Contracts,
    /// Whether breakers bear what devices still have.
    pub(super) watch: Watch,
    pub starts: Starts,
    /// How fast each job is under each cap, as learned.
    pub curves: Curves,
    pub max_gap: f64,
    pub allocations: u64,
    /// When an allocation was last decided, or found to be the same still.
    pub allocated: Option<Timestamp>,
    pub rounds: u64,
    pub view: ViewSender,
    /// The parts of the view that are made anew only when they have changed.
    pub(super) shown: Shown,
    pub(super) link: Link,
    /// Which controller is in charge.
    pub lock: Lock,
    /// Since when the broker is reached (network time).
    pub(super) connected: Option<tokio::time::Instant>,
    pub(super) journal: Journal,
    /// Set while the checker refuses: nothing is sent, renewals neither.
    pub(super) refused: bool,
    /// There is room for what agents that are to stop found.
    pub(super) room_to_leave: bool,
    next: Timestamp,
    next_plan: Timestamp,
    /// When leases are looked at again, and the view is shown anew, if nothing happens before.
    pub next_beat: Timestamp,
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
        let contracts = Contracts::new(&deps.site);
        let notices = Notices::new(config.directory.as_deref());
        let curves = Curves::kept_in(config.directory.as_deref());
        let watch = Watch::new(AnswerTimes::new(run.clone(), config.policy.lease));
        Self {
            executor: Executor::new(deps.site.clone(), run.clone(), config.policy.lease),
            agents: Agents::default(),
            allocated: None,
            journal: Journal::new(deps.decisions.clone()),
            lock: Lock::new(&run, config.identity.clone(), config.policy.lease),
            connected: None,
            mode: if config.armed {
                ControlMode::Armed
            } else {
                ControlMode::Observe
            },
            config,
            deps,
            planning,
            events: GridEvents::default(),
            metered: None,
            notices,
            in_force: None,
            inputs: Inputs::default(),
            problem: None,
            asked: None,
            troubles: Vec::new(),
            counted: Counted::default(),
            contracts,
            watch,
            starts: Starts::default(),
            curves,
            max_gap: 0.0,
            allocations: 0,
            rounds: 0,
            view,
            shown: Shown::default(),
            link,
            refused: false,
            room_to_leave: true,
            next: now,
            next_plan: now,
            next_beat: now,
            price: 0.0,
        }
    }

    /// Takes up the grid events of an earlier run and what it learned, and logs how
    /// control starts.
    pub fn begin(&mut self) {
        let now = self.deps.clock.now();
        self.recall_events(now);
        if let Some(lost) = self.curves.recall() {
            tracing::error!("{lost}");
            self.journal.troubles(now, self.armed(), vec![lost], true);
        }
        let by = self.recall_arming(now);
        if self.is_to_act() || by.is_some() {
            let by = by.unwrap_or_else(|| "the configuration at start".to_owned());
            self.journal.arming(now, self.is_to_act(), &by);
        }
    }

    /// Gives the lock up, keeps what was learned and ends the connection; leases end by themselves.
    pub fn end(&mut self) {
        self.release();
        self.curves.keep_at_end(self.deps.clock.now());
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
                let id = event.id.clone();
                if !self.events.submit(event, drawn, now) {
                    tracing::warn!(
                        id,
                        "a grid event is not taken: it asks nothing that makes sense, or there are too many"
                    );
                }
                self.plan_soon(now);
                "a grid event came in"
            }
            Command::Cancel(id) => {
                if !self.events.cancel(&id, now) {
                    tracing::warn!(id, "no grid event of this name");
                }
                self.plan_soon(now);
                "a grid event was called off"
            }
            Command::Arm(armed, who) => {
                if armed != self.is_to_act() {
                    if !armed {
                        self.release();
                    }
                    self.mode = if armed {
                        ControlMode::Armed
                    } else {
                        ControlMode::Observe
                    };
                    self.journal.arming(now, armed, &who);
                }
                self.keep_arming(armed, who, now);
                "control was armed or disarmed"
            }
            Command::Stop => "control stops",
        }
    }

    /// What the site draws now: its meter; else the IT meters and the plant at
    /// its design; else what it drew shortly before; else the least that it can draw, so that a reduction is
    /// never reckoned from too much.
    fn drawn(&self) -> Watts {
        let design = self.deps.site.cooling.design_pue;
        if let Some(measured) = &self.inputs.measured {
            if let Some(all) = measured.site_power {
                return all;
            }
            if let Some(it) = measured.it_power {
                return it * design;
            }
        }
        let now = self.deps.clock.now();
        if let Some((all, at)) = self.metered.filter(|(_, at)| *at + STILL_SO >= now) {
            let seconds = now.seconds_since(at);
            tracing::warn!(
                seconds,
                "no meter says what the site draws; a reduction counts from what it drew before"
            );
            return all;
        }
        tracing::warn!(
            "no meter says what the site draws; a reduction counts from its lowest caps"
        );
        self.deps.site.devices.iter().map(|d| d.min_cap).sum()
    }

    /// Whether other jobs run, or on other devices, than in the last round.
    pub fn jobs_changed(&self) -> bool {
        self.inputs.others_run(&self.deps.jobs)
    }

    /// One round: it costs what has changed since the last one.
    pub async fn round(&mut self, why: &str) {
        let now = self.deps.clock.now();
        self.executor.see(now);
        self.rounds += 1;
        self.next = now.next_multiple_of(self.config.policy.allocate_every);
        for change in self.events.changes(now) {
            self.journal.grid(now, self.armed(), &change);
        }
        // Before anything is decided by them.
        self.mind_events();
        let fresh = Readings::freshness(self.config.policy.sample_every);
        let jobs_are_new = self.inputs.read_jobs(&self.deps.jobs);
        let store = self.deps.store.as_ref();
        let (readings_are_new, trouble) = self.inputs.read_store(store, now, fresh).await;
        let site = &self.deps.site;
        if jobs_are_new || readings_are_new || self.curves.due(now) {
            let (readings, jobs) = (&self.inputs.readings, &self.inputs.jobs);
            self.curves.learn(site, readings, jobs, now);
        }
        let is_calm = !self.refused && !self.watch.is_active();
        let may_try = self.armed() && is_calm && self.events.limit(now).is_none();
        if self.lock.take_others() {
            // What another controller tries on these jobs it does not tell.
            self.curves.spend(&self.inputs.jobs);
        }
        self.curves.try_caps(now, may_try);
        if self.armed() {
            self.executor.look(now);
        }
        self.inputs.measure(&self.deps.site, &self.executor);
        if let Some(all) = self.inputs.measured.as_ref().and_then(|m| m.site_power) {
            self.metered = Some((all, now));
        }
        self.price = self.planning.price(now);
        self.decide(now, why);
        self.mind_breakers(now);
        if !self.refused && self.in_force.is_some() {
            self.allocated = Some(now);
        }
        // Load that is taken off is a decision of its own in the log.
        self.notices.unmet = self.unmet(now);
        let decided = self.troubles.iter().chain(self.notices.troubles());
        let decided = decided.chain(self.curves.trouble()).cloned();
        let troubles = (trouble.into_iter().chain(decided)).chain(self.agents.troubles());
        let troubles = troubles.collect();
        let armed = self.armed();
        self.journal.troubles(now, armed, troubles, !self.refused);
        self.send();
        if now >= self.next_plan && self.planning.is_idle() {
            self.next_plan = now.next_multiple_of(self.config.policy.plan_every);
            self.ask_for_plan(now).await;
        }
    }

    /// A plan is made with the next round.
    pub(super) fn plan_soon(&mut self, now: Timestamp) {
        self.next_plan = now;
    }

    /// What went wrong in the last decision, and what agents tell.
    pub(super) fn told_troubles(&self) -> Vec<String> {
        let decided = self.troubles.iter().chain(&self.watch.troubles);
        let decided = decided.chain(self.notices.troubles());
        let decided = decided.chain(self.curves.trouble()).cloned();
        decided.chain(self.agents.troubles()).collect()
    }

    /// Sends what may be sent now, and shows how things stand.
    pub fn send(&mut self) {
        let now = self.deps.clock.now();
        self.executor.see(now);
        self.next_beat = now + BEAT;
        self.mind_events();
        if self.lock.fence().is_some() {
            self.mind_lock();
        }
        if self.watch.is_active() {
            // What was taken off may come back as soon as breakers bear it.
            self.mind_breakers(now);
        }
        if self.armed() && !self.refused && self.in_force.is_some() {
            let commands = self.executor.propose(now);
            let sent = self.executor.caps_in(commands.iter().map(|(_, c)| c));
            let pinned = BTreeMap::new();
            let facts = Facts {
                site: &self.deps.site,
                margin: self.config.policy.margin,
                grid: None,
                uncontrolled: &[],
                ranges: self.executor.ranges(),
                pinned: &pinned,
                jobs: &[],
                price_of_energy: self.price,
                terms: &NO_TERMS,
            };
            let facts = self.counted.complete(facts, self.events.limit(now));
            let broken = if sent.is_empty() {
                Vec::new()
            } else {
                // What devices may have before any of this is sent.
                check_transition(&facts, self.executor.worst(), &sent)
            };
            self.executor.sent(&commands, now);
            self.watch.answers.sent(&commands, now);
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
        let runs = |id: &JobId| self.inputs.runs(id);
        if let Some(orders) = self.starts.due(event, fits, runs)
            && self.link.orders(&orders)
        {
            self.starts.sent(&orders, now);
        }
    }

    async fn ask_for_plan(&mut self, now: Timestamp) {
        let grid = self.deps.site.grid_device();
        let grid_history = match grid_history(self.deps.store.as_ref(), &grid, now).await {
            Ok(frames) => frames,
            Err(error) => {
                tracing::warn!(%error, "the planner sees no grid history");
                Vec::new()
            }
        };
        let over = [JobState::Completed, JobState::Cancelled];
        let lowest = (self.deps.site.devices.iter().map(|d| d.min_cap))
            .fold(Watts(f64::INFINITY), Watts::min);
        let as_believed = |job| {
            let job = self.curves.believed(job);
            let curve = job.curve.stated_from(lowest);
            JobRecord { curve, ..job }
        };
        let input = PlanInput {
            site: self.deps.site.clone(),
            jobs: (self.inputs.jobs.iter().map(|e| &e.record))
                .filter(|j| !over.contains(&j.state))
                .map(as_believed)
                .collect(),
            grid_history,
            grid_events: self.events.as_limits(),
            caps: self.executor.acknowledged().into_iter().collect(),
            site_power: self.inputs.measured.as_ref().and_then(|m| m.site_power),
            it_power: self.inputs.measured.as_ref().and_then(|m| m.it_power),
            contract_loads: self.contract_loads(),
        };
        self.planning.ask(now, input);
    }

    /// Takes a plan that is done, and tells schedulers when armed.
    pub fn take_plan(&mut self, plan: Result<PlanOutput, String>) {
        let now = self.deps.clock.now();
        let output = match plan {
            Ok(output) => output,
            Err(trouble) => {
                self.journal
                    .troubles(now, self.armed(), vec![trouble], !self.refused);
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
