//! The pages of a rack, a node and a GPU.

use super::layout::Page;
use super::{decisions, figure, missing, page_of};
use crate::figure::Figure;
use crate::format;
use crate::html::{html, url_part};
use crate::live::class_of;
use crate::server::Shared;
use crate::snapshot::Snapshot;
use crate::text;
use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse, Response};
use heliostat_models::site::{Device, Node};
use heliostat_models::{Catalogue, DeviceId, Watts};
use std::sync::Arc;

fn crumbs(out: &mut String, parts: &[(String, &str)]) {
    html!(
        out,
        "<nav class=\"crumbs\" aria-label=\"Where\"><a href=\"/\">{}</a>",
        text::OVERVIEW
    );
    for (href, label) in parts {
        html!(out, " › <a href=\"{}\">{}</a>", href, label);
    }
    out.push_str("</nav>");
}

fn fact(out: &mut String, label: &str, value: &str) {
    html!(out, "<div><dt>{}</dt><dd>{}</dd></div>", label, value);
}

fn figure_fact(out: &mut String, label: &str, value: Figure, words: impl Fn(f64) -> String) {
    html!(
        out,
        "<div><dt>{}</dt><dd class=\"{}\">{}</dd></div>",
        label,
        class_of(value),
        format::figure(value, words)
    );
}

fn against(power: Figure, limit: Watts) -> String {
    format!(
        "{} of {}",
        format::figure(power, format::watts),
        format::watts(limit.0)
    )
}

/// A table of a node's GPUs.
fn gpu_table(out: &mut String, shared: &Shared, snapshot: &Snapshot, nodes: &[&Node]) {
    out.push_str(
        "<div class=\"scroll\"><table class=\"list\"><thead><tr><th>GPU</th><th class=\"n\">Power</th><th class=\"n\">Limit</th>\
         <th class=\"n\">Temperature</th><th class=\"n\">Utilisation</th><th>Job</th></tr></thead><tbody>",
    );
    for device in nodes
        .iter()
        .flat_map(|n| &shared.app.site.devices[n.devices.clone()])
    {
        html!(
            out,
            "<tr><th scope=\"row\"><a href=\"/devices/{}\">{}</a></th>",
            url_part(device.id.as_str()),
            device.id
        );
        for (metric, words) in [
            (Catalogue::gpu_power(), format::watts as fn(f64) -> String),
            (Catalogue::gpu_power_limit(), format::watts),
            (Catalogue::gpu_temperature(), |t| {
                format!("{} °C", format::number(t, 0))
            }),
            (Catalogue::gpu_utilization(), format::percent),
        ] {
            let value = snapshot.figure(&device.id, metric);
            html!(
                out,
                "<td class=\"n {}\">{}</td>",
                class_of(value),
                format::figure(value, words)
            );
        }
        out.push_str("<td>");
        holder(out, snapshot, &device.id);
        out.push_str("</td></tr>");
    }
    out.push_str("</tbody></table></div>");
}

fn holder(out: &mut String, snapshot: &Snapshot, device: &DeviceId) {
    match snapshot.holder.get(device) {
        Some(job) => html!(
            out,
            "<a href=\"/jobs/{}\">{}</a>",
            url_part(job.as_str()),
            job
        ),
        None => html!(out, "<span class=\"aside\">{}</span>", text::FREE),
    }
}

