//! Lines over time, drawn by plotters as SVG or PNG.

use super::Size;
use super::data::{Chart, Line};
use super::ink::{Ink, Palette, themable};
use super::png;
use super::series::stretches;
use super::time_axis::TimeAxis;
use crate::format;
use crate::params::ApiError;
use axum::http::StatusCode;
use heliostat_models::Quality;
use heliostat_store::query::Point;
use plotters::coord::Shift;
use plotters::prelude::*;

const LABEL: i32 = 12;
const TITLE: i32 = 14;
const LEFT: i32 = 10;
const RIGHT: i32 = 22;

pub(super) fn svg(chart: &Chart, size: Size, is_alone: bool) -> Result<String, ApiError> {
    let mut text = String::new();
    {
        let backend = SVGBackend::with_string(&mut text, (size.width, size.height));
        let root = backend.into_drawing_area();
        paint(&root, chart, size, Palette::Markers)
            .and_then(|()| root.present().map_err(|e| e.to_string()))
            .map_err(fault)?;
    }
    Ok(themable(
        &text,
        &chart.title,
        &chart.description(),
        is_alone,
    ))
}

pub(super) fn png(chart: &Chart, size: Size) -> Result<Vec<u8>, ApiError> {
    let mut pixels = vec![0_u8; size.width as usize * size.height as usize * 3];
    {
        let backend = BitMapBackend::with_buffer(&mut pixels, (size.width, size.height));
        let root = backend.into_drawing_area();
        paint(&root, chart, size, Palette::Paper)
            .and_then(|()| root.present().map_err(|e| e.to_string()))
            .map_err(fault)?;
    }
    png::encode(&pixels, size).map_err(|e| fault(e.to_string()))
}

/// Drawing failed: a fault of the program, not of the request.
pub(super) fn fault(error: String) -> ApiError {
    tracing::error!(error, "a chart could not be drawn");
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the chart could not be drawn",
        "tell the maintainers its address",
    )
}

/// The axis unit and by how much values are divided for it.
fn scale(unit: &str, largest: f64) -> (String, f64) {
    match unit {
        "W" if largest >= 1e6 => ("MW".into(), 1e6),
        "W" if largest >= 2e3 => ("kW".into(), 1e3),
        "Hz" => ("MHz".into(), 1e6),
        "1" => ("%".into(), 0.01),
        "B" => ("GiB".into(), f64::from(1_u32 << 30)),
        other => (format::unit_label(other).to_owned(), 1.0),
    }
}

/// Lowest and highest value on the axis, in the catalogue's unit.
fn bounds(chart: &Chart) -> (f64, f64) {
    let values = || {
        chart
            .lines
            .iter()
            .flat_map(|l| &l.points)
            .filter_map(|p| p.value)
    };
    let low = values().reduce(f64::min).unwrap_or(0.0);
    let high = values().reduce(f64::max).unwrap_or(1.0);
    let low = if chart.from_zero { low.min(0.0) } else { low };
    let pad = match (high - low) * 0.06 {
        p if p > 0.0 => p,
        _ => (high.abs() * 0.05).max(1e-3),
    };
    let bottom = if chart.from_zero && low >= 0.0 {
        0.0
    } else {
        low - pad
    };
    (bottom, high + pad)
}

fn paint<DB: DrawingBackend>(
    root: &DrawingArea<DB, Shift>,
    chart: &Chart,
    size: Size,
    palette: Palette,
) -> Result<(), String> {
    let text = |e: DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
    if palette == Palette::Paper {
        root.fill(&palette.get(Ink::Ground)).map_err(text)?;
    }
    let (low, high) = bounds(chart);
    let (unit, divisor) = scale(&chart.unit, high.abs().max(low.abs()));
    let (low, high) = (low / divisor, high / divisor);
    let decimals = match high - low {
        w if w >= 8.0 => 0,
        w if w >= 0.8 => 1,
        w if w >= 0.08 => 2,
        _ => 3,
    };
    let top = heading(root, chart, &unit, size, palette)?;
    let widest = [low, high]
        .map(|v| format::number(v, decimals).chars().count())
        .into_iter()
        .max()
        .unwrap_or(1);
    let axis = TimeAxis {
        from: chart.from.0,
        to: chart.to.0,
    };
    let mut context = ChartBuilder::on(root)
        .margin_top(top)
        .margin_left(LEFT)
        .margin_right(RIGHT)
        .margin_bottom(6)
        .x_label_area_size(24)
        .y_label_area_size(widest as i32 * 8 + 10)
        .build_cartesian_2d(axis, low..high)
        .map_err(text)?;
    let ink = |ink| palette.get(ink);
    context
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(ink(Ink::Grid))
        .axis_style(ink(Ink::Grid))
        .label_style(("sans-serif", LABEL).into_font().color(&ink(Ink::Axis)))
        .x_labels((size.width / 85).max(2) as usize)
        .y_labels((size.height / 42).max(2) as usize)
        .y_label_formatter(&|v| format::number(*v, decimals))
        .draw()
        .map_err(text)?;
    if chart.now > chart.from && chart.now < chart.to {
        let x = chart.now.0;
        let line = PathElement::new(vec![(x, low), (x, high)], ink(Ink::Now).stroke_width(1));
        context.draw_series(std::iter::once(line)).map_err(text)?;
    }
    for line in &chart.lines {
        // A limit is drawn beneath nothing: thin, but always in sight.
        let width = if line.ink == Ink::First { 2 } else { 1 };
        let style = ink(line.ink).stroke_width(width);
        for run in runs(line) {
            let points: Vec<(i64, f64)> = run
                .points
                .iter()
                .map(|(at, v)| (*at, v / divisor))
                .collect();
            if let [only] = points.as_slice() {
                let dot = Circle::new(*only, 2, ink(line.ink).filled());
                context.draw_series(std::iter::once(dot)).map_err(text)?;
            } else if run.is_estimated {
                context
                    .draw_series(DashedLineSeries::new(points, 5, 4, style))
                    .map_err(text)?;
            } else {
                context
                    .draw_series(std::iter::once(PathElement::new(points, style)))
                    .map_err(text)?;
            }
        }
    }
    if chart
        .lines
        .iter()
        .all(|l| l.points.iter().all(|p| p.value.is_none()))
    {
        let style = ("sans-serif", TITLE).into_font().color(&ink(Ink::Axis));
        let at = (size.width as i32 / 2 - 40, size.height as i32 / 2);
        root.draw_text("no readings", &style, at).map_err(text)?;
    }
    Ok(())
}

