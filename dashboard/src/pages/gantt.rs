//! Jobs on a time axis with the carbon band behind them. Places are per cent,
//! so that the drawing fits any width and its text keeps its size.

use crate::format;
use crate::html::{html, url_part};
use crate::server::Shared;
use crate::snapshot::Snapshot;
use crate::text;
use crate::timeline::{Bar, BarKind, Timeline, timeline};
use heliostat_models::{JobState, Timestamp};
use std::time::Duration;

const ROW: usize = 22;
const PAST: Duration = Duration::from_secs(24 * 3_600);
const AHEAD: Duration = Duration::from_secs(48 * 3_600);
/// Shades of the carbon band.
const SHADES: f64 = 6.0;

pub(super) async fn write(out: &mut String, shared: &Shared, snapshot: &Snapshot) {
    let view = timeline(shared, snapshot, snapshot.at - PAST, snapshot.at + AHEAD).await;
    legend(out, &view);
    if view.rows.is_empty() {
        html!(out, "<p class=\"note\">{}</p>", text::NO_JOBS);
        return;
    }
    draw(out, &view);
    if view.left_out > 0 {
        html!(
            out,
            "<p class=\"note\">{} more jobs are in the <a href=\"/jobs\">table</a>.</p>",
            view.left_out
        );
    }
    html!(out, "<details><summary>{}</summary>", text::JOB_TABLE);
    super::jobs::table(out, snapshot, |state| {
        matches!(
            state,
            JobState::Running | JobState::Paused | JobState::Queued
        )
    });
    out.push_str("</details>");
}

fn legend(out: &mut String, view: &Timeline) {
    out.push_str("<p class=\"legend\" aria-hidden=\"true\">");
    for (class, label) in [
        ("ran", "ran"),
        ("planned", "planned"),
        ("paused", "paused"),
        ("queued", "waiting"),
    ] {
        html!(
            out,
            "<svg width=\"26\" height=\"12\"><rect class=\"job {}\" x=\"1\" y=\"1\" width=\"24\" height=\"10\" rx=\"2\"/></svg>{} ",
            class,
            label
        );
    }
    if let Some((low, high)) = view.carbon_range() {
        html!(
            out,
            "<span class=\"gap\"></span>carbon {} ",
            format::number(low, 0)
        );
        for shade in 0..=SHADES as u8 {
            html!(
                out,
                "<svg width=\"14\" height=\"12\"><rect class=\"k{}\" width=\"14\" height=\"12\"/></svg>",
                shade
            );
        }
        html!(out, "{} gCO₂e/kWh", format::number(high, 0));
    }
    out.push_str("</p>");
}

fn draw(out: &mut String, view: &Timeline) {
    let height = view.rows.len() * ROW;
    out.push_str("<div class=\"gantt\"><ul class=\"names\">");
    for row in &view.rows {
        let (word, class) = text::job_state(row.state);
        html!(
            out,
            "<li><a class=\"{}\" href=\"/jobs/{}\" title=\"{} {}, {} GPUs, {}\">{}</a> <span class=\"aside\">{}</span></li>",
            class,
            url_part(row.job.as_str()),
            row.class,
            row.job,
            row.gang,
            word,
            row.job,
            row.gang
        );
    }
    html!(
        out,
        "</ul><svg class=\"axis\" width=\"100%\" height=\"{}\" role=\"img\" aria-label=\"{}\">",
        height + 20,
        format!(
            "{} jobs from {} to {}; the same is in the table below",
            view.rows.len(),
            format::day_clock(view.from),
            format::day_clock(view.to)
        )
    );
    carbon(out, view, height);
    hours(out, view, height);
    for (index, row) in view.rows.iter().enumerate() {
        let y = index * ROW;
        for bar in &row.bars {
            draw_bar(out, view, row.job.as_str(), row.reason.as_deref(), bar, y);
        }
        if let Some(deadline) = row.deadline.filter(|d| *d > view.from && *d < view.to) {
            html!(
                out,
                "<rect class=\"deadline\" x=\"{}%\" y=\"{}\" width=\"2\" height=\"{}\"><title>{}</title></rect>",
                places(view.place(deadline)),
                y + 2,
                ROW - 4,
                format!("{}: due {}", row.job, format::day_clock(deadline))
            );
        }
    }
    let now = places(view.place(view.now));
    html!(
        out,
        "<rect class=\"now\" x=\"{}%\" y=\"0\" width=\"1.5\" height=\"{}\"/>\
         <text class=\"now-label\" x=\"{}%\" dx=\"5\" y=\"{}\">now</text></svg></div>",
        now,
        height,
        now,
        height + 14
    );
}

