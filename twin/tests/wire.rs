//! Sources and the scheduler bridge: what the hall says to collectors and on MQTT.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test's helpers fail by unwrapping, and it prints what it measured or why it was skipped"
)]

use heliostat_collector::{Broker, Source};
use heliostat_models::gpu::WorkloadFamily;
use heliostat_models::job::JobOrder;
use heliostat_models::site::config::{self, LoadOptions};
use heliostat_models::wire::{JobOrders, Topics};
use heliostat_models::{
    Catalogue, JobClass, JobId, JobRecord, JobState, NodeId, Quality, Timestamp, Watts,
};
use heliostat_twin::{
    CapSource, FacilitySource, Hall, HallConfig, JobSpec, NodeSensorSource, SchedulerBridge,
};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const START: Timestamp = Timestamp(1_530_000_000_000);

fn hall() -> Arc<Mutex<Hall>> {
    let loaded = config::load("demo.toml", config::builtin_demo(), LoadOptions::default());
    let site = Arc::new(loaded.site.unwrap());
    let caps = CapSource::Memory(vec![Watts(400.0); site.devices.len()]);
    Arc::new(Mutex::new(
        Hall::new(site, HallConfig::new(START, 7), caps).unwrap(),
    ))
}

fn training(id: &str) -> JobSpec {
    JobSpec {
        id: JobId::from(id),
        class: JobClass::Training,
        owner: "alice".into(),
        gang_size: 32,
        hours: 5.0,
        release: START,
        deadline: None,
        family: WorkloadFamily::LlmTraining,
    }
}

#[test]
fn frames_name_the_sites_devices_and_lie_within_the_catalogues_ranges() {
    let hall = hall();
    hall.lock().unwrap().submit(&training("a")).unwrap();
    let site = Arc::clone(hall.lock().unwrap().site());
    let mut facility = FacilitySource::new(Arc::clone(&hall));
    let mut node = NodeSensorSource::new(Arc::clone(&hall), &site.nodes[4].id).unwrap();
    assert!(NodeSensorSource::new(Arc::clone(&hall), &NodeId::from("nobody")).is_none());
    let mut last = vec![0.0; site.meters.len()];
    for minute in 1..=30u64 {
        let at = START + Duration::from_secs(60 * minute);
        hall.lock().unwrap().step(at);
        let frames = facility.sample(at).unwrap();
        assert_eq!(frames.len(), site.meters.len() + 1);
        for (meter, frame) in frames.iter().take(site.meters.len()).enumerate() {
            let energy = frame
                .get(Catalogue::meter_energy())
                .unwrap()
                .value()
                .unwrap();
            assert!(energy > last[meter], "{}", frame.device);
            last[meter] = energy;
        }
        let frames: Vec<_> = frames.into_iter().chain(node.sample(at).unwrap()).collect();
        for frame in &frames {
            assert!(site.entity(&frame.device).is_some(), "{}", frame.device);
            assert_eq!(frame.at, at);
            for (metric, reading) in &frame.readings {
                let (low, high) = Catalogue::builtin().metric(*metric).range;
                let value = reading.value().unwrap();
                assert!((low..=high).contains(&value), "{value}");
                assert_eq!(reading.quality(), Quality::Measured);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bridge_tells_of_jobs_and_obeys_orders() {
    let broker = Broker::start("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = broker.address();
    let hall = hall();
    let site = hall.lock().unwrap().site().id.clone();
    hall.lock().unwrap().submit(&training("a")).unwrap();
    let topics = Topics::new(&site);
    let mut options = MqttOptions::new("listener", address.ip().to_string(), address.port());
    options.set_keep_alive(Duration::from_secs(10));
    let (client, mut events) = AsyncClient::new(options, 100);
    client
        .subscribe(topics.jobs(), QoS::AtLeastOnce)
        .await
        .unwrap();
    // Only once the listener listens does the bridge start to speak.
    while !matches!(
        events.poll().await.unwrap(),
        Event::Incoming(Incoming::SubAck(_))
    ) {}
    let (found, mut records) = tokio::sync::mpsc::unbounded_channel::<JobRecord>();
    tokio::spawn(async move {
        while let Ok(event) = events.poll().await {
            if let Event::Incoming(Incoming::Publish(p)) = event {
                let _ = found.send(serde_json::from_slice(&p.payload).unwrap());
            }
        }
    });
    let bridge = SchedulerBridge::start(&address.into(), &site, Arc::clone(&hall)).unwrap();
    let mut wait_for = async |state: JobState| {
        tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                let record = records.recv().await.unwrap();
                assert_eq!((record.id.as_str(), record.owner.as_str()), ("a", "alice"));
                if record.state == state {
                    return record;
                }
            }
        })
        .await
        .unwrap()
    };
    assert!(wait_for(JobState::Queued).await.devices.is_empty());
    hall.lock().unwrap().step(START + Duration::from_secs(60));
    assert_eq!(wait_for(JobState::Running).await.devices.len(), 32);
    let orders = |order| JobOrders {
        issued: START,
        orders: vec![(JobId::from("a"), order), (JobId::from("nobody"), order)],
    };
    client
        .publish(topics.orders(), QoS::AtLeastOnce, false, "no orders at all")
        .await
        .unwrap();
    let hold = serde_json::to_vec(&orders(JobOrder::Hold)).unwrap();
    client
        .publish(topics.orders(), QoS::AtLeastOnce, false, hold)
        .await
        .unwrap();
    tokio::time::timeout(Duration::from_secs(20), async {
        while bridge.orders() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    hall.lock().unwrap().step(START + Duration::from_secs(600));
    assert!(wait_for(JobState::Paused).await.devices.is_empty());
    bridge.republish();
    wait_for(JobState::Paused).await;
    assert_eq!((bridge.orders(), bridge.refused()), (1, 2));
    assert!(bridge.published() >= 4);
    bridge.stop().await;
}
