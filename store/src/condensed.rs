//! What became of readings in each step of a time, as CSV: a line a device,
//! metric and step, answered from rollups where there are any. So a span whose
//! raw readings the retention has removed can still be carried away.
//!
//! `count` values were there in the step; `quality` is the worst of them; `joules`
//! is the energy of a power over the parts of the step that are known.

use crate::query::{Label, OverTime, Query, Selector, StoreError, TimeSeriesStore};
use crate::transfer::{Carried, quoted};
use heliostat_models::{Catalogue, Quality, Timestamp};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// The first line.
const HEADER: &str = "device,time,step_seconds,metric,count,min,max,sum,last,joules,quality";
/// What is asked for at a time, as a span of time: a whole number of steps.
const SPAN_MS: i64 = 86_400_000;

/// Columns of a line after `metric`, in their order.
const COLUMNS: [OverTime; 6] = [
    OverTime::Count,
    OverTime::Min,
    OverTime::Max,
    OverTime::Sum,
    OverTime::Last,
    OverTime::Integral,
];

/// The columns of a device and step, and the worst quality that went in.
type Line = ([Option<f64>; COLUMNS.len()], Quality);

/// Writes what became of the readings of all devices in each step of `[from, to)`,
/// day by day; both must be multiples of the step, which divides a day.
/// `progress` is told how many milliseconds of how many are done.
pub async fn export(
    store: &dyn TimeSeriesStore,
    (from, to): (Timestamp, Timestamp),
    step_ms: u64,
    out: &mut dyn Write,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Carried, StoreError> {
    let failed = |e| StoreError::io("writing", Path::new("the export"), e);
    let step = i64::try_from(step_ms).unwrap_or(i64::MAX);
    if step <= 0 || SPAN_MS % step != 0 || from.0 % step != 0 || to.0 % step != 0 {
        return Err(StoreError::BadQuery(format!(
            "steps of {step_ms} ms: a step must divide the day, and begin and end ({from}, {to}) must be multiples of it"
        )));
    }
    let mut carried = Carried::default();
    writeln!(out, "{HEADER}").map_err(failed)?;
    let all = (to.0.saturating_sub(from.0)).max(0) as u64;
    let mut begin = from.0;
    while begin < to.0 {
        let end = begin.saturating_add(SPAN_MS).min(to.0);
        for (_, metric) in Catalogue::builtin().iter() {
            let mut lines: BTreeMap<(String, i64), Line> = BTreeMap::new();
            for (place, over_time) in COLUMNS.into_iter().enumerate() {
                let asked_in_vain = place > 0 && lines.is_empty();
                if asked_in_vain || (over_time == OverTime::Integral && metric.unit != "W") {
                    continue;
                }
                let query = Query::Aggregate {
                    metric: metric.name.clone(),
                    select: Selector::default(),
                    from: Timestamp(begin),
                    to: Timestamp(end),
                    step_ms,
                    over_time,
                    across: None,
                    group_by: Vec::new(),
                };
                for series in store.query(&query).await?.series() {
                    let device = (series.labels.iter())
                        .find(|(label, _)| *label == Label::Device)
                        .map_or("", |(_, device)| device);
                    for point in &series.points {
                        let key = (device.to_owned(), point.at.0);
                        // The count comes first, and is there wherever anything is.
                        let line = if place == 0 {
                            lines
                                .entry(key)
                                .or_insert(([None; COLUMNS.len()], point.quality))
                        } else if let Some(line) = lines.get_mut(&key) {
                            line
                        } else {
                            continue;
                        };
                        line.0[place] = point.value;
                    }
                }
            }
            for ((device, at), (values, quality)) in lines {
                let values: Vec<String> = (values.iter())
                    .map(|value| value.map(|v| format!("{v:?}")).unwrap_or_default())
                    .collect();
                let quality = match quality {
                    Quality::Measured => "measured",
                    Quality::Estimated => "estimated",
                    Quality::Missing => "missing",
                };
                writeln!(
                    out,
                    "{},{},{},{},{},{quality}",
                    quoted(&device),
                    Timestamp(at),
                    step_ms as f64 / 1e3,
                    metric.name,
                    values.join(",")
                )
                .map_err(failed)?;
                carried.samples += 1;
            }
        }
        begin = end;
        progress((begin - from.0) as u64, all);
    }
    out.flush().map_err(failed)?;
    Ok(carried)
}
