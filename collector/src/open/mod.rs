//! Open ingest: Prometheus remote write and InfluxDB line protocol, without
//! HTTP. Bodies become samples of our devices and metrics, and are answered
//! once the store has them on disk.
//!
//! ```text
//! body -> decompress, parse -> names and labels -> device, metric, our unit -> frames -> store
//!                                    |-> unknown metrics: counted and shown, not stored
//! ```
//!
//! What is refused is told with a reason; nothing is dropped in silence. What
//! a metric means is data: `collector/data/names.toml`.

mod desk;
#[cfg(test)]
mod encode;
mod line;
mod names;
mod parcel;
mod place;
mod protobuf;
mod remote_write;
mod resolve;
mod unknown;

pub use line::Precision;
pub use names::{Names, NamesError};
pub use parcel::{Fault, Tally};
pub use remote_write::MAX_DECODED;
pub use unknown::UnknownMetric;

use desk::{Desk, Request};
use heliostat_models::{DeviceId, Site};
use heliostat_store::{Clock, TimeSeriesStore};
use parcel::Parcel;
use resolve::Resolver;
use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Longest body as sent.
pub const MAX_BODY: usize = 32 << 20;
/// Requests in work at the same time; each may hold [`MAX_DECODED`] bytes and its samples.
const IN_WORK: usize = 8;

/// Why a request as a whole was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The body cannot be read; nothing of it is stored.
    #[error("{0}")]
    Body(String),
    /// Longer than is taken.
    #[error("the body is longer than the {MAX_DECODED} bytes that are taken; send smaller batches")]
    TooLong,
    /// Too much is in work.
    #[error("too many requests are in work; send this one again")]
    Busy,
    /// The store cannot write; the sender keeps its samples.
    #[error("the store cannot write: {0}; send this again")]
    Store(String),
}

/// What a request body is wrapped in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Nothing.
    Plain,
    /// gzip.
    Gzip,
}

/// Leave to send one request; see [`OpenIngest::admit`].
#[derive(Debug)]
pub struct Admission(#[allow(dead_code)] OwnedSemaphorePermit);

/// Takes foreign samples in.
pub struct OpenIngest {
    resolver: Arc<Mutex<Resolver>>,
    desk: mpsc::Sender<Request>,
    clock: Arc<dyn Clock>,
    places: Arc<Semaphore>,
    totals: Mutex<Tally>,
}

impl OpenIngest {
    /// Starts on the running tokio runtime; ends when it is dropped.
    pub fn start(site: Arc<Site>, store: Arc<dyn TimeSeriesStore>, clock: Arc<dyn Clock>) -> Self {
        let (desk, queue) = mpsc::channel(IN_WORK);
        tokio::spawn(Desk::new(store).run(queue));
        Self {
            resolver: Arc::new(Mutex::new(Resolver::new(site))),
            desk,
            clock,
            places: Arc::new(Semaphore::new(IN_WORK)),
            totals: Mutex::default(),
        }
    }

    /// Leave to send a request, to be asked for before its body is read.
    pub fn admit(&self) -> Result<Admission, OpenError> {
        (Arc::clone(&self.places).try_acquire_owned())
            .map(Admission)
            .map_err(|_| OpenError::Busy)
    }

    /// Takes a remote-write request (1.0: a snappy block of protobuf).
    pub async fn remote_write(&self, _leave: Admission, body: Vec<u8>) -> Result<Tally, OpenError> {
        let now = self.clock.now();
        let read = move |resolver: &Mutex<Resolver>| {
            let message = remote_write::decompress(&body).map_err(|fault| match fault {
                remote_write::RequestFault::TooLong { claimed } if claimed > MAX_DECODED => {
                    OpenError::TooLong
                }
                other => OpenError::Body(other.to_string()),
            })?;
            let mut resolver = resolver.lock().unwrap_or_else(PoisonError::into_inner);
            let parcel = Parcel::of_remote_write(&message, &mut resolver, now)
                .map_err(|f| OpenError::Body(remote_write::RequestFault::from(f).to_string()))?;
            Ok(addressed(parcel, &resolver))
        };
        self.take(read).await
    }

    /// Takes a body of InfluxDB line protocol; its good lines are stored
    /// whatever is wrong with the others.
    pub async fn lines(
        &self,
        _leave: Admission,
        body: Vec<u8>,
        encoding: Encoding,
        precision: Precision,
    ) -> Result<Tally, OpenError> {
        let now = self.clock.now();
        let read = move |resolver: &Mutex<Resolver>| {
            let body = match encoding {
                Encoding::Plain => body,
                Encoding::Gzip => gunzip(&body)?,
            };
            if body.len() > MAX_DECODED {
                return Err(OpenError::TooLong);
            }
            let mut resolver = resolver.lock().unwrap_or_else(PoisonError::into_inner);
            let parcel = Parcel::of_lines(&body, precision, &mut resolver, now);
            Ok(addressed(parcel, &resolver))
        };
        self.take(read).await
    }

    async fn take(
        &self,
        read: impl FnOnce(&Mutex<Resolver>) -> Result<(Parcel, Vec<(u32, DeviceId)>), OpenError>
        + Send
        + 'static,
    ) -> Result<Tally, OpenError> {
        let resolver = Arc::clone(&self.resolver);
        // Parsing takes a processor for a while; other requests must not wait for it.
        let (parcel, devices) = tokio::task::spawn_blocking(move || read(&resolver))
            .await
            .map_err(|e| OpenError::Body(format!("the request could not be worked on: {e}")))??;
        let mut tally = parcel.tally;
        if !parcel.samples.is_empty() {
            let stopped = || OpenError::Store("it has stopped".into());
            let (reply, answer) = oneshot::channel();
            let request = Request {
                samples: parcel.samples,
                devices,
                reply,
            };
            self.desk.send(request).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())??.enter(&mut tally);
        }
        self.lock_totals().add(&tally);
        Ok(tally)
    }

    /// What became of all samples since the start.
    pub fn totals(&self) -> Tally {
        self.lock_totals().clone()
    }

    /// Metrics that came and are not in the catalogue, by name.
    pub fn unknown_metrics(&self) -> Vec<UnknownMetric> {
        let resolver = self.resolver.lock();
        resolver
            .unwrap_or_else(PoisonError::into_inner)
            .unknown
            .list()
    }

    fn lock_totals(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A parcel with the names of the devices in it.
fn addressed(parcel: Parcel, resolver: &Resolver) -> (Parcel, Vec<(u32, DeviceId)>) {
    let numbers: BTreeSet<u32> = parcel.samples.iter().map(|s| s.device).collect();
    let devices = (numbers.into_iter())
        .map(|n| (n, resolver.device(n).clone()))
        .collect();
    (parcel, devices)
}

/// Undoes gzip, several members included, within bounds.
fn gunzip(body: &[u8]) -> Result<Vec<u8>, OpenError> {
    let mut out = Vec::new();
    let read = flate2::read::MultiGzDecoder::new(body)
        .take(MAX_DECODED as u64 + 1)
        .read_to_end(&mut out);
    match read {
        Ok(_) if out.len() > MAX_DECODED => Err(OpenError::TooLong),
        Ok(_) => Ok(out),
        Err(error) => Err(OpenError::Body(format!("the body is no gzip: {error}"))),
    }
}

#[cfg(test)]
mod tests;
