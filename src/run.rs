//! `heliostat run`: the server of one site.

use crate::broker_argument;
use crate::files::load_site;
use crate::server::{BrokerChoice, Server, ServerConfig};
use anyhow::Context;
use heliostat_collector::mqtt::MqttConfig;
use heliostat_store::WallClock;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Run a site: embedded broker (or your own), store, control and dashboard.
///
/// Control only observes unless the site file says `armed = true` or --arm is
/// given: it decides, shows and logs, and sends no cap.
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  heliostat check site-configs/demo.toml\n  heliostat run --site site-configs/demo.toml --data ./data\nThen on each node: heliostat agent --site site-configs/demo.toml --node r01-n1 --mqtt SERVER:1883 --spool /var/lib/heliostat\n\nAll addresses are loopback unless you name others. A broker's user and password, where it asks for them: environment variables HELIOSTAT_MQTT_USER and HELIOSTAT_MQTT_PASSWORD. With HELIOSTAT_CONTROL_KEY, a secret of 16 bytes or more that server and agents share, all that moves power is signed, and what is not is refused. The API's writing calls need a token in the environment variable HELIOSTAT_API_TOKEN.\n\nSamples of other programs are taken at /api/v1/write (Prometheus remote write 1.0), /write and /api/v2/write (InfluxDB line protocol), with that token as bearer token, InfluxDB token or basic password. Without a token they are taken from this machine alone while --http is a loopback address, and refused otherwise."
)]
pub struct Args {
    /// Site file (see `heliostat check`)
    #[arg(long, value_name = "FILE")]
    site: PathBuf,
    /// Directory for everything durable; made if missing
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Address of the dashboard and the API
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    http: SocketAddr,
    /// Address of the embedded MQTT broker
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:1883")]
    mqtt_listen: SocketAddr,
    /// Use this MQTT broker instead of the embedded one
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "mqtt_listen", value_parser = broker_argument::parse)]
    broker: Option<MqttConfig>,
    /// Arm control: caps are sent to the agents (logged as a decision)
    #[arg(long)]
    arm: bool,
}

/// Runs until it is told to stop.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let site = Arc::new(load_site(&args.site)?);
    let mut policy = site.control.clone();
    policy.armed |= args.arm;
    let broker = match &args.broker {
        Some(broker) => BrokerChoice::External(broker.clone()),
        None => BrokerChoice::Embedded(args.mqtt_listen),
    };
    let config = ServerConfig {
        site,
        data: args.data.clone(),
        http: args.http,
        broker,
        clock: Arc::new(WallClock),
        policy,
        api_token: std::env::var("HELIOSTAT_API_TOKEN")
            .ok()
            .filter(|t| !t.is_empty()),
        note: None,
    };
    let runtime =
        tokio::runtime::Runtime::new().context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        let server = Server::start(config).await?;
        println!("dashboard http://{}", server.web.address());
        println!("mqtt {}:{}", server.mqtt.host, server.mqtt.port);
        stop_signal().await?;
        eprintln!("stopping");
        server.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Returns on Ctrl-C or SIGTERM.
pub async fn stop_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        outcome = tokio::signal::ctrl_c() => outcome.context("cannot listen for Ctrl-C"),
    }
}
