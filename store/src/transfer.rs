//! Frames as text, to carry them between stores and to programs that read
//! nothing else: CSV with a line a reading, `device,time,metric,value,quality`.
//!
//! Times are RFC 3339 in UTC. A value is written so that the same bits come
//! back; a missing reading has none. Names with a comma or a quotation mark stand
//! in quotation marks (RFC 4180).

use crate::query::{Label, Query, Selector, StoreError, TimeSeriesStore};
use heliostat_models::{Catalogue, DeviceId, Frame, MetricId, Quality, Reading, Timestamp};
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::path::Path;

/// The first line.
const HEADER: &str = "device,time,metric,value,quality";
/// Readings that are asked for at a time, as a span of time.
const SPAN_MS: i64 = 86_400_000;
/// Frames that are appended at a time.
const BATCH: usize = 4_096;

/// What was carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Readings.
    pub samples: u64,
    /// Of an import: readings that were there already.
    pub duplicates: u64,
}

/// Writes the readings of all devices in `[from, to)`, day by day. `progress`
/// is told how many milliseconds of how many are done.
pub async fn export(
    store: &dyn TimeSeriesStore,
    (from, to): (Timestamp, Timestamp),
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Carried, StoreError> {
    let failed = |e| StoreError::io("writing", Path::new("the export"), e);
    let mut carried = Carried::default();
    writeln!(out, "{HEADER}").map_err(failed)?;
    let all = (to.0.saturating_sub(from.0)).max(0) as u64;
    let mut begin = from.0;
    while begin < to.0 {
        let end = begin.saturating_add(SPAN_MS).min(to.0);
        for (_, metric) in Catalogue::builtin().iter() {
            let query = Query::Range {
                metric: metric.name.clone(),
                select: if metric.name == crate::foreign::metric() {
                    Selector::unknown()
                } else {
                    Selector::default()
                },
                from: Timestamp(begin),
                to: Timestamp(end),
            };
            for series in store.query(&query).await?.series() {
                let device = (series.labels.iter())
                    .find(|(label, _)| *label == Label::Device)
                    .map_or("", |(_, device)| device);
                let device = quoted(device);
                for point in &series.points {
                    let quality = match point.quality {
                        Quality::Measured => "measured",
                        Quality::Estimated => "estimated",
                        Quality::Missing => "missing",
                    };
                    // Rust writes the shortest text that gives the same bits back.
                    let value = point.value.map(|v| format!("{v:?}")).unwrap_or_default();
                    writeln!(
                        out,
                        "{device},{},{},{value},{quality}",
                        point.at, metric.name
                    )
                    .map_err(failed)?;
                    carried.samples += 1;
                }
            }
        }
        begin = end;
        progress((begin - from.0) as u64, all);
    }
    out.flush().map_err(failed)?;
    Ok(carried)
}

/// A name as it stands in a line of CSV.
pub(crate) fn quoted(name: &str) -> String {
    if name.contains([',', '"']) {
        format!("\"{}\"", name.replace('"', "\"\""))
    } else {
        name.to_owned()
    }
}

/// Reads what [`export`] wrote and appends it; readings that are there already
/// are counted and not stored again. `progress` is told how many bytes are done.
///
/// Ends at the first line that is no reading, naming it; what stood in whole days
/// before it may be stored by then, and is skipped when the import is repeated.
pub async fn import(
    store: &dyn TimeSeriesStore,
    input: &mut dyn BufRead,
    progress: &mut dyn FnMut(u64),
) -> Result<Carried, StoreError> {
    let mut carried = Carried::default();
    let mut day: Option<i64> = None;
    let mut frames: BTreeMap<(String, i64), Vec<(MetricId, Reading)>> = BTreeMap::new();
    let (mut line, mut number, mut bytes) = (Vec::new(), 0u64, 0u64);
    loop {
        line.clear();
        let read = (input.read_until(b'\n', &mut line))
            .map_err(|e| StoreError::io("reading", Path::new("the import"), e))?;
        bytes += read as u64;
        number += 1;
        if read == 0 {
            break;
        }
        let fault = |what: String| {
            StoreError::BadQuery(format!(
                "line {number} of the import: {what}; {} readings before it are stored, mend the line and import again (those are then skipped)",
                carried.samples
            ))
        };
        let text = str::from_utf8(&line)
            .map_err(|_| {
                fault(format!(
                    "this is no text in UTF-8, so no export; `{HEADER}` is expected"
                ))
            })?
            .trim_end_matches(['\n', '\r']);
        if (number == 1 && text == HEADER) || text.is_empty() {
            continue;
        }
        let (device, at, metric, reading) =
            parse(text).ok_or_else(|| fault(format!("`{}` is not `{HEADER}`", shown(text))))?;
        let metric = (Catalogue::builtin().id(metric)).ok_or_else(|| {
            fault(format!(
                "unknown metric `{}`; `heliostat query --metrics` lists them",
                shown(metric)
            ))
        })?;
        possible(metric, reading).map_err(&fault)?;
        // An export goes day by day; all readings of a frame are within one.
        let its_day = at.0.div_euclid(SPAN_MS);
        if day.is_some_and(|day| its_day > day.saturating_add(1)) {
            append(store, &mut frames, Some(its_day - 1), &mut carried).await?;
        }
        day = day.max(Some(its_day));
        frames
            .entry((device, at.0))
            .or_default()
            .push((metric, reading));
        progress(bytes);
    }
    append(store, &mut frames, None, &mut carried).await?;
    progress(bytes);
    Ok(carried)
}

/// As much of a text as is shown in an error.
fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Refuses what no instrument can have said, as ingest does.
fn possible(metric: MetricId, reading: Reading) -> Result<(), String> {
    let about = Catalogue::builtin().metric(metric);
    let (low, high) = about.range;
    match reading.value() {
        Some(value) if !(low..=high).contains(&value) => Err(format!(
            "{value:?} {} cannot be; {} is between {low} and {high}",
            about.unit, about.name
        )),
        _ => Ok(()),
    }
}

/// Appends the frames before a day, or all.
async fn append(
    store: &dyn TimeSeriesStore,
    frames: &mut BTreeMap<(String, i64), Vec<(MetricId, Reading)>>,
    before: Option<i64>,
    carried: &mut Carried,
) -> Result<(), StoreError> {
    let mut batch = Vec::new();
    let mut later = BTreeMap::new();
    for ((device, at), readings) in std::mem::take(frames) {
        if before.is_some_and(|day| at.div_euclid(SPAN_MS) >= day) {
            later.insert((device, at), readings);
            continue;
        }
        batch.push(Frame {
            device: DeviceId::from(device),
            at: Timestamp(at),
            readings,
        });
        if batch.len() >= BATCH {
            let receipt = store.append(std::mem::take(&mut batch)).await?;
            carried.samples += receipt.samples;
            carried.duplicates += receipt.duplicate_samples;
        }
    }
    let receipt = store.append(batch).await?;
    carried.samples += receipt.samples;
    carried.duplicates += receipt.duplicate_samples;
    *frames = later;
    Ok(())
}

fn parse(line: &str) -> Option<(String, Timestamp, &str, Reading)> {
    let (device, rest) = match line.strip_prefix('"') {
        None => {
            let (device, rest) = line.split_once(',')?;
            (device.to_owned(), rest)
        }
        Some(quoted) => {
            // The first quotation mark that is not doubled ends the name.
            let mut end = 0;
            loop {
                end += quoted.get(end..)?.find('"')?;
                if quoted.as_bytes().get(end + 1) != Some(&b'"') {
                    break;
                }
                end += 2;
            }
            let name = quoted.get(..end)?.replace("\"\"", "\"");
            (name, quoted.get(end + 1..)?.strip_prefix(',')?)
        }
    };
    let mut fields = rest.split(',');
    let at = Timestamp::parse(fields.next()?)?;
    let metric = fields.next()?;
    let value = fields.next()?;
    let reading = match fields.next()? {
        "measured" => Reading::Measured(value.parse().ok()?),
        "estimated" => Reading::Estimated(value.parse().ok()?),
        "missing" if value.is_empty() => Reading::Missing,
        _ => return None,
    };
    fields
        .next()
        .is_none()
        .then_some((device, at, metric, reading))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_or_refused() {
        let read = parse("\"a,\"\"b\",2026-01-01T00:00:00.25Z,gpu_power_watts,1.5,measured");
        let at = Timestamp::parse("2026-01-01T00:00:00.25Z").unwrap();
        assert_eq!(
            read,
            Some((
                "a,\"b".to_owned(),
                at,
                "gpu_power_watts",
                Reading::Measured(1.5)
            ))
        );
        assert_eq!(quoted("a,\"b"), "\"a,\"\"b\"");
        for bad in [
            "",
            "a",
            "a,yesterday,gpu_power_watts,1,measured",
            "a,2026-01-01,gpu_power_watts,,measured",
            "a,2026-01-01,gpu_power_watts,1,missing",
            "a,2026-01-01,gpu_power_watts,1,measured,more",
            "\"a,2026-01-01,gpu_power_watts,1,measured",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
