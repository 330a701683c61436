//! The control loop as a whole: observing without a broker, and armed with one
//! between it and agents that obey.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests say what they expect; a failing unwrap is their way to fail"
)]

#[path = "support/loop_world.rs"]
mod loop_world;
#[path = "../../tests/support/peers.rs"]
mod peers;
#[path = "support/site.rs"]
mod sites;

use heliostat_models::lease::{
    AgentHello, CapAnswer, CapCommand, CapOutcome, CapReport, CappableDevice,
};
use heliostat_models::mqtt::Credentials;
use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
use heliostat_models::wire::Topics;
use heliostat_models::{
    AgentId, Catalogue, Decision, DecisionKind, DeviceId, Frame, Reading, Site, Timestamp, Watts,
};
use heliostat_optimizer::control::replay::{Replayed, replay_day};
use heliostat_optimizer::control::{ControlError, Controller, ControllerConfig};
use heliostat_optimizer::grid_event::{Ask, GridEvent};
use heliostat_optimizer::view::{ControlMode, ControlView};
use heliostat_store::{Clock, TimeSeriesStore};
use loop_world::{LoopWorld, START, free_port, until};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[tokio::test]
async fn without_a_broker_it_observes_decides_and_says_why() {
    let world = LoopWorld::new(sites::demo());
    world.run_job("train-1", 0..48, START);
    let handle = Controller::start(world.config(free_port(), false), world.deps.clone()).unwrap();
    let mut view = handle.view();
    let first = until(&mut view, "a first allocation", |v| v.allocations >= 1).await;
    assert_eq!(first.mode, ControlMode::Observe);
    assert_eq!(first.caps.len(), 256);
    assert!(first.caps.values().all(|c| c.acknowledged.is_none()));
    assert!(
        first.power.iter().any(|p| p.id == "feed")
            && first
                .power
                .iter()
                .all(|p| p.capped + p.uncontrolled <= p.limit)
    );
    assert!(first.allocation.as_ref().unwrap().gap < 1e-5);

    // Time passes, another job starts: it gets caps at the next period.
    let device = &world.site.devices[100].id;
    assert_eq!(first.caps.get(device).unwrap().decided, Watts(200.0));
    world.run_job("train-2", 96..128, START + Duration::from_secs(60));
    world.clock.advance_to(START + Duration::from_secs(125));
    let second = until(&mut view, "caps for the new job", |v| {
        v.caps.get(device).unwrap().decided > Watts(300.0)
    })
    .await;
    assert!(second.at > first.at);

    // A grid event acts at once, without the clock moving.
    let feed = |v: &ControlView| v.power.iter().find(|p| p.id == "feed").unwrap().clone();
    handle.submit_grid_event(GridEvent {
        id: "dr-1".into(),
        from: START,
        to: START + Duration::from_secs(3_600),
        ask: Ask::Limit(Watts(130_000.0)),
        reason: "the operator asks".into(),
    });
    let during = until(&mut view, "the event's limit", |v| {
        feed(v).limit < Watts(130_000.0)
    })
    .await;
    assert!(feed(&during).capped + feed(&during).uncontrolled <= feed(&during).limit);
    assert_eq!(during.grid_events.len(), 1);
    world.clock.advance_to(START + Duration::from_secs(3_601));
    until(&mut view, "the end of the event", |v| {
        v.grid_events.is_empty()
    })
    .await;
    handle.stop().await;

    let kinds: Vec<DecisionKind> = (world.deps.decisions.latest(50, |_| true).iter())
        .map(|d| d.kind)
        .collect();
    assert_eq!(
        kinds
            .iter()
            .filter(|k| **k == DecisionKind::GridEvent)
            .count(),
        2
    );
    let allocations = world
        .deps
        .decisions
        .latest(50, |d| d.kind == DecisionKind::Allocation);
    assert!(allocations.len() >= 3);
    for decision in &allocations {
        assert!(!decision.armed);
        assert!(
            decision.certificate.is_some() && decision.caps.iter().all(|c| !c.reason.is_empty())
        );
    }
}

