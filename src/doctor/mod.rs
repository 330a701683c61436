//! `heliostat doctor`: whether this machine, a broker and a store can do what a
//! site asks of them, before it relies on them.

mod machine;
mod store;

use anyhow::Context;
use heliostat_models::mqtt::MqttConfig;
use heliostat_store::conformance::{Finding, Verdict};
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check this machine, and with --store a time-series server: PASS, WARN and FAIL lines.
///
/// Without --store: the site file, the data directory, the sensors of this
/// machine, its GPUs, and with --mqtt a broker. Reads only: no power limit is
/// touched. With --store: writes some hundred frames of two hours ago to the
/// server, under device names that no site has (they begin with `rack-doctor`),
/// compares every kind of query, and leaves the frames there; about 20 seconds.
/// Ends with 0 when nothing failed (warnings allowed), with 1 otherwise.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  heliostat doctor\n  heliostat doctor --site site.toml --data /var/lib/heliostat --mqtt broker.example:1883\n  heliostat doctor --store http://127.0.0.1:8428\n  heliostat doctor --store http://vminsert:8480/insert/0/prometheus --read http://vmselect:8481/select/0/prometheus\n  heliostat doctor --store http://127.0.0.1:8086 --engine influxdb2 --org o --bucket b --token-env INFLUX_TOKEN"
)]
pub struct Args {
    /// Site file to hold this machine against
    #[arg(long, value_name = "FILE", conflicts_with = "store")]
    site: Option<PathBuf>,
    /// Data or spool directory to try; made if missing
    #[arg(long, value_name = "DIR", conflicts_with = "store")]
    data: Option<PathBuf>,
    /// Broker to send a message through
    #[arg(long, value_name = "HOST:PORT", value_parser = crate::broker_argument::parse, conflicts_with = "store")]
    mqtt: Option<MqttConfig>,
    /// NVML library, if not the system's
    #[arg(long, value_name = "PATH", conflicts_with = "store")]
    nvml_lib: Option<PathBuf>,
    /// Address of a time-series server, to write to
    #[arg(long, value_name = "URL", value_parser = store::address)]
    store: Option<String>,
    /// What kind of server it is
    #[arg(
        long,
        value_enum,
        default_value = "victoriametrics",
        requires = "store"
    )]
    engine: store::Kind,
    /// Address to read from, if not the same (a cluster's vmselect)
    #[arg(long, value_name = "URL", value_parser = store::address, requires = "store")]
    read: Option<String>,
    /// Environment variable that holds the token
    #[arg(long, value_name = "NAME", requires = "store")]
    token_env: Option<String>,
    /// Organisation of an InfluxDB
    #[arg(long, required_if_eq("engine", "influxdb2"), requires = "store")]
    org: Option<String>,
    /// Bucket of an InfluxDB
    #[arg(long, required_if_eq("engine", "influxdb2"), requires = "store")]
    bucket: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs the checks and prints what was found.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let runtime =
        tokio::runtime::Runtime::new().context("cannot start the asynchronous runtime")?;
    let (findings, left_behind) = match &args.store {
        Some(url) => {
            let (findings, run) = store::examine(args, url, &runtime)?;
            let note = format!("; the devices written have `{run}` in their names");
            (findings, note)
        }
        None => (machine::examine(args, &runtime), String::new()),
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &findings).context("cannot write the result")?;
        writeln!(out).context("cannot write the result")?;
    } else {
        writeln!(out, "{}{left_behind}", in_words(&findings)).context("cannot write the result")?;
    }
    let sound = findings.iter().all(|f| f.verdict != Verdict::Fail);
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn in_words(findings: &[Finding]) -> String {
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
    out + &format!(
        "{} passed, {} with a warning, {} failed",
        counts[0], counts[1], counts[2]
    )
}
