//! The control loop's outside: how it is started, what it is told, and the
//! order in which it attends to things.

use super::link::{Arrival, Link};
use super::planning::Planning;
use super::round::Control;
use crate::grid_event::GridEvent;
use crate::plan::Planner;
use crate::plan_service::PlanService;
use crate::view::{ControlView, ViewReceiver};
use heliostat_models::mqtt::MqttConfig;
use heliostat_models::site::ControlPolicy;
use heliostat_models::{Site, Timestamp};
use heliostat_store::decisions::DecisionLog;
use heliostat_store::jobs::JobTable;
use heliostat_store::{Clock, TimeSeriesStore};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// A job record passes the broker on its way to the table; after this it is
/// there (network time).
const JOB_ON_ITS_WAY: Duration = Duration::from_millis(15);
/// Longest wait for what agents said before, when control starts armed (network time).
const FIRST_HELLOS: Duration = Duration::from_secs(2);

/// How often a controller that stands by looks at the lock (network time).
const LOCK_LOOK: Duration = Duration::from_millis(100);

/// How control is to behave.
#[derive(Clone, Debug)]
pub struct ControllerConfig {
    /// The broker.
    pub mqtt: MqttConfig,
    /// Whether caps are sent from the start. Observing is the default everywhere else.
    pub armed: bool,
    /// Periods, leases and margins; the site's own, or overridden.
    pub policy: ControlPolicy,
    /// Whether the built-in planner runs.
    pub planner_enabled: bool,
    /// Name that this controller keeps over restarts, if it has one: it takes
    /// over at once from a run of the same name, which is no more.
    pub identity: Option<String>,
    /// Directory in which grid events and what was learned of jobs are kept, so that
    /// a restart knows them.
    pub directory: Option<PathBuf>,
}

/// What control works with.
#[derive(Clone)]
pub struct ControllerDeps {
    /// The site.
    pub site: Arc<Site>,
    /// Where measurements are.
    pub store: Arc<dyn TimeSeriesStore>,
    /// Where jobs are.
    pub jobs: Arc<JobTable>,
    /// Where decisions go.
    pub decisions: Arc<DecisionLog>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// Why control did not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Started outside a tokio runtime.
    #[error("control must be started within a tokio runtime")]
    NoRuntime,
    /// A figure of the policy makes no sense.
    #[error("control policy: `{field}` is {value}; {allowed}")]
    Policy {
        /// Which.
        field: &'static str,
        /// What it is.
        value: String,
        /// What is allowed.
        allowed: &'static str,
    },
}

/// What the loop is told from outside.
#[derive(Debug)]
pub(super) enum Command {
    Submit(GridEvent),
    Cancel(String),
    Arm(bool, String),
    Stop,
}

/// Starts control.
#[derive(Debug)]
pub struct Controller;

impl Controller {
    /// Starts the loop. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Outside a runtime, or when the policy makes no sense. A broker that is
    /// not there is no error: control observes and tries again.
    pub fn start(
        config: ControllerConfig,
        deps: ControllerDeps,
    ) -> Result<ControlHandle, ControlError> {
        let planner: Option<Box<dyn PlanService>> = if config.planner_enabled {
            Some(Box::new(Planner::new()))
        } else {
            None
        };
        Self::start_with(config, deps, planner)
    }

    /// [`Controller::start`] with a planner of one's own, or none.
    ///
    /// # Errors
    /// As [`Controller::start`].
    pub fn start_with(
        config: ControllerConfig,
        deps: ControllerDeps,
        planner: Option<Box<dyn PlanService>>,
    ) -> Result<ControlHandle, ControlError> {
        tokio::runtime::Handle::try_current().map_err(|_| ControlError::NoRuntime)?;
        check_policy(&config.policy)?;
        let run = run_name(deps.clock.now());
        let (link, arrivals) = Link::start(&deps.site.id, &run, config.mqtt.clone());
        let (view, seen) = watch::channel(Arc::new(ControlView::default()));
        let (commands, told) = mpsc::unbounded_channel();
        let control = Control::new(config, deps, run, link, Planning::new(planner), view);
        let task = tokio::spawn(attend(control, told, arrivals));
        Ok(ControlHandle {
            commands,
            view: seen,
            task: Arc::new(Mutex::new(Some(task))),
        })
    }
}

/// A running control loop. Clones speak of the same one.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    commands: mpsc::UnboundedSender<Command>,
    view: ViewReceiver,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl ControlHandle {
    /// What control shows.
    pub fn view(&self) -> ViewReceiver {
        self.view.clone()
    }

    /// Takes a grid event in. A reduction counts against what the site draws now.
    pub fn submit_grid_event(&self, event: GridEvent) {
        self.tell(Command::Submit(event));
    }

    /// Calls a grid event off.
    pub fn cancel_grid_event(&self, id: &str) {
        self.tell(Command::Cancel(id.to_owned()));
    }

    /// Arms or disarms control; `who` goes into the log.
    pub fn arm(&self, armed: bool, who: &str) {
        self.tell(Command::Arm(armed, who.to_owned()));
    }

    /// Ends the loop. Leases that are out end by themselves, and agents set safe caps.
    pub async fn stop(&self) {
        self.tell(Command::Stop);
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(%error, "the control loop ended badly");
        }
    }

    fn tell(&self, command: Command) {
        if self.commands.send(command).is_err() {
            tracing::warn!("control has stopped; what it was told is not done");
        }
    }
}

