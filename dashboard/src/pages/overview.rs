//! The overview: what a facility manager needs to see at a glance.

use super::layout::Page;
use super::{decisions, figure, gantt, heatmap, page_of};
use crate::html::html;
use crate::live::{Live, live};
use crate::server::Shared;
use crate::snapshot::{PowerBar, Snapshot};
use crate::text;
use axum::extract::State;
use axum::response::Html;
use heliostat_optimizer::view::PowerNodeView;
use std::sync::Arc;

/// Power nodes shown at most; the fullest are shown.
const MAX_POWER_NODES: usize = 24;

pub(super) async fn overview(State(shared): State<Arc<Shared>>) -> Html<String> {
    let snapshot = shared.now();
    let site = &shared.app.site;
    let live = live(&snapshot, site);
    let mut body = String::with_capacity(128 << 10);
    html!(
        body,
        "<h1 class=\"sr\">{}: {}</h1>",
        site.name,
        text::OVERVIEW
    );
    html!(
        body,
        "<p class=\"event {}\" data-state=\"event\" data-live=\"event\" role=\"status\">{}</p>",
        live.state("event"),
        live.text("event")
    );
    body.push_str("<div class=\"tiles\">");
    power_tile(&mut body, &live);
    pue_tile(&mut body, &live);
    grid_tile(&mut body, &live, &site.zone);
    control_tile(&mut body, &live);
    body.push_str("</div><div class=\"pair\"><div>");
    power_tree(&mut body, &live, &snapshot);
    html!(
        body,
        "<section class=\"panel\" aria-labelledby=\"h-decisions\">\
         <h2 id=\"h-decisions\">{} <a class=\"more\" href=\"/decisions\">all</a></h2>\
         <div data-fragment=\"/fragments/decisions\">",
        text::LATEST_DECISIONS
    );
    decisions::write_digest(&mut body, &snapshot.decisions);
    body.push_str("</div></section></div>");
    html!(
        body,
        "<section class=\"panel\" aria-labelledby=\"h-trend\"><h2 id=\"h-trend\">{}</h2>",
        "Power, carbon and PUE"
    );
    figure(&mut body, &shared, "site-power", "now-24h", "now").await;
    figure(&mut body, &shared, "carbon", "now-24h", "now%2B24h").await;
    figure(&mut body, &shared, "pue", "now-24h", "now").await;
    body.push_str("</section></div>");
    heatmap::write(&mut body, &live, &snapshot, site);
    html!(
        body,
        "<section class=\"panel\" aria-labelledby=\"h-jobs\"><h2 id=\"h-jobs\">{}</h2>\
         <div data-fragment=\"/fragments/jobs\">",
        text::JOB_AXIS
    );
    gantt::write(&mut body, &shared, &snapshot).await;
    body.push_str("</div></section>");
    let meta = Page {
        title: text::OVERVIEW,
        here: "/",
        is_live: true,
    };
    page_of(&shared, &meta, &body)
}

/// A value that changes in place.
fn value(out: &mut String, live: &Live, key: &str, class: &str) {
    html!(
        out,
        "<span class=\"{} {}\" data-live=\"{}\" data-state=\"{}\">{}</span>",
        class,
        live.state(key),
        key,
        key,
        live.text(key)
    );
}

fn power_tile(out: &mut String, live: &Live) {
    html!(
        out,
        "<section class=\"panel tile wide\" aria-labelledby=\"h-power\"><h2 id=\"h-power\">{}</h2><p class=\"big\">",
        text::POWER_NOW
    );
    value(out, live, "site.power", "number");
    out.push_str(" <span class=\"aside\">");
    value(out, live, "site.limit", "");
    out.push_str(" · ");
    value(out, live, "site.left", "");
    out.push_str(
        "</span></p><svg class=\"bar tall\" width=\"100%\" height=\"26\" aria-hidden=\"true\">\
        <rect class=\"track\" width=\"100%\" height=\"18\" y=\"4\"/>",
    );
    for (key, class) in [
        ("part.gpu", "p1"),
        ("part.it", "p2"),
        ("part.cooling", "p3"),
        ("part.unknown", "pu"),
    ] {
        let (x, width) = live.bar(key);
        html!(
            out,
            "<rect class=\"{}\" data-bar=\"{}\" x=\"{}%\" width=\"{}%\" y=\"4\" height=\"18\"/>",
            class,
            key,
            x,
            width
        );
    }
    mark(out, live, "site.configured", "mark faint", 26);
    mark(out, live, "site.limit", "mark", 26);
    out.push_str("</svg><dl class=\"parts\">");
    for (key, class, label) in [
        ("part.gpu", "p1", text::PART_GPU),
        ("part.it", "p2", text::PART_IT),
        ("part.cooling", "p3", text::PART_COOLING),
        ("part.unknown", "pu", text::PART_UNKNOWN),
    ] {
        let row = format!("{key}.row");
        html!(
            out,
            "<div class=\"{}\" data-state=\"{}\"><dt><svg width=\"10\" height=\"10\" aria-hidden=\"true\"><rect class=\"{}\" width=\"10\" height=\"10\"/></svg> {}</dt><dd>",
            live.state(&row),
            row,
            class,
            label
        );
        value(out, live, key, "");
        out.push_str(" <span class=\"aside\">");
        value(out, live, &format!("{key}.share"), "");
        out.push_str("</span></dd></div>");
    }
    out.push_str("</dl></section>");
}

