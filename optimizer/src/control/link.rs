//! The control loop's connection to the broker: hellos and answers in,
//! commands and orders out. Kept up; nothing waits for it.

use super::events::Notice;
use heliostat_models::AgentId;
use heliostat_models::SiteId;
use heliostat_models::lease::{AgentHello, CapAnswer, CapCommand, ControlLock};
use heliostat_models::mqtt::MqttConfig;
use heliostat_models::signed::{self, SigningKey};
use heliostat_models::wire::{JobOrders, Topics};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions, Outgoing, QoS,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Publications that wait for the network at most; what finds no room is sent
/// again when its answer stays out.
const QUEUE: usize = 4_096;
/// Messages from agents that wait for the loop at most.
const INBOX: usize = 8_192;
/// Longest packet either way: a hello or a command of a node is far below.
const MAX_PACKET: usize = 1 << 20;
/// Pause before the next attempt to connect (network time).
const RETRY: Duration = Duration::from_millis(500);

/// What arrived.
#[derive(Debug)]
pub(super) enum Arrival {
    Hello(AgentHello),
    Answer(CapAnswer),
    /// A job record passed by on its way to ingest.
    Jobs,
    /// A controller holds the lock.
    Lock(ControlLock),
    /// Grid events that a controller knows.
    Events(Vec<Notice>),
    /// The broker is reached, and subscribed at.
    Connected,
}

/// The sending side.
#[derive(Debug)]
pub(super) struct Link {
    client: AsyncClient,
    topics: Topics,
    key: Option<SigningKey>,
    connected: Arc<AtomicBool>,
    /// Messages refused because of their signature.
    unsigned: Arc<AtomicU64>,
}

impl Link {
    /// Connects, now or when the broker is there. Must be called within a tokio runtime.
    pub fn start(site: &SiteId, run: &str, broker: MqttConfig) -> (Self, mpsc::Receiver<Arrival>) {
        let mut options =
            MqttOptions::new(format!("heliostat-control-{run}"), broker.host, broker.port);
        let key = broker.key;
        if let Some(credentials) = broker.credentials {
            options.set_credentials(credentials.user, credentials.password);
        }
        options.set_keep_alive(Duration::from_secs(15));
        options.set_max_packet_size(MAX_PACKET, MAX_PACKET);
        options.set_inflight(200);
        let (client, events) = AsyncClient::new(options, QUEUE);
        let (inbox, arrivals) = mpsc::channel(INBOX);
        let connected = Arc::new(AtomicBool::new(false));
        let unsigned = Arc::new(AtomicU64::new(0));
        let topics = Topics::new(site);
        let receiver = Receiver {
            client: client.clone(),
            topics: topics.clone(),
            key: key.clone(),
            connected: Arc::clone(&connected),
            unsigned: Arc::clone(&unsigned),
            inbox,
        };
        tokio::spawn(receiver.run(events));
        let link = Self {
            client,
            topics,
            key,
            connected,
            unsigned,
        };
        (link, arrivals)
    }

    /// Sends a command. While there is no connection it is dropped: the
    /// executor sends again what is not answered, and an old command must not
    /// wait in a queue.
    pub fn command(&self, agent: &AgentId, command: &CapCommand) {
        self.publish(self.topics.caps(agent), command, Kind::Signed);
    }

    /// Says that we hold the lock, or have given it up; whether it left.
    pub fn lock(&self, lock: &ControlLock) -> bool {
        self.publish(self.topics.control(), lock, Kind::Kept)
    }

    /// Tells of grid events; whether it left.
    pub fn events(&self, notices: &[Notice]) -> bool {
        self.publish(self.topics.grid_events(), &notices, Kind::Kept)
    }

    /// Messages refused because their signature is missing or wrong.
    pub fn unsigned(&self) -> u64 {
        self.unsigned.load(Ordering::Relaxed)
    }

    /// Whether the broker is reached.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Sends orders to schedulers; whether they left.
    pub fn orders(&self, orders: &JobOrders) -> bool {
        self.publish(self.topics.orders(), orders, Kind::Signed)
    }

