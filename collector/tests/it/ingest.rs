//! What ingest takes, refuses, counts and hides.

use crate::stage::{START, Stage, Wire, until};
use heliostat_collector::mqtt::MqttConfig;
use heliostat_models::signed::{self, SigningKey};
use heliostat_models::wire::{Ack, FrameBatch, Topics};
use heliostat_models::{
    AgentId, Catalogue, DeviceId, Frame, JobClass, JobId, JobRecord, JobState, Reading, SpeedCurve,
    Timestamp, Watts,
};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;

/// A bare client that hands out every message on a topic.
pub async fn client(
    broker: SocketAddr,
    name: &str,
    topic: String,
) -> (AsyncClient, mpsc::UnboundedReceiver<Vec<u8>>) {
    let mut options = MqttOptions::new(name, broker.ip().to_string(), broker.port());
    options.set_max_packet_size(2 << 20, 2 << 20);
    let (client, mut eventloop) = AsyncClient::new(options, 100);
    let (tell, messages) = mpsc::unbounded_channel();
    let (subscribed, confirmed) = tokio::sync::oneshot::channel();
    client.subscribe(topic, QoS::AtLeastOnce).await.unwrap();
    tokio::spawn(async move {
        let mut subscribed = Some(subscribed);
        while let Ok(event) = eventloop.poll().await {
            match event {
                Event::Incoming(Incoming::Publish(publish)) => {
                    let _ = tell.send(publish.payload.to_vec());
                }
                Event::Incoming(Incoming::SubAck(_)) => {
                    if let Some(subscribed) = subscribed.take() {
                        let _ = subscribed.send(());
                    }
                }
                _ => {}
            }
        }
    });
    confirmed.await.unwrap();
    (client, messages)
}

fn frame(device: &DeviceId, at: Timestamp, power: f64) -> Frame {
    Frame {
        device: device.clone(),
        at,
        readings: vec![
            (Catalogue::gpu_power(), Reading::Measured(power)),
            (Catalogue::gpu_temperature(), Reading::Measured(50.0)),
        ],
    }
}

fn throughput(job: &JobId, at: Timestamp, rate: f64) -> Frame {
    Frame {
        device: job.source(),
        at,
        readings: vec![(Catalogue::job_throughput(), Reading::Measured(rate))],
    }
}

fn batch(agent: &AgentId, sequence: u64, frames: Vec<Frame>) -> Vec<u8> {
    let batch = FrameBatch {
        agent: agent.clone(),
        sequence,
        frames,
    };
    batch.encode(Catalogue::builtin()).unwrap()
}