pub(super) async fn rack(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let site = &shared.app.site;
    let Some((index, rack)) = site.racks.iter().enumerate().find(|(_, r)| r.id == id) else {
        return missing(&shared, "There is no rack of this name.");
    };
    let snapshot = shared.now();
    let hall = &site.halls[rack.hall];
    let nodes: Vec<&Node> = site.nodes.iter().filter(|n| n.rack == index).collect();
    let bar = &snapshot.racks[index];
    let mut body = String::new();
    crumbs(&mut body, &[]);
    html!(
        body,
        "<section class=\"panel\" data-self=\"facts\"><h1>Rack {}</h1><dl class=\"rows\">",
        rack.id
    );
    fact(
        &mut body,
        "Hall and row",
        &format!("{}, row {}", hall.name, rack.row),
    );
    fact(
        &mut body,
        "Power against its limit",
        &against(bar.power, bar.limit),
    );
    let feeds: Vec<&str> = site
        .power
        .path_up(rack.power_node)
        .into_iter()
        .skip(1)
        .map(|n| site.power.nodes()[n].id.as_str())
        .collect();
    fact(&mut body, "Fed by", &feeds.join(" ← "));
    body.push_str("</dl><p class=\"tags\">");
    for node in &nodes {
        html!(
            body,
            "<a href=\"/nodes/{}\">{}</a> ",
            url_part(node.id.as_str()),
            node.id
        );
    }
    body.push_str("</p></section><section class=\"panel\">");
    figure(&mut body, &shared, &format!("rack-{id}"), "now-6h", "now").await;
    body.push_str("</section><section class=\"panel\" data-self=\"gpus\"><h2>GPUs</h2>");
    gpu_table(&mut body, &shared, &snapshot, &nodes);
    body.push_str("</section>");
    finish(&shared, &format!("Rack {id}"), &body)
}

pub(super) async fn node(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let site = &shared.app.site;
    let Some((index, node)) = site.node(&id) else {
        return missing(&shared, "There is no node of this name.");
    };
    let snapshot = shared.now();
    let rack = &site.racks[node.rack];
    let name = DeviceId::from(node.id.as_str());
    let mut body = String::new();
    crumbs(
        &mut body,
        &[(format!("/racks/{}", url_part(&rack.id)), rack.id.as_str())],
    );
    html!(
        body,
        "<section class=\"panel\" data-self=\"facts\"><h1>Node {}</h1><dl class=\"rows\">",
        node.id
    );
    fact(&mut body, "Rack", &rack.id);
    let limit = site.power.nodes()[node.power_node].limit;
    fact(
        &mut body,
        "Power against its limit",
        &against(snapshot.node_power(site, index), limit),
    );
    let gpus = Figure::sum(
        site.devices[node.devices.clone()]
            .iter()
            .map(|d| snapshot.figure(&d.id, Catalogue::gpu_power())),
    );
    figure_fact(&mut body, "Of which GPUs", gpus, format::watts);
    readings(&mut body, &snapshot, &name, &[Catalogue::node_power()]);
    body.push_str("</dl></section><section class=\"panel\">");
    figure(&mut body, &shared, &format!("node-{id}"), "now-6h", "now").await;
    body.push_str("</section><section class=\"panel\" data-self=\"gpus\"><h2>GPUs</h2>");
    gpu_table(&mut body, &shared, &snapshot, &[node]);
    body.push_str("</section>");
    finish(&shared, &format!("Node {id}"), &body)
}

pub(super) async fn device(State(shared): State<Arc<Shared>>, Path(id): Path<String>) -> Response {
    let site = &shared.app.site;
    let id = DeviceId::from(id);
    let Some((_, device)) = site.device(&id) else {
        return missing(&shared, "There is no GPU of this name.");
    };
    let snapshot = shared.now();
    let node = &site.nodes[device.node];
    let rack = &site.racks[node.rack];
    let mut body = String::new();
    crumbs(
        &mut body,
        &[
            (format!("/racks/{}", url_part(&rack.id)), rack.id.as_str()),
            (
                format!("/nodes/{}", url_part(node.id.as_str())),
                node.id.as_str(),
            ),
        ],
    );
    html!(
        body,
        "<section class=\"panel\"><h1>GPU {}</h1><div data-now=\"/fragments/devices/{}\">",
        device.id,
        url_part(id.as_str())
    );
    device_facts(&mut body, &shared, &snapshot, device);
    body.push_str("</div></section><div class=\"pair\">");
    for what in ["power", "temperature", "utilization", "clock"] {
        body.push_str("<section class=\"panel\">");
        figure(
            &mut body,
            &shared,
            &format!("gpu-{id}-{what}"),
            "now-6h",
            "now",
        )
        .await;
        body.push_str("</section>");
    }
    body.push_str("</div>");
    finish(&shared, &format!("GPU {id}"), &body)
}