fn mark(out: &mut String, live: &Live, key: &str, class: &str, height: u32) {
    let (x, _) = live.bar(key);
    html!(
        out,
        "<rect class=\"{}\" data-mark=\"{}\" x=\"{}%\" width=\"2\" height=\"{}\"/>",
        class,
        key,
        x,
        height
    );
}

fn pue_tile(out: &mut String, live: &Live) {
    html!(
        out,
        "<section class=\"panel tile\" aria-labelledby=\"h-pue\"><h2 id=\"h-pue\">{} \
         <span class=\"aside\">interim (iPUE)</span></h2><p class=\"big\">",
        text::PUE
    );
    value(out, live, "pue.hour", "number");
    out.push_str(" <span class=\"aside\">last hour</span></p><p>");
    value(out, live, "pue.day", "");
    out.push_str(" <span class=\"aside\">last 24 hours</span></p><p class=\"note\">");
    value(out, live, "pue.source", "");
    out.push_str("<br>Hour: ");
    value(out, live, "pue.hour.shares", "");
    out.push_str("<br>Day: ");
    value(out, live, "pue.day.shares", "");
    out.push_str("</p></section>");
}

fn grid_tile(out: &mut String, live: &Live, zone: &str) {
    html!(
        out,
        "<section class=\"panel tile\" aria-labelledby=\"h-grid\"><h2 id=\"h-grid\">{} \
         <span class=\"aside\">zone {}</span></h2><p class=\"big\">",
        text::GRID,
        zone
    );
    value(out, live, "grid.carbon", "number");
    html!(
        out,
        " <span class=\"aside\">gCO₂e/kWh, life cycle</span></p><dl class=\"rows\"><div><dt>{}</dt><dd>",
        text::RENEWABLE
    );
    value(out, live, "grid.renewable", "");
    let (_, width) = live.bar("grid.renewable");
    html!(
        out,
        "</dd></div></dl><svg class=\"bar\" width=\"100%\" height=\"8\" aria-hidden=\"true\">\
         <rect class=\"track\" width=\"100%\" height=\"8\"/><rect class=\"p1\" data-bar=\"grid.renewable\" width=\"{}%\" height=\"8\"/></svg>\
         <dl class=\"rows\"><div><dt>{}</dt><dd>",
        width,
        text::PRICE
    );
    value(out, live, "grid.price", "");
    out.push_str(" <span class=\"aside\">EUR/MWh</span></dd></div></dl></section>");
}

fn control_tile(out: &mut String, live: &Live) {
    html!(
        out,
        "<section class=\"panel tile\" aria-labelledby=\"h-control\"><h2 id=\"h-control\">{}</h2><p class=\"big\">",
        text::CONTROL
    );
    value(out, live, "control.mode", "number word");
    out.push_str("</p><p class=\"note\">");
    value(out, live, "control.note", "");
    out.push_str("</p><dl class=\"rows\">");
    for (key, label) in [
        ("control.gap", "Gap of the caps in force"),
        ("control.max-gap", "Largest gap so far"),
        ("control.allocations", "Allocations"),
        ("control.caps", "Caps acknowledged"),
        ("control.plan", "Plan of"),
    ] {
        html!(out, "<div><dt>{}</dt><dd>", label);
        value(out, live, key, "");
        out.push_str("</dd></div>");
    }
    out.push_str("</dl></section>");
}

