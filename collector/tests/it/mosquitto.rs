//! The same over a broker that is not ours: Eclipse Mosquitto.

use crate::caps::{FileDevice, command, limit, next};
use crate::ingest::client;
use crate::stage::{Stage, until};
use heliostat_models::lease::CapAnswer;
use heliostat_models::wire::Topics;
use rumqttc::QoS;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(directory: &Path) -> Option<(Mosquitto, SocketAddr)> {
    let places = [
        "mosquitto",
        "/usr/sbin/mosquitto",
        "/usr/local/sbin/mosquitto",
    ];
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let config = directory.join("mosquitto.conf");
    let text = format!(
        "listener {} 127.0.0.1\nallow_anonymous true\npersistence false\n",
        address.port()
    );
    std::fs::write(&config, text).unwrap();
    let child = places.iter().find_map(|program| {
        let mut command = Command::new(program);
        command
            .arg("-c")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.spawn().ok()
    })?;
    Some((Mosquitto(child), address))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_and_caps_pass_through_mosquitto() {
    let mut stage = Stage::new();
    let Some((_mosquitto, address)) = start(stage.dir.path()) else {
        let required = std::env::var("HELIOSTAT_PEERS").is_ok_and(|v| v == "required");
        assert!(
            !required,
            "HELIOSTAT_PEERS=required, but mosquitto is not installed (apt install mosquitto)"
        );
        eprintln!(
            "SKIPPED: mosquitto is not installed (apt install mosquitto); nothing was tested against a foreign broker"
        );
        return;
    };
    until("mosquitto listens", || TcpStream::connect(address).is_ok()).await;
    let ingest = stage.ingest(address);
    until("ingest is connected", || ingest.stats().connected).await;
    let (node, gpu) = (stage.node(), stage.gpu(0));
    let topics = Topics::new(&stage.site.id);
    let (executor, mut answers) = client(address, "executor", topics.applied(&node)).await;
    let file = stage.dir.path().join("limit");
    let agent = stage.agent(address, Some(FileDevice::boxed(gpu.clone(), &file)));
    until("the agent is connected", || agent.stats().connected).await;
    executor
        .publish(
            topics.caps(&node),
            QoS::AtLeastOnce,
            false,
            command(&gpu, 1, 420.0),
        )
        .await
        .unwrap();
    let answer: CapAnswer = next(&mut answers).await;
    assert_eq!((answer.sequence, limit(&file)), (Some(1), 420.0));
    stage.walk(&agent, 100).await;
    until("all is acknowledged", || {
        agent.stats().samples_acknowledged == 202
    })
    .await;
    assert_eq!(stage.stored(), 101);
    assert_eq!(limit(&file), 350.0, "the lease ended on the way");
    agent.stop().await;
    assert_eq!(limit(&file), 700.0);
}
