//! Jobs on a time axis: what ran, what is planned, and the carbon intensity
//! behind it. One model for the page, the chart and the CSV.

use crate::format;
use crate::server::Shared;
use crate::snapshot::Snapshot;
use heliostat_models::{DeviceId, JobClass, JobId, JobState, Quality, Timestamp};
use heliostat_optimizer::view::PlanView;
use heliostat_store::Query;
use heliostat_store::jobs::JobEntry;
use heliostat_store::query::{OverTime, Selector};
use std::collections::BTreeMap;
use std::time::Duration;

/// Width of a stretch of the carbon band.
const BAND: Duration = Duration::from_secs(3_600);
/// Jobs drawn at most; the table lists all.
const MAX_ROWS: usize = 60;

/// What a bar says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BarKind {
    /// It ran.
    Ran,
    /// It stood, checkpointed.
    Paused,
    /// It waited for devices.
    Queued,
    /// The plan lets it run.
    Planned,
}

impl BarKind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ran => "ran",
            Self::Paused => "paused",
            Self::Queued => "waiting",
            Self::Planned => "planned",
        }
    }
}

/// A stretch of a job.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bar {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) kind: BarKind,
    /// Relative power level (planned).
    pub(crate) level: f64,
}

/// A job's line.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) job: JobId,
    pub(crate) class: JobClass,
    pub(crate) state: JobState,
    pub(crate) gang: u32,
    pub(crate) bars: Vec<Bar>,
    pub(crate) deadline: Option<Timestamp>,
    /// Why the plan puts it where it is.
    pub(crate) reason: Option<String>,
}

/// Carbon intensity over a stretch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Band {
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    /// Grams per kilowatt hour.
    pub(crate) value: f64,
    pub(crate) is_forecast: bool,
}

/// The whole picture.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    pub(crate) from: Timestamp,
    pub(crate) now: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) carbon: Vec<Band>,
    pub(crate) rows: Vec<Row>,
    /// Jobs that did not fit.
    pub(crate) left_out: usize,
}

impl Timeline {
    /// A place on the axis, 0 to 1.
    pub(crate) fn place(&self, at: Timestamp) -> f64 {
        let width = (self.to.0 - self.from.0).max(1) as f64;
        ((at.0 - self.from.0) as f64 / width).clamp(0.0, 1.0)
    }
    /// Lowest and highest intensity shown.
    pub(crate) fn carbon_range(&self) -> Option<(f64, f64)> {
        let mut values = self.carbon.iter().map(|b| b.value);
        let first = values.next()?;
        Some(values.fold((first, first), |(lo, hi), v| (lo.min(v), hi.max(v))))
    }
}

impl Bar {
    /// The bar in words.
    pub(crate) fn words(&self) -> String {
        let level = if self.kind == BarKind::Planned && self.level < 0.995 {
            format!(" at {} power", format::percent(self.level))
        } else {
            String::new()
        };
        format!(
            "{} {} to {}{level}",
            self.kind.word(),
            format::day_clock(self.from),
            format::day_clock(self.to)
        )
    }
}

/// The timeline from `from` to `to`, as known at the snapshot.
pub(crate) async fn timeline(
    shared: &Shared,
    snapshot: &Snapshot,
    from: Timestamp,
    to: Timestamp,
) -> Timeline {
    let plan = snapshot.view.plan.as_ref();
    let mut rows: Vec<Row> = snapshot
        .jobs
        .iter()
        .map(|entry| row(entry, plan, snapshot.at, from, to))
        .filter(|row| !row.bars.is_empty())
        .collect();
    rows.sort_by_key(|row| {
        let rank = match row.state {
            JobState::Running => 0,
            JobState::Paused => 1,
            JobState::Queued => 2,
            JobState::Completed | JobState::Cancelled => 3,
        };
        let begin = row.bars.iter().map(|b| b.from).min();
        (rank, begin, row.job.clone())
    });
    let left_out = rows.len().saturating_sub(MAX_ROWS);
    rows.truncate(MAX_ROWS);
    Timeline {
        from,
        now: snapshot.at,
        to,
        carbon: carbon(shared, snapshot, from, to).await,
        rows,
        left_out,
    }
}

