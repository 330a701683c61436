//! Leases from the wire to the device and back.

use crate::ingest::client;
use crate::stage::{START, Stage, Wire, until};
use heliostat_collector::{Agent, AgentHandle, CapActuator, CapError};
use heliostat_models::lease::{
    AgentHello, CapAnswer, CapCommand, CapLease, CapOutcome, CappableDevice,
};
use heliostat_models::signed::{self, SigningKey};
use heliostat_models::wire::Topics;
use heliostat_models::{DeviceId, Watts};
use heliostat_store::Clock;
use rumqttc::QoS;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// One device whose limit is a file, so that it outlives the agent.
pub struct FileDevice {
    pub device: DeviceId,
    pub file: PathBuf,
}

impl FileDevice {
    pub fn boxed(device: DeviceId, file: &Path) -> Box<dyn CapActuator> {
        if !file.exists() {
            std::fs::write(file, "700").unwrap();
        }
        Box::new(Self {
            device,
            file: file.to_owned(),
        })
    }
}

impl CapActuator for FileDevice {
    fn devices(&mut self) -> Vec<CappableDevice> {
        let limit = Watts(limit(&self.file));
        vec![CappableDevice {
            device: self.device.clone(),
            uuid: "GPU-1".into(),
            product: "Test".into(),
            min: Watts(200.0),
            max: Watts(700.0),
            found: limit,
            current: limit,
        }]
    }
    fn set(&mut self, device: &DeviceId, _: &str, cap: Watts) -> Result<Watts, CapError> {
        std::fs::write(&self.file, cap.0.to_string()).unwrap();
        self.current(device)
    }
    fn current(&mut self, _: &DeviceId) -> Result<Watts, CapError> {
        Ok(Watts(limit(&self.file)))
    }
}

pub fn limit(file: &Path) -> f64 {
    std::fs::read_to_string(file).unwrap().parse().unwrap()
}

pub async fn next<T: DeserializeOwned>(messages: &mut mpsc::UnboundedReceiver<Vec<u8>>) -> T {
    let bytes = tokio::time::timeout(Duration::from_secs(10), messages.recv()).await;
    serde_json::from_slice(&bytes.expect("no message came").unwrap()).unwrap()
}

