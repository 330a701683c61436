//! `cargo xtask bench store`, the part with processes: `heliostat run` and
//! VictoriaMetrics side by side, the same bodies to both, questions to both with
//! their answers compared. `docs/store-bench.md` says what each line means.
//!
//! HELIOSTAT_BENCH_HOURS sets how long the hall's data are (6). `small`, `large`
//! or `idle` as an argument runs that part alone.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a bench speaks on standard output, goes by the wall and may stop short"
)]

mod ask;
mod bodies;
mod feed;
#[path = "../../store/benches/hall/mod.rs"]
mod hall;
mod large;
mod process;
mod size;
mod small;

use heliostat_models::Site;
use heliostat_models::site::config;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The peer as the lines name it.
const PEER: &str = "VictoriaMetrics";

/// Whether an answer was not the peer's.
static DIFFER: AtomicBool = AtomicBool::new(false);

/// A site file of the project and what it says.
fn site(name: &str) -> (PathBuf, Arc<Site>) {
    let path = PathBuf::from(format!(
        "{}/site-configs/{name}.toml",
        env!("CARGO_MANIFEST_DIR")
    ));
    let text = std::fs::read_to_string(&path).expect("the site file");
    let loaded = config::load(name, &text, config::LoadOptions::default());
    (path, Arc::new(loaded.site.expect("the site is sound")))
}

/// Prints a line; `theirs` beside `ours` where there is such a figure.
fn line(name: &str, unit: &str, ours: f64, theirs: Option<f64>) {
    let ratio = theirs.filter(|t| *t > 0.0).map(|t| ours / t);
    println!(
        "{}",
        json!({"name": name, "unit": unit, "ours": ours, "theirs": theirs, "ratio": ratio, "peer": theirs.map(|_| PEER)})
    );
}

/// Seconds since 1970 of the last whole minute.
fn last_minute() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs() as i64 / 60 * 60
}

fn main() {
    let with_peer = process::victoria_metrics_is_there();
    if !with_peer {
        eprintln!(
            "SKIPPED: victoria-metrics is not installed, so nothing is compared; `cargo xtask peers` installs it"
        );
    }
    let root = tempfile::tempdir_in(
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(std::env::temp_dir, Into::into),
    )
    .expect("a directory");
    let hours = (std::env::var("HELIOSTAT_BENCH_HOURS").ok())
        .and_then(|text| text.parse().ok())
        .unwrap_or(6);
    // cargo adds `--bench`.
    let named: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|n| n == part);
    if wanted("small") {
        let their_size = small::run(&root.path().join("small"), hours, with_peer);
        size::run(&root.path().join("size"), hours.min(2), their_size);
    }
    if wanted("large") {
        large::run(&root.path().join("large"), with_peer);
    }
    if wanted("idle") {
        large::idle_site(&root.path().join("idle"));
    }
    assert!(!DIFFER.load(Ordering::Relaxed), "answers differ, see above");
}
