//! The suite that all engines must pass, and that a broken one must not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod remote_support;

use async_trait::async_trait;
use heliostat_models::Frame;
use heliostat_store::conformance::{self, Finding, Subject, Verdict};
use heliostat_store::embedded::EmbeddedStore;
use heliostat_store::query::{Answer, AppendReceipt, Query, StoreError, StoreStats};
use heliostat_store::{Clock, TimeSeriesStore, WallClock};
use remote_support::{Remote, VictoriaProcess, open_victoria, run_name};
use std::sync::Arc;

struct Plain<S>(S);

#[async_trait]
impl<S: TimeSeriesStore> Subject for Plain<S> {
    fn store(&self) -> &dyn TimeSeriesStore {
        &self.0
    }
    async fn settle(&self) -> Result<(), String> {
        Ok(())
    }
}

#[track_caller]
fn all_pass(findings: &[Finding], warnings_allowed: bool) {
    assert!(findings.len() > 40, "{findings:#?}");
    let bad: Vec<&Finding> = (findings.iter())
        .filter(|f| f.verdict == Verdict::Fail || (f.verdict == Verdict::Warn && !warnings_allowed))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

/// Any store, through the trait alone.
struct Shared(Arc<EmbeddedStore>);

#[async_trait]
impl TimeSeriesStore for Shared {
    async fn append(&self, frames: Vec<Frame>) -> Result<AppendReceipt, StoreError> {
        self.0.append(frames).await
    }
    async fn query(&self, query: &Query) -> Result<Answer, StoreError> {
        self.0.query(query).await
    }
    fn stats(&self) -> StoreStats {
        self.0.stats()
    }
}

fn embedded(directory: &std::path::Path) -> (Shared, heliostat_models::Site) {
    let site = conformance::site(&run_name()).unwrap();
    let clock = Arc::new(WallClock);
    (
        Shared(EmbeddedStore::open(directory, Arc::new(site.clone()), clock).unwrap()),
        site,
    )
}

#[tokio::test]
async fn the_embedded_engine_conforms_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let (store, site) = embedded(directory.path());
    let findings = conformance::run(&Plain(store), &site, WallClock.now()).await;
    all_pass(&findings, false);
}

/// Loses the estimated mark of every reading.
struct Careless(Shared);

#[async_trait]
impl TimeSeriesStore for Careless {
    async fn append(&self, mut frames: Vec<Frame>) -> Result<AppendReceipt, StoreError> {
        for (_, reading) in frames.iter_mut().flat_map(|f| &mut f.readings) {
            if let Some(value) = reading.value() {
                *reading = heliostat_models::Reading::Measured(value);
            }
        }
        self.0.append(frames).await
    }
    async fn query(&self, query: &Query) -> Result<Answer, StoreError> {
        self.0.query(query).await
    }
    fn stats(&self) -> StoreStats {
        self.0.stats()
    }
}

#[tokio::test]
async fn the_suite_finds_an_engine_that_forgets_qualities() {
    let directory = tempfile::tempdir().unwrap();
    let (store, site) = embedded(directory.path());
    let findings = conformance::run(&Plain(Careless(store)), &site, WallClock.now()).await;
    let failed: Vec<&str> = (findings.iter())
        .filter(|f| f.verdict == Verdict::Fail)
        .map(|f| f.check.as_str())
        .collect();
    assert!(failed.contains(&"range (at once)"), "{failed:?}");
    assert!(
        failed.contains(&"missing and estimated (at once)"),
        "{failed:?}"
    );
    // What has nothing to do with qualities is not blamed.
    assert!(!failed.contains(&"duplicates"), "{failed:?}");
    assert!(
        !failed.contains(&"over time: Increase (at once)"),
        "{failed:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victoriametrics_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = VictoriaProcess::start(directory.path()) else {
        return;
    };
    let site = conformance::site(&run_name()).unwrap();
    let store = open_victoria(directory.path(), &server.url(), &site);
    let findings = conformance::run(&Remote(Arc::clone(&store)), &site, WallClock.now()).await;
    // It keeps values to about 12 digits, which is worth a warning.
    all_pass(&findings, true);
    store.close().await;
}
