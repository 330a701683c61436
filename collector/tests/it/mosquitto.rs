//! The same over a broker that is not ours: Eclipse Mosquitto.

use crate::caps::{FileDevice, command, limit, next};
use crate::ingest::client;
use crate::peers;
use crate::stage::{Stage, until};
use heliostat_collector::broker_probe::{ProbeError, round_trip};
use heliostat_collector::{Credentials, MqttConfig};
use heliostat_models::lease::CapAnswer;
use heliostat_models::wire::Topics;
use rumqttc::QoS;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Mosquitto(Child);

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(directory: &Path, access: &str) -> Option<(Mosquitto, SocketAddr)> {
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
        "listener {} 127.0.0.1\n{access}\npersistence false\n",
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

fn skipped() {
    peers::skip("mosquitto", "it does not start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_and_caps_pass_through_mosquitto() {
    let mut stage = Stage::new();
    let Some((_mosquitto, address)) = start(stage.dir.path(), "allow_anonymous true") else {
        return skipped();
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

#[tokio::test]
async fn a_broker_that_asks_who_we_are() {
    let directory = tempfile::tempdir().unwrap();
    let users = directory.path().join("users");
    std::fs::write(&users, "ops:hunter2\n").unwrap();
    // Turns the file's plain passwords into hashes, in place.
    let hashed = Command::new("mosquitto_passwd")
        .arg("-U")
        .arg(&users)
        .status();
    // Mosquitto drops its privileges and must be able to read it all the same.
    Command::new("chmod")
        .args(["-R", "a+rX"])
        .arg(directory.path())
        .status()
        .unwrap();
    let access = format!("allow_anonymous false\npassword_file {}", users.display());
    let Some((_mosquitto, address)) = (hashed.is_ok_and(|status| status.success()))
        .then(|| start(directory.path(), &access))
        .flatten()
    else {
        return skipped();
    };
    until("mosquitto listens", || TcpStream::connect(address).is_ok()).await;
    let wait = Duration::from_secs(20);
    let mut config = MqttConfig::from(address);
    for (password, let_in) in [
        (None, false),
        (Some("wrong"), false),
        (Some("hunter2"), true),
    ] {
        config.credentials = password.map(|password| Credentials {
            user: "ops".to_owned(),
            password: password.to_owned(),
        });
        let outcome = round_trip(&config, "probe", wait).await;
        let refused = matches!(outcome, Err(ProbeError::Refused { .. }));
        assert_eq!((outcome.is_ok(), refused), (let_in, !let_in), "{outcome:?}");
    }
}
