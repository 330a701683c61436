//! What every engine must do alike, as one suite: run by the tests against all
//! engines, and by `heliostat doctor --store URL` against a server of a user's.
//!
//! It writes some hundred frames of devices whose names no site has
//! ([`site`]), two hours in the past, and reads them back, first at once and
//! then again when the engine has settled. What it wrote stays in the engine.

mod data;

use crate::query::{
    AcrossDevices, Answer, AppendReceipt, Label, OverTime, Point, Query, Selector, Series,
    StoreError, TimeSeriesStore,
};
use async_trait::async_trait;
use data::{Data, ENERGY, POWER};
use heliostat_models::site::config;
use heliostat_models::{Catalogue, Frame, Quality, Reading, Site, Timestamp};
use serde::Serialize;

/// How well a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// As it must be.
    Pass,
    /// It can be used, but somebody should know.
    Warn,
    /// It must not be used like this.
    Fail,
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was checked.
    pub check: String,
    /// How it went.
    pub verdict: Verdict,
    /// What was seen, or expected and seen.
    pub detail: String,
}

/// A store under examination.
#[async_trait]
pub trait Subject: Send + Sync {
    /// The store, opened for the site that [`site`] gave.
    fn store(&self) -> &dyn TimeSeriesStore;
    /// Returns when all that was written can only come from the engine itself.
    async fn settle(&self) -> Result<(), String>;
}

/// The site of a run: `run` (letters and digits) stands in every name of it.
pub fn site(run: &str) -> Result<Site, String> {
    let text = include_str!("site.toml").replace("RUN", run);
    let loaded = config::load("the suite's site", &text, config::LoadOptions::default());
    let faults: Vec<String> = loaded.faults.iter().map(ToString::to_string).collect();
    loaded.site.ok_or_else(|| faults.join("; "))
}

/// Runs the suite. `now` is the present; data are written two hours before.
pub async fn run(subject: &dyn Subject, site: &Site, now: Timestamp) -> Vec<Finding> {
    let mut suite = Suite {
        subject,
        data: Data::new(site, now),
        site,
        findings: Vec::new(),
        inexact: false,
    };
    if !suite.write().await {
        return suite.findings;
    }
    suite.read("at once").await;
    match subject.settle().await {
        Ok(()) => {
            suite.read("settled").await;
            suite.write_again().await;
        }
        Err(reason) => suite.note("the engine settles", Err(reason)),
    }
    suite.refusals().await;
    if suite.inexact {
        suite.findings.push(Finding {
            check: "exact values".to_owned(),
            verdict: Verdict::Warn,
            detail: "values come back rounded: this engine keeps fewer digits than it was given (all agree to 9 digits)".to_owned(),
        });
    }
    suite.findings
}

struct Suite<'a> {
    subject: &'a dyn Subject,
    site: &'a Site,
    data: Data,
    findings: Vec<Finding>,
    inexact: bool,
}

