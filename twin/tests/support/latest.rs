//! A store that keeps the latest frame of each device, which is all that
//! control reads.

use async_trait::async_trait;
use heliostat_models::{DeviceId, Frame, Timestamp};
use heliostat_store::query::StoreStats;
use heliostat_store::{Answer, AppendReceipt, Query, StoreError, TimeSeriesStore};
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// The latest frame of each device, and how many came of the latest instant.
pub struct Latest {
    frames: Mutex<HashMap<DeviceId, Frame>>,
    version: AtomicU64,
    arrived: watch::Sender<(Timestamp, usize)>,
}

impl Default for Latest {
    fn default() -> Self {
        Self {
            frames: Mutex::default(),
            version: AtomicU64::default(),
            arrived: watch::Sender::new((Timestamp(i64::MIN), 0)),
        }
    }
}

impl Latest {
    /// Returns once so many frames of an instant, or any of a later one, are here.
    pub async fn wait_for(&self, at: Timestamp, count: usize) {
        let mut arrived = self.arrived.subscribe();
        let _ = arrived
            .wait_for(|(latest, seen)| *latest > at || *latest == at && *seen >= count)
            .await;
    }
}

#[async_trait]
impl TimeSeriesStore for Latest {
    async fn append(&self, frames: Vec<Frame>) -> Result<AppendReceipt, StoreError> {
        let mut receipt = AppendReceipt::default();
        let (mut newest, mut seen) = *self.arrived.borrow();
        let mut latest = self.frames.lock().unwrap();
        for frame in frames {
            if frame.at > newest {
                (newest, seen) = (frame.at, 0);
            }
            seen += usize::from(frame.at == newest);
            receipt.frames += 1;
            receipt.samples += frame.readings.len() as u64;
            match latest.get_mut(&frame.device) {
                // A frame is known by device and instant; the first stays.
                Some(known) if known.at == frame.at => {
                    receipt.frames -= 1;
                    receipt.samples -= frame.readings.len() as u64;
                    receipt.duplicate_samples += frame.readings.len() as u64;
                }
                Some(known) if known.at > frame.at => {}
                Some(known) => *known = frame,
                None => drop(latest.insert(frame.device.clone(), frame)),
            }
        }
        drop(latest);
        self.version.fetch_add(1, Ordering::Relaxed);
        self.arrived.send_replace((newest, seen));
        Ok(receipt)
    }

    async fn query(&self, query: &Query) -> Result<Answer, StoreError> {
        Ok(match query {
            Query::Latest { since, .. } => {
                let frames = self.frames.lock().unwrap();
                let fresh = frames.values().filter(|f| f.at >= *since);
                Answer::Frames(fresh.cloned().collect())
            }
            _ => Answer::Series(Vec::new()),
        })
    }

    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }

    fn version(&self) -> Option<u64> {
        Some(self.version.load(Ordering::Relaxed))
    }
}