#[tokio::test]
async fn what_was_learned_and_cannot_be_read_is_told_as_a_trouble() {
    let world = LoopWorld::new(sites::demo());
    world.run_job("train-1", 0..48, START);
    let kept = tempfile::tempdir().unwrap();
    let file = kept.path().join("speed-curves.json");
    std::fs::write(&file, "?").unwrap();
    let told = || (world.deps.decisions).latest(9, |d| d.kind == DecisionKind::Incident);
    for _ in 0..2 {
        let config = ControllerConfig {
            directory: Some(kept.path().to_owned()),
            ..world.config(free_port(), false)
        };
        let handle = Controller::start(config, world.deps.clone()).unwrap();
        let decided = |v: &ControlView| v.allocations >= 1;
        until(&mut handle.view(), "a first allocation", decided).await;
        handle.stop().await;
        // Once: what is there then is control's own again.
        let told = told();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].summary.contains("speed-curves.json"), "{told:?}");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("train-1"), "{text}");
    }
}

#[tokio::test]
async fn nothing_changed_is_no_news() {
    let world = LoopWorld::new(sites::demo());
    world.run_job("train-1", 0..48, START);
    let handle = Controller::start(world.config(free_port(), false), world.deps.clone()).unwrap();
    let mut view = handle.view();
    for minute in 0..6u64 {
        until(&mut view, "a round", |v| v.rounds > minute).await;
        world
            .clock
            .advance_to(START + Duration::from_secs(120 * (minute + 1)));
    }
    // Rounds pass; nothing is read or allocated again.
    let quiet = view.borrow().clone();
    assert_eq!(quiet.allocations, 1);
    assert_eq!(world.store.asked(), 1);
    // Readings are news: meters say that the plant needs less than feared.
    let period = Duration::from_secs(60);
    let now = world.clock.now() + period;
    let meters = [
        ("meter-site", 155e3),
        ("meter-it-a", 75e3),
        ("meter-it-b", 75e3),
    ];
    let frames = meters.map(|(meter, watts)| Frame {
        device: DeviceId::from(meter),
        at: now - Duration::from_secs(1),
        readings: vec![(Catalogue::meter_power(), Reading::Measured(watts))],
    });
    world.store.append(frames.to_vec()).await.unwrap();
    world.clock.advance_to(now);
    let load = |v: &ControlView| {
        v.power
            .iter()
            .find(|p| p.id == "feed")
            .unwrap()
            .uncontrolled
    };
    let fresh = until(&mut view, "the reading", |v| load(v) < load(&quiet)).await;
    assert_eq!(fresh.allocations, 2);
    // It becomes stale by the passing of time alone, and counts no more.
    world.clock.advance_to(now + period * 10);
    until(&mut view, "its end", |v| load(v) == load(&quiet)).await;
    handle.stop().await;
    let allocations = world
        .deps
        .decisions
        .latest(50, |d| d.kind == DecisionKind::Allocation);
    assert_eq!(allocations.len(), 1, "{allocations:?}");
}

#[tokio::test]
async fn a_policy_without_sense_is_refused_by_field() {
    let world = LoopWorld::new(sites::demo());
    let mut config = world.config(free_port(), false);
    config.policy.margin = 0.7;
    let error = Controller::start(config, world.deps.clone()).unwrap_err();
    assert!(
        matches!(
            error,
            ControlError::Policy {
                field: "margin",
                ..
            }
        ),
        "{error}"
    );
    let mut config = world.config(free_port(), false);
    config.policy.lease = config.policy.allocate_every;
    let error = Controller::start(config, world.deps.clone()).unwrap_err();
    assert!(error.to_string().contains("lease"), "{error}");
}

/// A mosquitto of our own that asks for user and password; killed when dropped.
struct Mosquitto(
    Child,
    u16,
    #[allow(dead_code, reason = "its file of users")] tempfile::TempDir,
);

/// User and password that it knows.
const USER: (&str, &str) = ("ops", "hunter2");

