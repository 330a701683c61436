//! No sample is lost and none is doubled, whatever is stopped and started.

use crate::stage::{OneGpu, START, Stage, Wire, until};
use heliostat_collector::{Agent, AgentHandle, ErrorClass, Source, SourceError};
use heliostat_models::{Frame, Timestamp};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

async fn all_acknowledged(agent: &AgentHandle) {
    until("everything is acknowledged", || {
        let stats = agent.stats();
        stats.samples_acknowledged == stats.samples_taken + stats.samples_found
            && stats.batches_waiting == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_once() {
    let mut stage = Stage::new();
    let wire = Wire::new().await;
    wire.mend();
    let ingest = stage.ingest(wire.address);
    until("ingest is connected", || ingest.stats().connected).await;
    let agent = stage.agent(wire.address, None);
    stage.walk(&agent, 100).await;
    all_acknowledged(&agent).await;
    let (stats, stored) = (agent.stats(), ingest.stats());
    assert_eq!(stage.stored(), 101);
    assert_eq!((stats.samples_taken, stored.samples_stored), (202, 202));
    assert_eq!(
        (
            stored.samples_refused(),
            stored.duplicates,
            stats.instants_missed
        ),
        (0, 0, 0)
    );
    assert!(stored.agents.contains_key(&stage.node()));
    agent.stop().await;
    ingest.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_empty_costs_nothing() {
    let mut stage = Stage::new();
    let wire = Wire::new().await;
    wire.mend();
    let ingest = stage.ingest(wire.address);
    let agent = stage.agent(wire.address, None);
    stage.walk(&agent, 20).await;
    wire.cut();
    until("the agent notices", || !agent.stats().connected).await;
    stage.walk(&agent, 20).await;
    assert!(agent.stats().batches_waiting >= 20);
    wire.mend();
    stage.walk(&agent, 20).await;
    all_acknowledged(&agent).await;
    assert_eq!(stage.stored(), 61);
    assert_eq!(ingest.stats().samples_stored, 122);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ingest_that_dies_and_returns_costs_nothing() {
    let mut stage = Stage::new();
    let wire = Wire::new().await;
    wire.mend();
    let first = stage.ingest(wire.address);
    let agent = stage.agent(wire.address, None);
    stage.walk(&agent, 10).await;
    drop(first);
    stage.walk(&agent, 10).await;
    let second = stage.ingest(wire.address);
    until("ingest is connected", || second.stats().connected).await;
    stage.walk(&agent, 10).await;
    all_acknowledged(&agent).await;
    assert_eq!(stage.stored(), 31);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_delivers_after_its_restart() {
    let mut stage = Stage::new();
    let wire = Wire::new().await;
    let agent = stage.agent(wire.address, None);
    stage.walk(&agent, 30).await;
    let taken = agent.stats().samples_taken;
    agent.kill().await;
    wire.mend();
    let ingest = stage.ingest(wire.address);
    until("ingest is connected", || ingest.stats().connected).await;
    stage.now = stage.now + Duration::from_secs(10);
    stage.clock.advance_to(stage.now);
    let agent = stage.agent(wire.address, None);
    assert_eq!(agent.stats().samples_found, taken);
    stage.walk(&agent, 10).await;
    all_acknowledged(&agent).await;
    assert_eq!(stage.stored(), 42);
    // The sequences skip after a crash; that must not cost a wait for silence.
    assert_eq!(agent.stats().resends, 0);
    let stats = agent.stop().await;
    assert_eq!(stats.batches_waiting, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_of_the_store_is_waited_out() {
    let mut stage = Stage::new();
    let wire = Wire::new().await;
    wire.mend();
    let ingest = stage.ingest(wire.address);
    until("ingest is connected", || ingest.stats().connected).await;
    let agent = stage.agent(wire.address, None);
    stage.store.full.store(true, Ordering::SeqCst);
    stage.walk(&agent, 20).await;
    until("the store fails", || ingest.stats().store_failures > 0).await;
    assert_eq!(agent.stats().samples_acknowledged, 0);
    assert!(ingest.stats().store_trouble.is_some());
    stage.store.full.store(false, Ordering::SeqCst);
    all_acknowledged(&agent).await;
    assert_eq!(stage.stored(), 21);
    assert_eq!(ingest.stats().store_trouble, None);
}

/// A source that hangs until it is let go.
struct Hanging {
    inner: OneGpu,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Source for Hanging {
    fn name(&self) -> &str {
        "slow"
    }
    fn sample(&mut self, at: Timestamp) -> Result<Vec<Frame>, SourceError> {
        let (open, bell) = &*self.gate;
        let _open = bell
            .wait_while(open.lock().unwrap(), |open| !*open)
            .unwrap();
        self.inner.sample(at)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_hangs_delays_nobody_and_is_counted() {
    let stage = Stage::new();
    let wire = Wire::new().await;
    wire.mend();
    let ingest = stage.ingest(wire.address);
    until("ingest is connected", || ingest.stats().connected).await;
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let fast = OneGpu {
        name: "fast".into(),
        device: stage.gpu(0),
    };
    let slow = Hanging {
        inner: OneGpu {
            name: String::new(),
            device: stage.gpu(1),
        },
        gate: Arc::clone(&gate),
    };
    let agent = Agent::start(
        stage.config(wire.address),
        vec![Box::new(slow), Box::new(fast)],
        None,
        stage.clock.clone(),
    )
    .unwrap();
    // The first instant is not over, yet the fast one's sample is on its way.
    until("the fast one's first sample is stored", || {
        stage.stored() == 1
    })
    .await;
    assert!(agent.sampled_until() < START);
    for step in 1..=5 {
        stage
            .clock
            .advance_to(START + Duration::from_secs(10 * step));
        until("the fast one goes on", || stage.stored() as u64 == step + 1).await;
    }
    agent
        .wait_sampled_until(START + Duration::from_secs(50))
        .await;
    let stats = agent.stats();
    assert_eq!(
        (stats.sources["slow"].skipped, stats.sources["slow"].samples),
        (6, 0)
    );
    assert_eq!(stats.sources["fast"].skipped, 0);
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    until("the slow one is heard again", || {
        // Its late answer to the first instant is not used.
        let next = stage.clock_now() + Duration::from_secs(10);
        stage.clock.advance_to(next);
        agent.stats().sources["slow"].samples > 0
    })
    .await;
    let frames = stage.store.frames.lock().unwrap();
    assert!(!frames.contains_key(&(stage.gpu(1), START)));
}

/// Fails in a given way at every instant.
struct Failing(ErrorClass);

impl Source for Failing {
    fn name(&self) -> &str {
        "failing"
    }
    fn sample(&mut self, _: Timestamp) -> Result<Vec<Frame>, SourceError> {
        if self.0 == ErrorClass::Fatal {
            panic!("as sources should not");
        }
        Err(SourceError::new(self.0, "no answer"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_class_of_an_error_tells_what_happens() {
    for (class, errors, stopped) in [
        (ErrorClass::Retry, 11, false),
        // Asked at instants 1, 2, 5, 12 ...: it rests 0, 2, 6 instants.
        (ErrorClass::Reconnect, 3, false),
        (ErrorClass::Gone, 0, true),
        (ErrorClass::Fatal, 1, true),
    ] {
        let mut stage = Stage::new();
        let wire = Wire::new().await;
        let sources: Vec<Box<dyn Source>> = vec![Box::new(Failing(class))];
        let agent = Agent::start(
            stage.config(wire.address),
            sources,
            None,
            stage.clock.clone(),
        )
        .unwrap();
        stage.walk(&agent, 10).await;
        let failing = agent.stats().sources["failing"].clone();
        assert_eq!(
            (failing.errors, failing.stopped.is_some()),
            (errors, stopped),
            "{class:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instants_that_the_clock_leaps_over_are_counted() {
    let mut stage = Stage::new();
    let wire = Wire::new().await;
    let agent = stage.agent(wire.address, None);
    stage.walk(&agent, 1).await;
    stage.now = stage.now + Duration::from_secs(50);
    stage.clock.advance_to(stage.now);
    agent.wait_sampled_until(stage.now).await;
    assert_eq!(agent.stats().instants_missed, 4);
    assert_eq!(agent.stats().samples_taken, 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_drops_new_samples_and_says_so() {
    let mut stage = Stage::new();
    let wire = Wire::new().await;
    let mut config = stage.config(wire.address);
    config.spool_limit_bytes = 4_000;
    let source = OneGpu {
        name: "gpu".into(),
        device: stage.gpu(0),
    };
    let agent = Agent::start(config, vec![Box::new(source)], None, stage.clock.clone()).unwrap();
    stage.walk(&agent, 100).await;
    let stats = agent.stats();
    assert!(stats.samples_dropped["spool full"] > 0);
    assert!(stats.spool_bytes <= 4_000);
    // What was kept is the oldest, and it is delivered.
    let kept = stats.samples_taken - stats.dropped();
    wire.mend();
    let ingest = stage.ingest(wire.address);
    until("what was kept is stored", || {
        ingest.stats().samples_stored == kept
    })
    .await;
    assert!(
        stage
            .store
            .frames
            .lock()
            .unwrap()
            .contains_key(&(stage.gpu(0), START))
    );
}
