//! The hall's scheduler on MQTT: it tells of its jobs and obeys orders, as an
//! adapter to a real scheduler would.

use crate::error::TwinError;
use crate::hall::Hall;
use heliostat_models::mqtt::MqttConfig;
use heliostat_models::signed::{self, SigningKey};
use heliostat_models::wire::{JobOrders, Topics};
use heliostat_models::{JobRecord, SiteId};
use rumqttc::{
    AsyncClient, ConnectionError, Event, EventLoop, Incoming, MqttOptions, Outgoing, QoS,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// How often the hall is asked for changed jobs (wall time, network side).
const PUMP: Duration = Duration::from_millis(20);
/// Publications that may wait for the network.
const QUEUE: usize = 4_096;
const RETRY: Duration = Duration::from_millis(250);

fn lock(hall: &Mutex<Hall>) -> MutexGuard<'_, Hall> {
    hall.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Counters {
    published: AtomicU64,
    orders: AtomicU64,
    refused: AtomicU64,
    unsigned: AtomicU64,
}

/// The running bridge. Dropping it ends it.
#[derive(Debug)]
pub struct SchedulerBridge {
    client: AsyncClient,
    network: JoinHandle<()>,
    pump: JoinHandle<()>,
    counters: Arc<Counters>,
    again: Arc<Notify>,
}

impl SchedulerBridge {
    /// Connects to a broker and keeps the connection up. Needs a tokio runtime.
    ///
    /// # Errors
    /// When it is called outside of a runtime.
    pub fn start(
        broker: &MqttConfig,
        site: &SiteId,
        hall: Arc<Mutex<Hall>>,
    ) -> Result<Self, TwinError> {
        let runtime = tokio::runtime::Handle::try_current()
            .map_err(|e| TwinError::Bridge(format!("{e}; start it within a tokio runtime")))?;
        let topics = Topics::new(site);
        let mut options = MqttOptions::new(
            format!("{site}-scheduler"),
            broker.host.as_str(),
            broker.port,
        );
        if let Some(credentials) = &broker.credentials {
            options.set_credentials(&credentials.user, &credentials.password);
        }
        options
            .set_keep_alive(Duration::from_secs(10))
            .set_inflight(200)
            .set_max_packet_size(1 << 20, 1 << 20);
        let (client, mut eventloop) = AsyncClient::new(options, QUEUE);
        eventloop.network_options.set_tcp_nodelay(true);
        let counters = Arc::new(Counters::default());
        let again = Arc::new(Notify::new());
        let desk = Desk {
            hall: Arc::clone(&hall),
            counters: Arc::clone(&counters),
            topic: topics.orders(),
            key: broker.key.clone(),
        };
        let network = runtime.spawn(network(eventloop, client.clone(), desk, Arc::clone(&again)));
        let teller = Teller {
            client: client.clone(),
            topic: topics.jobs(),
            key: broker.key.clone(),
        };
        let pump = runtime.spawn(pump(
            teller,
            hall,
            Arc::clone(&counters),
            Arc::clone(&again),
        ));
        Ok(Self {
            client,
            network,
            pump,
            counters,
            again,
        })
    }

    /// Tells of every job anew, changed or not; for an ingest that came later.
    pub fn republish(&self) {
        self.again.notify_one();
    }
    /// Job records published so far.
    pub fn published(&self) -> u64 {
        self.counters.published.load(Ordering::Relaxed)
    }
    /// Orders obeyed so far.
    pub fn orders(&self) -> u64 {
        self.counters.orders.load(Ordering::Relaxed)
    }
    /// Orders that named no job, and messages that were no orders.
    pub fn refused(&self) -> u64 {
        self.counters.refused.load(Ordering::Relaxed)
    }
    /// Orders refused unread, because their signature is missing or wrong.
    pub fn unsigned(&self) -> u64 {
        self.counters.unsigned.load(Ordering::Relaxed)
    }

    /// Says good-bye and ends; waits up to a second for the network.
    pub async fn stop(mut self) {
        self.pump.abort();
        let _ = self.client.try_disconnect();
        let _ = tokio::time::timeout(Duration::from_secs(1), &mut self.network).await;
    }
}

impl Drop for SchedulerBridge {
    fn drop(&mut self) {
        self.pump.abort();
        self.network.abort();
    }
}

/// Where orders arrive.
struct Desk {
    hall: Arc<Mutex<Hall>>,
    counters: Arc<Counters>,
    topic: String,
    key: Option<SigningKey>,
}

async fn network(mut eventloop: EventLoop, client: AsyncClient, desk: Desk, again: Arc<Notify>) {
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                let _ = client.try_subscribe(&desk.topic, QoS::AtLeastOnce);
                // Whatever was under way when the connection broke is told again.
                again.notify_one();
            }
            Ok(Event::Incoming(Incoming::Publish(message))) => {
                desk.obey(&message.payload);
            }
            Ok(Event::Outgoing(Outgoing::Disconnect)) | Err(ConnectionError::RequestsDone) => {
                return;
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "scheduler bridge: no connection to the broker; trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

impl Desk {
    fn obey(&self, payload: &[u8]) {
        let content = match signed::open(self.key.as_ref(), &self.topic, payload) {
            Ok(content) => content,
            Err(reason) => {
                self.counters.unsigned.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%reason, "scheduler bridge: orders are refused unread");
                return;
            }
        };
        let orders: JobOrders = match serde_json::from_slice(content) {
            Ok(orders) => orders,
            Err(error) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(%error, "scheduler bridge: a message on the topic of orders is none");
                return;
            }
        };
        let mut hall = lock(&self.hall);
        for (job, order) in &orders.orders {
            let counter = if hall.order(job, *order) {
                &self.counters.orders
            } else {
                &self.counters.refused
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Tells of jobs.
struct Teller {
    client: AsyncClient,
    topic: String,
    key: Option<SigningKey>,
}

async fn pump(teller: Teller, hall: Arc<Mutex<Hall>>, counters: Arc<Counters>, again: Arc<Notify>) {
    let mut tick = tokio::time::interval(PUMP);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let records: Vec<JobRecord> = tokio::select! {
            () = again.notified() => {
                let mut hall = lock(&hall);
                hall.take_changed_jobs();
                hall.jobs()
            }
            _ = tick.tick() => lock(&hall).take_changed_jobs(),
        };
        for record in records {
            let Ok(payload) = serde_json::to_vec(&record) else {
                continue;
            };
            let payload = signed::seal(teller.key.as_ref(), &teller.topic, payload);
            // Waits while the queue to the network is full; ends with the network.
            let sent = (teller.client).publish(&teller.topic, QoS::AtLeastOnce, false, payload);
            if sent.await.is_err() {
                return;
            }
            counters.published.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hall::{CapSource, HallConfig};
    use heliostat_models::job::JobOrder;
    use heliostat_models::site::config::{LoadOptions, builtin_demo, load};
    use heliostat_models::{JobId, Timestamp};

    #[test]
    fn with_a_key_only_orders_signed_for_this_topic_are_read() {
        let loaded = load("demo.toml", builtin_demo(), LoadOptions::default());
        let site = Arc::new(loaded.site.unwrap());
        let safe = site.devices.iter().map(|d| d.safe_cap).collect();
        let topics = Topics::new(&site.id);
        let config = HallConfig::new(Timestamp(0), 1);
        let hall = Hall::new(site, config, CapSource::Memory(safe)).unwrap();
        let key = SigningKey::new("a secret of the site").unwrap();
        let desk = Desk {
            hall: Arc::new(Mutex::new(hall)),
            counters: Arc::default(),
            topic: topics.orders(),
            key: Some(key.clone()),
        };
        let orders = JobOrders {
            issued: Timestamp(0),
            orders: vec![(JobId::from("nobody"), JobOrder::Hold)],
        };
        let plain = serde_json::to_vec(&orders).unwrap();
        let other = SigningKey::new("a secret of another").unwrap();
        let counts = || {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            (load(&desk.counters.unsigned), load(&desk.counters.refused))
        };
        desk.obey(&plain);
        desk.obey(&signed::seal(Some(&other), &desk.topic, plain.clone()));
        desk.obey(&signed::seal(Some(&key), &topics.jobs(), plain.clone()));
        assert_eq!(counts(), (3, 0));
        // Read, and refused because the hall has no such job.
        desk.obey(&signed::seal(Some(&key), &desk.topic, plain));
        assert_eq!(counts(), (3, 1));
    }
}
