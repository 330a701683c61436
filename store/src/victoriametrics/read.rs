//! Questions in PromQL, and raw readings through `/api/v1/export`.
//!
//! A window of PromQL is `(t - width, t]`, ours `[begin, end)`: so a step is
//! asked for at its last millisecond. Instants go as seconds with a fraction
//! that no rounding can move to a neighbouring millisecond.

use super::write::LABELS;
use crate::query::{Label, OverTime, Selector};
use crate::remote::engine::{Assembly, Found, MARKER, QUALITY, points};
use crate::remote::fold::Steps;
use crate::remote::{ByDevice, Http, RemoteError, step_points};
use heliostat_models::DeviceId;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// Latest instant that the engine can be asked about, milliseconds (year 2255).
const LAST: i64 = 9_000_000_000_000;
/// Raw readings that one query may fetch.
const MOST_READINGS: usize = 20_000_000;
/// Steps asked for at a time; Prometheus allows 11,000.
const STEPS: i64 = 10_000;
/// Steps of one query that the engine is asked for.
const MOST_STEPS: i64 = 200_000;

/// Seconds since the epoch, such that truncation and rounding give `ms` back.
fn seconds(ms: i64) -> String {
    let ms = ms.clamp(0, LAST);
    format!("{}.{:03}4", ms / 1_000, ms % 1_000)
}

/// The matchers of a selector.
fn matchers(name: &str, select: &Selector) -> String {
    let mut out = format!("{{__name__=~{}", quoted(name));
    if !select.devices.is_empty() {
        let names: Vec<String> = (select.devices.iter())
            .map(|device| literal(device.as_str()))
            .collect();
        out.push_str(&format!(",device=~{}", quoted(&names.join("|"))));
    }
    for (label, value) in &select.labels {
        let key = (LABELS.iter())
            .find(|(_, known)| known == label)
            .map_or("device", |(key, _)| *key);
        debug_assert!(key != "device" || *label == Label::Device);
        out.push_str(&format!(",{key}={}", quoted(value)));
    }
    out.push('}');
    out
}

/// A text as a regular expression for itself.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !(c.is_alphanumeric() || matches!(c, '_' | '-')) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A text as a PromQL string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// One line of an export.
#[derive(Deserialize)]
struct Exported {
    metric: HashMap<String, String>,
    values: Vec<Option<f64>>,
    timestamps: Vec<i64>,
}

/// Shows every point of what `matcher` names in `[from, to]`: device, name, instant, value.
async fn export<T: Send + 'static>(
    http: &Http,
    matcher: String,
    from: i64,
    to: i64,
    state: T,
    show: impl Fn(&mut T, &DeviceId, &str, i64, f64) + Send + 'static,
) -> Result<T, RemoteError> {
    let form = vec![
        ("match[]", matcher),
        ("start", seconds(from)),
        ("end", seconds(to)),
    ];
    let url = http.base().to_owned();
    let mut count = 0;
    let take = move |state: &mut T, line: &str| {
        if line.is_empty() {
            return Ok(());
        }
        let exported: Exported =
            serde_json::from_str(line).map_err(|error| RemoteError::Garbled {
                url: url.clone(),
                reason: error.to_string(),
            })?;
        count += exported.timestamps.len();
        if count > MOST_READINGS {
            return Err(RemoteError::TooLarge(MOST_READINGS));
        }
        let text = |key: &str| exported.metric.get(key).map_or("", String::as_str);
        let device = DeviceId::from(text("device"));
        for (at, value) in exported.timestamps.iter().zip(&exported.values) {
            if let Some(value) = value
                && *at >= from
                && *at <= to
            {
                show(state, &device, text("__name__"), *at, *value);
            }
        }
        Ok(())
    };
    http.lines("/api/v1/export", form, state, take).await
}

fn of_devices(devices: &[DeviceId]) -> Selector {
    Selector {
        devices: devices.to_vec(),
        labels: Vec::new(),
    }
}

