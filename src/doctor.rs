//! `heliostat doctor`: whether a server can be a site's store.

use crate::engine::external;
use anyhow::Context;
use heliostat_models::Site;
use heliostat_models::site::store::StoreChoice;
use heliostat_store::conformance::{self, Finding, Subject, Verdict};
use heliostat_store::remote::{Engine, Options};
use heliostat_store::{Clock, RemoteStore, TimeSeriesStore, WallClock};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long the server may take until all that was written is surely in it.
const SETTLE: Duration = Duration::from_secs(120);

/// Try a time-series server: write, read back, compare every kind of query.
///
/// Writes some hundred frames of two hours ago under device names that no site
/// has (they begin with `rack-doctor`) and leaves them there. Takes about 20
/// seconds. Ends with 0 when nothing failed (warnings allowed), with 1 otherwise.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  heliostat doctor --store http://127.0.0.1:8428\n  heliostat doctor --store http://vminsert:8480/insert/0/prometheus --read http://vmselect:8481/select/0/prometheus\n  heliostat doctor --store http://127.0.0.1:8086 --engine influxdb2 --org o --bucket b --token-env INFLUX_TOKEN"
)]
pub struct Args {
    /// Address of the server, to write to
    #[arg(long, value_name = "URL")]
    store: String,
    /// What kind of server it is
    #[arg(long, value_enum, default_value = "victoriametrics")]
    engine: Kind,
    /// Address to read from, if not the same (a cluster's vmselect)
    #[arg(long, value_name = "URL")]
    read: Option<String>,
    /// Environment variable that holds the token
    #[arg(long, value_name = "NAME")]
    token_env: Option<String>,
    /// Organisation of an InfluxDB
    #[arg(long, required_if_eq("engine", "influxdb2"))]
    org: Option<String>,
    /// Bucket of an InfluxDB
    #[arg(long, required_if_eq("engine", "influxdb2"))]
    bucket: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Victoriametrics,
    Influxdb2,
}

/// Runs the suite and prints what was found.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let choice = args.choice()?;
    let now = WallClock.now();
    let run = format!("doctor{:x}", now.millis());
    let site = conformance::site(&run).map_err(anyhow::Error::msg)?;
    let spool = std::env::temp_dir().join(format!("heliostat-{run}-{}", std::process::id()));
    let runtime =
        tokio::runtime::Runtime::new().context("cannot start the asynchronous runtime")?;
    let findings = runtime.block_on(examine(&choice, &site, &spool));
    let _ = std::fs::remove_dir_all(&spool);
    let findings = findings?;
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &findings).context("cannot write the result")?;
        writeln!(out).context("cannot write the result")?;
    } else {
        write!(out, "{}", in_words(&findings, &run)).context("cannot write the result")?;
    }
    let sound = findings.iter().all(|f| f.verdict != Verdict::Fail);
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Args {
    fn choice(&self) -> anyhow::Result<StoreChoice> {
        Ok(match self.engine {
            Kind::Victoriametrics => StoreChoice::Victoriametrics {
                url: self.store.clone(),
                read_url: self.read.clone(),
                token_env: self.token_env.clone(),
            },
            Kind::Influxdb2 => StoreChoice::Influxdb2 {
                url: self.store.clone(),
                org: self.org.clone().context("--org is needed")?,
                bucket: self.bucket.clone().context("--bucket is needed")?,
                token_env: (self.token_env.clone())
                    .context("an InfluxDB needs a token: --token-env NAME names the environment variable that holds it")?,
            },
        })
    }
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

async fn examine(choice: &StoreChoice, site: &Site, spool: &Path) -> anyhow::Result<Vec<Finding>> {
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

fn in_words(findings: &[Finding], run: &str) -> String {
    let mut out = String::new();
    let mut counts = [0; 3];
    for finding in findings {
        let word = match finding.verdict {
            Verdict::Pass => "PASS",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        counts[finding.verdict as usize] += 1;
        out += &format!("{word}  {}: {}\n", finding.check, finding.detail);
    }
    out += &format!(
        "{} passed, {} with a warning, {} failed; the devices written have `{run}` in their names\n",
        counts[0], counts[1], counts[2]
    );
    out
}