impl Suite<'_> {
    fn note(&mut self, check: impl Into<String>, outcome: Result<String, String>) {
        let (verdict, detail) = match outcome {
            Ok(detail) => (Verdict::Pass, detail),
            Err(detail) => (Verdict::Fail, detail),
        };
        self.findings.push(Finding {
            check: check.into(),
            verdict,
            detail,
        });
    }

    /// Appends: the later half first, then the earlier one late, then some twice.
    async fn write(&mut self) -> bool {
        let (late, first) = self.data.halves();
        let steps = [
            ("append", first.clone(), false),
            ("duplicates", first, true),
            ("late frames", late, false),
        ];
        for (check, frames, double) in steps {
            let outcome = self.append(frames, double).await;
            let failed = outcome.is_err();
            self.note(check, outcome);
            if failed {
                return false;
            }
        }
        true
    }

    async fn append(&self, frames: Vec<Frame>, double: bool) -> Result<String, String> {
        let count = frames.len() as u64;
        let samples = frames.iter().map(|f| f.readings.len() as u64).sum();
        let receipt = (self.subject.store().append(frames).await).map_err(|e| e.to_string())?;
        let expected = if double {
            AppendReceipt {
                duplicates: count,
                duplicate_samples: samples,
                ..AppendReceipt::default()
            }
        } else {
            AppendReceipt {
                frames: count,
                samples,
                ..AppendReceipt::default()
            }
        };
        if receipt == expected {
            Ok(format!("{count} frames, {samples} readings"))
        } else {
            Err(format!(
                "expected {expected:?}, the receipt says {receipt:?}"
            ))
        }
    }

    /// Everything once more, when the engine alone can know: still doubles.
    async fn write_again(&mut self) {
        let (late, first) = self.data.halves();
        let outcome = self.append([late, first].concat(), true).await;
        self.note("duplicates (settled)", outcome);
        let query = self
            .data
            .aggregate(POWER, OverTime::Count, 60_000, None, &[]);
        let counted = self.series(&query).await;
        let expected = self
            .data
            .aggregated(self.site, POWER, OverTime::Count, 60_000, None, &[]);
        let outcome = counted.and_then(|counted| self.compare(&counted, &expected));
        self.note("nothing is doubled", outcome);
    }

    async fn series(&self, query: &Query) -> Result<Vec<Series>, String> {
        let told = (self.subject.store().ask(query).await).map_err(|e| e.to_string())?;
        match told.partial {
            Some(reason) => Err(format!("the answer is partial: {reason}")),
            None => Ok(told.answer.series()),
        }
    }

    /// All questions.
    async fn read(&mut self, when: &str) {
        self.latest(when).await;
        let outcome = self.range(&Selector::default()).await;
        self.note(format!("range ({when})"), outcome);
        let kinds = [
            OverTime::Avg,
            OverTime::Min,
            OverTime::Max,
            OverTime::Sum,
            OverTime::Count,
            OverTime::Last,
            OverTime::Increase,
            OverTime::Rate,
            OverTime::Integral,
            OverTime::Quantile(0.5),
            OverTime::Quantile(0.95),
        ];
        for over_time in kinds {
            let metric = match over_time {
                OverTime::Increase | OverTime::Rate => ENERGY,
                _ => POWER,
            };
            let outcome = self.aggregate(metric, over_time, None, &[]).await;
            self.note(format!("over time: {over_time:?} ({when})"), outcome);
        }
        let ways = [
            AcrossDevices::Sum,
            AcrossDevices::Avg,
            AcrossDevices::Min,
            AcrossDevices::Max,
            AcrossDevices::Count,
        ];
        for how in ways {
            let outcome = (self.aggregate(POWER, OverTime::Avg, Some(how), &[Label::Rack])).await;
            self.note(format!("across devices: {how:?} by rack ({when})"), outcome);
        }
        for (how, group_by) in [
            (AcrossDevices::TopK(2), &[][..]),
            (AcrossDevices::BottomK(3), &[]),
            (AcrossDevices::TopK(1), &[Label::Rack]),
        ] {
            let outcome = (self.aggregate(POWER, OverTime::Max, Some(how), group_by)).await;
            self.note(format!("{how:?} by {group_by:?} ({when})"), outcome);
        }
        for group_by in [&[][..], &[Label::Node, Label::Kind], &[Label::Device]] {
            let how = Some(AcrossDevices::Sum);
            let outcome = self.aggregate(POWER, OverTime::Max, how, group_by).await;
            self.note(format!("grouping by {group_by:?} ({when})"), outcome);
        }
        for (label, value) in self.data.labels(self.site) {
            let select = Selector {
                labels: vec![(label, value)],
                ..Selector::default()
            };
            let outcome = self.range(&select).await;
            self.note(format!("label {label:?} ({when})"), outcome);
        }
        let select = Selector {
            devices: vec![self.data.devices[0].clone(), "no-such-device".into()],
            ..Selector::default()
        };
        let outcome = self.range(&select).await;
        self.note(format!("devices by name ({when})"), outcome);
        let outcome = self.qualities().await;
        self.note(format!("missing and estimated ({when})"), outcome);
    }

    async fn latest(&mut self, when: &str) {
        for (check, since) in [
            ("latest", self.data.begin),
            ("latest since the last instant", self.data.last()),
            ("latest since later", Timestamp(self.data.last().0 + 1)),
        ] {
            let query = Query::Latest {
                select: self.data.everything(),
                since,
            };
            let told = (self.subject.store().ask(&query).await).map_err(|e| e.to_string());
            let outcome = told.and_then(|told| match told.partial {
                Some(reason) => Err(format!("the answer is partial: {reason}")),
                None => self.same_frames(told.answer, &self.data.latest(since)),
            });
            self.note(format!("{check} ({when})"), outcome);
        }
    }

    fn same_frames(&self, answer: Answer, expected: &[Frame]) -> Result<String, String> {
        let mut frames = answer.frames();
        for frame in &mut frames {
            frame.readings.sort_by_key(|(metric, _)| *metric);
        }
        let alike = |a: &Frame, b: &Frame| {
            (a.device == b.device && a.at == b.at && a.readings.len() == b.readings.len())
                && a.readings.iter().zip(&b.readings).all(|(a, b)| {
                    a.0 == b.0 && a.1.quality() == b.1.quality() && close(a.1.value(), b.1.value())
                })
        };
        let same =
            frames.len() == expected.len() && frames.iter().zip(expected).all(|(a, b)| alike(a, b));
        if same {
            Ok(format!("{} frames", expected.len()))
        } else {
            Err(format!("expected {expected:?}, got {frames:?}"))
        }
    }

    async fn range(&mut self, select: &Selector) -> Result<String, String> {
        let mut select = select.clone();
        if select.devices.is_empty() {
            select.devices = self.data.devices.clone();
        }
        let (query, expected) = self.data.range(self.site, POWER, &select);
        let got = self.series(&query).await?;
        self.compare(&got, &expected)
    }

    async fn aggregate(
        &mut self,
        metric: &str,
        over_time: OverTime,
        how: Option<AcrossDevices>,
        group_by: &[Label],
    ) -> Result<String, String> {
        // Begins within a step of the clock, and cuts the last step short.
        let query = self.data.aggregate(metric, over_time, 7_000, how, group_by);
        let expected = (self.data).aggregated(self.site, metric, over_time, 7_000, how, group_by);
        let got = self.series(&query).await?;
        self.compare(&got, &expected)
    }

    /// A reading that was missing is nowhere a value, and taints its step alone.
    async fn qualities(&mut self) -> Result<String, String> {
        let (query, _) = self.data.range(self.site, POWER, &self.data.everything());
        let got = self.series(&query).await?;
        let count = |quality: Quality| {
            let points = got.iter().flat_map(|series| &series.points);
            points.filter(|p| p.quality == quality).count()
        };
        let seen = (count(Quality::Missing), count(Quality::Estimated));
        let missing_has_value = (got.iter().flat_map(|s| &s.points))
            .any(|p| (p.quality == Quality::Missing) == p.value.is_some());
        let expected = self.data.flawed();
        if seen != expected || missing_has_value {
            return Err(format!(
                "expected {expected:?} missing and estimated readings, got {seen:?}; a missing one with a value: {missing_has_value}"
            ));
        }
        Ok(format!("{} missing, {} estimated", seen.0, seen.1))
    }

    fn compare(&mut self, got: &[Series], expected: &[Series]) -> Result<String, String> {
        if got.len() != expected.len() {
            return Err(format!(
                "expected {} series, got {}: {:?}",
                expected.len(),
                got.len(),
                got.iter().map(|s| &s.labels).collect::<Vec<_>>()
            ));
        }
        let mut count = 0;
        for (got, expected) in got.iter().zip(expected) {
            if got.labels != expected.labels {
                return Err(format!(
                    "expected the labels {:?}, got {:?}",
                    expected.labels, got.labels
                ));
            }
            let at = |series: &Series| series.points.iter().map(|p| p.at).collect::<Vec<_>>();
            if at(got) != at(expected) {
                return Err(format!(
                    "{:?}: expected points at {:?}, got {:?}",
                    got.labels,
                    at(expected),
                    at(got)
                ));
            }
            for (got_point, point) in got.points.iter().zip(&expected.points) {
                if !close(got_point.value, point.value) || got_point.quality != point.quality {
                    return Err(format!(
                        "{:?}: expected {point:?}, got {got_point:?}",
                        got.labels
                    ));
                }
                self.inexact |= far(got_point, point);
                count += 1;
            }
        }
        Ok(format!("{} series, {count} points", got.len()))
    }

    /// What must be refused, and how.
    async fn refusals(&mut self) {
        let mut query = self
            .data
            .aggregate("no_such_metric", OverTime::Avg, 1_000, None, &[]);
        let outcome = match self.subject.store().query(&query).await {
            Err(StoreError::UnknownMetric(_)) => Ok("refused by name".to_owned()),
            other => Err(format!("expected a refusal, got {other:?}")),
        };
        self.note("an unknown metric", outcome);
        for (check, turned, step) in [("an empty interval", true, 1), ("a step of zero", false, 0)]
        {
            query = self.data.aggregate(POWER, OverTime::Avg, step, None, &[]);
            if let Query::Aggregate { from, to, .. } = &mut query
                && turned
            {
                *to = *from;
            }
            let outcome = match self.subject.store().query(&query).await {
                Err(StoreError::BadQuery(reason)) => Ok(reason),
                other => Err(format!("expected a refusal, got {other:?}")),
            };
            self.note(check, outcome);
        }
        let queries = [
            (
                "a quantile above 1",
                (self.data).aggregate(POWER, OverTime::Quantile(1.5), 1_000, None, &[]),
            ),
            (
                "the best 0 devices",
                (self.data).aggregate(
                    POWER,
                    OverTime::Avg,
                    1_000,
                    Some(AcrossDevices::TopK(0)),
                    &[],
                ),
            ),
        ];
        for (check, query) in queries {
            let outcome = match self.subject.store().query(&query).await {
                Err(StoreError::BadQuery(reason)) => Ok(reason),
                other => Err(format!("expected a refusal, got {other:?}")),
            };
            self.note(check, outcome);
        }
        // A frame of which nothing is known is a frame.
        let device = self.data.devices[0].clone();
        let at = Timestamp(self.data.last().0 + 60_000);
        let readings = vec![(Catalogue::gpu_power(), Reading::Missing)];
        let frame = Frame {
            device,
            at,
            readings,
        };
        let outcome = self.append(vec![frame.clone()], false).await;
        let query = Query::Latest {
            select: Selector {
                devices: vec![frame.device.clone()],
                ..Selector::default()
            },
            since: at,
        };
        let told = (self.subject.store().query(&query).await).map_err(|e| e.to_string());
        let outcome = outcome
            .and(told)
            .and_then(|a| self.same_frames(a, &[frame]));
        self.note("a frame without any value", outcome);
    }
}

/// Whether two values are the same but for the rounding of an engine.
fn close(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (None, None) => true,
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0),
        _ => false,
    }
}

/// Whether a value was rounded beyond what the order of adding explains.
fn far(a: &Point, b: &Point) -> bool {
    match (a.value, b.value) {
        (Some(a), Some(b)) => (a - b).abs() > 1e-13 * a.abs().max(b.abs()).max(1.0),
        _ => false,
    }
}
