//! `heliostat plan`: the plan in force, as a running server tells it.

use crate::http_get;
use anyhow::{Context, bail};
use serde_json::Value;
use std::io::Write;
use std::process::ExitCode;

/// Shows which job runs when, at which pace, and why.
///
/// Asks a running heliostat (`heliostat run` or `heliostat demo`) for the plan
/// in force. Changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
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
/// When no server answers, or its answer is not understood.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let body = ask(&args.server, "/api/v1/plan")?;
    let text = if args.json {
        format!("{}\n", body.trim_end())
    } else {
        let answer: Value = serde_json::from_str(&body).context("the plan is no JSON")?;
        table(&answer)
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// The body of a successful answer; else an error that says what the server said.
pub fn ask(server: &str, path: &str) -> anyhow::Result<String> {
    let (status, body) = http_get::get(server, path)?;
    if status == 200 {
        return Ok(body);
    }
    let said: Option<Value> = serde_json::from_str(&body).ok();
    let field = |name: &str| {
        let value = said.as_ref()?.get(name)?;
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        (!text.is_empty() && text != "null").then_some(text)
    };
    let mut message = field("error").unwrap_or_else(|| format!("{server} answers {status}"));
    for name in ["allowed", "remedy"] {
        if let Some(more) = field(name) {
            message.push_str(&format!("; {name}: {more}"));
        }
    }
    bail!(message)
}

/// The plan for people.
fn table(answer: &Value) -> String {
    // Some answers wrap the plan, an absent one is null.
    let plan = answer.get("plan").unwrap_or(answer);
    if plan.is_null() {
        return "There is no plan yet; the planner makes its first within one planning period.\n"
            .to_owned();
    }
    let mut out = String::new();
    let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let certificate = &plan["certificate"];
    out.push_str(&format!("Plan of {}\n", text(plan, "issued")));
    if let (Some(cost), Some(bound), Some(gap)) = (
        certificate["primal"].as_f64(),
        certificate["dual_bound"].as_f64(),
        certificate["gap"].as_f64(),
    ) {
        out.push_str(&format!(
            "Cost {cost:.1} kWh at the mean price of the horizon; no plan costs less than {bound:.1} (gap {:.2} %)\n",
            gap * 100.0
        ));
    }
    let empty = Vec::new();
    let jobs = plan["jobs"].as_array().unwrap_or(&empty);
    let width = jobs
        .iter()
        .filter_map(|j| j["job"].as_str())
        .map(str::len)
        .fold(3, usize::max);
    out.push_str(&format!(
        "\n{:width$}  {:16}  {:16}  {:>7}  {:>5}  WHY\n",
        "JOB", "FROM", "TO", "HOURS", "CAP"
    ));
    for job in jobs {
        let runs = job["runs"].as_array().unwrap_or(&empty);
        let first = runs.first().map(|r| minute(&r[0])).unwrap_or_default();
        let last = runs.last().map(|r| minute(&r[1])).unwrap_or_default();
        let (hours, cap) = hours_and_cap(runs);
        out.push_str(&format!(
            "{:width$}  {first:16}  {last:16}  {hours:>7.2}  {:>4.0}%  {}\n",
            text(job, "job"),
            cap * 100.0,
            text(job, "reason")
        ));
    }
    if jobs.is_empty() {
        out.push_str("No job waits or runs.\n");
    }
    for contract in plan["contracts"].as_array().unwrap_or(&empty) {
        out.push_str(&contract_line(contract));
    }
    out
}

/// A power contract in one line: how near the plan comes to it, and when it binds.
fn contract_line(contract: &Value) -> String {
    let empty = Vec::new();
    let slots = contract["slots"].as_array().unwrap_or(&empty);
    let watts = |slot: &Value, key: &str| slot[key].as_f64().unwrap_or(0.0);
    let limit = watts(contract, "limit");
    let most = (slots.iter())
        .map(|slot| watts(slot, "uncontrolled") + watts(slot, "capped"))
        .fold(0.0, f64::max);
    let binding: Vec<&Value> = slots.iter().filter(|s| watts(s, "price") > 1e-6).collect();
    let binds = match binding.first() {
        None => "binds in no slot".to_owned(),
        Some(first) => format!(
            "binds in {} of {} slots, first at {}",
            binding.len(),
            slots.len(),
            minute(&first["start"])
        ),
    };
    format!(
        "\nPower contract {}: at most {:.1} kW of {:.1} kW planned; {binds}\n",
        contract["id"].as_str().unwrap_or_default(),
        most / 1e3,
        limit / 1e3
    )
}

/// Hours in which a job runs, and its mean cap relative to the highest.
fn hours_and_cap(runs: &[Value]) -> (f64, f64) {
    let (mut hours, mut weighted) = (0.0, 0.0);
    for run in runs {
        let (Some(from), Some(to)) = (instant(&run[0]), instant(&run[1])) else {
            continue;
        };
        let span = to.seconds_since(from) / 3_600.0;
        hours += span;
        weighted += span * run[2].as_f64().unwrap_or(0.0);
    }
    (hours, if hours > 0.0 { weighted / hours } else { 0.0 })
}

fn instant(value: &Value) -> Option<heliostat_models::Timestamp> {
    heliostat_models::Timestamp::parse(value.as_str()?)
}

/// An instant to the minute, as a person reads it.
pub fn minute(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    text.get(..16).unwrap_or(text).replace('T', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_jobs_with_hours_cap_and_reason() {
        let plan = serde_json::json!({
            "issued": "2019-03-01T00:00:00Z",
            "certificate": {"primal": 100.0, "dual_bound": 99.0, "gap": 0.01, "inputs_hash": ""},
            "jobs": [{
                "job": "train-1",
                "runs": [["2019-03-01T02:00:00Z", "2019-03-01T04:00:00Z", 0.8],
                         ["2019-03-01T06:00:00Z", "2019-03-01T08:00:00Z", 0.6]],
                "reason": "waits until 2019-03-01T02:00:00Z",
            }],
            "slots": [],
        });
        let text = table(&plan);
        assert!(text.contains("gap 1.00 %"), "{text}");
        let line = text.lines().last().unwrap();
        assert!(line.contains("2019-03-01 02:00") && line.contains("2019-03-01 08:00"));
        assert!(line.contains("4.00") && line.contains("70%"), "{line}");
        assert!(table(&Value::Null).contains("no plan yet"));
    }

    #[test]
    fn shows_how_near_power_contracts_are_and_when_they_bind() {
        let slot = |hour: u32, capped: f64, price: f64| {
            serde_json::json!({
                "start": format!("2019-03-01T{hour:02}:00:00Z"),
                "uncontrolled": 8_000.0, "capped": capped, "price": price,
            })
        };
        let plan = serde_json::json!({
            "issued": "2019-03-01T00:00:00Z", "jobs": [], "slots": [],
            "contracts": [
                {"id": "tenant-a", "limit": 40_000.0, "slots": [slot(0, 12_000.0, 0.0), slot(1, 32_000.0, 0.7), slot(2, 31_500.0, 0.1)]},
                {"id": "import", "limit": 180_000.0, "slots": [slot(0, 12_000.0, 0.0)]},
            ],
        });
        let text = table(&plan);
        let first = "Power contract tenant-a: at most 40.0 kW of 40.0 kW planned; binds in 2 of 3 slots, first at 2019-03-01 01:00";
        assert!(text.contains(first), "{text}");
        assert!(
            text.contains("import: at most 20.0 kW of 180.0 kW planned; binds in no slot"),
            "{text}"
        );
    }
}
