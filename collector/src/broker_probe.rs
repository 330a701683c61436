//! One message through a broker and back: whether it can be reached, lets us
//! in, and delivers.

use crate::mqtt::MqttConfig;
use rumqttc::{AsyncClient, ConnectReturnCode, ConnectionError, Event, Incoming, MqttOptions, QoS};
use std::time::Duration;
use tokio::time::Instant;

/// Why no message came back.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No broker, or no network.
    #[error("{address} does not answer: {source}; is the broker running, and the port open?")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the connection said.
        #[source]
        source: Box<ConnectionError>,
    },
    /// It answers and refuses.
    #[error(
        "{address} refuses us ({code:?}); set HELIOSTAT_MQTT_USER and HELIOSTAT_MQTT_PASSWORD to what the broker expects"
    )]
    Refused {
        /// Host and port.
        address: String,
        /// The broker's code.
        code: ConnectReturnCode,
    },
    /// It lets us in and nothing comes back.
    #[error(
        "{address} lets us in but brought nothing back on `{topic}` within {} s; may this user write and read `heliostat/#`?",
        waited.as_secs()
    )]
    Silent {
        /// Host and port.
        address: String,
        /// Where the message went.
        topic: String,
        /// For how long we listened.
        waited: Duration,
    },
}

/// Sends a message to itself and says how long it took, connecting not counted.
/// It is not retained, so that nothing stays behind.
pub async fn round_trip(
    config: &MqttConfig,
    name: &str,
    wait: Duration,
) -> Result<Duration, ProbeError> {
    let address = config.to_string();
    let topic = format!("heliostat/v1/probe/{name}");
    let mut options = MqttOptions::new(name, &config.host, config.port);
    if let Some(credentials) = &config.credentials {
        options.set_credentials(&credentials.user, &credentials.password);
    }
    let (client, mut events) = AsyncClient::new(options, 8);
    let exchange = async {
        let mut sent = Instant::now();
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                    let _ = client.try_subscribe(&topic, QoS::AtLeastOnce);
                }
                Ok(Event::Incoming(Incoming::SubAck(_))) => {
                    sent = Instant::now();
                    let _ = client.try_publish(&topic, QoS::AtLeastOnce, false, name);
                }
                Ok(Event::Incoming(Incoming::Publish(message)))
                    if message.topic == topic && message.payload == name.as_bytes() =>
                {
                    return Ok(sent.elapsed());
                }
                Ok(_) => {}
                Err(ConnectionError::ConnectionRefused(code)) => {
                    let address = address.clone();
                    return Err(ProbeError::Refused { address, code });
                }
                Err(source) => {
                    return Err(ProbeError::Unreachable {
                        address: address.clone(),
                        source: Box::new(source),
                    });
                }
            }
        }
    };
    let outcome = tokio::time::timeout(wait, exchange).await;
    let _ = client.try_disconnect();
    outcome.unwrap_or_else(|_| {
        Err(ProbeError::Silent {
            address: address.clone(),
            topic: topic.clone(),
            waited: wait,
        })
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::broker::Broker;

    #[tokio::test]
    async fn through_a_broker_and_back_or_the_reason_why_not() {
        let broker = Broker::start("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = MqttConfig::from(broker.address());
        let wait = Duration::from_secs(20);
        assert!(round_trip(&config, "probe-1", wait).await.unwrap() < wait);
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = MqttConfig::from(free.local_addr().unwrap());
        drop(free);
        let error = round_trip(&nobody, "probe-2", wait).await.unwrap_err();
        assert!(matches!(error, ProbeError::Unreachable { .. }), "{error}");
        // One that takes the connection and says nothing.
        let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mute_config = MqttConfig::from(mute.local_addr().unwrap());
        let error = round_trip(&mute_config, "probe-3", Duration::from_millis(200))
            .await
            .unwrap_err();
        assert!(matches!(error, ProbeError::Silent { .. }), "{error}");
    }
}
