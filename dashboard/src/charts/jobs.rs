//! The jobs' timeline as a drawing: bars over the carbon band.

use super::Size;
use super::draw::fault;
use super::ink::{Ink, Palette, themable};
use super::png as encoder;
use super::time_axis::TimeAxis;
use crate::format;
use crate::params::ApiError;
use crate::timeline::{Bar, BarKind, Timeline};
use plotters::coord::Shift;
use plotters::prelude::*;

const ROW: u32 = 18;
const TOP: u32 = 34;
const BOTTOM: u32 = 30;

/// As wide as asked, as high as the jobs need.
fn fit(timeline: &Timeline, size: Size) -> Size {
    Size {
        width: size.width,
        height: TOP + BOTTOM + ROW * timeline.rows.len().max(3) as u32,
    }
}

fn title(timeline: &Timeline) -> String {
    let carbon = timeline
        .carbon_range()
        .map_or(String::new(), |(low, high)| {
            format!(
                "; behind them carbon {} to {} gCO₂e/kWh",
                format::number(low, 0),
                format::number(high, 0)
            )
        });
    format!("Jobs{carbon}")
}

fn description(timeline: &Timeline) -> String {
    let mut words = String::new();
    for row in &timeline.rows {
        words.push_str(row.job.as_str());
        for bar in &row.bars {
            words.push_str(", ");
            words.push_str(&bar.words());
        }
        words.push_str(". ");
    }
    words
}

pub(super) fn svg(timeline: &Timeline, size: Size, is_alone: bool) -> Result<String, ApiError> {
    let size = fit(timeline, size);
    let mut text = String::new();
    {
        let root =
            SVGBackend::with_string(&mut text, (size.width, size.height)).into_drawing_area();
        paint(&root, timeline, size, Palette::Markers)
            .and_then(|()| root.present().map_err(|e| e.to_string()))
            .map_err(fault)?;
    }
    Ok(themable(
        &text,
        &title(timeline),
        &description(timeline),
        is_alone,
    ))
}

pub(super) fn png(timeline: &Timeline, size: Size) -> Result<Vec<u8>, ApiError> {
    let size = fit(timeline, size);
    let mut pixels = vec![0_u8; size.width as usize * size.height as usize * 3];
    {
        let root =
            BitMapBackend::with_buffer(&mut pixels, (size.width, size.height)).into_drawing_area();
        paint(&root, timeline, size, Palette::Paper)
            .and_then(|()| root.present().map_err(|e| e.to_string()))
            .map_err(fault)?;
    }
    encoder::encode(&pixels, size).map_err(|e| fault(e.to_string()))
}

fn paint<DB: DrawingBackend>(
    root: &DrawingArea<DB, Shift>,
    timeline: &Timeline,
    size: Size,
    palette: Palette,
) -> Result<(), String> {
    let text = |e: DrawingAreaErrorKind<DB::ErrorType>| e.to_string();
    let ink = |ink| palette.get(ink);
    if palette == Palette::Paper {
        root.fill(&ink(Ink::Ground)).map_err(text)?;
    }
    let label = ("sans-serif", 11).into_font().color(&ink(Ink::Axis));
    let heading = ("sans-serif", 14).into_font().color(&ink(Ink::Axis));
    root.draw_text(&title(timeline), &heading, (10, 8))
        .map_err(text)?;

    let widest = timeline
        .rows
        .iter()
        .map(|r| {
            root.estimate_text_size(r.job.as_str(), &label)
                .map_or(0, |s| s.0)
        })
        .max()
        .unwrap_or(0);
    let left = (widest + 20).min(size.width / 3) as i32;
    let right = size.width as i32 - 20;
    let x = |share: f64| left + (share * f64::from(right - left)).round() as i32;
    let bottom = (size.height - BOTTOM) as i32;
    let rect = |from: (i32, i32), to: (i32, i32), style: ShapeStyle| {
        root.draw(&Rectangle::new([from, to], style)).map_err(text)
    };

    // Where it is narrow there is room for the title only.
    if size.width >= 640 {
        let mut at = size.width as i32 - 300;
        for kind in [
            BarKind::Ran,
            BarKind::Planned,
            BarKind::Paused,
            BarKind::Queued,
        ] {
            let bar = Bar {
                from: timeline.from,
                to: timeline.to,
                kind,
                level: 1.0,
            };
            draw_bar(&bar, (at, at + 18), 5, &ink, &rect)?;
            root.draw_text(kind.word(), &label, (at + 23, 10))
                .map_err(text)?;
            at += 72;
        }
    }
    if let Some((low, high)) = timeline.carbon_range() {
        for band in &timeline.carbon {
            let shade = ((band.value - low) / (high - low).max(1e-9) * 6.0).round() as u8;
            let (from, to) = (x(timeline.place(band.from)), x(timeline.place(band.to)));
            rect(
                (from, TOP as i32),
                (to, bottom),
                ink(Ink::Shade(shade)).filled(),
            )?;
        }
    }
    let axis = TimeAxis {
        from: timeline.from.0,
        to: timeline.to.0,
    };
    let place = |at: i64| x(timeline.place(heliostat_models::Timestamp(at)));
    for tick in axis.ticks((size.width / 90).max(2) as usize) {
        let words = super::time_axis::label(tick);
        let half = root.estimate_text_size(&words, &label).map_or(16, |s| s.0) as i32 / 2;
        let at = place(tick);
        root.draw(&PathElement::new(
            vec![(at, bottom), (at, bottom + 4)],
            ink(Ink::Axis),
        ))
        .map_err(text)?;
        let begin = (at - half).min(size.width as i32 - 2 * half - 4);
        root.draw_text(&words, &label, (begin, bottom + 8))
            .map_err(text)?;
    }
    for (index, row) in timeline.rows.iter().enumerate() {
        let y = (TOP + ROW * index as u32) as i32;
        root.draw_text(row.job.as_str(), &label, (10, y + 4))
            .map_err(text)?;
        for bar in &row.bars {
            let (from, to) = (x(timeline.place(bar.from)), x(timeline.place(bar.to)));
            draw_bar(bar, (from, to.max(from + 1)), y, &ink, &rect)?;
        }
    }
    if timeline.now > timeline.from && timeline.now < timeline.to {
        let at = x(timeline.place(timeline.now));
        root.draw(&PathElement::new(
            vec![(at, TOP as i32), (at, bottom)],
            ink(Ink::Now).stroke_width(2),
        ))
        .map_err(text)?;
    }
    if timeline.rows.is_empty() {
        root.draw_text("no jobs", &heading, (left + 20, TOP as i32 + 18))
            .map_err(text)?;
    }
    Ok(())
}

fn draw_bar(
    bar: &Bar,
    (from, to): (i32, i32),
    y: i32,
    ink: &impl Fn(Ink) -> RGBColor,
    rect: &impl Fn((i32, i32), (i32, i32), ShapeStyle) -> Result<(), String>,
) -> Result<(), String> {
    match bar.kind {
        BarKind::Ran => rect((from, y + 3), (to, y + 15), ink(Ink::First).filled()),
        BarKind::Planned => {
            rect((from, y + 3), (to, y + 15), ink(Ink::Ground).filled())?;
            rect((from, y + 3), (to, y + 15), ink(Ink::First).stroke_width(1))
        }
        BarKind::Paused => rect((from, y + 7), (to, y + 11), ink(Ink::Limit).filled()),
        BarKind::Queued => rect((from, y + 8), (to, y + 10), ink(Ink::Third).filled()),
    }
}