impl Mosquitto {
    fn start() -> Option<Self> {
        let port = free_port();
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("users"), format!("{}:{}\n", USER.0, USER.1)).unwrap();
        // Hashes the passwords in place; mosquitto gives up its privileges
        // before it reads them.
        let hashed = Command::new("mosquitto_passwd")
            .arg("-U")
            .arg(path("users"))
            .status();
        let open = Command::new("chmod")
            .args(["-R", "a+rX"])
            .arg(directory.path())
            .status();
        assert!(open.unwrap().success());
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous false\npassword_file {}\n",
            path("users").display()
        );
        std::fs::write(path("conf"), text).unwrap();
        let started = hashed.and_then(|_| {
            Command::new("mosquitto")
                .arg("-c")
                .arg(path("conf"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
        });
        let child = match started {
            Ok(child) => child,
            Err(error) => {
                peers::skip("mosquitto", error);
                return None;
            }
        };
        let broker = Self(child, port, directory);
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(broker);
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        panic!("mosquitto does not listen");
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Agents of all nodes on one connection: they say hello and obey.
struct Agents {
    limits: Arc<Mutex<BTreeMap<DeviceId, Watts>>>,
    commands: Arc<Mutex<Vec<CapCommand>>>,
    client: AsyncClient,
}

impl Agents {
    async fn start(site: &Arc<Site>, port: u16, found: Watts) -> Self {
        let topics = Topics::new(&site.id);
        let mut options = MqttOptions::new("agents", "127.0.0.1", port);
        options.set_credentials(USER.0, USER.1);
        options.set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut events) = AsyncClient::new(options, 1_000);
        let limits: BTreeMap<DeviceId, Watts> =
            site.devices.iter().map(|d| (d.id.clone(), found)).collect();
        for node in &site.nodes {
            let agent = AgentId::from(node.id.as_str());
            client
                .subscribe(topics.caps(&agent), QoS::AtLeastOnce)
                .await
                .unwrap();
            let devices = (site.devices[node.devices.clone()].iter())
                .map(|d| CappableDevice {
                    device: d.id.clone(),
                    uuid: format!("GPU-{}", d.id),
                    product: "test".into(),
                    min: d.min_cap,
                    max: d.max_cap,
                    found,
                    current: found,
                })
                .collect();
            let hello = AgentHello {
                agent: agent.clone(),
                version: "test".into(),
                fence: 0,
                at: START,
                devices,
                foreign: Default::default(),
                leaving: false,
            };
            let bytes = serde_json::to_vec(&hello).unwrap();
            client
                .publish(topics.hello(&agent), QoS::AtLeastOnce, true, bytes)
                .await
                .unwrap();
        }
        let agents = Self {
            limits: Arc::new(Mutex::new(limits)),
            commands: Arc::default(),
            client: client.clone(),
        };
        let (limits, commands) = (Arc::clone(&agents.limits), Arc::clone(&agents.commands));
        tokio::spawn(async move {
            while let Ok(event) = events.poll().await {
                let Event::Incoming(Incoming::Publish(message)) = event else {
                    continue;
                };
                let agent = Topics::agent_of(&message.topic).unwrap();
                let command: CapCommand = serde_json::from_slice(&message.payload).unwrap();
                let mut reports = Vec::new();
                for lease in &command.leases {
                    assert_eq!(lease.uuid, format!("GPU-{}", lease.device));
                    limits
                        .lock()
                        .unwrap()
                        .insert(lease.device.clone(), lease.cap);
                    reports.push(CapReport {
                        device: lease.device.clone(),
                        outcome: CapOutcome::Applied {
                            readback: lease.cap,
                        },
                    });
                }
                let answer = CapAnswer {
                    agent: agent.clone(),
                    fence: command.fence,
                    sequence: Some(command.sequence),
                    controller: Some(command.controller.clone()),
                    at: command.issued,
                    reports,
                };
                commands.lock().unwrap().push(command);
                let bytes = serde_json::to_vec(&answer).unwrap();
                client
                    .publish(topics.applied(&agent), QoS::AtLeastOnce, false, bytes)
                    .await
                    .unwrap();
            }
        });
        agents
    }

    fn total(&self) -> Watts {
        self.limits.lock().unwrap().values().copied().sum()
    }
}

fn settled(v: &ControlView) -> bool {
    !v.caps.is_empty()
        && v.caps.values().all(|c| {
            c.acknowledged
                .is_some_and(|a| (a - c.decided).0.abs() < 0.01)
        })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn armed_it_lowers_raises_follows_a_grid_event_and_falls_silent_when_disarmed() {
    let Some(broker) = Mosquitto::start() else {
        return;
    };
    let world = LoopWorld::new(sites::demo());
    world.run_job("train-1", 0..96, START);
    world.run_job("train-2", 96..256, START);
    // Found at 700 W everywhere: above the limits, before anyone controlled.
    let agents = Agents::start(&world.site, broker.1, Watts(700.0)).await;
    let mut config = world.config(broker.1, false);
    config.mqtt.credentials = Some(Credentials {
        user: USER.0.to_owned(),
        password: USER.1.to_owned(),
    });
    let handle = Controller::start(config, world.deps.clone()).unwrap();
    let mut view = handle.view();
    until(&mut view, "the agents' limits", |v| {
        v.caps.len() == 256
            && v.caps
                .values()
                .all(|c| c.acknowledged == Some(Watts(700.0)))
    })
    .await;
    assert!(
        agents.commands.lock().unwrap().is_empty(),
        "observing sends nothing"
    );

    handle.arm(true, "the test");
    let armed = until(&mut view, "caps in force", settled).await;
    assert_eq!(armed.mode, ControlMode::Armed);
    let before = agents.total();
    assert!(before < Watts(256.0 * 700.0));
    let issued: Timestamp = agents.commands.lock().unwrap()[0].issued;
    assert_eq!(issued, START);

    handle.submit_grid_event(GridEvent {
        id: "dr-1".into(),
        from: START,
        to: START + Duration::from_secs(600),
        ask: Ask::Limit(Watts(120_000.0)),
        reason: "the operator asks".into(),
    });
    let low = |v: &ControlView| {
        let feed = v.power.iter().find(|p| p.id == "feed").unwrap();
        feed.limit < Watts(120_000.0) && settled(v)
    };
    until(&mut view, "the event's caps", low).await;
    assert!(
        agents.total() < before * 0.9,
        "{} of {before}",
        agents.total()
    );
    world.clock.advance_to(START + Duration::from_secs(601));
    until(&mut view, "caps after the event", |v| {
        v.grid_events.is_empty() && settled(v)
    })
    .await;
    assert!((agents.total() - before).0.abs() < 0.02 * before.0);

    handle.arm(false, "the test");
    until(&mut view, "observing again", |v| {
        v.mode == ControlMode::Observe
    })
    .await;
    let sent = agents.commands.lock().unwrap().len();
    world.clock.advance_to(START + Duration::from_secs(6_000));
    until(&mut view, "time to pass", |v| {
        v.at >= START + Duration::from_secs(6_000)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        agents.commands.lock().unwrap().len(),
        sent,
        "disarmed it sends nothing"
    );
    handle.stop().await;
    let _ = agents.client.disconnect().await;
    let arming = world
        .deps
        .decisions
        .latest(50, |d| d.kind == DecisionKind::Arming);
    // Armed, in charge, disarmed.
    assert_eq!(arming.len(), 3);
    let refused = world
        .deps
        .decisions
        .latest(50, |d| d.kind == DecisionKind::Refusal);
    assert!(refused.is_empty(), "{refused:?}");
}

/// Armed where all devices are found at 700 W, at a site of this text: the
/// lowest cap ever sent to a job's device, the lowest decided in the end, and
/// what is in the log: decisions newest first, and what came of replaying them.
async fn found_at_full_power(text: &str) -> Option<(Watts, Watts, Vec<Decision>, Replayed)> {
    let broker = Mosquitto::start()?;
    let site = load("test.toml", text, LoadOptions::default())
        .site
        .unwrap();
    let world = LoopWorld::new(Arc::new(site));
    world.run_job("train-1", 0..96, START);
    world.run_job("train-2", 96..256, START);
    let agents = Agents::start(&world.site, broker.1, Watts(700.0)).await;
    let mut config = world.config(broker.1, true);
    config.mqtt.credentials = Some(Credentials {
        user: USER.0.to_owned(),
        password: USER.1.to_owned(),
    });
    let handle = Controller::start(config, world.deps.clone()).unwrap();
    let mut view = handle.view();
    let view = until(&mut view, "caps in force", |v| {
        v.mode == ControlMode::Armed && settled(v) && v.troubles.is_empty()
    })
    .await;
    handle.stop().await;
    let _ = agents.client.disconnect().await;
    let lowest = |caps: &mut dyn Iterator<Item = Watts>| caps.fold(Watts(1e9), Watts::min);
    let commands = agents.commands.lock().unwrap();
    let sent = lowest(&mut commands.iter().flat_map(|c| &c.leases).map(|l| l.cap));
    let decided = lowest(&mut view.caps.values().map(|c| c.decided));
    let decisions = (world.deps.decisions).latest(50, |_| true);
    let replayed = replay_day(world.directory.path(), START).unwrap();
    Some((sent, decided, decisions, replayed))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn load_comes_off_at_once_where_a_breaker_would_not_bear_the_way() {
    let curve = "trip_curve = [[1.05, 3600], [1.25, 120], [1.5, 50], [2.0, 20]]\n";
    let demo = builtin_demo();
    assert_eq!(demo.matches(curve).count(), 2);
    // 1.12 times a UPS's rating until caps are lowered: borne for two minutes...
    let Some((sent, decided, decisions, replayed)) = found_at_full_power(demo).await else {
        return;
    };
    assert!(
        sent >= decided - Watts(0.01) && decided > Watts(300.0),
        "{sent} {decided}"
    );
    assert!(decisions.iter().all(|d| d.kind != DecisionKind::Relief));
    assert_eq!((replayed.reliefs.decisions, replayed.is_sound()), (0, true));
    // ... and by the standard's promise for a second.
    let (sent, decided, decisions, replayed) =
        found_at_full_power(&demo.replace(curve, "")).await.unwrap();
    assert!(
        sent == Watts(200.0) && decided > Watts(300.0),
        "{sent} {decided}"
    );
    let reliefs: Vec<&Decision> = (decisions.iter().rev())
        .filter(|d| d.kind == DecisionKind::Relief)
        .collect();
    let (first, last) = (reliefs.first().unwrap(), reliefs.last().unwrap());
    assert!(
        first.armed
            && first
                .summary
                .contains("taken off at once below `ups-a`, `ups-b`")
    );
    assert!(last.caps.is_empty() && last.summary.contains("no longer taken off"));
    // Every job's cap says for which breaker's sake it is what it is.
    assert_eq!(first.caps.len(), 2);
    for cap in &first.caps {
        let breaker = cap.binding.as_ref().unwrap();
        assert!(["ups-a", "ups-b"].contains(&breaker.as_str()), "{breaker}");
        assert!(cap.reason.contains(breaker.as_str()), "{}", cap.reason);
        assert!(
            cap.reason.contains("surely bears that for 1.0 s"),
            "{}",
            cap.reason
        );
        assert!(cap.reason.contains("; the service level"), "{}", cap.reason);
        assert_eq!(cap.cap, Watts(200.0));
    }
    // The last word on every cap is an allocation's again.
    let latest = decisions.iter().find(|d| !d.caps.is_empty()).unwrap();
    assert_eq!(latest.kind, DecisionKind::Allocation);
    assert!(latest.sequence > last.sequence);
    assert!(
        decisions
            .iter()
            .all(|d| d.kind != DecisionKind::Incident || !d.summary.contains("taken off"))
    );
    assert!(replayed.is_sound(), "{:?}", replayed.differing);
    assert_eq!(replayed.reliefs.decisions, reliefs.len() as u64);
    assert_eq!(replayed.reliefs.same, replayed.reliefs.decisions);
    assert_eq!(replayed.same, replayed.allocations);
}