/// What the page says of a GPU now; live pages ask for it with every snapshot.
fn device_facts(out: &mut String, shared: &Shared, snapshot: &Snapshot, device: &Device) {
    let id = &device.id;
    out.push_str("<dl class=\"rows\">");
    fact(out, "Product", &device.accelerator);
    fact(
        out,
        "Limit may be set",
        &format!(
            "from {} to {}; at most {} when control is lost",
            format::watts(device.min_cap.0),
            format::watts(device.max_cap.0),
            format::watts(device.safe_cap.0)
        ),
    );
    let power = snapshot.figure(id, Catalogue::gpu_power());
    figure_fact(out, "Power", power, format::watts);
    let limit = snapshot.figure(id, Catalogue::gpu_power_limit());
    figure_fact(out, "Limit in force", limit, format::watts);
    if let Some(cap) = snapshot.view.caps.get(id) {
        let acknowledged = match cap.acknowledged {
            Some(w) => format!("acknowledged by the agent at {}", format::watts(w.0)),
            None => "not acknowledged by the agent".to_owned(),
        };
        let kept = match cap.by_node_limit {
            true => "; kept by the node's limit as a whole, of which this share is an estimate",
            false => "",
        };
        fact(
            out,
            "Cap decided",
            &format!("{}, {acknowledged}{kept}", format::watts(cap.decided.0)),
        );
    }
    readings(
        out,
        snapshot,
        id,
        &[Catalogue::gpu_power(), Catalogue::gpu_power_limit()],
    );
    out.push_str("<div><dt>Job</dt><dd>");
    holder(out, snapshot, id);
    out.push_str("</dd></div></dl>");
    let cap = match snapshot.holder.get(id) {
        Some(job) => decisions::latest_cap(shared, job),
        None => decisions::latest_idle_cap(shared),
    };
    if let Some((decision, cap)) = cap {
        html!(
            out,
            "<p class=\"reason\"><b>Why this cap:</b> {} <a href=\"/decisions/{}\">decision {}</a></p>",
            cap.reason,
            decision,
            decision
        );
    }
}

/// The same by itself.
pub(super) async fn device_fragment(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
) -> Response {
    let Some((_, device)) = shared.app.site.device(&DeviceId::from(id)) else {
        return missing(&shared, "There is no GPU of this name.");
    };
    let mut out = String::new();
    device_facts(&mut out, &shared, &shared.now(), device);
    Html(out).into_response()
}

/// All other readings of the latest frame, and when it was taken.
fn readings(
    out: &mut String,
    snapshot: &Snapshot,
    id: &DeviceId,
    shown: &[heliostat_models::MetricId],
) {
    let Some(frame) = snapshot.latest.get(id) else {
        fact(out, "Latest reading", text::NO_READING);
        return;
    };
    let mut readings = frame.readings.clone();
    readings.sort_by_key(|(metric, _)| *metric);
    for (metric, reading) in readings {
        if !shown.contains(&metric) {
            let about = Catalogue::builtin().metric(metric);
            figure_fact(out, &about.label, Some(reading).into(), |v| {
                format::in_unit(v, &about.unit)
            });
        }
    }
    let age = snapshot.at.seconds_since(frame.at);
    let stale = if frame.at + snapshot.stale_after < snapshot.at {
        ": too old to speak of now"
    } else {
        ""
    };
    fact(
        out,
        "Latest reading",
        &format!(
            "{}, {} ago{stale}",
            format::full(frame.at),
            format::span(age)
        ),
    );
}

fn finish(shared: &Shared, title: &str, body: &str) -> Response {
    let meta = Page {
        title,
        here: "",
        is_live: true,
    };
    page_of(shared, &meta, body).into_response()
}