/// The instants of frames.
pub(super) async fn instants(
    http: &Http,
    devices: &[DeviceId],
    from: i64,
    to: i64,
) -> Result<HashMap<DeviceId, Vec<i64>>, RemoteError> {
    let matcher = matchers(MARKER, &of_devices(devices));
    let found: HashMap<DeviceId, Vec<i64>> = HashMap::new();
    export(http, matcher, from, to, found, |found, device, _, at, _| {
        found.entry(device.clone()).or_default().push(at);
    })
    .await
}

/// Whole frames.
pub(super) async fn frames(
    http: &Http,
    devices: &[DeviceId],
    from: i64,
    to: i64,
) -> Result<Vec<Found>, RemoteError> {
    let matcher = matchers(".+", &of_devices(devices));
    let assembly = Assembly::default();
    let assembly = export(
        http,
        matcher,
        from,
        to,
        assembly,
        |all, device, name, at, value| {
            all.add(device, name, at, value);
        },
    )
    .await?;
    Ok(assembly.finish())
}

type Columns = BTreeMap<DeviceId, (Vec<(i64, f64)>, Vec<(i64, f64)>)>;

/// Raw readings of one metric.
pub(super) async fn range(
    http: &Http,
    metric: &str,
    select: &Selector,
    from: i64,
    to: i64,
) -> Result<ByDevice, RemoteError> {
    let matcher = matchers(&format!("{metric}({QUALITY})?"), select);
    let last = to.saturating_sub(1);
    let columns = export(
        http,
        matcher,
        from,
        last,
        Columns::new(),
        |columns, device, name, at, value| {
            let (values, qualities) = columns.entry(device.clone()).or_default();
            if name.ends_with(QUALITY) {
                qualities.push((at, value));
            } else {
                values.push((at, value));
            }
        },
    )
    .await?;
    Ok((columns.into_iter())
        .map(|(device, (values, qualities))| (device, points(&values, &qualities)))
        .collect())
}

/// An answer of the PromQL API.
#[derive(Deserialize)]
struct Answered {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    metric: HashMap<String, String>,
    #[serde(default)]
    value: Option<(f64, String)>,
    #[serde(default)]
    values: Vec<(f64, String)>,
}

