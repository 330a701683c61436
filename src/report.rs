//! `heliostat report`: energy, PUE, REF and carbon of a period.

use crate::http_get::escape;
use crate::offline;
use crate::plan::ask;
use anyhow::{Context, bail};
use heliostat_dashboard::report::{ReportOptions, report};
use heliostat_store::{Clock, WallClock};
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Energy, PUE, REF and location-based carbon of a period, each figure with the
/// shares of it that are measured, estimated and missing.
///
/// Reads the data directory while its server is stopped, and asks the server
/// while it runs. Changes nothing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  heliostat report --site site-configs/demo.toml --data ./data --from last-24h --csv --out day.csv\n\nExit code 1 when not one figure could be computed."
)]
pub struct Args {
    /// Site file (see `heliostat check`)
    #[arg(long, value_name = "FILE")]
    site: PathBuf,
    /// Data directory of the server
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Begin, inclusive: now-24h, last-24h (from the newest frame of a stopped server), 2019-03-01T12:00:00Z or 2019-03-01
    #[arg(long, value_name = "INSTANT")]
    from: String,
    /// End, exclusive [default: now; of a stopped server last, its newest frame]
    #[arg(long, value_name = "INSTANT")]
    to: Option<String>,
    /// As JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// As CSV
    #[arg(long)]
    csv: bool,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Where the server answers while it runs
    #[arg(long, value_name = "ADDRESS", default_value = "http://127.0.0.1:8080")]
    server: String,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (text, is_empty) = match offline::open(&args.site, &args.data)? {
        Some(offline) => from_store(args, &offline)?,
        None => from_server(args)?,
    };
    match &args.out {
        Some(path) => std::fs::write(path, &text)
            .with_context(|| format!("cannot write {}", path.display()))?,
        None => std::io::stdout().write_all(text.as_bytes())?,
    }
    if is_empty {
        eprintln!(
            "heliostat: not one figure could be computed for {} to {}; `heliostat query meter_energy_joules_total` shows what the store holds",
            args.from,
            args.to.as_deref().unwrap_or("its end")
        );
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// The end where none is given: a running server's is now. A stopped one knows
/// nothing after its newest frame; up to now all would be missing.
fn end(args: &Args, is_stopped: bool) -> &str {
    let default = if is_stopped { "last" } else { "now" };
    args.to.as_deref().unwrap_or(default)
}

fn from_store(args: &Args, offline: &offline::Offline) -> anyhow::Result<(String, bool)> {
    let runtime =
        tokio::runtime::Runtime::new().context("cannot start the asynchronous runtime")?;
    runtime.block_on(async {
        let now = WallClock.now();
        let from = offline.instant(&args.from, now).await.context("--from")?;
        let to = offline.instant(end(args, true), now).await.context("--to")?;
        if from >= to && args.to.is_none() {
            bail!(
                "--from: the newest frame of {} is of {to}, before {from}; count from it with --from last-24h, or give --to",
                args.data.display()
            );
        }
        let made = report(
            &offline.site,
            offline.store.as_ref(),
            from,
            to,
            ReportOptions::default(),
        )
        .await?;
        let text = if args.csv {
            made.to_csv()
        } else if args.json {
            format!("{:#}\n", made.to_json())
        } else {
            table(&made.to_json())
        };
        Ok((text, made.is_empty()))
    })
}

fn from_server(args: &Args) -> anyhow::Result<(String, bool)> {
    let path = |format: &str| {
        let (from, to) = (escape(&args.from), escape(end(args, false)));
        format!("/api/v1/report?from={from}&to={to}&format={format}")
    };
    let json: Value = serde_json::from_str(&ask(&args.server, &path("json"))?)
        .context("the server's report is no JSON")?;
    let text = if args.csv {
        ask(&args.server, &path("csv"))?
    } else if args.json {
        format!("{json:#}\n")
    } else {
        table(&json)
    };
    let is_empty = json["values"]
        .as_object()
        .is_none_or(|values| values.values().all(|v| v["value"].is_null()));
    Ok((text, is_empty))
}

/// The report for people.
fn table(report: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut out = format!(
        "Report of {}, {} to {}\n\n{:45} {:>14} {:11} {:>9} {:>9} {:>9}\n",
        text(&report["site"]),
        text(&report["from"]),
        text(&report["to"]),
        "FIGURE",
        "VALUE",
        "UNIT",
        "MEASURED",
        "ESTIMATED",
        "MISSING"
    );
    let mut notes = String::new();
    for v in report["values"]
        .as_object()
        .into_iter()
        .flat_map(|o| o.values())
    {
        let value = v["value"]
            .as_f64()
            .map_or_else(|| "not known".to_owned(), |v| format!("{v:.3}"));
        let share = |name: &str| format!("{:.1} %", v[name].as_f64().unwrap_or(0.0) * 100.0);
        let unit = match v["unit"].as_str() {
            Some("1") | None => "",
            Some(unit) => unit,
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{:45} {value:>14} {unit:11} {:>9} {:>9} {:>9}",
            text(&v["label"]),
            share("measured_share"),
            share("estimated_share"),
            share("missing_share")
        );
        if let Some(note) = v["note"].as_str().filter(|n| !n.is_empty()) {
            let _ = writeln!(notes, "  {}: {note}", text(&v["label"]));
        }
    }
    if !notes.is_empty() {
        out.push_str("\nNotes\n");
        out.push_str(&notes);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_stopped_server_is_reported_up_to_its_newest_frame() {
        let line = ["report", "--site", "s.toml", "--from", "last-24h"];
        let open = Line::parse_from(line).args;
        assert_eq!((end(&open, true), end(&open, false)), ("last", "now"));
        let line = line.into_iter().chain(["--to", "2019-03-01"]);
        let given = Line::parse_from(line).args;
        assert_eq!(end(&given, true), "2019-03-01");
        assert_eq!(end(&given, false), "2019-03-01");
    }
}