/// Title, unit and legend; wraps where the chart is narrow. Returns its height.
fn heading<DB: DrawingBackend>(
    root: &DrawingArea<DB, Shift>,
    chart: &Chart,
    unit: &str,
    size: Size,
    palette: Palette,
) -> Result<i32, String> {
    let text = |e: DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
    let axis = palette.get(Ink::Axis);
    let title_style = ("sans-serif", TITLE).into_font().color(&axis);
    let label_style = ("sans-serif", LABEL).into_font().color(&axis);
    let title = format!("{}, {unit}", chart.title);
    let width_of = |words: &str, style: &TextStyle<'_>| {
        root.estimate_text_size(words, style)
            .map_or(words.len() as i32 * 8, |(w, _)| w as i32)
    };
    root.draw_text(&title, &title_style, (LEFT, 8))
        .map_err(text)?;
    let entries: Vec<(&Line, String, i32)> = chart
        .lines
        .iter()
        .map(|l| {
            let label = match l.points.iter().any(|p| p.value.is_some()) {
                true => l.label.clone(),
                false => format!("{}: no readings", l.label),
            };
            let width = 24 + width_of(&label, &label_style) + 14;
            (l, label, width)
        })
        .collect();
    let all: i32 = entries.iter().map(|e| e.2).sum();
    let right = size.width as i32 - RIGHT;
    // Beside the title where it fits, else below it.
    let fits = LEFT + width_of(&title, &title_style) + 24 + all <= right;
    let (mut x, mut y) = if fits { (right - all, 9) } else { (LEFT, 28) };
    for (line, label, width) in entries {
        if x + width > right + 14 && x > LEFT {
            x = LEFT;
            y += 18;
        }
        let stroke = palette
            .get(line.ink)
            .stroke_width(if line.ink == Ink::First { 2 } else { 1 });
        let mut known = line.points.iter().filter(|p| p.value.is_some()).peekable();
        let is_estimate = known.peek().is_some() && known.all(|p| p.quality != Quality::Measured);
        let ends: Vec<(i32, i32)> = if is_estimate {
            vec![(x, x + 5), (x + 8, x + 13), (x + 16, x + 19)]
        } else {
            vec![(x, x + 19)]
        };
        for (from, to) in ends {
            let swatch = PathElement::new(vec![(from, y + 6), (to, y + 6)], stroke);
            root.draw(&swatch).map_err(text)?;
        }
        root.draw_text(&label, &label_style, (x + 24, y))
            .map_err(text)?;
        x += width;
    }
    Ok(y + 24)
}

/// A stretch of a line with one quality.
struct Run {
    points: Vec<(i64, f64)>,
    is_estimated: bool,
}

/// Cuts a line at holes and where its quality changes; the piece between a
/// measured and an estimated point counts as estimated.
fn runs(line: &Line) -> Vec<Run> {
    let mut out = Vec::new();
    let pieces: Vec<Vec<Point>> = if line.is_configured {
        // Two points may stand far apart: only the marked holes cut it.
        line.points
            .split(|p| p.value.is_none())
            .map(<[Point]>::to_vec)
            .collect()
    } else {
        stretches(&line.points)
    };
    for piece in pieces {
        let value = |p: &Point| p.value.unwrap_or(f64::NAN);
        let is_rough = |p: &Point| p.quality != Quality::Measured;
        let [first, rest @ ..] = piece.as_slice() else {
            continue;
        };
        let mut run = Run {
            points: vec![(first.at.0, value(first))],
            is_estimated: is_rough(first),
        };
        let mut before = first;
        for point in rest {
            let is_estimated = is_rough(before) || is_rough(point);
            if is_estimated != run.is_estimated && run.points.len() > 1 {
                let next = Run {
                    points: vec![(before.at.0, value(before))],
                    is_estimated,
                };
                out.push(std::mem::replace(&mut run, next));
            }
            run.is_estimated = is_estimated;
            if line.is_step {
                run.points.push((point.at.0, value(before)));
            }
            run.points.push((point.at.0, value(point)));
            before = point;
        }
        out.push(run);
    }
    out
}