async fn ask(
    http: &Http,
    path: &str,
    form: Vec<(&'static str, String)>,
) -> Result<Vec<Row>, RemoteError> {
    let text = http
        .lines(path, form, String::new(), |text, line| {
            text.push_str(line);
            Ok(())
        })
        .await?;
    let answered: Answered = serde_json::from_str(&text).map_err(|error| RemoteError::Garbled {
        url: format!("{}{path}", http.base()),
        reason: error.to_string(),
    })?;
    Ok(answered.data.result)
}

/// A question that any working server answers at once.
pub(super) async fn labels(http: &Http) -> Result<(), RemoteError> {
    let form = vec![("query", "vector(1)".to_owned())];
    ask(http, "/api/v1/query", form).await.map(|_| ())
}

/// The instant of the latest frame of each device.
pub(super) async fn latest(
    http: &Http,
    select: &Selector,
    since: i64,
    until: i64,
) -> Result<Vec<(DeviceId, i64)>, RemoteError> {
    let (since, until) = (since.clamp(0, LAST), until.clamp(0, LAST));
    if since > until {
        return Ok(Vec::new());
    }
    // The window excludes its begin.
    let query = format!(
        "tlast_over_time({}[{}ms])",
        matchers(MARKER, select),
        until - since + 1
    );
    let form = vec![
        ("query", query),
        ("time", seconds(until)),
        ("nocache", "1".to_owned()),
    ];
    let rows = ask(http, "/api/v1/query", form).await?;
    Ok((rows.into_iter())
        .filter_map(|row| {
            let device = DeviceId::from(row.metric.get("device")?.as_str());
            let at = row.value?.1.parse::<f64>().ok()?;
            Some((device, (at * 1_000.0).round() as i64))
        })
        .collect())
}

/// The function of PromQL that says exactly the same, up to the series.
fn function(over_time: OverTime) -> Option<String> {
    let plain = |name: &str| Some(format!("{name}("));
    match over_time {
        OverTime::Avg => plain("avg_over_time"),
        OverTime::Min => plain("min_over_time"),
        OverTime::Max => plain("max_over_time"),
        OverTime::Sum => plain("sum_over_time"),
        OverTime::Count => plain("count_over_time"),
        OverTime::Last => plain("last_over_time"),
        OverTime::Quantile(q) => Some(format!("quantile_over_time({q},")),
        // PromQL extrapolates, looks before the begin, and knows no gap too
        // long to integrate over.
        _ => None,
    }
}

/// One value a step and device.
pub(super) async fn steps(
    http: &Http,
    metric: &str,
    select: &Selector,
    steps: &Steps,
) -> Result<Option<ByDevice>, RemoteError> {
    let Some(function) = function(steps.over_time) else {
        return Ok(None);
    };
    let span = steps.to.min(LAST).saturating_sub(steps.from.max(0));
    if span / steps.step > MOST_STEPS {
        // Mostly empty, whatever is stored: readings are cheaper than so many questions.
        return Ok(None);
    }
    let values = stepped(http, &function, metric, select, steps).await?;
    // Two questions, because a step without values must not become a point.
    let flagged = format!("{metric}{QUALITY}");
    let mut flagged = stepped(http, "count_over_time(", &flagged, select, steps).await?;
    Ok(Some(
        (values.into_iter())
            .map(|(device, values)| {
                let flagged = flagged.remove(&device).unwrap_or_default();
                let points = step_points(&values, &flagged);
                (device, points)
            })
            .collect(),
    ))
}

/// `function(name[step])` at the last millisecond of every step; by begin of the step.
async fn stepped(
    http: &Http,
    function: &str,
    name: &str,
    select: &Selector,
    steps: &Steps,
) -> Result<BTreeMap<DeviceId, Vec<(i64, f64)>>, RemoteError> {
    let from = steps.from.max(steps.begin_of(0)).min(LAST);
    let to = steps.to.clamp(from, LAST);
    let mut found: BTreeMap<DeviceId, Vec<(i64, f64)>> = BTreeMap::new();
    let mut begin = from;
    while begin < to {
        let whole = ((to - begin) / steps.step).min(STEPS);
        // Whole steps first, then what is left, which is asked with its own width.
        let (width, count) = if whole > 0 {
            (steps.step, whole)
        } else {
            (to - begin, 1)
        };
        let first = begin + width - 1;
        let form = vec![
            (
                "query",
                format!("{function}{}[{width}ms])", matchers(name, select)),
            ),
            ("start", seconds(first)),
            ("end", seconds(first + (count - 1) * width)),
            ("step", format!("{width}ms")),
            ("nocache", "1".to_owned()),
        ];
        for row in ask(http, "/api/v1/query_range", form).await? {
            let Some(device) = row.metric.get("device") else {
                continue;
            };
            let column = found.entry(DeviceId::from(device.as_str())).or_default();
            for (at, value) in &row.values {
                if let Ok(value) = value.parse::<f64>() {
                    column.push(((at * 1_000.0).round() as i64 + 1 - width, value));
                }
            }
        }
        begin += width.saturating_mul(count);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn instants_survive_truncation_and_rounding(ms in 0i64..LAST) {
            let text = seconds(ms);
            let value: f64 = text.parse().unwrap();
            prop_assert_eq!((value * 1e3) as i64, ms, "{}", text);
            prop_assert_eq!((value * 1e3).round() as i64, ms, "{}", text);
        }
    }

    #[test]
    fn names_and_values_cannot_break_out_of_a_matcher() {
        let select = Selector {
            devices: vec![DeviceId::from("a.b"), DeviceId::from("c\"|d")],
            labels: vec![(Label::Rack, "r\\\"1".to_owned())],
        };
        assert_eq!(
            matchers("m", &select),
            r#"{__name__=~"m",device=~"a\\.b|c\\\"\\|d",rack="r\\\"1"}"#
        );
    }
}
