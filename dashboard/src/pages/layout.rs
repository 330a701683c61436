//! The frame of every page: head, navigation, banner, foot.

use crate::format;
use crate::html::html;
use crate::live;
use crate::server::Shared;
use crate::text;

/// What the frame needs to know of a page.
pub(super) struct Page<'a> {
    pub(super) title: &'a str,
    /// Its entry in the navigation.
    pub(super) here: &'a str,
    /// Whether values change in place.
    pub(super) is_live: bool,
}

const NAVIGATION: [(&str, &str); 5] = [
    ("/", text::OVERVIEW),
    ("/jobs", text::JOBS),
    ("/decisions", text::DECISIONS),
    ("/charts", text::CHARTS),
    ("/api", text::API),
];

/// The mark: a mirror that turns sunlight to a point.
const MARK: &str = "<svg class=\"mark\" viewBox=\"0 0 24 24\" width=\"24\" height=\"24\" aria-hidden=\"true\">\
    <circle cx=\"6\" cy=\"6\" r=\"3.2\"/><path d=\"M8.6 8.6 14 14M14 14 21.5 7\" class=\"ray\"/>\
    <path d=\"M9.5 17.5 18 10.5\" class=\"mirror\"/><path d=\"M14 14.5V21M10.5 21h7\" class=\"ray\"/></svg>";

pub(super) fn page(shared: &Shared, meta: &Page<'_>, body: &str) -> String {
    let snapshot = shared.now();
    let site = &shared.app.site;
    let mut out = String::with_capacity(body.len() + 8_192);
    out.push_str("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    out.push_str("<meta name=\"color-scheme\" content=\"light dark\">");
    html!(
        out,
        "<title>{} · {} · Heliostat</title>",
        meta.title,
        site.name
    );
    out.push_str(
        "<link rel=\"icon\" href=\"/assets/icon.svg\" type=\"image/svg+xml\">\
         <link rel=\"stylesheet\" href=\"/assets/style.css\"><script src=\"/assets/app.js\"></script>\
         <noscript><meta http-equiv=\"refresh\" content=\"15\"></noscript></head>",
    );
    html!(
        out,
        "<body data-live-page=\"{}\"><a class=\"skip\" href=\"#main\">{}</a><header class=\"top\">",
        if meta.is_live { "yes" } else { "no" },
        text::SKIP
    );
    html!(out, "<a class=\"brand\" href=\"/\">");
    out.push_str(MARK);
    html!(
        out,
        "<span><b>Heliostat</b> <span class=\"site\">{}</span></span></a><nav aria-label=\"Main\">",
        site.name
    );
    for (href, label) in NAVIGATION {
        if href == meta.here {
            html!(
                out,
                "<a href=\"{}\" aria-current=\"page\">{}</a>",
                href,
                label
            );
        } else {
            html!(out, "<a href=\"{}\">{}</a>", href, label);
        }
    }
    html!(
        out,
        "</nav><p class=\"clock\"><span class=\"dot\" id=\"live-dot\"></span>\
         <time data-at=\"\">{}</time> <span id=\"live-note\" role=\"status\"></span></p>",
        format::full(snapshot.at)
    );
    out.push_str(
        "<button type=\"button\" id=\"theme\" class=\"needs-script\" aria-label=\"Switch between light and dark\">\
         <svg viewBox=\"0 0 24 24\" width=\"18\" height=\"18\" aria-hidden=\"true\"><circle cx=\"12\" cy=\"12\" r=\"8.5\" \
         class=\"ring\"/><path d=\"M12 3.5a8.5 8.5 0 0 1 0 17z\"/></svg></button></header>",
    );
    if let Some(note) = &shared.app.title_note {
        html!(out, "<p class=\"banner\" role=\"note\">{}</p>", note);
    }
    // Always there, so that it can appear and go in place.
    html!(
        out,
        "<p class=\"banner trouble {}\" role=\"status\" data-live=\"trouble\" data-state=\"trouble\">{}</p>",
        live::trouble_state(&snapshot),
        live::trouble(&snapshot)
    );
    out.push_str("<main id=\"main\" tabindex=\"-1\">");
    out.push_str(body);
    out.push_str("</main><footer><dl class=\"health\">");
    for counter in &snapshot.health.counters {
        html!(
            out,
            "<div><dt>{}</dt><dd>{}</dd></div>",
            counter.help,
            format::number(
                counter.value,
                if counter.value.fract() == 0.0 { 0 } else { 2 }
            )
        );
    }
    html!(
        out,
        "</dl><p>Heliostat {} · times are UTC · ≈ marks an estimate, ≥ a sum of which parts are not known, \
         hatching a missing reading · press <kbd>?</kbd> for the keys</p></footer>",
        env!("CARGO_PKG_VERSION")
    );
    out.push_str(
        "<dialog id=\"keys\"><h2>Keys</h2><dl><div><dt><kbd>?</kbd></dt><dd>this list</dd></div>\
         <div><dt><kbd>g</kbd> <kbd>o</kbd></dt><dd>overview</dd></div>\
         <div><dt><kbd>g</kbd> <kbd>j</kbd></dt><dd>jobs</dd></div>\
         <div><dt><kbd>g</kbd> <kbd>d</kbd></dt><dd>decisions</dd></div>\
         <div><dt><kbd>t</kbd></dt><dd>light or dark</dd></div>\
         <div><dt>arrows</dt><dd>move in the heat-map</dd></div></dl>\
         <form method=\"dialog\"><button>Close</button></form></dialog></body></html>",
    );
    out
}
