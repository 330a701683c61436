//! What the tests of the embedded store share.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)] // each test file uses a part

use heliostat_models::site::config;
use heliostat_models::{Catalogue, DeviceId, Frame, MetricId, Reading, Site, Timestamp};
use heliostat_store::embedded::{EmbeddedStore, Options};
use heliostat_store::query::Selector;
use heliostat_store::{Query, SteppedClock, StoreError, TimeSeriesStore};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The demo's site.
pub static SITE: LazyLock<Arc<Site>> = LazyLock::new(|| {
    let text = include_str!("../../../site-configs/demo.toml");
    let loaded = config::load("demo.toml", text, Default::default());
    Arc::new(loaded.site.expect("the demo's site is sound"))
});

/// A runtime on this thread.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Options that seal at so many readings and never by age,
/// and compact early.
pub fn sealing_at(seal_samples: u64) -> Options {
    Options {
        seal_samples,
        seal_age: Duration::from_secs(1_000_000_000),
        compact_files: 3,
        rollup_rows: 0,
        ..Options::default()
    }
}

pub fn open(directory: &Path, options: Options) -> Arc<EmbeddedStore> {
    try_open(directory, options).unwrap()
}

pub fn try_open(directory: &Path, options: Options) -> Result<Arc<EmbeddedStore>, StoreError> {
    let clock = Arc::new(SteppedClock::new(Timestamp(0)));
    EmbeddedStore::open_with(directory, Arc::clone(&SITE), clock, options)
}

pub fn metric(name: &str) -> MetricId {
    Catalogue::builtin().id(name).unwrap()
}

/// A frame with the power of one GPU.
pub fn power_frame(device: &str, at: i64, watts: f64) -> Frame {
    Frame {
        device: DeviceId::from(device),
        at: Timestamp(at),
        readings: vec![(Catalogue::gpu_power(), Reading::Measured(watts))],
    }
}

/// All instants stored of a device with a power, and the values, through a query.
pub async fn stored(store: &EmbeddedStore, device: &str) -> Vec<(i64, f64)> {
    let query = Query::Range {
        metric: "gpu_power_watts".to_owned(),
        select: Selector {
            devices: vec![DeviceId::from(device)],
            labels: vec![],
        },
        from: Timestamp(i64::MIN),
        to: Timestamp(i64::MAX),
    };
    let series = store.query(&query).await.unwrap().series();
    (series.iter().flat_map(|s| &s.points))
        .map(|p| (p.at.0, p.value.unwrap()))
        .collect()
}

/// All files below a directory, by name.
pub fn files_below(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}