pub fn command(device: &DeviceId, sequence: u64, cap: f64) -> Vec<u8> {
    let command = CapCommand {
        sequence,
        fence: 0,
        controller: "run-1".into(),
        issued: START,
        expires: START + Duration::from_secs(30),
        leases: vec![CapLease {
            device: device.clone(),
            uuid: "GPU-1".into(),
            cap: Watts(cap),
            safe_cap: Watts(350.0),
        }],
    };
    serde_json::to_vec(&command).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_applied_ends_in_the_safe_cap_and_is_undone_at_the_stop() {
    let mut stage = Stage::new();
    let wire = Wire::new().await;
    wire.mend();
    let (node, gpu) = (stage.node(), stage.gpu(0));
    let file = stage.dir.path().join("limit");
    let topics = Topics::new(&stage.site.id);
    let (executor, mut answers) = client(wire.address, "executor", topics.applied(&node)).await;
    let agent = stage.agent(wire.address, Some(FileDevice::boxed(gpu.clone(), &file)));
    until("the agent is connected", || agent.stats().connected).await;
    executor
        .publish(
            topics.caps(&node),
            QoS::AtLeastOnce,
            false,
            command(&gpu, 1, 500.0),
        )
        .await
        .unwrap();
    let answer: CapAnswer = next(&mut answers).await;
    assert_eq!(
        (answer.sequence, answer.controller.as_deref()),
        (Some(1), Some("run-1"))
    );
    assert_eq!(
        answer.reports[0].outcome,
        CapOutcome::Applied {
            readback: Watts(500.0)
        }
    );
    assert_eq!(limit(&file), 500.0);
    // Renewals stop: 30 s later the safe cap holds.
    stage.walk(&agent, 2).await;
    assert_eq!(limit(&file), 500.0);
    stage.walk(&agent, 1).await;
    let answer: CapAnswer = next(&mut answers).await;
    assert_eq!((answer.sequence, limit(&file)), (None, 350.0));
    // A hello is kept by the broker for whoever comes later.
    let (_late, mut hellos) = client(wire.address, "late", topics.hello(&node)).await;
    let hello: AgentHello = next(&mut hellos).await;
    assert_eq!((hello.agent, hello.devices[0].found), (node, Watts(700.0)));
    let stats = agent.stop().await;
    assert_eq!(limit(&file), 700.0);
    assert_eq!(
        (
            stats.caps.applied,
            stats.caps.safe_caps_set,
            stats.caps.restored
        ),
        (1, 1, 1)
    );
}

/// An agent with a lease of `cap`, whose hellos and answers are heard.
struct Leased {
    stage: Stage,
    wire: Wire,
    file: PathBuf,
    executor: rumqttc::AsyncClient,
    _view: rumqttc::AsyncClient,
    answers: mpsc::UnboundedReceiver<Vec<u8>>,
    hellos: mpsc::UnboundedReceiver<Vec<u8>>,
}

impl Leased {
    async fn new(cap: f64) -> (Self, AgentHandle) {
        let stage = Stage::new();
        let wire = Wire::new().await;
        wire.mend();
        let (node, gpu) = (stage.node(), stage.gpu(0));
        let file = stage.dir.path().join("limit");
        let topics = Topics::new(&stage.site.id);
        let (executor, answers) = client(wire.address, "executor", topics.applied(&node)).await;
        let (view, hellos) = client(wire.address, "view", topics.hello(&node)).await;
        let agent = stage.agent(wire.address, Some(FileDevice::boxed(gpu, &file)));
        until("the agent is connected", || agent.stats().connected).await;
        let mut leased = Self {
            stage,
            wire,
            file,
            executor,
            _view: view,
            answers,
            hellos,
        };
        leased.order(1, cap).await;
        let answer: CapAnswer = next(&mut leased.answers).await;
        assert_eq!((answer.sequence, limit(&leased.file)), (Some(1), cap));
        (leased, agent)
    }

    async fn order(&self, sequence: u64, cap: f64) {
        let topic = Topics::new(&self.stage.site.id).caps(&self.stage.node());
        let order = command(&self.stage.gpu(0), sequence, cap);
        let sent = self.executor.publish(topic, QoS::AtLeastOnce, false, order);
        sent.await.unwrap();
    }

    async fn hello_with(&mut self, so: impl Fn(&AgentHello) -> bool) -> AgentHello {
        loop {
            let hello: AgentHello = next(&mut self.hellos).await;
            if so(&hello) {
                return hello;
            }
        }
    }

    fn again(&self) -> AgentHandle {
        let devices = FileDevice::boxed(self.stage.gpu(0), &self.file);
        self.stage.agent(self.wire.address, Some(devices))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_started_twice_is_refused_over_one_directory_and_told_of_over_two() {
    let (leased, agent) = Leased::new(500.0).await;
    let (stage, devices) = (&leased.stage, || {
        FileDevice::boxed(leased.stage.gpu(0), &leased.file)
    });
    let mut config = stage.config(leased.wire.address);
    let clock = Arc::clone(&stage.clock) as Arc<dyn Clock>;
    let refused = Agent::start(config.clone(), Vec::new(), Some(devices()), clock);
    let text = refused.err().unwrap().to_string();
    assert!(text.contains("a node has one agent"), "{text}");
    // Over another directory it cannot know; the broker keeps one connection of a name.
    config.spool_dir = stage.dir.path().join("another");
    let second = stage.agent_with(config, Some(devices()));
    until("one of them is told", || {
        agent.stats().doubled + second.stats().doubled > 0
    })
    .await;
    assert!(limit(&leased.file) <= 500.0);
    second.kill().await;
    until("the first has its connection", || agent.stats().connected).await;
    leased.order(2, 450.0).await;
    until("it obeys", || limit(&leased.file) == 450.0).await;
    agent.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_the_safe_cap_holds_and_a_stop_restores() {
    let (leased, agent) = Leased::new(500.0).await;
    agent.kill().await;
    assert_eq!(limit(&leased.file), 500.0);
    let agent = leased.again();
    assert_eq!(limit(&leased.file), 350.0);
    until("the agent is connected", || agent.stats().connected).await;
    let stats = agent.stop().await;
    assert_eq!((limit(&leased.file), stats.caps.restored), (700.0, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_do_to_limits_is_read_back_at_every_sample_and_told() {
    let (mut leased, agent) = Leased::new(500.0).await;
    // A reset: the limit is back at its default.
    std::fs::write(&leased.file, "700").unwrap();
    leased.stage.walk(&agent, 1).await;
    let answer: CapAnswer = next(&mut leased.answers).await;
    let readback = Watts(500.0);
    assert_eq!((answer.sequence, limit(&leased.file)), (None, 500.0));
    assert_eq!(answer.reports[0].outcome, CapOutcome::Applied { readback });
    // Somebody lowers it: that is left, and no more can be set.
    std::fs::write(&leased.file, "310").unwrap();
    leased.stage.walk(&agent, 1).await;
    let answer: CapAnswer = next(&mut leased.answers).await;
    let readback = Watts(310.0);
    assert_eq!(answer.reports[0].outcome, CapOutcome::Applied { readback });
    let hello = leased.hello_with(|h| h.foreign.changes == 2).await;
    assert_eq!(hello.devices[0].max, Watts(310.0));
    assert_eq!((hello.foreign.corrected, hello.foreign.notes.len()), (1, 1));
    let stats = agent.stats().caps;
    assert_eq!((stats.foreign_seen, stats.reverts_corrected), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_a_lease_waits_for_room_and_then_restores() {
    let (mut leased, agent) = Leased::new(500.0).await;
    let stopping = tokio::spawn(agent.stop());
    let hello = leased.hello_with(|h| h.leaving).await;
    assert_eq!(
        hello.devices[0].current,
        Watts(500.0),
        "nothing is raised yet"
    );
    leased.order(2, 600.0).await;
    leased.order(3, 700.0).await;
    let stats = stopping.await.unwrap();
    assert_eq!((limit(&leased.file), stats.caps.restored), (700.0, 1));
    let last = leased.hello_with(|h| !h.leaving && h.devices[0].current == Watts(700.0));
    assert_eq!(last.await.devices[0].found, Watts(700.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_minutes_ahead_neither_refuses_nor_shortens_a_lease() {
    let mut stage = Stage::new();
    let ahead = Duration::from_secs(300);
    stage.now = START + ahead;
    stage.clock.advance_to(stage.now);
    let wire = Wire::new().await;
    wire.mend();
    let (node, gpu) = (stage.node(), stage.gpu(0));
    let file = stage.dir.path().join("limit");
    let topics = Topics::new(&stage.site.id);
    let (executor, mut answers) = client(wire.address, "executor", topics.applied(&node)).await;
    let agent = stage.agent(wire.address, Some(FileDevice::boxed(gpu.clone(), &file)));
    until("the agent is connected", || agent.stats().connected).await;
    // Issued at START, for 30 s.
    let order = command(&gpu, 1, 500.0);
    let sent = executor.publish(topics.caps(&node), QoS::AtLeastOnce, false, order);
    sent.await.unwrap();
    let answer: CapAnswer = next(&mut answers).await;
    assert_eq!((answer.at, limit(&file)), (START + ahead, 500.0));
    stage.walk(&agent, 2).await;
    assert_eq!(limit(&file), 500.0);
    stage.walk(&agent, 1).await;
    let answer: CapAnswer = next(&mut answers).await;
    assert_eq!((answer.sequence, limit(&file)), (None, 350.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_key_only_what_is_signed_for_this_agent_is_obeyed() {
    let stage = Stage::new();
    let wire = Wire::new().await;
    wire.mend();
    let (node, gpu) = (stage.node(), stage.gpu(0));
    let file = stage.dir.path().join("limit");
    let topics = Topics::new(&stage.site.id);
    let topic = topics.caps(&node);
    let applied = topics.applied(&node);
    let (executor, mut answers) = client(wire.address, "executor", applied.clone()).await;
    let key = SigningKey::new("a secret of the site").unwrap();
    let other = SigningKey::new("a secret of another").unwrap();
    let mut config = stage.config(wire.address);
    config.mqtt.key = Some(key.clone());
    let agent = stage.agent_with(config, Some(FileDevice::boxed(gpu.clone(), &file)));
    until("the agent is connected", || agent.stats().connected).await;
    let order = |sequence, cap| command(&gpu, sequence, cap);
    for (place, payload) in [
        order(1, 210.0),
        signed::seal(Some(&other), &topic, order(2, 220.0)),
        signed::seal(Some(&key), "heliostat/v1/x/caps/another", order(3, 230.0)),
        signed::seal(Some(&key), &topic, order(4, 500.0)),
    ]
    .into_iter()
    .enumerate()
    {
        let sent = executor.publish(&topic, QoS::AtLeastOnce, false, payload);
        sent.await.unwrap();
        let refused = (place as u64 + 1).min(3);
        until("it is counted", || agent.stats().caps_unsigned == refused).await;
    }
    let bytes = tokio::time::timeout(Duration::from_secs(10), answers.recv()).await;
    let bytes = bytes.unwrap().unwrap();
    let content = signed::open(Some(&key), &applied, &bytes).unwrap();
    let answer: CapAnswer = serde_json::from_slice(content).unwrap();
    assert_eq!((answer.sequence, limit(&file)), (Some(4), 500.0));
    assert_eq!(agent.stats().caps.commands, 1);
}
