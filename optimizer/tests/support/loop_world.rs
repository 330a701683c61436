//! What a control loop needs around it: a store in memory, tables on a
//! temporary disk, a clock that is told to move.
#![allow(
    dead_code,
    reason = "support of several tests; not every one needs all of it"
)]

use async_trait::async_trait;
use heliostat_models::mqtt::MqttConfig;
use heliostat_models::{
    DeviceId, Frame, JobClass, JobId, JobRecord, JobState, Site, SpeedCurve, Timestamp, Watts,
};
use heliostat_optimizer::control::{ControllerConfig, ControllerDeps};
use heliostat_optimizer::view::{ControlView, ViewReceiver};
use heliostat_store::decisions::DecisionLog;
use heliostat_store::jobs::JobTable;
use heliostat_store::query::StoreStats;
use heliostat_store::{Answer, AppendReceipt, Query, SteppedClock, StoreError, TimeSeriesStore};
use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Keeps the latest frame of each device.
#[derive(Default)]
pub struct Memory {
    latest: Mutex<HashMap<DeviceId, Frame>>,
    appended: AtomicU64,
    asked: AtomicU64,
}

impl Memory {
    /// How often the latest frames were asked for.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl TimeSeriesStore for Memory {
    async fn append(&self, frames: Vec<Frame>) -> Result<AppendReceipt, StoreError> {
        let mut latest = self.latest.lock().unwrap();
        for frame in frames {
            latest.insert(frame.device.clone(), frame);
        }
        self.appended.fetch_add(1, Ordering::Relaxed);
        Ok(AppendReceipt::default())
    }
    async fn query(&self, query: &Query) -> Result<Answer, StoreError> {
        Ok(match query {
            Query::Latest { since, .. } => {
                self.asked.fetch_add(1, Ordering::Relaxed);
                let latest = self.latest.lock().unwrap();
                let fresh = latest.values().filter(|f| f.at >= *since);
                Answer::Frames(fresh.cloned().collect())
            }
            _ => Answer::Series(Vec::new()),
        })
    }
    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
    fn version(&self) -> Option<u64> {
        Some(self.appended.load(Ordering::Relaxed))
    }
}

pub struct LoopWorld {
    pub site: Arc<Site>,
    pub store: Arc<Memory>,
    pub clock: Arc<SteppedClock>,
    pub deps: ControllerDeps,
    pub directory: tempfile::TempDir,
}

pub const START: Timestamp = Timestamp(1_546_300_800_000);

impl LoopWorld {
    pub fn new(site: Arc<Site>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Memory::default());
        let clock = Arc::new(SteppedClock::new(START));
        let deps = ControllerDeps {
            site: Arc::clone(&site),
            store: Arc::clone(&store) as Arc<dyn TimeSeriesStore>,
            jobs: Arc::new(JobTable::open(directory.path()).unwrap()),
            decisions: Arc::new(DecisionLog::open(directory.path()).unwrap()),
            clock: Arc::clone(&clock) as Arc<dyn heliostat_store::Clock>,
        };
        Self {
            site,
            store,
            clock,
            deps,
            directory,
        }
    }

    pub fn config(&self, port: u16, armed: bool) -> ControllerConfig {
        ControllerConfig {
            mqtt: MqttConfig::new("127.0.0.1", port),
            armed,
            policy: self.site.control.clone(),
            planner_enabled: false,
            identity: None,
            directory: None,
        }
    }

    /// A training job that runs on some devices.
    pub fn run_job(&self, id: &str, devices: std::ops::Range<usize>, at: Timestamp) {
        let points: Vec<(Watts, f64)> = (0..=10)
            .map(|k| {
                let cap = 200.0 + 50.0 * f64::from(k);
                (Watts(cap), (cap / 700.0).sqrt())
            })
            .collect();
        let devices: Vec<DeviceId> = (self.site.devices[devices].iter())
            .map(|d| d.id.clone())
            .collect();
        let record = JobRecord {
            id: JobId::from(id),
            class: JobClass::Training,
            owner: "p".into(),
            gang_size: devices.len() as u32,
            remaining_hours: 5.0,
            total_hours: 9.0,
            release: START,
            deadline: None,
            state: JobState::Running,
            devices,
            curve: SpeedCurve::envelope(&points).unwrap(),
            started: Some(at),
            ended: None,
            at,
        };
        self.deps.jobs.put(record).unwrap();
    }
}

/// Waits for what control shows.
pub async fn until(
    view: &mut ViewReceiver,
    what: &str,
    good: impl Fn(&ControlView) -> bool,
) -> Arc<ControlView> {
    let wait = view.wait_for(|v| good(v));
    let seen = match tokio::time::timeout(Duration::from_secs(20), wait).await {
        Ok(seen) => Some(Arc::clone(&seen.unwrap())),
        Err(_) => None,
    };
    seen.unwrap_or_else(|| panic!("never: {what}; last seen at {}", view.borrow().at))
}

/// A port where nobody listens.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
