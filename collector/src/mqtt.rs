//! The connection to the broker: kept up, resubscribed after every break, and
//! never waited for by whoever publishes.

pub use heliostat_models::mqtt::{Credentials, MqttConfig};
use rumqttc::{AsyncClient, Event, Incoming, MqttOptions, QoS};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Longest MQTT packet: a batch of the longest kind with its topic.
pub(crate) const MAX_PACKET: usize = heliostat_models::wire::MAX_BATCH_BYTES + 4096;
/// Publications that wait for the network at most; more are turned away.
const QUEUE: usize = 2048;
/// First and longest pause between attempts to connect (wall time).
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What the connection tells its owner.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// Connected and subscribed; what was published before is forgotten.
    Connected,
    /// The connection broke, or could not be made.
    Disconnected(String),
    /// A message on a subscribed topic.
    Message {
        /// Its topic.
        topic: String,
        /// Its bytes.
        payload: Vec<u8>,
        /// Counts the message as waiting until it is dropped.
        _held: Held,
    },
}

/// How much may wait between the network and whoever handles messages. Beyond
/// it messages are dropped; senders that need an answer send again.
#[derive(Clone, Debug)]
pub(crate) struct Inbox {
    events: mpsc::UnboundedSender<LinkEvent>,
    waiting: Arc<AtomicUsize>,
    limit: usize,
    dropped: Arc<AtomicU64>,
}

/// The bytes of one waiting message; gives them back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    waiting: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Inbox {
    /// An inbox that holds up to `limit` bytes of messages.
    pub(crate) fn new(limit: usize) -> (Self, mpsc::UnboundedReceiver<LinkEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let inbox = Self {
            events,
            waiting: Arc::default(),
            limit,
            dropped: Arc::default(),
        };
        (inbox, receiver)
    }

    /// Messages dropped because too much was waiting.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn tell(&self, event: LinkEvent) -> Result<(), ()> {
        self.events.send(event).map_err(|_| ())
    }

    fn deliver(&self, topic: String, payload: &[u8]) -> Result<(), ()> {
        let bytes = payload.len() + topic.len();
        if self.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > self.limit {
            self.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let held = Held {
            waiting: Arc::clone(&self.waiting),
            bytes,
        };
        self.tell(LinkEvent::Message {
            topic,
            payload: payload.to_vec(),
            _held: held,
        })
    }
}

/// A connection that is kept up by a task of its own.
#[derive(Debug)]
pub(crate) struct Link {
    client: AsyncClient,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    /// Connects as `client_id` and hands events to `inbox`, for as long as
    /// its receiver or this link lives.
    pub(crate) fn start(
        config: &MqttConfig,
        client_id: &str,
        subscriptions: Vec<String>,
        inbox: Inbox,
    ) -> Self {
        let mut options = MqttOptions::new(client_id, &config.host, config.port);
        options
            .set_keep_alive(Duration::from_secs(10))
            .set_clean_session(true)
            .set_max_packet_size(MAX_PACKET, MAX_PACKET)
            .set_inflight(200);
        if let Some(login) = &config.credentials {
            options.set_credentials(&login.user, &login.password);
        }
        let (client, mut eventloop) = AsyncClient::new(options, QUEUE);
        eventloop.network_options.set_tcp_nodelay(true);
        let publisher = client.clone();
        let task = tokio::spawn(async move {
            run(eventloop, publisher, subscriptions, inbox).await;
        });
        Self { client, task }
    }

    /// Publishes with QoS 1; false when the queue to the network is full.
    pub(crate) fn publish(&self, topic: &str, payload: Vec<u8>) -> bool {
        self.client
            .try_publish(topic, QoS::AtLeastOnce, false, payload)
            .is_ok()
    }

    /// Publishes a message that the broker keeps for later subscribers.
    pub(crate) fn publish_retained(&self, topic: &str, payload: Vec<u8>) -> bool {
        self.client
            .try_publish(topic, QoS::AtLeastOnce, true, payload)
            .is_ok()
    }

    /// Says good-bye and ends; waits up to a second for the network.
    pub(crate) async fn stop(mut self) {
        let _ = self.client.try_disconnect();
        if tokio::time::timeout(Duration::from_secs(1), &mut self.task)
            .await
            .is_err()
        {
            self.task.abort();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    mut eventloop: rumqttc::EventLoop,
    client: AsyncClient,
    subscriptions: Vec<String>,
    inbox: Inbox,
) {
    let mut pause = RETRY.0;
    // Subscriptions are confirmed one by one; only then is the link connected,
    // so that no answer to a first message can be missed.
    let mut confirmed: HashSet<u16> = HashSet::new();
    let mut expected = 0usize;
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                pause = RETRY.0;
                confirmed.clear();
                expected = subscriptions.len();
                let refused = (subscriptions.iter())
                    .any(|topic| client.try_subscribe(topic, QoS::AtLeastOnce).is_err());
                if refused {
                    // The queue is full of what was published in the meantime:
                    // empty it and connect anew.
                    eventloop.clean();
                    eventloop.pending.clear();
                    continue;
                }
                if expected == 0 && inbox.tell(LinkEvent::Connected).is_err() {
                    return;
                }
            }
            Ok(Event::Incoming(Incoming::SubAck(ack))) => {
                confirmed.insert(ack.pkid);
                if expected > 0 && confirmed.len() == expected {
                    expected = 0;
                    if inbox.tell(LinkEvent::Connected).is_err() {
                        return;
                    }
                }
            }
            Ok(Event::Incoming(Incoming::Publish(publish))) => {
                if inbox.deliver(publish.topic, &publish.payload).is_err() {
                    return;
                }
            }
            Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return,
            Ok(_) => {}
            Err(rumqttc::ConnectionError::RequestsDone) => return,
            Err(error) => {
                let text = error.to_string();
                if inbox.tell(LinkEvent::Disconnected(text)).is_err() {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
        }
    }
}