fn row(
    entry: &JobEntry,
    plan: Option<&PlanView>,
    now: Timestamp,
    from: Timestamp,
    to: Timestamp,
) -> Row {
    let record = &entry.record;
    let end = record.ended.unwrap_or(now).min(now);
    let mut bars = Vec::new();
    for (index, (begin, state)) in entry.history.iter().enumerate() {
        let until = entry.history.get(index + 1).map_or(end, |(at, _)| *at);
        let kind = match state {
            JobState::Running => BarKind::Ran,
            JobState::Paused => BarKind::Paused,
            JobState::Queued => BarKind::Queued,
            JobState::Completed | JobState::Cancelled => continue,
        };
        // A job first heard of while running began before that.
        let begin = match (index, kind, record.started) {
            (0, BarKind::Ran, Some(started)) => started.min(*begin),
            // Before its release nothing kept it waiting.
            (_, BarKind::Queued, _) => record.release.max(*begin),
            _ => *begin,
        };
        bars.push(Bar {
            from: begin,
            to: until,
            kind,
            level: 1.0,
        });
    }
    let planned = plan.and_then(|p| p.jobs.iter().find(|j| j.job == record.id));
    if let Some(planned) = planned.filter(|_| record.ended.is_none()) {
        for (begin, until, level) in &planned.runs {
            let begin = (*begin).max(now);
            match bars.last_mut() {
                // Slots of one level that touch are one bar.
                Some(last)
                    if last.kind == BarKind::Planned
                        && last.to == begin
                        && (last.level - level).abs() < 1e-6 =>
                {
                    last.to = *until;
                }
                _ => bars.push(Bar {
                    from: begin,
                    to: *until,
                    kind: BarKind::Planned,
                    level: *level,
                }),
            }
        }
    }
    for bar in &mut bars {
        bar.from = bar.from.max(from);
        bar.to = bar.to.min(to);
    }
    bars.retain(|bar| bar.from < bar.to);
    Row {
        job: record.id.clone(),
        class: record.class,
        state: record.state,
        gang: record.gang_size,
        bars,
        deadline: record.deadline,
        reason: planned.map(|p| p.reason.clone()),
    }
}

async fn carbon(shared: &Shared, snapshot: &Snapshot, from: Timestamp, to: Timestamp) -> Vec<Band> {
    let zone: DeviceId = shared.app.site.grid_device();
    let begin = from.floor_to(BAND);
    let mut bands = BTreeMap::new();
    if begin < snapshot.at {
        let query = Query::Aggregate {
            metric: "grid_carbon_intensity_grams_per_kilowatt_hour".to_owned(),
            select: Selector {
                devices: vec![zone],
                labels: Vec::new(),
            },
            from: begin,
            to: to.min(snapshot.at),
            step_ms: BAND.as_millis() as u64,
            over_time: OverTime::Avg,
            across: None,
            group_by: Vec::new(),
        };
        let series = match shared.app.store.query(&query).await {
            Ok(answer) => answer.series(),
            Err(error) => {
                tracing::warn!(%error, "the carbon band cannot be had");
                Vec::new()
            }
        };
        for point in series.iter().flat_map(|s| &s.points) {
            if let Some(value) = point.value {
                let is_forecast = point.quality != Quality::Measured;
                bands.insert(point.at, (value, is_forecast));
            }
        }
    }
    // The plan's forecast, averaged over each stretch that has no recorded value.
    let mut ahead: BTreeMap<Timestamp, (f64, f64)> = BTreeMap::new();
    for slot in snapshot.view.plan.iter().flat_map(|p| &p.slots) {
        if let Some(value) = slot.carbon {
            let sum = ahead.entry(slot.start.floor_to(BAND)).or_default();
            *sum = (sum.0 + value.0, sum.1 + 1.0);
        }
    }
    for (at, (sum, count)) in ahead {
        bands.entry(at).or_insert((sum / count, true));
    }
    bands
        .into_iter()
        .map(|(at, (value, is_forecast))| Band {
            from: at.max(from),
            to: (at + BAND).min(to),
            value,
            is_forecast,
        })
        .filter(|b| b.from < b.to)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use heliostat_models::{JobRecord, SpeedCurve, Watts};

    #[test]
    fn a_job_waits_from_its_release_on() {
        let at = Timestamp::from_seconds;
        let record = JobRecord {
            id: JobId::from("j"),
            class: JobClass::Training,
            owner: "0".into(),
            gang_size: 1,
            remaining_hours: 1.0,
            total_hours: 1.0,
            release: at(5_000),
            deadline: None,
            state: JobState::Running,
            devices: Vec::new(),
            curve: SpeedCurve::envelope(&[(Watts(200.0), 0.5), (Watts(700.0), 1.0)]).unwrap(),
            started: Some(at(8_000)),
            ended: None,
            at: at(8_000),
        };
        let entry = JobEntry {
            record,
            history: vec![
                (at(1_000), JobState::Queued),
                (at(8_000), JobState::Running),
            ],
        };
        let made = row(&entry, None, at(9_000), at(0), at(20_000));
        let bars: Vec<_> = made.bars.iter().map(|b| (b.kind, b.from, b.to)).collect();
        let expected = [
            (BarKind::Queued, at(5_000), at(8_000)),
            (BarKind::Ran, at(8_000), at(9_000)),
        ];
        assert_eq!(bars, expected);
        // Not released yet: it does not wait.
        let early = JobEntry {
            history: vec![(at(1_000), JobState::Queued)],
            ..entry
        };
        assert!(
            row(&early, None, at(4_000), at(0), at(20_000))
                .bars
                .is_empty()
        );
    }
}