    fn publish(&self, topic: String, message: &impl serde::Serialize, kind: Kind) -> bool {
        if !self.is_connected() {
            return false;
        }
        let bytes = match serde_json::to_vec(message) {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::error!(%error, topic, "a message cannot be written as JSON");
                return false;
            }
        };
        let bytes = signed::seal(self.key.as_ref(), &topic, bytes);
        let kept = kind == Kind::Kept;
        let sent = self
            .client
            .try_publish(&topic, QoS::AtLeastOnce, kept, bytes);
        if let Err(error) = &sent {
            tracing::warn!(%error, topic, "a message found no room; it is sent again later");
        }
        sent.is_ok()
    }

    /// Ends the connection.
    pub fn stop(&self) {
        // When the queue is full the connection ends with the runtime.
        let _ = self.client.try_disconnect();
    }
}

/// How a message goes out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Signed where the site has a key.
    Signed,
    /// The same, and kept by the broker for later subscribers.
    Kept,
}

struct Receiver {
    client: AsyncClient,
    topics: Topics,
    key: Option<SigningKey>,
    connected: Arc<AtomicBool>,
    unsigned: Arc<AtomicU64>,
    inbox: mpsc::Sender<Arrival>,
}

impl Receiver {
    async fn run(self, mut events: EventLoop) {
        let mut told = false;
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                    told = false;
                    self.subscribe();
                    self.connected.store(true, Ordering::Release);
                    self.tell(Arrival::Connected);
                }
                Ok(Event::Incoming(Incoming::Publish(message))) => {
                    self.take(&message.topic, &message.payload);
                }
                Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => {
                    return;
                }
                Ok(_) => {}
                Err(error) => {
                    self.connected.store(false, Ordering::Release);
                    if self.inbox.is_closed() {
                        return;
                    }
                    if !told {
                        tracing::warn!(%error, "control has no connection to the broker; trying again until it has");
                        told = true;
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    fn subscribe(&self) {
        for (topic, qos) in [
            // Brokers give only so many retained messages at QoS 1, and a site has
            // as many hellos as nodes. Agents renew them, should one be lost.
            (self.topics.all_hellos(), QoS::AtMostOnce),
            (self.topics.all_applied(), QoS::AtLeastOnce),
            (self.topics.jobs(), QoS::AtLeastOnce),
            (self.topics.control(), QoS::AtLeastOnce),
            (self.topics.grid_events(), QoS::AtLeastOnce),
        ] {
            if let Err(error) = self.client.try_subscribe(&topic, qos) {
                tracing::error!(%error, topic, "control could not subscribe");
            }
        }
    }

    fn take(&self, topic: &str, payload: &[u8]) {
        let content = match signed::open(self.key.as_ref(), topic, payload) {
            Ok(content) => content,
            Err(reason) => {
                self.unsigned.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%reason, topic, "a message is refused unread");
                return;
            }
        };
        if topic == self.topics.jobs() {
            // What it says is ingest's to read.
            self.tell(Arrival::Jobs);
            return;
        }
        let named = Topics::agent_of(topic);
        let is_hello = (named.as_ref()).is_some_and(|a| topic == self.topics.hello(a));
        let arrival = if topic == self.topics.control() {
            serde_json::from_slice(content).map(Arrival::Lock)
        } else if topic == self.topics.grid_events() {
            serde_json::from_slice(content).map(Arrival::Events)
        } else if is_hello {
            serde_json::from_slice(content).map(Arrival::Hello)
        } else {
            serde_json::from_slice(content).map(Arrival::Answer)
        };
        let speaks_as = match &arrival {
            Ok(Arrival::Hello(hello)) => Some(&hello.agent),
            Ok(Arrival::Answer(answer)) => Some(&answer.agent),
            _ => None,
        };
        if speaks_as.is_some() && speaks_as != named.as_ref() {
            tracing::warn!(
                topic,
                "an agent speaks in another's name; its message is left out"
            );
            return;
        }
        match arrival {
            Ok(arrival) => self.tell(arrival),
            Err(error) => tracing::warn!(%error, topic, "a message cannot be read"),
        }
    }

    /// A full inbox loses messages like a network does; control is made for that.
    fn tell(&self, arrival: Arrival) {
        if self.inbox.try_send(arrival).is_err() && !self.inbox.is_closed() {
            tracing::warn!("control is too busy; a message was dropped");
        }
    }
}
