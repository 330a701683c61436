//! Pages: HTML made on the server, complete without JavaScript.

mod api_doc;
mod assets;
mod decisions;
mod entity;
mod gantt;
mod heatmap;
mod jobs;
mod layout;
mod overview;

use crate::charts::{self, Size};
use crate::html::html;
use crate::server::Shared;
use crate::text;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use layout::{Page, page};
use std::sync::Arc;

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(overview::overview))
        .route("/racks/{id}", get(entity::rack))
        .route("/nodes/{id}", get(entity::node))
        .route("/devices/{id}", get(entity::device))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}", get(jobs::one))
        .route("/decisions", get(decisions::list))
        .route("/decisions/{number}", get(decisions::one))
        .route("/charts", get(charts_index))
        .route("/api", get(api_doc::page))
        .route("/fragments/{name}", get(fragment))
        .route("/fragments/devices/{id}", get(entity::device_fragment))
        .route("/assets/{name}", get(assets::asset))
        .route("/favicon.ico", get(assets::favicon))
}

/// 404 as a page.
pub(crate) async fn not_found(State(shared): State<Arc<Shared>>) -> Response {
    missing(&shared, "There is no page at this address.")
}

fn missing(shared: &Shared, why: &str) -> Response {
    let mut body = String::new();
    html!(
        body,
        "<section class=\"panel\"><h1>{}</h1><p>{}</p><p><a href=\"/\">{}</a></p></section>",
        text::NOT_FOUND,
        why,
        text::OVERVIEW
    );
    let page = Page {
        title: text::NOT_FOUND,
        here: "",
        is_live: false,
    };
    (StatusCode::NOT_FOUND, page_of(shared, &page, &body)).into_response()
}

fn page_of(shared: &Shared, meta: &Page<'_>, body: &str) -> Html<String> {
    Html(page(shared, meta, body))
}

/// Parts of the overview that are replaced as a whole when they grow old.
async fn fragment(State(shared): State<Arc<Shared>>, Path(name): Path<String>) -> Response {
    let snapshot = shared.now();
    let mut out = String::new();
    match name.as_str() {
        "jobs" => gantt::write(&mut out, &shared, &snapshot).await,
        "decisions" => decisions::write_digest(&mut out, &snapshot.decisions),
        _ => return missing(&shared, "There is no such part of a page."),
    }
    Html(out).into_response()
}

/// A chart within a page, with the addresses of its other forms.
async fn figure(out: &mut String, shared: &Shared, name: &str, from: &str, to: &str) {
    let query = format!("from={from}&to={to}");
    html!(
        out,
        "<figure class=\"chart-box\"><div data-chart=\"/charts/{}.svg?{}\">",
        name,
        query
    );
    // In an address a plus must be escaped; here it is itself.
    let (from, to) = (from.replace("%2B", "+"), to.replace("%2B", "+"));
    match charts::inline_svg(shared, name, &from, &to, Size::DEFAULT).await {
        Ok(svg) => out.push_str(&svg),
        Err(error) => html!(out, "<p class=\"none\">{}</p>", error.error),
    }
    html!(
        out,
        "</div><figcaption><a href=\"/charts/{}.svg?{}\">SVG</a> <a href=\"/charts/{}.png?{}\">PNG</a> \
         <a href=\"/charts/{}.csv?{}\">CSV</a></figcaption></figure>",
        name,
        query,
        name,
        query,
        name,
        query
    );
}

/// All charts with their addresses.
async fn charts_index(State(shared): State<Arc<Shared>>) -> Html<String> {
    let mut body = String::new();
    html!(body, "<section class=\"panel\"><h1>{}</h1>", text::CHARTS);
    body.push_str(
        "<p>Every chart has a stable address: <code>/charts/NAME.svg</code>, <code>.png</code> or \
         <code>.csv</code>, with <code>?from=now-6h&amp;to=now</code>. Instants are relative \
         (<code>now-6h</code>, <code>now+30m</code>) or RFC 3339. \
         <code>w</code> and <code>h</code> set the size in pixels.</p><table class=\"list\"><thead>\
         <tr><th>Name</th><th>Shows</th><th>Forms</th></tr></thead><tbody>",
    );
    for (name, about) in charts::names() {
        html!(body, "<tr><td><code>{}</code></td><td>{}</td>", name, about);
        if name.contains("ID") {
            body.push_str("<td>from the pages of racks, nodes and GPUs</td></tr>");
        } else {
            html!(
                body,
                "<td><a href=\"/charts/{}.svg\">SVG</a> <a href=\"/charts/{}.png\">PNG</a> \
                 <a href=\"/charts/{}.csv\">CSV</a></td></tr>",
                name,
                name,
                name
            );
        }
    }
    body.push_str("</tbody></table></section>");
    for name in ["pue", "carbon", "renewable", "price", "cooling"] {
        body.push_str("<section class=\"panel\">");
        figure(&mut body, &shared, name, "now-24h", "now").await;
        body.push_str("</section>");
    }
    let meta = Page {
        title: text::CHARTS,
        here: "/charts",
        is_live: false,
    };
    page_of(&shared, &meta, &body)
}
