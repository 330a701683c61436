//! `heliostat budget`: how much power a site, hall, rack or job may use, as a
//! running server tells it.

use crate::http_get;
use crate::plan::{ask, minute};
use anyhow::Context;
use serde_json::Value;
use std::io::Write;
use std::process::ExitCode;

/// Shows how much power a part of the site may use, now and for 48 hours.
///
/// Asks a running heliostat (`heliostat run` or `heliostat demo`). Changes
/// nothing. Slots that follow each other with the same figures are shown as
/// one line.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose budget: site, hall:NAME, rack:NAME or job:ID.
    #[arg(default_value = "site")]
    scope: String,
    /// Where heliostat answers.
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "ADDRESS")]
    server: String,
    /// Print the answer as the server gives it.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// When the scope is none, no server answers, or nothing bears the name.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let scope: heliostat_optimizer::budget::Scope = args.scope.parse()?;
    let path = format!(
        "/api/v1/power-budget?scope={}",
        http_get::escape(&scope.to_string())
    );
    let body = ask(&args.server, &path)?;
    let text = if args.json {
        format!("{}\n", body.trim_end())
    } else {
        let budget: Value = serde_json::from_str(&body).context("the budget is no JSON")?;
        table(&budget)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The budget for people.
fn table(budget: &Value) -> String {
    let mut out = format!(
        "Power budget of {}, as of {}\n\n{:16}  {:16}  {:>10}  {:>10}  {:>8}  WHY\n",
        budget["scope"].as_str().unwrap_or_default(),
        minute(&budget["issued"]),
        "FROM",
        "TO",
        "MAY USE kW",
        "PLANNED kW",
        "g/kWh",
    );
    out.push_str(&row(&budget["now"], &budget["now"]["end"], "now"));
    let empty = Vec::new();
    let slots = budget["slots"].as_array().unwrap_or(&empty);
    let mut at = 0;
    while at < slots.len() {
        let mut last = at;
        while last + 1 < slots.len() && alike(&slots[at], &slots[last + 1]) {
            last += 1;
        }
        let from = minute(&slots[at]["start"]);
        out.push_str(&row(&slots[at], &slots[last]["end"], &from));
        at = last + 1;
    }
    out
}

/// Whether two slots would make the same line.
fn alike(a: &Value, b: &Value) -> bool {
    let tenth = |v: &Value, key: &str| (v[key].as_f64().unwrap_or(-1.0) / 100.0).round();
    let gram = |v: &Value| v["carbon"].as_f64().map(f64::round);
    ["power", "planned"]
        .iter()
        .all(|k| tenth(a, k) == tenth(b, k))
        && gram(a) == gram(b)
        && a["reason"] == b["reason"]
}

fn row(slot: &Value, end: &Value, from: &str) -> String {
    let kilowatts = |key: &str| match slot[key].as_f64() {
        Some(watts) => format!("{:.1}", watts / 1e3),
        None => "-".to_owned(),
    };
    let carbon = match slot["carbon"].as_f64() {
        Some(grams) => format!("{grams:.0}"),
        None => "-".to_owned(),
    };
    format!(
        "{from:16}  {:16}  {:>10}  {:>10}  {carbon:>8}  {}\n",
        minute(end),
        kilowatts("power"),
        kilowatts("planned"),
        slot["reason"].as_str().unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_like_slots_and_names_the_limit() {
        let slot = |from: &str, to: &str, power: f64, reason: &str| {
            serde_json::json!({"start": from, "end": to, "power": power, "planned": 1_000.0,
                "carbon": 210.4, "reason": reason})
        };
        let a = slot(
            "2019-03-01T00:00:00Z",
            "2019-03-01T00:15:00Z",
            9_000.0,
            "limit of pdu1",
        );
        let b = slot(
            "2019-03-01T00:15:00Z",
            "2019-03-01T00:30:00Z",
            9_000.0,
            "limit of pdu1",
        );
        let c = slot(
            "2019-03-01T00:30:00Z",
            "2019-03-01T00:45:00Z",
            6_000.0,
            "grid event e1",
        );
        let budget = serde_json::json!({"scope": "rack:r01", "issued": "2019-03-01T00:00:00Z",
            "now": a, "slots": [a, b, c]});
        let text = table(&budget);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6, "{text}");
        assert!(lines[4].starts_with("2019-03-01 00:00  2019-03-01 00:30         9.0"));
        assert!(lines[5].contains("6.0") && lines[5].ends_with("grid event e1"));
    }
}
