//! `heliostat query`: values of one metric from the store.

use crate::http_get::escape;
use crate::offline::{self, Offline};
use crate::plan::ask;
use anyhow::{Context, bail};
use heliostat_dashboard::unit_of;
use heliostat_models::time::span;
use heliostat_models::{Catalogue, DeviceId, Quality};
use heliostat_store::query::{AcrossDevices, Label, OverTime, Point, Selector, Series};
use heliostat_store::{Clock, Query, TimeSeriesStore, WallClock, foreign};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Ask the store for a metric: raw readings, one value per step, or the latest.
///
/// Without --site it asks the running server. With --site it reads the data
/// directory, and asks the server only while that has the directory open.
/// Changes nothing.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  heliostat query --metrics\n  heliostat query meter_power_watts --from now-6h --step 15m\n  heliostat query gpu_power_watts --step 1h --agg avg --across sum --by rack\n  heliostat query gpu_energy_joules_total --latest --node r01-n1"
)]
pub struct Args {
    /// Name of the metric; --metrics lists them
    #[arg(required_unless_present = "metrics")]
    metric: Option<String>,
    /// List the metrics there are
    #[arg(long)]
    metrics: bool,
    /// Begin, inclusive: now-6h, last-6h, 2019-03-01T12:00:00Z or 2019-03-01
    #[arg(long, value_name = "INSTANT", default_value = "now-6h")]
    from: String,
    /// End, exclusive
    #[arg(long, value_name = "INSTANT", default_value = "now")]
    to: String,
    /// The latest value of each device instead
    #[arg(long, conflicts_with_all = ["step", "agg", "across", "by"])]
    latest: bool,
    /// One value per step of this width: 30s, 15m, 1h, 1d
    #[arg(long, value_name = "WIDTH")]
    step: Option<String>,
    /// Within a step: avg, min, max, sum, count, last, increase, rate, integral, quantile:0.95
    #[arg(long, value_name = "HOW", requires = "step")]
    agg: Option<String>,
    /// Devices of a group become one: sum, avg, min, max, count; or the best few of them: topk:5, bottomk:5
    #[arg(long, value_name = "HOW", requires = "step")]
    across: Option<String>,
    /// Labels that make a group: kind, hall, row, rack, node, device (sums, unless --across says otherwise)
    #[arg(long, value_name = "LABEL", value_delimiter = ',', requires = "step")]
    by: Vec<String>,
    /// Only these devices
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    device: Vec<String>,
    /// Only this kind: gpu, node, meter, cooling, grid, job, unknown
    #[arg(long)]
    kind: Option<String>,
    /// Only this hall
    #[arg(long)]
    hall: Option<String>,
    /// Only this rack
    #[arg(long)]
    rack: Option<String>,
    /// Only this node
    #[arg(long)]
    node: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Site file; reads the data directory
    #[arg(long, value_name = "FILE")]
    site: Option<PathBuf>,
    /// Data directory of the server
    #[arg(long, value_name = "DIR", default_value = "data", requires = "site")]
    data: PathBuf,
    /// Where the server answers while it runs
    #[arg(long, value_name = "ADDRESS", default_value = "http://127.0.0.1:8080")]
    server: String,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = match &args.metric {
        None => catalogue(args.json)?,
        Some(_) if args.metrics => catalogue(args.json)?,
        Some(metric) => {
            let answer = answer(args, metric)?;
            if args.json {
                format!("{answer:#}\n")
            } else {
                table(&answer)
            }
        }
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// All metrics.
fn catalogue(as_json: bool) -> anyhow::Result<String> {
    let metrics = Catalogue::builtin().iter().map(|(_, m)| m);
    if as_json {
        let metrics: Vec<_> = metrics.collect();
        return Ok(format!(
            "{}\n",
            serde_json::to_string_pretty(&json!({ "metrics": metrics }))?
        ));
    }
    let mut out = format!("{:55} {:10} DESCRIPTION\n", "METRIC", "UNIT");
    for m in metrics {
        let _ = writeln!(out, "{:55} {:10} {}", m.name, m.unit, m.description);
    }
    Ok(out)
}

/// The answer in the form of `GET /api/v1/range`, whoever gives it.
fn answer(args: &Args, metric: &str) -> anyhow::Result<Value> {
    // What came by open ingest under a name of its own can be asked for by that name.
    if Catalogue::builtin().id(metric).is_none() && args.latest {
        bail!("unknown metric `{metric}`; `heliostat query --metrics` lists them");
    }
    let offline = match &args.site {
        Some(site) => offline::open(site, &args.data)?,
        None => None,
    };
    match offline {
        Some(offline) => {
            let runtime =
                tokio::runtime::Runtime::new().context("cannot start the asynchronous runtime")?;
            runtime.block_on(from_store(args, metric, &offline))
        }
        None if args.latest => latest_from_server(args, metric),
        None => {
            let mut path = format!("/api/v1/range?metric={}", escape(metric));
            path.push_str(&selection(args));
            for (name, value) in [
                ("from", Some(&args.from)),
                ("to", Some(&args.to)),
                ("step", args.step.as_ref()),
                ("agg", args.agg.as_ref()),
                ("across", across(args).as_ref()),
            ] {
                if let Some(value) = value {
                    let _ = write!(path, "&{name}={}", escape(value));
                }
            }
            for label in &args.by {
                let _ = write!(path, "&by={}", escape(label));
            }
            serde_json::from_str(&ask(&args.server, &path)?)
                .context("the server's answer is no JSON")
        }
    }
}

/// Groups are summed unless something else is said.
fn across(args: &Args) -> Option<String> {
    args.across
        .clone()
        .or_else(|| (!args.by.is_empty()).then(|| "sum".to_owned()))
}

/// Which devices, as the API's parameters.
fn selection(args: &Args) -> String {
    let mut out = String::new();
    for device in &args.device {
        let _ = write!(out, "&device={}", escape(device));
    }
    for (name, value) in [
        ("kind", &args.kind),
        ("hall", &args.hall),
        ("rack", &args.rack),
        ("node", &args.node),
    ] {
        if let Some(value) = value {
            let _ = write!(out, "&{name}={}", escape(value));
        }
    }
    out
}

fn latest_from_server(args: &Args, metric: &str) -> anyhow::Result<Value> {
    let path = format!("/api/v1/latest?{}", selection(args).trim_start_matches('&'));
    let found: Value = serde_json::from_str(&ask(&args.server, &path)?)
        .context("the server's answer is no JSON")?;
    let series: Vec<Value> = (found["devices"].as_array().into_iter().flatten())
        .filter_map(|d| {
            let reading = d["readings"].get(metric)?;
            let point =
                json!({ "at": d["at"], "value": reading["value"], "quality": reading["quality"] });
            Some(json!({ "labels": { "device": d["device"] }, "points": [point] }))
        })
        .collect();
    let mut answer = in_form(metric, series);
    answer["partial"] = found["partial"].clone();
    Ok(answer)
}

fn in_form(metric: &str, series: Vec<Value>) -> Value {
    let unit = Catalogue::builtin()
        .id(metric)
        .map(|id| &Catalogue::builtin().metric(id).unit);
    json!({ "metric": metric, "unit": unit, "series": series })
}

/// Reads a word as the value that the API writes with it.
fn word<T: DeserializeOwned>(option: &str, text: &str, allowed: &str) -> anyhow::Result<T> {
    serde_json::from_value(Value::String(text.to_owned()))
        .ok()
        .with_context(|| format!("{option}: `{text}` is not allowed; allowed are {allowed}"))
}

fn selector(args: &Args) -> Selector {
    let labels = [
        (Label::Kind, &args.kind),
        (Label::Hall, &args.hall),
        (Label::Rack, &args.rack),
        (Label::Node, &args.node),
    ];
    Selector {
        devices: args
            .device
            .iter()
            .map(|d| DeviceId::from(d.as_str()))
            .collect(),
        labels: labels
            .into_iter()
            .filter_map(|(l, v)| Some((l, v.clone()?)))
            .collect(),
    }
}

async fn from_store(args: &Args, metric: &str, offline: &Offline) -> anyhow::Result<Value> {
    let select = selector(args);
    let now = WallClock.now();
    if args.latest {
        let since = heliostat_models::Timestamp(i64::MIN);
        let frames = offline
            .store
            .query(&Query::Latest { select, since })
            .await?
            .frames();
        let id = Catalogue::builtin().id(metric);
        let series = (frames.into_iter())
            .filter_map(|f| {
                let reading = f.get(id?)?;
                let point = Point {
                    at: f.at,
                    value: reading.value(),
                    quality: reading.quality(),
                };
                Some(json!({ "labels": { "device": f.device }, "points": [point] }))
            })
            .collect();
        return Ok(in_form(metric, series));
    }
    let from = offline.instant(&args.from, now).await.context("--from")?;
    let to = offline.instant(&args.to, now).await.context("--to")?;
    let (metric_name, select) = match Catalogue::builtin().id(metric) {
        Some(_) => (metric.to_owned(), select),
        None => {
            let devices = foreign::series_of(&*offline.store, metric, from).await?;
            if devices.is_empty() {
                bail!(
                    "unknown metric `{metric}`, and no series of this name since {from}; `heliostat query --metrics` lists those of the catalogue"
                );
            }
            let select = Selector { devices, ..select };
            (foreign::metric().to_owned(), select)
        }
    };
    let query = match &args.step {
        None => Query::Range {
            metric: metric_name,
            select,
            from,
            to,
        },
        Some(step) => {
            let step = span(step)
                .filter(|s| *s > Duration::ZERO)
                .with_context(|| {
                    format!("--step: `{step}` is no width; write 30s, 15m, 1h or 1d")
                })?;
            let agg = args.agg.as_deref().unwrap_or("avg");
            Query::Aggregate {
                metric: metric_name,
                select,
                from,
                to,
                step_ms: u64::try_from(step.as_millis()).unwrap_or(u64::MAX),
                over_time: OverTime::parse(agg)
                    .with_context(|| format!("--agg: `{agg}` is none of {}", OverTime::WORDS))?,
                across: across(args)
                    .map(|text| {
                        AcrossDevices::parse(&text).with_context(|| {
                            format!("--across: `{text}` is none of {}", AcrossDevices::WORDS)
                        })
                    })
                    .transpose()?,
                group_by: (args.by.iter())
                    .map(|l| word::<Label>("--by", l, "kind, hall, row, rack, node, device"))
                    .collect::<anyhow::Result<_>>()?,
            }
        }
    };
    let (found, source) = offline.store.query_with_source(&query).await?;
    let series = found.series().iter().map(series_json).collect();
    let mut answer = in_form(metric, series);
    answer["source"] = json!(source);
    if let Query::Aggregate {
        over_time, across, ..
    } = &query
        && let Some(unit) = answer["unit"].as_str()
    {
        answer["unit"] = json!(unit_of(unit, *over_time, *across));
        if let Some(across) = across {
            answer["across"] = json!(across);
        }
    }
    Ok(answer)
}

fn series_json(series: &Series) -> Value {
    let labels: Map<String, Value> = (series.labels.iter())
        .map(|(label, value)| (text_of(label), json!(value)))
        .collect();
    json!({ "labels": labels, "points": series.points })
}

/// The word that the API writes for a value.
fn text_of<T: Serialize>(value: &T) -> String {
    match json!(value) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// The answer for people.
fn table(answer: &Value) -> String {
    let unit = answer["unit"]
        .as_str()
        .filter(|u| *u != "1")
        .unwrap_or_default();
    let all = answer["series"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let mut out = String::new();
    if all.is_empty() {
        out.push_str("Nothing is stored of this metric in this time for these devices.\n");
    }
    for series in all {
        let labels = series["labels"].as_object().cloned().unwrap_or_default();
        let names: Vec<String> = match labels.get("device").and_then(Value::as_str) {
            Some(device) => vec![device.to_owned()],
            None => labels
                .iter()
                .map(|(l, v)| format!("{l} {}", v.as_str().unwrap_or_default()))
                .collect(),
        };
        let _ = writeln!(
            out,
            "{}",
            if names.is_empty() {
                "all devices".to_owned()
            } else {
                names.join(", ")
            }
        );
        for point in series["points"].as_array().into_iter().flatten() {
            let at = point["at"].as_str().unwrap_or_default();
            let value = point["value"]
                .as_f64()
                .map_or_else(|| "no reading".to_owned(), |v| format!("{v} {unit}"));
            let mark = if point["quality"] == text_of(&Quality::Estimated) {
                "  estimated"
            } else {
                ""
            };
            let _ = writeln!(out, "  {at:24} {value:>20}{mark}");
        }
    }
    if let Some(width) = answer["source"]["rollup_ms"].as_u64() {
        let raw = answer["source"]["raw_samples"].as_u64().unwrap_or(0);
        let minutes = width / 60_000;
        let _ = writeln!(
            out,
            "Made of the steps of {minutes} min that are kept beside the readings, and of {raw} readings themselves."
        );
    }
    if let Some(reason) = answer["partial"].as_str() {
        let _ = writeln!(out, "PARTIAL, not all that there is: {reason}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_answer_says_so_even_when_it_is_empty() {
        let answer = json!({ "series": [], "partial": "the engine is away" });
        let text = table(&answer);
        assert!(text.contains("Nothing is stored"), "{text}");
        assert!(text.contains("PARTIAL"), "{text}");
        assert!(text.contains("the engine is away"), "{text}");
    }

    #[test]
    fn what_an_answer_is_made_of_is_said_where_it_is_not_readings_alone() {
        let source = json!({ "rollup_ms": 900_000, "raw_samples": 12 });
        let series = json!([{ "labels": {}, "points": [] }]);
        let text = table(&json!({ "series": series, "source": source }));
        assert!(
            text.contains("15 min") && text.contains("12 readings"),
            "{text}"
        );
        let raw = json!({ "rollup_ms": null, "raw_samples": 12 });
        assert!(!table(&json!({ "series": series, "source": raw })).contains("Made of"));
    }
}
