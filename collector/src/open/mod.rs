//! Open ingest: Prometheus remote write and InfluxDB line protocol, without
//! HTTP. Bodies become samples of our devices and metrics, and are answered
//! once the store has them on disk.
//!
//! ```text
//! body -> decompress, parse -> names and labels -> device, metric, our unit -> frames -> store
//!                                    |-> unknown metrics: each series a device of its own
//! ```
//!
//! What is refused is told with a reason; nothing is dropped in silence. What
//! a metric means is data: `collector/data/names.toml`.

mod book;
mod desk;
#[cfg(test)]
mod encode;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod line;
mod names;
mod parcel;
mod part;
mod place;
mod protobuf;
mod remote_write;
mod resolve;
mod unknown;

pub use line::Precision;
pub use names::{Names, NamesError};
pub use parcel::{Fault, Tally};
pub use remote_write::MAX_DECODED;
pub use resolve::MOST_UNKNOWN;
pub use unknown::UnknownMetric;

use desk::{Desk, Request};
use heliostat_models::{Site, Timestamp, foreign};
use heliostat_store::query::{Label, Selector};
use heliostat_store::{Clock, Query, TimeSeriesStore};
use parcel::Parcel;
use resolve::Resolver;
use std::io::Read as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Longest body as sent.
pub const MAX_BODY: usize = 32 << 20;
/// Requests in work at the same time; each may hold [`MAX_DECODED`] bytes and its samples.
const IN_WORK: usize = 8;
/// Bodies up to here are read in half a millisecond or less, which is not worth the
/// way to another thread and back.
const READ_AT_ONCE: usize = 1 << 20;
/// Longest buffer that is kept for the next request.
const KEPT_BUFFER: usize = 8 << 20;

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
    /// The store takes none of it, and would not if it came again.
    #[error("{0}")]
    Refused(String),
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
    /// Buffers of earlier requests.
    buffers: Buffers,
    store: Arc<dyn TimeSeriesStore>,
    /// The resolver knows which unknown metrics the store has.
    remembers: OnceCell<()>,
}

type Buffers = Arc<Mutex<Vec<Vec<u8>>>>;

impl OpenIngest {
    /// Starts on the running tokio runtime; ends when it is dropped.
    pub fn start(site: Arc<Site>, store: Arc<dyn TimeSeriesStore>, clock: Arc<dyn Clock>) -> Self {
        let (desk, queue) = mpsc::channel(IN_WORK);
        tokio::spawn(Desk::new(Arc::clone(&store)).run(queue));
        Self {
            resolver: Arc::new(Mutex::new(Resolver::new(site))),
            desk,
            clock,
            places: Arc::new(Semaphore::new(IN_WORK)),
            totals: Mutex::default(),
            buffers: Buffers::default(),
            store,
            remembers: OnceCell::new(),
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
        let length = remote_write::claimed_length(&body);
        let buffers = Arc::clone(&self.buffers);
        let read = move |resolver: &Mutex<Resolver>| {
            let mut buffer = lock(&buffers).pop().unwrap_or_default();
            let parcel = read_write(&body, &mut buffer, resolver, now);
            if buffer.len() <= KEPT_BUFFER {
                lock(&buffers).push(buffer);
            }
            parcel
        };
        self.take(length, read).await
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
        let length = match encoding {
            Encoding::Plain => body.len(),
            // It does not say.
            Encoding::Gzip => usize::MAX,
        };
        let read = move |resolver: &Mutex<Resolver>| {
            let body = match encoding {
                Encoding::Plain => body,
                Encoding::Gzip => gunzip(&body)?,
            };
            if body.len() > MAX_DECODED {
                return Err(OpenError::TooLong);
            }
            Ok(Parcel::of_lines(&body, precision, &mut lock(resolver), now))
        };
        self.take(length, read).await
    }

    /// Reads a body of so many bytes once decompressed, and has it written.
    async fn take(
        &self,
        length: usize,
        read: impl FnOnce(&Mutex<Resolver>) -> Result<Parcel, OpenError> + Send + 'static,
    ) -> Result<Tally, OpenError> {
        self.remember().await?;
        let parcel = if length <= READ_AT_ONCE {
            read(&self.resolver)?
        } else {
            // That takes a processor for a while; other requests must not wait for it.
            let resolver = Arc::clone(&self.resolver);
            (tokio::task::spawn_blocking(move || read(&resolver)).await).map_err(|e| {
                OpenError::Body(format!("the request could not be worked on: {e}"))
            })??
        };
        let mut tally = parcel.tally;
        if !parcel.parts.is_empty() {
            let stopped = || OpenError::Store("it has stopped".into());
            let (reply, answer) = oneshot::channel();
            let request = Request {
                parts: parcel.parts,
                reply,
            };
            self.desk.send(request).await.map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())??.enter(&mut tally);
        }
        lock(&self.totals).add(&tally);
        Ok(tally)
    }

    /// Learns once which unknown metrics the store has, so that their number stays
    /// bounded over restarts.
    async fn remember(&self) -> Result<(), OpenError> {
        let ask = || async {
            let query = Query::Latest {
                select: Selector {
                    devices: Vec::new(),
                    labels: vec![(Label::Kind, foreign::KIND.to_owned())],
                },
                since: Timestamp(i64::MIN),
            };
            let frames = (self.store.query(&query).await)
                .map_err(|e| OpenError::Store(e.to_string()))?
                .frames();
            let series = frames.into_iter().map(|frame| frame.device);
            lock(&self.resolver).has_stored(series.filter(foreign::is_foreign));
            Ok(())
        };
        self.remembers.get_or_try_init(ask).await?;
        Ok(())
    }

    /// What became of all samples since the start.
    pub fn totals(&self) -> Tally {
        lock(&self.totals).clone()
    }

    /// Metrics that came and are not in the catalogue, by name.
    pub fn unknown_metrics(&self) -> Vec<UnknownMetric> {
        lock(&self.resolver).unknown.list()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a remote-write request.
fn read_write(
    body: &[u8],
    buffer: &mut Vec<u8>,
    resolver: &Mutex<Resolver>,
    now: Timestamp,
) -> Result<Parcel, OpenError> {
    let length = remote_write::decompress(body, buffer).map_err(|fault| match fault {
        remote_write::RequestFault::TooLong { claimed } if claimed > MAX_DECODED => {
            OpenError::TooLong
        }
        other => OpenError::Body(other.to_string()),
    })?;
    let message = buffer.get(..length).unwrap_or_default();
    Parcel::of_remote_write(message, &mut lock(resolver), now)
        .map_err(|f| OpenError::Body(remote_write::RequestFault::from(f).to_string()))
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

/// The time of tests.
#[cfg(any(test, fuzzing))]
const NOW: Timestamp = Timestamp::from_seconds(1_700_000_000);

#[cfg(test)]
mod tests;