/// Names a run like no other one, also where two start at one moment on
/// machines that number their processes alike.
fn run_name(now: Timestamp) -> String {
    let chance = RandomState::new().build_hasher().finish();
    format!("{}-{}-{chance:016x}", now.millis(), std::process::id())
}

fn check_policy(policy: &ControlPolicy) -> Result<(), ControlError> {
    let fault = |field, value: String, allowed| {
        Err(ControlError::Policy {
            field,
            value,
            allowed,
        })
    };
    if !(0.0..0.5).contains(&policy.margin) {
        let allowed = "give a share from 0 to below 0.5";
        return fault("margin", policy.margin.to_string(), allowed);
    }
    for (field, span) in [
        ("allocate_every", policy.allocate_every),
        ("plan_every", policy.plan_every),
        ("sample_every", policy.sample_every),
    ] {
        if span < Duration::from_millis(100) {
            return fault(field, format!("{span:?}"), "give at least 0.1 s");
        }
    }
    if policy.lease < policy.allocate_every * 2 {
        let allowed = "give at least twice `allocate_every`, so that leases are renewed in time";
        return fault("lease", format!("{:?}", policy.lease), allowed);
    }
    Ok(())
}

/// Attends to whatever comes, until told to stop.
async fn attend(
    mut control: Control,
    mut told: mpsc::UnboundedReceiver<Command>,
    mut arrivals: mpsc::Receiver<Arrival>,
) {
    control.begin();
    if control.is_to_act() {
        // What agents said is kept by the broker and comes at once; a first
        // decision without it would count every device at its highest cap.
        let _ = tokio::time::timeout(FIRST_HELLOS, first_hellos(&mut control, &mut arrivals)).await;
    }
    control.round("at start").await;
    let mut look_at_jobs: Option<tokio::time::Instant> = None;
    loop {
        let clock = Arc::clone(&control.deps.clock);
        let next: Timestamp = control.next_round();
        tokio::select! {
            // What people and agents say comes before routine.
            biased;
            command = told.recv() => match command {
                Some(Command::Stop) | None => break,
                Some(command) => {
                    let why = control.obey(command);
                    control.round(why).await;
                }
            },
            Some(arrival) = arrivals.recv() => {
                let heard = hear(&mut control, arrival, &mut arrivals);
                if heard.jobs && look_at_jobs.is_none() {
                    look_at_jobs = Some(tokio::time::Instant::now() + JOB_ON_ITS_WAY);
                }
                if control.waits_for_lock() && control.mind_lock() {
                    control.round("this controller took charge").await;
                } else if heard.charge {
                    control.round("another controller took charge").await;
                } else if heard.events {
                    control.round("another controller told of a grid event").await;
                } else if heard.hello {
                    control.round("an agent said what its devices have").await;
                } else if clock.now() >= next {
                    // However much arrives, the clock gets its turn.
                    control.round("by the clock").await;
                } else if heard.answer {
                    control.send();
                }
            },
            () = instant(look_at_jobs) => {
                look_at_jobs = None;
                if control.jobs_changed() {
                    control.round("a job started or stopped").await;
                }
            },
            () = tokio::time::sleep(LOCK_LOOK), if control.waits_for_lock() => {
                if control.mind_lock() {
                    control.round("this controller took charge").await;
                }
            }
            plan = control.planning.done() => {
                control.take_plan(plan);
                control.round("a new plan sets the price of energy").await;
            },
            () = clock.wait_until(next.min(control.next_beat)) => {
                if control.mind_lock() {
                    control.round("this controller took charge").await;
                } else if clock.now() >= next {
                    control.round("by the clock").await;
                } else {
                    control.send();
                }
            }
        }
    }
    control.end();
}

/// Takes hellos in until every device is known.
async fn first_hellos(control: &mut Control, arrivals: &mut mpsc::Receiver<Arrival>) {
    while control.executor.ranges().len() < control.deps.site.devices.len() {
        match arrivals.recv().await {
            Some(arrival) => drop(hear(control, arrival, arrivals)),
            None => return,
        }
    }
}

/// What a burst of messages spoke of.
#[derive(Default)]
struct Heard {
    hello: bool,
    answer: bool,
    jobs: bool,
    /// Grid events that we did not know.
    events: bool,
    /// We are no longer in charge.
    charge: bool,
}

/// Takes in a message and all that wait behind it.
fn hear(control: &mut Control, first: Arrival, arrivals: &mut mpsc::Receiver<Arrival>) -> Heard {
    let mut heard = Heard::default();
    let mut next = Some(first);
    let held = control.lock.fence();
    while let Some(arrival) = next {
        match arrival {
            Arrival::Hello(said) => {
                control.hear_fence(said.fence);
                control.executor.on_hello(&said);
                control.agents.on_hello(&said);
                heard.hello = true;
            }
            Arrival::Answer(answer) => {
                control.hear_fence(answer.fence);
                let now = control.deps.clock.now();
                if let Some(sent) = control.watch.answers.heard(&answer, now) {
                    control.agents.on_answer(&answer, sent, now);
                }
                control.executor.on_answer(&answer);
                heard.answer = true;
            }
            Arrival::Jobs => heard.jobs = true,
            Arrival::Lock(lock) => control.hear_lock(&lock),
            Arrival::Events(notices) => heard.events |= control.hear_events(notices),
            Arrival::Connected => control.hear_connected(),
        }
        next = arrivals.try_recv().ok();
    }
    heard.charge = held.is_some() && control.lock.fence().is_none();
    heard
}

/// Waits for an instant; for ever when there is none.
async fn instant(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