fn carbon(out: &mut String, view: &Timeline, height: usize) {
    let Some((low, high)) = view.carbon_range() else {
        return;
    };
    let width = (high - low).max(1e-9);
    for band in &view.carbon {
        let shade = ((band.value - low) / width * SHADES).round() as u8;
        let (from, to) = (view.place(band.from), view.place(band.to));
        html!(
            out,
            "<rect class=\"k{}\" x=\"{}%\" width=\"{}%\" height=\"{}\"><title>{}</title></rect>",
            shade,
            places(from),
            // A hair wider, or seams show between neighbours.
            places(to - from + 0.000_6),
            height,
            format!(
                "{}: {}{} gCO₂e/kWh{}",
                format::day_clock(band.from),
                if band.is_forecast { "≈ " } else { "" },
                format::number(band.value, 0),
                if band.is_forecast {
                    ", forecast or estimate"
                } else {
                    ""
                }
            )
        );
    }
}

fn hours(out: &mut String, view: &Timeline, height: usize) {
    const TICK: Duration = Duration::from_secs(12 * 3_600);
    let mut at = view.from.next_multiple_of(TICK);
    while at < view.to {
        let x = places(view.place(at));
        let is_midnight = at == at.floor_to(Duration::from_secs(86_400));
        html!(
            out,
            "<rect class=\"tick\" x=\"{}%\" width=\"1\" height=\"{}\"/>",
            x,
            height
        );
        // Close to "now" or the end two labels would touch.
        if is_midnight && clear_of(view, at) {
            html!(
                out,
                "<text class=\"tick-label\" x=\"{}%\" dx=\"4\" y=\"{}\">{}</text>",
                x,
                height + 14,
                format::day(at)
            );
        }
        at = at + TICK;
    }
}

fn clear_of(view: &Timeline, at: Timestamp) -> bool {
    let place = view.place(at);
    (place - view.place(view.now)).abs() > 0.07 && place < 0.93
}

fn draw_bar(
    out: &mut String,
    view: &Timeline,
    job: &str,
    reason: Option<&str>,
    bar: &Bar,
    y: usize,
) {
    let (class, top, height) = match bar.kind {
        BarKind::Ran => ("ran", 4, ROW - 8),
        BarKind::Planned => ("planned", 4, ROW - 8),
        BarKind::Paused => ("paused", 7, ROW - 14),
        BarKind::Queued => ("queued", 10, 2),
    };
    let (from, to) = (view.place(bar.from), view.place(bar.to));
    let why = match (bar.kind, reason) {
        (BarKind::Planned, Some(reason)) => format!(". {reason}"),
        _ => String::new(),
    };
    html!(
        out,
        "<rect class=\"job {}\" x=\"{}%\" width=\"{}%\" y=\"{}\" height=\"{}\" rx=\"2\"><title>{}</title></rect>",
        class,
        places(from),
        places((to - from).max(0.001)),
        y + top,
        height,
        format!("{job}: {}{why}", bar.words())
    );
}

/// A share as per cent with two decimals.
fn places(share: f64) -> f64 {
    (share * 1e4).round() / 100.0
}
