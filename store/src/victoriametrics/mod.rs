//! VictoriaMetrics as the engine: frames through `/api/v1/import`, queries
//! through its PromQL API and `/api/v1/export`. One process or a cluster
//! (`docs/scale-out.md`).
//!
//! Its habits, seen with 1.79.5: what it has acknowledged up to 5 s ago is lost
//! on `kill -9`; a new series can stay hidden from queries for 10 s when the same
//! question was asked just before; values are kept to about 12 digits; a point
//! written twice is two points. The spool is made for these.

mod read;
mod write;

use crate::query::Selector;
use crate::remote::fold::Steps;
use crate::remote::{ByDevice, Engine, Found, Habits, Http, RemoteError};
use async_trait::async_trait;
use heliostat_models::{DeviceId, Frame, Site};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Seconds after which an acknowledged write survives `kill -9`: it flushes
/// every 5 s, and new series are found after 10 s at the latest.
pub const SETTLES_AFTER: Duration = Duration::from_secs(15);
/// Seconds after which every query finds a write.
pub const VISIBLE_AFTER: Duration = Duration::from_secs(12);

/// A VictoriaMetrics.
#[derive(Debug)]
pub struct VictoriaMetrics {
    insert: Http,
    select: Http,
    site: Arc<Site>,
    /// A cluster's parts restart unseen.
    single: bool,
}

impl VictoriaMetrics {
    /// A client that writes to `url` and reads from `read_url`, or from `url`
    /// if that is `None`. Sends nothing yet.
    pub fn new(url: &str, read_url: Option<&str>, token: Option<&str>, site: Arc<Site>) -> Self {
        Self {
            insert: Http::new(url, token),
            select: Http::new(read_url.unwrap_or(url), token),
            site,
            single: read_url.is_none_or(|read| read == url),
        }
    }
}

#[async_trait]
impl Engine for VictoriaMetrics {
    fn habits(&self) -> Habits {
        Habits {
            settles_after: SETTLES_AFTER,
            visible_after: VISIBLE_AFTER,
            overwrites: false,
        }
    }

    async fn process(&self) -> Result<Option<String>, RemoteError> {
        if !self.single {
            // The cheapest question that both vmselect and its storage must answer.
            read::labels(&self.select).await?;
            return Ok(None);
        }
        let metrics = self.insert.get("/metrics").await?;
        let started = (metrics.lines()).find_map(|line| {
            (line.strip_prefix("process_start_time_seconds "))
                .or_else(|| line.strip_prefix("vm_app_start_timestamp "))
        });
        Ok(started.map(|text| text.trim().to_owned()))
    }

    async fn write(&self, frames: Vec<Frame>) -> Result<(), RemoteError> {
        let body = write::import_lines(&frames, &self.site);
        self.insert.post("/api/v1/import", body).await
    }

    async fn instants(
        &self,
        devices: &[DeviceId],
        from: i64,
        to: i64,
    ) -> Result<HashMap<DeviceId, Vec<i64>>, RemoteError> {
        read::instants(&self.select, devices, from, to).await
    }

    async fn frames(
        &self,
        devices: &[DeviceId],
        from: i64,
        to: i64,
    ) -> Result<Vec<Found>, RemoteError> {
        read::frames(&self.select, devices, from, to).await
    }

    async fn latest(
        &self,
        select: &Selector,
        since: i64,
        until: i64,
    ) -> Result<Vec<(DeviceId, i64)>, RemoteError> {
        read::latest(&self.select, select, since, until).await
    }

    async fn range(
        &self,
        metric: &str,
        select: &Selector,
        from: i64,
        to: i64,
    ) -> Result<ByDevice, RemoteError> {
        read::range(&self.select, metric, select, from, to).await
    }

    async fn steps(
        &self,
        metric: &str,
        select: &Selector,
        steps: &Steps,
    ) -> Result<Option<ByDevice>, RemoteError> {
        read::steps(&self.select, metric, select, steps).await
    }
}
