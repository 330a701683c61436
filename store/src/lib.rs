//! The time-series store: one trait, and the engines behind it. Also the
//! clock that the rest of the program is given, and the checksummed log that
//! store, spool and journals share.

pub mod clock;
pub mod condensed;
pub mod conformance;
pub mod decisions;
pub mod directory_lock;
pub mod embedded;
pub mod foreign;
pub mod framed_log;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod influxdb2;
pub mod instants;
pub mod jobs;
pub mod promql;
pub mod query;
mod question;
pub mod remote;
pub mod transfer;
pub mod victoriametrics;

pub use clock::{Clock, SteppedClock, WallClock};
pub use query::{Answer, AppendReceipt, Query, Source, StoreError, TimeSeriesStore, Told};
pub use remote::RemoteStore;