async fn ack(acks: &mut mpsc::UnboundedReceiver<Vec<u8>>, expected: u64) {
    loop {
        let bytes = tokio::time::timeout(Duration::from_secs(10), acks.recv()).await;
        let bytes = bytes
            .unwrap_or_else(|_| panic!("no acknowledgement of {expected}"))
            .unwrap();
        let ack: Ack = serde_json::from_slice(&bytes).unwrap();
        assert!(
            ack.sequence <= expected,
            "{ack:?} before {expected} was sent"
        );
        if ack.sequence == expected {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_what_cannot_be_counts_it_and_goes_on() {
    let stage = Stage::new();
    let wire = Wire::new().await;
    wire.mend();
    let ingest = stage.ingest(wire.address);
    until("ingest is connected", || ingest.stats().connected).await;
    let (node, gpu) = (stage.node(), stage.gpu(0));
    let topics = Topics::new(&stage.site.id);
    let (client, mut acks) = client(wire.address, "probe", topics.acks(&node)).await;
    let send = async |payload: Vec<u8>| {
        client
            .publish(topics.frames(&node), QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
    };
    // Without a marker nothing is acknowledged, though it is stored.
    send(batch(&node, 8, vec![frame(&gpu, START, 300.0)])).await;
    until("it is stored", || stage.stored() == 1).await;
    assert!(acks.try_recv().is_err());
    send(batch(&node, 7, Vec::new())).await;
    ack(&mut acks, 7).await;
    // Delivered twice: stored once, acknowledged.
    send(batch(&node, 8, vec![frame(&gpu, START, 300.0)])).await;
    ack(&mut acks, 8).await;
    assert_eq!(ingest.stats().duplicates, 2);
    // One sound frame among all that is wrong.
    let other_node = stage.site.nodes[1].id.clone();
    let other_gpu = stage.site.devices[stage.site.nodes[1].devices.start]
        .id
        .clone();
    let later = START + Duration::from_secs(1);
    let twice = Frame {
        readings: [
            frame(&gpu, later, 1.0).readings,
            frame(&gpu, later, 2.0).readings,
        ]
        .concat(),
        ..frame(&gpu, later, 0.0)
    };
    send(batch(
        &node,
        9,
        vec![
            twice,
            frame(&gpu, START + Duration::from_secs(2), 9e9),
            frame(&gpu, START + Duration::from_secs(3), f64::NAN),
            frame(&DeviceId::from("nobody"), later, 300.0),
            frame(&other_gpu, later, 300.0),
            frame(&DeviceId::from(other_node.as_str()), later, 300.0),
            frame(&stage.site.meters[0].id, later, 300.0),
            frame(&gpu, Timestamp(0), 300.0),
            frame(&gpu, START + Duration::from_secs(601), 300.0),
            // Of a job nothing but its throughput.
            frame(&JobId::from("4711").source(), later, 300.0),
            throughput(&JobId::from("4711"), later, 12.5),
        ],
    ))
    .await;
    ack(&mut acks, 9).await;
    let refused = ingest.stats().refused;
    let count = |reason: &str| refused.get(reason).copied().unwrap_or(0);
    assert_eq!(count("gpu_power_watts: out of range"), 1, "{refused:?}");
    assert_eq!(count("gpu_power_watts: not finite"), 1);
    assert_eq!(count("gpu_power_watts: stands twice in a frame"), 1);
    assert_eq!(count("unknown device"), 2);
    assert_eq!(count("a node's agent speaks for what is not the node's"), 8);
    assert_eq!(count("time before 2000"), 2);
    assert_eq!(count("time more than 10 min ahead"), 2);
    // The temperatures of the two frames with a bad power were kept, and what the job said.
    assert_eq!(stage.stored(), 5);
    // Noise is counted and does not hold up the queue.
    let mut damaged = batch(&node, 10, vec![frame(&gpu, later, 1.0)]);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x55;
    send(damaged).await;
    send(b"noise".to_vec()).await;
    send(batch(
        &node,
        11,
        vec![frame(&gpu, START + Duration::from_secs(9), 300.0)],
    ))
    .await;
    ack(&mut acks, 11).await;
    assert_eq!(ingest.stats().batches_unreadable, 2);
    // Another name in the batch than in the topic.
    send(batch(
        &AgentId::from("somebody"),
        12,
        vec![frame(&gpu, START + Duration::from_secs(10), 300.0)],
    ))
    .await;
    ack(&mut acks, 12).await;
    assert_eq!(ingest.stats().refused["sent on another agent's topic"], 2);
    assert_eq!(stage.stored(), 6);
}

fn record(id: &str, owner: &str) -> JobRecord {
    JobRecord {
        id: JobId::from(id),
        class: JobClass::Training,
        owner: owner.into(),
        gang_size: 8,
        remaining_hours: 3.0,
        total_hours: 5.0,
        release: START,
        deadline: None,
        state: JobState::Queued,
        devices: Vec::new(),
        curve: SpeedCurve::envelope(&[(Watts(200.0), 0.5), (Watts(700.0), 1.0)]).unwrap(),
        started: None,
        ended: None,
        at: START,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_key_only_signed_job_records_are_taken() {
    let stage = Stage::new();
    let wire = Wire::new().await;
    wire.mend();
    let key = SigningKey::new("a secret of the site").unwrap();
    let mut mqtt = MqttConfig::from(wire.address);
    mqtt.key = Some(key.clone());
    let ingest = stage.ingest_with(mqtt);
    until("ingest is connected", || ingest.stats().connected).await;
    let topics = Topics::new(&stage.site.id);
    let (client, _messages) = client(wire.address, "scheduler", topics.orders()).await;
    let other = SigningKey::new("a secret of another").unwrap();
    let bytes = |id: &str| serde_json::to_vec(&record(id, "ada")).unwrap();
    for payload in [
        bytes("1"),
        signed::seal(Some(&other), &topics.jobs(), bytes("2")),
        signed::seal(Some(&key), &topics.orders(), bytes("3")),
        signed::seal(Some(&key), &topics.jobs(), bytes("4")),
    ] {
        let sent = client.publish(topics.jobs(), QoS::AtLeastOnce, false, payload);
        sent.await.unwrap();
    }
    until("all records are handled", || {
        let stats = ingest.stats();
        (stats.jobs_stored, stats.jobs_unsigned) == (1, 3)
    })
    .await;
    assert_eq!(stage.jobs.all()[0].record.id, JobId::from("4"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_ran_a_job_is_nowhere_to_be_found() {
    let stage = Stage::new();
    let wire = Wire::new().await;
    wire.mend();
    let ingest = stage.ingest(wire.address);
    until("ingest is connected", || ingest.stats().connected).await;
    let topics = Topics::new(&stage.site.id);
    let (client, _messages) = client(wire.address, "scheduler", topics.orders()).await;
    let secret = "grace.hopper";
    let mut bad_id = record("4", secret);
    bad_id.id = JobId::from(format!("/home/{secret}"));
    let mut steep = record("6", secret);
    steep.curve = serde_json::from_str("[[200,0.1],[700,1e308]]").unwrap();
    let mut endless = record("7", secret);
    endless.remaining_hours = 1e300;
    let broken = format!("{{\"id\": \"5\", \"owner\": \"{secret}\", \"class\": \"{secret}\"}}");
    let records = [
        record("1", secret),
        record("2", secret),
        record("3", "ada"),
        bad_id,
        steep,
        endless,
    ];
    for payload in records
        .iter()
        .map(|r| serde_json::to_vec(r).unwrap())
        .chain([broken.into_bytes()])
    {
        client
            .publish(topics.jobs(), QoS::AtLeastOnce, false, payload)
            .await
            .unwrap();
    }
    until("all records are handled", || {
        let stats = ingest.stats();
        (stats.jobs_stored, stats.jobs_refused) == (3, 4)
    })
    .await;
    let owner = |id: &str| stage.jobs.get(&JobId::from(id)).unwrap().record.owner;
    assert_eq!(owner("1"), owner("2"));
    assert_ne!(owner("1"), owner("3"));
    assert_eq!(owner("1").len(), 32);
    ingest.stop().await;
    let mut looked_at = 0;
    for entry in std::fs::read_dir(stage.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            looked_at += 1;
            let content = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
            assert!(
                !content.contains(secret) && !content.contains("hopper"),
                "{}",
                path.display()
            );
        }
    }
    assert!(looked_at >= 2, "the key and the table of jobs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_and_a_gateway_may_speak_of_one_instant() {
    let stage = Stage::new();
    let wire = Wire::new().await;
    wire.mend();
    let ingest = stage.ingest(wire.address);
    until("ingest is connected", || ingest.stats().connected).await;
    let topics = Topics::new(&stage.site.id);
    let (node, gateway) = (stage.node(), AgentId::from("bmc-gateway"));
    let device = DeviceId::from(node.as_str());
    let of = |name: &str, value: f64| Frame {
        device: device.clone(),
        at: START,
        readings: vec![(
            Catalogue::builtin().id(name).unwrap(),
            Reading::Measured(value),
        )],
    };
    let (client, _) = client(wire.address, "probe", topics.acks(&node)).await;
    let memory = of("node_memory_used_bytes", 1e9);
    let power = of("node_power_watts", 900.0);
    // Each twice, as after a lost acknowledgement.
    for _ in 0..2 {
        for (agent, frame) in [(&node, &memory), (&gateway, &power)] {
            let payload = batch(agent, 1, vec![frame.clone()]);
            client
                .publish(topics.frames(agent), QoS::AtLeastOnce, false, payload)
                .await
                .unwrap();
        }
    }
    until("all four came", || ingest.stats().duplicates == 2).await;
    let mut stored: Vec<(Timestamp, Frame)> = (stage.store.frames.lock().unwrap().values())
        .map(|frame| (frame.at, frame.clone()))
        .collect();
    stored.sort_by_key(|(at, _)| *at);
    assert_eq!(stored.len(), 2, "{stored:?}");
    assert_eq!(stored[0], (START, memory));
    assert_eq!(stored[1].1.readings, power.readings);
    let behind = stored[1].0.0 - START.0;
    assert!((1..8).contains(&behind), "{behind} ms");
}
