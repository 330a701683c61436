//! Bytes a sample of the hall at declared precision and lossless, segments,
//! rollups and all, of a store of its own.

use crate::hall::{GPUS, Hall};
use crate::process::bytes_below;
use crate::{last_minute, line, site};
use heliostat_models::Timestamp;
use heliostat_store::embedded::{EmbeddedStore, Options, Precision};
use heliostat_store::{SteppedClock, TimeSeriesStore};
use std::path::Path;
use std::sync::Arc;

/// Writes so many hours both ways; `theirs` are VictoriaMetrics' bytes a sample.
pub fn run(root: &Path, hours: i64, theirs: Option<f64>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (_, site) = site("demo");
    for (name, precision) in [
        ("frames_lossless", Precision::Lossless),
        ("declared", Precision::AllDeclared),
    ] {
        let directory = root.join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let begin = (last_minute() - hours * 3_600) * 1_000;
        let clock = Arc::new(SteppedClock::new(Timestamp(begin + hours * 3_600_000)));
        let options = Options {
            precision,
            ..Options::default()
        };
        let store = EmbeddedStore::open_with(&directory, Arc::clone(&site), clock, options);
        let store = store.expect("the store");
        let devices = site.devices[..GPUS].iter().map(|d| d.id.clone()).collect();
        let mut hall = Hall::new(devices, 1);
        let samples = runtime.block_on(async {
            for _ in 0..hours * 3_600 {
                store.append(hall.next(begin)).await.expect("appended");
            }
            store.compact().await.expect("compacted");
            let samples = store.stats().samples as f64;
            store.close().await;
            samples
        });
        let bytes = bytes_below(&directory) as f64 / samples;
        line(
            &format!("store_bytes_per_sample_{name}"),
            "B",
            bytes,
            theirs,
        );
    }
}
