//! Jobs as tables and one by one.

use super::layout::Page;
use super::{missing, page_of};
use crate::format;
use crate::html::{html, url_part};
use crate::server::Shared;
use crate::snapshot::Snapshot;
use crate::text;
use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse, Response};
use heliostat_models::{JobId, JobState};
use heliostat_store::jobs::JobEntry;
use std::sync::Arc;

/// Rows of a table at most.
const MAX_ROWS: usize = 500;

/// A table of the jobs whose state `keep` accepts.
pub(super) fn table(out: &mut String, snapshot: &Snapshot, keep: impl Fn(JobState) -> bool) {
    let mut jobs: Vec<&JobEntry> = snapshot
        .jobs
        .iter()
        .filter(|j| keep(j.record.state))
        .collect();
    jobs.sort_by_key(|j| {
        let rank = match j.record.state {
            JobState::Running => 0,
            JobState::Paused => 1,
            JobState::Queued => 2,
            JobState::Completed | JobState::Cancelled => 3,
        };
        // Ended ones newest first, the others oldest first.
        let at = j.record.ended.map_or(j.record.release.0, |e| -e.0);
        (rank, at)
    });
    out.push_str(
        "<div class=\"scroll\"><table class=\"list\"><thead><tr><th>Job</th><th>State</th><th>Class</th><th class=\"n\">GPUs</th>\
         <th class=\"n\">Left</th><th class=\"n\">Of</th><th>Due</th><th>Next run</th><th>Why</th></tr></thead><tbody>",
    );
    let left_out = jobs.len().saturating_sub(MAX_ROWS);
    for entry in jobs.into_iter().take(MAX_ROWS) {
        row(out, snapshot, entry);
    }
    out.push_str("</tbody></table></div>");
    if left_out > 0 {
        html!(
            out,
            "<p class=\"note\">{} more; the API lists all at <a href=\"/api/v1/jobs\">/api/v1/jobs</a>.</p>",
            left_out
        );
    }
}

fn row(out: &mut String, snapshot: &Snapshot, entry: &JobEntry) {
    let record = &entry.record;
    let (word, class) = text::job_state(record.state);
    let planned = snapshot
        .view
        .plan
        .as_ref()
        .and_then(|p| p.jobs.iter().find(|j| j.job == record.id));
    let next = planned
        .and_then(|p| p.runs.iter().find(|r| r.1 > snapshot.at))
        .map(|r| {
            format!(
                "{} to {}",
                format::day_clock(r.0.max(snapshot.at)),
                format::day_clock(r.1)
            )
        });
    html!(
        out,
        "<tr><th scope=\"row\"><a href=\"/jobs/{}\">{}</a></th><td><span class=\"chip {}\">{}</span></td><td>{}</td>\
         <td class=\"n\">{}</td><td class=\"n\">{} h</td><td class=\"n\">{} h</td><td>{}</td><td>{}</td><td class=\"why\">{}</td></tr>",
        url_part(record.id.as_str()),
        record.id,
        class,
        word,
        record.class,
        record.gang_size,
        format::number(record.remaining_hours, 1),
        format::number(record.total_hours, 1),
        record
            .deadline
            .map_or_else(|| "any time".to_owned(), format::day_clock),
        next.unwrap_or_else(|| "–".to_owned()),
        planned.map_or("", |p| p.reason.as_str())
    );
}

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Html<String> {
    let snapshot = shared.now();
    let mut body = String::new();
    html!(
        body,
        "<section class=\"panel\"><h1>{}</h1><div data-fragment=\"/fragments/jobs\">",
        text::JOBS
    );
    super::gantt::write(&mut body, &shared, &snapshot).await;
    body.push_str("</div></section><section class=\"panel\"><h2>All jobs</h2>");
    if snapshot.jobs.is_empty() {
        html!(body, "<p>{}</p>", text::NO_JOBS);
    } else {
        table(&mut body, &snapshot, |_| true);
    }
    body.push_str("</section>");
    let meta = Page {
        title: text::JOBS,
        here: "/jobs",
        is_live: true,
    };
    page_of(&shared, &meta, &body)
}

pub(super) async fn one(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let snapshot = shared.now();
    let Some(entry) = shared.app.jobs.get(&JobId::from(id.as_str())) else {
        return missing(&shared, "There is no job of this name.");
    };
    let record = &entry.record;
    let mut body = String::new();
    html!(
        body,
        "<nav class=\"crumbs\" aria-label=\"Where\"><a href=\"/jobs\">{}</a></nav><section class=\"panel\"><h1>Job {}</h1><dl class=\"rows\">",
        text::JOBS,
        record.id
    );
    let when = |t: Option<heliostat_models::Timestamp>, none: &str| {
        t.map_or_else(|| none.to_owned(), format::full)
    };
    for (label, value) in [
        ("State", text::job_state(record.state).0.to_owned()),
        ("Class", record.class.to_string()),
        ("Owner (pseudonym)", record.owner.clone()),
        ("GPUs", record.gang_size.to_string()),
        (
            "Work left",
            format!(
                "{} of {} hours at full speed",
                format::number(record.remaining_hours, 2),
                format::number(record.total_hours, 2)
            ),
        ),
        ("May start", format::full(record.release)),
        ("Due", when(record.deadline, "any time")),
        ("Started", when(record.started, "not yet")),
        ("Ended", when(record.ended, "not yet")),
    ] {
        html!(body, "<div><dt>{}</dt><dd>{}</dd></div>", label, value);
    }
    body.push_str("</dl>");
    if let Some(planned) = snapshot
        .view
        .plan
        .as_ref()
        .and_then(|p| p.jobs.iter().find(|j| j.job == record.id))
    {
        html!(body, "<h2>Plan</h2><p>{}</p><ul>", planned.reason);
        for (from, to, level) in &planned.runs {
            html!(
                body,
                "<li>{} to {} at {} power</li>",
                format::day_clock(*from),
                format::day_clock(*to),
                format::percent(*level)
            );
        }
        body.push_str("</ul>");
    }
    if let Some((decision, cap)) = super::decisions::latest_cap(&shared, &record.id) {
        html!(
            body,
            "<h2>Cap</h2><p>{} on each of {} devices: {} <a href=\"/decisions/{}\">decision {}</a></p>",
            format::watts(cap.cap.0),
            cap.devices,
            cap.reason,
            decision,
            decision
        );
    }
    body.push_str("<h2>History</h2><ul>");
    for (at, state) in &entry.history {
        html!(
            body,
            "<li>{}: {}</li>",
            format::full(*at),
            text::job_state(*state).0
        );
    }
    body.push_str("</ul>");
    if !record.devices.is_empty() {
        body.push_str("<h2>Devices</h2><p class=\"tags\">");
        for device in &record.devices {
            html!(
                body,
                "<a href=\"/devices/{}\">{}</a> ",
                url_part(device.as_str()),
                device
            );
        }
        body.push_str("</p>");
    }
    body.push_str("</section>");
    let title = format!("Job {}", record.id);
    let meta = Page {
        title: &title,
        here: "/jobs",
        is_live: false,
    };
    page_of(&shared, &meta, &body).into_response()
}
