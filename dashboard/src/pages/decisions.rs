//! Decisions with their reasons and proofs.

use super::layout::Page;
use super::{missing, page_of};
use crate::digest::{Entry, clip};
use crate::format;
use crate::html::{html, url_part};
use crate::server::Shared;
use crate::text;
use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse, Response};
use heliostat_models::decision::JobCap;
use heliostat_models::{Decision, DecisionKind, JobId, Timestamp};
use std::sync::Arc;

/// Decisions on the list page.
const LISTED: usize = 200;

/// Longest summary and reason in a list, in characters; the page of the
/// decision has all of it.
const SUMMARY: usize = 160;
const REASON: usize = 200;

/// Each decision on a line of its own.
fn write_list(out: &mut String, decisions: &[Decision]) {
    if decisions.is_empty() {
        html!(out, "<p class=\"note\">{}</p>", text::NO_DECISIONS);
        return;
    }
    out.push_str("<ol class=\"decisions\">");
    for decision in decisions {
        line(out, decision);
    }
    out.push_str("</ol>");
}

/// The same, with runs that changed nothing folded.
pub(super) fn write_digest(out: &mut String, entries: &[Entry]) {
    if entries.is_empty() {
        html!(out, "<p class=\"note\">{}</p>", text::NO_DECISIONS);
        return;
    }
    out.push_str("<ol class=\"decisions\">");
    for entry in entries {
        match entry {
            Entry::One(decision) => line(out, decision),
            Entry::Unchanged {
                count,
                from,
                to,
                sequence,
            } => folded(out, *count, *from, *to, *sequence),
        }
    }
    out.push_str("</ol>");
}

fn folded(out: &mut String, count: usize, from: Timestamp, to: Timestamp, sequence: u64) {
    let since = match count {
        1 => String::new(),
        _ => format!("since {}", format::day_clock(from)),
    };
    html!(
        out,
        "<li class=\"quiet\"><a class=\"when\" href=\"/decisions/{}\">{}</a><span class=\"kind\">{}</span>\
         <span class=\"what\">{} {}, nothing changed by more than 1 % <span class=\"aside\">{}</span></span></li>",
        sequence,
        format::day_clock(to),
        text::decision_kind(DecisionKind::Allocation),
        count,
        if count == 1 {
            "allocation"
        } else {
            "allocations"
        },
        since
    );
}

fn line(out: &mut String, decision: &Decision) {
    let class = match decision.kind {
        DecisionKind::Refusal | DecisionKind::Incident | DecisionKind::Relief => "bad",
        DecisionKind::GridEvent | DecisionKind::Arming => "notice",
        DecisionKind::Plan | DecisionKind::Allocation | DecisionKind::Retention => "",
    };
    let (summary, is_cut) = clip(&decision.summary, SUMMARY);
    let (reason, is_reason_cut) = clip(&decision.reason, REASON);
    html!(
        out,
        "<li class=\"{}\"><a class=\"when\" href=\"/decisions/{}\">{}</a><span class=\"kind\">{}</span>\
         <span class=\"what\">{}{} <span class=\"aside\">{}{}</span>",
        class,
        decision.sequence,
        format::day_clock(decision.at),
        text::decision_kind(decision.kind),
        summary,
        if is_cut { "…" } else { "" },
        reason,
        if is_reason_cut { "…" } else { "" }
    );
    if is_cut || is_reason_cut {
        html!(
            out,
            " <a href=\"/decisions/{}\">all of it</a>",
            decision.sequence
        );
    }
    out.push_str("</span><span class=\"proof\">");
    if let Some(certificate) = &decision.certificate {
        html!(
            out,
            "<span class=\"chip\">gap {}</span> ",
            format::gap(certificate.gap)
        );
    }
    html!(
        out,
        "<span class=\"chip {}\">{}</span></span></li>",
        if decision.armed { "running" } else { "queued" },
        if decision.armed { "armed" } else { "observed" }
    );
}

