//! Whether a server can be a site's store.

use super::Args;
use crate::engine::external;
use anyhow::Context;
use heliostat_models::Site;
use heliostat_models::site::store::StoreChoice;
use heliostat_store::conformance::{self, Finding, Subject, Verdict};
use heliostat_store::remote::{Engine, Options};
use heliostat_store::{Clock, RemoteStore, TimeSeriesStore, WallClock};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long the server may take until all that was written is surely in it.
const SETTLE: Duration = Duration::from_secs(120);

/// What a server may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// VictoriaMetrics, single or cluster
    Victoriametrics,
    /// InfluxDB 2
    Influxdb2,
}

/// An address as the engines take it.
pub fn address(text: &str) -> Result<String, String> {
    let rest = (text.strip_prefix("http://")).filter(|rest| !rest.is_empty());
    rest.map(|_| text.to_owned())
        .ok_or_else(|| "write it like http://127.0.0.1:8428 (TLS: through a tunnel)".to_owned())
}

/// Runs the conformance suite against a server; also the run's name, which the
/// devices written bear.
pub fn examine(
    args: &Args,
    url: &str,
    runtime: &tokio::runtime::Runtime,
) -> anyhow::Result<(Vec<Finding>, String)> {
    let choice = choice(args, url)?;
    let now = WallClock.now();
    let run = format!("doctor{:x}", now.millis());
    let site = conformance::site(&run).map_err(anyhow::Error::msg)?;
    let spool = std::env::temp_dir().join(format!("heliostat-{run}-{}", std::process::id()));
    let findings = runtime.block_on(conform(&choice, &site, &spool));
    let _ = std::fs::remove_dir_all(&spool);
    Ok((findings?, run))
}

fn choice(args: &Args, url: &str) -> anyhow::Result<StoreChoice> {
    Ok(match args.engine {
        Kind::Victoriametrics => StoreChoice::Victoriametrics {
            url: url.to_owned(),
            read_url: args.read.clone(),
            token_env: args.token_env.clone(),
        },
        Kind::Influxdb2 => StoreChoice::Influxdb2 {
            url: url.to_owned(),
            org: args.org.clone().context("--org is needed")?,
            bucket: args.bucket.clone().context("--bucket is needed")?,
            token_env: (args.token_env.clone())
                .context("an InfluxDB needs a token: --token-env NAME names the environment variable that holds it")?,
        },
    })
}

/// The store under examination.
struct Patient(Arc<RemoteStore>);

#[async_trait::async_trait]
impl Subject for Patient {
    fn store(&self) -> &dyn TimeSeriesStore {
        self.0.as_ref()
    }
    async fn settle(&self) -> Result<(), String> {
        if self.0.drained(SETTLE).await {
            return Ok(());
        }
        let health = self.0.health();
        Err(format!(
            "after {} s, {} readings are not surely in it: {}",
            SETTLE.as_secs(),
            health.spooled_samples,
            health
                .trouble
                .as_deref()
                .unwrap_or("it answers, but they are not found")
        ))
    }
}

async fn conform(choice: &StoreChoice, site: &Site, spool: &Path) -> anyhow::Result<Vec<Finding>> {
    let site = Arc::new(site.clone());
    let engine: Arc<dyn Engine> =
        external(choice, &site)?.context("the embedded engine needs no doctor")?;
    if let Err(error) = engine.process().await {
        return Ok(vec![Finding {
            check: "it answers".to_owned(),
            verdict: Verdict::Fail,
            detail: error.to_string(),
        }]);
    }
    let clock = Arc::new(WallClock);
    let store = RemoteStore::open(spool, engine, Arc::clone(&site), clock, Options::default())?;
    let patient = Patient(Arc::clone(&store));
    let findings = conformance::run(&patient, &site, WallClock.now()).await;
    store.close().await;
    Ok(findings)
}
