//! The embedded broker: rumqttd in this process, so that a site needs no other
//! server. Any MQTT 3.1.1 broker can stand in its place.

use rumqttd::{Config, ConnectionSettings, RouterConfig, SegmentConfig, ServerSettings};
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

/// Log targets of the MQTT libraries, for a log filter to turn off
/// (`rumqttd=off`): they report every client that leaves as an error.
pub const NOISY_LOG_TARGETS: [&str; 2] = ["rumqttd", "rumqttc"];

/// Most retained messages that a new subscriber is given, where it subscribes
/// with QoS 0: rumqttd drops those beyond. With QoS 1 it gives 100, whatever is
/// configured. There is one hello for each node of a site.
const RETAINED: u64 = 50_000;

/// A running broker. It runs on threads of its own until the process ends:
/// rumqttd has no way to stop.
#[derive(Debug)]
pub struct Broker {
    address: SocketAddr,
}

/// Why there is no broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Somebody else listens there.
    #[error(
        "port {} is in use; stop the program that listens there, or choose another address with --mqtt-listen ({address})", address.port()
    )]
    InUse {
        /// Where it should have listened.
        address: SocketAddr,
    },
    /// The address cannot be listened on.
    #[error("the broker cannot listen on {address}: {source}")]
    Listen {
        /// Where it should have listened.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It did not come up.
    #[error("the embedded broker on {address} did not start: {reason}")]
    Start {
        /// Where it should have listened.
        address: SocketAddr,
        /// What is known.
        reason: String,
    },
}

impl Broker {
    /// Starts a broker and returns once it answers. Port 0 chooses a free port.
    pub fn start(listen: SocketAddr) -> Result<Self, BrokerError> {
        let address = free_address(listen)?;
        let (ended_tx, ended) = mpsc::channel();
        let mut broker = rumqttd::Broker::new(config(address));
        std::thread::Builder::new()
            .name("mqtt-broker".into())
            .spawn(move || {
                // Returns only when its listener could not be opened.
                let reason = match broker.start() {
                    Ok(()) => "its listener ended".to_owned(),
                    Err(error) => error.to_string(),
                };
                let _ = ended_tx.send(reason);
            })
            .map_err(|e| BrokerError::Start {
                address,
                reason: e.to_string(),
            })?;
        for _ in 0..200 {
            if let Ok(reason) = ended.recv_timeout(Duration::from_millis(10)) {
                return Err(BrokerError::Start { address, reason });
            }
            if TcpStream::connect_timeout(&reachable(address), Duration::from_millis(200)).is_ok() {
                return Ok(Self { address });
            }
        }
        Err(BrokerError::Start {
            address,
            reason: "it does not answer".into(),
        })
    }

    /// Where it listens; with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Finds out whether the address is free, and which port 0 becomes. rumqttd
/// opens its own listener a moment later; if another program takes the port in
/// between, that is reported as a failed start.
fn free_address(listen: SocketAddr) -> Result<SocketAddr, BrokerError> {
    let refused = |source: std::io::Error| match source.kind() {
        ErrorKind::AddrInUse => BrokerError::InUse { address: listen },
        _ => BrokerError::Listen {
            address: listen,
            source,
        },
    };
    let probe = TcpListener::bind(listen).map_err(refused)?;
    probe.local_addr().map_err(refused)
}

/// The address to connect to: a wildcard listens everywhere, also here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

fn config(address: SocketAddr) -> Config {
    // rumqttd keeps the last messages of every subscription in memory, up to
    // segment size times count, and drops the oldest. What is dropped is sent
    // again by the agents, so these bound memory and lose nothing.
    let segments = |max_segment_size, max_segment_count| SegmentConfig {
        max_segment_size,
        max_segment_count,
    };
    let custom = HashMap::from([
        ("heliostat/v1/+/frames/+".to_owned(), segments(4 << 20, 8)),
        ("heliostat/v1/+/acks/+".to_owned(), segments(16 << 10, 4)),
        ("heliostat/v1/+/caps/+".to_owned(), segments(64 << 10, 4)),
        // All agents of a site speak at one moment when the broker comes back or
        // a grid event changes every cap: 2 kB each, which nobody sends again soon.
        ("heliostat/v1/+/hello/+".to_owned(), segments(4 << 20, 16)),
        ("heliostat/v1/+/applied/+".to_owned(), segments(4 << 20, 16)),
    ]);
    let router = RouterConfig {
        max_connections: 10_000,
        max_outgoing_packet_count: RETAINED,
        max_segment_size: 1 << 20,
        max_segment_count: 4,
        custom_segment: Some(custom),
        ..RouterConfig::default()
    };
    let server = ServerSettings {
        name: "mqtt".into(),
        listen: address,
        tls: None,
        next_connection_delay_ms: 1,
        connections: ConnectionSettings {
            connection_timeout_ms: 5_000,
            max_payload_size: crate::mqtt::MAX_PACKET,
            max_inflight_count: 200,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    Config {
        id: 0,
        router,
        v4: Some(HashMap::from([("mqtt".to_owned(), server)])),
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_zero_chooses_a_port_and_an_occupied_port_is_named() {
        let broker = Broker::start("127.0.0.1:0".parse().unwrap()).unwrap();
        assert_ne!(broker.address().port(), 0);
        TcpStream::connect(broker.address()).unwrap();
        let error = Broker::start(broker.address()).unwrap_err().to_string();
        let expected = format!("port {} is in use", broker.address().port());
        assert!(error.contains(&expected), "{error}");
    }
}