pub(super) async fn list(State(shared): State<Arc<Shared>>) -> Html<String> {
    let mut body = String::new();
    html!(
        body,
        "<section class=\"panel\"><h1>{}</h1><p class=\"note\">Newest first. Each says what was decided, why, \
         how far from the best possible it can be (gap), and whether it was acted upon.</p>",
        text::DECISIONS
    );
    write_list(&mut body, &shared.app.decisions.latest(LISTED, |_| true));
    body.push_str("</section>");
    let meta = Page {
        title: text::DECISIONS,
        here: "/decisions",
        is_live: false,
    };
    page_of(&shared, &meta, &body)
}

pub(super) async fn one(State(shared): State<Arc<Shared>>, Path(number): Path<String>) -> Response {
    let wanted: Option<u64> = number.parse().ok();
    let found = shared
        .app
        .decisions
        .latest(1, |d| Some(d.sequence) == wanted);
    let Some(decision) = found.first() else {
        return missing(
            &shared,
            "This decision is not among the latest that are kept in memory; the log on disk has all.",
        );
    };
    let mut body = String::new();
    html!(
        body,
        "<nav class=\"crumbs\" aria-label=\"Where\"><a href=\"/decisions\">{}</a></nav><section class=\"panel\">\
         <h1>Decision {}: {}</h1><p>{}</p><p>{}</p><dl class=\"rows\">",
        text::DECISIONS,
        decision.sequence,
        text::decision_kind(decision.kind),
        decision.summary,
        decision.reason
    );
    let mut rows = vec![
        ("Taken", format::full(decision.at)),
        (
            "Acted upon",
            if decision.armed {
                "yes, control was armed"
            } else {
                "no, only observed"
            }
            .to_owned(),
        ),
    ];
    if let Some(c) = &decision.certificate {
        rows.push(("Value reached", format!("{:.6}", c.primal)));
        rows.push(("No solution can beat", format!("{:.6}", c.dual_bound)));
        rows.push(("Gap", format::gap(c.gap)));
        rows.push(("SHA-256 of all inputs", c.inputs_hash.clone()));
    }
    for (label, value) in rows {
        html!(body, "<div><dt>{}</dt><dd>{}</dd></div>", label, value);
    }
    body.push_str("</dl>");
    if !decision.caps.is_empty() {
        caps(&mut body, &decision.caps);
    }
    body.push_str("</section>");
    let title = format!("Decision {}", decision.sequence);
    let meta = Page {
        title: &title,
        here: "/decisions",
        is_live: false,
    };
    page_of(&shared, &meta, &body).into_response()
}

fn caps(out: &mut String, caps: &[JobCap]) {
    out.push_str(
        "<h2>Caps</h2><div class=\"scroll\"><table class=\"list\"><thead><tr><th>Job</th><th class=\"n\">Devices</th>\
         <th class=\"n\">Cap</th><th class=\"n\">Speed</th><th>Binds</th><th>Why</th></tr></thead><tbody>",
    );
    for cap in caps {
        out.push_str("<tr><th scope=\"row\">");
        match &cap.job {
            Some(job) => html!(
                out,
                "<a href=\"/jobs/{}\">{}</a>",
                url_part(job.as_str()),
                job
            ),
            None => out.push_str("idle devices"),
        }
        html!(
            out,
            "</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td>{}</td><td class=\"why\">{}</td></tr>",
            cap.devices,
            format::watts(cap.cap.0),
            format::percent(cap.speed),
            cap.binding.as_deref().unwrap_or("nothing"),
            cap.reason
        );
    }
    out.push_str("</tbody></table></div>");
}

/// The latest cap decided for a job, with the decision's number.
pub(super) fn latest_cap(shared: &Shared, job: &JobId) -> Option<(u64, JobCap)> {
    cap_where(shared, |cap| cap.job.as_ref() == Some(job))
}

/// The latest cap decided for devices that no job holds.
pub(super) fn latest_idle_cap(shared: &Shared) -> Option<(u64, JobCap)> {
    cap_where(shared, |cap| cap.job.is_none())
}

fn cap_where(shared: &Shared, wanted: impl Fn(&JobCap) -> bool) -> Option<(u64, JobCap)> {
    let has_it = |d: &Decision| d.caps.iter().any(&wanted);
    let decision = shared.app.decisions.latest(1, has_it).pop()?;
    let cap = decision.caps.into_iter().find(&wanted)?;
    Some((decision.sequence, cap))
}
