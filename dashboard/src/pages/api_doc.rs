//! The API as a page for people, made from the same table as the routes.

use super::layout::Page;
use super::page_of;
use crate::api::endpoints;
use crate::html::html;
use crate::server::Shared;
use crate::text;
use axum::extract::State;
use axum::response::Html;
use std::sync::Arc;

pub(super) async fn page(State(shared): State<Arc<Shared>>) -> Html<String> {
    let mut body = String::new();
    html!(body, "<section class=\"panel\"><h1>{}</h1>", text::API);
    body.push_str(
        "<p>Answers are JSON. The same as an OpenAPI document: <a href=\"/api/v1/openapi.json\">/api/v1/openapi.json</a>. \
         Faults are answered as <code>{\"error\", \"field\", \"allowed\", \"remedy\"}</code>. \
         Writes need <code>Authorization: Bearer TOKEN</code>.</p></section>",
    );
    for endpoint in endpoints() {
        html!(
            body,
            "<section class=\"panel\"><h2><code>{} {}</code></h2><p>{}</p>",
            endpoint.method.word(),
            endpoint.path,
            endpoint.about
        );
        if !endpoint.params.is_empty() {
            body.push_str(
                "<table class=\"list\"><thead><tr><th>Parameter</th><th>Needed</th><th>Means</th></tr></thead><tbody>",
            );
            for param in endpoint.params {
                html!(
                    body,
                    "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
                    param.name,
                    if param.required { "yes" } else { "no" },
                    param.about
                );
            }
            body.push_str("</tbody></table>");
        }
        if let Some(example) = endpoint.body {
            html!(body, "<p>Body, for example:</p><pre>{}</pre>", example);
        }
        if !endpoint.example.is_empty() {
            html!(
                body,
                "<p>Try <a href=\"{}\">{}</a></p>",
                endpoint.example,
                endpoint.example
            );
        }
        body.push_str("</section>");
    }
    let meta = Page {
        title: text::API,
        here: "/api",
        is_live: false,
    };
    page_of(&shared, &meta, &body)
}
