//! Charts as tables: RFC 4180, times in RFC 3339, values in the catalogue's unit.
//! What the site file sets today has the quality `configured`: nobody measured it.

use super::data::Chart;
use crate::timeline::Timeline;
use heliostat_models::Quality;
use std::fmt::Write as _;

/// A field, quoted where it must be. A leading `=`, `+`, `-` or `@` would be
/// run as a formula by spreadsheets; a quote mark before it prevents that.
fn field(text: &str) -> String {
    let safe = if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    };
    if safe.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", safe.replace('"', "\"\""))
    } else {
        safe
    }
}

fn quality_word(quality: Quality) -> &'static str {
    match quality {
        Quality::Measured => "measured",
        Quality::Estimated => "estimated",
        Quality::Missing => "missing",
    }
}

pub(super) fn lines(chart: &Chart) -> String {
    let mut out = String::from("time,series,value,unit,quality\r\n");
    for line in &chart.lines {
        for point in &line.points {
            let quality = match (line.is_configured, point.value) {
                // Between two stretches: a mark for the pen, no reading that is missing.
                (true, None) => continue,
                (true, Some(_)) => "configured",
                (false, _) => quality_word(point.quality),
            };
            let value = point.value.map_or(String::new(), |v| v.to_string());
            let _ = write!(
                out,
                "{},{},{},{},{}\r\n",
                point.at,
                field(&line.label),
                value,
                field(&chart.unit),
                quality
            );
        }
    }
    out
}

pub(super) fn jobs(timeline: &Timeline) -> String {
    let mut out = String::from("job,class,gpus,state,from,to,power_level\r\n");
    for row in &timeline.rows {
        for bar in &row.bars {
            let _ = write!(
                out,
                "{},{},{},{},{},{},{}\r\n",
                field(row.job.as_str()),
                row.class,
                row.gang,
                bar.kind.word(),
                bar.from,
                bar.to,
                bar.level
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_quoted_and_no_formula_gets_through() {
        assert_eq!(field("plain"), "plain");
        assert_eq!(field("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(field("=HYPERLINK(1)"), "'=HYPERLINK(1)");
    }
}
