//! Charts under stable addresses: `/charts/NAME.svg|png|csv?from=&to=`.

mod csv;
mod data;
mod draw;
mod ink;
mod jobs;
mod png;
mod series;
mod time_axis;

use crate::guard::CHART_POLICY;
use crate::params::{ApiError, Params};
use crate::server::Shared;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use data::Chart;
use heliostat_models::Timestamp;
use plotters::style::FontStyle;
use std::sync::Arc;

const FONT: &[u8] = include_bytes!("../../assets/HeliostatSans.ttf");

/// A chart's size in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Size {
    pub(crate) const DEFAULT: Self = Self {
        width: 760,
        height: 230,
    };
}

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/charts/{file}", get(chart))
}

/// Hands the bundled font to the drawing library, for text in PNG and for the
/// widths of labels in both forms. Idempotent.
pub(crate) fn register_font() -> Result<(), ()> {
    plotters::style::register_font("sans-serif", FontStyle::Normal, FONT).map_err(|_| ())
}

/// The names there are and what they show; `ID` stands for a name of the site.
pub(crate) fn names() -> &'static [(&'static str, &'static str)] {
    &[
        (
            "site-power",
            "Power of the site, its IT and its GPUs, with the limit",
        ),
        ("pue", "Ratio of the site's power to that of the IT"),
        (
            "carbon",
            "Carbon intensity of the grid zone, recorded and forecast",
        ),
        (
            "renewable",
            "Renewable share of the grid zone, recorded and forecast",
        ),
        (
            "price",
            "Day-ahead price of the grid zone, recorded and forecast",
        ),
        ("cooling", "Outdoor temperature, coolant supply and return"),
        ("plan", "Power that may be drawn and that the plan expects"),
        (
            "jobs",
            "Jobs on a time axis with the carbon intensity behind them",
        ),
        ("rack-ID", "Power of a rack and of its GPUs, with the limit"),
        ("node-ID", "Power of a node and of its GPUs, with the limit"),
        ("gpu-ID-power", "Power of a GPU, with the limit in force"),
        ("gpu-ID-temperature", "Temperature of a GPU"),
        (
            "gpu-ID-utilization",
            "Utilisation of a GPU and of its memory",
        ),
        ("gpu-ID-clock", "Clocks of a GPU"),
    ]
}

/// What is drawn.
enum Picture {
    Lines(Chart),
    Jobs(crate::timeline::Timeline),
}

async fn picture(
    shared: &Shared,
    name: &str,
    from: Timestamp,
    to: Timestamp,
    size: Size,
) -> Result<Picture, ApiError> {
    if name == "jobs" {
        let snapshot = shared.now();
        let timeline = crate::timeline::timeline(shared, &snapshot, from, to).await;
        return Ok(Picture::Jobs(timeline));
    }
    data::chart(shared, name, from, to, size)
        .await
        .map(Picture::Lines)
}

/// A chart as SVG to be put into a page, which brings the style sheet.
pub(crate) async fn inline_svg(
    shared: &Shared,
    name: &str,
    from: &str,
    to: &str,
    size: Size,
) -> Result<String, ApiError> {
    let given = vec![
        ("from".to_owned(), from.to_owned()),
        ("to".to_owned(), to.to_owned()),
    ];
    let params = Params::new(given, PARAMS)?;
    let (from, to) = params.span(shared.now().at, "now-6h", "now")?;
    match picture(shared, name, from, to, size).await? {
        Picture::Lines(chart) => draw::svg(&chart, size, false),
        Picture::Jobs(timeline) => jobs::svg(&timeline, size, false),
    }
}

const PARAMS: &[&str] = &["from", "to", "w", "h", "inline"];

async fn chart(
    State(shared): State<Arc<Shared>>,
    Path(file): Path<String>,
    Query(given): Query<Vec<(String, String)>>,
) -> Response {
    match answer(&shared, &file, given).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn answer(
    shared: &Shared,
    file: &str,
    given: Vec<(String, String)>,
) -> Result<Response, ApiError> {
    let params = Params::new(given, PARAMS)?;
    let Some((name, form)) = file.rsplit_once('.') else {
        return Err(ApiError::bad(
            "name",
            format!("`{file}` has no form"),
            "NAME.svg, NAME.png or NAME.csv; /charts lists the names",
        ));
    };
    let (default_from, default_to) = match name {
        "jobs" => ("now-24h", "now+48h"),
        "plan" => ("now", "now+48h"),
        "carbon" | "renewable" | "price" => ("now-24h", "now+24h"),
        _ => ("now-6h", "now"),
    };
    let (from, to) = params.span(shared.now().at, default_from, default_to)?;
    let size = Size {
        width: params.count("w", Size::DEFAULT.width as usize, 240..=2_400)? as u32,
        height: params.count("h", Size::DEFAULT.height as usize, 120..=1_600)? as u32,
    };
    if !["svg", "png", "csv"].contains(&form) {
        return Err(ApiError::bad(
            "name",
            format!("`.{form}` is no form of a chart"),
            "NAME.svg, NAME.png or NAME.csv",
        ));
    }
    let picture = picture(shared, name, from, to, size).await?;
    let is_inline = params.get("inline").is_some();
    let form = form.to_owned();
    // Drawing takes milliseconds of computing: not on the threads that serve.
    let drawn = tokio::task::spawn_blocking(move || render(&picture, &form, size, is_inline)).await;
    drawn.unwrap_or_else(|_| {
        Err(ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the chart could not be drawn",
            "tell the maintainers its address",
        ))
    })
}

fn render(
    picture: &Picture,
    form: &str,
    size: Size,
    is_inline: bool,
) -> Result<Response, ApiError> {
    Ok(match form {
        "svg" => {
            let text = match picture {
                Picture::Lines(chart) => draw::svg(chart, size, !is_inline)?,
                Picture::Jobs(timeline) => jobs::svg(timeline, size, !is_inline)?,
            };
            (
                [
                    (header::CONTENT_TYPE, "image/svg+xml"),
                    (header::CONTENT_SECURITY_POLICY, CHART_POLICY),
                ],
                text,
            )
                .into_response()
        }
        "png" => {
            let bytes = match picture {
                Picture::Lines(chart) => draw::png(chart, size)?,
                Picture::Jobs(timeline) => jobs::png(timeline, size)?,
            };
            ([(header::CONTENT_TYPE, "image/png")], bytes).into_response()
        }
        _ => {
            let text = match picture {
                Picture::Lines(chart) => csv::lines(chart),
                Picture::Jobs(timeline) => csv::jobs(timeline),
            };
            ([(header::CONTENT_TYPE, "text/csv; charset=utf-8")], text).into_response()
        }
    })
}
