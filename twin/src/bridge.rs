//! The hall's scheduler on MQTT: it tells of its jobs and obeys orders, as an
//! adapter to a real scheduler would.

use crate::error::TwinError;
use crate::hall::Hall;
use heliostat_models::mqtt::MqttConfig;
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
        let network = runtime.spawn(network(
            eventloop,
            client.clone(),
            topics.orders(),
            Arc::clone(&hall),
            Arc::clone(&counters),
            Arc::clone(&again),
        ));
        let pump = runtime.spawn(pump(
            client.clone(),
            topics.jobs(),
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

async fn network(
    mut eventloop: EventLoop,
    client: AsyncClient,
    orders: String,
    hall: Arc<Mutex<Hall>>,
    counters: Arc<Counters>,
    again: Arc<Notify>,
) {
    loop {
        match eventloop.poll().await {
            Ok(Event::Incoming(Incoming::ConnAck(_))) => {
                let _ = client.try_subscribe(&orders, QoS::AtLeastOnce);
                // Whatever was under way when the connection broke is told again.
                again.notify_one();
            }
            Ok(Event::Incoming(Incoming::Publish(message))) => {
                obey(&message.payload, &hall, &counters);
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

fn obey(payload: &[u8], hall: &Mutex<Hall>, counters: &Counters) {
    let orders: JobOrders = match serde_json::from_slice(payload) {
        Ok(orders) => orders,
        Err(error) => {
            counters.refused.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "scheduler bridge: a message on the topic of orders is none");
            return;
        }
    };
    let mut hall = lock(hall);
    for (job, order) in &orders.orders {
        let counter = if hall.order(job, *order) {
            &counters.orders
        } else {
            &counters.refused
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

async fn pump(
    client: AsyncClient,
    topic: String,
    hall: Arc<Mutex<Hall>>,
    counters: Arc<Counters>,
    again: Arc<Notify>,
) {
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
            // Waits while the queue to the network is full; ends with the network.
            if client
                .publish(&topic, QoS::AtLeastOnce, false, payload)
                .await
                .is_err()
            {
                return;
            }
            counters.published.fetch_add(1, Ordering::Relaxed);
        }
    }
}