fn power_tree(out: &mut String, live: &Live, snapshot: &Snapshot) {
    html!(
        out,
        "<section class=\"panel\" aria-labelledby=\"h-tree\"><h2 id=\"h-tree\">{}</h2><table class=\"tree\">\
         <thead class=\"sr\"><tr><th>Power node</th><th>Use</th><th>Power</th><th>Limit</th><th>Share</th></tr></thead><tbody>",
        text::POWER_TREE
    );
    let mut bars: Vec<&PowerBar> = snapshot.upper.iter().collect();
    let left_out = bars.len().saturating_sub(MAX_POWER_NODES);
    if left_out > 0 {
        let fullness = |b: &PowerBar| b.power.value.unwrap_or(f64::INFINITY) / b.limit.0;
        bars.sort_by(|a, b| fullness(b).total_cmp(&fullness(a)));
        bars.truncate(MAX_POWER_NODES);
    }
    for bar in bars {
        let key = format!("pn.{}", bar.id);
        let (_, width) = live.bar(&key);
        html!(
            out,
            "<tr class=\"{}\" data-state=\"{}\"><th scope=\"row\" class=\"d{}\">{} <span class=\"aside\">{}</span></th>\
             <td class=\"use\"><svg class=\"bar\" width=\"100%\" height=\"16\" aria-hidden=\"true\">\
             <rect class=\"track\" width=\"100%\" height=\"10\" y=\"3\"/>\
             <rect class=\"p1\" data-bar=\"{}\" width=\"{}%\" height=\"10\" y=\"3\"/>",
            live.state(&key),
            key,
            bar.depth.min(5),
            bar.id,
            text::power_kind(bar.kind),
            key,
            width
        );
        let limit_key = format!("{key}.limit");
        mark(out, live, &limit_key, "mark", 16);
        out.push_str("</svg></td><td class=\"n\">");
        value(out, live, &key, "");
        out.push_str("</td><td class=\"n aside\">of ");
        value(out, live, &limit_key, "");
        out.push_str("</td><td class=\"n\">");
        value(out, live, &format!("{key}.share"), "");
        out.push_str("</td></tr>");
    }
    out.push_str("</tbody></table>");
    if left_out > 0 {
        html!(
            out,
            "<p class=\"note\">The fullest {} of {} power nodes.</p>",
            MAX_POWER_NODES,
            MAX_POWER_NODES + left_out
        );
    }
    out.push_str(
        "<p class=\"note\">The line across a bar is its limit now. It moves when a grid event asks for less.</p>",
    );
    power_contracts(out, live, snapshot);
    out.push_str("</section>");
}

/// Limits over sets that cut across the tree; nothing where a site has none.
fn power_contracts(out: &mut String, live: &Live, snapshot: &Snapshot) {
    let contracts = &snapshot.view.contracts;
    if contracts.is_empty() {
        return;
    }
    html!(
        out,
        "<h3>{}</h3><table class=\"tree\"><thead class=\"sr\"><tr><th>Power contract</th><th>Use</th>\
         <th>Caps decided and what no cap controls</th><th>Limit</th><th>Share</th></tr></thead><tbody>",
        text::POWER_CONTRACTS
    );
    // The fullest first, where they are too many.
    let mut shown: Vec<_> = contracts.iter().collect();
    if shown.len() > MAX_POWER_NODES {
        let room = |c: &PowerNodeView| (c.limit - c.capped - c.uncontrolled) / c.limit;
        shown.sort_by(|a, b| room(a).total_cmp(&room(b)));
        shown.truncate(MAX_POWER_NODES);
    }
    for contract in shown {
        let key = format!("pc.{}", contract.id);
        let (_, width) = live.bar(&key);
        html!(
            out,
            "<tr class=\"{}\" data-state=\"{}\"><th scope=\"row\">{}</th><td class=\"use\">\
             <svg class=\"bar\" width=\"100%\" height=\"16\" aria-hidden=\"true\">\
             <rect class=\"track\" width=\"100%\" height=\"10\" y=\"3\"/>\
             <rect class=\"p1\" data-bar=\"{}\" width=\"{}%\" height=\"10\" y=\"3\"/></svg></td><td class=\"n\">",
            live.state(&key),
            key,
            contract.id,
            key,
            width
        );
        value(out, live, &key, "");
        out.push_str("</td><td class=\"n aside\">of ");
        value(out, live, &format!("{key}.limit"), "");
        out.push_str("</td><td class=\"n\">");
        value(out, live, &format!("{key}.share"), "");
        out.push_str("</td></tr>");
    }
    html!(
        out,
        "</tbody></table><p class=\"note\">{}</p>",
        text::POWER_CONTRACTS_NOTE
    );
}
