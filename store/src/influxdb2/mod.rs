//! InfluxDB 2 as the engine, through the `influxdb2` crate: line protocol out,
//! Flux in. One line a frame: measurement `heliostat`, tags as labels, a field
//! a metric and companion. No TLS: across machines use a network of its own.
//!
//! InfluxDB syncs its write-ahead log before it answers and overwrites a point
//! written twice, so that a frame may leave the spool once it is acknowledged,
//! and may be sent again without looking.

mod flux;
mod lines;

pub use lines::line_protocol;

use crate::query::Selector;
use crate::remote::fold::Steps;
use crate::remote::{ByDevice, Engine, Found, Habits, RemoteError, shortened};
use async_trait::async_trait;
use heliostat_models::{DeviceId, Frame, Site};
use influxdb2::api::query::FluxRecord;
use influxdb2::api::write::TimestampPrecision;
use influxdb2::models::Query as FluxQuery;
use influxdb2::{Client, ClientBuilder, RequestError};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

/// How long an exchange may take.
const EXCHANGE: Duration = Duration::from_secs(60);
/// How long the question whether it is there may take.
const PROBE: Duration = Duration::from_secs(5);

/// An InfluxDB 2.
#[derive(Debug)]
pub struct InfluxDb2 {
    client: Client,
    url: String,
    org: String,
    bucket: String,
    site: Arc<Site>,
}

/// The address cannot be one.
#[derive(Debug, thiserror::Error)]
#[error("`{url}` is no address of an InfluxDB; write it like http://127.0.0.1:8086")]
pub struct BadAddress {
    /// As given.
    pub url: String,
}

impl InfluxDb2 {
    /// A client of the InfluxDB at `url` (`http://HOST:PORT`). Sends nothing yet.
    pub fn new(
        url: &str,
        org: &str,
        bucket: &str,
        token: &str,
        site: Arc<Site>,
    ) -> Result<Self, BadAddress> {
        // The crate panics on an address that it cannot parse.
        let build = || ClientBuilder::new(url, org, token).build();
        let client = (catch_unwind(AssertUnwindSafe(build)).ok())
            .and_then(Result::ok)
            .ok_or_else(|| BadAddress {
                url: url.to_owned(),
            })?;
        Ok(Self {
            client,
            url: url.to_owned(),
            org: org.to_owned(),
            bucket: bucket.to_owned(),
            site,
        })
    }

    fn error(&self, error: &RequestError) -> RemoteError {
        let url = self.url.clone();
        match error {
            RequestError::ReqwestProcessing { source } => RemoteError::Away {
                url,
                reason: source.to_string(),
            },
            RequestError::Http { status, text } => RemoteError::Refused {
                url,
                status: status.as_u16(),
                text: shortened(text),
            },
            other => RemoteError::Garbled {
                url,
                reason: shortened(&other.to_string()),
            },
        }
    }

    /// Runs one exchange on a task of its own: the crate panics on some answers
    /// that it does not expect, and that must stay its own affair.
    async fn exchange<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl Future<Output = Result<T, RequestError>> + Send + 'static,
    ) -> Result<T, RemoteError> {
        let task = tokio::spawn(tokio::time::timeout(patience, work));
        match task.await {
            Ok(Ok(outcome)) => outcome.map_err(|error| self.error(&error)),
            Ok(Err(_)) => Err(RemoteError::Away {
                url: self.url.clone(),
                reason: format!("no answer within {} s", patience.as_secs()),
            }),
            Err(_) => Err(RemoteError::Garbled {
                url: self.url.clone(),
                reason: "the client could not make sense of it".to_owned(),
            }),
        }
    }

    async fn flux(&self, query: String) -> Result<Vec<FluxRecord>, RemoteError> {
        let client = self.client.clone();
        let query = FluxQuery::new(query);
        self.exchange(EXCHANGE, async move { client.query_raw(Some(query)).await })
            .await
    }
}

#[async_trait]
impl Engine for InfluxDb2 {
    fn habits(&self) -> Habits {
        Habits {
            settles_after: Duration::ZERO,
            visible_after: Duration::ZERO,
            overwrites: true,
        }
    }

    async fn process(&self) -> Result<Option<String>, RemoteError> {
        let client = self.client.clone();
        let ready = self
            .exchange(PROBE, async move { client.ready().await })
            .await?;
        if ready {
            return Ok(None);
        }
        Err(RemoteError::Away {
            url: self.url.clone(),
            reason: "it says that it is not ready".to_owned(),
        })
    }

    async fn write(&self, frames: Vec<Frame>) -> Result<(), RemoteError> {
        let body = line_protocol(&frames, &self.site);
        let client = self.client.clone();
        let (org, bucket) = (self.org.clone(), self.bucket.clone());
        self.exchange(EXCHANGE, async move {
            client
                .write_line_protocol_with_precision(
                    &org,
                    &bucket,
                    body,
                    TimestampPrecision::Milliseconds,
                )
                .await
        })
        .await
    }

    async fn instants(
        &self,
        devices: &[DeviceId],
        from: i64,
        to: i64,
    ) -> Result<HashMap<DeviceId, Vec<i64>>, RemoteError> {
        let query = flux::instants(&self.bucket, devices, from, to);
        let mut found: HashMap<DeviceId, Vec<i64>> = HashMap::new();
        for point in flux::points(self.flux(query).await?) {
            found.entry(point.device).or_default().push(point.at);
        }
        Ok(found)
    }

    async fn frames(
        &self,
        devices: &[DeviceId],
        from: i64,
        to: i64,
    ) -> Result<Vec<Found>, RemoteError> {
        let query = flux::frames(&self.bucket, devices, from, to);
        let mut assembly = crate::remote::engine::Assembly::default();
        for point in flux::points(self.flux(query).await?) {
            assembly.add(&point.device, &point.field, point.at, point.value);
        }
        Ok(assembly.finish())
    }

    async fn latest(
        &self,
        select: &Selector,
        since: i64,
        until: i64,
    ) -> Result<Vec<(DeviceId, i64)>, RemoteError> {
        let query = flux::latest(&self.bucket, select, since, until);
        // A device whose labels changed has several series: the latest of them counts.
        let mut found: HashMap<DeviceId, i64> = HashMap::new();
        for point in flux::points(self.flux(query).await?) {
            let at = found.entry(point.device).or_insert(point.at);
            *at = point.at.max(*at);
        }
        Ok(found.into_iter().collect())
    }

    async fn range(
        &self,
        metric: &str,
        select: &Selector,
        from: i64,
        to: i64,
    ) -> Result<ByDevice, RemoteError> {
        let query = flux::range(&self.bucket, metric, select, from, to);
        Ok(flux::series(self.flux(query).await?))
    }

    async fn steps(
        &self,
        metric: &str,
        select: &Selector,
        steps: &Steps,
    ) -> Result<Option<ByDevice>, RemoteError> {
        let Some([values, flagged]) = flux::steps(&self.bucket, metric, select, steps) else {
            return Ok(None);
        };
        let values = self.flux(values).await?;
        let flagged = self.flux(flagged).await?;
        Ok(Some(flux::stepped(values, flagged)))
    }
}
